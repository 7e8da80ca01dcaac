//! How a cluster asks its backends whether they are well, from text and to text.

use std::fmt;

/// What is asked of each backend of a cluster, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub ask: Ask,
    /// The Host of the request, and who the backend must be under TLS.
    pub host: Option<Box<str>>,
    /// Seconds from the beginning of one check to that of the next.
    pub interval: u32,
    /// Seconds that one may take.
    pub timeout: u32,
    /// Checks in a row that must pass before it is well again.
    pub rise: u32,
    /// Checks in a row that must fail before it is not any more.
    pub fall: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A connection, under TLS with its handshake.
    Tcp,
    /// A GET on it.
    Http {
        /// With its query.
        path: Box<str>,
        status: Statuses,
        /// Stands somewhere in the beginning of the body.
        body: Option<Box<str>>,
    },
}

impl Ask {
    pub fn name(&self) -> &'static str {
        match self {
            Ask::Tcp => "tcp",
            Ask::Http { .. } => "http",
        }
    }
}

/// `200`, or from one to another: `200-399`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statuses {
    first: u16,
    last: u16,
}

impl Statuses {
    pub fn parse(text: &str) -> Result<Statuses, String> {
        let wrong = || format!("{text:?} is not a status like 200 or a range like 200-399");
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse().ok().filter(|_| digits);
            // 1xx are not what a request ends with.
            number.filter(|status| (200..600).contains(status))
        };
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Statuses { first, last }),
            _ => Err(wrong()),
        }
    }

    pub fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        match self.first == self.last {
            true => write!(out, "{}", self.first),
            false => write!(out, "{}-{}", self.first, self.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_come_back_as_they_are_written() {
        for text in ["200", "200-399", "503", "599"] {
            let read = Statuses::parse(text).expect(text);
            assert_eq!(read.to_string(), text);
        }
        let range = Statuses::parse("200-399").expect("a range");
        assert!(range.contains(200) && range.contains(399) && !range.contains(400));
        for bad in [
            "",
            "2xx",
            "99",
            "100",
            "600",
            "399-200",
            "200-",
            "-200",
            "+200",
            "0200",
            "200-300-400",
        ] {
            assert!(Statuses::parse(bad).is_err(), "{bad}");
        }
    }
}
