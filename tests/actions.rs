//! What a frontend does with its requests besides leading them to a backend.

mod common;

use common::{sozu, Backend, Control, Message, Proxy, Setup};

/// `openssl passwd -5 -salt saltstring "Hello world!"`
const JANE: &str = "jane:$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5";
/// `jane:Hello world!`
const JANES: &str = "Authorization: Basic amFuZTpIZWxsbyB3b3JsZCE=\r\n";

fn frontend(control: &mut Control, proxy: &Proxy, rest: &str) {
    let listener = proxy.address();
    control.ok(&format!("frontend add listener={listener} {rest}"));
}

fn get(proxy: &Proxy, host: &str, path: &str, fields: &str) -> Message {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    proxy.client().ask(request)
}

#[test]
fn clients_are_redirected_without_a_cluster() {
    let proxy = Setup::http().backends(&[]).start();
    let mut control = proxy.steer();
    for rest in [
        "hostname=a.test redirect=https://{host}:8443{path}{query}",
        "hostname=b.test redirect={scheme}://new.test:{port}/x?u={path} redirect_status=308",
        "hostname=c.test redirect=/login redirect_status=303 response_headers=\"add X-A: b\"",
    ] {
        frontend(&mut control, &proxy, rest);
    }
    let mut client = proxy.client();
    for (host, path, status, wanted) in [
        ("a.test", "/b/c?d=e", 302, "https://a.test:8443/b/c?d=e"),
        ("a.test:81", "/", 302, "https://a.test:8443/"),
        (
            "b.test",
            "//evil.test/",
            308,
            "http://new.test:80/x?u=//evil.test/",
        ),
        ("b.test:81", "/a/../b", 308, "http://new.test:81/x?u=/b"),
        ("c.test", "/x", 303, "/login"),
    ] {
        // One connection for all: each leaves it open.
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status(), status, "{host}{path}");
        assert_eq!(answer.field("Location"), Some(wanted), "{host}{path}");
        let edited = (host == "c.test").then_some("b");
        assert_eq!(answer.field("X-A"), edited, "{host}{path}");
    }
    control.ok(&format!("frontend remove listener={}", proxy.address()));
    frontend(&mut control, &proxy, "redirect=https://{host}/");
    client.send("GET / HTTP/1.0\r\n\r\n");
    let answer = client.response();
    assert_eq!(answer.status(), 400, "without Host there is no place");
    let sent = proxy.wait_access(1, "c.test").remove(0);
    let wanted = [" 303 ", " ok \"redirected\""];
    assert!(wanted.iter().all(|text| sent.contains(text)), "{sent}");
}

#[test]
fn frontends_answer_and_deny_without_a_cluster() {
    let proxy = Setup::http().backends(&[]).start();
    let mut control = proxy.steer();
    for rest in [
        "hostname=a.test answer=\"200 pong\"",
        "hostname=b.test answer=\"503 {}\" response_headers=\"set Content-Type: application/json\\nadd X-A: b\\nremove cache-control\"",
        "hostname=c.test answer=204",
        "hostname=d.test deny=true",
        "hostname=e.test answer=418",
    ] {
        frontend(&mut control, &proxy, rest);
    }
    let mut client = proxy.client();
    let mut ask = |host: &str| client.ask(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
    let pong = ask("a.test");
    assert_eq!((pong.status(), pong.text().as_str()), (200, "pong"));
    let kind = pong.field("Content-Type");
    assert_eq!(kind, Some("text/plain; charset=utf-8"));
    assert_eq!(pong.field("Cache-Control"), Some("no-store"));
    let json = ask("b.test");
    assert_eq!((json.status(), json.text().as_str()), (503, "{}"));
    assert_eq!(json.all("Content-Type"), ["application/json"]);
    assert_eq!(json.field("X-A"), Some("b"));
    assert_eq!(json.field("Cache-Control"), None);
    let denied = ask("d.test");
    assert_eq!(denied.status(), 403);
    assert!(denied.text().contains("403 Forbidden"));
    assert_eq!(ask("e.test").status(), 418);
    client.send("GET / HTTP/1.1\r\nHost: c.test\r\n\r\n");
    let answer = client.head();
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.field("Content-Length"), None);
    client.send("HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let answer = client.try_response("HEAD").expect("a head");
    assert_eq!(answer.field("Content-Length"), Some("4"));
    // A body that nobody reads ends the connection.
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\n");
    let answer = client.response();
    assert!(answer.text() == "pong" && answer.connection_says("close"));
    let line = proxy.wait_access(1, "d.test").remove(0);
    assert!(line.contains(" client_denied \"denied\""), "{line}");
}

#[test]
fn a_cluster_lends_its_pages_to_what_its_frontends_deny() {
    let backend = Backend::named("open");
    let setup = Setup::http().backends(&[backend.address()]);
    let proxy = setup.start();
    let mut control = proxy.steer();
    control.ok("cluster update id=main answer_403=\"keep out\"");
    frontend(
        &mut control,
        &proxy,
        "hostname=* path=/admin cluster=main deny=true",
    );
    let mut client = proxy.client();
    let answer = client.get("/admin/x");
    assert_eq!((answer.status(), answer.text().as_str()), (403, "keep out"));
    assert_eq!(client.get("/administration").text(), "open");
    assert_eq!(backend.requests().len(), 1);
}

/// A backend may take it for the same; so do rules.
#[test]
fn no_other_spelling_of_a_path_passes_by_its_frontend() {
    let backend = Backend::named("open");
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    for rest in [
        "hostname=* path=/admin cluster=main deny=true",
        &format!("hostname=* path=/%70rivate//x cluster=main basic_auth=\"{JANE}\""),
        "hostname=* path=/%61pi cluster=main strip_prefix=//ap%69",
    ] {
        frontend(&mut control, &proxy, rest);
    }
    let listed = control.dump().join("\n");
    let written = [
        "path=/admin ",
        "path=/private/x ",
        "path=/api ",
        "strip_prefix=/api",
    ];
    assert!(written.iter().all(|it| listed.contains(it)), "{listed}");
    let mut client = proxy.client();
    for (path, status) in [
        ("/%61dmin", 403),
        ("//admin", 403),
        ("/%61%64%6D%69%6e//x", 403),
        ("/./x/%2e%2e///%61dmin/", 403),
        ("http://h//admin", 403),
        ("/private/x", 401),
        ("/%70rivate///x?y", 401),
        // These are other paths.
        ("/Admin", 200),
        ("/%2561dmin", 200),
        ("/admin%2Fx", 200),
    ] {
        let answer = client.ask(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(answer.status(), status, "{path}");
    }
    for (path, wanted) in [
        // They go on as they came.
        ("/%78//y?%41=//", "/%78//y?%41=//"),
        ("/x/../%7Ey//z", "/%7Ey//z"),
        // But for what is stripped.
        ("//%61pi//%78?%61", "/%78?%61"),
        ("/ap%69", "/"),
    ] {
        assert_eq!(client.get(path).status(), 200);
        assert_eq!(backend.last_request().target(), wanted, "{path}");
    }
}

#[test]
fn requests_and_responses_are_changed_on_their_way() {
    let backend = Backend::answering(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: secret\r\nX-Powered-By: x\r\nSet-Cookie: a=b\r\nLocation: /x\r\n\r\nhi",
    );
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let request =
        "set X-Team: blue\\nadd X-Tag: two\\nremove X-Internal\\nset Authorization: Bearer t";
    let response = "set Server: web\\nremove X-Powered-By\\nadd Set-Cookie: c=d; Path=/";
    frontend(&mut control, &proxy, &format!("hostname=a.test path=/api cluster=main strip_prefix=/api add_prefix=/v2 set_host=inner.test:81 request_headers=\"{request}\" response_headers=\"{response}\""));
    let answer = get(
        &proxy,
        "a.test:8000",
        "/api/x?y=/api",
        "X-Team: red\r\nx_team: green\r\nX-Tag: one\r\nX_Internal: 1\r\nX-Internal: 2\r\nX-Forwarded-Prefix: /evil\r\nAuthorization: mine\r\nX-Other: stays\r\n",
    );
    assert_eq!(answer.text(), "hi");
    assert_eq!(answer.all("Server"), ["web"]);
    assert_eq!(answer.field("X-Powered-By"), None);
    assert_eq!(answer.all("Set-Cookie"), ["a=b", "c=d; Path=/"]);
    assert_eq!(
        answer.field("Location"),
        Some("/x"),
        "as the backend said it"
    );
    let got = backend.last_request();
    assert_eq!(got.target(), "/v2/x?y=/api");
    for (name, wanted) in [
        ("Host", &["inner.test:81"][..]),
        ("X-Forwarded-Host", &["a.test:8000"]),
        ("X-Forwarded-Prefix", &["/api"]),
        ("X-Team", &["blue"]),
        ("x_team", &[]),
        ("X-Tag", &["one", "two"]),
        ("X-Internal", &[]),
        ("X_Internal", &[]),
        ("Authorization", &["Bearer t"]),
        ("X-Other", &["stays"]),
    ] {
        assert_eq!(got.all(name), wanted, "{name}");
    }
    assert!(got
        .field("Forwarded")
        .is_some_and(|it| it.contains("host=\"a.test:8000\"")));
    assert_eq!(get(&proxy, "a.test", "/api", "").status(), 200);
    assert_eq!(backend.last_request().target(), "/v2");
}

/// What is added finds room in a buffer that a body fills.
#[test]
fn long_fields_fit_beside_a_body() {
    let backend = Backend::echo();
    let proxy = Setup::http().backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let long = "x".repeat(2900);
    let edits =
        format!("request_headers=\"set X-Long: {long}\" response_headers=\"set X-Long: {long}\"");
    frontend(
        &mut control,
        &proxy,
        &format!("hostname=a.test cluster=main {edits}"),
    );
    let body = "b".repeat(40_000);
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut client = proxy.client();
    for _ in 0..2 {
        let answer = client.ask(head.clone() + &body);
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.field("X-Long"), Some(&*long));
        assert_eq!(answer.text(), body);
    }
    assert_eq!(backend.last_request().field("X-Long"), Some(&*long));
}

#[test]
fn a_password_is_asked_for() {
    let backend = Backend::named("inside");
    let setup = Setup::http().backends(&[backend.address()]);
    let proxy = setup.start();
    let mut control = proxy.steer();
    frontend(
        &mut control,
        &proxy,
        &format!("hostname=a.test cluster=main basic_auth=\"{JANE}\" realm=\"the yard\""),
    );
    let mut client = proxy.client();
    let wrong = JANES.replace("Z", "Y");
    for (fields, status) in [("", 401), (JANES, 200), (&wrong, 401), (JANES, 200)] {
        let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"));
        assert_eq!(answer.status(), status, "{fields}");
        let challenge = answer.field("WWW-Authenticate");
        let wanted = (status == 401).then_some("Basic realm=\"the yard\", charset=\"UTF-8\"");
        assert_eq!(challenge, wanted);
    }
    assert_eq!(backend.requests().len(), 2);
    assert_eq!(backend.last_request().field("Authorization"), None);
    // Only who was let in has a name.
    for (status, end) in [(" 401 ", " - client_denied "), (" 200 ", " jane ok")] {
        let lines = proxy.wait_access(4, "a.test");
        let mut such = lines.iter().filter(|line| line.contains(status));
        assert_eq!(such.clone().count(), 2, "{lines:?}");
        assert!(such.all(|line| line.contains(end)), "{lines:?}");
    }
    let everything = [proxy.log(), proxy.access(), control.dump()]
        .concat()
        .join("\n");
    let hash = JANE.split(':').nth(1).expect("a hash");
    assert!(!everything.contains(hash), "a hash is a secret");
    assert!(control
        .ok("state dump secrets=true")
        .data
        .join("\n")
        .contains(hash));
}

#[test]
fn a_flood_of_wrong_passwords_does_not_keep_others_out() {
    let backend = Backend::named("inside");
    let setup = Setup::http().top("worker_count", 1);
    let proxy = setup.backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    frontend(
        &mut control,
        &proxy,
        &format!("hostname=a.test cluster=main basic_auth=\"{JANE}\""),
    );
    assert_eq!(get(&proxy, "a.test", "/", JANES).status(), 200);
    let mut client = proxy.client();
    // `jane:x`; each takes 5000 rounds.
    let wrong = "GET / HTTP/1.1\r\nHost: a.test\r\nAuthorization: Basic amFuZTp4\r\n\r\n";
    client.send(wrong.repeat(60));
    let answers: Vec<Message> = (0..60).map(|_| client.response()).collect();
    let later = answers
        .iter()
        .filter(|it| it.status() == 429)
        .collect::<Vec<_>>();
    assert!(!later.is_empty() && later.len() < 60, "{}", later.len());
    assert!(later.iter().all(|it| it.field("Retry-After") == Some("1")));
    assert_eq!(get(&proxy, "a.test", "/", JANES).status(), 200);
}

/// Words that are refused, and a part of the sentence.
const NONSENSE: &[(&str, &str)] = &[
    ("", "cluster: is missing"),
    ("deny=true redirect=https://a/", "has one"),
    ("deny=true answer=200", "has one"),
    ("redirect=https://a/ answer=200", "has one"),
    ("redirect=https://a/ redirect_status=300", "not one of"),
    ("redirect=//a/", "anywhere"),
    ("redirect={path}", "anywhere"),
    ("redirect=/{path}", "anywhere"),
    ("redirect=https://{path}", "behind the scheme"),
    ("redirect=https://a/{regex}", "other words"),
    ("answer=301", "redirect"),
    ("answer=99", "no status"),
    ("answer=\"204 text\"", "there is none"),
    ("answer=\"200 a\" answer_body=b", "a text already"),
    ("cluster=main answer_body=b", "does nothing without answer"),
    ("deny=true set_host=a", "none is asked"),
    ("answer=200 strip_prefix=/x", "begin with it"),
    ("path=/x answer=200 strip_prefix=/x", "none is asked"),
    (
        "redirect=https://a/ request_headers=\"set A: b\"",
        "none is asked",
    ),
    ("deny=true basic_auth=USERS", "lets nobody in"),
    ("cluster=main realm=x", "needs basic_auth"),
    ("cluster=main basic_auth_path=/x", "needs basic_auth"),
    (
        "cluster=main basic_auth_fingerprint=x",
        "basic_auth: is missing",
    ),
    ("cluster=main basic_auth=jane:secret", "openssl passwd -6"),
    (
        "cluster=main realm=\"a\\\"b\" basic_auth=USERS",
        "without quotes",
    ),
    ("cluster=main strip_prefix=/api", "begin with it"),
    ("cluster=main path=/apis strip_prefix=/api", "begin with it"),
    (
        "cluster=main path=/api/ strip_prefix=/api/",
        "leave that out",
    ),
    ("cluster=main add_prefix=/", "leave that out"),
    ("cluster=main add_prefix=/a/../b", "segment"),
    ("cluster=main set_host=a/b", "not a host"),
    ("cluster=main request_headers=\"set Host: a\"", "set_host"),
    (
        "cluster=main request_headers=\"remove Content-Length\"",
        "where a message ends",
    ),
    (
        "cluster=main response_headers=\"set Connection: close\"",
        "one connection",
    ),
    (
        "cluster=main response_headers=\"add Strict-Transport-Security: x\"",
        "hsts",
    ),
    ("cluster=main request_headers=\"set A: b\\tc\"", "control"),
    (
        "cluster=main request_headers=\"set A: b\\nset a: c\"",
        "twice",
    ),
];

#[test]
fn what_makes_no_sense_together_is_refused() {
    let proxy = Setup::http().backends(&[]).start();
    let mut control = proxy.steer();
    let listener = proxy.address();
    for (wrong, why) in NONSENSE {
        let wrong = wrong.replace("USERS", &format!("\"{JANE}\""));
        let line = format!("frontend add listener={listener} hostname=w {wrong}");
        let reply = control.ask(&line);
        let text = format!("{reply:?}");
        assert!(!reply.is_ok() && text.contains(why), "{line}: {text}");
        assert!(!text.contains("$5$"), "{text}");
    }
}

#[test]
fn tcp_is_not_read_so_nothing_can_be_done_with_it() {
    let proxy = Setup::tcp().backends(&[]).start();
    let mut control = proxy.steer();
    let listener = proxy.address();
    control.ok(&format!("frontend remove listener={listener}"));
    for what in [
        format!("cluster=main basic_auth=\"{JANE}\""),
        "deny=true".into(),
    ] {
        let line = format!("frontend add listener={listener} {what}");
        assert!(control.refused(&line, "mismatch").contains("tcp"));
    }
}

#[test]
fn the_file_says_it_too_and_a_reload_reads_its_files_again() {
    let backend = Backend::named("inside");
    let setup = Setup::http();
    setup.file("page.html", "<h1>back soon</h1>");
    setup.file("users", &format!("# who may\n{JANE}\n"));
    let users = setup.path("users");
    let guarded = "hostname = \"b.test\", basic_auth = \"users\", request_headers = [\"set X-A: b\", \"remove X-B\"]";
    let address = format!("address = \"{}\"", backend.address());
    let proxy = setup.cluster("main", &[guarded], &[address]).start();
    let alone = format!("\n[[frontends]]\nlistener = \"{}\"\nhostname = \"a.test\"\nanswer = \"503\"\nanswer_body = \"page.html\"\nresponse_headers = [\"set Content-Type: text/html\", \"set Retry-After: 60\"]\n", proxy.address());
    let config = std::fs::read_to_string(proxy.config()).expect("the configuration");
    std::fs::write(proxy.config(), config + &alone).expect("a new configuration");
    let mut control = proxy.steer();
    control.ok("reload");
    let answer = get(&proxy, "a.test", "/", "");
    assert_eq!(
        (answer.status(), answer.text().as_str()),
        (503, "<h1>back soon</h1>")
    );
    assert_eq!(answer.field("Content-Type"), Some("text/html"));
    assert_eq!(answer.field("Retry-After"), Some("60"));
    assert_eq!(get(&proxy, "b.test", "/", "").status(), 401);
    assert_eq!(get(&proxy, "b.test", "/", JANES).text(), "inside");
    assert_eq!(backend.last_request().field("X-A"), Some("b"));
    // Jane goes, and whom she was let in as is forgotten.
    let john = JANE.replace("jane", "john");
    std::fs::write(&users, &john).expect("other users");
    control.ok("reload");
    assert_eq!(get(&proxy, "b.test", "/", JANES).status(), 401);
    let johns = "Authorization: Basic am9objpIZWxsbyB3b3JsZCE=\r\n";
    assert_eq!(get(&proxy, "b.test", "/", johns).text(), "inside");
    // What is broken changes nothing, and the sentence says where.
    std::fs::write(&users, "john:secret").expect("bad users");
    let reply = format!("{:?}", control.ask("reload"));
    assert!(
        reply.contains("line 1") && !reply.contains("secret"),
        "{reply}"
    );
    let checked = sozu(&["check", "-c", &proxy.config().display().to_string()]);
    assert!(!checked.status.success());
    assert_eq!(get(&proxy, "b.test", "/", johns).text(), "inside");
}

#[test]
fn explain_shows_what_is_done() {
    let proxy = Setup::http().backends(&[common::refused_address()]).start();
    let mut control = proxy.steer();
    for rest in [
        "hostname=a.test redirect=https://{host}{path}{query}",
        "hostname=b.test deny=true",
        &format!("hostname=c.test path=/api cluster=main strip_prefix=/api set_host=inner.test basic_auth=\"{JANE}\" request_headers=\"set X-A: b\""),
        "hostname=d.test https_redirect=301 answer=200",
    ] {
        frontend(&mut control, &proxy, rest);
    }
    let listener = proxy.address();
    for (asked, wanted) in [
        (
            "url=http://a.test:PORT/x?y",
            "answer status=302 why=redirected location=https://a.test/x?y",
        ),
        ("hostname=b.test", "answer status=403 why=denied"),
        (
            "hostname=c.test path=/api/x",
            "password realm=restricted without=\"the answer would be 401\"",
        ),
        (
            "hostname=c.test path=/api/x",
            "rewritten target=/x host=inner.test",
        ),
        (
            "hostname=c.test path=/api/x client=192.0.2.1",
            "told field=X-A value=b",
        ),
        (
            "hostname=c.test path=/api/x client=192.0.2.1",
            "told field=Host value=inner.test",
        ),
        (
            "hostname=d.test",
            "answer status=301 why=\"sent to https\" location=https://d.test/",
        ),
    ] {
        let asked = asked.replace("PORT", &listener.port().to_string());
        let reply = control.ok(&format!("explain listener={listener} {asked}"));
        assert!(
            reply.data.iter().any(|line| line == wanted),
            "{wanted}: {reply:?}"
        );
        assert!(!format!("{reply:?}").contains("$5$"));
    }
}

/// What is saved without its users is closed until they are found again.
#[test]
fn after_a_restart_nobody_comes_in_by_mistake() {
    let backend = Backend::named("inside");
    let setup = Setup::http().top("automatic_state_save", true);
    let saved = format!("{:?}", setup.path("state"));
    setup.file("users", JANE);
    let users = setup.path("users");
    let setup = setup.top("saved_state", saved);
    let mut proxy = setup.backends(&[backend.address()]).start();
    let mut control = proxy.steer();
    let listener = proxy.address();
    let add = |host: &str, more: &str| {
        format!("frontend add listener={listener} hostname={host} cluster=main basic_auth=\"{JANE}\"{more}")
    };
    let known = format!(" basic_auth_path={}", users.display());
    assert_eq!(control.ok(&add("known.test", &known)).data.len(), 0);
    let warned = format!("{:?}", control.ok(&add("unknown.test", "")));
    assert!(warned.contains("after a restart"), "{warned}");
    for host in ["known.test", "unknown.test"] {
        assert_eq!(get(&proxy, host, "/", JANES).text(), "inside");
    }
    drop(control);
    proxy.signal("TERM");
    assert_eq!(proxy.wait_exit().code(), Some(0));
    let state = std::fs::read_to_string(proxy.path("state")).expect("the saved state");
    assert!(
        state.contains("known.test") && !state.contains("$5$"),
        "{state}"
    );
    let proxy = proxy.again(&[]).expect("it starts");
    assert_eq!(get(&proxy, "known.test", "/", JANES).text(), "inside");
    assert_eq!(get(&proxy, "unknown.test", "/", JANES).status(), 401);
    proxy.wait_log("nobody comes in there until it is added again");
}
