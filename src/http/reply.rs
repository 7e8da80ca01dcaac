//! Our own answers: small pages that name the status and the request.

use std::io::Write;

/// Every status that we answer with ourselves, and its reason phrase (RFC 9110 section 15, RFC 6585).
pub const STATUSES: [(u16, &str); 20] = [
    (200, "OK"),
    (301, "Moved Permanently"),
    (308, "Permanent Redirect"),
    (400, "Bad Request"),
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

pub fn reason(status: u16) -> &'static str {
    STATUSES
        .iter()
        .find(|(known, _)| *known == status)
        .map_or("Error", |(_, reason)| reason)
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
    /// The body that the configuration gives for this status.
    pub page: Option<&'a str>,
    /// What was asked for, as plain text.
    pub text: Option<&'a str>,
}

impl Reply<'_> {
    pub fn write(&self, out: &mut Vec<u8>) {
        let (status, reason) = (self.status, reason(self.status));
        let id = String::from_utf8_lossy(self.request_id);
        let body = match self.text.or(self.page) {
            Some(body) => body.to_owned(),
            None => format!(
                "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{status} {reason}</title></head>\n\
                 <body><h1>{status} {reason}</h1><p>Request {id}</p></body></html>\n"
            ),
        };
        let kind = match self.text {
            Some(_) => "application/octet-stream",
            None => "text/html; charset=utf-8",
        };
        out.clear();
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {status} {reason}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\nCache-Control: no-store\r\nX-Request-Id: {id}\r\n",
            body.len()
        );
        if status == 405 {
            // RFC 9110 section 15.5.6 demands the list of what is allowed.
            out.extend_from_slice(match self.read_only {
                true => b"Allow: GET, HEAD\r\n",
                false => b"Allow: GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH\r\n",
            });
        }
        if self.retry_after > 0 {
            let _ = write!(out, "Retry-After: {}\r\n", self.retry_after);
        }
        for (name, value) in [
            ("Location", self.location),
            ("Strict-Transport-Security", self.hsts),
        ] {
            if let Some(value) = value {
                let _ = write!(out, "{name}: {value}\r\n");
            }
        }
        if !self.keep_alive {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if self.http10 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_only {
            out.extend_from_slice(body.as_bytes());
        }
    }
}

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
}
