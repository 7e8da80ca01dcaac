//! The log files: opened by main, handed to the workers.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use crate::config::{Settings, Target};

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

fn text(error: io::Error) -> String {
    format!("cannot duplicate the log's descriptor: {error}")
}

fn open(target: &Target) -> Result<OwnedFd, String> {
    match target {
        Target::Stdout => io::stdout().as_fd().try_clone_to_owned().map_err(text),
        Target::Stderr => io::stderr().as_fd().try_clone_to_owned().map_err(text),
        Target::File(path) => {
            let mut options = OpenOptions::new();
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
