use super::*;
use crate::http::response::{Asked, Kind, Response};
use crate::parser::http11::{self, Fields, Parse};

fn forward(text: &str, trusted: bool) -> String {
    forward_by(text, trusted, None)
}

fn forward_by(text: &str, trusted: bool, actions: Option<&Actions>) -> String {
    let mut fields = Fields::new();
    let Parse::Complete { line, .. } = http11::request(text.as_bytes(), 0, &mut fields) else {
        panic!("{text}");
    };
    let head = Head {
        bytes: text.as_bytes(),
        lines: fields.as_slice(),
    };
    let mut resolved = Vec::new();
    let parsed = Request::of(&line, head, &mut resolved).unwrap();
    let edge = Edge {
        secure: false,
        client: "192.0.2.7".parse().unwrap(),
        trusted,
        listener: "127.0.0.1:8080".parse().unwrap(),
        request_id: b"0123",
        identity: b"",
        actions,
        cookie: None,
    };
    let mut out = Vec::new();
    request(&parsed, head, edge, &mut out);
    String::from_utf8(out).unwrap()
}

const OURS: &str = "X-Forwarded-For: 192.0.2.7\r\n\
     Forwarded: for=192.0.2.7;host=\"a\";proto=http\r\n\
     X-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nX-Forwarded-Port: 8080\r\n\
     X-Request-Id: 0123\r\nVia: 1.1 sozu\r\n";

#[test]
fn order_and_spelling_stay_and_ours_follow() {
    let got = forward(
        "GET /x?y HTTP/1.1\r\nhOsT: a\r\nB: 2\r\nA:  1 \r\n\r\n",
        false,
    );
    assert_eq!(
        got,
        format!("GET /x?y HTTP/1.1\r\nhOsT: a\r\nB: 2\r\nA: 1\r\n{OURS}\r\n")
    );
}

#[test]
fn hop_by_hop_fields_go_and_cannot_take_ours_along() {
    let got = forward(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Mine, X-Forwarded-For, Host\r\nX-Mine: 1\r\n\
         Keep-Alive: 5\r\nProxy-Connection: x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nTE: gzip\r\n\
         X_Forwarded_For: 6.6.6.6\r\nTrailer: x\r\n\r\n",
        false,
    );
    assert_eq!(got, format!("GET / HTTP/1.1\r\nHost: a\r\n{OURS}\r\n"));
}

#[test]
fn entries_are_appended_and_claims_replaced_unless_trusted() {
    let text =
        "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2\r\n\
                X-Forwarded-Proto: https\r\nX-Request-Id: mine\r\nForwarded: for=x\r\n\r\n";
    let got = forward(text, false);
    assert!(got.contains("X-Forwarded-For: 1.1.1.1\r\nX-Forwarded-For: 2.2.2.2, 192.0.2.7\r\n"));
    assert!(got.contains("Forwarded: for=x, for=192.0.2.7;host=\"a\";proto=http\r\n"));
    assert!(
        got.contains("X-Forwarded-Proto: http\r\n")
            && !got.contains("https")
            && !got.contains("mine")
    );
    let got = forward(text, true);
    assert!(got.contains("X-Forwarded-Proto: https\r\n") && got.contains("X-Request-Id: mine\r\n"));
    assert!(
        !got.contains("X-Forwarded-Proto: http\r\n") && got.contains("X-Forwarded-Port: 8080\r\n")
    );
}

#[test]
fn an_open_quote_swallows_nothing() {
    let text = "GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=\"x\\\"\r\n\r\n";
    let got = forward(text, false);
    assert_eq!(got.matches("Forwarded: for=").count(), 1, "{got}");
    assert!(got.contains("Forwarded: for=192.0.2.7;"), "{got}");
    let text = "GET / HTTP/1.1\r\nHost: a\r\nForwarded: for=\"[::1]\"\r\n\r\n";
    assert!(forward(text, false).contains("Forwarded: for=\"[::1]\", for=192.0.2.7;"));
}

#[test]
fn a_websocket_handshake_keeps_its_upgrade() {
    let got = forward(
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        false,
    );
    assert!(got.ends_with("Via: 1.1 sozu\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
}

#[test]
fn framing_is_ours() {
    let got = forward(
        "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 007\r\n\r\n",
        false,
    );
    assert!(got.contains("\r\ncontent-length: 7\r\n"));
    let got = forward(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n",
        false,
    );
    assert!(got.contains("\r\nTransfer-Encoding: chunked\r\n"));
}

fn answer(text: &str, http11: bool, keep_alive: bool) -> String {
    let mut fields = Fields::new();
    let Parse::Complete { line, .. } = http11::response(text.as_bytes(), 0, &mut fields) else {
        panic!("{text}");
    };
    let head = Head {
        bytes: text.as_bytes(),
        lines: fields.as_slice(),
    };
    let asked = Asked::default();
    let parsed = Response::of(&line, head, asked).unwrap();
    let Kind::Final(body) = parsed.kind else {
        panic!("{text}")
    };
    let mut out = Vec::new();
    let shown = Shown {
        ours: None,
        http11,
        keep_alive,
        hsts: None,
        edits: None,
        cookie: None,
    };
    response(&line, head, parsed.options, body, shown, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn a_response_is_framed_for_its_client() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X\r\nX: 1\r\nY: 2\r\n\r\n";
    assert_eq!(
        answer(chunked, true, true),
        "HTTP/1.1 200 OK\r\nY: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        answer(chunked, false, false),
        "HTTP/1.1 200 OK\r\nY: 2\r\nConnection: close\r\n\r\n"
    );
    let twice = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 05\r\n\r\n";
    assert_eq!(
        answer(twice, false, true),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"
    );
    assert_eq!(
        answer(
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
            true,
            true
        ),
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"
    );
    assert_eq!(
        answer("HTTP/1.1 204\r\nContent-Length: 9\r\n\r\n", true, true),
        "HTTP/1.1 204 \r\n\r\n"
    );
}

#[test]
fn a_frontend_changes_what_a_backend_gets() {
    let edits = "set X-A: 1\nadd X-B: 2\nremove X-C";
    let actions = Actions {
        strip_prefix: Some("/api".into()),
        add_prefix: Some("/v2".into()),
        set_host: Some("inner:81".into()),
        request_headers: Edits::parse(edits).expect("good ones"),
        ..Actions::default()
    };
    let set = "Host: inner:81\r\nX-Forwarded-Prefix: /api\r\nX-A: 1\r\nX-B: 2\r\n";
    for (line, target) in [
        ("GET /api/x?y HTTP/1.1", "GET /v2/x?y"),
        ("GET http://a/api HTTP/1.1", "GET /v2"),
        // It asks about the server as a whole.
        ("OPTIONS * HTTP/1.1", "OPTIONS *"),
    ] {
        let fields =
            "Host: a\r\nX-a: 0\r\nX_A: 0\r\nX-B: 0\r\nX-C: 0\r\nx-forwarded-prefix: /\r\nZ: 9\r\n";
        let got = forward_by(&format!("{line}\r\n{fields}\r\n"), true, Some(&actions));
        let wanted = format!("{target} HTTP/1.1\r\nX-B: 0\r\nZ: 9\r\n{set}{OURS}\r\n");
        assert_eq!(got, wanted);
    }
    let got = forward_by("GET /api HTTP/1.0\r\n\r\n", false, Some(&actions));
    assert_eq!(got.matches("Host: inner:81\r\n").count(), 1, "{got}");
    assert!(!got.contains("X-Forwarded-Host"), "{got}");
}
