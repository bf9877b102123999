"""Tools and structured output through LangChain's ChatOpenAI as its users write it."""

from typing import Annotated

import pydantic
import pytest
from harness import ENDLESS, MODEL
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


#: Bounded, so that an answer ends: a model of this size may go on with digits.
Number = Annotated[int, pydantic.Field(ge=0, le=99)]


@tool
def add(a: Number, b: Number) -> int:
    """Add two numbers."""
    return a + b


class Cat(pydantic.BaseModel):
    """A cat."""

    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(max_length=8)
    hungry: bool


@pytest.fixture
def llm(server):
    return ChatOpenAI(
        model=MODEL, base_url=server.base_url, api_key=server.admin_key, max_retries=0, timeout=120, max_tokens=200,
        temperature=0,
    )


def test_tools_are_called_and_their_results_answered(llm):
    asked = [HumanMessage("What is 2 + 3?")]
    said = llm.bind_tools([add], tool_choice="any", strict=True, parallel_tool_calls=False).invoke(asked)
    (call,) = said.tool_calls
    assert not said.invalid_tool_calls
    assert call["name"] == "add" and set(call["args"]) == {"a", "b"}
    result = add.invoke(call)
    assert isinstance(result, ToolMessage)
    after = llm.bind_tools([add], tool_choice="none").invoke([*asked, said, result])
    assert not after.tool_calls


def test_streamed_calls_add_up(llm):
    bound = llm.bind_tools([add], tool_choice="add", strict=True)
    whole = None
    for chunk in bound.stream("What is 2 + 3?"):
        whole = chunk if whole is None else whole + chunk
    (call,) = whole.tool_calls
    assert call["name"] == "add" and all(isinstance(value, int) for value in call["args"].values())


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(llm, method):
    cat = llm.with_structured_output(Cat, method=method, strict=True).invoke("Describe a cat")
    assert isinstance(cat, Cat)


def test_streaming(llm):
    pieces = [chunk.content for chunk in llm.stream("Tell me a story", max_tokens=20, logit_bias=ENDLESS)]
    assert "".join(pieces)
