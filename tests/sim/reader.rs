//! Reads what the proxy sends, as a peer that forgives nothing.
//!
//! It shares no line with the proxy's own parser, and takes only what the proxy
//! has reason to send: CRLF, one framing, chunks without extensions.

#[derive(Clone, Debug)]
pub struct Head {
    /// The words of the first line.
    pub words: Vec<String>,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Counted(usize),
    Chunked,
    UntilClose,
}

#[derive(Clone, Debug)]
pub enum Item {
    /// Ask `framing`, then say `body`.
    Head(Head),
    Data(Vec<u8>),
    /// The end of a message, with its trailers.
    End(Vec<(String, String)>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Counted(usize),
    Size,
    Data(usize),
    DataEnd,
    Trailers,
    UntilClose,
    /// Whatever comes is not HTTP any more.
    Raw,
}

#[derive(Clone)]
pub struct Reader {
    bytes: Vec<u8>,
    at: usize,
    state: State,
}

impl Head {
    pub fn of(text: &str) -> Head {
        let mut lines = text.split("\r\n");
        let first = lines.next().expect("a first line");
        assert!(!text.contains('\0'), "NUL in a head: {text:?}");
        Head {
            words: first.splitn(3, ' ').map(str::to_owned).collect(),
            fields: lines.map(field).collect(),
        }
    }

    pub fn all<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h str> {
        self.fields
            .iter()
            .filter(move |(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// The one value of a field.
    pub fn one<'h>(&'h self, name: &'h str) -> Option<&'h str> {
        let mut all = self.all(name);
        let first = all.next();
        assert!(all.next().is_none(), "{name} more than once: {self:?}");
        first
    }

    pub fn says_close(&self) -> bool {
        self.one("connection") == Some("close")
    }

    /// What the fields say of the body. `absent` is what none of them means.
    pub fn framing(&self, absent: Framing) -> Framing {
        match (self.one("content-length"), self.one("transfer-encoding")) {
            (None, None) => absent,
            (Some(length), None) => {
                let digits = length.bytes().all(|byte| byte.is_ascii_digit());
                assert!(digits && !length.is_empty(), "Content-Length {length:?}");
                Framing::Counted(length.parse().expect("a length"))
            }
            (None, Some("chunked")) => Framing::Chunked,
            _ => panic!("framing that contradicts itself: {self:?}"),
        }
    }
}

fn field(line: &str) -> (String, String) {
    let (name, value) = line.split_once(": ").expect("a field with a colon");
    let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    assert!(
        !name.is_empty() && name.bytes().all(token),
        "the name of {line:?}"
    );
    assert!(
        !value.contains(['\r', '\n']) && value.trim() == value,
        "the value of {line:?}"
    );
    (name.to_ascii_lowercase(), value.to_owned())
}

impl Default for Reader {
    fn default() -> Reader {
        Reader {
            bytes: Vec::new(),
            at: 0,
            state: State::Head,
        }
    }
}

impl Reader {
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// How the body behind the head that was just read ends.
    pub fn body(&mut self, framing: Framing) {
        self.state = match framing {
            Framing::None => State::Counted(0),
            Framing::Counted(n) => State::Counted(n),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        };
    }

    /// That head had no body at all, and another one follows (1xx).
    pub fn again(&mut self) {
        self.state = State::Head;
    }

    pub fn raw(&mut self) {
        self.state = State::Raw;
    }

    /// Between two messages.
    pub fn is_clean(&self) -> bool {
        self.state == State::Head && self.at == self.bytes.len()
    }

    /// In a body that the end of the connection ends.
    pub fn is_until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    pub fn next(&mut self) -> Option<Item> {
        loop {
            match self.state {
                State::Head => {
                    let text = self.section()?;
                    return Some(Item::Head(Head::of(&text)));
                }
                State::Counted(0) => {
                    self.state = State::Head;
                    return Some(Item::End(Vec::new()));
                }
                State::Counted(rest) => {
                    let data = self.some(rest)?;
                    self.state = State::Counted(rest - data.len());
                    return Some(Item::Data(data));
                }
                State::Size => match self.size()? {
                    0 => self.state = State::Trailers,
                    n => self.state = State::Data(n),
                },
                State::Data(0) => self.state = State::DataEnd,
                State::Data(rest) => {
                    let data = self.some(rest)?;
                    self.state = State::Data(rest - data.len());
                    return Some(Item::Data(data));
                }
                State::DataEnd => {
                    let end = self.bytes.get(self.at..self.at + 2)?;
                    assert_eq!(end, b"\r\n", "behind a chunk");
                    self.at += 2;
                    self.state = State::Size;
                }
                State::Trailers => {
                    let trailers = self.trailers()?;
                    self.state = State::Head;
                    return Some(Item::End(trailers));
                }
                State::UntilClose | State::Raw => {
                    return Some(Item::Data(self.some(usize::MAX)?));
                }
            }
        }
    }

    fn some(&mut self, most: usize) -> Option<Vec<u8>> {
        let n = most.min(self.bytes.len() - self.at);
        let data = self.bytes[self.at..self.at + n].to_vec();
        self.at += n;
        (n > 0).then_some(data)
    }

    /// Lines up to an empty one, without it.
    fn section(&mut self) -> Option<String> {
        let rest = &self.bytes[self.at..];
        let end = rest.windows(4).position(|four| four == b"\r\n\r\n")?;
        let text = String::from_utf8(rest[..end].to_vec()).expect("a head of ASCII");
        self.at += end + 4;
        Some(text)
    }

    fn size(&mut self) -> Option<usize> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().take(20).position(|byte| *byte == b'\n');
        let Some(end) = end else {
            assert!(rest.len() < 20, "an endless chunk size");
            return None;
        };
        let line = std::str::from_utf8(&rest[..end + 1]).expect("a chunk size of ASCII");
        let digits = line.strip_suffix("\r\n").expect("CRLF behind a chunk size");
        let n = usize::from_str_radix(digits, 16).expect("a chunk size in hex");
        assert_eq!(digits, format!("{n:x}"), "a chunk size in its short form");
        self.at += end + 1;
        Some(n)
    }

    fn trailers(&mut self) -> Option<Vec<(String, String)>> {
        let rest = &self.bytes[self.at..];
        if rest.len() < 2 {
            return None;
        }
        if rest.starts_with(b"\r\n") {
            self.at += 2;
            return Some(Vec::new());
        }
        let text = self.section()?;
        Some(text.split("\r\n").map(field).collect())
    }
}
