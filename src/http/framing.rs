//! THE table: which body follows a head (RFC 9112 section 6).

use crate::http::fields::Head;
use crate::limits::CONTENT_LENGTH_DIGITS_MAX;
use crate::parser::http11::{Name, Refusal, Version};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    /// Content-Length, in bytes.
    Counted(u64),
    Chunked,
    /// A response without framing.
    UntilClose,
}

fn refusal(status: u16, what: &'static str) -> Refusal {
    Refusal {
        status,
        at: 0,
        what,
    }
}

/// A request's body. Never depends on the method; never ends by close.
pub fn request_body(version: Version, head: Head) -> Result<Body, Refusal> {
    let mut lengths = head.all(Name::ContentLength);
    let mut encodings = head.all(Name::TransferEncoding);
    match (encodings.next(), lengths.next()) {
        (None, None) => Ok(Body::None),
        (None, Some(length)) => {
            if lengths.next().is_some() {
                return Err(refusal(400, "more than one Content-Length"));
            }
            match content_length(length) {
                Some(0) => Ok(Body::None),
                Some(n) => Ok(Body::Counted(n)),
                None => Err(refusal(400, "Content-Length is not a number of bytes")),
            }
        }
        (Some(_), _) if version == Version::Http10 => {
            Err(refusal(400, "Transfer-Encoding in HTTP/1.0"))
        }
        (Some(_), Some(_)) => Err(refusal(400, "Transfer-Encoding and Content-Length")),
        (Some(encoding), None) => {
            if encodings.next().is_some() {
                return Err(refusal(400, "more than one Transfer-Encoding"));
            }
            if encoding.eq_ignore_ascii_case(b"chunked") {
                return Ok(Body::Chunked);
            }
            let first = encoding.split(|b| *b == b',').next().unwrap_or_default();
            if first.trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return Err(refusal(400, "a transfer coding after chunked"));
            }
            Err(refusal(501, "a transfer coding other than chunked"))
        }
    }
}

/// A final response's body. `to_head`: it answers a HEAD request.
pub fn response_body(
    version: Version,
    status: u16,
    to_head: bool,
    head: Head,
) -> Result<Body, &'static str> {
    if to_head || status == 204 || status == 304 {
        return Ok(Body::None);
    }
    let mut lengths = head.all(Name::ContentLength);
    let mut encodings = head.all(Name::TransferEncoding);
    match (encodings.next(), lengths.next()) {
        (None, None) => Ok(Body::UntilClose),
        (None, Some(length)) => {
            let n = content_length(length).ok_or("Content-Length is not a number of bytes")?;
            // RFC 9110 section 8.6 lets a recipient take equal ones for one.
            if lengths.any(|other| content_length(other) != Some(n)) {
                return Err("two Content-Length that differ");
            }
            Ok(if n == 0 { Body::None } else { Body::Counted(n) })
        }
        (Some(_), _) if version == Version::Http10 => Err("Transfer-Encoding in HTTP/1.0"),
        (Some(_), Some(_)) => Err("Transfer-Encoding and Content-Length"),
        (Some(encoding), None) => {
            if encodings.next().is_some() {
                return Err("more than one Transfer-Encoding");
            }
            if !encoding.eq_ignore_ascii_case(b"chunked") {
                return Err("a transfer coding other than chunked");
            }
            Ok(Body::Chunked)
        }
    }
}

/// 1 to 18 digits and nothing else.
pub fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > CONTENT_LENGTH_DIGITS_MAX {
        return None;
    }
    value.iter().try_fold(0u64, |n, byte| match byte {
        b'0'..=b'9' => Some(n * 10 + u64::from(byte - b'0')),
        _ => None,
    })
}
