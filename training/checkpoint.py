"""A checkpoint of train.py, whoever wrote it: read, and checked before anything is made of it.

    load_checkpoint(path)                  the dict, whole and plain, or UserError
    config_of(checkpoint, path)            its model's sizes, with which arguments and weights agree
    take_state(checkpoint, path, model)    its weights and the optimizer's state, where they fit

Nothing but tensors and plain values is read, and no code is run. The zip's own CRC of each record
is compared first: torch does not, and would load a flipped bit as another weight.
"""

import collections
import difflib
import errno
import math
import os
import warnings
import zipfile
from pathlib import Path

import torch

from model import GPT, GPTConfig
from pipeline.errors import UserError, printable
from pipeline.files import open_regular
from pipeline.read.meta import (
    MAX_BYTES,
    OF_SPLITS,
    STEPS_OF_TENSORS,
    check_meta,
    check_opcodes,
    check_tree,
    dict_of,
    whole,
    word,
    wrong_keys,
)

VOCABULARIES = 4  # as many large ones as a checkpoint may hold
SAMPLED = ("model", "model_args", "args", "metas", "iter_num")
RESUMED = (*SAMPLED, "optimizer", "scaler", "best_val_loss", "seconds", "data", "evaluated")


def _state(value):
    """Whether it is a dict of names and of tensors that lie in memory as plain numbers."""
    return isinstance(value, dict) and all(
        type(k) is str
        and type(t) is torch.Tensor
        and t.layout is torch.strided
        and t.device.type == "cpu"
        and not t.is_quantized
        for k, t in value.items()
    )


def _number(value):
    return type(value) in (int, float) and not math.isnan(value)


count = whole(1, 2**32)
MODEL_ARGS = {
    "block_size": (count, ""),
    "vocab_size": (count, ""),
    "arch": (("modern", "gpt2").__contains__, ""),
    "vocab_sizes": (lambda value: type(value) is tuple and all(map(count, value)), ""),
    "n_layer": (count, ""),
    "n_head": (count, ""),
    "n_kv_head": (count, ""),
    "n_embd": (count, ""),
    "n_hidden": (count, ""),
    "dropout": (lambda value: _number(value) and 0 <= value < 1, ""),
    "bias": (lambda value: type(value) is bool, ""),
}
KEYS = {  # of a checkpoint: (whether a value will do, what it must be)
    "model": (_state, "a dict of tensors"),
    "model_args": (
        lambda value: (
            type(value) is dict
            and not wrong_keys(value, MODEL_ARGS)
            and set(value) <= set(MODEL_ARGS)
        ),
        "the sizes of a model",
    ),
    "args": (
        lambda value: type(value) is dict and {*map(type, value)} <= {str},
        "a dict of arguments",
    ),
    "metas": (lambda value: type(value) is dict and all(map(word, value)), "a dict of datasets"),
    "iter_num": (whole(0, 2**63 - 1), "a whole number"),
    "best_val_loss": (_number, "a number"),
    "seconds": (lambda value: _number(value) and 0 <= value < math.inf, "a number, 0 or more"),
    "evaluated": (dict_of({str}, {int, float}), "a dict of numbers"),
    "data": (
        lambda value: type(value) is dict and all(map(OF_SPLITS, value.values())),
        "a dict of datasets and hashes",
    ),
    "scaler": (dict_of({str}, {int, float}), "a dict of numbers"),
    "order_version": (whole(1, 2**63 - 1), "a whole number"),
    "starts": (dict_of({str}, {int}), "a dict of ids"),
    "optimizer": (
        lambda value: type(value) is dict and not wrong_keys(value, OPTIMIZER, tuple(OPTIMIZER)),
        "its state",
    ),
}
OPTIMIZER = {
    "num_steps": (whole(0, 2**63 - 1), ""),
    "state": (lambda value: type(value) is list and all(map(_state, value)), ""),
}


def load_checkpoint(path, needed=SAMPLED):
    """The dict that save_checkpoint wrote. needed: the keys that it must have.

    Raises UserError or FileNotFoundError.
    """
    runs = [
        str(found.parent) for found in Path("out").glob("*/ckpt.pt") if found.parent != path.parent
    ]
    near = difflib.get_close_matches(str(path.parent), runs, n=1, cutoff=0)
    if not path.exists():
        do = (
            f"Did you mean --out_dir={near[0]}?"
            if near
            else "Train first: python train.py, or name the run: --out_dir=..."
        )
        raise FileNotFoundError(f"{path} not found. {do}")
    instead = f"Take another run{f', such as --out_dir={near[0]}' if near else ''}, or train anew"
    with open_regular(path) as file:
        try:
            check_records(file)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch has to say of a stranger's file
                checkpoint = torch.load(file, map_location="cpu", weights_only=True)
            check_tree(checkpoint if isinstance(checkpoint, dict) else {}, VOCABULARIES)
        except Exception as error:  # a damaged file can raise almost anything
            refuse_lack_of(error, path)
            why = f": {printable(str(error))}" if isinstance(error, ValueError) else ""
            said = f"{type(error).__name__}{why}"
            raise UserError(
                f"{path} is no checkpoint of train.py: it is damaged, or holds more than tensors "
                f"and plain values; nothing of that was run ({said}). {instead}"
            ) from None
    held = checkpoint if isinstance(checkpoint, dict) else {}
    if lacking := [key for key in needed if key not in held]:
        raise UserError(f"{path} is no checkpoint of this train.py: it lacks {', '.join(lacking)}")
    if wrong := wrong_keys(held, KEYS):
        raise UserError(f"{path} is damaged: its {wrong[0]} must be {KEYS[wrong[0]][1]}. {instead}")
    for name, meta in held["metas"].items():
        check_meta(meta, f"{path}, of dataset {name},", instead)
    return checkpoint


def refuse_lack_of(error, path):
    """Raises UserError where an error of reading is the disk's or the memory's, and no damage."""
    of_damage = (None, errno.EINVAL)  # a seek that a damaged file asks for
    if isinstance(error, OSError) and error.errno not in of_damage:
        raise UserError(f"{path} could not be read: {error.strerror}") from None
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        raise UserError(
            f"{path} needs more memory than there is. Free some, or end other programs, and run "
            f"the same command again"
        ) from None


def check_records(file):
    """Raises unless a file is a zip as torch.save() writes it, each record with its CRC."""
    with zipfile.ZipFile(file) as records:
        infos = records.infolist()
        packed = any(info.compress_type != zipfile.ZIP_STORED for info in infos)
        if packed or sum(info.file_size for info in infos) > os.fstat(file.fileno()).st_size:
            raise ValueError("its records are compressed, or larger than the file")
        pickled = [info for info in infos if info.filename.endswith("/data.pkl")]
        if len(pickled) != 1 or pickled[0].file_size > VOCABULARIES * MAX_BYTES:
            raise ValueError(
                f"{len(pickled)} records of values, or more than {VOCABULARIES * MAX_BYTES:,} "
                f"bytes of them"
            )
        if bad := records.testzip():
            raise ValueError(f"the record {bad} is not what was written")
        check_opcodes(records.read(pickled[0]), STEPS_OF_TENSORS, VOCABULARIES)


def config_of(checkpoint, path):
    """The GPTConfig of a checkpoint. Raises UserError where its sizes are no model's, or its
    arguments or its weights have others."""
    held, args, weights = checkpoint["model_args"], checkpoint["args"], checkpoint["model"]
    for name, value in held.items():
        if args.get(name) is not None and args[name] != value:
            raise UserError(
                f"{path} is damaged: {name} is {printable(str(args[name]))} in its arguments, "
                f"{value} in its model"
            )
    config = collections.ChainMap(
        held, {name: f.default for name, f in GPTConfig.__dataclass_fields__.items()}
    )
    pair = 2 if config["arch"] == "modern" else 1  # rotary positions turn channels in pairs
    heads = config["n_head"] * pair
    sizes = config["vocab_sizes"] or (config["vocab_size"],)
    if (
        config["n_embd"] % heads
        or config["n_head"] % config["n_kv_head"]
        or sum(sizes) != config["vocab_size"]
        or config["n_layer"] > len(weights)
        or args.get("training_mode") not in ("single", "multidataset", "multicontext")
    ):
        raise UserError(f"{path} is damaged: the sizes that it states are no model's")
    vocabularies = [meta["vocab_size"] for meta in checkpoint["metas"].values()]
    if len(vocabularies) != len(sizes) or any(own > size for own, size in zip(vocabularies, sizes)):
        raise UserError(
            f"{path} is damaged: its model has vocabularies of {', '.join(map(str, sizes))} ids, "
            f"its datasets {', '.join(map(str, vocabularies))}"
        )
    config = GPTConfig(**held)
    with torch.device("meta"):  # shapes alone: the file decides what memory is asked for
        refuse_other_shapes(GPT(config).state_dict(), weights, path)
    return config


def take_state(checkpoint, path, model, optimizer=None):
    """Load the weights, and the optimizer's state. Raises UserError where they do not fit."""
    refuse_other_shapes(model.state_dict(), checkpoint["model"], path)
    model.load_state_dict(checkpoint["model"])
    if optimizer:

        def named(states):
            return {
                f"{name} of parameter {i}": tensor
                for i, state in enumerate(states)
                for name, tensor in state.items()
            }

        own, given = optimizer.state_dict(), checkpoint["optimizer"]
        refuse_other_shapes(named(own["state"]), named(given["state"]), path)
        if given["num_steps"] > checkpoint["iter_num"]:
            raise UserError(
                f"{path} is damaged: its optimizer has taken {given['num_steps']:,} steps in "
                f"{checkpoint['iter_num']:,} iterations"
            )
        optimizer.load_state_dict(given)


def refuse_other_shapes(own, given, path):
    """Raises UserError unless two dicts have the same tensors, by name, shape and type, and the
    given ones are finite."""
    for name in (*own, *given):
        a, b = (
            f"{tuple(t.shape)} {t.dtype}".replace("torch.", "")
            if (t := state.get(name)) is not None
            else "missing"
            for state in (own, given)
        )
        if a != b:
            raise UserError(
                f"{path} is damaged: {printable(name)} is {b}; a model of its sizes has {a}"
            )
        if not given[name].isfinite().all():
            raise UserError(f"{path} is damaged: {printable(name)} has numbers that are not finite")
