//! What `explain` is asked.

use std::net::{IpAddr, SocketAddr};

use crate::config::fields::{fault, Fault, Fields};

/// A request that is explained, not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub url: Option<String>,
    pub listener: Option<SocketAddr>,
    pub hostname: Option<String>,
    pub path: Option<String>,
    pub method: String,
    pub client: Option<IpAddr>,
}

impl Question {
    pub(super) fn of(mut fields: Fields) -> Result<Question, Fault> {
        let question = Question {
            url: fields.text_or_none("url"),
            listener: fields.address("listener").ok(),
            hostname: fields.text_or_none("hostname"),
            path: fields.text_or_none("path"),
            method: fields
                .text_or_none("method")
                .unwrap_or_else(|| "GET".into()),
            client: fields.ip_or_none("client"),
        };
        if question.url.is_some() && (question.hostname.is_some() || question.path.is_some()) {
            let what = "says the hostname and the path: give either it, or hostname and path";
            return Err(fault("url", what));
        }
        Ok(question)
    }
}
