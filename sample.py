"""
A checkpoint -> text, on standard output.

    python sample.py                                    # the newest run of out/
    python sample.py --out_dir=out/shakespeare_char --start="ROMEO:" --num_samples=5 --temperature=0.8 --top_k=40
    python sample.py --start=FILE:prompt.txt

Needs only the checkpoint: it holds the tokenizer too. best.pt is taken where there is one, else ckpt.pt.
"""
import argparse
import sys
from pathlib import Path

import torch

from data.errors import Parser, UserError, one_line_errors
from data.files import read_text
from data.tokenizer import TableTokenizer, tokenizer_from_meta
from model import GPT, GPTConfig
from runs import load_checkpoint, newest_run
from train import first_token, pick_device
from train_args import count, likelihood, not_negative, seed, whole


def parse_args(argv=None):
    parser = Parser(prog="python sample.py", usage="python sample.py [--flag=value ...]", description=__doc__,
                    formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--out_dir", help="the run to sample from (default: the newest in out/)")
    parser.add_argument("--start", help='the prompt, or FILE:path; "<|endoftext|>" is the token (default: a newline)')
    parser.add_argument("--num_samples", type=count, default=1, help="samples, drawn together (default 1)")
    parser.add_argument("--max_new_tokens", type=count, default=500, help="tokens a sample (default 500)")
    parser.add_argument("--temperature", type=not_negative, default=0.8, help="0: always the likeliest (default 0.8)")
    parser.add_argument("--top_k", type=whole, default=200, help="draw among the k likeliest; 0: all (default 200)")
    parser.add_argument("--top_p", type=likelihood, default=1.0, help="draw among the likeliest with this much probability "
                        "together; 1: all (default 1)")
    parser.add_argument("--stop", help="end a sample before this text; <|endoftext|> always ends it")
    parser.add_argument("--seed", type=seed, default=1337, help="(default 1337)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    return parser.parse_args(argv)


def encode_prompt(tokenizer, start):
    """The prompt's ids, a list of one or more; <|endoftext|> becomes the token where the tokenizer has one."""
    if not start:
        return [first_token(tokenizer)]
    parts = start.split("<|endoftext|>") if tokenizer.eot_token is not None else [start]
    ids = []
    for i, part in enumerate(parts):
        ids += [tokenizer.eot_token] if i else []
        ids += tokenizer.encode(part).tolist()
    return ids


def main(argv=None):
    args = parse_args(argv)
    out_dir = Path(args.out_dir) if args.out_dir else newest_run()
    best = out_dir / "best.pt"
    checkpoint = load_checkpoint(best if best.exists() else out_dir / "ckpt.pt")
    device = pick_device(args.device)
    model = GPT(GPTConfig(**checkpoint["model_args"]))
    model.load_state_dict(checkpoint["model"])
    model.eval().to(device)

    tokenizer = tokenizer_from_meta(checkpoint["meta"])
    start = read_text(args.start[5:]) if (args.start or "").startswith("FILE:") else args.start
    if start and isinstance(tokenizer, TableTokenizer):
        print("note: the dataset has a tokenizer of its own; the prompt is encoded by longest match in its tokens",
              file=sys.stderr)
    try:
        ids = encode_prompt(tokenizer, start)
    except UserError as error:
        raise UserError(f"--start: {error}. The model knows no more than its dataset held") from None
    if len(ids) > model.config.block_size:
        print(f"note: the prompt has {len(ids):,} tokens, the model's context {model.config.block_size:,}: only the end "
              f"of the prompt is read", file=sys.stderr)
    speak(model, tokenizer, ids, args, device)


def speak(model, tokenizer, ids, args, device):
    """Print the samples: a single one as it comes, several when all have ended."""
    rows, texts = [list(ids) for _ in range(args.num_samples)], [None] * args.num_samples  # a text once it has ended
    prompt = len(tokenizer.decode(ids))  # characters
    shown = 0 if args.start else prompt  # what a sample starts from without a prompt is no part of the text
    new_tokens = model.stream(torch.tensor(rows, device=device), args.max_new_tokens, args.temperature,
                              args.top_k or None, args.top_p, torch.Generator(device).manual_seed(args.seed))
    for new in new_tokens:
        for i, token in enumerate(new[:, 0].tolist()):
            if texts[i] is not None:
                continue
            if token == tokenizer.eot_token:
                texts[i] = tokenizer.decode(rows[i])
                continue
            rows[i].append(token)
            if args.stop or args.num_samples == 1:
                text = tokenizer.decode(rows[i])
                if args.stop and (end := text.find(args.stop, prompt)) >= 0:
                    texts[i] = text[:end]
                elif args.num_samples == 1:  # but for what may yet become the stop text, or half a character
                    ready = max(shown, len(text.rstrip("\ufffd")) - len(args.stop or " ") + 1)
                    print(text[shown:ready], end="", flush=True)
                    shown = ready
        if None not in texts:
            break
    texts = [text if text is not None else tokenizer.decode(row) for text, row in zip(texts, rows)]
    texts = [text[shown:] for text in texts]
    print("\n---------------\n".join(texts))


if __name__ == "__main__":
    with one_line_errors():
        main()
