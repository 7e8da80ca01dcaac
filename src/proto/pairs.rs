//! The pairs of a command, key by key: known or not, and their values checked.

use super::table::Row;
use crate::config::fields::{of_text, Fault, Fields};
use crate::config::keys::{self, Key};
use crate::config::object::Words;
use crate::state::{Code, Refused};

/// The seconds of `wait`, and the other pairs; nothing if it is not given, or not taken.
pub(super) fn take_wait(
    row: &Row,
    pairs: &[(String, String)],
) -> Result<Option<(u32, Words)>, Refused> {
    let Some(key) = row.takes().find(|key| key.name == "wait") else {
        return Ok(None);
    };
    let (waits, others): (Words, Words) = pairs.iter().cloned().partition(|(name, _)| key.is(name));
    let mut fields = fields_of(std::iter::once(key), waits, &row.words())?;
    Ok(fields.int_or_none("wait").map(|seconds| (seconds, others)))
}

/// Key=value words as checked values.
pub(super) fn fields_of(
    known: impl Iterator<Item = &'static Key> + Clone,
    pairs: Vec<(String, String)>,
    command: &str,
) -> Result<Fields, Refused> {
    let mut fields = Fields::default();
    for (name, text) in pairs {
        let mut named = known.clone();
        if let Some(status) = keys::answer_status(&name) {
            if named.any(|key| key.name == "answers") {
                let inserted = fields.insert_answer(status, text);
                inserted.map_err(|fault| refused(fault, command))?;
                continue;
            }
        }
        let Some(key) = named.find(|key| key.is(&name)) else {
            return Err(unknown_key(known, &name, command));
        };
        let value = of_text(key.kind, &text)
            .map_err(|what| Refused::new(Code::Invalid, format!("{command}: {name}: {what}")))?;
        fields
            .insert(key, value)
            .map_err(|fault| refused(fault, command))?;
    }
    Ok(fields)
}

fn unknown_key(known: impl Iterator<Item = &'static Key>, name: &str, command: &str) -> Refused {
    let hint = match keys::nearest(name, known.map(|key| key.name)) {
        Some(near) => format!("did you mean {near}?"),
        None => "see help".to_string(),
    };
    Refused::new(
        Code::Unknown,
        format!("{command}: {name:?} is not a key of it: {hint}"),
    )
}

pub(super) fn refused(fault: Fault, command: &str) -> Refused {
    Refused::new(Code::Invalid, format!("{command}: {fault}"))
}
