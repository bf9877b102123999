"""Writes tiny models of many architectures as GGUF: random weights of a seed, and the vocabulary of the bundled model.

They say nothing of use; they show that whichever way a position is reached, the model is in the same state there. Names and
shapes of tensors are those that llama.cpp loads (`load_arch_tensors` of each model).
"""

import random
import struct

from gguf_vocab import tokenizer_pairs
from gguf_writer import file_of, text, value_of

WIDTH, HEADS, KV_HEADS, HEAD, FEED_FORWARD, LAYERS, CONTEXT = 64, 4, 2, 16, 96, 4, 4096
#: Positions that the layers with a window look back, where an architecture has any.
WINDOW = 32
#: All experts are used: a choice among them would make large differences of small ones.
EXPERTS = EXPERTS_USED = 4
#: Widths of the recurrent layers.
INNER, STATE, GROUPS, RANK, KERNEL = 2 * WIDTH, 16, 1, 8, 4
#: Ranks of latent attention.
Q_RANK, KV_RANK, ROPE = 32, 24, 8


class Model:
    """What a file has: metadata without the architecture's prefix, and shapes of tensors by name."""

    def __init__(self, kv_heads=KV_HEADS, **metadata):
        self.metadata = {
            "context_length": CONTEXT, "embedding_length": WIDTH, "block_count": LAYERS, "feed_forward_length": FEED_FORWARD,
            "attention.head_count": HEADS, "attention.head_count_kv": kv_heads, "attention.layer_norm_rms_epsilon": 1e-6,
            "rope.freq_base": 10000.0,
        } | {key.replace("__", "."): value for key, value in metadata.items()}  # fmt: skip
        self.shapes = {"output_norm.weight": (WIDTH,)}

    def add(self, layers=range(LAYERS), **shapes):
        for layer in layers:
            for name, shape in shapes.items():
                self.shapes[f"blk.{layer}.{name.replace('__', '.').removesuffix('.bare')}"] = shape
        return self


def attention(model, layers=range(LAYERS), width=WIDTH, **more):
    kv = KV_HEADS * HEAD
    return model.add(
        layers, attn_norm__weight=(WIDTH,), attn_q__weight=(WIDTH, HEADS * HEAD), attn_k__weight=(WIDTH, kv),
        attn_v__weight=(WIDTH, kv), attn_output__weight=(HEADS * HEAD, width), **more,
    )  # fmt: skip


def dense(model, layers=range(LAYERS), up=FEED_FORWARD, gate=True, **more):
    gates = {"ffn_gate__weight": (WIDTH, FEED_FORWARD)} if gate else {}
    return model.add(
        layers, ffn_norm__weight=(WIDTH,), ffn_up__weight=(WIDTH, up), ffn_down__weight=(FEED_FORWARD, WIDTH), **gates, **more
    )


def experts(model, layers=range(LAYERS), **more):
    return model.add(
        layers, ffn_gate_inp__weight=(WIDTH, EXPERTS), ffn_gate_exps__weight=(WIDTH, FEED_FORWARD, EXPERTS),
        ffn_up_exps__weight=(WIDTH, FEED_FORWARD, EXPERTS), ffn_down_exps__weight=(FEED_FORWARD, WIDTH, EXPERTS), **more,
    )  # fmt: skip


HEAD_SIZES = {"attention__key_length": HEAD, "attention__value_length": HEAD, "rope__dimension_count": HEAD}
QK_NORMS = {"attn_q_norm__weight": (HEAD,), "attn_k_norm__weight": (HEAD,)}
POST_NORMS = {"post_attention_norm__weight": (WIDTH,), "post_ffw_norm__weight": (WIDTH,)}
EXPERT_SIZES = {"expert_count": EXPERTS, "expert_used_count": EXPERTS_USED, "expert_feed_forward_length": FEED_FORWARD}
WINDOWS = {"attention__sliding_window": WINDOW, "attention__sliding_window_pattern": 2}
RECURRENT = {
    "ssm__conv_kernel": KERNEL, "ssm__inner_size": INNER, "ssm__state_size": STATE, "ssm__time_step_rank": RANK,
    "ssm__group_count": GROUPS,
}  # fmt: skip


def recurrent(model, layers=range(LAYERS)):
    convolved = INNER + 2 * GROUPS * STATE
    return model.add(
        layers, attn_norm__weight=(WIDTH,), ssm_in__weight=(WIDTH, INNER + convolved + RANK),
        ssm_conv1d__weight=(KERNEL, convolved), ssm_conv1d__bias=(convolved,), ssm_dt__bias=(RANK,), ssm_a__bare=(1, RANK),
        ssm_d__bare=(1, RANK), ssm_norm__weight=(INNER // GROUPS, GROUPS), ssm_out__weight=(INNER, WIDTH),
    )  # fmt: skip


def llama():
    return dense(attention(Model(**HEAD_SIZES)))


def qwen3():
    return dense(attention(Model(**HEAD_SIZES), **QK_NORMS))


def qwen3moe():
    model = experts(attention(Model(**HEAD_SIZES, **EXPERT_SIZES), **QK_NORMS))
    return model.add(ffn_norm__weight=(WIDTH,))


def glm4():
    return dense(attention(Model(**HEAD_SIZES), **POST_NORMS), up=2 * FEED_FORWARD, gate=False)


def phi3():
    sizes = {"rope__dimension_count": HEAD, "rope__scaling__original_context_length": CONTEXT}
    return dense(attention(Model(**sizes)), up=2 * FEED_FORWARD, gate=False)


def gemma2():
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return dense(attention(Model(**HEAD_SIZES, **WINDOWS, **caps), **POST_NORMS))


def gemma3():
    return dense(attention(Model(**HEAD_SIZES, **WINDOWS), **QK_NORMS, **POST_NORMS))


def gpt_oss():
    kv, heads = KV_HEADS * HEAD, HEADS * HEAD
    model = attention(
        Model(**HEAD_SIZES, **EXPERT_SIZES, **WINDOWS), post_attention_norm__weight=(WIDTH,), attn_sinks__weight=(HEADS,),
        attn_q__bias=(heads,), attn_k__bias=(kv,), attn_v__bias=(kv,), attn_output__bias=(WIDTH,),
    )  # fmt: skip
    of_experts = {"ffn_gate_exps__bias": FEED_FORWARD, "ffn_up_exps__bias": FEED_FORWARD, "ffn_down_exps__bias": WIDTH}
    experts(model, ffn_gate_inp__bias=(EXPERTS,), **{name: (length, EXPERTS) for name, length in of_experts.items()})
    model.shapes["output.weight"] = None
    return model


def deepseek2():
    sizes = {
        "attention__q_lora_rank": Q_RANK, "attention__kv_lora_rank": KV_RANK, "attention__key_length": KV_RANK + ROPE,
        "attention__value_length": KV_RANK, "attention__key_length_mla": HEAD + ROPE, "attention__value_length_mla": HEAD,
        "rope__dimension_count": ROPE, "expert_shared_count": 1, "leading_dense_block_count": 1,
    }  # fmt: skip
    model = Model(kv_heads=1, **sizes, **EXPERT_SIZES).add(
        attn_norm__weight=(WIDTH,), attn_q_a_norm__weight=(Q_RANK,), attn_kv_a_norm__weight=(KV_RANK,),
        attn_q_a__weight=(WIDTH, Q_RANK), attn_q_b__weight=(Q_RANK, HEADS * (HEAD + ROPE)),
        attn_kv_a_mqa__weight=(WIDTH, KV_RANK + ROPE), attn_k_b__weight=(HEAD, KV_RANK, HEADS),
        attn_v_b__weight=(KV_RANK, HEAD, HEADS), attn_output__weight=(HEADS * HEAD, WIDTH), ffn_norm__weight=(WIDTH,),
    )  # fmt: skip
    dense(model, range(1))
    shared = {f"ffn_{name}_shexp__weight": (WIDTH, FEED_FORWARD) for name in ("gate", "up")}
    return experts(model, range(1, LAYERS), ffn_down_shexp__weight=(FEED_FORWARD, WIDTH), **shared)


def mamba2():
    return recurrent(Model(kv_heads=0, **RECURRENT))


def granitehybrid():
    """Recurrent layers, and one of attention."""
    kinds = [0, 0, KV_HEADS, 0]
    model = Model(kv_heads=kinds, **HEAD_SIZES, **RECURRENT)
    recurrent(model, [layer for layer, kv_heads in enumerate(kinds) if kv_heads == 0])
    return dense(attention(model, [kinds.index(KV_HEADS)]))


def lfm2():
    """Short convolutions, and two layers of attention with a window."""
    kinds = [0, KV_HEADS, 0, KV_HEADS]
    model = Model(kv_heads=kinds, shortconv__l_cache=3, attention__sliding_window=WINDOW, **HEAD_SIZES)
    model.shapes["token_embd_norm.weight"] = model.shapes.pop("output_norm.weight")
    attention(model, [1, 3], **QK_NORMS)
    model.add(
        [0, 2], attn_norm__weight=(WIDTH,), shortconv__conv__weight=(3, WIDTH), shortconv__in_proj__weight=(WIDTH, 3 * WIDTH),
        shortconv__out_proj__weight=(WIDTH, WIDTH),
    )  # fmt: skip
    return dense(model)


#: By llama.cpp's name of the architecture.
ARCHITECTURES = {
    "llama": llama, "qwen3": qwen3, "qwen3moe": qwen3moe, "glm4": glm4, "phi3": phi3, "gemma2": gemma2, "gemma3": gemma3,
    "gpt-oss": gpt_oss, "deepseek2": deepseek2, "mamba2": mamba2, "granitehybrid": granitehybrid, "lfm2": lfm2,
}  # fmt: skip


def write(path, architecture, bundled, seed=1):
    """A model file; the same seed makes the same. `bundled`: the model file whose vocabulary it gets."""
    vocabulary, pairs = tokenizer_pairs(bundled)
    model = ARCHITECTURES[architecture]()
    # Without the architecture's: llama.cpp changes tokens of models whose name has "phi3".
    metadata = {"general.architecture": architecture, "general.name": "tiny"}
    metadata |= {f"{architecture}.{key}": value for key, value in model.metadata.items()}
    shapes = {"token_embd.weight": (WIDTH, vocabulary)}
    shapes |= {name: shape or (WIDTH, vocabulary) for name, shape in model.shapes.items()}
    draw = random.Random(f"{architecture} {seed}")
    tensors = [(name, shape, _values(name, shape, draw)) for name, shape in shapes.items()]
    path.write_bytes(file_of([text(key) + value_of(value) for key, value in metadata.items()] + pairs, tensors))
    return path


def _values(name, shape, draw):
    count = 1
    for length in shape:
        count *= length
    if name.endswith("ssm_a"):
        # Decay: negative, so that what was read is forgotten slowly.
        values = [-draw.uniform(0.02, 0.5) for _ in range(count)]
    elif "norm" in name or name.endswith("ssm_d"):
        values = [draw.gauss(1.0, 0.1) for _ in range(count)]
    else:
        values = [draw.gauss(0.0, 0.25) for _ in range(count)]
    return struct.pack(f"<{count}f", *values)
