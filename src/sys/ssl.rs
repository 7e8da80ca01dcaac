//! What OpenSSL 3 offers and the crate `openssl` does not: a look into the
//! ClientHello, what lies unread in a connection, and session tickets with keys
//! of our own.

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_uint, c_void};

use openssl::rand::rand_bytes;
use openssl::ssl::{SslContextBuilder, SslRef, SslSessionRef};

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
