//! doc/metrics.md, doc/alerts.yml and doc/dashboard.json say what the program
//! tells.

mod common;

use common::{free_address, Backend, Scrape, Setup};
use sozu_lib::limits::SERIES_MAX;
use sozu_lib::metrics::text::{Type, FIGURES};
use sozu_lib::metrics::BOUNDS_US;
use std::collections::BTreeSet;

const METRICS: &str = include_str!("../doc/metrics.md");
const ALERTS: &str = include_str!("../doc/alerts.yml");
const DASHBOARD: &str = include_str!("../doc/dashboard.json");

/// The rows of the table under a heading, without its head.
fn rows(heading: &str) -> Vec<&'static str> {
    let lines = METRICS.lines().skip_while(|line| *line != heading).skip(1);
    let section = lines.take_while(|line| !line.starts_with("## "));
    section.filter(|line| line.starts_with("| `")).collect()
}

#[test]
fn every_figure_is_documented() {
    let backend = Backend::named("ok");
    let metrics = free_address();
    let (folder, secure) = (
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/certificates"),
        free_address(),
    );
    let more = format!(
        "[[listeners]]\nprotocol = \"metrics\"\naddress = \"{metrics}\"\n\
         [[listeners]]\nprotocol = \"https\"\naddress = \"{secure}\"\n\
         certificate = \"{folder}/one.pem\"\nkey = \"{folder}/one.key\"\n"
    );
    let proxy = Setup::http().backends(&[backend.address()]);
    let _proxy = proxy.more(&more).start();
    let scrape = Scrape::of(metrics);
    let row = |figure: &sozu_lib::metrics::text::Figure| {
        let (kind, suffix) = match figure.kind {
            Type::Counter => ("counter", ""),
            Type::Gauge => ("gauge", ""),
            Type::Histogram => ("histogram", "_count"),
        };
        let labels = scrape.labels(&format!("{}{suffix}", figure.name));
        let labels: Vec<String> = labels.iter().map(|name| format!("`{name}`")).collect();
        let (name, sentence) = (figure.name, figure.sentence);
        format!("| `{name}` | {kind} | {} | {sentence} |", labels.join(" "))
    };
    let wanted: Vec<String> = FIGURES.iter().map(row).collect();
    assert_eq!(rows("## Figures"), wanted, "\n{}", wanted.join("\n"));
    let bounds = BOUNDS_US.map(|us| (us as f64 / 1e6).to_string()).join(" ");
    assert!(METRICS.contains(&format!(" {bounds}.")), "{bounds}");
    let limit = format!("\n{SERIES_MAX} listeners, clusters and backends");
    assert!(METRICS.contains(&limit), "{limit}");
}

/// Keys of the command's lines, and what the document says of them.
#[test]
fn every_key_is_documented() {
    let proxy = Setup::http().backends(&[free_address()]).start();
    let data = proxy.control("metrics").data;
    let lines = data.iter().filter(|line| !line.starts_with("worker "));
    let words = lines.flat_map(|line| line.split(' '));
    let told: BTreeSet<&str> = words
        .filter_map(|word| Some(word.split_once('=')?.0))
        .collect();
    let mut known: BTreeSet<&str> = BTreeSet::from(["cluster", "2xx", "3xx", "4xx"]);
    for row in rows("## sozuctl metrics") {
        let cell = row.split(" | ").next().unwrap_or_default();
        known.extend(cell.split('`').skip(1).step_by(2));
    }
    assert_eq!(told, known);
}

/// Every word that looks like a figure is one.
fn check_names(text: &str, least: usize) {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names: BTreeSet<&str> = text
        .split(word)
        .filter(|w| w.starts_with("sozu_"))
        .collect();
    assert!(names.len() >= least, "{names:?}");
    for name in names {
        let known = FIGURES.iter().any(|figure| match figure.kind {
            Type::Histogram => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| name.strip_suffix(suffix) == Some(figure.name)),
            Type::Counter | Type::Gauge => name == figure.name,
        });
        assert!(known, "{name} is no figure");
    }
}

#[test]
fn alerts_and_dashboard_ask_for_what_there_is() {
    check_names(ALERTS, 8);
    check_names(DASHBOARD, 16);
    for rule in ALERTS.split("- alert: ").skip(1) {
        for part in ["expr: ", "severity: ", "summary: ", "description: "] {
            assert_eq!(rule.matches(part).count(), 1, "{part} in {rule}");
        }
    }
    assert!(!ALERTS.contains('\t'), "YAML is indented with spaces");
}

#[test]
fn the_dashboard_is_json() {
    let rest = json(DASHBOARD.trim_start()).expect("JSON");
    assert_eq!(rest.trim(), "");
    for panel in DASHBOARD.split("\"expr\": ").skip(1) {
        let expression = panel.split('\n').next().unwrap_or_default();
        let count = |c| expression.matches(c).count();
        assert_eq!(
            (count('('), count('{')),
            (count(')'), count('}')),
            "{expression}"
        );
    }
    for wrong in [
        "{\"a\":1,}",
        "[1 2]",
        "{'a':1}",
        "[01]",
        "\"\\x\"",
        "{\"a\"}",
        "nul",
        "[1",
    ] {
        let whole = json(wrong).is_some_and(|rest| rest.trim().is_empty());
        assert!(!whole, "{wrong}");
    }
}

/// What stands behind one value (RFC 8259) and white space.
fn json(text: &str) -> Option<&str> {
    let rest = match text.chars().next()? {
        '{' => list(&text[1..], '}', |text| {
            json(string(text)?.trim_start().strip_prefix(':')?.trim_start())
        })?,
        '[' => list(&text[1..], ']', json)?,
        '"' => string(text)?,
        't' => text.strip_prefix("true")?,
        'f' => text.strip_prefix("false")?,
        'n' => text.strip_prefix("null")?,
        _ => number(text)?,
    };
    Some(rest.trim_start())
}

fn list(text: &str, end: char, element: impl Fn(&str) -> Option<&str>) -> Option<&str> {
    let mut rest = text.trim_start();
    if let Some(behind) = rest.strip_prefix(end) {
        return Some(behind);
    }
    loop {
        rest = element(rest)?.trim_start();
        if let Some(behind) = rest.strip_prefix(end) {
            return Some(behind);
        }
        rest = rest.strip_prefix(',')?.trim_start();
    }
}

fn string(text: &str) -> Option<&str> {
    let mut chars = text.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some(chars.as_str()),
            '\\' => match chars.next()? {
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => {}
                'u' => (0..4).try_for_each(|_| chars.next()?.to_digit(16).map(drop))?,
                _ => return None,
            },
            c if c < ' ' => return None,
            _ => {}
        }
    }
}

fn number(text: &str) -> Option<&str> {
    let end = text.find(|c: char| !(c.is_ascii_digit() || "+-.eE".contains(c)));
    let (number, rest) = text.split_at(end.unwrap_or(text.len()));
    let digits = number.trim_start_matches('-');
    let zero = digits.starts_with('0') && digits[1..].starts_with(|c: char| c.is_ascii_digit());
    let good = digits.starts_with(|c: char| c.is_ascii_digit()) && number.parse::<f64>().is_ok();
    (good && !zero && !number.ends_with('.')).then_some(rest)
}
