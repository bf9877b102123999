use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::*;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/templates/");

/// A recording of `record.py`.
#[derive(Deserialize)]
struct Recorded {
    /// The variable `x` of every case's extra ones.
    x: Json,
    chats: Map<String, Json>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    template: Option<String>,
    source: Option<String>,
    chat: String,
    tools: Option<Vec<Json>>,
    documents: Option<Vec<Json>>,
    #[serde(default)]
    add_generation_prompt: bool,
    #[serde(default)]
    extra: Map<String, Json>,
    text: Option<String>,
    error: Option<String>,
    message: Option<String>,
}

fn now() -> Zoned {
    jiff::civil::date(2025, 3, 9).at(14, 5, 6, 0).in_tz("UTC").unwrap()
}

fn input(messages: &[Json]) -> ChatInput<'_> {
    ChatInput { messages, tools: None, documents: None, add_generation_prompt: true, extra: None, now: now() }
}

fn render(source: &str, messages: &[Json]) -> Result<String, TemplateError> {
    ChatTemplate::new(source, "<s>", "</s>")?.render(&input(messages))
}

impl Case {
    fn run(&self, recorded: &Recorded) -> Result<String, TemplateError> {
        let source = match (&self.source, &self.template) {
            (Some(source), _) => source.clone(),
            (None, Some(name)) => std::fs::read_to_string(format!("{FIXTURES}{name}")).unwrap(),
            (None, None) => panic!("a case has neither template nor source"),
        };
        let mut extra = self.extra.clone();
        extra.insert("x".to_owned(), recorded.x.clone());
        ChatTemplate::new(&source, "<s>", "</s>")?.render(&ChatInput {
            messages: recorded.chats[&self.chat].as_array().unwrap(),
            tools: self.tools.as_deref(),
            documents: self.documents.as_deref(),
            add_generation_prompt: self.add_generation_prompt,
            extra: Some(&extra),
            now: now(),
        })
    }

    fn agrees(&self, result: &Result<String, TemplateError>) -> bool {
        match (result, self.error.as_deref()) {
            (Ok(text), None) => Some(text) == self.text.as_ref(),
            (Err(TemplateError::Refused(message)), Some("refused")) => Some(message) == self.message.as_ref(),
            (Err(TemplateError::Failed(_)), Some("failed")) => true,
            (Err(TemplateError::Invalid(_)), Some("invalid")) => true,
            _ => false,
        }
    }
}

#[test]
fn renders_what_jinja2_renders() {
    let recorded = std::fs::read_to_string(format!("{FIXTURES}cases.json")).unwrap();
    let recorded: Recorded = serde_json::from_str(&recorded).unwrap();
    assert!(recorded.cases.len() > 600);
    let mut different = String::new();
    for case in &recorded.cases {
        let result = case.run(&recorded);
        if !case.agrees(&result) {
            let what = case.source.as_ref().or(case.template.as_ref());
            let expected = (&case.text, &case.error, &case.message);
            different.push_str(&format!("{what:?} of {:?}\n  {expected:?}\n  {result:?}\n", case.chat));
        }
    }
    assert!(different.is_empty(), "\n{different}");
}

#[test]
fn the_fallback_is_chatml() {
    let messages = [
        json!({"role": "system", "content": "Be brief."}),
        json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "\nb"}]}),
        json!({"role": "assistant", "content": null}),
    ];
    let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n\
                    <|im_start|>assistant\n<|im_end|>\n";
    assert_eq!(render(CHATML, &messages).unwrap(), format!("{expected}<|im_start|>assistant\n"));
    let template = ChatTemplate::new(CHATML, "", "").unwrap();
    let answered = ChatInput { add_generation_prompt: false, ..input(&messages) };
    assert_eq!(template.render(&answered).unwrap(), expected);
}

#[test]
fn extra_variables_come_before_the_tokens_but_not_before_the_messages() {
    let extra = json!({"eos_token": "E", "messages": 1, "tools": 2, "thinking": {"on": true}});
    let template = ChatTemplate::new(
        "{{ bos_token }}{{ eos_token }}{{ messages }}{{ tools }}{{ thinking.on }}",
        "<s>",
        "</s>",
    );
    let rendered = template.unwrap().render(&ChatInput { extra: extra.as_object(), ..input(&[]) });
    assert_eq!(rendered.unwrap(), "<s>E[]NoneTrue");
}

#[test]
fn errors_say_what_and_where() {
    let messages = [json!({"role": "user", "content": "Hi"})];
    assert_eq!(
        render("{% if messages|length < 2 %}{{ raise_exception('Say more.') }}{% endif %}", &messages),
        Err(TemplateError::Refused("Say more.".to_owned()))
    );
    let Err(TemplateError::Failed(message)) = render("a\n{{ messages[0].name.first }}", &messages) else {
        panic!("an attribute of nothing is an error");
    };
    assert!(message.contains("undefined") && message.contains("(line 2)"), "{message}");
    let Err(TemplateError::Invalid(message)) = render("a\n\n{% if %}", &messages) else {
        panic!("no condition is an error");
    };
    assert!(message.contains("(line 3)"), "{message}");
    assert!(matches!(render("{{ strftime_now('%!') }}", &messages), Err(TemplateError::Failed(_))));
}

#[test]
fn hostile_templates_end_soon() {
    let long = "a".repeat(1 << 20);
    let messages = [json!({"role": "user", "content": long})];
    let deep = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    let hostile = [
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(n) %}{{ f(n + 1) ~ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l|tojson }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
        "{{ 'x' * 999999999999 }}",
        "{{ messages[0].content.replace('a', messages[0].content) }}",
        "{{ messages[0].content.replace('', messages[0].content) }}",
        "{{ messages[0].content.join(messages[0].content) }}",
        "{{ messages[0].content.join(messages[0].content|list) }}",
        "{{ '{:999999999999}'.format(1) }}",
        "{{ '{:>99999999}{:>99999999}'.format(1, 2) }}",
        "{{ range(99999999999)|list }}",
        "{{ [[[1, 2]] * 9999999]|tojson(indent=9999999999) }}",
        deep.as_str(),
    ];
    for source in hostile {
        let start = Instant::now();
        let result = render(source, &messages);
        let source = &source[..source.len().min(100)];
        assert!(result.is_err(), "{source}: {} bytes", result.unwrap().len());
        assert!(start.elapsed() < Duration::from_secs(60), "{source}: {:?}", start.elapsed());
    }
}

#[test]
fn large_prompts_are_affordable() {
    let source = std::fs::read_to_string(format!("{FIXTURES}qwen3.jinja")).unwrap();
    let long = "word ".repeat((32 << 20) / 5);
    let messages = [json!({"role": "user", "content": long})];
    assert!(render(&source, &messages).unwrap().contains(&long));
    let turn = [json!({"role": "user", "content": "a"}), json!({"role": "assistant", "content": "b"})];
    let messages: Vec<Json> = turn.iter().cycle().take(20_000).cloned().collect();
    assert_eq!(render(&source, &messages).unwrap().matches("<|im_end|>").count(), 20_000);
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        // Floats that every parser reads exactly.
        any::<i32>().prop_map(|n| Json::from(f64::from(n) / 64.0)),
        any::<String>().prop_map(Json::from),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Json::from),
            prop::collection::vec((any::<String>(), inner), 0..6)
                .prop_map(|fields| Json::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn tojson_is_the_same_json_in_the_same_order(value in any_json(), indent in 0usize..5, ascii: bool) {
        let messages = [value];
        let filter = format!("{{{{ messages[0]|tojson(indent={indent}, ensure_ascii={ascii}) }}}}");
        for source in ["{{ messages[0]|tojson }}", filter.as_str()] {
            let text = render(source, &messages).unwrap();
            let read: Json = serde_json::from_str(&text).unwrap();
            // Compared as text, since serde_json's maps are equal in any order.
            prop_assert_eq!(read.to_string(), messages[0].to_string());
        }
    }

    #[test]
    fn what_users_write_is_never_read_as_a_template(content: String, role in "[a-z]{1,9}") {
        let source = std::fs::read_to_string(format!("{FIXTURES}smollm2.jinja")).unwrap();
        let content = format!("{{{{ 7 * 7 }}}}{content}{{% raise_exception('x') %}}<&>");
        let messages = [json!({"role": "system", "content": "S"}), json!({"role": role, "content": content})];
        prop_assert_eq!(
            render(&source, &messages).unwrap(),
            format!("<|im_start|>system\nS<|im_end|>\n<|im_start|>{role}\n{content}<|im_end|>\n<|im_start|>assistant\n")
        );
    }

    #[test]
    fn any_source_and_any_messages_are_survived(
        pieces in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "{{", "}}", "{%", "%}", "{#", "#}", "-", "+", " generation ", " endgeneration ", "if", "for m in messages",
                    "endfor", "endif", "set x =", "messages", "[0]", ".content", "|tojson", ".split(", "'", ")", "raw", "\r\n",
                ]).prop_map(str::to_owned),
                any::<String>(),
            ],
            0..12
        ),
        messages in prop::collection::vec(any_json(), 0..3),
    ) {
        let _ = render(&pieces.concat(), &messages);
        let templates = ["llama3", "mistral", "qwen3", "gemma", "macros", "smollm2"];
        for name in templates {
            let source = std::fs::read_to_string(format!("{FIXTURES}{name}.jinja")).unwrap();
            let _ = render(&source, &messages);
        }
    }

    #[test]
    fn floats_print_so_that_they_read_back(value: f64) {
        let text = python::float_repr(value);
        prop_assert!(text.contains(['.', 'e']) || !value.is_finite());
        let read: f64 = text.parse().unwrap();
        prop_assert!(read == value || (read.is_nan() && value.is_nan()));
    }
}
