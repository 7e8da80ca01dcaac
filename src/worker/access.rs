//! The access log: one line per request, connection or tunnel.
//!
//! Lines gather in memory and are written at the end of a turn. A log that
//! takes nothing (a stopped pager, a full pipe) costs lines, which are counted,
//! never a wait. doc/access_log.md describes the format.

use std::io::Write;
use std::net::SocketAddr;

use crate::date;
use crate::limits::{
    ACCESS_LOG_BYTES_MAX, ACCESS_LOG_FLUSH_BYTES, ACCESS_LOG_FLUSH_MS, WARNINGS_PER_SECOND_MAX,
};
use crate::net::logging::unix_ms;
use crate::net::sink::Sink;
use crate::session::record::End;
use crate::session::{Door, Exchange};

pub struct AccessLog {
    sink: Option<Sink>,
    lines: Vec<u8>,
    /// When the oldest line of `lines` came, in milliseconds of the worker's clock.
    since_ms: u64,
    /// The worker's clock at 0, in milliseconds since 1970.
    epoch_ms: u64,
    pub lost: u64,
}

impl AccessLog {
    /// Without a sink nothing is written.
    pub fn new(sink: Option<Sink>, now_us: u64) -> AccessLog {
        AccessLog {
            sink,
            lines: Vec::new(),
            since_ms: 0,
            epoch_ms: unix_ms().saturating_sub(now_us / 1000),
            lost: 0,
        }
    }

    /// Lines go into another file from now on.
    pub fn reopen(&mut self, sink: Sink) {
        self.flush();
        self.sink = Some(sink);
    }

    pub fn write(&mut self, x: &Exchange, peer: SocketAddr, door: &Door, now_us: u64) {
        if self.sink.is_none() {
            return;
        }
        if self.lines.len() > ACCESS_LOG_BYTES_MAX {
            self.lost += 1;
            return;
        }
        if self.lines.is_empty() {
            self.since_ms = now_us / 1000;
        }
        let epoch_ms = self.epoch_ms;
        let out = &mut self.lines;
        let r = &x.record;
        let cluster = x.target.as_ref().map_or("-", |target| &*target.cluster.id);
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "{} {peer} {} {cluster} ",
            date::rfc3339(epoch_ms + now_us / 1000),
            door.listener.address,
        );
        let _ = match &x.server {
            Some(server) => write!(out, "{} {} ", server.backend.id, server.backend.address),
            None => write!(out, "- - "),
        };
        put_escaped(&r.host, NO_SPACE, out);
        out.extend_from_slice(b" \"");
        put_escaped(&r.line, b" ", out);
        let _ = write!(out, "\" {} {} {} ", r.status, r.bytes_up, r.bytes_down);
        for moment in [r.connected_us, r.first_byte_us, now_us] {
            put_ms(moment.checked_sub(r.start_us).filter(|_| moment != 0), out);
            out.push(b' ');
        }
        out.extend_from_slice(&r.id);
        out.push(b' ');
        put_escaped(&r.user, NO_SPACE, out);
        let _ = write!(out, " {}", r.end.word());
        if !r.detail.is_empty() {
            let _ = write!(out, " \"{}\"", r.detail);
        }
        out.push(b'\n');
    }

    /// When `flush` should be called at the latest.
    pub fn due_ms(&self) -> Option<u64> {
        (!self.lines.is_empty()).then_some(self.since_ms + ACCESS_LOG_FLUSH_MS)
    }

    /// Writes if enough has gathered or it has waited long enough.
    pub fn flush_if_due(&mut self, now_ms: u64) {
        let due = self.due_ms().is_some_and(|due| due <= now_ms);
        if due || self.lines.len() >= ACCESS_LOG_FLUSH_BYTES {
            self.flush();
            self.since_ms = now_ms;
        }
    }

    pub fn flush(&mut self) {
        if let Some(sink) = &mut self.sink {
            let written = sink.write_some(&self.lines);
            self.lines.drain(..written);
        }
    }
}

/// What the log says of exchanges that ended badly: a backend's fault is a
/// warning, but not more of them a second than one can read.
#[derive(Default)]
pub struct Complaints {
    second: u64,
    said: u32,
}

impl Complaints {
    pub fn tell(&mut self, x: &Exchange, peer: SocketAddr, now_us: u64) {
        let r = &x.record;
        let word = r.end.word();
        if r.end == End::ClientBadRequest && r.status == 0 {
            log::info!("{peer}: {}", r.detail);
        } else if word.starts_with("client") {
            log::debug!("{peer}: {word}: {}", r.detail);
        } else if word.starts_with("backend") && self.may_speak(now_us) {
            let cluster = x.target.as_ref().map_or("-", |target| &*target.cluster.id);
            let backend = x.server.as_ref().map_or("-", |server| &*server.backend.id);
            log::warn!("cluster {cluster}, backend {backend}: {word}: {}", r.detail);
        }
    }

    fn may_speak(&mut self, now_us: u64) -> bool {
        let second = now_us / 1_000_000;
        if second != self.second {
            if self.said > WARNINGS_PER_SECOND_MAX {
                log::warn!(
                    "{} more warnings were left out",
                    self.said - WARNINGS_PER_SECOND_MAX
                );
            }
            (self.second, self.said) = (second, 0);
        }
        self.said += 1;
        self.said <= WARNINGS_PER_SECOND_MAX
    }
}

fn put_ms(us: Option<u64>, out: &mut Vec<u8>) {
    let _ = match us {
        Some(us) => write!(out, "{}.{:03}", us / 1000, us % 1000),
        None => write!(out, "-"),
    };
}

/// For a field without quotes.
const NO_SPACE: &[u8] = b"\\x20";

/// No byte of a client can end the line, the quotes, or speak to a terminal.
/// `space` stands for one.
fn put_escaped(text: &[u8], space: &[u8], out: &mut Vec<u8>) {
    if text.is_empty() {
        out.push(b'-');
    }
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            b' ' => out.extend_from_slice(space),
            b'!'..=b'~' => out.push(*byte),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_sends_stays_inside_its_quotes() {
        let mut out = Vec::new();
        put_escaped(b"GET /\"\\\n\x1b[2J\xff", b" ", &mut out);
        assert_eq!(out, br#"GET /\"\\\x0a\x1b[2J\xff"#);
    }

    #[test]
    fn a_field_without_quotes_has_no_space() {
        for (text, written) in [
            ("", "-"),
            ("jane", "jane"),
            (" j \"é ", r#"\x20j\x20\"\xc3\xa9\x20"#),
            (" ", r"\x20"),
        ] {
            let mut out = Vec::new();
            put_escaped(text.as_bytes(), NO_SPACE, &mut out);
            assert_eq!(out, written.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn times_have_microseconds() {
        let mut out = Vec::new();
        put_ms(Some(1_002_003), &mut out);
        put_ms(None, &mut out);
        assert_eq!(out, b"1002.003-");
    }
}
