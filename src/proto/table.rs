//! Every command: its words, its keys, one sentence.
//!
//! The only place where a command is described. `command` decodes by it, `help`
//! prints it, `tests/docs.rs` compares it with doc/protocol.md.

use crate::config::keys::{Key, BACKEND, CLUSTER, FRONTEND, LISTENER};
use crate::limits::CONTROL_WORDS_MAX;

pub struct Row {
    pub noun: &'static str,
    /// Empty where the noun says it all.
    pub verb: &'static str,
    /// What may stand behind: a word as it is, or one in capitals for any.
    pub argument: Option<&'static str>,
    /// The keys of the object that it takes, in canonical order.
    pub keys: &'static [Key],
    /// Only these of them, where not all.
    only: &'static [&'static str],
    pub sentence: &'static str,
}

/// A line has room for every key and every answer.
const _: () =
    assert!(LISTENER.len() + crate::config::keys::ANSWER_STATUSES.len() < CONTROL_WORDS_MAX);

const fn row(noun: &'static str, verb: &'static str, sentence: &'static str) -> Row {
    Row {
        noun,
        verb,
        argument: None,
        keys: &[],
        only: &[],
        sentence,
    }
}

impl Row {
    const fn keys(mut self, keys: &'static [Key]) -> Row {
        self.keys = keys;
        self
    }

    const fn only(mut self, names: &'static [&'static str]) -> Row {
        self.only = names;
        self
    }

    const fn argument(mut self, word: &'static str) -> Row {
        self.argument = Some(word);
        self
    }

    pub fn takes(&self) -> impl Iterator<Item = &'static Key> + Clone {
        let only = self.only;
        let keys = self.keys.iter();
        keys.filter(move |key| only.is_empty() || only.contains(&key.name))
    }

    /// `listener add`, `shutdown [hard]`.
    pub fn words(&self) -> String {
        let mut words = self.noun.to_string();
        if !self.verb.is_empty() {
            words.push(' ');
            words.push_str(self.verb);
        }
        if let Some(argument) = self.argument {
            words.push_str(&format!(" [{argument}]"));
        }
        words
    }
}

#[rustfmt::skip]
pub static COMMANDS: &[Row] = &[
    row("listener", "add", "Accepts clients on an address.").keys(LISTENER),
    row("listener", "remove", "Stops accepting on an address; its connections finish.").keys(LISTENER).only(&["address"]),
    row("listener", "list", "Prints the listeners as the commands that add them."),
    row("cluster", "add", "Adds a cluster, to which backends and frontends can be added.").keys(CLUSTER),
    row("cluster", "remove", "Removes a cluster without frontends and backends.").keys(CLUSTER).only(&["id"]),
    row("cluster", "list", "Prints the clusters as the commands that add them."),
    row("frontend", "add", "Leads what a listener receives to a cluster.").keys(FRONTEND),
    row("frontend", "remove", "Stops leading it there.").keys(FRONTEND).only(&["listener", "hostname", "path", "path_type", "method"]),
    row("frontend", "list", "Prints the frontends as the commands that add them."),
    row("backend", "add", "Adds a backend to a cluster.").keys(BACKEND),
    row("backend", "remove", "Sends no new request to a backend; running ones finish.").keys(BACKEND).only(&["cluster", "id"]),
    row("backend", "list", "Prints the backends as the commands that add them."),
    row("state", "dump", "Prints the commands that rebuild the state, in a canonical order."),
    row("begin", "", "Starts a transaction: the changes that follow are done together or not at all."),
    row("commit", "", "Does the changes since begin, in every worker."),
    row("abort", "", "Forgets the changes since begin."),
    row("status", "", "Prints what the workers do."),
    row("ping", "", "Answers ok."),
    row("version", "", "Prints the version of the program that runs."),
    row("help", "", "Prints every command, or the keys of those that start with a word.").argument("WORD"),
    row("shutdown", "", "Stops accepting, lets connections finish until shutdown_timeout, and ends; hard: at once.").argument("hard"),
];

/// The row of those words.
pub fn find(noun: &str, verb: &str) -> Option<&'static Row> {
    COMMANDS
        .iter()
        .find(|row| row.noun == noun && row.verb == verb)
}
