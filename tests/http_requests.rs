//! The requests that are refused, row by row, and those that just pass.
//!
//! Refused means: the status, `Connection: close`, the end of the connection,
//! and not one byte to a backend. A request that is sent after each refused
//! one, on a connection of its own, shows that the backend got nothing else.

mod common;

use common::{ok, wait_until, Backend, Broken, Peer, Proxy, Setup};

/// A proxy before one backend, and the backend.
struct House {
    proxy: Proxy,
    backend: Backend,
}

impl House {
    fn new() -> House {
        let backend = Backend::answering(ok("ok"));
        let proxy = Setup::http().backends(&[backend.address()]).start();
        House { proxy, backend }
    }

    /// Every request is refused with that status, sent whole and byte by byte.
    #[track_caller]
    fn refuses(&self, status: u16, requests: &[&[u8]]) {
        for request in requests {
            self.backend.forget();
            let mut whole = self.proxy.client();
            self.refused(status, request, whole.send(request));
            let mut dripping = self.proxy.client();
            self.refused(status, request, dripping.drip(request));
        }
    }

    #[track_caller]
    fn refused(&self, status: u16, request: &[u8], client: &mut Peer) {
        let shown = shown(request);
        let answer = client.try_response("GET");
        let answer = answer.unwrap_or_else(|broken| panic!("{shown}: {broken:?}"));
        assert_eq!(answer.status(), status, "{shown}");
        assert!(answer.connection_says("close"), "{shown}: {answer:?}");
        client.ends();
        self.untouched(&shown);
    }

    /// Not one byte has reached the backend but those of the request sent here.
    #[track_caller]
    fn untouched(&self, after: &str) {
        let fence = self.proxy.client().get("/fence");
        assert_eq!(fence.status(), 200, "after {after}");
        let got = String::from_utf8_lossy(&self.backend.bytes()).into_owned();
        let alone = got.starts_with("GET /fence ") && got.find("\r\n\r\n") == Some(got.len() - 4);
        assert!(alone, "after {after} the backend got {got:?}");
        self.backend.forget();
    }

    /// Every request is forwarded and answered, sent whole and byte by byte.
    #[track_caller]
    fn takes(&self, requests: &[&[u8]]) {
        for request in requests {
            self.taken(request, self.proxy.client().send(request));
            self.taken(request, self.proxy.client().drip(request));
        }
    }

    #[track_caller]
    fn taken(&self, request: &[u8], client: &mut Peer) {
        let answer = client.try_response("GET");
        let answer = answer.unwrap_or_else(|broken| panic!("{}: {broken:?}", shown(request)));
        assert_eq!(answer.status(), 200, "{}", shown(request));
    }
}

/// The start of a request, for messages.
fn shown(request: &[u8]) -> String {
    format!(
        "{:?}",
        String::from_utf8_lossy(&request[..request.len().min(200)])
    )
}

/// A request with these field lines after a good `Host`.
fn with(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n\r\n").into_bytes()
}

/// A request with that request line.
fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: example.com\r\n\r\n").into_bytes()
}

/// A request with these `Host` lines.
fn hosted(lines: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\n{lines}\r\n").into_bytes()
}

fn slices(requests: &[Vec<u8>]) -> Vec<&[u8]> {
    requests.iter().map(Vec::as_slice).collect()
}

#[test]
fn bare_line_ends() {
    House::new().refuses(
        400,
        &[
            b"GET / HTTP/1.1\nHost: example.com\n\n",
            b"GET / HTTP/1.1\nHost: example.com\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: example.com\nX: y\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: example.com\r\n\n",
            b"GET / HTTP/1.1\r\nHost: example.com\r\nX: a\rb\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: example.com\r\nX: a\r\r\n\r\n",
            b"GET /\r HTTP/1.1\r\nHost: example.com\r\n\r\n",
            b"GET / HTTP/1.1\rHost: example.com\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: example.com\r\n\rX: y\r\n\r\n",
            b"\nGET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
            b"\rGET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        ],
    );
}

#[test]
fn one_empty_line_before_a_request_is_skipped() {
    let house = House::new();
    house.takes(&[b"\r\nGET / HTTP/1.1\r\nHost: example.com\r\n\r\n"]);
    house.refuses(
        400,
        &[b"\r\n\r\nGET / HTTP/1.1\r\nHost: example.com\r\n\r\n"],
    );
    let mut client = house.proxy.client();
    assert_eq!(client.get("/1").status(), 200);
    client.send("\r\n");
    assert_eq!(client.get("/2").status(), 200);
}

#[test]
fn request_lines() {
    let requests = [
        line(" / HTTP/1.1"),
        line("G(T / HTTP/1.1"),
        line("G\x01T / HTTP/1.1"),
        line("\"GET\" / HTTP/1.1"),
        line("GET\t/ HTTP/1.1"),
        line("GET /\tHTTP/1.1"),
        line("GET  / HTTP/1.1"),
        line("GET /  HTTP/1.1"),
        line("GET / HTTP/1.1 "),
        line(" GET / HTTP/1.1"),
        line("GET /a b HTTP/1.1"),
        line("GET / "),
        line("GET"),
        b"GET /\r\n\r\n".to_vec(),
        b"GET /\r\nHost: example.com\r\n\r\n".to_vec(),
    ];
    House::new().refuses(400, &slices(&requests));
}

#[test]
fn methods_of_other_programs() {
    let connect = b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n".to_vec();
    House::new().refuses(405, &slices(&[connect, line("TRACE / HTTP/1.1")]));
}

#[test]
fn unknown_methods_pass() {
    let requests = [
        line("PURGE / HTTP/1.1"),
        line("get / HTTP/1.1"),
        line("M-SEARCH / HTTP/1.1"),
    ];
    House::new().takes(&slices(&requests));
}

#[test]
fn versions() {
    let requests = [
        line("GET / HTTP/1.2"),
        line("GET / HTTP/2.0"),
        line("GET / HTTP/2"),
        line("GET / HTTP/0.9"),
        line("GET / http/1.1"),
        line("GET / HTTP/1.10"),
        line("GET / HTTP/01.1"),
        line("GET / HTTP/1.1x"),
        line("GET / HTTPS/1.1"),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
    ];
    House::new().refuses(505, &slices(&requests));
}

#[test]
fn targets() {
    let mut requests: Vec<_> = [
        "/a#b",
        "/\x01",
        "/\x7f",
        "/%00",
        "/a%00b",
        "/%",
        "/%4",
        "/%zz",
        "/%4g",
        "/?q=%zz",
        "foo",
        "example.com:80",
        "?q",
        "http://",
        "http:///x",
    ]
    .iter()
    .map(|target| line(&format!("GET {target} HTTP/1.1")))
    .collect();
    requests.push(b"GET /\xff HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec());
    requests.push(b"GET /\xc3\xa9 HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec());
    House::new().refuses(400, &slices(&requests));
}

#[test]
fn the_asterisk_is_for_options() {
    let house = House::new();
    house.refuses(
        400,
        &slices(&[line("GET * HTTP/1.1"), line("POST * HTTP/1.1")]),
    );
    house.takes(&slices(&[line("OPTIONS * HTTP/1.1")]));
    assert_eq!(house.backend.last_request().start, "OPTIONS * HTTP/1.1");
}

#[test]
fn absolute_form_has_to_agree_with_host() {
    let house = House::new();
    let requests = [
        line("GET http://example.org/ HTTP/1.1"),
        line("GET http://example.com:81/ HTTP/1.1"),
        line("GET http://user@example.com/ HTTP/1.1"),
        line("GET http://example.com.evil/ HTTP/1.1"),
    ];
    house.refuses(400, &slices(&requests));
    let requests = [
        line("GET http://example.com/ HTTP/1.1"),
        line("GET http://EXAMPLE.com:80/ HTTP/1.1"),
        line("GET HTTP://example.com HTTP/1.1"),
    ];
    house.takes(&slices(&requests));
}

#[test]
fn dot_segments_above_the_root() {
    let targets = [
        "/..",
        "/../x",
        "/a/../../x",
        "/%2e%2e/x",
        "/a/%2E./.%2e/x",
        "/./../x",
    ];
    let requests = targets.map(|target| line(&format!("GET {target} HTTP/1.1")));
    House::new().refuses(400, &slices(&requests));
}

#[test]
fn lengths_of_line_and_target() {
    let house = House::new();
    let target = |len: usize| line(&format!("GET /{} HTTP/1.1", "a".repeat(len)));
    house.takes(&slices(&[target(8192 - "GET / HTTP/1.1".len())]));
    house.refuses(414, &slices(&[target(8192), target(12_000)]));
    // Refused before its end: it may never come.
    let endless = format!("GET /{}", "a".repeat(9000));
    house.refuses(414, &[endless.as_bytes()]);
}

#[test]
fn size_of_the_head() {
    let house = House::new();
    let value = |len: usize| with(&format!("X-Long: {}", "a".repeat(len)));
    house.takes(&slices(&[value(15_000)]));
    house.refuses(431, &slices(&[value(16 * 1024), value(20_000)]));
    let endless = format!(
        "GET / HTTP/1.1\r\nHost: example.com\r\nX: {}",
        "a".repeat(17_000)
    );
    house.refuses(431, &[endless.as_bytes()]);
}

#[test]
fn lines_of_the_head() {
    let house = House::new();
    let lines = |count: usize| with(vec!["X: y"; count - 1].join("\r\n").as_str());
    house.takes(&slices(&[lines(100)]));
    house.refuses(431, &slices(&[lines(101), lines(1000)]));
}

#[test]
fn hosts() {
    let house = House::new();
    let requests = [
        hosted(""),
        hosted("X: y\r\n"),
        hosted("Host: example.com\r\nHost: example.com\r\n"),
        hosted("Host: example.com\r\nhost: example.org\r\n"),
        hosted("Host: example.com, example.org\r\n"),
        hosted("Host: user@example.com\r\n"),
        hosted("Host: exa mple.com\r\n"),
        hosted("Host: example.com/x\r\n"),
        hosted("Host: <example>\r\n"),
        hosted("Host: example.com:0\r\n"),
        hosted("Host: example.com:65536\r\n"),
        hosted("Host: example.com:99999999999999999999\r\n"),
        hosted("Host: example.com:x\r\n"),
        hosted("Host: example.com:80:80\r\n"),
        hosted("Host: [::1\r\n"),
        hosted("Host: ::1\r\n"),
        hosted("Host: \r\n"),
    ];
    house.refuses(400, &slices(&requests));
    let requests = [
        hosted("Host: example.com\r\n"),
        hosted("HOST:\texample.com:65535 \r\n"),
        hosted("Host: 127.0.0.1:8080\r\n"),
        hosted("Host: [::1]:8080\r\n"),
        b"GET / HTTP/1.0\r\nHost: example.com\r\n\r\n".to_vec(),
    ];
    house.takes(&slices(&requests));
}

#[test]
fn field_lines() {
    let requests = [
        with(" X: folded before any field"),
        with("X: a\r\n b"),
        with("X: a\r\n\tb"),
        with("X"),
        with("no colon here"),
        with(": y"),
        with("X : y"),
        with("X\t: y"),
        with("X(: y"),
        with("X\x01: y"),
        with("\"X\": y"),
        b"GET / HTTP/1.1\r\n Host: example.com\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: example.com\r\nX\xe9: y\r\n\r\n".to_vec(),
    ];
    House::new().refuses(400, &slices(&requests));
}

#[test]
fn control_characters_in_values() {
    let house = House::new();
    let requests = [
        with("X: a\0b"),
        with("X: \x01"),
        with("X: a\x0bb"),
        with("X: a\x7fb"),
    ];
    house.refuses(400, &slices(&requests));
    house.takes(&slices(&[
        with("X: a\tb"),
        with("X:"),
        with("X: caf\u{e9}"),
    ]));
}

#[test]
fn content_lengths() {
    let house = House::new();
    let values = [
        "+5",
        "-1",
        "5a",
        "0x5",
        "",
        "5, 5",
        "5,5",
        "5 5",
        "5.0",
        "1234567890123456789",
        "\"5\"",
    ];
    let mut requests: Vec<_> = values
        .iter()
        .map(|value| with(&format!("Content-Length: {value}")))
        .collect();
    requests.push(with("Content-Length: 5\r\nContent-Length: 5"));
    requests.push(with("Content-Length: 0\r\ncontent-length: 6"));
    house.refuses(400, &slices(&requests));
    house.takes(&slices(&[
        with("Content-Length: 0"),
        with("Content-Length:\t000 "),
    ]));
}

#[test]
fn transfer_encodings() {
    let house = House::new();
    let requests = [
        b"POST / HTTP/1.0\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            .to_vec(),
        with("Transfer-Encoding: chunked\r\nContent-Length: 5"),
        with("Content-Length: 5\r\nTransfer-Encoding: chunked"),
        with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        with("Transfer-Encoding: chunked, chunked"),
        with("Transfer-Encoding: chunked, gzip"),
        with("Transfer-Encoding: \x0bchunked"),
    ];
    house.refuses(400, &slices(&requests));
    let codings = [
        "gzip",
        "identity",
        "xchunked",
        "gzip, chunked",
        "\"chunked\"",
        "cow",
    ];
    let requests = codings.map(|coding| with(&format!("Transfer-Encoding: {coding}")));
    house.refuses(501, &slices(&requests));
}

#[test]
fn expectations() {
    let house = House::new();
    house.refuses(
        417,
        &slices(&[with("Expect: 200-ok"), with("Expect: 100-continue, x")]),
    );
    house.takes(&slices(&[with("Expect: 100-Continue")]));
}

#[test]
fn tls_on_a_plain_port() {
    let house = House::new();
    let mut hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    hello.extend_from_slice(&[7; 506]);
    let mut client = house.proxy.client();
    client.send(&hello).ends();
    house.proxy.wait_log("tls");
    house.untouched("a ClientHello");
    let said = house
        .proxy
        .log()
        .into_iter()
        .filter(|l| l.to_ascii_lowercase().contains("tls"));
    assert_eq!(said.count(), 1, "one line: {:?}", house.proxy.log());
}

/// What comes after a refused request is never taken for a request.
#[test]
fn nothing_is_read_after_a_refusal() {
    let house = House::new();
    let smuggled = line("GET /smuggled HTTP/1.1");
    let requests = [
        [
            with("Content-Length: 5\r\nTransfer-Encoding: chunked"),
            smuggled.clone(),
        ]
        .concat(),
        [with("X : y"), smuggled.clone()].concat(),
    ];
    house.refuses(400, &slices(&requests));
    house.refuses(417, &[&[with("Expect: x"), smuggled].concat()]);
}

/// A head that ends with the connection is no request.
#[test]
fn half_a_head_is_no_request() {
    let house = House::new();
    for half in [
        "G",
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\r\nHost: example.com\r\n",
    ] {
        let mut client = house.proxy.client();
        client.send(half).finish();
        let (_, end) = client.rest();
        assert_ne!(end, Broken::Silence, "{half:?}");
        house.untouched(half);
    }
}

/// One hostile client after the other, and the proxy is as it was.
#[test]
fn noise() {
    let house = House::new();
    for seed in 0..50 {
        let noise: Vec<u8> = common::pattern(2000 + seed)[seed * 31..].to_vec();
        let mut client = house.proxy.client();
        client.send(&noise).finish();
        let (_, end) = client.rest();
        assert_ne!(end, Broken::Silence, "noise {seed}");
    }
    house.untouched("noise");
    let worker = house.proxy.worker();
    let alone = wait_until("its connections are gone", || {
        let now = house.proxy.worker();
        (now.connections == 0).then_some(now)
    });
    assert_eq!(alone.pid, worker.pid, "the worker was replaced");
}
