// `openai.conversations` of the OpenAI Node SDK, unchanged.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const baseURL = process.env.JAN_BASE_URL;
assert.ok(baseURL, "JAN_BASE_URL is set by tests/python/with_server.py");
const model = process.env.JAN_MODEL;
const openai = new OpenAI({ baseURL, apiKey: process.env.JAN_API_KEY, maxRetries: 0, timeout: 120_000 });
const hello = { type: "message", role: "user", content: [{ type: "input_text", text: "Hello!" }] };

test("a conversation from beginning to end", async () => {
  const made = await openai.conversations.create({ metadata: { topic: "demo" }, items: [hello] });
  assert.equal(made.object, "conversation");
  assert.deepEqual(made.metadata, { topic: "demo" });
  assert.equal((await openai.conversations.retrieve(made.id)).id, made.id);
  const changed = await openai.conversations.update(made.id, { metadata: { topic: "another" } });
  assert.deepEqual(changed.metadata, { topic: "another" });
  const gone = await openai.conversations.delete(made.id);
  assert.deepEqual(gone, { id: made.id, object: "conversation.deleted", deleted: true });
  await assert.rejects(openai.conversations.retrieve(made.id), OpenAI.NotFoundError);
});

test("items, paged by the SDK", async () => {
  const { id } = await openai.conversations.create();
  const ids = [];
  for (let round = 0; round < 3; round++) {
    const items = Array.from({ length: 15 }, (_, number) => ({ role: "user", content: `text ${round} ${number}` }));
    const added = await openai.conversations.items.create(id, { items, include: ["message.output_text.logprobs"] });
    assert.equal(added.object, "list");
    ids.push(...added.data.map((item) => item.id));
  }
  const seen = [];
  const listed = openai.conversations.items.list(id, {
    limit: 10, order: "asc", include: ["reasoning.encrypted_content", "message.output_text.logprobs"],
  });
  for await (const item of listed) seen.push(item.id);
  assert.deepEqual(seen, ids);
  const one = await openai.conversations.items.retrieve(ids[3], { conversation_id: id });
  assert.equal(one.content[0].text, "text 0 3");
  const left = await openai.conversations.items.delete(ids[3], { conversation_id: id });
  assert.equal(left.id, id);
  await assert.rejects(openai.conversations.items.retrieve(ids[3], { conversation_id: id }), OpenAI.NotFoundError);
});

test("chat goes on in a conversation", async () => {
  const { id } = await openai.conversations.create();
  const request = { model, messages: [{ role: "user", content: "Hello" }], max_tokens: 5, conversation: id };
  const answer = await openai.chat.completions.create(request);
  assert.equal(answer.conversation.id, id);
  const stream = await openai.chat.completions.create({ ...request, stream: true });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? "";
  const said = [];
  for await (const item of openai.conversations.items.list(id, { order: "asc" })) {
    said.push(item.content.map((part) => part.text).join(""));
  }
  assert.deepEqual(said, ["Hello", answer.choices[0].message.content, "Hello", text]);
});
