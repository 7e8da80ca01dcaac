//! The certificate by which backends know the proxy: shown to who asks, changed while it
//! runs, and its key in no text that anybody reads.

mod common;
#[path = "tls/secure.rs"]
mod secure;

use common::{sozu, sozuctl, Peer, Proxy, Setup};
use openssl::ssl::SslVersion;
use secure::{Authority, Proof, SecureBackend};

const NAME: &str = "example.com";
const LONG: i64 = 86_400;

struct World {
    servers: Authority,
    clients: Authority,
    backend: SecureBackend,
}

impl World {
    fn new(version: SslVersion) -> World {
        let (servers, clients) = (Authority::new(), Authority::new());
        let backend = SecureBackend::asking(&servers.issue(&[NAME]), version, &clients);
        World {
            servers,
            clients,
            backend,
        }
    }

    fn own(&self, name: &str) -> Proof {
        self.clients.issue_to(&[("CN", name)], LONG)
    }

    fn setup(&self) -> Setup {
        let setup = Setup::http().backends(&[self.backend.address()]);
        let ca = setup.file("ca.pem", &self.servers.pem());
        setup.more(&format!("tls = true\ntls_ca = {ca}\n"))
    }

    /// With a certificate in the file.
    fn with(&self, own: &Proof) -> Setup {
        let setup = self.setup();
        let certificate = setup.file("own.pem", &own.pem());
        let key = setup.file("own.key", &own.key_pem());
        setup.more(&format!(
            "tls_certificate = {certificate}\ntls_key = {key}\n"
        ))
    }

    fn seen(&self) -> Vec<Option<String>> {
        let all = self.backend.handshakes().into_iter();
        all.map(|seen| seen.client).collect()
    }
}

fn ask(client: &mut Peer) -> u16 {
    client
        .ask(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"))
        .status()
}

fn quoted(pem: &str) -> String {
    format!("\"{}\"", pem.replace('\n', "\\n"))
}

fn words(own: &Proof) -> String {
    let (pem, key) = (quoted(&own.pem()), quoted(&own.key_pem()));
    format!("tls_certificate={pem} tls_key={key}")
}

/// No line of the key stands there.
#[track_caller]
fn hides(text: &str, own: &Proof) {
    let key = own.key_pem();
    let mut lines = key.lines().filter(|line| !line.starts_with("---"));
    assert!(lines.all(|line| !text.contains(line)), "{text}");
}

fn name(name: &str) -> Option<String> {
    Some(name.to_string())
}

#[test]
fn who_asks_is_shown_it() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let world = World::new(version);
        let proxy = world.with(&world.own("proxy")).start();
        let mut client = proxy.client();
        for _ in 0..3 {
            assert_eq!(ask(&mut client), 200);
        }
        assert_eq!(world.seen(), [name("proxy")]);
    }
    let world = World::new(SslVersion::TLS1_2);
    let proxy = world.setup().start();
    assert_eq!(ask(&mut proxy.client()), 503);
    proxy.wait_access(1, "it refuses the handshake");
    let stranger = Authority::new().issue_to(&[("CN", "stranger")], LONG);
    let proxy = world.with(&stranger).start();
    assert_eq!(ask(&mut proxy.client()), 503);
    proxy.wait_log("unknown ca");
}

/// What was made with another certificate is used no more, be it by its session.
#[test]
fn another_one_counts_for_the_next_request() {
    for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
        let world = World::new(version);
        let (one, two) = (world.own("one"), world.own("two"));
        let proxy = world.with(&one).start();
        let (mut client, mut control) = (proxy.client(), proxy.steer());
        assert_eq!(ask(&mut client), 200);
        control.ok(&format!("cluster update id=main {}", words(&two)));
        assert_eq!(ask(&mut client), 200);
        // What has nothing to do with it changes nothing.
        control.ok("cluster update id=main answer_404=no");
        assert_eq!(ask(&mut client), 200);
        assert_eq!(world.seen(), [name("one"), name("two")]);
        assert!(world.backend.handshakes().iter().all(|seen| !seen.resumed));
        control.ok("cluster update id=main unset=tls_certificate");
        assert_ne!(ask(&mut client), 200);
        control.ok("reload");
        assert!(control.ok("state check").last.contains("agrees=true"));
    }
}

#[test]
fn the_key_is_shown_to_nobody() {
    let world = World::new(SslVersion::TLS1_3);
    let (one, two) = (world.own("one"), world.own("two"));
    let proxy = world.with(&one).top("log_level", "\"trace\"").start();
    let mut control = proxy.steer();
    let mut events = proxy.steer();
    events.send("events\nping\n").reply();
    control.ok(&format!("cluster update id=main {}", words(&two)));
    let mut told = vec![events.line().expect("an event")];
    for line in [
        "state dump",
        "state diff",
        "cluster list",
        "status",
        "explain url=http://x/",
    ] {
        told.extend(control.ask(line).data);
    }
    let wrong = format!("cluster update id=main tls_key={}", quoted(&one.key_pem()));
    told.push(control.refused(&wrong, "invalid"));
    let wrong = format!("cluster update id=nobody {}", words(&one));
    told.push(control.refused(&wrong, "missing"));
    let wrong = format!("cluster update id=main tls_ca={}", quoted(&one.key_pem()));
    told.push(control.refused(&wrong, "invalid"));
    told.extend(proxy.log());
    let told = told.join("\n");
    assert!(told.contains("tls_certificate=\"-----BEGIN"));
    hides(&told, &one);
    hides(&told, &two);
    let secrets = control.ok("state dump secrets=true").data.join("\n");
    assert!(secrets.contains(&quoted(&two.key_pem())));
}

#[test]
fn what_does_not_fit_is_refused() {
    let world = World::new(SslVersion::TLS1_3);
    let (one, two) = (world.own("one"), world.own("two"));
    let proxy = world.setup().start();
    let mut control = proxy.steer();
    let pem = quoted(&one.pem());
    for (keys, why) in [
        (format!("tls_certificate={pem}"), "tls_key: is missing"),
        (
            format!("tls_key={}", quoted(&one.key_pem())),
            "needs tls_certificate",
        ),
        ("tls_key_path=/etc/x".into(), "needs tls_certificate"),
        (
            format!("tls_certificate={pem} tls_key={}", quoted(&two.key_pem())),
            "the key does not belong to the certificate of one",
        ),
        (
            format!("tls_certificate={pem} tls_key={pem}"),
            "no unencrypted PEM private key",
        ),
        (
            format!("tls=false unset=tls_ca {}", words(&one)),
            "without tls = true",
        ),
    ] {
        let said = control.refused(&format!("cluster update id=main {keys}"), "invalid");
        assert!(said.contains(why), "{keys}: {said}");
    }
    let setup = world.setup();
    let own = setup.file("own.pem", &one.pem());
    let setup = setup.more(&format!("tls_certificate = {own}\n"));
    let config = setup.write(common::free_address()).display().to_string();
    let checked = sozu(&["check", "-c", &config]);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(
        !checked.status.success() && said.contains("tls_key: is missing"),
        "{said}"
    );
}

/// A renewed file, read again.
#[test]
fn a_reload_reads_it_again() {
    let world = World::new(SslVersion::TLS1_3);
    let (one, two) = (world.own("one"), world.own("two"));
    let proxy = world.with(&one).start();
    assert_eq!(ask(&mut proxy.client()), 200);
    std::fs::write(proxy.path("own.pem"), two.pem()).expect("write");
    std::fs::write(proxy.path("own.key"), two.key_pem()).expect("write");
    proxy.steer().ok("reload");
    assert_eq!(ask(&mut proxy.client()), 200);
    assert_eq!(world.seen(), [name("one"), name("two")]);
}

/// Over a restart the key is read where it lies, or comes from the saved state.
#[test]
fn it_is_there_after_a_restart() {
    for secrets in [false, true] {
        let world = World::new(SslVersion::TLS1_3);
        let (one, two) = (world.own("one"), world.own("two"));
        let setup = world.with(&one).top("save_secrets", secrets);
        let saved = format!("{:?}", setup.path("saved"));
        let setup = setup.top("saved_state", saved);
        let mut proxy = setup.top("automatic_state_save", true).start();
        let certificate = write(&proxy, "two.pem", &two.pem());
        let key = write(&proxy, "two.key", &two.key_pem());
        let socket = proxy.path("command.sock").display().to_string();
        let steered = sozuctl(&[
            "-s",
            &socket,
            "cluster",
            "update",
            "--id",
            "main",
            "--tls-certificate",
            &certificate,
            "--tls-key",
            &key,
        ]);
        assert!(steered.status.success(), "{steered:?}");
        assert_eq!(ask(&mut proxy.client()), 200);
        proxy.signal("TERM");
        proxy.wait_exit();
        let text = std::fs::read_to_string(proxy.path("saved")).expect("the saved state");
        let line = text
            .lines()
            .find(|line| line.starts_with("cluster update id=main "));
        assert!(
            line.expect("it").contains(&format!("tls_key_path={key}")),
            "{text}"
        );
        match secrets {
            true => {
                assert!(text.contains(&quoted(&two.key_pem())));
                std::fs::remove_file(proxy.path("two.key")).expect("removed");
            }
            false => hides(&text, &two),
        }
        for more in [&[][..], &["--last-known-good"]] {
            let mut again = proxy.again(more).expect("it starts");
            assert_eq!(ask(&mut again.client()), 200, "{secrets} {more:?}");
            assert_eq!(world.seen().last(), Some(&name("two")));
            again.signal("TERM");
            again.wait_exit();
        }
    }
}

fn write(proxy: &Proxy, name: &str, text: &str) -> String {
    let path = proxy.path(name);
    std::fs::write(&path, text).expect("write");
    path.display().to_string()
}

/// A dump without keys is loaded again with those that lie where they were read.
#[test]
fn a_saved_dump_is_loaded_again() {
    let world = World::new(SslVersion::TLS1_3);
    let proxy = world.with(&world.own("one")).start();
    let file = proxy.path("dump").display().to_string();
    let socket = proxy.path("command.sock").display().to_string();
    let saved = sozuctl(&["-s", &socket, "state", "save", "-f", &file]);
    assert!(saved.status.success(), "{saved:?}");
    proxy
        .steer()
        .ok("cluster update id=main unset=tls_certificate");
    let applied = sozuctl(&["-s", &socket, "apply", "-f", &file]);
    assert!(applied.status.success(), "{applied:?}");
    assert_eq!(ask(&mut proxy.client()), 200);
    assert!(proxy.steer().ok("state diff").data.is_empty());
}
