//! Parsed heads in the log.

use crate::http::fields::Head;
use crate::parser::http11::{self, Name};

/// A parsed head, for who asked for it (RUST_LOG). What proves who
/// somebody is stays out of every log.
pub fn trace(head: Head) {
    let start = head
        .bytes
        .split(|byte| *byte == b'\r')
        .find(|line| !line.is_empty());
    let mut text = String::from_utf8_lossy(start.unwrap_or_default()).into_owned();
    for field in head.lines {
        let (name, value) = (field.name.of(head.bytes), field.value.of(head.bytes));
        text.push_str(&format!(" | {}: ", String::from_utf8_lossy(name)));
        match field.known {
            Name::Authorization | Name::ProxyAuthorization | Name::Cookie | Name::SetCookie => {
                text.push_str(&format!("({} bytes)", value.len()));
            }
            _ => text.push_str(&String::from_utf8_lossy(value)),
        }
    }
    let text: String = text.chars().flat_map(escape).collect();
    log::trace!(target: http11::LOG, "{text}");
}

/// No byte from outside speaks to a terminal.
fn escape(c: char) -> impl Iterator<Item = char> {
    let plain = (!c.is_control()).then_some(c);
    let escaped = c.is_control().then(|| c.escape_default());
    plain.into_iter().chain(escaped.into_iter().flatten())
}
