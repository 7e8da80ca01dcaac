//! TLS towards backends: whom a cluster takes them for, and what proves it.
//!
//! One `Dialer` per cluster: its connections and sessions are good for this
//! cluster as it is configured, and for the name that they were made for.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::ssl::{
    Error, ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslRef, SslSession,
    SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::{X509CheckFlags, X509VerifyFlags};
use openssl::x509::{X509VerifyResult, X509};

use super::stream::TlsStream;
use super::{without_waiting, Proof};
use crate::certificate::matched;
use crate::limits::{BACKEND_SESSIONS_MAX, SYSTEM_AUTHORITIES_BYTES_MAX};
use crate::slab::Key;
use crate::state::{BackendTls, OwnCertificate, Protocol};
use crate::sys::ssl::resume;

/// The last session with one backend under one name.
type Memory = Arc<Mutex<Option<SslSession>>>;

/// What a connection was made for. One that was made for another is of no use.
pub struct Identity {
    dialer: Rc<Dialer>,
    backend: Key,
    name: Rc<str>,
    memory: Memory,
}

impl Identity {
    /// Whether a connection of this one is as good as one made now.
    pub fn is(&self, dialer: &Rc<Dialer>, name: &str) -> bool {
        Rc::ptr_eq(&self.dialer, dialer) && *self.name == *name
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The handshake succeeded: its sessions are worth keeping. Not before, for names that
    /// clients make up would drive others out.
    pub fn proven(&self) {
        let mut sessions = self.dialer.sessions.borrow_mut();
        let key = (self.backend, Rc::clone(&self.name));
        if sessions.len() >= BACKEND_SESSIONS_MAX && !sessions.contains_key(&key) {
            // Any of them: what is lost is found again by a whole handshake.
            if let Some(other) = sessions.keys().next().cloned() {
                sessions.remove(&other);
            }
        }
        sessions.insert(key, Arc::clone(&self.memory));
    }

    /// Clients have no say in whom backends are taken for.
    pub fn is_configured(&self) -> bool {
        self.dialer.name.is_some()
    }
}

/// The TLS of the connections of one cluster.
pub struct Dialer {
    context: SslContext,
    verify: bool,
    name: Option<Box<str>>,
    http: bool,
    /// What backends know us by, if they ask.
    own: Option<Proof>,
    sessions: std::cell::RefCell<HashMap<(Key, Rc<str>), Memory>>,
}

/// What all dialers of a worker have in common.
#[derive(Default)]
pub struct Dialers {
    /// The file of the system's roots: read when it is needed first.
    roots: Option<OwnedFd>,
    /// With the system's roots, and with none.
    trusting: Option<SslContext>,
    blind: Option<SslContext>,
}

impl Dialers {
    pub fn new(roots: Option<OwnedFd>) -> Dialers {
        Dialers {
            roots,
            ..Dialers::default()
        }
    }

    /// An error says what OpenSSL does not take; main has looked at what an operator gives.
    pub fn dialer(&mut self, tls: &BackendTls, protocol: Protocol) -> Result<Dialer, String> {
        let context = match &tls.ca {
            _ if !tls.verify => once(&mut self.blind, || Ok(None))?,
            None => {
                let roots = &mut self.roots;
                once(&mut self.trusting, || system_store(roots.take()).map(Some))?
            }
            Some(pem) => context(Some(store(pem.as_bytes(), X509VerifyFlags::PARTIAL_CHAIN)?))?,
        };
        Ok(Dialer {
            context,
            verify: tls.verify,
            name: tls.server_name.clone(),
            http: protocol == Protocol::Http,
            own: tls.own.as_ref().map(proof).transpose()?,
            sessions: Default::default(),
        })
    }
}

/// The text of a certificate and its key, as OpenSSL has them. Without a key the key process signs.
fn proof(own: &OwnCertificate) -> Result<Proof, String> {
    let key = own.key.as_ref().map(|key| &*key.0);
    Proof::new(matched(&own.chain, "", key)?)
}

fn once(
    place: &mut Option<SslContext>,
    store: impl FnOnce() -> Result<Option<X509Store>, String>,
) -> Result<SslContext, String> {
    if let Some(known) = place {
        return Ok(known.clone());
    }
    let made = context(store()?)?;
    Ok(place.insert(made).clone())
}

/// Without a file, or without certificates in it, nobody is trusted.
fn system_store(roots: Option<OwnedFd>) -> Result<X509Store, String> {
    let mut bytes = vec![0; SYSTEM_AUTHORITIES_BYTES_MAX];
    let mut len = 0;
    let roots = roots.map(File::from);
    // Workers share the file's offset: each reads by its own.
    while let Some(file) = &roots {
        match file.read_at(&mut bytes[len..], len as u64) {
            Ok(0) => break,
            Ok(n) => len += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(format!("the system's roots cannot be read: {e}")),
        }
    }
    if roots.is_none() {
        log::error!("the system has no file of roots: give clusters with tls = true a tls_ca");
    }
    store(&bytes[..len], X509VerifyFlags::empty())
}

/// What an operator gives ends a proof whether it is a root or not.
fn store(pem: &[u8], flags: X509VerifyFlags) -> Result<X509Store, String> {
    let fill = || {
        let mut store = X509StoreBuilder::new()?;
        store.set_flags(flags)?;
        for root in X509::stack_from_pem(pem)? {
            store.add_cert(root)?;
        }
        Ok(store.build())
    };
    fill().map_err(|e: ErrorStack| e.to_string())
}

fn context(roots: Option<X509Store>) -> Result<SslContext, String> {
    let build = || {
        let mut context = SslContextBuilder::new(SslMethod::tls_client())?;
        context.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        without_waiting(&mut context);
        match roots {
            Some(roots) => {
                context.set_cert_store(roots);
                context.set_verify(SslVerifyMode::PEER);
            }
            None => context.set_verify(SslVerifyMode::NONE),
        }
        context.set_session_cache_mode(
            SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL_STORE,
        );
        context.set_new_session_callback(remember);
        Ok(context.build())
    };
    build().map_err(|e: ErrorStack| e.to_string())
}

/// Where a connection finds the memory of its name. One index for the whole process.
fn memory_index() -> Result<Index<Ssl, Memory>, ErrorStack> {
    static INDEX: OnceLock<Index<Ssl, Memory>> = OnceLock::new();
    match INDEX.get() {
        Some(index) => Ok(*index),
        None => {
            let made = Ssl::new_ex_index()?;
            Ok(*INDEX.get_or_init(|| made))
        }
    }
}

fn remember(ssl: &mut SslRef, session: SslSession) {
    let index = memory_index().ok();
    if let Some(memory) = index.and_then(|index| ssl.ex_data(index)) {
        *memory.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }
}

impl Dialer {
    /// Whom a backend is taken for, if that host is asked for.
    pub fn name_for<'a>(&'a self, host: &'a str) -> &'a str {
        self.name.as_deref().unwrap_or(host)
    }

    /// Without a name anybody's certificate would do.
    pub fn takes(&self, name: &str) -> bool {
        !self.verify || !name.is_empty()
    }

    /// The client's side of a connection that may still be in the making.
    pub fn dial(
        self: &Rc<Dialer>,
        stream: TcpStream,
        backend: Key,
        name: &str,
    ) -> io::Result<(TlsStream, Identity)> {
        let name: Rc<str> = name.into();
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_connect_state();
        if self.http {
            ssl.set_alpn_protos(b"\x08http/1.1")?;
        }
        if let Some(own) = &self.own {
            own.hand_to(&mut ssl)?;
        }
        self.expect(&mut ssl, &name)?;
        let known = self
            .sessions
            .borrow()
            .get(&(backend, Rc::clone(&name)))
            .cloned();
        let memory = known.unwrap_or_default();
        if let Some(session) = &*memory.lock().unwrap_or_else(PoisonError::into_inner) {
            resume(&mut ssl, session);
        }
        ssl.set_ex_data(memory_index()?, Arc::clone(&memory));
        let identity = Identity {
            dialer: Rc::clone(self),
            backend,
            name,
            memory,
        };
        Ok((TlsStream::new(ssl, stream)?, identity))
    }

    fn expect(&self, ssl: &mut SslRef, name: &str) -> io::Result<()> {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = bare.parse().ok();
        if address.is_none() && !name.is_empty() {
            ssl.set_hostname(name)?;
        }
        if !self.verify {
            return Ok(());
        }
        let param = ssl.param_mut();
        // The common name counts for nothing any more (RFC 9525).
        param.set_hostflags(
            X509CheckFlags::NO_PARTIAL_WILDCARDS | X509CheckFlags::NEVER_CHECK_SUBJECT,
        );
        match address {
            Some(address) => param.set_ip(address)?,
            None if name.is_empty() => return Err(io::Error::other(NO_NAME)),
            None => param.set_host(name)?,
        }
        Ok(())
    }
}

/// The request names no host, and the configuration no other name.
pub const NO_NAME: &str = "no name to verify the certificate by";

/// Why there is no TLS with a backend: in a few words, and all that is known.
pub fn reason(ssl: &SslRef, error: &Error) -> (&'static str, String) {
    let verified = ssl.verify_result();
    if ssl.verify_mode() != SslVerifyMode::NONE && verified != X509VerifyResult::OK {
        let why = verified.error_string();
        return (why, format!("certificate verify failed: {why}"));
    }
    let codes: Vec<i32> = error
        .ssl_error()
        .map(|all| all.errors().iter().map(|one| one.reason_code()).collect())
        .unwrap_or_default();
    let few = if codes.iter().any(|code| NOT_TLS.contains(code)) {
        "it does not speak TLS there"
    } else if codes.iter().any(|code| ALERTS.contains(code)) {
        "it refuses the handshake"
    } else if error.code() == ErrorCode::SYSCALL || codes.contains(&UNEXPECTED_EOF) {
        "it closed the connection inside the handshake"
    } else {
        "the handshake failed"
    };
    let all = error.to_string();
    match all.contains(few) {
        true => (few, all),
        false => (few, format!("{few}: {all}")),
    }
}

/// SSL_R_WRONG_VERSION_NUMBER, SSL_R_PACKET_LENGTH_TOO_LONG, SSL_R_RECORD_LENGTH_MISMATCH,
/// SSL_R_UNEXPECTED_MESSAGE and SSL_R_BAD_RECORD_TYPE (sslerr.h): what text looks like to who expects a record.
const NOT_TLS: [i32; 5] = [267, 198, 213, 244, 443];
/// SSL_R_UNEXPECTED_EOF_WHILE_READING.
const UNEXPECTED_EOF: i32 = 294;
/// SSL_AD_REASON_OFFSET and the alerts behind it.
const ALERTS: std::ops::Range<i32> = 1000..1256;

#[cfg(test)]
mod tests {
    use super::*;

    fn dialer(server_name: Option<&str>, verify: bool) -> Rc<Dialer> {
        let tls = BackendTls {
            verify,
            ca: None,
            server_name: server_name.map(Into::into),
            own: None,
        };
        let made = Dialers::default().dialer(&tls, Protocol::Http);
        Rc::new(made.expect("a dialer"))
    }

    fn socket() -> TcpStream {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        TcpStream::connect(listener.local_addr().expect("its address")).expect("connect")
    }

    fn key(index: u32) -> Key {
        Key {
            index,
            generation: 0,
        }
    }

    #[test]
    fn an_identity_is_of_one_dialer_and_one_name() {
        let (one, other) = (dialer(None, true), dialer(None, true));
        let name = one.name_for("a.example.com").to_string();
        let (_, identity) = one.dial(socket(), key(0), &name).expect("a connection");
        assert!(identity.is(&one, "a.example.com"));
        assert!(!identity.is(&one, "b.example.com"));
        assert!(!identity.is(&other, "a.example.com"));
        assert!(!identity.is_configured());
        assert_eq!(dialer(Some("x"), true).name_for("a.example.com"), "x");
    }

    #[test]
    fn nobody_is_verified_without_a_name() {
        let refused = dialer(None, true).dial(socket(), key(0), "");
        assert!(refused.is_err_and(|e| e.to_string() == NO_NAME));
        assert!(dialer(None, false).dial(socket(), key(0), "").is_ok());
        for address in ["127.0.0.1", "[::1]"] {
            let made = dialer(None, true).dial(socket(), key(0), address);
            let (stream, _) = made.expect("a connection");
            let hello = stream.ssl().servername(openssl::ssl::NameType::HOST_NAME);
            assert_eq!(hello, None, "{address} is no name");
        }
    }

    #[test]
    fn sessions_are_bounded_and_of_proven_names() {
        let dialer = dialer(None, true);
        for index in 0..BACKEND_SESSIONS_MAX as u32 + 9 {
            let made = dialer.dial(socket(), key(index), "a.example.com");
            let (_, identity) = made.expect("a connection");
            assert!(!dialer
                .sessions
                .borrow()
                .contains_key(&(key(index), "a.example.com".into())));
            identity.proven();
            assert!(dialer
                .sessions
                .borrow()
                .contains_key(&(key(index), "a.example.com".into())));
        }
        assert_eq!(dialer.sessions.borrow().len(), BACKEND_SESSIONS_MAX);
    }
}
