"""
Wall clock and val loss against nanoGPT, on the same bins, each with its own context length.

    python benchmarks/race.py --nanogpt ../nanoGPT [--dataset NAME] [--seeds 3] [--legs short long]
    python benchmarks/race.py --nanogpt ../nanoGPT --device cuda

nanoGPT trains by the CPU command of its README. Ours trains in three legs for each seed: the short
leg stops near nanoGPT's loss, the default leg is `python train.py`, and the long leg
(configs/shakespeare_cpu.args) takes about nanoGPT's time. On a GPU nanoGPT trains by its
config/train_shakespeare_char.py, and ours by configs/shakespeare_gpu.args. Seconds count from the
start of the process to the end of a full pass over val, on the device that trains. nanoGPT has no
such pass, so its model does one in a process of its own, of which the pass alone is counted.
"""
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rival import ROOT, STARTED_WITH, parser

from pipeline.read.folder import dataset_folder, open_dataset
from train_args import parse_args

NANOGPT_GPU = "config/train_shakespeare_char.py --dataset=race --out_dir=out".split()
NANOGPT_CPU = ("config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 "
               "--log_interval=100 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 "
               "--n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0 --dataset=race "
               "--out_dir=out").split()
SHORT = ("--n_layer=2 --n_head=3 --n_kv_head=1 --n_embd=96 --n_hidden=192 --batch_size=24 "
         "--max_iters=150 --sampling_method=without_replacement --muon_learning_rate=0.1 "
         "--muon_momentum=0.8 --learning_rate=0.04 --weight_decay=0").split()
LEGS = {"short": SHORT, "default": [], "long": ["@configs/shakespeare_cpu.args"],
        "gpu": ["@configs/shakespeare_gpu.args"]}

# a full pass over val with nanoGPT's own model: every target once, in windows of block_size, in the
# precision that its train.py evaluates in. Prints the loss and the seconds of the pass
FULL_PASS = """
import contextlib, sys, time
import numpy as np, torch
from model import GPT, GPTConfig
device = sys.argv[1]
saved = torch.load("out/ckpt.pt", map_location="cpu")
model = GPT(GPTConfig(**saved["model_args"]))
model.load_state_dict({name.removeprefix("_orig_mod."): weight
                       for name, weight in saved["model"].items()})
model.eval().to(device)
ids = torch.from_numpy(np.fromfile("data/race/val.bin", dtype=np.uint16).astype(np.int64))
T = model.config.block_size
ctx = contextlib.nullcontext()
if device == "cuda":
    torch.backends.cuda.matmul.allow_tf32 = True
    able = torch.cuda.is_bf16_supported()
    ctx = torch.autocast(device, dtype=torch.bfloat16 if able else torch.float16)
    model(torch.zeros(1, T, dtype=torch.int64, device=device))  # its kernels are loaded
    torch.cuda.synchronize()
t0 = time.perf_counter()
ids, total = ids.to(device), torch.zeros((), dtype=torch.float64, device=device)
with torch.no_grad(), ctx:
    whole = (len(ids) - 1) // T
    x, y = ids[: whole * T].view(-1, T), ids[1 : whole * T + 1].view(-1, T)
    for i in range(0, whole, 64):
        total += model(x[i : i + 64], y[i : i + 64])[1] * y[i : i + 64].numel()
    if tail := len(ids) - 1 - whole * T:
        total += model(ids[None, -tail - 1 : -1], ids[None, -tail:])[1] * tail
print(total.item() / (len(ids) - 1), time.perf_counter() - t0)
"""


def nanogpt(checkout, dataset, folder, flags, device):
    """(seconds, val loss) of nanoGPT's train.py with those flags."""
    copy = Path(folder) / "nanogpt"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git", "out*"))
    shutil.copytree(dataset_folder(dataset), copy / "data/race")
    t0 = time.perf_counter()
    subprocess.run([sys.executable, "train.py", *flags], cwd=copy, env=STARTED_WITH, check=True,
                   stdout=subprocess.DEVNULL)
    trained = time.perf_counter() - t0
    out = subprocess.run([sys.executable, "-c", FULL_PASS, device], cwd=copy, env=STARTED_WITH,
                         check=True, capture_output=True, text=True).stdout
    loss, seconds = map(float, out.splitlines()[-1].split())
    return trained + seconds, loss


def ours(dataset, seed, flags, folder, device):
    """(seconds, val loss) of a run of train.py that evaluates once, at its end, on all of val."""
    command = [sys.executable, "train.py", f"--dataset={dataset}", f"--seed={seed}",
               "--eval_interval=1000000", "--max_sample_tokens=0", f"--out_dir={folder}",
               "--overwrite", "--eval_train=false", f"--device={device}"]
    command[2:2] = flags  # in front, so that the flags above override them
    args = parse_args(command[2:])
    windows = open_dataset(dataset).num_tokens["val"] // args.block_size + 1
    command.append(f"--eval_iters={-(-windows // args.batch_size)}")
    t0 = time.perf_counter()
    out = subprocess.run(command, cwd=ROOT, env=STARTED_WITH, check=True, capture_output=True,
                         text=True).stdout
    return time.perf_counter() - t0, float(re.search(r"val loss ([\d.]+)", out)[1])


def main():
    p = parser(__doc__)
    p.add_argument("--dataset", default="shakespeare_char", help="a prepared dataset of characters")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--legs", nargs="+", choices=LEGS,
                   help="legs of ours (default: short default long; on a GPU gpu)")
    p.add_argument("--seeds", type=int, default=3, help="seeds of ours (default 3)")
    args = p.parse_args()
    legs = args.legs or (["gpu"] if args.device == "cuda" else ["short", "default", "long"])
    with tempfile.TemporaryDirectory() as folder:
        their_seconds, their_loss = nanogpt(args.nanogpt, args.dataset, folder,
                                            NANOGPT_GPU if args.device == "cuda" else NANOGPT_CPU,
                                            args.device)
        print(f"nanoGPT                 {their_seconds:6.1f} s   val {their_loss:.4f}", flush=True)
        for name in legs:
            runs = []
            for seed in range(args.seeds):
                runs.append(ours(args.dataset, seed, LEGS[name], Path(folder) / "ours",
                                 args.device))
                print(f"ours, {name:8} seed {seed}   {runs[-1][0]:6.1f} s   val {runs[-1][1]:.4f}",
                      flush=True)
            seconds, loss = (statistics.median(column) for column in zip(*runs))
            print(f"ours, {name:8} median   {seconds:6.1f} s   val {loss:.4f}   "
                  f"{seconds / their_seconds:.2f} of nanoGPT's time, "
                  f"{their_loss - loss:+.3f} nats better", flush=True)


if __name__ == "__main__":
    main()
