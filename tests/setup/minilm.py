"""Converts all-MiniLM-L6-v2 (a zip with safetensors in 32 bits and a tokenizer) to GGUF as llama.cpp's convert_hf_to_gguf.py
does, with the weights as they are: the same input makes the same bytes.

Formats: https://github.com/huggingface/safetensors and https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import json
import pathlib
import struct
import sys
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "python"))

from gguf_writer import file_of, text, value_of  # noqa: E402

#: llama.cpp's numbers: of the mean as pooling, of a file in 32 bits, and of kinds of tokens.
MEAN, ALL_F32, NORMAL, UNKNOWN, CONTROL = 1, 0, 1, 2, 3
#: Names of tensors outside of the layers, and in each.
OUTSIDE = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
}  # fmt: skip
INSIDE = {
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}  # fmt: skip
#: What no embedding needs.
UNUSED = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}


def convert(source: pathlib.Path, target: pathlib.Path) -> None:
    with zipfile.ZipFile(source) as archive:
        config = json.loads(archive.read("config.json"))
        pooling = json.loads(archive.read("1_Pooling/config.json"))
        tokenizer = json.loads(archive.read("tokenizer.json"))
        weights = archive.read("model.safetensors")
    if not pooling["pooling_mode_mean_tokens"]:
        raise ValueError("its pooling is not the mean")
    metadata = [text(key) + value_of(value) for key, value in {**sizes(config), **vocabulary(tokenizer)}.items()]
    target.write_bytes(file_of(metadata, list(tensors(weights))))


def sizes(config: dict) -> dict:
    of_bert = {
        "block_count": config["num_hidden_layers"], "context_length": config["max_position_embeddings"],
        "embedding_length": config["hidden_size"], "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"], "attention.layer_norm_epsilon": config["layer_norm_eps"],
        "attention.causal": False, "pooling_type": MEAN,
    }  # fmt: skip
    about = {"general.architecture": "bert", "general.name": "all-MiniLM-L6-v2", "general.file_type": ALL_F32}
    return about | {f"bert.{key}": value for key, value in of_bert.items()}


def vocabulary(tokenizer: dict) -> dict:
    ids = tokenizer["model"]["vocab"]
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    tokens = sorted(ids, key=ids.get)
    kinds = [(UNKNOWN if token == "[UNK]" else CONTROL) if token in special else NORMAL for token in tokens]
    return {
        "tokenizer.ggml.model": "bert", "tokenizer.ggml.pre": "default", "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": [piece(token, special) for token in tokens], "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.unknown_token_id": special["[UNK]"], "tokenizer.ggml.seperator_token_id": special["[SEP]"],
        "tokenizer.ggml.padding_token_id": special["[PAD]"], "tokenizer.ggml.cls_token_id": special["[CLS]"],
        "tokenizer.ggml.bos_token_id": special["[CLS]"], "tokenizer.ggml.mask_token_id": special["[MASK]"],
    }  # fmt: skip


def piece(token: str, special: dict) -> str:
    """A token as llama.cpp writes it: beginnings of words are marked, not their rests."""
    if token in special or (token.startswith("[") and token.endswith("]")):
        return token
    return token.removeprefix("##") if token.startswith("##") else "\u2581" + token


def tensors(weights: bytes):
    """Name, shape and bytes of each; safetensors counts dimensions from the outside, GGUF from the inside."""
    (length,) = struct.unpack_from("<Q", weights)
    begin = 8 + length
    entries = json.loads(weights[8:begin])
    for name in sorted(entries.keys() - UNUSED - {"__metadata__"}):
        entry = entries[name]
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} is {entry['dtype']}, not F32")
        first, last = entry["data_offsets"]
        yield gguf_name(name), tuple(reversed(entry["shape"])), weights[begin + first : begin + last]


def gguf_name(name: str) -> str:
    module, kind = name.rsplit(".", 1)
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{kind}"
    layer, module = module.removeprefix("encoder.layer.").split(".", 1)
    return f"blk.{layer}.{INSIDE[module]}.{kind}"
