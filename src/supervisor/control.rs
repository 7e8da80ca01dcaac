//! The control socket: clients that send lines and get answers.
//!
//! A client can never stop the proxy: lines have a bound, clients have a
//! number, and whoever does not read its answers is not read any more.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::date::rfc3339;
use crate::limits::{ACCEPT_PAUSE_MS, CONTROL_CLIENTS_MAX, CONTROL_REPLY_BYTES_MAX};
use crate::net::logging::unix_ms;
use crate::net::token::{self, Kind};
use crate::proto::command::Command;
use crate::proto::line::LineReader;
use crate::proto::reply;
use crate::slab::{Key, Slab};
use crate::state::{Code, Refused};
use crate::supervisor::apply::Step;
use crate::supervisor::Supervisor;
use crate::sys::epoll::{self, Epoll};
use crate::sys::{process, socket};

/// Bytes taken from a client in one turn.
const READ_BYTES: usize = 16 * 1024;

pub struct Client {
    stream: UnixStream,
    reader: LineReader,
    answer: Vec<u8>,
    /// It has shut its side: what is asked is answered, then it is let go.
    ended: bool,
    /// It waits for the end of everything.
    pub awaits_end: bool,
    /// What it asked for is being done: until then nothing more is taken from it.
    pub waiting: bool,
    /// The changes since its `begin`.
    pub steps: Option<Vec<Step>>,
    /// A line since then was refused: there is nothing to commit.
    pub spoiled: bool,
    /// It wants to hear what happens.
    pub listens: bool,
    /// For the log: uid and pid.
    pub who: String,
}

pub struct Control {
    listener: UnixListener,
    path: PathBuf,
    pub clients: Slab<Client>,
    /// Nobody is let in until then: out of descriptors.
    pub paused_until_ms: Option<u64>,
}

impl Control {
    /// Binds the socket, closed to all but its owner from its first moment.
    pub fn bind(path: &Path) -> Result<Control, String> {
        let shown = path.display();
        if let Ok(other) = UnixStream::connect(path) {
            let pid = socket::peer_credentials(other.as_fd()).map_or(0, |(_, _, pid)| pid);
            return Err(format!(
                "another sozu, pid {pid}, listens on {shown}; \
                 steer that one with sozuctl -s {shown}, or give this one another command_socket"
            ));
        }
        let stale = fs::symlink_metadata(path).is_ok_and(|data| {
            use std::os::unix::fs::FileTypeExt;
            data.file_type().is_socket()
        });
        if stale {
            // Its owner is gone. A failure to remove it is a failure to bind, told below.
            let _ = fs::remove_file(path);
        }
        let umask = process::umask(0o177);
        let bound = UnixListener::bind(path);
        process::umask(umask);
        let advice = |e: io::Error| {
            format!("cannot make the control socket {shown}: {e}; change command_socket or the rights of its folder")
        };
        let listener = bound.map_err(advice)?;
        listener.set_nonblocking(true).map_err(advice)?;
        Ok(Control {
            listener,
            path: path.to_owned(),
            clients: Slab::default(),
            paused_until_ms: None,
        })
    }

    /// Lets clients in from now on.
    pub fn open(&mut self, poll: &Epoll) {
        self.paused_until_ms = None;
        let token = token::pack_single(Kind::ControlSocket);
        if let Err(e) = poll.add(self.as_fd(), epoll::IN, token) {
            log::error!("nobody can steer this proxy: epoll_ctl for the control socket: {e}");
        }
    }

    /// Takes whoever waits, as long as there is room.
    pub fn accept(&mut self, poll: &Epoll, now_ms: u64) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(e) if socket::out_of_descriptors(&e) => {
                    log::error!("accept on the control socket: {e}; trying again shortly");
                    let removed = poll.remove(self.as_fd());
                    self.paused_until_ms = removed.is_ok().then_some(now_ms + ACCEPT_PAUSE_MS);
                    return;
                }
                Err(_) => return,
            };
            self.let_in(stream, poll);
        }
    }

    fn let_in(&mut self, stream: UnixStream, poll: &Epoll) {
        if self.clients.len() == CONTROL_CLIENTS_MAX {
            let refused = Refused::new(Code::Limit, "too many control clients: try again later");
            // It is not waited for; it may not get to read why.
            let _ = stream.set_nonblocking(true);
            let _ = (&stream).write_all(reply::error(&refused).as_bytes());
            return;
        }
        let who = match socket::peer_credentials(stream.as_fd()) {
            Ok((uid, _, pid)) => format!("uid {uid} pid {pid}"),
            Err(e) => format!("nobody known ({e})"),
        };
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let key = self.clients.insert(Client {
            stream,
            reader: LineReader::default(),
            answer: Vec::new(),
            ended: false,
            awaits_end: false,
            waiting: false,
            steps: None,
            spoiled: false,
            listens: false,
            who,
        });
        if let Some(client) = self.clients.get(key) {
            let token = token::pack(Kind::ControlClient, key);
            if poll.add(client.stream.as_fd(), epoll::IN, token).is_err() {
                self.clients.remove(key);
            }
        }
    }

    /// Tells those who asked for the end that it has come.
    pub fn finish_shutdown(&mut self) {
        for key in self.clients.keys() {
            if let Some(client) = self.clients.get_mut(key).filter(|client| client.awaits_end) {
                client.answer.extend_from_slice(reply::ok(&[]).as_bytes());
                // Once, and as much as it takes: nobody waits for a client at the end.
                let _ = client.stream.write(&client.answer);
            }
        }
    }
}

impl Drop for Control {
    /// No socket is left behind.
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = fs::remove_file(&self.path);
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Supervisor {
    pub(super) fn client_ready(&mut self, key: Key, ready: u32) {
        if ready & epoll::IN != 0 && !self.read_client(key) || ready & epoll::ERR != 0 {
            self.control.clients.remove(key);
            return;
        }
        self.serve_client(key, ready & epoll::HUP != 0);
    }

    /// Answers what it has asked, as far as it reads the answers.
    fn serve_client(&mut self, key: Key, hung_up: bool) {
        while self.answer_lines(key) && self.sends_all(key) {}
        self.push_out(key, hung_up);
    }

    /// Whether it has taken all of its answers.
    fn sends_all(&mut self, key: Key) -> bool {
        let client = self.control.clients.get_mut(key);
        client.is_some_and(|client| client.send() && client.answer.is_empty())
    }

    /// Sends what it takes of its answers, and waits for what comes next.
    fn push_out(&mut self, key: Key, hung_up: bool) {
        let Some(client) = self.control.clients.get_mut(key) else {
            return;
        };
        if !client.send() || client.is_done() || hung_up && client.answer.is_empty() {
            self.control.clients.remove(key);
            return;
        }
        let reading = if client.may_ask() { epoll::IN } else { 0 };
        let writing = if client.answer.is_empty() {
            0
        } else {
            epoll::OUT
        };
        let token = token::pack(Kind::ControlClient, key);
        if let Err(e) = self
            .poll
            .modify(client.stream.as_fd(), reading | writing, token)
        {
            log::error!("epoll_ctl for a control client: {e}");
            self.control.clients.remove(key);
        }
    }

    /// What it has waited for is done.
    pub(super) fn answer_late(&mut self, key: Key, answer: &str) {
        if let Some(client) = self.control.clients.get_mut(key) {
            client.waiting = false;
            client.answer.extend_from_slice(answer.as_bytes());
            self.serve_client(key, false);
        }
    }

    /// Tells those who listen. One that does not read what it is told is let go.
    pub(super) fn tell_event(&mut self, kind: &str, pairs: &[(&str, String)]) {
        let mut all = vec![("time", rfc3339(unix_ms())), ("kind", kind.to_string())];
        all.extend_from_slice(pairs);
        let line = reply::data("event", &all);
        for key in self.control.clients.keys() {
            let Some(client) = self
                .control
                .clients
                .get_mut(key)
                .filter(|client| client.listens)
            else {
                continue;
            };
            client.answer.extend_from_slice(line.as_bytes());
            if client.answer.len() > CONTROL_REPLY_BYTES_MAX {
                self.control.clients.remove(key);
            } else {
                self.push_out(key, false);
            }
        }
    }

    /// False: it is gone.
    fn read_client(&mut self, key: Key) -> bool {
        let Some(client) = self.control.clients.get_mut(key) else {
            return false;
        };
        let mut bytes = [0; READ_BYTES];
        match client.stream.read(&mut bytes) {
            Ok(0) => client.ended = true,
            Ok(n) => client.reader.push(&bytes[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        true
    }

    /// True: there may be more lines, but the answers so far are to be taken first.
    fn answer_lines(&mut self, key: Key) -> bool {
        loop {
            let Some(client) = self.control.clients.get_mut(key) else {
                return false;
            };
            if client.waiting {
                return false;
            }
            if client.answer.len() >= CONTROL_REPLY_BYTES_MAX {
                return true;
            }
            let answer = match client.reader.next_line() {
                None => return false,
                Some(Ok(line)) if line.trim().is_empty() => continue,
                Some(Ok(line)) => self.answer_line(&line, key),
                Some(Err(what)) => Err(Refused::new(Code::Syntax, what)),
            };
            let Some(client) = self.control.clients.get_mut(key) else {
                return false;
            };
            let text = answer.unwrap_or_else(|refused| {
                client.spoiled |= client.steps.is_some();
                reply::error(&refused)
            });
            client.answer.extend_from_slice(text.as_bytes());
        }
    }

    fn answer_line(&mut self, line: &str, key: Key) -> Result<String, Refused> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let command = Command::decode(line, &self.settings.timeouts)?;
        self.perform(command, key)
    }
}

impl Client {
    /// Its earlier answers are taken, hence all its lines are answered: no others pile up here.
    fn may_ask(&self) -> bool {
        !self.ended && !self.waiting && self.answer.is_empty()
    }

    fn is_done(&self) -> bool {
        self.ended && self.answer.is_empty() && !self.awaits_end && !self.waiting
    }

    /// False: it is gone.
    fn send(&mut self) -> bool {
        while !self.answer.is_empty() {
            match self.stream.write(&self.answer) {
                Ok(n) => drop(self.answer.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}
