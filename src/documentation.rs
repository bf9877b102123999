//! The documentation compared with the repository: the files and headings that it names exist, and it has every route and field.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::api;

/// Folders with what was built or downloaded, and the repository's own.
const OTHER_FOLDERS: [&str; 8] =
    [".git", ".venv", "__pycache__", "bench-results", "data", "dist", "node_modules", "target"];

/// Endings of the names that are taken for those of files.
const ENDINGS: [&str; 9] = [".rs", ".md", ".py", ".js", ".mjs", ".sh", ".toml", ".json", ".proto"];

/// Pages whose paths begin at the root of the repository.
const ROOTED: [&str; 2] = ["CONTRIBUTING.md", "docs/contributing.md"];

/// Pages that also name files by the end of their paths.
const BY_THEIR_ENDS: [&str; 1] = ["docs/architecture.md"];

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the paths of all files and folders, from the root.
fn repository() -> BTreeSet<String> {
    fn walk(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if OTHER_FOLDERS.contains(&&*name) {
                continue;
            }
            let path = format!("{prefix}{name}");
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &format!("{path}/"), found);
            }
            found.insert(path);
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new(env!("CARGO_MANIFEST_DIR")), "", &mut found);
    found
}

/// Returns a page without its blocks of code.
fn prose(page: &str) -> String {
    page.split("\n```").step_by(2).collect()
}

/// Returns the words of the spans that are set as code.
fn code_words(page: &str) -> Vec<String> {
    let text = prose(page);
    let spans = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    spans.flat_map(str::split_whitespace).map(|word| word.replace("\\|", "|")).collect()
}

/// Returns the words that `{a,b}` stands for.
fn alternatives(word: &str) -> Vec<String> {
    let braces = word.split_once('{').and_then(|(before, rest)| {
        let (inside, after) = rest.split_once('}')?;
        inside.contains(',').then_some((before, inside, after))
    });
    let Some((before, inside, after)) = braces else { return vec![word.to_owned()] };
    inside.split(',').flat_map(|one| alternatives(&format!("{before}{one}{after}"))).collect()
}

/// Returns the path that a word stands for, if it looks like one: the part before `NAME`, which stands for any.
fn path_in(word: &str) -> Option<&str> {
    let is_path = |c: char| c.is_ascii_alphanumeric() || "_-./*".contains(c);
    let is_named = word.contains('/') || ENDINGS.iter().any(|end| word.ends_with(end));
    if !is_named || word.starts_with('/') || !word.chars().all(is_path) {
        return None;
    }
    let is_generated = OTHER_FOLDERS.iter().any(|folder| word.split('/').next() == Some(*folder));
    let path = match word.split_once("NAME") {
        Some((before, _)) => before.rsplit_once('/').map_or("", |(folder, _)| folder),
        None => word.trim_end_matches('/'),
    };
    (!is_generated && !path.is_empty()).then_some(path)
}

/// Returns `true` if a path, or where `by_end` its end, is as the pattern says; `*` stands for a part of one name.
fn fits(pattern: &str, path: &str, by_end: bool) -> bool {
    let (patterns, names) = (pattern.split('/').rev(), path.split('/').rev());
    let (wanted, given) = (patterns.clone().count(), names.clone().count());
    (wanted == given || by_end && wanted < given)
        && patterns.zip(names).all(|(pattern, name)| match pattern.split_once('*') {
            Some((begin, end)) => {
                name.len() >= begin.len() + end.len() && name.starts_with(begin) && name.ends_with(end)
            }
            None => name == pattern,
        })
}

/// Returns the paths of a page that are not in the repository.
fn missing_paths(page: &str, repository: &BTreeSet<String>, by_end: bool) -> Vec<String> {
    let words = code_words(page).iter().flat_map(|word| alternatives(word)).collect::<Vec<_>>();
    let paths = words.iter().filter_map(|word| path_in(word));
    // A name without a folder is that of any file.
    let exists = |path: &&str| repository.iter().any(|one| fits(path, one, by_end || !path.contains('/')));
    paths.filter(|path| !exists(path)).map(str::to_owned).collect()
}

/// Returns the anchors of a page: its headings as GitHub writes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
        text.chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

fn pages() -> Vec<String> {
    let is_page = |path: &String| path.ends_with(".md") && (!path.contains('/') || path.starts_with("docs/"));
    repository().into_iter().filter(is_page).collect()
}

#[test]
fn named_files_exist() {
    let repository = repository();
    for (pages, by_end) in [(&ROOTED[..], false), (&BY_THEIR_ENDS[..], true)] {
        for page in pages {
            let missing = missing_paths(&read(page), &repository, by_end);
            assert!(missing.is_empty(), "{page} names files that do not exist: {missing:?}");
        }
    }
}

#[test]
fn paths_are_found_in_text() {
    let repository = ["a/b.rs", "a/c/d_tests.rs", "a", "a/c", "e.toml"].map(str::to_owned).into();
    let missing = |page: &str, by_end| missing_paths(page, &repository, by_end);
    let page = "`a/b.rs`, `a/{b,x}.rs` `c/d_tests.rs`, `a/c/*_tests.rs`, `a/NAME.rs` `z/NAME/`, `e.toml`\n\
                ```text\n`no.rs`\n```\n`f.toml` and `/v1/path`, `target/x.rs` `make a` a/y.rs `a/c/`";
    assert_eq!(missing(page, false), ["a/x.rs", "c/d_tests.rs", "z", "f.toml"]);
    assert_eq!(missing(page, true), ["a/x.rs", "z", "f.toml"]);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let repository = repository();
    for page in pages() {
        let text = read(&page);
        for link in prose(&text).split("](").skip(1) {
            let link = link.split(')').next().unwrap_or_default();
            if link.contains(':') {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
            let target = match (file, file.strip_prefix("../")) {
                ("", _) => page.clone(),
                (_, Some(file)) => file.to_owned(),
                (file, None) if folder.is_empty() => file.to_owned(),
                (file, None) => format!("{folder}/{file}"),
            };
            assert!(repository.contains(target.trim_end_matches('/')), "{page} links to {link}");
            assert!(anchor.is_empty() || anchors(&read(&target)).contains(anchor), "{page} links to {link}");
        }
    }
}

#[test]
fn every_route_is_in_the_guide() {
    let words = code_words(&read("docs/api.md"));
    let without_prefix = |path: &str| path.strip_prefix("/api/v1").unwrap_or(path).to_owned();
    let named: BTreeSet<String> =
        words.iter().map(|word| without_prefix(word.split('?').next().unwrap_or_default())).collect();
    let routes = api::routes();
    let paths = routes.iter().map(|route| route.described_path());
    // The files of the interactive page are described in one line.
    let paths = paths.filter(|path| !path.starts_with("/api/swagger"));
    let silent: BTreeSet<String> = paths.filter(|path| !named.contains(&without_prefix(path))).collect();
    assert!(silent.is_empty(), "add to the table of routes in docs/api.md: {silent:?}");
}

#[test]
fn every_field_of_inference_is_in_the_guide() {
    let words = code_words(&read("docs/api.md"));
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: BTreeSet<&str> = words.iter().flat_map(|word| word.split(|c| !is_of_name(c))).collect();
    let description: Value = serde_json::from_str(&read("fixtures/openapi.json")).unwrap();
    for request in ["ChatRequest", "CompletionRequest", "CreateResponse", "EmbeddingsRequest"] {
        let fields = description["components"]["schemas"][request]["properties"].as_object().unwrap();
        let silent: Vec<_> = fields.keys().filter(|field| !named.contains(field.as_str())).collect();
        assert!(silent.is_empty(), "{request}: add to \"Fields\" in docs/api.md: {silent:?}");
    }
}
