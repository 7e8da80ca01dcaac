//! What testssl.sh says of an https listener: nothing worse than LOW.
//!
//! It is a program of its own, which `make setup-tests` installs. It asks nobody but the proxy.

#[path = "common/certificate.rs"]
mod certificate;
mod common;

use certificate::{Keys, Made};
use common::{Backend, Setup, TempDir};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

/// Its checks, in parts that run side by side; each has to end in so many seconds.
const PARTS: [&[&str]; 3] = [
    &["--protocols", "--std", "--pfs", "--header"],
    &["--server-defaults", "--server-preference"],
    &["--vulnerable"],
];
const SECONDS_MAX: &str = "170";

/// What must have been looked at, lest a scan that sees nothing finds nothing.
const LOOKED_AT: [&str; 12] = [
    "SSLv2",
    "TLS1",
    "TLS1_2",
    "TLS1_3",
    "ALPN",
    "cipherlist_STRONG",
    "PFS",
    "cipher_order",
    "sessionresumption_ticket",
    "heartbleed",
    "secure_client_renego",
    "ROBOT",
];

/// What says nothing of the proxy: an authority of a test publishes no list of what it has revoked,
/// and a scanner that closes before the tickets of TLS 1.3 are on their way has none.
const EXCUSED: [(&str, &str); 2] = [
    ("HIGH", "cert_revocation"),
    ("WARN", "sessionresumption_ticket"),
];

/// What a page should say is the backend's to say.
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Frame-Options: DENY\r\n\
    X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'self'\r\n\r\n";

struct Finding {
    id: String,
    severity: String,
    text: String,
}

/// Distributions call it by either name.
fn scanner() -> &'static str {
    let there = |name: &&&str| {
        let mut version = Command::new(name);
        version.arg("--version").stdin(Stdio::null());
        version.output().is_ok_and(|output| output.status.success())
    };
    let found = ["testssl", "testssl.sh"].iter().find(there).copied();
    found.expect("testssl.sh is missing: make setup-tests installs it")
}

fn scan(folder: &TempDir, root: &Path, address: SocketAddr, part: usize) -> Vec<Finding> {
    let file = folder.path(&format!("{part}.json"));
    let mut command = Command::new("timeout");
    command.args(["-k", "5", SECONDS_MAX, scanner()]);
    command.args(["--quiet", "--color", "0", "--warnings", "off"]);
    command.args(["--nodns", "none", "--ip", "127.0.0.1", "--add-ca"]);
    command.arg(root).arg("--jsonfile").arg(&file);
    command.args(PARTS[part]);
    command.arg(format!("https://localhost:{}/", address.port()));
    let own = folder.path("");
    command.env("TMPDIR", &own).env("HOME", &own);
    let output = command.stdin(Stdio::null()).output().expect("run it");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_ne!(
        output.status.code(),
        Some(124),
        "it takes too long:\n{said}"
    );
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{e}:\n{said}"));
    findings(&text)
}

/// One object per finding, one line per value.
fn findings(text: &str) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for line in text.lines() {
        let Some((key, value)) = line.trim().split_once(" : ") else {
            continue;
        };
        let value = value.trim_end_matches(',').trim_matches('"').to_string();
        match (key.trim().trim_matches('"'), found.last_mut()) {
            ("id", _) => found.push(Finding {
                id: value,
                severity: String::new(),
                text: String::new(),
            }),
            ("severity", Some(last)) => last.severity = value,
            ("finding", Some(last)) => last.text = value,
            _ => {}
        }
    }
    found
}

#[test]
fn nothing_is_worse_than_low() {
    let root = Made::root();
    let authority = root.authority();
    let backend = Backend::replying(|_| PAGE.into());
    let rule = "hostname = \"*\", hsts = \"max-age=31536000\"";
    let address = format!("address = \"{}\"", backend.address());
    let proxy = Setup::https().cluster("main", &[rule], &[address]).start();
    let address = proxy.address();
    for keys in [Keys::Ecdsa, Keys::Rsa] {
        let words = authority.issue(&["localhost"], keys).words();
        let line = format!("certificate add listener={address} {words}");
        proxy.steer().ok(&line);
    }
    let folder = TempDir::new();
    let path = folder.write("root.pem", &root.pem);
    let all: Vec<Finding> = std::thread::scope(|scope| {
        let (folder, path) = (&folder, &path);
        let part = |part| scope.spawn(move || scan(folder, path, address, part));
        let parts: Vec<_> = (0..PARTS.len()).map(part).collect();
        let scans = parts.into_iter().map(|part| part.join().expect("a scan"));
        scans.flatten().collect()
    });
    for id in LOOKED_AT {
        assert!(all.iter().any(|one| one.id == id), "{id} was not looked at");
    }
    let is_bad = |one: &&Finding| {
        let grade = one.severity.as_str();
        // Of several certificates it numbers the findings.
        let excused = |(of, id): &(&str, &str)| grade == *of && one.id.starts_with(id);
        !["OK", "INFO", "LOW"].contains(&grade) && !EXCUSED.iter().any(excused)
    };
    let bad: Vec<String> = all
        .iter()
        .filter(is_bad)
        .map(|one| format!("{} {}: {}", one.severity, one.id, one.text))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}
