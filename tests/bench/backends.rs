//! What backends cost that are asked whether they are well, and what one that is slow costs the others.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{sleep, spawn};
use std::time::Duration;

use crate::control::Control;
use crate::lab::{pattern, Lab};
use crate::load::Load;
use crate::peers::Running;
use crate::rows::{compare, Sample};

const CHECK_INTERVAL_S: u64 = 2;
/// How long the slow one holds each of its answers.
const HELD: Duration = Duration::from_millis(100);

/// Nine times the backend there is, and one that answers late, while it is in service.
pub fn slow(load: Load, running: &Running, lab: &Lab, seconds: u64) -> Result<Sample, String> {
    let late = start_slow(load.len)?;
    let mut control = Control::open(&lab.control_socket())?;
    let more = |n| {
        format!(
            "backend add cluster=bench id=more-{n} address=127.0.0.1:{}",
            lab.http_backend
        )
    };
    control.all((1..9).map(more))?;
    control.all(["cluster update id=bench load_balancing=least_conn".to_string()])?;
    let sample = compare(load, running, lab, seconds, |slow| match slow {
        true => control.all([format!(
            "backend add cluster=bench id=slow address={}",
            late
        )]),
        false => control.all(["backend remove cluster=bench id=slow".to_string()]),
    })?;
    control.all(["cluster update id=bench unset=load_balancing".to_string()])?;
    control.all((1..9).map(|n| format!("backend remove cluster=bench id=more-{n}")))?;
    Ok(sample)
}

/// A backend that answers late, over any number of connections. Returns where.
fn start_slow(len: usize) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
    let answer = [head.into_bytes(), pattern(len)].concat();
    spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            spawn(move || answer_late(stream, &answer));
        }
    });
    Ok(address)
}

/// Each request comes in one piece, and the next one after the answer.
fn answer_late(mut stream: TcpStream, answer: &[u8]) {
    let mut room = [0; 4096];
    while stream.read(&mut room).is_ok_and(|n| n > 0) {
        sleep(HELD);
        if stream.write_all(answer).is_err() {
            return;
        }
    }
}

/// Each cluster has one backend, and each check must have passed.
pub fn checks(
    clusters: usize,
    running: &Running,
    lab: &Lab,
    seconds: u64,
) -> Result<Sample, String> {
    let mut control = Control::open(&lab.control_socket())?;
    let backend = lab.http_backend;
    let add = |n| {
        let cluster = format!(
            "cluster add id=checked-{n} health_check=http health_path=/1k health_interval={CHECK_INTERVAL_S}"
        );
        [
            cluster,
            format!("backend add cluster=checked-{n} id=0 address=127.0.0.1:{backend}"),
        ]
    };
    control.all((0..clusters).flat_map(add))?;
    sleep(Duration::from_secs(CHECK_INTERVAL_S));
    let before = running.process.times();
    let window = Duration::from_secs(seconds.next_multiple_of(CHECK_INTERVAL_S));
    sleep(window);
    let spent = running.process.times().since(before);
    let remove = |n| {
        let backend = format!("backend remove cluster=checked-{n} id=0");
        [backend, format!("cluster remove id=checked-{n}")]
    };
    control.all((0..clusters).flat_map(remove))?;
    Ok(Sample {
        cost: spent.cpu_ns as f64 * 100.0 / window.as_nanos() as f64,
        speed: None,
        quiet: None,
    })
}
