//! HTTP and WebSocket messages as both ends of the proxy see them here: whole ones, strictly read.

/// A request or an answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// The first line.
    pub start: String,
    fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// The value of a field, whose name is in small letters.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut named = self.fields.iter().filter(|(known, _)| known == name);
        named.next().map(|(_, value)| value.as_str())
    }

    /// The connection is not to be used again.
    pub fn closes(&self) -> bool {
        let connection = self.field("connection").unwrap_or("");
        connection
            .split(',')
            .any(|word| word.trim().eq_ignore_ascii_case("close"))
    }

    /// The second word of the first line: the target, or the status.
    pub fn second(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or("")
    }
}

/// The first message of `bytes` and its length; nothing if it is not whole yet.
pub fn read(bytes: &[u8]) -> Result<Option<(Message, usize)>, String> {
    let Some(head) = find(bytes, b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&bytes[..head]).map_err(|e| e.to_string())?;
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or("").to_string();
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(format!("a field: {line:?}"))?;
        fields.push((name.to_ascii_lowercase(), value.trim().to_string()));
    }
    let mut message = Message {
        start,
        fields,
        body: Vec::new(),
    };
    let rest = &bytes[head + 4..];
    let used = if message.field("transfer-encoding").is_some() {
        let Some((body, used)) = dechunk(rest)? else {
            return Ok(None);
        };
        message.body = body;
        used
    } else {
        let length = message.field("content-length").unwrap_or("0");
        let length: usize = length.parse().map_err(|_| format!("length {length:?}"))?;
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        message.body = body.to_vec();
        length
    };
    Ok(Some((message, head + 4 + used)))
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn dechunk(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = find(&bytes[at..], b"\r\n") else {
            return Ok(None);
        };
        let size = String::from_utf8_lossy(&bytes[at..at + line]);
        let size = usize::from_str_radix(&size, 16).map_err(|_| format!("chunk {size:?}"))?;
        at += line + 2;
        let Some(chunk) = bytes.get(at..at + size + 2) else {
            return Ok(None);
        };
        if !chunk.ends_with(b"\r\n") {
            return Err("a chunk without its end".to_string());
        }
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}

pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let size = format!("{:x}\r\n", bytes.len());
    [size.as_bytes(), bytes, b"\r\n"].concat()
}

/// The bytes that belong to that number: none is like another one's.
pub fn pattern(id: u64, len: usize) -> Vec<u8> {
    let mut state = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Frames of at most 125 bytes. A client's is masked.
pub mod frame {
    pub const BINARY: u8 = 2;
    pub const CLOSE: u8 = 8;
    const FINAL: u8 = 0x80;
    const MASKED: u8 = 0x80;

    pub fn write(kind: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
        let length = payload.len() as u8;
        let mut bytes = vec![FINAL | kind, length];
        match mask {
            None => bytes.extend_from_slice(payload),
            Some(mask) => {
                bytes[1] |= MASKED;
                bytes.extend_from_slice(&mask);
                bytes.extend(unmask(payload, mask));
            }
        }
        bytes
    }

    fn unmask(payload: &[u8], mask: [u8; 4]) -> impl Iterator<Item = u8> + '_ {
        payload
            .iter()
            .zip(mask.into_iter().cycle())
            .map(|(byte, key)| byte ^ key)
    }

    /// A client's frame: its kind, its payload, its length.
    pub fn read_masked(bytes: &[u8]) -> Option<(u8, Vec<u8>, usize)> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let end = 6 + usize::from(second & !MASKED);
        let mask = bytes.get(2..6)?.try_into().ok()?;
        let payload = unmask(bytes.get(6..end)?, mask).collect();
        Some((first & !FINAL, payload, end))
    }
}
