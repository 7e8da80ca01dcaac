//! Certificates as part of what is configured: files, transactions, what is
//! saved, what is warned of, and that no key is told to anybody.

#[path = "common/certificate.rs"]
mod certificate;
mod common;

use certificate::{Keys, Made, Secure};
use common::{free_address, sozu, sozuctl, wait_until, Proxy, Reply, Setup, TempDir};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn shown(address: SocketAddr, name: &str) -> Option<String> {
    Some(Secure::connect(address, name)?.fingerprint())
}

fn ecdsa(name: &str) -> Made {
    Made::of(&[name], Keys::Ecdsa)
}

/// Puts it where another one was.
fn write(folder: &TempDir, name: &str, made: &Made) -> (String, String) {
    let path = |kind: &str, text: &str| {
        let path = folder.write(&format!("{name}.{kind}"), text);
        path.display().to_string()
    };
    (path("pem", &made.pem), path("key", &made.key))
}

/// The tables of an https listener that shows what these files have.
fn table(address: SocketAddr, (certificate, key): &(String, String)) -> String {
    format!(
        "[[listeners]]\nprotocol = \"https\"\naddress = \"{address}\"\n\
         [[certificates]]\nlistener = \"{address}\"\n\
         certificate = \"{certificate}\"\nkey = \"{key}\"\n"
    )
}

fn saving(saved: &Path) -> Setup {
    Setup::http()
        .top("saved_state", format!("{saved:?}"))
        .top("automatic_state_save", true)
}

fn warnings(reply: &Reply) -> Vec<&String> {
    let lines = reply.data.iter();
    lines.filter(|line| line.starts_with("warning ")).collect()
}

#[test]
fn a_renewed_file_is_read_again() {
    let (folder, address) = (TempDir::new(), free_address());
    let (old, new) = (ecdsa("a.test"), ecdsa("a.test"));
    let files = write(&folder, "www", &old);
    let proxy = Setup::http().more(&table(address, &files)).start();
    let mut control = proxy.steer();
    assert_eq!(shown(address, "a.test"), Some(old.fingerprint));
    write(&folder, "www", &new);
    assert_eq!(control.ok("reload").number("changes"), 2);
    assert_eq!(shown(address, "a.test"), Some(new.fingerprint.clone()));
    // A command that has renewed it as well, and the file: no quarrel.
    let third = ecdsa("a.test");
    write(&folder, "www", &third);
    let old = &new.fingerprint;
    let (certificate, key) = &files;
    control.ok(&format!(
        "certificate replace listener={address} fingerprint={old} {} certificate_path={certificate} key_path={key}",
        third.words()
    ));
    let reply = control.ok("reload");
    assert!(
        reply.data.is_empty() && reply.number("changes") == 0,
        "{reply:?}"
    );
    // What is wrong with a file changes nothing.
    folder.write("www.key", &new.key);
    let reply = control.ask("reload");
    assert_eq!(reply.code(), "failed");
    assert!(reply.last.contains("does not belong"), "{reply:?}");
    assert_eq!(shown(address, "a.test"), Some(third.fingerprint));
}

#[test]
fn a_commit_that_is_not_confirmed_is_undone() {
    let (folder, address) = (TempDir::new(), free_address());
    let (old, new) = (ecdsa("a.test"), ecdsa("a.test"));
    let files = write(&folder, "www", &old);
    let proxy = Setup::http().more(&table(address, &files)).start();
    let mut control = proxy.steer();
    control.ok("begin");
    let fingerprint = &old.fingerprint;
    control.ok(&format!(
        "certificate remove listener={address} fingerprint={fingerprint}"
    ));
    control.ok(&format!(
        "certificate add listener={address} {}",
        new.words()
    ));
    control.ok("commit confirm=1");
    assert_eq!(shown(address, "a.test"), Some(new.fingerprint));
    proxy.wait_log("not confirmed in 1 s: undone");
    wait_until("the old one is back", || {
        (shown(address, "a.test") == Some(old.fingerprint.clone())).then_some(())
    });
    assert!(control.ok("state diff").data.is_empty());
}

/// What is done at runtime, on an address of its own, and after a restart.
fn over_a_restart(folder: &TempDir, secrets: bool, words: &str) -> (Proxy, SocketAddr, Reply) {
    let (saved, address) = (folder.path("state"), free_address());
    let mut proxy = saving(&saved).top("save_secrets", secrets).start();
    let mut control = proxy.steer();
    control.ok(&format!("listener add address={address} protocol=https"));
    let reply = control.ok(&format!("certificate add listener={address} {words}"));
    proxy.signal("TERM");
    proxy.wait_exit();
    let mode = std::fs::metadata(&saved).expect("a file").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let last = std::fs::metadata(proxy.path("config.toml.last")).expect("a file");
    assert_eq!(last.permissions().mode() & 0o777, 0o600);
    let next = saving(&saved).top("save_secrets", secrets).start();
    (next, address, reply)
}

fn saved(folder: &TempDir) -> String {
    std::fs::read_to_string(folder.path("state")).expect("the saved state")
}

#[test]
fn a_restart_reads_the_files_again() {
    let folder = TempDir::new();
    let made = ecdsa("a.test");
    let (certificate, key) = write(&folder, "www", &made);
    let words = format!(
        "{} certificate_path={certificate} key_path={key}",
        made.words()
    );
    let (proxy, address, reply) = over_a_restart(&folder, false, &words);
    assert_eq!(warnings(&reply), Vec::<&String>::new());
    assert_eq!(shown(address, "a.test"), Some(made.fingerprint.clone()));
    let text = saved(&folder);
    for secret in made.secrets() {
        assert!(!text.contains(&secret), "{text}");
    }
    assert!(proxy.control("state diff").data.len() == 2);
}

#[test]
fn a_certificate_that_cannot_be_saved_is_warned_of() {
    let folder = TempDir::new();
    let made = ecdsa("a.test");
    let (proxy, address, reply) = over_a_restart(&folder, false, &made.words());
    let [warning] = warnings(&reply)[..] else {
        panic!("{reply:?}");
    };
    assert!(warning.contains("gone after a restart"), "{warning}");
    assert_eq!(shown(address, "a.test"), None);
    proxy.wait_log("was written without its key");
}

#[test]
fn keys_are_saved_if_that_is_asked_for() {
    let folder = TempDir::new();
    let made = ecdsa("a.test");
    let (_proxy, address, reply) = over_a_restart(&folder, true, &made.words());
    assert_eq!(warnings(&reply), Vec::<&String>::new());
    assert_eq!(shown(address, "a.test"), Some(made.fingerprint.clone()));
    assert!(saved(&folder).contains(&made.secrets()[0]));
}

#[test]
fn what_ends_soon_is_told() {
    let (folder, address) = (TempDir::new(), free_address());
    let made = ecdsa("a.test");
    let files = write(&folder, "www", &made);
    let proxy = Setup::http().more(&table(address, &files)).start();
    let mut control = proxy.steer();
    let mut add = |from, to| {
        let made = Made::valid(&["b.test"], Keys::Ecdsa, from, to);
        control.ok(&format!(
            "certificate add listener={address} {}",
            made.words()
        ))
    };
    assert!(add(-9, -3).data[0].contains("of b.test has expired, 2 days ago"));
    assert!(add(5, 100).data[0].contains("of b.test is not valid yet, for 4 days"));
    assert!(add(-9, 6).data.is_empty());
    proxy.wait_log("the certificate of b.test ends in 6 days: renew it");
    proxy.wait_log("the certificate of b.test has expired");
    let status = control.ok("status").data.join("\n");
    assert!(status.contains("names=b.test days_left=6"), "{status}");
    assert_eq!(status.matches("\ncertificate ").count(), 2, "{status}");
    let list = control.ok(&format!("certificate list listener={address}"));
    assert_eq!(list.data.len(), 4);
    for word in [
        " subject=b.test ",
        " issuer=b.test ",
        "key_type=\"ECDSA P-256\"",
    ] {
        assert!(list.data.iter().any(|line| line.contains(word)), "{list:?}");
    }
}

#[test]
fn check_says_what_is_wrong() {
    let (folder, address) = (TempDir::new(), free_address());
    let (one, two) = (ecdsa("a.test"), ecdsa("b.test"));
    let (certificate, key) = write(&folder, "one", &one);
    let (other, other_key) = write(&folder, "two", &two);
    let old = Made::valid(&["c.test"], Keys::Ecdsa, -9, -3);
    let expired = write(&folder, "old", &old);
    let check = |text: &str| {
        let file = folder.write("check.toml", text);
        let output = sozu(&["check", "-c", &file.display().to_string()]);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    let good = table(address, &(certificate.clone(), key.clone()));
    assert!(check(&good).0);
    for (text, wanted) in [
        (
            table(address, &(certificate.clone(), other_key)),
            "the key does not belong to the certificate of a.test",
        ),
        (
            table(address, &("gone.pem".into(), key.clone())),
            "gone.pem cannot be read",
        ),
        (
            table(address, &(key.clone(), key.clone())),
            "is no PEM certificate",
        ),
        (
            good.clone() + &format!("certificate_chain = \"{other}\"\n"),
            "",
        ),
        (
            good.replace("[[certificates]]", "groups = \"nothing\"\n[[certificates]]"),
            "groups: OpenSSL says",
        ),
    ] {
        let (ok, told) = check(&text);
        assert!(told.contains(wanted) && ok == wanted.is_empty(), "{told}");
    }
    let (ok, told) = check(&table(address, &expired));
    assert!(
        ok && told.contains("warning: the certificate of c.test has expired"),
        "{told}"
    );
}

/// The key of a certificate is looked for in all that is told or written.
#[test]
fn keys_are_told_to_nobody() {
    let folder = TempDir::new();
    let all = [ecdsa("a.test"), ecdsa("a.test"), ecdsa("b.test")];
    let files = write(&folder, "www", &all[0]);
    let address = free_address();
    let setup = saving(&folder.path("state")).top("log_level", "\"trace\"");
    let mut proxy = setup.more(&table(address, &files)).start();
    let mut listener = proxy.steer();
    listener.send("events\n");
    let mut control = proxy.steer();
    let mut told = Vec::new();
    let add = format!("certificate add listener={address}");
    let (a, b) = (&all[0].fingerprint, &all[1].words());
    for line in [
        format!("certificate replace listener={address} fingerprint={a} {b}"),
        format!("{add} {}", all[2].words()),
        format!("{add} {}", all[2].words()),
        format!(
            "{add} certificate=\"x\" key={}",
            all[2].words().split("key=").nth(1).expect("a key")
        ),
        format!("{add} {}", all[2].words().replace("key=", "kex=")),
        format!("{add} {} wrong=1", all[2].words()),
        all[2].key.replace('\n', " "),
        all[2].secrets()[0].clone(),
        format!("ping {}", all[2].secrets()[0]),
        "begin".into(),
        format!("{add} {}", all[2].words()),
        "commit".into(),
        "state dump".into(),
        "state diff".into(),
        "state check".into(),
        "certificate list".into(),
        "listener list".into(),
        "status".into(),
        "metrics".into(),
        "reload".into(),
        "worker restart id=0".into(),
        format!("explain url=https://a.test:{}/", address.port()),
    ] {
        let reply = control.ask(&line);
        told.extend(reply.data);
        told.push(reply.last);
    }
    told.push(format!("{:?}", listener.line()));
    // It is told to who may have it, and asks for it.
    let whole = control.ok("state dump secrets=true").data.join("\n");
    assert!(whole.contains(&all[2].secrets()[0]));
    proxy.signal("TERM");
    proxy.wait_exit();
    told.extend(proxy.log());
    told.extend(proxy.access());
    told.push(saved(&folder));
    told.push(std::fs::read_to_string(proxy.path("config.toml.last")).expect("a file"));
    let told = told.join("\n");
    for secret in all.iter().flat_map(Made::secrets) {
        let at = told.find(&secret);
        assert_eq!(
            at,
            None,
            "{:?}",
            at.map(|at| &told[at.saturating_sub(300)..at])
        );
    }
    assert!(told.contains("certificate replace listener="));
}

/// Runs `sozuctl`; whether it was done, and what it said.
fn ctl(proxy: &Proxy, words: &[&str]) -> (bool, String) {
    let socket = proxy.path("command.sock").display().to_string();
    let output = sozuctl(&[&["-s", &socket], words].concat());
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), text)
}

#[test]
fn sozuctl_saves_and_loads_without_keys() {
    let (folder, address) = (TempDir::new(), free_address());
    let made = ecdsa("a.test");
    let (certificate, key) = write(&folder, "www", &made);
    let proxy = Setup::http().start();
    let done = |words: &[&str]| {
        let (ok, text) = ctl(&proxy, words);
        assert!(ok, "{words:?}: {text}");
        text
    };
    let (listener, file) = (
        address.to_string(),
        folder.path("saved").display().to_string(),
    );
    done(&["listener", "https", "add", "--address", &listener]);
    done(&[
        "certificate",
        "add",
        "--address",
        &listener,
        "--certificate",
        &certificate,
        "--key",
        &key,
    ]);
    done(&["state", "save", "-f", &file]);
    let text = std::fs::read_to_string(&file).expect("a file");
    assert!(!text.contains(&made.secrets()[0]));
    assert!(done(&["apply", "-f", &file]).contains("added=0 updated=0 removed=0"));
    done(&[
        "certificate",
        "remove",
        "--listener",
        &listener,
        "--certificate",
        &certificate,
    ]);
    assert_eq!(shown(address, "a.test"), None);
    assert!(done(&["apply", "-f", &file]).contains("added=1 updated=0 removed=0"));
    assert_eq!(shown(address, "a.test"), Some(made.fingerprint.clone()));
    done(&[
        "certificate",
        "remove",
        "--listener",
        &listener,
        "--fingerprint",
        &made.fingerprint,
    ]);
    let lines = text.lines().filter(|line| line.starts_with("certificate"));
    let only = folder.write("only", lines.collect::<Vec<_>>().join("\n"));
    done(&["state", "load", "-f", &only.display().to_string()]);
    assert_eq!(shown(address, "a.test"), Some(made.fingerprint.clone()));
    done(&["state", "save", "--secrets", "-f", &file]);
    let text = std::fs::read_to_string(&file).expect("a file");
    assert!(text.contains(&made.secrets()[0]));
    let (ok, told) = ctl(
        &proxy,
        &[
            "certificate",
            "add",
            "--address",
            &listener,
            "--certificate",
            "/nowhere.pem",
            "--key",
            &key,
        ],
    );
    assert!(!ok && told.contains("cannot read /nowhere.pem"), "{told}");
}
