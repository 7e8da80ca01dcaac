//! What one client may take, on the real binary: who may come, how often, with how much, how slowly.

mod common;

use common::{
    chunked, ok, pattern, serve_metrics, signal, wait_sum, wait_until, Backend, Broken, Control,
    Message, Peer, Proxy, Setup,
};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// Somebody for whom a proxy before ours speaks.
fn from(proxy: &Proxy, client: &str) -> Peer {
    let (family, own) = match client.contains(':') {
        true => ("TCP6", "::1"),
        false => ("TCP4", "127.0.0.1"),
    };
    let mut peer = proxy.client();
    peer.send(format!("PROXY {family} {client} {own} 1234 80\r\n"));
    peer
}

/// Whether that client is served, by a connection of its own that it keeps.
fn comes(proxy: &Proxy, client: &str) -> Option<Peer> {
    let mut peer = from(proxy, client);
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
    assert!(
        workers.iter().all(|worker| worker.connections > 0),
        "{workers:?}"
    );
    proxy.client().ends();
    assert!(signal(workers[0].pid, "KILL"));
    wait_until("another one is there", || {
        let now = proxy.workers();
        (now.len() == 2 && now[0].pid != workers[0].pid).then_some(())
    });
    let free = workers[0].connections as usize;
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

/// So is all that was counted when another program takes over.
#[test]
fn an_upgrade_forgets_nothing() {
    let backend = Backend::named("a");
    let setup = Setup::http()
        .listener("max_connections_per_ip", 2)
        .listener("request_rate", 1)
        .listener("request_burst", 10);
    let proxy = with_workers(2, setup, &backend);
    let mut inside = [proxy.client(), proxy.client()];
    let start = Instant::now();
    let [first, second] = &mut inside;
    let all = served(first, GET, 8) + served(second, GET, 8);
    assert!((10..=10 + since(start)).contains(&all), "{all}");
    let reply = proxy.control("upgrade");
    assert!(reply.is_ok(), "{reply:?}");
    proxy.client().ends();
    let more = served(first, GET, 5) + served(second, GET, 5);
    assert!(more <= since(start), "{more}");
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

// ---- requests -----------------------------------------------------------

/// How many of so many requests at once are served; the others are answered 429.
fn served(peer: &mut Peer, request: &str, count: usize) -> usize {
    let mut served = 0;
    for _ in 0..count {
        let answer: Message = peer.ask(request);
        match answer.status() {
            200 => served += 1,
            status => {
                assert_eq!(status, 429);
                assert!(!answer.connection_says("close"));
                let wait: u32 = answer
                    .field("Retry-After")
                    .expect("a time")
                    .parse()
                    .expect("seconds");
                assert!((1..=2).contains(&wait), "{wait}");
            }
        }
    }
    served
}

/// What a rate of one a second gives since a moment, with one for what is under way.
fn since(start: Instant) -> usize {
    start.elapsed().as_secs() as usize + 1
}

#[test]
fn requests_of_a_client_are_limited_over_all_workers() {
    let backend = Backend::named("a");
    let setup = Setup::http()
        .listener("request_rate", 1)
        .listener("request_burst", 6);
    let proxy = expecting(setup, &backend);
    let start = Instant::now();
    let mut peers: Vec<Peer> = (0..4).map(|_| from(&proxy, "2001:db8::1")).collect();
    let all: usize = peers.iter_mut().map(|peer| served(peer, GET, 4)).sum();
    assert!((6..=6 + since(start)).contains(&all), "{all}");
    let workers = proxy.workers();
    assert!(
        workers.iter().all(|worker| worker.connections > 0),
        "{workers:?}"
    );
    // Of the same network; of another one.
    assert!(served(&mut from(&proxy, "2001:db8::2"), GET, 3) <= since(start));
    assert_eq!(served(&mut from(&proxy, "2001:db8:0:1::2"), GET, 6), 6);
    assert_eq!(served(&mut from(&proxy, "192.0.2.7"), GET, 6), 6);
    let lines = proxy.wait_access(1, "client_rate_limited");
    assert!(lines[0].contains(" 429 "), "{lines:?}");
    // They go on in the workers that come next.
    for id in [0, 1] {
        assert!(proxy.control(&format!("worker restart id={id}")).is_ok());
    }
    assert!(served(&mut from(&proxy, "192.0.2.7"), GET, 6) <= since(start));
}

#[test]
fn a_cluster_has_a_rate_of_its_own() {
    let backend = Backend::named("a");
    let address = format!("address = \"{}\"", backend.address());
    let setup = Setup::http()
        .cluster("slow", &["hostname = \"slow.test\""], &[&address])
        .cluster("fast", &["hostname = \"fast.test\""], &[&address]);
    let proxy = setup.start();
    let mut control = proxy.steer();
    control.ok("cluster update id=slow request_rate=1 request_burst=2 answer_429=\"later\"");
    let start = Instant::now();
    let mut peer = proxy.client();
    let (slow, fast) = (get("/", "slow.test"), get("/", "fast.test"));
    let all = served(&mut peer, &slow, 5);
    assert!((2..=2 + since(start)).contains(&all), "{all}");
    assert_eq!(served(&mut peer, &fast, 20), 20);
    let answer = wait_until("429", || {
        let answer = peer.ask(&slow);
        (answer.status() == 429).then_some(answer)
    });
    assert_eq!(answer.text(), "later");
    control.ok("cluster update id=slow unset=request_rate,request_burst");
    assert_eq!(served(&mut peer, &slow, 20), 20);
}

// ---- bodies -------------------------------------------------------------

fn post(host: &str, length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n")
}

fn post_chunked(body: &[u8]) -> Vec<u8> {
    let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    [head.as_bytes(), &chunked(body)].concat()
}

#[test]
fn a_body_that_is_too_long_is_refused_before_a_backend_is_asked() {
    let backend = Backend::echo();
    let setup = Setup::http().listener("max_body", 1000);
    let proxy = setup.backends(&[backend.address()]).start();
    let mut peer = proxy.client();
    peer.send(post("a.test", 1001));
    let answer = peer.response();
    assert_eq!(answer.status(), 413);
    assert!(answer.connection_says("close"));
    peer.ends();
    // Nor is it asked to go on.
    let mut peer = proxy.client();
    peer.send(post("a.test", 1001).replace("Host", "Expect: 100-continue\r\nHost"));
    assert_eq!(peer.response().status(), 413);
    assert_eq!(backend.connections(), 0);
    let body = pattern(1000);
    let mut peer = proxy.client();
    for bytes in [
        [post("a.test", 1000).into_bytes(), body.clone()].concat(),
        post_chunked(&body),
    ] {
        assert_eq!(peer.ask(bytes).status(), 200);
        assert_eq!(backend.last_request().body, body);
    }
    // The cluster's wins, be it more or less.
    let mut control = proxy.steer();
    control.ok("cluster update id=main max_body=2000");
    let long = [post("a.test", 2000).into_bytes(), pattern(2000)].concat();
    assert_eq!(peer.ask(long).status(), 200);
    control.ok("cluster update id=main max_body=10");
    assert_eq!(peer.ask(post("a.test", 11)).status(), 413);
    let lines = proxy.wait_access(3, "client_too_large");
    assert!(lines.iter().all(|line| line.contains(" 413 ")), "{lines:?}");
}

#[test]
fn chunks_that_are_too_many_are_cut() {
    let backend = Backend::scripted(|peer, number| {
        if number == 1 {
            // It answers before it has read everything.
            peer.exactly(4)?;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            peer.rest();
            return Ok(());
        }
        peer.request().map(drop)
    });
    let setup = Setup::http().listener("max_body", 100_000);
    let proxy = setup.backends(&[backend.address()]).start();
    let mut peer = proxy.client();
    let sender = peer.send_meanwhile(post_chunked(&pattern(100_001)));
    let answer = peer.response();
    assert_eq!(answer.status(), 413);
    let end = backend.wait_end(0);
    assert!(matches!(end, Broken::Eof | Broken::Reset), "{end:?}");
    sender.join().expect("sender");
    assert!(backend.requests().is_empty(), "a whole request");

    let mut peer = proxy.client();
    peer.send(&post_chunked(&pattern(100_001))[..200]);
    assert_eq!(peer.head().status(), 200);
    peer.exactly(4).expect("half of it");
    let sender = peer.send_meanwhile(post_chunked(&pattern(100_001))[200..].to_vec());
    assert_eq!(peer.end(), Broken::Reset);
    backend.wait_end(1);
    sender.join().expect("sender");
    assert!(backend.requests().is_empty(), "a whole request");
}

/// A byte now and then keeps `front_timeout` off, but not `min_rate`.
#[test]
fn a_body_that_trickles_is_cut() {
    let backend = Backend::echo();
    let setup = Setup::http().listener("min_rate", 100);
    let proxy = setup.backends(&[backend.address()]).start();
    let (mut slow, mut fast) = (proxy.client(), proxy.client());
    let start = Instant::now();
    slow.send(post("a.test", 1_000_000));
    fast.send(post("a.test", 1_000_000));
    let (mut sent, mut cut) = (0, false);
    while !cut && start.elapsed() < Duration::from_secs(15) {
        slow.send("x");
        fast.send(vec![b'y'; 500]);
        sent += 500;
        fast.silent_for(Duration::from_millis(200));
        cut = slow.has_more();
    }
    assert!(cut);
    let answer = slow.response();
    assert_eq!(answer.status(), 408);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(4900), "{took:?}");
    let line = proxy.wait_access(1, "client_too_slow").remove(0);
    assert!(
        line.contains("the request body is slower than min_rate"),
        "{line}"
    );
    fast.send(vec![b'y'; 1_000_000 - sent]);
    assert_eq!(fast.response().status(), 200);
}

/// So is a response that is taken too slowly; a backend that is slow is not the client's fault.
#[test]
fn a_response_that_is_not_taken_is_cut() {
    let gate = common::Gate::default();
    let inner = gate.clone();
    let backend = Backend::scripted(move |peer, number| {
        peer.request()?;
        match number {
            0 => peer.send(ok(pattern(50_000_000))),
            _ => {
                inner.pass();
                peer.send(ok("late"))
            }
        };
        Ok(())
    });
    let setup = Setup::http().listener("min_rate", 1_000_000);
    let proxy = setup.backends(&[backend.address()]).start();
    let (mut slow, mut patient) = (proxy.client(), proxy.client());
    slow.send(get("/large", "a.test"));
    let start = Instant::now();
    assert_eq!(slow.head().status(), 200);
    patient.send(get("/late", "a.test"));
    let line = proxy.wait_access(1, "client_too_slow").remove(0);
    assert!(line.contains("slower than min_rate"), "{line}");
    let took = start.elapsed();
    assert!(took > Duration::from_millis(4900), "{took:?}");
    let (bytes, end) = slow.rest();
    assert!(bytes.len() < 50_000_000);
    assert_eq!(end, Broken::Reset);
    gate.admit(1);
    assert_eq!(patient.response().text(), "late");
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
        ("request_burst=5", "means nothing without request_rate"),
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
