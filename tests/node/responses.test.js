// `client.responses` of the OpenAI Node SDK; tests/python/with_server.py sets the environment.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const model = process.env.JAN_MODEL;
const endless = JSON.parse(process.env.JAN_ENDLESS);
const openai = new OpenAI({
  baseURL: process.env.JAN_BASE_URL, apiKey: process.env.JAN_API_KEY, maxRetries: 0, timeout: 120_000,
});
const ask = { model, input: "Tell me a story", max_output_tokens: 24, temperature: 0, logit_bias: endless };

async function ended(id) {
  for (;;) {
    const now = await openai.responses.retrieve(id);
    if (!["queued", "in_progress"].includes(now.status)) return now;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("create, retrieve, continue, delete", async () => {
  const made = await openai.responses.create({ ...ask, metadata: { a: "b" } });
  assert.equal(made.status, "incomplete");
  assert.equal(made.output_text, made.output[0].content[0].text);
  assert.deepEqual((await openai.responses.retrieve(made.id)).output, made.output);
  const next = await openai.responses.create({ ...ask, input: "Go on", previous_response_id: made.id });
  assert.ok(next.usage.input_tokens > made.usage.input_tokens);
  await openai.responses.delete(made.id);
  await assert.rejects(openai.responses.retrieve(made.id), OpenAI.NotFoundError);
});

test("streaming with for await", async () => {
  const stream = await openai.responses.create({ ...ask, stream: true });
  let text = "", numbers = [], last;
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") text += event.delta;
    numbers.push(event.sequence_number);
    last = event;
  }
  assert.deepEqual(numbers, numbers.map((_, index) => index));
  assert.equal(last.type, "response.incomplete");
  assert.equal(last.response.output[0].content[0].text, text);
});

test("the SDK's stream helper", async () => {
  const stream = openai.responses.stream(ask);
  let text = "";
  stream.on("response.output_text.delta", (event) => (text += event.delta));
  const final = await stream.finalResponse();
  assert.ok(text.length > 0);
  assert.equal(final.output[0].content[0].text, text);
});

test("a background response is polled, taken up and listed", async () => {
  const made = await openai.responses.create({ ...ask, background: true });
  assert.equal(made.status, "queued");
  const whole = await ended(made.id);
  assert.equal(whole.status, "incomplete");
  const events = [];
  for await (const event of await openai.responses.retrieve(made.id, { stream: true, starting_after: 4 })) {
    events.push(event.sequence_number);
  }
  assert.deepEqual(events, events.map((_, index) => index + 5));
  const texts = [];
  for await (const item of openai.responses.inputItems.list(made.id)) texts.push(item.content[0].text);
  assert.deepEqual(texts, [ask.input]);
  assert.equal((await openai.responses.cancel(made.id)).status, "incomplete");
});

test("tokens are counted", async () => {
  const counted = await openai.responses.inputTokens.count({ model, input: ask.input });
  assert.equal(counted.input_tokens, (await openai.responses.create(ask)).usage.input_tokens);
});

test("errors name the field", async () => {
  await assert.rejects(openai.responses.create({ ...ask, max_output_tokens: 1 }), (error) => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.equal(error.param, "max_output_tokens");
    return true;
  });
});
