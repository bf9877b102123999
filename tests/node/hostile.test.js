// Input that kills or stalls servers that trust what they parse, sent by the OpenAI Node SDK; behind it the server answers.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const model = process.env.JAN_MODEL;
const openai = new OpenAI({
  baseURL: process.env.JAN_BASE_URL, apiKey: process.env.JAN_API_KEY, maxRetries: 0, timeout: 60_000,
});
const messages = [{ role: "user", content: "x" }];

function nested(depth) {
  let schema = {};
  for (let level = 0; level < depth; level++) schema = { type: "array", items: schema };
  return schema;
}

async function refused(send, statuses = [400]) {
  await assert.rejects(send, (error) => {
    assert.ok(error instanceof OpenAI.APIError && statuses.includes(error.status), `${error}`);
    assert.ok(error.requestID);
    return true;
  });
  const answer = await openai.chat.completions.create({ model, messages, max_tokens: 1 });
  assert.equal(answer.choices.length, 1);
}

test("schemas nested deep", async () => {
  // JSON.stringify itself ends at some thousand levels; tests/python sends deeper ones.
  const schema = nested(1000);
  const format = { type: "json_schema", json_schema: { name: "x", schema } };
  await refused(openai.chat.completions.create({ model, messages, max_tokens: 1, response_format: format }));
  await refused(openai.responses.create({
    model, input: "x", max_output_tokens: 16, text: { format: { type: "json_schema", name: "x", schema } },
  }));
  const tools = [{ type: "function", function: { name: "f", strict: true, parameters: schema } }];
  await refused(openai.chat.completions.create({ model, messages, max_tokens: 1, tools }));
});

test("lone surrogates", async () => {
  // JSON.stringify writes them as escapes.
  await refused(openai.chat.completions.create({ model, max_tokens: 1, messages: [{ role: "user", content: "\ud800" }] }));
  await refused(openai.completions.create({ model, max_tokens: 1, prompt: "\udfff" }));
  await refused(openai.embeddings.create({ model, input: "\ud800" }));
});

test("20 MB of digits, and a hundred thousand empty messages", async () => {
  await refused(openai.chat.completions.create({ model, messages, max_tokens: 1, metadata: { a: "9".repeat(20_000_000) } }), [413]);
  const many = Array.from({ length: 100_000 }, () => ({ role: "user", content: "" }));
  await refused(openai.chat.completions.create({ model, messages: many, max_tokens: 1 }), [413]);
});
