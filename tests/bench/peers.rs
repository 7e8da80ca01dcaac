//! The proxies compared: how each is found, configured and started. All get the same fair minimum: one worker on core 0,
//! kept-alive backend connections, no access log, timeouts that do not end an idle connection within a run, and the header
//! work that a proxy owes its backend (`X-Forwarded-For`).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::lab::{
    self, nginx_arguments, nginx_common, pattern, wait_for_port, Lab, MIB, PROXY_CORE,
};
use crate::process::{pinned, Process};

const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
const REPLY_LIMIT: Duration = Duration::from_secs(10);
const REPLY_MAX: u64 = 11 * MIB as u64;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    Floor,
    Haproxy,
    Nginx,
    Sozu,
    /// sozu with its private keys in its worker.
    Inside,
}

pub const ALL: [Peer; 5] = [
    Peer::Floor,
    Peer::Haproxy,
    Peer::Nginx,
    Peer::Sozu,
    Peer::Inside,
];

impl Peer {
    pub fn name(self) -> &'static str {
        match self {
            Peer::Floor => "floor",
            Peer::Haproxy => "haproxy",
            Peer::Nginx => "nginx",
            Peer::Sozu => "sozu",
            Peer::Inside => "inside",
        }
    }

    /// What `-v` says, for the head of the report; `None` if it is not there.
    pub fn version(self, sozu: &Path) -> Option<String> {
        let program = match self {
            Peer::Floor => return Some("bytes relayed unread".to_string()),
            Peer::Sozu | Peer::Inside => {
                return sozu
                    .is_file()
                    .then(|| env!("CARGO_PKG_VERSION").to_string())
            }
            Peer::Haproxy | Peer::Nginx => self.name(),
        };
        let output = Command::new(program)
            .arg("-v")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        // haproxy writes to stdout, nginx to stderr.
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let number = text
            .split(['/', ' '])
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        Some(number.trim().split('-').next()?.to_string())
    }
}

/// A proxy that runs, with the ports it listens on.
pub struct Running {
    pub process: Process,
    pub http: u16,
    pub tcp: u16,
    /// Of the floor there is none.
    pub https: u16,
}

/// What a proxy listens on.
#[derive(Clone, Copy)]
struct Ports {
    http: u16,
    tcp: u16,
    https: u16,
}

impl Running {
    pub fn start(peer: Peer, lab: &mut Lab, sozu: &Path) -> Result<Running, String> {
        let ports = Ports {
            http: lab.free_port()?,
            tcp: lab.free_port()?,
            https: lab.free_port()?,
        };
        let command = match peer {
            Peer::Floor => floor(lab, ports),
            Peer::Haproxy => haproxy(lab, ports)?,
            Peer::Nginx => nginx(lab, ports)?,
            Peer::Sozu => ours(lab, ports, sozu, &lab.control_socket(), true)?,
            Peer::Inside => ours(lab, ports, sozu, &lab.dir.join("inside.sock"), false)?,
        };
        let Ports { http, tcp, https } = ports;
        let mut process = Process::start(peer.name(), command, &lab.dir)?;
        wait_for_port(http, &mut process)?;
        process.remember();
        Ok(Running {
            process,
            http,
            tcp,
            https,
        })
    }

    /// One request, its answer read whole and compared, before anything is measured.
    pub fn verify(&self, path: &str, len: usize) -> Result<(), String> {
        let answer = get(self.http, path)
            .map_err(|e| format!("GET {path}: {e}; {}", self.process.complaint()))?;
        let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n");
        let body = head_end.map_or(&[][..], |at| &answer[at + 4..]);
        if answer.starts_with(b"HTTP/1.1 200") && body == pattern(len) {
            return Ok(());
        }
        let head = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        Err(format!(
            "GET {path}: wrong answer of {} bytes: {head:?}",
            answer.len()
        ))
    }
}

fn get(port: u16, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(REPLY_LIMIT))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.take(REPLY_MAX).read_to_end(&mut answer)?;
    Ok(answer)
}

/// The packages the measurement needs. Installs what is missing when it can, and says how when it cannot.
pub fn install_missing() -> Result<(), String> {
    let needs = [
        ("haproxy", "haproxy"),
        ("nginx", "nginx-light"),
        ("wrk", "wrk"),
        ("cc", "gcc"),
        ("openssl", "openssl"),
        ("setpriv", "util-linux"),
        ("kill", "procps"),
    ];
    let found = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        std::env::split_paths(&path)
            .chain(system)
            .any(|dir| dir.join(program).is_file())
    };
    let mut missing: Vec<&str> = needs
        .iter()
        .filter(|need| !found(need.0))
        .map(|need| need.1)
        .collect();
    if !Path::new(STREAM_MODULE).is_file() {
        missing.push("libnginx-mod-stream");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let how = format!("apt-get install -y {}", missing.join(" "));
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout.starts_with(b"0\n"));
    if !root || !found("apt-get") {
        return Err(format!("missing; install with: {how}"));
    }
    eprintln!("{how}");
    let mut apt = Command::new("apt-get");
    apt.args(["install", "-y"])
        .args(&missing)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdout(Stdio::null());
    match apt.status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(format!("could not install; try: apt-get update && {how}")),
    }
}

fn floor(lab: &Lab, ports: Ports) -> Command {
    let mut command = pinned(PROXY_CORE, &lab.tools.join("floor"));
    command.args(
        [ports.http, lab.http_backend, ports.tcp, lab.tcp_backend].map(|port| port.to_string()),
    );
    command
}

/// Master and worker, as Debian runs it. Splicing is what served each listener best. HTTP: asked for outright, it halves the
/// cost of large bodies, which `splice-auto` seldom does, and small ones cost the same. TCP: outright it would cost the small
/// round trips a fifth. `no strict-limits`: the descriptors are enough for the run, not for haproxy's formula.
fn haproxy(lab: &Lab, ports: Ports) -> Result<Command, String> {
    let Ports { http, tcp, https } = ports;
    let conf = lab.dir.join("haproxy.conf");
    let text = format!(
        "global\n nbthread 1\n maxconn 14000\n no strict-limits\n\
         defaults\n timeout connect 5s\n timeout client 300s\n timeout server 300s\n timeout http-keep-alive 300s\n\
         frontend http\n mode http\n bind 127.0.0.1:{http} backlog 4096\n \
         bind 127.0.0.1:{https} backlog 4096 ssl crt {dir}/both.pem alpn http/1.1\n option forwardfor\n default_backend bench\n\
         backend bench\n mode http\n http-reuse always\n \
         option splice-response\n option splice-request\n server b 127.0.0.1:{}\n\
         listen tcp\n mode tcp\n bind 127.0.0.1:{tcp} backlog 4096\n option splice-auto\n server e 127.0.0.1:{}\n",
        lab.http_backend,
        lab.tcp_backend,
        dir = lab.dir.display()
    );
    lab::write(&conf, text.as_bytes())?;
    let mut command = pinned(PROXY_CORE, Path::new("haproxy"));
    command.args(["-W", "-db", "-q", "-f"]).arg(conf);
    Ok(command)
}

fn nginx(lab: &Lab, ports: Ports) -> Result<Command, String> {
    let Ports { http, tcp, https } = ports;
    let conf = lab.dir.join("nginx.conf");
    let common = nginx_common("nginx");
    let text = format!(
        "load_module {STREAM_MODULE};\n{common}\
         upstream bench {{ server 127.0.0.1:{}; keepalive 1024; keepalive_requests 1000000000; }}\n\
         server {{\nlisten 127.0.0.1:{http} backlog=4096;\nlisten 127.0.0.1:{https} ssl backlog=4096;\n\
         ssl_certificate {dir}/cert.pem;\nssl_certificate_key {dir}/key.pem;\nssl_protocols TLSv1.2 TLSv1.3;\n\
         location / {{\nproxy_pass http://bench;\n\
         proxy_http_version 1.1;\nproxy_set_header Connection \"\";\nproxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n}}\n}}\n}}\n\
         stream {{ server {{ listen 127.0.0.1:{tcp} backlog=4096; proxy_pass 127.0.0.1:{}; }} }}\n",
        lab.http_backend,
        lab.tcp_backend,
        dir = lab.dir.display()
    );
    lab::write(&conf, text.as_bytes())?;
    let mut command = pinned(PROXY_CORE, Path::new("nginx"));
    command.args(nginx_arguments(&conf, &lab.dir));
    Ok(command)
}

fn ours(
    lab: &Lab,
    ports: Ports,
    sozu: &Path,
    socket: &Path,
    key_process: bool,
) -> Result<Command, String> {
    let Ports { http, tcp, https } = ports;
    let conf = socket.with_extension("toml");
    let text = format!(
        "worker_count = 1\nkey_process = {key_process}\ncommand_socket = \"{}\"\nlog_level = \"warn\"\nlog_target = \"stderr\"\n\
         log_access_target = \"none\"\n\
         [[listeners]]\nprotocol = \"http\"\naddress = \"127.0.0.1:{http}\"\n\
         [[listeners]]\nprotocol = \"https\"\naddress = \"127.0.0.1:{https}\"\n\
         [[certificates]]\nlistener = \"127.0.0.1:{https}\"\n\
         certificate = \"{dir}/cert.pem\"\nkey = \"{dir}/key.pem\"\n\
         [[listeners]]\nprotocol = \"tcp\"\naddress = \"127.0.0.1:{tcp}\"\n\
         [clusters.bench]\nprotocol = \"http\"\n\
         frontends = [{{ address = \"127.0.0.1:{http}\", hostname = \"*\" }}, {{ address = \"127.0.0.1:{https}\", hostname = \"*\" }}]\n\
         backends = [{{ address = \"127.0.0.1:{}\" }}]\n\
         [clusters.echo]\nprotocol = \"tcp\"\nfrontends = [{{ address = \"127.0.0.1:{tcp}\" }}]\n\
         backends = [{{ address = \"127.0.0.1:{}\" }}]\n",
        socket.display(),
        lab.http_backend,
        lab.tcp_backend,
        dir = lab.dir.display()
    );
    lab::write(&conf, text.as_bytes())?;
    let mut command = pinned(PROXY_CORE, sozu);
    command.args(["start", "-c"]).arg(conf);
    Ok(command)
}
