//! The configuration: which keys there are, and how they become values.
//!
//! The control language and `config.toml` share the keys of `keys`; `fields`
//! turns one value of either into a checked one, `object` a set of them into
//! the types of `state`, and back.

pub mod fields;
pub mod keys;
pub mod object;
mod settings;

pub use settings::{Settings, Target};
