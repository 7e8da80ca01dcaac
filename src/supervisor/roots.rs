//! The certificates that the system trusts: opened here, read by workers, who see no files.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where OpenSSL looks, if it is set.
const VARIABLE: &str = "SSL_CERT_FILE";
/// Where distributions keep all of them in one file.
const PLACES: [&str; 5] = [
    // Debian, Arch, Alpine.
    "/etc/ssl/certs/ca-certificates.crt",
    // Fedora and its relatives.
    "/etc/pki/tls/certs/ca-bundle.crt",
    // openSUSE.
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/ssl/cert.pem",
];

/// As it is now. A worker reads it when a cluster needs it first.
pub fn open() -> Option<OwnedFd> {
    let places = match std::env::var_os(VARIABLE) {
        Some(place) => vec![PathBuf::from(place)],
        None => PLACES.iter().map(PathBuf::from).collect(),
    };
    let files = places.into_iter().filter(|place| place.is_file());
    files.flat_map(File::open).map(OwnedFd::from).next()
}
