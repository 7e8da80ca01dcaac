//! The resolver: it asks the system which addresses a name has, so that nobody else has to.
//!
//! getaddrinfo(3) reads files, talks to servers and blocks: main does nothing of the kind, and workers have no
//! files. So there is this process, which has neither a client's bytes nor a secret. Main says a name and hears
//! its addresses over the channel; each question has a thread of its own, some at a time. Names that had no answer last
//! time have threads of their own, so that those whose servers are silent hold up no others for long. It ends with main.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use crate::channel::Channel;
use crate::config::Family;
use crate::limits::{
    NAMES_AT_ONCE_MAX, NAMES_WAITING_MAX, NAME_ADDRESSES_MAX, REASON_CHARS_MAX,
    RESOLVER_STACK_BYTES,
};
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

/// What main wants to know.
struct Question {
    name: String,
    family: Family,
    /// The last one had no answer: it may take long.
    doubtful: bool,
}

/// Questions of one kind, so that those of the other do not wait for them.
#[derive(Default)]
struct Lane {
    running: usize,
    waiting: VecDeque<Question>,
}

struct Resolver {
    channel: Channel,
    poll: Epoll,
    /// Where threads put their answers, and where they come out.
    answers: (Arc<UnixDatagram>, UnixDatagram),
    /// Those about names that had an answer, or are new; and doubtful ones.
    lanes: [Lane; 2],
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
        lanes: Default::default(),
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
                let doubtful = value(line, "doubtful").as_deref() == Some("true");
                let family = Family::named(&value(line, "family").unwrap_or_default());
                let question = value(line, "name").map(|name| Question {
                    name,
                    family,
                    doubtful,
                });
                let waiting = &mut self.lanes[usize::from(doubtful)].waiting;
                // Main asks for each name once at a time: there are no more than it has.
                if waiting.len() < NAMES_WAITING_MAX {
                    waiting.extend(question);
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
        for lane in &mut self.lanes {
            while lane.running < NAMES_AT_ONCE_MAX {
                let Some(question) = lane.waiting.pop_front() else {
                    break;
                };
                let (put, name) = (Arc::clone(&self.answers.0), question.name.clone());
                let thread = std::thread::Builder::new().stack_size(RESOLVER_STACK_BYTES);
                match thread.spawn(move || resolve(&question, &put)) {
                    Ok(_) => lane.running += 1,
                    Err(e) => self.channel.send(&answer(&name, Err(e))),
                }
            }
        }
    }

    fn take_answers(&mut self) {
        let mut room = [0; ANSWER_BYTES_MAX];
        while let Ok(n) = self.answers.1.recv(&mut room) {
            let Some((lane, line)) = room[..n].split_first() else {
                continue;
            };
            let running = &mut self.lanes[usize::from(*lane != 0)].running;
            *running = running.saturating_sub(1);
            self.channel.send(&String::from_utf8_lossy(line));
        }
        self.ask_on();
    }
}

/// In a thread of its own. The answer has its lane before it.
fn resolve(question: &Question, put: &UnixDatagram) {
    let line = answer(&question.name, addresses(question));
    let message = [&[u8::from(question.doubtful)], line.as_bytes()].concat();
    // The other end lives as long as this process does, and there is room for it.
    let _ = put.send(&message);
}

/// Room for the longest answer: a name, and as many addresses as are told.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

fn addresses(question: &Question) -> io::Result<Vec<IpAddr>> {
    let found = (question.name.as_str(), 0).to_socket_addrs()?;
    Ok(usable(found.map(|address| address.ip()), question.family))
}

/// Of an answer what can be connected to, in an order of its own; and no more than may be.
pub fn usable(found: impl Iterator<Item = IpAddr>, family: Family) -> Vec<IpAddr> {
    let good = |ip: &IpAddr| match ip {
        IpAddr::V4(v4) => {
            let all = v4.is_unspecified() || v4.is_multicast() || v4.is_broadcast();
            family != Family::Ipv6 && !all
        }
        // Of those of one link it would have to be known which one that is.
        IpAddr::V6(v6) => {
            let local = v6.segments()[0] & 0xffc0 == 0xfe80;
            family != Family::Ipv4 && !v6.is_unspecified() && !v6.is_multicast() && !local
        }
    };
    let ips: BTreeSet<IpAddr> = found.map(|ip| ip.to_canonical()).filter(good).collect();
    ips.into_iter().take(NAME_ADDRESSES_MAX).collect()
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
