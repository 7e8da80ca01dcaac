use super::*;
use crate::net::ledger::Ledger;
use crate::proto::command::Command;
use crate::proto::reply;
use crate::proto::update::Step;
use crate::state::sample::Random;
use crate::state::{Code, Refused};
use crate::version;

fn counts() -> Counts {
    Counts {
        signed: 1,
        refused: 2,
        key_deaths: 3,
        violations: 4,
        revived: 6,
        pages: 7,
        upgrades: 5,
    }
}

fn relay() -> RelayNote {
    RelayNote {
        number: 1,
        fd: 90,
        rest: b"half a li".to_vec(),
    }
}

/// Of every backend that its checks pass, or fail, and who leaves it alone.
fn healths(state: &State) -> Healths {
    let mut healths = Healths::default();
    for (number, backend) in state.backends().enumerate() {
        for more in [
            "since_ms=5",
            "place=3 since_ms=6 down=\"it \\\"died\\\"\"",
            "down=x since_ms=7",
        ] {
            let mut name = vec![("cluster", backend.cluster.to_string())];
            name.push(("id", backend.id.to_string()));
            let line = format!(
                "{} {more}",
                reply::data("optional health", &name).trim_end()
            );
            let mut record = Record::parse(&line).expect("a record");
            healths.take(&mut record, state).expect("a backend");
            if number % 2 == 0 {
                break;
            }
        }
    }
    healths
}

/// Something of everything.
fn sample(seed: u64) -> Handover {
    let settings = Settings::decode("settings worker_count=2").expect("settings");
    let mut random = Random::new(seed);
    let filed = random.state(40);
    let mut state = filed.clone();
    random.disturb(&mut state, 10);
    let ledger = Ledger::create().expect("shared memory");
    let mut roster = Roster::default();
    for change in filed.dump().chain(filed.diff(&state)) {
        roster.follow(&change, &ledger);
    }
    let undo = state.diff(&filed).into_iter().map(Step::Do).collect();
    let enabled = state.listeners().filter(|listener| listener.enabled);
    let sockets = (100..).zip(enabled).map(|(fd, one)| (one.address, fd));
    let mut expiry = Expiry::default();
    expiry.told.insert("ab".into(), 7);
    expiry.due_ms = 12;
    Handover {
        from: "0.0.9".into(),
        file: "/etc/so zu.toml".into(),
        filed_log_level: "info".into(),
        started_ms: 5,
        revision: 17,
        last_order: 4,
        task: task(),
        descriptors: Descriptors {
            control: 3,
            board: 4,
            ledger: 5,
            log: 6,
            access: Some(7),
            layout: ["1x2".into(), "3".into()],
        },
        sockets: sockets.collect(),
        tickets: Tickets::new(1).expect("randomness"),
        roster,
        places: vec![
            PlaceNote::default(),
            PlaceNote {
                due_ms: Some(8),
                failures: 2,
                restarts: 3,
            },
        ],
        workers: workers(),
        clients: clients(&settings),
        pauses: vec![pause()],
        waits: vec![wait()],
        rolls: vec![roll()],
        trial: Some(Trial {
            undo,
            until_ms: 1000,
            seconds: 9,
        }),
        expiry,
        keys: [(78, None), (79, Some(91))]
            .map(|(pid, page)| KeysNote { pid, page })
            .into(),
        counts: counts(),
        relays: vec![relay()],
        healths: healths(&state),
        saving: Saving {
            due_ms: Some(4),
            rests_until_ms: 5,
        },
        settings,
        filed,
        state,
    }
}

fn task() -> Task {
    Task {
        program: "/usr/bin/sozu".into(),
        who: "uid 0 pid 5".into(),
        client: Some(51),
        begun_ms: 99,
        losses: Losses::from_numbers(&(1..17).collect::<Vec<u64>>()),
    }
}

fn pause() -> PauseNote {
    PauseNote {
        cluster: "a b".into(),
        until_ms: 77,
        waiting: vec![(11, 3), (12, 0)],
    }
}

fn wait() -> WaitNote {
    WaitNote {
        client: 51,
        order: 4,
        revision: 16,
        changes: 2,
        until_ms: 55,
        left: vec![(11, None), (12, Some(4))],
    }
}

fn roll() -> RollNote {
    RollNote {
        client: 52,
        who: "uid 1 pid 2".into(),
        command: "connections kill cluster=a".into(),
        kill: true,
        from: 9,
        killed: 8,
        at: Some(11),
        left: vec![12],
    }
}

fn workers() -> Vec<WorkerNote> {
    let note = |pid, row, retires_ms, partial: &[u8]| WorkerNote {
        pid,
        id: 1,
        heirs: 0,
        row,
        started_ms: 6,
        retires_ms,
        channel: 20 + row as RawFd,
        partial: partial.to_vec(),
        closed: retires_ms.is_some(),
        handle: retires_ms.map(|_| 40),
    };
    vec![
        note(11, 0, None, b"done revi\xff"),
        note(12, 1, Some(5), b""),
    ]
}

fn clients(settings: &Settings) -> Vec<ClientNote> {
    let step = |line: &str| match Command::decode(line, &settings.timeouts) {
        Ok(Command::Change(change)) => Step::Do(change),
        Ok(Command::Update(update)) => Step::Update(update),
        other => panic!("{other:?}"),
    };
    let note = |fd, role, transaction| ClientNote {
        fd,
        who: "uid 3 pid 4".into(),
        role,
        uid: 3,
        listens: fd == 51,
        ended: fd == 52,
        heard_ms: 7,
        missed: 1,
        partial: b"statu\xc3".to_vec(),
        skipping: fd == 52,
        unread: vec![b"\xa9 half a letter\n".to_vec(), vec![b'x'; 200_000]],
        transaction,
    };
    let open = Transaction {
        steps: vec![
            step("cluster add id=new"),
            step("backend update cluster=a id=b weight=5 unset=state"),
        ],
        bytes: 44,
        wait: Some(3),
        spoilt: Some(Refused::new(Code::Syntax, "a \"quoted\" word")),
    };
    vec![
        note(51, Role::Admin, Some(open)),
        note(52, Role::Viewer, None),
    ]
}

fn text(seed: u64) -> String {
    sample(seed).encode()
}

fn wrong(text: &str) -> String {
    match Handover::decode(text.as_bytes()) {
        Ok(_) => panic!("taken:\n{text}"),
        Err(what) => what,
    }
}

#[test]
fn what_is_written_is_read() {
    for seed in 0..50 {
        let wanted = sample(seed);
        let text = wanted.encode();
        let read = Handover::decode(text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(read.state, wanted.state);
        assert_eq!(read.filed, wanted.filed);
        assert_eq!(read.settings, wanted.settings);
        assert_eq!((&read.task, &read.waits), (&wanted.task, &wanted.waits));
        assert_eq!(
            (&read.workers, &read.rolls),
            (&wanted.workers, &wanted.rolls)
        );
        // Long pieces are cut, and nothing else.
        let unread = |all: &Handover| all.clients.iter().map(|c| c.unread.concat()).collect();
        let [a, b]: [Vec<Vec<u8>>; 2] = [&read, &wanted].map(unread);
        assert_eq!(a, b);
        assert_eq!(read.encode(), text, "seed {seed}");
    }
}

#[test]
fn the_version_before_and_the_next_one_are_understood() {
    let own = version::handover();
    let text = text(1);
    let of = |version: u32| {
        let first = format!("handover version={own} ");
        text.replacen(&first, &format!("handover version={version} "), 1)
    };
    for version in [own.saturating_sub(1), own, own + 1] {
        assert!(Handover::decode(of(version).as_bytes()).is_ok());
    }
    let what = wrong(&of(own + 2));
    assert!(what.contains(&format!("has version {}", own + 2)), "{what}");
    assert!(what.contains("by a version between"), "{what}");
}

#[test]
fn what_is_fleeting_makes_no_other_text() {
    let text = sample(3).encode();
    let other = |change: fn(&mut Handover)| {
        let mut other = Handover::decode(text.as_bytes()).expect("a hand-over");
        change(&mut other);
        other.encode()
    };
    let fleeting = other(|it| {
        it.saving.due_ms = None;
        it.counts.signed += 1;
        it.relays[0].rest.clear();
        it.pauses[0].waiting.clear();
        it.clients[0].missed += 1;
        it.clients[0].unread.push(b"more".to_vec());
    });
    assert!(fleeting != text && is_alike(&fleeting, &text));
    assert!(!is_alike(&other(|it| it.revision += 1), &text));
    assert!(!is_alike(&other(|it| it.workers[0].row = 9), &text));
    let cut = &text[..text.len() - 4];
    assert!(!is_alike(cut, &text));
}

#[test]
fn what_is_optional_may_be_missing_or_unknown() {
    let text = text(2);
    let some: Vec<&str> = text
        .lines()
        .filter(|l| !l.starts_with("optional"))
        .collect();
    let less = Handover::decode((some.join("\n") + "\n").as_bytes()).expect("a default");
    assert_eq!((less.expiry.due_ms, less.saving.rests_until_ms), (0, 0));
    assert!(less.keys.is_empty());
    assert_eq!(less.counts, Counts::default());
    let more = text.replace(
        "\nend\n",
        "\noptional moon phase=3\noptional expiry due_ms=1 x=y\nend\n",
    );
    assert_eq!(
        Handover::decode(more.as_bytes())
            .expect("more")
            .expiry
            .due_ms,
        1
    );
    for (line, why) in [
        ("moon phase=3", "\"moon\" is not known"),
        (
            "place failures=0 restarts=0 colour=red",
            "place: \"colour\" is not known",
        ),
        ("ping", "\"ping\" is not known"),
        ("status", "\"status\" is not known"),
        ("undo status", "it is no change"),
        ("cluster list", "it is no change"),
        (
            "worker pid=11 id=0 heirs=0 row=3 started_ms=0 channel=90",
            "worker 11",
        ),
        (
            "client fd=3 who=x uid=0 role=admin heard_ms=0 missed=0",
            "descriptor 3",
        ),
        (
            "client fd=300 who=x uid=0 role=king heard_ms=0 missed=0",
            "role",
        ),
        (
            "roll client=51 who=x command=status from=0 killed=0",
            "no connections",
        ),
        ("row index=999999 cluster=a", "not so many"),
        ("end", "behind the end"),
    ] {
        let what = wrong(&text.replace("\nend\n", &format!("\n{line}\nend\n")));
        assert!(what.contains(why), "{line}: {what}");
    }
}

/// None of it panics, and what is not whole is not taken.
#[test]
fn what_is_broken_is_refused_with_a_sentence() {
    let mut whole = sample(3);
    // Short, so that many places of it can be tried.
    whole
        .clients
        .iter_mut()
        .for_each(|client| client.unread.truncate(1));
    let text = whole.encode();
    let bytes = text.as_bytes();
    let mut random = Random::new(5);
    let ends = text.match_indices('\n').map(|(at, _)| at);
    let cuts = (0..1000).map(|_| random.below(bytes.len() as u64 - 1) as usize);
    let whole_lines = ends.filter(|at| *at + 1 < bytes.len());
    for end in whole_lines.chain(cuts.collect::<Vec<_>>()) {
        let what = Handover::decode(&bytes[..end]).err();
        assert!(what.is_some_and(|what| !what.is_empty()), "cut at {end}");
    }
    let lines: Vec<&str> = text.lines().collect();
    for leave in 0..lines.len() {
        let mut some = lines.clone();
        some.remove(leave);
        let _ = Handover::decode(some.join("\n").as_bytes());
        let mut twice = lines.clone();
        twice.insert(leave, lines[leave]);
        let _ = Handover::decode(twice.join("\n").as_bytes());
    }
    for _ in 0..1000 {
        let mut bytes = bytes.to_vec();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] = random.below(256) as u8;
        let _ = Handover::decode(&bytes);
    }
}
