"""The optimizer (Muon with AdamW, or AdamW alone) and the schedules: of the learning rate, of the windows' length.

torch.optim has an AdamW too; its import costs a second of every start, and one state for both rules is simpler to save.
"""
import math

import torch

# Polar Express (Amsel et al., 2025, arXiv:2505.16932): for each step the odd polynomial that brings all singular
# values nearest to 1; with the paper's safety factor of 1.01
POLAR_EXPRESS = tuple((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
))


def orthogonalize(g, dtype=torch.float32):
    """(n, rows, cols) matrices -> about the nearest (semi-)orthogonal ones: the same singular vectors, values near 1.

    dtype: of the products. bfloat16 is enough, and faster where the processor has it.
    """
    x = g.to(dtype)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in POLAR_EXPRESS:
        s = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=b, alpha=c), x, beta=a)  # a x + (b s + c s s) x
    return (x.mT if tall else x).to(g.dtype)


class Optimizer:
    """Groups of parameters, each a dict with "params", "rule" ("muon" or "adamw"), "lr", "weight_decay", and

    adamw: "betas", "eps" (Loshchilov and Hutter, arXiv:1711.05101).
    muon, for matrices only: "momentum", "dtype" (see orthogonalize()), and "parts", for each parameter the row counts
        of the matrices that are stacked in it. The update is the orthogonalized momentum (Jordan et al.,
        kellerjordan.github.io/posts/muon).

    Weight decay is decoupled: a step shrinks a weight by lr * weight_decay.
    """

    def __init__(self, groups):
        self.param_groups = [group for group in groups if group["params"]]
        self.num_steps = 0
        self.state = {p: {name: torch.zeros_like(p) for name in (("momentum",) if group["rule"] == "muon" else
                                                                  ("mean", "mean_of_squares"))}
                      for group in self.param_groups for p in group["params"]}

    def zero_grad(self):
        for p in self.state:
            p.grad = None

    def state_dict(self):
        return {"num_steps": self.num_steps, "state": list(self.state.values())}

    def load_state_dict(self, saved):
        self.num_steps = saved["num_steps"]
        for own, other in zip(self.state.values(), saved["state"], strict=True):
            for name, tensor in own.items():
                tensor.copy_(other[name])

    @torch.no_grad()
    def step(self):
        self.num_steps += 1
        for group in self.param_groups:
            (self._muon if group["rule"] == "muon" else self._adamw)(**group)

    def _adamw(self, params, lr, betas, eps, weight_decay, **_):
        step = torch.tensor(float(self.num_steps), device=params[0].device)
        torch._fused_adamw_(params, [p.grad for p in params], [self.state[p]["mean"] for p in params],
                            [self.state[p]["mean_of_squares"] for p in params], [], [step] * len(params), lr=lr,
                            beta1=betas[0], beta2=betas[1], weight_decay=weight_decay, eps=eps, amsgrad=False,
                            maximize=False)

    def _muon(self, params, lr, momentum, weight_decay, dtype, parts, **_):
        grads, means = [p.grad for p in params], [self.state[p]["momentum"] for p in params]
        torch._foreach_lerp_(means, grads, 1 - momentum)
        updates = torch._foreach_lerp(grads, means, momentum)  # Nesterov: the mean as it will be
        torch._foreach_mul_(params, 1 - lr * weight_decay)
        by_shape = {}  # matrices of one shape go through the products together
        for p, update, rows in zip(params, updates, parts):
            for part, part_update in zip(p.split(rows), update.split(rows)):
                by_shape.setdefault(part.shape, []).append((part, part_update))
        for (rows, cols), pairs in by_shape.items():
            matrices, updates = zip(*pairs)
            new = orthogonalize(torch.stack(updates), dtype)
            torch._foreach_add_(matrices, list(new.unbind()), alpha=-lr * max(1, rows / cols) ** 0.5)


def configure_optimizer(model, args):
    """The groups of a GPT. With muon, the matrices of the blocks go by Muon and the rest by AdamW; matrices and, with
    adamw alone, embeddings decay, vectors never do."""
    adamw = {"rule": "adamw", "lr": args.learning_rate, "betas": (0.9, args.beta2), "eps": 1e-8}
    blocks = list(model.transformer.h.parameters())
    matrices = [p for p in blocks if p.dim() == 2]
    in_blocks = set(matrices)
    tables = [p for p in model.parameters() if p.dim() == 2 and p not in in_blocks]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    if args.optimizer == "adamw":
        return Optimizer([{**adamw, "params": matrices + tables, "weight_decay": args.weight_decay},
                          {**adamw, "params": vectors, "weight_decay": 0.0}])
    return Optimizer([
        {"rule": "muon", "params": matrices, "lr": args.muon_learning_rate, "momentum": args.muon_momentum,
         "weight_decay": args.weight_decay, "parts": [model.stacked_rows(p) for p in matrices],
         "dtype": torch.bfloat16 if args.dtype == "bfloat16" else torch.float32},
        {**adamw, "params": tables + vectors, "weight_decay": 0.0}])


def lr_fraction(iter_num, args):
    """The share of its highest learning rate that an iteration takes: a linear warm-up, a constant stretch, and over
    the last decay_share of lr_decay_iters a fall to min_lr_share along the schedule's curve."""
    if iter_num < args.warmup_iters:
        return (iter_num + 1) / (args.warmup_iters + 1)
    end = args.lr_decay_iters or args.max_iters
    start = max(args.warmup_iters, end * (1 - args.decay_share))
    fallen = min(1.0, max(0.0, (iter_num - start) / max(1, end - start)))
    if args.lr_schedule == "constant":
        return 1.0
    left = 0.5 * (1 + math.cos(math.pi * fallen)) if args.lr_schedule == "cosine" else 1 - fallen
    return args.min_lr_share + (1 - args.min_lr_share) * left


def block_size_at(iter_num, args):
    """The length of the windows an iteration trains on, in tokens: first_block_size for half of lr_decay_iters, then
    doubled in stages of equal length until block_size.

    Shorter windows are windows of block_size cut up, so the order of the data, the tokens of an iteration and what an
    epoch visits are the same as without.
    """
    length = args.first_block_size or args.block_size
    doublings = (args.block_size // length).bit_length() - 1
    second_half = 2 * iter_num / (args.lr_decay_iters or args.max_iters) - 1
    return length << min(doublings, max(0, 1 + math.floor(second_half * doublings)))
