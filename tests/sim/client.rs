//! A client's end: sends its script in pieces, reads as a strict peer, and
//! checks every byte against what backends and proxy may have said.

use crate::dice::Dice;
use crate::plan::{Asked, Plan};
use crate::reader::{Framing, Head, Item, Reader};
use crate::script::Answer;
use crate::server::{Truth, EDITED};
use crate::tunnel::Tunnel;
use crate::wire::{Ending, Wire};

/// What the client does to the connection before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Sends no more.
    Stall,
    End(Ending),
}

/// A final response that the client got.
#[derive(Debug)]
pub struct Got {
    pub status: u16,
    /// Of a backend: which. Ours have none.
    pub answer: Option<usize>,
    pub says_close: bool,
    pub heard: usize,
    pub whole: bool,
}

pub struct Client {
    id: usize,
    bytes: Vec<u8>,
    tunnel_bytes: Vec<u8>,
    pub sent: usize,
    /// Requests that may be sent ahead of their answers.
    depth: usize,
    fault: Option<(usize, Fault)>,
    /// Reads no more after so many bytes.
    reads: usize,
    received: usize,
    reader: Reader,
    pub got: Vec<Got>,
    /// 1xx since the last final response: 100 among them.
    pub continues: bool,
    /// Has waited long enough for 100.
    pub impatient: bool,
    pub tunnel: Option<Tunnel>,
    /// What became of the fault.
    pub faulted: Option<Fault>,
    /// How the connection ended for this client.
    pub saw: Option<Ending>,
    shut: bool,
    pub gone: bool,
    /// Closes when all is answered, rather than to wait for the proxy's end.
    leaves: bool,
    /// Does not close when the proxy has.
    stubborn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    Read,
    Write,
    Fault,
    See,
    Shut,
    Leave,
}

impl Client {
    pub fn new(id: usize, plan: &mut Plan, tcp: bool, dice: &mut Dice) -> Client {
        let total = plan.bytes.len() + plan.tunnel.len();
        let fault = dice.percent(20).then(|| {
            let fault = dice.pick(&[
                Fault::Stall,
                Fault::End(Ending::Shut),
                Fault::End(Ending::Close),
                Fault::End(Ending::Reset),
            ]);
            (dice.between(0, total), fault)
        });
        let mut client = Client {
            id,
            bytes: std::mem::take(&mut plan.bytes),
            tunnel_bytes: std::mem::take(&mut plan.tunnel),
            sent: 0,
            depth: dice.pick(&[1, 1, 2, 9]),
            fault,
            reads: match dice.percent(5) {
                true => dice.between(0, 4000),
                false => usize::MAX,
            },
            received: 0,
            reader: Reader::default(),
            got: Vec::new(),
            continues: false,
            impatient: false,
            tunnel: None,
            faulted: None,
            saw: None,
            shut: false,
            gone: false,
            leaves: dice.percent(60),
            stubborn: dice.percent(10),
        };
        if tcp {
            client.begin_tunnel(dice);
        }
        client
    }

    fn begin_tunnel(&mut self, dice: &mut Dice) {
        self.reader.raw();
        self.tunnel = Some(Tunnel::new(std::mem::take(&mut self.tunnel_bytes), dice));
    }

    /// Whether this end, not the proxy, is what everyone waits for.
    pub fn is_silent(&self) -> bool {
        let open = self.tunnel.as_ref().is_some_and(Tunnel::stays_open);
        self.faulted == Some(Fault::Stall) || self.received >= self.reads || open
    }

    pub fn is_deaf(&self) -> bool {
        self.received >= self.reads
    }

    fn answered(&self) -> usize {
        self.got.iter().filter(|got| got.whole).count()
    }

    /// How far the script may be sent now.
    fn limit(&self, asked: &[Asked]) -> usize {
        let answered = self.answered();
        if asked.is_empty() || self.got.iter().any(|got| got.says_close) {
            return self.sent;
        }
        let last = (answered + self.depth).min(asked.len());
        let mut limit = asked[last - 1].end;
        let waits = |(i, request): &(usize, &Asked)| {
            let begun = self.got.len() > *i || self.continues && *i == answered;
            request.waits && *i >= answered && !begun && !self.impatient
        };
        if let Some((_, request)) = asked[..last].iter().enumerate().find(waits) {
            limit = limit.min(request.head_end);
        }
        match self.fault {
            Some((at, _)) if self.faulted.is_none() => limit.min(at),
            _ => limit,
        }
    }

    pub fn moves(&self, wire: &Wire, asked: &[Asked], add: &mut impl FnMut(Move)) {
        if self.gone {
            return;
        }
        if !wire.from_proxy.is_empty() && !self.is_deaf() {
            add(Move::Read);
        }
        if wire.is_over() && self.saw.is_none() {
            add(Move::See);
        }
        let done = self
            .tunnel
            .as_ref()
            .map_or(self.sent, |tunnel| tunnel.sent + self.sent);
        let due = self.fault.is_some_and(|(at, _)| at <= done);
        if due && self.faulted.is_none() && !self.shut {
            add(Move::Fault);
        }
        if self.shut || matches!(self.faulted, Some(Fault::Stall)) {
            return;
        }
        if let Some(tunnel) = &self.tunnel {
            if tunnel.can_speak(wire) && !due {
                add(Move::Write);
            }
            if tunnel.can_shut() {
                add(Move::Shut);
            }
        } else if self.saw.is_some() {
            if !self.stubborn {
                add(Move::Leave);
            }
        } else if self.sent < self.limit(asked) && wire.to_proxy.room() > 0 {
            add(Move::Write);
        } else if self.answered() == asked.len() && self.leaves {
            add(Move::Leave);
        }
    }

    pub fn act(&mut self, what: Move, wire: &mut Wire, truth: &Truth, dice: &mut Dice) {
        match what {
            Move::Read => self.read(wire, truth, dice),
            Move::Write => match &mut self.tunnel {
                Some(tunnel) => tunnel.speak(wire, dice),
                None => {
                    let most = self.limit(&truth.asked[self.id]) - self.sent;
                    let n = match dice.percent(60) {
                        true => most,
                        false => dice.between(1, most),
                    };
                    self.sent += wire.push(&self.bytes[self.sent..], n);
                }
            },
            Move::Fault => {
                let fault = self.fault.map(|(_, fault)| fault);
                self.faulted = fault;
                if let Some(Fault::End(ending)) = fault {
                    self.end(ending, wire, dice);
                }
            }
            Move::See => self.see(wire, truth, dice),
            Move::Shut => {
                self.shut = true;
                if let Some(tunnel) = &mut self.tunnel {
                    tunnel.shut(wire, dice);
                }
            }
            Move::Leave => {
                let ending = dice.pick(&[Ending::Close, Ending::Close, Ending::Shut]);
                self.end(ending, wire, dice);
            }
        }
    }

    fn end(&mut self, ending: Ending, wire: &mut Wire, dice: &mut Dice) {
        self.shut = true;
        self.gone = ending != Ending::Shut;
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.shut = true;
        }
        wire.end(ending, dice);
    }

    /// The proxy has ended the connection, or its side of it.
    fn see(&mut self, wire: &mut Wire, truth: &Truth, dice: &mut Dice) {
        let reset = wire.proxy_reset;
        self.saw = Some(if reset { Ending::Reset } else { Ending::Shut });
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.saw_end = !reset;
        }
        if self.reader.is_until_close() && !reset {
            self.whole(&[], truth);
        }
        if reset && !self.gone {
            self.end(Ending::Close, wire, dice);
        }
    }

    fn read(&mut self, wire: &mut Wire, truth: &Truth, dice: &mut Dice) {
        let waiting = wire.from_proxy.len();
        let n = match dice.percent(50) {
            true => waiting,
            false => dice.between(1, waiting),
        };
        self.received += n;
        self.reader.feed(&wire.from_proxy.peek()[..n]);
        wire.from_proxy.take(n);
        while let Some(item) = self.reader.next() {
            match item {
                Item::Head(head) => self.head(&head, truth, dice),
                Item::Data(data) => match &mut self.tunnel {
                    Some(tunnel) => tunnel.got.extend_from_slice(&data),
                    None => self.data(&data, truth),
                },
                Item::End(trailers) => self.whole(&trailers, truth),
            }
        }
    }

    fn head(&mut self, head: &Head, truth: &Truth, dice: &mut Dice) {
        let asked = &truth.asked[self.id];
        let index = self.got.len();
        assert!(index < asked.len(), "an answer that nobody asked for");
        let request = &asked[index];
        assert!(self.sent > request.start, "an answer before the request");
        assert!(
            !self.got.last().is_some_and(|got| got.says_close),
            "an answer behind the last one"
        );
        let status: u16 = head.words[1].parse().expect("a status");
        assert_eq!(head.words[0], "HTTP/1.1");
        match status {
            101 => {
                assert!(request.websocket, "101 that nobody asked for");
                self.final_head(head, status, true, truth);
                self.whole(&[], truth);
                self.begin_tunnel(dice);
            }
            100..=199 => {
                assert!(request.http11, "1xx to an HTTP/1.0 client");
                assert!(status != 100 || request.expects, "100 unasked for");
                self.continues |= status == 100;
                self.reader.again();
            }
            _ => {
                let framing = match request.method == "HEAD" || matches!(status, 204 | 304) {
                    true => Framing::None,
                    false => head.framing(Framing::UntilClose),
                };
                let old = !request.http11 && framing != Framing::Chunked;
                assert!(
                    old || framing != Framing::UntilClose && request.http11,
                    "framing that the client does not know: {framing:?}"
                );
                self.reader.body(framing);
                let close = match request.http11 {
                    true => head.says_close(),
                    false => head.one("connection") != Some("keep-alive"),
                };
                assert!(request.keep_alive || close, "kept although it asked not to");
                self.final_head(head, status, close, truth);
            }
        }
    }

    fn final_head(&mut self, head: &Head, status: u16, says_close: bool, truth: &Truth) {
        self.continues = false;
        let tag = head.one("x-tag").map(|tag| tag.parse().expect("a number"));
        match tag {
            Some(id) => {
                let answer: &Answer = &truth.answers[id];
                let place = (self.id, self.got.len());
                assert_eq!((answer.client, answer.index), place, "another's answer");
                assert_eq!(answer.status, status);
                assert!(answer.head_well, "a head that is malformed");
                let added = head.one("x-added").map(str::len);
                let edited = truth.edited && status != 101;
                assert_eq!(added, edited.then_some(EDITED.1), "what its frontend adds");
            }
            None => {
                assert_eq!(head.one("cache-control"), Some("no-store"));
                assert!(head.one("content-length").is_some());
                assert_eq!(head.one("x-request-id").map(str::len), Some(32));
            }
        }
        self.got.push(Got {
            status,
            answer: tag,
            says_close,
            heard: 0,
            whole: false,
        });
    }

    fn data(&mut self, data: &[u8], truth: &Truth) {
        let got = self.got.last_mut().expect("a body of some answer");
        if let Some(id) = got.answer {
            let wanted = &truth.answers[id].body[got.heard..];
            assert!(wanted.starts_with(data), "other bytes than were answered");
        }
        got.heard += data.len();
    }

    /// A response is over as far as anyone can see: then it has to be.
    fn whole(&mut self, trailers: &[(String, String)], truth: &Truth) {
        let request = &truth.asked[self.id][self.got.len() - 1];
        let got = self.got.last_mut().expect("the end of some answer");
        got.whole = true;
        let Some(id) = got.answer else {
            assert!(trailers.is_empty());
            return;
        };
        let answer = &truth.answers[id];
        assert!(answer.is_whole(), "half an answer that looks whole");
        let wanted = match answer.until_close {
            true => answer.body_emitted(),
            false => answer.body.len(),
        };
        assert_eq!(got.heard, wanted, "a body cut short");
        let trailer = answer.trailer && request.http11;
        let wanted = trailer.then(|| ("x-sum".into(), "12".into()));
        assert_eq!(trailers, wanted.as_slice(), "trailers");
    }
}
