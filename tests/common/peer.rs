//! One end of a TCP connection, ours: a client of the proxy, or the backend's
//! side of a connection the proxy made. Every read has a deadline.

use super::backend::Record;
use super::message::{self, latin1, Broken, Message};
use super::DEADLINE;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Peer {
    stream: TcpStream,
    /// Received, not yet read.
    pending: Vec<u8>,
    /// Where a backend writes down what it receives, and under which number.
    record: Option<(Arc<Record>, usize)>,
}

impl Peer {
    /// A client's connection to the proxy.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Peer {
        // Not with a time-out: that polls, and would take for a failure to connect that the
        // proxy has reset the connection meanwhile.
        let stream = TcpStream::connect(address);
        Peer::over(
            stream.unwrap_or_else(|e| panic!("connect to {address}: {e}")),
            None,
        )
    }

    pub(super) fn over(stream: TcpStream, record: Option<(Arc<Record>, usize)>) -> Peer {
        if stream.local_addr().is_ok() {
            stream.set_nodelay(true).expect("TCP_NODELAY");
        }
        stream
            .set_read_timeout(Some(DEADLINE))
            .expect("read time-out");
        stream
            .set_write_timeout(Some(DEADLINE))
            .expect("write time-out");
        Peer {
            stream,
            pending: Vec::new(),
            record,
        }
    }

    /// Somebody for whom a proxy before ours speaks; `client` is an IP address.
    #[track_caller]
    pub fn on_behalf_of(client: &str, address: SocketAddr) -> Peer {
        let (family, own) = match client.contains(':') {
            true => ("TCP6", "::1"),
            false => ("TCP4", "127.0.0.1"),
        };
        let mut peer = Peer::connect(address);
        peer.send(format!("PROXY {family} {client} {own} 1234 80\r\n"));
        peer
    }

    /// Our own address: what the other side sees as its peer.
    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("getsockname")
    }

    /// Sends everything. That the other side may have gone is no failure: what
    /// it answered before it went is.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Peer {
        let _gone = self.stream.write_all(bytes.as_ref());
        self
    }

    /// Sends every byte on its own.
    pub fn drip(&mut self, bytes: impl AsRef<[u8]>) -> &mut Peer {
        for byte in bytes.as_ref() {
            if self.stream.write_all(&[*byte]).is_err() {
                break;
            }
            std::thread::yield_now();
        }
        self
    }

    /// Sends while this side goes on reading: a body larger than every buffer
    /// on the way, towards somebody who sends as well.
    pub fn send_meanwhile(&self, bytes: Vec<u8>) -> JoinHandle<()> {
        let mut stream = self.stream.try_clone().expect("dup");
        std::thread::spawn(move || {
            let _gone = stream.write_all(&bytes);
        })
    }

    /// Sends no more; goes on reading.
    pub fn finish(&mut self) {
        let _gone = self.stream.shutdown(Shutdown::Write);
    }

    /// Cuts with RST: the kernel sends one when a socket is closed over unread
    /// bytes, so this waits for some and leaves them.
    pub fn reset(self) {
        let waiting = self.stream.peek(&mut [0]).expect("bytes to leave unread");
        assert_eq!(waiting, 1, "the other side closed: nothing to leave unread");
    }

    /// Receives once more.
    fn fill(&mut self) -> Result<(), Broken> {
        let mut room = [0; 64 * 1024];
        let end = match self.stream.read(&mut room) {
            Ok(0) => Broken::Eof,
            Ok(count) => {
                self.pending.extend_from_slice(&room[..count]);
                if let Some((record, number)) = &self.record {
                    record.received(*number, &room[..count]);
                }
                return Ok(());
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => return Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Broken::Silence
            }
            Err(_) => Broken::Reset,
        };
        if let Some((record, number)) = &self.record {
            record.ended(*number, end.clone());
        }
        Err(end)
    }

    /// A line without its CRLF; a bare CR or LF in it is malformed.
    pub(super) fn line(&mut self) -> Result<String, Broken> {
        let mut searched = 0;
        loop {
            let found = self.pending[searched..]
                .iter()
                .position(|&byte| byte == b'\n');
            if let Some(at) = found.map(|at| at + searched) {
                let line = latin1(&self.pending[..at]);
                self.pending.drain(..=at);
                return match line.strip_suffix('\r') {
                    Some(line) if !line.contains('\r') => Ok(line.to_owned()),
                    _ => Err(Broken::Malformed(format!("bare CR or LF: {line:?}"))),
                };
            }
            searched = self.pending.len();
            self.fill()?;
        }
    }

    /// That many bytes.
    pub fn exactly(&mut self, count: usize) -> Result<Vec<u8>, Broken> {
        let mut bytes = Vec::with_capacity(count);
        loop {
            let part = (count - bytes.len()).min(self.pending.len());
            bytes.extend(self.pending.drain(..part));
            if bytes.len() == count {
                return Ok(bytes);
            }
            self.fill()?;
        }
    }

    /// Everything up to the end of the connection, and how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, Broken) {
        loop {
            if let Err(end) = self.fill() {
                return (std::mem::take(&mut self.pending), end);
            }
        }
    }

    /// A head alone: for messages whose body is to be cut.
    #[track_caller]
    pub fn head(&mut self) -> Message {
        message::head(self).unwrap_or_else(|broken| panic!("no head but {broken:?}"))
    }

    /// A whole response to a request with that method.
    pub fn try_response(&mut self, method: &str) -> Result<Message, Broken> {
        message::response(self, method)
    }

    /// The response that has to come.
    #[track_caller]
    pub fn response(&mut self) -> Message {
        self.try_response("GET").unwrap_or_else(|broken| {
            let unread = latin1(&self.pending);
            panic!("no response but {broken:?}, unread: {unread:?}")
        })
    }

    /// Sends a request and reads its response.
    #[track_caller]
    pub fn ask(&mut self, request: impl AsRef<[u8]>) -> Message {
        self.send(request).response()
    }

    /// Asks for a path of example.com.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Message {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: example.com\r\n\r\n"))
    }

    /// A whole request, written down for the test.
    pub fn request(&mut self) -> Result<Message, Broken> {
        let request = message::request(self)?;
        if let Some((record, number)) = &self.record {
            record.request(*number, request.clone());
        }
        Ok(request)
    }

    /// A request without a body whose last byte is left unread in the kernel,
    /// so that closing this connection, however much later, resets it.
    pub fn request_unread(&mut self) -> Result<(), Broken> {
        let mut room = [0; 32 * 1024];
        super::wait_until("a whole head", || {
            let count = self.stream.peek(&mut room).ok()?;
            (count == 0 || room[..count].ends_with(b"\r\n\r\n")).then_some(())
        });
        let count = self.stream.peek(&mut room).map_err(|_| Broken::Reset)?;
        let mut head = vec![0; count.checked_sub(1).ok_or(Broken::Eof)?];
        self.stream.read_exact(&mut head).map_err(|_| Broken::Reset)
    }

    /// Whether something has come that was not looked at yet. Does not wait.
    pub fn has_more(&self) -> bool {
        self.stream.set_nonblocking(true).expect("fcntl");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("fcntl");
        !self.pending.is_empty() || peeked.is_ok_and(|count| count > 0)
    }

    /// How the connection ends, with nothing more on it.
    #[track_caller]
    pub fn end(&mut self) -> Broken {
        let (bytes, end) = self.rest();
        assert!(
            bytes.is_empty(),
            "more came: {:?}, then {end:?}",
            latin1(&bytes)
        );
        end
    }

    /// The connection ends, in order or not, with nothing more on it.
    #[track_caller]
    pub fn ends(&mut self) {
        let end = self.end();
        assert!(
            matches!(end, Broken::Eof | Broken::Reset),
            "it stays open: {end:?}"
        );
    }

    /// Nothing comes for that long, and the connection stays open.
    #[track_caller]
    pub fn silent_for(&mut self, time: Duration) {
        self.stream
            .set_read_timeout(Some(time))
            .expect("read time-out");
        let end = self.fill();
        self.stream
            .set_read_timeout(Some(DEADLINE))
            .expect("read time-out");
        let unread = latin1(&self.pending);
        assert_eq!(end, Err(Broken::Silence), "{unread:?}");
    }
}
