//! `sozuctl`: words to one line, the answer to text, its last line to an exit code.
//!
//! 0: done. 1: refused. 2: the command line is wrong. 3: no proxy to talk to.
//! What is known here about a command is what needs a file or a terminal; the
//! rest goes to the proxy as it is.

mod certificate;
mod completion;
mod failure;
mod file;
mod json;
mod link;
mod local;
mod options;
mod progress;
mod query;
mod rates;
mod show;
mod state;
mod target;
mod terminal;
mod top;
mod words;

use std::io;
use std::process::ExitCode;

use failure::Failure;
use link::Link;
use options::Options;
use progress::Progress;
use show::Printer;

fn main() -> ExitCode {
    // It may be given private keys. A system that refuses this refuses nothing else.
    let _ = sozu_lib::sys::process::keep_no_cores();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Even if the options are wrong, a program wants to read why.
    let json = arguments.iter().any(|word| word == "--json");
    let options = match Options::read(arguments.into_iter()) {
        Ok(options) => options,
        Err(failure) => return failure.tell(json),
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(options.json),
    }
}

fn run(options: &Options) -> Result<(), Failure> {
    if options.help {
        return local::print(&local::usage());
    }
    if options.version {
        return local::print(&format!("sozuctl {}\n", env!("CARGO_PKG_VERSION")));
    }
    let words: Vec<&str> = options.words.iter().map(String::as_str).collect();
    let behind = |count: usize| options.words.get(count..).unwrap_or_default();
    match words.as_slice() {
        ["completion", ..] => local::print(&completion::script(behind(1))?),
        ["config", "check", ..] => local::check(options, behind(2)),
        ["help", ..] if !options.names_a_proxy() => local::help(options, behind(1)),
        ["state", "save", ..] => state::save(options, behind(2)),
        ["state", "load", ..] => state::load(options, behind(2)),
        // Without a file it is the proxy's own: against its configuration.
        ["state", "diff", _, ..] => state::diff(options, behind(2)),
        ["apply", ..] => state::apply(options, behind(1)),
        ["query", ..] => query::run(options, behind(1)),
        ["top", ..] => top::run(options, behind(1)),
        _ => ask(options),
    }
}

/// Any other command: the proxy knows it, or says why not.
fn ask(options: &Options) -> Result<(), Failure> {
    let socket = options.socket()?;
    if options.words.is_empty() {
        return Err(Failure::usage("no command given: try sozuctl --help"));
    }
    let line = words::line_of(&options.words)?;
    let mut link = Link::open(&socket, options.limit)?;
    let mut printer = Printer::new(io::stdout().lock(), options.json);
    let mut progress = Progress::new();
    let answer = link.ask(&line, &mut |line| match progress::of_line(line) {
        Some(text) => {
            progress.show(&text);
            Ok(())
        }
        None => {
            progress.clear();
            printer.line(line)
        }
    });
    drop(progress);
    match answer {
        Ok(result) => printer.end(&result),
        // Listening for so long was what was asked.
        Err(failure) if line == "events" && options.limit.is_some() && failure.is_late() => Ok(()),
        Err(failure) => {
            printer.give_up()?;
            Err(failure)
        }
    }
}
