//! Main: the trusted process. Owns the listening sockets, the control socket,
//! the state and the workers. Never reads a client's byte.
//!
//! One thread, one epoll, nothing that blocks: signals, workers' channels and
//! control clients are events like any other.

mod activation;
mod apply;
mod canary;
mod candidates;
mod challenges;
mod check;
mod commands;
mod connections;
mod control;
mod counts;
mod crowd;
mod dumps;
mod ending;
mod errands;
mod explain;
mod facts;
mod files;
pub mod handover;
mod health;
mod inquiry;
mod keys;
mod life;
mod listening;
mod losses;
mod memory;
mod names;
mod notify;
mod orders;
mod orphans;
mod outbox;
mod pauses;
mod program;
mod progress;
mod rehearsal;
mod relay;
mod reload;
mod resize;
mod resolver;
mod restarts;
mod roles;
mod roots;
mod sandbox;
mod saved;
mod secure;
mod series;
mod servant;
mod settling;
mod status;
mod store;
mod succession;
mod takeover;
mod tickets;
mod undoing;
mod upgrade;
mod waits;
mod workers;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::config::{Config, Settings};
use crate::limits::{CONTROL_CLIENTS_MAX, EVENTS_PER_TURN};
use crate::net::board::Board;
use crate::net::ledger::{Ledger, Note};
use crate::net::logging;
use crate::net::token::{self, Kind};
use crate::proto::digest::Digest;
use crate::slab::Slab;
use crate::state::State;
use crate::sys::clock;
use crate::sys::epoll::{self, Epoll, Events};
use crate::sys::process::{self, Child, Signals};
pub use crate::sys::process::{keep_no_cores, keep_no_large_pieces};
use activation::Given;
use apply::{Pending, Trial};
use control::Control;
use counts::Counts;
use dumps::Dumps;
use files::Logs;
use health::Healths;
use inquiry::Inquiry;
use keys::Keys;
use listening::{cannot_listen, listen_all, Vigil};
use losses::Losses;
use memory::Litter;
use names::Names;
use orders::Orders;
use pauses::Pauses;
use progress::Progress;
pub use rehearsal::{rehearse, understand};
use roles::Roles;
use sandbox::Sandbox;
pub use saved::last_known_good;
use saved::Saver;
use secure::Expiry;
pub use secure::{try_policies, untimely};
use series::Roster;
use store::Store;
pub use takeover::take_over;
use tickets::Tickets;
use upgrade::Upgrade;
use waits::Wait;
use workers::Workers;

/// The hidden argument with which this program is started as a worker.
pub const WORKER_ROLE: &str = "--worker";
/// … as the process that has the private keys,
pub const KEYS_ROLE: &str = "--keys";
/// … as the one that asks for the addresses of names,
pub const RESOLVER_ROLE: &str = "--resolver";
/// … and to see whether it understands what would be handed to it.
pub const REHEARSAL_ROLE: &str = "--rehearse";
/// Behind `start`: the descriptor of what the program before has handed over.
pub const TAKE_OVER: &str = "--take-over";

/// Main is woken a little late, and has things to do; this is more than that.
const LATE_MS: u64 = 500;

/// Where main is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Until every worker accepts.
    Starting,
    Serving,
    /// Workers finish what they have, until then.
    Draining {
        until_ms: u64,
    },
    /// Workers were told to end at once; they are killed then.
    Stopping {
        until_ms: u64,
    },
}

struct Supervisor {
    settings: Settings,
    state: State,
    /// Of the state.
    digest: Digest,
    stage: Stage,
    poll: Epoll,
    signals: Signals,
    control: Control,
    sockets: BTreeMap<SocketAddr, TcpListener>,
    vigil: Vigil,
    given: Given,
    store: Store,
    board: Board,
    ledger: Ledger,
    counts: Counts,
    roster: Roster,
    tickets: Tickets,
    expiry: Expiry,
    logs: Logs,
    /// What workers give up.
    sandbox: Sandbox,
    keys: Keys,
    names: Names,
    /// The first workers were started.
    begun: bool,
    workers: Workers,
    healths: Healths,
    now_ms: u64,
    /// Why the proxy could not be started.
    failure: Option<String>,
    /// How many transactions there were.
    revision: u64,
    /// Transactions that workers have still to do.
    pending: Vec<Pending>,
    orders: Orders,
    pauses: Pauses,
    /// Changes whose answer waits until backends are empty.
    waits: Vec<Wait>,
    /// What became of connections since the end began.
    losses: Losses,
    /// When this proxy was started, be it by another version.
    started_ms: u64,
    /// What those who wait for the end were told.
    draining: Option<Progress>,
    /// What workers are being asked.
    inquiries: Slab<Inquiry>,
    /// A commit that waits to be confirmed.
    trial: Option<Trial>,
    /// The configuration file, and the state that it described when it was read last.
    file: PathBuf,
    filed: State,
    filed_log_level: String,
    saver: Saver,
    challenges: challenges::Board,
    /// What `state dump` has answered and is still being read.
    dumps: Dumps,
    litter: Litter,
    /// Client connections that one worker takes at most.
    max_connections: u64,
    /// The file of the program that runs, as it was called when it was started.
    program: PathBuf,
    upgrade: Option<Upgrade>,
    /// Children that are no workers and are of no use any more.
    dying: Vec<Child>,
}

/// What main is made of, be it new or taken over.
struct Parts {
    settings: Settings,
    state: State,
    control: Control,
    sockets: BTreeMap<SocketAddr, TcpListener>,
    given: Given,
    store: Store,
    board: Board,
    ledger: Ledger,
    roster: Roster,
    tickets: Tickets,
    logs: Logs,
    sandbox: Sandbox,
    workers: Workers,
    file: PathBuf,
    filed: State,
    filed_log_level: String,
    program: PathBuf,
}

/// Starts the proxy and returns when it has ended. An error is a sentence. With `ran`, the
/// state that ran last, nothing is restored: it is all there.
pub fn run(config: Config, file: &Path, ran: Option<State>) -> Result<(), String> {
    sandbox::give_up_the_rest_of_root()?;
    let mut given = Given::take();
    let mut orphans = given.take_orphans();
    let board = orphans.take_whole_board()?;
    let mut supervisor = Supervisor::new(config, file.to_owned(), ran, given, board)?;
    supervisor.names.doubt();
    supervisor.watch_challenges();
    supervisor.start_keys()?;
    supervisor.adopt(orphans)?;
    // Before anybody shares them: should main die now, the next one cannot bind what a worker holds open.
    supervisor.keep_all();
    supervisor.serve()
}

impl Supervisor {
    fn new(
        mut config: Config,
        file: PathBuf,
        ran: Option<State>,
        mut given: Given,
        board: Board,
    ) -> Result<Supervisor, String> {
        let now_ms = clock::monotonic_us() / 1000;
        let filed_log_level = config.settings.log_level.clone();
        let asked = std::env::var("RUST_LOG");
        config.settings.log_level = asked.unwrap_or(config.settings.log_level);
        let broken = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
        // Before anything is opened: there may be more listeners than the limit allows now.
        process::raise_descriptor_limit().map_err(broken("RLIMIT_NOFILE"))?;
        let logs = Logs::open(&config.settings)?;
        // Before the log is started: a proxy that is not started writes into no log.
        let roles = Roles::new(&config.settings, process::own_uid())?;
        // Whom it would not confine nobody starts.
        let sandbox = Sandbox::new(&config.settings)?;
        let path = &config.settings.command_socket;
        let control = match given.take_control(path) {
            Some(socket) => Control::taken(socket, path, roles),
            None => Control::bind(path, roles)?,
        };
        let filed = config.state.clone();
        let not_restored = saved::restore(&mut config, ran)?;
        let Config {
            settings,
            mut state,
        } = config;
        // There is none where nothing was kept.
        let known = saved::read_text(&saved::kept_names(&file)).unwrap_or_default();
        names::recall(&mut state, &known, settings.resolve_family);
        let sockets = listen_all(&state, &given)?;
        logging::start(&settings.log_level, "main", logs.log_for_main(&settings)?);
        saved::tell(not_restored);
        given.tell(&sockets);
        let ledger = Ledger::create().map_err(broken("shared memory"))?;
        let seed = process::random_u64().map_err(broken("randomness"))?;
        ledger.clients().begin(seed);
        ledger.set_note(Note::Started, logging::unix_ms() / 1000);
        let mut roster = Roster::default();
        state.served_dump().for_each(|change| {
            roster.follow(&change, &ledger);
        });
        Supervisor::of(Parts {
            workers: Workers::new(settings.worker_count as usize),
            board,
            ledger,
            roster,
            tickets: Tickets::new(now_ms).map_err(broken("randomness"))?,
            settings,
            state,
            control,
            sockets,
            store: Store::holding(given.close_stored()),
            given,
            logs,
            sandbox,
            file,
            filed,
            filed_log_level,
            program: std::env::current_exe().unwrap_or_default(),
        })
    }

    /// With nothing under way. It logs from now on.
    fn of(parts: Parts) -> Result<Supervisor, String> {
        let now_ms = clock::monotonic_us() / 1000;
        let broken = |what: &'static str| move |e: io::Error| format!("{what}: {e}");
        let descriptors = process::raise_descriptor_limit().map_err(broken("RLIMIT_NOFILE"))?;
        let settings = parts.settings;
        let mut logs = parts.logs;
        logging::start(&settings.log_level, "main", logs.log_for_main(&settings)?);
        let poll = Epoll::new().map_err(broken("epoll"))?;
        logs.standard.watch(&poll).map_err(broken("epoll"))?;
        let signals = Signals::open().map_err(broken("signalfd"))?;
        let watch = |fd, kind| poll.add(fd, epoll::IN, token::pack_single(kind));
        watch(signals.as_fd(), Kind::Signals).map_err(broken("epoll"))?;
        let names = Names::of(&parts.state, now_ms);
        let mut litter = Litter::default();
        // Of the text that was read.
        litter.add(parts.state.frontends().count(), now_ms);
        Ok(Supervisor {
            max_connections: settings.connections_of_worker(descriptors),
            saver: Saver::new(&settings, &parts.file),
            digest: Digest::of(parts.state.served_dump()),
            settings,
            workers: parts.workers,
            board: parts.board,
            ledger: parts.ledger,
            counts: Counts::default(),
            roster: parts.roster,
            tickets: parts.tickets,
            expiry: Expiry::default(),
            state: parts.state,
            stage: Stage::Starting,
            poll,
            signals,
            control: parts.control,
            sockets: parts.sockets,
            vigil: Vigil::default(),
            given: parts.given,
            store: parts.store,
            logs,
            sandbox: parts.sandbox,
            keys: Keys::default(),
            names,
            begun: false,
            healths: Healths::default(),
            now_ms,
            failure: None,
            revision: 0,
            pending: Vec::new(),
            orders: Orders::default(),
            pauses: Pauses::default(),
            waits: Vec::new(),
            losses: Losses::default(),
            started_ms: now_ms,
            draining: None,
            inquiries: Slab::default(),
            trial: None,
            challenges: challenges::Board::default(),
            file: parts.file,
            filed: parts.filed,
            filed_log_level: parts.filed_log_level,
            dumps: Dumps::default(),
            litter,
            program: parts.program,
            upgrade: None,
            dying: Vec::new(),
        })
    }

    fn serve(&mut self) -> Result<(), String> {
        let mut events = Events::with_capacity(EVENTS_PER_TURN.min(CONTROL_CLIENTS_MAX));
        self.start_when_resolved();
        loop {
            let timeout_ms = self.timeout_ms();
            let waited = self.poll.wait(&mut events, timeout_ms);
            waited.map_err(|e| format!("main stops: epoll_wait: {e}"))?;
            let last_ms = std::mem::replace(&mut self.now_ms, clock::monotonic_us() / 1000);
            let due_ms = last_ms + u64::try_from(timeout_ms).unwrap_or(u64::MAX - last_ms);
            if self.now_ms > due_ms + LATE_MS {
                self.forgive_silence(self.now_ms - due_ms);
            }
            for i in 0..events.len() {
                let (token, ready) = events.get(i);
                match token::unpack(token) {
                    Some((Kind::Signals, _)) => self.take_signals(),
                    Some((Kind::Challenges, _)) => self.challenges_ready(),
                    Some((Kind::Channel, key)) => self.worker_ready(key),
                    Some((Kind::Keys, _)) => self.keys_ready(),
                    Some((Kind::Resolver, _)) => self.resolver_ready(),
                    Some((Kind::ControlSocket, _)) => self.control.accept(&self.poll, self.now_ms),
                    Some((Kind::ControlClient, key)) => self.client_ready(key, ready),
                    Some((Kind::Rehearsal, _)) => self.rehearsal_ready(),
                    Some((Kind::Log, key)) => self.log_ready(key),
                    Some((Kind::Listener, _)) => self.vigil.look_now(),
                    _ => {}
                }
            }
            self.look_after_workers();
            self.look_at_health();
            self.look_after_keys();
            self.look_after_names();
            self.start_when_resolved();
            self.look_after_sockets();
            self.look_after_logs();
            self.show_counts();
            self.look_at_trial();
            self.look_at_tickets();
            self.look_at_expiry();
            self.look_at_challenges();
            self.look_at_pauses();
            self.look_at_waits();
            self.look_at_drain();
            let over = |until| until <= self.now_ms;
            if self.control.paused_until_ms.is_some_and(over) {
                self.control.open(&self.poll);
            }
            self.settle_pending();
            self.look_at_upgrade();
            self.save_if_due(false);
            self.give_memory_back();
            if let Some(what) = self.failure.take() {
                self.kill_own_workers();
                self.logs.standard.copy_all();
                return Err(what);
            }
            if self.ended() {
                self.save_if_due(true);
                self.say_good_bye();
                return Ok(());
            }
        }
    }

    /// For the next main, should this one die.
    fn keep_all(&mut self) {
        self.follow_sockets();
        self.store.keep_board(&self.board);
    }

    fn timeout_ms(&self) -> i32 {
        if self.has_settled() {
            return 0;
        }
        let stage = match self.stage {
            Stage::Draining { until_ms } | Stage::Stopping { until_ms } => Some(until_ms),
            Stage::Starting | Stage::Serving => None,
        };
        let trial = self.trial.as_ref().map(|trial| trial.until_ms);
        let (save, control) = (self.save_due_ms(), self.control.paused_until_ms);
        let litter = self.litter.due_ms;
        let workers = self.workers.due_ms(&self.settings);
        let keys = self.keys.due_ms(self.settings.worker_timeout);
        let names = self.names.due_ms(self.settings.worker_timeout);
        let (pauses, drain) = (
            self.pauses.due_ms(),
            self.draining.as_ref().map(Progress::due_ms),
        );
        let waits = waits::due_ms(&self.waits, self.now_ms);
        let (tickets, expiry) = (Some(self.tickets.due_ms()), Some(self.expiry.due_ms));
        let logs = self.logs.standard.due_ms();
        let (challenges, sockets) = (self.challenges.due_ms, Some(self.vigil.due_ms));
        let upgrade = self.upgrade.as_ref().and_then(Upgrade::due_ms);
        let due = [
            challenges, sockets, logs, stage, trial, save, control, litter, workers, keys, names,
            pauses, drain, waits, tickets, expiry, upgrade,
        ]
        .into_iter()
        .flatten()
        .min();
        let now_ms = clock::monotonic_us() / 1000;
        let wait = |due: u64| i32::try_from(due.saturating_sub(now_ms)).unwrap_or(i32::MAX);
        due.map_or(-1, wait)
    }

    fn take_signals(&mut self) {
        while let Some((signal, sender)) = self.signals.read() {
            match signal {
                process::SIGTERM | process::SIGINT => {
                    log::info!("signal {signal} from process {sender}");
                    let again = self.stage != Stage::Starting && self.stage != Stage::Serving;
                    self.shut_down(again, None);
                }
                process::SIGCHLD => self.reap(),
                process::SIGUSR1 => self.reopen_logs(),
                process::SIGHUP => {
                    if let Err(refused) = self.reload(None) {
                        log::error!("not reloaded: {refused}");
                    }
                }
                process::SIGUSR2 => self.upgrade_by_signal(sender),
                other => log::warn!("signal {other} from process {sender} has no meaning here"),
            }
        }
    }

    /// After a log file was moved away: from now on lines go into a new one.
    fn reopen_logs(&mut self) {
        let opened = self.logs.open_again(&self.settings);
        match opened.and_then(|()| self.logs.log_for_main(&self.settings)) {
            Ok(log) => {
                logging::reopen(log);
                self.hand_out_logs();
                log::info!("logs opened again");
            }
            Err(what) => log::error!("logs stay as they are: {what}"),
        }
    }

    /// The first workers start once it is known what names stand for: no client comes before.
    fn start_when_resolved(&mut self) {
        let due = self.stage == Stage::Starting && !self.begun && self.names.all_are_answered();
        if due {
            self.begun = true;
            self.failure = self.start_workers().err();
        }
    }

    /// Once every worker accepts, and has its signatures.
    fn announce_if_ready(&mut self) {
        let signs = !self.settings.key_process || self.keys.are_ready();
        if signs && self.workers.all_accept() {
            self.stage = Stage::Serving;
            self.announce();
        }
    }

    /// Control clients are let in, and told what one should know.
    fn announce(&mut self) {
        self.control.open(&self.poll);
        for listener in self.state.listeners() {
            log::info!(
                "listening on {} ({})",
                listener.address,
                listener.protocol.name()
            );
        }
        for (id, pid) in self.workers.that_accept() {
            log::info!("worker {id} accepts, pid {pid}");
        }
        if let Some(pid) = self.keys.pid() {
            log::info!("the key process signs, pid {pid}");
        }
        self.sandbox.tell();
        log::info!(
            "ready, pid {}: {} connections per worker at most (max_connections); \
             steer it with: sozuctl -s {control} status, or: nc -U {control} and the word help",
            std::process::id(),
            self.max_connections,
            control = self.settings.command_socket.display(),
        );
        notify::send("READY=1", &[]);
        self.keep_last();
    }
}
