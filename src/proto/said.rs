//! What workers say to main, from lines to values.
//!
//! A worker may be hijacked: what it says is read as anybody's, and bounded. Whether it
//! is believed is for main to decide, of that worker only.

use super::line::{split, value_of, Word};
use crate::limits::{CONNECTION_LINE_BYTES_MAX, REASON_CHARS_MAX};
use crate::slab::Key;
use crate::state::Address;

/// A line of a worker about more than its own life.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Obeyed(u64),
    Left {
        order: u64,
        connections: u32,
    },
    Held {
        cluster: String,
        waiting: usize,
    },
    Backend {
        cluster: String,
        id: String,
        /// Why it is down; `None`: it is up.
        down: Option<String>,
    },
    /// It has as many connections as it may, and takes no more before others end.
    Full {
        connections: u32,
    },
    Health(Finding),
    Connect(Errand),
}

/// A connection that a worker wants: its own name for it, and to which backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errand {
    pub ticket: u64,
    pub cluster: String,
    pub id: String,
}

/// What the checks of a backend have found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub cluster: String,
    pub id: String,
    pub address: Address,
    /// What was asked, as a number.
    pub question: u64,
    /// Why it is down; `None`: it is up.
    pub down: Option<String>,
}

impl Said {
    /// `None`: it is none of these.
    pub fn parse(line: &str) -> Option<Said> {
        let words = split(line).ok()?;
        let Some(Word::Bare(noun)) = words.first() else {
            return None;
        };
        let text = |wanted| value_of(&words, wanted).map(str::to_string);
        let number = |key| text(key)?.parse::<u64>().ok();
        Some(match noun.as_str() {
            "obeyed" => Said::Obeyed(number("order")?),
            "left" => Said::Left {
                order: number("order")?,
                connections: number("connections")?.try_into().ok()?,
            },
            "held" => Said::Held {
                cluster: text("cluster")?,
                waiting: number("waiting")?.try_into().ok()?,
            },
            "full" => Said::Full {
                connections: number("connections")?.try_into().ok()?,
            },
            "backend" => Said::Backend {
                cluster: text("cluster")?,
                id: text("id")?,
                down: down(&words)?,
            },
            "health" => Said::Health(Finding {
                cluster: text("cluster")?,
                id: text("id")?,
                address: text("address")?.parse().ok()?,
                question: number("question")?,
                down: down(&words)?,
            }),
            "connect" => Said::Connect(Errand {
                ticket: number("for")?,
                cluster: text("cluster")?,
                id: text("id")?,
            }),
            _ => return None,
        })
    }
}

/// Why it is down, if it is. Outer `None`: that is not said.
fn down(words: &[Word]) -> Option<Option<String>> {
    match value_of(words, "state")? {
        "up" => Some(None),
        "down" => {
            let why = value_of(words, "why")?.chars().take(REASON_CHARS_MAX);
            Some(Some(why.collect()))
        }
        _ => None,
    }
}

/// What a worker answers when it is asked, apart from the tag of the inquiry.
#[derive(Debug)]
pub struct Answer {
    pub subject: String,
    pub pairs: Vec<(String, String)>,
}

impl Answer {
    /// From a line of a worker, with the inquiry that it is about.
    pub fn parse(line: &str) -> Option<(Key, Answer)> {
        if line.len() > CONNECTION_LINE_BYTES_MAX {
            return None;
        }
        let mut words = split(line).ok()?.into_iter();
        let Some(Word::Bare(subject)) = words.next() else {
            return None;
        };
        let pair = |word| match word {
            Word::Pair { key, value } => Some((key, value)),
            Word::Bare(_) => None,
        };
        let pairs: Option<Vec<(String, String)>> = words.map(pair).collect();
        let answer = Answer {
            subject,
            pairs: pairs?,
        };
        Some((key_of(answer.value("for")?)?, answer))
    }

    pub fn value(&self, wanted: &str) -> Option<&str> {
        let found = self.pairs.iter().find(|(key, _)| key == wanted);
        found.map(|(_, value)| value.as_str())
    }
}

/// How an inquiry is named in what is said to workers.
pub fn tag_of(key: Key) -> String {
    format!("{}.{}", key.index, key.generation)
}

fn key_of(tag: &str) -> Option<Key> {
    let (index, generation) = tag.split_once('.')?;
    Some(Key {
        index: index.parse().ok()?,
        generation: generation.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_say_is_read() {
        assert_eq!(Said::parse("obeyed order=7"), Some(Said::Obeyed(7)));
        let left = Said::Left {
            order: 7,
            connections: 3,
        };
        assert_eq!(Said::parse("left order=7 connections=3"), Some(left));
        let full = Said::Full { connections: 4 };
        assert_eq!(Said::parse("full connections=4"), Some(full));
        let held = Said::Held {
            cluster: "a".into(),
            waiting: 2,
        };
        assert_eq!(Said::parse("held cluster=a waiting=2"), Some(held));
        let long = format!("backend cluster=a id=b state=down why={}", "x".repeat(9999));
        match Said::parse(&long) {
            Some(Said::Backend {
                down: Some(why), ..
            }) => assert_eq!(why.len(), REASON_CHARS_MAX),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn findings_are_read() {
        let line = "health cluster=a id=b address=10.0.0.1:80 question=7 state=down why=\"a b\"";
        let found = |down: Option<&str>| {
            Some(Said::Health(Finding {
                cluster: "a".into(),
                id: "b".into(),
                address: "10.0.0.1:80".parse().expect("an address"),
                question: 7,
                down: down.map(String::from),
            }))
        };
        assert_eq!(Said::parse(line), found(Some("a b")));
        let up = line.replace("state=down", "state=up");
        assert_eq!(Said::parse(&up), found(None));
        for (part, bad) in [
            ("address=10.0.0.1:80", "address=localhost"),
            ("question=7", "question=-7"),
            ("state=down", "state=unknown"),
            ("why=", "how="),
            ("cluster=", "x="),
        ] {
            assert_eq!(Said::parse(&line.replace(part, bad)), None, "{bad}");
        }
    }

    #[test]
    fn what_is_none_of_it_is_left_out() {
        for line in [
            "",
            "=",
            "\"",
            "obeyed",
            "obeyed order=",
            "obeyed order=-1",
            "obeyed order=99999999999999999999",
            "left order=1 connections=4294967296",
            "left order=1",
            "held cluster=a waiting=-1",
            "held waiting=1",
            "full",
            "backend cluster=a id=b state=down",
            "backend cluster=a id=b state=sideways why=x",
            "shutdown hard",
            "event kind=backend",
        ] {
            assert_eq!(Said::parse(line), None, "{line}");
        }
    }

    #[test]
    fn only_whole_lines_with_a_tag_are_heard() {
        let key = Key {
            index: 3,
            generation: 9,
        };
        let line = format!("page for={} next=5 killed=0", tag_of(key));
        let (of, said) = Answer::parse(&line).expect("a line");
        assert_eq!((of, said.subject.as_str()), (key, "page"));
        assert_eq!(said.value("next"), Some("5"));
        assert_eq!(said.value("nex"), None);
        let long = format!("connection for=3.9 request={}", "x".repeat(5000));
        for bad in [
            "",
            "page",
            "page next=5",
            "page for=3",
            "page for=3.x",
            "page for=-3.9",
            "page for=3.9 5",
            "page for=3.9 a=\"",
            "page for=99999999999.1",
            "for=3.9",
            &long,
        ] {
            assert!(Answer::parse(bad).is_none(), "{bad}");
        }
    }
}
