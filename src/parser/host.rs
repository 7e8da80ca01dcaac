//! The value of `Host`, and the authority of a target: `host [ ":" port ]`.
//!
//! Owns its syntax (RFC 9110 section 7.2, RFC 3986 section 3.2), stricter than
//! the RFC: no userinfo, no percent-encoding, no empty port. Never routes.
//! Called by `http` for `Host` and by `target` for the absolute form.

use std::net::Ipv6Addr;

use crate::limits::HOSTNAME_BYTES_MAX;

/// Longest label of a hostname, in bytes (RFC 1035 section 2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// A checked authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host<'a> {
    /// As it came. An IPv6 address has its brackets; a name may end with one dot.
    pub name: &'a [u8],
    /// Never 0.
    pub port: Option<u16>,
}

/// Checks an authority; an error says in a few words what is wrong.
pub fn parse(value: &[u8]) -> Result<Host<'_>, &'static str> {
    let name_len = match value {
        [] => return Err("an empty host"),
        [b'[', ..] => {
            value
                .iter()
                .position(|b| *b == b']')
                .ok_or("an unclosed bracket in a host")?
                + 1
        }
        _ => value.iter().position(|b| *b == b':').unwrap_or(value.len()),
    };
    let (name, rest) = value.split_at_checked(name_len).ok_or("an empty host")?;
    match name {
        [b'[', address @ .., b']'] => check_ipv6(address)?,
        _ => check_name(name)?,
    }
    let port = match rest {
        [] => None,
        [b':', digits @ ..] => Some(port(digits)?),
        _ => return Err("bytes behind the bracket of a host"),
    };
    Ok(Host { name, port })
}

fn check_ipv6(address: &[u8]) -> Result<(), &'static str> {
    let text = std::str::from_utf8(address).map_err(|_| "a host that is no IPv6 address")?;
    text.parse::<Ipv6Addr>()
        .map_err(|_| "a host that is no IPv6 address")?;
    Ok(())
}

/// A registered name or an IPv4 address: both are labels with dots between.
pub(super) fn check_name(name: &[u8]) -> Result<(), &'static str> {
    let name = name.strip_suffix(b".").unwrap_or(name);
    if name.is_empty() {
        return Err("an empty host");
    }
    if name.len() > HOSTNAME_BYTES_MAX {
        return Err("a host that is too long");
    }
    let mut label = 0;
    for byte in name {
        match byte {
            b'.' if label == 0 => return Err("an empty label in a host"),
            b'.' => label = 0,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => label += 1,
            b',' => return Err("a list of hosts"),
            b'@' => return Err("userinfo in a host"),
            _ => return Err("a bad character in a host"),
        }
        if label > LABEL_BYTES_MAX {
            return Err("a label of a host that is too long");
        }
    }
    if label == 0 {
        return Err("an empty label in a host");
    }
    Ok(())
}

fn port(digits: &[u8]) -> Result<u16, &'static str> {
    if digits.is_empty() {
        return Err("an empty port");
    }
    let mut port: u16 = 0;
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => u16::from(digit - b'0'),
            b'@' => return Err("userinfo in a host"),
            _ => return Err("a port that is no number"),
        };
        port = port
            .checked_mul(10)
            .and_then(|p| p.checked_add(value))
            .ok_or("a port over 65535")?;
    }
    if port == 0 {
        return Err("port 0");
    }
    Ok(port)
}

/// The name as routes spell it: in lower case, without a dot at its end. `name` is one
/// that `parse` has checked; one that is too long for that gives an empty slice.
pub fn normalize<'b>(name: &[u8], out: &'b mut [u8; 256]) -> &'b [u8] {
    let name = without_dot(name);
    let Some(out) = out.get_mut(..name.len()) else {
        return &[];
    };
    out.copy_from_slice(name);
    out.make_ascii_lowercase();
    out
}

pub(super) fn without_dot(name: &[u8]) -> &[u8] {
    name.strip_suffix(b".").unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_with_and_without_a_port() {
        let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        let good = [
            ("a", "a", None),
            ("Example.COM", "Example.COM", None),
            ("example.com.", "example.com.", None),
            ("a_b-c.d:80", "a_b-c.d", Some(80)),
            ("127.0.0.1:65535", "127.0.0.1", Some(65535)),
            ("[::1]", "[::1]", None),
            ("[::ffff:1.2.3.4]:0443", "[::ffff:1.2.3.4]", Some(443)),
            (&long, &long, None),
        ];
        for (value, name, port) in good {
            assert_eq!(
                parse(value.as_bytes()),
                Ok(Host {
                    name: name.as_bytes(),
                    port
                })
            );
        }
    }

    #[test]
    fn bad_hosts_are_refused() {
        let label = "a".repeat(64);
        let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(62));
        let bad = [
            "",
            ".",
            "..",
            ".a",
            "a..b",
            "a..",
            ":",
            ":80",
            "a:",
            "a:0",
            "a:00",
            "a:65536",
            "a:99999999999",
            "a:8o",
            "a:-1",
            "a: 80",
            "a:80:80",
            "a,b",
            "a, b",
            "u@a",
            "u:p@a",
            "u:1@a",
            "a b",
            " a",
            "a\t",
            "a/b",
            "a?b",
            "a#b",
            "a%2eb",
            "a\\b",
            "\u{e9}",
            "a\0",
            "[::1",
            "[]",
            "[::1]a",
            "[::1]:",
            "[::1]:0",
            "[1.2.3.4]",
            "[v1.a]",
            "[fe80::1%25lo]",
            "[fe80::1%lo]",
            "[::1]]",
            "::1",
            "]",
            "a[",
            &label,
            &long,
        ];
        for value in bad {
            assert!(parse(value.as_bytes()).is_err(), "{value:?}");
        }
    }

    #[test]
    fn a_name_is_normalized() {
        let mut out = [0; 256];
        assert_eq!(normalize(b"Example.COM.", &mut out), b"example.com");
        assert_eq!(normalize(b"[FE80::A]", &mut out), b"[fe80::a]");
        assert_eq!(normalize(&[b'A'; 256], &mut out), [b'a'; 256]);
        assert_eq!(normalize(&[b'A'; 257], &mut out), b"");
    }
}
