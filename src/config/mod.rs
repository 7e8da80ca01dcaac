//! The configuration: which keys there are, and how they become values.
//!
//! The control language and `config.toml` share the keys of `keys`; `fields`
//! turns one value of either into a checked one, `object` a set of them into
//! the types of `state`, and back. `read` takes a whole file, `table` one table
//! of it, and `report` says what is wrong.

pub mod action;
pub mod certificate;
mod check;
pub mod fields;
pub mod foreign;
pub mod keys;
pub mod needs;
pub mod object;
mod quota;
mod read;
mod report;
mod settings;
mod table;

pub use read::{load, read, Config};
pub use report::{check, Errors, Report, Warning};
pub use settings::{Family, Settings, Target, SANDBOX_PARTS};
