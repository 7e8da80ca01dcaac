//! TCP sockets: listening, accepting and connecting without blocking.
//!
//! Reading and writing are std's (`Read` and `Write` of `&TcpStream` are one
//! recv or send each); here is what std cannot do.

use std::io;
use std::mem::{zeroed, MaybeUninit};
use std::net::{
    Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream,
};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{check, socklen};

/// A socket address as the kernel wants it.
struct Raw {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

impl Raw {
    fn empty() -> Raw {
        Raw {
            // SAFETY: sockaddr_storage is plain integers and padding, for which all zeroes is a value.
            storage: unsafe { zeroed() },
            len: socklen::<libc::sockaddr_storage>(),
        }
    }

    fn of(address: SocketAddr) -> Raw {
        let mut raw = Raw::empty();
        match address {
            SocketAddr::V4(v4) => {
                let value = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(v4.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                raw.len = socklen::<libc::sockaddr_in>();
                // SAFETY: sockaddr_storage is large enough and aligned for every sockaddr, by POSIX.
                unsafe { (&mut raw.storage as *mut _ as *mut libc::sockaddr_in).write(value) };
            }
            SocketAddr::V6(v6) => {
                let value = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: v6.ip().octets(),
                    },
                    sin6_scope_id: v6.scope_id(),
                };
                raw.len = socklen::<libc::sockaddr_in6>();
                // SAFETY: as above.
                unsafe { (&mut raw.storage as *mut _ as *mut libc::sockaddr_in6).write(value) };
            }
        }
        raw
    }

    fn address(&self) -> Option<SocketAddr> {
        match i32::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that the kernel wrote a sockaddr_in; storage is aligned for it.
                let v4 = unsafe { &*(&self.storage as *const _ as *const libc::sockaddr_in) };
                let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: the family says that the kernel wrote a sockaddr_in6; storage is aligned for it.
                let v6 = unsafe { &*(&self.storage as *const _ as *const libc::sockaddr_in6) };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let port = u16::from_be(v6.sin6_port);
                Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    fn as_ptr(&self) -> *const libc::sockaddr {
        &self.storage as *const _ as *const libc::sockaddr
    }
}

fn stream_socket(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointer.
    let fd = check(unsafe { libc::socket(family, kind, 0) })?;
    // SAFETY: `fd` was just returned to us and is open.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn set_option<T>(fd: BorrowedFd, level: i32, name: i32, value: T) -> io::Result<()> {
    let pointer = &value as *const T as *const libc::c_void;
    // SAFETY: pointer and length describe `value`, which lives across the call and is only read.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, pointer, socklen::<T>()) })?;
    Ok(())
}

/// Binds and listens. What a listening socket sets (no Nagle delay, keepalive)
/// every accepted connection inherits on Linux, without a call of its own.
pub fn listen(address: SocketAddr, backlog: i32) -> io::Result<TcpListener> {
    let fd = stream_socket(&address)?;
    set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1i32)?;
    if address.is_ipv6() {
        // So that 0.0.0.0:80 and [::]:80 can be two listeners.
        set_option(fd.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1i32)?;
    }
    set_inherited(fd.as_fd())?;
    bind(fd.as_fd(), address)?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(TcpListener::from(fd))
}

fn bind(fd: BorrowedFd, address: SocketAddr) -> io::Result<()> {
    let raw = Raw::of(address);
    // SAFETY: pointer and length describe `raw`, which lives across the call and is only read.
    check(unsafe { libc::bind(fd.as_raw_fd(), raw.as_ptr(), raw.len) })?;
    Ok(())
}

/// Whether a socket that should listen does.
pub fn listens(listener: &TcpListener) -> io::Result<bool> {
    Ok(option(listener.as_fd(), libc::SO_ACCEPTCONN)? != 0)
}

/// Whether it is one end of a connection, over TCP or to a unix socket, as whoever hands it over says.
pub fn is_connection(socket: &TcpStream, unix: bool) -> bool {
    let mut raw = Raw::empty();
    let pointer = &mut raw.storage as *mut _ as *mut libc::sockaddr;
    // SAFETY: pointer and length describe `raw`, which lives across the call.
    let named = check(unsafe { libc::getsockname(socket.as_raw_fd(), pointer, &mut raw.len) });
    // What is no socket has no name.
    let fits = match i32::from(raw.storage.ss_family) {
        libc::AF_INET | libc::AF_INET6 => !unix,
        libc::AF_UNIX => unix,
        _ => false,
    };
    named.is_ok() && fits && matches!(option(socket.as_fd(), libc::SO_ACCEPTCONN), Ok(0))
}

/// A socket that has listened there does so again, whatever was done to it; who shares it has nothing to do.
pub fn listen_again(listener: &TcpListener, address: SocketAddr, backlog: i32) -> io::Result<()> {
    reset(listener)?;
    match bind(listener.as_fd(), address) {
        // It is bound still, as long as its port was asked for by its number.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {}
        bound => bound?,
    }
    // SAFETY: takes no pointer.
    check(unsafe { libc::listen(listener.as_raw_fd(), backlog) })?;
    Ok(())
}

/// The next waiting connection, non-blocking and closed on exec.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let mut raw = Raw::empty();
    let pointer = &mut raw.storage as *mut _ as *mut libc::sockaddr;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: pointer and length describe `raw`, which lives across the call.
    let fd = check(unsafe { libc::accept4(listener.as_raw_fd(), pointer, &mut raw.len, flags) })?;
    // SAFETY: `fd` was just returned to us and is open.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    match raw.address() {
        Some(peer) => Ok((TcpStream::from(fd), peer)),
        None => Err(io::Error::other("a peer that is neither IPv4 nor IPv6")),
    }
}

fn set_inherited(listener: BorrowedFd) -> io::Result<()> {
    set_option(listener, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1i32)?;
    set_option(listener, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1i32)
}

/// Makes a listening socket that somebody else bound like one of `listen`.
pub fn prepare(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    // Inherited as well: no close may wait until bytes are sent (`table::WORKER`).
    let never = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    set_option(listener.as_fd(), libc::SOL_SOCKET, libc::SO_LINGER, never)?;
    set_inherited(listener.as_fd())
}

/// Starts to connect. The connection is made when the socket becomes writable and `take_error` says `Ok`.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let fd = stream_socket(&address)?;
    set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1i32)?;
    let raw = Raw::of(address);
    // SAFETY: pointer and length describe `raw`, which lives across the call and is only read.
    match check(unsafe { libc::connect(fd.as_raw_fd(), raw.as_ptr(), raw.len) }) {
        Err(e) if e.raw_os_error() != Some(libc::EINPROGRESS) => Err(e),
        _ => Ok(TcpStream::from(fd)),
    }
}

/// Connects to a unix socket, at once or not at all: EAGAIN says that too many wait there already.
pub fn connect_unix(path: &str) -> io::Result<OwnedFd> {
    // SAFETY: sockaddr_un is plain integers, for which all zeroes is a value.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    // With a zero behind it, and none in it.
    if path.len() >= address.sun_path.len() || path.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in address.sun_path.iter_mut().zip(path.bytes()) {
        *to = from as libc::c_char;
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: takes no pointer.
    let fd = check(unsafe { libc::socket(libc::AF_UNIX, kind, 0) })?;
    // SAFETY: `fd` was just returned to us and is open.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let pointer = &address as *const libc::sockaddr_un as *const libc::sockaddr;
    let len = socklen::<libc::sockaddr_un>();
    // SAFETY: pointer and length describe `address`, which lives across the call and is only read.
    check(unsafe { libc::connect(fd.as_raw_fd(), pointer, len) })?;
    Ok(fd)
}

/// A socket that is connected to nothing, until another one takes its place.
pub fn stand_in() -> io::Result<TcpStream> {
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    stream_socket(&any).map(TcpStream::from)
}

/// From now on the stand-in's descriptor is `by`: what it was is closed.
pub fn take_place(stand_in: &TcpStream, by: OwnedFd) -> io::Result<()> {
    // SAFETY: takes no pointer. Both are open and owned; the number stays open and its owner's.
    check(unsafe { libc::dup3(by.as_raw_fd(), stand_in.as_raw_fd(), libc::O_CLOEXEC) })?;
    Ok(())
}

/// Ends a connection at once by a reset: the peer sees that the message was cut. What was not sent yet is not.
pub fn reset(stream: &impl AsFd) -> io::Result<()> {
    // connect(2) to no family is what a close with SO_LINGER of no time does, without the option.
    let nowhere = libc::sockaddr {
        sa_family: libc::AF_UNSPEC as libc::sa_family_t,
        sa_data: [0; 14],
    };
    let len = socklen::<libc::sockaddr>();
    // SAFETY: pointer and length describe `nowhere`, which lives across the call and is only read.
    check(unsafe { libc::connect(stream.as_fd().as_raw_fd(), &nowhere, len) })?;
    Ok(())
}

/// Whether a send failed only because the connection is not made yet (connect(2) still in progress).
pub fn not_yet(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::ENOTCONN))
}

/// Whether a failed accept says that we, not the peer, ran out of something.
pub fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM)
    )
}

/// Whether a failed accept says no more than that nobody waits: taken by somebody else, or gone again before we came.
pub fn nobody_waits(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAGAIN | libc::ECONNABORTED | libc::EINTR)
    )
}

/// What kind of socket a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nature {
    /// Of the family of unix(7).
    pub unix: bool,
    pub stream: bool,
    pub listens: bool,
}

/// An error: it is no socket.
pub fn nature(fd: BorrowedFd) -> io::Result<Nature> {
    Ok(Nature {
        unix: option(fd, libc::SO_DOMAIN)? == libc::AF_UNIX,
        stream: option(fd, libc::SO_TYPE)? == libc::SOCK_STREAM,
        listens: option(fd, libc::SO_ACCEPTCONN)? != 0,
    })
}

fn option(fd: BorrowedFd, name: i32) -> io::Result<i32> {
    let mut value = 0i32;
    let mut len = socklen::<i32>();
    let pointer = &mut value as *mut i32;
    // SAFETY: pointer and length describe `value`; the kernel writes at most `len` bytes.
    check(unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            pointer.cast(),
            &mut len,
        )
    })?;
    Ok(value)
}

/// Who connected to a unix socket.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub uid: u32,
    pub pid: i32,
    /// All of its groups.
    pub gids: Vec<u32>,
}

/// Most supplementary groups that are looked at.
const GROUPS_MAX: usize = 256;

/// What the kernel knows of who connected (unix(7), SO_PEERCRED and SO_PEERGROUPS).
pub fn peer_credentials(socket: BorrowedFd) -> io::Result<Credentials> {
    let mut value = MaybeUninit::<libc::ucred>::uninit();
    let mut len = socklen::<libc::ucred>();
    // SAFETY: pointer and length describe `value`; the kernel writes at most `len` bytes.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            value.as_mut_ptr().cast(),
            &mut len,
        )
    })?;
    // SAFETY: the call succeeded, and for SO_PEERCRED the kernel writes the whole structure.
    let value = unsafe { value.assume_init() };
    let mut gids = supplementary_groups(socket);
    gids.push(value.gid);
    Ok(Credentials {
        uid: value.uid,
        pid: value.pid,
        gids,
    })
}

/// None where the kernel does not tell, or there are more than `GROUPS_MAX`: who is not known to be in a group is not.
fn supplementary_groups(socket: BorrowedFd) -> Vec<u32> {
    let mut gids = [0u32; GROUPS_MAX];
    let mut len = socklen::<[u32; GROUPS_MAX]>();
    // SAFETY: pointer and length describe `gids`; the kernel writes at most `len` bytes and says how many.
    let told = check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            gids.as_mut_ptr().cast(),
            &mut len,
        )
    });
    let count = told.map_or(0, |_| len as usize / size_of::<u32>());
    gids.iter().take(count).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Shutdown;

    #[test]
    fn what_is_a_connection_and_what_is_none() {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), 1).expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("its address"));
        let client = client.expect("a connection");
        assert!(is_connection(&client, false) && !is_connection(&client, true));
        let (unix, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let pair = TcpStream::from(OwnedFd::from(unix.try_clone().expect("dup")));
        assert!(is_connection(&pair, true));
        let file = std::fs::File::open("/dev/null").expect("a file");
        let others: [OwnedFd; 3] = [listener.into(), unix.into(), file.into()];
        for other in others.map(TcpStream::from) {
            assert!(!is_connection(&other, false), "{other:?}");
        }
    }

    /// What a worker may do to a socket that it shares, and main undoes.
    #[test]
    fn a_socket_that_was_stopped_listens_again() {
        let other = listen(SocketAddr::from(([127, 0, 0, 1], 0)), 1).expect("a port");
        for ip in [[127, 0, 0, 1], [0, 0, 0, 0]] {
            let listener = listen(SocketAddr::from((ip, 0)), 1).expect("a port");
            let address = listener.local_addr().expect("its address");
            // Of the same open socket.
            let theirs = TcpStream::from(OwnedFd::from(listener.try_clone().expect("dup")));
            let shut = || theirs.shutdown(Shutdown::Read).expect("shut");
            let to_nowhere = || reset(&theirs).expect("reset");
            let to_somebody = || {
                reset(&theirs).expect("reset");
                let raw = Raw::of(other.local_addr().expect("its address"));
                // SAFETY: pointer and length describe `raw`, which lives across the call and is only read.
                let made = unsafe { libc::connect(theirs.as_raw_fd(), raw.as_ptr(), raw.len) };
                let under_way = |e: io::Error| e.raw_os_error() == Some(libc::EINPROGRESS);
                assert!(check(made).map_or_else(under_way, |_| true));
            };
            let ways: [&dyn Fn(); 3] = [&shut, &to_nowhere, &to_somebody];
            for stop in ways {
                assert!(listens(&listener).expect("asked"));
                stop();
                assert!(!listens(&listener).expect("asked"));
                listen_again(&listener, address, 1).expect("it listens again");
                assert_eq!(listener.local_addr().expect("its address"), address);
                let at = SocketAddr::from(([127, 0, 0, 1], address.port()));
                let _client = TcpStream::connect(at).expect("somebody is there");
                accept(&listener).expect("a client");
            }
        }
    }
}
