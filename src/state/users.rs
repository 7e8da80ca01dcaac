//! Who may come in by a name and a password: lines `user:hash`.
//!
//! Owns: that the hashes are in no text that anybody reads.

use super::Secret;
use crate::crypt::{fingerprint, Hash};
use crate::limits::{USERS_BYTES_MAX, USERS_MAX, USER_BYTES_MAX};
use std::collections::BTreeMap;
use std::fmt;

/// Users and the hashes of their passwords.
#[derive(Clone)]
pub struct Users {
    text: Secret,
    by_name: BTreeMap<Box<str>, Hash>,
}

/// What a client must prove before it is served. Two are equal by their fingerprints, whether
/// the users are there or left out.
#[derive(Clone, Debug)]
pub struct BasicAuth {
    /// What the client shows to its user.
    pub realm: Box<str>,
    /// Of the users.
    pub fingerprint: Box<str>,
    /// `None`: they were left out, as in a dump, and nobody comes in.
    pub users: Option<Users>,
    /// Where they were read, absolute.
    pub path: Option<Box<str>>,
}

impl Users {
    /// Empty lines, and those that begin with `#`, say nothing. An error quotes no hash.
    pub fn parse(text: &str) -> Result<Users, String> {
        if text.len() > USERS_BYTES_MAX {
            return Err(format!("has more than {USERS_BYTES_MAX} bytes"));
        }
        let mut by_name = BTreeMap::new();
        let mut kept = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = at + 1;
            let (name, hash) = line
                .split_once(':')
                .ok_or_else(|| format!("line {number} is not user:hash"))?;
            if name.is_empty() || name.len() > USER_BYTES_MAX || name.contains(char::is_control) {
                return Err(format!(
                    "line {number} has no user of 1 to {USER_BYTES_MAX} bytes"
                ));
            }
            let hash = Hash::parse(hash)
                .map_err(|what| format!("line {number}: the hash of {name} {what}"))?;
            if by_name.insert(name.into(), hash).is_some() {
                return Err(format!("line {number}: {name} is there already"));
            }
            kept.push(line);
        }
        match by_name.len() {
            0 => Err("has no user: a line is user:hash".into()),
            count if count > USERS_MAX => Err(format!("has more than {USERS_MAX} users")),
            _ => Ok(Users {
                text: Secret(kept.join("\n").into()),
                by_name,
            }),
        }
    }

    /// The lines, for those who may have them.
    pub fn text(&self) -> &str {
        &self.text.0
    }

    /// What they are known by.
    pub fn fingerprint(&self) -> String {
        fingerprint(self.text())
    }

    /// What is stored of a user's password. Of who is not known, somebody else's, so that
    /// refusing takes as long; `false`: nothing fits.
    pub fn find(&self, name: &str) -> Option<(bool, &Hash)> {
        match self.by_name.get(name) {
            Some(hash) => Some((true, hash)),
            None => self.by_name.values().next().map(|hash| (false, hash)),
        }
    }
}

impl PartialEq for BasicAuth {
    fn eq(&self, other: &BasicAuth) -> bool {
        self.realm == other.realm
            && self.fingerprint == other.fingerprint
            && self.path == other.path
    }
}

impl Eq for BasicAuth {}

impl fmt::Debug for Users {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        self.text.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$5$rounds=1000$roundstoolow$yfvwcWrQ8l/K0DAWyuPMDNHpIVlTQebY9l/gL972bIC";

    #[test]
    fn lines_of_users() {
        let text = format!("# who may\n\njane:{HASH}\n  müller:{HASH}  \r\n");
        let users = Users::parse(&text).expect("good lines");
        assert_eq!(users.text(), format!("jane:{HASH}\nmüller:{HASH}"));
        assert!(users.find("jane").is_some_and(|(known, _)| known));
        assert!(users.find("müller").is_some_and(|(known, _)| known));
        assert!(users.find("nobody").is_some_and(|(known, _)| !known));
        let again = Users::parse(users.text()).expect("what was written");
        assert_eq!(again.fingerprint(), users.fingerprint());
        let other = Users::parse(&format!("jane:{HASH}")).expect("good lines");
        assert_ne!(other.fingerprint(), users.fingerprint());
        assert_eq!(format!("{users:?}"), "(secret)");
    }

    #[test]
    fn what_is_no_line_of_a_user() {
        let many: String = (0..=USERS_MAX).map(|i| format!("u{i}:{HASH}\n")).collect();
        for (text, why) in [
            ("", "no user"),
            ("# none\n", "no user"),
            ("jane", "line 1 is not"),
            ("\n:$5$x", "line 2 has no user"),
            ("jane:secret", "line 1: the hash of jane is no hash"),
            (&format!("jane:{HASH}\njane:{HASH}"), "there already"),
            (&many, "more than"),
            (&"#".repeat(USERS_BYTES_MAX + 1), "bytes"),
        ] {
            let what = Users::parse(text).expect_err(why);
            assert!(what.contains(why), "{what}");
            assert!(!what.contains("secret") && !what.contains(HASH), "{what}");
        }
    }
}
