//! The head of an HTTP/1.1 message: request line or status line, and field lines.
//!
//! Owns the syntax of RFC 9112 sections 2 to 5, strictly, and the size limits of
//! a head. Never copies a byte, never asks what a field means (`http` does) nor
//! what the target is (`target` does). Called by `session` with all that it has
//! received of a head so far.
//!
//! A line is judged when it ends, but a control character as soon as it is seen.
//! So the answer depends on the bytes alone, not on how they came in pieces, and
//! while neither a line end nor a control character arrives nothing is parsed again.

use crate::limits::{HEAD_BYTES_MAX, HEAD_LINES_MAX, METHOD_BYTES_MAX, REQUEST_LINE_BYTES_MAX};

use super::bytes::{control, run, TARGET, TOKEN};
pub use super::name::Name;

/// The target under which the worker logs parsed heads.
pub const LOG: &str = module_path!();

/// A range of the parsed bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u16,
    pub len: u16,
}

/// No offset in a head leaves a `u16`.
const _: () = assert!(HEAD_BYTES_MAX <= u16::MAX as usize);

impl Span {
    /// Both bounds lie in a head, so neither is cut.
    fn new(start: usize, end: usize) -> Span {
        Span {
            start: start as u16,
            len: (end - start) as u16,
        }
    }

    /// The bytes it stands for in what was parsed; empty if `bytes` is too short.
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        let start = usize::from(self.start);
        bytes
            .get(start..start + usize::from(self.len))
            .unwrap_or_default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// One field line. The value has no white space around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    pub name: Span,
    pub value: Span,
    pub known: Name,
}

/// The field lines of one head, in their order.
#[derive(Clone, Debug)]
pub struct Fields {
    all: [Field; HEAD_LINES_MAX],
    count: usize,
}

impl Default for Fields {
    fn default() -> Fields {
        Fields::new()
    }
}

impl Fields {
    pub const fn new() -> Fields {
        let none = Span { start: 0, len: 0 };
        Fields {
            all: [Field {
                name: none,
                value: none,
                known: Name::Other,
            }; HEAD_LINES_MAX],
            count: 0,
        }
    }

    pub fn as_slice(&self) -> &[Field] {
        self.all.get(..self.count).unwrap_or_default()
    }

    /// False if there are as many as there may be.
    fn push(&mut self, field: Field) -> bool {
        match self.all.get_mut(self.count) {
            Some(room) => *room = field,
            None => return false,
        }
        self.count += 1;
        true
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLine {
    pub method: Span,
    pub target: Span,
    pub version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusLine {
    pub version: Version,
    /// 100 to 599.
    pub status: u16,
    pub reason: Span,
}

/// Why bytes are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The status to answer; 0 says to close without an answer.
    pub status: u16,
    /// Offset of the offending byte or line.
    pub at: usize,
    /// For the log, in a few words.
    pub what: &'static str,
}

impl Refusal {
    pub(super) fn new(status: u16, at: usize, what: &'static str) -> Refusal {
        Refusal { status, at, what }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parse<L> {
    /// `len` is the length of the whole head with its empty line.
    Complete {
        line: L,
        len: usize,
    },
    /// The bytes so far may be the beginning of a head.
    Partial,
    Refused(Refusal),
}

impl<L> Parse<L> {
    fn from(result: Result<Option<(L, usize)>, Refusal>) -> Parse<L> {
        match result {
            Ok(Some((line, len))) => Parse::Complete { line, len },
            Ok(None) => Parse::Partial,
            Err(refusal) => Parse::Refused(refusal),
        }
    }
}

/// Parses the head of a request at the start of `bytes`. `searched` is how many of
/// them an earlier call has answered `Partial` for, 0 if none. `fields` is
/// meaningful only after `Complete`.
pub fn request(bytes: &[u8], searched: usize, fields: &mut Fields) -> Parse<RequestLine> {
    // A limit may have been crossed if the new bytes reach over the longest request
    // line (behind an empty line) and the old ones did not.
    let crossed = bytes.len() > REQUEST_LINE_BYTES_MAX && searched <= REQUEST_LINE_BYTES_MAX + 2;
    if !crossed && nothing_new(bytes, searched) {
        return Parse::Partial;
    }
    Parse::from(request_head(bytes, fields))
}

/// The same for the head of a response. All its refusals have the status 502.
pub fn response(bytes: &[u8], searched: usize, fields: &mut Fields) -> Parse<StatusLine> {
    if nothing_new(bytes, searched) {
        return Parse::Partial;
    }
    let head = response_head(bytes, fields);
    Parse::from(head.map_err(|refusal| Refusal {
        status: 502,
        ..refusal
    }))
}

/// The same for the trailer section behind a last chunk, up to and with its empty line.
pub fn trailers(bytes: &[u8], searched: usize, fields: &mut Fields) -> Parse<()> {
    if nothing_new(bytes, searched) {
        return Parse::Partial;
    }
    fields.count = 0;
    Parse::from(field_lines(window(bytes), 0, fields).map(|end| end.map(|end| ((), end))))
}

/// Whether the bytes behind `searched` cannot change the answer `Partial`.
fn nothing_new(bytes: &[u8], searched: usize) -> bool {
    let Some(last) = searched.checked_sub(1).and_then(|i| bytes.get(i)) else {
        return false;
    };
    *last != b'\r' && bytes.len() < HEAD_BYTES_MAX && control(bytes, searched) == bytes.len()
}

/// What is looked at: no byte behind the limit has a say.
fn window(bytes: &[u8]) -> &[u8] {
    bytes.get(..HEAD_BYTES_MAX).unwrap_or(bytes)
}

fn request_head(
    bytes: &[u8],
    fields: &mut Fields,
) -> Result<Option<(RequestLine, usize)>, Refusal> {
    let window = window(bytes);
    let start = match window {
        [0x16, ..] => return Err(Refusal::new(0, 0, "a TLS ClientHello on a plain port")),
        [b'\r', b'\n', ..] => 2, // RFC 9112 section 2.2: some clients end a body with it
        _ => 0,
    };
    fields.count = 0;
    // One byte more than may be: if it is not the end of the line, the line is too long.
    let stop = window.len().min(start + REQUEST_LINE_BYTES_MAX + 1);
    let Some(end) = line_end(window, start, stop)? else {
        let ends = window.get(..stop).is_some_and(|line| line.ends_with(b"\r"));
        if ends || stop <= start + REQUEST_LINE_BYTES_MAX {
            return Ok(None);
        }
        return Err(Refusal::new(414, start, "the request line is too long"));
    };
    let line = request_line(window, start, end)?;
    Ok(field_lines(window, end + 2, fields)?.map(|len| (line, len)))
}

fn response_head(
    bytes: &[u8],
    fields: &mut Fields,
) -> Result<Option<(StatusLine, usize)>, Refusal> {
    let window = window(bytes);
    fields.count = 0;
    let Some(end) = line_end(window, 0, window.len())? else {
        return too_long(window);
    };
    let line = status_line(window, end)?;
    Ok(field_lines(window, end + 2, fields)?.map(|len| (line, len)))
}

/// Partial, but for a full window: no more bytes will end it.
fn too_long<T>(window: &[u8]) -> Result<Option<T>, Refusal> {
    if window.len() < HEAD_BYTES_MAX {
        return Ok(None);
    }
    Err(Refusal::new(431, window.len(), "the head is too long"))
}

/// RFC 9112 section 3: `method SP target SP version`, one space each.
fn request_line(head: &[u8], start: usize, end: usize) -> Result<RequestLine, Refusal> {
    let refuse = |at: usize, what| Err(Refusal::new(400, at, what));
    let line = head.get(..end).unwrap_or_default();
    let method_end = run(line, start, TOKEN);
    if method_end == start || line.get(method_end) != Some(&b' ') {
        return refuse(method_end, "a method that is not a token and one space");
    }
    if method_end - start > METHOD_BYTES_MAX {
        // RFC 9112 section 3: a method longer than any that is implemented.
        return Err(Refusal::new(501, start, "the method is too long"));
    }
    let target = method_end + 1;
    let target_end = run(line, target, TARGET);
    if target_end == target {
        return refuse(target, "no target behind one space");
    }
    match line.get(target_end) {
        Some(b' ') => {}
        Some(_) => return refuse(target_end, "a byte that no target has"),
        None => return refuse(target_end, "no version"),
    }
    let version = version(line, target_end + 1)?;
    let (method, target) = (Span::new(start, method_end), Span::new(target, target_end));
    Ok(RequestLine {
        method,
        target,
        version,
    })
}

/// The last word of a request line: RFC 9112 section 2.3, in upper case.
fn version(line: &[u8], start: usize) -> Result<Version, Refusal> {
    let word = line.get(start..).unwrap_or_default();
    let (status, what) = match word {
        b"HTTP/1.1" => return Ok(Version::Http11),
        b"HTTP/1.0" => return Ok(Version::Http10),
        _ if word.contains(&b' ') || word.contains(&b'\t') => {
            (400, "more than three words in the request line")
        }
        [] => (400, "no version"),
        _ => (505, "a version other than HTTP/1.0 and HTTP/1.1"),
    };
    Err(Refusal::new(status, start, what))
}

/// RFC 9112 section 4. Servers in the field leave out the reason, and the space before it.
fn status_line(head: &[u8], end: usize) -> Result<StatusLine, Refusal> {
    let line = head.get(..end).unwrap_or_default();
    let version = match line.get(..9) {
        Some(b"HTTP/1.1 ") => Version::Http11,
        Some(b"HTTP/1.0 ") => Version::Http10,
        _ => return Err(Refusal::new(502, 0, "not a status line of 1.0 or 1.1")),
    };
    let status = match line.get(9..12) {
        Some(&[a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9']) => {
            u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
        }
        _ => return Err(Refusal::new(502, 9, "a status other than 100 to 599")),
    };
    match line.get(12) {
        None => Ok(StatusLine {
            version,
            status,
            reason: Span::new(end, end),
        }),
        Some(b' ') => Ok(StatusLine {
            version,
            status,
            reason: Span::new(13, end),
        }),
        Some(_) => Err(Refusal::new(502, 12, "no space behind the status")),
    }
}

/// All field lines from `at` to the empty line; the offset behind that.
fn field_lines(head: &[u8], at: usize, fields: &mut Fields) -> Result<Option<usize>, Refusal> {
    let mut at = at;
    loop {
        let Some(end) = line_end(head, at, head.len())? else {
            return too_long(head);
        };
        if end == at {
            return Ok(Some(end + 2));
        }
        if !fields.push(field(head, at, end)?) {
            return Err(Refusal::new(431, at, "too many field lines"));
        }
        at = end + 2;
    }
}

/// RFC 9112 section 5: `name ":" OWS value OWS`.
fn field(head: &[u8], start: usize, end: usize) -> Result<Field, Refusal> {
    let line = head.get(..end).unwrap_or_default();
    let colon = run(line, start, TOKEN);
    if colon == start || line.get(colon) != Some(&b':') {
        return Err(bad_name(line, start, colon));
    }
    let white = |at: usize| matches!(line.get(at), Some(b' ' | b'\t'));
    let (mut first, mut last) = (colon + 1, end);
    while white(first) {
        first += 1;
    }
    while last > first && white(last - 1) {
        last -= 1;
    }
    let known = Name::of(line.get(start..colon).unwrap_or_default());
    Ok(Field {
        name: Span::new(start, colon),
        value: Span::new(first, last),
        known,
    })
}

#[cold]
fn bad_name(line: &[u8], start: usize, at: usize) -> Refusal {
    let rest = line.get(at..).unwrap_or_default();
    let what = match rest.first() {
        Some(b' ' | b'\t') if at == start => "a folded line",
        Some(b':') => "an empty field name",
        _ if !rest.contains(&b':') => "a field line without a colon",
        Some(b' ' | b'\t') => "white space in or behind a field name",
        _ => "a field name that is not a token",
    };
    Refusal::new(400, at, what)
}

/// Where the CR stands that ends the line from `start`, if it stands before `stop`;
/// nothing if it may still come. RFC 9112 section 2.2 wants CR LF; either alone has
/// split heads differently in two parsers of one chain.
fn line_end(head: &[u8], start: usize, stop: usize) -> Result<Option<usize>, Refusal> {
    let at = control(head.get(..stop).unwrap_or(head), start);
    let what = match (head.get(at), head.get(at + 1)) {
        _ if at >= stop => return Ok(None),
        (Some(b'\r'), Some(b'\n')) => return Ok(Some(at)),
        (Some(b'\r'), None) | (None, _) => return Ok(None),
        (Some(b'\r'), _) => "a bare CR in the head",
        (Some(b'\n'), _) => "a bare LF in the head",
        _ => "a control character in the head",
    };
    Err(Refusal::new(400, at, what))
}

#[cfg(test)]
mod tests;
