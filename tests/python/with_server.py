#!/usr/bin/env python3
"""Runs a command with the real server beside it: with_server.py -- COMMAND...

The command finds the server's address in JAN_BASE_URL (…/api/v1), and JAN_API_KEY,
JAN_ACCESS_TOKEN, JAN_MODEL, JAN_THINKER, JAN_INFILL_MODEL, JAN_IS_BUNDLED, JAN_ENDLESS. What a Node program fetches is written down
(`tests/node/record.mjs`) and checked against OpenAI's description in the end.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import openai_schema
import serper
from gguf_vocab import with_numbers
from harness import BUNDLED, ENDLESS, IS_BUNDLED, MODEL, MODEL_FILE, ROOT, Server, wait_until


def violations(folder):
    """What in the recorded answers is not as OpenAI's description has it."""
    if openai_schema.FILE is None:
        print(f"answers were NOT checked: {openai_schema.MISSING}")
        return []
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            answer = json.loads(line)
            openai_schema.observe(
                answer["method"], answer["path"], answer["status"], answer["type"], answer["body"].encode()
            )
    print(f"checked against OpenAI's description: {dict(openai_schema.checked)}")
    return list(dict.fromkeys(openai_schema.violations))


def config(folder):
    """Beside the suite's model one that thinks, and one that fills gaps."""
    infill = pathlib.Path(folder) / "infill.gguf"
    with_numbers(BUNDLED, infill, {f"tokenizer.ggml.{name}_token_id": 5 + n for n, name in enumerate(("fim_pre", "fim_suf", "fim_mid"))})
    thinking = ROOT / "fixtures/templates/qwen3-thinking.jinja"
    return f"""
[[models]]
id = 'thinker'
path = '{MODEL_FILE}'
context_length = 2048
chat_template = '{thinking}'

[[models]]
id = 'infill'
path = '{infill}'
"""


def main():
    if len(sys.argv) < 3 or sys.argv[1] != "--":
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        search = serper.Serper()
        server = Server(folder, env=search.settings(), config=config(folder))
        recorded = pathlib.Path(folder) / "recorded"
        recorded.mkdir()
        try:
            for name in ("thinker", "infill"):
                about = lambda name=name: server.get(f"/v1/models/{name}", key=server.admin_key).json()
                wait_until(lambda: about()["status"] == "ready", f"the model {name}", 60)
            environment = os.environ | {
                "JAN_BASE_URL": server.base_url,
                "JAN_API_KEY": server.admin_key,
                "JAN_ACCESS_TOKEN": server.new_session(server.new_user())["access_token"],
                "JAN_MODEL": MODEL,
                "JAN_THINKER": "thinker",
                "JAN_INFILL_MODEL": "infill",
                "JAN_IS_BUNDLED": str(int(IS_BUNDLED)),
                # `logit_bias` that keeps the model from ending its answer.
                "JAN_ENDLESS": json.dumps(ENDLESS),
                "JAN_RECORD": str(recorded),
                "NODE_OPTIONS": f"--import={(ROOT / 'tests/node/record.mjs').as_uri()}",
            }
            status = subprocess.run(sys.argv[2:], env=environment, check=False).returncode
            if found := violations(recorded):
                print("not as OpenAI's description has it:", *found[:20], sep="\n", file=sys.stderr)
                status = status or 1
            if status != 0:
                print(server.log_tail(), file=sys.stderr)
        finally:
            server.close()
            search.close()
    sys.exit(status)


if __name__ == "__main__":
    main()
