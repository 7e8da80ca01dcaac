//! The first message of TLS, for the host that it asks for (RFC 8446 section 4.1.2, RFC 6066 section 3).
//!
//! Owns the syntax of a ClientHello as far as the way to `server_name` leads through it, strictly. Never
//! decrypts anything, and never asks what a client offers: whoever it speaks with does. Where the name is
//! hidden (ECH) it is the outer one that is found. Called by `session` with all that it has received so far.
//!
//! A message may lie in several records, and a record come in any pieces. The answer depends on the bytes
//! alone: what stands behind the message, be it early data, is not looked at.

use super::host;
use crate::limits::CLIENT_HELLO_BYTES_MAX;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Of every version from SSL 3.0 on, in records and messages.
const MAJOR: u8 = 3;
const RECORD_HEADER_BYTES: usize = 5;
/// Most bytes of one record (RFC 8446 section 5.1).
const RECORD_BYTES_MAX: usize = 1 << 14;
/// Kind and length of a message.
const MESSAGE_HEADER_BYTES: usize = 4;
const RANDOM_BYTES: usize = 32;
const SESSION_ID_BYTES_MAX: usize = 32;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hello<'m> {
    /// All of them belong to a ClientHello, and it is not whole.
    Partial,
    /// Empty: it asks for no host.
    Complete { hostname: &'m [u8] },
    /// Why they are none, in a few words.
    Refused(&'static str),
}

/// `message` lends the memory in which a whole one is put together.
pub fn read<'m>(bytes: &[u8], message: &'m mut Vec<u8>) -> Hello<'m> {
    let whole = match length(bytes) {
        Ok(None) => return Hello::Partial,
        Ok(Some(len)) => gather(bytes, len, message),
        Err(what) => Err(what),
    };
    match whole.and_then(|()| hostname(message)) {
        Ok(hostname) => Hello::Complete { hostname },
        Err(what) => Hello::Refused(what),
    }
}

/// Bytes of the message, its header with them, once it is whole.
fn length(bytes: &[u8]) -> Result<Option<usize>, &'static str> {
    let mut header = [0; MESSAGE_HEADER_BYTES];
    let mut have = 0;
    for fragment in Fragments(bytes) {
        let fragment = fragment?;
        let room = header.get_mut(have..).unwrap_or_default();
        room.iter_mut().zip(fragment).for_each(|(to, b)| *to = *b);
        have += fragment.len();
        if have > 0 && header[0] != CLIENT_HELLO {
            return Err("its first message is no ClientHello");
        }
        if have < MESSAGE_HEADER_BYTES {
            continue;
        }
        let [_, high, middle, low] = header;
        let len = MESSAGE_HEADER_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize;
        if len > CLIENT_HELLO_BYTES_MAX {
            return Err("the ClientHello is too long");
        }
        if have >= len {
            return Ok(Some(len));
        }
    }
    Ok(None)
}

fn gather(bytes: &[u8], len: usize, message: &mut Vec<u8>) -> Result<(), &'static str> {
    message.clear();
    for fragment in Fragments(bytes) {
        message.extend_from_slice(fragment?);
        if message.len() >= len {
            break;
        }
    }
    message.truncate(len);
    Ok(())
}

/// What the records of a handshake carry, the last one as far as it has come.
struct Fragments<'a>(&'a [u8]);

impl<'a> Iterator for Fragments<'a> {
    type Item = Result<&'a [u8], &'static str>;

    fn next(&mut self) -> Option<Self::Item> {
        let record = self.0;
        match record {
            [] => return None,
            [kind, ..] if *kind != HANDSHAKE => return Some(Err("it does not begin with TLS")),
            [_, major, ..] if *major != MAJOR => return Some(Err("a version that is none of TLS")),
            _ => {}
        }
        let (header, body) = record.split_first_chunk::<RECORD_HEADER_BYTES>()?;
        let len = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if len == 0 || len > RECORD_BYTES_MAX {
            return Some(Err("a record that is empty or too long"));
        }
        let (fragment, behind) = body.split_at(len.min(body.len()));
        self.0 = behind;
        Some(Ok(fragment))
    }
}

/// The host that a whole message asks for.
fn hostname(message: &[u8]) -> Result<&[u8], &'static str> {
    let mut hello = Cursor(message);
    hello.take(MESSAGE_HEADER_BYTES)?;
    if hello.take(2)?[0] != MAJOR {
        return Err("a version that is none of TLS");
    }
    hello.take(RANDOM_BYTES)?;
    let session = hello.short()?;
    let suites = hello.long()?;
    let compressions = hello.short()?;
    let bad = session.len() > SESSION_ID_BYTES_MAX
        || suites.is_empty()
        || suites.len() % 2 != 0
        || compressions.is_empty();
    if bad {
        return Err("a ClientHello with a list of a wrong length");
    }
    // TLS 1.2 can do without extensions.
    if hello.0.is_empty() {
        return Ok(&[]);
    }
    let mut extensions = Cursor(hello.long()?);
    hello.end()?;
    let mut found = None;
    while !extensions.0.is_empty() {
        let (kind, body) = (extensions.number()?, extensions.long()?);
        if kind == SERVER_NAME && found.replace(server_name(body)?).is_some() {
            return Err("a ClientHello with server_name twice");
        }
    }
    Ok(found.unwrap_or_default())
}

/// One name, and of the only kind that there is.
fn server_name(body: &[u8]) -> Result<&[u8], &'static str> {
    let mut body = Cursor(body);
    let mut list = Cursor(body.long()?);
    body.end()?;
    if list.take(1)? != [HOST_NAME] {
        return Err("a server_name that is no hostname");
    }
    let name = list.long()?;
    list.end()?;
    host::check_name(name)?;
    Ok(name)
}

/// What is left of a message.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let halves = self.0.split_at_checked(n);
        let (taken, rest) = halves.ok_or("a ClientHello that is cut")?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16, &'static str> {
        let two = self.take(2)?;
        Ok(u16::from_be_bytes([two[0], two[1]]))
    }

    /// Bytes behind a length of one byte.
    fn short(&mut self) -> Result<&'a [u8], &'static str> {
        let len = usize::from(self.take(1)?[0]);
        self.take(len)
    }

    /// The same, of two bytes.
    fn long(&mut self) -> Result<&'a [u8], &'static str> {
        let len = usize::from(self.number()?);
        self.take(len)
    }

    fn end(&self) -> Result<(), &'static str> {
        match self.0 {
            [] => Ok(()),
            _ => Err("a ClientHello with bytes behind its end"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn long(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
    }

    fn extension(kind: u16, body: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &long(body)].concat()
    }

    fn named(name: &[u8]) -> Vec<u8> {
        extension(
            SERVER_NAME,
            &long(&[&[HOST_NAME], &long(name)[..]].concat()),
        )
    }

    /// A message up to its extensions, with bytes of these numbers in its lists.
    fn lists(session: u8, suites: u8, compressions: u8) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; RANDOM_BYTES]);
        for (len, high) in [(session, None), (suites, Some(0)), (compressions, None)] {
            body.extend(high);
            body.push(len);
            body.extend(vec![0x0a; usize::from(len)]);
        }
        body
    }

    fn start() -> Vec<u8> {
        lists(32, 6, 1)
    }

    fn message(body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u32).to_be_bytes();
        [&[CLIENT_HELLO], &len[1..], body].concat()
    }

    fn with(extensions: &[Vec<u8>]) -> Vec<u8> {
        message(&[start(), long(&extensions.concat())].concat())
    }

    /// In records of so many bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let records = message.chunks(size);
        let records = records.map(|part| [&[HANDSHAKE, 3, 1][..], &long(part)].concat());
        records.collect::<Vec<_>>().concat()
    }

    /// GREASE, a name, what a browser adds, and an ECH.
    fn usual(name: &[u8]) -> Vec<u8> {
        with(&[
            extension(0x4a4a, b""),
            extension(23, b""),
            named(name),
            extension(16, b"\0\x0c\x02h2\x08http/1.1"),
            extension(0xfe0d, &[3; 300]),
            extension(0xaaaa, b"\0"),
        ])
    }

    #[track_caller]
    fn says(bytes: &[u8], hostname: &[u8]) {
        let mut room = Vec::new();
        for len in 0..bytes.len() {
            assert_eq!(read(&bytes[..len], &mut room), Hello::Partial, "{len}");
        }
        let behind = [bytes, b"\x17\x03\x03\0\x05early\xff"].concat();
        for bytes in [bytes, &behind] {
            assert_eq!(read(bytes, &mut room), Hello::Complete { hostname });
        }
    }

    #[test]
    fn a_name_is_found_in_any_records_and_pieces() {
        let message = usual(b"www.Example.com");
        for size in [1, 2, 3, 5, 64, 100, 16 * 1024] {
            says(&records(&message, size), b"www.Example.com");
        }
    }

    #[test]
    fn it_may_ask_for_no_host() {
        for message in [message(&start()), with(&[]), with(&[extension(16, b"x")])] {
            says(&records(&message, 4096), b"");
        }
    }

    #[track_caller]
    fn refused(bytes: &[u8], why: &str) {
        match read(bytes, &mut Vec::new()) {
            Hello::Refused(what) => assert!(what.contains(why), "{what}, not {why}"),
            other => panic!("{other:?}, not {why}"),
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        refused(b"G", "does not begin with TLS");
        refused(b"SSH-2.0-x\r\n", "does not begin with TLS");
        refused(&[HANDSHAKE, 2], "none of TLS");
        refused(&[HANDSHAKE, 3, 1, 0, 0], "empty or too long");
        refused(&[HANDSHAKE, 3, 1, 0x40, 1], "empty or too long");
        refused(&[HANDSHAKE, 3, 1, 0, 9, 2], "no ClientHello");
        refused(&[HANDSHAKE, 3, 1, 0, 9, 1, 1, 0, 0], "too long");
        // SSL 2.0.
        refused(&[0x80, 0x2e, 1, 3, 1], "does not begin with TLS");
        // An alert in the middle of the message.
        let mut bytes = records(&usual(b"a.test"), 60);
        bytes[65] = 21;
        refused(&bytes, "does not begin with TLS");
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let good = start();
        let old = [&[2][..], &good[1..]].concat();
        let doubled = [named(b"a.test"), named(b"a.test")];
        let two = [&[0], &long(b"a")[..], &[0], &long(b"b")[..]].concat();
        let list = |list: &[u8]| with(&[extension(SERVER_NAME, &long(list))]);
        for (message, why) in [
            (message(b""), "cut"),
            (message(&good[..50]), "cut"),
            (message(&old), "none of TLS"),
            (message(&lists(33, 6, 1)), "length"),
            (message(&lists(0, 0, 1)), "length"),
            (message(&lists(0, 3, 1)), "length"),
            (message(&lists(0, 2, 0)), "length"),
            (message(&[&good[..], b"\0\x05abc"].concat()), "cut"),
            (message(&[&good[..], b"\0\0x"].concat()), "behind its end"),
            (with(&[b"\0\0\0\x09a".to_vec()]), "cut"),
            (with(&doubled), "twice"),
            (list(&two), "behind its end"),
            (list(&[&[1], &long(b"a")[..]].concat()), "no hostname"),
            (list(b""), "cut"),
            (with(&[extension(SERVER_NAME, b"")]), "cut"),
            (with(&[named(b"")]), "empty host"),
            (with(&[named(b"a..b")]), "empty label"),
            (with(&[named(b"a b")]), "bad character"),
            (with(&[named(b"a:443")]), "bad character"),
            (with(&[named(&[b'a'; 64])]), "too long"),
        ] {
            refused(&records(&message, 4096), why);
        }
    }

    #[test]
    fn nothing_makes_it_panic_and_pieces_do_not_matter() {
        let mut random = Random::new(11);
        let mut room = Vec::new();
        for _ in 0..20_000 {
            let size = 1 + random.below(200) as usize;
            let mut bytes = records(&usual(b"www.example.com"), size);
            for _ in 0..random.below(4) {
                let at = random.below(bytes.len() as u64) as usize;
                bytes[at] = random.below(256) as u8;
            }
            bytes.truncate(1 + random.below(2 * bytes.len() as u64) as usize);
            let mut len = 0;
            let first = loop {
                len = bytes.len().min(len + 1 + random.below(60) as usize);
                let answer = read(&bytes[..len], &mut room);
                if answer != Hello::Partial || len == bytes.len() {
                    break format!("{answer:?}");
                }
            };
            assert_eq!(first, format!("{:?}", read(&bytes, &mut room)));
        }
    }
}
