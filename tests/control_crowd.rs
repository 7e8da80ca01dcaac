//! Many control clients, and large ones: what they may hold together.

mod common;

use common::{Control, Setup};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

const MIB: usize = 1024 * 1024;

fn rss_kib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.expect("a number")
}

/// A line that means little and is long.
fn padded(line: &str, bytes: usize) -> Vec<u8> {
    let mut text = vec![b' '; bytes];
    text[..line.len()].copy_from_slice(line.as_bytes());
    text.push(b'\n');
    text
}

#[test]
fn a_transaction_has_a_size() {
    let proxy = Setup::http().start();
    let mut client = proxy.steer();
    client.ok("begin");
    for n in 0..64 {
        client.send(padded(&format!("cluster add id=c{n}"), MIB));
        assert!(client.reply().is_ok(), "{n}");
    }
    let said = client.refused("cluster add id=more", "limit");
    assert!(said.contains("use several"), "{said}");
    // Of another transaction there may be as much, then all together are too many.
    let mut second = proxy.steer();
    second.ok("begin");
    for n in 0..64 {
        second.send(padded(&format!("cluster add id=d{n}"), MIB));
        assert!(second.reply().is_ok(), "{n}");
    }
    let mut third = proxy.steer();
    third.ok("begin");
    let said = third.refused("cluster add id=e", "limit");
    assert!(said.contains("try again later"), "{said}");
    third.refused("commit", "limit");
    // Outside of a transaction there is room, and so is once one is over.
    third.ok("cluster add id=e");
    client.refused("commit", "limit");
    third.ok("begin");
    third.ok("cluster add id=f");
    third.ok("commit");
    second.ok("commit");
    assert_eq!(third.ok("cluster list").data.len(), 66);
}

/// Unfinished lines are bounded together; who loses its own is told, and goes on.
#[test]
fn halves_of_long_lines() {
    let proxy = Setup::http().start();
    let before = rss_kib(proxy.pid());
    let mut clients: Vec<Control> = (0..64).map(|_| proxy.steer()).collect();
    for client in &mut clients {
        client.send(vec![b'x'; MIB - 1]);
        assert!(proxy.steer().ok("ping").data.is_empty());
    }
    let grown = rss_kib(proxy.pid()) - before;
    assert!(grown < 32 * 1024, "{grown} KiB");
    let mut given_up = 0;
    for client in &mut clients {
        client.send("\nping\n");
        match client.reply().code() {
            "limit" => given_up += 1,
            code => assert_eq!(code, "unknown"),
        }
        assert!(client.reply().is_ok());
    }
    assert!(given_up >= 32, "{given_up}");
    let kept = rss_kib(proxy.pid()) - before;
    assert!(kept < 16 * 1024, "{kept} KiB");
}

/// Slow readers of one difference, which is in memory once.
#[test]
fn differences_that_nobody_reads() {
    let proxy = Setup::http().start();
    let mut client = proxy.steer();
    client.ok("begin");
    for n in 0..2000 {
        let answer = "x".repeat(1000);
        client.ok(&format!("cluster add id=c{n} answer_404={answer}"));
    }
    client.ok("commit");
    let before = rss_kib(proxy.pid());
    let mut clients: Vec<Control> = (0..100).map(|_| proxy.steer()).collect();
    for client in &mut clients {
        client.send("state diff\n");
    }
    client.ok("ping");
    let grown = rss_kib(proxy.pid()).saturating_sub(before);
    assert!(grown < 32 * 1024, "{grown} KiB");
    for client in &mut clients {
        assert_eq!(client.reply().data.len(), 2000);
    }
}

/// Who connects again and again holds nobody up.
#[test]
fn a_crowd_at_the_door() {
    let proxy = Setup::http().start();
    let socket = proxy.path("command.sock");
    let mut control = proxy.steer();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let _there = UnixStream::connect(&socket);
                }
            });
        }
        // Of many that are let in while it asks, no more than a few come before it.
        let start = Instant::now();
        let asked = (0..500)
            .take_while(|_| control.send("ping\n").try_reply().is_ok())
            .count();
        over.store(true, Relaxed);
        assert_eq!(asked, 500, "after {:?}", start.elapsed());
    });
}

/// Those who listen and do not read, one after another: each has missed something else.
#[test]
fn events_that_nobody_reads() {
    let proxy = Setup::http().start();
    let mut client = proxy.steer();
    let answers: Vec<String> = [400, 404, 405, 408, 413, 414, 417, 421, 429, 431]
        .iter()
        .map(|status| format!("answer_{status}={}", "x".repeat(12_000)))
        .collect();
    let change = |n: usize| format!("cluster update id=c{} {}", n % 2, answers.join(" "));
    client.ok("cluster add id=c0");
    client.ok("cluster add id=c1");
    client.ok(&change(0));
    let before = rss_kib(proxy.pid());
    let mut listeners: Vec<Control> = Vec::new();
    for n in 0..600 {
        if n % 30 == 0 {
            let mut listener = proxy.steer();
            listener.send("ping\nevents\n");
            assert!(listener.reply().is_ok());
            listeners.push(listener);
        }
        client.ok(&change(n));
    }
    // 72 MiB of events.
    let grown = rss_kib(proxy.pid()).saturating_sub(before);
    assert!(grown < 56 * 1024, "{grown} KiB");
}
