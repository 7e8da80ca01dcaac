//! Certificates of clients on the real binary: who is let in, what backends are told, and
//! that nobody says it for himself.

mod common;
#[path = "tls/secure.rs"]
mod secure;

use common::{ok, pattern, same_bytes, sozu, wait_until, Backend, Message, Proxy, Setup, DEADLINE};
use openssl::ssl::{Ssl, SslContext, SslMethod, SslSession, SslStream, SslVersion};
use secure::{Authority, Proof};
use std::io::{Read, Write};
use std::net::TcpStream;

const BOTH: [SslVersion; 2] = [SslVersion::TLS1_2, SslVersion::TLS1_3];
const LONG: i64 = 86_400;
const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const NAMES: [&str; 3] = ["client-cert", "x-ssl-client-s-dn", "x-ssl-client-verify"];

/// How a client comes.
struct Caller<'a> {
    proof: Option<&'a Proof>,
    version: SslVersion,
    session: Option<&'a SslSession>,
}

struct Called {
    answer: String,
    resumed: bool,
    session: Option<SslSession>,
}

impl<'a> Caller<'a> {
    fn new(proof: Option<&'a Proof>, version: SslVersion) -> Caller<'a> {
        Caller {
            proof,
            version,
            session: None,
        }
    }

    fn with(proof: &'a Proof) -> Caller<'a> {
        Caller::new(Some(proof), SslVersion::TLS1_3)
    }

    fn again(mut self, session: &'a Option<SslSession>) -> Caller<'a> {
        self.session = Some(session.as_ref().expect("a session"));
        self
    }

    /// A whole exchange, or what OpenSSL says about the alert.
    fn ask(&self, proxy: &Proxy, request: impl AsRef<[u8]>) -> Result<Called, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let mut tls = self.stream(proxy);
        tls.connect().map_err(|e| text(&e))?;
        // Whether it was refused is told to who reads.
        let _sent = tls.write_all(request.as_ref());
        let mut bytes = Vec::new();
        let mut room = [0; 4096];
        while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
            match tls.read(&mut room).map_err(|e| text(&e))? {
                0 => return Err("the end".into()),
                n => bytes.extend_from_slice(&room[..n]),
            }
        }
        let session = tls.ssl().session().map(|session| session.to_owned());
        let resumed = tls.ssl().session_reused();
        let _ = tls.shutdown();
        Ok(Called {
            answer: String::from_utf8_lossy(&bytes).into_owned(),
            resumed,
            session,
        })
    }

    fn stream(&self, proxy: &Proxy) -> SslStream<TcpStream> {
        let mut context = SslContext::builder(SslMethod::tls_client()).expect("a client");
        let mut set = || {
            context.set_max_proto_version(Some(self.version))?;
            if let Some(proof) = self.proof {
                context.set_certificate(&proof.certificate)?;
                context.set_private_key(&proof.key)?;
            }
            Ok::<(), openssl::error::ErrorStack>(())
        };
        set().expect("a client");
        let mut ssl = Ssl::new(&context.build()).expect("a client");
        ssl.set_hostname("a.test").expect("a name");
        if let Some(session) = self.session {
            sozu_lib::sys::ssl::resume(&mut ssl, session);
        }
        let stream = TcpStream::connect(proxy.address()).expect("connect");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        SslStream::new(ssl, stream).expect("a client")
    }
}

#[track_caller]
fn served(called: Result<Called, String>) -> Called {
    let called = called.expect("an answer");
    assert!(called.answer.starts_with("HTTP/1.1 200 "));
    called
}

#[track_caller]
fn refused(called: Result<Called, String>, why: &str) {
    let said = called.err().expect("no answer");
    assert!(said.contains(why), "{said:?} is not {why:?}");
}

/// An https listener with these keys, and the authority that its clients are known by.
fn proxy(backend: &Backend, auth: &str, crl: impl FnOnce(&Authority) -> Option<String>) -> World {
    let authority = Authority::new();
    let setup = Setup::https().backends(&[backend.address()]);
    let setup = setup.top("log_level", "\"debug\"");
    let own = Proof::self_signed(&["a.test"]);
    let (certificate, key) = (
        setup.file("own.pem", &own.pem()),
        setup.file("own.key", &own.key_pem()),
    );
    let ca = setup.file("ca.pem", &authority.pem());
    let crl = crl(&authority).map(|crl| setup.file("list.crl", &crl));
    let mut setup = setup
        .listener("certificate", certificate)
        .listener("key", key)
        .listener("client_auth", format!("{auth:?}"));
    if auth != "none" {
        setup = setup.listener("client_ca", ca);
    }
    if let Some(crl) = crl {
        setup = setup.listener("client_crl", crl);
    }
    let proxy = setup.start();
    World { proxy, authority }
}

struct World {
    proxy: Proxy,
    authority: Authority,
}

impl World {
    fn person(&self) -> Proof {
        let subject = [("O", "Acme, Inc."), ("CN", "Jo")];
        self.authority.issue_to(&subject, LONG)
    }

    /// Changes keys of the listener.
    #[track_caller]
    fn update(&self, keys: &str) {
        let address = self.proxy.address();
        let line = format!("listener update address={address} {keys}");
        self.proxy.steer().ok(&line);
    }

    fn refused_update(&self, keys: &str) -> String {
        let address = self.proxy.address();
        let line = format!("listener update address={address} {keys}");
        self.proxy.steer().refused(&line, "invalid")
    }

    fn metric(&self, what: &str) -> bool {
        let told = self.proxy.control("metrics").data.join("\n");
        told.contains(what)
    }
}

fn quoted(pem: &str) -> String {
    format!("\"{}\"", pem.replace('\n', "\\n"))
}

/// What a backend was told of its client, in the order of `NAMES`.
fn told(request: &Message) -> Vec<Vec<&str>> {
    NAMES.iter().map(|name| request.all(name)).collect()
}

fn der(proof: &Proof) -> String {
    let der = proof.certificate.to_der().expect("DER");
    format!(":{}:", openssl::base64::encode_block(&der))
}

#[test]
fn required_is_required() {
    let backend = Backend::named("ok");
    let world = proxy(&backend, "required", |_| None);
    let person = world.person();
    let stranger = Authority::new().issue_to(&[("CN", "Jo")], LONG);
    let late = world.authority.issue_to(&[("CN", "Late")], -60);
    for (turn, version) in (1..).zip(BOTH) {
        let ask = |proof| Caller::new(proof, version).ask(&world.proxy, GET);
        let missing = match version {
            SslVersion::TLS1_3 => "certificate required",
            _ => "handshake failure",
        };
        refused(ask(None), missing);
        refused(ask(Some(&stranger)), "unknown ca");
        refused(ask(Some(&late)), "certificate expired");
        assert_eq!(backend.requests().len(), turn - 1);
        served(ask(Some(&person)));
        let failed = format!("handshakes={turn} resumed=0 handshakes_failed={}", turn * 3);
        assert!(world.metric(&failed), "{failed}");
    }
    world.proxy.wait_log("peer did not return a certificate");
    world.proxy.wait_log("certificate has expired");
    let last = backend.last_request();
    let own = der(&person);
    let wanted = [own.as_str(), "CN=Jo,O=Acme\\, Inc.", "SUCCESS"];
    assert_eq!(told(&last), wanted.map(|one| vec![one]));
}

#[test]
fn optional_may_be_left_out_and_not_be_wrong() {
    let backend = Backend::named("ok");
    let world = proxy(&backend, "optional", |_| None);
    served(Caller::new(None, SslVersion::TLS1_3).ask(&world.proxy, GET));
    assert_eq!(
        told(&backend.last_request()),
        [vec![], vec![], vec!["NONE"]]
    );
    let stranger = Proof::self_signed(&["a.test"]);
    refused(Caller::with(&stranger).ask(&world.proxy, GET), "unknown ca");
    served(Caller::with(&world.person()).ask(&world.proxy, GET));
    assert_eq!(told(&backend.last_request())[2], ["SUCCESS"]);
    // Without a question there is no answer.
    world.update("client_auth=none unset=client_ca");
    served(Caller::with(&stranger).ask(&world.proxy, GET));
    assert_eq!(
        told(&backend.last_request()),
        [const { Vec::<&str>::new() }; 3]
    );
}

const FORGED: &str = "Client-Cert: :Zm9yZ2Vk:\r\nclient_cert: :Zm9yZ2Vk:\r\nCLIENT-CERT-CHAIN: :Zm9yZ2Vk:\r\n\
    X-SSL-Client-S-DN: CN=forged\r\nx_ssl_client_s_dn: CN=forged\r\nX-Ssl_Client-S_DN: CN=forged\r\n\
    X-SSL-Client-Verify: SUCCESS\r\nX_SSL_CLIENT_VERIFY: SUCCESS\r\n";

/// Lines of a head that a client has written.
fn forgeries(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes).to_lowercase();
    let lines = text.lines().filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        let name = name.replace('_', "-");
        name.starts_with("client-cert") || name.starts_with("x-ssl")
    });
    lines.map(str::to_string).collect()
}

#[test]
fn nobody_forges_who_he_is() {
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: Client-Cert, X-SSL-Client-Verify\r\n{FORGED}\
         Transfer-Encoding: chunked\r\nTrailer: Client-Cert\r\n\r\n1\r\nx\r\n0\r\n{FORGED}\r\n"
    );
    let backend = Backend::named("ok");
    for auth in ["none", "optional", "required"] {
        let world = proxy(&backend, auth, |_| None);
        let person = world.person();
        backend.forget();
        served(Caller::with(&person).ask(&world.proxy, &head));
        let found = forgeries(&backend.bytes());
        let wanted: Vec<String> = match auth {
            "none" => Vec::new(),
            _ => {
                let own = format!("client-cert: {}", der(&person)).to_lowercase();
                let named = "x-ssl-client-s-dn: cn=jo,o=acme\\, inc.".to_string();
                vec![own, named, "x-ssl-client-verify: success".to_string()]
            }
        };
        assert_eq!(found, wanted, "{auth}");
    }
    // In the open, and from who is believed in all else.
    for ranges in ["[]", "[\"127.0.0.0/8\"]"] {
        let setup = Setup::http().listener("trusted_proxies", ranges);
        let proxy = setup.backends(&[backend.address()]).start();
        backend.forget();
        assert_eq!(proxy.client().ask(&head).status(), 200);
        let found = forgeries(&backend.bytes());
        assert!(found.is_empty(), "{found:?}");
    }
}

#[test]
fn no_subject_leaves_its_line() {
    let backend = Backend::named("ok");
    let world = proxy(&backend, "required", |_| None);
    for (subject, shown) in [
        (
            [("O", "a\r\nX-Role: admin"), ("CN", "é\u{1}\"<>;+=")],
            "CN=\\C3\\A9\\01\\\"\\<\\>\\;\\+=,O=a\\0D\\0AX-Role: admin",
        ),
        ([("O", " #x "), ("CN", "#y")], "CN=\\#y,O=\\ #x\\20"),
    ] {
        let person = world.authority.issue_to(&subject, LONG);
        served(Caller::with(&person).ask(&world.proxy, GET));
        let last = backend.last_request();
        assert_eq!(last.all("x-ssl-client-s-dn"), [shown]);
        assert_eq!(last.field("x-role"), None);
    }
}

#[test]
fn what_cannot_be_told_is_refused() {
    let backend = Backend::named("ok");
    let world = proxy(&backend, "required", |_| None);
    let long = "x".repeat(60);
    let subject: Vec<(&str, &str)> = (0..20).map(|_| ("OU", long.as_str())).collect();
    let person = world.authority.issue_to(&subject, LONG);
    refused(
        Caller::with(&person).ask(&world.proxy, GET),
        "handshake failure",
    );
    let many: Vec<String> = (0..200).map(|n| format!("host-{n}.example.com")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let person = world.authority.issue(&many);
    refused(
        Caller::with(&person).ask(&world.proxy, GET),
        "handshake failure",
    );
    world.proxy.wait_log("longer than a backend can be told");
}

/// What is told takes room in the buffer of the request: neither its head nor its body suffers.
#[test]
fn there_is_room_for_what_is_told() {
    let backend = Backend::echo();
    let world = proxy(&backend, "required", |_| None);
    let many: Vec<String> = (0..140).map(|n| format!("host-{n}.example.com")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let person = world.authority.issue(&many);
    assert!(der(&person).len() > 4000);
    let caller = Caller::with(&person);
    for filler in [0, 100, 1000, 5000, 8000] {
        let mut tls = caller.stream(&world.proxy);
        tls.connect().expect("a handshake");
        let filler = "y".repeat(filler);
        for length in [0, 1, 5000, 16_000, 40_000, 300_000] {
            let head = format!("POST / HTTP/1.1\r\nHost: a.test\r\nX-Filler: {filler}\r\nContent-Length: {length}\r\n\r\n");
            let body = pattern(length);
            // All at once: the body lies behind the head in the same buffer.
            let whole = [head.as_bytes(), &body].concat();
            tls.write_all(&whole).expect("sent");
            let (head, got) = answer(&mut tls);
            assert!(head.starts_with("HTTP/1.1 200 "), "{length}: {head}");
            same_bytes(&got, &body);
        }
    }
    let head = format!(
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n\r\n",
        "y".repeat(12_000)
    );
    let called = caller.ask(&world.proxy, head).expect("an answer");
    assert!(called.answer.starts_with("HTTP/1.1 431 "));
    // Others have all of the buffer, as before.
    let plain = Setup::http().backends(&[backend.address()]).start();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n\r\n",
        "y".repeat(15_900)
    );
    assert_eq!(plain.client().ask(head).status(), 200);
}

/// A counted answer, head and body.
fn answer(tls: &mut SslStream<TcpStream>) -> (String, Vec<u8>) {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        tls.read_exact(&mut byte).expect("more of the head");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text");
    let lower = head.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1).unwrap_or("0");
    let length = length.split("\r\n").next().unwrap_or("0");
    let mut body = vec![0; length.parse().expect("a length")];
    tls.read_exact(&mut body).expect("a body");
    (head, body)
}

#[test]
fn what_is_revoked_is_refused_be_it_resumed() {
    let backend = Backend::named("ok");
    let world = proxy(&backend, "required", |ca| Some(ca.crl(&[], 7)));
    let (one, other) = (world.person(), world.person());
    for version in BOTH {
        world.update(&format!(
            "client_crl={}",
            quoted(&world.authority.crl(&[], 7))
        ));
        let ask = |proof| Caller::new(Some(proof), version);
        let session = served(ask(&one).ask(&world.proxy, GET)).session;
        let again = served(ask(&one).again(&session).ask(&world.proxy, GET));
        assert!(again.resumed, "{version:?}");
        let own = der(&one);
        assert_eq!(backend.last_request().all("client-cert"), [own.as_str()]);
        world.update(&format!(
            "client_crl={}",
            quoted(&world.authority.crl(&[&one], 7))
        ));
        let called = ask(&one).again(&session).ask(&world.proxy, GET);
        refused(called, "certificate revoked");
        served(ask(&other).ask(&world.proxy, GET));
    }
    world.proxy.wait_log("certificate revoked");
    // The list is required of every issuer.
    world.update(&format!(
        "client_crl={}",
        quoted(&Authority::new().crl(&[], 7))
    ));
    refused(Caller::with(&one).ask(&world.proxy, GET), "alert");
    world.proxy.wait_log("unable to get certificate CRL");
}

/// A session is as good as what its client was verified by.
#[test]
fn sessions_end_with_their_rules() {
    let backend = Backend::named("ok");
    let world = proxy(&backend, "optional", |_| None);
    let person = world.person();
    let other = Authority::new();
    let both = quoted(&format!("{}{}", other.pem(), world.authority.pem()));
    for version in BOTH {
        let ask = |proof| Caller::new(proof, version);
        let none = served(ask(None).ask(&world.proxy, GET)).session;
        let own = served(ask(Some(&person)).ask(&world.proxy, GET)).session;
        assert!(served(ask(None).again(&none).ask(&world.proxy, GET)).resumed);
        for keys in [
            "client_auth=required".to_string(),
            format!("client_ca={both}"),
        ] {
            world.update(&keys);
            assert!(ask(None).again(&none).ask(&world.proxy, GET).is_err());
            let called = served(ask(Some(&person)).again(&own).ask(&world.proxy, GET));
            assert!(!called.resumed, "{version:?} {keys}");
        }
        world.update(&format!("client_ca={}", quoted(&other.pem())));
        let called = ask(Some(&person)).again(&own).ask(&world.proxy, GET);
        refused(called, "unknown ca");
        let back = quoted(&world.authority.pem());
        world.update(&format!("client_auth=optional client_ca={back}"));
    }
}

#[test]
fn sessions_end_with_their_certificate() {
    let backend = Backend::named("ok");
    let world = proxy(&backend, "required", |_| None);
    for version in BOTH {
        let person = world.authority.issue_to(&[("CN", "Short")], 3);
        let caller = || Caller::new(Some(&person), version);
        let session = served(caller().ask(&world.proxy, GET)).session;
        assert!(served(caller().again(&session).ask(&world.proxy, GET)).resumed);
        let said = wait_until("its time is over", || {
            caller().again(&session).ask(&world.proxy, GET).err()
        });
        assert!(said.contains("certificate expired"), "{said}");
    }
}

#[test]
fn old_lists_are_told_of() {
    let backend = Backend::named("ok");
    let world = proxy(&backend, "required", |ca| Some(ca.crl(&[], -2)));
    world.proxy.wait_log("has expired, 2 days ago");
    refused(
        Caller::with(&world.person()).ask(&world.proxy, GET),
        "certificate expired",
    );
    world.proxy.wait_log("CRL has expired");
    let config = world.proxy.config().display().to_string();
    let checked = sozu(&["check", "-c", &config]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && said.contains("warning: client_crl: the list of"));
    let list = quoted(&world.authority.crl(&[], -3));
    let line = format!(
        "listener update address={} client_crl={list}",
        world.proxy.address()
    );
    let reply = world.proxy.control(&line);
    assert!(reply.is_ok() && reply.data.join("").contains("3 days ago"));
    world.update(&format!(
        "client_crl={}",
        quoted(&world.authority.crl(&[], 1))
    ));
    served(Caller::with(&world.person()).ask(&world.proxy, GET));
}

#[test]
fn what_is_wrong_is_refused_before_anything_changes() {
    let backend = Backend::named("ok");
    let world = proxy(&backend, "required", |_| None);
    let list = quoted(&world.authority.crl(&[], 7));
    let root = quoted(&world.authority.pem());
    // By another one of the same name.
    let forged = world
        .authority
        .crl_signed_by(&Proof::self_signed(&["x"]), &[], 7);
    for (keys, why) in [
        ("client_ca=nonsense".to_string(), "no PEM"),
        (format!("client_ca={list}"), "no PEM certificate"),
        (format!("client_crl={root}"), "X509 CRL"),
        (
            format!("client_crl={}", quoted(&forged)),
            "not signed by it",
        ),
        (
            "client_auth=perhaps".to_string(),
            "none, optional, required",
        ),
        ("client_auth=none".to_string(), "client_ca: does nothing"),
        ("unset=client_ca".to_string(), "needs client_ca"),
    ] {
        let said = world.refused_update(&keys);
        assert!(said.contains(why), "{keys}: {said}");
    }
    served(Caller::with(&world.person()).ask(&world.proxy, GET));
    let port = common::free_address();
    let line = format!("listener add address={port} protocol=http client_auth=required");
    let said = world.proxy.steer().refused(&line, "invalid");
    assert!(said.contains("https listener only"), "{said}");
    let setup = Setup::https().listener("client_auth", "\"optional\"");
    let config = setup.write(port).display().to_string();
    let checked = sozu(&["check", "-c", &config]);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(!checked.status.success() && said.contains("client_auth: needs client_ca"));
}

#[test]
fn it_is_told_as_it_was_said() {
    let backend = Backend::answering(ok("x"));
    let world = proxy(&backend, "required", |ca| Some(ca.crl(&[], 7)));
    let mut control = world.proxy.steer();
    let dump = control.dump();
    let line = dump.iter().find(|line| line.starts_with("listener add"));
    let line = line.expect("a listener").clone();
    assert!(line.contains(" client_auth=required client_ca=\"-----BEGIN CERTIFICATE-----\\n"));
    assert!(line.contains(" client_crl=\"-----BEGIN X509 CRL-----\\n"));
    assert!(control.ok("state diff").data.is_empty());
    world.update("client_auth=optional");
    let diff = control.ok("state diff").data;
    let address = world.proxy.address();
    assert_eq!(
        diff,
        [format!(
            "listener update address={address} client_auth=optional"
        )]
    );
    assert!(control.ok("state check").last.contains("agrees=true"));
    let told = control.ok(&format!(
        "explain url=https://a.test:{}/ client=127.0.0.1",
        address.port()
    ));
    assert!(told.data.join("\n").contains("field=X-SSL-Client-Verify"));
    // The file again.
    world.update("client_auth=none unset=client_ca,client_crl");
    world
        .proxy
        .steer()
        .ok(&line.replace("listener add", "listener update"));
    assert!(control.ok("state diff").data.is_empty());
}
