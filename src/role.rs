//! What every process that main starts begins with, be it a worker or the key process.
//!
//! Its standard input is the channel to main, and there is nothing else of main's in it.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use crate::channel::Channel;
use crate::net::token::{self, Kind};
use crate::proto::line::{split, value_of};
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::process::{self, Signals};
use crate::sys::sandbox::filter::Rule;
use crate::sys::sandbox::{table, Plan};

/// What a process has at first.
pub struct Begun {
    pub channel: Channel,
    pub poll: Epoll,
    pub signals: Signals,
}

impl Begun {
    /// An error: there is something in the way that should not be there.
    pub fn new() -> io::Result<Begun> {
        process::close_inherited()?;
        process::set_name(c"sozu");
        process::leave_on_panic();
        // Before any other descriptor: the sandbox knows it by its number.
        let signals = Signals::open()?;
        if u32::try_from(signals.as_fd().as_raw_fd()) != Ok(table::SIGNALS) {
            return Err(io::Error::other(
                "standard input, output or error is not open",
            ));
        }
        let channel = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let channel = Channel::new(channel)?;
        let poll = Epoll::new()?;
        poll.add(
            channel.as_fd(),
            epoll::IN,
            token::pack_single(Kind::Channel),
        )?;
        Ok(Begun {
            channel,
            poll,
            signals,
        })
    }

    /// Hands all that main says to `take`, up to `start`. False: main has gone before.
    pub fn listen(
        &mut self,
        mut take: impl FnMut(&str, &mut Channel) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut events = Events::with_capacity(1);
        loop {
            while let Some(line) = self.channel.next_line() {
                if line == "start" {
                    return Ok(true);
                }
                take(&line, &mut self.channel)?;
            }
            self.poll.wait(&mut events, -1)?;
            if !self.channel.receive()? {
                return Ok(false);
            }
        }
    }
}

/// The life of a process: what ends it is told.
pub fn live(name: &str, run: impl FnOnce() -> io::Result<()>) -> ! {
    process::leave(match run() {
        Ok(()) => 0,
        Err(e) => {
            log::error!("{e}");
            eprintln!("{name}: {e}");
            1
        }
    })
}

/// The value of a key on a line.
pub fn value(line: &str, wanted: &str) -> Option<String> {
    value_of(&split(line).ok()?, wanted).map(str::to_string)
}

/// What is to be given up: `sandbox chroot=true uid=… gid=… landlock=VERSION seccomp=true`, each if
/// there is something to give up. `rules`: what stays allowed.
pub fn plan(line: &str, channel: &mut Channel, rules: &'static [Rule]) -> Plan {
    let number = |key| value(line, key).and_then(|text| text.parse().ok());
    let root = value(line, "chroot").and_then(|_| channel.take_fd());
    Plan {
        root,
        user: number("uid").zip(number("gid")),
        landlock: number("landlock"),
        rules: value(line, "seccomp").map(|_| rules),
        files: false,
    }
}
