"""A checkpoint: what it holds, how it is written, and how it is read again. Its keys have their one
home here.

    pack(run)                              the dict that save() writes
    save(run, is_best)                     out_dir/ckpt.pt, and best.pt
    load_checkpoint(path)                  the dict, complete and plain, or UserError
    config_of(checkpoint, path)            its model's sizes, compared with arguments and weights
    empty_model(config)                    a model whose weights are to be loaded
    take_state(checkpoint, path, model)    its weights, and the optimizer's state
    read_run(out_dir)                      the checkpoint of a run, and its model's sizes
    load_run(out_dir)                      the model of a run, with what sampling needs
    resume(run, checkpoint, path)          all of that, and the position, into a run

A checkpoint may come from a stranger. So only tensors and plain values are read, and no code is
run. torch.load does not compare the CRC of a record, and would load a flipped bit as another
weight; check_records() compares it first. """
import difflib
import errno
import math
import os
import shlex
import shutil
import warnings
import zipfile
from dataclasses import asdict, fields
from pathlib import Path

import torch

from model import ARCHS, GPT, GPTConfig
from pipeline.errors import UserError, printable
from pipeline.files import open_regular, put_in_place, replacing
from pipeline.read import meta
from pipeline.read.sampler import TRANSITIONS
from training.run_folder import ALWAYS, CSV_COLUMNS, audit_command, near_run, resume_command

# 1: the optimizer's state was a list in an order of its own
# 2: model_args had none of the five fields that _model_args_of_format_2() adds
# 3: the shares of a mixture could not change, so there was no history
FORMAT = 4
SEGMENT = ("first", "members", "places", "weights", "final", "method", "length")
VOCABULARIES = 4  # a checkpoint may hold as many large vocabularies as this
SAMPLED = ("model", "model_args", "args", "metas", "iter_num")
RESUMED = (*SAMPLED, "optimizer", "scaler", "best_val_loss", "seconds", "data", "evaluated")


# ---- the keys


def _is_tensor(value):
    """Whether this is a tensor that lies in memory as plain numbers."""
    return (type(value) is torch.Tensor and value.layout is torch.strided
            and value.device.type == "cpu" and not value.is_quantized)


def _is_number(value):
    return type(value) in (int, float) and not math.isnan(value)


def _is_optimizer(value):
    """Whether this has the shape of Optimizer.state_dict()."""
    return (type(value) is dict and value.keys() == {"state", "param_groups"}
            and type(value["state"]) is dict and type(value["param_groups"]) is list
            and list(value["state"]) == list(range(len(value["state"])))
            and all(map(IS_STATE, value["state"].values())))


def _is_history(value):
    """Whether these are segments of history.py, in their order, that fractions can be made of."""
    segment = meta.dict_with(dict(
        first=position, members=meta.list_of({str}), places=meta.list_of({str}),
        weights=_are_weights, final=meta.or_none(_are_weights),
        method=meta.or_none(TRANSITIONS.__contains__), length=meta.or_none(count)), SEGMENT)
    firsts = [-1]
    for held in value if type(value) is list else [None]:
        if not segment(held) or held["first"] <= firsts[-1] or not held["members"]:
            return False
        if any(len(held[name]) != len(held["members"]) for name in ("places", "weights", "final")
               if held[name] is not None):
            return False
        if held["final"] and not (held["method"] and held["length"]):
            return False
        firsts.append(held["first"])
    return len(firsts) == 1 or firsts[1] == 0


def _are_weights(value):
    return meta.list_of({float})(value) and all(0 < x < math.inf for x in value)


def _is_since(value):
    counts = dict.fromkeys(("learned", "steps", "iters"), position)
    return value == {} or meta.dict_with({"loss": _is_number, **counts}, ("loss", *counts))(value)


def _is_row(value):
    return not value or {*ALWAYS} <= value.keys() <= {*CSV_COLUMNS}


def _is_model_args(value):
    return meta.dict_with(MODEL_ARGS)(value) and value.keys() <= MODEL_ARGS.keys()


IS_STATE = meta.dict_where(meta.of(str), _is_tensor)
count, position = meta.whole(1, 2**32), meta.whole(0, 2**63 - 1)
OF_TYPE = {  # of a field of GPTConfig: whether a value will do
    int: count, int | None: count, bool: meta.of(bool), str: meta.word,
    tuple: lambda value: type(value) is tuple and all(map(count, value)),
    bool | None: meta.of(bool),
    float: lambda value: _is_number(value) and 0 <= value < 1,  # dropout is a probability
    float | None: lambda value: _is_number(value) and 0 < value < math.inf,
}
MODEL_ARGS = {field.name: OF_TYPE[field.type] for field in fields(GPTConfig)}
MODEL_ARGS["arch"] = ARCHS.__contains__
MODEL_ARGS["rope_theta"] = OF_TYPE[float | None]
KEYS = {  # key of a checkpoint: (whether a value will do, what it must be)
    "format": (position, "a whole number"),
    "model": (IS_STATE, "a dict of tensors"),
    "model_args": (_is_model_args, "the sizes of a model"),
    "optimizer": (_is_optimizer, "the state of an optimizer"),
    "scaler": (meta.dict_of({str}, {int, float}), "a dict of numbers"),
    "args": (meta.dict_where(meta.of(str)), "a dict of arguments"),
    "metas": (meta.dict_where(meta.word), "a dict of datasets"),
    "starts": (meta.dict_of({str}, {int}), "a dict of ids"),
    "data": (meta.dict_where(meta.of(str), meta.OF_SPLITS), "a dict of datasets and hashes"),
    "order_version": (meta.whole(1, 2**63 - 1), "a whole number"),
    "iter_num": (position, "a whole number"),
    "batch": (lambda value: meta.list_of({int})(value) and len(value) == 2
              and all(map(count, value)), "two whole numbers"),
    "history": (_is_history, "a list of segments"),
    "best_val_loss": (_is_number, "a number"),
    "evaluated": (meta.dict_of({str}, {int, float}), "a dict of numbers"),
    "unevaluated": (meta.dict_of({str}, {int, float}, _is_row), "a row of log.csv"),
    "since": (_is_since, "four numbers"),
    "stale": (position, "a whole number"),
    "seconds": (lambda value: _is_number(value) and 0 <= value < math.inf, "a number, 0 or more"),
}


def pack(run):
    """The checkpoint of a run: all that a later process needs to go on, or to sample."""
    return {
        "format": FORMAT,
        "model": run.model.state_dict(),
        "model_args": asdict(run.model.config),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.scaler.state_dict(),
        "args": vars(run.args),
        "metas": run.mixture.metas,  # the tokenizers, so that sample.py needs no data
        "starts": run.starts,  # the token that a sample without a prompt begins with, by dataset
        "data": run.mixture.fingerprint(),  # a resumed run must find the same bins
        "order_version": run.mixture.order_version,
        "iter_num": run.iter_num,  # finished iterations, which is the whole position in the data
        # what the order counts in: rows of a batch, batches an iteration
        "batch": [run.mixture.batch_size, run.mixture.steps],
        "history": run.mixture.history,  # the shares of a mixture's members so far
        "best_val_loss": run.best_val_loss,
        "evaluated": run.evaluated,  # the last evaluation's columns of log.csv
        # the row of log.csv of an evaluation that a signal has ended
        "unevaluated": {name: v for name, v in run.unevaluated.items() if v is not None},
        "since": run.since,  # of a checkpoint between two lines of log.csv: what the next one adds
        "stale": run.stale,  # evaluations since the best one
        "seconds": run.seconds,
    }


# ---- writing


def save(run, is_best=False):
    """Replace ckpt.pt, and best.pt too when is_best. A kill at any moment leaves the earlier files
    complete. Every rank calls this; rank 0 writes."""
    if not all(p.isfinite().all() for p in run.model.parameters()) or math.isnan(run.best_val_loss):
        refuse_not_finite(f"the weights are not finite after iteration {run.iter_num:,}",
                          run.out_dir, run.iter_num)
    run.ranks.from_first(lambda: save_checkpoint(run.out_dir, pack(run), is_best))


def save_checkpoint(out_dir, state, is_best):
    path, link = out_dir / "ckpt.pt", out_dir / "best.pt.tmp"
    try:
        link.unlink(missing_ok=True)  # left by a run that was killed
        with replacing(path) as file:
            torch.save(state, file)
            file.flush()
            if is_best:  # the same bytes under a second name, so that the two never disagree
                os.fsync(file.fileno())
                try:  # Windows cannot rename a link to a file that is open, so it copies
                    (shutil.copyfile if os.name == "nt" else os.link)(file.name, link)
                except OSError:  # this file system has no hard links
                    shutil.copyfile(file.name, link)
                put_in_place(link, out_dir / "best.pt")
    except (OSError, RuntimeError) as error:  # torch reports a failed write as a RuntimeError
        reason = getattr(error, "strerror", None) or "the write failed"
        kept = "There is no earlier checkpoint. Free some space and start again"
        if path.exists():
            kept = (f"The checkpoint from before is kept. Free some space, then run: "
                    f"{resume_command(out_dir)}")
        raise UserError(f"could not write {path}: {reason}. The disk may be full. {kept}") from None


def refuse_not_finite(what, out_dir, iters):
    """iters: what --iter of audit.py is to show, such as "7" or "1 --to 10"."""
    kept = "There is no checkpoint yet"
    if (out_dir / "ckpt.pt").exists():
        kept = "The last checkpoint there is from before that and is kept"
    raise UserError(f"{what} in {out_dir}. {kept}. Try lower learning rates. To see what was read "
                    f"there, run: {audit_command(out_dir)} --iter {iters}")


# ---- reading


def load_checkpoint(path, needed=SAMPLED, mapped=False):
    """The dict that pack() made; one of an older format is brought up to date.

    needed: the keys that it must have. mapped: whether the tensors stay in the file until they are
    used, which saves the memory of the optimizer's. Raises UserError or FileNotFoundError.
    """
    return checked(*read_values(path, mapped), path, needed)


def read_values(path, mapped=False):
    """(the dict in a file of torch.save(), what to do where it is not usable), in plain values and
    tensors of which nothing else is known."""
    out_dir = path.parent if path.name in ("ckpt.pt", "best.pt") else path
    near = near_run(out_dir)
    if not path.exists():
        do = "Train first: python train.py; or name the run: --out_dir=..."
        if near and near != out_dir:
            do = f"Did you mean --out_dir={shlex.quote(str(near))}?"
        raise FileNotFoundError(f"{path} not found. {do}")
    instead = _instead(path, near)
    checkpoint = _read(path, instead, mapped)
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path} was not written by train.py: it holds no dict. {instead}")
    return checkpoint, instead


def _instead(path, near):
    """What to do where the checkpoint in path is not usable. near: the run that may be meant."""
    other = path.with_name("ckpt.pt")
    aside = ""
    if path.name == "best.pt" and other.exists() and not other.samefile(path):
        aside = f"Move it away, so that {other} is used in its place, or "
    if near in (None, path.parent) and path.name in ("best.pt", "ckpt.pt"):
        others = [p.parent for p in Path("out").glob("*/ckpt.pt") if p.parent != path.parent]
        named = difflib.get_close_matches(str(path.parent), map(str, others), n=1, cutoff=0)
        near = named[0] if named else None
    such = f", such as --out_dir={shlex.quote(str(near))}" if near else ""
    return f"{aside}{'t' if aside else 'T'}ake another run{such}, or train anew"


def checked(checkpoint, instead, path, needed=SAMPLED):
    """What read_values() gives, as load_checkpoint() returns it."""
    if is_nanogpts(checkpoint):
        raise UserError(f"{path} was written by nanoGPT's train.py, which keeps no tokenizer. A "
                        f"new run can begin with its weights: python train.py --init_from={path}")
    version = checkpoint.setdefault("format", 1)
    version = version if type(version) is int else -1  # which KEYS refuses
    if version > FORMAT:
        raise UserError(f"{path} has format {version}, and this train.py reads formats up to "
                        f"{FORMAT}. Use the train.py that wrote it")
    if version == 1 and "optimizer" in checkpoint:
        checkpoint["optimizer"] = _optimizer_of_format_1(checkpoint["optimizer"])
    if version in (1, 2) and _is_model_args(checkpoint.get("model_args")):
        checkpoint["model_args"] = _model_args_of_format_2(checkpoint["model_args"])
    if lacking := [key for key in needed if key not in checkpoint]:
        raise UserError(f"{path} was not written by this train.py: it lacks {', '.join(lacking)}. "
                        f"{instead}")
    if wrong := meta.wrong_keys(checkpoint, KEYS):
        raise UserError(f"{path} is damaged: its {wrong[0]} must be {KEYS[wrong[0]][1]}. {instead}")
    for name, held in checkpoint["metas"].items():
        meta.check_meta(held, f"{path}, of dataset {name},", instead)
    return checkpoint


def is_nanogpts(checkpoint):
    """Whether read_values() gave a checkpoint of nanoGPT's train.py."""
    return {"model", "model_args", "config"} <= checkpoint.keys() and "metas" not in checkpoint


def _read(path, instead, mapped):
    with open_regular(path) as file:
        try:
            check_records(file)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns about details of foreign files
                checkpoint = torch.load(path if mapped else file, map_location="cpu", mmap=mapped,
                                        weights_only=True)
            meta.check_tree(checkpoint if isinstance(checkpoint, dict) else {}, VOCABULARIES)
            return checkpoint
        except Exception as error:  # a damaged file can raise almost anything
            refuse_lack_of(error, path)
            why = f": {printable(str(error))}" if isinstance(error, ValueError) else ""
            raise UserError(f"{path} could not be read as a checkpoint: it is damaged, or holds "
                            f"code (not run) "
                            f"({type(error).__name__}{why}). {instead}") from None


def _optimizer_of_format_1(saved):
    """The state_dict() of an optimizer from {"num_steps": n, "state": [tensors of each
    parameter]}."""
    names = {"momentum": "momentum_buffer", "mean": "exp_avg", "mean_of_squares": "exp_avg_sq"}
    try:
        step = torch.tensor(float(saved["num_steps"]))
        states = [{names[name]: tensor for name, tensor in held.items()} for held in saved["state"]]
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # which KEYS refuses
    for state in states:
        if "exp_avg" in state:
            state["step"] = step.clone()
    return {"state": dict(enumerate(states)), "param_groups": []}


def _model_args_of_format_2(held):
    """Those of a model of that time, when the architecture alone determined what these say."""
    sizes = {**vars(GPTConfig), **held}  # a dataclass has its defaults as attributes
    gpt2 = sizes["arch"] == "gpt2"
    return {**held, "head_dim": sizes["n_embd"] // sizes["n_head"] or 1, "tied_head": gpt2,
            "rope_theta": 10_000.0, "norm_eps": 1e-5 if gpt2 else 1e-6, "qk_norm": True}


def refuse_lack_of(error, path):
    """Raises UserError where the disk or the memory is at fault and the file may be fine."""
    of_damage = (None, errno.EINVAL)  # EINVAL: a seek to where a damaged file points
    if isinstance(error, OSError) and error.errno not in of_damage:
        raise UserError(f"{path} could not be read: {error.strerror}") from None
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        raise UserError(f"{path} needs more memory than is free. Stop other programs, then run the "
                        f"same command again") from None


def check_records(file):
    """Raises unless a file is a zip as torch.save() writes it, each record with its CRC."""
    with zipfile.ZipFile(file) as records:
        infos = records.infolist()
        packed = any(info.compress_type != zipfile.ZIP_STORED for info in infos)
        if packed or sum(info.file_size for info in infos) > os.fstat(file.fileno()).st_size:
            raise ValueError("its records are compressed, or larger than the file")
        pickled = [info for info in infos if info.filename.endswith("/data.pkl")]
        if len(pickled) != 1 or pickled[0].file_size > VOCABULARIES * meta.MAX_BYTES:
            raise ValueError(f"it has {len(pickled)} records of values, or more than "
                             f"{VOCABULARIES * meta.MAX_BYTES:,} bytes of them")
        if bad := records.testzip():
            raise ValueError(f"the record {bad} differs from what was written")
        meta.check_opcodes(records.read(pickled[0]), meta.STEPS_OF_TENSORS, VOCABULARIES)


def config_of(checkpoint, path):
    """The GPTConfig of a checkpoint. Raises UserError where its sizes fit no model, or differ from
    its arguments, its weights or its vocabularies."""
    held, args, weights = checkpoint["model_args"], checkpoint["args"], checkpoint["model"]
    for name, value in held.items():
        if args.get(name) is not None and args[name] != value:
            raise UserError(f"{path} is damaged: {name} is {printable(str(args[name]))} in its "
                            f"arguments and {value} in its model")
    sizes = {**vars(GPTConfig), **held}
    head_dim = sizes["head_dim"] or sizes["n_embd"] / sizes["n_head"]
    vocab_sizes = sizes["vocab_sizes"] or (sizes["vocab_size"],)
    # rotary positions turn channels in pairs
    if (head_dim % (2 if sizes["arch"] == "modern" else 1) or sizes["n_head"] % sizes["n_kv_head"]
            or sizes["arch"] == "gpt2" and head_dim * sizes["n_head"] != sizes["n_embd"]
            or sum(vocab_sizes) != sizes["vocab_size"] or sizes["n_layer"] > len(weights)
            or args.get("training_mode") not in ("single", "multidataset", "multicontext")):
        raise UserError(f"{path} is damaged: no model has the sizes that it states")
    own = [one["vocab_size"] for one in checkpoint["metas"].values()]
    if len(own) != len(vocab_sizes) or any(a > b for a, b in zip(own, vocab_sizes)):
        raise UserError(f"{path} is damaged: its model has vocabularies of {[*vocab_sizes]} ids, "
                        f"its datasets {own}")
    config = GPTConfig(**held)
    with torch.device("meta"):  # nothing is allocated before the shapes are known to be right
        refuse_other_tensors(GPT(config).state_dict(), weights, path)
    return config


def vocab_sizes_of(model_args):
    """The ids of each vocabulary of a model."""
    sizes = {**vars(GPTConfig), **model_args}  # as config_of() fills them in
    return [*sizes["vocab_sizes"]] or [sizes["vocab_size"]]


def empty_model(config, device="cpu"):
    """A GPT whose weights are to be loaded: to draw them first would take longer than to read."""
    with torch.device("meta"):
        model = GPT(config)
    try:
        model.to_empty(device=device)
    except (MemoryError, RuntimeError) as error:  # sizes are checked: only memory can be lacking
        raise UserError(f"a model of {model.num_params():,} parameters needs more memory than is "
                        f"free ({str(error)[:200]}). Stop other programs, then run the same "
                        f"command again") from None
    model.tie_and_make_tables()  # to_empty() has parted tied tables and emptied the others
    return model


def take_state(checkpoint, path, model, optimizer=None):
    """Load the weights, and the optimizer's state. Raises UserError where they do not fit."""
    refuse_other_tensors(model.state_dict(), checkpoint["model"], path)
    model.load_state_dict(checkpoint["model"])
    if optimizer is None:
        return

    def named(state_dict):
        return {f"{name} of parameter {number}": tensor
                for number, held in state_dict["state"].items() for name, tensor in held.items()}
    own, given = named(optimizer.state_dict()), named(checkpoint["optimizer"])
    refuse_other_tensors(own, given, path)
    steps = max((int(t) for name, t in given.items() if name.startswith("step ")), default=0)
    if steps > checkpoint["iter_num"]:
        raise UserError(f"{path} is damaged: its optimizer has taken {steps:,} steps in "
                        f"{checkpoint['iter_num']:,} iterations")
    optimizer.load_state_dict(checkpoint["optimizer"])


def resume(run, checkpoint, path):
    """Bring a new run to where the checkpoint was."""
    take_state(checkpoint, path, run.model, run.optimizer)
    if run.scaler.is_enabled() and checkpoint["scaler"]:
        run.scaler.load_state_dict(checkpoint["scaler"])
    for name in ("iter_num", "best_val_loss", "evaluated", "seconds"):
        setattr(run, name, checkpoint[name])
    run.unevaluated = checkpoint.get("unevaluated", {})  # older checkpoints have none of these
    run.since, run.stale = checkpoint.get("since", {}), checkpoint.get("stale", 0)


def best_checkpoint(out_dir):
    if out_dir.is_file():
        return out_dir
    path = out_dir / "best.pt"
    return path if path.exists() else out_dir / "ckpt.pt"


def read_run(out_dir):
    """(path, checkpoint, GPTConfig) of the run in out_dir: its best checkpoint, or else its
    latest. out_dir may be a checkpoint itself. The tensors lie in the file."""
    path = best_checkpoint(out_dir)
    checkpoint = load_checkpoint(path, mapped=True)
    return path, checkpoint, config_of(checkpoint, path)


def load_run(out_dir):
    """(model, metas, starts, training_mode) of the run in out_dir: its best
    checkpoint, or else its latest."""
    path, checkpoint, config = read_run(out_dir)
    model = empty_model(config)
    take_state(checkpoint, path, model)
    return model, checkpoint["metas"], checkpoint.get("starts"), checkpoint["args"]["training_mode"]


def load_same_checkpoint(out_dir, ranks):
    """The checkpoint to resume, the same one on all ranks. Where a run is looked at while it trains
    (--eval_only), it may save between their reads; then they read again."""
    while True:
        checkpoint = load_checkpoint(out_dir / "ckpt.pt", RESUMED)
        if ranks.all_have(checkpoint["iter_num"]):
            config_of(checkpoint, out_dir / "ckpt.pt")
            return checkpoint


def refuse_other_tensors(own, given, path):
    """Raises UserError unless both dicts have the same tensors, by name, shape and type, and the
    given ones are finite."""
    def shape(tensor):
        return "missing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"[:99]
    for name in (*own, *given):
        a, b = (shape(state.get(name)).replace("torch.", "") for state in (own, given))
        if a != b:
            raise UserError(f"{path} is damaged: {printable(name)} is {b}, and a model of its "
                            f"sizes has {a}")
        if not torch.stack(given[name].aminmax()).isfinite().all():  # both are NaN if one is
            raise UserError(f"{path} is damaged: {printable(name)} has numbers that are not finite")
