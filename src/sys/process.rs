//! Processes: signals as a descriptor, children, limits, identity.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::mem::{size_of, zeroed, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use super::check;

pub use libc::{
    O_NOFOLLOW, O_NONBLOCK, SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGSYS, SIGTERM, SIGUSR1, SIGUSR2,
};

/// Every signal with a meaning here. They are blocked in main and in workers;
/// main reads them as a descriptor, workers are told over their channel.
const SIGNALS: [i32; 6] = [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD];

fn signal_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set; sigaddset changes the initialised one.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in SIGNALS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}

/// Keeps the signals from their default action in this process.
pub fn block_signals() -> io::Result<()> {
    let set = signal_set();
    // SAFETY: `set` is initialised and only read; the old mask is not asked for.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) })?;
    Ok(())
}

/// Blocked signals, one read each.
pub struct Signals(File);

impl Signals {
    /// Blocks them and opens the descriptor.
    pub fn open() -> io::Result<Signals> {
        block_signals()?;
        let set = signal_set();
        let flags = libc::SFD_NONBLOCK | libc::SFD_CLOEXEC;
        // SAFETY: `set` is initialised and only read.
        let fd = check(unsafe { libc::signalfd(-1, &set, flags) })?;
        // SAFETY: `fd` was just returned to us and is open.
        Ok(Signals(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// The next signal that waits, with the pid of who sent it.
    pub fn read(&mut self) -> Option<(i32, u32)> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        let n = self.0.read(&mut info).ok()?;
        if n != info.len() {
            return None;
        }
        // SAFETY: the kernel wrote a whole signalfd_siginfo, which is plain integers.
        let info = unsafe {
            info.as_ptr()
                .cast::<libc::signalfd_siginfo>()
                .read_unaligned()
        };
        Some((info.ssi_signo as i32, info.ssi_pid))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The program that this process runs, also if its file was replaced or removed since.
pub const OWN_PROGRAM: &str = "/proc/self/exe";

/// Runs a program of ours in a role: its standard input is `channel`, its standard output and error are `outlets`, its
/// environment is empty, and no other descriptor goes along.
pub fn start(
    program: &Path,
    name: &str,
    role: &OsStr,
    channel: OwnedFd,
    outlets: [OwnedFd; 2],
) -> io::Result<Child> {
    let [out, err] = outlets;
    let started = Command::new(program)
        .arg0(name)
        .arg(role)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(channel))
        .stdout(Stdio::from(out))
        .stderr(Stdio::from(err))
        .spawn()?;
    Ok(Child::known(started.id()))
}

/// A process that we started, be it before this program took the place of another one, or that
/// another main has started.
pub struct Child {
    pid: u32,
    /// Of one that is not ours, and that nobody waits for here: its pid may be another one's any time.
    handle: Option<OwnedFd>,
}

impl Child {
    /// One that this very process started when it ran another program (execve(2) keeps children).
    pub fn known(pid: u32) -> Child {
        Child { pid, handle: None }
    }

    /// One whose parent is dead, by what `handle` gave that one.
    pub fn adopted(pid: u32, handle: OwnedFd) -> Child {
        let handle = Some(handle);
        Child { pid, handle }
    }

    pub fn id(&self) -> u32 {
        self.pid
    }

    /// What it is known by, if it is not ours.
    pub fn adopted_by(&self) -> Option<BorrowedFd<'_>> {
        self.handle.as_ref().map(OwnedFd::as_fd)
    }

    /// A descriptor that means this child of ours for ever (pidfd_open(2), Linux 5.3).
    pub fn handle(&self) -> io::Result<OwnedFd> {
        // SAFETY: takes no pointer. It is not waited for yet, hence the pid is still its own.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, self.pid as libc::pid_t, 0u32) };
        let fd = check(fd as libc::c_int)?;
        // SAFETY: `fd` was just returned to us and is open.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// How it ended; `None`: it has not. Its pid is free for others once it was told. An error:
    /// it has, and only a parent would be told how.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        if let Some(handle) = &self.handle {
            let ended = ready_now(handle.as_fd(), libc::POLLIN);
            let untold = || Err(io::Error::other("nobody tells how"));
            return if ended { untold() } else { Ok(None) };
        }
        let mut status = 0;
        // SAFETY: `status` lives across the call.
        let pid = unsafe { libc::waitpid(self.pid as libc::pid_t, &mut status, libc::WNOHANG) };
        let ended = check(pid)? != 0;
        Ok(ended.then(|| ExitStatus::from_raw(status)))
    }

    /// Sends it a signal.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        if let Some(handle) = &self.handle {
            let (handle, no_info) = (handle.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
            // SAFETY: a null pointer stands for what kill(2) would say of the signal.
            let sent = unsafe {
                libc::syscall(libc::SYS_pidfd_send_signal, handle, signal, no_info, 0u32)
            };
            return check(sent as libc::c_int).map(drop);
        }
        // SAFETY: takes no pointer. It is not waited for yet, hence the pid is still its own.
        check(unsafe { libc::kill(self.pid as libc::pid_t, signal) })?;
        Ok(())
    }
}

/// Closes every descriptor but the standard ones: what main has left open by mistake. Kernels before
/// 5.9 cannot; there it is enough that main opens none that goes along.
pub fn close_inherited() -> io::Result<()> {
    // SAFETY: takes no pointer. This is the first thing that a process of ours does: nothing owns a descriptor yet.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    match check(done as libc::c_int) {
        Err(e) if e.raw_os_error() != Some(libc::ENOSYS) => Err(e),
        _ => Ok(()),
    }
}

/// Ends this process at once: nothing is given back, nothing is called.
pub fn leave(code: i32) -> ! {
    // SAFETY: takes no pointer and does not return.
    unsafe { libc::_exit(code) }
}

/// A panic says where it was on standard error, as ever, and then ends the process: neither unwinding
/// nor abort(3), which both call what the sandbox forbids.
pub fn leave_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tell(panic);
        leave(PANICKED)
    }));
}

/// The exit code of a process that found itself broken, as std has it.
const PANICKED: i32 = 101;

/// What this process is called in ps and top; of a re-executed one the kernel would say "exe".
pub fn set_name(name: &std::ffi::CStr) {
    // SAFETY: a terminated string that lives across the call, of which the kernel copies 15 bytes.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Raises the limit of open descriptors as far as allowed; returns what holds now.
pub fn raise_descriptor_limit() -> io::Result<u64> {
    // SAFETY: rlimit is two integers.
    let mut limit: libc::rlimit = unsafe { zeroed() };
    // SAFETY: `limit` lives across the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    if limit.rlim_cur < limit.rlim_max {
        let raised = libc::rlimit {
            rlim_cur: limit.rlim_max,
            ..limit
        };
        // SAFETY: `raised` is only read. A refusal leaves the old limit, which is reported.
        if check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raised) }).is_ok() {
            limit = raised;
        }
    }
    Ok(limit.rlim_cur)
}

/// The user whom this process acts for.
pub fn own_uid() -> u32 {
    // SAFETY: takes no pointer and cannot fail.
    unsafe { libc::geteuid() }
}

/// Sets the file mode creation mask; returns the old one.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: takes no pointer and cannot fail.
    unsafe { libc::umask(mask) }
}

/// Whether a write of up to PIPE_BUF bytes to `fd` would not block now.
pub fn writable_now(fd: BorrowedFd) -> bool {
    ready_now(fd, libc::POLLOUT)
}

fn ready_now(fd: BorrowedFd, events: libc::c_short) -> bool {
    let mut poll = libc::pollfd {
        fd: fd.as_raw_fd(),
        events,
        revents: 0,
    };
    // SAFETY: one structure that lives across the call.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) };
    ready == 1 && poll.revents & events != 0
}

/// Which process a handle of another main's means; `None`: it is no such handle, or the process has
/// ended (proc_pid_fdinfo(5)).
pub fn pid_of_handle(handle: BorrowedFd) -> Option<u32> {
    let path = format!("/proc/self/fdinfo/{}", handle.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    pid.trim().parse().ok()
}

/// What ends this process leaves no picture of its memory, which holds private keys. The limit
/// keeps the kernel from writing a file; a program that it would hand the picture to (`|` in
/// core_pattern) is kept off by the second call alone, which also keeps other processes of
/// the same user from looking in (ptrace). An exec takes the second back: each role calls this.
pub fn keep_no_cores() -> io::Result<()> {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `none` is only read.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) })?;
    // SAFETY: takes no pointer.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) })?;
    Ok(())
}

/// Random bytes from the kernel.
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: pointer and length describe `bytes`. Up to 256 bytes come whole (getrandom(2)).
    super::check_size(unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) })?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Large pieces of memory (whole texts of a state) go back to the system as soon as they are
/// freed. Left alone, the allocator takes the first such piece for the rule, and keeps the next ones.
pub fn keep_no_large_pieces() {
    const LARGE_BYTES: libc::c_int = 128 * 1024;
    // SAFETY: takes no pointer; pieces that exist are not touched.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES);
    }
}

/// Gives freed memory back to the system.
pub fn release_memory() {
    // SAFETY: takes no pointer; the allocator keeps what is in use.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_means_one_process_and_tells_its_end() {
        let mut started = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let child = Child::known(started.id());
        let handle = child.handle().unwrap();
        assert_eq!(pid_of_handle(handle.as_fd()), Some(started.id()));
        assert_eq!(pid_of_handle(io::stdin().as_fd()), None);
        let adopted = Child::adopted(started.id(), handle);
        assert!(matches!(adopted.try_wait(), Ok(None)));
        adopted.kill(SIGKILL).unwrap();
        assert_eq!(started.wait().unwrap().signal(), Some(SIGKILL));
        assert!(adopted.try_wait().is_err());
        assert!(adopted.kill(SIGKILL).is_err());
        let handle = adopted.adopted_by().unwrap();
        assert_eq!(pid_of_handle(handle), None);
    }

    #[test]
    fn nothing_is_left_to_dump() {
        keep_no_cores().expect("no more than less is asked for");
        // SAFETY: takes no pointer.
        assert_eq!(unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }, 0);
        // SAFETY: rlimit is two integers.
        let mut limit: libc::rlimit = unsafe { zeroed() };
        // SAFETY: `limit` lives across the call.
        check(unsafe { libc::getrlimit(libc::RLIMIT_CORE, &mut limit) }).expect("the limit");
        assert_eq!((limit.rlim_cur, limit.rlim_max), (0, 0));
    }
}
