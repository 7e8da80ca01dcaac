//! What happened between two answers to `metrics`, for `top`: per cluster and
//! backend how often a second, and how fast.

use sozu_lib::metrics::quantile;
use sozu_lib::proto::line::{value_of, Word};

use crate::show::columns;

/// Columns of the longest bar.
const BAR: usize = 20;

/// One object's share of the last interval.
pub struct Rate<'a> {
    /// Its line of the later answer.
    line: &'a [Word],
    requests_per_s: f64,
    errors_per_s: f64,
    /// Of the requests in the interval, in microseconds: half, 90 %, 99 %.
    quantiles: [Option<u64>; 3],
}

/// Listeners, clusters and backends, in the order of the answer.
pub fn between<'a>(before: &[Vec<Word>], now: &'a [Vec<Word>], seconds: f64) -> Vec<Rate<'a>> {
    let counted = now.iter().filter(|line| value(line, "buckets") != "-");
    let mut earlier = before.iter();
    let rates = counted.map(|line| {
        // Both are in the same order: mostly the next one is it.
        let same = |other: &&Vec<Word>| name(other) == name(line);
        let found = earlier.clone().find(same);
        if found.is_some() {
            earlier.find(same);
        }
        rate(found.map_or(&[], Vec::as_slice), line, seconds)
    });
    rates.collect()
}

fn rate<'a>(before: &[Word], line: &'a [Word], seconds: f64) -> Rate<'a> {
    // Less than before: it is another object of that name.
    let again = number(line, "requests") < number(before, "requests");
    let before = if again { &[] } else { before };
    let more = |key| number(line, key).saturating_sub(number(before, key));
    let failed = more("failed_backend") + more("failed_proxy");
    let (now, then) = (buckets(line), buckets(before));
    let then = then.into_iter().chain(std::iter::repeat(0));
    let counts: Vec<u64> = now
        .iter()
        .zip(then)
        .map(|(n, t)| n.saturating_sub(t))
        .collect();
    let per_s = |count: u64| count as f64 / seconds.max(0.001);
    Rate {
        line,
        requests_per_s: per_s(more("requests")),
        // A failure before the response is a 5xx as well; TCP has no status.
        errors_per_s: per_s(more("5xx").max(failed)),
        quantiles: [0.5, 0.9, 0.99].map(|share| quantile(&counts, share)),
    }
}

fn buckets(line: &[Word]) -> Vec<u64> {
    let counts = value(line, "buckets").split(',');
    counts.map(|count| count.parse().unwrap_or(0)).collect()
}

impl Rate<'_> {
    fn is(&self, noun: &str) -> bool {
        matches!(self.line.first(), Some(Word::Bare(word)) if word == noun)
    }

    fn row(&self, most: f64) -> Vec<String> {
        let id = value(self.line, "id");
        let label = match self.is("backend") {
            true => format!("  {id}"),
            false => id.to_string(),
        };
        let bar = (self.requests_per_s / most * BAR as f64).round() as usize;
        let mut row = vec![label];
        row.push(format!("{:.0}", self.requests_per_s));
        row.push(format!("{:.1}", self.errors_per_s));
        row.extend(self.quantiles.map(ms));
        row.push(value(self.line, "connections").replace('-', ""));
        row.push(self.state());
        row.push("█".repeat(bar.min(BAR)));
        row
    }

    /// `ready`, `drain, avoided by 2`; a cluster has none.
    fn state(&self) -> String {
        let state = value(self.line, "state").replace('-', "");
        match number(self.line, "avoided_by") {
            0 => state,
            workers => format!("{state}, avoided by {workers}"),
        }
    }

    /// As a data line: what names it, and the interval.
    pub fn words(&self) -> Vec<Word> {
        let kept = [
            "address",
            "id",
            "cluster",
            "state",
            "connections",
            "avoided_by",
        ];
        let keep = |word: &&Word| match word {
            Word::Bare(_) => true,
            Word::Pair { key, .. } => kept.contains(&key.as_str()),
        };
        let mut words: Vec<Word> = self.line.iter().filter(keep).cloned().collect();
        let [p50, p90, p99] = self.quantiles.map(ms);
        let pairs = [
            ("requests_per_s", format!("{:.1}", self.requests_per_s)),
            ("errors_per_s", format!("{:.1}", self.errors_per_s)),
            ("p50_ms", p50),
            ("p90_ms", p90),
            ("p99_ms", p99),
        ];
        words.extend(pairs.map(|(key, value)| Word::Pair {
            key: key.to_string(),
            value,
        }));
        words
    }
}

fn ms(us: Option<u64>) -> String {
    us.map_or_else(|| "-".into(), |us| format!("{:.2}", us as f64 / 1000.0))
}

/// Every cluster with its backends below it; the bars of all are to the same scale.
pub fn table(rates: &[Rate]) -> String {
    let names = [
        "cluster",
        "requests/s",
        "errors/s",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "conns",
        "state",
        "",
    ];
    let mut rows = vec![names.map(String::from).to_vec()];
    let clusters = || rates.iter().filter(|rate| rate.is("cluster"));
    let most = clusters()
        .map(|rate| rate.requests_per_s)
        .fold(1.0, f64::max);
    let mut backends = rates.iter().filter(|rate| rate.is("backend")).peekable();
    for cluster in clusters() {
        rows.push(cluster.row(most));
        let id = value(cluster.line, "id");
        // They come in the order of their clusters.
        while let Some(backend) = backends.next_if(|b| value(b.line, "cluster") == id) {
            rows.push(backend.row(most));
        }
    }
    match rows.len() {
        1 => String::new(),
        _ => columns(&rows),
    }
}

/// What tells objects apart.
fn name(line: &[Word]) -> (Option<&Word>, [&str; 3]) {
    let address = match line.first() {
        Some(Word::Bare(noun)) if noun == "listener" => value(line, "address"),
        _ => "",
    };
    (
        line.first(),
        [address, value(line, "cluster"), value(line, "id")],
    )
}

/// `-`: there is no such key.
pub fn value<'a>(words: &'a [Word], name: &str) -> &'a str {
    value_of(words, name).unwrap_or("-")
}

pub fn number(words: &[Word], name: &str) -> u64 {
    value(words, name).parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sozu_lib::proto::line::{join, split};

    fn lines(lines: &[&str]) -> Vec<Vec<Word>> {
        let lines = lines.iter().map(|line| split(line).expect("a line"));
        lines.collect()
    }

    /// Counts of the first three buckets, below 0.1, 0.25 and 0.5 ms.
    const BEFORE: &[&str] = &[
        "worker id=0 connections=3",
        "cluster id=a requests=100 5xx=5 failed_backend=9 failed_proxy=0 buckets=0,100,0",
        "cluster id=b requests=900 5xx=0 failed_backend=0 failed_proxy=0 buckets=900,0,0",
        "backend cluster=a id=x state=ready connections=2 avoided_by=0 requests=100 5xx=5 buckets=0,100,0",
    ];
    const NOW: &[&str] = &[
        "worker id=0 connections=3",
        "cluster id=a requests=300 5xx=5 failed_backend=29 failed_proxy=0 buckets=0,100,200",
        "cluster id=b requests=10 5xx=10 failed_backend=0 failed_proxy=0 buckets=10,0,0",
        "backend cluster=a id=x state=drain connections=7 avoided_by=2 requests=300 5xx=5 buckets=0,100,200",
        "backend cluster=b id=x state=ready connections=0 avoided_by=0 requests=10 5xx=10 buckets=10,0,0",
    ];

    #[test]
    fn differences_make_rates_and_percentiles() {
        let (before, now) = (lines(BEFORE), lines(NOW));
        let rates = between(&before, &now, 2.0);
        let wanted = "\
cluster  requests/s  errors/s  p50 ms  p90 ms  p99 ms  conns  state
a        100         10.0      0.38    0.47    0.50                               ████████████████████
  x      100         0.0       0.38    0.47    0.50    7      drain, avoided by 2  ████████████████████
b        5           5.0       0.05    0.09    0.10                               █
  x      5           5.0       0.05    0.09    0.10    0      ready                █
";
        let squeeze = |text: &str| {
            text.split(' ')
                .filter(|s| !s.is_empty())
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            squeeze(&table(&rates)),
            squeeze(wanted),
            "{}",
            table(&rates)
        );
        assert_eq!(
            join(&rates[2].words()),
            "backend cluster=a id=x state=drain connections=7 avoided_by=2 requests_per_s=100.0 errors_per_s=0.0 p50_ms=0.38 p90_ms=0.47 p99_ms=0.50"
        );
    }

    #[test]
    fn nothing_happened() {
        let now = lines(NOW);
        for rate in between(&now, &now, 1.0) {
            assert_eq!((rate.requests_per_s, rate.quantiles), (0.0, [None; 3]));
        }
        assert_eq!(table(&[]), "");
    }
}
