//! A connection under TLS, as non-blocking bytes in and out.
//!
//! Reading ahead takes from the socket whatever is there, so that a record does
//! not cost two calls; the socket remembers whether that was all, so that
//! nobody has to ask it in vain.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use openssl::ssl::{Error, ErrorCode, Ssl, SslStream};
use openssl::x509::X509VerifyResult;

use crate::limits::{TLS_RECORD_BYTES_MAX, TLS_RECORD_BYTES_MIN, TLS_SMALL_RECORDS_BYTES};
use crate::sys::ssl::has_pending;

/// The socket as OpenSSL sees it.
struct Wire {
    stream: TcpStream,
    /// The last receive took everything that was there.
    drained: bool,
    /// What a step of the handshake wants to send, until it is over: tickets would cost a send each.
    gathered: Option<Vec<u8>>,
}

impl Wire {
    /// Sends what was gathered. True: all of it.
    fn send_gathered(&mut self) -> io::Result<bool> {
        let Some(bytes) = &mut self.gathered else {
            return Ok(true);
        };
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(n) => bytes.drain(..n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            };
        }
        Ok(true)
    }
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        // Who waits for an answer must have said what is answered.
        self.send_gathered()?;
        let result = self.stream.read(room);
        self.drained = match &result {
            Ok(0) => false,
            Ok(n) => *n < room.len(),
            Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        };
        result
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.gathered {
            Some(gathered) => gathered.extend_from_slice(bytes),
            None => return self.stream.write(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What became of a step of the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shaken {
    Done,
    /// It goes on once the peer has sent more, or takes more.
    WantsRead,
    WantsWrite,
}

pub struct TlsStream {
    inner: SslStream<Wire>,
    /// Bytes that were offered to a socket that took none: they are offered again as they are.
    offered: usize,
    /// Bytes sent since it was silent: first in small records, which are whole sooner.
    lively: usize,
    /// Its end is not announced.
    cut: bool,
    /// There was no handshake: what comes now is thrown away.
    failed: bool,
}

impl TlsStream {
    /// `ssl` knows which side it is.
    pub fn new(ssl: Ssl, stream: TcpStream) -> io::Result<TlsStream> {
        let wire = Wire {
            stream,
            drained: false,
            gathered: Some(Vec::new()),
        };
        Ok(TlsStream {
            inner: SslStream::new(ssl, wire)?,
            offered: 0,
            lively: 0,
            cut: false,
            failed: false,
        })
    }

    pub fn tcp(&self) -> &TcpStream {
        &self.inner.get_ref().stream
    }

    pub fn ssl(&self) -> &openssl::ssl::SslRef {
        self.inner.ssl()
    }

    /// One step of the handshake. An error says why there will be no connection.
    pub fn shake(&mut self) -> Result<Shaken, Error> {
        nothing_left_over();
        let step = match self.inner.do_handshake() {
            Ok(()) => Ok(Shaken::Done),
            Err(e) if e.code() == ErrorCode::WANT_READ => Ok(Shaken::WantsRead),
            Err(e) if e.code() == ErrorCode::WANT_WRITE => Ok(Shaken::WantsWrite),
            Err(e) => Err(e),
        };
        self.failed = step.is_err();
        let wire = self.inner.get_mut();
        // A socket that is broken says so to the next read as well.
        match wire.send_gathered() {
            Ok(false) if step.is_ok() => return Ok(Shaken::WantsWrite),
            _ => {}
        }
        if matches!(step, Ok(Shaken::Done)) {
            wire.gathered = None;
        }
        step
    }

    /// Why the peer's certificate proves nothing, as OpenSSL says it.
    pub fn unproven(&self) -> Option<&'static str> {
        let found = self.inner.ssl().verify_result();
        (found != X509VerifyResult::OK).then(|| found.error_string())
    }

    /// There may be more to read without a word from epoll.
    pub fn may_have_more(&self) -> bool {
        !self.inner.get_ref().drained || has_pending(self.inner.ssl())
    }

    /// As a socket's: 0 is the end that the peer has announced; one that it has not is an error.
    pub fn receive(&mut self, room: &mut [u8]) -> io::Result<usize> {
        nothing_left_over();
        self.lively = 0;
        if self.failed {
            return self.inner.get_mut().read(room);
        }
        match self.inner.ssl_read(room) {
            Ok(n) => Ok(n),
            Err(e) if e.code() == ErrorCode::ZERO_RETURN => Ok(0),
            Err(e) => Err(plain(e)),
        }
    }

    /// Nothing that the peer has sent waits to be received, neither bytes nor an end.
    pub fn is_silent(&mut self) -> bool {
        nothing_left_over();
        let peeked = self.inner.ssl_peek(&mut [0]);
        peeked.is_err_and(|e| e.code() == ErrorCode::WANT_READ)
    }

    /// As a socket's. Less than all: the socket is full.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        nothing_left_over();
        let mut sent = 0;
        while sent < bytes.len() {
            let size = match self.offered {
                0 if self.lively < TLS_SMALL_RECORDS_BYTES => TLS_RECORD_BYTES_MIN,
                0 => TLS_RECORD_BYTES_MAX,
                offered => offered,
            };
            let rest = &bytes[sent..];
            let record = &rest[..rest.len().min(size)];
            match self.inner.ssl_write(record) {
                Ok(n) => {
                    self.offered = 0;
                    self.lively = self.lively.saturating_add(n);
                    sent += n;
                }
                Err(e) => {
                    let e = plain(e);
                    if e.kind() != io::ErrorKind::WouldBlock {
                        return Err(e);
                    }
                    self.offered = record.len();
                    break;
                }
            }
        }
        Ok(sent)
    }

    /// Says that nothing more comes.
    pub fn shut(&mut self) {
        if self.cut || self.failed {
            return;
        }
        nothing_left_over();
        // That the peer has gone is told by the next read.
        let _ = self.inner.shutdown();
    }

    /// From here on the peer is not told that nothing more comes.
    pub fn cut(&mut self) {
        self.cut = true;
    }

    /// The same connection without TLS: for a peer that does not speak it.
    pub fn plain_answer(&mut self, text: &[u8]) {
        // It is told as much as it takes.
        let _ = self.inner.get_mut().stream.write(text);
    }
}

/// What the socket said, or that the peer breaks the rules.
fn plain(e: Error) -> io::Error {
    match e.code() {
        ErrorCode::WANT_READ | ErrorCode::WANT_WRITE => io::ErrorKind::WouldBlock.into(),
        _ => e.into_io_error().unwrap_or_else(io::Error::other),
    }
}

/// OpenSSL takes an error that it finds in its queue for one of whoever asks next: what another
/// connection left there would end this one.
fn nothing_left_over() {
    debug_assert_eq!(
        openssl::error::ErrorStack::get().errors().len(),
        0,
        "an error is left in OpenSSL's queue"
    );
}
