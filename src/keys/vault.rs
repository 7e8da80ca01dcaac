//! The private keys, and what they sign.
//!
//! Nothing but signatures: a padded block is signed only if the padding is that of a signature (RSA-PSS), and is padded
//! here only around a digest and its name. With bytes of his choice around which this pads, an attacker
//! would decrypt what was encrypted to the key: two questions are enough. A key never leaves.

use std::collections::HashMap;

use openssl::ec::EcKey;
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::{Padding, Rsa};
use openssl::sha::{sha256, sha384, sha512};

use crate::sys::delegated::{name_of, Kind, Name};

enum Secret {
    Rsa(Rsa<Private>),
    Ec(EcKey<Private>),
}

#[derive(Default)]
pub struct Vault {
    /// By certificate, what the key is called.
    names: HashMap<String, Name>,
    keys: HashMap<Name, Secret>,
}

/// Lengths of the digests that TLS signs by ECDSA: SHA-256, SHA-384, SHA-512.
const DIGEST_BYTES: [usize; 3] = [32, 48, 64];

impl Vault {
    /// The key of a certificate. An error is a sentence.
    pub fn add(&mut self, certificate: &str, pem: &str) -> Result<(), String> {
        let unread = |e: ErrorStack| format!("the key of certificate {certificate}: {e}");
        let key = PKey::private_key_from_pem_passphrase(pem.as_bytes(), b"").map_err(unread)?;
        let odd = || format!("the key of certificate {certificate} is neither RSA nor ECDSA");
        let name = name_of(&key).ok_or_else(odd)?;
        let secret = match key.id() {
            Id::RSA => Secret::Rsa(key.rsa().map_err(unread)?),
            _ => Secret::Ec(key.ec_key().map_err(unread)?),
        };
        self.names.insert(certificate.to_string(), name);
        self.keys.insert(name, secret);
        Ok(())
    }

    /// The certificate is shown no more. Another one may have the same key.
    pub fn forget(&mut self, certificate: &str) {
        if let Some(name) = self.names.remove(certificate) {
            if !self.names.values().any(|other| *other == name) {
                self.keys.remove(&name);
            }
        }
    }

    pub fn has(&self, name: &Name) -> bool {
        self.keys.contains_key(name)
    }

    /// `None`: it is refused.
    pub fn sign(&self, name: &Name, kind: Kind, bytes: &[u8]) -> Option<Vec<u8>> {
        let signed = match (self.keys.get(name)?, kind) {
            (Secret::Rsa(key), Kind::RsaPkcs1) if is_digest_info(bytes) => {
                rsa(key, bytes, Padding::PKCS1)
            }
            (Secret::Rsa(key), Kind::RsaRaw) if is_pss(bytes, key) => {
                rsa(key, bytes, Padding::NONE)
            }
            (Secret::Ec(key), Kind::Ecdsa) if DIGEST_BYTES.contains(&bytes.len()) => {
                EcdsaSig::sign(bytes, key).and_then(|signed| signed.to_der())
            }
            _ => return None,
        };
        if signed.is_err() {
            // Why not stays in the queue, where it would be taken for an error of who comes next.
            let _ = ErrorStack::get();
        }
        signed.ok()
    }
}

fn rsa(key: &Rsa<Private>, bytes: &[u8], padding: Padding) -> Result<Vec<u8>, ErrorStack> {
    let mut signed = vec![0; key.size() as usize];
    let len = key.private_encrypt(bytes, &mut signed, padding)?;
    signed.truncate(len);
    Ok(signed)
}

/// How what is signed begins by PKCS #1 version 1.5 (RFC 8017, section 9.2, note 1): for SHA-256, SHA-384 and
/// SHA-512 alike but for the lengths and the last number of the name.
fn is_digest_info(bytes: &[u8]) -> bool {
    [(32, 1), (48, 2), (64, 3)].iter().any(|(len, number)| {
        let algorithm = [0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, *number, 5, 0];
        let head = [&[0x30, 17 + len, 0x30, 13][..], &algorithm, &[4, *len]].concat();
        bytes.len() == head.len() + usize::from(*len) && bytes.starts_with(&head)
    })
}

/// Whether it is the padding of RSA-PSS (RFC 8017, section 9.1) around some digest, with a salt as long as
/// the digest is, as TLS has it (RFC 8446, section 4.2.3). What was encrypted to the key is not, but by a
/// chance of one in 2^800.
fn is_pss(block: &[u8], key: &Rsa<Private>) -> bool {
    let bits = usize::try_from(key.n().num_bits()).unwrap_or(0);
    type Digest = fn(&[u8]) -> Vec<u8>;
    let digests: [(usize, Digest); 3] = [
        (32, |bytes| sha256(bytes).to_vec()),
        (48, |bytes| sha384(bytes).to_vec()),
        (64, |bytes| sha512(bytes).to_vec()),
    ];
    block.len() == bits.div_ceil(8)
        && digests.iter().any(|(len, digest)| {
            pss_with(block, bits.saturating_sub(1), *len, digest) == Some(true)
        })
}

/// The same for one digest, whose length it is, and a block of so many bits. `None`: there is no room for one.
fn pss_with(
    block: &[u8],
    bits: usize,
    len: usize,
    digest: &dyn Fn(&[u8]) -> Vec<u8>,
) -> Option<bool> {
    let (above, encoded) = block.split_at_checked(block.len().checked_sub(bits.div_ceil(8))?)?;
    let (masked, rest) = encoded.split_at_checked(encoded.len().checked_sub(len + 1)?)?;
    let (hash, trailer) = rest.split_at_checked(len)?;
    let mut data = masked.to_vec();
    for (counter, piece) in (0u32..).zip(data.chunks_mut(len)) {
        let mask = digest(&[hash, &counter.to_be_bytes()].concat());
        piece
            .iter_mut()
            .zip(mask)
            .for_each(|(byte, mask)| *byte ^= mask);
    }
    // Of the first byte only the lower bits are the block's.
    let unused = 8 * encoded.len() - bits;
    let (first, used) = (masked.first()?, 0xff_u8.checked_shr(unused as u32)?);
    *data.first_mut()? &= used;
    let zeroes = data.len().checked_sub(len + 1)?;
    Some(
        above.iter().all(|byte| *byte == 0)
            && first & !used == 0
            && trailer == [0xbc]
            && data.get(..zeroes)?.iter().all(|byte| *byte == 0)
            && data.get(zeroes) == Some(&1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SIGNATURE_BYTES_MAX;
    use crate::random::Random;
    use openssl::ec::EcGroup;
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::rsa::Padding;
    use openssl::sign::{RsaPssSaltlen, Signer};

    fn pem(key: &PKey<Private>) -> String {
        String::from_utf8(key.private_key_to_pem_pkcs8().expect("PEM")).expect("text")
    }

    fn rsa_key(bits: u32) -> PKey<Private> {
        PKey::from_rsa(Rsa::generate(bits).expect("a key")).expect("a key")
    }

    fn ec_key() -> PKey<Private> {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("a curve");
        PKey::from_ec_key(EcKey::generate(&group).expect("a key")).expect("a key")
    }

    /// The block that OpenSSL makes for a signature: what comes out of it with the public key.
    fn padded(key: &PKey<Private>, digest: MessageDigest) -> Vec<u8> {
        let mut signer = Signer::new(digest, key).expect("a signer");
        signer.set_rsa_padding(Padding::PKCS1_PSS).expect("set");
        let salt = RsaPssSaltlen::DIGEST_LENGTH;
        signer.set_rsa_pss_saltlen(salt).expect("set");
        let signed = signer
            .sign_oneshot_to_vec(b"what is signed")
            .expect("signed");
        opened(key, &signed, Padding::NONE)
    }

    /// What was signed, without that padding.
    fn opened(key: &PKey<Private>, signed: &[u8], padding: Padding) -> Vec<u8> {
        let rsa = key.rsa().expect("RSA");
        let mut block = vec![0; rsa.size() as usize];
        let len = rsa.public_decrypt(signed, &mut block, padding);
        block.truncate(len.expect("a block"));
        block
    }

    fn digests() -> [MessageDigest; 3] {
        [
            MessageDigest::sha256(),
            MessageDigest::sha384(),
            MessageDigest::sha512(),
        ]
    }

    #[test]
    fn what_is_padded_for_a_signature_and_nothing_else() {
        let mut vault = Vault::default();
        // 2049 bits: the padded block is a byte shorter than the key.
        for bits in [2048, 2049, 3072] {
            let key = rsa_key(bits);
            vault.add("a", &pem(&key)).expect("a key");
            let name = name_of(&key).expect("a name");
            for digest in digests() {
                let block = padded(&key, digest);
                assert!(vault.sign(&name, Kind::RsaRaw, &block).is_some(), "{bits}");
                for at in [0, 9, block.len() - 2, block.len() - 1] {
                    let mut other = block.clone();
                    other[at] ^= 1;
                    assert_eq!(vault.sign(&name, Kind::RsaRaw, &other), None, "{at}");
                }
                assert_eq!(vault.sign(&name, Kind::RsaRaw, &block[1..]), None);
            }
            // What was encrypted to it.
            let rsa = key.rsa().expect("RSA");
            let mut secret = vec![0; rsa.size() as usize];
            rsa.public_encrypt(b"secret", &mut secret, Padding::PKCS1)
                .expect("encrypted");
            assert_eq!(vault.sign(&name, Kind::RsaRaw, &secret), None);
        }
    }

    #[test]
    fn what_is_padded_here_is_a_digest_with_its_name() {
        let mut vault = Vault::default();
        let key = rsa_key(2048);
        vault.add("a", &pem(&key)).expect("a key");
        let name = name_of(&key).expect("a name");
        for digest in digests() {
            // What OpenSSL itself makes of it.
            let mut signer = Signer::new(digest, &key).expect("a signer");
            let expected = signer.sign_oneshot_to_vec(b"x").expect("signed");
            let info = opened(&key, &expected, Padding::PKCS1);
            let signed = vault.sign(&name, Kind::RsaPkcs1, &info);
            assert_eq!(signed.as_ref(), Some(&expected));
            for at in 0..info.len() - digest.size() {
                let mut other = info.clone();
                other[at] ^= 1;
                assert_eq!(vault.sign(&name, Kind::RsaPkcs1, &other), None, "{at}");
            }
            let longer = [&info[..], b"x"].concat();
            for other in [&longer, &info[1..], &info[..info.len() - 1], b""] {
                assert_eq!(vault.sign(&name, Kind::RsaPkcs1, other), None);
            }
        }
    }

    #[test]
    fn a_key_is_there_as_long_as_a_certificate_has_it() {
        let mut vault = Vault::default();
        let key = ec_key();
        let name = name_of(&key).expect("a name");
        let digest = sha256(b"x");
        vault.add("old", &pem(&key)).expect("a key");
        vault.add("new", &pem(&key)).expect("a key");
        vault.forget("old");
        assert!(vault.sign(&name, Kind::Ecdsa, &digest).is_some());
        vault.forget("unknown");
        vault.forget("new");
        assert!(!vault.has(&name));
        assert_eq!(vault.sign(&name, Kind::Ecdsa, &digest), None);
        assert!(vault.add("bad", "nonsense").is_err());
        let odd = PKey::generate_ed25519().expect("a key");
        let what = vault.add("odd", &pem(&odd)).expect_err("a wrong kind");
        assert_eq!(what, "the key of certificate odd is neither RSA nor ECDSA");
        let _ = ErrorStack::get();
    }

    /// Bytes of any length, for each kind, with keys of both.
    #[test]
    fn whatever_is_asked_is_signed_or_refused() {
        let mut vault = Vault::default();
        let keys = [rsa_key(2048), ec_key()];
        let names: Vec<Name> = keys.iter().filter_map(|key| name_of(&**key)).collect();
        for (at, key) in keys.iter().enumerate() {
            vault.add(&at.to_string(), &pem(key)).expect("a key");
        }
        let mut random = Random::new(3);
        for _ in 0..500 {
            let len = match random.below(2) {
                0 => random.below(70),
                _ => random.below(SIGNATURE_BYTES_MAX as u64),
            };
            let bytes: Vec<u8> = (0..len).map(|_| random.below(256) as u8).collect();
            for name in names.iter().chain([&[0; 32]]) {
                assert_eq!(vault.sign(name, Kind::RsaRaw, &bytes), None);
                assert_eq!(vault.sign(name, Kind::RsaPkcs1, &bytes), None);
                let signed = vault.sign(name, Kind::Ecdsa, &bytes).is_some();
                let may = *name == names[1] && [32, 48, 64].contains(&bytes.len());
                assert_eq!(signed, may, "{}", bytes.len());
                assert_eq!(ErrorStack::get().errors().len(), 0);
            }
        }
    }
}
