//! HTTP messages as a strict peer reads them: anything that RFC 9112 does not
//! allow a sender to send is malformed here, and a test fails over it.

use super::peer::Peer;

/// Why a message could not be read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The other side closed in order (FIN).
    Eof,
    /// The other side cut (RST).
    Reset,
    /// Nothing came until the deadline.
    Silence,
    /// The other side sent what no sender may send.
    Malformed(String),
}

/// How a message said where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Absent,
    Counted(usize),
    Chunked,
    UntilClose,
}

/// One request or response. Text is Latin-1: one character per byte.
#[derive(Clone, Debug)]
pub struct Message {
    /// The request line or status line.
    pub start: String,
    /// Names as sent, values without the white space around them.
    pub fields: Vec<(String, String)>,
    pub framing: Framing,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Message {
    /// The status of a response.
    #[track_caller]
    pub fn status(&self) -> u16 {
        let word = self.start.split(' ').nth(1).unwrap_or("");
        word.parse()
            .unwrap_or_else(|_| panic!("no status: {:?}", self.start))
    }

    pub fn method(&self) -> &str {
        self.start.split(' ').next().unwrap_or("")
    }

    pub fn target(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or("")
    }

    /// Every value under that name, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = |f: &&(String, String)| f.0.eq_ignore_ascii_case(name);
        self.fields
            .iter()
            .filter(named)
            .map(|f| f.1.as_str())
            .collect()
    }

    /// The value under a name that may stand there once.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(
            all.len() < 2,
            "{name} stands there {} times: {self:?}",
            all.len()
        );
        all.first().copied()
    }

    /// Every element of a list field, over all its lines.
    pub fn list(&self, name: &str) -> Vec<String> {
        let lines = self.all(name).join(",");
        let words = lines.split(',').map(|word| word.trim().to_owned());
        words.filter(|word| !word.is_empty()).collect()
    }

    /// Whether `Connection` has that option.
    pub fn connection_says(&self, option: &str) -> bool {
        self.list("connection")
            .iter()
            .any(|w| w.eq_ignore_ascii_case(option))
    }

    /// The body as text, for small ones.
    pub fn text(&self) -> String {
        latin1(&self.body)
    }
}

pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// Reads a head: the start line, the fields and the empty line.
pub fn head(peer: &mut Peer) -> Result<Message, Broken> {
    let start = peer.line()?;
    let fields = fields(peer)?;
    let (framing, body, trailers) = (Framing::Absent, Vec::new(), Vec::new());
    Ok(Message {
        start,
        fields,
        framing,
        body,
        trailers,
    })
}

/// Reads field lines up to and with the empty line: those of a head, or trailers.
fn fields(peer: &mut Peer) -> Result<Vec<(String, String)>, Broken> {
    let mut fields = Vec::new();
    loop {
        let line = peer.line()?;
        if line.is_empty() {
            return Ok(fields);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("no colon", &line))?;
        if name.is_empty() || !name.bytes().all(is_token) {
            return Err(bad("field name", &line));
        }
        if value.bytes().any(|byte| byte < b' ' && byte != b'\t') || value.contains('\x7f') {
            return Err(bad("control character", &line));
        }
        fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn bad(what: &str, line: &str) -> Broken {
    Broken::Malformed(format!("{what}: {line:?}"))
}

/// Reads a request with its body.
pub fn request(peer: &mut Peer) -> Result<Message, Broken> {
    let mut message = head(peer)?;
    let words: Vec<&str> = message.start.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        return Err(bad("request line", &message.start));
    };
    if method.is_empty() || !method.bytes().all(is_token) || target.is_empty() {
        return Err(bad("request line", &message.start));
    }
    if message.all("host").len() != 1 {
        return Err(bad("not one Host", &format!("{:?}", message.fields)));
    }
    message.framing = framing(&message)?.unwrap_or(Framing::Absent);
    body(peer, message)
}

/// Reads a response with its body; an interim one is a response of its own.
pub fn response(peer: &mut Peer, method: &str) -> Result<Message, Broken> {
    let mut message = head(peer)?;
    let rest = message
        .start
        .strip_prefix("HTTP/1.1 ")
        .unwrap_or("")
        .as_bytes();
    let digits = rest.len() >= 4 && rest[..3].iter().all(u8::is_ascii_digit) && rest[3] == b' ';
    if !digits {
        return Err(bad("status line", &message.start));
    }
    let announced = framing(&message)?.unwrap_or(Framing::UntilClose);
    let status = message.status();
    let interim = (100..200).contains(&status);
    if (interim || status == 204) && announced != Framing::UntilClose {
        return Err(bad("framing where no body can be", &message.start));
    }
    let empty = interim || matches!(status, 204 | 304) || method == "HEAD";
    message.framing = if empty { Framing::Absent } else { announced };
    body(peer, message)
}

/// What the fields say about the body; both ways, or one twice, is malformed.
fn framing(message: &Message) -> Result<Option<Framing>, Broken> {
    let (lengths, codings) = (
        message.all("content-length"),
        message.all("transfer-encoding"),
    );
    match (&lengths[..], &codings[..]) {
        ([], []) => Ok(None),
        ([digits], []) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            let count = digits.parse().map_err(|_| bad("Content-Length", digits))?;
            Ok(Some(Framing::Counted(count)))
        }
        ([], ["chunked"]) => Ok(Some(Framing::Chunked)),
        _ => Err(bad("framing", &format!("{:?}", message.fields))),
    }
}

fn body(peer: &mut Peer, mut message: Message) -> Result<Message, Broken> {
    match message.framing {
        Framing::Absent => {}
        Framing::Counted(count) => message.body = peer.exactly(count)?,
        Framing::Chunked => message.trailers = chunks(peer, &mut message.body)?,
        Framing::UntilClose => {
            let (bytes, end) = peer.rest();
            if end != Broken::Eof {
                return Err(end);
            }
            message.body = bytes;
        }
    }
    Ok(message)
}

/// Reads chunks, which nobody here may send with extensions, and the trailers.
fn chunks(peer: &mut Peer, body: &mut Vec<u8>) -> Result<Vec<(String, String)>, Broken> {
    loop {
        let line = peer.line()?;
        if line.is_empty() || !line.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad("chunk size", &line));
        }
        let size = usize::from_str_radix(&line, 16).map_err(|_| bad("chunk size", &line))?;
        if size == 0 {
            return fields(peer);
        }
        body.extend_from_slice(&peer.exactly(size)?);
        let after = peer.exactly(2)?;
        if after != b"\r\n" {
            return Err(bad("after a chunk", &latin1(&after)));
        }
    }
}
