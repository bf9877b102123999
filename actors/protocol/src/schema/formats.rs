//! Formats of texts.
//!
//! `format` is an annotation. Those listed here are enforced, the others are ignored.

/// Years in which February has 29 days, in the Gregorian calendar.
const LEAP: &str = "(?:(?:[02468][048]|[13579][26])00|[0-9]{2}(?:0[48]|[2468][048]|[13579][26]))";

/// Formats that the grammar compiler knows, and means as the validator does.
const COMPILED: [&str; 6] = ["email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// Formats of which texts of a smaller one are generated.
const NARROWED: [(&str, &str); 3] = [("iri", "uri"), ("idn-email", "email"), ("idn-hostname", "hostname")];

/// Enforcement of a format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enforced {
    /// The compiler knows it under this name.
    Format(&'static str),
    /// An expression.
    Pattern(String),
}

/// Returns whether texts are held to a format.
pub fn is_checked(format: &str) -> bool {
    enforced(format).is_some()
}

/// Returns how a format is enforced; `None` if it is an annotation.
pub fn enforced(format: &str) -> Option<Enforced> {
    if let Some(name) = COMPILED.iter().find(|name| **name == format) {
        return Some(Enforced::Format(name));
    }
    if let Some((_, name)) = NARROWED.iter().find(|(name, _)| *name == format) {
        return Some(Enforced::Format(name));
    }
    let date = || {
        let days = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8])";
        format!("(?:[0-9]{{4}}-(?:{days})|{LEAP}-02-29)")
    };
    // A second of 60 is valid at few times only.
    let time = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:Z|[+\-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
    let path = "(?:[a-zA-Z0-9._~!$'()*,;=@/+\\-]|%[0-9a-fA-F]{2})*";
    let pattern = match format {
        "date" => date(),
        "time" => time.to_owned(),
        "date-time" => format!("{}T{time}", date()),
        "duration" => {
            let n = "[0-9]{1,9}";
            let clock = format!("T(?:{n}H(?:{n}M(?:{n}S)?)?|{n}M(?:{n}S)?|{n}S)");
            let days = format!("(?:{n}Y(?:{n}M(?:{n}D)?)?|{n}M(?:{n}D)?|{n}D)");
            format!("P(?:{days}(?:{clock})?|{clock}|{n}W)")
        }
        "uri-reference" | "iri-reference" => {
            // Without a colon in the path it is no scheme.
            format!(r"(?:https?:\/\/[a-zA-Z0-9.\-]+(?:\/{path})?|{path})(?:\?{path})?(?:\#{path})?")
        }
        "json-pointer" => r"(?:\/(?:[^\/~\u0000-\u001F]|~[01])*)*".to_owned(),
        "relative-json-pointer" => {
            r"(?:0|[1-9][0-9]{0,8})(?:\#|(?:\/(?:[^\/~\u0000-\u001F]|~[01])*)*)".to_owned()
        }
        _ => return None,
    };
    Some(Enforced::Pattern(format!("^(?:{pattern})$")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_of_formats_are_no_wider_than_the_formats() {
        for (format, good, bad) in [
            (
                "date",
                &["2024-02-29", "2000-02-29", "1999-12-31", "2023-02-28"][..],
                &["2023-02-29", "1900-02-29", "2024-04-31"][..],
            ),
            (
                "time",
                &["23:59:59Z", "00:00:00.123456789+01:00"][..],
                &["24:00:00Z", "12:00:60Z", "12:00:00"][..],
            ),
            ("date-time", &["2024-02-29T12:00:00Z"][..], &["2023-02-29T12:00:00Z", "2024-01-01"][..]),
            ("duration", &["P1Y2M3DT4H5M6S", "P3W", "PT5M"][..], &["P", "PT", "P1YT", "1Y"][..]),
            ("uri-reference", &["", "/a/b?c#d", "https://example.com/x", "a.json"][..], &["a b", "\\"][..]),
            ("json-pointer", &["", "/a/0/~1"][..], &["a", "/~2"][..]),
            ("relative-json-pointer", &["0", "1/a", "2#"][..], &["/a", "-1"][..]),
        ] {
            let Some(Enforced::Pattern(pattern)) = enforced(format) else { panic!("{format}") };
            assert!(super::super::ecma::translate(&pattern).is_ok());
            let schema = json!({"pattern": pattern});
            let strict = jsonschema::options()
                .should_validate_formats(true)
                .build(&json!({"format": format}))
                .unwrap();
            for text in good {
                assert!(jsonschema::is_valid(&schema, &json!(text)), "{format}: {text}");
                assert!(strict.is_valid(&json!(text)), "{format}: {text}");
            }
            for text in bad {
                assert!(!jsonschema::is_valid(&schema, &json!(text)), "{format}: {text}");
            }
        }
        for annotation in ["password", "byte", "int32", "my-enum", "", "jwt", "url", "regex", "html-selector"]
        {
            assert!(!is_checked(annotation));
        }
    }
}
