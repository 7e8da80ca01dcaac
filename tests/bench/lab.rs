//! The place where it happens: a directory of our own, free ports, the compiled C programs, and the two backends on core 1.
//! Everything is on 127.0.0.1 and goes away with the `Lab`.

use std::fs;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::process::{pinned, Process};

pub const PROXY_CORE: usize = 0;
pub const LOAD_CORE: usize = 1;
pub const KIB: usize = 1024;
pub const MIB: usize = 1024 * 1024;
const START_LIMIT: Duration = Duration::from_secs(10);
/// Below the range from which clients get theirs.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Name, text, and the libraries that it needs.
const SOURCES: [(&str, &str, &[&str]); 4] = [
    ("floor", include_str!("floor.c"), &[]),
    ("load", include_str!("load.c"), &[]),
    ("echo", include_str!("echo.c"), &[]),
    ("tls", include_str!("tls.c"), &["-lssl", "-lcrypto"]),
];

/// Makes wrk end with the same line as load.c.
const WRK_SCRIPT: &str = r#"done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("done=%d bytes=%d errors=%d p50_us=%d p99_us=%d us=%d\n", summary.requests, summary.bytes,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99), summary.duration))
end
"#;

pub struct Lab {
    pub dir: PathBuf,
    pub tools: PathBuf,
    pub http_backend: u16,
    pub tcp_backend: u16,
    next_port: u16,
    backends: Vec<Process>,
}

impl Lab {
    /// Compiles the C programs into `tools` and lays out the files to serve. Starts nothing yet.
    pub fn new(tools: PathBuf) -> Result<Lab, String> {
        let base = Path::new("/dev/shm");
        let base = if base.is_dir() {
            base.to_path_buf()
        } else {
            std::env::temp_dir()
        };
        let dir = base.join(format!("sozu-bench-{}", std::process::id()));
        write_dir(&dir)?;
        write_dir(&tools)?;
        for (name, source, libraries) in SOURCES {
            compile(source, &tools.join(name), libraries)?;
        }
        certify(&dir)?;
        let start = PORTS.start + (std::process::id() % 1000) as u16 * 10;
        let mut lab = Lab {
            dir,
            tools,
            http_backend: 0,
            tcp_backend: 0,
            next_port: start,
            backends: Vec::new(),
        };
        lab.http_backend = lab.free_port()?;
        lab.tcp_backend = lab.free_port()?;
        let files = lab.dir.join("files");
        write_dir(&files)?;
        write(&files.join("64k"), &pattern(64 * KIB))?;
        write(&files.join("10m"), &pattern(10 * MIB))?;
        write(&lab.dir.join("wrk.lua"), WRK_SCRIPT.as_bytes())?;
        Ok(lab)
    }

    /// Nobody can have a port for us between here and its use, but below the clients' range nobody should.
    pub fn free_port(&mut self) -> Result<u16, String> {
        while self.next_port < PORTS.end {
            self.next_port += 1;
            if TcpListener::bind(("127.0.0.1", self.next_port)).is_ok() {
                return Ok(self.next_port);
            }
        }
        Err("no free port".to_string())
    }

    /// Of our proxy.
    pub fn control_socket(&self) -> PathBuf {
        self.dir.join("sozu.sock")
    }

    pub fn start_backends(&mut self) -> Result<(), String> {
        let conf = self.dir.join("backend.conf");
        write(&conf, backend_conf(self.http_backend, &self.dir).as_bytes())?;
        let mut nginx = pinned(LOAD_CORE, Path::new("nginx"));
        nginx.args(nginx_arguments(&conf, &self.dir));
        let mut backend = Process::start("backend", nginx, &self.dir)?;
        wait_for_port(self.http_backend, &mut backend)?;
        let mut echo = pinned(LOAD_CORE, &self.tools.join("echo"));
        echo.arg(self.tcp_backend.to_string());
        let mut echo = Process::start("echo", echo, &self.dir)?;
        wait_for_port(self.tcp_backend, &mut echo)?;
        backend.remember();
        self.backends = vec![backend, echo];
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.backends.clear();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The bytes that load.c expects: 'a' + offset % 26.
pub fn pattern(len: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(len).collect()
}

pub fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    fs::write(path, bytes).map_err(|e| format!("{}: {e}", path.display()))
}

/// Open to all: workers that gave up root serve from it.
pub fn write_dir(path: &Path) -> Result<(), String> {
    let made = fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)));
    made.map_err(|e| format!("{}: {e}", path.display()))
}

/// A certificate for localhost with an ECDSA P-256 key: `cert.pem`, `key.pem`, and both in `both.pem`.
fn certify(dir: &Path) -> Result<(), String> {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt"]);
    openssl.args(["ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args([
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
    ]);
    openssl.arg("-keyout").arg(dir.join("key.pem"));
    openssl.arg("-out").arg(dir.join("cert.pem"));
    let output = openssl.output().map_err(|e| format!("openssl: {e}"))?;
    if !output.status.success() {
        return Err("openssl makes no certificate".to_string());
    }
    let read = |name: &str| fs::read(dir.join(name)).map_err(|e| format!("{name}: {e}"));
    let both = [read("cert.pem")?, read("key.pem")?].concat();
    write(&dir.join("both.pem"), &both)
}

fn compile(source: &str, to: &Path, libraries: &[&str]) -> Result<(), String> {
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-x", "c", "-", "-o"])
        .arg(to)
        .args(libraries)
        .stdin(Stdio::piped());
    let mut child = cc.spawn().map_err(|e| format!("cc: {e}; install gcc"))?;
    if let Some(mut input) = child.stdin.take() {
        input
            .write_all(source.as_bytes())
            .map_err(|e| format!("cc: {e}"))?;
    }
    let status = child.wait().map_err(|e| format!("cc: {e}"))?;
    if status.success() {
        return Ok(());
    }
    Err(format!("cc does not compile {}", to.display()))
}

/// Until something accepts there, or the process gave up.
pub fn wait_for_port(port: u16, process: &mut Process) -> Result<(), String> {
    let start = Instant::now();
    while start.elapsed() < START_LIMIT && !process.has_ended() {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Ok(());
        }
        sleep(Duration::from_millis(10));
    }
    Err(format!(
        "does not listen on port {port}: {}",
        process.complaint()
    ))
}

/// `-e`: Debian's default log would be opened before the configuration is read.
pub fn nginx_arguments(conf: &Path, dir: &Path) -> Vec<String> {
    let prefix = format!("{}/", dir.display());
    [
        "-e",
        "stderr",
        "-p",
        &prefix,
        "-c",
        &conf.display().to_string(),
    ]
    .map(str::to_string)
    .to_vec()
}

/// What both of our nginx share. The temporary paths must be ours, and named apart: two servers run in one directory.
pub fn nginx_common(name: &str) -> String {
    format!(
        "daemon off;\nworker_processes 1;\npid {name}.pid;\nevents {{ worker_connections 14000; }}\nhttp {{\n\
         access_log off;\nkeepalive_requests 1000000000;\nkeepalive_timeout 300s;\n\
         client_body_temp_path {name}.body;\nproxy_temp_path {name}.proxy;\nfastcgi_temp_path {name}.fastcgi;\n\
         uwsgi_temp_path {name}.uwsgi;\nscgi_temp_path {name}.scgi;\n"
    )
}

fn backend_conf(port: u16, dir: &Path) -> String {
    let body = String::from_utf8_lossy(&pattern(KIB)).into_owned();
    let common = nginx_common("backend");
    let files = dir.join("files");
    format!(
        "{common}sendfile on;\nopen_file_cache max=16 inactive=1h;\n\
         server {{\nlisten 127.0.0.1:{port} backlog=4096;\nroot {};\ndefault_type text/plain;\n\
         location = /1k {{ return 200 {body}; }}\n}}\n}}\n",
        files.display()
    )
}
