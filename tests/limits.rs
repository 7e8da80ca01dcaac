//! Time and room: everything that waits ends, and nobody's slowness costs memory.

mod common;

use common::{ok, pattern, same_bytes, wait_until, Backend, Broken, Gate, Proxy, Setup, LARGE};
use std::time::{Duration, Instant};

/// A time limit of one second ends something now, not much earlier and not much later.
#[track_caller]
fn took_a_second(start: Instant) {
    let took = start.elapsed();
    let sane = Duration::from_millis(900)..Duration::from_secs(6);
    assert!(sane.contains(&took), "it took {took:?}");
}

/// A proxy before a backend, with one time limit of the listener at one second.
fn limited(key: &str, backend: Backend) -> (Backend, Proxy) {
    let proxy = Setup::http()
        .top(key, 1)
        .backends(&[backend.address()])
        .start();
    (backend, proxy)
}

#[test]
fn a_head_that_does_not_come() {
    let (backend, proxy) = limited("request_timeout", Backend::echo());
    let mut client = proxy.client();
    let start = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: exam");
    let answer = client.response();
    took_a_second(start);
    assert_eq!(answer.status(), 408);
    assert!(answer.connection_says("close"));
    client.ends();
    assert_eq!(backend.connections(), 0);
}

/// A byte now and then does not put the limit off.
#[test]
fn a_head_that_comes_slowly() {
    let (_backend, proxy) = limited("request_timeout", Backend::echo());
    let mut client = proxy.client();
    let start = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: ");
    while start.elapsed() < Duration::from_millis(600) {
        client.send("e").silent_for(Duration::from_millis(50));
    }
    assert_eq!(client.response().status(), 408);
    took_a_second(start);
}

/// The limit is the listener's own where it has one.
#[test]
fn a_listener_has_limits_of_its_own() {
    let backend = Backend::echo();
    let setup = Setup::http()
        .top("request_timeout", 300)
        .listener("request_timeout", 1);
    let proxy = setup.backends(&[backend.address()]).start();
    assert_eq!(proxy.client().send("GET").response().status(), 408);
}

#[test]
fn a_request_body_that_does_not_come() {
    let (backend, proxy) = limited("front_timeout", Backend::echo());
    let mut client = proxy.client();
    let start = Instant::now();
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000\r\n\r\nhello");
    assert_eq!(client.response().status(), 408);
    took_a_second(start);
    client.ends();
    let end = backend.wait_end(0);
    assert!(matches!(end, Broken::Eof | Broken::Reset), "{end:?}");
}

#[test]
fn an_answer_that_does_not_come() {
    let (backend, proxy) = limited(
        "back_timeout",
        Backend::scripted(|peer, _| {
            peer.request()?;
            peer.request().map(drop)
        }),
    );
    for method in ["GET", "POST"] {
        let mut client = proxy.client();
        let start = Instant::now();
        client.send(format!("{method} / HTTP/1.1\r\nHost: example.com\r\n\r\n"));
        assert_eq!(client.response().status(), 504, "{method}");
        took_a_second(start);
    }
    assert_eq!(backend.requests().len(), 2, "never sent twice");
    backend.wait_end(0);
}

#[test]
fn an_answer_that_stops_in_the_middle() {
    let (backend, proxy) = limited(
        "back_timeout",
        Backend::scripted(|peer, _| {
            peer.request()?;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhello");
            peer.request().map(drop)
        }),
    );
    let mut client = proxy.client();
    let start = Instant::now();
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
    assert_eq!(client.head().status(), 200);
    assert_eq!(client.rest(), (b"hello".to_vec(), Broken::Reset));
    took_a_second(start);
    backend.wait_end(0);
}

/// A client that does not read is silent inside a message.
#[test]
fn a_client_that_does_not_read() {
    let body = pattern(4 * LARGE);
    let (backend, proxy) = limited(
        "front_timeout",
        Backend::scripted(move |peer, _| {
            peer.request()?;
            peer.send(ok(&body));
            peer.request().map(drop)
        }),
    );
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
    backend.wait_end(0);
    let (bytes, end) = client.rest();
    assert!(bytes.len() < 4 * LARGE, "all of it");
    assert_eq!(end, Broken::Reset);
}

#[test]
fn a_client_between_requests() {
    let (_backend, proxy) = limited("keepalive_timeout", Backend::echo());
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    let start = Instant::now();
    assert_eq!(
        client.end(),
        Broken::Eof,
        "not a word: nobody asked anything"
    );
    took_a_second(start);
}

#[test]
fn a_client_that_never_says_a_word() {
    let backend = Backend::echo();
    let setup = Setup::http()
        .top("request_timeout", 1)
        .top("keepalive_timeout", 1);
    let proxy = setup.backends(&[backend.address()]).start();
    let (mut client, start) = (proxy.client(), Instant::now());
    let (_, end) = client.rest();
    assert_eq!(end, Broken::Eof);
    took_a_second(start);
}

/// A long exchange that moves is not cut by limits on silence.
#[test]
fn what_moves_is_not_cut() {
    let gate = Gate::default();
    let inner = gate.clone();
    let backend = Backend::scripted(move |peer, _| loop {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n");
        for byte in ["a", "b", "c", "d"] {
            inner.pass();
            peer.send(byte);
        }
    });
    let setup = Setup::http().top("front_timeout", 1).top("back_timeout", 1);
    let proxy = setup
        .top("request_timeout", 1)
        .backends(&[backend.address()])
        .start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
    client.head();
    let mut body = Vec::new();
    for _ in 0..4 {
        client.silent_for(Duration::from_millis(500));
        gate.admit(1);
        body.extend(client.exactly(1).expect("a byte"));
    }
    assert_eq!(body, b"abcd");
}

/// At the limit nobody is turned away: those who wait are served in the order they came.
#[test]
fn connections_at_the_limit() {
    let gate = Gate::default();
    let inner = gate.clone();
    let backend = Backend::replying(move |_| {
        inner.pass();
        ok("ok")
    });
    let setup = Setup::http().top("max_connections", 4);
    let proxy = setup.backends(&[backend.address()]).start();
    let request = |n| format!("GET /{n} HTTP/1.1\r\nHost: example.com\r\n\r\n");
    let said = || {
        proxy
            .log()
            .iter()
            .filter(|line| line.contains("the limit (max_connections)"))
            .count()
    };
    proxy.wait_log("ready");
    let said_before = said();
    let mut clients: Vec<_> = (0..4).map(|_| proxy.client()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(request(n));
    }
    backend.wait_requests(4);
    let mut waiting: Vec<_> = (4..7)
        .map(|n| {
            let mut client = proxy.client();
            client
                .send(request(n))
                .silent_for(Duration::from_millis(100));
            client
        })
        .collect();
    assert_eq!(backend.requests().len(), 4);
    wait_until("the log says so", || (said() > said_before).then_some(()));
    assert_eq!(
        said(),
        said_before + 1,
        "once, not per connection: {:?}",
        proxy.log()
    );
    gate.admit(4);
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
    }
    for n in 4..7 {
        drop(clients.pop());
        let requests = backend.wait_requests(n + 1);
        assert_eq!(requests.len(), n + 1);
        assert!(
            requests.iter().any(|r| r.target() == format!("/{n}")),
            "not in turn: {n}"
        );
        gate.admit(1);
        clients.insert(0, waiting.remove(0));
        assert_eq!(clients[0].response().status(), 200);
    }
}

/// Resident pages of a process, in KiB.
fn resident_kib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

/// Eight bodies of 8 MiB that nobody reads, then somebody does: they wait at
/// the backend, not here.
#[test]
fn bodies_do_not_pile_up() {
    const CLIENTS: usize = 8;
    let body = pattern(LARGE);
    let inner = body.clone();
    let backend = Backend::replying(move |_| ok(&inner));
    let proxy = Setup::http().backends(&[backend.address()]).start();
    assert_eq!(proxy.client().get("/").body.len(), LARGE);
    let pid = proxy.worker().pid;
    let before = resident_kib(pid);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
    }
    backend.wait_requests(1 + CLIENTS);
    for client in &mut clients {
        assert_eq!(client.head().status(), 200);
    }
    let most = resident_kib(pid);
    assert!(most < before + 4096, "{before} KiB grew to {most} KiB");
    for client in &mut clients {
        same_bytes(&client.exactly(LARGE).expect("the body"), &body);
    }
    let after = resident_kib(pid);
    assert!(after < before + 4096, "{before} KiB grew to {after} KiB");
}

/// The same the other way: a backend that does not read holds its client up.
#[test]
fn uploads_do_not_pile_up() {
    let gate = Gate::default();
    let inner = gate.clone();
    let backend = Backend::scripted(move |peer, _| {
        inner.pass();
        let request = peer.request()?;
        peer.send(ok(request.body.len().to_string()));
        Ok(())
    });
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let pid = proxy.worker().pid;
    let before = resident_kib(pid);
    let (mut client, size) = (proxy.client(), 4 * LARGE);
    let head = format!("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: {size}\r\n\r\n");
    client.send(head);
    let sender = client.send_meanwhile(pattern(size));
    client.silent_for(Duration::from_millis(300));
    let most = resident_kib(pid);
    assert!(most < before + 4096, "{before} KiB grew to {most} KiB");
    assert!(!sender.is_finished(), "{size} bytes went somewhere");
    gate.admit(1);
    assert_eq!(client.response().text(), size.to_string());
    sender.join().expect("sender");
}

/// A thousand requests, and the worker is as large as after the first hundred.
#[test]
fn requests_leave_nothing_behind() {
    let backend = Backend::echo();
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let pid = proxy.worker().pid;
    let run = |count: usize| {
        for _ in 0..count {
            let mut client = proxy.client();
            for _ in 0..10 {
                assert_eq!(client.get("/").status(), 200);
            }
        }
        wait_until("its connections are gone", || {
            (proxy.worker().connections == 0).then(|| resident_kib(pid))
        })
    };
    let (before, after) = (run(10), run(100));
    assert!(after < before + 1024, "{before} KiB grew to {after} KiB");
}
