//! Sockets that systemd bound before this program was started (sd_listen_fds(3)).
//!
//! A TCP socket serves the listener that has its address, from the start or when it is
//! added; a unix socket called `command_socket` is the control socket. systemd holds all
//! of them open as well, so whoever connects waits while the proxy is started anew. Hence
//! they are kept here while a listener comes and goes: its address cannot be bound again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::limits::LISTEN_BACKLOG;
use crate::supervisor::orphans::Orphans;
use crate::supervisor::store::{self, Stored};
use crate::sys::exec::Inherited;
use crate::sys::socket::{self, Nature};

/// The first descriptor that systemd gives.
const FIRST: RawFd = 3;
/// What the control socket is called in LISTEN_FDNAMES.
const CONTROL_NAME: &str = "command_socket";
/// What sd_listen_fds_with_names(3) calls those without a name.
const NO_NAME: &str = "unknown";

#[derive(Default)]
pub struct Given {
    sockets: BTreeMap<SocketAddr, (String, TcpListener)>,
    /// Bound by the main before this one: what no listener wants is let go.
    stored: BTreeMap<SocketAddr, TcpListener>,
    control: Option<UnixListener>,
    orphans: Orphans,
    /// What was wrong, until there is a log.
    wrong: Vec<String>,
}

impl Given {
    /// Takes what the environment says is there, and that out of the environment: it
    /// is for this process, and once.
    pub fn take() -> Given {
        let variable = |name| {
            let value = std::env::var(name).ok();
            std::env::remove_var(name);
            value
        };
        let pid = variable("LISTEN_PID");
        let count = variable("LISTEN_FDS");
        let names = variable("LISTEN_FDNAMES").unwrap_or_default();
        let mut given = Given::default();
        let (Some(pid), Some(count)) = (pid, count) else {
            return given;
        };
        if pid.parse() != Ok(std::process::id()) {
            // They are for whoever started us.
            return given;
        }
        let Ok(count) = count.parse::<u16>() else {
            given.wrong(format!(
                "LISTEN_FDS={count} is no number of sockets: none is taken"
            ));
            return given;
        };
        if let Err(what) = given.take_all(count, &names) {
            given.wrong(what);
        }
        given
    }

    fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    fn take_all(&mut self, count: u16, names: &str) -> Result<(), String> {
        let inherited = Inherited::find();
        let mut inherited = inherited.map_err(|e| format!("sockets of systemd: {e}"))?;
        let mut names = names.split(':');
        for fd in (FIRST..).take(count.into()) {
            let name = names.next().filter(|name| !name.is_empty());
            let name = name.unwrap_or(NO_NAME);
            let socket = inherited.take(fd);
            let socket = socket.map_err(|e| {
                format!("LISTEN_FDS={count}, but {name}: {e}; this one and those behind it are not used")
            })?;
            if let Err(what) = self.sort(name, socket) {
                self.wrong(format!(
                    "socket {name} of systemd, descriptor {fd}: {what}; it is closed"
                ));
            }
        }
        Ok(())
    }

    /// By what the kernel says that it is.
    fn sort(&mut self, name: &str, fd: OwnedFd) -> Result<(), String> {
        let unknown = |e: io::Error| e.to_string();
        let stored = store::stored(name);
        match stored {
            Some(Stored::Board(ours)) => return self.orphans.take_board(fd, ours),
            Some(Stored::Worker(pid)) => return self.orphans.take(pid, fd),
            Some(Stored::Listener) | None => {}
        }
        let Nature {
            unix,
            stream,
            listens,
        } = socket::nature(fd.as_fd()).map_err(unknown)?;
        if !stream || !listens {
            return Err("it is no stream socket that listens (ListenStream=, Accept=no)".into());
        }
        if unix {
            if name != CONTROL_NAME {
                return Err(format!(
                    "a unix socket is of use as {CONTROL_NAME} alone (FileDescriptorName=)"
                ));
            }
            if self.control.is_some() {
                return Err("there is a control socket already".into());
            }
            let control = UnixListener::from(fd);
            control.set_nonblocking(true).map_err(unknown)?;
            self.control = Some(control);
            return Ok(());
        }
        let listener = TcpListener::from(fd);
        let address = listener.local_addr().map_err(unknown)?;
        socket::prepare(&listener).map_err(unknown)?;
        if stored.is_some() {
            self.stored.insert(address, listener);
            return Ok(());
        }
        if let Some((other, _)) = self.sockets.get(&address) {
            return Err(format!("{other} listens on {address} already"));
        }
        self.sockets.insert(address, (name.to_string(), listener));
        Ok(())
    }

    /// The control socket, once. Who does not find it at `path` does not find this proxy.
    pub fn take_control(&mut self, path: &Path) -> Option<UnixListener> {
        let control = self.control.take()?;
        let bound = control.local_addr();
        if bound.map_or(true, |bound| bound.as_pathname() != Some(path)) {
            let what = format!(
                "{CONTROL_NAME} of systemd does not listen on {}, where sozuctl looks for it; \
                 let ListenStream= and the key command_socket say the same",
                path.display()
            );
            self.wrong(what);
        }
        Some(control)
    }

    /// The workers of the main before this one.
    pub fn take_orphans(&mut self) -> Orphans {
        std::mem::take(&mut self.orphans)
    }

    /// The socket that was given for this address, else one of our own.
    pub fn listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        let given = self.sockets.get(&address).map(|(_, socket)| socket);
        match given.or(self.stored.get(&address)) {
            Some(socket) => socket.try_clone(),
            None => socket::listen(address, LISTEN_BACKLOG),
        }
    }

    /// Whether systemd has bound it.
    pub fn has(&self, address: &SocketAddr) -> bool {
        self.sockets.contains_key(address)
    }

    /// The listeners have what they want: the addresses that were in the store.
    pub fn close_stored(&mut self) -> BTreeSet<SocketAddr> {
        std::mem::take(&mut self.stored).into_keys().collect()
    }

    /// Now that there is a log: what was wrong, and what nobody uses.
    pub fn tell(&mut self, used: &BTreeMap<SocketAddr, TcpListener>) {
        self.wrong.drain(..).for_each(|what| log::warn!("{what}"));
        for (address, (name, _)) in &self.sockets {
            if !used.contains_key(address) {
                log::warn!(
                    "socket {name} of systemd listens on {address}, and no enabled listener does: \
                     who connects there waits until one is added"
                );
            }
        }
    }
}
