"""instructor as its users have it, unmodified, in an environment of its own: it wants an older OpenAI SDK."""

import json
import subprocess

import pytest
from harness import MODEL, ROOT

PYTHON = ROOT / "target/instructor-venv/bin/python"

#: What a user writes. No retries: the first answer has to fit.
PROGRAM = """\
import json
import sys
from typing import Literal

import instructor
from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field

base_url, api_key, model, mode, what = sys.argv[1:]


class Toy(BaseModel):
    model_config = ConfigDict(extra="forbid")
    label: Literal["ball", "mouse"]
    loud: bool


class Cat(BaseModel):
    \"\"\"A cat.\"\"\"

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=12)
    age: int = Field(ge=0, le=30)
    toys: list[Toy] = Field(max_length=2)


sdk = OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=120)
client = instructor.from_openai(sdk, mode=instructor.Mode[mode])
ask = dict(
    model=model, messages=[{"role": "user", "content": "Jason is a cat of 7 years with a ball"}], temperature=1.5,
    max_tokens=400, seed=7, max_retries=0,
)
if what == "one":
    cats = [client.chat.completions.create(response_model=Cat, **ask)]
elif what == "partial":
    seen = list(client.chat.completions.create_partial(response_model=Cat, **ask))
    assert len(seen) > 2, "it came in one piece"
    cats = [Cat.model_validate(seen[-1].model_dump())]
else:
    cat, answer = client.chat.completions.create_with_completion(response_model=Cat, **ask)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0
    cats = [cat]
print(json.dumps([type(cat).__name__ for cat in cats]), cats[0].model_dump_json())
"""


@pytest.mark.parametrize(
    ("mode", "what"),
    [("JSON_SCHEMA", "one"), ("JSON_SCHEMA", "partial"), ("TOOLS", "completion"), ("TOOLS", "partial"), ("TOOLS_STRICT", "one")],
)  # fmt: skip
def test_a_model_is_extracted(server, mode, what):
    """A pydantic model comes out of a model that writes noise at this temperature: the server holds it to the schema."""
    command = [str(PYTHON), "-c", PROGRAM, server.base_url, server.admin_key, MODEL, mode, what]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    names, cat = done.stdout.strip().split(" ", 1)
    assert json.loads(names) == ["Cat"]
    cat = json.loads(cat)
    assert 0 <= cat["age"] <= 30 and 1 <= len(cat["name"]) <= 12
    assert all(toy["label"] in ("ball", "mouse") for toy in cat["toys"])
