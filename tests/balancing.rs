//! Which backend serves: every policy, sticky sessions, and backends that come back.

mod common;

use common::{ok, refused_address, wait_until, Backend, Gate, Peer, Proxy, Setup};
use std::collections::BTreeMap;

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
