//! TCP listeners: bytes pass both ways until both sides are done.

mod common;

use common::{
    pattern, refused_address, same_bytes, wait_until, Backend, Broken, Gate, Peer, Proxy, Setup,
    DEADLINE, LARGE, SIZES,
};
use sozu_lib::sys::socket;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
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

/// A connection through the proxy, both of its ends bare.
fn bare() -> (Proxy, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("getsockname");
    let proxy = Setup::tcp().backends(&[address]).start();
    let mut client = TcpStream::connect(proxy.address()).expect("connect");
    let (mut back, _) = listener.accept().expect("accept");
    for stream in [&client, &back] {
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    }
    client.write_all(b"up").expect("sent");
    back.read_exact(&mut [0; 2]).expect("received");
    back.write_all(b"down").expect("sent");
    client.read_exact(&mut [0; 4]).expect("received");
    (proxy, client, back)
}

/// A side that has shut its half and is gone then is not waited for, although nobody speaks to it.
#[test]
fn reset_after_the_half_was_closed() {
    for from_client in [true, false] {
        let (proxy, client, back) = bare();
        let (goes, stays) = if from_client {
            (client, back)
        } else {
            (back, client)
        };
        goes.shutdown(Shutdown::Write).expect("shutdown");
        assert_eq!((&stays).read(&mut [0]).expect("an end"), 0);
        socket::reset(&goes).expect("reset");
        wait_until("the other side to be reset", || {
            stays.take_error().expect("getsockopt")
        });
        let end = if from_client {
            "client_reset"
        } else {
            "backend_cut"
        };
        proxy.wait_access(1, end);
    }
}

/// What was sent before arrives; then it is a cut.
#[test]
fn reset_behind_bytes_that_wait() {
    for from_client in [true, false] {
        let (_proxy, client, back) = bare();
        let (mut goes, mut stays) = if from_client {
            (client, back)
        } else {
            (back, client)
        };
        // As much as lies on the way while nobody reads: the kernel says when there is no more room.
        goes.set_nonblocking(true).expect("fcntl");
        let bytes = pattern(LARGE);
        let sent = goes.write(&bytes).expect("some");
        goes.set_nonblocking(false).expect("fcntl");
        stays
            .read_exact(&mut vec![0; sent / 2])
            .expect("half of it");
        socket::reset(&goes).expect("reset");
        let mut rest = Vec::new();
        let end = stays.read_to_end(&mut rest).expect_err("a cut");
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
        let all = &bytes[sent / 2..];
        assert!(all.starts_with(&rest), "other bytes");
    }
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
