//! Why a command was not done: what to say, to whom, with which exit code.

use std::fmt::Display;
use std::io::{self, Error, ErrorKind, Write};
use std::path::Path;
use std::process::ExitCode;

use crate::json;

/// One sentence and its kind.
#[derive(Debug)]
pub struct Failure {
    /// A code of the control language, or `usage`, `unreachable`, `late`, `file`.
    pub code: String,
    pub text: String,
    exit: u8,
}

impl Failure {
    /// The proxy said no.
    pub fn refused(code: impl Into<String>, text: impl Into<String>) -> Failure {
        Failure::new(code, text, 1)
    }

    /// A file, or standard output, is not what it should be.
    pub fn file(text: impl Into<String>) -> Failure {
        Failure::new("file", text, 1)
    }

    /// The command line is wrong.
    pub fn usage(text: impl Into<String>) -> Failure {
        Failure::new("usage", text, 2)
    }

    /// There is no proxy to talk to, or it does not answer.
    pub fn unreachable(text: impl Into<String>) -> Failure {
        Failure::new("unreachable", text, 3)
    }

    /// The time limit has passed.
    pub fn late(text: impl Into<String>) -> Failure {
        Failure::new("late", text, 3)
    }

    pub fn is_late(&self) -> bool {
        self.code == "late"
    }

    /// What is written is read no more (`| head`): no mistake of anybody.
    pub fn of_output(error: Error) -> Failure {
        match error.kind() {
            ErrorKind::BrokenPipe => Failure::new("", "", 0),
            _ => Failure::file(format!("cannot write the output: {error}")),
        }
    }

    pub fn of_file(doing: &str, path: &Path, error: impl Display) -> Failure {
        Failure::file(format!("cannot {doing} {}: {error}", path.display()))
    }

    fn new(code: impl Into<String>, text: impl Into<String>, exit: u8) -> Failure {
        let (code, text) = (code.into(), text.into());
        Failure { code, text, exit }
    }

    /// Says it on standard error, and to a program that reads JSON.
    pub fn tell(&self, json: bool) -> ExitCode {
        if self.exit > 0 {
            // There is nobody left to tell that nothing can be told.
            let _ = writeln!(io::stderr(), "sozuctl: {}", self.text);
            if json {
                let _ = writeln!(io::stdout(), "{}", json::refusal(&self.code, &self.text));
            }
        }
        ExitCode::from(self.exit)
    }
}
