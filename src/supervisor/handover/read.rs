//! The text as a hand-over, line by line; what is wrong is told with the number of its line.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::str::FromStr;

use super::record::Record;
use super::*;
use crate::limits::{CONTROL_CLIENTS_MAX, HANDOVER_BYTES_MAX, PAUSES_MAX, WORKERS_MAX};
use crate::proto::command::Command;
use crate::proto::update::Step;
use crate::state::{Change, Code, Refused};
use crate::version;

/// The line `main`.
struct Main {
    file: PathBuf,
    filed_log_level: String,
    started_ms: u64,
    revision: u64,
    last_order: u64,
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    from: Option<String>,
    settings: Option<Settings>,
    main: Option<Main>,
    task: Option<Task>,
    descriptors: Option<Descriptors>,
    sockets: BTreeMap<SocketAddr, RawFd>,
    tickets: Option<Tickets>,
    roster: Roster,
    /// The state as far as it has come, and the file's, once that is whole.
    state: State,
    filed: Option<State>,
    places: Vec<PlaceNote>,
    workers: Vec<WorkerNote>,
    clients: Vec<ClientNote>,
    pauses: Vec<PauseNote>,
    waits: Vec<WaitNote>,
    rolls: Vec<RollNote>,
    trial: Option<Trial>,
    expiry: Expiry,
    keys: Vec<KeysNote>,
    counts: Counts,
    relays: Vec<RelayNote>,
    healths: Healths,
    saving: Saving,
    ended: bool,
}

pub fn decode(bytes: &[u8]) -> Result<Handover, String> {
    if bytes.len() > HANDOVER_BYTES_MAX {
        return Err(format!("it has more than {HANDOVER_BYTES_MAX} bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text".to_string())?;
    let mut reader = Reader::default();
    for (number, line) in (1..).zip(text.lines()) {
        reader
            .take(line)
            .map_err(|what| format!("line {number}: {what}"))?;
    }
    reader.whole()
}

impl Reader {
    fn take(&mut self, line: &str) -> Result<(), String> {
        if self.ended {
            return Err("something stands behind the end".into());
        }
        let (noun, rest) = line.split_once(' ').unwrap_or((line, ""));
        if self.from.is_none() && noun != "handover" {
            return Err("the first line is handover version=…".into());
        }
        match noun {
            "settings" if self.settings.is_none() => {
                self.settings = Some(Settings::decode(line).map_err(text)?);
            }
            "listener" | "certificate" | "cluster" | "frontend" | "backend" => {
                let change = self.change(line)?;
                self.state.apply(&change).map_err(text)?;
            }
            "since" if self.filed.is_none() => self.filed = Some(self.state.clone()),
            "undo" => {
                let step = Step::Do(self.change(rest)?);
                let trial = self.trial.as_mut().ok_or("there is nothing to undo")?;
                trial.undo.push(step);
            }
            "step" => {
                let step = self.step(rest)?;
                let client = self.clients.last_mut();
                let transaction = client.and_then(|client| client.transaction.as_mut());
                let none = "there is no transaction for it";
                transaction.ok_or(none)?.steps.push(step);
            }
            "end" => self.ended = true,
            _ => self.record(Record::parse(line)?)?,
        }
        Ok(())
    }

    fn command(&self, line: &str) -> Result<Command, String> {
        let settings = self.settings.as_ref().ok_or("the settings come first")?;
        Command::decode(line, &settings.timeouts).map_err(text)
    }

    /// A change that says everything.
    fn change(&self, line: &str) -> Result<Change, String> {
        let settings = self.settings.as_ref().ok_or("the settings come first")?;
        match self.command(line)? {
            Command::Change(change) => Ok(change),
            Command::Update(update) => update.whole(&settings.timeouts).map_err(text),
            _ => Err("it is no change".into()),
        }
    }

    /// What a client has said.
    fn step(&self, line: &str) -> Result<Step, String> {
        match self.command(line)? {
            Command::Change(change) => Ok(Step::Do(change)),
            Command::Update(update) => Ok(Step::Update(update)),
            Command::Replace(replace) => Ok(Step::Replace(replace)),
            _ => Err("it is no change".into()),
        }
    }

    fn record(&mut self, mut record: Record) -> Result<(), String> {
        let it = &mut record;
        match it.noun.as_str() {
            "handover" if self.from.is_none() => self.from = Some(take_version(it)?),
            "main" if self.main.is_none() => {
                self.main = Some(Main {
                    file: it.text("file")?.into(),
                    filed_log_level: it.text("filed_log_level")?,
                    started_ms: it.value("started_ms")?,
                    revision: it.value("revision")?,
                    last_order: it.value("last_order")?,
                });
            }
            "task" => self.task = Some(take_task(it)?),
            "descriptors" => self.descriptors = Some(take_descriptors(it)?),
            "socket" => {
                let (address, fd) = (it.value("address")?, it.value("fd")?);
                self.sockets.insert(address, fd);
            }
            "tickets" => self.tickets = Some(Tickets::take(it)?),
            "rows" => self.roster = Roster::take(it)?,
            "row" => self.roster.take_row(it)?,
            "trial" => {
                self.trial = Some(Trial {
                    undo: Vec::new(),
                    until_ms: it.value("until_ms")?,
                    seconds: it.value("seconds")?,
                });
            }
            "place" => self.places.push(PlaceNote {
                due_ms: it.value_or_none("due_ms")?,
                failures: it.value("failures")?,
                restarts: it.value("restarts")?,
            }),
            "worker" => self.workers.push(take_worker(it)?),
            "worker_partial" => {
                let worker = self.workers.last_mut().ok_or("no worker has said that")?;
                worker.partial.append(&mut it.bytes()?);
            }
            "adopted" => self.take_handle(it)?,
            "client" => self.clients.push(take_client(it)?),
            "partial" => self.client()?.partial.append(&mut it.bytes()?),
            "unread" => {
                let bytes = it.bytes()?;
                self.client()?.unread.push(bytes);
            }
            "transaction" => self.client()?.transaction = Some(take_transaction(it)?),
            "pause" => self.pauses.push(take_pause(it)?),
            "wait" => self.waits.push(take_wait(it)?),
            "roll" => {
                let roll = self.take_roll(it)?;
                self.rolls.push(roll);
            }
            "keys" => self.keys.push(take_keys(it)?),
            "counts" => self.counts = take_counts(it)?,
            "relay" => self.relays.push(take_relay(it)?),
            "name" => self.take_name(it)?,
            "health" => self.healths.take(it, &self.state)?,
            "saving" => self.saving = take_saving(it)?,
            "expiry" => self.expiry.due_ms = it.value("due_ms")?,
            "warned" => {
                let fingerprint = it.text("fingerprint")?.into();
                self.expiry.told.insert(fingerprint, it.value("days")?);
            }
            _ => return record.unknown(),
        }
        record.end()
    }

    fn take_name(&mut self, it: &mut Record) -> Result<(), String> {
        let name = it.text("name")?.into();
        self.state.set_addresses(&name, it.list("addresses")?);
        Ok(())
    }

    fn take_handle(&mut self, it: &mut Record) -> Result<(), String> {
        let pid: u32 = it.value("pid")?;
        let worker = self.workers.iter_mut().find(|worker| worker.pid == pid);
        worker.ok_or("this worker is not known")?.handle = Some(it.value("handle")?);
        Ok(())
    }

    fn client(&mut self) -> Result<&mut ClientNote, String> {
        let none = "there is no client for it";
        self.clients.last_mut().ok_or(none.into())
    }

    fn take_roll(&self, it: &mut Record) -> Result<RollNote, String> {
        let command = it.text("command")?;
        let kill = it.flag("kill")?;
        if !super::write::is_roll(&self.command(&command)?) {
            return Err("roll: it asks for no connections".into());
        }
        Ok(RollNote {
            client: it.value("client")?,
            who: it.text("who")?,
            command,
            kill,
            from: it.value("from")?,
            killed: it.value("killed")?,
            at: it.value_or_none("at")?,
            left: it.list("left")?,
        })
    }

    /// Whether nothing is missing, and everything fits together.
    fn whole(self) -> Result<Handover, String> {
        if !self.ended {
            return Err("its end is missing".into());
        }
        let missing = |what: &str| format!("the line {what} is missing");
        let main = self.main.ok_or_else(|| missing("main"))?;
        let handover = Handover {
            from: self.from.ok_or_else(|| missing("handover"))?,
            settings: self.settings.ok_or_else(|| missing("settings"))?,
            file: main.file,
            filed_log_level: main.filed_log_level,
            started_ms: main.started_ms,
            filed: self.filed.ok_or_else(|| missing("since"))?,
            state: self.state,
            revision: main.revision,
            last_order: main.last_order,
            task: self.task.ok_or_else(|| missing("task"))?,
            descriptors: self.descriptors.ok_or_else(|| missing("descriptors"))?,
            sockets: self.sockets,
            tickets: self.tickets.ok_or_else(|| missing("tickets"))?,
            roster: self.roster,
            places: self.places,
            workers: self.workers,
            clients: self.clients,
            pauses: self.pauses,
            waits: self.waits,
            rolls: self.rolls,
            trial: self.trial,
            expiry: self.expiry,
            keys: self.keys,
            counts: self.counts,
            relays: self.relays,
            healths: self.healths,
            saving: self.saving,
        };
        check(&handover)?;
        Ok(handover)
    }
}

fn text(refused: Refused) -> String {
    refused.to_string()
}

fn check(all: &Handover) -> Result<(), String> {
    let places = all.places.len();
    if places == 0 || places > WORKERS_MAX / 2 {
        return Err(format!("{places} workers cannot be"));
    }
    if all.clients.len() > CONTROL_CLIENTS_MAX || all.pauses.len() > PAUSES_MAX {
        return Err("there are too many clients or pauses".into());
    }
    let mut rows = BTreeSet::new();
    let mut pids = BTreeSet::new();
    for worker in &all.workers {
        let places = [worker.id, worker.heirs];
        let known = places.iter().all(|id| *id < WORKERS_MAX / 2);
        let known = known && worker.row < WORKERS_MAX && worker.pid > 1;
        if !known || !rows.insert(worker.row) || !pids.insert(worker.pid) {
            return Err(format!("worker {} is not known", worker.pid));
        }
    }
    let mut numbers = BTreeSet::new();
    for number in all.manifest() {
        if number < 3 || !numbers.insert(number) {
            return Err(format!("descriptor {number} cannot be, or is there twice"));
        }
    }
    let enabled = all.state.listeners().filter(|listener| listener.enabled);
    let mut enabled = enabled.map(|listener| listener.address);
    if let Some(address) = enabled.find(|address| !all.sockets.contains_key(address)) {
        return Err(format!("the socket of listener {address} is missing"));
    }
    Ok(())
}

/// Its own version, the one before and the next one are understood.
fn take_version(it: &mut Record) -> Result<String, String> {
    let (theirs, ours): (u32, u32) = (it.value("version")?, version::handover());
    if theirs.abs_diff(ours) > 1 {
        return Err(format!(
            "the hand-over has version {theirs}, and this program, {}, understands {} to {}: \
             go there by a version between",
            version::version(),
            ours.saturating_sub(1),
            ours + 1
        ));
    }
    it.text("from")
}

fn take_saving(it: &mut Record) -> Result<Saving, String> {
    Ok(Saving {
        due_ms: it.value_or_none("due_ms")?,
        rests_until_ms: it.value("rests_until_ms")?,
    })
}

fn take_task(it: &mut Record) -> Result<Task, String> {
    Ok(Task {
        program: it.text("program")?.into(),
        who: it.text("who")?,
        client: it.value_or_none("client")?,
        begun_ms: it.value("begun_ms")?,
        losses: Losses::from_numbers(&it.list::<u64>("losses")?),
    })
}

fn take_descriptors(it: &mut Record) -> Result<Descriptors, String> {
    Ok(Descriptors {
        control: it.value("control")?,
        board: it.value("board")?,
        ledger: it.value("ledger")?,
        log: it.value("log")?,
        access: it.value_or_none("access")?,
        layout: [it.text("board_layout")?, it.text("ledger_layout")?],
    })
}

fn take_worker(it: &mut Record) -> Result<WorkerNote, String> {
    Ok(WorkerNote {
        pid: it.value("pid")?,
        id: it.value("id")?,
        heirs: it.value("heirs")?,
        row: it.value("row")?,
        started_ms: it.value("started_ms")?,
        retires_ms: it.value_or_none("retires_ms")?,
        channel: it.value("channel")?,
        partial: Vec::new(),
        closed: it.flag("closed")?,
        handle: None,
    })
}

fn take_client(it: &mut Record) -> Result<ClientNote, String> {
    let role = it.text("role")?;
    Ok(ClientNote {
        fd: it.value("fd")?,
        who: it.text("who")?,
        role: Role::named(&role).ok_or("client: this role is not known")?,
        uid: it.value("uid")?,
        listens: it.flag("listens")?,
        ended: it.flag("ended")?,
        heard_ms: it.value("heard_ms")?,
        missed: it.value("missed")?,
        partial: Vec::new(),
        skipping: it.flag("skipping")?,
        unread: Vec::new(),
        transaction: None,
    })
}

fn take_transaction(it: &mut Record) -> Result<Transaction, String> {
    let spoilt = match it.text_or_none("spoilt") {
        Some(name) => {
            let code = Code::ALL.into_iter().find(|code| code.name() == name);
            let code = code.ok_or("transaction: this code is not known")?;
            Some(Refused::new(code, it.text("why")?))
        }
        None => None,
    };
    Ok(Transaction {
        steps: Vec::new(),
        bytes: it.value("size")?,
        wait: it.value_or_none("wait")?,
        spoilt,
    })
}

/// `PID:NUMBER`, or `PID`.
struct OfWorker(u32, Option<u32>);

impl FromStr for OfWorker {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<OfWorker, Self::Err> {
        match text.split_once(':') {
            Some((pid, number)) => Ok(OfWorker(pid.parse()?, Some(number.parse()?))),
            None => Ok(OfWorker(text.parse()?, None)),
        }
    }
}

fn take_counts(it: &mut Record) -> Result<Counts, String> {
    Ok(Counts {
        signed: it.value("signed")?,
        refused: it.value("refused")?,
        key_deaths: it.value("key_deaths")?,
        violations: it.value("violations")?,
        // Younger than the others.
        revived: it.value_or_none("revived")?.unwrap_or(0),
        pages: it.value_or_none("pages")?.unwrap_or(0),
        upgrades: it.value("upgrades")?,
    })
}

fn take_keys(it: &mut Record) -> Result<KeysNote, String> {
    Ok(KeysNote {
        pid: it.value("pid")?,
        page: it.value_or_none("page")?,
    })
}

fn take_relay(it: &mut Record) -> Result<RelayNote, String> {
    Ok(RelayNote {
        number: it.value("number")?,
        fd: it.value("fd")?,
        rest: it.bytes()?,
    })
}

fn take_pause(it: &mut Record) -> Result<PauseNote, String> {
    let waiting: Vec<OfWorker> = it.list("waiting")?;
    Ok(PauseNote {
        cluster: it.text("cluster")?,
        until_ms: it.value("until_ms")?,
        waiting: waiting
            .into_iter()
            .map(|OfWorker(pid, count)| (pid, count.unwrap_or(0) as usize))
            .collect(),
    })
}

fn take_wait(it: &mut Record) -> Result<WaitNote, String> {
    let left: Vec<OfWorker> = it.list("left")?;
    Ok(WaitNote {
        client: it.value("client")?,
        order: it.value("order")?,
        revision: it.value("revision")?,
        changes: it.value("changes")?,
        until_ms: it.value("until_ms")?,
        left: left.into_iter().map(|OfWorker(pid, n)| (pid, n)).collect(),
    })
}
