//! The end: connections finish, or are cut, and then everybody goes.

use crate::limits::STOP_GRACE_MS;
use crate::proto::reply;
use crate::supervisor::{notify, Stage, Supervisor};

impl Supervisor {
    /// Lets connections finish for `timeout` seconds (`shutdown_timeout`); `hard`: ends them now.
    pub(super) fn shut_down(&mut self, hard: bool, timeout: Option<u32>) {
        self.give_upgrade_up();
        self.forget_trial();
        self.sockets.clear();
        self.follow_sockets();
        self.replace_no_worker();
        if hard {
            if !matches!(self.stage, Stage::Stopping { .. }) {
                log::info!("stopping: open connections are cut");
                self.stage = Stage::Stopping {
                    until_ms: self.now_ms + STOP_GRACE_MS,
                };
                self.tell_workers("stop");
            }
        } else if matches!(self.stage, Stage::Starting | Stage::Serving) {
            let seconds = timeout.unwrap_or(self.settings.shutdown_timeout);
            log::info!("draining: no new connections, {seconds} s for the open ones; again to stop at once");
            notify::send("STOPPING=1", &[]);
            let until_ms = self.now_ms + u64::from(seconds) * 1000;
            self.stage = Stage::Draining { until_ms };
            self.tell_workers("drain");
        }
    }

    pub(super) fn ended(&mut self) -> bool {
        match self.stage {
            Stage::Starting | Stage::Serving => return false,
            Stage::Draining { until_ms } if self.now_ms >= until_ms => {
                log::warn!("the time to drain is over");
                self.shut_down(true, None);
            }
            Stage::Stopping { until_ms } if self.now_ms >= until_ms => self.kill_workers(),
            Stage::Draining { .. } | Stage::Stopping { .. } => {}
        }
        self.workers.is_empty() && self.keys_have_ended()
    }

    pub(super) fn say_good_bye(&mut self) {
        let report = self.losses.lines() + &reply::ok(&self.losses.totals());
        self.control.finish_shutdown(&report);
        self.logs.standard.copy_all();
        log::info!("ended");
    }
}
