//! Passwords against the hashes of a password file: SHA-crypt, `$5$` and `$6$`.
//!
//! Owns: Ulrich Drepper's "Unix crypt using SHA-256 and SHA-512", as `openssl passwd -6`,
//! `mkpasswd` and `htpasswd -5` write it. Hashing is slow on purpose: who calls `fits` says
//! how often (`http::basic_auth`). Never prints a hash.

use openssl::sha::{Sha256, Sha512};

use crate::limits::{CRYPT_ROUNDS_MAX, PASSWORD_BYTES_MAX};

/// Rounds of a hash that does not say how many.
const ROUNDS_DEFAULT: u32 = 5000;
const ROUNDS_MIN: u32 = 1000;
/// Longer salts are cut by who makes a hash, so none is stored.
const SALT_BYTES_MAX: usize = 16;
/// The digits of its numbers, the least first.
const DIGITS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Method {
    Sha256,
    Sha512,
}

/// What is stored of a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Hash {
    method: Method,
    rounds: u32,
    salt: Box<[u8]>,
    /// The digest, in digits.
    digest: Box<[u8]>,
}

impl Hash {
    /// `$6$salt$digest` or `$6$rounds=N$salt$digest`; an error quotes nothing of it.
    pub fn parse(text: &str) -> Result<Hash, String> {
        let mut parts = text.split('$');
        let method = match (parts.next(), parts.next()) {
            (Some(""), Some("5")) => Method::Sha256,
            (Some(""), Some("6")) => Method::Sha512,
            (Some(""), Some(name)) => return Err(other(name)),
            _ => return Err(other("")),
        };
        let mut next = || parts.next().ok_or("is not whole: it is $6$SALT$DIGEST");
        let (mut salt, mut rounds) = (next()?, ROUNDS_DEFAULT);
        if let Some(given) = salt.strip_prefix("rounds=") {
            rounds = given.parse().unwrap_or(0);
            salt = next()?;
        }
        let digest = next()?;
        if !(ROUNDS_MIN..=CRYPT_ROUNDS_MAX).contains(&rounds) {
            return Err(format!("has no rounds from {ROUNDS_MIN} to {CRYPT_ROUNDS_MAX}: more would keep a worker from everybody else"));
        }
        let digits = |text: &str| text.bytes().all(|byte| DIGITS.contains(&byte));
        let length = method.digits();
        if parts.next().is_some() || digest.len() != length || !digits(digest) {
            return Err(format!("does not end with {length} digits of a digest"));
        }
        if salt.len() > SALT_BYTES_MAX || !salt.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(format!("has a salt of more than {SALT_BYTES_MAX} bytes"));
        }
        Ok(Hash {
            method,
            rounds,
            salt: salt.as_bytes().into(),
            digest: digest.as_bytes().into(),
        })
    }

    /// What it costs to look whether a password fits.
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// Whether it was made of this password. Takes microseconds for every round; its time says
    /// nothing about how much of the digest is right.
    pub fn fits(&self, password: &[u8]) -> bool {
        // The cost grows with the length.
        if password.len() > PASSWORD_BYTES_MAX {
            return false;
        }
        let digest = self.method.crypt(password, &self.salt, self.rounds);
        digest.len() == self.digest.len() && openssl::memcmp::eq(&digest, &self.digest)
    }

    /// A short stand-in for this hash with this password, different for every key.
    pub fn trace(&self, password: &[u8], key: &[u8; 32]) -> [u8; 32] {
        let mut sha = Sha256::new();
        sha.update(key);
        // Of fixed length for its method, so that nothing runs into the next.
        sha.update(&self.digest);
        sha.update(&(self.salt.len() as u64).to_be_bytes());
        sha.update(&self.salt);
        sha.update(password);
        sha.finish()
    }
}

/// SHA-256 in hexadecimal: what a text is known by where it is not shown.
pub fn fingerprint(text: &str) -> String {
    let digest = openssl::sha::sha256(text.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn other(name: &str) -> String {
    let what = match name {
        "apr1" | "1" => "is MD5, which is too weak",
        "2a" | "2b" | "2y" => "is bcrypt, which is not supported",
        "y" | "7" | "gy" => "is yescrypt, which is not supported",
        _ => "is no hash that is known here",
    };
    format!("{what}: make one with openssl passwd -6 or htpasswd -5")
}

impl Method {
    fn bytes(self) -> usize {
        match self {
            Method::Sha256 => 32,
            Method::Sha512 => 64,
        }
    }

    /// Six bits each.
    fn digits(self) -> usize {
        (self.bytes() * 8).div_ceil(6)
    }

    fn sha(self) -> Sha {
        match self {
            Method::Sha256 => Sha::Sha256(Sha256::new()),
            Method::Sha512 => Sha::Sha512(Sha512::new()),
        }
    }

    /// The digits of the digest.
    fn crypt(self, password: &[u8], salt: &[u8], rounds: u32) -> Vec<u8> {
        let mut b = self.sha();
        b.update(password).update(salt).update(password);
        let b = b.finish();
        let mut a = self.sha();
        a.update(password).update(salt);
        a.repeat(&b, password.len());
        let mut bits = password.len();
        while bits > 0 {
            a.update(if bits & 1 == 1 { &b } else { password });
            bits >>= 1;
        }
        let mut a = a.finish();
        let stretched = |text: &[u8], times: usize| {
            let mut sha = self.sha();
            (0..times).for_each(|_| _ = sha.update(text));
            let digest = sha.finish();
            let bytes = digest.iter().cycle().copied();
            bytes.take(text.len()).collect::<Vec<u8>>()
        };
        let p = stretched(password, password.len());
        let times = 16 + a.first().map_or(0, |byte| usize::from(*byte));
        let s = stretched(salt, times);
        for round in 0..rounds {
            let (first, last) = match round % 2 {
                0 => (&a, &p),
                _ => (&p, &a),
            };
            let mut c = self.sha();
            c.update(first);
            if round % 3 != 0 {
                c.update(&s);
            }
            if round % 7 != 0 {
                c.update(&p);
            }
            c.update(last);
            a = c.finish();
        }
        self.spell(&a)
    }

    /// Bytes a third of the digest apart make four digits; which comes first goes round.
    fn spell(self, digest: &[u8]) -> Vec<u8> {
        let byte = |at: usize| u32::from(digest.get(at).copied().unwrap_or(0));
        let third = digest.len() / 3;
        let mut text = Vec::with_capacity(self.digits());
        let mut put = |bytes: [u32; 3], digits: usize| {
            let mut bits = bytes[0] << 16 | bytes[1] << 8 | bytes[2];
            for _ in 0..digits {
                text.push(DIGITS[(bits & 63) as usize]);
                bits >>= 6;
            }
        };
        for row in 0..third {
            let mut bytes = [byte(row), byte(row + third), byte(row + 2 * third)];
            match self {
                Method::Sha256 => bytes.rotate_right(row % 3),
                Method::Sha512 => bytes.rotate_left(row % 3),
            }
            put(bytes, 4);
        }
        match self {
            Method::Sha256 => put([0, byte(31), byte(30)], 3),
            Method::Sha512 => put([0, 0, byte(63)], 2),
        }
        text
    }
}

enum Sha {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Sha {
    fn update(&mut self, bytes: &[u8]) -> &mut Sha {
        match self {
            Sha::Sha256(sha) => sha.update(bytes),
            Sha::Sha512(sha) => sha.update(bytes),
        }
        self
    }

    /// As many bytes as are asked for, of one text again and again.
    fn repeat(&mut self, text: &[u8], mut count: usize) {
        while count > 0 {
            let part = text.get(..count).unwrap_or(text);
            self.update(part);
            count -= part.len();
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Sha::Sha256(sha) => sha.finish().to_vec(),
            Sha::Sha512(sha) => sha.finish().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Those of the specification, but for one with more rounds than are taken here.
    const VECTORS: [(&str, &str); 10] = [
        ("Hello world!", "$5$saltstring$5B8vYYiY.CVt1RlTTf8KbXBH3hsxY/GNooZaBBGWEc5"),
        ("Hello world!", "$5$rounds=10000$saltstringsaltst$3xv.VbSHBb41AL9AvLeujZkZRBAwqFMz2.opqey6IcA"),
        ("This is just a test", "$5$rounds=5000$toolongsaltstrin$Un/5jzAHMgOGZ5.mWJpuVolil07guHPvOW8mGRcvxa5"),
        (LONG, "$5$rounds=1400$anotherlongsalts$Rx.j8H.h8HjEDGomFU8bDkXm3XIUnzyxf12oP84Bnq1"),
        ("the minimum number is still observed", "$5$rounds=1000$roundstoolow$yfvwcWrQ8l/K0DAWyuPMDNHpIVlTQebY9l/gL972bIC"),
        ("Hello world!", "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"),
        ("Hello world!", "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v."),
        ("This is just a test", "$6$rounds=5000$toolongsaltstrin$lQ8jolhgVRVhY4b5pZKaysCLi0QBxGoNeKQzQ3glMhwllF7oGDZxUhx1yxdYcz/e1JSbq3y6JMxxl8audkUEm0"),
        (LONG, "$6$rounds=1400$anotherlongsalts$POfYwTEok97VWcjxIiSOjiykti.o/pQs.wPvMxQ6Fm7I6IoYN3CmLs66x9t0oSwbtEW7o7UmJEiDwGqd8p4ur1"),
        ("the minimum number is still observed", "$6$rounds=1000$roundstoolow$kUMsbe306n21p9R.FRkW3IGn.S9NPN0x50YhH1xhLsPuWGsUSklZt58jaTfF4ZEQpyUNGc0dqbpBYYBaHHrsX."),
    ];
    const LONG: &str =
        "a very much longer text to encrypt.  This one even stretches over morethan one line.";

    #[test]
    fn the_vectors_of_the_specification() {
        for (password, text) in VECTORS {
            let hash = Hash::parse(text).expect(text);
            assert!(hash.fits(password.as_bytes()), "{text}");
            assert!(!hash.fits(&password.as_bytes()[1..]), "{text}");
            assert!(!hash.fits(b""), "{text}");
        }
    }

    #[test]
    fn a_password_that_is_too_long_fits_nothing() {
        let hash = Hash::parse(VECTORS[0].1).unwrap();
        assert!(!hash.fits(&[b'x'; PASSWORD_BYTES_MAX + 1]));
    }

    #[test]
    fn what_is_no_hash_is_refused_with_what_to_do() {
        let good = VECTORS[0].1;
        for (text, why) in [
            ("", "openssl passwd -6"),
            ("secret", "no hash"),
            ("{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=", "no hash"),
            ("$apr1$abcdefgh$0123456789abcdefghijkl", "MD5"),
            (
                "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC",
                "bcrypt",
            ),
            ("$y$j9T$F5Jx5fExrKuPp53xLKQ..1$x", "yescrypt"),
            ("$6$salt", "not whole"),
            ("$6$rounds=1000$salt", "not whole"),
            ("$6$rounds=999$salt$x", "rounds"),
            ("$6$rounds=4000000000$salt$x", "rounds"),
            ("$6$rounds=x$salt$x", "rounds"),
            ("$5$salt$short", "43 digits"),
            (&format!("{good}$"), "43 digits"),
            (&good.replace('5', "6"), "86 digits"),
            (&good.replace("saltstring", "saltstringsaltstring"), "salt"),
        ] {
            let what = Hash::parse(text).err().expect(text);
            assert!(what.contains(why), "{text}: {what}");
        }
    }

    #[test]
    fn a_trace_stands_for_hash_password_and_key() {
        let hashes = [0, 5].map(|at| Hash::parse(VECTORS[at].1).unwrap());
        let mut traces = Vec::new();
        for hash in &hashes {
            for (password, key) in [("a", 1), ("b", 1), ("a", 2)] {
                traces.push(hash.trace(password.as_bytes(), &[key; 32]));
            }
        }
        assert_eq!(traces[0], hashes[0].trace(b"a", &[1; 32]));
        traces.sort();
        traces.dedup();
        assert_eq!(traces.len(), 6);
    }
}
