//! What can be asked for on the command line.

use std::path::PathBuf;

use super::relay::Fault;

pub const USAGE: &str = "\
  --seconds N       go on with rounds for so long (600); one round is made in any case
  --upgrades N      N upgrades in a row under full load, instead of rounds
  --connections N   idle connections that speak now and then, beside all others
  --idle N          N connections that are idle all the time, and three upgrades
  --sozu PATH       the program to test, if it is not the one built here
  --binary PATH     the program to upgrade to, if not the same
  --strict          a number that misses its bar is a failure, not only a loss
  --fault WORD      cut, close or flip: spoils one thing, which must be seen";

pub struct Options {
    pub seconds: u64,
    pub mode: Mode,
    pub connections: usize,
    pub sozu: PathBuf,
    pub binary: Option<String>,
    pub strict: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Rounds,
    Upgrades(u64),
    Idle(usize),
    Spoilt(Fault),
}

impl Options {
    /// Of the words behind the name of the program; `sozu` lies there if they say nothing else.
    pub fn read(words: impl IntoIterator<Item = String>, sozu: PathBuf) -> Result<Options, String> {
        let mut options = Options {
            seconds: 600,
            mode: Mode::Rounds,
            connections: 0,
            sozu,
            binary: None,
            strict: false,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            if word == "--strict" {
                options.strict = true;
                continue;
            }
            let value = words.next().ok_or(format!("{word}: what?\n{USAGE}"))?;
            let number = || {
                value
                    .parse::<u64>()
                    .map_err(|_| format!("{word} {value}: not a number"))
            };
            match word.as_str() {
                "--seconds" => options.seconds = number()?,
                "--upgrades" => options.mode = Mode::Upgrades(number()?),
                "--connections" => options.connections = number()? as usize,
                "--idle" => options.mode = Mode::Idle(number()? as usize),
                "--sozu" => options.sozu = PathBuf::from(value),
                "--binary" => options.binary = Some(value),
                "--fault" => options.mode = Mode::Spoilt(fault(&value)?),
                _ => return Err(format!("{word} is not known\n{USAGE}")),
            }
        }
        Ok(options)
    }
}

fn fault(word: &str) -> Result<Fault, String> {
    match word {
        "cut" => Ok(Fault::Cut),
        "close" => Ok(Fault::Close),
        "flip" => Ok(Fault::Flip),
        _ => Err(format!("--fault {word}: it is cut, close or flip")),
    }
}
