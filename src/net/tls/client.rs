//! Certificates of clients: who is let in, and what a backend is told of him.

use std::rc::Rc;

use openssl::base64::encode_block;
use openssl::error::ErrorStack;
use openssl::ssl::{SslContextBuilder, SslRef, SslVerifyMode};
use openssl::x509::store::{X509Store, X509StoreBuilder};
use openssl::x509::verify::X509VerifyFlags;
use openssl::x509::{X509Ref, X509StoreContextRef, X509VerifyResult, X509};

use crate::certificate::each_crl;
use crate::limits::{
    CLIENT_CERTIFICATE_BYTES_MAX, CLIENT_CHAIN_DEPTH_MAX, CLIENT_SUBJECT_BYTES_MAX,
};
use crate::state::ClientAuth;
use crate::sys::ssl::{add_crl, name_text, resume_no_expired_peers};

/// From now on clients are asked for a certificate. One that proves nothing ends the handshake
/// even where none is required: who shows one wants to be known by it.
pub fn ask(context: &mut SslContextBuilder, client: &ClientAuth) -> Result<(), String> {
    let mut mode = SslVerifyMode::PEER;
    if client.required {
        mode |= SslVerifyMode::FAIL_IF_NO_PEER_CERT;
    }
    let mut set = || -> Result<(), ErrorStack> {
        // Browsers choose among their certificates by these names.
        for authority in X509::stack_from_pem(client.ca.as_bytes())? {
            context.add_client_ca(&authority)?;
        }
        // Not the context's own store, from which OpenSSL would complete the chains that we send.
        context.set_verify_cert_store(store(client)?)?;
        context.set_verify_depth(CLIENT_CHAIN_DEPTH_MAX);
        context.set_verify_callback(mode, can_be_told);
        resume_no_expired_peers(context);
        Ok(())
    };
    set().map_err(|e| format!("client_ca: {}", super::reason(&e)))
}

/// What an operator gives ends a proof whether it is a root or not.
fn store(client: &ClientAuth) -> Result<X509Store, ErrorStack> {
    let mut store = X509StoreBuilder::new()?;
    store.set_flags(X509VerifyFlags::PARTIAL_CHAIN)?;
    for authority in X509::stack_from_pem(client.ca.as_bytes())? {
        store.add_cert(authority)?;
    }
    if let Some(crl) = &client.crl {
        store.set_flags(X509VerifyFlags::PARTIAL_CHAIN | X509VerifyFlags::CRL_CHECK)?;
        // They were parsed when they were read.
        for one in each_crl(&crl.pem).unwrap_or_default() {
            if !add_crl(&mut store, &one) {
                return Err(ErrorStack::get());
            }
        }
    }
    Ok(store.build())
}

const TOO_LONG: &str = "the certificate of a client is longer than a backend can be told";

/// One step of a proof, from its end to the client's own certificate.
fn can_be_told(fine: bool, proof: &mut X509StoreContextRef) -> bool {
    let own = proof.error_depth() == 0;
    if fine && own && proof.current_cert().and_then(fields).is_none() {
        log::debug!("{TOO_LONG}");
        proof.set_error(X509VerifyResult::APPLICATION_VERIFICATION);
        return false;
    }
    fine
}

/// What a backend is told of the client at the other end, as whole field lines; nothing where
/// nobody is asked. An error: there is more to tell than fits.
pub fn identity(ssl: &SslRef) -> Result<Option<Rc<[u8]>>, &'static str> {
    if ssl.verify_mode() == SslVerifyMode::NONE {
        return Ok(None);
    }
    let told = match ssl.peer_certificate() {
        None => Some(b"X-SSL-Client-Verify: NONE\r\n".to_vec()),
        Some(certificate) => fields(&certificate),
    };
    told.map(|told| Some(told.into())).ok_or(TOO_LONG)
}

/// RFC 9440 section 2.2, and the subject as RFC 4514 writes it.
fn fields(certificate: &X509Ref) -> Option<Vec<u8>> {
    let der = certificate.to_der().ok()?;
    if der.len() > CLIENT_CERTIFICATE_BYTES_MAX {
        return None;
    }
    let mut subject = name_text(certificate.subject_name(), CLIENT_SUBJECT_BYTES_MAX)?;
    if subject.ends_with(b"\\ ") {
        // A space at the end would be lost with those around a field's value.
        subject.pop();
        subject.extend_from_slice(b"20");
    }
    let printable = subject.iter().all(|byte| (b' '..=b'~').contains(byte));
    let der = encode_block(&der);
    printable.then(|| {
        let parts = [
            b"Client-Cert: :",
            der.as_bytes(),
            b":\r\nX-SSL-Client-S-DN: ",
            &subject,
            b"\r\nX-SSL-Client-Verify: SUCCESS\r\n",
        ];
        parts.concat()
    })
}
