//! Descriptors that travel with bytes over a unix socket (SCM_RIGHTS, unix(7)).

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::socket::set_option;
use super::{check, check_size};

/// Most descriptors that travel with one message; the kernel's own bound is 253.
pub const DESCRIPTORS_MAX: usize = 64;

const CONTROL_BYTES: usize =
    // SAFETY: CMSG_SPACE is arithmetic on its argument.
    unsafe { libc::CMSG_SPACE((DESCRIPTORS_MAX * size_of::<RawFd>()) as u32) } as usize;

/// Control messages need the alignment of their header.
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Sends `bytes` with `fds` attached to the first of them; returns how many bytes went.
pub fn send(socket: &impl AsFd, bytes: &[u8], fds: &[BorrowedFd]) -> io::Result<usize> {
    if fds.len() > DESCRIPTORS_MAX {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    let mut control = Control([0; CONTROL_BYTES]);
    let mut iov = libc::iovec {
        iov_base: bytes.as_ptr() as *mut libc::c_void,
        iov_len: bytes.len(),
    };
    // SAFETY: msghdr is plain integers and pointers, for which all zeroes is a value.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    if !fds.is_empty() {
        let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let len = std::mem::size_of_val(raw.as_slice());
        message.msg_control = control.0.as_mut_ptr().cast();
        // SAFETY: CMSG_SPACE is arithmetic; `control` has room for DESCRIPTORS_MAX, checked above, so that
        // the first header lies inside it and its data has room for `len` bytes.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(len as u32) as _;
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(len as u32) as _;
            std::ptr::copy_nonoverlapping(raw.as_ptr().cast(), libc::CMSG_DATA(header), len);
        }
    }
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: `message` points at `iov`, `bytes` and `control`, which live across the call and are only read.
    check_size(unsafe { libc::sendmsg(socket, &message, libc::MSG_NOSIGNAL) })
}

/// SO_PASSRIGHTS of asm-generic/socket.h: whether a unix socket takes descriptors (Linux 6.16).
pub const SO_PASSRIGHTS: libc::c_int = 83;

/// From now on no descriptor comes over this socket: who sends one gets EPERM. Older kernels know no such thing;
/// there a descriptor comes and is closed by who gets it.
pub fn refuse(socket: &impl AsFd) {
    // ENOPROTOOPT.
    let _ = set_option(socket.as_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, 0i32);
}

/// What came.
pub struct Received {
    /// 0: the peer has closed.
    pub bytes: usize,
    /// Nothing of the message is lost, neither for want of room nor for want of descriptors.
    pub whole: bool,
}

/// Two ends between which messages, not bytes, travel: each is sent as a whole or not at all.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors that the kernel writes.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) })?;
    // SAFETY: both were just returned to us and are open.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Receives bytes into `buffer` and appends to `fds` every descriptor that came with them.
pub fn receive(
    socket: &impl AsFd,
    buffer: &mut [u8],
    fds: &mut impl Extend<OwnedFd>,
) -> io::Result<Received> {
    let mut control = Control([0; CONTROL_BYTES]);
    let mut iov = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: as in `send`.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &mut iov;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    let socket = socket.as_fd().as_raw_fd();
    // SAFETY: `message` points at `iov`, `buffer` and `control`, which live across the call.
    let bytes = check_size(unsafe { libc::recvmsg(socket, &mut message, libc::MSG_CMSG_CLOEXEC) })?;
    // SAFETY: the kernel filled `message`; the CMSG macros walk only inside msg_controllen, and the
    // data of an SCM_RIGHTS header is (cmsg_len - CMSG_LEN(0)) bytes of descriptors that are now ours.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while !header.is_null() {
            if (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS {
                let len = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let data = libc::CMSG_DATA(header) as *const RawFd;
                let count = len / size_of::<RawFd>();
                fds.extend((0..count).map(|i| OwnedFd::from_raw_fd(data.add(i).read_unaligned())));
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    Ok(Received {
        bytes,
        whole: message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0,
    })
}
