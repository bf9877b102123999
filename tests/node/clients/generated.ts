// Uses the client that openapi-typescript makes of the description; test_docs_clients.py compiles and runs it.
import createClient from "openapi-fetch";
import type { components, paths } from "./openapi.js";

declare const process: { env: Record<string, string | undefined> };

const headers = { Authorization: `Bearer ${process.env.JAN_API_KEY}` };
const client = createClient<paths, "application/json">({ baseUrl: process.env.JAN_SERVER_URL, headers });

const models = await client.GET("/api/v1/models");
if (!models.data) throw new Error(models.error.error.message);
const ids: string[] = models.data.data.map((model) => model.id);

const body: components["schemas"]["ChatRequest"] = {
  model: "jan-v1-4b",
  messages: [{ role: "user", content: [{ type: "text", text: "Hello" }] }],
  max_tokens: 5,
  stop: ["\n\n"],
};
const chat = await client.POST("/api/v1/chat/completions", { body });
if (!chat.data) throw new Error(chat.error.error.message);

const missing = await client.GET("/api/v1/models/{id}", { params: { path: { id: "nothing" } } });
const code: string | undefined = missing.error?.error.code;

console.log(JSON.stringify({ ids, tokens: chat.data.usage.completion_tokens, code }));
