//! One backend of ten holds its answers: requests that go to the others are answered meanwhile, and
//! policies that look at what is under way send it few.
//!
//! No clock decides here: the slow backend holds whatever it has until all others are served.

mod common;

use common::{ok, wait_until, Backend, Gate, Proxy, Setup};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

const QUICK: usize = 9;
/// Somebody who has nothing to do is always among the quick ones.
const CLIENTS: usize = QUICK - 1;

/// A cluster of ten before one worker.
struct Ten {
    gate: Gate,
    slow: Backend,
    _quick: Vec<Backend>,
    proxy: Proxy,
}

impl Ten {
    fn new(policy: &str) -> Ten {
        let gate = Gate::default();
        let of_slow = gate.clone();
        let slow = Backend::replying(move |_| {
            of_slow.pass();
            ok("slow")
        });
        let quick: Vec<Backend> = (0..QUICK).map(|_| Backend::named("quick")).collect();
        let mut addresses = vec![slow.address()];
        addresses.extend(quick.iter().map(Backend::address));
        let setup = Setup::http().top("worker_count", 1).backends(&addresses);
        let keys = format!("load_balancing = \"{policy}\"\n");
        Ten {
            gate,
            slow,
            _quick: quick,
            proxy: setup.more(&keys).start(),
        }
    }

    /// So many clients at a time, each with so many requests one after the other. Returns how many the
    /// slow backend held when everybody else was served; then it lets go of them, and of any more.
    fn held(&self, clients: usize, requests: usize) -> usize {
        let before = self.slow.requests().len();
        let done = AtomicUsize::new(0);
        let client = || {
            let mut client = self.proxy.client();
            for _ in 0..requests {
                assert_eq!(client.get("/").status(), 200);
            }
            done.fetch_add(1, SeqCst);
        };
        thread::scope(|scope| {
            (0..clients).for_each(|_| drop(scope.spawn(client)));
            // A client whose request is held sends no other one.
            let held = wait_until("everybody is served, or waits for the slow one", || {
                let (held, done) = (self.slow.requests().len() - before, done.load(SeqCst));
                (held + done == clients).then_some(held)
            });
            let mut let_go = 0;
            wait_until("all are served", || {
                let come = self.slow.requests().len() - before;
                self.gate.admit(come - std::mem::replace(&mut let_go, come));
                (done.load(SeqCst) == clients).then_some(())
            });
            held
        })
    }
}

#[test]
fn in_turn_it_has_its_share_and_delays_no_more() {
    assert_eq!(Ten::new("round_robin").held(100, 1), 10);
}

#[test]
fn who_counts_requests_sends_it_no_second_one() {
    assert!(Ten::new("least_conn").held(CLIENTS, 50) <= 1);
}

/// Of two the one with less: it is given another one if at least as many are under way at the other.
#[test]
fn the_better_of_two_is_seldom_the_slow_one() {
    assert!(Ten::new("power_of_two").held(CLIENTS, 50) <= CLIENTS / 2);
}

/// What it holds first takes it longer than the others take for all that they are asked meanwhile.
#[test]
fn who_counts_time_leaves_it_alone_once_it_has_answered() {
    let ten = Ten::new("least_time");
    wait_until("it is asked", || (ten.held(CLIENTS, 50) > 0).then_some(()));
    assert_eq!(ten.held(CLIENTS, 50), 0);
}
