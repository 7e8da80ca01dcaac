//! The PROXY protocol with those who have made it and those who speak it most: haproxy and nginx before the
//! proxy and behind it. `make setup-tests` installs both.

#[path = "common/certificate.rs"]
mod certificate;
mod common;

use certificate::{Keys, Made, Secure};
use common::{free_address, wait_until, Backend, Guard, Proxy, Setup, TempDir};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Another program that listens, and ends with the test.
struct Foreign {
    address: SocketAddr,
    child: Child,
    guard: Option<Guard>,
    _dir: TempDir,
}

impl Foreign {
    /// Runs what `command` makes of the folder, and waits until it accepts.
    fn start(name: &str, dir: TempDir, address: SocketAddr, arguments: &[&str]) -> Foreign {
        use std::os::unix::process::CommandExt;
        // Where a user's PATH may not lead.
        let sbin = std::path::Path::new("/usr/sbin").join(name);
        let mut command = match sbin.exists() {
            true => Command::new(sbin),
            false => Command::new(name),
        };
        command
            .args(arguments)
            .process_group(0)
            .stdin(Stdio::null());
        let log = std::fs::File::create(dir.path("log")).expect("a log");
        command.stdout(log.try_clone().expect("dup")).stderr(log);
        let missing = |e| panic!("{name}: {e}: make setup-tests installs it");
        let child = command.spawn().unwrap_or_else(missing);
        let mut foreign = Foreign {
            address,
            guard: Some(Guard::of(child.id())),
            child,
            _dir: dir,
        };
        wait_until("it accepts", || {
            let ended = foreign.child.try_wait().expect("wait");
            let log = std::fs::read_to_string(foreign._dir.path("log"));
            assert!(ended.is_none(), "{name} ends: {log:?}");
            TcpStream::connect(address).ok()
        });
        foreign
    }

    /// `text` is its configuration behind the common part.
    fn haproxy(address: SocketAddr, text: &str) -> Foreign {
        let dir = TempDir::new();
        let file = dir.write(
            "haproxy.cfg",
            format!(
                "global\n nbthread 1\n maxconn 100\n no strict-limits\n\
                 defaults\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n{text}"
            ),
        );
        let file = file.to_str().expect("a path").to_owned();
        Foreign::start("haproxy", dir, address, &["-db", "-q", "-f", &file])
    }

    /// `server` is what stands in its one server.
    fn nginx(address: SocketAddr, server: &str) -> Foreign {
        Foreign::nginx_of("http", "access_log off;", address, server)
    }

    /// The same over TCP.
    fn nginx_stream(address: SocketAddr, server: &str) -> Foreign {
        Foreign::nginx_of("stream", "", address, server)
    }

    fn nginx_of(kind: &str, common: &str, address: SocketAddr, server: &str) -> Foreign {
        let dir = TempDir::new();
        let own = dir.path("");
        let own = own.to_str().expect("a path").to_owned();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {own}/{name};\n"))
            .concat();
        let temporary = if kind == "http" {
            temporary
        } else {
            String::new()
        };
        // Where it is not built in.
        let modules = ["/usr/lib", "/usr/lib64"]
            .map(|lib| format!("{lib}/nginx/modules/ngx_stream_module.so"));
        let module = modules
            .iter()
            .find(|path| std::path::Path::new(path).exists());
        let load = module.map_or(String::new(), |path| format!("load_module {path};\n"));
        let text = format!(
            "{load}daemon off;\nmaster_process off;\npid {own}/pid;\nerror_log stderr;\n\
             events {{ worker_connections 64; }}\n{kind} {{\n{common}\n{temporary}server {{\n{server}\n}}\n}}\n"
        );
        let file = dir.write("nginx.conf", text);
        let file = file.to_str().expect("a path").to_owned();
        Foreign::start("nginx", dir, address, &["-p", &own, "-c", &file])
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        drop(self.guard.take());
        let _reaped = self.child.wait();
    }
}

/// What a client has connected to, haproxy, speaks for it, by both versions, with a checksum too.
#[test]
fn haproxy_before_us() {
    for sends in [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
    ] {
        let backend = Backend::named("a");
        let setup = Setup::http().listener("expect_proxy", true);
        let proxy = setup.backends(&[backend.address()]).start();
        let (address, ours) = (free_address(), proxy.address());
        let text = format!(
            "listen front\n mode tcp\n unique-id-format %rt\n bind {address}\n server sozu {ours} {sends}\n"
        );
        let haproxy = Foreign::haproxy(address, &text);
        let mut client = common::Peer::connect(haproxy.address);
        assert_eq!(client.ask(GET).status(), 200, "{sends}");
        let line = proxy.wait_access(1, " \"GET /\" ").remove(0);
        assert!(
            line.contains(&format!(" {} {ours} ", client.local())),
            "{line}"
        );
        assert_eq!(
            backend.last_request().field("x-forwarded-for"),
            Some("127.0.0.1")
        );
    }
}

/// A haproxy that wants a header on each connection, and answers what it said.
fn accepting(more: &str) -> Foreign {
    let address = free_address();
    let said = "%[src]:%[src_port] %[dst]:%[dst_port] %[fc_pp_authority]";
    let text = format!(
        "frontend f\n mode http\n bind {address} accept-proxy {more}\n \
         http-request return status 200 content-type text/plain lf-string \"{said}\"\n"
    );
    Foreign::haproxy(address, &text)
}

fn telling(setup: Setup, version: &str, foreign: &Foreign) -> Proxy {
    let proxy = setup.backends(&[foreign.address]).start();
    let update = format!("cluster update id=main send_proxy={version}");
    proxy.steer().ok(&update);
    proxy
}

#[test]
fn haproxy_behind_us() {
    for version in ["v1", "v2"] {
        let haproxy = accepting("");
        let proxy = telling(Setup::http(), version, &haproxy);
        let mut client = proxy.client();
        for _ in 0..2 {
            let told = client.ask(GET).text();
            assert_eq!(told, format!("{} {} ", client.local(), proxy.address()));
        }
        // Over TCP the client speaks with haproxy itself.
        let proxy = telling(Setup::tcp(), version, &haproxy);
        let mut client = proxy.client();
        let told = client.ask(GET).text();
        assert_eq!(told, format!("{} {} ", client.local(), proxy.address()));
    }
}

/// Of TLS it is told the name, be it ours or passed through.
#[test]
fn haproxy_behind_us_is_told_the_name() {
    let made = Made::of(&["a.test"], Keys::Ecdsa);
    let haproxy = accepting("");
    let proxy = telling(Setup::https(), "v2", &haproxy);
    let listener = proxy.address();
    let add = format!("certificate add listener={listener} {}", made.words());
    proxy.steer().ok(&add);
    let told = |proxy: &Proxy| {
        let mut client = Secure::connect(proxy.address(), "a.test").expect("TLS");
        let from = client.stream.get_ref().local_addr().expect("getsockname");
        let answer = client.ask("a.test");
        let end = format!("\r\n\r\n{from} {} a.test", proxy.address());
        assert!(answer.ends_with(&end), "{answer}");
    };
    told(&proxy);

    let dir = TempDir::new();
    let both = dir.write("both.pem", format!("{}{}", made.pem, made.key));
    let haproxy = accepting(&format!("ssl crt {}", both.display()));
    told(&telling(Setup::passthrough(), "v2", &haproxy));
}

/// nginx speaks version 1, over TCP.
#[test]
fn nginx_before_us() {
    let backend = Backend::named("a");
    let setup = Setup::http().listener("expect_proxy", true);
    let proxy = setup.backends(&[backend.address()]).start();
    let (address, ours) = (free_address(), proxy.address());
    let server = format!("listen {address};\nproxy_pass {ours};\nproxy_protocol on;");
    let nginx = Foreign::nginx_stream(address, &server);
    let mut client = common::Peer::connect(nginx.address);
    for _ in 0..2 {
        assert_eq!(client.ask(GET).status(), 200);
    }
    let line = proxy.wait_access(1, " \"GET /\" ").remove(0);
    let told = format!(" {} {ours} ", client.local());
    assert!(line.contains(&told), "{line}");
}

#[test]
fn nginx_behind_us() {
    for version in ["v1", "v2"] {
        let address = free_address();
        let nginx = Foreign::nginx(
            address,
            &format!(
                "listen {address} proxy_protocol;\nreturn 200 \"$proxy_protocol_addr:$proxy_protocol_port \
                 $proxy_protocol_server_addr:$proxy_protocol_server_port\";"
            ),
        );
        let proxy = telling(Setup::http(), version, &nginx);
        let mut client = proxy.client();
        let told = client.ask(GET).text();
        assert_eq!(told, format!("{} {}", client.local(), proxy.address()));
    }
}
