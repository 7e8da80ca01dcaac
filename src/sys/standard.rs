//! Standard output and error, for processes that shall write there and do nothing else.
//!
//! What this process was given may be a terminal, which can be read as well, a file in which old lines could be written over, or
//! a socket, which anybody who has it can shut for all.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::check;

/// The same file, terminal or pipe, opened anew: for writing alone, at its end, and never waiting. An error: what is there
/// cannot be opened, as a socket never can.
pub fn for_writing(fd: BorrowedFd) -> io::Result<OwnedFd> {
    let open = File::from(fd.try_clone_to_owned()?);
    if open.metadata()?.is_file() {
        append(&open)?;
    }
    let mut options = OpenOptions::new();
    options.append(true);
    // A terminal does not become ours.
    options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let path = format!("/proc/self/fd/{}", open.as_raw_fd());
    options.open(path).map(OwnedFd::from)
}

/// Who has it open already, as we have, writes at the end from now on as well: there it grows.
fn append(file: &File) -> io::Result<()> {
    let fd = file.as_raw_fd();
    // SAFETY: takes no pointer.
    let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFL) })?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_APPEND) })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_file_is_written_at_its_end_and_not_read() {
        let path = std::env::temp_dir().join(format!("sozu-standard-{}", std::process::id()));
        let mut options = OpenOptions::new();
        let mut given = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .expect("a file");
        given.write_all(b"old ").expect("written");
        let mut anew = File::from(for_writing(given.as_fd()).expect("opened anew"));
        anew.write_all(b"new ").expect("written");
        given.write_all(b"more").expect("written");
        assert!(anew.read(&mut [0; 9]).is_err());
        let text = std::fs::read_to_string(&path).expect("a file");
        std::fs::remove_file(&path).expect("removed");
        assert_eq!(text, "old new more");
    }

    #[test]
    fn a_socket_cannot_be_opened_anew() {
        let (socket, _other) = UnixStream::pair().expect("a pair");
        assert!(for_writing(socket.as_fd()).is_err());
    }
}
