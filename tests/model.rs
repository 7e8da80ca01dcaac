//! Random commands, valid and not, alone and in transactions, from several
//! clients at once, cut off in the middle, while workers die: a model predicts
//! every reply and the state. `SOZU_MODEL_SEED=n` replays one seed alone.

mod common;
#[path = "model/plan.rs"]
mod plan;
#[path = "model/predict.rs"]
mod predict;

use common::{free_address, signal, wait_until, Backend, Control, Peer, Proxy, Setup};
use plan::Plan;
use predict::{defaults, value, Model, Open};
use sozu_lib::proto::command::Command;
use sozu_lib::random::Random;
use sozu_lib::state::State;
use std::time::{Duration, Instant};

const SEEDS: u64 = 16;
const STEPS: usize = 250;
/// Changes that whoever listens is behind.
const UNREAD: usize = 20;
/// No further seed is begun after that long.
const ENOUGH: Duration = Duration::from_secs(12);

/// Says which seed failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay it with SOZU_MODEL_SEED={}", self.0);
        }
    }
}

/// Runs a test for each seed, or for the one that is asked for.
fn for_seeds(test: impl Fn(u64)) {
    if let Ok(seed) = std::env::var("SOZU_MODEL_SEED") {
        return test(seed.parse().expect("a number"));
    }
    let start = Instant::now();
    for seed in 0..SEEDS {
        let _told = Seed(seed);
        test(seed);
        if start.elapsed() > ENOUGH {
            return;
        }
    }
}

struct Client {
    control: Control,
    open: Option<Open>,
}

/// A proxy, its clients and the model of it.
struct Lab {
    proxy: Proxy,
    clients: Vec<Client>,
    /// It has said `events`, and reads slowly.
    listener: Control,
    /// Changes that it has been told.
    heard: usize,
    model: Model,
    plan: Plan,
    random: Random,
    history: Vec<String>,
}

impl Lab {
    fn new(seed: u64) -> Lab {
        let workers = predict::WORKERS;
        let proxy = Setup::http().top("worker_count", workers).start();
        let model = Model::new(&proxy.steer().dump());
        let mut listener = proxy.steer();
        listener.send("events\n");
        let clients = (0..3).map(|_| Client {
            control: proxy.steer(),
            open: None,
        });
        Lab {
            clients: clients.collect(),
            model,
            plan: Plan::new([free_address(), free_address(), free_address()]),
            random: Random::new(seed),
            history: Vec::new(),
            listener,
            heard: 0,
            proxy,
        }
    }

    fn dice(&mut self, sides: u64) -> u64 {
        self.random.below(sides)
    }

    fn line(&mut self) -> String {
        if self.model.trial && self.dice(3) == 0 {
            return "confirm".into();
        }
        match self.dice(12) {
            0 => "begin".into(),
            1 | 2 => self.commit(),
            3 if self.dice(4) == 0 => "abort".into(),
            4 | 5 => self.plan.other(&mut self.random, &self.model.state),
            _ => self.plan.line(&mut self.random, &self.model.state),
        }
    }

    fn commit(&mut self) -> String {
        match self.dice(8) {
            0 | 1 => "commit confirm=60".into(),
            2 => format!("commit revision={}", self.model.revision),
            3 => format!("commit revision={}", self.model.revision + 1),
            _ => "commit".into(),
        }
    }

    /// One line, or several at once, on one connection.
    fn say(&mut self, who: usize) {
        let count = 1 + self.dice(4) * self.dice(2);
        let lines: Vec<String> = (0..count).map(|_| self.line()).collect();
        let client = &mut self.clients[who];
        client.control.send(lines.join("\n") + "\n");
        for line in lines {
            let wanted = self.model.answer(&mut client.open, &line);
            let reply = client.control.reply();
            self.history.push(format!("{who}> {line} < {}", reply.last));
            let right = self.model.settle(&mut client.open, &wanted, &reply);
            assert!(right, "wanted {wanted:?}\n{}", self.history.join("\n"));
        }
    }

    /// A connection ends, perhaps inside a line; a new one takes its place.
    fn cut(&mut self, who: usize) {
        let line = self.line();
        let half = self.dice(line.len() as u64) as usize;
        let half = &line.as_bytes()[..half];
        self.clients[who].control.send(half);
        let shown = String::from_utf8_lossy(half);
        self.history.push(format!("{who}> {shown} and gone"));
        self.clients[who] = Client {
            control: self.proxy.steer(),
            open: None,
        };
    }

    fn kill(&mut self) {
        let id = self.dice(2) as usize;
        if let Some(worker) = self.proxy.workers().get(id) {
            signal(worker.pid, "KILL");
            self.history.push(format!("worker {id} killed"));
        }
    }

    /// A change under way while a worker is stuck and dies.
    fn kill_meanwhile(&mut self) {
        let workers = self.proxy.workers();
        let Some(worker) = workers.first() else {
            return;
        };
        signal(worker.pid, "STOP");
        let mut lone = self.proxy.steer();
        let line = match self.dice(3) {
            0 => self.plan.other(&mut self.random, &self.model.state),
            _ => self.plan.line(&mut self.random, &self.model.state),
        };
        lone.send(format!("{line}\n"));
        let wanted = self.model.answer(&mut None, &line);
        signal(worker.pid, "KILL");
        let reply = lone.reply();
        self.history.push(format!("dying> {line} < {}", reply.last));
        let right = self.model.settle(&mut None, &wanted, &reply);
        assert!(right, "wanted {wanted:?}\n{}", self.history.join("\n"));
    }

    /// Those that accept, that is: one that was killed may have no successor yet.
    fn workers_agree(&self) {
        let reply = self.proxy.steer().ask("state check");
        let agrees = reply.last.starts_with("ok agrees=true");
        let history = self.history.join("\n");
        assert!(agrees || reply.code() == "failed", "{reply:?}\n{history}");
    }

    /// Who listens is told each change once, in order, until so many are unread.
    fn listen(&mut self, unread: usize) {
        while self.model.changes.len() > self.heard + unread {
            let event = self.listener.line().expect("an event");
            match value(&event, "kind").as_deref() {
                Some("change") => {}
                Some("missed") => panic!("{event}"),
                _ => continue,
            }
            let told = (value(&event, "revision"), value(&event, "command"));
            let (revision, command) = &self.model.changes[self.heard];
            let wanted = (Some(revision.to_string()), Some(command.clone()));
            assert_eq!(told, wanted, "{event}\n{}", self.history.join("\n"));
            self.heard += 1;
        }
    }

    /// The clusters that `status` shows as paused.
    fn paused(control: &mut Control) -> Vec<String> {
        let lines = control.ok("status").data;
        let paused = lines.iter().filter(|line| line.starts_with("paused "));
        paused.filter_map(|line| value(line, "cluster")).collect()
    }

    fn step(&mut self) {
        let who = self.dice(3) as usize;
        match self.dice(40) {
            0 => self.kill(),
            1 => self.kill_meanwhile(),
            2..=4 => self.cut(who),
            _ => self.say(who),
        }
        self.workers_agree();
        self.listen(UNREAD);
        let control = &mut self.proxy.steer();
        let paused = Lab::paused(control);
        assert!(
            self.model.paused.iter().eq(&paused),
            "{paused:?} are paused, wanted {:?}\n{}",
            self.model.paused,
            self.history.join("\n")
        );
        let dump = control.dump();
        assert!(
            dump == self.model.dump(),
            "the state is\n{}\nwanted\n{}\nafter\n{}",
            dump.join("\n"),
            self.model.dump().join("\n"),
            self.history.join("\n")
        );
    }
}

/// Every enabled listener takes connections, every other address refuses them.
fn doors_are_as_the_state_says(lab: &Lab) {
    for address in lab.plan.addresses() {
        let listener = lab.model.state.listener(address);
        let open = std::net::TcpStream::connect(address).is_ok();
        assert_eq!(open, listener.is_some_and(|l| l.enabled), "{address}");
    }
}

#[test]
fn the_proxy_does_as_the_model() {
    for_seeds(|seed| {
        let mut lab = Lab::new(seed);
        for _ in 0..STEPS {
            lab.step();
        }
        lab.listen(0);
        wait_until("both workers", || {
            (lab.proxy.workers().len() == 2).then_some(())
        });
        doors_are_as_the_state_says(&lab);
    });
}

/// Clients that do not wait for each other: whatever the order, and whichever worker
/// dies meanwhile, no command is half done.
#[test]
fn concurrent_editors() {
    let proxy = Setup::http().top("worker_count", 2).start();
    let editors: Vec<_> = (0..4)
        .map(|who| {
            let mut control = proxy.steer();
            std::thread::spawn(move || edit(&mut control, who))
        })
        .collect();
    let mut watcher = proxy.steer();
    let mut kills = (0..).map(|n| n % 10 == 0);
    while editors.iter().any(|editor| !editor.is_finished()) {
        if kills.next() == Some(true) {
            let workers = proxy.workers();
            workers.first().map(|worker| signal(worker.pid, "KILL"));
        }
        for who in 0..4 {
            // Each transaction adds or removes three clusters: never one without the others.
            let mine = format!("cluster add id=e{who}-");
            let dump = watcher.dump();
            let count = dump.iter().filter(|line| line.starts_with(&mine)).count();
            assert_eq!(count % 3, 0, "{dump:?}");
        }
    }
    let done: u64 = editors
        .into_iter()
        .map(|e| e.join().expect("an editor"))
        .sum();
    assert_eq!(watcher.ok("state stats").number("revision"), done);
    wait_until("both workers", || {
        (proxy.workers().len() == 2).then_some(())
    });
    watcher.ok("state check");
}

/// Returns how many transactions were done.
fn edit(control: &mut Control, who: u64) -> u64 {
    let mut random = Random::new(who);
    let (mut there, mut done) = ([false; 3], 0);
    for _ in 0..40 {
        let slot = random.below(3) as usize;
        let verb = if there[slot] { "remove" } else { "add" };
        let line = |n| format!("cluster {verb} id=e{who}-{slot}{n}");
        let lines: Vec<String> = (0..3).map(line).collect();
        match random.below(3) {
            0 => {
                control.ok("begin");
                lines.iter().for_each(|line| drop(control.ok(line)));
                control.ok("abort");
            }
            1 => {
                control.ok("begin");
                lines.iter().for_each(|line| drop(control.ok(line)));
                control.ok("cluster remove id=nobody");
                control.refused("commit", "missing");
            }
            _ => {
                control.transact(&lines);
                there[slot] = !there[slot];
                done += 1;
            }
        }
    }
    done
}

/// What a dump says to a fresh proxy makes it dump the same.
#[test]
fn a_dump_rebuilds_the_state() {
    let (first, second) = (Setup::http().start(), Setup::http().start());
    let (mut from, mut to) = (first.steer(), second.steer());
    to.ok(&format!("listener remove address={}", second.address()));
    to.send("begin\n").reply();
    for seed in 0..25 {
        let mut random = Random::new(seed);
        let mut plan = Plan::new([free_address(), free_address(), free_address()]);
        plan.nothing_is_bound();
        let mut state = State::default();
        let model = Model::new(&[]);
        let mut lines = Vec::new();
        for _ in 0..80 {
            let line = plan.line(&mut random, &state);
            let change = model.change(&state, &line);
            if change.is_ok_and(|change| state.apply(&change).is_ok()) {
                lines.push(line);
            }
        }
        for line in state_removal(&from.dump()).iter().chain(&lines) {
            from.ok(line);
        }
        let dump = from.dump();
        let wanted: Vec<String> = state.dump().map(|change| change.encode()).collect();
        assert_eq!(dump, wanted, "seed {seed}");
        dump.iter().for_each(|line| drop(to.ok(line)));
        to.ok("commit");
        assert_eq!(to.dump(), dump, "seed {seed}");
        to.ok("begin");
        state_removal(&dump)
            .iter()
            .for_each(|line| drop(to.ok(line)));
    }
}

/// The commands that remove what a dump has, last things first.
fn state_removal(dump: &[String]) -> Vec<String> {
    let defaults = defaults();
    let mut state = State::default();
    let mut undo = Vec::new();
    for line in dump {
        if let Ok(Command::Change(change)) = Command::decode(line, &defaults) {
            undo.push(state.apply(&change).expect("a dump applies").encode());
        }
    }
    undo.reverse();
    undo
}

/// Where `explain` says a request goes, it goes.
#[test]
fn explain_is_right() {
    let names = ["c0", "c1", "c2", "c3"];
    let backends: Vec<Backend> = names.iter().map(|name| Backend::named(name)).collect();
    let mut setup = Setup::http();
    for (name, backend) in names.iter().zip(&backends) {
        let line = format!("address = \"{}\"", backend.address());
        setup = setup.cluster(name, &[] as &[&str], &[line]);
    }
    let proxy = setup.start();
    let (mut control, mut client) = (proxy.steer(), proxy.client());
    let mut random = Random::new(7);
    let (mut routed, mut unrouted) = (0, 0);
    for _ in 0..30 {
        for _ in 0..8 {
            let rule = plan::rule(&mut random, proxy.address());
            let name = names[random.below(4) as usize];
            // One that is there already is refused, and one that goes may not be.
            control.ask(&format!("frontend add {rule} cluster={name}"));
            let rule = plan::rule(&mut random, proxy.address());
            control.ask(&format!("frontend remove {rule}"));
        }
        for _ in 0..20 {
            let (method, host, path) = plan::question(&mut random);
            let answer = ask(&mut client, method, &host, path);
            let explained = explain(&mut control, &proxy, method, &host, path);
            assert_eq!(
                explained,
                answer,
                "{method} {host} {path}: {:?}",
                control.dump()
            );
            match explained {
                Some(_) => routed += 1,
                None => unrouted += 1,
            }
        }
    }
    assert!(routed > 100 && unrouted > 30, "{routed} and {unrouted}");
}

/// Who answers; `None`: we do, with 404.
fn ask(client: &mut Peer, method: &str, host: &str, path: &str) -> Option<String> {
    let answer = client.ask(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    match answer.status() {
        200 => Some(answer.text()),
        404 => None,
        status => panic!("{status} to {method} {host} {path}"),
    }
}

fn explain(
    control: &mut Control,
    proxy: &Proxy,
    method: &str,
    host: &str,
    path: &str,
) -> Option<String> {
    let at = proxy.address();
    let line = format!("explain listener={at} hostname={host} path={path} method={method}");
    let reply = control.ask(&line);
    if reply.code() == "missing" {
        return None;
    }
    assert!(reply.is_ok(), "{line}: {reply:?}");
    let frontend = reply
        .data
        .iter()
        .find(|line| line.starts_with("frontend add"));
    let words = frontend.expect("the frontend").rsplit_once("cluster=");
    Some(words.expect("its cluster").1.to_string())
}

/// A request that would not come in is not explained as if it did.
#[test]
fn explain_knows_closed_doors() {
    let backend = Backend::named("here");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let question = format!("explain listener={} hostname=a", proxy.address());
    let candidates = control.ok(&question).data;
    assert!(candidates
        .iter()
        .any(|line| line.contains("chosen=\"yes, by weight\"")));
    for (update, why) in [
        ("weight=0", "no, its weight is 0"),
        ("weight=1 state=drain", "no, it drains"),
        ("state=down", "no, it is down"),
    ] {
        control.ok(&format!("backend update cluster=main id=main-0 {update}"));
        let reply = control.ask(&question);
        assert!(reply.data.join("\n").contains(why), "{reply:?}");
        assert!(reply.last.contains("the answer would be 503"), "{reply:?}");
    }
    control.ok(&format!("listener disable address={}", proxy.address()));
    let reply = control.ask(&question);
    let text = reply.data.join("\n");
    assert!(text.contains("no, the listener is disabled"), "{text}");
    assert!(
        reply.last.contains("the connection would be refused"),
        "{reply:?}"
    );
}
