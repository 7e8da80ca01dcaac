//! Sōzu's `query`: what clusters consist of, one by its name, or those by a hostname.
//!
//! Cut out of `state dump`, since that has a cluster's parts in one moment.
//! What has another name here, `words` knows.

use std::collections::BTreeSet;
use std::io;

use sozu_lib::state::{Change, Frontend, HostRule, PathRule, State};

use crate::failure::Failure;
use crate::link::Link;
use crate::options::Options;
use crate::show::Printer;
use crate::target::Dump;

const TAKES: &str = "query takes one of: applications (all clusters; with --id ID one and all its \
                     parts, with --domain NAME those that a hostname leads to), metrics";

/// Which clusters.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Id(String),
    Domain(String),
    /// Nothing is cut out: the proxy answers.
    Whole,
}

pub fn run(options: &Options, words: &[String]) -> Result<(), Failure> {
    let wanted = Wanted::read(words)?;
    if wanted == Wanted::Whole {
        return crate::ask(options);
    }
    let timeouts = options.timeouts()?;
    let mut dump = Dump::new(&timeouts);
    let mut link = Link::open(&options.socket()?, options.limit)?;
    link.ask("state dump", &mut |line| dump.line(line))?;
    let clusters = wanted.clusters(&dump.state)?;
    let mut printer = Printer::new(io::stdout().lock(), options.json);
    for change in dump.state.dump() {
        if cluster_of(&change).is_some_and(|id| clusters.contains(id)) {
            printer.line(&change.encode())?;
        }
    }
    printer.end(&[])
}

impl Wanted {
    fn read(words: &[String]) -> Result<Wanted, Failure> {
        let mut nouns = Vec::new();
        let mut wanted = Wanted::Whole;
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (word.as_str(), None),
            };
            let make: fn(String) -> Wanted = match name {
                "-i" | "--id" | "id" => Wanted::Id,
                "-d" | "--domain" | "domain" => Wanted::Domain,
                _ => {
                    nouns.push(word.as_str());
                    continue;
                }
            };
            let value = value.or_else(|| words.next().cloned());
            let value =
                value.ok_or_else(|| Failure::usage(format!("query: {name} needs a value")))?;
            if wanted != Wanted::Whole {
                let what = "query applications takes one --id or one --domain, not both";
                return Err(Failure::usage(what));
            }
            wanted = make(value);
        }
        match (nouns.as_slice(), &wanted) {
            (["applications" | "clusters"], _) => Ok(wanted),
            (["metrics", ..], Wanted::Whole) => Ok(wanted),
            _ => Err(Failure::usage(TAKES)),
        }
    }

    /// Their names, one at least.
    fn clusters<'a>(&self, state: &'a State) -> Result<BTreeSet<&'a str>, Failure> {
        match self {
            Wanted::Whole => Ok(state.clusters().map(|cluster| &*cluster.id).collect()),
            Wanted::Id(id) => match state.cluster(id) {
                Some(cluster) => Ok(BTreeSet::from([&*cluster.id])),
                None => {
                    let what = format!("cluster {id} does not exist");
                    Err(Failure::refused("missing", what))
                }
            },
            Wanted::Domain(domain) => {
                let found = led_from(state, domain)?;
                if found.is_empty() {
                    let what = format!(
                        "no frontend has the hostname {domain}: explain tells where a request goes"
                    );
                    return Err(Failure::refused("missing", what));
                }
                Ok(found)
            }
        }
    }
}

/// The clusters of the frontends with a hostname, and a path if one stands behind it.
fn led_from<'a>(state: &'a State, domain: &str) -> Result<BTreeSet<&'a str>, Failure> {
    let (name, path) = match domain.find('/') {
        Some(at) => (&domain[..at], Some(&domain[at..])),
        None => (domain, None),
    };
    let rule = HostRule::parse(name);
    let rule =
        rule.map_err(|what| Failure::usage(format!("query applications: --domain: {what}")))?;
    let fits = |frontend: &&Frontend| {
        let (PathRule::Prefix(known) | PathRule::Exact(known)) = &frontend.identity.path;
        frontend.identity.hostname == rule && path.is_none_or(|path| path == &**known)
    };
    let frontends = state.frontends().filter(fits);
    Ok(frontends.filter_map(|it| it.cluster.as_deref()).collect())
}

/// The one that it is part of.
fn cluster_of(change: &Change) -> Option<&str> {
    match change {
        Change::ClusterAdd(cluster) => Some(&cluster.id),
        Change::BackendAdd(backend) => Some(&backend.cluster),
        Change::FrontendAdd(frontend) => frontend.cluster.as_deref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Result<Wanted, String> {
        let words: Vec<String> = words.split_whitespace().map(String::from).collect();
        Wanted::read(&words).map_err(|failure| failure.text)
    }

    #[test]
    fn what_is_asked() {
        for words in ["applications", "clusters", "metrics", "metrics --cluster a"] {
            assert_eq!(read(words), Ok(Wanted::Whole), "{words}");
        }
        for words in ["applications --id a", "-i a clusters", "applications id=a"] {
            assert_eq!(read(words), Ok(Wanted::Id("a".into())), "{words}");
        }
        for words in ["applications -d a.b/c", "applications --domain=a.b/c"] {
            assert_eq!(read(words), Ok(Wanted::Domain("a.b/c".into())), "{words}");
        }
        for words in [
            "",
            "certificates",
            "applications all",
            "metrics --id a",
            "--id a",
        ] {
            assert_eq!(read(words), Err(TAKES.into()), "{words}");
        }
        assert!(read("applications --id a -d b").is_err_and(|what| what.contains("not both")));
        assert!(read("applications --id").is_err_and(|what| what.contains("needs a value")));
    }
}
