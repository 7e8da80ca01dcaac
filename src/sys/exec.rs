//! Another program in the place of this one: same process, same children, and
//! of the descriptors those that were said to be kept.

use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::check;

/// Runs `program` in the place of this one (execve(2)), with this environment; returns only why it
/// did not. std's own way would leave SIGPIPE deadly behind a failure.
pub fn exec(program: &Path, arguments: &[OsString]) -> io::Error {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    let words: Result<Vec<CString>, _> = arguments.iter().map(|a| text(a.as_bytes())).collect();
    let (program, words) = match (text(program.as_os_str().as_bytes()), words) {
        (Ok(program), Ok(words)) => (program, words),
        _ => return io::ErrorKind::InvalidInput.into(),
    };
    let mut pointers: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: terminated strings and a list of them that ends with a null pointer, all of which live across
    // the call; main has one thread, so nobody changes the environment meanwhile.
    unsafe { libc::execv(program.as_ptr(), pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Whether an open descriptor goes along with the next `exec`.
pub fn keep_over_exec(fd: RawFd, keep: bool) -> io::Result<()> {
    let flags = if keep { 0 } else { libc::FD_CLOEXEC };
    // SAFETY: takes no pointer; a number that is no descriptor is refused.
    check(unsafe { libc::fcntl(fd, libc::F_SETFD, flags) })?;
    Ok(())
}

/// The descriptors that came along with the last exec. Each is given away once.
pub struct Inherited(BTreeSet<RawFd>);

impl Inherited {
    /// Those above standard error that are not closed on exec: whatever this program opens itself is.
    pub fn find() -> io::Result<Inherited> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir("/proc/self/fd")? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.parse().ok());
            let Some(fd) = number.filter(|fd| *fd > libc::STDERR_FILENO) else {
                continue;
            };
            // SAFETY: takes no pointer; a number that is no descriptor is refused.
            let flags = check(unsafe { libc::fcntl(fd, libc::F_GETFD) });
            if flags.is_ok_and(|flags| flags & libc::FD_CLOEXEC == 0) {
                found.insert(fd);
            }
        }
        Ok(Inherited(found))
    }

    /// The descriptor of that number, from now on closed on exec; an error: there is none, or it was taken.
    pub fn take(&mut self, fd: RawFd) -> io::Result<OwnedFd> {
        if !self.0.remove(&fd) {
            let what = format!("descriptor {fd} was not handed over");
            return Err(io::Error::new(io::ErrorKind::NotFound, what));
        }
        // SAFETY: it was open when the list was made and is in it once; nobody in this program owns
        // one that is not closed on exec.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        keep_over_exec(fd, false)?;
        Ok(owned)
    }

    /// Closes what nobody has taken; returns how many that were.
    pub fn close_rest(mut self) -> usize {
        let rest: Vec<RawFd> = self.0.iter().copied().collect();
        rest.iter().filter(|fd| self.take(**fd).is_ok()).count()
    }
}

/// Bytes in memory that nobody can change any more, as a file without a name (memfd_create(2)).
pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a terminated string that lives for ever.
    let fd = check(unsafe { libc::memfd_create(c"sozu handover".as_ptr(), flags) })?;
    // SAFETY: `fd` was just returned to us and is open.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.write_all(bytes)?;
    let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: takes no pointer.
    check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file.into())
}

/// What `sealed` was given, up to `most` bytes; wherever another reader of the same file has come to.
pub fn read_sealed(fd: OwnedFd, most: usize) -> io::Result<Vec<u8>> {
    let file = File::from(fd);
    let len = file.metadata()?.len();
    let len = usize::try_from(len).ok().filter(|len| *len <= most);
    let len = len.ok_or_else(|| io::Error::other("it is too long"))?;
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_sealed_is_read_by_all_and_changed_by_none() {
        let fd = sealed(b"some bytes").unwrap();
        for _ in 0..2 {
            let other = fd.as_fd().try_clone_to_owned().unwrap();
            assert_eq!(read_sealed(other, 10).unwrap(), b"some bytes");
        }
        let other = fd.as_fd().try_clone_to_owned().unwrap();
        assert!(read_sealed(other, 9).is_err());
        assert!(File::from(fd).write_all(b"x").is_err());
    }

    #[test]
    fn a_program_that_is_none_is_an_error() {
        let e = exec(Path::new("/proc/self/maps"), &["x".into()]);
        assert_eq!(e.kind(), io::ErrorKind::PermissionDenied);
        let e = exec(Path::new("/nowhere\0"), &[]);
        assert_eq!(e.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_descriptor_is_taken_once_and_others_are_not_ours_to_take() {
        let own = sealed(b"").unwrap();
        let kept = own.as_fd().try_clone_to_owned().unwrap();
        keep_over_exec(kept.as_raw_fd(), true).unwrap();
        let number = kept.as_raw_fd();
        // It is the list's from now on.
        std::mem::forget(kept);
        let mut inherited = Inherited::find().unwrap();
        assert!(inherited.take(own.as_raw_fd()).is_err());
        assert!(inherited.take(0).is_err());
        let taken = inherited.take(number).unwrap();
        assert!(inherited.take(number).is_err());
        drop(taken);
    }
}
