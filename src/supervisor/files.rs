//! The log files: opened by main, handed to the workers.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use crate::config::{Settings, Target};
use crate::supervisor::Supervisor;
use crate::sys::process;

pub struct Logs {
    log: OwnedFd,
    access: Option<OwnedFd>,
}

impl Logs {
    pub fn open(settings: &Settings) -> Result<Logs, String> {
        let log = open(&settings.log_target)?;
        let access = match &settings.log_access_target {
            None => None,
            Some(target) if *target == settings.log_target => Some(log.try_clone().map_err(text)?),
            Some(target) => Some(open(target)?),
        };
        Ok(Logs { log, access })
    }

    /// Those of the program before this one.
    pub fn taken(log: OwnedFd, access: Option<OwnedFd>) -> Logs {
        Logs { log, access }
    }

    /// The numbers of their descriptors.
    pub fn numbers(&self) -> (RawFd, Option<RawFd>) {
        let access = self.access.as_ref().map(AsRawFd::as_raw_fd);
        (self.log.as_raw_fd(), access)
    }

    pub fn log_for_main(&self) -> Result<OwnedFd, String> {
        self.log.try_clone().map_err(text)
    }

    pub fn log(&self) -> io::Result<OwnedFd> {
        self.log.try_clone()
    }

    pub fn access(&self) -> io::Result<Option<OwnedFd>> {
        self.access.as_ref().map(OwnedFd::try_clone).transpose()
    }
}

impl Supervisor {
    /// Each worker gets descriptors of its own.
    pub(super) fn hand_out_logs(&mut self) {
        match self.logs.log() {
            Ok(log) => self.say_to_keys("log", vec![log]),
            Err(e) => log::error!("the key process keeps its old log: {e}"),
        }
        for (_, channel) in self.workers.channels() {
            let fds = || Ok::<_, io::Error>((self.logs.log()?, self.logs.access()?));
            match fds() {
                Ok((log, access)) => {
                    channel.send_with("log", vec![log]);
                    if let Some(access) = access {
                        channel.send_with("access", vec![access]);
                    }
                    // As above.
                    let _ = channel.flush();
                }
                Err(e) => log::error!("a worker keeps its old log: {e}"),
            }
        }
    }
}

fn text(error: io::Error) -> String {
    format!("cannot duplicate the log's descriptor: {error}")
}

fn open(target: &Target) -> Result<OwnedFd, String> {
    match target {
        Target::Stdout => copy(io::stdout().as_fd()).map_err(text),
        Target::Stderr => copy(io::stderr().as_fd()).map_err(text),
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

/// A pipe is opened anew, so that it never blocks us and stays as it is for those who share it.
fn copy(fd: BorrowedFd) -> io::Result<OwnedFd> {
    let copy = File::from(fd.try_clone_to_owned()?);
    if copy.metadata()?.file_type().is_fifo() {
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let mut options = OpenOptions::new();
        // Where it may not be opened, a write waits for whoever reads.
        if let Ok(own) = options
            .write(true)
            .custom_flags(process::O_NONBLOCK)
            .open(path)
        {
            return Ok(own.into());
        }
    }
    Ok(copy.into())
}
