//! Some keys of an object that is there: what `update` says.
//!
//! A person gives the keys that change; the change itself is whole, with what
//! stays as it was. So are the lines that main writes for workers. What is
//! told, saved and merged (`difference`) has only the keys that differ again:
//! two edits of different keys of one object both hold.

use super::command::{line_of, Noun};
use super::pairs::{fields_of, refused};
use super::table::Row;
use crate::config::certificate::{certificate_words, check_pem, secret_words, OWN_KEY};
use crate::config::fields::Fields;
use crate::config::keys::{self, answer_status, Default, Key};
use crate::config::needs;
use crate::config::object::{self, Words};
use crate::state::{no_backend, Certificate, Change, Code, Refused, State, Timeouts};
use std::fmt;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Keys of a cluster that belong to one certificate, which is the first of them.
const OWN: [&str; 4] = [
    "tls_certificate",
    OWN_KEY,
    "tls_certificate_path",
    "tls_key_path",
];

/// The keys of an object that are to change, with those that name it.
#[derive(Clone, PartialEq, Eq)]
pub struct Update {
    pub noun: Noun,
    pairs: Words,
    /// Keys that are to be as if they were never given.
    unset: Vec<String>,
}

/// A certificate in the place of another one, whose being the default it takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replace {
    pub fingerprint: Rc<str>,
    pub by: Rc<Certificate>,
}

impl Replace {
    /// As it was said: what it comes in the place of decides whether it is the default.
    fn encode_with_secrets(&self) -> String {
        let told = certificate_words(&self.by).into_iter();
        let mut words: Words = told.filter(|(key, _)| key != "default").collect();
        words.push(object::word("fingerprint", &self.fingerprint));
        words.extend(secret_words(&self.on(&State::default())));
        line_of(&["certificate", "replace"], words)
    }

    /// The change that this is to `state`.
    fn on(&self, state: &State) -> Change {
        let fingerprint = Rc::clone(&self.fingerprint);
        let old = state.certificate(self.by.listener, &fingerprint);
        let by = match old.is_some_and(|old| old.default) {
            true => Rc::new(Certificate {
                default: true,
                ..(*self.by).clone()
            }),
            false => Rc::clone(&self.by),
        };
        Change::CertificateReplace { fingerprint, by }
    }
}

/// One change as a line says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Do(Change),
    /// Some keys of what is there when it comes to it.
    Update(Update),
    /// As it is when it comes to it, too.
    Replace(Replace),
}

impl Step {
    /// The change that this is to `state`.
    pub fn on(&self, state: &State, defaults: &Timeouts) -> Result<Change, Refused> {
        match self {
            Step::Do(change) => Ok(change.clone()),
            Step::Update(update) => update.on(state, defaults),
            Step::Replace(replace) => Ok(replace.on(state)),
        }
    }

    /// A line without its LF.
    pub fn encode(&self) -> String {
        match self {
            Step::Do(change) => change.encode(),
            Step::Update(update) => update.encode(),
            Step::Replace(replace) => replace.on(&State::default()).encode(),
        }
    }

    /// With the keys of certificates.
    pub fn encode_with_secrets(&self) -> String {
        match self {
            Step::Do(change) => change.encode_with_secrets(),
            Step::Update(update) => update.line(true),
            Step::Replace(replace) => replace.encode_with_secrets(),
        }
    }

    /// The certificate that comes with it.
    pub fn certificate(&self) -> Option<&Rc<Certificate>> {
        match self {
            Step::Do(change) => change.certificate(),
            Step::Update(_) => None,
            Step::Replace(replace) => Some(&replace.by),
        }
    }
}

/// The steps that lead from one state to another: of what is updated, only the keys that differ.
pub fn difference(from: &State, to: &State) -> Vec<Step> {
    let changes = from.diff(to).into_iter();
    changes.map(|change| narrow(from, change)).collect()
}

fn narrow(from: &State, change: Change) -> Step {
    let update = match &change {
        Change::ListenerUpdate(new) => from.listener(new.address).map(|old| {
            let words = object::listener_words;
            Update::between(Noun::Listener, words(old), words(new))
        }),
        Change::ClusterUpdate(new) => from.cluster(&new.id).map(|old| {
            let (mut old_words, mut words) =
                (object::cluster_words(old), object::cluster_words(new));
            let own = new.own_certificate();
            if own.is_some() && own != old.own_certificate() {
                // All of it is told, with the key.
                old_words.retain(|(name, _)| !OWN.contains(&name.as_str()));
                words.extend(secret_words(&change));
            }
            Update::between(Noun::Cluster, old_words, words)
        }),
        Change::BackendUpdate(new) => from.backend(&new.cluster, &new.id).map(|old| {
            let words = object::backend_words;
            Update::between(Noun::Backend, words(old), words(new))
        }),
        _ => None,
    };
    update.map_or(Step::Do(change), Step::Update)
}

/// As it is encoded: what is secret is not shown here either.
impl fmt::Debug for Update {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        out.write_str(&self.encode())
    }
}

impl Update {
    /// The same, with the key that it was written without: read from where it was read before.
    pub fn refill(
        &self,
        file: &mut dyn FnMut(&Path) -> io::Result<String>,
    ) -> Result<Update, String> {
        let mut whole = self.clone();
        let keyless = self.value(OWN[0]).is_some() && self.value(OWN_KEY).is_none();
        for (name, path) in [(OWN[0], OWN[2]), (OWN_KEY, OWN[3])] {
            if let Some(path) = self.value(path).filter(|_| keyless) {
                let read = file(Path::new(path));
                let text = read.map_err(|e| format!("{path} cannot be read: {e}"))?;
                let text = check_pem(&text).map_err(|what| format!("{path} {what}"))?;
                whole.pairs.retain(|(known, _)| known != name);
                whole.pairs.push(object::word(name, text));
            }
        }
        Ok(whole)
    }

    pub(super) fn new(noun: Noun, pairs: Words) -> Update {
        let unset = Vec::new();
        Update { noun, pairs, unset }
    }

    pub(super) fn of(row: &Row, mut pairs: Words) -> Result<Update, Refused> {
        let noun = match row.noun {
            "listener" => Noun::Listener,
            "cluster" => Noun::Cluster,
            _ => Noun::Backend,
        };
        // Unknown keys and bad values are refused here; what is left out stays as it is.
        fields_of(row.takes(), pairs.clone(), &row.words())?;
        let unset = match pairs.iter().position(|(name, _)| name == keys::UNSET.name) {
            Some(at) => pairs.swap_remove(at).1,
            None => String::new(),
        };
        // By our own names from here on: they are compared with those of what is there.
        let own = |name: &str| match row.takes().find(|key| key.is(name)) {
            Some(key) => key.name.to_string(),
            None => name.to_string(),
        };
        pairs.iter_mut().for_each(|(name, _)| *name = own(name));
        let unset = unset.split(',').filter(|name| !name.is_empty()).map(own);
        let update = Update {
            noun,
            pairs,
            unset: unset.collect(),
        };
        update.check_unset(row)?;
        Ok(update)
    }

    fn check_unset(&self, row: &Row) -> Result<(), Refused> {
        let needed = |key: &Key| match key.default {
            Default::Required | Default::Implied(_) | Default::InFile(_) => true,
            Default::Empty
            | Default::Is(_)
            | Default::Global
            | Default::Https(_)
            | Default::InCommand => false,
        };
        let optional = |name: &str| {
            let mut known = keys_of(self.noun).0.iter();
            match answer_status(name) {
                Some(_) => known.any(|key| key.name == "answers"),
                None => known.any(|key| key.name == name && !needed(key)) && name != "answers",
            }
        };
        for name in &self.unset {
            let wrong = if !optional(name) {
                "cannot be unset"
            } else if self.value(name).is_some() {
                "is given and unset at once"
            } else {
                continue;
            };
            let what = format!("{}: {name:?} {wrong}", row.words());
            return Err(Refused::new(Code::Invalid, what));
        }
        Ok(())
    }

    /// What makes one object the other. Both have every key that has a value.
    fn between(noun: Noun, old: Words, mut new: Words) -> Update {
        let is_new = |name: &str| !new.iter().any(|(known, _)| known == name);
        let gone = old.iter().filter(|(name, _)| is_new(name));
        let unset = gone.map(|(name, _)| name.clone()).collect();
        let names = keys_of(noun).2;
        new.retain(|word| names.contains(&word.0.as_str()) || !old.contains(word));
        Update {
            noun,
            pairs: new,
            unset,
        }
    }

    /// A line without its LF. Keys of certificates are not in it.
    pub fn encode(&self) -> String {
        self.line(false)
    }

    fn line(&self, secrets: bool) -> String {
        let mut pairs = self.pairs.clone();
        pairs.retain(|(name, _)| secrets || name != OWN_KEY);
        if !self.unset.is_empty() {
            pairs.push(object::word(keys::UNSET.name, self.unset.join(",")));
        }
        let (_, what, _) = keys_of(self.noun);
        line_of(&what.split(' ').collect::<Vec<&str>>(), pairs)
    }

    /// Which object this is about, as text.
    pub fn names(&self) -> String {
        let (_, what, names) = keys_of(self.noun);
        let named = names.iter().map(|name| self.value(name));
        named.fold(what.to_string(), |text, name| {
            text + " " + name.unwrap_or_default()
        })
    }

    /// The part of `other`, of the same object, that this one overrules.
    pub fn overrules(&self, other: &Update) -> Option<Update> {
        let names = keys_of(self.noun).2;
        let touches = |name: &String| self.value(name).is_some() || self.unset.contains(name);
        let names_it = |name: &String| names.contains(&name.as_str());
        let mut part = other.clone();
        part.pairs
            .retain(|word| names_it(&word.0) || touches(&word.0) && !self.pairs.contains(word));
        part.unset.retain(|name| self.value(name).is_some());
        let more = part.pairs.iter().any(|(name, _)| !names_it(name));
        (more || !part.unset.is_empty()).then_some(part)
    }

    fn value(&self, key: &str) -> Option<&str> {
        let mut pairs = self.pairs.iter();
        let found = pairs.find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str())
    }

    /// The change that this is to an object of `state`.
    pub fn on(&self, state: &State, defaults: &Timeouts) -> Result<Change, Refused> {
        let named = |key: &str| {
            let needed = || Refused::new(Code::Invalid, format!("update: {key} is required"));
            self.value(key).ok_or_else(needed)
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
                let found = state.cluster(id);
                let found = found.ok_or_else(|| missing(format!("cluster {id}")))?;
                let mut words = object::cluster_words(found);
                words.extend(secret_words(&Change::ClusterUpdate(Rc::clone(found))));
                words
            }
            Noun::Backend | Noun::Frontend => {
                let (cluster, id) = (named("cluster")?, named("id")?);
                let what = || no_backend(cluster, id);
                object::backend_words(state.backend(cluster, id).ok_or_else(what)?)
            }
        };
        let touches =
            |key: &str| self.value(key).is_some() || self.unset.iter().any(|name| name == key);
        // With a certificate goes its key.
        let goes = |key: &str| touches(key) || OWN.contains(&key) && touches(OWN[0]);
        let kept = words.iter().filter(|(key, _)| !goes(key)).cloned();
        let (keys, what, _) = keys_of(self.noun);
        let pairs = kept.chain(self.pairs.iter().cloned()).collect();
        let mut fields = fields_of(keys.iter(), pairs, what)?;
        // What does nothing any more goes back to its default, where it has one.
        let has_default = |key: &&Key| matches!(key.default, Default::Is(_)) && !touches(key.name);
        let idle = needs::idle(&fields, keys).filter(has_default);
        let idle: Vec<&str> = idle.map(|key| key.name).collect();
        fields.split_off(&idle);
        self.change(fields, defaults)
    }

    /// The change, where every key is given: as main writes it for workers.
    pub fn whole(&self, defaults: &Timeouts) -> Result<Change, Refused> {
        let (keys, what, _) = keys_of(self.noun);
        let fields = fields_of(keys.iter(), self.pairs.clone(), what)?;
        self.change(fields, defaults)
    }

    fn change(&self, fields: Fields, defaults: &Timeouts) -> Result<Change, Refused> {
        let change =
            match self.noun {
                Noun::Listener => object::listener_from(fields, defaults)
                    .map(|listener| Change::ListenerUpdate(listener.into())),
                Noun::Cluster => object::cluster_from(fields)
                    .map(|cluster| Change::ClusterUpdate(cluster.into())),
                Noun::Backend | Noun::Frontend => object::backend_from(fields)
                    .map(|backend| Change::BackendUpdate(backend.into())),
            };
        change.map_err(|fault| refused(fault, keys_of(self.noun).1))
    }
}

/// The keys of an object, the command that updates it, and the keys that name it. Frontends have no update.
fn keys_of(noun: Noun) -> (&'static [Key], &'static str, &'static [&'static str]) {
    match noun {
        Noun::Listener => (keys::LISTENER, "listener update", &["address"]),
        Noun::Cluster => (keys::CLUSTER, "cluster update", &["id"]),
        Noun::Backend | Noun::Frontend => (keys::BACKEND, "backend update", &["cluster", "id"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::proto::command::Command;
    use crate::state::sample::Random;

    fn defaults() -> Timeouts {
        Settings::decode("settings").expect("defaults").timeouts
    }

    fn step(line: &str) -> Result<Step, Refused> {
        match Command::decode(line, &defaults())? {
            Command::Change(change) => Ok(Step::Do(change)),
            Command::Update(update) => Ok(Step::Update(update)),
            other => panic!("{other:?}"),
        }
    }

    fn apply(state: &mut State, line: &str) -> Result<(), Refused> {
        let change = step(line)?.on(state, &defaults())?;
        state.apply(&change).map(drop)
    }

    #[test]
    fn what_is_written_leads_to_the_other_state() {
        let mut updates = 0;
        for seed in 0..1000 {
            let mut random = Random::new(seed);
            let filed = random.state(40);
            let mut running = filed.clone();
            random.disturb(&mut running, 20);
            let steps = difference(&filed, &running);
            updates += steps
                .iter()
                .filter(|step| matches!(step, Step::Update(_)))
                .count();
            let mut state = filed.clone();
            for one in &steps {
                let line = one.encode_with_secrets();
                assert_eq!(step(&line).as_ref(), Ok(one), "{line}");
                apply(&mut state, &line).expect("a difference applies");
            }
            assert_eq!(state, running, "seed {seed}");
        }
        assert!(updates > 100, "{updates}");
    }

    fn one_backend(line: &str) -> State {
        let mut state = State::default();
        apply(
            &mut state,
            "cluster add id=a answer_404=no answer_503=\"\" answer_502=x",
        )
        .unwrap();
        apply(
            &mut state,
            "backend add cluster=a id=b address=127.0.0.1:1 weight=7",
        )
        .unwrap();
        apply(&mut state, line).unwrap();
        state
    }

    #[test]
    fn only_keys_that_differ_are_written() {
        let filed = one_backend("backend update cluster=a id=b weight=7");
        let name = "backend update cluster=a id=b";
        for (line, written) in [
            (format!("{name} state=drain"), format!("{name} state=drain")),
            (format!("{name} unset=weight"), format!("{name} weight=100")),
            (
                "cluster update id=a unset=answer_404,answer_503 answer_502=y".into(),
                "cluster update id=a answer_502=y unset=answer_404,answer_503".into(),
            ),
        ] {
            let steps = difference(&filed, &one_backend(&line));
            let lines: Vec<String> = steps.iter().map(Step::encode).collect();
            assert_eq!(lines, [written]);
        }
    }

    #[test]
    fn what_cannot_be_unset() {
        for (line, why) in [
            ("backend update cluster=a id=b unset=address", "cannot be"),
            ("backend update cluster=a id=b unset=id", "cannot be"),
            (
                "backend update cluster=a id=b unset=answer_404",
                "cannot be",
            ),
            ("cluster update id=a unset=answers", "cannot be"),
            ("cluster update id=a unset=answer_200", "cannot be"),
            ("cluster update id=a unset=unset", "cannot be"),
            ("listener update address=127.0.0.1:1 unset=", "no value"),
            (
                "backend update cluster=a id=b weight=1 unset=weight",
                "at once",
            ),
        ] {
            let refused = step(line).expect_err(line);
            assert!(refused.what.contains(why), "{line}: {refused}");
        }
    }

    #[test]
    fn what_one_edit_overrules_of_another() {
        let update = |line: &str| match step(line) {
            Ok(Step::Update(update)) => update,
            other => panic!("{other:?}"),
        };
        for (own, other, part) in [
            ("weight=1", "weight=2 backup=true", "weight=2"),
            ("weight=1", "weight=1", ""),
            ("weight=1", "backup=true", ""),
            ("unset=weight", "weight=2", "weight=2"),
            ("weight=1", "unset=weight,backup", "unset=weight"),
            ("unset=weight", "unset=weight", ""),
        ] {
            let name = "backend update cluster=a id=b ";
            let (own, other) = (
                update(&(name.to_string() + own)),
                update(&(name.to_string() + other)),
            );
            assert_eq!(own.names(), other.names());
            let found = own.overrules(&other).map(|part| part.encode());
            let wanted = (!part.is_empty()).then(|| name.to_string() + part);
            assert_eq!(found, wanted);
        }
    }
}
