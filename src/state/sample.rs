//! Random states from a seed, for the property tests of `state`, `proto` and `config`.

use super::*;
use crate::parser::proxy_protocol::Version;
use crate::quota::rate::Rate;

/// A root that nobody trusts.
const ROOT: &str = include_str!("../../tests/tls/root.pem");
/// What another one has revoked.
const CRL: &str = include_str!("../../tests/tls/revoked.crl");

/// Of a password that nobody uses.
const HASH: &str = "$5$rounds=1000$roundstoolow$yfvwcWrQ8l/K0DAWyuPMDNHpIVlTQebY9l/gL972bIC";

/// A small generator (xorshift64*): the same seed, the same states.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % bound
    }

    pub fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    /// A state after `steps` random changes, some of which were refused.
    pub fn state(&mut self, steps: usize) -> State {
        let mut state = State::default();
        self.disturb(&mut state, steps);
        state
    }

    pub fn disturb(&mut self, state: &mut State, steps: usize) {
        for _ in 0..steps {
            let before = state.clone();
            if state.apply(&self.change()).is_err() {
                assert_eq!(*state, before, "a refused change changes nothing");
            }
        }
    }

    pub fn change(&mut self) -> Change {
        match self.below(25) {
            19..=21 => Change::CertificateAdd(self.certificate()),
            22..=23 => Change::CertificateReplace {
                fingerprint: Rc::clone(self.certificate().fingerprint()),
                by: self.certificate(),
            },
            24 => Change::CertificateRemove {
                listener: self.address(),
                fingerprint: Rc::clone(self.certificate().fingerprint()),
            },
            16 => Change::ListenerUpdate(self.listener().into()),
            17 => Change::ClusterUpdate(self.cluster().into()),
            18 => Change::BackendUpdate(self.backend().into()),
            0..=2 => Change::ListenerAdd(self.listener().into()),
            3..=5 => Change::ClusterAdd(self.cluster().into()),
            6..=8 => Change::BackendAdd(self.backend().into()),
            9..=11 => Change::FrontendAdd(self.frontend()),
            12 => Change::ListenerRemove {
                address: self.address(),
            },
            13 => Change::ClusterRemove { id: self.name() },
            14 => Change::FrontendRemove {
                identity: self.frontend().identity,
            },
            _ => Change::BackendRemove {
                cluster: self.name(),
                id: self.name(),
            },
        }
    }

    fn listener(&mut self) -> Listener {
        let mut ranges = vec!["10.0.0.0/8", "::1/128"];
        ranges.truncate(self.below(3) as usize);
        let parsed = ranges.into_iter().map(Cidr::parse);
        let protocol = match self.below(8) {
            0 => Protocol::Metrics,
            1..=3 => Protocol::Https,
            4 => Protocol::TlsPassthrough,
            _ => self.protocol(),
        };
        Listener {
            address: self.address(),
            protocol,
            enabled: self.below(4) > 0,
            timeouts: Timeouts {
                front: self.seconds(),
                back: self.seconds(),
                connect: self.seconds(),
                request: self.seconds(),
                keepalive: self.seconds(),
                tunnel: self.seconds(),
            },
            sticky_name: "SOZUBALANCEID".into(),
            trusted_proxies: parsed.collect::<Result<_, _>>().expect("good ranges"),
            expect_proxy: protocol != Protocol::Metrics && self.coin(),
            proxy_sources: Vec::new(),
            quota: self.quota(protocol, true),
            tls: (protocol == Protocol::Https).then(|| self.tls()),
            answers: self.answers(),
        }
    }

    fn tls(&mut self) -> Tls {
        Tls {
            versions: match self.coin() {
                true => vec![TlsVersion::Tls13],
                false => vec![TlsVersion::Tls12, TlsVersion::Tls13],
            },
            cipher_list: "ECDHE-RSA-AES128-GCM-SHA256".into(),
            cipher_suites: "TLS_AES_128_GCM_SHA256".into(),
            groups: ["X25519", "X25519:P-256"][self.below(2) as usize].into(),
            strict_sni: self.coin(),
            client: self.client_auth(),
        }
    }

    fn client_auth(&mut self) -> Option<ClientAuth> {
        self.coin().then(|| ClientAuth {
            required: self.coin(),
            ca: ROOT.into(),
            crl: self.coin().then(|| {
                let crls = crate::certificate::crls(CRL.into(), ROOT);
                crls.expect("a good one")
            }),
        })
    }

    fn certificate(&mut self) -> Rc<Certificate> {
        thread_local! {
            static CHECKED: [Certificate; 2] = [0, 1].map(sample_certificate);
        }
        let path = |path: &str| Some(path.to_string());
        let one = self.below(2) as usize;
        Rc::new(Certificate {
            listener: self.address(),
            paths: Paths {
                certificate: path("/etc/a b.pem").filter(|_| self.coin()),
                chain: None,
                key: path("/etc/key").filter(|_| self.coin()),
            },
            default: self.coin(),
            ..CHECKED.with(|all| all[one].clone())
        })
    }

    pub fn cluster(&mut self) -> Cluster {
        let (protocol, tls) = (self.protocol(), self.backend_tls());
        Cluster {
            id: self.name(),
            balancing: self.balancing(protocol),
            quota: self.quota(protocol, false),
            send_proxy: self.coin().then_some(Version::V2),
            eject_5xx: match protocol {
                Protocol::Tcp => 0,
                _ => self.below(3) as u32,
            },
            protocol,
            check: self.check(tls.as_ref()),
            tls,
            answers: self.answers(),
        }
    }

    fn quota(&mut self, protocol: Protocol, of_listener: bool) -> Quota {
        let http = matches!(protocol, Protocol::Http | Protocol::Https);
        let mut range = |text: &str| match self.below(3) {
            0 => vec![Cidr::parse(text).expect("a good range")],
            _ => Vec::new(),
        };
        let (allow, deny) = (range("10.0.0.0/8"), range("2001:db8::/32"));
        let mut number = |given: bool| (given && self.coin()).then(|| 1 + self.below(99) as u32);
        let (connections, body, pace) = (
            number(of_listener),
            number(http),
            number(http && of_listener),
        );
        let rate = number(http).map(|per_second| Rate {
            per_second,
            burst: 50,
        });
        Quota {
            allow,
            deny,
            connections,
            rate,
            body,
            pace,
        }
    }

    fn balancing(&mut self, protocol: Protocol) -> Balancing {
        let parts = ["source", "path", "header:X-User", "cookie:sid"];
        let policy = LoadBalancing::ALL[self.below(6) as usize];
        let part = match policy {
            LoadBalancing::Hash => parts[self.below(4) as usize],
            _ => parts[0],
        };
        Balancing {
            policy,
            hash_on: Part::parse(part).expect("a part"),
            sticky: protocol == Protocol::Http && self.coin(),
            slow_start: self.below(60) as u32,
            max_queue: self.below(2000) as u32,
            queue_timeout: 1 + self.below(60) as u32,
        }
    }

    fn check(&mut self, tls: Option<&BackendTls>) -> Option<Check> {
        let http = Ask::Http {
            path: ["/", "/health?full=1"][self.below(2) as usize].into(),
            status: Statuses::parse(["200", "200-399"][self.below(2) as usize]).expect("one"),
            body: self.coin().then(|| "it \"works\"".into()),
        };
        let ask = if self.coin() { http } else { Ask::Tcp };
        let needed = ask != Ask::Tcp || tls.is_some();
        self.coin().then(|| Check {
            ask,
            host: needed.then(|| "www.example.com".into()),
            interval: 1 + self.below(9) as u32,
            timeout: 1 + self.below(9) as u32,
            rise: 1 + self.below(9) as u32,
            fall: 1 + self.below(9) as u32,
        })
    }

    fn backend_tls(&mut self) -> Option<BackendTls> {
        (self.below(4) == 0).then(|| BackendTls {
            verify: self.coin(),
            ca: self.coin().then(|| ROOT.into()),
            server_name: Some(["a.example.com", "10.0.0.1"][self.below(2) as usize].into()),
            own: self.coin().then(|| self.own_certificate()),
        })
    }

    fn own_certificate(&mut self) -> OwnCertificate {
        let certificate = self.certificate();
        OwnCertificate {
            facts: certificate.facts.clone(),
            chain: certificate.chain.clone(),
            key: certificate.key.clone(),
            paths: certificate.paths.clone(),
        }
    }

    fn frontend(&mut self) -> Frontend {
        let hostname = ["*", "*.example.com", "www.example.com", "a_b.x"];
        let hostname = hostname[self.below(4) as usize];
        let path = ["/", "/", "/api", "/%2F/=x"][self.below(4) as usize].into();
        let identity = FrontendId {
            listener: self.address(),
            hostname: HostRule::parse(hostname).expect("a good hostname"),
            path: if self.below(4) > 0 {
                PathRule::Prefix(path)
            } else {
                PathRule::Exact(path)
            },
            method: (self.below(4) == 0).then(|| "GET".into()),
        };
        let actions = self.actions(&identity.path);
        let own = actions.as_ref().is_some_and(|it| it.own.is_some());
        Frontend {
            identity: identity.into(),
            cluster: (!own || self.coin()).then(|| self.name()),
            actions,
        }
    }

    fn actions(&mut self, path: &PathRule) -> Option<Rc<Actions>> {
        let own = self.own();
        let mut actions = Actions {
            https_redirect: [None, Some(301), Some(308)][self.below(3) as usize],
            hsts: self.coin().then(|| "max-age=7; preload".into()),
            response_headers: self.edits(),
            ..Actions::default()
        };
        if actions.https_redirect.is_some() {
            actions.https_port = [443, 8443][self.below(2) as usize];
        }
        if own != Some(Own::Deny) {
            actions.basic_auth = self.coin().then(|| self.basic_auth());
        }
        if own.is_none() {
            let strip = path.path() != "/" && self.coin();
            actions.strip_prefix = strip.then(|| path.path().into());
            actions.add_prefix = self.coin().then(|| "/v%41".into());
            actions.set_host = self.coin().then(|| "[::1]:80".into());
            actions.request_headers = self.edits();
        }
        actions.own = own;
        (actions != Actions::default()).then(|| Rc::new(actions))
    }

    fn own(&mut self) -> Option<Own> {
        match self.below(8) {
            0 => Some(Own::Deny),
            1 => Some(Own::Redirect {
                status: [301, 302, 303, 307, 308][self.below(5) as usize],
                to: Template::parse("https://{host}{path}{query}").expect("a good one"),
            }),
            2 => Some(Own::Answer {
                status: 503,
                text: self.coin().then(|| "two\n \"lines\" é".into()),
            }),
            _ => None,
        }
    }

    fn edits(&mut self) -> Edits {
        let edits = ["set X-A: b, \"c\"\nadd X-A: \nremove X-B", "add X-C: \\é"];
        match self.below(4) {
            0 => Edits::parse(edits[self.below(2) as usize]).expect("good ones"),
            _ => Edits::default(),
        }
    }

    fn basic_auth(&mut self) -> BasicAuth {
        let users = ["jane", "john\njane"][self.below(2) as usize];
        let users: Vec<String> = users.lines().map(|name| format!("{name}:{HASH}")).collect();
        let users = Users::parse(&users.join("\n")).expect("good lines");
        BasicAuth {
            realm: ["restricted", "a b"][self.below(2) as usize].into(),
            fingerprint: users.fingerprint().into(),
            users: Some(users),
            path: self.coin().then(|| "/etc/sozu/users".into()),
        }
    }

    pub fn backend(&mut self) -> Backend {
        Backend {
            cluster: self.name(),
            id: self.name(),
            address: self.server(),
            weight: self.below(257) as u16,
            backup: self.coin(),
            max_connections: self.coin().then(|| 1 + self.below(9) as u32),
            sticky_id: self.coin().then(|| "s-1".into()),
            state: [BackendState::Ready, BackendState::Drain, BackendState::Down]
                [self.below(3) as usize],
        }
    }

    fn answers(&mut self) -> BTreeMap<u16, String> {
        let mut answers = BTreeMap::new();
        let bodies = ["", "plain", "two\r\n\t\"lines\" \\ é", "ok x=y"];
        for status in [404, 503] {
            if self.coin() {
                let body = bodies[self.below(4) as usize];
                answers.insert(status, body.to_string());
            }
        }
        answers
    }

    fn protocol(&mut self) -> Protocol {
        match self.below(3) {
            0 => Protocol::Tcp,
            _ => Protocol::Http,
        }
    }

    fn address(&mut self) -> SocketAddr {
        let addresses = ["127.0.0.1:80", "[::1]:443", "10.0.0.1:8080"];
        let address = addresses[self.below(3) as usize];
        address.parse().expect("a good address")
    }

    fn server(&mut self) -> Address {
        let addresses = ["unix:/run/a.sock", "app.internal:80"];
        match addresses.get(self.below(4) as usize) {
            Some(text) => text.parse().expect("a good address"),
            None => self.address().into(),
        }
    }

    fn name(&mut self) -> Rc<str> {
        ["web", "a.b-c_d/e", "x=y", "[::1]:80"][self.below(4) as usize].into()
    }

    fn seconds(&mut self) -> u32 {
        self.below(100) as u32 + 1
    }
}

/// One of two that are good for a hundred years.
fn sample_certificate(number: usize) -> Certificate {
    let texts = [
        (
            include_str!("../../tests/certificates/one.pem"),
            include_str!("../../tests/certificates/one.key"),
        ),
        (
            include_str!("../../tests/certificates/two.pem"),
            include_str!("../../tests/certificates/two.key"),
        ),
    ];
    let (leaf, key) = texts[number];
    let checked = crate::certificate::check(leaf, "", Some(key)).expect("a good one");
    Certificate {
        listener: "127.0.0.1:443".parse().expect("an address"),
        facts: crate::certificate::facts(&checked.leaf),
        chain: checked.chain_pem(),
        key: checked.key_pem().map(|pem| Secret(pem.into())),
        paths: Paths::default(),
        default: false,
    }
}
