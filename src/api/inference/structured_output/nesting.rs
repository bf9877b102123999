//! Bounds on the nesting depth of a JSON schema, references included.
//!
//! Compilers and validators walk a schema recursively and follow its references. JSON's own nesting is bounded by the
//! parser of the body, but a flat list of definitions that refer to each other nests as deeply as it is long, and a
//! stack overflow aborts the whole process. The nesting is therefore bounded here, without recursion, before any such
//! walk, and the walks run on a stack that this bound cannot exhaust.

use std::collections::HashMap;
use std::thread;

use percent_encoding::percent_decode_str;
use serde_json::Value;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task;

/// Maximum number of nested arrays and objects, where a reference continues with the levels of its target.
const MAX_LEVELS: usize = 2000;

/// The bound for schemas with `unevaluatedProperties` or `unevaluatedItems`, for which every level walks those below
/// again.
const MAX_LEVELS_UNEVALUATED: usize = 200;

/// Maximum number of values visited to measure a schema: targets of references can contain each other.
const MAX_VISITS: usize = 1_000_000;

/// Stack size for walks over a schema, in bytes: at least six times the measured need of [`MAX_LEVELS`] levels. Only
/// pages that are touched take memory.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Keywords that refer to another schema.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];

/// The levels and the references of one schema or definition.
#[derive(Default)]
struct Node<'a> {
    levels: usize,
    references: Vec<&'a str>,
    unevaluated: bool,
    /// Set if references can mean something other than a path from the root.
    rebased: bool,
}

/// Checks that a schema nests no deeper than the recursive walks can follow.
///
/// # Errors
/// A text that states the bound and what to change.
pub fn check(schema: &Value) -> Result<(), String> {
    let too_much = || "its references lead through too many definitions; use fewer of them".to_owned();
    let mut visits = 0;
    let root = survey(schema, &mut visits).ok_or_else(too_much)?;
    let allowed = if root.unevaluated { MAX_LEVELS_UNEVALUATED } else { MAX_LEVELS };
    let mut numbers: HashMap<&str, usize> = HashMap::new();
    let mut nodes = vec![root];
    let mut next = 0;
    // The distinct targets, each surveyed once. Names that are not paths can refer to anything in the schema.
    while next < nodes.len() {
        for reference in nodes[next].references.clone() {
            if !numbers.contains_key(reference) {
                numbers.insert(reference, nodes.len());
                let target =
                    if nodes[0].rebased { schema } else { resolved(schema, reference).unwrap_or(schema) };
                nodes.push(survey(target, &mut visits).ok_or_else(too_much)?);
            }
        }
        next += 1;
    }
    let edges: Vec<Vec<usize>> =
        nodes.iter().map(|node| node.references.iter().map(|target| numbers[target]).collect()).collect();
    let levels: Vec<usize> = nodes.iter().map(|node| node.levels).collect();
    let deepest = deepest(&edges, &levels);
    if deepest > allowed {
        return Err(format!(
            "it nests {deepest} levels deep through its references, and {allowed} are allowed; make its chains of \
             references shorter"
        ));
    }
    Ok(())
}

/// Runs a walk over a schema that passed [`check`] on a stack that is large enough for it. The runtime gets another thread for the
/// requests of others meanwhile.
///
/// # Errors
/// The system has no thread or memory left.
pub fn on_large_stack<T: Send>(walk: impl FnOnce() -> T + Send) -> Result<T, String> {
    let walk = || {
        thread::scope(|scope| {
            let thread = thread::Builder::new()
                .name("schema".to_owned())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, walk)
                .map_err(|error| format!("the server cannot check it now: {error}"))?;
            thread.join().map_err(|_| "checking it failed in the server; simplify it".to_owned())
        })
    };
    match Handle::try_current() {
        Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => task::block_in_place(walk),
        _ => walk(),
    }
}

/// Surveys a schema without following its references; `None` if that takes too many visits.
fn survey<'a>(schema: &'a Value, visits: &mut usize) -> Option<Node<'a>> {
    let mut node = Node::default();
    let mut left = vec![(schema, 1)];
    while let Some((value, level)) = left.pop() {
        *visits += 1;
        if *visits > MAX_VISITS {
            return None;
        }
        match value {
            Value::Array(values) => left.extend(values.iter().map(|value| (value, level + 1))),
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(target) if REFERENCES.contains(&name.as_str()) => {
                            node.references.push(target);
                        }
                        Value::String(_) if level > 1 && (name == "$id" || name == "id") => {
                            node.rebased = true
                        }
                        _ => left.push((value, level + 1)),
                    }
                    node.unevaluated |= name == "unevaluatedProperties" || name == "unevaluatedItems";
                }
            }
            _ => continue,
        }
        node.levels = node.levels.max(level);
    }
    node.references.sort_unstable();
    node.references.dedup();
    Some(node)
}

fn resolved<'a>(schema: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = percent_decode_str(reference.strip_prefix('#')?).decode_utf8().ok()?;
    schema.pointer(&pointer)
}

/// Returns an upper bound on the levels of any path that visits no node twice. Nodes before and after cycles are
/// measured along their longest path; of the cycles every node counts.
fn deepest(edges: &[Vec<usize>], levels: &[usize]) -> usize {
    let mut reversed = vec![Vec::new(); edges.len()];
    for (from, targets) in edges.iter().enumerate() {
        targets.iter().for_each(|&to| reversed[to].push(from));
    }
    let mut left = vec![true; edges.len()];
    let behind = peeled(&reversed, edges, levels, &mut left);
    let before = peeled(edges, &reversed, levels, &mut left);
    let circles: usize = levels.iter().zip(&left).filter(|(_, left)| **left).map(|(levels, _)| levels).sum();
    behind.saturating_add(before).saturating_add(circles)
}

/// Removes nodes without a remaining `incoming` edge, one after the other, and returns the maximum number of levels
/// along a path of removed nodes.
fn peeled(outgoing: &[Vec<usize>], incoming: &[Vec<usize>], levels: &[usize], left: &mut [bool]) -> usize {
    let mut open: Vec<usize> =
        incoming.iter().map(|from| from.iter().filter(|&&node| left[node]).count()).collect();
    let mut path = levels.to_vec();
    let mut free: Vec<usize> = (0..left.len()).filter(|&node| left[node] && open[node] == 0).collect();
    let mut most = 0;
    while let Some(node) = free.pop() {
        left[node] = false;
        most = most.max(path[node]);
        for &next in outgoing[node].iter().filter(|&&next| left[next]) {
            path[next] = path[next].max(path[node].saturating_add(levels[next]));
            open[next] -= 1;
            if open[next] == 0 {
                free.push(next);
            }
        }
    }
    most
}

#[cfg(test)]
#[path = "nesting_tests.rs"]
mod tests;
