//! One connection that never blocks, plain or with TLS: what is to be sent lies in it, and what has come.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;

use openssl::ssl::{ErrorCode, SslConnector, SslStream};
use sozu_lib::sys::{epoll, socket};

/// A reader that far behind reads no more until somebody has taken what is there.
const INPUT_BYTES_MAX: usize = 1 << 20;
const PIECE: usize = 16 * 1024;

/// Why nothing more comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Closed,
    Reset,
    Refused,
    Other(String),
}

enum Stream {
    Plain(TcpStream),
    Secure(Box<SslStream<TcpStream>>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Connecting,
    /// What OpenSSL waits for.
    Handshake(u32),
    Open,
}

pub struct Wire {
    stream: Stream,
    stage: Stage,
    pub input: Vec<u8>,
    output: Vec<u8>,
    /// No more is sent once the output is empty.
    finish: bool,
    finished: bool,
    end: Option<End>,
    /// The interest that epoll knows of.
    watched: Option<u32>,
    /// Its own address, as the other side sees it.
    local: Option<SocketAddr>,
}

impl Wire {
    /// Starts to connect; whether that worked is told by what comes of it.
    pub fn connect(address: SocketAddr, secure: Option<&SslConnector>) -> Result<Wire, End> {
        let stream = socket::connect(address).map_err(|e| end_of(&e))?;
        let Some(connector) = secure else {
            return Ok(Wire::of(Stream::Plain(stream), Stage::Connecting));
        };
        let secure = || -> Result<_, openssl::error::ErrorStack> {
            let configured = connector.configure()?.verify_hostname(false);
            SslStream::new(configured.into_ssl("one.example.com")?, stream)
        };
        let secure = secure().map_err(|e| End::Other(e.to_string()))?;
        Ok(Wire::of(
            Stream::Secure(Box::new(secure)),
            Stage::Connecting,
        ))
    }

    pub fn accepted(stream: TcpStream) -> Wire {
        Wire::of(Stream::Plain(stream), Stage::Open)
    }

    fn of(stream: Stream, stage: Stage) -> Wire {
        let mut wire = Wire {
            stream,
            stage,
            input: Vec::new(),
            output: Vec::new(),
            finish: false,
            finished: false,
            end: None,
            watched: None,
            local: None,
        };
        wire.local = wire.tcp().local_addr().ok();
        wire
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(stream) => stream,
            Stream::Secure(stream) => stream.get_ref(),
        }
    }

    pub fn local(&self) -> Option<SocketAddr> {
        self.local
    }

    pub fn peer(&self) -> Option<SocketAddr> {
        self.tcp().peer_addr().ok()
    }

    /// Connected, and the handshake is over.
    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    pub fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// All that was to be sent is with the kernel, the end as well.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.finish == self.finished
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Nothing more is sent after what there is; what comes is still read.
    pub fn finish(&mut self) {
        self.finish = true;
    }

    /// The other side gets a reset.
    pub fn reset(&self) {
        let _best_effort = socket::reset(self.tcp());
    }

    /// Sends and receives what is possible without waiting. What came has to be looked at afterwards: nothing tells of it again.
    pub fn pump(&mut self) {
        self.flush();
        if self.is_open() {
            self.read();
        }
    }

    /// Sends what is possible, and receives nothing.
    pub fn flush(&mut self) {
        if !self.establish() {
            return;
        }
        self.write();
        if self.output.is_empty() && self.finish && !self.finished {
            self.finished = true;
            let _gone = match &mut self.stream {
                Stream::Plain(stream) => stream.shutdown(Shutdown::Write),
                Stream::Secure(stream) => {
                    let _notified = stream.shutdown();
                    stream.get_ref().shutdown(Shutdown::Write)
                }
            };
        }
    }

    fn establish(&mut self) -> bool {
        if self.stage == Stage::Connecting {
            match self.tcp().take_error() {
                Ok(Some(error)) | Err(error) => {
                    self.end = self.end.take().or(Some(end_of(&error)));
                    return false;
                }
                Ok(None) if self.tcp().peer_addr().is_err() => return false,
                Ok(None) => {}
            }
            self.local = self.tcp().local_addr().ok();
            self.stage = match self.stream {
                Stream::Plain(_) => Stage::Open,
                Stream::Secure(_) => Stage::Handshake(epoll::IN),
            };
        }
        let (Stage::Handshake(_), Stream::Secure(stream)) = (self.stage, &mut self.stream) else {
            return true;
        };
        match stream.connect() {
            Ok(()) => self.stage = Stage::Open,
            Err(error) => match wanted(error) {
                Ok(interest) => self.stage = Stage::Handshake(interest),
                Err(end) => self.end = Some(end),
            },
        }
        self.is_open()
    }

    fn write(&mut self) {
        let mut sent = 0;
        while sent < self.output.len() {
            let rest = &self.output[sent..];
            let written = match &mut self.stream {
                Stream::Plain(stream) => stream.write(rest).map_err(|e| later(&e)),
                Stream::Secure(stream) => stream.ssl_write(rest).map_err(|e| wanted(e).is_ok()),
            };
            match written {
                Ok(count) => sent += count,
                Err(true) => break,
                // Reading tells why.
                Err(false) => sent = self.output.len(),
            }
        }
        self.output.drain(..sent);
    }

    fn read(&mut self) {
        let mut piece = [0; PIECE];
        while self.end.is_none() && self.input.len() < INPUT_BYTES_MAX {
            let read = match &mut self.stream {
                Stream::Plain(stream) => match stream.read(&mut piece) {
                    Ok(0) => Err(Some(End::Closed)),
                    Ok(count) => Ok(count),
                    Err(e) if later(&e) => Err(None),
                    Err(e) => Err(Some(end_of(&e))),
                },
                Stream::Secure(stream) => {
                    let read = stream.ssl_read(&mut piece);
                    read.map_err(|error| wanted(error).err())
                }
            };
            match read {
                Ok(count) => self.input.extend_from_slice(&piece[..count]),
                Err(None) => break,
                Err(end) => self.end = end,
            }
        }
    }

    fn interest(&self) -> u32 {
        if self.end.is_some() && self.output.is_empty() {
            return 0;
        }
        match self.stage {
            Stage::Connecting => epoll::OUT,
            Stage::Handshake(interest) => interest,
            Stage::Open => {
                let more = self.end.is_none() && self.input.len() < INPUT_BYTES_MAX;
                let input = if more { epoll::IN } else { 0 };
                let output = if self.is_flushed() { 0 } else { epoll::OUT };
                input | output
            }
        }
    }

    /// Tells epoll what it waits for, if that has changed. Without interest it is removed, for the end is always reported.
    pub fn watch(&mut self, poll: &epoll::Epoll, token: u64) -> io::Result<()> {
        let wanted = self.interest();
        let told = match (self.watched, wanted) {
            (None, 0) => Ok(()),
            (Some(known), _) if known == wanted => Ok(()),
            (None, _) => poll.add(self.tcp().as_fd(), wanted, token),
            (Some(_), 0) => poll.remove(self.tcp().as_fd()),
            (Some(_), _) => poll.modify(self.tcp().as_fd(), wanted, token),
        };
        self.watched = Some(wanted).filter(|interest| *interest != 0);
        told
    }
}

fn later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

fn end_of(error: &io::Error) -> End {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => End::Reset,
        ErrorKind::ConnectionRefused | ErrorKind::TimedOut => End::Refused,
        ErrorKind::UnexpectedEof => End::Closed,
        _ => End::Other(error.to_string()),
    }
}

/// What OpenSSL waits for, or why it waits no more.
fn wanted(error: openssl::ssl::Error) -> Result<u32, End> {
    match error.code() {
        ErrorCode::WANT_READ => Ok(epoll::IN),
        ErrorCode::WANT_WRITE => Ok(epoll::OUT),
        ErrorCode::ZERO_RETURN => Err(End::Closed),
        _ => Err(match error.io_error() {
            Some(error) => end_of(error),
            // The end of the connection without the end of TLS.
            None if error.code() == ErrorCode::SYSCALL => End::Closed,
            None if error.to_string().contains("unexpected eof") => End::Closed,
            None => End::Other(error.to_string()),
        }),
    }
}
