"""Reads a GGUF file's vocabulary, so that a test can name the token behind a text.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import pathlib
import struct

_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32  # general.alignment where the file does not say otherwise
#: Texts of tokens that end an answer in llama.cpp, whatever a file says (`special_eog_ids` in llama-vocab.cpp), of files that
#: this is used with: those of ends, and those between files of a repository.
_END_TEXTS = {
    "<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<eos>", "<|end_of_text|>", "<|eom_id|>",
    "<|fim_pad|>", "<fim_pad>", "<|fim_repo|>", "<|repo_name|>", "<reponame>", "<|file_sep|>",
}  # fmt: skip


def _byte_decoder():
    """GPT-2's printable stand-ins for bytes, reversed."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    for i, byte in enumerate(byte for byte in range(256) if byte not in printable):
        table[chr(256 + i)] = byte
    return table


def with_numbers(source: pathlib.Path, target: pathlib.Path, numbers: dict[str, int]):
    """Copies a GGUF file with more metadata: unsigned 32-bit numbers under keys that it does not have."""
    data = source.read_bytes()
    magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data)
    more = b"".join(
        struct.pack("<Q", len(key)) + key.encode() + struct.pack("<II", 4, number) for key, number in numbers.items()
    )
    head = struct.calcsize("<4sIQQ")
    end = Reader(data, head).skip_pairs(pairs).skip_tensors(tensors)
    infos = struct.pack("<4sIQQ", magic, version, tensors, pairs + len(numbers)) + more + data[head:end]
    # Tensors begin at the next multiple of the alignment, and their places are counted from there.
    begin = end + -end % _ALIGNMENT
    target.write_bytes(infos + bytes(-len(infos) % _ALIGNMENT) + data[begin:])


def tokenizer_pairs(path: pathlib.Path):
    """The number of tokens of a model file, and the metadata of its tokenizer, one piece of bytes a pair."""
    data = path.read_bytes()
    _, _, _, count = struct.unpack_from("<4sIQQ", data)
    reader = Reader(data, struct.calcsize("<4sIQQ"))
    pairs, tokens = [], 0
    for _ in range(count):
        key, piece = reader.pair()
        if key.startswith(b"tokenizer."):
            pairs.append(piece)
        if key == b"tokenizer.ggml.tokens":
            (tokens,) = struct.unpack_from("<Q", piece, 8 + len(key) + 4 + 4)
    return tokens, pairs


class Reader:
    """Walks over a file's parts."""

    def __init__(self, data, at=0):
        self._data, self._at = data, at

    def pair(self):
        """The key of the next pair, and the whole pair."""
        begin = self._at
        key = self._string()
        (kind,) = self._take("<I")
        self._value(kind)
        return bytes(key), bytes(self._data[begin : self._at])

    def skip_pairs(self, count):
        for _ in range(count):
            self._string()
            (kind,) = self._take("<I")
            self._value(kind)
        return self

    @property
    def at(self):
        """The place reached."""
        return self._at

    def tensor(self):
        """Name, shape, type and place of the next tensor."""
        name = bytes(self._string()).decode()
        (dimensions,) = self._take("<I")
        shape = self._take(f"<{dimensions}Q")
        return name, shape, *self._take("<IQ")

    def skip_tensors(self, count):
        """Where the descriptions of tensors end."""
        for _ in range(count):
            self.tensor()
        return self._at

    def _take(self, layout):
        value = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value

    def _string(self):
        (length,) = self._take("<Q")
        self._at += length
        return self._data[self._at - length : self._at]

    def _value(self, kind):
        if kind == _STRING:
            return self._string().decode(errors="replace")
        if kind == _ARRAY:
            element, count = self._take("<IQ")
            return [self._value(element) for _ in range(count)]
        return self._take(_SCALARS[kind])[0]


class Vocabulary(Reader):
    """`pieces[id]` is a token's text as bytes; `metadata` is the file's, strings and numbers."""

    def __init__(self, path: pathlib.Path):
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self._data, self._at = data, 0
            magic, _version, _tensors, pairs = self._take("<4sIQQ")
            assert magic == b"GGUF", f"{path} is not a GGUF file"
            self.metadata = {}
            for _ in range(pairs):
                key = self._string().decode()
                (kind,) = self._take("<I")
                self.metadata[key] = self._value(kind)
            del self._data
        tokens = self.metadata["tokenizer.ggml.tokens"]
        if self.metadata["tokenizer.ggml.model"] == "gpt2":
            decoder = _byte_decoder()
            self.pieces = [
                bytes(decoder[c] for c in token) if all(c in decoder for c in token) else token.encode()
                for token in tokens
            ]
        else:
            self.pieces = [self._sentencepiece(token) for token in tokens]
        ids = {
            self.metadata[key]
            for key in ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
            if key in self.metadata
        }
        #: Tokens that end an answer.
        self.end_of_generation = sorted(ids | {i for i, token in enumerate(tokens) if token in _END_TEXTS})
        #: The context that the model was trained with, in tokens.
        self.context = self.metadata[self.metadata["general.architecture"] + ".context_length"]

    def ids_of(self, text: str | bytes) -> list[int]:
        """Every token whose text is exactly this."""
        wanted = text.encode() if isinstance(text, str) else text
        return [i for i, piece in enumerate(self.pieces) if piece == wanted]

    @staticmethod
    def _sentencepiece(token: str) -> bytes:
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace("\u2581", " ").encode()
