//! Certificates and keys as text, looked at before anybody is shown them.
//!
//! What comes from an operator's file or command is checked here once: that the
//! key is that of the certificate, that each certificate of the chain was issued
//! by the next, and of what kind the key is. An error is a sentence.

use std::net::IpAddr;

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, PKeyRef, Private, Public};
use openssl::x509::{X509Crl, X509NameRef, X509Ref, X509};

use crate::limits::{AUTHORITIES_BYTES_MAX, CERTIFICATE_CHAIN_MAX, RSA_BITS_MAX, RSA_BITS_MIN};
use crate::state::{Crls, Facts, HostRule};

/// A certificate with what leads to its root, and its key: parsed, and fitting together.
pub struct Checked {
    pub leaf: X509,
    pub chain: Vec<X509>,
    /// Of one that came without there is none.
    pub key: Option<PKey<Private>>,
}

impl Checked {
    /// The leaf and its chain, as PEM in one spelling.
    pub fn chain_pem(&self) -> String {
        let all = std::iter::once(&self.leaf).chain(&self.chain);
        let pem = all.filter_map(|one| String::from_utf8(one.to_pem().ok()?).ok());
        pem.collect()
    }

    pub fn key_pem(&self) -> Option<String> {
        let pem = self.key.as_ref()?.private_key_to_pem_pkcs8().ok()?;
        String::from_utf8(pem).ok()
    }
}

/// What a listener shows: `matched`, and made out to hosts.
pub fn check(certificate: &str, chain: &str, key: Option<&str>) -> Result<Checked, String> {
    let checked = matched(certificate, chain, key)?;
    if names(&checked.leaf).is_empty() {
        return Err(format!(
            "the certificate of {} names no host (subjectAltName)",
            name_of(checked.leaf.subject_name())
        ));
    }
    Ok(checked)
}

/// `certificate` may have its chain behind it; `chain` comes after that.
pub fn matched(certificate: &str, chain: &str, key: Option<&str>) -> Result<Checked, String> {
    let mut all = stack(certificate, "the certificate")?;
    if !chain.trim().is_empty() {
        all.extend(stack(chain, "the chain")?);
    }
    let key = match key {
        Some(key) => Some(
            PKey::private_key_from_pem_passphrase(key.as_bytes(), b"")
                .map_err(|_| "the key is no unencrypted PEM private key".to_string())?,
        ),
        None => None,
    };
    if all.len() > CERTIFICATE_CHAIN_MAX {
        return Err(format!(
            "the chain has {} certificates, {CERTIFICATE_CHAIN_MAX} are the most",
            all.len()
        ));
    }
    let leaf = all.remove(0);
    // The leaf is often the first one of the chain's file as well.
    all.retain(|link| digest(link) != digest(&leaf));
    // A root is known to who trusts it: it need not be sent.
    all.retain(|link| link.issued(link) != openssl::x509::X509VerifyResult::OK);
    let public = leaf
        .public_key()
        .map_err(|_| "the certificate's public key is of an unknown kind".to_string())?;
    if key.as_ref().is_some_and(|key| !public.public_eq(key)) {
        return Err(format!(
            "the key does not belong to the certificate of {}",
            name_of(leaf.subject_name())
        ));
    }
    key_type(&public)?;
    let mut below: &X509Ref = &leaf;
    for link in &all {
        if link.issued(below) != openssl::x509::X509VerifyResult::OK {
            return Err(format!(
                "the chain is in the wrong order: {} did not issue {}",
                name_of(link.subject_name()),
                name_of(below.subject_name())
            ));
        }
        if !has_signed(link, below) {
            return Err(format!(
                "the chain belongs to another certificate: this {} did not sign {}",
                name_of(link.subject_name()),
                name_of(below.subject_name())
            ));
        }
        below = link;
    }
    Ok(Checked {
        leaf,
        chain: all,
        key,
    })
}

/// By its key: another one may have the same name.
fn has_signed(issuer: &X509Ref, below: &X509Ref) -> bool {
    let key = issuer.public_key();
    let signed = key.and_then(|key| below.verify(&key)).unwrap_or(false);
    // Why not stays in the queue, where it would be taken for an error of whoever comes next.
    let _ = openssl::error::ErrorStack::get();
    signed
}

/// Certificates that may vouch for others: a root, or several.
pub fn authorities(pem: &str) -> Result<(), String> {
    if pem.len() > AUTHORITIES_BYTES_MAX {
        let kib = AUTHORITIES_BYTES_MAX / 1024;
        return Err(format!("the certificates are longer than {kib} KiB"));
    }
    if pem.contains("PRIVATE KEY-----") {
        return Err("there is a private key: only certificates are wanted".into());
    }
    stack(pem, "it").map(drop)
}

const CRL_BEGINS: &str = "-----BEGIN X509 CRL-----";

/// Lists of revoked certificates, of these authorities or of who has its right from them.
pub fn crls(pem: String, authorities: &str) -> Result<Crls, String> {
    let authorities = stack(authorities, "it")?;
    let mut ends = Vec::new();
    for crl in each_crl(&pem)? {
        let issuer = name_of(crl.issuer_name());
        let same = |one: &&X509| {
            let order = one.subject_name().try_cmp(crl.issuer_name());
            order.is_ok_and(|order| order.is_eq())
        };
        let mut known = authorities.iter().filter(same).peekable();
        let signed = |one: &X509| {
            let key = one.public_key();
            key.is_ok_and(|key| crl.verify(&key).unwrap_or(false))
        };
        if known.peek().is_some() && !known.any(signed) {
            return Err(format!("the list of {issuer} is not signed by it"));
        }
        ends.push((issuer, crl.next_update().map_or(i64::MAX, seconds)));
    }
    Ok(Crls { pem, ends })
}

/// All that stand in a text; there is one at least.
pub fn each_crl(pem: &str) -> Result<Vec<X509Crl>, String> {
    let places = pem.match_indices(CRL_BEGINS);
    let parsed = places.map(|(at, _)| X509Crl::from_pem(&pem.as_bytes()[at..]));
    match parsed.collect::<Result<Vec<X509Crl>, _>>() {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(format!(
            "it is no PEM list of revoked certificates, which has a line {CRL_BEGINS}"
        )),
    }
}

fn stack(pem: &str, what: &str) -> Result<Vec<X509>, String> {
    match X509::stack_from_pem(pem.as_bytes()) {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(format!("{what} is no PEM certificate")),
    }
}

pub fn facts(leaf: &X509Ref) -> Facts {
    Facts {
        fingerprint: digest(leaf).into(),
        names: names(leaf).into(),
        subject: name_of(leaf.subject_name()),
        issuer: name_of(leaf.issuer_name()),
        not_before: seconds(leaf.not_before()),
        not_after: seconds(leaf.not_after()),
        key_type: leaf
            .public_key()
            .map_err(|e| e.to_string())
            .and_then(|key| key_type(&key))
            .unwrap_or_else(|_| "unknown".into()),
    }
}

fn digest(certificate: &X509Ref) -> String {
    let digest = certificate.digest(MessageDigest::sha256());
    let bytes = digest.as_deref().unwrap_or_default();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hosts of subjectAltName; the common name counts for nothing any more (RFC 9525).
fn names(leaf: &X509Ref) -> Vec<HostRule> {
    let mut names = Vec::new();
    for name in leaf.subject_alt_names().into_iter().flatten() {
        let address = || match *name.ipaddress()? {
            [a, b, c, d] => Some(IpAddr::from([a, b, c, d])),
            ref bytes => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        };
        match (name.dnsname(), address()) {
            (Some(text), _) => names.extend(HostRule::parse(text).ok()),
            (None, Some(IpAddr::V4(v4))) => names.push(HostRule::Exact(v4.to_string().into())),
            (None, Some(IpAddr::V6(v6))) => names.push(HostRule::Exact(format!("[{v6}]").into())),
            (None, None) => {}
        }
    }
    names.retain(|rule| *rule != HostRule::Any);
    names.sort();
    names.dedup();
    names
}

/// The common name, or all of it.
fn name_of(name: &X509NameRef) -> String {
    let mut entries = name.entries_by_nid(Nid::COMMONNAME);
    let common = entries
        .next()
        .and_then(|entry| entry.data().to_string().ok());
    let text = common.unwrap_or_else(|| format!("{name:?}"));
    text.chars().filter(|c| !c.is_control()).collect()
}

fn seconds(time: &Asn1TimeRef) -> i64 {
    let since = Asn1Time::from_unix(0).and_then(|epoch| epoch.diff(time));
    since.map_or(0, |diff| {
        i64::from(diff.days) * 86_400 + i64::from(diff.secs)
    })
}

/// An error for those that no public CA signs.
fn key_type(key: &PKeyRef<Public>) -> Result<String, String> {
    let curve = || key.ec_key().ok()?.group().curve_name();
    match key.id() {
        Id::RSA if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&key.bits()) => Err(format!(
            "the RSA key has {} bits, {RSA_BITS_MIN} are the least and {RSA_BITS_MAX} the most",
            key.bits()
        )),
        Id::RSA => Ok(format!("RSA {}", key.bits())),
        Id::EC => match curve() {
            Some(Nid::X9_62_PRIME256V1) => Ok("ECDSA P-256".into()),
            Some(Nid::SECP384R1) => Ok("ECDSA P-384".into()),
            _ => Err("the key's curve is neither P-256 nor P-384".into()),
        },
        _ => Err("the key is neither RSA nor ECDSA".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::bn::BigNum;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::rsa::Rsa;
    use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
    use openssl::x509::{X509Builder, X509NameBuilder};

    fn ecdsa(curve: Nid) -> PKey<Private> {
        let group = EcGroup::from_curve_name(curve).expect("a curve");
        PKey::from_ec_key(EcKey::generate(&group).expect("a key")).expect("a key")
    }

    fn p256() -> PKey<Private> {
        ecdsa(Nid::X9_62_PRIME256V1)
    }

    /// Issued by another one, or by itself.
    fn made(
        name: &str,
        hosts: &[&str],
        key: &PKey<Private>,
        by: Option<(&X509, &PKey<Private>)>,
    ) -> X509 {
        let mut subject = X509NameBuilder::new().expect("a name");
        subject.append_entry_by_text("CN", name).expect("a name");
        let subject = subject.build();
        let issuer = by.map_or(&*subject, |(issuer, _)| issuer.subject_name());
        let mut builder = X509Builder::new().expect("a builder");
        let serial = BigNum::from_u32(1).and_then(|n| n.to_asn1_integer());
        let days = |n| Asn1Time::days_from_now(n).expect("a time");
        builder.set_version(2).expect("set");
        builder
            .set_serial_number(&serial.expect("a number"))
            .expect("set");
        builder.set_subject_name(&subject).expect("set");
        builder.set_issuer_name(issuer).expect("set");
        builder.set_pubkey(key).expect("set");
        builder.set_not_before(&days(0)).expect("set");
        builder.set_not_after(&days(10)).expect("set");
        if hosts.is_empty() {
            let ca = BasicConstraints::new().critical().ca().build();
            builder
                .append_extension(ca.expect("an extension"))
                .expect("set");
        } else {
            let mut names = SubjectAlternativeName::new();
            hosts.iter().for_each(|host| {
                match host.parse::<IpAddr>() {
                    Ok(_) => names.ip(host),
                    Err(_) => names.dns(host),
                };
            });
            let names = names.build(&builder.x509v3_context(None, None));
            builder
                .append_extension(names.expect("an extension"))
                .expect("set");
        }
        let signer = by.map_or(key, |(_, key)| key);
        builder
            .sign(signer, MessageDigest::sha256())
            .expect("signed");
        builder.build()
    }

    fn pem(all: &[&X509]) -> String {
        let texts = all.iter().map(|one| one.to_pem().expect("PEM"));
        String::from_utf8(texts.flatten().collect()).expect("text")
    }

    fn key_pem(key: &PKey<Private>) -> String {
        String::from_utf8(key.private_key_to_pem_pkcs8().expect("PEM")).expect("text")
    }

    #[test]
    fn a_chain_is_in_order_and_ends_before_its_root() {
        let (root_key, middle_key, key) = (p256(), p256(), p256());
        let root = made("root", &[], &root_key, None);
        let middle = made("middle", &[], &middle_key, Some((&root, &root_key)));
        let leaf = made("leaf", &["a.test"], &key, Some((&middle, &middle_key)));
        let text = key_pem(&key);
        let checked = |leaf: String, chain: String| check(&leaf, &chain, Some(&text));
        let wanted = pem(&[&leaf, &middle]);
        for (certificate, chain) in [
            (pem(&[&leaf]), pem(&[&middle])),
            (pem(&[&leaf, &middle, &root]), String::new()),
            (pem(&[&leaf]), pem(&[&leaf, &middle, &root])),
        ] {
            let found = checked(certificate, chain).expect("a good one");
            assert_eq!(found.chain_pem(), wanted);
        }
        let other = made("other", &[], &root_key, Some((&root, &root_key)));
        let wrong = checked(pem(&[&leaf]), pem(&[&other])).err();
        let told = "the chain is in the wrong order: other did not issue leaf";
        assert_eq!(wrong.as_deref(), Some(told));
    }

    #[test]
    fn what_is_known_of_one() {
        let key = p256();
        let leaf = made(
            "A b",
            &["B.test", "*.a.test", "192.0.2.1", "::1", "*"],
            &key,
            None,
        );
        let facts = facts(&leaf);
        let names: Vec<String> = facts.names.iter().map(HostRule::to_string).collect();
        assert_eq!(names, ["192.0.2.1", "[::1]", "b.test", "*.a.test"]);
        assert_eq!((&*facts.subject, &*facts.issuer), ("A b", "A b"));
        assert_eq!(facts.key_type, "ECDSA P-256");
        assert_eq!(facts.not_after - facts.not_before, 10 * 86_400);
        assert_eq!(facts.fingerprint.len(), 64);
    }

    #[test]
    fn what_nobody_should_be_shown() {
        let short = PKey::from_rsa(Rsa::generate(1024).expect("a key")).expect("a key");
        let odd = ecdsa(Nid::SECP521R1);
        let good = p256();
        for (key, hosts, told) in [
            (
                &short,
                &["a.test"][..],
                "the RSA key has 1024 bits, 2048 are the least and 8192 the most",
            ),
            (
                &odd,
                &["a.test"],
                "the key's curve is neither P-256 nor P-384",
            ),
            (
                &good,
                &["*"],
                "the certificate of x names no host (subjectAltName)",
            ),
        ] {
            let text = pem(&[&made("x", hosts, key, None)]);
            let wrong = check(&text, "", Some(&key_pem(key))).err();
            assert_eq!(wrong.as_deref(), Some(told));
        }
        let text = pem(&[&made("x", &["a.test"], &good, None)]);
        for (key, told) in [
            (
                key_pem(&p256()),
                "the key does not belong to the certificate of x",
            ),
            (text.clone(), "the key is no unencrypted PEM private key"),
        ] {
            assert_eq!(check(&text, "", Some(&key)).err().as_deref(), Some(told));
        }
        assert!(check(&text, "", None).is_ok_and(|checked| checked.key_pem().is_none()));
    }
}
