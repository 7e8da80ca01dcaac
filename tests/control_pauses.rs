//! A cluster that is paused: its new requests wait, in order and within bounds,
//! and go on with the configuration as it is then.

mod common;

use common::{ok, signal, wait_until, Backend, Control, Gate, Peer, Proxy, Setup, StuckListener};
use sozu_lib::limits::PAUSES_MAX;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

fn workers(count: usize) -> Setup {
    Setup::http().top("worker_count", count)
}

/// How many wait for `main`; nothing if it is not paused.
fn waiting(client: &mut Control) -> Option<usize> {
    let status = client.ok("status");
    let line = status
        .data
        .iter()
        .find(|line| line.starts_with("paused cluster=main "))?;
    let pairs = line.split(' ').filter_map(|word| word.split_once('='));
    let value = |wanted: &str| pairs.clone().find(|(key, _)| *key == wanted);
    assert!(value("seconds_left").is_some(), "{line}");
    value("waiting").and_then(|(_, count)| count.parse().ok())
}

#[track_caller]
fn wait_for(client: &mut Control, count: usize) {
    wait_until(&format!("{count} that wait"), || {
        (waiting(client) == Some(count)).then_some(())
    });
}

/// A client whose request is held.
#[track_caller]
fn held(proxy: &Proxy, client: &mut Control, path: &str) -> Peer {
    let before = waiting(client).expect("a pause");
    let mut peer = proxy.client();
    peer.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    wait_for(client, before + 1);
    peer
}

#[track_caller]
fn answer(peer: &mut Peer) -> String {
    let answer = peer.response();
    assert_eq!(answer.status(), 200, "{answer:?}");
    answer.text()
}

/// The point of it: all backends are replaced, and nobody notices.
#[test]
fn all_backends_are_replaced_under_steady_requests() {
    let old = Backend::named("old");
    let proxy = workers(2).backends(&[old.address()]).start();
    let mut client = proxy.steer();
    let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let load = |fresh: bool| {
        let (stop, served, address) = (stop.clone(), served.clone(), proxy.address());
        std::thread::spawn(move || {
            let mut peer = Peer::connect(address);
            while !stop.load(Ordering::SeqCst) {
                if fresh {
                    peer = Peer::connect(address);
                }
                let answer = peer.get("/");
                assert_eq!(answer.status(), 200, "{answer:?}");
                served.fetch_add(1, Ordering::SeqCst);
            }
        })
    };
    let clients: Vec<_> = (0..8).map(|i| load(i % 2 == 0)).collect();
    let more = |count: usize| {
        let before = served.load(Ordering::SeqCst);
        wait_until("more requests", || {
            (served.load(Ordering::SeqCst) >= before + count).then_some(())
        });
    };
    more(100);
    for round in 0..3 {
        client.ok("cluster pause id=main max=30");
        let id = format!("main-{round}");
        client.ok(&format!("backend remove cluster=main id={id} wait=30"));
        wait_for(&mut client, 8);
        // Nobody is asked while it is paused, and nobody is there to be asked.
        let at_rest = served.load(Ordering::SeqCst);
        let next = round + 1;
        let new = Backend::named(&format!("new {next}"));
        let address = new.address();
        client.ok(&format!(
            "backend add cluster=main id=main-{next} address={address}"
        ));
        assert_eq!(served.load(Ordering::SeqCst), at_rest);
        client.ok("cluster resume id=main");
        more(100);
        assert_eq!(proxy.client().get("/").text(), format!("new {next}"));
        assert_eq!(waiting(&mut client), None);
        // It serves until the next one comes.
        std::mem::forget(new);
    }
    stop.store(true, Ordering::SeqCst);
    clients
        .into_iter()
        .for_each(|load| load.join().expect("no request fails"));
}

#[test]
fn who_came_first_goes_first() {
    let backend = Backend::named("here");
    let proxy = workers(1).backends(&[backend.address()]).start();
    let mut client = proxy.steer();
    client.ok("cluster pause id=main max=30");
    let mut peers: Vec<Peer> = (0..9)
        .map(|n| held(&proxy, &mut client, &format!("/{n}")))
        .collect();
    assert_eq!(backend.connections(), 0);
    // Those who go away free their place.
    drop(peers.remove(3));
    wait_for(&mut client, 8);
    drop(peers.remove(7));
    wait_for(&mut client, 7);
    client.ok("cluster resume id=main");
    peers.iter_mut().for_each(|peer| drop(answer(peer)));
    let paths: Vec<String> = backend
        .requests()
        .iter()
        .map(|r| r.target().to_string())
        .collect();
    let wanted: Vec<String> = (0..9)
        .filter(|n| ![3, 8].contains(n))
        .map(|n| format!("/{n}"))
        .collect();
    assert_eq!(paths, wanted);
    proxy.wait_access(1, "client_closed");
}

#[test]
fn the_queue_is_bounded() {
    let backend = Backend::named("here");
    // Half of the buffers may wait.
    let setup = workers(1).top("max_buffers", 16);
    let proxy = setup.backends(&[backend.address()]).start();
    let mut client = proxy.steer();
    client.ok("cluster pause id=main max=30");
    let mut peers: Vec<Peer> = (0..8).map(|_| held(&proxy, &mut client, "/")).collect();
    let mut late = proxy.client();
    let refused = late.get("/late");
    assert_eq!(refused.status(), 503);
    let seconds: u32 = refused
        .field("Retry-After")
        .expect("a field")
        .parse()
        .expect("seconds");
    assert!((1..=30).contains(&seconds), "{seconds}");
    let line = proxy.wait_access(1, "/late").remove(0);
    assert!(line.contains(" proxy_queue_full "), "{line}");
    assert_eq!(waiting(&mut client), Some(8));
    // A place that is free is taken, on the same connection too.
    drop(peers.pop());
    wait_for(&mut client, 7);
    late.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for(&mut client, 8);
    client.ok("cluster resume id=main");
    assert_eq!(answer(&mut late), "here");
    peers.iter_mut().for_each(|peer| drop(answer(peer)));
}

#[test]
fn tcp_connections_wait_too() {
    let backend = Backend::scripted(|peer, _| {
        let bytes = peer.exactly(4)?;
        peer.send(bytes);
        Ok(())
    });
    let proxy = Setup::tcp()
        .top("max_buffers", 4)
        .backends(&[backend.address()])
        .start();
    let mut client = proxy.steer();
    client.ok("cluster pause id=main max=30");
    let mut one = proxy.client();
    one.send("ping");
    wait_for(&mut client, 1);
    // Its side is shut: it has said all, and is not gone.
    let mut two = proxy.client();
    two.send("pong").finish();
    wait_for(&mut client, 2);
    let mut three = proxy.client();
    assert!(three.exactly(1).is_err());
    proxy.wait_access(1, "proxy_queue_full");
    assert_eq!(backend.connections(), 0);
    client.ok("cluster resume id=main");
    assert_eq!(one.exactly(4), Ok(b"ping".to_vec()));
    assert_eq!(two.exactly(4), Ok(b"pong".to_vec()));
}

/// And the limit for connecting does not run meanwhile.
#[test]
fn it_ends_by_itself() {
    let backend = Backend::named("here");
    let setup = workers(2).listener("connect_timeout", 1);
    let proxy = setup.backends(&[backend.address()]).start();
    let mut client = proxy.steer();
    let mut events = proxy.steer();
    events.send("events\nping\n");
    events.reply();
    client.ok("cluster pause id=main max=1");
    client.ok("cluster pause id=main max=3");
    let mut peer = held(&proxy, &mut client, "/");
    peer.silent_for(Duration::from_millis(1500));
    assert_eq!(answer(&mut peer), "here");
    wait_until("the end", || waiting(&mut client).is_none().then_some(()));
    let kinds: Vec<String> = (0..3).map(|_| events.line().expect("an event")).collect();
    assert!(
        kinds[0].contains(" kind=paused cluster=main max=1"),
        "{kinds:?}"
    );
    assert!(
        kinds[2].contains(" kind=resumed cluster=main why=\"the time is over\""),
        "{kinds:?}"
    );
    proxy.wait_log("the time is over");
    client.refused("cluster resume id=main", "missing");
}

#[test]
fn what_runs_goes_on_and_other_clusters_do_not_notice() {
    let gate = Gate::default();
    let backend = {
        let gate = gate.clone();
        Backend::replying(move |_| {
            gate.pass();
            ok("late")
        })
    };
    let other = Backend::named("other");
    let rule = ["hostname = \"other\""];
    let servers = [format!("address = \"{}\"", other.address())];
    let setup = workers(1)
        .backends(&[backend.address()])
        .cluster("other", &rule, &servers);
    let proxy = setup.start();
    let mut client = proxy.steer();
    let mut running = proxy.client();
    running.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    backend.wait_requests(1);
    client.ok("cluster pause id=main max=30");
    gate.admit(1);
    assert_eq!(answer(&mut running), "late");
    let mut elsewhere = proxy.client();
    let request = "GET / HTTP/1.1\r\nHost: other\r\n\r\n";
    assert_eq!(elsewhere.ask(request).text(), "other");
    // The next request of the same connection waits.
    running.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_for(&mut client, 1);
    let explained = client.ok(&format!("explain listener={} hostname=a", proxy.address()));
    let line = explained
        .data
        .iter()
        .find(|line| line.starts_with("paused cluster=main "));
    assert!(line.is_some(), "{explained:?}");
    gate.admit(1);
    client.ok("cluster resume id=main");
    assert_eq!(answer(&mut running), "late");
    // It is no part of the state.
    client.ok("cluster pause id=main max=30");
    assert!(!client.dump().join("\n").contains("pause"));
    assert!(client.ok("state diff").data.is_empty());
}

/// A second try that comes to a paused cluster waits as well.
#[test]
fn a_retry_waits() {
    let stuck = StuckListener::new();
    let setup = workers(1).listener("connect_timeout", 1);
    let proxy = setup.backends(&[stuck.address()]).start();
    let mut client = proxy.steer();
    let mut peer = proxy.client();
    peer.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    wait_until("the connection", || {
        (proxy.worker().connections == 1).then_some(())
    });
    client.ok("cluster pause id=main max=30");
    wait_for(&mut client, 1);
    let backend = Backend::named("here");
    client.transact(&[
        "backend remove cluster=main id=main-0".to_string(),
        format!(
            "backend add cluster=main id=b address={}",
            backend.address()
        ),
    ]);
    client.ok("cluster resume id=main");
    assert_eq!(answer(&mut peer), "here");
}

/// Its successor knows of the pause; who waited in the dead one is lost, as all that it carried.
#[test]
fn a_worker_that_is_killed_or_replaced_holds_again() {
    let backend = Backend::named("here");
    let proxy = workers(1).backends(&[backend.address()]).start();
    let mut client = proxy.steer();
    client.ok("cluster pause id=main max=30");
    drop(held(&proxy, &mut client, "/lost"));
    let first = proxy.worker();
    assert!(signal(first.pid, "KILL"));
    let second = wait_until("another worker", || {
        let workers = proxy.workers();
        workers.into_iter().find(|worker| worker.pid != first.pid)
    });
    wait_for(&mut client, 0);
    let mut peer = held(&proxy, &mut client, "/1");
    // The one that retires goes on holding what it has.
    client.ok("worker restart id=0");
    assert_ne!(proxy.worker().pid, second.pid);
    let mut other = held(&proxy, &mut client, "/2");
    assert_eq!(waiting(&mut client), Some(2));
    assert_eq!(backend.connections(), 0);
    client.ok("cluster resume id=main");
    assert_eq!(answer(&mut peer), "here");
    assert_eq!(answer(&mut other), "here");
}

/// Without main, workers end the pause by themselves.
#[test]
fn main_is_killed_during_a_pause() {
    let backend = Backend::named("here");
    let mut proxy = workers(1).backends(&[backend.address()]).start();
    let mut client = proxy.steer();
    client.ok("cluster pause id=main max=2");
    let mut peer = held(&proxy, &mut client, "/");
    let worker = proxy.worker().pid;
    proxy.adopt(worker);
    proxy.kill_main();
    assert_eq!(answer(&mut peer), "here");
}

#[test]
fn a_cluster_that_is_removed_or_replaced_meanwhile() {
    let backend = Backend::named("here");
    let proxy = workers(1).backends(&[backend.address()]).start();
    let mut client = proxy.steer();
    let frontend = format!("listener={} hostname=*", proxy.address());
    let removal = [
        format!("frontend remove {frontend}"),
        "backend remove cluster=main id=main-0".to_string(),
        "cluster remove id=main".to_string(),
    ];
    let addition = [
        "cluster add id=main answer_503=new".to_string(),
        format!(
            "backend add cluster=main id=main-0 address={}",
            backend.address()
        ),
        format!("frontend add {frontend} cluster=main"),
    ];
    client.ok("cluster pause id=main max=30");
    let mut peer = held(&proxy, &mut client, "/1");
    // In one step: it is the same one, and paused.
    client.transact(&[&removal[..], &addition[..]].concat());
    let mut other = held(&proxy, &mut client, "/2");
    client.ok("cluster resume id=main");
    assert_eq!(
        (answer(&mut peer), answer(&mut other)),
        ("here".into(), "here".into())
    );
    client.ok("cluster pause id=main max=30");
    let mut peer = held(&proxy, &mut client, "/3");
    client.transact(&removal);
    assert_eq!(peer.response().status(), 503);
    proxy.wait_access(1, "backend_none");
    assert_eq!(waiting(&mut client), None);
    client.refused("cluster resume id=main", "missing");
    // Whoever has its name now is not paused.
    client.transact(&addition);
    assert_eq!(proxy.client().get("/4").text(), "here");
}

#[test]
fn it_is_no_part_of_a_transaction() {
    let proxy = workers(1).backends(&[]).start();
    let mut client = proxy.steer();
    client.ok("begin");
    let said = client.refused("cluster pause id=main max=30", "in_use");
    assert!(said.contains("no part of a transaction"), "{said}");
    client.ok("abort");
    client.refused("cluster pause id=nobody max=30", "missing");
    client.refused("cluster resume id=main", "missing");
    assert_eq!(waiting(&mut client), None);
}

#[test]
fn so_many_at_one_time() {
    let backend = Backend::named("here");
    let proxy = workers(2).backends(&[backend.address()]).start();
    let mut client = proxy.steer();
    let clusters: Vec<String> = (0..PAUSES_MAX)
        .map(|n| format!("cluster add id=c{n}"))
        .collect();
    client.transact(&clusters);
    for n in 0..PAUSES_MAX {
        client.ok(&format!("cluster pause id=c{n} max=30"));
    }
    let said = client.refused("cluster pause id=main max=30", "limit");
    assert!(said.contains("the most"), "{said}");
    client.ok("cluster pause id=c7 max=60");
    client.ok("cluster resume id=c7");
    client.ok("cluster pause id=main max=30");
    let mut peer = held(&proxy, &mut client, "/");
    client.ok("cluster resume id=main");
    assert_eq!(answer(&mut peer), "here");
}
