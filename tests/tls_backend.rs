//! TLS towards backends: who is believed, what is kept, how it ends.

mod common;
#[path = "tls/secure.rs"]
mod secure;

use common::{
    control_at, ok, pattern, same_bytes, Backend, Broken, Gate, Peer, Proxy, Reply, Setup,
};
use openssl::ssl::SslVersion;
use secure::{Authority, Proof, Secure, SecureBackend, Seen};
use std::net::SocketAddr;

const NAME: &str = "example.com";
const MIB: usize = 1024 * 1024;

/// In front of these backends, with keys of their cluster.
fn proxy(addresses: &[SocketAddr], ca: Option<&Authority>, keys: &str) -> Proxy {
    let setup = Setup::http().backends(addresses);
    let ca = ca.map(|ca| format!("tls_ca = {}\n", setup.file("ca.pem", &ca.pem())));
    let keys = format!("tls = true\n{}{keys}\n", ca.unwrap_or_default());
    setup.more(&keys).start()
}

/// A backend that can prove its name, behind a proxy that believes it.
fn trusted() -> (SecureBackend, Proxy) {
    let authority = Authority::new();
    let backend = SecureBackend::echo(&authority.issue(&[NAME]));
    let proxy = proxy(&[backend.address()], Some(&authority), "");
    (backend, proxy)
}

/// The proxy answers in place of a backend that it does not believe, and says why.
#[track_caller]
fn refused(proxy: &Proxy, why: &str) {
    assert_eq!(proxy.client().get("/").status(), 503);
    let line = proxy.wait_access(1, "backend_tls_failed").remove(0);
    assert!(line.ends_with(&format!("{why:?}")), "{line}");
}

fn ask(client: &mut Peer, host: &str) -> u16 {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    client.ask(request).status()
}

#[test]
fn one_handshake_for_many_requests() {
    let (backend, proxy) = trusted();
    let mut client = proxy.client();
    for _ in 0..20 {
        let answer = client.get("/");
        assert_eq!((answer.status(), &answer.body[..]), (200, NAME.as_bytes()));
    }
    let seen = Seen {
        name: Some(NAME.into()),
        resumed: false,
        alpn: Some(b"http/1.1".to_vec()),
        client: None,
    };
    assert_eq!(backend.handshakes(), [seen]);
}

#[test]
fn the_next_connection_resumes_the_session() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let authority = Authority::new();
        let proof = authority.issue(&[NAME]);
        let backend = SecureBackend::scripted(&proof, Some(version), |peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let _gone = peer.tls.shutdown();
        });
        let proxy = proxy(&[backend.address()], Some(&authority), "");
        for _ in 0..3 {
            assert_eq!(proxy.client().get("/").status(), 200);
        }
        let resumed: Vec<bool> = backend.handshakes().iter().map(|h| h.resumed).collect();
        assert_eq!(resumed, [false, true, true], "{version:?}");
    }
}

#[test]
fn another_name_is_refused() {
    let authority = Authority::new();
    let backend = SecureBackend::echo(&authority.issue(&["other.example.com"]));
    let proxy = proxy(&[backend.address()], Some(&authority), "");
    refused(&proxy, "hostname mismatch");
    let line = proxy.wait_log("certificate verify failed");
    assert!(line.contains("hostname mismatch"), "{line}");
    assert!(line.contains("as \"example.com\""), "{line}");
}

#[test]
fn unknown_issuers_are_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (proof, ca, why) in [
        (
            Proof::self_signed(&[NAME]),
            Some(&authority),
            "self-signed certificate",
        ),
        (Proof::self_signed(&[NAME]), None, "self-signed certificate"),
        (
            other.issue(&[NAME]),
            Some(&authority),
            "unable to get local issuer certificate",
        ),
        (
            authority.expired(&[NAME]),
            Some(&authority),
            "certificate has expired",
        ),
    ] {
        let backend = SecureBackend::echo(&proof);
        refused(&proxy(&[backend.address()], ca, ""), why);
        assert_eq!(backend.handshakes().len(), 0, "{why}");
    }
}

/// A backend's own certificate is as good as that of who has signed it.
#[test]
fn a_certificate_may_be_trusted_itself() {
    let authority = Authority::new();
    for proof in [Proof::self_signed(&[NAME]), authority.issue(&[NAME])] {
        let backend = SecureBackend::echo(&proof);
        let setup = Setup::http().backends(&[backend.address()]);
        let ca = setup.file("ca.pem", &proof.pem());
        let proxy = setup.more(&format!("tls = true\ntls_ca = {ca}\n")).start();
        assert_eq!(proxy.client().get("/").status(), 200);
        let answer = ask(&mut proxy.client(), "other.example.com");
        assert_eq!(answer, 503, "for its name alone");
    }
}

#[test]
fn without_verification_anybody_will_do() {
    let backend = SecureBackend::echo(&Proof::self_signed(&["other.example.com"]));
    let proxy = proxy(&[backend.address()], None, "tls_verify = false");
    assert_eq!(proxy.client().get("/").status(), 200);
    // Not even a name is needed.
    let answer = proxy.client().ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(answer.status(), 200);
    let names: Vec<Option<String>> = backend.handshakes().into_iter().map(|h| h.name).collect();
    assert_eq!(names, [Some(NAME.into()), None]);
}

#[test]
fn the_roots_of_the_system() {
    let authority = Authority::new();
    let backend = SecureBackend::echo(&authority.issue(&[NAME]));
    let setup = Setup::http()
        .backends(&[backend.address()])
        .more("tls = true\n");
    setup.file("roots.pem", &authority.pem());
    let proxy = setup.environment("SSL_CERT_FILE", "roots.pem").start();
    assert_eq!(proxy.client().get("/").status(), 200);
}

/// A connection that was made for one name is no use for another.
#[test]
fn names_share_no_connection() {
    let authority = Authority::new();
    let names = ["a.example.com", "b.example.com"];
    let backend = SecureBackend::echo(&authority.issue(&names));
    let proxy = proxy(&[backend.address()], Some(&authority), "");
    let mut client = proxy.client();
    for _ in 0..3 {
        for host in ["a.example.com", "B.Example.com.", "a.example.com:80"] {
            assert_eq!(ask(&mut client, host), 200, "{host}");
        }
    }
    let seen: Vec<Option<String>> = backend.handshakes().into_iter().map(|h| h.name).collect();
    assert_eq!(seen, names.map(|name| Some(name.into())));
    assert!(backend.handshakes().iter().all(|h| !h.resumed));
    // The certificate is not for this one.
    assert_eq!(ask(&mut client, "c.example.com"), 503);
}

#[test]
fn the_configured_name_counts() {
    let authority = Authority::new();
    for (name, sent) in [
        ("inner.example.com", Some("inner.example.com".into())),
        ("127.0.0.1", None),
    ] {
        let backend = SecureBackend::echo(&authority.issue(&[name]));
        let keys = format!("tls_server_name = {name:?}");
        let proxy = proxy(&[backend.address()], Some(&authority), &keys);
        let mut client = proxy.client();
        assert_eq!(ask(&mut client, "a.example.com"), 200);
        assert_eq!(ask(&mut client, "b.example.com"), 200);
        let names: Vec<Option<String>> = backend.handshakes().into_iter().map(|h| h.name).collect();
        assert_eq!(names, [sent], "one connection for both hosts");
    }
}

/// Who is asked for in the Host field is who has to prove it.
#[test]
fn the_host_that_a_frontend_sets_counts() {
    let authority = Authority::new();
    let backend = SecureBackend::echo(&authority.issue(&["inner.example.com"]));
    let proxy = proxy(&[backend.address()], Some(&authority), "");
    let listener = proxy.address();
    let rest = "hostname=a.example.com cluster=main set_host=inner.example.com:8443";
    let line = format!("frontend add listener={listener} {rest}");
    proxy.steer().ok(&line);
    assert_eq!(ask(&mut proxy.client(), "a.example.com"), 200);
    let names: Vec<Option<String>> = backend.handshakes().into_iter().map(|h| h.name).collect();
    assert_eq!(names, [Some("inner.example.com".into())]);
}

/// A name that a client made up is not held against the backend; a configured one is.
#[test]
fn what_a_client_makes_up_takes_no_backend_out() {
    let authority = Authority::new();
    let backend = SecureBackend::echo(&authority.issue(&[NAME]));
    let first = proxy(&[backend.address()], Some(&authority), "");
    let mut client = first.client();
    for _ in 0..10 {
        assert_eq!(ask(&mut client, "made-up.example.org"), 503);
    }
    assert_eq!(ask(&mut client, NAME), 200);
    let quiet = |line: &String| !line.contains("left alone");
    assert!(first.log().iter().all(quiet), "{:?}", first.log());
    let said = first.log();
    let said = said.iter().filter(|line| line.contains("made-up"));
    assert_eq!(said.count(), 1, "it is said once");

    let keys = "tls_server_name = \"wrong.example.com\"";
    let second = proxy(&[backend.address()], Some(&authority), keys);
    for _ in 0..3 {
        assert_eq!(ask(&mut second.client(), NAME), 503);
    }
    let line = second.wait_log("left alone");
    assert!(line.contains("hostname mismatch"), "{line}");
}

#[test]
fn a_request_without_host_is_not_sent_to_just_anybody() {
    let (backend, proxy) = trusted();
    let answer = proxy.client().ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(answer.status(), 503);
    let line = proxy.wait_access(1, "backend_tls_failed").remove(0);
    assert!(line.contains("no name to verify"), "{line}");
    assert_eq!(backend.handshakes().len(), 0);
}

#[test]
fn another_backend_is_tried() {
    let authority = Authority::new();
    let wrong = SecureBackend::echo(&authority.issue(&["other.example.com"]));
    let right = SecureBackend::echo(&authority.issue(&[NAME]));
    let both = [wrong.address(), right.address()];
    let proxy = proxy(&both, Some(&authority), "");
    for _ in 0..4 {
        assert_eq!(proxy.client().get("/").status(), 200);
    }
    assert!(right.handshakes().len() <= 2 && wrong.handshakes().is_empty());
}

#[test]
fn bodies_both_ways() {
    let (backend, proxy) = trusted();
    let bytes = pattern(10 * MIB);
    let mut client = proxy.client();
    for _ in 0..2 {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n\r\n",
            bytes.len()
        );
        client.send(head);
        let sender = client.send_meanwhile(bytes.clone());
        same_bytes(&client.response().body, &bytes);
        sender.join().expect("sent");
    }
    assert!(!backend.handshakes().is_empty());
}

/// Bytes that are decrypted already do not wait for the next ones: the reader is slow, and
/// nothing more comes.
#[test]
fn what_is_decrypted_is_not_forgotten() {
    let authority = Authority::new();
    let gate = Gate::default();
    let (script, bytes) = (gate.clone(), pattern(3 * MIB));
    let sent = bytes.clone();
    let backend = SecureBackend::scripted(&authority.issue(&[NAME]), None, move |peer| {
        peer.request();
        peer.send(ok(&sent));
        // Longer than the client waits.
        script.pass();
        script.pass();
    });
    let proxy = proxy(&[backend.address()], Some(&authority), "");
    for _ in 0..5 {
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"));
        client.head();
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            let part = (bytes.len() - got.len()).min(10_007);
            got.extend(client.exactly(part).expect("more of the body"));
        }
        same_bytes(&got, &bytes);
        gate.admit(2);
    }
}

#[test]
fn websocket() {
    let authority = Authority::new();
    let backend = SecureBackend::scripted(&authority.issue(&[NAME]), None, |peer| {
        peer.request();
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
        );
        peer.echo();
    });
    let proxy = proxy(&[backend.address()], Some(&authority), "");
    let mut client = proxy.client();
    let answer = client.ask(
        "GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n\r\n",
    );
    assert_eq!(answer.status(), 101, "{answer:?}");
    let bytes = pattern(10 * MIB);
    let sender = client.send_meanwhile(bytes.clone());
    same_bytes(&client.exactly(bytes.len()).expect("echo"), &bytes);
    sender.join().expect("sent");
    // The end of the client's bytes is passed on as one that is meant.
    client.finish();
    assert!(backend.wait_end(), "close_notify");
    assert_eq!(client.end(), Broken::Eof);
}

/// A body that ends with the connection, after `end`.
fn until_close(end: fn(&mut Secure)) -> (SecureBackend, Proxy) {
    let authority = Authority::new();
    let backend = SecureBackend::scripted(&authority.issue(&[NAME]), None, move |peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\n");
        peer.send(pattern(100_000));
        end(peer);
    });
    let proxy = proxy(&[backend.address()], Some(&authority), "");
    (backend, proxy)
}

#[test]
fn an_end_without_a_word_is_a_cut() {
    let (_backend, proxy) = until_close(|peer| {
        // As somebody on the way would who wants it to look whole.
        peer.tls.get_ref().shutdown(std::net::Shutdown::Both).ok();
    });
    let mut client = proxy.client();
    client.send(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"));
    let (_, end) = client.rest();
    assert_eq!(end, Broken::Reset);
    proxy.wait_access(1, "backend_cut");
}

#[test]
fn an_end_with_a_word_is_one() {
    let (_backend, proxy) = until_close(|peer| {
        peer.tls.shutdown().expect("close_notify");
    });
    let answer = proxy.client().get("/");
    same_bytes(&answer.body, &pattern(100_000));
    assert!(proxy.wait_access(1, " 200 ")[0].ends_with(" ok"));
}

/// Idle connections are given up with a word as well.
#[test]
fn we_say_that_we_go() {
    let (backend, proxy) = trusted();
    assert_eq!(proxy.client().get("/").status(), 200);
    assert_eq!(
        proxy
            .control("backend update cluster=main id=main-0 state=drain")
            .last,
        { "ok revision=1 changes=1" }
    );
    assert!(backend.wait_end(), "close_notify");
}

#[test]
fn a_handshake_that_never_ends() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::scripted(move |peer, _| {
        peer.exactly(1)?;
        held.pass();
        Ok(())
    });
    let setup = Setup::http()
        .top("connect_timeout", 1)
        .backends(&[backend.address()])
        .more("tls = true\n");
    let proxy = setup.start();
    assert_eq!(proxy.client().get("/").status(), 504);
    proxy.wait_access(1, "backend_connect_timeout");
    // A ClientHello and nothing of the request.
    assert_eq!(backend.bytes()[0], 0x16);
    assert!(!backend.bytes().windows(4).any(|four| four == b"GET "));
    gate.admit(1);
}

#[test]
fn a_handshake_that_is_broken_off() {
    let backend = Backend::scripted(|peer, _| peer.exactly(1).map(drop));
    let proxy = proxy(&[backend.address()], None, "");
    refused(&proxy, "it closed the connection inside the handshake");
}

#[test]
fn a_handshake_that_is_refused() {
    let backend = Backend::scripted(|peer, _| {
        peer.exactly(1)?;
        // A fatal alert: handshake_failure.
        peer.send([0x15, 3, 3, 0, 2, 2, 40]);
        peer.rest();
        Ok(())
    });
    let proxy = proxy(&[backend.address()], None, "");
    refused(&proxy, "it refuses the handshake");
    proxy.wait_log("handshake failure");
}

/// A body that somebody cuts inside what is counted is cut too, in whatever way.
#[test]
fn a_counted_body_is_cut_as_well() {
    for announced in [true, false] {
        let authority = Authority::new();
        let backend = SecureBackend::scripted(&authority.issue(&[NAME]), None, move |peer| {
            peer.request();
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
            if announced {
                let _gone = peer.tls.shutdown();
            }
        });
        let proxy = proxy(&[backend.address()], Some(&authority), "");
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"));
        assert_eq!(client.rest().1, Broken::Reset);
        proxy.wait_access(1, "backend_cut");
    }
}

#[test]
fn plain_text_is_no_tls() {
    let backend = Backend::scripted(|peer, _| {
        peer.exactly(1)?;
        peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        peer.rest();
        Ok(())
    });
    let proxy = proxy(&[backend.address()], None, "");
    refused(&proxy, "it does not speak TLS there");
}

#[test]
fn connections_follow_the_configuration() {
    let (backend, proxy) = trusted();
    let mut client = proxy.client();
    assert_eq!(ask(&mut client, NAME), 200);
    for (keys, status, handshakes) in [
        ("answer_404=x", 200, 1),
        ("tls_verify=false", 200, 2),
        ("tls_verify=true unset=tls_ca", 503, 2),
        ("tls_verify=false", 200, 3),
    ] {
        let reply = proxy.control(&format!("cluster update id=main {keys}"));
        assert!(reply.last.starts_with("ok"), "{keys}: {reply:?}");
        assert_eq!(ask(&mut client, NAME), status, "{keys}");
        assert_eq!(backend.handshakes().len(), handshakes, "{keys}");
    }
    // Without TLS a TLS server has nothing to say to us.
    let reply = proxy.control("cluster update id=main tls=false");
    assert!(reply.last.starts_with("ok"), "{reply:?}");
    assert_eq!(ask(&mut client, NAME), 502);
}

#[track_caller]
fn refusal(proxy: &Proxy, line: &str) -> Reply {
    let reply = control_at(&proxy.path("command.sock"), line).expect("a reply");
    assert_eq!(reply.code(), "invalid", "{line}: {reply:?}");
    reply
}

/// Certificates travel in the line, and are told as they came.
#[test]
fn by_commands() {
    let authority = Authority::new();
    let backend = SecureBackend::echo(&authority.issue(&[NAME]));
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let pem = authority.pem().replace('\n', "\\n");
    let line = format!("cluster update id=main tls=true tls_ca=\"{pem}\"");
    let reply = proxy.control(&line);
    assert!(reply.last.starts_with("ok"), "{reply:?}");
    assert_eq!(proxy.client().get("/").status(), 200);
    let dump = proxy.control("state dump");
    let told = format!("tls=true tls_verify=true tls_ca=\"{pem}\"");
    assert!(
        dump.data.iter().any(|line| line.contains(&told)),
        "{dump:?}"
    );
    for (keys, why) in [
        ("tls_ca=nonsense", "no PEM"),
        ("tls=false", "unset"),
        ("tls_server_name=*.example.com", "without *"),
        ("tls_verify=perhaps", "neither true nor false"),
    ] {
        let reply = refusal(&proxy, &format!("cluster update id=main {keys}"));
        assert!(reply.last.contains(why), "{keys}: {reply:?}");
    }
    let key = String::from_utf8(
        Proof::self_signed(&["x"])
            .key
            .private_key_to_pem_pkcs8()
            .unwrap(),
    );
    let key = key.unwrap().replace('\n', "\\n");
    let line = format!("cluster update id=main tls_ca=\"{pem}{key}\"");
    let reply = refusal(&proxy, &line);
    assert!(reply.last.contains("private key"), "{reply:?}");
}

#[test]
fn tcp_goes_through_tls() {
    let (backend, proxy) = tunnel(Secure::echo);
    let (mut client, bytes) = (proxy.client(), pattern(MIB));
    let sender = client.send_meanwhile(bytes.clone());
    same_bytes(&client.exactly(bytes.len()).expect("echo"), &bytes);
    sender.join().expect("sent");
    client.finish();
    assert!(backend.wait_end(), "close_notify");
    assert_eq!(client.end(), Broken::Eof);
    assert_eq!(backend.handshakes()[0].alpn, None);
    let reply = refusal(&proxy, "cluster add id=other protocol=tcp tls=true");
    assert!(reply.last.contains("tls_server_name"), "{reply:?}");
}

/// TCP as far as the proxy, TLS behind it.
fn tunnel(script: fn(&mut Secure)) -> (SecureBackend, Proxy) {
    let authority = Authority::new();
    let backend = SecureBackend::scripted(&authority.issue(&[NAME]), None, script);
    let setup = Setup::tcp().backends(&[backend.address()]);
    let ca = setup.file("ca.pem", &authority.pem());
    let keys = format!("tls = true\ntls_ca = {ca}\ntls_server_name = \"{NAME}\"\n");
    (backend, setup.more(&keys).start())
}

/// The end of a client that is gone is not to look as if it were meant.
#[test]
fn a_reset_client_is_no_end() {
    let (backend, proxy) = tunnel(|peer| {
        peer.send("hello");
        peer.echo();
    });
    proxy.client().reset();
    assert!(!backend.wait_end(), "a cut");
}

/// Nor is the end of the proxy.
#[test]
fn a_hard_stop_is_no_end() {
    let (backend, mut proxy) = tunnel(Secure::echo);
    let mut client = proxy.client();
    client.send("x");
    assert_eq!(client.exactly(1).expect("echo"), b"x");
    proxy.control("shutdown hard");
    assert!(!backend.wait_end(), "a cut");
    proxy.wait_exit();
}
