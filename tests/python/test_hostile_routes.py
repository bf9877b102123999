"""Every route of the description: its other methods, HEAD and OPTIONS."""

import json

import pytest
from harness import ROOT, Server

ORDER = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
PATHS = json.loads((ROOT / "fixtures/openapi.json").read_text())["paths"]


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("routes"), model=False, wait="live")
    yield server
    server.close()


def filled(path):
    return "/".join("x1" if segment.startswith("{") else segment for segment in path.split("/"))


def methods(path):
    """Those of the description, and what follows from them."""
    own = {name.upper() for name in PATHS[path]} & set(ORDER)
    if "GET" in own and path != "/auth/google/callback":
        own.add("HEAD")
    return [name for name in ORDER if name in own | {"OPTIONS"}]


@pytest.mark.parametrize("path", sorted(PATHS))
def test_other_methods_are_405_and_named(own, path):
    allowed = methods(path)
    for form in [filled(path), filled(path).rstrip("/") + "/"]:
        for method in {*ORDER, "TRACE", "OTHER"} - set(allowed):
            answer = own.request(method, form)
            assert (answer.status, answer.headers["Allow"]) == (405, ", ".join(allowed)), (method, form)
            if method != "HEAD":
                assert answer.error["code"] == "method_not_allowed"
        answer = own.request("OPTIONS", form)
        assert (answer.status, answer.headers["Allow"], answer.body) == (204, ", ".join(allowed), b"")


def test_the_more_specific_path_counts(own):
    # Not a response of the id `input_tokens`.
    answer = own.request("GET", "/v1/responses/input_tokens", key=own.admin_key)
    assert (answer.status, answer.headers["Allow"]) == (405, "POST, OPTIONS")
    answer = own.request("GET", "/v1/responses/input_tokens/input_items", key=own.admin_key)
    assert (answer.status, answer.error["code"]) == (404, "not_found")
