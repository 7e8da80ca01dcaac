//! The documents say what the program does: tables of keys and commands are
//! the program's own, examples load, the transcript is one.

use sozu_lib::config::foreign::{Fate, FOREIGN};
use sozu_lib::config::keys::{
    Default, Key, ANSWER_STATUSES, BACKEND, CLUSTER, FRONTEND, GLOBAL, LISTENER,
};
use sozu_lib::config::{load, read, Settings};
use sozu_lib::proto::command::{Command, Noun};
use sozu_lib::proto::reply::Reply;
use sozu_lib::proto::table::{command_key, COMMANDS};
use sozu_lib::state::{Change, Code, State};
use std::path::Path;

const CONFIG: &str = include_str!("../doc/config.md");
const PROTOCOL: &str = include_str!("../doc/protocol.md");

/// The rows of the tables under a heading, without the heads of the tables.
fn rows(document: &str, heading: &str) -> Vec<String> {
    let lines = document.lines().skip_while(|line| *line != heading).skip(1);
    let section = lines.take_while(|line| !line.starts_with("## "));
    let rows = section.filter(|line| line.starts_with("| `"));
    rows.map(str::to_string).collect()
}

fn key_rows(keys: &[Key]) -> Vec<String> {
    let row = |key: &Key| {
        let default = match key.default {
            Default::Is(text) => format!("`{text}`"),
            other => other.describe().to_string(),
        };
        let (name, kind, sentence) = (key.name, key.kind.describe(), key.sentence);
        format!("| `{name}` | {kind} | {default} | {sentence} |")
    };
    // What the place of a table implies is no key of the file.
    let keys = keys
        .iter()
        .filter(|key| !matches!(key.default, Default::Implied(_)));
    keys.map(row).collect()
}

fn command_rows() -> Vec<String> {
    let rows = COMMANDS.iter().map(|row| {
        let keys: Vec<String> = row
            .takes()
            .map(|key| format!("`{}`", command_key(key)))
            .collect();
        format!(
            "| `{}` | {} | {} |",
            row.words(),
            keys.join(" "),
            row.sentence
        )
    });
    rows.collect()
}

fn foreign_rows() -> Vec<String> {
    let rows = FOREIGN.iter().map(|foreign| {
        let fate = match foreign.fate {
            Fate::Ignored => "ignored",
            Fate::Unsupported => "refused",
        };
        format!(
            "| `{}` | {} | {fate} | {} |",
            foreign.name, foreign.place, foreign.sentence
        )
    });
    rows.collect()
}

#[test]
fn every_key_is_documented() {
    for (heading, keys) in [
        ("## Global", GLOBAL),
        ("## Listeners", LISTENER),
        ("## Clusters", CLUSTER),
        ("## Frontends", FRONTEND),
        ("## Backends", BACKEND),
    ] {
        assert_eq!(rows(CONFIG, heading), key_rows(keys), "{heading}");
    }
    assert_eq!(rows(CONFIG, "## Coming from Sōzu"), foreign_rows());
    let tables = [GLOBAL, LISTENER, CLUSTER, FRONTEND, BACKEND]
        .into_iter()
        .flatten();
    for also in tables.filter_map(|key| key.also) {
        assert!(
            CONFIG.contains(&format!("`{also}` (")),
            "{also} is not mentioned"
        );
    }
    let statuses: Vec<String> = ANSWER_STATUSES.iter().map(u16::to_string).collect();
    assert!(
        CONFIG.contains(&statuses.join(" ")),
        "the statuses are not listed"
    );
}

#[test]
fn every_command_is_documented() {
    assert_eq!(rows(PROTOCOL, "## Commands"), command_rows());
}

#[test]
fn every_code_is_documented() {
    let codes = Code::ALL
        .iter()
        .map(|code| format!("| `{}` | {} |", code.name(), code.sentence()));
    assert_eq!(rows(PROTOCOL, "## Replies"), codes.collect::<Vec<_>>());
}

/// Every key stands in the example, set or commented out.
#[test]
fn the_shipped_configuration_shows_every_key() {
    let text = include_str!("../config.toml");
    for key in [GLOBAL, LISTENER, CLUSTER, FRONTEND, BACKEND]
        .into_iter()
        .flatten()
    {
        if !matches!(key.default, Default::Implied(_)) {
            assert!(
                text.contains(&format!("{} = ", key.name)),
                "{} is not shown",
                key.name
            );
        }
    }
}

#[test]
fn the_shipped_configuration_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.toml");
    let (config, warnings) = load(&path).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings, []);
    assert_eq!(config.state.frontends().count(), 1);
    assert_eq!(config.state.backends().count(), 2);
}

/// What is commented out in the example is right as well.
#[test]
fn the_commented_lines_load() {
    let mut text = String::new();
    for line in include_str!("../config.toml").lines() {
        let inner = line.trim_start();
        let code = inner.strip_prefix("# ").filter(|code| {
            code.starts_with(['[', '{'])
                || code
                    .split_once(" = ")
                    .is_some_and(|(key, _)| !key.contains(' '))
        });
        text.push_str(code.unwrap_or(line));
        text.push('\n');
    }
    let mut file = |_: &Path| Ok("<h1>An answer</h1>".to_string());
    let result = read(&text, "config.toml", Path::new("/"), &mut file);
    let (config, warnings) = result.unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings, []);
    assert_eq!(config.state.clusters().count(), 2);
}

#[test]
fn every_example_loads() {
    let mut examples = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/doc")).expect("doc/") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "md") {
            continue;
        }
        let document = std::fs::read_to_string(&path).expect("a text");
        for block in document.split("\n```toml\n").skip(1) {
            let example = block.split("\n```").next().unwrap_or_default();
            let mut file = |_: &Path| Ok(String::new());
            let name = path.display().to_string();
            if let Err(errors) = read(example, &name, Path::new("/"), &mut file) {
                panic!("{errors}\n{example}");
            }
            examples += 1;
        }
    }
    assert!(examples >= 5, "only {examples} examples were found");
}

/// Replays the transcript on a state, as far as it is about the state.
#[test]
fn the_transcript_is_one() {
    let timeouts = Settings::decode("settings").expect("defaults").timeouts;
    let mut state = State::default();
    let mut sent = "";
    let mut replies = 0;
    for line in PROTOCOL.lines() {
        if let Some(line) = line.strip_prefix("> ") {
            sent = line;
        } else if let Some(line) = line.strip_prefix("< ") {
            replies += 1;
            let command = Command::decode(sent, &timeouts);
            match (Reply::parse(line).expect(line), command) {
                (Reply::Error { code, text }, Err(refused)) => {
                    assert_eq!((code.as_str(), text), (refused.code.name(), refused.what));
                }
                (Reply::Error { code, text }, Ok(Command::Change(change))) => {
                    let refused = state.apply(&change).expect_err(sent);
                    assert_eq!((code.as_str(), text), (refused.code.name(), refused.what));
                }
                (Reply::Ok(_), Ok(Command::Change(change))) => {
                    state.apply(&change).expect(sent);
                }
                (Reply::Ok(_), Ok(_)) => {}
                (Reply::Data(_), Ok(Command::List(Noun::Frontend))) => {
                    let frontend = state.frontends().next().expect("a frontend").clone();
                    assert_eq!(Change::FrontendAdd(frontend).encode(), line);
                }
                (reply, command) => panic!("{sent}: {command:?} does not answer {reply:?}"),
            }
        }
    }
    assert!(replies > 10, "only {replies} replies were found");
}
