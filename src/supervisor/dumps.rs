//! Answers as long as the state: dumps, lists, the difference from the file.
//!
//! Who asks for the same gets the same text: however many clients ask and read
//! slowly, it is in memory once.

use std::rc::{Rc, Weak};

use crate::limits::{DUMPS_BYTES_MAX, DUMPS_MAX};
use crate::proto::command::Noun;
use crate::proto::reply;
use crate::proto::update::{difference, Step};
use crate::slab::Key;
use crate::state::{Change, Code, Refused};
use crate::supervisor::Supervisor;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dump {
    State,
    /// The same, with the keys of certificates.
    Secrets,
    List(Noun),
    /// What differs from the file. A reload, which may change that, is a revision.
    Difference,
}

/// What has been dumped, by revision, as long as somebody still reads it.
#[derive(Default)]
pub struct Dumps(Vec<(Option<Name>, Weak<str>)>);

type Name = (u64, Dump);

impl Dumps {
    fn find(&mut self, wanted: Option<Name>) -> Result<Option<Rc<str>>, Refused> {
        let mut bytes = 0;
        let mut found = None;
        self.0.retain(|(name, text)| {
            let Some(text) = text.upgrade() else {
                return false;
            };
            bytes += text.len();
            if wanted.is_some() && *name == wanted {
                found = Some(text);
            }
            true
        });
        if found.is_none() && (self.0.len() >= DUMPS_MAX || bytes >= DUMPS_BYTES_MAX) {
            let what = "too many clients have not read their answers yet: try again later";
            return Err(Refused::new(Code::Limit, what));
        }
        Ok(found)
    }
}

impl Supervisor {
    /// A long answer that is another one each time.
    pub(super) fn once(
        &mut self,
        text: impl FnOnce(&Supervisor) -> String,
        key: Key,
    ) -> Result<String, Refused> {
        self.dumps.find(None)?;
        let text: Rc<str> = text(self).into();
        self.dumps.0.push((None, Rc::downgrade(&text)));
        self.client(key)?.outbox.push_shared(text);
        Ok(reply::ok(&[]))
    }

    pub(super) fn dump(&mut self, dump: Dump, key: Key) -> Result<String, Refused> {
        let name = Some((self.revision, dump));
        let text = match self.dumps.find(name)? {
            Some(text) => text,
            None => {
                let text: Rc<str> = self.text_of(dump).into();
                self.dumps.0.push((name, Rc::downgrade(&text)));
                text
            }
        };
        self.client(key)?.outbox.push_shared(text);
        Ok(reply::ok(&[]))
    }

    fn text_of(&mut self, dump: Dump) -> String {
        let mut count = 0;
        let line = |line: String| {
            count += 1;
            line + "\n"
        };
        let state = self.state.dump();
        let text = match dump {
            Dump::State => state.map(|change| change.encode()).map(line).collect(),
            Dump::Secrets => {
                let lines = state.map(|change| change.encode_with_secrets());
                lines.map(line).collect()
            }
            Dump::List(noun) => {
                let wanted = state.filter(|change| noun_of(change) == Some(noun));
                wanted.map(|change| change.encode()).map(line).collect()
            }
            Dump::Difference => {
                let steps = difference(&self.filed, &self.state);
                steps.iter().map(Step::encode).map(line).collect()
            }
        };
        self.litter.add(count, self.now_ms);
        text
    }
}

/// Certificates are listed in another form.
fn noun_of(change: &Change) -> Option<Noun> {
    Some(match change {
        Change::ListenerAdd(_) | Change::ListenerUpdate(_) | Change::ListenerRemove { .. } => {
            Noun::Listener
        }
        Change::ClusterAdd(_) | Change::ClusterUpdate(_) | Change::ClusterRemove { .. } => {
            Noun::Cluster
        }
        Change::FrontendAdd(_) | Change::FrontendRemove { .. } => Noun::Frontend,
        Change::BackendAdd(_) | Change::BackendUpdate(_) | Change::BackendRemove { .. } => {
            Noun::Backend
        }
        Change::CertificateAdd(_)
        | Change::CertificateReplace { .. }
        | Change::CertificateRemove { .. } => return None,
    })
}
