//! Where `log` lines go. A line that would block is lost and counted, never waited for.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::date;
use crate::net::sink::Sink;

static LOST: AtomicU64 = AtomicU64::new(0);

/// Lines that could not be written.
pub fn lost() -> u64 {
    LOST.load(Relaxed)
}

/// Where lines go now.
static SINK: Mutex<Option<Sink>> = Mutex::new(None);

struct Lines;

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sink = SINK.lock().unwrap_or_else(PoisonError::into_inner);
        let written = sink.as_mut().map_or(0, |sink| sink.write_some(bytes));
        if written < bytes.len() {
            LOST.fetch_add(1, Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Lines go into another file from now on.
pub fn reopen(file: OwnedFd) {
    *SINK.lock().unwrap_or_else(PoisonError::into_inner) = Some(Sink::new(file));
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_millis() as u64
}

/// Starts logging for this process. `filter` is in the syntax of RUST_LOG, `who` stands in every line.
pub fn start(filter: &str, who: &str, file: OwnedFd) {
    let who = format!("{who} [{}]", std::process::id());
    reopen(file);
    let started = env_logger::Builder::new()
        .parse_filters(filter)
        .target(env_logger::Target::Pipe(Box::new(Lines)))
        .format(move |out, record| {
            let time = date::rfc3339(unix_ms());
            let level = record.level();
            if level > log::Level::Info {
                writeln!(
                    out,
                    "{time} {level:<5} {who} {}: {}",
                    record.target(),
                    record.args()
                )
            } else {
                writeln!(out, "{time} {level:<5} {who}: {}", record.args())
            }
        })
        .try_init();
    // The second start in one process keeps the first: there is none outside tests.
    debug_assert!(started.is_ok());
}
