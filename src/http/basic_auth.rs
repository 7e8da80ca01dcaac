//! Names and passwords of clients (RFC 7617), and how often one is looked at.
//!
//! A password takes milliseconds to look at, in which a worker does nothing else. So
//! one that was right is remembered, by a digest that says nothing of it; and of
//! others there are only so many in a second, whoever sends them: who comes then is
//! told to come again. A digest is of the hash as well, so with another
//! hash nobody is known any more.

use std::collections::{HashSet, VecDeque};

use crate::http::fields::Head;
use crate::limits::{
    CRYPT_ROUNDS_AT_ONCE, CRYPT_ROUNDS_PER_SECOND, PASSWORD_BYTES_MAX, PROOFS_MAX,
};
use crate::parser::http11::Name;
use crate::state::BasicAuth;

/// What is to be done with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Served,
    /// It names nobody.
    Unnamed,
    /// Somebody else, or nobody who is known.
    Wrong,
    /// Too many were looked at just now.
    Later,
}

/// What a worker remembers of passwords.
pub struct Proofs {
    key: [u8; 32],
    right: HashSet<[u8; 32]>,
    /// The same, the oldest first.
    order: VecDeque<[u8; 32]>,
    /// Millionths of rounds that may be hashed now.
    allowance: u64,
    since_us: u64,
}

const MILLION: u64 = 1_000_000;

impl Proofs {
    /// `key` is known to nobody else.
    pub fn new(key: [u8; 32]) -> Proofs {
        Proofs {
            key,
            right: HashSet::new(),
            order: VecDeque::new(),
            allowance: u64::from(CRYPT_ROUNDS_AT_ONCE) * MILLION,
            since_us: 0,
        }
    }

    /// Looks at who sent a head; the name of who is served goes into `user`.
    pub fn judge(
        &mut self,
        auth: &BasicAuth,
        head: Head,
        now_us: u64,
        user: &mut Vec<u8>,
    ) -> Verdict {
        let mut values = head.all(Name::Authorization);
        let (Some(value), None) = (values.next(), values.next()) else {
            return Verdict::Unnamed;
        };
        let Some(plain) = credentials(value) else {
            return Verdict::Unnamed;
        };
        let mut parts = plain.splitn(2, |byte| *byte == b':');
        let (Some(name), Some(password)) = (parts.next(), parts.next()) else {
            return Verdict::Unnamed;
        };
        let users = auth.users.as_ref();
        let name = std::str::from_utf8(name).ok();
        let found = users.zip(name).and_then(|(users, name)| users.find(name));
        let Some((known, hash)) = found.filter(|_| password.len() <= PASSWORD_BYTES_MAX) else {
            return Verdict::Wrong;
        };
        let trace = hash.trace(password, &self.key);
        let named = name.unwrap_or_default().as_bytes();
        if known && self.right.contains(&trace) {
            user.extend_from_slice(named);
            return Verdict::Served;
        }
        if !self.may_hash(hash.rounds(), now_us) {
            return Verdict::Later;
        }
        match hash.fits(password) && known {
            true => {
                self.remember(trace);
                user.extend_from_slice(named);
                Verdict::Served
            }
            false => Verdict::Wrong,
        }
    }

    fn may_hash(&mut self, rounds: u32, now_us: u64) -> bool {
        let passed_us = now_us.saturating_sub(self.since_us);
        self.since_us = now_us;
        let gained = passed_us.saturating_mul(u64::from(CRYPT_ROUNDS_PER_SECOND));
        let most = u64::from(CRYPT_ROUNDS_AT_ONCE) * MILLION;
        self.allowance = self.allowance.saturating_add(gained).min(most);
        match self.allowance.checked_sub(u64::from(rounds) * MILLION) {
            Some(left) => {
                self.allowance = left;
                true
            }
            None => false,
        }
    }

    fn remember(&mut self, trace: [u8; 32]) {
        if self.right.insert(trace) {
            self.order.push_back(trace);
        }
        if self.order.len() > PROOFS_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.right.remove(&oldest);
            }
        }
    }
}

/// `name:password` of `Basic bmFtZTpwYXNzd29yZA==`.
fn credentials(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, rest) = value.split_at_checked(b"Basic ".len())?;
    let text = std::str::from_utf8(rest.trim_ascii()).ok()?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") || text.bytes().any(|b| b.is_ascii_whitespace()) {
        return None;
    }
    openssl::base64::decode_block(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::http11::{self, Fields, Parse};
    use crate::state::Users;

    const JANE: &str =
        "jane:$5$rounds=1000$roundstoolow$yfvwcWrQ8l/K0DAWyuPMDNHpIVlTQebY9l/gL972bIC";
    const PASSWORD: &str = "the minimum number is still observed";

    fn auth(lines: &str) -> BasicAuth {
        let users = Users::parse(lines).expect("good lines");
        BasicAuth {
            realm: "r".into(),
            fingerprint: users.fingerprint().into(),
            users: Some(users),
            path: None,
        }
    }

    /// None is named but who is served.
    fn judge(proofs: &mut Proofs, auth: &BasicAuth, fields: &str, now_us: u64) -> Verdict {
        let text = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        let mut lines = Fields::new();
        let parsed = http11::request(text.as_bytes(), 0, &mut lines);
        assert!(matches!(parsed, Parse::Complete { .. }), "{text}");
        let head = Head {
            bytes: text.as_bytes(),
            lines: lines.as_slice(),
        };
        let mut user = Vec::new();
        let verdict = proofs.judge(auth, head, now_us, &mut user);
        let wanted = if verdict == Verdict::Served {
            "jane"
        } else {
            ""
        };
        assert_eq!(user, wanted.as_bytes());
        verdict
    }

    fn basic(name: &str, password: &str) -> String {
        let text = openssl::base64::encode_block(format!("{name}:{password}").as_bytes());
        format!("Authorization: Basic {text}\r\n")
    }

    #[test]
    fn who_is_let_in() {
        let (mut proofs, auth) = (Proofs::new([7; 32]), auth(JANE));
        for (fields, verdict) in [
            ("".to_string(), Verdict::Unnamed),
            (basic("jane", PASSWORD), Verdict::Served),
            (
                basic("jane", PASSWORD).replace("Basic", "bAsIC"),
                Verdict::Served,
            ),
            (basic("jane", "wrong"), Verdict::Wrong),
            (basic("jane", ""), Verdict::Wrong),
            // The same password, and so the same hash is looked at.
            (basic("john", PASSWORD), Verdict::Wrong),
            (basic("", PASSWORD), Verdict::Wrong),
            (
                basic("jane", &"x".repeat(PASSWORD_BYTES_MAX + 1)),
                Verdict::Wrong,
            ),
            (basic("jane", PASSWORD).repeat(2), Verdict::Unnamed),
            (
                "Authorization: Bearer amFuZTp4\r\n".to_string(),
                Verdict::Unnamed,
            ),
            ("Authorization: Basic\r\n".to_string(), Verdict::Unnamed),
            ("Authorization: Basic ***\r\n".to_string(), Verdict::Unnamed),
            (
                "Authorization: Basic amFuZQ==\r\n".to_string(),
                Verdict::Unnamed,
            ),
            (
                "Authorization: Basic amFu ZTp4\r\n".to_string(),
                Verdict::Unnamed,
            ),
        ] {
            assert_eq!(judge(&mut proofs, &auth, &fields, 0), verdict, "{fields}");
        }
        let closed = BasicAuth {
            users: None,
            ..auth
        };
        let fields = basic("jane", PASSWORD);
        assert_eq!(judge(&mut proofs, &closed, &fields, 0), Verdict::Wrong);
    }

    #[test]
    fn a_flood_of_wrong_passwords_is_told_to_wait_and_those_who_were_right_are_not() {
        let (mut proofs, auth) = (Proofs::new([7; 32]), auth(JANE));
        let right = basic("jane", PASSWORD);
        assert_eq!(judge(&mut proofs, &auth, &right, 0), Verdict::Served);
        let wrong = |i: usize| basic("jane", &format!("wrong {i}"));
        let looked_at = CRYPT_ROUNDS_AT_ONCE as usize / 1000 - 1;
        for i in 0..100 {
            let verdict = judge(&mut proofs, &auth, &wrong(i), 0);
            let wanted = if i < looked_at {
                Verdict::Wrong
            } else {
                Verdict::Later
            };
            assert_eq!(verdict, wanted, "{i}");
            assert_eq!(judge(&mut proofs, &auth, &right, 0), Verdict::Served);
        }
        // Time brings some back, and not more than there were.
        let each_us = MILLION * 1000 / u64::from(CRYPT_ROUNDS_PER_SECOND);
        assert_eq!(
            judge(&mut proofs, &auth, &wrong(0), each_us),
            Verdict::Wrong
        );
        assert_eq!(
            judge(&mut proofs, &auth, &wrong(0), each_us),
            Verdict::Later
        );
        let later_us = u64::MAX;
        let served = (0..100).filter(|_| proofs.may_hash(1000, later_us)).count();
        assert_eq!(served, looked_at + 1);
    }

    #[test]
    fn with_another_hash_nobody_is_known_any_more() {
        let mut proofs = Proofs::new([7; 32]);
        let right = basic("jane", PASSWORD);
        assert_eq!(judge(&mut proofs, &auth(JANE), &right, 0), Verdict::Served);
        let other = auth(&JANE.replace("yfvw", "yfvx"));
        assert_eq!(judge(&mut proofs, &other, &right, 0), Verdict::Wrong);
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let mut proofs = Proofs::new([7; 32]);
        for i in 0..PROOFS_MAX + 10 {
            let mut trace = [0; 32];
            trace[..8].copy_from_slice(&i.to_be_bytes());
            proofs.remember(trace);
            proofs.remember(trace);
        }
        assert_eq!(proofs.right.len(), PROOFS_MAX);
        assert_eq!(proofs.order.len(), PROOFS_MAX);
        let mut first = [0; 32];
        first[..8].copy_from_slice(&9usize.to_be_bytes());
        assert!(!proofs.right.contains(&first));
    }
}
