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
fn check_name(name: &[u8]) -> Result<(), &'static str> {
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
