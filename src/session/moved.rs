//! A session that goes to another worker: what is known of it, as a line.
//!
//! What moves is what rests: a connection between two requests, or with the
//! start of a head; a tunnel, with what lies here of either direction. Moments
//! are of the clock that all workers share. The descriptors go beside the line;
//! this knows only how many there are.

use std::net::SocketAddr;
use std::rc::Rc;

use crate::buf::Pool;
use crate::http::framing::Body;
use crate::parser::bytes::{hex, unhex};
use crate::proto::line::{split, value_of, Word};
use crate::proto::reply;
use crate::session::body::Transfer;
use crate::session::exchange::{Down, Exchange};
use crate::session::flow::Flow;
use crate::session::{tunnel, Acts, Common, Phase, Secured, Server, Session, Target, World};
use crate::state::{Address, Protocol};

/// One direction of a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// What waits to be sent.
    pub bytes: Vec<u8>,
    /// The sender has shut its side …
    pub ended: bool,
    /// … and the receiver was told.
    pub shut: bool,
    /// Its pipe goes along: `Some(true)` if the sender's end waits behind what is in it.
    pub pipe: Option<bool>,
}

/// What a tunnel was before it moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub cluster: String,
    pub backend: String,
    pub address: Address,
    pub up: Way,
    pub down: Way,
    pub id: [u8; 32],
    pub line: Vec<u8>,
    pub host: Vec<u8>,
    pub user: Vec<u8>,
    pub status: u16,
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub start_us: u64,
    pub connected_us: u64,
    pub first_byte_us: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Between two requests; what has come of the next head.
    Idle(Vec<u8>),
    Tunnel(Box<Tunnel>),
}

/// A connection on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    pub listener: SocketAddr,
    pub protocol: Protocol,
    pub peer: SocketAddr,
    pub accepted_us: u64,
    /// The last byte, from which its time runs.
    pub since_us: u64,
    pub what: What,
}

/// How a line begins.
const SUBJECT: &str = "connection";

impl Session {
    /// What goes along, if it can go now; pipes are the caller's to add.
    pub fn departs(&self) -> Option<What> {
        match &self.phase {
            Phase::Idle => Some(What::Idle(Vec::new())),
            Phase::Head(x) if !self.common.front_ended => Some(What::Idle(x.up.raw().to_vec())),
            Phase::Tunnel(x) if self.common.acts == Acts::default() => {
                Some(What::Tunnel(Box::new(x.departs()?)))
            }
            _ => None,
        }
    }

    /// The moment from which its time runs.
    pub fn since_us(&self) -> u64 {
        self.common.since_us
    }

    /// It has come from another worker. `None`: its bytes are more than fit here. Those of
    /// a head are to be told as received, which `world` has put into its room.
    pub fn arrives(
        moved: &Moved,
        whither: Option<(Rc<Target>, Rc<Server>)>,
        world: &mut World,
    ) -> Option<(Session, usize)> {
        let mut common = Common {
            peer: moved.peer,
            since_us: moved.since_us,
            acts: Acts::default(),
            front_ended: false,
            secured: Secured::default(),
        };
        let mut came = 0;
        let phase = match (&moved.what, whither) {
            (What::Idle(head), _) if head.is_empty() => Phase::Idle,
            (What::Idle(head), _) => {
                let mut x = world.spare.pop().unwrap_or_default();
                came = x.up.load_raw(head, world.pool).then_some(head.len())?;
                Phase::Head(x)
            }
            (What::Tunnel(t), Some((target, server))) => {
                common.front_ended = t.up.ended;
                let mut x = world.spare.pop().unwrap_or_default();
                x.target = Some(target);
                x.server = Some(server);
                x.arrives(t, world.pool).then_some(())?;
                // As at an upgrade: nobody reads what comes behind a tunnel's end.
                x.abrupt = moved.protocol.behind() != Protocol::Tcp;
                tunnel::connected(&mut common, x)
            }
            (What::Tunnel(_), None) => return None,
        };
        Some((Session { phase, common }, came))
    }
}

impl Exchange {
    fn departs(&self) -> Option<Tunnel> {
        let (target, server) = (self.target.as_ref()?, self.server.as_ref()?);
        let r = &self.record;
        let way = |flow: &Flow, ended, shut| Way {
            bytes: flow.out().to_vec(),
            ended,
            shut,
            pipe: None,
        };
        Some(Tunnel {
            cluster: target.cluster.id.to_string(),
            backend: server.backend.id.to_string(),
            address: server.backend.address.clone(),
            up: way(&self.up, self.up_body.is_done(), self.up_shut),
            down: way(&self.down, self.down_done(), self.down_shut),
            id: r.id,
            line: r.line.clone(),
            host: r.host.clone(),
            user: r.user.clone(),
            status: r.status,
            bytes_up: r.bytes_up,
            bytes_down: r.bytes_down,
            start_us: r.start_us,
            connected_us: r.connected_us,
            first_byte_us: r.first_byte_us,
        })
    }

    /// False: its bytes are more than a buffer takes.
    fn arrives(&mut self, t: &Tunnel, pool: &mut Pool) -> bool {
        let body = |way: &Way| match way.ended {
            true => Transfer::new(Body::None, false),
            false => Transfer::tunnel(),
        };
        self.up_body = body(&t.up);
        self.down_state = Down::Body(body(&t.down));
        self.up_shut = t.up.shut;
        self.down_shut = t.down.shut;
        let r = &mut self.record;
        r.id = t.id;
        r.line.clone_from(&t.line);
        r.host.clone_from(&t.host);
        r.user.clone_from(&t.user);
        r.status = t.status;
        r.bytes_up = t.bytes_up;
        r.bytes_down = t.bytes_down;
        r.start_us = t.start_us;
        r.connected_us = t.connected_us;
        r.first_byte_us = t.first_byte_us;
        self.up.load(&t.up.bytes, pool) && self.down.load(&t.down.bytes, pool)
    }
}

impl Moved {
    /// Its line, without LF.
    pub fn encode(&self) -> String {
        let mut pairs = vec![
            ("listener", self.listener.to_string()),
            ("protocol", self.protocol.name().to_string()),
            ("client", self.peer.to_string()),
            ("accepted", self.accepted_us.to_string()),
            ("since", self.since_us.to_string()),
        ];
        match &self.what {
            What::Idle(head) => pairs.push(("head", hex(head))),
            What::Tunnel(t) => t.encode(&mut pairs),
        }
        let mut line = reply::data(SUBJECT, &pairs);
        line.pop();
        line
    }

    /// `None`: it is no such line.
    pub fn decode(line: &str) -> Option<Moved> {
        let words = Words(split(line).ok()?);
        words.begin_with(SUBJECT)?;
        let what = match words.get("head") {
            Some(head) => What::Idle(unhex(head)?),
            None => What::Tunnel(Box::new(Tunnel::decode(&words)?)),
        };
        Some(Moved {
            listener: words.parse("listener")?,
            protocol: Protocol::of(words.get("protocol")?)?,
            peer: words.parse("client")?,
            accepted_us: words.parse("accepted")?,
            since_us: words.parse("since")?,
            what,
        })
    }
}

impl Tunnel {
    fn encode(&self, pairs: &mut Vec<(&str, String)>) {
        let id = String::from_utf8_lossy(&self.id).into_owned();
        pairs.extend([
            ("cluster", self.cluster.clone()),
            ("backend", self.backend.clone()),
            ("address", self.address.to_string()),
            ("up", self.up.encode()),
            ("down", self.down.encode()),
            ("id", id),
            ("request", hex(&self.line)),
            ("host", hex(&self.host)),
            ("user", hex(&self.user)),
            ("status", self.status.to_string()),
            ("bytes_up", self.bytes_up.to_string()),
            ("bytes_down", self.bytes_down.to_string()),
            ("start", self.start_us.to_string()),
            ("connected", self.connected_us.to_string()),
            ("first_byte", self.first_byte_us.to_string()),
        ]);
    }

    fn decode(words: &Words) -> Option<Tunnel> {
        let id = words.get("id")?.as_bytes();
        Some(Tunnel {
            cluster: words.get("cluster")?.to_string(),
            backend: words.get("backend")?.to_string(),
            address: words.parse("address")?,
            up: Way::decode(words.get("up")?)?,
            down: Way::decode(words.get("down")?)?,
            id: id.try_into().ok()?,
            line: unhex(words.get("request")?)?,
            host: unhex(words.get("host")?)?,
            // A version before does not tell it.
            user: unhex(words.get("user").unwrap_or_default())?,
            status: words.parse("status")?,
            bytes_up: words.parse("bytes_up")?,
            bytes_down: words.parse("bytes_down")?,
            start_us: words.parse("start")?,
            connected_us: words.parse("connected")?,
            first_byte_us: words.parse("first_byte")?,
        })
    }
}

impl Way {
    /// `ended,shut,pipe:HEX`: the words that hold, then the bytes.
    fn encode(&self) -> String {
        let flags = [
            ("ended", self.ended),
            ("shut", self.shut),
            ("pipe", self.pipe == Some(false)),
            ("lastpipe", self.pipe == Some(true)),
        ];
        let flags = flags.into_iter().filter(|(_, on)| *on);
        let flags: Vec<&str> = flags.map(|(word, _)| word).collect();
        format!("{}:{}", flags.join(","), hex(&self.bytes))
    }

    fn decode(text: &str) -> Option<Way> {
        let (flags, bytes) = text.split_once(':')?;
        let mut way = Way {
            bytes: unhex(bytes)?,
            ..Way::default()
        };
        for flag in flags.split(',').filter(|flag| !flag.is_empty()) {
            match flag {
                "ended" => way.ended = true,
                "shut" => way.shut = true,
                "pipe" => way.pipe = Some(false),
                "lastpipe" => way.pipe = Some(true),
                _ => return None,
            }
        }
        Some(way)
    }
}

struct Words(Vec<Word>);

impl Words {
    fn begin_with(&self, subject: &str) -> Option<()> {
        matches!(self.0.first(), Some(Word::Bare(word)) if word == subject).then_some(())
    }

    fn get(&self, wanted: &str) -> Option<&str> {
        value_of(&self.0, wanted)
    }

    fn parse<T: std::str::FromStr>(&self, key: &str) -> Option<T> {
        self.get(key)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnel() -> Moved {
        let way = |bytes: &[u8], ended, shut, pipe| Way {
            bytes: bytes.to_vec(),
            ended,
            shut,
            pipe,
        };
        Moved {
            listener: "[::1]:80".parse().unwrap(),
            protocol: Protocol::Http,
            peer: "10.0.0.1:65535".parse().unwrap(),
            accepted_us: 1,
            since_us: u64::MAX,
            what: What::Tunnel(Box::new(Tunnel {
                cluster: "a b".into(),
                backend: "\"x\"".into(),
                address: "127.0.0.1:1".parse().unwrap(),
                up: way(b"\x00\n\xff", true, true, Some(true)),
                down: way(b"", false, false, Some(false)),
                id: [b'f'; 32],
                line: b"GET /\xff".to_vec(),
                host: Vec::new(),
                user: "j é".into(),
                status: 101,
                bytes_up: 5,
                bytes_down: u64::MAX,
                start_us: 7,
                connected_us: 8,
                first_byte_us: 9,
            })),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let idle = |head: &[u8]| Moved {
            what: What::Idle(head.to_vec()),
            ..tunnel()
        };
        for moved in [tunnel(), idle(b""), idle(b"GET / HT")] {
            assert_eq!(Moved::decode(&moved.encode()), Some(moved));
        }
    }

    #[test]
    fn what_is_cut_or_spoilt_is_none() {
        let line = tunnel().encode();
        // The last word is a number: of fewer digits it is one too.
        let last = line.rfind('=').unwrap() + 1;
        for end in 0..last {
            assert_eq!(Moved::decode(&line[..end]), None, "{}", &line[..end]);
        }
        for (from, to) in [
            ("connection", "connexion"),
            ("up=ended", "up=begun"),
            (":00", ":0"),
            ("status=101", "status=-1"),
            ("protocol=http", "protocol=gopher"),
            ("id=ff", "id=f"),
            (
                "bytes_down=18446744073709551615",
                "bytes_down=18446744073709551616",
            ),
        ] {
            assert!(line.contains(from), "{from}");
            assert_eq!(Moved::decode(&line.replace(from, to)), None, "{to}");
        }
    }
}
