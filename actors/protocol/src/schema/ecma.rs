//! Translation of ECMA-262 expressions, JSON Schema's, to a form that both dialects read alike.
//!
//! The result is an expression of Rust's dialect in which each character that has a meaning in only one of the two is
//! escaped, and each class is spelled out. Translating it again returns it.

use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use regex_syntax::ParserBuilder;

/// Result of a translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translated {
    /// The expression in the common form.
    Pattern(String),
    /// An expression with look-around, word boundaries or references to groups, which no automaton can enforce.
    NotRegular,
}

/// Line terminators, which `.` does not match.
const DOT: &str = r"[^\n\r\u{2028}\u{2029}]";
/// White space, as ranges of a class.
const SPACE: &str =
    r"\t\n\u{B}\u{C}\r \u{A0}\u{1680}\u{2000}-\u{200A}\u{2028}\u{2029}\u{202F}\u{205F}\u{3000}\u{FEFF}";
/// Everything else, as ranges of a class.
const NOT_SPACE: &str = r"\u{0}-\u{8}\u{E}-\u{1F}!-\u{9F}\u{A1}-\u{167F}\u{1681}-\u{1FFF}\u{200B}-\u{2027}\u{202A}-\u{202E}\u{2030}-\u{205E}\u{2060}-\u{2FFF}\u{3001}-\u{D7FF}\u{E000}-\u{FEFE}\u{FF00}-\u{10FFFF}";

/// Translates an expression.
///
/// # Errors
/// A text that says why it is none.
pub fn translate(pattern: &str) -> Result<Translated, &'static str> {
    let mut translation = Translation { rest: pattern.chars().peekable(), out: String::new(), regular: true };
    translation.run()?;
    if !translation.regular {
        return Ok(Translated::NotRegular);
    }
    let parsed = ParserBuilder::new().nest_limit(100).build().parse(&translation.out);
    match parsed {
        Ok(_) => Ok(Translated::Pattern(translation.out)),
        Err(regex_syntax::Error::Parse(error))
            if matches!(error.kind(), regex_syntax::ast::ErrorKind::NestLimitExceeded(_)) =>
        {
            Err("its groups are nested too deeply")
        }
        Err(_) => Err("it is not a regular expression of ECMA-262"),
    }
}

struct Translation<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
    regular: bool,
}

/// One member of a class.
enum Member {
    One(char),
    /// Ranges, already written for the inside of a class.
    Ranges(String),
}

impl Translation<'_> {
    fn run(&mut self) -> Result<(), &'static str> {
        while let Some(character) = self.rest.next() {
            match character {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '.' => self.out.push_str(DOT),
                '(' => self.group()?,
                '{' => self.braces(),
                '^' | '$' | ')' | '*' | '+' | '?' | '|' => self.out.push(character),
                _ => self.literal(character),
            }
        }
        Ok(())
    }

    fn literal(&mut self, character: char) {
        literal(&mut self.out, character);
    }

    fn group(&mut self) -> Result<(), &'static str> {
        if self.rest.next_if_eq(&'?').is_none() {
            self.out.push_str("(?:");
            return Ok(());
        }
        match self.rest.next() {
            Some(':') => self.out.push_str("(?:"),
            Some('=' | '!') => self.regular = false,
            Some('<') => match self.rest.peek() {
                Some('=' | '!') => self.regular = false,
                _ => {
                    for character in self.rest.by_ref() {
                        if character == '>' {
                            self.out.push_str("(?:");
                            return Ok(());
                        }
                    }
                    return Err("the name of a group has no end");
                }
            },
            _ => {
                return Err("it has a group of an unknown kind; ECMA-262 has no flags inside of expressions");
            }
        }
        Ok(())
    }

    /// A repetition, or braces that stand for themselves.
    fn braces(&mut self) {
        let digits = |rest: &mut Peekable<Chars<'_>>| {
            let mut digits = String::new();
            while let Some(digit) = rest.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits
        };
        let mut ahead = self.rest.clone();
        let low = digits(&mut ahead);
        let comma = ahead.next_if_eq(&',').is_some();
        let high = if comma { digits(&mut ahead) } else { String::new() };
        if low.is_empty() || ahead.next_if_eq(&'}').is_none() {
            self.out.push_str(r"\{");
            return;
        }
        self.rest = ahead;
        let comma = if comma { "," } else { "" };
        let _ = write!(self.out, "{{{low}{comma}{high}}}");
    }

    fn escape(&mut self) -> Result<(), &'static str> {
        match self.rest.peek() {
            Some('b' | 'B' | '1'..='9') => {
                self.regular = false;
                self.rest.next();
            }
            Some('k') => {
                self.regular = false;
                self.rest.next();
            }
            _ => match self.escaped()? {
                Member::One(character) => self.literal(character),
                Member::Ranges(ranges) => {
                    let _ = write!(self.out, "[{ranges}]");
                }
            },
        }
        Ok(())
    }

    /// The character or class behind a backslash.
    fn escaped(&mut self) -> Result<Member, &'static str> {
        let Some(character) = self.rest.next() else { return Err("it ends with a backslash") };
        Ok(Member::One(match character {
            'd' => return Ok(Member::Ranges("0-9".to_owned())),
            'D' => return Ok(Member::Ranges(r"\u{0}-/:-\u{10FFFF}".to_owned())),
            'w' => return Ok(Member::Ranges("0-9A-Z_a-z".to_owned())),
            'W' => return Ok(Member::Ranges(r"\u{0}-/:-@\[-\^`\{-\u{10FFFF}".to_owned())),
            's' => return Ok(Member::Ranges(SPACE.to_owned())),
            'S' => return Ok(Member::Ranges(NOT_SPACE.to_owned())),
            'p' | 'P' if self.rest.peek() == Some(&'{') => return self.property(character),
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'v' => '\u{B}',
            'f' => '\u{C}',
            '0' => '\0',
            'c' => match self.rest.next_if(char::is_ascii_alphabetic) {
                Some(letter) => char::from(letter as u8 & 0x1F),
                None => return Err(r"'\c' has no letter behind it"),
            },
            'x' => self.hexadecimal(2).unwrap_or('x'),
            'u' => return self.unicode().map(Member::One),
            other => other,
        }))
    }

    fn property(&mut self, kind: char) -> Result<Member, &'static str> {
        let mut text = format!("\\{kind}");
        for character in self.rest.by_ref() {
            text.push(character);
            if character == '}' {
                return Ok(Member::Ranges(text));
            }
        }
        Err("the name of a property has no end")
    }

    fn hexadecimal(&mut self, count: usize) -> Option<char> {
        let mut ahead = self.rest.clone();
        let digits: String = ahead.by_ref().take(count).collect();
        if digits.len() != count || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let code = u32::from_str_radix(&digits, 16).ok()?;
        let found = char::from_u32(code)?;
        self.rest = ahead;
        Some(found)
    }

    fn unicode(&mut self) -> Result<char, &'static str> {
        const WRONG: &str = r"'\u' has no character's number behind it";
        if self.rest.next_if_eq(&'{').is_some() {
            let mut digits = String::new();
            while let Some(digit) = self.rest.next_if(char::is_ascii_hexdigit) {
                digits.push(digit);
            }
            let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
            return code.filter(|_| self.rest.next_if_eq(&'}').is_some()).ok_or(WRONG);
        }
        if let Some(character) = self.hexadecimal(4) {
            return Ok(character);
        }
        // Two surrogates are one character.
        let text: String = self.rest.clone().take(10).collect();
        let half = |digits: Option<&str>| u16::from_str_radix(digits?, 16).ok();
        let halves = [half(text.get(..4)), half(text.get(6..10))];
        if let ([Some(high), Some(low)], Some(r"\u")) = (halves, text.get(4..6))
            && let Some(Ok(character)) = char::decode_utf16([high, low]).next()
        {
            self.rest.nth(9);
            return Ok(character);
        }
        Err(WRONG)
    }

    fn class(&mut self) -> Result<(), &'static str> {
        let negated = self.rest.next_if_eq(&'^').is_some();
        let mut members = String::new();
        loop {
            let first = match self.rest.next() {
                None => return Err("a class of characters has no end"),
                Some(']') => break,
                Some(character) => self.member(character)?,
            };
            let mut ahead = self.rest.clone();
            let is_range = ahead.next() == Some('-') && !matches!(ahead.peek(), None | Some(']'));
            let Member::One(low) = first else {
                if let Member::Ranges(ranges) = first {
                    members.push_str(&ranges);
                }
                continue;
            };
            if !is_range {
                literal(&mut members, low);
                continue;
            }
            self.rest = ahead;
            let Some(character) = self.rest.next() else { return Err("a class of characters has no end") };
            match self.member(character)? {
                Member::One(high) if low <= high => {
                    literal(&mut members, low);
                    members.push('-');
                    literal(&mut members, high);
                }
                Member::One(_) => return Err("a range of characters is upside down"),
                Member::Ranges(ranges) => {
                    literal(&mut members, low);
                    members.push_str(r"\-");
                    members.push_str(&ranges);
                }
            }
        }
        match (members.is_empty(), negated) {
            (false, false) => {
                let _ = write!(self.out, "[{members}]");
            }
            (false, true) => {
                let _ = write!(self.out, "[^{members}]");
            }
            // `[]` matches nothing and `[^]` everything.
            (true, false) => self.out.push_str(r"[^\u{0}-\u{10FFFF}]"),
            (true, true) => self.out.push_str(r"[\u{0}-\u{10FFFF}]"),
        }
        Ok(())
    }

    fn member(&mut self, character: char) -> Result<Member, &'static str> {
        match character {
            '\\' if self.rest.next_if_eq(&'b').is_some() => Ok(Member::One('\u{8}')),
            '\\' => self.escaped(),
            _ => Ok(Member::One(character)),
        }
    }
}

/// Writes a character that stands for itself, inside or outside of a class.
fn literal(out: &mut String, character: char) {
    match character {
        '\t' => out.push_str(r"\t"),
        '\n' => out.push_str(r"\n"),
        '\r' => out.push_str(r"\r"),
        '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$' | '#' | '&'
        | '-' | '~' => {
            out.push('\\');
            out.push(character);
        }
        ' '..='~' => out.push(character),
        _ => {
            let _ = write!(out, "\\u{{{:X}}}", u32::from(character));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> String {
        match translate(text) {
            Ok(Translated::Pattern(pattern)) => pattern,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn classes_have_no_sets() {
        for (text, matching, other) in [
            (r#"^[!@#$%^&*()_+\-=[\]{};':"\|,.<>/?]{3}$"#, "[&|", "ab1"),
            ("^[[]a$", "[a", "a"),
            ("^[a&&b]{2}$", "&a", "cc"),
            ("^[a-z[0-9]]{2}$", "x]]", "x0"),
            ("^[[:alpha:]]{2}$", "h]]", "ab"),
            (r"^[\b]$", "\u{8}", "b"),
            (r"^\0$", "\0", "0"),
            (r"^\cA$", "\u{1}", "A"),
            (r"^[a~~b]{3}$", "~ab", "a-b"),
            (r"^[+--]$", ",", "b"),
            (r"^a{,3}$", "a{,3}", "aa"),
            (r"^\x41\u0042\u{43}$", "ABC", "abc"),
            (r"^[\w-]+$", "a-b", "a b"),
            (r"^(?<year>\d{4})$", "2024", "20"),
            (r"^\/a\-b$", "/a-b", "a"),
            (r"^[^]$", "x", "xy"),
            (r"^\S\s\D\W$", "x a-", "xxxx"),
            (r"^\ud83d\ude00$", "😀", "a"),
        ] {
            let translated = pattern(text);
            assert!(matches(&translated, matching), "{text} as {translated}: {matching}");
            assert!(!matches(&translated, other), "{text} as {translated}: {other}");
            assert_eq!(pattern(&translated), translated, "{text}");
        }
    }

    /// Asks the validator of finished answers, since it has to read the translation alike.
    fn matches(pattern: &str, text: &str) -> bool {
        jsonschema::is_valid(&serde_json::json!({"pattern": pattern}), &text.into())
    }

    #[test]
    fn what_is_not_regular_is_told_from_what_is_wrong() {
        for text in [r"^(?=a)b", r"a(?!b)", r"(?<=a)b", r"(a)\1", r"\bword\b", r"(?<x>a)\k<x>"] {
            assert_eq!(translate(text), Ok(Translated::NotRegular), "{text}");
        }
        for text in ["(", ")", "[", r"\", "(?i)a", "[b-a]", r"\u12", "(?<a"] {
            assert!(translate(text).is_err(), "{text}");
        }
    }
}
