//! The board on which workers show each other what they carry.
//!
//! One row of counters per worker, in memory that main made and all have
//! mapped. Everyone reads every row; a worker writes its own, main says who
//! lives. But any worker can write any row, and a cell may hold any number: one that was
//! taken over can spoil the balance and the figures, be shown as less loaded than it is (`resize`
//! chooses an heir by that), and have a next main leave workers to themselves or take one for
//! another's place (`orphans`). Nothing else goes by what stands here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::limits::WORKERS_MAX;
use crate::sys::shared::Shared;

/// What a row holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// 1 while the worker accepts; written by main.
    Alive,
    /// Client connections now.
    Connections,
    /// Turns of the loop: stands still only while the worker sleeps or is stuck.
    Turns,
    /// Requests answered, connections accepted, ever.
    Requests,
    Accepted,
    /// Connections refused because of the limit, log lines lost, late events.
    AtLimit,
    LogLost,
    /// Responses that had bytes behind their end.
    Surplus,
    /// The number of the system call of which the sandbox has killed it, plus one.
    Violation,
    /// Which worker it is and by which process, which is 0 for a row that nobody has; written by main.
    Place,
    Pid,
}

/// What a connection of a worker that ends is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Kept alive, between two requests.
    Idle,
    /// A request or its answer is under way, or a handshake, or the end.
    Request,
    Websocket,
    Tcp,
}

impl Load {
    pub const ALL: [Load; 4] = [Load::Idle, Load::Request, Load::Websocket, Load::Tcp];

    pub fn name(self) -> &'static str {
        match self {
            Load::Idle => "idle",
            Load::Request => "request",
            Load::Websocket => "websocket",
            Load::Tcp => "tcp",
        }
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Another worker has it.
    Moved,
    /// It has ended by itself.
    Drained,
    /// It is still here.
    Draining,
    /// Its time was over.
    Cut,
}

impl Fate {
    pub const ALL: [Fate; 4] = [Fate::Moved, Fate::Drained, Fate::Draining, Fate::Cut];

    pub fn name(self) -> &'static str {
        match self {
            Fate::Moved => "moved",
            Fate::Drained => "drained",
            Fate::Draining => "draining",
            Fate::Cut => "cut",
        }
    }
}

/// Cells of a row: four cache lines, so that workers do not write into the same one.
const ROW: usize = 32;
/// The first of those that say what became of connections.
const FATES: usize = 16;

pub struct Board(Shared);

impl Board {
    /// How it is arranged: who has another arrangement cannot read it.
    pub fn layout() -> String {
        format!("{WORKERS_MAX}x{ROW}")
    }

    pub fn create() -> io::Result<Board> {
        Ok(Board(Shared::create(WORKERS_MAX * ROW)?))
    }

    pub fn map(file: OwnedFd) -> io::Result<Board> {
        let board = Board(Shared::map(file)?);
        if board.0.cells().len() < WORKERS_MAX * ROW {
            return Err(io::Error::other("the board is too small"));
        }
        Ok(board)
    }

    /// Where the sandbox notes what a worker should not have done.
    pub fn violation(&'static self, worker: usize) -> &'static AtomicU64 {
        self.cell(worker, Cell::Violation)
    }

    fn cell(&self, worker: usize, cell: Cell) -> &AtomicU64 {
        &self.0.cells()[(worker % WORKERS_MAX) * ROW + cell as usize]
    }

    pub fn get(&self, worker: usize, cell: Cell) -> u64 {
        self.cell(worker, cell).load(Relaxed)
    }

    pub fn set(&self, worker: usize, cell: Cell, value: u64) {
        self.cell(worker, cell).store(value, Relaxed);
    }

    /// Only the worker itself adds to its row: no locked instruction is needed.
    pub fn add(&self, worker: usize, cell: Cell, n: u64) {
        let cell = self.cell(worker, cell);
        cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
    }

    fn fate_cell(&self, worker: usize, load: Load, fate: Fate) -> &AtomicU64 {
        let cell = FATES + load as usize * Fate::ALL.len() + fate as usize;
        &self.0.cells()[(worker % WORKERS_MAX) * ROW + cell]
    }

    /// How many connections of a worker that ends came to that.
    pub fn fate(&self, worker: usize, load: Load, fate: Fate) -> u64 {
        self.fate_cell(worker, load, fate).load(Relaxed)
    }

    pub fn add_fate(&self, worker: usize, load: Load, fate: Fate, n: i64) {
        let cell = self.fate_cell(worker, load, fate);
        cell.store(cell.load(Relaxed).wrapping_add_signed(n), Relaxed);
    }

    /// A worker that starts finds an empty row.
    pub fn clear(&self, worker: usize) {
        for cell in &self.0.cells()[(worker % WORKERS_MAX) * ROW..][..ROW] {
            cell.store(0, Relaxed);
        }
    }
}

impl AsFd for Board {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
