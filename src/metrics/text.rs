//! The figures as text that Prometheus reads (exposition format 0.0.4).
//!
//! Written in pieces: a `Cursor` remembers the figure and the object at which
//! the last piece ended, so that ten thousand backends need no more memory than
//! one. An object that comes meanwhile is not told before the next time: it might
//! have another place now, and be told twice. One that goes is told no more.

use std::fmt::Write;

use super::{Count, Totals, BOUNDS_US};
use crate::version::version;

/// Media type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Proxy,
    Worker,
    Listener,
    Certificate,
    Cluster,
    Backend,
}

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Only grows.
    Counter,
    /// The present value.
    Gauge,
    Histogram,
}

/// Where its value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// 1, with a label `version`.
    Version,
    /// A number of the source's, by the figure's name.
    Named,
    /// A counter of the object's row.
    Count(Count),
    /// Responses by status, with a label `code`.
    Answered,
    /// What did not end well, with a label `by`.
    Failed,
    /// What was refused, with a label `limit`.
    Refused,
    /// TLS handshakes, with a label `kind`.
    Handshakes,
    /// Health checks, with a label `result`.
    Checks,
    /// The durations of the row, in seconds.
    Durations,
}

pub struct Figure {
    pub name: &'static str,
    pub of: Of,
    pub kind: Type,
    pub value: Value,
    pub sentence: &'static str,
}

const fn figure(
    name: &'static str,
    of: Of,
    kind: Type,
    value: Value,
    sentence: &'static str,
) -> Figure {
    Figure {
        name,
        of,
        kind,
        value,
        sentence,
    }
}

use Type::{Counter, Gauge, Histogram};
use Value::{Answered, Checks, Durations, Failed, Handshakes, Named, Refused, Version};

/// Every figure, in the order in which they are told.
#[rustfmt::skip]
pub static FIGURES: &[Figure] = &[
    figure("sozu_build_info", Of::Proxy, Gauge, Version, "Always 1; the label tells the version."),
    figure("sozu_start_time_seconds", Of::Proxy, Gauge, Named, "When main was started, in seconds since 1970."),
    figure("sozu_revision", Of::Proxy, Gauge, Named, "The revision of the running state."),
    figure("sozu_worker_deaths_total", Of::Proxy, Counter, Named, "Workers that died and were replaced."),
    figure("sozu_worker_violations_total", Of::Proxy, Counter, Named, "Workers and key processes that were killed for what their sandbox forbids."),
    figure("sozu_signatures_total", Of::Proxy, Counter, Named, "Signatures that the key process has made for handshakes."),
    figure("sozu_signatures_refused_total", Of::Proxy, Counter, Named, "Signatures that it has refused, because a worker asked for too many or for what is none."),
    figure("sozu_key_process_deaths_total", Of::Proxy, Counter, Named, "Key processes that died and were replaced."),
    figure("sozu_names_unresolved", Of::Proxy, Gauge, Named, "Names of backends for which there was no answer when they were asked for last: they stand for what they did."),
    figure("sozu_listeners_revived_total", Of::Proxy, Counter, Named, "Times that a listening socket had stopped, by a worker's doing, and was made to listen again."),
    figure("sozu_upgrades_total", Of::Proxy, Counter, Named, "Times that another program took the place of the one that ran."),
    figure("sozu_series_missing", Of::Proxy, Gauge, Named, "Listeners, clusters and backends that are not counted, because there are too many."),
    figure("sozu_worker_connections", Of::Worker, Gauge, Named, "Client connections of a worker process now."),
    figure("sozu_worker_accepted_total", Of::Worker, Counter, Named, "Client connections that a worker process has accepted."),
    figure("sozu_worker_requests_total", Of::Worker, Counter, Named, "Exchanges that a worker process has ended."),
    figure("sozu_worker_at_limit_total", Of::Worker, Counter, Named, "Times that max_connections was reached."),
    figure("sozu_worker_surplus_total", Of::Worker, Counter, Named, "Responses with bytes behind their end."),
    figure("sozu_worker_log_lost_total", Of::Worker, Counter, Named, "Log lines that could not be written."),
    figure("sozu_listener_connections", Of::Listener, Gauge, Value::Count(Count::Open), "Client connections now."),
    figure("sozu_listener_connections_total", Of::Listener, Counter, Value::Count(Count::Connections), "Client connections accepted."),
    figure("sozu_listener_handshakes_total", Of::Listener, Counter, Handshakes, "TLS handshakes: whole, with a session of before, failed or given up."),
    figure("sozu_listener_responses_total", Of::Listener, Counter, Answered, "Responses by the first digit of their status."),
    figure("sozu_listener_failures_total", Of::Listener, Counter, Failed, "Exchanges and connections that did not end well, by whose doing."),
    figure("sozu_listener_refused_total", Of::Listener, Counter, Refused, "Connections and requests of clients that were beyond a limit, the listener's or a cluster's."),
    figure("sozu_listener_received_bytes_total", Of::Listener, Counter, Value::Count(Count::Received), "Bytes passed on from clients."),
    figure("sozu_listener_sent_bytes_total", Of::Listener, Counter, Value::Count(Count::Sent), "Bytes sent to clients."),
    figure("sozu_listener_duration_seconds", Of::Listener, Histogram, Durations, "From the whole head of a request to the last byte of its response."),
    figure("sozu_certificate_not_after_seconds", Of::Certificate, Gauge, Named, "When a certificate ends, in seconds since 1970; of its names the first four."),
    figure("sozu_cluster_responses_total", Of::Cluster, Counter, Answered, "Responses by the first digit of their status, our own among them."),
    figure("sozu_cluster_failures_total", Of::Cluster, Counter, Failed, "Exchanges and connections that did not end well, by whose doing."),
    figure("sozu_cluster_refused_total", Of::Cluster, Counter, Refused, "Requests to it that were beyond a limit, the listener's or its own."),
    figure("sozu_cluster_received_bytes_total", Of::Cluster, Counter, Value::Count(Count::Received), "Bytes passed on from clients."),
    figure("sozu_cluster_sent_bytes_total", Of::Cluster, Counter, Value::Count(Count::Sent), "Bytes sent to clients."),
    figure("sozu_cluster_queued", Of::Cluster, Gauge, Value::Count(Count::Queued), "Requests that wait now because all its backends have max_connections."),
    figure("sozu_cluster_retries_total", Of::Cluster, Counter, Value::Count(Count::Retried), "Tries after the first one to serve a request."),
    figure("sozu_cluster_duration_seconds", Of::Cluster, Histogram, Durations, "From the whole head of a request to the last byte of its response."),
    figure("sozu_backend_connections", Of::Backend, Gauge, Value::Count(Count::Open), "Connections to it now, idle ones among them."),
    figure("sozu_backend_requests", Of::Backend, Gauge, Value::Count(Count::Busy), "Requests and tunnels that it has now."),
    figure("sozu_backend_connections_total", Of::Backend, Counter, Value::Count(Count::Connections), "Connections to it that were begun."),
    figure("sozu_backend_connect_failures_total", Of::Backend, Counter, Value::Count(Count::ConnectFailed), "Connections to it that could not be made."),
    figure("sozu_backend_avoided_by_workers", Of::Backend, Gauge, Value::Count(Count::Avoided), "Workers that avoid it since its checks, connects or responses failed, until they do not any more."),
    figure("sozu_backend_checks_total", Of::Backend, Counter, Checks, "Health checks of it, by what came of them."),
    figure("sozu_backend_responses_total", Of::Backend, Counter, Answered, "Responses by the first digit of their status."),
    figure("sozu_backend_failures_total", Of::Backend, Counter, Failed, "Exchanges with it that did not end well, by whose doing."),
    figure("sozu_backend_received_bytes_total", Of::Backend, Counter, Value::Count(Count::Received), "Bytes passed on to it."),
    figure("sozu_backend_sent_bytes_total", Of::Backend, Counter, Value::Count(Count::Sent), "Bytes of it that were sent to clients."),
    figure("sozu_backend_first_byte_seconds", Of::Backend, Histogram, Durations, "From its connection to the first byte of its response."),
];

/// One object, or worker, with its labels.
pub struct Object {
    /// `listener="127.0.0.1:80"`, without braces.
    pub labels: String,
    pub totals: Totals,
}

/// Who knows the objects and numbers.
pub trait Source {
    /// How many changes there have been.
    fn moment(&self) -> u64;
    /// The first object of that kind at this place or behind it, and its place.
    /// It was there at that moment, and is counted.
    fn object(&self, of: Of, from: u32, moment: u64) -> Option<(u32, Object)>;
    /// A number that is no counter of a row, of the object at that place.
    fn number(&self, name: &str, at: u32) -> u64;
}

/// Where the next piece begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    figure: u32,
    object: u32,
    /// When the first piece was written.
    moment: Option<u64>,
}

impl Cursor {
    /// Appends at least one object's lines if there are any left, and no more than
    /// about `most` bytes. False: that was the end.
    pub fn write(&mut self, source: &dyn Source, most: usize, out: &mut String) -> bool {
        let moment = *self.moment.get_or_insert_with(|| source.moment());
        while let Some(figure) = FIGURES.get(self.figure as usize) {
            if self.object == 0 {
                figure.write_head(out);
            }
            while let Some((at, object)) = source.object(figure.of, self.object, moment) {
                figure.write(&object, source, at, out);
                self.object = at + 1;
                if out.len() >= most {
                    return true;
                }
            }
            self.figure += 1;
            self.object = 0;
        }
        false
    }
}

/// The limits beyond which something was refused, by the names of their keys.
const REFUSED: [(&str, Count); 5] = [
    (
        "limit=\"max_connections_per_ip\"",
        Count::RefusedConnections,
    ),
    ("limit=\"allow_deny\"", Count::RefusedAddress),
    ("limit=\"request_rate\"", Count::RefusedRate),
    ("limit=\"max_body\"", Count::RefusedBody),
    ("limit=\"min_rate\"", Count::RefusedPace),
];

// Writing to a String cannot fail: the results below say nothing.
impl Figure {
    fn write_head(&self, out: &mut String) {
        let kind = match self.kind {
            Counter => "counter",
            Gauge => "gauge",
            Histogram => "histogram",
        };
        let _ = write!(
            out,
            "# HELP {0} {1}\n# TYPE {0} {kind}\n",
            self.name, self.sentence
        );
    }

    fn write(&self, object: &Object, source: &dyn Source, at: u32, out: &mut String) {
        let (name, labels, totals) = (self.name, &object.labels, &object.totals);
        let mut one = |label: &str, value: u64| {
            let comma = if labels.is_empty() || label.is_empty() {
                ""
            } else {
                ","
            };
            let _ = match labels.is_empty() && label.is_empty() {
                true => writeln!(out, "{name} {value}"),
                false => writeln!(out, "{name}{{{labels}{comma}{label}}} {value}"),
            };
        };
        match self.value {
            Version => one(&label("version", version()), 1),
            Named => one("", source.number(name, at)),
            Value::Count(count) => one("", totals.get(count)),
            Handshakes => {
                one("kind=\"full\"", totals.get(Count::HandshakesFull));
                one("kind=\"resumed\"", totals.get(Count::HandshakesResumed));
                one("kind=\"failed\"", totals.get(Count::HandshakesFailed));
            }
            Refused => {
                for (label, count) in REFUSED {
                    one(label, totals.get(count));
                }
            }
            Checks => {
                one("result=\"passed\"", totals.get(Count::ChecksPassed));
                one("result=\"failed\"", totals.get(Count::ChecksFailed));
            }
            Answered => {
                one("code=\"1xx\"", totals.get(Count::Answered1xx));
                one("code=\"2xx\"", totals.get(Count::Answered2xx));
                one("code=\"3xx\"", totals.get(Count::Answered3xx));
                one("code=\"4xx\"", totals.get(Count::Answered4xx));
                one("code=\"5xx\"", totals.get(Count::Answered5xx));
            }
            Failed => {
                one("by=\"client\"", totals.get(Count::FailedClient));
                one("by=\"backend\"", totals.get(Count::FailedBackend));
                one("by=\"proxy\"", totals.get(Count::FailedProxy));
            }
            Durations => self.write_histogram(labels, totals, out),
        }
    }

    fn write_histogram(&self, labels: &str, totals: &Totals, out: &mut String) {
        let name = self.name;
        let mut all = 0u64;
        for (i, count) in totals.buckets().iter().enumerate() {
            all = count.saturating_add(all);
            let _ = match BOUNDS_US.get(i) {
                Some(us) => writeln!(
                    out,
                    "{name}_bucket{{{labels},le=\"{}\"}} {all}",
                    seconds(*us)
                ),
                None => writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {all}"),
            };
        }
        let sum = seconds(totals.get(Count::Duration));
        let _ = write!(
            out,
            "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {all}\n"
        );
    }
}

/// Microseconds as seconds, without loss: `0.00025`.
fn seconds(us: u64) -> String {
    let text = format!("{}.{:06}", us / 1_000_000, us % 1_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// A label with its value, escaped as the format wants it.
pub fn label(name: &str, value: &str) -> String {
    let escaped = value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n");
    format!("{name}=\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{HEAD_BYTES_MAX, METRICS_PIECE_BYTES, NAME_BYTES_MAX};

    struct Two;

    impl Source for Two {
        fn moment(&self) -> u64 {
            7
        }

        fn object(&self, of: Of, from: u32, moment: u64) -> Option<(u32, Object)> {
            assert_eq!(moment, 7);
            let mut totals = Totals::default();
            totals.cells[super::super::bucket(300)] = 2;
            totals.cells[Count::Duration as usize] = 600;
            totals.cells[Count::Answered2xx as usize] = 2;
            let labels = match of {
                Of::Proxy => String::new(),
                _ => label("id", &from.to_string()),
            };
            let last = if of == Of::Proxy { 0 } else { 1 };
            (from <= last).then_some((from, Object { labels, totals }))
        }

        fn number(&self, _: &str, at: u32) -> u64 {
            u64::from(at) + 40
        }
    }

    #[test]
    fn pieces_make_the_same_text_as_the_whole() {
        let mut whole = String::new();
        assert!(!Cursor::default().write(&Two, usize::MAX, &mut whole));
        for most in [1, 100, 5_000] {
            let (mut cursor, mut all) = (Cursor::default(), String::new());
            loop {
                let mut piece = String::new();
                let more = cursor.write(&Two, most, &mut piece);
                all += &piece;
                if !more {
                    break;
                }
                assert!(!piece.is_empty());
            }
            assert_eq!(all, whole);
        }
        assert!(whole.contains("\nsozu_revision 40\n"));
        assert!(whole.contains("\nsozu_worker_connections{id=\"1\"} 41\n"));
        assert!(whole.contains("\nsozu_cluster_responses_total{id=\"0\",code=\"2xx\"} 2\n"));
        assert!(whole.contains("_bucket{id=\"0\",le=\"0.00025\"} 0\n"));
        assert!(whole.contains("_bucket{id=\"0\",le=\"0.0005\"} 2\n"));
        assert!(whole.contains("_bucket{id=\"0\",le=\"+Inf\"} 2\n"));
        assert!(whole.contains("_sum{id=\"0\"} 0.0006\n"));
    }

    #[test]
    fn names_say_what_they_are() {
        for (i, figure) in FIGURES.iter().enumerate() {
            let total = figure.name.ends_with("_total");
            assert_eq!(total, figure.kind == Counter, "{}", figure.name);
            let seconds = figure.name.ends_with("_seconds");
            assert!(seconds || figure.kind != Histogram, "{}", figure.name);
            assert!(FIGURES[..i].iter().all(|other| other.name != figure.name));
        }
    }

    /// Three objects with the longest names, and numbers of twenty digits.
    struct Long(Of);

    impl Source for Long {
        fn moment(&self) -> u64 {
            0
        }

        fn object(&self, of: Of, from: u32, _: u64) -> Option<(u32, Object)> {
            let longest = "x".repeat(NAME_BYTES_MAX);
            let labels = label("cluster", &longest) + "," + &label("backend", &longest);
            let cells = [u64::MAX; super::super::CELLS];
            let totals = Totals { cells };
            (of == self.0 && from < 3).then_some((from, Object { labels, totals }))
        }

        fn number(&self, _: &str, _: u32) -> u64 {
            u64::MAX
        }
    }

    #[test]
    fn every_piece_fits_a_buffer() {
        for of in [
            Of::Proxy,
            Of::Worker,
            Of::Listener,
            Of::Certificate,
            Of::Cluster,
            Of::Backend,
        ] {
            let (source, mut cursor, mut more) = (Long(of), Cursor::default(), true);
            while more {
                let mut piece = String::new();
                more = cursor.write(&source, METRICS_PIECE_BYTES, &mut piece);
                // A chunk's frame comes to it.
                assert!(piece.len() + 32 < HEAD_BYTES_MAX, "{}", piece.len());
            }
        }
    }

    #[test]
    fn labels_are_escaped() {
        assert_eq!(label("a", "x\"\\\n"), "a=\"x\\\"\\\\\\n\"");
    }
}
