//! The system calls that std does not offer, behind safe functions.
//!
//! The only place of `unsafe`; each block says what makes it sound. Knows
//! nothing of HTTP, sessions or configuration.
#![allow(unsafe_code)]

pub mod clock;
pub mod delegated;
pub mod epoll;
pub mod exec;
pub mod inotify;
pub mod passing;
pub mod pipe;
pub mod process;
pub mod sandbox;
pub mod shared;
pub mod socket;
pub mod ssl;
pub mod standard;

use std::io;

/// The result of a system call that says -1 on failure.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The result of a system call that counts bytes or says -1.
fn check_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The size of a C structure or option value as the system calls want it.
fn socklen<T>() -> libc::socklen_t {
    std::mem::size_of::<T>() as libc::socklen_t
}
