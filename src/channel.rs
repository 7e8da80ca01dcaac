//! The channel between main and a worker: lines both ways, descriptors along with them.
//!
//! Never blocks. What the other side does not take is queued; whoever queues
//! bounds it, main by replacing a worker that does not read.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use crate::proto::line::LineReader;
use crate::sys::{epoll, passing};

/// Who sends goes on where another one has left off, perhaps within a line: of that line nothing holds,
/// nor of the descriptors before. It stands in no other line, for they hold no control characters.
const CANCEL: u8 = 0x18;

/// Lines are gathered into messages of about this size.
const MESSAGE_BYTES: usize = 64 * 1024;

/// Lines that several channels send: written once, and in memory once.
pub type Block = Rc<Vec<u8>>;

/// Lines, given without their LF, as blocks.
pub fn blocks(lines: impl Iterator<Item = String>) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut bytes = Vec::new();
    for line in lines {
        bytes.extend_from_slice(line.as_bytes());
        bytes.push(b'\n');
        if bytes.len() >= MESSAGE_BYTES {
            blocks.push(Rc::new(std::mem::take(&mut bytes)));
        }
    }
    blocks.push(Rc::new(bytes));
    blocks
}

struct Message {
    bytes: Block,
    sent: usize,
    /// They go with the first byte.
    fds: Vec<OwnedFd>,
}

pub struct Channel {
    stream: UnixStream,
    reader: LineReader,
    received: VecDeque<OwnedFd>,
    queue: VecDeque<Message>,
}

impl Channel {
    /// Our end, and the other one for a new process, which gets descriptors and gives none.
    pub fn pair() -> io::Result<(Channel, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Channel::resumed(ours, Vec::new())?, theirs.into()))
    }

    /// The end of who gets descriptors.
    pub fn new(stream: UnixStream) -> io::Result<Channel> {
        Channel::of(stream, Vec::new())
    }

    /// Our end, which goes on where this process has left off: with the start of a line.
    pub fn resumed(stream: UnixStream, partial: Vec<u8>) -> io::Result<Channel> {
        passing::refuse(&stream);
        Channel::of(stream, partial)
    }

    fn of(stream: UnixStream, partial: Vec<u8>) -> io::Result<Channel> {
        stream.set_nonblocking(true)?;
        Ok(Channel {
            stream,
            reader: LineReader::resumed(partial, false),
            received: VecDeque::new(),
            queue: VecDeque::new(),
        })
    }

    /// Our end of one whose other side knows nothing of a change: who had it before has died.
    pub fn adopted(stream: UnixStream) -> io::Result<Channel> {
        let mut channel = Channel::resumed(stream, Vec::new())?;
        channel.queue.push_back(Message {
            bytes: Rc::new(vec![CANCEL, b'\n']),
            sent: 0,
            fds: Vec::new(),
        });
        Ok(channel)
    }

    /// Queues a line, given without its LF.
    pub fn send(&mut self, line: &str) {
        self.send_with(line, Vec::new());
    }

    /// Queues a line with descriptors.
    pub fn send_with(&mut self, line: &str, fds: Vec<OwnedFd>) {
        let fresh = match self.queue.back() {
            Some(last) => !fds.is_empty() || last.bytes.len() >= MESSAGE_BYTES || last.sent > 0,
            None => true,
        };
        let last = self.queue.back_mut().filter(|_| !fresh);
        // What is shared is not added to.
        if let Some(bytes) = last.and_then(|last| Rc::get_mut(&mut last.bytes)) {
            bytes.extend_from_slice(line.as_bytes());
            bytes.push(b'\n');
            return;
        }
        let bytes = Rc::new([line.as_bytes(), b"\n"].concat());
        self.queue.push_back(Message {
            bytes,
            sent: 0,
            fds,
        });
    }

    /// Queues lines that others send too.
    pub fn send_block(&mut self, block: &Block) {
        if !block.is_empty() {
            self.queue.push_back(Message {
                bytes: Rc::clone(block),
                sent: 0,
                fds: Vec::new(),
            });
        }
    }

    /// Sends what the other side takes now.
    pub fn flush(&mut self) -> io::Result<()> {
        while let Some(message) = self.queue.front_mut() {
            let fds: Vec<BorrowedFd> = message.fds.iter().map(|fd| fd.as_fd()).collect();
            match passing::send(&self.stream, &message.bytes[message.sent..], &fds) {
                Ok(n) => {
                    message.fds.clear();
                    message.sent += n;
                    if message.sent == message.bytes.len() {
                        self.queue.pop_front();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The start of a line whose end has not come.
    pub fn partial(&self) -> &[u8] {
        self.reader.rest().0
    }

    pub fn is_blocked(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Messages that the other side has not taken.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// What epoll is to watch for: what comes, and room for what waits.
    pub fn interest(&self) -> u32 {
        match self.is_blocked() {
            true => epoll::IN | epoll::OUT,
            false => epoll::IN,
        }
    }

    /// Takes what has come, once. False: the other side is gone.
    pub fn receive(&mut self) -> io::Result<bool> {
        let mut buffer = [0; MESSAGE_BYTES];
        let before = self.received.len();
        match passing::receive(&self.stream, &mut buffer, &mut self.received) {
            Ok(received) => {
                if buffer[..received.bytes].contains(&CANCEL) {
                    // What came now came behind it: nothing is received together with what is
                    // behind a descriptor (unix(7)).
                    self.received.drain(..before);
                }
                self.reader.push(&buffer[..received.bytes]);
                Ok(received.bytes > 0)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Closes what has come along and was not asked for.
    pub fn refuse_fds(&mut self) {
        self.received.clear();
    }

    /// The next whole line; what is no line is left out.
    pub fn next_line(&mut self) -> Option<String> {
        loop {
            match self.reader.next_line()? {
                Ok(line) if !line.as_bytes().contains(&CANCEL) => return Some(line),
                _ => {}
            }
        }
    }

    /// The descriptor that came with the line just read.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.received.pop_front()
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    #[test]
    fn lines_and_descriptors_arrive_in_order() {
        let (mut a, end) = Channel::pair().unwrap();
        let mut b = Channel::new(UnixStream::from(end)).unwrap();
        let file = crate::sys::shared::Shared::create(1).unwrap();
        let dup = || file.as_fd().try_clone_to_owned().unwrap();
        a.send("one");
        a.send_with("two", vec![dup()]);
        a.send_with("three", vec![dup(), dup()]);
        a.flush().unwrap();
        let mut lines = Vec::new();
        while lines.len() < 3 {
            assert!(b.receive().unwrap());
            lines.extend(std::iter::from_fn(|| b.next_line()));
        }
        assert_eq!(lines, ["one", "two", "three"]);
        for _ in 0..3 {
            let mut file = std::fs::File::from(b.take_fd().unwrap());
            file.rewind().unwrap();
            file.write_all(b"x").unwrap();
            file.rewind().unwrap();
            let mut byte = [0];
            file.read_exact(&mut byte).unwrap();
            assert_eq!(&byte, b"x");
        }
        assert!(b.take_fd().is_none());
        drop(a);
        assert!(!b.receive().unwrap());
    }

    /// Where the kernel cannot refuse it, it is closed.
    #[test]
    fn who_gives_descriptors_takes_none() {
        let (mut a, end) = Channel::pair().unwrap();
        let mut b = Channel::new(UnixStream::from(end)).unwrap();
        b.send_with(
            "one",
            vec![std::fs::File::open("/dev/null").unwrap().into()],
        );
        if b.flush().is_ok() {
            assert!(a.receive().unwrap());
            assert_eq!(a.next_line().as_deref(), Some("one"));
            a.refuse_fds();
        }
        assert!(a.take_fd().is_none());
    }

    #[test]
    fn what_is_shared_is_sent_by_all_and_added_to_by_none() {
        let lines = (0..2000).map(|i| format!("{i} {}", "x".repeat(100)));
        let blocks = blocks(lines.clone());
        for n in 0..3 {
            let (mut a, end) = Channel::pair().unwrap();
            let mut b = Channel::new(UnixStream::from(end)).unwrap();
            blocks.iter().for_each(|block| a.send_block(block));
            a.send(&format!("own {n}"));
            let mut got = Vec::new();
            while got.len() < 2001 {
                a.flush().unwrap();
                assert!(b.receive().unwrap());
                got.extend(std::iter::from_fn(|| b.next_line()));
            }
            assert!(lines.clone().chain([format!("own {n}")]).eq(got));
        }
        assert!(blocks.iter().all(|block| Rc::strong_count(block) == 1));
    }

    #[test]
    fn what_the_one_before_had_begun_is_void() {
        let (mut dead, end) = Channel::pair().unwrap();
        let mut b = Channel::new(UnixStream::from(end)).unwrap();
        let kept = dead.stream.try_clone().unwrap();
        let some = || std::fs::File::open("/dev/null").unwrap().into();
        dead.send("one");
        dead.send_with("two with a descriptor that", vec![some()]);
        dead.flush().unwrap();
        dead.stream.write_all(b"retire ro").unwrap();
        drop(dead);
        for _ in 0..2 {
            assert!(b.receive().unwrap());
        }
        let mut next = Channel::adopted(kept).unwrap();
        next.send("three");
        next.send_with("four", vec![some(), some()]);
        next.flush().unwrap();
        let mut lines = Vec::new();
        while lines.len() < 4 {
            assert!(b.receive().unwrap());
            lines.extend(std::iter::from_fn(|| b.next_line()));
        }
        assert_eq!(
            lines,
            ["one", "two with a descriptor that", "three", "four"]
        );
        assert!(b.take_fd().is_some() && b.take_fd().is_some() && b.take_fd().is_none());
    }

    #[test]
    fn a_reader_that_is_slow_gets_everything() {
        let (mut a, end) = Channel::pair().unwrap();
        let mut b = Channel::new(UnixStream::from(end)).unwrap();
        let long = "x".repeat(1000);
        for i in 0..5000 {
            a.send(&format!("{i} {long}"));
        }
        let mut got = 0;
        while got < 5000 {
            a.flush().unwrap();
            assert!(b.receive().unwrap());
            while let Some(line) = b.next_line() {
                assert!(line.starts_with(&format!("{got} ")));
                got += 1;
            }
        }
        assert!(!a.is_blocked());
    }
}
