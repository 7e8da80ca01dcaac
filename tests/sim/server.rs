//! A backend's end of one connection: reads requests as a strict peer, checks
//! them against what was asked, and answers by script.

use crate::dice::Dice;
use crate::plan::{Asked, Kind};
use crate::reader::{Framing, Head, Item, Reader};
use crate::script::{self, Answer, Script, Trigger};
use crate::tunnel::Tunnel;
use crate::wire::{Ending, Wire};

/// What all peers know: every request, and every answer that was begun.
pub struct Truth {
    /// By client.
    pub asked: Vec<Vec<Asked>>,
    pub answers: Vec<Answer>,
    /// Size of a buffer of the proxy, without what lies around it.
    pub room: usize,
    /// The longest body that may pass.
    pub longest: Option<u32>,
}

/// The request in hand, and its answer on the way.
struct Job {
    client: usize,
    index: usize,
    answer: usize,
    script: Script,
    sent: usize,
    heard: usize,
    request_done: bool,
    answer_done: bool,
}

pub struct Server {
    reader: Reader,
    job: Option<Job>,
    /// The answer that was begun last.
    last: Option<usize>,
    pub tunnel: Option<Tunnel>,
    /// It will never move again by itself.
    pub stalled: bool,
    /// It did what makes a proxy's request fail.
    pub faulty: bool,
    /// It said, or showed, that no other request may come.
    pub says_close: bool,
    dies_idle: bool,
    shut: bool,
    gone: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    Read,
    Write,
    End,
    Die,
    Leave,
}

impl Server {
    pub fn new(tunnel: Option<Tunnel>) -> Server {
        let mut server = Server {
            reader: Reader::default(),
            job: None,
            last: None,
            tunnel,
            stalled: false,
            faulty: false,
            says_close: false,
            dies_idle: false,
            shut: false,
            gone: false,
        };
        if server.tunnel.is_some() {
            server.reader.raw();
        }
        server
    }

    pub fn moves(&self, wire: &Wire, add: &mut impl FnMut(Move)) {
        if self.gone {
            return;
        }
        let deaf = self.stalled && self.tunnel.is_none() || self.is_deaf();
        if !wire.from_proxy.is_empty() && !deaf {
            add(Move::Read);
        }
        if let Some(tunnel) = &self.tunnel {
            if tunnel.can_speak(wire) {
                add(Move::Write);
            }
            if tunnel.can_shut() {
                add(Move::End);
            }
            let over = wire.is_over() && (tunnel.shut || wire.proxy_reset || wire.proxy_closed);
            if over || wire.is_over() && !tunnel.saw_end {
                add(Move::Leave);
            }
            return;
        }
        if wire.is_over() {
            add(Move::Leave);
        }
        match &self.job {
            Some(job) if !self.stalled && !self.shut => {
                if job.sent < job.limit() && wire.to_proxy.room() > 0 {
                    add(Move::Write);
                }
                if job.is_ending() && job.is_triggered() {
                    add(Move::End);
                }
            }
            None if self.dies_idle && !self.shut => add(Move::Die),
            _ => {}
        }
    }

    fn is_deaf(&self) -> bool {
        self.job.as_ref().is_some_and(|job| job.script.deaf)
    }

    /// Nothing is to be expected of it: the proxy has to wait or give up.
    pub fn is_silent(&self) -> bool {
        let open = self.tunnel.as_ref().is_some_and(Tunnel::stays_open);
        self.stalled || self.is_deaf() || open
    }

    pub fn act(&mut self, what: Move, wire: &mut Wire, truth: &mut Truth, dice: &mut Dice) {
        match what {
            Move::Read => self.read(wire, truth, dice),
            Move::Write => match &mut self.tunnel {
                Some(tunnel) => tunnel.speak(wire, dice),
                None => self.write(wire, truth, dice),
            },
            Move::End => self.end(wire, truth, dice),
            Move::Die => {
                self.faulty = true;
                let ending = dice.pick(&[Ending::Close, Ending::Reset]);
                self.finish(ending, wire, dice);
            }
            Move::Leave => match &mut self.tunnel {
                Some(tunnel) if !tunnel.saw_end && !wire.proxy_closed => tunnel.saw_end = true,
                _ => self.finish(Ending::Close, wire, dice),
            },
        }
    }

    fn finish(&mut self, ending: Ending, wire: &mut Wire, dice: &mut Dice) {
        self.shut = true;
        self.gone = ending != Ending::Shut;
        wire.end(ending, dice);
    }

    fn end(&mut self, wire: &mut Wire, truth: &mut Truth, dice: &mut Dice) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.shut(wire, dice);
            return;
        }
        let Some(job) = &mut self.job else { return };
        let Some((_, ending)) = job.script.end else {
            return;
        };
        let answer = &mut truth.answers[job.answer];
        answer.ended = Some(ending);
        job.answer_done = true;
        // Who closes with bytes unread or still to come resets.
        let unread = !job.request_done && ending != Ending::Shut;
        self.faulty |= !answer.is_whole() || unread || ending == Ending::Reset || !self.says_close;
        self.next_job();
        self.finish(ending, wire, dice);
    }

    fn write(&mut self, wire: &mut Wire, truth: &mut Truth, dice: &mut Dice) {
        let Some(job) = &mut self.job else { return };
        let answer = &mut truth.answers[job.answer];
        let most = job.limit() - job.sent;
        let mut n = match dice.percent(50) {
            true => most,
            false => dice.between(most.min(1), most),
        };
        let surplus = job.script.wire.len() > answer.whole_at;
        if surplus && job.sent + n >= answer.whole_at {
            // What is too much comes with the rest, so that it can be noticed.
            n = most;
            wire.to_proxy.widen(n);
        }
        job.sent += wire.push(&job.script.wire[job.sent..], n);
        answer.emitted = job.sent;
        if job.script.stall == Some(job.sent) {
            self.stalled = true;
            self.faulty = true;
        }
        if job.sent == job.script.wire.len() && job.script.switches {
            let out = dice.body();
            self.tunnel = Some(Tunnel::new(out, dice));
            self.job = None;
            return;
        }
        self.faulty |= !answer.well;
        job.answer_done = job.sent == job.script.wire.len() && job.script.end.is_none();
        self.next_job();
    }

    /// A request that is done makes place for the next.
    fn next_job(&mut self) {
        if let Some(job) = self.job.take_if(|job| job.request_done && job.answer_done) {
            self.dies_idle = job.script.dies_idle;
        }
    }

    fn read(&mut self, wire: &mut Wire, truth: &mut Truth, dice: &mut Dice) {
        let waiting = wire.from_proxy.len();
        let n = match dice.percent(50) {
            true => waiting,
            false => dice.between(1, waiting),
        };
        self.reader.feed(&wire.from_proxy.peek()[..n]);
        wire.from_proxy.take(n);
        let ended = match &self.job {
            None => self.shut && self.tunnel.is_none(),
            Some(job) => job.request_done && job.is_ending(),
        };
        if ended {
            // It had ended, or was about to, which the proxy did not see in time.
            self.faulty = true;
            self.finish(Ending::Reset, wire, dice);
            return;
        }
        if let Some(tunnel) = &mut self.tunnel {
            self.reader.raw();
            while let Some(Item::Data(data)) = self.reader.next() {
                tunnel.got.extend_from_slice(&data);
            }
            return;
        }
        while let Some(item) = self.reader.next() {
            match item {
                Item::Head(head) => self.begin(&head, truth, dice),
                Item::Data(data) => self.hear(&data, truth),
                Item::End(trailers) => self.heard(&trailers, truth),
            }
        }
    }

    /// A request's head has come.
    fn begin(&mut self, head: &Head, truth: &mut Truth, dice: &mut Dice) {
        assert!(self.job.is_none(), "a request before the last was answered");
        assert!(!self.says_close, "a request on a connection that ends");
        let (client, index) = origin(head, truth);
        let asked = &truth.asked[client][index];
        let framing = check_head(head, asked);
        self.reader.body(framing);
        let id = truth.answers.len();
        let (script, mut answer) = script::script(asked, id, truth.room, dice);
        self.says_close = answer.says_close || answer.until_close;
        (answer.client, answer.index) = (client, index);
        truth.answers.push(answer);
        self.stalled = script.stall == Some(0);
        self.faulty |= self.stalled || script.deaf;
        self.last = Some(id);
        self.job = Some(Job {
            client,
            index,
            answer: id,
            script,
            sent: 0,
            heard: 0,
            request_done: false,
            answer_done: false,
        });
    }

    fn hear(&mut self, data: &[u8], truth: &Truth) {
        let job = self.job.as_mut().expect("a body of some request");
        let asked = &truth.asked[job.client][job.index];
        let wanted = asked.body.get(job.heard..).unwrap_or_default();
        if asked.kind == Kind::BadBody && data.len() > wanted.len() {
            // One chunk of those that break the rules may begin well.
            assert!(data.starts_with(wanted) && data.len() < wanted.len() + 4);
        } else {
            assert!(wanted.starts_with(data), "other bytes than were sent");
        }
        job.heard += data.len();
        let longest = truth.longest.filter(|_| asked.kind == Kind::TooLarge);
        assert!(longest.is_none_or(|longest| job.heard <= longest as usize));
    }

    fn heard(&mut self, trailers: &[(String, String)], truth: &Truth) {
        let job = self.job.as_mut().expect("the end of some request");
        let asked = &truth.asked[job.client][job.index];
        assert_eq!(asked.kind, Kind::Good, "a whole request that is not one");
        assert_eq!(job.heard, asked.body.len(), "a body cut short");
        let wanted = asked.trailer.then(|| ("x-sum".into(), "12".into()));
        assert_eq!(trailers, wanted.as_slice(), "trailers");
        job.request_done = true;
        self.next_job();
    }

    /// Whether another request may come by this connection, of whose last answer so
    /// many bytes were read.
    pub fn check_release(&self, wire: &Wire, read: usize, truth: &Truth) {
        assert!(!self.says_close && self.tunnel.is_none(), "kept, but ends");
        let mut rest = self.reader.clone();
        rest.feed(wire.from_proxy.peek());
        while let Some(item) = rest.next() {
            if let Item::Head(head) = item {
                // Answered before it was read.
                let (client, index) = origin(&head, truth);
                rest.body(check_head(&head, &truth.asked[client][index]));
            }
        }
        assert!(rest.is_clean(), "kept with half a request in it");
        let answer = &truth.answers[self.last.expect("an answer")];
        assert!(answer.is_whole(), "kept before the answer was whole");
        assert_eq!(read, answer.whole_at, "kept, but not read to its end only");
    }
}

/// It comes before the body, if at all.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

impl Job {
    /// How much of the answer may be sent by now.
    fn limit(&self) -> usize {
        let script = &self.script;
        let stop = script.stall.or(script.end.map(|(at, _)| at));
        let stop = stop.unwrap_or(script.wire.len());
        match (self.is_triggered(), script.wire.starts_with(CONTINUE)) {
            (true, _) => stop,
            (false, true) => stop.min(CONTINUE.len()).max(self.sent),
            (false, false) => self.sent,
        }
    }

    /// All is sent that will be, but the connection has still to be ended.
    fn is_ending(&self) -> bool {
        self.script.end.is_some_and(|(at, _)| at == self.sent)
    }

    fn is_triggered(&self) -> bool {
        match self.script.trigger {
            Trigger::AtHead => true,
            Trigger::Within(n) => self.heard >= n || self.request_done,
            Trigger::Whole => self.request_done,
        }
    }
}

/// Whose request that is, and which of them.
fn origin(head: &Head, truth: &Truth) -> (usize, usize) {
    let path = head.words[1].split('?').next().unwrap_or("");
    let mut numbers = path.strip_prefix("/c/").expect("a target").split('/');
    let mut number = || {
        numbers
            .next()
            .and_then(|n| n.parse().ok())
            .expect("a number")
    };
    let (client, index): (usize, usize) = (number(), number());
    assert!(index < truth.asked[client].len());
    (client, index)
}

/// What a backend may rely on in a head. Returns how the body is framed.
fn check_head(head: &Head, asked: &Asked) -> Framing {
    assert!(
        !asked.is_refused(),
        "a request that is refused: {:?}",
        asked.kind
    );
    assert_eq!(head.words, [asked.method, &asked.target, "HTTP/1.1"]);
    assert_eq!(head.one("x-token"), Some(asked.token.as_str()));
    assert_eq!(head.one("x-hop"), None, "a field for us alone");
    assert!(head.one("host").is_some());
    assert_eq!(head.one("x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(head.one("x-request-id").map(str::len), Some(32));
    let via = if asked.http11 { "1.1 sozu" } else { "1.0 sozu" };
    assert_eq!(head.one("via"), Some(via));
    let connection = asked.websocket.then_some("Upgrade");
    assert_eq!(head.one("connection"), connection);
    assert_eq!(head.one("expect"), asked.expects.then_some("100-continue"));
    let framing = head.framing(Framing::None);
    match (asked.chunked, asked.body.len()) {
        (true, _) => assert_eq!(framing, Framing::Chunked),
        (false, 0) => assert!(matches!(framing, Framing::None | Framing::Counted(0))),
        (false, n) => assert_eq!(framing, Framing::Counted(n)),
    }
    framing
}
