//! The head that goes on: hop-by-hop fields out, framing made anew, ours put in.
//!
//! Order and spelling of the fields that pass are kept. What a client may not
//! say for itself (X-Forwarded-Proto and the like) is replaced, unless it is a
//! trusted proxy; X-Forwarded-For and Forwarded get our entry appended. What tells of
//! a client's certificate is said by us alone.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};

use crate::http::cookie;
use crate::http::fields::{Head, Options};
use crate::http::framing::{content_length, Body};
use crate::http::request::Request;
use crate::parser::http11::{Field, Name, StatusLine, Version};
use crate::state::{Actions, Edits, PREFIX_FIELD};

/// Who asks, and where.
#[derive(Clone, Copy)]
pub struct Edge<'a> {
    pub client: IpAddr,
    /// Its forwarding fields are believed.
    pub trusted: bool,
    pub listener: SocketAddr,
    /// It came by TLS.
    pub secure: bool,
    pub request_id: &'a [u8],
    /// Whole field lines about the certificate that it has shown.
    pub identity: &'a [u8],
    /// What its frontend does besides.
    pub actions: Option<&'a Actions>,
    /// The name of a cookie that is between the client and us.
    pub cookie: Option<&'a [u8]>,
}

impl Edge<'_> {
    fn scheme(&self) -> &'static [u8] {
        match self.secure {
            true => b"https",
            false => b"http",
        }
    }
}

const VIA_10: &[u8] = b"Via: 1.0 sozu\r\n";
const VIA_11: &[u8] = b"Via: 1.1 sozu\r\n";

/// Writes the head that a backend gets.
pub fn request(request: &Request, head: Head, edge: Edge, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(request.method);
    out.push(b' ');
    put_target(request, edge, out);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let client = Client::of(edge.client);
    let last = |name| head.lines.iter().rposition(|field| field.known == name);
    let last_for = last(Name::XForwardedFor);
    let last_forwarded =
        last(Name::Forwarded).filter(|last| quotes_close(head.lines[*last].value.of(head.bytes)));
    for (i, field) in head.lines.iter().enumerate() {
        if !request_field_passes(field, request, head, edge) {
            continue;
        }
        let value = field.value.of(head.bytes);
        match field.known {
            Name::Cookie if edge.cookie.is_some() => {
                let ours = edge.cookie.unwrap_or_default();
                cookie::put_without(field.name.of(head.bytes), value, ours, out);
            }
            Name::ContentLength => put_length(request.body, field, head, out),
            Name::Te => put(field.name.of(head.bytes), b"trailers", out),
            Name::TransferEncoding => put(field.name.of(head.bytes), b"chunked", out),
            _ => {
                open(field.name.of(head.bytes), out);
                out.extend_from_slice(value);
                if Some(i) == last_for {
                    out.extend_from_slice(b", ");
                    out.extend_from_slice(client.text());
                } else if Some(i) == last_forwarded {
                    out.extend_from_slice(b", ");
                    put_forwarded(&client, request, edge, out);
                }
                out.extend_from_slice(b"\r\n");
            }
        }
    }
    put_host_if_absent(request, head, edge, out);
    if let Some(actions) = edge.actions {
        put_of_frontend(actions, out);
    }
    if last_for.is_none() {
        put(b"X-Forwarded-For", client.text(), out);
    }
    if last_forwarded.is_none() {
        out.extend_from_slice(b"Forwarded: ");
        put_forwarded(&client, request, edge, out);
        out.extend_from_slice(b"\r\n");
    }
    put_ours(request, head, edge, out);
    out.extend_from_slice(match request.version {
        Version::Http10 => VIA_10,
        Version::Http11 => VIA_11,
    });
    if request.websocket.is_some() {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    } else if passes_te(head) {
        // RFC 9110 section 10.1.4: who sends TE names it in Connection.
        out.extend_from_slice(b"Connection: TE\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn request_field_passes(field: &Field, request: &Request, head: Head, edge: Edge) -> bool {
    let taken = |actions: &Actions| actions.takes(field.known, field.name.of(head.bytes));
    if edge.actions.is_some_and(taken) {
        return false;
    }
    match field.known {
        Name::Connection
        | Name::KeepAlive
        | Name::ProxyConnection
        | Name::Upgrade
        | Name::Http2Settings => false,
        Name::Te => is_first(field, head) && passes_te(head),
        Name::Trailer => request.body == Body::Chunked,
        Name::ContentLength => true,
        Name::TransferEncoding => request.body == Body::Chunked,
        Name::Expect => request.expects_continue,
        Name::Host => true,
        Name::XForwardedFor => true,
        // An open quote would swallow what we append.
        Name::Forwarded => quotes_close(field.value.of(head.bytes)),
        Name::XForwardedProto | Name::XForwardedHost | Name::XForwardedPort | Name::XRequestId => {
            edge.trusted
        }
        // Nobody says for himself who he is (RFC 9440 section 4), not even a trusted proxy.
        Name::ClientCert | Name::ClientCertChain | Name::XSslClientSDn | Name::XSslClientVerify => {
            false
        }
        // CGI and its heirs make one variable of `X_Forwarded_For` and `X-Forwarded-For`.
        Name::Disguised => false,
        _ => !named_by_connection(field.name.of(head.bytes), request.options, head),
    }
}

/// As the frontend has it; the question about the server as a whole has no path.
fn put_target(request: &Request, edge: Edge, out: &mut Vec<u8>) {
    let target = request.target.bytes;
    let (first, rest) = match edge.actions {
        Some(actions) if target.starts_with(b"/") => actions.rewritten(target),
        _ => (&b""[..], target),
    };
    out.extend_from_slice(first);
    out.extend_from_slice(rest);
}

/// The fields that a frontend adds to a request.
fn put_of_frontend(actions: &Actions, out: &mut Vec<u8>) {
    if let Some(host) = &actions.set_host {
        put(b"Host", host.as_bytes(), out);
    }
    if let Some(prefix) = &actions.strip_prefix {
        put(PREFIX_FIELD.as_bytes(), prefix.as_bytes(), out);
    }
    put_edits(&actions.request_headers, out);
}

fn put_edits(edits: &Edits, out: &mut Vec<u8>) {
    for (name, value) in edits.lines() {
        put(name.as_bytes(), value.as_bytes(), out);
    }
}

/// Whether every quoted string ends (RFC 9110 section 5.6.4).
fn quotes_close(value: &[u8]) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for byte in value {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    !quoted
}

fn is_first(field: &Field, head: Head) -> bool {
    head.lines
        .iter()
        .find(|other| other.known == field.known)
        .is_some_and(|first| std::ptr::eq(first, field))
}

fn passes_te(head: Head) -> bool {
    head.has_token(Name::Te, b"trailers")
}

/// Fields that the sender's Connection field names are for us alone (RFC 9110 section 7.6.1).
fn named_by_connection(name: &[u8], options: Options, head: Head) -> bool {
    options.names_fields && head.has_token(Name::Connection, name)
}

fn open(name: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
}

fn put(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    open(name, out);
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Content-Length with the number that we count by; a body of no bytes keeps its 0.
fn put_length(body: Body, field: &Field, head: Head, out: &mut Vec<u8>) {
    let n = match body {
        Body::Counted(n) => n,
        _ => 0,
    };
    open(field.name.of(head.bytes), out);
    put_number(n, out);
    out.extend_from_slice(b"\r\n");
}

fn put_number(n: u64, out: &mut Vec<u8>) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "{n}");
}

/// A request without Host (HTTP/1.0, an absolute target) gets one: HTTP/1.1 demands it.
fn put_host_if_absent(request: &Request, head: Head, edge: Edge, out: &mut Vec<u8>) {
    let set = edge.actions.is_some_and(|it| it.set_host.is_some());
    if set || head.all(Name::Host).next().is_some() {
        return;
    }
    match &request.target.authority {
        Some(authority) => {
            open(b"Host", out);
            put_authority(authority.name, authority.port, out);
            out.extend_from_slice(b"\r\n");
        }
        None => {
            let _ = write!(out, "Host: {}\r\n", edge.listener);
        }
    }
}

/// The fields of which there is one: ours, or a trusted proxy's.
fn put_ours(request: &Request, head: Head, edge: Edge, out: &mut Vec<u8>) {
    let theirs = |name| edge.trusted && head.all(name).next().is_some();
    if !theirs(Name::XForwardedProto) {
        put(b"X-Forwarded-Proto", edge.scheme(), out);
    }
    if let (Some(host), false) = (&request.host, theirs(Name::XForwardedHost)) {
        open(b"X-Forwarded-Host", out);
        put_authority(host.name, host.port, out);
        out.extend_from_slice(b"\r\n");
    }
    if !theirs(Name::XForwardedPort) {
        open(b"X-Forwarded-Port", out);
        put_number(u64::from(edge.listener.port()), out);
        out.extend_from_slice(b"\r\n");
    }
    if !theirs(Name::XRequestId) {
        put(b"X-Request-Id", edge.request_id, out);
    }
    out.extend_from_slice(edge.identity);
}

fn put_authority(name: &[u8], port: Option<u16>, out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    if let Some(port) = port {
        out.push(b':');
        put_number(u64::from(port), out);
    }
}

/// RFC 7239: an IPv6 address and anything with a colon is quoted.
fn put_forwarded(client: &Client, request: &Request, edge: Edge, out: &mut Vec<u8>) {
    out.extend_from_slice(b"for=");
    if client.is_ipv6 {
        out.extend_from_slice(b"\"[");
        out.extend_from_slice(client.text());
        out.extend_from_slice(b"]\"");
    } else {
        out.extend_from_slice(client.text());
    }
    if let Some(host) = &request.host {
        out.extend_from_slice(b";host=\"");
        put_authority(host.name, host.port, out);
        out.push(b'"');
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(edge.scheme());
}

/// The client's address as text, made once for both fields.
struct Client {
    text: [u8; 48],
    len: usize,
    is_ipv6: bool,
}

impl Client {
    fn of(address: IpAddr) -> Client {
        let address = address.to_canonical();
        let mut text = [0u8; 48];
        let mut rest = &mut text[..];
        // The longest IPv6 address has 39 characters.
        let _ = write!(rest, "{address}");
        let left = rest.len();
        Client {
            len: text.len() - left,
            text,
            is_ipv6: address.is_ipv6(),
        }
    }

    fn text(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

/// How a response's end is shown to the client, and whether another request may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown<'a> {
    /// The client speaks HTTP/1.1: it can be sent chunks.
    pub http11: bool,
    pub keep_alive: bool,
    /// The value of Strict-Transport-Security that stands in place of any other.
    pub hsts: Option<&'a str>,
    /// What the frontend does to the fields.
    pub edits: Option<&'a Edits>,
    /// The name of a cookie that is between the client and us: no backend sets it.
    pub ours: Option<&'a [u8]>,
    /// A cookie that keeps the client at its backend: name, value, and whether it came by TLS.
    pub cookie: Option<(&'a str, &'a str, bool)>,
}

/// Writes the head of a final response.
pub fn response(
    line: &StatusLine,
    head: Head,
    options: Options,
    body: Body,
    shown: Shown,
    out: &mut Vec<u8>,
) {
    put_status(line, head, out);
    let chunked = shown.http11 && matches!(body, Body::Chunked | Body::UntilClose);
    for field in head.lines {
        let name = field.name.of(head.bytes);
        if shown.edits.is_some_and(|edits| edits.takes(name)) {
            continue;
        }
        match field.known {
            Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::TransferEncoding
            | Name::Upgrade => {}
            Name::StrictTransportSecurity if shown.hsts.is_some() => {}
            Name::SetCookie if is_ours(field, head, shown.ours) => {}
            Name::Trailer if !(chunked && body == Body::Chunked) => {}
            Name::ContentLength => put_response_length(line.status, body, field, head, out),
            _ if named_by_connection(name, options, head) => {}
            _ => put(name, field.value.of(head.bytes), out),
        }
    }
    if chunked {
        out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
    }
    if let Some(hsts) = shown.hsts {
        put(b"Strict-Transport-Security", hsts.as_bytes(), out);
    }
    if let Some(edits) = shown.edits {
        put_edits(edits, out);
    }
    if let Some((name, value, secure)) = shown.cookie {
        cookie::put_set_cookie(name, value, secure, out);
    }
    if !shown.keep_alive {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if !shown.http11 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Without a body (HEAD, 304) the number says how long it would be; 204 has none (RFC 9110 section 8.6).
fn put_response_length(status: u16, body: Body, field: &Field, head: Head, out: &mut Vec<u8>) {
    let said = content_length(field.value.of(head.bytes));
    let n = match (body, said) {
        (Body::Counted(n), _) => n,
        (Body::None, Some(n)) if status != 204 => n,
        _ => return,
    };
    let first = head
        .lines
        .iter()
        .find(|other| other.known == Name::ContentLength);
    if first.is_some_and(|first| std::ptr::eq(first, field)) {
        open(field.name.of(head.bytes), out);
        put_number(n, out);
        out.extend_from_slice(b"\r\n");
    }
}

fn is_ours(field: &Field, head: Head, ours: Option<&[u8]>) -> bool {
    ours.is_some_and(|name| cookie::sets(field.value.of(head.bytes), name))
}

/// Writes the head of a 1xx response; for 101 with the upgrade that was asked for. `ours` is as in `Shown`.
pub fn interim(
    line: &StatusLine,
    head: Head,
    options: Options,
    ours: Option<&[u8]>,
    out: &mut Vec<u8>,
) {
    put_status(line, head, out);
    for field in head.lines {
        let name = field.name.of(head.bytes);
        match field.known {
            Name::Connection
            | Name::KeepAlive
            | Name::ProxyConnection
            | Name::TransferEncoding
            | Name::ContentLength
            | Name::Trailer
            | Name::Upgrade => {}
            Name::SetCookie if is_ours(field, head, ours) => {}
            _ if named_by_connection(name, options, head) => {}
            _ => put(name, field.value.of(head.bytes), out),
        }
    }
    if line.status == 101 {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn put_status(line: &StatusLine, head: Head, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(b"HTTP/1.1 ");
    put_number(u64::from(line.status), out);
    out.push(b' ');
    out.extend_from_slice(line.reason.of(head.bytes));
    out.extend_from_slice(b"\r\n");
}

/// Writes the last chunk, the trailers that pass, and the end. Fields that frame,
/// route or authenticate are not taken from there (RFC 9110 section 6.5.1).
pub fn trailers(head: Head, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(b"0\r\n");
    for field in head.lines {
        let name = field.name.of(head.bytes);
        if field.known.may_trail() {
            put(name, field.value.of(head.bytes), out);
        }
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests;
