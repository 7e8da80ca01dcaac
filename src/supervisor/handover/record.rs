//! One line of the hand-over: what it is about, and its values, each taken once.

use std::str::FromStr;

use crate::proto::line::{split, Word};

pub struct Record {
    pub noun: String,
    /// Who does not know it leaves it out.
    optional: bool,
    pairs: Vec<(String, String)>,
}

impl Record {
    pub fn parse(line: &str) -> Result<Record, String> {
        let mut words = split(line)?.into_iter();
        let mut bare = || match words.next() {
            Some(Word::Bare(word)) => Ok(word),
            _ => Err("a line begins with what it is about".to_string()),
        };
        let first = bare()?;
        let optional = first == "optional";
        let noun = if optional { bare()? } else { first };
        let pair = |word| match word {
            Word::Pair { key, value } => Ok((key, value)),
            Word::Bare(_) => Err(format!("{noun}: a value has no key")),
        };
        let pairs = words.map(pair).collect::<Result<_, _>>()?;
        Ok(Record {
            noun,
            optional,
            pairs,
        })
    }

    pub fn text_or_none(&mut self, key: &str) -> Option<String> {
        let at = self.pairs.iter().position(|(name, _)| name == key)?;
        Some(self.pairs.swap_remove(at).1)
    }

    pub fn text(&mut self, key: &str) -> Result<String, String> {
        let missing = || format!("{}: {key} is missing", self.noun);
        let missing = missing();
        self.text_or_none(key).ok_or(missing)
    }

    /// A number, an address, or what else has one spelling.
    pub fn value_or_none<T: FromStr>(&mut self, key: &str) -> Result<Option<T>, String> {
        let Some(text) = self.text_or_none(key) else {
            return Ok(None);
        };
        let wrong = |_| format!("{}: {key} does not take this value", self.noun);
        text.parse().map(Some).map_err(wrong)
    }

    pub fn value<T: FromStr>(&mut self, key: &str) -> Result<T, String> {
        let missing = format!("{}: {key} is missing", self.noun);
        self.value_or_none(key)?.ok_or(missing)
    }

    /// False if it is not given.
    pub fn flag(&mut self, key: &str) -> Result<bool, String> {
        Ok(self.value_or_none(key)?.unwrap_or(false))
    }

    /// Values with commas between.
    pub fn list<T: FromStr>(&mut self, key: &str) -> Result<Vec<T>, String> {
        let wrong = format!("{}: {key} does not take these values", self.noun);
        let text = self.text_or_none(key).unwrap_or_default();
        let words = text.split(',').filter(|word| !word.is_empty());
        let values: Option<Vec<T>> = words.map(|word| word.parse().ok()).collect();
        values.ok_or(wrong)
    }

    pub fn bytes(&mut self) -> Result<Vec<u8>, String> {
        let wrong = format!("{}: these are no bytes", self.noun);
        unspell(&self.text("bytes")?).ok_or(wrong)
    }

    /// Nothing else may stand there, unless it may be left out.
    pub fn end(self) -> Result<(), String> {
        match self.pairs.first() {
            Some((key, _)) if !self.optional => Err(format!("{}: {key:?} is not known", self.noun)),
            _ => Ok(()),
        }
    }

    /// Of something that is not known at all.
    pub fn unknown(self) -> Result<(), String> {
        match self.optional {
            true => Ok(()),
            false => Err(format!("{:?} is not known", self.noun)),
        }
    }
}

/// Any bytes as a word: graphic ASCII as it is, everything else as %XX.
pub fn spell(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 5 / 4);
    for byte in bytes {
        match byte {
            b'%' | b'"' | b'\\' => text += &format!("%{byte:02x}"),
            byte if byte.is_ascii_graphic() => text.push(char::from(*byte)),
            byte => text += &format!("%{byte:02x}"),
        }
    }
    text
}

fn unspell(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        bytes.push(match first {
            b'%' => {
                let digits = std::str::from_utf8(behind.get(..2)?).ok()?;
                rest = behind.get(2..)?;
                u8::from_str_radix(digits, 16).ok()?
            }
            byte => *byte,
        });
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        let text = spell(&all);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(unspell(&text), Some(all));
        assert_eq!(unspell(""), Some(Vec::new()));
        for bad in ["%", "%4", "%4g", "a%", "%\u{e9}"] {
            assert_eq!(unspell(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_optional_may_be_unknown() {
        let mut record = Record::parse("optional thing a=1 b=x").expect("a record");
        assert_eq!(record.value("a"), Ok(1));
        assert_eq!(record.noun, "thing");
        assert_eq!(record.end(), Ok(()));
        let record = Record::parse("thing b=x").expect("a record");
        assert_eq!(record.end(), Err("thing: \"b\" is not known".into()));
        assert!(Record::parse("optional b=x").is_err() && Record::parse("").is_err());
        assert!(Record::parse("thing other").is_err());
    }
}
