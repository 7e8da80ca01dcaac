//! A program that is started in the place of a new sozu and is none, or is one
//! only in part. What is wrong with it is the name of its file; what it does as
//! the others do is done by `real`, which lies beside it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{exit, Command};

fn main() {
    let own = std::env::current_exe().expect("its own file");
    let name = own.file_name().and_then(|name| name.to_str());
    let role = std::env::args().nth(1).unwrap_or_default();
    match (name.unwrap_or_default(), role.as_str()) {
        ("exits", _) => exit(3),
        ("hangs", _) | ("silent_worker", "--worker") => loop {
            std::thread::park();
        },
        ("babbles", _) => {
            let channel = std::io::stdin().as_fd().try_clone_to_owned();
            let mut channel = File::from(channel.expect("dup"));
            let _gone = channel.write_all(b"\xff\0hello\nok or not\n");
        }
        ("dying_worker", "--worker") => exit(4),
        _ => {
            let mut real = Command::new(own.with_file_name("real"));
            let why = real.args(std::env::args().skip(1)).exec();
            panic!("{}: {why}", own.display());
        }
    }
}
