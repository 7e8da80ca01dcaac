//! The real binary with a configuration of the test's own, in a directory of
//! its own. However the test ends, the proxy and its workers end with it: a
//! shell holds the other end of a pipe and kills them when the pipe closes.

use super::control::{control, control_at, Control, Reply, Worker};
use super::hosts;
use super::peer::Peer;
use super::{wait_until, DEADLINE};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

/// One of our programs, the other lies beside it: `ctl/tests` uses this file as well.
const PROGRAM: &str = match option_env!("CARGO_BIN_EXE_sozu") {
    Some(path) => path,
    None => match option_env!("CARGO_BIN_EXE_sozuctl") {
        Some(path) => path,
        None => panic!("this is for the tests of sozu and sozuctl"),
    },
};
/// The control socket, beside the configuration.
const SOCKET: &str = "command.sock";
/// A port that was free a moment ago may be taken when the proxy binds it.
const START_ATTEMPTS: usize = 5;
/// Reads pids to kill until its input closes, then kills them, the process
/// group and the children of the first one, which is stopped meanwhile.
const GUARD: &str = r#"
while read -r pid; do pids="$pids $pid"; done
kill -s STOP "$1"; pids="$pids $(cat "/proc/$1/task/$1/children")"
kill -s KILL -- "-$1"; kill -s KILL $pids "$1"
"#;

/// A directory that goes away with the value.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> TempDir {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sozu-test-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a temporary directory");
        TempDir(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file there.
    pub fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("write a temporary file");
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

/// Where a program of ours is.
#[track_caller]
pub fn program(name: &str) -> PathBuf {
    let path = Path::new(PROGRAM).with_file_name(name);
    let shown = path.display();
    assert!(
        path.exists(),
        "{shown} is missing: cargo build --workspace makes it"
    );
    path
}

/// Runs `sozu` to its end, which has to come.
#[track_caller]
pub fn sozu(arguments: &[&str]) -> Output {
    run(&program("sozu"), arguments)
}

/// Runs `sozuctl` to its end, which has to come.
#[track_caller]
pub fn sozuctl(arguments: &[&str]) -> Output {
    run(&program("sozuctl"), arguments)
}

#[track_caller]
fn run(program: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .process_group(0)
        .env_remove("RUST_LOG");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command
        .spawn()
        .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let _guard = Guard::of(child.id());
    let output = std::thread::spawn(move || child.wait_with_output());
    wait_until("it ends", || output.is_finished().then_some(()));
    output.join().expect("reader").expect("wait")
}

/// Sends a signal by name; whether the process could be reached.
pub fn signal(pid: u32, name: &str) -> bool {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"kill -s "$1" "$2""#, "kill", name, &pid.to_string()]);
    shell.stderr(Stdio::null()).status().expect("sh").success()
}

/// Whether a process is there and not just waiting to be reaped.
pub fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// A configuration in the making: one listener and one cluster, `main`, that
/// takes everything, unless the test says otherwise.
pub struct Setup {
    protocol: &'static str,
    top: BTreeMap<String, String>,
    listener: Vec<String>,
    /// Name, frontends and backends of each cluster, as inline tables without braces.
    clusters: Vec<(String, Vec<String>, Vec<String>)>,
    more: String,
    environment: Vec<(&'static str, PathBuf)>,
    /// Arguments of strace, under which it is started.
    traced: Vec<String>,
    /// It has a hosts(5) of its own.
    pub(super) hosts: bool,
    pub(super) dir: TempDir,
}

impl Setup {
    pub fn http() -> Setup {
        Setup::of("http")
    }

    pub fn https() -> Setup {
        Setup::of("https")
    }

    pub fn tcp() -> Setup {
        Setup::of("tcp")
    }

    pub fn passthrough() -> Setup {
        Setup::of("tls_passthrough")
    }

    fn of(protocol: &'static str) -> Setup {
        let dir = TempDir::new();
        let (top, listener, clusters) = (BTreeMap::new(), Vec::new(), Vec::new());
        let setup = Setup {
            protocol,
            top,
            listener,
            clusters,
            more: String::new(),
            environment: Vec::new(),
            traced: Vec::new(),
            hosts: false,
            dir,
        };
        let socket = format!("{:?}", setup.dir.path(SOCKET));
        setup
            .top("command_socket", socket)
            .top("worker_count", 1)
            .top("log_level", "\"info\"")
            .top("log_target", "\"stderr\"")
            .top("log_access_target", "\"stdout\"")
    }

    /// Sets a top-level key; text brings its own quotes.
    pub fn top(mut self, key: &str, value: impl Display) -> Setup {
        self.top.insert(key.to_owned(), value.to_string());
        self
    }

    /// Sets a key of the listener.
    pub fn listener(mut self, key: &str, value: impl Display) -> Setup {
        self.listener.push(format!("{key} = {value}"));
        self
    }

    /// Adds the cluster `main`, which takes everything, with these backends.
    pub fn backends(self, addresses: &[SocketAddr]) -> Setup {
        let rule = if self.protocol != "tcp" {
            "hostname = \"*\""
        } else {
            ""
        };
        let backends: Vec<_> = addresses
            .iter()
            .map(|a| format!("address = \"{a}\""))
            .collect();
        self.cluster("main", &[rule], &backends)
    }

    /// Adds a cluster; the address of the listener is put before each frontend.
    pub fn cluster(
        mut self,
        name: &str,
        frontends: &[impl AsRef<str>],
        backends: &[impl AsRef<str>],
    ) -> Setup {
        let frontends = frontends
            .iter()
            .map(|text| text.as_ref().to_owned())
            .collect();
        let backends = backends
            .iter()
            .map(|text| text.as_ref().to_owned())
            .collect();
        self.clusters.push((name.to_owned(), frontends, backends));
        self
    }

    /// Adds text at the end of the file.
    pub fn more(mut self, text: &str) -> Setup {
        self.more.push_str(text);
        self
    }

    /// Sets a variable of the environment to the path of a file beside the configuration.
    pub fn environment(mut self, name: &'static str, file: &str) -> Setup {
        let path = self.path(file);
        self.environment.push((name, path));
        self
    }

    /// Starts it under strace (`tests/setup.sh` installs it), which changes what calls come to, or writes them down.
    pub fn traced(mut self, arguments: &[&str]) -> Setup {
        self.traced = arguments.iter().map(|text| text.to_string()).collect();
        self
    }

    /// Writes a file beside the configuration; its path, quoted.
    pub fn file(&self, name: &str, text: &str) -> String {
        format!("{:?}", self.dir.write(name, text))
    }

    /// A path beside the configuration.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path(name)
    }

    /// The file as it is, listening there.
    pub fn text(&self, address: SocketAddr) -> String {
        let mut text = String::new();
        for (key, value) in &self.top {
            text += &format!("{key} = {value}\n");
        }
        let protocol = self.protocol;
        text += &format!("\n[[listeners]]\nprotocol = \"{protocol}\"\naddress = \"{address}\"\n");
        text += &self.listener.join("\n");
        for (name, frontends, backends) in &self.clusters {
            let frontend = |rule: &String| {
                let comma = if rule.is_empty() { "" } else { ", " };
                format!("{{ address = \"{address}\"{comma}{rule} }}")
            };
            let frontends: Vec<_> = frontends.iter().map(frontend).collect();
            let backends: Vec<_> = backends.iter().map(|b| format!("{{ {b} }}")).collect();
            let spoken = match protocol {
                "http" | "https" => "http",
                _ => "tcp",
            };
            text += &format!("\n\n[clusters.{name}]\nprotocol = \"{spoken}\"\n");
            text += &format!("frontends = [{}]\n", frontends.join(", "));
            text += &format!("backends = [{}]\n", backends.join(", "));
        }
        text + "\n" + &self.more
    }

    /// Writes the file; its path.
    pub fn write(&self, address: SocketAddr) -> PathBuf {
        self.dir.write("config.toml", self.text(address))
    }

    /// Starts the proxy and waits until it is ready.
    #[track_caller]
    pub fn start(self) -> Proxy {
        let setup = Arc::new(self);
        let mut said = String::new();
        for _ in 0..START_ATTEMPTS {
            match try_start(&setup) {
                Ok(proxy) => return proxy,
                Err(last) => said = last,
            }
            if !said.contains("in use") {
                break;
            }
        }
        panic!("sozu does not start:\n{said}");
    }
}

/// Starts the proxy on a port that is free now, or says why it did not.
fn try_start(setup: &Arc<Setup>) -> Result<Proxy, String> {
    let free = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = free.local_addr().expect("getsockname");
    drop(free);
    let config = setup.write(address);
    launch(setup, address, config, &[])
}

fn launch(
    setup: &Arc<Setup>,
    address: SocketAddr,
    config: PathBuf,
    more: &[&str],
) -> Result<Proxy, String> {
    let mut command = match setup.traced.as_slice() {
        [] if setup.hosts => hosts::run(setup, &program("sozu")),
        [] => Command::new(program("sozu")),
        arguments => {
            // -D: strace is a grandchild, and our child is the proxy.
            let mut strace = Command::new("strace");
            strace.args(["-D", "-f", "-qq"]).args(arguments);
            strace.arg(program("sozu"));
            strace
        }
    };
    command.arg("start").arg("-c").arg(&config).args(more);
    command.process_group(0);
    command.envs(setup.environment.iter().cloned());
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("run sozu");
    let (access, log) = (Lines::default(), Lines::default());
    let readers = (
        access.follow(child.stdout.take()),
        log.follow(child.stderr.take()),
    );
    let guard = Some(Guard::of(child.id()));
    let setup = setup.clone();
    let mut proxy = Proxy {
        child,
        guard,
        address,
        config,
        access,
        log,
        setup,
    };
    let socket = proxy.path(SOCKET);
    let exited = wait_until("the proxy is ready", || {
        let pinged = control_at(&socket, "ping");
        let ready = pinged.is_some_and(|reply| reply.last.starts_with("ok"));
        let exited = proxy.child.try_wait().expect("wait");
        (ready || exited.is_some()).then_some(exited)
    });
    let Some(status) = exited else {
        return Ok(proxy);
    };
    readers
        .0
        .join()
        .and(readers.1.join())
        .expect("readers of its output");
    let log = proxy.log().join("\n");
    Err(format!("{status}\n{log}\n{}", proxy.access().join("\n")))
}

/// The shell that kills what it guards when it is dropped, or when this
/// process is gone.
pub struct Guard(Child);

impl Guard {
    pub fn of(pid: u32) -> Guard {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", GUARD, "guard", &pid.to_string()])
            .process_group(0);
        shell
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Guard(shell.spawn().expect("sh"))
    }

    /// Kills that process as well.
    pub fn add(&mut self, pid: u32) {
        let pipe = self.0.stdin.as_mut().expect("the guard's pipe");
        writeln!(pipe, "{pid}").expect("write to the guard");
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _done = self.0.wait();
    }
}

/// The lines of a pipe, as they come.
#[derive(Clone, Default)]
struct Lines(Arc<(Mutex<Vec<String>>, Condvar)>);

impl Lines {
    fn follow(&self, pipe: Option<impl Read + Send + 'static>) -> JoinHandle<()> {
        let (lines, pipe) = (self.clone(), pipe.expect("a pipe"));
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.0 .0.lock().expect("lines").push(line);
                lines.0 .1.notify_all();
            }
        })
    }

    fn all(&self) -> Vec<String> {
        self.0 .0.lock().expect("lines").clone()
    }

    /// The first `count` lines that fit.
    #[track_caller]
    fn wait(&self, what: &str, count: usize, fits: impl Fn(&str) -> bool) -> Vec<String> {
        let end = Instant::now() + DEADLINE;
        let mut lines = self.0 .0.lock().expect("lines");
        loop {
            let found: Vec<_> = lines
                .iter()
                .filter(|l| fits(l))
                .take(count)
                .cloned()
                .collect();
            if found.len() == count {
                return found;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(lines);
                panic!("in vain: {count} lines with {what}, found {found:?}");
            }
            lines = self.0 .1.wait_timeout(lines, left).expect("lines").0;
        }
    }
}

/// A running proxy.
pub struct Proxy {
    child: Child,
    guard: Option<Guard>,
    address: SocketAddr,
    config: PathBuf,
    /// Standard output: the access log, unless the test changes it.
    access: Lines,
    /// Standard error: everything else.
    log: Lines,
    pub(super) setup: Arc<Setup>,
}

impl Proxy {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// A path beside the configuration.
    pub fn path(&self, name: &str) -> PathBuf {
        self.setup.path(name)
    }

    /// The pid of main.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub fn client(&self) -> Peer {
        Peer::connect(self.address)
    }

    #[track_caller]
    pub fn control(&self, line: &str) -> Reply {
        control(&self.path(SOCKET), line)
    }

    /// A connection to its control socket.
    #[track_caller]
    pub fn steer(&self) -> Control {
        Control::connect(&self.path(SOCKET))
    }

    /// The running workers, by id.
    #[track_caller]
    pub fn workers(&self) -> Vec<Worker> {
        let mut workers = self.control("status").workers();
        workers.retain(|worker| worker.state == "running");
        workers.sort_by_key(|worker| worker.id);
        workers
    }

    /// The one worker of a proxy that has one.
    #[track_caller]
    pub fn worker(&self) -> Worker {
        match &self.workers()[..] {
            [worker] => worker.clone(),
            workers => panic!("not one worker: {workers:?}"),
        }
    }

    /// The pid of the process that has the private keys, if there is one.
    pub fn key_process(&self) -> Option<u32> {
        self.process("keys")
    }

    /// The pid of the process that `status` calls so, if there is one.
    #[track_caller]
    pub fn process(&self, name: &str) -> Option<u32> {
        let start = format!("{name} pid=");
        let status = self.control("status").data;
        let line = status.iter().find_map(|line| line.strip_prefix(&start));
        line?.split(' ').next()?.parse().ok().filter(|pid| *pid > 0)
    }

    /// The first `count` lines of the access log with that text.
    #[track_caller]
    pub fn wait_access(&self, count: usize, text: &str) -> Vec<String> {
        self.access.wait(text, count, |line| line.contains(text))
    }

    /// The access log so far.
    pub fn access(&self) -> Vec<String> {
        self.access.all()
    }

    /// The first line of the log with that text, whatever its case.
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        let lower = text.to_ascii_lowercase();
        self.log
            .wait(text, 1, |line| line.to_ascii_lowercase().contains(&lower))
            .remove(0)
    }

    /// The log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.all()
    }

    /// Sends a signal to main.
    pub fn signal(&self, name: &str) {
        assert!(signal(self.pid(), name), "kill {name}");
    }

    /// Has a process killed with the proxy: a worker that outlives its main.
    pub fn adopt(&mut self, pid: u32) {
        self.guard.as_mut().expect("the guard").add(pid);
    }

    /// Waits for the end of main.
    #[track_caller]
    pub fn wait_exit(&mut self) -> ExitStatus {
        wait_until("the proxy exits", || self.child.try_wait().expect("wait"))
    }

    /// Starts it once more, after its end, with the files as they are now; or what it said.
    pub fn again(&self, more: &[&str]) -> Result<Proxy, String> {
        launch(&self.setup, self.address, self.config.clone(), more)
    }

    /// Kills main alone and reaps it.
    pub fn kill_main(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.guard.take());
        let _main = self.child.wait();
        if std::thread::panicking() {
            let config = std::fs::read_to_string(&self.config).unwrap_or_default();
            eprintln!("--- configuration\n{config}");
            eprintln!("--- log\n{}", self.log.all().join("\n"));
            eprintln!("--- access log\n{}", self.access.all().join("\n"));
        }
    }
}
