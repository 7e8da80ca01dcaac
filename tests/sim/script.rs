//! What a backend is going to answer: a response as bytes, and how it goes wrong.

use crate::dice::Dice;
use crate::plan::{chunked, Asked};
use crate::wire::Ending;

/// A response as the client may see it.
#[derive(Debug)]
pub struct Answer {
    /// Whose request it answers, and which of them.
    pub client: usize,
    pub index: usize,
    pub status: u16,
    pub body: Vec<u8>,
    /// It ends with the connection.
    pub until_close: bool,
    pub chunked: bool,
    pub trailer: bool,
    /// A proxy may pass it on whole.
    pub well: bool,
    /// The bytes of its head are in order, whatever its body does.
    pub head_well: bool,
    pub says_close: bool,
    /// Bytes of the wire up to its end, and those that were sent.
    pub whole_at: usize,
    pub emitted: usize,
    /// How the backend ended its side while it was at it.
    pub ended: Option<Ending>,
}

impl Answer {
    /// It was sent to its end, as far as its reader can know.
    pub fn is_whole(&self) -> bool {
        let ended = matches!(self.ended, Some(Ending::Shut | Ending::Close));
        match self.until_close {
            true => self.well && self.emitted >= self.whole_at - self.body.len() && ended,
            false => self.well && self.emitted >= self.whole_at,
        }
    }

    /// How much of the body was sent, if it is not chunked.
    pub fn body_emitted(&self) -> usize {
        let head = self.whole_at - self.body.len();
        self.emitted.min(self.whole_at).saturating_sub(head)
    }
}

/// When the backend begins to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    AtHead,
    Within(usize),
    Whole,
}

pub struct Script {
    pub wire: Vec<u8>,
    pub trigger: Trigger,
    /// It ends in that way when so many bytes are sent.
    pub end: Option<(usize, Ending)>,
    /// It falls silent when so many bytes are sent.
    pub stall: Option<usize>,
    /// It reads no more than the head.
    pub deaf: bool,
    /// It dies later, while nobody asks it anything.
    pub dies_idle: bool,
    /// A tunnel begins behind the head.
    pub switches: bool,
}

/// The first of them are bad for what they say of the body, which means nothing behind HEAD.
const BAD_BODY_HEADS: usize = 5;
const BAD_HEADS: [&str; 13] = [
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: one\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "HTTX/1.1 200 OK\r\n\r\n",
    "HTTP/1.1 99 Low\r\n\r\n",
    "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    "HTTP/1.1 101 Switching\r\n\r\n",
    "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: no\r\n\r\n",
    "HTTP/1.1 200 OK\r\nName : value\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nA: b\x01\r\nContent-Length: 0\r\n\r\n",
    "{\"error\": true}\r\n\r\n",
];

/// `id` is put into the head, so that the client can tell whose answer it got.
pub fn script(asked: &Asked, id: usize, room: usize, dice: &mut Dice) -> (Script, Answer) {
    let mut answer = Answer {
        client: 0,
        index: 0,
        status: dice.pick(&[200, 200, 200, 200, 404, 503, 204, 304]),
        body: Vec::new(),
        until_close: false,
        chunked: false,
        trailer: false,
        well: true,
        head_well: true,
        says_close: dice.percent(15),
        whole_at: 0,
        emitted: 0,
        ended: None,
    };
    let mut wire = interims(asked, dice);
    let switches = asked.websocket && dice.percent(85);
    if dice.percent(4) {
        answer.head_well = false;
        answer.well = false;
        let first = if asked.method == "HEAD" {
            BAD_BODY_HEADS
        } else {
            0
        };
        match dice.between(first, BAD_HEADS.len() + 1) {
            13 => wire = "HTTP/1.1 102 Busy\r\n\r\n".repeat(17).into_bytes(),
            14 => wire.extend_from_slice(long_head(room).as_bytes()),
            i => wire.extend_from_slice(BAD_HEADS[i].as_bytes()),
        }
    } else if switches {
        answer.status = 101;
        wire.extend_from_slice(
            format!("HTTP/1.1 101 Switching\r\nX-Tag: {id}\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\
                 Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
                .as_bytes(),
        );
    } else {
        message(&mut answer, &mut wire, asked, id, dice);
    }
    answer.whole_at = wire.len();
    let switches = switches && answer.head_well;
    (faults(&mut answer, wire, switches, dice), answer)
}

fn interims(asked: &Asked, dice: &mut Dice) -> Vec<u8> {
    let mut wire = Vec::new();
    if asked.expects && dice.percent(80) {
        wire.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
    }
    while dice.percent(8) {
        wire.extend_from_slice(match dice.below(3) {
            0 => b"HTTP/1.1 100 Continue\r\n\r\n",
            1 => b"HTTP/1.1 102 Processing\r\n\r\n",
            _ => &b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n"[..],
        });
    }
    wire
}

fn long_head(room: usize) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nX-Long: {}\r\nContent-Length: 0\r\n\r\n",
        "l".repeat(room.min(16 * 1024))
    )
}

/// A final response with its body.
fn message(answer: &mut Answer, wire: &mut Vec<u8>, asked: &Asked, id: usize, dice: &mut Dice) {
    let body = dice.body();
    let bodyless = asked.method == "HEAD" || matches!(answer.status, 204 | 304);
    let http11 = dice.percent(90);
    let version = if http11 { "1.1" } else { "1.0" };
    let mut head = format!("HTTP/{version} {} Reason\r\nX-Tag: {id}\r\n", answer.status);
    let framing = dice.below(if http11 { 5 } else { 3 });
    match framing {
        0 if bodyless => {}
        0 => answer.until_close = true,
        1 | 2 if answer.status != 204 => head += &format!("Content-Length: {}\r\n", body.len()),
        1 | 2 => {}
        _ if answer.status == 204 => {}
        _ => {
            head += "transfer-encoding: Chunked\r\n";
            answer.chunked = !bodyless;
        }
    }
    if answer.says_close {
        head += "Connection: close\r\n";
    } else if !http11 && dice.percent(50) {
        head += "Connection: keep-alive\r\n";
    } else {
        answer.says_close = !http11;
    }
    wire.extend_from_slice(head.as_bytes());
    wire.extend_from_slice(b"\r\n");
    if bodyless {
        return;
    }
    if answer.chunked {
        answer.trailer = dice.percent(20);
        wire.extend_from_slice(&chunked(&body, answer.trailer, dice));
        if dice.percent(4) {
            answer.well = false;
            // Its last line end is missing; what comes instead is none.
            wire.truncate(wire.len() - 2);
            wire.extend_from_slice(b"\n\nx");
        }
    } else {
        wire.extend_from_slice(&body);
    }
    answer.body = body;
}

fn faults(answer: &mut Answer, mut wire: Vec<u8>, switches: bool, dice: &mut Dice) -> Script {
    let trigger = match dice.below(10) {
        0 => Trigger::AtHead,
        1 => Trigger::Within(dice.between(0, 2000)),
        _ => Trigger::Whole,
    };
    let mut end = None;
    let mut stall = None;
    match dice.below(30) {
        0 | 1 => {
            let ending = dice.pick(&[Ending::Shut, Ending::Close, Ending::Reset]);
            end = Some((dice.between(0, wire.len()), ending));
        }
        2 => stall = Some(dice.between(0, wire.len().saturating_sub(1))),
        _ => {}
    }
    let closes = answer.until_close || answer.says_close || !answer.well;
    if end.is_none() && stall.is_none() && closes && !switches {
        let ending = dice.pick(&[Ending::Shut, Ending::Shut, Ending::Close]);
        end = Some((wire.len(), ending));
    }
    if end.is_none() && !answer.until_close && !switches && dice.percent(3) {
        wire.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nextra");
    }
    Script {
        wire,
        trigger,
        end,
        stall,
        deaf: dice.percent(2),
        dies_idle: dice.percent(25),
        switches,
    }
}
