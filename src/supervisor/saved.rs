//! The state over a restart.
//!
//! `saved_state` holds what differs from the configuration file, as commands;
//! it is done again at the next start. What does not fit any more is told and
//! kept aside. Beside the configuration file, under its name and `.last`, lies
//! what ran last, whole: the settings, what the file said, and what was changed
//! since. `--last-known-good` starts with it and looks at no other file.
//! Files are written under another name, synced and renamed: a full disk or a
//! power cut leaves the old one.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::config::certificate::refill;
use crate::config::{Config, Settings};
use crate::limits::{
    CONFIG_BYTES_MAX, LOST_LINES_MAX, LOST_LINE_CHARS_MAX, SAVE_AGAIN_MS, SAVE_DELAY_MS,
    SAVE_REST_TIMES,
};
use crate::proto::command::Command;
use crate::proto::update::{difference, Step};
use crate::state::{Change, State, Timeouts};
use crate::supervisor::Supervisor;

/// In `.last`: what stands above is what the file said.
const SINCE: &str = "# changed since";

/// When and where to save.
pub struct Saver {
    /// `None`: the state is not saved by itself.
    differences: Option<PathBuf>,
    last: PathBuf,
    /// That `last` cannot be written was said.
    told: bool,
    pub(super) due_ms: Option<u64>,
    /// Main writes by itself, and does so for no more than a twentieth of its time.
    pub(super) rests_until_ms: u64,
}

impl Saver {
    pub fn new(settings: &Settings, file: &Path) -> Saver {
        let wanted = settings
            .saved_state
            .clone()
            .filter(|_| settings.automatic_state_save);
        Saver {
            differences: wanted,
            last: with_suffix(file, ".last"),
            told: false,
            due_ms: None,
            rests_until_ms: 0,
        }
    }

    /// Whether what is done at runtime is to be there after a restart.
    pub fn saves(&self) -> bool {
        self.differences.is_some()
    }

    /// The state has changed. Changes that come together are written once.
    pub fn note(&mut self, now_ms: u64) {
        if self.differences.is_some() && self.due_ms.is_none() {
            self.due_ms = Some((now_ms + SAVE_DELAY_MS).max(self.rests_until_ms));
        }
    }

    /// What `status` says: `off`, or whether all is on the disk.
    pub fn is_saved(&self) -> &'static str {
        match (&self.differences, self.due_ms) {
            (None, _) => "off",
            (Some(_), None) => "true",
            (Some(_), Some(_)) => "false",
        }
    }
}

impl Supervisor {
    /// When to save. What may still be undone is not.
    pub(super) fn save_due_ms(&self) -> Option<u64> {
        self.saver.due_ms.filter(|_| self.trial.is_none())
    }

    /// Saves if that is due; `end`: if anything was not saved yet.
    pub(super) fn save_if_due(&mut self, end: bool) {
        let due = self
            .save_due_ms()
            .is_some_and(|due| end || due <= self.now_ms);
        let Some(path) = self.saver.differences.as_ref().filter(|_| due) else {
            return;
        };
        let begun = Instant::now();
        let since = self.savable(difference(&self.filed, &self.state));
        let saved = write_atomically(path, since.iter().map(|step| self.kept_line(step)));
        self.saver.due_ms = match saved {
            Ok(()) => None,
            Err(e) => {
                let path = path.display();
                log::error!("the state is not saved: {path}: {e}; trying again in a while");
                Some(self.now_ms + SAVE_AGAIN_MS)
            }
        };
        self.write_last(&since);
        let cost_ms = begun.elapsed().as_millis() as u64;
        self.saver.rests_until_ms = self.now_ms + cost_ms * SAVE_REST_TIMES;
    }

    /// Writes down what runs, if the state is saved at all.
    pub(super) fn keep_last(&mut self) {
        if self.saver.saves() {
            self.write_last(&self.savable(difference(&self.filed, &self.state)));
        }
    }

    fn write_last(&mut self, since: &[Step]) {
        let mut count = 0;
        let filed = self.filed.dump().map(Step::Do);
        let whole = std::iter::once(self.settings.encode())
            .chain(filed.map(|step| self.kept_line(&step)))
            .chain(std::iter::once(SINCE.to_string()))
            .chain(since.iter().map(|step| self.kept_line(step)))
            .inspect(|_| count += 1);
        // A folder in which we may not write (/etc) costs --last-known-good, and no more.
        if let Err(e) = write_atomically(&self.saver.last, whole) {
            if !std::mem::replace(&mut self.saver.told, true) {
                let last = self.saver.last.display();
                log::warn!("{last}: {e}: --last-known-good will not know what runs now");
            }
        }
        self.litter.add(count, self.now_ms);
    }

    /// As it stands in a file of ours.
    fn kept_line(&self, step: &Step) -> String {
        match self.settings.save_secrets {
            true => step.encode_with_secrets(),
            false => step.encode(),
        }
    }

    /// A certificate that cannot be there again leaves those to its listener that the file has.
    fn savable(&self, mut steps: Vec<Step>) -> Vec<Step> {
        let certificates = steps.iter().filter_map(Step::certificate);
        let lost: Vec<_> = certificates
            .filter(|one| !self.can_be_saved(one))
            .cloned()
            .collect();
        for one in &lost {
            let names = one.names_text();
            log::warn!("the certificate of {names} is not saved: it came without key_path, and save_secrets is false");
        }
        steps.retain(|step| match step {
            Step::Do(Change::CertificateRemove { listener, .. }) => {
                !lost.iter().any(|one| one.listener == *listener)
            }
            _ => true,
        });
        steps
    }
}

/// For the log, which is not there yet while the state is restored.
pub type Told = Vec<(log::Level, String)>;

/// Does the saved changes on top of the configuration. Returns what was not done, a sentence
/// each. With `ran`, the state that ran last, that is it.
pub fn restore(config: &mut Config, ran: Option<State>) -> Result<Told, String> {
    if let Some(ran) = ran {
        config.state = ran;
        return Ok(Vec::new());
    }
    let Some(path) = config.settings.saved_state.clone() else {
        return Ok(Vec::new());
    };
    let shown = path.display();
    let bytes = match read_bounded(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => {
            return Err(format!(
                "cannot read saved_state {shown}: {e}; mend it, move it away, \
                 or start what ran last with --last-known-good"
            ))
        }
    };
    let mut told = Told::new();
    let mut aside = Vec::new();
    let lines = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let lines = lines.split(|byte| *byte == b'\n');
    for (number, line) in (1..).zip(lines).filter(|(_, line)| !line.is_empty()) {
        let change = std::str::from_utf8(line).map_err(|e| e.to_string());
        let change =
            change.and_then(|line| change_of(line, &config.state, &config.settings.timeouts));
        // A frontend whose users are not found stands there, closed: without it another one, that
        // asks nobody, might take its requests.
        let change = change.and_then(|change| match whole(&change) {
            Err(why) if change.basic_auth().is_some() => {
                told.push((log::Level::Warn, format!("{shown}:{number}: {why}")));
                Ok(change)
            }
            whole => whole,
        });
        if matches!(&change, Ok(change) if config.state.has_already(change)) {
            continue;
        }
        if let Err(why) = change.and_then(|change| apply(&mut config.state, change)) {
            let what = format!("{shown}:{number}: not done again: {why}");
            told.push((log::Level::Warn, what));
            aside.push((why, line));
        }
    }
    if !aside.is_empty() {
        let rejected = with_suffix(&path, ".rejected");
        match keep_aside(&rejected, &aside) {
            Ok(()) => {
                let what = format!("what was not done again is kept in {}", rejected.display());
                told.push((log::Level::Warn, what));
            }
            // A full disk is no reason not to serve: the log has them.
            Err(e) => told.extend(lost(&path, &rejected, &e, &aside)),
        }
    }
    Ok(told)
}

/// Into the log, once there is one.
pub fn tell(told: Told) {
    for (level, what) in told {
        log::log!(level, "{what}");
    }
}

/// The lines themselves, as far as they are not too many.
fn lost(saved: &Path, rejected: &Path, why: &io::Error, aside: &[(String, &[u8])]) -> Told {
    let (saved, rejected) = (saved.display(), rejected.display());
    let count = aside.len();
    let what = format!(
        "cannot keep what was not done again in {rejected}: {why}; {saved} has these lines, \
         {count} in all, until the state is saved again: copy them from there or from here"
    );
    let line = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        // What stands behind that may be a private key, or hashes of passwords.
        let keys = [" key=", " tls_key=", " basic_auth="].into_iter();
        let start = keys.filter_map(|key| text.find(key)).min();
        let text = start.map_or(&*text, |start| &text[..start]);
        let plain = |c: char| if c.is_control() { '?' } else { c };
        let text: String = text.chars().take(LOST_LINE_CHARS_MAX).map(plain).collect();
        format!("not done again: {text}")
    };
    let lines = aside.iter().take(LOST_LINES_MAX);
    std::iter::once(what)
        .chain(lines.map(|(_, bytes)| line(bytes)))
        .map(|what| (log::Level::Error, what))
        .collect()
}

/// Adds lines to those that did not fit before, unless they stand there already.
fn keep_aside(rejected: &Path, aside: &[(String, &[u8])]) -> io::Result<()> {
    let before = match read_bounded(rejected) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        before => before?,
    };
    let known: Vec<&[u8]> = before.split(|byte| *byte == b'\n').collect();
    let there: BTreeSet<&[u8]> = known.iter().copied().collect();
    let mut lines: Vec<&[u8]> = known;
    // Behind the last LF there is nothing.
    lines.pop_if(|last| last.is_empty());
    let reasons: Vec<String> = aside.iter().map(|(why, _)| format!("# {why}")).collect();
    for (reason, (_, line)) in reasons.iter().zip(aside) {
        if !there.contains(line) {
            lines.extend([reason.as_bytes(), line]);
        }
    }
    write_atomically(rejected, lines.into_iter())
}

/// What ran last, instead of what is in `file`: the configuration, the state with what was
/// changed since it was read, and what of it was not found.
pub fn last_known_good(file: &Path) -> Result<(Config, State, Vec<String>), String> {
    let path = with_suffix(file, ".last");
    let wrong = |what: String| {
        format!(
            "no last known good configuration in {}: {what}",
            path.display()
        )
    };
    let bytes = read_bounded(&path).map_err(|e| wrong(e.to_string()))?;
    let text = std::str::from_utf8(&bytes).map_err(|e| wrong(e.to_string()))?;
    let mut lines = text.lines();
    let settings =
        Settings::decode(lines.next().unwrap_or_default()).map_err(|e| wrong(e.to_string()))?;
    let mut state = State::default();
    let mut filed = None;
    let mut told = Vec::new();
    for line in lines {
        if line == SINCE {
            filed = Some(state.clone());
            continue;
        }
        let change = change_of(line, &state, &settings.timeouts);
        // The others serve without it: a cluster whose own certificate has no key answers 503,
        // a frontend without its users 401.
        let change = change.map(|change| match whole(&change) {
            Err(what) if change.own_certificate().is_some() || change.basic_auth().is_some() => {
                told.push(what);
                Ok(change)
            }
            whole => whole,
        });
        match change.and_then(|whole| apply(&mut state, whole?)) {
            Err(what) if line.starts_with("certificate ") => told.push(what),
            done => done.map_err(wrong)?,
        }
    }
    let config = Config {
        settings,
        state: filed.ok_or_else(|| wrong("its end is missing".into()))?,
    };
    Ok((config, state, told))
}

fn change_of(line: &str, state: &State, timeouts: &Timeouts) -> Result<Change, String> {
    match Command::decode(line, timeouts) {
        Ok(Command::Change(change)) => Ok(change),
        Ok(Command::Update(update)) => update.on(state, timeouts).map_err(|e| e.to_string()),
        Ok(_) => Err("it is no change".into()),
        Err(refused) => Err(refused.to_string()),
    }
}

/// What was saved without its key is read from its files.
fn whole(change: &Change) -> Result<Change, String> {
    refill(change, &mut read_text)
}

fn apply(state: &mut State, change: Change) -> Result<(), String> {
    state
        .apply(&change)
        .map(drop)
        .map_err(|refused| refused.to_string())
}

/// Where it is kept what names stand for.
pub(super) fn kept_names(file: &Path) -> PathBuf {
    with_suffix(file, ".names")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_bounded(path)?).map_err(io::Error::other)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = CONFIG_BYTES_MAX as u64;
    let n = File::open(path)?.take(most + 1).read_to_end(&mut bytes)?;
    if n as u64 > most {
        return Err(io::Error::other("the file is too large"));
    }
    Ok(bytes)
}

/// Lines, given without their LF. Readable by nobody else: a state may name what others need not know.
pub(super) fn write_atomically(
    path: &Path,
    lines: impl Iterator<Item = impl AsRef<[u8]>>,
) -> io::Result<()> {
    let temporary = with_suffix(path, ".new");
    let written = write_lines(&temporary, lines).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Half a file is of no use, and the disk may be full.
        let _ = fs::remove_file(&temporary);
    }
    written?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

fn write_lines(path: &Path, lines: impl Iterator<Item = impl AsRef<[u8]>>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    let mut writer = BufWriter::new(&file);
    for line in lines {
        writer.write_all(line.as_ref())?;
        writer.write_all(b"\n")?;
    }
    writer.flush()?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_as_it_was() {
        let folder = std::env::temp_dir().join(format!("sozu-saved-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("state");
        write_atomically(&path, ["one"].iter()).unwrap();
        write_atomically(&path, ["two"].iter()).unwrap();
        assert_eq!(read_bounded(&path).unwrap(), b"two\n");
        // It cannot be renamed over a folder: nothing is left behind.
        fs::create_dir(folder.join("folder")).unwrap();
        assert!(write_atomically(&folder.join("folder"), ["x"].iter()).is_err());
        assert!(write_atomically(&folder.join("nowhere/state"), ["x"].iter()).is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
        fs::remove_dir_all(&folder).unwrap();
    }
}
