//! One cookie among those of a request (RFC 6265 section 4.2): found, and left out.

use crate::http::fields::Head;
use crate::parser::http11::Name;

fn pairs(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let pairs = value
        .split(|byte| *byte == b';')
        .map(|pair| pair.trim_ascii());
    pairs.filter(|pair| !pair.is_empty())
}

/// The value of a pair with that name; neither quotes around it nor space around the equals sign are part of
/// it: some backends read it so.
fn value_of<'p>(pair: &'p [u8], name: &[u8]) -> Option<&'p [u8]> {
    let rest = pair.strip_prefix(name)?.trim_ascii_start();
    let value = rest.strip_prefix(b"=")?.trim_ascii_start();
    let bare = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    Some(bare.unwrap_or(value))
}

/// The value of the first cookie with that name.
pub fn find<'b>(head: Head<'b>, name: &[u8]) -> Option<&'b [u8]> {
    let mut pairs = head.all(Name::Cookie).flat_map(pairs);
    pairs.find_map(|pair| value_of(pair, name))
}

/// Writes a Cookie field without the cookies of that name; nothing if none is left.
pub fn put_without(field: &[u8], value: &[u8], name: &[u8], out: &mut Vec<u8>) {
    let others = pairs(value).filter(|pair| value_of(pair, name).is_none());
    let mut before: [&[u8]; 2] = [field, b": "];
    let mut any = false;
    for pair in others {
        before.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(pair);
        before = [b"; ", b""];
        any = true;
    }
    if any {
        out.extend_from_slice(b"\r\n");
    }
}

/// Whether a Set-Cookie field is about the cookie of that name (RFC 6265 section 5.2).
pub fn sets(value: &[u8], name: &[u8]) -> bool {
    let pair = value.split(|byte| *byte == b';').next();
    pair.is_some_and(|pair| value_of(pair.trim_ascii(), name).is_some())
}

/// The field line that gives a client a cookie for as long as its browser is open.
pub fn put_set_cookie(name: &str, value: &str, secure: bool, out: &mut Vec<u8>) {
    for part in [
        "Set-Cookie: ",
        name,
        "=",
        value,
        "; Path=/; HttpOnly; SameSite=Lax",
    ] {
        out.extend_from_slice(part.as_bytes());
    }
    if secure {
        out.extend_from_slice(b"; Secure");
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_found_and_the_others_go_on() {
        for (value, found, rest) in [
            ("S=a", Some("a"), ""),
            ("S=\"a\"", Some("a"), ""),
            ("x=1; S=a; y=2", Some("a"), "Cookie: x=1; y=2\r\n"),
            ("x=1;S=a;y=2", Some("a"), "Cookie: x=1; y=2\r\n"),
            ("S=a; S=b; x", Some("a"), "Cookie: x\r\n"),
            ("SS=1; s=2; xS=3", None, "Cookie: SS=1; s=2; xS=3\r\n"),
            ("S; S\t= 1", Some("1"), "Cookie: S\r\n"),
            ("S=", Some(""), ""),
            (" ; ;", None, ""),
        ] {
            let got = pairs(value.as_bytes()).find_map(|pair| value_of(pair, b"S"));
            assert_eq!(got, found.map(str::as_bytes), "{value}");
            let mut out = Vec::new();
            put_without(b"Cookie", value.as_bytes(), b"S", &mut out);
            assert_eq!(out, rest.as_bytes(), "{value}");
        }
    }

    #[test]
    fn what_a_backend_would_set() {
        for (value, ours) in [
            ("S=a", true),
            (" S = a; Path=/x; Max-Age=0", true),
            ("S=", true),
            ("SS=a", false),
            ("s=a", false),
            ("a=b; S=c", false),
            ("S", false),
            ("", false),
        ] {
            assert_eq!(sets(value.as_bytes(), b"S"), ours, "{value}");
        }
    }

    #[test]
    fn a_cookie_is_given_for_http_alone() {
        let mut out = Vec::new();
        put_set_cookie("S", "a", false, &mut out);
        put_set_cookie("S", "b", true, &mut out);
        let expected = "Set-Cookie: S=a; Path=/; HttpOnly; SameSite=Lax\r\n\
                        Set-Cookie: S=b; Path=/; HttpOnly; SameSite=Lax; Secure\r\n";
        assert_eq!(out, expected.as_bytes());
    }
}
