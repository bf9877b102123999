"""Conversations of every form that clients send, for comparing what chat templates make of them."""


def turns(*pairs):
    """turns(("user", "Hi"), ...) -> messages"""
    return [{"role": role, "content": content} for role, content in pairs]


def call(number, name, arguments):
    return {"id": f"call{number:05}", "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(content, *calls, **more):
    return {"role": "assistant", "content": content, **more, "tool_calls": list(calls)}


def result(number, content):
    return {"role": "tool", "tool_call_id": f"call{number:05}", "content": content}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place, e.g. <Zürich> & \"Genève\"",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A town's name"},
                "days": {"type": "integer", "minimum": 1, "default": 1.0},
                "units": {"type": "string", "enum": ["°C", "°F"]},
                "tags": {"type": "array", "items": {"type": "string"}},
                "tolerance": {"type": "number", "exclusiveMinimum": 1e-7, "maximum": 1e15},
                "where": {"type": "object", "properties": {"at": {"type": "number"}}, "required": ["at"]},
                "either": {"type": ["string", "null"], "default": None},
            },
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {"name": "clock", "description": "The time", "parameters": {"type": "object", "properties": {}}},
}
TOOLS = [WEATHER, CLOCK]
ROME = call(1, "get_weather", '{"place": "Rom", "days": 2}')
NOON = call(2, "clock", "{}")
DEEP = call(
    3, "get_weather",
    '{"place": "Köln\\n\\"Süd\\" </tool_call>", "days": 1.50, "tags": ["a", "b\'s"], "where": {"at": -0.5, "x": null}, "ok": true}',
)  # fmt: skip
ASK = turns(("user", "Weather in Rome, and the time?"))
BOTH = [*ASK, calling(None, ROME, NOON), result(1, '{"t": 21.5, "sky": "blau"}'), result(2, "noon")]

#: Name of a conversation: messages, and further fields of the request.
PLAIN = {
    "one": (turns(("user", "Hi there")), {}),
    "system": (turns(("system", "Be brief."), ("user", "Hi there")), {}),
    "chat": (
        turns(
            ("system", " You help. "), ("user", "First 'question'?"), ("assistant", " An <answer> & \"more\". "),
            ("user", "  Next?\n\n"),
        ),
        {},
    ),
    "unprompted": (turns(("user", "Hi"), ("assistant", "Hello")), {"add_generation_prompt": False}),
    "prefill": (turns(("user", "A story"), ("assistant", "Once upon a")), {"continue_final_message": True}),
    "prefill with space": (turns(("user", "A list"), ("assistant", "The answer is \n\n")), {"continue_final_message": True}),
    "prefill behind": (
        turns(("system", "Be brief."), ("user", "A"), ("assistant", "B"), ("user", "C"), ("assistant", "Do\nre mi")),
        {"continue_final_message": True},
    ),
    "unicode": (turns(("user", "日本語 😀 é \u2028 {{ 7 * 7 }} {% raw %}"), ("assistant", "\\n 'a' \"b\""), ("user", "ß\tc")), {}),
    "parts": (
        turns(
            ("system", [{"type": "text", "text": "See."}]),
            ("user", [{"type": "text", "text": "one"}, {"type": "text", "text": " two "}]),
        ),
        {},
    ),
    "thought": (
        [
            *turns(("user", "1+1?")), {"role": "assistant", "content": "Two.", "reasoning_content": "Hm, 1 and 1."},
            *turns(("user", "2+2?")),
        ],
        {},
    ),
    "thought in tags": (turns(("user", "1+1?"), ("assistant", "<think>\nHm.\n</think>\n\nTwo."), ("user", "2+2?")), {}),
    "thought alone": (
        [
            *turns(("user", "1+1?")), {"role": "assistant", "content": "", "reasoning_content": "Hm.\n\nTwo."},
            *turns(("user", "2+2?"), ("assistant", "Four.")),
        ],
        {"add_generation_prompt": False},
    ),
    "named": ([{"role": "user", "name": "ann", "content": "Hi"}, *turns(("assistant", "Ho"), ("user", "Go"))], {}),
    "thinking": (turns(("user", "1+1?")), {"chat_template_kwargs": {"enable_thinking": True, "thinking": True}}),
    "not thinking": (turns(("user", "1+1?")), {"chat_template_kwargs": {"enable_thinking": False, "thinking": False}}),
    "effort": (turns(("system", "s"), ("user", "1+1?")), {"chat_template_kwargs": {"reasoning_effort": "low"}}),
    "documents": (turns(("user", "Who?")), {"documents": [{"title": "A \"b\"", "text": "one\ntwo"}, {"title": "ü", "text": "x"}]}),
}  # fmt: skip
#: With tools; a template that knows none of them gets a description in words instead.
WITH_TOOLS = {
    "tools": (turns(("user", "Weather?")), {"tools": TOOLS}),
    "tools and system": (turns(("system", "Be brief."), ("user", "Weather?")), {"tools": [CLOCK]}),
    "result": ([*ASK, calling(None, ROME), result(1, "21")], {"tools": TOOLS}),
    "empty content": ([*ASK, calling("", NOON), result(2, "noon")], {"tools": TOOLS}),
    "text and call": ([*ASK, calling("I look.", NOON), result(2, "noon")], {"tools": TOOLS}),
    "parallel": (BOTH, {"tools": TOOLS}),
    "answered": ([*BOTH, *turns(("assistant", "21.5 °C at noon."), ("user", "Thanks"))], {"tools": TOOLS}),
    "twice": ([*BOTH, calling(None, DEEP), result(3, "line\n<b>'x'</b>")], {"tools": TOOLS}),
    "thought and call": (
        [*ASK, calling(None, ROME, reasoning_content="I need it."), result(1, "21"), *turns(("assistant", "21."), ("user", "And?"))],
        {"tools": TOOLS},
    ),
    "result parts": ([*ASK, calling(None, ROME), result(1, [{"type": "text", "text": "21"}])], {"tools": TOOLS}),
    "named result": ([*ASK, calling(None, ROME), result(1, "21") | {"name": "get_weather"}], {"tools": TOOLS}),
    "apart": ([*ASK, calling(None, ROME), result(1, "21"), calling("And now", NOON), result(2, "noon")], {"tools": TOOLS}),
    "unoffered": ([*BOTH, *turns(("assistant", "Noon."), ("user", "Thanks"))], {}),
}
#: Roles at places that many templates do not know.
ROLES = {
    "developer": (turns(("developer", "Be brief."), ("user", "Hi")), {}),
    "both": (turns(("system", "Be brief."), ("developer", "Be kind."), ("user", "Hi")), {}),
    "lone": (turns(("system", "Say hello.")), {}),
    "late": (turns(("user", "Hi"), ("assistant", "Ho"), ("system", "Be brief."), ("user", "Go")), {}),
    "users": (turns(("user", "Hi"), ("user", "you"), ("user", "there")), {}),
    "assistants": (turns(("user", "Hi"), ("assistant", "Hm"), ("assistant", "Ho"), ("user", "Go")), {}),
}  # fmt: skip
