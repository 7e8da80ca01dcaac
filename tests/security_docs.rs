//! doc/security.md and doc/unsafe.md say what the program does: the table of system calls is the
//! sandbox's own, and every `unsafe` of the product stands in the list, with its reason.

#[path = "tidy/source.rs"]
#[allow(dead_code)]
mod source;

use source::{blank, functions, line_of, words};
use sozu_lib::sys::sandbox::filter::{Check, Rule};
use sozu_lib::sys::sandbox::table::{KEYS, RESOLVER, WORKER};
use std::path::{Path, PathBuf};

const SECURITY: &str = include_str!("../doc/security.md");
/// Set, the list is written anew.
const WRITE: &str = "SOZU_WRITE_DOCS";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

// ---- the system calls -------------------------------------------------

fn row(rule: &Rule) -> String {
    let check = |check: &Check| match *check {
        Check::Is(at, value) => format!("{at}: {value:#x}"),
        Check::Lacks(at, bits) => format!("{at}: without {bits:#x}"),
    };
    let checks: Vec<String> = rule.checks.iter().map(check).collect();
    let (name, reason) = (rule.name, rule.reason);
    format!("| `{name}` | {} | {reason} |", checks.join(", "))
}

#[test]
fn every_system_call_is_documented() {
    let wanted: Vec<String> = WORKER.iter().chain(KEYS).chain(RESOLVER).map(row).collect();
    let section = SECURITY
        .split("\n## System calls\n")
        .nth(1)
        .expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows: Vec<&str> = section
        .lines()
        .filter(|line| line.starts_with("| `"))
        .collect();
    assert_eq!(rows.join("\n"), wanted.join("\n"));
}

// ---- unsafe -------------------------------------------------------------

/// The sources below a directory, by their path from the root.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// The reason above that line (from 1), in one piece.
fn reason(lines: &[&str], line: usize) -> String {
    let above: Vec<&str> = lines[..line - 1]
        .iter()
        .rev()
        .map(|line| line.trim())
        .collect();
    let start = above.iter().position(|line| line.starts_with("// SAFETY:"));
    let start = start.expect("tidy has seen one");
    let comment = above[..=start]
        .iter()
        .rev()
        .map(|line| line.strip_prefix("//"));
    let comment: Vec<&str> = comment.map_while(|line| line).map(str::trim).collect();
    comment
        .join(" ")
        .trim_start_matches("SAFETY:")
        .trim()
        .to_string()
}

/// What of one file goes into the list: functions, each with its reasons.
fn entries(text: &str) -> Vec<(String, String)> {
    let code = blank(text);
    let product = code.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
    let lines: Vec<&str> = text.lines().collect();
    let all = functions(&code);
    let entry = |at: usize| {
        let line = line_of(&code, at);
        let holds = |function: &&source::Function| {
            (function.line..function.line + function.lines).contains(&line)
        };
        let inner = all
            .iter()
            .filter(holds)
            .min_by_key(|function| function.lines);
        let name = inner.map_or("a constant".into(), |function| {
            format!("`{}`", function.name)
        });
        (name, reason(&lines, line))
    };
    words(product, "unsafe").into_iter().map(entry).collect()
}

fn list() -> String {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    files.sort();
    let (mut text, mut count) = (String::new(), 0);
    for path in files
        .iter()
        .filter(|path| !path.components().any(|part| part.as_os_str() == "drill"))
    {
        let name = path
            .strip_prefix(root())
            .expect("below the root")
            .display()
            .to_string();
        let source = std::fs::read_to_string(path).expect("a source");
        let found = entries(&source);
        if found.is_empty() || name.ends_with("/drill.rs") {
            continue;
        }
        count += found.len();
        text += &format!("\n## {name}\n\n");
        for (function, reason) in found {
            text += &format!("- {function}: {reason}\n");
        }
    }
    format!(
        "# Every `unsafe` of the product\n\n\
         {count} places, all in `src/sys`, by file and function, with what makes each sound. Written from the code by\n\
         `{WRITE}=1 cargo test --test security_docs`, and compared with it by the same test.\n{text}"
    )
}

#[test]
fn every_unsafe_is_listed() {
    let path = root().join("doc/unsafe.md");
    let list = list();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, &list).expect("write the list");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let known = |line: &&str| !written.lines().any(|other| other == *line);
    let new: Vec<&str> = list.lines().filter(known).collect();
    assert!(
        written == list,
        "doc/unsafe.md is not what the code says: {WRITE}=1 writes it anew; new are {new:#?}"
    );
}
