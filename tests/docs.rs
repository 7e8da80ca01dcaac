//! The documents say what the program does: their tables are the program's
//! own, examples load, the transcript is replayed on the real binary.

mod common;

use common::{Backend, Proxy, Setup, DEADLINE};
use sozu_lib::config::foreign::{Fate, FOREIGN};
use sozu_lib::config::keys::{
    Default, Key, ANSWER_STATUSES, BACKEND, CERTIFICATE, CLUSTER, FRONTEND, GLOBAL, LISTENER,
};
use sozu_lib::config::{load, read};
use sozu_lib::http::reply::STATUSES;
use sozu_lib::proto::table::{command_key, COMMANDS};
use sozu_lib::session::record::{End, FIELDS};
use sozu_lib::state::Code;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

const CONFIG: &str = include_str!("../doc/config.md");
const PROTOCOL: &str = include_str!("../doc/protocol.md");
const ACCESS_LOG: &str = include_str!("../doc/access_log.md");
const HTTP: &str = include_str!("../doc/http.md");
const README: &str = include_str!("../README.md");

/// The rows of the tables under a heading, without the heads of the tables.
fn rows(document: &str, heading: &str) -> Vec<String> {
    let lines = document.lines().skip_while(|line| *line != heading).skip(1);
    let section = lines.take_while(|line| !line.starts_with("## "));
    let rows = section.filter(|line| line.starts_with("| `"));
    rows.map(str::to_string).collect()
}

/// What the place of a table implies is no key of the file, nor is what a file says by itself.
fn is_of_file(key: &Key) -> bool {
    !matches!(key.default, Default::Implied(_) | Default::InCommand)
}

/// The files that examples name.
fn example_file(path: &Path) -> std::io::Result<String> {
    let extension = path.extension().and_then(|extension| extension.to_str());
    Ok(match extension {
        Some("pem") => include_str!("certificates/one.pem").into(),
        Some("crl") => include_str!("tls/revoked.crl").into(),
        None => "jane:$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5\n".into(),
        Some("key") => include_str!("certificates/one.key").into(),
        _ => "<h1>An answer</h1>".into(),
    })
}

fn key_rows(keys: &[Key]) -> Vec<String> {
    let row = |key: &Key| {
        let default = match key.default {
            Default::Is(text) | Default::Https(text) => format!("`{text}`"),
            other => other.describe().to_string(),
        };
        let (name, kind, sentence) = (key.name, key.kind.describe(), key.sentence);
        format!("| `{name}` | {kind} | {default} | {sentence} |")
    };
    keys.iter().filter(|key| is_of_file(key)).map(row).collect()
}

fn command_rows() -> Vec<String> {
    let rows = COMMANDS.iter().map(|row| {
        let keys: Vec<String> = row
            .takes()
            .map(|key| format!("`{}`", command_key(key)))
            .collect();
        format!(
            "| `{}` | {} | {} |",
            row.words(),
            keys.join(" "),
            row.sentence
        )
    });
    rows.collect()
}

fn foreign_rows() -> Vec<String> {
    let rows = FOREIGN.iter().map(|foreign| {
        let fate = match foreign.fate {
            Fate::Ignored => "ignored",
            Fate::Unsupported => "refused",
        };
        format!(
            "| `{}` | {} | {fate} | {} |",
            foreign.name, foreign.place, foreign.sentence
        )
    });
    rows.collect()
}

#[test]
fn every_key_is_documented() {
    for (heading, keys) in [
        ("## Global", GLOBAL),
        ("## Listeners", LISTENER),
        ("## Certificates", CERTIFICATE),
        ("## Clusters", CLUSTER),
        ("## Frontends", FRONTEND),
        ("## Backends", BACKEND),
    ] {
        assert_eq!(rows(CONFIG, heading), key_rows(keys), "{heading}");
    }
    assert_eq!(rows(CONFIG, "## Coming from Sōzu"), foreign_rows());
    let tables = [GLOBAL, LISTENER, CERTIFICATE, CLUSTER, FRONTEND, BACKEND]
        .into_iter()
        .flatten();
    for also in tables.filter_map(|key| key.also) {
        assert!(
            CONFIG.contains(&format!("`{also}` (")),
            "{also} is not mentioned"
        );
    }
    let statuses: Vec<String> = ANSWER_STATUSES.iter().map(u16::to_string).collect();
    assert!(
        CONFIG.contains(&statuses.join(" ")),
        "the statuses are not listed"
    );
}

#[test]
fn every_command_is_documented() {
    assert_eq!(rows(PROTOCOL, "## Commands"), command_rows());
}

#[test]
fn every_code_is_documented() {
    let codes = Code::ALL
        .iter()
        .map(|code| format!("| `{}` | {} |", code.name(), code.sentence()));
    assert_eq!(rows(PROTOCOL, "## Replies"), codes.collect::<Vec<_>>());
}

/// Every key stands in the example, set or commented out.
#[test]
fn the_shipped_configuration_shows_every_key() {
    let text = include_str!("../config.toml");
    for key in [GLOBAL, LISTENER, CERTIFICATE, CLUSTER, FRONTEND, BACKEND]
        .into_iter()
        .flatten()
    {
        if is_of_file(key) {
            assert!(
                text.contains(&format!("{} = ", key.name)),
                "{} is not shown",
                key.name
            );
        }
    }
}

#[test]
fn the_shipped_configuration_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    let (config, warnings) = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings, []);
    assert_eq!(config.state.frontends().count(), 1);
    assert_eq!(config.state.backends().count(), 2);
}

/// What is commented out in the example is right as well.
#[test]
fn the_commented_lines_load() {
    let mut text = String::new();
    for line in include_str!("../config.toml").lines() {
        let inner = line.trim_start();
        let code = inner.strip_prefix("# ").filter(|code| {
            code.starts_with(['[', '{'])
                || code
                    .split_once(" = ")
                    .is_some_and(|(key, _)| !key.contains(' '))
        });
        text.push_str(code.unwrap_or(line));
        text.push('\n');
    }
    let result = read(&text, "config.toml", Path::new("/"), &mut example_file);
    let (config, warnings) = result.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings, []);
    assert_eq!(config.state.clusters().count(), 3);
}

#[test]
fn every_example_loads() {
    let mut examples = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/doc")).expect("doc/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let document = std::fs::read_to_string(&path).expect("a text");
        for block in document.split("\n```toml\n").skip(1) {
            let example = block.split("\n```").next().unwrap_or_default();
            let name = path.display().to_string();
            if let Err(errors) = read(example, &name, Path::new("/"), &mut example_file) {
                panic!("{errors}\n{example}");
            }
            examples += 1;
        }
    }
    assert!(examples >= 5, "only {examples} examples were found");
}

/// The first cells of the rows of a table, without their backticks.
fn names(document: &str, heading: &str) -> Vec<String> {
    let rows = rows(document, heading);
    let cell = |row: &String| row.split('`').nth(1).map(str::to_string);
    rows.iter().filter_map(cell).collect()
}

// ---- the control language ----------------------------------------------

/// What `config.toml` says, on a port of the test's own.
fn proxy_of_the_example() -> Proxy {
    let backends = [
        "address = \"127.0.0.1:1026\"",
        "address = \"127.0.0.1:1027\"",
    ];
    let setup = Setup::http().top("worker_count", 2);
    let proxy = setup
        .cluster("web", &["hostname = \"*\""], &backends)
        .start();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    let (config, _) = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    let own = proxy.address().to_string();
    let dump = config.state.dump().map(|change| change.encode());
    let dump: Vec<_> = dump.map(|line| line.replace(EXAMPLE, &own)).collect();
    assert_eq!(proxy.control("state dump").data, dump);
    proxy
}

/// The listener of `config.toml`.
const EXAMPLE: &str = "127.0.0.1:8080";

/// Pids and times are not those of the document, nor is who has started it.
fn without_numbers(line: &str) -> String {
    let of_processes = ["main ", "keys ", "worker "];
    if !of_processes.iter().any(|noun| line.starts_with(noun)) {
        return line.to_string();
    }
    let number = |value: &str| value.bytes().all(|byte| byte.is_ascii_digit());
    let word = |word: &str| match word.split_once('=') {
        Some((key, value)) if number(value) => format!("{key}=N"),
        Some((key, _)) if key.starts_with("sandbox") => format!("{key}=PARTS"),
        _ => word.to_string(),
    };
    line.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_transcript_is_one() {
    let mut proxy = proxy_of_the_example();
    let (own, example) = (proxy.address().port().to_string(), "8080");
    let stream = UnixStream::connect(proxy.path("command.sock")).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let mut stream = BufReader::new(stream);
    let (mut sent, mut replies) = ("", 0);
    for line in PROTOCOL.lines() {
        if let Some(line) = line.strip_prefix("> ") {
            sent = line;
            let line = line.replace(example, &own) + "\n";
            stream.get_mut().write_all(line.as_bytes()).expect("send");
        } else if let Some(line) = line.strip_prefix("< ") {
            let mut said = String::new();
            stream.read_line(&mut said).expect("a reply");
            let said = said.trim_end_matches('\n').replace(&own, example);
            assert_eq!(without_numbers(&said), without_numbers(line), "{sent}");
            replies += 1;
        }
    }
    assert!(replies > 30, "only {replies} replies were found");
    assert_eq!(sent, "shutdown");
    assert!(proxy.wait_exit().success());
}

// ---- the access log ----------------------------------------------------

#[test]
fn every_end_is_documented() {
    let words = End::ALL.map(End::word);
    assert_eq!(names(ACCESS_LOG, "## How it ended"), words);
    // The compiler sees to it that the words are complete; the list has to be as well.
    let source = include_str!("../src/session/record.rs");
    let known = source.lines().filter(|line| line.contains(" => \""));
    assert_eq!(known.count(), words.len());
    for row in rows(ACCESS_LOG, "## How it ended") {
        let blamed = row.split(" | ").nth(1);
        let wanted = match row.trim_start_matches("| `").split(['_', '`']).next() {
            Some("client") => "the client's",
            Some("backend") => "the backend's",
            Some("proxy") => "ours",
            _ => "nobody's",
        };
        assert_eq!(blamed, Some(wanted), "{row}");
    }
}

/// A line of the log, field by field: name and text.
fn fields(line: &str) -> Vec<(&'static str, String)> {
    let mut texts = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        quoted ^= c == '"';
        match (c, texts.last_mut()) {
            (' ', _) if !quoted => texts.push(String::new()),
            (_, Some(last)) => last.push(c),
            (_, None) => {}
        }
    }
    assert!(texts.len() <= FIELDS.len(), "{line}");
    FIELDS.into_iter().zip(texts).collect()
}

/// Whether a field says what its name promises, of a request that was served.
fn check_field(name: &str, text: &str) {
    let number = || text.parse::<f64>().is_ok_and(|number| number >= 0.0);
    let good = match name {
        "time" => text.len() == 24 && text.ends_with('Z') && text.as_bytes()[10] == b'T',
        "request_id" => text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "bytes_up" | "bytes_down" => number() && text != "0",
        "connected_ms" | "first_byte_ms" | "total_ms" => number() && text.contains('.'),
        "status" => text == "200",
        "user" => text == "-",
        "end" => text == "ok",
        _ => true,
    };
    assert!(good, "{name}: {text}");
}

#[test]
fn the_fields_of_the_access_log_are_documented() {
    assert_eq!(names(ACCESS_LOG, "## Fields"), FIELDS);
    let mut example = ACCESS_LOG.lines().skip_while(|line| *line != "```text");
    let example = fields(example.nth(1).expect("an example"));
    example
        .iter()
        .for_each(|(name, text)| check_field(name, text));

    let backend = Backend::named("one");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut client = proxy.client();
    let request = "GET /a?b=c HTTP/1.1\r\nHost: Example.com:80\r\n\r\n";
    assert_eq!(client.ask(request).status(), 200);
    let line = proxy.wait_access(1, "/a?b=c").remove(0);
    let line = fields(&line);
    assert_eq!(line.len(), FIELDS.len() - 1, "no detail");
    assert_eq!(example.len(), line.len());
    line.iter().for_each(|(name, text)| check_field(name, text));
    for (name, text) in [
        ("client", client.local().to_string()),
        ("listener", proxy.address().to_string()),
        ("cluster", "main".to_string()),
        ("backend", "main-0".to_string()),
        ("backend_address", backend.address().to_string()),
        ("host", "Example.com".to_string()),
        ("request", "\"GET /a?b=c\"".to_string()),
    ] {
        assert!(
            line.contains(&(name, text.clone())),
            "{name}={text} in {line:?}"
        );
    }
    client
        .send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n")
        .response();
    let refused = fields(&proxy.wait_access(1, "client_bad_request").remove(0));
    let (name, detail) = refused.last().expect("fields");
    assert_eq!(*name, "detail");
    assert!(detail.starts_with('"') && detail.ends_with('"'), "{detail}");
}

// ---- the rest ----------------------------------------------------------

#[test]
fn every_status_and_time_limit_is_documented() {
    let given = names(HTTP, "## Our own answers");
    for (status, _) in STATUSES {
        let listed = given.contains(&status.to_string());
        let unused = HTTP.contains("A page can be given for 500 too");
        assert_eq!(listed, status != 500, "{status}");
        assert!(listed || unused);
    }
    let mut limits = names(HTTP, "## Time limits");
    let seconds = LISTENER
        .iter()
        .filter(|key| key.kind.describe() == "seconds");
    let mut wanted: Vec<_> = seconds.map(|key| key.name.to_string()).collect();
    wanted.push("back_keepalive_timeout".to_string());
    limits.sort();
    wanted.sort();
    assert_eq!(limits, wanted);
}

/// The map names what is there, and nothing at the top of `src` is missing in it.
#[test]
fn the_map_is_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let section = README.split("## Where things are").nth(1).expect("a map");
    let map = section.split("```").nth(1).expect("a block");
    let paths = map.split_whitespace().filter(|word| word.contains('/'));
    for path in paths {
        assert!(
            root.join(path).exists(),
            "{path} is on the map and not there"
        );
    }
    for entry in std::fs::read_dir(root.join("src")).expect("src") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().to_string_lossy().into_owned();
        let slash = if entry.path().is_dir() { "/" } else { "" };
        let path = format!("src/{name}{slash}");
        let known = map.split_whitespace().any(|word| word == path);
        assert!(known, "{path} is not on the map");
    }
}
