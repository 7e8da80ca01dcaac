//! What a client is going to say: a script of requests, good and bad, as bytes.

use crate::dice::Dice;

/// What becomes of a request if nothing goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Good,
    /// 404, and the next one may follow.
    NoRoute,
    /// 403, and the next one may follow.
    Denied,
    /// 413: its body is longer than any may be.
    TooLarge,
    /// Its head is refused with that status; 0: with any.
    BadHead(u16),
    /// Its body is refused behind `Asked::body`.
    BadBody,
    /// Not HTTP at all: closed without a word.
    Foreign,
}

/// One request, and what its backend has to get of it.
#[derive(Debug)]
pub struct Asked {
    pub kind: Kind,
    pub method: &'static str,
    pub http11: bool,
    /// The path and query that a backend sees.
    pub target: String,
    /// A field that has to arrive as it was sent.
    pub token: String,
    pub body: Vec<u8>,
    pub chunked: bool,
    /// A trailer that has to arrive; others must not.
    pub trailer: bool,
    pub expects: bool,
    /// The client waits for 100 before it sends the body.
    pub waits: bool,
    pub keep_alive: bool,
    pub websocket: bool,
    /// Offsets in `Plan::bytes`.
    pub start: usize,
    pub head_end: usize,
    pub end: usize,
}

impl Asked {
    /// No backend sees any of it.
    pub fn is_refused(&self) -> bool {
        match self.kind {
            Kind::Good | Kind::BadBody => false,
            // How long chunks are together, nobody knows before.
            Kind::TooLarge => !self.chunked,
            _ => true,
        }
    }

    /// It may be sent twice if its first connection was dead.
    pub fn may_be_repeated(&self) -> bool {
        let idempotent = ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"].contains(&self.method);
        idempotent && self.body.is_empty() && !self.chunked
    }
}

#[derive(Default)]
pub struct Plan {
    pub asked: Vec<Asked>,
    pub bytes: Vec<u8>,
    /// What goes through the tunnel that the last request asks for.
    pub tunnel: Vec<u8>,
}

const BAD_HEADS: [(u16, &str); 24] = [
    (400, "GET / HTTP/1.1\nHost: a.test\n\n"),
    (400, "GET / HTTP/1.1\r\nHost: a.test\r\nX: a\rb\r\n\r\n"),
    (400, "GET  / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    (400, "GET /\r\n\r\n"),
    (400, "GET /%00 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    (400, "GET /a#b HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    (400, "GET /.. HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    (400, "GET * HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a.test\r\nHost: a.test\r\n\r\n"),
    (400, "GET http://b.test/ HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost: a.test\r\n folded: x\r\n\r\n"),
    (400, "GET / HTTP/1.1\r\nHost : a.test\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: +1\r\n\r\nx"),
    (400, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"),
    (400, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    (400, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
    (501, "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip\r\n\r\n"),
    (417, "POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 200\r\nContent-Length: 1\r\n\r\nx"),
    (405, "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    (405, "TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    (505, "GET / HTTP/1.2\r\nHost: a.test\r\n\r\n"),
    (505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
];

const BAD_CHUNKS: [&str; 9] = [
    "\r\n",
    "x\r\n",
    "-1\r\n",
    "1\nx\r\n",
    "1\r\nxy\r\n",
    "2;a\x01\r\nab\r\n",
    "2;a=\"b\r\nab\r\n",
    "10000000000000000\r\n",
    "0\r\nno colon\r\n\r\n",
];

/// A client's whole script. `room` is the size of a buffer, `longest` that of a body.
pub fn plan(client: usize, room: usize, longest: Option<u32>, dice: &mut Dice) -> Plan {
    let mut plan = Plan::default();
    let count = dice.between(1, 5);
    for i in 0..count {
        match dice.below(30) {
            0 => bad_head(&mut plan, dice),
            1 => bad_body(&mut plan, client, room, dice),
            2 if i + 1 == count => garbage(&mut plan, dice),
            3 => large(&mut plan, client, room, dice),
            4 | 5 if i + 1 == count => websocket(&mut plan, client, dice),
            _ => good(&mut plan, client, longest, dice),
        }
    }
    plan
}

/// A TCP client says whatever it wants; where TLS passes through, behind a ClientHello.
pub fn tunnel(passthrough: bool, dice: &mut Dice) -> Plan {
    let mut tunnel = Vec::new();
    if passthrough {
        tunnel = client_hello(dice);
    }
    tunnel.extend(dice.body());
    Plan {
        tunnel,
        ..Plan::default()
    }
}

/// One without extensions, in records of any size.
fn client_hello(dice: &mut Dice) -> Vec<u8> {
    const FIXED: [u8; 4] = [1, 0, 0, 41];
    const LISTS: [u8; 7] = [0, 0, 2, 0x13, 1, 1, 0];
    let message = [&FIXED[..], &[3, 3], &[7; 32], &LISTS].concat();
    let records = message.chunks(dice.between(1, message.len()));
    let records = records.map(|part| [&[22, 3, 1, 0, part.len() as u8], part].concat());
    records.collect::<Vec<_>>().concat()
}

fn blank(plan: &Plan, client: usize) -> Asked {
    Asked {
        kind: Kind::Good,
        method: "GET",
        http11: true,
        target: format!("/c/{client}/{}", plan.asked.len()),
        token: String::new(),
        body: Vec::new(),
        chunked: false,
        trailer: false,
        expects: false,
        waits: false,
        keep_alive: true,
        websocket: false,
        start: plan.bytes.len(),
        head_end: 0,
        end: 0,
    }
}

impl Plan {
    fn add(&mut self, mut asked: Asked, head: &[u8], body: &[u8]) {
        self.bytes.extend_from_slice(head);
        asked.head_end = self.bytes.len();
        self.bytes.extend_from_slice(body);
        asked.end = self.bytes.len();
        self.asked.push(asked);
    }
}

fn bad_head(plan: &mut Plan, dice: &mut Dice) {
    let (status, text) = dice.pick(&BAD_HEADS);
    let mut asked = blank(plan, 0);
    asked.kind = Kind::BadHead(status);
    plan.add(asked, text.as_bytes(), b"");
}

fn garbage(plan: &mut Plan, dice: &mut Dice) {
    let mut asked = blank(plan, 0);
    if dice.percent(30) {
        asked.kind = Kind::Foreign;
        plan.add(asked, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"");
        return;
    }
    asked.kind = Kind::BadHead(0);
    let len = dice.between(1, 200);
    let mut bytes = dice.bytes(len);
    bytes[0] = b'{';
    bytes.extend_from_slice(b"\n\n");
    plan.add(asked, &bytes, b"");
}

/// More than a small buffer holds, or than anyone takes.
fn large(plan: &mut Plan, client: usize, room: usize, dice: &mut Dice) {
    let mut asked = blank(plan, client);
    let most = room.min(16 * 1024);
    let (path, field) = match dice.below(3) {
        0 => (dice.between(8190, 9000), 1),
        1 => (1, dice.between(room.saturating_sub(2000), most - 200)),
        _ => (1, dice.between(most, most + 3000)),
    };
    asked.kind = match (path, field) {
        // What comes first: the longest line, or a buffer that is full.
        (8190.., _) if most > 8194 => Kind::BadHead(414),
        (8190.., _) => Kind::BadHead(0),
        (_, field) if field >= most => Kind::BadHead(431),
        _ => Kind::Good,
    };
    asked.target = format!("{}?{}", asked.target, "p".repeat(path));
    asked.token = "t".repeat(field);
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: a.test\r\nX-Token: {}\r\n\r\n",
        asked.target, asked.token
    );
    plan.add(asked, head.as_bytes(), b"");
}

fn websocket(plan: &mut Plan, client: usize, dice: &mut Dice) {
    let mut asked = blank(plan, client);
    asked.websocket = true;
    let head = format!(
        "GET {} HTTP/1.1\r\nHost: a.test\r\nX-Token: \r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        asked.target
    );
    plan.tunnel = dice.body();
    plan.add(asked, head.as_bytes(), b"");
}

fn good(plan: &mut Plan, client: usize, longest: Option<u32>, dice: &mut Dice) {
    let mut asked = blank(plan, client);
    let bodyless = dice.percent(60);
    asked.method = match bodyless {
        true => dice.pick(&["GET", "GET", "GET", "HEAD", "OPTIONS", "DELETE", "POST"]),
        false => dice.pick(&["POST", "POST", "PUT", "PATCH", "GET", "DELETE"]),
    };
    asked.http11 = dice.percent(85);
    asked.token = "x".repeat(dice.between(0, 30));
    if !bodyless {
        asked.body = dice.body();
        asked.chunked = asked.http11 && dice.percent(50);
        asked.trailer = asked.chunked && dice.percent(20);
        asked.expects =
            asked.http11 && dice.percent(20) && (asked.chunked || !asked.body.is_empty());
        asked.waits = asked.expects && dice.percent(70);
    }
    if longest.is_some_and(|longest| asked.body.len() > longest as usize) {
        asked.kind = Kind::TooLarge;
    }
    if dice.percent(8) {
        let refused = [(Kind::NoRoute, "/nowhere"), (Kind::Denied, "/denied")];
        let (kind, target) = dice.pick(&refused);
        (asked.kind, asked.target) = (kind, target.to_owned());
    }
    let head = head(&mut asked, bodyless, dice);
    let body = match asked.chunked {
        true => chunked(&asked.body, asked.trailer, dice),
        false => asked.body.clone(),
    };
    plan.add(asked, head.as_bytes(), &body);
}

fn head(asked: &mut Asked, bodyless: bool, dice: &mut Dice) -> String {
    let empty_line = if dice.percent(10) { "\r\n" } else { "" };
    let absolute = if dice.percent(5) { "http://a.test" } else { "" };
    let version = if asked.http11 { "1.1" } else { "1.0" };
    let mut head = format!(
        "{empty_line}{} {absolute}{} HTTP/{version}\r\n",
        asked.method, asked.target
    );
    if asked.http11 || dice.percent(50) {
        head += "Host: a.test\r\n";
    }
    head += &format!("X-Token:{}\r\n", asked.token);
    let closes = dice.percent(10);
    let asks = dice.percent(60);
    asked.keep_alive = !closes && (asked.http11 || asks);
    if closes {
        head += "Connection: close\r\n";
    } else if asks {
        head += dice.pick(&[
            "connection: Keep-Alive\r\n",
            "Connection: keep-alive, x-hop\r\nX-Hop: 1\r\n",
        ]);
    }
    if asked.expects {
        head += "Expect: 100-continue\r\n";
    }
    if asked.chunked {
        head += dice.pick(&[
            "Transfer-Encoding: chunked\r\n",
            "transfer-encoding:CHUNKED \r\n",
        ]);
    } else if !bodyless || dice.percent(10) {
        head += &format!("Content-Length: {}\r\n", asked.body.len());
    }
    head + "\r\n"
}

fn bad_body(plan: &mut Plan, client: usize, room: usize, dice: &mut Dice) {
    let mut asked = blank(plan, client);
    asked.kind = Kind::BadBody;
    asked.method = "POST";
    asked.chunked = true;
    asked.body = dice.body();
    asked.target += "?bad";
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: a.test\r\nX-Token: \r\nTransfer-Encoding: chunked\r\n\r\n",
        asked.target
    );
    let mut body = chunks(&asked.body, dice);
    if dice.percent(10) {
        let long = format!("0\r\nX-Long: {}\r\n\r\n", "l".repeat(room));
        body.extend_from_slice(long.as_bytes());
    } else {
        // One byte of some may look like data: the backend may get it.
        body.extend_from_slice(dice.pick(&BAD_CHUNKS).as_bytes());
    }
    plan.add(asked, head.as_bytes(), &body);
}

/// A body in chunks of any size, the sizes written in any way.
pub fn chunked(body: &[u8], trailer: bool, dice: &mut Dice) -> Vec<u8> {
    let mut out = chunks(body, dice);
    out.extend_from_slice(dice.pick(&[&b"0\r\n"[..], b"000\r\n", b"0;last\r\n"]));
    if trailer {
        out.extend_from_slice(b"X-Sum: 12\r\nHost: evil.test\r\nContent-Length: 7\r\n");
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn chunks(body: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 64);
    let mut rest = body;
    while !rest.is_empty() {
        let most = dice.pick(&[3, 100, 2000, 40_000]);
        // Not thousands of tiny ones.
        let least = (body.len() / 100).min(most - 1) + 1;
        let n = dice.between(least, most).min(rest.len());
        let extension = dice.pick(&["", "", "", ";a=b", ";q=\"x; \\\" y\";z"]);
        let size = match dice.below(3) {
            0 => format!("{n:X}"),
            1 => format!("{n:06x}"),
            _ => format!("{n:x}"),
        };
        out.extend_from_slice(format!("{size}{extension}\r\n").as_bytes());
        out.extend_from_slice(&rest[..n]);
        out.extend_from_slice(b"\r\n");
        rest = &rest[n..];
    }
    out
}
