//! `sandbox`: what the kernel itself says of each worker, beside what was meant.
//!
//! Read from /proc as anybody may; where main may not look (a root directory is shown to CAP_SYS_PTRACE
//! alone, which main has given up) it says so.

use std::fs;

use crate::proto::reply;
use crate::supervisor::sandbox::Sandbox;
use crate::supervisor::workers::Life;
use crate::supervisor::Supervisor;
use crate::sys::process;
use crate::sys::sandbox::Part;

/// One thing that the kernel says of a process, and what it should say.
struct Fact {
    what: &'static str,
    /// `None`: it does not say.
    is: Option<String>,
    /// `None`: nothing was asked for.
    meant: Option<String>,
}

/// Those that /proc/PID/status and /proc/PID/limits have: their names here and there.
const STATUS: [(&str, &str); 7] = [
    ("uid", "Uid:"),
    ("gid", "Gid:"),
    ("groups", "Groups:"),
    ("capabilities", "CapPrm:"),
    ("no_new_privs", "NoNewPrivs:"),
    ("seccomp", "Seccomp:"),
    ("threads", "Threads:"),
];
const LIMITS: [(&str, &str); 2] = [
    ("processes_max", "Max processes"),
    ("core_max", "Max core file size"),
];

impl Supervisor {
    pub(super) fn sandbox_lines(&self) -> String {
        let mut lines = String::new();
        let mut all = true;
        let processes = self.workers.processes.iter().map(|(_, process)| process);
        // One that starts has not given up everything yet.
        let workers = processes.filter(|process| process.life != Life::Starting);
        let workers = workers.map(|process| (process.id.to_string(), process.child.id()));
        let keys = self.keys.pid().filter(|_| self.keys.are_ready());
        let keys = keys.map(|pid| ("keys".to_string(), pid));
        let confined = keys.into_iter().chain(workers);
        let confined = confined.map(|(who, pid)| (who, pid, self.sandbox.facts(pid)));
        let resolver = self.names.pid().filter(|_| self.names.are_asked());
        let resolver = resolver.map(|pid| {
            let mut facts = self.sandbox.facts(pid);
            facts.iter_mut().for_each(Fact::sees_files);
            ("resolver".to_string(), pid, facts)
        });
        for (who, pid, facts) in confined.chain(resolver) {
            for fact in facts {
                let holds = fact.holds();
                all &= holds != Some(false);
                let shown = |value: Option<String>, none: &str| value.unwrap_or(none.into());
                lines += &reply::data(
                    "sandbox",
                    &[
                        ("worker", who.clone()),
                        ("pid", pid.to_string()),
                        ("what", fact.what.to_string()),
                        (
                            "holds",
                            shown(holds.map(|holds| holds.to_string()), "unknown"),
                        ),
                        ("is", shown(fact.is, "hidden")),
                        ("meant", shown(fact.meant, "any")),
                    ],
                );
            }
        }
        lines + &reply::ok(&[("holds", all.to_string())])
    }
}

impl Sandbox {
    fn facts(&self, pid: u32) -> Vec<Fact> {
        let file = |name| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let (status, limits) = (file("status"), file("limits"));
        let of_status = STATUS.map(|(what, name)| Fact {
            what,
            is: after(&status, name),
            meant: self.meant(what),
        });
        // Soft limit, hard limit, unit.
        let bounds = |text: String| {
            text.split_whitespace()
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        };
        let of_limits = LIMITS.map(|(what, name)| Fact {
            what,
            is: after(&limits, name).map(bounds),
            meant: Some("0 0".into()),
        });
        let root = fs::read_link(format!("/proc/{pid}/root"));
        let root = Fact {
            what: "root",
            is: root.ok().map(|path| path.display().to_string()),
            meant: self.has(Part::Chroot).then(|| self.root_name.clone()),
        };
        of_status
            .into_iter()
            .chain(of_limits)
            .chain([root])
            .collect()
    }

    fn meant(&self, what: &str) -> Option<String> {
        let four = |id: u32| [id; 4].map(|id| id.to_string()).join(" ");
        let own = process::own_uid();
        match (what, self.user) {
            ("uid", Some(ids)) => Some(four(ids.uid)),
            ("gid", Some(ids)) => Some(four(ids.gid)),
            ("groups", Some(_)) => Some(String::new()),
            ("uid", None) => Some(four(own)),
            ("capabilities", _) => Some("0".repeat(16)),
            ("no_new_privs" | "threads", _) => Some("1".into()),
            ("seccomp", _) if self.has(Part::Seccomp) => Some("2".into()),
            _ => None,
        }
    }
}

impl Fact {
    /// Of a process that reads files, in threads of its own.
    fn sees_files(&mut self) {
        if ["threads", "processes_max", "root"].contains(&self.what) {
            self.meant = None;
        }
    }

    /// `None`: it is not known, or nothing was asked for.
    fn holds(&self) -> Option<bool> {
        Some(self.is.as_ref()? == self.meant.as_ref()?)
    }
}

/// What stands behind a name at the start of a line, its words with one space between.
fn after(text: &str, name: &str) -> Option<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(rest.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_behind_a_name() {
        let text =
            "Name:\tsozu\nUid:\t1\t2\t3\t4\nGroups:\t \nMax processes   0    0   processes \n";
        assert_eq!(after(text, "Uid:").as_deref(), Some("1 2 3 4"));
        assert_eq!(after(text, "Groups:").as_deref(), Some(""));
        assert_eq!(
            after(text, "Max processes").as_deref(),
            Some("0 0 processes")
        );
        assert_eq!(after(text, "Seccomp:"), None);
    }

    #[test]
    fn what_is_not_seen_is_neither_held_nor_broken() {
        let fact = |is: Option<&str>, meant: Option<&str>| Fact {
            what: "root",
            is: is.map(String::from),
            meant: meant.map(String::from),
        };
        assert_eq!(fact(None, Some("a")).holds(), None);
        assert_eq!(fact(Some("a"), None).holds(), None);
        assert_eq!(fact(Some("a"), Some("a")).holds(), Some(true));
        assert_eq!(fact(Some("b"), Some("a")).holds(), Some(false));
    }
}
