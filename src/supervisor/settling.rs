//! The last step of an upgrade: main itself becomes the new program.
//!
//! Until nothing is half-way, and until the new program has read what it will go on with, to the byte but
//! for what is fleeting (`handover::is_alike`). Then there is one system call left.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::limits::{HANDOVER_BYTES_MAX, HANDOVER_UNREAD_BYTES_MAX};
use crate::slab::Key;
use crate::supervisor::handover::is_alike;
use crate::supervisor::inquiry::Topic;
use crate::supervisor::upgrade::{Step, Upgrade};
use crate::supervisor::workers::Life;
use crate::supervisor::{notify, Supervisor, TAKE_OVER};
use crate::sys::clock;
use crate::sys::exec;
use crate::version::version;

impl Supervisor {
    /// What is not at its end yet.
    pub(super) fn half_way(&self) -> Option<&'static str> {
        let asking = self.inquiries.iter().any(|(_, it)| match &it.topic {
            Topic::Roll(roll) => roll.page.is_some(),
            Topic::Check(_) => true,
        });
        let busy = self.workers.processes.iter().any(|(_, process)| {
            let blocked = !process.closed && process.channel.is_blocked();
            blocked || process.life == Life::Starting || process.reports_to.is_some()
        });
        if self.names.is_waited_for()
            || !self.pending.is_empty()
            || !self.orders.asked.is_empty()
            || asking
        {
            return Some("a worker does not do what was asked of it");
        }
        (busy || !self.dying.is_empty()).then_some("a worker starts, or does not listen")
    }

    pub(super) fn look_at_settling(&mut self) -> bool {
        let half_way = self.half_way();
        let Some(Step::Settling {
            until_ms,
            rehearsed,
        }) = self.upgrade.as_mut().map(|it| &mut it.step)
        else {
            return false;
        };
        let until_ms = *until_ms;
        if until_ms <= self.now_ms {
            let why = half_way.unwrap_or("what is handed over changes all the time");
            self.upgrade_fails("main", why.to_string());
            return true;
        }
        if half_way.is_some() {
            return false;
        }
        let rehearsed = rehearsed.take();
        self.save_if_due(true);
        self.bound_unread();
        let (task, running) = match &self.upgrade {
            Some(it) => (
                self.task(&it.program.path, it.who.clone(), it.client, it.losses),
                it.program.running(),
            ),
            None => return false,
        };
        let handover = self.hand_over(task);
        let text = handover.encode();
        if rehearsed.is_some_and(|known| is_alike(&known, &text)) {
            let manifest = handover.manifest();
            drop(handover);
            let sealed = seal(&text);
            let what = sealed.map_or_else(
                |what| what,
                |file| self.run_instead(&running, &file, &manifest),
            );
            self.upgrade_fails("main", what);
            return true;
        }
        match self.begin_last_rehearsal(text, until_ms) {
            Ok(step) => self.go_to(step),
            Err(what) => self.upgrade_fails("main", what),
        }
        true
    }

    fn begin_last_rehearsal(&self, text: String, until_ms: u64) -> Result<Step, String> {
        let file = seal(&text)?;
        let program = self.upgrade.as_ref().map(|it| &it.program);
        let program = program.ok_or("there is no upgrade")?;
        let rehearsal = self.begin_rehearsal(program, &file)?;
        Ok(Step::LastRehearsal {
            until_ms,
            rehearsal,
            text,
        })
    }

    pub(super) fn look_at_last_rehearsal(&mut self) -> bool {
        let now_ms = self.now_ms;
        let Some(rehearsal) = self.upgrade.as_mut().and_then(Upgrade::rehearsal) else {
            return false;
        };
        match rehearsal.outcome(now_ms) {
            None => return false,
            Some(Err(what)) => self.upgrade_fails("main", what),
            Some(Ok(_)) => self.settle_again(),
        }
        true
    }

    /// With the text that the new program has understood.
    fn settle_again(&mut self) {
        let Some(upgrade) = self.upgrade.as_mut() else {
            return;
        };
        let nothing = Step::Settling {
            until_ms: 0,
            rehearsed: None,
        };
        match std::mem::replace(&mut upgrade.step, nothing) {
            Step::LastRehearsal {
                until_ms,
                rehearsal,
                text,
            } => {
                upgrade.step = Step::Settling {
                    until_ms,
                    rehearsed: Some(text),
                };
                self.dying.extend(rehearsal.end());
            }
            other => upgrade.step = other,
        }
    }

    /// What clients have not read goes along, up to a bound.
    fn bound_unread(&mut self) {
        loop {
            let clients = self.control.clients.iter();
            let unread = clients.map(|(key, client)| (client.outbox.len(), key));
            let unread: Vec<(usize, Key)> = unread.collect();
            let all: usize = unread.iter().map(|(length, _)| length).sum();
            let most = unread.into_iter().max_by_key(|(length, _)| *length);
            match most {
                Some((_, key)) if all > HANDOVER_UNREAD_BYTES_MAX => {
                    if let Some(client) = self.control.clients.get(key) {
                        let who = &client.who;
                        log::warn!("{who} is let go: it has not read its answers, which are too long to be handed over");
                    }
                    self.let_go(key);
                }
                _ => return,
            }
        }
    }

    /// Returns only if it cannot be done: why not.
    fn run_instead(&self, program: &Path, text: &OwnedFd, manifest: &[i32]) -> String {
        let mut kept = manifest.to_vec();
        kept.push(text.as_raw_fd());
        let keep = |keep| {
            let all = kept.iter();
            let results: Result<Vec<()>, _> =
                all.map(|fd| exec::keep_over_exec(*fd, keep)).collect();
            results
        };
        let mut words: Vec<OsString> = std::env::args_os().take(1).collect();
        words.extend(["start".into(), "-c".into(), self.file.clone().into()]);
        words.extend([TAKE_OVER.into(), text.as_raw_fd().to_string().into()]);
        log::info!("upgrade: main goes on as the new program");
        let now_us = clock::monotonic_us();
        notify::send(&format!("RELOADING=1\nMONOTONIC_USEC={now_us}"), &[]);
        let e = match keep(true) {
            Ok(_) => exec::exec(program, &words),
            Err(e) => e,
        };
        if let Err(e) = keep(false) {
            log::error!("descriptors go to children: {e}");
        }
        notify::send("READY=1", &[]);
        format!("cannot be run in the place of {}: {e}", version())
    }
}

/// As the file that a reader gets. An error is a sentence.
fn seal(text: &str) -> Result<OwnedFd, String> {
    if text.len() > HANDOVER_BYTES_MAX {
        return Err("there is too much to hand over".into());
    }
    exec::sealed(text.as_bytes()).map_err(|e| e.to_string())
}
