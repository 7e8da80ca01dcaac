//! The command line of `sozuctl` where there is no proxy to talk to.

#[path = "../../tests/common/mod.rs"]
mod common;

use common::TempDir;
use std::os::unix::net::UnixListener;
use std::process::{Command, Output};

fn sozuctl(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sozuctl"));
    command.args(arguments).output().expect("sozuctl runs")
}

fn fails(arguments: &[&str], code: i32, words: &str) {
    let output = sozuctl(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    assert!(text.contains(words), "{arguments:?}: {text}");
}

#[test]
fn mistakes_are_told_apart() {
    fails(&[], 2, "which proxy");
    fails(&["-s"], 2, "needs a value");
    fails(&["-s", "/nowhere/sock"], 2, "no command");
    fails(&["--sock", "x", "status"], 2, "unknown option --sock");
    fails(&["-s", "/nowhere/sock", "status"], 3, "no such socket");
    fails(
        &["-c", "/nowhere/config.toml", "status"],
        2,
        "/nowhere/config.toml",
    );
}

#[test]
fn help_is_no_mistake() {
    let output = sozuctl(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).contains("usage: sozuctl"));
}

#[test]
fn what_needs_a_file_says_so() {
    for words in [["state", "save"].as_slice(), &["state", "load"], &["apply"]] {
        fails(&[&["-s", "/nowhere/sock"], words].concat(), 2, "which file");
    }
    fails(
        &["-s", "x", "apply", "--dry", "-f", "x"],
        2,
        "--dry is not known",
    );
    fails(
        &["-s", "x", "state", "load", "-f", "/nowhere/f"],
        1,
        "cannot read /nowhere/f",
    );
    fails(&["-s", "x", "status", "--Key", "1"], 2, "is no key");
    fails(&["completion", "csh"], 2, "which shell");
    fails(&["-s", "x", "top", "--twice"], 2, "--once");
}

/// The program that asked for JSON gets the reason as JSON.
#[test]
fn failures_are_json_too() {
    for (arguments, wanted) in [
        (
            ["--json", "-s", "/nowhere/sock", "status"],
            "{\"ok\":false,\"code\":\"unreachable\",\"text\":\"cannot connect to /nowhere/sock: ",
        ),
        (
            ["--json", "-q", "x", "status"],
            "{\"ok\":false,\"code\":\"usage\",\"text\":\"unknown option -q\"}\n",
        ),
    ] {
        let output = sozuctl(&arguments);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.starts_with(wanted), "{text}");
    }
}

#[test]
fn whoever_listens_but_never_answers() {
    let dir = TempDir::new();
    let socket = dir.path("sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    let name = socket.to_str().expect("a path");
    fails(
        &["-s", name, "-t", "0.1", "status"],
        3,
        "has not answered in time",
    );
    fails(&["-s", name, "-t", "soon", "status"], 2, "-t takes seconds");
    drop(listener);
    fails(&["-s", name, "status"], 3, "sozu is not running");
}

#[test]
fn a_configuration_is_checked_without_a_proxy() {
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../config.toml");
    let output = sozuctl(&["config", "check", "-c", shipped]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        sozuctl(&["-c", shipped, "config", "check"]).status.code(),
        Some(0)
    );
    fails(&["config", "check", "-c", "/nowhere/x"], 1, "/nowhere/x");
    fails(&["config", "check"], 2, "which configuration");
}

/// A running proxy is steered whatever became of the rest of its file.
#[test]
fn the_socket_is_found_in_a_file_with_mistakes() {
    let dir = TempDir::new();
    let file = dir.path("c.toml");
    let name = file.to_str().expect("a path");
    std::fs::write(&file, "worker_cuont = 2\ncommand_socket = \"c.sock\"\n").expect("write");
    let wanted = format!("{}: there is no such socket", dir.path("c.sock").display());
    fails(&["-c", name, "status"], 3, &wanted);
    std::fs::write(&file, "command_socket = 1\n").expect("write");
    fails(&["-c", name, "status"], 2, "command_socket is an integer");
    std::fs::write(&file, "command_socket = \"x\n").expect("write");
    fails(&["-c", name, "status"], 2, "c.toml:1:");
}

#[test]
fn help_needs_no_proxy() {
    let output = sozuctl(&["help", "backend"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        text.contains("backend add") && text.contains("weight"),
        "{text}"
    );
    fails(&["help", "nothing"], 1, "no command starts with");
    let output = sozuctl(&["--version"]);
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("sozuctl "));
}
