//! Handshakes over a pair of sockets, with certificates made here.

use std::net::TcpListener;

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::rsa::Rsa;
use openssl::ssl::{ShutdownState, SslConnector, SslSession, SslStream, SslVerifyMode};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::X509Builder;

use super::*;
use crate::net::conn::Conn;
use crate::sys::ssl::{set_ticket_keys, TicketKey};

#[test]
fn server_names() {
    let extension = |name: &[u8]| {
        let length = name.len() as u16;
        let list = [&[0][..], &length.to_be_bytes(), name].concat();
        [&(list.len() as u16).to_be_bytes()[..], &list].concat()
    };
    let name = |name: &[u8]| server_name(&extension(name));
    assert_eq!(name(b"WWW.Example.com."), Some("www.example.com".into()));
    assert_eq!(name(b""), None);
    assert_eq!(name(b"\xff"), None);
    assert_eq!(name(&[b'a'; 256]), None);
    let whole = extension(b"a.b");
    for end in 0..whole.len() {
        assert_eq!(server_name(&whole[..end]), None);
    }
    assert_eq!(server_name(&[&whole[..], b"x"].concat()), None);
}

fn ecdsa() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("a curve");
    PKey::from_ec_key(EcKey::generate(&group).expect("a key")).expect("a key")
}

fn rsa() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key")
}

fn proof(names: &[&str], key: PKey<Private>) -> Proof {
    let mut builder = X509Builder::new().expect("a builder");
    let serial = BigNum::from_u32(1).and_then(|n| n.to_asn1_integer());
    builder.set_version(2).expect("a version");
    builder
        .set_serial_number(&serial.expect("a number"))
        .expect("a number");
    builder.set_pubkey(&key).expect("a key");
    let (from, to) = (Asn1Time::days_from_now(0), Asn1Time::days_from_now(10));
    builder.set_not_before(&from.expect("a time")).expect("set");
    builder.set_not_after(&to.expect("a time")).expect("set");
    let mut alternative = SubjectAlternativeName::new();
    names.iter().for_each(|name| {
        alternative.dns(name);
    });
    let extension = alternative.build(&builder.x509v3_context(None, None));
    builder
        .append_extension(extension.expect("an extension"))
        .expect("set");
    builder.sign(&key, MessageDigest::sha256()).expect("signed");
    Proof {
        leaf: builder.build(),
        chain: Vec::new(),
        key: ProofKey::Here(key),
    }
}

fn rules(names: &[&str]) -> Vec<HostRule> {
    let parsed = names.iter().map(|name| HostRule::parse(name));
    parsed.collect::<Result<_, _>>().expect("names")
}

fn tls(versions: &[TlsVersion]) -> Tls {
    Tls {
        versions: versions.to_vec(),
        cipher_list: "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256".into(),
        cipher_suites: "TLS_AES_128_GCM_SHA256".into(),
        groups: "X25519:P-256".into(),
        client: None,
        strict_sni: false,
    }
}

const BOTH: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];

fn doorman(tls: &Tls, certificates: &[(&[&str], PKey<Private>)]) -> Doorman {
    let address = "127.0.0.1:443".parse().expect("an address");
    let doorman = Doorman::new(address, tls).expect("a policy");
    for (i, (names, key)) in certificates.iter().enumerate() {
        let proof = proof(names, key.clone());
        doorman.add(&i.to_string(), &rules(names).into(), false, proof);
    }
    doorman.settle();
    doorman
}

/// A client that trusts everyone.
struct Client {
    name: &'static str,
    version: Option<SslVersion>,
    sigalgs: Option<&'static str>,
    alpn: Option<&'static [u8]>,
    session: Option<SslSession>,
}

impl Client {
    fn of(name: &'static str) -> Client {
        Client {
            name,
            version: None,
            sigalgs: None,
            alpn: None,
            session: None,
        }
    }

    /// The names that the doorman found, and the client's end.
    fn meet(&self, doorman: &Doorman) -> Option<(Option<Names>, SslStream<TcpStream>)> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut connector = SslConnector::builder(SslMethod::tls()).expect("a client");
        connector.set_verify(SslVerifyMode::NONE);
        connector.set_max_proto_version(self.version).expect("set");
        if let Some(sigalgs) = self.sigalgs {
            connector.set_sigalgs_list(sigalgs).expect("set");
        }
        if let Some(alpn) = self.alpn {
            connector.set_alpn_protos(alpn).expect("set");
        }
        let mut ssl = connector
            .build()
            .configure()
            .expect("a client")
            .use_server_name_indication(!self.name.is_empty())
            .verify_hostname(false)
            .into_ssl(self.name)
            .expect("a client");
        if let Some(session) = &self.session {
            crate::sys::ssl::resume(&mut ssl, session);
        }
        let client = std::thread::spawn(move || {
            let stream = TcpStream::connect(address).expect("connected");
            let mut stream = SslStream::new(ssl, stream).expect("a stream");
            let met = stream.connect().is_ok();
            // What the server has sent behind its handshake: tickets, and a byte.
            let mut byte = [0];
            let met = met && stream.ssl_read(&mut byte).is_ok();
            // A session that ends otherwise is not resumed.
            stream.set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
            met.then_some(stream)
        });
        let (stream, _) = listener.accept().expect("a client");
        let mut conn = Conn::secure(doorman.accept(stream).expect("a stream"), true);
        // The sockets block: each step goes to its end.
        let done = conn.shake().unwrap_or(false) && conn.send(b"!").is_ok();
        let names = conn.tls().and_then(|tls| doorman.names_of(tls));
        drop(conn);
        let stream = client.join().expect("a client")?;
        done.then_some((names, stream))
    }
}

fn key(n: u8) -> TicketKey {
    TicketKey {
        name: [n; 16],
        cipher: [n; 32],
        mac: [n; 32],
    }
}

#[test]
fn names_get_their_certificates() {
    let all: [(&[&str], _); 3] = [
        (&["a.test", "b.test"], ecdsa()),
        (&["*.c.test"], ecdsa()),
        (&["x.c.test"], ecdsa()),
    ];
    let doorman = doorman(&tls(&BOTH), &all);
    for (asked, shown) in [
        ("a.test", 0),
        ("B.test", 0),
        ("y.c.test", 1),
        ("x.c.test", 2),
        ("x.y.c.test", 0),
        ("", 0),
    ] {
        let met = Client::of(asked).meet(&doorman);
        let (names, stream) = met.expect(asked);
        assert_eq!(names.as_deref(), Some(&*rules(all[shown].0)), "{asked}");
        let leaf = stream.ssl().peer_certificate().expect("a certificate");
        let public = leaf.public_key().expect("a key");
        assert!(public.public_eq(&all[shown].1), "{asked}");
    }
}

#[test]
fn unknown_names_are_refused_if_that_is_asked_for() {
    let strict = Tls {
        strict_sni: true,
        ..tls(&BOTH)
    };
    let doorman = doorman(&strict, &[(&["a.test"], ecdsa())]);
    assert!(Client::of("a.test").meet(&doorman).is_some());
    assert!(Client::of("b.test").meet(&doorman).is_none());
    assert!(Client::of("").meet(&doorman).is_none());
}

#[test]
fn the_kind_of_key_is_one_that_the_client_takes() {
    let all: [(&[&str], _); 2] = [(&["a.test", "b.test"], rsa()), (&["a.test"], ecdsa())];
    let doorman = doorman(&tls(&BOTH), &all);
    for (sigalgs, bits) in [("ECDSA+SHA256", 256), ("RSA-PSS+SHA256:RSA+SHA256", 2048)] {
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let mut client = Client::of("a.test");
            client.version = Some(version);
            client.sigalgs = Some(sigalgs);
            let (names, stream) = client.meet(&doorman).expect("a handshake");
            let leaf = stream.ssl().peer_certificate().expect("a certificate");
            assert_eq!(leaf.public_key().expect("a key").bits(), bits);
            assert_eq!(names.as_deref(), Some(&*rules(&["a.test"])));
        }
    }
}

#[test]
fn http11_is_all_that_is_spoken() {
    let doorman = doorman(&tls(&BOTH), &[(&["a.test"], ecdsa())]);
    let mut client = Client::of("a.test");
    for (offered, taken) in [(&b"\x02h2\x08http/1.1"[..], true), (&b"\x02h2"[..], false)] {
        client.alpn = Some(offered);
        let met = client.meet(&doorman);
        assert_eq!(met.is_some(), taken);
        let chosen =
            met.and_then(|(_, stream)| Some(stream.ssl().selected_alpn_protocol()? == b"http/1.1"));
        assert_eq!(chosen, taken.then_some(true));
    }
}

#[test]
fn sessions_are_resumed_by_any_known_key_and_only_for_their_name() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let all: [(&[&str], _); 2] = [(&["a.test"], ecdsa()), (&["b.test"], ecdsa())];
        let ours = doorman(&tls(&BOTH), &all);
        let mut client = Client::of("a.test");
        client.version = Some(version);
        set_ticket_keys(vec![key(1)]);
        let (_, first) = client.meet(&ours).expect("a handshake");
        assert!(!first.ssl().session_reused());
        client.session = first.ssl().session().map(|session| session.to_owned());
        let reused = |client: &Client, doorman: &Doorman| {
            let (_, stream) = client.meet(doorman).expect("a handshake");
            stream.ssl().session_reused()
        };
        // The same keys in another process, or after a reload.
        let other = doorman(&tls(&BOTH), &all);
        assert!(reused(&client, &ours) && reused(&client, &other));
        set_ticket_keys(vec![key(2), key(1)]);
        assert!(reused(&client, &ours));
        set_ticket_keys(vec![key(2)]);
        assert!(!reused(&client, &ours));
        set_ticket_keys(vec![key(1)]);
        client.name = "b.test";
        assert!(!reused(&client, &ours));
        client.name = "a.test";
        let stricter = Tls {
            groups: "P-256".into(),
            ..tls(&BOTH)
        };
        assert!(!reused(&client, &doorman(&stricter, &all)));
    }
}

/// What a backend sends behind its handshake is no data, and no reason to give an idle connection up.
#[test]
fn tickets_are_silence() {
    let doorman = doorman(&tls(&[TlsVersion::Tls13]), &[(&["a.test"], ecdsa())]);
    set_ticket_keys(vec![key(1)]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let stream = TcpStream::connect(listener.local_addr().expect("an address"));
    let policy = crate::state::BackendTls {
        verify: false,
        ca: None,
        server_name: None,
        own: None,
    };
    let dialer = backend::Dialers::default().dialer(&policy, crate::state::Protocol::Http);
    let dialer = std::rc::Rc::new(dialer.expect("a dialer"));
    let nobody = crate::slab::Key {
        index: 0,
        generation: 0,
    };
    let (tls, _) = dialer
        .dial(stream.expect("connected"), nobody, "a.test")
        .expect("a connection");
    let (ours, theirs) = (Conn::dialed(tls), listener.accept().expect("a client").0);
    theirs.set_nonblocking(true).expect("set");
    theirs.set_nodelay(true).expect("set");
    let theirs = Conn::secure(doorman.accept(theirs).expect("a stream"), true);
    let (mut ours, mut theirs) = (ours, theirs);
    ours.tls()
        .expect("TLS")
        .tcp()
        .set_nonblocking(true)
        .expect("set");
    let events = crate::sys::epoll::IN | crate::sys::epoll::OUT;
    while ours.is_shaking() || theirs.is_shaking() {
        for conn in [&mut ours, &mut theirs] {
            conn.fired(events);
            conn.shake().expect("a step");
        }
    }
    // Tickets lie in the socket.
    ours.fired(events);
    assert!(ours.is_silent());
    assert!(theirs.send(b"!").is_ok_and(|n| n == 1));
    ours.fired(events);
    assert!(!ours.is_silent());
    let mut room = [0; 2];
    assert!(ours.receive(&mut room).is_ok_and(|n| n == 1));
    assert!(ours.is_silent());
    // An end is no silence, whether it is announced or not.
    theirs.part();
    ours.fired(events);
    assert!(!ours.is_silent());
    assert!(ours.receive(&mut room).is_ok_and(|n| n == 0));
}
