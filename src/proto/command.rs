//! Lines to commands, changes and settings to lines.
//!
//! Owns: the meaning of a line. Never: doing it. Called by main for control
//! clients and the saved state, by workers for what main sends.
//! `Change::encode` and `Command::decode` are inverse, byte for byte.

use super::line::{join, split, Word};
use super::pairs::{fields_of, refused, take_wait};
use super::table::{find, Row, COMMANDS};
use crate::config::certificate::{certificate_from, certificate_words, secret_words};
use crate::config::fields::{Fault, Fields};
use crate::config::keys::{self, GLOBAL};
use crate::config::object::{self, Words};
use crate::config::Settings;
use crate::proto::question::Question;
use crate::proto::selection::Selection;
use crate::proto::update::{Replace, Update};
use crate::state::{Change, Code, Refused, Timeouts};
use std::net::SocketAddr;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Change(Change),
    /// Some keys of something that is there.
    Update(Update),
    /// A certificate in the place of another one, the default if that was it.
    Replace(Replace),
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
    /// What names stand for.
    Names,
    NameRefresh {
        /// Only this one.
        name: Option<String>,
    },
    /// What there is to know of the certificates, of one listener or of all.
    Certificates {
        listener: Option<SocketAddr>,
    },
    StateDump {
        /// With the keys of certificates.
        secrets: bool,
    },
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
    /// What the kernel says of their sandbox.
    Sandbox,
    Metrics {
        /// Only this one and its backends.
        cluster: Option<String>,
    },
    WorkerRestart {
        id: u32,
    },
    /// Another program in the place of this one.
    Upgrade {
        /// The file that this one was started from, if it is not given.
        binary: Option<String>,
        /// So many seconds one new worker is compared with the old ones.
        canary: Option<u32>,
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
            | Command::Replace(_)
            | Command::StateDump { secrets: true }
            | Command::Wait { .. }
            | Command::Pause { .. }
            | Command::Resume { .. }
            | Command::NameRefresh { .. }
            | Command::Begin
            | Command::Commit { .. }
            | Command::Confirm
            | Command::Abort
            | Command::Reload
            | Command::Logging { .. }
            | Command::WorkerRestart { .. }
            | Command::Upgrade { .. }
            | Command::Connections { kill: true, .. }
            | Command::Shutdown { .. } => false,
            Command::List(_)
            | Command::Names
            | Command::Certificates { .. }
            | Command::StateDump { secrets: false }
            | Command::StateDiff
            | Command::StateCheck
            | Command::StateStats
            | Command::Connections { kill: false, .. }
            | Command::Events
            | Command::Explain(_)
            | Command::Status
            | Command::Workers
            | Command::Sandbox
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
                    let word = shown(&word);
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
    /// A line without its LF. Keys of certificates are not in it.
    pub fn encode(&self) -> String {
        self.line(false)
    }

    /// With the keys of certificates: for workers, and for files that nobody else reads.
    pub fn encode_with_secrets(&self) -> String {
        self.line(true)
    }

    /// For the log and who listens: of a certificate what one knows it by.
    pub fn brief(&self) -> String {
        let (verb, certificate) = match self {
            Change::CertificateAdd(certificate) => ("add", certificate),
            Change::CertificateReplace { by, .. } => ("replace", by),
            _ => return self.encode(),
        };
        let mut words = vec![object::word("listener", certificate.listener)];
        if let Change::CertificateReplace { fingerprint, .. } = self {
            words.push(object::word("fingerprint", fingerprint));
        }
        words.push(object::word("new", certificate.fingerprint()));
        words.push(object::word("names", certificate.names_text()));
        words.push(object::word("default", certificate.default));
        line_of(&["certificate", verb], words)
    }

    fn line(&self, secrets: bool) -> String {
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
            Change::CertificateAdd(certificate) => {
                ("certificate", "add", certificate_words(certificate))
            }
            Change::CertificateReplace { fingerprint, by } => {
                let mut words = certificate_words(by);
                words.push(object::word("fingerprint", fingerprint));
                ("certificate", "replace", words)
            }
            Change::CertificateRemove {
                listener,
                fingerprint,
            } => {
                let words = vec![
                    object::word("listener", listener),
                    object::word("fingerprint", fingerprint),
                ];
                ("certificate", "remove", words)
            }
        };
        let mut words = words;
        if secrets {
            words.extend(secret_words(self));
        }
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
        let extra = shown(extra);
        let what = format!("{}: {extra:?} is one word too many", row.words());
        return Err(Refused::new(Code::Syntax, what));
    }
    match (argument, row.argument) {
        (None, _) => Ok((row, None)),
        (Some(given), Some(known)) if given == known || known == "WORD" => {
            Ok((row, Some(given.to_string())))
        }
        (Some(given), _) => {
            let given = shown(given);
            let what = format!("{}: {given:?} is not known here", row.words());
            Err(Refused::new(Code::Unknown, what))
        }
    }
}

/// The start of a word: a line of a key, sent by mistake, is not repeated.
fn shown(word: &str) -> String {
    match word.chars().nth(SHOWN_CHARS) {
        Some(_) => word.chars().take(SHOWN_CHARS / 2).chain(['…']).collect(),
        None => word.to_string(),
    }
}

/// Longer words are no words of ours.
const SHOWN_CHARS: usize = 24;

fn unknown_command(noun: &str, verb: &str) -> Refused {
    let (noun, verb) = (&*shown(noun), &*shown(verb));
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

/// The commands on objects.
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
        ("certificate", verb) => certificate_command(verb, fields)?,
        _ => return Ok(None),
    }))
}

fn certificate_command(verb: &str, mut fields: Fields) -> Result<Command, Fault> {
    Ok(match verb {
        "add" => Command::Change(Change::CertificateAdd(certificate_from(fields)?.into())),
        "remove" => Command::Change(Change::CertificateRemove {
            listener: fields.address("listener")?,
            fingerprint: fields.text("fingerprint")?.into(),
        }),
        "replace" => {
            let fingerprint = fields.text("fingerprint")?.into();
            let is_told = fields.contains("default");
            let by = certificate_from(fields)?.into();
            match is_told {
                true => Command::Change(Change::CertificateReplace { fingerprint, by }),
                false => Command::Replace(Replace { fingerprint, by }),
            }
        }
        _ => Command::Certificates {
            listener: fields.address("listener").ok(),
        },
    })
}

/// All others.
fn build(row: &Row, argument: Option<String>, mut fields: Fields) -> Result<Command, Fault> {
    Ok(match (row.noun, row.verb) {
        ("name", "refresh") => Command::NameRefresh {
            name: fields.host_or_none("name").map(|name| name.to_string()),
        },
        ("name", _) => Command::Names,
        ("state", "dump") => Command::StateDump {
            secrets: fields.bool_or("secrets", false),
        },
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
        ("sandbox", _) => Command::Sandbox,
        ("metrics", _) => Command::Metrics {
            cluster: fields.text_or_none("cluster"),
        },
        ("worker", _) => Command::WorkerRestart {
            id: fields.int("id")?,
        },
        ("upgrade", _) => Command::Upgrade {
            binary: fields.text_or_none("binary"),
            canary: fields.int_or_none("canary"),
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
mod tests;
