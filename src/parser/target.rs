//! The request target: its four forms, percent-encoding, dot segments.
//!
//! Owns what RFC 9112 section 3.2 and RFC 3986 section 5.2.4 say about it, and
//! the methods that the proxy does not serve. Never routes. Called by `http`
//! with the method and target of a head that `http11` took, so every byte of
//! the target is visible ASCII and not `#`.

use super::host::{self, Host};
use super::http11::Refusal;
use super::path::{self, Unit};

/// A target as it is forwarded, and its path as it is routed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Path and query, or `*`: the bytes for the backend.
    pub bytes: &'a [u8],
    /// How many of them are the path.
    pub path_len: usize,
    /// The normal form of the path, by which it is looked up; `/` for `*`.
    pub routed: &'a [u8],
    /// Of an absolute-form target; must agree with `Host`.
    pub authority: Option<Host<'a>>,
}

impl<'a> Target<'a> {
    /// Its path is in the normal form already.
    fn as_it_came(bytes: &'a [u8], path_len: usize, authority: Option<Host<'a>>) -> Target<'a> {
        Target {
            bytes,
            path_len,
            routed: bytes.get(..path_len).unwrap_or_default(),
            authority,
        }
    }

    /// The server as a whole.
    fn of_server(authority: Option<Host<'a>>) -> Target<'a> {
        Target {
            routed: b"/",
            ..Target::as_it_came(b"*", 1, authority)
        }
    }

    pub fn path(&self) -> &'a [u8] {
        self.bytes.get(..self.path_len).unwrap_or_default()
    }
}

/// Checks and resolves a target. The result borrows from `target`, or from `out`
/// where bytes had to change; otherwise `out` is left alone.
pub fn resolve<'a>(
    method: &[u8],
    target: &'a [u8],
    out: &'a mut Vec<u8>,
) -> Result<Target<'a>, Refusal> {
    // Names of methods have a case; nobody means another method by these.
    if method.eq_ignore_ascii_case(b"CONNECT") || method.eq_ignore_ascii_case(b"TRACE") {
        return Err(Refusal::new(405, 0, "CONNECT or TRACE"));
    }
    if let Some(path_len) = plain(target) {
        return Ok(Target::as_it_came(target, path_len, None));
    }
    check_percent(target)?;
    match target {
        [b'/', ..] => resolve_path(target, 0, None, out),
        b"*" if method == b"OPTIONS" => Ok(Target::of_server(None)),
        b"*" => Err(Refusal::new(400, 0, "the target * without OPTIONS")),
        _ => absolute(method, target, out),
    }
}

/// Whether two authorities name the same server; a missing port is `default_port`.
pub fn same_authority(a: &Host<'_>, b: &Host<'_>, default_port: u16) -> bool {
    a.port.unwrap_or(default_port) == b.port.unwrap_or(default_port)
        && host::without_dot(a.name).eq_ignore_ascii_case(host::without_dot(b.name))
}

/// RFC 9112 section 3.2.2, made an origin-form.
fn absolute<'a>(
    method: &[u8],
    target: &'a [u8],
    out: &'a mut Vec<u8>,
) -> Result<Target<'a>, Refusal> {
    let starts = |scheme: &[u8]| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    let start = if starts(b"http://") {
        7
    } else if starts(b"https://") {
        8
    } else {
        return Err(Refusal::new(
            400,
            0,
            "a target that is neither path nor http URI",
        ));
    };
    let behind = target.get(start..).unwrap_or_default();
    let len = behind
        .iter()
        .position(|b| matches!(b, b'/' | b'?'))
        .unwrap_or(behind.len());
    let (authority, rest) = behind.split_at_checked(len).unwrap_or_default();
    let authority = host::parse(authority).map_err(|what| Refusal::new(400, start, what))?;
    let authority = Some(authority);
    match rest {
        // RFC 9112 section 3.2.4.
        [] if method == b"OPTIONS" => Ok(Target::of_server(authority)),
        [] => Ok(Target::as_it_came(b"/", 1, authority)),
        [b'/', ..] => resolve_path(rest, start + len, authority, out),
        query => {
            out.clear();
            out.push(b'/');
            out.extend_from_slice(query);
            Ok(Target::as_it_came(out, 1, authority))
        }
    }
}

/// Length of the path of an origin-form that cannot need a change, as nearly all are:
/// no `%`, and neither dot nor slash behind a slash.
fn plain(target: &[u8]) -> Option<usize> {
    let mut path_len = target.len();
    let mut before = *target.first().filter(|b| **b == b'/')?;
    for (at, byte) in target.iter().enumerate() {
        match byte {
            b'%' => return None,
            b'.' | b'/' if before == b'/' => return None,
            b'?' => path_len = path_len.min(at),
            _ => {}
        }
        before = *byte;
    }
    Some(path_len)
}

/// Every `%` begins two hex digits, and none spells NUL.
fn check_percent(target: &[u8]) -> Result<(), Refusal> {
    let mut from = 0;
    while let Some(found) = target
        .get(from..)
        .and_then(|t| t.iter().position(|b| *b == b'%'))
    {
        let at = from + found;
        match target.get(at + 1..at + 3) {
            Some(b"00") => return Err(Refusal::new(400, at, "%00 in the target")),
            Some(hex) if hex.iter().all(u8::is_ascii_hexdigit) => from = at + 3,
            _ => return Err(Refusal::new(400, at, "a malformed %xx in the target")),
        }
    }
    Ok(())
}

/// Resolves the dot segments of the path of an origin-form; `offset` is where that
/// stands in the whole target. In `out` the normal form of the path follows it.
fn resolve_path<'a>(
    target: &'a [u8],
    offset: usize,
    authority: Option<Host<'a>>,
    out: &'a mut Vec<u8>,
) -> Result<Target<'a>, Refusal> {
    let path_len = target
        .iter()
        .position(|b| *b == b'?')
        .unwrap_or(target.len());
    let (path, query) = target.split_at_checked(path_len).unwrap_or_default();
    if !path::is_odd(path) && !segments(path).any(|segment| dots(segment) > 0) {
        return Ok(Target::as_it_came(target, path_len, authority));
    }
    out.clear();
    let mut last_is_dots = false;
    for segment in segments(path) {
        last_is_dots = true;
        match dots(segment) {
            0 => {
                last_is_dots = false;
                out.push(b'/');
                out.extend_from_slice(segment);
            }
            1 => {}
            _ => match out.iter().rposition(|b| *b == b'/') {
                Some(parent) => out.truncate(parent),
                None => return Err(Refusal::new(400, offset, "a path above its root")),
            },
        }
    }
    // RFC 3986 section 5.2.4: `/a/..` and `/a/.` are directories.
    if last_is_dots {
        out.push(b'/');
    }
    let path_len = out.len();
    out.extend_from_slice(query);
    let whole = out.len();
    let mut at = 0;
    while let Some(unit) = Unit::first(out.get(at..path_len).unwrap_or_default()) {
        out.extend_from_slice(unit.bytes());
        at += unit.spelt;
    }
    let (bytes, routed) = out.split_at_checked(whole).unwrap_or_default();
    Ok(Target {
        bytes,
        path_len,
        routed,
        authority,
    })
}

/// What stands behind each `/` of a path that begins with one.
fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|b| *b == b'/').skip(1)
}

/// 1 or 2 for a segment of so many dots, plain or percent-encoded; else 0.
fn dots(segment: &[u8]) -> usize {
    let mut rest = segment;
    let mut count = 0;
    while !rest.is_empty() && count < 3 {
        rest = match rest {
            [b'.', behind @ ..] | [b'%', b'2', b'e' | b'E', behind @ ..] => behind,
            _ => return 0,
        };
        count += 1;
    }
    if count < 3 {
        count
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Path, query and authority, or the status.
    fn resolved(method: &str, target: &str) -> Result<(String, String, Option<String>), u16> {
        let mut out = Vec::new();
        let target = resolve(method.as_bytes(), target.as_bytes(), &mut out);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        target.map_err(|refusal| refusal.status).map(|t| {
            let query = &t.bytes[t.path_len..];
            (
                text(t.path()),
                text(query),
                t.authority.map(|host| text(host.name)),
            )
        })
    }

    fn path(target: &str) -> Result<String, u16> {
        resolved("GET", target).map(|(path, query, _)| path + &query)
    }

    #[test]
    fn what_needs_no_change_is_borrowed() {
        for target in ["/", "/a/b?c/../d", "/a/b?u=http://c/%41", "/.a/..b/c."] {
            let mut out = vec![7];
            let t = resolve(b"GET", target.as_bytes(), &mut out).unwrap();
            assert!(std::ptr::eq(t.bytes, target.as_bytes()), "{target}");
            assert_eq!(out, [7]);
        }
    }

    #[test]
    fn dot_segments_are_resolved_in_the_path_only() {
        let rows = [
            ("/.", "/"),
            ("/./", "/"),
            ("/a/.", "/a/"),
            ("/a/..", "/"),
            ("/a/../", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/../c", "/a/c"),
            ("/a//../b", "/a/b"),
            ("/a/./b/../../c?/../d", "/c?/../d"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.%2e/b", "/b"),
            ("/a/%2E./b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/%2e", "/"),
            ("/.%2e.", "/.%2e."),
            ("/...", "/..."),
            ("/%2ea/%252e%252e", "/%2ea/%252e%252e"),
            ("/..a/.b", "/..a/.b"),
            ("/?..", "/?.."),
            ("/a/..?q", "/?q"),
        ];
        for (target, want) in rows {
            assert_eq!(path(target).as_deref(), Ok(want), "{target}");
        }
    }

    #[test]
    fn what_is_routed_has_one_spelling_and_what_goes_on_has_its_own() {
        let rows = [
            ("/a?%41//", "/a?%41//", "/a"),
            ("/%61dmin", "/%61dmin", "/admin"),
            ("//admin?q", "//admin?q", "/admin"),
            ("/a//b/", "/a//b/", "/a/b/"),
            ("/./%61dmin//x", "/%61dmin//x", "/admin/x"),
            ("/x/..//%2561%2f?%61", "//%2561%2f?%61", "/%2561%2F"),
            ("http://a//b/../%63?d", "//%63?d", "/c"),
            ("http://a", "/", "/"),
            ("http://a?b//", "/?b//", "/"),
        ];
        for (target, bytes, routed) in rows {
            let mut out = vec![7];
            let t = resolve(b"GET", target.as_bytes(), &mut out).unwrap();
            let got = (t.bytes, t.routed);
            assert_eq!(got, (bytes.as_bytes(), routed.as_bytes()), "{target}");
        }
        let star = resolve(b"OPTIONS", b"*", &mut Vec::new()).map(|t| t.routed.to_vec());
        assert_eq!(star, Ok(b"/".to_vec()));
    }

    #[test]
    fn bad_targets_are_refused() {
        let bad = [
            "/..",
            "/../",
            "/a/../..",
            "/a/../../b",
            "/%2e%2e",
            "/./..",
            "/a/.%2e/..%2f/../..",
            "*",
            "a",
            "example.com:80",
            "ftp://a/",
            "http:/a",
            "http://",
            "http:///a",
            "http://u@a/",
            "http://u:p@a/",
            "http://a:0/",
            "http://a:b/",
            "http://a%2e/",
            "http://a/..",
            "https://?",
            "/%",
            "/%0",
            "/%0g",
            "/%g0",
            "/a?%",
            "/a?b=%4",
            "/%00",
            "/a?%00",
            "?",
            "**",
            "*/",
            "http://a/%zz",
        ];
        for target in bad {
            assert_eq!(path(target), Err(400), "{target}");
        }
    }

    #[test]
    fn the_forms_of_a_target() {
        let rows = [
            ("GET", "http://A.b:80/c?d", "/c", "?d", "A.b"),
            ("GET", "HTTPS://a", "/", "", "a"),
            ("GET", "http://a?b", "/", "?b", "a"),
            ("GET", "http://a/b/../c?d", "/c", "?d", "a"),
            ("OPTIONS", "http://[::1]:8080", "*", "", "[::1]"),
            ("OPTIONS", "http://a?b", "/", "?b", "a"),
            ("OPTIONS", "http://a/", "/", "", "a"),
        ];
        for (method, target, path, query, name) in rows {
            let want = (path.into(), query.into(), Some(name.into()));
            assert_eq!(resolved(method, target), Ok(want), "{target}");
        }
        assert_eq!(
            resolved("OPTIONS", "*"),
            Ok(("*".into(), String::new(), None))
        );
        assert_eq!(resolved("options", "*"), Err(400));
    }

    #[test]
    fn connect_and_trace_are_not_served() {
        for method in ["CONNECT", "TRACE", "connect", "Trace"] {
            assert_eq!(resolved(method, "/"), Err(405));
            assert_eq!(resolved(method, "a:443"), Err(405));
        }
        assert!(resolved("CONNECTS", "/").is_ok());
    }

    #[test]
    fn authorities_agree_apart_from_case_dot_and_default_port() {
        let same = |a: &str, b: &str| {
            let host = |text| host::parse(text).unwrap();
            same_authority(&host(a.as_bytes()), &host(b.as_bytes()), 80)
        };
        assert!(same("a", "A:80") && same("a.:80", "a") && same("a:81", "a:81"));
        assert!(!same("a", "b") && !same("a", "a:81") && !same("a:443", "a") && !same("a", "a.a"));
    }
}
