//! Who accepts the next connection.
//!
//! All workers wait on the same sockets with EPOLLEXCLUSIVE: the kernel wakes
//! the first waiter in the socket's queue that sleeps. Left alone that is always
//! the same one. So a worker that is ahead of the least loaded, by the numbers
//! on the board, goes to the end of the queue: it leaves and enters again. When
//! a burst wakes one that is far ahead, it steps aside for a moment, for the
//! others were woken too; if the connection still waits then, it takes it.
//!
//! One gap is left: who is stopped or killed between being woken and taking
//! the connection leaves it lying, and the kernel wakes nobody else for it. So
//! main has the others look when one dies, and all look when they are pinged.
//!
//! Otherwise nobody needs to be told anything, nothing polls, and a dead, stopped or
//! stuck worker delays no one: the kernel passes over who does not wait, and a
//! row of the board that stood still while its worker should have come does
//! not count until it moves.

use crate::limits::{ACCEPT_BATCH, ACCEPT_GRACE_US, ACCEPT_LEAD_MAX, WORKERS_MAX};
use crate::net::board::{Board, Cell};

/// What one worker thinks of the others.
pub struct Queue {
    worker: usize,
    /// When it stepped aside; `None`: it takes part.
    aside_since_us: Option<u64>,
    /// Turns of the others when it stepped aside.
    turns: [u64; WORKERS_MAX],
    /// Others that did not come although it stepped aside for them.
    stuck: [bool; WORKERS_MAX],
    /// It came back: now it takes what waits.
    insist: bool,
}

/// What to do with a socket that has connections waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Take up to so many.
    Accept(usize),
    /// Leave the queue for `ACCEPT_GRACE_US`.
    StepAside,
}

impl Queue {
    pub fn new(worker: usize) -> Queue {
        Queue {
            worker,
            aside_since_us: None,
            turns: [0; WORKERS_MAX],
            stuck: [false; WORKERS_MAX],
            insist: false,
        }
    }

    pub fn ready(&mut self, board: &Board, now_us: u64) -> Verdict {
        let Some(lead) = self.lead(board) else {
            return Verdict::Accept(ACCEPT_BATCH);
        };
        if lead > ACCEPT_LEAD_MAX && !self.insist {
            self.aside_since_us = Some(now_us);
            for (worker, turns) in self.turns.iter_mut().enumerate() {
                *turns = board.get(worker, Cell::Turns);
            }
            return Verdict::StepAside;
        }
        if self.insist {
            // It waited in vain. Who made no turn meanwhile is stuck.
            self.insist = false;
            for (worker, turns) in self.turns.iter().enumerate() {
                self.stuck[worker] = board.get(worker, Cell::Turns) == *turns;
            }
        }
        Verdict::Accept(1)
    }

    /// Whether to go to the end of the queue, after connections were taken.
    pub fn is_ahead(&mut self, board: &Board) -> bool {
        self.lead(board).is_some_and(|lead| lead > 0)
    }

    /// When it will come back.
    pub fn back_at_us(&self) -> Option<u64> {
        self.aside_since_us.map(|since| since + ACCEPT_GRACE_US)
    }

    /// Whether it is time to come back.
    pub fn comes_back(&mut self, now_us: u64) -> bool {
        let back = self.back_at_us().is_some_and(|at| at <= now_us);
        if back {
            self.aside_since_us = None;
            self.insist = true;
        }
        back
    }

    /// Connections more than the least loaded of the others. `None`: there are no others.
    fn lead(&mut self, board: &Board) -> Option<u64> {
        let mut least = None;
        for worker in 0..WORKERS_MAX {
            if worker == self.worker || board.get(worker, Cell::Alive) == 0 {
                continue;
            }
            if self.stuck[worker] {
                self.stuck[worker] = board.get(worker, Cell::Turns) == self.turns[worker];
                continue;
            }
            let connections = board.get(worker, Cell::Connections);
            least = Some(least.map_or(connections, |least: u64| least.min(connections)));
        }
        let mine = board.get(self.worker, Cell::Connections);
        least.map(|least| mine.saturating_sub(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(connections: &[u64]) -> Board {
        let board = Board::create().unwrap();
        for (worker, n) in connections.iter().enumerate() {
            board.set(worker, Cell::Alive, 1);
            board.set(worker, Cell::Connections, *n);
        }
        board
    }

    #[test]
    fn alone_it_takes_all() {
        let mut queue = Queue::new(0);
        let board = board(&[1000]);
        assert_eq!(queue.ready(&board, 1), Verdict::Accept(ACCEPT_BATCH));
        assert!(!queue.is_ahead(&board));
    }

    #[test]
    fn one_ahead_goes_to_the_end_and_far_ahead_steps_aside() {
        let mut queue = Queue::new(0);
        let even = board(&[3, 3]);
        assert_eq!(queue.ready(&even, 1), Verdict::Accept(1));
        assert!(!queue.is_ahead(&even));
        let ahead = board(&[4, 3]);
        assert!(queue.is_ahead(&ahead));
        assert_eq!(queue.ready(&ahead, 1), Verdict::Accept(1));
        let far = board(&[100, 3]);
        assert_eq!(queue.ready(&far, 1), Verdict::StepAside);
        assert!(!queue.comes_back(ACCEPT_GRACE_US));
        assert!(queue.comes_back(1 + ACCEPT_GRACE_US));
        assert_eq!(queue.ready(&far, 9), Verdict::Accept(1));
    }

    #[test]
    fn a_stuck_sibling_delays_once_and_counts_again_when_it_moves() {
        let mut queue = Queue::new(0);
        let board = board(&[100, 3]);
        assert_eq!(queue.ready(&board, 1), Verdict::StepAside);
        assert!(queue.comes_back(1 + ACCEPT_GRACE_US));
        queue.ready(&board, 9);
        assert_eq!(queue.ready(&board, 9), Verdict::Accept(ACCEPT_BATCH));
        assert!(!queue.is_ahead(&board));
        board.add(1, Cell::Turns, 1);
        queue.is_ahead(&board);
        assert_eq!(queue.ready(&board, 10), Verdict::StepAside);
    }
}
