//! Sockets that were bound before the proxy was started, as systemd does it.

mod common;

use common::{
    control, control_at, free_address, ok, program, signal, wait_until, Backend, Control, Gate,
    Guard, Peer, Reply, Scrape, Setup,
};
use sozu_lib::sys::{passing, socket};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;

/// Where systemd listens, if the test plays it.
const NOTIFY: &str = "notify.sock";

/// A proxy that was started with sockets.
struct Activated {
    setup: Rc<Setup>,
    child: Child,
    _guard: Guard,
}

impl Activated {
    /// With these descriptors, and these variables about them; `pid`: not its own, but that one.
    fn start(
        setup: impl Into<Rc<Setup>>,
        address: SocketAddr,
        fds: Vec<OwnedFd>,
        count: &str,
        names: &str,
        pid: &str,
    ) -> Activated {
        let setup = setup.into();
        let config = setup.write(address);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(setup.path("log"));
        let (ours, theirs) = UnixStream::pair().expect("a socketpair");
        let mut activator = Command::new(program("sozu").with_file_name("examples/activator"));
        activator
            .arg(pid)
            .arg(program("sozu"))
            .args(["start", "-c"])
            .arg(config);
        activator
            .env("LISTEN_FDS", count)
            .env("LISTEN_FDNAMES", names);
        activator.env("NOTIFY_SOCKET", setup.path(NOTIFY));
        activator.env_remove("RUST_LOG").process_group(0);
        activator.stdin(OwnedFd::from(theirs)).stdout(Stdio::null());
        let child = activator
            .stderr(log.expect("a log"))
            .spawn()
            .expect("activator");
        let _guard = Guard::of(child.id());
        let fds: Vec<_> = fds.iter().map(OwnedFd::as_fd).collect();
        passing::send(&ours, b"x", &fds).expect("it takes them");
        Activated {
            setup,
            child,
            _guard,
        }
    }

    fn socket(&self) -> PathBuf {
        self.setup.path("command.sock")
    }

    fn ready(self) -> Activated {
        // With a socket that was bound before, the answer itself waits for the proxy.
        wait_until("the proxy is ready", || control_at(&self.socket(), "ping"));
        self
    }

    fn control(&self, line: &str) -> Reply {
        control(&self.socket(), line)
    }

    /// The pids of its workers.
    fn workers(&self) -> Vec<u32> {
        let workers = self.control("workers").workers();
        workers.iter().map(|worker| worker.pid).collect()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.setup.path("log")).unwrap_or_default()
    }

    fn end(&mut self) -> ExitStatus {
        signal(self.child.id(), "TERM");
        wait_until("the proxy ends", || self.child.try_wait().expect("wait"))
    }
}

fn bound() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("getsockname");
    (listener, address)
}

fn copy(listener: &TcpListener) -> OwnedFd {
    listener.try_clone().expect("dup").into()
}

fn useless() -> OwnedFd {
    UdpSocket::bind("127.0.0.1:0").expect("bind").into()
}

#[test]
fn sockets_that_are_given_serve_and_who_waited_before_is_served() {
    let backend = Backend::named("a");
    let setup = Setup::http().backends(&[backend.address()]);
    let ((first, address), (second, later)) = (bound(), bound());
    let path = setup.path("command.sock");
    let steered = UnixListener::bind(&path).expect("bind");
    let mut early = Peer::connect(address);
    let control: OwnedFd = steered.try_clone().expect("dup").into();
    let sockets = vec![copy(&first), control, copy(&second)];
    let names = "web:command_socket:later";
    let mut proxy = Activated::start(setup, address, sockets, "3", names, "-").ready();
    assert_eq!(early.get("/").status(), 200);
    let mut waiting = Peer::connect(later);
    let log = proxy.log();
    assert!(
        log.contains(&format!("socket later of systemd listens on {later}")),
        "{log}"
    );
    assert!(!log.contains("socket web"), "{log}");

    // Its address is in use, by nobody but the socket that was given. Twice, for systemd holds it on.
    for _ in 0..2 {
        let added = proxy.control(&format!("listener add address={later} protocol=http"));
        assert!(added.is_ok(), "{added:?}");
        let status = waiting.get("/").status();
        assert!((400..500).contains(&status), "{status}");
        let removed = proxy.control(&format!("listener remove address={later}"));
        assert!(removed.is_ok(), "{removed:?}");
        waiting = Peer::connect(later);
    }

    assert!(proxy.end().success(), "{}", proxy.log());
    assert!(path.exists(), "the file is systemd's");
}

#[test]
fn what_is_of_no_use_is_closed_and_named() {
    let backend = Backend::named("a");
    let setup = Setup::http().backends(&[backend.address()]);
    let (first, address) = bound();
    let stranger = UnixListener::bind(setup.path("other.sock")).expect("bind");
    let sockets = vec![copy(&first), useless(), stranger.into()];
    let mut proxy = Activated::start(setup, address, sockets, "4", "web:dns", "-").ready();
    assert_eq!(Peer::connect(address).get("/").status(), 200);
    let log = proxy.log();
    for what in [
        "socket dns of systemd, descriptor 4: it is no stream socket that listens",
        "socket unknown of systemd, descriptor 5: a unix socket is of use as command_socket alone",
        "LISTEN_FDS=4, but unknown: descriptor 6 was not handed over",
    ] {
        assert!(log.contains(what), "{what} is not in:\n{log}");
    }
    let path = proxy.socket();
    assert!(proxy.end().success(), "{}", proxy.log());
    assert!(!path.exists(), "the file is our own");
}

#[test]
fn sockets_for_another_process_are_left_alone() {
    let backend = Backend::named("a");
    let setup = Setup::http().backends(&[backend.address()]);
    let (first, address) = bound();
    let sockets = vec![copy(&first), useless(), useless()];
    let mut proxy = Activated::start(setup, address, sockets, "3", "", "1");
    let ended = wait_until("it cannot bind", || proxy.child.try_wait().expect("wait"));
    assert!(!ended.success());
    let log = proxy.log();
    assert!(
        log.contains("the address is in use by another program"),
        "{log}"
    );
}

#[test]
fn a_number_that_is_none_is_said() {
    let backend = Backend::named("a");
    let setup = Setup::http().backends(&[backend.address()]);
    let (address, sockets) = (free_address(), vec![useless()]);
    let proxy = Activated::start(setup, address, sockets, "many", "", "-").ready();
    let log = proxy.log();
    assert!(
        log.contains("LISTEN_FDS=many is no number of sockets"),
        "{log}"
    );
}

/// The part of systemd that starts main, is told things and keeps descriptors.
struct Manager {
    setup: Rc<Setup>,
    /// Where the proxy listens.
    address: SocketAddr,
    socket: UnixDatagram,
    kept: Vec<(String, OwnedFd)>,
}

impl Manager {
    fn of(setup: Setup) -> Manager {
        let socket = UnixDatagram::bind(setup.path(NOTIFY)).expect("bind");
        let time = Some(common::DEADLINE);
        socket.set_read_timeout(time).expect("a time limit");
        Manager {
            setup: Rc::new(setup),
            address: free_address(),
            socket,
            kept: Vec::new(),
        }
    }

    /// Does what it is told, up to that message.
    #[track_caller]
    fn until(&mut self, last: &str) {
        while self.one() != last {}
    }

    /// Does what it is told next.
    #[track_caller]
    fn one(&mut self) -> String {
        let (mut text, mut fds) = ([0; 512], Vec::new());
        let came = passing::receive(&self.socket, &mut text, &mut fds).expect("a message");
        assert!(came.whole);
        let text = String::from_utf8_lossy(&text[..came.bytes]).into_owned();
        if let Some(name) = text.strip_prefix("FDSTORE=1\nFDNAME=") {
            assert!(!fds.is_empty(), "{text}");
            let named = fds.into_iter().map(|fd| (name.to_string(), fd));
            self.kept.extend(named);
        } else if let Some(name) = text.strip_prefix("FDSTOREREMOVE=1\nFDNAME=") {
            self.kept.retain(|(kept, _)| kept != name);
        }
        text
    }

    /// Does what it is told, until it is given something with that prefix.
    #[track_caller]
    fn until_stored(&mut self, prefix: &str) {
        let store = format!("FDSTORE=1\nFDNAME={prefix}");
        while !self.one().starts_with(&store) {}
    }

    fn hears(&self, text: &str) {
        let sender = UnixDatagram::unbound().expect("a socket");
        let sent = sender.send_to(text.as_bytes(), self.setup.path(NOTIFY));
        sent.expect("it is sent");
    }

    fn names(&self) -> Vec<&str> {
        let names = self.kept.iter().map(|(name, _)| name.as_str());
        names.collect()
    }

    /// A main with what is kept, all or that with the prefix.
    fn start(&self, prefix: &str) -> Activated {
        let given = self
            .kept
            .iter()
            .filter(|(name, _)| name.starts_with(prefix));
        let (names, fds): (Vec<&str>, Vec<OwnedFd>) = given
            .map(|(name, fd)| (name.as_str(), fd.try_clone().expect("dup")))
            .unzip();
        let (count, names) = (fds.len().to_string(), names.join(":"));
        Activated::start(self.setup.clone(), self.address, fds, &count, &names, "-")
    }

    /// The first main, and its workers.
    fn begin(&mut self) -> (Activated, Vec<u32>) {
        let first = self.start("").ready();
        self.until("READY=1");
        let workers = first.workers();
        (first, workers)
    }
}

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// Bytes of what goes round.
const WORD: usize = 7;

#[track_caller]
fn goes_round(tunnel: &mut Peer, word: &str) {
    tunnel.send(word);
    assert_eq!(
        tunnel.exactly(WORD).expect("it comes back"),
        word.as_bytes()
    );
}

fn stored(address: SocketAddr) -> String {
    format!("listener-{address}").replace(':', "_")
}

/// All at once, as somebody without mercy does it.
fn kill(proxy: &mut Activated, pids: &[u32]) {
    for pid in [&[proxy.child.id()], pids].concat() {
        assert!(signal(pid, "KILL"));
    }
    proxy.child.wait().expect("wait");
    for pid in pids {
        wait_until("a worker is gone", || {
            (!common::is_alive(*pid)).then_some(())
        });
    }
}

#[test]
fn listening_sockets_outlive_a_main_that_is_killed() {
    let backend = Backend::named("a");
    let mut manager = Manager::of(Setup::http().backends(&[backend.address()]));
    let address = manager.address;
    let (mut first, pids) = manager.begin();
    let name = stored(address);
    assert!(
        manager.names().contains(&name.as_str()),
        "{:?}",
        manager.names()
    );
    kill(&mut first, &pids);
    let mut waiting = Peer::connect(address);
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

    // A worker that is dead is no longer in the store.
    let second = manager.start("listener-");
    manager.kept.clear();
    let mut second = second.ready();
    assert_eq!(waiting.response().status(), 200);
    // Main is the only one that holds it now, and lets it go.
    let disabled = second.control(&format!("listener disable address={address}"));
    assert!(disabled.is_ok(), "{disabled:?}");
    manager.until(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    wait_until("nobody listens", || {
        std::net::TcpStream::connect(address).err()
    });
    assert!(second.end().success(), "{}", second.log());
}

#[test]
fn workers_outlive_a_main_that_is_killed_and_hand_over_to_those_of_the_next() {
    let backend = Backend::named("a");
    let echo = Backend::scripted(|peer, _| {
        peer.request()?;
        peer.send(AGREE);
        loop {
            let word = peer.exactly(WORD)?;
            peer.send(word);
        }
    });
    let setup = Setup::http().backends(&[backend.address()]);
    let setup = setup.cluster(
        "chat",
        &["hostname = \"*\", path = \"/chat\""],
        &[format!("address = \"{}\"", echo.address())],
    );
    let mut manager = Manager::of(setup);
    let address = manager.address;
    let (mut first, old) = manager.begin();
    let mut idle = Peer::connect(address);
    assert_eq!(idle.get("/").status(), 200);
    let mut tunnel = Peer::connect(address);
    assert_eq!(tunnel.ask(ASK).status(), 101);
    goes_round(&mut tunnel, "before!");

    kill(&mut first, &[]);
    // There is no main, and nobody notices.
    assert_eq!(Peer::connect(address).get("/").status(), 200);
    assert_eq!(idle.get("/").status(), 200);
    goes_round(&mut tunnel, "between");

    let mut second = manager.start("").ready();
    for pid in &old {
        wait_until("an old worker has handed over all and is gone", || {
            (!common::is_alive(*pid)).then_some(())
        });
        manager.until(&format!("FDSTOREREMOVE=1\nFDNAME=worker-{pid}"));
    }
    assert_eq!(idle.get("/").status(), 200);
    goes_round(&mut tunnel, "after..");
    let new = second.workers();
    assert!(new.iter().all(|pid| !old.contains(pid)), "{old:?} {new:?}");
    drop(tunnel);
    drop(idle);
    assert!(second.end().success(), "{}", second.log());
}

#[test]
fn a_worker_of_a_dead_main_goes_along_with_an_upgrade_and_ends_with_the_proxy() {
    let gate = Gate::default();
    let passes = gate.clone();
    let backend = Backend::scripted(move |peer, _| {
        peer.request()?;
        passes.pass();
        peer.send(ok("late"));
        Ok(())
    });
    let setup = Setup::http().top("worker_count", 1);
    let mut manager = Manager::of(setup.backends(&[backend.address()]));
    let (mut first, workers) = manager.begin();
    let old = workers[0];
    let mut slow = Peer::connect(manager.address);
    slow.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    backend.wait_requests(1);
    kill(&mut first, &[]);

    let mut second = manager.start("").ready();
    let retires = |proxy: &Activated| {
        let workers = proxy.control("workers").workers();
        let states = workers
            .iter()
            .map(|w| (w.pid == old, w.state.as_str() == "retiring"));
        states.filter(|both| *both == (true, true)).count() == 1
    };
    assert!(retires(&second), "{:?}", second.control("workers"));
    let upgraded = second.control("upgrade");
    assert!(upgraded.is_ok(), "{upgraded:?}");
    assert!(retires(&second), "{:?}", second.control("workers"));
    signal(second.child.id(), "TERM");
    gate.admit(1);
    assert_eq!(slow.response().body, b"late");
    let ended = wait_until("the proxy ends", || second.child.try_wait().expect("wait"));
    assert!(ended.success(), "{}", second.log());
    wait_until("it ends as well", || (!common::is_alive(old)).then_some(()));
}

/// Main dies at the worst moment: whoever it has started is found, or ends.
#[test]
fn nobody_is_left_over_whenever_main_dies() {
    let backend = Backend::named("a");
    let setup = Setup::http().top("worker_count", 4);
    let mut manager = Manager::of(setup.backends(&[backend.address()]));
    for _ in 0..5 {
        let mut main = manager.start("");
        // The first of its workers is started, and has not accepted.
        manager.until_stored("worker-");
        kill(&mut main, &[]);
        // Whatever it had still to say.
        manager.hears("MARK");
        manager.until("MARK");
    }
    let mut last = manager.start("").ready();
    wait_until("nobody is left of those before", || {
        let known = last.workers().len();
        // Main, its workers, the process that has the keys.
        (known == 4 && processes(&manager.setup) == 6).then_some(())
    });
    assert!(last.end().success(), "{}", last.log());
}

/// How many processes write into the log of that proxy.
fn processes(setup: &Setup) -> usize {
    let log = setup.path("log");
    let all = std::fs::read_dir("/proc").expect("/proc").flatten();
    let writes = |entry: &std::fs::DirEntry| {
        let fds = std::fs::read_dir(entry.path().join("fd")).ok()?;
        let mut targets = fds
            .flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok());
        targets.find(|target| *target == log)
    };
    all.filter(|entry| writes(entry).is_some()).count()
}

/// Where there is somebody to ask.
#[test]
fn the_unit_lets_workers_confine_themselves() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist/sozu.service");
    let text = std::fs::read_to_string(&unit).expect("the unit");
    let filter = text
        .lines()
        .find(|line| line.starts_with("SystemCallFilter="));
    let filter = filter.expect("a filter");
    for call in [
        "seccomp",
        "landlock_create_ruleset",
        "landlock_add_rule",
        "landlock_restrict_self",
    ] {
        assert!(filter.split([' ', '=']).any(|word| word == call), "{call}");
    }
    // What systemd says of a file whose programs lie elsewhere.
    let setup = Setup::http();
    let own = program("sozu").display().to_string();
    let text = text
        .replace("/usr/local/bin/sozuctl", &own)
        .replace("/usr/local/bin/sozu ", &format!("{own} "));
    setup.file("sozu.service", &text);
    let mut verify = Command::new("systemd-analyze");
    verify
        .arg("verify")
        .arg(setup.path("sozu.service"))
        .env("SYSTEMD_LOG_LEVEL", "warning");
    match verify.output() {
        Ok(said) => {
            let said = String::from_utf8_lossy(&said.stderr).into_owned();
            let ours: Vec<&str> = said
                .lines()
                .filter(|line| line.contains("sozu.service"))
                .collect();
            assert_eq!(ours, [""; 0], "{said}");
        }
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::NotFound),
    }
}

#[test]
fn workers_that_no_main_will_find_end_by_themselves() {
    let backend = Backend::named("a");
    let mut manager = Manager::of(Setup::http().backends(&[backend.address()]));
    let (mut first, old) = manager.begin();
    kill(&mut first, &[]);
    assert_eq!(Peer::connect(manager.address).get("/").status(), 200);
    // As at the end of the unit.
    drop(manager);
    for pid in old {
        wait_until("a worker ends", || (!common::is_alive(pid)).then_some(()));
    }
}

/// Whoever has a listening socket can stop it for all who share it: a worker that was taken over, here the test.
#[test]
fn a_socket_that_was_stopped_listens_again() {
    let backend = Backend::named("a");
    let metrics = free_address();
    let more = format!("[[listeners]]\nprotocol = \"metrics\"\naddress = \"{metrics}\"\n");
    let setup = Setup::http()
        .backends(&[backend.address()])
        .more(&more)
        .top("worker_count", 2);
    let (listener, address) = bound();
    let proxy = Activated::start(setup, address, vec![copy(&listener)], "1", "web", "-").ready();
    let mut events = Control::connect(&proxy.socket());
    events.send("events\nping\n").reply();
    let theirs = TcpStream::from(copy(&listener));
    let to_nowhere = || socket::reset(&theirs).expect("reset");
    let shut = || theirs.shutdown(Shutdown::Read).expect("shut");
    let ways: [&dyn Fn(); 3] = [&to_nowhere, &shut, &to_nowhere];
    for stop in ways {
        assert_eq!(Peer::connect(address).get("/").status(), 200);
        stop();
        let event = events.line().expect("an event");
        let told = format!(" kind=listener_revived address={address}");
        assert!(event.ends_with(&told), "{event}");
        assert_eq!(Peer::connect(address).get("/").status(), 200);
    }
    let said = format!("the socket of {address} had stopped listening, and listens again");
    assert_eq!(proxy.log().matches(&said).count(), 3);
    assert_eq!(
        Scrape::of(metrics).sum("sozu_listeners_revived_total", &[]),
        3.0
    );
    // Nobody has died of it.
    let lines = proxy.control("workers").data;
    assert!(
        lines.iter().all(|line| line.contains(" restarts=0 ")),
        "{lines:?}"
    );
}
