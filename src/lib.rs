//! An always-up HTTP reverse proxy.
//!
//! Two columns that meet only in `worker`: the pure one (`session`, `http`,
//! `route`, `balance`, `parser`, `buf`, `slab`, `timer`, `limits`) knows no
//! descriptor, clock, log sink or randomness; the other (`net`, `sys`) knows
//! nothing of HTTP. `config`, `state` and `proto` turn text into values.
//! `tests/tidy.rs` holds these floors.

pub mod balance;
pub mod buf;
pub mod certificate;
pub mod channel;
pub mod config;
pub mod crypt;
pub mod date;
pub mod health;
pub mod http;
pub mod keys;
pub mod limits;
pub mod metrics;
pub mod net;
pub mod parser;
pub mod proto;
pub mod quota;
pub mod random;
pub mod resolver;
pub mod role;
pub mod route;
pub mod session;
pub mod slab;
pub mod state;
pub mod supervisor;
pub mod sys;
pub mod timer;
pub mod version;
pub mod worker;
