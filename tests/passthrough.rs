//! TLS passthrough: the name in the ClientHello says where a connection leads, and the
//! handshake is between the client and the backend.

#[path = "common/certificate.rs"]
mod certificate;
mod common;
#[path = "tls/secure.rs"]
mod secure;

use certificate::fingerprint;
use common::{pattern, same_bytes, wait_until, Backend, Broken, Peer, Proxy, Setup};
use secure::{Authority, Proof, SecureBackend, Seen};
use sozu_lib::parser::proxy_protocol::{read, Header};
use std::io::{Read, Write};
use std::net::SocketAddr;

/// As OpenSSL writes it, for www.example.com.
const HELLO: &[u8] = include_bytes!("fuzz/corpus/hello/openssl");
/// The same in many records, for the same name; and one that asks for none.
const RECORDS: &[u8] = include_bytes!("fuzz/corpus/hello/records");
const NAMELESS: &[u8] = include_bytes!("fuzz/corpus/hello/nameless");
/// A fatal alert: unrecognized_name.
const UNKNOWN: &[u8] = &[21, 3, 3, 0, 2, 2, 112];

fn to(address: SocketAddr) -> [String; 1] {
    [format!("address = \"{address}\"")]
}

/// Sends back all that comes, from the ClientHello on.
fn echo() -> Backend {
    Backend::scripted(|peer, _| loop {
        let byte = peer.exactly(1)?;
        peer.send(byte);
    })
}

/// In front of one backend that gets everything.
fn before(setup: Setup, backend: &Backend) -> Proxy {
    setup.backends(&[backend.address()]).start()
}

#[track_caller]
fn echoed(peer: &mut Peer, bytes: &[u8]) {
    same_bytes(&peer.exactly(bytes.len()).expect("an echo"), bytes);
}

fn secure_echo(proof: &Proof) -> SecureBackend {
    SecureBackend::scripted(proof, None, |peer| peer.echo())
}

#[test]
fn two_names_lead_to_two_clusters_and_each_shakes_hands_itself() {
    let authority = Authority::new();
    let proofs = ["a.test", "b.test"].map(|name| authority.issue(&[name]));
    let backends = [secure_echo(&proofs[0]), secure_echo(&proofs[1])];
    let proxy = Setup::passthrough()
        .cluster("a", &["hostname = \"a.test\""], &to(backends[0].address()))
        .cluster("b", &["hostname = \"*.test\""], &to(backends[1].address()))
        .start();
    for (n, name) in [(0, "A.test"), (1, "b.test")] {
        let offers = |builder: &mut openssl::ssl::SslConnectorBuilder| {
            let offered = builder.set_alpn_protos(b"\x02h2\x08http/1.1");
            offered.expect("protocols");
        };
        let mut client =
            certificate::Secure::with(proxy.address(), name, offers, None).expect("a handshake");
        assert_eq!(client.fingerprint(), fingerprint(&proofs[n].certificate));
        let alpn = client.stream.ssl().selected_alpn_protocol();
        assert_eq!(alpn, Some(&b"h2"[..]));
        let bytes = pattern(100_000);
        let mut back = vec![0; bytes.len()];
        client.stream.write_all(&bytes).expect("written");
        client.stream.read_exact(&mut back).expect("an echo");
        same_bytes(&back, &bytes);
        let seen = Seen {
            name: Some(name.into()),
            resumed: false,
            alpn: Some(b"h2".to_vec()),
            client: None,
        };
        assert_eq!(backends[n].handshakes(), [seen]);
        client.stream.shutdown().expect("a word at the end");
        client.stream.shutdown().expect("an answer to it");
        assert!(backends[n].wait_end());
    }
    let lines = proxy.wait_access(2, ".test ");
    for (line, (cluster, host)) in lines.iter().zip([("a", "A.test"), ("b", "b.test")]) {
        assert!(line.contains(&format!(" {cluster} {cluster}-0 ")), "{line}");
        assert!(line.contains(&format!(" {host} \"-\" 0 ")), "{line}");
        assert!(line.ends_with(" ok"), "{line}");
    }
}

/// More than any buffer has, both ways at once, and the kernel moves it.
#[test]
fn a_session_of_many_bytes() {
    let proof = Authority::new().issue(&["a.test"]);
    let backend = secure_echo(&proof);
    let proxy = Setup::passthrough().backends(&[backend.address()]).start();
    let mut client = certificate::Secure::connect(proxy.address(), "a.test").expect("TLS");
    let bytes = pattern(4 * 1024 * 1024);
    for part in bytes.chunks(64 * 1024) {
        let mut back = vec![0; part.len()];
        client.stream.write_all(part).expect("written");
        client.stream.read_exact(&mut back).expect("an echo");
        same_bytes(&back, part);
    }
}

#[test]
fn the_hello_comes_in_any_pieces_and_goes_on_as_it_is() {
    let backend = echo();
    let proxy = before(Setup::passthrough(), &backend);
    for hello in [HELLO, RECORDS, NAMELESS] {
        let mut whole = proxy.client();
        let bytes = [hello, b"and what follows"].concat();
        whole.send(&bytes);
        echoed(&mut whole, &bytes);
        let mut dripping = proxy.client();
        dripping.drip(&bytes);
        echoed(&mut dripping, &bytes);
        // It is done, and hears the rest.
        dripping.finish();
        assert_eq!(dripping.end(), Broken::Eof);
    }
}

#[test]
fn a_name_that_nobody_has_is_unrecognized() {
    let backend = echo();
    let rules = ["hostname = \"*.example.org\""];
    let proxy = Setup::passthrough()
        .cluster("main", &rules, &to(backend.address()))
        .start();
    for (hello, host) in [(HELLO, "www.example.com"), (NAMELESS, "-")] {
        let mut client = proxy.client();
        client.send(hello);
        assert_eq!(client.rest(), (UNKNOWN.to_vec(), Broken::Eof));
        drop(client);
        let line = proxy
            .wait_access(1, &format!(" {host} \"-\" 0 0 7 "))
            .remove(0);
        let end = "client_no_route \"no frontend has the name\"";
        assert!(line.ends_with(end), "{line}");
    }
    let refused = certificate::Secure::connect(proxy.address(), "a.test");
    assert!(refused.is_none());
    assert_eq!(backend.connections(), 0);
}

#[test]
fn what_is_no_client_hello_is_closed_and_logged() {
    let backend = echo();
    let setup = Setup::passthrough().listener("request_timeout", 1);
    let proxy = before(setup, &backend);
    // Of who says nothing nothing is logged.
    let mut nobody = proxy.client();
    nobody.finish();
    nobody.ends();
    let half = &HELLO[..HELLO.len() / 2];
    let broken = [&HELLO[..9], b"\x02\x00", &HELLO[11..]].concat();
    let long = [b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc", &[7; 20][..]].concat();
    for (said, finished, end) in [
        (
            b"GET / HTTP/1.1\r\n\r\n".as_slice(),
            false,
            "client_bad_request \"it does not begin with TLS\"",
        ),
        (
            &broken,
            false,
            "client_bad_request \"a version that is none of TLS\"",
        ),
        (
            &long,
            false,
            "client_bad_request \"the ClientHello is too long\"",
        ),
        (
            half,
            false,
            "client_timeout \"the ClientHello took too long\"",
        ),
        (half, true, "client_closed \"inside the ClientHello\""),
    ] {
        let mut client = proxy.client();
        client.send(said);
        if finished {
            client.finish();
        }
        client.ends();
        let lines = proxy.wait_access(1, end);
        assert!(lines[0].contains(" - - - - \"-\" 0 0 0 "), "{lines:?}");
    }
    proxy.wait_log("it does not begin with TLS");
    assert_eq!(backend.connections(), 0);
    assert_eq!(proxy.access().len(), 5);
}

/// The name and the client's address are told to the backend before the ClientHello.
#[test]
fn behind_one_proxy_and_before_another() {
    let backend = Backend::scripted(|peer, _| {
        let mut bytes = Vec::new();
        let (len, ends) = loop {
            bytes.extend(peer.exactly(1)?);
            match read(&bytes).expect("a header") {
                Header::Part => {}
                Header::Whole { len, ends } => break (len, ends.expect("a client")),
            }
        };
        // Of TLV the authority (0x02).
        let name = &bytes[len - 15..];
        let hello = peer.exactly(HELLO.len())?;
        let own = if hello == HELLO { "its own" } else { "another" };
        let name = String::from_utf8_lossy(name);
        peer.send(format!("{len} {} {name} {own}", ends.source));
        Ok(())
    });
    let setup = Setup::passthrough().listener("expect_proxy", true);
    let proxy = before(setup, &backend);
    proxy.steer().ok("cluster update id=main send_proxy=v2");
    let mut client = proxy.client();
    let line = "PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n";
    client.send([line.as_bytes(), HELLO].concat());
    let (said, _) = client.rest();
    let said = String::from_utf8(said).expect("text");
    assert_eq!(said, "46 192.0.2.7:1234 www.example.com its own");
}

#[test]
fn halves_of_hellos_and_tunnels_move_to_the_next_worker() {
    let backend = echo();
    let setup = Setup::passthrough().top("worker_count", 1);
    let proxy = before(setup, &backend);
    let (mut half, mut tunnel, mut silent) = (proxy.client(), proxy.client(), proxy.client());
    tunnel.send(HELLO);
    echoed(&mut tunnel, HELLO);
    half.send(&HELLO[..100]);
    let mut control = proxy.steer();
    wait_until("a head and a tunnel", || {
        let listed = control.ok("connections list").data;
        let states = ["idle", "head", "tunnel"].map(|state| format!(" state={state} "));
        let all = |state: &String| listed.iter().any(|line| line.contains(state));
        states.iter().all(all).then_some(())
    });
    let listed = control.ok("connections list cluster=main").data;
    assert!(listed[0].contains(" host=www.example.com"), "{listed:?}");
    for _ in 0..2 {
        let reply = control.ok("worker restart id=0");
        assert_eq!(reply.number("moved"), 3, "{reply:?}");
    }
    half.send(&HELLO[100..]);
    echoed(&mut half, HELLO);
    for peer in [&mut silent, &mut tunnel] {
        peer.send(HELLO);
        echoed(peer, HELLO);
        peer.finish();
        assert_eq!(peer.end(), Broken::Eof);
    }
    let line = proxy.wait_access(2, " www.example.com \"-\" 0 ").remove(1);
    let both = 2 * HELLO.len();
    assert!(line.contains(&format!(" 0 {both} {both} ")), "{line}");
}

#[test]
fn it_waits_for_the_end_of_a_pause() {
    let backend = echo();
    let proxy = before(Setup::passthrough(), &backend);
    let mut control = proxy.steer();
    control.ok("cluster pause id=main max=30");
    let mut client = proxy.client();
    client.send(HELLO);
    wait_until("one that waits", || {
        let status = control.ok("status").data;
        let waits = |line: &String| line.starts_with("paused ") && line.contains(" waiting=1");
        status.iter().any(waits).then_some(())
    });
    client.send("more").finish();
    control.ok("cluster resume id=main");
    let (back, end) = client.rest();
    same_bytes(&back, &[HELLO, b"more"].concat());
    assert_eq!(end, Broken::Eof);
}

fn one_rule(backend: &Backend) -> Proxy {
    let rules = ["hostname = \"*.example.com\""];
    let setup = Setup::passthrough();
    setup.cluster("a", &rules, &to(backend.address())).start()
}

#[test]
fn what_its_frontends_take() {
    let backend = echo();
    let proxy = one_rule(&backend);
    let (mut control, address) = (proxy.steer(), proxy.address());
    control.ok("cluster add id=web");
    control.ok("cluster add id=raw protocol=tcp");
    let add = format!("frontend add listener={address} hostname=x.test");
    for (more, why) in [
        (
            "cluster=raw path=/x",
            "is a tls_passthrough one: it takes no path or method",
        ),
        ("cluster=raw method=GET", "it takes no path or method"),
        ("cluster=raw hsts=max-age=1", "it takes no actions"),
        ("cluster=raw https_redirect=301", "it takes no actions"),
        ("cluster=web", "give both the same protocol"),
    ] {
        let said = control.refused(&format!("{add} {more}"), "mismatch");
        assert!(said.contains(why), "{said}");
    }
    let policy = "listener add address=127.0.0.1:9 protocol=tls_passthrough strict_sni=true";
    control.refused(policy, "invalid");
}

#[test]
fn explain_follows_the_name() {
    let backend = echo();
    let proxy = one_rule(&backend);
    let (mut control, address) = (proxy.steer(), proxy.address());
    for (question, wanted) in [
        ("hostname=www.example.com", "chosen=\"yes, by weight\""),
        (
            &*format!("url=https://www.example.com:{}/x", address.port()),
            "candidate id=a-0",
        ),
    ] {
        let reply = control.ok(&format!("explain {question}"));
        assert!(
            reply.data.iter().any(|line| line.contains(wanted)),
            "{reply:?}"
        );
    }
    for (question, code, wanted) in [
        ("hostname=example.org", "missing", "unrecognized_name"),
        ("path=/", "missing", "unrecognized_name"),
        (
            &*format!("url=http://www.example.com:{}/", address.port()),
            "mismatch",
            "would be closed",
        ),
    ] {
        let said = control.refused(&format!("explain {question}"), code);
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn what_is_dumped_makes_the_same() {
    let backend = echo();
    let proxy = one_rule(&backend);
    let (mut control, address) = (proxy.steer(), proxy.address());
    let dump = control.ok("state dump").data;
    let rebuilt: Vec<String> = dump
        .iter()
        .filter(|line| line.contains(&address.to_string()))
        .cloned()
        .collect();
    assert!(
        rebuilt[0].contains(" protocol=tls_passthrough "),
        "{rebuilt:?}"
    );
    control.ok(&format!(
        "frontend remove listener={address} hostname=*.example.com"
    ));
    control.ok(&format!("listener remove address={address}"));
    for line in &rebuilt {
        control.insist(line);
    }
    assert_eq!(control.ok("state dump").data, dump);
    let mut client = proxy.client();
    client.send(HELLO);
    echoed(&mut client, HELLO);
}
