//! The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): who the client of a connection
//! is, said by who forwards it, before anything else. Pure.
//!
//! Read as a stranger's: lengths and the checksum are looked at, of what is behind the addresses (TLVs)
//! nothing is believed. Written as short as it can be.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::PROXY_HEADER_BYTES_MAX;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const WORD: &[u8; 6] = b"PROXY ";
/// Longest header of version 1 with its CRLF.
const LINE_BYTES_MAX: usize = 107;
/// Signature, command, family, length.
const FIXED: usize = 16;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
const UNIX: u8 = 0x31;

const TLV_ALPN: u8 = 0x01;
const TLV_AUTHORITY: u8 = 0x02;
const TLV_CRC32C: u8 = 0x03;
const TLV_SSL: u8 = 0x20;
const TLV_SSL_VERSION: u8 = 0x21;
/// The client speaks TLS; it has shown a certificate, on this connection.
const CLIENT_SSL: u8 = 0x01;
const CLIENT_CERT: u8 = 0x06;

/// Both ends of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// All of these bytes belong to it, and it is not whole.
    Part,
    /// So many belong to it. `None`: it speaks for itself, or for a client without an address.
    Whole { len: usize, ends: Option<Ends> },
}

/// What the first bytes of a connection are. An error is why they are no header.
pub fn read(bytes: &[u8]) -> Result<Header, &'static str> {
    let begins = |with: &[u8]| with.iter().zip(bytes).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        return read_binary(bytes);
    }
    if begins(WORD) {
        return read_line(bytes);
    }
    Err("it does not begin like one")
}

fn read_line(bytes: &[u8]) -> Result<Header, &'static str> {
    let seen = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = seen.windows(2).position(|two| two == b"\r\n") else {
        return match seen.len() < LINE_BYTES_MAX {
            true => Ok(Header::Part),
            false => Err("version 1: it has no end"),
        };
    };
    let wrong = "version 1: it is not PROXY, a family, two addresses and two ports";
    let line = std::str::from_utf8(&seen[WORD.len()..end]).map_err(|_| wrong)?;
    let len = end + 2;
    let mut words = line.split(' ');
    let family = words.next().unwrap_or_default();
    if family == "UNKNOWN" {
        return Ok(Header::Whole { len, ends: None });
    }
    let mut next = || words.next().ok_or(wrong);
    let (from, to) = (next()?, next()?);
    let (from_port, to_port) = (next()?, next()?);
    if words.next().is_some() {
        return Err(wrong);
    }
    let ends = Ends {
        source: SocketAddr::new(
            ip(family, from).ok_or(wrong)?,
            port(from_port).ok_or(wrong)?,
        ),
        destination: SocketAddr::new(ip(family, to).ok_or(wrong)?, port(to_port).ok_or(wrong)?),
    };
    Ok(Header::Whole {
        len,
        ends: Some(ends),
    })
}

fn ip(family: &str, text: &str) -> Option<IpAddr> {
    match family {
        "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
        _ => None,
    }
}

/// Decimal, without a sign or a leading zero.
fn port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (text.len() == 1 || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn read_binary(bytes: &[u8]) -> Result<Header, &'static str> {
    let Some(fixed) = bytes.get(..FIXED) else {
        return Ok(Header::Part);
    };
    let (command, family) = (fixed[12], fixed[13]);
    let len = FIXED + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if command != LOCAL && command != PROXY {
        return Err("version 2: this command is not known");
    }
    if len > PROXY_HEADER_BYTES_MAX {
        return Err("version 2: it is too long");
    }
    let Some(body) = bytes.get(FIXED..len) else {
        return Ok(Header::Part);
    };
    let addresses = match family {
        UNSPECIFIED => 0,
        TCP4 => 12,
        TCP6 => 36,
        UNIX => 216,
        _ => return Err("version 2: this family of addresses is not known"),
    };
    if command == PROXY && body.len() < addresses {
        return Err("version 2: its addresses are cut");
    }
    // Of a LOCAL one nothing behind the length counts.
    let local = command == LOCAL;
    if !local && family != UNSPECIFIED {
        check_tlvs(&bytes[..len], FIXED + addresses)?;
    }
    let ends = match family {
        _ if local => None,
        TCP4 => Some(ends_of::<4>(body)),
        TCP6 => Some(ends_of::<16>(body)),
        _ => None,
    };
    Ok(Header::Whole { len, ends })
}

/// Two addresses of so many bytes, then two ports; there are as many bytes.
fn ends_of<const N: usize>(body: &[u8]) -> Ends
where
    IpAddr: From<[u8; N]>,
{
    let address = |at: usize| {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&body[at..at + N]);
        IpAddr::from(bytes)
    };
    let port = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    Ends {
        source: SocketAddr::new(address(0), port(2 * N)),
        destination: SocketAddr::new(address(N), port(2 * N + 2)),
    }
}

/// Each has its length; a checksum is right.
fn check_tlvs(header: &[u8], from: usize) -> Result<(), &'static str> {
    let mut at = from;
    while at < header.len() {
        let cut = "version 2: a TLV is cut";
        let head = header.get(at..at + 3).ok_or(cut)?;
        let len = usize::from(u16::from_be_bytes([head[1], head[2]]));
        let value = header.get(at + 3..at + 3 + len).ok_or(cut)?;
        if head[0] == TLV_CRC32C {
            let told = <[u8; 4]>::try_from(value).map_err(|_| cut)?;
            let own = crc32c(&header[..at + 3], &header[at + 7..]);
            if own != u32::from_be_bytes(told) {
                return Err("version 2: its checksum is wrong");
            }
        }
        at += 3 + len;
    }
    Ok(())
}

/// CRC-32C (RFC 9260, appendix A) of bytes with four zeroes between.
fn crc32c(before: &[u8], behind: &[u8]) -> u32 {
    let bytes = before.iter().chain(&[0; 4]).chain(behind);
    !bytes.fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg())
        })
    })
}

/// How a header is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

impl Version {
    pub const ALL: [Version; 2] = [Version::V1, Version::V2];

    pub fn name(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V2 => "v2",
        }
    }
}

/// What is told of a client that speaks TLS, in version 2.
#[derive(Clone, Copy, Debug)]
pub struct Tls<'a> {
    /// `None`: it does so with the backend, and nobody here has seen more than the name.
    pub version: Option<&'a str>,
    /// The name that it asked for.
    pub authority: Option<&'a [u8]>,
    pub alpn: Option<&'a [u8]>,
    /// It has shown a certificate, which was good.
    pub proven: bool,
}

pub fn write(version: Version, ends: Ends, tls: Option<Tls>) -> Vec<u8> {
    let ends = ends.of_one_family();
    match version {
        Version::V1 => {
            let family = if ends.source.is_ipv4() { 4 } else { 6 };
            let (from, to) = (ends.source, ends.destination);
            let (from_ip, to_ip) = (from.ip(), to.ip());
            let (from_port, to_port) = (from.port(), to.port());
            format!("PROXY TCP{family} {from_ip} {to_ip} {from_port} {to_port}\r\n").into_bytes()
        }
        Version::V2 => write_binary(ends, tls),
    }
}

/// What a connection begins with that speaks for no client (LOCAL, UNKNOWN).
pub fn write_local(version: Version) -> Vec<u8> {
    match version {
        Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        Version::V2 => [SIGNATURE.as_slice(), &[LOCAL, UNSPECIFIED, 0, 0]].concat(),
    }
}

impl Ends {
    /// Both of version 6, unless both are of version 4.
    fn of_one_family(self) -> Ends {
        let plain =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (source, destination) = (plain(self.source), plain(self.destination));
        let wide = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        match source.is_ipv4() == destination.is_ipv4() {
            true => Ends {
                source,
                destination,
            },
            false => Ends {
                source: wide(source),
                destination: wide(destination),
            },
        }
    }
}

fn write_binary(ends: Ends, tls: Option<Tls>) -> Vec<u8> {
    let mut body = Vec::new();
    let ips = [ends.source.ip(), ends.destination.ip()];
    for ip in ips {
        match ip {
            IpAddr::V4(ip) => body.extend(ip.octets()),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    for port in [ends.source.port(), ends.destination.port()] {
        body.extend(port.to_be_bytes());
    }
    if let Some(tls) = tls {
        tlv(&mut body, TLV_ALPN, tls.alpn);
        tlv(&mut body, TLV_AUTHORITY, tls.authority);
        if let Some(version) = tls.version {
            let flags = if tls.proven {
                CLIENT_SSL | CLIENT_CERT
            } else {
                CLIENT_SSL
            };
            let mut ssl = vec![flags];
            ssl.extend(u32::from(!tls.proven).to_be_bytes());
            tlv(&mut ssl, TLV_SSL_VERSION, Some(version.as_bytes()));
            tlv(&mut body, TLV_SSL, Some(&ssl));
        }
    }
    let family = if ends.source.is_ipv4() { TCP4 } else { TCP6 };
    let len = (body.len() as u16).to_be_bytes();
    [SIGNATURE.as_slice(), &[PROXY, family], &len, &body].concat()
}

/// Names and protocols have 255 bytes at most.
fn tlv(out: &mut Vec<u8>, kind: u8, value: Option<&[u8]>) {
    if let Some(value) = value {
        out.push(kind);
        out.extend((value.len() as u16).to_be_bytes());
        out.extend(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
        }
    }

    /// It is a part of itself as long as anything is missing, and what follows is not touched.
    #[track_caller]
    fn whole(bytes: &[u8], expected: Option<Ends>) {
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len]), Ok(Header::Part), "{len} bytes");
        }
        let len = bytes.len();
        let header = Header::Whole {
            len,
            ends: expected,
        };
        assert_eq!(read(bytes), Ok(header));
        assert_eq!(read(&[bytes, b"GET / \r\n"].concat()), Ok(header));
    }

    #[test]
    fn lines() {
        let four = ends("192.0.2.7:1234", "198.51.100.1:443");
        whole(
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 443\r\n",
            Some(four),
        );
        let six = ends("[2001:db8::1]:65535", "[::1]:0");
        whole(b"PROXY TCP6 2001:db8::1 ::1 65535 0\r\n", Some(six));
        whole(b"PROXY UNKNOWN\r\n", None);
        whole(b"PROXY UNKNOWN ffff::1 ::1 what ever\r\n", None);
        for wrong in [
            "PROXY TCP4 192.0.2.7 198.51.100.1 1234\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1234 443 1\r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 1234 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01234 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1234 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 192.0.2.7 ::1 1 2\r\n",
            "PROXY UDP4 192.0.2.7 192.0.2.7 1 2\r\n",
            "PROXY \u{e9}\r\n",
            "proxy TCP4 192.0.2.7 198.51.100.1 1234 443\r\n",
            "GET / HTTP/1.1\r\n",
            "",
        ] {
            let read = read(wrong.as_bytes());
            assert_eq!(read.is_err(), !wrong.is_empty(), "{wrong:?}: {read:?}");
        }
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(read(&endless[..106]), Ok(Header::Part));
        assert!(read(&endless[..107]).is_err());
    }

    #[test]
    fn binary_ones() {
        let four = ends("192.0.2.7:1234", "198.51.100.1:443");
        whole(&write(Version::V2, four, None), Some(four));
        let six = ends("[2001:db8::1]:65535", "[::1]:0");
        let tls = Tls {
            version: Some("TLSv1.3"),
            authority: Some(b"example.com"),
            alpn: Some(b"http/1.1"),
            proven: false,
        };
        whole(&write(Version::V2, six, Some(tls)), Some(six));
        let local = [SIGNATURE.as_slice(), &[LOCAL, TCP4, 0, 3], b"abc"].concat();
        whole(&local, None);
        let unspecified = [SIGNATURE.as_slice(), &[PROXY, 0, 0, 2], b"ab"].concat();
        whole(&unspecified, None);
        let unix = [SIGNATURE.as_slice(), &[PROXY, UNIX, 0, 216], &[7; 216]].concat();
        whole(&unix, None);
        for (command, family, body) in [
            (0x22, TCP4, 12),
            (0x11, TCP4, 12),
            (PROXY, 0x12, 12),
            (PROXY, 0x41, 12),
            (PROXY, TCP4, 11),
            (PROXY, TCP6, 35),
            (PROXY, UNIX, 215),
            // A TLV without a length.
            (PROXY, TCP4, 14),
        ] {
            let head = [SIGNATURE.as_slice(), &[command, family, 0, body]].concat();
            let wrong = [head, vec![0; usize::from(body)]].concat();
            assert!(read(&wrong).is_err(), "{command:x} {family:x} {body}");
        }
        let long = [SIGNATURE.as_slice(), &[PROXY, TCP4, 0xff, 0xff]].concat();
        assert!(read(&long).is_err());
    }

    #[test]
    fn a_checksum_is_looked_at() {
        // RFC 7143, appendix B.4.
        assert_eq!(crc32c(&[0; 14], &[0; 14]), 0x8a91_36aa);
        let four = ends("192.0.2.7:1234", "198.51.100.1:443");
        let mut header = write(Version::V2, four, None);
        header[15] += 7;
        header.extend([TLV_CRC32C, 0, 4]);
        let sum = crc32c(&header, b"");
        let mut good = header.clone();
        good.extend(sum.to_be_bytes());
        whole(&good, Some(four));
        let kind = good.len() - 7;
        for at in (16..good.len()).filter(|at| *at != kind) {
            let mut bad = good.clone();
            bad[at] ^= 4;
            assert!(read(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn both_ends_are_of_one_family() {
        let mixed = ends("192.0.2.7:1234", "[::1]:443");
        let line = write(Version::V1, mixed, None);
        let line = String::from_utf8(line).expect("text");
        assert_eq!(line, "PROXY TCP6 ::ffff:192.0.2.7 ::1 1234 443\r\n");
        let mapped = ends("[::ffff:192.0.2.7]:1234", "[::ffff:10.0.0.1]:443");
        let line = write(Version::V1, mapped, None);
        assert_eq!(line, b"PROXY TCP4 192.0.2.7 10.0.0.1 1234 443\r\n");
    }

    #[test]
    fn nothing_makes_it_panic() {
        let mut random = Random::new(7);
        let good = write(Version::V2, ends("192.0.2.7:1", "192.0.2.8:2"), None);
        for _ in 0..20_000 {
            let mut bytes = good.clone();
            let more = random.below(40);
            bytes.extend((0..more).map(|_| random.below(256) as u8));
            for _ in 0..random.below(4) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.below(256) as u8;
            }
            if let Ok(Header::Whole { len, .. }) = read(&bytes) {
                assert!(len <= bytes.len());
            }
        }
    }
}
