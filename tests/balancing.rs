//! Which backend serves: every policy, sticky sessions, backends that are full, and those that come back.

mod common;

use common::{ok, refused_address, wait_until, Backend, Gate, Peer, Proxy, Setup, StuckListener};
use std::collections::BTreeMap;
use std::time::Instant;

/// A proxy before backends that answer with their names, `a`, `b` and so on; `keys` are the cluster's, each backend's own
/// stand behind its address.
fn before(keys: &str, backends: &[&str]) -> (Vec<Backend>, Proxy) {
    let (all, setup) = setup(keys, backends);
    (all, setup.start())
}

fn setup(keys: &str, backends: &[&str]) -> (Vec<Backend>, Setup) {
    let names: Vec<String> = ('a'..).take(backends.len()).map(String::from).collect();
    let all: Vec<Backend> = names.iter().map(|name| Backend::named(name)).collect();
    let row = |((backend, name), more): ((&Backend, &String), &&str)| {
        let address = backend.address();
        format!("id = \"{name}\", address = \"{address}\"{more}")
    };
    let rows: Vec<String> = all.iter().zip(&names).zip(backends).map(row).collect();
    let setup = Setup::http().cluster("main", &["hostname = \"*\""], &rows);
    (all, setup.more(keys))
}

/// How often each backend answered.
fn asked(
    client: &mut Peer,
    request: impl Fn(usize) -> String,
    times: usize,
) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for n in 0..times {
        let answer = client.ask(request(n));
        assert_eq!(answer.status(), 200, "{answer:?}");
        *counts.entry(answer.text()).or_insert(0) += 1;
    }
    counts
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: example.com\r\n{fields}\r\n")
}

const POLICIES: [&str; 6] = [
    "round_robin",
    "random",
    "least_conn",
    "power_of_two",
    "least_time",
    "hash",
];

#[test]
fn weights_are_kept_by_turns_and_by_chance() {
    for (policy, least, most) in [("round_robin", 30, 30), ("random", 10, 60)] {
        let keys = format!("load_balancing = \"{policy}\"\n");
        let (_all, proxy) = before(&keys, &[", weight = 30", ", weight = 90"]);
        let counts = asked(&mut proxy.client(), |_| get(""), 120);
        let a = counts.get("a").copied().unwrap_or_default();
        assert!((least..=most).contains(&a), "{policy}: {counts:?}");
    }
}

/// A request that finds nobody at one backend is served by another, whatever the policy.
#[test]
fn every_policy_tries_again_elsewhere() {
    for policy in POLICIES {
        let good = Backend::named("good");
        let rows = [
            format!("address = \"{}\"", refused_address()),
            format!("address = \"{}\"", good.address()),
            format!("address = \"{}\"", refused_address()),
            format!("address = \"{}\", backup = true", refused_address()),
        ];
        let setup = Setup::http().cluster("main", &["hostname = \"*\""], &rows);
        let proxy = setup
            .more(&format!("load_balancing = \"{policy}\"\n"))
            .start();
        let mut client = proxy.client();
        let counts = asked(&mut client, |n| get(&format!("X: {n}\r\n")), 20);
        assert_eq!(counts, BTreeMap::from([("good".into(), 20)]), "{policy}");
        proxy
            .steer()
            .ok("backend update cluster=main id=main-1 state=drain");
        assert_eq!(client.get("/").status(), 503, "{policy}");
    }
}

/// The policy of a cluster that serves is changed.
#[test]
fn a_policy_changes_while_requests_come() {
    let (_all, proxy) = before("", &["", "", ""]);
    let mut client = proxy.client();
    for policy in POLICIES.iter().cycle().take(12) {
        let change = format!("cluster update id=main load_balancing={policy}");
        proxy.steer().ok(&change);
        assert_eq!(
            asked(&mut client, |_| get(""), 9).values().sum::<usize>(),
            9
        );
    }
}

#[test]
fn alike_requests_go_to_the_same_backend() {
    let backends = ["", "", "", "", "", ""];
    for (part, field) in [
        ("header:X-User", "x-user: "),
        ("cookie:sid", "Cookie: a=b; sid="),
    ] {
        let keys = format!("load_balancing = \"hash\"\nhash_on = \"{part}\"\n");
        let (_all, proxy) = before(&keys, &backends);
        let mut seen = BTreeMap::new();
        for round in 0..3 {
            for user in 0..40 {
                // Another connection changes nothing.
                let answer = proxy.client().ask(get(&format!("{field}u{user}\r\n")));
                let name = seen.entry(user).or_insert_with(|| answer.text());
                assert_eq!(*name, answer.text(), "{part} {round}");
            }
        }
        let different: std::collections::BTreeSet<_> = seen.values().collect();
        assert!(different.len() >= 4, "{part}: {seen:?}");
        let without = asked(&mut proxy.client(), |_| get(""), 10);
        assert_eq!(without.len(), 1, "by the source: {without:?}");
    }
    let (_all, proxy) = before("load_balancing = \"hash\"\nhash_on = \"path\"\n", &backends);
    let mut client = proxy.client();
    let mut by_path = |path: &str| client.get(path).text();
    assert_eq!(by_path("/x?1"), by_path("/x?2"));
    let all: std::collections::BTreeSet<_> = (0..30).map(|n| by_path(&format!("/{n}"))).collect();
    assert!(all.len() >= 4);
}

#[test]
fn least_conn_goes_where_least_is_under_way() {
    let gate = Gate::default();
    let (slow, held) = (gate.clone(), Gate::default());
    let busy = Backend::replying(move |_| {
        slow.pass();
        ok("busy")
    });
    drop(held);
    let idle = Backend::named("idle");
    let setup = Setup::http().backends(&[busy.address(), idle.address()]);
    let proxy = setup.more("load_balancing = \"least_conn\"\n").start();
    let mut waiting = Vec::new();
    // One of the first two meets the busy one, whose turn it is first.
    while busy.requests().is_empty() {
        let mut client = proxy.client();
        client.send(get(""));
        waiting.push(client);
        wait_until("a request arrives", || {
            (busy.requests().len() + idle.requests().len() == waiting.len()).then_some(())
        });
    }
    let counts = asked(&mut proxy.client(), |_| get(""), 30);
    assert_eq!(counts, BTreeMap::from([("idle".into(), 30)]));
    gate.admit(9);
}

// ---- sticky sessions ------------------------------------------------------------

fn cookie(answer: &common::Message) -> Option<String> {
    let field = answer.field("Set-Cookie")?;
    let (pair, attributes) = field.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/; HttpOnly; SameSite=Lax");
    Some(pair.to_string())
}

#[test]
fn a_cookie_keeps_a_client_at_its_backend() {
    let (all, proxy) = before(
        "sticky_session = true\n",
        &["", ", sticky_id = \"two\"", ""],
    );
    for _ in 0..6 {
        let first = proxy.client().get("/");
        let pair = cookie(&first).expect("a cookie");
        let name = if first.text() == "b" {
            "two".into()
        } else {
            first.text()
        };
        assert_eq!(pair, format!("SOZUBALANCEID={name}"));
        for backend in &all {
            backend.forget();
        }
        let mut client = proxy.client();
        for _ in 0..5 {
            let fields = format!("Cookie: x=1; {pair}; y=2\r\nCookie: {pair}\r\n");
            let again = client.ask(get(&fields));
            assert_eq!((again.text(), cookie(&again)), (first.text(), None));
        }
        // The cookie is between the client and us.
        for request in all.iter().flat_map(Backend::requests) {
            assert_eq!(request.all("Cookie"), ["x=1; y=2"]);
        }
    }
    // A cookie of nobody's is replaced; backends see what else there is.
    let odd = proxy
        .client()
        .ask(get("Cookie: SOZUBALANCEID=\"nobody\"\r\n"));
    assert!(cookie(&odd).is_some());
    assert!(all
        .iter()
        .flat_map(Backend::requests)
        .any(|request| request.field("Cookie").is_none()));
}

/// The cookie is between the client and us: a backend does not set it.
#[test]
fn a_backend_has_no_say_in_the_cookie() {
    let backend = Backend::answering(
        "HTTP/1.1 103 Early Hints\r\nSet-Cookie: SOZUBALANCEID=early\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 0\r\nSet-Cookie: SOZUBALANCEID=mine; Path=/\r\n\
         Set-Cookie: sid=1\r\nset-cookie: SOZUBALANCEID = ; Max-Age=0\r\n\r\n",
    );
    let setup = Setup::http().backends(&[backend.address()]);
    let proxy = setup.more("sticky_session = true\n").start();
    let ours = "SOZUBALANCEID=main-0; Path=/; HttpOnly; SameSite=Lax";
    let mut client = proxy.client();
    for (fields, wanted) in [
        ("", vec!["sid=1", ours]),
        ("Cookie: SOZUBALANCEID=main-0\r\n", vec!["sid=1"]),
    ] {
        client.send(get(fields));
        let hints = client.head();
        assert_eq!(hints.all("Set-Cookie").len(), 0);
        assert_eq!(client.response().all("Set-Cookie"), wanted);
    }
    // Where no cookie keeps anybody, it is like others.
    proxy
        .steer()
        .ok("cluster update id=main sticky_session=false");
    client.send(get(""));
    client.head();
    assert_eq!(client.response().all("Set-Cookie").len(), 3);
}

#[test]
fn who_is_kept_moves_when_his_backend_goes() {
    let (_all, proxy) = before("sticky_session = true\n", &["", ""]);
    let first = proxy.client().get("/");
    let pair = cookie(&first).expect("a cookie");
    let fields = format!("Cookie: {pair}\r\n");
    let id = first.text();
    proxy
        .steer()
        .ok(&format!("backend update cluster=main id={id} state=drain"));
    let moved = proxy.client().ask(get(&fields));
    assert_ne!(moved.text(), id);
    assert_eq!(
        cookie(&moved),
        Some(format!("SOZUBALANCEID={}", moved.text()))
    );
    proxy.steer().ok(&format!(
        "backend update cluster=main id={id} state=ready sticky_id=new"
    ));
    let renamed = proxy.client().ask(get(&fields));
    assert!(
        cookie(&renamed).is_some(),
        "what it was called leads nowhere"
    );
    // Without sticky sessions cookies are nobody's business.
    proxy
        .steer()
        .ok("cluster update id=main sticky_session=false");
    let plain = proxy.client().ask(get(&fields));
    assert_eq!(cookie(&plain), None);
}

#[test]
fn the_listener_names_the_cookie_and_a_restarted_worker_knows_it() {
    let (_all, setup) = setup("sticky_session = true\n", &["", "", ""]);
    let proxy = setup.listener("sticky_name", "\"LB\"").start();
    let first = proxy.client().get("/");
    let pair = cookie(&first).expect("a cookie");
    assert_eq!(pair, format!("LB={}", first.text()));
    proxy.steer().ok("worker restart id=0");
    for _ in 0..5 {
        let again = proxy.client().ask(get(&format!("Cookie: {pair}\r\n")));
        assert_eq!((again.text(), cookie(&again)), (first.text(), None));
    }
}

// ---- full backends --------------------------------------------------------------

/// A backend that answers when the gate lets it.
fn gated() -> (Gate, Backend) {
    let gate = Gate::default();
    let at = gate.clone();
    let backend = Backend::replying(move |request| {
        at.pass();
        ok(request.target())
    });
    (gate, backend)
}

fn full_setup(backend: &Backend, keys: &str) -> Setup {
    let row = format!("address = \"{}\", max_connections = 2", backend.address());
    Setup::http()
        .cluster("main", &["hostname = \"*\""], &[row])
        .more(keys)
}

fn send(proxy: &Proxy, path: &str) -> Peer {
    let mut client = proxy.client();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n"));
    client
}

fn wait_queued(proxy: &Proxy, count: u64) {
    wait_until("so many wait", || {
        let data = proxy.control("connections list").data;
        let held = data.iter().filter(|line| line.contains(" state=held "));
        (held.count() as u64 == count).then_some(())
    });
}

/// Until a connection to that backend could not be made.
fn wait_failed(proxy: &Proxy, backend: &str) {
    let name = format!(" id={backend} ");
    wait_until("it is tried", || {
        let data = proxy.control("metrics").data;
        let mut lines = data.iter().filter(|line| line.contains(&name));
        let never = " connect_failures=0 ";
        lines.any(|line| !line.contains(never)).then_some(())
    });
}

#[test]
fn who_waits_for_a_full_backend_is_served_in_order() {
    let (gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 60\n")
        .top("worker_count", 2)
        .start();
    let mut first: Vec<Peer> = (0..2).map(|n| send(&proxy, &format!("/{n}"))).collect();
    backend.wait_requests(2);
    let mut waiting = Vec::new();
    for n in 2..8 {
        waiting.push(send(&proxy, &format!("/{n}")));
        wait_queued(&proxy, n - 1);
    }
    assert_eq!(backend.requests().len(), 2);
    // One gives up.
    drop(waiting.remove(2));
    wait_queued(&proxy, 5);
    gate.admit(2);
    first
        .iter_mut()
        .for_each(|client| assert_eq!(client.response().status(), 200));
    gate.admit(100);
    for client in &mut waiting {
        assert_eq!(client.response().status(), 200);
    }
    let mut paths: Vec<String> = backend
        .requests()
        .iter()
        .map(|r| r.target().into())
        .collect();
    paths.sort();
    assert_eq!(paths, ["/0", "/1", "/2", "/3", "/5", "/6", "/7"]);
    wait_queued(&proxy, 0);
}

/// Of a body that finds no room nothing more is read, and yet it is heard that its client is gone.
#[test]
fn who_is_gone_waits_no_longer() {
    let (_gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 60\n").start();
    let _busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let begin = |path: &str| {
        let mut client = proxy.client();
        let body = "b".repeat(60_000);
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\n{body}"
        ));
        client
    };
    let mut half = begin("/half");
    let closed = begin("/closed");
    wait_queued(&proxy, 2);
    half.finish();
    wait_queued(&proxy, 1);
    assert_eq!(half.response().status(), 503);
    drop(closed);
    wait_queued(&proxy, 0);
    for path in ["/half", "/closed"] {
        proxy.wait_access(1, &format!("POST {path}\" 503 0 "));
    }
    proxy.wait_access(2, " client_closed \"while its request was held\"");
    assert_eq!(backend.requests().len(), 2);
}

/// A backend's place is free once its client has reset, whatever the backend does.
#[test]
fn who_is_gone_takes_no_place_of_a_backend() {
    let gate = Gate::default();
    let at = gate.clone();
    let backend = Backend::replying(move |request| {
        if request.target() == "/slow" {
            at.pass();
        }
        ok(request.target())
    });
    let row = format!("address = \"{}\", max_connections = 1", backend.address());
    let setup = Setup::http().cluster("main", &["hostname = \"*\""], &[row]);
    let proxy = setup.more("queue_timeout = 60\n").start();
    // The first answer is never read: that makes a reset of its close.
    let mut gone = send(&proxy, "/first");
    gone.send("GET /slow HTTP/1.1\r\nHost: example.com\r\n\r\n");
    backend.wait_requests(2);
    let mut waiting = send(&proxy, "/next");
    wait_queued(&proxy, 1);
    gone.reset();
    assert_eq!(waiting.response().text(), "/next");
    proxy.wait_access(1, " client_reset ");
}

#[test]
fn one_worker_serves_its_queue_in_the_order_in_which_it_came() {
    let (gate, backend) = gated();
    let row = format!("address = \"{}\", max_connections = 1", backend.address());
    let setup = Setup::http().cluster("main", &["hostname = \"*\""], &[row]);
    let proxy = setup.more("queue_timeout = 60\n").start();
    let mut clients = vec![send(&proxy, "/0")];
    backend.wait_requests(1);
    for n in 1..9 {
        clients.push(send(&proxy, &format!("/{n}")));
        wait_queued(&proxy, n);
    }
    gate.admit(9);
    clients
        .iter_mut()
        .for_each(|client| assert_eq!(client.response().status(), 200));
    let requests = backend.requests();
    let paths: Vec<&str> = requests.iter().map(|r| r.target()).collect();
    assert_eq!(
        paths,
        ["/0", "/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8"]
    );
}

#[test]
fn nobody_waits_longer_than_he_may_nor_behind_too_many() {
    let (gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 1\nmax_queue = 1\n").start();
    let _busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let begun = Instant::now();
    let mut waiting = send(&proxy, "/2");
    wait_queued(&proxy, 1);
    let beyond = send(&proxy, "/3").response();
    assert_eq!(
        (beyond.status(), beyond.field("Retry-After")),
        (503, Some("1"))
    );
    let late = waiting.response();
    assert!(begun.elapsed().as_millis() >= 1000);
    assert_eq!((late.status(), late.field("Retry-After")), (503, Some("1")));
    proxy.wait_access(1, " proxy_queue_full ");
    proxy.wait_access(1, " proxy_queue_timeout ");
    // The connection is good for another one.
    gate.admit(3);
    assert_eq!(waiting.get("/4").status(), 200);
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn a_queue_does_not_outlive_its_cluster() {
    let (_gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 60\n").start();
    let _busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let mut waiting = send(&proxy, "/2");
    wait_queued(&proxy, 1);
    let mut client = proxy.steer();
    let address = proxy.address();
    client.transact(&[
        format!("frontend remove listener={address} hostname=*"),
        "backend remove cluster=main id=main-0".into(),
        "cluster remove id=main".into(),
    ]);
    assert_eq!(waiting.response().status(), 503);
}

/// One whose connection fails has waited all the same.
#[test]
fn who_was_called_in_vain_goes_first() {
    let (gate, backend) = gated();
    let setup = full_setup(&backend, "queue_timeout = 60\n");
    let proxy = setup.listener("connect_timeout", 1).start();
    let mut busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let mut waiting: Vec<Peer> = Vec::new();
    for n in 2..5 {
        waiting.push(send(&proxy, &format!("/{n}")));
        wait_queued(&proxy, n - 1);
    }
    let stuck = StuckListener::new();
    let address = stuck.address();
    proxy.steer().ok(&format!(
        "backend add cluster=main id=stuck address={address} max_connections=1"
    ));
    wait_failed(&proxy, "stuck");
    gate.admit(1);
    backend.wait_requests(3);
    assert_eq!(backend.last_request().target(), "/2");
    gate.admit(9);
    busy.iter_mut()
        .chain(&mut waiting[..1])
        .for_each(|client| assert_eq!(client.response().status(), 200));
}

/// That nobody is left is told by why the first was none.
#[test]
fn who_waits_again_keeps_in_mind_what_went_wrong() {
    let (_gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 60\n").start();
    let _busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let mut waiting = send(&proxy, "/2");
    wait_queued(&proxy, 1);
    let address = refused_address();
    let mut client = proxy.steer();
    client.ok(&format!(
        "backend add cluster=main id=refused address={address}"
    ));
    wait_failed(&proxy, "refused");
    wait_queued(&proxy, 1);
    client.ok("backend update cluster=main id=main-0 state=drain");
    assert_eq!(waiting.response().status(), 503);
    proxy.wait_access(1, "\"GET /2\" 503 0 ");
    proxy.wait_access(1, " backend_refused ");
}

/// Another backend makes room as well.
#[test]
fn who_waits_is_served_by_a_backend_that_is_added() {
    let (_gate, backend) = gated();
    let proxy = full_setup(&backend, "queue_timeout = 60\n").start();
    let _busy = [send(&proxy, "/0"), send(&proxy, "/1")];
    backend.wait_requests(2);
    let mut waiting = send(&proxy, "/2");
    wait_queued(&proxy, 1);
    let new = Backend::named("new");
    let address = new.address();
    proxy.steer().ok(&format!(
        "backend add cluster=main id=new address={address}"
    ));
    assert_eq!(waiting.response().text(), "new");
}

#[test]
fn a_tunnel_counts_and_tcp_waits_as_well() {
    let row =
        |backend: &Backend| format!("address = \"{}\", max_connections = 1", backend.address());
    let backend = Backend::scripted(|peer, number| {
        peer.send([b'0' + number as u8]);
        peer.rest();
        Ok(())
    });
    let setup = Setup::tcp().cluster("main", &[""], &[row(&backend)]);
    let proxy = setup.more("queue_timeout = 60\n").start();
    let mut first = proxy.client();
    assert_eq!(first.exactly(1).expect("a byte"), b"0");
    let mut second = proxy.client();
    wait_queued(&proxy, 1);
    assert_eq!(backend.connections(), 1);
    drop(first);
    assert_eq!(second.exactly(1).expect("a byte"), b"1");
}

// ---- those that come back ---------------------------------------------------------

#[test]
fn a_backend_that_is_added_warms_up() {
    let (_all, proxy) = before("slow_start = 3600\n", &["", ""]);
    let counts = asked(&mut proxy.client(), |_| get(""), 20);
    assert_eq!(counts, BTreeMap::from([("a".into(), 10), ("b".into(), 10)]));
    let new = Backend::named("new");
    let address = new.address();
    proxy.steer().ok(&format!(
        "backend add cluster=main id=new address={address}"
    ));
    let counts = asked(&mut proxy.client(), |_| get(""), 205);
    let new = counts.get("new").copied().unwrap_or_default();
    // A twentieth of a weight.
    assert!((3..=8).contains(&new), "{counts:?}");
    proxy.steer().ok("cluster update id=main slow_start=0");
    proxy
        .steer()
        .ok("backend update cluster=main id=new weight=101");
    let counts = asked(&mut proxy.client(), |_| get(""), 90);
    assert!(counts["new"] >= 25, "{counts:?}");
}

#[test]
fn below_half_all_are_used_and_the_log_says_so() {
    let alive = Backend::named("alive");
    let addresses = [refused_address(), refused_address(), alive.address()];
    let proxy = Setup::http().backends(&addresses).start();
    let mut client = proxy.client();
    let counts = asked(&mut client, |_| get(""), 30);
    assert_eq!(counts.len(), 1);
    proxy.wait_log("fewer than half: all are used");
}
