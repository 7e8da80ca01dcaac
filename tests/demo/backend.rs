//! A backend to try the proxy with: `demo-backend ADDRESS…`.
//!
//! It says `ready` once it listens. It answers on every address with a small
//! page that says which one it was, and on `/echo` with the request as it
//! arrived. One thread per connection, which is kept; HEAD and bodies of both
//! framings are understood. It trusts whoever connects to be a proxy of ours.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;

/// Longest line and most lines of a head: more is no request of ours.
const LINE_BYTES_MAX: u64 = 16 * 1024;
const LINES_MAX: usize = 128;

fn main() -> ExitCode {
    let addresses: Vec<String> = std::env::args().skip(1).collect();
    if addresses.is_empty() {
        eprintln!("usage: demo-backend ADDRESS…, for example 127.0.0.1:1026");
        return ExitCode::FAILURE;
    }
    let mut threads = Vec::new();
    for address in addresses {
        match TcpListener::bind(&address) {
            Ok(listener) => threads.push(std::thread::spawn(move || accept(&listener, &address))),
            Err(e) => {
                eprintln!("demo-backend: cannot listen on {address}: {}", why(&e));
                return ExitCode::FAILURE;
            }
        }
    }
    // For who waits for it; nobody need do so.
    let _ = writeln!(io::stdout(), "ready");
    for thread in threads {
        if thread.join().is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program does already (ss -ltnp shows which); stop it first".into()
        }
        _ => error.to_string(),
    }
}

fn accept(listener: &TcpListener, name: &str) {
    for stream in listener.incoming().flatten() {
        let name = name.to_owned();
        std::thread::spawn(move || {
            if let Err(e) = serve(stream, &name) {
                eprintln!("demo-backend {name}: {e}");
            }
        });
    }
}

/// Answers request after request until the other side is done.
fn serve(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::new(stream.try_clone()?);
    while let Some(head) = read_head(&mut input)? {
        if field(&head, "expect").is_some() {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body = read_body(&mut input, &head)?;
        let close = field(&head, "connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        stream.write_all(&answer(&head, &body, name))?;
        if close {
            break;
        }
    }
    Ok(())
}

/// One line without its end; nothing at the end of the connection.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    input.take(LINE_BYTES_MAX).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => {
            let text = String::from_utf8_lossy(&line);
            Ok(Some(text.trim_end_matches('\r').to_owned()))
        }
        Some(_) => Err(io::Error::other("a line without an end")),
    }
}

/// The lines of a head; nothing if the other side is done.
fn read_head(input: &mut impl BufRead) -> io::Result<Option<Vec<String>>> {
    let mut head = Vec::new();
    while let Some(line) = read_line(input)? {
        if line.is_empty() && !head.is_empty() {
            return Ok(Some(head));
        }
        head.push(line);
        if head.len() > LINES_MAX {
            return Err(io::Error::other("too many lines"));
        }
    }
    Ok(None)
}

fn field<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let fields = head.iter().skip(1).filter_map(|line| line.split_once(':'));
    let mut values = fields
        .filter(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.trim());
    values.next()
}

/// The body, counted or in chunks. It is kept: this is a demonstration.
fn read_body(input: &mut impl BufRead, head: &[String]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if let Some(length) = field(head, "content-length") {
        let length = length
            .parse()
            .map_err(|_| io::Error::other("Content-Length"))?;
        input.take(length).read_to_end(&mut body)?;
    } else if field(head, "transfer-encoding").is_some() {
        while let Some(size) = read_chunk_size(input)? {
            input.take(size).read_to_end(&mut body)?;
            read_line(input)?;
        }
        while read_line(input)?.is_some_and(|trailer| !trailer.is_empty()) {}
    }
    Ok(body)
}

/// The size of the next chunk; nothing for the last one.
fn read_chunk_size(input: &mut impl BufRead) -> io::Result<Option<u64>> {
    let line = read_line(input)?.unwrap_or_default();
    let digits = line.split(';').next().unwrap_or_default();
    let size = u64::from_str_radix(digits, 16).map_err(|_| io::Error::other("chunk size"))?;
    Ok((size > 0).then_some(size))
}

fn answer(head: &[String], body: &[u8], name: &str) -> Vec<u8> {
    let mut words = head.first().map_or("", String::as_str).split(' ');
    let (method, target) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let path = target.split('?').next().unwrap_or("");
    let (kind, content) = match path {
        "/echo" => (
            "text/plain",
            [head.join("\n").as_bytes(), b"\n\n", body].concat(),
        ),
        _ => ("text/html", page(name).into_bytes()),
    };
    let mut answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
        content.len()
    )
    .into_bytes();
    if method != "HEAD" {
        answer.extend_from_slice(&content);
    }
    answer
}

fn page(name: &str) -> String {
    format!(
        "<!doctype html>\n<title>demo backend</title>\n\
         <h1>Hello from {name}</h1>\n\
         <p>Reload: the backends take turns.</p>\n\
         <p><a href=\"/echo\">/echo</a> shows the request as it arrived here.</p>\n"
    )
}
