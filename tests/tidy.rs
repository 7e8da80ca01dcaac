//! The rules of this repository, tested on the repository itself: who may
//! import whom, where `unsafe` may stand, how long things may be, and what
//! does not belong here.

#[path = "tidy/source.rs"]
mod source;

use source::{blank, functions, line_of, modules_named, words, Function};
use std::path::Path;

/// Longest file and longest function, in lines.
const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
/// What is longer all the same, with its present size: it may shrink, and then
/// its line here shrinks with it, but neither grow nor be joined by others.
const LONGER_FILES: &[(&str, usize)] = &[];
const LONGER_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// Files that may sleep, and how often: everywhere else something is waited for.
const SLEEPS: &[(&str, usize)] = &[("tests/common/mod.rs", 1)];

/// What a module of the library may never name, by top-level module.
const PURE: &[&str] = &[
    "session",
    "http",
    "route",
    "balance",
    "health",
    "parser",
    "buf",
    "slab",
    "timer",
    "limits",
    "state",
    "config",
    "proto",
    "date",
    "quota",
    "random",
    "metrics",
    "certificate",
    "crypt",
    "version",
];
const IO: &[&str] = &[
    "worker",
    "keys",
    "resolver",
    "role",
    "net",
    "sys",
    "supervisor",
    "channel",
];
const FLOORS: &[(&[&str], &[&str])] = &[
    (PURE, IO),
    (&["limits"], PURE),
    (&["buf", "slab", "timer"], ABOVE_PARSER),
    (&["buf", "slab", "timer"], &["parser"]),
    (&["parser"], ABOVE_PARSER),
    (
        &["http", "route", "balance", "health"],
        &["session", "config"],
    ),
    (&["session"], &["config"]),
    (
        &["net"],
        &[
            "session", "http", "route", "balance", "health", "parser", "config", "proto",
        ],
    ),
    (&["net"], &["worker", "supervisor"]),
    (
        &["sys"],
        &[
            "net",
            "worker",
            "supervisor",
            "buf",
            "slab",
            "timer",
            "parser",
        ],
    ),
    (&["sys"], ABOVE_PARSER),
    (&["worker"], &["supervisor"]),
    (&["keys", "role"], &["worker", "supervisor"]),
    (
        &["keys"],
        &["session", "http", "route", "balance", "health", "parser"],
    ),
    (&["role"], &["keys"]),
];
const ABOVE_PARSER: &[&str] = &[
    "session", "http", "route", "balance", "health", "state", "config", "proto",
];

/// What the pure column does not know: descriptors, clocks, threads, the log.
const IMPURE: &[&str] = &[
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "Instant::now",
    "SystemTime",
    "log::",
    "libc::",
    "openssl::",
    "std::fs",
    "std::os",
    "std::process",
    "std::thread",
    "std::env",
];
/// The reader of the configuration opens the files that it names; a WebSocket
/// handshake has a SHA-1 in it.
const READERS: &[(&str, &str)] = &[
    ("src/config/read.rs", "std::fs"),
    ("src/http/websocket.rs", "openssl::"),
    // Digests, and the spelling of a password.
    ("src/crypt.rs", "openssl::"),
    ("src/http/basic_auth.rs", "openssl::"),
    // It looks at text, and does nothing with it.
    ("src/certificate.rs", "openssl::"),
];

/// Every file of the repository that is text, by its path from the root.
fn files() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("read a directory") {
            let path = entry.expect("an entry").path();
            let name = path
                .strip_prefix(root)
                .expect("below the root")
                .to_string_lossy();
            if is_foreign(&path) {
                continue;
            } else if path.is_dir() {
                directories.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                found.push((name.into_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// What nobody wrote: Git's own, and what was built.
fn is_foreign(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    [".git", "target", "artifacts", "corpus"].contains(&&*name)
}

/// Every Rust source, with its text and its blanked text.
fn sources() -> Vec<(String, String, String)> {
    let rust = files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"));
    rust.map(|(name, text)| {
        let code = blank(&text);
        (name, text, code)
    })
    .collect()
}

/// Fails with all complaints at once.
#[track_caller]
fn clean(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The path of a module of the library: `src/net/token.rs` is `net`, `token`.
fn module_path(name: &str) -> Option<Vec<&str>> {
    let path = name.strip_prefix("src/")?.strip_suffix(".rs")?;
    let path = path.strip_suffix("/mod").unwrap_or(path);
    (!["lib", "main"].contains(&path)).then(|| path.split('/').collect())
}

/// Blanked code without the unit tests at its foot or in a file of their own.
fn without_tests<'a>(name: &str, code: &'a str) -> &'a str {
    if name.ends_with("/tests.rs") {
        return "";
    }
    code.split("#[cfg(test)]").next().unwrap_or("")
}

#[test]
fn the_scanner_is_not_fooled() {
    let source = concat!(
        "fn a<'x>(c: &'x str) -> char {\n  let s = \"} // {\";\n  // }\n  let t = r#\"}\" {\"#;\n",
        "  /* { /* } */ */ let q = '{'; let b = b'\\''; let u = 'é'; let e = '\\u{7d}';\n",
        "  fn inner() {}\n}\ntype F = fn(u8) -> u8;\ntrait T { fn declared(&self) -> [u8; 2]; }\n",
        "fn last() -> [u8; 1] {\n  [b\"\\\\\"[0]]\n}\n"
    );
    let code = blank(source);
    assert_eq!(code.len(), source.len());
    let wanted = [("a", 1, 7), ("inner", 6, 1), ("last", 10, 3)];
    let wanted = wanted.map(|(name, line, lines)| Function {
        name: name.to_owned(),
        line,
        lines,
    });
    assert_eq!(functions(&code), wanted);
    let uses = "use crate::{net::{a, b}, http};\nuse super::super::sys::x;\nuse super::own;";
    assert_eq!(modules_named(uses, 2), ["net", "http", "sys"]);
    assert_eq!(words("catalog:: log::x xlog:: log", "log"), [10, 24]);
}

#[test]
fn unsafe_stays_in_sys_and_says_why() {
    let mut complaints = Vec::new();
    for (name, text, code) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for at in words(&code, "unsafe") {
            let line = line_of(&code, at);
            if !name.starts_with("src/sys/") {
                complaints.push(format!("{name}:{line}: unsafe outside src/sys"));
            } else if !has_reason(&lines, line) {
                complaints.push(format!("{name}:{line}: unsafe without // SAFETY: above it"));
            }
        }
    }
    clean(&complaints);
}

/// Whether a comment with the reason stands above that line, or above the start
/// of the statement that it belongs to, at most three lines further up.
fn has_reason(lines: &[&str], line: usize) -> bool {
    let mut code_lines = 0;
    for text in lines[..line - 1].iter().rev().map(|text| text.trim()) {
        if text.starts_with("//") {
            if text.starts_with("// SAFETY:") || text.contains("# Safety") {
                return true;
            }
        } else if text.starts_with("#[") {
            continue;
        } else {
            code_lines += 1;
            if code_lines > 3 || text.is_empty() || text.ends_with([';', '{', '}']) {
                return false;
            }
        }
    }
    false
}

#[test]
fn floors() {
    let mut complaints = Vec::new();
    for (name, _, code) in sources() {
        let Some(path) = module_path(&name) else {
            continue;
        };
        let named = modules_named(without_tests(&name, &code), path.len());
        for (floor, never) in FLOORS {
            let own = floor.contains(&path[0]);
            for other in named
                .iter()
                .filter(|other| own && never.contains(&other.as_str()))
            {
                if other != path[0] {
                    complaints.push(format!("{name}: {} names {other}", path[0]));
                }
            }
        }
    }
    complaints.dedup();
    clean(&complaints);
}

#[test]
fn the_pure_column_is_pure() {
    let mut complaints = Vec::new();
    for (name, _, code) in sources() {
        let pure = module_path(&name).is_some_and(|path| PURE.contains(&path[0]));
        for what in IMPURE.iter().filter(|_| pure) {
            let stem = what.trim_end_matches("::");
            let code = without_tests(&name, &code);
            let stands = words(code, stem)
                .iter()
                .any(|at| code[*at..].starts_with(what));
            if stands && !READERS.contains(&(name.as_str(), what)) {
                complaints.push(format!("{name}: {what}"));
            }
        }
    }
    clean(&complaints);
}

#[test]
fn every_top_level_module_has_a_floor() {
    let mut complaints = Vec::new();
    for (name, _, _) in sources() {
        let Some(path) = module_path(&name) else {
            continue;
        };
        if !PURE.contains(&path[0]) && !IO.contains(&path[0]) {
            complaints.push(format!("{name}: {} is neither pure nor I/O", path[0]));
        }
        if ["util", "utils", "helpers", "misc", "common"]
            .iter()
            .any(|vague| path.contains(vague))
        {
            complaints.push(format!("{name}: a name that says nothing"));
        }
    }
    clean(&complaints);
}

#[test]
fn files_are_short() {
    let mut complaints = Vec::new();
    let lengths: Vec<_> = sources()
        .iter()
        .map(|s| (s.0.clone(), s.1.lines().count()))
        .collect();
    for (name, lines) in &lengths {
        let allowed = LONGER_FILES.iter().find(|(longer, _)| longer == name);
        match allowed {
            None if *lines > FILE_LINES_MAX => complaints.push(format!("{name}: {lines} lines")),
            Some((_, size)) if size != lines => {
                complaints.push(format!("{name}: {lines} lines, the table says {size}"));
            }
            _ => {}
        }
    }
    let gone = |(longer, _): &&(&str, usize)| !lengths.iter().any(|(name, _)| name == longer);
    complaints.extend(
        LONGER_FILES
            .iter()
            .filter(gone)
            .map(|(name, _)| format!("{name}: gone")),
    );
    clean(&complaints);
}

#[test]
fn functions_are_short() {
    let mut complaints = Vec::new();
    let mut met = 0;
    for (name, _, code) in sources() {
        for Function {
            name: function,
            line,
            lines,
        } in functions(&code)
        {
            let same = |(f, n, _): &&(&str, &str, usize)| *f == name && *n == function;
            match LONGER_FUNCTIONS.iter().find(same) {
                None if lines > FUNCTION_LINES_MAX => {
                    complaints.push(format!("{name}:{line}: {function} has {lines} lines"));
                }
                Some((_, _, size)) => {
                    met += 1;
                    if *size != lines {
                        let said = format!("{function} has {lines} lines, the table says {size}");
                        complaints.push(format!("{name}:{line}: {said}"));
                    }
                }
                None => {}
            }
        }
    }
    if met != LONGER_FUNCTIONS.len() {
        complaints.push(format!("{met} of the longer functions were met"));
    }
    clean(&complaints);
}

/// All but the targets of the fuzzer, which are three lines, and unit tests in
/// a file of their own.
#[test]
fn every_source_says_what_it_is() {
    let mut complaints = Vec::new();
    for (name, text, _) in sources() {
        let exempt = text.starts_with("#![no_main]") || name.ends_with("/tests.rs");
        if !exempt && !text.starts_with("//! ") {
            complaints.push(format!("{name}: no head"));
        }
    }
    clean(&complaints);
}

#[test]
fn nothing_is_left_for_later() {
    let anywhere = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let in_code = ["todo", "unimplemented", "dbg"];
    let mut complaints = Vec::new();
    for (name, text) in files() {
        for word in anywhere
            .iter()
            .filter(|word| !words(&text, word).is_empty())
        {
            complaints.push(format!("{name}: {word}"));
        }
    }
    for (name, _, code) in sources() {
        for word in in_code {
            if words(&code, word)
                .iter()
                .any(|at| code[at + word.len()..].starts_with('!'))
            {
                complaints.push(format!("{name}: {word}!"));
            }
        }
        if code.contains("#[ignore") {
            complaints.push(format!("{name}: a test that is ignored"));
        }
    }
    clean(&complaints);
}

/// The product never sleeps, and a test waits for what it waits for.
/// (A benchmark may sleep: it measures time.)
#[test]
fn nobody_sleeps() {
    let mut complaints = Vec::new();
    for (name, _, code) in sources() {
        let places = words(&code, "sleep");
        let count = places
            .iter()
            .filter(|at| code[**at + 5..].starts_with('('))
            .count();
        let bench = name.starts_with("tests/bench/");
        let allowed = SLEEPS
            .iter()
            .find(|(file, _)| *file == name)
            .map_or(0, |(_, n)| *n);
        if count != allowed && !bench {
            complaints.push(format!("{name}: {count} sleeps, the table says {allowed}"));
        }
    }
    clean(&complaints);
}

/// The keys of the tables of a manifest whose names end like that.
fn manifest_keys(text: &str, table: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            let name = line.trim_matches(['[', ']']);
            inside = name.ends_with(table);
            keys.extend(
                name.split_once(&format!("{table}."))
                    .map(|(_, key)| key.to_owned()),
            );
        } else if let Some((key, _)) = line.split_once('=').filter(|_| inside) {
            keys.push(key.split('.').next().unwrap_or("").trim().to_owned());
        }
    }
    keys
}

#[test]
fn dependencies() {
    let files = files();
    let text = |name: &str| {
        let file = files.iter().find(|(file, _)| file == name);
        file.map(|(_, text)| text.as_str())
            .unwrap_or_else(|| panic!("no {name}"))
    };
    let mut root = manifest_keys(text("Cargo.toml"), "dependencies");
    root.sort();
    assert_eq!(root, ["env_logger", "libc", "log", "openssl"]);
    assert_eq!(
        manifest_keys(text("ctl/Cargo.toml"), "dependencies"),
        ["sozu"]
    );
    let plain = "env_logger = { version = \"0.11\", default-features = false }";
    assert!(
        text("Cargo.toml").contains(plain),
        "env_logger without its default features"
    );
    let sources = text("Cargo.lock")
        .lines()
        .filter(|line| line.starts_with("source = "));
    for source in sources {
        assert!(
            source.ends_with("github.com/rust-lang/crates.io-index\""),
            "{source}"
        );
    }
}

/// Paths and names of somebody's machine.
#[test]
fn nothing_of_the_place_where_it_was_written() {
    let foreign = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/Us", "ers/"),
        concat!("/wo", "rk/"),
        concat!("arti", "factory"),
        concat!(".cargo/", "registry"),
        concat!("index.", "crates.io"),
    ];
    let mut complaints = Vec::new();
    for (name, text) in files() {
        for word in foreign.iter().filter(|word| text.contains(**word)) {
            complaints.push(format!("{name}: {word}"));
        }
    }
    clean(&complaints);
}

/// Each test program uses a part of `tests/common`, so the compiler cannot
/// tell what none of them uses.
#[test]
fn the_wire_tests_have_no_idle_helpers() {
    let sources = sources();
    let tests: Vec<_> = sources
        .iter()
        .filter(|(name, _, _)| name.starts_with("tests/"))
        .collect();
    let mut complaints = Vec::new();
    for (name, _, code) in tests
        .iter()
        .filter(|(name, _, _)| name.starts_with("tests/common/"))
    {
        for function in functions(code) {
            let place = code.lines().nth(function.line - 1).unwrap_or("");
            let uses: usize = tests
                .iter()
                .map(|(_, _, c)| words(c, &function.name).len())
                .sum();
            if place.contains("pub") && uses < 2 {
                complaints.push(format!("{name}:{}: {}", function.line, function.name));
            }
        }
    }
    clean(&complaints);
}
