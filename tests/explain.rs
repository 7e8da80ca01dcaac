//! `explain` on the real binary: what it says happens, happens.

mod common;

use common::{free_address, refused_address, Backend, Control, Setup};

#[track_caller]
fn last_of(control: &mut Control, line: &str, code: &str) -> String {
    let reply = control.ask(line);
    assert_eq!(reply.code(), code, "{line}: {reply:?}");
    reply.last
}

/// By the port of the URL, or because there is no other.
#[test]
fn the_listener_is_found() {
    let backend = Backend::named("ok");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let (own, port) = (proxy.address(), proxy.address().port());
    control.ok("explain hostname=a");
    control.ok(&format!("explain url=http://a:{port}/x#there"));
    let reply = control.ok(&format!("explain url=HTTP://A.example:{port}"));
    assert!(reply.data[0].starts_with(&format!("listener add address={own} ")));
    let what = last_of(&mut control, "explain url=http://a/", "missing");
    let wanted =
        format!("no listener has port 80: the connection would be refused; there is {own}");
    assert!(what.contains(&wanted), "{what}");
    // What is given wins over the port: something in front may change it.
    control.ok(&format!("explain url=http://a/ listener={own}"));

    let other = std::net::SocketAddr::from(([127, 0, 0, 2], port));
    control.insist(&format!("listener add address={other} protocol=http"));
    for question in ["hostname=a".to_string(), format!("url=http://a:{port}/")] {
        let what = last_of(&mut control, &format!("explain {question}"), "invalid");
        let wanted = format!("several listeners may be meant, {own}, {other}: give one");
        assert!(what.contains(&wanted), "{what}");
    }
    let question = format!("explain url=http://a:{port}/ listener={other}");
    let what = last_of(&mut control, &question, "missing");
    assert!(what.contains("the answer would be 404"), "{what}");
}

#[test]
fn what_cannot_be_asked() {
    let proxy = Setup::http().backends(&[refused_address()]).start();
    let mut control = proxy.steer();
    for (question, wanted) in [
        ("", "give url, or hostname"),
        (
            "url=http://a/ hostname=a",
            "give either it, or hostname and path",
        ),
        (
            "url=http://a/ path=/",
            "give either it, or hostname and path",
        ),
        ("url=a/b", "is not a URL like http://"),
        ("url=\"http://a/ b\"", "is not ASCII without spaces"),
        ("url=http://a/%zz", "a malformed %xx"),
        ("url=http://a:0/", "port 0"),
        ("url=http://u@a/", "userinfo"),
        ("url=http:///", "an empty host"),
        ("hostname=a method=TRACE", "the answer would be 405"),
        ("hostname=a client=192.0.2.7:80", "is not an IP address"),
    ] {
        let what = last_of(&mut control, &format!("explain {question}"), "invalid");
        assert!(what.contains(wanted), "{question}: {what}");
    }
}

/// A URL says by its scheme whether TLS is spoken.
#[test]
fn who_speaks_otherwise_than_the_url_is_not_understood() {
    let mut control = Setup::http().backends(&[refused_address()]).start();
    let address = control.address();
    let mut steer = control.steer();
    let question = format!("url=https://a:{}/", address.port());
    let what = last_of(&mut steer, &format!("explain {question}"), "mismatch");
    assert!(what.contains("no TLS is spoken there"), "{what}");
    control = Setup::https().backends(&[refused_address()]).start();
    let port = control.address().port();
    let mut steer = control.steer();
    let what = last_of(
        &mut steer,
        &format!("explain url=http://a:{port}/"),
        "mismatch",
    );
    assert!(what.contains("the answer would be 400"), "{what}");
    let reply = steer.ok(&format!("explain url=https://a:{port}/ client=192.0.2.7"));
    let told = "told field=X-Forwarded-Proto value=https".to_string();
    assert!(reply.data.contains(&told), "{reply:?}");
}

/// What is told is what comes.
#[test]
fn the_backend_is_told_that() {
    let backend = Backend::named("ok");
    let setup = Setup::http().listener("trusted_proxies", "[\"127.0.0.1\"]");
    let proxy = setup.backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let port = proxy.address().port();
    let question = format!("explain url=http://www.example.com:{port}/a/../b?c client=");
    let reply = control.ok(&format!("{question}127.0.0.1"));
    let believed = "client address=127.0.0.1 trusted=true believed=\"X-Forwarded-Proto, ";
    assert!(reply.data[1].starts_with(believed), "{reply:?}");
    let mut client = proxy.client();
    let request = format!("GET /a/../b?c HTTP/1.1\r\nHost: www.example.com:{port}\r\n\r\n");
    assert_eq!(client.ask(request).status(), 200);
    let received = String::from_utf8(backend.bytes()).expect("text");
    let mut wanted: Vec<String> = received.lines().skip(1).map(str::to_string).collect();
    wanted.retain(|line| !line.is_empty());
    for line in &mut wanted {
        if line.starts_with("X-Request-Id: ") {
            *line = "X-Request-Id: (32 hexadecimal digits)".into();
        }
    }
    let told = reply.data.iter().filter_map(|line| {
        let (field, value) = line.strip_prefix("told field=")?.split_once(" value=")?;
        let value = value.trim_matches('"').replace("\\\"", "\"");
        Some(format!("{field}: {value}"))
    });
    let told: Vec<String> = told.collect();
    assert_eq!(told, wanted);
    let reply = control.ok(&format!("{question}127.0.0.2"));
    assert!(reply.data[1].contains("trusted=false"), "{reply:?}");
    assert!(reply.data[1].contains("are replaced"), "{reply:?}");
}

#[test]
fn a_tcp_listener_leads_to_its_cluster() {
    let backend = Backend::named("ok");
    let proxy = Setup::tcp().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let reply = control.ok("explain client=192.0.2.7");
    let text = reply.data.join("\n");
    assert!(text.contains("the backend is told nothing"), "{text}");
    assert!(text.contains("cluster add id=main protocol=tcp"), "{text}");
    assert!(text.contains("chosen=\"yes, by weight\""), "{text}");
    let own = proxy.address();
    control.ok("backend update cluster=main id=main-0 state=down");
    let what = last_of(&mut control, "explain", "missing");
    let wanted = "no backend of cluster main takes requests: the connection would be reset";
    assert!(what.contains(wanted), "{what}");
    proxy.client().ends();
    control.ok(&format!("frontend remove listener={own}"));
    let what = last_of(&mut control, "explain", "missing");
    assert!(
        what.contains("no frontend leads from this listener"),
        "{what}"
    );
    proxy.client().ends();
    control.ok(&format!("listener disable address={own}"));
    let what = last_of(&mut control, "explain", "missing");
    assert!(
        what.contains("is disabled: the connection would be refused"),
        "{what}"
    );
    assert!(std::net::TcpStream::connect(own).is_err());
    let nobody = free_address();
    let what = last_of(
        &mut control,
        &format!("explain listener={nobody}"),
        "missing",
    );
    assert!(what.contains("no listener has this address"), "{what}");
    control.ok(&format!("listener remove address={own}"));
    let what = last_of(&mut control, "explain", "missing");
    assert!(what.contains("there is no listener"), "{what}");
}
