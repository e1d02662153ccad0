"""The optimizer (Muon with AdamW, or AdamW alone), and the schedules of the learning rate and of
the window length.

Constructing a torch.optim.Optimizer imports the compiler, which costs a second at every start. This
class has the same interface (param_groups, state, state_dict) without that second.
"""
import math

import torch

# Polar Express (Amsel et al., 2025, arXiv:2505.16932). Each step applies the odd polynomial that
# brings all singular values as near to 1 as one such polynomial can; the divisions by powers of
# 1.01 are the paper's safety factor against rounding
POLAR_EXPRESS = tuple((a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
))


def orthogonalize(g, dtype=torch.float32):
    """(n, rows, cols) matrices -> about the nearest (semi-)orthogonal ones: the singular vectors
    stay, the singular values become about 1.

    dtype: of the products. bfloat16 is precise enough, and faster on processors that have it.
    """
    x = g.to(dtype)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x  # x @ x.mT below is then the smaller of the two possible products
    # the polynomials want singular values in 0..1; the largest one is at most the norm
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-7)
    for a, b, c in POLAR_EXPRESS:
        s = x @ x.mT
        polynomial = torch.baddbmm(s, s, s, beta=b, alpha=c)  # b s + c s s
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a x + (b s + c s s) x
    return (x.mT if tall else x).to(g.dtype)


class Optimizer:
    """One or two rules over groups of parameters. A group is a dict with "params", "rule" ("muon"
    or "adamw"), "lr", "weight_decay", and

    adamw: "betas", "eps" (Loshchilov and Hutter, arXiv:1711.05101). muon, for matrices only:
    "momentum", "dtype" (the name of orthogonalize()'s), and "parts", for each
        parameter the row counts of the matrices that are stacked in it. The update is the
        orthogonalized momentum (Jordan et al., kellerjordan.github.io/posts/muon).

    Weight decay is decoupled from the gradient: a step shrinks a weight by lr * weight_decay of it.
    """

    def __init__(self, groups, ranks=None):
        """ranks: the Ranks that share the work of Muon, if there are several."""
        self.ranks = ranks
        # a model may have no parameters of a kind, such as vectors
        self.param_groups = [group for group in groups if group["params"]]
        self.state = {p: self._new_state(p, group["rule"])
                      for group in self.param_groups for p in group["params"]}

    @staticmethod
    def _new_state(p, rule):
        if rule == "muon":
            return {"momentum_buffer": torch.zeros_like(p)}  # a running mean of the gradient
        if rule == "adamw":
            # running means of the gradient and of its square; step corrects their start at zero
            return {"step": torch.zeros((), device=p.device), "exp_avg": torch.zeros_like(p),
                    "exp_avg_sq": torch.zeros_like(p)}
        raise ValueError(f"the optimizer has no rule {rule!r}; it has muon and adamw")

    def zero_grad(self):
        for p in self.state:
            p.grad = None  # the next backward pass writes where it would otherwise add

    def state_dict(self):
        """The shape that torch.optim has: parameters are replaced by their numbers."""
        numbers = {p: number for number, p in enumerate(self.state)}
        return {"state": {numbers[p]: tensors for p, tensors in self.state.items()},
                "param_groups": [{**group, "params": [numbers[p] for p in group["params"]]}
                                 for group in self.param_groups]}

    def load_state_dict(self, saved):
        """Take over the tensors. Rates and decays stay those of this optimizer's own groups, since
        a resumed run may be given others."""
        for number, own in enumerate(self.state.values()):
            for name, tensor in own.items():
                tensor.copy_(saved["state"][number][name])

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            (self._muon if group["rule"] == "muon" else self._adamw)(**group)

    def _adamw(self, params, lr, betas, eps, weight_decay, **_):
        states = [self.state[p] for p in params]
        steps, means, squares = ([state[name] for state in states]
                                 for name in ("step", "exp_avg", "exp_avg_sq"))
        torch._foreach_add_(steps, 1)
        # one kernel for all parameters; torch has no public function for it
        torch._fused_adamw_(params, [p.grad for p in params], means, squares, [], steps, lr=lr,
                            beta1=betas[0], beta2=betas[1], weight_decay=weight_decay, eps=eps,
                            amsgrad=False, maximize=False)

    def _muon(self, params, lr, momentum, weight_decay, dtype, parts, **_):
        grads, means = [p.grad for p in params], [self.state[p]["momentum_buffer"] for p in params]
        torch._foreach_lerp_(means, grads, 1 - momentum)
        # Nesterov's momentum: look one step ahead along the mean
        updates = torch._foreach_lerp(grads, means, momentum)
        torch._foreach_mul_(params, 1 - lr * weight_decay)
        by_shape = {}  # matrices of one shape go through the products together, which is faster
        for p, update, rows in zip(params, updates, parts):
            # query, key and value lie in one parameter, and each is a matrix of its own
            for part, part_update in zip(p.split(rows), update.split(rows)):
                by_shape.setdefault(part.shape, []).append((part, part_update))
        for (rows, cols), pairs in by_shape.items():
            matrices, updates = zip(*pairs)
            new = self._orthogonalize(torch.stack(updates), getattr(torch, dtype))
            # a tall matrix takes a larger step, so that all outputs change at a similar rate
            torch._foreach_add_(matrices, list(new.unbind()),
                                alpha=-lr * max(1, rows / cols) ** 0.5)

    def _orthogonalize(self, g, dtype):
        """orthogonalize() of g (n, rows, cols), of which each rank does its part for all."""
        if self.ranks is None or self.ranks.count == 1:
            return orthogonalize(g, dtype)
        each = -(-len(g) // self.ranks.count)
        own = g[each * self.ranks.rank :][:each].to(dtype)
        # every rank sends as many; the last ones fill up with zeros, which stay zeros
        own = torch.cat((own, own.new_zeros(each - len(own), *g.shape[1:])))
        return self.ranks.gather(orthogonalize(own, dtype))[: len(g)].to(g.dtype)


def configure_optimizer(model, args, ranks=None):
    """The optimizer of a GPT. ranks: as Optimizer has it.

    With muon, the matrices of the blocks go by Muon, everything else by AdamW without decay: Muon
    is made for layers that multiply, and an embedding is a table of rows. With adamw, matrices and
    embeddings decay, and vectors (norms and biases) never do. """
    # 1e-8 keeps the division finite where a gradient has always been 0
    adamw = {"rule": "adamw", "lr": args.learning_rate, "betas": (0.9, args.beta2), "eps": 1e-8}
    matrices = [p for p in model.transformer.h.parameters() if p.dim() == 2]
    in_blocks = set(matrices)
    tables = [p for p in model.parameters() if p.dim() == 2 and p not in in_blocks]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    if len(matrices) + len(tables) + len(vectors) != len(list(model.parameters())):
        raise ValueError("a parameter of more than two dimensions has no optimizer yet")
    if args.optimizer == "adamw":
        return Optimizer([{**adamw, "params": matrices + tables, "weight_decay": args.weight_decay},
                          {**adamw, "params": vectors, "weight_decay": 0.0}])
    if args.optimizer != "muon":
        raise ValueError(f"optimizer must be muon or adamw, and is {args.optimizer!r}")
    muon = {"rule": "muon", "lr": args.muon_learning_rate, "momentum": args.muon_momentum,
            "weight_decay": args.weight_decay, "parts": [model.stacked_rows(p) for p in matrices],
            "dtype": "bfloat16" if args.dtype == "bfloat16" else "float32"}
    return Optimizer([{**muon, "params": matrices},
                      {**adamw, "params": tables + vectors, "weight_decay": 0.0}], ranks)


def lr_fraction(iter_num, args):
    """The fraction of its highest learning rate that iteration `iter_num` uses.

    It rises linearly over warmup_iters, stays at 1, and over the last decay_share of lr_decay_iters
    falls to min_lr_share along the curve that lr_schedule names.
    """
    if iter_num < args.warmup_iters:
        return (iter_num + 1) / (args.warmup_iters + 1)  # above 0 already at iteration 0
    if args.lr_schedule == "constant":
        return 1.0
    end = args.lr_decay_iters or args.max_iters  # where the minimum is reached
    start = max(args.warmup_iters, end * (1 - args.decay_share))
    progress = min(1.0, max(0.0, (iter_num - start) / max(1, end - start)))  # of the decay, 0..1
    if args.lr_schedule == "cosine":
        left = 0.5 * (1 + math.cos(math.pi * progress))
    elif args.lr_schedule == "linear":
        left = 1 - progress
    else:
        raise ValueError(f"lr_schedule {args.lr_schedule!r} is unknown")
    return args.min_lr_share + (1 - args.min_lr_share) * left


def block_size_at(iter_num, args):
    """The context length, in tokens, that iteration `iter_num` trains on: first_block_size for half
    of lr_decay_iters, then doubled in stages of equal length until block_size.

    Short windows train faster, and early on a model learns little from long ones. They are windows
    of block_size cut up, so the order of the data, the tokens of an iteration and what an epoch
    visits are the same with and without them. """
    length = args.first_block_size or args.block_size  # without the flag it never changes
    doublings = (args.block_size // length).bit_length() - 1
    second_half = 2 * iter_num / (args.lr_decay_iters or args.max_iters) - 1  # 0..1 in that half
    return length << min(doublings, max(0, 1 + math.floor(second_half * doublings)))
