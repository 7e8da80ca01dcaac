//! TLS while something changes: certificates are replaced, workers end. Nobody who comes
//! notices, and who has been here before need not prove it all again.

#[path = "common/certificate.rs"]
mod certificate;
mod common;

use certificate::{Keys, Made, Secure};
use common::{signal, wait_until, Backend, Proxy, Setup};
use openssl::ssl::{SslConnector, SslMethod, SslSession, SslVerifyMode, SslVersion};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

const NAME: &str = "a.test";
const REPLACEMENTS: usize = 1000;
/// What is replaced by what, in a circle: keys for RSA take long to make.
const SETS: usize = 4;

/// A certificate of each kind, by an authority that has signed no other set.
struct Set {
    authority: Made,
    rsa: Made,
    ecdsa: Made,
}

impl Set {
    fn new() -> Set {
        let authority = Made::root().authority();
        Set {
            rsa: authority.issue(&[NAME], Keys::Rsa),
            ecdsa: authority.issue(&[NAME], Keys::Ecdsa),
            authority,
        }
    }

    fn of(&self, keys: Keys) -> &Made {
        match keys {
            Keys::Ecdsa => &self.ecdsa,
            _ => &self.rsa,
        }
    }

    /// What a client is shown that takes only this kind of key: the root it has to know.
    fn chain(&self, keys: Keys) -> Vec<String> {
        let leaf = self.of(keys).fingerprint.clone();
        vec![leaf, self.authority.fingerprint.clone()]
    }
}

/// Clients that take one kind of key in one version.
#[derive(Clone)]
struct Kind {
    keys: Keys,
    connector: SslConnector,
}

impl Kind {
    fn new(keys: Keys, version: SslVersion) -> Kind {
        let made = SslConnector::builder(SslMethod::tls());
        let mut made = made.expect("a client");
        let algorithms = match keys {
            Keys::Ecdsa => "ECDSA+SHA256",
            _ => "RSA-PSS+SHA256",
        };
        made.set_verify(SslVerifyMode::NONE);
        made.set_sigalgs_list(algorithms).expect("algorithms");
        let version = Some(version);
        made.set_max_proto_version(version).expect("a version");
        let connector = made.build();
        Kind { keys, connector }
    }

    /// That the key belongs to the leaf, OpenSSL has found out itself.
    fn meet(&self, address: SocketAddr, session: Option<&SslSession>) -> Secure {
        Secure::by(&self.connector, address, NAME, session).expect("a handshake")
    }
}

/// Comes again and again until the end, each second time as one who has been here before.
fn visit(address: SocketAddr, sets: &[Set], kind: &Kind, tell: &Told) {
    while !tell.end.load(Ordering::Relaxed) {
        let mut first = kind.meet(address, None);
        let chain = first.chain();
        assert!(
            sets.iter().any(|set| set.chain(kind.keys) == chain),
            "{chain:?}"
        );
        assert!(first.ask(NAME).starts_with("HTTP/1.1 200 "));
        tell.whole.fetch_add(1, Ordering::Relaxed);
        let session = first.session().expect("a session");
        let mut second = kind.meet(address, Some(&session));
        assert!(second.ask(NAME).starts_with("HTTP/1.1 200 "));
        assert!(second.resumed());
        tell.resumed.fetch_add(1, Ordering::Relaxed);
    }
}

#[derive(Default)]
struct Told {
    end: AtomicBool,
    whole: AtomicUsize,
    resumed: AtomicUsize,
}

/// Whoever comes meets the old ones or the new ones, whole: leaf, key and chain of one set.
#[test]
fn nobody_fails_while_certificates_are_replaced() {
    let sets: Arc<Vec<Set>> = Arc::new((0..SETS).map(|_| Set::new()).collect());
    let backend = Backend::named("ok");
    let setup = Setup::https().top("worker_count", 2);
    let proxy = setup.backends(&[backend.address()]).start();
    let (address, tell) = (proxy.address(), Arc::<Told>::default());
    let mut control = proxy.steer();
    for keys in [Keys::Rsa, Keys::Ecdsa] {
        let words = sets[0].of(keys).words();
        control.ok(&format!("certificate add listener={address} {words}"));
    }
    let (one, two) = (SslVersion::TLS1_2, SslVersion::TLS1_3);
    let kinds = [
        Kind::new(Keys::Rsa, one),
        Kind::new(Keys::Ecdsa, two),
        Kind::new(Keys::Rsa, two),
        Kind::new(Keys::Ecdsa, one),
    ];
    let visitors = kinds.clone().map(|kind| {
        let (sets, tell) = (Arc::clone(&sets), Arc::clone(&tell));
        std::thread::spawn(move || visit(address, &sets, &kind, &tell))
    });
    for turn in 0..REPLACEMENTS {
        let (old, new) = (&sets[turn % SETS], &sets[(turn + 1) % SETS]);
        control.ok("begin");
        for keys in [Keys::Rsa, Keys::Ecdsa] {
            let (fingerprint, words) = (&old.of(keys).fingerprint, new.of(keys).words());
            let line = format!("certificate replace listener={address} fingerprint={fingerprint}");
            control.ok(&format!("{line} {words}"));
        }
        control.ok("commit");
        // Once that is said, nobody is shown the old one.
        let kind = &kinds[turn % kinds.len()];
        let shown = kind.meet(address, None).chain();
        assert_eq!(shown, new.chain(kind.keys), "after {turn} replacements");
    }
    tell.end.store(true, Ordering::Relaxed);
    for visitor in visitors {
        visitor.join().expect("a client without failure");
    }
    let counts = [&tell.whole, &tell.resumed].map(|count| count.load(Ordering::Relaxed));
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
    assert!(control.ok("state check").last.contains("agrees=true"));
    let line = control.ok("metrics").data.join("\n");
    assert!(line.contains(" handshakes_failed=0 "), "{line}");
}

/// Of so many who come with that session, how many are resumed, in percent.
fn resumed(proxy: &Proxy, kind: &Kind, session: &SslSession) -> usize {
    let come = |_: &usize| {
        let mut client = kind.meet(proxy.address(), Some(session));
        assert!(client.ask(NAME).starts_with("HTTP/1.1 200 "));
        client.resumed()
    };
    (0..100).filter(come).count()
}

/// By every worker, and by those that come after them.
#[test]
fn sessions_are_resumed() {
    let made = Made::of(&[NAME], Keys::Ecdsa);
    let backend = Backend::named("ok");
    let setup = Setup::https().top("worker_count", 4);
    let proxy = setup.backends(&[backend.address()]).start();
    let words = made.words();
    let line = format!("certificate add listener={} {words}", proxy.address());
    proxy.steer().ok(&line);
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let kind = Kind::new(Keys::Ecdsa, version);
        let mut first = kind.meet(proxy.address(), None);
        // The tickets of TLS 1.3 come with the answer.
        assert!(first.ask(NAME).starts_with("HTTP/1.1 200 "));
        let session = first.session().expect("a session");
        drop(first);
        let share = || resumed(&proxy, &kind, &session);
        assert!(share() > 95, "among siblings");
        for id in 0..4 {
            proxy.control(&format!("worker restart id={id}"));
        }
        assert!(share() > 95, "after restarts");
        let old: Vec<u32> = proxy.workers().iter().map(|worker| worker.pid).collect();
        old.iter().for_each(|pid| assert!(signal(*pid, "KILL")));
        wait_until("four others", || {
            let new = proxy.workers();
            let others = new.iter().all(|worker| !old.contains(&worker.pid));
            (new.len() == 4 && others).then_some(())
        });
        assert!(share() > 95, "after they were killed");
    }
}
