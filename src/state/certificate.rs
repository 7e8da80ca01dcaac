//! A certificate that a listener shows, as text, with what is known of it.
//!
//! Owns: that its key is in no text that anybody reads. Two are equal if all but
//! their keys are: the fingerprint names the key that fits.

use super::{HostRule, Names};
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;

/// What an operator wants to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// SHA-256 of the leaf, in hexadecimal.
    pub fingerprint: Rc<str>,
    pub names: Names,
    pub subject: String,
    pub issuer: String,
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// `RSA 2048`, `ECDSA P-256`.
    pub key_type: String,
}

/// Where it was read, absolute; what was not is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    pub certificate: Option<String>,
    pub chain: Option<String>,
    pub key: Option<String>,
}

/// Text that nobody is shown.
#[derive(Clone)]
pub struct Secret(pub Rc<str>);

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str("(secret)")
    }
}

/// A certificate that a listener shows, in PEM. (listener, fingerprint) is its identity.
#[derive(Clone, Debug)]
pub struct Certificate {
    pub listener: SocketAddr,
    pub facts: Facts,
    /// The leaf, and what leads from it to a root.
    pub chain: String,
    /// `None`: it was left out, as in a dump.
    pub key: Option<Secret>,
    pub paths: Paths,
    /// For clients that ask for no name, or for one that no certificate has.
    pub default: bool,
}

/// A certificate by which backends know us, in PEM.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    pub facts: Facts,
    /// The leaf, and what leads from it to a root.
    pub chain: String,
    /// `None`: it was left out, as in a dump.
    pub key: Option<Secret>,
    pub paths: Paths,
}

impl PartialEq for OwnCertificate {
    fn eq(&self, other: &OwnCertificate) -> bool {
        self.chain == other.chain && self.paths == other.paths
    }
}

impl Eq for OwnCertificate {}

impl PartialEq for Certificate {
    fn eq(&self, other: &Certificate) -> bool {
        let told = |one: &Certificate| (one.listener, one.default);
        told(self) == told(other)
            && self.facts.fingerprint == other.facts.fingerprint
            && self.chain == other.chain
            && self.paths == other.paths
    }
}

impl Eq for Certificate {}

impl Certificate {
    pub fn fingerprint(&self) -> &Rc<str> {
        &self.facts.fingerprint
    }

    /// Its names, with commas between.
    pub fn names_text(&self) -> String {
        let names = self.facts.names.iter().map(HostRule::to_string);
        names.collect::<Vec<String>>().join(",")
    }

    /// Whole days until it ends; negative once it has.
    pub fn days_left(&self, now_s: i64) -> i64 {
        self.facts.days_left(now_s)
    }

    /// What is wrong with its time: one sentence.
    pub fn untimely(&self, now_s: i64) -> Option<String> {
        self.facts.untimely(&self.names_text(), now_s)
    }
}

impl Facts {
    /// As of a certificate.
    pub fn days_left(&self, now_s: i64) -> i64 {
        self.not_after.saturating_sub(now_s).div_euclid(86_400)
    }

    /// As of a certificate; `whose` it is.
    pub fn untimely(&self, whose: &str, now_s: i64) -> Option<String> {
        let days = |seconds: i64| seconds / 86_400;
        let (not_before, not_after) = (self.not_before, self.not_after);
        if now_s >= not_after {
            let days = days(now_s.saturating_sub(not_after));
            return Some(format!(
                "the certificate of {whose} has expired, {days} days ago"
            ));
        }
        let early = (now_s < not_before).then(|| days(not_before.saturating_sub(now_s)));
        early.map(|days| format!("the certificate of {whose} is not valid yet, for {days} days"))
    }
}
