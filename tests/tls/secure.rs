//! Backends that speak TLS, with certificates made here.
#![allow(dead_code)]

use crate::common::{now_s, ok, DEADLINE};
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::sign::Signer;
use openssl::ssl::{
    AlpnError, NameType, SslAcceptor, SslAcceptorBuilder, SslMethod, SslStream, SslVerifyMode,
    SslVersion,
};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509Builder, X509Crl, X509Name, X509};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A certificate with its key.
#[derive(Clone)]
pub struct Proof {
    pub certificate: X509,
    pub key: PKey<Private>,
}

impl Proof {
    /// `issuer`: nobody else, if there is none. Names that are addresses stand for these.
    fn new(names: &[&str], issuer: Option<&Proof>, days: u32) -> Proof {
        let until = Asn1Time::days_from_now(days).expect("a time");
        let authority = format!("Test Authority {}", serial());
        let common = names.first().copied().unwrap_or(&authority);
        Proof::of(&[("CN", common)], names, issuer, &until)
    }

    fn of(
        subject: &[(&str, &str)],
        hosts: &[&str],
        issuer: Option<&Proof>,
        until: &Asn1Time,
    ) -> Proof {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("a curve");
        let key = PKey::from_ec_key(EcKey::generate(&group).expect("a key")).expect("a key");
        let mut name = X509Name::builder().expect("a name");
        for (field, value) in subject {
            name.append_entry_by_text(field, value).expect("a name");
        }
        let name = name.build();
        let mut made = X509Builder::new().expect("a certificate");
        let number = BigNum::from_u32(serial());
        let number = number.and_then(|n| n.to_asn1_integer()).expect("a number");
        let by = issuer.map_or(&*name, |issuer| issuer.certificate.subject_name());
        let from = Asn1Time::from_unix(0).expect("a time");
        let mut fields = || {
            made.set_version(2)?;
            made.set_serial_number(&number)?;
            made.set_pubkey(&key)?;
            made.set_subject_name(&name)?;
            made.set_issuer_name(by)?;
            made.set_not_before(&from)?;
            made.set_not_after(until)?;
            if issuer.is_none() && hosts.is_empty() {
                made.append_extension(BasicConstraints::new().critical().ca().build()?)?;
            } else if !hosts.is_empty() {
                let mut alternative = SubjectAlternativeName::new();
                for name in hosts {
                    match name.parse::<std::net::IpAddr>() {
                        Ok(_) => alternative.ip(name),
                        Err(_) => alternative.dns(name),
                    };
                }
                let extension = alternative.build(&made.x509v3_context(None, None))?;
                made.append_extension(extension)?;
            }
            let signer = issuer.map_or(&key, |issuer| &issuer.key);
            made.sign(signer, MessageDigest::sha256())
        };
        fields().expect("a certificate");
        let certificate = made.build();
        Proof { certificate, key }
    }

    pub fn self_signed(names: &[&str]) -> Proof {
        Proof::new(names, None, 30)
    }

    pub fn pem(&self) -> String {
        let pem = self.certificate.to_pem().expect("PEM");
        String::from_utf8(pem).expect("PEM")
    }

    pub fn key_pem(&self) -> String {
        let pem = self.key.private_key_to_pem_pkcs8().expect("PEM");
        String::from_utf8(pem).expect("PEM")
    }
}

/// Another one each time.
fn serial() -> u32 {
    static SERIAL: AtomicU32 = AtomicU32::new(1);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

/// Who signs certificates.
pub struct Authority(Proof);

impl Authority {
    pub fn new() -> Authority {
        Authority(Proof::new(&[], None, 30))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn issue(&self, names: &[&str]) -> Proof {
        Proof::new(names, Some(&self.0), 30)
    }

    /// Of somebody who is no host, for so many seconds.
    pub fn issue_to(&self, subject: &[(&str, &str)], seconds: i64) -> Proof {
        let until = Asn1Time::from_unix(now_s() + seconds).expect("a time");
        Proof::of(subject, &[], Some(&self.0), &until)
    }

    /// One whose time is over.
    pub fn expired(&self, names: &[&str]) -> Proof {
        Proof::new(names, Some(&self.0), 0)
    }

    /// What it has revoked: a list that is good for so many days.
    pub fn crl(&self, revoked: &[&Proof], days: i64) -> String {
        self.crl_signed_by(&self.0, revoked, days)
    }

    /// The same, and yet perhaps not by itself (RFC 5280 section 5.1).
    pub fn crl_signed_by(&self, signer: &Proof, revoked: &[&Proof], days: i64) -> String {
        let entry = |one: &&Proof| {
            let serial = one.certificate.serial_number().to_bn().expect("a number");
            der(0x30, &[der(0x02, &[serial.to_vec()]), time(-1)])
        };
        // ecdsa-with-SHA256.
        let algorithm = der(
            0x30,
            &[der(0x06, &[b"\x2a\x86\x48\xce\x3d\x04\x03\x02".into()])],
        );
        let issuer = self.0.certificate.subject_name().to_der().expect("DER");
        let mut parts = vec![der(0x02, &[vec![1]]), algorithm.clone(), issuer];
        parts.extend([time(-90), time(days)]);
        let entries: Vec<Vec<u8>> = revoked.iter().map(entry).collect();
        // An empty list is left out.
        parts.extend((!entries.is_empty()).then(|| der(0x30, &entries)));
        let told = der(0x30, &parts);
        let mut signing = Signer::new(MessageDigest::sha256(), &signer.key).expect("a signer");
        let signature = signing.sign_oneshot_to_vec(&told).expect("signed");
        let signature = der(0x03, &[vec![0], signature]);
        let list = X509Crl::from_der(&der(0x30, &[told, algorithm, signature]));
        let pem = list.and_then(|list| list.to_pem()).expect("PEM");
        String::from_utf8(pem).expect("PEM")
    }
}

/// A value of ASN.1 that consists of these.
fn der(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let content = parts.concat();
    let mut value = vec![tag];
    match content.len() {
        short @ ..0x80 => value.push(short as u8),
        long => {
            value.push(0x82);
            value.extend_from_slice(&(long as u16).to_be_bytes());
        }
    }
    value.extend(content);
    value
}

/// So many days from now, as UTCTime.
fn time(days: i64) -> Vec<u8> {
    let ms = u64::try_from(now_s() + days * 86_400).expect("after 1970") * 1000;
    let text = sozu_lib::date::rfc3339(ms);
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    der(0x17, &[format!("{}Z", &digits[2..14]).into()])
}

/// What a backend saw of one handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub name: Option<String>,
    pub resumed: bool,
    pub alpn: Option<Vec<u8>>,
    /// The common name of the certificate that the client has shown.
    pub client: Option<String>,
}

#[derive(Default)]
struct Log {
    handshakes: Vec<Seen>,
    /// Whether each connection that ended did so with a word.
    ends: Vec<bool>,
}

type Shared = Arc<(Mutex<Log>, Condvar)>;

/// A connection at the backend.
pub struct Secure {
    pub tls: SslStream<TcpStream>,
    log: Shared,
}

impl Secure {
    /// A request with its counted body; `None`: there is no other one.
    pub fn request(&mut self) -> Option<(String, Vec<u8>)> {
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") {
            match self.tls.ssl_read(&mut byte) {
                Ok(n) => head.extend_from_slice(&byte[..n]),
                Err(e) => {
                    self.ended(e.code() == openssl::ssl::ErrorCode::ZERO_RETURN);
                    return None;
                }
            }
        }
        let head = String::from_utf8(head).expect("a head");
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1);
        let length = length.and_then(|rest| rest.split("\r\n").next());
        let mut body = vec![0; length.map_or(0, |n| n.parse().expect("a length"))];
        self.tls.read_exact(&mut body).ok()?;
        Some((head, body))
    }

    fn ended(&self, in_order: bool) {
        self.log.0.lock().expect("log").ends.push(in_order);
        self.log.1.notify_all();
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _gone = self.tls.write_all(bytes.as_ref());
    }

    /// Sends back what comes, until the other side is done; then says so too.
    pub fn echo(&mut self) {
        let mut room = vec![0; 32 * 1024];
        loop {
            match self.tls.ssl_read(&mut room) {
                Ok(n) => {
                    let bytes = room[..n].to_vec();
                    self.send(bytes);
                }
                Err(e) => {
                    self.ended(e.code() == openssl::ssl::ErrorCode::ZERO_RETURN);
                    let _gone = self.tls.shutdown();
                    return;
                }
            }
        }
    }
}

pub struct SecureBackend {
    address: SocketAddr,
    log: Shared,
    stopped: Arc<AtomicBool>,
}

impl SecureBackend {
    /// Runs `script` for every connection whose handshake succeeded.
    pub fn scripted<S>(proof: &Proof, version: Option<SslVersion>, script: S) -> SecureBackend
    where
        S: Fn(&mut Secure) + Send + Sync + 'static,
    {
        SecureBackend::made(acceptor(proof, version).build(), script)
    }

    /// As `echo`, for clients with a certificate of that authority alone.
    pub fn asking(proof: &Proof, version: SslVersion, authority: &Authority) -> SecureBackend {
        let mut acceptor = acceptor(proof, Some(version));
        let mut store = X509StoreBuilder::new().expect("a store");
        let root = authority.0.certificate.clone();
        store.add_cert(root).expect("a root");
        acceptor
            .set_verify_cert_store(store.build())
            .expect("a store");
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
        SecureBackend::made(acceptor.build(), answer_all)
    }

    fn made<S>(acceptor: SslAcceptor, script: S) -> SecureBackend
    where
        S: Fn(&mut Secure) + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a backend");
        let address = listener.local_addr().expect("getsockname");
        let (log, stopped) = (Shared::default(), Arc::<AtomicBool>::default());
        let backend = SecureBackend {
            address,
            log: log.clone(),
            stopped: stopped.clone(),
        };
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (acceptor, script, log) = (acceptor.clone(), script.clone(), log.clone());
                std::thread::spawn(move || serve(&acceptor, stream, log, &*script));
            }
        });
        backend
    }

    /// Answers every request with the body it had, or with its host if it had none.
    pub fn echo(proof: &Proof) -> SecureBackend {
        SecureBackend::scripted(proof, None, answer_all)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The handshakes that succeeded.
    pub fn handshakes(&self) -> Vec<Seen> {
        self.log.0.lock().expect("log").handshakes.clone()
    }

    /// Waits for the end of a connection: whether it was announced.
    #[track_caller]
    pub fn wait_end(&self) -> bool {
        let end = Instant::now() + DEADLINE;
        let mut log = self.log.0.lock().expect("log");
        while log.ends.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no connection ends");
            log = self.log.1.wait_timeout(log, left).expect("log").0;
        }
        log.ends.remove(0)
    }
}

fn answer_all(peer: &mut Secure) {
    while let Some((head, body)) = peer.request() {
        let host = head.split("Host: ").nth(1).unwrap_or_default();
        let host = host.split("\r\n").next().unwrap_or_default();
        match body.is_empty() {
            true => peer.send(ok(host)),
            false => peer.send(ok(body)),
        }
    }
}

fn common_name(certificate: &X509) -> String {
    let mut all = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
    let name = all.next().and_then(|name| name.data().to_string().ok());
    name.unwrap_or_default()
}

impl Drop for SecureBackend {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        let _wake = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

fn acceptor(proof: &Proof, version: Option<SslVersion>) -> SslAcceptorBuilder {
    let mut made = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls()).expect("a context");
    let mut fill = || {
        made.set_certificate(&proof.certificate)?;
        made.set_private_key(&proof.key)?;
        made.set_session_id_context(b"test")?;
        made.set_max_proto_version(version)
    };
    fill().expect("a context");
    made.set_alpn_select_callback(|_, offered| {
        openssl::ssl::select_next_proto(b"\x02h2\x08http/1.1", offered).ok_or(AlpnError::NOACK)
    });
    made
}

fn serve(acceptor: &SslAcceptor, stream: TcpStream, log: Shared, script: &dyn Fn(&mut Secure)) {
    stream
        .set_read_timeout(Some(DEADLINE))
        .expect("read time-out");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let Ok(tls) = acceptor.accept(stream) else {
        return;
    };
    let seen = Seen {
        name: tls.ssl().servername(NameType::HOST_NAME).map(str::to_owned),
        resumed: tls.ssl().session_reused(),
        alpn: tls.ssl().selected_alpn_protocol().map(<[u8]>::to_vec),
        client: tls
            .ssl()
            .peer_certificate()
            .map(|shown| common_name(&shown)),
    };
    log.0.lock().expect("log").handshakes.push(seen);
    script(&mut Secure { tls, log });
}
