//! Files, with the rights of whoever runs `sozuctl`; `-` is standard input or output.
//!
//! What is saved is there whole or not at all: it is written under another name
//! in the same folder, and takes its place once it is on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sozu_lib::limits::CONFIG_BYTES_MAX;

use crate::failure::Failure;

/// Bytes written at a time.
const BATCH_BYTES: usize = 64 * 1024;

pub fn is_standard(path: &Path) -> bool {
    path == Path::new("-")
}

/// The text of a file.
pub fn read(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let most = CONFIG_BYTES_MAX as u64 + 1;
    let read = match is_standard(path) {
        true => io::stdin().lock().take(most).read_to_string(&mut text),
        false => File::open(path).and_then(|file| file.take(most).read_to_string(&mut text)),
    };
    read.map_err(|e| Failure::of_file("read", path, e))?;
    match text.len() > CONFIG_BYTES_MAX {
        true => {
            let what = format!("it has more than {CONFIG_BYTES_MAX} bytes");
            Err(Failure::of_file("read", path, what))
        }
        false => Ok(text),
    }
}

/// Writes a file that only its owner reads; `fill` gives what is in it.
pub fn save(
    path: &Path,
    fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |e: io::Error| Failure::of_file("write", path, e);
    if is_standard(path) {
        return pour(fill, io::stdout().lock(), &Failure::of_output).map(drop);
    }
    // A device or a pipe is written to, never replaced.
    if fs::metadata(path).is_ok_and(|data| !data.is_file()) {
        let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
        return pour(fill, file, &failed).map(drop);
    }
    // What a link leads to is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (folder, other) = beside(&target).map_err(failed)?;
    let mut options = OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    let file = options.open(&other).map_err(failed)?;
    let done = pour(fill, file, &failed).and_then(|file| {
        let renamed = file.sync_all().and_then(|()| fs::rename(&other, &target));
        // The folder has the name.
        let kept = renamed.and_then(|()| File::open(&folder)?.sync_all());
        kept.map_err(failed)
    });
    if done.is_err() {
        // It is not there any more if it was the folder that failed.
        let _ = fs::remove_file(&other);
    }
    done
}

/// The folder of a file, and a name in it that nobody has.
fn beside(target: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = target.parent().unwrap_or(Path::new(""));
    // The path of a bare name has an empty folder.
    let folder = Path::new(".").join(folder);
    let other = format!(".{}.{}.new", name.to_string_lossy(), std::process::id());
    Ok((folder.clone(), folder.join(other)))
}

fn pour<W: Write>(
    fill: &mut dyn FnMut(&mut dyn Write) -> Result<(), Failure>,
    out: W,
    failed: &dyn Fn(io::Error) -> Failure,
) -> Result<W, Failure> {
    let mut out = BufWriter::with_capacity(BATCH_BYTES, out);
    let filled = fill(&mut out);
    let flushed = out.flush();
    // What cannot be written stops `fill` as well; the reason is the writer's.
    flushed.map_err(failed)?;
    filled?;
    out.into_inner().map_err(|e| failed(e.into_error()))
}
