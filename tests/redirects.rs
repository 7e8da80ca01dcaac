//! Requests that are sent to https.

mod common;

use common::{Backend, Setup};

#[test]
fn what_comes_in_the_open_is_sent_to_https() {
    let backend = Backend::named("open");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let listener = proxy.address();
    let add = |rest: &str| format!("frontend add listener={listener} cluster=main {rest}");
    control.transact(&[
        add("hostname=a.test https_redirect=301"),
        add("hostname=b.test https_redirect=308 https_port=8443 hsts=max-age=7"),
        add("hostname=c.test https_redirect=false"),
    ]);
    let mut client = proxy.client();
    for (request, status, location) in [
        (
            "GET /x?y=%20z HTTP/1.1\r\nHost: A.test:8080",
            301,
            "https://A.test/x?y=%20z",
        ),
        ("HEAD / HTTP/1.1\r\nHost: a.test.", 301, "https://a.test./"),
        (
            "POST /form HTTP/1.1\r\nHost: b.test\r\nContent-Length: 0",
            308,
            "https://b.test:8443/form",
        ),
        (
            "GET http://b.test/abs HTTP/1.1\r\nHost: b.test",
            308,
            "https://b.test:8443/abs",
        ),
    ] {
        let method = request.split(' ').next().unwrap_or_default();
        client.send(format!("{request}\r\n\r\n"));
        let answer = client.try_response(method).expect(request);
        assert_eq!(answer.status(), status, "{request}");
        assert_eq!(answer.field("Location"), Some(location));
        // RFC 6797 section 7.2: never in the open.
        assert_eq!(answer.field("Strict-Transport-Security"), None);
    }
    let answer = client.ask("GET / HTTP/1.1\r\nHost: c.test\r\n\r\n");
    assert_eq!(answer.text(), "open", "the connection goes on");
    assert_eq!(backend.requests().len(), 1);
    let line = proxy.wait_access(1, "b.test").remove(0);
    assert!(line.contains(" 308 ") && line.contains(" ok"), "{line}");
    let dump = control.ok("state dump");
    let wanted = " cluster=main https_redirect=308 https_port=8443 hsts=max-age=7";
    assert!(
        dump.data.iter().any(|line| line.ends_with(wanted)),
        "{dump:?}"
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let proxy = Setup::http().backends(&[]).start();
    let mut control = proxy.steer();
    let listener = proxy.address();
    for wrong in [
        "https_redirect=302",
        "https_port=0",
        "https_port=65536",
        "hsts=forever",
        "hsts=preload",
        "hsts=\"max-age=1; max-age=2\"",
    ] {
        let line = format!("frontend add listener={listener} hostname=w cluster=main {wrong}");
        control.refused(&line, "invalid");
    }
}
