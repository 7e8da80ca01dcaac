//! A log's file: written without ever waiting for it.
//!
//! A regular file takes what it gets. A pipe, terminal or socket is asked first
//! whether it would block, and then given no more than it is sure to take.
//! What cannot be written is the caller's to keep or to drop.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::process::writable_now;

/// What a writable pipe is sure to take (pipe(7), PIPE_BUF).
const PIPE_BYTES: usize = 4096;

pub struct Sink {
    file: File,
    regular: bool,
}

impl Sink {
    pub fn new(fd: OwnedFd) -> Sink {
        let mut file = File::from(fd);
        // What has a position is no pipe, terminal or socket; a worker may not ask in any other way.
        let regular = file.stream_position().is_ok();
        Sink { file, regular }
    }

    /// Writes what goes now; returns how much.
    pub fn write_some(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            let rest = &bytes[written..];
            let piece = if self.regular {
                rest
            } else {
                whole_lines(rest)
            };
            if !self.regular && !writable_now(self.file.as_fd()) {
                break;
            }
            match self.file.write(piece) {
                Ok(0) => break,
                Ok(n) => written += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        written
    }
}

/// As many whole lines as a pipe is sure to take in one piece; of a longer one its start.
fn whole_lines(bytes: &[u8]) -> &[u8] {
    let most = &bytes[..bytes.len().min(PIPE_BYTES)];
    match most.iter().rposition(|byte| *byte == b'\n') {
        Some(end) => &most[..=end],
        None => most,
    }
}
