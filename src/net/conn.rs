//! A connection and what epoll knows of it.
//!
//! Readiness is believed until a call says otherwise; interest is submitted
//! only when it must change: something wanted is missing, or something unwanted
//! would fire again and again. Of a connection that wants nothing epoll says once that it is broken.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use openssl::ssl::{Error, SslRef};

use crate::net::tls::stream::{Shaken, TlsStream};
use crate::sys::epoll::{self, Epoll};
use crate::sys::socket;

/// How bytes travel.
pub enum Transport {
    Plain(TcpStream),
    /// Boxed: plain connections are not to pay for its size.
    Tls(Box<TlsStream>),
}

impl Transport {
    fn stream(&self) -> &TcpStream {
        match self {
            Transport::Plain(stream) => stream,
            Transport::Tls(tls) => tls.tcp(),
        }
    }
}

pub struct Conn {
    transport: Transport,
    /// What epoll watches for.
    interest: u32,
    /// epoll knows this descriptor.
    watched: bool,
    /// There may be something to read.
    pub readable: bool,
    /// The last send was short: it would block now.
    pub blocked: bool,
    /// TLS is not agreed upon yet: what the handshake waits for.
    shaking: Option<Shaken>,
}

/// So many bytes of a PROXY header are looked at together; it seldom has more.
const PEEK_BYTES: usize = 256;

impl Conn {
    /// `readable`: worth a read before epoll has said so.
    pub fn new(stream: TcpStream, readable: bool) -> Conn {
        Conn {
            transport: Transport::Plain(stream),
            interest: 0,
            watched: false,
            readable,
            blocked: false,
            shaking: None,
        }
    }

    /// Its handshake is still to come.
    pub fn secure(stream: TlsStream, readable: bool) -> Conn {
        Conn {
            transport: Transport::Tls(Box::new(stream)),
            interest: 0,
            watched: false,
            readable,
            blocked: false,
            shaking: Some(Shaken::WantsRead),
        }
    }

    /// Takes what has come of the PROXY header, before TLS, and no byte behind it; returns how many bytes.
    /// `known` is what was taken before; `header` is shown all of them and what is behind, and says how long
    /// it is, `None` if it is not whole.
    pub fn introduce(
        &mut self,
        known: &mut Vec<u8>,
        header: impl FnOnce(&[u8]) -> Result<Option<usize>, &'static str>,
    ) -> io::Result<usize> {
        let mut room = [0; PEEK_BYTES];
        let mut stream = self.transport.stream();
        let seen = match stream.peek(&mut room) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(seen) => seen,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return Ok(0);
            }
            Err(e) => return Err(e),
        };
        let before = known.len();
        known.extend_from_slice(&room[..seen]);
        let whole = header(known).map_err(io::Error::other)?;
        let own = whole.map_or(seen, |len| len.saturating_sub(before).min(seen));
        // They are there.
        stream.read_exact(&mut room[..own])?;
        Ok(own)
    }

    /// The first bytes on a new connection, all at once, before TLS. False: they do not go.
    pub fn say_first(&mut self, bytes: &[u8]) -> bool {
        let sent = self.transport.stream().write(bytes);
        sent.is_ok_and(|n| n == bytes.len())
    }

    /// To a backend: it is not connected yet, and its handshake comes after that.
    pub fn dialed(stream: TlsStream) -> Conn {
        Conn {
            blocked: true,
            shaking: Some(Shaken::WantsWrite),
            ..Conn::secure(stream, false)
        }
    }

    pub fn is_shaking(&self) -> bool {
        self.shaking.is_some()
    }

    /// The handshake waits for a writable socket.
    pub fn shakes_out(&self) -> bool {
        self.shaking == Some(Shaken::WantsWrite)
    }

    /// What the handshake waits for is here.
    pub fn can_shake(&self) -> bool {
        match self.shaking {
            None | Some(Shaken::Done) => false,
            Some(Shaken::WantsRead) => self.readable,
            Some(Shaken::WantsWrite) => !self.blocked,
        }
    }

    /// One step of the handshake. True: it is done. An error says why it cannot be.
    pub fn shake(&mut self) -> Result<bool, Error> {
        if !self.can_shake() {
            return Ok(!self.is_shaking());
        }
        let Transport::Tls(tls) = &mut self.transport else {
            return Ok(true);
        };
        let step = tls.shake();
        // It is tried once, whatever the session says then.
        self.shaking = step.as_ref().ok().copied();
        let step = step.inspect_err(|_| self.readable = false)?;
        match step {
            Shaken::Done => {
                self.shaking = None;
                self.readable = tls.may_have_more();
            }
            Shaken::WantsRead => self.readable = false,
            Shaken::WantsWrite => self.blocked = true,
        }
        Ok(step == Shaken::Done)
    }

    pub fn tls(&mut self) -> Option<&mut TlsStream> {
        match &mut self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(tls) => Some(tls),
        }
    }

    /// One receive. Less than there is room for: there is no more now.
    pub fn receive(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let result = match &mut self.transport {
            Transport::Plain(stream) => stream.read(room),
            Transport::Tls(tls) => tls.receive(room),
        };
        match (&result, &self.transport) {
            (Ok(0), _) => self.readable = true,
            (Ok(_), Transport::Tls(tls)) => self.readable = tls.may_have_more(),
            (Ok(n), Transport::Plain(_)) if *n < room.len() => self.readable = false,
            (Err(e), _) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            _ => {}
        }
        result
    }

    /// One send. Less than all: the rest must wait until the socket is writable.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = match &mut self.transport {
            Transport::Plain(stream) => stream.write(bytes),
            Transport::Tls(tls) => tls.send(bytes),
        };
        match &result {
            Ok(n) => self.blocked = *n < bytes.len(),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.blocked = true;
                return Ok(0);
            }
            Err(_) => {}
        }
        result
    }

    /// What epoll has reported.
    pub fn fired(&mut self, events: u32) {
        if events & (epoll::IN | epoll::HUP | epoll::ERR) != 0 {
            self.readable = true;
        }
        if events & (epoll::OUT | epoll::HUP | epoll::ERR) != 0 {
            self.blocked = false;
        }
    }

    /// The end of a turn: tells epoll what to watch for, if that must change.
    pub fn watch(&mut self, poll: &Epoll, token: u64, read: bool, write: bool) -> io::Result<()> {
        let want = if read { epoll::IN } else { 0 } | if write { epoll::OUT } else { 0 };
        self.watch_for(poll, token, want)
    }

    /// The same for IN, OUT and RDHUP.
    pub fn watch_for(&mut self, poll: &Epoll, token: u64, want: u32) -> io::Result<()> {
        let missing = want & !self.interest != 0;
        let unwanted = self.interest & !want;
        let noisy = unwanted & (epoll::OUT | epoll::RDHUP) != 0
            || unwanted & epoll::IN != 0 && self.readable;
        if !missing && !noisy {
            return Ok(());
        }
        let fd = self.transport.stream().as_fd();
        // ERR and HUP are reported whatever is wanted, and for as long as they hold.
        let events = if want == 0 { epoll::ONCE } else { want };
        match self.watched {
            true => poll.modify(fd, events, token)?,
            false => poll.add(fd, events, token)?,
        }
        self.watched = true;
        self.interest = want;
        Ok(())
    }

    /// It lives on in another process: epoll is not to tell us of it any more.
    pub fn forget(&mut self, poll: &Epoll) {
        if std::mem::take(&mut self.watched) {
            self.interest = 0;
            let _ = poll.remove(self.as_fd());
        }
    }

    /// No more bytes from us.
    pub fn shut(&mut self) {
        if let Transport::Tls(tls) = &mut self.transport {
            tls.shut();
        }
        // An error says that the connection is gone, which the next read says too.
        let _ = self.transport.stream().shutdown(Shutdown::Write);
    }

    /// What was sent was meant to end here: under TLS that is said, lest it look cut.
    pub fn part(&mut self) {
        if let (Transport::Tls(tls), None) = (&mut self.transport, self.shaking) {
            tls.shut();
        }
    }

    /// It does not end in order, and is not to look as if it did.
    pub fn cut(&mut self) {
        if let Transport::Tls(tls) = &mut self.transport {
            tls.cut();
        }
    }

    /// The peer sees a reset, and whatever is still to be sent to it is not.
    pub fn reset(&mut self) {
        self.cut();
        // As above.
        let _ = socket::reset(self.transport.stream());
    }

    /// Whether nothing waits to be read. Asks the kernel only where the last receive may have left something.
    pub fn is_silent(&mut self) -> bool {
        if let Transport::Tls(tls) = &mut self.transport {
            // What is no data (a session ticket) is taken on the way.
            self.readable = (self.readable || tls.may_have_more()) && !tls.is_silent();
            return !self.readable;
        }
        if self.readable {
            let peeked = self.transport.stream().peek(&mut [0]);
            self.readable = !peeked.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock);
        }
        !self.readable
    }

    /// What became of a connect.
    pub fn connect_error(&self) -> Option<io::Error> {
        self.transport.stream().take_error().unwrap_or_else(Some)
    }

    /// What is to be read may be here already, where epoll does not see it.
    pub fn hides_more(&self) -> bool {
        self.readable && matches!(self.transport, Transport::Tls(_))
    }

    pub fn ssl(&self) -> Option<&SslRef> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Tls(tls) => Some(tls.ssl()),
        }
    }

    /// Below TLS, if it is spoken.
    pub fn tcp(&self) -> &TcpStream {
        self.transport.stream()
    }

    /// The bare socket, where bytes may pass unseen.
    pub fn plain(&self) -> Option<&TcpStream> {
        match &self.transport {
            Transport::Plain(stream) => Some(stream),
            Transport::Tls(_) => None,
        }
    }
}

impl AsFd for Conn {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.stream().as_fd()
    }
}
