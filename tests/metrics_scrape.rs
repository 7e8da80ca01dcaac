//! The metrics: who may ask how, and what is told while much changes.

mod common;

use common::{
    free_address, refused_address, serve_metrics, wait_sum, Backend, Broken, Control, Peer, Scrape,
    Setup,
};

#[test]
fn requests_of_all_kinds() {
    let proxy = Setup::http().start();
    let metrics = serve_metrics(&mut proxy.steer(), "");
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
    let metrics = serve_metrics(&mut proxy.steer(), "");
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
    let metrics = serve_metrics(&mut control, "");
    let frontend = format!("frontend add listener={metrics} hostname=a cluster=main");
    assert_eq!(
        control.refused(&frontend, "mismatch"),
        format!("error mismatch \"listener {metrics} serves the metrics: it takes no frontends\"")
    );
    control.ok(&format!("explain listener={metrics} path=/metrics"));
    assert_eq!(
        control.refused(&format!("explain listener={metrics} path=/x"), "missing"),
        "error missing \"this listener serves the metrics, and only /metrics: the answer would be 404\""
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
    let metrics = serve_metrics(&mut control, " front_timeout=1");
    many(&mut control, 3000);
    let mut client = Peer::connect(metrics);
    client.send("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let line = proxy.wait_access(1, "client_timeout").remove(0);
    assert!(line.contains("\"GET /metrics\" 200 "), "{line}");
    assert_eq!(client.rest().1, Broken::Reset);
    Scrape::of(metrics);
}

// ---- many --------------------------------------------------------------

/// The name of a backend: so long that all that is told of thousands does not fit what sockets hold.
fn named(n: usize) -> String {
    format!("b{n}-{}", "x".repeat(100))
}

/// A cluster with that many backends, in one transaction.
fn many(control: &mut Control, count: usize) {
    let mut lines = vec!["cluster add id=big".to_string()];
    let backend = |n| {
        format!(
            "backend add cluster=big id={} address=127.0.0.1:1",
            named(n)
        )
    };
    lines.extend((0..count).map(backend));
    control.transact(&lines);
}

#[test]
fn a_big_scrape_is_right_while_backends_come_and_go() {
    let proxy = Setup::http().top("worker_count", 2).start();
    let mut control = proxy.steer();
    let metrics = serve_metrics(&mut control, "");
    many(&mut control, 3000);
    let mut client = Peer::connect(metrics);
    client.send("GET /metrics HTTP/1.0\r\n\r\n").head();
    // It cannot go on before somebody reads. Some change their places, some go, some come.
    let remove = |n: usize| format!("backend remove cluster=big id={}", named(n));
    let add = |id: String| format!("backend add cluster=big id={id} address=127.0.0.1:2");
    let mut lines: Vec<String> = (0..1500).map(|n| remove(n * 2)).collect();
    lines.extend((0..750).map(|n| add(named(n * 2))));
    lines.extend((0..750).map(|n| add(format!("new{n}"))));
    control.transact(&lines);
    let (text, end) = client.rest();
    assert_eq!(end, Broken::Eof);
    let text = String::from_utf8(text).expect("text");
    let scrape = Scrape::parse(&text).unwrap_or_else(|e| panic!("{e}"));
    assert!(!text.contains("\"new"), "they came after the scrape began");
    let (first, last) = (
        "sozu_backend_connections",
        "sozu_backend_first_byte_seconds_count",
    );
    assert_eq!(scrape.all(first, &[]).len(), 3000);
    assert_eq!(scrape.all(last, &[]).len(), 1500);
    let next = Scrape::of(metrics);
    assert_eq!(next.all(first, &[]).len(), 3000);
    assert_eq!(next.all(last, &[("backend", "new749")]).len(), 1);
}

#[test]
fn many_scrapes_at_once() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().top("worker_count", 2);
    let proxy = proxy.backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let metrics = serve_metrics(&mut control, "");
    many(&mut control, 30);
    let scrapers: Vec<_> = (0..16)
        .map(|_| {
            std::thread::spawn(move || {
                let mut client = Peer::connect(metrics);
                for _ in 0..4 {
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
