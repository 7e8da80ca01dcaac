//! Answers as JSON: one object for each, one line for each.
//!
//! A value is a number or a boolean where the key is one by the table of keys.
//! A key that is in no table (of `status`, say) has a number where the value is
//! a whole one or any number of milliseconds or per second, and a boolean where
//! it is `true` or `false`. All else is a string.

use sozu_lib::config::keys::{
    Key, Kind, BACKEND, CLUSTER, COMMIT, CONNECTIONS, EXPLAIN, FRONTEND, GLOBAL, LISTENER,
};
use sozu_lib::proto::line::Word;

/// Whole numbers of more digits than this are not exact in every reader.
const DIGITS_MAX: usize = 15;

/// `{"ok":true,…}`: the data lines, then the pairs of the last line.
pub fn answer(data: &[Vec<Word>], result: &[Word]) -> String {
    let mut text = String::from("{\"ok\":true,\"data\":[");
    for (index, words) in data.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        push_object(&mut text, words);
    }
    text.push_str("],\"result\":");
    push_object(&mut text, result);
    text.push('}');
    text
}

/// `{"ok":false,…}`.
pub fn refusal(code: &str, text: &str) -> String {
    let mut out = String::from("{\"ok\":false,\"code\":");
    push_string(&mut out, code);
    out.push_str(",\"text\":");
    push_string(&mut out, text);
    out.push('}');
    out
}

/// One line: its first words are the `subject`.
pub fn object(words: &[Word]) -> String {
    let mut text = String::new();
    push_object(&mut text, words);
    text
}

fn push_object(out: &mut String, words: &[Word]) {
    let bare: Vec<&str> = words.iter().filter_map(bare).collect();
    let mut first = true;
    let mut key = |out: &mut String, name: &str| {
        out.push(if std::mem::take(&mut first) { '{' } else { ',' });
        push_string(out, name);
        out.push(':');
    };
    if !bare.is_empty() {
        key(out, "subject");
        push_string(out, &bare.join(" "));
    }
    for word in words {
        if let Word::Pair { key: name, value } = word {
            key(out, name);
            // What `help` says of a key is text.
            match bare == ["help"] {
                true => push_string(out, value),
                false => push_value(out, name, value),
            }
        }
    }
    if first {
        out.push('{');
    }
    out.push('}');
}

fn bare(word: &Word) -> Option<&str> {
    match word {
        Word::Bare(text) => Some(text),
        Word::Pair { .. } => None,
    }
}

fn push_value(out: &mut String, name: &str, value: &str) {
    let is_bool = value == "true" || value == "false";
    let plain = match kind_of(name) {
        Some(Kind::Bool) => is_bool,
        Some(Kind::Int { .. } | Kind::Seconds) => is_number(value),
        Some(_) => false,
        None if name.ends_with("_ms") || name.ends_with("_per_s") => is_decimal(value),
        None => is_bool || is_number(value),
    };
    match plain {
        true => out.push_str(value),
        false => push_string(out, value),
    }
}

fn kind_of(name: &str) -> Option<Kind> {
    let tables: [&[Key]; 8] = [
        LISTENER,
        CLUSTER,
        FRONTEND,
        BACKEND,
        COMMIT,
        CONNECTIONS,
        EXPLAIN,
        GLOBAL,
    ];
    let mut keys = tables.into_iter().flatten();
    keys.find(|key| key.is(name)).map(|key| key.kind)
}

/// As JSON writes whole numbers, too: no leading zero.
fn is_number(value: &str) -> bool {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    digits && (1..=DIGITS_MAX).contains(&value.len()) && (value == "0" || !value.starts_with('0'))
}

/// A whole number, or one with a fraction.
fn is_decimal(value: &str) -> bool {
    match value.split_once('.') {
        Some((whole, fraction)) => {
            let digits = !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit());
            is_number(whole) && digits
        }
        None => is_number(value),
    }
}

fn push_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use sozu_lib::proto::line::split;

    fn object_of(line: &str) -> String {
        object(&split(line).expect("a line"))
    }

    #[test]
    fn strings_are_escaped() {
        assert_eq!(
            refusal("a\u{1}", "é \"q\" \\ \n\r\t\u{1b}\u{7f}"),
            r#"{"ok":false,"code":"a\u0001","text":"é \"q\" \\ \n\r\t\u001b\u007f"}"#
        );
    }

    #[test]
    fn values_have_the_type_of_their_key() {
        for (line, wanted) in [
            ("", "{}"),
            ("ok", r#"{"subject":"ok"}"#),
            (
                "worker id=0 pid=12 state=running zip=007 version=0.1.0",
                r#"{"subject":"worker","id":"0","pid":12,"state":"running","zip":"007","version":"0.1.0"}"#,
            ),
            (
                "backend add cluster=5 id=b weight=50 backup=false",
                r#"{"subject":"backend add","cluster":"5","id":"b","weight":50,"backup":false}"#,
            ),
            (
                "worker id=0 agrees=true pid=1",
                r#"{"subject":"worker","id":"0","agrees":true,"pid":1}"#,
            ),
            (
                "help key=weight default=100",
                r#"{"subject":"help","key":"weight","default":"100"}"#,
            ),
            (
                "x n=1234567890123456",
                r#"{"subject":"x","n":"1234567890123456"}"#,
            ),
        ] {
            assert_eq!(object_of(line), wanted);
        }
    }

    #[test]
    fn an_answer_is_one_object() {
        let data = [split("worker pid=1").expect("a line"), Vec::new()];
        let result = split("revision=3").expect("a line");
        assert_eq!(
            answer(&data, &result),
            r#"{"ok":true,"data":[{"subject":"worker","pid":1},{}],"result":{"revision":3}}"#
        );
        assert_eq!(answer(&[], &[]), r#"{"ok":true,"data":[],"result":{}}"#);
    }
}
