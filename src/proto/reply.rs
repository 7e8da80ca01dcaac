//! Answers: data lines, then one last line that says ok or error.
//!
//! Owns: the form of an answer. Main writes them to control clients, workers to
//! main; `sozuctl` and main read them. No data line starts with `ok` or `error`.

use super::line::{join, quote_always, split, Error, Word};
use crate::state::Refused;

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    Data(Vec<Word>),
    /// The last line: it was done.
    Ok(Vec<Word>),
    /// The last line: nothing was done.
    Error {
        code: String,
        text: String,
    },
}

impl Reply {
    /// From a line without its LF.
    pub fn parse(line: &str) -> Result<Reply, Error> {
        let mut words = split(line)?;
        match words.first() {
            Some(Word::Bare(first)) if first == "ok" => {
                words.remove(0);
                Ok(Reply::Ok(words))
            }
            Some(Word::Bare(first)) if first == "error" => match words.as_slice() {
                [_, Word::Bare(code), Word::Bare(text)] => Ok(Reply::Error {
                    code: code.clone(),
                    text: text.clone(),
                }),
                _ => Err("an error has a code and a text".into()),
            },
            _ => Ok(Reply::Data(words)),
        }
    }
}

/// `ok key=value…` with its LF.
pub fn ok(pairs: &[(&str, String)]) -> String {
    with_pairs("ok", pairs)
}

/// A data line with its LF: what it is about, then its values.
pub fn data(subject: &str, pairs: &[(&str, String)]) -> String {
    with_pairs(subject, pairs)
}

/// `error code "text"` with its LF. The text is always quoted: it is prose.
pub fn error(refused: &Refused) -> String {
    let mut line = format!("error {} ", refused.code.name());
    quote_always(&mut line, &refused.what);
    line.push('\n');
    line
}

fn with_pairs(first: &str, pairs: &[(&str, String)]) -> String {
    let mut words = vec![Word::Bare(first.to_string())];
    words.extend(pairs.iter().map(|(key, value)| Word::Pair {
        key: key.to_string(),
        value: value.clone(),
    }));
    let mut line = join(&words);
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Code;

    #[test]
    fn what_is_written_is_read() {
        let pair = Word::Pair {
            key: "workers".into(),
            value: "2".into(),
        };
        let line = ok(&[("workers", "2".into())]);
        assert_eq!(line, "ok workers=2\n");
        assert_eq!(Reply::parse(line.trim_end()), Ok(Reply::Ok(vec![pair])));

        let line = data("worker", &[("name", "a b".into())]);
        assert_eq!(line, "worker name=\"a b\"\n");
        assert!(
            matches!(Reply::parse(line.trim_end()), Ok(Reply::Data(words)) if words.len() == 2)
        );

        let refused = Refused::new(Code::InUse, "cluster \"a\" still has\nbackends");
        let line = error(&refused);
        assert_eq!(
            line,
            "error in_use \"cluster \\\"a\\\" still has\\nbackends\"\n"
        );
        let text = refused.what.clone();
        let code = "in_use".to_string();
        assert_eq!(
            Reply::parse(line.trim_end()),
            Ok(Reply::Error { code, text })
        );
        assert!(Reply::parse("error x").is_err());
    }
}
