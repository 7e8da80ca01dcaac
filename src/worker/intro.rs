//! Who the client is, where a proxy before this one says so, and who is told behind it (the PROXY protocol).

use std::io::{Error, ErrorKind::UnexpectedEof};

use crate::metrics::Count;
use crate::parser::proxy_protocol::{read, write, Ends, Header, Tls, Version};
use crate::session::{Event, Secured, Side};
use crate::worker::drive::{Slot, Turn};

impl Turn<'_> {
    /// Takes what has come of the header. Returns how many bytes, or 1 for an end.
    pub fn introduce(&mut self) -> usize {
        if !self.slot.front.readable {
            return 0;
        }
        let mut whole = None;
        let taken = self.slot.front.introduce(|bytes| {
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
        self.on(Event::Lost(Side::Front));
    }

    /// `None`: the client is who has connected.
    fn introduced(&mut self, ends: Option<Ends>) {
        if let Some(ends) = ends {
            self.slot.session.speaks_for(ends.source);
            self.slot.came_to = Some(ends.destination);
        }
        if !self.slot.front.is_shaking() {
            self.on(Event::Secured(Secured::default()));
        }
    }
}

impl Slot {
    /// What a backend is told first of this client.
    pub fn preface(&self, version: Version) -> Vec<u8> {
        let source = self.session.peer();
        // A socket that does not say where it was connected to is about to fail anyway.
        let own = || self.front.tcp().local_addr().unwrap_or(source);
        let destination = self.came_to.unwrap_or_else(own);
        let ends = Ends {
            source,
            destination,
        };
        let tls = self.front.ssl().map(|ssl| Tls {
            version: ssl.version_str(),
            authority: ssl.servername_raw(openssl::ssl::NameType::HOST_NAME),
            alpn: ssl.selected_alpn_protocol(),
            // One that proves nothing ends the handshake.
            proven: ssl.peer_certificate().is_some(),
        });
        write(version, ends, tls)
    }
}
