//! What the access log says of one request, connection or tunnel.

use crate::metrics::Count;

/// How it ended. The first part of the word says whose doing that was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    #[default]
    Ok,
    ClientClosed,
    ClientReset,
    ClientTimeout,
    ClientBadRequest,
    ClientNoRoute,
    ClientDenied,
    ClientRateLimited,
    ClientTooLarge,
    ClientTooSlow,
    BackendNone,
    BackendRefused,
    BackendConnectTimeout,
    BackendTlsFailed,
    BackendTimeout,
    BackendClosed,
    BackendBadResponse,
    BackendCut,
    TunnelTimeout,
    ProxyShutdown,
    ProxyKilled,
    ProxyNoRoom,
    ProxyQueueFull,
    ProxyQueueTimeout,
}

/// The fields of a line of the access log, in the order in which it is written.
pub const FIELDS: [&str; 18] = [
    "time",
    "client",
    "listener",
    "cluster",
    "backend",
    "backend_address",
    "host",
    "request",
    "status",
    "bytes_up",
    "bytes_down",
    "connected_ms",
    "first_byte_ms",
    "total_ms",
    "request_id",
    "user",
    "end",
    "detail",
];

impl End {
    /// In the order of their declaration.
    pub const ALL: [End; 24] = [
        End::Ok,
        End::ClientClosed,
        End::ClientReset,
        End::ClientTimeout,
        End::ClientBadRequest,
        End::ClientNoRoute,
        End::ClientDenied,
        End::ClientRateLimited,
        End::ClientTooLarge,
        End::ClientTooSlow,
        End::BackendNone,
        End::BackendRefused,
        End::BackendConnectTimeout,
        End::BackendTlsFailed,
        End::BackendTimeout,
        End::BackendClosed,
        End::BackendBadResponse,
        End::BackendCut,
        End::TunnelTimeout,
        End::ProxyShutdown,
        End::ProxyKilled,
        End::ProxyNoRoom,
        End::ProxyQueueFull,
        End::ProxyQueueTimeout,
    ];

    /// The word in the access log; doc/access_log.md explains each.
    pub fn word(self) -> &'static str {
        match self {
            End::Ok => "ok",
            End::ClientClosed => "client_closed",
            End::ClientReset => "client_reset",
            End::ClientTimeout => "client_timeout",
            End::ClientBadRequest => "client_bad_request",
            End::ClientNoRoute => "client_no_route",
            End::ClientDenied => "client_denied",
            End::ClientRateLimited => "client_rate_limited",
            End::ClientTooLarge => "client_too_large",
            End::ClientTooSlow => "client_too_slow",
            End::BackendNone => "backend_none",
            End::BackendRefused => "backend_refused",
            End::BackendConnectTimeout => "backend_connect_timeout",
            End::BackendTlsFailed => "backend_tls_failed",
            End::BackendTimeout => "backend_timeout",
            End::BackendClosed => "backend_closed",
            End::BackendBadResponse => "backend_bad_response",
            End::BackendCut => "backend_cut",
            End::TunnelTimeout => "tunnel_timeout",
            End::ProxyShutdown => "proxy_shutdown",
            End::ProxyKilled => "proxy_killed",
            End::ProxyNoRoom => "proxy_no_room",
            End::ProxyQueueFull => "proxy_queue_full",
            End::ProxyQueueTimeout => "proxy_queue_timeout",
        }
    }

    /// The limit by which it was ended, to be counted.
    pub fn refused(self) -> Option<Count> {
        match self {
            End::ClientDenied => Some(Count::RefusedAddress),
            End::ClientRateLimited => Some(Count::RefusedRate),
            End::ClientTooLarge => Some(Count::RefusedBody),
            End::ClientTooSlow => Some(Count::RefusedPace),
            _ => None,
        }
    }

    /// Whose doing a bad end was, to be counted.
    pub fn failed(self) -> Option<Count> {
        match self {
            End::Ok => None,
            End::ClientClosed
            | End::ClientReset
            | End::ClientTimeout
            | End::ClientBadRequest
            | End::ClientNoRoute
            | End::ClientDenied
            | End::ClientRateLimited
            | End::ClientTooLarge
            | End::ClientTooSlow => Some(Count::FailedClient),
            End::BackendNone
            | End::BackendRefused
            | End::BackendConnectTimeout
            | End::BackendTlsFailed
            | End::BackendTimeout
            | End::BackendClosed
            | End::BackendBadResponse
            | End::BackendCut => Some(Count::FailedBackend),
            End::TunnelTimeout
            | End::ProxyShutdown
            | End::ProxyKilled
            | End::ProxyNoRoom
            | End::ProxyQueueFull
            | End::ProxyQueueTimeout => Some(Count::FailedProxy),
        }
    }
}

/// Longest request line that is remembered, in bytes; the rest is left out of the log.
const LINE_BYTES_MAX: usize = 2048;

#[derive(Default)]
pub struct Record {
    /// 32 hexadecimal digits.
    pub id: [u8; 32],
    /// Method and target as they were routed, or the start of what could not be parsed.
    pub line: Vec<u8>,
    /// The hostname that was asked for.
    pub host: Vec<u8>,
    /// By which name and password it was let in; empty, if none was needed or it was not.
    pub user: Vec<u8>,
    /// 0 while nothing was answered.
    pub status: u16,
    /// Bytes from the client to the backend and back, framing included.
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// Microseconds of the worker's clock. 0: it did not come to that.
    pub start_us: u64,
    pub connected_us: u64,
    pub first_byte_us: u64,
    pub end: End,
    /// The backend sent more than its response.
    pub surplus: bool,
    /// What was wrong, in a few words.
    pub detail: &'static str,
}

impl Record {
    /// An empty one in the memory of this one.
    pub fn renewed(mut self) -> Record {
        self.line.clear();
        self.host.clear();
        self.user.clear();
        Record {
            line: self.line,
            host: self.host,
            user: self.user,
            ..Record::default()
        }
    }

    /// How long the backend took to answer, or has not answered; of a tunnel, to be connected. `None`: none was asked.
    pub fn answered_after(&self, now_us: u64) -> Option<u64> {
        let (from, to) = match (self.status, self.first_byte_us) {
            (0, 0) => (self.start_us, self.connected_us),
            (_, 0) => (self.connected_us, now_us),
            (_, first_us) => (self.connected_us, first_us),
        };
        (self.connected_us != 0).then_some(to.saturating_sub(from))
    }

    pub fn set_line(&mut self, method: &[u8], target: &[u8]) {
        self.line.clear();
        if !method.is_empty() {
            self.line.extend_from_slice(method);
            self.line.push(b' ');
        }
        let room = LINE_BYTES_MAX.saturating_sub(self.line.len());
        self.line
            .extend_from_slice(&target[..target.len().min(room)]);
    }
}
