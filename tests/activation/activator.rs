//! Runs a program with sockets that it was given, as systemd does it: `activator PID PROGRAM ARGUMENT…`.
//!
//! The descriptors come over the standard input, as many as LISTEN_FDS says or more. They get the first free
//! numbers, which are 3 and so on, for nothing else is open here. With PID "-" they are for that very process.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use sozu_lib::sys::{exec, passing};

fn main() -> io::Result<()> {
    let mut words = std::env::args_os().skip(1);
    let pid = words.next().unwrap_or_default();
    let arguments: Vec<OsString> = words.collect();
    let (mut byte, mut fds) = ([0], Vec::<OwnedFd>::new());
    passing::receive(&io::stdin(), &mut byte, &mut fds)?;
    for (number, fd) in (3..).zip(fds.iter().map(OwnedFd::as_raw_fd)) {
        assert_eq!(fd, number as RawFd, "something else is open");
        exec::keep_over_exec(fd, true)?;
    }
    let own = std::process::id().to_string();
    std::env::set_var("LISTEN_PID", if pid == "-" { own.into() } else { pid });
    Err(exec::exec(Path::new(&arguments[0]), &arguments))
}
