// Tools through the OpenAI Node SDK and the Vercel AI SDK as their users write them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";
import OpenAI from "openai";

const baseURL = process.env.JAN_BASE_URL;
const model = process.env.JAN_MODEL;
const apiKey = process.env.JAN_API_KEY;
const openai = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120_000 });
const vercel = createOpenAICompatible({ name: "jan", baseURL, apiKey })(model);
const parameters = {
  type: "object", properties: { a: { type: "integer", minimum: 0, maximum: 9 } }, required: ["a"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "double", description: "Doubles", parameters, strict: true } }];
const messages = [{ role: "user", content: "Double 4" }];

test("a call, and its result", async () => {
  const request = { model, messages, tools, max_tokens: 200, temperature: 0 };
  const first = await openai.chat.completions.create({
    ...request, tool_choice: "required", parallel_tool_calls: false,
  });
  const [choice] = first.choices;
  assert.equal(choice.finish_reason, "tool_calls");
  const [call] = choice.message.tool_calls;
  assert.ok(Number.isInteger(JSON.parse(call.function.arguments).a));
  const result = { role: "tool", tool_call_id: call.id, content: "8" };
  const second = await openai.chat.completions.create({
    ...request, messages: [...messages, choice.message, result], tool_choice: "none", max_tokens: 8,
  });
  assert.equal(second.choices[0].message.tool_calls, undefined);
});

test("a streamed call through the SDK's helper", async () => {
  const stream = openai.chat.completions.stream({
    model, messages, tools, tool_choice: "required", parallel_tool_calls: false, max_tokens: 200, temperature: 0,
  });
  const final = await stream.finalChatCompletion();
  assert.ok(Number.isInteger(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments).a));
});

test("a call in a response", async () => {
  const response = await openai.responses.create({
    model, input: "Double 4", tools: [{ type: "function", name: "double", parameters, strict: true }],
    tool_choice: "required", parallel_tool_calls: false, max_output_tokens: 200, temperature: 0,
  });
  assert.equal(response.output[0].type, "function_call");
  assert.ok(Number.isInteger(JSON.parse(response.output[0].arguments).a));
});

// Greedy, and one call: a model that repeats its call until it is cut off has left one without a result.
const one = { temperature: 0, providerOptions: { jan: { parallel_tool_calls: false } }, maxOutputTokens: 400, maxRetries: 0 };

const double = tool({
  description: "Doubles", inputSchema: jsonSchema(parameters), execute: async ({ a }) => 2 * a,
});

test("the Vercel AI SDK calls tools", async () => {
  const { steps } = await generateText({
    model: vercel, prompt: "Double 4", tools: { double }, toolChoice: "required", stopWhen: stepCountIs(1), ...one,
  });
  const [call] = steps[0].toolCalls;
  assert.equal(call.toolName, "double");
  assert.ok(Number.isInteger(call.input.a));
  assert.equal(steps[0].toolResults[0].output, 2 * call.input.a);
});

test("the Vercel AI SDK streams calls", async () => {
  const result = streamText({
    model: vercel, prompt: "Double 4", tools: { double }, toolChoice: "required", ...one,
  });
  const kinds = new Set();
  for await (const part of result.fullStream) kinds.add(part.type);
  assert.ok(kinds.has("tool-input-delta") && kinds.has("tool-call"), [...kinds].join());
});
