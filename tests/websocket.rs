//! Upgrades: asked for by the client, agreed to by the backend, then a tunnel.

mod common;

use common::{ok, pattern, same_bytes, Backend, Broken, Peer, Proxy, Setup, SIZES};

/// The example of RFC 6455 section 1.3.
const ASK: &str = "GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
    Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\nOrigin: http://example.com\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn before(backend: Backend) -> (Backend, Proxy) {
    let proxy = Setup::http().backends(&[backend.address()]).start();
    (backend, proxy)
}

/// Agrees to the upgrade, then sends back what comes.
fn agreeing() -> (Backend, Proxy) {
    before(Backend::scripted(|peer, _| {
        peer.request()?;
        peer.send(AGREE);
        loop {
            let byte = peer.exactly(1)?;
            peer.send(byte);
        }
    }))
}

#[track_caller]
fn upgraded(proxy: &Proxy) -> Peer {
    let mut client = proxy.client();
    let answer = client.ask(ASK);
    assert_eq!(answer.status(), 101, "{answer:?}");
    assert_eq!(answer.field("upgrade"), Some("websocket"));
    assert!(answer.connection_says("upgrade"));
    assert_eq!(
        answer.field("sec-websocket-accept"),
        Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    );
    client
}

#[test]
fn the_upgrade_reaches_the_backend() {
    let (backend, proxy) = agreeing();
    upgraded(&proxy);
    let got = backend.last_request();
    assert_eq!(got.field("upgrade"), Some("websocket"));
    assert!(got.connection_says("upgrade"), "{got:?}");
    assert_eq!(
        got.field("sec-websocket-key"),
        Some("dGhlIHNhbXBsZSBub25jZQ==")
    );
    assert_eq!(got.field("sec-websocket-version"), Some("13"));
    assert_eq!(got.field("origin"), Some("http://example.com"));
}

#[test]
fn then_it_is_a_tunnel() {
    let (_backend, proxy) = agreeing();
    let mut client = upgraded(&proxy);
    for word in ["\u{1}\u{2}", "GET / HTTP/1.1\r\n\r\n", "0\r\n\r\n", "\n"] {
        client.send(word);
        same_bytes(&client.exactly(word.len()).expect("echo"), word.as_bytes());
    }
}

#[test]
fn bodies_both_ways() {
    for size in SIZES {
        let bytes = pattern(size);
        let script_bytes = bytes.clone();
        let (backend, proxy) = before(Backend::scripted(move |peer, _| {
            peer.request()?;
            peer.send(AGREE);
            let sender = peer.send_meanwhile(script_bytes.clone());
            peer.exactly(script_bytes.len())?;
            sender.join().map_err(|_| Broken::Reset)?;
            Err(peer.rest().1)
        }));
        let mut client = upgraded(&proxy);
        let head = backend.bytes().len();
        let sender = client.send_meanwhile(bytes.clone());
        same_bytes(&client.exactly(size).expect("all of it"), &bytes);
        sender.join().expect("sender");
        same_bytes(&backend.wait_bytes(0, head + size)[head..], &bytes);
        client.finish();
        assert_eq!(client.end(), Broken::Eof);
        assert_eq!(backend.wait_end(0), Broken::Eof);
    }
}

/// Frames in the same packet as the heads belong to the tunnel.
#[test]
fn bytes_right_behind_the_heads() {
    let (backend, proxy) = before(Backend::scripted(|peer, _| {
        peer.request()?;
        peer.send(format!("{AGREE}first"));
        peer.exactly(5)?;
        Err(peer.rest().1)
    }));
    let mut client = proxy.client();
    client.send(format!("{ASK}early"));
    assert_eq!(client.response().status(), 101);
    assert_eq!(client.exactly(5).expect("the first frame"), b"first");
    common::wait_until("the early frame", || {
        backend.bytes().ends_with(b"early").then_some(())
    });
}

#[test]
fn half_closed_by_the_client() {
    let (_backend, proxy) = before(Backend::scripted(|peer, _| {
        peer.request()?;
        peer.send(AGREE);
        let (bytes, _) = peer.rest();
        peer.send(bytes).send("bye");
        Ok(())
    }));
    let mut client = upgraded(&proxy);
    client.send("hello").finish();
    assert_eq!(client.rest(), (b"hellobye".to_vec(), Broken::Eof));
}

/// A backend may decline; that is a response like any other.
#[test]
fn declined() {
    let (backend, proxy) = before(Backend::replying(|request| match request.target() {
        "/chat" => b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno".to_vec(),
        _ => ok("ok"),
    }));
    let mut client = proxy.client();
    let answer = client.ask(ASK);
    assert_eq!((answer.status(), answer.text().as_str()), (426, "no"));
    assert_eq!(client.get("/").text(), "ok");
    assert_eq!(backend.requests().len(), 2);
}

/// A 101 that is not the agreement to what was asked for is no response.
#[test]
fn agreed_to_something_else() {
    let others = [
        AGREE.replace("Upgrade: websocket", "Upgrade: h2c"),
        AGREE.replace("Upgrade: websocket\r\n", ""),
        AGREE.replace("Connection: Upgrade\r\n", ""),
        AGREE.replace(
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ),
        AGREE.replace("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", ""),
    ];
    for other in others {
        let (_backend, proxy) = before(Backend::scripted({
            let other = other.clone();
            move |peer, _| {
                peer.request()?;
                peer.send(&other).send("evil");
                peer.request().map(drop)
            }
        }));
        let answer = proxy.client().ask(ASK);
        assert_eq!(answer.status(), 502, "{other:?}");
        assert!(!answer.text().contains("evil"), "{other:?}");
    }
}

/// What asks for an upgrade in a wrong way asks for none, and a backend that
/// agrees all the same opens no tunnel.
#[test]
fn asked_for_in_a_wrong_way() {
    let wrong = [
        ASK.replace("Connection: keep-alive, Upgrade", "Connection: keep-alive"),
        ASK.replace("HTTP/1.1", "HTTP/1.0"),
    ];
    for ask in wrong {
        let (backend, proxy) = agreeing();
        let mut client = proxy.client();
        assert_eq!(client.ask(&ask).status(), 502, "{ask:?}");
        let got = backend.last_request();
        assert_eq!(got.all("upgrade"), [""; 0], "{ask:?}");
        assert!(!got.connection_says("upgrade"), "{ask:?}");
    }
}
