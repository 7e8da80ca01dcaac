//! The metrics: what is counted when, and what survives what.

mod common;

use common::{
    refused_address, serve_metrics, signal, wait_sum, wait_until, Backend, Peer, Proxy, Scrape,
    Setup,
};
use sozu_lib::metrics::text::FIGURES;
use std::net::SocketAddr;

// ---- what is counted ---------------------------------------------------

/// Answers by the path: a status, or a body that breaks off.
fn by_path() -> Backend {
    Backend::scripted(|peer, _| loop {
        let request = peer.request()?;
        match request.target() {
            "/cut" => {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345");
                return Ok(());
            }
            path => {
                let status = path.trim_start_matches('/');
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
                peer.send(head);
            }
        };
    })
}

/// A request for a host, by a client of its own.
fn ask(proxy: &Proxy, host: &str, path: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    proxy.client().ask(request).status()
}

/// Requests to cluster `main` (host a), to `gone` (host b) and to none, ten of which are answered.
fn some_of_each(proxy: &Proxy) {
    for path in ["/200", "/200", "/404", "/410", "/301", "/500"] {
        ask(proxy, "a", path);
    }
    let mut cut = proxy.client();
    cut.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").head();
    cut.rest();
    assert_eq!(ask(proxy, "nobody", "/"), 404);
    assert_eq!(ask(proxy, "b", "/"), 503);
    let mut bad = proxy.client();
    bad.send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n").response();
    let mut gone = proxy.client();
    gone.send("POST /200 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123");
    gone.finish();
    proxy.wait_access(1, "client_closed");
}

#[test]
fn answers_and_failures_are_counted_once_each() {
    let backend = by_path();
    let at = |address: SocketAddr| [format!("address = \"{address}\"")];
    let proxy = Setup::http()
        .cluster("main", &["hostname = \"a\""], &at(backend.address()))
        .cluster("gone", &["hostname = \"b\""], &at(refused_address()))
        .start();
    let metrics = serve_metrics(&mut proxy.steer(), "");
    some_of_each(&proxy);
    let own = proxy.address().to_string();
    let listener = ("listener", own.as_str());
    let (main, gone) = (("cluster", "main"), ("cluster", "gone"));
    wait_sum(metrics, "sozu_listener_responses_total", &[listener], 10.0);
    let scrape = Scrape::of(metrics);
    for (of, label, codes, blame) in [
        ("listener", listener, [3.0, 1.0, 4.0, 2.0], [3.0, 2.0, 0.0]),
        ("cluster", main, [3.0, 1.0, 2.0, 1.0], [1.0, 1.0, 0.0]),
        ("cluster", gone, [0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0]),
        ("backend", main, [3.0, 1.0, 2.0, 1.0], [1.0, 1.0, 0.0]),
        ("backend", gone, [0.0; 4], [0.0; 3]),
    ] {
        let name = format!("sozu_{of}_responses_total");
        let code = |code| scrape.get(&name, &[label, ("code", code)]);
        assert_eq!(
            ["2xx", "3xx", "4xx", "5xx"].map(code),
            codes,
            "{of} {label:?}"
        );
        let name = format!("sozu_{of}_failures_total");
        let by = |by| scrape.get(&name, &[label, ("by", by)]);
        assert_eq!(
            ["client", "backend", "proxy"].map(by),
            blame,
            "{of} {label:?}"
        );
    }
    for (name, label, wanted) in [
        ("sozu_cluster_retries_total", gone, 1.0),
        ("sozu_backend_connect_failures_total", gone, 1.0),
        ("sozu_listener_duration_seconds_count", listener, 10.0),
        ("sozu_cluster_duration_seconds_count", main, 7.0),
        ("sozu_backend_first_byte_seconds_count", main, 7.0),
        ("sozu_listener_connections_total", listener, 11.0),
        (
            "sozu_build_info",
            ("version", env!("CARGO_PKG_VERSION")),
            1.0,
        ),
    ] {
        assert_eq!(scrape.get(name, &[label]), wanted, "{name}");
    }
    let names = FIGURES.iter().map(|figure| figure.name).collect();
    assert_eq!(scrape.figures(), names);
}

#[test]
fn bytes_are_those_of_the_access_log() {
    let backend = Backend::echo();
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let metrics = serve_metrics(&mut proxy.steer(), "");
    let body = "x".repeat(100_000);
    let mut client = proxy.client();
    for _ in 0..3 {
        client.ask(format!(
            "POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{body}"
        ));
    }
    let field =
        |line: &String, n: usize| line.split(' ').nth(n).and_then(|n| n.parse::<f64>().ok());
    // Method and target are one field, with a space in it.
    let sum = |lines: &[String], n| lines.iter().filter_map(|line| field(line, n)).sum::<f64>();
    let lines = proxy.wait_access(3, "/body");
    let (up, down) = (sum(&lines, 10), sum(&lines, 11));
    assert!(up > 300_000.0 && down > 300_000.0, "{lines:?}");
    for of in ["cluster", "backend"] {
        wait_sum(metrics, &format!("sozu_{of}_received_bytes_total"), &[], up);
        wait_sum(metrics, &format!("sozu_{of}_sent_bytes_total"), &[], down);
    }
}

/// A tunnel is counted when it ends, and its time says nothing of how fast answers are.
#[test]
fn tunnels_are_counted_when_they_end() {
    let backend = Backend::scripted(|peer, _| {
        peer.request()?;
        peer.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n");
        let bytes = peer.exactly(5)?;
        peer.send(bytes);
        Err(peer.rest().1)
    });
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let metrics = serve_metrics(&mut proxy.steer(), "");
    let mut client = proxy.client();
    client.send("GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
    assert_eq!(client.response().status(), 101);
    client.send("12345").exactly(5).expect("an echo");
    let main = [("cluster", "main")];
    let before = Scrape::of(metrics);
    assert_eq!(before.sum("sozu_cluster_responses_total", &main), 0.0);
    assert_eq!(before.get("sozu_backend_connections", &main), 1.0);
    client.finish();
    client.ends();
    wait_sum(
        metrics,
        "sozu_cluster_responses_total",
        &[main[0], ("code", "1xx")],
        1.0,
    );
    let after = Scrape::of(metrics);
    assert!(after.get("sozu_cluster_sent_bytes_total", &main) > 100.0);
    assert_eq!(after.get("sozu_cluster_duration_seconds_count", &main), 0.0);
    wait_sum(metrics, "sozu_backend_connections", &main, 0.0);
}

#[test]
fn tcp_has_connections_and_bytes() {
    let backend = Backend::scripted(|peer, _| {
        let bytes = peer.exactly(1000)?;
        peer.send(&bytes[..10]).finish();
        Err(peer.rest().1)
    });
    let proxy = Setup::tcp().backends(&[backend.address()]).start();
    let metrics = serve_metrics(&mut proxy.steer(), "");
    let mut client = proxy.client();
    client.send([b'x'; 1000]).exactly(10).expect("bytes");
    let own = proxy.address().to_string();
    let listener: &[(&str, &str)] = &[("listener", &own)];
    let scrape = Scrape::of(metrics);
    assert_eq!(scrape.get("sozu_listener_connections", listener), 1.0);
    client.finish();
    client.ends();
    wait_sum(metrics, "sozu_listener_connections", listener, 0.0);
    let scrape = Scrape::of(metrics);
    for (name, wanted) in [
        ("sozu_listener_connections_total", 1.0),
        ("sozu_listener_received_bytes_total", 1000.0),
        ("sozu_listener_sent_bytes_total", 10.0),
        ("sozu_listener_responses_total", 0.0),
        ("sozu_listener_failures_total", 0.0),
        ("sozu_listener_duration_seconds_count", 0.0),
    ] {
        assert_eq!(scrape.sum(name, listener), wanted, "{name}");
    }
}

#[test]
fn a_backend_is_avoided_until_a_connect_succeeds() {
    let backend = Backend::named("ok");
    let dead = refused_address();
    let proxy = Setup::http().backends(&[dead, backend.address()]).start();
    let metrics = serve_metrics(&mut proxy.steer(), "");
    let dead = [("backend", "main-0")];
    // A connection that is kept would be used again: every client asks once.
    wait_until("it is avoided", || {
        assert_eq!(ask(&proxy, "a", "/"), 200);
        let avoided = Scrape::of(metrics).get("sozu_backend_avoided_by_workers", &dead);
        (avoided == 1.0).then_some(())
    });
    let scrape = Scrape::of(metrics);
    assert!(scrape.get("sozu_backend_connect_failures_total", &dead) >= 3.0);
    let line = proxy.control("metrics cluster=main").data;
    assert!(
        line[1].contains(" id=main-0 ") && line[1].contains(" avoided_by=1 "),
        "{line:?}"
    );
    assert!(
        line[2].contains(" id=main-1 ") && line[2].contains(" avoided_by=0 "),
        "{line:?}"
    );
}

// ---- what survives -----------------------------------------------------

/// Of what only grows, nothing has become less.
#[track_caller]
fn never_less(before: &Scrape, after: &Scrape) {
    for (key, value) in before.counters() {
        // A process' own numbers end with it.
        if !key.0.starts_with("sozu_worker_") || key.0 == "sozu_worker_deaths_total" {
            let now = after.same(key);
            assert!(now >= Some(value), "{key:?}: {value}, then {now:?}");
        }
    }
}

fn two_workers() -> (Backend, Proxy, SocketAddr) {
    let backend = Backend::named("ok");
    let setup = Setup::http().top("worker_count", 2);
    let setup = setup.top("back_keepalive_timeout", 1);
    let proxy = setup.backends(&[backend.address()]).start();
    let metrics = serve_metrics(&mut proxy.steer(), "");
    (backend, proxy, metrics)
}

/// Clients that have asked once and stay.
fn clients(proxy: &Proxy, count: usize) -> Vec<Peer> {
    let clients = (0..count).map(|_| proxy.client());
    let mut clients: Vec<Peer> = clients.collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status(), 200);
    }
    clients
}

#[test]
fn counts_survive_a_killed_worker() {
    let (_backend, proxy, metrics) = two_workers();
    let own = proxy.address().to_string();
    let listener: &[(&str, &str)] = &[("listener", &own)];
    let held = clients(&proxy, 20);
    wait_sum(metrics, "sozu_listener_responses_total", listener, 20.0);
    let before = Scrape::of(metrics);
    assert_eq!(before.get("sozu_listener_connections", listener), 20.0);
    let victim = proxy.workers()[0].clone();
    assert!(victim.connections > 0, "{victim:?}");
    signal(victim.pid, "KILL");
    wait_until("another worker", || {
        let workers = proxy.workers();
        (workers.len() == 2 && workers[0].pid != victim.pid).then_some(())
    });
    let after = Scrape::of(metrics);
    never_less(&before, &after);
    assert_eq!(after.get("sozu_worker_deaths_total", &[]), 1.0);
    let pid = victim.pid.to_string();
    assert!(after
        .all("sozu_worker_connections", &[("pid", &pid)])
        .is_empty());
    // What the dead one had open does not count any more.
    let open = after.get("sozu_listener_connections", listener);
    assert_eq!(open, 20.0 - victim.connections as f64);
    let more = clients(&proxy, 10);
    wait_sum(metrics, "sozu_listener_responses_total", listener, 30.0);
    drop((held, more));
    wait_sum(metrics, "sozu_listener_connections", listener, 0.0);
    wait_sum(metrics, "sozu_backend_connections", &[], 0.0);
    let last = Scrape::of(metrics);
    never_less(&after, &last);
    assert_eq!(last.get("sozu_listener_connections_total", listener), 30.0);
    assert_eq!(
        last.get("sozu_listener_duration_seconds_count", listener),
        30.0
    );
}

#[test]
fn counts_survive_a_restart() {
    let (_backend, proxy, metrics) = two_workers();
    let own = proxy.address().to_string();
    let listener: &[(&str, &str)] = &[("listener", &own)];
    let mut before = Scrape::of(metrics);
    for round in 1..=4 {
        let held = clients(&proxy, 5);
        proxy.control(&format!("worker restart id={}", round % 2));
        let held = [held, clients(&proxy, 5)];
        wait_sum(
            metrics,
            "sozu_listener_responses_total",
            listener,
            f64::from(10 * round),
        );
        let after = Scrape::of(metrics);
        never_less(&before, &after);
        before = after;
        drop(held);
    }
    wait_sum(metrics, "sozu_listener_connections", listener, 0.0);
    wait_sum(metrics, "sozu_backend_connections", &[], 0.0);
    assert_eq!(
        Scrape::of(metrics).get("sozu_worker_deaths_total", &[]),
        0.0
    );
}

/// What goes takes its counts along, and what comes starts with none.
#[test]
fn another_object_of_that_name_begins_with_nothing() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let metrics = serve_metrics(&mut control, "");
    let main = [("backend", "main-0")];
    clients(&proxy, 3);
    wait_sum(metrics, "sozu_backend_responses_total", &main, 3.0);
    control.ok("backend remove cluster=main id=main-0");
    let gone = Scrape::of(metrics);
    assert!(gone.all("sozu_backend_connections", &main).is_empty());
    assert_eq!(gone.sum("sozu_cluster_responses_total", &[]), 3.0);
    let address = backend.address();
    control.ok(&format!(
        "backend add cluster=main id=main-0 address={address}"
    ));
    let back = Scrape::of(metrics);
    assert_eq!(back.sum("sozu_backend_responses_total", &main), 0.0);
    // An update is the same object.
    clients(&proxy, 2);
    wait_sum(metrics, "sozu_backend_responses_total", &main, 2.0);
    control.ok("backend update cluster=main id=main-0 weight=7");
    control.ok("cluster update id=main answer_503=x");
    let updated = Scrape::of(metrics);
    assert_eq!(updated.sum("sozu_backend_responses_total", &main), 2.0);
    assert_eq!(updated.sum("sozu_cluster_responses_total", &[]), 5.0);
}
