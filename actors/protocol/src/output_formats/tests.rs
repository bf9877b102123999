use proptest::prelude::*;
use serde_json::json;

use super::tool_formats::CallReader;
use super::*;

fn tools() -> Vec<Tool> {
    ["get_weather", "add"]
        .map(|name| Tool {
            name: name.to_owned(),
            parameters: json!({"type": "object", "properties": {"city": {"type": "string"}, "a": {"type": "integer"}}}),
        })
        .to_vec()
}

fn layout(tools: Option<ToolFormat>, reasoning: Option<ReasoningFormat>) -> Layout {
    Layout { tools, reasoning, ..Layout::default() }
}

/// Everything of an answer that comes in these pieces; neighbours of a kind put together.
fn read<'a>(layout: &Layout, pieces: impl IntoIterator<Item = &'a str>) -> Vec<Part> {
    let mut parser = OutputParser::new(layout, &tools());
    let mut parts: Vec<Part> = Vec::new();
    let mut add = |new: Vec<Part>| {
        for part in new {
            match part {
                Part::Content(text) => Part::content(text, &mut parts),
                Part::Reasoning(text) => Part::reasoning(text, &mut parts),
                Part::Arguments(text) => Part::arguments(&text, &mut parts),
                call => parts.push(call),
            }
        }
    };
    for piece in pieces {
        add(parser.push(piece));
    }
    add(parser.finish());
    parts
}

fn content(text: &str) -> Part {
    Part::Content(text.to_owned())
}

fn call(name: &str, arguments: &str) -> [Part; 2] {
    [Part::Call(name.to_owned()), Part::Arguments(arguments.to_owned())]
}

const WEATHER: &str = r#"{"city": "Hà Nội"}"#;

#[test]
fn every_format_reads_its_own_calls() {
    for format in ToolFormat::ALL {
        for text in format.examples() {
            let parts = read(&layout(Some(*format), None), [*text]);
            // Arguments that are not written as JSON are spelled without spaces.
            let compact = WEATHER.replace(": ", ":");
            let is_call = [WEATHER, &compact].iter().any(|arguments| parts == call("get_weather", arguments));
            assert!(is_call, "{format:?}: {text}: {parts:?}");
        }
        let constrained = format.syntax().write(&[("get_weather", WEATHER)]);
        assert!(format.examples().contains(&&*constrained), "{format:?} has no example {constrained}");
    }
}

#[test]
fn arguments_without_quotes_take_their_schemas_types() {
    let arguments = r#"{"city":"12","a":12,"b":[1],"c":"x y"}"#;
    let glm = "<tool_call>add\n<arg_key>city</arg_key>\n<arg_value>12</arg_value>\n<arg_key>a</arg_key>\n\
               <arg_value>12</arg_value><arg_key>b</arg_key><arg_value>[1]</arg_value><arg_key>c</arg_key>\
               <arg_value>x y</arg_value>\n</tool_call>";
    assert_eq!(read(&layout(Some(ToolFormat::Glm), None), [glm]), call("add", arguments));
    let xml = "<tool_call>\n<function=add>\n<parameter=city>\n12\n</parameter>\n<parameter=a>\n12\n</parameter>\n\
               <parameter=b>[1]</parameter><parameter=c>x y</parameter>\n</function>\n</tool_call>";
    assert_eq!(read(&layout(Some(ToolFormat::QwenXml), None), [xml]), call("add", arguments));
}

#[test]
fn calls_in_python() {
    let (llama, lfm) = (layout(Some(ToolFormat::Llama4), None), layout(Some(ToolFormat::Lfm2), None));
    let mut both = call("get_weather", r#"{"city":"it's \"é\"\n"}"#).to_vec();
    both.extend(call("add", r#"{"a":-1,"b":[true,null,1.5],"c":{"d":[]},"e":"x, y)]"}"#));
    let python =
        r#"[get_weather(city='it\'s "\u00e9"\n'), add(a=-1, b=(True, None, 1.5,), c={'d': []}, e="x, y)]")]"#;
    assert_eq!(read(&llama, [python]), both);
    assert_eq!(read(&llama, [&*format!("<|python_start|>{python}<|python_end|>")]), both);
    assert_eq!(read(&lfm, [&*format!("<|tool_call_start|>{python}<|tool_call_end|>")]), both);
    assert_eq!(read(&llama, ["<|python_start|>add()<|python_end|>"]), call("add", "{}"));
    let mut said = call("add", "{}").to_vec();
    said.push(content("Adding."));
    assert_eq!(read(&lfm, ["<|tool_call_start|>[add()]<|tool_call_end|>Adding."]), said);
    let deep = ["[add(a=", &"[".repeat(100), &"]".repeat(100), ")]"].concat();
    for text in [
        "[1] is a footnote",
        "[add] it",
        "[add(1)]",
        "[add(a=b)]",
        "[add(a=1)] is how",
        "[add(a=1",
        "[ad",
        "[",
        "[add ",
        "[nobody(a=1)]",
        "[add(a='x)]",
        r#"[add(a="\ud800")]"#,
        "[add(a=1e400)]",
        "[get_weather.x(a=1)]",
        &deep,
    ] {
        assert_eq!(read(&llama, [text]), [content(text)], "{text}");
        let marked = format!("<|tool_call_start|>{text}<|tool_call_end|>");
        assert_eq!(read(&lfm, [&*marked]), [content(&marked)], "{text}");
    }
}

#[test]
fn several_calls_and_the_text_around_them() {
    let hermes = layout(Some(ToolFormat::Hermes), None);
    let text = "Let me see.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>\n<tool_call>\n\
                {\"name\": \"add\", \"arguments\": \"{\\\"a\\\": 2}\"}\n</tool_call>\nDone.";
    let mut wanted = vec![content("Let me see.")];
    wanted.extend(call("add", "{\"a\": 1}"));
    wanted.extend(call("add", "{\"a\": 2}"));
    wanted.push(content("Done."));
    assert_eq!(read(&hermes, [text]), wanted);
    let mistral =
        "[TOOL_CALLS][{\"name\": \"add\", \"arguments\": {}}, {\"name\": \"add\", \"arguments\": {}}]";
    assert_eq!(read(&layout(Some(ToolFormat::Mistral), None), [mistral]).len(), 4);
    let llama = "{\"name\": \"add\", \"parameters\": {}}; {\"name\": \"add\", \"parameters\": {}}";
    assert_eq!(read(&layout(Some(ToolFormat::Llama3), None), [llama]).len(), 4);
}

#[test]
fn a_mark_inside_a_string_ends_nothing() {
    let arguments = r#"{"city": "a </tool_call> \" </tool_call>"}"#;
    let text = format!("<tool_call>{{\"name\": \"add\", \"arguments\": {arguments}}}</tool_call>");
    assert_eq!(read(&layout(Some(ToolFormat::Hermes), None), [&*text]), call("add", arguments));
}

#[test]
fn what_cannot_be_read_is_text_to_the_last_byte() {
    for (format, text) in [
        (ToolFormat::Hermes, "<tool_call>\nno json\n</tool_call> and more"),
        (ToolFormat::Hermes, "<tool_call>{\"name\": \"nobody\", \"arguments\": {}}</tool_call>"),
        (ToolFormat::Hermes, "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": 1}</tool_call>"),
        (ToolFormat::Hermes, "<tool_call>{\"name\": \"add\", \"arguments\": [1]}</tool_call>"),
        (ToolFormat::Hermes, "<tool_call>{\"name\": \"add\", \"argum"),
        (ToolFormat::Hermes, "<tool_call>"),
        (ToolFormat::Hermes, "a < b <tool_"),
        (ToolFormat::Llama3, "{\"a\": 1} is an object"),
        (ToolFormat::Llama3, "{"),
        (ToolFormat::Mistral, "[TOOL_CALLS] none today"),
        (ToolFormat::MistralArgs, "[TOOL_CALLS]add[ARGS]{\"a\": "),
        (ToolFormat::DeepseekV3, "<｜tool▁calls▁begin｜>nothing<｜tool▁calls▁end｜>"),
        (ToolFormat::Kimi, "<|tool_calls_section_begin|>nothing"),
        (ToolFormat::Glm, "<tool_call>add <arg_key>a</tool_call>"),
        (ToolFormat::QwenXml, "<tool_call><function=add></tool_call>"),
    ] {
        assert_eq!(read(&layout(Some(format), None), [text]), [content(text)], "{text}");
    }
}

#[test]
fn thinking_is_split_off() {
    let think = layout(None, Some(ReasoningFormat::Think));
    let open = Layout { thinking_open: true, ..think.clone() };
    let thought = |text: &str| Part::Reasoning(text.to_owned());
    for (layout, text, wanted) in [
        (&think, "<think>\na b\n</think>\n\nyes", vec![thought("a b"), content("yes")]),
        (&think, "yes </think> no", vec![content("yes </think> no")]),
        (&think, "yes <think>no</think>", vec![content("yes <think>no</think>")]),
        (&think, "<think></think>yes", vec![content("yes")]),
        (&think, "<think>a", vec![thought("a")]),
        (&think, "<thin", vec![content("<thin")]),
        (&open, "a\n</think>\n\nyes\n", vec![thought("a"), content("yes\n")]),
        (&open, "<think>\na</think>yes", vec![thought("a"), content("yes")]),
        (&open, "a", vec![thought("a")]),
        (&open, "</think>", vec![]),
        (&open, "", vec![]),
    ] {
        assert_eq!(read(layout, [text]), wanted, "{text}");
    }
    let bracket = layout_of(ReasoningFormat::Bracket, "[THINK]a[/THINK]b");
    assert_eq!(bracket, [thought("a"), content("b")]);
    let harmony = layout_of(
        ReasoningFormat::Harmony,
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
    );
    assert_eq!(harmony, [thought("a"), content("b")]);
    assert_eq!(layout_of(ReasoningFormat::Harmony, "no header"), [content("no header")]);
}

fn layout_of(reasoning: ReasoningFormat, text: &str) -> Vec<Part> {
    read(&layout(None, Some(reasoning)), [text])
}

#[test]
fn thinking_and_calls() {
    let both = layout(Some(ToolFormat::Hermes), Some(ReasoningFormat::Think));
    let text =
        "<think>I <tool_call> it</think>\n<tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call>";
    let mut wanted = vec![Part::Reasoning("I <tool_call> it".to_owned())];
    wanted.extend(call("add", "{}"));
    assert_eq!(read(&both, [text]), wanted);
}

#[test]
fn constrained_calls_are_passed_on_at_once() {
    for format in ToolFormat::ALL {
        let layout = Layout { tools: Some(*format), enforced: true, ..Layout::default() };
        let mut parser = OutputParser::new(&layout, &tools());
        let mut parts = Vec::new();
        for piece in format.syntax().write(&[("add", "{\"a\": [{\"b\": \"}]\"}"), ("add", "{}")]).chars() {
            // The first call is not complete, and yet known.
            parts.extend(parser.push(&piece.to_string()));
        }
        parts.extend(parser.finish());
        let text: String = parts
            .iter()
            .filter_map(|part| match part {
                Part::Arguments(text) => Some(text.as_str()),
                _ => None,
            })
            .collect();
        assert!(text.starts_with("{\"a\": [{\"b\": \"}]\"}"), "{format:?}: {parts:?}");
        assert!(parts.iter().filter(|part| matches!(part, Part::Arguments(_))).count() > 3, "{format:?}");
    }
}

/// Returns the parts of a constrained answer that ends here.
fn constrained(format: ToolFormat, text: &str, required: bool) -> Vec<Part> {
    let layout = Layout { tools: Some(format), enforced: true, ..Layout::default() };
    let mut parser = OutputParser::new(&layout, &tools());
    if required {
        parser = parser.requiring_call();
    }
    let mut parts = parser.push(text);
    parts.extend(parser.finish());
    parts
}

#[test]
fn a_cut_call_is_never_text_where_a_call_is_required() {
    for format in ToolFormat::ALL {
        let whole = format.syntax().write(&[("add", "{\"a\": [{\"b\": 1}]}"), ("get_weather", "{}")]);
        for end in (0..=whole.len()).filter(|&end| whole.is_char_boundary(end)) {
            let parts = constrained(*format, &whole[..end], true);
            let has_text = parts.iter().any(|part| matches!(part, Part::Content(_)));
            assert!(!has_text, "{format:?}: {:?}: {parts:?}", &whole[..end]);
        }
    }
}

#[test]
fn a_cut_call_behind_its_mark_is_never_text() {
    for format in ToolFormat::ALL {
        let Some(mark) = format.syntax().trigger() else { continue };
        let whole = format.syntax().write(&[("add", "{\"a\": 1}"), ("get_weather", "{}")]);
        let begin = whole.find(mark).unwrap() + mark.len();
        for end in (begin..=whole.len()).filter(|&end| whole.is_char_boundary(end)) {
            let parts = constrained(*format, &whole[..end], false);
            let has_text = parts.iter().any(|part| matches!(part, Part::Content(_)));
            assert!(!has_text, "{format:?}: {:?}: {parts:?}", &whole[..end]);
        }
    }
    // A beginning that may as well be text is text, and so is a name that no tool has.
    for text in ["a <", "a <tool", "a <tool_call>\n{\"name\": \"nobody"] {
        let said: String = constrained(ToolFormat::Hermes, text, false)
            .into_iter()
            .map(|part| match part {
                Part::Content(text) => text,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(said.split_whitespace().collect::<String>(), text.split_whitespace().collect::<String>());
    }
}

#[test]
fn templates_tell_their_formats() {
    let fixture = |name: &str| {
        std::fs::read_to_string(format!("{}/../../fixtures/templates/{name}", env!("CARGO_MANIFEST_DIR")))
            .unwrap()
    };
    let hermes = Formats { tools: Some(ToolFormat::Hermes), reasoning: None };
    let thinking = Formats { reasoning: Some(ReasoningFormat::Think), ..hermes };
    assert_eq!(detect(&fixture("qwen3.jinja"), true), thinking);
    assert_eq!(detect(&fixture("llama3.jinja"), true).tools, Some(ToolFormat::Llama3));
    assert_eq!(detect(&fixture("mistral.jinja"), true).tools, Some(ToolFormat::Mistral));
    assert_eq!(detect(&fixture("smollm2.jinja"), false), Formats::default());
    assert_eq!(detect("<|python_start|>", true).tools, Some(ToolFormat::Llama4));
    assert_eq!(detect("<|tool_list_start|><|tool_call_start|>", true).tools, Some(ToolFormat::Lfm2));
}

/// Returns `true` if no two of these are equal.
fn are_distinct<T: Ord>(mut all: Vec<T>) -> bool {
    all.sort_unstable();
    all.windows(2).all(|pair| pair[0] != pair[1])
}

#[test]
fn marks_identify_their_format_alone() {
    for format in ToolFormat::ALL {
        for marks in format.spec().template.any_of {
            assert_eq!(detect(&marks.join(" "), true).tools, Some(*format), "{marks:?}");
        }
    }
    for format in ReasoningFormat::ALL {
        for marks in format.spec().template.any_of {
            assert_eq!(detect(&marks.join(" "), true).reasoning, Some(*format), "{marks:?}");
        }
    }
    assert!(are_distinct(ToolFormat::ALL.iter().map(|format| format.spec().template.priority).collect()));
    assert!(are_distinct(
        ReasoningFormat::ALL.iter().map(|format| format.spec().template.priority).collect()
    ));
    assert_eq!(detect("", true), Formats { tools: Some(ToolFormat::DEFAULT), reasoning: None });
}

#[test]
fn registries_have_every_file() {
    for (folder, formats) in
        [("tool_formats", ToolFormat::ALL.len()), ("reasoning_formats", ReasoningFormat::ALL.len())]
    {
        let folder = format!("{}/src/output_formats/{folder}", env!("CARGO_MANIFEST_DIR"));
        let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
        let files = files.filter(|name| name != "mod.rs").count();
        assert_eq!(files, formats, "{folder}: a file without a line of `registry!`");
    }
}

#[test]
fn names_lead_back() {
    assert!(are_distinct(ToolFormat::NAMES.to_vec()) && are_distinct(ReasoningFormat::NAMES.to_vec()));
    for format in ToolFormat::ALL {
        assert_eq!(ToolFormat::by_name(format.name()), Some(*format));
    }
    assert_eq!(ReasoningFormat::by_name("think"), Some(ReasoningFormat::Think));
    assert_eq!(ToolFormat::by_name("nonsense"), None);
}

fn layouts() -> impl Strategy<Value = Layout> {
    let tools = prop::option::of(prop::sample::select(ToolFormat::ALL));
    let reasoning = prop::option::of(prop::sample::select(ReasoningFormat::ALL));
    (tools, reasoning, any::<bool>(), any::<bool>()).prop_map(
        |(tools, reasoning, enforced, thinking_open)| Layout { tools, enforced, reasoning, thinking_open },
    )
}

/// Texts of models, and near misses.
fn texts() -> impl Strategy<Value = String> {
    let written = |format: &ToolFormat| {
        let calls: [&[(&str, &str)]; 2] = [&[("add", "{\"a\": 1}")], &[("add", "{"), ("nobody", "{}")]];
        calls.map(|calls| format.syntax().write(calls))
    };
    let mut pieces: Vec<String> = ToolFormat::ALL.iter().flat_map(written).collect();
    pieces.extend(ToolFormat::ALL.iter().flat_map(|format| format.examples()).map(|text| (*text).to_owned()));
    pieces.extend(["[add(a=1)]", "[add(a='", "add(", "<|python_start|>"].map(str::to_owned));
    let tools = ToolFormat::ALL.iter().map(|format| Formats { tools: Some(*format), reasoning: None });
    let reasoning =
        ReasoningFormat::ALL.iter().map(|format| Formats { tools: None, reasoning: Some(*format) });
    pieces.extend(tools.chain(reasoning).flat_map(|formats| formats.markers()).map(str::to_owned));
    pieces.extend(
        ["é ", "\n", "{", "}", "\"", "\\", "<", "[", "analysis", " to=functions.add", "🙂"]
            .map(str::to_owned),
    );
    prop::collection::vec(prop::sample::select(pieces), 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn cuts_do_not_matter(layout in layouts(), text in texts(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).filter(|&cut| text.is_char_boundary(cut)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&str> = cuts.windows(2).map(|cut| &text[cut[0]..cut[1]]).collect();
        let whole = read(&layout, [&*text]);
        prop_assert_eq!(&read(&layout, pieces), &whole);
        let characters: Vec<String> = text.chars().map(String::from).collect();
        prop_assert_eq!(&read(&layout, characters.iter().map(String::as_str)), &whole);
    }

    #[test]
    fn free_arguments_are_always_objects(layout in layouts(), text in texts()) {
        let layout = Layout { enforced: false, ..layout };
        for part in read(&layout, [&*text]) {
            if let Part::Arguments(arguments) = part {
                // Arguments of calls that follow each other are apart only in the parsed text.
                let parsed: Result<serde_json::Map<String, Value>, _> = serde_json::from_str(&arguments);
                prop_assert!(parsed.is_ok(), "{}", arguments);
            }
        }
    }

    #[test]
    fn text_without_marks_stays(layout in layouts(), text in "[a-z \n<>\\[\\]{}\"é]{0,40}") {
        let layout = Layout { thinking_open: false, ..layout };
        let is_bare = |format: ToolFormat| match format.spec().reader {
            CallReader::Blocks(blocks) => blocks.bare.is_some(),
            CallReader::Messages => false,
        };
        prop_assume!(!layout.tools.is_some_and(is_bare));
        let said: String = read(&layout, [&*text]).into_iter().map(|part| match part {
            Part::Content(text) => text,
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(said, text);
    }
}
