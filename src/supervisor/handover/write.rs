//! The hand-over as text. Whatever has no order of its own is sorted: what is equal is written equally.

use std::net::IpAddr;

use super::record::spell;
use super::{ClientNote, Handover};
use crate::proto::command::Command;
use crate::proto::reply;
use crate::supervisor::apply::Transaction;
use crate::version;

/// So many bytes of an answer stand in one line, and three times as many at most in the text.
const PIECE_BYTES: usize = 64 * 1024;

type Pairs = Vec<(&'static str, String)>;

pub fn encode(all: &Handover) -> String {
    let mut out = String::new();
    line(
        &mut out,
        "handover",
        vec![
            ("version", version::handover().to_string()),
            ("from", all.from.clone()),
        ],
    );
    out += &all.settings.encode();
    out.push('\n');
    write_main(all, &mut out);
    write_state(all, &mut out);
    write_workers(all, &mut out);
    all.clients
        .iter()
        .for_each(|client| write_client(client, &mut out));
    write_waiting(all, &mut out);
    write_optional(all, &mut out);
    out += "end\n";
    out
}

fn line(out: &mut String, noun: &str, pairs: Pairs) {
    *out += &reply::data(noun, &pairs);
}

fn given(pairs: &mut Pairs, key: &'static str, value: Option<impl ToString>) {
    pairs.extend(value.map(|value| (key, value.to_string())));
}

/// A flag that is not there is not set.
fn flag(pairs: &mut Pairs, key: &'static str, set: bool) {
    given(pairs, key, set.then_some(true));
}

fn list<T>(items: &[T], text: impl Fn(&T) -> String) -> Option<String> {
    let words: Vec<String> = items.iter().map(text).collect();
    (!words.is_empty()).then(|| words.join(","))
}

fn write_main(all: &Handover, out: &mut String) {
    line(
        out,
        "main",
        vec![
            ("file", all.file.display().to_string()),
            ("filed_log_level", all.filed_log_level.clone()),
            ("started_ms", all.started_ms.to_string()),
            ("revision", all.revision.to_string()),
            ("last_order", all.last_order.to_string()),
        ],
    );
    let task = &all.task;
    let mut pairs = vec![
        ("program", task.program.display().to_string()),
        ("who", task.who.clone()),
        ("begun_ms", task.begun_ms.to_string()),
    ];
    given(&mut pairs, "client", task.client);
    given(
        &mut pairs,
        "losses",
        list(&task.losses.numbers(), u64::to_string),
    );
    line(out, "task", pairs);
    let own = &all.descriptors;
    let mut pairs = vec![
        ("control", own.control.to_string()),
        ("board", own.board.to_string()),
        ("ledger", own.ledger.to_string()),
        ("log", own.log.to_string()),
    ];
    given(&mut pairs, "access", own.access);
    let [board, ledger] = own.layout.clone();
    pairs.extend([("board_layout", board), ("ledger_layout", ledger)]);
    line(out, "descriptors", pairs);
    for (address, fd) in &all.sockets {
        let pairs = vec![("address", address.to_string()), ("fd", fd.to_string())];
        line(out, "socket", pairs);
    }
    *out += &all.tickets.line();
    let due_ms = all.tickets.due_ms();
    *out += &format!(" due_ms={due_ms}\n");
}

fn write_state(all: &Handover, out: &mut String) {
    for change in all.filed.dump() {
        *out += &change.encode_with_secrets();
        out.push('\n');
    }
    *out += "since\n";
    for change in all.filed.diff(&all.state) {
        *out += &change.encode_with_secrets();
        out.push('\n');
    }
    if let Some(trial) = &all.trial {
        let pairs = vec![
            ("until_ms", trial.until_ms.to_string()),
            ("seconds", trial.seconds.to_string()),
        ];
        line(out, "trial", pairs);
        for step in &trial.undo {
            *out += &format!("undo {}\n", step.encode_with_secrets());
        }
    }
    *out += &all.roster.lines();
}

fn write_workers(all: &Handover, out: &mut String) {
    for place in &all.places {
        let mut pairs = vec![
            ("failures", place.failures.to_string()),
            ("restarts", place.restarts.to_string()),
        ];
        given(&mut pairs, "due_ms", place.due_ms);
        line(out, "place", pairs);
    }
    for worker in &all.workers {
        let mut pairs = vec![
            ("pid", worker.pid.to_string()),
            ("id", worker.id.to_string()),
            ("heirs", worker.heirs.to_string()),
            ("row", worker.row.to_string()),
            ("started_ms", worker.started_ms.to_string()),
            ("channel", worker.channel.to_string()),
        ];
        given(&mut pairs, "retires_ms", worker.retires_ms);
        flag(&mut pairs, "closed", worker.closed);
        line(out, "worker", pairs);
        pieces(out, "worker_partial", &worker.partial);
    }
}

fn pieces(out: &mut String, noun: &str, bytes: &[u8]) {
    for piece in bytes.chunks(PIECE_BYTES) {
        line(out, noun, vec![("bytes", spell(piece))]);
    }
}

fn write_client(client: &ClientNote, out: &mut String) {
    let mut pairs = vec![
        ("fd", client.fd.to_string()),
        ("who", client.who.clone()),
        ("uid", client.uid.to_string()),
        ("role", client.role.name().to_string()),
        ("heard_ms", client.heard_ms.to_string()),
        ("missed", client.missed.to_string()),
    ];
    flag(&mut pairs, "listens", client.listens);
    flag(&mut pairs, "ended", client.ended);
    flag(&mut pairs, "skipping", client.skipping);
    line(out, "client", pairs);
    pieces(out, "partial", &client.partial);
    for bytes in &client.unread {
        pieces(out, "unread", bytes);
    }
    if let Some(transaction) = &client.transaction {
        write_transaction(transaction, out);
    }
}

fn write_transaction(transaction: &Transaction, out: &mut String) {
    let mut pairs = vec![("size", transaction.bytes.to_string())];
    given(&mut pairs, "wait", transaction.wait);
    if let Some(refused) = &transaction.spoilt {
        pairs.push(("spoilt", refused.code.name().to_string()));
        pairs.push(("why", refused.what.clone()));
    }
    line(out, "transaction", pairs);
    for step in &transaction.steps {
        *out += &format!("step {}\n", step.encode_with_secrets());
    }
}

fn write_waiting(all: &Handover, out: &mut String) {
    for pause in &all.pauses {
        let mut pairs = vec![
            ("cluster", pause.cluster.clone()),
            ("until_ms", pause.until_ms.to_string()),
        ];
        let waiting = list(&pause.waiting, |(pid, count)| format!("{pid}:{count}"));
        given(&mut pairs, "waiting", waiting);
        line(out, "pause", pairs);
    }
    for wait in &all.waits {
        let mut pairs = vec![
            ("client", wait.client.to_string()),
            ("order", wait.order.to_string()),
            ("revision", wait.revision.to_string()),
            ("changes", wait.changes.to_string()),
            ("until_ms", wait.until_ms.to_string()),
        ];
        let left = list(&wait.left, |(pid, left)| match left {
            Some(left) => format!("{pid}:{left}"),
            None => pid.to_string(),
        });
        given(&mut pairs, "left", left);
        line(out, "wait", pairs);
    }
    for roll in &all.rolls {
        let mut pairs = vec![
            ("client", roll.client.to_string()),
            ("who", roll.who.clone()),
            ("command", roll.command.clone()),
            ("from", roll.from.to_string()),
            ("killed", roll.killed.to_string()),
        ];
        flag(&mut pairs, "kill", roll.kill);
        given(&mut pairs, "at", roll.at);
        given(&mut pairs, "left", list(&roll.left, u32::to_string));
        line(out, "roll", pairs);
    }
}

/// What there is a default for.
fn write_optional(all: &Handover, out: &mut String) {
    let mut pairs = vec![("rests_until_ms", all.saving.rests_until_ms.to_string())];
    given(&mut pairs, "due_ms", all.saving.due_ms);
    *out += &format!("optional {}", reply::data("saving", &pairs));
    for keys in &all.keys {
        let mut pairs = vec![("pid", keys.pid.to_string())];
        given(&mut pairs, "page", keys.page);
        *out += &format!("optional {}", reply::data("keys", &pairs));
    }
    *out += &format!("optional {}", reply::data("counts", &all.counts.pairs()));
    for relay in &all.relays {
        let pairs = [
            ("number", relay.number.to_string()),
            ("fd", relay.fd.to_string()),
            ("bytes", spell(&relay.rest)),
        ];
        *out += &format!("optional {}", reply::data("relay", &pairs));
    }
    let pairs = vec![("due_ms", all.expiry.due_ms.to_string())];
    *out += &format!("optional {}", reply::data("expiry", &pairs));
    for (name, addresses) in all.state.known_names() {
        let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let pairs = [("name", name.to_string()), ("addresses", texts.join(","))];
        *out += &format!("optional {}", reply::data("name", &pairs));
    }
    *out += &all.healths.handover_lines();
    for worker in &all.workers {
        if let Some(handle) = worker.handle {
            let pairs = [
                ("pid", worker.pid.to_string()),
                ("handle", handle.to_string()),
            ];
            *out += &format!("optional {}", reply::data("adopted", &pairs));
        }
    }
    for (fingerprint, days) in &all.expiry.told {
        let pairs = [
            ("fingerprint", fingerprint.to_string()),
            ("days", days.to_string()),
        ];
        *out += &format!("optional {}", reply::data("warned", &pairs));
    }
}

/// The command of a roll is one of ours.
pub fn is_roll(command: &Command) -> bool {
    matches!(command, Command::Connections { .. })
}
