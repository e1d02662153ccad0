"""Every flag of train.py, in groups. parse_args(argv) -> Namespace.

All bad values are reported together, in one message. A new flag is a row of FLAGS; the code that
uses it reads args.<flag>.
"""
import argparse
import contextlib
import difflib
import itertools
import math
import os
import shlex
import sys
from pathlib import Path

from pipeline.errors import Parser, UserError, optional, printable
from pipeline.files import read_text
from pipeline.read.folder import DATA, shown
from pipeline.read.sampler import SAMPLING_METHODS, TRANSITIONS

SCHEDULES = ("cosine", "linear", "constant")

# published models that have a short name here: https://huggingface.co/openai-community/<name>
GPT2 = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")


# ---- the types of flags: each turns the text of a value into the value, or says what it must be


def _checked(kind, holds, words):
    """kind(text) if holds(value); otherwise ArgumentTypeError("must be <words>")."""
    def parse(text):
        with contextlib.suppress(ValueError):
            value = kind(text)
            if holds(value):
                return value
        raise argparse.ArgumentTypeError(f"must be {words}")
    return parse


def _one_of(*names):
    return _checked(str.lower, names.__contains__, "one of " + ", ".join(names))


def _number(holds, words):
    return _checked(float, lambda x: math.isfinite(x) and holds(x), f"a number {words}")


def _several(kind):
    """A list of values: a b, or a,b, or "a b"."""
    return lambda text: [kind(word) for word in text.replace(",", " ").split()]


def boolean(text):
    return _checked(str.lower, ("true", "false").__contains__, "true or false")(text) == "true"


count = _checked(int, lambda n: n >= 1, "a whole number above 0")
threads = _checked(int, lambda n: 1 <= n <= 1024, "a whole number from 1 to 1024")
whole = _checked(int, lambda n: n >= 0, "a whole number, 0 or more")
seed = _checked(int, lambda n: 0 <= n < 2**63, "a whole number from 0 to 2**63 - 1")
positive = _number(lambda x: x > 0, "above 0")
not_negative = _number(lambda x: x >= 0, "that is 0 or more")
fraction = _number(lambda x: 0 <= x <= 1, "from 0 to 1")
below_one = _number(lambda x: 0 <= x < 1, "that is at least 0 and below 1")
probability = _number(lambda x: 0 < x <= 1, "above 0 and at most 1")


def dataset(text):
    """A name stays; a path becomes absolute, so that a resumed run finds it from anywhere."""
    path = os.path.abspath(text)
    if os.path.dirname(path) == str(DATA):
        text = os.path.basename(path)
    elif "/" in text or os.sep in text:
        return path
    if text == "template":
        raise argparse.ArgumentTypeError(
            "is the pattern of new datasets. Name another folder of data/, or a path with a slash")
    if text in ("", ".", ".."):
        raise argparse.ArgumentTypeError("must be a folder of data/, or a path with a slash")
    return text


def init_from(text):
    """A word of its own, a folder, or owner/name. What is there is looked up later: a run can be
    resumed after the folder that it began from has gone."""
    words = ("scratch", "resume", *GPT2)
    if text.lower() in words:
        return text.lower()
    if "/" not in text and os.sep not in text:
        if not os.path.exists(text):
            near = difflib.get_close_matches(text.lower(), words, n=1)
            if os.path.exists(os.path.join("out", text, "ckpt.pt")):
                near = [f"out/{text}"]
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise argparse.ArgumentTypeError(
                f"must be one of {', '.join(words)}, a folder, a checkpoint, or the owner/name of "
                f"a model of the Hugging Face hub{meant}")
        return f"./{text}"
    return text


SEVERAL = datasets, positives = _several(dataset), _several(positive)
METAVARS = {count: "N", threads: "N", str: "PATH", dataset: "NAME", datasets: "NAME"}  # else X

# the rows of each group: (name, type, default): help. None stands for no value, or for a default
# that depends on other flags, which _fill_in() puts in its place
FLAGS = {
    "data": {
        ("training_mode", _one_of("single", "multidataset", "multicontext"), "single"): (
            "single: one dataset; multidataset: a mixture of several; multicontext: several "
            "datasets read in parallel, token by token"),
        ("dataset", dataset, "shakespeare_char"): "a folder of data/, or a path with a slash",
        ("sampling_method", _one_of(*SAMPLING_METHODS), "random"): (
            "order of the windows: random (any window, with replacement), sequential (the text "
            "from start to end), without_replacement (each window once an epoch, in random order)"),
        ("batch_size", count, 64): "sequences in a micro-batch",
        ("block_size", count, 64): "context length: tokens in a sequence",
        ("first_block_size", count, None): (
            "context length in the first half of the run, in tokens; later doubled step by step "
            "up to block_size (default: block_size)"),
        ("documents", boolean, False): (
            "attention stays within a document, and positions start anew at each"),
        ("gradient_accumulation_steps", count, 1): (
            "micro-batches in an iteration, shared out among the processes of torchrun"),
    },
    "data: a mixture of datasets (--training_mode multidataset)": {
        ("dataset_list", datasets, None): "datasets of the mixture, all with the same tokenizer",
        ("dataset_sampling_probs", positives, None): (
            "weights: how much of each batch comes from each dataset (default: equal)"),
        ("dataset_sampling_alpha", not_negative, None): (
            "weight of each dataset: its number of tokens to this power (1: proportional to "
            "size; 0: equal)"),
        ("dataset_sampling_probs_final", positives, None): (
            "weights at the end, if they change during the run"),
        ("dataset_sampling_probs_transition_method", _one_of(*TRANSITIONS), None): (
            f"how the weights change to the final ones: {', '.join(TRANSITIONS)} "
            "(default: linear)"),
        ("dataset_sampling_probs_transition_iters", count, None): (
            "iteration at which the weights have reached the final ones (default: max_iters)"),
        ("max_epochs_per_dataset", positive, None): (
            "refuse a run that would read a dataset more than this many times"),
        ("multidataset_wte", boolean, None): (
            "give each dataset a vocabulary of its own, so that their tokenizers may differ"),
    },
    "data: aligned streams (--training_mode multicontext)": {
        ("multicontext_datasets", datasets, None): (
            "the streams: datasets of equal length, matched token by token"),
        ("multicontext_loss_weights", positives, None): (
            "weight of each stream's loss in the total loss (default: equal)"),
    },
    "model": {
        ("arch", _one_of("modern", "gpt2"), "modern"): (
            "modern: rotary positions, RMSNorm, SwiGLU; gpt2: GPT-2's architecture"),
        ("n_layer", count, 4): "layers",
        ("n_head", count, 4): "attention heads in a layer",
        ("n_kv_head", count, None): (
            "heads of keys and values, shared by groups of attention heads (default: n_head)"),
        ("n_embd", count, 128): "channels: the width of the model",
        ("n_hidden", count, None): (
            "channels inside the MLP (default: 4 n_embd with gpt2, else 8/3 n_embd, rounded up to "
            "a multiple of 64)"),
        ("dropout", below_one, 0.0): (
            "fraction of activations set to 0 in training; 0.1 to 0.3 helps if the text is read "
            "many times"),
        ("bias", boolean, None): (
            "for --arch gpt2: add biases and compute GELU by its tanh formula, as the published "
            "GPT-2 does"),
        ("exact_gelu", boolean, None): (
            "for --arch gpt2: compute GELU by its definition (always on without --bias, unless "
            "set to false)"),
        ("head_dim", count, None): (
            "for --arch modern: channels of one attention head (default: n_embd / n_head)"),
        ("tied_head", boolean, None): (
            "use one table for embedding and head (always on with --arch gpt2, unless set to "
            "false)"),
        ("rope_theta", positive, 10_000.0): (
            "for --arch modern: longest wavelength of rotary positions, in 2 pi tokens"),
        ("norm_eps", positive, None): (
            "number added to a mean square by norms (default: 1e-5 with gpt2, else 1e-6)"),
        ("qk_norm", boolean, True): "for --arch modern: norms on query and key",
    },
    "optimizer": {
        ("max_iters", count, 400): "iterations (optimizer steps) of the whole run",
        ("minutes", positive, None): (
            "in the place of max_iters: time some steps here, and choose sizes, learning rates and "
            "max_iters for a run that takes so long. Flags that are given stay"),
        ("hours", positive, None): "the same in hours",
        ("optimizer", _one_of("muon", "adamw"), "muon"): (
            "muon: Muon for matrices, AdamW for everything else; adamw: AdamW for everything"),
        ("learning_rate", positive, None): (
            "highest learning rate of AdamW (default: 0.02 with --optimizer muon, 0.002 with "
            "adamw, 3e-5 with published weights)"),
        ("muon_learning_rate", positive, None): (
            "highest learning rate of Muon (default: 0.05, or 1e-3 with published weights)"),
        ("muon_momentum", below_one, None): (
            "Muon's momentum: how much of the running mean of gradients is kept (default: 0.9)"),
        ("beta2", below_one, 0.99): (
            "AdamW's beta2: how much of the running mean of squared gradients is kept"),
        ("weight_decay", not_negative, 0.1): (
            "weight decay of matrices; with --optimizer adamw also of embeddings"),
        ("grad_clip", not_negative, 1.0): (
            "maximum norm of the gradient; a larger gradient is scaled down to it (0: no limit)"),
        ("warmup_iters", whole, 0): "iterations in which the learning rate rises to its highest",
        ("lr_schedule", _one_of(*SCHEDULES), "linear"): (
            "how the learning rate falls: cosine or linear; constant: it does not fall"),
        ("decay_share", fraction, 0.8): (
            "fraction of the run, at its end, in which the learning rate falls"),
        ("lr_decay_iters", count, None): (
            "iteration at which the learning rate has reached its minimum (default: max_iters)"),
        ("min_lr_share", fraction, 0.0): "final learning rate as a fraction of the highest",
    },
    "evaluation and logging": {
        ("patience", count, None): (
            "end the run after so many evaluations in a row that find no lower val loss"),
        ("save_minutes", not_negative, 5.0): (
            "minutes after which ckpt.pt is saved between two evaluations too; 0: never"),
        ("eval_interval", count, 200): (
            "iterations between evaluations; each evaluation also saves a checkpoint"),
        ("eval_iters", count, 30): "maximum number of batches of each split in an evaluation",
        ("eval_train", boolean, True): "evaluate on the train split as well as on val",
        ("eval_only", boolean, False): "evaluate once and end, without training",
        ("log_interval", count, 10): "iterations between progress lines",
        ("max_sample_tokens", whole, 300): "tokens of the sample printed at the end (0: no sample)",
        ("sample_every_eval", boolean, False): "print a sample at each evaluation too",
        ("tensorboard", boolean, False): (
            "write curves for TensorBoard (to see them: tensorboard --logdir out)"),
        ("wandb", boolean, False): (
            "send curves to Weights & Biases; the variable WANDB_PROJECT names the project"),
    },
    "run": {
        ("plan", boolean, False): (
            "only print what the run would read, how long it would take and what looks wrong"),
        ("out_dir", str, None): (
            "folder of the run (default: out/<dataset>; if that is taken, out/<dataset>-2, ...)"),
        ("init_from", init_from, "scratch"): (
            "scratch: new weights; resume: continue the run in out_dir, or else the newest run; "
            f"otherwise the weights to begin with: {', '.join(GPT2)}, the owner/name of a Qwen3 or "
            "Llama model of the Hugging Face hub, or a folder with a model or a run (also one of "
            "nanoGPT)"),
        ("overwrite", boolean, False): "replace the run in out_dir by this new one",
        ("seed", seed, 1337): "seed of the weights, the order of the data, and dropout",
        ("device", str, "auto"): "cpu, cuda, cuda:1, mps; auto: a GPU if there is one, else cpu",
        ("dtype", _one_of("auto", "float32", "bfloat16", "float16"), "auto"): (
            "number format: float32, bfloat16, float16; auto: bfloat16 where the processor has it"),
        ("num_threads", threads, None): "CPU threads (default: one for each available core)",
        ("compile", _one_of("auto", "true", "false"), "auto"): (
            "use torch.compile; auto: on CUDA (Linux), for a run of 2,000 iterations or 1e16 FLOPs"
        ),
    },
}
DEFAULTS = {name: default for rows in FLAGS.values() for name, _, default in rows}
LISTS = [f"--{name}" for rows in FLAGS.values() for name, kind, _ in rows if kind in SEVERAL]

# the flags that belong to one --training_mode only: their heading names it
MODE_FLAGS = {"single": ["dataset"]} | {
    mode: [name for heading, rows in FLAGS.items() if mode in heading for name, _, _ in rows]
    for mode in ("multidataset", "multicontext")}

# the flags that a resumed run cannot change: they determine the order of the data and the model
FROZEN = [*sum(MODE_FLAGS.values(), []), *(name for name, _, _ in FLAGS["model"]), *"""
    training_mode sampling_method batch_size gradient_accumulation_steps block_size
    first_block_size documents seed optimizer""".split()]
FROZEN.remove("max_epochs_per_dataset")
# what decides the shares of a mixture's members: a resumed run may change it from there on
SHARES = [name for name, _, _ in FLAGS["data: a mixture of datasets (--training_mode multidataset)"]
          if name.startswith("dataset_sampling")]
MEMBERS = ["training_mode", "dataset_list"]
FROZEN.remove("dropout")


# ---- reading a command line


def parse_args(argv=None, saved=None, sizes=None, iter_num=0):
    """argv (default: the command line) -> Namespace. Raises UserError that names all bad values.

    saved: the arguments in the checkpoint of a run to resume. They replace the defaults, and those
    in FROZEN cannot be given another value, but for members and shares of a mixture, which change
    from iteration iter_num on. sizes: the fields of GPTConfig of the model that
    --init_from names. As long as one of the two is needed and not given, each flag is checked by
    itself only: whether flags fit together depends on the checkpoint or the model.
    """
    problems = []
    given = _given(_with_files(sys.argv[1:] if argv is None else argv), problems)
    args = argparse.Namespace(**{**DEFAULTS, **given})
    if saved and not problems:
        _refuse_damaged(saved)
        # an older checkpoint lacks the newer flags
        saved = {name: saved.get(name, value) for name, value in DEFAULTS.items()}
        may_change = _may_change(saved, given)
        changed = [f"--{name} {_typed(given[name])} (the run has {_typed(saved[name])})"
                   for name in FROZEN if name not in may_change
                   and name in given and given[name] != saved[name]]
        if changed:
            raise UserError(
                f"the run in {saved['out_dir']} keeps its model and its data order, so these "
                f"flags cannot change: {', '.join(changed)}. Leave them out, name another run by "
                f"--out_dir, or start a new run{_with_its_weights(saved, given)}")
        args = argparse.Namespace(**{**saved, "overwrite": False, "num_threads": None, **given})
        if changes_mixture(args, saved):
            _take_shares(args, saved, given, iter_num)
    if sizes:
        _take_sizes(args, given, sizes, problems)
    _check_time(args, given, problems)
    if saved or sizes or args.init_from == "scratch":
        _check_combinations(args, given, problems)
        _check_mode(args, given, problems)
    if args.overwrite and args.init_from == "resume":
        problems.append("--overwrite and --init_from resume contradict each other")
    elif args.overwrite and not args.out_dir:
        problems.append("--overwrite needs --out_dir, the run to replace (without it, a new run "
                        "gets a folder of its own)")
    if problems:
        raise UserError("; ".join(problems) + ". See python train.py --help")
    _fill_in(args)
    return args


def given_flags(argv):
    """{flag: value} of the flags that a valid command line gives."""
    return _given(_with_files(sys.argv[1:] if argv is None else argv), [])


def typed_flags(flags):
    """The command line, a list of words, that gives these flags."""
    return [word for name, value in flags.items() for word in (
        [f"--{name}", *map(str, value)] if isinstance(value, list) else
        [f"--{name}={str(value).lower() if isinstance(value, bool) else value}"])]


def _with_its_weights(saved, given):
    """How to give a run another context length, if that is what was asked for."""
    size, before = given.get("block_size"), saved["block_size"]
    if size in (None, before) or saved["arch"] == "gpt2" and size > before:
        return ""  # learned positions end there
    return (f". A new one can begin with its weights: python train.py "
            f"--init_from={shlex.quote(str(saved['out_dir']))} --block_size={size}")


def _may_change(saved, given):
    """The flags in FROZEN that a run may change when it is resumed. Where data lie elsewhere, their
    hashes must be those of the run."""
    mode, may = saved["training_mode"], []
    new_mode = given.get("training_mode", mode)
    rows, steps = ([held[name] for held in (saved, {**saved, **given})]
                   for name in ("batch_size", "gradient_accumulation_steps"))
    if None not in rows + steps and rows[0] * steps[0] == rows[1] * steps[1]:
        may += ["batch_size", "gradient_accumulation_steps"]  # the same sequences
    if mode == new_mode == "single":
        may.append("dataset")
    if mode == new_mode == "multicontext":
        may.append("multicontext_datasets")
    if new_mode == "multidataset" and mode == "single" and given.get("dataset_list"):
        may += [*SHARES, *MEMBERS]
    if mode == new_mode == "multidataset":
        members = given.get("dataset_list") or ()
        # a vocabulary of its own cannot be added to the model
        fixed = saved["multidataset_wte"] and len(members) != len(saved["dataset_list"])
        may += SHARES if fixed else [*SHARES, *MEMBERS]
    return may


def changes_mixture(args, saved):
    """Whether the arguments of a resumed run name other members or shares than it was saved with.
    """
    return any(getattr(args, name) != saved.get(name) for name in (*SHARES, *MEMBERS))


def _take_shares(args, saved, given, iter_num):
    """Where members or shares change, the flags given now describe them, from iteration iter_num
    on. Weights of before stay where none are given and the members are as many."""
    if saved["dataset_list"] and len(args.dataset_list) == len(saved["dataset_list"]) and not any(
            name in given for name in SHARES):
        return  # the members may just lie elsewhere
    for name in SHARES:
        if "final" in name or "transition" in name:
            setattr(args, name, given.get(name))
    weights = [name for name in ("dataset_sampling_probs", "dataset_sampling_alpha")
               if name in given]
    if weights or args.dataset_list == saved["dataset_list"] and given.get(
            "dataset_sampling_probs_final"):  # with none given, they move from where they are
        for name in ("dataset_sampling_probs", "dataset_sampling_alpha"):
            setattr(args, name, given.get(name))
    if args.dataset_sampling_probs_final and args.dataset_sampling_probs_transition_iters is None:
        args.dataset_sampling_probs_transition_iters = max(1, args.max_iters - iter_num)


def _with_files(argv):
    """argv, with each @FILE replaced by the flags in that file, where # begins a comment."""
    words = []
    for word in argv:
        if word[:1] != "@":
            words.append(word)
            continue
        try:
            lines = read_text(word[1:]).splitlines()  # without a byte order mark or carriage return
            words += shlex.split("\n".join(lines), comments=True)
        except OSError:
            raise UserError(f"the file of flags {word[1:]} could not be read. Did you mean "
                            f"{_near_file(word[1:])}?") from None
        except ValueError as error:  # a quotation mark without its twin, or not UTF-8
            raise UserError(f"{word[1:]} could not be read as a file of flags, such as "
                            f"--max_iters=500: {error}") from None
    return words


def _near_file(name):
    """@ and the file in configs/ whose name is nearest, or all of them."""
    there = {path.stem: f"@{shown(path)}" for path in sorted(DATA.parent.glob("configs/*.args"))}
    name = Path(name.replace("\\", "/")).stem.removeprefix("train_")
    near = difflib.get_close_matches(name, there, n=1, cutoff=0.4)
    return there[near[0]] if near else " or ".join(there.values())


def _meant(word):
    """What somebody means by a word that is no flag: a dataset, a run, a file of flags; or None."""
    path = Path(word)
    if (DATA / word).is_dir() and word not in (".", ".."):
        return f"--dataset={word}"
    if any((path / name).exists() for name in ("meta.pkl", "prepare.py")):
        return f"--dataset={shlex.quote(word if '/' in word else f'./{word}')}"
    if (path / "ckpt.pt").exists():
        return f"--init_from=resume --out_dir={shlex.quote(word)}"
    if path.suffix == ".args" and path.is_file():
        return f"@{word}"
    if path.suffix in (".args", ".py", ".yaml", ".yml", ".json", ".toml", ".cfg"):
        return f"{_near_file(word)}, a file of flags, with @ before its name"
    return None


def _parser(problems):
    """The parser of all flags. It appends a bad value to problems, and reads it as None."""
    parser = Parser(
        prog="python train.py", usage="python train.py [@file.args ...] [--flag=value ...]",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=30),
        description="Train a GPT on a prepared dataset. Examples:\n\n"
                    "  python train.py                                # Tiny Shakespeare\n"
                    "  python train.py --dataset=mydata --n_layer=6   # your own text\n"
                    "  python train.py --init_from=resume             # resume the newest run\n\n"
                    "After each flag: its default, or N, X, NAME or PATH (the default is then in\n"
                    "parentheses). What is in [ ] may be left out. @configs/NAME.args reads\n"
                    "flags from a file; flags after it on the command line override them.")

    def type_of(name, kind):
        def parse(text):
            try:
                return kind(text)
            except argparse.ArgumentTypeError as error:
                problems.append(f"--{name} {text}: {error}")
        return parse

    for heading, rows in FLAGS.items():
        group = parser.add_argument_group(heading)
        for (name, kind, default), words in rows.items():
            options = {"nargs": "+"} if f"--{name}" in LISTS else {}
            if kind is boolean:  # --flag alone means --flag=true
                options = {"nargs": "?", "const": True}
            if name == "compile":
                options = {"nargs": "?", "const": "true"}
            default = False if default is None and kind is boolean else default
            shown_as = METAVARS.get(kind, "X") if default is None else str(default).lower()
            group.add_argument(f"--{name}", type=type_of(name, kind), default=argparse.SUPPRESS,
                               metavar=shown_as, help=words, **options)
    return parser


def _given(argv, problems):
    """{flag: value} of the flags in argv; what is wrong with them is appended to problems."""
    parser = _parser(problems)
    # argparse ends a list at "=": --flag=a b becomes --flag a b
    argv = [part for word in argv
            for part in (word.split("=", 1) if word.split("=")[0] in LISTS else [word])]
    given, unknown = parser.parse_known_args(argv)
    meant = {word: _meant(word) for word in unknown if not word.startswith("-") and _meant(word)}
    problems += [f"train.py has no flag {word} (did you mean {flag}?)"
                 for word, flag in meant.items()]
    problems += parser.no_flags([word for word in unknown if word not in meant])
    for value in vars(given).values():
        if isinstance(value, list):  # of lists, or of None for a bad one
            value[:] = itertools.chain(*filter(None, value))
    return vars(given)


def _typed(value):
    """A value as it is typed on a command line."""
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _refuse_damaged(saved):
    """Raise UserError unless a command line could have given the arguments of a checkpoint.

    Each argument is written as its flag and read again, so a damaged file is held to the same rules
    as a person.
    """
    stated = {name: saved[name] for name in DEFAULTS if saved.get(name) is not None}
    read = _given([f"--{name}={_typed(value)}" for name, value in stated.items()], [])
    wrong = [name for name, value in saved.items() if name in DEFAULTS and (
        type(value) is not type(read.get(name)) or value != read.get(name)
        or value is None and DEFAULTS[name] is not None and name != "dataset")]
    if wrong:
        raise UserError(f"the checkpoint is damaged: its {wrong[0]} is "
                        f"{printable(repr(saved[wrong[0]]))}, which --{wrong[0]} does not accept. "
                        f"Resume another run, or train anew")


DERIVED = """n_kv_head bias exact_gelu tied_head multidataset_wte learning_rate muon_learning_rate
    muon_momentum dataset_sampling_probs_transition_method
    dataset_sampling_probs_transition_iters""".split()


def _fill_in(args):
    """Replace None, in flags whose default depends on other flags, by its value."""
    def fill(name, value):
        if getattr(args, name) is None:
            setattr(args, name, value)

    finetunes = args.init_from not in ("scratch", "resume")
    muon = args.optimizer == "muon"
    fill("n_kv_head", args.n_head)
    fill("bias", False)
    fill("exact_gelu", not args.bias)
    fill("tied_head", args.arch == "gpt2")
    fill("multidataset_wte", False)
    # published weights need small changes
    fill("learning_rate", 3e-5 if finetunes else 0.02 if muon else 0.002)
    if muon:
        fill("muon_learning_rate", 1e-3 if finetunes else 0.05)
        fill("muon_momentum", 0.9)
    if args.dataset_sampling_probs_final:
        fill("dataset_sampling_probs_transition_method", "linear")
        # kept in the checkpoint: the run may be resumed with another max_iters, in the same order
        fill("dataset_sampling_probs_transition_iters", args.max_iters)
    if args.training_mode != "single":
        args.dataset = None


def own_settings(args):
    """The arguments of a run, a dict, without those that follow from others, such as the learning
    rates that an optimizer has by default."""
    derived = argparse.Namespace(**{**DEFAULTS, **args})
    for name in DERIVED:
        setattr(derived, name, None)
    with contextlib.suppress(TypeError, AttributeError):  # what a stranger's file may cause
        _fill_in(derived)
    return {name: value for name, value in args.items()
            if name not in DERIVED or value != getattr(derived, name)}


# ---- flags that do not fit together: each function appends what is wrong to problems


def _take_sizes(args, given, sizes, problems):
    """Replace default sizes and optimizer by those of the model that --init_from names."""
    source = f"--init_from {args.init_from}"
    for name in [name for name, _, _ in FLAGS["model"] if name != "dropout"]:
        if given.get(name) not in (None, sizes[name]):
            problems.append(f"--{name} {given[name]} does not fit {source}, which has "
                            f"{sizes[name]}")
        setattr(args, name, sizes[name])
    if sizes.get("is_run") and "block_size" not in given:
        args.block_size = sizes["block_size"]
    if args.arch == "gpt2" and args.block_size and args.block_size > sizes["block_size"]:
        problems.append(f"--block_size {args.block_size} does not fit {source}, which has "
                        f"{sizes['block_size']:,} positions: those of --arch gpt2 are learned, so "
                        f"there are no others")
    several = args.training_mode == "multicontext" or args.multidataset_wte
    if several and len(sizes["vocab_sizes"]) < 2:
        problems.append(f"{source} has one vocabulary, so it needs --training_mode single, or "
                        f"multidataset without --multidataset_wte")
    if "optimizer" not in given:
        args.optimizer = "adamw"


def _check_combinations(args, given, problems):
    """Sizes that do not divide, and flags that need another one. A value that was bad is None."""
    # rotary positions turn channels in pairs, so a head needs an even number of them
    unit, times = (2, "2 x ") if args.arch == "modern" else (1, "")
    if args.head_dim and args.head_dim % unit:
        problems.append(f"--head_dim {args.head_dim} must be even with --arch modern")
    if args.n_embd and args.n_head and not args.head_dim and args.n_embd % (unit * args.n_head):
        above = args.n_embd - args.n_embd % -(unit * args.n_head)
        problems.append(f"--n_embd {args.n_embd} must be a multiple of {times}--n_head "
                        f"{args.n_head} (such as {above})")
    if args.n_kv_head and args.n_head and args.n_head % args.n_kv_head:
        problems.append(f"--n_kv_head {args.n_kv_head} must divide --n_head {args.n_head}")
    first, full = args.first_block_size, args.block_size
    if first and full and (full % first or (full // first).bit_count() > 1):
        halves = [str(full >> k) for k in range(1, full.bit_length()) if full % (1 << k) == 0]
        remedy = f"choose one of {', '.join(halves)}" if halves else (
            "it is odd, so no value fits. Leave --first_block_size out")
        problems.append(f"--first_block_size {first} cannot be doubled up to --block_size {full}: "
                        f"{remedy}")
    if args.sample_every_eval and args.max_sample_tokens == 0:
        problems.append("--sample_every_eval needs a --max_sample_tokens above 0")
    for name in ("tensorboard", "wandb"):
        if getattr(args, name):
            try:
                optional(name, f"--{name}")
            except UserError as error:
                problems.append(str(error))
    for name, other, needed in (
            ("n_kv_head", "arch", "modern"), ("bias", "arch", "gpt2"),
            ("exact_gelu", "arch", "gpt2"),
            ("head_dim", "arch", "modern"), ("rope_theta", "arch", "modern"),
            ("qk_norm", "arch", "modern"),
            ("muon_learning_rate", "optimizer", "muon"), ("muon_momentum", "optimizer", "muon")):
        if given.get(name) is not None and getattr(args, other) not in (needed, None):
            problems.append(f"--{name} needs --{other} {needed}")


def _check_time(args, given, problems):
    """--minutes or --hours, which choose what other flags say."""
    flag = next((f"--{name}" for name in ("minutes", "hours") if given.get(name)), None)
    if not flag:
        return
    if args.init_from == "resume":
        problems.append(f"{flag} chooses the settings of a new run, and --init_from resume keeps "
                        f"those of its own. To train longer, raise --max_iters")
    problems += [f"{flag} and --{name} contradict each other: leave one out"
                 for name in ("max_iters", "lr_decay_iters", "eval_only", "hours")
                 if given.get(name) and f"--{name}" != flag]
    # what is chosen later fits what is given
    if "n_head" not in given:
        args.n_head = args.n_kv_head or 1
    if "n_embd" not in given and args.n_head:
        args.n_embd = 2 * args.n_head


def _check_mode(args, given, problems):
    """Flags that --training_mode needs, and flags of another mode."""
    mode = args.training_mode
    if mode is None:
        return
    problems += [f"--{name} needs --training_mode {other} (yours is {mode})"
                 for other, flags in MODE_FLAGS.items() if other != mode
                 for name in flags if given.get(name) is not None]
    if mode == "single":
        return
    lists = [name for name in MODE_FLAGS[mode] if f"--{name}" in LISTS]
    names, *weights = (getattr(args, name) for name in lists)
    if not names:
        problems.append(f"--training_mode {mode} needs --{lists[0]} with names of datasets")
        return
    problems += [f"--{lists[0]} names {name} twice"
                 for name in sorted({name for name in names if names.count(name) > 1})]
    told = " ".join(problems)  # a list with a bad value is shorter than what was typed
    problems += [f"--{name} has {len(w)} weights for {len(names)} datasets"
                 for name, w in zip(lists[1:], weights)
                 if w is not None and len(w) != len(names)
                 and f"--{name} " not in told and f"--{lists[0]} " not in told]
    if args.dataset_sampling_probs and args.dataset_sampling_alpha is not None:
        problems.append("--dataset_sampling_probs and --dataset_sampling_alpha both determine the "
                        "weights: leave one out")
    if not args.dataset_sampling_probs_final:
        problems += [f"--{name} needs --dataset_sampling_probs_final" for name in given
                     if name.startswith("dataset_sampling_probs_transition") and given[name]]
