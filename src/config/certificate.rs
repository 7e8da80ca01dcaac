//! Certificates and TLS policies from their fields, and back.
//!
//! Owns: which text of a certificate is written where. A key is written only by
//! who asks for it (`secret_words`).

use super::fields::{fault, of_text, Fault, Fields, Value};
use super::keys::{Default, CERTIFICATE, LISTENER};
use super::object::{word, Words};
use crate::certificate::{authorities, check, crls, facts};
use crate::limits::{CIPHERS_BYTES_MAX, PEM_BYTES_MAX};
use crate::state::{Certificate, ClientAuth, Paths, Protocol, Secret, Tls, TlsVersion};
use std::io;
use std::path::Path;

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
fn path(fields: &mut Fields, name: &'static str) -> Result<Option<String>, Fault> {
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

/// The key, for those who may have it.
pub fn secret_words(certificate: &Certificate) -> Words {
    let key = certificate.key.iter();
    key.map(|Secret(key)| word("key", key)).collect()
}

/// One that was written without its key is read anew, from where it was read before: by now
/// there may be its successor.
pub fn refill(
    certificate: &Certificate,
    file: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<Certificate, String> {
    if certificate.key.is_some() {
        return Ok(certificate.clone());
    }
    let names = certificate.names_text();
    let Paths {
        certificate: leaf,
        chain,
        key: Some(key),
    } = &certificate.paths
    else {
        return Err(format!(
            "the certificate of {names} was written without its key, and it is not known where that is: add it again"
        ));
    };
    let mut read = |path: &str| match file(Path::new(path)) {
        Ok(text) => check_pem(&text).map_err(|what| format!("{path}: {what}")),
        Err(e) => Err(format!("{path} cannot be read: {e}")),
    };
    let leaf = match leaf {
        Some(path) => read(path)?,
        None => certificate.chain.clone(),
    };
    let chain = chain.as_deref().map(&mut read).transpose()?;
    let key = read(key)?;
    let checked = check(&leaf, &chain.unwrap_or_default(), Some(&key))?;
    Ok(Certificate {
        facts: facts(&checked.leaf),
        chain: checked.chain_pem(),
        key: checked.key_pem().map(|pem| Secret(pem.into())),
        ..certificate.clone()
    })
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
