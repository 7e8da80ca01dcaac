//! `config.toml` to settings and state.
//!
//! Owns: which tables there are, and what the file leaves unsaid (names of
//! backends, listeners nobody wrote down, certificates written into a frontend). Never: the keys (`keys`), the form
//! of a value (`fields`). Called by main at the start and for a reload, by
//! `sozu check`, and by tests with files of their own.

use super::certificate::{certificate_from, OWN_KEY};
use super::fields::{missing, Fault, Fields, Value};
use super::keys::{BACKEND, CERTIFICATE, CERTIFICATE_HERE, CLUSTER, FRONTEND, GLOBAL, LISTENER};
use super::object;
use super::report::{Errors, Report, Warning};
use super::table::{Object, Place, Reader};
use super::Settings;
use crate::limits::CONFIG_BYTES_MAX;
use crate::parser::toml::{self, Item, Table};
use crate::state::{Change, Cluster, Code, Frontend, Protocol, State, Timeouts};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;

/// All that a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub settings: Settings,
    pub state: State,
}

const TOP: Place = Place {
    name: "global",
    keys: GLOBAL,
    more: &[],
    tables: &[
        "listeners",
        "clusters",
        "applications",
        "frontends",
        "certificates",
    ],
};
const LISTENERS: Place = Place {
    name: "listeners",
    keys: LISTENER,
    more: CERTIFICATE_HERE,
    tables: &[],
};
const CERTIFICATES: Place = Place {
    name: "certificates",
    keys: CERTIFICATE,
    more: &[],
    tables: &[],
};
const CLUSTERS: Place = Place {
    name: "clusters",
    keys: CLUSTER,
    more: &[],
    tables: &["frontends", "backends"],
};
const FRONTENDS: Place = Place {
    name: "frontends",
    keys: FRONTEND,
    more: CERTIFICATE_HERE,
    tables: &[],
};
const BACKENDS: Place = Place {
    name: "backends",
    keys: BACKEND,
    more: &[],
    tables: &[],
};

/// What a listener or a frontend says of a certificate, with where it was read.
const IN_IT: [&str; 6] = [
    "certificate",
    "certificate_chain",
    "key",
    "certificate_path",
    "certificate_chain_path",
    "key_path",
];

/// Reads the file at `path` and those it names.
pub fn load(path: &Path) -> Result<(Config, Vec<Warning>), Errors> {
    let name = path.display().to_string();
    let unreadable = |error| {
        let what = format!("cannot be read: {error}");
        Errors(vec![Report::of_file(&name, what)])
    };
    let text = read_file(path).map_err(unreadable)?;
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    // Absolute, so that a path means the same to workers and after an upgrade.
    let folder = std::path::absolute(folder).map_err(unreadable)?;
    read(&text, &name, &folder, &mut read_file)
}

/// One file, if it is text and not larger than any of ours may be.
fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let most = CONFIG_BYTES_MAX as u64 + 1;
    std::fs::File::open(path)?
        .take(most)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Reads `text`, which `name` names in messages. Paths in it are relative to
/// `folder`; `file` gives the files that they name.
pub fn read(
    text: &str,
    name: &str,
    folder: &Path,
    file: &mut dyn FnMut(&Path) -> io::Result<String>,
) -> Result<(Config, Vec<Warning>), Errors> {
    let root = toml::parse(text).map_err(|error| {
        let toml::Error { at, what, .. } = error;
        Errors(vec![Report::new(name, text, at, what)])
    })?;
    let mut reader = Reader::new(text, name, folder, file);
    let config = everything(&mut reader, &root);
    let warnings = reader.finish()?;
    // Without an error there is a configuration.
    let nothing = || Errors(vec![Report::of_file(name, "says nothing".into())]);
    config.map(|config| (config, warnings)).ok_or_else(nothing)
}

fn everything(reader: &mut Reader, root: &Table) -> Option<Config> {
    let top = reader.object(&TOP, root, 0);
    let settings = reader.build(top, Settings::from);
    // The rest is read even then, for its own errors.
    let defaults = || Settings::from(Fields::default()).ok();
    let mut building = Building {
        state: State::default(),
        broken: settings.is_none(),
        timeouts: settings.clone().or_else(defaults)?.timeouts,
    };
    if let Some(item) = root.get("listeners") {
        for (table, at) in reader.tables(item) {
            building.listener(reader, table, at);
        }
    }
    for name in ["clusters", "applications"] {
        if let Some(item) = root.get(name) {
            for (name, table, at) in reader.named_tables(item) {
                building.cluster(reader, name, table, at);
            }
        }
    }
    if let Some(item) = root.get("frontends") {
        for (table, at) in reader.tables(item) {
            building.frontend(reader, None, table, at);
        }
    }
    if let Some(item) = root.get("certificates") {
        for (table, at) in reader.tables(item) {
            let object = reader.object(&CERTIFICATES, table, at);
            building.certificate(reader, object, false);
        }
    }
    let state = building.state;
    settings.map(|settings| Config { settings, state })
}

/// The state so far, and the global time limits.
struct Building {
    state: State,
    /// Something is not in it because it is wrong.
    broken: bool,
    timeouts: Timeouts,
}

impl Building {
    fn apply(&mut self, reader: &mut Reader, at: usize, change: Change) {
        if let Err(refused) = self.state.apply(&change) {
            // What is missing may stand there, and be what is broken.
            let follows = matches!(refused.code, Code::Missing | Code::Mismatch);
            if !(self.broken && follows) {
                reader.error(at, refused.what);
            }
        }
    }

    fn build<T>(
        &mut self,
        reader: &mut Reader,
        object: Object,
        from: impl FnOnce(Fields) -> Result<T, Fault>,
    ) -> Option<T> {
        let built = reader.build(object, from);
        self.broken |= built.is_none();
        built
    }

    fn listener(&mut self, reader: &mut Reader, table: &Table, at: usize) {
        let mut object = reader.object(&LISTENERS, table, at);
        let certificate = object.split_off(&IN_IT);
        let at = object.place_of("address");
        let timeouts = self.timeouts;
        let build = |fields| object::listener_from(fields, &timeouts);
        if let Some(listener) = self.build(reader, object, build) {
            let address = listener.address;
            self.apply(reader, at, Change::ListenerAdd(listener.into()));
            if let Some(mut object) = certificate {
                object.fields.set("listener", Value::Address(address));
                object.fields.set("default", Value::Bool(true));
                self.certificate(reader, object, false);
            }
        }
    }

    /// `again`: several frontends may have the same one.
    fn certificate(&mut self, reader: &mut Reader, object: Object, again: bool) {
        let at = object.place_of("certificate");
        let build = |fields: Fields| match fields.contains("key") {
            true => certificate_from(fields),
            false => Err(missing("key")),
        };
        let Some(certificate) = self.build(reader, object, build) else {
            return;
        };
        let (listener, fingerprint) = (certificate.listener, certificate.fingerprint());
        if again && self.state.certificate(listener, fingerprint).is_some() {
            return;
        }
        self.apply(reader, at, Change::CertificateAdd(certificate.into()));
    }

    fn cluster(&mut self, reader: &mut Reader, name: &str, table: &Table, at: usize) {
        let mut object = reader.object(&CLUSTERS, table, at);
        reader.implied(&mut object, "id", name);
        let build = |fields: Fields| {
            let keyless = fields.contains("tls_certificate") && !fields.contains(OWN_KEY);
            match keyless {
                true => Err(missing(OWN_KEY)),
                false => object::cluster_from(fields),
            }
        };
        let Some(cluster) = self.build(reader, object, build) else {
            return;
        };
        let cluster = Rc::new(cluster);
        self.apply(reader, at, Change::ClusterAdd(Rc::clone(&cluster)));
        if let Some(item) = table.get("backends") {
            self.backends(reader, &cluster.id, item);
        }
        if let Some(item) = table.get("frontends") {
            for (table, at) in reader.tables(item) {
                self.frontend(reader, Some(&cluster), table, at);
            }
        }
    }

    fn backends(&mut self, reader: &mut Reader, cluster: &str, item: &Item) {
        for (index, (table, at)) in reader.tables(item).into_iter().enumerate() {
            let mut object = reader.object(&BACKENDS, table, at);
            let at = object.place_of("id");
            reader.implied(&mut object, "cluster", cluster);
            if !object.fields.contains("id") {
                reader.implied(&mut object, "id", &format!("{cluster}-{index}"));
            }
            if let Some(backend) = self.build(reader, object, object::backend_from) {
                self.apply(reader, at, Change::BackendAdd(backend.into()));
            }
        }
    }

    /// Without a cluster it answers itself.
    fn frontend(
        &mut self,
        reader: &mut Reader,
        cluster: Option<&Cluster>,
        table: &Table,
        at: usize,
    ) {
        let mut object = reader.object(&FRONTENDS, table, at);
        let certificate = object.split_off(&IN_IT);
        let listener_at = object.place_of("listener");
        if let Some(cluster) = cluster {
            reader.implied(&mut object, "cluster", &cluster.id);
        }
        let Some(frontend) = self.build(reader, object, object::frontend_from) else {
            return;
        };
        let address = frontend.identity.listener;
        let protocol = match certificate {
            Some(_) => Protocol::Https,
            None => cluster.map_or(Protocol::Http, |cluster| cluster.protocol),
        };
        self.listener_of(reader, &frontend, protocol, listener_at);
        if let Some(mut object) = certificate {
            object.fields.set("listener", Value::Address(address));
            self.certificate(reader, object, true);
        }
        self.apply(reader, at, Change::FrontendAdd(frontend));
    }

    /// An address that no `[[listeners]]` mentions gets a listener with all defaults.
    fn listener_of(
        &mut self,
        reader: &mut Reader,
        frontend: &Frontend,
        protocol: Protocol,
        at: usize,
    ) {
        let address: SocketAddr = frontend.identity.listener;
        if self.state.listener(address).is_some() {
            return;
        }
        let mut fields = Fields::default();
        fields.set("address", Value::Address(address));
        fields.set("protocol", Value::Text(protocol.name().into()));
        match object::listener_from(fields, &self.timeouts) {
            Ok(listener) => self.apply(reader, at, Change::ListenerAdd(listener.into())),
            Err(Fault { what, .. }) => reader.error(at, what),
        }
    }
}

#[cfg(test)]
mod tests;
