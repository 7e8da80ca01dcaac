//! Connections that go to the next worker when one is replaced: what rests moves, and
//! nobody at its ends notices.

#[path = "common/certificate.rs"]
mod certificate;
mod common;

use certificate::{Keys, Made, Secure};
use common::{
    ok, pattern, refused_address, same_bytes, wait_until, Backend, Broken, Gate, Peer, Proxy,
    Reply, Setup,
};
use std::io::Read;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
    Sec-WebSocket-Version: 13\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
    Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Sends back what comes; a request to upgrade is agreed to first, others are answered.
fn echo(peer: &mut Peer) -> Result<(), Broken> {
    loop {
        let byte = peer.exactly(1)?;
        peer.send(byte);
    }
}

/// Answers when the gate lets it.
fn late() -> (Gate, Backend) {
    let gate = Gate::default();
    let passes = gate.clone();
    let backend = Backend::scripted(move |peer, _| loop {
        peer.request()?;
        passes.pass();
        peer.send(ok("late"));
    });
    (gate, backend)
}

fn restart(proxy: &Proxy) -> Reply {
    proxy.steer().ok("worker restart id=0")
}

/// The process that serves now, and no other one is left.
fn only_worker(proxy: &Proxy) -> u32 {
    wait_until("the old worker to end", || {
        let workers = proxy.workers();
        (workers.len() == 1).then(|| workers[0].pid)
    })
}

fn single(setup: Setup, backend: &Backend) -> Proxy {
    let setup = setup.top("worker_count", 1);
    setup.backends(&[backend.address()]).start()
}

#[test]
fn idle_connections_go_on_and_so_do_halves_of_heads() {
    let backend = Backend::named("a");
    let proxy = single(Setup::http(), &backend);
    let mut idle: Vec<Peer> = (0..20).map(|_| proxy.client()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").status(), 200);
    }
    let mut half = proxy.client();
    half.send("GET /half HTTP/1.1\r\nHost: exam");
    let fresh = proxy.client();
    wait_until("all connections to be taken", || {
        (proxy.worker().connections == 22).then_some(())
    });
    let mut before = only_worker(&proxy);
    for _ in 0..5 {
        let reply = restart(&proxy);
        assert_eq!(reply.number("moved"), 22, "{reply:?}");
        assert_eq!(reply.number("draining"), 0, "{reply:?}");
        assert_eq!(reply.number("cut"), 0, "{reply:?}");
        let now = only_worker(&proxy);
        assert_ne!(now, before);
        before = now;
    }
    assert_eq!(half.ask("ple.com\r\n\r\n").status(), 200);
    idle.extend([fresh, half]);
    for client in &mut idle {
        let answer = client.get("/");
        assert_eq!(answer.status(), 200);
        assert!(!answer.connection_says("close"), "{answer:?}");
    }
    assert_eq!(proxy.worker().connections, 22);
    // Each is told of once, with the request that it made last.
    let lines = proxy.wait_access(43, " /");
    assert!(lines.iter().all(|line| line.contains(" 200 ")), "{lines:?}");
}

#[test]
fn a_request_under_way_is_answered_and_its_connection_follows() {
    let (gate, gated) = late();
    let proxy = single(Setup::http(), &gated);
    let mut client = proxy.client();
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    gated.wait_requests(1);
    let reply = restart(&proxy);
    assert_eq!(reply.number("draining"), 1, "{reply:?}");
    assert_eq!(reply.number("moved"), 0, "{reply:?}");
    gate.admit(100);
    let answer = client.response();
    assert!(!answer.connection_says("close"), "{answer:?}");
    let now = only_worker(&proxy);
    assert_eq!(client.get("/").status(), 200);
    assert_eq!(only_worker(&proxy), now);
}

#[test]
fn the_next_worker_knows_which_backend_is_down() {
    let backend = Backend::named("a");
    let setup = Setup::http()
        .top("worker_count", 1)
        .top("log_level", "\"debug\"");
    let addresses = [backend.address(), refused_address()];
    let proxy = setup.backends(&addresses).start();
    let mut client = proxy.client();
    while !proxy
        .log()
        .iter()
        .any(|line| line.contains("is left alone for a while"))
    {
        assert_eq!(client.get("/").status(), 200);
    }
    assert!(restart(&proxy).is_ok());
    let line = proxy.wait_log("was down before");
    assert!(line.contains("cluster main was down before: "), "{line}");
    assert_eq!(client.get("/").status(), 200);
}

#[test]
fn websockets_and_tcp_move_and_lose_no_byte() {
    let backend = Backend::scripted(|peer, _| {
        peer.request()?;
        peer.send(AGREE);
        echo(peer)
    });
    let proxy = single(Setup::http(), &backend);
    let mut socket = proxy.client();
    assert_eq!(socket.ask(ASK).status(), 101);
    for round in 0..5 {
        let word = format!("round {round}");
        socket.send(&word);
        same_bytes(&socket.exactly(word.len()).expect("echo"), word.as_bytes());
        // What is on its way at that moment comes as well.
        socket.send("and this");
        let reply = restart(&proxy);
        assert_eq!(reply.number("moved"), 1, "{reply:?}");
        same_bytes(&socket.exactly(8).expect("echo"), b"and this");
        only_worker(&proxy);
    }
    let lines = proxy.access();
    assert!(
        lines.is_empty(),
        "a tunnel is logged when it ends: {lines:?}"
    );
    drop(socket);
    let line = proxy.wait_access(1, "/chat").remove(0);
    assert!(line.contains("\"GET /chat\" 101 "), "{line}");
    assert!(line.contains(" example.com "), "{line}");
}

/// Much in both directions, a reader that is slow, pipes that are full: while it moves.
#[test]
fn full_pipes_move() {
    let bytes = pattern(8 * 1024 * 1024);
    let script_bytes = bytes.clone();
    let backend = Backend::scripted(move |peer, _| {
        let sender = peer.send_meanwhile(script_bytes.clone());
        let got = peer.exactly(script_bytes.len())?;
        same_bytes(&got, &script_bytes);
        sender.join().map_err(|_| Broken::Reset)?;
        peer.send("done");
        peer.finish();
        Err(peer.rest().1)
    });
    let proxy = single(Setup::tcp(), &backend);
    let mut client = proxy.client();
    let sender = client.send_meanwhile(bytes.clone());
    let mut got = Vec::new();
    for _ in 0..8 {
        got.extend(client.exactly(bytes.len() / 8).expect("bytes"));
        let reply = restart(&proxy);
        assert_eq!(reply.number("moved"), 1, "{reply:?}");
        assert_eq!(reply.number("cut"), 0, "{reply:?}");
    }
    same_bytes(&got, &bytes);
    sender.join().expect("all is sent");
    assert_eq!(client.exactly(4).expect("the end"), b"done");
    assert_eq!(client.rest().1, Broken::Eof);
    // Half-closed by the backend, it moves as well.
    let reply = restart(&proxy);
    assert_eq!(reply.number("moved"), 1, "{reply:?}");
    client.send("more").finish();
    assert_eq!(backend.wait_end(0), Broken::Eof);
    only_worker(&proxy);
    let line = proxy.wait_access(1, " ").remove(0);
    assert!(line.contains(&(bytes.len() + 4).to_string()), "{line}");
    assert!(line.contains(" ok"), "{line}");
}

#[test]
fn half_closed_by_the_client_it_moves() {
    let gate = Gate::default();
    let passes = gate.clone();
    let backend = Backend::scripted(move |peer, _| {
        let (got, end) = peer.rest();
        assert_eq!(end, Broken::Eof);
        peer.send(&got);
        passes.pass();
        peer.send("more");
        Ok(())
    });
    let proxy = single(Setup::tcp(), &backend);
    let mut client = proxy.client();
    client.send("question").finish();
    assert_eq!(client.exactly(8).expect("an answer"), b"question");
    let reply = restart(&proxy);
    assert_eq!(reply.number("moved"), 1, "{reply:?}");
    gate.admit(1);
    let (got, end) = client.rest();
    same_bytes(&got, b"more");
    assert_eq!(end, Broken::Eof);
}

/// Its listener and its backend are gone from the configuration: it goes on.
#[test]
fn what_is_not_configured_any_more_moves() {
    let backend = Backend::scripted(|peer, _| echo(peer));
    let proxy = single(Setup::tcp(), &backend);
    let mut client = proxy.client();
    client.send("a");
    client.exactly(1).expect("echo");
    let mut control = proxy.steer();
    let dump = control.dump();
    let id = |noun: &str| {
        let line = dump.iter().find(|line| line.starts_with(noun));
        line.expect("it is configured").clone()
    };
    let words = |line: String, keys: &[&str]| {
        let pairs = line.split(' ').map(String::from);
        let kept = pairs.filter(|pair| keys.iter().any(|key| pair.starts_with(key)));
        kept.collect::<Vec<_>>().join(" ")
    };
    let frontend = words(id("frontend add"), &["listener=", "hostname=", "path="]);
    let backend_words = words(id("backend add"), &["cluster=", "id="]);
    let listener = words(id("listener add"), &["address="]);
    control.ok(&format!("frontend remove {frontend}"));
    control.ok(&format!("backend remove {backend_words}"));
    control.ok(&format!("listener remove {listener}"));
    for _ in 0..2 {
        let reply = restart(&proxy);
        assert_eq!(reply.number("moved"), 1, "{reply:?}");
        client.send("b");
        assert_eq!(client.exactly(1).expect("echo"), b"b");
    }
}

/// TLS lives in its process: the connection stays there until its next answer, and
/// nobody closes it before.
#[test]
fn under_tls_they_stay_and_are_told() {
    let backend = Backend::named("a");
    let setup = Setup::https().top("worker_count", 1);
    let proxy = setup.backends(&[backend.address()]).start();
    let made = Made::of(&["a.example"], Keys::Ecdsa);
    let mut control = proxy.steer();
    let address = proxy.address();
    control.ok(&format!(
        "certificate add listener={address} {}",
        made.words()
    ));
    let mut client = Secure::connect(address, "a.example").expect("TLS");
    assert!(client.ask("a.example").contains("200"));
    let reply = restart(&proxy);
    assert_eq!(reply.number("moved"), 0, "{reply:?}");
    assert_eq!(reply.number("draining"), 1, "{reply:?}");
    let status = proxy.control("status");
    assert!(
        status
            .data
            .iter()
            .any(|line| line.contains("state=retiring") && line.contains("idle=1")),
        "{status:?}"
    );
    let answer = client.ask("a.example");
    assert!(answer.contains("200"), "{answer}");
    assert!(
        answer.to_lowercase().contains("connection: close"),
        "{answer}"
    );
    only_worker(&proxy);
}

/// An answer that had begun without a word of an end is followed by another one.
#[test]
fn under_tls_nobody_is_closed_behind_an_answer_that_promised_more() {
    let gate = Gate::default();
    let passes = gate.clone();
    let backend = Backend::scripted(move |peer, _| loop {
        peer.request()?;
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha");
        passes.pass();
        peer.send("lf");
    });
    let setup = Setup::https().top("worker_count", 1);
    let proxy = setup.backends(&[backend.address()]).start();
    let made = Made::of(&["a.example"], Keys::Ecdsa);
    let words = made.words();
    let address = proxy.address();
    proxy.control(&format!("certificate add listener={address} {words}"));
    let mut client = Secure::connect(address, "a.example").expect("TLS");
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let mut begun = Vec::new();
    while !begun.ends_with(b"ha") {
        let mut byte = [0];
        client.stream.read_exact(&mut byte).expect("half an answer");
        begun.extend(byte);
    }
    assert!(!String::from_utf8_lossy(&begun).contains("close"));
    restart(&proxy);
    gate.admit(2);
    let mut rest = [0; 2];
    client.stream.read_exact(&mut rest).expect("the rest");
    assert_eq!(&rest, b"lf");
    wait_until("it is idle", || {
        let status = proxy.control("status").data;
        let idle = |line: &String| line.contains("retiring") && line.contains("idle=1");
        status.iter().any(idle).then_some(())
    });
    let answer = client.ask("a.example").to_lowercase();
    assert!(answer.contains("connection: close"), "{answer}");
    only_worker(&proxy);
}

/// Shutting down tells what became of everybody.
#[test]
fn a_shutdown_reports() {
    let (gate, gated) = late();
    let proxy = single(Setup::http(), &gated);
    let mut busy = proxy.client();
    busy.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    gated.wait_requests(1);
    let mut control = proxy.steer();
    control.send("shutdown\n");
    gate.admit(100);
    assert_eq!(busy.response().status(), 200);
    busy.ends();
    let reply = control.reply();
    assert!(reply.is_ok(), "{reply:?}");
    assert_eq!(reply.number("drained"), 1, "{reply:?}");
    assert_eq!(reply.number("cut"), 0, "{reply:?}");
}

/// The file asks for more workers, then for fewer: connections of those that go move.
#[test]
fn as_many_workers_as_the_file_asks_for() {
    let backend = Backend::named("a");
    let proxy = single(Setup::http(), &backend);
    let mut control = proxy.steer();
    let count = |count: usize| {
        let text = std::fs::read_to_string(proxy.config()).expect("a configuration");
        let lines = text
            .lines()
            .map(|line| match line.starts_with("worker_count") {
                true => format!("worker_count = {count}\n"),
                false => format!("{line}\n"),
            });
        std::fs::write(proxy.config(), lines.collect::<String>()).expect("written");
    };
    count(4);
    let reply = control.ok("reload");
    assert_eq!(reply.number("moved"), 0, "{reply:?}");
    assert!(reply.data.is_empty(), "{reply:?}");
    assert_eq!(proxy.workers().len(), 4);
    let mut idle: Vec<Peer> = (0..40).map(|_| proxy.client()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").status(), 200);
    }
    let staying: Vec<u32> = proxy.workers()[..2].iter().map(|w| w.pid).collect();
    count(2);
    let reply = control.ok("reload");
    assert!((10..=30).contains(&reply.number("moved")), "{reply:?}");
    assert_eq!(reply.number("draining"), 0, "{reply:?}");
    wait_until("the others to end", || {
        let pids: Vec<u32> = proxy.workers().iter().map(|w| w.pid).collect();
        (pids == staying).then_some(())
    });
    for client in &mut idle {
        let answer = client.get("/");
        assert_eq!(answer.status(), 200);
        assert!(!answer.connection_says("close"));
    }
    count(1);
    assert_eq!(control.ok("reload").number("cut"), 0);
    count(3);
    control.ok("reload");
    for client in &mut idle {
        assert_eq!(client.get("/").status(), 200);
    }
    control.refused("worker restart id=3", "missing");
}
