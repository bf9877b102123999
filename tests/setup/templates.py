#!/usr/bin/env python3
"""Fetches the chat templates of llama.cpp's repository (about 70), which the tests compare with Jinja2.

They belong to their models' authors and are no part of this project: they come out of llama.cpp's folder `models/templates`
in a pinned source package of the Python package index, which is checked against its SHA-256, and are put at
target/test-templates/. Prints that folder.
"""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

NAME, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
MEMBERS = "/vendor/llama.cpp/models/templates/"
FOLDER = pathlib.Path(__file__).resolve().parents[2] / "target/test-templates"
#: Names the package that the folder was filled from.
STAMP = FOLDER / "source.txt"


def fetch() -> None:
    FOLDER.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER.parent) as folder:
        # Only this one as a source package: what pip reads its metadata with need not be built.
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        print(f"==> fetching the chat templates in {NAME} {VERSION} (73 MB)", file=sys.stderr)
        subprocess.run([*pip, "--no-binary", NAME, "--dest", folder, f"{NAME}=={VERSION}"], check=True)
        (package,) = pathlib.Path(folder).glob("*.tar.gz")
        if (found := hashlib.sha256(package.read_bytes()).hexdigest()) != SHA256:
            sys.exit(f"error: {package.name} has SHA-256 {found}, not {SHA256}")
        part = pathlib.Path(folder) / "templates"
        part.mkdir()
        with tarfile.open(package) as archive:
            for member in archive:
                if member.isfile() and MEMBERS in member.name and member.name.endswith(".jinja"):
                    (part / pathlib.PurePosixPath(member.name).name).write_bytes(archive.extractfile(member).read())
        (part / STAMP.name).write_text(f"{NAME} {VERSION}\n")
        shutil.rmtree(FOLDER, ignore_errors=True)
        part.rename(FOLDER)


if __name__ == "__main__":
    if not STAMP.exists() or STAMP.read_text() != f"{NAME} {VERSION}\n":
        fetch()
    print(FOLDER)
