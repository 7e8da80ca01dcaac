//! The model: what each line has to answer, and what the proxy is then.

use super::common::Reply;
use sozu_lib::config::Settings;
use sozu_lib::proto::command::Command;
use sozu_lib::proto::line::{split, Word};
use sozu_lib::state::{Change, Refused, State, Timeouts};
use std::collections::BTreeSet;

/// Places that the proxy has.
pub const WORKERS: u32 = 2;

pub fn defaults() -> Timeouts {
    Settings::decode("settings").expect("defaults").timeouts
}

/// What a line says of a key.
pub fn value(line: &str, wanted: &str) -> Option<String> {
    let words = split(line).expect("a line");
    words.into_iter().find_map(|word| match word {
        Word::Pair { key, value } if key == wanted => Some(value),
        _ => None,
    })
}

/// What one connection has asked for since its `begin`.
#[derive(Default)]
pub struct Open {
    lines: Vec<String>,
    /// The code of the first line that was refused.
    spoilt: Option<&'static str>,
}

/// What the reply has to be.
#[derive(Debug)]
pub enum Wanted {
    /// This code, and this on the last line.
    Exactly(&'static str, String),
    /// One of these: it depends on how far the workers are, or on how it routes.
    OneOf(&'static [&'static str]),
    /// The commands that lead from the file to the state.
    Difference,
}

fn ok() -> Wanted {
    Wanted::Exactly("ok", String::new())
}

fn refused(code: &'static str) -> Wanted {
    Wanted::Exactly(code, String::new())
}

/// What we think the proxy is.
pub struct Model {
    pub state: State,
    /// What the configuration file says.
    filed: State,
    defaults: Timeouts,
    pub revision: u64,
    /// A commit waits for `confirm`.
    pub trial: bool,
    pub paused: BTreeSet<String>,
    /// Every change so far, and the revision that it was part of.
    pub changes: Vec<(u64, String)>,
}

impl Model {
    /// Of a proxy that has just started: its dump.
    pub fn new(dump: &[String]) -> Model {
        let mut model = Model {
            state: State::default(),
            filed: State::default(),
            defaults: defaults(),
            revision: 0,
            trial: false,
            paused: BTreeSet::new(),
            changes: Vec::new(),
        };
        model.filed = model.on(&State::default(), dump);
        model.state = model.filed.clone();
        model
    }

    /// A state with these changes.
    fn on(&self, state: &State, lines: &[String]) -> State {
        let mut state = state.clone();
        for line in lines {
            let change = self.change(&state, line).expect("a change");
            state.apply(&change).expect("it applies");
        }
        state
    }

    /// A change that the line is, as things are now.
    pub fn change(&self, state: &State, line: &str) -> Result<Change, Refused> {
        let command = match Command::decode(line, &self.defaults)? {
            Command::Wait { change, .. } => *change,
            command => command,
        };
        match command {
            Command::Change(change) => Ok(change),
            Command::Update(update) => update.on(state, &self.defaults),
            other => panic!("{line:?} is no change: {other:?}"),
        }
    }

    fn transact(&mut self, lines: &[String], confirm: bool) -> Wanted {
        if self.trial {
            return refused("in_use");
        }
        let mut state = self.state.clone();
        let mut changes = Vec::new();
        for (place, line) in lines.iter().enumerate() {
            let change = self.change(&state, line);
            let applied = change.and_then(|change| Ok((state.apply(&change)?, change)));
            match applied {
                Ok((_, change)) => changes.push(change),
                Err(refused) => {
                    let place = match lines.len() {
                        1 => String::new(),
                        n => format!("change {} of {n}", place + 1),
                    };
                    return Wanted::Exactly(refused.code.name(), place);
                }
            }
        }
        self.state = state;
        self.revision += 1;
        self.trial = confirm;
        for change in changes {
            self.changes.push((self.revision, change.encode()));
            if let Change::ClusterRemove { id } = change {
                if self.state.cluster(&id).is_none() {
                    self.paused.remove(&*id);
                }
            }
        }
        let (revision, changes) = (self.revision, lines.len());
        Wanted::Exactly("ok", format!("revision={revision} changes={changes}"))
    }

    /// What a line on a connection answers.
    pub fn answer(&mut self, open: &mut Option<Open>, line: &str) -> Wanted {
        let wanted = match Command::decode(line, &self.defaults) {
            Ok(command) => self.perform(command, open, line),
            Err(refused) => Wanted::Exactly(refused.code.name(), String::new()),
        };
        if let Wanted::Exactly(code, _) = &wanted {
            spoil(open, code);
        }
        wanted
    }

    fn perform(&mut self, command: Command, open: &mut Option<Open>, line: &str) -> Wanted {
        let revision = format!("revision={}", self.revision);
        match command {
            Command::Begin if open.is_some() => refused("in_use"),
            Command::Begin => {
                *open = Some(Open::default());
                Wanted::Exactly("ok", revision)
            }
            Command::Abort => match open.take() {
                Some(all) => Wanted::Exactly("ok", format!("forgotten={}", all.lines.len())),
                None => refused("missing"),
            },
            Command::Commit {
                revision: wanted,
                confirm,
            } => match open.take() {
                None => refused("missing"),
                Some(Open {
                    spoilt: Some(code), ..
                }) => refused(code),
                Some(_) if wanted.is_some_and(|n| n != self.revision) => refused("mismatch"),
                Some(all) => self.transact(&all.lines, confirm.is_some()),
            },
            Command::Confirm => match std::mem::take(&mut self.trial) {
                true => Wanted::Exactly("ok", revision),
                false => refused("missing"),
            },
            Command::Change(_) | Command::Update(_) | Command::Wait { .. } => match open {
                None => self.transact(&[line.to_string()], false),
                Some(Open {
                    spoilt: Some(code), ..
                }) => refused(code),
                Some(all) => {
                    all.lines.push(line.to_string());
                    ok()
                }
            },
            other => self.perform_other(other, open.is_some()),
        }
    }

    /// What does not touch the state.
    fn perform_other(&mut self, command: Command, in_transaction: bool) -> Wanted {
        match command {
            Command::Reload if self.trial => refused("in_use"),
            Command::Reload => {
                // The file is as it was, so what was done at runtime is all there again.
                self.revision += 1;
                Wanted::Exactly("ok", format!("revision={} changes=0", self.revision))
            }
            Command::Pause { .. } | Command::Resume { .. } if in_transaction => refused("in_use"),
            Command::Pause { id, .. } | Command::Resume { id }
                if self.state.cluster(&id).is_none() =>
            {
                refused("missing")
            }
            Command::Pause { id, .. } => {
                self.paused.insert(id);
                ok()
            }
            Command::Resume { id } => match self.paused.remove(&id) {
                true => ok(),
                false => refused("missing"),
            },
            Command::WorkerRestart { id } if id >= WORKERS => refused("missing"),
            Command::WorkerRestart { .. } => Wanted::OneOf(&["ok", "in_use", "failed"]),
            Command::Explain(_) => Wanted::OneOf(&["ok", "missing", "mismatch", "invalid"]),
            Command::StateDiff => Wanted::Difference,
            Command::Connections { kill: true, .. } => {
                Wanted::Exactly("ok", "killed=0".to_string())
            }
            Command::Metrics { cluster: Some(id) } if self.state.cluster(&id).is_none() => {
                refused("missing")
            }
            _ => ok(),
        }
    }

    /// Whether that is what had to come.
    pub fn settle(&self, open: &mut Option<Open>, wanted: &Wanted, reply: &Reply) -> bool {
        match wanted {
            Wanted::Exactly(code, says) => reply.code() == *code && reply.last.contains(says),
            Wanted::OneOf(codes) => {
                let code = codes.iter().find(|code| **code == reply.code());
                code.inspect(|code| spoil(open, code)).is_some()
            }
            Wanted::Difference => {
                let state = self.on(&self.filed, &reply.data);
                reply.is_ok() && lines_of(&state) == self.dump()
            }
        }
    }

    pub fn dump(&self) -> Vec<String> {
        lines_of(&self.state)
    }
}

fn lines_of(state: &State) -> Vec<String> {
    state.dump().map(|change| change.encode()).collect()
}

/// A line that is refused, whatever it is, spoils the transaction that is open.
fn spoil(open: &mut Option<Open>, code: &'static str) {
    if let Some(all) = open.as_mut().filter(|_| code != "ok") {
        all.spoilt.get_or_insert(code);
    }
}
