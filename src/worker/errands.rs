//! Connections that main makes for this worker: to unix sockets, which its sandbox neither makes nor finds.
//!
//! ```text
//!   worker: a stand-in, "connect" ──▶ main: connect(2) ──"connected", descriptor──▶ worker: it takes the stand-in's place
//! ```
//! A stand-in is a socket that is connected to nothing. It has a descriptor, so that all goes on as with one
//! that is being connected, TLS that waits for it and limits of time among them; epoll is not told of it.

use std::io;
use std::net::TcpStream;

use crate::proto::reply;
use crate::state::{Address, Backend};
use crate::sys::socket;

#[derive(Default)]
pub struct Errands {
    /// What main is to be asked.
    lines: String,
    /// There is no main.
    alone: bool,
}

impl Errands {
    /// A socket that is being connected, and whether main has still to be asked to do it.
    pub fn dial(&self, address: &Address) -> io::Result<(TcpStream, bool)> {
        match address {
            Address::Inet(address) => Ok((socket::connect(*address)?, false)),
            Address::Unix(_) if self.alone => Err(io::Error::other(
                "main is gone, which connects to unix sockets",
            )),
            Address::Unix(_) => Ok((socket::stand_in()?, true)),
            Address::Name { .. } => Err(io::Error::other("a name is no address")),
        }
    }

    /// For the stand-in that is known by this token. Main finds out itself where the backend is.
    pub fn ask(&mut self, token: u64, backend: &Backend) {
        let pairs = [
            ("for", token.to_string()),
            ("cluster", backend.cluster.to_string()),
            ("id", backend.id.to_string()),
        ];
        self.lines += &reply::data("connect", &pairs);
    }

    pub fn take_lines(&mut self) -> String {
        std::mem::take(&mut self.lines)
    }

    /// Main is gone.
    pub fn are_over(&mut self) {
        self.alone = true;
    }
}
