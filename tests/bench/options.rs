//! The words after `--`.

use std::path::PathBuf;

use crate::peers::{self, Peer};
use crate::rows::{Row, ROWS};

pub const USAGE: &str = "usage: bench [--rows http64,…] [--peers floor,haproxy,nginx,sozu,inside] [--seconds N] [--runs N] [--quick]
             [--strict] [--strace] [--sozu FILE]
  --quick    one run, short windows, 2,000 idle connections
  --strict   exit with 1 if a bar is missed
  --strace   only count system calls per request, 64 kept-alive clients
  --sozu     the binary to measure, instead of the one built beside this program
rows: http64 http512 httpnew http64k http10m tcp1k tcp10m changes slow checks idle
      https1k tlsfull tlskeys tlsresumed https10m idletls rest";

pub struct Options {
    pub rows: Vec<Row>,
    pub peers: Vec<Peer>,
    pub seconds: u64,
    pub runs: usize,
    pub idle: u64,
    pub strict: bool,
    pub strace: bool,
    pub sozu: Option<PathBuf>,
}

impl Options {
    pub fn read(mut words: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut options = Options {
            rows: ROWS.to_vec(),
            peers: peers::ALL.to_vec(),
            seconds: 4,
            runs: 3,
            idle: 9_000,
            strict: false,
            strace: false,
            sozu: None,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} needs a value"));
            match word.as_str() {
                "--rows" => options.rows = chosen(&value()?, &ROWS, |row| row.id)?,
                "--peers" => options.peers = chosen(&value()?, &peers::ALL, |peer| peer.name())?,
                "--seconds" => options.seconds = number(&value()?, 60)?,
                "--runs" => options.runs = number(&value()?, 99)? as usize,
                "--sozu" => options.sozu = Some(PathBuf::from(value()?)),
                "--strict" => options.strict = true,
                "--strace" => options.strace = true,
                "--quick" => (options.runs, options.seconds, options.idle) = (1, 1, 2_000),
                _ => return Err(format!("what is {word}?\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

/// Those named, in the order of the table.
fn chosen<T: Copy>(
    words: &str,
    all: &[T],
    name: impl Fn(&T) -> &'static str,
) -> Result<Vec<T>, String> {
    if let Some(unknown) = words
        .split(',')
        .find(|word| !all.iter().any(|one| name(one) == *word))
    {
        return Err(format!("what is {unknown}?\n{USAGE}"));
    }
    Ok(all
        .iter()
        .filter(|one| words.split(',').any(|word| word == name(one)))
        .copied()
        .collect())
}

fn number(word: &str, most: u64) -> Result<u64, String> {
    let number = word
        .parse()
        .ok()
        .filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("{word}: a number from 1 to {most}"))
}
