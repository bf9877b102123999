//! The look-up of a request's path: a tree with one level for each segment.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::Method;

/// Most segments of one pattern that have names.
const MAX_PARAMETERS: usize = 3;

/// The order of `Allow`, without OPTIONS, which every path has.
const METHODS: [Method; 6] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

/// Patterns of paths with their methods; `T` is the target of one method of one pattern.
///
/// In a pattern `{name}` is one segment and `{name...}`, at the end, all that follows. Of several patterns that fit a
/// path, the one counts whose first segment to differ is more specific: a literal one, then a named one, then the rest.
#[derive(Debug)]
pub struct Tree<T> {
    root: Node<T>,
}

#[derive(Debug)]
struct Node<T> {
    literals: BTreeMap<String, Node<T>>,
    parameter: Option<Box<Node<T>>>,
    /// Of the pattern that ends here.
    methods: Option<Methods<T>>,
    /// Of the pattern that takes all that follows.
    rest: Option<Methods<T>>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { literals: BTreeMap::new(), parameter: None, methods: None, rest: None }
    }
}

#[derive(Debug)]
struct Methods<T> {
    targets: Vec<(Method, T)>,
    allow: Arc<str>,
}

/// The result of a look-up.
#[derive(Debug)]
pub enum Found<'t, T> {
    /// This target.
    Route(&'t T, Captured),
    /// The path has other methods: the value of `Allow`.
    OtherMethod(&'t Arc<str>),
    /// No pattern fits the path.
    Unknown,
}

/// The places of a path where its pattern has names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    places: [(usize, usize); MAX_PARAMETERS],
    count: usize,
}

impl Captured {
    fn with(mut self, begin: usize, end: usize) -> Self {
        self.places[self.count] = (begin, end);
        self.count += 1;
        self
    }

    /// The texts in the path that was looked up, as they stand, percent-encoding included.
    pub fn texts<'p>(&self, path: &'p str) -> impl Iterator<Item = &'p str> + use<'p> {
        let Self { places, count } = *self;
        (0..count).map(move |index| &path[places[index].0..places[index].1])
    }
}

impl<T> Default for Tree<T> {
    fn default() -> Self {
        Self { root: Node::default() }
    }
}

impl<T: Clone> Tree<T> {
    /// Adds one method of a pattern that begins with `/`, and HEAD with GET where `with_head`.
    ///
    /// # Panics
    /// The pattern has too many names, or has that method already: a mistake in the declaration of a route.
    pub fn insert(&mut self, method: &Method, pattern: &str, with_head: bool, target: &T) {
        let mut node = &mut self.root;
        let mut parameters = 0;
        let mut takes_rest = false;
        for segment in pattern[1..].split('/').filter(|segment| !segment.is_empty()) {
            parameters += usize::from(segment.starts_with('{'));
            assert!(parameters <= MAX_PARAMETERS, "{pattern} has more than {MAX_PARAMETERS} names");
            takes_rest = segment.ends_with("...}");
            if !takes_rest {
                node = match segment.starts_with('{') {
                    true => node.parameter.get_or_insert_default(),
                    false => node.literals.entry(segment.to_owned()).or_default(),
                };
            }
        }
        let slot = if takes_rest { &mut node.rest } else { &mut node.methods };
        let methods = slot.get_or_insert_with(|| Methods { targets: Vec::new(), allow: Arc::default() });
        let heads = (*method == Method::GET && with_head).then_some(Method::HEAD);
        for method in std::iter::once(method.clone()).chain(heads) {
            assert!(methods.find(&method).is_none(), "{method} {pattern} is declared twice");
            methods.targets.push((method, target.clone()));
        }
        methods.allow = methods.named();
    }
}

impl<T> Tree<T> {
    /// Looks up a path. One slash at its end makes no difference, but is part of what `{name...}` captures.
    pub fn find(&self, method: &Method, path: &str) -> Found<'_, T> {
        let Some((methods, captured)) = self.methods(path) else { return Found::Unknown };
        match methods.find(method) {
            Some(target) => Found::Route(target, captured),
            None => Found::OtherMethod(&methods.allow),
        }
    }

    fn methods(&self, path: &str) -> Option<(&Methods<T>, Captured)> {
        if path == "/" {
            return self.root.methods.as_ref().map(|methods| (methods, Captured::default()));
        }
        if !path.starts_with('/') {
            return None;
        }
        let end = path.strip_suffix('/').unwrap_or(path).len();
        self.root.descend(path, 1, end, Captured::default())
    }
}

impl<T> Node<T> {
    /// Looks for what stands in `path` from `begin` to `end`.
    fn descend(
        &self,
        path: &str,
        begin: usize,
        end: usize,
        captured: Captured,
    ) -> Option<(&Methods<T>, Captured)> {
        let segment = path.get(begin..end)?.split('/').next()?;
        let stop = begin + segment.len();
        let literal = self.literals.get(segment);
        if let Some(found) = literal.and_then(|node| node.enter(path, stop, end, captured)) {
            return Some(found);
        }
        let parameter = self.parameter.as_deref().filter(|_| !segment.is_empty());
        let with_parameter =
            parameter.and_then(|node| node.enter(path, stop, end, captured.with(begin, stop)));
        if with_parameter.is_some() {
            return with_parameter;
        }
        let rest = self.rest.as_ref().filter(|_| begin < end)?;
        Some((rest, captured.with(begin, path.len())))
    }

    /// Goes on behind a segment that ends at `stop`.
    fn enter(
        &self,
        path: &str,
        stop: usize,
        end: usize,
        captured: Captured,
    ) -> Option<(&Methods<T>, Captured)> {
        if stop < end {
            return self.descend(path, stop + 1, end, captured);
        }
        self.methods.as_ref().map(|methods| (methods, captured))
    }
}

impl<T> Methods<T> {
    fn find(&self, method: &Method) -> Option<&T> {
        self.targets.iter().find(|(own, _)| own == method).map(|(_, target)| target)
    }

    fn named(&self) -> Arc<str> {
        let own = METHODS.iter().filter(|method| self.find(method).is_some()).map(Method::as_str);
        let all: Vec<_> = own.chain(["OPTIONS"]).collect();
        all.join(", ").into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATTERNS: [&str; 10] = [
        "/",
        "/health",
        "/v1/models",
        "/v1/models/{id...}",
        "/v1/things/{id}",
        "/v1/things/count",
        "/v1/things/{id}/parts",
        "/v1/things/{id}/parts/{part}",
        "/v1/things/{id}/{other...}",
        "/{file}",
    ];

    fn tree() -> Tree<&'static str> {
        let mut tree = Tree::default();
        for pattern in PATTERNS {
            tree.insert(&Method::GET, pattern, true, &pattern);
        }
        tree
    }

    fn found(tree: &Tree<&'static str>, path: &str) -> Option<(&'static str, Vec<String>)> {
        match tree.find(&Method::GET, path) {
            Found::Route(pattern, captured) => {
                Some((pattern, captured.texts(path).map(str::to_owned).collect()))
            }
            _ => None,
        }
    }

    /// The same by comparing the path with every pattern.
    fn found_by_comparing(path: &str) -> Option<(&'static str, Vec<String>)> {
        let fitting = PATTERNS.iter().filter_map(|&pattern| {
            let captured = captured_by(pattern, path)?;
            // A literal segment, then a named one, then the rest.
            let kinds = pattern.split('/').map(|segment| match segment {
                segment if segment.ends_with("...}") => 2,
                segment if segment.starts_with('{') => 1,
                _ => 0,
            });
            Some((kinds.collect::<Vec<_>>(), pattern, captured))
        });
        fitting.min().map(|(_, pattern, captured)| (pattern, captured))
    }

    fn captured_by(pattern: &str, path: &str) -> Option<Vec<String>> {
        if path == "/" || pattern == "/" {
            return (path == pattern).then(Vec::new);
        }
        let shortened = path.strip_suffix('/').unwrap_or(path);
        let (mut given, mut captured) = (shortened.split('/'), Vec::new());
        for segment in pattern.split('/') {
            if segment.ends_with("...}") {
                let rest: Vec<_> = given.collect();
                let slash = &path[shortened.len()..];
                let is_empty = rest.is_empty() || rest == [""];
                return (!is_empty).then(|| [captured, vec![rest.join("/") + slash]].concat());
            }
            let text = given.next()?;
            match segment.starts_with('{') {
                true if text.is_empty() => return None,
                true => captured.push(text.to_owned()),
                false if text != segment => return None,
                false => {}
            }
        }
        given.next().is_none().then_some(captured)
    }

    #[test]
    fn patterns_take_their_own_paths_alone() {
        let tree = tree();
        let one = |path| found(&tree, path).map(|(pattern, captured)| (pattern, captured.join("|")));
        for (path, pattern, captured) in [
            ("/", "/", ""),
            ("/health/", "/health", ""),
            ("/other", "/{file}", "other"),
            ("/v1/models/", "/v1/models", ""),
            ("/v1/models/a/b", "/v1/models/{id...}", "a/b"),
            ("/v1/models/a/", "/v1/models/{id...}", "a/"),
            ("/v1/models///", "/v1/models/{id...}", "//"),
            ("/v1/models/%2e%2e", "/v1/models/{id...}", "%2e%2e"),
            ("/v1/things/count", "/v1/things/count", ""),
            ("/v1/things/a%20b", "/v1/things/{id}", "a%20b"),
            ("/v1/things/count/parts/", "/v1/things/{id}/parts", "count"),
            ("/v1/things/a/parts/b", "/v1/things/{id}/parts/{part}", "a|b"),
            ("/v1/things/a/parts/b/c", "/v1/things/{id}/{other...}", "a|parts/b/c"),
        ] {
            assert_eq!(one(path), Some((pattern, captured.to_owned())), "{path}");
        }
        for path in ["", "*", "//", "///", "/v1//models", "//v1/models", "/v1/models//", "/v1/Models", "v1"] {
            assert_eq!(one(path), None, "{path}");
        }
    }

    #[test]
    fn other_methods_are_told_from_unknown_paths() {
        let mut tree = Tree::default();
        for (method, pattern, with_head) in [
            (Method::DELETE, "/a/{id}", true),
            (Method::GET, "/a/{id}", true),
            (Method::POST, "/a/{id}", true),
            (Method::GET, "/b", false),
        ] {
            tree.insert(&method, pattern, with_head, &());
        }
        let allow = |method, path| match tree.find(&method, path) {
            Found::OtherMethod(allow) => Some(allow.to_string()),
            _ => None,
        };
        assert_eq!(allow(Method::PUT, "/a/1"), Some("GET, HEAD, POST, DELETE, OPTIONS".to_owned()));
        assert_eq!(allow(Method::OPTIONS, "/a/1/"), Some("GET, HEAD, POST, DELETE, OPTIONS".to_owned()));
        assert_eq!(allow(Method::HEAD, "/b"), Some("GET, OPTIONS".to_owned()));
        assert_eq!(allow(Method::HEAD, "/a/1"), None);
        assert!(matches!(tree.find(&Method::OPTIONS, "/c"), Found::Unknown));
    }

    #[test]
    #[should_panic(expected = "declared twice")]
    fn a_route_is_declared_once() {
        tree().insert(&Method::GET, "/v1/things/{other}", true, &"");
    }

    fn path() -> impl Strategy<Value = String> {
        const WORDS: &[&str] = &["", "v1", "models", "things", "count", "parts", "health", "a", "%2f", "."];
        let near = prop::collection::vec(prop::sample::select(WORDS), 0..7);
        prop_oneof![
            4 => near.prop_map(|segments| format!("/{}", segments.join("/"))),
            1 => "[/a-z{}.%-]{0,40}",
        ]
    }

    proptest! {
        #[test]
        fn look_up_is_comparing_with_every_pattern(path in path()) {
            // What is no path at all is nothing; the comparison does not know that.
            prop_assume!(path.starts_with('/'));
            prop_assert_eq!(found(&tree(), &path), found_by_comparing(&path));
        }

        #[test]
        fn no_text_panics(path in "\\PC{0,40}") {
            let _ = found(&tree(), &path);
        }
    }
}
