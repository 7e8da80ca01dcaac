//! What is tried inside a worker's sandbox: in words, the call of which it dies, the call that does it.

use std::net::SocketAddr;

use super::{act, path, socket, Act, Refusal};
use crate::sys::passing::SO_PASSRIGHTS;

const AT: i64 = libc::AT_FDCWD as i64;
pub const WRITE: i64 = (libc::PROT_READ | libc::PROT_WRITE) as i64;
const EXEC: i64 = (libc::PROT_READ | libc::PROT_EXEC) as i64;
pub const ANONYMOUS: i64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as i64;

#[rustfmt::skip]
pub fn files() -> Vec<Act> {
    vec![
        act("read a file", "openat", libc::SYS_openat, &[AT, path(c"/etc/passwd"), 0]),
        act("read it in another way", "openat2", libc::SYS_openat2, &[AT, path(c"/etc/passwd"), 0, 24]),
        act("create a file", "openat", libc::SYS_openat, &[AT, path(c"/tmp/x"), (libc::O_CREAT | libc::O_WRONLY) as i64, 0o600]),
        act("read /proc", "openat", libc::SYS_openat, &[AT, path(c"/proc/self/maps"), 0]),
        act("look at a file", "statx", libc::SYS_statx, &[AT, path(c"/etc"), 0, 0, 0]),
        act("follow a link", "readlinkat", libc::SYS_readlinkat, &[AT, path(c"/proc/self/exe"), 0, 0]),
        act("remove a file", "unlinkat", libc::SYS_unlinkat, &[AT, path(c"/tmp/x"), 0]),
        act("make a directory", "mkdirat", libc::SYS_mkdirat, &[AT, path(c"/tmp/x"), 0o700]),
        act("leave the chroot", "chroot", libc::SYS_chroot, &[path(c"/")]),
        act("go elsewhere", "fchdir", libc::SYS_fchdir, &[0]),
        act("mount", "mount", libc::SYS_mount, &[0, path(c"/"), path(c"proc"), 0, 0]),
        act("unmount", "umount2", libc::SYS_umount2, &[path(c"/"), 0]),
        act("pivot the root", "pivot_root", libc::SYS_pivot_root, &[path(c"/"), path(c"/")]),
        act("a file in memory", "memfd_create", libc::SYS_memfd_create, &[path(c"x"), 0]),
        act("a name from a handle", "open_by_handle_at", libc::SYS_open_by_handle_at, &[AT, 0, 0]),
        act("read a terminal that is standard output", "read", libc::SYS_read, &[1, 0, 0]),
        act("duplicate a descriptor", "dup", libc::SYS_dup, &[0]),
    ]
}

#[rustfmt::skip]
pub fn processes(sibling: i64) -> Vec<Act> {
    let own = std::process::id() as i64;
    vec![
        act("run a program", "execve", libc::SYS_execve, &[path(c"/bin/sh"), 0, 0]),
        act("run it in another way", "execveat", libc::SYS_execveat, &[AT, path(c"/bin/sh"), 0, 0, 0]),
        act("fork", "clone", libc::SYS_clone, &[libc::SIGCHLD as i64]),
        act("fork in another way", "clone3", libc::SYS_clone3, &[0, 0]),
        act("trace a sibling", "ptrace", libc::SYS_ptrace, &[libc::PTRACE_SEIZE as i64, sibling, 0, 0]),
        act("read a sibling's memory", "process_vm_readv", libc::SYS_process_vm_readv, &[sibling, 0, 0, 0, 0, 0]),
        act("write into it", "process_vm_writev", libc::SYS_process_vm_writev, &[sibling, 0, 0, 0, 0, 0]),
        act("take a sibling's descriptor", "pidfd_open", libc::SYS_pidfd_open, &[sibling, 0]),
        act("kill main", "kill", libc::SYS_kill, &[own, libc::SIGKILL as i64]),
        act("kill a sibling", "kill", libc::SYS_kill, &[sibling, libc::SIGKILL as i64]),
        act("signal it in another way", "tgkill", libc::SYS_tgkill, &[sibling, sibling, libc::SIGKILL as i64]),
        act("and in another", "rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, &[sibling, libc::SIGKILL as i64, 0]),
        act("change its limits", "prlimit64", libc::SYS_prlimit64, &[sibling, 7, 0, 0]),
        act("new namespaces", "unshare", libc::SYS_unshare, &[libc::CLONE_NEWUSER as i64]),
        act("others' namespaces", "setns", libc::SYS_setns, &[0, 0]),
        act("become root", "setresuid", libc::SYS_setresuid, &[0, 0, 0]),
        act("in another way", "setuid", libc::SYS_setuid, &[0]),
        act("root's group", "setresgid", libc::SYS_setresgid, &[0, 0, 0]),
        act("more groups", "setgroups", libc::SYS_setgroups, &[0, 0]),
        act("capabilities", "capset", libc::SYS_capset, &[0, 0]),
        act("be dumpable again", "prctl", libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as i64, 1]),
        act("another handler", "rt_sigaction", libc::SYS_rt_sigaction, &[libc::SIGSYS as i64, 0, 0, 8]),
        act("return from no signal", "rt_sigreturn", libc::SYS_rt_sigreturn, &[]),
        act("another filter", "seccomp", libc::SYS_seccomp, &[1, 0, 0]),
    ]
}

#[rustfmt::skip]
pub fn network() -> Vec<Act> {
    let socket = |what, family: i32, kind: i32, protocol: i64| {
        act(what, "socket", libc::SYS_socket, &[family as i64, kind as i64, protocol])
    };
    let stream = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    vec![
        act("bind", "bind", libc::SYS_bind, &[0, 0, 0]),
        act("listen", "listen", libc::SYS_listen, &[0, 1]),
        socket("a raw socket", libc::AF_INET, libc::SOCK_RAW, 1),
        socket("another protocol", libc::AF_INET, stream, 132),
        socket("a datagram socket", libc::AF_INET, libc::SOCK_DGRAM, 0),
        socket("the same over IPv6", libc::AF_INET6, libc::SOCK_DGRAM, 0),
        socket("a unix socket", libc::AF_UNIX, stream, 0),
        socket("a netlink socket", libc::AF_NETLINK, libc::SOCK_RAW, 0),
        socket("a packet socket", libc::AF_PACKET, libc::SOCK_RAW, 0),
        socket("a vsock", libc::AF_VSOCK, stream, 0),
        act("a pair of sockets", "socketpair", libc::SYS_socketpair, &[1, 1, 0, 0]),
        act("stop a listening socket", "shutdown", libc::SYS_shutdown, &[0, libc::SHUT_RD as i64]),
        act("both directions at once", "shutdown", libc::SYS_shutdown, &[0, libc::SHUT_RDWR as i64]),
        act("a filter of packets", "setsockopt", libc::SYS_setsockopt, &[0, 1, libc::SO_ATTACH_FILTER as i64, 0, 0]),
        act("a device of a socket", "setsockopt", libc::SYS_setsockopt, &[0, 1, libc::SO_BINDTODEVICE as i64, 0, 0]),
        act("a close that waits", "setsockopt", libc::SYS_setsockopt, &[0, 1, libc::SO_LINGER as i64, 0, 0]),
        act("take descriptors", "setsockopt", libc::SYS_setsockopt, &[0, 1, SO_PASSRIGHTS as i64, 0, 0]),
        act("who is there", "getsockopt", libc::SYS_getsockopt, &[0, 1, libc::SO_PEERCRED as i64, 0, 0]),
        act("type into a terminal", "ioctl", libc::SYS_ioctl, &[0, libc::TIOCSTI as i64, 0]),
        act("addresses of the machine", "ioctl", libc::SYS_ioctl, &[0, 0x8912, 0]),
        act("signals of a descriptor", "fcntl", libc::SYS_fcntl, &[0, libc::F_SETOWN as i64, 1]),
        act("a lock", "fcntl", libc::SYS_fcntl, &[0, libc::F_SETLK as i64, 0]),
    ]
}

/// What a worker needs for its work, and the key process does not.
#[rustfmt::skip]
pub fn what_workers_may() -> Vec<Act> {
    let stream = (libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as i64;
    vec![
        act("a connection", "socket", libc::SYS_socket, &[libc::AF_INET as i64, stream, 0]),
        act("the same over IPv6", "socket", libc::SYS_socket, &[libc::AF_INET6 as i64, stream, 0]),
        act("connect", "connect", libc::SYS_connect, &[0, 0, 0]),
        act("accept", "accept4", libc::SYS_accept4, &[0, 0, 0, (libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) as i64]),
        act("a pipe", "pipe2", libc::SYS_pipe2, &[0, (libc::O_NONBLOCK | libc::O_CLOEXEC) as i64]),
        act("splice", "splice", libc::SYS_splice, &[0, 0, 0, 0, 0, 0]),
        act("read a file that is open", "pread64", libc::SYS_pread64, &[0, 0, 0, 0]),
        act("read signals", "read", libc::SYS_read, &[3, 0, 0]),
    ]
}

#[rustfmt::skip]
pub fn kernel() -> Vec<Act> {
    vec![
        act("executable memory", "mmap", libc::SYS_mmap, &[0, 4096, EXEC, ANONYMOUS, -1, 0]),
        act("writable and executable", "mmap", libc::SYS_mmap, &[0, 4096, WRITE | EXEC, ANONYMOUS, -1, 0]),
        act("memory at a place", "mmap", libc::SYS_mmap, &[0, 4096, WRITE, ANONYMOUS | libc::MAP_FIXED as i64, -1, 0]),
        act("memory of a file", "mmap", libc::SYS_mmap, &[0, 4096, EXEC, libc::MAP_PRIVATE as i64, 0, 0]),
        act("memory becomes executable", "mprotect", libc::SYS_mprotect, &[0, 4096, EXEC]),
        act("with a key", "pkey_mprotect", libc::SYS_pkey_mprotect, &[0, 4096, EXEC, 0]),
        act("memory moves to a place", "mremap", libc::SYS_mremap, &[0, 4096, 4096, 3, 0]),
        act("memory merges", "madvise", libc::SYS_madvise, &[0, 4096, libc::MADV_MERGEABLE as i64]),
        act("load BPF", "bpf", libc::SYS_bpf, &[0, 0, 0]),
        act("io_uring", "io_uring_setup", libc::SYS_io_uring_setup, &[1, 0]),
        act("keyrings", "keyctl", libc::SYS_keyctl, &[0, 0]),
        act("a key", "add_key", libc::SYS_add_key, &[0, 0, 0, 0, 0]),
        act("page faults", "userfaultfd", libc::SYS_userfaultfd, &[0]),
        act("counters of the processor", "perf_event_open", libc::SYS_perf_event_open, &[0, 0, -1, -1, 0]),
        act("a module", "init_module", libc::SYS_init_module, &[0, 0, 0]),
        act("another kernel", "kexec_load", libc::SYS_kexec_load, &[0, 0, 0, 0]),
        act("reboot", "reboot", libc::SYS_reboot, &[0, 0, 0, 0]),
        act("the clock", "clock_settime", libc::SYS_clock_settime, &[0, 0]),
        act("the kernel's log", "syslog", libc::SYS_syslog, &[3, 0, 0]),
        act("another personality", "personality", libc::SYS_personality, &[0]),
        act("shared memory", "shmget", libc::SYS_shmget, &[0, 4096, 0o1600]),
        act("wait for another thread", "futex", libc::SYS_futex, &[0, 128, 0, 0, 0, 0]),
        act("sleep", "nanosleep", libc::SYS_nanosleep, &[0, 0]),
    ]
}

/// What the layers before seccomp refuse, and as what. In an empty root nothing is found, where there is none Landlock refuses.
#[rustfmt::skip]
pub fn without_filter(sibling: i64, free: SocketAddr) -> Vec<Refusal> {
    use libc::{EACCES, EAGAIN, ENOENT, EPERM};
    let refused = |what, errors: &'static [i32], number, arguments: &[i64]| {
        (what, errors, act(what, "", number, arguments).2)
    };
    let bind = move || socket::listen(free, 1).map_or(-1, |_| 0);
    vec![
        ("bind", &[EACCES], Box::new(bind)),
        refused("read a file", &[ENOENT, EACCES], libc::SYS_openat, &[AT, path(c"/etc/passwd"), 0]),
        refused("create one", &[ENOENT, EACCES], libc::SYS_openat, &[AT, path(c"x"), (libc::O_CREAT | libc::O_WRONLY) as i64, 0o600]),
        refused("kill a sibling", &[EPERM], libc::SYS_kill, &[sibling, libc::SIGKILL as i64]),
        refused("trace it", &[EPERM], libc::SYS_ptrace, &[libc::PTRACE_SEIZE as i64, sibling, 0, 0]),
        refused("fork", &[EAGAIN], libc::SYS_clone, &[libc::SIGCHLD as i64]),
        refused("become root", &[EPERM], libc::SYS_setresuid, &[0, 0, 0]),
        refused("leave the chroot", &[EPERM], libc::SYS_chroot, &[path(c"/")]),
        refused("mount", &[EPERM], libc::SYS_mount, &[0, path(c"/"), path(c"proc"), 0, 0]),
        refused("a raw socket", &[EPERM], libc::SYS_socket, &[2, libc::SOCK_RAW as i64, 1]),
    ]
}
