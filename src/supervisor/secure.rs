//! What main does about TLS: it tries policies before anybody serves by them, and
//! watches over the certificates.
//!
//! It never shakes a client's hand. What it says of a certificate is never its key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;

use crate::date::rfc3339;
use crate::limits::EXPIRY_CHECK_MS;
use crate::net::logging::unix_ms;
use crate::net::tls::Doorman;
use crate::proto::reply;
use crate::slab::Key;
use crate::state::{Certificate, Change, Code, Listener, Refused, State};
use crate::supervisor::Supervisor;

/// Days before its end at which a certificate is complained about, each once.
const WARN_AT_DAYS: [i64; 3] = [1, 7, 30];

/// Which complaints were made about which certificate, and when to look again.
#[derive(Clone, Default)]
pub struct Expiry {
    pub told: BTreeMap<Rc<str>, i64>,
    pub due_ms: u64,
}

fn now_s() -> i64 {
    i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX)
}

/// Whether OpenSSL takes every listener's policy; else a sentence.
pub fn try_policies(state: &State) -> Result<(), String> {
    state
        .listeners()
        .try_for_each(|listener| try_policy(listener))
}

fn try_policy(listener: &Listener) -> Result<(), String> {
    let Some(tls) = &listener.tls else {
        return Ok(());
    };
    let tried = Doorman::new(listener.address, tls).map(drop);
    tried.map_err(|what| format!("listener {}: {what}", listener.address))
}

/// What should be known about the certificates of a state, and about lists of revoked ones: a
/// sentence each.
pub fn untimely(state: &State) -> Vec<String> {
    let now_s = now_s();
    let found = state.certificates().filter_map(|one| one.untimely(now_s));
    let own = state.clusters().filter_map(|one| one.own_certificate());
    let own = own.filter_map(|own| own.facts.untimely(&own.facts.subject, now_s));
    let lists = state.listeners().filter_map(|one| one.crls());
    let stale = lists.flat_map(|crls| crls.untimely(now_s));
    found.chain(own).chain(stale).collect()
}

/// The first change whose policy OpenSSL does not take.
pub fn try_changes(changes: &[Change]) -> Result<(), (usize, Refused)> {
    for (place, change) in changes.iter().enumerate() {
        if let Change::ListenerAdd(listener) | Change::ListenerUpdate(listener) = change {
            try_policy(listener).map_err(|what| (place, Refused::new(Code::Invalid, what)))?;
        }
    }
    Ok(())
}

/// A certificate that is to be shown comes with its key, and a frontend with whom it lets in.
pub fn is_whole(change: &Change) -> Result<(), Refused> {
    let what = match (change.certificate(), change.own_certificate()) {
        (Some(certificate), _) if certificate.key.is_none() => {
            let names = certificate.names_text();
            format!("certificate of {names}: key: is missing")
        }
        (_, Some((cluster, own))) if own.key.is_none() => {
            format!("cluster {}: tls_key: is missing", cluster.id)
        }
        _ => match change.basic_auth() {
            Some((frontend, auth)) if auth.users.is_none() => {
                format!("{}: basic_auth: is missing", frontend.identity)
            }
            _ => return Ok(()),
        },
    };
    Err(Refused::new(Code::Invalid, what))
}

impl Supervisor {
    /// What should be known about certificates that come, as data lines; the log hears it too.
    pub(super) fn warn_of(&self, changes: &[Change]) -> String {
        let now_s = now_s();
        let mut lines = String::new();
        let mut warn = |whose: String, text: String| {
            log::warn!("{whose}: {text}");
            lines += &reply::data("warning", &[("text", text)]);
        };
        for change in changes {
            if let Change::ListenerAdd(listener) | Change::ListenerUpdate(listener) = change {
                let stale = listener.crls().into_iter();
                let stale = stale.flat_map(|crls| crls.untimely(now_s));
                stale.for_each(|text| warn(format!("listener {}", listener.address), text));
            }
            if let Change::BackendAdd(backend) = change {
                let lost = self.names.why_not(backend.address.name());
                lost.into_iter()
                    .for_each(|text| warn(format!("backend {}", backend.id), text));
            }
            if let Some((cluster, own)) = change.own_certificate() {
                let whose = format!("cluster {}", cluster.id);
                let mut all: Vec<String> = Vec::from_iter(own.facts.untimely(&whose, now_s));
                if self.saver.saves() && !self.settings.save_secrets && own.paths.key.is_none() {
                    all.push(format!("{whose} is gone after a restart: tls_key came without tls_key_path, and save_secrets is false"));
                }
                all.into_iter().for_each(|text| warn(whose.clone(), text));
            }
            if let Some((frontend, auth)) = change.basic_auth() {
                if self.saver.saves() && !self.settings.save_secrets && auth.path.is_none() {
                    let what = "nobody comes in after a restart: basic_auth came without basic_auth_path, and save_secrets is false";
                    warn(frontend.identity.to_string(), what.into());
                }
            }
            let Some(certificate) = change.certificate() else {
                continue;
            };
            let mut all: Vec<String> = certificate.untimely(now_s).into_iter().collect();
            if self.saver.saves() && !self.can_be_saved(certificate) {
                all.push(format!(
                    "the certificate of {} is gone after a restart: it came without key_path, and save_secrets is false",
                    certificate.names_text()
                ));
            }
            let listener = format!("listener {}", certificate.listener);
            all.into_iter()
                .for_each(|text| warn(listener.clone(), text));
        }
        lines
    }

    /// Whether it is there again after a restart.
    pub(super) fn can_be_saved(&self, certificate: &Certificate) -> bool {
        self.settings.save_secrets || certificate.paths.key.is_some()
    }

    pub(super) fn list_certificates(
        &mut self,
        listener: Option<SocketAddr>,
        key: Key,
    ) -> Result<String, Refused> {
        if let Some(address) = listener.filter(|address| self.state.listener(*address).is_none()) {
            let what = format!("listener {address} does not exist");
            return Err(Refused::new(Code::Missing, what));
        }
        self.once(
            |main| {
                let all = main.state.certificates();
                let wanted = all.filter(|one| listener.is_none_or(|of| one.listener == of));
                wanted.map(|one| line_of(one)).collect()
            },
            key,
        )
    }

    /// Once a day, and after every change: says which certificates end soon, at each threshold once.
    pub(super) fn look_at_expiry(&mut self) {
        if self.now_ms < self.expiry.due_ms {
            return;
        }
        self.expiry.due_ms = self.now_ms + EXPIRY_CHECK_MS;
        let now_s = now_s();
        let mut told = BTreeMap::new();
        let shown = self.state.certificates();
        let shown = shown.map(|one| {
            (
                format!("listener {}", one.listener),
                one.names_text(),
                &one.facts,
            )
        });
        let own = self.state.clusters().filter_map(|cluster| {
            let facts = &cluster.own_certificate()?.facts;
            Some((
                format!("cluster {}", cluster.id),
                facts.subject.clone(),
                facts,
            ))
        });
        for (place, whose, facts) in shown.chain(own) {
            let days = facts.days_left(now_s);
            let untimely = facts.untimely(&whose, now_s);
            let threshold = match &untimely {
                Some(_) => 0,
                None => match threshold(days) {
                    Some(threshold) => threshold,
                    None => continue,
                },
            };
            let fingerprint = Rc::clone(&facts.fingerprint);
            let before = self.expiry.told.get(&fingerprint).copied();
            if before.is_none_or(|before| threshold < before) {
                let ends = || format!("the certificate of {whose} ends in {days} days: renew it");
                let text = untimely.unwrap_or_else(ends);
                log::warn!("{place}: {text} ({fingerprint})");
            }
            told.insert(fingerprint, threshold);
        }
        self.look_at_lists(now_s, &mut told);
        self.expiry.told = told;
    }

    /// Lists of revoked certificates are good for days only: one that ends is told of when it does, and
    /// every day until there is another one.
    fn look_at_lists(&mut self, now_s: i64, told: &mut BTreeMap<Rc<str>, i64>) {
        for listener in self.state.listeners() {
            let (address, Some(crls)) = (listener.address, listener.crls()) else {
                continue;
            };
            for text in crls.untimely(now_s) {
                let text: Rc<str> = format!("listener {address}: {text}").into();
                if !self.expiry.told.contains_key(&text) {
                    log::warn!("{text}");
                }
                told.insert(text, 0);
            }
            if let Some(end) = crls.next_end(now_s) {
                let seconds = u64::try_from(end.saturating_sub(now_s)).unwrap_or(0);
                let due_ms = self.now_ms.saturating_add(seconds.saturating_mul(1000));
                self.expiry.due_ms = self.expiry.due_ms.min(due_ms);
            }
        }
    }

    /// The lines of `status` about certificates that end soon.
    pub(super) fn expiry_lines(&self) -> String {
        let now_s = now_s();
        let soon = |one: &&Rc<Certificate>| threshold(one.days_left(now_s)).is_some();
        let lines = self.state.certificates().filter(soon).map(|one| {
            let pairs = [
                ("listener", one.listener.to_string()),
                ("fingerprint", one.fingerprint().to_string()),
                ("names", one.names_text()),
                ("days_left", one.days_left(now_s).to_string()),
            ];
            reply::data("certificate", &pairs)
        });
        lines.collect()
    }
}

/// The nearest one that it has come to.
fn threshold(days: i64) -> Option<i64> {
    WARN_AT_DAYS.into_iter().find(|most| days <= *most)
}

fn line_of(certificate: &Certificate) -> String {
    let facts = &certificate.facts;
    let date = |seconds: i64| {
        let text = rfc3339(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000));
        text.replace(".000Z", "Z")
    };
    let mut pairs = vec![
        ("listener", certificate.listener.to_string()),
        ("fingerprint", facts.fingerprint.to_string()),
        ("names", certificate.names_text()),
        ("subject", facts.subject.clone()),
        ("issuer", facts.issuer.clone()),
        ("not_before", date(facts.not_before)),
        ("not_after", date(facts.not_after)),
        ("days_left", certificate.days_left(now_s()).to_string()),
        ("key_type", facts.key_type.clone()),
        ("default", certificate.default.to_string()),
    ];
    let paths = &certificate.paths;
    let known = [
        ("certificate_path", &paths.certificate),
        ("certificate_chain_path", &paths.chain),
        ("key_path", &paths.key),
    ];
    let known = known.into_iter();
    pairs.extend(known.filter_map(|(key, path)| Some((key, path.clone()?))));
    reply::data("certificate", &pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_threshold_counts() {
        for (days, at) in [
            (31, None),
            (30, Some(30)),
            (8, Some(30)),
            (7, Some(7)),
            (2, Some(7)),
            (1, Some(1)),
            (-5, Some(1)),
        ] {
            assert_eq!(threshold(days), at, "{days}");
        }
    }
}
