//! What main hands to the program that takes its place, as text.
//!
//! Owns: the form. It is lines of the control language with a version in the
//! first one, and says everything that is worth keeping: what is configured,
//! what is under way, and which descriptor is what. Never: a descriptor itself,
//! or where the text comes from. `takeover` makes a `Handover` of a running main
//! and a running main of a `Handover`; a rehearsal goes half of that way.
//!
//! ```text
//!   handover version=1 from=0.1.0      who reads takes its own version, the one before and the next one
//!   settings …, main …, task …         what is not a list
//!   listener add … since … listener …  the state of the file, then what leads from it to the present one
//!   optional …                         may be left out by who does not know it, and has a default
//!   …
//!   end
//! ```
//! Anything else that is not known is refused, with a sentence. The text is our
//! own, and is read like a stranger's: nothing in it makes a reader panic.

mod read;
mod record;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::config::Settings;
use crate::state::State;
use crate::supervisor::apply::{Transaction, Trial};
use crate::supervisor::counts::Counts;
use crate::supervisor::health::Healths;
use crate::supervisor::losses::Losses;
use crate::supervisor::roles::Role;
use crate::supervisor::secure::Expiry;
use crate::supervisor::series::Roster;
use crate::supervisor::tickets::Tickets;

pub use record::Record;

/// Everything. Processes are named by their pid, control clients by their descriptor.
pub struct Handover {
    /// The version of who hands over.
    pub from: String,
    pub settings: Settings,
    /// The configuration file, and what it said when it was read last.
    pub file: PathBuf,
    pub filed_log_level: String,
    pub filed: State,
    pub state: State,
    /// When the proxy was started, be it by a version long gone.
    pub started_ms: u64,
    pub revision: u64,
    /// The number of the last order to workers.
    pub last_order: u64,
    pub task: Task,
    pub descriptors: Descriptors,
    pub sockets: BTreeMap<SocketAddr, RawFd>,
    pub tickets: Tickets,
    pub roster: Roster,
    pub places: Vec<PlaceNote>,
    pub workers: Vec<WorkerNote>,
    pub clients: Vec<ClientNote>,
    pub pauses: Vec<PauseNote>,
    pub waits: Vec<WaitNote>,
    pub rolls: Vec<RollNote>,
    pub trial: Option<Trial>,
    pub expiry: Expiry,
    /// The pids of key processes.
    pub keys: Vec<u32>,
    pub counts: Counts,
    pub healths: Healths,
    pub saving: Saving,
}

/// The upgrade itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Task {
    /// The path by which the new program was found.
    pub program: PathBuf,
    /// Who has asked, for the log, and the control client that waits for the answer.
    pub who: String,
    pub client: Option<RawFd>,
    pub begun_ms: u64,
    /// What became of connections so far.
    pub losses: Losses,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Descriptors {
    pub control: RawFd,
    pub board: RawFd,
    pub ledger: RawFd,
    pub log: RawFd,
    pub access: Option<RawFd>,
    /// How the counters in `board` and `ledger` are arranged.
    pub layout: [String; 2],
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct PlaceNote {
    pub due_ms: Option<u64>,
    pub failures: u32,
    pub restarts: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub struct WorkerNote {
    pub pid: u32,
    pub id: usize,
    pub heirs: usize,
    pub row: usize,
    pub started_ms: u64,
    /// `None`: it accepts.
    pub retires_ms: Option<u64>,
    pub channel: RawFd,
    /// Of a line that is not whole yet.
    pub partial: Vec<u8>,
    pub closed: bool,
    /// Of one that another main has started.
    pub handle: Option<RawFd>,
}

pub struct ClientNote {
    pub fd: RawFd,
    pub who: String,
    pub role: Role,
    pub uid: u32,
    pub listens: bool,
    pub ended: bool,
    pub heard_ms: u64,
    pub missed: usize,
    /// Lines that are not answered yet, and the start of another one …
    pub partial: Vec<u8>,
    /// … of which nothing is wanted.
    pub skipping: bool,
    /// Answers that it has not read, in pieces.
    pub unread: Vec<Vec<u8>>,
    pub transaction: Option<Transaction>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct PauseNote {
    pub cluster: String,
    pub until_ms: u64,
    /// Pids, and how many wait there.
    pub waiting: Vec<(u32, usize)>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct WaitNote {
    pub client: RawFd,
    pub order: u64,
    pub revision: u64,
    pub changes: usize,
    pub until_ms: u64,
    /// Pids, and how many connections are left there, if it was told.
    pub left: Vec<(u32, Option<u32>)>,
}

/// `connections list` or `kill`, between two pages.
#[derive(Debug, PartialEq, Eq)]
pub struct RollNote {
    pub client: RawFd,
    pub who: String,
    pub command: String,
    pub kill: bool,
    pub from: u32,
    pub killed: u64,
    pub at: Option<u32>,
    pub left: Vec<u32>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Saving {
    pub due_ms: Option<u64>,
    pub rests_until_ms: u64,
}

/// What changes by itself while the rest stays as it is: moments, how many wait, what was not read yet.
const FLEETING: [&str; 8] = [
    "optional counts ",
    "optional health ",
    "optional saving ",
    "pause ",
    "wait ",
    "client ",
    "partial ",
    "unread ",
];

/// Whether who has understood one text understands the other: they differ in nothing but what is fleeting.
pub fn is_alike(one: &str, other: &str) -> bool {
    fn lasting(text: &str) -> impl Iterator<Item = &str> {
        let fleets = |line: &str| FLEETING.iter().any(|start| line.starts_with(start));
        text.lines().filter(move |line| !fleets(line))
    }
    lasting(one).eq(lasting(other))
}

impl Handover {
    /// A text that `decode` takes.
    pub fn encode(&self) -> String {
        write::encode(self)
    }

    /// An error is a sentence.
    pub fn decode(bytes: &[u8]) -> Result<Handover, String> {
        read::decode(bytes)
    }

    /// The numbers of all descriptors that have to go along.
    pub fn manifest(&self) -> Vec<RawFd> {
        let own = &self.descriptors;
        let mut all = vec![own.control, own.board, own.ledger, own.log];
        all.extend(own.access);
        all.extend(self.sockets.values());
        all.extend(self.workers.iter().map(|worker| worker.channel));
        all.extend(self.workers.iter().filter_map(|worker| worker.handle));
        all.extend(self.clients.iter().map(|client| client.fd));
        all
    }
}
