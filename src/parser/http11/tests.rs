//! Heads whole, byte by byte and split at every point; every rule; every limit.

use super::*;

const GOOD: &[&str] = &[
    "GET / HTTP/1.1\r\n\r\n",
    "\r\nGET / HTTP/1.0\r\nHost: a\r\n\r\n",
    "POST /a?b=%20c HTTP/1.1\r\nHost: example.com:8080\r\nContent-Length: 3\r\n\r\nabc",
    "M-SEARCH * HTTP/1.1\r\nHOST:\t239.255.255.250:1900 \t \r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\nEmpty:\r\nSpaces:   \r\nTab: a\tb\r\n\r\n",
    "GET http://example.com/x HTTP/1.1\r\nHost: example.com\r\nX: \u{e9}t\u{e9}\r\n\r\n",
    "GET /[]{}|\\^`\"<> HTTP/1.1\r\n!#$%&'*+-.^_`|~: ok\r\n\r\n",
];

/// A request head, the status it is refused with.
const BAD: &[(&str, u16)] = &[
    // Line ends.
    ("\nGET / HTTP/1.1\r\n\r\n", 400),
    ("\r\n\r\nGET / HTTP/1.1\r\n\r\n", 400),
    ("\r\n\nGET / HTTP/1.1\r\n\r\n", 400),
    ("\rGET / HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\n\r\n", 400),
    ("GET / HTTP/1.1\rHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\r\n\r", 0), // partial, see below
    ("GET / HTTP/1.1\r\nHost: a\r\n\rX", 400),
    ("GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", 400),
    // Method and spaces.
    (" GET / HTTP/1.1\r\n\r\n", 400),
    ("G(T / HTTP/1.1\r\n\r\n", 400),
    ("G\u{e9}T / HTTP/1.1\r\n\r\n", 400),
    ("GET\t/ HTTP/1.1\r\n\r\n", 400),
    ("GET  / HTTP/1.1\r\n\r\n", 400),
    ("GET /  HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1 \r\n\r\n", 400),
    ("GET /\tHTTP/1.1\r\n\r\n", 400),
    ("GET / a HTTP/1.1\r\n\r\n", 400),
    ("GET / HTTP/1.1\t\r\n\r\n", 400),
    ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n\r\n", 501),
    // Version.
    ("GET\r\n\r\n", 400),
    ("GET \r\n\r\n", 400),
    ("GET /\r\n\r\n", 400),
    ("GET / \r\n\r\n", 400),
    ("GET / FTP/1.1\r\n\r\n", 505),
    ("GET / HTTP/0.9\r\n\r\n", 505),
    ("GET / HTTP/1.2\r\n\r\n", 505),
    ("GET / HTTP/1.10\r\n\r\n", 505),
    ("GET / HTTP/11\r\n\r\n", 505),
    ("GET / http/1.1\r\n\r\n", 505),
    ("GET / HTTP/2.0\r\n\r\n", 505),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    // Target.
    ("GET  HTTP/1.1\r\n\r\n", 400),
    ("GET /a#b HTTP/1.1\r\n\r\n", 400),
    ("GET /\u{e9} HTTP/1.1\r\n\r\n", 400),
    ("GET /\0 HTTP/1.1\r\n\r\n", 400),
    ("GET /\x7f HTTP/1.1\r\n\r\n", 400),
    // Field lines.
    ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nA: b\r\n c\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nA: b\r\n\tc\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\n: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHo st: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHo(st: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHo\u{e9}t: a\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\0\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\x01b\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHost: a\x7f\r\n\r\n", 400),
    ("GET / HTTP/1.1\r\nHo\0st: a\r\n\r\n", 400),
];

type Parser<L> = fn(&[u8], usize, &mut Fields) -> Parse<L>;

/// The answer to every beginning of `bytes` must not depend on what was asked before.
fn feed<L: Copy + PartialEq + std::fmt::Debug>(parse: Parser<L>, bytes: &[u8]) -> Parse<L> {
    let (mut fields, mut again) = (Fields::new(), Fields::new());
    let stride = 1 + bytes.len() / 256; // every byte of a short head
    for first in 0..=bytes.len() {
        let at_limit = first.abs_diff(REQUEST_LINE_BYTES_MAX) < 4;
        if first % stride != 0 && !at_limit {
            continue;
        }
        if parse(&bytes[..first], 0, &mut fields) != Parse::Partial {
            continue;
        }
        for second in [first + 1, first + 7, bytes.len()] {
            let head = &bytes[..second.min(bytes.len())];
            let whole = parse(head, 0, &mut fields);
            assert_eq!(parse(head, first, &mut again), whole, "split at {first}");
            if matches!(whole, Parse::Complete { .. }) {
                assert_eq!(fields.as_slice(), again.as_slice());
            }
        }
    }
    parse(bytes, 0, &mut fields)
}

fn status<L>(answer: Parse<L>) -> u16 {
    match answer {
        Parse::Complete { .. } => 200,
        Parse::Partial => 0,
        Parse::Refused(refusal) => refusal.status,
    }
}

fn fields_of<'b>(bytes: &'b [u8], fields: &Fields) -> Vec<(&'b [u8], &'b [u8], Name)> {
    let all = fields.as_slice().iter();
    all.map(|f| (f.name.of(bytes), f.value.of(bytes), f.known))
        .collect()
}

#[test]
fn good_heads_complete_whatever_the_pieces() {
    for head in GOOD {
        assert_eq!(status(feed(request, head.as_bytes())), 200, "{head:?}");
    }
}

#[test]
fn bad_heads_are_refused_whatever_the_pieces() {
    for (head, want) in BAD {
        let answer = feed(request, head.as_bytes());
        assert_eq!(status(answer), *want, "{head:?} {answer:?}");
    }
}

#[test]
fn a_request_comes_in_its_parts() {
    let bytes = b"\r\nPOST /a?b HTTP/1.0\r\nhOST: \t a b\t \r\nX_Forwarded-For:1\r\nE:\r\n\r\nbody";
    let mut fields = Fields::new();
    let Parse::Complete { line, len } = request(bytes, 0, &mut fields) else {
        panic!()
    };
    assert_eq!(line.method.of(bytes), b"POST");
    assert_eq!(line.target.of(bytes), b"/a?b");
    assert_eq!(line.version, Version::Http10);
    assert_eq!(&bytes[len..], b"body");
    let want: [(&[u8], &[u8], Name); 3] = [
        (b"hOST", b"a b", Name::Host),
        (b"X_Forwarded-For", b"1", Name::Disguised),
        (b"E", b"", Name::Other),
    ];
    assert_eq!(fields_of(bytes, &fields), want);
    assert!(matches!(
        request(b"GET / HTTP/1.1\r\n\r\n", 0, &mut fields),
        Parse::Complete { .. }
    ));
    assert!(fields.as_slice().is_empty());
}

#[test]
fn a_refusal_says_where_and_what() {
    let mut fields = Fields::new();
    let bytes = b"GET / HTTP/1.1\r\nHost : a\r\n\r\n";
    let Parse::Refused(refusal) = request(bytes, 0, &mut fields) else {
        panic!()
    };
    assert_eq!(
        (refusal.at, refusal.what),
        (20, "white space in or behind a field name")
    );
    let Parse::Refused(refusal) = request(b"\x16\x03\x01\x02", 0, &mut fields) else {
        panic!()
    };
    assert_eq!(
        (refusal.status, refusal.what),
        (0, "a TLS ClientHello on a plain port")
    );
}

#[test]
fn a_span_out_of_range_is_empty() {
    assert_eq!(Span { start: 3, len: 2 }.of(b"abcd"), b"");
    assert_eq!(
        Span {
            start: u16::MAX,
            len: u16::MAX
        }
        .of(b"abcd"),
        b""
    );
}

#[test]
fn a_request_line_has_its_limit() {
    for empty_line in ["", "\r\n"] {
        let fixed = "GET / HTTP/1.1".len();
        let head = |over: usize| {
            let target = "a".repeat(REQUEST_LINE_BYTES_MAX - fixed + over);
            format!("{empty_line}GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n")
        };
        assert_eq!(status(feed(request, head(0).as_bytes())), 200);
        assert_eq!(status(feed(request, head(1).as_bytes())), 414);
        // Known as soon as it is too long, before it ends; what follows has no say.
        let long = format!("{empty_line}{}", "a".repeat(REQUEST_LINE_BYTES_MAX));
        assert_eq!(status(feed(request, long.as_bytes())), 0);
        assert_eq!(status(feed(request, format!("{long}\r").as_bytes())), 0);
        assert_eq!(status(feed(request, format!("{long}\rx").as_bytes())), 400);
        assert_eq!(status(feed(request, format!("{long}a").as_bytes())), 414);
        assert_eq!(
            status(feed(request, format!("{long}a\0\r").as_bytes())),
            414
        );
    }
}

/// A head of exactly `len` bytes, its last field long.
fn head_of(start: &str, len: usize) -> Vec<u8> {
    let fixed = start.len() + "A: \r\n\r\n".len();
    format!("{start}A: {}\r\n\r\n", "a".repeat(len - fixed)).into_bytes()
}

#[test]
fn a_head_has_its_limit() {
    let mut fields = Fields::new();
    let start = "GET / HTTP/1.1\r\n";
    let fits = head_of(start, HEAD_BYTES_MAX);
    assert_eq!(status(request(&fits, 0, &mut fields)), 200);
    assert_eq!(status(request(&fits[..fits.len() - 1], 0, &mut fields)), 0);
    let over = head_of(start, HEAD_BYTES_MAX + 1);
    for searched in [0, 1, HEAD_BYTES_MAX - 1] {
        assert_eq!(
            status(request(&over[..HEAD_BYTES_MAX - 1], searched, &mut fields)),
            0
        );
        assert_eq!(
            status(request(&over[..HEAD_BYTES_MAX], searched, &mut fields)),
            431
        );
        assert_eq!(status(request(&over, searched, &mut fields)), 431);
    }
    let over = head_of("HTTP/1.1 200 OK\r\n", HEAD_BYTES_MAX + 1);
    assert_eq!(status(response(&over, 0, &mut fields)), 502);
    assert_eq!(
        status(response(&over[..HEAD_BYTES_MAX], 9, &mut fields)),
        502
    );
    assert_eq!(
        status(response(&[b'a'; HEAD_BYTES_MAX], 9, &mut fields)),
        502
    );
    assert_eq!(
        status(trailers(&head_of("", HEAD_BYTES_MAX), 0, &mut fields)),
        200
    );
    assert_eq!(
        status(trailers(&head_of("", HEAD_BYTES_MAX + 1), 0, &mut fields)),
        431
    );
}

#[test]
fn field_lines_have_their_limit() {
    let lines = |count: usize| format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(count));
    let fits = format!("{}\r\n", lines(HEAD_LINES_MAX));
    assert_eq!(status(feed(request, fits.as_bytes())), 200);
    assert_eq!(status(feed(request, lines(HEAD_LINES_MAX).as_bytes())), 0);
    assert_eq!(
        status(feed(request, lines(HEAD_LINES_MAX + 1).as_bytes())),
        431
    );
}

#[test]
fn responses_are_read_as_strictly() {
    let good = [
        ("HTTP/1.1 200 OK\r\n\r\n", 200, "OK"),
        ("HTTP/1.0 404 Not Found\r\nA: b\r\n\r\n", 404, "Not Found"),
        ("HTTP/1.1 100 \r\n\r\n", 100, ""),
        ("HTTP/1.1 599\r\nA:\r\n\r\n", 599, ""),
        (
            "HTTP/1.1 200 d\u{e9}j\u{e0}\tvu\r\n\r\n",
            200,
            "d\u{e9}j\u{e0}\tvu",
        ),
    ];
    for (head, want, reason) in good {
        let Parse::Complete { line, len } = feed(response, head.as_bytes()) else {
            panic!("{head:?}")
        };
        assert_eq!(
            (line.status, line.reason.of(head.as_bytes())),
            (want, reason.as_bytes())
        );
        assert_eq!(len, head.len());
    }
    let bad = [
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 099 OK\r\n\r\n",
        "HTTP/1.1 600 OK\r\n\r\n",
        "HTTP/1.1 +20 OK\r\n\r\n",
        "HTTP/1.1 200\tOK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "http/1.1 200 OK\r\n\r\n",
        "HTTP/1.1\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "\x16\x03\x01\r\n\r\n",
        "HTTP/1.1 200 O\0K\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: \rb\r\n\r\n",
    ];
    for head in bad {
        assert_eq!(status(feed(response, head.as_bytes())), 502, "{head:?}");
    }
}

#[test]
fn trailers_end_with_an_empty_line() {
    let bytes = b"Digest: x\r\nContent-Length: 3\r\n\r\nGET";
    assert_eq!(feed(trailers, bytes), Parse::Complete { line: (), len: 32 });
    assert_eq!(
        feed(trailers, b"\r\nGET"),
        Parse::Complete { line: (), len: 2 }
    );
    assert_eq!(feed(trailers, b"A: b\r\n"), Parse::Partial);
    for bad in ["\n", "\rA", "A\r\n", " A: b\r\n\r\n", "A: b\n\r\n"] {
        assert_eq!(status(feed(trailers, bad.as_bytes())), 400, "{bad:?}");
    }
}

#[test]
fn a_control_character_is_found_wherever_it_stands() {
    for len in 0..40 {
        for at in 0..len {
            for byte in 0..=255u8 {
                let mut bytes = vec![b'\t'; len];
                bytes[at] = byte;
                let wanted = byte != b'\t' && byte.is_ascii_control();
                let want = if wanted { at } else { len };
                assert_eq!(control(&bytes, 0), want);
            }
        }
    }
    assert_eq!(control(b"ab", 5), 5);
}
