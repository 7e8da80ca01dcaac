//! splice(2): bytes from one socket to another through a pipe, unseen by us.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{check, check_size};

/// A pipe that lies between two sockets.
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    held: usize,
}

/// No caller needs more in one call; the kernel moves what the pipe can hold.
const SPLICE_BYTES_MAX: usize = 1 << 20;

impl Pipe {
    /// `bytes` is how much it should hold; an unprivileged process past its quota gets less.
    pub fn new(bytes: usize) -> io::Result<Pipe> {
        let mut fds = [-1; 2];
        // SAFETY: `fds` has room for the two descriptors that the kernel writes.
        check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) })?;
        // SAFETY: both were just returned to us and are open.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
        let size = i32::try_from(bytes).unwrap_or(i32::MAX);
        // SAFETY: takes no pointer. A refusal leaves the default size, which works as well.
        unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, size) };
        Ok(Pipe {
            read,
            write,
            held: 0,
        })
    }

    /// Both ends, to be handed to another process with what the pipe holds.
    pub fn ends(&self) -> [BorrowedFd<'_>; 2] {
        [self.read.as_fd(), self.write.as_fd()]
    }

    /// Both ends, to be used otherwise.
    pub fn into_ends(self) -> (OwnedFd, OwnedFd) {
        (self.read, self.write)
    }

    /// A pipe from another process; the kernel says how much it holds.
    pub fn of(read: OwnedFd, write: OwnedFd) -> io::Result<Pipe> {
        let mut held: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int, into `held`, which lives across the call.
        check(unsafe { libc::ioctl(read.as_raw_fd(), libc::FIONREAD, &mut held) })?;
        Ok(Pipe {
            read,
            write,
            held: usize::try_from(held).unwrap_or(0),
        })
    }

    /// Bytes that came in and did not go out yet.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `max` bytes from a socket. 0: the peer has shut its side.
    pub fn fill(&mut self, from: &TcpStream, max: usize) -> io::Result<usize> {
        let n = splice(from.as_raw_fd(), self.write.as_raw_fd(), max)?;
        self.held += n;
        Ok(n)
    }

    /// Gives what it holds to a socket, as much as the socket takes.
    pub fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let n = splice(self.read.as_raw_fd(), to.as_raw_fd(), self.held)?;
        self.held -= n;
        Ok(n)
    }
}

fn splice(from: RawFd, to: RawFd, max: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    let max = max.min(SPLICE_BYTES_MAX);
    // SAFETY: the offsets may be null for pipes and sockets; no other pointer is passed.
    check_size(unsafe {
        libc::splice(
            from,
            std::ptr::null_mut(),
            to,
            std::ptr::null_mut(),
            max,
            flags,
        )
    })
}
