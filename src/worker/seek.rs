//! A request's way to a backend connection: asked for, waited for, made.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use crate::balance::Ask;
use crate::parser::host;
use crate::random::hash_of;
use crate::session::{Event, Reuse, Target, Unconnected};
use crate::worker::drive::{Slot, Turn};
use crate::worker::hold::Admission;
use crate::worker::pool::{Asked, Found, Made, Waiting};
use crate::worker::Worker;

impl Worker {
    /// Requests have ended: those who wait for a backend are served, first come, first served.
    pub(super) fn serve_queues(&mut self) {
        let now_ms = self.now_ms();
        while let Some(slot) = self.backs.stranded.pop() {
            self.with_turn(slot, |turn| turn.called());
        }
        while let Some(slot) = self.backs.next_late(now_ms) {
            self.with_turn(slot, |turn| turn.too_late());
        }
        for cluster in self.backs.freed(now_ms) {
            while let Some(first) = self.backs.next_in_line(cluster) {
                self.with_turn(first.slot, |turn| turn.called());
                let waits_again = |slot: &Slot| slot.queued.is_some();
                if self.slots.get(first.slot).is_some_and(waits_again) {
                    break;
                }
            }
        }
    }
}

impl Turn<'_> {
    pub(super) fn connect(&mut self, reuse: Reuse) {
        let Some(x) = self.slot.session.exchange() else {
            return;
        };
        let Some(target) = &x.target else {
            return;
        };
        match self
            .holds
            .admit(&target.cluster.id, self.key, self.now_ms())
        {
            Admission::NotPaused => {}
            Admission::Held => {
                self.slot.held = Some(Rc::clone(target));
                return self.on(Event::Held);
            }
            Admission::Full(seconds) => {
                return self.on(Event::Unconnected(Unconnected::QueueFull { seconds }));
            }
        }
        let target = Rc::clone(target);
        let passing: &[u8] = match self.world.door.reads_hello() {
            true => &x.record.host,
            false => &[],
        };
        let version = target.cluster.send_proxy;
        let preface = version.map(|version| self.slot.preface(version, passing));
        let mut room = [0; 256];
        let host = match target.cluster.tls {
            Some(_) => host::normalize(x.host_for_backend(), &mut room),
            None => &[],
        };
        let asked = Asked {
            cluster: target.key,
            host: std::str::from_utf8(host).unwrap_or_default(),
            reuse: if preface.is_some() {
                Reuse::Never
            } else {
                reuse
            },
            owner: self.key,
            preface: preface.as_deref(),
            ask: Ask {
                hash: x
                    .affinity
                    .unwrap_or_else(|| by_source(self.slot.session.peer())),
            },
            sticky: std::str::from_utf8(&x.sticky).unwrap_or_default(),
            called: self.slot.waited.is_some(),
            until_ms: self.world.now_us / 1000
                + u64::from(self.world.door.listener.timeouts.connect) * 1000,
        };
        let now_ms = self.now_ms();
        let tried = &mut self.slot.tried;
        match self.backs.find(asked, tried, now_ms, self.poll) {
            Found::Ready(key, server) => {
                self.slot.back = Some(key);
                self.on(Event::Connected {
                    server,
                    reused: true,
                });
            }
            Found::Started(key) => self.slot.back = Some(key),
            Found::Busy => self.line_up(&target),
            Found::Nothing(why) => self.on(Event::Unconnected(why)),
        }
    }

    /// All backends have as many requests as they may: it waits, or goes on to.
    fn line_up(&mut self, target: &Target) {
        let before = self.slot.waited;
        let seconds = target.cluster.balancing.queue_timeout;
        let anew = || {
            (
                target.key,
                self.world.now_us / 1000 + u64::from(seconds) * 1000,
            )
        };
        let (cluster, until_ms) = before.unwrap_or_else(anew);
        let waiting = Waiting {
            slot: self.key,
            until_ms,
        };
        if !self.backs.line_up(cluster, waiting, before.is_some()) {
            return self.on(Event::Unconnected(Unconnected::QueueFull { seconds: 1 }));
        }
        self.slot.queued = Some((cluster, until_ms));
        self.on(Event::Held);
    }

    /// It was the first in the queue, and may look again.
    pub fn called(&mut self) {
        if let Some((cluster, until_ms)) = self.slot.queued.take() {
            let id = self.slot.session.exchange().and_then(|x| x.target.as_ref());
            let target = id.and_then(|target| self.backs.target(&target.cluster.id));
            // Behind a change of its cluster it is asked by another key.
            let same = target.as_ref().is_some_and(|it| it.key == cluster);
            self.slot.waited = same.then_some((cluster, until_ms));
            self.on(Event::Called(target));
            self.run();
        }
    }

    /// It has waited in the queue for as long as it may.
    pub fn too_late(&mut self) {
        self.slot.queued = None;
        self.on(Event::Unconnected(Unconnected::QueueTimedOut));
        self.run();
    }

    /// The pause is over: it looks for a backend among those that there are now.
    pub fn resume(&mut self) {
        if let Some(target) = self.slot.held.take() {
            self.slot.tried.clear();
            self.slot.waited = None;
            let target = self.backs.target(&target.cluster.id);
            self.on(Event::Resumed(target));
        }
    }

    /// epoll has something to say of a connection that is being made.
    pub fn connected(&mut self, failed: bool) {
        let now_ms = self.now_ms();
        let Some(key) = self.slot.back else { return };
        match self.backs.goes_on(key, failed, now_ms, self.poll) {
            Made::Yes => {}
            Made::NotYet => return,
            Made::No(why) => return self.unconnected(why),
        }
        if let Some(server) = self.backs.server(key) {
            self.on(Event::Connected {
                server,
                reused: false,
            });
        }
    }

    /// The connection that was being made will not be.
    pub fn unconnected(&mut self, why: Unconnected) {
        let Some(key) = self.slot.back.take() else {
            return;
        };
        self.slot
            .tried
            .extend(self.backs.conns.get(key).map(|back| back.backend));
        self.backs.close(key);
        self.on(Event::Unconnected(why));
    }
}

/// By the address alone: who comes back has another port.
fn by_source(client: SocketAddr) -> u64 {
    match client.ip().to_canonical() {
        IpAddr::V4(v4) => hash_of(&[&v4.octets()]),
        IpAddr::V6(v6) => hash_of(&[&v6.octets()]),
    }
}
