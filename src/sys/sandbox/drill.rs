//! Whoever has taken over a worker or the key process tries what he would try; each in a process of its own.
//!
//! The process enters the sandbox by the function and the table that its role uses, does one thing, and
//! ends. It counts as held if the kernel refused or killed. There are two kinds of sandboxes, a root's and an
//! ordinary user's, and each layer is tried without the last one as well. In no program that is shipped.

mod acts;
mod resolver;

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use self::acts::{files, kernel, network, processes, what_workers_may};
use self::acts::{without_filter, ANONYMOUS, WRITE};
use super::filter::FOREIGN_NUMBERS;
use super::table::{CONNECTOR, KEYS, WORKER};
use super::*;
use crate::sys::pipe::Pipe;
use crate::sys::shared::Shared;
use crate::sys::{socket, standard};

/// How an act ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The kernel has done it.
    Done,
    Refused(i32),
    /// By this call.
    Killed(String),
    Otherwise(ExitStatus),
}

/// Exit codes of a process: an errno, or one of these.
const DONE: i32 = 200;
const NOT_CONFINED: i32 = 201;

/// Who starts the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Starter {
    Root,
    User,
}

const DESCRIPTORS: u64 = 1024;
const NOBODY: u32 = 65534;
const SOMEBODY: u32 = 64321;

/// Root can try both.
fn starters() -> &'static [Starter] {
    match process::own_uid() {
        0 => &[Starter::Root, Starter::User],
        _ => &[Starter::User],
    }
}

fn plan(starter: Starter, rules: Option<&'static [Rule]>) -> Plan {
    Plan {
        root: (starter == Starter::Root).then(empty_directory),
        user: (starter == Starter::Root).then_some((NOBODY, NOBODY)),
        landlock: Some(landlock::version().expect("a kernel with Landlock")),
        rules,
        files: false,
    }
}

fn empty_directory() -> OwnedFd {
    let path = std::env::temp_dir().join(format!(
        "sozu-drill-{}",
        process::random_u64().expect("random")
    ));
    std::fs::create_dir(&path).expect("a directory");
    let open = File::open(&path).expect("open it");
    std::fs::remove_dir(&path).expect("remove it");
    open.into()
}

thread_local! {
    /// Where children of this thread, which come one after another, have their forbidden calls noted.
    static NOTED: &'static AtomicU64 = {
        let shared: &'static Shared = Box::leak(Box::new(Shared::create(1).expect("a page")));
        &shared.cells()[0]
    };
}

/// Forks; the child enters the sandbox, does it, and ends. What it returns is the result of a system call.
fn inside(starter: Starter, rules: Option<&'static [Rule]>, act: &dyn Fn() -> i64) -> End {
    confined(starter, plan(starter, rules), act)
}

fn confined(starter: Starter, plan: Plan, act: &dyn Fn() -> i64) -> End {
    let note = NOTED.with(|note| *note);
    note.store(0, Relaxed);
    // SAFETY: the child is a copy with this one thread; it allocates, which glibc allows after a fork, and ends in `leave`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // As main's limit comes to workers, but small: some machines allow a million.
        let few = libc::rlimit {
            rlim_cur: DESCRIPTORS,
            rlim_max: DESCRIPTORS,
        };
        // SAFETY: `few` is only read.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &few) };
        if starter == Starter::User && process::own_uid() == 0 {
            ids::become_user(SOMEBODY, SOMEBODY).unwrap_or_else(|_| process::leave(NOT_CONFINED));
        }
        if enter(&plan, note).is_err() {
            process::leave(NOT_CONFINED);
        }
        let code = match act() {
            -1 => io::Error::last_os_error().raw_os_error().unwrap_or(DONE),
            _ => DONE,
        };
        process::leave(code);
    }
    let mut status = 0;
    // SAFETY: our own child, and `status` lives across the call.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    let status = ExitStatus::from_raw(status);
    match (status.code(), status.signal(), note.load(Relaxed)) {
        (Some(DONE), _, _) => End::Done,
        (Some(NOT_CONFINED), _, _) => panic!("the sandbox could not be entered"),
        (Some(errno), _, _) => End::Refused(errno),
        (_, Some(libc::SIGSYS), 0) => End::Killed("foreign".into()),
        (_, Some(libc::SIGSYS), number) => End::Killed(name(number - 1)),
        _ => End::Otherwise(status),
    }
}

fn call(number: libc::c_long, arguments: [i64; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: in a child of its own, which ends next: what a call does to its memory harms nobody. Pointers
    // among the arguments are null or those of live objects.
    unsafe { libc::syscall(number, a, b, c, d, e, f) }
}

fn path(text: &'static std::ffi::CStr) -> i64 {
    text.as_ptr() as i64
}

/// A process beside the one that tries: it sleeps until it is killed, and its pid is whom acts are aimed at.
struct Sibling(libc::pid_t);

impl Sibling {
    /// Of the same user as who tries.
    fn of(starter: Starter) -> Sibling {
        // SAFETY: as in `inside`; the child calls nothing but what is there.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            if process::own_uid() == 0 {
                let id = match starter {
                    Starter::Root => NOBODY,
                    Starter::User => SOMEBODY,
                };
                let _ = ids::become_user(id, id);
            }
            loop {
                // SAFETY: takes no pointer.
                unsafe { libc::pause() };
            }
        }
        Sibling(pid)
    }

    fn lives(&self) -> bool {
        let mut status = 0;
        // SAFETY: our own child, and `status` lives across the call.
        unsafe { libc::waitpid(self.0, &mut status, libc::WNOHANG) == 0 }
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        // SAFETY: our own child, not yet waited for.
        unsafe {
            libc::kill(self.0, libc::SIGKILL);
            libc::waitpid(self.0, std::ptr::null_mut(), 0);
        }
    }
}

/// What is tried, what it is refused as, and the call that does it.
type Refusal = (&'static str, &'static [i32], Box<dyn Fn() -> i64>);
/// What is tried, the call of which it dies, and the one that does it.
type Act = (&'static str, &'static str, Box<dyn Fn() -> i64>);

fn act(what: &'static str, dies_of: &'static str, number: libc::c_long, arguments: &[i64]) -> Act {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    (what, dies_of, Box::new(move || call(number, all)))
}

/// Each dies of the very call that it needs first, in every role; in the key process and the connector some more do.
#[test]
fn what_a_hijacked_process_would_try() {
    for starter in starters() {
        let sibling = Sibling::of(*starter);
        let tried = || [files(), processes(sibling.0.into()), network(), kernel()];
        let more = || tried().into_iter().chain([what_workers_may()]);
        let roles: [(_, Vec<_>); 3] = [
            (WORKER, tried().into()),
            (KEYS, more().collect()),
            (CONNECTOR, more().collect()),
        ];
        for (rules, all) in roles {
            // What the connector is there for.
            let its_own = |what: &str| {
                std::ptr::eq(rules, CONNECTOR) && ["a unix socket", "connect"].contains(&what)
            };
            for (what, dies_of, act) in all.iter().flatten().filter(|(what, _, _)| !its_own(what)) {
                let end = inside(*starter, Some(rules), act);
                assert_eq!(end, End::Killed(dies_of.to_string()), "{what}, {starter:?}");
            }
        }
        assert!(sibling.lives());
    }
}

/// Every call that this machine has a name for, and that the role's table does not allow without a condition.
#[test]
fn what_nobody_has_thought_of() {
    let starter = starters()[0];
    for rules in [WORKER, KEYS, CONNECTOR] {
        let free = |number| {
            let mut rules = rules.iter();
            rules.any(|rule| rule.number(Arch::OURS) == Some(number) && rule.checks.is_empty())
        };
        for number in (0..480).filter(|number| !free(*number)) {
            let end = inside(starter, Some(rules), &|| call(number.into(), [-1; 6]));
            let killed = end == End::Killed(name(number.into()));
            let held = killed || PROBES.contains(&number) && end != End::Done;
            assert!(held, "{number}: {end:?}");
        }
    }
}

/// uretprobe and uprobe of x86-64: newer kernels ask no filter about them, and kill or refuse whoever calls
/// them from anywhere but a probe that the kernel itself has put there.
const PROBES: [u32; 2] = [335, 336];

#[test]
fn other_ways_into_the_kernel() {
    let starter = starters()[0];
    // x32's numbers, and beyond.
    for number in [FOREIGN_NUMBERS | 1, 0x7fff_ffff] {
        let end = inside(starter, Some(WORKER), &|| call(number.into(), [0; 6]));
        assert_eq!(end, End::Killed("foreign".into()), "{number}");
    }
    #[cfg(target_arch = "x86_64")]
    {
        // i386's getpid, by its own gate.
        let gate = || {
            let result: i32;
            // SAFETY: in a child of its own; the gate changes what is named here and no more.
            unsafe {
                std::arch::asm!("int 0x80", inout("eax") 20 => result, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
            };
            result.into()
        };
        let end = inside(starter, Some(WORKER), &gate);
        assert_eq!(end, End::Killed("foreign".into()));
    }
}

/// What the table allows is bounded by limits, and goes on below them.
#[test]
fn what_can_be_used_up() {
    for starter in starters() {
        let descriptors = || loop {
            let mut fds = [0i32; 2];
            let flags = (libc::O_NONBLOCK | libc::O_CLOEXEC) as i64;
            if call(
                libc::SYS_pipe2,
                [fds.as_mut_ptr() as i64, flags, 0, 0, 0, 0],
            ) < 0
            {
                return -1;
            }
        };
        assert_eq!(
            inside(*starter, Some(WORKER), &descriptors),
            End::Refused(libc::EMFILE)
        );
        // Not touched: only the limit is tried.
        let memory = || loop {
            if call(libc::SYS_mmap, [0, 1 << 30, WRITE, ANONYMOUS, -1, 0]) < 0 {
                return -1;
            }
        };
        assert_eq!(
            inside(*starter, Some(WORKER), &memory),
            End::Refused(libc::ENOMEM)
        );
    }
}

/// What no filter sees, main undoes: a worker has stopped a listening socket that it shares.
#[test]
fn what_is_done_and_undone() {
    let any = "127.0.0.1:0".parse().expect("an address");
    let listener = socket::listen(any, 1).expect("a port");
    let address = listener.local_addr().expect("its address");
    for starter in starters() {
        let stop = || socket::reset(&listener).map_or(-1, |()| 0);
        assert_eq!(inside(*starter, Some(WORKER), &stop), End::Done);
        assert!(!socket::listens(&listener).expect("asked"));
        socket::listen_again(&listener, address, 1).expect("it listens again");
        assert!(socket::listens(&listener).expect("asked"));
    }
}

/// A terminal or a log, as processes get them: what somebody types is not read, and old lines stay as they are.
#[test]
fn what_one_may_do_no_more_than_write_to() {
    let (mut ours, mut theirs) = (-1, -1);
    let null = std::ptr::null_mut();
    // SAFETY: two descriptors are written, and the rest is not wanted.
    let made = unsafe { libc::openpty(&mut ours, &mut theirs, null, null.cast(), null.cast()) };
    assert_eq!(made, 0);
    // SAFETY: both were just returned to us and are open.
    let [typist, terminal] = [ours, theirs].map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
    let mut typist = File::from(typist);
    typist.write_all(b"secret\n").expect("typed");
    let path = std::env::temp_dir().join(format!("sozu-log-{}", std::process::id()));
    std::fs::write(&path, "old lines\n").expect("a file");
    // As a shell opens it behind "<>": for both, and not to append.
    let file = File::options().read(true).write(true).open(&path);
    let given: [OwnedFd; 2] = [terminal, file.expect("a file").into()];
    let outlets = given.map(|fd| standard::for_writing(fd.as_fd()).expect("opened anew"));
    let [terminal, log] = outlets.each_ref().map(|fd| i64::from(fd.as_raw_fd()));
    let (pipe_out, pipe_in) = Pipe::new(4096).expect("a pipe").into_ends();
    let mut text = File::from(pipe_in);
    text.write_all(b"forged").expect("written");
    let [pipe_out, pipe_in] = [pipe_out.as_raw_fd(), text.as_raw_fd()].map(i64::from);
    let start = 0i64;
    let start = &start as *const i64 as i64;
    for starter in starters() {
        for (what, arguments, errno) in [
            (
                "read a terminal",
                [terminal, 0, pipe_in, 0, 6, 0],
                libc::EBADF,
            ),
            ("read a log", [log, start, pipe_in, 0, 6, 0], libc::EBADF),
            (
                "change old lines",
                [pipe_out, 0, log, start, 6, 0],
                libc::EINVAL,
            ),
        ] {
            let end = inside(*starter, Some(WORKER), &|| {
                call(libc::SYS_splice, arguments)
            });
            assert_eq!(end, End::Refused(errno), "{what}, {starter:?}");
        }
        let read = || {
            call(
                libc::SYS_pread64,
                [log, text.as_raw_fd().into(), 0, 0, 0, 0],
            )
        };
        assert_eq!(
            inside(*starter, Some(WORKER), &read),
            End::Refused(libc::EBADF)
        );
    }
    assert_eq!(
        std::fs::read_to_string(&path).expect("a file"),
        "old lines\n"
    );
    std::fs::remove_file(&path).expect("removed");
}

/// Without the last layer the ones before it hold by themselves.
#[test]
fn each_layer_holds_alone() {
    let port = socket::listen("127.0.0.1:0".parse().expect("an address"), 1).expect("a port");
    let free = port.local_addr().expect("its address");
    drop(port);
    for starter in starters() {
        let sibling = Sibling::of(*starter);
        for (what, errors, act) in without_filter(sibling.0.into(), free) {
            match inside(*starter, None, &act) {
                End::Refused(errno) if errors.contains(&errno) => {}
                other => panic!("{what}, {starter:?}: {other:?}"),
            }
        }
        assert!(sibling.lives());
    }
}
