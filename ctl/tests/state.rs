//! Files against the running state: saved, loaded, compared, applied; and what
//! goes wrong on the way.

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{program, sozuctl, Proxy, Setup, TempDir};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{symlink, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn start() -> Proxy {
    Setup::http().backends(&[free_address()]).start()
}

fn free_address() -> SocketAddr {
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    free.local_addr().expect("getsockname")
}

fn ask_at(socket: &Path, words: &[&str]) -> Output {
    let socket = socket.to_str().expect("a path");
    sozuctl(&[&["-s", socket], words].concat())
}

fn ask(proxy: &Proxy, words: &[&str]) -> Output {
    ask_at(&proxy.path("command.sock"), words)
}

/// What it says where it does what was asked.
#[track_caller]
fn done(output: Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    String::from_utf8(output.stdout).expect("text")
}

/// What it says where it does not.
#[track_caller]
fn fails(output: &Output, code: i32, part: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.contains(part), "{said}");
    assert_eq!(said.lines().count(), 1, "one sentence: {said}");
}

fn dump(proxy: &Proxy) -> String {
    proxy.control("state dump").data.join("\n") + "\n"
}

fn with_input(proxy: &Proxy, words: &[&str], input: &str) -> Output {
    let mut command = Command::new(program("sozuctl"));
    command
        .arg("-s")
        .arg(proxy.path("command.sock"))
        .args(words);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("sozuctl");
    let mut pipe = child.stdin.take().expect("a pipe");
    pipe.write_all(input.as_bytes()).expect("it reads");
    drop(pipe);
    child.wait_with_output().expect("wait")
}

#[test]
fn saved_and_loaded() {
    let proxy = start();
    let dir = TempDir::new();
    let file = dir.path("state");
    let name = file.to_str().expect("a path");
    let before = dump(&proxy);
    let lines = before.lines().count();
    assert_eq!(
        done(ask(&proxy, &["state", "save", "-f", name])),
        format!("saved={lines}\n")
    );
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), before);
    let mode = std::fs::metadata(&file)
        .expect("the file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
    for line in [
        format!("frontend remove listener={}", proxy.address()),
        "backend remove cluster=main id=main-0".into(),
        "cluster remove id=main".into(),
        format!("listener remove address={}", proxy.address()),
    ] {
        proxy.control(&line);
    }
    assert_eq!(dump(&proxy), "\n");
    let loaded = done(ask(&proxy, &["state", "load", "--file", name]));
    assert!(loaded.ends_with(&format!(" changes={lines}\n")), "{loaded}");
    assert_eq!(dump(&proxy), before);
    // Over an old one, by the name of a link, in the current folder, to standard output.
    std::fs::write(&file, "old").expect("write");
    symlink("state", dir.path("link")).expect("a link");
    done(ask(
        &proxy,
        &[
            "state",
            "save",
            "-f",
            dir.path("link").to_str().expect("a path"),
        ],
    ));
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), before);
    let link = std::fs::symlink_metadata(dir.path("link")).expect("the link");
    assert!(link.is_symlink());
    assert_eq!(done(ask(&proxy, &["state", "save", "-f", "-"])), before);
    let files = std::fs::read_dir(dir.path("."))
        .expect("the folder")
        .count();
    assert_eq!(files, 2, "nothing else is left there");
}

#[test]
fn a_file_that_is_refused_does_nothing() {
    let proxy = start();
    let before = dump(&proxy);
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let taken = taken
        .local_addr()
        .map(|address| (address, taken))
        .expect("getsockname");
    let not_bound = format!(
        "cluster add id=a\nlistener add address={} protocol=http\n",
        taken.0
    );
    for (text, wanted) in [
        (
            "cluster add id=a\n\n# a comment\ncluster add id=b wieght=5\n",
            ":4: cluster add: \"wieght\"",
        ),
        (
            "cluster add id=a\n\ncluster add id=main\ncluster add id=b\n",
            ":3: cluster main already exists",
        ),
        ("cluster add id=main", ":1: cluster main already exists"),
        (
            "cluster add id=a\ncommit\ncluster add id=b\n",
            ":2: this is no change",
        ),
        ("cluster add id=a\nshutdown hard\n", ":2: this is no change"),
        (&not_bound, ":2: cannot listen on"),
    ] {
        let output = with_input(&proxy, &["state", "load", "-f", "-"], text);
        fails(&output, 1, "standard input:");
        fails(&output, 1, wanted);
        assert_eq!(dump(&proxy), before, "{text}");
    }
    assert_eq!(
        proxy.control("state stats").last.split(' ').nth(1),
        Some("revision=0")
    );
}

#[test]
fn only_the_difference_is_applied() {
    let proxy = start();
    let dir = TempDir::new();
    let before = dump(&proxy);
    let wanted = before.replace("weight=100", "weight=7")
        + "cluster add id=new\nbackend add cluster=new id=b address=127.0.0.1:1\n";
    let file = dir.write("wanted", &wanted);
    let name = file.to_str().expect("a path");
    let lines = "cluster add id=new protocol=http load_balancing=round_robin\n";
    for words in [
        ["state", "diff", "-f", name].as_slice(),
        &["apply", "--dry-run", "-f", name],
    ] {
        let said = done(ask(&proxy, words));
        assert!(said.starts_with(lines), "{said}");
        assert!(
            said.contains("backend update cluster=main id=main-0 "),
            "{said}"
        );
        assert!(said.ends_with("# added=2 updated=1 removed=0\n"), "{said}");
        assert_eq!(dump(&proxy), before);
    }
    let said = done(ask(&proxy, &["apply", "-f", name]));
    assert_eq!(said, "added=2 updated=1 removed=0 revision=1\n");
    assert_eq!(
        done(ask(&proxy, &["apply", "-f", name])),
        "added=0 updated=0 removed=0\n"
    );
    // What a difference says can be loaded.
    let old = dir.write("before", &before);
    let back = done(ask(
        &proxy,
        &["state", "diff", "-f", old.to_str().expect("a path")],
    ));
    done(with_input(&proxy, &["state", "load", "-f", "-"], &back));
    assert_eq!(dump(&proxy), before);
    let json = done(ask(&proxy, &["--json", "apply", "-f", name]));
    assert_eq!(json, "{\"ok\":true,\"data\":[],\"result\":{\"added\":2,\"updated\":1,\"removed\":0,\"revision\":3}}\n");
}

#[test]
fn a_configuration_is_applied() {
    let proxy = start();
    let before = dump(&proxy);
    let config = std::fs::read_to_string(proxy.config()).expect("the file");
    proxy.control("cluster add id=more");
    let name = proxy.config().to_str().expect("a path");
    let said = done(ask(&proxy, &["apply", "-f", name]));
    assert_eq!(said, "added=0 updated=0 removed=1 revision=2\n");
    assert_eq!(dump(&proxy), before);
    // By its content: standard input has no name.
    let more = config + "\n[clusters.extra]\n";
    let said = done(with_input(&proxy, &["apply", "-f", "-"], &more));
    assert_eq!(said, "added=1 updated=0 removed=0 revision=3\n");
    let output = with_input(&proxy, &["apply", "-f", "-"], "worker_cuont = 2\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("worker_count"));
    let output = with_input(&proxy, &["apply", "-f", "-"], "# nothing\n");
    fails(&output, 1, "the file says nothing");
}

/// Passes lines on to the proxy; before a `commit`, somebody else commits.
fn rival(socket: &Path, proxy: &Path) -> std::thread::JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("bind");
    let proxy = proxy.to_owned();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().expect("sozuctl");
        let mut server = UnixStream::connect(&proxy).expect("the proxy");
        let mut back = client.try_clone().expect("a socket");
        let answers = server.try_clone().expect("a socket");
        let answers = std::thread::spawn(move || {
            let _gone = std::io::copy(&mut BufReader::new(answers), &mut back);
        });
        for line in BufReader::new(client).lines().map_while(Result::ok) {
            if line.starts_with("commit") {
                common::control(&proxy, "cluster add id=rival");
            }
            writeln!(server, "{line}").expect("the proxy reads");
        }
        drop(server.shutdown(std::net::Shutdown::Both));
        answers.join().expect("the answers");
    })
}

#[test]
fn somebody_else_commits_meanwhile() {
    let proxy = start();
    let before = dump(&proxy);
    let dir = TempDir::new();
    let file = dir.write("wanted", before.clone() + "cluster add id=new\n");
    let name = file.to_str().expect("a path");
    let relay = rival(&dir.path("socket"), &proxy.path("command.sock"));
    let output = ask_at(&dir.path("socket"), &["apply", "-f", name]);
    relay.join().expect("the relay");
    fails(
        &output,
        1,
        "somebody else has committed; nothing was done: apply it again",
    );
    let now = dump(&proxy);
    assert!(now.contains("id=rival") && !now.contains("id=new"), "{now}");
    done(ask(&proxy, &["apply", "-f", name]));
    assert!(
        !dump(&proxy).contains("id=rival"),
        "the file does not have it"
    );
}

#[test]
fn an_applied_file_may_have_to_be_confirmed() {
    let proxy = start();
    let before = dump(&proxy);
    let text = before.clone() + "cluster add id=new\n";
    done(with_input(
        &proxy,
        &["apply", "-f", "-", "--confirm", "600"],
        &text,
    ));
    assert!(dump(&proxy).contains("id=new"));
    fails(
        &ask(&proxy, &["cluster", "add", "id=x"]),
        1,
        "waits for confirm",
    );
    done(ask(&proxy, &["confirm"]));
    done(ask(&proxy, &["cluster", "add", "id=x"]));
}

#[test]
fn a_full_disk_is_told() {
    let proxy = start();
    let dir = TempDir::new();
    let full = Path::new("/dev/full");
    symlink(full, dir.path("link")).expect("a link");
    for name in ["/dev/full", dir.path("link").to_str().expect("a path")] {
        fails(
            &ask(&proxy, &["state", "save", "-f", name]),
            1,
            "No space left",
        );
    }
    let is_device = std::fs::metadata(full)
        .expect("/dev/full")
        .file_type()
        .is_char_device();
    assert!(is_device, "a device is not replaced");
    for words in [
        ["state", "dump"].as_slice(),
        &["state", "save", "-f", "-"],
        &["--json", "status"],
    ] {
        let mut command = Command::new(program("sozuctl"));
        command
            .arg("-s")
            .arg(proxy.path("command.sock"))
            .args(words);
        let out = std::fs::OpenOptions::new()
            .write(true)
            .open(full)
            .expect("open");
        let output = command
            .stdout(out)
            .stderr(Stdio::piped())
            .output()
            .expect("run");
        fails(&output, 1, "No space left");
    }
    let nowhere = dir.path("no/such/folder");
    let output = ask(
        &proxy,
        &["state", "save", "-f", nowhere.to_str().expect("a path")],
    );
    fails(&output, 1, "No such file");
}

/// A proxy that ends in the middle of an answer.
#[test]
fn half_an_answer_replaces_nothing() {
    let dir = TempDir::new();
    let file = dir.write("state", "old");
    let name = file.to_str().expect("a path");
    let listener = UnixListener::bind(dir.path("socket")).expect("bind");
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("sozuctl");
        let mut line = String::new();
        BufReader::new(&stream)
            .read_line(&mut line)
            .expect("a line");
        writeln!(&stream, "cluster add id=web").expect("write");
        line
    });
    let output = ask_at(&dir.path("socket"), &["state", "save", "-f", name]);
    fails(&output, 3, "ended without an answer");
    assert_eq!(server.join().expect("the server"), "state dump\n");
    assert_eq!(std::fs::read_to_string(&file).expect("the file"), "old");
    let files = std::fs::read_dir(dir.path("."))
        .expect("the folder")
        .count();
    assert_eq!(files, 2, "the file and the socket");
}

/// Far more than what fits the buffers of both sides.
#[test]
fn many_lines_are_loaded_at_once() {
    let proxy = start();
    let count = 20_000;
    let mut text = String::from("cluster add id=web\n");
    for number in 0..count {
        text += &format!(
            "frontend add listener={} hostname=h{number}.example cluster=web\n",
            proxy.address()
        );
    }
    let said = done(with_input(&proxy, &["state", "load", "-f", "-"], &text));
    assert!(
        said.ends_with(&format!(" changes={}\n", count + 1)),
        "{said}"
    );
    // Two questions at once, the first with a long answer: both are answered.
    let mut stream = UnixStream::connect(proxy.path("command.sock")).expect("connect");
    stream
        .set_read_timeout(Some(common::DEADLINE))
        .expect("a time limit");
    stream
        .write_all(b"frontend list\nversion\nping\n")
        .expect("write");
    let answers = BufReader::new(&stream)
        .lines()
        .map(|line| line.expect("an answer"));
    let ends: Vec<String> = answers
        .filter(|line| line.starts_with("ok"))
        .take(3)
        .collect();
    assert!(ends[1].starts_with("ok version="), "{ends:?}");
    let kept = dump(&proxy);
    let said = done(with_input(&proxy, &["apply", "-f", "-"], &kept));
    assert_eq!(said, "added=0 updated=0 removed=0\n");
}

/// An answer between the bound on unread answers and what a socket takes at once.
#[test]
fn what_stands_behind_a_long_answer() {
    let proxy = start();
    let mut text = String::new();
    for number in 0..1000 {
        text += &format!("cluster add id={}{number}\n", "x".repeat(60));
    }
    done(with_input(&proxy, &["state", "load", "-f", "-"], &text));
    let mut stream = UnixStream::connect(proxy.path("command.sock")).expect("connect");
    stream
        .set_read_timeout(Some(common::DEADLINE))
        .expect("a time limit");
    stream
        .write_all(b"cluster list\nping\nversion\n")
        .expect("write");
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("shutdown");
    let answers = BufReader::new(&stream)
        .lines()
        .map(|line| line.expect("an answer"));
    assert_eq!(answers.filter(|line| line.starts_with("ok")).count(), 3);
}
