"""Every flag of train.py, in groups. parse_args(argv) -> Namespace; all bad values are reported in one message."""
import argparse
import difflib
import math

from data.errors import UserError
from data.sampler import SAMPLING_METHODS

# what a resumed run must leave as it was: the order of the data, and the shape of the model
FROZEN = ("dataset", "sampling_method", "batch_size", "gradient_accumulation_steps", "block_size", "seed", "n_layer",
          "n_head", "n_embd", "bias")


def _checked(kind, holds, words):
    """A type for a flag: kind(text) where holds(value), else ValueError("must be <words>")."""
    def parse(text):
        try:
            value = kind(text)
            if holds(value):
                return value
        except ValueError:
            pass
        raise ValueError(f"must be {words}")
    return parse


def _choice(*names):
    return _checked(str.lower, names.__contains__, "one of " + ", ".join(names))


def _boolean(text):
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


count = _checked(int, lambda n: n >= 1, "a whole number above 0")
whole = _checked(int, lambda n: n >= 0, "a whole number, 0 or more")
positive = _checked(float, lambda x: x > 0 and math.isfinite(x), "a number above 0")
not_negative = _checked(float, lambda x: x >= 0 and math.isfinite(x), "a number, 0 or more")
share = _checked(float, lambda x: 0 <= x < 1, "a number from 0 up to, but not, 1")


def _parser(problems):
    parser = argparse.ArgumentParser(
        prog="train.py", usage="python train.py [--flag=value ...]", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train a GPT on data/<dataset>/.\n\n"
                    "  python train.py                                        the default: plays by characters, on a CPU\n"
                    "  python train.py --dataset=mydata --max_iters=5000      your own\n"
                    "  python train.py --init_from=resume --out_dir=out/x     go on with a stopped run")
    group = None

    def flag(name, kind, default, help):
        def parse(text):
            try:
                return kind(text)
            except ValueError as error:
                problems.append(f"{name} {text}: {error}")
        if default is not None:
            help += f" (default {default})"
        switch = {"nargs": "?", "const": True} if kind is _boolean else {}  # --flag, --flag=true, --flag=false
        metavar = {count: "N", whole: "N", str: "NAME", _boolean: "true|false"}.get(kind, "X")
        group.add_argument(name, type=parse, default=default, help=help, metavar=metavar, **switch)

    group = parser.add_argument_group("data")
    flag("--dataset", str, "shakespeare_char", "a folder of data/, or a path with a slash in it")
    flag("--sampling_method", _choice(*SAMPLING_METHODS), "random", ", ".join(SAMPLING_METHODS))
    flag("--batch_size", count, 64, "sequences a micro-batch")
    flag("--block_size", count, 128, "tokens of context, the length of a sequence")
    flag("--gradient_accumulation_steps", count, 1, "micro-batches an iteration, shared out to all ranks")

    group = parser.add_argument_group("model")
    flag("--n_layer", count, 4, "blocks")
    flag("--n_head", count, 4, "attention heads a block")
    flag("--n_embd", count, 128, "channels")
    flag("--dropout", share, 0.0, "share of activations dropped in training; 0 for much data, 0.1 to 0.3 for little")
    flag("--bias", _boolean, False, "biases in Linear and LayerNorm layers")

    group = parser.add_argument_group("optimizer (AdamW)")
    flag("--max_iters", count, 1500, "iterations (optimizer steps) of the whole run")
    flag("--learning_rate", positive, 4e-3, "the highest of the schedule")
    flag("--warmup_iters", whole, 100, "iterations over which the learning rate rises")
    flag("--decay_lr", _boolean, True, "cosine decay after the warm-up")
    flag("--lr_decay_iters", count, None, "iterations until the decay ends (default max_iters)")
    flag("--min_lr", not_negative, None, "learning rate at the end of the decay (default learning_rate / 10)")
    flag("--weight_decay", not_negative, 0.1, "on matrices and embeddings")
    flag("--beta1", share, 0.9, "decay of the mean of gradients")
    flag("--beta2", share, 0.99, "decay of the mean of squared gradients")
    flag("--grad_clip", not_negative, 1.0, "largest norm of the gradient; 0 to let it be")

    group = parser.add_argument_group("evaluation and logging")
    flag("--eval_interval", count, 250, "iterations from one evaluation, and checkpoint, to the next")
    flag("--eval_iters", count, 50, "batches of batch_size windows evaluated a split, at most")
    flag("--eval_only", _boolean, False, "evaluate once, train nothing")
    flag("--log_interval", count, 10, "iterations from one progress line to the next")
    flag("--max_sample_tokens", whole, 300, "tokens of the sample printed at the end")

    group = parser.add_argument_group("run")
    flag("--out_dir", str, None, "checkpoints and log.csv go here (default out/<dataset>, then -2, -3, ...)")
    flag("--init_from", _choice("scratch", "resume"), "scratch", "scratch, or resume the run in out_dir (the newest)")
    flag("--overwrite", _boolean, False, "let a new run replace the one in out_dir")
    flag("--seed", whole, 1337, "of the weights, the order of the data and dropout")
    flag("--device", str, "auto", "auto, cpu, cuda, cuda:1, mps")
    flag("--dtype", _choice("auto", "float32", "bfloat16", "float16"), "auto", "auto: bfloat16 on GPUs that have it")
    flag("--compile", _choice("auto", "true", "false"), "auto", "torch.compile; auto: on CUDA")
    return parser


def _parse(argv, problems, **kw):
    parser = _parser(problems)
    if kw:
        for action in parser._actions:
            action.default = kw["default"]
    args, unknown = parser.parse_known_args(argv)
    known = [option for action in parser._actions for option in action.option_strings]
    for word in unknown:
        near = difflib.get_close_matches(word.split("=")[0], known, n=1)
        problems.append(f"{word} is no flag of train.py" + (f"; did you mean {near[0]}?" if near else ""))
    return args


def parse_args(argv=None):
    """argv (default: the command line) -> Namespace. Raises UserError that names every bad value at once."""
    problems = []
    args = _parse(argv, problems)
    if not problems:
        check_args(args, problems)
    if problems:
        raise UserError("; ".join(problems) + ". See python train.py --help")
    return args


def check_args(args, problems):
    """Append to problems what is wrong between flags that are each fine alone."""
    if args.n_embd % args.n_head:
        problems.append(f"--n_embd {args.n_embd} is no multiple of --n_head {args.n_head}")
    if args.min_lr is not None and args.min_lr > args.learning_rate:
        problems.append(f"--min_lr {args.min_lr} is above --learning_rate {args.learning_rate}")
    if args.overwrite and args.init_from == "resume":
        problems.append("--overwrite and --init_from resume contradict each other")


def resume_args(saved, argv=None):
    """The arguments of a resumed run: those of its checkpoint, changed by the flags given now. Raises UserError for FROZEN."""
    given = vars(_parse(argv, [], default=argparse.SUPPRESS))
    changed = [f"--{k} {given[k]} (it is {saved[k]})" for k in FROZEN if k in given and given[k] != saved[k]]
    if changed:
        raise UserError(f"a resumed run keeps its data order and its model, so these cannot change: {', '.join(changed)}. "
                        f"Leave them out, or start a new run")
    args = argparse.Namespace(**{**saved, **given})
    problems = []
    check_args(args, problems)
    if problems:
        raise UserError("; ".join(problems))
    return args
