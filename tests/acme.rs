//! What certificate authorities are answered: a folder that main reads.

mod common;

use common::{signal, wait_until, Backend, Peer, Proxy, Setup, TempDir};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

const PATH: &str = "/.well-known/acme-challenge/";

struct World {
    folder: TempDir,
    proxy: Proxy,
    _backend: Backend,
}

impl World {
    fn new() -> World {
        let folder = TempDir::new();
        let backend = Backend::named("backend");
        let setup = Setup::http()
            .top("worker_count", 2)
            .top("acme_challenges", format!("{:?}", folder.path("www")));
        let proxy = setup.backends(&[backend.address()]).start();
        World {
            folder,
            proxy,
            _backend: backend,
        }
    }

    fn place(&self) -> PathBuf {
        self.folder.path("www/.well-known/acme-challenge")
    }

    /// As certbot does: another name first.
    fn put(&self, token: &str, text: &str) {
        fs::create_dir_all(self.place()).expect("the folder");
        let other = self.place().join("other.tmp");
        fs::write(&other, text).expect("written");
        fs::rename(other, self.place().join(token)).expect("renamed");
    }

    fn asked(&self, token: &str) -> String {
        let answer = self.proxy.client().get(&format!("{PATH}{token}"));
        match answer.text() {
            text if text == "backend" => text,
            text => {
                assert_eq!(
                    answer.field("cache-control"),
                    Some("no-store"),
                    "{answer:?}"
                );
                format!("{} {text}", answer.status())
            }
        }
    }

    #[track_caller]
    fn wait(&self, token: &str, wanted: &str) {
        wait_until(&format!("{token}: {wanted}"), || {
            // Whichever worker it is.
            let same = (0..4).all(|_| self.asked(token) == wanted);
            same.then_some(())
        });
    }
}

#[test]
fn what_is_put_there_is_answered_and_what_goes_is_not() {
    let world = World::new();
    // The folder itself is not there yet; a backend may answer challenges of its own.
    assert_eq!(world.asked("a"), "backend");
    world.put("a", "a.thumb\n");
    world.wait("a", "200 a.thumb");
    // Not by another name; written in place, replaced, removed.
    fs::write(world.place().join("b"), "b.one").expect("written");
    world.wait("b", "200 b.one");
    world.put("b", "b.two");
    world.wait("b", "200 b.two");
    assert_eq!(world.asked("c"), "backend");
    fs::remove_file(world.place().join("a")).expect("removed");
    world.wait("a", "backend");
    // The whole folder goes, and comes again.
    fs::remove_dir_all(world.folder.path("www")).expect("removed");
    world.wait("b", "backend");
    world.put("b", "b.three");
    world.wait("b", "200 b.three");
    let line = world.proxy.control("status").data;
    assert!(
        line.iter()
            .any(|line| line.starts_with("acme_challenges ") && line.ends_with("answers=1")),
        "{line:?}"
    );
}

#[test]
fn other_methods_and_hosts_and_keep_alive() {
    let world = World::new();
    world.put("t", "t.x");
    world.wait("t", "200 t.x");
    let mut client = world.proxy.client();
    client.send(format!("HEAD {PATH}t HTTP/1.1\r\nHost: b.example\r\n\r\n"));
    let head = client.try_response("HEAD").expect("an answer");
    assert_eq!(head.status(), 200);
    assert_eq!(head.field("content-length"), Some("3"));
    // On the same connection, by the backend.
    let posted = format!("POST {PATH}t HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(client.ask(posted).text(), "backend");
    assert_eq!(client.get(&format!("{PATH}t?q")).text(), "t.x");
    assert_eq!(client.get(&format!("{PATH}t/")).text(), "backend");
    world.proxy.wait_access(1, "acme challenge");
    let question = format!(
        "explain listener={} hostname=a path={PATH}t",
        world.proxy.address()
    );
    let told = world.proxy.control(&question).data;
    assert!(
        told.contains(&"answer by=acme_challenges".to_string()),
        "{told:?}"
    );
}

#[test]
fn a_redirect_does_not_catch_it() {
    let folder = TempDir::new();
    let place = folder.path("www/.well-known/acme-challenge");
    fs::create_dir_all(&place).expect("the folder");
    fs::write(place.join("t"), "t.x").expect("written");
    let setup = Setup::http().top("acme_challenges", format!("{:?}", folder.path("www")));
    let frontend = "hostname = \"a\", https_redirect = \"301\"";
    let proxy = setup
        .cluster("a", &[frontend], &["address = \"127.0.0.1:1\""])
        .start();
    let mut client = proxy.client();
    let ask = |client: &mut Peer, path: &str| {
        client.ask(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
    };
    assert_eq!(ask(&mut client, "/").status(), 301);
    assert_eq!(ask(&mut client, &format!("{PATH}t")).text(), "t.x");
}

#[test]
fn junk_publishes_nothing_and_stops_nobody() {
    let world = World::new();
    let place = world.place();
    fs::create_dir_all(&place).expect("the folder");
    symlink("/etc/passwd", place.join("passwd")).expect("a link");
    symlink(&place, place.join("loop")).expect("a link");
    fs::create_dir(place.join("dir")).expect("a folder");
    fs::write(place.join("large"), vec![b'x'; 1 << 20]).expect("written");
    fs::write(place.join("empty"), "").expect("written");
    fs::write(place.join("secret"), "not an answer").expect("written");
    let fifo = std::process::Command::new("mkfifo")
        .arg(place.join("fifo"))
        .status();
    assert!(fifo.expect("mkfifo").success());
    world.put("good", "good.x");
    world.wait("good", "200 good.x");
    for name in ["passwd", "loop", "dir", "large", "empty", "secret", "fifo"] {
        assert_eq!(world.asked(name), "backend", "{name}");
    }
    world.proxy.wait_log("is not taken");
    // Thousands of names: bounded, and it goes on.
    for n in 0..2000 {
        fs::write(place.join(format!("n{n}")), format!("n{n}.x")).expect("written");
    }
    world.proxy.wait_log("names of");
    fs::remove_dir_all(&place).expect("removed");
    world.put("again", "again.x");
    world.wait("again", "200 again.x");
}

#[test]
fn workers_that_come_later_and_another_folder() {
    let world = World::new();
    world.put("t", "t.x");
    world.wait("t", "200 t.x");
    let victim = world.proxy.workers()[0].pid;
    assert!(signal(victim, "KILL"));
    wait_until("another worker", || {
        let workers = world.proxy.workers();
        (workers.len() == 2 && workers.iter().all(|w| w.pid != victim)).then_some(())
    });
    world.wait("t", "200 t.x");
    let mut control = world.proxy.steer();
    control.ok("worker restart id=1");
    world.wait("t", "200 t.x");
    let text = fs::read_to_string(world.proxy.config()).expect("the file");
    let other = world.folder.path("other/.well-known/acme-challenge");
    fs::create_dir_all(&other).expect("the folder");
    fs::write(other.join("u"), "u.y").expect("written");
    fs::write(world.proxy.config(), text.replace("/www", "/other")).expect("written");
    assert!(control.ok("reload").data.is_empty());
    world.wait("u", "200 u.y");
    world.wait("t", "backend");
}
