//! Every command of the table, once as bytes on the control socket and once
//! through `sozuctl`: the same is done and the same is said.

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{
    control_at, free_address, ok, program, sozuctl, wait_until, Backend, Gate, Proxy, Setup,
};
use sozu_lib::proto::table::COMMANDS;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// The line, and the words. `L` is the listener of the proxy, `M` another address.
const STEPS: &[(&str, &[&str])] = &[
    (
        "listener add address=M protocol=http",
        &["listener", "http", "add", "--address", "M"],
    ),
    (
        "listener update address=M front_timeout=7",
        &[
            "listener",
            "update",
            "--address",
            "M",
            "--front-timeout",
            "7",
        ],
    ),
    (
        "listener disable address=M",
        &["listener", "deactivate", "--address", "M"],
    ),
    (
        "listener enable address=M",
        &["listener", "enable", "address=M"],
    ),
    ("listener list", &["listener", "list"]),
    (
        "cluster add id=web answer_503=\"a b\\n\"",
        &["cluster", "add", "--id", "web", "answer_503=a b\n"],
    ),
    ("cluster add id=old", &["application", "add", "--id", "old"]),
    (
        "cluster update id=web answer_404=x",
        &["cluster", "update", "id=web", "answer-404=x"],
    ),
    (
        "cluster update id=web unset=answer_404",
        &["cluster", "update", "--id", "web", "--unset", "answer_404"],
    ),
    (
        "cluster update id=web tls=true tls_verify=false",
        &["cluster", "update", "id=web", "tls-verify=false", "--tls"],
    ),
    ("cluster list", &["query", "applications"]),
    (
        "cluster pause id=web max=30",
        &["cluster", "pause", "--id", "web", "--max", "30"],
    ),
    ("cluster resume id=web", &["cluster", "resume", "id=web"]),
    ("cluster resume id=web", &["cluster", "resume", "id=web"]),
    (
        "backend add cluster=web id=b address=127.0.0.1:1 weight=5",
        &[
            "backend",
            "add",
            "--id",
            "web",
            "--backend-id",
            "b",
            "--address",
            "127.0.0.1:1",
            "--weight",
            "5",
        ],
    ),
    (
        "backend add cluster=web id=c address=127.0.0.1:1 backup=true",
        &[
            "backend",
            "add",
            "--cluster",
            "web",
            "--id",
            "c",
            "--address",
            "127.0.0.1:1",
            "--backup",
        ],
    ),
    (
        "backend update cluster=web id=b state=drain",
        &["backend", "update", "cluster=web", "id=b", "state=drain"],
    ),
    ("backend list", &["backend", "list"]),
    ("name list", &["name", "list"]),
    ("name refresh", &["name", "refresh"]),
    (
        "frontend add listener=M hostname=a.example path=/x cluster=web",
        &[
            "frontend",
            "http",
            "add",
            "--address",
            "M",
            "--hostname",
            "a.example",
            "--path-begin",
            "/x",
            "--id",
            "web",
        ],
    ),
    ("frontend list", &["frontend", "list"]),
    (
        "explain listener=M hostname=a.example path=/x/y",
        &[
            "explain",
            "--listener",
            "M",
            "--hostname",
            "a.example",
            "--path",
            "/x/y",
        ],
    ),
    (
        "explain url=http://a.example/x/y?z client=192.0.2.7",
        &[
            "explain",
            "--url",
            "http://a.example/x/y?z",
            "--client",
            "192.0.2.7",
        ],
    ),
    (
        "explain url=http://a.example/x/y?z listener=M client=192.0.2.7",
        &[
            "explain",
            "url=http://a.example/x/y?z",
            "listener=M",
            "client=192.0.2.7",
        ],
    ),
    (
        "explain listener=M hostname=b.example",
        &["explain", "listener=M", "hostname=b.example"],
    ),
    (
        "cluster remove id=web",
        &["cluster", "remove", "--id", "web"],
    ),
    (
        "frontend remove listener=M hostname=a.example path=/x",
        &[
            "frontend",
            "http",
            "remove",
            "--address",
            "M",
            "--hostname",
            "a.example",
            "--path-begin",
            "/x",
            "--id",
            "web",
        ],
    ),
    (
        "backend remove cluster=web id=b",
        &[
            "backend",
            "remove",
            "--id",
            "web",
            "--backend-id",
            "b",
            "--address",
            "127.0.0.1:1",
        ],
    ),
    (
        "backend remove cluster=web id=c wait=30",
        &["backend", "remove", "cluster=web", "id=c", "--wait", "30"],
    ),
    ("cluster remove id=web", &["cluster", "remove", "id=web"]),
    (
        "cluster remove id=old",
        &["application", "remove", "--id", "old"],
    ),
    (
        "listener remove address=M",
        &["listener", "remove", "--address", "M"],
    ),
    (
        "listener add address=M protocol=https",
        &["listener", "https", "add", "--address", "M"],
    ),
    (
        "certificate add listener=M certificate=$C1 key=$K1 certificate_path=$C1P key_path=$K1P",
        &[
            "certificate",
            "add",
            "--address",
            "M",
            "--certificate",
            "$C1P",
            "--key",
            "$K1P",
        ],
    ),
    (
        "certificate add listener=M certificate=$C1 key=$K2 certificate_path=$C1P key_path=$K2P",
        &[
            "certificate",
            "add",
            "listener=M",
            "certificate=$C1P",
            "key=$K2P",
        ],
    ),
    (
        "certificate replace listener=M fingerprint=$F1 certificate=$C2 key=$K2 certificate_path=$C2P key_path=$K2P",
        &[
            "certificate",
            "replace",
            "--listener",
            "M",
            "--old-certificate",
            "$C1P",
            "--certificate",
            "$C2P",
            "--key",
            "$K2P",
        ],
    ),
    ("certificate list listener=M", &["certificate", "list", "listener=M"]),
    (
        "certificate remove listener=M fingerprint=$F2",
        &["certificate", "remove", "listener=M", "certificate=$C2P"],
    ),
    (
        "listener remove address=M",
        &["listener", "remove", "address=M"],
    ),
    (
        "listener add address=M protocol=tcp",
        &["listener", "tcp", "add", "--address", "M"],
    ),
    (
        "cluster add id=t protocol=tcp",
        &["cluster", "add", "--id", "t", "--protocol", "TCP"],
    ),
    (
        "frontend add listener=M cluster=t",
        &["frontend", "tcp", "add", "--id", "t", "--address", "M"],
    ),
    (
        "frontend remove listener=M",
        &["frontend", "tcp", "remove", "--id", "t", "--address", "M"],
    ),
    (
        "cluster add id=x wieght=5",
        &["cluster", "add", "id=x", "wieght=5"],
    ),
    ("clusters", &["clusters"]),
    ("state dump", &["state", "dump"]),
    ("state diff", &["state", "diff"]),
    ("state check", &["state", "check"]),
    ("state stats", &["state", "stats"]),
    ("connections list", &["connections"]),
    (
        "connections list older=1",
        &["connections", "list", "--older", "1"],
    ),
    (
        "connections kill id=1.2.3",
        &["connections", "kill", "--id", "1.2.3"],
    ),
    ("connections kill", &["connections", "kill"]),
    // A connection of their own each: begun, and forgotten.
    ("begin", &["begin"]),
    ("commit revision=0", &["commit", "revision=0"]),
    ("abort", &["abort"]),
    ("confirm", &["confirm"]),
    ("reload", &["reload"]),
    ("logging level=debug", &["logging", "level", "debug"]),
    (
        "logging level=info,sozu_lib::worker=warn",
        &["logging", "--level", "info,sozu_lib::worker=warn"],
    ),
    ("status", &["status"]),
    ("workers", &["workers"]),
    ("sandbox", &["sandbox"]),
    ("metrics", &["metrics"]),
    ("metrics cluster=old", &["metrics", "--cluster", "old"]),
    ("worker restart id=0", &["worker", "restart", "--id", "0"]),
    ("upgrade", &["upgrade"]),
    (
        "upgrade binary=/nowhere/sozu canary=5",
        &["upgrade", "--binary", "/nowhere/sozu", "--canary", "5"],
    ),
    ("ping", &["ping"]),
    ("version", &["version"]),
    ("help", &["help"]),
    ("help backend", &["help", "backend"]),
    ("help nothing", &["help", "nothing"]),
    ("metrics", &["metrics"]),
    ("shutdown hard", &["shutdown", "--hard"]),
];

/// Certificates and keys: their files, their texts as values, what they are known by.
fn texts() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/certificates");
    let mut all = Vec::new();
    for (number, name) in [(1, "one"), (2, "two")] {
        for (letter, kind) in [("C", "pem"), ("K", "key")] {
            let path = format!("{folder}/{name}.{kind}");
            let text = std::fs::read_to_string(&path).expect("a file");
            if kind == "pem" {
                let checked = sozu_lib::certificate::check(&text, "", None).expect("a certificate");
                let facts = sozu_lib::certificate::facts(&checked.leaf);
                all.push((format!("$F{number}"), facts.fingerprint.to_string()));
            }
            all.push((format!("${letter}{number}P"), path));
            let quoted = format!("\"{}\"", text.replace('\n', "\\n"));
            all.push((format!("${letter}{number}"), quoted));
        }
    }
    all
}

/// One of the two proxies, with its addresses.
struct Side {
    proxy: Proxy,
    other: SocketAddr,
}

impl Side {
    fn start(backend: &Backend) -> Side {
        // Nobody else takes a port of this one meanwhile.
        let other = SocketAddr::from(([127, 0, 0, 2], free_address().port()));
        let proxy = Setup::http().backends(&[backend.address()]).start();
        Side { proxy, other }
    }

    fn concrete(&self, text: &str) -> String {
        let text = texts()
            .iter()
            .fold(text.to_string(), |text, (name, value)| {
                text.replace(name, value)
            });
        match text.as_str() {
            "M" => self.other.to_string(),
            _ => text.replace("=M", &format!("={}", self.other)),
        }
    }

    fn general(&self, text: &str) -> String {
        let own = self.proxy.address().to_string();
        text.replace(&own, "L")
            .replace(&self.other.to_string(), "M")
    }

    /// Sorted: which address comes first depends on the ports.
    fn dump(&self) -> Vec<String> {
        let lines = self.proxy.control("state dump").data;
        let mut lines: Vec<String> = lines.iter().map(|line| self.general(line)).collect();
        lines.sort();
        lines
    }

    fn sozuctl(&self, words: &[&str]) -> Output {
        let socket = self.proxy.path("command.sock").display().to_string();
        let words = words.iter().map(|word| self.concrete(word));
        let words: Vec<String> = ["-s".to_string(), socket]
            .into_iter()
            .chain(words)
            .collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        sozuctl(&words)
    }
}

#[test]
fn every_command_both_ways() {
    let backend = Backend::named("ok");
    let raw = Side::start(&backend);
    let ctl = Side::start(&backend);
    for (line, words) in STEPS {
        let reply = control_at(&raw.proxy.path("command.sock"), &raw.concrete(line));
        let reply = reply.unwrap_or_else(|| panic!("no reply to {line}"));
        let output = ctl.sozuctl(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let (code, rest) = match reply.last.strip_prefix("error ") {
            Some(rest) => (1, rest),
            None => (0, ""),
        };
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        if let Some((_, text)) = rest.split_once(' ') {
            let text = text.trim_matches('"').replace("\\\"", "\"");
            let text = raw.general(&text);
            assert_eq!(
                ctl.general(said.trim_end()),
                format!("sozuctl: {text}"),
                "{line}"
            );
        }
        if !line.starts_with("shutdown") {
            assert_eq!(raw.dump(), ctl.dump(), "{line}");
        }
    }
    for mut side in [raw, ctl] {
        assert_eq!(side.proxy.wait_exit().code(), Some(0));
    }
}

/// `events` has a test of its own.
#[test]
fn no_command_is_forgotten() {
    for row in COMMANDS.iter().filter(|row| row.noun != "events") {
        let words = format!("{} {}", row.noun, row.verb);
        let words = words.trim_end();
        let is_it = |line: &str| line == words || line.starts_with(&format!("{words} "));
        assert!(STEPS.iter().any(|(line, _)| is_it(line)), "{words}");
    }
}

#[test]
fn events_come_as_they_happen() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut command = Command::new(program("sozuctl"));
    command
        .arg("-s")
        .arg(proxy.path("command.sock"))
        .args(["--json", "events"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("sozuctl");
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        out.lines()
            .map_while(Result::ok)
            .all(|line| sender.send(line).is_ok())
    });
    // It listens at some time from now on.
    let line = wait_until("an event", || {
        proxy.control("cluster add id=web");
        proxy.control("cluster remove id=web");
        lines.recv_timeout(Duration::from_millis(20)).ok()
    });
    assert!(
        line.starts_with("{\"subject\":\"event\",\"time\":\""),
        "{line}"
    );
    assert!(line.contains("\"kind\":\"change\",\"revision\":"), "{line}");
    child.kill().expect("kill");
    child.wait().expect("wait");
    drop(lines);
    reader.join().expect("the reader");
}

#[test]
fn listening_for_a_while_is_no_failure() {
    let proxy = Setup::http().backends(&[]).start();
    let socket = proxy.path("command.sock").display().to_string();
    let output = sozuctl(&["-s", &socket, "-t", "0.1", "events"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn status_is_a_table_or_an_object() {
    let proxy = Setup::http().backends(&[]).top("worker_count", 2).start();
    let socket = proxy.path("command.sock").display().to_string();
    let text = |words: &[&str]| {
        let words = [&["-s", &socket], words].concat();
        String::from_utf8(sozuctl(&words).stdout).expect("text")
    };
    let status = text(&["status"]);
    let rows = status.lines().filter(|line| line.starts_with("worker"));
    assert_eq!(rows.count(), 2, "{status}");
    assert!(
        status.contains("  pid  ") && !status.contains("pid="),
        "{status}"
    );
    let json = text(&["status", "--json"]);
    assert!(
        json.starts_with("{\"ok\":true,\"data\":[{\"subject\":\"main\","),
        "{json}"
    );
    let pid = format!("\"pid\":{},", proxy.pid());
    assert!(
        json.contains(&pid) && json.ends_with("}],\"result\":{}}\n"),
        "{json}"
    );
    assert_eq!(json.matches("\"subject\":\"worker\"").count(), 2);
    assert_eq!(json.lines().count(), 1);
    let refused = text(&["--json", "cluster", "remove", "id=nobody"]);
    let wanted = "{\"ok\":false,\"code\":\"missing\",\"text\":\"cluster nobody does not exist\"}\n";
    assert_eq!(refused, wanted);
}

/// How far something has come is for terminals: others get the answer alone.
#[test]
fn progress_is_for_terminals() {
    let gate = Gate::default();
    let backend = {
        let gate = gate.clone();
        Backend::replying(move |_| {
            gate.pass();
            ok("late")
        })
    };
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut peer = proxy.client();
    peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    backend.wait_requests(1);
    let socket = proxy.path("command.sock").display().to_string();
    let words = ["backend", "remove", "cluster=main", "id=main-0", "wait=2"];
    let words = [&["-s", &socket, "--json"], &words[..]].concat();
    let output = sozuctl(&words);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "{\"ok\":true,\"data\":[],\"result\":{\"revision\":1,\"changes\":1,\"connections\":1}}\n"
    );
    gate.admit(1);
    assert_eq!(peer.response().text(), "late");
}

/// Connections that say less than others stand in the same table.
#[test]
fn connections_are_a_table_or_an_object() {
    let backend = Backend::scripted(|peer, _| peer.request().map(drop));
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let socket = proxy.path("command.sock").display().to_string();
    let text = |words: &[&str]| {
        let output = sozuctl(&[&["-s", &socket], words].concat());
        (
            output.status.code(),
            String::from_utf8(output.stdout).expect("text"),
        )
    };
    let (mut idle, mut busy) = (proxy.client(), proxy.client());
    idle.send("GET / HTTP/1.1");
    busy.send("GET /a b HTTP/1.1\r\n\r\n").response();
    let mut busy = proxy.client();
    busy.send("POST /long HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
    let own = busy.local().to_string();
    let (table, place) = wait_until("both are seen", || {
        let (_, table) = text(&["connections"]);
        let place = table.lines().next()?.find("request")?;
        let head = table.contains("  head  ");
        (head && table.contains("  running  ")).then_some((table, place))
    });
    let line = table.lines().find(|line| line.contains(&own));
    let line = line.unwrap_or_else(|| panic!("{table}"));
    assert_eq!(line.get(place..), Some("POST /long"), "{table}");
    let (_, json) = text(&["--json", "connections", "list", "--client", "127.0.0.1"]);
    assert!(json.contains("\"worker\":0,"), "{json}");
    assert!(json.contains("\"request\":\"POST /long\"}"), "{json}");
    let id = line.split_whitespace().nth(1).expect("an id");
    assert_eq!(
        text(&["connections", "kill", "--id", id]),
        (Some(0), "killed=1\n".into())
    );
    busy.ends();
    let (code, json) = text(&["--json", "state", "check"]);
    assert_eq!(code, Some(0), "{json}");
    assert!(
        json.contains("\"agrees\":true}],\"result\":{\"agrees\":true"),
        "{json}"
    );
    // What came before a refusal is shown, too.
    let (code, shown) = text(&["explain", "hostname=a", "url=http://a/"]);
    assert_eq!((code, shown.as_str()), (Some(1), ""));
    proxy.control("backend update cluster=main id=main-0 state=down");
    let (code, shown) = text(&["explain", "hostname=a"]);
    assert_eq!(code, Some(1));
    assert!(shown.contains("no, it is down"), "{shown}");
}
