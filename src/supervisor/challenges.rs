//! The folder in which certbot or acme.sh puts what a certificate authority is to be
//! answered. Main reads it, workers get the answers: they see no files.
//!
//! Watched, not polled: every directory on the way that is there. One that comes
//! or goes is noticed by the one above it. Whatever lies there, no more than so
//! many small regular files are read, and none of them can make main wait.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::http::challenge::{is_token, Challenges};
use crate::limits::{CHALLENGE_BYTES_MAX, CHALLENGE_NAMES_MAX, CHALLENGE_REST_TIMES};
use crate::net::token::{self, Kind};
use crate::proto::reply;
use crate::supervisor::Supervisor;
use crate::sys::clock;
use crate::sys::epoll::{self, Epoll};
use crate::sys::inotify::{Event, Inotify, Watch};
use crate::sys::process::{O_NOFOLLOW, O_NONBLOCK};

/// Below the folder that the configuration names.
const WAY: [&str; 2] = [".well-known", "acme-challenge"];

#[derive(Default)]
pub struct Board {
    /// `None`: nothing is watched.
    folder: Option<Folder>,
    pub answers: Challenges,
    /// When to look again.
    pub due_ms: Option<u64>,
}

struct Folder {
    path: PathBuf,
    inotify: Inotify,
    /// What is watched, and the name there that matters; every name in the last directory.
    watches: Vec<(Watch, Option<OsString>)>,
    /// It is not looked at again before then.
    rests_until_ms: u64,
    /// What the log was told last.
    told: String,
}

impl Folder {
    fn open(path: &Path, poll: &Epoll) -> std::io::Result<Folder> {
        let inotify = Inotify::new()?;
        let token = token::pack_single(Kind::Challenges);
        poll.add(inotify.as_fd(), epoll::IN, token)?;
        Ok(Folder {
            path: path.to_owned(),
            inotify,
            watches: Vec::new(),
            rests_until_ms: 0,
            told: String::new(),
        })
    }

    /// The directories on the way, from above the folder downwards, with the name that leads on.
    fn way(&self) -> Vec<(PathBuf, Option<OsString>)> {
        let name = |path: &Path| path.file_name().map(OsStr::to_owned);
        let (mut way, mut at) = (Vec::new(), self.path.clone());
        if let Some(above) = self.path.parent() {
            way.push((above.to_owned(), name(&self.path)));
        }
        for next in WAY {
            way.push((at.clone(), Some(next.into())));
            at.push(next);
        }
        way.push((at, None));
        way
    }

    /// Watches what is there, and reads what is to be answered.
    fn look(&mut self) -> Challenges {
        // First the watches: what comes while it is read is noticed then.
        let way = self.way();
        let old = std::mem::take(&mut self.watches);
        for (path, name) in &way {
            if let Ok(watch) = self.inotify.watch(path) {
                self.watches.push((watch, name.clone()));
            }
        }
        for (watch, _) in old {
            if !self.watches.iter().any(|(kept, _)| *kept == watch) {
                self.inotify.unwatch(watch);
            }
        }
        let mut answers = Challenges::default();
        let mut wrong = String::new();
        if let Some((path, _)) = way.last() {
            read_all(path, &mut answers, &mut wrong);
        }
        if self.watches.is_empty() {
            wrong = format!("{} is not there", self.path.display());
        }
        if !wrong.is_empty() && wrong != self.told {
            log::warn!("acme_challenges: {wrong}");
        }
        self.told = wrong;
        answers
    }

    fn has_changed(&mut self) -> bool {
        let watches = &self.watches;
        let matters = |event: Event| match event.watch {
            None => true,
            Some(watch) => watches.iter().any(|(known, name)| {
                let named = name.as_ref().is_none_or(|name| *name == event.name);
                *known == watch && (named || event.name.is_empty())
            }),
        };
        self.inotify.any(matters).unwrap_or(true)
    }
}

/// `wrong`: what was not taken, a sentence about the first of it.
fn read_all(folder: &Path, answers: &mut Challenges, wrong: &mut String) {
    let Ok(names) = std::fs::read_dir(folder) else {
        return;
    };
    for (count, entry) in names.flatten().enumerate() {
        if count == CHALLENGE_NAMES_MAX {
            *wrong = format!(
                "only {CHALLENGE_NAMES_MAX} names of {} are read",
                folder.display()
            );
            return;
        }
        let name = entry.file_name();
        let Some(token) = name.to_str().filter(|name| is_token(name)) else {
            continue;
        };
        let taken = read_one(&entry.path()).and_then(|text| answers.add(token, &text));
        if let (Err(why), true) = (taken, wrong.is_empty()) {
            *wrong = format!("{} is not taken: {why}", entry.path().display());
        }
    }
}

/// The start of a regular file; of no other is anything read, and no link is followed.
fn read_one(path: &Path) -> Result<Vec<u8>, &'static str> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK);
    let file: File = options.open(path).map_err(|_| "it cannot be read")?;
    if !file.metadata().is_ok_and(|data| data.is_file()) {
        return Err("it is no regular file");
    }
    let mut text = Vec::new();
    // With a byte more than fits, and its line end.
    let read = file
        .take(CHALLENGE_BYTES_MAX as u64 + 3)
        .read_to_end(&mut text);
    read.map(|_| text).map_err(|_| "it cannot be read")
}

impl Supervisor {
    /// From now on the folder of the settings, if there is one.
    pub(super) fn watch_challenges(&mut self) {
        self.challenges.folder = None;
        if let Some(path) = self.settings.acme_challenges.clone() {
            match Folder::open(&path, &self.poll) {
                Ok(folder) => self.challenges.folder = Some(folder),
                Err(e) => log::error!("acme_challenges is not watched: inotify: {e}"),
            }
        }
        self.look_for_challenges();
        // Changed or not: who was started by another main may know others.
        self.hand_out_challenges();
    }

    /// inotify says that something has happened.
    pub(super) fn challenges_ready(&mut self) {
        let now_ms = self.now_ms;
        let Some(folder) = &mut self.challenges.folder else {
            return;
        };
        if folder.has_changed() && self.challenges.due_ms.is_none() {
            self.challenges.due_ms = Some(now_ms.max(folder.rests_until_ms));
        }
    }

    pub(super) fn look_at_challenges(&mut self) {
        let due = self.challenges.due_ms.is_some_and(|due| due <= self.now_ms);
        if due && self.look_for_challenges() {
            self.hand_out_challenges();
        }
    }

    fn hand_out_challenges(&mut self) {
        let line = self.challenges.line();
        self.tell_workers(&line);
    }

    /// Whether there are others than before.
    fn look_for_challenges(&mut self) -> bool {
        self.challenges.due_ms = None;
        let found = self.challenges.folder.as_mut().map(|folder| {
            let begun_us = clock::monotonic_us();
            let found = folder.look();
            let now_us = clock::monotonic_us();
            let cost_us = now_us - begun_us;
            folder.rests_until_ms = (now_us + cost_us * CHALLENGE_REST_TIMES) / 1000;
            found
        });
        let found = found.unwrap_or_default();
        let changed = found != self.challenges.answers;
        if changed {
            log::info!("acme_challenges: {} to be answered", found.len());
            self.challenges.answers = found;
        }
        changed
    }

    /// What `status` says.
    pub(super) fn challenge_lines(&self) -> String {
        let Some(folder) = &self.challenges.folder else {
            return String::new();
        };
        let pairs = [
            ("folder", folder.path.display().to_string()),
            ("answers", self.challenges.answers.len().to_string()),
        ];
        reply::data("acme_challenges", &pairs)
    }
}

impl Board {
    /// What a worker is told.
    pub fn line(&self) -> String {
        format!("challenges all=\"{}\"", self.answers.encode())
    }
}
