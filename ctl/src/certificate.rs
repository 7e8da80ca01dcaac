//! Files of certificates: read here, with the rights of whoever runs `sozuctl`.
//!
//! What goes out is their text, and their paths beside it: a proxy that may not
//! save keys reads them from there at its next start.

use std::path::Path;

use sozu_lib::certificate::{check, facts};
use sozu_lib::config::certificate::{check_pem, refill};
use sozu_lib::proto::update::{Replace, Step};
use sozu_lib::state::Change;

use crate::failure::Failure;
use crate::file;

/// Keys that name a file here, and those that say where it was.
type Files = &'static [(&'static str, Option<&'static str>)];

const CERTIFICATE: Files = &[
    ("certificate", Some("certificate_path")),
    ("certificate_chain", Some("certificate_chain_path")),
    ("key", Some("key_path")),
];
const CLUSTER: Files = &[
    ("tls_ca", None),
    ("tls_certificate", Some("tls_certificate_path")),
    ("tls_key", Some("tls_key_path")),
];
const LISTENER: Files = &[("client_ca", None), ("client_crl", None)];

type Pairs = Vec<(String, String)>;

/// Of a command that takes certificates: texts in the place of files.
pub fn fill(bare: &[String], pairs: &mut Pairs) -> Result<(), Failure> {
    let words: Vec<&str> = bare.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["certificate", "add"] => texts(pairs, CERTIFICATE),
        ["certificate", "replace"] => {
            fingerprint(pairs, "old_certificate")?;
            texts(pairs, CERTIFICATE)
        }
        ["cluster", "add" | "update"] => texts(pairs, CLUSTER),
        ["listener", "add" | "update"] => texts(pairs, LISTENER),
        ["certificate", "remove"] => fingerprint(pairs, "certificate"),
        _ => Ok(()),
    }
}

fn is_text(value: &str) -> bool {
    value.contains("-----BEGIN ")
}

fn texts(pairs: &mut Pairs, files: Files) -> Result<(), Failure> {
    for (name, path_name) in files {
        let told = pairs
            .iter()
            .any(|(key, _)| Some(key.as_str()) == *path_name);
        let given = pairs.iter_mut().find(|(key, _)| key == name);
        let Some((_, value)) = given.filter(|(_, value)| !is_text(value)) else {
            continue;
        };
        let path = Path::new(value.as_str());
        let text = pem(path)?;
        let whole = std::path::absolute(path).map_err(|e| Failure::of_file("find", path, e))?;
        let readable_again = !file::is_standard(path);
        *value = text;
        if let (Some(path_name), false, true) = (path_name, told, readable_again) {
            pairs.push((path_name.to_string(), whole.display().to_string()));
        }
    }
    Ok(())
}

/// In the place of a certificate what it is known by.
fn fingerprint(pairs: &mut Pairs, name: &str) -> Result<(), Failure> {
    let Some((key, value)) = pairs.iter_mut().find(|(key, _)| key == name) else {
        return Ok(());
    };
    let text = match is_text(value) {
        true => value.clone(),
        false => pem(Path::new(value.as_str()))?,
    };
    let checked =
        check(&text, "", None).map_err(|what| Failure::file(format!("{name}: {what}")))?;
    *key = "fingerprint".into();
    *value = facts(&checked.leaf).fingerprint.to_string();
    Ok(())
}

fn pem(path: &Path) -> Result<String, Failure> {
    let text = file::read(path)?;
    check_pem(&text).map_err(|what| Failure::file(format!("{} {what}", path.display())))
}

/// A line of the step, with the key; one that was written without it is read from its files.
pub fn whole(step: &Step) -> Result<String, Failure> {
    let mut file = |path: &Path| std::fs::read_to_string(path);
    let whole = match step {
        Step::Do(change) => refill(change, &mut file).map(Step::Do),
        Step::Replace(Replace { fingerprint, by }) => {
            let (fingerprint, by) = (fingerprint.clone(), by.clone());
            let change = Change::CertificateReplace { fingerprint, by };
            refill(&change, &mut file).map(Step::Do)
        }
        Step::Update(update) => update.refill(&mut file).map(Step::Update),
    };
    Ok(whole.map_err(Failure::file)?.encode_with_secrets())
}
