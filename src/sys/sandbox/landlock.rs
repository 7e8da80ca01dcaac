//! landlock(7): no file is opened, made, read, run, renamed or removed by its path, no TCP port is bound, and no
//! signal and no message to an abstract unix socket leaves the process.
//!
//! A rule set without rules: what it handles it denies. One for a process that needs files has one rule: all of
//! them may be read. Open descriptors go on as they are.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::sys::check;

/// struct landlock_ruleset_attr; older kernels know only its start.
#[repr(C)]
struct Attributes {
    files: u64,
    net: u64,
    scoped: u64,
}

const CREATE_RULESET_VERSION: u32 = 1;
/// struct landlock_path_beneath_attr, which has no padding.
#[repr(C, packed)]
struct Beneath {
    allowed: u64,
    parent: i32,
}
const RULE_PATH_BENEATH: u32 = 1;
/// LANDLOCK_ACCESS_FS_READ_FILE and LANDLOCK_ACCESS_FS_READ_DIR.
const READ: u64 = 1 << 2 | 1 << 3;

/// LANDLOCK_ACCESS_NET_BIND_TCP. To connect is what a worker is for.
const BIND_TCP: u64 = 1;
/// LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL.
const SCOPES: u64 = 3;

/// Which version of Landlock the kernel offers. An error: it has none, or it is not switched on.
pub fn version() -> io::Result<u32> {
    let none = std::ptr::null::<Attributes>();
    // SAFETY: with this flag the kernel wants no structure, and answers a number.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            none,
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    Ok(check(version as libc::c_int)? as u32)
}

/// Every access to files that a version knows of.
fn files(version: u32) -> u64 {
    let bits = match version {
        0 | 1 => 13,
        // … REFER, TRUNCATE, IOCTL_DEV.
        2 => 14,
        3 | 4 => 15,
        _ => 16,
    };
    (1 << bits) - 1
}

/// From now on, for ever. Needs no_new_privs. `readable`: files may be read.
pub fn enter(version: u32, readable: bool) -> io::Result<()> {
    let attributes = Attributes {
        files: files(version),
        net: if version >= 4 { BIND_TCP } else { 0 },
        scoped: if version >= 6 { SCOPES } else { 0 },
    };
    let known = match version {
        0..=3 => 8,
        4 | 5 => 16,
        _ => size_of::<Attributes>(),
    };
    // SAFETY: the kernel reads `known` bytes of a live structure that is at least so long.
    let fd = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, &attributes, known, 0u32) };
    let fd = check(fd as libc::c_int)?;
    // SAFETY: `fd` was just returned to us and is open.
    let rules = unsafe { OwnedFd::from_raw_fd(fd) };
    if readable {
        allow_reading(&rules)?;
    }
    // SAFETY: takes no pointer.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0u32) };
    check(done as libc::c_int)?;
    Ok(())
}

fn allow_reading(rules: &OwnedFd) -> io::Result<()> {
    let root = std::fs::File::open("/")?;
    let beneath = Beneath {
        allowed: READ,
        parent: root.as_raw_fd(),
    };
    // SAFETY: the kernel reads a live structure of the layout that this kind of rule has.
    let done = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            rules.as_raw_fd(),
            RULE_PATH_BENEATH,
            &beneath,
            0u32,
        )
    };
    check(done as libc::c_int)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_denies_all_that_it_knows() {
        assert_eq!(files(1), 0x1fff);
        assert_eq!(files(3), 0x7fff);
        assert_eq!(files(7), 0xffff);
    }
}
