//! Processes: how main starts, stops and replaces workers, and what clients
//! notice of it.

mod common;

use common::{
    control_at, is_alive, ok, signal, sozu, sozuctl, wait_until, Backend, Broken, Gate, Peer,
    Proxy, Setup, Worker, DEADLINE,
};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::{Duration, Instant};

fn workers(count: usize, backend: &Backend) -> Setup {
    Setup::http()
        .top("worker_count", count)
        .backends(&[backend.address()])
}

/// Opens connections one at a time; each has had an answer.
fn open(proxy: &Proxy, count: usize) -> Vec<Peer> {
    let client = || {
        let mut client = proxy.client();
        assert_eq!(client.get("/").status(), 200);
        client
    };
    (0..count).map(|_| client()).collect()
}

/// Waits until the workers count that many connections.
fn counted(proxy: &Proxy, count: usize) -> Vec<Worker> {
    wait_until("the workers count every connection", || {
        let workers = proxy.workers();
        (workers.iter().map(|w| w.connections).sum::<usize>() == count).then_some(workers)
    })
}

/// Waits until new connections are refused.
fn closed(proxy: &Proxy) {
    wait_until("nobody listens any more", || {
        TcpStream::connect(proxy.address()).err()
    });
}

#[test]
fn it_says_where_it_listens_and_who_it_is() {
    let backend = Backend::named("ok");
    let proxy = workers(2, &backend).start();
    proxy.wait_log(&proxy.address().to_string());
    proxy.wait_log("ready");
    for worker in proxy.workers() {
        proxy.wait_log(&worker.pid.to_string());
    }
    proxy.wait_log(&proxy.pid().to_string());
}

#[test]
fn started_twice() {
    let backend = Backend::named("ok");
    let proxy = workers(1, &backend).start();
    let config = proxy.config().to_str().expect("a path").to_owned();
    let output = sozu(&["start", "-c", &config]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("command.sock"), "{said}");
    assert_eq!(
        proxy.client().get("/").text(),
        "ok",
        "the first one goes on"
    );
    assert!(proxy.control("ping").last.starts_with("ok"));
}

#[test]
fn a_socket_that_a_dead_one_left() {
    let backend = Backend::named("ok");
    let setup = workers(1, &backend);
    drop(UnixListener::bind(setup.path("command.sock")).expect("bind"));
    let proxy = setup.start();
    let metadata = std::fs::metadata(proxy.path("command.sock")).expect("the socket");
    assert_eq!(
        metadata.permissions().mode() & 0o077,
        0,
        "for its owner alone"
    );
}

#[test]
fn an_address_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = taken.local_addr().expect("getsockname");
    let config = Setup::http().backends(&[]);
    let file = config.write(address);
    let output = sozu(&["start", "-c", file.to_str().expect("a path")]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(
        said.contains(&address.to_string()) && said.contains("in use"),
        "{said}"
    );
    assert!(
        !config.path("command.sock").exists(),
        "it left its socket behind"
    );
}

/// A pipe that nobody reads does not hold the start up, nor the log of a running proxy.
#[test]
fn a_log_that_nobody_reads() {
    let config = Setup::http().backends(&[]);
    let pipe = config.path("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    let config = config.top("log_target", format!("\"file://{}\"", pipe.display()));
    let file = config.write("127.0.0.1:1".parse().expect("an address"));
    let output = sozu(&["start", "-c", file.to_str().expect("a path")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("log_target"), "{said}");
}

/// Far more is asked at once than is kept of answers that were not read yet.
#[test]
fn control_lines_all_at_once() {
    let backend = Backend::named("ok");
    let proxy = workers(1, &backend).start();
    let mut client = UnixStream::connect(proxy.path("command.sock")).expect("connect");
    client.set_read_timeout(Some(DEADLINE)).expect("time-out");
    const LINES: usize = 2000;
    let mut sender = client.try_clone().expect("dup");
    let sender = std::thread::spawn(move || {
        sender
            .write_all("status\n".repeat(LINES).as_bytes())
            .expect("send");
        sender.shutdown(Shutdown::Write).expect("shutdown");
    });
    let mut said = String::new();
    client.read_to_string(&mut said).expect("every answer");
    sender.join().expect("sender");
    assert_eq!(said.lines().filter(|line| *line == "ok").count(), LINES);
}

#[test]
fn connections_are_spread_evenly() {
    let backend = Backend::named("ok");
    let proxy = workers(4, &backend).start();
    let clients = open(&proxy, 200);
    let counts: Vec<_> = counted(&proxy, 200).iter().map(|w| w.connections).collect();
    assert_eq!(counts.len(), 4);
    assert!(
        counts.iter().all(|count| (45..=55).contains(count)),
        "{counts:?}"
    );
    drop(clients);
    counted(&proxy, 0);
}

/// One worker dies: its connections, nobody else's, and soon there is another one.
#[test]
fn a_worker_that_is_killed() {
    let backend = Backend::named("ok");
    let proxy = workers(2, &backend).start();
    let mut clients = open(&proxy, 20);
    let before = counted(&proxy, 20);
    assert!(before.iter().all(|w| w.connections > 0), "{before:?}");
    assert!(signal(before[0].pid, "KILL"));
    let start = Instant::now();
    drop(open(&proxy, 5));
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    let request = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";
    let alive = |client: &mut Peer| client.send(request).try_response("GET").is_ok();
    let dead = clients
        .iter_mut()
        .filter_map(|client| (!alive(client)).then_some(()))
        .count();
    assert_eq!(
        dead, before[0].connections,
        "its connections, and no others"
    );
    let after = wait_until("another worker", || {
        let workers = proxy.workers();
        (workers.len() == 2 && workers.iter().all(|w| w.pid != before[0].pid)).then_some(workers)
    });
    assert!(
        after.iter().any(|w| w.pid == before[1].pid),
        "{before:?} {after:?}"
    );
    drop(open(&proxy, 20));
}

/// One worker hangs: the others serve, and it is killed and replaced.
#[test]
fn a_worker_that_is_stuck() {
    let backend = Backend::named("ok");
    let proxy = workers(2, &backend).top("worker_timeout", 2).start();
    let stuck = proxy.workers()[0].pid;
    assert!(signal(stuck, "STOP"));
    let start = Instant::now();
    drop(open(&proxy, 20));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    wait_until("another worker", || {
        let workers = proxy.workers();
        (workers.len() == 2 && workers.iter().all(|w| w.pid != stuck)).then_some(())
    });
    wait_until("the stuck one is gone", || (!is_alive(stuck)).then_some(()));
    drop(open(&proxy, 20));
}

/// A proxy with one request that waits in the backend for the gate.
fn with_one_in_flight() -> (Backend, Gate, Proxy, Peer) {
    let gate = Gate::default();
    let inner = gate.clone();
    let backend = Backend::replying(move |request| {
        if request.target() == "/slow" {
            inner.pass();
        }
        ok("done")
    });
    let proxy = workers(2, &backend).start();
    let mut client = proxy.client();
    client.send("GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n");
    backend.wait_requests(1);
    (backend, gate, proxy, client)
}

/// What is in flight is finished, what is idle is closed, what is new is refused.
fn drains(stop: impl FnOnce(&Proxy)) {
    let (_backend, gate, mut proxy, mut client) = with_one_in_flight();
    let mut idle = open(&proxy, 4);
    stop(&proxy);
    closed(&proxy);
    for client in &mut idle {
        assert_eq!(client.end(), Broken::Eof);
    }
    client.silent_for(Duration::from_millis(100));
    gate.admit(1);
    let answer = client.response();
    assert_eq!(answer.text(), "done");
    assert!(answer.connection_says("close"), "{answer:?}");
    client.ends();
    assert_eq!(proxy.wait_exit().code(), Some(0));
    assert!(
        !proxy.path("command.sock").exists(),
        "it left its socket behind"
    );
}

#[test]
fn sigterm_drains() {
    drains(|proxy| proxy.signal("TERM"));
}

#[test]
fn sigint_drains() {
    drains(|proxy| proxy.signal("INT"));
}

#[test]
fn shutdown_drains() {
    // The answer comes when everything has ended.
    let mut waiting = None;
    drains(|proxy| {
        let socket = proxy.path("command.sock");
        waiting = Some(std::thread::spawn(move || control_at(&socket, "shutdown")));
    });
    let reply = waiting.expect("a thread").join().expect("an answer");
    assert!(reply.expect("an answer").last.starts_with("ok"));
}

/// A new worker would be one that nobody tells to end.
#[test]
fn at_the_end_no_worker_is_replaced() {
    drains(|proxy| {
        let mut control = proxy.steer();
        control.send("shutdown\n");
        closed(proxy);
        proxy.steer().refused("worker restart id=0", "failed");
    });
}

/// A request that was on its way when the end was decided is answered.
#[test]
fn an_idle_client_may_still_ask() {
    let backend = Backend::named("ok");
    let mut proxy = workers(2, &backend).start();
    let mut idle = open(&proxy, 4);
    proxy.signal("TERM");
    closed(&proxy);
    for client in &mut idle {
        let answer = client.get("/");
        assert_eq!(answer.status(), 200);
        assert!(answer.connection_says("close"), "{answer:?}");
        client.ends();
    }
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// The second signal waits for nobody.
#[test]
fn a_second_signal_is_hard() {
    let (_backend, _gate, mut proxy, mut client) = with_one_in_flight();
    let pids: Vec<_> = proxy.workers().iter().map(|worker| worker.pid).collect();
    proxy.signal("TERM");
    closed(&proxy);
    client.silent_for(Duration::from_millis(100));
    proxy.signal("TERM");
    proxy.wait_exit();
    client.ends();
    for pid in pids {
        wait_until("the workers are gone", || (!is_alive(pid)).then_some(()));
    }
}

#[test]
fn a_hard_shutdown() {
    let (_backend, _gate, mut proxy, mut client) = with_one_in_flight();
    proxy.control("shutdown hard");
    proxy.wait_exit();
    client.ends();
}

/// Nobody can hold a drain up for longer than `shutdown_timeout`.
#[test]
fn a_drain_ends() {
    let gate = Gate::default();
    let inner = gate.clone();
    let backend = Backend::replying(move |_| {
        inner.pass();
        ok("late")
    });
    let mut proxy = workers(1, &backend).top("shutdown_timeout", 1).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
    backend.wait_requests(1);
    let start = Instant::now();
    proxy.signal("TERM");
    proxy.wait_exit();
    let took = start.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(6)).contains(&took),
        "{took:?}"
    );
    client.ends();
    gate.admit(1);
}

/// Main is not in the way of the traffic: without it the workers go on.
#[test]
fn without_main() {
    let backend = Backend::named("ok");
    let mut proxy = workers(2, &backend).start();
    let mut clients = open(&proxy, 4);
    let pids: Vec<_> = proxy.workers().iter().map(|worker| worker.pid).collect();
    for pid in &pids {
        proxy.adopt(*pid);
    }
    proxy.kill_main();
    for client in &mut clients {
        client.silent_for(Duration::from_millis(100));
        assert_eq!(client.get("/").text(), "ok");
    }
    drop(open(&proxy, 20));
    // Nobody else can end them gently.
    for pid in &pids {
        assert!(signal(*pid, "TERM"));
    }
    for client in &mut clients {
        client.ends();
    }
    for pid in pids {
        wait_until("the workers end", || (!is_alive(pid)).then_some(()));
    }
}

#[test]
fn sozuctl_asks_the_running_one() {
    let backend = Backend::named("ok");
    let proxy = workers(2, &backend).start();
    let config = proxy.config().to_str().expect("a path").to_owned();
    let output = sozuctl(&["-c", &config, "status"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}");
    for worker in proxy.workers() {
        assert!(said.contains(&worker.pid.to_string()), "{said}");
    }
    let output = sozuctl(&["-c", &config, "no", "such", "command"]);
    assert!(
        !output.status.success() && !output.stderr.is_empty(),
        "{output:?}"
    );
}

/// They hold keys: what kills them leaves no file with their memory.
#[test]
fn a_crash_leaves_no_core() {
    let backend = Backend::named("ok");
    let mut proxy = workers(1, &backend).start();
    let worker = proxy.worker();
    for pid in [proxy.pid(), worker.pid] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
        let core = limits.lines().find(|line| line.starts_with("Max core"));
        let words: Vec<&str> = core.expect("a limit").split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{limits}");
    }
    assert!(signal(worker.pid, "ABRT"), "kill");
    let line = proxy.wait_log("SIGABRT");
    assert!(!line.contains("core dumped"), "{line}");
    proxy.signal("ABRT");
    assert!(!proxy.wait_exit().core_dumped());
}
