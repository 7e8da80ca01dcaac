//! Nothing is allowed that nobody needs: workers and key processes are made to do all that they can do, strace
//! writes down their calls, and each rule of the table of their sandbox must have allowed one of them.

#[path = "common/certificate.rs"]
mod certificate;
mod common;
#[path = "tls/secure.rs"]
mod secure;

use certificate::{Keys, Made, Secure};
use common::{free_address, ok, pattern, refused_address, same_bytes, signal, wait_until};
use common::{Backend, Broken, Proxy, Setup};
use secure::{Authority, SecureBackend};
use sozu_lib::sys::sandbox::filter::{Arch, Rule};
use sozu_lib::sys::sandbox::table::{KEYS, WORKER};
use std::collections::{BTreeMap, BTreeSet};

/// Where strace writes, beside the configuration.
const TRACE: &str = "trace";
const MIB: usize = 1024 * 1024;

fn traced(setup: Setup) -> Setup {
    let path = setup.path(TRACE).display().to_string();
    setup.traced(&["-o", &path, "-X", "raw", "-s", "0", "-e", "signal=none"])
}

/// A call of a process: its name, and its arguments as far as they are numbers.
struct Call {
    pid: u32,
    name: String,
    arguments: [u64; 6],
    good: bool,
}

/// `12 socket(2, 0x80801, 0) = 5`, in one piece or in two with others between.
fn calls(text: &str) -> Vec<Call> {
    let mut unfinished = BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else {
            continue;
        };
        let (pid, rest) = (pid.parse().expect("a pid"), rest.trim_start());
        if let Some(start) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(pid, start.to_string());
            continue;
        }
        let whole = match rest.split_once(" resumed>") {
            Some((_, end)) => unfinished.remove(&pid).expect("its start") + end,
            None => rest.to_string(),
        };
        calls.extend(call(pid, &whole));
    }
    // The last word of a process has no end.
    calls.extend(
        unfinished
            .into_iter()
            .filter_map(|(pid, start)| call(pid, &start)),
    );
    calls
}

fn call(pid: u32, text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (inside, result) = rest.rsplit_once(" = ").unwrap_or((rest, ""));
    let mut arguments = [0; 6];
    for (at, text) in split(inside.trim_end().trim_end_matches(')'))
        .iter()
        .take(6)
        .enumerate()
    {
        arguments[at] = number(text).unwrap_or(0);
    }
    Some(Call {
        pid,
        name: name.to_string(),
        arguments,
        good: !result.starts_with('-'),
    })
}

/// At the commas that stand in no bracket; with `-s 0` no text has any.
fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

/// `-1`, `0x10`, `0x1|0x80800`.
fn number(text: &str) -> Option<u64> {
    let one = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse::<i64>().ok().map(|number| number as u64),
    };
    text.split('|')
        .try_fold(0, |sum, text| Some(sum | one(text)?))
}

/// What strace has written down, and which process is the one with the keys.
struct Seen {
    text: String,
    keys: u32,
}

/// The rules that have allowed what workers, or key processes, did once they were confined. What none has
/// allowed they have not lived to tell.
fn needed(seen: &Seen, rules: &[Rule], of_keys: bool) -> BTreeSet<usize> {
    let mut confined = BTreeSet::new();
    let mut needed = BTreeSet::new();
    let of_role = |call: &Call| (call.pid == seen.keys) == of_keys;
    for call in calls(&seen.text).into_iter().filter(of_role) {
        // SECCOMP_SET_MODE_FILTER
        if call.name == "seccomp" && call.arguments[0] == 1 && call.good {
            confined.insert(call.pid);
        } else if confined.contains(&call.pid) {
            let of_name = |rule: &&Rule| rule.name == call.name;
            let number = rules
                .iter()
                .find(of_name)
                .and_then(|rule| rule.number(Arch::OURS));
            let number = number.unwrap_or_else(|| panic!("{} is allowed?", call.name));
            let allows = |at: &usize| rules[*at].allows(Arch::OURS, number, &call.arguments);
            let found: Vec<usize> = (0..rules.len()).filter(allows).collect();
            assert_eq!(found.len(), 1, "{} {:x?}", call.name, call.arguments);
            needed.extend(found);
        }
    }
    assert!(!confined.is_empty(), "nobody was seen");
    needed
}

/// What was written down up to the end of that process.
fn trace(proxy: &Proxy, last: u32) -> String {
    wait_until("strace has written everything", || {
        let text = std::fs::read_to_string(proxy.path(TRACE)).expect("the trace");
        let gone =
            |line: &str| line.starts_with(&format!("{last} ")) && line.contains("exit_group(");
        text.lines().any(gone).then_some(text)
    })
}

fn stop(mut proxy: Proxy) -> Seen {
    let keys = proxy.key_process().expect("a key process");
    proxy.steer().ok("shutdown hard");
    let pid = proxy.pid();
    assert!(proxy.wait_exit().success());
    let text = trace(&proxy, pid);
    Seen { text, keys }
}

/// Requests, bodies that are spliced, backends that are not there, a message that is cut, a large state, another
/// log, a new listener; in the end main is gone and a signal ends the worker.
fn plain() -> Seen {
    let body = pattern(MIB);
    let (good, cut) = (
        Backend::answering(ok(&body)),
        Backend::scripted(|peer, _| {
            peer.request()?;
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort");
            peer.finish();
            Ok(())
        }),
    );
    let frontend = |path: &str| vec![format!("hostname = \"*\", path = {path:?}")];
    let backend = |address: String| vec![format!("address = {address:?}")];
    let many: Vec<String> = (0..10_000)
        .map(|n| format!("address = \"127.1.{}.{}:1\"", n / 250, n % 250))
        .collect();
    let setup = Setup::http()
        .backends(&[good.address()])
        .cluster(
            "cut",
            &frontend("/cut"),
            &backend(cut.address().to_string()),
        )
        .cluster(
            "gone",
            &frontend("/gone"),
            &backend(refused_address().to_string()),
        )
        .cluster("six", &frontend("/six"), &backend("[::1]:1".into()))
        .cluster("many", &frontend("/many"), &many);
    let mut proxy = traced(setup).start();
    let mut client = proxy.client();
    same_bytes(&client.get("/").body, &body);
    client.send("nonsense\r\n\r\n");
    assert_eq!(client.response().status(), 400);
    assert_eq!(proxy.client().get("/gone").status(), 503);
    assert_eq!(proxy.client().get("/six").status(), 503);
    let mut client = proxy.client();
    client.send("GET /cut HTTP/1.1\r\nhost: a\r\n\r\n");
    assert_eq!(
        client.try_response("GET").expect_err("it is cut"),
        Broken::Reset
    );
    proxy.signal("USR1");
    proxy.wait_log("logs opened again");
    let listener = format!("listener add protocol=http address={}", free_address());
    proxy.steer().ok(&listener);
    let worker = proxy.worker().pid;
    let keys = proxy.key_process().expect("a key process");
    proxy.adopt(worker);
    proxy.adopt(keys);
    proxy.kill_main();
    proxy.wait_log("main has left; signing on");
    assert!(signal(worker, "TERM"));
    trace(&proxy, worker);
    let text = trace(&proxy, keys);
    Seen { text, keys }
}

/// A backend on a unix socket.
fn unix() -> Seen {
    let setup = Setup::http();
    let path = setup.path("app.sock");
    let _backend = Backend::on_unix(&path, |peer, _| {
        peer.request()?;
        peer.send(ok("unix"));
        Ok(())
    });
    let address = format!("address = \"unix:{}\"", path.display());
    let setup = setup.cluster("main", &["hostname = \"*\""], &[address]);
    let proxy = traced(setup).start();
    assert_eq!(proxy.client().get("/").text(), "unix");
    stop(proxy)
}

/// A tunnel that moves to the next worker, with what lies in its pipes.
fn tunnel() -> Seen {
    let bytes = pattern(8 * MIB);
    let sent = bytes.clone();
    let backend = Backend::scripted(move |peer, _| {
        peer.send(&sent);
        Err(peer.rest().1)
    });
    let proxy = traced(Setup::tcp().backends(&[backend.address()])).start();
    let mut client = proxy.client();
    let mut got = client.exactly(MIB).expect("a part");
    let reply = proxy.steer().ok("worker restart id=0");
    assert_eq!(reply.number("moved"), 1, "{reply:?}");
    got.extend(client.exactly(7 * MIB).expect("the rest"));
    same_bytes(&got, &bytes);
    stop(proxy)
}

/// TLS with a client, and with a backend that the system's roots prove.
fn tls() -> Seen {
    let name = "example.com";
    let authority = Authority::new();
    let backend = SecureBackend::echo(&authority.issue(&[name]));
    let made = Made::of(&[name], Keys::Ecdsa);
    let setup = Setup::https().backends(&[backend.address()]);
    let setup = setup.more("tls = true\n");
    setup.file("roots.pem", &authority.pem());
    let setup = setup.environment("SSL_CERT_FILE", "roots.pem");
    let proxy = traced(setup).start();
    let line = format!(
        "certificate add listener={} {}",
        proxy.address(),
        made.words()
    );
    proxy.steer().ok(&line);
    for _ in 0..2 {
        let mut client = Secure::connect(proxy.address(), name).expect("a handshake");
        assert!(client.ask(name).starts_with("HTTP/1.1 200"));
    }
    stop(proxy)
}

#[test]
fn every_rule_is_needed() {
    let all = [plain(), unix(), tunnel(), tls()];
    for (rules, of_keys) in [(WORKER, false), (KEYS, true)] {
        let needed = all.iter().flat_map(|seen| needed(seen, rules, of_keys));
        let needed: BTreeSet<usize> = needed.collect();
        let idle = rules
            .iter()
            .enumerate()
            .filter(|(at, rule)| !needed.contains(at) && !rule.elsewhere);
        let idle: Vec<_> = idle.map(|(_, rule)| (rule.name, rule.checks)).collect();
        assert!(idle.is_empty(), "nobody needs {idle:?}");
    }
}
