//! The configuration file read again, while it runs.
//!
//! ```text
//!   the file as it was ──what was done at runtime──▶ the state
//!          │ edited                                      │ what is left to do
//!          ▼                                             ▼
//!   the file as it is ──what was done at runtime──▶ the target
//! ```
//! What was done at runtime is done again on the new file, key by key, as after
//! a restart: edits of different keys of one object both hold. Of the same key
//! the one made at runtime holds, and that is told.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::proto::reply;
use crate::proto::update::{difference, Step, Update};
use crate::slab::Key;
use crate::state::{Code, Refused, State};
use crate::supervisor::names::Then;
use crate::supervisor::Supervisor;

/// Settings that a reload changes.
const AT_ONCE: [&str; 5] = [
    "log_level",
    "worker_count",
    "acme_challenges",
    "resolve_interval",
    "resolve_family",
];

impl Supervisor {
    /// Does what has changed in the file. Returns the data lines about what was not done.
    pub(super) fn reload(&mut self, client: Option<Key>) -> Result<String, Refused> {
        self.may_change()?;
        let failed = |what: String| Refused::new(Code::Failed, what);
        let (mut config, warnings) =
            crate::config::load(&self.file).map_err(|e| failed(e.to_string()))?;
        config.state.share(&self.state);
        let (target, mut told) = self.merged(&config);
        for warning in &warnings {
            told += &reply::data("warning", &[("text", warning.to_string())]);
        }
        told += &self.waits_for_restart(&config);
        let steps: Vec<Step> = self.state.diff(&target).into_iter().map(Step::Do).collect();
        let names = self.lacking(&steps);
        if !names.is_empty() {
            self.park(names, client, Then::Reload);
            return Ok(String::new());
        }
        let objects = target.frontends().count();
        self.litter.add(objects, self.now_ms);
        if let Some(client) = client {
            self.client(client)?.waiting = true;
        }
        match self.transact(&steps, client) {
            Ok(done) => {
                self.filed = config.state;
                if self.filed_log_level != config.settings.log_level {
                    self.filed_log_level = config.settings.log_level.clone();
                    let line = self.set_log_level(config.settings.log_level, "reload");
                    self.tell_workers(&line);
                }
                if self.settings.acme_challenges != config.settings.acme_challenges {
                    self.settings.acme_challenges = config.settings.acme_challenges.clone();
                    self.watch_challenges();
                }
                self.settings.resolve_interval = config.settings.resolve_interval;
                if self.settings.resolve_family != config.settings.resolve_family {
                    self.settings.resolve_family = config.settings.resolve_family;
                    self.names.refresh(None, self.now_ms);
                }
                let resize = self.resize(config.settings.worker_count);
                if let Some(pending) = self.pending.last_mut() {
                    pending.resize = Some(resize);
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

    /// What was done at runtime on top of the new file; what does not fit it is told.
    fn merged(&self, config: &Config) -> (State, String) {
        let edits = updates(difference(&self.filed, &config.state));
        let mut target = config.state.clone();
        let mut told = String::new();
        for step in difference(&self.filed, &self.state) {
            let change = step.on(&target, &config.settings.timeouts);
            if change
                .as_ref()
                .is_ok_and(|change| target.has_already(change))
            {
                continue;
            }
            if let Err(refused) = change.and_then(|change| target.apply(&change)) {
                let pairs = [("command", step.encode()), ("why", refused.what)];
                told += &reply::data("skipped", &pairs);
                continue;
            }
            let Step::Update(update) = &step else {
                continue;
            };
            let edit = edits.get(&update.names());
            if let Some(lost) = edit.and_then(|edit| update.overrules(edit)) {
                let pairs = [("command", step.encode()), ("over", lost.encode())];
                told += &reply::data("kept", &pairs);
            }
        }
        (target, told)
    }

    fn waits_for_restart(&self, config: &Config) -> String {
        let old = self.settings.words();
        let mut told = String::new();
        for word in config.settings.words() {
            if !old.contains(&word) && !AT_ONCE.contains(&word.0.as_str()) {
                told += &reply::data("needs_restart", &[("key", word.0)]);
            }
        }
        told
    }
}

/// By the object that they are about.
fn updates(steps: Vec<Step>) -> BTreeMap<String, Update> {
    let updates = steps.into_iter().filter_map(|step| match step {
        Step::Update(update) => Some((update.names(), update)),
        Step::Do(_) | Step::Replace(_) => None,
    });
    updates.collect()
}
