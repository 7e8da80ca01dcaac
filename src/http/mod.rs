//! What HTTP/1.1 messages mean, and what we make of them (RFC 9110, RFC 9112).
//!
//! Pure: parsed heads in, decisions and bytes out. `session` calls it.

pub mod challenge;
pub mod cookie;
pub mod fields;
pub mod framing;
pub mod reply;
pub mod request;
pub mod response;
pub mod rewrite;
pub mod websocket;
