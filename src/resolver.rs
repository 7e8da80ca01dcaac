//! The resolver: it asks the system which addresses a name has, so that nobody else has to.
//!
//! getaddrinfo(3) reads files, talks to servers and blocks: main does nothing of the kind, and workers have no
//! files. So there is this process, which has neither a client's bytes nor a secret. Main says a name and hears
//! its addresses over the channel; each question has a thread of its own, some at a time, so that a name whose
//! servers are silent holds up few others. It ends with main.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use crate::channel::Channel;
use crate::limits::{NAMES_AT_ONCE_MAX, NAMES_WAITING_MAX, REASON_CHARS_MAX, RESOLVER_STACK_BYTES};
use crate::net::logging;
use crate::net::token::{self, Kind};
use crate::proto::reply;
use crate::role::{live, plan, value, Begun};
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::passing;
use crate::sys::sandbox::{self, table, Plan};
use crate::sys::shared::Shared;

/// Where its sandbox notes the number of what it should not have done, plus one.
pub const CELLS: usize = 1;

struct Resolver {
    channel: Channel,
    poll: Epoll,
    /// Where threads put their answers, and where they come out.
    answers: (Arc<UnixDatagram>, UnixDatagram),
    running: usize,
    waiting: VecDeque<String>,
}

/// What main says before the process is confined.
#[derive(Default)]
struct Boot {
    page: Option<OwnedFd>,
    log: Option<OwnedFd>,
    level: String,
    plan: Option<Plan>,
}

/// The life of the resolver; its standard input is the channel.
pub fn main() -> ! {
    live("sozu resolver", run)
}

fn run() -> io::Result<()> {
    let mut begun = Begun::new()?;
    let mut boot = Boot::default();
    if !begun.listen(|line, channel| boot.take(line, channel))? {
        return Ok(());
    }
    let missing = || io::Error::other("main did not say all that the resolver needs");
    logging::start(
        &boot.level,
        "resolver",
        boot.log.take().ok_or_else(missing)?,
    );
    let page = Shared::map(boot.page.take().ok_or_else(missing)?)?;
    // Noted there until the very end of the process.
    let page: &'static Shared = Box::leak(Box::new(page));
    let note = page.cells().first().ok_or_else(missing)?;
    let (put, get) = passing::pair()?;
    let put = UnixDatagram::from(put);
    // Threads wait until there is room.
    put.set_nonblocking(false)?;
    let get = UnixDatagram::from(get);
    let token = token::pack_single(Kind::Desk);
    begun.poll.add(get.as_fd(), epoll::IN, token)?;
    let plan = boot.plan.take().ok_or_else(missing)?;
    sandbox::warm_up();
    sandbox::enter(&plan, note).map_err(io::Error::other)?;
    let mut resolver = Resolver {
        channel: begun.channel,
        poll: begun.poll,
        answers: (Arc::new(put), get),
        running: 0,
        waiting: VecDeque::new(),
    };
    resolver.serve()
}

impl Boot {
    fn take(&mut self, line: &str, channel: &mut Channel) -> io::Result<()> {
        match line.split(' ').next() {
            Some("resolver") => {
                self.level = value(line, "level").unwrap_or_default();
                self.page = channel.take_fd();
                self.log = channel.take_fd();
            }
            Some("sandbox") => {
                let plan = plan(line, channel, table::RESOLVER);
                self.plan = Some(plan.with_files());
            }
            _ => return Err(io::Error::other("main said what is not for the resolver")),
        }
        Ok(())
    }
}

impl Resolver {
    fn serve(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(2);
        loop {
            self.obey_lines();
            // What main does not take now goes with what comes next, or when it takes more.
            self.channel.flush()?;
            let (interest, token) = (self.channel.interest(), token::pack_single(Kind::Channel));
            self.poll.modify(self.channel.as_fd(), interest, token)?;
            self.poll.wait(&mut events, -1)?;
            for i in 0..events.len() {
                match token::unpack(events.get(i).0) {
                    Some((Kind::Channel, _)) if !self.channel.receive()? => return Ok(()),
                    Some((Kind::Desk, _)) => self.take_answers(),
                    _ => {}
                }
            }
        }
    }

    fn obey_lines(&mut self) {
        while let Some(line) = self.channel.next_line() {
            self.obey(&line);
        }
    }

    fn obey(&mut self, line: &str) {
        match line.split(' ').next().unwrap_or_default() {
            "resolve" => {
                // Main asks for each name once at a time: there are no more than it has.
                if self.waiting.len() < NAMES_WAITING_MAX {
                    self.waiting.extend(value(line, "name"));
                }
                self.ask_on();
            }
            "ping" => self.channel.send("pong"),
            "ready" => self.channel.send("accepting"),
            "logging" => logging::set_filter(&value(line, "level").unwrap_or_default()),
            "log" => self.channel.take_fd().into_iter().for_each(logging::reopen),
            other => log::error!("main said {other:?}, which is not for the resolver"),
        }
    }

    fn ask_on(&mut self) {
        while self.running < NAMES_AT_ONCE_MAX {
            let Some(name) = self.waiting.pop_front() else {
                return;
            };
            let put = Arc::clone(&self.answers.0);
            let thread = std::thread::Builder::new().stack_size(RESOLVER_STACK_BYTES);
            let asked = name.clone();
            let begun = thread.spawn(move || {
                // The other end lives as long as this process does.
                let _ = put.send(answer(&asked, addresses(&asked)).as_bytes());
            });
            match begun {
                Ok(_) => self.running += 1,
                Err(e) => self.channel.send(&answer(&name, Err(e))),
            }
        }
    }

    fn take_answers(&mut self) {
        let mut room = [0; ANSWER_BYTES_MAX];
        while let Ok(n) = self.answers.1.recv(&mut room) {
            self.running -= 1;
            self.channel.send(&String::from_utf8_lossy(&room[..n]));
        }
        self.ask_on();
    }
}

/// Room for the longest answer: a name, and as many addresses as are told.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

fn addresses(name: &str) -> io::Result<Vec<IpAddr>> {
    let found = (name, 0).to_socket_addrs()?;
    Ok(found.map(|address| address.ip()).collect())
}

/// The line, without LF.
fn answer(name: &str, found: io::Result<Vec<IpAddr>>) -> String {
    let mut pairs = vec![("name", name.to_string())];
    match found {
        Ok(addresses) => {
            let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
            pairs.push(("addresses", texts.join(",")));
        }
        Err(e) => {
            let why: String = e.to_string().chars().take(REASON_CHARS_MAX).collect();
            pairs.push(("why", why));
        }
    }
    let mut line = reply::data("resolved", &pairs);
    line.pop();
    line
}
