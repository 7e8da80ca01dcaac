//! WebSocket frames there and back through a server that python runs: its handshake and its frames are its own.
//! `make setup-tests` installs python.

mod common;

use common::{same_bytes, Guard, Setup, DEADLINE};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::spawn;

/// RFC 6455 with what python has by itself: one connection, each message comes back as it was.
const SERVER: &str = r#"
import base64, hashlib, socket, struct
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
stream = listener.accept()[0].makefile("rwb")
fields = {}
while (line := stream.readline().strip()):
    name, _, value = line.partition(b": ")
    fields[name.lower()] = value
digest = hashlib.sha1(fields[b"sec-websocket-key"] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
stream.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             b"Sec-WebSocket-Accept: " + base64.b64encode(digest.digest()) + b"\r\n\r\n")
stream.flush()
while True:
    first, length = stream.read(2)
    assert length & 0x80, "a client masks"
    head, length = bytes([first]), length & 0x7f
    size = {126: ">H", 127: ">Q"}.get(length)
    if size:
        length = struct.unpack(size, stream.read(struct.calcsize(size)))[0]
    mask = stream.read(4) * (length // 4 + 1)
    data = int.from_bytes(stream.read(length), "big") ^ int.from_bytes(mask[:length], "big")
    stream.write(head + (bytes([length]) if length < 126 else
        b"\x7e" + struct.pack(">H", length) if length < 65536 else b"\x7f" + struct.pack(">Q", length)))
    stream.write(data.to_bytes(length, "big"))
    stream.flush()
    if first & 0x0f == 8:
        break
"#;
/// Of each form that the length of a frame has, and none a part of any buffer.
const LENGTHS: [usize; 5] = [0, 125, 65_535, 65_536, 1_000_003];
const ROUNDS: usize = 16;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

struct Echo {
    child: Child,
    _guard: Guard,
    address: SocketAddr,
}

impl Echo {
    fn start() -> Echo {
        use std::os::unix::process::CommandExt;
        let mut python = Command::new("python3");
        python.args(["-c", SERVER]).process_group(0);
        python.stdin(Stdio::null()).stdout(Stdio::piped());
        let missing = |e| panic!("python3: {e}: make setup-tests installs it");
        let mut child = python.spawn().unwrap_or_else(missing);
        let guard = Guard::of(child.id());
        let mut port = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut port).expect("a line");
        let port: u16 = port.trim().parse().expect("a port");
        Echo {
            child,
            _guard: guard,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
        }
    }
}

/// Without the mask, as a server sends it.
fn head(first: u8, length: usize) -> Vec<u8> {
    let mut head = vec![first];
    match length {
        0..=125 => head.push(length as u8),
        126..=65_535 => {
            head.push(126);
            head.extend((length as u16).to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head
}

fn masked(first: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = head(first, data.len());
    frame[1] |= 0x80;
    frame.extend(MASK);
    let mask = MASK.iter().cycle();
    frame.extend(data.iter().zip(mask).map(|(byte, mask)| byte ^ mask));
    frame
}

#[test]
fn every_message_comes_back_as_it_was() {
    let mut echo = Echo::start();
    let proxy = Setup::http().backends(&[echo.address]).start();
    let stream = TcpStream::connect(proxy.address()).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    let mut sender = stream.try_clone().expect("dup");
    let ask = b"GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    sender.write_all(ask).expect("sent");
    let mut answers = BufReader::new(stream);
    let mut line = String::new();
    let mut answer = Vec::new();
    while answers.read_line(&mut line).expect("a head") > 2 {
        answer.push(std::mem::take(&mut line));
    }
    assert!(answer[0].starts_with("HTTP/1.1 101 "), "{answer:?}");
    let agreed = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
    assert!(answer.iter().any(|line| line.ends_with(agreed)));
    let messages: Vec<Vec<u8>> = LENGTHS.map(common::pattern).to_vec();
    let sent = messages.clone();
    let sending = spawn(move || {
        for message in sent.iter().cycle().take(ROUNDS * LENGTHS.len()) {
            sender.write_all(&masked(BINARY, message)).expect("sent");
        }
        sender.write_all(&masked(CLOSE, &[])).expect("sent");
    });
    for message in messages.iter().cycle().take(ROUNDS * LENGTHS.len()) {
        let wanted = [head(BINARY, message.len()), message.clone()].concat();
        let mut came = vec![0; wanted.len()];
        answers.read_exact(&mut came).expect("a message");
        same_bytes(&came, &wanted);
    }
    let mut rest = Vec::new();
    answers.read_to_end(&mut rest).expect("an end");
    assert_eq!(rest, head(CLOSE, 0));
    sending.join().expect("the sender");
    drop(answers);
    proxy.wait_access(1, " ok");
    assert!(echo.child.wait().expect("it ends").success());
}
