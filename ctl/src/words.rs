//! Words of the command line to one line of the control language.
//!
//! First the shell's habits (`--key value`, `--flag`, `-i value`), then Sōzu's
//! words for what has another name here. Nothing else is known about a command:
//! what is wrong with it, the proxy says.

use crate::certificate;
use crate::failure::Failure;
use sozu_lib::proto::line::{join, Word};
use sozu_lib::proto::table::COMMANDS;

/// Sōzu's short options.
const SHORT: &[(&str, &str)] = &[("-i", "id"), ("-l", "level"), ("-w", "worker")];

/// A command of Sōzu that has other words here.
struct Old {
    words: &'static str,
    /// Only with this key: these words are ours as well.
    with: Option<&'static str>,
    new: &'static str,
    /// Key by key; a dash for one that says nothing here.
    keys: &'static [(&'static str, &'static str)],
    also: Option<(&'static str, &'static str)>,
}

const fn old(words: &'static str, new: &'static str) -> Old {
    Old {
        words,
        with: None,
        new,
        keys: &[],
        also: None,
    }
}

impl Old {
    const fn with(mut self, key: &'static str) -> Old {
        self.with = Some(key);
        self
    }

    const fn keys(mut self, keys: &'static [(&'static str, &'static str)]) -> Old {
        self.keys = keys;
        self
    }

    const fn also(mut self, key: &'static str, value: &'static str) -> Old {
        self.also = Some((key, value));
        self
    }
}

const RULE: &[(&str, &str)] = &[
    ("id", "cluster"),
    ("address", "listener"),
    ("path_begin", "path"),
];
/// Both have a certificate, which `sozuctl` tells apart.
const RENEWED: &[(&str, &str)] = &[
    ("new_certificate", "certificate"),
    ("new_certificate_chain", "certificate_chain"),
    ("new_key", "key"),
    ("old_fingerprint", "fingerprint"),
];
/// A rule is named by what it takes, not by where it leads.
const RULE_NAME: &[(&str, &str)] = &[("id", "-"), ("address", "listener"), ("path_begin", "path")];

#[rustfmt::skip]
static OLD: &[Old] = &[
    old("application add", "cluster add"),
    old("application remove", "cluster remove"),
    old("application list", "cluster list"),
    old("backend add", "backend add").with("backend_id").keys(&[("id", "cluster"), ("backend_id", "id")]),
    // A backend is named by cluster and id; where it listens says nothing more.
    old("backend remove", "backend remove").with("backend_id").keys(&[("id", "cluster"), ("backend_id", "id"), ("address", "-")]),
    old("frontend http add", "frontend add").keys(RULE),
    old("frontend http remove", "frontend remove").keys(RULE_NAME),
    old("frontend tcp add", "frontend add").keys(RULE),
    old("frontend tcp remove", "frontend remove").keys(RULE_NAME),
    old("listener http add", "listener add").also("protocol", "http"),
    old("listener tcp add", "listener add").also("protocol", "tcp"),
    old("listener https add", "listener add").also("protocol", "https"),
    old("certificate replace", "certificate replace").with("new_certificate").keys(RENEWED),
    old("listener activate", "listener enable"),
    old("listener deactivate", "listener disable"),
    // Not Sōzu's: what one mostly wants of them.
    old("connections", "connections list"),
    old("query applications", "cluster list"),
    old("query clusters", "cluster list"),
    old("query metrics", "metrics"),
    old("logging level LEVEL", "logging"),
    old("logging LEVEL", "logging"),
];

/// The bare words, and the pairs behind them.
#[derive(Debug, Default)]
struct Command {
    bare: Vec<String>,
    pairs: Vec<(String, String)>,
}

/// The line without its LF, or what is wrong with the words: one sentence.
pub fn line_of(words: &[String]) -> Result<String, Failure> {
    let mut command = read(words).map_err(Failure::usage)?;
    translate(&mut command);
    certificate::fill(&command.bare, &mut command.pairs)?;
    make_absolute(&mut command);
    let bare = command.bare.into_iter().map(Word::Bare);
    let pairs = command.pairs.into_iter();
    let pairs = pairs.map(|(key, value)| Word::Pair { key, value });
    Ok(join(&bare.chain(pairs).collect::<Vec<Word>>()))
}

/// The proxy runs in another folder than who asks.
fn make_absolute(command: &mut Command) {
    let program = command.pairs.iter_mut();
    let mut program = program.filter(|(key, _)| command.bare == ["upgrade"] && key == "binary");
    if let Some((_, path)) = program.next() {
        if let Ok(whole) = std::path::absolute(&*path) {
            *path = whole.display().to_string();
        }
    }
}

fn read(words: &[String]) -> Result<Command, String> {
    let mut command = Command::default();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        if let Some(c) = word.chars().find(|c| spelt_otherwise(*c)) {
            return Err(format!("{word:?} has a control character: {c:?}"));
        }
        let short = SHORT.iter().find(|(short, _)| short == word);
        if let Some(name) = short.map(|(_, key)| *key).or(word.strip_prefix("--")) {
            let (name, given) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (name, None),
            };
            if given.is_none() && is_argument(name) {
                command.bare.push(name.to_string());
                continue;
            }
            let next = || words.next_if(|next| !next.starts_with("--")).cloned();
            let value = given.or_else(next).unwrap_or_else(|| "true".into());
            command.pairs.push((key_of(name)?, value));
        } else if let Some((key, value)) = word.split_once('=') {
            command.pairs.push((key_of(key)?, value.to_string()));
        } else {
            command.bare.push(word.clone());
        }
    }
    Ok(command)
}

/// A line has a spelling for these three control characters only.
fn spelt_otherwise(c: char) -> bool {
    c.is_control() && !matches!(c, '\n' | '\r' | '\t')
}

/// A word that stands behind a command as it is: `hard`.
fn is_argument(word: &str) -> bool {
    COMMANDS.iter().any(|row| row.argument == Some(word))
}

fn key_of(name: &str) -> Result<String, String> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let key = name.replace('-', "_");
    match !key.is_empty() && key.bytes().all(known) {
        true => Ok(key),
        false => Err(format!("{name:?} is no key: a key has a-z, 0-9, - and _")),
    }
}

fn translate(command: &mut Command) {
    let Some((old, level)) = OLD
        .iter()
        .find_map(|old| Some((old, old.matches(command)?)))
    else {
        return;
    };
    command.bare = old.new.split(' ').map(str::to_string).collect();
    for (from, _) in &mut command.pairs {
        if let Some((_, new)) = old.keys.iter().find(|(key, _)| key == from) {
            *from = new.to_string();
        }
    }
    command.pairs.retain(|(key, _)| key != "-");
    if let Some((key, value)) = old.also {
        command.pairs.push((key.to_string(), value.to_string()));
    }
    if let Some(level) = level {
        command.pairs.push(("level".to_string(), level));
    }
}

impl Old {
    /// Whether these are its words; what stands in the place of LEVEL.
    fn matches(&self, command: &Command) -> Option<Option<String>> {
        let mut level = None;
        let mut given = command.bare.iter();
        for word in self.words.split(' ') {
            match given.next()? {
                value if word == "LEVEL" => level = Some(value.clone()),
                value if value == word => {}
                _ => return None,
            }
        }
        let has = |key: &str| command.pairs.iter().any(|(name, _)| name == key);
        (given.next().is_none() && self.with.is_none_or(has)).then_some(level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &str) -> Result<String, String> {
        let words: Vec<String> = words.split(' ').map(str::to_string).collect();
        line_of(&words).map_err(|failure| failure.text)
    }

    #[test]
    fn words_become_lines() {
        for (words, wanted) in [
            ("status", "status"),
            ("shutdown --hard", "shutdown hard"),
            ("shutdown --hard --timeout 5", "shutdown hard timeout=5"),
            ("shutdown timeout=5 hard", "shutdown hard timeout=5"),
            ("x --some-key=value word", "x word some_key=value"),
            ("x --flag", "x flag=true"),
            ("x --flag --key v", "x flag=true key=v"),
            ("x --key=--v", "x key=--v"),
            ("x --key=", "x key=\"\""),
            ("x key=a=b", "x key=a=b"),
            ("help backend", "help backend"),
        ] {
            assert_eq!(line(words).as_deref(), Ok(wanted), "{words}");
        }
        let here = std::env::current_dir().expect("a folder");
        let whole = format!("upgrade binary={}/new canary=5", here.display());
        let here = line("upgrade --binary new --canary 5");
        assert_eq!(here.as_deref(), Ok(&*whole));
        assert!(line("x /api=b").is_err());
        assert!(line("x --Key b").is_err());
        assert!(line("x a=\u{1b}").is_err());
        let words = ["x", "a=b c\n\"d\""].map(String::from);
        assert_eq!(
            line_of(&words).map_err(|failure| failure.text).as_deref(),
            Ok("x a=\"b c\\n\\\"d\\\"\"")
        );
    }

    #[test]
    fn the_words_of_sozu() {
        for (words, wanted) in [
            ("application add --id web", "cluster add id=web"),
            ("cluster add -i web", "cluster add id=web"),
            ("application remove --id web", "cluster remove id=web"),
            (
                "backend add --id web --backend-id b --address 10.0.0.1:80 --weight 5",
                "backend add cluster=web id=b address=10.0.0.1:80 weight=5",
            ),
            (
                "backend add --cluster web --id b --address 10.0.0.1:80",
                "backend add cluster=web id=b address=10.0.0.1:80",
            ),
            (
                "backend remove --id web --backend-id b --address 10.0.0.1:80",
                "backend remove cluster=web id=b",
            ),
            (
                "backend remove cluster=web id=b",
                "backend remove cluster=web id=b",
            ),
            (
                "frontend http add --address [::]:80 --hostname a.b --path-begin /x --id web",
                "frontend add listener=[::]:80 hostname=a.b path=/x cluster=web",
            ),
            (
                "frontend http remove --address [::]:80 --hostname a.b --path-begin /x --id web",
                "frontend remove listener=[::]:80 hostname=a.b path=/x",
            ),
            (
                "frontend tcp add --id web --address [::]:80",
                "frontend add cluster=web listener=[::]:80",
            ),
            (
                "frontend tcp remove --id web --address [::]:80",
                "frontend remove listener=[::]:80",
            ),
            (
                "listener http add --address [::]:80",
                "listener add address=[::]:80 protocol=http",
            ),
            (
                "listener tcp add --address [::]:80",
                "listener add address=[::]:80 protocol=tcp",
            ),
            (
                "listener deactivate --address x",
                "listener disable address=x",
            ),
            ("query applications", "cluster list"),
            ("query clusters", "cluster list"),
            ("query metrics --cluster web", "metrics cluster=web"),
            ("logging --level debug", "logging level=debug"),
            ("logging level debug", "logging level=debug"),
            ("logging debug", "logging level=debug"),
            ("logging -l debug", "logging level=debug"),
        ] {
            assert_eq!(line(words).as_deref(), Ok(wanted), "{words}");
        }
    }
}
