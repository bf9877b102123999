// Whole-server tests with the OpenAI Node SDK. tests/python/with_server.py starts the server and sets the
// environment; `make test` runs both.
import assert from "node:assert/strict";
import { readFile, writeFile, mkdtemp, rm } from "node:fs/promises";
import { spawnSync } from "node:child_process";
import path from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import OpenAI from "openai";

const here = path.dirname(fileURLToPath(import.meta.url));
const baseURL = process.env.JAN_BASE_URL;
assert.ok(baseURL, "JAN_BASE_URL is set by tests/python/with_server.py");
const model = process.env.JAN_MODEL;
const bundled = process.env.JAN_IS_BUNDLED === "1";
const endless = JSON.parse(process.env.JAN_ENDLESS);
const openai = new OpenAI({ baseURL, apiKey: process.env.JAN_API_KEY, maxRetries: 0, timeout: 120_000 });
const messages = [{ role: "user", content: "Tell me a story" }];

test("chat completion", async () => {
  const answer = await openai.chat.completions.create({
    model, messages: [{ role: "user", content: "Hello!" }], max_tokens: 30, temperature: 0,
  });
  assert.equal(answer.object, "chat.completion");
  assert.equal(answer.choices[0].message.role, "assistant");
  assert.ok(answer.choices[0].message.content.trim());
  assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  if (bundled) assert.equal(answer.choices[0].finish_reason, "stop");
});

test("streaming with for await", async () => {
  const request = { model, messages, max_tokens: 60, temperature: 0, logit_bias: endless };
  const stream = await openai.chat.completions.create({
    ...request, stream: true, stream_options: { include_usage: true },
  });
  let text = "", usage, reason, roles = 0;
  for await (const chunk of stream) {
    text += chunk.choices[0]?.delta?.content ?? "";
    roles += chunk.choices[0]?.delta?.role === "assistant" ? 1 : 0;
    reason = chunk.choices[0]?.finish_reason ?? reason;
    usage = chunk.usage ?? usage;
  }
  // That the text is the plain answer's is for tests/python to show, which can tell a tie from a difference.
  assert.ok(text.split(" ").length > 10);
  assert.equal(reason, "length");
  assert.equal(usage.completion_tokens, 60);
  assert.equal(roles, 1);
});

test("the SDK's stream helper reassembles the answer", async () => {
  const runner = openai.chat.completions.stream({ model, messages, max_tokens: 20, temperature: 0 });
  let deltas = "";
  runner.on("content", (delta) => (deltas += delta));
  const final = await runner.finalChatCompletion();
  assert.equal(final.choices[0].message.content, deltas);
});

test("AbortController ends a stream, and the server goes on", async () => {
  for (let round = 0; round < 5; round++) {
    const abort = new AbortController();
    const stream = await openai.chat.completions.create(
      { model, messages, max_tokens: 1000, logit_bias: endless, stream: true },
      { signal: abort.signal },
    );
    let seen = 0;
    for await (const _chunk of stream) if (++seen === 5) abort.abort();
    assert.ok(seen < 1000);
    const after = await openai.chat.completions.create({ model, messages, max_tokens: 3, logit_bias: endless });
    assert.equal(after.usage.completion_tokens, 3);
  }
});

test("aborting before the answer rejects", async () => {
  const abort = new AbortController();
  const answer = openai.chat.completions.create(
    { model, messages, max_tokens: 1000, logit_bias: endless }, { signal: abort.signal },
  );
  setTimeout(() => abort.abort(), 50);
  await assert.rejects(answer, OpenAI.APIUserAbortError);
});

test("requests in parallel", async () => {
  const answers = await Promise.all(
    Array.from({ length: 8 }, (_, i) =>
      openai.chat.completions.create({ model, messages: [{ role: "user", content: `Hello ${i}` }], max_tokens: 8, temperature: 0, logit_bias: endless }),
    ),
  );
  for (const answer of answers) assert.ok(answer.choices[0].message.content);
});

test("completions, plain and streaming", async () => {
  const request = { model, prompt: "The meaning of life is", max_tokens: 12, temperature: 0, logit_bias: endless };
  const plain = await openai.completions.create(request);
  assert.equal(plain.object, "text_completion");
  assert.equal(plain.usage.completion_tokens, 12);
  let text = "";
  for await (const chunk of await openai.completions.create({ ...request, stream: true })) {
    text += chunk.choices[0]?.text ?? "";
  }
  assert.ok(text.trim() && plain.choices[0].text.trim());
});

test("models", async () => {
  const ids = [];
  for await (const one of openai.models.list()) ids.push(one.id);
  assert.ok(ids.includes("jan-tiny") && ids.includes("jan-v1-4b"));
  assert.equal((await openai.models.retrieve(model)).id, model);
});

test("errors are the SDK's own", async () => {
  await assert.rejects(openai.chat.completions.create({ model: "no-such-model", messages }), (error) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    return true;
  });
  for (const stream of [false, true]) {
    await assert.rejects(openai.chat.completions.create({ model, messages, temperature: 3, stream }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.param, "temperature");
      assert.equal(error.type, "invalid_request_error");
      assert.ok(error.requestID);
      return true;
    });
  }
});

test("the API reference's JavaScript example runs as printed", async () => {
  const snippet = await readFile(path.join(here, "reference-example.txt"), "utf8");
  const folder = await mkdtemp(path.join(here, "example-"));
  try {
    const file = path.join(folder, "example.mjs");
    // Only the port and the token are this run's own; the last line is there to see the answer.
    const runnable = snippet
      .replace("http://localhost:8080/api/v1", baseURL)
      .replace("your-jwt-token", process.env.JAN_ACCESS_TOKEN);
    assert.ok(runnable.includes(baseURL) && runnable.includes(process.env.JAN_ACCESS_TOKEN));
    await writeFile(file, `${runnable}\nconsole.log(completion.choices[0].message.content);\n`);
    const done = spawnSync(process.execPath, [file], { encoding: "utf8", timeout: 120_000 });
    assert.equal(done.status, 0, done.stderr);
    assert.ok(done.stdout.trim());
  } finally {
    await rm(folder, { recursive: true });
  }
});
