//! The listening sockets: bound, and watched over.
//!
//! Main and all workers share one open socket for each address. A worker that was taken over can stop it for all of
//! them: connect(2) to nowhere, which resets a connection, ends listening as well, and no filter sees the address of a
//! connect. So main watches. A socket that has stopped is ready at once (EPOLLHUP), and so is one that is connected to
//! somebody instead (EPOLLOUT); one that listens is neither. What comes between, a socket that is being
//! connected, is found by asking the kernel, as often as workers are asked whether they live. Main makes it listen
//! again: on the same socket, so that nobody has to be told.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use crate::limits::{LISTEN_AGAIN_MS, LISTEN_BACKLOG};
use crate::net::token::{self, Kind};
use crate::state::State;
use crate::supervisor::activation::Given;
use crate::supervisor::{try_policies, Supervisor};
use crate::sys::epoll::{self, Epoll};
use crate::sys::socket;

/// Binds every listener of the state, if OpenSSL takes all policies, or says which one cannot be and what to do.
pub(super) fn listen_all(
    state: &State,
    given: &Given,
) -> Result<BTreeMap<SocketAddr, TcpListener>, String> {
    let bind = |address: SocketAddr| match given.listen(address) {
        Ok(socket) => Ok((address, socket)),
        Err(e) => Err(cannot_listen(address, &e)),
    };
    try_policies(state)?;
    state
        .listeners()
        .filter(|listener| listener.enabled)
        .map(|listener| bind(listener.address))
        .collect()
}

pub(super) fn cannot_listen(address: SocketAddr, error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the address is in use by another program; stop it (ss -ltnp shows it) or choose another port".into()
        }
        io::ErrorKind::PermissionDenied => format!(
            "port {} needs privileges; start as root, or allow it with \
             setcap cap_net_bind_service=+ep on the sozu binary, or choose a port above 1023",
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address; see ip addr".into(),
        _ => error.to_string(),
    };
    format!("cannot listen on {address}: {advice}")
}

/// Whether the sockets listen.
#[derive(Default)]
pub struct Vigil {
    /// All of them, in a set of their own that main's has as one. It is made anew with every look, for the
    /// kernel forgets a socket only when the last one who has it open closes it.
    watched: Option<Epoll>,
    /// When to look at the latest.
    pub due_ms: u64,
}

impl Vigil {
    pub fn look_now(&mut self) {
        self.due_ms = 0;
    }
}

impl Supervisor {
    /// There are others now.
    pub(super) fn follow_sockets(&mut self) {
        self.store.follow(&self.sockets, &self.given);
        self.vigil.look_now();
    }

    pub(super) fn look_after_sockets(&mut self) {
        if self.vigil.due_ms > self.now_ms {
            return;
        }
        let stopped = |socket: &TcpListener| !socket::listens(socket).unwrap_or(false);
        let sockets = self.sockets.iter();
        let stopped: Vec<SocketAddr> = sockets
            .filter(|(_, socket)| stopped(socket))
            .map(|(address, _)| *address)
            .collect();
        self.vigil.watched = None;
        let rest_ms = match stopped.is_empty() {
            true => {
                self.watch_sockets();
                u64::from(self.settings.worker_timeout) * 1000 / 2
            }
            false => LISTEN_AGAIN_MS,
        };
        self.vigil.due_ms = self.now_ms + rest_ms;
        stopped.into_iter().for_each(|address| self.revive(address));
    }

    fn watch_sockets(&mut self) {
        let watch = || {
            let watched = Epoll::new()?;
            for socket in self.sockets.values() {
                watched.add(socket.as_fd(), epoll::OUT, 0)?;
            }
            let token = token::pack_single(Kind::Listener);
            self.poll.add(watched.as_fd(), epoll::IN, token)?;
            Ok::<_, io::Error>(watched)
        };
        match watch() {
            Ok(watched) => self.vigil.watched = Some(watched),
            Err(e) => log::error!("listening sockets are not watched: epoll: {e}"),
        }
    }

    /// Whoever waited to be accepted there was reset.
    fn revive(&mut self, address: SocketAddr) {
        let Some(socket) = self.sockets.get(&address) else {
            return;
        };
        match socket::listen_again(socket, address, LISTEN_BACKLOG) {
            Ok(()) => {
                self.counts.revived += 1;
                log::error!(
                    "the socket of {address} had stopped listening, and listens again: a worker did that, which \
                     somebody may have taken over"
                );
                self.tell_event("listener_revived", &[("address", address.to_string())]);
            }
            Err(e) => log::error!(
                "the socket of {address} has stopped listening, and does not again ({e}); \
                 listener disable and enable bind another one"
            ),
        }
    }
}
