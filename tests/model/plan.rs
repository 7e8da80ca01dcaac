//! What to say next: lines that mostly mean something in the state as it is.

use sozu_lib::random::Random;
use sozu_lib::state::State;
use std::net::SocketAddr;

const CLUSTERS: [&str; 5] = ["web", "api", "a.b-c/d", "x=y", "raw"];
const BACKENDS: [&str; 3] = ["0", "one", "two"];
const HOSTS: [&str; 5] = ["*", "*.example.com", "www.example.com", "a.b", "B.A"];
const PATHS: [&str; 7] = ["/", "/", "/api", "/api/", "/api/v1", "/%41", "/a.b"];
const METHODS: [&str; 3] = ["GET", "POST", "PURGE"];
const PROTOCOLS: [&str; 3] = ["http", "http", "tcp"];
const STATES: [&str; 3] = ["ready", "drain", "down"];
const ANSWERS: [&str; 4] = ["", "plain", "a \\\"b\\\"\\r\\n\\t\\\\", "é = ok"];

/// What asks, or does something that the state does not show.
const OTHERS: [&str; 12] = [
    "connections list",
    "connections list older=1",
    "connections kill client=192.0.2.0/24",
    "connections kill",
    "metrics",
    "metrics cluster=web",
    "state diff",
    "state stats",
    "reload",
    "confirm",
    "logging level=\"info,sozu_lib::parser=debug\"",
    "logging",
];

/// Lines that are none, whatever the state.
const NONSENSE: [&str; 9] = [
    "cluster ad id=a",
    "cluster add",
    "cluster add id=\"a",
    "cluster add id=a id=b",
    "listener add address=nowhere protocol=http",
    "backend add cluster=a id=b address=1.2.3.4:5 weight=999",
    "frontend add listener=127.0.0.1:1 hostname=a..b cluster=web",
    "no such command",
    "update listener",
];

pub struct Plan {
    addresses: [SocketAddr; 3],
    enabled: &'static [&'static str],
}

fn pick<'a>(random: &mut Random, of: &[&'a str]) -> &'a str {
    of[random.below(of.len() as u64) as usize]
}

/// What tells a frontend apart, for `frontend add` and `remove`.
pub fn rule(random: &mut Random, listener: SocketAddr) -> String {
    let (host, path) = (pick(random, &HOSTS), pick(random, &PATHS));
    let mut rule = format!("listener={listener} hostname={host} path={path}");
    if random.below(3) == 0 {
        rule += " path_type=exact";
    }
    if random.below(4) == 0 {
        rule += &format!(" method={}", pick(random, &METHODS));
    }
    rule
}

/// A request: method, hostname, path.
pub fn question(random: &mut Random) -> (&'static str, String, &'static str) {
    let hosts = [
        "www.example.com",
        "WWW.Example.COM",
        "y.example.com",
        "example.com",
        "a.b",
    ];
    let hosts = [
        &hosts[..],
        &[
            "b.a",
            "c.b.a",
            "a.b:8080",
            "www.example.com.",
            "[::1]",
            "1.2.3.4",
        ],
    ];
    let host = pick(random, &hosts.concat()).to_string();
    let paths = [
        "/",
        "/api",
        "/api/",
        "/api/v1",
        "/api/v1/x",
        "/apix",
        "/A",
        "/%41",
        "/%61pi",
    ];
    let paths = [
        &paths[..],
        &["/a.b", "/a%2eb", "/%61.b", "//api", "/api//v1", "/x%2Fy"],
    ];
    (pick(random, &METHODS), host, pick(random, &paths.concat()))
}

impl Plan {
    pub fn new(addresses: [SocketAddr; 3]) -> Plan {
        Plan {
            addresses,
            enabled: &["true", "true", "false"],
        }
    }

    /// Listeners are disabled, so that two proxies can have the same.
    pub fn nothing_is_bound(&mut self) {
        self.enabled = &["false"];
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().copied()
    }

    fn address(&self, random: &mut Random) -> SocketAddr {
        self.addresses[random.below(self.addresses.len() as u64) as usize]
    }

    /// A change; one in ten or so is none.
    pub fn line(&self, random: &mut Random, state: &State) -> String {
        match random.below(26) {
            0..=3 => self.listener(random),
            4..=8 => self.cluster(random),
            9..=13 => self.backend(random, state),
            14..=19 => self.frontend(random, state),
            20..=23 => self.removal(random, state),
            24 => pick(random, &NONSENSE).to_string(),
            _ => format!("{} colour=red", self.cluster(random)),
        }
    }

    /// What is no change, or is one whose answer may wait.
    pub fn other(&self, random: &mut Random, state: &State) -> String {
        let cluster = self.known_cluster(random, state);
        let backend = pick(random, &BACKENDS);
        match random.below(12) {
            0 | 1 => format!("cluster pause id={cluster} max=600"),
            2 => format!("cluster resume id={cluster}"),
            3 => format!("cluster pause id={cluster} max={}", random.below(2) * 9999),
            4 => format!("backend remove cluster={cluster} id={backend} wait=1"),
            5 => format!("backend update cluster={cluster} id={backend} state=drain wait=1"),
            6 => {
                let (method, host, path) = question(random);
                let known: Vec<SocketAddr> = state.listeners().map(|l| l.address).collect();
                let listener = known.first().copied().unwrap_or(self.addresses[0]);
                format!("explain url=http://{host}{path} method={method} listener={listener}")
            }
            7 if random.below(3) == 0 => format!("worker restart id={}", random.below(3)),
            _ => pick(random, &OTHERS).to_string(),
        }
    }

    fn listener(&self, random: &mut Random) -> String {
        let address = self.address(random);
        let seconds = random.below(100) + 1;
        let binds = self.enabled.len() > 1;
        match random.below(8) {
            0..=3 => {
                let (protocol, enabled) = (pick(random, &PROTOCOLS), pick(random, self.enabled));
                let answer = pick(random, &ANSWERS);
                format!("listener add address={address} protocol={protocol} enabled={enabled} front_timeout={seconds} answer_404=\"{answer}\"")
            }
            4 => format!("listener update address={address} keepalive_timeout={seconds} trusted_proxies=::1,10.0.0.0/8"),
            5 => format!("listener remove address={address}"),
            6 if binds => format!("listener enable address={address}"),
            _ => format!("listener disable address={address}"),
        }
    }

    fn cluster(&self, random: &mut Random) -> String {
        let (id, answer) = (pick(random, &CLUSTERS), pick(random, &ANSWERS));
        let protocol = if id == "raw" { "tcp" } else { "http" };
        match random.below(6) {
            0 => format!("cluster update id={id} answer_503=\"{answer}\""),
            1 => format!("cluster remove id={id}"),
            2 => format!("cluster add id={id} protocol={protocol} answer_503=\"{answer}\""),
            _ => format!("cluster add id={id} protocol={protocol}"),
        }
    }

    /// A cluster, mostly one that is there.
    fn known_cluster(&self, random: &mut Random, state: &State) -> String {
        let known: Vec<&str> = state.clusters().map(|cluster| &*cluster.id).collect();
        match known.is_empty() || random.below(6) == 0 {
            true => pick(random, &CLUSTERS).to_string(),
            false => pick(random, &known).to_string(),
        }
    }

    fn backend(&self, random: &mut Random, state: &State) -> String {
        let (cluster, id) = (self.known_cluster(random, state), pick(random, &BACKENDS));
        let (weight, state) = (random.below(257), pick(random, &STATES));
        let port = random.below(3) + 1;
        match random.below(4) {
            0 => format!("backend update cluster={cluster} id={id} weight={weight} state={state}"),
            1 => format!("backend remove cluster={cluster} id={id}"),
            _ => format!("backend add cluster={cluster} id={id} address=127.0.0.1:{port} weight={weight} backup=true"),
        }
    }

    fn frontend(&self, random: &mut Random, state: &State) -> String {
        let cluster = self.known_cluster(random, state);
        let address = self.address(random);
        if cluster == "raw" {
            return format!("frontend add listener={address} cluster=raw");
        }
        format!("frontend add {} cluster={cluster}", rule(random, address))
    }

    /// Of something that is there, if anything is.
    fn removal(&self, random: &mut Random, state: &State) -> String {
        let lines: Vec<String> = state.dump().map(|change| change.encode()).collect();
        match lines.is_empty() {
            true => "cluster remove id=nobody".into(),
            false => removal_of(&lines[random.below(lines.len() as u64) as usize]),
        }
    }
}

/// `listener add address=…` to `listener remove address=…`, and so on.
fn removal_of(line: &str) -> String {
    let (noun, rest) = line.split_once(" add ").unwrap_or((line, ""));
    let keys: &[&str] = match noun {
        "listener" => &["address"],
        "cluster" => &["id"],
        "backend" => &["cluster", "id"],
        _ => &["listener", "hostname", "path", "path_type", "method"],
    };
    let named = |word: &&str| {
        word.split_once('=')
            .is_some_and(|(key, _)| keys.contains(&key))
    };
    let words: Vec<&str> = rest.split(' ').filter(named).collect();
    format!("{noun} remove {}", words.join(" "))
}
