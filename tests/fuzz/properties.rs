//! What must hold for any bytes at all. The fuzz targets and `tests/smoke.rs` both
//! call these: a property takes bytes and panics where it does not hold.

use std::fmt::Debug;

use sozu_lib::parser::chunked::{self, Decoder};
use sozu_lib::parser::client_hello::{self, Hello};
use sozu_lib::parser::host;
use sozu_lib::parser::http11::{self, Fields, Parse, RequestLine, Version};
use sozu_lib::parser::target;

/// Where this input is cut: as random as it needs to be, and always the same.
pub struct Cuts(u64);

impl Cuts {
    pub fn of(bytes: &[u8]) -> Cuts {
        let fnv = |hash: u64, b: &u8| (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
        Cuts::seeded(bytes.iter().fold(0xcbf2_9ce4_8422_2325, fnv))
    }

    pub fn seeded(seed: u64) -> Cuts {
        Cuts(seed | 1)
    }

    /// A number below `below`, which is not 0 (xorshift64).
    pub fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }
}

/// A head is read the same in any pieces, and means the same when written again.
pub fn head(bytes: &[u8]) {
    in_pieces(http11::response, bytes);
    in_pieces(http11::trailers, bytes);
    let (answer, fields) = in_pieces(http11::request, bytes);
    if let Parse::Complete { line, len } = answer {
        read_again(bytes, line, len, &fields);
        target_of(line.method.of(bytes), line.target.of(bytes));
    }
}

type Parser<L> = fn(&[u8], usize, &mut Fields) -> Parse<L>;

fn in_pieces<L: PartialEq + Debug>(parse: Parser<L>, bytes: &[u8]) -> (Parse<L>, Fields) {
    let (mut fields, mut again) = (Fields::new(), Fields::new());
    let whole = parse(bytes, 0, &mut fields);
    let mut cuts = Cuts::of(bytes);
    for piece_max in [1, 2, 9, 60] {
        let mut searched = 0;
        let answer = loop {
            // Long inputs in fewer pieces: the time goes into many inputs.
            let piece = 1 + cuts.next(piece_max) + bytes.len() / 512;
            let arrived = bytes.len().min(searched + piece);
            let answer = parse(&bytes[..arrived], searched, &mut again);
            if answer != Parse::Partial || arrived == bytes.len() {
                break answer;
            }
            searched = arrived;
        };
        assert_eq!(answer, whole, "in pieces of at most {piece_max}");
        if let Parse::Complete { len, .. } = whole {
            assert_eq!(fields.as_slice(), again.as_slice());
            assert!(len <= bytes.len() && bytes[..len].ends_with(b"\r\n"));
        }
    }
    (whole, fields)
}

fn read_again(bytes: &[u8], line: RequestLine, len: usize, fields: &Fields) {
    let mut again = Fields::new();
    assert_eq!(
        http11::request(&bytes[..len - 1], 0, &mut again),
        Parse::Partial
    );
    let version = if line.version == Version::Http10 {
        "0"
    } else {
        "1"
    };
    let mut text = [
        line.method.of(bytes),
        b" ",
        line.target.of(bytes),
        b" HTTP/1.",
    ]
    .concat();
    text.extend_from_slice(&[version.as_bytes(), b"\r\n"].concat());
    for field in fields.as_slice() {
        let (name, value) = (field.name.of(bytes), field.value.of(bytes));
        assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic));
        assert!(!value.iter().any(|b| b.is_ascii_control() && *b != b'\t'));
        text.extend_from_slice(&[name, b":", value, b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    let answer = http11::request(&text, 0, &mut again);
    let Parse::Complete { line: second, len } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!((len, second.version), (text.len(), line.version));
    assert_eq!(second.method.of(&text), line.method.of(bytes));
    assert_eq!(second.target.of(&text), line.target.of(bytes));
    assert_eq!(again.as_slice().len(), fields.as_slice().len());
    for (a, b) in fields.as_slice().iter().zip(again.as_slice()) {
        assert_eq!((a.name.of(bytes), a.known), (b.name.of(&text), b.known));
        assert_eq!(a.value.of(bytes), b.value.of(&text));
    }
}

/// A resolved target has no dot segment left and resolves to itself.
fn target_of(method: &[u8], bytes: &[u8]) {
    let (mut out, mut again) = (Vec::new(), Vec::new());
    let Ok(first) = target::resolve(method, bytes, &mut out) else {
        return;
    };
    if first.bytes == b"*" {
        return assert_eq!(method, b"OPTIONS");
    }
    let plain = first.path().to_ascii_lowercase();
    let plain = String::from_utf8_lossy(&plain).replace("%2e", ".");
    assert!(plain.starts_with('/') && !plain.split('/').any(|s| s == "." || s == ".."));
    let second = target::resolve(method, first.bytes, &mut again).expect("what was resolved");
    assert_eq!(
        (second.bytes, second.path_len),
        (first.bytes, first.path_len)
    );
    assert_eq!(second.authority, None);
    // By whatever spelling, it is looked up as the same path, which is its own normal form.
    assert_eq!(second.routed, first.routed);
    assert!(first.routed.starts_with(b"/") && !first.routed.windows(2).any(|two| two == b"//"));
    let third = target::resolve(method, first.routed, &mut again).expect("what was resolved");
    assert_eq!((third.bytes, third.routed), (first.routed, first.routed));
    if let Some(authority) = first.authority {
        assert!(target::same_authority(&authority, &authority, 80));
    }
}

/// A host that is taken is plain, and its normal form is taken too and is its own.
pub fn host(bytes: &[u8]) {
    target_of(b"GET", bytes);
    target_of(b"OPTIONS", &[b"http://", bytes].concat());
    let Ok(host) = host::parse(bytes) else { return };
    assert!(!host.name.is_empty() && host.name.len() <= 254 && host.port != Some(0));
    assert!(host
        .name
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b".-_:[]".contains(b)));
    assert_eq!(host.port.is_none(), host.name.len() == bytes.len());
    let (mut out, mut again) = ([0; 256], [0; 256]);
    let name = host::normalize(host.name, &mut out);
    let normal = host::parse(name).expect("what was normalized");
    assert_eq!((normal.name, normal.port), (name, None));
    assert_eq!(host::normalize(name, &mut again), name);
    assert!(target::same_authority(
        &host,
        &host::Host { name, ..host },
        80
    ));
}

/// A ClientHello says the same in any pieces, a name in it is one, and what follows does not matter.
pub fn hello(bytes: &[u8]) {
    let (mut whole, mut again) = (Vec::new(), Vec::new());
    let answer = client_hello::read(bytes, &mut whole);
    let mut cuts = Cuts::of(bytes);
    let mut arrived = 0;
    while arrived < bytes.len() {
        arrived = bytes
            .len()
            .min(arrived + 1 + cuts.next(40) + bytes.len() / 512);
        let early = client_hello::read(&bytes[..arrived], &mut again);
        if early != Hello::Partial || arrived == bytes.len() {
            assert_eq!(early, answer, "with {arrived} bytes");
            break;
        }
    }
    if let Hello::Complete { hostname } = answer {
        assert!(hostname.is_empty() || host::parse(hostname).is_ok_and(|h| h.port.is_none()));
        let longer = [bytes, b"\x15"].concat();
        assert_eq!(client_hello::read(&longer, &mut again), answer);
    }
}

/// A chunked body is read as a naive reader does, in any pieces; data written as
/// chunks comes back.
pub fn chunks(bytes: &[u8]) {
    let want = naive(bytes);
    let mut cuts = Cuts::of(bytes);
    for piece_max in [1, 3, 40, bytes.len() + 1] {
        let got = decode(bytes, || 1 + cuts.next(piece_max));
        match (&got, &want) {
            (Err(()), Naive::Bad) => {}
            (Ok((data, Some(end))), Naive::Ended(wanted, at)) if (data, end) == (wanted, at) => {}
            (Ok((data, None)), Naive::Open(wanted)) if data == wanted => {}
            _ => panic!("in pieces of at most {piece_max}: {got:?}, not {want:?}"),
        }
    }
    let mut body = Vec::new();
    for chunk in bytes.chunks(1 + cuts.next(300)) {
        body.extend_from_slice(chunked::write_size(chunk.len(), &mut [0; 18]));
        body.extend_from_slice(&[chunk, b"\r\n"].concat());
    }
    body.extend_from_slice(b"0\r\n");
    let ended = Ok((bytes.to_vec(), Some(body.len())));
    assert_eq!(decode(&body, || 1 + cuts.next(90)), ended);
}

/// The data, and how many bytes there were up to the end, if that came.
type Body = (Vec<u8>, Option<usize>);

fn decode(bytes: &[u8], mut piece: impl FnMut() -> usize) -> Result<Body, ()> {
    let (mut decoder, mut data, mut at) = (Decoder::default(), Vec::new(), 0);
    while at < bytes.len() {
        let mut room = bytes[at..bytes.len().min(at + piece())].to_vec();
        let decoded = decoder.decode(&mut room).map_err(|refusal| {
            assert!(refusal.status == 400 && refusal.at < room.len());
        })?;
        assert!(decoded.data.end <= decoded.consumed && decoded.consumed <= room.len());
        data.extend_from_slice(&room[decoded.data]);
        at += decoded.consumed;
        if decoded.last {
            return Ok((data, Some(at)));
        }
        assert_eq!(decoded.consumed, room.len());
        // Data may also pass without being seen.
        let unseen = usize::try_from(decoder.remaining())
            .unwrap()
            .min(bytes.len() - at);
        if unseen > 0 && piece() == 1 {
            decoder.advance(unseen as u64);
            data.extend_from_slice(&bytes[at..at + unseen]);
            at += unseen;
        }
    }
    Ok((data, None))
}

#[derive(Debug)]
enum Naive {
    Bad,
    Open(Vec<u8>),
    Ended(Vec<u8>, usize),
}

/// Reads line by line from bytes that are all there, with nothing to remember.
fn naive(bytes: &[u8]) -> Naive {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let digits = bytes[at..]
            .iter()
            .take_while(|b| b.is_ascii_hexdigit())
            .count();
        let text = String::from_utf8_lossy(&bytes[at..at + digits]);
        let size = u64::from_str_radix(&text, 16).unwrap_or(0);
        let too_large = digits > 16 || size >= 1 << 52;
        at += digits;
        let rest = &bytes[at..];
        if too_large || (digits == 0 && !rest.is_empty()) {
            return Naive::Bad;
        }
        let extension = rest.iter().take_while(|b| !b.is_ascii_control()).count();
        let Some(open) = quoted(&rest[..extension]) else {
            return Naive::Bad;
        };
        match (&rest[..extension], &rest[extension..]) {
            ([b';', ..] | [], [] | [b'\r']) if !(open && extension < rest.len()) => {
                return Naive::Open(data);
            }
            ([b';', ..] | [], [b'\r', b'\n', ..]) if !open => at += extension + 2,
            _ => return Naive::Bad,
        }
        if size == 0 {
            return Naive::Ended(data, at);
        }
        let here = usize::try_from(size).unwrap().min(bytes.len() - at);
        data.extend_from_slice(&bytes[at..at + here]);
        at += here;
        match &bytes[at..] {
            [] | [b'\r'] => return Naive::Open(data),
            [b'\r', b'\n', ..] => at += 2,
            _ => return Naive::Bad,
        }
    }
}

/// Whether an extension ends within quotes; none if it is too long.
fn quoted(extension: &[u8]) -> Option<bool> {
    let (mut open, mut at) = (false, 0);
    while at < extension.len() {
        match extension[at] {
            b'"' => open = !open,
            b'\\' if open => at += 1,
            _ => {}
        }
        at += 1;
    }
    (extension.len() <= 256).then_some(open)
}
