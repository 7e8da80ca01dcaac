//! Answers as a person reads them.
//!
//! Commands that make an object stay lines, which can be sent again. Lines of
//! one word and pairs, as those of `status`, are tables; so is `help`. With
//! `--json` an answer is one object, and an event is a line of its own.

use std::io::Write;

use sozu_lib::proto::line::{join, quote, split, Word};

use crate::failure::Failure;
use crate::json;

/// Of a line with metrics these are shown even where all of them are 0.
const ALWAYS_SHOWN: [&str; 2] = ["connections", "requests"];

/// Bytes gathered before they are written.
const BATCH_BYTES: usize = 64 * 1024;

pub struct Printer<W: Write> {
    out: W,
    json: bool,
    text: String,
    /// Lines about the same, which are a table once it is complete.
    table: Vec<Vec<Word>>,
    /// Some lines were printed as they are.
    has_commands: bool,
    /// With --json: all data lines.
    data: Vec<Vec<Word>>,
}

impl<W: Write> Printer<W> {
    pub fn new(out: W, json: bool) -> Printer<W> {
        Printer {
            out,
            json,
            text: String::new(),
            table: Vec::new(),
            has_commands: false,
            data: Vec::new(),
        }
    }

    /// A data line.
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        let words = match split(line) {
            Ok(words) => words,
            Err(what) => {
                let what = format!("this is no answer of a sozu: {what}");
                return Err(Failure::unreachable(what));
            }
        };
        let is_event = words.first() == Some(&Word::Bare("event".into()));
        match (self.json, is_event) {
            (true, true) => self.text = json::object(&words) + "\n",
            (false, true) => self.text = format!("{line}\n"),
            (true, false) => {
                self.data.push(words);
                return Ok(());
            }
            (false, false) => {
                self.readable(line, words);
                return self.write(BATCH_BYTES);
            }
        }
        // Whoever waits for an event sees it now.
        self.write(0)
    }

    /// The pairs of the last line.
    pub fn end(mut self, result: &[Word]) -> Result<(), Failure> {
        if self.json {
            self.text = json::answer(&self.data, result) + "\n";
        } else {
            self.flush_table();
            if !result.is_empty() {
                // What stands below commands can be sent with them.
                let mark = if self.has_commands { "# " } else { "" };
                self.text += &format!("{mark}{}\n", join(result));
            }
        }
        self.write(0)
    }

    /// There is no last line that says ok; what came before it is shown to a person all the same.
    pub fn give_up(mut self) -> Result<(), Failure> {
        self.flush_table();
        self.write(0)
    }

    fn readable(&mut self, line: &str, words: Vec<Word>) {
        let subject = words.iter().filter(|word| key(word).is_none()).count();
        if subject != 1 || words.len() == 1 {
            self.flush_table();
            self.has_commands = true;
            self.text += line;
            self.text.push('\n');
            return;
        }
        if self.table.last().is_some_and(|last| !alike(last, &words)) {
            self.flush_table();
        }
        self.table.push(words);
    }

    fn flush_table(&mut self) {
        let table = std::mem::take(&mut self.table);
        if !table.is_empty() {
            if self.text.ends_with('\n') && is_help(&table) {
                self.text.push('\n');
            }
            self.text += &table_of(&table);
        }
    }

    /// Writes what has gathered, if it is more than that.
    fn write(&mut self, over: usize) -> Result<(), Failure> {
        if self.text.len() <= over {
            return Ok(());
        }
        let text = std::mem::take(&mut self.text);
        let written = self.out.write_all(text.as_bytes());
        let written = written.and_then(|()| self.out.flush());
        written.map_err(Failure::of_output)
    }
}

fn key(word: &Word) -> Option<&str> {
    match word {
        Word::Bare(_) => None,
        Word::Pair { key, .. } => Some(key),
    }
}

/// Lines about the same, of which some may say less than others: their first words agree.
fn alike(one: &[Word], other: &[Word]) -> bool {
    let start = |words: &[Word]| {
        let subject = words.first().cloned();
        (subject, words.get(1).and_then(key).map(str::to_string))
    };
    start(one) == start(other)
}

fn is_help(table: &[Vec<Word>]) -> bool {
    let first = table.first().and_then(|words| words.first());
    first == Some(&Word::Bare("help".into()))
}

/// A column for each key, below its name; what a row does not say is left empty.
fn table_of(table: &[Vec<Word>]) -> String {
    let help = is_help(table);
    let names = names_of(table);
    let row = |words: &Vec<Word>| {
        let named = |name: &String| {
            let mut words = words.iter();
            let found = words.find(|word| key(word).unwrap_or_default() == name);
            found.map(cell).unwrap_or_default()
        };
        names.iter().map(named).collect::<Vec<String>>()
    };
    let mut rows: Vec<Vec<String>> = table.iter().map(row).collect();
    rows.insert(0, names);
    for row in &mut rows {
        // Every line of help starts with that word, and a lone column of
        // commands needs no name.
        row.drain(..usize::from(help));
    }
    if rows
        .first()
        .is_some_and(|names| names.iter().any(|name| name == "buckets"))
    {
        narrow(&mut rows);
    }
    if help && rows.first().is_some_and(|names| names.len() == 2) {
        rows.remove(0);
    }
    columns(&rows)
}

/// The keys of all rows: each behind the one that it stands behind where it comes first.
fn names_of(table: &[Vec<Word>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for words in table {
        let mut place = 0;
        for word in words {
            let name = key(word).unwrap_or_default();
            match names.iter().position(|known| known == name) {
                Some(known) => place = known + 1,
                None => {
                    names.insert(place, name.to_string());
                    place += 1;
                }
            }
        }
    }
    names
}

/// Metrics have more columns than a screen: without the histogram, which is for
/// programs, and without those where there is nothing but 0.
fn narrow(rows: &mut [Vec<String>]) {
    let names = rows.first().cloned().unwrap_or_default();
    let shown = |(column, name): (usize, &String)| {
        let mut cells = rows.iter().skip(1).filter_map(|row| row.get(column));
        let empty = cells.all(|cell| cell == "0") && !ALWAYS_SHOWN.contains(&name.as_str());
        name != "buckets" && !empty
    };
    let shown: Vec<bool> = names.iter().enumerate().map(shown).collect();
    for row in rows {
        let mut shown = shown.iter();
        row.retain(|_| shown.next() == Some(&true));
    }
}

/// The value; quoted if it would break the line.
fn cell(word: &Word) -> String {
    let (Word::Bare(value) | Word::Pair { value, .. }) = word;
    let mut text = String::new();
    match value.contains(['\n', '\r', '\t']) || value.is_empty() {
        true => quote(&mut text, value),
        false => text.push_str(value),
    }
    text
}

/// Cells below each other, two spaces apart.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += &format!("{cell:width$}  ");
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(lines: &[&str], result: &str, json: bool) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out, json);
        for line in lines {
            printer.line(line).expect("a line");
        }
        let result = split(result).expect("a line");
        printer.end(&result).expect("an end");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn repeated_words_are_tables() {
        let lines = [
            "main version=0.1.0 pid=1",
            "worker id=0 pid=20 state=running",
            "worker id=1 pid=3 state=\"at a loss\"",
        ];
        let wanted = "      version  pid
main  0.1.0    1
        id  pid  state
worker  0   20   running
worker  1   3    at a loss
";
        assert_eq!(shown(&lines, "", false), wanted);
    }

    #[test]
    fn what_a_row_does_not_say_is_left_empty() {
        let lines = [
            "connection id=1 state=idle bytes=0",
            "connection id=2 state=running cluster=web bytes=10 request=\"GET /a b\"",
            "connection id=30 state=idle bytes=0",
        ];
        let wanted = "            id  state    cluster  bytes  request
connection  1   idle              0
connection  2   running  web      10     GET /a b
connection  30  idle              0
";
        assert_eq!(shown(&lines, "", false), wanted);
    }

    #[test]
    fn commands_stay_commands() {
        let lines = [
            "cluster add id=a answer_503=\"x\\ny\"",
            "candidate id=b why=\"x\\ny\"",
        ];
        let wanted = "cluster add id=a answer_503=\"x\\ny\"\n           id  why\ncandidate  b   \"x\\ny\"\n# added=1\n";
        assert_eq!(shown(&lines, "added=1", false), wanted);
        assert_eq!(shown(&[], "revision=1", false), "revision=1\n");
        assert_eq!(shown(&[], "", false), "");
    }

    #[test]
    fn metrics_fit_a_screen() {
        let lines = [
            "backend id=a connections=0 1xx=0 2xx=5 p50_ms=- buckets=0,5",
            "backend id=b connections=0 1xx=0 2xx=0 p50_ms=- buckets=0,0",
        ];
        let wanted = "         id  connections  2xx  p50_ms
backend  a   0            5    -
backend  b   0            0    -
";
        assert_eq!(shown(&lines, "", false), wanted);
        assert!(shown(&lines, "", true).contains("\"buckets\":\"0,5\""));
    }

    #[test]
    fn help_is_readable() {
        let lines = [
            "help command=ping sentence=\"Answers ok.\"",
            "help command=\"shutdown [hard]\" sentence=Ends.",
            "help key=timeout type=seconds default=none sentence=\"How long.\"",
        ];
        let wanted = "\
ping             Answers ok.
shutdown [hard]  Ends.

key      type     default  sentence
timeout  seconds  none     How long.
";
        assert_eq!(shown(&lines, "", false), wanted);
    }

    #[test]
    fn events_are_a_line_each() {
        let lines = ["event kind=a revision=1", "event kind=b"];
        assert_eq!(
            shown(&lines, "", false),
            "event kind=a revision=1\nevent kind=b\n"
        );
        let json = shown(&lines[1..], "", true);
        assert!(json.starts_with("{\"subject\":\"event\",\"kind\":\"b\"}\n{\"ok\":true"));
    }

    #[test]
    fn json_is_one_object() {
        assert_eq!(
            shown(&["main pid=1"], "a=b", true),
            "{\"ok\":true,\"data\":[{\"subject\":\"main\",\"pid\":1}],\"result\":{\"a\":\"b\"}}\n"
        );
    }
}
