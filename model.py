"""A GPT in one file: GPTConfig, GPT(config).forward for training, GPT.generate for sampling.

Shapes are written (B, T, C): batch, time (tokens), channels (n_embd); nh is n_head, hs = C / nh the width of a head.
The block is GPT-2's (Radford et al., 2019): learned positions, LayerNorm before each part, GELU, tied embedding and head.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch.nn import functional as F


@dataclass
class GPTConfig:
    block_size: int = 1024  # the longest context, in tokens
    vocab_size: int = 50257
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = False  # in Linear and LayerNorm layers; GPT-2 has them, without is a bit better and faster


class KVCache:
    """Keys and values of the tokens seen so far, (B, nh, block_size, hs) a layer; the first `length` are filled."""

    def __init__(self, config, batch_size, device, dtype):
        shape = (batch_size, config.n_head, config.block_size, config.n_embd // config.n_head)
        self.layers = [(torch.empty(shape, device=device, dtype=dtype), torch.empty(shape, device=device, dtype=dtype))
                       for _ in range(config.n_layer)]
        self.length = 0

    def extend(self, layer, k, v):
        """Store k, v (B, nh, T, hs) behind what is there; all of that layer's keys and values so far."""
        end = self.length + k.size(2)
        for store, new in zip(self.layers[layer], (k, v)):
            store[:, :, self.length : end] = new
        return (store[:, :, :end] for store in self.layers[layer])


class CausalSelfAttention(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.n_head, self.dropout = layer, config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)  # query, key, value of all heads
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x, cache=None):
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)  # (B, nh, T, hs)
                   for part in self.c_attn(x).split(C, dim=2))
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        # one new token looks at everything before it; several at once are a prompt, and need the causal mask
        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1, dropout_p=self.dropout if self.training else 0.0)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).reshape(B, T, C)))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x))))


class Block(nn.Module):
    def __init__(self, config, layer):
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x, cache=None):
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        rows = -(-config.vocab_size // 64) * 64  # padded: matrix products like multiples of 64
        self.transformer = nn.ModuleDict(dict(
            wte=nn.Embedding(rows, config.n_embd),
            wpe=nn.Embedding(config.block_size, config.n_embd),
            drop=nn.Dropout(config.dropout),
            h=nn.ModuleList(Block(config, layer) for layer in range(config.n_layer)),
            ln_f=nn.LayerNorm(config.n_embd, bias=config.bias),
        ))
        self.lm_head = nn.Linear(config.n_embd, rows, bias=False)
        self.lm_head.weight = self.transformer.wte.weight  # tied: https://arxiv.org/abs/1608.05859
        for name, p in self.named_parameters():
            if p.dim() >= 2:
                # the 2 * n_layer parts that add to the residual stream start smaller, as in the GPT-2 paper
                depth = 2 * config.n_layer if name.endswith("c_proj.weight") else 1
                nn.init.normal_(p, mean=0.0, std=0.02 / math.sqrt(depth))
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def num_params(self):
        """Parameters, without the position embedding and the padding rows."""
        padding = self.transformer.wte.num_embeddings - self.config.vocab_size
        return (sum(p.numel() for p in self.parameters()) - self.transformer.wpe.weight.numel()
                - padding * self.config.n_embd)

    def forward(self, idx, targets=None, cache=None):
        """idx, targets: (B, T) int64. With targets: (logits (B, T, vocab_size), mean loss in nats); without:
        (logits of the last position (B, 1, vocab_size), None). cache: a KVCache that holds the tokens before idx."""
        T = idx.size(1)
        start = cache.length if cache is not None else 0
        assert start + T <= self.config.block_size, f"{start} + {T} tokens exceed block_size {self.config.block_size}"
        positions = torch.arange(start, start + T, device=idx.device)
        x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(positions))  # (B, T, C)
        for block in self.transformer.h:
            x = block(x, cache)
        if cache is not None:
            cache.length += T
        if targets is None:
            x = x[:, -1:]
        logits = self.lm_head(self.transformer.ln_f(x))[..., : self.config.vocab_size]
        loss = None if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return logits, loss

    @torch.no_grad()
    def generate(self, idx, max_new_tokens, temperature=1.0, top_k=None, generator=None):
        """idx (B, t) int64 -> (B, t + max_new_tokens): each new token drawn given those before it.

        temperature 0 takes the likeliest token; top_k draws among the k likeliest only. A context longer than
        block_size loses its head: when the cache is full, the last half of it is read anew and the rest forgotten.
        """
        T = self.config.block_size
        weight = self.lm_head.weight
        dtype = torch.get_autocast_dtype(weight.device.type) if torch.is_autocast_enabled(weight.device.type) else weight.dtype
        cache = KVCache(self.config, idx.size(0), idx.device, dtype)
        new = idx[:, -T:]
        for _ in range(max_new_tokens):
            if cache.length + new.size(1) > T:
                cache.length, new = 0, idx[:, -max(1, T // 2) :]
            logits = self(new, cache=cache)[0][:, -1].float()  # (B, vocab_size)
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)
            else:
                logits /= temperature
                if top_k is not None and top_k < logits.size(-1):
                    logits[logits < logits.topk(top_k).values[:, -1:]] = -math.inf
                new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            idx = torch.cat((idx, new), dim=1)
        return idx
