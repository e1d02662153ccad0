"""
A checkpoint -> text, on standard output.

    python sample.py                                    # the newest run of out/
    python sample.py --out_dir=out/shakespeare_char --start="ROMEO:" --num_samples=5 --temperature=0.8 --top_k=40
    python sample.py --start=FILE:prompt.txt
    python sample.py --multicontext_start "ROMEO:"      # of streams trained together: one above another
    python sample.py --init_from=gpt2 --start="..."     # the published weights, no run needed; see pretrained.py

Needs only the checkpoint: it holds the tokenizers too. best.pt is taken where there is one, else ckpt.pt.
"""
import argparse
from pathlib import Path

from pipeline.threads import set_environment, take_threads

if __name__ == "__main__":
    set_environment()  # before numpy and torch, which read it as they are imported


from model import GPT
from pipeline.errors import Parser, one_line_errors, typed
from pipeline.tokenizers import (
    TiktokenTokenizer,
)
from train_args import GPT2, count, likelihood, not_negative, seed, whole
from training.checkpoint import config_of, load_checkpoint, refuse_lack_of, take_state
from training.published import published_gpt2
from training.ranks import pick_device
from training.run_folder import newest_run
from training.samples import speak


def prompt_text(text):
    """The value of --start: a path stays as it is, backslashes and all."""
    return text if text.startswith("FILE:") else typed(text)


def parse_args(argv=None):
    parser = Parser(prog="python sample.py", usage="python sample.py [--flag=value ...]", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init_from", choices=["resume", *GPT2], default="resume", help="resume: a run of train.py; else "
                        "the published weights of that name (default resume)")
    parser.add_argument("--out_dir", help="the run to sample from (default: the newest in out/)")
    parser.add_argument("--start", type=prompt_text, help='the prompt, in which \\n is a newline, '
                        '\\t a tab, \\r and \\\\ likewise, or FILE:path; "<|endoftext|>" is the '
                        'token (default: what ends a document in the data, or a newline, or the '
                        'most frequent token)')
    parser.add_argument("--dataset", help="which one's tokens to sample, of a run with --multidataset_wte (default: the first)")
    parser.add_argument("--multicontext_start", type=typed, nargs="+", help="the prompts of a "
                        "multicontext run, with \\n as in --start: one for each stream, or for "
                        "each that is not a function of another")
    parser.add_argument("--draw_all_streams", action="store_true", help="draw also the streams that are functions of another, "
                        "which are computed from it otherwise")
    parser.add_argument("--num_samples", type=count, default=1, help="samples, drawn together (default 1)")
    parser.add_argument("--max_new_tokens", type=count, default=500, help="tokens a sample (default 500)")
    parser.add_argument("--temperature", type=not_negative, default=0.8, help="0: always the likeliest (default 0.8)")
    parser.add_argument("--top_k", type=whole, default=200, help="draw among the k likeliest; 0: all (default 200)")
    parser.add_argument("--top_p", type=likelihood, default=1.0, help="draw among the likeliest with this much probability "
                        "together; 1: all (default 1)")
    parser.add_argument("--stop", type=typed, help="end a sample before this text, with \\n as in "
                        "--start; <|endoftext|> always ends it")
    parser.add_argument("--seed", type=seed, default=1337, help="(default 1337)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    args = parser.parse_args(argv)
    if args.init_from in GPT2 and args.out_dir:
        parser.error(f"--out_dir does nothing beside --init_from {args.init_from}")
    return args


def load_run(out_dir):
    """(model, metas, starts, training_mode) of a run of train.py. starts: see first_token()."""
    best = out_dir / "best.pt"
    path = best if best.exists() else out_dir / "ckpt.pt"
    checkpoint = load_checkpoint(path)
    config = config_of(checkpoint, path)
    try:
        model = GPT(config)
    except (MemoryError, RuntimeError) as error:
        refuse_lack_of(error, path)
        raise
    take_state(checkpoint, path, model)
    return model, checkpoint["metas"], checkpoint.get("starts"), checkpoint["args"]["training_mode"]






def main(argv=None):
    args = parse_args(argv)
    device = pick_device(args.device)
    take_threads()
    if args.init_from in GPT2:
        metas = {args.init_from: TiktokenTokenizer("gpt2", backend="tiktoken").to_meta()}
        starts, training_mode = None, "single"
        model = published_gpt2(args.init_from)
    else:
        out_dir = Path(args.out_dir) if args.out_dir else newest_run()
        model, metas, starts, training_mode = load_run(out_dir)
    model.eval().to(device)
    speak(model, metas, starts, training_mode, args, device)
















if __name__ == "__main__":
    with one_line_errors():
        main()
