//! The text of the metrics as a strict reader takes it (Prometheus exposition
//! format 0.0.4): whatever the format forbids fails the test.

use super::control::Control;
use super::peer::Peer;
use super::{free_address, wait_until};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// The labels of a sample, by name.
type Labels = BTreeMap<String, String>;

/// All samples of one scrape, by their names with labels.
pub struct Scrape {
    samples: BTreeMap<(String, Labels), f64>,
    /// Type of each figure.
    types: BTreeMap<String, String>,
}

impl Scrape {
    /// Asks once, on a connection of its own.
    #[track_caller]
    pub fn of(address: SocketAddr) -> Scrape {
        let response = Peer::connect(address).get("/metrics");
        assert_eq!(response.status(), 200, "{response:?}");
        Scrape::parse(&response.text()).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn parse(text: &str) -> Result<Scrape, String> {
        let mut scrape = Scrape {
            samples: BTreeMap::new(),
            types: BTreeMap::new(),
        };
        if !text.ends_with('\n') {
            return Err("the last line has no end".into());
        }
        let (mut helped, mut figure) = (BTreeSet::new(), String::new());
        for line in text.lines() {
            let take = |line: &str| format!("{line:?}");
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, sentence) = rest.split_once(' ').ok_or_else(|| take(line))?;
                if sentence.is_empty() || !helped.insert(name.to_string()) {
                    return Err(format!("a second head, or an empty one: {line:?}"));
                }
                figure = name.to_string();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').ok_or_else(|| take(line))?;
                let known = ["counter", "gauge", "histogram"].contains(&kind);
                let typed = scrape.types.insert(name.into(), kind.into()).is_some();
                if name != figure || !known || typed {
                    return Err(format!("not the type of {figure}: {line:?}"));
                }
            } else {
                scrape.take(line, &figure)?;
            }
        }
        scrape.check_histograms()?;
        Ok(scrape)
    }

    /// A sample has to be of the figure whose head was the last.
    fn take(&mut self, line: &str, figure: &str) -> Result<(), String> {
        let wrong = |what: &str| format!("{what}: {line:?}");
        let kind = self.types.get(figure).ok_or_else(|| wrong("no type"))?;
        let end = line.find(['{', ' ']).ok_or_else(|| wrong("no value"))?;
        let (name, rest) = line.split_at(end);
        let suffixes: &[&str] = match kind.as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        if !suffixes.iter().any(|s| name == format!("{figure}{s}")) {
            return Err(wrong("not in its place"));
        }
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => labels(rest).ok_or_else(|| wrong("bad labels"))?,
            None => (Labels::new(), rest),
        };
        let value = value.strip_prefix(' ').ok_or_else(|| wrong("no space"))?;
        let value: f64 = value.parse().map_err(|_| wrong("no number"))?;
        if value < 0.0 || !value.is_finite() {
            return Err(wrong("no such value"));
        }
        let again = self.samples.insert((name.into(), labels), value);
        again.map_or(Ok(()), |_| Err(wrong("a second time")))
    }

    /// Buckets grow, the last is the count, and there is a sum.
    fn check_histograms(&self) -> Result<(), String> {
        let mut series: BTreeMap<(String, Labels), Vec<(f64, f64)>> = BTreeMap::new();
        for ((name, labels), value) in &self.samples {
            let Some(figure) = name.strip_suffix("_bucket") else {
                continue;
            };
            let mut labels = labels.clone();
            let bound = labels.remove("le").ok_or("a bucket without a bound")?;
            let bound = bound.replace("+Inf", "inf").parse::<f64>();
            let bound = bound.map_err(|e| e.to_string())?;
            let buckets = series.entry((figure.into(), labels)).or_default();
            buckets.push((bound, *value));
        }
        for ((figure, labels), mut buckets) in series {
            buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
            let cumulative = buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1);
            let last = buckets.last().copied().unwrap_or_default();
            let sample = |suffix| {
                self.samples
                    .get(&(format!("{figure}{suffix}"), labels.clone()))
            };
            let complete = last.0.is_infinite() && sample("_sum").is_some();
            if !cumulative || !complete || sample("_count") != Some(&last.1) {
                return Err(format!("{figure} {labels:?}: {buckets:?}"));
            }
        }
        Ok(())
    }

    /// The value of a sample, with these labels among others; it has to be there once.
    #[track_caller]
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found = self.all(name, labels);
        assert_eq!(found.len(), 1, "{name} {labels:?}: {found:?}");
        found[0]
    }

    /// Added up over all that have these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.all(name, labels).iter().sum()
    }

    pub fn all(&self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let fits = |has: &Labels| {
            let mut wanted = labels.iter();
            wanted.all(|(name, value)| has.get(*name).is_some_and(|has| has == value))
        };
        let samples = self.samples.iter();
        let samples = samples.filter(|((known, has), _)| known == name && fits(has));
        samples.map(|(_, value)| *value).collect()
    }

    /// The names of a sample's labels.
    pub fn labels(&self, name: &str) -> BTreeSet<&str> {
        let of = self.samples.keys().filter(|(known, _)| known == name);
        of.flat_map(|(_, labels)| labels.keys().map(String::as_str))
            .collect()
    }

    /// The figures, by their names.
    pub fn figures(&self) -> BTreeSet<&str> {
        self.types.keys().map(String::as_str).collect()
    }

    /// What only grows, that is all but gauges.
    pub fn counters(&self) -> impl Iterator<Item = (&(String, Labels), f64)> {
        let gauge = |name: &str| self.types.get(name).is_some_and(|kind| kind == "gauge");
        let samples = self.samples.iter();
        samples.filter_map(move |(key, value)| (!gauge(&key.0)).then_some((key, *value)))
    }

    /// The same sample of another scrape.
    pub fn same(&self, key: &(String, Labels)) -> Option<f64> {
        self.samples.get(key).copied()
    }
}

/// Adds a listener that serves the metrics.
#[track_caller]
pub fn serve_metrics(control: &mut Control, more: &str) -> SocketAddr {
    let address = free_address();
    control.insist(&format!(
        "listener add address={address} protocol=metrics{more}"
    ));
    address
}

/// Waits until a sum over samples is that; of what is counted when an answer has already gone.
#[track_caller]
pub fn wait_sum(metrics: SocketAddr, name: &str, labels: &[(&str, &str)], wanted: f64) {
    let mut last = 0.0;
    let what = format!("{wanted} in {name} {labels:?}");
    wait_until(&what, || {
        last = Scrape::of(metrics).sum(name, labels);
        (last == wanted).then_some(())
    });
}

/// `a="b",c="d"}` with what is behind it.
fn labels(text: &str) -> Option<(Labels, &str)> {
    let (mut labels, mut rest) = (Labels::new(), text);
    loop {
        let (name, behind) = rest.split_once("=\"")?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return None;
        }
        let (mut value, mut chars) = (String::new(), behind.char_indices());
        let end = loop {
            value.push(match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    _ => return None,
                },
                (_, c) => c,
            });
        };
        labels.insert(name.into(), value).is_none().then_some(())?;
        rest = &behind[end + 1..];
        match rest.strip_prefix('}') {
            Some(behind) => return Some((labels, behind)),
            None => rest = rest.strip_prefix(',')?,
        }
    }
}
