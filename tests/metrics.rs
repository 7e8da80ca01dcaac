//! The metrics: what is counted when, who may ask how, and what survives what.

mod common;

use common::{
    free_address, refused_address, signal, wait_until, Backend, Broken, Control, Peer, Proxy,
    Scrape, Setup,
};
use sozu_lib::metrics::text::FIGURES;
use std::net::SocketAddr;

/// Adds a listener that serves the metrics.
#[track_caller]
fn serve(control: &mut Control, more: &str) -> SocketAddr {
    let address = free_address();
    control.insist(&format!(
        "listener add address={address} protocol=metrics{more}"
    ));
    address
}

/// Waits until a sum over samples is that; of what is counted when an answer has already gone.
#[track_caller]
fn wait_sum(metrics: SocketAddr, name: &str, labels: &[(&str, &str)], wanted: f64) {
    let mut last = 0.0;
    let what = format!("{wanted} in {name} {labels:?}");
    wait_until(&what, || {
        last = Scrape::of(metrics).sum(name, labels);
        (last == wanted).then_some(())
    });
}

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

#[test]
fn answers_and_failures_are_counted_once_each() {
    let backend = by_path();
    let at = |address: SocketAddr| [format!("address = \"{address}\"")];
    let proxy = Setup::http()
        .cluster("main", &["hostname = \"a\""], &at(backend.address()))
        .cluster("gone", &["hostname = \"b\""], &at(refused_address()))
        .start();
    let metrics = serve(&mut proxy.steer(), "");
    for path in ["/200", "/200", "/404", "/410", "/301", "/500"] {
        ask(&proxy, "a", path);
    }
    let mut cut = proxy.client();
    cut.send("GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").head();
    cut.rest();
    assert_eq!(ask(&proxy, "nobody", "/"), 404);
    assert_eq!(ask(&proxy, "b", "/"), 503);
    let mut bad = proxy.client();
    bad.send("GET / HTTP/1.1\r\nHost: a b\r\n\r\n").response();
    let mut gone = proxy.client();
    gone.send("POST /200 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123");
    gone.finish();
    proxy.wait_access(1, "client_closed");

    let own = proxy.address().to_string();
    let listener: &[(&str, &str)] = &[("listener", &own)];
    wait_sum(metrics, "sozu_listener_responses_total", listener, 10.0);
    let scrape = Scrape::of(metrics);
    let codes = |name: &str, label: (&str, &str)| {
        ["2xx", "3xx", "4xx", "5xx"].map(|code| scrape.get(name, &[label, ("code", code)]))
    };
    let blame = |name: &str, label: (&str, &str)| {
        ["client", "backend", "proxy"].map(|by| scrape.get(name, &[label, ("by", by)]))
    };
    let listener = ("listener", own.as_str());
    let main = ("cluster", "main");
    assert_eq!(
        codes("sozu_listener_responses_total", listener),
        [3.0, 1.0, 4.0, 2.0]
    );
    assert_eq!(
        blame("sozu_listener_failures_total", listener),
        [3.0, 2.0, 0.0]
    );
    assert_eq!(
        codes("sozu_cluster_responses_total", main),
        [3.0, 1.0, 2.0, 1.0]
    );
    assert_eq!(blame("sozu_cluster_failures_total", main), [1.0, 1.0, 0.0]);
    assert_eq!(
        codes("sozu_backend_responses_total", main),
        [3.0, 1.0, 2.0, 1.0]
    );
    let gone = ("cluster", "gone");
    assert_eq!(
        codes("sozu_cluster_responses_total", gone),
        [0.0, 0.0, 0.0, 1.0]
    );
    assert_eq!(codes("sozu_backend_responses_total", gone), [0.0; 4]);
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
    let metrics = serve(&mut proxy.steer(), "");
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
    let metrics = serve(&mut proxy.steer(), "");
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
    let metrics = serve(&mut proxy.steer(), "");
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
    let metrics = serve(&mut proxy.steer(), "");
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
    let metrics = serve(&mut proxy.steer(), "");
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
    let metrics = serve(&mut control, "");
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

// ---- how it is asked ---------------------------------------------------

#[test]
fn requests_of_all_kinds() {
    let proxy = Setup::http().start();
    let metrics = serve(&mut proxy.steer(), "");
    let mut client = Peer::connect(metrics);
    for line in [
        "GET /metrics HTTP/1.1",
        "GET /metrics?a=b HTTP/1.1",
        "GET http://x/metrics HTTP/1.1",
    ] {
        let response = client.ask(format!("{line}\r\nHost: x\r\n\r\n"));
        assert_eq!(response.status(), 200);
        let kind = response.field("content-type").unwrap_or("").to_string();
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        Scrape::parse(&response.text()).expect(line);
    }
    let head = client.send("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let head = head.try_response("HEAD").expect("a head");
    assert_eq!((head.status(), head.body.len()), (200, 0));
    for path in ["/", "/metrics/", "/metricsx", "/Metrics", "/metrics/../x"] {
        assert_eq!(client.get(path).status(), 404, "{path}");
    }
    // The same connection still answers, in whatever pieces the request comes.
    let dripped = client
        .drip("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        .response();
    Scrape::parse(&dripped.text()).expect("dripped");
    let both = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(5)
        + "GET /no HTTP/1.1\r\nHost: x\r\n\r\n";
    client.send(both);
    for _ in 0..5 {
        Scrape::parse(&client.response().text()).expect("pipelined");
    }
    assert_eq!(client.response().status(), 404);
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "X"] {
        let mut client = Peer::connect(metrics);
        let response = client.ask(format!("{method} /metrics HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(response.status(), 405, "{method}");
        assert_eq!(response.field("allow"), Some("GET, HEAD"));
        client.ends();
    }
}

#[test]
fn old_clients_and_bodies() {
    let proxy = Setup::http().start();
    let metrics = serve(&mut proxy.steer(), "");
    for request in [
        "GET /metrics HTTP/1.0\r\n\r\n",
        "GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345",
        "GET /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n0\r\n\r\n",
    ] {
        let mut client = Peer::connect(metrics);
        let response = client.ask(request);
        assert!(response.connection_says("close"), "{request:?}: {response:?}");
        Scrape::parse(&response.text()).expect(request);
        client.finish();
        client.ends();
    }
    let mut client = Peer::connect(metrics);
    let head = "HEAD /metrics HTTP/1.0\r\n\r\n";
    let head = client.send(head).try_response("HEAD").expect("a head");
    assert_eq!((head.status(), head.body.len()), (200, 0));
    client.ends();
    let mut client = Peer::connect(metrics);
    assert_eq!(client.ask("GET /metrics HTTP/1.1\r\n\r\n").status(), 400);
}

#[test]
fn a_metrics_listener_leads_nowhere() {
    let proxy = Setup::http().backends(&[refused_address()]).start();
    let mut control = proxy.steer();
    let metrics = serve(&mut control, "");
    let frontend = format!("frontend add listener={metrics} hostname=a cluster=main");
    assert_eq!(
        control.refused(&frontend, "mismatch"),
        format!("error mismatch \"listener {metrics} serves the metrics: it takes no frontends\"")
    );
    assert_eq!(
        control.refused(
            &format!("explain listener={metrics} hostname=a path=/metrics"),
            "missing"
        ),
        "error missing \"this listener leads nowhere: it answers GET /metrics, all else is 404\""
    );
    for (address, protocol) in [(metrics, "http"), (proxy.address(), "metrics")] {
        let line = format!("listener update address={address} protocol={protocol}");
        control.refused(&line, "mismatch");
    }
    control.ok(&format!("listener disable address={metrics}"));
    control.insist(&format!("listener enable address={metrics}"));
    Scrape::of(metrics);
    control.ok(&format!("listener remove address={metrics}"));
}

#[test]
fn a_configuration_may_have_one() {
    let address = free_address();
    let more = format!("[[listeners]]\nprotocol = \"metrics\"\naddress = \"{address}\"\n");
    let proxy = Setup::http().more(&more).start();
    let scrape = Scrape::of(address);
    let own = address.to_string();
    assert_eq!(
        scrape.get("sozu_listener_connections", &[("listener", &own)]),
        1.0
    );
    let pid = proxy.worker().pid.to_string();
    let worker = [("worker", "0"), ("pid", pid.as_str())];
    assert_eq!(scrape.get("sozu_worker_connections", &worker), 1.0);
}

#[test]
fn who_does_not_read_is_cut_and_blamed() {
    let proxy = Setup::http().start();
    let mut control = proxy.steer();
    let metrics = serve(&mut control, " front_timeout=1");
    many(&mut control, 4000);
    let mut client = Peer::connect(metrics);
    client.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let line = proxy.wait_access(1, "client_timeout").remove(0);
    assert!(line.contains("\"GET /metrics\" 200 "), "{line}");
    assert_eq!(client.rest().1, Broken::Reset);
    Scrape::of(metrics);
}

// ---- many --------------------------------------------------------------

/// A cluster with that many backends, in one transaction.
fn many(control: &mut Control, count: usize) {
    let mut lines = vec!["cluster add id=big".to_string()];
    let backend = |n| format!("backend add cluster=big id=b{n} address=127.0.0.1:1");
    lines.extend((0..count).map(backend));
    control.transact(&lines);
}

#[test]
fn a_big_scrape_is_right_while_backends_come_and_go() {
    let proxy = Setup::http().top("worker_count", 2).start();
    let mut control = proxy.steer();
    let metrics = serve(&mut control, "");
    many(&mut control, 4000);
    let all = Scrape::of(metrics);
    let connections = "sozu_backend_connections";
    assert_eq!(all.all(connections, &[]).len(), 4000);
    for round in 0..3 {
        let mut client = Peer::connect(metrics);
        client.send("GET /metrics HTTP/1.0\r\n\r\n").head();
        // It cannot go on before somebody reads. Some change their places, some go, some come.
        let remove = |n: usize| format!("backend remove cluster=big id=b{n}");
        let add = |n: String| format!("backend add cluster=big id={n} address=127.0.0.1:2");
        let mut lines: Vec<String> = (0..2000).map(|n| remove(n * 2)).collect();
        lines.extend((0..1000).map(|n| add(format!("b{}", n * 2))));
        lines.extend((0..1000).map(|n| add(format!("new{round}-{n}"))));
        control.transact(&lines);
        let (text, end) = client.rest();
        assert_eq!(end, Broken::Eof);
        let text = String::from_utf8(text).expect("text");
        let scrape = Scrape::parse(&text).unwrap_or_else(|e| panic!("{e}"));
        assert!(!text.contains(&format!("new{round}-")));
        let last = scrape.all("sozu_backend_first_byte_seconds_count", &[]);
        assert!(
            last.len() < scrape.all(connections, &[]).len(),
            "nothing changed meanwhile"
        );
        let next = Scrape::of(metrics);
        assert_eq!(next.all(connections, &[]).len(), 4000);
        let back: Vec<String> = (0..1000)
            .map(|n| format!("backend remove cluster=big id=new{round}-{n}"))
            .collect();
        control.transact(&back);
        let back: Vec<String> = (1000..2000).map(|n| add(format!("b{}", n * 2))).collect();
        control.transact(&back);
    }
}

#[test]
fn many_scrapes_at_once() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().top("worker_count", 2);
    let proxy = proxy.backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let metrics = serve(&mut control, "");
    many(&mut control, 200);
    let scrapers: Vec<_> = (0..16)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Peer::connect(metrics);
                for _ in 0..10 {
                    let text = client.get("/metrics").text();
                    Scrape::parse(&text).unwrap_or_else(|e| panic!("{e}"));
                }
            })
        })
        .collect();
    let mut client = proxy.client();
    while scrapers.iter().any(|scraper| !scraper.is_finished()) {
        assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").text(), "ok");
    }
    for scraper in scrapers {
        scraper.join().expect("a scraper");
    }
    let own = metrics.to_string();
    wait_sum(
        metrics,
        "sozu_listener_connections",
        &[("listener", &own)],
        1.0,
    );
}

/// The reader of these tests is as strict as it has to be.
#[test]
fn what_is_no_such_text_is_refused() {
    let head = "# HELP a A.\n# TYPE a counter\n";
    let histogram = "# HELP h H.\n# TYPE h histogram\n";
    assert!(Scrape::parse(&format!("{head}a 1\na{{b=\"c\\\"\\\\\\n\"}} 2\n")).is_ok());
    let whole = "h_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3.5\nh_count 2\n";
    assert!(Scrape::parse(&format!("{histogram}{whole}")).is_ok());
    for samples in [
        "a 1",
        "b 1\n",
        "a 1\na 2\n",
        "a{b=\"c\" 1\n",
        "a{b=\"c\\d\"} 1\n",
        "a -1\n",
        "a x\n",
        "a{b=c} 1\n",
    ] {
        assert!(
            Scrape::parse(&format!("{head}{samples}")).is_err(),
            "{samples}"
        );
    }
    for (one, other) in [
        ("+Inf", "2"),
        ("_sum 3.5", "_sums 3"),
        ("_count 2", "_count 1"),
        ("} 1", "} 3"),
    ] {
        let text = whole.replacen(one, other, 1);
        assert!(
            Scrape::parse(&format!("{histogram}{text}")).is_err(),
            "{text}"
        );
    }
    assert!(Scrape::parse("a 1\n").is_err());
    assert!(Scrape::parse(&format!("{head}{head}a 1\n")).is_err());
}
