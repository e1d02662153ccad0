"""The published classes that our two architectures are equal to: names of sizes and of tensors.

    class_of(config)                    "Qwen3ForCausalLM", "LlamaForCausalLM" or "GPT2LMHeadModel"
    config_json(config)                 what config.json says of a model
    published_views(config, weights)    {published name: view of one of our tensors}

One table for both directions. A view shares the memory of our tensor and has the published shape:
an export writes it, an import copies the published tensor into it.
"""
import re

import torch

from model import ROPE_THETA

# field of GPTConfig: its key in config.json
KEYS_OF_GPT2 = {"block_size": "n_positions", "vocab_size": "vocab_size", "n_layer": "n_layer",
                "n_head": "n_head", "n_embd": "n_embd", "n_hidden": "n_inner"}
KEYS_OF_LLAMA = {"block_size": "max_position_embeddings", "vocab_size": "vocab_size",
                 "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
                 "n_kv_head": "num_key_value_heads", "n_embd": "hidden_size",
                 "n_hidden": "intermediate_size"}
# what config.json says of every model of a class that our blocks can express
FIXED_OF_GPT2 = {"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True,
                 "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False,
                 "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
FIXED_OF_LLAMA = {"hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0}
CLASSES = {  # class: (model_type, field -> key, fixed keys)
    "GPT2LMHeadModel": ("gpt2", KEYS_OF_GPT2, FIXED_OF_GPT2),
    "LlamaForCausalLM": ("llama", KEYS_OF_LLAMA, {**FIXED_OF_LLAMA, "mlp_bias": False}),
    "Qwen3ForCausalLM": ("qwen3", KEYS_OF_LLAMA, {**FIXED_OF_LLAMA, "use_sliding_window": False}),
}
# fields that choose the class, or that a published model has no need of: dropout is for training,
# and a model of several vocabularies goes out with the rows of one
OTHER_FIELDS = ("arch", "bias", "n_kv_head", "dropout", "vocab_sizes")

OUTSIDE = {"transformer.wte.weight": "model.embed_tokens.weight",
           "transformer.ln_f.weight": "model.norm.weight", "lm_head.weight": "lm_head.weight"}
STACKED = "attn.c_attn.weight"  # query, key and value, one below the other
IN_BLOCK = {"ln_1.weight": ["input_layernorm.weight"],
            STACKED: [f"self_attn.{one}_proj.weight" for one in "qkv"],
            "attn.c_proj.weight": ["self_attn.o_proj.weight"],
            "attn.q_norm": ["self_attn.q_norm.weight"], "attn.k_norm": ["self_attn.k_norm.weight"],
            "ln_2.weight": ["post_attention_layernorm.weight"],
            "mlp.c_gate.weight": ["mlp.gate_proj.weight"],
            "mlp.c_fc.weight": ["mlp.up_proj.weight"],
            "mlp.c_proj.weight": ["mlp.down_proj.weight"]}


def class_of(config):
    """The published class whose computation is that of a GPTConfig."""
    return "GPT2LMHeadModel" if config.arch == "gpt2" else "Qwen3ForCausalLM"


def config_json(config):
    """The dict of config.json, less what concerns the tokenizer and the dtype."""
    name = class_of(config)
    model_type, keys, fixed = CLASSES[name]
    sizes = {key: getattr(config, field) for field, key in keys.items()}
    held = {"architectures": [name], "model_type": model_type, **sizes, **fixed}
    if config.arch == "gpt2":  # the tanh formula of GELU, or the exact one
        return {**held, "activation_function": "gelu_new" if config.bias else "gelu"}
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA}
    # rope_theta twice: transformers 4 and vLLM read the first, transformers 5 the second
    return {**held, "head_dim": config.n_embd // config.n_head, "rms_norm_eps": 1e-6,
            "rope_theta": ROPE_THETA, "rope_parameters": rope, "tie_word_embeddings": False}


def published_views(config, weights, first=0):
    """{published name: view}, layer by layer, of a GPT's state_dict() or a checkpoint's weights.

    first: the first row of the vocabulary, if the tables hold several; config.vocab_size is the
    number of its rows. Where a model has no biases and the class has, a view is new zeros.
    """
    views = {}
    for name, weight in weights.items():
        if name in ("transformer.wte.weight", "lm_head.weight"):  # not the padding rows
            weight = weight[first : first + config.vocab_size]
        of = _in_gpt2 if config.arch == "gpt2" else _in_llama
        views.update(of(config, name, weight))
    return views


def _in_gpt2(config, name, weight):
    if name == "lm_head.weight":  # tied: wte is the head too
        return
    if ".h." in name and weight.dim() == 2:
        weight = weight.T  # the published matrices are stored (in, out), ours (out, in)
    yield name, weight
    if not config.bias and name.endswith("weight") and not re.search(r"\.w[tp]e\.", name):
        yield f"{name.removesuffix('weight')}bias", torch.zeros(weight.size(-1))


def _in_llama(config, name, weight):
    if name in OUTSIDE:
        yield OUTSIDE[name], weight
        return
    layer, part = re.fullmatch(r"transformer\.h\.(\d+)\.(.+)", name).groups()
    rows = [weight.size(0)]
    if part == STACKED:
        heads = config.n_head, config.n_kv_head, config.n_kv_head
        rows = [count * (weight.size(0) // sum(heads)) for count in heads]
    for published, view in zip(IN_BLOCK[part], weight.split(rows)):
        yield f"model.layers.{layer}.{published}", view
