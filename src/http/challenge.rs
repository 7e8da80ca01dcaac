//! What a certificate authority is answered that wants to know whether a host is ours:
//! http-01 of ACME (RFC 8555 section 8.3).
//!
//! It asks for a path that ends in a token, and gets the token, a dot and the thumbprint of
//! the account's key. Nothing else is ever taken for an answer: so whoever may write into
//! the folder where answers are put can publish nothing else by it, not even by a link.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::limits::{CHALLENGES_MAX, CHALLENGE_BYTES_MAX};

/// Where all of them are asked for, before the token.
pub const PREFIX: &str = "/.well-known/acme-challenge/";

/// Answers by their tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenges(BTreeMap<Box<str>, Rc<str>>);

impl Challenges {
    /// Takes the text of an answer, white space at its end apart. An error: it is none, or there are too many.
    pub fn add(&mut self, token: &str, text: &[u8]) -> Result<(), &'static str> {
        let text = text.trim_ascii_end();
        if text.len() > CHALLENGE_BYTES_MAX {
            return Err("it is too long");
        }
        let text = std::str::from_utf8(text).unwrap_or_default();
        let thumbprint = text
            .strip_prefix(token)
            .and_then(|rest| rest.strip_prefix('.'));
        if !is_token(token) || !thumbprint.is_some_and(is_token) {
            return Err("its text is not its name, a dot and a thumbprint");
        }
        if self.0.len() >= CHALLENGES_MAX {
            return Err("there are too many");
        }
        self.0.insert(token.into(), text.into());
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a request is answered, if it asks for one that is here.
    pub fn find(&self, path: &[u8], method: &[u8]) -> Option<&Rc<str>> {
        let token = path.strip_prefix(PREFIX.as_bytes())?;
        if !matches!(method, b"GET" | b"HEAD") {
            return None;
        }
        self.0.get(std::str::from_utf8(token).ok()?)
    }

    /// As main says them to a worker.
    pub fn encode(&self) -> String {
        let texts: Vec<&str> = self.0.values().map(|text| &**text).collect();
        texts.join(",")
    }

    /// As they were encoded; what is none is left out.
    pub fn decode(text: &str) -> Challenges {
        let mut all = Challenges::default();
        for text in text.split(',') {
            let (token, _) = text.split_once('.').unwrap_or_default();
            let _ = all.add(token, text.as_bytes());
        }
        all
    }
}

/// Of the alphabet of base64url, without padding.
pub fn is_token(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    !text.is_empty() && text.bytes().all(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_answered_with_its_text() {
        let mut all = Challenges::default();
        all.add("a-B_9", b"a-B_9.x-Y_0\r\n").expect("an answer");
        all.add("z", b"z.1").expect("an answer");
        let path = b"/.well-known/acme-challenge/a-B_9";
        let found =
            |path: &[u8], method: &[u8]| all.find(path, method).map(|text| text.to_string());
        assert_eq!(found(path, b"GET").as_deref(), Some("a-B_9.x-Y_0"));
        assert_eq!(found(path, b"HEAD"), found(path, b"GET"));
        for (path, method) in [
            (&path[..], &b"POST"[..]),
            (b"/.well-known/acme-challenge/a-B_9/", b"GET"),
            (b"/.well-known/acme-challenge/a-b_9", b"GET"),
            (b"/.well-known/acme-challenge/", b"GET"),
            (b"/.well-known/acme-challenge", b"GET"),
            (b"/x/.well-known/acme-challenge/z", b"GET"),
            (b"/.well-known/acme-challenge/\xff", b"GET"),
        ] {
            assert_eq!(found(path, method), None, "{:?}", path.escape_ascii());
        }
        assert_eq!(Challenges::decode(&all.encode()), all);
        assert!(
            Challenges::decode("").is_empty() && Challenges::decode(",.,x,x.,y.y.y").is_empty()
        );
    }

    #[test]
    fn nothing_else_is_published() {
        let mut all = Challenges::default();
        let long = format!("t.{}", "x".repeat(CHALLENGE_BYTES_MAX));
        for text in [
            "",
            "t",
            "t.",
            ".x",
            "u.x",
            "tt.x",
            "t.x.y",
            "t.x,u.y",
            "t.x y",
            "t .x",
            " t.x",
            "t.\u{e4}",
            "t.x\nroot:x:0:0",
            &long,
        ] {
            assert!(all.add("t", text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(all.add("t", b"t.\xff").is_err());
        assert!(all.add("../t", b"../t.x").is_err() && all.add("", b".x").is_err());
        assert!(all.is_empty());
        let fits =
            (0..).take_while(|n| all.add(&n.to_string(), format!("{n}.x").as_bytes()).is_ok());
        assert_eq!(fits.count(), CHALLENGES_MAX);
        assert_eq!(all.len(), CHALLENGES_MAX);
    }
}
