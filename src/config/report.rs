//! What is wrong in a configuration file, as its author sees it.
//!
//! Owns: the form of errors and warnings. `read` makes them; `sozu check`,
//! `sozu start` and a reload print them.

use super::read::Config;
use crate::limits::{CONFIG_REPORTS_MAX, ERROR_CHARS_MAX};
use crate::parser::toml::locate;
use std::fmt;

/// Most characters of a source line that are shown.
const SHOWN_MAX: usize = 100;

/// One error or warning, with the line it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file, as it was named by who asked for it.
    pub name: String,
    /// Line and column, from 1; `None` where the whole file is meant.
    pub position: Option<(usize, usize)>,
    pub what: String,
    source: String,
    /// Characters before the caret.
    indent: usize,
}

/// Something that has no effect here, and why.
pub type Warning = Report;

/// Why a file is not taken: at least one error, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors(pub Vec<Report>);

impl Report {
    pub fn of_file(name: &str, what: String) -> Report {
        Report {
            name: name.to_string(),
            position: None,
            what,
            source: String::new(),
            indent: 0,
        }
    }

    pub fn new(name: &str, text: &str, at: usize, what: String) -> Report {
        let (line, column) = locate(text, at);
        let source = text.lines().nth(line - 1).unwrap_or_default();
        let source = source.trim_start_matches('\u{feff}');
        // Of a long line, what surrounds the place.
        let before = (column - 1).min(SHOWN_MAX / 2);
        let shown = source.chars().skip(column - 1 - before).take(SHOWN_MAX);
        let shown: String = shown
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        let source = shown.trim_start();
        let cut = shown.chars().count() - source.chars().count();
        Report {
            name: name.to_string(),
            position: Some((line, column)),
            what: what.chars().take(ERROR_CHARS_MAX).collect(),
            source: source.trim_end().to_string(),
            indent: before.saturating_sub(cut),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        let Some((line, column)) = self.position else {
            return write!(out, "{}: {}", self.name, self.what);
        };
        writeln!(out, "{}:{line}:{column}: {}", self.name, self.what)?;
        writeln!(out, "    {}", self.source)?;
        write!(out, "    {:indent$}^", "", indent = self.indent)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        for (index, report) in self.0.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write!(out, "{report}")?;
        }
        if self.0.len() >= CONFIG_REPORTS_MAX {
            write!(
                out,
                "\nthere may be more: only the first {CONFIG_REPORTS_MAX} are shown"
            )?;
        }
        Ok(())
    }
}

/// What `sozu check` prints about a file.
pub fn check(name: &str, result: &Result<(Config, Vec<Warning>), Errors>) -> String {
    match result {
        Err(errors) => format!("{errors}\n{name}: not taken\n"),
        Ok((config, warnings)) => {
            let mut text = String::new();
            for warning in warnings {
                text.push_str(&format!("warning: {warning}\n"));
            }
            let state = &config.state;
            text.push_str(&format!(
                "{name}: ok, listeners: {}, clusters: {}, frontends: {}, backends: {}, certificates: {}\n",
                state.listeners().count(),
                state.clusters().count(),
                state.frontends().count(),
                state.backends().count(),
                state.certificates().count(),
            ));
            text
        }
    }
}
