//! The sandbox of real workers: what the kernel says of them, what happens to one that breaks out, and what
//! happens where a part of it is missing. What it refuses is tried in `sys/sandbox/drill.rs`.

mod common;

use common::{free_address, program, signal, sozu, wait_until, Backend, Setup};
use std::process::Command;

/// The user who runs this test.
fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .expect("proc")
        .contains("\nUid:\t0\t")
}

/// A line of /proc/PID/status.
fn status(pid: u32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    rest.expect("a line")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn the_kernel_says_that_it_holds() {
    let proxy = Setup::http().top("worker_count", 2).start();
    let reply = proxy.control("sandbox");
    assert_eq!(reply.last, "ok holds=true", "{reply:?}");
    for worker in proxy.workers() {
        let pid = worker.pid;
        let facts = reply
            .data
            .iter()
            .filter(|line| line.contains(&format!(" pid={pid} ")));
        assert_eq!(facts.count(), 10, "{reply:?}");
        assert_eq!(status(pid, "Seccomp:"), "2");
        assert_eq!(status(pid, "NoNewPrivs:"), "1");
        assert_eq!(status(pid, "CapEff:"), "0".repeat(16));
        assert_eq!(status(pid, "CapPrm:"), "0".repeat(16));
        assert_eq!(status(pid, "Threads:"), "1");
        if is_root() {
            assert_eq!(status(pid, "Uid:"), "65534 65534 65534 65534");
            assert_eq!(status(pid, "Groups:"), "");
            let root = std::fs::read_link(format!("/proc/{pid}/root")).expect("its root");
            assert!(root.to_string_lossy().ends_with(" (deleted)"), "{root:?}");
            let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors");
            let files =
                descriptors.map(|fd| std::fs::read_link(fd.expect("one").path()).expect("a link"));
            let foreign = files.filter(|file| file.starts_with(std::env::temp_dir()));
            assert_eq!(foreign.count(), 0);
        }
    }
    let main = proxy.control("status").data.remove(0);
    let (held, missing) = match is_root() {
        true => ("chroot,user,landlock,seccomp", "\"\""),
        false => ("landlock,seccomp", "chroot,user"),
    };
    let said = format!(" sandbox={held} sandbox_missing={missing} ");
    assert!(main.contains(&said), "{main}");
    proxy.wait_log(&format!("workers are confined by: {held}"));
}

#[test]
fn main_keeps_of_root_what_it_needs() {
    let proxy = Setup::http().start();
    let held = u64::from_str_radix(&status(proxy.pid(), "CapPrm:"), 16).expect("a number");
    // CAP_DAC_OVERRIDE, CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT.
    let needed = [1, 5, 6, 7, 10, 18]
        .map(|bit| 1u64 << bit)
        .iter()
        .sum::<u64>();
    assert_eq!(held & !needed, 0, "{held:x}");
    assert_eq!(
        status(proxy.pid(), "CapPrm:"),
        status(proxy.pid(), "CapEff:")
    );
    if is_root() {
        assert_eq!(held, needed);
        assert_eq!(
            status(proxy.pid(), "CapBnd:"),
            status(proxy.pid(), "CapPrm:")
        );
    }
}

/// A worker does what it may not: instead of its second connect it asks for its process group.
#[test]
fn who_breaks_out_is_killed_named_counted_and_replaced() {
    let closing = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
    let backend = Backend::answering(closing);
    let inject = "inject=connect:error=EPERM:syscall=getpgrp:when=2";
    let tracing = ["-o/dev/null", "-e", "trace=connect", "-e", inject];
    let setup = Setup::http().backends(&[backend.address()]);
    let proxy = setup.traced(&tracing).start();
    let first = proxy.worker();
    assert_eq!(proxy.client().get("/").status(), 200);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").ends();
    proxy.wait_log("did what its sandbox forbids: getpgrp");
    let next = wait_until("it is replaced", || proxy.workers().pop());
    assert_ne!(next.pid, first.pid);
    let line = proxy.control("workers").data.remove(0);
    assert!(line.contains(" restarts=1 violations=1 "), "{line}");
    // The next one goes on.
    assert_eq!(proxy.client().get("/").status(), 200);
}

/// SIGSYS from outside is a violation as well: whose doing it was cannot be told.
#[test]
fn a_signal_of_the_sandbox() {
    let proxy = Setup::http().start();
    assert!(signal(proxy.worker().pid, "SYS"));
    proxy.wait_log("did what its sandbox forbids: a call that no table has");
}

// ---- where a part is missing ------------------------------------------

/// A kernel without Landlock, or without seccomp.
const WITHOUT: [(&str, &str); 2] = [
    ("landlock", "inject=landlock_create_ruleset:error=ENOSYS"),
    ("seccomp", "inject=seccomp:error=EINVAL"),
];

#[test]
fn a_kernel_without_a_part_of_it() {
    for (part, inject) in WITHOUT {
        let tracing = ["-o/dev/null", "-e", inject];
        let mut setup = Setup::http().traced(&tracing);
        let config = setup.write(free_address()).display().to_string();
        let mut strace = vec!["-f", "-qq"];
        strace.extend(tracing);
        let output = Command::new("strace")
            .args(strace)
            .arg(program("sozu"))
            .args(["start", "-c", &config])
            .output()
            .expect("strace");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let names_it = format!("workers need {part} for their sandbox");
        assert!(said.contains(&names_it), "{said}");
        let advice = format!("sandbox_allow_missing = [\"{part}\"]");
        assert!(said.contains(&advice), "{said}");

        setup = setup.top("sandbox_allow_missing", format!("[{part:?}]"));
        let proxy = setup.start();
        proxy.wait_log("workers are not confined by: ");
        let main = proxy.control("status").data.remove(0);
        let (_, missing) = main.split_once(" sandbox_missing=").expect("a part");
        let missing = missing.split(' ').next().expect("a word");
        assert!(missing.split(',').any(|word| word == part), "{main}");
        assert_eq!(proxy.control("sandbox").last, "ok holds=true");
    }
}

#[test]
fn what_is_wrong_with_the_user() {
    let bad = match is_root() {
        true => [
            ("user", "\"root\"", "not be confined"),
            ("user", "\"no-such\"", "there is no \"no-such\""),
        ],
        false => [
            ("user", "\"nobody\"", "for a sozu that root starts"),
            ("group", "\"adm\"", "for a sozu that root starts"),
        ],
    };
    for (key, value, why) in bad {
        let setup = Setup::http().top(key, value);
        let config = setup.write(free_address()).display().to_string();
        let output = sozu(&["start", "-c", &config]);
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(why), "{said}");
    }
    let setup = Setup::http().top("sandbox_allow_missing", "[\"fence\"]");
    let config = setup.write(free_address()).display().to_string();
    let said = sozu(&["check", "-c", &config]).stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(
        said.contains("\"fence\" is no part of the sandbox"),
        "{said}"
    );
}
