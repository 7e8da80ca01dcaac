//! The loss test by hand: what it is and how it counts is said in `mod.rs`.

#[path = "mod.rs"]
mod harness;

use std::path::PathBuf;
use std::process::ExitCode;

fn main() -> ExitCode {
    let sozu = beside().unwrap_or_else(|| PathBuf::from("sozu"));
    match harness::run(std::env::args().skip(1), sozu) {
        Ok(outcome) => {
            println!("{}", outcome.text);
            ExitCode::from(outcome.code())
        }
        Err(why) => {
            eprintln!("loss: {why}");
            ExitCode::from(2)
        }
    }
}

/// This program is TARGET/release/examples/loss.
fn beside() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    Some(program.ancestors().nth(2)?.join("sozu"))
}
