//! What systemd wants to know (sd_notify(3)), where it asks for it.

use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::sys::passing;

/// Whether somebody listens.
pub fn is_asked() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// With descriptors for the store; whether it was sent. Without NOTIFY_SOCKET nobody asks, and all is well.
pub fn send(state: &str, fds: &[BorrowedFd]) -> bool {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return true;
    };
    let bytes = path.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&address)?;
        passing::send(&socket, state.as_bytes(), fds)
    });
    if let Err(e) = &sent {
        log::warn!("NOTIFY_SOCKET: {e}");
    }
    sent.is_ok()
}
