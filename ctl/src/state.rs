//! `state save`, `state load`, `state diff -f` and `apply`: files against the running state.

use std::io;
use std::path::{Path, PathBuf};

use sozu_lib::proto::line::Word;
use sozu_lib::proto::update::{difference, Step};
use sozu_lib::state::State;

use crate::certificate;
use crate::failure::Failure;
use crate::file;
use crate::link::Link;
use crate::options::Options;
use crate::progress::Progress;
use crate::show::Printer;
use crate::target::{self, Dump};

/// What stands behind the words of these commands.
#[derive(Debug, Default)]
struct Given {
    file: Option<PathBuf>,
    dry_run: bool,
    /// With the keys of certificates.
    secrets: bool,
    /// For `commit`: undone after so many seconds.
    confirm: Option<String>,
}

impl Given {
    /// `may` has the options that are known besides the file.
    fn read(words: &[String], may: &[&str]) -> Result<(PathBuf, Given), Failure> {
        let mut given = Given::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (word.as_str(), None),
            };
            let mut value = || {
                let value = value.clone().or_else(|| words.next().cloned());
                value.ok_or_else(|| Failure::usage(format!("{name} needs a value")))
            };
            match name.trim_start_matches('-') {
                "f" | "file" => given.file = Some(value()?.into()),
                "dry-run" | "dry_run" if may.contains(&"dry-run") => given.dry_run = true,
                "secrets" if may.contains(&"secrets") => given.secrets = true,
                "confirm" if may.contains(&"confirm") => given.confirm = Some(value()?),
                _ => return Err(Failure::usage(format!("{word} is not known here"))),
            }
        }
        let none = || Failure::usage("which file? -f FILE, or -f - for standard input or output");
        let file = given.file.take().ok_or_else(none)?;
        Ok((file, given))
    }

    fn commit(&self, revision: Option<u64>) -> String {
        let mut line = String::from("commit");
        if let Some(revision) = revision {
            line += &format!(" revision={revision}");
        }
        if let Some(seconds) = &self.confirm {
            line += &format!(" confirm={seconds}");
        }
        line
    }
}

/// The running state into a file.
pub fn save(options: &Options, words: &[String]) -> Result<(), Failure> {
    let (path, given) = Given::read(words, &["secrets"])?;
    let dump = match given.secrets {
        true => "state dump secrets=true",
        false => "state dump",
    };
    let mut link = Link::open(&options.socket()?, options.limit)?;
    let mut count = 0;
    file::save(&path, &mut |out| {
        let answer = link.ask(dump, &mut |line| {
            count += 1;
            writeln!(out, "{line}").map_err(|e| Failure::of_file("write", &path, e))
        });
        answer.map(drop)
    })?;
    match file::is_standard(&path) {
        true => Ok(()),
        false => say(options, &[], &[pair("saved", count)]),
    }
}

/// The commands of a file, all or none.
pub fn load(options: &Options, words: &[String]) -> Result<(), Failure> {
    let (path, given) = Given::read(words, &["confirm"])?;
    let text = file::read(&path)?;
    let steps = target::steps(&path, &text, &options.timeouts()?)?;
    let numbers: Vec<usize> = steps.iter().map(|step| step.line).collect();
    let lines: Result<Vec<String>, Failure> = steps.iter().map(|step| step.whole()).collect();
    let lines = lines?;
    let mut link = Link::open(&options.socket()?, options.limit)?;
    if lines.is_empty() {
        return say(options, &[], &[pair("changes", 0)]);
    }
    link.ask("begin", &mut none)?;
    let place = |index: usize, code: &str, what: &str| match numbers.get(index) {
        Some(number) => target::at(&path, *number, code, what),
        None => Failure::refused(code, what),
    };
    send(&mut link, &lines).map_err(|(index, failure)| {
        place(
            index,
            &failure.code,
            &format!("{}; nothing was done", failure.text),
        )
    })?;
    let done = link.ask(&given.commit(None), &mut none);
    let done = done.map_err(|failure| match number_of(&failure.text) {
        Some((index, what)) => place(index - 1, &failure.code, what),
        None if numbers.len() == 1 => place(0, &failure.code, &failure.text),
        None => failure,
    })?;
    say(options, &[], &done)
}

/// `change 7 of 9: what`: the number and what.
fn number_of(text: &str) -> Option<(usize, &str)> {
    let (number, rest) = text.strip_prefix("change ")?.split_once(" of ")?;
    let (_, what) = rest.split_once(": ")?;
    let number = number.parse().ok().filter(|number| *number > 0)?;
    Some((number, what))
}

/// What would lead from the running state to that of a file.
pub fn diff(options: &Options, words: &[String]) -> Result<(), Failure> {
    let (path, _) = Given::read(words, &[])?;
    show_difference(options, &path)
}

fn show_difference(options: &Options, path: &Path) -> Result<(), Failure> {
    let wanted = Wanted::read(options, path)?;
    let mut link = Link::open(&options.socket()?, options.limit)?;
    let changes = wanted.changes(&mut link)?;
    say(options, &encoded(&changes), &pairs(&changes))
}

/// Makes the running state that of a file.
pub fn apply(options: &Options, words: &[String]) -> Result<(), Failure> {
    let (path, given) = Given::read(words, &["dry-run", "confirm"])?;
    if given.dry_run {
        return show_difference(options, &path);
    }
    let wanted = Wanted::read(options, &path)?;
    let mut link = Link::open(&options.socket()?, options.limit)?;
    // Its revision is that of the state before the dump: who commits in between is noticed.
    let begun = link.ask("begin", &mut none)?;
    let revision = begun.iter().find_map(revision_of);
    let changes = wanted.changes(&mut link)?;
    if changes.is_empty() {
        link.ask("abort", &mut none)?;
        return say(options, &[], &pairs(&changes));
    }
    let lines: Result<Vec<String>, Failure> = changes.iter().map(certificate::whole).collect();
    send(&mut link, &lines?).map_err(|(_, failure)| failure)?;
    let done = link.ask(&given.commit(revision), &mut none);
    let done = done.map_err(|failure| match failure.code.as_str() {
        "mismatch" if number_of(&failure.text).is_none() => {
            Failure::refused(failure.code, format!("{}: apply it again", failure.text))
        }
        _ => failure,
    })?;
    let mut result = pairs(&changes);
    result.extend(done.into_iter().filter(|word| revision_of(word).is_some()));
    say(options, &[], &result)
}

/// The state of a file, and what to compare it with.
struct Wanted {
    state: State,
    timeouts: sozu_lib::state::Timeouts,
}

impl Wanted {
    fn read(options: &Options, path: &Path) -> Result<Wanted, Failure> {
        let timeouts = options.timeouts()?;
        let state = target::read(path, &timeouts)?;
        Ok(Wanted { state, timeouts })
    }

    /// The changes that lead from the running state to this one.
    fn changes(&self, link: &mut Link) -> Result<Vec<Step>, Failure> {
        let mut dump = Dump::new(&self.timeouts);
        link.ask("state dump", &mut |line| dump.line(line))?;
        let nothing = State::default();
        if self.state == nothing && dump.state != nothing {
            let what = "the file says nothing: all would be removed, which is done by remove only";
            return Err(Failure::refused("invalid", what));
        }
        Ok(difference(&dump.state, &self.state))
    }
}

fn encoded(steps: &[Step]) -> Vec<String> {
    steps.iter().map(Step::encode).collect()
}

fn pairs(changes: &[Step]) -> Vec<Word> {
    let counts = target::counts(changes);
    counts
        .iter()
        .map(|(name, count)| pair(name, *count))
        .collect()
}

fn pair(key: &str, value: usize) -> Word {
    let (key, value) = (key.to_string(), value.to_string());
    Word::Pair { key, value }
}

fn revision_of(word: &Word) -> Option<u64> {
    match word {
        Word::Pair { key, value } if key == "revision" => value.parse().ok(),
        _ => None,
    }
}

fn none(_: &str) -> Result<(), Failure> {
    Ok(())
}

/// Sends the lines of a transaction; a terminal sees how far it has come.
fn send(link: &mut Link, lines: &[String]) -> Result<(), (usize, Failure)> {
    let mut progress = Progress::new();
    link.ask_all(lines, &mut |count| {
        progress.now_and_then(|| format!("{count} of {}", lines.len()));
    })
}

fn say(options: &Options, lines: &[String], result: &[Word]) -> Result<(), Failure> {
    let mut printer = Printer::new(io::stdout().lock(), options.json);
    lines.iter().try_for_each(|line| printer.line(line))?;
    printer.end(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(words: &str) -> Result<(PathBuf, Given), String> {
        let words: Vec<String> = words.split(' ').map(str::to_string).collect();
        Given::read(&words, &["dry-run", "confirm"]).map_err(|failure| failure.text)
    }

    #[test]
    fn what_stands_behind() {
        let (file, rest) = given("--dry-run -f x --confirm 5").expect("options");
        assert_eq!((file, rest.dry_run), ("x".into(), true));
        assert_eq!(rest.commit(Some(7)), "commit revision=7 confirm=5");
        assert_eq!(given("--file=a=b").expect("a file").0, Path::new("a=b"));
        assert!(given("-f").is_err());
        assert!(given("x").is_err());
        assert!(given("--dry-run")
            .expect_err("no file")
            .contains("which file"));
    }

    #[test]
    fn the_number_of_a_change() {
        assert_eq!(number_of("change 7 of 9: a: b"), Some((7, "a: b")));
        assert_eq!(number_of("change 0 of 9: a"), None);
        assert_eq!(number_of("the revision is 4"), None);
    }
}
