//! The control socket: clients that send lines and get answers.
//!
//! A client can never stop the proxy: lines have a bound, clients have a
//! number, whoever does not read its answers is not read any more, and whoever
//! asks for much at once takes turns with the others.

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
use crate::supervisor::apply::Transaction;
use crate::supervisor::connector::Connector;
use crate::supervisor::outbox::{Outbox, Unread};
use crate::supervisor::roles::{Role, Roles};
use crate::supervisor::Supervisor;
use crate::sys::epoll::{self, Epoll};
use crate::sys::{process, socket};

/// Bytes taken from a client in one turn.
const READ_BYTES: usize = 16 * 1024;
/// Clients that are let in, or turned away, in one turn.
const ACCEPTS_PER_TURN: usize = 16;
/// Lines of a client that are answered in one turn.
const LINES_PER_TURN: usize = 64;

pub struct Client {
    pub(super) stream: UnixStream,
    pub(super) reader: LineReader,
    pub outbox: Outbox,
    /// What epoll watches it for.
    pub(super) interest: u32,
    /// Lines that have come may not be answered yet: there were too many for one turn.
    pub(super) behind: bool,
    /// It has shut its side: what is asked is answered, then it is let go.
    pub(super) ended: bool,
    /// It waits for the end of everything.
    pub awaits_end: bool,
    /// What it asked for is being done: until then nothing more is taken from it.
    pub waiting: bool,
    /// What workers are being asked for it.
    pub inquiry: Option<Key>,
    /// The changes since its `begin`.
    pub transaction: Option<Transaction>,
    /// It wants to hear what happens.
    pub listens: bool,
    /// When it last said something, took something, or was answered.
    pub heard_ms: u64,
    /// Events that it was not told, because it did not read those before.
    pub(super) missed: usize,
    pub(super) role: Role,
    pub(super) uid: u32,
    /// For the log: uid and pid.
    pub who: String,
}

pub struct Control {
    pub(super) listener: UnixListener,
    path: PathBuf,
    roles: Roles,
    pub clients: Slab<Client>,
    unread: Unread,
    /// Nobody is let in until then: out of descriptors.
    pub paused_until_ms: Option<u64>,
}

impl Control {
    /// Binds the socket, from its first moment open only to whom the roles say.
    pub fn bind(path: &Path, roles: Roles) -> Result<Control, String> {
        let shown = path.display();
        if let Ok(other) = UnixStream::connect(path) {
            let pid = socket::peer_credentials(other.as_fd()).map_or(0, |who| who.pid);
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
        let umask = process::umask(roles.umask());
        let bound = UnixListener::bind(path);
        process::umask(umask);
        let advice = |e: io::Error| {
            format!("cannot make the control socket {shown}: {e}; change command_socket or the rights of its folder")
        };
        let listener = bound.map_err(advice)?;
        listener.set_nonblocking(true).map_err(advice)?;
        Ok(Control::taken(listener, path, roles))
    }

    /// The socket that was bound by the program before this one, or by systemd.
    pub fn taken(listener: UnixListener, path: &Path, roles: Roles) -> Control {
        Control {
            listener,
            path: path.to_owned(),
            roles,
            clients: Slab::default(),
            unread: Unread::default(),
            paused_until_ms: None,
        }
    }

    /// Lets clients in from now on.
    pub fn open(&mut self, poll: &Epoll) {
        self.paused_until_ms = None;
        let token = token::pack_single(Kind::ControlSocket);
        if let Err(e) = poll.add(self.as_fd(), epoll::IN, token) {
            log::error!("nobody can steer this proxy: epoll_ctl for the control socket: {e}");
        }
    }

    /// Takes whoever waits, a few: who connects all the time takes turns with the others.
    pub fn accept(&mut self, poll: &Epoll, connector: &Connector, now_ms: u64) {
        for _ in 0..ACCEPTS_PER_TURN {
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
            self.let_in(stream, poll, connector, now_ms);
        }
    }

    fn let_in(&mut self, stream: UnixStream, poll: &Epoll, connector: &Connector, now_ms: u64) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let known = socket::peer_credentials(stream.as_fd());
        // Somebody has made this socket a backend: whoever comes by that is a client of the proxy.
        let known = known.ok().filter(|who| !connector.was(who.pid));
        let role = known.as_ref().and_then(|who| self.roles.of(who));
        let (Some(who), Some(role)) = (known, role) else {
            let what = "you are in none of control_admin_groups and control_viewer_groups";
            return turn_away(&stream, &Refused::new(Code::Denied, what));
        };
        if self.clients.len() == CONTROL_CLIENTS_MAX {
            self.let_go_of_a_silent_one(now_ms);
        }
        if self.clients.len() == CONTROL_CLIENTS_MAX {
            let what = "too many control clients: try again later";
            return turn_away(&stream, &Refused::new(Code::Limit, what));
        }
        let key = self.clients.insert(Client {
            stream,
            reader: LineReader::default(),
            outbox: Outbox::default(),
            interest: epoll::IN,
            behind: false,
            ended: false,
            awaits_end: false,
            waiting: false,
            inquiry: None,
            transaction: None,
            listens: false,
            heard_ms: now_ms,
            missed: 0,
            role,
            uid: who.uid,
            who: format!("uid {} pid {}", who.uid, who.pid),
        });
        if let Some(client) = self.clients.get(key) {
            let token = token::pack(Kind::ControlClient, key);
            if poll.add(client.stream.as_fd(), epoll::IN, token).is_err() {
                self.clients.remove(key);
            }
        }
    }

    /// Tells those who asked for the end that it has come.
    pub fn finish_shutdown(&mut self, report: &str) {
        for key in self.clients.keys() {
            if let Some(client) = self.clients.get_mut(key).filter(|client| client.awaits_end) {
                client.outbox.push(report);
                // Once, and as much as it takes: nobody waits for a client at the end.
                let _ = client.outbox.send(&client.stream);
            }
        }
    }
}

impl Drop for Control {
    /// No socket is left behind, unless it is another process's that goes on listening: the
    /// kernel says which one called listen(2), and an exec does not change that.
    fn drop(&mut self) {
        let listens = socket::peer_credentials(self.as_fd());
        if listens.is_ok_and(|who| u32::try_from(who.pid) == Ok(std::process::id())) {
            // Somebody else may have removed it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Supervisor {
    pub(super) fn client_ready(&mut self, key: Key, ready: u32) {
        let client = self.control.clients.get(key);
        let settling = self.is_settling();
        let not_now = |client: &Client| settling || !client.may_ask();
        if client.is_some_and(|client| ready & epoll::IN != 0 && not_now(client)) {
            // It says more before it is answered: not to be heard until then.
            self.watch_client(key, 0);
        } else if ready & epoll::IN != 0 && !self.read_client(key) || ready & epoll::ERR != 0 {
            self.let_go(key);
            return;
        }
        self.serve_client(key, ready & epoll::HUP != 0);
    }

    /// Answers what it has asked, as far as it reads the answers.
    pub(super) fn serve_client(&mut self, key: Key, hung_up: bool) {
        self.answer_lines(key);
        self.bound_unfinished_lines(key);
        self.push_out(key, hung_up);
    }

    /// Sends what it takes of its answers, and waits for what comes next.
    pub(super) fn push_out(&mut self, key: Key, hung_up: bool) {
        let settling = self.is_settling();
        let Some(client) = self.control.clients.get_mut(key) else {
            return;
        };
        let waiting = client.outbox.len();
        let failed = client.send().is_err();
        if client.outbox.len() < waiting {
            client.heard_ms = self.now_ms;
        }
        if failed || client.is_done() || hung_up && !client.behind && client.outbox.is_empty() {
            self.let_go(key);
            return;
        }
        let reading = if client.may_ask() { epoll::IN } else { 0 };
        // Who is behind comes back at once, after the others.
        let writing = match client.outbox.is_empty() && (settling || !client.behind) {
            true => 0,
            false => epoll::OUT,
        };
        // Most are answered before they ask again: they stay watched for that meanwhile.
        let interest = reading | writing;
        if interest | epoll::IN != client.interest | epoll::IN || interest & !client.interest != 0 {
            self.watch_client(key, interest);
        }
        self.go_on(key);
    }

    pub(super) fn watch_client(&mut self, key: Key, interest: u32) {
        let Some(client) = self.control.clients.get_mut(key) else {
            return;
        };
        client.interest = interest;
        let token = token::pack(Kind::ControlClient, key);
        if let Err(e) = self.poll.modify(client.stream.as_fd(), interest, token) {
            log::error!("epoll_ctl for a control client: {e}");
            self.let_go(key);
        }
    }

    /// What it has waited for is done.
    pub(super) fn answer_late(&mut self, key: Key, answer: &str) {
        if let Some(client) = self.control.clients.get_mut(key) {
            client.waiting = false;
            client.heard_ms = self.now_ms;
            client.outbox.push(answer);
            self.serve_client(key, false);
        }
    }

    /// Tells those who listen.
    pub(super) fn tell_event(&mut self, kind: &str, pairs: &[(&str, String)]) {
        self.tell_events(1, &event(kind, pairs));
    }

    pub(super) fn anyone_listens(&self) -> bool {
        let mut clients = self.control.clients.iter();
        clients.any(|(_, client)| client.listens)
    }

    /// That many lines at once. Who does not read is told later how many it has missed.
    pub(super) fn tell_events(&mut self, count: usize, lines: &str) {
        let happened = self.control.unread.event(lines);
        for key in self.control.clients.keys() {
            let listening = self.control.clients.get_mut(key);
            let Some(client) = listening.filter(|client| client.listens) else {
                continue;
            };
            if client.missed > 0 || !client.outbox.push_event(&happened) {
                client.missed += count;
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
            Ok(n) => {
                client.heard_ms = self.now_ms;
                client.reader.push(&bytes[..n]);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        true
    }

    fn answer_lines(&mut self, key: Key) {
        if self.is_settling() {
            // The next program does, or this one if there is none.
            if let Some(client) = self.control.clients.get_mut(key) {
                client.behind = true;
            }
            return;
        }
        for _ in 0..LINES_PER_TURN {
            let Some(client) = self.control.clients.get_mut(key) else {
                return;
            };
            client.behind = client.outbox.len() >= CONTROL_REPLY_BYTES_MAX;
            if client.waiting || client.behind {
                return;
            }
            let Some(line) = client.reader.next_line() else {
                return;
            };
            client.behind = true;
            let answer = match line {
                Ok(line) if line.trim().is_empty() => continue,
                Ok(line) => self.answer_line(&line, key),
                Err(what) => Err(Refused::new(Code::Syntax, what)),
            };
            let text = answer.unwrap_or_else(|refused| {
                self.spoil_transaction(key, &refused);
                reply::error(&refused)
            });
            if let Some(client) = self.control.clients.get_mut(key) {
                client.outbox.push(&text);
            }
        }
    }

    fn answer_line(&mut self, line: &str, key: Key) -> Result<String, Refused> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        let command = Command::decode(line, &self.settings.timeouts)?;
        if let Some(client) = self.control.clients.get(key) {
            client.role.may(&command)?;
        }
        if matches!(
            command,
            Command::Change(_) | Command::Update(_) | Command::Replace(_)
        ) {
            self.charge(key, line.len())?;
        }
        self.perform(command, key)
    }
}

/// It is told why, as far as it reads that, and is not waited for.
fn turn_away(mut stream: &UnixStream, refused: &Refused) {
    let _ = stream.write_all(reply::error(refused).as_bytes());
}

impl Client {
    /// Its lines so far are answered: no others pile up here.
    fn may_ask(&self) -> bool {
        !self.ended && !self.waiting && !self.behind && self.outbox.len() < CONTROL_REPLY_BYTES_MAX
    }

    /// Something of it is under way, or it waits for what may happen.
    pub fn is_busy(&self) -> bool {
        let waits = self.waiting || self.awaits_end || self.listens;
        waits || self.transaction.is_some()
    }

    /// Bytes of a line whose end has not come. Whole lines may wait behind one that is being done.
    pub fn unfinished(&self) -> usize {
        match self.waiting || self.behind {
            true => 0,
            false => self.reader.unfinished(),
        }
    }

    /// What comes of the unfinished line is not for us.
    pub fn give_line_up(&mut self) {
        self.reader.give_up();
    }

    /// It is told why, as far as it reads that.
    pub fn say_good_bye(mut self, refused: &Refused) {
        self.outbox.push(&reply::error(refused));
        let _ = self.outbox.send(&self.stream);
    }

    fn is_done(&self) -> bool {
        let idle = !self.awaits_end && !self.waiting && !self.behind;
        self.ended && idle && self.outbox.is_empty()
    }

    /// An error: it is gone.
    fn send(&mut self) -> io::Result<()> {
        self.outbox.send(&self.stream)?;
        if self.missed > 0 && self.outbox.is_empty() {
            let count = std::mem::take(&mut self.missed);
            self.outbox
                .push(&event("missed", &[("count", count.to_string())]));
            self.outbox.send(&self.stream)?;
        }
        Ok(())
    }
}

/// A line about something that happens now.
pub(super) fn event(kind: &str, pairs: &[(&str, String)]) -> String {
    let mut all = vec![("time", rfc3339(unix_ms())), ("kind", kind.to_string())];
    all.extend_from_slice(pairs);
    reply::data("event", &all)
}
