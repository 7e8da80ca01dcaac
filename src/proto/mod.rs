//! The control language: one grammar for a person with `nc -U`, for `sozuctl`,
//! between main and workers, and for the file of the saved state.
//!
//! ```text
//! line  = word *( SP word ) LF       word = bare / key "=" value / "quoted with \" \\ \n \r \t"
//! reply = *( data line ) ( "ok" *( SP key=value ) / "error" SP code SP "text" ) LF
//! ```
//! `line` has the grammar, `table` the words, `pairs` checks values, `command` has
//! their meaning, `reply` the answers, `said` what workers say; `question` and `selection` are what commands
//! ask about, `digest` what a process has.

pub mod command;
pub mod digest;
pub mod line;
mod pairs;
pub mod question;
pub mod reply;
pub mod said;
pub mod selection;
pub mod table;
pub mod update;
