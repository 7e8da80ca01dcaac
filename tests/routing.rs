//! Which frontend takes a request, and which backend of its cluster gets it.

mod common;

use common::{refused_address, Backend, Message, Peer, Proxy, Setup};

/// A proxy with a cluster per rule, each with a backend that answers its name.
struct Map {
    proxy: Proxy,
    _backends: Vec<Backend>,
}

impl Map {
    fn new(rules: &[(&str, &str)]) -> Map {
        let mut setup = Setup::http();
        let mut backends = Vec::new();
        for (name, rule) in rules {
            let backend = Backend::named(name);
            let line = format!("address = \"{}\"", backend.address());
            setup = setup.cluster(name, &[rule], &[line]);
            backends.push(backend);
        }
        Map {
            proxy: setup.start(),
            _backends: backends,
        }
    }

    /// The name of the cluster that answers, or the status.
    #[track_caller]
    fn ask(&self, client: &mut Peer, method: &str, host: &str, path: &str) -> String {
        let answer = client.ask(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        match answer.status() {
            200 => answer.text(),
            status => status.to_string(),
        }
    }

    /// Every question on one and the same connection has its own answer.
    #[track_caller]
    fn answers(&self, cases: &[(&str, &str, &str, &str)]) {
        let mut client = self.proxy.client();
        for (method, host, path, wanted) in cases {
            let got = self.ask(&mut client, method, host, path);
            assert_eq!(got, *wanted, "{method} {host} {path}");
        }
    }
}

#[test]
fn hostnames() {
    let map = Map::new(&[
        ("exact", "hostname = \"www.example.com\""),
        ("suffix", "hostname = \"*.example.com\""),
        ("apex", "hostname = \"example.com\""),
        ("upper", "hostname = \"Upper.Example.ORG\""),
    ]);
    map.answers(&[
        ("GET", "www.example.com", "/", "exact"),
        ("GET", "WWW.Example.COM", "/", "exact"),
        ("GET", "www.example.com:8080", "/", "exact"),
        ("GET", "api.example.com", "/", "suffix"),
        ("GET", "a.b.example.com", "/", "404"),
        ("GET", "example.com", "/", "apex"),
        ("GET", "notexample.com", "/", "404"),
        ("GET", "example.com.evil", "/", "404"),
        ("GET", "upper.example.org", "/", "upper"),
        ("GET", "127.0.0.1", "/", "404"),
    ]);
}

#[test]
fn any_hostname_is_the_last_resort() {
    let map = Map::new(&[
        ("any", "hostname = \"*\""),
        ("exact", "hostname = \"www.example.com\""),
    ]);
    map.answers(&[
        ("GET", "www.example.com", "/", "exact"),
        ("GET", "api.example.com", "/", "any"),
        ("GET", "localhost", "/", "any"),
        ("GET", "[::1]:8080", "/", "any"),
    ]);
}

#[test]
fn paths() {
    let map = Map::new(&[
        ("root", "hostname = \"a.example\""),
        ("api", "hostname = \"a.example\", path = \"/api\""),
        ("deep", "hostname = \"a.example\", path = \"/api/deep\""),
        (
            "exact",
            "hostname = \"a.example\", path = \"/api/exact\", path_type = \"exact\"",
        ),
        (
            "only",
            "hostname = \"b.example\", path = \"/only\", path_type = \"prefix\"",
        ),
    ]);
    map.answers(&[
        ("GET", "a.example", "/", "root"),
        ("GET", "a.example", "/api", "api"),
        ("GET", "a.example", "/api/", "api"),
        ("GET", "a.example", "/api/x", "api"),
        ("GET", "a.example", "/api?q", "api"),
        ("GET", "a.example", "/apix", "root"),
        ("GET", "a.example", "/API", "root"),
        ("GET", "a.example", "/api/deep/x", "deep"),
        ("GET", "a.example", "/api/deeper", "api"),
        ("GET", "a.example", "/api/exact", "exact"),
        ("GET", "a.example", "/api/exact?q=/x", "exact"),
        ("GET", "a.example", "/api/exact/", "api"),
        ("GET", "b.example", "/only", "only"),
        ("GET", "b.example", "/", "404"),
    ]);
}

/// What is routed is what the backend gets: the resolved path.
#[test]
fn paths_are_resolved_before_they_are_routed() {
    let map = Map::new(&[
        ("public", "hostname = \"*\", path = \"/public\""),
        ("admin", "hostname = \"*\", path = \"/admin\""),
    ]);
    map.answers(&[
        ("GET", "a.example", "/public/../admin", "admin"),
        ("GET", "a.example", "/public/%2e%2e/admin/x", "admin"),
        ("GET", "a.example", "/public/.%2E/admin", "admin"),
        ("GET", "a.example", "/public/./x", "public"),
        ("GET", "a.example", "/./public", "public"),
        ("GET", "a.example", "/public/..", "404"),
        ("GET", "a.example", "http://a.example/admin", "admin"),
    ]);
}

#[test]
fn methods() {
    let map = Map::new(&[
        ("read", "hostname = \"*\", method = \"GET\""),
        ("write", "hostname = \"*\""),
        (
            "purge",
            "hostname = \"*\", path = \"/cache\", method = \"PURGE\"",
        ),
    ]);
    map.answers(&[
        ("GET", "a.example", "/", "read"),
        ("POST", "a.example", "/", "write"),
        ("get", "a.example", "/", "write"),
        ("PURGE", "a.example", "/cache", "purge"),
        ("PURGE", "a.example", "/", "write"),
    ]);
}

/// How many of `count` requests each backend got.
fn shares(backends: &[Backend], rule: &str, keys: &[&str], count: usize) -> Vec<usize> {
    let line = |(backend, key): (&Backend, &&str)| {
        let comma = if key.is_empty() { "" } else { ", " };
        format!("address = \"{}\"{comma}{key}", backend.address())
    };
    let lines: Vec<_> = backends.iter().zip(keys).map(line).collect();
    let proxy = Setup::http().cluster("main", &[rule], &lines).start();
    let mut client = proxy.client();
    for _ in 0..count {
        assert_eq!(client.get("/").status(), 200);
    }
    backends
        .iter()
        .map(|backend| backend.requests().len())
        .collect()
}

const ALL: &str = "hostname = \"*\"";

#[test]
fn backends_take_turns() {
    let backends = [
        Backend::named("a"),
        Backend::named("b"),
        Backend::named("c"),
    ];
    assert_eq!(shares(&backends, ALL, &["", "", ""], 30), [10, 10, 10]);
}

#[test]
fn weights() {
    let backends = [
        Backend::named("a"),
        Backend::named("b"),
        Backend::named("c"),
    ];
    let got = shares(
        &backends,
        ALL,
        &["weight = 100", "weight = 200", "weight = 0"],
        30,
    );
    assert_eq!(got, [10, 20, 0]);
}

#[test]
fn backups_wait() {
    let backends = [Backend::named("a"), Backend::named("b")];
    assert_eq!(shares(&backends, ALL, &["backup = true", ""], 10), [0, 10]);
    let alive = Backend::named("alive");
    let lines = [
        format!("address = \"{}\"", refused_address()),
        format!("address = \"{}\", backup = true", alive.address()),
    ];
    let proxy = Setup::http().cluster("main", &[ALL], &lines).start();
    let mut client = proxy.client();
    let texts: Vec<_> = (0..5).map(|_| client.get("/").text()).collect();
    assert_eq!(texts, ["alive"; 5]);
}

/// Two listeners may send the same host to different clusters.
#[test]
fn listeners_are_apart() {
    let (first, second) = (Backend::named("first"), Backend::named("second"));
    let other = refused_address();
    let more = format!(
        "[[listeners]]\nprotocol = \"http\"\naddress = \"{other}\"\n[clusters.second]\n\
         protocol = \"http\"\nfrontends = [{{ address = \"{other}\", hostname = \"*\" }}]\n\
         backends = [{{ address = \"{}\" }}]\n",
        second.address()
    );
    let proxy = Setup::http()
        .backends(&[first.address()])
        .more(&more)
        .start();
    let text = |client: &mut Peer| Message::text(&client.get("/"));
    assert_eq!(text(&mut proxy.client()), "first");
    assert_eq!(text(&mut Peer::connect(other)), "second");
}
