"""Every flag of train.py, in groups. parse_args(argv) -> Namespace; all bad values are reported in one message."""
import argparse
import difflib
import math
import os
import shlex
import sys
from pathlib import Path

from pipeline.errors import Parser, UserError, optional, printable
from pipeline.read.folder import DATA, shown
from pipeline.read.sampler import SAMPLING_METHODS, TRANSITIONS

SCHEDULES = ("cosine", "linear", "constant")

# the published models, by name of --init_from: what they fix of GPTConfig
GPT2 = {name: dict(arch="gpt2", n_layer=n_layer, n_head=n_head, n_kv_head=n_head, n_embd=n_embd, n_hidden=4 * n_embd,
                   bias=True)
        for name, n_layer, n_head, n_embd in (("gpt2", 12, 12, 768), ("gpt2-medium", 24, 16, 1024),
                                              ("gpt2-large", 36, 20, 1280), ("gpt2-xl", 48, 25, 1600))}
GPT2_BLOCK_SIZE = 1024

# what a resumed run must leave as it was: the order of the data, and the shape of the model
FROZEN = ("training_mode", "dataset", "dataset_list", "dataset_sampling_probs", "dataset_sampling_probs_final",
          "dataset_sampling_probs_transition_method", "dataset_sampling_probs_transition_iters", "dataset_sampling_alpha",
          "multidataset_wte", "multicontext_datasets", "multicontext_loss_weights", "sampling_method", "batch_size",
          "gradient_accumulation_steps", "block_size", "first_block_size", "seed", "arch", "n_layer", "n_head", "n_kv_head",
          "n_embd", "n_hidden", "bias", "optimizer")

MODE_FLAGS = {  # the flags that belong to one --training_mode
    "single": ("dataset",),
    "multidataset": ("dataset_list", "dataset_sampling_probs", "dataset_sampling_probs_final",
                     "dataset_sampling_probs_transition_method", "dataset_sampling_probs_transition_iters",
                     "dataset_sampling_alpha", "max_epochs_per_dataset", "multidataset_wte"),
    "multicontext": ("multicontext_datasets", "multicontext_loss_weights"),
}


def _checked(kind, holds, words):
    """A type for a flag: kind(text) where holds(value), else ArgumentTypeError("must be <words>")."""
    def parse(text):
        try:
            value = kind(text)
            if holds(value):
                return value
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be {words}")
    return parse


def _choice(*names):
    return _checked(str.lower, names.__contains__, "one of " + ", ".join(names))


def _boolean(text):
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError("must be true or false") from None


count = _checked(int, lambda n: n >= 1, "a whole number above 0")
threads = _checked(int, lambda n: 1 <= n <= 1024, "a whole number from 1 to 1024")
whole = _checked(int, lambda n: n >= 0, "a whole number, 0 or more")
positive = _checked(float, lambda x: x > 0 and math.isfinite(x), "a number above 0")
not_negative = _checked(float, lambda x: x >= 0 and math.isfinite(x), "a number, 0 or more")
seed = _checked(int, lambda n: 0 <= n < 2**63, "a whole number, 0 or more, below 2**63")
portion = _checked(float, lambda x: 0 <= x <= 1, "a number from 0 to 1")
likelihood = _checked(float, lambda x: 0 < x <= 1, "a number above 0, up to 1")
share = _checked(float, lambda x: 0 <= x < 1, "a number from 0 up to, but not, 1")


def _dataset(text):
    """A name stays a name; a path to a folder becomes absolute, so that a resumed run finds it from anywhere."""
    path = os.path.abspath(text)
    if os.path.dirname(path) == str(DATA):
        text = os.path.basename(path)
    elif "/" in text or os.sep in text:
        return path
    if text in ("", ".", "..", "template"):
        raise argparse.ArgumentTypeError("must be a folder of data/, or a path with a slash in it")
    return text


def _with_files(argv):
    """argv, each @FILE replaced by the flags in it; # begins a comment there."""
    words = []
    for word in argv:
        try:
            words += shlex.split(Path(word[1:]).read_text(encoding="utf-8"), comments=True) if word[:1] == "@" else [word]
        except OSError:
            there = sorted(str(shown(path)) for path in DATA.parent.glob("configs/*.args"))
            near = difflib.get_close_matches(word[1:], there, n=1, cutoff=0.4) or there
            raise UserError(f"{word} names a file of flags, and it cannot be read. Did you mean "
                            f"{' or '.join(f'@{path}' for path in near)}?") from None
        except ValueError as error:  # a quotation mark without its twin; bytes that are no UTF-8
            raise UserError(f"{word[1:]} is no file of flags, as --max_iters=500 on a line: {error}") from None
    return words


def _parser(problems):
    parser = Parser(
        prog="python train.py", usage="python train.py [@file.args ...] [--flag=value ...]",
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=30),
        description="  python train.py                                     plays, by characters\n"
                    "  python train.py --dataset=mydata --max_iters=5000   your own text\n"
                    "  python train.py --init_from=resume                  go on with the newest run\n\n"
                    "Each flag is shown with its default. @configs/NAME.args reads flags from a file;\n"
                    "those behind it win.")
    group = None

    def flag(name, kind, default, help, many=False):
        def parse(text):
            try:
                return [kind(word) for word in text.replace(",", " ").split()] if many else kind(text)
            except argparse.ArgumentTypeError as error:
                problems.append(f"{name} {text}: {error}")
        # --flag, --flag=true, --flag=false; --flag a b, --flag="a b"
        switch = {"nargs": "+"} if many else {"nargs": "?", "const": True} if kind is _boolean else {}
        placeholder = {count: "N", threads: "N", str: "PATH", _dataset: "NAME",
                       _boolean: "true"}.get(kind, "X")
        metavar = placeholder if default is None else str(default).lower()
        group.add_argument(name, type=parse, default=default, help=help, metavar=metavar, **switch)

    group = parser.add_argument_group("data")
    flag("--training_mode", _choice(*MODE_FLAGS), "single", ", ".join(MODE_FLAGS))
    flag("--dataset", _dataset, "shakespeare_char", "a folder of data/, or a path with a slash in it")
    flag("--sampling_method", _choice(*SAMPLING_METHODS), "random", ", ".join(SAMPLING_METHODS))
    flag("--batch_size", count, 64, "sequences a micro-batch")
    flag("--block_size", count, 64, "tokens of context, the length of a sequence")
    flag("--first_block_size", count, None, "tokens of context at first, doubled later, up to block_size (default block_size)")
    flag("--gradient_accumulation_steps", count, 1, "micro-batches an iteration, shared by all ranks")

    group = parser.add_argument_group("data, --training_mode multidataset: windows of several datasets, mixed")
    flag("--dataset_list", _dataset, None, "the datasets; one tokenizer must have made all", many=True)
    flag("--dataset_sampling_probs", positive, None, "their shares of each batch, as any weights (default equal)", many=True)
    flag("--dataset_sampling_alpha", not_negative, None, "or shares by size: tokens to this power; 1 by size, 0 equal")
    flag("--dataset_sampling_probs_final", positive, None, "the weights that they move to in the run", many=True)
    flag("--dataset_sampling_probs_transition_method", _choice(*TRANSITIONS), None, f"how: {', '.join(TRANSITIONS)} "
         "(default linear)")
    flag("--dataset_sampling_probs_transition_iters", count, None, "iterations until they are there (default max_iters)")
    flag("--max_epochs_per_dataset", positive, None, "refuse a run that goes through one of them more often")
    flag("--multidataset_wte", _boolean, None, "a vocabulary for each, whatever its tokenizer (default false)")

    group = parser.add_argument_group("data, --training_mode multicontext: aligned streams, read together")
    flag("--multicontext_datasets", _dataset, None, "the streams, a token of each for a token of the first", many=True)
    flag("--multicontext_loss_weights", positive, None, "what the loss of each counts for (default equal)", many=True)

    group = parser.add_argument_group("model")
    flag("--arch", _choice("modern", "gpt2"), "modern", "modern (rotary, RMSNorm, SwiGLU, untied) or gpt2")
    flag("--n_layer", count, 4, "blocks")
    flag("--n_head", count, 4, "attention heads a block")
    flag("--n_kv_head", count, None, "heads of keys and values (default n_head)")
    flag("--n_embd", count, 128, "channels")
    flag("--n_hidden", count, None, "width inside the MLP (default 8/3 n_embd, up to a multiple of 64; gpt2: 4 n_embd)")
    flag("--dropout", share, 0.0, "share of activations dropped: 0 for much text, 0.1 to 0.3 for little")
    flag("--bias", _boolean, None, "gpt2: biases, and GELU by tanh, as published (default false)")

    group = parser.add_argument_group("optimizer")
    flag("--max_iters", count, 400, "iterations (optimizer steps) of the whole run")
    flag("--optimizer", _choice("muon", "adamw"), "muon", "muon (adamw on what is no matrix) or adamw alone")
    flag("--learning_rate", positive, None, "the highest of adamw (default 0.02 beside muon, 0.002 alone)")
    flag("--muon_learning_rate", positive, None, "the highest of muon (default 0.05)")
    flag("--muon_momentum", share, None, "decay of muon's mean of gradients (default 0.9)")
    flag("--beta2", share, 0.99, "adamw: decay of the mean of squared gradients")
    flag("--weight_decay", not_negative, 0.1, "on matrices; with adamw alone on embeddings too")
    flag("--grad_clip", not_negative, 1.0, "largest norm of the gradient; 0 to let it be")
    flag("--warmup_iters", whole, 0, "iterations over which the learning rates rise")
    flag("--lr_schedule", _choice(*SCHEDULES), "linear", "how they fall: cosine, linear, constant (not)")
    flag("--decay_share", portion, 0.8, "share of the run, its end, in which they fall")
    flag("--lr_decay_iters", count, None, "when they have fallen (default max_iters)")
    flag("--min_lr_share", portion, 0.0, "share of them that is left at the end")

    group = parser.add_argument_group("evaluation and logging")
    flag("--eval_interval", count, 200, "iterations between evaluations, and checkpoints")
    flag("--eval_iters", count, 30, "batches evaluated of each split, at most")
    flag("--eval_train", _boolean, True, "evaluate on windows of train too")
    flag("--eval_only", _boolean, False, "evaluate once, train nothing")
    flag("--log_interval", count, 10, "iterations between progress lines")
    flag("--max_sample_tokens", whole, 300, "tokens of the sample printed at the end")
    flag("--sample_every_eval", _boolean, False, "print a sample at each evaluation too")
    flag("--tensorboard", _boolean, False, "for: tensorboard --logdir out")
    flag("--wandb", _boolean, False, "for Weights & Biases; WANDB_PROJECT names it")

    group = parser.add_argument_group("run")
    flag("--plan", _boolean, False, "say what the run will do and take, and end")
    flag("--out_dir", str, None, "the run's folder (default out/<dataset>, then -2, -3, ...)")
    flag("--init_from", _choice("scratch", "resume", *GPT2), "scratch", "scratch, resume (out_dir, else the newest run), or weights "
         "of gpt2, gpt2-medium, ...")
    flag("--overwrite", _boolean, False, "let a new run replace the one in out_dir")
    flag("--seed", seed, 1337, "of the weights, the data's order and dropout")
    flag("--device", str, "auto", "auto, cpu, cuda, cuda:1, mps")
    flag("--dtype", _choice("auto", "float32", "bfloat16", "float16"), "auto", "auto: bfloat16 on GPUs that have it")
    flag("--num_threads", threads, None, "threads that compute on the CPU (default: one a core that "
         "may be used)")
    flag("--compile", _choice("auto", "true", "false"), "auto", "torch.compile; auto: on CUDA, for long runs")
    return parser


def _parse(argv, problems):
    """(all arguments, those given on the command line); what is wrong with single ones goes into problems."""
    parser = _parser(problems)
    lists = [option for action in parser._actions if action.nargs == "+" for option in action.option_strings]
    argv = [part for word in argv for part in (word.split("=", 1) if word.split("=")[0] in lists else [word])]  # --flag=a b
    args, unknown = parser.parse_known_args(argv)
    _flatten(args)
    for word in unknown:
        is_dataset = not word.startswith("-") and (DATA / word).is_dir()
        problems.append(f"{word} is no flag of train.py (did you mean --dataset={word}?)" if is_dataset else parser.no_flag(word))
    only_given = _parser([])
    for action in only_given._actions:
        action.default = argparse.SUPPRESS
    return args, vars(_flatten(only_given.parse_known_args(argv)[0]))


def _flatten(args):
    """The flags of several values as one list each, however the words were quoted."""
    for name, value in vars(args).items():
        if isinstance(value, list):
            setattr(args, name, [one for words in value for one in words or ()])
    return args


def _words(value):
    return " ".join(map(str, value)) if isinstance(value, list) else value


def parse_args(argv=None, saved=None):
    """argv (default: the command line) -> Namespace. Raises UserError that names every bad value at once.

    saved: the arguments in the checkpoint of a run to resume. They take the place of the defaults, and those that are
    FROZEN cannot be given another value. Without saved, a command line with --init_from=resume is checked flag by flag
    only.
    """
    problems, argv = [], _with_files(sys.argv[1:] if argv is None else argv)
    args, given = _parse(argv, problems)
    if saved and not problems:
        refuse_damaged(saved)
        # an older checkpoint lacks the newer flags
        saved = {name: saved.get(name, value) for name, value in vars(args).items()}
        changed = [f"--{k} {_words(given[k])} (it is {_words(saved[k])})" for k in FROZEN if k in given and given[k] != saved[k]]
        if changed:
            raise UserError(f"the run in {saved['out_dir']} keeps its data order and its model, so these cannot change: "
                            f"{', '.join(changed)}. Leave them out, name another run by --out_dir, or start a new one")
        args = argparse.Namespace(**{**saved, "overwrite": False, "num_threads": None, **given})
    if args.init_from in GPT2:
        take_sizes(args, given, problems)
    if saved or args.init_from != "resume":
        check_args(args, given, problems)
        check_mode(args, given, problems)
    if args.overwrite and args.init_from == "resume":
        problems.append("--overwrite and --init_from resume contradict each other")
    if problems:
        raise UserError("; ".join(problems) + ". See python train.py --help")
    fill_in(args)
    return args


def refuse_damaged(saved):
    """Raises UserError unless the arguments in a checkpoint are such as a command line gives: each is
    written as its flag and read again."""
    defaults, problems = vars(_parse([], [])[0]), []
    given = {name: value for name, value in saved.items() if name in defaults and value is not None}
    args = vars(_parse([f"--{name}={_words(value)}" for name, value in given.items()], problems)[0])
    wrong = [name for name, value in given.items()
             if type(value) is not type(args[name]) or value != args[name]]
    wrong += [name for name, value in saved.items()
              if value is None and defaults.get(name) is not None and name != "dataset"]
    if wrong:
        shown = printable(repr(saved[wrong[0]]))
        raise UserError(f"the checkpoint is damaged: its {wrong[0]} is {shown}, which --{wrong[0]} does "
                        f"not take. Take another run, or train anew")


def fill_in(args):
    """Replace None, in flags whose default depends on another, by its value."""
    args.n_kv_head = args.n_kv_head or args.n_head
    args.bias, args.multidataset_wte = bool(args.bias), bool(args.multidataset_wte)
    args.dataset = args.dataset if args.training_mode == "single" else None
    if args.dataset_sampling_probs_final:  # of this run, whatever max_iters is when it is resumed
        args.dataset_sampling_probs_transition_method = args.dataset_sampling_probs_transition_method or "linear"
        args.dataset_sampling_probs_transition_iters = args.dataset_sampling_probs_transition_iters or args.max_iters
    finetunes = args.init_from in GPT2
    if args.learning_rate is None:
        args.learning_rate = 3e-5 if finetunes else 0.02 if args.optimizer == "muon" else 0.002
    if args.optimizer == "muon":
        args.muon_learning_rate = args.muon_learning_rate or (1e-3 if finetunes else 0.05)
        args.muon_momentum = 0.9 if args.muon_momentum is None else args.muon_momentum


def take_sizes(args, given, problems):
    """The sizes of the published model that --init_from names, and its optimizer, in place of the defaults."""
    for name, size in GPT2[args.init_from].items():
        if given.get(name) not in (None, size):
            problems.append(f"--{name} {given[name]} does not fit --init_from {args.init_from}, which has {size}")
        setattr(args, name, size)
    if args.block_size and args.block_size > GPT2_BLOCK_SIZE:
        problems.append(f"--block_size {args.block_size} does not fit --init_from {args.init_from}, which knows "
                        f"{GPT2_BLOCK_SIZE:,} positions")
    if args.training_mode == "multicontext" or args.multidataset_wte:
        problems.append(f"--init_from {args.init_from} has one vocabulary: it goes with --training_mode single or multidataset, "
                        f"without --multidataset_wte")
    if "optimizer" not in given:
        args.optimizer = "adamw"


def check_args(args, given, problems):
    """Append to problems what is wrong between flags that are each fine alone; a flag that is not fine is None."""
    even, unit = ("even ", 2) if args.arch == "modern" else ("", 1)  # rotary positions turn channels in pairs
    if args.n_embd and args.n_head and args.n_embd % (unit * args.n_head):
        above = args.n_embd - args.n_embd % -(unit * args.n_head)
        problems.append(f"--n_embd {args.n_embd} is no {even}multiple of --n_head {args.n_head} ({above} is)")
    if args.n_kv_head and args.n_head and args.n_head % args.n_kv_head:
        problems.append(f"--n_kv_head {args.n_kv_head} is no divisor of --n_head {args.n_head}")
    first, full = args.first_block_size, args.block_size
    if first and full and (full % first or (full // first).bit_count() > 1):
        halves = [str(full >> k) for k in range(1, full.bit_length()) if full % (1 << k) == 0]
        problems.append(f"--block_size {full} is not --first_block_size {first} doubled some times "
                        f"({', '.join(halves) + ' would do' if halves else 'nor any other: it is odd'})")
    if args.sample_every_eval and args.max_sample_tokens == 0:
        problems.append("--sample_every_eval needs --max_sample_tokens above 0")
    for name in ("tensorboard", "wandb"):
        if getattr(args, name):
            try:
                optional(name, f"--{name}")
            except UserError as error:
                problems.append(str(error))
    for name, value, needed in (("n_kv_head", "arch", "modern"), ("bias", "arch", "gpt2"),
                                ("muon_learning_rate", "optimizer", "muon"), ("muon_momentum", "optimizer", "muon")):
        if given.get(name) is not None and getattr(args, value) not in (needed, None):
            problems.append(f"--{name} goes with --{value} {needed} only")


def check_mode(args, given, problems):
    """Append to problems what the flags of --training_mode lack, or have too much of."""
    mode = args.training_mode
    if mode is None:
        return
    for other, flags in MODE_FLAGS.items():
        problems += [f"--{name} goes with --training_mode {other}; this is {mode}" for name in flags
                     if other != mode and given.get(name) is not None]
    lists = {"multidataset": ("dataset_list", "dataset_sampling_probs", "dataset_sampling_probs_final"),
             "multicontext": ("multicontext_datasets", "multicontext_loss_weights")}.get(mode)
    if not lists:
        return
    names, *weights = (getattr(args, name) for name in lists)
    if not names:
        problems.append(f"--training_mode {mode} needs --{lists[0]} NAME NAME ...")
        return
    problems += [f"--{lists[0]} names {name} twice" for name in sorted({n for n in names if names.count(n) > 1})]
    told = " ".join(problems)
    problems += [f"--{flag} has {len(w)} weights for {len(names)} datasets" for flag, w in zip(lists[1:], weights)
                 if w is not None and len(w) != len(names) and f"--{flag} " not in told and f"--{lists[0]} " not in told]
    if args.dataset_sampling_probs and args.dataset_sampling_alpha is not None:
        problems.append("--dataset_sampling_probs and --dataset_sampling_alpha both say how large the shares are: leave one out")
    if not args.dataset_sampling_probs_final:
        problems += [f"--{name} goes with --dataset_sampling_probs_final" for name in
                     ("dataset_sampling_probs_transition_method", "dataset_sampling_probs_transition_iters")
                     if given.get(name) is not None]
