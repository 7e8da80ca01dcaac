//! Changes together or not at all; commits that wait to be confirmed; the
//! configuration file read again.

mod common;

use common::{free_address, ok, wait_until, Backend, Control, Gate, Peer, Proxy, Setup};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

fn workers(count: usize) -> Setup {
    Setup::http().top("worker_count", count)
}

fn is_open(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(5)).is_ok()
}

/// A listener, a cluster with a backend, and what leads from one to the other.
fn site(name: &str, listener: SocketAddr, backend: SocketAddr) -> Vec<String> {
    vec![
        format!("listener add address={listener} protocol=http"),
        format!("cluster add id={name}"),
        format!("backend add cluster={name} id=0 address={backend}"),
        format!("frontend add listener={listener} cluster={name}"),
    ]
}

#[test]
fn all_kinds_at_once() {
    let backend = Backend::named("here");
    let proxy = workers(2).start();
    let mut client = proxy.steer();
    let address = free_address();
    client.ok("begin");
    for line in site("web", address, backend.address()) {
        assert_eq!(client.ok(&line).last, "ok");
    }
    assert!(!is_open(address), "nothing is done before the commit");
    assert_eq!(client.dump().len(), 1, "nor to be seen");
    let done = client.ok("commit");
    assert_eq!((done.number("changes"), done.number("revision")), (4, 1));
    assert_eq!(Peer::connect(address).get("/").text(), "here");
    let undo = [
        format!("frontend remove listener={address}"),
        "backend remove cluster=web id=0".into(),
        "cluster remove id=web".into(),
        format!("listener remove address={address}"),
    ];
    client.transact(&undo);
    assert!(!is_open(address));
    assert_eq!(client.dump().len(), 1);
}

/// Wherever it fails, nothing is left, and what failed is named.
#[test]
fn a_change_that_fails_in_the_middle() {
    let backend = Backend::named("here");
    let proxy = workers(2).start();
    let mut client = proxy.steer();
    client.ok("cluster add id=old");
    let before = client.dump();
    let address = free_address();
    let good = site("web", address, backend.address());
    for place in 0..=good.len() {
        let mut lines = good.clone();
        lines.insert(place, "cluster add id=old".into());
        client.ok("begin");
        lines.iter().for_each(|line| drop(client.ok(line)));
        let said = client.refused("commit", "exists");
        let named = format!("change {} of 5: cluster old already exists", place + 1);
        assert!(said.contains(&named), "{said}");
        assert_eq!(client.dump(), before);
        assert!(!is_open(address));
        client.refused("commit", "missing");
    }
    assert_eq!(client.ok("state stats").number("revision"), 1);
    client.transact(&good);
    assert_eq!(Peer::connect(address).get("/").text(), "here");
}

/// The changes fit, but the system does not give us the port of one.
#[test]
fn a_port_that_is_taken() {
    let proxy = workers(2).start();
    let mut client = proxy.steer();
    let before = client.dump();
    let taken = TcpListener::bind(free_address()).expect("bind");
    let address = taken.local_addr().expect("getsockname");
    let (first, second) = (free_address(), free_address());
    let lines = [
        "cluster add id=a".to_string(),
        format!("listener add address={first} protocol=http"),
        format!("listener add address={address} protocol=http"),
        format!("listener add address={second} protocol=http"),
    ];
    client.ok("begin");
    lines.iter().for_each(|line| drop(client.ok(line)));
    let said = client.refused("commit", "failed");
    assert!(said.contains("change 3 of 4"), "{said}");
    assert!(said.contains(&address.to_string()), "{said}");
    assert_eq!(client.dump(), before);
    assert!(!is_open(first) && !is_open(second));
    drop(taken);
    wait_until("the port is given back", || {
        client.ok("begin");
        lines.iter().for_each(|line| drop(client.ok(line)));
        client.ask("commit").is_ok().then_some(())
    });
    assert!(is_open(first) && is_open(second) && is_open(address));
}

/// A line that is not understood may have been a change: the rest is not done without it.
#[test]
fn a_line_that_is_none_spoils_the_transaction() {
    let proxy = workers(1).start();
    let mut client = proxy.steer();
    let before = client.dump();
    for (line, code) in [
        ("cluster ad id=b", "unknown"),
        ("cluster add id=b colour=red", "unknown"),
        ("cluster add id=\"", "syntax"),
        (
            "backend add cluster=a id=b address=1.2.3.4:5 weight=300",
            "invalid",
        ),
    ] {
        client.ok("begin");
        client.ok("cluster add id=a");
        client.refused(line, code);
        let said = client.refused("cluster add id=c", code);
        assert!(said.contains("change 2"), "{said}");
        let said = client.refused("commit", code);
        assert!(
            said.contains("change 2") && said.contains("nothing was done"),
            "{said}"
        );
        assert_eq!(client.dump(), before);
        client.refused("commit", "missing");
    }
    client.ok("begin");
    client.refused("nonsense", "unknown");
    client.ok("abort");
    client.ok("cluster add id=a");
}

#[test]
fn what_is_forgotten() {
    let proxy = workers(1).start();
    let (mut client, mut other) = (proxy.steer(), proxy.steer());
    let before = client.dump();
    client.ok("begin");
    client.ok("cluster add id=a");
    assert_eq!(client.ok("abort").number("forgotten"), 1);
    client.ok("begin");
    client.ok("cluster add id=a");
    drop(client);
    other.ok("begin");
    assert_eq!(other.ok("commit").number("changes"), 0);
    assert_eq!(other.dump(), before);
}

/// Who commits by revision does so only if nobody was faster.
#[test]
fn two_editors() {
    let proxy = workers(1).start();
    let (mut one, mut other) = (proxy.steer(), proxy.steer());
    let mut done = 0;
    for round in 0..10 {
        let seen = [one.ok("begin"), other.ok("begin")].map(|reply| reply.number("revision"));
        assert_eq!(seen, [round, round]);
        one.ok(&format!("cluster add id=one{round}"));
        other.ok(&format!("cluster add id=other{round}"));
        let commit = format!("commit revision={round}\n");
        one.send(&commit);
        other.send(&commit);
        let codes = [one.reply(), other.reply()].map(|reply| reply.code().to_owned());
        let mut sorted = codes.clone();
        sorted.sort();
        assert_eq!(sorted, ["mismatch", "ok"], "{codes:?}");
        done += 1;
        assert_eq!(one.ok("cluster list").data.len(), done);
    }
}

#[test]
fn a_commit_that_nobody_confirms() {
    let backend = Backend::named("here");
    let proxy = workers(2).start();
    let (mut client, mut other) = (proxy.steer(), proxy.steer());
    let before = client.dump();
    let mut listener = proxy.steer();
    listener.send("events\nping\n").reply();
    let address = free_address();
    client.ok("begin");
    site("web", address, backend.address())
        .iter()
        .for_each(|line| drop(client.ok(line)));
    client.ok("commit confirm=1");
    assert_eq!(Peer::connect(address).get("/").text(), "here");
    // Whoever it is: nothing else is taken meanwhile, and nothing is lost by trying.
    other.refused("cluster add id=a", "in_use");
    other.refused("reload", "in_use");
    other.ok("begin");
    other.ok("cluster add id=a");
    other.refused("commit", "in_use");
    wait_until("it is undone", || (client.dump() == before).then_some(()));
    other.refused("confirm", "missing");
    other.ok("cluster add id=a");
    assert!(!is_open(address));
    let mut events = Vec::new();
    while !events.iter().any(|line: &String| line.contains("id=a ")) {
        events.push(listener.line().expect("an event"));
    }
    let undone = events
        .iter()
        .position(|line| line.contains("kind=rollback"));
    let removed = format!("frontend remove listener={address}");
    assert!(undone.is_some(), "{events:?}");
    assert!(
        events.iter().any(|line| line.contains(&removed)),
        "{events:?}"
    );
}

#[test]
fn a_commit_that_is_confirmed() {
    let proxy = workers(1).start();
    let (mut client, mut other) = (proxy.steer(), proxy.steer());
    client.ok("begin");
    client.ok("cluster add id=a");
    client.ok("commit confirm=1");
    other.ok("confirm");
    let told = proxy.wait_log(": confirm");
    assert!(told.contains("revision 1, by uid "), "{told}");
    client.ok("begin");
    client.ok("cluster add id=b");
    client.ok("commit confirm=1");
    // The second is undone; the first was kept.
    wait_until("it is undone", || {
        (client.ok("cluster list").data.len() == 1).then_some(())
    });
    assert!(client.dump().iter().any(|line| line.contains("id=a ")));
}

/// What nobody has confirmed does not outlive the proxy, and an end in between stays one.
#[test]
fn an_end_before_the_confirmation() {
    let gate = Gate::default();
    let inner = gate.clone();
    let backend = Backend::replying(move |_| {
        inner.pass();
        ok("late")
    });
    let setup = workers(1).backends(&[backend.address()]);
    let saved = setup.path("state");
    let mut proxy = setup
        .top("saved_state", format!("{saved:?}"))
        .top("automatic_state_save", true)
        .start();
    let (mut control, mut client) = (proxy.steer(), proxy.client());
    control.ok("cluster add id=confirmed");
    client.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n");
    backend.wait_requests(1);
    control.ok("begin");
    control.ok("cluster add id=unconfirmed");
    control.ok("commit confirm=1");
    proxy.signal("TERM");
    let address = proxy.address();
    wait_until("nobody listens", || TcpStream::connect(address).err());
    // Longer than the second after which it would be undone.
    client.silent_for(Duration::from_millis(1_300));
    assert!(!is_open(address), "it listens again");
    gate.admit(1);
    assert_eq!(client.response().text(), "late");
    proxy.wait_exit();
    let text = std::fs::read_to_string(saved).expect("the saved state");
    assert!(text.contains("id=confirmed "), "{text}");
    assert!(!text.contains("unconfirmed"), "{text}");
}

// ---- the file again -----------------------------------------------------

/// A proxy whose file leads `a` to one backend, and the text of that file.
fn with_file(backend: &Backend) -> (Proxy, String) {
    let line = format!("address = \"{}\"", backend.address());
    let proxy = workers(2)
        .cluster("a", &["hostname = \"a\""], &[line])
        .start();
    let text = std::fs::read_to_string(proxy.config()).expect("the file");
    (proxy, text)
}

fn host(proxy: &Proxy, name: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
    let answer = proxy.client().ask(request);
    match answer.status() {
        200 => answer.text(),
        status => status.to_string(),
    }
}

fn rewrite(proxy: &Proxy, text: &str) {
    std::fs::write(proxy.config(), text).expect("write the file");
}

#[test]
fn the_file_has_changed() {
    let (backend, other) = (Backend::named("one"), Backend::named("two"));
    let (proxy, text) = with_file(&backend);
    let mut client = proxy.steer();
    client.transact(&[
        "cluster add id=mine".to_string(),
        format!(
            "backend add cluster=mine id=0 address={}",
            backend.address()
        ),
        format!(
            "frontend add listener={} hostname=mine cluster=mine",
            proxy.address()
        ),
    ]);
    let runtime = client.ok("state diff").data;
    assert_eq!(runtime.len(), 3, "{runtime:?}");
    let second = text
        .replace("clusters.a", "clusters.b")
        .replace("hostname = \"a\"", "hostname = \"b\"")
        .replace(&backend.address().to_string(), &other.address().to_string());
    rewrite(&proxy, &second);
    let reply = client.ok("reload");
    assert!(reply.data.is_empty(), "{reply:?}");
    assert_eq!(
        host(&proxy, "a"),
        "404",
        "what the file no longer has is gone"
    );
    assert_eq!(host(&proxy, "b"), "two");
    assert_eq!(host(&proxy, "mine"), "one", "what was done since is kept");
    assert_eq!(client.ok("state diff").data, runtime);
    let revision = client.ok("state stats").number("revision");
    assert_eq!(client.ok("reload").number("changes"), 0);
    assert!(client.ok("state stats").number("revision") >= revision);
}

#[test]
fn a_bad_file_changes_nothing() {
    let backend = Backend::named("one");
    let (proxy, text) = with_file(&backend);
    let mut client = proxy.steer();
    let before = client.dump();
    for bad in [
        text.replace("hostname = \"a\"", "hostname = \"a b\""),
        text.replace("backends", "backenbs"),
        text.replace("[[listeners]]", "[[listeners"),
        text.replace("worker_count = 2", "worker_count = 0"),
    ] {
        assert_ne!(bad, text);
        rewrite(&proxy, &bad);
        let said = client.refused("reload", "failed");
        assert!(said.contains("config.toml"), "{said}");
        assert_eq!(client.dump(), before);
    }
    std::fs::remove_file(proxy.config()).expect("remove");
    client.refused("reload", "failed");
    assert_eq!(host(&proxy, "a"), "one");
    rewrite(&proxy, &text);
    client.ok("reload");
    assert_eq!(client.dump(), before);
}

/// What was done at runtime and does not fit the new file is told, the rest is done.
#[test]
fn what_does_not_fit_is_told() {
    let backend = Backend::named("one");
    let (proxy, text) = with_file(&backend);
    let mut client = proxy.steer();
    let address = backend.address();
    client.ok(&format!("backend add cluster=a id=extra address={address}"));
    client.ok("cluster add id=mine");
    rewrite(&proxy, &text.replace("clusters.a", "clusters.b"));
    let reply = client.ok("reload");
    let [skipped] = &reply.data[..] else {
        panic!("{reply:?}");
    };
    assert!(
        skipped.starts_with("skipped command=\"backend add cluster=a id=extra"),
        "{skipped}"
    );
    assert!(
        skipped.contains("why=\"cluster a does not exist\""),
        "{skipped}"
    );
    assert!(client.dump().iter().any(|line| line.contains("id=mine ")));
    assert_eq!(host(&proxy, "a"), "one");
}

/// The system does not give what the new file asks for: the old goes on, whole.
#[test]
fn a_file_with_a_port_that_is_taken() {
    let backend = Backend::named("one");
    let (proxy, text) = with_file(&backend);
    let mut client = proxy.steer();
    let before = client.dump();
    let taken = TcpListener::bind(free_address()).expect("bind");
    let address = taken.local_addr().expect("getsockname");
    let more = format!("\n[[listeners]]\naddress = \"{address}\"\nprotocol = \"http\"\n");
    rewrite(&proxy, &(text.replace("clusters.a", "clusters.b") + &more));
    let said = client.refused("reload", "failed");
    assert!(said.contains(&address.to_string()), "{said}");
    assert_eq!(client.dump(), before);
    assert_eq!(host(&proxy, "a"), "one");
    drop(taken);
    client.insist("reload");
    assert!(is_open(address));
}

#[test]
fn what_needs_a_restart_is_told() {
    let backend = Backend::named("one");
    let (proxy, text) = with_file(&backend);
    let mut client = proxy.steer();
    rewrite(
        &proxy,
        &text.replace("worker_count = 2", "worker_count = 2\nworker_timeout = 7"),
    );
    for _ in 0..2 {
        let told = client.ok("reload").data;
        assert_eq!(told, ["needs_restart key=worker_timeout"]);
    }
    rewrite(&proxy, &text);
    assert!(client.ok("reload").data.is_empty());
    // The level of the log needs none.
    rewrite(&proxy, &text.replace("\"info\"", "\"debug\""));
    assert!(client.ok("reload").data.is_empty());
    client.ok("worker restart id=0");
    proxy.wait_log("DEBUG");
}

#[test]
fn sighup_is_a_reload() {
    let backend = Backend::named("one");
    let (proxy, text) = with_file(&backend);
    let mut client: Control = proxy.steer();
    client.ok("cluster add id=mine");
    let before = client.dump();
    rewrite(&proxy, "what is this");
    proxy.signal("HUP");
    proxy.wait_log("not reloaded");
    assert_eq!(client.dump(), before);
    rewrite(
        &proxy,
        &text.replace("hostname = \"a\"", "hostname = \"z\""),
    );
    proxy.signal("HUP");
    wait_until("the new file is in effect", || {
        (host(&proxy, "z") == "one").then_some(())
    });
    assert_eq!(host(&proxy, "a"), "404");
    assert!(client.dump().iter().any(|line| line.contains("id=mine ")));
}
