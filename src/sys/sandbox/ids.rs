//! Who a process is and what it may: users, groups, capabilities, its root directory, its limits.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::sys::check;

/// Capabilities (capabilities(7)) by their number.
pub const CAP_DAC_OVERRIDE: u32 = 1;
pub const CAP_KILL: u32 = 5;
pub const CAP_SETGID: u32 = 6;
pub const CAP_SETUID: u32 = 7;
pub const CAP_NET_BIND_SERVICE: u32 = 10;
pub const CAP_SYS_CHROOT: u32 = 18;
/// No kernel has more.
const CAPABILITIES: u32 = 64;

/// struct __user_cap_header_struct and two of __user_cap_data_struct, version 3.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Data {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
const VERSION_3: u32 = 0x2008_0522;

fn capabilities() -> io::Result<[Data; 2]> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    // SAFETY: two live structures of the layout that version 3 has; the kernel writes both.
    check(
        unsafe { libc::syscall(libc::SYS_capget, &mut header, data.as_mut_ptr()) } as libc::c_int,
    )?;
    Ok(data)
}

/// Whether this process has all of them, and may use them.
pub fn has(wanted: &[u32]) -> io::Result<bool> {
    let data = capabilities()?;
    let has = |one: &u32| data[*one as usize / 32].effective & (1 << (one % 32)) != 0;
    Ok(wanted.iter().all(has))
}

/// Of those that this process has it keeps these, and what it runs gets no more than them.
pub fn keep_capabilities(kept: &[u32]) -> io::Result<()> {
    // Before the others go: this needs CAP_SETPCAP. Without it nothing can be given anyway that is not had.
    for capability in (0..CAPABILITIES).filter(|one| !kept.contains(one)) {
        // SAFETY: takes no pointer. A refusal: no such capability, or none that could be dropped.
        unsafe {
            libc::prctl(
                libc::PR_CAPBSET_DROP,
                libc::c_ulong::from(capability),
                0,
                0,
                0,
            )
        };
    }
    // SAFETY: takes no pointer. A refusal: the kernel has no ambient capabilities.
    unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    };
    let mut data = capabilities()?;
    let bit = |word: u32| -> u32 {
        let own = kept.iter().filter(|one| *one / 32 == word);
        own.map(|one| 1 << (one % 32)).sum()
    };
    for (word, data) in (0..).zip(&mut data) {
        data.permitted &= bit(word);
        data.effective = data.permitted;
        data.inheritable = 0;
    }
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    // SAFETY: two live structures of the layout that version 3 has; the kernel reads both.
    check(unsafe { libc::syscall(libc::SYS_capset, &header, data.as_ptr()) } as libc::c_int)?;
    Ok(())
}

/// An open directory becomes the root, and there is nothing outside that could be reached by a path.
pub fn change_root(to: BorrowedFd) -> io::Result<()> {
    // SAFETY: takes no pointer.
    check(unsafe { libc::fchdir(to.as_raw_fd()) })?;
    // SAFETY: a terminated string that lives for ever.
    check(unsafe { libc::chroot(c".".as_ptr()) })?;
    // SAFETY: as above.
    check(unsafe { libc::chdir(c"/".as_ptr()) })?;
    Ok(())
}

/// Real, effective and saved ids become these, and no other group is left.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: no group is read from the null pointer, since there are none.
    check(unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::setresuid(uid, uid, uid) })?;
    Ok(())
}

/// Tries to be somebody else, as whoever took the process over would. An error is what came of it.
pub fn cannot_come_back() -> Result<(), &'static str> {
    let other = libc::uid_t::MAX;
    // SAFETY: takes no pointer; -1 leaves an id as it is.
    let uid = |id| unsafe { libc::setresuid(id, id, other) };
    // SAFETY: as above.
    let gid = |id| unsafe { libc::setresgid(id, id, other) };
    let own = crate::sys::process::own_uid();
    if own == 0 {
        return Err("it is root");
    }
    if uid(0) == 0 || uid(own ^ 1) == 0 {
        return Err("it could change its user");
    }
    if gid(0) == 0 {
        return Err("it could change its group");
    }
    let data = capabilities().map_err(|_| "its capabilities cannot be read")?;
    match data.iter().any(|data| data.permitted | data.effective != 0) {
        true => Err("capabilities are left"),
        false => Ok(()),
    }
}

/// Bounds what the process may have of something, for ever.
pub fn limit(what: Limit, most: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: most,
        rlim_max: most,
    };
    let what = match what {
        Limit::Processes => libc::RLIMIT_NPROC,
        Limit::Memory => libc::RLIMIT_DATA,
        Limit::LockedMemory => libc::RLIMIT_MEMLOCK,
        Limit::Queues => libc::RLIMIT_MSGQUEUE,
    };
    // SAFETY: `limit` is only read.
    check(unsafe { libc::setrlimit(what, &limit) })?;
    Ok(())
}

/// What `limit` bounds (getrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    Processes,
    /// Writable memory of its own.
    Memory,
    LockedMemory,
    Queues,
}

/// Bytes of memory that the machine has.
pub fn memory_bytes() -> io::Result<u64> {
    // SAFETY: sysinfo is plain integers, for which all zeroes is a value.
    let mut info: libc::sysinfo = unsafe { std::mem::zeroed() };
    // SAFETY: `info` lives across the call.
    check(unsafe { libc::sysinfo(&mut info) })?;
    Ok((info.totalram as u64).saturating_mul(u64::from(info.mem_unit)))
}
