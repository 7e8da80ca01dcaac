//! Backends that have as many requests as they may: who waits, in which order, and for how long.

mod common;

use common::{ok, refused_address, wait_until, Backend, Gate, Peer, Proxy, Setup, StuckListener};
use std::time::Instant;

/// A backend that answers when the gate lets it.
fn gated() -> (Gate, Backend) {
    let gate = Gate::default();
    let at = gate.clone();
    let backend = Backend::replying(move |request| {
        at.pass();
        ok(request.target())
    });
    (gate, backend)
}

fn full_setup(backend: &Backend, keys: &str) -> Setup {
    let row = format!("address = \"{}\", max_connections = 2", backend.address());
    Setup::http()
        .cluster("main", &["hostname = \"*\""], &[row])
        .more(keys)
}

fn send(proxy: &Proxy, path: &str) -> Peer {
    let mut client = proxy.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n"));
    client
}

fn wait_queued(proxy: &Proxy, count: u64) {
    wait_until("so many wait", || {
        let data = proxy.control("connections list").data;
        let held = data.iter().filter(|line| line.contains(" state=held "));
        (held.count() as u64 == count).then_some(())
    });
}

/// Until a connection to that backend could not be made.
fn wait_failed(proxy: &Proxy, backend: &str) {
    let name = format!(" id={backend} ");
    wait_until("it is tried", || {
        let data = proxy.control("metrics").data;
        let mut lines = data.iter().filter(|line| line.contains(&name));
        let never = " connect_failures=0 ";
        lines.any(|line| !line.contains(never)).then_some(())
    });
}

#[test]
fn who_waits_for_a_full_backend_is_served_in_order() {
    let (gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 60\n")
        .top("worker_count", 2)
        .start();
    let mut first: Vec<Peer> = (0..2).map(|n| send(&proxy, &format!("/{n}"))).collect();
    backend.wait_requests(2);
    let mut waiting = Vec::new();
    for n in 2..8 {
        waiting.push(send(&proxy, &format!("/{n}")));
        wait_queued(&proxy, n - 1);
    }
    assert_eq!(backend.requests().len(), 2);
    // One gives up.
    drop(waiting.remove(2));
    wait_queued(&proxy, 5);
    gate.admit(100);
    for client in first.iter_mut().chain(&mut waiting) {
        assert_eq!(client.response().status(), 200);
    }
    let mut paths: Vec<String> = backend
        .requests()
        .iter()
        .map(|r| r.target().into())
        .collect();
    paths.sort();
    assert_eq!(paths, ["/0", "/1", "/2", "/3", "/5", "/6", "/7"]);
    wait_queued(&proxy, 0);
}

/// Of a body that finds no room nothing more is read, and yet it is heard that its client is gone.
#[test]
fn who_is_gone_waits_no_longer() {
    let (_gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 60\n").start();
    let _busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let begin = |path: &str| {
        let mut client = proxy.client();
        let body = "b".repeat(60_000);
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\n{body}"
        ));
        client
    };
    let mut half = begin("/half");
    let closed = begin("/closed");
    wait_queued(&proxy, 2);
    half.finish();
    wait_queued(&proxy, 1);
    assert_eq!(half.response().status(), 503);
    drop(closed);
    wait_queued(&proxy, 0);
    for path in ["/half", "/closed"] {
        proxy.wait_access(1, &format!("POST {path}\" 503 0 "));
    }
    proxy.wait_access(2, " client_closed \"while its request was held\"");
    assert_eq!(backend.requests().len(), 2);
}

/// A backend's place is free once its client has reset, whatever the backend does.
#[test]
fn who_is_gone_takes_no_place_of_a_backend() {
    let gate = Gate::default();
    let at = gate.clone();
    let backend = Backend::replying(move |request| {
        if request.target() == "/slow" {
            at.pass();
        }
        ok(request.target())
    });
    let row = format!("address = \"{}\", max_connections = 1", backend.address());
    let setup = Setup::http().cluster("main", &["hostname = \"*\""], &[row]);
    let proxy = setup.more("queue_timeout = 60\n").start();
    // The first answer is never read: that makes a reset of its close.
    let mut gone = send(&proxy, "/first");
    gone.send("GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n");
    backend.wait_requests(2);
    let mut waiting = send(&proxy, "/next");
    wait_queued(&proxy, 1);
    gone.reset();
    assert_eq!(waiting.response().text(), "/next");
    proxy.wait_access(1, " client_reset ");
}

#[test]
fn one_worker_serves_its_queue_in_the_order_in_which_it_came() {
    let (gate, backend) = gated();
    let row = format!("address = \"{}\", max_connections = 1", backend.address());
    let setup = Setup::http().cluster("main", &["hostname = \"*\""], &[row]);
    let proxy = setup.more("queue_timeout = 60\n").start();
    let mut clients = vec![send(&proxy, "/0")];
    backend.wait_requests(1);
    for n in 1..9 {
        clients.push(send(&proxy, &format!("/{n}")));
        wait_queued(&proxy, n);
    }
    gate.admit(9);
    clients
        .iter_mut()
        .for_each(|client| assert_eq!(client.response().status(), 200));
    let requests = backend.requests();
    let paths: Vec<&str> = requests.iter().map(|r| r.target()).collect();
    assert_eq!(
        paths,
        ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8"]
    );
}

#[test]
fn nobody_waits_longer_than_he_may_nor_behind_too_many() {
    let (gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 1\nmax_queue = 1\n").start();
    let _busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let begun = Instant::now();
    let mut waiting = send(&proxy, "/2");
    wait_queued(&proxy, 1);
    let beyond = send(&proxy, "/3").response();
    assert_eq!(
        (beyond.status(), beyond.field("Retry-After")),
        (503, Some("1"))
    );
    let late = waiting.response();
    // A turn of the worker has one time, that of its start.
    assert!(begun.elapsed().as_millis() >= 990);
    assert_eq!((late.status(), late.field("Retry-After")), (503, Some("1")));
    proxy.wait_access(1, " proxy_queue_full ");
    proxy.wait_access(1, " proxy_queue_timeout ");
    // The connection is good for another one.
    gate.admit(3);
    assert_eq!(waiting.get("/4").status(), 200);
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn a_queue_does_not_outlive_its_cluster() {
    let (_gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 60\n").start();
    let _busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let mut waiting = send(&proxy, "/2");
    wait_queued(&proxy, 1);
    let mut client = proxy.steer();
    let address = proxy.address();
    client.transact(&[
        format!("frontend remove listener={address} hostname=*"),
        "backend remove cluster=main id=main-0".into(),
        "cluster remove id=main".into(),
    ]);
    assert_eq!(waiting.response().status(), 503);
}

/// One whose connection fails has waited all the same.
#[test]
fn who_was_called_in_vain_goes_first() {
    let (gate, backend) = gated();
    let setup = full_setup(&backend, "queue_timeout = 60\n");
    let proxy = setup.listener("connect_timeout", 1).start();
    let mut busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let mut waiting: Vec<Peer> = Vec::new();
    for n in 2..5 {
        waiting.push(send(&proxy, &format!("/{n}")));
        wait_queued(&proxy, n - 1);
    }
    let stuck = StuckListener::new();
    let address = stuck.address();
    proxy.steer().ok(&format!(
        "backend add cluster=main id=stuck address={address} max_connections=1"
    ));
    wait_failed(&proxy, "stuck");
    gate.admit(1);
    let all = backend.wait_requests(3);
    let targets: Vec<&str> = all.iter().map(|request| request.target()).collect();
    assert!(targets.contains(&"/2"), "{targets:?}");
    gate.admit(9);
    busy.iter_mut()
        .chain(&mut waiting[..1])
        .for_each(|client| assert_eq!(client.response().status(), 200));
}

/// That nobody is left is told by why the first was none.
#[test]
fn who_waits_again_keeps_in_mind_what_went_wrong() {
    let (_gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 60\n").start();
    let _busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let mut waiting = send(&proxy, "/2");
    wait_queued(&proxy, 1);
    let address = refused_address();
    let mut client = proxy.steer();
    client.ok(&format!(
        "backend add cluster=main id=refused address={address}"
    ));
    wait_failed(&proxy, "refused");
    wait_queued(&proxy, 1);
    client.ok("backend update cluster=main id=main-0 state=drain");
    assert_eq!(waiting.response().status(), 503);
    proxy.wait_access(1, "\"GET /2\" 503 0 ");
    proxy.wait_access(1, " backend_refused ");
}

/// Another backend makes room as well.
#[test]
fn who_waits_is_served_by_a_backend_that_is_added() {
    let (_gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 60\n").start();
    let _busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let mut waiting = send(&proxy, "/2");
    wait_queued(&proxy, 1);
    let new = Backend::named("new");
    let address = new.address();
    proxy.steer().ok(&format!(
        "backend add cluster=main id=new address={address}"
    ));
    assert_eq!(waiting.response().text(), "new");
}

#[test]
fn a_tunnel_counts_and_tcp_waits_as_well() {
    let row =
        |backend: &Backend| format!("address = \"{}\", max_connections = 1", backend.address());
    let backend = Backend::scripted(|peer, number| {
        peer.send([b'0' + number as u8]);
        peer.rest();
        Ok(())
    });
    let setup = Setup::tcp().cluster("main", &[""], &[row(&backend)]);
    let proxy = setup.more("queue_timeout = 60\n").start();
    let mut first = proxy.client();
    assert_eq!(first.exactly(1).expect("a byte"), b"0");
    let mut second = proxy.client();
    wait_queued(&proxy, 1);
    assert_eq!(backend.connections(), 1);
    drop(first);
    assert_eq!(second.exactly(1).expect("a byte"), b"1");
}
