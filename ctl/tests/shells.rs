//! Completion in the shells themselves, where they are installed.

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{sozuctl, TempDir};
use std::process::{Command, Output};

fn script(shell: &str) -> Vec<u8> {
    let output = sozuctl(&["completion", shell]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    output.stdout
}

/// Nothing if that shell is not there.
fn run(shell: &str, arguments: &[&str]) -> Option<Output> {
    let mut command = Command::new(shell);
    command.args(arguments).env("LC_ALL", "C").output().ok()
}

#[test]
fn bash_completes() {
    let dir = TempDir::new();
    dir.write("sozuctl.bash", script("bash"));
    let asks = r#"
        source "$1/sozuctl.bash"
        COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDBREAKS=$' \t\n"\'><=;|&(:'
        _sozuctl 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let folder = dir.path("");
    let folder = folder.to_str().expect("a path");
    let file = format!("sozuctl apply -f {}", dir.path("sozuctl").display());
    let found = format!("{}", dir.path("sozuctl.bash").display());
    for (line, wanted) in [
        ("sozuctl li", "listener"),
        ("sozuctl -c x -t 5 --json li", "listener"),
        ("sozuctl listener ", "add remove update enable disable list"),
        ("sozuctl backend remove ", "cluster= id= wait="),
        ("sozuctl backend remove cluster=a:b i", "id="),
        (
            "sozuctl listener add address=[::1]:80 protocol=",
            "http https tcp tls_passthrough metrics",
        ),
        ("sozuctl listener add protocol=t", "tcp tls_passthrough"),
        (
            "sozuctl listener add answer_50",
            "answer_500= answer_501= answer_502= answer_503= answer_504= answer_505=",
        ),
        ("sozuctl shutdown h", "hard"),
        ("sozuctl state ", "dump diff check stats save load"),
        ("sozuctl state save ", "-f --secrets"),
        ("sozuctl completion ", "bash zsh fish"),
        ("sozuctl -", "-c -s -t --json -V -h"),
        ("sozuctl nothing ", ""),
        (&file, &found),
    ] {
        let Some(output) = run("bash", &["--norc", "-c", asks, "bash", folder, line]) else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words.join(" "), wanted, "{line}");
    }
}

#[test]
fn zsh_and_fish_read_their_scripts() {
    let dir = TempDir::new();
    for shell in ["zsh", "fish"] {
        let file = dir.write(shell, script(shell));
        if let Some(output) = run(shell, &["-n", file.to_str().expect("a path")]) {
            assert!(output.status.success(), "{output:?}");
        }
    }
}

#[test]
fn fish_completes() {
    let dir = TempDir::new();
    let file = dir.write("sozuctl.fish", script("fish"));
    let source = format!("source {}; complete -C $argv[1]", file.display());
    for (line, wanted) in [
        ("sozuctl -c x li", "listener"),
        (
            "sozuctl listener add protocol=",
            "protocol=http protocol=https protocol=metrics protocol=tcp",
        ),
        ("sozuctl backend remove ", "cluster= id= wait="),
    ] {
        let Some(output) = run("fish", &["-N", "-c", &source, line]) else {
            return;
        };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words: Vec<&str> = text.split_whitespace().collect();
        assert_eq!(words.join(" "), wanted, "{line}: {output:?}");
    }
}
