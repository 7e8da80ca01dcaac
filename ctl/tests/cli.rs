//! The command line of `sozuctl` where there is no proxy to talk to.

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
