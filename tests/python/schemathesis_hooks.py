"""What schemathesis must leave alone: whose key it uses. It finds their ids in answers and would disable or delete them,
after which everything is refused and nothing is tested. test_docs_fuzz.py names them in JAN_FUZZ_PROTECTED."""

import os

import schemathesis

# An export is sent as it is. Nothing that is drawn can have its checksum, and nothing of an export without it is taken
# in, so importStore needs no exception: it cannot change the server that is being tried.
schemathesis.serializer.alias("application/x-ndjson", "text/plain")

PROTECTED = set(os.environ["JAN_FUZZ_PROTECTED"].split())


@schemathesis.hook
def before_call(context, case, kwargs):
    for name, value in (case.path_parameters or {}).items():
        if any(one in str(value) for one in PROTECTED):
            case.path_parameters[name] = "nobody"
