//! The global settings: what is read once, at the start.
//!
//! Owns: the type and its words. `read` makes one from a file; main hands it
//! to each worker as one line.

use super::fields::{fault, Fault, Fields};
use super::keys::GLOBAL;
use super::object::{timeouts_from, timeouts_words, word, Words};
use crate::limits::DESCRIPTORS_RESERVED;
use crate::state::Timeouts;
use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub command_socket: PathBuf,
    /// Names of groups: who may do everything, and who may only ask.
    pub control_admin_groups: Vec<String>,
    pub control_viewer_groups: Vec<String>,
    pub saved_state: Option<PathBuf>,
    /// Keys of certificates are saved as well.
    pub save_secrets: bool,
    pub automatic_state_save: bool,
    /// In the syntax of RUST_LOG.
    pub log_level: String,
    pub log_target: Target,
    /// `None`: no line about requests.
    pub log_access_target: Option<Target>,
    /// Whom workers become, if root starts us.
    pub user: Option<String>,
    pub group: Option<String>,
    /// Of `SANDBOX_PARTS`.
    pub sandbox_allow_missing: Vec<String>,
    /// Private keys are in a process of their own.
    pub key_process: bool,
    /// Seconds.
    pub resolve_interval: u32,
    pub resolve_family: Family,
    pub worker_count: u32,
    /// Per worker; `None`: what the limit on open files allows.
    pub max_connections: Option<u32>,
    pub buffer_size: u32,
    /// Per worker; `None`: what the connections need.
    pub max_buffers: Option<u32>,
    /// The defaults of every listener.
    pub timeouts: Timeouts,
    /// Seconds, as all that follow.
    pub back_keepalive_timeout: u32,
    pub worker_timeout: u32,
    pub drain_timeout: u32,
    pub shutdown_timeout: u32,
    /// Below it are the challenges of certificate authorities.
    pub acme_challenges: Option<PathBuf>,
}

/// What the sandbox of workers is made of (`sys::sandbox`).
pub const SANDBOX_PARTS: [&str; 4] = ["chroot", "user", "landlock", "seccomp"];

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Any,
    Ipv4,
    Ipv6,
}

impl Family {
    pub fn named(name: &str) -> Family {
        match name {
            "ipv4" => Family::Ipv4,
            "ipv6" => Family::Ipv6,
            _ => Family::Any,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Family::Any => "any",
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        }
    }
}

/// Where a log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Stdout,
    Stderr,
    File(PathBuf),
}

impl Settings {
    pub fn from(mut fields: Fields) -> Result<Settings, Fault> {
        fields.complete(GLOBAL)?;
        let saved_state = fields.text_or_none("saved_state").map(PathBuf::from);
        let automatic_state_save = fields.bool("automatic_state_save")?;
        let Some(log_target) = target(fields.text("log_target")?) else {
            return Err(fault(
                "log_target",
                "takes no \"none\": set log_level to off",
            ));
        };
        let log_access_target = match fields.text_or_none("log_access_target") {
            Some(text) => target(text),
            None => Some(log_target.clone()),
        };
        let sandbox_allow_missing = fields.names("sandbox_allow_missing");
        let unknown = |name: &&String| !SANDBOX_PARTS.contains(&name.as_str());
        if let Some(name) = sandbox_allow_missing.iter().find(unknown) {
            let what = format!(
                "{name:?} is no part of the sandbox: {}",
                SANDBOX_PARTS.join(", ")
            );
            return Err(fault("sandbox_allow_missing", what));
        }
        Ok(Settings {
            command_socket: fields.text("command_socket")?.into(),
            control_admin_groups: fields.names("control_admin_groups"),
            control_viewer_groups: fields.names("control_viewer_groups"),
            saved_state,
            save_secrets: fields.bool("save_secrets")?,
            automatic_state_save,
            log_level: fields.text("log_level")?,
            log_target,
            log_access_target,
            user: fields.text_or_none("user"),
            group: fields.text_or_none("group"),
            sandbox_allow_missing,
            key_process: fields.bool("key_process")?,
            resolve_interval: fields.int("resolve_interval")?,
            resolve_family: Family::named(&fields.text("resolve_family")?),
            worker_count: fields.int("worker_count")?,
            max_connections: fields.int_or_none("max_connections"),
            buffer_size: fields.int("buffer_size")?,
            max_buffers: fields.int_or_none("max_buffers"),
            timeouts: timeouts_from(&mut fields)?,
            back_keepalive_timeout: fields.int("back_keepalive_timeout")?,
            worker_timeout: fields.int("worker_timeout")?,
            drain_timeout: fields.int("drain_timeout")?,
            shutdown_timeout: fields.int("shutdown_timeout")?,
            acme_challenges: fields.text_or_none("acme_challenges").map(PathBuf::from),
        })
    }

    /// How many client connections a worker takes that may open so many descriptors: each needs
    /// one to a backend as well.
    pub fn connections_of_worker(&self, descriptors: u64) -> u64 {
        let most = (descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 2).max(1);
        self.max_connections
            .map_or(most, |n| u64::from(n).min(most))
    }

    /// Every key that has a value.
    pub fn words(&self) -> Words {
        let mut words = vec![word("command_socket", self.command_socket.display())];
        let groups = [
            ("control_admin_groups", &self.control_admin_groups),
            ("control_viewer_groups", &self.control_viewer_groups),
        ];
        let given = groups.iter().filter(|(_, names)| !names.is_empty());
        words.extend(given.map(|(key, names)| word(key, names.join(","))));
        if let Some(path) = &self.saved_state {
            words.push(word("saved_state", path.display()));
        }
        words.push(word("save_secrets", self.save_secrets));
        words.push(word("automatic_state_save", self.automatic_state_save));
        words.push(word("log_level", &self.log_level));
        words.push(word("log_target", target_text(Some(&self.log_target))));
        let access = target_text(self.log_access_target.as_ref());
        words.push(word("log_access_target", access));
        words.extend(self.user.as_ref().map(|user| word("user", user)));
        words.extend(self.group.as_ref().map(|group| word("group", group)));
        if !self.sandbox_allow_missing.is_empty() {
            let names = self.sandbox_allow_missing.join(",");
            words.push(word("sandbox_allow_missing", names));
        }
        words.push(word("key_process", self.key_process));
        words.push(word("resolve_interval", self.resolve_interval));
        words.push(word("resolve_family", self.resolve_family.name()));
        words.push(word("worker_count", self.worker_count));
        words.extend(
            self.max_connections
                .map(|most| word("max_connections", most)),
        );
        words.push(word("buffer_size", self.buffer_size));
        words.extend(self.max_buffers.map(|most| word("max_buffers", most)));
        words.extend(timeouts_words(&self.timeouts));
        words.push(word("back_keepalive_timeout", self.back_keepalive_timeout));
        words.push(word("worker_timeout", self.worker_timeout));
        words.push(word("drain_timeout", self.drain_timeout));
        words.push(word("shutdown_timeout", self.shutdown_timeout));
        if let Some(folder) = &self.acme_challenges {
            words.push(word("acme_challenges", folder.display()));
        }
        words
    }
}

fn target(text: String) -> Option<Target> {
    match text.as_str() {
        "none" => None,
        "stdout" => Some(Target::Stdout),
        "stderr" => Some(Target::Stderr),
        _ => Some(Target::File(text.into())),
    }
}

fn target_text(target: Option<&Target>) -> String {
    match target {
        None => "none".into(),
        Some(Target::Stdout) => "stdout".into(),
        Some(Target::Stderr) => "stderr".into(),
        Some(Target::File(path)) => path.display().to_string(),
    }
}
