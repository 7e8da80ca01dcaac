//! The real program, with four workers and a configuration that closes nothing by itself.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::control::Control;
use super::kinds::Doors;
use super::process::{self, Process};

pub const WORKERS: usize = 4;
const READY: Duration = Duration::from_secs(15);
const STEP: Duration = Duration::from_millis(5);
/// A port that was free a moment ago may be taken when the proxy binds it.
const START_ATTEMPTS: usize = 5;
const COMPLAINTS_MAX: usize = 20;

/// A directory that goes away with the value.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Result<Dir, String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sozu-loss-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Dir(path))
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// Where the backends are: two of HTTP, one more that comes and goes, and one of TCP.
#[derive(Clone, Copy)]
pub struct Backends {
    pub http: [SocketAddr; 2],
    pub spare: SocketAddr,
    pub tcp: SocketAddr,
}

pub struct Proxy {
    // First, so that it has ended when the directory goes.
    process: Process,
    dir: Dir,
    pub doors: Doors,
    backends: Backends,
}

/// What main and its workers hold.
#[derive(Clone, Copy, Default, Debug)]
pub struct Held {
    pub main_descriptors: usize,
    pub main_pss: u64,
    pub workers: usize,
    pub worker_descriptors: usize,
    pub worker_pss: u64,
}

/// The process that has the private keys: what it holds is counted with the workers, itself it is none.
fn has_keys(pid: u32) -> bool {
    let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).any(|word| word == b"--keys")
}

impl Proxy {
    pub fn start(sozu: &Path, backends: Backends) -> Result<Proxy, String> {
        let mut said = String::new();
        for _ in 0..START_ATTEMPTS {
            match Proxy::try_start(sozu, backends) {
                Err(why) if why.contains("in use") => said = why,
                other => return other,
            }
        }
        Err(said)
    }

    fn try_start(sozu: &Path, backends: Backends) -> Result<Proxy, String> {
        let dir = Dir::new()?;
        let doors = free_doors()?;
        let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/certificates");
        for name in ["one.pem", "one.key"] {
            let copied = fs::copy(certificates.join(name), dir.0.join(name));
            copied.map_err(|e| format!("{name}: {e}"))?;
        }
        write(&dir.0, &text(&doors, &backends, false, WORKERS))?;
        // It ends with the thread that starts it, whatever becomes of that.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]).arg(sozu);
        command
            .args(["start", "-c", "config.toml"])
            .env_remove("RUST_LOG");
        let process = Process::start("sozu", command, &dir.0)?;
        let mut proxy = Proxy {
            process,
            dir,
            doors,
            backends,
        };
        let begun = Instant::now();
        let asked = |proxy: &Proxy| Control::connect(&proxy.socket())?.ok("ping");
        while let Err(why) = asked(&proxy) {
            if proxy.process.has_ended() || begun.elapsed() > READY {
                return Err(format!("{why}; {}", proxy.process.complaint()));
            }
            std::thread::park_timeout(STEP);
        }
        proxy.process.remember();
        Ok(proxy)
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.0.join("command.sock")
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Writes the file with so many workers, and with what `edited` changes or without.
    pub fn edit(&self, edited: bool, workers: usize) -> Result<(), String> {
        write(
            &self.dir.0,
            &text(&self.doors, &self.backends, edited, workers),
        )
    }

    pub fn spare(&self) -> SocketAddr {
        self.backends.spare
    }

    pub fn has_ended(&mut self) -> bool {
        self.process.has_ended()
    }

    pub fn held(&self) -> Held {
        let mut held = Held::default();
        for pid in self.process.tree() {
            let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
            let pss = process::pss_bytes(pid).unwrap_or(0);
            if pid == self.pid() {
                held.main_descriptors += open;
                held.main_pss += pss;
            } else {
                held.workers += usize::from(!has_keys(pid));
                held.worker_descriptors += open;
                held.worker_pss += pss;
            }
        }
        held
    }

    /// The last warnings and errors of its log.
    pub fn complaints(&self) -> Vec<String> {
        let log = fs::read(self.dir.0.join("sozu.err")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let grave = |line: &&str| {
            line.contains("WARN") || line.contains("ERROR") || line.contains("panicked")
        };
        let mut lines: Vec<String> = log
            .lines()
            .rev()
            .filter(grave)
            .take(COMPLAINTS_MAX)
            .map(str::to_string)
            .collect();
        lines.reverse();
        lines
    }
}

fn free_doors() -> Result<Doors, String> {
    let failed = |e| format!("no free port: {e}");
    let free = || TcpListener::bind("127.0.0.1:0");
    let held =
        [free(), free(), free()].map(|bound| bound.and_then(|l| l.local_addr().map(|a| (l, a))));
    let [http, https, tcp] = held;
    Ok(Doors {
        http: http.map_err(failed)?.1,
        https: https.map_err(failed)?.1,
        tcp: tcp.map_err(failed)?.1,
    })
}

fn write(dir: &Path, text: &str) -> Result<(), String> {
    let path = dir.join("config.toml");
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
}

fn text(doors: &Doors, backends: &Backends, edited: bool, workers: usize) -> String {
    let Doors { http, https, tcp } = doors;
    let Backends {
        http: [one, two],
        spare,
        tcp: raw,
    } = backends;
    let (connect, more, path) = match edited {
        false => (5, String::new(), ""),
        true => (
            6,
            format!(", {{ id = \"edited\", address = \"{spare}\" }}"),
            ", { listener = \"HTTP\", hostname = \"*\", path = \"/now/chunked\" }",
        ),
    };
    let path = path.replace("HTTP", &http.to_string());
    format!(
        "command_socket = \"command.sock\"\nworker_count = {workers}\n\
         log_level = \"info\"\nlog_target = \"stderr\"\nlog_access_target = \"none\"\n\
         keepalive_timeout = 3600\n\n\
         [[listeners]]\nprotocol = \"http\"\naddress = \"{http}\"\nconnect_timeout = {connect}\n\n\
         [[listeners]]\nprotocol = \"https\"\naddress = \"{https}\"\ncertificate = \"one.pem\"\nkey = \"one.key\"\n\n\
         [[listeners]]\nprotocol = \"tcp\"\naddress = \"{tcp}\"\n\n\
         [clusters.web]\nprotocol = \"http\"\nfrontends = [{{ listener = \"{http}\", hostname = \"*\" }}, \
         {{ listener = \"{https}\", hostname = \"*\" }}{path}]\n\
         backends = [{{ id = \"one\", address = \"{one}\" }}, {{ id = \"two\", address = \"{two}\" }}{more}]\n\n\
         [clusters.raw]\nprotocol = \"tcp\"\nfrontends = [{{ listener = \"{tcp}\" }}]\n\
         backends = [{{ id = \"raw\", address = \"{raw}\" }}]\n"
    )
}
