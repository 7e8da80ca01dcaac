//! Certificates made for a test, and a client that speaks TLS. Only those tests include it
//! that need it: `sozuctl` knows nothing of OpenSSL.
#![allow(dead_code)]

use crate::common::{now_s, DEADLINE};
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::ssl::{
    ShutdownState, SslConnector, SslConnectorBuilder, SslMethod, SslSession, SslStream,
    SslVerifyMode,
};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509Builder, X509Name, X509NameBuilder, X509Ref, X509};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    Rsa,
    /// With which a signature takes long.
    RsaLarge,
    Ecdsa,
    /// P-384.
    EcdsaLarge,
}

/// A certificate, with those behind it, and its key.
#[derive(Clone)]
pub struct Made {
    pub pem: String,
    pub key: String,
    pub fingerprint: String,
}

impl Made {
    /// One that has signed itself.
    pub fn of(names: &[&str], keys: Keys) -> Made {
        Made::valid(names, keys, 0, 90)
    }

    /// From so many days from now until so many.
    pub fn valid(names: &[&str], keys: Keys, from: i64, to: i64) -> Made {
        Made::signed(names, keys, (from, to), false, None)
    }

    /// Who signs others, and is known to all.
    pub fn root() -> Made {
        Made::signed(&["root.test"], Keys::Ecdsa, (0, 90), true, None)
    }

    /// Who signs others in its place.
    pub fn authority(&self) -> Made {
        Made::signed(&["between.test"], Keys::Ecdsa, (0, 90), true, Some(self))
    }

    /// One that it has signed, with all that is above.
    pub fn issue(&self, names: &[&str], keys: Keys) -> Made {
        Made::signed(names, keys, (0, 90), false, Some(self))
    }

    fn signed(
        names: &[&str],
        keys: Keys,
        (from, to): (i64, i64),
        signs: bool,
        above: Option<&Made>,
    ) -> Made {
        let key = key(keys);
        let mut builder = X509Builder::new().expect("a builder");
        let mut name = X509NameBuilder::new().expect("a name");
        name.append_entry_by_text("CN", names[0]).expect("a name");
        let name = name.build();
        let mut serial = BigNum::new().expect("a number");
        serial.rand(127, MsbOption::ONE, false).expect("a number");
        let serial = serial.to_asn1_integer().expect("a number");
        let now = now_s();
        let time = |days: i64| Asn1Time::from_unix(now + days * 86_400 + 600).expect("a time");
        let mut alternative = SubjectAlternativeName::new();
        for name in names {
            alternative.dns(name);
        }
        let own = || (name.to_owned().expect("a name"), key.clone());
        let (issuer, signing) = above.map_or_else(own, Made::parts);
        let mut set = || -> Result<(), openssl::error::ErrorStack> {
            builder.set_version(2)?;
            builder.set_serial_number(&serial)?;
            builder.set_subject_name(&name)?;
            builder.set_issuer_name(&issuer)?;
            builder.set_pubkey(&key)?;
            builder.set_not_before(&time(from - 1))?;
            builder.set_not_after(&time(to))?;
            let extension = match signs {
                true => BasicConstraints::new().critical().ca().build()?,
                false => alternative.build(&builder.x509v3_context(None, None))?,
            };
            builder.append_extension(extension)?;
            builder.sign(&signing, MessageDigest::sha256())
        };
        set().expect("a certificate");
        let made = builder.build();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("PEM");
        let chain = above.map_or("", |above| &above.pem);
        Made {
            pem: text(made.to_pem().expect("PEM")) + chain,
            key: text(key.private_key_to_pem_pkcs8().expect("PEM")),
            fingerprint: fingerprint(&made),
        }
    }

    /// The name and the key with which it signs.
    fn parts(&self) -> (X509Name, PKey<Private>) {
        let certificate = X509::from_pem(self.pem.as_bytes()).expect("PEM");
        let name = certificate.subject_name().to_owned().expect("a name");
        let key = PKey::private_key_from_pem(self.key.as_bytes()).expect("PEM");
        (name, key)
    }

    /// The words of a command that have it.
    pub fn words(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\n', "\\n"));
        let (pem, key) = (quoted(&self.pem), quoted(&self.key));
        format!("certificate={pem} key={key}")
    }

    /// Lines of the key that no text may have.
    pub fn secrets(&self) -> Vec<String> {
        let lines = self.key.lines().filter(|line| !line.starts_with("---"));
        lines.map(str::to_string).collect()
    }
}

/// The SHA-256 of a certificate, as the proxy names it.
pub fn fingerprint(certificate: &X509Ref) -> String {
    let digest = certificate.digest(MessageDigest::sha256());
    let digest = digest.expect("a digest");
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn key(keys: Keys) -> PKey<Private> {
    match keys {
        Keys::Rsa => PKey::from_rsa(Rsa::generate(2048).expect("a key")),
        Keys::RsaLarge => PKey::from_rsa(Rsa::generate(4096).expect("a key")),
        Keys::Ecdsa => ecdsa(Nid::X9_62_PRIME256V1),
        Keys::EcdsaLarge => ecdsa(Nid::SECP384R1),
    }
    .expect("a key")
}

fn ecdsa(curve: Nid) -> Result<PKey<Private>, openssl::error::ErrorStack> {
    let group = EcGroup::from_curve_name(curve)?;
    PKey::from_ec_key(EcKey::generate(&group)?)
}

/// A client that trusts everyone.
pub struct Secure {
    pub stream: SslStream<TcpStream>,
}

impl Secure {
    /// Asks for that name; none, if it is empty. Nothing: there was no handshake.
    pub fn connect(address: SocketAddr, name: &str) -> Option<Secure> {
        Secure::with(address, name, |_| {}, None)
    }

    pub fn with(
        address: SocketAddr,
        name: &str,
        set: impl FnOnce(&mut SslConnectorBuilder),
        session: Option<&SslSession>,
    ) -> Option<Secure> {
        let mut builder = SslConnector::builder(SslMethod::tls()).expect("a client");
        builder.set_verify(SslVerifyMode::NONE);
        set(&mut builder);
        Secure::by(&builder.build(), address, name, session)
    }

    /// With a connector that was made before: making one reads all the system's roots.
    pub fn by(
        connector: &SslConnector,
        address: SocketAddr,
        name: &str,
        session: Option<&SslSession>,
    ) -> Option<Secure> {
        let stream = TcpStream::connect(address).expect("connect");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        stream
            .set_write_timeout(Some(DEADLINE))
            .expect("a deadline");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        let configured = connector.configure().expect("a client");
        let named = configured
            .use_server_name_indication(!name.is_empty())
            .verify_hostname(false);
        let mut ssl = named.into_ssl(name).expect("a client");
        if let Some(session) = session {
            sozu_lib::sys::ssl::resume(&mut ssl, session);
        }
        let mut stream = SslStream::new(ssl, stream).expect("a client");
        stream.connect().ok()?;
        Some(Secure { stream })
    }

    /// The SHA-256 of the certificate that was shown.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.stream.ssl().peer_certificate().expect("a certificate"))
    }

    /// The same of all that were shown.
    pub fn chain(&self) -> Vec<String> {
        let shown = self.stream.ssl().peer_cert_chain().expect("a chain");
        shown.iter().map(fingerprint).collect()
    }

    /// With what the next connection may go on.
    pub fn session(&self) -> Option<SslSession> {
        let session = self.stream.ssl().session()?;
        Some(session.to_owned())
    }

    pub fn resumed(&self) -> bool {
        self.stream.ssl().session_reused()
    }

    pub fn send(&mut self, text: &str) -> &mut Secure {
        self.stream.write_all(text.as_bytes()).expect("sent");
        self
    }

    /// One request of its own for a host; the whole answer, head and body.
    pub fn ask(&mut self, host: &str) -> String {
        self.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        self.answer()
    }

    /// A counted answer.
    pub fn answer(&mut self) -> String {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            match self.stream.read(&mut byte) {
                Ok(1) => bytes.push(byte[0]),
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        let head = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap_or("0");
        let length = length.split("\r\n").next().unwrap_or("0");
        let mut body = vec![0; length.parse().expect("a length")];
        self.stream.read_exact(&mut body).expect("a body");
        bytes.extend_from_slice(&body);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Secure {
    /// OpenSSL resumes no session of a connection that ended otherwise.
    fn drop(&mut self) {
        self.stream
            .set_shutdown(ShutdownState::SENT | ShutdownState::RECEIVED);
    }
}
