//! Certificates and TLS policies from their fields, and back.
//!
//! Owns: which text of a certificate is written where. A key is written only by
//! who asks for it (`secret_words`).

use super::action::refill_frontend;
use super::fields::{fault, of_text, Fault, Fields, Value};
use super::keys::{Default, CERTIFICATE, LISTENER};
use super::object::{word, Words};
use crate::certificate::{authorities, check, crls, facts, matched, Checked};
use crate::limits::{CIPHERS_BYTES_MAX, PEM_BYTES_MAX};
use crate::state::{
    BackendTls, Certificate, Change, ClientAuth, Cluster, OwnCertificate, Paths, Protocol, Secret,
    Tls, TlsVersion,
};
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Keys of the policy, in canonical order.
const POLICY: [&str; 8] = [
    "tls_versions",
    "cipher_list",
    "cipher_suites",
    "groups",
    "strict_sni",
    "client_auth",
    "client_ca",
    "client_crl",
];

/// By which rules a listener of that protocol speaks TLS, if it does.
pub fn tls_from(fields: &mut Fields, protocol: Protocol) -> Result<Option<Tls>, Fault> {
    let policy = || LISTENER.iter().filter(|key| POLICY.contains(&key.name));
    if protocol != Protocol::Https {
        return match policy().find(|key| fields.contains(key.name)) {
            Some(key) => Err(fault(key.name, "belongs to an https listener only")),
            None => Ok(None),
        };
    }
    for key in policy() {
        let Default::Https(text) = key.default else {
            continue;
        };
        if !fields.contains(key.name) {
            let value = of_text(key.kind, text).map_err(|what| fault(key.name, what))?;
            fields.set(key.name, value);
        }
    }
    let known = [TlsVersion::Tls12, TlsVersion::Tls13];
    let names = fields.names("tls_versions");
    let given = |version: &TlsVersion| names.iter().any(|name| name == version.name());
    Ok(Some(Tls {
        versions: known.into_iter().filter(given).collect(),
        cipher_list: fields.text("cipher_list")?,
        cipher_suites: fields.text("cipher_suites")?,
        groups: fields.text("groups")?,
        strict_sni: fields.bool("strict_sni")?,
        client: client_auth_from(fields)?,
    }))
}

fn client_auth_from(fields: &mut Fields) -> Result<Option<ClientAuth>, Fault> {
    let auth = fields.text("client_auth")?;
    let ca = fields.text_or_none("client_ca");
    let crl = fields.text_or_none("client_crl");
    if auth == "none" {
        let alone = match (&ca, &crl) {
            (Some(_), _) => "client_ca",
            (_, Some(_)) => "client_crl",
            _ => return Ok(None),
        };
        let what = "does nothing while client_auth is none: leave it out, or unset it";
        return Err(fault(alone, what));
    }
    let missing = || fault("client_auth", "needs client_ca, by which clients are known");
    let ca = ca.ok_or_else(missing)?;
    authorities(&ca).map_err(|what| fault("client_ca", what))?;
    let crl = crl.map(|pem| crls(pem, &ca));
    Ok(Some(ClientAuth {
        required: auth == "required",
        crl: crl.transpose().map_err(|what| fault("client_crl", what))?,
        ca,
    }))
}

pub fn tls_words(tls: &Tls) -> Words {
    let versions: Vec<&str> = tls.versions.iter().map(|version| version.name()).collect();
    let mut words = vec![
        word("tls_versions", versions.join(",")),
        word("cipher_list", &tls.cipher_list),
        word("cipher_suites", &tls.cipher_suites),
        word("groups", &tls.groups),
        word("strict_sni", tls.strict_sni),
    ];
    if let Some(client) = &tls.client {
        let auth = if client.required {
            "required"
        } else {
            "optional"
        };
        words.push(word("client_auth", auth));
        words.push(word("client_ca", &client.ca));
        words.extend(client.crl.iter().map(|crl| word("client_crl", &crl.pem)));
    }
    words
}

/// Parsed and checked; in one spelling, whatever stands around it in its file.
pub fn certificate_from(mut fields: Fields) -> Result<Certificate, Fault> {
    fields.complete(CERTIFICATE)?;
    let listener = fields.address("listener")?;
    let leaf = fields.text("certificate")?;
    let chain = fields.text_or_none("certificate_chain").unwrap_or_default();
    let key = fields.text_or_none("key");
    let wrong = |what: String| fault("certificate", what);
    let checked = check(&leaf, &chain, key.as_deref()).map_err(wrong)?;
    Ok(Certificate {
        listener,
        facts: facts(&checked.leaf),
        chain: checked.chain_pem(),
        key: checked.key_pem().map(|pem| Secret(pem.into())),
        paths: Paths {
            certificate: path(&mut fields, "certificate_path")?,
            chain: path(&mut fields, "certificate_chain_path")?,
            key: path(&mut fields, "key_path")?,
        },
        default: fields.bool("default")?,
    })
}

/// Nobody knows from where a relative one would count.
pub(super) fn path(fields: &mut Fields, name: &'static str) -> Result<Option<String>, Fault> {
    match fields.text_or_none(name) {
        Some(path) if !path.starts_with('/') => {
            Err(fault(name, "is not absolute: it starts with \"/\""))
        }
        path => Ok(path),
    }
}

/// Without the key.
pub fn certificate_words(certificate: &Certificate) -> Words {
    let Paths {
        certificate: leaf,
        chain,
        key,
    } = &certificate.paths;
    let mut words = vec![
        word("listener", certificate.listener),
        word("certificate", &certificate.chain),
    ];
    let paths = [
        ("certificate_path", leaf),
        ("certificate_chain_path", chain),
        ("key_path", key),
    ];
    let known = paths.into_iter();
    words.extend(known.filter_map(|(key, path)| Some(word(key, path.as_ref()?))));
    words.push(word("default", certificate.default));
    words
}

/// What backends know us by. The key may be missing, as in a dump.
pub fn own_certificate_from(fields: &mut Fields) -> Result<Option<OwnCertificate>, Fault> {
    let leaf = fields.text_or_none("tls_certificate");
    let key = fields.text_or_none("tls_key");
    let paths = Paths {
        certificate: path(fields, "tls_certificate_path")?,
        chain: None,
        key: path(fields, "tls_key_path")?,
    };
    let Some(leaf) = leaf else {
        let alone = match (&key, &paths.key) {
            (Some(_), _) => "tls_key",
            (_, Some(_)) => "tls_key_path",
            _ if paths.certificate.is_some() => "tls_certificate_path",
            _ => return Ok(None),
        };
        return Err(fault(alone, "needs tls_certificate, to which it belongs"));
    };
    let wrong = |what: String| fault("tls_certificate", what);
    let checked = matched(&leaf, "", key.as_deref()).map_err(wrong)?;
    Ok(Some(own(checked, paths)))
}

fn own(checked: Checked, paths: Paths) -> OwnCertificate {
    OwnCertificate {
        facts: facts(&checked.leaf),
        chain: checked.chain_pem(),
        key: checked.key_pem().map(|pem| Secret(pem.into())),
        paths,
    }
}

/// Without the key.
pub fn own_certificate_words(own: &OwnCertificate) -> Words {
    let mut words = vec![word("tls_certificate", &own.chain)];
    let Paths {
        certificate, key, ..
    } = &own.paths;
    let path = certificate.iter();
    words.extend(path.map(|path| word("tls_certificate_path", path)));
    words.extend(key.iter().map(|path| word("tls_key_path", path)));
    words
}

/// The keys and hashes that a change brings, for those who may have them.
pub fn secret_words(change: &Change) -> Words {
    let certificate = change.certificate().and_then(|one| one.key.as_ref());
    let own = change
        .own_certificate()
        .and_then(|(_, one)| one.key.as_ref());
    let certificate = certificate.map(|Secret(key)| word("key", key));
    let own = own.map(|Secret(key)| word(OWN_KEY, key));
    let users = change
        .basic_auth()
        .and_then(|(_, auth)| auth.users.as_ref());
    let users = users.map(|users| word("basic_auth", users.text()));
    certificate.into_iter().chain(own).chain(users).collect()
}

/// The key of a cluster that nobody is shown.
pub const OWN_KEY: &str = "tls_key";

/// What was written without its key is read anew, from where it was read before: by now
/// there may be its successor.
pub fn refill(
    change: &Change,
    file: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<Change, String> {
    let mut certificate = |one: &Certificate| refill_certificate(one, file).map(Rc::new);
    Ok(match change {
        Change::CertificateAdd(one) => Change::CertificateAdd(certificate(one)?),
        Change::CertificateReplace { fingerprint, by } => Change::CertificateReplace {
            fingerprint: Rc::clone(fingerprint),
            by: certificate(by)?,
        },
        Change::ClusterAdd(one) => Change::ClusterAdd(refill_cluster(one, file)?),
        Change::ClusterUpdate(one) => Change::ClusterUpdate(refill_cluster(one, file)?),
        Change::FrontendAdd(one) => Change::FrontendAdd(refill_frontend(one, file)?),
        other => other.clone(),
    })
}

fn refill_certificate(
    certificate: &Certificate,
    file: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<Certificate, String> {
    if certificate.key.is_some() {
        return Ok(certificate.clone());
    }
    let whose = certificate.names_text();
    let again = Again::read(&whose, &certificate.chain, &certificate.paths, file)?;
    let checked = check(&again.leaf, &again.chain, Some(&again.key))?;
    Ok(Certificate {
        facts: facts(&checked.leaf),
        chain: checked.chain_pem(),
        key: checked.key_pem().map(|pem| Secret(pem.into())),
        ..certificate.clone()
    })
}

fn refill_cluster(
    cluster: &Rc<Cluster>,
    file: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<Rc<Cluster>, String> {
    let known = cluster.own_certificate().filter(|own| own.key.is_none());
    let Some(known) = known else {
        return Ok(Rc::clone(cluster));
    };
    let whose = format!("cluster {}", cluster.id);
    let again = Again::read(&whose, &known.chain, &known.paths, file)?;
    let checked = matched(&again.leaf, &again.chain, Some(&again.key))?;
    let mut cluster = (**cluster).clone();
    let own = own(checked, known.paths.clone());
    cluster.tls = cluster.tls.map(|tls| BackendTls {
        own: Some(own),
        ..tls
    });
    Ok(Rc::new(cluster))
}

/// The texts of a certificate whose key is not known.
struct Again {
    leaf: String,
    chain: String,
    key: String,
}

impl Again {
    /// `known` stands for a certificate of which it is not known where it was read.
    fn read(
        whose: &str,
        known: &str,
        paths: &Paths,
        file: &mut dyn FnMut(&Path) -> io::Result<String>,
    ) -> Result<Again, String> {
        let Some(key) = &paths.key else {
            return Err(format!(
                "the certificate of {whose} was written without its key, and it is not known where that is: add it again"
            ));
        };
        let mut read = |path: &str| match file(Path::new(path)) {
            Ok(text) => check_pem(&text).map_err(|what| format!("{path}: {what}")),
            Err(e) => Err(format!("{path} cannot be read: {e}")),
        };
        let leaf = match &paths.certificate {
            Some(path) => read(path)?,
            None => known.to_string(),
        };
        let chain = paths.chain.as_deref().map(&mut read).transpose()?;
        let chain = chain.unwrap_or_default();
        let key = read(key)?;
        Ok(Again { leaf, chain, key })
    }
}

/// What PEM may be made of; nothing of it is quoted.
pub fn check_pem(text: &str) -> Result<String, String> {
    if text.len() > PEM_BYTES_MAX {
        return Err(format!("has more than {PEM_BYTES_MAX} bytes"));
    }
    match text.contains("-----BEGIN ") {
        true => Ok(text.to_string()),
        false => Err("is no PEM, which has a line -----BEGIN …-----".into()),
    }
}

/// Names of ciphers, suites or groups, with colons between; what they mean, OpenSSL knows.
pub fn cipher_names<'a>(names: impl Iterator<Item = &'a str>) -> Result<Value, String> {
    let text = names.collect::<Vec<&str>>().join(":");
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    match !text.is_empty() && text.len() <= CIPHERS_BYTES_MAX && text.bytes().all(plain) {
        true => Ok(Value::Text(text)),
        false => Err(format!(
            "takes 1 to {CIPHERS_BYTES_MAX} ASCII characters, names with colons between"
        )),
    }
}

/// One version of TLS, as Sōzu spells it, too.
pub fn version_name(text: &str) -> Result<String, String> {
    match text {
        "TLSv1.2" | "TLS_V12" => Ok("TLSv1.2".into()),
        "TLSv1.3" | "TLS_V13" => Ok("TLSv1.3".into()),
        _ => {
            let text: String = text.chars().take(32).collect();
            Err(format!("{text:?} is not one of: TLSv1.2, TLSv1.3"))
        }
    }
}
