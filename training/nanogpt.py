"""A checkpoint of nanoGPT's train.py (github.com/karpathy/nanoGPT) -> weights to begin with.

    nanogpt_weights(checkpoint, path)      (its weights, the GPTConfig that they are of)

Its model is our arch gpt2, tensor by tensor, with the exact GELU. Its oldest versions had the tanh
formula, which a checkpoint does not tell: logits then differ in the third digit or so.
"""
import torch

from model import GPT, GPTConfig
from pipeline.errors import UserError, printable
from training.checkpoint import IS_STATE, MODEL_ARGS, refuse_other_tensors

SIZES = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
TABLES = ("transformer.wte.weight", "lm_head.weight")  # a row for each id


def nanogpt_weights(checkpoint, path):
    """checkpoint: what read_values() gives. vocab_size of the GPTConfig is the number of rows, of
    which some may be padding. Raises UserError."""
    weights, held = checkpoint["model"], checkpoint["model_args"]

    def refuse(why):
        raise UserError(f"{path} is damaged, or of a changed nanoGPT: {why}")
    if not IS_STATE(weights) or type(held) is not dict:
        refuse("it must hold a dict of tensors and one of sizes")
    if other := [name for name in held if name not in (*SIZES, "bias", "dropout")]:
        refuse(f"its model has a {printable(str(other[0]))}, and nanoGPT's model.py has none")
    held = {"bias": True, **held}  # the first versions could not do without
    if wrong := [name for name in (*SIZES, "bias") if not MODEL_ARGS[name](held.get(name))]:
        refuse(f"it has no usable {wrong[0]}")
    if held["n_embd"] % held["n_head"] or held["n_layer"] > len(weights):
        refuse("no model has the sizes that it states")
    # torch.compile() adds a prefix; older versions of torch needed the causal mask
    weights = {name.removeprefix("_orig_mod."): tensor for name, tensor in weights.items()
               if not name.endswith(".attn.bias")}
    wte, head = (weights.get(name, torch.empty(0)) for name in TABLES)
    config = GPTConfig(**{name: held[name] for name in (*SIZES, "bias")}, arch="gpt2",
                       n_kv_head=held["n_head"], exact_gelu=True, tied_head=torch.equal(wte, head))
    with torch.device("meta"):  # nothing is allocated before the shapes are known to be right
        own = GPT(config).state_dict()
    for name in TABLES:
        own[name] = own[name][: config.vocab_size]  # ours is padded
    refuse_other_tensors(own, weights, path)
    return weights, config
