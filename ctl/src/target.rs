//! A file that says what the state should be: control lines, or a TOML configuration.

use std::path::Path;

use sozu_lib::config;
use sozu_lib::proto::command::Command;
use sozu_lib::proto::table;
use sozu_lib::proto::update;
use sozu_lib::state::{Change, State, Timeouts};

use crate::certificate;
use crate::failure::Failure;
use crate::file;

/// A command of a file, by its line (from 1).
pub struct Step {
    pub line: usize,
    pub text: String,
    command: Command,
}

impl Step {
    /// The line as it is sent: with the key of a certificate, wherever it lies.
    pub fn whole(&self) -> Result<String, Failure> {
        let step = match &self.command {
            Command::Change(change) if has_key(change) => update::Step::Do(change.clone()),
            Command::Update(update) => update::Step::Update(update.clone()),
            Command::Replace(replace) => update::Step::Replace(replace.clone()),
            _ => return Ok(self.text.clone()),
        };
        certificate::whole(&step)
    }
}

fn has_key(change: &Change) -> bool {
    change.certificate().is_some() || change.own_certificate().is_some()
}

/// The state that a file describes.
pub fn read(path: &Path, timeouts: &Timeouts) -> Result<State, Failure> {
    let text = file::read(path)?;
    if !is_commands(path, &text) {
        return of_toml(path, &text);
    }
    let mut state = State::default();
    for step in steps(path, &text, timeouts)? {
        let line = step.line;
        let change = match step.command {
            Command::Update(update) => update.on(&state, timeouts),
            Command::Change(change) => Ok(change),
            Command::Replace(replace) => update::Step::Replace(replace).on(&state, timeouts),
            // `steps` lets nothing else through.
            _ => continue,
        };
        let applied = change.and_then(|change| state.apply(&change));
        applied.map_err(|refused| at(path, line, refused.code.name(), &refused.what))?;
    }
    Ok(state)
}

/// The commands of a file, each of which changes the state. Empty lines and
/// those that start with `#` say nothing.
pub fn steps(path: &Path, text: &str, timeouts: &Timeouts) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if !says_something(line) {
            continue;
        }
        let number = index + 1;
        let command = Command::decode(line.trim(), timeouts);
        let command =
            command.map_err(|refused| at(path, number, refused.code.name(), &refused.what))?;
        let known = matches!(
            command,
            Command::Change(_) | Command::Update(_) | Command::Replace(_)
        );
        if !known {
            let what = match command {
                Command::Wait { .. } => "a state file is loaded at once: leave wait out",
                _ => "this is no change: a state file has add, remove and update only",
            };
            return Err(at(path, number, "invalid", what));
        }
        steps.push(Step {
            line: number,
            text: line.trim().to_string(),
            command,
        });
    }
    Ok(steps)
}

/// A refusal of what stands in that line of a file.
pub fn at(path: &Path, line: usize, code: &str, what: &str) -> Failure {
    let name = match file::is_standard(path) {
        true => "standard input".to_string(),
        false => path.display().to_string(),
    };
    Failure::refused(code, format!("{name}:{line}: {what}"))
}

fn says_something(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#')
}

/// By its name, or else by its first line.
fn is_commands(path: &Path, text: &str) -> bool {
    if path
        .extension()
        .is_some_and(|extension| extension == "toml")
    {
        return false;
    }
    let Some(first) = text.lines().find(|line| says_something(line)) else {
        return true;
    };
    let mut words = first.split_whitespace();
    let (noun, verb) = (words.next(), words.next());
    let is_one = |noun, verb| table::find(noun, verb).is_some();
    noun.zip(verb)
        .is_some_and(|(noun, verb)| is_one(noun, verb))
}

fn of_toml(path: &Path, text: &str) -> Result<State, Failure> {
    let name = path.display().to_string();
    // Paths that it names lie beside it, and main is told where that is.
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let folder = whole.parent().unwrap_or(Path::new("/"));
    let mut file = |path: &Path| std::fs::read_to_string(path);
    match config::read(text, &name, folder, &mut file) {
        Ok((config, warnings)) => {
            warnings
                .iter()
                .for_each(|warning| eprintln!("warning: {warning}"));
            Ok(config.state)
        }
        Err(errors) => Err(Failure::file(errors.to_string())),
    }
}

/// The running state, from the lines of its dump.
pub struct Dump<'a> {
    timeouts: &'a Timeouts,
    pub state: State,
}

impl Dump<'_> {
    pub fn new(timeouts: &Timeouts) -> Dump<'_> {
        let state = State::default();
        Dump { timeouts, state }
    }

    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        let odd = |what: String| {
            Failure::unreachable(format!(
                "the proxy's state is not understood ({what}): use the sozuctl of its version"
            ))
        };
        match Command::decode(line, self.timeouts) {
            Ok(Command::Change(change)) => match self.state.apply(&change) {
                Ok(_) => Ok(()),
                Err(refused) => Err(odd(refused.what)),
            },
            Ok(_) => Err(odd(line.to_string())),
            Err(refused) => Err(odd(refused.what)),
        }
    }
}

/// How many objects a difference adds, updates and removes.
pub fn counts(steps: &[update::Step]) -> [(&'static str, usize); 3] {
    let mut counts = [("added", 0), ("updated", 0), ("removed", 0)];
    for step in steps {
        let place = match step {
            update::Step::Do(
                Change::ListenerAdd(_)
                | Change::ClusterAdd(_)
                | Change::FrontendAdd(_)
                | Change::BackendAdd(_)
                | Change::CertificateAdd(_),
            ) => 0,
            update::Step::Update(_)
            | update::Step::Replace(_)
            | update::Step::Do(Change::CertificateReplace { .. }) => 1,
            update::Step::Do(_) => 2,
        };
        counts[place].1 += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use sozu_lib::config::Settings;

    fn timeouts() -> Timeouts {
        Settings::decode("settings").expect("defaults").timeouts
    }

    fn says(text: &str) -> String {
        let steps = steps(Path::new("file"), text, &timeouts());
        steps.err().map(|failure| failure.text).unwrap_or_default()
    }

    #[test]
    fn a_file_is_told_by_name_or_content() {
        for (name, text, commands) in [
            ("x", "\n# web\n  cluster add id=a\n", true),
            ("x.toml", "cluster add id=a\n", false),
            ("x", "worker_count = 2\n", false),
            ("x", "[clusters.a]\n", false),
            ("x", "", true),
        ] {
            assert_eq!(is_commands(Path::new(name), text), commands, "{text}");
        }
    }

    #[test]
    fn a_state_file_has_changes_only() {
        assert_eq!(
            says("# one\n\ncluster add id=a\r\n  backend update cluster=a id=b weight=1"),
            ""
        );
        assert!(says("cluster add id=a\n\ncluster ad id=b").starts_with("file:3: "));
        let waits = "cluster add id=a\nbackend remove cluster=a id=b wait=1";
        assert!(says(waits).contains("leave wait out"));
        for line in ["commit", "status", "cluster list", "begin", "shutdown"] {
            assert!(
                says(line).starts_with("file:1: this is no change"),
                "{line}"
            );
        }
    }
}
