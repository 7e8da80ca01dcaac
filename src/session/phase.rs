//! How far a session has come, and the exchange that it has there.

use crate::session::Exchange;

pub enum Phase {
    /// TLS is being agreed upon, or it is still to be said who the client is.
    Shaking,
    Idle,
    Head(Box<Exchange>),
    Waiting(Box<Exchange>),
    /// As Waiting, but it is not looked for a backend: the end of a pause, or a free backend, is waited for.
    Held(Box<Exchange>),
    Running(Box<Exchange>),
    Answering(Box<Exchange>),
    Logging(Box<Exchange>),
    Tunnel(Box<Exchange>),
    Lingering,
    Closed,
}

impl Phase {
    pub fn exchange(&self) -> Option<&Exchange> {
        match self {
            Phase::Head(x)
            | Phase::Waiting(x)
            | Phase::Held(x)
            | Phase::Running(x)
            | Phase::Answering(x)
            | Phase::Logging(x)
            | Phase::Tunnel(x) => Some(x),
            Phase::Shaking | Phase::Idle | Phase::Lingering | Phase::Closed => None,
        }
    }

    pub fn exchange_mut(&mut self) -> Option<&mut Exchange> {
        match self {
            Phase::Head(x)
            | Phase::Waiting(x)
            | Phase::Held(x)
            | Phase::Running(x)
            | Phase::Answering(x)
            | Phase::Logging(x)
            | Phase::Tunnel(x) => Some(x),
            Phase::Shaking | Phase::Idle | Phase::Lingering | Phase::Closed => None,
        }
    }

    pub fn into_exchange(self) -> Option<Box<Exchange>> {
        match self {
            Phase::Head(x)
            | Phase::Waiting(x)
            | Phase::Held(x)
            | Phase::Running(x)
            | Phase::Answering(x)
            | Phase::Logging(x)
            | Phase::Tunnel(x) => Some(x),
            Phase::Shaking | Phase::Idle | Phase::Lingering | Phase::Closed => None,
        }
    }

    /// As the picture in the module above has it.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Shaking => "shaking",
            Phase::Idle => "idle",
            Phase::Head(_) => "head",
            Phase::Waiting(_) => "waiting",
            Phase::Held(_) => "held",
            Phase::Running(_) => "running",
            Phase::Answering(_) => "answering",
            Phase::Logging(_) => "logging",
            Phase::Tunnel(_) => "tunnel",
            Phase::Lingering => "lingering",
            Phase::Closed => "closed",
        }
    }
}
