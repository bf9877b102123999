use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(chunks: &[Value]) -> Result<(Vec<Part>, u32, Answer), BadChunk> {
    let mut answer = Answer::default();
    let (mut parts, mut tokens) = (Vec::new(), 0);
    for chunk in chunks {
        let piece = answer.read(&chunk.to_string())?;
        parts.extend(piece.parts);
        tokens += piece.tokens;
    }
    Ok((parts, tokens, answer))
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta}]})
}

#[test]
fn vllm_counts_in_every_chunk() {
    let usage = |n: u32| json!({"prompt_tokens": 9, "completion_tokens": n, "prompt_tokens_details": {"cached_tokens": 4}});
    let (parts, tokens, answer) = read(&[
        json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}], "usage": usage(0), "prompt_token_ids": [1]}),
        json!({"choices": [{"index": 0, "delta": {"reasoning": "hm"}, "token_ids": [7]}], "usage": usage(1)}),
        json!({"choices": [{"index": 0, "delta": {"content": "a b c"}, "token_ids": [5, 6, 8]}], "usage": usage(4)}),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": null}], "usage": usage(5)}),
        json!({"choices": [], "usage": usage(5)}),
    ])
    .unwrap();
    assert_eq!(parts, [Part::Reasoning("hm".to_owned()), Part::Content("a b c".to_owned())]);
    assert_eq!((tokens, answer.prompt()), (5, Some((9, 4))));
    let usage = TokenUsage { prompt_tokens: 9, cached_tokens: 4, completion_tokens: 5, reasoning_tokens: 0 };
    assert_eq!(answer.end(1), Some((FinishReason::Stop, usage)));
}

#[test]
fn llama_server_reports_the_prompt_early_and_others_at_the_end() {
    let (_, tokens, answer) = read(&[
        json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": null}}],
            "prompt_progress": {"total": 30, "cache": 10, "processed": 20, "time_ms": 3}}),
        delta(json!({"content": "a"})),
    ])
    .unwrap();
    assert_eq!((tokens, answer.prompt(), answer.end(1)), (1, Some((30, 10)), None));
    let (_, tokens, answer) = read(&[
        delta(json!({"content": "a"})),
        json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}}}),
    ])
    .unwrap();
    assert_eq!(tokens, 2, "what was not counted before is at the end");
    let usage = TokenUsage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 2, reasoning_tokens: 1 };
    assert_eq!(answer.end(1), Some((FinishReason::Length, usage)));
    let (_, _, answer) = read(&[json!({"choices": [{"text": "a", "finish_reason": "stop"}]})]).unwrap();
    let usage = TokenUsage { prompt_tokens: 7, completion_tokens: 1, ..TokenUsage::default() };
    assert_eq!(answer.end(7), Some((FinishReason::Stop, usage)), "no usage at all");
}

#[test]
fn calls_come_in_pieces_or_whole() {
    let call = |index: Option<usize>, name: Option<&str>, arguments: &str| {
        delta(json!({"tool_calls": [{"index": index, "function": {"name": name, "arguments": arguments}}]}))
    };
    let pieces = [
        call(Some(0), Some("a"), ""),
        call(Some(0), None, "{"),
        call(Some(0), None, "}"),
        call(Some(1), Some("b"), "{}"),
    ];
    let (parts, ..) = read(&pieces).unwrap();
    let text = |text: &str| text.to_owned();
    let expected = [
        Part::Call(text("a")),
        Part::Arguments(text("{")),
        Part::Arguments(text("}")),
        Part::Call(text("b")),
        Part::Arguments(text("{}")),
    ];
    assert_eq!(parts, expected);
    let (parts, ..) = read(&[call(None, Some("a"), "{}"), call(None, Some("b"), "{}")]).unwrap();
    assert_eq!(parts.len(), 4);
    let mixed = [call(Some(0), Some("a"), "{"), call(Some(1), Some("b"), "{"), call(Some(0), None, "}")];
    assert_eq!(read(&mixed).unwrap_err(), BadChunk::Interleaved);
    assert_eq!(read(&[call(Some(0), None, "{}")]).unwrap_err(), BadChunk::Nameless);
}

#[test]
fn errors_within_a_stream_are_errors() {
    let error = json!({"error": {"message": "out of\nmemory", "type": "InternalServerError", "code": 500}});
    assert_eq!(read(&[error]).unwrap_err().to_string(), "it reports: out of memory");
    assert_eq!(read(&[json!({"error": "no"})]).unwrap_err().to_string(), "it reports: no");
    let aborted = json!({"choices": [{"delta": {}, "finish_reason": "abort"}]});
    assert_eq!(read(&[aborted]).unwrap_err(), BadChunk::Aborted);
    assert_eq!(Answer::default().read("<html>").unwrap_err(), BadChunk::Malformed);
    let mut answer = Answer::default();
    let long = delta(json!({"content": "x".repeat(1 << 20)})).to_string();
    let read = (0..17).map(|_| answer.read(&long)).find_map(Result::err);
    assert_eq!(read, Some(BadChunk::TooLong));
}

#[test]
fn everything_that_counts_is_bounded() {
    let call = |index: u64| {
        let function = json!({"name": "a", "arguments": "{}"});
        delta(json!({"tool_calls": [{"index": index, "function": function}]}))
    };
    assert_eq!(read(&[call(u64::MAX)]).unwrap_err(), BadChunk::Interleaved);
    let until_refused = |chunk: &Value, most: usize| {
        let (mut answer, chunk) = (Answer::default(), chunk.to_string());
        (0..most).map(|_| answer.read(&chunk)).find_map(Result::err)
    };
    // One byte each: they count for the memory that they take.
    let calls = vec![json!({"function": {"name": "a"}}); 1000];
    let calls = delta(json!({"tool_calls": calls}));
    assert_eq!(until_refused(&calls, 300), Some(BadChunk::TooLong));
    let tokens = json!({"choices": [{"delta": {}, "token_ids": vec![1; 1 << 16]}]});
    assert_eq!(until_refused(&tokens, 256), None);
    assert_eq!(until_refused(&tokens, 257), Some(BadChunk::TooLong));
    let usage = json!({"choices": [], "usage": {"completion_tokens": u32::MAX}});
    assert_eq!(until_refused(&usage, 1), Some(BadChunk::TooLong));
    let prompt = json!({"choices": [], "usage": {"prompt_tokens": u32::MAX}});
    assert_eq!(read(&[prompt]).unwrap().2.prompt(), Some((1 << 24, 0)));
    let token = json!({"token": "a".repeat(1 << 18), "logprob": -0.5});
    let listed = json!({"choices": [{"delta": {}, "logprobs": {"content": [token]}}]});
    assert_eq!(until_refused(&listed, 1025), Some(BadChunk::TooLong));
}

#[test]
fn logprobs_have_offsets() {
    let token =
        |token: &str| json!({"token": token, "logprob": -0.5, "bytes": token.as_bytes(), "top_logprobs": []});
    let chunk =
        |one: &str| json!({"choices": [{"delta": {"content": one}, "logprobs": {"content": [token(one)]}}]});
    let mut answer = Answer::default();
    let mut offsets = Vec::new();
    for text in ["aä", "b"] {
        let piece = answer.read(&chunk(text).to_string()).unwrap();
        offsets.extend(piece.logprobs.iter().map(|one| (one.text_offset, one.chosen.bytes.clone())));
    }
    assert_eq!(offsets, [(0, "aä".as_bytes().to_vec()), (2, b"b".to_vec())]);
}

proptest! {
    /// No data panics, and the text that is passed on is that of the chunks, however it is divided.
    #[test]
    fn text_is_passed_on_whole(texts in prop::collection::vec(".{0,10}", 0..20), thought in prop::collection::vec(any::<bool>(), 20), noise in ".{0,40}") {
        let mut answer = Answer::default();
        let _ = answer.read(&noise);
        let mut answer = Answer::default();
        let (mut content, mut reasoning) = (String::new(), String::new());
        for (text, is_thought) in texts.iter().zip(&thought) {
            let name = if *is_thought { "reasoning_content" } else { "content" };
            for part in answer.read(&delta(json!({name: text})).to_string()).unwrap().parts {
                match part {
                    Part::Content(text) => content.push_str(&text),
                    Part::Reasoning(text) => reasoning.push_str(&text),
                    other => panic!("{other:?}"),
                }
            }
        }
        let of = |kind: bool| texts.iter().zip(&thought).filter(|(_, is)| **is == kind).map(|(text, _)| text.as_str()).collect::<String>();
        prop_assert_eq!((content, reasoning), (of(false), of(true)));
    }
}
