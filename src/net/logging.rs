//! Where `log` lines go. A line that would block is lost and counted, never waited for.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
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

/// The logger in use; another one takes its place when the filter changes.
struct Current(RwLock<env_logger::Logger>);

static CURRENT: OnceLock<Current> = OnceLock::new();

/// What this process is called in its lines.
static WHO: OnceLock<String> = OnceLock::new();

impl log::Log for Current {
    fn enabled(&self, metadata: &log::Metadata) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .enabled(metadata)
    }

    fn log(&self, record: &log::Record) {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .log(record);
    }

    fn flush(&self) {}
}

fn build(filter: &str) -> env_logger::Logger {
    env_logger::Builder::new()
        .parse_filters(filter)
        .target(env_logger::Target::Pipe(Box::new(Lines)))
        .format(|out, record| {
            let (time, level) = (date::rfc3339(unix_ms()), record.level());
            let who = WHO.get().map_or("", String::as_str);
            if level > log::Level::Info {
                let target = record.target();
                writeln!(out, "{time} {level:<5} {who} {target}: {}", record.args())
            } else {
                writeln!(out, "{time} {level:<5} {who}: {}", record.args())
            }
        })
        .build()
}

/// Starts logging for this process. `filter` is in the syntax of RUST_LOG, `who` stands in every line.
pub fn start(filter: &str, who: &str, file: OwnedFd) {
    reopen(file);
    let _ = WHO.set(format!("{who} [{}]", std::process::id()));
    let logger = CURRENT.get_or_init(|| Current(RwLock::new(build(filter))));
    // A second start in one process keeps the first: there is none outside tests.
    if log::set_logger(logger).is_ok() {
        set_filter(filter);
    }
}

/// What is logged from now on.
pub fn set_filter(filter: &str) {
    let logger = build(filter);
    log::set_max_level(logger.filter());
    if let Some(current) = CURRENT.get() {
        *current.0.write().unwrap_or_else(PoisonError::into_inner) = logger;
    }
}
