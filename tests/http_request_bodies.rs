//! Where the body of a request ends: what is refused inside it, and that nobody
//! takes a body for the next request.

mod common;

use common::{ok, Backend, Message, Setup};

/// The body is refused, and the backend, which may have got the head, never
/// gets a body that looks complete.
#[test]
fn chunks() {
    let backend = Backend::answering(ok("ok"));
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let long = format!("5;a={}\r\nhello\r\n0\r\n\r\n", "a".repeat(300));
    let bodies = [
        "\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "10000000000000\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello\r0\r\n\r\n",
        "5;a=\u{1}\r\nhello\r\n0\r\n\r\n",
        "5;a=\"b\r\nhello\r\n0\r\n\r\n",
        &long,
        "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        "5\r\nhello\r\n0\r\n folded: x\r\n\r\n",
        "5\r\nhello\r\n0\n\n",
    ];
    let head = "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in bodies {
        for dripping in [false, true] {
            let (mut client, request) = (proxy.client(), format!("{head}{body}"));
            if dripping {
                client.drip(&request);
            } else {
                client.send(&request);
            }
            let answer = client.try_response("POST");
            let answer = answer.unwrap_or_else(|broken| panic!("{body:?}: {broken:?}"));
            assert_eq!(answer.status(), 400, "{body:?}");
            assert!(answer.connection_says("close"), "{body:?}");
            client.ends();
            assert_eq!(backend.requests().len(), 0, "{body:?} was completed");
        }
    }
    assert_eq!(proxy.client().get("/").status(), 200);
}

#[test]
fn good_chunks() {
    let head = "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: Chunked\r\n\r\n";
    let bodies = [
        ("0\r\n\r\n", ""),
        ("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("005\r\nhello\r\n000\r\n\r\n", "hello"),
        ("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ("5;a\r\nhello\r\n0;b=c\r\n\r\n", "hello"),
        ("5;a=\"b;c\"\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n", "hello"),
    ];
    let backend = Backend::echo();
    let proxy = Setup::http().backends(&[backend.address()]).start();
    for (body, text) in bodies {
        let request = format!("{head}{body}");
        assert_eq!(
            proxy.client().send(&request).response().text(),
            text,
            "{body:?}"
        );
        assert_eq!(
            proxy.client().drip(&request).response().text(),
            text,
            "{body:?}"
        );
    }
}

/// The length of a body never depends on the method, and the end of the
/// connection never delimits it.
#[test]
fn framing_is_the_same_for_every_method() {
    let backend = Backend::answering(ok("ok"));
    let proxy = Setup::http().backends(&[backend.address()]).start();
    for method in ["GET", "HEAD", "POST", "DELETE", "OPTIONS", "PURGE"] {
        let counted =
            format!("{method} /1 HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello");
        let bare = format!("{method} /2 HTTP/1.1\r\nHost: example.com\r\n\r\n");
        let before = backend.requests().len();
        let mut client = proxy.client();
        client.send(counted + &bare);
        for _ in 0..2 {
            let answer = client.try_response(method).expect(method);
            assert_eq!(answer.status(), 200, "{method}");
            let rest = if method == "HEAD" { 0 } else { 2 };
            assert_eq!(answer.body.len(), rest, "{method}");
        }
        let requests = backend.wait_requests(before + 2);
        let bodies: Vec<_> = requests[before..].iter().map(Message::text).collect();
        assert_eq!(bodies, ["hello", ""], "{method}");
    }
}

/// A body that nobody wants is not taken for the next request.
#[test]
fn an_unwanted_body_is_drained_or_the_connection_closed() {
    let backend = Backend::answering(ok("ok"));
    let address = format!("address = \"{}\"", backend.address());
    let proxy = Setup::http()
        .cluster("main", &["hostname = \"example.com\""], &[&address])
        .start();
    let inner = "GET /smuggled HTTP/1.1\r\nHost: example.com\r\n\r\n";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: nowhere.example\r\nContent-Length: {}\r\n\r\n{inner}",
        inner.len()
    );
    let mut client = proxy.client();
    let answer = client.ask(request);
    assert_eq!(answer.status(), 404);
    if answer.connection_says("close") {
        client.ends();
    } else {
        assert_eq!(client.get("/next").status(), 200);
        client.finish();
        client.ends();
    }
    let smuggled = backend
        .requests()
        .into_iter()
        .find(|r| r.target() == "/smuggled");
    assert!(smuggled.is_none(), "{smuggled:?}");
}
