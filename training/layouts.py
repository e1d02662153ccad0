"""The published classes that our two architectures are equal to: names of sizes and of tensors.

    class_of(config)                    "Qwen3ForCausalLM", "LlamaForCausalLM" or "GPT2LMHeadModel"
    config_json(config)                 what config.json says of a model
    config_of_json(held, path)          the GPTConfig of a config.json, or UserError
    published_views(config, weights)    {published name: view of one of our tensors}

One table for both directions. A view shares the memory of our tensor and has the published shape:
an export writes it, an import copies the published tensor into it.
"""
import json
import re
from dataclasses import fields

import torch

from model import GPTConfig
from pipeline.errors import UserError, printable
from training.checkpoint import MODEL_ARGS

# field of GPTConfig: its key in config.json
KEYS_OF_GPT2 = {"block_size": "n_positions", "vocab_size": "vocab_size", "n_layer": "n_layer",
                "n_head": "n_head", "n_embd": "n_embd", "n_hidden": "n_inner",
                "norm_eps": "layer_norm_epsilon", "tied_head": "tie_word_embeddings"}
KEYS_OF_LLAMA = {"block_size": "max_position_embeddings", "vocab_size": "vocab_size",
                 "n_layer": "num_hidden_layers", "n_head": "num_attention_heads",
                 "n_kv_head": "num_key_value_heads", "n_embd": "hidden_size",
                 "n_hidden": "intermediate_size", "head_dim": "head_dim",
                 "norm_eps": "rms_norm_eps", "tied_head": "tie_word_embeddings"}
CLASSES = {  # class: (model_type, field -> key, the keys of REFUSED that it has)
    "GPT2LMHeadModel": ("gpt2", KEYS_OF_GPT2, [
        "scale_attn_weights", "scale_attn_by_inverse_layer_idx"]),
    "LlamaForCausalLM": ("llama", KEYS_OF_LLAMA, ["hidden_act", "attention_bias", "mlp_bias"]),
    "Qwen3ForCausalLM": ("qwen3", KEYS_OF_LLAMA, [
        "hidden_act", "attention_bias", "use_sliding_window"]),
}
# what a config.json may leave out, as transformers fills it in; None: GPTConfig's own default
LEFT_OUT = {"n_hidden": None, "head_dim": None, "rope_theta": 10_000.0}
OF_CLASS = {"GPT2LMHeadModel": {**LEFT_OUT, "norm_eps": 1e-5, "tied_head": True},
            "LlamaForCausalLM": {**LEFT_OUT, "norm_eps": 1e-6, "tied_head": False},
            "Qwen3ForCausalLM": {**LEFT_OUT, "norm_eps": 1e-6, "tied_head": False,
                                 "head_dim": 128}}
REFUSED = {  # key of config.json: (its value for a model like ours, what another stands for)
    "attention_bias": (False, "biases on query, key and value"),
    "mlp_bias": (False, "biases in the MLP"), "hidden_act": ("silu", "another activation"),
    "use_sliding_window": (False, "sliding windows"),
    "sliding_window_pattern": (None, "sliding windows"),
    "num_experts": (0, "experts"), "num_local_experts": (0, "experts"),
    "rope_interleaved": (False, "another rotation"),
    "partial_rotary_factor": (1, "heads that are rotated in part"),
    "quantization_config": (None, "quantized weights"),
    "scale_attn_weights": (True, "unscaled attention"),
    "scale_attn_by_inverse_layer_idx": (False, "attention scaled by layer"),
    "add_cross_attention": (False, "cross-attention"),
}
# fields that choose the class, or that a published model has no need of: dropout is for training,
# and a model of several vocabularies goes out with the rows of one
OTHER_FIELDS = ("arch", "bias", "exact_gelu", "n_kv_head", "dropout", "vocab_sizes", "head_dim",
                "qk_norm", "rope_theta")

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
    if config.arch == "gpt2":
        return "GPT2LMHeadModel"
    return "Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"


def config_json(config):
    """The dict of config.json, less what concerns the tokenizer and the dtype."""
    name = class_of(config)
    model_type, keys, others = CLASSES[name]
    fixed = {key: REFUSED[key][0] for key in others}
    if unknown := {field.name for field in fields(config)} - {*keys, *OTHER_FIELDS}:
        raise UserError(f"export.py does not know {', '.join(sorted(unknown))} of GPTConfig, which "
                        f"another model.py has added. Add it to training/layouts.py")
    sizes = {key: getattr(config, field) for field, key in keys.items()}
    held = {"architectures": [name], "model_type": model_type, **sizes, **fixed}
    if config.arch == "gpt2":  # the tanh formula of GELU, or the exact one
        return {**held, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
                "activation_function": "gelu_new" if not config.exact_gelu else "gelu"}
    rope = {"rope_type": "default", "rope_theta": config.rope_theta}
    # rope_theta twice: transformers 4 and vLLM read the first, transformers 5 the second
    return {**held, "attention_dropout": 0.0, "rope_theta": config.rope_theta,
            "rope_parameters": rope}


def config_of_json(held, path):
    """The GPTConfig that is equal to the model of a config.json, which was read from path.

    Its block_size is the number of positions. Raises UserError that names what our blocks lack.
    """
    stated = held.get("architectures") or [held.get("model_type")]
    name = next((name for name, (kind, *_) in CLASSES.items() if stated in ([name], [kind])), None)
    if name is None:
        raise UserError(f"{path} describes a model of the class {printable(str(stated)[1:-1])}. "
                        f"These can be read: {', '.join(CLASSES)}")

    def refuse(what, key, value):
        raise UserError(f"{path} asks for {what} ({key} {printable(json.dumps(value))}), which "
                        f"model.py does not have")
    for key, (ours, what) in REFUSED.items():
        if held.get(key) not in (None, ours):
            refuse(what, key, held[key])
    if any(kind != "full_attention" for kind in held.get("layer_types") or ()):
        refuse("sliding windows", "layer_types", held["layer_types"])
    theta = held.get("rope_theta")
    for key in ("rope_scaling", "rope_parameters"):
        rope = held.get(key) or {}
        plain = isinstance(rope, dict) and rope.keys() <= {"rope_type", "type", "rope_theta"}
        if not plain or {*rope.values()} - {"default", rope.get("rope_theta")}:
            refuse("scaled rotary positions", key, rope)
        theta = rope.get("rope_theta", theta)
    sizes = {"rope_theta": theta}
    sizes |= {field: held.get(key) for field, key in CLASSES[name][1].items()}
    sizes = {field: OF_CLASS[name].get(field) if value is None else value
             for field, value in sizes.items()}
    sizes["n_kv_head"] = sizes.get("n_kv_head") or sizes["n_head"]
    if name == "GPT2LMHeadModel":
        act = held.get("activation_function", "gelu_new")
        if act not in ("gelu_new", "gelu_pytorch_tanh", "gelu"):
            refuse("another activation", "activation_function", act)
        sizes |= {"arch": "gpt2", "bias": True, "exact_gelu": act == "gelu"}
    sizes["qk_norm"] = name != "LlamaForCausalLM"
    return _checked(sizes, CLASSES[name][1], path)


def _checked(sizes, keys, path):
    """GPTConfig(**sizes), or UserError where a size is missing or fits no model."""
    optional = [field for field, value in sizes.items() if value is None and field in LEFT_OUT]
    for field, value in sizes.items():
        if field not in optional and not MODEL_ARGS[field](value):
            raise UserError(f"{path} is damaged: it has no usable {keys.get(field, field)} "
                            f"({printable(repr(value))})")
    width, heads = sizes["n_embd"], sizes["n_head"]
    head_dim = sizes.get("head_dim") or width / heads
    is_modern = sizes.get("arch") != "gpt2"
    if head_dim % (2 if is_modern else 1) or heads % sizes["n_kv_head"]:
        raise UserError(f"{path} is damaged: {heads} heads ({sizes['n_kv_head']} of keys and "
                        f"values) of {head_dim:g} channels each fit no model")
    return GPTConfig(**{field: float(value) if field in ("rope_theta", "norm_eps") else value
                        for field, value in sizes.items() if field not in optional})


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
    if name == "lm_head.weight":  # if tied, wte is the head too
        if not config.tied_head:
            yield name, weight
        return
    if ".h." in name and weight.dim() == 2:
        weight = weight.T  # the published matrices are stored (in, out), ours (out, in)
    yield name, weight
    if not config.bias and name.endswith("weight") and not re.search(r"\.w[tp]e\.", name):
        yield f"{name.removesuffix('weight')}bias", torch.zeros(weight.size(-1))


def _in_llama(config, name, weight):
    if name == "lm_head.weight" and config.tied_head:
        return
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
