//! The bodies of requests to upstreams.
//!
//! Pure. A body has what the caller asked for and nothing of who the caller is. Sampling is written out, because the defaults of
//! servers differ (llama-server's `top_k` is 40, vLLM takes those of the model's `generation_config.json`).

use jan_protocol::embeddings::EmbeddingInput;
use jan_protocol::types::{Constraint, GenerationRequest, Prompt, PromptEnding, SamplingParams, ToolPlan};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::features::{self, Feature};
use crate::config::UpstreamKind;

/// A request for an upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamRequest {
    /// The route below the base of the API.
    pub route: &'static str,
    /// The body.
    pub body: Value,
}

/// Returns the request for one answer, always streamed: so what has been said is known if the upstream dies, and leaving cancels at
/// once. `isolate`: whether tenants' prefixes are kept apart. The kind has all that the request needs.
#[must_use]
pub fn generation(
    kind: UpstreamKind,
    model: &str,
    request: &GenerationRequest,
    isolate: bool,
) -> UpstreamRequest {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| {
        body.insert(name.to_owned(), value);
    };
    set("model", json!(model));
    set("stream", json!(true));
    set("stream_options", stream_options(kind));
    let is_chat = matches!(&*request.prompt, Prompt::Chat(_));
    match request.max_tokens {
        Some(most) if is_chat && kind == UpstreamKind::Openai => set("max_completion_tokens", json!(most)),
        Some(most) => set("max_tokens", json!(most)),
        None if is_chat => {}
        // Without it a completion has 16 tokens.
        None => match kind {
            UpstreamKind::Jan | UpstreamKind::LlamaServer => set("max_tokens", json!(-1)),
            // vLLM; the others do not get such requests.
            _ => set("max_tokens", Value::Null),
        },
    }
    if !request.stop.is_empty() {
        set("stop", json!(&*request.stop));
    }
    match request.logprobs {
        Some(most) if is_chat => {
            set("logprobs", json!(true));
            set("top_logprobs", json!(most));
        }
        Some(most) => set("logprobs", json!(most)),
        None => {}
    }
    if kind == UpstreamKind::LlamaServer {
        // Its only early word on the length of a prompt.
        set("return_progress", json!(true));
    }
    if isolate {
        match kind {
            UpstreamKind::Vllm | UpstreamKind::Sglang => set("cache_salt", json!(salt(request))),
            UpstreamKind::Jan => set("prompt_cache_key", json!(salt(request))),
            _ => {}
        }
    }
    match request.thinking_budget.filter(|_| kind.has(Feature::ThinkingBudget)) {
        Some(budget) if kind == UpstreamKind::Vllm => set("thinking_token_budget", json!(budget)),
        Some(budget) => set("thinking_budget", json!(budget)),
        None => {}
    }
    sampling(kind, &request.sampling, &mut body);
    if let Some(constraint) = request.constraint.as_deref() {
        constrain(kind, constraint, is_chat, &mut body);
    }
    let route = match &*request.prompt {
        Prompt::Chat(_) => {
            chat(kind, request, &mut body);
            "/chat/completions"
        }
        Prompt::Text(text) => {
            body.insert("prompt".to_owned(), json!(text));
            "/completions"
        }
        Prompt::Tokens(tokens) => {
            body.insert("prompt".to_owned(), json!(tokens));
            "/completions"
        }
        Prompt::Infill { prefix, suffix } => {
            body.insert("prompt".to_owned(), json!(prefix));
            body.insert("suffix".to_owned(), json!(suffix));
            "/completions"
        }
    };
    UpstreamRequest { route, body: Value::Object(body) }
}

fn stream_options(kind: UpstreamKind) -> Value {
    match kind {
        UpstreamKind::Vllm | UpstreamKind::Sglang | UpstreamKind::Jan => {
            json!({"include_usage": true, "continuous_usage_stats": true})
        }
        _ => json!({"include_usage": true}),
    }
}

/// Returns what keeps the prefixes of a tenant apart: the same on every server, and no name of a user.
fn salt(request: &GenerationRequest) -> String {
    let mut hash = Sha256::new();
    hash.update(b"jan-server prefix\0");
    hash.update(request.tenant.as_bytes());
    hash.update(b"\0");
    hash.update(request.cache_key.as_deref().unwrap_or_default().as_bytes());
    let digest = hash.finalize();
    digest.iter().take(24).map(|byte| format!("{byte:02x}")).collect()
}

fn sampling(kind: UpstreamKind, params: &SamplingParams, body: &mut Map<String, Value>) {
    let default = SamplingParams::default();
    let is_openai = kind == UpstreamKind::Openai;
    let mut set = |name: &str, value: Value| {
        body.insert(name.to_owned(), value);
    };
    // OpenAI's reasoning models refuse them, even at their defaults, which are ours.
    if !is_openai || params.temperature != default.temperature {
        set("temperature", number(params.temperature));
    }
    if !is_openai || params.top_p != default.top_p {
        set("top_p", number(params.top_p));
    }
    if params.presence_penalty != default.presence_penalty {
        set("presence_penalty", number(params.presence_penalty));
    }
    if params.frequency_penalty != default.frequency_penalty {
        set("frequency_penalty", number(params.frequency_penalty));
    }
    if !params.logit_bias.is_empty() {
        let biases = params.logit_bias.iter().map(|(token, bias)| (token.to_string(), number(*bias)));
        set("logit_bias", Value::Object(biases.collect()));
    }
    // The range that all take.
    set("seed", json!((params.seed ^ (params.seed >> 32)) & 0x7fff_ffff));
    if kind.has(Feature::TopK) {
        let off = if matches!(kind, UpstreamKind::Vllm | UpstreamKind::Sglang) { -1 } else { 0 };
        set("top_k", if params.top_k == 0 { json!(off) } else { json!(params.top_k) });
    }
    if kind.has(Feature::MinP) {
        set("min_p", number(params.min_p));
    }
    if kind.has(Feature::TypicalP) {
        set("typical_p", number(params.typical_p));
    }
    match kind {
        UpstreamKind::Vllm | UpstreamKind::Sglang => set("repetition_penalty", number(params.repeat_penalty)),
        UpstreamKind::LlamaServer | UpstreamKind::Jan => set("repeat_penalty", number(params.repeat_penalty)),
        UpstreamKind::Auto | UpstreamKind::Openai => {}
    }
    if params.min_tokens > 0 {
        set("min_tokens", json!(params.min_tokens));
    }
    if params.ignore_eos {
        set("ignore_eos", json!(true));
    }
}

/// Returns a number as it was given, without the digits that the conversion of an `f32` adds.
fn number(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, |value| json!(value))
}

fn constrain(kind: UpstreamKind, constraint: &Constraint, is_chat: bool, body: &mut Map<String, Value>) {
    let (name, value) = match (constraint, kind) {
        (Constraint::JsonSchema(schema), _) => {
            // The edge has parsed it.
            let schema: Value = serde_json::from_str(schema).unwrap_or_default();
            if kind == UpstreamKind::LlamaServer && !is_chat {
                ("json_schema", schema)
            } else {
                let format = json!({"name": "answer", "schema": schema, "strict": true});
                ("response_format", json!({"type": "json_schema", "json_schema": format}))
            }
        }
        (Constraint::Regex(regex), UpstreamKind::Sglang) => ("regex", json!(regex)),
        (Constraint::Regex(regex), _) => ("structured_outputs", json!({"regex": regex})),
        (Constraint::Choice(texts), _) => ("structured_outputs", json!({"choice": texts})),
        (Constraint::Gbnf(grammar), UpstreamKind::Sglang) => ("ebnf", json!(grammar)),
        (Constraint::Gbnf(grammar), UpstreamKind::LlamaServer | UpstreamKind::Jan) => {
            ("grammar", json!(grammar))
        }
        (Constraint::Gbnf(grammar) | Constraint::Lark(grammar), _) => {
            ("structured_outputs", json!({"grammar": grammar}))
        }
    };
    body.insert(name.to_owned(), value);
}

fn chat(kind: UpstreamKind, request: &GenerationRequest, body: &mut Map<String, Value>) {
    let Prompt::Chat(chat) = &*request.prompt else { return };
    let mut set = |name: &str, value: Value| {
        body.insert(name.to_owned(), value);
    };
    let mut messages = chat.messages.clone();
    if kind == UpstreamKind::Openai {
        // It refuses members that it does not know; this one is for chat templates.
        for message in messages.iter_mut().filter_map(Value::as_object_mut) {
            message.remove("reasoning_content");
        }
        if let Some(effort) = features::effort(request) {
            set("reasoning_effort", json!(effort));
        }
    } else if !chat.template_kwargs.is_empty() {
        set("chat_template_kwargs", Value::Object(chat.template_kwargs.clone()));
    }
    set("messages", Value::Array(messages));
    if !chat.documents.is_empty() {
        set("documents", json!(chat.documents));
    }
    match chat.ending {
        PromptEnding::Answer => {}
        PromptEnding::Messages => set("add_generation_prompt", json!(false)),
        // llama-server continues an assistant's message anyway.
        PromptEnding::LastMessage if kind == UpstreamKind::LlamaServer => {}
        PromptEnding::LastMessage => {
            set("add_generation_prompt", json!(false));
            set("continue_final_message", json!(true));
        }
    }
    tools(&chat.tools, request.tools.as_deref(), body);
}

/// Writes the tools, and which of them may or must be called.
fn tools(shown: &[Value], plan: Option<&ToolPlan>, body: &mut Map<String, Value>) {
    if shown.is_empty() {
        return;
    }
    let Some(plan) = plan else {
        body.insert("tools".to_owned(), json!(shown));
        body.insert("tool_choice".to_owned(), json!("none"));
        return;
    };
    let is_callable =
        |tool: &&Value| plan.callable.iter().any(|one| tool["function"]["name"] == one.name.as_str());
    let callable: Vec<&Value> = shown.iter().filter(is_callable).collect();
    let choice = match &plan.callable[..] {
        [one] if plan.required => json!({"type": "function", "function": {"name": one.name}}),
        _ if plan.required => json!("required"),
        _ => json!("auto"),
    };
    body.insert("tools".to_owned(), json!(callable));
    body.insert("tool_choice".to_owned(), choice);
    if !plan.parallel {
        body.insert("parallel_tool_calls".to_owned(), json!(false));
    }
}

/// Returns the request for the embeddings of inputs.
#[must_use]
pub fn embeddings(model: &str, inputs: &[EmbeddingInput], dimensions: Option<u32>) -> UpstreamRequest {
    let input = |input: &EmbeddingInput| match input {
        EmbeddingInput::Text(text) => json!(text),
        EmbeddingInput::Tokens(tokens) => json!(tokens),
    };
    let inputs: Vec<Value> = inputs.iter().map(input).collect();
    let mut body = json!({"model": model, "input": inputs, "encoding_format": "float"});
    if let Some(dimensions) = dimensions {
        body["dimensions"] = json!(dimensions);
    }
    UpstreamRequest { route: "/embeddings", body }
}

/// Returns the requests that find out whether an upstream works: a chat, and for models that have none a completion and embeddings.
#[must_use]
pub fn trials(kind: UpstreamKind, model: &str) -> [UpstreamRequest; 3] {
    let length = if kind == UpstreamKind::Openai { "max_completion_tokens" } else { "max_tokens" };
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let chat = UpstreamRequest {
        route: "/chat/completions",
        body: json!({"model": model, "stream": true, length: 1, "messages": messages}),
    };
    let completion = UpstreamRequest {
        route: "/completions",
        body: json!({"model": model, "stream": true, "max_tokens": 1, "prompt": "Hi"}),
    };
    [chat, completion, embeddings(model, &[EmbeddingInput::Text("Hi".to_owned())], None)]
}

#[cfg(test)]
mod tests {
    use jan_protocol::types::{Callable, ChatPrompt};

    use super::*;
    use crate::model::upstream::test_requests::{chat, text};

    fn body(kind: UpstreamKind, request: &GenerationRequest) -> Value {
        generation(kind, "there", request, false).body
    }

    #[test]
    fn sampling_is_written_out_in_the_names_of_each_kind() {
        let sampling = SamplingParams { temperature: 0.7, seed: 5, ..SamplingParams::default() };
        let request = GenerationRequest { sampling, stop: vec!["x".to_owned()].into(), ..text("Hi") };
        let vllm = json!({
            "model": "there", "stream": true, "prompt": "Hi", "max_tokens": 16, "stop": ["x"],
            "stream_options": {"include_usage": true, "continuous_usage_stats": true},
            "temperature": 0.7, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "seed": 5,
        });
        assert_eq!(body(UpstreamKind::Vllm, &request), vllm);
        let llama = json!({
            "model": "there", "stream": true, "prompt": "Hi", "max_tokens": 16, "stop": ["x"],
            "stream_options": {"include_usage": true}, "return_progress": true, "temperature": 0.7, "top_p": 1.0,
            "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0, "seed": 5,
        });
        assert_eq!(body(UpstreamKind::LlamaServer, &request), llama);
        let openai = json!({
            "model": "there", "stream": true, "prompt": "Hi", "max_tokens": 16, "stop": ["x"],
            "stream_options": {"include_usage": true}, "temperature": 0.7, "seed": 5,
        });
        assert_eq!(body(UpstreamKind::Openai, &request), openai);
        let endless = GenerationRequest { max_tokens: None, ..text("Hi") };
        assert_eq!(body(UpstreamKind::Vllm, &endless)["max_tokens"], Value::Null);
        assert_eq!(body(UpstreamKind::Jan, &endless)["max_tokens"], -1);
    }

    #[test]
    fn constraints_have_the_fields_of_each_kind() {
        let with =
            |constraint: Constraint| GenerationRequest { constraint: Some(constraint.into()), ..text("Hi") };
        let gbnf = with(Constraint::Gbnf("root ::= \"a\"".to_owned()));
        assert_eq!(body(UpstreamKind::Vllm, &gbnf)["structured_outputs"]["grammar"], "root ::= \"a\"");
        assert_eq!(body(UpstreamKind::Sglang, &gbnf)["ebnf"], "root ::= \"a\"");
        assert_eq!(body(UpstreamKind::LlamaServer, &gbnf)["grammar"], "root ::= \"a\"");
        let schema = with(Constraint::JsonSchema("{\"type\": \"integer\"}".to_owned()));
        assert_eq!(body(UpstreamKind::LlamaServer, &schema)["json_schema"], json!({"type": "integer"}));
        let format = &body(UpstreamKind::Openai, &schema)["response_format"]["json_schema"];
        assert_eq!(*format, json!({"name": "answer", "schema": {"type": "integer"}, "strict": true}));
        let regex = with(Constraint::Regex("a+".to_owned()));
        assert_eq!(body(UpstreamKind::Sglang, &regex)["regex"], "a+");
        assert_eq!(body(UpstreamKind::Jan, &regex)["structured_outputs"], json!({"regex": "a+"}));
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
    }

    #[test]
    fn chats_have_their_tools_and_nothing_of_their_callers() {
        let messages = vec![
            json!({"role": "user", "content": "Hi"}),
            json!({"role": "assistant", "content": "a", "reasoning_content": "b"}),
            json!({"role": "user", "content": "So?"}),
        ];
        let prompt = ChatPrompt { tools: vec![tool("a"), tool("b")], ..ChatPrompt::from(messages) };
        let mut request =
            GenerationRequest { user: "user_7".to_owned(), tenant: "user_7".to_owned(), ..chat(prompt) };
        let isolated = generation(UpstreamKind::Vllm, "there", &request, true);
        assert_eq!(isolated.route, "/chat/completions");
        assert!(!isolated.body.to_string().contains("user_7"), "{isolated:?}");
        assert_eq!(isolated.body["cache_salt"].as_str().map(str::len), Some(48));
        assert_eq!(isolated.body["tool_choice"], "none");
        assert_eq!(isolated.body["messages"][1]["reasoning_content"], "b");
        let openai = body(UpstreamKind::Openai, &request);
        assert_eq!(openai["messages"][1], json!({"role": "assistant", "content": "a"}));
        assert_eq!((&openai["max_completion_tokens"], &openai["max_tokens"]), (&json!(16), &Value::Null));
        let callable = |name: &str| Callable {
            name: name.to_owned(),
            parameters: json!({"type": "object"}),
            enforced: None,
            strict: false,
        };
        let plan = |names: &[&str], required| ToolPlan {
            callable: names.iter().map(|name| callable(name)).collect(),
            required,
            parallel: false,
            guided: false,
        };
        request.tools = Some(plan(&["b"], true).into());
        let named = body(UpstreamKind::Vllm, &request);
        assert_eq!(named["tool_choice"], json!({"type": "function", "function": {"name": "b"}}));
        assert_eq!((&named["tools"], &named["parallel_tool_calls"]), (&json!([tool("b")]), &json!(false)));
        request.tools = Some(plan(&["a", "b"], true).into());
        assert_eq!(body(UpstreamKind::Vllm, &request)["tool_choice"], "required");
        request.tools = Some(plan(&["a"], false).into());
        assert_eq!(body(UpstreamKind::Vllm, &request)["tool_choice"], "auto");
    }

    #[test]
    fn tenants_are_kept_apart_in_chats_and_completions() {
        let of = |kind: UpstreamKind, request: &GenerationRequest, tenant: &str| {
            let request = GenerationRequest { tenant: tenant.to_owned(), ..request.clone() };
            generation(kind, "there", &request, true).body
        };
        let messages = vec![json!({"role": "user", "content": "Hi"})];
        for request in [text("Hi"), chat(messages.into())] {
            for (kind, field) in [
                (UpstreamKind::Vllm, "cache_salt"),
                (UpstreamKind::Sglang, "cache_salt"),
                (UpstreamKind::Jan, "prompt_cache_key"),
            ] {
                let (ann, bob) = (of(kind, &request, "ann"), of(kind, &request, "bob"));
                assert!(ann[field].is_string() && ann[field] != bob[field], "{kind:?}: {ann}");
            }
        }
    }

    #[test]
    fn a_last_message_is_continued() {
        let messages = vec![json!({"role": "assistant", "content": "a"})];
        let request = chat(ChatPrompt { ending: PromptEnding::LastMessage, ..ChatPrompt::from(messages) });
        let vllm = body(UpstreamKind::Vllm, &request);
        let fields = (&vllm["continue_final_message"], &vllm["add_generation_prompt"]);
        assert_eq!(fields, (&json!(true), &json!(false)));
        assert_eq!(body(UpstreamKind::LlamaServer, &request)["continue_final_message"], Value::Null);
    }
}
