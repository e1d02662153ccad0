"""
Print text that a trained model writes.

    python sample.py                                    # the newest run in out/
    python sample.py --out_dir=out/shakespeare_char --start="ROMEO:" --num_samples=5 --top_k=40
    python sample.py --start=FILE:prompt.txt
    python sample.py --multicontext_start "ROMEO:"      # a run of aligned streams
    python sample.py --chat                             # talk with a run on conversations
    python sample.py --init_from=gpt2 --start="..."     # published weights, without a run

Only the checkpoint is needed: it holds the tokenizer too. best.pt is used if there is one, else
ckpt.pt.
"""
import argparse
from pathlib import Path

from pipeline.threads import set_environment, take_threads

if __name__ == "__main__":
    set_environment()  # before numpy and torch, which read it as they are imported

from pipeline.errors import Parser, one_line_errors, typed
from train_args import GPT2, count, init_from, not_negative, probability, seed, whole
from training.chat import converse
from training.checkpoint import load_run
from training.device import pick_device
from training.published import load_named
from training.run_folder import newest_run
from training.samples import SampleArgs, speak


def prompt_text(text):
    """The value of --start. A path stays as it is: its backslashes separate folders on Windows."""
    return text if text.startswith("FILE:") else typed(text)


# the flags that are fields of SampleArgs, which has their defaults: (name, type): help
FLAGS = {
    ("start", prompt_text): (
        r'the prompt, or FILE:path for a file that contains it. \n is a newline, \t a tab, \\ a '
        r'backslash, and "<|endoftext|>" the token that ends a document. Without a prompt, a '
        r'sample starts from <|endoftext|>; if the train text has none, from a newline, or else '
        r'from its most frequent token'),
    ("dataset", str): (
        "with --multidataset_wte: the dataset whose vocabulary is sampled (default: the first "
        "of the run)"),
    ("num_samples", count): "number of samples",
    ("max_new_tokens", count): "maximum number of tokens in a sample",
    ("temperature", not_negative): (
        "below 1: likely tokens become likelier; above 1: less likely; 0: always the likeliest "
        "token"),
    ("top_k", whole): "sample among the k likeliest tokens; 0: among all",
    ("top_p", probability): (
        "sample among the likeliest tokens whose probabilities add up to this; 1: among all"),
    ("stop", typed): (
        r"end a sample before this text (\n: a newline; default: none). <|endoftext|> always ends "
        "one"),
    ("seed", seed): "seed of the random choices",
}


def parse_args(argv=None):
    parser = Parser(prog="python sample.py", usage="python sample.py [--flag=value ...]",
                    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    flag("--init_from", type=init_from, default="resume", metavar="NAME",
         help="what to sample from. resume: a run of train.py; otherwise published weights: "
              f"{', '.join(GPT2)}, the owner/name of a model of the Hugging Face hub, or a folder "
              "(default: resume)")
    flag("--out_dir", help="folder of the run (default: the newest run in out/)")
    flag("--device", default="auto", help="auto, cpu, cuda, mps (default: auto)")
    flag("--multicontext_start", type=typed, nargs="+", action="extend",
         help="one prompt for each aligned stream; a stream that is computed from another one "
              "needs none")
    flag("--draw_all_streams", action="store_true",
         help="sample every stream, even one that can be computed from another")
    flag("--chat", action="store_true",
         help="a conversation, turn by turn, in the chat layout of the run's data. Each line that "
              "you type is a turn; an empty one, /exit or Ctrl-D ends it")
    for (name, kind), words in FLAGS.items():
        default = getattr(SampleArgs, name)
        told = "" if default is None else f" (default: {default:g})"
        flag(f"--{name}", type=kind, default=default, help=words + told)
    args = parser.parse_args(argv)
    if args.init_from == "scratch":
        parser.error("--init_from scratch has nothing to sample from: name a model, or train one")
    for name in ("start", "stop", "multicontext_start", "draw_all_streams"):
        if args.chat and getattr(args, name):
            parser.error(f"--{name} has no effect with --chat: leave one out")
    if args.chat and args.num_samples != 1:
        parser.error("--num_samples has no effect with --chat: leave one out")
    if args.init_from != "resume" and args.out_dir:
        parser.error(f"--out_dir has no effect with --init_from {args.init_from}: leave one out")
    return args


def main(argv=None):
    args = parse_args(argv)
    device = pick_device(args.device)
    take_threads()
    if args.init_from == "resume":
        loaded = load_run(Path(args.out_dir) if args.out_dir else newest_run())
    else:
        loaded = load_named(args.init_from)
    model, metas, starts, training_mode = loaded
    show = converse if args.chat else speak
    show(model.eval().to(device), metas, starts, training_mode, args, device)


if __name__ == "__main__":
    with one_line_errors():
        main()
