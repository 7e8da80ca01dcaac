use super::*;
use crate::config::{check, Target};
use crate::state::{HostRule, PathRule};
use std::path::PathBuf;

/// Reads a file in /etc/sozu, beside which every file holds its own path.
fn read_text(text: &str) -> Result<(Config, Vec<Warning>), Errors> {
    let mut file = |path: &Path| match path.file_name().and_then(|name| name.to_str()) {
        Some("gone.html") => Err(io::Error::from(io::ErrorKind::NotFound)),
        Some("one.pem") => Ok(include_str!("../../../tests/certificates/one.pem").into()),
        Some("one.key") => Ok(include_str!("../../../tests/certificates/one.key").into()),
        Some("two.pem") => Ok(include_str!("../../../tests/certificates/two.pem").into()),
        Some("two.key") => Ok(include_str!("../../../tests/certificates/two.key").into()),
        _ => Ok(path.display().to_string()),
    };
    read(text, "config.toml", Path::new("/etc/sozu"), &mut file)
}

fn good(text: &str) -> Config {
    let (config, warnings) = read_text(text).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(warnings, [], "{text}");
    config
}

/// `line:column: what` of each error.
fn bad(text: &str) -> Vec<String> {
    let Errors(reports) = read_text(text).expect_err(text);
    let reports = reports.into_iter().map(|report| {
        let (line, column) = report.position.expect("a position");
        format!("{line}:{column}: {}", report.what)
    });
    reports.collect()
}

#[test]
fn an_empty_file_is_all_defaults() {
    let Config { settings, state } = good("");
    assert_eq!(state, State::default());
    assert_eq!(
        settings.command_socket,
        PathBuf::from("/etc/sozu/command.sock")
    );
    assert_eq!(settings.log_target, Target::Stdout);
    assert_eq!(settings.log_access_target, Some(Target::Stdout));
    assert_eq!(settings.worker_count, 2);
    assert_eq!(settings.max_connections, None);
    assert_eq!(settings.timeouts.connect, 3);
    assert_eq!(settings.timeouts.tunnel, 3600);
}

#[test]
fn settings_are_read() {
    let settings = good(
        "command_socket='/run/sozu.sock'\nsaved_state='state'\nautomatic_state_save=true\n\
         log_level='info,sozu_lib::parser::http11=trace'\nlog_target='file:///var/log/sozu'\n\
         log_access_target='none'\nmax_connections=1_000\nfront_timeout=5",
    )
    .settings;
    assert_eq!(settings.command_socket, PathBuf::from("/run/sozu.sock"));
    assert_eq!(settings.saved_state, Some("/etc/sozu/state".into()));
    assert_eq!(settings.log_target, Target::File("/var/log/sozu".into()));
    assert_eq!(settings.log_access_target, None);
    assert_eq!(settings.max_connections, Some(1000));
    assert_eq!(settings.timeouts.front, 5);
    assert_eq!(Settings::decode(&settings.encode()), Ok(settings));
}

const WHOLE: &str = r#"
connect_timeout = 7

[[listeners]]
protocol = "http"
address = "0.0.0.0:80"
front_timeout = 30
trusted_proxies = ["::1", "10.0.0.0/8"]
answers = { 404 = "404.html" }
answer_503 = "/srv/503.html"

[clusters.web]
load_balancing = "ROUND_ROBIN"
frontends = [
    { address = "0.0.0.0:80", hostname = "WWW.example.com" },
    { address = "0.0.0.0:80", hostname = "*.example.com", path = "/api", path_type = "EQUALS", method = "GET" },
]

[[clusters.web.backends]]
address = "10.0.0.1:8080"
weight = 50

[[clusters.web.backends]]
address = "10.0.0.1:8080"
backend_id = "spare"
backup = true

[applications.db]
protocol = "tcp"
frontends = [{ address = "[::]:5432" }]
backends = [{ address = "10.0.0.2:5432" }]
"#;

#[test]
fn listeners_and_clusters_are_read() {
    let state = good(WHOLE).state;
    let listeners: Vec<_> = state.listeners().collect();
    let [http, tcp] = listeners.as_slice() else {
        panic!("two listeners");
    };
    assert_eq!((http.timeouts.front, http.timeouts.connect), (30, 7));
    assert_eq!(http.trusted_proxies.len(), 2);
    assert_eq!(http.answers[&404], "/etc/sozu/404.html");
    assert_eq!(http.answers[&503], "/srv/503.html");
    assert_eq!((tcp.protocol, tcp.timeouts.connect), (Protocol::Tcp, 7));

    let backends: Vec<_> = state.backends_of("web").collect();
    assert_eq!((&*backends[0].id, backends[0].weight), ("spare", 100));
    assert_eq!((&*backends[1].id, backends[1].weight), ("web-0", 50));
    assert!(backends[0].backup && !backends[1].backup);

    let frontends: Vec<_> = state.frontends().collect();
    assert_eq!(frontends.len(), 3);
    assert_eq!(
        frontends[0].identity.hostname,
        HostRule::Exact("www.example.com".into())
    );
    assert_eq!(frontends[0].identity.path, PathRule::Prefix("/".into()));
    assert_eq!(frontends[1].identity.path, PathRule::Exact("/api".into()));
    assert_eq!(frontends[1].identity.method.as_deref(), Some("GET"));
    assert_eq!(frontends[2].cluster.as_deref(), Some("db"));

    let mut replay = State::default();
    for change in state.dump() {
        replay.apply(&change).expect("a dump applies");
    }
    assert_eq!(replay, state);
}

#[test]
fn an_error_shows_its_line_and_the_nearest_key() {
    let text = "worker_count = 2\n\n[clusters.web]\nfrontends = [\n\t{ address = \"1.2.3.4:80\", hostnam = \"é\" },\n]\n";
    let errors = read_text(text).expect_err("a misspelt key");
    assert_eq!(
        errors.to_string(),
        "config.toml:5:28: unknown key \"hostnam\": did you mean hostname?\n    \
         { address = \"1.2.3.4:80\", hostnam = \"é\" },\n                              ^"
    );
}

#[test]
fn of_a_long_line_a_part_is_shown() {
    let text = format!("x = [{}]", "'é', ".repeat(1000));
    let errors = read_text(&format!("{text}\ny = '{}' z", "é".repeat(1000))).expect_err("junk");
    let shown = errors.to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert_eq!(
        lines[0],
        "config.toml:2:1008: expected the end of the line, found \"z\""
    );
    let caret = lines[2].chars().position(|c| c == '^').expect("a caret");
    assert_eq!(lines[1].chars().nth(caret), Some('z'));
    assert!(lines[1].chars().count() < 120);
}

#[test]
fn all_errors_are_collected_in_order() {
    assert_eq!(
        bad("worker_count='2'\nbuffer_size=1\n[clusters.a]\nprotocol='udp'\n[[listeners]]\nx=1"),
        [
            "1:14: worker_count: expected integer, 1 to 64, found a string",
            "2:13: buffer_size: 1 is not between 16384 and 1048576",
            "4:10: protocol: \"udp\" is not one of: http, tcp",
            "5:3: address: is missing",
            "6:1: unknown key \"x\"",
        ]
    );
    let many: String = (0..100).map(|n| format!("unknown_{n} = 1\n")).collect();
    assert_eq!(bad(&many).len(), crate::limits::CONFIG_REPORTS_MAX);
}

/// A file and its one error.
const BAD: &[(&str, &str)] = &[
        ("a =", "1:4: expected a value, found the end of the file"),
        ("log_level='inof'", "1:11: log_level: \"inof\" is not one of: off, error, warn, info, debug, trace"),
        ("log_target='udp://1.2.3.4:5'", "1:12: log_target: \"udp://1.2.3.4:5\" is not supported: give stdout, stderr or a file"),
        ("log_target='none'", "1:12: log_target: takes no \"none\": set log_level to off"),
        ("automatic_state_save=true", "1:22: automatic_state_save: does nothing without saved_state: leave it out, or unset it"),
        ("front_timeout=0", "1:15: front_timeout: 0 is not between 1 and 31536000"),
        ("listeners=1", "1:11: expected an array of tables, found an integer"),
        ("clusters=[]", "1:10: expected a table of tables, found an array"),
        ("clusters.a=1", "1:12: expected tables, found an integer"),
        ("clusters.'a b'={}", "1:10: id: \"a b\" is not ASCII without spaces, quotes and backslashes"),
        ("clusters.a={id='b'}", "1:13: unknown key \"id\""),
        ("listeners=[{protocol='http',address='1.2.3.4:443',strict_sni=true}]", "1:62: strict_sni: belongs to an https listener only"),
        ("listeners=[{protocol='https',address='1.2.3.4:443',tls_versions=['TLSv1.1']}]", "1:65: tls_versions: \"TLSv1.1\" is not one of: TLSv1.2, TLSv1.3"),
        ("listeners=[{protocol='https',address='1.2.3.4:443',tls_versions=[]}]", "1:65: tls_versions: takes at least one"),
        ("listeners=[{protocol='https',address='1.2.3.4:443',cipher_list='a b'}]", "1:64: cipher_list: takes 1 to 4096 ASCII characters, names with colons between"),
        ("listeners=[{protocol='https',address='1.2.3.4:443',certificate='one.pem'}]", "1:64: key: is missing"),
        ("listeners=[{protocol='http',address='1.2.3.4:443',certificate='one.pem',key='one.key'}]", "1:63: listener 1.2.3.4:443 speaks http: only an https one has certificates"),
        ("listeners=[{protocol='https',address='1.2.3.4:443',certificate='one.pem',key='two.key'}]", "1:64: certificate: the key does not belong to the certificate of one.example.com"),
        ("listeners=[{protocol='https',address='1.2.3.4:443',certificate='gone.html',key='two.key'}]", "1:64: certificate: /etc/sozu/gone.html cannot be read: entity not found"),
        ("listeners=[{protocol='https',address='1.2.3.4:443',certificate='other',key='two.key'}]", "1:64: certificate: /etc/sozu/other is no PEM, which has a line -----BEGIN …-----"),
        ("certificates=[{listener='1.2.3.4:443',certificate='one.pem',key='one.key'}]", "1:51: listener 1.2.3.4:443 does not exist"),
        ("certificates=[{listener='1.2.3.4:443',certificate='one.key',key='one.key'}]", "1:51: certificate: the certificate is no PEM certificate"),
        ("listeners=[{protocol='http',address='1.2.3.4'}]", "1:37: address: \"1.2.3.4\" is not an address like 127.0.0.1:8080 or [::1]:8080"),
        ("listeners=[{protocol='http',address='1.2.3.4:0'}]", "1:37: address: \"1.2.3.4:0\" has port 0: give one from 1 to 65535"),
        ("listeners=[{address='1.2.3.4:1'}]", "1:12: protocol: is missing"),
        ("listeners=[{protocol='tcp',address='1.2.3.4:1'},{protocol='http',address='1.2.3.4:1'}]", "1:74: listener 1.2.3.4:1 already exists"),
        ("listeners=[{protocol='tcp',address='1.2.3.4:1',trusted_proxies=['10.0.0.1/8']}]", "1:64: trusted_proxies: \"10.0.0.1/8\" has bits set behind its prefix"),
        ("listeners=[{protocol='tcp',address='1.2.3.4:1',answers={404='gone.html'}}]", "1:61: answer 404: /etc/sozu/gone.html cannot be read: entity not found"),
        ("listeners=[{protocol='tcp',address='1.2.3.4:1',answers={200='x'}}]", "1:57: answers: \"200\" is no status that we answer with"),
        ("listeners=[{protocol='tcp',address='1.2.3.4:1',answers={404='x'},answer_404='x'}]", "1:61: answer 404: 404 is given twice"),
        ("listeners=[{protocol='metrics',address='1.2.3.4:1',expect_proxy=true}]", "1:65: expect_proxy: belongs to no metrics listener"),
        ("listeners=[{protocol='tcp',address='1.2.3.4:1',proxy_sources=['::1']}]", "1:62: proxy_sources: does nothing without expect_proxy = true: leave it out, or unset it"),
        ("clusters.a={hash_on='body'}", "1:21: hash_on: \"body\" is not source, path, header:NAME or cookie:NAME"),
        ("clusters.a={health_path='/x'}", "1:25: health_path: does nothing without health_check = http: leave it out, or unset it"),
        ("clusters.a={health_check='tcp',health_host='a'}", "1:44: health_host: does nothing with health_check = tcp, without tls = true: leave it out, or unset it"),
        ("clusters.a={protocol='tcp',sticky_session=true}", "1:43: sticky_session: does nothing without protocol = http: leave it out, or unset it"),
        ("clusters.a={tls_ca='one.pem',tls_verify=false}", "1:41: tls_verify: does nothing without tls = true, nor does tls_ca: leave them out, or unset them"),
        ("frontends=[{listener='1.2.3.4:1',deny=true,redirect_status=308}]", "1:60: redirect_status: does nothing without redirect: leave it out, or unset it"),
        // One error, and nothing that follows from it alone.
        ("frontends=[{listener='1.2.3.4:1',redirect='x'}]", "1:43: redirect: \"x\" begins neither with https://, http:// or {scheme}:// nor with / and a name: it could lead anywhere"),
        ("clusters.a.frontends=[{listener='1.2.3.4:1',basic_auth='gone.html',realm='x'}]", "1:56: basic_auth: /etc/sozu/gone.html cannot be read: entity not found"),
        ("clusters.a={health_check='ping',health_path='/x'}", "1:26: health_check: \"ping\" is not one of: none, tcp, http"),
        ("listeners=[{protocol='https',address='1.2.3.4:1',groups=1}]\ncertificates=[{listener='1.2.3.4:1',certificate='one.pem',key='one.key'}]", "1:57: groups: expected a string, found an integer"),
        ("clusters.a={backends=[{address='127.0.0.1:1',sticky_id='a;b'}]}", "1:56: sticky_id: \"a;b\" is not a value for a cookie: it has a comma or semicolon"),
        ("clusters.a.backends=[{address='127.0.0.1:1',id='a,b'}]", "1:48: id: \"a,b\" is not a value for a cookie: it has a comma or semicolon"),
        ("clusters.a.backends=[{address='1.2.3.4:1',id='x'},{address='1.2.3.4:1',id='y',sticky_id='x'}]", "1:75: backends y and x of cluster a would both be \"x\" in a cookie: give one of them another sticky_id"),
        ("clusters.a.backends=[{address='localhost'}]", "1:31: address: \"localhost\" is not an address like 127.0.0.1:8080, [::1]:8080, app.internal:8080 or unix:/run/app.sock"),
        ("clusters.a.backends=[{address='1.2.3.4:1',id='x'},{address='1.2.3.4:1',backend_id='x'}]", "1:83: backend x of cluster a already exists"),
        ("clusters.a.backends=[{address='1.2.3.4:1',id='x',backend_id='x'}]", "1:46: id: is given twice"),
        ("clusters.a.backends=[{address='1.2.3.4:1',weight=257}]", "1:50: weight: 257 is not between 0 and 256"),
        ("clusters.a.frontends=[{hostname='x'}]", "1:23: listener: is missing"),
        ("clusters.a.frontends=[{address='1.2.3.4:1',hostname='x:80'}]", "1:53: hostname: a hostname has no port: the listener has it"),
        ("clusters.a.frontends=[{address='1.2.3.4:1',path='/a/../b'}]", "1:49: path: a path has no \".\" or \"..\" segment: no request would match it"),
        ("clusters.a.frontends=[{address='1.2.3.4:1',path_type='REGEX'}]", "1:54: path_type: \"REGEX\" is not supported by this version"),
        ("clusters.a.frontends=[{address='1.2.3.4:1',method='GET '}]", "1:51: method: \"GET \" is not a method like GET"),
        ("clusters.a.frontends=[{address='1.2.3.4:1'},{address='1.2.3.4:1'}]", "1:45: frontend * / (prefix) on 1.2.3.4:1 (to cluster a) already exists"),
        ("clusters.a={}\napplications.a={}", "2:14: cluster a already exists"),
        ("[clusters.a]\nprotocol='tcp'\n[[clusters.a.frontends]]\naddress='1.2.3.4:1'\nhostname='x'", "3:14: frontend x / (prefix) on 1.2.3.4:1 is a tcp one: it takes no hostname, path or method"),
        ("[[listeners]]\nprotocol='tcp'\naddress='1.2.3.4:1'\n[[clusters.a.frontends]]\naddress='1.2.3.4:1'", "4:14: listener 1.2.3.4:1 speaks tcp but cluster a speaks http: give both the same protocol"),
];

/// In all places: of its own, in a listener, where it is the default, and in frontends, which
/// may have the same, and make an https listener.
#[test]
fn certificates_are_read() {
    let state = good(
        "certificates=[{address='1.2.3.4:443',certificate='one.pem',key='one.key'}]\n\
         [[listeners]]\nprotocol='HTTPS'\naddress='1.2.3.4:443'\ncertificate='two.pem'\nkey='two.key'\n\
         tls_versions=['TLS_V13']\ncipher_list=['a','b']\n\
         [clusters.a]\nfrontends=[\
         {address='1.2.3.4:444',hostname='a',certificate='one.pem',certificate_chain='two.pem',key='one.key'},\
         {address='1.2.3.4:444',hostname='b',certificate='one.pem',key='one.key'}]",
    )
    .state;
    let listeners: Vec<_> = state.listeners().collect();
    assert!(listeners.iter().all(|one| one.protocol == Protocol::Https));
    let tls = listeners[0].tls.as_ref().expect("a policy");
    assert_eq!((tls.versions.len(), &*tls.cipher_list), (1, "a:b"));
    let told: Vec<_> = state
        .certificates()
        .map(|one| (one.listener.port(), one.names_text(), one.default))
        .collect();
    let one = "one.example.com,*.one.example.com".to_string();
    assert_eq!(
        told,
        [
            (443, "two.example.com".into(), true),
            (443, one.clone(), false),
            (444, one, false)
        ]
    );
    let paths = &state.certificates().nth(2).expect("a third").paths;
    assert_eq!(paths.certificate.as_deref(), Some("/etc/sozu/one.pem"));
    assert_eq!(paths.chain.as_deref(), Some("/etc/sozu/two.pem"));
    assert_eq!(paths.key.as_deref(), Some("/etc/sozu/one.key"));
}

#[test]
fn bad_files_are_refused() {
    for (text, error) in BAD {
        assert_eq!(bad(text), [*error], "{text}");
    }
}

#[test]
fn keys_without_effect_are_warned_of() {
    let result = read_text("pid_file_path='x'\nmetrics={}\nclusters.a={sticky_session=false}");
    let text = check("config.toml", &result);
    let expected = "warning: config.toml:1:1: pid_file_path has no effect here. \
                    The pid never changes; \"sozuctl status\" shows it.\n    \
                    pid_file_path='x'\n    ^\n\
                    warning: config.toml:2:1: metrics has no effect here. \
                    Metrics are not sent; \"sozuctl status\" shows them.\n    \
                    metrics={}\n    ^\n\
                    config.toml: ok, listeners: 0, clusters: 1, frontends: 0, backends: 0, certificates: 0\n";
    assert_eq!(text, expected);
    let text = check("config.toml", &read_text("x=1"));
    assert_eq!(
        text,
        "config.toml:1:1: unknown key \"x\"\n    x=1\n    ^\nconfig.toml: not taken\n"
    );
}

/// A second pass over what was read would make this take minutes.
#[test]
fn a_large_file_is_read_in_linear_time() {
    let mut text = String::new();
    for n in 0..100_000 {
        text.push_str(&format!(
            "[[clusters.web.frontends]]\naddress='1.2.3.4:80'\nhostname='h{n}.example.com'\n"
        ));
    }
    assert_eq!(good(&text).state.frontends().count(), 100_000);
}

#[test]
fn a_file_that_is_not_there_is_said() {
    let errors = load(Path::new("/nonexistent/config.toml")).expect_err("not there");
    let text = errors.to_string();
    assert!(
        text.starts_with("/nonexistent/config.toml: cannot be read: "),
        "{text}"
    );
}
