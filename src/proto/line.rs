//! Bytes to lines, lines to words, words to lines.
//!
//! Owns: the grammar, and the bound on what an unfinished line may hold. Never:
//! what a word means. Called by `command` and `reply`, and by whoever reads a
//! socket or the saved state.

use crate::limits::{CONTROL_LINE_BYTES_MAX, CONTROL_WORDS_MAX, LINE_ROOM_BYTES};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    Bare(String),
    Pair { key: String, value: String },
}

/// Why a line is none: one sentence.
pub type Error = String;

/// The words of a line, which comes without its LF.
pub fn split(line: &str) -> Result<Vec<Word>, Error> {
    if line.len() > CONTROL_LINE_BYTES_MAX {
        return Err(too_long());
    }
    let mut words = Vec::new();
    let mut rest = line.trim_matches(' ');
    while !rest.is_empty() {
        if words.len() == CONTROL_WORDS_MAX {
            return Err(format!("a line has at most {CONTROL_WORDS_MAX} words"));
        }
        let (word, behind) = first_word(rest)?;
        words.push(word);
        if !behind.is_empty() && !behind.starts_with(' ') {
            return Err("a closing quote is followed by a space or the end of the line".into());
        }
        rest = behind.trim_start_matches(' ');
    }
    Ok(words)
}

/// The value of a key among words; of several the first.
pub fn value_of<'w>(words: &'w [Word], wanted: &str) -> Option<&'w str> {
    words.iter().find_map(|word| match word {
        Word::Pair { key, value } if key == wanted => Some(value.as_str()),
        _ => None,
    })
}

/// One line, without its LF, that `split` takes apart again.
pub fn join(words: &[Word]) -> String {
    let mut line = String::new();
    for word in words {
        if !line.is_empty() {
            line.push(' ');
        }
        match word {
            // Else it would be read as a pair.
            Word::Bare(text) if text.contains('=') => quote_always(&mut line, text),
            Word::Bare(text) => quote(&mut line, text),
            Word::Pair { key, value } => {
                line.push_str(key);
                line.push('=');
                quote(&mut line, value);
            }
        }
    }
    line
}

/// Writes a value: bare if it consists of safe characters, else quoted.
///
/// Control characters but LF, CR and TAB have no spelling; `config` lets none in.
pub fn quote(out: &mut String, value: &str) {
    let safe = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    match !value.is_empty() && value.bytes().all(safe) {
        true => out.push_str(value),
        false => quote_always(out, value),
    }
}

/// Writes a value in quotes.
pub fn quote_always(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// The first word of a text that does not start with a space, and what follows it.
fn first_word(text: &str) -> Result<(Word, &str), Error> {
    if let Some(quoted) = text.strip_prefix('"') {
        let (value, behind) = unquote(quoted)?;
        return Ok((Word::Bare(value), behind));
    }
    let end = text.find([' ', '=']).unwrap_or(text.len());
    let (start, behind) = text.split_at(end);
    let Some(behind) = behind.strip_prefix('=') else {
        check_bare(start)?;
        return Ok((Word::Bare(start.to_string()), behind));
    };
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if start.is_empty() || !start.bytes().all(known) {
        let start: String = start.chars().take(64).collect();
        return Err(format!(
            "{start:?} before \"=\" is no key: a key has a-z, 0-9 and _"
        ));
    }
    let key = start.to_string();
    if let Some(quoted) = behind.strip_prefix('"') {
        let (value, behind) = unquote(quoted)?;
        return Ok((Word::Pair { key, value }, behind));
    }
    let (value, behind) = behind.split_at(behind.find(' ').unwrap_or(behind.len()));
    check_bare(value)?;
    if value.is_empty() {
        return Err(format!(
            "{key} has no value: write {key}=\"\" for an empty one"
        ));
    }
    let value = value.to_string();
    Ok((Word::Pair { key, value }, behind))
}

fn check_bare(text: &str) -> Result<(), Error> {
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(control_character(c));
    }
    match text.contains(['"', '\\']) {
        true => Err("a value with a quote or a backslash stands in quotes".into()),
        false => Ok(()),
    }
}

/// The value behind an opening quote, and what follows its closing one.
fn unquote(text: &str) -> Result<(String, &str), Error> {
    let mut value = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next() {
            Some('"') => return Ok((value, chars.as_str())),
            Some('\\') => value.push(match chars.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(c @ ('"' | '\\')) => c,
                _ => return Err("a backslash is followed by one of \" \\ n r t".into()),
            }),
            Some(c) if c.is_control() => return Err(control_character(c)),
            Some(c) => value.push(c),
            None => return Err("a quote is opened and not closed".into()),
        }
    }
}

fn control_character(c: char) -> Error {
    format!("control character U+{:04X} in a line", u32::from(c))
}

fn too_long() -> Error {
    format!("a line has at most {CONTROL_LINE_BYTES_MAX} bytes")
}

/// Received bytes as lines. What is refused ends at the next LF; what follows is read again.
///
/// It holds one unfinished line at most, if every push is followed by
/// `next_line` until that gives `None`.
#[derive(Debug, Default)]
pub struct LineReader {
    bytes: Vec<u8>,
    /// Where the next line starts.
    start: usize,
    /// Up to here there is no LF behind `start`.
    searched: usize,
    /// The line is refused already; its end is not yet there.
    skipping: bool,
}

impl LineReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes that are no line yet, once `next_line` has given `None`.
    pub fn unfinished(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// One that goes on where another one was.
    pub fn resumed(bytes: Vec<u8>, skipping: bool) -> LineReader {
        LineReader {
            bytes,
            skipping,
            ..LineReader::default()
        }
    }

    /// What it has not given as lines yet, and whether the line that this begins with is refused already.
    pub fn rest(&self) -> (&[u8], bool) {
        let rest = self.bytes.get(self.start..).unwrap_or_default();
        (rest, self.skipping)
    }

    /// Forgets the unfinished line, and what is still to come of it.
    pub fn give_up(&mut self) {
        *self = LineReader {
            skipping: true,
            ..LineReader::default()
        };
    }

    /// Whether some bytes of an unfinished line are there.
    pub fn is_inside_line(&self) -> bool {
        self.skipping || self.start < self.bytes.len()
    }

    /// The next line without its LF.
    pub fn next_line(&mut self) -> Option<Result<String, Error>> {
        loop {
            let unsearched = self.bytes.get(self.searched..)?;
            let Some(length) = unsearched.iter().position(|byte| *byte == b'\n') else {
                return self.no_line();
            };
            let end = self.searched + length;
            let line = self.bytes.get(self.start..end).unwrap_or_default();
            let line = match line.len() > CONTROL_LINE_BYTES_MAX {
                true => Err(too_long()),
                false => std::str::from_utf8(line)
                    .map(str::to_string)
                    .map_err(not_utf8),
            };
            self.start = end + 1;
            self.searched = self.start;
            if !std::mem::take(&mut self.skipping) {
                return Some(line);
            }
        }
    }

    fn no_line(&mut self) -> Option<Result<String, Error>> {
        self.searched = self.bytes.len();
        // Nothing is kept of a long line that is read.
        if self.start == self.searched && self.bytes.capacity() > LINE_ROOM_BYTES {
            self.bytes = Vec::new();
            self.start = 0;
            self.searched = 0;
        }
        if !self.skipping && self.searched - self.start <= CONTROL_LINE_BYTES_MAX {
            return None;
        }
        self.bytes = Vec::new();
        self.start = 0;
        self.searched = 0;
        match std::mem::replace(&mut self.skipping, true) {
            true => None,
            false => Some(Err(too_long())),
        }
    }
}

fn not_utf8(_: std::str::Utf8Error) -> Error {
    "a line is UTF-8".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(text: &str) -> Word {
        Word::Bare(text.into())
    }

    fn pair(key: &str, value: &str) -> Word {
        Word::Pair {
            key: key.into(),
            value: value.into(),
        }
    }

    #[test]
    fn lines_are_split() {
        for (line, words) in [
            ("", vec![]),
            ("  ", vec![]),
            (" ping  ", vec![bare("ping")]),
            ("a b=c", vec![bare("a"), pair("b", "c")]),
            ("b=c=d", vec![pair("b", "c=d")]),
            (r#"b="""#, vec![pair("b", "")]),
            (r#""""#, vec![bare("")]),
            (r#""x=y" z"#, vec![bare("x=y"), bare("z")]),
            (r#"b="\"\\\n\r\t é=""#, vec![pair("b", "\"\\\n\r\t é=")]),
            ("a=é", vec![pair("a", "é")]),
        ] {
            assert_eq!(split(line).as_ref(), Ok(&words), "{line}");
            assert_eq!(split(&join(&words)), Ok(words), "{line}");
        }
    }

    #[test]
    fn bad_lines_are_refused() {
        let long = "x".repeat(CONTROL_LINE_BYTES_MAX + 1);
        let many = "x ".repeat(CONTROL_WORDS_MAX + 1);
        for line in [
            "=a",
            "A=b",
            "a-b=c",
            "a=",
            "a= b",
            "a=b\"",
            "a\"b\"",
            "a\\",
            "\"a",
            "a=\"b",
            "\"a\"b",
            "\"\\x\"",
            "\"\\",
            "a=\"b\"c",
            "a\r",
            "\"\u{7f}\"",
            "a\0",
            "a=\u{1b}",
            "\"a\"=b",
            &long,
            &many,
        ] {
            assert!(split(line).is_err(), "{line}");
        }
    }

    fn drain(reader: &mut LineReader) -> Vec<Result<String, Error>> {
        std::iter::from_fn(|| reader.next_line()).collect()
    }

    #[test]
    fn lines_are_the_same_however_they_arrive() {
        let text = b"one\n\ntw\xc3\xa9o\n\xff\nlast";
        for size in 1..text.len() {
            let mut reader = LineReader::default();
            let mut lines = Vec::new();
            for part in text.chunks(size) {
                reader.push(part);
                lines.extend(drain(&mut reader));
            }
            let good: Vec<&str> = lines.iter().flatten().map(String::as_str).collect();
            assert_eq!(good, ["one", "", "twéo"]);
            assert!(lines.len() == 4 && lines[3].is_err());
            assert!(reader.is_inside_line());
        }
    }

    #[test]
    fn a_long_line_is_refused_once_and_forgotten() {
        let mut reader = LineReader::default();
        let mut lines = Vec::new();
        for _ in 0..40 {
            reader.push(&[b'x'; 65536]);
            lines.extend(drain(&mut reader));
            assert!(reader.bytes.len() <= CONTROL_LINE_BYTES_MAX + 65536);
        }
        reader.push(b"\nping\n");
        lines.extend(drain(&mut reader));
        assert_eq!(lines, [Err(too_long()), Ok("ping".to_string())]);

        let mut exact = vec![b'x'; CONTROL_LINE_BYTES_MAX];
        exact.push(b'\n');
        reader.push(&exact);
        assert!(drain(&mut reader)[0].is_ok());
        exact.insert(0, b'x');
        reader.push(&exact);
        assert_eq!(drain(&mut reader), [Err(too_long())]);
    }
}
