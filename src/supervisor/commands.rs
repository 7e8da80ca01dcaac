//! What each command does.

use std::rc::{Rc, Weak};

use crate::limits::{DUMPS_MAX, TRANSACTION_CHANGES_MAX};
use crate::net::logging;
use crate::parser::{host, target};
use crate::proto::command::{Command, Noun, Question};
use crate::proto::{reply, table};
use crate::route::Router;
use crate::slab::Key;
use crate::state::{Backend, BackendState, Change, Code, HostRule, Protocol, Refused, State};
use crate::supervisor::apply::{Obstacle, Step, Transaction};
use crate::supervisor::control::{event, Client};
use crate::supervisor::{Stage, Supervisor};

impl Supervisor {
    /// Does what a line says; the text of the answer, or why not. Nothing yet: the answer comes later.
    pub(super) fn perform(&mut self, command: Command, key: Key) -> Result<String, Refused> {
        let ok = || reply::ok(&[]);
        let one = |name: &'static str, value: String| reply::ok(&[(name, value)]);
        match command {
            Command::Ping => Ok(ok()),
            Command::Version => Ok(one("version", env!("CARGO_PKG_VERSION").to_string())),
            Command::Help { word } => Ok(table::help(word.as_deref())? + &ok()),
            Command::Status => Ok(self.status() + &ok()),
            Command::Workers => Ok(self.worker_lines() + &ok()),
            Command::Metrics { cluster } => self.metrics(cluster.as_deref(), key),
            Command::WorkerRestart { id } => {
                log::info!("worker restart {id} by {}", self.client(key)?.who);
                self.client(key)?.waiting = true;
                let asked = self.restart_worker(id as usize, key);
                self.client(key)?.waiting = asked.is_ok();
                asked.map(|()| String::new())
            }
            Command::StateDump => self.dump(None, key),
            Command::StateDiff => Ok(text_of(self.filed.diff(&self.state)) + &ok()),
            Command::StateStats => Ok(self.stats()),
            Command::List(noun) => self.dump(Some(noun), key),
            Command::Explain(question) => Ok(self.explain(&question)? + &ok()),
            Command::Change(change) => self.step(Step::Do(change), key),
            Command::Update(update) => self.step(Step::Update(update), key),
            Command::Begin => self.begin(key),
            Command::Commit { revision, confirm } => self.commit(key, revision, confirm),
            Command::Confirm => self.confirm(),
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
                self.set_log_level(level, &who);
                Ok(ok())
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

    pub(super) fn client(&mut self, key: Key) -> Result<&mut Client, Refused> {
        let gone = || Refused::new(Code::Failed, "the client is gone");
        self.control.clients.get_mut(key).ok_or_else(gone)
    }

    /// In main and in every worker, those to come included.
    fn set_log_level(&mut self, level: String, who: &str) {
        logging::set_filter(&level);
        let line = reply::data("logging", &[("level", level.clone())]);
        self.tell_workers(line.trim_end());
        log::warn!("logging {level}, by {who}");
        self.settings.log_level = level;
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
    fn step(&mut self, step: Step, key: Key) -> Result<String, Refused> {
        let Some(transaction) = &mut self.client(key)?.transaction else {
            return self.change(vec![step], key, None);
        };
        if let Some(first) = &transaction.spoilt {
            return Err(spoilt(first));
        }
        if transaction.steps.len() == TRANSACTION_CHANGES_MAX {
            let what = "the transaction is full: use several";
            return Err(Refused::new(Code::Limit, what));
        }
        transaction.steps.push(step);
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
        let now = self.revision;
        let client = self.client(key)?;
        let Some(Transaction {
            steps,
            spoilt: first,
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
        if revision.is_some_and(|wanted| wanted != now) {
            let what =
                format!("the revision is {now}: somebody else has committed; nothing was done");
            return Err(Refused::new(Code::Mismatch, what));
        }
        self.change(steps, key, confirm)
    }

    /// Does it, says so in the log and to who listens. The answer comes once every worker has done it.
    fn change(
        &mut self,
        steps: Vec<Step>,
        key: Key,
        confirm: Option<u32>,
    ) -> Result<String, Refused> {
        self.may_change()?;
        let client = self.client(key)?;
        client.waiting = true;
        let who = client.who.clone();
        match self.transact(&steps, Some(key)) {
            Ok(done) => {
                self.audit(&who, &done.changes);
                if let Some(seconds) = confirm {
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
    fn may_change(&self) -> Result<(), Refused> {
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
            let line = change.encode();
            log::info!("revision {revision}, by {who}: {line}");
            if listens {
                let pairs = [("revision", revision.to_string()), ("command", line)];
                events += &event("change", &pairs);
            }
        }
        if listens {
            self.tell_events(changes.len(), &events);
        }
    }

    fn confirm(&mut self) -> Result<String, Refused> {
        match self.trial.take() {
            Some(_) => Ok(reply::ok(&[("revision", self.revision.to_string())])),
            None => Err(Refused::new(Code::Missing, "no commit waits for confirm")),
        }
    }

    /// The file again. What was changed at runtime since is done again on top of
    /// it, as after a restart; what does not fit any more is told.
    pub(super) fn reload(&mut self, client: Option<Key>) -> Result<String, Refused> {
        self.may_change()?;
        let failed = |what: String| Refused::new(Code::Failed, what);
        let (config, warnings) =
            crate::config::load(&self.file).map_err(|e| failed(e.to_string()))?;
        let mut target = config.state.clone();
        let mut told = String::new();
        for change in self.filed.diff(&self.state) {
            if let Err(refused) = target.apply(&change) {
                told += &reply::data(
                    "skipped",
                    &[("command", change.encode()), ("why", refused.what)],
                );
            }
        }
        for warning in &warnings {
            told += &reply::data("warning", &[("text", warning.to_string())]);
        }
        let old = self.settings.words();
        for (name, value) in config.settings.words() {
            let other = old
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value);
            if other != Some(&value) && name != "log_level" {
                told += &reply::data("needs_restart", &[("key", name)]);
            }
        }
        let steps: Vec<Step> = self.state.diff(&target).into_iter().map(Step::Do).collect();
        if let Some(client) = client {
            self.client(client)?.waiting = true;
        }
        match self.transact(&steps, client) {
            Ok(done) => {
                self.filed = config.state;
                if self.filed_log_level != config.settings.log_level {
                    self.filed_log_level = config.settings.log_level.clone();
                    self.set_log_level(config.settings.log_level, "reload");
                }
                self.audit("reload", &done.changes);
                told.lines().for_each(|line| log::warn!("reload: {line}"));
                Ok(told)
            }
            Err(obstacle) => {
                if let Some(client) = client {
                    self.client(client)?.waiting = false;
                }
                Err(obstacle.refused)
            }
        }
    }

    // ---- questions ------------------------------------------------------

    /// Where a request would go, and why.
    fn explain(&self, question: &Question) -> Result<String, Refused> {
        let missing = |what: &str| Refused::new(Code::Missing, what);
        let no_listener =
            || missing("no listener has this address: the connection would be refused");
        let listener = self
            .state
            .listener(question.listener)
            .ok_or_else(no_listener)?;
        // As a request is read: without the port, the path resolved.
        let invalid = |what: &str| Refused::new(Code::Invalid, format!("explain: {what}"));
        let host = host::parse(question.hostname.as_bytes()).map_err(invalid)?;
        let method = question.method.as_bytes();
        let mut room = Vec::new();
        let target = target::resolve(method, question.path.as_bytes(), &mut room)
            .map_err(|refusal| invalid(refusal.what))?;
        let mut lines = Change::ListenerAdd(listener.clone()).encode() + "\n";
        let mut router = Router::default();
        // Only what can match: main does not look at 100,000 frontends for one question.
        let rules = rules_for(host.name);
        for rule in &rules {
            for frontend in self.state.frontends_at(listener.address, rule) {
                let method = frontend.method.as_deref();
                router.insert(&frontend.hostname, &frontend.path, method, frontend);
            }
        }
        let no_frontend = || match listener.protocol {
            Protocol::Metrics => {
                missing("this listener leads nowhere: it answers GET /metrics, all else is 404")
            }
            _ => missing("no frontend of this listener matches: the answer would be 404"),
        };
        let frontend = router
            .find(host.name, target.path(), method)
            .ok_or_else(no_frontend)?;
        lines += &(Change::FrontendAdd((*frontend).clone()).encode() + "\n");
        lines += &text_of(
            self.state
                .cluster(&frontend.cluster)
                .cloned()
                .map(Change::ClusterAdd),
        );
        for backend in self.state.backends_of(&frontend.cluster) {
            let chosen = match listener.enabled {
                true => chosen(&self.state, backend),
                false => "no, the listener is disabled",
            };
            let pairs = [
                ("id", backend.id.clone()),
                ("address", backend.address.to_string()),
                ("chosen", chosen.to_string()),
            ];
            lines += &reply::data("candidate", &pairs);
        }
        Ok(lines)
    }

    fn stats(&self) -> String {
        reply::ok(&[
            ("revision", self.revision.to_string()),
            ("listeners", self.state.listeners().count().to_string()),
            ("clusters", self.state.clusters().count().to_string()),
            ("frontends", self.state.frontends().count().to_string()),
            ("backends", self.state.backends().count().to_string()),
        ])
    }

    /// The commands that rebuild the state, or one kind of object. Who asks for the same gets the same.
    fn dump(&mut self, noun: Option<Noun>, key: Key) -> Result<String, Refused> {
        let name = (self.revision, noun);
        let text = match self.dumps.find(name) {
            Some(text) => text,
            None => {
                let wanted = |change: &Change| noun.is_none_or(|noun| noun_of(change) == noun);
                let text: Rc<str> = text_of(self.state.dump().filter(wanted)).into();
                self.dumps.keep(Some(name), &text)?;
                text
            }
        };
        self.client(key)?.outbox.push_shared(text);
        Ok(reply::ok(&[]))
    }

    fn status(&self) -> String {
        let stage = match self.stage {
            Stage::Starting => "starting",
            Stage::Serving => "serving",
            Stage::Draining { .. } => "draining",
            Stage::Stopping { .. } => "stopping",
        };
        let main = reply::data(
            "main",
            &[
                ("version", env!("CARGO_PKG_VERSION").to_string()),
                ("pid", std::process::id().to_string()),
                ("state", stage.to_string()),
                ("uptime_s", (self.now_ms / 1000).to_string()),
                ("revision", self.revision.to_string()),
                ("max_connections", self.max_connections.to_string()),
                ("listeners", self.state.listeners().count().to_string()),
                ("clusters", self.state.clusters().count().to_string()),
                ("frontends", self.state.frontends().count().to_string()),
                ("backends", self.state.backends().count().to_string()),
            ],
        );
        main + &self.worker_lines()
    }
}

/// Changes as the lines that say them.
pub(super) fn text_of(changes: impl IntoIterator<Item = Change>) -> String {
    changes
        .into_iter()
        .map(|change| change.encode() + "\n")
        .collect()
}

/// The hostnames of frontends that take this one.
fn rules_for(hostname: &[u8]) -> Vec<HostRule> {
    let mut room = [0; 256];
    let name = String::from_utf8_lossy(host::normalize(hostname, &mut room)).into_owned();
    let suffix = name.split_once('.').map(|(_, suffix)| suffix.to_string());
    let suffix = suffix.map(HostRule::Suffix);
    let rules = [Some(HostRule::Exact(name)), suffix, Some(HostRule::Any)];
    rules.into_iter().flatten().collect()
}

/// Long answers that somebody still reads: dumps by revision and kind.
#[derive(Default)]
pub struct Dumps(Vec<(Option<DumpName>, Weak<str>)>);

type DumpName = (u64, Option<Noun>);

impl Dumps {
    fn find(&self, wanted: DumpName) -> Option<Rc<str>> {
        let found = self.0.iter().find(|(name, _)| *name == Some(wanted));
        found.and_then(|(_, text)| text.upgrade())
    }

    /// Long answers, those without a name too, are in memory as long as somebody reads them: not too many.
    pub(super) fn keep(&mut self, name: Option<DumpName>, text: &Rc<str>) -> Result<(), Refused> {
        self.0.retain(|(_, text)| text.strong_count() > 0);
        if self.0.len() == DUMPS_MAX {
            let what = "too many clients have not read their answers yet: try again later";
            return Err(Refused::new(Code::Limit, what));
        }
        self.0.push((name, Rc::downgrade(text)));
        Ok(())
    }
}

fn spoilt(first: &Refused) -> Refused {
    let what = format!("the transaction is spoilt by {first}: abort it");
    Refused::new(first.code, what)
}

fn no_transaction() -> Refused {
    Refused::new(Code::Missing, "there is no transaction: begin one first")
}

/// Whether a backend is among those that requests are spread over, and if not, why.
fn chosen(state: &State, backend: &Backend) -> &'static str {
    let takes = |backend: &Backend| backend.weight > 0 && backend.state == BackendState::Ready;
    let others = |backup| {
        let mut all = state.backends_of(&backend.cluster);
        all.any(|other| other.backup == backup && takes(other))
    };
    match backend.state {
        BackendState::Drain => "no, it drains",
        BackendState::Down => "no, it is down",
        BackendState::Ready if backend.weight == 0 => "no, its weight is 0",
        BackendState::Ready if backend.backup && others(false) => "no, it is a backup",
        BackendState::Ready => "yes, by weight",
    }
}

fn noun_of(change: &Change) -> Noun {
    match change {
        Change::ListenerAdd(_) | Change::ListenerUpdate(_) | Change::ListenerRemove { .. } => {
            Noun::Listener
        }
        Change::ClusterAdd(_) | Change::ClusterUpdate(_) | Change::ClusterRemove { .. } => {
            Noun::Cluster
        }
        Change::FrontendAdd(_) | Change::FrontendRemove { .. } => Noun::Frontend,
        Change::BackendAdd(_) | Change::BackendUpdate(_) | Change::BackendRemove { .. } => {
            Noun::Backend
        }
    }
}
