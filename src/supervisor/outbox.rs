//! What a control client has still to read.
//!
//! Long pieces are shared: a dump among all who asked for the same one, an
//! event among all who listen. So what nobody reads costs little.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::rc::Rc;

/// Pieces handed to the kernel at once.
const PIECES_MAX: usize = 64;

enum Piece {
    Own(Vec<u8>),
    Shared(Rc<str>),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Own(bytes) => bytes,
            Piece::Shared(text) => text.as_bytes(),
        }
    }
}

/// Bytes to be sent, in order.
#[derive(Default)]
pub struct Outbox {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that are sent.
    sent: usize,
    len: usize,
}

impl Outbox {
    /// Bytes that are not sent.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, text: &str) {
        self.len += text.len();
        match self.pieces.back_mut() {
            Some(Piece::Own(bytes)) => bytes.extend_from_slice(text.as_bytes()),
            _ if text.is_empty() => {}
            _ => self.pieces.push_back(Piece::Own(text.into())),
        }
    }

    pub fn push_shared(&mut self, text: Rc<str>) {
        if !text.is_empty() {
            self.len += text.len();
            self.pieces.push_back(Piece::Shared(text));
        }
    }

    /// Sends what the other side takes now. That it takes no more is no error.
    pub fn send(&mut self, mut to: impl Write) -> io::Result<()> {
        while !self.is_empty() {
            let mut skip = self.sent;
            let slice = |piece| {
                let bytes = Piece::bytes(piece);
                IoSlice::new(bytes.get(std::mem::take(&mut skip)..).unwrap_or_default())
            };
            let slices: Vec<IoSlice> = self.pieces.iter().take(PIECES_MAX).map(slice).collect();
            match to.write_vectored(&slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.drop_sent(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn drop_sent(&mut self, n: usize) {
        self.len -= n;
        self.sent += n;
        while let Some(first) = self.pieces.front() {
            let length = first.bytes().len();
            if self.sent < length {
                return;
            }
            self.sent -= length;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes a few bytes at a time, and now and then none.
    struct Slow(Vec<u8>, usize);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(3) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let n = bytes.len().min(self.1 % 7);
            self.0.extend_from_slice(&bytes[..n.max(1)]);
            Ok(n.max(1))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn everything_goes_out_in_order() {
        let mut outbox = Outbox::default();
        let mut wanted = String::new();
        let long: Rc<str> = "abcdefghijklmnopqrstuvwxyz".repeat(3).into();
        let mut slow = Slow(Vec::new(), 0);
        for n in 0..200 {
            let own = format!("{n} ");
            outbox.push(&own);
            outbox.push("");
            outbox.push_shared(long.clone());
            wanted = wanted + &own + &long;
            outbox.send(&mut slow).unwrap();
            assert_eq!(slow.0.len() + outbox.len(), wanted.len());
        }
        while !outbox.is_empty() {
            outbox.send(&mut slow).unwrap();
        }
        assert_eq!(slow.0, wanted.as_bytes());
        assert_eq!(Rc::strong_count(&long), 1);
    }
}
