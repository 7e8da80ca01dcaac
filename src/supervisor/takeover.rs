//! A running main as a hand-over, and a hand-over as a running main.
//!
//! What is here happens at the one moment in which the program changes. Whoever
//! hands over has nothing half-way: no transaction that a worker has still to
//! do, no page of connections on its way. So there is nothing to be told of that.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::channel::Channel;
use crate::keys;
use crate::limits::HANDOVER_BYTES_MAX;
use crate::net::board::Board;
use crate::net::ledger::Ledger;
use crate::net::token::{self, Kind};
use crate::proto::line::LineReader;
use crate::slab::Key;
use crate::supervisor::activation::Given;
use crate::supervisor::connections::Roll;
use crate::supervisor::control::{Client, Control};
use crate::supervisor::files::Logs;
use crate::supervisor::handover::*;
use crate::supervisor::inquiry::{Inquiry, Topic};
use crate::supervisor::keys::{Keys, KeysNote};
use crate::supervisor::outbox::Outbox;
use crate::supervisor::pauses::Pause;
use crate::supervisor::progress::Progress;
use crate::supervisor::rehearsal::{self, Understood};
use crate::supervisor::relay::{RelayNote, Standard};
use crate::supervisor::sandbox::give_up_the_rest_of_root;
use crate::supervisor::store::Store;
use crate::supervisor::waits::Wait;
use crate::supervisor::workers::{Life, Place, Process, Workers};
use crate::supervisor::{notify, Parts, Stage, Supervisor};
use crate::sys::epoll;
use crate::sys::exec::{self, Inherited};
use crate::sys::process::{self, Child};
use crate::sys::socket::{self, Nature};

// ---- from a running main ------------------------------------------------

impl Supervisor {
    /// All that the next program has to know, as it is now.
    pub(super) fn hand_over(&self, task: Task) -> Handover {
        let (log, access) = self.logs.numbers();
        let sockets = self.sockets.iter();
        Handover {
            from: crate::version::version().to_string(),
            settings: self.settings.clone(),
            file: self.file.clone(),
            filed_log_level: self.filed_log_level.clone(),
            filed: self.filed.clone(),
            state: self.state.clone(),
            started_ms: self.started_ms,
            revision: self.revision,
            last_order: self.orders.last,
            task,
            descriptors: Descriptors {
                control: self.control.as_fd().as_raw_fd(),
                board: self.board.as_fd().as_raw_fd(),
                ledger: self.ledger.as_fd().as_raw_fd(),
                log,
                access,
                layout: rehearsal::layout(),
            },
            sockets: sockets.map(|(a, s)| (*a, s.as_raw_fd())).collect(),
            tickets: self.tickets.clone(),
            roster: self.roster.clone(),
            places: self.workers.places.iter().map(place_note).collect(),
            workers: self.worker_notes(),
            clients: self.client_notes(),
            pauses: self.pause_notes(),
            waits: self.wait_notes(),
            rolls: self.roll_notes(),
            trial: self.trial.clone(),
            expiry: self.expiry.clone(),
            keys: self.keys.notes(),
            counts: self.counts,
            relays: self.logs.standard.notes(),
            healths: self.healths.clone(),
            saving: Saving {
                due_ms: self.saver.due_ms,
                rests_until_ms: self.saver.rests_until_ms,
            },
        }
    }

    fn worker_notes(&self) -> Vec<WorkerNote> {
        let note = |process: &Process| WorkerNote {
            pid: process.child.id(),
            id: process.id,
            heirs: process.heirs,
            row: process.row,
            started_ms: process.started_ms,
            retires_ms: match process.life {
                Life::Retiring { until_ms } => Some(until_ms),
                Life::Accepting | Life::Starting => None,
            },
            channel: process.channel.as_fd().as_raw_fd(),
            partial: process.channel.partial().to_vec(),
            closed: process.closed,
            handle: process.child.adopted_by().map(|handle| handle.as_raw_fd()),
        };
        let all = self.workers.processes.iter();
        all.map(|(_, process)| note(process)).collect()
    }

    fn client_notes(&self) -> Vec<ClientNote> {
        let note = |client: &Client| {
            let (partial, skipping) = client.reader.rest();
            ClientNote {
                fd: client.stream.as_raw_fd(),
                who: client.who.clone(),
                role: client.role,
                uid: client.uid,
                listens: client.listens,
                ended: client.ended,
                heard_ms: client.heard_ms,
                missed: client.missed,
                partial: partial.to_vec(),
                skipping,
                unread: client.outbox.unsent().map(<[u8]>::to_vec).collect(),
                transaction: client.transaction.clone(),
            }
        };
        let all = self.control.clients.iter();
        all.map(|(_, client)| note(client)).collect()
    }

    fn fd_of(&self, client: Key) -> Option<RawFd> {
        let client = self.control.clients.get(client)?;
        Some(client.stream.as_raw_fd())
    }

    fn pid_of(&self, worker: Key) -> Option<u32> {
        self.name_of(worker).map(|(_, pid)| pid)
    }

    fn pause_notes(&self) -> Vec<PauseNote> {
        let of = |(worker, count): &(Key, usize)| Some((self.pid_of(*worker)?, *count));
        let note = |(cluster, pause): (&String, &Pause)| PauseNote {
            cluster: cluster.clone(),
            until_ms: pause.until_ms,
            waiting: pause.waiting.iter().filter_map(of).collect(),
        };
        self.pauses.0.iter().map(note).collect()
    }

    fn wait_notes(&self) -> Vec<WaitNote> {
        let of = |(worker, left): &(Key, Option<u32>)| Some((self.pid_of(*worker)?, *left));
        let note = |wait: &Wait| {
            Some(WaitNote {
                client: self.fd_of(wait.client)?,
                order: wait.order,
                revision: wait.revision,
                changes: wait.changes,
                until_ms: wait.until_ms,
                left: wait.left.iter().filter_map(of).collect(),
            })
        };
        self.waits.iter().filter_map(note).collect()
    }

    fn roll_notes(&self) -> Vec<RollNote> {
        let note = |inquiry: &Inquiry| {
            let Topic::Roll(roll) = &inquiry.topic else {
                return None;
            };
            Some(RollNote {
                client: self.fd_of(inquiry.client)?,
                who: roll.who.clone(),
                command: roll.command.clone(),
                kill: roll.kill,
                from: roll.from,
                killed: roll.killed,
                at: roll.at.and_then(|worker| self.pid_of(worker)),
                left: roll.left.iter().filter_map(|w| self.pid_of(*w)).collect(),
            })
        };
        let all = self.inquiries.iter();
        all.filter_map(|(_, inquiry)| note(inquiry)).collect()
    }
}

fn place_note(place: &Place) -> PlaceNote {
    PlaceNote {
        due_ms: place.due_ms,
        failures: place.failures,
        restarts: place.restarts,
    }
}

// ---- to a running main --------------------------------------------------

/// Goes on as main, where the program that ran in this process before has left off; returns when
/// the proxy has ended. `number`: the descriptor of the hand-over. An error is a sentence.
pub fn take_over(number: RawFd) -> Result<(), String> {
    process::set_name(c"sozu");
    give_up_the_rest_of_root()?;
    let broken = |e: io::Error| format!("what was handed over cannot be read: {e}");
    let mut inherited = Inherited::find().map_err(broken)?;
    let text = inherited.take(number).map_err(broken)?;
    let text = exec::read_sealed(text, HANDOVER_BYTES_MAX).map_err(broken)?;
    let understood = rehearsal::understand(&text)?;
    drop(text);
    let mut supervisor = Supervisor::taken(understood, &mut inherited)?;
    supervisor.watch_challenges();
    match inherited.close_rest() {
        0 => {}
        count => log::info!("{count} descriptors that nobody knows are closed"),
    }
    supervisor.go_on_serving();
    supervisor.serve()
}

/// An open descriptor of that kind; else a sentence.
fn socket_of(inherited: &mut Inherited, fd: RawFd, nature: Nature) -> Result<OwnedFd, String> {
    let wrong = |e: io::Error| format!("descriptor {fd}: {e}");
    let taken = inherited.take(fd).map_err(wrong)?;
    match socket::nature(taken.as_fd()).map_err(wrong)? {
        found if found == nature => Ok(taken),
        found => Err(format!("descriptor {fd} is {found:?}, not {nature:?}")),
    }
}

const LISTENER: Nature = Nature {
    unix: false,
    stream: true,
    listens: true,
};
const CONTROL: Nature = Nature {
    unix: true,
    stream: true,
    listens: true,
};
/// A worker's end of a channel, as it is in main, or that of a control client.
pub const CONNECTION: Nature = Nature {
    unix: true,
    stream: true,
    listens: false,
};

/// Standard output and error, with the pipes of the program before.
fn standard_of(
    notes: Vec<RelayNote>,
    take: &mut impl FnMut(RawFd) -> Result<OwnedFd, String>,
) -> Result<Standard, String> {
    let mut before = [None, None];
    for note in notes {
        if let Some(place) = before.get_mut(note.number) {
            *place = Some((take(note.fd)?, note.rest));
        }
    }
    Standard::open(before).map_err(|e| format!("standard output and error: {e}"))
}

/// A listening socket of that very address.
fn listener_of(
    inherited: &mut Inherited,
    address: SocketAddr,
    fd: RawFd,
) -> Result<TcpListener, String> {
    let socket = TcpListener::from(socket_of(inherited, fd, LISTENER)?);
    match socket.local_addr() {
        Ok(bound) if bound == address => Ok(socket),
        Ok(bound) => Err(format!("descriptor {fd} listens on {bound}, not {address}")),
        Err(e) => Err(format!("descriptor {fd}: {e}")),
    }
}

impl Supervisor {
    fn taken(understood: Understood, inherited: &mut Inherited) -> Result<Supervisor, String> {
        let Understood {
            handover,
            roles,
            sandbox,
        } = understood;
        let Handover {
            settings,
            descriptors,
            ..
        } = handover;
        let mut plain = |fd: RawFd| inherited.take(fd).map_err(|e| e.to_string());
        let memory = |e: io::Error| format!("shared memory: {e}");
        let board = Board::map(plain(descriptors.board)?).map_err(memory)?;
        let ledger = Ledger::map(plain(descriptors.ledger)?).map_err(memory)?;
        let access = descriptors.access.map(&mut plain).transpose()?;
        let log = plain(descriptors.log)?;
        let standard = standard_of(handover.relays, &mut plain)?;
        let logs = Logs::taken(&settings, standard, log, access)?;
        let control = UnixListener::from(socket_of(inherited, descriptors.control, CONTROL)?);
        let sockets = handover.sockets.into_iter();
        let sockets = sockets
            .map(|(address, fd)| Ok((address, listener_of(inherited, address, fd)?)))
            .collect::<Result<BTreeMap<_, _>, String>>()?;
        let mut workers = Workers::new(0);
        workers.places = handover.places.into_iter().map(place_of).collect();
        let mut main = Supervisor::of(Parts {
            control: Control::taken(control, &settings.command_socket, roles),
            settings,
            state: handover.state,
            sockets,
            given: Given::default(),
            store: Store::default(),
            board,
            ledger,
            roster: handover.roster,
            tickets: handover.tickets,
            logs,
            sandbox,
            workers,
            file: handover.file,
            filed: handover.filed,
            filed_log_level: handover.filed_log_level,
            program: handover.task.program.clone(),
        })?;
        main.started_ms = handover.started_ms;
        main.revision = handover.revision;
        main.orders.last = handover.last_order;
        main.trial = handover.trial;
        main.expiry = handover.expiry;
        main.saver.due_ms = handover.saving.due_ms;
        main.saver.rests_until_ms = handover.saving.rests_until_ms;
        if main.settings.key_process {
            main.keys = Keys::due(main.now_ms);
        }
        main.take_keys(handover.keys, inherited)?;
        main.counts = handover.counts;
        main.healths = handover.healths;
        let pids = main.take_workers(handover.workers, inherited)?;
        let clients = main.take_clients(handover.clients, inherited);
        let all = Waiting {
            pauses: handover.pauses,
            waits: handover.waits,
            rolls: handover.rolls,
        };
        main.take_waiting(all, &pids, &clients);
        main.upgraded(handover.task, &handover.from, &clients);
        Ok(main)
    }

    fn take_keys(&mut self, notes: Vec<KeysNote>, inherited: &mut Inherited) -> Result<(), String> {
        for KeysNote { pid, page } in notes {
            let page = page.map(|fd| inherited.take(fd).and_then(keys::page));
            let page = page.transpose();
            self.keys
                .took(pid, page.map_err(|e| format!("shared memory: {e}"))?);
        }
        Ok(())
    }

    /// Returns who is who.
    fn take_workers(
        &mut self,
        notes: Vec<WorkerNote>,
        inherited: &mut Inherited,
    ) -> Result<HashMap<u32, Key>, String> {
        let mut pids = HashMap::new();
        for mut note in notes {
            let stream = UnixStream::from(socket_of(inherited, note.channel, CONNECTION)?);
            let (pid, partial) = (note.pid, std::mem::take(&mut note.partial));
            let channel = Channel::resumed(stream, partial).map_err(|e| e.to_string())?;
            let handle = note.handle.and_then(|handle| inherited.take(handle).ok());
            let child = match handle {
                Some(handle) => Child::adopted(pid, handle),
                None => Child::known(pid),
            };
            let closed = note.closed;
            let process = worker_of(note, child, channel, self.now_ms);
            let key = self.workers.processes.insert(process);
            pids.insert(pid, key);
            let Some(process) = self.workers.processes.get(key).filter(|_| !closed) else {
                continue;
            };
            self.watch(process.channel.as_fd(), token::pack(Kind::Channel, key))?;
        }
        Ok(pids)
    }

    fn watch(&self, fd: BorrowedFd, token: u64) -> Result<(), String> {
        let added = self.poll.add(fd, epoll::IN, token);
        added.map_err(|e| format!("epoll_ctl: {e}"))
    }

    /// Returns who is who. One that cannot be taken is let go: it is no reason not to serve.
    fn take_clients(
        &mut self,
        notes: Vec<ClientNote>,
        inherited: &mut Inherited,
    ) -> HashMap<RawFd, Key> {
        let mut clients = HashMap::new();
        for note in notes {
            let (fd, who) = (note.fd, note.who.clone());
            let stream = socket_of(inherited, fd, CONNECTION).map(UnixStream::from);
            let taken = stream.and_then(|stream| {
                let key = self.control.clients.insert(client_of(note, stream));
                let client = self.control.clients.get(key).ok_or("it is gone")?;
                let token = token::pack(Kind::ControlClient, key);
                let watched = self.watch(client.stream.as_fd(), token);
                watched.inspect_err(|_| {
                    self.control.clients.remove(key);
                })?;
                Ok(key)
            });
            match taken {
                Ok(key) => {
                    clients.insert(fd, key);
                }
                Err(what) => log::error!("the control client {who} is let go: {what}"),
            }
        }
        clients
    }

    fn take_waiting(
        &mut self,
        all: Waiting,
        pids: &HashMap<u32, Key>,
        clients: &HashMap<RawFd, Key>,
    ) {
        let worker = |pid: u32| pids.get(&pid).copied();
        for note in all.pauses {
            let waiting = note.waiting.into_iter();
            let pause = Pause {
                until_ms: note.until_ms,
                waiting: waiting
                    .filter_map(|(pid, n)| Some((worker(pid)?, n)))
                    .collect(),
            };
            self.pauses.0.insert(note.cluster, pause);
        }
        for note in all.waits {
            let Some(client) = clients.get(&note.client) else {
                continue;
            };
            self.hold_back(*client);
            let left = note.left.into_iter();
            self.waits.push(Wait {
                order: note.order,
                client: *client,
                revision: note.revision,
                changes: note.changes,
                until_ms: note.until_ms,
                left: left
                    .filter_map(|(pid, n)| Some((worker(pid)?, n)))
                    .collect(),
                progress: Progress::new(self.now_ms),
            });
        }
        for note in all.rolls {
            let Some(client) = clients.get(&note.client) else {
                continue;
            };
            let roll = Roll {
                who: note.who,
                command: note.command,
                kill: note.kill,
                left: note.left.into_iter().filter_map(worker).collect(),
                at: note.at.and_then(worker),
                from: note.from,
                page: None,
                killed: note.killed,
            };
            // The client is there: it was just looked up.
            let _ = self.inquire(*client, Topic::Roll(roll));
        }
    }

    /// It waits for an answer.
    fn hold_back(&mut self, client: Key) {
        if let Some(client) = self.control.clients.get_mut(client) {
            client.waiting = true;
        }
    }

    /// The program has changed: who asked for it is told, and what was left undone meanwhile is done.
    fn upgraded(&mut self, task: Task, from: &str, clients: &HashMap<RawFd, Key>) {
        self.counts.upgrades += 1;
        let version = crate::version::version();
        let ms = self.now_ms.saturating_sub(task.begun_ms);
        let who = &task.who;
        log::warn!("upgraded from {from} to {version} in {ms} ms, by {who}");
        let pairs = [
            ("version", version.to_string()),
            ("from", from.to_string()),
            ("pid", std::process::id().to_string()),
            ("ms", ms.to_string()),
        ];
        self.tell_event("upgraded", &pairs);
        let answer = super::upgrade::answer(&task.losses, pairs.to_vec());
        if let Some(client) = task.client.and_then(|fd| clients.get(&fd)) {
            if let Some(client) = self.control.clients.get_mut(*client) {
                client.outbox.push(&answer);
            }
        }
    }

    /// Everybody is where they were.
    fn go_on_serving(&mut self) {
        self.stage = Stage::Serving;
        self.control.open(&self.poll);
        self.reap();
        for client in self.control.clients.keys() {
            self.serve_client(client, false);
        }
        self.keep_all();
        self.give_connector_desks();
        notify::send("READY=1", &[]);
        self.keep_last();
    }
}

/// What is to be found again by whom it is about.
struct Waiting {
    pauses: Vec<PauseNote>,
    waits: Vec<WaitNote>,
    rolls: Vec<RollNote>,
}

/// One that the program before this one has started.
fn worker_of(note: WorkerNote, child: Child, channel: Channel, now_ms: u64) -> Process {
    let life = match note.retires_ms {
        Some(until_ms) => Life::Retiring { until_ms },
        None => Life::Accepting,
    };
    let mut process = Process::new(note.id, note.row, life, child, channel, now_ms);
    process.heirs = note.heirs;
    process.closed = note.closed;
    process.started_ms = note.started_ms;
    process
}

fn place_of(note: PlaceNote) -> Place {
    Place {
        due_ms: note.due_ms,
        failures: note.failures,
        restarts: note.restarts,
        ..Place::default()
    }
}

fn client_of(note: ClientNote, stream: UnixStream) -> Client {
    let mut outbox = Outbox::default();
    note.unread
        .into_iter()
        .for_each(|piece| outbox.push_piece(piece));
    Client {
        stream,
        reader: LineReader::resumed(note.partial, note.skipping),
        outbox,
        interest: epoll::IN,
        behind: false,
        ended: note.ended,
        awaits_end: false,
        waiting: false,
        inquiry: None,
        transaction: note.transaction,
        listens: note.listens,
        heard_ms: note.heard_ms,
        missed: note.missed,
        role: note.role,
        uid: note.uid,
        who: note.who,
    }
}
