//! The sandbox: what a process gives up, for ever, before the first byte of a client.
//!
//! In this order, and each step is there because the next ones do not do its work:
//!
//! 0. Libraries set themselves up (`warm_up`).
//! 1. Nothing is inherited: the environment is empty (`process::start`), every descriptor but the channel and
//!    the log is closed (`process::close_inherited`), and the rest comes over the channel.
//! 2. Limits: no process and no core, a bound on memory, no locked memory. Log files are regular
//!    files, so their size is not limited (RLIMIT_FSIZE): none can be made, which is the same.
//! 3. As root: an empty directory that is already removed becomes the root, all groups but one are dropped, then the
//!    user. As anybody: no capability stays. Then it tries to come back, and ends if it can.
//! 4. No new privileges, without which a user may not do what follows; not dumpable, so no other process of the
//!    user can look in (the change of user has set it back).
//! 5. Landlock: no file by its path, no bind, no signal to others.
//! 6. seccomp: of the kernel only what the role's table allows.
//!
//! What cannot be had is an error: it is main that looks before, and decides what may be missing.

#[cfg(test)]
mod drill;
pub mod filter;
mod ids;
mod landlock;
mod names;
mod seccomp;
pub mod table;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use self::filter::{Arch, Rule, FAIL, TRAP};
use self::ids::Limit;
use super::process;

pub use names::name;

/// A part of it that a machine may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Chroot,
    User,
    Landlock,
    Seccomp,
}

impl Part {
    pub const ALL: [Part; 4] = [Part::Chroot, Part::User, Part::Landlock, Part::Seccomp];

    pub fn name(self) -> &'static str {
        match self {
            Part::Chroot => "chroot",
            Part::User => "user",
            Part::Landlock => "landlock",
            Part::Seccomp => "seccomp",
        }
    }

    /// Whether this kernel, and what this process may, allow for it. The version of Landlock, or 1.
    pub fn available(self) -> io::Result<u32> {
        let may = |capabilities: &[u32]| match ids::has(capabilities)? {
            true => Ok(1),
            false => Err(io::Error::from_raw_os_error(libc::EPERM)),
        };
        match self {
            Part::Chroot => may(&[ids::CAP_SYS_CHROOT]),
            Part::User => may(&[ids::CAP_SETUID, ids::CAP_SETGID]),
            Part::Landlock => landlock::version(),
            Part::Seccomp => seccomp::available().map(|()| 1),
        }
    }
}

/// What is given up.
pub struct Plan {
    pub root: Option<OwnedFd>,
    /// uid, gid.
    pub user: Option<(u32, u32)>,
    /// The version of Landlock to use.
    pub landlock: Option<u32>,
    /// What stays allowed.
    pub rules: Option<&'static [Rule]>,
    /// It reads files, by modules of the C library that are not known here, in threads of its own.
    pub files: bool,
}

impl Plan {
    /// For a process that has to see the machine's files: it changes none, and runs none. What its table lacks
    /// fails, so that a module that asks for more than others goes without it.
    pub fn with_files(self) -> Plan {
        Plan {
            root: None,
            files: true,
            ..self
        }
    }
}

/// Of the machine's memory one process may take this part, in percent: what is left is enough
/// for main and the other workers to go on.
const MEMORY_PERCENT: u64 = 75;

extern "C" {
    fn tzset();
}

/// Libraries do some things once, with calls that are forbidden later: they do them now. OpenSSL
/// reads its configuration, the C library the time zone and, when it sorts, how much memory there is.
pub fn warm_up() {
    openssl::init();
    extern "C" fn same(_: *const libc::c_void, _: *const libc::c_void) -> libc::c_int {
        0
    }
    // From 1024 bytes on it looks how much memory it may take.
    let mut bytes = [0u8; 4096];
    // SAFETY: pointer, count and size describe `bytes`; the comparison looks at nothing. There is no
    // other thread that could look at the time zone meanwhile.
    unsafe {
        libc::qsort(bytes.as_mut_ptr().cast(), bytes.len(), 1, Some(same));
        tzset();
    }
}

/// Does it. A forbidden call's number, plus one, is put into `note`. An error is a sentence,
/// and the process is to end.
pub fn enter(plan: &Plan, note: &'static AtomicU64) -> Result<(), String> {
    let failed = |what: &'static str| move |e: io::Error| format!("the sandbox: {what}: {e}");
    process::keep_no_cores().map_err(failed("limit of cores"))?;
    let memory = ids::memory_bytes().map_err(failed("sysinfo"))? / 100 * MEMORY_PERCENT;
    // Threads count as processes, those of others of the same user too.
    let processes = (!plan.files).then_some((Limit::Processes, 0));
    let limits = [
        (Limit::Memory, memory),
        (Limit::LockedMemory, 0),
        (Limit::Queues, 0),
    ];
    for (limit, most) in limits.into_iter().chain(processes) {
        ids::limit(limit, most).map_err(failed("setrlimit"))?;
    }
    if let Some(root) = &plan.root {
        ids::change_root(root.as_fd()).map_err(failed("chroot"))?;
    }
    if let Some((uid, gid)) = plan.user {
        ids::become_user(uid, gid).map_err(failed("setresuid"))?;
    }
    ids::keep_capabilities(&[]).map_err(failed("capset"))?;
    if plan.user.is_some() {
        ids::cannot_come_back().map_err(|what| format!("the sandbox: {what}"))?;
    }
    seccomp::no_new_privileges().map_err(failed("no_new_privs"))?;
    process::keep_no_cores().map_err(failed("PR_SET_DUMPABLE"))?;
    if let Some(version) = plan.landlock {
        landlock::enter(version, plan.files).map_err(failed("Landlock"))?;
    }
    if let Some(rules) = plan.rules {
        let otherwise = if plan.files { FAIL } else { TRAP };
        let steps = filter::program(Arch::OURS, rules, otherwise);
        seccomp::enter(&steps, note).map_err(failed("seccomp"))?;
    }
    Ok(())
}

/// What main does as root beside what its files' owner may do: the rest is given up for it and for all
/// that it runs.
pub fn keep_what_main_needs() -> io::Result<()> {
    ids::keep_capabilities(&[
        // Ports below 1024.
        ids::CAP_NET_BIND_SERVICE,
        // Workers of another user: their root directory, their user, their end.
        ids::CAP_SYS_CHROOT,
        ids::CAP_SETUID,
        ids::CAP_SETGID,
        ids::CAP_KILL,
        // Logs, certificates and the saved state may be others'.
        ids::CAP_DAC_OVERRIDE,
    ])
}
