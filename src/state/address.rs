//! Where a backend is, from text and to text.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::str::FromStr;

use super::HostRule;
use crate::limits::UNIX_PATH_BYTES_MAX;

/// Before the path of a unix socket.
const UNIX: &str = "unix:";

/// Where a backend listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// `10.0.0.1:8080`, `[::1]:8080`
    Inet(SocketAddr),
    /// `unix:/run/app.sock`; kept as its path.
    Unix(Rc<str>),
    /// `app.internal:8080`: whatever addresses the name has, on that port. Main asks for them; no worker sees it.
    Name { host: Rc<str>, port: u16 },
}

impl Address {
    pub fn name(&self) -> Option<&Rc<str>> {
        match self {
            Address::Name { host, .. } => Some(host),
            Address::Inet(_) | Address::Unix(_) => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Inet(address)
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix(UNIX) {
            return unix(path).map(|()| Address::Unix(path.into()));
        }
        let strange = || {
            format!("{text:?} is not an address like 127.0.0.1:8080, [::1]:8080, app.internal:8080 or unix:/run/app.sock")
        };
        let address = match text.parse() {
            Ok(address) => Address::Inet(address),
            Err(_) => named(text).ok_or_else(strange)?,
        };
        match address {
            Address::Inet(at) if at.port() == 0 => Err(no_port(text)),
            Address::Name { port: 0, .. } => Err(no_port(text)),
            address => Ok(address),
        }
    }
}

/// What the system would take for an old spelling of an IP address (inet_aton(3)) is no name: `127.1`, `0x7f.1`.
fn named(text: &str) -> Option<Address> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    // With a dot at its end a name is whole: no domain is put behind it (resolv.conf(5), search).
    let (bare, dot) = match host.strip_suffix('.') {
        Some(bare) => (bare, "."),
        None => (host, ""),
    };
    let HostRule::Exact(bare) = HostRule::parse(bare).ok()? else {
        return None;
    };
    let last = bare.rsplit('.').next()?;
    let is_number = last.starts_with(|first: char| first.is_ascii_digit());
    let host = Rc::from(format!("{bare}{dot}"));
    (!is_number).then_some(Address::Name { host, port })
}

fn unix(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err("the path of a unix socket starts with \"/\": unix:/run/app.sock".into());
    }
    if path.len() > UNIX_PATH_BYTES_MAX {
        let most = UNIX_PATH_BYTES_MAX;
        return Err(format!(
            "the path of a unix socket has at most {most} bytes"
        ));
    }
    // As names: it stands in lines of fields.
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    match path.bytes().all(plain) {
        true => Ok(()),
        false => {
            Err("the path of a unix socket is ASCII without spaces, quotes and backslashes".into())
        }
    }
}

pub fn no_port(text: &str) -> String {
    format!("{text:?} has port 0: give one from 1 to 65535")
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(out),
            Address::Unix(path) => write!(out, "{UNIX}{path}"),
            Address::Name { host, port } => write!(out, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_an_address_is_written_as_it_is_read() {
        for text in [
            "10.0.0.1:80",
            "[::1]:65535",
            "app.internal:8080",
            "my_app:1",
            "app.internal.:1",
            "1x.example:1",
            "unix:/run/app.sock",
        ] {
            let address = text.parse::<Address>().expect("an address");
            assert_eq!(address.to_string(), text);
        }
        let upper = "App.Internal:80".parse::<Address>().expect("a name");
        assert_eq!(upper.to_string(), "app.internal:80");
    }

    #[test]
    fn what_is_none_is_told_why() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX));
        for (text, why) in [
            ("10.0.0.1", "not an address like"),
            ("10.0.0.1:0", "port 0"),
            ("app:0", "port 0"),
            ("app", "not an address like"),
            ("app:70000", "not an address like"),
            ("*.app:1", "not an address like"),
            ("127.1:80", "not an address like"),
            ("1234:80", "not an address like"),
            ("0x7f.0x1:80", "not an address like"),
            ("a..b:80", "not an address like"),
            ("app..:80", "not an address like"),
            ("1.:80", "not an address like"),
            (":80", "not an address like"),
            ("unix:run/app", "starts with"),
            ("unix:", "starts with"),
            ("unix:@app", "starts with"),
            (&long, "at most"),
            ("unix:/run/my app", "without spaces"),
            ("unix:/run/\n", "without spaces"),
        ] {
            let what = text.parse::<Address>().expect_err(text);
            assert!(what.contains(why), "{text}: {what}");
        }
    }
}
