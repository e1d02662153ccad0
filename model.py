"""A GPT in one file: GPTConfig holds its sizes, GPT(config) is the model.

GPT.forward() serves training; GPT.generate() and GPT.generate_tokens() serve sampling. Shapes are
written (B, T, C): B sequences in a batch, T tokens in each, C = n_embd channels for each token.
nh is n_head, and hs is head_dim, the width of one head. There are two architectures:

    modern   RMSNorm, rotary positions, norms on query and key, SwiGLU, grouped-query heads, two
             tables for embedding and head: the shape of Qwen3 (arXiv:2505.09388), and of Llama
             without the norms on query and key
    gpt2     learned positions, LayerNorm, GELU, one table for embedding and head (Radford et al.,
             2019); with bias=True exactly as published: biases, and the tanh formula of GELU
"""
import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn import functional as F

CHUNK_LOGITS = 1 << 25  # the most logits that a CPU holds at once in training; 134 MB in float32

ARCHS = ("modern", "gpt2")


@dataclass
class GPTConfig:
    block_size: int = 1024  # context length, in tokens
    vocab_size: int = 50257  # ids of all vocabularies together
    vocab_sizes: tuple = ()  # ids of each vocabulary, if there are several: one a dataset or stream
    arch: str = "modern"
    n_layer: int = 12
    n_head: int = 12
    n_kv_head: int = 12  # heads of keys and values; fewer than n_head are shared (modern)
    n_embd: int = 768
    # channels inside the MLP; None stands for 4 n_embd (gpt2), or for 8/3 n_embd, rounded up to a
    # multiple of 64 (modern): SwiGLU has three matrices where GELU has two, so each is 2/3 as wide
    n_hidden: int | None = None
    dropout: float = 0.0
    bias: bool = False  # biases in Linear and LayerNorm, as in GPT-2 (gpt2)
    # GELU by its definition, which takes half the time on CPUs, or by the tanh formula of GPT-2;
    # None stands for exact without bias (gpt2)
    exact_gelu: bool | None = None
    head_dim: int | None = None  # channels of one head; None stands for n_embd / n_head
    tied_head: bool | None = None  # one table for embedding and head; None: with gpt2 alone
    rope_theta: float = 10_000.0  # longest wavelength of rotary positions, in 2 pi tokens (modern)
    norm_eps: float | None = None  # keeps norms finite; None stands for 1e-6, or 1e-5 (gpt2)
    qk_norm: bool = True  # norms on query and key (modern)

    def __post_init__(self):
        if self.arch not in ARCHS:
            raise ValueError(f"arch must be {' or '.join(ARCHS)}, and is {self.arch!r}")
        if self.n_hidden is None:
            gpt2, modern = 4 * self.n_embd, -(-self.n_embd * 8 // 3 // 64) * 64
            self.n_hidden = gpt2 if self.arch == "gpt2" else modern
        if self.head_dim is None:
            assert self.n_embd % self.n_head == 0
            self.head_dim = self.n_embd // self.n_head
        if self.exact_gelu is None:
            self.exact_gelu = not self.bias
        if self.tied_head is None:
            self.tied_head = self.arch == "gpt2"
        if self.norm_eps is None:
            self.norm_eps = 1e-5 if self.arch == "gpt2" else 1e-6
        assert self.n_head % self.n_kv_head == 0


class KVCache:
    """Keys and values of the tokens so far, so that a new token need not compute them again.

    Each layer has two tensors (B, n_kv_head, size, hs), filled up to `length` tokens.
    """

    def __init__(self, config, batch_size, size, device, dtype):
        shape = (batch_size, config.n_kv_head, size, config.head_dim)
        # allocated once at full size: growing them would copy everything for each token
        self.layers = [[torch.empty(shape, device=device, dtype=dtype) for _ in range(2)]
                       for _ in range(config.n_layer)]
        self.length = 0

    def extend(self, layer, k, v):
        """Append k, v (B, n_kv_head, T, hs); return all keys and all values of that layer."""
        T = k.size(2)
        for stored, new in zip(self.layers[layer], (k, v)):
            stored.narrow(2, self.length, T).copy_(new)
        return (stored.narrow(2, 0, self.length + T) for stored in self.layers[layer])


def inverse_rms(x, eps):
    """x (..., C) -> (..., 1) float32: 1 / the root of the mean square over the channels."""
    # summed in float32: bfloat16 has 8 significant bits, and a long sum would lose small terms
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
    return square.div_(x.size(-1)).add_(eps).rsqrt_()


class NormOnCPU(torch.autograd.Function):
    """RMSNorm on CPUs, where torch composes it of several operations that take twice as long."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        scale = inverse_rms(x, eps)
        # x * scale is computed again in backward(): that costs less than to keep it in memory
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        normed, dnormed = x * scale, grad * weight
        dweight = (grad * normed).sum_to_size(weight.shape)
        # the norm fixes the length of x, so the part of the gradient along x has no effect
        along = (dnormed * normed).mean(-1, keepdim=True)
        dx = torch.addcmul(dnormed, normed, along, value=-1).mul_(scale)
        return dx.to(x.dtype), dweight, None


def rms_norm(x, weight, eps):
    """x (..., C) scaled to a mean square of 1, times weight (C) or (nh, C) (arXiv:1910.07467)."""
    if x.device.type != "cpu":
        # not weight.to(x.dtype): bfloat16 would round a gain of 1.003 to 1
        return F.rms_norm(x, x.shape[-1:], eps=eps) * weight
    if torch.is_grad_enabled():
        return NormOnCPU.apply(x, weight, eps)
    return (x * inverse_rms(x, eps)).mul_(weight)


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x):
        return rms_norm(x, self.weight, self.eps)


def norm(config):
    if config.arch == "modern":
        return RMSNorm(config.n_embd, config.norm_eps)
    return nn.LayerNorm(config.n_embd, config.norm_eps, bias=config.bias)


def rotary_table(block_size, hs, theta):
    """Cosine and sine of the angle by which each position turns each pair of channels.

    Returns two tensors (block_size, 1, hs); the sine of a pair's first channel is negated, as
    rotate() needs it. Rotary positions: arXiv:2104.09864.
    """
    # the first pairs turn fast and tell neighbours apart, the last ones turn slowly over the text
    frequencies = theta ** (-torch.arange(0, hs, 2).float() / hs)
    angles = torch.outer(torch.arange(block_size).float(), frequencies)[:, None]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x, cos, sin):
    """Turn x (B, T, nh, hs) by its positions' angles; channels i and i + hs/2 form a pair."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)


def visible(positions):
    """(B, 1, T, T) bool: which keys each query sees, those of its own document up to itself.

    positions: (B, T), of each token in its document.
    """
    index = torch.arange(positions.size(1), device=positions.device)
    begin = index - positions  # of the token's document, in the row
    return ((begin[:, :, None] == begin[:, None, :]) & (index[:, None] >= index))[:, None]


def attention(q, k, v, **options):
    """F.scaled_dot_product_attention of q (B, nh, T, hs), k and v (B, n_kv_head, T, hs).

    On CPUs always in float32: there bfloat16 takes 5 times as long.
    """
    # every query is compared with every key; the softmax of the scores weighs the values
    device, shared = q.device.type, q.size(1) // k.size(1)
    has_mask = options.get("attn_mask") is not None  # which FlashAttention does not take
    if shared > 1 and device == "cuda" and (has_mask or not has_grouped_kernel(q)):
        k, v = (part.repeat_interleave(shared, dim=1) for part in (k, v))
        shared = 1
    options["enable_gqa"] = shared > 1
    if device != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(q, k, v, **options)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **options)


def has_grouped_kernel(q):
    """Whether CUDA has a fast kernel for key and value heads that several query heads share.

    FlashAttention is the only one, and it needs 16 bits and an Ampere GPU. Without it torch would
    write out all scores, (B, nh, T, T).
    """
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else q.dtype
    return dtype != torch.float32 and torch.cuda.get_device_properties(q.device).major >= 8


class CausalSelfAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.dropout = layer, config.dropout
        self.n_head, self.n_kv_head = config.n_head, config.n_kv_head
        self.hs, self.eps = config.head_dim, config.norm_eps
        # one product computes query, key and value of all heads: few large products beat many small
        width = (self.n_head + 2 * self.n_kv_head) * self.hs
        self.c_attn = nn.Linear(config.n_embd, width, bias=config.bias)
        self.c_proj = nn.Linear(self.n_head * self.hs, config.n_embd, bias=config.bias)
        self.q_norm = self.k_norm = None
        if config.arch == "modern" and config.qk_norm:
            # with norms, attention scores stay small, and high learning rates stay stable
            self.q_norm, self.k_norm = (nn.Parameter(torch.ones(self.hs)) for _ in range(2))

    def forward(self, x, rotary, cache=None, mask=None):
        B, T, _ = x.shape
        nh, n_kv_head = self.n_head, self.n_kv_head
        heads = self.c_attn(x).view(B, T, -1, self.hs)  # (B, T, nh + 2 n_kv_head, hs)
        if rotary is not None:
            # query and key go through norm and rotation together: half as many calls
            qk, v = heads.split((nh + n_kv_head, n_kv_head), dim=2)
            if self.q_norm is not None:
                weight = torch.cat((self.q_norm.expand(nh, -1), self.k_norm.expand(n_kv_head, -1)))
                qk = rms_norm(qk, weight, self.eps)
            q, k = rotate(qk, *rotary).split((nh, n_kv_head), dim=2)
        else:
            q, k, v = heads.split((nh, n_kv_head, n_kv_head), dim=2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, nh or n_kv_head, T, hs)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        # a single new token may look at everything before it; several at once are a prompt (or a
        # training batch), in which no token may look at a later one
        y = attention(q, k, v, attn_mask=mask, is_causal=T > 1 and mask is None,
                      dropout_p=self.dropout if self.training else 0.0)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, -1))  # the heads side by side again


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.n_hidden, bias=config.bias)
        is_gated = config.arch == "modern"
        self.c_gate = nn.Linear(config.n_embd, config.n_hidden, bias=False) if is_gated else None
        self.c_proj = nn.Linear(config.n_hidden, config.n_embd, bias=config.bias)
        self.gelu = "none" if config.exact_gelu else "tanh"

    def forward(self, x):
        # each token by itself: wider, through a curve, and back to the width of the model
        if self.c_gate is not None:  # SwiGLU: one product gates the other (arXiv:2002.05202)
            return self.c_proj(self.c_fc(x) * F.silu(self.c_gate(x)))
        return self.c_proj(F.gelu(self.c_fc(x), approximate=self.gelu))


class Block(nn.Module):
    """One layer: attention moves information between tokens, the MLP works on each token alone."""

    def __init__(self, config, layer):
        super().__init__()
        self.ln_1, self.attn = norm(config), CausalSelfAttention(config, layer)
        self.ln_2, self.mlp = norm(config), MLP(config)
        self.dropout = config.dropout

    def forward(self, x, rotary, cache=None, mask=None):
        # each part adds to x, so that gradients reach the first layer undiminished. The norms come
        # before the parts, because a norm on the path itself would change the gradients
        x = x + F.dropout(self.attn(self.ln_1(x), rotary, cache, mask), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.ln_2(x)), self.dropout, self.training)


class HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of the logits x @ weight.T, of which only some rows exist at a time.

    The arguments are those of head_loss(). With 50,000 ids the logits of one batch would fill
    gigabytes. Each chunk's gradient is computed in forward(), while its logits exist, so that
    backward() need not compute them again.
    """

    @staticmethod
    def forward(ctx, x, weight, vocab_size, targets, vocabulary, learned):
        device, needs_grad = x.device.type, any(ctx.needs_input_grad)
        # cast once here: autocast would do it again for each product of each chunk
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        table, rows = weight.to(dtype), rows_at_once(x.device, weight.size(0))
        total, dx, dweight = 0.0, [], torch.zeros_like(weight) if needs_grad else None
        masks = itertools.repeat(None) if learned is None else learned[:, None].split(rows)
        for part, target, mask in zip(x.to(dtype).split(rows), targets.split(rows), masks):
            # the whole table, because a product of 50,257 columns is slower than one of 50,304
            logits = (part @ table.T).float()
            logits[:, vocab_size:] = -math.inf  # the padding has no part in the softmax
            if vocabulary is not None:
                logits[:, :vocab_size].masked_fill_(others(target, vocabulary), -math.inf)
            log_p = logits.log_softmax(-1)
            of_targets = log_p.gather(1, target[:, None])
            total = total - (of_targets if mask is None else of_targets * mask).sum()
            if needs_grad:
                # d loss / d logits of a softmax: its probabilities, less 1 at the target
                dlogits = log_p.exp_()
                dlogits[torch.arange(len(target), device=x.device), target] -= 1
                dlogits = (dlogits if mask is None else dlogits.mul_(mask)).to(dtype)
                dx.append((dlogits @ table).to(x.dtype))
                dweight += dlogits.T @ part
        if needs_grad:
            ctx.save_for_backward(torch.cat(dx), dweight)
        return total / len(targets)

    @staticmethod
    def backward(ctx, grad):
        dx, dweight = ctx.saved_tensors
        scale = grad / len(dx)  # divided here, not in forward(): float16 would round it to 0 there
        return dx * scale, dweight * scale, None, None, None, None


def rows_at_once(device, num_columns):
    """How many rows of logits, each of num_columns, HeadLoss holds at a time on this device."""
    if device.type != "cuda":
        return max(1, CHUNK_LOGITS // num_columns)
    # large products keep a GPU busy: in float32 the logits may fill 1/64 of its memory. It computes
    # them in tiles of 128 rows
    most = torch.cuda.get_device_properties(device).total_memory // 64 // 4
    return max(128, most // num_columns // 128 * 128)


def others(targets, vocabulary):
    """(N, vocab_size) bool: the ids of another vocabulary than the target's.

    vocabulary: (vocab_size,), the number of the vocabulary that each id belongs to.
    """
    return vocabulary[targets][:, None] != vocabulary


def head_loss(x, weight, vocab_size, targets, vocabulary=None, learned=None):
    """(logits (N, vocab_size), mean loss); logits are None if there would be over CHUNK_LOGITS.

    x (N, C), weight (rows, C), of which those from vocab_size on are padding, targets (N,),
    vocabulary as in others(), or None: a target's probability is one among the ids of its own.
    learned (N,) bool, or None: the loss of the other targets is 0. The mean is over all N.
    """
    if targets.numel() * vocab_size > CHUNK_LOGITS:
        return None, HeadLoss.apply(x, weight, vocab_size, targets, vocabulary, learned)
    # few logits: plain operations, which keep all of them until backward()
    logits = F.linear(x, weight)[:, :vocab_size]
    if vocabulary is not None:
        logits = logits.masked_fill(others(targets, vocabulary), -math.inf)
    if learned is None:
        return logits, F.cross_entropy(logits, targets)
    return logits, (F.cross_entropy(logits, targets, reduction="none") * learned).mean()


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        # padded to a multiple of 64, a size that matrix products are fast at; forward() cuts the
        # padding off the logits, so that no padding id is ever predicted
        rows = -(-config.vocab_size // 64) * 64
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(rows, config.n_embd),
            drop=nn.Dropout(config.dropout),
            h=nn.ModuleList(Block(config, layer) for layer in range(config.n_layer)),
            ln_f=norm(config),
        ))
        # the head's rows are compared with the last layer's output: one row, one logit
        self.lm_head = nn.Linear(config.n_embd, rows, bias=False)
        if config.arch == "gpt2":
            self.transformer.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.tie_and_make_tables()
        self.apply(self._init_gpt2 if config.arch == "gpt2" else self._init_modern)

    def tie_and_make_tables(self):
        """What the sizes alone determine. The tables are not persistent: no checkpoint needs them.
        """
        config, device = self.config, self.lm_head.weight.device
        if config.tied_head:
            self.lm_head.weight = self.transformer.wte.weight  # arXiv:1608.05859
        sizes, tables = config.vocab_sizes, {"vocabulary": None}
        if len(sizes) > 1:  # which vocabulary each id belongs to
            tables["vocabulary"] = torch.repeat_interleave(
                torch.arange(len(sizes)), torch.tensor(sizes), output_size=sum(sizes))
        if config.arch == "modern":
            tables["cos"], tables["sin"] = rotary_table(config.block_size, config.head_dim,
                                                        config.rope_theta)
        for name, table in tables.items():
            table = None if table is None else table.to(device)
            self.register_buffer(name, table, persistent=False)

    def _init_gpt2(self, module):
        """Normal with deviation 0.02, as in the GPT-2 paper."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, (CausalSelfAttention, MLP)):  # apply() comes to the children first
            # 2 n_layer parts are added up along the layers; smaller ones keep the sum's variance
            nn.init.normal_(module.c_proj.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))

    def _init_modern(self, module):
        """Each matrix keeps the variance of its input; c_proj and the head start at zero.

        So every block starts as the identity, and the first loss is ln(vocab_size).
        """
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if isinstance(module, (CausalSelfAttention, MLP)):
            nn.init.zeros_(module.c_proj.weight)
        if module is self and not self.config.tied_head:  # a table of zeros would tell nothing
            nn.init.zeros_(self.lm_head.weight)

    def stacked_rows(self, p):
        """The rows of each matrix stacked in parameter p of a block: c_attn holds q, k and v."""
        attn = self.transformer.h[0].attn
        if not any(p is block.attn.c_attn.weight for block in self.transformer.h):
            return [p.size(0)]
        return [heads * attn.hs for heads in (attn.n_head, attn.n_kv_head, attn.n_kv_head)]

    def num_params(self):
        """The number of parameters, without the position embedding and the padding rows."""
        wte, config = self.transformer.wte, self.config
        padding = (wte.num_embeddings - config.vocab_size) * config.n_embd
        total = sum(p.numel() for p in self.parameters())  # counts a tied table once
        if config.arch == "gpt2":
            total -= self.transformer.wpe.weight.numel()
        return total - padding * (1 if config.tied_head else 2)

    def flops_per_token(self):
        """Operations of a training step for each token (PaLM, arXiv:2204.02311, appendix B).

        6 a parameter: a multiplication and an addition forward, twice as many backward. Attention
        adds 12 * n_layer * n_head * hs * block_size.
        """
        config = self.config
        # an embedding that is not the head too is only looked up, never multiplied
        looked_up = 0 if config.tied_head else config.vocab_size * config.n_embd
        attention = 12 * config.n_layer * config.n_head * config.head_dim * config.block_size
        return 6 * (self.num_params() - looked_up) + attention

    def forward(self, idx, targets=None, cache=None, learned=None, positions=None):
        """idx and targets: (B, T) int64. Returns (logits, mean loss in nats a token).

        With targets, logits are (B, T, vocab_size), or None if they would be over CHUNK_LOGITS.
        Without, they are those of the last position, (B, 1, vocab_size), and the loss is None.
        With K aligned streams, idx and targets are (B, T, K), the logits of targets are None, and
        the losses (K,). cache: a KVCache that holds the tokens before idx. learned: (B, T) bool;
        the other targets add 0 to the mean, which is over all. positions: (B, T) int64, of each
        token in its document; a token then sees its own document alone.
        """
        vocab_size = self.config.vocab_size
        x = self.blocks(idx, cache, positions)
        if targets is None:  # sampling needs the last position alone; the head is a large product
            return self.lm_head(self.transformer.ln_f(x[:, -1:]))[..., :vocab_size], None
        x = self.transformer.ln_f(x).flatten(0, 1)  # (B * T, C)
        learned = None if learned is None else learned.flatten()
        if targets.dim() == 3:
            losses, first = [], 0
            # each stream has its own rows of the head
            for k, size in enumerate(self.config.vocab_sizes):
                weight, own = self.lm_head.weight[first : first + size], targets[..., k].flatten()
                losses.append(head_loss(x, weight, size, own - first, learned=learned)[1])
                first += size
            return None, torch.stack(losses)
        logits, loss = head_loss(x, self.lm_head.weight, vocab_size, targets.flatten(),
                                 self.vocabulary, learned)
        return None if logits is None else logits.unflatten(0, idx.shape), loss

    def blocks(self, idx, cache=None, positions=None):
        """idx (B, T[, K]) -> (B, T, C): what the last layer makes of each token, before the norm
        ln_f and the head. The arguments are those of forward()."""
        T = idx.size(1)
        start = cache.length if cache is not None else 0  # the position of idx's first token
        assert start + T <= self.config.block_size, (
            f"{start} + {T} tokens exceed block_size {self.config.block_size}")
        x, rotary = self.transformer.wte(idx), None  # (B, T, C), or (B, T, K, C)
        if idx.dim() == 3:
            x = x.sum(2)  # the embeddings of aligned streams add up, as token and position do
        at = slice(start, start + T) if positions is None else positions
        if self.config.arch == "gpt2":
            x = x + self.transformer.wpe.weight[at]
        else:
            rotary = self.cos[at], self.sin[at]  # (T, 1, hs), or (B, T, 1, hs)
        mask = None if positions is None else visible(positions)
        x = self.transformer.drop(x)  # so that no single channel is relied on
        for block in self.transformer.h:
            x = block(x, rotary, cache, mask)
        if cache is not None:  # only now: all layers have appended at the same place
            cache.length += T
        return x

    @torch.inference_mode()
    def generate_tokens(self, idx, max_new_tokens, choose=None, **options):
        """Continue idx (B, t) int64: yield the next token of each row, (B, 1), so many times.

        choose(logits (B, vocab_size), **options) -> (B, 1) picks them; it is sample_token() if not
        given. With idx (B, t, K) choose must return (B, 1, K).
        """
        T, choose = self.config.block_size, choose or sample_token
        context = new = idx[:, -T:]
        size = min(T, new.size(1) + max_new_tokens)  # published models have long contexts
        cache = KVCache(self.config, idx.size(0), size, idx.device, self.lm_head.weight.dtype)
        for _ in range(max_new_tokens):
            if cache.length + new.size(1) > T:
                # the cache is full, and cached tokens cannot move to other positions. The last half
                # of the context is read again; to read all but one token would cost that each time
                cache.length, context = 0, context[:, -max(1, T // 2) :]
                new = context
            # only the new tokens go through the model: the cache has the others' keys and values
            new = choose(self(new, cache=cache)[0][:, -1].float(), **options)
            yield new
            context = torch.cat((context, new), dim=1)

    def generate(self, idx, max_new_tokens, **options):
        """Continue idx (B, t[, K]) int64 -> (B, t + max_new_tokens[, K]), by generate_tokens()."""
        return torch.cat((idx, *self.generate_tokens(idx, max_new_tokens, **options)), dim=1)


def sample_token(logits, temperature=1.0, top_k=None, top_p=1.0, generator=None):
    """logits (B, vocab_size) -> (B, 1) int64: a random token for each row, by its probability.

    A temperature of 0 (or below 1e-30) takes the likeliest token. top_k allows the k likeliest,
    top_p the fewest likeliest whose probabilities sum to at least top_p (arXiv:1904.09751).
    """
    if temperature < 1e-30:  # the inverse of a smaller number overflows in float32
        return logits.argmax(-1, keepdim=True)
    # the largest logit becomes 0, so that no temperature lets the softmax overflow
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature
    if top_k is not None and top_k < logits.size(-1):
        least = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)  # exp(-inf) = 0: never drawn
    if top_p < 1:  # costs a sort of the whole vocabulary, so only if asked for
        ordered, tokens = logits.sort(descending=True)
        probability = ordered.softmax(-1)
        before = probability.cumsum(-1) - probability  # of all likelier tokens together
        ordered = ordered.masked_fill(before >= top_p, -math.inf)  # these suffice without this one
        logits = logits.scatter(-1, tokens, ordered)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)
