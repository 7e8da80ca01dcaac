//! Connections, watched sockets, channels and log files: I/O that knows nothing of HTTP.

pub mod board;
pub mod conn;
pub mod ledger;
pub mod logging;
pub mod sink;
pub mod tls;
pub mod token;
