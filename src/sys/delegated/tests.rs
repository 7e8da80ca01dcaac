use super::*;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::EcGroup;
use openssl::ecdsa::EcdsaSig;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::Private;
use openssl::rsa::Padding;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::{X509Builder, X509NameBuilder, X509};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

fn rsa() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).expect("a key")).expect("a key")
}

fn ec(curve: Nid) -> PKey<Private> {
    let group = EcGroup::from_curve_name(curve).expect("a curve");
    PKey::from_ec_key(EcKey::generate(&group).expect("a key")).expect("a key")
}

fn certificate(key: &PKey<Private>) -> X509 {
    let mut name = X509NameBuilder::new().expect("a name");
    name.append_entry_by_text("CN", "a").expect("a name");
    let name = name.build();
    let mut builder = X509Builder::new().expect("a builder");
    let serial = BigNum::from_u32(1).and_then(|n| n.to_asn1_integer());
    builder
        .set_serial_number(&serial.expect("a number"))
        .expect("set");
    builder.set_version(2).expect("set");
    builder.set_subject_name(&name).expect("set");
    builder.set_issuer_name(&name).expect("set");
    builder.set_pubkey(key).expect("set");
    let days = |n| Asn1Time::days_from_now(n).expect("a time");
    builder.set_not_before(&days(0)).expect("set");
    builder.set_not_after(&days(9)).expect("set");
    builder.sign(key, MessageDigest::sha256()).expect("signed");
    builder.build()
}

fn sign(key: &PKey<Private>, kind: Kind, bytes: &[u8]) -> Vec<u8> {
    let rsa = |padding| {
        let key = key.rsa().expect("RSA");
        let mut signed = vec![0; key.size() as usize];
        key.private_encrypt(bytes, &mut signed, padding)
            .expect("signed");
        signed
    };
    match kind {
        Kind::RsaRaw => rsa(Padding::NONE),
        Kind::RsaPkcs1 => rsa(Padding::PKCS1),
        Kind::Ecdsa => EcdsaSig::sign(bytes, &key.ec_key().expect("EC"))
            .and_then(|signed| signed.to_der())
            .expect("signed"),
    }
}

/// The server's side ends as the client's does: with a handshake, or without.
fn handshake(
    leaf: &X509,
    key: &Delegated,
    version: SslVersion,
    algorithms: Option<&str>,
) -> Result<(), String> {
    let (front, back) = UnixStream::pair().expect("a pair");
    let leaf = leaf.clone();
    let algorithms = algorithms.map(str::to_string);
    let expected = leaf.clone();
    let client = std::thread::spawn(move || {
        let mut context = SslContext::builder(SslMethod::tls_client()).expect("a context");
        context.set_verify(SslVerifyMode::NONE);
        if let Some(algorithms) = algorithms {
            context.set_sigalgs_list(&algorithms).expect("algorithms");
        }
        let ssl = Ssl::new(&context.build()).expect("a connection");
        let mut stream = SslStream::new(ssl, front).expect("a stream");
        stream.connect().map_err(|e| e.to_string())?;
        let shown = stream.ssl().peer_certificate().expect("a certificate");
        assert_eq!(
            shown.to_der().expect("DER"),
            expected.to_der().expect("DER")
        );
        stream.read_exact(&mut [0]).map_err(|e| e.to_string())
    });
    let mut context = SslContext::builder(SslMethod::tls_server()).expect("a context");
    context.set_min_proto_version(Some(version)).expect("set");
    context.set_max_proto_version(Some(version)).expect("set");
    let mut ssl = Ssl::new(&context.build()).expect("a connection");
    ssl.set_certificate(&leaf).expect("a certificate");
    key.hand_to(&mut ssl).map_err(|e| e.to_string())?;
    let mut stream = SslStream::new(ssl, back).expect("a stream");
    let shaken = stream.accept().map_err(|e| e.to_string());
    if shaken.is_ok() {
        stream.ssl_write(b"x").expect("written");
    }
    drop(stream);
    let client = client.join().expect("a client");
    assert_eq!(shaken.is_ok(), client.is_ok(), "{shaken:?} {client:?}");
    shaken
}

#[test]
fn handshakes_with_keys_that_are_elsewhere() {
    let asked: Rc<RefCell<Vec<Kind>>> = Rc::default();
    for (key, sigalgs) in [
        (
            rsa(),
            &[
                "RSA-PSS+SHA256",
                "RSA-PSS+SHA512",
                "RSA+SHA256:RSA-PSS+SHA256",
            ][..],
        ),
        (ec(Nid::X9_62_PRIME256V1), &["ECDSA+SHA256"]),
        (ec(Nid::SECP384R1), &["ECDSA+SHA384"]),
    ] {
        let leaf = certificate(&key);
        let public = leaf.public_key().expect("a key");
        let delegated = Delegated::new(&public).expect("a key");
        let wanted = name_of(&key).expect("a name");
        assert_eq!(name_of(&public), Some(wanted), "both halves have one name");
        let told = Rc::clone(&asked);
        set_signer(move |name, kind, bytes| {
            assert_eq!(*name, wanted);
            told.borrow_mut().push(kind);
            Some(sign(&key, kind, bytes))
        });
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            for algorithms in [None].into_iter().chain(sigalgs.iter().copied().map(Some)) {
                handshake(&leaf, &delegated, version, algorithms)
                    .unwrap_or_else(|e| panic!("{version:?} {algorithms:?}: {e}"));
            }
        }
        assert!(!asked.borrow().is_empty());
    }
    for kind in [Kind::RsaRaw, Kind::RsaPkcs1, Kind::Ecdsa] {
        assert!(asked.borrow().contains(&kind), "{kind:?} was never asked");
    }
}

#[test]
fn a_refusal_ends_the_handshake_and_leaves_nothing() {
    for key in [rsa(), ec(Nid::X9_62_PRIME256V1)] {
        let leaf = certificate(&key);
        let public = leaf.public_key().expect("a key");
        let delegated = Delegated::new(&public).expect("a key");
        for answer in [
            None,
            Some(Vec::new()),
            Some(vec![7; 1000]),
            Some(vec![7; 64]),
        ] {
            let said = answer.clone();
            set_signer(move |_, _, _| said.clone());
            let shaken = handshake(&leaf, &delegated, SslVersion::TLS1_3, None);
            assert!(shaken.is_err(), "{answer:?}");
            let _ = ErrorStack::get();
        }
        set_signer(move |_, kind, bytes| Some(sign(&key, kind, bytes)));
        handshake(&leaf, &delegated, SslVersion::TLS1_3, None).expect("the next one");
    }
}

#[test]
fn other_kinds_have_no_name() {
    let odd = PKey::generate_ed25519().expect("a key");
    assert_eq!(name_of(&odd), None);
    let public = odd.raw_public_key().expect("bytes");
    let public = PKey::public_key_from_raw_bytes(&public, Id::ED25519).expect("a key");
    assert!(Delegated::new(&public).is_none());
}
