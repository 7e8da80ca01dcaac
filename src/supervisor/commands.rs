//! What each command does.

use crate::limits::{LOGGED_CHARS_MAX, TRANSACTION_CHANGES_MAX};
use crate::net::logging;
use crate::proto::command::{Command, Noun};
use crate::proto::update::Step;
use crate::proto::{reply, table};
use crate::slab::Key;
use crate::state::{Change, Code, Refused};
use crate::supervisor::apply::{Obstacle, Terms, Transaction};
use crate::supervisor::control::{event, Client};
use crate::supervisor::dumps::Dump;
use crate::supervisor::names::Then;
use crate::supervisor::{Stage, Supervisor};
use crate::version::version;

impl Supervisor {
    /// Does what a line says; the text of the answer, or why not. Nothing yet: the answer comes later.
    pub(super) fn perform(&mut self, command: Command, key: Key) -> Result<String, Refused> {
        let ok = || reply::ok(&[]);
        let one = |name: &'static str, value: String| reply::ok(&[(name, value)]);
        match command {
            Command::Ping => Ok(ok()),
            Command::Version => Ok(one("version", version().to_string())),
            Command::Help { word } => Ok(table::help(word.as_deref())? + &ok()),
            Command::Status => Ok(self.status() + &ok()),
            Command::Sandbox => Ok(self.sandbox_lines()),
            Command::Workers => Ok(self.worker_lines() + &ok()),
            Command::Metrics { cluster } => self.metrics(cluster.as_deref(), key),
            Command::WorkerRestart { id } => self.restart_for(key, id),
            Command::Upgrade { binary, canary } => self.upgrade_for(key, binary, canary),
            Command::StateDump { secrets: false } => self.dump(Dump::State, key),
            Command::StateDump { secrets: true } => self.dump_secrets(key),
            Command::Certificates { listener } => self.list_certificates(listener, key),
            Command::StateDiff => self.dump(Dump::Difference, key),
            Command::StateStats => Ok(self.stats()),
            Command::List(Noun::Backend) => self.list_backends(key),
            Command::Names => self.once(|main| main.names.lines(&main.state, main.now_ms), key),
            Command::NameRefresh { name } => self.refresh_names(name.as_deref()),
            Command::List(noun) => self.dump(Dump::List(noun), key),
            Command::StateCheck => self.check_state(key),
            Command::Connections { kill, selection } => self.connections(kill, &selection, key),
            Command::Explain(question) => self.explain(&question, key),
            Command::Change(change) => self.step(Step::Do(change), None, key),
            Command::Update(update) => self.step(Step::Update(update), None, key),
            Command::Replace(replace) => self.step(Step::Replace(replace), None, key),
            Command::Wait { change, seconds } => match *change {
                Command::Change(change) => self.step(Step::Do(change), Some(seconds), key),
                Command::Update(update) => self.step(Step::Update(update), Some(seconds), key),
                other => self.perform(other, key),
            },
            Command::Pause { id, max } => self.pause(id, max, key),
            Command::Resume { id } => self.resume(&id, key),
            Command::Begin => self.begin(key),
            Command::Commit { revision, confirm } => self.commit(key, revision, confirm),
            Command::Confirm => self.confirm(key),
            Command::Abort => match self.client(key)?.transaction.take() {
                Some(transaction) => Ok(one("forgotten", transaction.steps.len().to_string())),
                None => Err(no_transaction()),
            },
            Command::Reload => self.reload(Some(key)),
            Command::Events => {
                self.client(key)?.listens = true;
                Ok(String::new())
            }
            Command::Logging { level } => {
                let who = self.client(key)?.who.clone();
                let line = self.set_log_level(level, &who);
                self.order_and_answer(&line, key)
            }
            Command::Shutdown { hard, timeout } => {
                let client = self.client(key)?;
                client.awaits_end = true;
                log::info!(
                    "shutdown{} by {}",
                    if hard { " hard" } else { "" },
                    client.who
                );
                self.shut_down(hard, timeout);
                Ok(String::new())
            }
        }
    }

    fn restart_for(&mut self, key: Key, id: u32) -> Result<String, Refused> {
        log::info!("worker restart {id} by {}", self.client(key)?.who);
        self.client(key)?.waiting = true;
        let asked = self.restart_worker(id as usize, key);
        self.client(key)?.waiting = asked.is_ok();
        asked.map(|()| String::new())
    }

    fn dump_secrets(&mut self, key: Key) -> Result<String, Refused> {
        let who = &self.client(key)?.who;
        log::info!("the keys of certificates are read by {who}");
        self.dump(Dump::Secrets, key)
    }

    pub(super) fn client(&mut self, key: Key) -> Result<&mut Client, Refused> {
        let gone = || Refused::new(Code::Failed, "the client is gone");
        self.control.clients.get_mut(key).ok_or_else(gone)
    }

    /// In main and in workers to come; returns what those who are there are to be told.
    pub(super) fn set_log_level(&mut self, level: String, who: &str) -> String {
        logging::set_filter(&level);
        let line = reply::data("logging", &[("level", level.clone())]);
        log::warn!("logging {level}, by {who}");
        self.settings.log_level = level;
        self.say_to_keys(line.trim_end(), Vec::new());
        self.say_to_resolver(line.trim_end(), Vec::new());
        self.say_to_connector(line.trim_end(), Vec::new());
        line.trim_end().to_string()
    }

    // ---- changes --------------------------------------------------------

    fn begin(&mut self, key: Key) -> Result<String, Refused> {
        let revision = self.revision;
        let client = self.client(key)?;
        if client.transaction.is_some() {
            let what = "a transaction is open already: commit or abort it first";
            return Err(Refused::new(Code::InUse, what));
        }
        client.transaction = Some(Transaction::default());
        Ok(reply::ok(&[("revision", revision.to_string())]))
    }

    /// Part of a transaction, or one of its own.
    fn step(&mut self, step: Step, wait: Option<u32>, key: Key) -> Result<String, Refused> {
        let Some(transaction) = &mut self.client(key)?.transaction else {
            let terms = Terms {
                wait,
                ..Terms::default()
            };
            return self.change(vec![step], key, terms);
        };
        if let Some(first) = &transaction.spoilt {
            return Err(spoilt(first));
        }
        if transaction.steps.len() == TRANSACTION_CHANGES_MAX {
            let what = "the transaction is full: use several";
            return Err(Refused::new(Code::Limit, what));
        }
        transaction.steps.push(step);
        transaction.wait = transaction.wait.max(wait);
        Ok(reply::ok(&[]))
    }

    /// A line that is refused may have been a change: the others are not done without it.
    pub(super) fn spoil_transaction(&mut self, key: Key, refused: &Refused) {
        let client = self.control.clients.get_mut(key);
        if let Some(transaction) = client.and_then(|client| client.transaction.as_mut()) {
            transaction.spoilt.get_or_insert_with(|| {
                let place = transaction.steps.len() + 1;
                Refused::new(refused.code, format!("change {place}: {refused}"))
            });
        }
    }

    fn commit(
        &mut self,
        key: Key,
        revision: Option<u64>,
        confirm: Option<u32>,
    ) -> Result<String, Refused> {
        let client = self.client(key)?;
        let Some(Transaction {
            steps,
            wait,
            spoilt: first,
            ..
        }) = client.transaction.take()
        else {
            return Err(no_transaction());
        };
        if let Some(first) = first {
            return Err(Refused::new(
                first.code,
                format!("{first}; nothing was done"),
            ));
        }
        let terms = Terms {
            revision,
            confirm,
            wait,
        };
        self.change(steps, key, terms)
    }

    /// Does it, says so in the log and to who listens. The answer comes once every worker has done it.
    pub(super) fn change(
        &mut self,
        steps: Vec<Step>,
        key: Key,
        terms: Terms,
    ) -> Result<String, Refused> {
        self.may_change()?;
        let (now, wait) = (self.revision, terms.wait);
        if terms.revision.is_some_and(|wanted| wanted != now) {
            let what =
                format!("the revision is {now}: somebody else has committed; nothing was done");
            return Err(Refused::new(Code::Mismatch, what));
        }
        let names = self.lacking(&steps);
        let faultless = names.is_empty() || self.would_do(&steps);
        if !names.is_empty() && faultless {
            self.park(names, Some(key), Then::Change(steps, terms));
            return Ok(String::new());
        }
        let client = self.client(key)?;
        client.waiting = true;
        let who = client.who.clone();
        match self.transact(&steps, wait.is_none().then_some(key)) {
            Ok(done) => {
                if let Some(seconds) = wait {
                    self.await_departed(key, done.changes.len(), seconds);
                }
                self.audit(&who, &done.changes);
                if let Some(seconds) = terms.confirm {
                    self.try_out(done.undo, seconds);
                }
                Ok(String::new())
            }
            Err(Obstacle { place, mut refused }) => {
                self.client(key)?.waiting = false;
                log::warn!("refused to {who}: {refused}");
                if steps.len() > 1 {
                    let what = format!(
                        "change {} of {}: {refused}; nothing was done",
                        place + 1,
                        steps.len()
                    );
                    refused = Refused::new(refused.code, what);
                }
                Err(refused)
            }
        }
    }

    /// Not while a commit may be undone, and not at the end.
    pub(super) fn may_change(&self) -> Result<(), Refused> {
        if let Some(trial) = &self.trial {
            let seconds = trial.until_ms.saturating_sub(self.now_ms).div_ceil(1000);
            let what = format!(
                "a commit waits for confirm, or is undone in {seconds} s: nothing else is taken"
            );
            return Err(Refused::new(Code::InUse, what));
        }
        if self.stage != Stage::Serving {
            return Err(Refused::new(
                Code::Failed,
                "the proxy does not serve: it starts or ends",
            ));
        }
        Ok(())
    }

    /// Says who has done what, in the log and to those who listen.
    pub(super) fn audit(&mut self, who: &str, changes: &[Change]) {
        let revision = self.revision;
        let listens = self.anyone_listens();
        let mut events = String::new();
        for change in changes {
            let line = change.brief();
            log::info!("revision {revision}, by {who}: {}", shown(&line));
            if listens {
                let pairs = [("revision", revision.to_string()), ("command", line)];
                events += &event("change", &pairs);
            }
        }
        if listens {
            self.tell_events(changes.len(), &events);
        }
        self.end_pauses_of(changes);
    }

    fn confirm(&mut self, key: Key) -> Result<String, Refused> {
        match self.trial.take() {
            Some(_) => {
                let (revision, who) = (self.revision, &self.client(key)?.who);
                log::info!("revision {revision}, by {who}: confirm");
                Ok(reply::ok(&[("revision", revision.to_string())]))
            }
            None => Err(Refused::new(Code::Missing, "no commit waits for confirm")),
        }
    }

    // ---- questions ------------------------------------------------------
}

/// A line in the log: of one with a page or certificates in it the beginning.
fn shown(line: &str) -> String {
    match line.char_indices().nth(LOGGED_CHARS_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)", &line[..end], line.len()),
        None => line.to_string(),
    }
}

/// Changes as the lines that say them.
pub(super) fn text_of(changes: impl IntoIterator<Item = Change>) -> String {
    changes
        .into_iter()
        .map(|change| change.encode() + "\n")
        .collect()
}

fn spoilt(first: &Refused) -> Refused {
    let what = format!("the transaction is spoilt by {first}: abort it");
    Refused::new(first.code, what)
}

fn no_transaction() -> Refused {
    Refused::new(Code::Missing, "there is no transaction: begin one first")
}
