//! doc/sozuctl.md: every command has an example, and every example works.

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{program, Backend, Proxy, Setup};
use sozu_lib::proto::table::COMMANDS;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::Command;

const DOCUMENT: &str = include_str!("../../doc/sozuctl.md");
/// They belong to one connection.
const NO_EXAMPLE: [&str; 3] = ["begin", "commit", "abort"];

/// The first two cells of each row under a heading that starts with code.
fn rows(heading: &str) -> Vec<(String, String)> {
    let lines = DOCUMENT.lines().skip_while(|line| *line != heading).skip(1);
    let section = lines.take_while(|line| !line.starts_with("## "));
    let cells = section.filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split(" | ");
        let cell = |text: &str| text.trim_matches(['|', ' ', '`']).to_string();
        Some((cell(cells.next()?), cell(cells.next()?)))
    });
    cells.collect()
}

/// Runs an example beside the configuration, by a shell, with addresses that are free.
fn run(proxy: &Proxy, other: &str, example: &str) -> String {
    let words = example.strip_prefix("sozuctl ").expect("an example");
    let words = words.replace("127.0.0.1:8080", other).replace('*', "\\*");
    let line = format!("{} {words}", program("sozuctl").display());
    let mut command = Command::new("sh");
    command.args(["-c", &line]).current_dir(proxy.path(""));
    let output = command.output().expect("sh");
    assert!(output.status.success(), "{example}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn start() -> (Proxy, String) {
    // Nobody else takes a port of this one meanwhile.
    let free = TcpListener::bind("127.0.0.2:0").expect("bind");
    let other = free.local_addr().expect("getsockname").to_string();
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let file = proxy.path("more.state");
    std::fs::write(file, "cluster add id=more\n").expect("write");
    for (name, text) in [
        ("www.pem", include_str!("../../tests/certificates/one.pem")),
        ("www.key", include_str!("../../tests/certificates/one.key")),
        ("new.pem", include_str!("../../tests/certificates/two.pem")),
        ("new.key", include_str!("../../tests/certificates/two.key")),
    ] {
        std::fs::write(proxy.path(name), text).expect("write");
    }
    (proxy, other)
}

#[test]
fn every_example_works() {
    let (mut proxy, other) = start();
    for (command, example) in rows("## Commands") {
        let words = command.trim_end_matches(" -f");
        assert!(example.contains(words), "{command}: {example}");
        run(&proxy, &other, &example);
    }
    proxy.wait_exit();
}

#[test]
fn every_command_has_an_example() {
    let rows = rows("## Commands");
    for row in COMMANDS
        .iter()
        .filter(|row| !NO_EXAMPLE.contains(&row.noun))
    {
        let words = format!("{} {}", row.noun, row.verb);
        let there = rows.iter().any(|(command, _)| command == words.trim_end());
        assert!(there, "{words} has no example");
    }
    for words in [
        "state save",
        "state load",
        "apply",
        "config check",
        "top",
        "completion",
    ] {
        assert!(rows.iter().any(|(command, _)| command == words), "{words}");
    }
}

/// The old words do what the new ones do.
#[test]
fn the_old_commands_work() {
    let (mut old, other_old) = start();
    let (mut new, other_new) = start();
    let dump = |proxy: &Proxy, other: &str| {
        let lines = proxy.control("state dump").data;
        let (own, cluster) = (proxy.address().to_string(), "cluster=main");
        let lines = lines.iter().filter(|line| !line.contains(cluster));
        let lines = lines.map(|line| line.replace(&own, "L").replace(other, "M"));
        let folder = proxy.path("").display().to_string();
        let lines = lines.map(|line| line.replace(&folder, "/"));
        lines.collect::<BTreeSet<String>>()
    };
    for (words, ours) in rows("## Coming from Sōzu") {
        let line = |words: &str| match words {
            "config check -c config.toml" => format!("sozuctl {words}"),
            _ => format!("sozuctl -c config.toml {words}"),
        };
        run(&old, &other_old, &line(&words));
        let ours = if ours.starts_with("the same") {
            &words
        } else {
            &ours
        };
        run(&new, &other_new, &line(ours));
        if !words.starts_with("shutdown") {
            assert_eq!(dump(&old, &other_old), dump(&new, &other_new), "{words}");
        }
    }
    old.wait_exit();
    new.wait_exit();
}

#[test]
fn options_and_exit_codes_are_those_of_help() {
    let output = common::sozuctl(&["--help"]);
    let help = String::from_utf8(output.stdout).expect("text");
    for name in ["-t SECONDS", "--json", "-V", "-h", "-c FILE", "-s SOCKET"] {
        assert!(
            DOCUMENT.contains(&format!("| `{name}` |")) && help.contains(name),
            "{name}"
        );
    }
    for row in COMMANDS {
        assert!(help.contains(row.sentence), "{}", row.words());
    }
}
