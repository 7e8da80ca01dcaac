//! Sōzu's `query`: a cluster with its parts, by name and by hostname.

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{sozuctl, Proxy, Setup};
use std::process::Output;

fn start() -> Proxy {
    let backend = ["address = \"127.0.0.1:1\""];
    let proxy = Setup::http()
        .cluster("a", &["hostname = \"www.a.b\""], &backend)
        .cluster("b", &["hostname = \"*.a.b\""], &backend);
    let rules = ["hostname = \"www.a.b\", path = \"/api\""];
    proxy.cluster("c", &rules, &backend).start()
}

fn ask(proxy: &Proxy, words: &[&str]) -> Output {
    let socket = proxy.path("command.sock");
    sozuctl(&[&["-s", socket.to_str().expect("a path")], words].concat())
}

/// The clusters of the lines that it says, in order.
#[track_caller]
fn parts(proxy: &Proxy, words: &[&str]) -> Vec<String> {
    let output = ask(proxy, words);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("text");
    let name = |line: &str| {
        let mut words = line.split(' ');
        let noun = words.next().unwrap_or_default().to_string();
        let mut pairs = words.filter_map(|word| word.split_once('='));
        let key = if noun == "cluster" { "id" } else { "cluster" };
        let pair = pairs.find(|(name, _)| *name == key);
        format!("{noun} {}", pair.expect("a cluster").1)
    };
    text.lines().map(name).collect()
}

#[test]
fn a_cluster_and_all_its_parts() {
    let proxy = start();
    let of = |ids: &[&str]| -> Vec<String> {
        let nouns = ["cluster", "backend", "frontend"];
        let lines = nouns.map(|noun| ids.iter().map(move |id| format!("{noun} {id}")));
        let mut lines: Vec<String> = lines.into_iter().flatten().collect();
        lines.sort();
        lines
    };
    for (words, ids) in [
        (["--id", "a"], &["a"][..]),
        (["-i", "b"], &["b"]),
        (["--domain", "www.a.b"], &["a", "c"]),
        (["-d", "WWW.A.B"], &["a", "c"]),
        (["-d", "www.a.b/api"], &["c"]),
        (["-d", "*.a.b"], &["b"]),
    ] {
        let mut lines = parts(&proxy, &[&["query", "applications"][..], &words].concat());
        lines.sort();
        assert_eq!(lines, of(ids), "{words:?}");
    }
    // What it says is what the list says.
    let all = ask(&proxy, &["query", "applications"]).stdout;
    assert_eq!(all, ask(&proxy, &["cluster", "list"]).stdout);
    let metrics = ask(&proxy, &["query", "metrics", "--cluster", "a"]).stdout;
    assert!(String::from_utf8_lossy(&metrics).contains("backend"));
    let json = ask(&proxy, &["--json", "query", "applications", "--id", "a"]).stdout;
    let json = String::from_utf8(json).expect("text");
    assert!(json.starts_with("{\"ok\":true,\"data\":[{"), "{json}");
    assert!(json.contains("\"subject\":\"frontend add\""), "{json}");
}

#[test]
fn what_is_not_there_or_not_meant() {
    let proxy = start();
    for (words, code, part) in [
        (&["query"][..], 2, "query takes one of: applications"),
        (
            &["query", "certificates"],
            2,
            "query takes one of: applications",
        ),
        (&["query", "applications", "-i"], 2, "-i needs a value"),
        (
            &["query", "applications", "--id", "x"],
            1,
            "cluster x does not exist",
        ),
        (
            &["query", "applications", "-d", "a.b"],
            1,
            "no frontend has the hostname a.b",
        ),
        (
            &["query", "applications", "-d", "a:80"],
            2,
            "a hostname has no port",
        ),
        (&["query", "applications", "-d", "www.a.b/"], 0, ""),
        (
            &["query", "applications", "-d", "www.a.b/x"],
            1,
            "no frontend",
        ),
    ] {
        let output = ask(&proxy, words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
        assert!(said.contains(part), "{words:?}: {said}");
        assert_eq!(said.lines().count(), usize::from(code > 0), "{said}");
    }
}
