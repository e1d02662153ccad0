"""A GPT in one file: GPTConfig, GPT(config).forward for training, GPT.generate for sampling.

Shapes are written (B, T, C): batch, time (tokens), channels (n_embd); nh is n_head, hs = C / nh the width of a head.
Two architectures, chosen by name:

    modern   RMSNorm, rotary positions, norms on query and key, SwiGLU, grouped-query heads, untied embedding and head:
             the shape of Qwen3 (arXiv:2505.09388)
    gpt2     learned positions, LayerNorm, GELU, tied embedding and head (Radford et al., 2019); with bias, as it was
             published: biases, and GELU by tanh
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn import functional as F

CHUNK_LOGITS = 1 << 25  # logits held at once in training; 134 MB in float32
ROPE_THETA = 10_000.0  # the longest wavelength of the rotary positions, in 2 pi tokens


@dataclass
class GPTConfig:
    block_size: int = 1024  # the longest context, in tokens
    vocab_size: int = 50257  # of all vocabularies together, one behind the other
    vocab_sizes: tuple = ()  # of each, where there are several: of streams, or of datasets
    arch: str = "modern"
    n_layer: int = 12
    n_head: int = 12
    n_kv_head: int = 12  # heads of keys and values; fewer than n_head share them in groups (modern)
    n_embd: int = 768
    n_hidden: int | None = None  # width inside the MLP; None: 4 n_embd (gpt2), 8/3 n_embd, up to a multiple of 64 (modern)
    dropout: float = 0.0
    bias: bool = False  # in Linear and LayerNorm layers, and GELU's approximation by tanh: GPT-2 to the letter (gpt2)

    def __post_init__(self):
        if self.n_hidden is None:  # SwiGLU has three matrices where GELU has two, so each is 2/3 as wide
            self.n_hidden = 4 * self.n_embd if self.arch == "gpt2" else -(-self.n_embd * 8 // 3 // 64) * 64
        assert self.arch in ("modern", "gpt2") and self.n_embd % self.n_head == 0 and self.n_head % self.n_kv_head == 0


class KVCache:
    """Keys and values of the tokens seen so far, (B, n_kv_head, block_size, hs) a layer; the first `length` are filled."""

    def __init__(self, config, batch_size, device, dtype):
        shape = (batch_size, config.n_kv_head, config.block_size, config.n_embd // config.n_head)
        self.layers = [(torch.empty(shape, device=device, dtype=dtype), torch.empty(shape, device=device, dtype=dtype))
                       for _ in range(config.n_layer)]
        self.length = 0

    def extend(self, layer, k, v):
        """Store k, v (B, n_kv_head, T, hs) behind what is there; all of that layer's keys and values so far."""
        end = self.length + k.size(2)
        for store, new in zip(self.layers[layer], (k, v)):
            store.narrow(2, self.length, k.size(2)).copy_(new)
        return (store.narrow(2, 0, end) for store in self.layers[layer])


def inverse_rms(x, eps):
    """x (..., C) -> (..., 1) float32: 1 / the root of the mean square of the last dimension."""
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_()
    return square.div_(x.size(-1)).add_(eps).rsqrt_()


class NormOnCPU(torch.autograd.Function):
    """F.rms_norm(x, weight): torch has no kernel of its own for CPUs, and its sum of parts takes twice as long."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        scale = inverse_rms(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        normed, dnormed = x * scale, grad * weight
        dweight = (grad * normed).sum_to_size(weight.shape)
        along = (dnormed * normed).mean(-1, keepdim=True)  # what would change the length alone
        return torch.addcmul(dnormed, normed, along, value=-1).mul_(scale).to(x.dtype), dweight, None


def rms_norm(x, weight, eps=1e-6):
    """x (..., C) with its last dimension brought to a mean square of 1, times weight, (C) or (nh, C)."""
    if x.device.type != "cpu":
        return F.rms_norm(x, x.shape[-1:], eps=eps) * weight.to(x.dtype)
    return NormOnCPU.apply(x, weight, eps) if torch.is_grad_enabled() else (x * inverse_rms(x, eps)).mul_(weight)


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return rms_norm(x, self.weight)


def norm(config):
    return RMSNorm(config.n_embd) if config.arch == "modern" else nn.LayerNorm(config.n_embd, bias=config.bias)


def rotary_table(block_size, hs):
    """(cos, sin), each (block_size, 1, hs): the angle of a position for each pair of channels (arXiv:2104.09864); the
    sine of a pair's first channel is negated."""
    frequencies = ROPE_THETA ** (-torch.arange(0, hs, 2).float() / hs)
    angles = torch.outer(torch.arange(block_size).float(), frequencies)[:, None]
    return torch.cat((angles.cos(), angles.cos()), -1), torch.cat((-angles.sin(), angles.sin()), -1)


def rotate(x, cos, sin):
    """x (B, T, nh, hs): channel i and i + hs/2, as a pair, turned by the angle of the position."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, dims=-1), sin)


def attention(q, k, v, **how):
    """F.scaled_dot_product_attention; on CPUs in float32 under autocast too, where bfloat16 takes five times as long."""
    if q.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return F.scaled_dot_product_attention(q, k, v, **how)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), **how)


class CausalSelfAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.dropout = layer, config.dropout
        self.n_head, self.n_kv_head, self.hs = config.n_head, config.n_kv_head, config.n_embd // config.n_head
        # query, key and value of all heads in one product
        self.c_attn = nn.Linear(config.n_embd, (self.n_head + 2 * self.n_kv_head) * self.hs, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        if config.arch == "modern":
            self.q_norm, self.k_norm = (nn.Parameter(torch.ones(self.hs)) for _ in range(2))

    def forward(self, x, rotary, cache=None):
        B, T, C = x.shape
        nh, n_kv_head, heads = self.n_head, self.n_kv_head, self.c_attn(x).view(B, T, -1, self.hs)
        if rotary is not None:  # query and key together: as many numbers, half the operations
            qk, v = heads.split((nh + n_kv_head, n_kv_head), dim=2)
            weight = torch.cat((self.q_norm.expand(nh, -1), self.k_norm.expand(n_kv_head, -1)))
            q, k = rotate(rms_norm(qk, weight), *rotary).split((nh, n_kv_head), dim=2)
        else:
            q, k, v = heads.split((nh, n_kv_head, n_kv_head), dim=2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, nh, T, hs), k and v with n_kv_head
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        # one new token looks at everything before it; several at once are a prompt, and need the causal mask
        y = attention(q, k, v, is_causal=T > 1, enable_gqa=n_kv_head != nh,
                      dropout_p=self.dropout if self.training else 0.0)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, config.n_hidden, bias=config.bias)
        self.c_gate = nn.Linear(config.n_embd, config.n_hidden, bias=False) if config.arch == "modern" else None
        self.c_proj = nn.Linear(config.n_hidden, config.n_embd, bias=config.bias)
        self.gelu = "tanh" if config.bias else "none"  # on CPUs the exact one takes half the time

    def forward(self, x):
        if self.c_gate is not None:  # SwiGLU (arXiv:2002.05202)
            return self.c_proj(self.c_fc(x) * F.silu(self.c_gate(x)))
        return self.c_proj(F.gelu(self.c_fc(x), approximate=self.gelu))


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.ln_1, self.attn = norm(config), CausalSelfAttention(config, layer)
        self.ln_2, self.mlp = norm(config), MLP(config)
        self.dropout = config.dropout

    def forward(self, x, rotary, cache=None):
        x = x + F.dropout(self.attn(self.ln_1(x), rotary, cache), self.dropout, self.training)
        return x + F.dropout(self.mlp(self.ln_2(x)), self.dropout, self.training)


class HeadLoss(torch.autograd.Function):
    """The mean cross-entropy of x @ weight.T, CHUNK_LOGITS logits at a time: a vocabulary of 50,000 fills no memory.

    x (N, C), weight (vocab_size, C), targets (N,), vocabulary as in masked(). The gradient is taken on the way forward,
    where a chunk's logits are at hand.
    """

    @staticmethod
    def forward(ctx, x, weight, targets, vocabulary):
        rows = max(1, CHUNK_LOGITS // weight.size(0))
        total, dx, dweight = 0.0, [], torch.zeros_like(weight)
        for part, target in zip(x.split(rows), targets.split(rows)):
            logits = masked((part @ weight.T).float(), target, vocabulary)
            total = total + F.cross_entropy(logits, target, reduction="sum")
            if any(ctx.needs_input_grad):
                dlogits = logits.softmax(-1)
                dlogits[torch.arange(len(target), device=x.device), target] -= 1
                dx.append((dlogits @ weight).to(x.dtype))
                dweight += dlogits.T @ part
        if dx:
            ctx.save_for_backward(torch.cat(dx), dweight)
        return total / len(targets)

    @staticmethod
    def backward(ctx, grad):
        dx, dweight = ctx.saved_tensors
        scale = grad / len(dx)  # here, not above: float16 would lose values that small
        return dx * scale, dweight * scale, None, None


def masked(logits, targets, vocabulary):
    """logits (N, vocab_size) without the columns of other vocabularies than the target's. vocabulary: (vocab_size,), which
    one each id belongs to, or None where there is one alone."""
    if vocabulary is None:
        return logits
    return logits.masked_fill(vocabulary[targets][:, None] != vocabulary, -math.inf)


def head_loss(x, weight, vocab_size, targets, vocabulary=None):
    """(logits (N, vocab_size) or, where they would be more than CHUNK_LOGITS, None; mean loss). weight may have rows behind
    vocab_size; the other arguments as in HeadLoss."""
    if targets.numel() * vocab_size > CHUNK_LOGITS:
        return None, HeadLoss.apply(x, weight[:vocab_size], targets, vocabulary)
    logits = masked(F.linear(x, weight)[:, :vocab_size], targets, vocabulary)
    return logits, F.cross_entropy(logits, targets)


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        rows = -(-config.vocab_size // 64) * 64  # padded: matrix products like multiples of 64
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(rows, config.n_embd),
            drop=nn.Dropout(config.dropout),
            h=nn.ModuleList(Block(config, layer) for layer in range(config.n_layer)),
            ln_f=norm(config),
        ))
        self.lm_head = nn.Linear(config.n_embd, rows, bias=False)
        vocabulary = torch.repeat_interleave(torch.arange(len(config.vocab_sizes)), torch.tensor(config.vocab_sizes, dtype=int),
                                             output_size=sum(config.vocab_sizes))
        self.register_buffer("vocabulary", vocabulary if len(config.vocab_sizes) > 1 else None, persistent=False)
        if config.arch == "gpt2":
            self.transformer.wpe = nn.Embedding(config.block_size, config.n_embd)
            self.lm_head.weight = self.transformer.wte.weight  # tied: https://arxiv.org/abs/1608.05859
        else:
            for name, table in zip(("cos", "sin"), rotary_table(config.block_size, config.n_embd // config.n_head)):
                self.register_buffer(name, table, persistent=False)
        self.apply(self._init_gpt2 if config.arch == "gpt2" else self._init_modern)

    def _init_gpt2(self, module):
        """Normal with 0.02; the 2 * n_layer parts that add to the residual stream smaller, as in the GPT-2 paper."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, (CausalSelfAttention, MLP)):  # apply() comes to the children first
            nn.init.normal_(module.c_proj.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))

    def _init_modern(self, module):
        """Variance kept by each matrix; what adds to the residual stream, and the head, start at zero: the first
        loss is ln(vocab_size), and the first step moves the head alone."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if isinstance(module, (CausalSelfAttention, MLP)):
            nn.init.zeros_(module.c_proj.weight)
        if module is self:
            nn.init.zeros_(self.lm_head.weight)

    def stacked_rows(self, p):
        """Rows of each matrix in a block's parameter: c_attn holds query, key and value."""
        attn = self.transformer.h[0].attn
        is_stacked = any(p is block.attn.c_attn.weight for block in self.transformer.h)
        return [n * attn.hs for n in (attn.n_head, attn.n_kv_head, attn.n_kv_head)] if is_stacked else [p.size(0)]

    def num_params(self):
        """Parameters, without the position embedding and the padding rows."""
        padding = (self.transformer.wte.num_embeddings - self.config.vocab_size) * self.config.n_embd
        if self.config.arch == "gpt2":
            return sum(p.numel() for p in self.parameters()) - self.transformer.wpe.weight.numel() - padding
        return sum(p.numel() for p in self.parameters()) - 2 * padding

    def flops_per_token(self):
        """FLOPs of a training step, for each token: 6 a parameter, and 12 * n_layer * n_embd *
        block_size for attention (PaLM, appendix B, arXiv:2204.02311)."""
        config, tied = self.config, self.lm_head.weight is self.transformer.wte.weight
        look_up = 0 if tied else config.vocab_size * config.n_embd  # an embedding multiplies nothing
        return (6 * (self.num_params() - look_up)
                + 12 * config.n_layer * config.n_embd * config.block_size)

    def forward(self, idx, targets=None, cache=None):
        """idx, targets: (B, T) int64. With targets: (logits (B, T, vocab_size), mean loss in nats), the logits None where
        they would be more than CHUNK_LOGITS; without: (logits of the last position (B, 1, vocab_size), None).

        With idx, targets (B, T, K) of K streams: the losses (K,), one a stream, and no logits of targets.
        cache: a KVCache that holds the tokens before idx."""
        T = idx.size(1)
        start = cache.length if cache is not None else 0  # the position of the first token
        assert start + T <= self.config.block_size, f"{start} + {T} tokens exceed block_size {self.config.block_size}"
        x, rotary = self.transformer.wte(idx), None  # (B, T, C)
        if idx.dim() == 3:  # streams: what stands side by side is added up
            x = x.sum(2)
        if self.config.arch == "gpt2":
            x = x + self.transformer.wpe.weight[start : start + T]
        else:
            rotary = self.cos[start : start + T], self.sin[start : start + T]
        x = self.transformer.drop(x)
        for block in self.transformer.h:
            x = block(x, rotary, cache)
        if cache is not None:
            cache.length += T
        if targets is None:
            x = x[:, -1:]
        x, vocab_size = self.transformer.ln_f(x), self.config.vocab_size
        if targets is None:
            return self.lm_head(x)[..., :vocab_size], None
        x = x.flatten(0, 1)
        if targets.dim() == 3:
            losses, first = [], 0
            for k, size in enumerate(self.config.vocab_sizes):  # each stream has its rows of the head
                losses.append(head_loss(x, self.lm_head.weight[first : first + size], size, targets[..., k].flatten() - first)[1])
                first += size
            return None, torch.stack(losses)
        logits, loss = head_loss(x, self.lm_head.weight, vocab_size, targets.flatten(), self.vocabulary)
        return None if logits is None else logits.unflatten(0, idx.shape), loss

    @torch.inference_mode()
    def generate_tokens(self, idx, max_new_tokens, choose=None, **choice):
        """Continue idx (B, t) int64: yields the next token of each row, (B, 1), max_new_tokens times.

        A context longer than block_size loses its head: when the cache is full, the last half of it is read anew and
        the rest forgotten. choose(logits (B, vocab_size), **choice) -> (B, 1): draw(), if not given. With idx (B, t, K)
        it returns (B, 1, K).
        """
        T, choose = self.config.block_size, choose or draw
        cache = KVCache(self.config, idx.size(0), idx.device, self.lm_head.weight.dtype)
        context = new = idx[:, -T:]
        for _ in range(max_new_tokens):
            if cache.length + new.size(1) > T:
                cache.length, context = 0, context[:, -max(1, T // 2) :]
                new = context
            new = choose(self(new, cache=cache)[0][:, -1].float(), **choice)
            yield new
            context = torch.cat((context, new), dim=1)

    def generate(self, idx, max_new_tokens, **choice):
        """idx (B, t[, K]) int64 -> (B, t + max_new_tokens[, K]): stream(), all at once."""
        return torch.cat((idx, *self.generate_tokens(idx, max_new_tokens, **choice)), dim=1)


def draw(logits, temperature=1.0, top_k=None, top_p=1.0, generator=None):
    """logits (B, vocab_size) -> (B, 1) int64, a token for each row.

    temperature 0, or below 1e-30, takes the likeliest. top_k keeps the k likeliest; top_p the fewest likeliest that
    have at least that much probability together (Holtzman et al., arXiv:1904.09751).
    """
    if temperature < 1e-30:  # float32 knows no smaller ones whose inverse is finite
        return logits.argmax(-1, keepdim=True)
    logits = (logits - logits.amax(-1, keepdim=True)) / temperature  # the likeliest at 0, so nothing overflows
    if top_k is not None and top_k < logits.size(-1):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -math.inf)
    if top_p < 1:
        ordered, tokens = logits.sort(descending=True)
        probability = ordered.softmax(-1)
        ordered = ordered.masked_fill(probability.cumsum(-1) - probability >= top_p, -math.inf)  # enough without it
        logits = logits.scatter(-1, tokens, ordered)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator)
