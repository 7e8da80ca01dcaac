//! What the backend gets: regenerated framing, our own fields, and everything
//! else as the client sent it.
//!
//! The backend reads strictly, so that malformed framing fails every test here.

mod common;

use common::{chunked, ok, pattern, same_bytes, Backend, Framing, Message, Proxy, Setup, SIZES};

/// A proxy before one backend, and the backend.
struct House {
    proxy: Proxy,
    backend: Backend,
}

impl House {
    fn new() -> House {
        House::of(Setup::http())
    }

    fn of(setup: Setup) -> House {
        let backend = Backend::answering(ok("ok"));
        let proxy = setup.backends(&[backend.address()]).start();
        House { proxy, backend }
    }

    /// Sends a request on a connection of its own; what the backend got.
    #[track_caller]
    fn forward(&self, request: impl AsRef<[u8]>) -> Message {
        let answer = self.proxy.client().ask(request);
        assert_eq!(answer.status(), 200);
        self.backend.last_request()
    }

    /// The same for a GET with these field lines.
    #[track_caller]
    fn fields(&self, lines: &str) -> Message {
        self.forward(format!(
            "GET / HTTP/1.1\r\nHost: example.com\r\n{lines}\r\n\r\n"
        ))
    }

    /// The request target that the backend gets.
    #[track_caller]
    fn target(&self, target: &str) -> String {
        self.forward(format!(
            "GET {target} HTTP/1.1\r\nHost: example.com\r\n\r\n"
        ))
        .target()
        .to_owned()
    }
}

#[test]
fn targets_pass_as_they_are() {
    let house = House::new();
    let same = [
        "/",
        "/a/b?c=d&e",
        "/a//b",
        "/%41",
        "/a%2Fb",
        "/a?x=/../y",
        "/...",
        "/a/.b/..c",
        "/?",
    ];
    for target in same {
        assert_eq!(house.target(target), target);
    }
}

#[test]
fn dot_segments_are_resolved() {
    let house = House::new();
    let cases = [
        ("/a/../b", "/b"),
        ("/a/./b", "/a/b"),
        ("/./a", "/a"),
        ("/.", "/"),
        ("/a/.", "/a/"),
        ("/a/b/..", "/a/"),
        ("/a/b/../", "/a/"),
        ("/a/..", "/"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/%2E./b", "/b"),
        ("/a/.%2e/b?x=../y", "/b?x=../y"),
        ("/a/%2e/b", "/a/b"),
        ("/a/b/c/./../../g", "/a/g"),
    ];
    for (sent, forwarded) in cases {
        assert_eq!(house.target(sent), forwarded, "{sent}");
    }
}

#[test]
fn absolute_form_becomes_origin_form() {
    let house = House::new();
    let cases = [
        ("http://example.com/x?y=z", "/x?y=z"),
        ("http://example.com:80/", "/"),
        ("http://example.com", "/"),
        ("http://example.com?q", "/?q"),
        ("http://example.com/a/../b", "/b"),
    ];
    for (sent, forwarded) in cases {
        assert_eq!(house.target(sent), forwarded, "{sent}");
    }
    assert_eq!(
        house.backend.last_request().field("host"),
        Some("example.com")
    );
}

#[test]
fn order_names_and_values_are_kept() {
    let house = House::new();
    let mut request =
        b"GET / HTTP/1.1\r\nZebra: 1\r\nhOsT: Example.com\r\naPPle:  two \r\n".to_vec();
    request.extend_from_slice(b"X-Latin: caf\xe9 \x80\xff\r\nX-Tab: a\tb\r\nX-Empty:\r\n");
    request.extend_from_slice(b"Cookie: a=b\r\nCookie: c=d\r\nZebra: 3\r\n\r\n");
    let got = house.forward(request);
    let sent = [
        ("Zebra", "1"),
        ("hOsT", "Example.com"),
        ("aPPle", "two"),
        ("X-Latin", "caf\u{e9} \u{80}\u{ff}"),
        ("X-Tab", "a\tb"),
        ("X-Empty", ""),
        ("Cookie", "a=b"),
        ("Cookie", "c=d"),
        ("Zebra", "3"),
    ];
    let kept = |field: &&(String, String)| sent.iter().any(|(name, _)| field.0 == *name);
    let fields: Vec<_> = got.fields.iter().filter(kept).collect();
    let fields: Vec<_> = fields
        .iter()
        .map(|f| (f.0.as_str(), f.1.as_str()))
        .collect();
    assert_eq!(fields, sent);
}

#[test]
fn hop_by_hop_fields_go() {
    let house = House::new();
    let got = house.fields(
        "Connection: keep-alive, X-Hop , x-other\r\nX-Hop: 1\r\nX-OTHER: 2\r\nConnection: X-Third\r\n\
         X-Third: 3\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: gzip\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nX-End: 4",
    );
    for gone in [
        "x-hop",
        "x-other",
        "x-third",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "http2-settings",
    ] {
        assert_eq!(got.all(gone), [""; 0], "{gone}: {got:?}");
    }
    assert_eq!(got.field("x-end"), Some("4"));
    for option in [
        "x-hop",
        "x-other",
        "x-third",
        "upgrade",
        "http2-settings",
        "te",
    ] {
        assert!(!got.connection_says(option), "{option}: {got:?}");
    }
}

#[test]
fn te_keeps_trailers_alone() {
    let house = House::new();
    for te in ["trailers", "gzip, trailers", "trailers, deflate;q=0.5"] {
        let got = house.fields(&format!("Connection: TE\r\nTE: {te}"));
        assert_eq!(got.field("te"), Some("trailers"), "{te}");
    }
}

#[test]
fn upgrades_that_are_no_websocket_go() {
    let house = House::new();
    for lines in [
        "Upgrade: websocket",
        "Connection: Upgrade\r\nUpgrade: h2c",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0",
        "Connection: Upgrade\r\nUpgrade: h2c, websocket2",
    ] {
        let got = house.fields(lines);
        assert_eq!(got.all("upgrade"), [""; 0], "{lines}");
        assert!(!got.connection_says("upgrade"), "{lines}");
    }
}

#[test]
fn what_connection_names_cannot_remove_what_counts() {
    let house = House::new();
    let got = house.forward(
        "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 5\r\nConnection: X-Forwarded-For, \
         X-Forwarded-Proto, X-Request-Id, Via, Forwarded, Content-Length, Host\r\n\r\nhello",
    );
    assert_eq!(got.text(), "hello");
    assert_eq!(got.field("host"), Some("example.com"));
    assert_eq!(got.field("x-forwarded-proto"), Some("http"));
    assert_eq!(got.list("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(got.list("forwarded").len(), 1);
    assert!(got.field("x-request-id").is_some_and(|id| !id.is_empty()));
    assert_eq!(got.list("via").len(), 1);
}

#[test]
fn our_fields() {
    let house = House::new();
    let got = house.fields("X: y");
    let port = house.proxy.address().port().to_string();
    assert_eq!(got.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(got.field("x-forwarded-proto"), Some("http"));
    assert_eq!(got.field("x-forwarded-host"), Some("example.com"));
    assert_eq!(got.field("x-forwarded-port"), Some(port.as_str()));
    let forwarded = got.field("forwarded").expect("Forwarded");
    assert!(
        forwarded.contains("127.0.0.1") && forwarded.contains("proto=http"),
        "{forwarded}"
    );
    assert!(
        got.field("via").is_some_and(|via| via.starts_with("1.1 ")),
        "{got:?}"
    );
    let first = got.field("x-request-id").expect("X-Request-Id").to_owned();
    let again = house.fields("X: y");
    assert_ne!(again.field("x-request-id"), Some(first.as_str()));
}

/// Whether a client's claims about itself are believed: lists grow, facts are replaced.
const CLAIMS: &str = "X-Forwarded-For: 203.0.113.1\r\nx-forwarded-for: 203.0.113.2\r\n\
    Forwarded: for=203.0.113.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.example\r\n\
    X-Forwarded-Port: 443\r\nX-Request-Id: mine\r\nVia: 1.0 first";

#[test]
fn claims_of_a_client() {
    let house = House::new();
    let got = house.fields(CLAIMS);
    let port = house.proxy.address().port().to_string();
    assert_eq!(
        got.list("x-forwarded-for"),
        ["203.0.113.1", "203.0.113.2", "127.0.0.1"]
    );
    let forwarded = got.list("forwarded");
    assert_eq!(forwarded.len(), 2, "{forwarded:?}");
    assert_eq!(forwarded[0], "for=203.0.113.1");
    assert!(forwarded[1].contains("127.0.0.1"), "{forwarded:?}");
    assert_eq!(got.field("x-forwarded-proto"), Some("http"));
    assert_eq!(got.field("x-forwarded-host"), Some("example.com"));
    assert_eq!(got.field("x-forwarded-port"), Some(port.as_str()));
    assert!(got
        .field("x-request-id")
        .is_some_and(|id| !id.is_empty() && id != "mine"));
    let via = got.list("via");
    assert_eq!((via.len(), via[0].as_str()), (2, "1.0 first"));
}

#[test]
fn claims_of_a_trusted_proxy() {
    let house = House::of(Setup::http().listener("trusted_proxies", "[\"127.0.0.0/8\"]"));
    let got = house.fields(CLAIMS);
    assert_eq!(
        got.list("x-forwarded-for"),
        ["203.0.113.1", "203.0.113.2", "127.0.0.1"]
    );
    assert_eq!(got.list("forwarded").len(), 2);
    assert_eq!(got.field("x-forwarded-proto"), Some("https"));
    assert_eq!(got.field("x-forwarded-host"), Some("evil.example"));
    assert_eq!(got.field("x-forwarded-port"), Some("443"));
    assert_eq!(got.field("x-request-id"), Some("mine"));
    // What it does not claim is set as for anybody else.
    let got = house.fields("X: y");
    assert_eq!(got.field("x-forwarded-proto"), Some("http"));
    assert!(got.field("x-request-id").is_some_and(|id| !id.is_empty()));
}

#[test]
fn claims_of_a_proxy_that_is_not_on_the_list() {
    let house =
        House::of(Setup::http().listener("trusted_proxies", "[\"10.0.0.0/8\", \"::1/128\"]"));
    let got = house.fields(CLAIMS);
    assert_eq!(got.field("x-forwarded-proto"), Some("http"));
    assert!(got.field("x-request-id").is_some_and(|id| id != "mine"));
}

/// CGI makes `HTTP_X_FORWARDED_PROTO` of both spellings.
#[test]
fn spellings_with_underscores_go() {
    let house = House::new();
    let names = [
        "X_Forwarded_For",
        "X_FORWARDED_PROTO",
        "X-Forwarded_Host",
        "x_forwarded-port",
        "X_Request_Id",
    ];
    let lines = names.map(|name| format!("{name}: evil\r\n")).concat();
    let got = house.fields(&format!("{lines}My_Own: kept"));
    for name in names {
        assert_eq!(got.all(name), [""; 0], "{name}");
    }
    assert_eq!(got.field("my_own"), Some("kept"));
    assert!(!got.fields.iter().any(|field| field.1 == "evil"), "{got:?}");
}

#[test]
fn counted_bodies() {
    for size in SIZES {
        let house = House::new();
        let body = pattern(size);
        let head =
            format!("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 00{size}\r\n\r\n");
        let got = house.forward([head.as_bytes(), &body].concat());
        assert_eq!(got.framing, Framing::Counted(size));
        assert_eq!(
            got.field("content-length"),
            Some(size.to_string().as_str()),
            "our own"
        );
        same_bytes(&got.body, &body);
    }
}

#[test]
fn chunked_bodies() {
    for size in SIZES {
        let house = House::new();
        let body = pattern(size);
        let head = "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: CHUNKED\r\n\r\n";
        let got = house.forward([head.as_bytes(), &chunked(&body)].concat());
        assert_eq!(got.framing, Framing::Chunked);
        same_bytes(&got.body, &body);
    }
}

#[test]
fn bodies_byte_by_byte() {
    let house = House::new();
    let body = pattern(300);
    let cases = [
        ("Content-Length: 300", body.clone()),
        ("Transfer-Encoding: chunked", chunked(&body)),
    ];
    for (framing, sent) in cases {
        let head = format!("POST / HTTP/1.1\r\nHost: example.com\r\n{framing}\r\n\r\n");
        let request = [head.as_bytes(), &sent].concat();
        let answer = house.proxy.client().drip(&request).response();
        assert_eq!(answer.status(), 200);
        same_bytes(&house.backend.last_request().body, &body);
    }
}

/// Wherever the network cuts a request in two.
#[test]
fn split_at_every_point() {
    let house = House::new();
    let request =
        "\r\nPOST /a/../b HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5;a=\"b\"\r\nhello\r\n3\r\n\r\n!\r\n0\r\nX-Sum: 1\r\n\r\n";
    let mut client = house.proxy.client();
    for at in 0..request.len() {
        let (first, second) = request.split_at(at);
        client.send(first);
        std::thread::yield_now();
        assert_eq!(client.ask(second).status(), 200, "split at {at}");
        let got = house.backend.last_request();
        assert_eq!(
            (got.target(), got.text().as_str()),
            ("/b", "hello\r\n!"),
            "split at {at}"
        );
    }
}

#[test]
fn extensions_stay_here() {
    let house = House::new();
    let got = house.forward(
        "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n\
         5;secret=\"a;b\"\r\nhello\r\n0;secret\r\n\r\n",
    );
    assert_eq!(got.text(), "hello");
    let raw = String::from_utf8_lossy(&house.backend.bytes()).into_owned();
    assert!(!raw.contains("secret"), "{raw:?}");
}

#[test]
fn trailers() {
    let house = House::new();
    let got = house.forward(
        "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         5\r\nhello\r\n0\r\nContent-Length: 3\r\nX-Sum: 1\r\nTransfer-Encoding: gzip\r\nHost: evil\r\n\
         Connection: close\r\nAuthorization: Basic AAAA\r\nCookie: a=b\r\nX-Forwarded-For: evil\r\n\r\n",
    );
    assert_eq!(got.text(), "hello");
    assert_eq!(got.field("trailer"), Some("X-Sum"));
    assert_eq!(got.trailers, [("X-Sum".to_owned(), "1".to_owned())]);
}

#[test]
fn a_client_of_http_1_0() {
    let house = House::new();
    let got =
        house.forward("POST /x HTTP/1.0\r\nHost: example.com\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(
        (got.start.as_str(), got.text().as_str()),
        ("POST /x HTTP/1.1", "hello")
    );
    assert!(got.list("via")[0].starts_with("1.0 "), "{got:?}");
}

/// Where to go is decided by what the backend then gets: one host, ours to pass on.
#[test]
fn host_passes_with_its_port() {
    let house = House::new();
    let got = house.forward("GET / HTTP/1.1\r\nHost: example.com:8080\r\n\r\n");
    assert_eq!(got.field("host"), Some("example.com:8080"));
}

/// A body in flight is not held back until it is whole.
#[test]
fn a_body_is_passed_on_while_it_comes() {
    let house = House::new();
    let mut client = house.proxy.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    );
    let seen = |wanted: &str| {
        common::wait_until(wanted, || {
            let got = String::from_utf8_lossy(&house.backend.bytes()).into_owned();
            got.contains(wanted).then_some(())
        });
    };
    seen("hello");
    client.send("5\r\nworld\r\n");
    seen("world");
    assert_eq!(client.ask("0\r\n\r\n").status(), 200);
    assert_eq!(house.backend.last_request().text(), "helloworld");
}
