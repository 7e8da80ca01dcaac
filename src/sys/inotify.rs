//! inotify(7): what happens in directories.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::check;

/// A name comes or goes, a file there was written or may be read by others, the directory
/// itself goes.
const WANTED: u32 = libc::IN_CREATE
    | libc::IN_DELETE
    | libc::IN_MOVED_FROM
    | libc::IN_MOVED_TO
    | libc::IN_CLOSE_WRITE
    | libc::IN_ATTRIB
    | libc::IN_DELETE_SELF
    | libc::IN_MOVE_SELF
    | libc::IN_ONLYDIR;

/// Room for the events of one read; one with the longest name takes 272 bytes.
const READ_BYTES: usize = 16 * 1024;

/// A watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch(i32);

/// Something happened there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'e> {
    /// `None`: events were lost, anything may have happened anywhere.
    pub watch: Option<Watch>,
    /// Empty: with the directory itself.
    pub name: &'e OsStr,
}

pub struct Inotify(File);

impl Inotify {
    pub fn new() -> io::Result<Inotify> {
        // SAFETY: takes no pointer; a non-negative result is a descriptor that nobody else owns.
        let fd = check(unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) })?;
        // SAFETY: `fd` was just returned to us and is open.
        Ok(Inotify(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    /// One that is watched already keeps its watch.
    pub fn watch(&self, directory: &Path) -> io::Result<Watch> {
        let path = CString::new(directory.as_os_str().as_bytes())?;
        // SAFETY: `path` ends with a NUL and lives across the call, which only reads it.
        let added = unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), WANTED) };
        check(added).map(Watch)
    }

    /// One whose directory is gone has ended by itself.
    pub fn unwatch(&self, watch: Watch) {
        // SAFETY: takes no pointer; a watch that has ended is refused.
        unsafe { libc::inotify_rm_watch(self.0.as_raw_fd(), watch.0) };
    }

    /// Whether `wanted` says so of something that has happened since the last time.
    pub fn any(&mut self, wanted: impl Fn(Event) -> bool) -> io::Result<bool> {
        let mut buffer = [0; READ_BYTES];
        let mut any = false;
        loop {
            let n = match self.0.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(e) => return Err(e),
            };
            let mut rest = buffer.get(..n).unwrap_or_default();
            while let Some((event, behind)) = first(rest) {
                any |= wanted(event);
                rest = behind;
            }
        }
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The first event and the bytes behind it: four numbers, then the name, filled up with NUL.
fn first(bytes: &[u8]) -> Option<(Event<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<16>()?;
    let number = |at: usize| {
        let mut number = [0; 4];
        number.copy_from_slice(&head[at..at + 4]);
        u32::from_ne_bytes(number)
    };
    let (name, behind) = rest.split_at_checked(number(12) as usize)?;
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    let lost = number(4) & libc::IN_Q_OVERFLOW != 0;
    let event = Event {
        watch: (!lost).then_some(Watch(number(0) as i32)),
        name: OsStr::from_bytes(name),
    };
    Some((event, behind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn what_happens_is_told_with_its_name() {
        let folder = std::env::temp_dir().join(format!("sozu-inotify-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut inotify = Inotify::new().unwrap();
        assert!(!inotify.any(|_| true).unwrap());
        let watch = inotify.watch(&folder).unwrap();
        assert_eq!(inotify.watch(&folder).unwrap(), watch);
        let told = |inotify: &mut Inotify| {
            let names = RefCell::new(Vec::new());
            let any = inotify.any(|event| {
                assert_eq!(event.watch, Some(watch));
                names.borrow_mut().push(event.name.to_owned());
                event.name == "b"
            });
            (any.unwrap(), names.into_inner())
        };
        std::fs::write(folder.join("a"), "x").unwrap();
        assert_eq!(told(&mut inotify), (false, vec!["a".into(), "a".into()]));
        std::fs::rename(folder.join("a"), folder.join("b")).unwrap();
        assert_eq!(told(&mut inotify), (true, vec!["a".into(), "b".into()]));
        std::fs::remove_dir_all(&folder).unwrap();
        let (any, names) = told(&mut inotify);
        assert!(any && names.contains(&"".into()), "{names:?}");
        inotify.unwatch(watch);
        assert!(inotify.watch(&folder).is_err());
    }

    #[test]
    fn half_an_event_is_none() {
        assert_eq!(first(&[0; 15]), None);
        let mut bytes = [0; 20];
        bytes[12] = 5;
        assert_eq!(first(&bytes), None);
        bytes[12] = 4;
        bytes[16] = b'x';
        let (event, rest) = first(&bytes).unwrap();
        assert!(event.name == "x" && event.watch == Some(Watch(0)) && rest.is_empty());
    }
}
