//! Standard output and error that lead into a socket, as systemd's journal has it: no worker has that socket, and its
//! lines come all the same.

mod common;

use common::{control_at, free_address, is_alive, program, signal, wait_until};
use common::{Backend, Guard, Peer, Setup};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

/// A proxy whose lines all go to one socket.
struct Proxy {
    setup: Setup,
    address: SocketAddr,
    child: Child,
    guard: Guard,
    journal: Option<UnixStream>,
    /// What its link in /proc says of the end that the proxy has.
    socket: String,
    lines: Arc<Mutex<Vec<String>>>,
}

fn start(setup: Setup) -> Proxy {
    let (journal, theirs) = UnixStream::pair().expect("a socketpair");
    let link = format!("/proc/self/fd/{}", theirs.as_raw_fd());
    let socket = std::fs::read_link(link).expect("a link");
    let address = free_address();
    let config = setup.write(address);
    let out = OwnedFd::from(theirs.try_clone().expect("dup"));
    let mut sozu = Command::new(program("sozu"));
    sozu.args(["start", "-c"]).arg(config);
    sozu.env_remove("RUST_LOG").process_group(0);
    sozu.stdin(Stdio::null())
        .stdout(out)
        .stderr(OwnedFd::from(theirs));
    let child = sozu.spawn().expect("sozu");
    // It holds copies of the socket, which is to end with the proxy.
    drop(sozu);
    let guard = Guard::of(child.id());
    let proxy = Proxy {
        setup,
        address,
        child,
        guard,
        journal: Some(journal),
        socket: socket.to_string_lossy().into_owned(),
        lines: Arc::default(),
    };
    wait_until("the proxy is ready", || proxy.ask("ping"));
    proxy
}

impl Proxy {
    fn ask(&self, line: &str) -> Option<Vec<String>> {
        let reply = control_at(&self.setup.path("command.sock"), line)?;
        reply.is_ok().then_some(reply.data)
    }

    /// The pids of its workers.
    fn workers(&self) -> Vec<u32> {
        let socket = self.setup.path("command.sock");
        let reply = control_at(&socket, "workers").expect("an answer");
        reply.workers().iter().map(|worker| worker.pid).collect()
    }

    /// From now on somebody reads.
    fn read(&mut self) {
        let journal = self.journal.take().expect("nobody reads yet");
        let lines = Arc::clone(&self.lines);
        std::thread::spawn(move || {
            for line in BufReader::new(journal).lines() {
                lines.lock().expect("lines").push(line.expect("text"));
            }
        });
    }

    fn count(&self, text: &str) -> usize {
        let lines = self.lines.lock().expect("lines");
        lines.iter().filter(|line| line.contains(text)).count()
    }

    fn wait_line(&self, text: &str) {
        wait_until(text, || (self.count(text) > 0).then_some(()));
    }
}

fn setup(backend: &Backend) -> Setup {
    let setup = Setup::http().backends(&[backend.address()]);
    setup.top("worker_count", 2)
}

/// What a process has open, as links; nothing if it may not be seen.
fn open_files(pid: u32) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd")) else {
        return Vec::new();
    };
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn no_worker_has_the_socket_and_every_line_comes() {
    let backend = Backend::named("a");
    let mut proxy = start(setup(&backend));
    proxy.read();
    assert!(open_files(proxy.child.id()).contains(&proxy.socket));
    for pid in proxy.workers() {
        let files = open_files(pid);
        assert!(!files.contains(&proxy.socket), "{files:?}");
    }
    let mut client = Peer::connect(proxy.address);
    for n in 0..200 {
        assert_eq!(client.get(&format!("/number-{n}-")).status(), 200);
    }
    // The program changes: what was on its way comes too.
    let upgraded = proxy.ask("upgrade").expect("it is upgraded");
    assert!(!upgraded.is_empty());
    let mut client = Peer::connect(proxy.address);
    for n in 200..300 {
        assert_eq!(client.get(&format!("/number-{n}-")).status(), 200);
    }
    for n in 0..300 {
        proxy.wait_line(&format!("\"GET /number-{n}-\""));
    }
    let victim = proxy.workers()[0];
    assert!(signal(victim, "KILL"));
    proxy.wait_line(&format!("pid {victim}, died (signal: 9 (SIGKILL))"));
    assert!(signal(proxy.child.id(), "TERM"));
    let ended = wait_until("it ends", || proxy.child.try_wait().expect("wait"));
    assert!(ended.success());
    // It was the last to have it open, and these are its last words.
    wait_until("the last line", || {
        (proxy.count(": ended") == 1).then_some(())
    });
}

#[test]
fn nobody_waits_for_a_journal_that_does_not_read() {
    let backend = Backend::named("a");
    let mut proxy = start(setup(&backend));
    let long = "x".repeat(3000);
    let lost = |proxy: &Proxy| -> usize {
        let lines = proxy.ask("workers").expect("an answer");
        let words = lines.iter().flat_map(|line| line.split(' '));
        let counts = words.filter_map(|word| word.strip_prefix("log_lost=")?.parse::<usize>().ok());
        counts.sum()
    };
    let mut client = Peer::connect(proxy.address);
    let mut asked = 0;
    while lost(&proxy) == 0 {
        for _ in 0..100 {
            assert_eq!(client.get(&format!("/{long}")).status(), 200);
        }
        asked += 100;
        assert!(asked < 5000, "where does it all go?");
    }
    proxy.read();
    // None is lost that is not counted.
    let all = || proxy.count("\"GET /xxx") + lost(&proxy) == asked;
    wait_until("every line is written or counted", || all().then_some(()));
}

#[test]
fn workers_serve_on_when_main_and_with_it_their_log_is_gone() {
    let backend = Backend::named("a");
    let mut proxy = start(setup(&backend));
    proxy.read();
    let workers = proxy.workers();
    for pid in &workers {
        proxy.guard.add(*pid);
    }
    assert!(signal(proxy.child.id(), "KILL"));
    wait_until("main is dead", || proxy.child.try_wait().expect("wait"));
    for _ in 0..200 {
        assert_eq!(Peer::connect(proxy.address).get("/").status(), 200);
    }
    assert!(workers.iter().all(|pid| is_alive(*pid)));
}
