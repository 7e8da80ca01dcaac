//! Bodies: bytes that do not repeat, so that a lost, doubled or moved piece is seen.

/// A body that arrives with its head.
pub const SMALL: usize = 1000;
/// A body that outgrows every buffer, so that the kernel moves it (splice).
pub const LARGE: usize = 8 * 1024 * 1024;
/// Every test of a body runs with both.
pub const SIZES: [usize; 2] = [SMALL, LARGE];

/// `len` bytes of a fixed pseudo-random sequence (xorshift), with CR and LF among them.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
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

/// `body` in chunks of growing, odd sizes, with the last chunk but without trailers.
pub fn chunked(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + body.len() / 64 + 16);
    let (mut rest, mut size) = (body, 1);
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(size.min(rest.len()));
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        (rest, size) = (after, (size * 3 + 1).min(100_003));
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

/// Compares without printing megabytes.
#[track_caller]
pub fn same_bytes(got: &[u8], wanted: &[u8]) {
    let differs = got.iter().zip(wanted).position(|(a, b)| a != b);
    assert!(
        got == wanted,
        "{} bytes, wanted {}; first difference at {differs:?}",
        got.len(),
        wanted.len()
    );
}
