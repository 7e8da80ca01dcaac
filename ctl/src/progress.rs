//! How far something long has come: one line on standard error that rewrites
//! itself, if that is a terminal, and goes away in the end.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use sozu_lib::proto::line::{split, Word};

/// How often it is rewritten.
const PERIOD: Duration = Duration::from_millis(100);

pub struct Progress {
    watched: bool,
    told: Instant,
    shown: bool,
}

impl Progress {
    pub fn new() -> Progress {
        Progress {
            watched: io::stderr().is_terminal(),
            told: Instant::now(),
            shown: false,
        }
    }

    /// Shows a text, unless one was shown just now.
    pub fn now_and_then(&mut self, text: impl FnOnce() -> String) {
        if self.told.elapsed() >= PERIOD {
            self.show(&text());
        }
    }

    /// Shows a text instead of the one before.
    pub fn show(&mut self, text: &str) {
        if self.watched {
            self.told = Instant::now();
            self.shown = true;
            // Nothing depends on it.
            let _ = write!(io::stderr(), "\r\x1b[K{text}");
        }
    }

    /// Makes room for what is printed next.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.shown) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What a data line says of how far the proxy has come; nothing if it is another one.
pub fn of_line(line: &str) -> Option<String> {
    let words = split(line.strip_prefix("progress ")?).ok()?;
    let shown = words.iter().filter_map(|word| match word {
        Word::Pair { key, value } => Some(format!("{}: {value}", key.replace('_', " "))),
        Word::Bare(_) => None,
    });
    Some(shown.collect::<Vec<String>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_proxy_as_a_person_reads_it() {
        let text = of_line("progress connections=12 seconds_left=50");
        assert_eq!(text.as_deref(), Some("connections: 12, seconds left: 50"));
        assert_eq!(of_line("worker id=0"), None);
        assert_eq!(of_line("progress \""), None);
    }
}
