//! What a session asks for: every act is judged when it is asked, then performed.

use std::rc::Rc;

use crate::drive::{Attempt, Back, Seen, Sim};
use crate::server::Server;
use crate::tunnel::Tunnel;
use crate::wire::Wire;
use sozu_lib::session::{Acts, BackAct, Event, Reuse, Side, Unconnected};

/// A pooled connection that went idle less than this ago is not taken for dead.
const RECENT_MS: u64 = 500;

impl Sim {
    /// Performs what the session asks for, until it asks for nothing.
    pub fn acts(&mut self, s: usize) {
        for round in 0.. {
            assert!(round < 100, "it never stops asking");
            let acts = self.slots[s].session.take_acts();
            if acts == Acts::default() {
                return;
            }
            self.say(s, || format!("{acts:?}"));
            self.slots[s].reset |= acts.reset_front;
            self.end_back(s, acts.back);
            for (side, asked) in [(Side::Back, acts.shut_back), (Side::Front, acts.shut_front)] {
                if asked {
                    self.shut(s, side);
                }
            }
            if acts.log {
                self.log(s);
                self.on(s, Event::Logged);
            }
            if let Some(reuse) = acts.connect {
                self.connect(s, reuse);
            }
        }
    }

    fn shut(&mut self, s: usize, side: Side) {
        let slot = &mut self.slots[s];
        assert!(
            slot.session.pending(side).is_empty(),
            "shut with bytes pending"
        );
        if side == Side::Front {
            assert!(!slot.shut, "shut twice");
            slot.shut = true;
        }
        if let Some(wire) = self.wire(s, side) {
            wire.shut();
        }
    }

    fn log(&mut self, s: usize) {
        let slot = &mut self.slots[s];
        slot.tried.clear();
        let x = slot.session.exchange().expect("a record to log");
        let r = &x.record;
        assert_ne!(r.start_us, 0, "a record without a start");
        assert_eq!(r.bytes_down, slot.down, "bytes to the client");
        assert_eq!(r.bytes_up, slot.up, "bytes to the backend");
        assert!(
            r.first_byte_us == 0 || r.connected_us != 0,
            "an answer from nowhere"
        );
        slot.records.push(Seen {
            status: r.status,
            end: r.end,
        });
        (slot.up, slot.down) = (0, 0);
    }

    fn end_back(&mut self, s: usize, act: BackAct) {
        if act == BackAct::Keep {
            return;
        }
        let slot = &mut self.slots[s];
        let Some(b) = slot.back.take() else {
            assert_ne!(act, BackAct::Release, "released what it does not have");
            return;
        };
        let held = slot.lanes.iter().any(|lane| !lane.held.is_empty());
        slot.lanes = Default::default();
        let back = &mut self.backs[b];
        if act != BackAct::Release {
            if act == BackAct::GiveUp {
                self.backends.failed(back.place, self.now_us / 1000);
                slot.tried.push(back.place);
            }
            self.close_back(b, act == BackAct::Reset);
            return;
        }
        back.owner = None;
        self.backends.end(back.place);
        assert!(!back.connecting && !held, "released in the midst");
        let read = slot.attempts.last().map_or(0, |attempt| attempt.down);
        back.server
            .check_release(&back.wire, read as usize, &self.truth);
        back.idle_since_ms = self.now_us / 1000;
        back.wire.watch(true, false);
        if !back.wire.to_proxy.is_empty() {
            // The pool would hear of it before anyone takes it.
            self.close_back(b, false);
        }
    }

    pub fn close_back(&mut self, b: usize, reset: bool) {
        let back = &mut self.backs[b];
        back.closed = true;
        back.connecting = false;
        if back.owner.take().is_some() {
            self.backends.end(back.place);
        }
        back.wire.close(reset);
    }

    fn connect(&mut self, s: usize, reuse: Reuse) {
        let now_ms = self.now_ms();
        let slot = &mut self.slots[s];
        assert!(slot.back.is_none(), "a second connection");
        assert!(slot.session.exchange().is_some(), "a connection for whom?");
        assert!(!slot.tcp || reuse == Reuse::Never, "a pooled one for TCP");
        if reuse == Reuse::Any {
            let asked = &self.truth.asked[s][slot.records.len()];
            assert!(
                asked.may_be_repeated(),
                "one that may be dead for what may not be repeated"
            );
        }
        if self.hold(s) {
            return;
        }
        let slot = &mut self.slots[s];
        slot.connects.push(slot.records.len());
        let chosen = match self.dice.percent(1) {
            true => None,
            false => self.backends.choose(&slot.tried, now_ms),
        };
        let Some(place) = chosen else {
            return self.unconnected(s, Unconnected::NoBackend);
        };
        let fits = |back: &Back| {
            let age = now_ms - back.idle_since_ms;
            let idle = back.owner.is_none() && !back.closed && back.wire.to_proxy.is_empty();
            idle && back.place == place
                && (reuse == Reuse::Any || reuse == Reuse::Recent && age < RECENT_MS)
        };
        if let Some(b) = self.backs.iter().rposition(fits) {
            self.backs[b].owner = Some(s);
            self.backends.begin(place);
            return self.connected(s, b, true);
        }
        if self.fails(place) {
            self.slots[s].tried.push(place);
            self.backends.failed(place, now_ms);
            return self.unconnected(s, Unconnected::Refused);
        }
        let hangs = self.dice.percent(self.connect_faults / 4);
        let tunnel = self.slots[s].tcp.then(|| {
            let out = self.dice.body();
            Tunnel::new(out, &mut self.dice)
        });
        self.slots[s].back = Some(self.backs.len());
        self.backends.begin(place);
        self.backs.push(Back {
            place,
            wire: Wire::new(false, &mut self.dice),
            server: Server::new(tunnel),
            owner: Some(s),
            connecting: true,
            hangs,
            closed: false,
            idle_since_ms: 0,
        });
    }

    /// A step of a connect goes wrong.
    fn fails(&mut self, place: usize) -> bool {
        let chance = match self.backends.is_sick(place) {
            true => 70,
            false => self.connect_faults / 2,
        };
        self.dice.percent(chance)
    }

    /// True: the cluster is paused, and the session was told so.
    fn hold(&mut self, s: usize) -> bool {
        if self.paused_until_us.is_none() {
            return false;
        }
        let slot = &mut self.slots[s];
        if self.held.len() == self.held_max {
            slot.turned_away.push(slot.records.len());
            self.on(s, Event::Unconnected(Unconnected::QueueFull { seconds: 3 }));
            return true;
        }
        slot.held.push(slot.records.len());
        self.held.push_back(s);
        self.on(s, Event::Held);
        true
    }

    /// The pause is over: those who waited go on in order, and may try as often as at first; some have waited too long.
    pub fn resume(&mut self) {
        self.paused_until_us = None;
        for s in std::mem::take(&mut self.held) {
            let slot = &mut self.slots[s];
            assert!(slot.session.is_held(), "in the queue without waiting");
            let request = slot.records.len();
            if self.dice.percent(20) {
                slot.too_late.push(request);
                self.on(s, Event::Unconnected(Unconnected::QueueTimedOut));
                self.run(s);
                self.after(s);
                continue;
            }
            slot.connects.retain(|at| *at != request);
            slot.tried.clear();
            self.on(s, Event::Resumed(None));
            self.run(s);
            self.after(s);
        }
    }

    fn unconnected(&mut self, s: usize, why: Unconnected) {
        let slot = &mut self.slots[s];
        slot.unconnected.push(slot.records.len());
        self.on(s, Event::Unconnected(why));
    }

    fn connected(&mut self, s: usize, b: usize, reused: bool) {
        let slot = &mut self.slots[s];
        slot.back = Some(b);
        slot.attempts.push(Attempt {
            request: slot.records.len(),
            conn: b,
            reused,
            up: 0,
            down: 0,
        });
        let server = Rc::clone(&self.server);
        self.on(s, Event::Connected { server, reused });
    }

    /// A connect has come to its end.
    pub fn resolve(&mut self, b: usize) {
        let Some(s) = self.backs[b].owner else { return };
        let place = self.backs[b].place;
        if self.fails(place) {
            self.slots[s].back = None;
            self.slots[s].tried.push(place);
            self.backends.failed(place, self.now_ms());
            self.close_back(b, false);
            let secure = b.is_multiple_of(2);
            let no_tls = secure.then_some(Unconnected::NoTls("as the dice fell"));
            self.unconnected(s, no_tls.unwrap_or(Unconnected::Refused));
        } else {
            self.backs[b].connecting = false;
            self.backends.connected(place);
            self.connected(s, b, false);
        }
        self.run(s);
        self.after(s);
    }
}
