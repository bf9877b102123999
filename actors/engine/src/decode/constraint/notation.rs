//! Messages about expressions and grammars that callers write: the place and the reason, in words of our own.

use regex_syntax::ast::{self, ErrorKind};
use regex_syntax::hir;

/// Maximum length of a quoted name or text, in characters.
const MAX_QUOTED: usize = 60;

/// The message about an expression without a defect that can be named.
const REGEX: &str = "not a regular expression of the supported form";

/// The message about a grammar without a defect that can be named.
const LARK: &str = "not a grammar of the supported form";

/// llguidance's messages about grammars, and ours.
const REASONS: [(&str, &str); 24] = [
    ("cannot be used in terminals", "a terminal contains something that only rules may contain"),
    ("& is only supported for tokens", "'&' is for terminals, whose names are in capitals"),
    ("circular reference in token", "a terminal refers to itself"),
    ("params not supported", "templates are not supported"),
    ("template usage not supported", "templates are not supported"),
    ("parametric", "the parameters of a rule do not fit"),
    ("requires parameters", "the parameters of a rule do not fit"),
    ("priority", "priorities are not supported"),
    ("override statement", "'%override' is not supported"),
    ("declare", "'%declare' is not supported"),
    ("l-flag", "the flag 'l' of expressions is not supported"),
    ("'%if'", "'%if' is not supported in terminals"),
    ("must be a single character", "a range is of single characters, such as \"a\"..\"z\""),
    ("invalid range order", "a range ends before it begins"),
    ("ranges not supported with operators", "a range of repetitions stands beside an operator"),
    ("range start must be", "a number of repetitions is not valid"),
    ("range end must be", "the maximum of a repetition is below its minimum"),
    ("End number in range", "the maximum of a repetition must not be 0"),
    ("token range", "a range of tokens is not valid"),
    ("numeric grammar references", "a reference to a grammar is not valid"),
    ("too deeply nested", "it is nested too deeply"),
    ("only one field can be set on %regex", "'%regex' takes exactly one field"),
    ("no fields set on %regex", "'%regex' takes exactly one field"),
    ("stop", "an attribute of a rule is not supported there"),
];

/// Messages that have a name in quotation marks, and ours around it.
const NAMED: [(&str, &str, &str); 6] = [
    ("unknown name: ", "", " is not defined"),
    ("duplicate rule: ", "the rule ", " is defined twice"),
    ("duplicate token: ", "the terminal ", " is defined twice"),
    ("duplicate token (in import): ", "the terminal ", " is defined twice"),
    ("unknown special token: ", "the model has no special token ", ""),
    ("Unknown attribute: ", "the attribute ", " is unknown"),
];

/// Returns the defect of an expression.
pub fn about_regex(regex: &str) -> String {
    let parsed = match ast::parse::Parser::new().parse(regex) {
        Ok(parsed) => parsed,
        Err(error) => return at(regex, error.span().start.offset, of_syntax(error.kind())),
    };
    match hir::translate::Translator::new().translate(regex, &parsed) {
        Err(error) => {
            let reason = match error.kind() {
                hir::ErrorKind::UnicodePropertyNotFound
                | hir::ErrorKind::UnicodePropertyValueNotFound
                | hir::ErrorKind::UnicodePerlClassNotFound => "there is no such class of characters",
                hir::ErrorKind::InvalidUtf8 => "it would match bytes that are no text",
                _ => "this is not supported",
            };
            at(regex, error.span().start.offset, reason)
        }
        Ok(hir) if !hir.properties().look_set().is_empty() => {
            "'^', '$' and '\\b' are not supported inside an expression; an answer always matches all of it"
                .to_owned()
        }
        Ok(_) => REGEX.to_owned(),
    }
}

fn at(text: &str, offset: usize, reason: &str) -> String {
    let before = text.get(..offset).unwrap_or(text).chars().count();
    format!("at character {}: {reason}", before + 1)
}

const fn of_syntax(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::CaptureLimitExceeded => "there are too many groups",
        ErrorKind::ClassEscapeInvalid => "this escape is not allowed in a class",
        ErrorKind::ClassRangeInvalid => "the range ends before it begins",
        ErrorKind::ClassRangeLiteral => "a range needs a character on both sides",
        ErrorKind::ClassUnclosed => "the class is not closed; add ']'",
        ErrorKind::EscapeHexEmpty | ErrorKind::EscapeHexInvalid | ErrorKind::EscapeHexInvalidDigit => {
            "the code of the character is not valid"
        }
        ErrorKind::EscapeUnexpectedEof => "the escape is not complete",
        ErrorKind::EscapeUnrecognized => "this escape is unknown",
        ErrorKind::FlagDanglingNegation
        | ErrorKind::FlagDuplicate { .. }
        | ErrorKind::FlagRepeatedNegation { .. }
        | ErrorKind::FlagUnexpectedEof
        | ErrorKind::FlagUnrecognized => "the flags of the group are not valid",
        ErrorKind::GroupNameDuplicate { .. } => "another group has this name",
        ErrorKind::GroupNameEmpty | ErrorKind::GroupNameInvalid | ErrorKind::GroupNameUnexpectedEof => {
            "the name of the group is not valid"
        }
        ErrorKind::GroupUnclosed => "the group is not closed; add ')'",
        ErrorKind::GroupUnopened => "there is no open group; remove ')' or write '\\)'",
        ErrorKind::NestLimitExceeded(_) => "it is nested too deeply",
        ErrorKind::RepetitionCountInvalid => "the maximum of the repetition is below its minimum",
        ErrorKind::DecimalEmpty
        | ErrorKind::DecimalInvalid
        | ErrorKind::RepetitionCountDecimalEmpty
        | ErrorKind::RepetitionCountUnclosed => "the number of repetitions is not valid",
        ErrorKind::RepetitionMissing => "there is nothing to repeat",
        ErrorKind::UnicodeClassInvalid => "there is no such class of characters",
        ErrorKind::UnsupportedBackreference => "references to groups are not supported",
        ErrorKind::UnsupportedLookAround => "look-ahead and look-behind are not supported",
        _ => "this is not supported",
    }
}

/// Returns the defect of a grammar in Lark's notation of which llguidance says this.
pub fn about_lark(message: &str) -> String {
    if message.contains("at EOF: ") {
        return "at its end: it is not complete".to_owned();
    }
    match place(message) {
        Some((line, column)) => format!("at line {line}, column {column}: {}", reason(message)),
        None => reason(message),
    }
}

/// The first place in a message, which is written `line(column): `.
fn place(message: &str) -> Option<(u32, u32)> {
    let (before, _) = message.split_once("): ")?;
    let (line, column) = before.strip_prefix("at ").unwrap_or(before).split_once('(')?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

fn reason(message: &str) -> String {
    if let Some((_, behind)) = message.split_once("invalid regex ") {
        return match quoted(behind) {
            Some(regex) => format!("the expression {}: {}", shown(&regex), about_regex(&regex)),
            None => format!("an expression in it is {REGEX}"),
        };
    }
    if message.contains("failed to compile JSON schema") || message.contains("JSON value") {
        return "a JSON schema in it is not one, or cannot be enforced".to_owned();
    }
    for (mark, before, behind) in NAMED {
        if let Some((_, rest)) = message.split_once(mark) {
            let name =
                quoted(rest).unwrap_or_else(|| rest.split_whitespace().next().unwrap_or_default().to_owned());
            return format!("{before}{}{behind}", shown(&name));
        }
    }
    // `rule "x" not found`
    if let Some((before, _)) = message.split_once(" not found")
        && let Some((_, name)) = before.split_once("rule ")
    {
        return format!("{} is not defined", shown(&quoted(name).unwrap_or_default()));
    }
    if message.contains("no start rule found") {
        return "there is no rule 'start'".to_owned();
    }
    // The place of what was read in vain is given behind it.
    let syntax =
        ["Expected ", "Unexpected ", "expecting ", "expected ", "lexer error", "lexer special token"];
    if syntax.iter().any(|mark| message.contains(mark)) {
        return "this is not expected here".to_owned();
    }
    match REASONS.iter().find(|(mark, _)| message.contains(mark)) {
        Some((_, ours)) => (*ours).to_owned(),
        None => {
            tracing::info!(
                error = super::messages::readable(message),
                "a grammar was refused for a reason without a text of its own"
            );
            LARK.to_owned()
        }
    }
}

/// Reads the text in quotation marks that a message begins with.
fn quoted(message: &str) -> Option<String> {
    let mut values = serde_json::Deserializer::from_str(message).into_iter::<String>();
    values.next()?.ok()
}

/// The beginning of a text of the caller's, in quotation marks.
fn shown(text: &str) -> String {
    let mut characters = text.chars();
    let beginning: String =
        characters.by_ref().take(MAX_QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let more = if characters.next().is_some() { "…" } else { "" };
    format!("'{beginning}{more}'")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn expressions_have_a_place_and_a_reason() {
        for (regex, message) in [
            ("(", "at character 1: the group is not closed; add ')'"),
            ("ä)", "at character 2: there is no open group; remove ')' or write '\\)'"),
            ("a[b", "at character 2: the class is not closed; add ']'"),
            ("[b-a]", "at character 2: the range ends before it begins"),
            ("*", "at character 1: there is nothing to repeat"),
            ("a{2,1}", "at character 2: the maximum of the repetition is below its minimum"),
            ("(?=a)b", "at character 1: look-ahead and look-behind are not supported"),
            ("(a)\\1", "at character 4: references to groups are not supported"),
            ("\\p{Nothing}", "at character 1: there is no such class of characters"),
        ] {
            assert_eq!(about_regex(regex), message, "{regex}");
        }
        assert!(about_regex("a^b").starts_with("'^', '$'"));
    }

    #[test]
    fn grammars_have_a_place_and_a_reason() {
        for (theirs, ours) in [
            (
                "at 1(8): unknown name: \"nothing\"\n  1 | start: nothing",
                "at line 1, column 8: 'nothing' is not defined",
            ),
            (
                "3(5): Expected token Colon, found Name (at x (Name))\n  3 | a x",
                "at line 3, column 5: this is not expected here",
            ),
            ("2(1): lexer error\n  2 | \u{1}", "at line 2, column 1: this is not expected here"),
            ("at EOF: Expected value", "at its end: it is not complete"),
            ("no start rule found", "there is no rule 'start'"),
            ("duplicate rule: \"a\"", "the rule 'a' is defined twice"),
            (
                "at 1(8): invalid regex \"(\" (in regex terminal): regex parse error:\n  (\n  ^\nerror: unclosed group",
                "at line 1, column 8: the expression '(': at character 1: the group is not closed; add ')'",
            ),
            ("something new in /home/build/x.rs", LARK),
        ] {
            assert_eq!(about_lark(theirs), ours, "{theirs}");
        }
        let long = about_lark(&format!("unknown name: \"{}\"", "x".repeat(5000)));
        assert!(long.chars().count() < 100, "{long}");
    }

    proptest! {
        #[test]
        fn any_message_has_one_short_line(message in "(at )?[0-9]{0,3}[()]{0,2}:? ?.{0,40}", regex in ".{0,30}") {
            for ours in [about_lark(&message), about_regex(&regex)] {
                prop_assert!(!ours.is_empty() && !ours.contains('\n') && ours.len() < 700, "{}", ours);
            }
        }
    }
}
