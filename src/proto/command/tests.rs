//! Lines and what they mean, in both directions.

use super::*;
use crate::state::sample::Random;

const DEFAULTS: Timeouts = Timeouts {
    front: 11,
    back: 12,
    connect: 13,
    request: 14,
    keepalive: 15,
    tunnel: 16,
};

fn decode(line: &str) -> Result<Command, Refused> {
    Command::decode(line, &DEFAULTS)
}

#[test]
fn changes_round_trip() {
    for seed in 0..500 {
        let change = Random::new(seed).change();
        let line = change.encode();
        let decoded = match decode(&line) {
            Ok(Command::Update(update)) => update.whole(&DEFAULTS),
            Ok(Command::Change(change)) => Ok(change),
            other => panic!("{line}: {other:?}"),
        };
        assert_eq!(decoded, Ok(change), "{line}");
    }
}

#[test]
fn what_is_encoded_stands_in_the_table() {
    for seed in 0..200 {
        let line = Random::new(seed).change().encode();
        let words = split(&line).expect("an own line");
        let [Word::Bare(noun), Word::Bare(verb), ..] = words.as_slice() else {
            panic!("{line}");
        };
        let row = find(noun, verb).expect("an own command");
        let mut keys = row.takes();
        for word in &words[2..] {
            let Word::Pair { key, .. } = word else {
                panic!("{line}");
            };
            let canonical = keys.any(|known| known.name == key);
            assert!(canonical || key.starts_with("answer_"), "{key} in {line}");
        }
    }
}

#[test]
fn commands_are_decoded() {
    for (line, command) in [
        ("ping", Command::Ping),
        ("version", Command::Version),
        ("status", Command::Status),
        ("begin", Command::Begin),
        (
            "commit",
            Command::Commit {
                revision: None,
                confirm: None,
            },
        ),
        (
            "commit revision=7 confirm=60",
            Command::Commit {
                revision: Some(7),
                confirm: Some(60),
            },
        ),
        ("abort", Command::Abort),
        ("state dump", Command::StateDump { secrets: false }),
        (
            "shutdown",
            Command::Shutdown {
                hard: false,
                timeout: None,
            },
        ),
        (
            "shutdown hard",
            Command::Shutdown {
                hard: true,
                timeout: None,
            },
        ),
        ("help", Command::Help { word: None }),
        ("backend list", Command::List(Noun::Backend)),
        ("listener list", Command::List(Noun::Listener)),
    ] {
        assert_eq!(decode(line), Ok(command), "{line}");
    }
    let word = Some("listener".to_string());
    assert_eq!(decode("help listener"), Ok(Command::Help { word }));
}

#[test]
fn a_change_that_is_waited_for() {
    for change in [
        "backend remove cluster=a id=b",
        "backend update cluster=a id=b state=drain",
    ] {
        let waited = Command::Wait {
            change: Box::new(decode(change).expect("a change")),
            seconds: 30,
        };
        assert_eq!(decode(&format!("{change} wait=30")), Ok(waited));
        assert!(!decode(&format!("{change} wait=30")).is_ok_and(|c| c.only_asks()));
    }
    let pause = Command::Pause {
        id: "a".into(),
        max: 3600,
    };
    assert_eq!(decode("cluster pause id=a max=3600"), Ok(pause));
}

#[test]
fn defaults_are_filled_in() {
    let Ok(Command::Change(Change::ListenerAdd(listener))) =
        decode("listener add address=127.0.0.1:80 protocol=http connect_timeout=5")
    else {
        panic!("a listener");
    };
    assert_eq!(
        listener.timeouts,
        Timeouts {
            connect: 5,
            ..DEFAULTS
        }
    );
    let short = decode("frontend add address=127.0.0.1:80 cluster=web");
    let long = "frontend add listener=127.0.0.1:80 hostname=* path=/ path_type=prefix cluster=web";
    assert_eq!(short, decode(long));
    assert!(matches!(short, Ok(Command::Change(change)) if change.encode() == long));
}

/// A line and what is said about it.
const BAD: &[(&str, &str)] = &[
    ("", "no command: try help"),
    ("pong", "\"pong\" is not a command: did you mean ping?"),
    (
        "backend ad",
        "backend \"ad\" is not a command: backend takes add, remove, update, list",
    ),
    ("ping now", "ping: \"now\" is not known here"),
    (
        "shutdown softly",
        "shutdown [hard]: \"softly\" is not known here",
    ),
    ("state dump all", "state dump: \"all\" is not known here"),
    (
        "ping a=b c",
        "\"c\" stands behind a key=value: write key=value last",
    ),
    (
        "cluster remove id=a protocol=http",
        "cluster remove: \"protocol\" is not a key of it: see help",
    ),
    ("cluster add id=a id=b", "cluster add: id: is given twice"),
    ("cluster add", "cluster add: id: is missing"),
    (
        "cluster add idd=a",
        "cluster add: \"idd\" is not a key of it: did you mean id?",
    ),
    (
        "cluster add id=a answer_404=x answer_404=y",
        "cluster add: answers: 404 is given twice",
    ),
    (
        "cluster add id=a answer_200=x",
        "cluster add: \"answer_200\" is not a key of it: see help",
    ),
    (
        "backend add cluster=a id=b address=c",
        "backend add: address: \"c\" is not an address like 127.0.0.1:8080, [::1]:8080, app.internal:8080 or unix:/run/app.sock",
    ),
    (
        "backend add cluster=a id=b address=1.2.3.4:5 weight=257",
        "backend add: weight: 257 is not between 0 and 256",
    ),
    (
        "backend add cluster=a id=b address=1.2.3.4:5 weight=-1",
        "backend add: weight: \"-1\" is not a whole number",
    ),
];

#[test]
fn bad_commands_are_refused() {
    for (line, what) in BAD {
        assert_eq!(decode(line).expect_err(line).what, *what, "{line}");
    }
}

#[test]
fn an_error_does_not_repeat_a_long_line() {
    let line = format!("backend add cluster={}", "x".repeat(1_000_000));
    assert!(decode(&line).expect_err("a long name").what.len() < 2000);
    let line = "\u{1}".repeat(1_000_000);
    assert!(decode(&line).expect_err("junk").what.len() < 2000);
    let line = format!("\"{}\"", "x".repeat(1_000_000));
    assert!(decode(&line).expect_err("a long word").what.len() < 2000);
}

#[test]
fn settings_round_trip() {
    for line in [
        "settings",
        "settings saved_state=\"/a b\" automatic_state_save=true log_target=/log",
        "settings max_connections=10 max_buffers=20 log_access_target=none log_target=stderr",
    ] {
        let settings = Settings::decode(line).expect(line);
        assert_eq!(Settings::decode(&settings.encode()), Ok(settings));
    }
    for line in ["", "settings x", "a=b settings", "settings a=b", "ping"] {
        assert!(Settings::decode(line).is_err(), "{line}");
    }
}
