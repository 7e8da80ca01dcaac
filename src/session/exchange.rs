//! One request with its response: bytes, bodies, and what is remembered of both.

use std::rc::Rc;

use crate::http::framing::Body;
use crate::http::response::Asked;
use crate::metrics::text::Cursor;
use crate::metrics::Count;
use crate::parser::host;
use crate::session::action::Answer;
use crate::session::body::Transfer;
use crate::session::flow::Flow;
use crate::session::pace::Pace;
use crate::session::record::Record;
use crate::session::{Door, Server, Target, Unconnected, World};
use crate::state::Actions;

/// Where the response is.
#[derive(Clone, Copy, Debug)]
pub enum Down {
    /// Its head is awaited; `searched` bytes of it were looked at in vain.
    Head {
        searched: usize,
        interims: u8,
    },
    Body(Transfer),
}

/// What lives only while a request is under way, or a tunnel.
pub struct Exchange {
    /// From the client to the backend.
    pub up: Flow,
    /// From the backend, or from us, to the client.
    pub down: Flow,
    pub up_body: Transfer,
    pub down_state: Down,
    /// Bytes of the request's head that were looked at in vain.
    pub searched: usize,
    pub asked: Asked,
    /// Another request may follow this one.
    pub keep_alive: bool,
    /// The client wants the connection closed, hence needs no care when it is.
    pub close_asked: bool,
    /// Nobody reads any more: the connection is closed at once.
    pub abrupt: bool,
    pub target: Option<Rc<Target>>,
    /// What its frontend does besides.
    pub actions: Option<Rc<Actions>>,
    pub server: Option<Rc<Server>>,
    /// The value of the cookie that keeps it at a backend; empty: there is none.
    pub sticky: Vec<u8>,
    /// What the request has in common with others that go to the same backend, hashed.
    pub affinity: Option<u64>,
    /// The backend connection was used before.
    pub reused: bool,
    pub replayed: bool,
    /// Connections that could not be made for this request.
    pub failed_connects: u8,
    /// Why the last of them could not.
    pub failure: Option<Unconnected>,
    /// The client should not come back before so many seconds. 0: nothing is known of that.
    pub retry_after: u32,
    /// Bytes of this request that the present backend connection has taken.
    pub taken: u64,
    /// The backend takes no more bytes; its answer may still come.
    pub up_broken: bool,
    /// The response has come whole; the backend connection is no longer ours.
    pub back_done: bool,
    pub back_keep_alive: bool,
    /// The response ends when the backend closes.
    pub until_close: bool,
    /// Bytes for that side wait outside, in a pipe.
    pub held_front: bool,
    pub held_back: bool,
    pub up_shut: bool,
    pub down_shut: bool,
    /// The metrics are asked for, and told from there on.
    pub told: Option<Cursor>,
    /// What the client gets in a backend's place.
    pub answer: Option<Box<Answer>>,
    /// How fast the client is.
    pub pace: Pace,
    pub record: Record,
}

impl Default for Exchange {
    fn default() -> Self {
        Exchange {
            up: Flow::default(),
            down: Flow::default(),
            up_body: Transfer::new(Body::None, false),
            down_state: Down::Head {
                searched: 0,
                interims: 0,
            },
            searched: 0,
            asked: Asked::default(),
            keep_alive: false,
            close_asked: false,
            abrupt: false,
            target: None,
            actions: None,
            server: None,
            sticky: Vec::new(),
            affinity: None,
            reused: false,
            replayed: false,
            failed_connects: 0,
            failure: None,
            retry_after: 0,
            taken: 0,
            up_broken: false,
            back_done: false,
            back_keep_alive: false,
            until_close: false,
            held_front: false,
            held_back: false,
            up_shut: false,
            down_shut: false,
            told: None,
            answer: None,
            pace: Pace::default(),
            record: Record::default(),
        }
    }
}

impl Exchange {
    /// Ready for the next request, with the memory and the unread bytes of this one.
    pub fn renew(&mut self) {
        self.sticky.clear();
        let fresh = Exchange {
            sticky: std::mem::take(&mut self.sticky),
            up: std::mem::take(&mut self.up),
            down: std::mem::take(&mut self.down),
            record: std::mem::take(&mut self.record).renewed(),
            ..Exchange::default()
        };
        *self = fresh;
    }

    /// Bytes that its frontend makes the response's head longer by at most.
    pub fn response_growth(&self) -> usize {
        let actions = self.actions.as_ref();
        actions.map_or(0, |actions| actions.response_headers.bytes())
    }

    /// The hostname that a backend is asked for, without port.
    pub fn host_for_backend(&self) -> &[u8] {
        let actions = self.actions.as_ref();
        let set = actions.and_then(|actions| actions.set_host.as_ref());
        let set = set.and_then(|host| host::parse(host.as_bytes()).ok());
        set.map_or(&self.record.host, |host| host.name)
    }

    /// From now on there is something to log.
    pub fn begin_record(&mut self, world: &mut World) {
        self.record.id = world.random.id();
        self.record.start_us = world.now_us;
    }

    /// What a response over TLS says about coming back.
    pub fn hsts(&self, door: &Door) -> Option<&str> {
        let actions = self.actions.as_ref().filter(|_| door.is_secure())?;
        actions.hsts.as_deref()
    }

    /// The name of the cookie that keeps its client at a backend, if one does.
    pub fn own_cookie<'d>(&self, door: &'d Door) -> Option<&'d [u8]> {
        let cluster = &self.target.as_ref()?.cluster;
        let name = door.listener.sticky_name.as_bytes();
        cluster.balancing.sticky.then_some(name)
    }

    /// The cookie that its client is to get: its name, its value, and whether TLS is spoken.
    pub fn cookie<'x>(&'x self, door: &'x Door) -> Option<(&'x str, &'x str, bool)> {
        self.own_cookie(door)?;
        let name = self.server.as_ref()?.backend.sticky_name();
        let new = self.sticky != name.as_bytes();
        new.then_some((&door.listener.sticky_name, name, door.is_secure()))
    }

    /// The whole request was received and passed on.
    pub fn up_done(&self) -> bool {
        self.up_body.is_done() && self.up.out().is_empty() && !self.up_broken
    }

    /// The status is what the backend has said, and it has said all the rest.
    pub fn came_from_backend(&self) -> bool {
        let record = &self.record;
        let failed = record.end.failed() == Some(Count::FailedBackend);
        record.status != 0 && record.first_byte_us != 0 && !failed
    }

    /// Part of the response has gone to the client, or is about to.
    pub fn answered(&self) -> bool {
        self.record.status != 0
    }
}
