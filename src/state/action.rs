//! What a frontend does with its requests besides leading them to a cluster.
//!
//! Owns: which actions there are, which go together, and where a client is
//! redirected to. Each request meets them in this order: https_redirect, deny,
//! basic_auth, then redirect or answer, or else what is changed on its way.

use super::{is_same, BasicAuth, Edits};
use crate::limits::LOCATION_BYTES_MAX;
use crate::parser::host;
use crate::parser::http11::Name;
use crate::parser::path;
use std::fmt;
use std::rc::Rc;

/// What a frontend does with its requests besides leading them to a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actions {
    /// Requests that came in the open are sent to https with this status.
    pub https_redirect: Option<u16>,
    /// The port to which they are sent; 443, if they are not.
    pub https_port: u16,
    /// The value of Strict-Transport-Security, for responses over TLS.
    pub hsts: Option<Box<str>>,
    /// Who is let in.
    pub basic_auth: Option<BasicAuth>,
    /// No backend is asked.
    pub own: Option<Own>,
    /// Every path begins with it, in whatever spelling; backends do not see it.
    pub strip_prefix: Option<Box<str>>,
    /// Put before what is left of the path.
    pub add_prefix: Option<Box<str>>,
    /// The host, with its port, that backends are asked for.
    pub set_host: Option<Box<str>>,
    pub request_headers: Edits,
    pub response_headers: Edits,
}

/// What a client gets in a backend's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Own {
    Deny,
    Redirect {
        status: u16,
        to: Template,
    },
    /// Without a text it is the page of that status.
    Answer {
        status: u16,
        text: Option<Rc<str>>,
    },
}

impl Default for Actions {
    fn default() -> Actions {
        Actions {
            https_redirect: None,
            https_port: 443,
            hsts: None,
            basic_auth: None,
            own: None,
            strip_prefix: None,
            add_prefix: None,
            set_host: None,
            request_headers: Edits::default(),
            response_headers: Edits::default(),
        }
    }
}

impl Actions {
    /// Bytes that the head of a request grows by at most.
    pub fn request_bytes(&self) -> usize {
        let length = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let prefix = match length(&self.strip_prefix) {
            0 => 0,
            length => PREFIX_FIELD.len() + length + 4,
        };
        let host = length(&self.set_host) + "Host: \r\n".len();
        self.request_headers.bytes() + prefix + length(&self.add_prefix) + host
    }

    /// A target as backends see it, in two parts. What is left has its own spelling.
    pub fn rewritten<'p>(&'p self, target: &'p [u8]) -> (&'p [u8], &'p [u8]) {
        let mut rest = target;
        if let Some(prefix) = &self.strip_prefix {
            rest = path::behind(target, prefix.as_bytes()).unwrap_or(target);
            // Two slashes at the start would be a host to whoever redirects there.
            while rest.starts_with(b"//") {
                rest = &rest[1..];
            }
        }
        let added = self.add_prefix.as_deref().unwrap_or_default();
        // The prefix may have been all of it, up to the query.
        match added.is_empty() && !rest.starts_with(b"/") {
            true => (b"/", rest),
            false => (added.as_bytes(), rest),
        }
    }

    /// Whether a field of a request that came with this name does not go on.
    pub fn takes(&self, known: Name, name: &[u8]) -> bool {
        match known {
            Name::Host => self.set_host.is_some(),
            Name::Authorization if self.basic_auth.is_some() => true,
            _ if self.strip_prefix.is_some() && is_same(name, PREFIX_FIELD.as_bytes()) => true,
            _ => self.request_headers.takes(name),
        }
    }
}

/// The field that tells a backend what was stripped.
pub const PREFIX_FIELD: &str = "X-Forwarded-Prefix";

/// A URL with words in braces that stand for parts of what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Box<str>);

/// What the words of a template stand for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub scheme: &'a str,
    /// Without port; empty if nobody knows.
    pub host: &'a str,
    pub port: u16,
    pub path: &'a str,
    /// With its `?`, if there is one.
    pub query: &'a str,
}

const WORDS: [&str; 5] = ["scheme", "host", "port", "path", "query"];

impl Template {
    /// Begins with a scheme and an authority, or with a path: so a client chooses the host
    /// only as far as `{host}` says so, and no `{path}` can be taken for one.
    pub fn parse(text: &str) -> Result<Template, String> {
        if text.len() > LOCATION_BYTES_MAX {
            return Err(format!("has more than {LOCATION_BYTES_MAX} bytes"));
        }
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>\\^`|".contains(&byte);
        if !text.bytes().all(plain) {
            return Err(format!(
                "{text:?} has bytes that no URL has: write them as %xx"
            ));
        }
        for part in text.split('{').skip(1) {
            let word = part.split_once('}').map(|(word, _)| word);
            if !word.is_some_and(|word| WORDS.contains(&word)) {
                let known = WORDS.map(|word| format!("{{{word}}}")).join(" ");
                return Err(format!("{text:?} has other words in braces than {known}"));
            }
        }
        if text.matches('{').count() != text.matches('}').count() {
            return Err(format!("{text:?} has a brace that closes nothing"));
        }
        let schemes = ["https://", "http://", "{scheme}://"];
        match schemes.iter().find_map(|scheme| text.strip_prefix(scheme)) {
            Some(rest) => check_authority(rest)?,
            None if text.starts_with('/') && !text[1..].starts_with(['/', '{']) => {}
            None => {
                return Err(format!("{text:?} begins neither with https://, http:// or {{scheme}}:// nor with / and a name: it could lead anywhere"))
            }
        }
        Ok(Template(text.into()))
    }

    /// `None`: the host is needed and not known, or it is too long.
    pub fn filled(&self, wanted: &Wanted) -> Option<String> {
        let mut text = String::new();
        for (at, part) in self.0.split('{').enumerate() {
            let Some((word, rest)) = part.split_once('}').filter(|_| at > 0) else {
                text.push_str(part);
                continue;
            };
            match word {
                "scheme" => text.push_str(wanted.scheme),
                "host" if wanted.host.is_empty() => return None,
                "host" => text.push_str(wanted.host),
                "port" => text.push_str(&wanted.port.to_string()),
                "path" => text.push_str(wanted.path),
                _ => text.push_str(wanted.query),
            }
            text.push_str(rest);
        }
        (text.len() <= LOCATION_BYTES_MAX).then_some(text)
    }
}

/// The authority of a URL behind its scheme, with words that are known.
fn check_authority(rest: &str) -> Result<(), String> {
    // The path may stand for the slash behind the authority.
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let end = rest.find("{path}").unwrap_or(end).min(end);
    let authority = &rest[..end];
    let elsewhere = authority.strip_suffix(":{port}").unwrap_or(authority);
    if elsewhere.contains("{port}") {
        return Err("{port} stands for the whole port, behind a colon".into());
    }
    let sample = authority
        .replace("{host}", "host")
        .replace("{port}", "1")
        .to_string();
    match host::parse(sample.as_bytes()) {
        Ok(_) => Ok(()),
        Err(what) => Err(format!("{authority:?} behind the scheme: {what}")),
    }
}

impl fmt::Display for Template {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        scheme: "http",
        host: "a.test",
        port: 8080,
        path: "//b/c",
        query: "?d=e",
    };

    #[test]
    fn words_stand_for_what_was_asked_for() {
        for (text, filled) in [
            ("https://{host}{path}{query}", "https://a.test//b/c?d=e"),
            ("https://{host}:8443{path}", "https://a.test:8443//b/c"),
            ("{scheme}://www.{host}:{port}/x", "http://www.a.test:8080/x"),
            (
                "https://new.test/from?u={path}{query}",
                "https://new.test/from?u=//b/c?d=e",
            ),
            ("https://new.test", "https://new.test"),
            ("https://new.test?q", "https://new.test?q"),
            ("https://[::1]:8/", "https://[::1]:8/"),
            ("/", "/"),
            ("/login#top", "/login#top"),
            ("/new{path}", "/new//b/c"),
            ("/?{query}", "/??d=e"),
        ] {
            let template = Template::parse(text).expect(text);
            assert_eq!(template.to_string(), text);
            assert_eq!(template.filled(&WANTED).as_deref(), Some(filled));
        }
        let host = Template::parse("https://{host}/").unwrap();
        assert_eq!(host.filled(&Wanted { host: "", ..WANTED }), None);
        let long = "x".repeat(LOCATION_BYTES_MAX);
        let path = Template::parse("https://a{path}").unwrap();
        assert_eq!(
            path.filled(&Wanted {
                path: &long,
                ..WANTED
            }),
            None
        );
    }

    #[test]
    fn what_could_lead_anywhere_is_refused() {
        for text in [
            "",
            "a",
            "a.test/x",
            "//a.test/",
            "/{path}",
            "/{query}",
            "{path}",
            "{host}{path}",
            "/\\a.test",
            "ftp://a.test/",
            "javascript:alert(1)",
            "https://",
            "https:///a",
            "https://{path}",
            "https://{query}",
            "https://a{query}",
            "https://{scheme}/",
            "https://a@b/",
            "https://a:x/",
            "https://{host}.{port}x:/",
            "https://a b/",
            "https://a/é",
            "https://a/{regex}",
            "https://a/{path",
            "https://a/path}",
            "https://a/{}",
            "https://a/}{",
            "https://a/\r\nX: y",
            "https://a/\"",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_lose_a_prefix_and_gain_one() {
        let actions = |strip: &str, add: &str| Actions {
            strip_prefix: (!strip.is_empty()).then(|| strip.into()),
            add_prefix: (!add.is_empty()).then(|| add.into()),
            ..Actions::default()
        };
        for (strip, add, path, wanted) in [
            ("/api", "", "/api/x?y", "/x?y"),
            ("/api", "", "/api", "/"),
            ("/api", "", "/api/", "/"),
            ("/api", "", "/api?y", "/?y"),
            ("/api", "", "/api//x", "/x"),
            ("/api", "", "//%61pi///%78?//y", "/%78?//y"),
            ("/api", "/v2", "/ap%69", "/v2"),
            ("/api", "/v2", "/api/x", "/v2/x"),
            ("/api", "/v2", "/api", "/v2"),
            ("/api", "/v2", "/api?y", "/v2?y"),
            ("", "/v2", "/", "/v2/"),
            ("", "/v2", "/x?y", "/v2/x?y"),
        ] {
            let actions = actions(strip, add);
            let (first, second) = actions.rewritten(path.as_bytes());
            let got = [first, second].concat();
            assert_eq!(got, wanted.as_bytes(), "{strip} {add} {path}");
        }
    }
}
