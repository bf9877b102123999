"""Copies of a model with more layers that add nothing: it says the same, and takes longer. The model itself is then a draft model
that is always right, which shows what drafts cost and save.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import pathlib
import re
import struct
import sys

from gguf_vocab import Reader
from gguf_writer import UINT32, text

ALIGNMENT = 32
HEAD = "<4sIQQ"


def pad(source: pathlib.Path, target: pathlib.Path, times: int):
    """Writes a copy with `times` as many layers. A layer whose last products are zero passes on what it was given."""
    data = source.read_bytes()
    magic, version, tensors, pairs = struct.unpack_from(HEAD, data)
    reader = Reader(data, struct.calcsize(HEAD))
    metadata, layers = [], 0
    for _ in range(pairs):
        key, pair = reader.pair()
        if key.endswith(b".block_count"):
            (layers,) = struct.unpack_from("<I", pair, len(pair) - 4)
            pair = text(key.decode()) + struct.pack("<II", UINT32, layers * times)
        metadata.append(pair)
    infos = [reader.tensor() for _ in range(tensors)]
    begin = reader.at + -reader.at % ALIGNMENT
    ends = sorted([offset for *_, offset in infos] + [len(data) - begin])
    contents = lambda offset: data[begin + offset : begin + ends[ends.index(offset) + 1]]
    copied = []
    for name, shape, kind, offset in infos:
        copied.append((name, shape, kind, contents(offset)))
        layer = re.match(r"blk\.(\d+)\.(.*)", name)
        if not layer:
            continue
        number, rest = int(layer[1]), layer[2]
        for more in range(1, times):
            is_last = rest in ("attn_output.weight", "ffn_down.weight")
            # Zero bytes are zeros in all of ggml's formats.
            values = bytes(len(contents(offset))) if is_last else contents(offset)
            copied.append((f"blk.{number + more * layers}.{rest}", shape, kind, values))
    heads, at = b"", 0
    for name, shape, kind, values in copied:
        heads += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)
        at += len(values) + -len(values) % ALIGNMENT
    begin = struct.pack(HEAD, magic, version, len(copied), len(metadata)) + b"".join(metadata) + heads
    with target.open("wb") as file:
        file.write(begin + bytes(-len(begin) % ALIGNMENT))
        for *_, values in copied:
            file.write(values + bytes(-len(values) % ALIGNMENT))


if __name__ == "__main__":
    pad(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3]))
