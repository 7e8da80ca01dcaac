//! Names that have other addresses than on this machine: files of names that only the proxy of a test sees.

use super::proxy::{Proxy, Setup};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

/// hosts(5), and nsswitch.conf(5) by which nothing else is asked.
const HOSTS: &str = "hosts";
const SWITCH: &str = "nsswitch.conf";
const MOUNTS: &str = r#"
mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/nsswitch.conf && shift 2 && exec "$@"
"#;

impl Setup {
    /// Names have the addresses of this text, in the form of hosts(5), and no others.
    pub fn hosts(mut self, text: &str) -> Setup {
        self.dir.write(HOSTS, text);
        self.dir.write(SWITCH, "hosts: files\n");
        self.hosts = true;
        self
    }
}

impl Proxy {
    /// From now on they have these.
    pub fn set_hosts(&self, text: &str) {
        self.setup.dir.write(HOSTS, text);
    }
}

/// Runs it where these files are mounted, which no other process sees. It takes the place of the shell.
pub fn run(setup: &Setup, program: &Path) -> Command {
    let mut command = Command::new("unshare");
    let own = std::fs::metadata("/proc/self").expect("our own process");
    if own.uid() != 0 {
        command.args(["--map-current-user", "--keep-caps"]);
    }
    command.args(["--mount", "sh", "-c", MOUNTS, "sh"]);
    command.args([setup.path(HOSTS), setup.path(SWITCH)]);
    command.arg(program);
    command
}
