//! Backends that do as a test says: a script runs for every connection, in a
//! thread of its own, and everything received is written down.

use super::message::{Broken, Message};
use super::peer::Peer;
use super::DEADLINE;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// What one connection brought.
#[derive(Default)]
struct Connection {
    bytes: Vec<u8>,
    requests: Vec<Message>,
    end: Option<Broken>,
}

/// What all connections of a backend brought.
#[derive(Default)]
pub struct Record {
    connections: Mutex<Vec<Connection>>,
    changed: Condvar,
}

impl Record {
    fn change(&self, change: impl FnOnce(&mut Vec<Connection>)) {
        change(&mut self.connections.lock().expect("record"));
        self.changed.notify_all();
    }

    pub(super) fn received(&self, number: usize, bytes: &[u8]) {
        self.change(|all| all[number].bytes.extend_from_slice(bytes));
    }

    pub(super) fn request(&self, number: usize, request: Message) {
        self.change(|all| all[number].requests.push(request));
    }

    pub(super) fn ended(&self, number: usize, end: Broken) {
        self.change(|all| all[number].end = Some(end));
    }

    /// Waits until the record has what `ask` looks for.
    #[track_caller]
    fn wait<T>(&self, what: &str, ask: impl Fn(&[Connection]) -> Option<T>) -> T {
        let end = Instant::now() + DEADLINE;
        let mut all = self.connections.lock().expect("record");
        loop {
            if let Some(answer) = ask(&all) {
                return answer;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(all);
                panic!("in vain: {what}");
            }
            all = self.changed.wait_timeout(all, left).expect("record").0;
        }
    }
}

pub struct Backend {
    address: SocketAddr,
    record: Arc<Record>,
    stopped: Arc<AtomicBool>,
    /// Has it look whether it is to stop.
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Backend {
    /// Runs `script` for every connection, with its number. The connection is
    /// closed when the script returns.
    pub fn scripted<S>(script: S) -> Backend
    where
        S: Fn(&mut Peer, usize) -> Result<(), Broken> + Send + Sync + 'static,
    {
        Backend::on(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    /// The same at that address.
    pub fn on<S>(address: SocketAddr, script: S) -> Backend
    where
        S: Fn(&mut Peer, usize) -> Result<(), Broken> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(address).expect("bind a backend");
        let address = listener.local_addr().expect("getsockname");
        let wake = move || drop(TcpStream::connect_timeout(&address, Duration::from_secs(1)));
        let accept = move || listener.accept().map(|(stream, _)| stream);
        Backend::accepting(address, accept, wake, script)
    }

    /// The same on a unix socket, which is made at that path; it has no address.
    pub fn on_unix<S>(path: &Path, script: S) -> Backend
    where
        S: Fn(&mut Peer, usize) -> Result<(), Broken> + Send + Sync + 'static,
    {
        let listener = UnixListener::bind(path).expect("bind a backend");
        let none = SocketAddr::from(([0; 4], 0));
        let path = path.to_owned();
        let wake = move || drop(UnixStream::connect(&path));
        let accept = move || {
            listener
                .accept()
                .map(|(stream, _)| OwnedFd::from(stream).into())
        };
        Backend::accepting(none, accept, wake, script)
    }

    fn accepting<S>(
        address: SocketAddr,
        accept: impl Fn() -> io::Result<TcpStream> + Send + 'static,
        wake: impl Fn() + Send + Sync + 'static,
        script: S,
    ) -> Backend
    where
        S: Fn(&mut Peer, usize) -> Result<(), Broken> + Send + Sync + 'static,
    {
        let (record, stopped) = (Arc::<Record>::default(), Arc::<AtomicBool>::default());
        let backend = Backend {
            address,
            record: record.clone(),
            stopped: stopped.clone(),
            wake: Box::new(wake),
        };
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for number in 0.. {
                let Ok(stream) = accept() else { return };
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                record.change(|all| all.push(Connection::default()));
                let (script, record) = (script.clone(), record.clone());
                std::thread::spawn(move || {
                    let mut peer = Peer::over(stream, Some((record.clone(), number)));
                    if let Err(end) = script(&mut peer, number) {
                        record.ended(number, end);
                    }
                });
            }
        });
        backend
    }

    /// Reads request after request and answers each with what `answer` makes of it.
    pub fn replying<A>(answer: A) -> Backend
    where
        A: Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
    {
        Backend::scripted(move |peer, _| loop {
            let request = peer.request()?;
            peer.send(answer(&request));
        })
    }

    /// Answers every request with the same bytes.
    pub fn answering(bytes: impl AsRef<[u8]>) -> Backend {
        let bytes = bytes.as_ref().to_vec();
        Backend::replying(move |_| bytes.clone())
    }

    /// Answers every request with its name.
    pub fn named(name: &str) -> Backend {
        Backend::answering(ok(name))
    }

    /// Answers every request with the body it had.
    pub fn echo() -> Backend {
        Backend::replying(|request| ok(&request.body))
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections were made to it.
    pub fn connections(&self) -> usize {
        self.record.connections.lock().expect("record").len()
    }

    /// The requests so far, connection by connection.
    pub fn requests(&self) -> Vec<Message> {
        let all = self.record.connections.lock().expect("record");
        all.iter().flat_map(|c| c.requests.clone()).collect()
    }

    /// The last request of the last connection that brought one.
    #[track_caller]
    pub fn last_request(&self) -> Message {
        self.requests().pop().expect("a request at the backend")
    }

    /// Every byte so far, connection by connection.
    pub fn bytes(&self) -> Vec<u8> {
        let all = self.record.connections.lock().expect("record");
        all.iter().flat_map(|c| c.bytes.clone()).collect()
    }

    /// Forgets bytes and requests; connections keep their numbers.
    pub fn forget(&self) {
        self.record.change(|all| {
            for connection in all {
                connection.bytes.clear();
                connection.requests.clear();
            }
        });
    }

    /// Waits until that many requests have been read.
    #[track_caller]
    pub fn wait_requests(&self, count: usize) -> Vec<Message> {
        self.record
            .wait(&format!("{count} requests at the backend"), |all| {
                let requests = all
                    .iter()
                    .flat_map(|c| c.requests.clone())
                    .collect::<Vec<_>>();
                (requests.len() >= count).then_some(requests)
            })
    }

    /// Waits until connection `number` brought that many bytes.
    #[track_caller]
    pub fn wait_bytes(&self, number: usize, count: usize) -> Vec<u8> {
        self.record
            .wait(&format!("{count} bytes at the backend"), |all| {
                let bytes = &all.get(number)?.bytes;
                (bytes.len() >= count).then(|| bytes.clone())
            })
    }

    /// Waits until the proxy ended connection `number`; the script must be reading.
    #[track_caller]
    pub fn wait_end(&self, number: usize) -> Broken {
        let what = format!("the end of connection {number} to the backend");
        self.record.wait(&what, |all| all.get(number)?.end.clone())
    }

    /// What the proxy sent that no client may send: looked at when the test is over.
    fn malformed(&self) -> Option<String> {
        let all = self.record.connections.lock().ok()?;
        all.iter().find_map(|c| match &c.end {
            Some(Broken::Malformed(what)) => Some(what.clone()),
            _ => None,
        })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        (self.wake)();
        if let Some(what) = self.malformed() {
            assert!(std::thread::panicking(), "the backend received {what}");
        }
    }
}

/// A 200 with a counted body.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// An address where nobody listens: a connect is refused.
pub fn refused_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("getsockname")
}

/// An address that nobody has, and that the kernel gives to nobody by itself:
/// below the ports of outgoing connections.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..10_000 {
        let count = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id() * 131 + count) % 20_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port as u16));
        // Not by binding it: a process that is started right then would keep it for a moment.
        if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            return address;
        }
    }
    panic!("no free port");
}

/// Scripts wait here until the test lets them pass, one by one.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<usize>, Condvar)>);

impl Gate {
    /// Lets that many pass.
    pub fn admit(&self, count: usize) {
        *self.0 .0.lock().expect("gate") += count;
        self.0 .1.notify_all();
    }

    /// Waits to be let through; not longer than the deadline.
    pub fn pass(&self) {
        let admitted = self.0 .0.lock().expect("gate");
        let closed = |admitted: &mut usize| *admitted == 0;
        let (mut admitted, _) = self
            .0
             .1
            .wait_timeout_while(admitted, DEADLINE, closed)
            .expect("gate");
        *admitted = admitted.saturating_sub(1);
    }
}

/// A listener whose queue is full, so that the kernel drops every further SYN:
/// a connect to it times out.
pub struct StuckListener {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl StuckListener {
    pub fn new() -> StuckListener {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("getsockname");
        let patience = Duration::from_millis(300);
        let queued = std::iter::from_fn(|| TcpStream::connect_timeout(&address, patience).ok());
        let queued: Vec<_> = queued.take(5000).collect();
        StuckListener {
            listener,
            _queued: queued,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("getsockname")
    }
}
