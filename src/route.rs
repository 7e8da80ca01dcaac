//! From a request (hostname, path, method) to where it goes.
//!
//! Of the rules that match, the most specific one wins, whatever the order of
//! declaration: an exact hostname before `*.suffix` before `*`; then an exact
//! path before the longest prefix, on segment boundaries; then a rule with the
//! method before one for all. A hostname whose rules do not match leaves the
//! request to the next less specific one. Hash look-ups only: 100,000
//! hostnames cost what one costs, and rules come and go one by one.

use std::collections::HashMap;

use crate::parser::host;
use crate::state::{HostRule, PathRule};

/// The rules of one listener. `T` is where a rule leads.
pub struct Router<T> {
    exact: HashMap<Box<str>, Paths<T>>,
    suffix: HashMap<Box<str>, Paths<T>>,
    any: Paths<T>,
}

/// The rules of one hostname.
struct Paths<T> {
    exact: HashMap<Box<str>, Methods<T>>,
    prefix: HashMap<Box<str>, Methods<T>>,
    /// Most slashes that a prefix ever had here: no deeper one is looked for.
    depth: usize,
}

/// The rules of one path.
struct Methods<T> {
    by_name: Vec<(Box<str>, T)>,
    any: Option<T>,
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Router {
            exact: HashMap::new(),
            suffix: HashMap::new(),
            any: Paths::default(),
        }
    }
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Paths {
            exact: HashMap::new(),
            prefix: HashMap::new(),
            depth: 0,
        }
    }
}

impl<T> Default for Methods<T> {
    fn default() -> Self {
        Methods {
            by_name: Vec::new(),
            any: None,
        }
    }
}

impl<T> Router<T> {
    /// Adds a rule, or leads the one with the same identity elsewhere.
    pub fn insert(&mut self, hostname: &HostRule, path: &PathRule, method: Option<&str>, to: T) {
        let paths = match hostname {
            HostRule::Exact(name) => self.exact.entry(name.clone()).or_default(),
            HostRule::Suffix(name) => self.suffix.entry(name.clone()).or_default(),
            HostRule::Any => &mut self.any,
        };
        let methods = match path {
            PathRule::Exact(path) => paths.exact.entry(path.clone()).or_default(),
            PathRule::Prefix(path) => {
                paths.depth = paths.depth.max(slashes(path.as_bytes()));
                paths.prefix.entry(path.clone()).or_default()
            }
        };
        methods.insert(method, to);
    }

    pub fn remove(&mut self, hostname: &HostRule, path: &PathRule, method: Option<&str>) {
        match hostname {
            HostRule::Exact(name) => remove_at(&mut self.exact, name, path, method),
            HostRule::Suffix(name) => remove_at(&mut self.suffix, name, path, method),
            HostRule::Any => self.any.remove(path, method),
        }
    }

    /// Where the rule with that very identity leads.
    pub fn get(&self, hostname: &HostRule, path: &PathRule, method: Option<&str>) -> Option<&T> {
        let paths = match hostname {
            HostRule::Exact(name) => self.exact.get(name)?,
            HostRule::Suffix(name) => self.suffix.get(name)?,
            HostRule::Any => &self.any,
        };
        let methods = match path {
            PathRule::Exact(path) => paths.exact.get(path)?,
            PathRule::Prefix(path) => paths.prefix.get(path)?,
        };
        match method {
            None => methods.any.as_ref(),
            Some(method) => {
                let mut named = methods.by_name.iter();
                named.find(|(name, _)| **name == *method).map(|(_, to)| to)
            }
        }
    }

    /// `hostname` is that of the request, without port; `path` ends before the query.
    pub fn find(&self, hostname: &[u8], path: &[u8], method: &[u8]) -> Option<&T> {
        let mut lower = [0u8; 256];
        let name = std::str::from_utf8(host::normalize(hostname, &mut lower)).ok()?;
        let path = std::str::from_utf8(path).ok()?;
        let exact = || self.exact.get(name)?.find(path, method);
        let suffix = || {
            let (_, suffix) = name.split_once('.')?;
            self.suffix.get(suffix)?.find(path, method)
        };
        exact()
            .or_else(suffix)
            .or_else(|| self.any.find(path, method))
    }
}

fn remove_at<T>(
    hosts: &mut HashMap<Box<str>, Paths<T>>,
    name: &str,
    path: &PathRule,
    method: Option<&str>,
) {
    if let Some(paths) = hosts.get_mut(name) {
        paths.remove(path, method);
        if paths.exact.is_empty() && paths.prefix.is_empty() {
            hosts.remove(name);
        }
    }
}

fn slashes(path: &[u8]) -> usize {
    path.iter().filter(|byte| **byte == b'/').count()
}

impl<T> Paths<T> {
    fn remove(&mut self, path: &PathRule, method: Option<&str>) {
        let (map, path) = match path {
            PathRule::Exact(path) => (&mut self.exact, path),
            PathRule::Prefix(path) => (&mut self.prefix, path),
        };
        if let Some(methods) = map.get_mut(path) {
            methods.remove(method);
            if methods.any.is_none() && methods.by_name.is_empty() {
                map.remove(path);
            }
        }
    }

    fn find(&self, path: &str, method: &[u8]) -> Option<&T> {
        let exact = self
            .exact
            .get(path)
            .and_then(|methods| methods.find(method));
        exact.or_else(|| self.longest_prefix(path, method))
    }

    /// Candidates are the whole path and what ends before or behind one of its
    /// slashes; of those only as deep as a rule ever was.
    fn longest_prefix(&self, path: &str, method: &[u8]) -> Option<&T> {
        let at = |end: usize| self.prefix.get(path.get(..end)?)?.find(method);
        // The place behind the last slash that may matter.
        let deepest = path
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'/')
            .map(|(i, _)| i)
            .nth(self.depth)
            .unwrap_or(path.len());
        if let Some(found) = at(deepest) {
            return Some(found);
        }
        let head = path.as_bytes().get(..deepest)?;
        let mut ends = (0..head.len()).rev().filter(|i| head[*i] == b'/');
        ends.find_map(|slash| at(slash + 1).or_else(|| at(slash)))
    }
}

impl<T> Methods<T> {
    fn insert(&mut self, method: Option<&str>, to: T) {
        match method {
            None => self.any = Some(to),
            Some(name) => {
                self.by_name.retain(|(known, _)| **known != *name);
                self.by_name.push((name.into(), to));
            }
        }
    }

    fn remove(&mut self, method: Option<&str>) {
        match method {
            None => self.any = None,
            Some(name) => self.by_name.retain(|(known, _)| **known != *name),
        }
    }

    fn find(&self, method: &[u8]) -> Option<&T> {
        let named = self
            .by_name
            .iter()
            .find(|(name, _)| name.as_bytes() == method);
        named.map(|(_, to)| to).or(self.any.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> HostRule {
        match text.strip_prefix("*.") {
            _ if text == "*" => HostRule::Any,
            Some(suffix) => HostRule::Suffix(suffix.into()),
            None => HostRule::Exact(text.into()),
        }
    }

    fn prefix(path: &str) -> PathRule {
        PathRule::Prefix(path.into())
    }

    fn router(rules: &[(&str, &str, Option<&str>, u32)]) -> Router<u32> {
        let mut router = Router::default();
        for (name, path, method, to) in rules {
            let path = match path.strip_prefix('=') {
                Some(exact) => PathRule::Exact(exact.into()),
                None => prefix(path),
            };
            router.insert(&host(name), &path, *method, *to);
        }
        router
    }

    fn find(router: &Router<u32>, name: &str, path: &str) -> Option<u32> {
        router
            .find(name.as_bytes(), path.as_bytes(), b"GET")
            .copied()
    }

    #[test]
    fn the_most_specific_hostname_wins() {
        let rules = [
            ("*", "/", None, 1),
            ("*.b.c", "/", None, 2),
            ("a.b.c", "/", None, 3),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let router = router(&order.map(|i| rules[i]));
            assert_eq!(find(&router, "a.b.c", "/"), Some(3));
            assert_eq!(find(&router, "A.B.C.", "/x"), Some(3));
            assert_eq!(find(&router, "x.b.c", "/"), Some(2));
            assert_eq!(find(&router, "x.y.b.c", "/"), Some(1));
            assert_eq!(find(&router, "b.c", "/"), Some(1));
        }
    }

    #[test]
    fn prefixes_end_on_segment_boundaries_and_the_longest_wins() {
        let router = router(&[
            ("a", "/", None, 1),
            ("a", "/api", None, 2),
            ("a", "/api/v1", None, 3),
            ("a", "/img/", None, 4),
            ("a", "=/api/v1/exact", None, 5),
        ]);
        for (path, to) in [
            ("/", 1),
            ("/apix", 1),
            ("/api", 2),
            ("/api/", 2),
            ("/api/v2/v1", 2),
            ("/api/v1", 3),
            ("/api/v1x", 2),
            ("/api/v1/", 3),
            ("/api/v1/a/b/c/d/e/f", 3),
            ("/api/v1/exact", 5),
            ("/api/v1/exact/", 3),
            ("/img", 1),
            ("/img/", 4),
            ("/img/a", 4),
        ] {
            assert_eq!(find(&router, "a", path), Some(to), "{path}");
        }
    }

    #[test]
    fn a_method_is_more_specific_than_none_and_misses_fall_through() {
        let router = router(&[
            ("a", "/x", Some("POST"), 1),
            ("a", "/", Some("GET"), 2),
            ("*", "/x", None, 3),
        ]);
        assert_eq!(router.find(b"a", b"/x", b"POST"), Some(&1));
        assert_eq!(router.find(b"a", b"/x", b"GET"), Some(&2));
        assert_eq!(router.find(b"a", b"/x", b"PUT"), Some(&3));
        assert_eq!(router.find(b"a", b"/y", b"PUT"), None);
        assert_eq!(router.find(b"", b"/x", b"PUT"), Some(&3));
    }

    #[test]
    fn what_is_removed_is_gone_and_takes_no_room() {
        let mut router = router(&[("a", "/x", None, 1), ("*.b", "/", Some("GET"), 2)]);
        router.remove(&host("a"), &prefix("/x"), Some("GET"));
        // By identity, not by what it takes.
        assert_eq!(router.get(&host("a"), &prefix("/x"), None), Some(&1));
        assert_eq!(router.get(&host("a"), &prefix("/x"), Some("GET")), None);
        assert_eq!(router.get(&host("a"), &prefix("/x/y"), None), None);
        assert_eq!(
            router.get(&host("*.b"), &prefix("/"), Some("GET")),
            Some(&2)
        );
        assert_eq!(router.get(&host("x.b"), &prefix("/"), Some("GET")), None);
        assert_eq!(find(&router, "a", "/x"), Some(1));
        router.remove(&host("a"), &prefix("/x"), None);
        router.remove(&host("*.b"), &prefix("/"), Some("GET"));
        assert_eq!(find(&router, "a", "/x"), None);
        assert!(router.exact.is_empty() && router.suffix.is_empty());
    }
}
