//! What one client may take, on the real binary: who may come, with how many connections.

mod common;

use common::{
    serve_metrics, signal, wait_sum, wait_until, Backend, Broken, Control, Peer, Proxy, Setup,
};
use std::net::SocketAddr;
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Whether that client is served, by a connection of its own that it keeps.
fn comes(proxy: &Proxy, client: &str) -> Option<Peer> {
    let mut peer = Peer::on_behalf_of(client, proxy.address());
    peer.send(GET);
    match peer.try_response("GET") {
        Ok(answer) => {
            assert_eq!(answer.status(), 200);
            Some(peer)
        }
        Err(end) => {
            assert!(matches!(end, Broken::Eof | Broken::Reset), "{end:?}");
            None
        }
    }
}

fn with_workers(count: usize, setup: Setup, backend: &Backend) -> Proxy {
    let setup = setup
        .top("worker_count", count)
        .top("log_level", "\"debug\"");
    setup.backends(&[backend.address()]).start()
}

fn expecting(setup: Setup, backend: &Backend) -> Proxy {
    with_workers(2, setup.listener("expect_proxy", true), backend)
}

// ---- connections --------------------------------------------------------

#[test]
fn a_client_has_so_many_connections_over_all_workers() {
    let backend = Backend::named("a");
    let setup = Setup::http().listener("max_connections_per_ip", 3);
    let proxy = with_workers(2, setup, &backend);
    let metrics = serve_metrics(&mut proxy.steer(), "");
    let mut inside: Vec<Peer> = (0..3).map(|_| proxy.client()).collect();
    for peer in &mut inside {
        assert_eq!(peer.get("/").status(), 200);
    }
    for _ in 0..5 {
        proxy.client().ends();
    }
    let limit = [("limit", "max_connections_per_ip")];
    wait_sum(metrics, "sozu_listener_refused_total", &limit, 5.0);
    proxy.wait_log("the client has max_connections_per_ip already");
    // Those inside have noticed nothing; one that goes makes room for one.
    for peer in &mut inside {
        assert_eq!(peer.get("/").status(), 200);
    }
    drop(inside.pop());
    let open = |proxy: &Proxy| -> usize { proxy.workers().iter().map(|one| one.connections).sum() };
    // Others that ask for the metrics are no clients of this listener.
    wait_until("it is gone", || (open(&proxy) == 2).then_some(()));
    let mut next = proxy.client();
    assert_eq!(next.get("/").status(), 200);
    proxy.client().ends();
}

#[test]
fn who_a_proxy_speaks_for_is_counted_and_a_network_is_one_client() {
    let backend = Backend::named("a");
    let setup = Setup::http().listener("max_connections_per_ip", 2);
    let proxy = expecting(setup, &backend);
    let one = [comes(&proxy, "192.0.2.1"), comes(&proxy, "192.0.2.1")];
    assert!(one.iter().all(Option::is_some));
    assert!(comes(&proxy, "192.0.2.1").is_none());
    let two = comes(&proxy, "192.0.2.2").expect("another address");
    let network = [
        comes(&proxy, "2001:db8::1"),
        comes(&proxy, "2001:db8:0:0:ffff::2"),
    ];
    assert!(network.iter().all(Option::is_some));
    assert!(comes(&proxy, "2001:db8::3").is_none());
    assert!(comes(&proxy, "2001:db8:0:1::3").is_some());
    drop((one, two, network));
    wait_until("they are gone", || comes(&proxy, "2001:db8::3").map(drop));
}

/// What a dead worker had is not counted any more, and what the others have is.
#[test]
fn a_dead_worker_has_no_connections() {
    let backend = Backend::named("a");
    let setup = Setup::http().listener("max_connections_per_ip", 4);
    let proxy = with_workers(2, setup, &backend);
    let mut inside: Vec<Peer> = (0..4).map(|_| proxy.client()).collect();
    for peer in &mut inside {
        assert_eq!(peer.get("/").status(), 200);
    }
    let workers = proxy.workers();
    let most = workers.iter().max_by_key(|worker| worker.connections);
    let victim = most.expect("a worker");
    proxy.client().ends();
    assert!(signal(victim.pid, "KILL"));
    wait_until("another one is there", || {
        let now = proxy.workers();
        let alive = now.iter().any(|worker| worker.pid == victim.pid);
        (now.len() == 2 && !alive).then_some(())
    });
    let free = victim.connections;
    let mut again: Vec<Peer> = (0..free).map(|_| proxy.client()).collect();
    for peer in &mut again {
        assert_eq!(peer.get("/").status(), 200);
    }
    proxy.client().ends();
}

/// A connection that moves to the next worker is counted there.
#[test]
fn connections_that_move_are_counted_on() {
    let backend = Backend::named("a");
    let setup = Setup::http().listener("max_connections_per_ip", 2);
    let proxy = with_workers(1, setup, &backend);
    let mut inside = [proxy.client(), proxy.client()];
    for peer in &mut inside {
        assert_eq!(peer.get("/").status(), 200);
    }
    let old = proxy.worker().pid;
    assert!(proxy.control("worker restart id=0").is_ok());
    wait_until("they have moved", || {
        let now = proxy.workers();
        (now.len() == 1 && now[0].pid != old && now[0].connections == 2).then_some(())
    });
    proxy.client().ends();
    for peer in &mut inside {
        assert_eq!(peer.get("/").status(), 200);
    }
    drop(inside);
    wait_until("they are gone", || {
        (proxy.worker().connections == 0).then_some(())
    });
    assert_eq!(proxy.client().get("/").status(), 200);
}

#[test]
fn a_full_worker_says_so() {
    let backend = Backend::named("a");
    let setup = Setup::http().top("max_connections", 1);
    let proxy = setup.backends(&[backend.address()]).start();
    let mut events = proxy.steer();
    events.send("events\nping\n");
    events.reply();
    let mut first = proxy.client();
    assert_eq!(first.get("/").status(), 200);
    let mut second = proxy.client();
    second.send(GET).silent_for(Duration::from_millis(100));
    let line = wait_until("an event", || {
        let line = events.line().expect("an event");
        line.contains("kind=full").then_some(line)
    });
    assert!(
        line.ends_with(" kind=full worker=0 connections=1"),
        "{line}"
    );
    drop(first);
    assert_eq!(second.response().status(), 200);
}

// ---- addresses ----------------------------------------------------------

#[test]
fn a_listener_closes_on_whom_it_does_not_know() {
    let backend = Backend::named("a");
    let setup = Setup::http()
        .listener("allow", "[\"192.0.2.0/24\", \"2001:db8::/32\"]")
        .listener("deny", "[\"192.0.2.7\"]");
    let proxy = expecting(setup, &backend);
    for (client, served) in [
        ("192.0.2.1", true),
        ("192.0.2.7", false),
        ("198.51.100.1", false),
        ("2001:db8:1::1", true),
        ("2001:db9::1", false),
    ] {
        assert_eq!(comes(&proxy, client).is_some(), served, "{client}");
    }
    let metrics = serve_metrics(&mut proxy.steer(), "");
    let limit = [("limit", "allow_deny")];
    wait_sum(metrics, "sozu_listener_refused_total", &limit, 3.0);
    proxy.wait_log("192.0.2.7:1234 is refused on");
}

/// At once: also who says nothing, and who would speak TLS.
#[test]
fn who_is_denied_is_not_waited_for() {
    let backend = Backend::named("a");
    for setup in [Setup::http(), Setup::https(), Setup::tcp()] {
        let proxy = setup.backends(&[backend.address()]).start();
        let update = format!(
            "listener update address={} deny=127.0.0.0/8",
            proxy.address()
        );
        proxy.steer().ok(&update);
        proxy.client().ends();
    }
    assert_eq!(backend.connections(), 0);
}

#[test]
fn a_cluster_answers_403_or_resets() {
    let (open, closed) = (Backend::named("open"), Backend::named("closed"));
    let address = |backend: &Backend| format!("address = \"{}\"", backend.address());
    let setup = Setup::http()
        .cluster("open", &["hostname = \"open.test\""], &[address(&open)])
        .cluster(
            "closed",
            &["hostname = \"closed.test\""],
            &[address(&closed)],
        );
    let proxy = setup.start();
    let mut control = proxy.steer();
    control.ok("cluster update id=closed allow=10.0.0.0/8 answer_403=\"not you\"");
    let mut peer = proxy.client();
    // What a request says of its client means nothing.
    let request = get("/", "closed.test").replace("Host", "X-Forwarded-For: 10.0.0.1\r\nHost");
    for _ in 0..2 {
        let answer = peer.ask(&request);
        assert_eq!((answer.status(), answer.text().as_str()), (403, "not you"));
        assert_eq!(peer.ask(get("/", "open.test")).text(), "open");
    }
    assert_eq!(closed.connections(), 0);
    let line = proxy.wait_access(4, "").remove(0);
    assert!(
        line.contains(" client_denied \"the client's address is not in allow\""),
        "{line}"
    );
    let metrics = serve_metrics(&mut control, "");
    let limit = [("limit", "allow_deny"), ("cluster", "closed")];
    wait_sum(metrics, "sozu_cluster_refused_total", &limit, 2.0);
    control.ok("cluster update id=closed unset=allow");
    assert_eq!(peer.ask(&request).text(), "closed");

    let proxy = Setup::tcp().backends(&[open.address()]).start();
    proxy.steer().ok("cluster update id=main deny=127.0.0.1");
    assert_eq!(proxy.client().end(), Broken::Reset);
    let line = proxy.wait_access(1, "client_denied").remove(0);
    assert!(line.contains("the client's address is in deny"), "{line}");
}

// ---- the words ----------------------------------------------------------

#[test]
fn they_are_said_shown_and_explained() {
    let backend = Backend::named("a");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let own = proxy.address();
    let before = control.dump();
    control.ok(&format!("listener update address={own} deny=192.0.2.7,2001:db8::/32 allow=0.0.0.0/0,::/0 max_connections_per_ip=7 request_rate=5 max_body=100 min_rate=1"));
    control.ok("cluster update id=main deny=192.0.2.8 request_rate=3 request_burst=9 max_body=50");
    let text = control.dump().join("\n");
    for words in [
        " allow=0.0.0.0/0,::/0 deny=192.0.2.7/32,2001:db8::/32 max_connections_per_ip=7 request_rate=5 max_body=100 min_rate=1",
        " deny=192.0.2.8/32 request_rate=3 request_burst=9 max_body=50",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    let explained = explain(&mut control, own, "192.0.2.1");
    for line in [
        format!("limit key=max_connections_per_ip value=7 of=\"listener {own}\" beyond=\"the connection is closed at once\""),
        format!("limit key=request_rate value=5 of=\"listener {own}\" beyond=\"429 with Retry-After\""),
        "limit key=request_burst value=9 of=\"cluster main\" beyond=\"request_rate counts\"".to_string(),
        "limit key=max_body value=50 of=\"cluster main\" beyond=413".to_string(),
    ] {
        assert!(explained.data.contains(&line), "{line}: {explained:?}");
    }
    assert!(!explained.data.iter().any(|line| line.contains("value=100")));
    for (client, wanted) in [
        (
            "192.0.2.7",
            "the client's address is in deny: the connection would be closed at once",
        ),
        (
            "192.0.2.8",
            "cluster main: the client's address is in deny: the answer would be 403",
        ),
    ] {
        let reply = explain(&mut control, own, client);
        assert_eq!(reply.code(), "mismatch");
        assert!(reply.last.contains(wanted), "{reply:?}");
    }
    control.ok(&format!("listener update address={own} unset=deny,allow,max_connections_per_ip,request_rate,max_body,min_rate"));
    control.ok("cluster update id=main unset=deny,request_rate,request_burst,max_body");
    assert_eq!(control.dump(), before);
    for (line, wanted) in [
        ("request_burst=5", "does nothing without request_rate"),
        (
            "request_rate=1 request_burst=3601",
            "more than comes in 3600 seconds",
        ),
        ("request_rate=0", "not between 1 and 100000"),
        ("max_body=-1", "not a whole number"),
        ("deny=10.0.0.1/8", "bits set behind its prefix"),
    ] {
        let what = control.refused(&format!("listener update address={own} {line}"), "invalid");
        assert!(what.contains(wanted), "{line}: {what}");
    }
    control.refused("cluster update id=main min_rate=5", "unknown");
    let what = control.refused("cluster add id=t protocol=tcp max_body=5", "invalid");
    assert!(what.contains("is for HTTP alone"), "{what}");
}

fn explain(control: &mut Control, listener: SocketAddr, client: &str) -> common::Reply {
    control.ask(&format!(
        "explain hostname=a.test listener={listener} client={client}"
    ))
}

/// On the loopback of IPv6, whose /64 has one address here.
#[test]
fn ipv6_clients_are_limited() {
    let backend = Backend::named("a");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let address = wait_until("a free port", || {
        let address: SocketAddr = format!("[::1]:{}", common::free_address().port())
            .parse()
            .ok()?;
        let add = format!(
            "listener add address={address} protocol=http max_connections_per_ip=1 request_rate=1"
        );
        control.ask(&add).is_ok().then_some(address)
    });
    control.ok(&format!("frontend add listener={address} cluster=main"));
    let mut peer = Peer::connect(address);
    assert_eq!(peer.get("/").status(), 200);
    Peer::connect(address).ends();
    let status = wait_until("429", || {
        let status = peer.get("/").status();
        (status == 429).then_some(status)
    });
    assert_eq!(status, 429);
    assert_eq!(proxy.client().get("/").status(), 200);
}
