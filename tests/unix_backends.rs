//! Backends on unix sockets: the connector connects, since no worker can, and workers do all the rest.

mod common;

use common::{
    ok, pattern, same_bytes, wait_until, Backend, Broken, Gate, Peer, Proxy, Setup, LARGE,
};
use sozu_lib::sys::{process, socket};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

fn at(path: &Path) -> String {
    format!("address = \"unix:{}\"", path.display())
}

fn answering(path: &Path, name: &'static str) -> Backend {
    Backend::on_unix(path, move |peer, _| loop {
        peer.request()?;
        peer.send(ok(name));
    })
}

fn echo(peer: &mut Peer) -> Result<(), Broken> {
    let (bytes, end) = peer.rest();
    assert_eq!(end, Broken::Eof);
    peer.send(bytes);
    Ok(())
}

fn web(setup: Setup, paths: &[&PathBuf]) -> Proxy {
    let backends: Vec<String> = paths.iter().map(|path| at(path)).collect();
    setup
        .cluster("main", &["hostname = \"*\""], &backends)
        .start()
}

#[test]
fn requests_are_served_and_the_connection_is_kept() {
    let setup = Setup::http().top("worker_count", 1);
    let path = setup.path("a.sock");
    let backend = answering(&path, "a");
    let proxy = web(setup, &[&path]);
    for _ in 0..5 {
        assert_eq!(proxy.client().get("/").body, b"a");
    }
    assert_eq!(backend.connections(), 1);
    let line = proxy.wait_access(5, "/")[0].clone();
    assert!(line.contains(&format!("unix:{}", path.display())), "{line}");
    let explained = proxy.control(&format!(
        "explain method=GET url=http://{}/",
        proxy.address()
    ));
    let shown = format!("address=unix:{}", path.display());
    assert!(explained.data.join("\n").contains(&shown), "{explained:?}");
}

/// Nobody listens, or nothing is there: another backend has the request, and the log says why.
#[test]
fn one_that_refuses_is_tried_no_more() {
    let setup = Setup::http().top("worker_count", 1);
    let (gone, none, good) = (
        setup.path("gone.sock"),
        setup.path("none.sock"),
        setup.path("good.sock"),
    );
    drop(UnixListener::bind(&gone).expect("bind"));
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&gone, all).expect("a mode");
    let _backend = answering(&good, "good");
    let proxy = web(setup, &[&gone, &none, &good]);
    for _ in 0..12 {
        assert_eq!(proxy.client().get("/").body, b"good");
    }
    proxy.wait_log("Connection refused");
    proxy.wait_log("No such file or directory");
}

#[test]
fn without_any_other_the_client_hears_of_it_at_once() {
    let setup = Setup::http();
    let none = setup.path("none.sock");
    let proxy = web(setup, &[&none]);
    assert_eq!(proxy.client().get("/").status(), 503);
    // It is there from now on.
    let _backend = answering(&none, "there");
    wait_until("it is tried again", || {
        (proxy.client().get("/").status() == 200).then_some(())
    });
}

/// A queue that is full is no failure, as it is none over TCP: who comes waits, and nobody else does.
#[test]
fn a_full_queue_is_waited_for() {
    let setup = Setup::http().top("worker_count", 1);
    let (full, good) = (setup.path("full.sock"), setup.path("good.sock"));
    let listener = UnixListener::bind(&full).expect("bind");
    let all = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&full, all).expect("a mode");
    process::raise_descriptor_limit().expect("many descriptors");
    let path = full.to_str().expect("a path");
    let fill: Vec<OwnedFd> = std::iter::from_fn(|| socket::connect_unix(path).ok()).collect();
    assert!(fill.len() > 1);
    let _backend = answering(&good, "good");
    let frontend = |path: &str| [format!("hostname = \"*\", path = \"{path}\"")];
    let proxy = setup
        .cluster("full", &frontend("/full"), &[at(&full)])
        .cluster("good", &frontend("/"), &[at(&good)])
        .start();
    let mut waiting = proxy.client();
    waiting.send("GET /full HTTP/1.1\r\nHost: x\r\n\r\n");
    for _ in 0..4 {
        assert_eq!(proxy.client().get("/").text(), "good");
    }
    drop(fill);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut head = [0; 1024];
                if stream.read(&mut head).is_ok_and(|n| n > 0) {
                    return stream.write_all(&ok("full")).expect("written");
                }
            }
        });
        assert_eq!(waiting.response().text(), "full");
    });
}

/// Who is told to connect to our own control socket is a client of the proxy, and no administrator.
#[test]
fn a_client_of_the_proxy_does_not_steer_it() {
    let setup = Setup::tcp();
    let path = setup.path("command.sock");
    let proxy = setup.cluster("main", &[""], &[at(&path)]).start();
    let pid = |name: &str| {
        let status = proxy.control("status").data;
        let line = status.into_iter().find(|line| line.starts_with(name));
        line.is_some_and(|line| line.contains("state=running"))
            .then_some(())
    };
    wait_until("a connector", || pid("connector "));
    let mut client = proxy.client();
    client.send("status\n");
    let (said, _) = client.rest();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!said.contains("main version"), "{said}");
}

#[test]
fn tunnels_carry_all_bytes_and_move_to_the_next_worker() {
    let setup = Setup::tcp().top("worker_count", 1);
    let path = setup.path("tcp.sock");
    let backend = Backend::on_unix(&path, |peer, _| echo(peer));
    let proxy = setup.cluster("main", &[""], &[at(&path)]).start();
    let bytes = pattern(LARGE);
    let (first, second) = bytes.split_at(LARGE / 2);
    let mut client = proxy.client();
    client.send(first);
    backend.wait_bytes(0, first.len());
    let before = proxy.worker().pid;
    let report = proxy.steer().ok("worker restart id=0");
    assert_eq!(report.number("moved"), 1, "{report:?}");
    assert_ne!(proxy.worker().pid, before);
    client.send(second).finish();
    let (back, end) = client.rest();
    same_bytes(&back, &bytes);
    assert_eq!(end, Broken::Eof);
    assert_eq!(backend.connections(), 1);
}

#[test]
fn checks_find_it_down_and_up() {
    let setup = Setup::http();
    let path = setup.path("a.sock");
    let backend = answering(&path, "a");
    let proxy = web(setup, &[&path]);
    let mut steer = proxy.steer();
    steer.ok(
        "cluster update id=main health_check=http health_interval=1 health_rise=1 health_fall=1",
    );
    let asked = backend.wait_requests(1);
    assert_eq!(asked[0].field("host"), Some("localhost"));
    drop(backend);
    let down = "by=checks state=down";
    wait_until("it is down", || {
        proxy
            .control("backend list")
            .data
            .join("\n")
            .contains(down)
            .then_some(())
    });
    std::fs::remove_file(&path).expect("remove");
    let _again = answering(&path, "again");
    wait_until("it is up", || {
        (!proxy.control("backend list").data.join("\n").contains(down)).then_some(())
    });
    assert_eq!(proxy.client().get("/").body, b"again");
}

/// Whoever waits for a connection that main makes waits no longer than for any other.
#[test]
fn a_change_at_runtime_and_a_dump() {
    let setup = Setup::http();
    let (one, two) = (setup.path("one.sock"), setup.path("two.sock"));
    let (gate, passes) = (Gate::default(), Gate::default());
    let inner = (gate.clone(), passes.clone());
    let _slow = Backend::on_unix(&one, move |peer, _| {
        peer.request()?;
        inner.1.admit(1);
        inner.0.pass();
        peer.send(ok("one"));
        Ok(())
    });
    let _two = answering(&two, "two");
    let proxy = web(setup, &[&one]);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    passes.pass();
    let mut steer = proxy.steer();
    let add = format!(
        "backend add cluster=main id=two address=unix:{}",
        two.display()
    );
    steer.ok(&add);
    steer.ok("backend remove cluster=main id=main-0");
    assert_eq!(proxy.client().get("/").body, b"two");
    gate.admit(1);
    assert_eq!(client.response().body, b"one");
    let dump = steer.dump().join("\n");
    assert!(
        dump.contains(&format!("address=unix:{}", two.display())),
        "{dump}"
    );
    for wrong in ["unix:relative", "unix:", "unix:@abstract"] {
        let what = format!("backend add cluster=main id=x address={wrong}");
        let why = steer.refused(&what, "invalid");
        assert!(why.contains("starts with"), "{why}");
    }
}

/// Every connection is a new one: it has to be made by whoever is there now.
#[test]
fn who_connects_may_die_and_be_another_program() {
    let setup = Setup::tcp().top("worker_count", 1);
    let path = setup.path("tcp.sock");
    let _backend = Backend::on_unix(&path, |peer, _| echo(peer));
    let proxy = setup.cluster("main", &[""], &[at(&path)]).start();
    let ask = |proxy: &Proxy| {
        let mut client = proxy.client();
        client.send("x").finish();
        assert_eq!(client.rest().0, b"x");
    };
    ask(&proxy);
    let first = wait_until("a connector", || proxy.process("connector"));
    assert!(common::signal(first, "KILL"));
    ask(&proxy);
    proxy.wait_log(&format!("the connector, pid {first}, died"));
    proxy.steer().ok("upgrade");
    ask(&proxy);
    proxy.steer().ok("worker restart id=0");
    ask(&proxy);
    // No backend needs it any more.
    proxy.steer().ok("backend remove cluster=main id=main-0");
    wait_until("it has ended", || {
        proxy.process("connector").is_none().then_some(())
    });
    let add = format!(
        "backend add cluster=main id=b address=unix:{}",
        path.display()
    );
    proxy.steer().ok(&add);
    ask(&proxy);
}

/// Without main they are made as before.
#[test]
fn they_are_made_when_main_is_dead() {
    let setup = Setup::http().top("worker_count", 1);
    let path = setup.path("app.sock");
    let backend = Backend::on_unix(&path, |peer, _| {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na");
        Ok(())
    });
    let mut proxy = web(setup, &[&path]);
    assert_eq!(proxy.client().get("/").text(), "a");
    for name in ["keys", "connector"] {
        let pid = proxy.process(name).expect(name);
        proxy.adopt(pid);
    }
    proxy.adopt(proxy.worker().pid);
    proxy.kill_main();
    proxy.wait_log("main is gone");
    assert_eq!(proxy.client().get("/").text(), "a");
    assert_eq!(backend.connections(), 2);
}
