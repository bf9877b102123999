"""The server's prompt is what Jinja2 makes of the model's chat template, for every template that can be had and every form of
conversation: llama.cpp's collection (`tests/setup/templates.py` fetches it), the project's own, and those in model files.

Where the server departs from that on purpose, `Expected` does the same by rules of its own, with the reason."""

import collections
import copy
import json
import re

import pytest
from chat_matrix import BOTH, PLAIN, ROLES, WITH_TOOLS, call, calling, result, turns
from gguf_vocab import Vocabulary
from harness import BUNDLED, ROOT, VOCABULARY, Server, wait_until
from jinja_reference import Template

FETCHED = ROOT / "target/test-templates"
#: Templates that one server has.
BATCH = 26
#: Names of conversations, and what is in them.
CONVERSATIONS = PLAIN | WITH_TOOLS | ROLES
#: Those that give a generator to `tojson`, which Python cannot write.
GENERATORS = {"llama-cpp-deepseek-r1"}
#: Those that fail on a tool whose parameters have a type of several, or an object without `additionalProperties`.
FAILING = {
    "CohereForAI-c4ai-command-r-plus-tool_use", "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
}  # fmt: skip
#: Conversations that a template refuses in its own words.
REFUSED = {("mistralai-Ministral-3-14B-Reasoning-2512", "thought alone")}


def sources():
    """Templates by name."""
    own = [path for path in (ROOT / "fixtures/templates").glob("*.jinja") if path.stem != "macros"]
    found = {path.stem: path.read_bytes().decode() for path in sorted([*FETCHED.glob("*.jinja"), *own])}
    for path in [BUNDLED, *(ROOT / "target/test-models").glob("*.gguf")]:
        # A model that only completes texts or makes embeddings has none.
        if template := Vocabulary(path).metadata.get("tokenizer.chat_template"):
            found[f"in-{path.stem}"] = template
    return found


SOURCES = sources()
#: Conversations by the reason why the prompt is not what Jinja2 makes of the messages as they are; shown at the end.
reasons = collections.Counter()


class Servers:
    """One at a time, with a batch of models that differ in their templates."""

    def __init__(self, folder):
        self.folder, self.names, self.server = folder, [], None

    def of(self, name):
        if name not in self.names:
            self.close()
            begin = list(SOURCES).index(name)
            self.names = list(SOURCES)[begin : begin + BATCH]
            models = ""
            for one in self.names:
                path = self.folder / f"{one}.jinja"
                path.write_bytes(SOURCES[one].encode())
                models += f'[[models]]\nid = "{one}"\npath = "{BUNDLED}"\nchat_template = "{path}"\n'
            env = {"JAN_SERVER__ENGINE__CONTEXT_LENGTH": 512, "JAN_SERVER__ENGINE__KV_CELLS": 512}
            self.server = Server(self.folder / name, model=False, wait="live", config=models, env=env)
            loaded = lambda: all(one["status"] == "ready" for one in self.server.get("/v1/models").json()["data"])  # noqa: E731
            wait_until(loaded, "all models", 120)
        return self.server

    def close(self):
        if self.server:
            self.server.close()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    running = Servers(tmp_path_factory.mktemp("chat-templates"))
    yield running
    running.close()


class Expected:
    """What the server is to make of a conversation with a template, by Jinja2 alone."""

    def __init__(self, name):
        token = lambda key: VOCABULARY.pieces[VOCABULARY.metadata[f"tokenizer.ggml.{key}_token_id"]].decode()  # noqa: E731
        self.template = Template(SOURCES[name], token("bos"), token("eos"))
        self.name, self.variables, self.reasons = name, {}, set()
        # One template has the tools and the time as texts of other names, which the server gives it.
        texts = {"functions": "", "datetime": "now"}
        asked = turns(("user", "zqx_one")), ["zqx_one"]
        if not self.shows(*asked) and self.shows(*asked, **texts):
            self.variables, self.reasons = texts, {"texts"}
        tool = {"type": "function", "function": {"name": "zqx_tool", "description": "", "parameters": {"type": "object", "properties": {}}}}  # fmt: skip
        self.tools_shown = self.shows(turns(("user", "?")), ["zqx_tool"], tools=[tool])
        self._find_calls()
        self._find_roles()

    def shows(self, messages, texts, **more):
        return self.template.shows(messages, texts, **(self.variables | more))

    def _find_calls(self):
        asked = turns(("user", "?"))
        one, two = "zqxfirsts", "zqxsecond"
        called = lambda arguments, *names: {**calling("", *(call(0, name, arguments) for name in names))}  # noqa: E731
        object, text = {"zqx_key": "zqx_value"}, '{"zqx_key": "zqx_value"}'
        shows = lambda arguments, *texts: self.shows([*asked, called(arguments, one), result(0, "!")], texts)  # noqa: E731
        self.calls_shown = shows(object, one) or shows(text, one, text)
        repr_shown = shows(object, "'zqx_key'")
        self.as_text = (not shows(object, one) or repr_shown) and shows(text, one, text)
        arguments = text if self.as_text else object
        several = [*asked, called(arguments, one, two), result(0, "!"), result(0, "!")]
        self.several = self.shows(several, [one, two])

    def _find_roles(self):
        tries = lambda *roles: self.shows(  # noqa: E731
            turns(*((role, f"zqx_{number}") for number, role in enumerate(roles))), [f"zqx_{number}" for number in range(len(roles))]
        )
        self.developer = "developer" in self.template.source and tries("developer", "user")
        self.system, self.lone = tries("system", "user"), tries("system")
        self.late = tries("user", "system", "user") and tries("user", "assistant", "system", "user")
        self.repeated = {
            "system": tries("system", "system", "user"), "user": tries("user", "user"),
            "assistant": tries("user", "assistant", "assistant", "user"),
        }  # fmt: skip

    def fit_roles(self, messages):
        """Roles at places where the template shows them, and those in a row as one where it takes only one."""
        fitted, behind = [], False
        is_system = lambda message: message["role"] == "system" or message["role"] == "developer" and not self.developer  # noqa: E731
        alone = all(map(is_system, messages))
        for message in copy.deepcopy(messages):
            if is_system(message):
                known = self.system and (not behind or self.late) and (not alone or self.lone)
                message["role"] = "system" if known else "user"
            else:
                behind = True
            last = fitted[-1] if fitted else {"role": None}
            if last["role"] == message["role"] and not self.repeated.get(message["role"], True) and "tool_calls" not in {**last, **message}:
                last["content"] = "\n\n".join(filter(None, [last["content"], message["content"]]))
            else:
                fitted.append(message)
        if fitted != messages:
            self.reasons.add("roles")
        return fitted

    def fit_calls(self, messages):
        """Arguments as the template takes them, and as many calls in a message."""
        fitted = []
        waiting = []
        for message in copy.deepcopy(messages):
            calls = message.get("tool_calls", [])
            for one in calls if not self.as_text else []:
                one["function"]["arguments"] = json.loads(one["function"]["arguments"])
            if self.as_text and calls:
                self.reasons.add("arguments as text")
            if len(calls) > 1 and not self.several:
                self.reasons.add("one call at a time")
                fitted.append(message | {"tool_calls": calls[:1]})
                waiting = [{"role": "assistant", "content": None, "tool_calls": [one]} for one in calls[1:]]
                continue
            fitted.append(message)
            if message["role"] == "tool" and waiting:
                fitted.append(waiting.pop(0))
        return fitted

    def fit_nothing(self, messages, **fields):
        """No content as an empty text, where the template fails on it or prints it."""
        empty = [message | {"content": message["content"] or ""} for message in messages]
        if empty == messages:
            return messages
        count = lambda prompt: len(re.findall("None|null", prompt))  # noqa: E731
        try:
            prompt = self.render(messages, **fields)
        except Exception:
            prompt = None
        if prompt is None or count(prompt) > count(self.render(empty, **fields)):
            self.reasons.add("no content")
            return empty
        return messages

    def render(self, messages, continue_final_message=False, chat_template_kwargs=None, **fields):
        if continue_final_message:
            fields["add_generation_prompt"] = False
        prompt = self.template.render(messages, **(self.variables | fields | (chat_template_kwargs or {})))
        if not continue_final_message:
            return prompt
        # With its white space, which many templates leave out.
        last = messages[-1]["content"]
        shown = last.strip()
        return prompt[: prompt.rindex(shown) + len(shown)] + last[len(last.rstrip()) :]


def flattened(messages):
    """Parts of a content are one text, in lines: docs/api.md."""
    texts = lambda content: "\n".join(part["text"] for part in content) if isinstance(content, list) else content  # noqa: E731
    return [message | {"content": texts(message["content"])} for message in messages]


def words_of(messages, fields):
    """Texts that a prompt must have however it has been made."""
    for message in messages:
        yield (message["content"] or "").strip()
        for one in message.get("tool_calls", []):
            yield one["function"]["name"]
    for tool in fields.get("tools", []):
        yield tool["function"]["name"]


@pytest.mark.skipif(not FETCHED.is_dir(), reason="the templates are not there; tests/setup/templates.py fetches them")
def test_at_least_forty_templates_are_compared():
    assert len(SOURCES) >= 40


@pytest.mark.parametrize("name", SOURCES)
def test_the_prompt_is_jinja2s(servers, name):
    server = servers.of(name)
    expected = Expected(name)
    of_template = set(expected.reasons)
    wrong = []
    for title, (messages, fields) in CONVERSATIONS.items():
        if "texts" in of_template:
            fields = fields | {"chat_template_kwargs": {"datetime": "now"} | fields.get("chat_template_kwargs", {})}
        answer = server.post("/v1/apply-template", {"model": name, "messages": messages, **fields})
        prompt = answer.json()["prompt"] if answer.status == 200 else answer.error["message"]
        expected.reasons = set(of_template)
        messages = flattened(messages)
        has_calls = any("tool_calls" in message for message in messages)
        unknown_tools = "tools" in fields and not expected.tools_shown
        if unknown_tools or has_calls and not expected.calls_shown or name in GENERATORS and "tools" in fields:
            # Described in words, spelled out, or a failure in Python: nothing is lost, at least.
            reasons["spelled out"] += 1
            missing = [text for text in words_of(messages, fields) if text not in prompt]
            wrong += [f"{title}: without {missing}: {prompt}"] if missing or answer.status != 200 else []
            continue
        messages = expected.fit_roles(expected.fit_calls(messages))
        try:
            messages = expected.fit_nothing(messages, **fields)
            wanted = expected.render(messages, **fields)
        except Exception as error:
            # The template's own complaint, which a caller gets.
            reasons["refused by both"] += 1
            meant = (name, title) in REFUSED or name in FAILING and "tools" in fields
            wrong += [f"{title}: {prompt}\n  {error}"] if answer.status != 400 or not meant else []
            continue
        for reason in expected.reasons or {"none"}:
            reasons[reason] += 1
        if prompt != wanted:
            wrong.append(f"{title}: {sorted(expected.reasons)}\n  {prompt!r}\n  {wanted!r}")
    assert not wrong, "\n".join(wrong)
