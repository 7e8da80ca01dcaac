//! A page of counters that several processes see at once.
//!
//! Main makes it (an anonymous file that cannot shrink), every worker maps it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use super::check;

/// Counters in memory that is shared with other processes.
pub struct Shared {
    file: OwnedFd,
    cells: *mut AtomicU64,
    count: usize,
}

impl Shared {
    /// New counters, all zero.
    pub fn create(count: usize) -> io::Result<Shared> {
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        // SAFETY: the name is a terminated string that lives for ever.
        let fd = check(unsafe { libc::memfd_create(c"sozu counters".as_ptr(), flags) })?;
        // SAFETY: `fd` was just returned to us and is open.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
        file.set_len((count * size_of::<AtomicU64>()) as u64)?;
        // SAFETY: takes no pointer. With these seals the file keeps its size: a mapping of it never faults.
        check(unsafe {
            libc::fcntl(
                file.as_raw_fd(),
                libc::F_ADD_SEALS,
                libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL,
            )
        })?;
        Shared::map(file.into())
    }

    /// The counters in a file that another process made with `create`.
    pub fn map(file: OwnedFd) -> io::Result<Shared> {
        let file = File::from(file);
        // SAFETY: takes no pointer.
        let seals = check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) })?;
        if seals & libc::F_SEAL_SHRINK == 0 {
            return Err(io::Error::other("counters that may shrink"));
        }
        let len = file.metadata()?.len() as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh mapping chosen by the kernel aliases nothing that Rust knows.
        let cells = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if cells == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Shared {
            file: file.into(),
            cells: cells.cast(),
            count: len / size_of::<AtomicU64>(),
        })
    }

    /// Makes some of the counters zero, and gives their memory back. An error: the kernel cannot.
    pub fn clear(&self, which: std::ops::Range<usize>) -> io::Result<()> {
        let size = size_of::<AtomicU64>();
        let (from, len) = (which.start * size, which.len() * size);
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let fd = self.file.as_raw_fd();
        // SAFETY: takes no pointer. The file keeps its size, so that mappings of it stay whole.
        check(unsafe { libc::fallocate(fd, mode, from as libc::off_t, len as libc::off_t) })?;
        Ok(())
    }

    pub fn cells(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `count` aligned integers long, lives until drop, cannot shrink (it is
        // sealed, `map` has looked), and other processes' stores are what atomics are for.
        unsafe { std::slice::from_raw_parts(self.cells, self.count) }
    }
}

impl AsFd for Shared {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let len = self.count * size_of::<AtomicU64>();
        // SAFETY: pointer and length are those of our own mapping; `cells` borrows end with `self`.
        unsafe { libc::munmap(self.cells.cast(), len) };
    }
}
