//! What clients may take, from the fields of a listener or a cluster, and back.

use super::fields::{fault, Fault, Fields};
use super::object::{ranges_word, word, Words};
use crate::quota::rate::{Rate, FILL_SECONDS_MAX};
use crate::state::{Protocol, Quota};

/// A cluster has no keys for what a listener alone limits.
pub fn quota_from(fields: &mut Fields, protocol: Protocol) -> Result<Quota, Fault> {
    let quota = Quota {
        allow: fields.ranges("allow"),
        deny: fields.ranges("deny"),
        connections: fields.int_or_none("max_connections_per_ip"),
        rate: rate_from(fields)?,
        body: fields.int_or_none("max_body"),
        pace: fields.int_or_none("min_rate"),
    };
    let alone = match &quota {
        Quota { rate: Some(_), .. } => "request_rate",
        Quota { body: Some(_), .. } => "max_body",
        Quota { pace: Some(_), .. } => "min_rate",
        _ => return Ok(quota),
    };
    match protocol {
        Protocol::Http | Protocol::Https => Ok(quota),
        _ => Err(fault(alone, "is for HTTP alone: leave it out, or unset it")),
    }
}

fn rate_from(fields: &mut Fields) -> Result<Option<Rate>, Fault> {
    let burst = fields.int_or_none("request_burst");
    let Some(per_second) = fields.int_or_none("request_rate") else {
        return Ok(None);
    };
    let burst = burst.unwrap_or(per_second);
    if burst.div_ceil(per_second) > FILL_SECONDS_MAX {
        let what = format!("is more than comes in {FILL_SECONDS_MAX} seconds by request_rate");
        return Err(fault("request_burst", what));
    }
    Ok(Some(Rate { per_second, burst }))
}

/// Not what is not given: a version before knows no such keys, and a burst goes with its rate.
pub fn quota_words(quota: &Quota) -> Words {
    let mut words: Words = ranges_word("allow", &quota.allow).into_iter().collect();
    words.extend(ranges_word("deny", &quota.deny));
    let burst = quota.rate.filter(|rate| rate.burst != rate.per_second);
    for (key, value) in [
        ("max_connections_per_ip", quota.connections),
        ("request_rate", quota.rate.map(|rate| rate.per_second)),
        ("request_burst", burst.map(|rate| rate.burst)),
        ("max_body", quota.body),
        ("min_rate", quota.pace),
    ] {
        words.extend(value.map(|value| word(key, value)));
    }
    words
}
