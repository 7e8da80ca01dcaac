//! Our own answers: small pages that name the status and the request.

use std::io::Write;

use crate::state::Edits;

/// Every status that we answer with ourselves, and its reason phrase (RFC 9110 section 15, RFC 6585).
pub const STATUSES: [(u16, &str); 24] = [
    (200, "OK"),
    (301, "Moved Permanently"),
    (302, "Found"),
    (303, "See Other"),
    (307, "Temporary Redirect"),
    (308, "Permanent Redirect"),
    (400, "Bad Request"),
    (401, "Unauthorized"),
    (403, "Forbidden"),
    (404, "Not Found"),
    (405, "Method Not Allowed"),
    (408, "Request Timeout"),
    (413, "Content Too Large"),
    (414, "URI Too Long"),
    (417, "Expectation Failed"),
    (421, "Misdirected Request"),
    (429, "Too Many Requests"),
    (431, "Request Header Fields Too Large"),
    (500, "Internal Server Error"),
    (501, "Not Implemented"),
    (502, "Bad Gateway"),
    (503, "Service Unavailable"),
    (504, "Gateway Timeout"),
    (505, "HTTP Version Not Supported"),
];

/// Those of others that a frontend may answer with.
const OTHERS: [(u16, &str); 21] = [
    (201, "Created"),
    (202, "Accepted"),
    (203, "Non-Authoritative Information"),
    (204, "No Content"),
    (402, "Payment Required"),
    (406, "Not Acceptable"),
    (409, "Conflict"),
    (410, "Gone"),
    (411, "Length Required"),
    (412, "Precondition Failed"),
    (415, "Unsupported Media Type"),
    (418, "I'm a teapot"),
    (422, "Unprocessable Content"),
    (423, "Locked"),
    (424, "Failed Dependency"),
    (425, "Too Early"),
    (428, "Precondition Required"),
    (451, "Unavailable For Legal Reasons"),
    (506, "Variant Also Negotiates"),
    (507, "Insufficient Storage"),
    (511, "Network Authentication Required"),
];

/// Nothing, for a status without a meaning.
pub fn reason(status: u16) -> &'static str {
    let mut all = STATUSES.iter().chain(&OTHERS);
    all.find(|(known, _)| *known == status)
        .map_or("", |(_, reason)| reason)
}

pub struct Reply<'a> {
    pub status: u16,
    pub request_id: &'a [u8],
    pub keep_alive: bool,
    /// The client speaks HTTP/1.0 and must be told that the connection stays open.
    pub http10: bool,
    /// There is nothing here but what GET and HEAD read.
    pub read_only: bool,
    /// It answers a HEAD request: the head alone.
    pub head_only: bool,
    /// The client should wait so many seconds before it comes back. 0: nobody knows.
    pub retry_after: u32,
    /// Where else it is sent.
    pub location: Option<&'a str>,
    /// The value of Strict-Transport-Security.
    pub hsts: Option<&'a str>,
    /// For what it needs a name and a password.
    pub realm: Option<&'a str>,
    /// What the frontend does to the fields of responses.
    pub edits: Option<&'a Edits>,
    /// The body that the configuration gives for this status.
    pub page: Option<&'a str>,
    /// A text in place of a page, with its media type.
    pub text: Option<(&'a str, &'a str)>,
}

impl Reply<'_> {
    pub fn write(&self, out: &mut Vec<u8>) {
        let (status, reason) = (self.status, reason(self.status));
        let id = String::from_utf8_lossy(self.request_id);
        let (body, kind) = match (self.text, self.page) {
            (Some((text, kind)), _) => (text.to_owned(), kind),
            (None, Some(page)) => (page.to_owned(), HTML),
            (None, None) => (format!(
                "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status} {reason}</title></head>\n\
                 <body><h1>{status} {reason}</h1><p>Request {id}</p></body></html>\n"
            ), HTML),
        };
        let length = body.len().to_string();
        // RFC 9110 section 8.6: this one has no content, and says nothing of it.
        let content = |value| (status != NO_CONTENT).then_some(value);
        let seconds = self.retry_after.to_string();
        let realm = self.realm;
        let realm = realm.map(|realm| format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
        out.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(out, "HTTP/1.1 {status} {reason}\r\n");
        let fields = [
            ("Content-Type", content(kind)),
            ("Content-Length", content(&length)),
            ("Cache-Control", Some("no-store")),
            ("X-Request-Id", Some(&*id)),
            ("Allow", self.allowed()),
            ("Retry-After", (self.retry_after > 0).then_some(&*seconds)),
            ("Location", self.location),
            ("WWW-Authenticate", realm.as_deref()),
            ("Strict-Transport-Security", self.hsts),
        ];
        for (name, value) in fields {
            let taken = self.edits.is_some_and(|edits| edits.takes(name.as_bytes()));
            if let Some(value) = value.filter(|_| !taken) {
                let _ = write!(out, "{name}: {value}\r\n");
            }
        }
        for (name, value) in self.edits.iter().flat_map(|edits| edits.lines()) {
            let _ = write!(out, "{name}: {value}\r\n");
        }
        if !self.keep_alive {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.http10 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_only && status != NO_CONTENT {
            out.extend_from_slice(body.as_bytes());
        }
    }

    /// RFC 9110 section 15.5.6 demands the list of what is allowed.
    fn allowed(&self) -> Option<&'static str> {
        let methods = match self.read_only {
            true => "GET, HEAD",
            false => "GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH",
        };
        (self.status == 405).then_some(methods)
    }
}

const HTML: &str = "text/html; charset=utf-8";
const NO_CONTENT: u16 = 204;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_says_status_and_request_and_is_framed() {
        let mut out = Vec::new();
        let reply = Reply {
            status: 404,
            request_id: b"abc",
            keep_alive: true,
            http10: false,
            read_only: false,
            head_only: false,
            retry_after: 0,
            location: None,
            hsts: None,
            realm: None,
            edits: None,
            page: None,
            text: None,
        };
        reply.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 404 Not Found\r\n"));
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(!head.contains("Connection") && !head.contains("Retry-After"));
        assert!(body.contains("404 Not Found") && body.contains("abc"));
    }

    #[test]
    fn a_page_of_the_configuration_replaces_ours() {
        let mut out = Vec::new();
        let reply = Reply {
            status: 503,
            request_id: b"abc",
            keep_alive: false,
            http10: true,
            read_only: false,
            head_only: true,
            retry_after: 7,
            location: Some("https://a/"),
            hsts: None,
            realm: None,
            edits: None,
            text: None,
            page: Some("later"),
        };
        reply.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("Content-Length: 5\r\n") && text.ends_with("Connection: close\r\n\r\n")
        );
        assert!(text.contains("\r\nRetry-After: 7\r\n"));
    }

    #[test]
    fn a_frontend_changes_the_fields_of_our_answers_too() {
        let edits =
            Edits::parse("set content-type: application/json\nremove Cache-Control\nadd X-A: b");
        let edits = edits.expect("good ones");
        let reply = |status| Reply {
            status,
            request_id: b"abc",
            keep_alive: true,
            http10: false,
            read_only: false,
            head_only: false,
            retry_after: 0,
            location: None,
            hsts: None,
            realm: Some("here"),
            edits: Some(&edits),
            page: None,
            text: Some(("{}", "text/plain")),
        };
        let mut out = Vec::new();
        reply(401).write(&mut out);
        let challenge = "WWW-Authenticate: Basic realm=\"here\", charset=\"UTF-8\"\r\n";
        let edited = "content-type: application/json\r\nX-A: b\r\n";
        let wanted = format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nX-Request-Id: abc\r\n{challenge}{edited}\r\n{{}}");
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
        let mut out = Vec::new();
        reply(204).write(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("HTTP/1.1 204 No Content\r\n") && text.ends_with("\r\n\r\n"));
        assert!(!text.contains("Content-Length"), "{text}");
    }
}
