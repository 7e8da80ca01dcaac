//! Backends that are asked whether they are well: who hears of it, what survives, and what it
//! does to requests.

mod common;
#[path = "tls/secure.rs"]
mod secure;

use common::{
    ok, refused_address, serve_metrics, signal, wait_until, Backend, Control, Proxy, Scrape, Setup,
    StuckListener,
};
use secure::{Authority, SecureBackend};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Answers `/health` with a status that the test chooses, everything else with its name.
struct Patient {
    backend: Backend,
    status: Arc<AtomicU16>,
    others: Arc<AtomicU16>,
}

impl Patient {
    fn new(name: &'static str) -> Patient {
        let [status, others] = [200, 200].map(|n| Arc::new(AtomicU16::new(n)));
        let (of_checks, of_others) = (Arc::clone(&status), Arc::clone(&others));
        let backend = Backend::replying(move |request| {
            let (status, body) = match request.target() {
                "/health" => (&of_checks, "it works"),
                _ => (&of_others, name),
            };
            let (status, len) = (status.load(SeqCst), body.len());
            let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {len}\r\n\r\n");
            (head + body).into_bytes()
        });
        Patient {
            backend,
            status,
            others,
        }
    }

    fn says(&self, status: u16) {
        self.status.store(status, SeqCst);
    }

    fn checks(&self) -> usize {
        self.count(true)
    }

    /// Requests of clients.
    fn requests(&self) -> usize {
        self.count(false)
    }

    fn count(&self, checks: bool) -> usize {
        let all = self.backend.requests();
        let of = all.iter().filter(|it| (it.target() == "/health") == checks);
        of.count()
    }

    fn wait_checks(&self, more: usize) {
        let wanted = self.checks() + more;
        wait_until("checks", || (self.checks() >= wanted).then_some(()));
    }
}

const HTTP: &str = "health_check = \"http\"\nhealth_path = \"/health\"\nhealth_interval = 1\n\
    health_timeout = 1\nhealth_rise = 2\nhealth_fall = 1\n";

/// Two workers in front of these backends, which are checked.
fn proxy(addresses: &[SocketAddr], keys: &str) -> Proxy {
    let setup = Setup::http().top("worker_count", 2);
    setup.backends(addresses).more(keys).start()
}

fn addresses(patients: &[Patient]) -> Vec<SocketAddr> {
    let all = patients.iter();
    all.map(|patient| patient.backend.address()).collect()
}

/// The line about a backend in `backend list`.
fn health_of(proxy: &Proxy, id: &str) -> String {
    let start = format!("health cluster=main id={id} by=checks ");
    let list = proxy.control("backend list").data;
    let line = list.into_iter().find(|line| line.starts_with(&start));
    line.unwrap_or_default()
}

/// Waits until main says so, and every worker has heard it: what is said later comes later.
#[track_caller]
fn wait_state(proxy: &Proxy, id: &str, state: &str) -> String {
    let wanted = format!(" state={state} ");
    let line = wait_until(&format!("{id} is {state}"), || {
        let line = health_of(proxy, id);
        line.contains(&wanted).then_some(line)
    });
    assert!(proxy.control("logging level=info").is_ok());
    line
}

/// So many requests, each by a connection of its own: every worker gets its share.
fn ask(proxy: &Proxy, count: usize) -> Vec<(u16, String)> {
    let answer = |_| {
        let answer = proxy.client().get("/");
        (answer.status(), answer.text())
    };
    (0..count).map(answer).collect()
}

#[track_caller]
fn all_say(answers: &[(u16, String)], name: &str) {
    assert!(
        answers
            .iter()
            .all(|(status, text)| *status == 200 && text.ends_with(name)),
        "{answers:?}"
    );
}

/// Data lines until there is one that holds all of this.
#[track_caller]
fn hear(events: &mut Control, words: &[&str]) -> String {
    loop {
        let line = events.line().expect("an event");
        if words.iter().all(|word| line.contains(word)) {
            return line;
        }
    }
}

#[test]
fn who_fails_is_left_alone_by_all_workers_before_a_request_fails() {
    let patients = [Patient::new("one"), Patient::new("two")];
    let proxy = proxy(&addresses(&patients), HTTP);
    let mut events = proxy.steer();
    events.send("events\nping\n").reply();
    wait_state(&proxy, "main-0", "up");
    wait_state(&proxy, "main-1", "up");
    // It is ill in every respect: a request would fail as well.
    patients[1].others.store(500, SeqCst);
    patients[1].says(503);
    let line = wait_state(&proxy, "main-1", "down");
    assert!(
        line.contains("why=\"status 503, not 200-399\" since_s="),
        "{line}"
    );
    hear(
        &mut events,
        &[
            "kind=backend",
            "id=main-1",
            "by=checks",
            "state=down",
            "503",
        ],
    );
    let before = patients[1].requests();
    all_say(&ask(&proxy, 20), "one");
    assert_eq!(patients[1].requests(), before);
    let explained = proxy.control("explain hostname=example.com");
    let why = "chosen=\"no, its checks fail: status 503, not 200-399\"";
    assert!(explained
        .data
        .iter()
        .any(|line| line.contains("main-1") && line.contains(why)));
    proxy.wait_log("backend main-1 of cluster main");
    // Both are well again: it comes back, to every worker.
    patients[1].others.store(200, SeqCst);
    patients[1].says(200);
    wait_state(&proxy, "main-1", "up");
    hear(
        &mut events,
        &["kind=backend", "id=main-1", "by=checks", "state=up"],
    );
    let answers = ask(&proxy, 20);
    assert!(answers.iter().any(|(_, text)| text == "two"), "{answers:?}");
}

#[test]
fn each_backend_is_asked_by_one_worker_and_no_check_is_a_request() {
    let patients = [
        Patient::new("one"),
        Patient::new("two"),
        Patient::new("three"),
    ];
    let begun = Instant::now();
    let setup = Setup::http()
        .top("worker_count", 4)
        .backends(&addresses(&patients));
    let proxy = setup.more(HTTP).start();
    patients.iter().for_each(|patient| patient.wait_checks(5));
    // A second lies between two of them, but for the first: four workers would be through at once.
    assert!(begun.elapsed() > Duration::from_secs(3));
    let metrics = serve_metrics(&mut proxy.steer(), "");
    let scrape = Scrape::of(metrics);
    let one = [("cluster", "main"), ("backend", "main-0")];
    let passed = [one[0], one[1], ("result", "passed")];
    assert!(scrape.get("sozu_backend_checks_total", &passed) >= 5.0);
    assert_eq!(scrape.sum("sozu_backend_responses_total", &one), 0.0);
    assert_eq!(scrape.sum("sozu_backend_connections_total", &one), 0.0);
    assert_eq!(scrape.sum("sozu_cluster_responses_total", &[]), 0.0);
    assert_eq!(proxy.access().len(), 0);
    let main = proxy.control("metrics cluster=main").data;
    assert!(main[1].contains(" checks_failed=0 ") && !main[1].contains(" checks_passed=0 "));
}

#[test]
fn the_status_the_host_and_the_body_are_looked_at() {
    let patient = Patient::new("one");
    let keys = format!("{HTTP}health_host = \"www.example.com\"\nhealth_status = \"200\"\nhealth_body = \"it works\"\n");
    let proxy = proxy(&[patient.backend.address()], &keys);
    wait_state(&proxy, "main-0", "up");
    let asked = patient.backend.last_request();
    assert_eq!((asked.method(), asked.target()), ("GET", "/health"));
    assert_eq!(asked.all("Host"), ["www.example.com"]);
    assert!(asked.connection_says("close"));
    patient.says(204);
    let line = wait_state(&proxy, "main-0", "down");
    assert!(line.contains("status 204, not 200"), "{line}");
    // Another question: what was found by the last one does not count.
    let mut control = proxy.steer();
    control.ok("cluster update id=main health_status=200-299");
    wait_state(&proxy, "main-0", "down");
    control.ok("cluster update id=main health_status=200-299 unset=health_body");
    wait_state(&proxy, "main-0", "up");
    control.ok("cluster update id=main health_body=\"it \\\"works\\\"\"");
    patient.says(200);
    let line = wait_state(&proxy, "main-0", "down");
    assert!(line.contains("the body does not hold"), "{line}");
    control.ok("cluster update id=main unset=health_host,health_body");
    wait_state(&proxy, "main-0", "up");
    let host = patient.backend.address().to_string();
    wait_until("its own address", || {
        let asked = patient.backend.last_request();
        (asked.all("Host") == [host.as_str()]).then_some(())
    });
}

#[test]
fn what_cannot_be_connected_to_or_does_not_answer_is_down() {
    let stuck = StuckListener::new();
    let silent = Backend::scripted(|peer, _| peer.request().and_then(|_| peer.request()).map(drop));
    let cut = Backend::scripted(|peer, _| {
        peer.request()?;
        peer.send("HTTP/1.1 200 O");
        Ok(())
    });
    let strange = Backend::scripted(|peer, _| {
        peer.send("SSH-2.0-strange\r\n\r\n");
        peer.request().map(drop)
    });
    let all = [
        refused_address(),
        stuck.address(),
        silent.address(),
        cut.address(),
        strange.address(),
    ];
    // Long enough for those that answer, however busy the machine is.
    let keys = HTTP.replace("health_timeout = 1", "health_timeout = 5");
    let proxy = proxy(&all, &keys);
    for (id, why) in [
        ("main-0", "Connection refused"),
        ("main-1", "not connected in 5 s"),
        ("main-2", "no whole answer in 5 s"),
        ("main-3", "ended its answer before the end"),
        ("main-4", "a bad answer"),
    ] {
        let line = wait_state(&proxy, id, "down");
        assert!(line.contains(why), "{line}");
    }
    // To connect is enough for the other kind of check.
    proxy.steer().ok("cluster update id=main health_check=tcp");
    for id in ["main-2", "main-3", "main-4"] {
        wait_state(&proxy, id, "up");
    }
    wait_state(&proxy, "main-0", "down");
}

#[test]
fn below_half_all_are_used_and_everybody_says_so() {
    let patients = [
        Patient::new("one"),
        Patient::new("two"),
        Patient::new("three"),
    ];
    let proxy = proxy(&addresses(&patients), HTTP);
    let mut events = proxy.steer();
    events.send("events\nping\n").reply();
    patients[0].says(500);
    wait_state(&proxy, "main-0", "down");
    assert!(ask(&proxy, 10).iter().all(|(_, text)| text != "one"));
    let panics = |proxy: &Proxy| {
        let mut status = proxy.control("status").data.into_iter();
        status.find(|line| line.starts_with("panic "))
    };
    assert_eq!(panics(&proxy), None);
    patients[1].says(500);
    hear(
        &mut events,
        &[
            "kind=panic",
            "cluster=main",
            "healthy=1",
            "ready=3",
            "state=on",
        ],
    );
    wait_state(&proxy, "main-1", "down");
    let line = panics(&proxy).expect("a panic");
    assert_eq!(line, "panic cluster=main healthy=1 ready=3 workers=0,1");
    let answers = ask(&proxy, 12);
    for name in ["one", "two", "three"] {
        assert!(answers.iter().any(|(_, text)| text == name), "{answers:?}");
    }
    proxy.wait_log("1 of 3 backends are well, fewer than half: all are used");
    let explained = proxy.control("explain hostname=example.com").data;
    let chosen = explained
        .iter()
        .filter(|line| line.contains("too few are well"));
    assert_eq!(chosen.count(), 3);
    // One more is well again: half and more.
    patients[1].says(200);
    hear(&mut events, &["kind=panic", "state=off", "healthy=2"]);
    wait_state(&proxy, "main-1", "up");
    assert_eq!(panics(&proxy), None);
    assert!(ask(&proxy, 10).iter().all(|(_, text)| text != "one"));
}

#[test]
fn who_comes_later_knows_what_was_found() {
    let patients = [Patient::new("one"), Patient::new("two")];
    let mut proxy = proxy(&addresses(&patients), HTTP);
    wait_state(&proxy, "main-0", "up");
    patients[1].says(503);
    wait_state(&proxy, "main-1", "down");
    let unasked = |proxy: &Proxy, after: &str| {
        let answers = ask(proxy, 12);
        assert!(
            answers.iter().all(|(_, text)| text == "one"),
            "{after}: {answers:?}"
        );
        assert_eq!(patients[1].requests(), 0, "{after}");
        assert!(health_of(proxy, "main-1").contains("state=down"), "{after}");
    };
    let mut control = proxy.steer();
    for id in [0, 1] {
        control.ok(&format!("worker restart id={id}"));
        unasked(&proxy, "a restart");
    }
    let dead = proxy.workers()[0].pid;
    signal(dead, "KILL");
    wait_until("another worker", || {
        let now = proxy.workers();
        let serves = |pid| pid != dead && pid != 0;
        (now.len() == 2 && now.iter().all(|it| serves(it.pid) && it.state == "running"))
            .then_some(())
    });
    unasked(&proxy, "a death");
    let before = proxy.workers();
    control.ok("upgrade");
    let pid = proxy.pid();
    proxy.adopt(pid);
    assert!(proxy
        .workers()
        .iter()
        .all(|now| before.iter().all(|it| it.pid != now.pid)));
    unasked(&proxy, "an upgrade");
    // And whoever asks now goes on asking.
    patients.iter().for_each(|patient| patient.wait_checks(3));
    patients[1].says(200);
    wait_state(&proxy, "main-1", "up");
    assert!(ask(&proxy, 10).iter().any(|(_, text)| text == "two"));
}

#[test]
fn without_main_each_worker_asks_for_itself() {
    let patients = [Patient::new("one"), Patient::new("two")];
    let mut proxy = proxy(&addresses(&patients), HTTP);
    wait_state(&proxy, "main-1", "up");
    proxy.kill_main();
    patients[1].says(503);
    let avoided = |proxy: &Proxy| ask(proxy, 12).iter().all(|(_, text)| text == "one");
    wait_until("both leave it alone", || avoided(&proxy).then_some(()));
    patients[1].says(200);
    wait_until("it is back", || (!avoided(&proxy)).then_some(()));
}

#[test]
fn a_change_of_what_is_checked_holds_at_once() {
    let patients = [
        Patient::new("one"),
        Patient::new("two"),
        Patient::new("three"),
    ];
    let proxy = proxy(&addresses(&patients), HTTP);
    let mut control = proxy.steer();
    patients[2].says(503);
    wait_state(&proxy, "main-2", "down");
    // How often is no other question.
    control.ok("cluster update id=main health_rise=5 health_fall=4");
    assert!(health_of(&proxy, "main-2").contains("state=down"));
    control.ok("backend update cluster=main id=main-2 state=drain");
    assert_eq!(health_of(&proxy, "main-2"), "");
    let drained = patients[2].checks();
    control.ok("backend remove cluster=main id=main-1");
    let removed = patients[1].checks();
    patients[0].wait_checks(3);
    assert_eq!(
        (patients[1].checks(), patients[2].checks()),
        (removed, drained)
    );
    control.ok("backend update cluster=main id=main-2 state=ready");
    wait_state(&proxy, "main-2", "down");
    control.ok("cluster update id=main unset=health_check");
    assert_eq!(proxy.control("backend list").data.len(), 2);
    assert!(ask(&proxy, 10).iter().any(|(_, text)| text == "three"));
    let address = patients[1].backend.address();
    control.transact(&[
        "cluster add id=more health_check=http health_path=/health health_interval=1".into(),
        format!("backend add cluster=more id=it address={address}"),
    ]);
    patients[1].wait_checks(2);
    control.transact(&[
        "backend remove cluster=more id=it",
        "cluster remove id=more",
    ]);
    assert_eq!(proxy.control("backend list").data.len(), 2);
}

#[test]
fn a_run_of_5xx_has_a_backend_left_alone_for_a_while() {
    let patients = [Patient::new("one"), Patient::new("two")];
    let setup = Setup::http()
        .top("worker_count", 1)
        .backends(&addresses(&patients));
    let proxy = setup.more("eject_5xx = 3\n").start();
    let mut events = proxy.steer();
    events.send("events\nping\n").reply();
    patients[1].others.store(503, SeqCst);
    let answers = ask(&proxy, 12);
    let bad = answers.iter().filter(|(status, _)| *status == 503).count();
    // The last ones may lie behind the first pause, on a busy machine.
    assert!((3..6).contains(&bad), "{answers:?}");
    let why = "3 responses in a row were 5xx";
    hear(
        &mut events,
        &["kind=backend", "id=main-1", "state=down", why, "worker=0"],
    );
    let list = proxy.control("backend list").data;
    let left =
        "health cluster=main id=main-1 worker=0 state=down why=\"3 responses in a row were 5xx\"";
    assert!(list.iter().any(|line| line.starts_with(left)), "{list:?}");
    let explained = proxy.control("explain hostname=example.com").data;
    assert!(explained
        .iter()
        .any(|line| line.contains("every worker leaves it alone")));
    // The new one goes on with what the old one knows, and with one request after the pause.
    proxy.steer().ok("worker restart id=0");
    let list = proxy.control("backend list").data;
    assert!(list.iter().any(|line| line.starts_with(left)), "{list:?}");
    patients[1].others.store(200, SeqCst);
    wait_until("it is tried again", || {
        ask(&proxy, 2)
            .iter()
            .any(|(_, text)| text == "two")
            .then_some(())
    });
    hear(
        &mut events,
        &["kind=backend", "id=main-1", "state=up", "worker=0"],
    );
    assert_eq!(proxy.control("backend list").data.len(), 2);
}

#[test]
fn checks_are_made_as_requests_are() {
    let authority = Authority::new();
    let good = SecureBackend::echo(&authority.issue(&["example.com"]));
    let other = SecureBackend::echo(&authority.issue(&["other.example.com"]));
    let plain = Backend::scripted(|peer, _| loop {
        peer.exactly(1)?;
        peer.send("HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let all = [good.address(), other.address(), plain.address()];
    let setup = Setup::http().backends(&all);
    let ca = setup.file("ca.pem", &authority.pem());
    let keys = format!("{HTTP}tls = true\ntls_ca = {ca}\nhealth_host = \"example.com\"\n");
    let proxy = setup.more(&keys).start();
    wait_state(&proxy, "main-0", "up");
    assert!(wait_state(&proxy, "main-1", "down").contains("certificate verify failed"));
    assert!(wait_state(&proxy, "main-2", "down").contains("does not speak TLS"));
    let seen = good.handshakes();
    assert_eq!(seen[0].name.as_deref(), Some("example.com"));
    let mut control = proxy.steer();
    control.ok("cluster update id=main health_check=tcp");
    assert!(wait_state(&proxy, "main-1", "down").contains("certificate verify failed"));
    wait_state(&proxy, "main-0", "up");
    let what = control.refused("cluster update id=main unset=health_host", "invalid");
    assert!(what.contains("health_host"), "{what}");
}

#[test]
fn who_is_told_of_clients_is_told_that_there_is_none() {
    for (version, header) in [
        ("v1", b"PROXY UNKNOWN\r\n".to_vec()),
        ("v2", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec()),
    ] {
        let wanted = header.clone();
        let backend = Backend::scripted(move |peer, _| {
            if peer.exactly(wanted.len())? == wanted {
                peer.request()?;
                peer.send(ok("fine"));
            }
            Ok(())
        });
        let keys = format!("{HTTP}send_proxy = \"{version}\"\n");
        let proxy = proxy(&[backend.address()], &keys);
        wait_state(&proxy, "main-0", "up");
    }
}
