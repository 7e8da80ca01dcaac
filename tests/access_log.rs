//! The access log: one line per request, with what was asked and what became
//! of it, and nothing that a log should not keep.

mod common;

use common::{ok, refused_address, wait_until, Backend, Proxy, Setup};

fn before(backend: Backend) -> (Backend, Proxy) {
    let proxy = Setup::http().backends(&[backend.address()]).start();
    (backend, proxy)
}

/// Whether `word` stands in the line, alone or as the value of a key.
fn has_word(line: &str, word: &str) -> bool {
    let parts = line.split([' ', '=', '"', '\t']);
    parts.into_iter().any(|part| part == word)
}

#[test]
fn a_line_for_every_request() {
    let (backend, proxy) = before(Backend::named("ok"));
    let mut client = proxy.client();
    for n in 0..10 {
        let request = format!("PUT /seen/{n} HTTP/1.1\r\nHost: example.com\r\n\r\n");
        assert_eq!(client.ask(request).status(), 200);
    }
    let lines = proxy.wait_access(10, "/seen/");
    for (n, line) in lines.iter().enumerate() {
        for word in ["PUT", "200", "main", "example.com"] {
            assert!(line.contains(word), "{word} in {line:?}");
        }
        assert!(line.contains(&format!("/seen/{n}")), "{line:?}");
        assert!(
            line.contains(&client.local().to_string()),
            "the client in {line:?}"
        );
        assert!(
            line.contains(&backend.address().to_string()),
            "the backend in {line:?}"
        );
    }
    assert_eq!(proxy.client().get("/last").status(), 200);
    proxy.wait_access(1, "/last");
    assert_eq!(proxy.access().len(), 11, "{:?}", proxy.access());
}

/// A refused request, too, and with a word that says why: not the same for
/// what is not the same.
#[test]
fn own_answers_say_why() {
    let cutting = Backend::scripted(|peer, _| peer.request().map(drop));
    let line = |address| [format!("address = \"{address}\"")];
    let proxy = Setup::http()
        .top("request_timeout", 1)
        .cluster(
            "cutting",
            &["hostname = \"cutting.example\""],
            &line(cutting.address()),
        )
        .cluster(
            "refusing",
            &["hostname = \"refusing.example\""],
            &line(refused_address()),
        )
        .start();
    let cases = [
        ("GET / HTTP/1.1\r\nHost: nowhere.example\r\n\r\n", 404),
        ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : nowhere.example\r\n\r\n", 400),
        ("TRACE / HTTP/1.1\r\nHost: nowhere.example\r\n\r\n", 405),
        ("GET / HTTP/3.0\r\nHost: nowhere.example\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\nHost: cutting.example\r\n\r\n", 502),
        ("GET / HTTP/1.1\r\nHost: refusing.example\r\n\r\n", 503),
        ("GET / HTTP/1.1\r\nHost: slow.exam", 408),
    ];
    for (n, (request, status)) in cases.iter().enumerate() {
        let mut client = proxy.client();
        assert_eq!(client.ask(request).status(), *status, "{request:?}");
        let lines = wait_until("its line", || {
            let lines = proxy.access();
            (lines.len() > n).then_some(lines)
        });
        assert_eq!(lines.len(), n + 1, "{lines:?}");
        assert!(
            has_word(&lines[n], &status.to_string()),
            "{status} in {:?}",
            lines[n]
        );
    }
    let lines = proxy.access();
    let letters = |line: &String| -> String {
        let words = line.split([' ', '=', '"', '\t']);
        let plain = |word: &&str| !word.is_empty() && !word.contains(|c: char| c.is_ascii_digit());
        words.filter(plain).collect::<Vec<_>>().join(" ")
    };
    assert_ne!(
        letters(&lines[1]),
        letters(&lines[2]),
        "two reasons for 400"
    );
}

/// Whoever asks cannot write lines of its own, and secrets stay out.
#[test]
fn nothing_to_regret() {
    let (_backend, proxy) = before(Backend::named("ok"));
    let request = "GET /quote\"d?a=%0Ab HTTP/1.1\r\nHost: example.com\r\n\
        Authorization: Basic c2VjcmV0\r\nCookie: session=secret1\r\n\
        User-Agent: \x1b[31m\"evil\"\r\n\r\n";
    let mut client = proxy.client();
    client.send(request.replace("\x1b", "\u{e9}")).response();
    proxy
        .client()
        .send("GET /bad\x1b[31m HTTP/1.1\r\nHost: example.com\r\n\r\n")
        .response();
    assert_eq!(proxy.client().get("/last").status(), 200);
    proxy.wait_access(1, "/last");
    let lines = proxy.access();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in lines.iter().chain(&proxy.log()) {
        let control = line.chars().any(|c| c.is_control() && c != '\t');
        assert!(!control, "{line:?}");
        assert!(
            !line.contains("c2VjcmV0") && !line.contains("secret1"),
            "{line:?}"
        );
    }
}

/// The bytes that went to the client are in its line, head and body.
#[test]
fn sizes() {
    let (_backend, proxy) = before(Backend::answering(ok([b'x'; 54321])));
    let mut client = proxy.client();
    client.send("GET /sized HTTP/1.1\r\nHost: example.com\r\nConnection: close\r\n\r\n");
    let (bytes, _) = client.rest();
    let line = proxy.wait_access(1, "/sized").remove(0);
    assert!(has_word(&line, &bytes.len().to_string()), "{line:?}");
}

/// A file that was moved away is not written to after SIGUSR1.
#[test]
fn a_file_that_is_rotated() {
    let backend = Backend::named("ok");
    let setup = Setup::http();
    let (file, moved) = (setup.path("access.log"), setup.path("access.log.1"));
    let setup = setup.top("log_access_target", format!("{file:?}"));
    let proxy = setup.backends(&[backend.address()]).start();
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let arrives = |path, text: &str| {
        wait_until(text, || read(path).contains(text).then_some(()));
    };
    assert_eq!(proxy.client().get("/first").status(), 200);
    arrives(&file, "/first");
    std::fs::rename(&file, &moved).expect("rename");
    proxy.signal("USR1");
    wait_until("a new file", || file.exists().then_some(()));
    wait_until("a line in the new file", || {
        assert_eq!(proxy.client().get("/again").status(), 200);
        read(&file).contains("/again").then_some(())
    });
    assert!(!read(&file).contains("/first"));
    assert!(read(&moved).contains("/first"));
    assert!(proxy.access().is_empty(), "not on standard output as well");
}

#[test]
fn none_at_all() {
    let backend = Backend::named("ok");
    let setup = Setup::http().top("log_access_target", "\"none\"");
    let proxy = setup.backends(&[backend.address()]).start();
    for _ in 0..5 {
        assert_eq!(proxy.client().get("/unseen").status(), 200);
    }
    proxy.control("status");
    let all = [proxy.access(), proxy.log()].concat();
    assert!(!all.iter().any(|line| line.contains("/unseen")), "{all:?}");
}
