// Structured output, log-probabilities and what text completions have beyond text, through the OpenAI Node SDK.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const model = process.env.JAN_MODEL;
const endless = JSON.parse(process.env.JAN_ENDLESS);
const openai = new OpenAI({
  baseURL: process.env.JAN_BASE_URL, apiKey: process.env.JAN_API_KEY, maxRetries: 0, timeout: 120_000,
});
const messages = [{ role: "user", content: "Tell me about a cat in JSON" }];
const Cat = z.object({ age: z.number().int().min(0).max(30), mood: z.enum(["sleepy", "hungry"]) });
const bytesOf = (tokens) => Buffer.from(tokens.flatMap((token) => token.bytes));
const fallible = (promise) => promise.then(() => assert.fail("was not refused"), (error) => error);

test("chat's parse helper", async () => {
  const answer = await openai.chat.completions.parse({
    model, messages, max_tokens: 200, temperature: 2, n: 3, seed: 1, response_format: zodResponseFormat(Cat, "cat"),
  });
  for (const choice of answer.choices) {
    assert.equal(choice.finish_reason, "stop");
    assert.deepEqual(Cat.parse(JSON.parse(choice.message.content)), choice.message.parsed);
  }
});

test("chat's stream helper parses too", async () => {
  const stream = openai.chat.completions.stream({
    model, messages, max_tokens: 200, temperature: 0, response_format: zodResponseFormat(Cat, "cat"),
  });
  Cat.parse((await stream.finalChatCompletion()).choices[0].message.parsed);
});

test("responses' parse helper", async () => {
  const response = await openai.responses.parse({
    model, input: "A cat", max_output_tokens: 200, temperature: 0, text: { format: zodTextFormat(Cat, "cat") },
  });
  Cat.parse(response.output_parsed);
});

test("an object without a schema", async () => {
  const answer = await openai.chat.completions.create({
    model, messages, max_tokens: 60, temperature: 1, seed: 3, response_format: { type: "json_object" },
  });
  const [{ message, finish_reason: reason }] = answer.choices;
  assert.ok(message.content.startsWith("{"));
  if (reason === "stop") JSON.parse(message.content);
});

test("choices, expressions and grammars", async () => {
  for (const [form, shape] of [
    [{ guided_choice: ["yes", "no"] }, /^(yes|no)$/],
    [{ guided_regex: "[a-c]{3}-[0-9]{2}" }, /^[a-c]{3}-[0-9]{2}$/],
    [{ structured_outputs: { choice: ["yes", "no"] } }, /^(yes|no)$/],
    [{ grammar: 'root ::= "<" [a-z]{2,4} ">"' }, /^<[a-z]{2,4}>$/],
    [{ guided_grammar: 'start: "<" WORD ">"\nWORD: /[a-z]{2,4}/' }, /^<[a-z]{2,4}>$/],
  ]) {
    const chat = await openai.chat.completions.create({ model, messages, max_tokens: 40, temperature: 1.5, seed: 2, ...form });
    assert.match(chat.choices[0].message.content, shape);
    const text = await openai.completions.create({ model, prompt: "A", max_tokens: 40, temperature: 1.5, seed: 2, ...form });
    assert.match(text.choices[0].text, shape);
  }
});

test("what cannot be enforced is refused by name", async () => {
  const schema = { type: "object", properties: { a: { type: "array", uniqueItems: true } } };
  const error = await fallible(openai.chat.completions.create({
    model, messages, response_format: { type: "json_schema", json_schema: { name: "x", strict: true, schema } },
  }));
  assert.ok(error instanceof OpenAI.BadRequestError);
  assert.match(error.message, /uniqueItems/);
});

test("log-probabilities of a chat, plain and streamed", async () => {
  const request = { model, messages, max_tokens: 20, temperature: 0, logit_bias: endless, logprobs: true, top_logprobs: 20 };
  const { choices: [plain], usage } = await openai.chat.completions.create(request);
  const tokens = plain.logprobs.content;
  assert.equal(tokens.length, usage.completion_tokens);
  assert.equal(bytesOf(tokens).toString(), plain.message.content);
  for (const token of tokens) {
    assert.equal(token.top_logprobs.length, 20);
    assert.ok(token.logprob <= 0);
  }
  const streamed = [];
  let text = "";
  for await (const chunk of await openai.chat.completions.create({ ...request, stream: true })) {
    streamed.push(...(chunk.choices[0].logprobs?.content ?? []));
    text += chunk.choices[0].delta.content ?? "";
  }
  assert.equal(streamed.length, 20);
  assert.equal(bytesOf(streamed).toString(), text);
});

test("a stop text has no log-probabilities", async () => {
  const request = { model, messages, max_tokens: 30, temperature: 0, logit_bias: endless };
  const whole = (await openai.chat.completions.create(request)).choices[0].message.content;
  const stop = whole.slice(whole.length / 2, whole.length / 2 + 3);
  const { choices: [choice] } = await openai.chat.completions.create({ ...request, stop, logprobs: true });
  assert.ok(!choice.message.content.includes(stop));
  const tokens = choice.logprobs.content;
  assert.ok(bytesOf(tokens).toString().startsWith(choice.message.content));
  assert.ok(bytesOf(tokens.slice(0, -1)).length < Buffer.byteLength(choice.message.content));
});

test("log-probabilities of a completion, and of its prompt", async () => {
  const prompt = "The meaning of life is";
  const request = { model, prompt, max_tokens: 6, temperature: 0, logit_bias: endless, logprobs: 3 };
  const { choices: [{ logprobs, text }] } = await openai.completions.create(request);
  assert.equal(logprobs.tokens.length, 6);
  assert.equal(logprobs.tokens.join(""), text);
  const echoed = await openai.completions.create({ ...request, echo: true });
  const [choice] = echoed.choices;
  assert.ok(choice.text.startsWith(prompt));
  assert.equal(choice.logprobs.token_logprobs[0], null);
  assert.equal(choice.logprobs.tokens.length, echoed.usage.total_tokens);
});

test("the best of several", async () => {
  const answer = await openai.completions.create({
    model, prompt: "Once", n: 2, best_of: 4, max_tokens: 5, temperature: 1.5, logit_bias: endless,
  });
  assert.equal(answer.choices.length, 2);
  assert.equal(answer.usage.completion_tokens, 20);
  const error = await fallible(openai.completions.create({ model, prompt: "Once", n: 3, best_of: 2 }));
  assert.equal(error.param, "best_of");
});

test("a gap is filled by a model with infill tokens, and refused by another", async () => {
  const request = { prompt: "def f(x):", suffix: "return x", max_tokens: 4 };
  const filled = await openai.completions.create({ ...request, model: process.env.JAN_INFILL_MODEL });
  assert.ok(filled.usage.prompt_tokens > 3);
  const error = await fallible(openai.completions.create({ ...request, model }));
  assert.equal(error.param, "suffix");
});
