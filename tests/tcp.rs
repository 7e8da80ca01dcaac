//! TCP listeners: bytes pass both ways until both sides are done.

mod common;

use common::{
    pattern, refused_address, same_bytes, Backend, Broken, Gate, Peer, Proxy, Setup, SIZES,
};
use std::time::{Duration, Instant};

fn before(backend: Backend) -> (Backend, Proxy) {
    let proxy = Setup::tcp().backends(&[backend.address()]).start();
    (backend, proxy)
}

/// Sends back what comes, until the other side is done.
fn echo(peer: &mut Peer) -> Result<(), Broken> {
    loop {
        let byte = peer.exactly(1)?;
        peer.send(byte);
    }
}

#[test]
fn a_conversation() {
    let (_backend, proxy) = before(Backend::scripted(|peer, _| echo(peer)));
    let mut client = proxy.client();
    for word in ["a", "hello", "\r\n", "GET / HTTP/1.1\r\n\r\n", "\0\u{ff}"] {
        client.send(word);
        same_bytes(&client.exactly(word.len()).expect("echo"), word.as_bytes());
    }
}

#[test]
fn the_server_speaks_first() {
    let (_backend, proxy) = before(Backend::scripted(|peer, _| {
        peer.send("220 ready\r\n");
        echo(peer)
    }));
    let mut client = proxy.client();
    assert_eq!(client.exactly(11).expect("a greeting"), b"220 ready\r\n");
    client.send("x");
    assert_eq!(client.exactly(1).expect("echo"), b"x");
}

/// The client is done; the backend sees that, and still answers.
#[test]
fn half_closed_by_the_client() {
    for size in SIZES {
        let (_backend, proxy) = before(Backend::scripted(|peer, _| {
            let (bytes, end) = peer.rest();
            assert_eq!(end, Broken::Eof);
            peer.send(bytes);
            Ok(())
        }));
        let (mut client, bytes) = (proxy.client(), pattern(size));
        client.send(&bytes).finish();
        let (back, end) = client.rest();
        same_bytes(&back, &bytes);
        assert_eq!(end, Broken::Eof);
    }
}

/// The backend is done; the client sees that, and still sends.
#[test]
fn half_closed_by_the_backend() {
    for size in SIZES {
        let bytes = pattern(size);
        let script_bytes = bytes.clone();
        let (backend, proxy) = before(Backend::scripted(move |peer, _| {
            peer.send(&script_bytes).finish();
            Err(peer.rest().1)
        }));
        let mut client = proxy.client();
        let (got, end) = client.rest();
        same_bytes(&got, &bytes);
        assert_eq!(end, Broken::Eof);
        client.send(&bytes).finish();
        same_bytes(&backend.wait_bytes(0, size), &bytes);
        assert_eq!(backend.wait_end(0), Broken::Eof);
    }
}

#[test]
fn both_ways_at_once() {
    for size in SIZES {
        let bytes = pattern(size);
        let script_bytes = bytes.clone();
        let (backend, proxy) = before(Backend::scripted(move |peer, _| {
            let sender = peer.send_meanwhile(script_bytes.clone());
            peer.exactly(script_bytes.len())?;
            sender.join().map_err(|_| Broken::Reset)?;
            Err(peer.rest().1)
        }));
        let mut client = proxy.client();
        let sender = client.send_meanwhile(bytes.clone());
        same_bytes(&client.exactly(size).expect("all of it"), &bytes);
        sender.join().expect("sender");
        same_bytes(&backend.wait_bytes(0, size), &bytes);
    }
}

/// A cut is passed on as a cut: an orderly end would be a lie.
#[test]
fn reset_by_the_backend() {
    let gate = Gate::default();
    let inner = gate.clone();
    let (_backend, proxy) = before(Backend::scripted(move |peer, _| {
        peer.send("hello");
        inner.pass();
        // Closed over the unread bytes of the client.
        Ok(())
    }));
    let mut client = proxy.client();
    assert_eq!(client.exactly(5).expect("hello"), b"hello");
    client.send("unread").silent_for(Duration::from_millis(100));
    gate.admit(1);
    assert_eq!(client.end(), Broken::Reset);
}

#[test]
fn reset_by_the_client() {
    let (backend, proxy) = before(Backend::scripted(|peer, _| {
        peer.send("hello");
        Err(peer.rest().1)
    }));
    let mut client = proxy.client();
    client.send("x");
    backend.wait_bytes(0, 1);
    client.reset();
    assert_eq!(backend.wait_end(0), Broken::Reset);
}

#[test]
fn a_backend_that_refuses() {
    let alive = Backend::scripted(|peer, _| echo(peer));
    let proxy = Setup::tcp()
        .backends(&[refused_address(), alive.address()])
        .start();
    for _ in 0..4 {
        let mut client = proxy.client();
        client.send("x");
        assert_eq!(client.exactly(1).expect("echo"), b"x");
    }
    let proxy = Setup::tcp().backends(&[refused_address()]).start();
    proxy.client().ends();
}

#[test]
fn backends_take_turns() {
    let name = |name: &'static str| {
        Backend::scripted(move |peer, _| {
            peer.send(name);
            Err(peer.rest().1)
        })
    };
    let backends = [name("a"), name("b")];
    let proxy = Setup::tcp()
        .backends(&[backends[0].address(), backends[1].address()])
        .start();
    let names: Vec<_> = (0..10)
        .map(|_| proxy.client().exactly(1).expect("a name")[0])
        .collect();
    assert_eq!(
        names.iter().filter(|name| **name == b'a').count(),
        5,
        "{names:?}"
    );
}

#[test]
fn a_tunnel_in_which_nothing_moves() {
    let backend = Backend::scripted(|peer, _| echo(peer));
    let proxy = Setup::tcp()
        .top("tunnel_timeout", 1)
        .backends(&[backend.address()])
        .start();
    let mut client = proxy.client();
    for _ in 0..4 {
        client.silent_for(Duration::from_millis(400));
        client.send("x");
        assert_eq!(client.exactly(1).expect("echo"), b"x");
    }
    let start = Instant::now();
    client.ends();
    assert!(
        start.elapsed() > Duration::from_millis(900),
        "{:?}",
        start.elapsed()
    );
    let end = backend.wait_end(0);
    assert!(matches!(end, Broken::Eof | Broken::Reset), "{end:?}");
}
