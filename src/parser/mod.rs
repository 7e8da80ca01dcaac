//! Text and bytes from outside, turned into values or refused.

pub mod toml;
