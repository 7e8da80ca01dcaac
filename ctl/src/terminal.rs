//! The terminal of `top`: the alternate screen, keys one by one, and everything
//! as it was at the end.
//!
//! `stty` does what termios would need unsafe code for. Its `-isig` turns Ctrl-C
//! into a key as well, so that every end passes by `drop`.

use std::io::{self, IsTerminal, Read, Write};
use std::process::{Command, Stdio};

/// Alternate screen, no cursor; and back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the first line; what is right of a line, and below all, is cleared.
const HOME: &str = "\x1b[H";
const LINE_END: &str = "\x1b[K\r\n";
const BELOW: &str = "\x1b[J";
const SIZE_UNKNOWN: (usize, usize) = (24, 80);

pub struct Terminal {
    /// What `stty` restores.
    before: String,
}

/// What was typed while nothing else happened.
#[derive(Debug, PartialEq, Eq)]
pub enum Key {
    None,
    Quit,
    Other,
}

impl Terminal {
    /// Nothing if this is no terminal, or has no `stty`.
    pub fn open() -> Option<Terminal> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return None;
        }
        let before = stty(&["-g"])?.trim().to_string();
        // A read ends after ten tenths of a second, typed or not.
        stty(&["-icanon", "-echo", "-isig", "min", "0", "time", "10"])?;
        let terminal = Terminal { before };
        write(ENTER).ok()?;
        Some(terminal)
    }

    /// Rows and columns.
    pub fn size(&self) -> (usize, usize) {
        let text = stty(&["size"]).unwrap_or_default();
        let mut numbers = text.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(rows)), Some(Ok(columns))) if rows > 0 && columns > 0 => (rows, columns),
            _ => SIZE_UNKNOWN,
        }
    }

    /// Shows a text instead of the one before; what does not fit is cut.
    pub fn draw(&self, text: &str) -> io::Result<()> {
        let (rows, columns) = self.size();
        let mut screen = String::from(HOME);
        let lines: Vec<&str> = text.lines().take(rows).collect();
        for (index, line) in lines.iter().enumerate() {
            screen.extend(line.chars().take(columns));
            // A line end in the last row would scroll.
            screen += if index + 1 < lines.len() {
                LINE_END
            } else {
                "\x1b[K"
            };
        }
        screen += BELOW;
        write(&screen)
    }

    /// Waits for a key, for a second.
    pub fn key(&self) -> Key {
        let mut byte = [0];
        match io::stdin().lock().read(&mut byte) {
            Ok(0) => Key::None,
            // Ctrl-C, Ctrl-D
            Ok(_) if matches!(byte, [b'q' | b'Q' | 3 | 4]) => Key::Quit,
            Ok(_) => Key::Other,
            Err(_) => Key::Quit,
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is no other way to tell.
        let _ = write(LEAVE);
        let _ = stty(&[&self.before]);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Runs `stty` on our standard input.
fn stty(arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("stty");
    command.args(arguments).stdin(Stdio::inherit());
    let output = command.stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then_some(text)
}
