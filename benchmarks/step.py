"""
A training step of nanoGPT's own architecture against nanoGPT, eager and compiled.

    python benchmarks/step.py --nanogpt ../nanoGPT                        # CPU, float32, small
    python benchmarks/step.py --nanogpt ../nanoGPT --size 124m --device cuda --dtype bfloat16
    python benchmarks/step.py --nanogpt ../nanoGPT --size 124m --memory   # peak memory
    python benchmarks/step.py --nanogpt ../nanoGPT --size 124m --memory --device cuda

Both sides have the same sizes, batch, precision and AdamW. "small" is the size of the CPU command
in nanoGPT's README. It prints tokens per second, their ratio, and the operations per second of
ours. --memory measures each side in a process of its own: on a CPU the whole process, on a GPU the
tensors that torch has allocated there.
"""
import subprocess
import sys
from types import SimpleNamespace

import torch
from rival import ROOT, module_of, paired, parser, synchronize

from model import GPT, GPTConfig
from optim import configure_optimizer

SIZES = {  # layers, heads, channels, block_size, batch_size, vocab_size
    "small": (4, 4, 128, 64, 12, 65),
    "384": (6, 6, 384, 256, 8, 65),
    "124m": (12, 12, 768, 1024, 8, 50257),
}


def step_of(side, nanogpt, size, device, dtype, compiled):
    """A function that does one training step."""
    n_layer, n_head, n_embd, block_size, batch_size, vocab_size = SIZES[size]
    sizes = dict(n_layer=n_layer, n_head=n_head, n_embd=n_embd, block_size=block_size, dropout=0.0,
                 bias=False)
    device = torch.device(device)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as both programs train
    if side == "ours":
        model = GPT(GPTConfig(arch="gpt2", n_kv_head=n_head, vocab_size=vocab_size,
                              **sizes)).to(device)
        optimizer = configure_optimizer(model, SimpleNamespace(
            optimizer="adamw", learning_rate=1e-3, beta2=0.99, weight_decay=0.1, dtype=dtype))
    else:
        theirs = module_of(nanogpt / "model.py")
        # what its train.py takes for GPT-2's vocabulary
        rows = vocab_size if vocab_size < 1000 else 50304
        model = theirs.GPT(theirs.GPTConfig(vocab_size=rows, **sizes)).to(device)
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), device.type)
    model = torch.compile(model) if compiled else model
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16")
    x, y = torch.randint(vocab_size, (2, batch_size, block_size), device=device)

    def step():
        with autocast:
            loss = model(x, y)[1]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        for p in model.parameters():
            p.grad = None
        synchronize(device)
    return step, model


def peak_memory(side, args):
    """The most megabytes in use by two eager steps, the second with optimizer state: on a GPU by
    tensors, otherwise by the process."""
    used = ("torch.cuda.max_memory_allocated() / 1e6" if args.device.startswith("cuda") else
            "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000")
    code = (f"import sys; sys.path[:0] = ['{ROOT}/benchmarks', '{ROOT}']\n"
            f"import resource, pathlib, torch, step\n"
            f"run, _ = step.step_of('{side}', pathlib.Path('{args.nanogpt}'), '{args.size}', "
            f"'{args.device}', '{args.dtype}', False)\n"
            f"for _ in range(2): run()\n"
            f"print({used})")
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE,
                          text=True)
    return float(done.stdout.splitlines()[-1])


def main():
    p = parser(__doc__)
    p.add_argument("--size", choices=SIZES, default="small")
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--rounds", type=int, default=20)
    p.add_argument("--memory", action="store_true",
                   help="peak memory of an eager step instead of speed")
    args = p.parse_args()
    if args.memory:
        theirs, ours = (peak_memory(side, args) for side in ("nanogpt", "ours"))
        print(f"{args.size}, {args.dtype}, {args.device}: nanoGPT {theirs:,.0f} MB, ours "
              f"{ours:,.0f} MB, "
              f"{ours / theirs:.2f} of it")
        return
    tokens = SIZES[args.size][3] * SIZES[args.size][4]
    for compiled in (False, True):
        (theirs, _), (ours, model) = (step_of(side, args.nanogpt, args.size, args.device,
                                              args.dtype, compiled)
                                      for side in ("nanogpt", "ours"))
        a, b, ratio = paired(theirs, ours, args.rounds)
        operations = model.flops_per_token() * tokens / b / 1e12
        print(f"{args.size}, {args.dtype}, {'compiled' if compiled else 'eager'}: nanoGPT "
              f"{tokens / a:,.0f} tokens/s, ours {tokens / b:,.0f}, {ratio:.2f} times, "
              f"{operations:.3g} TFLOPS", flush=True)


if __name__ == "__main__":
    main()
