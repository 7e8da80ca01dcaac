//! `connections list` and `connections kill` on the real binary: every
//! connection is shown once, with what it does, and ends when it is told to.

mod common;

use common::{ok, signal, wait_until, Backend, Broken, Control, Gate, Peer, Proxy, Reply, Setup};

/// The value of a key on a data line; quotes stay.
fn value<'l>(line: &'l str, key: &str) -> Option<&'l str> {
    let start = format!(" {key}=");
    let (_, behind) = line.split_once(&start)?;
    match behind.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => behind.split(' ').next(),
    }
}

fn ids(reply: &Reply) -> Vec<&str> {
    let ids = reply.data.iter().map(|line| value(line, "id"));
    ids.map(|id| id.expect("an id")).collect()
}

/// The line about the connection of that client, once it is in that state.
#[track_caller]
fn line_about(control: &mut Control, client: &Peer, state: &str) -> String {
    let own = client.local().to_string();
    wait_until(&format!("{own} is {state}"), || {
        let all = control.ok("connections list").data;
        let is_it = |line: &String| {
            value(line, "client") == Some(&own) && value(line, "state") == Some(state)
        };
        all.into_iter().find(is_it)
    })
}

/// A client that has had an answer, and is idle.
#[track_caller]
fn idle(proxy: &Proxy) -> Peer {
    let mut client = proxy.client();
    assert_eq!(client.get("/").status(), 200);
    client
}

#[test]
fn every_phase_is_told() {
    let gate = Gate::default();
    let held = gate.clone();
    let backend = Backend::scripted(move |peer, _| loop {
        let request = peer.request()?;
        if request.target().contains("/slow") {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            held.pass();
            peer.send("world");
        } else {
            peer.send(ok("ok"));
        }
    });
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    assert_eq!(control.ok("connections list").data.len(), 0);
    let idle = idle(&proxy);
    let mut begun = proxy.client();
    begun.send("GET /half HTTP/1.1\r\nHost:");
    let mut slow = proxy.client();
    slow.send("GET /slow?a=\"b\" HTTP/1.1\r\nHost: example.com\r\n\r\n");
    slow.head();

    let line = line_about(&mut control, &slow, "running");
    let (own, address) = (proxy.address().to_string(), backend.address().to_string());
    for (key, wanted) in [
        ("worker", "0"),
        ("listener", own.as_str()),
        ("cluster", "main"),
        ("backend", "main-0"),
        ("address", address.as_str()),
        ("age_s", "0"),
    ] {
        assert_eq!(value(&line, key), Some(wanted), "{line}");
    }
    assert!(
        line.ends_with("request=\"GET /slow?a=\\\"b\\\"\""),
        "{line}"
    );
    assert_ne!(value(&line, "bytes_up"), Some("0"), "{line}");
    assert_ne!(value(&line, "bytes_down"), Some("0"), "{line}");
    let id = value(&line, "id").expect("an id");
    let pid = proxy.worker().pid.to_string();
    assert_eq!(id.split('.').next(), Some(pid.as_str()));

    let line = line_about(&mut control, &begun, "head");
    assert_eq!(value(&line, "request"), None, "{line}");
    let line = line_about(&mut control, &idle, "idle");
    for key in ["cluster", "backend", "address", "request"] {
        assert_eq!(value(&line, key), None, "{line}");
    }
    check_keys(&mut control, &own, id);
    gate.admit(1);
}

/// Connections are found by each key; one of three has a request.
#[track_caller]
fn check_keys(control: &mut Control, own: &str, id: &str) {
    for (keys, wanted) in [
        (format!("id={id}"), 1),
        ("id=1.0.0".into(), 0),
        ("worker=0".into(), 3),
        ("worker=1".into(), 0),
        (format!("listener={own}"), 3),
        ("listener=127.0.0.1:1".into(), 0),
        ("cluster=main".into(), 1),
        ("cluster=other".into(), 0),
        ("backend=main-0 cluster=main".into(), 1),
        ("backend=main-1".into(), 0),
        ("client=127.0.0.1".into(), 3),
        ("client=10.0.0.0/8,127.0.0.0/8".into(), 3),
        ("client=127.0.0.2".into(), 0),
        ("older=3600".into(), 0),
    ] {
        let reply = control.ok(&format!("connections list {keys}"));
        assert_eq!(reply.data.len(), wanted, "{keys}");
    }
}

/// Three pages' worth, over two workers, of which one has taken over from another.
#[test]
fn many_come_page_by_page() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().top("worker_count", 2);
    let proxy = proxy.backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let early: Vec<Peer> = (0..100).map(|_| idle(&proxy)).collect();
    control.ok("worker restart id=0");
    let late: Vec<Peer> = (0..500).map(|_| proxy.client()).collect();
    wait_until("all are accepted", || {
        let workers = proxy.control("workers").workers();
        let carried: usize = workers.iter().map(|worker| worker.connections).sum();
        (carried == early.len() + late.len()).then_some(())
    });
    let reply = control.ok("connections list");
    let mut clients: Vec<&str> = reply
        .data
        .iter()
        .map(|line| value(line, "client").expect("a client"))
        .collect();
    clients.sort_unstable();
    let own = early.iter().chain(&late).map(|peer| peer.local());
    let mut wanted: Vec<String> = own.map(|address| address.to_string()).collect();
    wanted.sort_unstable();
    assert_eq!(clients, wanted);
    let mut all = ids(&reply);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 600);
    let pids = all.iter().map(|id| id.split('.').next());
    let pids: std::collections::BTreeSet<_> = pids.collect();
    assert_eq!(pids.len(), 2, "two workers, of whom one took over");
    // A kill walks pages too.
    let reply = control.ok("connections kill client=127.0.0.1");
    assert_eq!(reply.number("killed"), 600);
    for mut peer in early.into_iter().chain(late) {
        peer.ends();
    }
    assert_eq!(control.ok("connections list").data.len(), 0);
}

/// Whoever asks and does not read is not waited for, and costs others nothing.
#[test]
fn a_client_that_does_not_read() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut peers: Vec<Peer> = (0..300).map(|_| proxy.client()).collect();
    let mut control = proxy.steer();
    wait_until("all are accepted", || {
        (proxy.worker().connections == peers.len()).then_some(())
    });
    let mut deaf: Vec<Control> = (0..40).map(|_| proxy.steer()).collect();
    for client in &mut deaf {
        client.send("connections list\n".repeat(200));
    }
    let before = proxy.worker();
    assert_eq!(control.ok("connections list").data.len(), 300);
    assert_eq!(peers[0].get("/").status(), 200);
    let resident = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let words = line.expect("VmRSS").split_whitespace().nth(1);
        words
            .and_then(|kib| kib.parse::<usize>().ok())
            .expect("KiB")
    };
    assert!(resident(proxy.pid()) < 64 * 1024, "main grows");
    assert!(resident(before.pid) < 64 * 1024, "the worker grows");
    // One of them reads after all, the others go away in the middle.
    let mut late = deaf.pop().expect("one");
    drop(deaf);
    for _ in 0..200 {
        assert_eq!(late.reply().data.len(), 300);
    }
    assert_eq!(proxy.worker().pid, before.pid);
    let reply = control.ok("connections kill worker=0");
    assert_eq!(reply.number("killed"), 300);
    peers.iter_mut().for_each(Peer::ends);
}

#[test]
fn a_running_download_is_cut() {
    let backend = Backend::scripted(|peer, _| {
        peer.request()?;
        // Much at once: it goes through a pipe.
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        peer.send(vec![b'x'; 500_000]);
        peer.request().map(drop)
    });
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let (mut control, mut watcher) = (proxy.steer(), proxy.steer());
    // `events` has no answer; what comes behind it does.
    watcher.send("events\nping\n").reply();
    let mut client = proxy.client();
    client.send("GET /big HTTP/1.1\r\nHost: example.com\r\n\r\n");
    client.head();
    client.exactly(500_000).expect("the first part");
    let line = line_about(&mut control, &client, "running");
    let id = value(&line, "id").expect("an id");
    let kill = format!("connections kill id={id}");
    assert_eq!(control.ok(&kill).last, "ok killed=1");
    assert_eq!(client.rest().1, Broken::Reset);
    assert_eq!(backend.wait_end(0), Broken::Reset);
    let line = proxy.wait_access(1, "GET /big").remove(0);
    assert!(line.ends_with(" proxy_killed"), "{line}");
    let line = proxy.wait_log(&format!("{kill}, by uid "));
    assert!(line.ends_with(": 1 closed"), "{line}");
    let event = watcher.line().expect("an event");
    let wanted = format!(" kind=kill command=\"{kill}\" killed=1");
    assert!(event.ends_with(&wanted), "{event}");
    // The same id never means another connection.
    assert_eq!(control.ok(&kill).last, "ok killed=0");
    let mut next = proxy.client();
    next.send("GET /next HTTP/1.1\r\nHost: example.com\r\n\r\n")
        .head();
    assert_eq!(control.ok(&kill).last, "ok killed=0");
}

#[test]
fn an_idle_connection_is_closed_and_others_stay() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let (mut one, mut other) = (idle(&proxy), idle(&proxy));
    let line = line_about(&mut control, &one, "idle");
    let id = value(&line, "id").expect("an id");
    control.ok(&format!(
        "connections kill id={id} client=127.0.0.1 worker=0"
    ));
    assert_eq!(one.end(), Broken::Eof);
    assert_eq!(other.get("/").status(), 200);
    for nothing in ["cluster=none", "worker=7", "client=::1", "older=3600"] {
        let reply = control.ok(&format!("connections kill {nothing}"));
        assert_eq!(reply.last, "ok killed=0", "{nothing}");
    }
    assert_eq!(other.get("/").status(), 200);
    let what = control.refused("connections kill", "invalid");
    assert!(what.contains("every connection would be meant"), "{what}");
    assert_eq!(other.get("/").status(), 200);
}

#[test]
fn a_tunnel_is_cut_on_both_sides() {
    let backend = Backend::scripted(|peer, _| peer.request().map(drop));
    let proxy = Setup::tcp().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let mut client = proxy.client();
    client.send("GET /half");
    backend.wait_bytes(0, 9);
    let line = line_about(&mut control, &client, "tunnel");
    assert_eq!(value(&line, "bytes_up"), Some("9"), "{line}");
    assert_eq!(value(&line, "backend"), Some("main-0"), "{line}");
    let reply = control.ok("connections kill backend=main-0 cluster=main");
    assert_eq!(reply.number("killed"), 1);
    assert_eq!(client.end(), Broken::Reset);
    assert_eq!(backend.wait_end(0), Broken::Reset);
    let line = proxy.wait_access(1, "proxy_killed").remove(0);
    assert!(line.contains(" main main-0 "), "{line}");
}

/// Of a kill whose client does not wait for its end is told as well.
#[test]
fn a_kill_is_broken_off() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut watcher = proxy.steer();
    watcher.send("events\nping\n").reply();
    let mut client = idle(&proxy);
    let pid = proxy.worker().pid;
    signal(pid, "STOP");
    let mut gone = proxy.steer();
    gone.send("connections kill worker=0\n");
    drop(gone);
    let event = watcher.line().expect("an event");
    let wanted = " kind=kill command=\"connections kill worker=0\" killed=0";
    assert!(event.ends_with(wanted), "{event}");
    proxy.wait_log("who is gone: broken off, at least 0 closed");
    signal(pid, "CONT");
    // The page that it was asked for is done.
    assert_eq!(client.end(), Broken::Eof);
    let mut control = proxy.steer();
    assert_eq!(control.ok("connections list").data.len(), 0);
}

/// What it held is given back: as many again find room.
#[test]
fn buffers_of_the_killed_are_used_again() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().top("max_buffers", 8);
    let proxy = proxy.backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    for _ in 0..8 {
        let mut begun: Vec<Peer> = (0..4).map(|_| proxy.client()).collect();
        for client in &mut begun {
            client.send("GET / HTTP/1.1\r\nHo");
            line_about(&mut control, client, "head");
        }
        assert_eq!(
            control
                .ok("connections kill older=1 worker=1")
                .number("killed"),
            0
        );
        assert_eq!(control.ok("connections kill worker=0").number("killed"), 4);
        begun.iter_mut().for_each(Peer::ends);
    }
    assert_eq!(idle(&proxy).get("/").status(), 200);
}

/// A worker that is stuck, or dies meanwhile, is left out; the others are asked.
#[test]
fn a_worker_dies_in_the_middle() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().top("worker_count", 2);
    let proxy = proxy.backends(&[backend.address()]).start();
    let peers: Vec<Peer> = (0..40).map(|_| idle(&proxy)).collect();
    let workers = proxy.workers();
    let (stuck, other) = (&workers[0], &workers[1]);
    signal(stuck.pid, "STOP");
    let mut lists: Vec<Control> = (0..3).map(|_| proxy.steer()).collect();
    for client in &mut lists {
        client.send("connections list\n");
    }
    let mut check = proxy.steer();
    check.send("state check\n");
    // Whoever is answered now came after those.
    proxy.control("ping");
    signal(stuck.pid, "KILL");
    for client in &mut lists {
        let reply = client.reply();
        let pid = other.pid.to_string();
        let rest = ids(&reply).into_iter();
        let rest = rest.filter(|id| id.split('.').next() == Some(&pid));
        assert_eq!(rest.count(), other.connections, "{reply:?}");
    }
    let reply = check.reply();
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(reply.data.len(), 2, "{reply:?}");
    drop(peers);
}

#[test]
fn the_workers_have_what_main_has() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().top("worker_count", 2);
    let proxy = proxy.backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let counts = "listeners=1 clusters=1 frontends=1 backends=1 certificates=0 agrees=true";
    let reply = control.ok("state check");
    assert_eq!(reply.last, "ok agrees=true revision=0");
    for (line, worker) in reply.data.iter().zip(proxy.workers()) {
        let wanted = format!(
            "worker id={} pid={} revision=0 {counts}",
            worker.id, worker.pid
        );
        assert_eq!(*line, wanted);
    }
    let own = proxy.address();
    let lines = (0..500).map(|i| {
        format!("frontend add listener={own} hostname=h{i}.example path=/p{i} cluster=main")
    });
    control.transact(&lines.collect::<Vec<String>>());
    // Pipelined: asked before the change is answered, and counted with it all the same.
    control.send("begin\nfrontend remove listener=");
    control.send(format!("{own} hostname=h7.example path=/p7\n"));
    control.send("backend update cluster=main id=main-0 weight=3\ncommit\nstate check\n");
    for _ in 0..4 {
        assert!(control.reply().is_ok());
    }
    let reply = control.reply();
    assert_eq!(reply.last, "ok agrees=true revision=2");
    for line in &reply.data {
        assert!(
            line.ends_with("frontends=500 backends=1 certificates=0 agrees=true"),
            "{line}"
        );
    }
    // One that starts now has it all at once.
    control.ok("worker restart id=1");
    assert_eq!(control.ok("state check").last, "ok agrees=true revision=2");
}
