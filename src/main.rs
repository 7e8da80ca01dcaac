//! The command line: `sozu start`, `sozu check`, and the hidden roles of workers and the key process.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sozu_lib::config::{self, Config};
use sozu_lib::state::State;
use sozu_lib::{keys, resolver, supervisor, worker};

const USAGE: &str = "\
usage: sozu start -c FILE                      start the proxy with this configuration, in the foreground
       sozu start -c FILE --last-known-good    start it with the one that ran last (FILE.last)
       sozu check -c FILE                      say what is wrong with a configuration, and start nothing
       sozu version                            print the version
       sozu help                               print this

A running proxy is steered with sozuctl, or with nc -U and the word help.
";

fn main() -> ExitCode {
    // Before a key is read, in every role.
    if let Err(e) = supervisor::keep_no_cores() {
        eprintln!("sozu: cannot keep its memory out of core dumps: {e}");
        return ExitCode::FAILURE;
    }
    let mut arguments = std::env::args().skip(1);
    let command = arguments.next().unwrap_or_default();
    let mut rest: Vec<String> = arguments.collect();
    let words = rest.len();
    rest.retain(|word| command != "start" || word != "--last-known-good");
    let last_known_good = rest.len() < words;
    match command.as_str() {
        supervisor::WORKER_ROLE => worker::main(),
        supervisor::KEYS_ROLE => keys::main(),
        supervisor::RESOLVER_ROLE => resolver::main(),
        supervisor::REHEARSAL_ROLE => match supervisor::rehearse() {
            Ok(()) => ExitCode::SUCCESS,
            Err(e) => {
                eprintln!("sozu rehearsal: {e}");
                ExitCode::FAILURE
            }
        },
        "start" if handed_over(&rest).is_some() => take_over(handed_over(&rest)),
        "start" | "check" => match file_argument(&rest) {
            Ok(file) if command == "start" => start(&file, last_known_good),
            Ok(file) => check(&file),
            Err(what) => usage_error(&format!("{command}: {what}")),
        },
        "version" | "--version" | "-V" => {
            println!("sozu {}", sozu_lib::version::version());
            ExitCode::SUCCESS
        }
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        "" => usage_error("no command given"),
        other => usage_error(&format!("unknown command {other:?}")),
    }
}

fn usage_error(what: &str) -> ExitCode {
    eprint!("sozu: {what}\n{USAGE}");
    ExitCode::from(2)
}

/// `-c FILE`, `--config FILE` or `--config=FILE`, and nothing else.
fn file_argument(arguments: &[String]) -> Result<PathBuf, String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["-c" | "--config", file] => Ok(file.into()),
        [one] if one.starts_with("--config=") => Ok(one["--config=".len()..].into()),
        [] => Err("a configuration is needed: -c FILE".into()),
        _ => Err(format!(
            "{} is not understood: only -c FILE",
            words.join(" ")
        )),
    }
}

fn check(file: &Path) -> ExitCode {
    let result = config::load(file);
    let text = config::check(&file.display().to_string(), &result);
    match result {
        Ok((config, _)) => {
            if let Err(what) = supervisor::try_policies(&config.state) {
                eprintln!("{}: {what}\n{0}: not taken", file.display());
                return ExitCode::FAILURE;
            }
            for what in supervisor::untimely(&config.state) {
                println!("warning: {what}");
            }
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(_) => {
            eprint!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn start(file: &Path, last_known_good: bool) -> ExitCode {
    supervisor::keep_no_large_pieces();
    if last_known_good {
        return match supervisor::last_known_good(file) {
            Ok((config, ran, told)) => {
                told.iter().for_each(|what| eprintln!("sozu: {what}"));
                run(config, file, Some(ran))
            }
            Err(what) => {
                eprintln!("sozu: {what}");
                ExitCode::FAILURE
            }
        };
    }
    let config = match config::load(file) {
        Ok((config, warnings)) => {
            for warning in &warnings {
                eprintln!("{warning}");
            }
            config
        }
        Err(errors) => {
            eprintln!(
                "{errors}\nsozu: not started; with --last-known-good it starts as it ran last"
            );
            return ExitCode::FAILURE;
        }
    };
    run(config, file, None)
}

/// The number of the descriptor with what the program before has left, behind the words of `start`.
fn handed_over(arguments: &[String]) -> Option<i32> {
    match arguments {
        [_, _, word, number] if word == supervisor::TAKE_OVER => number.parse().ok(),
        _ => None,
    }
}

fn take_over(number: Option<i32>) -> ExitCode {
    supervisor::keep_no_large_pieces();
    end(supervisor::take_over(number.unwrap_or(-1)))
}

fn run(config: Config, file: &Path, ran: Option<State>) -> ExitCode {
    end(supervisor::run(config, file, ran))
}

fn end(ended: Result<(), String>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(what) => {
            log::error!("{what}");
            eprintln!("sozu: {what}");
            ExitCode::FAILURE
        }
    }
}
