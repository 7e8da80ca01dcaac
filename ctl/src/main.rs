//! `sozuctl`: words to one line, the answer to text, its last line to an exit code.
//!
//! 0: done. 1: refused. 2: the command line is wrong. 3: no proxy to talk to.

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sozu_lib::config;
use sozu_lib::proto::line::{join, Word};
use sozu_lib::proto::reply::Reply;

const USAGE: &str = "\
usage: sozuctl -c FILE WORDS…      steer the proxy that runs with this configuration
       sozuctl -s SOCKET WORDS…    steer the proxy that listens on this socket

WORDS are those of the control language: status, help, shutdown --hard, …
`--key value` is the same as `key=value`.
";

/// Why there is no answer: what to say, and the exit code.
struct Failure(String, u8);

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(Failure(what, code)) => {
            eprintln!("sozuctl: {what}");
            ExitCode::from(code)
        }
    }
}

fn usage(what: impl Into<String>) -> Failure {
    Failure(format!("{}\n{USAGE}", what.into()), 2)
}

fn run() -> Result<ExitCode, Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut socket = None;
    let mut words = Vec::new();
    while let Some(argument) = arguments.next() {
        let mut value = || {
            arguments
                .next()
                .ok_or_else(|| usage(format!("{argument} needs a value")))
        };
        match argument.as_str() {
            "-h" | "--help" if words.is_empty() => {
                print!("{USAGE}");
                return Ok(ExitCode::SUCCESS);
            }
            "-c" | "--config" if words.is_empty() => {
                socket = Some(socket_of(Path::new(&value()?))?)
            }
            "-s" | "--socket" if words.is_empty() => socket = Some(PathBuf::from(value()?)),
            _ if words.is_empty() && argument.starts_with('-') => {
                return Err(usage(format!("unknown option {argument}")))
            }
            _ => {
                words.push(argument);
                words.extend(arguments.by_ref());
            }
        }
    }
    let Some(socket) = socket else {
        return Err(usage("which proxy? -c FILE or -s SOCKET comes first"));
    };
    if words.is_empty() {
        return Err(usage("no command given"));
    }
    ask(&socket, &line_of(words))
}

/// The control socket that a configuration names.
fn socket_of(file: &Path) -> Result<PathBuf, Failure> {
    match config::load(file) {
        Ok((config, _)) => Ok(config.settings.command_socket),
        Err(errors) => Err(Failure(errors.to_string(), 2)),
    }
}

/// `--key value` and `--key=value` become `key=value`; `--hard` is the word hard.
fn line_of(words: Vec<String>) -> String {
    let mut line = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let Some(key) = word.strip_prefix("--") else {
            match word.split_once('=') {
                Some((key, value)) => line.push(Word::Pair {
                    key: key.into(),
                    value: value.into(),
                }),
                None => line.push(Word::Bare(word)),
            }
            continue;
        };
        let key = key.replace('-', "_");
        match (
            key.split_once('='),
            words.next_if(|next| !next.starts_with("--")),
        ) {
            (Some((key, value)), _) => line.push(Word::Pair {
                key: key.into(),
                value: value.into(),
            }),
            (None, Some(value)) => line.push(Word::Pair { key, value }),
            (None, None) => line.push(Word::Bare(key)),
        }
    }
    join(&line)
}

fn ask(socket: &Path, line: &str) -> Result<ExitCode, Failure> {
    let mut stream = UnixStream::connect(socket).map_err(|e| unreachable(socket, &e))?;
    let gone = |e: std::io::Error| Failure(format!("the proxy went away: {e}"), 3);
    stream
        .write_all(format!("{line}\n").as_bytes())
        .map_err(gone)?;
    let mut out = std::io::stdout().lock();
    for answer in BufReader::new(stream).lines() {
        let answer = answer.map_err(gone)?;
        match Reply::parse(&answer) {
            Ok(Reply::Error { text, .. }) => return Err(Failure(text, 1)),
            Ok(Reply::Ok(words)) => {
                if !words.is_empty() {
                    // A reader that has gone wants no more.
                    let _ = writeln!(out, "{}", join(&words[1..]));
                }
                return Ok(ExitCode::SUCCESS);
            }
            Ok(Reply::Data(_)) | Err(_) => {
                let _ = writeln!(out, "{answer}");
            }
        }
    }
    Err(Failure("the proxy ended without an answer".into(), 3))
}

fn unreachable(socket: &Path, error: &std::io::Error) -> Failure {
    let why = match error.kind() {
        ErrorKind::NotFound => {
            "there is no such socket: is the proxy running, with this configuration?".into()
        }
        ErrorKind::PermissionDenied => {
            "no permission: run sozuctl as the user that runs sozu".into()
        }
        ErrorKind::ConnectionRefused => "nobody listens there any more: sozu is not running".into(),
        _ => error.to_string(),
    };
    Failure(format!("cannot connect to {}: {why}", socket.display()), 3)
}
