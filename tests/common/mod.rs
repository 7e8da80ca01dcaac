//! What the wire tests share: the real binary with a configuration of the
//! test's own, a client and backends that send and read bytes strictly, and
//! the deadline under which everything waits.
//!
//! It never looks inside the proxy: what is tested here goes over sockets,
//! signals, files and exit codes. Each test program uses its part of it;
//! `tests/tidy.rs` finds a helper that none of them uses.
#![allow(dead_code, unused_imports)]

mod backend;
mod bytes;
mod control;
mod hosts;
mod message;
mod peer;
mod proxy;
mod scrape;

pub use backend::{free_address, ok, refused_address, Backend, Gate, StuckListener};
pub use bytes::{chunked, pattern, same_bytes, LARGE, SIZES, SMALL};
pub use control::{control, control_at, Control, Reply, Worker};
pub use message::{Broken, Framing, Message};
pub use peer::Peer;
pub use proxy::{is_alive, program, signal, sozu, sozuctl, Guard, Proxy, Setup, TempDir};
pub use scrape::{serve_metrics, wait_sum, Scrape};

use std::time::{Duration, Instant};

/// Longest wait for anything that should happen at once: generous, since the
/// machine may be busy, and never waited for when all goes well.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// Seconds since 1970.
pub fn now_s() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.expect("after 1970").as_secs() as i64
}

/// Asks again and again until there is an answer, and fails loudly at the
/// deadline. Only for what cannot be waited for: files, exit codes, counters.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
