//! What has to be true of a world when it is over: every request has its one
//! answer or a reason, every record its cause, and nothing was sent twice.

use crate::client::{Fault, Got};
use crate::drive::{Attempt, Seen, Sim, Slot};
use crate::plan::{Asked, Kind};
use crate::wire::Ending;
use sozu_lib::session::record::End;
use sozu_lib::session::Stay;

/// One client's story, and what may excuse whom.
struct Case<'s> {
    sim: &'s Sim,
    slot: &'s Slot,
    asked: &'s [Asked],
    /// Time made jumps, or the worker was told to go: deadlines prove nothing.
    odd: bool,
    /// Buffers were few.
    narrow: bool,
}

/// `stopped`: the worker ended at once, and nobody was told how it went on.
pub fn judge(sim: &Sim, odd: bool, narrow: bool, stopped: bool) {
    for (s, slot) in sim.slots.iter().enumerate() {
        let case = Case {
            sim,
            slot,
            asked: &sim.truth.asked[s],
            odd,
            narrow,
        };
        if sim.trace {
            println!("client {s}: {:?}\n  {:?}", slot.records, slot.client.got);
        }
        case.repeats();
        case.records();
        if slot.tcp {
            case.tcp();
        } else if !stopped {
            case.answers();
        }
        case.tunnels(stopped);
    }
}

impl Case<'_> {
    fn attempts(&self, request: usize) -> impl Iterator<Item = &Attempt> {
        let all = self.slot.attempts.iter();
        all.filter(move |attempt| attempt.request == request)
    }

    /// Requests of which a byte was sent.
    fn begun(&self) -> usize {
        let sent = self.slot.client.sent;
        self.asked.iter().filter(|asked| asked.start < sent).count()
    }

    /// A request whose bytes may have reached a backend is never sent twice, but once.
    fn repeats(&self) {
        for (i, asked) in self.asked.iter().enumerate() {
            let refused = asked.is_refused() || self.slot.limited.contains(&i);
            let tries = self.slot.connects.iter().filter(|at| **at == i).count();
            assert!(
                !refused || tries == 0,
                "request {i} was refused, yet went on"
            );
            assert!(tries <= 5, "request {i}: {tries} connections");
            let sent: Vec<_> = self.attempts(i).filter(|attempt| attempt.up > 0).collect();
            match sent[..] {
                [] | [_] => {}
                [first, second] => {
                    assert!(asked.may_be_repeated(), "request {i} was sent twice");
                    assert!(first.reused && first.down == 0, "request {i}: {first:?}");
                    assert!(!second.reused, "request {i}: {second:?}");
                }
                _ => panic!("request {i} was sent often"),
            }
        }
    }

    fn records(&self) {
        let most = if self.slot.tcp { 1 } else { self.begun() };
        let count = self.slot.records.len();
        assert!(count <= most, "{count} records of {most} requests");
        for (i, seen) in self.slot.records.iter().enumerate() {
            assert!(
                self.is_caused(i, seen),
                "record {i} without a cause: {seen:?}"
            );
        }
    }

    /// Whether what a record says did happen.
    fn is_caused(&self, i: usize, seen: &Seen) -> bool {
        let slot = self.slot;
        let kind = self.asked.get(i).map_or(Kind::Good, |asked| asked.kind);
        let timeout = slot.timeouts.contains(&i);
        let backend = self
            .attempts(i)
            .any(|attempt| self.sim.backs[attempt.conn].server.faulty);
        let ended = matches!(slot.client.faulted, Some(Fault::End(_)));
        match seen.end {
            End::Ok => self.asked.get(i).is_none_or(|asked| !asked.is_refused()),
            End::ClientClosed => ended || slot.client.gone,
            End::ClientReset => slot.client.gone,
            End::ClientBadRequest => match kind {
                Kind::BadHead(status) => status == 0 || status == seen.status,
                Kind::BadBody | Kind::Foreign => true,
                Kind::Good | Kind::NoRoute | Kind::Denied | Kind::TooLarge => false,
            },
            End::ClientNoRoute => kind == Kind::NoRoute && seen.status == 404,
            End::ClientDenied => kind == Kind::Denied && seen.status == 403,
            End::ClientTooLarge => matches!(kind, Kind::TooLarge | Kind::BadBody),
            End::ClientTooSlow => timeout && self.may_be_blamed(i),
            End::ClientRateLimited => slot.limited.contains(&i) && seen.status == 429,
            End::BackendNone | End::BackendRefused | End::BackendTlsFailed => {
                slot.unconnected.contains(&i)
            }
            End::BackendClosed | End::BackendBadResponse | End::BackendCut => backend,
            // Who makes others wait is to blame, unless time jumped, or buffers lacked.
            End::ClientTimeout => timeout && self.may_be_blamed(i),
            End::BackendTimeout => timeout && (self.odd || self.narrow || backend),
            End::BackendConnectTimeout | End::TunnelTimeout => timeout,
            // Nobody does either here.
            End::ProxyShutdown | End::ProxyKilled => false,
            End::ProxyNoRoom => self.narrow,
            End::ProxyQueueFull => slot.turned_away.contains(&i),
            End::ProxyQueueTimeout => slot.too_late.contains(&i),
        }
    }

    /// The client may be what everyone waited for at that request.
    fn may_be_blamed(&self, i: usize) -> bool {
        let client = &self.slot.client;
        let owes = self
            .asked
            .get(i)
            .is_some_and(|asked| client.sent < asked.end);
        self.odd || self.narrow || owes || client.is_silent()
    }

    // ---- HTTP -----------------------------------------------------------

    fn answers(&self) {
        let (got, records) = (&self.slot.client.got, &self.slot.records);
        assert!(got.len() <= records.len(), "answers that nobody logged");
        for (i, (got, seen)) in got.iter().zip(records).enumerate() {
            assert_eq!(got.status, seen.status, "what the record of {i} says");
            if got.answer.is_none() {
                self.ours(i, got, seen);
            }
            if !got.whole {
                assert!(self.may_lack(i), "answer {i} is cut, and nobody knows why");
            }
            if seen.end == End::Ok && got.answer.is_none() {
                panic!("answer {i} is ours, the record says ok");
            }
        }
        let last_says_close = got.last().is_some_and(|got| got.says_close);
        if got.len() < self.asked.len() && !last_says_close {
            let i = got.len();
            let whole = self.slot.client.sent >= self.asked[i].end;
            let cut = got.last().is_some_and(|got| !got.whole);
            assert!(
                !whole || cut || self.may_lack(i),
                "request {i} has no answer, and nobody knows why"
            );
        }
    }

    /// Answers of our own are there for a reason.
    fn ours(&self, i: usize, got: &Got, seen: &Seen) {
        let wanted = match seen.end {
            End::ClientBadRequest => return,
            End::ClientNoRoute => 404,
            End::ClientDenied => 403,
            End::ClientTooLarge => 413,
            End::ClientRateLimited => 429,
            End::ClientTimeout | End::ClientTooSlow => 408,
            End::BackendClosed | End::BackendBadResponse => 502,
            End::BackendNone | End::BackendRefused | End::BackendTlsFailed => 503,
            End::ProxyQueueFull | End::ProxyQueueTimeout => 503,
            End::BackendTimeout | End::BackendConnectTimeout => 504,
            // Begun, then overtaken by what the client did.
            End::ClientReset | End::ClientClosed => return,
            other => panic!("answer {i} is ours, the record says {other:?}"),
        };
        assert_eq!(got.status, wanted, "for {:?}", seen.end);
    }

    /// The client may have no answer to that request, or half of one.
    fn may_lack(&self, i: usize) -> bool {
        let client = &self.slot.client;
        let own_doing = client.faulted.is_some() || client.is_deaf();
        let timeout = self.slot.lapsed || self.slot.timeouts.contains(&i);
        let late = self.odd && timeout || self.sim.stay != Stay::Welcome;
        let idle = self.slot.lapsed && self.slot.records.len() <= i;
        let recorded = self.slot.records.get(i).is_some_and(|seen| {
            let cut = matches!(
                seen.end,
                End::BackendCut | End::BackendBadResponse | End::BackendTimeout | End::ProxyNoRoom
            );
            let client = matches!(
                seen.end,
                End::ClientTimeout
                    | End::ClientBadRequest
                    | End::ClientTooLarge
                    | End::ClientTooSlow
            );
            // What the client asked for is closed at once: bytes behind it make that a reset.
            let hasty = !self.asked[i].keep_alive || !self.asked[i].http11;
            let more = client_sent_more(self.slot, &self.asked[i]);
            cut || client || hasty && more || self.slot.lapsed && more
        });
        // What is not HTTP is closed at once, and answers on their way may be lost with it.
        let foreign = self.asked.iter().any(|asked| asked.kind == Kind::Foreign);
        own_doing || foreign || late || idle || recorded || self.slot.reset
    }

    // ---- tunnels --------------------------------------------------------

    fn tcp(&self) {
        assert!(self.slot.client.got.is_empty());
    }

    /// Bytes equal and in order both ways; if the record says ok, all of them.
    fn tunnels(&self, stopped: bool) {
        let (Some(front), Some(attempt)) = (&self.slot.client.tunnel, self.slot.attempts.last())
        else {
            return;
        };
        let Some(back) = &self.sim.backs[attempt.conn].server.tunnel else {
            assert!(front.got.is_empty(), "a tunnel with one end");
            return;
        };
        assert!(back.got.len() <= front.sent && front.got.len() <= back.sent);
        assert!(front.out.starts_with(&back.got), "other bytes upwards");
        assert!(back.out.starts_with(&front.got), "other bytes downwards");
        let Some(seen) = self.slot.records.last() else {
            return;
        };
        if stopped || seen.end != End::Ok || self.slot.client.is_deaf() {
            return;
        }
        let unhurt = !matches!(
            self.slot.client.faulted,
            Some(Fault::End(Ending::Close | Ending::Reset))
        );
        if unhurt {
            assert_eq!(
                front.got.len(),
                back.sent,
                "downwards, in a tunnel that went well"
            );
        }
        assert_eq!(
            back.got.len(),
            front.sent,
            "upwards, in a tunnel that went well"
        );
    }
}

fn client_sent_more(slot: &Slot, asked: &Asked) -> bool {
    slot.client.sent > asked.end
}
