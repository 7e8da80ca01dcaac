//! The certificates that this worker shows, beside the tables by which OpenSSL finds them.
//!
//! What is here is what was handed over; a listener's `Doorman` has it ready for use.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::certificate::check;
use crate::limits::LABEL_NAMES_MAX;
use crate::metrics::text::label;
use crate::net::tls::{Doorman, Proof};
use crate::slab::{Key, Slab};
use crate::state::Certificate;
use crate::worker::Worker;

struct Shown {
    certificate: Rc<Certificate>,
    /// The change with which it came.
    since: u64,
}

#[derive(Default)]
pub struct Certificates {
    all: Slab<Shown>,
    keys: HashMap<(SocketAddr, Rc<str>), Key>,
}

impl Certificates {
    pub fn get(&self, listener: SocketAddr, fingerprint: &str) -> Option<&Rc<Certificate>> {
        let key = self.keys.get(&(listener, fingerprint.into()))?;
        Some(&self.all.get(*key)?.certificate)
    }

    fn insert(&mut self, certificate: &Rc<Certificate>, since: u64) {
        let name = (certificate.listener, Rc::clone(certificate.fingerprint()));
        let certificate = Rc::clone(certificate);
        let key = self.all.insert(Shown { certificate, since });
        self.keys.insert(name, key);
    }

    fn remove(&mut self, listener: SocketAddr, fingerprint: &str) {
        if let Some(key) = self.keys.remove(&(listener, fingerprint.into())) {
            self.all.remove(key);
        }
    }

    /// The labels of the first one at this place or behind it that was there at that moment,
    /// and its place.
    pub fn labels_from(&self, from: u32, moment: u64) -> Option<(u32, String)> {
        let mut later = self.all.iter_from(from);
        let (key, shown) = later.find(|(_, shown)| shown.since <= moment)?;
        let certificate = &shown.certificate;
        // A certificate may have thousands.
        let names = certificate.facts.names.iter().take(LABEL_NAMES_MAX);
        let names: Vec<String> = names.map(ToString::to_string).collect();
        let labels = [
            label("listener", &certificate.listener.to_string()),
            label("fingerprint", certificate.fingerprint()),
            label("names", &names.join(",")),
        ];
        Some((key.index, labels.join(",")))
    }

    /// When the one at that place ends, in seconds since 1970.
    pub fn end_of(&self, at: u32) -> u64 {
        let shown = self.all.key_at(at).and_then(|key| self.all.get(key));
        let end = shown.map_or(0, |shown| shown.certificate.facts.not_after);
        u64::try_from(end).unwrap_or(0)
    }
}

impl Worker {
    pub(super) fn add_certificate(&mut self, certificate: &Rc<Certificate>) {
        let fingerprint = certificate.fingerprint();
        let door = self.door_at(certificate.listener);
        let entrance = door.and_then(|key| self.doors.get(key));
        match (
            entrance.and_then(|entrance| entrance.doorman()),
            proof(certificate),
        ) {
            (Some(doorman), Ok(proof)) => {
                let (names, default) = (&certificate.facts.names, certificate.default);
                doorman.add(fingerprint, names, default, proof);
                self.certificates.insert(certificate, self.backs.moment());
            }
            // Main has checked both; `state check` tells that it is not here.
            (None, _) => log::error!("no TLS for certificate {fingerprint}"),
            (_, Err(what)) => log::error!("certificate {fingerprint}: {what}"),
        }
    }

    pub(super) fn remove_certificate(&mut self, listener: SocketAddr, fingerprint: &str) {
        self.certificates.remove(listener, fingerprint);
        let door = self.door_at(listener);
        let entrance = door.and_then(|key| self.doors.get(key));
        if let Some(doorman) = entrance.and_then(|entrance| entrance.doorman()) {
            doorman.remove(fingerprint);
        }
    }

    /// The certificates of a batch count from now on, all at once.
    pub(super) fn settle_certificates(&mut self) {
        let doors = self.doors.iter();
        let doormen = doors.filter_map(|(_, entrance)| entrance.doorman());
        doormen.for_each(Doorman::settle);
    }
}

/// The text of a certificate and its key, as OpenSSL has them. Without a key the key process signs.
fn proof(certificate: &Certificate) -> Result<Proof, String> {
    let key = certificate.key.as_ref().map(|key| &*key.0);
    Proof::new(check(&certificate.chain, "", key)?)
}
