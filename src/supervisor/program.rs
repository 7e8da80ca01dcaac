//! The file of another program: opened once, and run from there however often.
//!
//! So what is rehearsed, what workers run and what main becomes is one and the
//! same file, whatever is put under its name meanwhile.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sys::process;

pub struct Program {
    /// By which it was found.
    pub path: PathBuf,
    file: File,
}

impl Program {
    /// An error is a sentence. `owners`: the only users whose files are taken, if not all are.
    pub fn open(path: &Path, owners: Option<&[u32]>) -> Result<Program, String> {
        let shown = path.display();
        if !path.is_absolute() {
            return Err(format!("{shown}: write the whole path, from / on"));
        }
        if path.starts_with("/proc") {
            return Err(format!(
                "{shown} means another file each time: write where the program lies"
            ));
        }
        let wrong = |e| format!("{shown}: {e}");
        let mut options = OpenOptions::new();
        // A pipe that nobody writes to does not stop main.
        let opened = options.read(true).custom_flags(process::O_NONBLOCK);
        let mut file = opened.open(path).map_err(wrong)?;
        let data = file.metadata().map_err(wrong)?;
        if !data.is_file() {
            return Err(format!("{shown} is no file"));
        }
        if data.mode() & 0o111 == 0 {
            return Err(format!("{shown} is not executable: chmod +x {shown}"));
        }
        let foreign = |owners: &[u32]| !owners.contains(&data.uid()) || data.mode() & 0o022 != 0;
        if owners.is_some_and(foreign) {
            return Err(format!(
                "{shown} can be changed by others than root and the user that runs sozu: \
                 only those two may run such a file"
            ));
        }
        let mut start = [0; 2];
        if file.read(&mut start).map_err(wrong)? == 2 && start == *b"#!" {
            return Err(format!(
                "{shown} is a script: name the program that it runs"
            ));
        }
        let path = path.to_owned();
        Ok(Program { path, file })
    }

    /// Where this process, and a child before its exec, finds the file.
    pub fn running(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_no_program_is_told() {
        let folder = std::env::temp_dir().join(format!("sozu-program-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let told = |path: &Path, owners: Option<[u32; 1]>| match Program::open(
            path,
            owners.as_ref().map(|all| &all[..]),
        ) {
            Ok(_) => String::new(),
            Err(what) => what,
        };
        let file = folder.join("file");
        fs::write(&file, "#!/bin/sh\n").unwrap();
        let chmod = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        chmod(0o644);
        assert!(told(&folder.join("nothing"), None).contains("No such file"));
        assert!(told(&folder, None).contains("is no file"));
        assert!(told(Path::new("sozu"), None).contains("from / on"));
        assert!(told(Path::new("/proc/self/exe"), None).contains("another file"));
        assert!(told(&file, None).contains("chmod +x"));
        chmod(0o755);
        assert!(told(&file, None).contains("is a script"));
        fs::write(&file, "anything").unwrap();
        let own = process::own_uid();
        assert_eq!(told(&file, None), "");
        assert_eq!(told(&file, Some([own])), "");
        assert!(told(&file, Some([own + 1])).contains("only those two"));
        chmod(0o775);
        assert!(told(&file, Some([own])).contains("only those two"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
