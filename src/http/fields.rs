//! Questions about a parsed head: one field, a list of tokens, the connection options.

use crate::limits::CONNECTION_OPTIONS_MAX;
use crate::parser::http11::{Field, Name};

/// The field lines of one head with the bytes that they lie in.
#[derive(Clone, Copy)]
pub struct Head<'b> {
    pub bytes: &'b [u8],
    pub lines: &'b [Field],
}

impl<'b> Head<'b> {
    /// The values of every line with that name, in order.
    pub fn all(self, name: Name) -> impl Iterator<Item = &'b [u8]> {
        self.lines
            .iter()
            .filter(move |field| field.known == name)
            .map(move |field| field.value.of(self.bytes))
    }

    /// Whether a comma-separated list, over all lines with that name, has the token.
    pub fn has_token(self, name: Name, token: &[u8]) -> bool {
        self.all(name)
            .flat_map(tokens)
            .any(|t| t.eq_ignore_ascii_case(token))
    }
}

/// The elements of a comma-separated list (RFC 9110 section 5.6.1), empty ones left out.
pub fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',')
        .map(|token| token.trim_ascii())
        .filter(|token| !token.is_empty())
}

/// What the Connection fields of a head say (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// Fields are named there that must not be passed on.
    pub names_fields: bool,
}

impl Options {
    /// `None`: more options than anyone needs.
    pub fn of(head: Head) -> Option<Options> {
        let mut options = Options::default();
        for (count, token) in head.all(Name::Connection).flat_map(tokens).enumerate() {
            if count == CONNECTION_OPTIONS_MAX {
                return None;
            }
            if token.eq_ignore_ascii_case(b"close") {
                options.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
            } else if token.eq_ignore_ascii_case(b"upgrade") {
                options.upgrade = true;
            } else {
                options.names_fields = true;
            }
        }
        Some(options)
    }
}
