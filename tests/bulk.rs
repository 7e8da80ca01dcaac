//! A gibibyte there and back, through each kind of tunnel: not a byte is lost, doubled or moved.

mod common;

use common::{same_bytes, Setup, DEADLINE};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::spawn;

const ALL: u64 = 1024 * 1024 * 1024;
/// What is sent again and again: of a length that has nothing in common with that of any buffer.
const BLOCK: usize = 1_000_003;

/// Sends back what comes, behind what has to be said first; one connection.
fn echo(first: fn(&mut TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("getsockname");
    spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        first(&mut stream);
        let mut room = vec![0; 256 * 1024];
        loop {
            match stream.read(&mut room).expect("received") {
                0 => return,
                n => stream.write_all(&room[..n]).expect("sent"),
            }
        }
    });
    address
}

/// Up to the empty line, and no byte more.
fn head(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    head
}

/// Sends all of it, and compares what comes back meanwhile up to the end.
fn there_and_back(mut stream: TcpStream) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    stream
        .set_write_timeout(Some(DEADLINE))
        .expect("a deadline");
    let block = common::pattern(BLOCK);
    let mut sender = stream.try_clone().expect("dup");
    let sent = block.clone();
    let sending = spawn(move || {
        let mut left = ALL as usize;
        while left > 0 {
            let n = left.min(BLOCK);
            sender.write_all(&sent[..n]).expect("sent");
            left -= n;
        }
        sender.shutdown(Shutdown::Write).expect("shutdown");
    });
    let mut left = ALL as usize;
    let mut back = vec![0; BLOCK];
    while left > 0 {
        let n = left.min(BLOCK);
        stream.read_exact(&mut back[..n]).expect("received");
        // To look where they differ takes longer than all the rest.
        if back[..n] != block[..n] {
            same_bytes(&back[..n], &block[..n]);
        }
        left -= n;
    }
    assert_eq!(stream.read(&mut back).expect("an end"), 0);
    sending.join().expect("the sender");
}

#[test]
fn over_tcp() {
    let backend = echo(|_| {});
    let proxy = Setup::tcp().backends(&[backend]).start();
    there_and_back(TcpStream::connect(proxy.address()).expect("connect"));
    let line = proxy.wait_access(1, " ok").remove(0);
    assert!(line.contains(&format!(" 0 {ALL} {ALL} ")), "{line}");
}

#[test]
fn over_a_websocket() {
    let backend = echo(|stream| {
        head(stream);
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
            Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        stream.write_all(answer).expect("sent");
    });
    let proxy = Setup::http().backends(&[backend]).start();
    let mut stream = TcpStream::connect(proxy.address()).expect("connect");
    let ask = b"GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(ask).expect("sent");
    assert!(head(&mut stream).starts_with(b"HTTP/1.1 101 "));
    there_and_back(stream);
    proxy.wait_access(1, " ok");
}
