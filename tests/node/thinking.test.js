// Thinking, templates and tokens through the OpenAI Node SDK. JAN_THINKER is the suite's model with the template of
// Qwen3-4B-Thinking, whose prompt opens the thinking.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const model = process.env.JAN_THINKER;
const openai = new OpenAI({
  baseURL: process.env.JAN_BASE_URL, apiKey: process.env.JAN_API_KEY, maxRetries: 0, timeout: 120_000,
});
const messages = [{ role: "user", content: "Hello!" }];
const request = {
  model, messages, max_tokens: 60, temperature: 1, seed: 5, thinking_budget: 5,
  logit_bias: JSON.parse(process.env.JAN_ENDLESS),
};

test("thinking is apart from the answer, and counted", async () => {
  const { choices: [{ message }], usage } = await openai.chat.completions.create(request);
  assert.ok(message.reasoning_content && message.content);
  assert.ok(!`${message.reasoning_content}${message.content}`.includes("think>"));
  const thought = usage.completion_tokens_details.reasoning_tokens;
  assert.ok(thought > 5 && thought < usage.completion_tokens);
  let thinking = "", answer = "";
  for await (const { choices: [{ delta }] } of await openai.chat.completions.create({ ...request, stream: true })) {
    thinking += delta.reasoning_content ?? "";
    answer += delta.content ?? "";
  }
  assert.deepEqual([thinking, answer], [message.reasoning_content, message.content]);
});

test("no effort is no thinking", async () => {
  const { choices: [{ message }] } = await openai.chat.completions.create({
    ...request, thinking_budget: undefined, reasoning_effort: "none",
  });
  assert.equal(message.reasoning_content, undefined);
});

test("thinking is an item of a response", async () => {
  const { max_tokens: max_output_tokens, messages: _, ...rest } = request;
  const events = new Set();
  const stream = openai.responses.stream({ ...rest, input: "Hello!", max_output_tokens });
  for await (const event of stream) events.add(event.type);
  const { output, usage } = await stream.finalResponse();
  assert.deepEqual(output.map((item) => item.type), ["reasoning", "message"]);
  assert.ok(output[0].content[0].text);
  assert.ok(events.has("response.reasoning_text.delta"));
  assert.ok(usage.output_tokens_details.reasoning_tokens > 0);
});

test("what the model sees", async () => {
  const { prompt } = await openai.post("/apply-template", { body: { model, messages } });
  assert.ok(prompt.includes("Hello!") && prompt.trimEnd().endsWith("<think>"));
  const { tokens, count } = await openai.post("/tokenize", { body: { model, messages } });
  assert.equal(tokens.length, count);
  const { usage } = await openai.chat.completions.create(request);
  assert.equal(usage.prompt_tokens, count);
  const text = "Chào bạn 🙂";
  const there = await openai.post("/tokenize", { body: { model, content: text } });
  const back = await openai.post("/detokenize", { body: { model, tokens: there.tokens } });
  assert.equal(back.content, text);
});
