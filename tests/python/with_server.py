#!/usr/bin/env python3
"""Runs a command with the real server beside it: with_server.py -- COMMAND...

The command finds the server's address in JAN_BASE_URL (…/api/v1), and JAN_API_KEY,
JAN_ACCESS_TOKEN, JAN_MODEL, JAN_IS_BUNDLED, JAN_ENDLESS.
"""

import json
import os
import subprocess
import sys
import tempfile

import serper
from harness import ENDLESS, IS_BUNDLED, MODEL, Server


def main():
    if len(sys.argv) < 3 or sys.argv[1] != "--":
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        search = serper.Serper()
        server = Server(folder, env=search.settings())
        try:
            environment = os.environ | {
                "JAN_BASE_URL": server.base_url,
                "JAN_API_KEY": server.admin_key,
                "JAN_ACCESS_TOKEN": server.new_session(server.new_user())["access_token"],
                "JAN_MODEL": MODEL,
                "JAN_IS_BUNDLED": str(int(IS_BUNDLED)),
                # `logit_bias` that keeps the model from ending its answer.
                "JAN_ENDLESS": json.dumps(ENDLESS),
            }
            status = subprocess.run(sys.argv[2:], env=environment, check=False).returncode
            if status != 0:
                print(server.log_tail(), file=sys.stderr)
        finally:
            server.close()
            search.close()
    sys.exit(status)


if __name__ == "__main__":
    main()
