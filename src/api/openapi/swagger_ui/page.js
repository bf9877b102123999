// Sets Swagger UI up, and adds what it lacks: streams shown as they come, code samples before anything was sent,
// and signing in with Google through this server.
"use strict";

// --- Streams -----------------------------------------------------------------------------------------------------

/** The newest stream of each operation: "POST /path" → {raw, answer, done}. */
const streams = new Map();
const watchers = new Set();

function changed() {
  for (const watcher of watchers) watcher();
}

/** The text that one event adds to the answer. */
function textOf(data) {
  try {
    const event = JSON.parse(data);
    if (event.error) return `\n${event.error.message}`;
    if (typeof event.delta === "string") return event.delta;
    const choice = event.choices?.[0];
    return choice?.delta?.content ?? choice?.text ?? "";
  } catch {
    return "";
  }
}

async function follow(key, body, controller) {
  const stream = { raw: "", answer: "", done: false, stop: () => controller.abort() };
  streams.set(key, stream);
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      stream.raw += value;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (line.startsWith("data:")) stream.answer += textOf(line.slice(5).trim());
      }
      changed();
    }
  } catch (error) {
    stream.answer += `\n(${error.message})`;
  }
  stream.done = true;
  changed();
}

/** fetch for Swagger UI, which shows an answer when it is whole: a copy of each stream goes to the page at once. */
async function liveFetch(url, request) {
  const controller = new AbortController();
  const { method, headers, body } = request;
  const key = `${method.toUpperCase()} ${new URL(url, location.href).pathname}`;
  if (streams.delete(key)) changed();
  const response = await fetch(url, { method, headers, body, signal: controller.signal, redirect: request.redirect });
  if ((response.headers.get("content-type") ?? "").startsWith("text/event-stream")) {
    follow(key, response.clone().body, controller);
  }
  return response;
}

/** Whether a path of the description is that of a request. */
function fits(template, method, key) {
  const [verb, path] = key.split(" ");
  const pattern = template.replace(/[.*+?^$()|[\]\\]/g, "\\$&").replace(/\{[^}]*\}/g, "[^/]+");
  return verb === method.toUpperCase() && new RegExp(`^${pattern}$`).test(path);
}

// --- Signing in with Google --------------------------------------------------------------------------------------

const STATE = "jan-sign-in";

async function beginSignIn() {
  const state = crypto.getRandomValues(new Uint32Array(4)).join("-");
  sessionStorage.setItem(STATE, state);
  const query = new URLSearchParams({ return_to: location.origin + location.pathname, return_state: state });
  const answer = await fetch(`/auth/google?${query}`, { headers: { Accept: "application/json" } });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error.message);
  location.assign(body.authorization_url);
}

/** Takes the code that a sign-in came back with. Only this page's own sign-ins: somebody else may have sent the browser. */
async function finishSignIn(ui) {
  const given = new URLSearchParams(location.hash.slice(1));
  const code = given.get("code");
  if (!code) return;
  history.replaceState(null, "", location.pathname);
  const state = sessionStorage.getItem(STATE);
  sessionStorage.removeItem(STATE);
  if (!state || state !== given.get("state")) return;
  const answer = await fetch("/auth/exchange", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ code }),
  });
  if (answer.ok) ui.preauthorizeApiKey("bearer", (await answer.json()).access_token);
}

// --- What is added to the page -----------------------------------------------------------------------------------

const snippet = {
  headers: (request) => Object.entries(request.get("headers")?.toJS() ?? {}),
  body: (request) => (typeof request.get("body") === "string" ? request.get("body") : undefined),
};

function pythonSnippet(request) {
  const headers = snippet.headers(request).map(([name, value]) => `    ${JSON.stringify(name)}: ${JSON.stringify(value)},`);
  const body = snippet.body(request);
  const lines = ["import requests", "", `answer = requests.request(`, `    "${request.get("method")}",`];
  lines.push(`    ${JSON.stringify(request.get("url"))},`, "    headers={", ...headers.map((line) => `    ${line}`), "    },");
  if (body !== undefined) lines.push(`    data=${JSON.stringify(body)},`);
  return [...lines, ")", "print(answer.text)"].join("\n");
}

function javascriptSnippet(request) {
  const options = { method: request.get("method"), headers: Object.fromEntries(snippet.headers(request)) };
  const body = snippet.body(request);
  if (body !== undefined) options.body = body;
  return [
    `const answer = await fetch(${JSON.stringify(request.get("url"))}, ${JSON.stringify(options, null, 2)});`,
    "console.log(await answer.text());",
  ].join("\n");
}

function JanPlugin(system) {
  const { React } = system;
  const element = React.createElement;

  function Samples({ path, method }) {
    const [chosen, choose] = React.useState(0);
    const samples = system.specSelectors.specJson().getIn(["paths", path, method, "x-codeSamples"])?.toJS();
    if (!samples?.length) return null;
    const tab = (sample, index) =>
      element(
        "button",
        { key: index, type: "button", role: "tab", "aria-selected": index === chosen, onClick: () => choose(index) },
        sample.label,
      );
    return element(
      "div",
      { className: "jan-box jan-samples" },
      element("h4", null, "Code samples"),
      element("div", { className: "jan-tabs", role: "tablist" }, samples.map(tab)),
      element("pre", null, samples[chosen].source),
    );
  }

  function Live({ path, method }) {
    const [, refresh] = React.useReducer((count) => count + 1, 0);
    React.useEffect(() => {
      watchers.add(refresh);
      return () => watchers.delete(refresh);
    }, []);
    const key = [...streams.keys()].find((one) => fits(path, method, one));
    const stream = key && streams.get(key);
    if (!stream) return null;
    return element(
      "div",
      { className: "jan-box jan-live", "data-done": String(stream.done), "aria-live": "polite" },
      element("h4", null, stream.done ? "The stream has ended" : "The stream so far"),
      element("pre", { className: "jan-answer" }, stream.answer),
      element("h4", null, "Events"),
      element("pre", { className: "jan-events" }, stream.raw),
      stream.done ? null : element("button", { type: "button", className: "btn", onClick: stream.stop }, "Stop"),
    );
  }

  function Google({ authorized }) {
    const [problem, setProblem] = React.useState("");
    const click = () => beginSignIn().catch((error) => setProblem(error.message));
    return element(
      "div",
      { className: "jan-google" },
      element("h4", null, "Google (or the OpenID provider that this server is set up with)"),
      element("p", null, "Signs in through /auth/google and comes back here with a token."),
      element("button", { type: "button", className: "btn authorize", onClick: click }, "Sign in with Google"),
      problem ? element("p", { className: "jan-problem", role: "alert" }, problem) : null,
      authorized?.size ? element("p", null, "Signed in.") : null,
    );
  }

  return {
    fn: { requestSnippetGenerator_python: pythonSnippet, requestSnippetGenerator_javascript: javascriptSnippet },
    wrapComponents: {
      responses: (Original) => (props) =>
        element(
          React.Fragment,
          null,
          element(Samples, { path: props.path, method: props.method }),
          element(Live, { path: props.path, method: props.method }),
          element(Original, props),
        ),
      oauth2: () => (props) => element(Google, props),
    },
  };
}

// A code that the browser came back with is no link to an operation.
const returning = location.hash.startsWith("#code=");

window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: !returning,
  tryItOutEnabled: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
  plugins: [JanPlugin],
  requestSnippetsEnabled: true,
  requestSnippets: {
    generators: {
      curl_bash: { title: "curl", syntax: "bash" },
      python: { title: "Python", syntax: "python" },
      javascript: { title: "JavaScript", syntax: "javascript" },
    },
  },
  requestInterceptor: (request) => {
    if (!request.loadSpec) request.userFetch = liveFetch;
    return request;
  },
  onComplete: () => finishSignIn(window.ui),
});
