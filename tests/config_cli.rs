//! The configuration on the command line: what `sozu check` says, and that
//! `sozu start` starts nothing that it would refuse.

mod common;

use common::{sozu, Backend, Setup, TempDir};

/// The exit code of `sozu check` and everything it said.
fn check(dir: &TempDir, text: &str) -> (Option<i32>, String) {
    let file = dir.write("config.toml", text);
    let output = sozu(&["check", "-c", file.to_str().expect("a path")]);
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Refused at that line, with a caret under what is wrong, and with these words.
#[track_caller]
fn refused(text: &str, line: usize, words: &[&str]) {
    let (code, said) = check(&TempDir::new(), text);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("config.toml:{line}:")),
        "line {line} in: {said}"
    );
    let column = said
        .split(&format!("config.toml:{line}:"))
        .nth(1)
        .unwrap_or("");
    assert!(
        column.starts_with(|c: char| c.is_ascii_digit()),
        "a column in: {said}"
    );
    let source = text.lines().nth(line - 1).expect("that line");
    let place = format!("config.toml:{line}:");
    let mut shown = said
        .lines()
        .skip_while(|line| !line.contains(&place))
        .skip(1);
    let (above, caret) = (
        shown.next().unwrap_or("").trim(),
        shown.next().unwrap_or(""),
    );
    assert_eq!(caret.trim(), "^", "a caret in: {said}");
    assert!(
        !above.is_empty() && source.contains(above),
        "the line above the caret in: {said}"
    );
    for word in words {
        assert!(said.contains(word), "{word} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

const GOOD: &str = "command_socket = \"command.sock\"\n\
    [[listeners]]\nprotocol = \"http\"\naddress = \"127.0.0.1:8080\"\n\
    [clusters.web]\nprotocol = \"http\"\n\
    frontends = [{ address = \"127.0.0.1:8080\", hostname = \"example.com\" }]\n\
    backends = [{ address = \"127.0.0.1:1026\" }]\n";

/// The good file with one piece changed.
#[track_caller]
fn but(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    GOOD.replacen(from, to, 1)
}

#[test]
fn a_good_file() {
    let (code, said) = check(&TempDir::new(), GOOD);
    assert_eq!(code, Some(0), "{said}");
}

/// Addresses are not bound and nothing is written: the running proxy stays as it is.
#[test]
fn a_check_beside_the_running_proxy() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let output = sozu(&["check", "-c", proxy.config().to_str().expect("a path")]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(proxy.client().get("/").text(), "ok");
}

#[test]
fn the_file_that_comes_with_the_program() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config.toml");
    let output = sozu(&["check", "-c", file]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn no_file() {
    let dir = TempDir::new();
    let path = dir.path("nowhere.toml");
    let output = sozu(&["check", "-c", path.to_str().expect("a path")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("nowhere.toml"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn no_toml() {
    refused("command_socket = \n", 1, &[]);
    refused("command_socket = \"open\nworker_count = 1\n", 1, &[]);
    refused("[[listeners]\n", 1, &[]);
    refused(&but("protocol = \"http\"", "protocol \"http\""), 3, &[]);
    refused(&but("}]", "}"), 8, &[]);
}

/// A key that does not exist, with the one that was meant.
#[test]
fn mistyped_keys() {
    refused(
        &format!("worker_cuont = 1\n{GOOD}"),
        1,
        &["worker_cuont", "worker_count"],
    );
    refused(&but("address", "adress"), 4, &["adress", "address"]);
    refused(&but("hostname", "hostnames"), 7, &["hostnames", "hostname"]);
    refused(&but("backends", "backend"), 8, &["backend", "backends"]);
}

/// A key that Sōzu knows and that has no effect here is no mistake.
#[test]
fn keys_of_the_original() {
    let (code, said) = check(
        &TempDir::new(),
        &format!("{GOOD}[metrics]\naddress = \"x\"\n"),
    );
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("warning") && said.contains("config.toml:9:"),
        "{said}"
    );
}

#[test]
fn keys_that_stand_twice() {
    refused(
        &but("[[listeners]]", "command_socket = \"x\"\n[[listeners]]"),
        2,
        &["command_socket"],
    );
    refused(&format!("{GOOD}[clusters.web]\n"), 9, &["web"]);
}

#[test]
fn values_of_the_wrong_kind() {
    refused(
        &format!("worker_count = \"two\"\n{GOOD}"),
        1,
        &["worker_count"],
    );
    refused(
        &format!("front_timeout = -1\n{GOOD}"),
        1,
        &["front_timeout"],
    );
    refused(&format!("front_timeout = 0\n{GOOD}"), 1, &["front_timeout"]);
    refused(
        &format!("front_timeout = 1.5\n{GOOD}"),
        1,
        &["front_timeout"],
    );
    refused(&format!("log_level = \"loud\"\n{GOOD}"), 1, &["loud"]);
    refused(
        &but("protocol = \"http\"", "protocol = \"gopher\""),
        3,
        &["gopher"],
    );
    refused(&but("127.0.0.1:8080", "127.0.0.1"), 4, &["127.0.0.1"]);
    refused(&but("127.0.0.1:1026", "127.0.0.1:99999"), 8, &["99999"]);
    refused(
        &but("\"127.0.0.1:1026\"", "\"127.0.0.1:1026\", weight = 257"),
        8,
        &["weight"],
    );
    refused(
        &but("\"example.com\"", "\"exa mple.com\""),
        7,
        &["exa mple.com"],
    );
    refused(
        &but("\"example.com\"", "\"example.com\", path = \"api\""),
        7,
        &["api"],
    );
    refused(
        &but("\"example.com\"", "\"example.com\", path_type = \"regex\""),
        7,
        &["regex"],
    );
}

#[test]
fn what_is_missing() {
    refused(&but("address = \"127.0.0.1:8080\"\n", ""), 2, &["address"]);
    refused(
        &but("protocol = \"http\"\naddress", "address"),
        2,
        &["protocol"],
    );
    let frontend = "address = \"127.0.0.1:8080\", hostname";
    refused(&but(frontend, "hostname"), 7, &["listener"]);
    refused(
        &but("{ address = \"127.0.0.1:1026\" }", "{ weight = 1 }"),
        8,
        &["address"],
    );
}

#[test]
fn what_does_not_fit_together() {
    let frontend = "{ address = \"127.0.0.1:8080\", hostname = \"example.com\" }";
    let (http, tcp) = (
        "protocol = \"http\"\nfrontends",
        "protocol = \"tcp\"\nfrontends",
    );
    refused(&but(http, tcp), 7, &["tcp"]);
    refused(
        &but(frontend, &format!("{frontend}, {frontend}")),
        7,
        &["example.com"],
    );
    let listener = "[[listeners]]\nprotocol = \"http\"\naddress = \"127.0.0.1:8080\"\n";
    refused(&format!("{GOOD}{listener}"), 11, &["127.0.0.1:8080"]);
}

#[test]
fn start_refuses_what_check_refuses() {
    let dir = TempDir::new();
    let socket = dir.path("command.sock");
    let text = but("\"command.sock\"", &format!("{socket:?}\nworker_cuont = 1"));
    let file = dir.write("config.toml", text);
    let output = sozu(&["start", "-c", file.to_str().expect("a path")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("config.toml:2:"), "{said}");
    assert!(!socket.exists(), "it started");
}

#[test]
fn words_that_sozu_does_not_know() {
    for arguments in [
        &["frobnicate"][..],
        &["start", "--frobnicate"],
        &["check", "-c"],
        &["-c"],
    ] {
        let output = sozu(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}: {said}");
        assert!(
            !said.is_empty() && !said.contains("panicked"),
            "{arguments:?}: {said}"
        );
    }
}
