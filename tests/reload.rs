//! Edits of the file and changes at runtime that meet in one object: by a
//! reload, and by a restart.

mod common;

use common::{Control, Proxy, Setup, TempDir};
use std::net::SocketAddr;
use std::path::Path;

const BACKEND: &str = "127.0.0.1:1";

/// A cluster with one backend, which says `more`.
fn setup(more: &str) -> Setup {
    let backend = format!("id = \"b\", address = \"{BACKEND}\"{more}");
    Setup::http().cluster("a", &["hostname = \"a\""], &[backend])
}

fn rewrite(proxy: &Proxy, from: &str, to: &str) {
    let text = std::fs::read_to_string(proxy.config()).expect("the file");
    assert!(text.contains(from), "{from} in\n{text}");
    std::fs::write(proxy.config(), text.replace(from, to)).expect("write");
}

fn backend(client: &mut Control) -> String {
    let lines = client.ok("backend list").data;
    let [line] = &lines[..] else {
        panic!("{lines:?}");
    };
    let keys = line.split_once(BACKEND).expect("an address").1;
    keys.trim().to_string()
}

#[test]
fn edits_of_different_keys_both_hold() {
    let proxy = setup(", weight = 50").start();
    let mut client = proxy.steer();
    client.ok("backend update cluster=a id=b state=drain");
    let address: SocketAddr = proxy.address();
    client.ok(&format!(
        "listener update address={address} answer_404=gone"
    ));
    rewrite(&proxy, "weight = 50", "weight = 60, backup = true");
    rewrite(&proxy, "[[listeners]]", "[[listeners]]\nfront_timeout = 7");
    assert!(client.ok("reload").data.is_empty());
    assert_eq!(backend(&mut client), "weight=60 backup=true state=drain");
    let listener = client.ok("listener list").data.join("");
    for key in ["front_timeout=7 ", "answer_404=gone"] {
        assert!(listener.contains(key), "{listener}");
    }
    let diff = [
        format!("listener update address={address} answer_404=gone"),
        "backend update cluster=a id=b state=drain".into(),
    ];
    assert_eq!(client.ok("state diff").data, diff);
    // Nothing is left of it once it is taken back.
    client.ok("backend update cluster=a id=b unset=state");
    client.ok(&format!(
        "listener update address={address} unset=answer_404"
    ));
    assert!(client.ok("state diff").data.is_empty());
}

#[test]
fn of_the_same_key_the_one_at_runtime_holds_and_that_is_told() {
    let proxy = setup(", weight = 50").start();
    let mut client = proxy.steer();
    client.ok("backend update cluster=a id=b weight=10 state=drain");
    rewrite(&proxy, "weight = 50", "weight = 60, backup = true");
    let told = [
        "kept command=\"backend update cluster=a id=b weight=10 state=drain\" \
         over=\"backend update cluster=a id=b weight=60\"",
    ];
    assert_eq!(client.ok("reload").data, told);
    assert_eq!(backend(&mut client), "weight=10 backup=true state=drain");
    // Told once: the file says what it said.
    assert!(client.ok("reload").data.is_empty());
    // The same value on both sides is no quarrel, and then no difference.
    rewrite(&proxy, "weight = 60", "weight = 10");
    assert!(client.ok("reload").data.is_empty());
    let diff = client.ok("state diff").data;
    assert_eq!(diff, ["backend update cluster=a id=b state=drain"]);
    rewrite(&proxy, "weight = 10", "weight = 11");
    assert!(client.ok("reload").data.is_empty());
    assert_eq!(backend(&mut client), "weight=11 backup=true state=drain");
}

fn saving(setup: Setup, saved: &Path) -> Proxy {
    setup
        .top("saved_state", format!("{saved:?}"))
        .top("automatic_state_save", true)
        .start()
}

#[test]
fn edits_of_different_keys_both_hold_after_a_restart() {
    let dir = TempDir::new();
    let saved = dir.path("state");
    let mut proxy = saving(setup(", weight = 50"), &saved);
    let mut client = proxy.steer();
    client.ok("cluster update id=a answer_503=closed answer_404=gone");
    client.ok("cluster update id=a unset=answer_404");
    client.ok("backend update cluster=a id=b state=drain");
    proxy.signal("TERM");
    proxy.wait_exit();
    let text = std::fs::read_to_string(&saved).expect("the saved state");
    let lines = [
        "cluster update id=a answer_503=closed",
        "backend update cluster=a id=b state=drain",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    let proxy = saving(setup(", weight = 60"), &saved);
    let mut client = proxy.steer();
    assert_eq!(backend(&mut client), "weight=60 backup=false state=drain");
    assert_eq!(client.ok("state diff").data, lines);
}
