//! The field names that the proxy treats specially.
//!
//! Owns the table of spellings. Never says what is done with a field: that is
//! for `http` to decide. Called by `http11` once for every field line.

/// A field name; `Other` for all that pass through untouched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Name {
    #[default]
    Other,
    /// A name of the table spelled with `_` for one or more `-`: CGI and its heirs
    /// cannot tell the two apart, so it would pass for the field that we set or removed.
    Disguised,
    Age,
    Authorization,
    CacheControl,
    ClientCert,
    ClientCertChain,
    Connection,
    ContentEncoding,
    ContentLength,
    ContentLocation,
    ContentRange,
    ContentType,
    Cookie,
    Date,
    Expect,
    Expires,
    Forwarded,
    Host,
    Http2Settings,
    IfMatch,
    IfModifiedSince,
    IfNoneMatch,
    IfRange,
    IfUnmodifiedSince,
    KeepAlive,
    Location,
    MaxForwards,
    Pragma,
    ProxyAuthenticate,
    ProxyAuthorization,
    ProxyConnection,
    Range,
    RetryAfter,
    SecWebSocketAccept,
    SecWebSocketExtensions,
    SecWebSocketKey,
    SecWebSocketProtocol,
    SecWebSocketVersion,
    SetCookie,
    StrictTransportSecurity,
    Te,
    Trailer,
    TransferEncoding,
    Upgrade,
    Vary,
    Via,
    WwwAuthenticate,
    XForwardedFor,
    XForwardedHost,
    XForwardedPort,
    XForwardedProto,
    XRequestId,
    XSslClientSDn,
    XSslClientVerify,
}

/// Spellings in lower case, shortest first: a name is compared only with those of its length.
const TABLE: [(&str, Name); 53] = [
    ("te", Name::Te),
    ("age", Name::Age),
    ("via", Name::Via),
    ("date", Name::Date),
    ("host", Name::Host),
    ("vary", Name::Vary),
    ("range", Name::Range),
    ("cookie", Name::Cookie),
    ("expect", Name::Expect),
    ("pragma", Name::Pragma),
    ("expires", Name::Expires),
    ("trailer", Name::Trailer),
    ("upgrade", Name::Upgrade),
    ("if-match", Name::IfMatch),
    ("if-range", Name::IfRange),
    ("location", Name::Location),
    ("forwarded", Name::Forwarded),
    ("connection", Name::Connection),
    ("keep-alive", Name::KeepAlive),
    ("set-cookie", Name::SetCookie),
    ("client-cert", Name::ClientCert),
    ("retry-after", Name::RetryAfter),
    ("content-type", Name::ContentType),
    ("max-forwards", Name::MaxForwards),
    ("x-request-id", Name::XRequestId),
    ("authorization", Name::Authorization),
    ("cache-control", Name::CacheControl),
    ("content-range", Name::ContentRange),
    ("if-none-match", Name::IfNoneMatch),
    ("content-length", Name::ContentLength),
    ("http2-settings", Name::Http2Settings),
    ("x-forwarded-for", Name::XForwardedFor),
    ("content-encoding", Name::ContentEncoding),
    ("content-location", Name::ContentLocation),
    ("proxy-connection", Name::ProxyConnection),
    ("www-authenticate", Name::WwwAuthenticate),
    ("x-forwarded-host", Name::XForwardedHost),
    ("x-forwarded-port", Name::XForwardedPort),
    ("client-cert-chain", Name::ClientCertChain),
    ("if-modified-since", Name::IfModifiedSince),
    ("sec-websocket-key", Name::SecWebSocketKey),
    ("transfer-encoding", Name::TransferEncoding),
    ("x-forwarded-proto", Name::XForwardedProto),
    ("x-ssl-client-s-dn", Name::XSslClientSDn),
    ("proxy-authenticate", Name::ProxyAuthenticate),
    ("if-unmodified-since", Name::IfUnmodifiedSince),
    ("proxy-authorization", Name::ProxyAuthorization),
    ("x-ssl-client-verify", Name::XSslClientVerify),
    ("sec-websocket-accept", Name::SecWebSocketAccept),
    ("sec-websocket-version", Name::SecWebSocketVersion),
    ("sec-websocket-protocol", Name::SecWebSocketProtocol),
    ("sec-websocket-extensions", Name::SecWebSocketExtensions),
    ("strict-transport-security", Name::StrictTransportSecurity),
];

const LENGTH_MAX: usize = 25;

/// Where the names of a length begin in the table; one more entry than lengths.
const FIRST: [usize; LENGTH_MAX + 2] = {
    let mut first = [0; LENGTH_MAX + 2];
    let (mut length, mut row) = (0, 0);
    while length < first.len() {
        while row < TABLE.len() && TABLE[row].0.len() < length {
            row += 1;
        }
        first[length] = row;
        length += 1;
    }
    assert!(row == TABLE.len(), "LENGTH_MAX is too small");
    first
};

impl Name {
    /// The name that these bytes spell, in any case.
    pub fn of(name: &[u8]) -> Name {
        let (Some(&first), Some(&end)) = (FIRST.get(name.len()), FIRST.get(name.len() + 1)) else {
            return Name::Other;
        };
        for (spelling, known) in TABLE.get(first..end).unwrap_or_default() {
            if same(name, spelling.as_bytes()) {
                return if name.contains(&b'_') {
                    Name::Disguised
                } else {
                    *known
                };
            }
        }
        Name::Other
    }

    /// The spelling in lower case; empty for `Other` and `Disguised`.
    pub fn spelling(self) -> &'static str {
        TABLE
            .iter()
            .find(|(_, known)| *known == self)
            .map_or("", |(spelling, _)| spelling)
    }

    /// Whether the field may be sent as a trailer. All names of the table frame, route,
    /// authenticate, modify the request or describe the content (RFC 9110 section 6.5.1).
    pub fn may_trail(self) -> bool {
        self == Name::Other
    }
}

/// Equal apart from case, `_` read as `-`; both have the same length.
fn same(name: &[u8], spelling: &[u8]) -> bool {
    let fold = |byte: u8| {
        if byte == b'_' {
            b'-'
        } else {
            byte.to_ascii_lowercase()
        }
    };
    name.iter().zip(spelling).all(|(a, b)| fold(*a) == *b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_goes_from_short_to_long_and_holds_a_name_once() {
        assert!(TABLE
            .windows(2)
            .all(|w| (w[0].0.len(), w[0].0) < (w[1].0.len(), w[1].0)));
        for (i, (spelling, known)) in TABLE.iter().enumerate() {
            assert_eq!(*spelling, spelling.to_ascii_lowercase());
            assert!(TABLE[..i].iter().all(|(_, other)| other != known));
        }
    }

    #[test]
    fn names_round_trip_in_any_case() {
        for (spelling, known) in TABLE {
            assert_eq!(Name::of(spelling.as_bytes()), known);
            assert_eq!(Name::of(spelling.to_ascii_uppercase().as_bytes()), known);
            assert_eq!(known.spelling(), spelling);
            assert!(!known.may_trail());
        }
    }

    #[test]
    fn underscores_do_not_hide_a_name() {
        assert_eq!(Name::of(b"X_Forwarded_For"), Name::Disguised);
        assert_eq!(Name::of(b"x-forwarded_for"), Name::Disguised);
        assert_eq!(Name::of(b"TRANSFER_ENCODING"), Name::Disguised);
        assert_eq!(Name::of(b"X_SSL-Client_Verify"), Name::Disguised);
        assert_eq!(Name::of(b"my_own_field"), Name::Other);
        assert!(!Name::Disguised.may_trail());
    }

    #[test]
    fn all_else_is_other() {
        for name in ["", "t", "hosts", "x-forwarded-foo", "accept", "grpc-status"] {
            assert_eq!(Name::of(name.as_bytes()), Name::Other, "{name}");
        }
        assert_eq!(Name::of(&[b'x'; 24]), Name::Other);
        assert_eq!(Name::of(&[b'x'; 25]), Name::Other);
        assert_eq!(Name::of(&[b'x'; 5000]), Name::Other);
        assert!(Name::Other.may_trail());
    }
}
