//! Standard output and error, as workers and the key process have them.
//!
//! Where what main was given can be opened anew, they have that (`sys::standard`): they write and can do nothing else. Where
//! it cannot, as the socket under systemd that leads to the journal, they have a pipe of main's, and main
//! copies what comes out. A worker could shut the socket for all; the pipe it cannot even close.
//!
//! Main copies whole lines, and waits for nobody: while the journal takes none it reads none, the pipe
//! fills, and whoever writes loses lines and counts them, as anywhere else. With main the pipe ends: what workers
//! log from then on they lose, until the next main gives them another.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use crate::limits::{RELAY_BYTES_MAX, RELAY_PAUSE_MS};
use crate::net::sink::Sink;
use crate::net::token::{self, Kind};
use crate::slab::Key;
use crate::supervisor::Supervisor;
use crate::sys::epoll::{self, Epoll};
use crate::sys::pipe::Pipe;
use crate::sys::standard;

/// How often the room of a pipe is copied at the end.
const COPIES_MAX: usize = 4;

/// Standard output, standard error.
pub struct Standard([Outlet; 2]);

struct Outlet {
    /// What main writes to,
    own: OwnedFd,
    /// and what others do.
    theirs: OwnedFd,
    /// If that is a pipe.
    relay: Option<Relay>,
}

struct Relay {
    reader: File,
    sink: Sink,
    /// Read and not written yet, or no whole line yet.
    rest: Vec<u8>,
    /// It takes nothing now: when to try again.
    due_ms: Option<u64>,
}

/// A relay as it is handed over: which of the two, the end of the pipe, and what was read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayNote {
    pub number: usize,
    pub fd: RawFd,
    pub rest: Vec<u8>,
}

impl Standard {
    /// With the pipes that are there already, by number.
    pub fn open(mut before: [Option<(OwnedFd, Vec<u8>)>; 2]) -> io::Result<Standard> {
        let [out, err] = &mut before;
        Ok(Standard([
            Outlet::open(io::stdout().as_fd(), out.take())?,
            Outlet::open(io::stderr().as_fd(), err.take())?,
        ]))
    }

    /// For main itself.
    pub fn own(&self, number: usize) -> io::Result<OwnedFd> {
        self.0[number].own.try_clone()
    }

    /// For anybody else.
    pub fn theirs(&self, number: usize) -> io::Result<OwnedFd> {
        self.0[number].theirs.try_clone()
    }

    fn relays(&mut self) -> impl Iterator<Item = (u32, &mut Relay)> {
        let relays = (0..).zip(&mut self.0);
        relays.filter_map(|(number, outlet)| Some((number, outlet.relay.as_mut()?)))
    }

    pub fn watch(&mut self, poll: &Epoll) -> io::Result<()> {
        self.relays().try_for_each(|(number, relay)| {
            poll.add(relay.reader.as_fd(), epoll::IN, token(number))
        })
    }

    pub fn due_ms(&self) -> Option<u64> {
        let relays = self.0.iter().filter_map(|outlet| outlet.relay.as_ref());
        relays.filter_map(|relay| relay.due_ms).min()
    }

    /// All that has come, as far as it goes now: main ends. Whoever writes on meanwhile does not keep it from that.
    pub fn copy_all(&mut self) {
        for (_, relay) in self.relays() {
            let copied = |relay: &mut Relay| relay.copy().is_ok_and(|copied| copied > 0);
            (0..COPIES_MAX).all(|_| copied(relay));
        }
    }

    pub fn notes(&self) -> Vec<RelayNote> {
        let relays = self.0.iter().enumerate();
        let note = |(number, outlet): (usize, &Outlet)| {
            let relay = outlet.relay.as_ref()?;
            Some(RelayNote {
                number,
                fd: relay.reader.as_raw_fd(),
                rest: relay.rest.clone(),
            })
        };
        relays.filter_map(note).collect()
    }
}

fn token(number: u32) -> u64 {
    let key = Key {
        index: number,
        generation: 0,
    };
    token::pack(Kind::Log, key)
}

impl Outlet {
    fn open(given: BorrowedFd, before: Option<(OwnedFd, Vec<u8>)>) -> io::Result<Outlet> {
        if let Ok(theirs) = standard::for_writing(given) {
            let own = theirs.try_clone()?;
            return Ok(Outlet {
                own,
                theirs,
                relay: None,
            });
        }
        let own = given.try_clone_to_owned()?;
        let (reader, theirs, rest) = match before {
            Some((reader, rest)) => {
                let theirs = standard::for_writing(reader.as_fd())?;
                (reader, theirs, rest)
            }
            None => {
                let (reader, theirs) = Pipe::new(RELAY_BYTES_MAX)?.into_ends();
                (reader, theirs, Vec::new())
            }
        };
        let relay = Relay {
            reader: File::from(reader),
            sink: Sink::new(own.try_clone()?),
            rest,
            due_ms: None,
        };
        Ok(Outlet {
            own,
            theirs,
            relay: Some(relay),
        })
    }
}

impl Relay {
    /// Copies what is there, once; returns how much. An error: there is nothing, or it goes nowhere now.
    fn copy(&mut self) -> io::Result<usize> {
        let room = RELAY_BYTES_MAX.saturating_sub(self.rest.len());
        if room > 0 {
            let before = self.rest.len();
            self.rest.resize(before + room, 0);
            let read = self.reader.read(&mut self.rest[before..]);
            self.rest.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                _ => {}
            }
        }
        let whole = self.rest.iter().rposition(|byte| *byte == b'\n');
        let end = match whole {
            Some(at) => at + 1,
            // A line without end goes in pieces.
            None if self.rest.len() >= RELAY_BYTES_MAX => self.rest.len(),
            None => return Ok(0),
        };
        let written = self.sink.write_some(&self.rest[..end]);
        self.rest.drain(..written);
        match written == end {
            true => Ok(written),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Something has come, or it is time to try again. Returns whether it goes on.
    fn turn(&mut self, now_ms: u64) -> bool {
        let goes = self.copy().is_ok();
        self.due_ms = (!goes).then_some(now_ms + RELAY_PAUSE_MS);
        goes
    }
}

impl Supervisor {
    /// Others have written lines.
    pub(super) fn log_ready(&mut self, key: Key) {
        let mut relays = self.logs.standard.relays();
        let Some((_, relay)) = relays.find(|(number, _)| *number == key.index) else {
            return;
        };
        if !relay.turn(self.now_ms) {
            if let Err(e) = self.poll.remove(relay.reader.as_fd()) {
                log::error!("epoll_ctl for the log: {e}");
            }
        }
    }

    /// Of those that took nothing.
    pub(super) fn look_after_logs(&mut self) {
        let now_ms = self.now_ms;
        for (number, relay) in self.logs.standard.relays() {
            if relay.due_ms.is_some_and(|due| due <= now_ms) && relay.turn(now_ms) {
                let watched = self
                    .poll
                    .add(relay.reader.as_fd(), epoll::IN, token(number));
                if let Err(e) = watched {
                    log::error!("epoll_ctl for the log: {e}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn lines_come_whole_and_wait_for_who_does_not_read() {
        let (journal, mut reader) = UnixStream::pair().expect("a pair");
        let mut outlet = Outlet::open(journal.as_fd(), None).expect("an outlet");
        let mut relay = outlet.relay.take().expect("a socket has one");
        let mut writer = File::from(outlet.theirs);
        let mut text = [0; 100];
        writer.write_all(b"one\ntw").expect("written");
        assert!(relay.turn(0));
        let n = reader.read(&mut text).expect("read");
        assert_eq!(&text[..n], b"one\n");
        writer.write_all(b"o\n").expect("written");
        assert!(relay.turn(0) && relay.rest.is_empty());
        let n = reader.read(&mut text).expect("read");
        assert_eq!(&text[..n], b"two\n");

        // Nobody reads: what fits in the socket, in the room here and in the pipe, and no more.
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let mut sent = 0;
        let most = 100 * RELAY_BYTES_MAX;
        while sent < most && (writer.write_all(&line).is_ok() || relay.due_ms.is_none()) {
            sent += line.len();
            relay.turn(7);
        }
        assert!(sent < most && relay.rest.len() <= RELAY_BYTES_MAX);
        assert_eq!(relay.due_ms, Some(7 + RELAY_PAUSE_MS));
        // It reads again: nothing of a line is missing.
        reader.set_nonblocking(true).expect("set");
        let mut got = Vec::new();
        while !relay.turn(7) || !matches!(relay.copy(), Ok(0)) {
            let mut piece = [0; 4096];
            while let Ok(n) = reader.read(&mut piece) {
                got.extend_from_slice(&piece[..n]);
            }
        }
        let mut piece = [0; 4096];
        while let Ok(n) = reader.read(&mut piece) {
            got.extend_from_slice(&piece[..n]);
        }
        assert!(got.chunks(line.len()).all(|got| got == line));
    }
}
