//! The end of a worker: who is waited for, who is told, who is cut.

use crate::limits::FAREWELL_MS;
use crate::net::board::Fate;
use crate::session::record::End;
use crate::session::{Event, Stay};
use crate::worker::Worker;

impl Worker {
    /// Takes who waits already and nobody after. Idle clients may still speak for a
    /// moment, for a request may be on its way to us; then they are told to go.
    pub(super) fn drain(&mut self) {
        self.shut_doors();
        self.accept_waiting();
        self.stay = Stay::Over;
        self.close_doors();
        self.count_down();
        self.disinherit();
        self.farewell_ms = Some(self.now_ms() + FAREWELL_MS);
    }

    pub(super) fn say_good_bye(&mut self) {
        if self.farewell_ms.is_none_or(|due| due > self.now_ms()) {
            return;
        }
        self.farewell_ms = None;
        for key in self.slots.keys() {
            self.with_turn(key, |turn| {
                // A request that is already here is served, and told that it was the last.
                turn.slot.front.readable = true;
                turn.run();
                turn.on(Event::Drain);
                turn.run();
            });
        }
    }

    /// What is still open ends now, and is logged as cut.
    pub(super) fn cut_all(&mut self) {
        self.count_down();
        self.disinherit();
        for key in self.slots.keys() {
            self.with_turn(key, |turn| {
                if turn.slot.session.cut(End::ProxyShutdown) {
                    turn.log();
                }
            });
            let Some(slot) = self.slots.get_mut(key) else {
                continue;
            };
            slot.reset = true;
            let load = self.slots.get(key).and_then(|slot| self.load_of(slot));
            self.close(key, load, Fate::Cut);
        }
    }
}
