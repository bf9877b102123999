// Writes down what `fetch` is answered, for tests/python/with_server.py, which checks it. What was not read to its end,
// because the test went away, is left out: half an event says nothing.
import { appendFileSync } from "node:fs";
import { join } from "node:path";

const file = process.env.JAN_RECORD && join(process.env.JAN_RECORD, `${process.pid}.jsonl`);
const server = process.env.JAN_BASE_URL && new URL(process.env.JAN_BASE_URL).origin;
const real = globalThis.fetch;

if (file) {
  globalThis.fetch = async (input, init) => {
    const answer = await real(input, init);
    const url = new URL(input instanceof Request ? input.url : input);
    if (url.origin !== server || !answer.body) return answer;
    const method = init?.method ?? (input instanceof Request ? input.method : "GET");
    const chunks = [];
    const body = answer.body.pipeThrough(new TransformStream({
      transform(chunk, controller) {
        chunks.push(chunk);
        controller.enqueue(chunk);
      },
      flush() {
        const about = { method, path: url.pathname + url.search, status: answer.status };
        const type = answer.headers.get("content-type") ?? "";
        appendFileSync(file, JSON.stringify({ ...about, type, body: Buffer.concat(chunks).toString() }) + "\n");
      },
    }));
    const { status, statusText, headers } = answer;
    const watched = new Response(body, { status, statusText, headers });
    Object.defineProperty(watched, "url", { value: answer.url });
    return watched;
  };
}
