//! The opening handshake of a WebSocket (RFC 6455 section 4).

use openssl::base64;
use openssl::sha::sha1;

use crate::http::fields::{Head, Options};
use crate::parser::http11::Name;

/// The Sec-WebSocket-Accept that answers a key: SHA-1 in base64.
pub type Accept = [u8; 28];

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Whether a GET asks for the upgrade as it should, and how it has to be accepted.
pub fn handshake(options: Options, head: Head) -> Option<Accept> {
    let one = |name| {
        let mut all = head.all(name);
        match (all.next(), all.next()) {
            (Some(value), None) => value,
            _ => &[],
        }
    };
    let key = one(Name::SecWebSocketKey);
    let asked = options.upgrade
        && one(Name::Upgrade).eq_ignore_ascii_case(b"websocket")
        && one(Name::SecWebSocketVersion) == b"13"
        && is_key(key);
    asked.then(|| accept_of(key))
}

/// 16 bytes in base64.
fn is_key(key: &[u8]) -> bool {
    let digit = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(digit)
}

fn accept_of(key: &[u8]) -> Accept {
    let text = base64::encode_block(&sha1(&[key, GUID].concat()));
    let mut accept = [0; 28];
    accept.copy_from_slice(text.as_bytes());
    accept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        let key = b"dGhlIHNhbXBsZSBub25jZQ==";
        assert!(is_key(key));
        assert_eq!(&accept_of(key), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!is_key(b"dGhlIHNhbXBsZSBub25jZQ=") && !is_key(b"dGhlIHNhbXBsZSBub25j\n?=="));
    }
}
