//! What `sozuctl` does itself: the table of its own commands, help, and the
//! check of a configuration.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sozu_lib::config;
use sozu_lib::proto::line::Word;
use sozu_lib::proto::table;

use crate::failure::Failure;
use crate::options::Options;
use crate::show::{columns, Printer};

/// A command that is not of the control language.
pub struct Local {
    pub words: &'static str,
    /// As `help` and the completion show them; `FILE` is one.
    pub options: &'static [&'static str],
    pub sentence: &'static str,
}

const fn local(
    words: &'static str,
    options: &'static [&'static str],
    sentence: &'static str,
) -> Local {
    Local {
        words,
        options,
        sentence,
    }
}

#[rustfmt::skip]
pub static LOCALS: &[Local] = &[
    local("state save", &["-f FILE", "--secrets"], "Writes the running state into a file that only its owner reads."),
    local("state load", &["-f FILE", "--confirm SECONDS"], "Does the commands of a file, all or none."),
    local("state diff", &["-f FILE"], "Prints what leads from the running state to that of a file."),
    local("apply", &["-f FILE", "--dry-run", "--confirm SECONDS"], "Makes the running state that of a file: does what differs, all or nothing."),
    local("query applications", &["--id ID", "--domain NAME"], "Prints a cluster with its backends and frontends, or those that a hostname leads to."),
    local("config check", &["-c FILE"], "Says what is wrong with a configuration; needs no proxy."),
    local("top", &["--once"], "Shows every second what the workers do."),
    local("completion", &["bash|zsh|fish"], "Prints the completion for a shell."),
];

const OPTIONS: &str = "\
usage: sozuctl -c FILE [OPTIONS] WORDS…      the proxy that runs with this configuration
       sozuctl -s SOCKET [OPTIONS] WORDS…    the proxy that takes commands on this socket

options, before the words:
  -t SECONDS   how long to wait for the answer; 10 for its first line if not given,
               60 for a change, and no limit for shutdown and events
  --json       every answer as one JSON object, every event as one
  -V           the version of sozuctl
  -h           this

`--key value` is the same as `key=value`, and `--flag` as `flag=true`.
Exit codes: 0 done, 1 refused, 2 the command line is wrong, 3 no proxy to talk to.
";

pub fn usage() -> String {
    let local = |local: &Local| {
        let words = format!("{} {}", local.words, local.options.join(" "));
        vec![words, local.sentence.to_string()]
    };
    let remote = |row: &table::Row| vec![row.words(), row.sentence.to_string()];
    let locals: Vec<Vec<String>> = LOCALS.iter().map(local).collect();
    let remotes: Vec<Vec<String>> = table::COMMANDS.iter().map(remote).collect();
    format!(
        "{OPTIONS}\nof sozuctl itself:\n{}\nof the proxy (`help WORD` has their keys):\n{}",
        indented(&columns(&locals)),
        indented(&columns(&remotes))
    )
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// `help` without a proxy: of the commands that this version knows.
pub fn help(options: &Options, words: &[String]) -> Result<(), Failure> {
    let word = words.first().map(String::as_str);
    let refused = |e: sozu_lib::state::Refused| Failure::refused(e.code.name(), e.what);
    let text = table::help(word).map_err(refused)?;
    let mut printer = Printer::new(io::stdout().lock(), options.json);
    text.lines().try_for_each(|line| printer.line(line))?;
    printer.end(&[])
}

/// `config check`: as `sozu check` does.
pub fn check(options: &Options, words: &[String]) -> Result<(), Failure> {
    let given = match words {
        [] => options.config().map(Path::to_owned),
        [name, file] if ["-c", "--config", "-f", "--file"].contains(&name.as_str()) => {
            Some(PathBuf::from(file))
        }
        [file] if !file.starts_with('-') => Some(PathBuf::from(file)),
        _ => None,
    };
    let which = || Failure::usage("which configuration? config check -c FILE");
    let file = given.ok_or_else(which)?;
    let mut result = config::load(&file);
    let name = file.display().to_string();
    let tried = result
        .as_ref()
        .map(|(config, _)| sozu_lib::supervisor::try_policies(&config.state));
    if let Ok(Err(what)) = tried {
        result = Err(config::Errors(vec![config::Report::of_file(&name, what)]));
    }
    let mut text = config::check(&name, &result);
    if let Ok((config, _)) = &result {
        for what in sozu_lib::supervisor::untimely(&config.state) {
            text = format!("warning: {what}\n{text}");
        }
    }
    match result {
        Ok(_) if options.json => Printer::new(io::stdout().lock(), true).end(&[Word::Pair {
            key: "text".into(),
            value: text,
        }]),
        Ok(_) => print(&text),
        Err(_) => Err(Failure::refused("invalid", text.trim_end())),
    }
}

pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let printed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    printed.map_err(Failure::of_output)
}
