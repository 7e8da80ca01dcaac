//! A strict subset of TOML 1.0.
//!
//! Owns: the form of the configuration file. What is accepted means what TOML
//! 1.0 says; floats, dates and times are refused, never misread. A byte order
//! mark at the start is skipped: it can mean nothing else. Reading is linear in
//! the length of the text, and nesting is bounded. Called by `config::read`.
//!
//! `scan` reads strings, numbers and keys; `table` knows which table may be
//! opened and which key may be set; here is what stands between them.

mod scan;
mod table;

pub use table::Table;

use crate::limits::{CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX};
use scan::Scanner;
use table::{Made, Name};

/// A value and where it stands. Positions are byte offsets: `locate` turns one
/// into line and column, which only messages need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Where its key starts; of an element of an array, where the element does.
    pub key_at: usize,
    pub at: usize,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Bool(bool),
    Array(Array),
    Table(Table),
}

impl Value {
    /// What a message calls it.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Bool(_) => "a boolean",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    pub items: Vec<Item>,
    /// Whether it was made by `[[name]]`, which alone may add to it.
    by_headers: bool,
}

/// Why the text is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub at: usize,
    /// From 1, in lines and in characters.
    pub line: usize,
    pub column: usize,
    pub what: String,
}

/// An error before its position is counted out.
struct Fault {
    at: usize,
    what: String,
}

fn fault<T>(at: usize, what: impl Into<String>) -> Result<T, Fault> {
    let what = what.into();
    Err(Fault { at, what })
}

/// The table that the text is.
pub fn parse(text: &str) -> Result<Table, Error> {
    let mut root = Table::new(Made::Header);
    let fault = match text.len() > CONFIG_BYTES_MAX {
        true => Fault {
            at: 0,
            what: format!("the file is longer than {CONFIG_BYTES_MAX} bytes"),
        },
        false => match document(&mut Scanner::new(text), &mut root) {
            Ok(()) => return Ok(root),
            Err(fault) => fault,
        },
    };
    let (line, column) = locate(text, fault.at);
    let Fault { at, what } = fault;
    Err(Error {
        at,
        line,
        column,
        what,
    })
}

/// The line and column of an offset, both from 1, in characters.
pub fn locate(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let before = before.strip_prefix(scan::BYTE_ORDER_MARK).unwrap_or(before);
    let line = before.bytes().filter(|byte| *byte == b'\n').count();
    let last = before.rsplit('\n').next().unwrap_or_default();
    (line + 1, last.chars().count() + 1)
}

fn document(scanner: &mut Scanner, root: &mut Table) -> Result<(), Fault> {
    pairs(scanner, root)?;
    while scanner.take("[") {
        let of_array = scanner.take("[");
        let names = scanner.names()?;
        scanner.expect(if of_array { "]]" } else { "]" })?;
        scanner.end_of_line()?;
        let table = root.open(names, of_array)?;
        pairs(scanner, table)?;
    }
    Ok(())
}

/// All up to the next header or the end.
fn pairs(scanner: &mut Scanner, table: &mut Table) -> Result<(), Fault> {
    loop {
        scanner.skip_lines()?;
        if matches!(scanner.peek(), None | Some('[')) {
            return Ok(());
        }
        pair(scanner, table, 0)?;
        scanner.end_of_line()?;
    }
}

fn pair(scanner: &mut Scanner, table: &mut Table, depth: usize) -> Result<(), Fault> {
    let names: Vec<Name> = scanner.names()?;
    scanner.expect("=")?;
    scanner.skip_blanks();
    let at = scanner.at;
    let value = value(scanner, depth + names.len())?;
    table.set(names, at, value)
}

fn value(scanner: &mut Scanner, depth: usize) -> Result<Value, Fault> {
    if depth > CONFIG_DEPTH_MAX {
        return fault(scanner.at, format!("nested deeper than {CONFIG_DEPTH_MAX}"));
    }
    match scanner.peek() {
        Some('"' | '\'') => scanner.string().map(Value::Text),
        Some('[') => array(scanner, depth).map(Value::Array),
        Some('{') => inline_table(scanner, depth).map(Value::Table),
        _ => scanner.scalar(),
    }
}

fn array(scanner: &mut Scanner, depth: usize) -> Result<Array, Fault> {
    scanner.expect("[")?;
    let mut items = Vec::new();
    loop {
        scanner.skip_lines()?;
        if scanner.take("]") {
            break;
        }
        let at = scanner.at;
        let value = value(scanner, depth + 1)?;
        items.push(Item {
            key_at: at,
            at,
            value,
        });
        scanner.skip_lines()?;
        if !scanner.take(",") {
            scanner.expect("]")?;
            break;
        }
    }
    Ok(Array {
        items,
        by_headers: false,
    })
}

/// On one line, without a comma at the end: TOML 1.0 has it so.
fn inline_table(scanner: &mut Scanner, depth: usize) -> Result<Table, Fault> {
    scanner.expect("{")?;
    let mut table = Table::new(Made::Inline);
    scanner.skip_blanks();
    if scanner.take("}") {
        return Ok(table);
    }
    loop {
        pair(scanner, &mut table, depth)?;
        scanner.skip_blanks();
        if !scanner.take(",") {
            scanner.expect("}")?;
            return Ok(table);
        }
        scanner.skip_blanks();
    }
}

#[cfg(test)]
mod tests;
