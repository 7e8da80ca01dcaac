//! Whoever has taken over the resolver: what its table lacks fails, and what it allows Landlock bounds.

use super::super::table::RESOLVER;
use super::*;

const WRITES: i64 = (libc::O_CREAT | libc::O_WRONLY) as i64;

type Try = (&'static str, i32, Box<dyn Fn() -> i64>);

fn refused(what: &'static str, number: libc::c_long, arguments: &[i64]) -> Try {
    let (what, _, act) = act(what, "", number, arguments);
    (what, libc::ENOSYS, act)
}

fn tries(sibling: i64, written: i64) -> Vec<Try> {
    let here = i64::from(libc::AT_FDCWD);
    let (sh, hosts) = (path(c"/bin/sh"), path(c"/etc/hosts"));
    let (kill, none) = (i64::from(libc::SIGKILL), 0);
    let fork = i64::from(libc::SIGCHLD);
    let (_, _, write) = act("", "", libc::SYS_openat, &[here, written, WRITES, 0o600]);
    let bind = || {
        let any = "127.0.0.1:0".parse().expect("an address");
        match socket::listen(any, 1) {
            Ok(_) => 0,
            Err(e) => {
                assert_eq!(e.raw_os_error(), Some(libc::EACCES), "{e}");
                -1
            }
        }
    };
    let mut tries: Vec<Try> = vec![
        ("make a file", libc::EACCES, write),
        ("accept connections", libc::EACCES, Box::new(bind)),
    ];
    tries.extend([
        refused("remove a file", libc::SYS_unlinkat, &[here, hosts, 0]),
        refused("change rights", libc::SYS_fchmodat, &[here, hosts, 0o777]),
        refused("run a program", libc::SYS_execve, &[sh, none, none]),
        refused(
            "run it otherwise",
            libc::SYS_execveat,
            &[here, sh, none, none, 0],
        ),
        refused("start a process", libc::SYS_clone, &[fork]),
        refused("start it otherwise", libc::SYS_clone3, &[none, 0]),
        refused("end another process", libc::SYS_kill, &[sibling, kill]),
        refused(
            "trace it",
            libc::SYS_ptrace,
            &[i64::from(libc::PTRACE_ATTACH), sibling],
        ),
        refused(
            "read its memory",
            libc::SYS_process_vm_readv,
            &[sibling, 0, 0, 0, 0, 0],
        ),
        refused("take its descriptors", libc::SYS_pidfd_open, &[sibling, 0]),
        refused(
            "see every packet",
            libc::SYS_socket,
            &[i64::from(libc::AF_PACKET), 3, 0],
        ),
        refused("become root", libc::SYS_setresuid, &[0, 0, 0]),
        refused("mount", libc::SYS_mount, &[hosts, hosts, none, 4096, none]),
        refused("another root", libc::SYS_chroot, &[hosts]),
        refused("a namespace", libc::SYS_unshare, &[0x1000_0000]),
        refused("a program in the kernel", libc::SYS_bpf, &[0, none, 0]),
        refused(
            "a queue past the filter",
            libc::SYS_io_uring_setup,
            &[8, none],
        ),
        refused(
            "count its events",
            libc::SYS_perf_event_open,
            &[none, 0, -1, -1, 0],
        ),
        refused("keys of the kernel", libc::SYS_keyctl, &[0, 0]),
        refused("hold up the kernel", libc::SYS_userfaultfd, &[0]),
    ]);
    tries
}

#[test]
fn what_a_hijacked_resolver_would_try() {
    let name = format!("/tmp/sozu-drill-{}", std::process::id());
    let written = std::ffi::CString::new(name.clone()).expect("a path");
    for starter in starters() {
        let sibling = Sibling::of(*starter);
        for (what, errno, act) in tries(sibling.0.into(), written.as_ptr() as i64) {
            let plan = plan(*starter, Some(RESOLVER)).with_files();
            let end = confined(*starter, plan, &act);
            assert_eq!(end, End::Refused(errno), "{what}, {starter:?}");
        }
        assert!(sibling.lives());
        assert!(!std::path::Path::new(&name).exists());
    }
}

/// It is there for that.
#[test]
fn the_resolver_reads_files_and_starts_threads() {
    for starter in starters() {
        let act = || {
            let read = std::fs::read("/etc/passwd").is_ok_and(|text| !text.is_empty());
            let thread = std::thread::spawn(|| 1).join().is_ok_and(|one| one == 1);
            if read && thread {
                0
            } else {
                -1
            }
        };
        let plan = plan(*starter, Some(RESOLVER)).with_files();
        assert_eq!(confined(*starter, plan, &act), End::Done);
    }
}
