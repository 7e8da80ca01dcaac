//! The PROXY protocol on the real binary: read from clients, and written to backends.

#[path = "common/certificate.rs"]
mod certificate;
mod common;

use certificate::{Keys, Made};
use common::{ok, Backend, Broken, Peer, Proxy, Setup};
use openssl::ssl::{SslConnector, SslMethod, SslVerifyMode};
use sozu_lib::parser::proxy_protocol::{read, write, Ends, Header, Tls, Version};
use std::io::{Read, Write};
use std::net::TcpStream;

const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn ends() -> Ends {
    Ends {
        source: "[2001:db8::7]:1234".parse().expect("an address"),
        destination: "[2001:db8::1]:443".parse().expect("an address"),
    }
}

/// The header that comes first, and no byte more.
fn header(peer: &mut Peer) -> Result<(Vec<u8>, Option<Ends>), Broken> {
    let mut bytes = Vec::new();
    loop {
        bytes.extend(peer.exactly(1)?);
        match read(&bytes).expect("a header") {
            Header::Part => {}
            Header::Whole { ends, .. } => return Ok((bytes, ends)),
        }
    }
}

/// One that wants a header on each connection, and answers each request with what it said.
fn introduced() -> Backend {
    Backend::scripted(|peer, number| {
        let (bytes, ends) = header(peer)?;
        let kind = if bytes.starts_with(b"PROXY") {
            "v1"
        } else {
            "v2"
        };
        let ends = ends.expect("a client with an address");
        loop {
            peer.request()?;
            let (from, to) = (ends.source, ends.destination);
            peer.send(ok(format!("{number} {kind} {from} {to} {}", bytes.len())));
        }
    })
}

fn expecting(setup: Setup, backend: &Backend) -> Proxy {
    let setup = setup.listener("expect_proxy", true);
    setup.backends(&[backend.address()]).start()
}

#[test]
fn a_client_is_who_the_header_says() {
    let backend = Backend::named("a");
    let proxy = expecting(Setup::http(), &backend);
    let binary = write(Version::V2, ends(), None);
    for (header, client) in [
        (LINE.as_bytes(), "192.0.2.7:1234"),
        (&binary, "[2001:db8::7]:1234"),
    ] {
        let mut peer = proxy.client();
        peer.send(header);
        for _ in 0..2 {
            assert_eq!(peer.send(GET).response().status(), 200);
            let told = backend.last_request();
            let ip = client
                .rsplit_once(':')
                .expect("a port")
                .0
                .trim_matches(['[', ']']);
            assert_eq!(told.field("X-Forwarded-For"), Some(ip));
            let listed = proxy.control("connections list");
            let shown = format!("client={client}");
            assert!(
                listed.data.iter().any(|line| line.contains(&shown)),
                "{listed:?}"
            );
        }
    }
    let lines = proxy.wait_access(4, "GET");
    assert!(lines[0].contains("192.0.2.7"), "{lines:?}");
    assert!(lines[3].contains("2001:db8::7"), "{lines:?}");
}

#[test]
fn a_header_comes_in_pieces_and_may_speak_for_nobody() {
    let backend = Backend::named("a");
    let proxy = expecting(Setup::http(), &backend);
    let long = Tls {
        version: Some("TLSv1.3"),
        authority: Some(&[b'a'; 255]),
        alpn: Some(&[b'b'; 255]),
        proven: true,
    };
    let long = write(Version::V2, ends(), Some(long));
    assert!(long.len() > 512);
    for header in [LINE.as_bytes(), &long] {
        let mut peer = proxy.client();
        peer.drip(header);
        assert_eq!(peer.send(GET).response().status(), 200);
    }
    for header in [
        b"PROXY UNKNOWN\r\n".as_slice(),
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    ] {
        let mut peer = proxy.client();
        peer.send([header, GET.as_bytes()].concat());
        assert_eq!(peer.response().status(), 200);
        let told = backend.last_request();
        assert_eq!(told.field("X-Forwarded-For"), Some("127.0.0.1"));
    }
}

#[test]
fn who_says_something_else_is_refused_and_others_are_served() {
    let backend = Backend::named("a");
    let proxy = expecting(Setup::http().listener("request_timeout", 1), &backend);
    for wrong in [
        GET,
        "PROXY TCP4 192.0.2.7 198.51.100.1 1234\r\n",
        "PROXY TCP4 nonsense\r\n",
        "\r\n\r\n\0\r\nQUIT\n\x7f\x11\0\0",
        // Half of one, until the time is over.
        "PROXY TCP4 192.",
    ] {
        let mut peer = proxy.client();
        peer.send(wrong);
        peer.end();
    }
    assert!(backend.requests().is_empty());
    let mut peer = proxy.client();
    peer.send(LINE);
    assert_eq!(peer.send(GET).response().status(), 200);
    proxy.wait_log("sent no PROXY header, as expect_proxy wants it: version 1: it is not PROXY");
    // Once for each whose header was wrong: what has come is not read again.
    let said = |line: &&String| line.contains("sent no PROXY header");
    assert_eq!(proxy.log().iter().filter(said).count(), 4);
}

#[test]
fn only_the_sources_that_are_named_speak_for_others() {
    let backend = Backend::named("a");
    for (sources, named) in [("[\"127.0.0.0/8\"]", true), ("[\"10.0.0.0/8\"]", false)] {
        let setup = Setup::http().listener("proxy_sources", sources);
        let proxy = expecting(setup, &backend);
        let mut peer = proxy.client();
        peer.send(LINE);
        assert_eq!(
            peer.send(GET).response().status(),
            if named { 200 } else { 400 }
        );
        let mut plain = proxy.client();
        plain.send(GET);
        match named {
            true => drop(plain.end()),
            false => assert_eq!(plain.response().status(), 200),
        }
    }
}

#[test]
fn under_tls_and_over_tcp_it_comes_first() {
    let made = Made::of(&["a.test"], Keys::Ecdsa);
    let backend = Backend::named("a");
    let proxy = expecting(Setup::https(), &backend);
    let add = format!(
        "certificate add listener={} {}",
        proxy.address(),
        made.words()
    );
    proxy.steer().ok(&add);
    let mut tcp = TcpStream::connect(proxy.address()).expect("connect");
    tcp.write_all(LINE.as_bytes()).expect("write");
    let mut connector = SslConnector::builder(SslMethod::tls()).expect("TLS");
    connector.set_verify(SslVerifyMode::NONE);
    let mut tls = connector
        .build()
        .connect("a.test", tcp)
        .expect("a handshake");
    tls.write_all(
        GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
            .as_bytes(),
    )
    .expect("write");
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(
        backend.last_request().field("X-Forwarded-For"),
        Some("192.0.2.7")
    );

    let echo = Backend::scripted(|peer, _| {
        let bytes = peer.exactly(5)?;
        peer.send(bytes);
        Ok(())
    });
    let proxy = expecting(Setup::tcp(), &echo);
    let mut peer = proxy.client();
    peer.send(format!("{LINE}hello"));
    assert_eq!(peer.exactly(5).expect("echo"), b"hello");
    drop(peer);
    let line = proxy.wait_access(1, "").remove(0);
    assert!(line.contains("192.0.2.7"), "{line}");
}

fn telling(setup: Setup, version: &str, backend: &Backend) -> Proxy {
    let setup = setup.backends(&[backend.address()]);
    let proxy = setup.start();
    let update = format!("cluster update id=main send_proxy={version}");
    proxy.steer().ok(&update);
    proxy
}

#[test]
fn a_backend_is_told_first_and_on_a_connection_of_its_own() {
    for version in ["v1", "v2"] {
        let backend = introduced();
        let proxy = telling(Setup::http(), version, &backend);
        let mut clients = [proxy.client(), proxy.client()];
        for turn in 0..4 {
            let peer = &mut clients[turn % 2];
            let (from, to) = (peer.local(), proxy.address());
            let len = if version == "v1" {
                format!(
                    "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
                    from.port(),
                    to.port()
                )
                .len()
            } else {
                28
            };
            let expected = format!("{turn} {version} {from} {to} {len}");
            assert_eq!(peer.send(GET).response().text(), expected);
        }
    }
}

#[test]
fn whom_the_client_speaks_for_goes_on_to_the_backend() {
    let backend = introduced();
    let setup = Setup::http().listener("expect_proxy", true);
    let proxy = telling(setup, "v2", &backend);
    let mut peer = proxy.client();
    peer.send(LINE);
    let said = peer.send(GET).response().text();
    assert_eq!(said, "0 v2 192.0.2.7:1234 198.51.100.1:443 28");
}

#[test]
fn over_tcp_it_is_the_beginning_and_of_tls_more_is_told() {
    let backend = Backend::scripted(|peer, _| {
        let (_, ends) = header(peer)?;
        let word = peer.exactly(5)?;
        assert_eq!(word, b"hello");
        peer.send(ends.expect("a client").source.to_string());
        Ok(())
    });
    let proxy = telling(Setup::tcp(), "v1", &backend);
    let mut peer = proxy.client();
    peer.send("hello");
    let (said, _) = peer.rest();
    assert_eq!(said, peer.local().to_string().as_bytes());

    let made = Made::of(&["a.test"], Keys::Ecdsa);
    let backend = introduced();
    let proxy = telling(Setup::https(), "v2", &backend);
    let add = format!(
        "certificate add listener={} {}",
        proxy.address(),
        made.words()
    );
    proxy.steer().ok(&add);
    let mut client = certificate::Secure::connect(proxy.address(), "a.test").expect("TLS");
    let answer = client.ask("a.test");
    // Both addresses, ALPN if there is one, the name, and that it is TLS 1.3.
    let tls = 3 + "a.test".len() + 3 + 5 + 3 + "TLSv1.3".len();
    assert!(answer.ends_with(&format!(" {}", 28 + tls)), "{answer}");
}
