//! The log files: opened by main, handed to the workers.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::channel::Channel;
use crate::config::{Settings, Target};
use crate::supervisor::relay::Standard;
use crate::supervisor::Supervisor;
use crate::sys::process;

pub struct Logs {
    pub(super) standard: Standard,
    /// What others write to.
    log: OwnedFd,
    access: Option<OwnedFd>,
}

impl Logs {
    pub fn open(settings: &Settings) -> Result<Logs, String> {
        let standard = Standard::open([None, None]).map_err(text)?;
        let (log, access) = open_all(settings, &standard)?;
        Ok(Logs {
            standard,
            log,
            access,
        })
    }

    /// Files may have been moved away.
    pub fn open_again(&mut self, settings: &Settings) -> Result<(), String> {
        (self.log, self.access) = open_all(settings, &self.standard)?;
        Ok(())
    }

    /// Those of the program before this one: files are where they were, be they moved away or not.
    pub fn taken(
        settings: &Settings,
        standard: Standard,
        log: OwnedFd,
        access: Option<OwnedFd>,
    ) -> Result<Logs, String> {
        let same = |target: &Target, fd: OwnedFd| match number_of(target) {
            Some(number) => standard.theirs(number).map_err(text),
            None => Ok(fd),
        };
        let log = same(&settings.log_target, log)?;
        let access = settings.log_access_target.as_ref().zip(access);
        let access = access.map(|(target, fd)| same(target, fd)).transpose()?;
        Ok(Logs {
            standard,
            log,
            access,
        })
    }

    /// The numbers of their descriptors.
    pub fn numbers(&self) -> (RawFd, Option<RawFd>) {
        let access = self.access.as_ref().map(AsRawFd::as_raw_fd);
        (self.log.as_raw_fd(), access)
    }

    pub fn log_for_main(&self, settings: &Settings) -> Result<OwnedFd, String> {
        let own = match number_of(&settings.log_target) {
            Some(number) => self.standard.own(number),
            None => self.log.try_clone(),
        };
        own.map_err(text)
    }

    pub fn log(&self) -> io::Result<OwnedFd> {
        self.log.try_clone()
    }

    pub fn access(&self) -> io::Result<Option<OwnedFd>> {
        self.access.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// Standard output and error of a process that main starts.
    pub fn outlets(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.standard.theirs(0)?, self.standard.theirs(1)?])
    }

    /// For a worker that runs. A failure of the channel means that it died, which SIGCHLD tells.
    pub fn hand_to(&self, channel: &mut Channel) {
        match self.log().and_then(|log| Ok((log, self.access()?))) {
            Ok((log, access)) => {
                channel.send_with("log", vec![log]);
                if let Some(access) = access {
                    channel.send_with("access", vec![access]);
                }
                let _ = channel.flush();
            }
            Err(e) => log::error!("a worker keeps its old log: {e}"),
        }
    }
}

impl Supervisor {
    /// Each worker gets descriptors of its own.
    pub(super) fn hand_out_logs(&mut self) {
        match self.logs.log() {
            Ok(log) => self.say_to_keys("log", vec![log]),
            Err(e) => log::error!("the key process keeps its old log: {e}"),
        }
        match self.logs.log() {
            Ok(log) => self.say_to_resolver("log", vec![log]),
            Err(e) => log::error!("the resolver keeps its old log: {e}"),
        }
        for (_, channel) in self.workers.channels() {
            self.logs.hand_to(channel);
        }
    }
}

/// Which of standard output and error it is.
fn number_of(target: &Target) -> Option<usize> {
    match target {
        Target::Stdout => Some(0),
        Target::Stderr => Some(1),
        Target::File(_) => None,
    }
}

/// The log and the access log, for others.
fn open_all(
    settings: &Settings,
    standard: &Standard,
) -> Result<(OwnedFd, Option<OwnedFd>), String> {
    let log = open(&settings.log_target, standard)?;
    let access = match &settings.log_access_target {
        None => None,
        Some(target) if *target == settings.log_target => Some(log.try_clone().map_err(text)?),
        Some(target) => Some(open(target, standard)?),
    };
    Ok((log, access))
}

fn text(error: io::Error) -> String {
    format!("cannot duplicate the log's descriptor: {error}")
}

fn open(target: &Target, standard: &Standard) -> Result<OwnedFd, String> {
    match target {
        Target::Stdout => standard.theirs(0).map_err(text),
        Target::Stderr => standard.theirs(1).map_err(text),
        Target::File(path) => {
            let mut options = OpenOptions::new();
            // A pipe that nobody reads is refused; without the flag it would stop main until somebody does.
            options.custom_flags(process::O_NONBLOCK);
            let file = options.append(true).create(true).mode(0o640).open(path);
            let what = |e| {
                format!(
                    "cannot open the log {}: {e}; change log_target",
                    path.display()
                )
            };
            file.map(OwnedFd::from).map_err(what)
        }
    }
}
