//! `top` and `metrics` as a person sees them, and as programs do.

#[path = "../../tests/common/mod.rs"]
mod common;

use common::{sozuctl, wait_until, Backend, Proxy, Setup};
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn top_shows_one_sample() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let socket = proxy.path("command.sock").display().to_string();
    let output = sozuctl(&["-s", &socket, "top", "--once"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("sozu ") && text.contains("requests/s"),
        "{text}"
    );
    let pid = proxy.worker().pid.to_string();
    assert!(text.lines().any(|line| line.contains(&pid)), "{text}");
    let output = sozuctl(&["-s", &socket, "--json", "top", "--once"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("\"result\":{\"requests_per_s\":0,"), "{text}");
}

/// Asks again and again while something is done.
fn under_load<T>(proxy: &Proxy, act: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = proxy.client();
            while !done.load(Ordering::Relaxed) {
                assert_eq!(client.get("/").text(), "ok");
            }
        });
        let result = act();
        done.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn top_shows_clusters_and_backends() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let socket = proxy.path("command.sock").display().to_string();
    let output = under_load(&proxy, || sozuctl(&["-s", &socket, "top", "--once"]));
    let text = String::from_utf8_lossy(&output.stdout);
    for start in ["main ", "  main-0 "] {
        let row = text.lines().find(|line| line.starts_with(start));
        let words: Vec<&str> = row.expect(start).split_whitespace().collect();
        let number = |n: usize| words[n].parse::<f64>().expect(words[n]);
        assert!(number(1) > 0.0 && words[2] == "0.0", "{text}");
        assert!(number(3) > 0.0 && number(3) <= number(5), "{text}");
        assert!(row.expect(start).ends_with('█'), "{text}");
    }
    let json = under_load(&proxy, || {
        sozuctl(&["-s", &socket, "--json", "top", "--once"])
    });
    let text = String::from_utf8_lossy(&json.stdout);
    let backend = text
        .split("{\"subject\":\"backend\",")
        .nth(1)
        .expect("a backend");
    let rate = backend.split("\"requests_per_s\":").nth(1).expect("a rate");
    let rate = rate.split(',').next().unwrap_or("").parse::<f64>();
    assert!(rate.is_ok_and(|rate| rate > 0.0), "{text}");
    assert!(!text.contains("buckets"), "{text}");
}

#[test]
fn metrics_are_a_table_that_fits() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let socket = proxy.path("command.sock").display().to_string();
    for _ in 0..3 {
        proxy.client().get("/");
    }
    wait_until("all are counted", || {
        let data = proxy.control("metrics").data.join("\n");
        (data.matches(" 2xx=3 ").count() == 3).then_some(())
    });
    let text = |words: &[&str]| {
        let output = sozuctl(&[&["-s", &socket], words].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let table = text(&["metrics"]);
    for noun in ["worker", "listener", "cluster", "backend"] {
        assert!(table.lines().any(|line| line.starts_with(noun)), "{table}");
    }
    assert!(
        table.contains(" p99_ms") && !table.contains("buckets"),
        "{table}"
    );
    assert!(
        table.lines().all(|line| line.chars().count() <= 160),
        "{table}"
    );
    let one = text(&["metrics", "--cluster", "main"]);
    assert!(!one.contains("listener") && one.contains("main-0"), "{one}");
    let json = text(&["--json", "metrics", "--cluster", "main"]);
    assert_eq!(json.matches("\"buckets\":\"").count(), 2, "{json}");
    assert!(
        json.contains("\"2xx\":3,") && !json.contains("\"p99_ms\":\""),
        "{json}"
    );
    let unknown = sozuctl(&["-s", &socket, "metrics", "--cluster", "none"]);
    assert_eq!(unknown.status.code(), Some(1));
    let why = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(why.contains("cluster none does not exist"), "{why}");
}
