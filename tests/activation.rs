//! Sockets that were bound before the proxy was started, as systemd does it.

mod common;

use common::{
    control, control_at, program, signal, wait_until, Backend, Guard, Peer, Reply, Setup,
};
use sozu_lib::sys::passing;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;

/// Becomes the proxy, with its standard descriptors as 3, 4 and 5.
const WRAPPER: &str = r#"
exec 3<&0 4<&1 5<&2 </dev/null >/dev/null 2>"$3"
export LISTEN_PID="${4:-$$}"
exec "$1" start -c "$2"
"#;

/// Where systemd listens, if the test plays it.
const NOTIFY: &str = "notify.sock";

/// A proxy that was started with sockets.
struct Activated {
    setup: Rc<Setup>,
    child: Child,
    _guard: Guard,
}

impl Activated {
    /// With exactly three sockets and these variables; `pid`: not its own, but for this one.
    fn start(
        setup: impl Into<Rc<Setup>>,
        address: SocketAddr,
        sockets: [OwnedFd; 3],
        count: &str,
        names: &str,
        pid: &str,
    ) -> Activated {
        let setup = setup.into();
        let config = setup.write(address);
        let [first, second, third] = sockets;
        let mut shell = Command::new("sh");
        shell.args(["-c", WRAPPER, "sh"]).arg(program("sozu"));
        shell.arg(config).arg(setup.path("log")).arg(pid);
        shell.env("LISTEN_FDS", count).env("LISTEN_FDNAMES", names);
        shell.env("NOTIFY_SOCKET", setup.path(NOTIFY));
        shell.env_remove("RUST_LOG").process_group(0);
        shell.stdin(Stdio::from(first)).stdout(Stdio::from(second));
        let child = shell.stderr(Stdio::from(third)).spawn().expect("sh");
        let _guard = Guard::of(child.id());
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
    let sockets = [copy(&first), control, copy(&second)];
    let names = "web:command_socket:later";
    let mut proxy = Activated::start(setup, address, sockets, "3", names, "").ready();
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
    let sockets = [copy(&first), useless(), stranger.into()];
    let mut proxy = Activated::start(setup, address, sockets, "4", "web:dns", "").ready();
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
    let sockets = [copy(&first), useless(), useless()];
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
    let (listener, address) = bound();
    drop(listener);
    let sockets = [useless(), useless(), useless()];
    let proxy = Activated::start(setup, address, sockets, "many", "", "").ready();
    let log = proxy.log();
    assert!(
        log.contains("LISTEN_FDS=many is no number of sockets"),
        "{log}"
    );
}

/// The part of systemd that is told things and keeps descriptors.
struct Manager(UnixDatagram);

impl Manager {
    fn of(setup: &Setup) -> Manager {
        let socket = UnixDatagram::bind(setup.path(NOTIFY)).expect("bind");
        let time = Some(common::DEADLINE);
        socket.set_read_timeout(time).expect("a time limit");
        Manager(socket)
    }

    /// What it is told next but for `READY=1` and the like, and what came along.
    fn told(&self) -> (String, Vec<OwnedFd>) {
        loop {
            let (mut text, mut fds) = ([0; 512], Vec::new());
            let came = passing::receive(&self.0, &mut text, &mut fds).expect("a message");
            assert!(came.whole);
            let text = String::from_utf8_lossy(&text[..came.bytes]).into_owned();
            if text.starts_with("FDSTORE") {
                return (text, fds);
            }
        }
    }
}

#[test]
fn listening_sockets_outlive_a_main_that_is_killed() {
    let backend = Backend::named("a");
    let setup = Rc::new(Setup::http().backends(&[backend.address()]));
    let manager = Manager::of(&setup);
    let (listener, address) = bound();
    drop(listener);
    let three = || [useless(), useless(), useless()];
    let mut first = Activated::start(setup.clone(), address, three(), "0", "", "").ready();
    let (text, mut fds) = manager.told();
    let name = format!("listener-{address}").replace(':', "_");
    assert_eq!(text, format!("FDSTORE=1\nFDNAME={name}"));
    let stored = TcpListener::from(fds.pop().expect("a descriptor"));
    assert_eq!(stored.local_addr().expect("getsockname"), address);

    // As KillMode=mixed has it: all of them, main first.
    let workers = first.control("workers").workers();
    signal(first.child.id(), "KILL");
    for worker in workers {
        signal(worker.pid, "KILL");
        wait_until("a worker is gone", || {
            (!common::is_alive(worker.pid)).then_some(())
        });
    }
    first.child.wait().expect("wait");
    let mut waiting = Peer::connect(address);
    waiting.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");

    let sockets = [copy(&stored), useless(), useless()];
    let mut second = Activated::start(setup, address, sockets, "1", &name, "").ready();
    assert_eq!(waiting.response().status(), 200);
    drop(stored);
    // Main is the only one that holds it now, and lets it go.
    let disabled = second.control(&format!("listener disable address={address}"));
    assert!(disabled.is_ok(), "{disabled:?}");
    let (text, _) = manager.told();
    assert_eq!(text, format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    wait_until("nobody listens", || {
        std::net::TcpStream::connect(address).err()
    });
    assert!(second.end().success(), "{}", second.log());
}
