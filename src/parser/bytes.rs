//! Bytes by what they may be part of, and the two searches over them.
//!
//! Owns the classes of RFC 9110 section 5.6.2 and RFC 3986. Never decides what
//! a wrong byte means. Called by `http11`.

/// What a byte may be part of, as bits.
pub const TOKEN: u8 = 1;
pub const TARGET: u8 = 2;

const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let token = b"!#$%&'*+-.^_`|~";
    let mut byte = 0x21;
    while byte < 0x7f {
        let mut is_token = (byte as u8).is_ascii_alphanumeric();
        let mut i = 0;
        while i < token.len() {
            is_token |= token[i] as usize == byte;
            i += 1;
        }
        class[byte] = if is_token { TOKEN } else { 0 };
        class[byte] |= if byte == b'#' as usize { 0 } else { TARGET };
        byte += 1;
    }
    class
};

/// The end of the run of bytes of a class from `start`.
pub fn run(bytes: &[u8], start: usize, class: u8) -> usize {
    let rest = bytes.get(start..).unwrap_or_default();
    start
        + rest
            .iter()
            .take_while(|b| CLASS[usize::from(**b)] & class != 0)
            .count()
}

/// Offset of the first control character but TAB from `start`; the length if none.
/// DEL is one. Eight bytes at a time: of a word, the high bit of each byte that counts.
pub fn control(bytes: &[u8], start: usize) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const LOW: u64 = 0x7f * EACH;
    const HIGH: u64 = 0x80 * EACH;
    let rest = bytes.get(start..).unwrap_or_default();
    let mut words = rest.chunks_exact(8);
    let mut at = start;
    for word in words.by_ref() {
        let word = word
            .iter()
            .rev()
            .fold(0, |word, b| (word << 8) | u64::from(*b));
        // No sum of seven bits and what is added carries into the next byte.
        let low = word & LOW;
        let from_space = low + 0x60 * EACH;
        let tab = word ^ (0x09 * EACH);
        let not_tab = ((tab & LOW) + LOW) | tab;
        let delete = low + EACH;
        let found = ((!from_space & not_tab) | delete) & !word & HIGH;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let tail = words.remainder();
    at + tail
        .iter()
        .take_while(|b| **b == b'\t' || **b >= 0x20 && **b != 0x7f)
        .count()
}

/// Bytes as hexadecimal digits, two each.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 15)]);
    let pairs = bytes.iter().flat_map(|b| [digit(b >> 4), digit(*b)]);
    pairs.collect()
}

/// The bytes that `hex` has written.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| (*byte as char).to_digit(16).map(|value| value as u8);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&all)).as_deref(), Some(&all[..]));
        assert_eq!(hex(b"\x00\xff\x1a"), "00ff1a");
        assert_eq!(unhex(""), Some(Vec::new()));
        for bad in ["0", "0g", "+1", "é", "00 "] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
