//! Every command: its words, its keys, one sentence.
//!
//! The only place where a command is described. `command` decodes by it, `help`
//! prints it, `tests/docs.rs` compares it with doc/protocol.md.

use super::reply::data;
use crate::config::keys::{
    Default, Key, Kind, ANSWER_STATUSES, BACKEND, CERTIFICATE, CLUSTER, COMMIT, CONNECTIONS,
    EXPLAIN, FINGERPRINT, FRONTEND, LISTENER, LOGGING, METRICS, NAME, OF_LISTENER, PAUSE, SECRETS,
    SHUTDOWN, UNSET, UPGRADE, WAIT, WORKER,
};
use crate::limits::CONTROL_WORDS_MAX;
use crate::state::{Code, Refused};

pub struct Row {
    pub noun: &'static str,
    /// Empty where the noun says it all.
    pub verb: &'static str,
    /// What may stand behind: a word as it is, or one in capitals for any.
    pub argument: Option<&'static str>,
    /// The keys of the object that it takes, in canonical order.
    keys: &'static [Key],
    /// Only these of them, where not all.
    only: &'static [&'static str],
    /// Keys of the command itself.
    own: &'static [Key],
    pub sentence: &'static str,
}

/// A line has room for every key and every answer.
const _: () = assert!(LISTENER.len() + ANSWER_STATUSES.len() < CONTROL_WORDS_MAX);

const fn row(noun: &'static str, verb: &'static str, sentence: &'static str) -> Row {
    Row {
        noun,
        verb,
        argument: None,
        keys: &[],
        only: &[],
        own: &[],
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

    const fn own(mut self, keys: &'static [Key]) -> Row {
        self.own = keys;
        self
    }

    const fn argument(mut self, word: &'static str) -> Row {
        self.argument = Some(word);
        self
    }

    pub fn takes(&self) -> impl Iterator<Item = &'static Key> + Clone {
        let only = self.only;
        let keys = self.keys.iter();
        let keys = keys.filter(move |key| only.is_empty() || only.contains(&key.name));
        let unset = (self.verb == "update").then_some(&UNSET);
        keys.chain(self.own).chain(unset)
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
    row("listener", "update", "Changes the given keys of a listener; its connections go on.").keys(LISTENER),
    row("listener", "enable", "Accepts again.").keys(LISTENER).only(&["address"]),
    row("listener", "disable", "Stops accepting until it is enabled; its connections finish.").keys(LISTENER).only(&["address"]),
    row("listener", "list", "Prints the listeners as the commands that add them."),
    row("certificate", "add", "Shows a certificate from the next handshake on.").keys(CERTIFICATE),
    row("certificate", "replace", "Puts a certificate in the place of another one, in one step; connections keep theirs.").keys(CERTIFICATE).own(FINGERPRINT),
    row("certificate", "remove", "Shows a certificate no more; connections keep it.").keys(CERTIFICATE).only(&["listener"]).own(FINGERPRINT),
    row("certificate", "list", "Prints what is known of the certificates, never their keys.").keys(OF_LISTENER),
    row("cluster", "add", "Adds a cluster, to which backends and frontends can be added.").keys(CLUSTER),
    row("cluster", "remove", "Removes a cluster without frontends and backends.").keys(CLUSTER).only(&["id"]),
    row("cluster", "update", "Changes the given keys of a cluster.").keys(CLUSTER),
    row("cluster", "pause", "Holds new requests for a cluster, a bounded number, until resume; running ones go on.").keys(PAUSE),
    row("cluster", "resume", "Lets the requests go that a pause has held, in order.").keys(PAUSE).only(&["id"]),
    row("cluster", "list", "Prints the clusters as the commands that add them."),
    row("frontend", "add", "Leads what a listener receives to a cluster.").keys(FRONTEND),
    row("frontend", "remove", "Stops leading it there.").keys(FRONTEND).only(&["listener", "hostname", "path", "path_type", "method"]),
    row("frontend", "list", "Prints the frontends as the commands that add them."),
    row("backend", "add", "Adds a backend to a cluster.").keys(BACKEND),
    row("backend", "remove", "Sends no new request to a backend; running ones finish.").keys(BACKEND).only(&["cluster", "id"]).own(WAIT),
    row("backend", "update", "Changes the given keys of a backend: its weight, whether it takes requests.").keys(BACKEND).own(WAIT),
    row("backend", "list", "Prints the backends as the commands that add them, and what is known of their health."),
    row("name", "list", "Prints the names of backends, what each stands for and since when, and why one is not resolved."),
    row("name", "refresh", "Asks for the addresses of a name, or of all, now.").keys(NAME),
    row("state", "dump", "Prints the commands that rebuild the state, in a canonical order.").keys(SECRETS),
    row("state", "diff", "Prints the commands that lead from the configuration file, as it was read last, to the state."),
    row("state", "check", "Compares what every worker has with what main has."),
    row("state", "stats", "Prints how many of each kind there are, and the revision."),
    row("begin", "", "Starts a transaction: the changes that follow are done together or not at all."),
    row("commit", "", "Does the changes since begin, in every worker; for one that does not answer it waits worker_timeout and a half at most.").keys(COMMIT),
    row("confirm", "", "Keeps what was committed with confirm=SECONDS, which is undone otherwise."),
    row("abort", "", "Forgets the changes since begin."),
    row("reload", "", "Reads the configuration file again and does what has changed, removals included."),
    row("explain", "", "Tells where a request would go and why, and sends nothing.").keys(EXPLAIN),
    row("events", "", "Prints every change, death of a worker, backend that goes down or comes up, name that stands for something else, and worker that is full, as they come."),
    row("logging", "", "Changes what is logged, in main and in every worker.").keys(LOGGING),
    row("status", "", "Prints what the workers do."),
    row("workers", "", "Prints the worker processes: what each carries, and which retire."),
    row("sandbox", "", "Prints what the kernel says of each worker's sandbox, beside what was meant."),
    row("metrics", "", "Prints what was counted of listeners, clusters and backends, and their latencies.").keys(METRICS),
    row("connections", "list", "Prints the client connections, or those that fit every given key.").keys(CONNECTIONS),
    row("connections", "kill", "Closes the client connections that fit every given key, of which one at least is needed.").keys(CONNECTIONS),
    row("worker", "restart", "Replaces a worker by a new process, which takes over what rests; the old one finishes the rest.").keys(WORKER),
    row("upgrade", "", "Replaces the program that runs, in place: connections and control clients stay.").keys(UPGRADE),
    row("ping", "", "Answers ok."),
    row("version", "", "Prints the version of the program that runs."),
    row("help", "", "Prints every command, or the keys of those that start with a word.").argument("WORD"),
    row("shutdown", "", "Stops accepting, lets connections finish until shutdown_timeout, and ends; hard: at once.").argument("hard").keys(SHUTDOWN),
];

/// The data lines of `help`: all commands, or those that start with a word and their keys.
pub fn help(word: Option<&str>) -> Result<String, Refused> {
    let mut lines = String::new();
    for row in COMMANDS {
        if word.is_some_and(|word| word != row.noun) {
            continue;
        }
        let sentence = row.sentence.to_string();
        lines.push_str(&data(
            "help",
            &[("command", row.words()), ("sentence", sentence)],
        ));
        for key in row.takes().filter(|_| word.is_some()) {
            lines.push_str(&data("help", &help_key(key)));
        }
    }
    match (lines.is_empty(), word) {
        (true, Some(word)) => {
            let what = format!("no command starts with {word:?}: try help");
            Err(Refused::new(Code::Unknown, what))
        }
        _ => Ok(lines),
    }
}

fn help_key(key: &Key) -> [(&'static str, String); 4] {
    let default = match key.default {
        Default::Implied(_) | Default::InFile(_) => Default::Required,
        Default::InCommand => Default::Empty,
        default => default,
    };
    [
        ("key", command_key(key).to_string()),
        ("type", key.kind.describe()),
        ("default", default.describe().to_string()),
        ("sentence", key.sentence.to_string()),
    ]
}

/// How a key is spelt in a command.
pub fn command_key(key: &Key) -> &'static str {
    match key.kind {
        Kind::Answers => "answer_STATUS",
        _ => key.name,
    }
}

/// The row of those words.
pub fn find(noun: &str, verb: &str) -> Option<&'static Row> {
    COMMANDS
        .iter()
        .find(|row| row.noun == noun && row.verb == verb)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_prints_the_table() {
        let all = help(None).expect("commands");
        assert_eq!(all.lines().count(), COMMANDS.len());
        let some = help(Some("backend")).expect("commands");
        assert!(some.contains("help command=\"backend remove\" sentence="));
        assert!(some.contains("help key=id type=name default=required sentence="));
        assert!(help(Some("nothing")).is_err());
    }
}
