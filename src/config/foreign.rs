//! Keys of Sōzu that are none of ours.
//!
//! One that has nothing to say here is a warning that says why; one whose
//! feature is not there is an error, because the file would promise what does
//! not happen. Used by `read`, compared with doc/config.md by `tests/docs.rs`.

use Fate::{Ignored, Unsupported};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Ignored,
    /// Only `false` is taken, which is what we do.
    Unsupported,
}

pub struct Foreign {
    /// Where it stands: the same word as `Place::name`.
    pub place: &'static str,
    pub name: &'static str,
    pub fate: Fate,
    pub sentence: &'static str,
}

const fn foreign(
    place: &'static str,
    name: &'static str,
    fate: Fate,
    sentence: &'static str,
) -> Foreign {
    Foreign {
        place,
        name,
        fate,
        sentence,
    }
}

#[rustfmt::skip]
pub static FOREIGN: &[Foreign] = &[
    foreign("global", "command_buffer_size", Ignored, "A command has at most 1 MiB."),
    foreign("global", "max_command_buffer_size", Ignored, "A command has at most 1 MiB."),
    foreign("global", "worker_automatic_restart", Ignored, "A worker that ends is always replaced."),
    foreign("global", "handle_process_affinity", Ignored, "The kernel places the workers."),
    foreign("global", "ctl_command_timeout", Ignored, "A command ends when every worker has answered; see worker_timeout."),
    foreign("global", "pid_file_path", Ignored, "The pid never changes; \"sozuctl status\" shows it."),
    foreign("global", "tls_provider", Ignored, "TLS is OpenSSL's."),
    foreign("global", "zombie_check_interval", Ignored, "Every session has a time limit, so none is left behind."),
    foreign("global", "accept_queue_timeout", Ignored, "At the limit we stop accepting; the kernel keeps the queue."),
    foreign("global", "min_buffers", Ignored, "Buffers are made at the start; see max_buffers."),
    foreign("global", "metrics", Ignored, "Metrics are not sent; \"sozuctl status\" shows them."),
    foreign("global", "disable_cluster_metrics", Ignored, "Metrics are not sent; \"sozuctl status\" shows them."),
    foreign("global", "activate_listeners", Ignored, "A listener that is configured accepts."),
    foreign("global", "log_colored", Ignored, "The log has no colors."),
    foreign("listeners", "public_address", Ignored, "The address that the client reached is reported."),
    foreign("clusters", "load_metric", Ignored, "least_conn goes by requests, least_time by the time of answers."),
    foreign("clusters", "https_redirect", Unsupported, "Redirection to https is not supported by this version."),
    foreign("clusters", "expect_proxy", Unsupported, "It is the listener that expects it: expect_proxy = true in [[listeners]]."),
    foreign("frontends", "position", Ignored, "The most specific frontend wins, wherever it stands."),
    foreign("frontends", "tags", Ignored, "Log lines have no tags."),
    foreign("frontends", "tls_versions", Unsupported, "The listener says which versions of TLS it speaks."),
];

pub fn find(place: &str, name: &str) -> Option<&'static Foreign> {
    FOREIGN
        .iter()
        .find(|foreign| foreign.place == place && foreign.name == name)
}
