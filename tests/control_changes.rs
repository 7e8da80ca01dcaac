//! What `ok` means: from then on every worker serves by the new configuration,
//! and whoever has nothing to do with a change does not notice it.

#[path = "common/certificate.rs"]
mod certificate;
mod common;

use certificate::{Keys, Made, Secure};
use common::{free_address, ok, signal, wait_until, Backend, Broken, Control, Gate, Peer, Setup};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: ws\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn workers(count: usize) -> Setup {
    Setup::http().top("worker_count", count)
}

fn add_site(client: &mut Control, listener: SocketAddr, name: &str, backend: SocketAddr) {
    client.transact(&[
        format!("cluster add id={name}"),
        format!("backend add cluster={name} id=0 address={backend}"),
        format!("frontend add listener={listener} hostname={name} cluster={name}"),
    ]);
}

fn refused(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_err()
}

fn request(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn host(peer: &mut Peer, name: &str) -> String {
    let answer = peer.ask(request(name, "/"));
    match answer.status() {
        200 => answer.text(),
        status => status.to_string(),
    }
}

/// What that many fresh connections answer, with how many each.
fn fresh(address: SocketAddr, name: &str, count: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    let mut peers = Vec::new();
    for _ in 0..count {
        let mut peer = Peer::connect(address);
        *answers.entry(host(&mut peer, name)).or_default() += 1;
        // They stay, so that every worker gets some.
        peers.push(peer);
    }
    answers
}

#[track_caller]
fn only(answers: BTreeMap<String, usize>, wanted: &str) {
    let answers: Vec<String> = answers.into_keys().collect();
    assert_eq!(answers, [wanted]);
}

/// A backend that lets requests for `/slow` wait, and counts nothing else.
fn slow(name: &'static str) -> (Backend, Gate) {
    let gate = Gate::default();
    let inner = gate.clone();
    let backend = Backend::replying(move |request| {
        if request.target() == "/slow" {
            inner.pass();
        }
        ok(name)
    });
    (backend, gate)
}

/// Sends back what comes, after agreeing to whatever was asked.
fn echo(agree: &'static str) -> Backend {
    Backend::scripted(move |peer, _| {
        if !agree.is_empty() {
            peer.request()?;
            peer.send(agree);
        }
        loop {
            let byte = peer.exactly(1)?;
            peer.send(byte);
        }
    })
}

fn echoes(tunnel: &mut Peer, word: &str) {
    tunnel.send(word);
    assert_eq!(tunnel.exactly(word.len()).expect("echo"), word.as_bytes());
}

/// After `ok` there is no request on any worker that goes the old way.
#[test]
fn every_worker_has_applied_it() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let proxy = workers(4).start();
    let (mut client, address) = (proxy.steer(), proxy.address());
    add_site(&mut client, address, "one", one.address());
    add_site(&mut client, address, "two", two.address());
    let mut kept: Vec<Peer> = (0..8).map(|_| proxy.client()).collect();
    let mut old = "";
    for round in 0..30 {
        let name = ["one", "two"][round % 2];
        let add = format!("frontend add listener={address} hostname=site cluster={name}");
        if old.is_empty() {
            client.ok(&add);
        } else {
            let remove = format!("frontend remove listener={address} hostname=site");
            client.transact(&[remove, add]);
        }
        old = name;
        only(fresh(address, "site", 8), name);
        for peer in &mut kept {
            assert_eq!(host(peer, "site"), name, "on a connection that was there");
        }
    }
    client.ok(&format!("frontend remove listener={address} hostname=site"));
    only(fresh(address, "site", 8), "404");
}

#[test]
fn a_backend_that_is_removed() {
    let ((old, gate), new) = (slow("old"), Backend::named("new"));
    let proxy = workers(2).backends(&[old.address()]).start();
    let (mut control, mut client) = (proxy.steer(), proxy.client());
    client.send(request("x", "/slow"));
    old.wait_requests(1);
    control.transact(&[
        "backend remove cluster=main id=main-0".to_string(),
        format!(
            "backend add cluster=main id=main-1 address={}",
            new.address()
        ),
    ]);
    only(fresh(proxy.address(), "x", 12), "new");
    assert_eq!(old.requests().len(), 1, "it got something new");
    gate.admit(1);
    assert_eq!(client.response().text(), "old", "what it had it finished");
    assert_eq!(host(&mut client, "x"), "new");
    control.ok("backend remove cluster=main id=main-1");
    only(fresh(proxy.address(), "x", 4), "503");
    // The same name again is another backend.
    let address = old.address();
    control.ok(&format!(
        "backend add cluster=main id=main-0 address={address}"
    ));
    only(fresh(proxy.address(), "x", 4), "old");
}

#[test]
fn weights_and_states() {
    let ((one, gate), two) = (slow("one"), Backend::named("two"));
    let addresses = [one.address(), two.address()];
    let proxy = workers(2).backends(&addresses).start();
    let (mut control, address) = (proxy.steer(), proxy.address());
    let mut update = |what: &str| {
        control.ok(&format!("backend update cluster=main id=main-0 {what}"));
    };
    let both = fresh(address, "x", 40);
    // Each worker takes turns by itself: one that got an odd number has one left over.
    assert!(
        both.values().sum::<usize>() == 40 && both["one"].abs_diff(20) <= 1,
        "{both:?}"
    );
    update("weight=0");
    only(fresh(address, "x", 12), "two");
    update("weight=100 backup=true");
    only(fresh(address, "x", 12), "two");
    update("backup=false weight=25");
    let share = fresh(address, "x", 40)["one"];
    assert!((6..=10).contains(&share), "{share} of 40, wanted 8");
    update("weight=100 state=ready");
    let mut clients: Vec<Peer> = (0..4).map(|_| proxy.client()).collect();
    for client in &mut clients {
        client.send(request("x", "/slow"));
    }
    wait_until("one of them has come", || {
        let requests = one.requests();
        requests
            .iter()
            .any(|got| got.target() == "/slow")
            .then_some(())
    });
    for state in ["drain", "down"] {
        update(&format!("state={state}"));
        only(fresh(address, "x", 12), "two");
        update("state=ready");
        assert!(fresh(address, "x", 40).contains_key("one"));
        update(&format!("state={state}"));
    }
    gate.admit(4);
    // The others of the four went to the other backend.
    let answers = clients.iter_mut().map(|client| client.response().text());
    assert!(answers.collect::<Vec<_>>().contains(&"one".into()));
}

#[test]
fn a_listener_that_is_disabled_for_a_while() {
    let (backend, gate) = slow("here");
    let proxy = workers(3).backends(&[backend.address()]).start();
    let (mut control, mut client) = (proxy.steer(), proxy.client());
    let (mut idle, address) = (proxy.client(), proxy.address());
    assert_eq!(host(&mut idle, "x"), "here");
    client.send(request("x", "/slow"));
    backend.wait_requests(2);
    for _ in 0..10 {
        control.ok(&format!("listener disable address={address}"));
        assert!(refused(address));
        drop(TcpListener::bind(address).expect("the port is free"));
        assert_eq!(host(&mut idle, "x"), "here", "who is in goes on");
        control.insist(&format!("listener enable address={address}"));
        only(fresh(address, "x", 4), "here");
    }
    gate.admit(1);
    assert_eq!(client.response().text(), "here");
    assert_eq!(host(&mut client, "x"), "here");
    // Somebody else takes the port meanwhile: it cannot be enabled, and stays as it was.
    control.ok(&format!("listener disable address={address}"));
    let taken = TcpListener::bind(address).expect("the port is free");
    control.refused(&format!("listener enable address={address}"), "failed");
    assert!(control.dump()[0].contains("enabled=false"));
    drop(taken);
    control.insist(&format!("listener enable address={address}"));
    only(fresh(address, "x", 6), "here");
}

/// Away and back in one step is no step for who connects.
#[test]
fn a_listener_that_is_replaced_in_one_transaction() {
    let (backend, raw) = (Backend::named("here"), echo(""));
    let proxy = workers(3).backends(&[backend.address()]).start();
    let (mut control, address) = (proxy.steer(), proxy.address());
    let mut kept = proxy.client();
    assert_eq!(host(&mut kept, "x"), "here");
    control.transact(&[
        format!("listener disable address={address}"),
        format!("listener enable address={address}"),
    ]);
    only(fresh(address, "x", 6), "here");
    let frontend = format!("listener={address} hostname=*");
    control.transact(&[
        format!("frontend remove {frontend}"),
        format!("listener remove address={address}"),
        format!("listener add address={address} protocol=http keepalive_timeout=7"),
        format!("frontend add {frontend} cluster=main"),
    ]);
    only(fresh(address, "x", 6), "here");
    // With another protocol.
    control.transact(&[
        format!("frontend remove {frontend}"),
        format!("listener remove address={address}"),
        "cluster add id=raw protocol=tcp".into(),
        format!("backend add cluster=raw id=0 address={}", raw.address()),
        format!("listener add address={address} protocol=tcp"),
        format!("frontend add listener={address} cluster=raw"),
    ]);
    for _ in 0..6 {
        echoes(&mut proxy.client(), "any bytes");
    }
}

/// Connections of a listener that is gone finish what they have.
#[test]
fn a_listener_that_is_removed() {
    let ((backend, gate), raw) = (slow("here"), echo(""));
    let proxy = workers(2).backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let (address, tcp) = (proxy.address(), free_address());
    control.transact(&[
        format!("listener add address={tcp} protocol=tcp"),
        "cluster add id=raw protocol=tcp".into(),
        format!("backend add cluster=raw id=0 address={}", raw.address()),
        format!("frontend add listener={tcp} cluster=raw"),
    ]);
    let (mut client, mut tunnel) = (proxy.client(), Peer::connect(tcp));
    echoes(&mut tunnel, "before");
    client.send(request("x", "/slow"));
    backend.wait_requests(1);
    control.transact(&[
        format!("frontend remove listener={tcp}"),
        format!("listener remove address={tcp}"),
        "backend remove cluster=raw id=0".into(),
        "cluster remove id=raw".into(),
        format!("frontend remove listener={address}"),
        format!("listener remove address={address}"),
    ]);
    assert!(refused(address) && refused(tcp));
    drop([address, tcp].map(|a| TcpListener::bind(a).expect("the port is free")));
    echoes(&mut tunnel, "after");
    tunnel.finish();
    gate.admit(1);
    assert_eq!(client.response().text(), "here");
}

/// Hundreds of changes of every kind, and nobody else notices.
#[test]
fn other_routes_do_not_notice() {
    let (backend, ws, raw) = (Backend::named("here"), echo(AGREE), echo(""));
    let line = |b: &Backend| format!("address = \"{}\"", b.address());
    let setup = workers(2).cluster("here", &["hostname = \"here\""], &[line(&backend)]);
    let proxy = setup
        .cluster("ws", &["hostname = \"ws\""], &[line(&ws)])
        .start();
    let (mut control, tcp) = (proxy.steer(), free_address());
    control.transact(&[
        format!("listener add address={tcp} protocol=tcp"),
        "cluster add id=raw protocol=tcp".into(),
        format!("backend add cluster=raw id=0 address={}", raw.address()),
        format!("frontend add listener={tcp} cluster=raw"),
    ]);
    let mut kept: Vec<Peer> = (0..4).map(|_| proxy.client()).collect();
    let mut socket = proxy.client();
    assert_eq!(socket.ask(ASK).status(), 101);
    let (mut tunnel, listener) = (Peer::connect(tcp), proxy.address());
    let other = free_address();
    for n in 0..60 {
        control.transact(&[
            format!("cluster add id=c{n}"),
            format!("backend add cluster=c{n} id=0 address={other}"),
            format!("frontend add listener={listener} hostname=h{n} cluster=c{n}"),
            format!("listener add address={other} protocol=http"),
            format!("frontend add listener={other} hostname=h{n} cluster=c{n}"),
        ]);
        control.ok(&format!("cluster update id=c{n} answer_503=none"));
        control.ok(&format!(
            "backend update cluster=c{n} id=0 weight=0 state=drain"
        ));
        control.ok(&format!(
            "listener update address={listener} front_timeout={}",
            60 + n
        ));
        control.ok(&format!("listener disable address={other}"));
        echoes(&mut socket, "a frame");
        echoes(&mut tunnel, "some bytes");
        assert_eq!(host(&mut kept[n % 4], "here"), "here");
        control.transact(&[
            format!("frontend remove listener={other} hostname=h{n}"),
            format!("listener remove address={other}"),
            format!("frontend remove listener={listener} hostname=h{n}"),
            format!("backend remove cluster=c{n} id=0"),
            format!("cluster remove id=c{n}"),
        ]);
    }
    for peer in &mut kept {
        assert_eq!(host(peer, "here"), "here");
    }
    assert_eq!([ws.connections(), raw.connections()], [1, 1]);
}

/// What is updated is in effect for what was there before.
#[test]
fn answers_of_clusters_and_listeners() {
    let proxy = workers(3).backends(&[]).start();
    let (mut control, address) = (proxy.steer(), proxy.address());
    let mut kept = proxy.client();
    for round in 0..5 {
        control.ok(&format!(
            "cluster update id=main answer_503=\"sorry {round}\\n\""
        ));
        control.ok(&format!(
            "listener update address={address} answer_404=no{round}"
        ));
        for _ in 0..4 {
            let mut client = proxy.client();
            assert_eq!(client.get("/").text(), format!("sorry {round}\n"));
        }
        assert_eq!(kept.get("/").text(), format!("sorry {round}\n"));
    }
    control.ok(&format!("frontend remove listener={address}"));
    let answer = kept.get("/");
    assert_eq!((answer.status(), answer.text()), (404, "no4".to_string()));
}

/// A worker dies while a change is on its way: `ok` all the same, and its successor has it.
#[test]
fn a_worker_that_is_killed_meanwhile() {
    let backend = Backend::named("new");
    let proxy = workers(2).start();
    let (mut client, address) = (proxy.steer(), proxy.address());
    for round in 0..3 {
        let victim = proxy.workers()[round % 2].pid;
        assert!(signal(victim, "STOP"));
        let mut late = proxy.steer();
        late.send("begin\n").reply();
        for line in [
            format!("cluster add id=c{round}"),
            format!(
                "backend add cluster=c{round} id=0 address={}",
                backend.address()
            ),
            format!("frontend add listener={address} hostname=h{round} cluster=c{round}"),
        ] {
            late.ok(&line);
        }
        late.send("commit\n").silent_for(Duration::from_millis(50));
        assert!(signal(victim, "KILL"));
        assert_eq!(late.reply().number("changes"), 3);
        wait_until("another worker", || {
            let workers = proxy.workers();
            (workers.len() == 2 && workers.iter().all(|w| w.pid != victim)).then_some(())
        });
        for known in 0..=round {
            only(fresh(address, &format!("h{known}"), 6), "new");
        }
        client.ok("ping");
    }
}

/// Workers are replaced one by one under load that never ends: no request fails.
#[test]
fn a_worker_restart_under_load() {
    let backend = Backend::named("here");
    let proxy = workers(2).backends(&[backend.address()]).start();
    let (mut control, address) = (proxy.steer(), proxy.address());
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            std::thread::spawn(move || keep_asking(address, &stop))
        })
        .collect();
    for round in 0..4 {
        let id = round % 2;
        let before = proxy.workers();
        let reply = control.ok(&format!("worker restart id={id}"));
        let pid = reply.number("pid");
        assert!(before.iter().all(|worker| u64::from(worker.pid) != pid));
        wait_until("the old one is gone", || {
            let lines = control.ok("workers").data;
            (lines.len() == 2).then_some(())
        });
    }
    stop.store(true, Ordering::SeqCst);
    let asked = clients
        .into_iter()
        .map(|client| client.join().expect("no failure"));
    assert!(asked.sum::<usize>() > 100, "hardly any load");
}

/// Asks on a kept-alive connection until told to stop; a new one where the proxy says so.
fn keep_asking(address: SocketAddr, stop: &AtomicBool) -> usize {
    let mut peer = Peer::connect(address);
    let mut asked = 0;
    while !stop.load(Ordering::SeqCst) {
        let answer = peer.get("/");
        assert_eq!(answer.text(), "here");
        asked += 1;
        if answer.connection_says("close") {
            assert_eq!(peer.end(), Broken::Eof);
            peer = Peer::connect(address);
        }
    }
    asked
}

/// An old worker that still has connections, which under TLS cannot move, follows the
/// configuration as well.
#[test]
fn a_worker_that_retires_follows_changes() {
    let (one, two) = (Backend::named("one"), Backend::named("two"));
    let proxy = Setup::https().top("worker_count", 1).start();
    let (mut control, address) = (proxy.steer(), proxy.address());
    let made = Made::of(&["site"], Keys::Ecdsa);
    control.ok(&format!(
        "certificate add listener={address} {}",
        made.words()
    ));
    add_site(&mut control, address, "one", one.address());
    add_site(&mut control, address, "two", two.address());
    let site = format!("listener={address} hostname=site");
    control.ok(&format!("frontend add {site} cluster=one"));
    let secure = || Secure::connect(address, "site").expect("TLS");
    let mut idle: Vec<Secure> = (0..3).map(|_| secure()).collect();
    for peer in &mut idle {
        assert!(peer.ask("site").ends_with("one"));
    }
    control.ok("worker restart id=0");
    assert_eq!(control.ok("workers").data.len(), 2);
    control.transact(&[
        format!("frontend remove {site}"),
        format!("frontend add {site} cluster=two"),
    ]);
    assert!(idle[0].ask("site").ends_with("two"));
    control.ok(&format!("listener disable address={address}"));
    assert!(refused(address));
    control.ok(&format!("listener enable address={address}"));
    assert!(idle[1].ask("site").ends_with("two"));
    control.ok(&format!("frontend remove {site}"));
    assert!(idle[2].ask("site").starts_with("HTTP/1.1 404 "));
}

#[test]
fn events_and_deaths() {
    let proxy = workers(2).start();
    let mut listeners = [proxy.steer(), proxy.steer()];
    for listener in &mut listeners {
        listener.send("events\nping\n").reply();
    }
    proxy.steer().ok("cluster add id=a");
    let victim = proxy.workers()[1].pid;
    assert!(signal(victim, "KILL"));
    for listener in &mut listeners {
        let mut event = || listener.line().expect("an event");
        let (change, death, birth) = (event(), event(), event());
        assert!(change.starts_with("event time="), "{change}");
        assert!(
            change.contains(" kind=change revision=1 command=\"cluster add id=a "),
            "{change}"
        );
        let died = format!(" kind=worker_died id=1 pid={victim} ");
        assert!(death.contains(&died), "{death}");
        assert!(birth.contains(" kind=worker_accepts id=1 pid="), "{birth}");
    }
}

#[test]
fn the_level_of_the_log() {
    let proxy = workers(2).start();
    let mut control = proxy.steer();
    let lines = |text: &str| {
        proxy
            .log()
            .iter()
            .filter(|line| line.contains(text))
            .count()
    };
    control.ok("cluster add id=loud");
    proxy.wait_log("id=loud");
    control.ok("logging level=warn");
    control.ok("cluster add id=silent");
    control.ok("logging level=info,sozu_lib::parser::http11=trace");
    control.ok("cluster add id=again");
    proxy.wait_log("id=again");
    assert_eq!(lines("id=silent"), 0);
    // In the workers as well, and in those that start later.
    for id in 0..3 {
        let mut client = proxy.client();
        client.get(&format!("/first{id}"));
        proxy.wait_log(&format!("GET /first{id} "));
        if id < 2 {
            control.ok(&format!("worker restart id={id}"));
        }
    }
    control.ok("logging level=info");
    proxy.client().get("/quiet");
    proxy.wait_access(0, "/quiet");
    control.ok("cluster add id=end");
    proxy.wait_log("id=end");
    assert_eq!(lines("GET /quiet "), 0);
}
