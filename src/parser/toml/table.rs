//! Tables, and the rules by which they may be opened and filled.
//!
//! ```text
//! made by     opened by [it]   passed by [it.x]   passed by it.x =
//! Header      no: twice        yes                no
//! Implicit    yes              yes                yes, and is Dotted then
//! Dotted      no: twice        yes                yes
//! Inline      no: closed       no: closed         no: closed
//! ```

use super::{fault, Array, Fault, Item, Value};
use std::collections::btree_map::{self, BTreeMap};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    items: BTreeMap<String, Item>,
    made: Made,
}

/// What made a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    /// `[it]`, or an element made by `[[it]]`.
    Header,
    /// `[it.x]`: it may still be opened.
    Implicit,
    /// `it.x = `
    Dotted,
    /// `{ }`
    Inline,
}

/// One part of a key, and where it stands.
pub(super) struct Name {
    pub text: String,
    pub at: usize,
}

impl Table {
    pub(super) fn new(made: Made) -> Table {
        let items = BTreeMap::new();
        Table { items, made }
    }

    pub fn get(&self, name: &str) -> Option<&Item> {
        self.items.get(name)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Item)> {
        self.items.iter().map(|(name, item)| (name.as_str(), item))
    }

    /// The table of the header `[names]` or `[[names]]`, made if need be.
    pub(super) fn open(
        &mut self,
        mut names: Vec<Name>,
        of_array: bool,
    ) -> Result<&mut Table, Fault> {
        let Some(last) = names.pop() else {
            return fault(0, "a header has a name");
        };
        let mut table = self;
        for name in names {
            table = table.pass(name, Made::Implicit)?;
        }
        match of_array {
            true => table.push(last),
            false => table.define(last),
        }
    }

    /// Sets what `names` say from here on, making tables on the way.
    pub(super) fn set(
        &mut self,
        mut names: Vec<Name>,
        at: usize,
        value: Value,
    ) -> Result<(), Fault> {
        let Some(last) = names.pop() else {
            return fault(at, "a value has a key");
        };
        let mut table = self;
        for name in names {
            table = table.pass(name, Made::Dotted)?;
        }
        let key_at = last.at;
        match table.items.entry(last.text) {
            btree_map::Entry::Occupied(entry) => twice(entry.key(), key_at),
            btree_map::Entry::Vacant(entry) => {
                entry.insert(Item { key_at, at, value });
                Ok(())
            }
        }
    }

    /// The table below, on the way to another one; `by` is how we come.
    fn pass(&mut self, name: Name, by: Made) -> Result<&mut Table, Fault> {
        let Name { text, at } = name;
        let item = match self.items.entry(text) {
            btree_map::Entry::Vacant(entry) => entry.insert(table_item(at, by)),
            btree_map::Entry::Occupied(entry) => {
                if !passable(&entry.get().value, by) {
                    let what =
                        format!("{:?} is set already, and nothing can be added", entry.key());
                    return fault(at, what);
                }
                entry.into_mut()
            }
        };
        match &mut item.value {
            Value::Table(table) => {
                if by == Made::Dotted {
                    table.made = Made::Dotted;
                }
                Ok(table)
            }
            Value::Array(array) => last_table(array, at),
            _ => fault(at, "is not a table"),
        }
    }

    /// `[name]`
    fn define(&mut self, name: Name) -> Result<&mut Table, Fault> {
        let Name { text, at } = name;
        let item = match self.items.entry(text) {
            btree_map::Entry::Vacant(entry) => entry.insert(table_item(at, Made::Header)),
            btree_map::Entry::Occupied(entry) => match &entry.get().value {
                Value::Table(table) if table.made == Made::Implicit => entry.into_mut(),
                _ => return twice(entry.key(), at),
            },
        };
        match &mut item.value {
            Value::Table(table) => {
                table.made = Made::Header;
                Ok(table)
            }
            _ => fault(at, "is not a table"),
        }
    }

    /// `[[name]]`
    fn push(&mut self, name: Name) -> Result<&mut Table, Fault> {
        let Name { text, at } = name;
        let item = match self.items.entry(text) {
            btree_map::Entry::Vacant(entry) => entry.insert(Item {
                key_at: at,
                at,
                value: Value::Array(Array {
                    items: Vec::new(),
                    by_headers: true,
                }),
            }),
            btree_map::Entry::Occupied(entry) => match &entry.get().value {
                Value::Array(array) if array.by_headers => entry.into_mut(),
                _ => return twice(entry.key(), at),
            },
        };
        match &mut item.value {
            Value::Array(array) => {
                array.items.push(table_item(at, Made::Header));
                last_table(array, at)
            }
            _ => fault(at, "is not an array"),
        }
    }
}

fn passable(value: &Value, by: Made) -> bool {
    match value {
        Value::Table(table) if by == Made::Dotted => {
            matches!(table.made, Made::Dotted | Made::Implicit)
        }
        Value::Table(table) => table.made != Made::Inline,
        Value::Array(array) => array.by_headers && by == Made::Implicit,
        _ => false,
    }
}

fn last_table(array: &mut Array, at: usize) -> Result<&mut Table, Fault> {
    match array.items.last_mut().map(|item| &mut item.value) {
        Some(Value::Table(table)) => Ok(table),
        _ => fault(at, "is not an array of tables"),
    }
}

fn table_item(at: usize, made: Made) -> Item {
    Item {
        key_at: at,
        at,
        value: Value::Table(Table::new(made)),
    }
}

fn twice<T>(name: &str, at: usize) -> Result<T, Fault> {
    fault(at, format!("{name:?} is set twice"))
}
