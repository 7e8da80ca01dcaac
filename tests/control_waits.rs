//! Whoever takes a backend from service, or ends the proxy, may wait until
//! nothing uses it any more, and hears meanwhile how far that has come. And who
//! listens hears of backends that go down and come up.

mod common;

use common::{free_address, ok, signal, wait_until, Backend, Control, Gate, Peer, Proxy, Setup};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

fn workers(count: usize) -> Setup {
    Setup::http().top("worker_count", count)
}

/// It answers when the gate lets it.
fn slow(gate: &Gate) -> Backend {
    let gate = gate.clone();
    Backend::replying(move |_| {
        gate.pass();
        ok("late")
    })
}

/// A proxy with one backend, and clients that it makes wait.
fn busy(setup: Setup, count: usize) -> (Gate, Backend, Proxy, Vec<Peer>) {
    let gate = Gate::default();
    let backend = slow(&gate);
    let proxy = setup.backends(&[backend.address()]).start();
    let mut peers: Vec<Peer> = (0..count).map(|_| proxy.client()).collect();
    for peer in &mut peers {
        peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    backend.wait_requests(count);
    (gate, backend, proxy, peers)
}

#[track_caller]
fn served(peers: &mut [Peer]) {
    for peer in peers {
        assert_eq!(peer.response().text(), "late");
    }
}

/// The numbers of a line `progress`.
fn progress(line: &str) -> (u64, u64) {
    let words = line.strip_prefix("progress connections=").expect(line);
    let (connections, seconds) = words.split_once(" seconds_left=").expect(line);
    let number = |text: &str| text.parse().expect("a number");
    (number(connections), number(seconds))
}

#[test]
fn the_answer_comes_when_the_backend_is_empty() {
    let (gate, _backend, proxy, mut peers) = busy(workers(2), 4);
    let mut client = proxy.steer();
    client.send("backend remove cluster=main id=main-0 wait=30\n");
    let line = client.line().expect("progress");
    let (connections, seconds) = progress(&line);
    assert_eq!(connections, 4, "{line}");
    assert!((25..30).contains(&seconds), "{line}");
    // No new ones from the first moment on.
    assert_eq!(proxy.client().get("/").status(), 503);
    gate.admit(1);
    let line = client.line().expect("more progress");
    assert_eq!(progress(&line).0, 3, "{line}");
    gate.admit(3);
    served(&mut peers);
    let reply = client.reply();
    assert_eq!(reply.last, "ok revision=1 changes=1 connections=0");
    assert_eq!(client.ok("ping").data.len(), 0);
}

#[test]
fn or_when_the_time_is_over() {
    let (gate, _backend, proxy, mut peers) = busy(workers(2), 3);
    let mut client = proxy.steer();
    let reply = client.ok("backend remove cluster=main id=main-0 wait=1");
    assert_eq!(reply.last, "ok revision=1 changes=1 connections=3");
    gate.admit(3);
    served(&mut peers);
    // Nothing to wait for.
    client.ok("backend add cluster=main id=b address=127.0.0.1:1");
    let reply = client.ok("backend remove cluster=main id=b wait=30");
    assert_eq!(reply.last, "ok revision=3 changes=1 connections=0");
    let said = client.refused("backend remove cluster=main id=b wait=30", "missing");
    assert!(said.contains("does not exist"), "{said}");
}

/// The one that has its name now is another one.
#[test]
fn added_again_meanwhile() {
    let (gate, backend, proxy, mut peers) = busy(workers(1), 1);
    let mut client = proxy.steer();
    client.send("backend remove cluster=main id=main-0 wait=30\n");
    let mut other = proxy.steer();
    wait_until("the removal", || {
        other.ok("backend list").data.is_empty().then_some(())
    });
    other.ok(&format!(
        "backend add cluster=main id=main-0 address={}",
        backend.address()
    ));
    let mut late = proxy.client();
    late.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    backend.wait_requests(2);
    let mut second = other;
    second.send("backend remove cluster=main id=main-0 wait=30\n");
    assert_eq!(progress(&second.line().expect("progress")).0, 1);
    gate.admit(2);
    served(&mut peers);
    served(std::slice::from_mut(&mut late));
    for client in [&mut client, &mut second] {
        assert!(client.reply().last.ends_with(" connections=0"));
    }
}

#[test]
fn a_transaction_waits_for_all_of_them() {
    let (gate, backend, proxy, mut peers) = busy(workers(2), 2);
    let mut client = proxy.steer();
    client.ok("begin");
    client.ok("backend remove cluster=main id=main-0 wait=1");
    client.ok(&format!(
        "backend add cluster=main id=b address={}",
        backend.address()
    ));
    client.ok("backend update cluster=main id=b state=drain wait=30");
    client.send("commit\n");
    // Longer than the shorter one.
    assert_eq!(progress(&client.line().expect("progress")).0, 2);
    client.silent_for(Duration::from_millis(500));
    gate.admit(2);
    served(&mut peers);
    assert_eq!(client.reply().last, "ok revision=1 changes=3 connections=0");
}

#[test]
fn draining_waits_too() {
    let (gate, _backend, proxy, mut peers) = busy(workers(2), 2);
    let mut client = proxy.steer();
    client.send("backend update cluster=main id=main-0 state=drain wait=30\n");
    assert_eq!(progress(&client.line().expect("progress")).0, 2);
    gate.admit(2);
    served(&mut peers);
    assert_eq!(client.reply().last, "ok revision=1 changes=1 connections=0");
    // `wait` is no key of a backend.
    assert!(!client.dump().join("\n").contains("wait"));
}

/// Its connections are those of the process that retires.
#[test]
fn processes_that_retire_or_die() {
    let (gate, backend, proxy, mut peers) = busy(workers(1), 1);
    let mut client = proxy.steer();
    client.ok("worker restart id=0");
    client.send("backend remove cluster=main id=main-0 wait=30\n");
    assert_eq!(progress(&client.line().expect("progress")).0, 1);
    gate.admit(1);
    served(&mut peers);
    assert!(client.reply().last.ends_with(" connections=0"));
    client.ok(&format!(
        "backend add cluster=main id=b address={}",
        backend.address()
    ));
    let mut peer = proxy.client();
    peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    backend.wait_requests(2);
    client.send("backend remove cluster=main id=b wait=30\n");
    assert_eq!(progress(&client.line().expect("progress")).0, 1);
    assert!(signal(proxy.worker().pid, "KILL"));
    assert!(client.reply().last.ends_with(" connections=0"));
    gate.admit(1);
}

/// What was asked is done whether or not he who asked is still there.
#[test]
fn a_client_that_does_not_wait_for_it() {
    let (gate, _backend, proxy, mut peers) = busy(workers(1), 1);
    proxy
        .steer()
        .send("backend remove cluster=main id=main-0 wait=30\n");
    let mut client = proxy.steer();
    wait_until("the removal", || {
        client.ok("backend list").data.is_empty().then_some(())
    });
    gate.admit(1);
    served(&mut peers);
    client.ok("status");
}

#[test]
fn the_end_shows_how_many_are_in_its_way() {
    let (gate, _backend, mut proxy, mut peers) = busy(workers(2), 3);
    let mut client = proxy.steer();
    client.send("shutdown timeout=30\n");
    let line = client.line().expect("progress");
    assert_eq!(progress(&line).0, 3, "{line}");
    gate.admit(3);
    served(&mut peers);
    drop(peers);
    assert_eq!(client.reply().last, "ok moved=0 drained=3 draining=0 cut=0");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

#[track_caller]
fn event(events: &mut Control, text: &str) -> String {
    loop {
        let line = events.line().expect("an event");
        if line.contains(text) {
            return line;
        }
    }
}

#[test]
fn a_backend_goes_down_and_comes_up() {
    let address = free_address();
    let proxy = workers(1).backends(&[address]).start();
    let mut events = proxy.steer();
    events.send("events\nping\n");
    events.reply();
    assert_eq!(proxy.client().get("/").status(), 503);
    for _ in 0..3 {
        assert_eq!(proxy.client().get("/").status(), 503);
    }
    let line = event(&mut events, "kind=backend");
    let wanted = format!(
        " kind=backend cluster=main id=main-0 address={address} state=down worker=0 why=\""
    );
    assert!(line.contains(&wanted), "{line}");
    proxy.wait_log("backend main-0 of cluster main at");
    let listener = TcpListener::bind(address).expect("bind");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 4096];
            while stream.read(&mut bytes).is_ok_and(|count| count > 0) {
                stream.write_all(&ok("up")).expect("write");
            }
        }
    });
    assert_eq!(proxy.client().get("/").text(), "up");
    let line = event(&mut events, "kind=backend");
    assert!(line.ends_with(" state=up worker=0"), "{line}");
    proxy.wait_log("takes connections again");
}
