//! epoll(7): which descriptors are ready. Level-triggered, 64-bit tokens.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::check;

pub const IN: u32 = libc::EPOLLIN as u32;
pub const OUT: u32 = libc::EPOLLOUT as u32;
/// Always reported, whatever the interest.
pub const ERR: u32 = libc::EPOLLERR as u32;
/// Always reported: both directions are shut, or the connection was reset.
pub const HUP: u32 = libc::EPOLLHUP as u32;
/// The peer has shut its side. Reported only to whoever asks for it.
pub const RDHUP: u32 = libc::EPOLLRDHUP as u32;
/// Wake one waiter for each event; of those who wait, the one that waits longest in the queue.
pub const EXCLUSIVE: u32 = libc::EPOLLEXCLUSIVE as u32;

/// Report a change of state once, not the state again and again.
pub const EDGE: u32 = libc::EPOLLET as u32;

/// Report once, then nothing until the interest is submitted again.
pub const ONCE: u32 = libc::EPOLLONESHOT as u32;

/// The set of watched descriptors.
pub struct Epoll(OwnedFd);

/// Room for what one wait reports.
pub struct Events {
    list: Vec<libc::epoll_event>,
    len: usize,
}

impl Events {
    pub fn with_capacity(capacity: usize) -> Events {
        let empty = libc::epoll_event { events: 0, u64: 0 };
        Events {
            list: vec![empty; capacity],
            len: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The token and the readiness bits of event `i` of the last wait.
    pub fn get(&self, i: usize) -> (u64, u32) {
        let event = self.list[..self.len][i];
        (event.u64, event.events)
    }
}

impl Epoll {
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: takes no pointer; a non-negative result is a descriptor that nobody else owns.
        let fd = check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` was just returned to us and is open.
        Ok(Epoll(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub fn add(&self, fd: BorrowedFd, interest: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    pub fn modify(&self, fd: BorrowedFd, interest: u32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    pub fn remove(&self, fd: BorrowedFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, op: i32, fd: BorrowedFd, interest: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest,
            u64: token,
        };
        // SAFETY: `event` lives across the call, which only reads it; both descriptors are borrowed, hence open.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), op, fd.as_raw_fd(), &mut event) })?;
        Ok(())
    }

    /// Waits until something is ready or `timeout_ms` (-1: for ever) is over. A signal ends the wait with no event.
    pub fn wait(&self, events: &mut Events, timeout_ms: i32) -> io::Result<()> {
        let room = i32::try_from(events.list.len()).unwrap_or(i32::MAX);
        events.len = 0;
        // SAFETY: the pointer and `room` describe a live vector of initialised events; the kernel writes at most `room`.
        let n = check(unsafe {
            libc::epoll_wait(
                self.0.as_raw_fd(),
                events.list.as_mut_ptr(),
                room,
                timeout_ms,
            )
        });
        match n {
            Ok(n) => events.len = n as usize,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }
}

/// A set can be watched in another one: it is ready to be read when there is something to report.
impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
