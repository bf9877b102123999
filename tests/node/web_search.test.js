// Web search through the OpenAI Node SDK; with_server.py runs a search service beside the server.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";

const model = process.env.JAN_MODEL;
const openai = new OpenAI({
  baseURL: process.env.JAN_BASE_URL, apiKey: process.env.JAN_API_KEY, maxRetries: 0, timeout: 120_000,
});
const schema = {
  type: "object", properties: { a: { const: "Yes [1]." } }, required: ["a"], additionalProperties: false,
};
const request = {
  model, input: "What is new?", tools: [{ type: "web_search" }], tool_choice: { type: "web_search" },
  text: { format: { type: "json_schema", name: "x", schema } }, max_output_tokens: 60,
};

function check(response) {
  const [search, message] = response.output;
  assert.equal(search.type, "web_search_call");
  assert.equal(search.status, "completed");
  const [part] = message.content;
  const [citation] = part.annotations;
  assert.equal(part.text.slice(citation.start_index, citation.end_index), "[1]");
  assert.match(citation.url, /^https:\/\/site1\.example\//);
}

test("a response searches and cites", async () => {
  check(await openai.responses.create(request));
});

test("a streamed response searches and cites", async () => {
  const kinds = new Set();
  const stream = openai.responses.stream(request);
  for await (const event of stream) kinds.add(event.type);
  check(await stream.finalResponse());
  assert.ok(kinds.has("response.web_search_call.searching") && kinds.has("response.output_text.annotation.added"));
});

test("a chat searches and cites", async () => {
  const made = await openai.chat.completions.create({
    model, messages: [{ role: "user", content: "What is new?" }], web_search_options: {}, max_tokens: 20,
    guided_regex: "Yes \\[1\\]\\.",
  });
  const [annotation] = made.choices[0].message.annotations;
  assert.deepEqual([annotation.url_citation.start_index, annotation.url_citation.end_index], [4, 7]);
});
