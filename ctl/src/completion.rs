//! Completion for shells, made from the tables of commands and keys.
//!
//! Every shell gets the same list: what may follow some words, by these words.
//! Of `key=value` the keys are offered first, and the values of those that take
//! certain words only. Nothing asks a proxy.

use std::collections::BTreeMap;

use sozu_lib::config::keys::{Key, Kind, ANSWER_STATUSES};
use sozu_lib::proto::table::{self, COMMANDS};

use crate::failure::Failure;
use crate::local::LOCALS;

const BASH: &str = include_str!("completion/sozuctl.bash");
const ZSH: &str = include_str!("completion/sozuctl.zsh");
const FISH: &str = include_str!("completion/sozuctl.fish");

/// What may follow: words, `key=`, `key=value`.
type Table = BTreeMap<String, Vec<String>>;

pub fn script(words: &[String]) -> Result<String, Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let table = table();
    match words.as_slice() {
        ["bash"] => Ok(BASH.replace("# TABLE\n", &posix_cases(&table))),
        ["zsh"] => Ok(ZSH.replace("# TABLE\n", &posix_cases(&table))),
        ["fish"] => Ok(FISH.replace("# TABLE\n", &fish_cases(&table))),
        _ => Err(Failure::usage("which shell? completion bash|zsh|fish")),
    }
}

fn table() -> Table {
    let mut table = Table::new();
    let mut follow = |words: &str, next: &str| {
        let list = table.entry(words.to_string()).or_default();
        if !list.iter().any(|known| known == next) {
            list.push(next.to_string());
        }
    };
    for row in COMMANDS {
        follow("", row.noun);
        if !row.verb.is_empty() {
            follow(row.noun, row.verb);
        }
        let words = format!("{} {}", row.noun, row.verb);
        let words = words.trim_end();
        match row.argument {
            Some("WORD") => {
                let nouns = COMMANDS.iter().map(|row| row.noun);
                nouns.for_each(|noun| follow(words, noun));
            }
            Some(argument) => follow(words, argument),
            None => {}
        }
        for key in row.takes() {
            spellings(key).iter().for_each(|text| follow(words, text));
        }
    }
    for local in LOCALS {
        let mut before = String::new();
        for word in local.words.split(' ') {
            follow(&before, word);
            before = format!("{before} {word}").trim_start().to_string();
        }
        for option in local.options {
            // `-f FILE`, `--once`, `bash|zsh|fish`
            let option = option.split(' ').next().unwrap_or_default();
            option.split('|').for_each(|word| follow(&before, word));
        }
    }
    table
}

fn spellings(key: &Key) -> Vec<String> {
    let name = table::command_key(key);
    let values: Vec<&str> = match key.kind {
        Kind::Bool => vec!["true", "false"],
        Kind::Choice(words) => words.iter().map(|(word, _)| *word).collect(),
        Kind::Levels => vec!["off", "error", "warn", "info", "debug", "trace"],
        Kind::Answers => {
            let statuses = ANSWER_STATUSES.iter();
            return statuses.map(|status| format!("answer_{status}=")).collect();
        }
        _ => Vec::new(),
    };
    let mut all = vec![format!("{name}=")];
    all.extend(values.iter().map(|value| format!("{name}={value}")));
    all
}

fn posix_cases(table: &Table) -> String {
    let case = |(words, next): (&String, &Vec<String>)| {
        format!("        '{words}') echo '{}' ;;\n", next.join(" "))
    };
    table.iter().map(case).collect()
}

fn fish_cases(table: &Table) -> String {
    let case = |(words, next): (&String, &Vec<String>)| {
        format!(
            "        case '{words}'\n            printf '%s\\n' {}\n",
            next.join(" ")
        )
    };
    table.iter().map(case).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_and_key_is_offered() {
        let table = table();
        for row in COMMANDS {
            assert!(table[""].contains(&row.noun.to_string()), "{}", row.noun);
            let words = row.words();
            let words = words.split(" [").next().expect("words");
            for key in row.takes().filter(|key| key.kind != Kind::Answers) {
                assert!(table[words].contains(&format!("{}=", key.name)), "{words}");
            }
        }
        assert!(table["listener add"].contains(&"protocol=tcp".to_string()));
        assert!(table["listener add"].contains(&"answer_404=".to_string()));
        assert!(table["state"].contains(&"save".to_string()));
        assert_eq!(table["state save"], ["-f", "--secrets"]);
        assert_eq!(table["completion"], ["bash", "zsh", "fish"]);
        assert!(table["shutdown"].contains(&"hard".to_string()));
    }

    #[test]
    fn no_word_means_something_to_a_shell() {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_= ".contains(c);
        for (words, next) in table() {
            assert!(words.chars().all(plain), "{words}");
            assert!(next.iter().all(|word| word.chars().all(plain)), "{next:?}");
        }
    }

    #[test]
    fn there_are_three_shells() {
        for shell in ["bash", "zsh", "fish"] {
            let script = script(&[shell.to_string()]).expect(shell);
            assert!(script.contains("backend add") && !script.contains("# TABLE"));
        }
        assert!(script(&["csh".to_string()]).is_err());
        assert!(script(&[]).is_err());
    }
}
