//! Rust source as the rules of `tests/tidy.rs` look at it: with comments and
//! literals blanked, so that a word in them counts for nothing, and cut into
//! functions by matching braces.

/// One function: its name, its first line (from 1) and how many lines it has.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    pub line: usize,
    pub lines: usize,
}

/// The source with every byte of a comment or literal replaced by a space;
/// line ends stay, so positions and line numbers are those of the source.
pub fn blank(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(bytes, at);
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(out).expect("whole literals are blanked")
}

/// Where the comment or literal that starts at `at` ends; `at` if none starts there.
fn literal_end(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let inside_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => at + rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + block_comment(rest),
        [b'"', ..] => at + 1 + quoted(&rest[1..], b'"'),
        [b'\'', ..] => at + character(rest),
        [b'r' | b'b' | b'c', ..] if !inside_word => at + prefixed(rest),
        _ => at,
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The length of a comment whose inner comments end first.
fn block_comment(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match &rest[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length up to and with the closing quote.
fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// The length of a character literal; 0 for a lifetime or label.
fn character(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return 1 + quoted(&rest[1..], b'\'');
    }
    let text = std::str::from_utf8(&rest[1..rest.len().min(6)]);
    let valid = text.or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]));
    let width = valid
        .ok()
        .and_then(|text| text.chars().next())
        .map_or(0, char::len_utf8);
    if rest.get(1 + width) == Some(&b'\'') {
        width + 2
    } else {
        0
    }
}

/// The length of a literal with a prefix (`b"`, `b'`, `r#"`, `br"`, `c"`); 0 for a word.
fn prefixed(rest: &[u8]) -> usize {
    let letters = rest
        .iter()
        .take(2)
        .take_while(|b| b.is_ascii_alphabetic())
        .count();
    let raw = rest[..letters].contains(&b'r');
    let hashes = rest[letters..].iter().take_while(|b| **b == b'#').count();
    let start = letters + hashes;
    match rest.get(start) {
        Some(b'"') if raw => {
            let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
            let body = &rest[start + 1..];
            let end = body.windows(close.len()).position(|window| window == close);
            end.map_or(rest.len(), |end| start + 1 + end + close.len())
        }
        Some(b'"') if hashes == 0 => start + 1 + quoted(&rest[start + 1..], b'"'),
        Some(b'\'') if hashes == 0 && rest[..letters] == *b"b" => {
            start + 1 + quoted(&rest[start + 1..], b'\'')
        }
        _ => 0,
    }
}

/// Where that word stands on its own in blanked source.
pub fn words(code: &str, word: &str) -> Vec<usize> {
    let alone = |at: &usize| {
        let bytes = code.as_bytes();
        let before = at
            .checked_sub(1)
            .is_none_or(|before| !is_word(bytes[before]));
        before
            && bytes
                .get(at + word.len())
                .is_none_or(|after| !is_word(*after))
    };
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(alone)
        .collect()
}

/// The number, from 1, of the line with that position.
pub fn line_of(code: &str, at: usize) -> usize {
    1 + code.as_bytes()[..at]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// Every function with a body, inner ones too, of blanked source.
pub fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let rest = &code[at + 2..];
        let name: String = rest
            .trim_start()
            .bytes()
            .take_while(|b| is_word(*b))
            .map(char::from)
            .collect();
        let Some(length) = body_end(rest) else {
            continue;
        };
        if !name.is_empty() {
            let lines = 1 + rest[..length].matches('\n').count();
            found.push(Function {
                name,
                line: line_of(code, at),
                lines,
            });
        }
    }
    found
}

/// The length up to the brace that closes the body; none for a declaration or a type.
fn body_end(rest: &str) -> Option<usize> {
    let (mut round, mut curly) = (0, 0);
    for (at, byte) in rest.bytes().enumerate() {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round -= 1,
            b'{' => curly += 1,
            b'}' => curly -= 1,
            b';' if round == 0 && curly == 0 => return None,
            _ => continue,
        }
        if round < 0 || curly < 0 {
            return None;
        }
        if byte == b'}' && curly == 0 && round == 0 {
            return Some(at + 1);
        }
    }
    None
}

/// The top-level modules of the library that a file names, by `crate::`,
/// `sozu_lib::`, or as many `super::` as lead there from `depth` modules down.
pub fn modules_named(code: &str, depth: usize) -> Vec<String> {
    let supers = "super::".repeat(depth);
    let mut named = Vec::new();
    for root in ["crate::", "sozu_lib::", supers.as_str()] {
        let starts = code
            .match_indices(root)
            .filter(|(at, _)| !code[..*at].ends_with("super::"));
        for (at, _) in starts {
            named.extend(heads(&code[at + root.len()..]));
        }
    }
    named
}

/// The first words of a path, or of each path of a group in braces.
fn heads(rest: &str) -> Vec<String> {
    let word = |text: &str| -> String {
        let word = text.trim_start().bytes().take_while(|b| is_word(*b));
        word.map(char::from).collect()
    };
    let Some(group) = rest.strip_prefix('{') else {
        return vec![word(rest)];
    };
    let (mut found, mut depth) = (vec![word(group)], 1);
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 1 => found.push(word(&group[at + 1..])),
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    found.retain(|word| !word.is_empty());
    found
}
