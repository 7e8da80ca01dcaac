//! What one client may ask for, on the real binary: how often, with how much, how slowly.

mod common;

use common::{chunked, ok, pattern, wait_until, Backend, Broken, Gate, Message, Peer, Setup};
use std::time::{Duration, Instant};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

fn get(path: &str, host: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

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
    let setup = setup.listener("expect_proxy", true).top("worker_count", 2);
    let proxy = setup.backends(&[backend.address()]).start();
    let come = |client: &str| Peer::on_behalf_of(client, proxy.address());
    // Until both workers have some.
    let mut peers = Vec::new();
    wait_until("both workers", || {
        peers.push(come("2001:db8::1"));
        let workers = proxy.workers();
        workers.iter().all(|one| one.connections > 0).then_some(())
    });
    let start = Instant::now();
    let mut all = 0;
    for _ in 0..8 {
        all += peers
            .iter_mut()
            .map(|peer| served(peer, GET, 1))
            .sum::<usize>();
    }
    assert!((6..=6 + since(start)).contains(&all), "{all}");
    // Of the same network; of another one.
    assert!(served(&mut come("2001:db8::2"), GET, 3) <= since(start));
    assert_eq!(served(&mut come("2001:db8:0:1::2"), GET, 6), 6);
    assert_eq!(served(&mut come("192.0.2.7"), GET, 6), 6);
    let lines = proxy.wait_access(1, "client_rate_limited");
    assert!(lines[0].contains(" 429 "), "{lines:?}");
    // They go on in the workers that come next.
    for id in [0, 1] {
        assert!(proxy.control(&format!("worker restart id={id}")).is_ok());
    }
    assert!(
        served(
            &mut Peer::on_behalf_of("192.0.2.7", proxy.address()),
            GET,
            6
        ) <= since(start)
    );
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

/// What was counted is known to the program that takes over.
#[test]
fn an_upgrade_forgets_nothing() {
    let backend = Backend::named("a");
    let setup = Setup::http()
        .listener("max_connections_per_ip", 2)
        .listener("request_rate", 1)
        .listener("request_burst", 10);
    let setup = setup.top("worker_count", 2);
    let proxy = setup.backends(&[backend.address()]).start();
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

/// What is asked for no more is not judged, of requests under way either.
#[test]
fn a_rate_that_is_unset_cuts_nobody() {
    let backend = Backend::echo();
    let setup = Setup::http().listener("min_rate", 100);
    let proxy = setup.backends(&[backend.address()]).start();
    let mut peer = proxy.client();
    peer.send(post("a.test", 100))
        .silent_for(Duration::from_millis(100));
    let unset = format!("listener update address={} unset=min_rate", proxy.address());
    proxy.steer().ok(&unset);
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < Duration::from_millis(5500) {
        sent += 1;
        peer.send("x").silent_for(Duration::from_millis(200));
    }
    peer.send(vec![b'x'; 100 - sent]);
    assert_eq!(peer.response().status(), 200);
}

/// So is a response that is taken too slowly; a backend that is slow is not the client's fault.
#[test]
fn a_response_that_is_not_taken_is_cut() {
    let gate = Gate::default();
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
