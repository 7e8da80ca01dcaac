//! TLS towards clients: which certificate a name gets, and by which rules.
//!
//! One context per listener carries the policy. The names' certificates stand in
//! a table beside it, that changes while connections go on: the ClientHello is
//! looked up there before anything else is decided, resumption included, so that
//! a session of one name is never resumed under another.

pub mod backend;
mod client;
pub mod stream;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use openssl::error::ErrorStack;
use openssl::ex_data::Index;
use openssl::pkey::{Id, PKey, Private};
use openssl::sha::sha256;
use openssl::ssl::{
    AlpnError, ClientHelloResponse, Ssl, SslAlert, SslContext, SslContextBuilder, SslMethod,
    SslMode, SslOptions, SslRef, SslSessionCacheMode, SslVersion,
};
use openssl::x509::X509;

use crate::certificate::Checked;
use crate::state::{HostRule, Names, Tls, TlsVersion};
use crate::sys::delegated::Delegated;
use crate::sys::ssl::{client_hello_extension, set_session_context, use_ticket_keys};
use stream::TlsStream;

/// What proves that we are who we say: the leaf, what leads from it to a root, the key.
pub struct Proof {
    leaf: X509,
    chain: Vec<X509>,
    key: ProofKey,
}

/// By what it signs.
enum ProofKey {
    Here(PKey<Private>),
    /// In the key process.
    Elsewhere(Delegated),
}

impl Proof {
    /// Of one that came without its key the key process signs. An error is a sentence.
    pub fn new(checked: Checked) -> Result<Proof, String> {
        let Checked { leaf, chain, key } = checked;
        let delegated = || {
            let public = leaf.public_key().ok()?;
            Delegated::new(&public).map(ProofKey::Elsewhere)
        };
        let key = match key {
            Some(key) => ProofKey::Here(key),
            None => delegated().ok_or("the key process cannot sign with keys of this kind")?,
        };
        Ok(Proof { leaf, chain, key })
    }

    /// RSA or EC.
    fn kind(&self) -> Id {
        match &self.key {
            ProofKey::Here(key) => key.id(),
            ProofKey::Elsewhere(key) => key.id(),
        }
    }

    fn hand_to(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        ssl.set_certificate(&self.leaf)?;
        match &self.key {
            ProofKey::Here(key) => ssl.set_private_key(key)?,
            ProofKey::Elsewhere(key) => key.hand_to(ssl)?,
        }
        let mut links = self.chain.iter();
        links.try_for_each(|link| ssl.add_chain_cert(link.clone()))
    }
}

struct Certificate {
    names: Names,
    default: bool,
    proof: Arc<Proof>,
}

/// What a name gets: one certificate for each kind of key.
#[derive(Clone)]
struct Entry {
    proofs: Vec<Arc<Proof>>,
    /// Those for which every one of them stands.
    names: Names,
    /// Sessions are resumed only for the same one.
    session: [u8; 32],
}

#[derive(Default)]
struct Table {
    /// By fingerprint.
    certificates: BTreeMap<String, Certificate>,
    exact: HashMap<Box<str>, Entry>,
    suffix: HashMap<Box<str>, Entry>,
    default: Option<Entry>,
    /// The certificates have changed, and what is above has not followed.
    stale: bool,
}

/// The TLS of one listener.
pub struct Doorman {
    context: SslContext,
    shelf: Arc<Shelf>,
}

/// What the callback shares with the worker. One thread uses it: nobody ever waits.
struct Shelf {
    table: Mutex<Table>,
    /// Names without a certificate are refused.
    strict: bool,
    /// What all sessions of this policy have in common, and no others: what clients are verified
    /// by is a part of it.
    policy: [u8; 32],
    names: Index<Ssl, Names>,
}

/// Where a connection keeps the names of its certificate: the same place for all, for OpenSSL
/// never takes one back.
fn names_index() -> Result<Index<Ssl, Names>, String> {
    static INDEX: OnceLock<Index<Ssl, Names>> = OnceLock::new();
    match INDEX.get() {
        Some(index) => Ok(*index),
        None => {
            let made = Ssl::new_ex_index().map_err(|e| e.to_string())?;
            Ok(*INDEX.get_or_init(|| made))
        }
    }
}

impl Shelf {
    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic ends the process: nobody finds it poisoned.
        self.table
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

const EXTENSION_SERVER_NAME: u16 = 0;

impl Doorman {
    /// An error says which part of the policy OpenSSL does not take.
    pub fn new(address: SocketAddr, tls: &Tls) -> Result<Doorman, String> {
        let shelf = Arc::new(Shelf {
            table: Mutex::default(),
            strict: tls.strict_sni,
            policy: sha256(format!("{address} {tls:?}").as_bytes()),
            names: names_index()?,
        });
        let mut context = policy(tls)?;
        let found = Arc::clone(&shelf);
        context.set_client_hello_callback(move |ssl, alert| greet(ssl, alert, &found));
        Ok(Doorman {
            context: context.build(),
            shelf,
        })
    }

    /// Nobody sees it before `settle`. In place of the one with the same fingerprint, if there is one.
    pub fn add(&self, fingerprint: &str, names: &Names, default: bool, proof: Proof) {
        let mut table = self.shelf.table();
        let certificate = Certificate {
            names: Arc::clone(names),
            default,
            proof: Arc::new(proof),
        };
        table
            .certificates
            .insert(fingerprint.to_string(), certificate);
        table.stale = true;
    }

    /// Who asks is shown it until `settle`.
    pub fn remove(&self, fingerprint: &str) {
        let mut table = self.shelf.table();
        table.stale |= table.certificates.remove(fingerprint).is_some();
    }

    /// What was added and removed counts from the next handshake on.
    pub fn settle(&self) {
        let mut table = self.shelf.table();
        if table.stale {
            table.index(&self.shelf.policy);
        }
    }

    /// The same certificates under another policy.
    pub fn with_policy(&self, address: SocketAddr, tls: &Tls) -> Result<Doorman, String> {
        let new = Doorman::new(address, tls)?;
        let certificates = std::mem::take(&mut self.shelf.table().certificates);
        {
            let mut table = new.shelf.table();
            table.certificates = certificates;
            table.index(&new.shelf.policy);
        }
        Ok(new)
    }

    /// A client that has come: nothing is sent or received yet.
    pub fn accept(&self, stream: TcpStream) -> io::Result<TlsStream> {
        let mut ssl = Ssl::new(&self.context)?;
        ssl.set_accept_state();
        TlsStream::new(ssl, stream)
    }

    /// The names of the certificate that a connection got.
    pub fn names_of(&self, stream: &TlsStream) -> Option<Names> {
        stream.ssl().ex_data(self.shelf.names).cloned()
    }
}

/// What backends are told of the certificate that a client has shown. An error: why they cannot be.
pub fn identity_of(stream: &TlsStream) -> Result<Option<Rc<[u8]>>, &'static str> {
    client::identity(stream.ssl())
}

impl Table {
    /// Who gets what, anew. With thousands of certificates this costs milliseconds, per
    /// transaction rather than per handshake.
    fn index(&mut self, policy: &[u8; 32]) {
        let mut by_rule: BTreeMap<&HostRule, Vec<&Certificate>> = BTreeMap::new();
        for certificate in self.certificates.values() {
            for rule in certificate.names.iter() {
                by_rule.entry(rule).or_default().push(certificate);
            }
        }
        let entry = |rule: &HostRule, all: &[&Certificate]| Entry::new(policy, rule, all);
        let (mut exact, mut suffix) = (HashMap::new(), HashMap::new());
        for (rule, all) in &by_rule {
            match rule {
                HostRule::Exact(name) => exact.insert(name.clone(), entry(rule, all)),
                HostRule::Suffix(name) => suffix.insert(name.clone(), entry(rule, all)),
                HostRule::Any => None,
            };
        }
        let shown = self.default_ones();
        let default = (!shown.is_empty()).then(|| entry(&HostRule::Any, &shown));
        (self.exact, self.suffix, self.default) = (exact, suffix, default);
        self.stale = false;
    }

    /// Those that are meant to be it, else the first by their names, of each kind of key.
    fn default_ones(&self) -> Vec<&Certificate> {
        let all = || self.certificates.values();
        if all().any(|one| one.default) {
            return all().filter(|one| one.default).collect();
        }
        let first = all().map(|one| &one.names).min();
        all().filter(|one| Some(&one.names) == first).collect()
    }

    fn find(&self, name: Option<&str>, strict: bool) -> Option<&Entry> {
        let named = name.and_then(|name| {
            let suffix = || self.suffix.get(name.split_once('.')?.1);
            self.exact.get(name).or_else(suffix)
        });
        match named {
            None if !strict => self.default.as_ref(),
            found => found,
        }
    }
}

impl Entry {
    fn new(policy: &[u8; 32], rule: &HostRule, all: &[&Certificate]) -> Entry {
        let common = |name: &&HostRule| all.iter().all(|other| other.names.contains(name));
        let first = all.first().map(|first| first.names.iter());
        // Of two with the same kind of key the one that is valid longer.
        let mut proofs: Vec<Arc<Proof>> = Vec::new();
        for proof in all.iter().map(|one| &one.proof) {
            match proofs.iter_mut().find(|other| other.kind() == proof.kind()) {
                Some(other) if other.leaf.not_after() >= proof.leaf.not_after() => {}
                Some(other) => *other = Arc::clone(proof),
                None => proofs.push(Arc::clone(proof)),
            }
        }
        Entry {
            proofs,
            names: first
                .into_iter()
                .flatten()
                .filter(common)
                .cloned()
                .collect(),
            session: sha256(&[policy, rule.to_string().as_bytes()].concat()),
        }
    }

    fn hand_to(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        self.proofs.iter().try_for_each(|proof| proof.hand_to(ssl))
    }
}

/// The ClientHello is here: who is asked for?
fn greet(
    ssl: &mut SslRef,
    alert: &mut SslAlert,
    shelf: &Shelf,
) -> Result<ClientHelloResponse, ErrorStack> {
    if ssl.ex_data(shelf.names).is_some() {
        // A second one, after a retry: its answer stands.
        return Ok(ClientHelloResponse::SUCCESS);
    }
    let name = client_hello_extension(ssl, EXTENSION_SERVER_NAME).and_then(server_name);
    let table = shelf.table();
    let Some(entry) = table.find(name.as_deref(), shelf.strict) else {
        *alert = SslAlert::UNRECOGNIZED_NAME;
        return Err(ErrorStack::get());
    };
    entry.hand_to(ssl)?;
    set_session_context(ssl, &entry.session);
    ssl.set_ex_data(shelf.names, Arc::clone(&entry.names));
    Ok(ClientHelloResponse::SUCCESS)
}

/// The host name of a server_name extension (RFC 6066 section 3), lower case, without final dot.
fn server_name(extension: &[u8]) -> Option<String> {
    let (list, rest) = prefixed(extension)?;
    let (kind, list) = list.split_first()?;
    let (name, _) = prefixed(list)?;
    if *kind != 0 || !rest.is_empty() || name.is_empty() || name.len() > 255 {
        return None;
    }
    let name = std::str::from_utf8(name).ok()?.to_ascii_lowercase();
    Some(name.trim_end_matches('.').to_string())
}

/// Bytes after their length in two bytes, and what follows them.
fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// For sockets that do not block, and many of them.
fn without_waiting(context: &mut SslContextBuilder) {
    context.set_options(SslOptions::NO_COMPRESSION | SslOptions::NO_RENEGOTIATION);
    context.set_mode(
        SslMode::ENABLE_PARTIAL_WRITE
            | SslMode::ACCEPT_MOVING_WRITE_BUFFER
            | SslMode::RELEASE_BUFFERS,
    );
    context.set_read_ahead(true);
}

/// What OpenSSL says, without the places in its source.
fn reason(stack: &ErrorStack) -> String {
    let last = stack.errors().last().and_then(|error| error.reason());
    format!("OpenSSL says: {}", last.unwrap_or("no"))
}

/// Everything but certificates.
fn policy(tls: &Tls) -> Result<SslContextBuilder, String> {
    let wrong = |what: &'static str| move |e: ErrorStack| format!("{what}: {}", reason(&e));
    let mut context = SslContextBuilder::new(SslMethod::tls_server()).map_err(wrong("OpenSSL"))?;
    let version = |version: TlsVersion| match version {
        TlsVersion::Tls12 => SslVersion::TLS1_2,
        TlsVersion::Tls13 => SslVersion::TLS1_3,
    };
    let (first, last) = (tls.versions.iter().min(), tls.versions.iter().max());
    context
        .set_min_proto_version(first.copied().map(version))
        .map_err(wrong("tls_versions"))?;
    context
        .set_max_proto_version(last.copied().map(version))
        .map_err(wrong("tls_versions"))?;
    // Key exchange by RSA is no signature, and what is encrypted by it is read by who gets the key later.
    context
        .set_cipher_list(&format!("{}:!kRSA", tls.cipher_list))
        .map_err(wrong("cipher_list"))?;
    context
        .set_ciphersuites(&tls.cipher_suites)
        .map_err(wrong("cipher_suites"))?;
    context
        .set_groups_list(&tls.groups)
        .map_err(wrong("groups"))?;
    without_waiting(&mut context);
    // Where all ciphers are good Mozilla leaves the choice to the client; scanners ask for an
    // order all the same. Who puts ChaCha20 first has no AES in hardware, and gets it.
    context.set_options(SslOptions::CIPHER_SERVER_PREFERENCE | SslOptions::PRIORITIZE_CHACHA);
    // Sessions are the clients' to keep, in tickets that every worker can read.
    context.set_session_cache_mode(SslSessionCacheMode::OFF);
    use_ticket_keys(&mut context);
    if let Some(client) = &tls.client {
        client::ask(&mut context, client)?;
    }
    context.set_alpn_select_callback(|_, offered| {
        let ours = openssl::ssl::select_next_proto(b"\x08http/1.1", offered);
        ours.filter(|name| *name == b"http/1.1")
            .ok_or(AlpnError::ALERT_FATAL)
    });
    Ok(context)
}

#[cfg(test)]
mod tests;
