//! What one exchange leaves behind must not reach the next one.

mod common;

use common::{ok, pattern, same_bytes, Backend, Gate, Proxy, Setup};

fn before(backend: Backend) -> (Backend, Proxy) {
    let proxy = Setup::http().backends(&[backend.address()]).start();
    (backend, proxy)
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n")
}

/// However long the response is, and however it is carried: copied, in a
/// buffer that it fills to its last byte, or spliced.
#[test]
fn surplus_answers_nobody() {
    for size in [10, 16_000, 16_384 - 41, 16_384, 100_000] {
        let body = pattern(size);
        let answer = [ok(&body), ok("evil")].concat();
        let (backend, proxy) = before(Backend::scripted(move |peer, number| loop {
            peer.request()?;
            peer.send(match number {
                0 => answer.clone(),
                _ => ok("good"),
            });
        }));
        let mut client = proxy.client();
        client.send(get("/first") + &get("/second"));
        same_bytes(&client.response().body, &body);
        assert_eq!(client.response().text(), "good", "behind {size} bytes");
        assert_eq!(proxy.client().get("/third").text(), "good");
        assert_eq!(backend.connections(), 2);
    }
}

/// The client has said all that it will ever say; it is owed the answers.
#[test]
fn all_requests_before_a_half_close_are_answered() {
    let (_backend, proxy) = before(Backend::replying(|request| ok(request.target())));
    let mut client = proxy.client();
    client.send(get("/1") + &get("/2") + &get("/3") + "GET /4");
    client.finish();
    for path in ["/1", "/2", "/3"] {
        assert_eq!(client.response().text(), path);
    }
    client.ends();
}

/// A backend that answers before it was asked, on a connection that waits.
#[test]
fn what_comes_on_an_idle_connection_answers_nobody() {
    let gate = Gate::default();
    let inner = gate.clone();
    let (backend, proxy) = before(Backend::scripted(move |peer, number| {
        peer.request()?;
        peer.send(ok("good"));
        inner.pass();
        if number == 0 {
            peer.send(ok("evil"));
        }
        peer.rest();
        Ok(())
    }));
    assert_eq!(proxy.client().get("/").text(), "good");
    gate.admit(1);
    backend.wait_end(0);
    assert_eq!(proxy.client().get("/").text(), "good");
}
