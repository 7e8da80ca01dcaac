//! TLS towards clients on the real binary: which certificate they see, what is
//! carried, what becomes of those who break the rules.

#[path = "common/certificate.rs"]
mod certificate;
mod common;

use certificate::{Keys, Made, Secure};
use common::{ok, pattern, same_bytes, signal, wait_until};
use common::{Backend, Proxy, Setup};
use openssl::ssl::SslVersion;
use std::io::{Read, Write};

const MIB: usize = 1024 * 1024;

/// A proxy with these certificates, by `[[certificates]]`.
fn proxy(setup: Setup, all: &[&Made]) -> Proxy {
    let proxy = setup.start();
    add(&proxy, all);
    proxy
}

fn add(proxy: &Proxy, all: &[&Made]) {
    let mut control = proxy.steer();
    for made in all {
        let line = format!(
            "certificate add listener={} {}",
            proxy.address(),
            made.words()
        );
        control.ok(&line);
    }
}

fn simple(made: &Made) -> (Backend, Proxy) {
    let backend = Backend::named("ok");
    let setup = Setup::https().backends(&[backend.address()]);
    let proxy = proxy(setup, &[made]);
    (backend, proxy)
}

fn shown(proxy: &Proxy, name: &str) -> Option<String> {
    Some(Secure::connect(proxy.address(), name)?.fingerprint())
}

#[test]
fn every_name_gets_its_certificate() {
    let exact = Made::of(&["a.test", "b.test"], Keys::Ecdsa);
    let suffix = Made::of(&["*.c.test"], Keys::Ecdsa);
    let backend = Backend::named("ok");
    let setup = Setup::https().backends(&[backend.address()]);
    let proxy = proxy(setup, &[&exact, &suffix]);
    for (name, made) in [
        ("a.test", &exact),
        ("b.test", &exact),
        ("x.c.test", &suffix),
        // The first by its names.
        ("c.test", &exact),
        ("", &exact),
    ] {
        assert_eq!(
            shown(&proxy, name).as_ref(),
            Some(&made.fingerprint),
            "{name}"
        );
    }
    let mut client = Secure::connect(proxy.address(), "a.test").expect("a handshake");
    for host in ["a.test", "b.test"] {
        assert!(client.ask(host).starts_with("HTTP/1.1 200 "), "{host}");
    }
    let misdirected = client.ask("x.c.test");
    assert!(misdirected.starts_with("HTTP/1.1 421 "), "{misdirected}");
    let last = backend.last_request();
    assert_eq!(last.field("x-forwarded-proto"), Some("https"));
}

#[test]
fn the_default_is_the_one_that_is_meant_to_be() {
    let (a, z) = (
        Made::of(&["a.test"], Keys::Ecdsa),
        Made::of(&["z.test"], Keys::Ecdsa),
    );
    let (_backend, proxy) = simple(&a);
    let address = proxy.address();
    let mut control = proxy.steer();
    control.ok(&format!(
        "certificate add listener={address} {} default=true",
        z.words()
    ));
    assert_eq!(shown(&proxy, ""), Some(z.fingerprint.clone()));
    // Its successor is the default as well.
    let next = Made::of(&["z.test"], Keys::Ecdsa);
    let old = &z.fingerprint;
    let replace = format!("certificate replace listener={address} fingerprint={old}");
    control.ok(&format!("{replace} {}", next.words()));
    assert_eq!(shown(&proxy, "unknown.test"), Some(next.fingerprint));
}

#[test]
fn strict_listeners_refuse_unknown_names() {
    let made = Made::of(&["a.test"], Keys::Ecdsa);
    let backend = Backend::named("ok");
    let setup = Setup::https().listener("strict_sni", true);
    let proxy = proxy(setup.backends(&[backend.address()]), &[&made]);
    assert!(shown(&proxy, "a.test").is_some());
    assert!(shown(&proxy, "b.test").is_none() && shown(&proxy, "").is_none());
}

#[test]
fn the_kind_of_key_and_the_protocol_are_what_the_client_takes() {
    let (rsa, ecdsa) = (
        Made::of(&["a.test"], Keys::Rsa),
        Made::of(&["a.test"], Keys::Ecdsa),
    );
    let backend = Backend::named("ok");
    let setup = Setup::https().backends(&[backend.address()]);
    let proxy = proxy(setup, &[&rsa, &ecdsa]);
    for (algorithms, made) in [("ECDSA+SHA256", &ecdsa), ("RSA-PSS+SHA256", &rsa)] {
        let set = |builder: &mut openssl::ssl::SslConnectorBuilder| {
            builder.set_sigalgs_list(algorithms).expect("algorithms");
        };
        let client = Secure::with(proxy.address(), "a.test", set, None).expect("a handshake");
        assert_eq!(client.fingerprint(), made.fingerprint, "{algorithms}");
    }
    for (offered, taken) in [(&b"\x02h2\x08http/1.1"[..], true), (&b"\x02h2"[..], false)] {
        let set = |builder: &mut openssl::ssl::SslConnectorBuilder| {
            builder.set_alpn_protos(offered).expect("ALPN");
        };
        let client = Secure::with(proxy.address(), "a.test", set, None);
        let chosen = client.and_then(|client| {
            let chosen = client.stream.ssl().selected_alpn_protocol();
            chosen.map(<[u8]>::to_vec)
        });
        assert_eq!(chosen, taken.then(|| b"http/1.1".to_vec()));
    }
}

#[test]
fn bodies_are_whole_in_both_directions() {
    let made = Made::of(&["a.test"], Keys::Ecdsa);
    let body = pattern(10 * MIB);
    let sent = body.clone();
    let backend = Backend::scripted(move |peer, _| loop {
        let request = peer.request()?;
        assert_eq!(request.body.len(), sent.len());
        same_bytes(&request.body, &sent);
        peer.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            sent.len()
        ));
        peer.send(&sent);
    });
    let proxy = proxy(Setup::https().backends(&[backend.address()]), &[&made]);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let set = |builder: &mut openssl::ssl::SslConnectorBuilder| {
            builder
                .set_max_proto_version(Some(version))
                .expect("a version");
        };
        let client = Secure::with(proxy.address(), "a.test", set, None);
        let mut client = client.expect("a handshake");
        let length = body.len();
        client.send(&format!(
            "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {length}\r\n\r\n"
        ));
        client.stream.write_all(&body).expect("sent");
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            client.stream.read_exact(&mut byte).expect("a head");
            head.push(byte[0]);
        }
        let mut got = vec![0; length];
        client.stream.read_exact(&mut got).expect("a body");
        same_bytes(&got, &body);
    }
}

#[test]
fn requests_in_one_record_are_all_answered() {
    let (_backend, proxy) = simple(&Made::of(&["a.test"], Keys::Ecdsa));
    let mut client = Secure::connect(proxy.address(), "a.test").expect("a handshake");
    let one = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
    client.send(&one.repeat(20));
    for _ in 0..20 {
        assert!(client.answer().starts_with("HTTP/1.1 200 "));
    }
}

#[test]
fn the_end_is_announced() {
    let made = Made::of(&["a.test"], Keys::Ecdsa);
    let backend = Backend::replying(|_| ok("bye"));
    let proxy = proxy(Setup::https().backends(&[backend.address()]), &[&made]);
    let mut client = Secure::connect(proxy.address(), "a.test").expect("a handshake");
    client.send("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    let mut all = Vec::new();
    // Without a close_notify this would be an error.
    client.stream.read_to_end(&mut all).expect("an end");
    assert!(all.ends_with(b"bye"));
}

#[test]
fn websockets_pass() {
    let made = Made::of(&["a.test"], Keys::Ecdsa);
    let backend = Backend::scripted(|peer, _| {
        peer.request()?;
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        loop {
            let byte = peer.exactly(1)?;
            peer.send(byte);
        }
    });
    let proxy = proxy(Setup::https().backends(&[backend.address()]), &[&made]);
    let mut client = Secure::connect(proxy.address(), "a.test").expect("a handshake");
    client.send(
        "GET /chat HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    );
    assert!(client.answer().starts_with("HTTP/1.1 101 "));
    for word in ["\u{1}\u{2}", "GET / HTTP/1.1\r\n\r\n", "\n"] {
        client.send(word);
        let mut echo = vec![0; word.len()];
        client.stream.read_exact(&mut echo).expect("an echo");
        same_bytes(&echo, word.as_bytes());
    }
    // A connection keeps the certificate that it has met.
    let address = proxy.address();
    let line = format!(
        "certificate remove listener={address} fingerprint={}",
        made.fingerprint
    );
    proxy.control(&line);
    client.send("x");
    client.stream.read_exact(&mut [0]).expect("an echo");
    assert!(shown(&proxy, "a.test").is_none());
}

#[test]
fn a_worker_that_is_killed_has_a_successor_with_all_certificates() {
    let made = Made::of(&["a.test"], Keys::Ecdsa);
    let (_backend, proxy) = simple(&made);
    let pid = proxy.worker().pid;
    assert!(signal(pid, "KILL"));
    wait_until("another one", || {
        let workers = proxy.workers();
        workers.iter().any(|worker| worker.pid != pid).then_some(())
    });
    assert_eq!(shown(&proxy, "a.test"), Some(made.fingerprint));
    assert!(proxy.control("state check").last.contains("agrees=true"));
}

#[test]
fn another_policy_counts_from_the_next_handshake_on() {
    let (_backend, proxy) = simple(&Made::of(&["a.test"], Keys::Ecdsa));
    let mut before = Secure::connect(proxy.address(), "a.test").expect("a handshake");
    let set = |builder: &mut openssl::ssl::SslConnectorBuilder| {
        let version = Some(SslVersion::TLS1_2);
        builder.set_max_proto_version(version).expect("a version");
    };
    let old = |proxy: &Proxy| Secure::with(proxy.address(), "a.test", set, None).is_some();
    assert!(old(&proxy));
    let address = proxy.address();
    let mut control = proxy.steer();
    for wrong in [
        "cipher_list=NONSENSE",
        "groups=X25519:nope",
        "cipher_suites=x",
    ] {
        let dump = control.dump();
        let reply = control.ask(&format!("listener update address={address} {wrong}"));
        assert_eq!(reply.code(), "invalid", "{reply:?}");
        assert!(reply.last.contains("OpenSSL says"), "{reply:?}");
        assert_eq!(control.dump(), dump);
    }
    control.ok(&format!(
        "listener update address={address} tls_versions=TLS_V13 strict_sni=true"
    ));
    assert!(!old(&proxy) && shown(&proxy, "b.test").is_none());
    assert!(shown(&proxy, "a.test").is_some());
    assert!(before.ask("a.test").starts_with("HTTP/1.1 200 "));
    control.ok(&format!(
        "listener update address={address} unset=tls_versions,strict_sni"
    ));
    assert!(old(&proxy));
}
