//! Messages about constraints that were refused, in words that their authors can act on.

use jan_protocol::schema::UNSATISFIABLE;

use super::notation::{about_lark, about_regex};
use super::source::Source;

/// Messages of llguidance after a limit on work or size was hit.
const LIMIT_MARKS: [&str; 10] = [
    "fuel",
    "too big",
    "too many",
    "too large",
    "precomputation failed",
    "Unable to determine if regex is empty",
    "max_items",
    "items limit",
    "Current row has",
    "stack level exceeded",
];

/// llguidance's messages about schemas, and ours.
const SCHEMA: [(&str, &str); 9] = [
    ("oneOf constraints are not supported", "the alternatives of a 'oneOf' can overlap"),
    ("circular references with sibling keys", "a '$ref' that leads to itself stands beside other keywords"),
    (
        "min/maxProperties only supported",
        "'minProperties' or 'maxProperties' counts properties that are not required",
    ),
    ("are not disjoint", "two expressions of 'patternProperties' match the same name"),
    (
        "can't determine if patternProperty",
        "it cannot be decided whether two expressions of 'patternProperties' match the same name",
    ),
    ("Failed to generate regex", "a range of numbers has bounds of too many digits"),
    ("'multipleOf'", "a 'multipleOf' has too many digits"),
    ("invalid regex", "an expression in it is not supported"),
    ("regex parse error", "an expression in it is not supported"),
];

/// The sentence for everything else.
const UNKNOWN: &str = "it cannot be compiled";

/// Returns `true` if a message is about a limit and not about the constraint's meaning.
pub fn is_limit(message: &str) -> bool {
    LIMIT_MARKS.iter().any(|mark| message.contains(mark))
}

/// Returns llguidance's message about a constraint for its author.
pub fn refusal(source: &Source, message: &str) -> String {
    let one_line = readable(message);
    if one_line == UNSATISFIABLE || one_line == UNKNOWN {
        return one_line;
    }
    match source {
        Source::JsonSchema(_) => about_schema(message),
        // Rules that were made for schemas.
        Source::Lark(rules) if rules.contains("\"x-guidance\"") => about_schema(message),
        Source::Regex(_) | Source::Lark(_) if is_limit(message) => limit(message),
        Source::Regex(regex) => about_regex(regex),
        Source::Lark(_) => about_lark(message),
    }
}

fn about_schema(message: &str) -> String {
    if is_limit(message) {
        return limit(message);
    }
    // The names are the schema's own.
    if let Some((_, names)) = message.split_once("Unimplemented keys: [") {
        let names = names.split(']').next().unwrap_or_default().replace('"', "'");
        return format!("the keywords {names} cannot be enforced");
    }
    if let Some((_, name)) = message.split_once("Unknown format: ") {
        let name = name.split_whitespace().next().unwrap_or_default();
        return format!("the format '{name}' is unknown");
    }
    match SCHEMA.iter().find(|(mark, _)| message.contains(mark)) {
        Some((_, ours)) => (*ours).to_owned(),
        None => {
            tracing::info!(
                error = readable(message),
                "a schema was refused for a reason without a text of its own"
            );
            UNKNOWN.to_owned()
        }
    }
}

fn limit(message: &str) -> String {
    if message.contains("regex") || message.contains("lexer") || message.contains("fuel") {
        return "its expressions, or what its texts have to match at once, take more work than is allowed"
            .to_owned();
    }
    "it takes more work or memory than is allowed".to_owned()
}

/// Returns our message for an error of llguidance while an answer is generated.
pub fn during_answer(error: &str) -> String {
    tracing::info!(error = readable(error), "an answer left its constraint");
    match is_limit(error) {
        true => "a step of it takes more work than is allowed".to_owned(),
        false => "it does not continue like this".to_owned(),
    }
}

/// Returns llguidance's message on one line, without its own marks.
pub fn readable(error: &str) -> String {
    if error.contains("NoExtensionBias") || error.contains("Unsatisfiable schema") {
        return UNSATISFIABLE.to_owned();
    }
    // A defect of llguidance comes with where it was.
    if error.starts_with("panic") || error.contains("<backtrace>") {
        tracing::warn!(error, "the library that compiles constraints panicked");
        return UNKNOWN.to_owned();
    }
    let error = error.replace("<non-verbose/>", "");
    error.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_of_the_library_reaches_the_author_of_a_schema() {
        let schema = Source::JsonSchema(String::new());
        for (theirs, ours) in [
            ("panic: attempt to negate with overflow <backtrace> 0: /home/build/x.rs", UNKNOWN),
            ("Unsatisfiable schema: minLength (5) is greater than maxLength (3)", UNSATISFIABLE),
            ("Unimplemented keys: [\"not\"]", "the keywords 'not' cannot be enforced"),
            ("something new in /home/build/registry/x.rs", UNKNOWN),
        ] {
            assert_eq!(refusal(&schema, theirs), ours);
        }
        let long = refusal(&schema, "Unable to determine if regex is empty: (And (And (Concat");
        assert!(!long.contains("And") && is_limit("Unable to determine if regex is empty"));
        let lark = Source::Lark(String::new());
        assert_eq!(
            refusal(&lark, "at 3(1): unknown name: \"x\"\n  x"),
            "at line 3, column 1: 'x' is not defined"
        );
        let regex = Source::Regex("(".to_owned());
        assert_eq!(refusal(&regex, "invalid regex"), "at character 1: the group is not closed; add ')'");
        assert_eq!(
            during_answer("lexer error: too many expressions constructed"),
            "a step of it takes more work than is allowed"
        );
    }
}
