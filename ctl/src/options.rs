//! The options of `sozuctl`, and the proxy that they name.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sozu_lib::config::keys::{Default, GLOBAL};
use sozu_lib::config::{self, Settings};
use sozu_lib::parser::toml::{self, Value};
use sozu_lib::state::Timeouts;

use crate::failure::Failure;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    config: Option<PathBuf>,
    socket: Option<PathBuf>,
    /// The whole answer has to be there by then.
    pub limit: Option<Duration>,
    pub json: bool,
    pub help: bool,
    pub version: bool,
    pub words: Vec<String>,
}

impl Options {
    /// From the arguments behind the name of the program.
    pub fn read(arguments: impl Iterator<Item = String>) -> Result<Options, Failure> {
        let mut options = Options::default();
        let mut arguments = arguments.peekable();
        while let Some(argument) = arguments.next() {
            // A word may go before it: Sōzu has `status --json`.
            if argument == "--json" || argument == "-j" {
                options.json = true;
                continue;
            }
            if !options.words.is_empty() || !argument.starts_with('-') {
                options.words.push(argument);
                continue;
            }
            let (name, given) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_string())),
                _ => (argument.as_str(), None),
            };
            let mut value = || {
                let value = given.clone().or_else(|| arguments.next());
                value.ok_or_else(|| Failure::usage(format!("{name} needs a value")))
            };
            match name {
                "-h" | "--help" => options.help = true,
                "-V" | "--version" => options.version = true,
                "-c" | "--config" => options.config = Some(value()?.into()),
                "-s" | "--socket" => options.socket = Some(value()?.into()),
                "-t" | "--timeout" => options.limit = Some(seconds(&value()?)?),
                _ => return Err(Failure::usage(format!("unknown option {argument}"))),
            }
        }
        Ok(options)
    }

    pub fn names_a_proxy(&self) -> bool {
        self.config.is_some() || self.socket.is_some()
    }

    pub fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// Where the proxy takes commands.
    pub fn socket(&self) -> Result<PathBuf, Failure> {
        match (&self.socket, &self.config) {
            (Some(socket), _) => Ok(socket.clone()),
            (None, Some(file)) => socket_of(file),
            (None, None) => Err(Failure::usage(
                "which proxy? -c FILE or -s SOCKET comes first",
            )),
        }
    }

    /// The time limits of listeners that say none: those of the configuration, if it is right.
    pub fn timeouts(&self) -> Result<Timeouts, Failure> {
        let loaded = self.config().and_then(|file| config::load(file).ok());
        if let Some((config, _)) = loaded {
            return Ok(config.settings.timeouts);
        }
        let defaults = Settings::decode("settings").map_err(|e| Failure::usage(e.what))?;
        Ok(defaults.timeouts)
    }
}

fn seconds(text: &str) -> Result<Duration, Failure> {
    let time = text.parse().ok().map(Duration::try_from_secs_f64);
    match time {
        Some(Ok(time)) if !time.is_zero() => Ok(time),
        _ => {
            let what = format!("-t takes seconds, more than 0, not {text:?}");
            Err(Failure::usage(what))
        }
    }
}

/// The control socket that a configuration names. Nothing else of it has to be
/// right: a running proxy is steered whatever became of its file.
fn socket_of(file: &Path) -> Result<PathBuf, Failure> {
    let shown = file.display();
    let read = fs::read_to_string(file);
    let text = read.map_err(|e| Failure::usage(format!("{shown} cannot be read: {e}")))?;
    let root = toml::parse(&text).map_err(|error| {
        let toml::Error {
            line, column, what, ..
        } = error;
        Failure::usage(format!("{shown}:{line}:{column}: {what}"))
    })?;
    let name = match root.get("command_socket").map(|item| &item.value) {
        Some(Value::Text(name)) => name.as_str(),
        Some(other) => {
            let kind = other.kind();
            let what = format!("{shown}: command_socket is {kind}, not a string");
            return Err(Failure::usage(what));
        }
        None => default_socket(),
    };
    Ok(file.parent().unwrap_or(Path::new("")).join(name))
}

fn default_socket() -> &'static str {
    let key = GLOBAL.iter().find(|key| key.name == "command_socket");
    match key.map(|key| key.default) {
        Some(Default::Is(name)) => name,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Options, String> {
        let words = words.split(' ').map(str::to_string);
        Options::read(words).map_err(|failure| failure.text)
    }

    #[test]
    fn options_come_first() {
        let options = read("-s sock -t 1.5 status --json -x --config").expect("options");
        assert_eq!(options.socket, Some("sock".into()));
        assert_eq!(options.limit, Some(Duration::from_millis(1500)));
        assert!(options.json);
        assert_eq!(options.words, ["status", "-x", "--config"]);
        let options = read("--config=a=b --timeout=2 x").expect("options");
        assert_eq!(options.config(), Some(Path::new("a=b")));
        for (words, wanted) in [
            ("-s", "needs a value"),
            ("-t 0 status", "more than 0"),
            ("-t inf status", "more than 0"),
            ("-t -1 status", "more than 0"),
            ("-t soon status", "seconds"),
            ("--sock x status", "unknown option --sock"),
        ] {
            let what = read(words).expect_err(words);
            assert!(what.contains(wanted), "{words}: {what}");
        }
    }
}
