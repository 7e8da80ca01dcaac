//! Who the client is, where a proxy before this one says so, and who is told behind it (the PROXY protocol).

use std::io::{Error, ErrorKind::UnexpectedEof};
use std::net::SocketAddr;

use crate::metrics::Count;
use crate::parser::proxy_protocol::{read, write, Ends, Header, Tls, Version};
use crate::session::{Event, Secured, Side};
use crate::state::Listener;
use crate::worker::admit::{entry, Entry};
use crate::worker::drive::{Slot, Turn};

/// What is known of who the client is.
pub enum Intro {
    /// A header is still to come; so much of it is here.
    Coming(Vec<u8>),
    /// It has come, and says where the client connected to.
    Came(SocketAddr),
}

impl Intro {
    /// Of a client that has connected from there; mostly there is nothing to come.
    pub fn of(listener: &Listener, from: SocketAddr) -> Option<Box<Intro>> {
        let coming = || Box::new(Intro::Coming(Vec::new()));
        listener.expects_proxy(from.ip()).then(coming)
    }
}

impl Turn<'_> {
    /// Takes what has come of the header. Returns how many bytes, or 1 for an end.
    pub fn introduce(&mut self) -> usize {
        if !self.slot.front.readable {
            return 0;
        }
        let Slot { front, intro, .. } = &mut *self.slot;
        let Some(Intro::Coming(known)) = intro.as_deref_mut() else {
            return 0;
        };
        let mut whole = None;
        let taken = front.introduce(known, |bytes| {
            Ok(match read(bytes)? {
                Header::Part => None,
                Header::Whole { len, ends } => {
                    whole = Some(ends);
                    Some(len)
                }
            })
        });
        match (taken, whole) {
            (Ok(n), None) => n,
            (Ok(n), Some(ends)) => {
                self.introduced(ends);
                n
            }
            (Err(e), _) => {
                self.unintroduced(&e);
                1
            }
        }
    }

    fn unintroduced(&mut self, why: &Error) {
        let row = self.tally.row(self.world.door.series);
        row.add(Count::FailedClient, 1);
        let peer = self.slot.session.peer();
        match why.kind() {
            UnexpectedEof => log::debug!("{peer} is gone without a PROXY header"),
            _ => log::info!("{peer} sent no PROXY header, as expect_proxy wants it: {why}"),
        }
        self.turn_away();
    }

    /// It is closed, and what it goes on to say is not read.
    fn turn_away(&mut self) {
        self.slot.front.readable = false;
        self.on(Event::Lost(Side::Front));
    }

    /// `None`: the client is who has connected.
    fn introduced(&mut self, ends: Option<Ends>) {
        self.slot.intro = ends.map(|ends| Box::new(Intro::Came(ends.destination)));
        if let Some(ends) = ends {
            self.slot.session.speaks_for(ends.source);
        }
        match entry(self.world.door, self.slot.session.peer(), self.tally) {
            Entry::Yes(place) => self.slot.place = place,
            Entry::No => return self.turn_away(),
        }
        if !self.slot.front.is_shaking() {
            self.on(Event::Secured(Secured::default()));
        }
    }
}

impl Slot {
    pub fn is_being_introduced(&self) -> bool {
        matches!(self.intro.as_deref(), Some(Intro::Coming(_)))
    }

    /// What a backend is told first of this client, and where TLS passes through of the host that it asks for.
    pub fn preface(&self, version: Version, host: &[u8]) -> Vec<u8> {
        let source = self.session.peer();
        // A socket that does not say where it was connected to is about to fail anyway.
        let destination = match self.intro.as_deref() {
            Some(Intro::Came(to)) => *to,
            _ => self.front.tcp().local_addr().unwrap_or(source),
        };
        let ends = Ends {
            source,
            destination,
        };
        let passing = || Tls {
            version: None,
            authority: Some(host),
            alpn: None,
            proven: false,
        };
        let tls = self.front.ssl().map(|ssl| Tls {
            version: Some(ssl.version_str()),
            authority: ssl.servername_raw(openssl::ssl::NameType::HOST_NAME),
            alpn: ssl.selected_alpn_protocol(),
            // One that proves nothing ends the handshake.
            proven: ssl.peer_certificate().is_some(),
        });
        let tls = tls.or_else(|| (!host.is_empty()).then(passing));
        write(version, ends, tls)
    }
}
