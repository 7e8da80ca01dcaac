//! What OpenSSL 3 offers and the crate `openssl` does not: a look into the
//! ClientHello, what lies unread in a connection, and session tickets with keys
//! of our own.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_uint, c_ulong, c_void};

use openssl::rand::rand_bytes;
use openssl::ssl::{SslContextBuilder, SslRef, SslSessionRef};
use openssl::x509::store::X509StoreBuilderRef;
use openssl::x509::{X509CrlRef, X509NameRef};

/// SSL, SSL_CTX and the like: only their addresses are known here.
type Opaque = c_void;

/// One argument of a MAC (params.h): terminated by one without name.
#[repr(C)]
struct Param {
    key: *const c_char,
    data_type: c_uint,
    data: *mut c_void,
    data_size: usize,
    return_size: usize,
}

const PARAM_UTF8: c_uint = 4;
const PARAM_OCTETS: c_uint = 5;

type TicketCallback =
    extern "C" fn(*mut Opaque, *mut u8, *mut u8, *mut Opaque, *mut Opaque, c_int) -> c_int;

type OpenedCallback =
    extern "C" fn(*mut Opaque, *mut Opaque, *const u8, usize, c_int, *mut c_void) -> c_int;

extern "C" {
    fn SSL_has_pending(ssl: *const Opaque) -> c_int;
    fn SSL_set_session_id_context(ssl: *mut Opaque, id: *const u8, len: c_uint) -> c_int;
    fn SSL_set_session(ssl: *mut Opaque, session: *mut Opaque) -> c_int;
    fn SSL_client_hello_get0_ext(
        ssl: *mut Opaque,
        kind: c_uint,
        out: *mut *const u8,
        len: *mut usize,
    ) -> c_int;
    fn SSL_CTX_set_tlsext_ticket_key_evp_cb(
        context: *mut Opaque,
        callback: Option<TicketCallback>,
    ) -> c_int;
    fn X509_STORE_add_crl(store: *mut Opaque, crl: *mut Opaque) -> c_int;
    fn X509_NAME_print_ex(
        out: *mut Opaque,
        name: *const Opaque,
        indent: c_int,
        flags: c_ulong,
    ) -> c_int;
    fn BIO_s_mem() -> *const Opaque;
    fn BIO_new(method: *const Opaque) -> *mut Opaque;
    fn BIO_read(bio: *mut Opaque, to: *mut c_void, len: c_int) -> c_int;
    fn BIO_free(bio: *mut Opaque) -> c_int;
    fn SSL_CTX_set_session_ticket_cb(
        context: *mut Opaque,
        made: Option<extern "C" fn()>,
        opened: Option<OpenedCallback>,
        argument: *mut c_void,
    ) -> c_int;
    fn SSL_SESSION_get0_peer(session: *mut Opaque) -> *mut Opaque;
    fn X509_get0_notAfter(certificate: *const Opaque) -> *const Opaque;
    fn X509_cmp_current_time(time: *const Opaque) -> c_int;
    fn EVP_aes_256_cbc() -> *const Opaque;
    fn EVP_EncryptInit_ex(
        context: *mut Opaque,
        cipher: *const Opaque,
        engine: *mut Opaque,
        key: *const u8,
        iv: *const u8,
    ) -> c_int;
    fn EVP_DecryptInit_ex(
        context: *mut Opaque,
        cipher: *const Opaque,
        engine: *mut Opaque,
        key: *const u8,
        iv: *const u8,
    ) -> c_int;
    fn EVP_MAC_CTX_set_params(context: *mut Opaque, params: *const Param) -> c_int;
}

/// The crate's references are the addresses of OpenSSL's own objects.
fn ssl_of(ssl: &SslRef) -> *mut Opaque {
    std::ptr::from_ref(ssl).cast_mut().cast()
}

/// Bytes that the peer has sent lie in the connection, decrypted or not.
pub fn has_pending(ssl: &SslRef) -> bool {
    // SAFETY: a live connection, only looked at.
    unsafe { SSL_has_pending(ssl_of(ssl)) == 1 }
}

/// Sessions of another context are not resumed: what tells policies and names apart.
pub fn set_session_context(ssl: &mut SslRef, id: &[u8; 32]) {
    // SAFETY: a live connection; 32 bytes, the most that fit, are copied.
    unsafe { SSL_set_session_id_context(ssl_of(ssl), id.as_ptr(), id.len() as c_uint) };
}

/// An extension of the ClientHello that is being looked at, inside its callback.
pub fn client_hello_extension(ssl: &mut SslRef, kind: u16) -> Option<&[u8]> {
    let (mut start, mut len) = (std::ptr::null(), 0);
    // SAFETY: a live connection, and room for the two answers.
    let found =
        unsafe { SSL_client_hello_get0_ext(ssl_of(ssl), c_uint::from(kind), &mut start, &mut len) };
    if found != 1 || start.is_null() {
        return None;
    }
    // SAFETY: OpenSSL says that these bytes are there; they live as long as the ClientHello does, which
    // is longer than the callback that has borrowed `ssl`.
    Some(unsafe { std::slice::from_raw_parts(start, len) })
}

/// The client's side of `ssl` offers to resume that session.
pub fn resume(ssl: &mut SslRef, session: &SslSessionRef) {
    // SAFETY: two live objects of this process; SSL_set_session(3) takes a reference of its own, and refuses a
    // session of another method itself.
    unsafe { SSL_set_session(ssl_of(ssl), std::ptr::from_ref(session).cast_mut().cast()) };
}

/// What this list names is not believed any more by proofs that end in the store.
pub fn add_crl(store: &mut X509StoreBuilderRef, crl: &X509CrlRef) -> bool {
    let store = std::ptr::from_mut(store).cast();
    // SAFETY: two live objects; X509_STORE_add_crl(3) takes a reference of its own to the list.
    unsafe { X509_STORE_add_crl(store, std::ptr::from_ref(crl).cast_mut().cast()) == 1 }
}

/// XN_FLAG_RFC2253 (x509.h).
const RFC2253: c_ulong = 0x111_0317;

/// A name as RFC 4514 writes it: what is not printable ASCII is escaped. `None`: it has
/// more than `most` bytes.
pub fn name_text(name: &X509NameRef, most: usize) -> Option<Vec<u8>> {
    let mut text = vec![0; most + 1];
    // SAFETY: a memory BIO of our own, freed below; the name is only read.
    unsafe {
        let bio = BIO_new(BIO_s_mem());
        if bio.is_null() {
            return None;
        }
        let written = X509_NAME_print_ex(bio, std::ptr::from_ref(name).cast(), 0, RFC2253);
        let len = c_int::try_from(text.len()).unwrap_or(0);
        let read = BIO_read(bio, text.as_mut_ptr().cast(), len);
        BIO_free(bio);
        text.truncate(usize::try_from(read).unwrap_or(0));
        (written >= 0 && text.len() <= most).then_some(text)
    }
}

/// What a ticket is encrypted and sealed with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TicketKey {
    pub name: [u8; 16],
    pub cipher: [u8; 32],
    pub mac: [u8; 32],
}

impl TicketKey {
    /// 160 hexadecimal digits.
    pub fn encode(&self) -> String {
        let parts = [&self.name[..], &self.cipher, &self.mac].concat();
        parts.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub fn decode(text: &str) -> Option<TicketKey> {
        let pair = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..160).step_by(2).map(pair).collect();
        let bytes = bytes.filter(|_| text.len() == 160)?;
        Some(TicketKey {
            name: bytes[..16].try_into().ok()?,
            cipher: bytes[16..48].try_into().ok()?,
            mac: bytes[48..].try_into().ok()?,
        })
    }
}

thread_local! {
    /// New tickets are made with the first one; all are taken.
    static TICKET_KEYS: RefCell<Vec<TicketKey>> = const { RefCell::new(Vec::new()) };
}

/// From now on, for every context of this thread.
pub fn set_ticket_keys(keys: Vec<TicketKey>) {
    TICKET_KEYS.with(|ring| *ring.borrow_mut() = keys);
}

/// Sessions are resumed by tickets under the keys of `set_ticket_keys`.
pub fn use_ticket_keys(context: &mut SslContextBuilder) {
    // SAFETY: a live context; the callback has the type that ssl.h wants and is there for ever.
    unsafe { SSL_CTX_set_tlsext_ticket_key_evp_cb(context.as_ptr().cast(), Some(ticket)) };
}

/// The session of a client whose certificate has expired since is not resumed: a whole
/// handshake looks at what there is now.
pub fn resume_no_expired_peers(context: &mut SslContextBuilder) {
    let none = std::ptr::null_mut();
    // SAFETY: a live context; the callback has the type that ssl.h wants, is there for ever, and uses no argument.
    unsafe {
        SSL_CTX_set_session_ticket_cb(context.as_ptr().cast(), None, Some(opened), none);
    }
}

/// What OpenSSL has found out about a ticket, and what becomes of it (ssl.h): both as
/// without this callback, but for sessions that are over.
const TICKET_SUCCESS: c_int = 5;
const TICKET_SUCCESS_RENEW: c_int = 6;
const IGNORE_RENEW: c_int = 2;
const USE: c_int = 3;
const USE_RENEW: c_int = 4;

extern "C" fn opened(
    _: *mut Opaque,
    session: *mut Opaque,
    _: *const u8,
    _: usize,
    status: c_int,
    _: *mut c_void,
) -> c_int {
    let answer = match status {
        TICKET_SUCCESS => USE,
        TICKET_SUCCESS_RENEW => USE_RENEW,
        _ => return IGNORE_RENEW,
    };
    // SAFETY: after a success the session is there; it and its certificate, if it has one, are only looked at.
    let expired = unsafe {
        let peer = SSL_SESSION_get0_peer(session);
        !peer.is_null() && X509_cmp_current_time(X509_get0_notAfter(peer)) <= 0
    };
    match expired {
        true => IGNORE_RENEW,
        false => answer,
    }
}

/// Answers of a ticket callback: no ticket, an error; it is fine; it is fine, and make a new one.
const NO_TICKET: c_int = 0;
const FAILED: c_int = -1;
const FINE: c_int = 1;
const RENEW: c_int = 2;

extern "C" fn ticket(
    _: *mut Opaque,
    name: *mut u8,
    iv: *mut u8,
    cipher: *mut Opaque,
    mac: *mut Opaque,
    encrypts: c_int,
) -> c_int {
    // SAFETY: SSL_CTX_set_tlsext_ticket_key_evp_cb(3): 16 bytes that are ours until the return.
    let name = unsafe { &mut *name.cast::<[u8; 16]>() };
    // SAFETY: as above; EVP_MAX_IV_LENGTH is 16, as much as AES takes.
    let iv = unsafe { &mut *iv.cast::<[u8; 16]>() };
    let found = TICKET_KEYS.with(|ring| {
        let ring = ring.borrow();
        match encrypts {
            1 => ring.first().map(|key| (*key, FINE)),
            _ => {
                let at = ring.iter().position(|key| key.name == *name)?;
                Some((ring[at], if at == 0 { FINE } else { RENEW }))
            }
        }
    });
    let Some((key, answer)) = found else {
        return NO_TICKET;
    };
    if encrypts == 1 {
        *name = key.name;
        if rand_bytes(iv).is_err() {
            return FAILED;
        }
    }
    if set_up(&key, iv, cipher, mac, encrypts == 1) {
        answer
    } else {
        FAILED
    }
}

fn set_up(
    key: &TicketKey,
    iv: &[u8; 16],
    cipher: *mut Opaque,
    mac: *mut Opaque,
    encrypts: bool,
) -> bool {
    let init = if encrypts {
        EVP_EncryptInit_ex
    } else {
        EVP_DecryptInit_ex
    };
    let none = std::ptr::null_mut();
    // SAFETY: the callback's own cipher context; AES-256 takes the 32 and 16 bytes that key and IV have.
    let ready = unsafe {
        init(
            cipher,
            EVP_aes_256_cbc(),
            none,
            key.cipher.as_ptr(),
            iv.as_ptr(),
        )
    };
    let param = |key: *const c_char, data_type, data: *const u8, data_size| Param {
        key,
        data_type,
        data: data.cast_mut().cast(),
        data_size,
        return_size: 0,
    };
    let params = [
        param(
            c"key".as_ptr(),
            PARAM_OCTETS,
            key.mac.as_ptr(),
            key.mac.len(),
        ),
        param(c"digest".as_ptr(), PARAM_UTF8, c"SHA256".as_ptr().cast(), 6),
        param(std::ptr::null(), 0, std::ptr::null(), 0),
    ];
    // SAFETY: the callback's own MAC context; a list that ends, of bytes that are only read.
    ready == 1 && unsafe { EVP_MAC_CTX_set_params(mac, params.as_ptr()) } == 1
}
