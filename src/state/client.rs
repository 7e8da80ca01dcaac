//! What a listener wants of the certificates of its clients.

/// What a certificate of a client must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    /// Who has none is refused.
    pub required: bool,
    /// Who may have issued it, in PEM.
    pub ca: String,
    pub crl: Option<Crls>,
}

/// What issuers have revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crls {
    pub pem: String,
    /// By the name of an issuer: until when its list is good, in seconds since 1970.
    pub ends: Vec<(String, i64)>,
}

impl Crls {
    /// What is wrong with their time, a sentence each.
    pub fn untimely(&self, now_s: i64) -> impl Iterator<Item = String> + '_ {
        let over = self.ends.iter().filter(move |(_, end)| now_s >= *end);
        over.map(move |(issuer, end)| {
            let days = now_s.saturating_sub(*end) / 86_400;
            format!("client_crl: the list of {issuer} has expired, {days} days ago: every certificate that it has issued is refused until there is a newer one")
        })
    }

    /// When the next one of them ends.
    pub fn next_end(&self, now_s: i64) -> Option<i64> {
        let ends = self.ends.iter().map(|(_, end)| *end);
        ends.filter(|end| *end > now_s).min()
    }
}
