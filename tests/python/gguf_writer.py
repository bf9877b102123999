"""Writes GGUF files of tiny models.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct

UINT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 2, 4, 5, 6, 7, 8, 9


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value_of(value):
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    kind, items = (STRING, map(text, value)) if isinstance(value[0], str) else (INT32, (struct.pack("<i", v) for v in value))
    return struct.pack("<IIQ", ARRAY, kind, len(value)) + b"".join(items)


def file_of(metadata, tensors):
    infos, data = b"", b""
    for name, shape, values in tensors:
        infos += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += values + b"\0" * (-len(values) % 32)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)) + b"".join(metadata) + infos
    return head + b"\0" * (-len(head) % 32) + data


