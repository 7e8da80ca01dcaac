//! Another program in the place of the one that runs: what stays, and what a
//! program that is no good does not break.
//!
//! The next versions are copies of the binary in which the text that says the
//! version and the form of the hand-over says something else.

mod common;

use common::{is_alive, ok, program, wait_until, Backend, Control, Peer, Proxy, Reply, Setup};
use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Clusters whose list no socket takes at once.
const MANY: usize = 4000;
/// As long as the real one.
const NEXT: &str = "7.7.7";

/// Answers requests; agrees to be a WebSocket, and then sends back what comes.
fn backend() -> Backend {
    Backend::scripted(|peer, _| loop {
        let request = peer.request()?;
        if request.target() == "/chat" {
            peer.send(AGREE);
            loop {
                let byte = peer.exactly(1)?;
                peer.send(byte);
            }
        }
        peer.send(ok("fine"));
    })
}

fn proxy(workers: usize, backend: &Backend) -> Proxy {
    let setup = Setup::http().top("worker_count", workers);
    let setup = setup.top("worker_timeout", 2);
    setup.backends(&[backend.address()]).start()
}

/// Hears of the steps until the canary's has begun.
fn wait_canary(client: &mut Control) {
    wait_until("the canary", || {
        let line = client.line().expect("progress");
        line.contains("step=canary").then_some(())
    });
}

/// Makes a file executable.
fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("chmod");
}

/// A copy of the binary with another version and another form of the hand-over.
fn copy(proxy: &Proxy, name: &str, version: &str, form: u32) -> PathBuf {
    let mut bytes = fs::read(program("sozu")).expect("the binary");
    let old = format!("sozu program: version={VERSION} handover=0001 .");
    let new = format!("sozu program: version={version} handover={form:04} .");
    assert_eq!(old.len(), new.len());
    let mut found = Vec::new();
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        let places = chunk.valid().match_indices(&old);
        found.extend(places.map(|(place, _)| at + place));
        at += chunk.valid().len() + chunk.invalid().len();
    }
    for place in &found {
        bytes[*place..place + new.len()].copy_from_slice(new.as_bytes());
    }
    assert!(!found.is_empty(), "the binary does not say its version");
    written(proxy, name, &bytes)
}

/// An executable file beside the configuration.
fn written(proxy: &Proxy, name: &str, bytes: &[u8]) -> PathBuf {
    let path = proxy.path(name);
    fs::write(&path, bytes).expect("write");
    chmod(&path, 0o755);
    path
}

/// A program of which something is wrong, by its name.
fn impostor(proxy: &Proxy, name: &str) -> PathBuf {
    let path = program("sozu").with_file_name("examples/impostor");
    let shown = path.display();
    assert!(
        path.exists(),
        "{shown} is missing: cargo build --example impostor makes it"
    );
    let bytes = fs::read(path).expect("the impostor");
    let real = proxy.path("real");
    if !real.exists() {
        fs::copy(program("sozu"), &real).expect("copy");
    }
    written(proxy, name, &bytes)
}

fn line(binary: &Path) -> String {
    format!("upgrade binary={}", binary.display())
}

/// What main has open and nobody gave to it, by what it is: how many of each kind.
fn descriptors(proxy: &Proxy) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    let folder = format!("/proc/{}/fd", proxy.pid());
    for entry in fs::read_dir(folder).expect("main's descriptors") {
        let path = entry.expect("an entry").path();
        // It may be closed by now.
        let Ok(target) = fs::read_link(&path) else {
            continue;
        };
        let number = path.file_name().expect("a number").to_string_lossy();
        let info = format!("/proc/{}/fdinfo/{number}", proxy.pid());
        let info = fs::read_to_string(info).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|text| u32::from_str_radix(text.trim(), 8).ok());
        // O_CLOEXEC.
        if flags.is_none_or(|flags| flags & 0o2000000 == 0) {
            continue;
        }
        let target = target.to_string_lossy().into_owned();
        let kind = target.split(":[").next().unwrap_or_default().to_string();
        *found.entry(kind).or_insert(0) += 1;
    }
    found
}

fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    let text = text.unwrap_or_default();
    text.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect()
}

/// Clients that were there before, and have to be served afterwards.
struct Witness<'a> {
    proxy: &'a Proxy,
    idle: Peer,
    socket: Peer,
    steer: Control,
    descriptors: BTreeMap<String, usize>,
}

impl Witness<'_> {
    fn of(proxy: &Proxy) -> Witness<'_> {
        let mut idle = proxy.client();
        assert_eq!(idle.get("/").status(), 200);
        let mut socket = proxy.client();
        socket.send(ASK);
        assert_eq!(socket.head().status(), 101);
        let steer = proxy.steer();
        let mut witness = Witness {
            proxy,
            idle,
            socket,
            steer,
            descriptors: BTreeMap::new(),
        };
        witness.remember();
        witness
    }

    /// What is open now may be. Whoever has gone before it answers is closed by then.
    fn remember(&mut self) {
        self.steer.ok("ping");
        self.descriptors = descriptors(self.proxy);
    }

    /// Everything works, and nothing has been left behind.
    #[track_caller]
    fn sees_all_well(&mut self, version: &str) {
        let told = self.steer.ok("version").last;
        assert_eq!(told, format!("ok version={version}"));
        let status = self.steer.ok("status");
        assert!(status.data[0].contains("state=serving"), "{status:?}");
        assert!(!status.data[1].starts_with("upgrade"), "{status:?}");
        let answer = self.idle.get("/again");
        assert_eq!(answer.status(), 200);
        assert!(!answer.connection_says("close"), "{answer:?}");
        self.socket.send("over and over");
        assert_eq!(self.socket.exactly(13), Ok(b"over and over".to_vec()));
        assert_eq!(self.proxy.client().get("/new").status(), 200);
        wait_until("only workers and a key process are left", || {
            let mut pids: Vec<u32> = self.proxy.workers().iter().map(|w| w.pid).collect();
            pids.extend(self.proxy.key_process());
            pids.sort_unstable();
            (children(self.proxy.pid()) == pids).then_some(())
        });
        wait_until("no descriptor is left", || {
            (descriptors(self.proxy) == self.descriptors).then_some(())
        });
    }
}

/// The upgrade fails, and says this.
#[track_caller]
fn fails(proxy: &Proxy, line: &str, why: &str) -> Reply {
    let reply = proxy.steer().ask(line);
    assert_eq!(reply.code(), "failed", "{line}: {reply:?}");
    assert!(reply.last.contains(why), "{line}: {reply:?}");
    reply
}

/// Requests of the listener, as the ledger has them.
fn served(proxy: &Proxy) -> u64 {
    let metrics = proxy.control("metrics");
    let line = metrics.data.iter().find(|l| l.starts_with("listener "));
    let words = line.expect("a listener").split(' ');
    let mut pairs = words.filter_map(|word| word.strip_prefix("requests="));
    let requests = pairs.next().expect("requests");
    requests.parse().expect("a number")
}

#[test]
fn to_the_next_version_and_back() {
    let backend = backend();
    let proxy = proxy(2, &backend);
    let next = copy(&proxy, "next", NEXT, 2);
    let mut witness = Witness::of(&proxy);
    let before: Vec<u32> = proxy.workers().iter().map(|w| w.pid).collect();
    let mut events = proxy.steer();
    events.send("events\n");
    let mut half = proxy.steer();
    half.ok("begin");
    half.ok("cluster add id=more");
    half.send("cluster add id=mo");
    let requests = served(&proxy);
    witness.remember();
    let reply = proxy.steer().ok(&line(&next));
    let wanted = format!("ok version={NEXT} from={VERSION} pid={} ms=", proxy.pid());
    assert!(reply.last.starts_with(&wanted), "{reply:?}");
    assert_eq!(
        (reply.number("moved"), reply.number("cut")),
        (2, 0),
        "{reply:?}"
    );
    for step in [
        "rehearsal",
        "rehearsed",
        "worker id=0",
        "worker id=1",
        "main",
    ] {
        let wanted = format!("progress step={step}");
        assert!(
            reply.data.iter().any(|l| l.starts_with(&wanted)),
            "{reply:?}"
        );
    }
    wait_until("the old workers to end", || {
        before.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
    assert!(served(&proxy) >= requests, "the figures go on");
    witness.sees_all_well(NEXT);
    // A line and a transaction that were begun with the version before.
    half.send("re2\n");
    assert!(half.reply().is_ok());
    assert_eq!(half.ok("commit").number("changes"), 2);
    let event = wait_until("the event", || {
        let line = events.line().expect("an event");
        line.contains("kind=upgraded").then_some(line)
    });
    assert!(
        event.contains(&format!("version={NEXT} from={VERSION}")),
        "{event}"
    );
    // The digest of main and of the new workers is that of one state.
    assert!(proxy.control("state check").last.contains("agrees=true"));

    let reply = proxy.steer().ok(&line(&program("sozu")));
    assert!(
        reply
            .last
            .contains(&format!("version={VERSION} from={NEXT}")),
        "{reply:?}"
    );
    witness.sees_all_well(VERSION);
}

/// Without saying which: the one that was named last. Further than by one version it does not go.
#[test]
fn by_a_signal_and_too_far() {
    let backend = backend();
    let proxy = proxy(1, &backend);
    let next = copy(&proxy, "next", NEXT, 2);
    let mut witness = Witness::of(&proxy);
    proxy.steer().ok(&line(&next));
    proxy.signal("USR2");
    wait_until("the second upgrade", || {
        let log = proxy.log();
        (log.iter().filter(|l| l.contains("upgraded from")).count() == 2).then_some(())
    });
    witness.sees_all_well(NEXT);
    proxy.steer().ok(&line(&program("sozu")));
    let far = copy(&proxy, "far", NEXT, 3);
    let reply = fails(&proxy, &line(&far), "by a version between");
    assert!(reply.last.contains("rehearsal: refuses"), "{reply:?}");
    witness.sees_all_well(VERSION);
}

#[test]
fn programs_that_are_no_good() {
    let backend = backend();
    let proxy = proxy(2, &backend);
    let mut witness = Witness::of(&proxy);
    let plain = written(&proxy, "plain", b"not a program at all\n");
    chmod(&plain, 0o644);
    let mut foreign = fs::read(program("sozu")).expect("the binary");
    // e_machine: a computer of 1986.
    foreign[18..20].copy_from_slice(&[88, 0]);
    let foreign = written(&proxy, "foreign", &foreign);
    let script = written(&proxy, "script", b"#!/bin/sh\nexit 0\n");
    for (binary, why) in [
        (proxy.path("nowhere"), "No such file"),
        (PathBuf::from("relative/sozu"), "from / on"),
        (proxy.path(""), "is no file"),
        (plain, "is not executable"),
        (script, "is a script"),
        (foreign, "Exec format error"),
        (
            impostor(&proxy, "exits"),
            "ended without an answer (exit status: 3)",
        ),
        (impostor(&proxy, "hangs"), "no answer within worker_timeout"),
        (impostor(&proxy, "babbles"), "told no version"),
        (
            impostor(&proxy, "dying_worker"),
            "worker 0: the new worker died (exit status: 4)",
        ),
        (
            impostor(&proxy, "silent_worker"),
            "worker 0: the new worker died (silent for worker_timeout, and killed)",
        ),
    ] {
        let workers: Vec<u32> = proxy.workers().iter().map(|w| w.pid).collect();
        fails(&proxy, &line(&binary), why);
        witness.sees_all_well(VERSION);
        let now: Vec<u32> = proxy.workers().iter().map(|w| w.pid).collect();
        assert_eq!(now, workers, "{}", binary.display());
    }
    let next = copy(&proxy, "next", NEXT, 1);
    assert!(proxy.steer().ok(&line(&next)).last.contains(NEXT));
    witness.sees_all_well(NEXT);
}

/// The last step of all: nothing is left of what came before it.
#[test]
fn a_program_that_cannot_be_run_in_the_end() {
    let backend = backend();
    let proxy = proxy(1, &backend);
    let next = copy(&proxy, "next", NEXT, 2);
    let mut witness = Witness::of(&proxy);
    let mut client = proxy.steer();
    client.send(line(&next) + " canary=1\n");
    wait_canary(&mut client);
    chmod(&next, 0o644);
    let reply = client.reply();
    drop(client);
    assert_eq!(reply.code(), "failed", "{reply:?}");
    assert!(reply.last.contains("main: cannot be run"), "{reply:?}");
    witness.sees_all_well(VERSION);
    chmod(&next, 0o755);
    proxy.steer().ok(&line(&next));
    witness.sees_all_well(NEXT);
}

/// The name of the one backend.
fn backend_id(proxy: &Proxy) -> String {
    let line = proxy.control("backend list").data.remove(0);
    let mut words = line.split(' ').filter_map(|word| word.strip_prefix("id="));
    words.next().expect("an id").to_string()
}

/// Somebody waits for that backend to become empty.
fn draining(proxy: &Proxy, id: &str) -> Control {
    let mut waiting = proxy.steer();
    waiting.send(format!(
        "backend update cluster=main id={id} state=drain wait=600\n"
    ));
    wait_until("it is done", || {
        let list = proxy.control("backend list").data;
        list[0].contains("state=drain").then_some(())
    });
    waiting
}

/// Changes and pauses that somebody waits for, and answers that nobody has read.
#[test]
fn what_is_under_way_goes_on() {
    let backend = backend();
    let setup = Setup::http().top("worker_count", 2);
    let proxy = setup.backends(&[backend.address()]).start();
    let mut steer = proxy.steer();
    steer.ok("begin");
    let long = "x".repeat(100);
    for n in 0..MANY {
        steer.send(format!("cluster add id={long}{n}\n"));
        if n % 100 == 99 {
            (0..100).for_each(|_| assert!(steer.reply().is_ok()));
        }
    }
    steer.ok("commit");
    let next = copy(&proxy, "next", NEXT, 2);
    let mut witness = Witness::of(&proxy);
    steer.ok("cluster pause id=main max=600");
    let mut held = proxy.client();
    held.send("GET /held HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("it waits", || {
        let status = proxy.control("status");
        status
            .data
            .iter()
            .any(|l| l.contains("waiting=1"))
            .then_some(())
    });
    let mut reader = proxy.steer();
    reader.send("cluster list\n");
    let id = backend_id(&proxy);
    let mut waiting = draining(&proxy, &id);
    let mut trial = proxy.steer();
    trial.ok("begin");
    trial.ok("cluster add id=tried");
    trial.ok("commit confirm=600");
    witness.remember();

    proxy.steer().ok(&line(&next));

    let status = proxy.control("status").data;
    assert!(
        status.iter().any(|l| l.starts_with("paused cluster=main")),
        "{status:?}"
    );
    let list = reader.reply();
    assert_eq!(list.data.len(), MANY + 1);
    assert!(trial
        .refused("cluster add id=x", "in_use")
        .contains("confirm"));
    trial.ok("confirm");
    steer.ok(&format!("backend update cluster=main id={id} state=ready"));
    steer.ok("cluster resume id=main");
    assert_eq!(held.response().status(), 200);
    witness.sees_all_well(NEXT);
    drop(witness);
    drop(held);
    let reply = waiting.reply();
    assert!(
        reply.is_ok() && reply.last.contains("connections="),
        "{reply:?}"
    );
}

#[test]
fn a_commit_that_nobody_confirms_is_undone_by_the_next_version() {
    let backend = backend();
    let proxy = proxy(1, &backend);
    let mut steer = proxy.steer();
    let before = steer.dump();
    steer.ok("begin");
    steer.ok("cluster add id=tried");
    steer.ok("commit confirm=2");
    let next = copy(&proxy, "next", NEXT, 2);
    proxy.steer().ok(&line(&next));
    wait_until("it is undone", || (steer.dump() == before).then_some(()));
    assert!(proxy
        .log()
        .iter()
        .any(|l| l.contains("not confirmed in 2 s")));
}

/// The canary of a proxy that is asked for something all the time.
#[test]
fn a_canary_is_compared_and_others_wait_for_their_turn() {
    let backend = backend();
    let proxy = proxy(2, &backend);
    let next = copy(&proxy, "next", NEXT, 2);
    let mut witness = Witness::of(&proxy);
    let mut client = proxy.steer();
    client.send(line(&next) + " canary=600\n");
    wait_canary(&mut client);
    let status = proxy.control("status");
    assert!(
        status.data[1].starts_with("upgrade step=canary"),
        "{status:?}"
    );
    assert_eq!(proxy.workers().len(), 3);
    let mut other = proxy.steer();
    other.refused("upgrade", "in_use");
    other.refused("worker restart id=1", "in_use");
    other.ok("cluster add id=meanwhile");
    other.ok("reload");
    // It is there, and serves as the others do.
    let mut clients: Vec<Peer> = (0..12).map(|_| proxy.client()).collect();
    clients
        .iter_mut()
        .for_each(|c| assert_eq!(c.get("/").status(), 200));
    let canary = proxy.control("status").workers();
    let canary = canary.iter().rfind(|w| w.id == 0).expect("a canary").pid;
    assert!(common::signal(canary, "KILL"));
    let reply = client.reply();
    assert_eq!(reply.code(), "failed", "{reply:?}");
    assert!(
        reply
            .last
            .contains("canary: the new worker died (signal: 9"),
        "{reply:?}"
    );
    assert!(
        reply.data.iter().any(|l| l.starts_with("canary requests=")),
        "{reply:?}"
    );
    drop(other);
    drop(client);
    witness.sees_all_well(VERSION);

    let reply = proxy.steer().ok(&(line(&next) + " canary=1"));
    let figures = reply.data.iter().find(|l| l.starts_with("canary "));
    let figures = figures.unwrap_or_else(|| panic!("{reply:?}"));
    assert!(
        figures.contains("verdict=\"too few requests to judge by\""),
        "{figures}"
    );
    witness.sees_all_well(NEXT);
}

#[test]
fn the_end_comes_before_an_upgrade() {
    let backend = backend();
    let mut proxy = proxy(2, &backend);
    let next = copy(&proxy, "next", NEXT, 2);
    let mut client = proxy.steer();
    client.send(line(&next) + " canary=600\n");
    wait_canary(&mut client);
    let mut end = proxy.steer();
    end.send("shutdown\n");
    let reply = client.reply();
    assert!(reply.last.contains("given up, the proxy ends"), "{reply:?}");
    assert!(end.reply().is_ok());
    assert!(proxy.wait_exit().success());
}

/// Old workers that still drain are in nobody's way.
#[test]
fn again_while_old_workers_drain() {
    let gate = common::Gate::default();
    let passes = gate.clone();
    let backend = Backend::scripted(move |peer, _| loop {
        peer.request()?;
        passes.pass();
        peer.send(ok("late"));
    });
    let proxy = proxy(2, &backend);
    let mut clients: Vec<Peer> = Vec::new();
    for n in 0..3 {
        let mut client = proxy.client();
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
        backend.wait_requests(n + 1);
        clients.push(client);
        let reply = proxy.steer().ok("upgrade");
        assert!(reply.number("draining") >= 1, "{reply:?}");
    }
    gate.admit(100);
    for client in &mut clients {
        assert_eq!(client.response().status(), 200);
    }
    wait_until("the old ones to end", || {
        // Two, and the key process.
        (children(proxy.pid()).len() == 3).then_some(())
    });
    // It is still a child of its main, which hears of its death.
    let worker = proxy.workers().remove(0);
    assert!(common::signal(worker.pid, "KILL"));
    wait_until("another one", || {
        let workers = proxy.workers();
        let there = workers.iter().all(|w| w.pid != worker.pid);
        (workers.len() == 2 && there).then_some(())
    });
}
