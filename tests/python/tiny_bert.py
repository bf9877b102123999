"""Writes tiny encoders as GGUF, which make embeddings and generate nothing: BERT, ModernBERT, and a cross-encoder, whose
classifier scores a pair of texts. Their weights are random.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import random
import struct

from gguf_writer import INT32, UINT16, file_of, text, value_of

#: Beginnings of words carry "▁" in llama.cpp's WordPiece vocabularies.
WORDS = ["▁hello", "▁world", "▁the", "▁sea", "▁cat", "▁dog", "ing", "s", "▁a", "▁b"]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
WIDTH, FEED_FORWARD, LAYERS, CONTEXT = 64, 96, 2, 64
#: Of ModernBERT: layers, of which every third looks at all of the text, and the others at so many tokens around each.
MODERN_LAYERS, WINDOW = 4, 8
#: llama.cpp's numbers of poolings.
MEAN, CLS, LAST, RANK = 1, 2, 3, 4


def write(path, pooling=CLS, seed=1, architecture="bert"):
    """A model file; the same seed makes the same. `pooling`: a cross-encoder with `RANK`."""
    metadata, tensors = _model(pooling, seed, architecture)
    path.write_bytes(file_of(metadata, tensors))
    return path


def write_parts(folder, count, pooling=CLS, seed=1):
    """The same model in several files, as llama.cpp's gguf-split writes them. Returns the first."""
    metadata, tensors = _model(pooling, seed)
    each = -(-len(tensors) // count)
    paths = [folder / f"bert-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        split = [
            text("split.no") + struct.pack("<IH", UINT16, number),
            text("split.count") + struct.pack("<IH", UINT16, count),
            text("split.tensors.count") + struct.pack("<Ii", INT32, len(tensors)),
        ]
        mine = tensors[number * each : (number + 1) * each]
        path.write_bytes(file_of((metadata if number == 0 else []) + split, mine))
    return paths[0]


def _model(pooling, seed, architecture="bert"):
    """Its metadata, one piece of bytes an entry, and its tensors: name, shape and bytes."""
    modern = architecture == "modern-bert"
    sizes = {
        "context_length": CONTEXT, "embedding_length": WIDTH, "feed_forward_length": FEED_FORWARD,
        "block_count": MODERN_LAYERS if modern else LAYERS, "attention.head_count": 2, "attention.layer_norm_epsilon": 1e-12,
        "attention.causal": False, "pooling_type": pooling,
    }  # fmt: skip
    if modern:
        sizes |= {"attention.sliding_window": WINDOW, "rope.freq_base": 160000.0, "rope.freq_base_swa": 10000.0}
    metadata = {
        "general.architecture": architecture, "general.name": "tiny-bert",
        **{f"{architecture}.{key}": value for key, value in sizes.items()},
        "tokenizer.ggml.model": "bert", "tokenizer.ggml.pre": "default", "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.token_type": [3] * 5 + [1] * len(WORDS),
        "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.cls_token_id": 2, "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.seperator_token_id": 3, "tokenizer.ggml.mask_token_id": 4,
    }  # fmt: skip
    shapes = _modern_shapes() if modern else _shapes()
    if pooling == RANK:
        shapes |= {"cls.weight": (WIDTH, WIDTH), "cls.output.weight": (WIDTH, 1), "cls.output.bias": (1,)}
        shapes |= {} if modern else {"cls.bias": (WIDTH,)}
    draw = random.Random(seed)
    tensors = []
    for name, shape in shapes.items():
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        middle = 1.0 if name.endswith("norm.weight") else 0.0
        tensors.append((name, shape, struct.pack(f"<{count}f", *(draw.gauss(middle, 0.3) for _ in range(count)))))
    return [text(key) + value_of(value) for key, value in metadata.items()], tensors


def _modern_shapes():
    shapes = {
        "token_embd.weight": (WIDTH, len(TOKENS)), "token_embd_norm.weight": (WIDTH,), "output_norm.weight": (WIDTH,),
    }  # fmt: skip
    for layer in range(MODERN_LAYERS):
        # The first layer has none in front of its attention.
        shapes |= {f"blk.{layer}.attn_norm.weight": (WIDTH,)} if layer else {}
        shapes |= {
            f"blk.{layer}.attn_qkv.weight": (WIDTH, 3 * WIDTH), f"blk.{layer}.attn_output.weight": (WIDTH, WIDTH),
            f"blk.{layer}.ffn_norm.weight": (WIDTH,), f"blk.{layer}.ffn_up.weight": (WIDTH, 2 * FEED_FORWARD),
            f"blk.{layer}.ffn_down.weight": (FEED_FORWARD, WIDTH),
        }  # fmt: skip
    return shapes


def _shapes():
    shapes = {
        "token_embd.weight": (WIDTH, len(TOKENS)), "token_types.weight": (WIDTH, 2), "position_embd.weight": (WIDTH, CONTEXT),
        "token_embd_norm.weight": (WIDTH,), "token_embd_norm.bias": (WIDTH,),
    }  # fmt: skip
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}.weight": (WIDTH, WIDTH) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
        shapes |= {f"blk.{layer}.{name}.bias": (WIDTH,) for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_down")}
        shapes |= {
            f"blk.{layer}.{name}.{part}": (WIDTH,)
            for name in ("attn_output_norm", "layer_output_norm")
            for part in ("weight", "bias")
        }
        shapes |= {
            f"blk.{layer}.ffn_up.weight": (WIDTH, FEED_FORWARD), f"blk.{layer}.ffn_up.bias": (FEED_FORWARD,),
            f"blk.{layer}.ffn_down.weight": (FEED_FORWARD, WIDTH),
        }  # fmt: skip
    return shapes
