"""structured-coverage: how many real schemas a server takes, and whether its answers satisfy them.

    .venv/bin/python tests/bench/structured_coverage.py FOLDER_OR_FILE --url http://127.0.0.1:8080/v1 [--model ID]

A folder of schemas (`*.json`, one a file), or a file with a list of them: each a schema, or an object with `name` and
`schema`. Each is sent once as `response_format`, to any OpenAI-compatible server, and streamed, so that the time to the
first byte shows what compiling cost. Answers are checked with Python's jsonschema, which is another implementation than
the server's. Prints counts, times and reasons; `--out` writes all of it as JSON.
"""

import argparse
import concurrent.futures
import http.client
import json
import pathlib
import sys
import time
import urllib.parse

import jsonschema

#: A server that is down gets this many chances to come back before the run ends.
MAX_CONNECTION_FAILURES = 5


def schemas(place):
    """(name, schema) of all that are there."""
    path = pathlib.Path(place)
    if path.is_dir():
        return [(str(file.relative_to(path)), json.loads(file.read_text())) for file in sorted(path.rglob("*.json"))]
    found = json.loads(path.read_text())
    entries = found if isinstance(found, list) else [found]
    named = []
    for number, entry in enumerate(entries):
        inner = isinstance(entry, dict) and isinstance(entry.get("schema"), dict)
        named.append((entry.get("name", str(number)), entry["schema"]) if inner else (str(number), entry))
    return named


def validity(schema, text):
    """None if the text satisfies the schema, else why not."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"not JSON: {error}"
    try:
        validator = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
        error = next(iter(validator(schema).iter_errors(value)), None)
    except Exception as error:  # A schema that this implementation cannot read says nothing about the answer.
        print(f"cannot check: {error!r}"[:200], file=sys.stderr)
        return None
    return error.message[:200] if error else None


class Caller:
    """Sends one schema after the other to a server."""

    def __init__(self, options):
        self.options = options
        self.url = urllib.parse.urlsplit(options.url)

    def connection(self):
        kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        return kind(self.url.hostname, self.url.port, timeout=self.options.timeout)

    def headers(self):
        key = {"Authorization": f"Bearer {self.options.key}"} if self.options.key else {}
        return {"Content-Type": "application/json"} | key

    def body(self, schema):
        named = {"name": "schema", "schema": schema} | ({"strict": True} if self.options.strict else {})
        return {
            "model": self.options.model,
            "messages": [{"role": "user", "content": self.options.prompt}],
            "max_tokens": self.options.max_tokens,
            "temperature": self.options.temperature,
            "seed": 1,
            "stream": True,
            "response_format": {"type": "json_schema", "json_schema": named},
        }

    def ask(self, schema):
        """What happened: an object with `outcome` and what belongs to it."""
        connection = self.connection()
        begin = time.monotonic()
        try:
            path = f"{self.url.path.rstrip('/')}/chat/completions"
            connection.request("POST", path, json.dumps(self.body(schema)), self.headers())
            answer = connection.getresponse()
            if answer.status != 200:
                return refusal(answer.status, answer.read()) | {"first_byte_s": time.monotonic() - begin}
            result = self.read(answer, begin)
        except (OSError, http.client.HTTPException) as error:
            return {"outcome": "crashed", "reason": repr(error)[:200]}
        finally:
            connection.close()
        if result["outcome"] == "ended":
            wrong = validity(schema, result.pop("text"))
            result |= {"outcome": "invalid", "reason": wrong} if wrong else {"outcome": "valid"}
        return result

    def read(self, answer, begin):
        text, finish, failed, first = "", None, None, None
        for line in answer:
            if not line.startswith(b"data:") or line[5:].strip() == b"[DONE]":
                continue
            first = first or time.monotonic() - begin
            event = json.loads(line[5:])
            if "error" in event:
                failed = event["error"]
                continue
            for choice in event.get("choices", []):
                text += choice.get("delta", {}).get("content") or ""
                finish = choice.get("finish_reason") or finish
        result = {"first_byte_s": first or time.monotonic() - begin, "unenforced": answer.headers.get("X-Unenforced-Schema")}
        if failed:
            # A stream that says itself that the answer failed its check hands over no invalid answer.
            code = failed.get("code") if isinstance(failed, dict) else None
            return result | {"outcome": "withdrawn" if code == "invalid_output" else "failed", "reason": str(failed)[:200]}
        if finish is None:
            return result | {"outcome": "crashed", "reason": "the stream ended without a finish_reason"}
        return result | ({"outcome": "cut"} if finish == "length" else {"outcome": "ended", "text": text})


def refusal(status, body):
    try:
        reason = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = body.decode(errors="replace")
    return {"outcome": "refused" if status < 500 else "failed", "status": status, "reason": str(reason)[:300]}


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def summary(results, plain):
    """Counts, and the time to the first byte beyond that of an answer without a schema."""
    count = {}
    for result in results.values():
        count[result["outcome"]] = count.get(result["outcome"], 0) + 1
    compile_s = [max(0.0, result["first_byte_s"] - plain) for result in results.values() if "first_byte_s" in result]
    return {
        "schemas": len(results),
        "accepted": sum(count.get(name, 0) for name in ("valid", "invalid", "cut", "withdrawn")),
        **{name: count.get(name, 0) for name in ("valid", "invalid", "cut", "withdrawn", "refused", "failed", "crashed")},
        "with_unenforced_keywords": sum(1 for result in results.values() if result.get("unenforced")),
        "compile_s": {
            "p50": round(percentile(compile_s, 0.5), 3),
            "p99": round(percentile(compile_s, 0.99), 3),
            "max": round(max(compile_s, default=0.0), 3),
        },
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("schemas", help="folder of schemas, or a JSON file with a list")
    parser.add_argument("--url", required=True, help="base URL, such as http://127.0.0.1:8080/v1")
    parser.add_argument("--model", default="jan-v1-4b")
    parser.add_argument("--key", help="API key")
    parser.add_argument("--prompt", default="Write an example.")
    parser.add_argument("--max-tokens", type=int, default=600)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds without a byte")
    parser.add_argument("--parallel", type=int, default=1, help="requests at a time; more than one blurs the times")
    parser.add_argument("--strict", action="store_true", help="send strict: true")
    parser.add_argument("--out", help="file for all results as JSON")
    options = parser.parse_args()

    caller = Caller(options)
    trivial = {"type": "object", "properties": {}, "additionalProperties": False}
    plain = min(caller.ask(trivial).get("first_byte_s", 0.0) for _ in range(3))
    results, failures = {}, 0
    with concurrent.futures.ThreadPoolExecutor(options.parallel) as pool:
        everything = schemas(options.schemas)
        for (name, _), result in zip(everything, pool.map(lambda one: caller.ask(one[1]), everything), strict=True):
            results[name] = result
            reason = result.get("reason") or result.get("unenforced") or ""
            print(f"{result['outcome']:10} {result.get('first_byte_s', 0):7.3f} s  {name}  {reason}", file=sys.stderr)
            failures = failures + 1 if result["outcome"] == "crashed" else 0
            if failures > MAX_CONNECTION_FAILURES:
                print("the server is gone", file=sys.stderr)
                break
    total = summary(results, plain)
    print(json.dumps(total, indent=2))
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps({"summary": total, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
