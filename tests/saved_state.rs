//! What is kept over a restart, and what becomes of it when it is damaged.

mod common;

use common::{Proxy, Setup};
use std::fs;

fn saving() -> Proxy {
    let setup = Setup::http();
    let saved = setup.path("state");
    let backends = ["127.0.0.1:1".parse().expect("an address")];
    setup
        .backends(&backends)
        .top("saved_state", format!("{saved:?}"))
        .top("automatic_state_save", true)
        .start()
}

fn end(proxy: &mut Proxy) {
    proxy.signal("TERM");
    assert_eq!(proxy.wait_exit().code(), Some(0));
}

fn clusters(proxy: &Proxy) -> Vec<String> {
    let name = |line: &String| line.split(' ').nth(2).unwrap_or_default().to_string();
    let list = proxy.steer().ok("cluster list").data;
    list.iter().map(name).collect()
}

/// Each line is judged by itself, one that is not even text as well.
#[test]
fn damage_in_the_middle_costs_one_line() {
    let mut proxy = saving();
    let (saved, rejected) = (proxy.path("state"), proxy.path("state.rejected"));
    for id in ["a", "b", "c"] {
        proxy.steer().ok(&format!("cluster add id={id}"));
    }
    end(&mut proxy);
    let whole = fs::read(&saved).expect("the saved state");
    let mut lines: Vec<Vec<u8>> = whole.split(|b| *b == b'\n').map(Vec::from).collect();
    assert_eq!(lines.len(), 4);
    lines[1][5..8].copy_from_slice(&[0xff, 0, 0xfe]);
    let damaged = lines[1].clone();
    fs::write(&saved, lines.join(&b'\n')).expect("write");
    let mut proxy = proxy.again(&[]).expect("it starts");
    assert_eq!(clusters(&proxy), ["id=a", "id=c", "id=main"]);
    proxy.wait_log("state:2: not done again: ");
    let aside = fs::read(&rejected).expect("what was kept aside");
    assert!(aside.split(|b| *b == b'\n').any(|line| line == damaged));
    end(&mut proxy);
    // What does not fit at another start stands behind it; the same is not told twice.
    let mut text = fs::read(&saved).expect("the saved state");
    text.extend(b"cluster remove id=nobody\n");
    fs::write(&saved, text).expect("write");
    for _ in 0..2 {
        let mut proxy = proxy.again(&[]).expect("it starts");
        end(&mut proxy);
    }
    let aside = fs::read(&rejected).expect("what was kept aside");
    let aside: Vec<&[u8]> = aside.split(|b| *b == b'\n').collect();
    assert_eq!(aside.len(), 5, "{aside:?}");
    assert_eq!(aside[1], damaged);
    assert_eq!(aside[3], b"cluster remove id=nobody");
}

/// Whoever wants to know can see whether all is on the disk.
#[test]
fn status_says_what_is_saved() {
    let proxy = saving();
    let mut control = proxy.steer();
    let mut wait_for = |saved: &str| {
        common::wait_until(saved, || {
            let status = control.ok("status").data;
            status[0]
                .ends_with(&format!(" saved={saved}"))
                .then_some(())
        })
    };
    wait_for("true");
    // A folder in its place: nothing can be written.
    fs::create_dir(proxy.path("state.new")).expect("a folder");
    proxy.steer().ok("cluster add id=a");
    wait_for("false");
    proxy.wait_log("the state is not saved: ");
    let other = Setup::http().backends(&[]).start();
    assert!(other.steer().ok("status").data[0].ends_with(" saved=off"));
}

/// What does not fit cannot be kept aside: it serves all the same, and says what it was.
#[test]
fn nowhere_to_keep_what_does_not_fit() {
    let mut proxy = saving();
    proxy.steer().ok("cluster add id=more");
    end(&mut proxy);
    let (saved, rejected) = (proxy.path("state"), proxy.path("state.rejected"));
    let lines: String = (0..150)
        .map(|n| format!("cluster remove id=n{n}\n"))
        .collect();
    let text = fs::read_to_string(&saved).expect("the saved state") + &lines;
    fs::write(&saved, &text).expect("write");
    fs::create_dir(&rejected).expect("a folder in its place");
    let proxy = proxy.again(&[]).expect("it starts");
    assert_eq!(clusters(&proxy), ["id=main", "id=more"]);
    let told = proxy.wait_log("cannot keep what was not done again in ");
    assert!(told.contains("150 in all"), "{told}");
    let log = proxy.log();
    let lost = |line: &&String| line.contains("ERROR") && line.contains(": cluster remove id=n");
    assert_eq!(log.iter().filter(lost).count(), 100, "{log:?}");
    assert_eq!(fs::read_to_string(&saved).expect("the saved state"), text);
}

/// It ran, nothing was changed, and then the file is broken.
#[test]
fn what_ran_last_is_known_from_the_start() {
    let mut proxy = saving();
    let dump = proxy.steer().dump();
    end(&mut proxy);
    fs::write(proxy.config(), "nonsense").expect("write");
    let said = proxy.again(&[]).map(drop).expect_err("it is broken");
    assert!(said.contains("--last-known-good"), "{said}");
    let proxy = proxy.again(&["--last-known-good"]).expect("it starts");
    assert_eq!(proxy.steer().dump(), dump);
}

/// Neither the file nor the saved state is needed; once the file is mended, it goes on as if it had never been broken.
#[test]
fn both_are_bad() {
    let mut proxy = saving();
    proxy.steer().ok("cluster add id=more");
    proxy
        .steer()
        .ok("backend update cluster=main id=main-0 state=drain");
    let (dump, diff) = (proxy.steer().dump(), proxy.steer().ok("state diff").data);
    assert_eq!(diff.len(), 2);
    end(&mut proxy);
    let file = fs::read_to_string(proxy.config()).expect("the file");
    fs::write(proxy.config(), "nonsense").expect("write");
    let saved = proxy.path("state");
    fs::remove_file(&saved).expect("remove");
    fs::create_dir(&saved).expect("a folder");
    proxy.again(&[]).map(drop).expect_err("the file is broken");
    fs::write(proxy.config(), &file).expect("write");
    let said = proxy.again(&[]).map(drop).expect_err("the state is broken");
    assert!(said.contains("--last-known-good"), "{said}");
    fs::write(proxy.config(), "nonsense").expect("write");
    fs::remove_dir(&saved).expect("remove");
    fs::write(&saved, b"\xff\nbackend remove cluster=main id=main-0\n").expect("write");
    let mut good = proxy.again(&["--last-known-good"]).expect("it starts");
    assert_eq!(good.steer().dump(), dump);
    assert_eq!(good.steer().ok("state diff").data, diff);
    good.steer().refused("reload", "failed");
    fs::write(proxy.config(), &file).expect("write");
    good.steer().ok("reload");
    assert_eq!(good.steer().dump(), dump);
    end(&mut good);
    let proxy = proxy.again(&[]).expect("it starts");
    assert_eq!(proxy.steer().dump(), dump);
}

#[test]
fn what_cannot_be_saved_goes_along_with_an_upgrade() {
    let backends = ["127.0.0.1:1".parse().expect("an address")];
    let setup = Setup::http().top("worker_count", 1);
    let folder = setup.path("folder");
    fs::create_dir(&folder).expect("a folder");
    let saved = format!("{:?}", folder.join("state"));
    let setup = setup
        .top("saved_state", saved)
        .top("automatic_state_save", true);
    let proxy = setup.backends(&backends).start();
    // Nothing can be written there from now on, by root neither.
    fs::remove_dir_all(&folder).expect("it goes");
    fs::write(&folder, "").expect("a file");
    proxy.steer().ok("cluster add id=more");
    proxy.steer().ok("upgrade");
    proxy.steer().ok("cluster remove id=more");
    let told = proxy.log();
    let complaints = told
        .iter()
        .filter(|line| line.contains("is not saved"))
        .count();
    assert!(complaints > 0 && complaints < 9, "{told:?}");
}
