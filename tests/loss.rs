//! Nothing is lost while the proxy is changed, restarted and upgraded; and who counts that would see it.

#[path = "loss/mod.rs"]
mod harness;

use harness::Outcome;

/// A run against the program that was built here.
#[track_caller]
fn run(words: &str) -> Outcome {
    let words = words.split(' ').map(str::to_string);
    let outcome = harness::run(words, env!("CARGO_BIN_EXE_sozu").into());
    let outcome = outcome.unwrap_or_else(|why| panic!("{why}"));
    println!("{}", outcome.text);
    outcome
}

#[test]
fn nothing_is_lost() {
    let outcome = run("--seconds 15");
    assert_eq!(
        outcome.code(),
        0,
        "{:?} {:?}",
        outcome.losses,
        outcome.faults
    );
}

/// With that fault there is that loss and no other, and the run has failed.
#[track_caller]
fn sees(fault: &str, loss: &str) {
    let outcome = run(&format!("--fault {fault}"));
    assert!(
        matches!(&outcome.losses[..], [only] if only.ends_with(loss)),
        "{:?}",
        outcome.losses
    );
    assert_eq!(outcome.faults, [""; 0]);
    assert_eq!(outcome.code(), 1);
}

#[test]
fn one_lost_request_is_seen() {
    sees("cut", ": Request");
}

#[test]
fn one_closed_idle_connection_is_seen() {
    sees("close", "30 ms away, idle: Idle");
}

#[test]
fn one_wrong_byte_is_seen() {
    sees("flip", "30 ms away, TCP: Tunnel");
}
