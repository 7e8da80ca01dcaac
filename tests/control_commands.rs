//! Every command of the control language on the real binary, with arguments
//! that it takes and arguments that it does not, as raw bytes.

mod common;

use common::{free_address, program, Control, Proxy, Setup};
use sozu_lib::config::keys::Key;
use sozu_lib::proto::table::{command_key, find, Row, COMMANDS};
use sozu_lib::state::Code;
use std::collections::BTreeSet;

/// Lines one after another, and what they answer: `ok`, or the code of the
/// error. `$L`, `$M` and `$N` are addresses where nobody listens, `$T` one that
/// is taken; `$P` is a certificate.
const SCRIPT: &[(&str, &str)] = &[
    ("ping", "ok"),
    ("ping now", "unknown"),
    ("ping now=1", "unknown"),
    ("version", "ok"),
    ("version all", "unknown"),
    ("help", "ok"),
    ("help backend", "ok"),
    ("help nothing", "unknown"),
    ("listener add address=$L protocol=http front_timeout=1 back_timeout=2 connect_timeout=3 request_timeout=4 keepalive_timeout=5 tunnel_timeout=6 sticky_name=COOKIE trusted_proxies=10.0.0.0/8,::1 allow=127.0.0.0/8 deny=192.0.2.0/24 max_connections_per_ip=1000 request_rate=1000 request_burst=2000 max_body=100000 min_rate=1 answer_404=\"not \\\"here\\\"\\n\"", "ok"),
    ("listener add address=$M protocol=tcp enabled=false expect_proxy=true proxy_sources=10.0.0.0/8", "ok"),
    ("listener update address=$M proxy_sources=10.0.0.0/33", "invalid"),
    ("listener update address=$M expect_proxy=true proxy_sources=::1", "ok"),
    ("listener update address=$M expect_proxy=false", "invalid"),
    ("listener update address=$M unset=expect_proxy,proxy_sources", "ok"),
    ("listener add address=$N protocol=metrics expect_proxy=true", "invalid"),
    ("listener add address=$L protocol=http", "exists"),
    ("listener add address=$T protocol=http", "failed"),
    ("listener add address=$N", "invalid"),
    ("listener add protocol=http", "invalid"),
    ("listener add address=127.0.0.1:0 protocol=http", "invalid"),
    ("listener add address=example.com:80 protocol=http", "invalid"),
    ("listener add address=$N protocol=quic", "invalid"),
    ("listener add address=$N protocol=http strict_sni=true", "invalid"),
    ("listener add address=$N protocol=https cipher_list=NONSENSE", "invalid"),
    ("listener add address=$N protocol=https tls_versions=TLSv1.1", "invalid"),
    ("listener add address=$S protocol=https tls_versions=TLS_V12,TLSv1.3 cipher_list=ECDHE-RSA-AES128-GCM-SHA256 cipher_suites=TLS_AES_128_GCM_SHA256 groups=P-256 strict_sni=true", "ok"),
    ("listener update address=$S tls_versions=TLSv1.3 cipher_list=ECDHE-ECDSA-AES128-GCM-SHA256 cipher_suites=TLS_AES_256_GCM_SHA384 groups=X25519 strict_sni=false", "ok"),
    ("listener update address=$S groups=nothing", "invalid"),
    ("listener update address=$S unset=groups,strict_sni", "ok"),
    ("listener update address=$S client_auth=required", "invalid"),
    ("listener update address=$S client_ca=$C1", "invalid"),
    ("listener update address=$S client_auth=required client_ca=$C1 client_crl=$C1", "invalid"),
    ("listener update address=$S client_auth=required client_ca=$C1 client_crl=$V1", "ok"),
    ("listener update address=$S client_auth=none unset=client_ca,client_crl", "ok"),
    ("listener remove address=$S", "ok"),
    ("listener add address=$S protocol=https client_auth=OPTIONAL client_ca=$C1 client_crl=$V1", "ok"),
    ("certificate add listener=$S certificate=$C1 certificate_chain=$C1 key=$K1 certificate_path=/a certificate_chain_path=/b key_path=/c default=true", "ok"),
    ("certificate add address=$S certificate=$C1 key=$K1", "exists"),
    ("certificate add listener=$S certificate=$C1 key=$K2", "invalid"),
    ("certificate add listener=$S certificate=$K1 key=$K1", "invalid"),
    ("certificate add listener=$S certificate=$C1 key=$C1", "invalid"),
    ("certificate add listener=$S certificate=/etc/passwd key=$K1", "invalid"),
    ("certificate add listener=$S certificate=$C2", "invalid"),
    ("certificate add listener=$S key=$K2", "invalid"),
    ("certificate add listener=$S certificate=$C2 key=$K2 key_path=relative", "invalid"),
    ("certificate add listener=$L certificate=$C2 key=$K2", "mismatch"),
    ("certificate add listener=$N certificate=$C2 key=$K2", "missing"),
    ("certificate list", "ok"),
    ("certificate list listener=$S", "ok"),
    ("certificate list listener=$N", "missing"),
    ("certificate list all", "unknown"),
    ("certificate replace listener=$S fingerprint=$F2 certificate=$C2 key=$K2", "missing"),
    ("certificate replace listener=$S certificate=$C2 key=$K2", "invalid"),
    ("certificate replace listener=$S fingerprint=$F1 certificate=$C2 certificate_chain=$C2 key=$K2 certificate_path=/a certificate_chain_path=/b key_path=/c default=false", "ok"),
    ("certificate replace listener=$S fingerprint=$F2 certificate=$C1 key=$K1", "ok"),
    ("listener remove address=$S", "in_use"),
    ("certificate remove listener=$S fingerprint=$F2", "missing"),
    ("certificate remove listener=$S", "invalid"),
    ("certificate remove listener=$S fingerprint=$F1", "ok"),
    ("listener remove address=$S", "ok"),
    ("listener add address=$N protocol=http front_timeout=0", "invalid"),
    ("listener add address=$N protocol=http answer_999=x", "unknown"),
    ("listener add address=$N protocol=http trusted_proxies=10.0.0.1/8", "invalid"),
    ("listener update address=$L protocol=http enabled=true front_timeout=10 back_timeout=20 connect_timeout=30 request_timeout=40 keepalive_timeout=50 tunnel_timeout=60 sticky_name=OTHER trusted_proxies=::2 allow=127.0.0.1 deny=::/0 max_connections_per_ip=2000 request_rate=2000 request_burst=1 max_body=200000 min_rate=2 answer_503=x", "ok"),
    ("listener update address=$L unset=request_rate", "invalid"),
    ("listener update address=$M max_body=5", "invalid"),
    ("listener update address=$L unset=allow,deny,max_connections_per_ip,request_rate,request_burst,max_body,min_rate", "ok"),
    ("listener update address=$L unset=trusted_proxies,answer_503,answer_404,front_timeout", "ok"),
    ("listener update address=$L unset=address", "invalid"),
    ("listener update address=$L unset=answers", "invalid"),
    ("listener update address=$L front_timeout=1 unset=front_timeout", "invalid"),
    ("listener update address=$L protocol=tcp", "mismatch"),
    ("listener update address=$N front_timeout=1", "missing"),
    ("listener update front_timeout=1", "invalid"),
    ("listener update address=$L frontt_timeout=1", "unknown"),
    ("listener disable address=$L", "ok"),
    ("listener disable address=$L", "ok"),
    ("listener disable address=$N", "missing"),
    ("listener disable", "invalid"),
    ("listener enable address=$L", "ok"),
    ("listener enable address=$N", "missing"),
    ("listener list", "ok"),
    ("listener list address=$L", "unknown"),
    ("cluster add id=web protocol=http load_balancing=round_robin answer_503=\"\"", "ok"),
    ("cluster add id=raw protocol=tcp send_proxy=true", "ok"),
    ("cluster update id=raw send_proxy=v3", "invalid"),
    ("cluster update id=raw send_proxy=V1", "ok"),
    ("cluster update id=raw unset=send_proxy", "ok"),
    ("cluster add id=sure tls=true tls_verify=false tls_ca=\"$P\" tls_server_name=inner.example.com", "ok"),
    ("cluster add id=sured protocol=tcp tls=true", "invalid"),
    ("cluster add id=sured tls_ca=\"$P\"", "invalid"),
    ("cluster add id=sured tls=true tls_ca=pem", "invalid"),
    ("cluster add id=sured tls=true tls_ca=\"-----BEGIN CERTIFICATE-----\"", "invalid"),
    ("cluster add id=sured tls=true tls_server_name=*.example.com", "invalid"),
    ("cluster update id=sure tls=true tls_verify=true tls_ca=\"$P\" tls_server_name=127.0.0.1", "ok"),
    ("cluster update id=sure tls_certificate=$C1 tls_key=$K1 tls_certificate_path=/a tls_key_path=/b", "ok"),
    ("cluster update id=sure tls_certificate=$C1", "invalid"),
    ("cluster update id=sure tls_key=$K2", "invalid"),
    ("cluster update id=sure tls_certificate_path=a", "invalid"),
    ("cluster update id=sure unset=tls_certificate", "ok"),
    ("cluster add id=known tls=true tls_certificate=$C1 tls_key=$K1 tls_certificate_path=/a tls_key_path=/b", "ok"),
    ("cluster remove id=known", "ok"),
    ("cluster update id=sure tls=false", "invalid"),
    ("cluster update id=sure tls=false unset=tls_ca,tls_server_name", "ok"),
    ("cluster remove id=sure", "ok"),
    ("cluster add id=web", "exists"),
    ("cluster add id=\"a b\"", "invalid"),
    ("cluster add", "invalid"),
    ("cluster add id=x load_balancing=best", "invalid"),
    ("cluster add id=ill health_check=http health_path=/h health_host=h.example.com health_status=200-299 health_body=ok health_interval=2 health_timeout=1 health_rise=1 health_fall=2 eject_5xx=5", "ok"),
    ("cluster update id=ill health_check=http health_path=/h?x health_host=a.example.com health_status=200 health_body=fine health_interval=3 health_timeout=2 health_rise=2 health_fall=3 eject_5xx=0", "ok"),
    ("cluster update id=ill health_status=99", "invalid"),
    ("cluster update id=ill unset=health_path,health_host,health_status,health_body", "ok"),
    ("cluster remove id=ill", "ok"),
    ("cluster add id=kept load_balancing=hash hash_on=cookie:sid sticky_session=true slow_start=9 max_queue=7 queue_timeout=3", "ok"),
    ("cluster update id=kept load_balancing=least_time hash_on=header:X-User", "invalid"),
    ("cluster update id=kept hash_on=header:X-User", "ok"),
    ("cluster update id=kept load_balancing=least_time sticky_sessions=false slow_start=0 max_queue=0 queue_timeout=1", "ok"),
    ("cluster update id=kept hash_on=path", "invalid"),
    ("cluster update id=kept health_path=/x", "invalid"),
    ("cluster update id=kept health_check=http health_path=/x health_rise=9 health_body=x", "ok"),
    ("cluster update id=kept health_check=tcp", "invalid"),
    ("cluster update id=kept health_check=tcp unset=health_body", "ok"),
    ("cluster update id=kept unset=health_check", "ok"),
    ("cluster update id=kept hash_on=header:", "invalid"),
    ("cluster add id=few allow=127.0.0.0/8 deny=::1 request_rate=5 request_burst=6 max_body=7", "ok"),
    ("cluster update id=few allow=::1 deny=10.0.0.0/8 request_rate=6 request_burst=7 max_body=8", "ok"),
    ("cluster update id=few request_burst=0", "invalid"),
    ("cluster update id=few max_connections_per_ip=5", "unknown"),
    ("cluster update id=few unset=allow,deny,request_rate,request_burst,max_body", "ok"),
    ("cluster remove id=few", "ok"),
    ("cluster update id=kept queue_timeout=0", "invalid"),
    ("cluster update id=kept unset=hash_on,max_queue", "ok"),
    ("backend add cluster=kept id=b address=127.0.0.1:9 max_connections=3 sticky_id=one", "ok"),
    ("backend update cluster=kept id=b max_connections=4 sticky_id=two", "ok"),
    ("backend update cluster=kept id=b sticky_id=a,b", "invalid"),
    ("backend add cluster=kept id=c;d address=127.0.0.1:9", "invalid"),
    ("backend add cluster=kept id=two address=127.0.0.1:9", "mismatch"),
    ("backend add cluster=kept id=c address=127.0.0.1:9 sticky_id=two", "mismatch"),
    ("backend add cluster=kept id=c address=127.0.0.1:9 sticky_id=b", "ok"),
    ("backend update cluster=kept id=b unset=sticky_id", "mismatch"),
    ("backend remove cluster=kept id=c", "ok"),
    ("backend update cluster=kept id=b max_connections=0", "invalid"),
    ("backend update cluster=kept id=b unset=max_connections,sticky_id", "ok"),
    ("backend remove cluster=kept id=b", "ok"),
    ("cluster remove id=kept", "ok"),
    ("cluster update id=web protocol=http load_balancing_policy=ROUND_ROBIN answer_404=gone", "ok"),
    ("cluster update id=web load_balancing=round_robin", "ok"),
    ("cluster update id=web unset=answer_404", "ok"),
    ("cluster update id=web unset=answer_404,protocol,nothing", "invalid"),
    ("cluster update id=web protocol=tcp", "mismatch"),
    ("cluster update id=none", "missing"),
    ("cluster pause id=web max=30", "ok"),
    ("cluster pause id=web max=3600", "ok"),
    ("cluster pause id=none max=30", "missing"),
    ("cluster pause id=web", "invalid"),
    ("cluster pause id=web max=0", "invalid"),
    ("cluster pause id=web max=3601", "invalid"),
    ("cluster pause id=web min=1", "unknown"),
    ("cluster resume id=web", "ok"),
    ("cluster resume id=web", "missing"),
    ("cluster resume id=none", "missing"),
    ("cluster resume", "invalid"),
    ("cluster resume id=web max=1", "unknown"),
    ("cluster list", "ok"),
    ("cluster list all", "unknown"),
    ("frontend add listener=$L hostname=*.example.com path=/api path_type=exact method=GET cluster=web", "ok"),
    ("frontend add listener=$L hostname=r cluster=web https_redirect=308 https_port=8443 hsts=max-age=1", "ok"),
    ("frontend remove listener=$L hostname=r", "ok"),
    ("frontend add listener=$L hostname=r cluster=web https_redirect=302", "invalid"),
    ("frontend add listener=$L hostname=r redirect=https://{host}{path} redirect_status=307", "ok"),
    ("frontend remove listener=$L hostname=r", "ok"),
    ("frontend add listener=$L hostname=r", "invalid"),
    ("frontend add listener=$L hostname=r deny=true", "ok"),
    ("frontend add listener=$L hostname=r path=/a answer=503 answer_body=later", "ok"),
    ("frontend add listener=$L hostname=r path=/b cluster=web strip_prefix=/b add_prefix=/c set_host=d request_headers=\"set A: b\" response_headers=\"remove A\"", "ok"),
    ("frontend add listener=$L hostname=r path=/e cluster=web basic_auth=\"jane:$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5\" basic_auth_path=/f basic_auth_fingerprint=32c945415c11d79c86c982df5fbcdfff8ae3c2e44ade11c742e9fe28e3c5030f realm=g", "ok"),
    ("frontend add listener=$L hostname=s cluster=web basic_auth_fingerprint=00", "invalid"),
    ("frontend remove listener=$L hostname=r", "ok"),
    ("frontend remove listener=$L hostname=r path=/a", "ok"),
    ("frontend remove listener=$L hostname=r path=/b", "ok"),
    ("frontend remove listener=$L hostname=r path=/e", "ok"),
    ("frontend add listener=$L cluster=web", "ok"),
    ("frontend add listener=$M cluster=raw", "ok"),
    ("frontend add address=$L cluster=web", "exists"),
    ("frontend add listener=$L hostname=a cluster=none", "missing"),
    ("frontend add listener=$N cluster=web", "missing"),
    ("frontend add listener=$L hostname=a cluster=raw", "mismatch"),
    ("frontend add listener=$M hostname=a cluster=raw", "mismatch"),
    ("frontend add listener=$L path=/../x cluster=web", "invalid"),
    ("frontend add listener=$L path_type=regex cluster=web", "invalid"),
    ("frontend add listener=$L hostname=a:80 cluster=web", "invalid"),
    ("frontend list", "ok"),
    ("frontend list x", "unknown"),
    ("backend add cluster=web id=a address=$N weight=7 backup=true state=drain", "ok"),
    ("backend add cluster=web id=a address=$N", "exists"),
    ("backend add cluster=none id=a address=$N", "missing"),
    ("backend add cluster=web id=b address=$N weight=257", "invalid"),
    ("backend add cluster=web id=b address=$N state=asleep", "invalid"),
    ("backend update cluster=web id=a address=$N weight=0 backup=false state=ready", "ok"),
    ("backend update cluster=web backend_id=a weight=256", "ok"),
    ("backend update cluster=web id=a unset=weight,state", "ok"),
    ("backend update cluster=web id=a unset=cluster", "invalid"),
    ("backend update cluster=web id=a address=127.0.0.1:1", "mismatch"),
    ("backend update cluster=web id=b weight=1", "missing"),
    ("backend update cluster=web id=a state=drain wait=30", "ok"),
    ("backend update cluster=web id=b state=drain wait=30", "missing"),
    ("backend update cluster=web id=a state=drain wait=x", "invalid"),
    ("backend update cluster=web id=a state=ready", "ok"),
    ("backend list", "ok"),
    ("backend list cluster=web", "unknown"),
    ("name list", "ok"),
    ("name list all", "unknown"),
    ("name refresh", "ok"),
    ("name refresh name=localhost", "missing"),
    ("backend add cluster=web id=named address=localhost:8080", "ok"),
    ("name refresh name=localhost", "ok"),
    ("name refresh name=127.0.0.1:1", "invalid"),
    ("backend remove cluster=web id=named", "ok"),
    ("state dump", "ok"),
    ("state dump everything", "unknown"),
    ("state dump secrets=true", "ok"),
    ("state dump secrets=maybe", "invalid"),
    ("state diff", "ok"),
    ("state diff now", "unknown"),
    ("state check", "ok"),
    ("state check all", "unknown"),
    ("state stats", "ok"),
    ("state stats x=y", "unknown"),
    ("listener remove address=$L", "in_use"),
    ("cluster remove id=web", "in_use"),
    ("explain listener=$L hostname=a.example.com path=/api method=GET", "ok"),
    ("explain listener=$N hostname=a", "missing"),
    ("explain listener=$L", "invalid"),
    ("explain url=http://b.example.com/ listener=$N client=192.0.2.7", "missing"),
    ("explain url=http://b.example.com/api listener=$L client=192.0.2.7 method=GET path=/", "invalid"),
    ("explain hostname=a.example.com client=192.0.2.7:80", "invalid"),
    ("explain url=ftp://a/", "invalid"),
    ("explain url=http://a.example.com/api?x=1 listener=$L client=192.0.2.7", "ok"),
    ("frontend remove listener=$L hostname=*.example.com path=/api path_type=exact method=GET", "ok"),
    ("explain listener=$N hostname=a path=x", "invalid"),
    ("frontend remove listener=$L hostname=*.example.com", "missing"),
    ("frontend remove listener=$L cluster=web", "unknown"),
    ("frontend remove listener=$L", "ok"),
    ("explain listener=$L hostname=a", "missing"),
    ("backend remove cluster=web id=b", "missing"),
    ("backend remove cluster=web", "invalid"),
    ("backend remove cluster=web id=a wait=0", "invalid"),
    ("backend remove cluster=web id=a wait=1 wait=2", "invalid"),
    ("backend remove cluster=web id=a waiting=1", "unknown"),
    ("backend remove cluster=web id=b wait=30", "missing"),
    ("backend remove cluster=web id=a wait=30", "ok"),
    ("cluster add id=web wait=30", "unknown"),
    ("cluster remove id=none", "missing"),
    ("cluster remove id=web", "ok"),
    ("listener remove address=$L", "ok"),
    ("listener remove address=$L", "missing"),
    ("commit", "missing"),
    ("abort", "missing"),
    ("confirm", "missing"),
    ("begin", "ok"),
    ("begin", "in_use"),
    ("abort now", "unknown"),
    ("abort", "ok"),
    ("begin work", "unknown"),
    ("begin", "ok"),
    ("commit revision=4000000000", "mismatch"),
    ("begin", "ok"),
    ("commit confirm=0", "invalid"),
    ("commit", "invalid"),
    ("begin", "ok"),
    ("commit confirm=30", "ok"),
    ("cluster add id=late", "in_use"),
    ("confirm soon", "unknown"),
    ("confirm", "ok"),
    ("begin", "ok"),
    ("commit revision=$R", "ok"),
    ("reload", "ok"),
    ("reload all", "unknown"),
    ("logging level=debug", "ok"),
    ("logging level=loud", "invalid"),
    ("logging", "invalid"),
    ("status", "ok"),
    ("status main", "unknown"),
    ("workers", "ok"),
    ("sandbox", "ok"),
    ("workers 1", "unknown"),
    ("sandbox now", "unknown"),
    ("connections list", "ok"),
    ("connections list id=1.2.3 worker=0 listener=$L cluster=web backend=a client=::1 older=1", "ok"),
    ("connections list id=7", "invalid"),
    ("connections", "unknown"),
    ("connections kill id=1.2.3 worker=0 listener=$L cluster=web backend=a client=10.0.0.0/8 older=1", "ok"),
    ("connections kill", "invalid"),
    ("connections kill all=true", "unknown"),
    ("metrics", "ok"),
    ("metrics cluster=raw", "ok"),
    ("metrics cluster=none", "missing"),
    ("metrics raw", "unknown"),
    ("worker restart id=0", "ok"),
    ("worker restart id=9", "missing"),
    ("worker restart id=x", "invalid"),
    ("worker stop", "unknown"),
    // `tests/upgrade.rs` has upgrades that do something else.
    ("upgrade binary=$B canary=1", "ok"),
    ("upgrade binary=/nowhere/sozu", "failed"),
    ("upgrade canary=0", "invalid"),
    ("upgrade now", "unknown"),
    ("events all", "unknown"),
    ("", "silence"),
    ("\"unfinished", "syntax"),
    ("ping \\", "syntax"),
    ("ping a=b c", "syntax"),
    ("cluster add id=a id=b", "invalid"),
    ("cluster add Id=a", "syntax"),
    ("shutdown softly", "unknown"),
    ("shutdown timeout=0", "invalid"),
];

/// The codes that the script does not meet: they take a million objects, or another user.
const NOT_MET: &[Code] = &[Code::Limit, Code::Denied];

/// The certificates of tests/certificates, their keys and what they are known by, as values.
fn texts() -> Vec<(&'static str, String)> {
    let (one, two) = (
        include_str!("certificates/one.pem"),
        include_str!("certificates/two.pem"),
    );
    let quoted = |text: &str| format!("\"{}\"", text.replace('\n', "\\n"));
    let known = |text: &str| {
        let checked = sozu_lib::certificate::check(text, "", None).expect("a certificate");
        let facts = sozu_lib::certificate::facts(&checked.leaf);
        facts.fingerprint.to_string()
    };
    vec![
        ("$C1", quoted(one)),
        ("$V1", quoted(include_str!("tls/revoked.crl"))),
        ("$C2", quoted(two)),
        ("$K1", quoted(include_str!("certificates/one.key"))),
        ("$K2", quoted(include_str!("certificates/two.key"))),
        ("$F1", known(one)),
        ("$F2", known(two)),
    ]
}

/// The row that a line is about, if it is one of the table.
fn row_of(line: &str) -> Option<&'static Row> {
    let mut words = line.split(' ').filter(|word| !word.contains('='));
    let noun = words.next().unwrap_or("");
    find(noun, words.next().unwrap_or("")).or_else(|| find(noun, ""))
}

fn gives(line: &str, key: &Key) -> bool {
    let name = command_key(key).replace("STATUS", "");
    line.contains(&format!(" {name}"))
}

/// Says a line and looks at its answer.
fn say(client: &mut Control, line: &str, wanted: &str) {
    if wanted == "silence" {
        assert!(client.send(format!("{line}\nping\n")).reply().is_ok());
        return;
    }
    let reply = client.ask(line);
    assert_eq!(reply.code(), wanted, "{line:?}: {reply:?}");
    if wanted != "ok" {
        let text = reply.last.splitn(3, ' ').nth(2).unwrap_or("");
        let quoted = text.len() > 10 && text.starts_with('"') && text.ends_with('"');
        assert!(quoted, "{line:?}: {reply:?}");
    }
}

#[test]
fn every_command() {
    let proxy = Setup::http().start();
    let mut client = proxy.steer();
    let free = [(); 4].map(|()| free_address().to_string());
    let texts = texts();
    let binary = program("sozu").display().to_string();
    let taken = std::net::TcpListener::bind(free_address()).expect("bind");
    let taken = taken.local_addr().expect("getsockname").to_string();
    let root = include_str!("tls/root.pem").replace('\n', "\\n");
    for (line, wanted) in SCRIPT {
        let revision = client.ok("state stats").number("revision").to_string();
        let line = line.replace("$L", &free[0]).replace("$M", &free[1]);
        let line = line.replace("$S", &free[3]).replace("$B", &binary);
        let line = (texts.iter()).fold(line, |line, (name, text)| line.replace(name, text));
        let line = line.replace("$N", &free[2]).replace("$T", &taken);
        let line = line.replace("$R", &revision).replace("$P", &root);
        let before = client.dump();
        say(&mut client, &line, wanted);
        if *wanted != "ok" {
            assert_eq!(client.dump(), before, "{line:?} was refused");
        }
    }
}

/// The two that do not answer as others do.
#[test]
fn events_and_shutdown() {
    let mut proxy = Setup::http().start();
    let mut client = proxy.steer();
    client.send("events\nping\n");
    assert_eq!(client.reply().data.len(), 0);
    client.send("cluster add id=a\n");
    let reply = client.reply();
    assert!(reply.data[0].starts_with("event time="), "{reply:?}");
    assert!(reply.is_ok() && reply.data.len() == 1, "{reply:?}");
    let last = client.ok("shutdown hard timeout=1");
    assert_eq!(last.last, "ok moved=0 drained=0 draining=0 cut=0");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

/// The script leaves nothing out.
#[test]
fn every_row_and_every_key_is_exercised() {
    let elsewhere = ["events", "shutdown"];
    for row in COMMANDS {
        let lines = |good: bool| {
            let all = SCRIPT
                .iter()
                .filter(move |(_, code)| (*code == "ok") == good);
            all.map(|(line, _)| *line)
                .filter(|line| row_of(line).is_some_and(|of| of.words() == row.words()))
        };
        assert!(lines(false).next().is_some(), "no bad {}", row.words());
        if elsewhere.contains(&row.noun) {
            continue;
        }
        assert!(lines(true).next().is_some(), "no good {}", row.words());
        for key in row.takes() {
            let given = lines(true).any(|line| gives(line, key));
            assert!(given, "{} of {} is not given", key.name, row.words());
        }
    }
    let met: BTreeSet<&str> = SCRIPT.iter().map(|(_, code)| *code).collect();
    for code in Code::ALL {
        let wanted = !NOT_MET.contains(&code);
        assert_eq!(met.contains(code.name()), wanted, "{}", code.name());
    }
}

/// What is written down for a state is what was said.
#[test]
fn lists_are_parts_of_the_dump() {
    let proxy = Setup::http().start();
    let mut client = proxy.steer();
    let address = free_address();
    client.transact(&[
        "cluster add id=b".to_string(),
        "cluster add id=a answer_503=\"two\\nlines\"".into(),
        format!("listener add address={address} protocol=http"),
        format!("frontend add listener={address} hostname=B.example.com cluster=b"),
        format!("frontend add listener={address} hostname=a.example.com cluster=a"),
        "backend add cluster=b id=x address=127.0.0.1:1 weight=3".into(),
    ]);
    let dump = client.dump();
    let mut lists = Vec::new();
    for noun in ["listener", "cluster", "backend", "frontend"] {
        lists.extend(client.ok(&format!("{noun} list")).data);
    }
    assert_eq!(lists, dump);
    let text = dump.join("\n");
    for line in [
        "cluster add id=a protocol=http load_balancing=round_robin answer_503=\"two\\nlines\"",
        "hostname=b.example.com path=/ path_type=prefix cluster=b",
        "backend add cluster=b id=x address=127.0.0.1:1 weight=3 backup=false state=ready",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    let stats = client.ok("state stats");
    let count = |key| stats.number(key);
    assert_eq!(
        [
            count("listeners"),
            count("clusters"),
            count("frontends"),
            count("backends")
        ],
        [2, 2, 2, 1]
    );
}

/// The first revision is 0, and may be asked for.
#[test]
fn the_first_commit_by_revision() {
    let proxy: Proxy = Setup::http().start();
    let mut client = proxy.steer();
    let revision = client.ok("begin").number("revision");
    assert_eq!(revision, 0);
    client.ok("cluster add id=a");
    client.ok("commit revision=0");
}
