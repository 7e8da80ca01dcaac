//! Some keys of an object that is there: what `update` says.
//!
//! A person gives the keys that change; the change itself is whole, with what
//! stays as it was. So are the lines that main writes for workers.

use super::command::Noun;
use super::pairs::{fields_of, refused};
use super::table::Row;
use crate::config::keys;
use crate::config::object::{self, Words};
use crate::state::{Change, Code, Refused, State, Timeouts};

/// The keys of an object that are to change, with those that name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub noun: Noun,
    pub(super) pairs: Vec<(String, String)>,
}

impl Update {
    pub(super) fn of(row: &Row, mut pairs: Vec<(String, String)>) -> Result<Update, Refused> {
        let noun = match row.noun {
            "listener" => Noun::Listener,
            "cluster" => Noun::Cluster,
            _ => Noun::Backend,
        };
        // Unknown keys and bad values are refused here; what is left out stays as it is.
        fields_of(row.takes(), pairs.clone(), &row.words())?;
        // By our own names from here on: they are compared with those of what is there.
        for (name, _) in &mut pairs {
            if let Some(key) = row.takes().find(|key| key.is(name)) {
                *name = key.name.to_string();
            }
        }
        Ok(Update { noun, pairs })
    }

    /// The change that this is to an object of `state`.
    pub fn on(&self, state: &State, defaults: &Timeouts) -> Result<Change, Refused> {
        let named = |key: &str| {
            let mut pairs = self.pairs.iter();
            let found = pairs
                .find(|(name, _)| name == key)
                .map(|(_, value)| value.clone());
            let needed = || Refused::new(Code::Invalid, format!("update: {key} is required"));
            found.ok_or_else(needed)
        };
        let missing = |what: String| Refused::new(Code::Missing, format!("{what} does not exist"));
        let words = match self.noun {
            Noun::Listener => {
                let address = named("address")?;
                let found = address
                    .parse()
                    .ok()
                    .and_then(|address| state.listener(address));
                object::listener_words(found.ok_or_else(|| missing(format!("listener {address}")))?)
            }
            Noun::Cluster => {
                let id = named("id")?;
                let found = state.cluster(&id);
                object::cluster_words(found.ok_or_else(|| missing(format!("cluster {id}")))?)
            }
            Noun::Backend | Noun::Frontend => {
                let (cluster, id) = (named("cluster")?, named("id")?);
                let what = || missing(format!("backend {id} of cluster {cluster}"));
                object::backend_words(state.backend(&cluster, &id).ok_or_else(what)?)
            }
        };
        let is_new = |(key, _): &&(String, String)| !self.pairs.iter().any(|(name, _)| name == key);
        let kept = words.iter().filter(is_new).cloned();
        self.build(kept.chain(self.pairs.iter().cloned()).collect(), defaults)
    }

    /// The change, where every key is given: as main writes it for workers.
    pub fn whole(&self, defaults: &Timeouts) -> Result<Change, Refused> {
        self.build(self.pairs.clone(), defaults)
    }

    fn build(&self, pairs: Words, defaults: &Timeouts) -> Result<Change, Refused> {
        let (keys, what) = match self.noun {
            Noun::Listener => (keys::LISTENER, "listener update"),
            Noun::Cluster => (keys::CLUSTER, "cluster update"),
            Noun::Backend | Noun::Frontend => (keys::BACKEND, "backend update"),
        };
        let fields = fields_of(keys.iter(), pairs, what)?;
        let change = match self.noun {
            Noun::Listener => object::listener_from(fields, defaults).map(Change::ListenerUpdate),
            Noun::Cluster => object::cluster_from(fields).map(Change::ClusterUpdate),
            Noun::Backend | Noun::Frontend => {
                object::backend_from(fields).map(Change::BackendUpdate)
            }
        };
        change.map_err(|fault| refused(fault, what))
    }
}
