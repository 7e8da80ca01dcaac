//! Bytes from outside into values: the grammar of HTTP/1.1 and its parts.
//!
//! Owns every decision on syntax, and nothing else. Never allocates on the hot
//! path, keeps no bytes, logs nothing, knows no descriptor and no clock. No
//! input panics. Called by `http` and `session`, and by the fuzzers.

pub mod bytes;
pub mod chunked;
pub mod client_hello;
pub mod host;
pub mod http11;
pub mod name;
pub mod path;
pub mod proxy_protocol;
pub mod target;
pub mod toml;
