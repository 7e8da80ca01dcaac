//! A control client can never stop the proxy: whatever it sends, does not send
//! or does not read, others are served, and memory has its bounds.

mod common;

use common::{ok, pattern, signal, wait_until, Backend, Broken, Control, Proxy, Setup};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// As in `limits`.
const LINE_BYTES_MAX: usize = 1024 * 1024;
const CLIENTS_MAX: usize = 128;

fn before() -> Proxy {
    Setup::http().start()
}

/// A proxy whose `state dump` has about that many bytes.
fn with_state(bytes: usize) -> Proxy {
    let proxy = before();
    let mut client = proxy.steer();
    let line = |n| format!("cluster add id=c{n} answer_404={}", "x".repeat(9_000));
    let lines: Vec<String> = (0..bytes / 9_000).map(line).collect();
    client.transact(&lines);
    proxy
}

/// Kilobytes of memory of a process.
fn rss_kb(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    words.and_then(|kb| kb.parse().ok()).expect("VmRSS")
}

#[test]
fn the_socket_is_for_its_owner_alone() {
    let proxy = before();
    let metadata = std::fs::metadata(proxy.path("command.sock")).expect("the socket");
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_line_that_is_too_long() {
    let proxy = before();
    let mut client = proxy.steer();
    let mut bytes = vec![b'x'; LINE_BYTES_MAX * 3];
    bytes.extend_from_slice(b"\nping\n");
    client.send(bytes);
    let refused = client.reply();
    assert_eq!(refused.code(), "syntax", "{refused:?}");
    assert!(
        refused.last.contains(&LINE_BYTES_MAX.to_string()),
        "{refused:?}"
    );
    assert!(client.reply().is_ok(), "the next line is a line again");
    // The longest that is none too long: it is understood, and refused for what it says.
    let head = "cluster add id=";
    let name = "y".repeat(LINE_BYTES_MAX - head.len());
    client.refused(&format!("{head}{name}"), "invalid");
    client.refused(&format!("{head}{name}y"), "syntax");
    client.ok("ping");
}

#[test]
fn binary_garbage() {
    let proxy = before();
    let mut client = proxy.steer();
    let mut bytes = pattern(100_000);
    bytes.extend_from_slice(b"\n\0\n\xff\xfe\nping\n");
    client.send_meanwhile(bytes);
    let mut refused = 0;
    loop {
        let reply = client.reply();
        if reply.is_ok() {
            break;
        }
        assert!(["syntax", "unknown"].contains(&reply.code()), "{reply:?}");
        assert!(reply.last.len() < 5_000, "{} bytes", reply.last.len());
        refused += 1;
    }
    assert!(refused > 100, "only {refused} lines were refused");
    client.ok("ping");
}

#[test]
fn lines_as_other_systems_end_them() {
    let proxy = before();
    let mut client = proxy.steer();
    client.send("\n\r\n  \nping\r\n \tping\n");
    assert!(client.reply().is_ok(), "CR LF");
    assert_eq!(client.reply().code(), "syntax", "a tab is no space");
    client.ok("   ping  ");
    assert!(client.send("\n".repeat(1_000) + "ping\n").reply().is_ok());
}

#[test]
fn half_a_line_and_then_silence() {
    let proxy = before();
    let mut silent: Vec<Control> = (0..20).map(|_| proxy.steer()).collect();
    for client in &mut silent {
        client.send("pi");
    }
    proxy.steer().ok("ping");
    for client in &mut silent {
        client.silent_for(Duration::from_millis(5));
        assert!(client.send("ng\n").reply().is_ok());
    }
}

#[test]
fn byte_by_byte() {
    let proxy = before();
    let mut client = proxy.steer();
    for byte in b"cluster add id=a\ncluster list\nping\n" {
        client.send([*byte]);
        std::thread::yield_now();
    }
    assert!(client.reply().is_ok());
    assert_eq!(client.reply().data.len(), 1);
    assert!(client.reply().is_ok());
}

/// Replies come in the order of the lines, whatever their length.
#[test]
fn pipelined() {
    let proxy = with_state(100_000);
    let dump = proxy.steer().dump();
    let mut client = proxy.steer();
    let lines = "state dump\nversion\ncluster add id=z\ncluster remove id=z\nfoo\nping\n";
    client.send_meanwhile(lines.repeat(30).into_bytes());
    for _ in 0..30 {
        assert!(client.reply().data == dump, "the dump");
        assert!(client.reply().last.starts_with("ok version="));
        assert!(client.reply().last.contains("changes=1"));
        assert!(client.reply().last.contains("changes=1"));
        assert_eq!(client.reply().code(), "unknown");
        assert_eq!(client.reply().last, "ok");
    }
}

/// Long answers to lines that came at once, with nothing sent after them.
#[test]
fn pipelined_and_nothing_more() {
    let proxy = with_state(100_000);
    for finishes in [false, true] {
        let mut client = proxy.steer();
        client.send("state dump\nstate dump\nstate dump\nping\n");
        if finishes {
            client.finish();
        }
        for _ in 0..3 {
            assert!(client.reply().data.len() > 10);
        }
        assert_eq!(client.reply().last, "ok");
        if finishes {
            assert_eq!(client.line(), Err(Broken::Eof));
        }
    }
}

/// Done with asking, while what was asked is not done yet.
#[test]
fn a_half_close_with_an_answer_pending() {
    let proxy = before();
    let worker = proxy.worker().pid;
    let mut client = proxy.steer();
    assert!(signal(worker, "STOP"));
    client.send("cluster add id=a\nping\n");
    client.finish();
    client.silent_for(Duration::from_millis(100));
    assert!(signal(worker, "CONT"));
    assert!(client.reply().last.contains("changes=1"));
    assert_eq!(client.reply().last, "ok");
    assert_eq!(client.line(), Err(Broken::Eof));
}

#[test]
fn a_client_that_vanishes() {
    let proxy = before();
    let mut other = proxy.steer();
    // Inside a transaction: it is forgotten.
    let mut client = proxy.steer();
    client.ok("begin");
    client.ok("cluster add id=a");
    drop(client);
    // While its commit is pending: it is done all the same.
    let worker = proxy.worker().pid;
    assert!(signal(worker, "STOP"));
    let mut client = proxy.steer();
    client.send("cluster add id=b\n");
    wait_until("the change is on its way", || {
        (other.ok("state stats").number("clusters") == 1).then_some(())
    });
    drop(client);
    other.ok("ping");
    assert!(signal(worker, "CONT"));
    other.ok("cluster add id=c");
    let clusters = other.ok("cluster list").data;
    let ids: Vec<&str> = clusters.iter().map(|line| &line[..16]).collect();
    assert_eq!(ids, ["cluster add id=b", "cluster add id=c"]);
    assert_eq!(proxy.worker().pid, worker);
}

/// Beyond the bound a client is told so; the others go on.
#[test]
fn a_thousand_connections() {
    let proxy = before();
    let mut first = proxy.steer();
    first.ok("ping");
    // Each is answered once: who came before and is gone takes no place any more.
    let mut silent: Vec<Control> = Vec::new();
    for _ in 1..CLIENTS_MAX {
        silent.push(wait_until("a place", || {
            let mut client = proxy.steer();
            let reply = client.send("ping\n").try_reply().ok()?;
            reply.is_ok().then_some(client)
        }));
    }
    let mut late: Vec<Control> = Vec::new();
    for _ in 0..400 {
        late.push(proxy.steer());
    }
    for client in &mut late {
        let refused = client.reply();
        assert_eq!(refused.code(), "limit", "{refused:?}");
        assert_eq!(client.line(), Err(Broken::Eof));
    }
    for _ in 0..500 {
        assert_eq!(proxy.steer().reply().code(), "limit");
    }
    first.ok("cluster add id=a");
    silent.pop();
    wait_until("there is room again", || {
        let mut client = proxy.steer();
        let reply = client.send("ping\n").try_reply().ok()?;
        reply.is_ok().then_some(())
    });
}

/// Who asks for much and reads nothing: nobody else waits, and it costs little.
#[test]
fn readers_that_never_read() {
    let proxy = with_state(4_000_000);
    let mut other = proxy.steer();
    let dump = other.dump();
    let before_kb = rss_kb(proxy.pid());
    let mut deaf: Vec<Control> = (0..60).map(|_| proxy.steer()).collect();
    for client in &mut deaf {
        client.send("state dump\ncluster list\n".repeat(50));
    }
    let start = Instant::now();
    for n in 0..50 {
        other.ok(&format!("cluster add id=n{n}"));
        other.ok("ping");
    }
    let took = start.elapsed();
    let grown_kb = rss_kb(proxy.pid()).saturating_sub(before_kb);
    assert!(took < Duration::from_secs(5), "others wait: {took:?}");
    assert!(grown_kb < 60_000, "main has grown by {grown_kb} kB");
    // What was asked is still answered, as it was when it was asked.
    let reply = deaf[7].reply();
    let common = reply.data.iter().filter(|line| dump.contains(line)).count();
    assert_eq!((reply.code(), common), ("ok", dump.len()));
    drop(deaf);
    other.ok("ping");
}

/// A listener to events that reads gets all of them, however many come at once.
#[test]
fn many_events_at_once() {
    let proxy = before();
    let mut listener = proxy.steer();
    listener.send("events\nping\n").reply();
    let mut client = proxy.steer();
    let lines: Vec<String> = (0..5_000).map(|n| format!("cluster add id=c{n}")).collect();
    let reader = std::thread::spawn(move || {
        let events = (0..5_000).map(|_| listener.line().expect("an event"));
        let events: Vec<String> = events.collect();
        (listener, events)
    });
    client.transact(&lines);
    let (_listener, events) = reader.join().expect("all events");
    for (n, event) in events.iter().enumerate() {
        assert!(event.contains(&format!("id=c{n} ")), "{n}: {event}");
    }
}

/// A listener to events that never reads costs little, and is told what it missed.
#[test]
fn events_that_nobody_reads() {
    let proxy = before();
    let mut deaf = proxy.steer();
    deaf.send("events\nping\n").reply();
    let mut client = proxy.steer();
    let answer = "x".repeat(12_000);
    let before_kb = rss_kb(proxy.pid());
    let mut sent = String::new();
    for _ in 0..1_500 {
        sent += &format!("cluster add id=c answer_404={answer}\ncluster remove id=c\n");
    }
    client.send_meanwhile(sent.into_bytes());
    for _ in 0..3_000 {
        assert!(client.reply().is_ok());
    }
    let grown_kb = rss_kb(proxy.pid()).saturating_sub(before_kb);
    assert!(grown_kb < 30_000, "main has grown by {grown_kb} kB");
    let mut told = 0;
    let missed = loop {
        let line = deaf.line().expect("an event");
        if line.contains("kind=missed") {
            break line;
        }
        told += 1;
    };
    let count = missed
        .rsplit('=')
        .next()
        .and_then(|n| n.parse::<i32>().ok());
    assert_eq!(told + count.expect("a count"), 3_000, "{missed}");
    client.ok("cluster add id=last");
    assert!(deaf.line().expect("an event").contains("id=last"));
}

/// Traffic does not notice a client that keeps main busy.
#[test]
fn traffic_goes_on() {
    let backend = Backend::answering(ok("here"));
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut client = proxy.client();
    let mut busy = proxy.steer();
    busy.send_meanwhile("help\n".repeat(2_000).into_bytes());
    for _ in 0..200 {
        assert_eq!(client.get("/").text(), "here");
    }
    for _ in 0..2_000 {
        assert!(busy.reply().is_ok());
    }
}
