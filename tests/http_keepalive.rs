//! Connections that are kept: which are used again, by whom, and when a
//! request is sent a second time.

mod common;

use common::{
    ok, pattern, refused_address, same_bytes, Backend, Broken, Gate, Proxy, Setup, StuckListener,
    LARGE, SIZES,
};
use std::time::Duration;

fn before(backend: Backend) -> (Backend, Proxy) {
    let proxy = Setup::http().backends(&[backend.address()]).start();
    (backend, proxy)
}

/// Answers the first request of the first connection; there, at the second
/// request, reads it and does `then`. Every other connection serves.
fn dying_at_the_second(then: &'static str) -> Backend {
    Backend::scripted(move |peer, number| {
        peer.request()?;
        peer.send(ok("first"));
        loop {
            peer.request()?;
            if number == 0 {
                peer.send(then);
                return Ok(());
            }
            peer.send(ok("later"));
        }
    })
}

/// A request with that method, with a body if it says so.
fn request(method: &str, body: &str) -> String {
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("Content-Length: {}\r\n", body.len())
    };
    format!("{method} /tried HTTP/1.1\r\nHost: example.com\r\n{length}\r\n{body}")
}

fn tries(backend: &Backend) -> usize {
    backend
        .requests()
        .iter()
        .filter(|r| r.target() == "/tried")
        .count()
}

#[test]
fn both_sides_are_kept() {
    let (backend, proxy) = before(Backend::echo());
    let mut client = proxy.client();
    for _ in 0..20 {
        let answer = client.get("/");
        assert_eq!(answer.status(), 200);
        assert!(!answer.connection_says("close"));
    }
    assert_eq!((backend.connections(), backend.requests().len()), (1, 20));
    drop(client);
    assert_eq!(proxy.client().get("/").status(), 200);
    assert_eq!(
        backend.connections(),
        1,
        "another client, the same backend connection"
    );
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (_backend, proxy) = before(Backend::replying(|request| ok(request.target())));
    let mut client = proxy.client();
    let request = |n| format!("GET /{n} HTTP/1.1\r\nHost: example.com\r\n\r\n");
    client.send((0..50).map(request).collect::<String>());
    for n in 0..50 {
        assert_eq!(client.response().text(), format!("/{n}"));
    }
}

#[test]
fn pipelined_bodies() {
    for size in SIZES {
        let (backend, proxy) = before(Backend::echo());
        let (mut client, body) = (proxy.client(), pattern(size));
        let head =
            format!("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: {size}\r\n\r\n");
        let sender = client.send_meanwhile([head.as_bytes(), &body].concat().repeat(2));
        for _ in 0..2 {
            same_bytes(&client.response().body, &body);
        }
        sender.join().expect("sender");
        assert_eq!(backend.requests().len(), 2);
    }
}

/// The slow answer to the first one does not let the second one overtake.
#[test]
fn pipelined_behind_a_slow_one() {
    let gate = Gate::default();
    let inner = gate.clone();
    let (backend, proxy) = before(Backend::replying(move |request| {
        if request.target() == "/slow" {
            inner.pass();
        }
        ok(request.target())
    }));
    let mut client = proxy.client();
    client.send("GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n");
    client.send("GET /fast HTTP/1.1\r\nHost: example.com\r\n\r\n");
    backend.wait_requests(1);
    client.silent_for(Duration::from_millis(100));
    gate.admit(1);
    assert_eq!(client.response().text(), "/slow");
    assert_eq!(client.response().text(), "/fast");
}

#[test]
fn http_1_0_is_kept_only_when_asked_for() {
    let (_backend, proxy) = before(Backend::echo());
    let mut client = proxy.client();
    let answer = client.ask("GET / HTTP/1.0\r\nHost: example.com\r\n\r\n");
    assert_eq!(answer.status(), 200);
    client.ends();
    let mut client = proxy.client();
    for _ in 0..3 {
        let request = "GET / HTTP/1.0\r\nHost: example.com\r\nConnection: Keep-Alive\r\n\r\n";
        let answer = client.ask(request);
        assert_eq!(answer.status(), 200);
        assert!(answer.connection_says("keep-alive"), "{answer:?}");
    }
}

#[test]
fn a_client_that_wants_to_close() {
    let (backend, proxy) = before(Backend::echo());
    for _ in 0..3 {
        let mut client = proxy.client();
        let answer =
            client.ask("GET / HTTP/1.1\r\nHost: example.com\r\nConnection: foo, CLOSE\r\n\r\n");
        assert!(answer.connection_says("close"), "{answer:?}");
        assert_eq!(client.end(), Broken::Eof);
    }
    assert_eq!(
        backend.connections(),
        1,
        "what the client wants is not the backend's affair"
    );
}

#[test]
fn a_client_that_sends_no_more_still_gets_its_answer() {
    let gate = Gate::default();
    let inner = gate.clone();
    let (backend, proxy) = before(Backend::replying(move |_| {
        inner.pass();
        ok("ok")
    }));
    let mut client = proxy.client();
    client
        .send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
        .finish();
    backend.wait_requests(1);
    gate.admit(1);
    assert_eq!(client.response().text(), "ok");
    assert_eq!(client.end(), Broken::Eof);
}

#[test]
fn a_backend_that_wants_to_close() {
    let (backend, proxy) = before(Backend::answering(
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    ));
    let mut client = proxy.client();
    for count in 1..4 {
        let answer = client.get("/");
        assert!(!answer.connection_says("close"), "{answer:?}");
        assert_eq!(backend.connections(), count);
    }
}

#[test]
fn a_pooled_connection_is_not_kept_for_long() {
    let backend = Backend::echo();
    let setup = Setup::http().top("back_keepalive_timeout", 1);
    let proxy = setup.backends(&[backend.address()]).start();
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(backend.wait_end(0), Broken::Eof);
    assert_eq!(
        client.get("/").status(),
        200,
        "the client is kept all the same"
    );
    assert_eq!(backend.connections(), 2);
}

#[test]
fn a_pooled_connection_that_the_backend_closed() {
    let closing = || {
        Backend::scripted(|peer, _| {
            peer.request()?;
            peer.send(ok("ok"));
            Ok(())
        })
    };
    for method in ["GET", "POST"] {
        let (backend, proxy) = before(closing());
        let mut client = proxy.client();
        for count in 1..4 {
            assert_eq!(client.ask(request(method, "")).status(), 200);
            // Time for the FIN to be seen: an idle connection is watched.
            client.silent_for(Duration::from_millis(50));
            assert_eq!(backend.connections(), count);
        }
    }
}

/// A pooled connection on which a backend speaks unasked is dropped.
#[test]
fn a_pooled_connection_on_which_something_comes() {
    let gate = Gate::default();
    let inner = gate.clone();
    let (backend, proxy) = before(Backend::scripted(move |peer, number| loop {
        peer.request()?;
        peer.send(ok("ok"));
        if number == 0 {
            inner.pass();
            peer.send("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n");
        }
    }));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "ok");
    gate.admit(1);
    backend.wait_end(0);
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(backend.connections(), 2);
}

#[test]
fn an_idempotent_request_is_tried_once_more() {
    for method in ["GET", "DELETE", "PUT", "OPTIONS"] {
        let (backend, proxy) = before(dying_at_the_second(""));
        let mut client = proxy.client();
        assert_eq!(client.get("/").text(), "first");
        let answer = client.ask(request(method, ""));
        assert_eq!((answer.status(), tries(&backend)), (200, 2), "{method}");
    }
}

#[test]
fn tried_once_more_only() {
    let (backend, proxy) = before(Backend::scripted(|peer, number| {
        if number == 0 {
            peer.request()?;
            peer.send(ok("first"));
        }
        peer.request().map(drop)
    }));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "first");
    assert_eq!(client.ask(request("GET", "")).status(), 502);
    assert_eq!((tries(&backend), backend.connections()), (2, 2));
}

#[test]
fn never_again_on_a_fresh_connection() {
    let (backend, proxy) = before(Backend::scripted(|peer, _| peer.request().map(drop)));
    assert_eq!(proxy.client().ask(request("GET", "")).status(), 502);
    assert_eq!(tries(&backend), 1);
}

#[test]
fn never_again_after_a_byte_of_an_answer() {
    let (backend, proxy) = before(dying_at_the_second("HTTP/1.1 2"));
    let mut client = proxy.client();
    assert_eq!(client.get("/").text(), "first");
    assert_eq!(client.ask(request("GET", "")).status(), 502);
    assert_eq!(tries(&backend), 1);
}

/// POST, and anything with a body: sent once, and if nobody answers the
/// client is told and decides.
#[test]
fn what_is_not_idempotent_is_never_sent_twice() {
    for (method, body) in [
        ("POST", ""),
        ("POST", "hello"),
        ("PUT", "hello"),
        ("PATCH", ""),
    ] {
        let (backend, proxy) = before(dying_at_the_second(""));
        let mut client = proxy.client();
        assert_eq!(client.get("/").text(), "first");
        let answer = client.ask(request(method, body));
        assert!(matches!(answer.status(), 200 | 502), "{method} {body}");
        let fresh = backend.connections() == 2;
        assert_eq!(
            (answer.status() == 200, tries(&backend)),
            (fresh, 1),
            "{method} {body}"
        );
    }
}

#[test]
fn what_is_not_idempotent_takes_no_connection_that_was_idle() {
    for (method, body) in [("POST", ""), ("PUT", "hello")] {
        let (backend, proxy) = before(dying_at_the_second(""));
        let mut client = proxy.client();
        assert_eq!(client.get("/").text(), "first");
        client.silent_for(Duration::from_millis(700));
        assert_eq!(
            client.ask(request(method, body)).text(),
            "first",
            "{method}"
        );
        assert_eq!((backend.connections(), tries(&backend)), (2, 1), "{method}");
    }
}

#[test]
fn a_refused_connect_tries_another_backend() {
    let backend = Backend::named("alive");
    let addresses = [refused_address(), refused_address(), backend.address()];
    let proxy = Setup::http().backends(&addresses).start();
    for method in ["GET", "POST", "GET", "POST", "GET", "POST"] {
        let answer = proxy.client().ask(request(method, "hello"));
        assert_eq!(answer.text(), "alive", "{method}");
    }
}

#[test]
fn a_connect_that_times_out() {
    let (stuck, backend) = (StuckListener::new(), Backend::named("alive"));
    let line = |address| format!("address = \"{address}\"");
    let proxy = Setup::http()
        .top("connect_timeout", 1)
        .cluster(
            "stuck",
            &["hostname = \"stuck.example\""],
            &[line(stuck.address())],
        )
        .cluster(
            "both",
            &["hostname = \"*\""],
            &[line(stuck.address()), line(backend.address())],
        )
        .start();
    // Both at once: each costs seconds.
    let mut alone = proxy.client();
    alone.send("POST / HTTP/1.1\r\nHost: stuck.example\r\nContent-Length: 0\r\n\r\n");
    let mut pair = [proxy.client(), proxy.client()];
    for client in &mut pair {
        client.send(request("POST", "hello"));
    }
    for client in &mut pair {
        assert_eq!(client.response().text(), "alive");
    }
    assert_eq!(alone.response().status(), 504);
}

#[test]
fn a_client_that_goes_away_in_its_body() {
    let (backend, proxy) = before(Backend::echo());
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000\r\n\r\nhello");
    common::wait_until("the start of the body", || {
        backend.bytes().ends_with(b"hello").then_some(())
    });
    drop(client);
    let end = backend.wait_end(0);
    assert!(matches!(end, Broken::Eof | Broken::Reset), "{end:?}");
    assert_eq!(backend.requests().len(), 0);
    assert_eq!(proxy.client().get("/").status(), 200);
    assert_eq!(backend.connections(), 2, "the broken one is not used again");
}

#[test]
fn a_client_that_goes_away_in_its_answer() {
    let body = pattern(LARGE);
    let (backend, proxy) = before(Backend::scripted(move |peer, _| {
        peer.request()?;
        peer.send(ok(&body));
        peer.request().map(drop)
    }));
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
    client.reset();
    let end = backend.wait_end(0);
    assert!(matches!(end, Broken::Eof | Broken::Reset), "{end:?}");
    let mut next = proxy.client();
    assert_eq!(next.get("/").body.len(), LARGE);
    assert_eq!(backend.connections(), 2);
}

/// Nothing of one client's exchange is left for the next on a shared connection.
#[test]
fn many_clients_share_a_pool() {
    let (backend, proxy) = before(Backend::echo());
    let mut clients: Vec<_> = (0..20).map(|_| proxy.client()).collect();
    for round in 0..5 {
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(request("PUT", &format!("{round}.{n}")));
        }
        for (n, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.response().text(), format!("{round}.{n}"));
        }
    }
    assert!(
        backend.connections() <= 20,
        "{} connections",
        backend.connections()
    );
}
