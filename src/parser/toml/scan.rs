//! The text of a TOML file from its start to its end: blanks, keys, strings, numbers.

use super::table::Name;
use super::{fault, Fault, Value};
use crate::limits::CONFIG_DEPTH_MAX;

pub const BYTE_ORDER_MARK: char = '\u{feff}';

pub struct Scanner<'a> {
    text: &'a str,
    /// What is read already, in bytes; always between two characters.
    pub at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Scanner<'a> {
        let mut scanner = Scanner { text, at: 0 };
        if scanner.peek() == Some(BYTE_ORDER_MARK) {
            scanner.next();
        }
        scanner
    }

    pub fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    pub fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Blanks, then that.
    pub fn expect(&mut self, token: &str) -> Result<(), Fault> {
        self.skip_blanks();
        if self.take(token) {
            return Ok(());
        }
        let found = self.describe_next();
        fault(self.at, format!("expected {token:?}, found {found}"))
    }

    fn describe_next(&self) -> String {
        match self.peek() {
            None => "the end of the file".into(),
            Some('\n' | '\r') => "the end of the line".into(),
            Some(c) if c.is_control() => format!("control character U+{:04X}", u32::from(c)),
            Some(c) => format!("{:?}", c.to_string()),
        }
    }

    pub fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    /// LF or CRLF.
    fn take_line_end(&mut self) -> bool {
        self.take("\n") || self.take("\r\n")
    }

    /// Blanks and a comment.
    fn skip_comment(&mut self) -> Result<(), Fault> {
        self.skip_blanks();
        if !self.take("#") {
            return Ok(());
        }
        while let Some(c) = self.peek() {
            if c == '\n' || self.rest().starts_with("\r\n") {
                break;
            }
            self.check_printable(c)?;
            self.next();
        }
        Ok(())
    }

    /// Blanks, comments and ends of lines.
    pub fn skip_lines(&mut self) -> Result<(), Fault> {
        loop {
            self.skip_comment()?;
            if !self.take_line_end() {
                return Ok(());
            }
        }
    }

    /// Nothing but a comment up to the end of the line.
    pub fn end_of_line(&mut self) -> Result<(), Fault> {
        self.skip_comment()?;
        if self.peek().is_none() || self.take_line_end() {
            return Ok(());
        }
        let found = self.describe_next();
        fault(
            self.at,
            format!("expected the end of the line, found {found}"),
        )
    }

    /// Tabs are fine everywhere, other control characters nowhere.
    fn check_printable(&self, c: char) -> Result<(), Fault> {
        if c == '\t' || !c.is_ascii_control() {
            return Ok(());
        }
        let code = u32::from(c);
        fault(
            self.at,
            format!("control character U+{code:04X} cannot stand here"),
        )
    }

    /// A key: names with dots between, and blanks around them.
    pub fn names(&mut self) -> Result<Vec<Name>, Fault> {
        let mut names = Vec::new();
        loop {
            self.skip_blanks();
            if names.len() == CONFIG_DEPTH_MAX {
                return fault(self.at, format!("nested deeper than {CONFIG_DEPTH_MAX}"));
            }
            let at = self.at;
            let text = self.name()?;
            names.push(Name { text, at });
            self.skip_blanks();
            if !self.take(".") {
                return Ok(names);
            }
        }
    }

    fn name(&mut self) -> Result<String, Fault> {
        match self.peek() {
            Some(quote @ ('"' | '\'')) => {
                self.next();
                return self.line_string(quote);
            }
            _ => {
                let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                let rest = self.rest();
                let end = rest.find(|c| !bare(c)).unwrap_or(rest.len());
                let (name, _) = rest.split_at(end);
                self.at += end;
                if !name.is_empty() {
                    return Ok(name.to_string());
                }
            }
        }
        let found = self.describe_next();
        fault(self.at, format!("expected a key, found {found}"))
    }

    /// A string of any of the four kinds.
    pub fn string(&mut self) -> Result<String, Fault> {
        if self.take("\"\"\"") {
            return self.long_string('"');
        }
        if self.take("'''") {
            return self.long_string('\'');
        }
        match self.next() {
            Some(quote) => self.line_string(quote),
            None => fault(self.at, "expected a string"),
        }
    }

    /// Behind the opening quote; ends on the same line.
    fn line_string(&mut self, quote: char) -> Result<String, Fault> {
        let mut string = String::new();
        loop {
            match self.peek() {
                Some(c) if c == quote => {
                    self.next();
                    return Ok(string);
                }
                None | Some('\n' | '\r') => {
                    return fault(self.at, "a string is not closed on its line");
                }
                Some('\\') if quote == '"' => string.push(self.escape()?),
                Some(c) => {
                    self.check_printable(c)?;
                    self.next();
                    string.push(c);
                }
            }
        }
    }

    /// Behind three opening quotes. Ends of lines are LF in the value, as on every Unix.
    fn long_string(&mut self, quote: char) -> Result<String, Fault> {
        let opened = self.at;
        let mut string = String::new();
        self.take_line_end();
        loop {
            if self.take_line_end() {
                string.push('\n');
                continue;
            }
            match self.peek() {
                None => return fault(opened, "a string is opened here and not closed"),
                Some(c) if c == quote => {
                    let quotes = self.quotes(quote);
                    // Three close it; one or two more before them are its own.
                    let own = if quotes < 3 { quotes } else { quotes - 3 };
                    string.extend(std::iter::repeat_n(quote, own));
                    if quotes >= 3 {
                        return Ok(string);
                    }
                }
                Some('\\') if quote == '"' => {
                    if !self.join_lines() {
                        string.push(self.escape()?);
                    }
                }
                Some(c) => {
                    self.check_printable(c)?;
                    self.next();
                    string.push(c);
                }
            }
        }
    }

    /// Takes up to five quotes.
    fn quotes(&mut self, quote: char) -> usize {
        let quotes = self
            .rest()
            .chars()
            .take(5)
            .take_while(|c| *c == quote)
            .count();
        self.at += quotes;
        quotes
    }

    /// A backslash at the end of a line takes all blanks and ends of lines behind it.
    fn join_lines(&mut self) -> bool {
        let start = self.at;
        self.next();
        self.skip_blanks();
        if !self.take_line_end() {
            self.at = start;
            return false;
        }
        self.skip_blanks();
        while self.take_line_end() {
            self.skip_blanks();
        }
        true
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let at = self.at;
        self.next();
        let digits = match self.next() {
            Some('b') => return Ok('\u{8}'),
            Some('t') => return Ok('\t'),
            Some('n') => return Ok('\n'),
            Some('f') => return Ok('\u{c}'),
            Some('r') => return Ok('\r'),
            Some(c @ ('"' | '\\')) => return Ok(c),
            Some('u') => 4,
            Some('U') => 8,
            _ => return fault(at, "a backslash is followed by one of b t n f r \" \\ u U"),
        };
        let hex = self.rest().get(..digits).unwrap_or_default();
        let all_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let code = u32::from_str_radix(hex, 16).ok().filter(|_| all_hex);
        match code.and_then(char::from_u32) {
            Some(c) => {
                self.at += digits;
                Ok(c)
            }
            None => fault(
                at,
                format!("expected the {digits} hexadecimal digits of a character"),
            ),
        }
    }

    /// A boolean or a number.
    pub fn scalar(&mut self) -> Result<Value, Fault> {
        let at = self.at;
        let part = |c: char| c.is_ascii_alphanumeric() || "_+-.:".contains(c);
        let rest = self.rest();
        let end = rest.find(|c| !part(c)).unwrap_or(rest.len());
        let (token, _) = rest.split_at(end);
        if token.is_empty() {
            let found = self.describe_next();
            return fault(at, format!("expected a value, found {found}"));
        }
        self.at += end;
        match token {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => number(token)
                .map(Value::Integer)
                .or_else(|what| fault(at, what)),
        }
    }
}

fn number(token: &str) -> Result<i64, String> {
    let unsigned = token.strip_prefix(['+', '-']).unwrap_or(token);
    if unsigned == "inf" || unsigned == "nan" {
        return Err(format!("{token} is a float, which is not supported here"));
    }
    if !unsigned.starts_with(|c: char| c.is_ascii_digit()) {
        let start: String = token.chars().take(40).collect();
        return Err(format!(
            "{start:?} is not a value: a string stands in quotes"
        ));
    }
    if unsigned.contains(':') || unsigned.as_bytes().get(4) == Some(&b'-') {
        return Err("dates and times are not supported here".into());
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = token.strip_prefix(prefix) {
            return integer(digits, radix, false);
        }
    }
    let plain = |byte: u8| byte.is_ascii_digit() || byte == b'_';
    if !unsigned.bytes().all(plain) {
        let floating = |byte: u8| plain(byte) || b"+-.eE".contains(&byte);
        return Err(match unsigned.bytes().all(floating) {
            true => "floats are not supported here".into(),
            false => "is not a number: a string stands in quotes".into(),
        });
    }
    if unsigned.len() > 1 && unsigned.starts_with('0') {
        return Err("a number does not start with 0".into());
    }
    integer(unsigned, 10, token.starts_with('-'))
}

/// Digits with single underscores between them.
fn integer(text: &str, radix: u32, negative: bool) -> Result<i64, String> {
    let parts = || text.split('_');
    let good = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_digit(radix));
    if !parts().all(good) {
        return Err("a number consists of digits, and single \"_\" between them".into());
    }
    let mut digits = String::from(if negative { "-" } else { "" });
    digits.extend(parts());
    let number = i64::from_str_radix(&digits, radix);
    number.map_err(|_| "a number has at most 64 bits".into())
}
