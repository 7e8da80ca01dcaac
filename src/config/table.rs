//! A table of the file to the fields of one object.
//!
//! Owns: which keys a table may have, what to say about others, and where in
//! the file everything stands. `read` knows what the tables mean.

use super::fields::{of_int, of_text, of_texts, Fault, Fields, Value};
use super::foreign::{self, Fate};
use super::keys::{answer_status, nearest, status_of, Default, Key, Kind};
use super::report::{Errors, Report, Warning};
use crate::limits::CONFIG_REPORTS_MAX;
use crate::parser::toml::{self, Item, Table};
use std::io;
use std::path::{Path, PathBuf};

/// Where it is kept from which file a text comes.
const PATHS: [(&str, &str); 6] = [
    ("certificate", "certificate_path"),
    ("certificate_chain", "certificate_chain_path"),
    ("key", "key_path"),
    ("tls_certificate", "tls_certificate_path"),
    ("tls_key", "tls_key_path"),
    ("basic_auth", "basic_auth_path"),
];

/// One sort of table.
pub struct Place {
    pub name: &'static str,
    pub keys: &'static [Key],
    /// Of the file alone.
    pub more: &'static [Key],
    /// Names of the tables that may stand in it.
    pub tables: &'static [&'static str],
}

impl Place {
    fn all(&self) -> impl Iterator<Item = &'static Key> + Clone {
        self.keys.iter().chain(self.more)
    }
}

/// What a table says, before it is a value of its type.
pub struct Object {
    pub fields: Fields,
    at: usize,
    /// Some value was, and is reported: what else would seem wrong may follow from that.
    wrong: bool,
    /// Where the value of a key stands.
    places: Vec<(&'static str, usize)>,
}

impl Object {
    /// Where the key stands, or else the table.
    pub fn place_of(&self, name: &str) -> usize {
        self.place(name).unwrap_or(self.at)
    }

    /// What some of its keys say is about another object; nothing, if none of them is given.
    pub fn split_off(&mut self, names: &[&str]) -> Option<Object> {
        let mut places = self.places.iter();
        let (_, at) = places.find(|(name, _)| names.contains(name))?;
        Some(Object {
            fields: self.fields.split_off(names),
            at: *at,
            wrong: self.wrong,
            places: self.places.clone(),
        })
    }

    fn place(&self, name: &str) -> Option<usize> {
        let mut places = self.places.iter();
        let place = places.find(|(known, _)| *known == name);
        place.map(|(_, at)| *at)
    }
}

pub struct Reader<'a> {
    text: &'a str,
    name: &'a str,
    folder: &'a Path,
    file: &'a mut dyn FnMut(&Path) -> io::Result<String>,
    /// With their offsets, by which they are sorted at the end.
    errors: Vec<(usize, String)>,
    warnings: Vec<(usize, String)>,
}

impl<'a> Reader<'a> {
    pub fn new(
        text: &'a str,
        name: &'a str,
        folder: &'a Path,
        file: &'a mut dyn FnMut(&Path) -> io::Result<String>,
    ) -> Reader<'a> {
        Reader {
            text,
            name,
            folder,
            file,
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// A value of an object is wrong.
    fn wrong(&mut self, object: &mut Object, at: usize, what: String) {
        object.wrong = true;
        self.error(at, what);
    }

    pub fn error(&mut self, at: usize, what: String) {
        if self.errors.len() < CONFIG_REPORTS_MAX {
            self.errors.push((at, what));
        }
    }

    /// The warnings, or the errors if there is one.
    pub fn finish(self) -> Result<Vec<Warning>, Errors> {
        let Reader { text, name, .. } = self;
        let reports = |mut found: Vec<(usize, String)>| -> Vec<Report> {
            found.sort();
            let found = found.into_iter();
            found
                .map(|(at, what)| Report::new(name, text, at, what))
                .collect()
        };
        match self.errors.is_empty() {
            true => Ok(reports(self.warnings)),
            false => Err(Errors(reports(self.errors))),
        }
    }

    /// The keys of a table.
    pub fn object(&mut self, place: &Place, table: &Table, at: usize) -> Object {
        let mut object = Object {
            fields: Fields::default(),
            at,
            wrong: false,
            places: Vec::new(),
        };
        for (name, item) in table.iter() {
            if place.tables.contains(&name) {
                continue;
            }
            let mut keys = place.all();
            let answers = || place.keys.iter().any(|key| key.kind == Kind::Answers);
            if let Some(key) = keys.find(|key| key.is(name) && !is_implied(key)) {
                self.key(&mut object, key, name, item);
            } else if let Some(status) = answer_status(name).filter(|_| answers()) {
                self.answer(&mut object, status, item);
            } else {
                self.no_key(&mut object, place, name, item);
            }
        }
        self.default_files(&mut object, place);
        object
    }

    /// A default path is relative to the folder as well.
    fn default_files(&mut self, object: &mut Object, place: &Place) {
        for key in place.keys.iter().filter(|key| key.kind == Kind::File) {
            let Default::Is(path) = key.default else {
                continue;
            };
            if object.place(key.name).is_none() {
                match self.resolve(key.kind, path.to_string()) {
                    Ok(path) => object.fields.set(key.name, Value::Text(path)),
                    Err(what) => self.wrong(object, object.at, format!("{}: {what}", key.name)),
                }
            }
        }
    }

    /// Sets a key by what stands around the table.
    pub fn implied(&mut self, object: &mut Object, name: &'static str, text: &str) {
        object.places.push((name, object.at));
        match of_text(Kind::Name, text) {
            Ok(value) => object.fields.set(name, value),
            Err(what) => self.wrong(object, object.at, format!("{name}: {what}")),
        }
    }

    /// The object of its type; nothing if it has an error.
    pub fn build<T>(
        &mut self,
        mut object: Object,
        from: impl FnOnce(Fields) -> Result<T, Fault>,
    ) -> Option<T> {
        let fields = std::mem::take(&mut object.fields);
        match from(fields) {
            Ok(built) => Some(built),
            Err(fault) => {
                // A value that was wrong is missing now.
                let true_one = match fault.missing {
                    true => object.place(fault.key).is_none(),
                    false => !object.wrong,
                };
                if true_one {
                    self.error(object.place_of(fault.key), fault.to_string());
                }
                None
            }
        }
    }

    /// The elements of an array of tables.
    pub fn tables<'t>(&mut self, item: &'t Item) -> Vec<(&'t Table, usize)> {
        let toml::Value::Array(array) = &item.value else {
            let what = format!("expected an array of tables, found {}", item.value.kind());
            self.error(item.at, what);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for item in &array.items {
            match &item.value {
                toml::Value::Table(table) => tables.push((table, item.at)),
                other => self.error(item.at, format!("expected tables, found {}", other.kind())),
            }
        }
        tables
    }

    /// The tables in a table, by name.
    pub fn named_tables<'t>(&mut self, item: &'t Item) -> Vec<(&'t str, &'t Table, usize)> {
        let toml::Value::Table(table) = &item.value else {
            let what = format!("expected a table of tables, found {}", item.value.kind());
            self.error(item.at, what);
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (name, item) in table.iter() {
            match &item.value {
                toml::Value::Table(table) => tables.push((name, table, item.key_at)),
                other => self.error(item.at, format!("expected tables, found {}", other.kind())),
            }
        }
        tables
    }

    fn key(&mut self, object: &mut Object, key: &'static Key, name: &str, item: &Item) {
        object.places.push((key.name, item.at));
        match key.kind {
            Kind::Answers => return self.answers(object, item),
            Kind::Pem | Kind::Users | Kind::Body => return self.text(object, key, item),
            _ => {}
        }
        let value = self.value(key.kind, &item.value);
        let value = value.and_then(|value| match object.fields.insert(key, value) {
            Ok(()) => Ok(()),
            Err(fault) => Err(fault.what),
        });
        if let Err(what) = value {
            self.wrong(object, item.at, format!("{name}: {what}"));
        }
    }

    fn value(&mut self, kind: Kind, value: &toml::Value) -> Result<Value, String> {
        match (kind, value) {
            (Kind::Bool, toml::Value::Bool(value)) => Ok(Value::Bool(*value)),
            (Kind::Int { .. } | Kind::Seconds, toml::Value::Integer(number)) => {
                of_int(kind, *number)
            }
            (
                Kind::Ranges | Kind::Names | Kind::Versions | Kind::Ciphers | Kind::Edits,
                toml::Value::Array(array),
            ) => {
                let texts = array.items.iter().map(|item| match &item.value {
                    toml::Value::Text(text) => Ok(text.as_str()),
                    other => Err(format!("expected strings, found {}", other.kind())),
                });
                let texts: Result<Vec<&str>, String> = texts.collect();
                of_texts(kind, texts?.into_iter())
            }
            (
                Kind::Bool
                | Kind::Int { .. }
                | Kind::Seconds
                | Kind::Ranges
                | Kind::Names
                | Kind::Versions
                | Kind::Edits,
                other,
            ) => Err(format!(
                "expected {}, found {}",
                kind.describe(),
                other.kind()
            )),
            (Kind::File | Kind::Target, toml::Value::Text(text)) => match of_text(kind, text)? {
                Value::Text(path) => self.resolve(kind, path).map(Value::Text),
                other => Ok(other),
            },
            // One of several words may look like something else: true, 301.
            (Kind::Choice(_), toml::Value::Bool(value)) => of_text(kind, &value.to_string()),
            (Kind::Choice(_), toml::Value::Integer(value)) => of_text(kind, &value.to_string()),
            (_, toml::Value::Text(text)) => of_text(kind, text),
            (_, other) => Err(format!("expected a string, found {}", other.kind())),
        }
    }

    /// A path from the file's folder on; the words of a target stay as they are.
    fn resolve(&self, kind: Kind, path: String) -> Result<String, String> {
        if kind == Kind::Target && ["stdout", "stderr", "none"].contains(&path.as_str()) {
            return Ok(path);
        }
        match self.folder.join(path).into_os_string().into_string() {
            Ok(path) => of_text(Kind::File, &path).map(|_| path),
            Err(path) => Err(format!("the path {path:?} is not UTF-8")),
        }
    }

    /// `answers = { "404" = "file.html" }`
    fn answers(&mut self, object: &mut Object, item: &Item) {
        let toml::Value::Table(table) = &item.value else {
            let what = format!(
                "answers: expected a table of files by status, found {}",
                item.value.kind()
            );
            return self.wrong(object, item.at, what);
        };
        for (name, item) in table.iter() {
            match status_of(name) {
                Some(status) => self.answer(object, status, item),
                None => {
                    let what = format!("answers: {name:?} is no status that we answer with");
                    self.wrong(object, item.key_at, what);
                }
            }
        }
    }

    fn answer(&mut self, object: &mut Object, status: u16, item: &Item) {
        let body = match &item.value {
            toml::Value::Text(path) => self.named_file(path),
            other => Err(format!(
                "expected the path of a file, found {}",
                other.kind()
            )),
        };
        let inserted = body.and_then(|body| {
            let inserted = object.fields.insert_answer(status, body);
            inserted.map_err(|fault| fault.what)
        });
        if let Err(what) = inserted {
            self.wrong(object, item.at, format!("answer {status}: {what}"));
        }
    }

    /// The text of a file, and where it was read.
    fn text(&mut self, object: &mut Object, key: &'static Key, item: &Item) {
        let read = match &item.value {
            toml::Value::Text(path) => self.text_file(key.kind, path),
            other => Err(format!(
                "expected the path of a file, found {}",
                other.kind()
            )),
        };
        let kept = read.and_then(|(path, text)| {
            object
                .fields
                .insert(key, text)
                .map_err(|fault| fault.what)?;
            if let Some((_, name)) = PATHS.iter().find(|(name, _)| *name == key.name) {
                object.fields.set(name, Value::Text(path));
            }
            Ok(())
        });
        if let Err(what) = kept {
            self.wrong(object, item.at, format!("{}: {what}", key.name));
        }
    }

    fn text_file(&mut self, kind: Kind, path: &str) -> Result<(String, Value), String> {
        let path = self.resolve(Kind::File, path.to_string())?;
        let read = (self.file)(Path::new(&path));
        let text = read.map_err(|error| format!("{path} cannot be read: {error}"))?;
        let text = of_text(kind, &text).map_err(|what| format!("{path} {what}"))?;
        Ok((path, text))
    }

    /// The text of a file that is named in place of it.
    fn named_file(&mut self, path: &str) -> Result<String, String> {
        of_text(Kind::File, path)?;
        let path: PathBuf = self.folder.join(path);
        let read = (self.file)(&path);
        read.map_err(|error| format!("{} cannot be read: {error}", path.display()))
    }

    fn no_key(&mut self, object: &mut Object, place: &Place, name: &str, item: &Item) {
        let at = item.key_at;
        match foreign::find(place.name, name) {
            Some(foreign) if foreign.fate == Fate::Ignored => {
                if self.warnings.len() < CONFIG_REPORTS_MAX {
                    let what = format!("{name} has no effect here. {}", foreign.sentence);
                    self.warnings.push((at, what));
                }
            }
            Some(_) if item.value == toml::Value::Bool(false) => {}
            Some(foreign) => self.wrong(object, at, format!("{name}: {}", foreign.sentence)),
            None => {
                let keys = place.all().filter(|key| !is_implied(key));
                let names = keys.map(|key| key.name).chain(place.tables.iter().copied());
                let hint = match nearest(name, names) {
                    Some(near) => format!(": did you mean {near}?"),
                    None => String::new(),
                };
                let shown: String = name.chars().take(64).collect();
                self.wrong(object, at, format!("unknown key {shown:?}{hint}"));
            }
        }
    }
}

fn is_implied(key: &Key) -> bool {
    matches!(key.default, Default::Implied(_) | Default::InCommand)
}
