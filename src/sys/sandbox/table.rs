//! Which system calls a role may do, each with its reason. There is no other list.
//!
//! Those of a request first, what is seldom last. `tests/sandbox_rules.rs` fails for a rule that
//! nothing needs, `tests/docs.rs` if doc/security.md has another table. A role is a table of its own.

use super::filter::{Check, Rule};
use Check::{Is, Lacks};

const fn rule(
    name: &'static str,
    x86_64: u32,
    aarch64: u32,
    checks: &'static [Check],
    reason: &'static str,
) -> Rule {
    Rule {
        name,
        numbers: [Some(x86_64), Some(aarch64)],
        checks,
        reason,
        elsewhere: false,
    }
}

/// A call that aarch64 has not.
const fn old(
    name: &'static str,
    x86_64: u32,
    checks: &'static [Check],
    reason: &'static str,
) -> Rule {
    let mut rule = rule(name, x86_64, 0, checks, reason);
    rule.numbers[1] = None;
    rule
}

impl Rule {
    /// Not needed with every C library, kernel and clock.
    const fn elsewhere(mut self) -> Rule {
        self.elsewhere = true;
        self
    }
}

// Values of linux/… that the rules below are about, the same on both architectures.
const CLOEXEC: u32 = 0o2000000;
const NONBLOCK_CLOEXEC: u32 = 0o4000 | CLOEXEC;
const STREAM: u32 = 1 | NONBLOCK_CLOEXEC;
const INET: u32 = 2;
const INET6: u32 = 10;
const UNIX: u32 = 1;
const NETLINK: u32 = 16;
/// CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD, _SYSVSEM, _SETTLS, _PARENT_SETTID and _CHILD_CLEARTID: what pthread_create(3) asks for.
const THREAD: u32 = 0x003d_0f00;
const SET_NAME: u32 = 15;
const SOL_SOCKET: u32 = 1;
const SO_ERROR: u32 = 4;
const SO_ACCEPTCONN: u32 = 30;
const SOL_TCP: u32 = 6;
const TCP_NODELAY: u32 = 1;
const F_GETFD: u32 = 1;
const F_SETPIPE_SZ: u32 = 1031;
const PIPE_BYTES: u32 = crate::limits::PIPE_BYTES as u32;
const SHUT_WR: u32 = 1;
const FIONREAD: u32 = 0x541b;
const PROT_EXEC: u32 = 4;
const PRIVATE_ANONYMOUS: u32 = 0x22;
const MAYMOVE: u32 = 1;
const DONTNEED: u32 = 4;
const WAKE_PRIVATE: u32 = 1 | 128;
const SEEK_CUR: u32 = 1;

/// The descriptor of signals: the first that a worker opens.
pub const SIGNALS: u32 = 3;

/// What a worker may do. It sets no SO_LINGER: a socket with that and with bytes to send, passed along with a message,
/// would hold up whoever closes it last, hence main and the key process.
#[rustfmt::skip]
pub static WORKER: &[Rule] = &[
    rule("recvfrom", 45, 207, &[], "reads from clients and backends"),
    rule("sendto", 44, 206, &[], "writes to them"),
    old("epoll_wait", 232, &[], "waits for what is ready"),
    rule("epoll_pwait", 281, 22, &[], "the same, where the C library has no other way").elsewhere(),
    rule("splice", 275, 76, &[], "moves bodies from socket to socket through a pipe"),
    rule("epoll_ctl", 233, 21, &[], "says what it waits for"),
    rule("accept4", 288, 242, &[Is(3, NONBLOCK_CLOEXEC)], "takes a client's connection from a listening socket that main has opened"),
    rule("close", 3, 57, &[], "ends a connection"),
    rule("socket", 41, 198, &[Is(0, INET), Is(1, STREAM), Is(2, 0)], "a TCP connection to a backend, over IPv4"),
    rule("socket", 41, 198, &[Is(0, INET6), Is(1, STREAM), Is(2, 0)], "over IPv6"),
    rule("connect", 42, 203, &[], "to the backend, where to cannot be seen in the arguments; to nowhere, which resets"),
    rule("setsockopt", 54, 208, &[Is(1, SOL_TCP), Is(2, TCP_NODELAY)], "what is written goes at once"),
    rule("getsockopt", 55, 209, &[Is(1, SOL_SOCKET), Is(2, SO_ERROR)], "why a connection was not made"),
    rule("getsockopt", 55, 209, &[Is(1, SOL_SOCKET), Is(2, SO_ACCEPTCONN)], "whether what another worker hands over is a connection"),
    rule("dup3", 292, 24, &[Is(2, CLOEXEC)], "a connection to a unix socket, which the connector has made, takes the place of its stand-in"),
    rule("shutdown", 48, 210, &[Is(1, SHUT_WR)], "ends our direction of a connection"),
    rule("getpid", 39, 172, &[], "OpenSSL asks whether it was forked"),
    rule("getrandom", 318, 278, &[], "randomness for TLS and for hash tables"),
    rule("brk", 12, 214, &[], "memory, as the allocator takes and gives it"),
    rule("mmap", 9, 222, &[Lacks(2, PROT_EXEC), Is(3, PRIVATE_ANONYMOUS)], "large pieces of memory, never of a file, never executable"),
    rule("munmap", 11, 215, &[], "gives them back"),
    rule("mremap", 25, 216, &[Is(3, MAYMOVE)], "a large piece grows"),
    rule("madvise", 28, 233, &[Is(2, DONTNEED)], "memory is given back after a large change"),
    rule("write", 1, 64, &[], "lines of the log"),
    old("poll", 7, &[], "asks whether the log takes a line now"),
    rule("ppoll", 271, 73, &[], "the same, where there is no poll").elsewhere(),
    rule("lseek", 8, 62, &[Is(1, 0), Is(2, SEEK_CUR)], "whether a log that is opened again is a regular file"),
    rule("recvmsg", 47, 212, &[], "what main says, and descriptors with it"),
    rule("sendmsg", 46, 211, &[], "the answers, and connections that move to the next worker"),
    rule("getsockname", 51, 204, &[], "which listener a socket from main is"),
    rule("pipe2", 293, 59, &[Is(1, NONBLOCK_CLOEXEC)], "the pipe of splice"),
    rule("fcntl", 72, 25, &[Is(1, F_SETPIPE_SZ), Is(2, PIPE_BYTES)], "how much it shall hold"),
    rule("ioctl", 16, 29, &[Is(1, FIONREAD)], "how much lies in one that another worker has handed over"),
    rule("fcntl", 72, 25, &[Is(1, F_GETFD)], "debug builds check that what they close is open").elsewhere(),
    rule("pread64", 17, 67, &[], "the certificates that the system trusts, from a file that main has opened"),
    rule("read", 0, 63, &[Is(0, SIGNALS)], "signals, as a descriptor, once main is gone; never a terminal that is standard output"),
    rule("futex", 202, 98, &[Is(1, WAKE_PRIVATE)], "OpenSSL has set something up, and tells threads that there are not"),
    rule("exit_group", 231, 94, &[], "the end"),
    rule("clock_gettime", 228, 113, &[], "the time, where the kernel's page (vdso(7)) does not tell it").elsewhere(),
    rule("gettimeofday", 96, 169, &[], "the same, for OpenSSL").elsewhere(),
    old("time", 201, &[], "the same").elsewhere(),
];

/// What the key process may do: less than a worker, and nothing that makes or finds a socket.
#[rustfmt::skip]
pub static KEYS: &[Rule] = &[
    rule("recvfrom", 45, 207, &[], "what workers want to be signed"),
    rule("write", 1, 64, &[], "the signature, and lines of the log"),
    old("epoll_wait", 232, &[], "waits for either"),
    rule("epoll_pwait", 281, 22, &[], "the same, where the C library has no other way").elsewhere(),
    rule("recvmsg", 47, 212, &[], "what main says, and descriptors with it"),
    rule("sendmsg", 46, 211, &[], "the answers"),
    rule("epoll_ctl", 233, 21, &[], "the desk of another worker, or of one less"),
    rule("close", 3, 57, &[], "a worker has gone"),
    rule("getpid", 39, 172, &[], "OpenSSL asks whether it was forked"),
    rule("getrandom", 318, 278, &[], "randomness for signatures"),
    rule("brk", 12, 214, &[], "memory, as the allocator takes and gives it"),
    rule("mmap", 9, 222, &[Lacks(2, PROT_EXEC), Is(3, PRIVATE_ANONYMOUS)], "the same, for thousands of keys; never of a file, never executable").elsewhere(),
    rule("munmap", 11, 215, &[], "gives it back").elsewhere(),
    old("poll", 7, &[], "asks whether the log takes a line now"),
    rule("ppoll", 271, 73, &[], "the same, where there is no poll").elsewhere(),
    rule("lseek", 8, 62, &[Is(1, 0), Is(2, SEEK_CUR)], "whether a log that is opened again is a regular file"),
    rule("fcntl", 72, 25, &[Is(1, F_GETFD)], "debug builds check that what they close is open").elsewhere(),
    rule("futex", 202, 98, &[Is(1, WAKE_PRIVATE)], "OpenSSL has set something up, and tells threads that there are not"),
    rule("exit_group", 231, 94, &[], "the end"),
    rule("clock_gettime", 228, 113, &[], "the time, where the kernel's page (vdso(7)) does not tell it").elsewhere(),
    rule("gettimeofday", 96, 169, &[], "the same, for OpenSSL").elsewhere(),
    old("time", 201, &[], "the same").elsewhere(),
];

/// What the resolver may do. Modules of the C library do it, each in its own way (nsswitch.conf(5)): what is not
/// here fails, as on a kernel that has no such call, instead of ending the process. It starts threads, and no process.
#[rustfmt::skip]
pub static RESOLVER: &[Rule] = &[
    rule("recvmsg", 47, 212, &[], "what main says; answers"),
    rule("sendmsg", 46, 211, &[], "what main hears"),
    old("epoll_wait", 232, &[], "waits for main, or for a thread"),
    rule("epoll_pwait", 281, 22, &[], "the same, where the C library has no other way").elsewhere(),
    rule("epoll_ctl", 233, 21, &[], "what main does not take at once"),
    rule("openat", 257, 56, &[], "resolv.conf(5), hosts(5) and the modules; Landlock lets files be read and no more"),
    rule("read", 0, 63, &[], "them"),
    rule("pread64", 17, 67, &[], "the same"),
    rule("fstat", 5, 80, &[], "whether they are what they were").elsewhere(),
    rule("newfstatat", 262, 79, &[], "the same"),
    rule("statx", 332, 291, &[], "the same").elsewhere(),
    rule("faccessat", 269, 48, &[], "the same").elsewhere(),
    old("access", 21, &[], "the same").elsewhere(),
    old("readlink", 89, &[], "the same").elsewhere(),
    rule("readlinkat", 267, 78, &[], "the same").elsewhere(),
    rule("lseek", 8, 62, &[], "where in a file; whether a log that is opened again is a regular one"),
    rule("close", 3, 57, &[], "files and sockets"),
    rule("mmap", 9, 222, &[], "modules, stacks of threads, memory"),
    rule("mprotect", 10, 226, &[], "the same"),
    rule("munmap", 11, 215, &[], "gives them back"),
    rule("mremap", 25, 216, &[Is(3, MAYMOVE)], "a large piece grows").elsewhere(),
    rule("madvise", 28, 233, &[Is(2, DONTNEED)], "the stack of a thread that has ended"),
    rule("brk", 12, 214, &[], "memory, as the allocator takes and gives it").elsewhere(),
    rule("socket", 41, 198, &[Is(0, INET)], "to a server of names, over IPv4"),
    rule("socket", 41, 198, &[Is(0, INET6)], "over IPv6"),
    rule("socket", 41, 198, &[Is(0, UNIX)], "to nscd(8) or another daemon of the machine's"),
    rule("socket", 41, 198, &[Is(0, NETLINK)], "which addresses the machine has, by which answers are sorted"),
    rule("bind", 49, 200, &[], "the last one"),
    rule("connect", 42, 203, &[], "all of them"),
    rule("getsockname", 51, 204, &[], "from where an address would be reached"),
    rule("getpeername", 52, 205, &[], "whom a daemon's socket belongs to").elsewhere(),
    rule("getsockopt", 55, 209, &[], "the same").elsewhere(),
    rule("setsockopt", 54, 208, &[], "that errors are told, and large answers taken"),
    rule("sendto", 44, 206, &[], "a question"),
    rule("writev", 20, 66, &[], "the same over TCP, for answers that are long").elsewhere(),
    rule("sendmmsg", 307, 269, &[], "two at once: for IPv4 and for IPv6"),
    rule("recvfrom", 45, 207, &[], "the answer"),
    old("poll", 7, &[], "waits for it; asks whether the log takes a line now"),
    rule("ppoll", 271, 73, &[], "the same").elsewhere(),
    rule("ioctl", 16, 29, &[Is(1, FIONREAD)], "how long it is"),
    rule("clone", 56, 220, &[Is(0, THREAD)], "a thread, and nothing else"),
    rule("set_robust_list", 273, 99, &[], "what a thread begins with"),
    rule("rseq", 334, 293, &[], "the same"),
    rule("sigaltstack", 131, 132, &[], "the same"),
    rule("rt_sigprocmask", 14, 135, &[], "the same"),
    rule("rt_sigaction", 13, 134, &[], "the same").elsewhere(),
    rule("sched_getaffinity", 204, 123, &[], "the same"),
    rule("prctl", 157, 167, &[Is(0, SET_NAME)], "the same").elsewhere(),
    rule("gettid", 186, 178, &[], "the same").elsewhere(),
    rule("futex", 202, 98, &[], "threads wait for each other"),
    rule("exit", 60, 93, &[], "the end of a thread"),
    rule("getpid", 39, 172, &[], "the number of a question").elsewhere(),
    rule("getrandom", 318, 278, &[], "the same"),
    rule("getuid", 102, 174, &[], "modules ask who they are").elsewhere(),
    rule("geteuid", 107, 175, &[], "the same").elsewhere(),
    rule("getgid", 104, 176, &[], "the same").elsewhere(),
    rule("getegid", 108, 177, &[], "the same").elsewhere(),
    rule("uname", 63, 160, &[], "the machine's own name").elsewhere(),
    rule("sysinfo", 99, 179, &[], "how much memory may be taken to sort").elsewhere(),
    rule("fcntl", 72, 25, &[], "flags of descriptors").elsewhere(),
    rule("write", 1, 64, &[], "lines of the log").elsewhere(),
    rule("clock_gettime", 228, 113, &[], "the time, where the kernel's page (vdso(7)) does not tell it").elsewhere(),
    rule("gettimeofday", 96, 169, &[], "the same").elsewhere(),
    old("time", 201, &[], "the same").elsewhere(),
    rule("exit_group", 231, 94, &[], "the end"),
];

/// What the connector may do: nothing that a unix socket does not need.
#[rustfmt::skip]
pub static CONNECTOR: &[Rule] = &[
    rule("recvmsg", 47, 212, &[], "what main says; what workers ask"),
    rule("socket", 41, 198, &[Is(0, UNIX), Is(1, STREAM), Is(2, 0)], "a unix socket"),
    rule("connect", 42, 203, &[], "to where a worker asks, if main has named that"),
    rule("sendmsg", 46, 211, &[], "the connection, or why there is none"),
    rule("close", 3, 57, &[], "what was handed over"),
    old("epoll_wait", 232, &[], "waits for either"),
    rule("epoll_pwait", 281, 22, &[], "the same, where the C library has no other way").elsewhere(),
    rule("epoll_ctl", 233, 21, &[], "another worker, one less, or one that takes nothing now"),
    rule("write", 1, 64, &[], "lines of the log").elsewhere(),
    old("poll", 7, &[], "asks whether the log takes a line now").elsewhere(),
    rule("ppoll", 271, 73, &[], "the same, where there is no poll").elsewhere(),
    rule("lseek", 8, 62, &[Is(1, 0), Is(2, SEEK_CUR)], "whether a log that is opened again is a regular file").elsewhere(),
    rule("fcntl", 72, 25, &[Is(1, F_GETFD)], "debug builds check that what they close is open").elsewhere(),
    rule("brk", 12, 214, &[], "memory, as the allocator takes and gives it").elsewhere(),
    rule("mmap", 9, 222, &[Lacks(2, PROT_EXEC), Is(3, PRIVATE_ANONYMOUS)], "the same, for thousands of paths; never of a file, never executable").elsewhere(),
    rule("munmap", 11, 215, &[], "gives it back").elsewhere(),
    rule("exit_group", 231, 94, &[], "the end").elsewhere(),
    rule("clock_gettime", 228, 113, &[], "the time, where the kernel's page (vdso(7)) does not tell it").elsewhere(),
];
