//! Keys whose private half is in another process: OpenSSL knows the public half, and asks for
//! each signature.
//!
//! The only way into OpenSSL 3 that a library without a provider of its own has are its older methods
//! for RSA and EC keys. A key with such a method is "foreign" to it (`evp_pkey_is_foreign`): EVP then does
//! what it did before there were providers, padding of RSA-PSS included, and calls the method for the
//! rest. The method asks the thread's signer. No key is remembered here: what names one is its
//! public half, which OpenSSL hands over with each question.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

use openssl::bn::{BigNumContext, BigNumRef};
use openssl::ec::{EcKey, EcKeyRef, PointConversionForm};
use openssl::error::ErrorStack;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Public};
use openssl::rsa::{Rsa, RsaRef};
use openssl::sha::Sha256;
use openssl::ssl::SslRef;

/// RSA, EC_KEY and the like: only their addresses are known here.
type Opaque = c_void;

/// What is wanted of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RSA over bytes that are padded already, as long as the key.
    RsaRaw,
    /// RSA with the padding of PKCS #1 version 1.5 around a DigestInfo.
    RsaPkcs1,
    /// ECDSA over a digest; the signature is DER.
    Ecdsa,
}

/// SHA-256 of a key's public half: its name.
pub type Name = [u8; 32];

type PrivateEncrypt = extern "C" fn(c_int, *const u8, *mut u8, *mut Opaque, c_int) -> c_int;
type Sign = extern "C" fn(
    c_int,
    *const u8,
    c_int,
    *mut u8,
    *mut c_uint,
    *const Opaque,
    *const Opaque,
    *mut Opaque,
) -> c_int;
type Unused = Option<extern "C" fn()>;

extern "C" {
    fn RSA_get_default_method() -> *const Opaque;
    fn RSA_meth_dup(method: *const Opaque) -> *mut Opaque;
    fn RSA_meth_set1_name(method: *mut Opaque, name: *const c_char) -> c_int;
    fn RSA_meth_set_priv_enc(method: *mut Opaque, call: Option<PrivateEncrypt>) -> c_int;
    fn RSA_meth_set_priv_dec(method: *mut Opaque, call: Option<PrivateEncrypt>) -> c_int;
    fn RSA_set_method(rsa: *mut Opaque, method: *const Opaque) -> c_int;
    fn EC_KEY_OpenSSL() -> *const Opaque;
    fn EC_KEY_METHOD_new(method: *const Opaque) -> *mut Opaque;
    fn EC_KEY_METHOD_set_sign(
        method: *mut Opaque,
        sign: Option<Sign>,
        set_up: Unused,
        sign_sig: Unused,
    );
    fn EC_KEY_set_method(key: *mut Opaque, method: *const Opaque) -> c_int;
    fn SSL_use_PrivateKey(ssl: *mut Opaque, key: *mut Opaque) -> c_int;
}

/// RSA_PKCS1_PADDING and RSA_NO_PADDING (rsa.h).
const PKCS1_PADDING: c_int = 1;
const NO_PADDING: c_int = 3;
/// What a method returns that has not signed.
const FAILED_RSA: c_int = -1;
const FAILED_EC: c_int = 0;

type Signer = Box<dyn FnMut(&Name, Kind, &[u8]) -> Option<Vec<u8>>>;

thread_local! {
    static SIGNER: RefCell<Option<Signer>> = const { RefCell::new(None) };
}

/// From now on this thread's delegated keys sign by it. `None` is its refusal: the handshake fails.
pub fn set_signer(signer: impl FnMut(&Name, Kind, &[u8]) -> Option<Vec<u8>> + 'static) {
    SIGNER.with(|place| *place.borrow_mut() = Some(Box::new(signer)));
}

fn ask(name: &Name, kind: Kind, bytes: &[u8]) -> Option<Vec<u8>> {
    // Nobody signs while he signs: a second question would be a refusal, not a panic.
    SIGNER.with(|place| place.try_borrow_mut().ok()?.as_mut()?(name, kind, bytes))
}

fn name_of_parts(parts: &[&[u8]]) -> Name {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finish()
}

fn rsa_name<T: HasPublic>(key: &RsaRef<T>) -> Name {
    let bytes = |number: &BigNumRef| number.to_vec();
    name_of_parts(&[b"rsa", &bytes(key.n()), &bytes(key.e())])
}

fn ec_name<T: HasPublic>(key: &EcKeyRef<T>) -> Result<Name, ErrorStack> {
    let curve = key.group().curve_name().map_or(0, |nid| nid.as_raw());
    let mut context = BigNumContext::new()?;
    let form = PointConversionForm::UNCOMPRESSED;
    let point = key.public_key().to_bytes(key.group(), form, &mut context)?;
    Ok(name_of_parts(&[b"ec", &curve.to_be_bytes(), &point]))
}

/// What a key is called, by whoever has either half. `None`: one of another kind than RSA and EC.
pub fn name_of<T: HasPublic>(key: &PKeyRef<T>) -> Option<Name> {
    match key.id() {
        Id::RSA => Some(rsa_name(&*key.rsa().ok()?)),
        Id::EC => ec_name(&*key.ec_key().ok()?).ok(),
        _ => None,
    }
}

thread_local! {
    /// Names of the delegated keys of this thread, by their address: to find one out takes as long as asking for the
    /// signature. A handshake may outlive its `Delegated`; then it is found out again.
    static NAMES: RefCell<HashMap<usize, Name>> = RefCell::default();
}

fn known_name(key: *const Opaque) -> Option<Name> {
    NAMES.with(|names| names.borrow().get(&key.addr()).copied())
}

/// A key that can be shown in a handshake, and signs by the thread's signer.
pub struct Delegated {
    key: PKey<Public>,
    /// Of the RSA or EC key in it.
    address: usize,
}

impl Drop for Delegated {
    /// Before the address can be another one's.
    fn drop(&mut self) {
        NAMES.with(|names| names.borrow_mut().remove(&self.address));
    }
}

impl Delegated {
    /// `None`: a key of another kind, or OpenSSL has no memory.
    pub fn new(public: &PKeyRef<Public>) -> Option<Delegated> {
        let name = name_of(public)?;
        // The method comes first: EVP looks once whether a key is foreign.
        let (key, address) = match public.id() {
            Id::RSA => {
                let known = public.rsa().ok()?;
                let copy = |number: &BigNumRef| number.to_owned().ok();
                let rsa = Rsa::from_public_components(copy(known.n())?, copy(known.e())?).ok()?;
                // SAFETY: a live key that nobody else has; the method is there for ever. The crate's references
                // are the addresses of OpenSSL's own objects.
                let set = unsafe { RSA_set_method(address(&*rsa), rsa_method()?.0) };
                (set == 1).then_some(())?;
                let address = address(&*rsa).addr();
                (PKey::from_rsa(rsa).ok()?, address)
            }
            Id::EC => {
                let known = public.ec_key().ok()?;
                let ec = EcKey::from_public_key(known.group(), known.public_key()).ok()?;
                // SAFETY: as above.
                let set = unsafe { EC_KEY_set_method(address(&*ec), ec_method()?.0) };
                (set == 1).then_some(())?;
                let address = address(&*ec).addr();
                (PKey::from_ec_key(ec).ok()?, address)
            }
            _ => return None,
        };
        NAMES.with(|names| names.borrow_mut().insert(address, name));
        Some(Delegated { key, address })
    }

    pub fn id(&self) -> Id {
        self.key.id()
    }

    /// As `SslRef::set_private_key`: after the certificate that it belongs to.
    pub fn hand_to(&self, ssl: &mut SslRef) -> Result<(), ErrorStack> {
        // SAFETY: two live objects; SSL_use_PrivateKey(3) takes a reference of its own to the key.
        match unsafe { SSL_use_PrivateKey(address(ssl), address(&*self.key)) } {
            1 => Ok(()),
            _ => Err(ErrorStack::get()),
        }
    }
}

/// The crate's references are the addresses of OpenSSL's own objects.
fn address<T>(of: &T) -> *mut Opaque {
    std::ptr::from_ref(of).cast_mut().cast()
}

/// A method: made once, the same for all keys, never freed.
struct Method(*mut Opaque);

// SAFETY: nothing changes a method once it is made.
unsafe impl Send for Method {}
// SAFETY: as above.
unsafe impl Sync for Method {}

fn rsa_method() -> Option<&'static Method> {
    static METHOD: OnceLock<Option<Method>> = OnceLock::new();
    let make = || {
        // SAFETY: a copy of OpenSSL's own method, which is ours; the name is a terminated string, and copied;
        // the calls have the types that rsa.h wants and are there for ever.
        unsafe {
            let method = RSA_meth_dup(RSA_get_default_method());
            let made = !method.is_null()
                && RSA_meth_set1_name(method, c"delegated".as_ptr()) == 1
                && RSA_meth_set_priv_enc(method, Some(sign_rsa)) == 1
                && RSA_meth_set_priv_dec(method, Some(decrypt_rsa)) == 1;
            made.then_some(Method(method))
        }
    };
    METHOD.get_or_init(make).as_ref()
}

fn ec_method() -> Option<&'static Method> {
    static METHOD: OnceLock<Option<Method>> = OnceLock::new();
    let make = || {
        // SAFETY: a copy of OpenSSL's own method, which is ours; the call has the type that ec.h wants and is
        // there for ever. Who wants the two others is refused by OpenSSL: they are not there.
        unsafe {
            let method = EC_KEY_METHOD_new(EC_KEY_OpenSSL());
            if method.is_null() {
                return None;
            }
            EC_KEY_METHOD_set_sign(method, Some(sign_ec), None, None);
            Some(Method(method))
        }
    };
    METHOD.get_or_init(make).as_ref()
}

/// What lies behind a pointer and a length that OpenSSL hands to a method.
// SAFETY: who calls this promises that so many bytes are there, for as long as the method runs.
unsafe fn bytes<'a>(from: *const u8, len: c_int) -> Option<&'a [u8]> {
    let len = usize::try_from(len).ok().filter(|_| !from.is_null())?;
    // SAFETY: the caller's promise.
    Some(unsafe { std::slice::from_raw_parts(from, len) })
}

extern "C" fn sign_rsa(
    len: c_int,
    from: *const u8,
    to: *mut u8,
    rsa: *mut Opaque,
    padding: c_int,
) -> c_int {
    let kind = match padding {
        PKCS1_PADDING => Kind::RsaPkcs1,
        NO_PADDING => Kind::RsaRaw,
        _ => return FAILED_RSA,
    };
    // SAFETY: RSA_meth_set_priv_enc(3): a live key, and `len` bytes at `from`.
    let (key, asked) = unsafe {
        (
            &*rsa.cast_const().cast::<RsaRef<Public>>(),
            bytes(from, len),
        )
    };
    if to.is_null() {
        return FAILED_RSA;
    }
    let size = key.size() as usize;
    let name = known_name(rsa).unwrap_or_else(|| rsa_name(key));
    let signed = asked.and_then(|asked| ask(&name, kind, asked));
    let Some(signed) = signed.filter(|signed| signed.len() == size) else {
        return FAILED_RSA;
    };
    // SAFETY: as above: at `to` there is room for as many bytes as the key has.
    unsafe { std::ptr::copy_nonoverlapping(signed.as_ptr(), to, size) };
    size as c_int
}

/// Key exchange by RSA is no signature: nobody decrypts with a key that is elsewhere.
extern "C" fn decrypt_rsa(_: c_int, _: *const u8, _: *mut u8, _: *mut Opaque, _: c_int) -> c_int {
    FAILED_RSA
}

extern "C" fn sign_ec(
    _: c_int,
    digest: *const u8,
    len: c_int,
    to: *mut u8,
    size: *mut c_uint,
    _: *const Opaque,
    _: *const Opaque,
    ec: *mut Opaque,
) -> c_int {
    // SAFETY: EC_KEY_METHOD_set_sign(3): a live key, and `len` bytes at `digest`.
    let (key, asked) = unsafe {
        (
            &*ec.cast_const().cast::<EcKeyRef<Public>>(),
            bytes(digest, len),
        )
    };
    if to.is_null() || size.is_null() {
        return FAILED_EC;
    }
    let name = known_name(ec).or_else(|| ec_name(key).ok());
    let signed = name
        .zip(asked)
        .and_then(|(name, asked)| ask(&name, Kind::Ecdsa, asked));
    let Some(signed) = signed.filter(|signed| signed.len() <= most_bytes(key)) else {
        return FAILED_EC;
    };
    // SAFETY: as above: at `to` there is room for ECDSA_size bytes, which is not less than what was looked at; `size` is
    // where their number goes.
    unsafe {
        std::ptr::copy_nonoverlapping(signed.as_ptr(), to, signed.len());
        *size = signed.len() as c_uint;
    }
    1
}

/// A signature in DER: a sequence of two numbers, each with one byte of sign at most. For curves of up
/// to 384 bits this is ECDSA_size(3).
fn most_bytes(key: &EcKeyRef<Public>) -> usize {
    let number = key.group().order_bits() as usize / 8 + 1;
    2 + 2 * (2 + number)
}

#[cfg(test)]
mod tests;
