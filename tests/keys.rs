//! The key process: private keys are in it and in main, and nowhere else; handshakes have their
//! signatures from it, whatever happens to it.

#[path = "common/certificate.rs"]
mod certificate;
mod common;

use certificate::{Keys, Made, Secure};
use common::{is_alive, signal, wait_until, Backend, Proxy, Setup};
use openssl::bn::BigNumRef;
use openssl::pkey::PKey;
use openssl::ssl::{SslConnectorBuilder, SslSession, SslVersion};
use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

const KINDS: [Keys; 3] = [Keys::Rsa, Keys::Ecdsa, Keys::EcdsaLarge];

/// A certificate of each kind, each with a name of its own.
fn one_of_each() -> Vec<(String, Made)> {
    let named = |(n, kind): (usize, &Keys)| {
        let name = format!("k{n}.test");
        (name.clone(), Made::of(&[&name], *kind))
    };
    KINDS.iter().enumerate().map(named).collect()
}

fn add_line(proxy: &Proxy, made: &Made) -> String {
    let address = proxy.address();
    format!("certificate add listener={address} {}", made.words())
}

fn with(setup: Setup, all: &[(String, Made)]) -> (Backend, Proxy) {
    let backend = Backend::named("ok");
    let proxy = setup.backends(&[backend.address()]).start();
    for (_, made) in all {
        proxy.steer().ok(&add_line(&proxy, made));
    }
    (backend, proxy)
}

/// A handshake of that version alone, with one answer.
fn served(proxy: &Proxy, name: &str, version: SslVersion) -> Secure {
    served_again(proxy, name, version, None)
}

/// The same, and the client may have come before.
fn served_again(
    proxy: &Proxy,
    name: &str,
    version: SslVersion,
    session: Option<&SslSession>,
) -> Secure {
    let set = |builder: &mut SslConnectorBuilder| {
        builder.set_min_proto_version(Some(version)).expect("set");
        builder.set_max_proto_version(Some(version)).expect("set");
    };
    let client = Secure::with(proxy.address(), name, set, session);
    let mut client = client.unwrap_or_else(|| panic!("no handshake: {name} {version:?}"));
    assert!(client.ask(name).starts_with("HTTP/1.1 200 "));
    client
}

/// A number of the line `keys` of `status`.
fn told(proxy: &Proxy, what: &str) -> u64 {
    let status = proxy.control("status").data;
    let line = status.iter().find_map(|line| line.strip_prefix("keys "));
    let mut pairs = line.expect("a line").split(' ');
    let value = pairs.find_map(|pair| pair.strip_prefix(what)?.strip_prefix('='));
    value.expect("a value").parse().expect("a number")
}

#[test]
fn every_kind_of_key_signs_for_every_version() {
    let all = one_of_each();
    let (_backend, proxy) = with(Setup::https(), &all);
    let mut handshakes = 0;
    for (name, made) in &all {
        for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
            let client = served(&proxy, name, version);
            assert_eq!(client.fingerprint(), made.fingerprint);
            handshakes += 1;
            assert_eq!(told(&proxy, "signatures"), handshakes);
            // Whoever comes back needs none.
            let session = client.session();
            drop(client);
            let again = served_again(&proxy, name, version, session.as_ref());
            assert!(again.resumed(), "{name} {version:?}");
            assert_eq!(told(&proxy, "signatures"), handshakes);
        }
    }
    assert_eq!((told(&proxy, "refused"), told(&proxy, "restarts")), (0, 0));
}

/// Key exchange by RSA would have to decrypt: it is left out, whatever the list says.
#[test]
fn nothing_is_decrypted() {
    let setup = Setup::https().listener("tls_versions", "[\"TLSv1.2\"]");
    let setup = setup.listener(
        "cipher_list",
        "\"AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256\"",
    );
    let all = one_of_each();
    let (_backend, proxy) = with(setup, &all[..1]);
    served(&proxy, &all[0].0, SslVersion::TLS1_2);
    let by_rsa = |builder: &mut SslConnectorBuilder| {
        let version = Some(SslVersion::TLS1_2);
        builder.set_max_proto_version(version).expect("set");
        builder.set_cipher_list("AES128-GCM-SHA256").expect("set");
    };
    assert!(Secure::with(proxy.address(), &all[0].0, by_rsa, None).is_none());
    let line = "listener add protocol=https address=127.0.0.1:1 cipher_list=AES128-GCM-SHA256";
    let why = proxy.steer().refused(line, "invalid");
    assert!(why.contains("cipher_list"), "{why}");
}

#[test]
fn a_certificate_is_replaced_while_it_runs() {
    let (old, new) = (
        Made::of(&["a.test"], Keys::Ecdsa),
        Made::of(&["a.test"], Keys::Rsa),
    );
    let (_backend, proxy) = with(Setup::https(), &[("a.test".into(), old.clone())]);
    let mut kept = served(&proxy, "a.test", SslVersion::TLS1_3);
    let (address, fingerprint) = (proxy.address(), &old.fingerprint);
    let replace = format!("certificate replace listener={address} fingerprint={fingerprint}");
    proxy.steer().ok(&format!("{replace} {}", new.words()));
    let client = served(&proxy, "a.test", SslVersion::TLS1_3);
    assert_eq!(client.fingerprint(), new.fingerprint);
    assert!(kept.ask("a.test").starts_with("HTTP/1.1 200 "));
    // In a transaction that comes to nothing nothing is replaced.
    let line = add_line(&proxy, &Made::of(&["b.test"], Keys::Ecdsa));
    let mut control = proxy.steer();
    for step in ["begin", &line, "abort"] {
        control.ok(step);
    }
    let client = Secure::connect(proxy.address(), "b.test").expect("a handshake");
    assert_eq!(client.fingerprint(), new.fingerprint);
}

/// Clients that come one after another until this is dropped; how many had a handshake, and how many had none.
struct Crowd<'s> {
    over: &'s AtomicBool,
    served: &'s AtomicU64,
    refused: &'s AtomicU64,
}

impl Crowd<'_> {
    fn come(&self, proxy: &Proxy, name: &str) {
        while !self.over.load(Relaxed) {
            let count = match Secure::connect(proxy.address(), name) {
                Some(_) => self.served,
                None => self.refused,
            };
            count.fetch_add(1, Relaxed);
        }
    }
}

/// Does it while handshakes go on, and lets some more come behind it; how many came to nothing.
fn under_handshakes(proxy: &Proxy, all: &[(String, Made)], act: impl FnOnce()) -> (u64, u64) {
    let (over, served, refused) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let crowd = Crowd {
        over: &over,
        served: &served,
        refused: &refused,
    };
    let more = || {
        let before = served.load(Relaxed);
        wait_until("more handshakes", || {
            (served.load(Relaxed) >= before + 10).then_some(())
        });
    };
    std::thread::scope(|scope| {
        for (name, _) in all {
            let crowd = &crowd;
            scope.spawn(move || crowd.come(proxy, name));
        }
        more();
        act();
        more();
        over.store(true, Relaxed);
    });
    (served.load(Relaxed), refused.load(Relaxed))
}

#[test]
fn a_key_process_that_dies_is_replaced_and_handshakes_go_on() {
    let all = one_of_each();
    let (_backend, proxy) = with(Setup::https().top("worker_count", 2), &all);
    let mut kept = served(&proxy, &all[0].0, SslVersion::TLS1_3);
    let (_, lost) = under_handshakes(&proxy, &all, || {
        for n in 1..=3 {
            let pid = proxy.key_process().expect("a key process");
            assert!(signal(pid, "KILL"));
            wait_until("another one", || {
                let other = proxy.key_process().filter(|other| *other != pid);
                other.filter(|_| told(&proxy, "restarts") == n)
            });
        }
    });
    // A question outlives who has it; each death may cost the one that was being answered.
    assert!(lost <= 6, "{lost} handshakes came to nothing");
    assert!(kept.ask(&all[0].0).starts_with("HTTP/1.1 200 "));
    proxy.wait_log("died (signal: 9 (SIGKILL)); a new one starts in 0 ms");
    assert_eq!(proxy.workers().len(), 2);
}

/// It is killed in the end; until then handshakes come to nothing, and everybody else is served.
#[test]
fn a_key_process_that_does_not_answer_holds_nobody_up() {
    let all = one_of_each();
    let setup = Setup::https().top("worker_timeout", 3);
    let (_backend, proxy) = with(setup, &all);
    let name = &all[1].0;
    let mut kept = served(&proxy, name, SslVersion::TLS1_3);
    let keys = proxy.key_process().expect("a key process");
    assert!(signal(keys, "STOP"));
    assert!(Secure::connect(proxy.address(), name).is_none());
    proxy.wait_log("a handshake goes without its signature: the key process does not answer");
    assert!(kept.ask(name).starts_with("HTTP/1.1 200 "));
    proxy.wait_log("the key process does not answer: killed");
    wait_until("another one", || {
        let other = proxy.key_process().filter(|other| *other != keys)?;
        Secure::connect(proxy.address(), name).map(|_| other)
    });
    assert!(kept.ask(name).starts_with("HTTP/1.1 200 "));
    served(&proxy, name, SslVersion::TLS1_3);
}

#[test]
fn an_upgrade_costs_no_handshake() {
    let all = one_of_each();
    let (_backend, proxy) = with(Setup::https().top("worker_count", 2), &all);
    let first = proxy.key_process().expect("a key process");
    let (served_ones, lost) = under_handshakes(&proxy, &all, || {
        proxy.steer().ok("upgrade");
        wait_until("another key process", || {
            proxy.key_process().filter(|pid| *pid != first)
        });
    });
    assert_eq!(lost, 0, "handshakes came to nothing");
    // Those of the first one are counted as well, each at least once.
    assert!(told(&proxy, "signatures") >= served_ones);
    wait_until("the first one to end", || (!is_alive(first)).then_some(()));
    assert!(told(&proxy, "signatures") >= served_ones);
    // What comes now is known to the one that there is.
    let made = Made::of(&["late.test"], Keys::Ecdsa);
    proxy.steer().ok(&add_line(&proxy, &made));
    let client = served(&proxy, "late.test", SslVersion::TLS1_3);
    assert_eq!(client.fingerprint(), made.fingerprint);
}

#[test]
fn without_main_it_signs_until_the_last_worker_has_gone() {
    let all = one_of_each();
    let (_backend, mut proxy) = with(Setup::https(), &all);
    let (worker, keys) = (proxy.worker().pid, proxy.key_process().expect("one"));
    proxy.adopt(worker);
    proxy.adopt(keys);
    proxy.kill_main();
    for (name, _) in &all {
        served(&proxy, name, SslVersion::TLS1_3);
    }
    assert!(is_alive(keys));
    assert!(signal(worker, "KILL"));
    wait_until("it to end", || (!is_alive(keys)).then_some(()));
}

#[test]
fn the_end_of_the_proxy_is_its_end() {
    let (_backend, mut proxy) = with(Setup::https(), &[]);
    let keys = proxy.key_process().expect("a key process");
    proxy.steer().ok("shutdown hard");
    assert!(proxy.wait_exit().success());
    assert!(!is_alive(keys));
}

#[test]
fn it_is_confined_and_that_is_told() {
    let (_backend, proxy) = with(Setup::https(), &[]);
    let keys = proxy.key_process().expect("a key process");
    let reply = proxy.control("sandbox");
    let own = format!("sandbox worker=keys pid={keys} ");
    let facts = reply.data.iter().filter(|line| line.starts_with(&own));
    assert_eq!(facts.count(), 10, "{reply:?}");
    assert_eq!(reply.last, "ok holds=true", "{reply:?}");
    // SIGSYS from outside is a violation as well: whose doing it was cannot be told.
    assert!(signal(keys, "SYS"));
    proxy.wait_log("its sandbox forbids a call that no table has");
    wait_until("another one", || {
        proxy.key_process().filter(|pid| *pid != keys)
    });
}

// ---- what is in a worker's memory -------------------------------------

/// What nobody must find: every secret number of a key in both orders of bytes, and lines of its text.
fn secrets(made: &Made) -> Vec<Vec<u8>> {
    let key = PKey::private_key_from_pem(made.key.as_bytes()).expect("PEM");
    let mut numbers = Vec::new();
    let mut note = |number: &BigNumRef| numbers.push(number.to_vec());
    match key.rsa() {
        Ok(rsa) => {
            note(rsa.d());
            let others = [rsa.p(), rsa.q(), rsa.dmp1(), rsa.dmq1(), rsa.iqmp()];
            others.into_iter().flatten().for_each(note);
        }
        Err(_) => note(key.ec_key().expect("EC").private_key()),
    }
    let turned = |number: &Vec<u8>| number.iter().rev().copied().collect();
    let turned: Vec<Vec<u8>> = numbers.iter().map(turned).collect();
    // The first line has what all keys of a kind have.
    let lines = made
        .secrets()
        .into_iter()
        .skip(1)
        .filter(|line| line.len() >= 40);
    let lines = lines.map(String::into_bytes);
    numbers.into_iter().chain(turned).chain(lines).collect()
}

/// How many of them stand somewhere in the memory of a process.
fn found(pid: u32, secrets: &[Vec<u8>]) -> usize {
    const PREFIX: usize = 16;
    let start = |secret: &Vec<u8>| <[u8; PREFIX]>::try_from(&secret[..PREFIX]).expect("a prefix");
    let by_start: HashMap<[u8; PREFIX], usize> = secrets
        .iter()
        .enumerate()
        .map(|(at, one)| (start(one), at))
        .collect();
    // Most places are dismissed by two bytes.
    let mut likely = vec![false; 1 << 16];
    let pair = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    by_start.keys().for_each(|start| likely[pair(start)] = true);
    let mut there = vec![false; secrets.len()];
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("its maps");
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).expect("its memory");
    let mut looked_at = 0;
    // The counters of all processes are one large file with holes, which reading would fill.
    let foreign = |line: &&str| line.contains("[v") || line.contains("/memfd:sozu counters");
    for line in maps.lines().filter(|line| !foreign(line)) {
        let (from, to) = line
            .split(' ')
            .next()
            .and_then(|r| r.split_once('-'))
            .expect("a range");
        let number = |text| u64::from_str_radix(text, 16).expect("an address");
        let (from, to) = (number(from), number(to));
        let mut bytes = vec![0; usize::try_from(to - from).expect("a size")];
        // What may not be read may not be read by the process either.
        let n = memory.read_at(&mut bytes, from).unwrap_or(0);
        looked_at += n;
        for place in bytes[..n]
            .windows(PREFIX)
            .filter(|place| likely[pair(place)])
        {
            if let Some(at) = by_start.get(place) {
                there[*at] = true;
            }
        }
    }
    assert!(looked_at > 1 << 20, "only {looked_at} bytes could be read");
    there.iter().filter(|there| **there).count()
}

/// A proxy that has shown, replaced and shown again; what its workers and its key process have of the keys.
fn after_work(key_process: bool) -> (Vec<usize>, Option<usize>) {
    let all = one_of_each();
    let setup = Setup::https().top("key_process", key_process);
    let (_backend, proxy) = with(setup.top("worker_count", 2), &all);
    for (name, _) in all.iter().cycle().take(12) {
        served(&proxy, name, SslVersion::TLS1_3);
    }
    let next = Made::of(&["k0.test"], Keys::Rsa);
    let (address, old) = (proxy.address(), &all[0].1.fingerprint);
    let replace = format!("certificate replace listener={address} fingerprint={old}");
    proxy.steer().ok(&format!("{replace} {}", next.words()));
    served(&proxy, "k0.test", SslVersion::TLS1_2);
    proxy.steer().ok("worker restart id=1");
    let made = all.iter().map(|(_, made)| made).chain([&next]);
    let secrets: Vec<Vec<u8>> = made.flat_map(secrets).collect();
    let workers = proxy.workers();
    let of_workers = workers.iter().map(|worker| found(worker.pid, &secrets));
    let of_keys = proxy.key_process().map(|pid| found(pid, &secrets));
    (of_workers.collect(), of_keys)
}

/// Only root may look into a process that is not dumpable: for anybody else the kernel refuses,
/// and that is as good.
#[test]
fn no_worker_has_a_key() {
    let status = std::fs::read_to_string("/proc/self/status").expect("proc");
    if !status.contains("\nUid:\t0\t") {
        let (_backend, proxy) = with(Setup::https(), &[]);
        let memory = format!("/proc/{}/mem", proxy.worker().pid);
        return assert!(std::fs::File::open(memory).is_err());
    }
    let (workers, keys) = after_work(true);
    assert_eq!(workers, [0, 0], "workers have secrets");
    assert!(keys.is_some_and(|count| count >= 8), "{keys:?}");
    let (workers, keys) = after_work(false);
    assert_eq!(keys, None);
    assert!(workers.iter().all(|count| *count >= 8), "{workers:?}");
}
