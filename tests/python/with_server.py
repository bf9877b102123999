#!/usr/bin/env python3
"""Runs a command with the real server beside it: with_server.py -- COMMAND...

The command finds the server's address in JAN_BASE_URL (…/api/v1) and the process id in JAN_SERVER_PID.
"""

import os
import subprocess
import sys
import tempfile

from harness import MODEL, IS_BUNDLED, Server


def main():
    if len(sys.argv) < 3 or sys.argv[1] != "--":
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder)
        try:
            environment = os.environ | {
                "JAN_BASE_URL": server.base_url,
                "JAN_MODEL": MODEL,
                "JAN_IS_BUNDLED": str(int(IS_BUNDLED)),
                "JAN_SERVER_PID": str(server.pid),
            }
            status = subprocess.run(sys.argv[2:], env=environment, check=False).returncode
            if status != 0:
                print("\n".join(server.log().splitlines()[-60:]), file=sys.stderr)
        finally:
            server.close()
    sys.exit(status)


if __name__ == "__main__":
    main()
