//! One object as a set of checked values, between text and its type.
//!
//! Owns: what a text must look like to be a value of a `Kind`. Never: where the
//! text came from. `proto::command` and `config::read` fill it, `config::object`
//! takes it apart.

use super::certificate::{check_pem, cipher_names, version_name};
use super::keys::{Default, Key, Kind};
use super::needs;
use crate::limits::{ANSWER_BYTES_MAX, FILE_PATH_BYTES_MAX, METHOD_BYTES_MAX, NAME_BYTES_MAX};
use crate::limits::{LIST_MAX, LOG_LEVELS_BYTES_MAX, REQUEST_LINE_BYTES_MAX, TIMEOUT_SECONDS_MAX};
use crate::limits::{TARGET_BYTES_MAX, TEXT_CHARS_MAX};
use crate::parser::host;
use crate::state::{
    check_path, no_port, Address, Cidr, Edits, HostRule, Part, Statuses, Template, Timeouts, Users,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Int(u32),
    Text(String),
    Address(SocketAddr),
    Server(Address),
    Ip(IpAddr),
    Host(HostRule),
    Ranges(Vec<Cidr>),
    Names(Vec<String>),
    Answers(BTreeMap<u16, String>),
}

/// A key whose value is wrong or missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub key: &'static str,
    pub what: String,
    /// It is missing, not wrong.
    pub missing: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}: {}", self.key, self.what)
    }
}

/// Values by the name of their key.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    values: Vec<(&'static str, Value)>,
}

impl Fields {
    /// Refuses a key that is there already.
    pub fn insert(&mut self, key: &'static Key, value: Value) -> Result<(), Fault> {
        if self.contains(key.name) {
            return Err(fault(key.name, "is given twice"));
        }
        self.values.push((key.name, value));
        Ok(())
    }

    /// For what is not there yet.
    pub fn set(&mut self, name: &'static str, value: Value) {
        self.values.push((name, value));
    }

    /// One own answer; refuses a status that is there already.
    pub fn insert_answer(&mut self, status: u16, body: String) -> Result<(), Fault> {
        let body = check_answer(body).map_err(|what| fault("answers", what))?;
        if !self.contains("answers") {
            self.values
                .push(("answers", Value::Answers(BTreeMap::new())));
        }
        for (_, value) in &mut self.values {
            if let Value::Answers(answers) = value {
                if answers.insert(status, body).is_some() {
                    return Err(fault("answers", format!("{status} is given twice")));
                }
                break;
            }
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub fn get(&self, name: &str) -> Option<&Value> {
        let mut values = self.values.iter();
        values
            .find(|(known, _)| *known == name)
            .map(|(_, value)| value)
    }

    /// The values of some keys, which are not here any more.
    pub fn split_off(&mut self, names: &[&str]) -> Fields {
        let is_one = |name: &str| names.contains(&name);
        let all = std::mem::take(&mut self.values).into_iter();
        let (taken, left) = all.partition(|(name, _)| is_one(name));
        self.values = left;
        Fields { values: taken }
    }

    /// Adds the defaults of `keys`; refuses what does nothing.
    pub fn complete(&mut self, keys: &'static [Key]) -> Result<(), Fault> {
        needs::check(self, keys)?;
        for key in keys {
            let Default::Is(text) = key.default else {
                continue;
            };
            if !self.contains(key.name) {
                let value = of_text(key.kind, text).map_err(|what| fault(key.name, what))?;
                self.values.push((key.name, value));
            }
        }
        Ok(())
    }

    /// Adds the global time limits where a listener has none of its own.
    pub fn complete_timeouts(&mut self, global: &Timeouts) {
        for (name, seconds) in [
            ("front_timeout", global.front),
            ("back_timeout", global.back),
            ("connect_timeout", global.connect),
            ("request_timeout", global.request),
            ("keepalive_timeout", global.keepalive),
            ("tunnel_timeout", global.tunnel),
        ] {
            if !self.contains(name) {
                self.values.push((name, Value::Int(seconds)));
            }
        }
    }

    pub fn bool(&mut self, name: &'static str) -> Result<bool, Fault> {
        match self.take(name) {
            Some(Value::Bool(value)) => Ok(value),
            _ => Err(missing(name)),
        }
    }

    pub fn bool_or(&mut self, name: &'static str, default: bool) -> bool {
        self.bool(name).unwrap_or(default)
    }

    pub fn int(&mut self, name: &'static str) -> Result<u32, Fault> {
        self.int_or_none(name).ok_or_else(|| missing(name))
    }

    pub fn int_or_none(&mut self, name: &'static str) -> Option<u32> {
        match self.take(name) {
            Some(Value::Int(value)) => Some(value),
            _ => None,
        }
    }

    pub fn text(&mut self, name: &'static str) -> Result<String, Fault> {
        self.text_or_none(name).ok_or_else(|| missing(name))
    }

    pub fn text_or_none(&mut self, name: &'static str) -> Option<String> {
        match self.take(name) {
            Some(Value::Text(value)) => Some(value),
            _ => None,
        }
    }

    pub fn address(&mut self, name: &'static str) -> Result<SocketAddr, Fault> {
        match self.take(name) {
            Some(Value::Address(value)) => Ok(value),
            _ => Err(missing(name)),
        }
    }

    pub fn server(&mut self, name: &'static str) -> Result<Address, Fault> {
        match self.take(name) {
            Some(Value::Server(value)) => Ok(value),
            _ => Err(missing(name)),
        }
    }

    pub fn ip_or_none(&mut self, name: &'static str) -> Option<IpAddr> {
        match self.take(name) {
            Some(Value::Ip(value)) => Some(value),
            _ => None,
        }
    }

    pub fn host(&mut self, name: &'static str) -> Result<HostRule, Fault> {
        match self.take(name) {
            Some(Value::Host(value)) => Ok(value),
            _ => Err(missing(name)),
        }
    }

    pub fn host_or_none(&mut self, name: &'static str) -> Option<HostRule> {
        match self.take(name) {
            Some(Value::Host(value)) => Some(value),
            _ => None,
        }
    }

    pub fn ranges(&mut self, name: &'static str) -> Vec<Cidr> {
        match self.take(name) {
            Some(Value::Ranges(value)) => value,
            _ => Vec::new(),
        }
    }

    pub fn names(&mut self, name: &'static str) -> Vec<String> {
        match self.take(name) {
            Some(Value::Names(value)) => value,
            _ => Vec::new(),
        }
    }

    pub fn answers(&mut self) -> BTreeMap<u16, String> {
        match self.take("answers") {
            Some(Value::Answers(value)) => value,
            _ => BTreeMap::new(),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.values.iter().position(|(known, _)| *known == name)?;
        Some(self.values.swap_remove(at).1)
    }
}

pub fn fault(key: &'static str, what: impl Into<String>) -> Fault {
    Fault {
        key,
        what: what.into(),
        missing: false,
    }
}

pub fn missing(key: &'static str) -> Fault {
    Fault {
        missing: true,
        ..fault(key, "is missing")
    }
}

/// A value from the text of a command, or from a string of the file.
pub fn of_text(kind: Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Bool => match text {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ => Err(format!("{text:?} is neither true nor false")),
        },
        Kind::Int { .. } | Kind::Seconds => {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|_| digits);
            let number = number.ok_or_else(|| format!("{text:?} is not a whole number"))?;
            of_int(kind, number)
        }
        Kind::Name => check_name(text).map(Value::Text),
        Kind::Address => address(text).map(Value::Address),
        Kind::Server => text.parse().map(Value::Server),
        Kind::Ip => ip(text).map(Value::Ip),
        Kind::Url => check_url(text).map(Value::Text),
        Kind::Hostname => HostRule::parse(text).map(Value::Host),
        Kind::Path => check_path(text).map(|()| Value::Text(text.into())),
        Kind::Target => check_target(text).map(Value::Text),
        Kind::Method => check_method(text).map(Value::Text),
        Kind::Statuses => Statuses::parse(text).map(|it| Value::Text(it.to_string())),
        Kind::Text => check_text(text).map(Value::Text),
        Kind::Choice(words) => choice(words, text).map(Value::Text),
        Kind::Ranges | Kind::Names | Kind::Versions => of_texts(kind, text.split(',')),
        Kind::Ciphers => cipher_names(std::iter::once(text)),
        Kind::Pem => check_pem(text).map(Value::Text),
        Kind::Users => Users::parse(text).map(|users| Value::Text(users.text().into())),
        Kind::Body => check_answer(text.into()).map(Value::Text),
        Kind::Redirect => Template::parse(text).map(|to| Value::Text(to.to_string())),
        Kind::Answer => check_status(text).map(Value::Text),
        Kind::Authority => authority(text).map(Value::Text),
        Kind::Realm => realm(text).map(Value::Text),
        Kind::Edits => of_texts(kind, text.split('\n')),
        Kind::Answers => Err("takes one key per status, like answer_404".into()),
        Kind::File => check_file(text).map(Value::Text),
        Kind::Sink => check_sink(text).map(Value::Text),
        Kind::Levels => check_levels(text).map(Value::Text),
        Kind::Hsts => hsts(text).map(Value::Text),
        Kind::Part => Part::parse(text).map(|part| Value::Text(part.to_string())),
    }
}

/// A value from a number, which must be in the range of its kind.
pub fn of_int(kind: Kind, number: i64) -> Result<Value, String> {
    let (min, max) = match kind {
        Kind::Int { min, max } => (min, max),
        Kind::Seconds => (1, TIMEOUT_SECONDS_MAX),
        _ => return Err("takes no number".into()),
    };
    match u32::try_from(number) {
        Ok(value) if (min..=max).contains(&value) => Ok(Value::Int(value)),
        _ => Err(format!("{number} is not between {min} and {max}")),
    }
}

/// A list of ranges of addresses, or of names, from its elements.
pub fn of_texts<'a>(kind: Kind, texts: impl Iterator<Item = &'a str>) -> Result<Value, String> {
    match kind {
        Kind::Names => list(texts, check_name).map(Value::Names),
        Kind::Versions => match list(texts, version_name)? {
            versions if versions.is_empty() => Err("takes at least one".into()),
            versions => Ok(Value::Names(versions)),
        },
        Kind::Ciphers => cipher_names(texts),
        Kind::Edits => {
            let text = texts.collect::<Vec<&str>>().join("\n");
            Edits::parse(&text).map(|edits| Value::Text(edits.to_string()))
        }
        _ => list(texts, Cidr::parse).map(Value::Ranges),
    }
}

/// The order means nothing, so that two lists of the same elements are equal.
fn list<'a, T: Ord>(
    texts: impl Iterator<Item = &'a str>,
    element: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let elements: Result<Vec<T>, String> = texts.take(LIST_MAX + 1).map(element).collect();
    let mut elements = elements?;
    if elements.len() > LIST_MAX {
        return Err(format!("there are more than {LIST_MAX}"));
    }
    elements.sort();
    elements.dedup();
    Ok(elements)
}

/// RFC 6797 section 6.1, written in one way.
fn hsts(text: &str) -> Result<String, String> {
    let (mut age, mut subdomains, mut preload) = (None, "", "");
    for word in text.split(';').map(str::trim) {
        let word = word.to_ascii_lowercase();
        match (word.as_str(), word.strip_prefix("max-age=")) {
            (_, Some(seconds)) if age.is_none() => age = seconds.parse::<u32>().ok(),
            ("includesubdomains", _) => subdomains = "; includeSubDomains",
            ("preload", _) => preload = "; preload",
            _ => return Err(format!("{text:?} has a part that is not known: {word:?}")),
        }
    }
    match age {
        Some(seconds) => Ok(format!("max-age={seconds}{subdomains}{preload}")),
        None => Err(format!("{text:?} has no max-age=SECONDS")),
    }
}

/// The status of an answer, and a text if one stands behind it.
fn check_status(text: &str) -> Result<String, String> {
    let status = text.split(' ').next().unwrap_or_default();
    let good = match status.parse::<u16>() {
        // These say nothing without fields that are not there.
        Ok(205 | 206 | 401 | 405 | 407 | 416 | 426) => false,
        Ok(200..=299 | 400..=599) => status.len() == 3,
        _ => false,
    };
    match good {
        true => Ok(text.to_string()),
        false => Err("begins with no status from 200 to 599 that says all by itself: for 3xx there is redirect, for 401 basic_auth".into()),
    }
}

/// A host, with its port if that is another one than usual.
fn authority(text: &str) -> Result<String, String> {
    match host::parse(text.as_bytes()) {
        Ok(_) => Ok(text.to_string()),
        Err(what) => Err(format!("{text:?} is not a host, or host:port: {what}")),
    }
}

/// What stands between quotes in a head.
fn realm(text: &str) -> Result<String, String> {
    let plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !b"\"\\".contains(&byte);
    match !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.bytes().all(plain) {
        true => Ok(text.to_string()),
        false => Err(format!(
            "has 1 to {NAME_BYTES_MAX} ASCII characters without quotes and backslashes"
        )),
    }
}

fn check_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > NAME_BYTES_MAX {
        return Err(format!("a name has 1 to {NAME_BYTES_MAX} characters"));
    }
    // These alone are always bare words of the control language.
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
    if !text.bytes().all(plain) {
        return Err(format!(
            "{text:?} is not ASCII without spaces, quotes and backslashes"
        ));
    }
    Ok(text.to_string())
}

fn address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() == 0 => Err(no_port(text)),
        Ok(address) => Ok(address),
        Err(_) => Err(format!(
            "{text:?} is not an address like 127.0.0.1:8080 or [::1]:8080"
        )),
    }
}

fn ip(text: &str) -> Result<IpAddr, String> {
    let wrong = || format!("{text:?} is not an IP address like 192.0.2.7 or ::1, without a port");
    text.parse().map_err(|_| wrong())
}

/// Its parts are looked at by whoever asks with it.
fn check_url(text: &str) -> Result<String, String> {
    if text.len() > REQUEST_LINE_BYTES_MAX {
        return Err(format!("a URL has at most {REQUEST_LINE_BYTES_MAX} bytes"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "{text:?} is not ASCII without spaces: write other bytes as %xx"
        ));
    }
    let starts = |scheme: &str| {
        let start = text.get(..scheme.len()).unwrap_or_default();
        start.eq_ignore_ascii_case(scheme)
    };
    match starts("http://") || starts("https://") {
        true => Ok(text.to_string()),
        false => Err(format!(
            "{text:?} is not a URL like http://www.example.com:8080/a?b"
        )),
    }
}

/// What a request asks for in origin-form (RFC 9112 section 3.2.1).
fn check_target(text: &str) -> Result<String, String> {
    if text.len() > TARGET_BYTES_MAX {
        return Err(format!("it has at most {TARGET_BYTES_MAX} bytes"));
    }
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
    match text.starts_with('/') && text.bytes().all(plain) {
        true => Ok(text.to_string()),
        false => Err(format!(
            "{text:?} is not a path like /health?full=1, in ASCII without spaces and \"#\""
        )),
    }
}

fn check_text(text: &str) -> Result<String, String> {
    let count = text.chars().count();
    if count == 0 || count > TEXT_CHARS_MAX {
        return Err(format!("it has 1 to {TEXT_CHARS_MAX} characters"));
    }
    match text.chars().any(char::is_control) {
        true => Err("it has no control characters".into()),
        false => Ok(text.to_string()),
    }
}

fn check_method(text: &str) -> Result<String, String> {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || text.len() > METHOD_BYTES_MAX || !text.bytes().all(token) {
        return Err(format!("{text:?} is not a method like GET"));
    }
    Ok(text.to_string())
}

fn choice(words: &[(&'static str, &str)], text: &str) -> Result<String, String> {
    if let Some((word, _)) = words
        .iter()
        .find(|(word, other)| [*word, other].contains(&text))
    {
        return Ok(word.to_string());
    }
    // Sōzu's words for what this version does not do.
    if ["https", "regex", "random", "least_loaded", "power_of_two"]
        .contains(&text.to_ascii_lowercase().as_str())
    {
        return Err(format!("{text:?} is not supported by this version"));
    }
    let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    Err(format!("{text:?} is not one of: {}", known.join(", ")))
}

fn check_file(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > FILE_PATH_BYTES_MAX {
        return Err(format!(
            "a path of a file has 1 to {FILE_PATH_BYTES_MAX} bytes"
        ));
    }
    if text.chars().any(char::is_control) {
        return Err("a path of a file has no control characters".into());
    }
    Ok(text.to_string())
}

/// `stdout`, `stderr`, `none`, `file:///path` or a path; gives the path without its scheme.
fn check_sink(text: &str) -> Result<String, String> {
    let path = text.strip_prefix("file://").unwrap_or(text);
    // A scheme stands at the start; in a path from the root `://` is nothing special.
    if !path.starts_with('/') && path.contains("://") {
        return Err(format!(
            "{text:?} is not supported: give stdout, stderr or a file"
        ));
    }
    check_file(path)
}

/// Directives of RUST_LOG: `LEVEL`, `MODULE` or `MODULE=LEVEL`, with commas between.
fn check_levels(text: &str) -> Result<String, String> {
    if text.len() > LOG_LEVELS_BYTES_MAX {
        return Err(format!("levels have at most {LOG_LEVELS_BYTES_MAX} bytes"));
    }
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in text.split(',') {
        let (module, level) = match directive.trim().split_once('=') {
            Some((module, level)) => (module, level.to_ascii_lowercase()),
            None => ("", directive.trim().to_ascii_lowercase()),
        };
        let own = module.is_empty() && level.starts_with("sozu");
        if !own && !levels.contains(&level.as_str()) {
            return Err(format!("{level:?} is not one of: {}", levels.join(", ")));
        }
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
        if !module.bytes().chain(level.bytes()).all(plain) {
            return Err(format!("{directive:?} names no module"));
        }
    }
    Ok(text.to_string())
}

pub(super) fn check_answer(body: String) -> Result<String, String> {
    if body.len() > ANSWER_BYTES_MAX {
        return Err(format!("an answer has at most {ANSWER_BYTES_MAX} bytes"));
    }
    let spacing = ['\n', '\r', '\t'];
    if body
        .chars()
        .any(|c| c.is_control() && !spacing.contains(&c))
    {
        return Err("an answer has no control characters but tabs and line ends".into());
    }
    Ok(body)
}
