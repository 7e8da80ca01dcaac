//! Spellings of a path that mean the same.
//!
//! A path goes on as it came; what is looked up by it is its normal form, lest
//! `/%61dmin` or `//admin` pass by a rule for `/admin`. In that form every
//! unreserved character stands for itself, the digits of what else is
//! percent-encoded are upper case (RFC 3986 section 6.2.2), and several slashes
//! in a row are one, as most backends read them. An encoded slash is none.
//! Dot segments are resolved before: `target` does that, and here are none left.

/// What stands at the start of a path, and by how many bytes it is spelt there.
pub struct Unit {
    bytes: [u8; 3],
    len: usize,
    pub spelt: usize,
}

impl Unit {
    /// The first one of a path whose every `%` begins two hex digits; nothing of an empty path.
    pub fn first(path: &[u8]) -> Option<Unit> {
        let one = |byte, spelt| Unit {
            bytes: [byte, 0, 0],
            len: 1,
            spelt,
        };
        Some(match path {
            [] => return None,
            [b'/', ..] => {
                let run = path.iter().take_while(|byte| **byte == b'/');
                one(b'/', run.count())
            }
            [b'%', high, low, ..] => match of_hex(*high, *low) {
                Some(byte) if is_unreserved(byte) => one(byte, 3),
                _ => Unit {
                    bytes: [b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()],
                    len: 3,
                    spelt: 3,
                },
            },
            [byte, ..] => one(*byte, 1),
        })
    }

    /// In the normal form.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn of_hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Whether it may be spelt in another way than the normal one.
pub fn is_odd(path: &[u8]) -> bool {
    path.contains(&b'%') || path.windows(2).any(|two| two == b"//")
}

pub fn normal(path: &str) -> String {
    let mut rest = path;
    let mut normal = String::with_capacity(path.len());
    while let Some(unit) = Unit::first(rest.as_bytes()) {
        normal.push_str(std::str::from_utf8(unit.bytes()).unwrap_or_default());
        rest = rest.get(unit.spelt..).unwrap_or_default();
    }
    normal
}

/// What is left of a path behind a prefix that is in the normal form, as it is spelt.
pub fn behind<'p>(path: &'p [u8], prefix: &[u8]) -> Option<&'p [u8]> {
    let (mut rest, mut wanted) = (path, prefix);
    while !wanted.is_empty() {
        let unit = Unit::first(rest)?;
        wanted = wanted.strip_prefix(unit.bytes())?;
        rest = rest.get(unit.spelt..)?;
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_form_for_all_spellings() {
        for (spelt, form) in [
            ("/", "/"),
            ("/a/b/", "/a/b/"),
            ("/%61dmin", "/admin"),
            ("/%61%64%6d%69%6E", "/admin"),
            ("//admin", "/admin"),
            ("///a////b//", "/a/b/"),
            ("/%7Ea%2db%2Ec%5f", "/~a-b.c_"),
            ("/a%2fb%3b%c3%a9", "/a%2Fb%3B%C3%A9"),
            ("/%2f/", "/%2F/"),
            ("/%2561", "/%2561"),
            ("/A", "/A"),
        ] {
            assert_eq!(normal(spelt), form, "{spelt}");
            assert_eq!(normal(form), form, "{spelt}");
            assert!(is_odd(spelt.as_bytes()) || spelt == form, "{spelt}");
        }
        // No text makes it panic.
        for text in ["", "%", "%6", "%6é", "é"] {
            normal(text);
        }
    }

    #[test]
    fn a_prefix_is_found_however_it_is_spelt() {
        for (path, prefix, rest) in [
            ("/api/x", "/api", Some("/x")),
            ("/api", "/api", Some("")),
            ("/%61pi//%78?%61", "/api", Some("//%78?%61")),
            ("//ap%69", "/api", Some("")),
            ("//a///b/c", "/a/b", Some("/c")),
            ("/a%2fb/c", "/a%2Fb", Some("/c")),
            ("/a%2fb/c", "/a", Some("%2fb/c")),
            ("/a%2fb/c", "/a%", None),
            ("/ap", "/api", None),
            ("/apx", "/api", None),
        ] {
            let found = behind(path.as_bytes(), prefix.as_bytes());
            assert_eq!(found, rest.map(str::as_bytes), "{path} {prefix}");
        }
    }
}
