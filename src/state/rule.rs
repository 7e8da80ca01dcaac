//! The rules of a frontend and the ranges of a listener, from text and to text.
//!
//! Owns: what a hostname, a path and a range of addresses look like. Called by
//! `config` for both languages; what `parse` gives, `Display` writes back.

use super::*;
use crate::limits::{HOSTNAME_BYTES_MAX, NAME_BYTES_MAX, REQUEST_LINE_BYTES_MAX};
use std::net::IpAddr;

impl HostRule {
    /// `www.example.com`, `*.example.com` or `*`, in any case.
    pub fn parse(text: &str) -> Result<HostRule, String> {
        if text == "*" {
            return Ok(HostRule::Any);
        }
        if text.len() > HOSTNAME_BYTES_MAX {
            return Err(format!("a hostname has at most {HOSTNAME_BYTES_MAX} bytes"));
        }
        let name = text.strip_prefix("*.").unwrap_or(text);
        check_hostname(name)?;
        let lower = name.to_ascii_lowercase().into();
        if name.len() < text.len() {
            return Ok(HostRule::Suffix(lower));
        }
        Ok(HostRule::Exact(lower))
    }
}

fn check_hostname(name: &str) -> Result<(), String> {
    if name.contains(':') {
        return Err("a hostname has no port: the listener has it".into());
    }
    if name.contains('*') {
        return Err("\"*\" stands only for the whole hostname or its first label".into());
    }
    if !name.is_ascii() {
        return Err("a hostname is ASCII: write it as xn--…".into());
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Err("each label of a hostname has 1 to 63 characters".into());
        }
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !label.bytes().all(known) {
            return Err("a hostname consists of letters, digits, \"-\", \"_\" and \".\"".into());
        }
    }
    Ok(())
}

/// A path as requests have it once it is routed: absolute, without dot segments.
pub fn check_path(path: &str) -> Result<(), String> {
    if path.len() > REQUEST_LINE_BYTES_MAX {
        return Err(format!("a path has at most {REQUEST_LINE_BYTES_MAX} bytes"));
    }
    if !path.starts_with('/') {
        return Err("a path starts with \"/\"".into());
    }
    if path.contains(['?', '#']) {
        return Err("a path has no \"?\" and no \"#\"".into());
    }
    if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("a path is ASCII without spaces: write other bytes as %xx".into());
    }
    for rest in path.split('%').skip(1) {
        let mut digits = rest.bytes().take(2).filter(u8::is_ascii_hexdigit);
        if digits.nth(1).is_none() {
            return Err("\"%\" in a path is followed by two hexadecimal digits".into());
        }
        if rest.starts_with("00") {
            return Err("a path has no %00".into());
        }
    }
    let plain = path.to_ascii_lowercase().replace("%2e", ".");
    if plain.split('/').any(|part| part == "." || part == "..") {
        return Err("a path has no \".\" or \"..\" segment: no request would match it".into());
    }
    Ok(())
}

impl Listener {
    /// Whether what this client says about its own client is believed.
    pub fn trusts(&self, client: IpAddr) -> bool {
        is_within(client, &self.trusted_proxies)
    }

    /// Whether who connects from there begins with a header of the PROXY protocol.
    pub fn expects_proxy(&self, from: IpAddr) -> bool {
        let sources = &self.proxy_sources;
        self.expect_proxy && (sources.is_empty() || is_within(from, sources))
    }

    /// What is revoked of the certificates of its clients, if it is told.
    pub fn crls(&self) -> Option<&Crls> {
        self.tls.as_ref()?.client.as_ref()?.crl.as_ref()
    }
}

impl PathRule {
    pub fn path(&self) -> &str {
        match self {
            PathRule::Prefix(path) | PathRule::Exact(path) => path,
        }
    }

    /// The word of the key `path_type`.
    pub fn kind(&self) -> &'static str {
        match self {
            PathRule::Prefix(_) => "prefix",
            PathRule::Exact(_) => "exact",
        }
    }
}

impl Part {
    /// `source`, `path`, `header:NAME` or `cookie:NAME`.
    pub fn parse(text: &str) -> Result<Part, String> {
        let wrong = || format!("{text:?} is not source, path, header:NAME or cookie:NAME");
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let named = !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.bytes().all(token);
        match (kind, named) {
            ("source", false) if kind == text => Ok(Part::Source),
            ("path", false) if kind == text => Ok(Part::Path),
            ("header", true) => Ok(Part::Header(name.into())),
            ("cookie", true) => Ok(Part::Cookie(name.into())),
            _ => Err(wrong()),
        }
    }
}

impl Balancing {
    pub fn by(policy: LoadBalancing) -> Balancing {
        Balancing {
            policy,
            hash_on: Part::Source,
            sticky: false,
            slow_start: 0,
            max_queue: 1024,
            queue_timeout: 5,
        }
    }
}

impl Backend {
    /// What the cookie of a sticky session calls it.
    pub fn sticky_name(&self) -> &str {
        self.sticky_id.as_deref().unwrap_or(&self.id)
    }
}

impl FrontendId {
    /// Whether nothing but the listener matters.
    pub fn takes_all(&self) -> bool {
        self.hostname == HostRule::Any && self.takes_host()
    }

    /// Whether it takes all that its hostname is asked for.
    pub fn takes_host(&self) -> bool {
        let any_path = matches!(&self.path, PathRule::Prefix(path) if **path == *"/");
        any_path && self.method.is_none()
    }
}

/// Whether one of the ranges has it, IPv4 in either spelling.
pub fn is_within(address: IpAddr, ranges: &[Cidr]) -> bool {
    let address = address.to_canonical();
    ranges.iter().any(|range| range.contains(address))
}

impl Cidr {
    /// `10.0.0.0/8`, or one address. Bits behind the prefix must be zero: one range, one spelling.
    pub fn parse(text: &str) -> Result<Cidr, String> {
        let wrong = || format!("{text:?} is not a range of addresses like 10.0.0.0/8 or ::1");
        let (address, digits) = match text.split_once('/') {
            Some((address, digits)) => (address, Some(digits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let (bits, width) = match address {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let prefix = match digits {
            Some(digits) if digits.starts_with('+') => return Err(wrong()),
            Some(digits) => digits.parse().map_err(|_| wrong())?,
            None => width,
        };
        if prefix > width {
            return Err(wrong());
        }
        if bits.checked_shl(u32::from(prefix)).unwrap_or(0) != 0 {
            return Err(format!("{text:?} has bits set behind its prefix"));
        }
        Ok(Cidr { address, prefix })
    }

    /// A socket for both families gives IPv4 clients as `::ffff:10.0.0.1`: they are in 10.0.0.0/8.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = match self.address {
            IpAddr::V4(_) => address.to_canonical(),
            IpAddr::V6(_) => address,
        };
        let (own, other, width) = match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                (own.to_bits().into(), other.to_bits().into(), 32)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => (own.to_bits(), other.to_bits(), 128),
            _ => return false,
        };
        let differing: u128 = own ^ other;
        let behind = u32::from(width - self.prefix.min(width));
        differing.checked_shr(behind).unwrap_or(0) == 0
    }
}

impl fmt::Display for HostRule {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            HostRule::Exact(name) => out.write_str(name),
            HostRule::Suffix(name) => write!(out, "*.{name}"),
            HostRule::Any => out.write_str("*"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Part::Source => out.write_str("source"),
            Part::Path => out.write_str("path"),
            Part::Header(name) => write!(out, "header:{name}"),
            Part::Cookie(name) => write!(out, "cookie:{name}"),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

/// As an operator would point at it.
impl fmt::Display for FrontendId {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let (listener, hostname) = (self.listener, &self.hostname);
        let (kind, path) = (self.path.kind(), self.path.path());
        write!(out, "frontend {hostname} {path} ({kind}) on {listener}")?;
        match &self.method {
            Some(method) => write!(out, " for {method}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames() {
        for (text, written) in [
            ("WWW.Example.com", "www.example.com"),
            ("*.Example.com", "*.example.com"),
            ("*", "*"),
            ("a_b.x", "a_b.x"),
            ("127.0.0.1", "127.0.0.1"),
        ] {
            let rule = HostRule::parse(text).expect(text);
            assert_eq!(rule.to_string(), written);
            assert_eq!(HostRule::parse(written), Ok(rule));
        }
        let long = "a".repeat(64);
        for text in [
            "", ".", "a.", ".a", "a..b", "*.", "**", "a.*", "*a.b", "*.*.b", "a:80", "a b", "é",
            &long,
        ] {
            assert!(HostRule::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths() {
        for path in ["/", "/a/b", "/a/", "/%41", "/..a", "/a//b"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
        for path in [
            "", "a", "/a?b", "/a#b", "/a b", "/é", "/%4", "/%zz", "/%00", "/.", "/a/../b",
            "/%2E%2e/", "/.%2e",
        ] {
            assert!(check_path(path).is_err(), "{path}");
        }
    }

    #[test]
    fn parts_of_requests() {
        for text in ["source", "path", "header:X-User", "cookie:sid"] {
            assert_eq!(Part::parse(text).expect(text).to_string(), text);
        }
        for text in [
            "",
            "Source",
            "source:",
            "path:x",
            "header",
            "header:",
            "cookie:a b",
            "x:y",
        ] {
            assert!(Part::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ranges() {
        for (text, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("0.0.0.0/0", "1.2.3.4", "::1"),
            ("::/0", "::1", "1.2.3.4"),
            ("::1/128", "::1", "::2"),
            ("192.168.1.1/32", "192.168.1.1", "192.168.1.0"),
        ] {
            let range = Cidr::parse(text).expect(text);
            assert_eq!(range.to_string(), text);
            assert!(range.contains(inside.parse().unwrap()), "{text}");
            assert!(!range.contains(outside.parse().unwrap()), "{text}");
        }
        assert_eq!(Cidr::parse("::1"), Cidr::parse("::1/128"));
        for text in [
            "",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "a/8",
            "::1/",
            "::/129",
            "::/+1",
            "1/2/3",
        ] {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
    }
}
