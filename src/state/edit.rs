//! Changes of header fields: `set NAME: VALUE`, `add NAME: VALUE`, `remove NAME`.
//!
//! Owns: which fields may be changed. What frames a message, what is for one
//! connection only, and what the proxy itself says of a client is not among them.

use crate::limits::{EDITS_BYTES_MAX, EDITS_MAX};
use crate::parser::bytes::{run, TOKEN};
use crate::parser::http11::Name;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    /// In place of all that have this name.
    Set,
    /// Behind them.
    Add,
    /// None has it.
    Remove,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Edit {
    verb: Verb,
    name: Box<str>,
    value: Box<str>,
}

/// What is done to the fields of a head: first those go that are set or removed, then
/// what is set and added follows in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits(Box<[Edit]>);

/// Which heads are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    Requests,
    Responses,
}

impl Edits {
    /// One on each line.
    pub fn parse(text: &str) -> Result<Edits, String> {
        let mut edits: Vec<Edit> = Vec::new();
        for line in text.split('\n') {
            let edit = Edit::parse(line)?;
            let same = |other: &&Edit| is_same(other.name.as_bytes(), edit.name.as_bytes());
            let takes = |edit: &Edit| edit.verb != Verb::Add;
            let mut others = edits.iter().filter(same);
            if takes(&edit) && others.any(takes) {
                return Err(format!("{} is set or removed twice", edit.name));
            }
            edits.push(edit);
        }
        let edits = Edits(edits.into());
        if edits.0.len() > EDITS_MAX || edits.bytes() > EDITS_BYTES_MAX {
            return Err(format!(
                "are more than {EDITS_MAX}, or longer than {EDITS_BYTES_MAX} bytes together"
            ));
        }
        Ok(edits)
    }

    /// The first that may not be done, with why.
    pub fn check(&self, heads: Heads) -> Result<(), String> {
        for edit in &self.0 {
            if let Some(why) = forbidden(&edit.name, heads) {
                return Err(format!("{} {why}", edit.name));
            }
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes that a head grows by at most.
    pub fn bytes(&self) -> usize {
        let lines = self.lines();
        lines
            .map(|(name, value)| name.len() + value.len() + 4)
            .sum()
    }

    /// Whether a field of that name that came does not go on.
    pub fn takes(&self, name: &[u8]) -> bool {
        let takes = |edit: &&Edit| edit.verb != Verb::Add;
        let mut edits = self.0.iter().filter(takes);
        edits.any(|edit| is_same(edit.name.as_bytes(), name))
    }

    /// Whether there are fields of that name once all is done, other than those that came.
    pub fn names(&self, name: &str) -> bool {
        self.lines()
            .any(|(known, _)| is_same(known.as_bytes(), name.as_bytes()))
    }

    /// Names and values of what is set and added.
    pub fn lines(&self) -> impl Iterator<Item = (&str, &str)> {
        let edits = self.0.iter().filter(|edit| edit.verb != Verb::Remove);
        edits.map(|edit| (&*edit.name, &*edit.value))
    }
}

/// Apart from case, and as CGI and its heirs read them, to whom `X_A` is `X-A`.
pub fn is_same(a: &[u8], b: &[u8]) -> bool {
    let fold = |byte: &u8| match byte {
        b'_' => b'-',
        byte => byte.to_ascii_lowercase(),
    };
    a.len() == b.len() && a.iter().map(fold).eq(b.iter().map(fold))
}

/// Why nobody may change this field.
fn forbidden(name: &str, heads: Heads) -> Option<&'static str> {
    use Name::*;
    Some(match (Name::of(name.as_bytes()), heads) {
        (Connection | KeepAlive | ProxyConnection | Upgrade | Http2Settings | Te, _) => {
            "is about one connection, and made by the proxy"
        }
        (ContentLength | TransferEncoding | Trailer | Expect, _) => {
            "says where a message ends, and is made by the proxy"
        }
        (
            SecWebSocketAccept
            | SecWebSocketExtensions
            | SecWebSocketKey
            | SecWebSocketProtocol
            | SecWebSocketVersion,
            _,
        ) => "belongs to a WebSocket's handshake",
        (Disguised, _) => "is written with _ for -: backends could not tell the two apart",
        (StrictTransportSecurity, Heads::Responses) => "has a key of its own: hsts",
        (Host, Heads::Requests) => "has a key of its own: set_host",
        (
            Forwarded | Via | XForwardedFor | XForwardedHost | XForwardedPort | XForwardedProto
            | XRequestId | ClientCert | ClientCertChain | XSslClientSDn | XSslClientVerify,
            Heads::Requests,
        ) => "is what the proxy itself says of a client",
        _ => return None,
    })
}

impl Edit {
    fn parse(line: &str) -> Result<Edit, String> {
        let wrong =
            || format!("{line:?} is not one of: set NAME: VALUE, add NAME: VALUE, remove NAME");
        let (verb, rest) = line.split_once(' ').ok_or_else(wrong)?;
        let (verb, (name, value)) = match verb {
            "set" => (Verb::Set, rest.split_once(':').ok_or_else(wrong)?),
            "add" => (Verb::Add, rest.split_once(':').ok_or_else(wrong)?),
            "remove" => (Verb::Remove, (rest, "")),
            _ => return Err(wrong()),
        };
        let value = value.trim_matches(' ');
        if name.is_empty() || run(name.as_bytes(), 0, TOKEN) < name.len() {
            return Err(format!("{name:?} is not the name of a header field"));
        }
        if value.chars().any(char::is_control) {
            return Err(format!("the value of {name} has control characters"));
        }
        Ok(Edit {
            verb,
            name: name.into(),
            value: value.into(),
        })
    }
}

impl fmt::Display for Edits {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        for (at, edit) in self.0.iter().enumerate() {
            let Edit { verb, name, value } = edit;
            out.write_str(if at == 0 { "" } else { "\n" })?;
            match verb {
                Verb::Set => write!(out, "set {name}: {value}")?,
                Verb::Add => write!(out, "add {name}: {value}")?,
                Verb::Remove => write!(out, "remove {name}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written() {
        for (text, written) in [
            ("set X-A: b", "set X-A: b"),
            ("set X-A:b, \"c\": d ", "set X-A: b, \"c\": d"),
            ("add Set-Cookie: a=b; Path=/", "add Set-Cookie: a=b; Path=/"),
            (
                "remove Server\nset Server: é",
                "remove Server\nset Server: é",
            ),
            ("set X-Empty:", "set X-Empty: "),
        ] {
            match Edits::parse(text) {
                Ok(edits) => assert_eq!(edits.to_string(), written),
                Err(what) => assert!(what.contains("twice"), "{what}"),
            }
        }
        let edits = Edits::parse("set A: 1\nadd A: 2\nremove B").expect("good ones");
        assert_eq!(edits.lines().collect::<Vec<_>>(), [("A", "1"), ("A", "2")]);
        assert!(edits.takes(b"a") && edits.takes(b"B") && !edits.takes(b"C"));
        assert!(edits.names("a") && !edits.names("B"));
        let edits = Edits::parse("add X-A: 1\nremove X-B-C").expect("good ones");
        assert!(!edits.takes(b"X-A") && edits.takes(b"x_b-C"));
    }

    #[test]
    fn what_is_no_edit() {
        let many = vec!["add A: b"; EDITS_MAX + 1].join("\n");
        let long = format!("set A: {}", "x".repeat(EDITS_BYTES_MAX));
        for (text, why) in [
            ("", "not one of"),
            ("set", "not one of"),
            ("set A", "not one of"),
            ("Set A: b", "not one of"),
            ("append A: b", "not one of"),
            ("remove", "not one of"),
            ("remove A: b", "not the name"),
            ("set A b: c", "not the name"),
            ("set : c", "not the name"),
            ("set  A: c", "not the name"),
            ("set é: c", "not the name"),
            ("set A: b\rInjected: c", "control"),
            ("set A: b\n\nset B: c", "not one of"),
            ("set A: \u{7f}", "control"),
            ("set A: 1\nremove a", "twice"),
            ("set A-B: 1\nset a_b: 2", "twice"),
            (&many, "more than"),
            (&long, "longer than"),
        ] {
            let what = Edits::parse(text).expect_err(text);
            assert!(what.contains(why), "{text:?}: {what}");
        }
    }

    #[test]
    fn what_the_proxy_keeps_for_itself() {
        for (name, requests, responses) in [
            ("content-length", true, true),
            ("Transfer-Encoding", true, true),
            ("Connection", true, true),
            ("Upgrade", true, true),
            ("Trailer", true, true),
            ("Transfer_Encoding", true, true),
            ("Sec-WebSocket-Key", true, true),
            ("Host", true, false),
            ("X-Forwarded-For", true, false),
            ("Forwarded", true, false),
            ("Client-Cert", true, false),
            ("Strict-Transport-Security", false, true),
            ("Authorization", false, false),
            ("Content-Type", false, false),
            ("Server", false, false),
            ("X-Mine", false, false),
        ] {
            for verb in ["set", "add"] {
                let edits = Edits::parse(&format!("{verb} {name}: x")).expect(name);
                assert_eq!(edits.check(Heads::Requests).is_err(), requests, "{name}");
                assert_eq!(edits.check(Heads::Responses).is_err(), responses, "{name}");
            }
            let edits = Edits::parse(&format!("remove {name}")).expect(name);
            assert_eq!(edits.check(Heads::Requests).is_err(), requests, "{name}");
        }
    }
}
