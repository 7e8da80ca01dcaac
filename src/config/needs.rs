//! Keys that do nothing without another one: who gives one is told so.
//!
//! Owns: the sentence. Which keys these are stands in their table (`keys`).
//! A value that holds anyway, given or not, says nothing and harms nobody.

use super::fields::{fault, of_text, Fault, Fields, Value};
use super::keys::{Default, Key};
use std::fmt;

/// That another key has one of these values; if there are none, any at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    pub key: &'static str,
    pub values: &'static [&'static str],
}

impl fmt::Display for Need {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(self.key)?;
        match self.values {
            [] => Ok(()),
            values => write!(out, " = {}", values.join(" or ")),
        }
    }
}

/// Those of `keys` that are given and do nothing.
pub fn idle<'f>(
    fields: &'f Fields,
    keys: &'static [Key],
) -> impl Iterator<Item = &'static Key> + 'f {
    keys.iter().filter(move |key| {
        let given = fields.get(key.name).is_some_and(|it| !is_default(key, it));
        given && key.needs.is_some_and(|need| !is_met(need, fields, keys))
    })
}

/// Refuses the first of `keys` that does nothing, and names those that do nothing with it.
pub fn check(fields: &Fields, keys: &'static [Key]) -> Result<(), Fault> {
    let mut idle = idle(fields, keys);
    let Some((first, need)) = idle.next().and_then(|key| Some((key, key.needs?))) else {
        return Ok(());
    };
    let others: Vec<&str> = idle
        .filter(|key| key.needs == Some(need))
        .map(|key| key.name)
        .collect();
    let what = match others.is_empty() {
        true => format!("does nothing without {need}: leave it out, or unset it"),
        false => format!(
            "does nothing without {need}, nor does {}: leave them out, or unset them",
            others.join(", ")
        ),
    };
    Err(fault(first.name, what))
}

fn is_default(key: &Key, value: &Value) -> bool {
    matches!(key.default, Default::Is(text) if of_text(key.kind, text).as_ref() == Ok(value))
}

fn is_met(need: Need, fields: &Fields, keys: &'static [Key]) -> bool {
    let Some(key) = keys.iter().find(|key| key.name == need.key) else {
        return false;
    };
    let given = fields.get(key.name).cloned();
    let value = given.or_else(|| match key.default {
        Default::Is(text) => of_text(key.kind, text).ok(),
        _ => None,
    });
    let is = |text: &&str| of_text(key.kind, text).ok() == value;
    value.is_some() && (need.values.is_empty() || need.values.iter().any(is))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::{BACKEND, CLUSTER, FRONTEND, GLOBAL, LISTENER};

    const TABLES: [&[Key]; 5] = [GLOBAL, LISTENER, CLUSTER, FRONTEND, BACKEND];

    #[test]
    fn what_is_needed_is_there() {
        for keys in TABLES {
            for need in keys.iter().filter_map(|key| key.needs) {
                let needed = keys.iter().find(|key| key.name == need.key);
                let kind = needed.expect(need.key).kind;
                for value in need.values {
                    of_text(kind, value).expect(value);
                }
            }
        }
    }

    #[test]
    fn all_that_does_nothing_is_told_at_once() {
        for (given, told) in [
            (&[("hash_on", "path")][..], "hash_on: does nothing without load_balancing = hash: leave it out, or unset it"),
            (
                &[("health_check", "tcp"), ("health_body", "x"), ("health_path", "/x"), ("health_rise", "9")],
                "health_path: does nothing without health_check = http, nor does health_body: leave them out, or unset them",
            ),
            (&[("health_rise", "9")], "health_rise: does nothing without health_check = tcp or http: leave it out, or unset it"),
            (&[("request_burst", "9")], "request_burst: does nothing without request_rate: leave it out, or unset it"),
            (&[("hash_on", "path"), ("load_balancing", "HASH")], ""),
            // The defaults.
            (&[("hash_on", "source"), ("health_path", "/")], ""),
        ] {
            let mut fields = Fields::default();
            for (name, text) in given {
                let key = CLUSTER.iter().find(|key| key.name == *name).expect(name);
                let value = of_text(key.kind, text).expect(text);
                fields.insert(key, value).expect("once");
            }
            let fault = check(&fields, CLUSTER).err();
            let found = fault.map(|fault| fault.to_string()).unwrap_or_default();
            assert_eq!(found, told);
        }
    }
}
