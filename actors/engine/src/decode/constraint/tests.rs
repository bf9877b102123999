//! With a vocabulary of single bytes, any path that the guide leaves open ends in a valid answer.

use jan_protocol::output_formats::{GrammarMode, Layout, OutputParser, Part, Tool, ToolFormat, tool_grammar};
use llguidance::toktrie::ApproximateTokEnv;
use proptest::prelude::*;

use super::*;

/// The token behind the bytes' own that ends an answer.
const END: Token = 261;
const VOCABULARY: usize = 262;

fn grammars() -> Grammars {
    Grammars::with_vocabulary(ApproximateTokEnv::single_byte_env()).unwrap()
}

fn guide(constraint: &Constraint) -> Result<Guide, Refusal> {
    grammars().guide(constraint)
}

fn schema(schema: Value) -> Constraint {
    Constraint::JsonSchema(schema.to_string())
}

/// Follows the guide, with `choose` for which of the open tokens to take. `None` where it is not done in time.
fn walk(guide: &mut Guide, mut choose: impl FnMut(usize) -> usize) -> Option<String> {
    let (logits, mut open) = (vec![0.0; VOCABULARY], Vec::new());
    let mut text = Vec::new();
    for _ in 0..4000 {
        let forced = guide.forced();
        guide.restrict(&logits, &mut open).unwrap();
        let allowed: Vec<Token> = (0..).zip(&open).filter(|(_, l)| **l == 0.0).map(|(t, _)| t).collect();
        assert!(!allowed.is_empty(), "a dead end after {}", String::from_utf8_lossy(&text));
        let token = match forced.first() {
            Some(&token) => {
                assert!(allowed.contains(&token), "a forced token is open");
                token
            }
            None => allowed[choose(allowed.len()) % allowed.len()],
        };
        if token == END {
            return Some(String::from_utf8(text).unwrap());
        }
        guide.accept(token).unwrap();
        text.push(u8::try_from(token).unwrap());
        if guide.is_complete() {
            return Some(String::from_utf8(text).unwrap());
        }
    }
    None
}

/// JSON Schemas of the subset that is supported.
fn schemas() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!({"type": "boolean"})),
        Just(json!({"type": "null"})),
        (-50..50i64, 0..50i64)
            .prop_map(|(low, more)| json!({"type": "integer", "minimum": low, "maximum": low + more})),
        Just(json!({"type": "number", "minimum": 0, "maximum": 1})),
        (0..3u32, 0..5u32).prop_map(
            |(least, more)| json!({"type": "string", "minLength": least, "maxLength": least + more})
        ),
        Just(json!({"type": "string", "pattern": "^[a-c]{1,3}$"})),
        Just(json!({"type": "string", "format": "date"})),
        prop::collection::vec("[a-z\"\\\\]{0,4}", 1..4).prop_map(|values| json!({"enum": values})),
        Just(json!({"const": {"k": [1, "x"]}})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            (prop::collection::btree_map("[a-z]{1,4}", inner.clone(), 0..3), any::<bool>()).prop_map(
                |(properties, all)| {
                    let required: Vec<&String> = properties.keys().filter(|_| all).collect();
                    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
                }
            ),
            (inner.clone(), 0..2u32, 0..3u32).prop_map(
                |(items, least, more)| json!({"type": "array", "items": items, "minItems": least, "maxItems": least + more})
            ),
            prop::collection::vec(inner, 1..3).prop_map(|options| json!({"anyOf": options})),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// A finished answer satisfies its schema, regardless of the model's preferences.
    #[test]
    fn every_path_satisfies_the_schema(wanted in schemas(), choices in prop::collection::vec(any::<usize>(), 64)) {
        let mut guide = guide(&schema(wanted.clone())).unwrap();
        let mut next = choices.iter().cycle();
        let text = walk(&mut guide, |_| *next.next().unwrap());
        if let Some(text) = text {
            // llguidance's dates have a 29th of February in every year.
            let value: Value = serde_json::from_str(&text.replace("-02-29", "-02-28")).unwrap();
            let validator = jsonschema::options().should_validate_formats(true).build(&wanted).unwrap();
            prop_assert!(validator.is_valid(&value), "{wanted} does not accept {text}");
        }
    }

    /// A guide that replays the beginning of an answer continues exactly as the one that made it.
    #[test]
    fn a_resumed_answer_is_guided_alike(wanted in schemas(), choices in prop::collection::vec(any::<usize>(), 64), cut in any::<prop::sample::Index>()) {
        let grammars = grammars();
        let constraint = schema(wanted);
        let mut first = grammars.guide(&constraint).unwrap();
        let mut next = choices.iter().cycle();
        let Some(text) = walk(&mut first, |_| *next.next().unwrap()) else { return Ok(()) };
        let cut = cut.index(text.len() + 1).min(text.len());
        let (mut resumed, mut undisturbed) = (grammars.guide(&constraint).unwrap(), grammars.guide(&constraint).unwrap());
        for byte in &text.as_bytes()[..cut] {
            resumed.accept(Token::from(*byte)).unwrap();
        }
        for byte in &text.as_bytes()[..cut] {
            let _ = undisturbed.forced();
            undisturbed.accept(Token::from(*byte)).unwrap();
        }
        prop_assert_eq!(resumed.is_complete(), undisturbed.is_complete());
        if !resumed.is_complete() {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            prop_assert_eq!(resumed.forced(), undisturbed.forced());
            resumed.restrict(&[0.0; VOCABULARY], &mut a).unwrap();
            undisturbed.restrict(&[0.0; VOCABULARY], &mut b).unwrap();
            prop_assert_eq!(a, b);
        }
    }
}

#[test]
fn fixed_parts_are_forced() {
    let wanted = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"], "additionalProperties": false});
    let mut guide = guide(&schema(wanted)).unwrap();
    let forced: Vec<u8> = guide.forced().into_iter().map(|token| u8::try_from(token).unwrap()).collect();
    assert_eq!(String::from_utf8(forced).unwrap(), "{\"name\": \"");
}

#[test]
fn expressions_and_grammars_are_followed() {
    let mut choices = guide(&Constraint::Regex("yes|no".to_owned())).unwrap();
    assert!(["yes", "no"].contains(&walk(&mut choices, |n| n - 1).unwrap().as_str()));
    let mut lark = guide(&Constraint::Lark("start: \"a\" b\nb: \"b\" | \"c\"".to_owned())).unwrap();
    assert!(["ab", "ac"].contains(&walk(&mut lark, |_| 0).unwrap().as_str()));
}

#[test]
fn what_cannot_be_enforced_is_refused_by_name() {
    for (keyword, wanted) in [
        ("uniqueItems", json!({"type": "array", "uniqueItems": true})),
        ("not", json!({"not": {"type": "string"}})),
        ("oneOf", json!({"oneOf": [{"type": "string", "minLength": 1}, {"type": "string", "maxLength": 5}]})),
        ("if", json!({"if": {"type": "string"}, "then": {"minLength": 2}})),
    ] {
        let error = guide(&schema(wanted)).unwrap_err();
        assert!(error.to_string().contains(keyword), "{keyword}: {error}");
    }
}

#[test]
fn hostile_constraints_come_to_an_end() {
    let deep = (0..100).fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    assert!(guide(&schema(deep)).is_ok());
    for regex in ["(", "(?=a)b", "a{2,1}"] {
        assert!(guide(&Constraint::Regex(regex.to_owned())).is_err(), "{regex}");
    }
    // llguidance decides whether these are too much; here they have to come to an end.
    for regex in
        ["(a{1,1000}){1,1000}", &"(a|b){5,900}c".repeat(300), "(.*a){500}", "(a|aa|aaa)*(b|bb)*{1,900}"]
    {
        let _ = guide(&Constraint::Regex(regex.to_owned()));
    }
    let wide: serde_json::Map<String, Value> = (0..20_000)
        .map(|n| (format!("p{n}"), json!({"type": "string", "pattern": "^(a|b){1,200}c$"})))
        .collect();
    let _ = guide(&schema(json!({"type": "object", "properties": wide})));
}

#[test]
fn a_wrong_token_is_an_error() {
    let mut guide = guide(&Constraint::Regex("ab".to_owned())).unwrap();
    assert!(guide.accept(Token::from(b'x')).is_err());
    assert!(guide.restrict(&[0.0; VOCABULARY], &mut Vec::new()).is_err());
}

fn tool_schemas() -> Vec<(String, Value)> {
    let city = json!({
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 5}}, "required": ["city"],
        "additionalProperties": false,
    });
    let add = json!({
        "type": "object", "properties": {"a": {"enum": ["}\n</tool_call>", "]", 1]}}, "required": ["a"],
        "additionalProperties": false,
    });
    vec![("get_weather".to_owned(), with_layout(&city)), ("add".to_owned(), with_layout(&add))]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Regardless of the model's preferences, calls that are kept in their form are read as such, by the parser that passes
    /// arguments on as they are made and by the one that waits for their end, and their arguments satisfy the schema.
    #[test]
    fn every_path_of_a_call_is_a_call(
        format in prop::sample::select(ToolFormat::ALL),
        many: bool,
        behind: bool,
        choices in prop::collection::vec(any::<usize>(), 64),
    ) {
        let (syntax, tools) = (format.syntax(), tool_schemas());
        let trigger = syntax.trigger().filter(|_| behind);
        let mode = if trigger.is_some() { GrammarMode::BehindTrigger } else { GrammarMode::Whole };
        let grammar = tool_grammar(syntax, &tools, many, mode, None, &|_| None);
        let mut guide = guide(&Constraint::Lark(grammar.clone())).unwrap_or_else(|error| panic!("{error}\n{grammar}"));
        let mut next = choices.iter().cycle();
        let Some(text) = walk(&mut guide, |_| *next.next().unwrap()) else { return Ok(()) };
        let text = [trigger.unwrap_or_default(), &text].concat();
        let known: Vec<Tool> =
            tools.iter().map(|(name, parameters)| Tool { name: name.clone(), parameters: parameters.clone() }).collect();
        for enforced in [true, false] {
            let layout = Layout { tools: Some(format), enforced, ..Layout::default() };
            let mut parser = OutputParser::new(&layout, &known);
            let mut parts = parser.push(&text);
            parts.extend(parser.finish());
            let mut calls: Vec<(String, String)> = Vec::new();
            for part in parts {
                match part {
                    Part::Call(name) => calls.push((name, String::new())),
                    Part::Arguments(text) => calls.last_mut().unwrap().1.push_str(&text),
                    // gpt-oss may think first.
                    Part::Reasoning(_) if format == ToolFormat::Harmony => {}
                    other => prop_assert!(false, "{other:?} in {text} of {format:?}"),
                }
            }
            prop_assert!(!calls.is_empty() && (many || calls.len() == 1), "{text}");
            for (name, arguments) in calls {
                let schema = &tools.iter().find(|(known, _)| *known == name).unwrap().1;
                let value: Value = serde_json::from_str(&arguments).unwrap();
                prop_assert!(jsonschema::is_valid(schema, &value), "{name} {arguments}");
            }
        }
    }
}

#[test]
fn a_call_or_an_answer() {
    let syntax = ToolFormat::Hermes.syntax();
    let answer = with_layout(
        &json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}),
    );
    let grammar =
        tool_grammar(syntax, &tool_schemas(), true, GrammarMode::WholeOrAnswer, Some(&answer), &|_| None);
    let constraint = Constraint::Lark(grammar);
    let accepts = |text: &str| {
        let mut guide = guide(&constraint).unwrap();
        text.bytes().all(|byte| guide.accept(Token::from(byte)).is_ok())
    };
    assert!(accepts("{\"ok\": true}"));
    assert!(accepts("<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>"));
    assert!(!accepts("free text"));
    let grammar = tool_grammar(
        ToolFormat::Llama3.syntax(),
        &tool_schemas(),
        true,
        GrammarMode::WholeOrText,
        None,
        &|_| None,
    );
    let constraint = Constraint::Lark(grammar);
    let accepts = |text: &str| {
        let mut guide = guide(&constraint).unwrap();
        text.bytes().all(|byte| guide.accept(Token::from(byte)).is_ok())
    };
    assert!(
        accepts("free text")
            && accepts("{\"name\": \"add\", \"parameters\": {\"a\": 1}}")
            && !accepts("{\"b")
    );
}

#[test]
fn a_refusal_is_remembered() {
    let grammars = grammars();
    let refused = Constraint::Lark("start: start".to_owned());
    let first = grammars.guide(&refused).unwrap_err();
    {
        let compiled = grammars.kept();
        let Compiled { constraint: kept, result: outcome, .. } = compiled.last().unwrap();
        assert_eq!((kept, outcome.as_ref().err()), (&refused, Some(&first)));
    }
    assert_eq!(grammars.guide(&refused).unwrap_err(), first);
    assert_eq!(grammars.kept().len(), 1);
}

#[test]
fn bounds_are_told_from_mistakes() {
    let terms: Vec<String> = (1..9).map(|n| format!("/(.*a{{{n}}}.*b)+.*/")).collect();
    let costly = Constraint::Lark(format!("start: T\nT: {}", terms.join(" & ")));
    assert!(matches!(guide(&costly), Err(Refusal::TooExpensive(_))));
    assert!(matches!(guide(&Constraint::Regex("(".to_owned())), Err(Refusal::Invalid(_))));
}

#[test]
fn large_schemas_of_everyday_use_are_compiled() {
    let kinds = [
        json!({"type": "string", "maxLength": 200}),
        json!({"type": "integer", "minimum": 0, "maximum": 100_000}),
        json!({"type": "string", "format": "date-time"}),
        json!({"type": "array", "items": {"type": "string", "pattern": "^[A-Z]{2,5}-[0-9]+$"}, "maxItems": 50}),
        json!({"enum": (0..50).map(|n| format!("choice {n}")).collect::<Vec<_>>()}),
        json!({"type": "object", "properties": {"x": {"type": "number"}, "u": {"type": "string", "format": "uri"}}}),
        json!({"type": "integer", "multipleOf": 100}),
    ];
    let names: Vec<String> = (0..200).map(|n| format!("property_{n}")).collect();
    let properties: Value =
        names.iter().cloned().zip(kinds.iter().cycle().cloned()).collect::<serde_json::Map<_, _>>().into();
    let object = json!({"type": "object", "properties": properties, "required": names});
    assert!(guide(&schema(object)).is_ok());
    let values: Vec<String> = (0..2_000).map(|n| format!("a value of some length, number {n}")).collect();
    assert!(guide(&schema(json!({"enum": values}))).is_ok());
}

#[test]
fn what_is_kept_has_a_bound() {
    let grammars = grammars();
    let kept = |n: usize, kib| {
        let constraint = Constraint::Regex(n.to_string());
        grammars.keep(Compiled { constraint, result: Err(Refusal::Invalid(String::new())), kib });
        grammars.kept().len()
    };
    assert_eq!((0..100).map(|n| kept(n, 0)).max(), Some(KEPT));
    // Those of memory go when their sum would be too much, the oldest first.
    assert_eq!(kept(100, MAX_KEPT_KIB), KEPT);
    assert_eq!(kept(101, 1), 1);
    assert!(grammars.knows(&Constraint::Regex("101".to_owned())));
}

mod calls_in_an_answer {
    use jan_protocol::output_formats::{CallMark, RepeatedCalls};

    use super::*;
    use crate::decode::phases::{Flow, Keep, WholeCalls};

    fn guide_of(mode: GrammarMode) -> Guide {
        let syntax = ToolFormat::Hermes.syntax();
        guide(&Constraint::Lark(tool_grammar(
            syntax,
            &tool_schemas(),
            mode == GrammarMode::Whole,
            mode,
            None,
            &|_| None,
        )))
        .unwrap()
    }

    fn begun(lenient: bool) -> Flow {
        let guide = guide_of(GrammarMode::BehindTrigger);
        let marks = [CallMark::trigger("<tool_call>")].into();
        Flow::new(None, Keep::Behind { marks, guide, once: false, lenient })
    }

    fn watching(flow: Flow) -> Flow {
        let layout = Layout { tools: Some(ToolFormat::Hermes), ..Layout::default() };
        let tools: Vec<Tool> =
            tool_schemas().into_iter().map(|(name, parameters)| Tool { name, parameters }).collect();
        flow.watching(Some(RepeatedCalls::new(&layout, &tools, false)))
    }

    /// Takes a text byte by byte; returns where stop texts count.
    fn take(flow: &mut Flow, text: &str) -> Vec<bool> {
        text.bytes().map(|byte| flow.accept_counting(Token::from(byte), &[byte]).unwrap()).collect()
    }

    const CALL: &str = "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>";

    #[test]
    fn a_call_is_kept_in_its_form_once_it_has_begun() {
        let mut flow = begun(true);
        let mut open = Vec::new();
        assert!(!flow.restrict(&[0.0; VOCABULARY], &mut open).unwrap(), "free text");
        take(&mut flow, "Let me see. <tool_call>");
        assert!(flow.restrict(&[0.0; VOCABULARY], &mut open).unwrap());
        let allowed: Vec<usize> = (0..VOCABULARY).filter(|&token| open[token] == 0.0).collect();
        assert_eq!(allowed, [usize::from(b'\n')]);
        take(&mut flow, "\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>");
        assert!(!flow.restrict(&[0.0; VOCABULARY], &mut open).unwrap(), "free text behind the call");
        assert!(!flow.is_complete());
    }

    #[test]
    fn a_constraint_that_is_no_promise_is_given_up() {
        let mut flow = begun(true);
        take(&mut flow, "<tool_call> no call");
        assert!(!flow.restrict(&[0.0; VOCABULARY], &mut Vec::new()).unwrap());
        let mut strict = begun(false);
        take(&mut strict, "<tool_call>");
        assert!(strict.accept(Token::from(b' '), b" ").is_err());
    }

    #[test]
    fn stop_texts_count_around_calls_alone() {
        let mut flow = begun(true);
        let counted = take(&mut flow, &format!("a {CALL} b"));
        // The mark is text until it is complete.
        let open = "a <tool_call".len();
        let closed = "a ".len() + CALL.len();
        assert!(counted[..open].iter().all(|counted| *counted));
        assert!(counted[open..closed].iter().all(|counted| !counted));
        assert!(counted[closed..].iter().all(|counted| *counted));
        let whole = |calls| Flow::new(None, Keep::Whole { guide: guide_of(GrammarMode::Whole), calls });
        assert!(take(&mut whole(WholeCalls::All), CALL).iter().all(|counted| !counted));
        assert!(take(&mut whole(WholeCalls::None), CALL).iter().all(|counted| *counted));
        let either = whole(WholeCalls::Beginning("<tool_call>\n".to_owned()));
        assert!(take(&mut either.clone(), CALL).iter().all(|counted| !counted));
        let other = whole(WholeCalls::Beginning("{".to_owned()));
        assert!(take(&mut other.clone(), CALL).iter().all(|counted| *counted));
    }

    #[test]
    fn an_answer_ends_with_a_repeated_call() {
        let other = CALL.replace('1', "\"]\"");
        for mut flow in [
            watching(begun(true)),
            watching(Flow::new(
                None,
                Keep::Whole { guide: guide_of(GrammarMode::Whole), calls: WholeCalls::All },
            )),
        ] {
            take(&mut flow, &format!("{CALL}\n{other}"));
            assert!(!flow.is_complete());
            take(&mut flow, &format!("\n{}", &CALL[..CALL.len() - "}\n</tool_call>".len() - 1]));
            assert!(!flow.is_complete(), "its arguments have not ended");
            take(&mut flow, "}");
            assert!(flow.is_complete());
        }
    }
}

mod calls_of_the_models_own_accord {
    use jan_protocol::output_formats::RepeatedCalls;

    use super::*;
    use crate::decode::phases::{Flow, Keep};

    /// A tool with a property of each way to write a value.
    fn tools() -> Vec<(String, Value)> {
        let schema = json!({
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "kelvin"]},
                "days": {"$ref": "#/$defs/days"},
                "now": {"type": "boolean"},
                "near": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "tags": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 2},
            },
            "required": ["city", "unit"],
            "additionalProperties": false,
            "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
        });
        let free = json!({"type": "object"});
        vec![("get_weather".to_owned(), with_layout(&schema)), ("note".to_owned(), with_layout(&free))]
    }

    fn known() -> Vec<Tool> {
        tools().into_iter().map(|(name, parameters)| Tool { name, parameters }).collect()
    }

    fn begun(format: ToolFormat, parallel: bool) -> Flow {
        let guide = guide(&Constraint::Lark(format.begun_grammar(&tools(), parallel, &|_| None))).unwrap();
        let names = tools();
        let marks = format.call_marks(names.iter().map(|(name, _)| name.as_str())).into();
        Flow::new(None, Keep::Behind { marks, guide, once: !parallel, lenient: true })
    }

    fn calls(format: ToolFormat, text: &str) -> Vec<(String, Value)> {
        let layout = Layout { tools: Some(format), ..Layout::default() };
        let mut parser = OutputParser::new(&layout, &known());
        let mut parts = parser.push(text);
        parts.extend(parser.finish());
        let mut calls: Vec<(String, String)> = Vec::new();
        for part in parts {
            match part {
                Part::Call(name) => calls.push((name, String::new())),
                Part::Arguments(text) => calls.last_mut().unwrap().1.push_str(&text),
                Part::Content(_) | Part::Reasoning(_) => {}
            }
        }
        calls.into_iter().map(|(name, text)| (name, serde_json::from_str(&text).unwrap())).collect()
    }

    /// The bytes that may follow a text; `None`: all of them.
    fn next(format: ToolFormat, text: &str) -> Option<String> {
        let mut flow = begun(format, true);
        for byte in text.bytes() {
            flow.accept(Token::from(byte), &[byte]).unwrap();
        }
        let mut open = Vec::new();
        flow.restrict(&[0.0; VOCABULARY], &mut open).unwrap().then(|| {
            let allowed = (0..=255).filter(|&byte| open[usize::from(byte)] == 0.0);
            String::from_utf8_lossy(&allowed.collect::<Vec<u8>>()).into_owned()
        })
    }

    #[test]
    fn each_family_may_write_as_it_was_taught() {
        for (format, text) in [
            (
                ToolFormat::Glm,
                "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Hà <b>Nội</b></arg_value>\n<arg_key>unit</arg_key>\n<arg_value>kelvin</arg_value>\n<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>",
            ),
            (
                ToolFormat::Glm,
                "<tool_call>get_weather<arg_key>city</arg_key><arg_value>Hà <b>Nội</b></arg_value><arg_key>unit</arg_key><arg_value>kelvin</arg_value><arg_key>days</arg_key><arg_value>3</arg_value></tool_call>",
            ),
            (
                ToolFormat::QwenXml,
                "<tool_call>\n<function=get_weather>\n<parameter=city>\nHà <b>Nội</b>\n</parameter>\n<parameter=unit>\nkelvin\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
            ),
            (ToolFormat::Llama4, "[get_weather(city=\"Hà <b>Nội</b>\", unit=\"kelvin\", days=3)]"),
            (
                ToolFormat::Llama4,
                "<|python_start|>[get_weather(city=\"Hà <b>Nội</b>\", unit=\"kelvin\", days=3)]<|python_end|>",
            ),
            (
                ToolFormat::Lfm2,
                "<|tool_call_start|>[get_weather(city=\"Hà <b>Nội</b>\", unit=\"kelvin\", days=3)]<|tool_call_end|>",
            ),
            (
                ToolFormat::Llama3,
                "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Hà <b>Nội</b>\", \"unit\": \"kelvin\", \"days\": 3}}",
            ),
            (
                ToolFormat::Llama3,
                "<|python_tag|>{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Hà <b>Nội</b>\", \"unit\": \"kelvin\", \"days\": 3}}",
            ),
            (
                ToolFormat::Llama4,
                "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Hà <b>Nội</b>\", \"unit\": \"kelvin\", \"days\": 3}}",
            ),
        ] {
            let mut flow = begun(format, true);
            let mut was_kept = 0;
            for byte in text.bytes() {
                flow.accept(Token::from(byte), &[byte]).unwrap();
                let mut open = Vec::new();
                was_kept += usize::from(flow.restrict(&[0.0; VOCABULARY], &mut open).unwrap());
            }
            // From the name of the tool on; what is not allowed would have ended the constraint.
            assert!(was_kept > text.len() / 2, "{format:?} is held from byte {was_kept} of {text}");
            let expected = json!({"city": "Hà <b>Nội</b>", "unit": "kelvin", "days": 3});
            assert_eq!(calls(format, text), [("get_weather".to_owned(), expected)], "{format:?}");
        }
    }

    #[test]
    fn what_a_schema_does_not_allow_is_not_open() {
        for (format, text, allowed) in [
            // The first required argument alone.
            (ToolFormat::Glm, "<tool_call>get_weather<arg_key>", "c"),
            (ToolFormat::QwenXml, "<tool_call><function=get_weather><parameter=", "c"),
            (ToolFormat::Llama4, "[get_weather(", "c"),
            (ToolFormat::Llama4, "[get_weather(city=", "\""),
            // Then the second, with one of its values.
            (
                ToolFormat::Glm,
                "<tool_call>get_weather<arg_key>city</arg_key><arg_value>a</arg_value><arg_key>",
                "u",
            ),
            (
                ToolFormat::QwenXml,
                "<tool_call><function=get_weather><parameter=city>a</parameter><parameter=",
                "u",
            ),
            (
                ToolFormat::QwenXml,
                "<tool_call><function=get_weather><parameter=city>a</parameter><parameter=unit>",
                "\nck",
            ),
            (ToolFormat::Llama4, "[get_weather(city=\"a\", unit=\"", "ck"),
            // Then any of the others, or the end.
            (ToolFormat::Llama4, "[get_weather(city=\"a\", unit=\"kelvin\"", "),"),
            (ToolFormat::Llama4, "[get_weather(city=\"a\", unit=\"kelvin\", ", "dnt"),
            (ToolFormat::Llama4, "[get_weather(city=\"a\", unit=\"kelvin\", now=", "FTft"),
            (ToolFormat::Llama3, "{\"name\": \"get_weather\"", ","),
        ] {
            assert_eq!(next(format, text).as_deref(), Some(allowed), "{format:?} {text}");
        }
    }

    #[test]
    fn text_that_is_no_call_of_a_known_tool_is_free() {
        for (format, text) in [
            (ToolFormat::Llama3, "{\"name\": \"Bob\""),
            (ToolFormat::Llama3, "Say {\"name\": \"note\", "),
            (ToolFormat::Llama4, "[1] is the first "),
            (ToolFormat::Llama4, "[get_weather "),
            (ToolFormat::Llama4, "See [note("),
            (ToolFormat::Glm, "<tool_call>other"),
            (ToolFormat::QwenXml, "<tool_call>\n<function=other>"),
            (ToolFormat::QwenXml, "<function=note>"),
        ] {
            assert_eq!(next(format, text), None, "{format:?} {text}");
        }
    }

    #[test]
    fn arguments_beyond_the_declared_ones_have_other_names() {
        let schema = json!({
            "type": "object", "properties": {"a.b": {"type": "integer"}}, "required": ["a.b"],
            "additionalProperties": {"type": "boolean"},
        });
        let tools = [("f".to_owned(), with_layout(&schema))];
        for (format, open, between, close) in [
            (ToolFormat::Llama4, "[f(a.b=1, ", "=", ")]"),
            (
                ToolFormat::QwenXml,
                "<function=f><parameter=a.b>1</parameter><parameter=",
                ">",
                "</parameter></function></tool_call>",
            ),
        ] {
            let guide = guide(&Constraint::Lark(format.begun_grammar(&tools, true, &|_| None))).unwrap();
            let accepts = |text: &str| guide.clone().accept_bytes(text.as_bytes()).is_ok();
            for (name, value, allowed) in [
                ("c", "true", true),
                ("axb", "true", true),
                ("a.b", "true", false),
                ("a.b", "2", false),
                ("c", "2", false),
            ] {
                let text = [open, name, between, value, close].concat();
                assert_eq!(accepts(&text), allowed, "{text}");
            }
        }
    }

    #[test]
    fn an_answer_ends_with_a_call_that_is_repeated_in_any_form() {
        for (format, call, between) in [
            (
                ToolFormat::Glm,
                "<tool_call>note<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>",
                "\n",
            ),
            (
                ToolFormat::QwenXml,
                "<tool_call><function=note><parameter=a>1</parameter></function></tool_call>",
                "\n",
            ),
            (
                ToolFormat::QwenXml,
                "<tool_call>\n{\"name\": \"note\", \"arguments\": {\"a\": 1}}\n</tool_call>",
                "\n",
            ),
            (ToolFormat::Llama4, "note(a=[1, \")\"])", ", "),
            (ToolFormat::Lfm2, "note(a=[1, \")\"])", ", "),
            (ToolFormat::Lfm2, "{\"name\": \"note\", \"arguments\": {\"a\": 1}}", ", "),
            (ToolFormat::Llama3, "{\"name\": \"note\", \"parameters\": {\"a\": 1}}", "; "),
        ] {
            let open = match format {
                ToolFormat::Llama4 => "[",
                ToolFormat::Lfm2 => "<|tool_call_start|>[",
                _ => "",
            };
            let layout = Layout { tools: Some(format), ..Layout::default() };
            for other in [call.replace('1', "2"), call.to_owned()] {
                let watch = RepeatedCalls::new(&layout, &known(), true);
                let mut flow = begun(format, true).watching(Some(watch));
                for byte in [open, call, between, &other].concat().bytes() {
                    flow.accept(Token::from(byte), &[byte]).unwrap();
                }
                assert_eq!(flow.is_complete(), other == call, "{format:?} {call} {other}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Regardless of the model's preferences, what follows a mark is read as calls whose arguments satisfy the schema.
        #[test]
        fn every_path_of_a_begun_call_is_a_call(
            format in prop::sample::select(ToolFormat::ALL),
            parallel: bool,
            named: bool,
            choices in prop::collection::vec(any::<usize>(), 64),
        ) {
            let tools = tools();
            let grammar = format.begun_grammar(&tools[..1], parallel, &|_| None);
            let mut guide = guide(&Constraint::Lark(grammar.clone())).unwrap_or_else(|error| panic!("{error}\n{grammar}"));
            let mark = format.call_marks(["get_weather"].into_iter()).remove(usize::from(named && format == ToolFormat::Llama4) * 2);
            let (free, begun) = mark.text.split_at(mark.unconstrained);
            guide.accept_bytes(begun.as_bytes()).unwrap();
            let mut next = choices.iter().cycle();
            // Texts of any length end by chance.
            let Some(text) = walk(&mut guide, |_| *next.next().unwrap()) else { return Ok(()) };
            let text = [free, begun, &text].concat();
            let calls = calls(format, &text);
            prop_assert!(!calls.is_empty(), "{text}");
            for (name, value) in calls {
                let schema = &tools.iter().find(|(known, _)| *known == name).unwrap().1;
                prop_assert!(jsonschema::is_valid(schema, &value), "{text}: {value}");
            }
        }
    }
}

#[test]
fn tokens_that_end_a_mark_have_to_go_on_as_allowed() {
    let mut words: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte]).collect();
    let begins = words.len();
    words.extend(["><", ">{", "> {", ">\n<", "</"].map(|text| text.as_bytes().to_vec()));
    words.push(b"<end>".to_vec());
    let end = u32::try_from(words.len() - 1).unwrap();
    let trie = TokTrie::from(&TokRxInfo::new(end + 1, end), &words);
    let grammars = Grammars::with_vocabulary(Arc::new(ApproximateTokEnv::new(trie))).unwrap();
    let guide = grammars.guide(&schema(json!({"type": "object"}))).unwrap();
    assert_eq!(guide.refused_behind(b">", false), [begins, begins + 2, begins + 3]);
    assert_eq!(guide.refused_behind(b">", true), [begins, begins + 3]);
    assert!(guide.refused_behind(b"l>", false).is_empty());
}
