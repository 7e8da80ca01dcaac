//! Who breaks the rules of TLS, is slow, or goes away in the middle: refused or given up, and
//! the proxy serves on, with no more memory than before.

#[path = "common/certificate.rs"]
mod certificate;
mod common;

use certificate::{Keys, Made, Secure};
use common::{same_bytes, signal, wait_until, Backend, Broken, Peer, Proxy, Setup};
use openssl::ssl::{
    SslConnector, SslConnectorBuilder, SslMethod, SslSession, SslStream, SslVerifyMode, SslVersion,
};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const NAME: &str = "a.test";
/// Kinds of records and alerts (RFC 8446 sections 5.1 and 6).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const PROTOCOL_VERSION: u8 = 70;
const NO_APPLICATION_PROTOCOL: u8 = 120;

fn start(setup: Setup) -> (Backend, Proxy) {
    let backend = Backend::named("ok");
    let proxy = setup.backends(&[backend.address()]).start();
    let words = Made::of(&[NAME], Keys::Ecdsa).words();
    let line = format!("certificate add listener={} {words}", proxy.address());
    proxy.steer().ok(&line);
    (backend, proxy)
}

/// It has not come to harm.
#[track_caller]
fn serves(proxy: &Proxy) {
    let mut client = Secure::connect(proxy.address(), NAME).expect("a handshake");
    assert!(client.ask(NAME).starts_with("HTTP/1.1 200 "));
}

/// A client's stream that ends after so many bytes, and keeps what was sent.
#[derive(Debug)]
struct Cut {
    stream: Option<TcpStream>,
    left: usize,
    sent: Vec<u8>,
}

impl Cut {
    fn after(left: usize, stream: Option<TcpStream>) -> Cut {
        let sent = Vec::new();
        Cut { stream, left, sent }
    }
}

impl Read for Cut {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let stream = self.stream.as_mut();
        stream.map_or(Err(io::ErrorKind::BrokenPipe.into()), |s| s.read(room))
    }
}

impl Write for Cut {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.left);
        if taken == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.left -= taken;
        self.sent.extend_from_slice(&bytes[..taken]);
        if let Some(stream) = &mut self.stream {
            stream.write_all(&bytes[..taken])?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn connector(set: impl FnOnce(&mut SslConnectorBuilder)) -> SslConnector {
    let mut builder = SslConnector::builder(SslMethod::tls()).expect("a client");
    builder.set_verify(SslVerifyMode::NONE);
    set(&mut builder);
    builder.build()
}

/// The ClientHello of a real client: one record.
fn hello(set: impl FnOnce(&mut SslConnectorBuilder)) -> Vec<u8> {
    hello_to(NAME, set)
}

fn hello_to(name: &str, set: impl FnOnce(&mut SslConnectorBuilder)) -> Vec<u8> {
    hello_with(&connector(set), name, None)
}

fn hello_with(connector: &SslConnector, name: &str, session: Option<&SslSession>) -> Vec<u8> {
    let configured = connector.configure().expect("a client");
    let mut ssl = configured.into_ssl(name).expect("a client");
    if let Some(session) = session {
        sozu_lib::sys::ssl::resume(&mut ssl, session);
    }
    let mut stream = SslStream::new(ssl, Cut::after(usize::MAX, None)).expect("a client");
    assert!(stream.connect().is_err(), "a handshake with nobody");
    stream.get_ref().sent.clone()
}

/// The same message in records of so many bytes.
fn fragments(message: &[u8], size: usize) -> Vec<u8> {
    let mut records = Vec::new();
    for part in message.chunks(size) {
        records.extend([HANDSHAKE, 3, 1]);
        records.extend((part.len() as u16).to_be_bytes());
        records.extend(part);
    }
    records
}

/// The message of that record with one more extension at its end, or none.
fn extended(record: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
    let mut message = record[5..].to_vec();
    // Version and random, session, ciphers, compression: what is before the extensions.
    let mut at = 4 + 34;
    at += 1 + usize::from(message[at]);
    at += 2 + usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    at += 1 + usize::from(message[at]);
    message.extend(kind.to_be_bytes());
    message.extend((data.len() as u16).to_be_bytes());
    message.extend(data);
    let extensions = (message.len() - at - 2) as u16;
    message[at..at + 2].copy_from_slice(&extensions.to_be_bytes());
    let length = (message.len() - 4) as u32;
    message[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
    message
}

/// What the proxy answers to these bytes first: the kind of its record.
#[track_caller]
fn answers(proxy: &Proxy, bytes: &[u8], kind: u8) -> Peer {
    let mut client = proxy.client();
    client.send(bytes);
    let record = client.exactly(3).expect("an answer");
    assert_eq!(record[..2], [kind, 3], "{record:?}");
    client
}

/// Refused with that alert, and closed.
#[track_caller]
fn refused(proxy: &Proxy, bytes: &[u8], alert: u8) {
    let mut client = answers(proxy, bytes, ALERT);
    // Its length, and that it is fatal.
    let told = client.exactly(4).expect("an alert");
    same_bytes(&told, &[0, 2, 2, alert]);
    client.ends();
}

#[test]
fn who_speaks_http_is_told() {
    let (_backend, proxy) = start(Setup::https());
    let mut client = proxy.client();
    let answer = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(answer.status(), 400);
    assert!(
        answer.text().contains("This port speaks HTTPS"),
        "{answer:?}"
    );
    let handshakes = || proxy.control("metrics").data.join("\n");
    wait_until("it is counted", || {
        handshakes().contains("handshakes_failed=1").then_some(())
    });
}

#[test]
fn a_hello_may_come_in_pieces() {
    let (_backend, proxy) = start(Setup::https());
    let hello = hello(|_| {});
    let mut client = proxy.client();
    client.drip(&hello);
    same_bytes(
        &client.exactly(3).expect("a ServerHello"),
        &[HANDSHAKE, 3, 3],
    );
    answers(&proxy, &fragments(&hello[5..], 7), HANDSHAKE);
    // As long as extensions can be, with one that nobody knows (RFC 8701).
    let long = extended(&hello, 0xfafa, &[0; 65_000]);
    answers(&proxy, &fragments(&long, 1000), HANDSHAKE);
    answers(&proxy, &fragments(&long, 16_384), HANDSHAKE);
    serves(&proxy);
}

#[test]
fn what_is_no_hello_is_refused() {
    let (_backend, proxy) = start(Setup::https());
    for length in [70_000_u32, 131_000, 200_000, 0xff_ff_ff] {
        let mut message = vec![1];
        message.extend(&length.to_be_bytes()[1..]);
        message.resize(length.min(200_000) as usize, 0x2a);
        let mut client = proxy.client();
        let sending = client.send_meanwhile(fragments(&message, 16_384));
        // With an alert, unless what it had not read yet has destroyed that.
        let (_alert, end) = client.rest();
        assert_ne!(end, Broken::Silence);
        sending.join().expect("sent");
    }
    let old = |builder: &mut SslConnectorBuilder| {
        let old = Some(SslVersion::TLS1_1);
        let set = builder.set_min_proto_version(Some(SslVersion::TLS1));
        set.and_then(|()| builder.set_max_proto_version(old))
            .and_then(|()| builder.set_cipher_list("ALL:@SECLEVEL=0"))
            .expect("an old client");
    };
    refused(&proxy, &hello(old), PROTOCOL_VERSION);
    let modern = |builder: &mut SslConnectorBuilder| {
        builder.set_alpn_protos(b"\x02h2").expect("ALPN");
    };
    refused(&proxy, &hello(modern), NO_APPLICATION_PROTOCOL);
    // SSL 2: length, hello, version 2, one cipher of three bytes, a challenge of 16.
    let mut ancient = vec![0x80, 28, 1, 0, 2, 0, 3, 0, 0, 0, 16, 1, 0, 0x80];
    ancient.extend([7; 16]);
    let mut client = proxy.client();
    client.send(ancient);
    let (_alert, end) = client.rest();
    assert_ne!(end, Broken::Silence);
    serves(&proxy);
}

/// It is neither promised nor taken: what is sent as early data goes nowhere.
#[test]
fn nothing_comes_before_the_handshake() {
    let (backend, proxy) = start(Setup::https());
    let mut first = Secure::connect(proxy.address(), NAME).expect("a handshake");
    first.ask(NAME);
    let session = first.session().expect("a session");
    assert_eq!(session.max_early_data(), 0);
    let before = backend.connections();
    let mut bytes = fragments(&extended(&hello(|_| {}), 42, &[]), 16_384);
    let request = b"GET /early HTTP/1.1\r\nHost: a.test\r\n\r\n";
    bytes.extend([23, 3, 3, 0, request.len() as u8]);
    bytes.extend(request);
    let mut client = answers(&proxy, &bytes, HANDSHAKE);
    client.finish();
    let (_flight, end) = client.rest();
    assert_ne!(end, Broken::Silence);
    assert_eq!(backend.connections(), before);
    serves(&proxy);
}

#[test]
fn garbage_ends_and_hurts_nobody() {
    let (_backend, proxy) = start(Setup::https());
    let hello = hello(|_| {});
    let mut cases = vec![
        vec![0x16; 3000],
        vec![0; 100],
        b"\x16\x03\x01\xff\xff".repeat(9000),
    ];
    let mut hellos = vec![hello];
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let only = |builder: &mut SslConnectorBuilder| {
            let version = Some(version);
            builder.set_max_proto_version(version).expect("a version");
        };
        let mut first = Secure::with(proxy.address(), NAME, only, None).expect("a handshake");
        first.ask(NAME);
        // With a ticket.
        let session = first.session();
        hellos.push(hello_with(&connector(only), NAME, session.as_ref()));
    }
    for hello in &hellos {
        for at in (5..hello.len()).step_by(7) {
            let mut broken = hello.clone();
            broken[at] ^= 0xff;
            cases.push(broken);
            cases.push(hello[..at].to_vec());
        }
    }
    let (count, pid) = (cases.len(), proxy.worker().pid);
    for case in cases {
        let mut stream = TcpStream::connect(proxy.address()).expect("connect");
        // It may be gone before all is sent.
        let _gone = stream.write_all(&case);
    }
    serves(&proxy);
    assert_eq!(proxy.worker().pid, pid);
    wait_until("all are gone", || {
        (proxy.worker().connections == 0).then_some(())
    });
    let line = proxy.control("metrics").data.join("\n");
    assert!(line.contains(&format!("accepted={} ", count + 3)), "{line}");
}

/// Neither silence nor a byte now and then puts the limit off.
#[test]
fn a_handshake_has_a_time_limit() {
    let (_backend, proxy) = start(Setup::https().listener("request_timeout", 1));
    let hello = hello(|_| {});
    let start = Instant::now();
    let mut silent = proxy.client();
    silent.send(&hello[..40]);
    let mut slow = proxy.client();
    for byte in hello {
        if start.elapsed() > Duration::from_millis(600) {
            break;
        }
        slow.send([byte]).silent_for(Duration::from_millis(50));
    }
    silent.ends();
    slow.ends();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
}

/// Who says nothing takes a place until its time is over, no longer.
#[test]
fn silence_holds_a_place_for_a_while() {
    let setup = Setup::https().listener("request_timeout", 1);
    let (_backend, proxy) = start(setup.top("max_connections", 64));
    let silent: Vec<Peer> = (0..64).map(|_| proxy.client()).collect();
    serves(&proxy);
    proxy.wait_log("the limit (max_connections)");
    for mut client in silent {
        client.ends();
    }
}

/// What a worker holds: kilobytes that are its own, whoever else runs the same program, and descriptors.
fn holds(pid: u32) -> (usize, usize) {
    let file = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(file).expect("smaps");
    let line = text.lines().find(|line| line.starts_with("Anonymous:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1));
    let kib = kib.and_then(|kib| kib.parse().ok()).expect("Anonymous");
    let folder = format!("/proc/{pid}/fd");
    let descriptors = std::fs::read_dir(folder).expect("descriptors").count();
    (kib, descriptors)
}

/// Handshakes that end after so many bytes of the client's, so many of them.
fn drop_handshakes(proxy: &Proxy, connector: &SslConnector, after: usize, count: usize) {
    for _ in 0..count {
        let stream = TcpStream::connect(proxy.address()).expect("connect");
        let client = connector.connect(NAME, Cut::after(after, Some(stream)));
        drop(client);
    }
}

#[test]
fn thousands_of_broken_handshakes_leave_nothing() {
    let (_backend, proxy) = start(Setup::https());
    let only = |version| {
        connector(|builder| {
            let version = Some(version);
            builder.set_max_proto_version(version).expect("a version");
        })
    };
    let connectors = [only(SslVersion::TLS1_2), only(SslVersion::TLS1_3)];
    let hello = hello(|_| {}).len();
    // Before the hello, in it, after it, in the second flight, and after all of it.
    let stages = [0, 1, 100, hello, hello + 20, 10_000];
    let pid = proxy.worker().pid;
    let round = |count| {
        for stage in stages {
            for connector in &connectors {
                drop_handshakes(&proxy, connector, stage, count);
            }
        }
        wait_until("all are gone", || {
            (proxy.worker().connections == 0).then_some(())
        });
        holds(pid)
    };
    let (before_kib, before) = round(50);
    let (after_kib, after) = round(300);
    assert_eq!(before, after, "descriptors");
    assert!(
        after_kib < before_kib + 512,
        "{before_kib} KiB became {after_kib} KiB"
    );
    serves(&proxy);
}

fn leaf_of(made: &Made) -> &str {
    let end = made.pem.split_inclusive("END CERTIFICATE-----\n").next();
    end.expect("a leaf")
}

/// A burst of them takes what it takes, as long as it lasts.
#[test]
fn memory_comes_back_after_many_at_once() {
    let (_backend, proxy) = start(Setup::https());
    let pid = proxy.worker().pid;
    let (before_kib, before) = holds(pid);
    let mut bytes = fragments(&[2; 400], 400);
    // The header of a long one makes room for all of it.
    bytes[5..9].copy_from_slice(&[1, 1, 0xff, 0]);
    let many: Vec<Peer> = (0..300)
        .map(|_| {
            let mut client = proxy.client();
            client.send(&bytes);
            client
        })
        .collect();
    let much_kib = before_kib + 300 * 20;
    wait_until("they take room", || (holds(pid).0 > much_kib).then_some(()));
    drop(many);
    wait_until("it is given back", || {
        let (kib, descriptors) = holds(pid);
        (kib < before_kib + 4096 && descriptors <= before).then_some(())
    });
    serves(&proxy);
}

#[test]
fn wrong_certificates_change_nothing() {
    let (_backend, proxy) = start(Setup::https());
    let root = Made::root();
    let (one, other) = (root.authority(), root.authority());
    let (good, twin) = (
        one.issue(&["b.test"], Keys::Ecdsa),
        Made::of(&["b.test"], Keys::Ecdsa),
    );
    let quoted = |text: &str| format!("\"{}\"", text.replace('\n', "\\n"));
    let next = one.issue(&["c.test"], Keys::Ecdsa);
    let leaf = leaf_of(&good);
    let mut control = proxy.steer();
    let dump = control.dump();
    for (pem, key, why) in [
        (&good.pem, &twin.key, "the key does not belong"),
        (&good.key, &good.key, "is no PEM certificate"),
        (&good.pem, &good.pem, "key"),
        (
            &good.pem[..200].to_string(),
            &good.key,
            "is no PEM certificate",
        ),
        (
            &(leaf.to_owned() + &other.pem),
            &good.key,
            "the chain belongs to another certificate",
        ),
        (
            &(leaf.to_owned() + leaf_of(&next) + &one.pem),
            &good.key,
            "in the wrong order",
        ),
        (&one.pem, &one.key, "names no host"),
    ] {
        let (pem, key) = (quoted(pem), quoted(key));
        let address = proxy.address();
        let line = format!("certificate add listener={address} certificate={pem} key={key}");
        let reply = control.ask(&line);
        assert!(reply.last.contains(why), "{why}: {reply:?}");
        assert_eq!(reply.code(), "invalid", "{reply:?}");
        assert_eq!(control.dump(), dump);
    }
    serves(&proxy);
}

/// A signature takes long. Who is served already waits for one of them, not for all.
#[test]
fn handshakes_wait_for_each_other_and_nobody_for_them() {
    let (_backend, proxy) = start(Setup::https());
    let slow = Made::of(&["slow.test"], Keys::RsaLarge);
    let address = proxy.address();
    let line = format!("certificate add listener={address} {}", slow.words());
    proxy.steer().ok(&line);
    let mut served = Secure::connect(address, NAME).expect("a handshake");
    served.ask(NAME);
    let pid = proxy.worker().pid;
    let mut others: Vec<Peer> = (0..128).map(|_| proxy.client()).collect();
    wait_until("all are accepted", || {
        (proxy.worker().connections == 129).then_some(())
    });
    let hello = hello_to("slow.test", |_| {});
    // All of it is there at once, and the request last.
    assert!(signal(pid, "STOP"));
    for other in &mut others {
        other.send(&hello);
    }
    served.send(&format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"));
    assert!(signal(pid, "CONT"));
    assert!(served.answer().starts_with("HTTP/1.1 200 "));
    let answered = others.iter().filter(|other| other.has_more()).count();
    assert!(answered < 64, "{answered} handshakes came first");
    for other in &mut others {
        let record = other.exactly(3).expect("a ServerHello");
        same_bytes(&record, &[HANDSHAKE, 3, 3]);
    }
}
