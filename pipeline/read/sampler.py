"""Which windows, in which order: pure functions of (seed, position). No files, no torch, no state.

N tokens, T = block_size. The window at s holds tokens s .. s + T: x = tokens[s : s+T], y = tokens[s+1 : s+T+1].
Draw number i of a run (a count of sequences, over all ranks) maps to a window by the seed alone:

    random               a start uniform over the N - T possible ones, with replacement
    sequential           windows at 0, T, 2T, ... in order, epoch after epoch; a tail of fewer than T tokens is not seen
    without_replacement  each epoch shifts the grid by a random phase and visits its windows once each, permuted

What is a target, to be predicted: every token but the first of the split, which nothing precedes.
`random` reaches each of them. An epoch of `sequential` has the first W*T, W = (N - 1) // T, each
once; the rest never. An epoch of without_replacement has W*T of them once each, W = max(1, N // T -
1), and leaves out fewer than 2T, another part of the two ends each time: its phase is uniform over
the N - W*T that there are, so that over the epochs each token has its turn. The turns of the first
and the last few are rare: token 1 and token N - 1 have one in N - W*T epochs, on average.

Since nothing is remembered, a run resumes at any draw, and any number of ranks reads one and the same order.
"""
import hashlib
from math import isqrt

import numpy as np

TRANSITIONS = ("linear", "cosine", "exponential")
SAMPLING_METHODS = ("random", "sequential", "without_replacement")
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, the step of SplitMix64
ROUNDS = 6
ORDER_VERSION = 2  # 1 cut the phase of without_replacement at T, and left the last N mod T unread


def windows_per_epoch(method, num_tokens, block_size):
    """Windows that make an epoch (for `random`: as many as cover the tokens once). 0 when not one window fits."""
    whole = (num_tokens - 1) // block_size
    if method == "without_replacement":  # one fewer, so that the grid can shift by a window
        whole = min(whole, max(1, num_tokens // block_size - 1))
    return max(0, whole)


def window_starts(method, draws, num_tokens, block_size, seed, name, version=ORDER_VERSION):
    """The start of the window of each draw: (n,) int64, each at most num_tokens - block_size - 1.

    draws: (n,) int64, any draw numbers in any order. seed, name: the run's seed and the dataset's name; they, the
    epoch and the draw decide alone. version: of the order, which a run keeps to. There must be one
    window at least.
    """
    draws = np.asarray(draws, dtype=np.int64)
    if method == "random":
        return (_stream(_key(seed, name, "random"), draws) % np.uint64(num_tokens - block_size)).astype(np.int64)
    num_windows = windows_per_epoch(method, num_tokens, block_size)
    epochs, index = np.divmod(draws, num_windows)
    if method == "sequential":
        return index * block_size
    assert method == "without_replacement"
    distinct, which = np.unique(epochs, return_inverse=True)
    num_phases = num_tokens - num_windows * block_size
    if version == 1:
        num_phases = min(block_size, num_phases)
    keys = np.array([_key(seed, name, "epoch", e) for e in distinct.tolist()], dtype=np.uint64)
    phases = (_stream(keys, ROUNDS) % np.uint64(num_phases)).astype(np.int64)
    return phases[which] + permute(index, num_windows, keys[which]) * block_size


def permute(index, n, keys):
    """Where a keyed permutation of range(n) sends index: (m,) int64, by arithmetic alone.

    keys: (m,) uint64, a key for each index. A Feistel network over pairs of digits in base a = ceil(sqrt(n)), walked
    on until it falls below n, which happens at once but for a share of at most 2 / sqrt(n)
    (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
    """
    a = np.uint64(isqrt(n - 1) + 1)
    out, todo = np.asarray(index).astype(np.uint64), slice(None)
    while True:
        left, right = np.divmod(out[todo], a)
        for r in range(ROUNDS):
            # the high 32 bits of a hash, scaled to 0 .. a - 1
            shift = ((_mix(right + _stream(keys[todo], r)) >> np.uint64(32)) * a) >> np.uint64(32)
            left, right = right, left + shift
            right -= a * (right >= a)
        out[todo] = left * a + right
        todo = np.flatnonzero(out >= n)
        if not todo.size:
            return out.astype(np.int64)


def mixture_draws(draws, batch_size, fractions_at, seed, before):
    """(member, own), (n,) int64 each: which of D members each draw goes to, and which of that member's own draws it is.

    draws: (n,) int64, in any order. fractions_at: (m,) block numbers -> (m, D) shares of the members there, each row of
    sum 1; a block is batch_size draws. before: (D,) mixture_counts() of the blocks before that of the first draw.
    In block b the cumulative share c_d cuts at row ceil(B * c_d - u_b), u_b = frac(u_0 + b * golden ratio): each block
    is within one row of its shares; the total stays within five, or, while shares move, within about the square root of
    the number of blocks.
    A keyed permutation then mixes the rows of a block. A member's draws count up in the order of the rows, so that its
    windows are those of a run on it alone.
    """
    blocks, rows = np.divmod(np.asarray(draws, dtype=np.int64), batch_size)
    first = int(blocks.min())
    every = np.arange(first, int(blocks.max()) + 1, dtype=np.int64)
    shares = fractions_at(every)
    member = _mixed_rows(every, batch_size, shares, seed)
    own = np.empty_like(member)
    for d in range(shares.shape[1]):
        mine = member == d
        own[mine] = before[d] + np.arange(mine.sum())
    return member[blocks - first, rows], own[blocks - first, rows]


def mixture_counts(first_block, last_block, batch_size, fractions_at, seed, chunk=1 << 16):
    """Draws that each of the K members has in the blocks first_block .. last_block - 1: (K,) int64."""
    total = 0
    for first in range(first_block, last_block, chunk):
        blocks = np.arange(first, min(first + chunk, last_block), dtype=np.int64)
        total = total + np.diff(_cuts(blocks, batch_size, fractions_at(blocks), seed), axis=1).sum(0)
    return total if first_block < last_block else np.zeros(fractions_at(np.zeros(1)).shape[1], dtype=np.int64)


def moved_fractions(start, end, method, progress):
    """(n, K) shares, each row of sum 1, on the way from start to end (K,), all above 0, at progress (n,), 0 to 1."""
    t = np.clip(np.asarray(progress, dtype=np.float64), 0, 1)[:, None]
    start, end = np.asarray(start) / np.sum(start), np.asarray(end) / np.sum(end)
    if method == "exponential":
        shares = start ** (1 - t) * end**t
    else:
        t = (1 - np.cos(np.pi * t)) / 2 if method == "cosine" else t
        shares = (1 - t) * start + t * end
    return shares / shares.sum(1, keepdims=True)


def _cuts(blocks, batch_size, shares, seed):
    """(n, K + 1) int64: member d has the rows from cut d to cut d + 1 of a block, before they are mixed."""
    step = (np.asarray(blocks).astype(np.uint64) + np.uint64(1)) * GOLDEN + np.uint64(_key(seed, "mixture"))
    u = (step >> np.uint64(11)) * 2.0**-53  # the 53 bits that a float holds: below 1 always
    cuts = np.ceil(batch_size * np.cumsum(shares, axis=1) - u[:, None]).astype(np.int64)
    cuts[:, -1] = batch_size  # whatever the sum was rounded to
    return np.concatenate((np.zeros((len(cuts), 1), np.int64), np.clip(cuts, 0, batch_size)), axis=1)


def _mixed_rows(blocks, batch_size, shares, seed):
    """(n, batch_size) int64: the member of each row of the blocks."""
    cuts = _cuts(blocks, batch_size, shares, seed)
    keys = np.repeat(_stream(_key(seed, "mixture rows"), blocks), batch_size)
    slots = permute(np.tile(np.arange(batch_size), len(cuts)), batch_size, keys).reshape(-1, batch_size)
    return (slots[:, :, None] >= cuts[:, None, 1:-1]).sum(2)


def eval_starts(num_tokens, block_size, max_windows):
    """(starts, tail) of an evaluation: the windows at (k * W // K) * T for k < K = min(max_windows, W).

    The same each time, spread over the split. With K = W it is the full pass, and tail is the number of targets
    behind the last window, else 0.
    """
    num_windows = windows_per_epoch("sequential", num_tokens, block_size)
    k = min(max_windows, num_windows)
    tail = num_tokens - 1 - num_windows * block_size if k == num_windows else 0
    return np.arange(k, dtype=np.int64) * num_windows // k * block_size, tail


def seed_of(*parts):
    """A 63-bit integer hash of the parts: seeds made of it never collide as sums do (seed 0, epoch 2 / seed 1, epoch 1)."""
    return _key(*parts) >> 1


def _key(*parts):
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _stream(key, i):
    """Output i of the SplitMix64 generator seeded with key (Steele, Lea and Flood, 2014), as uint64 array."""
    return _mix(np.asarray(key, dtype=np.uint64) + (np.atleast_1d(i).astype(np.uint64) + np.uint64(1)) * GOLDEN)


def _mix(x):
    """SplitMix64's output function: (n,) uint64 -> (n,) uint64, each bit of the input moving each of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
