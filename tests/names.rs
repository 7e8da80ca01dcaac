//! Backends by name: the servers behind one come and go as its addresses do, and what was known holds
//! where nobody answers.

mod common;

use common::{ok, wait_until, Backend, Gate, Peer, Proxy, Setup};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

fn at(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, host], port))
}

fn answering(address: SocketAddr, name: &'static str) -> Backend {
    Backend::on(address, move |peer, _| loop {
        peer.request()?;
        peer.send(ok(name));
    })
}

/// Two backends at two addresses and one port.
fn two() -> (Backend, Backend, u16) {
    let one = answering(at(2, 0), "one");
    let port = one.address().port();
    let two = answering(at(3, port), "two");
    (one, two, port)
}

fn by_name(setup: Setup, port: u16) -> Setup {
    let backend = format!("address = \"app.internal:{port}\"");
    setup
        .top("resolve_interval", 1)
        .cluster("main", &["hostname = \"*\""], &[backend])
}

fn hosts(addresses: &[u8]) -> String {
    let line = |host: &u8| format!("127.0.0.{host} app.internal\n");
    addresses.iter().map(line).collect()
}

/// Who answers.
fn answers(proxy: &Proxy) -> BTreeSet<String> {
    let body = |_| proxy.client().get("/").text();
    (0..6).map(body).collect()
}

fn wait_answers(proxy: &Proxy, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|name| name.to_string()).collect();
    wait_until("others answer", || (answers(proxy) == wanted).then_some(()));
}

fn names(proxy: &Proxy) -> String {
    proxy.control("name list").data.join("\n")
}

#[test]
fn servers_come_and_go_with_the_addresses() {
    let (_one, _two, port) = two();
    let setup = Setup::http().hosts(&hosts(&[2]));
    let proxy = by_name(setup, port).start();
    let mut events = proxy.steer();
    events.send("events\n");
    assert_eq!(answers(&proxy), BTreeSet::from(["one".to_string()]));
    proxy.set_hosts(&hosts(&[2, 3]));
    wait_answers(&proxy, &["one", "two"]);
    let event = events.line().expect("an event");
    assert!(
        event.contains("kind=resolved name=app.internal addresses=127.0.0.2,127.0.0.3"),
        "{event}"
    );
    let listed = proxy.control("backend list").data;
    let server = format!("server cluster=main id=main-0@127.0.0.3 address=127.0.0.3:{port}");
    assert!(listed.contains(&server), "{listed:?}");
    proxy.set_hosts(&hosts(&[3]));
    wait_answers(&proxy, &["two"]);
    assert!(proxy.control("state check").last.contains("agrees=true"));
    let metrics = proxy.control("metrics").data.join("\n");
    assert!(
        metrics.contains("id=main-0@127.0.0.3") && !metrics.contains("@127.0.0.2"),
        "{metrics}"
    );
    let dump = proxy.steer().dump().join("\n");
    assert!(
        dump.contains(&format!("id=main-0 address=app.internal:{port}")) && !dump.contains('@'),
        "{dump}"
    );
}

/// Running requests finish at a server that the name stands for no more.
#[test]
fn a_server_that_goes_finishes_what_it_has() {
    let gate = Gate::default();
    let passes = gate.clone();
    let slow = Backend::on(at(2, 0), move |peer, _| {
        peer.request()?;
        passes.pass();
        peer.send(ok("slow"));
        Ok(())
    });
    let port = slow.address().port();
    let _other = answering(at(3, port), "other");
    let setup = Setup::http().hosts(&hosts(&[2]));
    let proxy = by_name(setup, port).start();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    slow.wait_requests(1);
    proxy.set_hosts(&hosts(&[3]));
    proxy.steer().ok("name refresh name=app.internal");
    proxy.wait_log("stands for 127.0.0.3");
    // Behind what workers were told.
    proxy.steer().ok("state check");
    assert_eq!(proxy.client().get("/").text(), "other");
    // Whoever waits for the whole backend waits for it, too.
    let mut steer = proxy.steer();
    steer.send("backend remove cluster=main id=main-0 wait=30\n");
    let mut told = String::new();
    while !told.starts_with("progress connections=1") {
        told = steer.line().expect("progress");
    }
    gate.admit(1);
    assert_eq!(client.response().text(), "slow");
    let reply = steer.reply();
    assert!(reply.last.contains("connections=0"), "{reply:?}");
}

/// The answer to the change comes when the name has its servers: nobody finds none.
#[test]
fn a_name_takes_the_place_of_an_address_without_a_gap() {
    let (one, _two, port) = two();
    let setup = Setup::http().hosts(&hosts(&[3]));
    let proxy = setup.backends(&[one.address()]).start();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut client = proxy.client();
            while !over.load(Ordering::Relaxed) {
                assert_eq!(client.get("/").status(), 200);
            }
        });
        let add = format!("backend add cluster=main id=b address=app.internal:{port}");
        proxy
            .steer()
            .transact(&["backend remove cluster=main id=main-0", &add]);
        assert_eq!(answers(&proxy), BTreeSet::from(["two".to_string()]));
        over.store(true, Ordering::Relaxed);
        asking.join().expect("every request is answered");
    });
}

#[test]
fn a_name_that_nobody_knows_is_told_and_asked_for_again() {
    let (_one, _two, port) = two();
    let setup = Setup::http().hosts("");
    let proxy = by_name(setup, port).start();
    assert_eq!(proxy.client().get("/").status(), 503);
    assert!(
        names(&proxy).contains("name=app.internal addresses=- "),
        "{}",
        names(&proxy)
    );
    let explain = format!("explain url=http://{}/", proxy.address());
    let explained = proxy.steer().ask(&explain);
    assert!(
        explained
            .data
            .join("\n")
            .contains("its name is not resolved"),
        "{explained:?}"
    );
    let add = format!("backend add cluster=main id=b address=other.internal:{port}");
    let reply = proxy.steer().ok(&add);
    assert!(
        reply.data[0].contains("name other.internal is not resolved"),
        "{reply:?}"
    );
    proxy.set_hosts(&hosts(&[2]));
    wait_answers(&proxy, &["one"]);
    proxy.set_hosts("");
    wait_until("nobody answers for the name", || {
        names(&proxy).contains("why=").then_some(())
    });
    // It stands for what it did.
    assert_eq!(answers(&proxy), BTreeSet::from(["one".to_string()]));
    let why = proxy
        .steer()
        .refused("name refresh name=nobody.internal", "missing");
    assert!(why.contains("no backend has the name"), "{why}");
}

#[test]
fn addresses_are_known_after_an_upgrade_and_after_the_death_of_who_asks() {
    let (_one, _two, port) = two();
    let setup = Setup::http().hosts(&hosts(&[2]));
    let proxy = by_name(setup, port).start();
    proxy.set_hosts("");
    proxy.steer().ok("upgrade");
    assert_eq!(answers(&proxy), BTreeSet::from(["one".to_string()]));
    let first = wait_until("a resolver", || proxy.process("resolver"));
    assert!(common::signal(first, "KILL"));
    proxy.wait_log(&format!("the resolver, pid {first}, died"));
    wait_until("another resolver", || {
        proxy.process("resolver").filter(|pid| *pid != first)
    });
    proxy.set_hosts(&hosts(&[3]));
    wait_answers(&proxy, &["two"]);
    proxy.steer().ok("worker restart id=0");
    wait_answers(&proxy, &["two"]);
}

#[test]
fn addresses_are_known_after_a_restart() {
    let (_one, _two, port) = two();
    let setup = Setup::http().hosts(&hosts(&[2]));
    let saved = format!("{:?}", setup.path("state"));
    let setup = setup
        .top("saved_state", saved)
        .top("automatic_state_save", true);
    let mut proxy = by_name(setup, port).start();
    wait_until("the names are written down", || {
        std::fs::read_to_string(proxy.path("config.toml.names")).ok()
    });
    proxy.steer().ok("shutdown hard");
    assert!(proxy.wait_exit().success());
    proxy.set_hosts("");
    let again = proxy.again(&[]).expect("it starts");
    assert_eq!(answers(&again), BTreeSet::from(["one".to_string()]));
    assert!(names(&again).contains("why="), "{}", names(&again));
}

#[test]
fn sessions_stick_to_a_server_and_its_address_is_not_told() {
    let (_one, _two, port) = two();
    let setup = Setup::http().hosts(&hosts(&[2, 3]));
    let proxy = by_name(setup, port).start();
    proxy
        .steer()
        .ok("cluster update id=main sticky_sessions=true");
    let mut client = proxy.client();
    let first = client.get("/");
    let cookie = first.field("set-cookie").expect("a cookie").to_string();
    assert!(!cookie.contains("127"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap_or_default();
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nCookie: {cookie}\r\n\r\n");
    for _ in 0..6 {
        let mut other: Peer = proxy.client();
        assert_eq!(other.ask(&request).text(), first.text());
    }
}

#[test]
fn servers_are_checked_each_for_itself() {
    let (one, _two, port) = two();
    let setup = Setup::http().hosts(&hosts(&[2, 3]));
    let proxy = by_name(setup, port).start();
    let check =
        "cluster update id=main health_check=tcp health_interval=1 health_rise=1 health_fall=1";
    proxy.steer().ok(check);
    drop(one);
    wait_until("one is down", || {
        let listed = proxy.control("backend list").data.join("\n");
        listed
            .contains("health cluster=main id=main-0@127.0.0.2 by=checks state=down")
            .then_some(())
    });
    assert_eq!(answers(&proxy), BTreeSet::from(["two".to_string()]));
}

#[test]
fn ids_that_servers_have_are_nobodys() {
    let setup = Setup::http().hosts(&hosts(&[2]));
    let proxy = by_name(setup, 1).start();
    let mut steer = proxy.steer();
    let why = steer.refused(
        "backend add cluster=main id=a@b address=127.0.0.1:1",
        "invalid",
    );
    assert!(why.contains("an id has no"), "{why}");
    let long = "x".repeat(100);
    let why = steer.refused(
        &format!("backend add cluster=main id={long} address=app:1"),
        "invalid",
    );
    assert!(why.contains("at most"), "{why}");
    steer.ok(&format!(
        "backend add cluster=main id={long} address=127.0.0.1:1"
    ));
}

/// What a client has asked for holds when it is done, however long its names were waited for.
#[test]
fn a_revision_is_looked_at_when_the_names_are_there() {
    let (_one, _two, port) = two();
    let setup = Setup::http().hosts(&hosts(&[2]));
    let proxy = by_name(setup, port).start();
    let mut steer = proxy.steer();
    steer.ok("begin");
    steer.ok(&format!(
        "backend add cluster=main id=b address=other.internal:{port}"
    ));
    let why = steer.refused("commit revision=7", "mismatch");
    assert!(why.contains("the revision is 0"), "{why}");
    steer.ok("begin");
    steer.ok(&format!(
        "backend add cluster=main id=b address=other.internal:{port}"
    ));
    steer.ok("commit revision=0 confirm=60");
    steer.ok("confirm");
    steer.ok("backend remove cluster=main id=b");
    steer.ok("backend remove cluster=main id=main-0");
    // Nobody has a name any more, and nobody is there to ask.
    wait_until("the resolver has ended", || {
        let status = proxy.control("status").data.join("\n");
        (!status.contains("resolver ")).then_some(())
    });
    steer.ok(&format!(
        "backend add cluster=main id=b address=app.internal:{port}"
    ));
    assert_eq!(answers(&proxy), BTreeSet::from(["one".to_string()]));
}
