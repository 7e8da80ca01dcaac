//! What becomes of the backend's answers, good and bad, and what our own look like.

mod common;

use common::{
    chunked, ok, pattern, refused_address, same_bytes, Backend, Broken, Framing, Message, Proxy,
    Setup, LARGE, SIZES, SMALL,
};

/// A backend that answers everything with these bytes, behind a proxy.
fn answering(bytes: impl AsRef<[u8]>) -> (Backend, Proxy) {
    before(Backend::answering(bytes))
}

/// A backend that answers one request per connection with these bytes, then closes.
fn answering_once(bytes: impl AsRef<[u8]>) -> (Backend, Proxy) {
    let bytes = bytes.as_ref().to_vec();
    before(Backend::scripted(move |peer, _| {
        peer.request()?;
        peer.send(&bytes);
        Ok(())
    }))
}

fn before(backend: Backend) -> (Backend, Proxy) {
    let proxy = Setup::http().backends(&[backend.address()]).start();
    (backend, proxy)
}

/// One of our own answers: what all of them have in common.
#[track_caller]
fn own(answer: &Message, status: u16) {
    assert_eq!(answer.status(), status, "{answer:?}");
    assert_eq!(answer.field("cache-control"), Some("no-store"));
    assert!(answer
        .field("content-type")
        .is_some_and(|kind| kind.starts_with("text/html")));
    let text = answer.text();
    assert!(text.contains(&status.to_string()), "{text}");
    assert!(
        !format!("{answer:?}").contains(env!("CARGO_PKG_VERSION")),
        "{answer:?}"
    );
}

const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
const GET_1_0: &str = "GET / HTTP/1.0\r\nHost: example.com\r\n\r\n";

/// Each is no response: the client gets a 502 and never a byte of it.
#[test]
fn malformed_heads() {
    let long = format!("HTTP/1.1 200 OK\r\nX-Evil: {}\r\n\r\n", "a".repeat(20_000));
    let lines = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X-Evil: y\r\n".repeat(101));
    let heads = [
        "evil\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 2x0 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1\t200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\r\nX-Evil: a\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Evil: a\rb\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Evil: a\r\n b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Evil : a\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Evil\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: evil\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX-Evil: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 4x\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nevil!",
        "HTTP/1.1 200 OK\r\nContent-Length: 4, 5\r\n\r\nevil!",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nevil",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        &long,
        &lines,
    ];
    for head in heads {
        let (backend, proxy) = answering_once(head);
        let answer = proxy.client().get("/");
        own(&answer, 502);
        assert!(!answer.text().contains("evil"), "{head:?}");
        assert_eq!(backend.requests().len(), 1, "asked again after {head:?}");
    }
}

/// A response that ends before its head does.
#[test]
fn backends_that_die_before_an_answer() {
    for part in [
        "",
        "H",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
    ] {
        for method in ["GET", "POST"] {
            let (backend, proxy) = answering_once(part);
            let request = format!("{method} / HTTP/1.1\r\nHost: example.com\r\n\r\n");
            own(&proxy.client().ask(request), 502);
            assert_eq!(backend.requests().len(), 1, "{method} after {part:?}");
        }
    }
}

/// With a bad chunk the client gets a 502 or a cut, never a body that looks whole.
#[test]
fn malformed_chunks() {
    let bodies = [
        "\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "10000000000000\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nno colon\r\n\r\n",
        "5\r\nhello\r\ng\r\n\r\n",
    ];
    for body in bodies {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (_backend, proxy) = answering_once(format!("{head}{body}"));
        let mut client = proxy.client();
        match client.send(GET).try_response("GET") {
            Ok(answer) => own(&answer, 502),
            Err(broken) => assert!(matches!(broken, Broken::Eof | Broken::Reset), "{broken:?}"),
        }
    }
}

#[test]
fn interim_responses_pass() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n";
    let hundred = "HTTP/1.1 100 Continue\r\n\r\n";
    let last = String::from_utf8(ok("ok")).expect("text");
    let (_backend, proxy) = answering(format!("{hundred}{hints}{hints}{last}"));
    let mut client = proxy.client();
    client.send(GET);
    for _ in 0..2 {
        let answer = client.response();
        assert_eq!(
            (answer.status(), answer.field("link")),
            (103, Some("</a.css>"))
        );
    }
    assert_eq!(client.response().text(), "ok");
    let mut old = proxy.client();
    assert_eq!(old.ask(GET_1_0).status(), 200, "none to a client of 1.0");
}

#[test]
fn continue_when_it_was_asked_for() {
    let backend = Backend::scripted(|peer, _| loop {
        let head = peer.head();
        peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        let length = head.field("content-length").expect("a length");
        let body = peer.exactly(length.parse().expect("a number"))?;
        peer.send(ok(body));
    });
    let (_backend, proxy) = before(backend);
    for size in SIZES {
        let (mut client, body) = (proxy.client(), pattern(size));
        client.send(format!(
            "PUT / HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\nContent-Length: {size}\r\n\r\n"
        ));
        assert_eq!(client.response().status(), 100);
        let sender = client.send_meanwhile(body.clone());
        same_bytes(&client.response().body, &body);
        sender.join().expect("sender");
    }
}

#[test]
fn a_refused_expectation_needs_no_body() {
    let (_backend, proxy) = before(Backend::scripted(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n");
        peer.exactly(1).map(drop)
    }));
    let answer = proxy.client().ask(
        "PUT / HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n",
    );
    assert_eq!(answer.status(), 413);
}

/// HEAD, 204 and 304 have no body whatever the fields say, and the
/// connection goes on behind them.
#[test]
fn responses_without_a_body() {
    let cases = [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("HEAD", "HTTP/1.1 404 Not Found\r\n\r\n"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "GET",
            "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\n\r\n",
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
    ];
    for (method, bytes) in cases {
        let (backend, proxy) = answering(bytes);
        let mut client = proxy.client();
        let request = format!("{method} / HTTP/1.1\r\nHost: example.com\r\n\r\n");
        for _ in 0..3 {
            let answer = client.send(&request).try_response(method);
            let answer = answer.unwrap_or_else(|broken| panic!("{method} {bytes:?}: {broken:?}"));
            assert_eq!(answer.start, bytes.lines().next().expect("a line"));
        }
        assert_eq!(backend.connections(), 1, "{method} {bytes:?}");
    }
}

#[test]
fn counted_bodies() {
    for size in SIZES {
        let body = pattern(size);
        let (_backend, proxy) = answering(ok(&body));
        let mut client = proxy.client();
        for _ in 0..2 {
            let answer = client.get("/");
            assert_eq!(answer.framing, Framing::Counted(size));
            same_bytes(&answer.body, &body);
        }
        let old = proxy.client().ask(GET_1_0);
        same_bytes(&old.body, &body);
    }
}

#[test]
fn chunked_bodies() {
    for size in SIZES {
        let body = pattern(size);
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (_backend, proxy) = answering([&head[..], &chunked(&body)].concat());
        let mut client = proxy.client();
        for _ in 0..2 {
            let answer = client.get("/");
            assert_eq!(answer.framing, Framing::Chunked);
            same_bytes(&answer.body, &body);
        }
        let mut old = proxy.client();
        let answer = old.ask(GET_1_0);
        assert_eq!(
            answer.framing,
            Framing::UntilClose,
            "no chunks for a client of 1.0"
        );
        same_bytes(&answer.body, &body);
    }
}

#[test]
fn extensions_and_trailers_of_responses() {
    let (_backend, proxy) = answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         5;secret=\"a;b\"\r\nhello\r\n0;secret\r\nX-Sum: 1\r\nContent-Length: 7\r\n\r\n",
    );
    let answer = proxy.client().get("/");
    assert_eq!(answer.text(), "hello");
    assert_eq!(answer.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
}

#[test]
fn bodies_until_close() {
    for size in SIZES {
        let body = pattern(size);
        let (backend, proxy) = answering_once([b"HTTP/1.1 200 OK\r\n\r\n", &body[..]].concat());
        let mut client = proxy.client();
        for count in 1..3 {
            let answer = client.get("/");
            assert_eq!(
                answer.framing,
                Framing::Chunked,
                "chunked again, so that we can go on"
            );
            same_bytes(&answer.body, &body);
            assert_eq!(backend.connections(), count);
        }
        let answer = proxy.client().ask(GET_1_0);
        assert_eq!(answer.framing, Framing::UntilClose);
        same_bytes(&answer.body, &body);
    }
}

#[test]
fn a_backend_of_http_1_0() {
    let (backend, proxy) = answering("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut client = proxy.client();
    for count in 1..3 {
        let answer = client.get("/");
        assert_eq!(
            (answer.start.as_str(), answer.text().as_str()),
            ("HTTP/1.1 200 OK", "ok")
        );
        assert_eq!(backend.connections(), count, "it did not ask to be kept");
    }
}

#[test]
fn fields_of_responses() {
    let (_backend, proxy) = answering(
        "HTTP/1.1 200 Very Fine\r\nZebra: 1\r\nsEt-cOOkie: a=b\r\nSet-Cookie: c=d\r\n\
         Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\n\
         Upgrade: h2c\r\nX-Empty:\r\nContent-Length: 02\r\nZebra: 2\r\n\r\nok",
    );
    let answer = proxy.client().get("/");
    assert_eq!(answer.start, "HTTP/1.1 200 Very Fine");
    for gone in ["x-hop", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(answer.all(gone), [""; 0], "{gone}: {answer:?}");
    }
    assert!(!answer.connection_says("x-hop"));
    let wanted = [
        ("Zebra", "1"),
        ("sEt-cOOkie", "a=b"),
        ("Set-Cookie", "c=d"),
        ("X-Empty", ""),
    ];
    for (name, value) in wanted
        .into_iter()
        .chain([("Content-Length", "2"), ("Zebra", "2")])
    {
        let field = (name.to_owned(), value.to_owned());
        assert!(answer.fields.contains(&field), "{field:?} in {answer:?}");
    }
    let order: Vec<_> = answer.fields.iter().map(|field| field.0.as_str()).collect();
    let place = |name: &str| order.iter().position(|other| *other == name);
    assert!(place("Zebra") < place("sEt-cOOkie") && place("sEt-cOOkie") < place("Set-Cookie"));
}

/// A counted body that stays short, in all its sizes.
#[test]
fn backends_that_die_in_a_counted_body() {
    for size in SIZES {
        let body = pattern(size);
        let whole = ok(&body);
        let (_backend, proxy) = answering_once(&whole[..whole.len() - 1]);
        let mut client = proxy.client();
        let head = client.send(GET).head();
        assert_eq!(
            head.field("content-length"),
            Some(size.to_string().as_str())
        );
        let (rest, end) = client.rest();
        // A reset overtakes what still lies in the socket; what came is right.
        let came = if size == SIZES[0] {
            size - 1
        } else {
            rest.len()
        };
        assert!(came < size);
        same_bytes(&rest, &body[..came]);
        assert_eq!(end, Broken::Reset, "a counted body is cut with RST");
    }
}

#[test]
fn backends_that_die_in_a_chunked_body() {
    for size in SIZES {
        let body = chunked(&pattern(size));
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for missing in [1, 5, 50] {
            let part = &body[..body.len() - missing];
            let (_backend, proxy) = answering_once([&head[..], part].concat());
            let mut client = proxy.client();
            let broken = client.send(GET).try_response("GET").expect_err("cut");
            assert!(matches!(broken, Broken::Eof | Broken::Reset), "{broken:?}");
        }
    }
}

/// RST is no end of a body that lasts until close.
#[test]
fn backends_that_reset_a_body_until_close() {
    for size in [SMALL, LARGE] {
        let body = pattern(size);
        let script_body = body.clone();
        let (_backend, proxy) = before(Backend::scripted(move |peer, _| {
            peer.request_unread()?;
            peer.send("HTTP/1.1 200 OK\r\n\r\n").send(&script_body);
            Ok(())
        }));
        let mut client = proxy.client();
        let broken = client.send(GET).try_response("GET").expect_err("cut");
        assert!(matches!(broken, Broken::Eof | Broken::Reset), "{broken:?}");
    }
}

/// Bytes behind a response are nobody's: they are not seen, and that
/// connection is not used again.
#[test]
fn bytes_after_the_end() {
    let head = "HTTP/1.1 204 No Content\r\n\r\n";
    let chunks = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let counted = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    for response in [head, chunks, counted] {
        let evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
        let (backend, proxy) = answering(format!("{response}{evil}"));
        let mut client = proxy.client();
        for count in 1..4 {
            let answer = client.get("/");
            assert!(!answer.text().contains("evil"), "{response:?}");
            assert_eq!(backend.connections(), count, "{response:?}");
        }
    }
}

/// The answer may come before the request is whole; the client gets it.
#[test]
fn an_answer_before_the_end_of_the_request() {
    let (_backend, proxy) = before(Backend::scripted(|peer, _| {
        peer.head();
        peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno");
        Ok(())
    }));
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 1000000\r\n\r\nhello");
    let answer = client.response();
    assert_eq!((answer.status(), answer.text().as_str()), (413, "no"));
}

#[test]
fn own_answers() {
    let backend = Backend::named("ok");
    let rule = ["hostname = \"example.com\""];
    let line = format!("address = \"{}\"", backend.address());
    let proxy = Setup::http().cluster("main", &rule, &[line]).start();
    let request = |method: &str| format!("{method} / HTTP/1.1\r\nHost: nowhere.example\r\n\r\n");
    let mut client = proxy.client();
    let answer = client.ask(request("GET"));
    own(&answer, 404);
    // A request that was understood is no reason to part.
    assert_eq!(client.get("/").text(), "ok");
    let head = client
        .send(request("HEAD"))
        .try_response("HEAD")
        .expect("a head");
    assert_eq!(head.status(), 404);
    assert_eq!(
        head.field("content-length"),
        Some(answer.body.len().to_string().as_str())
    );
    assert_eq!(client.get("/").text(), "ok");
    own(&proxy.client().ask("GET / HTTP/1.1\r\n\r\n"), 400);
}

#[test]
fn own_answers_are_replaceable() {
    let setup = Setup::http();
    let file = setup.file("404.html", "<p>Nothing of <b>ours</b></p>");
    let proxy = setup
        .listener("answers", format!("{{ \"404\" = {file} }}"))
        .start();
    let answer = proxy.client().get("/");
    assert_eq!(answer.status(), 404);
    assert_eq!(answer.text(), "<p>Nothing of <b>ours</b></p>");
    assert_eq!(answer.field("cache-control"), Some("no-store"));
}

#[test]
fn no_backend_that_takes_a_connection() {
    let none: [&str; 0] = [];
    let refusing = [refused_address(), refused_address()].map(|a| format!("address = \"{a}\""));
    let proxy = Setup::http()
        .cluster("refusing", &["hostname = \"refusing.example\""], &refusing)
        .cluster("empty", &["hostname = \"empty.example\""], &none)
        .start();
    for host in ["refusing.example", "empty.example"] {
        for method in ["GET", "POST"] {
            let request =
                format!("{method} / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
            own(&proxy.client().ask(request), 503);
        }
    }
}
