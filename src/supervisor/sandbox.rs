//! What workers give up: looked at before the first one starts, told to each, and asked of the kernel.
//!
//! Main finds out whom they become and what the machine has for it, since they see no
//! file; it never enters a sandbox itself, but gives up what it does not need of root.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;

use crate::config::Settings;
use crate::net::board::Cell;
use crate::proto::reply;
use crate::supervisor::workers::Process;
use crate::supervisor::Supervisor;
use crate::sys::process::{self, SIGSYS};
use crate::sys::sandbox::{self, Part};

/// Who a worker is when nobody is named, also where /etc/passwd does not have him.
const USER: &str = "nobody";
const NOBODY: Ids = Ids {
    uid: 65534,
    gid: 65534,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ids {
    pub uid: u32,
    pub gid: u32,
}

pub struct Sandbox {
    /// An empty directory that was removed: nothing can be made in it.
    root: Option<OwnedFd>,
    /// What the kernel calls it.
    pub(super) root_name: String,
    /// Whom workers become; `None`: they stay who main is.
    pub(super) user: Option<Ids>,
    /// The version of Landlock.
    landlock: Option<u32>,
    seccomp: bool,
}

impl Sandbox {
    /// An error is a sentence: the proxy does not start.
    pub fn new(settings: &Settings) -> Result<Sandbox, String> {
        let is_root = process::own_uid() == 0;
        if !is_root && (settings.user.is_some() || settings.group.is_some()) {
            return Err("user and group are for a sozu that root starts: leave them out, workers run as who starts it".into());
        }
        let of_root = |part| is_root || !matches!(part, Part::Chroot | Part::User);
        let mut has = [None; Part::ALL.len()];
        for part in Part::ALL.into_iter().filter(|part| of_root(*part)) {
            let may_miss = settings.sandbox_allow_missing.iter();
            match part.available() {
                Ok(version) => has[part as usize] = Some(version),
                Err(_) if may_miss.into_iter().any(|name| name == part.name()) => {}
                Err(e) => return Err(missing(part, &e)),
            }
        }
        let has = |part: Part| has[part as usize];
        let user = match has(Part::User) {
            Some(_) => Some(ids_of(settings)?),
            None => None,
        };
        let place = settings
            .command_socket
            .with_extension(format!("empty-{}", std::process::id()));
        let root = match has(Part::Chroot) {
            Some(_) => Some(empty_directory(&place)?),
            None => None,
        };
        Ok(Sandbox {
            root,
            root_name: format!("{} (deleted)", place.display()),
            user,
            landlock: has(Part::Landlock),
            seccomp: has(Part::Seccomp).is_some(),
        })
    }

    /// For a worker: the line, and what goes with it.
    pub fn order(&self) -> io::Result<(String, Vec<OwnedFd>)> {
        let mut pairs = Vec::new();
        pairs.extend(self.root.as_ref().map(|_| ("chroot", "true".to_string())));
        if let Some(Ids { uid, gid }) = self.user {
            pairs.extend([("uid", uid.to_string()), ("gid", gid.to_string())]);
        }
        pairs.extend(
            self.landlock
                .map(|version| ("landlock", version.to_string())),
        );
        pairs.extend(self.seccomp.then_some(("seccomp", "true".to_string())));
        let line = reply::data("sandbox", &pairs).trim_end().to_string();
        let root = self.root.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok((line, root.into_iter().collect()))
    }

    pub(super) fn has(&self, part: Part) -> bool {
        match part {
            Part::Chroot => self.root.is_some(),
            Part::User => self.user.is_some(),
            Part::Landlock => self.landlock.is_some(),
            Part::Seccomp => self.seccomp,
        }
    }

    /// What holds and what does not, each as names with commas between.
    pub fn parts(&self) -> [String; 2] {
        [true, false].map(|held| {
            let parts = Part::ALL.into_iter().filter(|part| self.has(*part) == held);
            let names: Vec<&str> = parts.map(Part::name).collect();
            names.join(",")
        })
    }

    /// For the log, once.
    pub fn tell(&self) {
        let [held, missing] = self.parts();
        let landlock = self.landlock.map_or(String::new(), |version| {
            format!(" (Landlock version {version})")
        });
        let user = self.user.map_or(String::new(), |Ids { uid, gid }| {
            format!(", as user {uid} and group {gid}")
        });
        log::info!("workers are confined by: {held}{landlock}{user}");
        if !missing.is_empty() {
            let why = match process::own_uid() {
                0 => "sandbox_allow_missing",
                _ => "main does not run as root",
            };
            log::warn!("workers are not confined by: {missing} ({why})");
        }
    }
}

/// Main keeps of root what it needs for its work, and what it runs gets no more.
pub fn give_up_the_rest_of_root() -> Result<(), String> {
    sandbox::keep_what_main_needs().map_err(|e| format!("cannot give up capabilities: {e}"))
}

fn missing(part: Part, error: &io::Error) -> String {
    let name = part.name();
    format!(
        "workers need {name} for their sandbox, which is not to be had here ({error}); \
         doc/security.md says what that is, and what you give up with sandbox_allow_missing = [\"{name}\"]"
    )
}

/// Made where the control socket is made, hence where main may make something.
fn empty_directory(path: &Path) -> Result<OwnedFd, String> {
    let make = || {
        fs::create_dir(path)?;
        let open = File::open(path);
        fs::remove_dir(path)?;
        open
    };
    let failed = |e| {
        format!(
            "cannot make the empty directory {} for workers: {e}",
            path.display()
        )
    };
    make().map(OwnedFd::from).map_err(failed)
}

/// The user and the group that the settings name.
fn ids_of(settings: &Settings) -> Result<Ids, String> {
    // Without the files only numbers are known.
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    ids(
        settings.user.as_deref(),
        settings.group.as_deref(),
        &users,
        &groups,
    )
}

fn ids(user: Option<&str>, group: Option<&str>, users: &str, groups: &str) -> Result<Ids, String> {
    let name = user.unwrap_or(USER);
    let known = find(users, name);
    let uid = known.and_then(|fields| fields.get(2)?.parse().ok());
    let own_gid = known.and_then(|fields| fields.get(3)?.parse().ok());
    let nobody = |id| user.is_none().then_some(id);
    let Some(uid) = uid.or(name.parse().ok()).or(nobody(NOBODY.uid)) else {
        return Err(format!("user: there is no {name:?} in /etc/passwd"));
    };
    let gid = match group {
        Some(group) => {
            let known = find(groups, group).and_then(|fields| fields.get(2)?.parse().ok());
            let unknown = || format!("group: there is no {group:?} in /etc/group");
            known.or(group.parse().ok()).ok_or_else(unknown)?
        }
        None => {
            let unknown =
                || format!("user: {name} has no group in /etc/passwd; give group as well");
            own_gid.or(nobody(NOBODY.gid)).ok_or_else(unknown)?
        }
    };
    match uid == 0 || gid == 0 {
        true => {
            Err("user and group: workers of root would not be confined; name another user".into())
        }
        false => Ok(Ids { uid, gid }),
    }
}

/// The fields of the line of passwd(5) or group(5) with that name, or with that number.
fn find<'t>(text: &'t str, name: &str) -> Option<[&'t str; 4]> {
    let mut lines = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some([
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        ])
    });
    lines.find(|fields| fields[0] == name || fields[2] == name)
}

/// The call that a process has died of, if it was one that it may not do: the kernel says whether. Which one it was the process
/// has noted itself, as a number and one more.
fn forbidden(number: u64, status: Option<ExitStatus>) -> Option<String> {
    let by_signal = status.and_then(|status| status.signal()) == Some(SIGSYS);
    by_signal.then(|| match number.checked_sub(1) {
        Some(number) => sandbox::name(number),
        None => "a call that no table has".into(),
    })
}

impl Supervisor {
    /// Whether a process has died of what it should not have done; the call's name, and it is counted.
    pub(super) fn violation(&mut self, number: u64, status: Option<ExitStatus>) -> Option<String> {
        let name = forbidden(number, status)?;
        self.counts.violations += 1;
        Some(name)
    }

    /// How it died: of what the sandbox forbids, if that is so.
    pub(super) fn death(
        &mut self,
        process: &Process,
        how: &str,
        status: Option<ExitStatus>,
    ) -> String {
        let number = self.board.get(process.row, Cell::Violation);
        let Some(call) = self.violation(number, status) else {
            return how.to_string();
        };
        if let Some(place) = self.workers.places.get_mut(process.id) {
            place.violations += 1;
        }
        let (id, pid) = (process.id, process.child.id());
        log::error!("worker {id}, pid {pid}, did what its sandbox forbids: {call}");
        format!("{how}, its sandbox forbids {call}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SANDBOX_PARTS;

    const USERS: &str =
        "root:x:0:0::/:\nnobody:x:99:98::/:\nweb:x:1000:33::/:\nbroken\nodd:x:y:z\n";
    const GROUPS: &str = "root:x:0:\nwww-data:x:33:\nsozu:x:77:ann\n";

    #[test]
    fn users_and_groups_are_found_by_name_and_by_number() {
        let found = |user, group| ids(user, group, USERS, GROUPS).map(|ids| (ids.uid, ids.gid));
        assert_eq!(found(None, None), Ok((99, 98)));
        assert_eq!(found(Some("web"), None), Ok((1000, 33)));
        assert_eq!(found(Some("1000"), None), Ok((1000, 33)));
        assert_eq!(found(Some("web"), Some("sozu")), Ok((1000, 77)));
        assert_eq!(found(Some("7"), Some("8")), Ok((7, 8)));
        assert_eq!(found(None, Some("8")), Ok((99, 8)));
        let nowhere = ids(None, None, "", "").map(|ids| (ids.uid, ids.gid));
        assert_eq!(nowhere, Ok((65534, 65534)));
        for (user, group, why) in [
            (Some("ann"), None, "no \"ann\""),
            (Some("odd"), None, "no \"odd\""),
            (Some("7"), None, "give group as well"),
            (Some("web"), Some("none"), "no \"none\""),
            (Some("root"), None, "root"),
            (Some("web"), Some("0"), "root"),
        ] {
            let what = found(user, group).expect_err(why);
            assert!(what.contains(why), "{what}");
        }
    }

    /// The number is memory that every worker writes, of others too.
    #[test]
    fn whether_it_was_forbidden_is_not_the_dead_ones_to_say() {
        let [killed, of_filter, ended] = [process::SIGKILL, SIGSYS, 0].map(ExitStatus::from_raw);
        let noted = 1 + 41;
        for (number, status, call) in [
            (noted, Some(killed), None),
            (noted, Some(ended), None),
            (noted, None, None),
            (0, Some(killed), None),
            (
                0,
                Some(of_filter),
                Some("a call that no table has".to_string()),
            ),
            (noted, Some(of_filter), Some(sandbox::name(41))),
            (u64::MAX, Some(of_filter), Some(sandbox::name(u64::MAX - 1))),
        ] {
            assert_eq!(forbidden(number, status), call);
        }
    }

    #[test]
    fn the_configuration_knows_every_part() {
        assert_eq!(SANDBOX_PARTS, Part::ALL.map(Part::name));
    }
}
