"""
Sampling 5 x 500 tokens against nanoGPT: models of one size with random weights, on the CPU.

    python benchmarks/sampling.py --nanogpt ../nanoGPT [--arch gpt2] [--size 384]

It prints the tokens per second of the sampling alone, and of the whole command from its start.
"""
import pickle
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from rival import ROOT, STARTED_WITH, module_of, paired, parser

from model import GPT, GPTConfig
from pipeline.tokenizers import CharTokenizer

NUM_SAMPLES, NUM_TOKENS, PROMPT = 5, 500, "\n"
TEXT = "".join(map(chr, range(32, 96))) + "\n"  # 65 characters
SIZES = {  # of nanoGPT's CPU command, and of its config/train_shakespeare_char.py
    "small": dict(n_layer=4, n_head=4, n_embd=128, block_size=64, dropout=0.0, bias=False),
    "384": dict(n_layer=6, n_head=6, n_embd=384, block_size=256, dropout=0.0, bias=False),
}


def their_folder(checkout, folder, sizes):
    """A copy of nanoGPT with a checkpoint of the size; returns its model."""
    shutil.copytree(checkout, folder, ignore=shutil.ignore_patterns(".git", "out*"))
    theirs = module_of(folder / "model.py")
    sizes = {**sizes, "vocab_size": len(TEXT)}
    model = theirs.GPT(theirs.GPTConfig(**sizes))
    for part in ("out", "data/bench"):
        (folder / part).mkdir()
    torch.save({"model": model.state_dict(), "model_args": sizes, "config": {"dataset": "bench"}},
               folder / "out/ckpt.pt")
    chars = sorted(set(TEXT))
    with open(folder / "data/bench/meta.pkl", "wb") as file:
        pickle.dump({"vocab_size": len(TEXT), "stoi": {c: i for i, c in enumerate(chars)},
                     "itos": dict(enumerate(chars))}, file)
    return model.eval()


def our_folder(folder, sizes, arch):
    """A run's folder with a checkpoint of the size; returns its model."""
    folder.mkdir()
    model = GPT(GPTConfig(arch=arch, vocab_size=len(TEXT), n_kv_head=sizes["n_head"], **sizes))
    with torch.no_grad():
        for p in model.parameters():  # the head starts at zero; draws should be of something
            p.add_(torch.randn_like(p) * 0.02)
    meta = CharTokenizer.from_text(TEXT).to_meta()
    torch.save({"model": model.state_dict(), "model_args": asdict(model.config),
                "args": {"training_mode": "single"}, "metas": {"bench": meta}, "iter_num": 0},
               folder / "ckpt.pt")
    return model.eval()


def main():
    p = parser(__doc__)
    p.add_argument("--arch", choices=["modern", "gpt2"], default="modern",
                   help="our block; gpt2 is nanoGPT's own")
    p.add_argument("--size", choices=SIZES, default="small")
    p.add_argument("--rounds", type=int, default=5)
    args = p.parse_args()
    start = torch.zeros((1, 1), dtype=torch.int64)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        folder = Path(folder)
        theirs = their_folder(args.nanogpt, folder / "nanogpt", SIZES[args.size])
        ours = our_folder(folder / "run", SIZES[args.size], args.arch)

        def their_sampling():
            for _ in range(NUM_SAMPLES):
                theirs.generate(start, NUM_TOKENS, temperature=0.8, top_k=200)

        def our_sampling():
            ours.generate(start.repeat(NUM_SAMPLES, 1), NUM_TOKENS, temperature=0.8, top_k=200)

        def command(cwd, *flags):
            argv = [sys.executable, "sample.py", *flags, f"--num_samples={NUM_SAMPLES}",
                    f"--max_new_tokens={NUM_TOKENS}", "--device=cpu"]
            return lambda: subprocess.run(argv, cwd=cwd, env=STARTED_WITH, check=True,
                                          stdout=subprocess.DEVNULL)

        for what, a, b in (("sampling alone", their_sampling, our_sampling),
                           ("the command", command(folder / "nanogpt", "--out_dir=out"),
                            command(ROOT, f"--out_dir={folder}/run"))):
            a, b, ratio = paired(a, b, args.rounds)
            tokens = NUM_SAMPLES * NUM_TOKENS
            print(f"{what}: nanoGPT {tokens / a:,.0f} tokens/s ({a:.2f} s), ours {tokens / b:,.0f} "
                  f"({b:.2f} s), {ratio:.1f} times", flush=True)


if __name__ == "__main__":
    main()
