//! Lines to commands, changes and settings to lines.
//!
//! Owns: the meaning of a line. Never: doing it. Called by main for control
//! clients and the saved state, by workers for what main sends.
//! `Change::encode` and `Command::decode` are inverse, byte for byte.

use super::line::{join, split, Word};
use super::pairs::{fields_of, refused, take_wait};
use super::table::{find, Row, COMMANDS};
use crate::config::fields::{Fault, Fields};
use crate::config::keys::{self, GLOBAL};
use crate::config::object::{self, Words};
use crate::config::Settings;
use crate::proto::question::Question;
use crate::proto::selection::Selection;
use crate::proto::update::Update;
use crate::state::{Change, Code, Refused, Timeouts};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Change(Change),
    /// Some keys of something that is there.
    Update(Update),
    /// A change whose answer waits so many seconds at most, until the backends that it
    /// takes from service have no connection left.
    Wait {
        change: Box<Command>,
        seconds: u32,
    },
    /// Holds the requests for a cluster, so many seconds at most.
    Pause {
        id: String,
        max: u32,
    },
    Resume {
        id: String,
    },
    List(Noun),
    StateDump,
    /// What differs from the configuration file as it was read last.
    StateDiff,
    /// What workers have, against what main has.
    StateCheck,
    StateStats,
    /// The client connections that are there, or their end.
    Connections {
        kill: bool,
        selection: Selection,
    },
    Begin,
    Commit {
        /// Only if this is the revision still.
        revision: Option<u64>,
        /// Undone after so many seconds, unless confirmed.
        confirm: Option<u32>,
    },
    Confirm,
    Abort,
    Reload,
    Events,
    Logging {
        level: String,
    },
    Explain(Question),
    Status,
    Workers,
    Metrics {
        /// Only this one and its backends.
        cluster: Option<String>,
    },
    WorkerRestart {
        id: u32,
    },
    Ping,
    Version,
    Help {
        word: Option<String>,
    },
    Shutdown {
        hard: bool,
        timeout: Option<u32>,
    },
}

/// The kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    Listener,
    Cluster,
    Frontend,
    Backend,
}

impl Command {
    /// It changes nothing, for nobody.
    pub fn only_asks(&self) -> bool {
        match self {
            Command::Change(_)
            | Command::Update(_)
            | Command::Wait { .. }
            | Command::Pause { .. }
            | Command::Resume { .. }
            | Command::Begin
            | Command::Commit { .. }
            | Command::Confirm
            | Command::Abort
            | Command::Reload
            | Command::Logging { .. }
            | Command::WorkerRestart { .. }
            | Command::Connections { kill: true, .. }
            | Command::Shutdown { .. } => false,
            Command::List(_)
            | Command::StateDump
            | Command::StateDiff
            | Command::StateCheck
            | Command::StateStats
            | Command::Connections { kill: false, .. }
            | Command::Events
            | Command::Explain(_)
            | Command::Status
            | Command::Workers
            | Command::Metrics { .. }
            | Command::Ping
            | Command::Version
            | Command::Help { .. } => true,
        }
    }

    /// From a line without its LF; `defaults` are the global time limits.
    pub fn decode(line: &str, defaults: &Timeouts) -> Result<Command, Refused> {
        let words = split(line).map_err(|what| Refused::new(Code::Syntax, what))?;
        let mut bare = Vec::new();
        let mut pairs = Vec::new();
        for word in words {
            match word {
                Word::Bare(word) if pairs.is_empty() => bare.push(word),
                Word::Bare(word) => {
                    let what = format!("{word:?} stands behind a key=value: write key=value last");
                    return Err(Refused::new(Code::Syntax, what));
                }
                Word::Pair { key, value } => pairs.push((key, value)),
            }
        }
        let (row, argument) = row_of(&bare)?;
        if let Some((seconds, pairs)) = take_wait(row, &pairs)? {
            let change = Box::new(Command::of(row, argument, pairs, defaults)?);
            return Ok(Command::Wait { change, seconds });
        }
        Command::of(row, argument, pairs, defaults)
    }

    fn of(
        row: &'static Row,
        argument: Option<String>,
        pairs: Vec<(String, String)>,
        defaults: &Timeouts,
    ) -> Result<Command, Refused> {
        if row.verb == "update" {
            return Update::of(row, pairs).map(Command::Update);
        }
        let fields = fields_of(row.takes(), pairs, &row.words())?;
        let faulty = |fault: Fault| refused(fault, &row.words());
        match object_command(row, fields.clone(), defaults).map_err(faulty)? {
            Some(command) => Ok(command),
            None => build(row, argument, fields).map_err(faulty),
        }
    }
}

impl Change {
    /// A line without its LF.
    pub fn encode(&self) -> String {
        let (noun, verb, words) = match self {
            Change::ListenerAdd(listener) => ("listener", "add", object::listener_words(listener)),
            Change::ListenerUpdate(listener) => {
                ("listener", "update", object::listener_words(listener))
            }
            Change::ClusterUpdate(cluster) => ("cluster", "update", object::cluster_words(cluster)),
            Change::BackendUpdate(backend) => ("backend", "update", object::backend_words(backend)),
            Change::ListenerRemove { address } => {
                ("listener", "remove", vec![object::word("address", address)])
            }
            Change::ClusterAdd(cluster) => ("cluster", "add", object::cluster_words(cluster)),
            Change::ClusterRemove { id } => ("cluster", "remove", vec![object::word("id", id)]),
            Change::FrontendAdd(frontend) => ("frontend", "add", object::frontend_words(frontend)),
            Change::FrontendRemove { identity } => {
                ("frontend", "remove", object::frontend_id_words(identity))
            }
            Change::BackendAdd(backend) => ("backend", "add", object::backend_words(backend)),
            Change::BackendRemove { cluster, id } => {
                let words = vec![object::word("cluster", cluster), object::word("id", id)];
                ("backend", "remove", words)
            }
        };
        line_of(&[noun, verb], words)
    }
}

impl Settings {
    /// A line without its LF, from main to a worker; no command of control clients.
    pub fn encode(&self) -> String {
        line_of(&["settings"], self.words())
    }

    pub fn decode(line: &str) -> Result<Settings, Refused> {
        let words = split(line).map_err(|what| Refused::new(Code::Syntax, what))?;
        let mut words = words.into_iter();
        if words.next() != Some(Word::Bare("settings".into())) {
            return Err(Refused::new(Code::Syntax, "the first word is settings"));
        }
        let mut pairs = Vec::new();
        for word in words {
            match word {
                Word::Pair { key, value } => pairs.push((key, value)),
                Word::Bare(_) => {
                    return Err(Refused::new(Code::Syntax, "settings are key=value words"))
                }
            }
        }
        let fields = fields_of(GLOBAL.iter(), pairs, "settings")?;
        Settings::from(fields).map_err(|fault| refused(fault, "settings"))
    }
}

/// The row that the bare words name, and the argument behind them.
fn row_of(bare: &[String]) -> Result<(&'static Row, Option<String>), Refused> {
    let mut words = bare.iter().map(String::as_str);
    let Some(noun) = words.next() else {
        return Err(Refused::new(Code::Syntax, "no command: try help"));
    };
    let verb = words.next().unwrap_or_default();
    let (row, argument) = match (find(noun, verb), find(noun, "")) {
        (Some(row), _) => (row, words.next()),
        (None, Some(row)) => (row, Some(verb)),
        (None, None) => return Err(unknown_command(noun, verb)),
    };
    if let Some(extra) = words.next() {
        let what = format!("{}: {extra:?} is one word too many", row.words());
        return Err(Refused::new(Code::Syntax, what));
    }
    match (argument, row.argument) {
        (None, _) => Ok((row, None)),
        (Some(given), Some(known)) if given == known || known == "WORD" => {
            Ok((row, Some(given.to_string())))
        }
        (Some(given), _) => {
            let what = format!("{}: {given:?} is not known here", row.words());
            Err(Refused::new(Code::Unknown, what))
        }
    }
}

fn unknown_command(noun: &str, verb: &str) -> Refused {
    let verbs: Vec<&str> = COMMANDS
        .iter()
        .filter(|row| row.noun == noun)
        .map(|row| row.verb)
        .collect();
    let what = if verbs.is_empty() {
        match keys::nearest(noun, COMMANDS.iter().map(|row| row.noun)) {
            Some(near) => format!("{noun:?} is not a command: did you mean {near}?"),
            None => format!("{noun:?} is not a command: try help"),
        }
    } else {
        format!(
            "{noun} {verb:?} is not a command: {noun} takes {}",
            verbs.join(", ")
        )
    };
    Refused::new(Code::Unknown, what)
}

/// The commands on listeners, clusters, frontends and backends.
fn object_command(
    row: &Row,
    mut fields: Fields,
    defaults: &Timeouts,
) -> Result<Option<Command>, Fault> {
    Ok(Some(match (row.noun, row.verb) {
        ("listener", "add") => {
            let listener = object::listener_from(fields, defaults)?;
            Command::Change(Change::ListenerAdd(listener.into()))
        }
        ("listener", "remove") => Command::Change(Change::ListenerRemove {
            address: fields.address("address")?,
        }),
        ("cluster", "add") => {
            Command::Change(Change::ClusterAdd(object::cluster_from(fields)?.into()))
        }
        ("cluster", "remove") => Command::Change(Change::ClusterRemove {
            id: fields.text("id")?.into(),
        }),
        ("frontend", "add") => Command::Change(Change::FrontendAdd(object::frontend_from(fields)?)),
        ("frontend", "remove") => Command::Change(Change::FrontendRemove {
            identity: object::frontend_id_from(fields)?.into(),
        }),
        ("backend", "add") => {
            Command::Change(Change::BackendAdd(object::backend_from(fields)?.into()))
        }
        ("backend", "remove") => Command::Change(Change::BackendRemove {
            cluster: fields.text("cluster")?.into(),
            id: fields.text("id")?.into(),
        }),
        ("listener", "enable" | "disable") => {
            let enabled = (row.verb == "enable").to_string();
            let address = fields.address("address")?.to_string();
            let pairs = vec![("address".into(), address), ("enabled".into(), enabled)];
            Command::Update(Update::new(Noun::Listener, pairs))
        }
        ("listener", _) => Command::List(Noun::Listener),
        ("cluster", "pause") => Command::Pause {
            id: fields.text("id")?,
            max: fields.int("max")?,
        },
        ("cluster", "resume") => Command::Resume {
            id: fields.text("id")?,
        },
        ("cluster", _) => Command::List(Noun::Cluster),
        ("frontend", _) => Command::List(Noun::Frontend),
        ("backend", _) => Command::List(Noun::Backend),
        _ => return Ok(None),
    }))
}

/// All others.
fn build(row: &Row, argument: Option<String>, mut fields: Fields) -> Result<Command, Fault> {
    Ok(match (row.noun, row.verb) {
        ("state", "dump") => Command::StateDump,
        ("state", "diff") => Command::StateDiff,
        ("state", "check") => Command::StateCheck,
        ("state", _) => Command::StateStats,
        ("begin", _) => Command::Begin,
        ("commit", _) => Command::Commit {
            revision: fields.int_or_none("revision").map(u64::from),
            confirm: fields.int_or_none("confirm"),
        },
        ("confirm", _) => Command::Confirm,
        ("reload", _) => Command::Reload,
        ("events", _) => Command::Events,
        ("logging", _) => Command::Logging {
            level: fields.text("level")?,
        },
        ("explain", _) => Command::Explain(Question::of(fields)?),
        ("connections", "kill") => Command::Connections {
            kill: true,
            selection: Selection::some_of(fields)?,
        },
        ("connections", _) => Command::Connections {
            kill: false,
            selection: Selection::of(fields)?,
        },
        ("abort", _) => Command::Abort,
        ("status", _) => Command::Status,
        ("workers", _) => Command::Workers,
        ("metrics", _) => Command::Metrics {
            cluster: fields.text_or_none("cluster"),
        },
        ("worker", _) => Command::WorkerRestart {
            id: fields.int("id")?,
        },
        ("ping", _) => Command::Ping,
        ("version", _) => Command::Version,
        ("shutdown", _) => Command::Shutdown {
            hard: argument.is_some(),
            timeout: fields.int_or_none("timeout"),
        },
        _ => Command::Help { word: argument },
    })
}

pub(super) fn line_of(bare: &[&str], pairs: Words) -> String {
    let bare = bare.iter().map(|word| Word::Bare(word.to_string()));
    let pairs = pairs
        .into_iter()
        .map(|(key, value)| Word::Pair { key, value });
    join(&bare.chain(pairs).collect::<Vec<Word>>())
}

#[cfg(test)]
mod tests {
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
            ("state dump", Command::StateDump),
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
        let long =
            "frontend add listener=127.0.0.1:80 hostname=* path=/ path_type=prefix cluster=web";
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
            "backend add cluster=a id=b address=c:80",
            "backend add: address: \"c:80\" has a name where this version needs an IP address",
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
}
