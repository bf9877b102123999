use proptest::prelude::*;

use super::*;

fn expression(grammar: &str) -> String {
    match source(grammar).unwrap() {
        Source::Regex(expression) => expression,
        other => panic!("{other:?}"),
    }
}

fn matches(grammar: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{})$", expression(grammar))).unwrap().is_match(text)
}

#[test]
fn grammars_without_recursion_become_expressions() {
    let chess = r#"
        # Moves, as llama.cpp's own example has them.
        root   ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+
        move   ::= (pawn | nonpawn | castle) [+#]?
        nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
        pawn   ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
        castle ::= "O-O" "-O"?
    "#;
    assert!(matches(chess, "1. e4 e5\n2. Nf3 Nc6\n"));
    assert!(!matches(chess, "1. e4 e9\n2. Nf3 Nc6\n"));
    assert!(matches(r#"root ::= "a.b" | [^\]\n] {2,3} | "\u00e9\x41\"""#, "a.b"));
    assert!(matches(r#"root ::= "a.b" | [^\]\n] {2,3} | "\u00e9\x41\"""#, "éA\""));
    assert!(!matches(r#"root ::= "a.b" | [^\]\n]{2,3}"#, "a]"));
    assert!(matches("root ::= a-b{2}\na-b ::= .", "\n🙂"));
    assert!(matches("root ::=\n  \"a\"\n  | [a-c-]\n  |", "-"));
    assert!(matches("root ::=\n  \"a\"\n  | [a-c-]\n  |", ""));
    assert!(matches("root ::= \"a\"{,2}", "aa"));
}

#[test]
fn recursive_grammars_stay_grammars() {
    let list = "root ::= \"[\" (item (\",\" item)*)? \"]\"\nitem ::= root | [0-9]+";
    assert_eq!(
        source(list).unwrap(),
        Source::Lark(
            "start: r0\nr0: \"[\" (r1 (\",\" r1)*)? \"]\"\nr1: (r0 | (/[\\x{30}-\\x{39}]/)+)\n".into()
        ),
    );
}

#[test]
fn errors_name_the_invalid_line() {
    for (grammar, what) in [
        ("", "no rule 'root'"),
        ("a ::= \"b\"", "no rule 'root'"),
        ("root ::= other", "the rule 'other' is not defined"),
        ("root ::= \"a\nroot", "expected '\"'"),
        ("root ::= \"a\"\nroot ::= \"b\"", "the rule 'root' is defined twice"),
        ("root ::= (\"a\"", "expected ')'"),
        ("root ::= \"a\")", "no '('"),
        ("root ::= [z-a]", "backwards"),
        ("root ::= []", "without characters"),
        ("root ::= [a", "expected ']'"),
        ("root ::= \"a\"{3,2}", "less"),
        ("root ::= \"a\"{9999}", "up to 2000"),
        ("root ::= \"\\q\"", "unknown escape"),
        ("root ::= \"\\ud800\"", "4 digits"),
        ("root ::= <think>", "tokens"),
        ("root = \"a\"", "expected '::='"),
        ("\n\nroot ::= %", "line 3"),
    ] {
        let error = source(grammar).unwrap_err();
        assert!(error.contains(what), "{grammar}: {error}");
    }
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(1000), ")".repeat(1000));
    assert!(source(&deep).unwrap_err().contains("parentheses"));
    let many: String = (0..2000).map(|n| format!("r{n} ::= \"a\"\n")).collect();
    assert!(source(&many).unwrap_err().contains("rules"));
}

#[test]
fn every_nesting_is_bounded() {
    for suffix in ["?", "*", "+", "{1}", "{0,2}", " ?\n#c\n"] {
        let stacked = format!("root ::= \"a\"{}", suffix.repeat(10_800));
        assert!(source(&stacked).unwrap_err().contains("repetitions of repetitions"), "{suffix}");
        let few = format!("root ::= (\"a\"{0})??", suffix.repeat(3));
        assert!(source(&few).is_ok(), "{suffix}");
    }
    let spread = format!("root ::= {}\"a\"{}", "(".repeat(40), format!("){}", "?".repeat(40)).repeat(40));
    assert!(source(&spread).unwrap_err().contains("repetitions of repetitions"));
    let chain: String = (0..998).map(|n| format!("r{n} ::= r{}\n", n + 1)).collect();
    assert!(source(&format!("root ::= r0\n{chain}r998 ::= \"a\"")).is_ok());
}

#[test]
fn an_expression_that_grows_too_long_stays_a_grammar() {
    let doubling: String = (0..40).map(|n| format!("r{n} ::= r{} r{}\n", n + 1, n + 1)).collect();
    let grammar = format!("root ::= r0\n{doubling}r40 ::= \"a\"");
    assert!(matches!(source(&grammar).unwrap(), Source::Lark(_)));
}

fn nodes() -> impl Strategy<Value = (String, String)> {
    // A part of a grammar, and the equivalent expression.
    let leaf = prop_oneof![
        "[a-c]{0,3}".prop_map(|text| (format!("\"{text}\""), text)),
        Just(("[a-b]".to_owned(), "[a-b]".to_owned())),
        Just(("[^a]".to_owned(), "[^a]".to_owned())),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            (prop::collection::vec(inner.clone(), 1..4)).prop_map(|parts| {
                let (grammar, regex): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
                (format!("({})", grammar.join(" | ")), format!("(?:{})", regex.join("|")))
            }),
            (prop::collection::vec(inner.clone(), 1..4)).prop_map(|parts| {
                let (grammar, regex): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
                (format!("({})", grammar.join(" ")), format!("(?:{})", regex.concat()))
            }),
            (inner, prop::sample::select(vec!["*", "+", "?", "{2}", "{1,}", "{0,2}"])).prop_map(
                |((grammar, regex), times)| (format!("({grammar}){times}"), format!("(?:{regex}){times}"))
            ),
        ]
    })
}

proptest! {
    #[test]
    fn a_grammar_means_its_expression((grammar, wanted) in nodes(), text in "[a-d]{0,6}") {
        let wanted = regex::Regex::new(&format!("^(?:{wanted})$")).unwrap();
        prop_assert_eq!(matches(&format!("root ::= {grammar}"), &text), wanted.is_match(&text));
    }

    #[test]
    fn any_text_is_fine_or_wrong(text in "(root ::= |[a-c\"\\[\\](){}|*+?.\\\\^0-9# \n-]|::=){0,40}") {
        let _ = source(&text);
    }
}
