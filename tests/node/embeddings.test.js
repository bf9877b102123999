// Embeddings with the OpenAI Node SDK.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const model = process.env.JAN_MODEL;
const openai = new OpenAI({
  baseURL: process.env.JAN_BASE_URL, apiKey: process.env.JAN_API_KEY, maxRetries: 0, timeout: 120_000,
});
const dot = (a, b) => a.reduce((sum, value, at) => sum + value * b[at], 0);

test("embeddings, as the SDK asks for them and as numbers", async () => {
  const input = ["How do I reset my password?", "The sea is blue", "Hello"];
  const packed = await openai.embeddings.create({ model, input });
  const plain = await openai.embeddings.create({ model, input, encoding_format: "float" });
  assert.equal(packed.object, "list");
  assert.deepEqual(packed.data.map((one) => one.index), [0, 1, 2]);
  assert.equal(packed.usage.prompt_tokens, packed.usage.total_tokens);
  for (const [at, one] of packed.data.entries()) {
    assert.equal(one.embedding.length, plain.data[at].embedding.length);
    assert.ok(Math.abs(dot(one.embedding, one.embedding) - 1) < 1e-4);
    assert.ok(dot(one.embedding, plain.data[at].embedding) > 0.999);
  }
});

test("dimensions and tokens", async () => {
  const answer = await openai.embeddings.create({ model, input: [[1, 2, 3], [4]], dimensions: 5 });
  assert.deepEqual(answer.data.map((one) => one.embedding.length), [5, 5]);
  assert.equal(answer.usage.prompt_tokens, 4);
});

test("what is wrong is an error of the SDK", async () => {
  await assert.rejects(openai.embeddings.create({ model, input: "" }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "input");
    return true;
  });
  await assert.rejects(openai.embeddings.create({ model: "nobody", input: "a" }), OpenAI.NotFoundError);
});
