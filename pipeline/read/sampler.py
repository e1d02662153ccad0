"""Which windows are read, in which order: pure functions of the seed and the position.

This module opens no file, imports no torch and keeps no state. Because nothing is remembered, a run
can resume at any draw, and any number of ranks reads one and the same order.

N tokens, T = block_size. The window at s holds the tokens s .. s + T: x = tokens[s : s+T] and
y = tokens[s+1 : s+T+1]. Draw number i of a run (sequences are counted over all ranks) maps to one
window by the seed alone:

    random               a start that is uniform over the N - T possible ones, with replacement
    sequential           the windows at 0, T, 2T, ... in this order, epoch after epoch
    without_replacement  each epoch shifts the grid of windows by a random phase and visits each
                         window of the grid once, in a random order

A target is a token to be predicted: every token of the split except the first, which nothing
precedes. `random` reaches every target. An epoch of `sequential` reads the first W*T targets once,
W = (N - 1) // T, and the remaining ones, fewer than T, are never read. An epoch of
`without_replacement` reads W*T targets once, W = max(1, N // T - 1), and leaves out fewer than 2T.
Its phase is uniform over all N - W*T possible ones, so each epoch leaves out others, and over many
epochs every target is read. The outermost are rare: token 1 and token N - 1 are each read in one of
N - W*T epochs on average.
"""
import hashlib
from math import isqrt

import numpy as np

TRANSITIONS = ("linear", "cosine", "exponential")
SAMPLING_METHODS = ("random", "sequential", "without_replacement")
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio, the step of SplitMix64
ROUNDS = 6  # of the Feistel network in permute()
ORDER_VERSION = 2  # version 1 kept the phase below T, so the last N mod T tokens were never read


def windows_per_epoch(method, num_tokens, block_size):
    """The number of windows in an epoch; 0 when not one window fits. For `random` an epoch is as
    many windows as cover the tokens once. Raises ValueError for an unknown method."""
    if method not in SAMPLING_METHODS:
        raise ValueError(
            f"unknown sampling method {method!r}; known: {', '.join(SAMPLING_METHODS)}")
    num_windows = (num_tokens - 1) // block_size
    if method == "without_replacement":  # one window fewer leaves room for the grid to shift
        num_windows = min(num_windows, max(1, num_tokens // block_size - 1))
    return max(0, num_windows)


def window_starts(method, draws, num_tokens, block_size, seed, name, version=ORDER_VERSION):
    """The start of each draw's window: (n,) int64, each at most num_tokens - block_size - 1.

    draws: (n,) int64, any draw numbers in any order. seed, name: the run's seed and the dataset's
    name. version: that of the order; a resumed run keeps the one it began with. At least one window
    must fit. Raises ValueError for an unknown method.
    """
    draws = np.asarray(draws, dtype=np.int64)
    num_windows = windows_per_epoch(method, num_tokens, block_size)
    if method == "random":
        # the draw number indexes into a sequence of random numbers, so no generator is stored
        numbers = _random(_key(seed, name, "random"), draws)
        return (numbers % np.uint64(num_tokens - block_size)).astype(np.int64)
    # draws count on from one epoch into the next
    epochs, index = np.divmod(draws, num_windows)
    if method == "sequential":
        return index * block_size
    if method != "without_replacement":
        raise ValueError(f"the order of {method!r} is not written yet")
    # usually these draws touch one or two epochs
    distinct, which = np.unique(epochs, return_inverse=True)
    keys, phases = _grids(distinct, num_windows, num_tokens, block_size, seed, name, version)
    return phases[which] + permute(index, num_windows, keys[which]) * block_size


def draws_holding(method, first, stop, num_draws, num_tokens, block_size, seed, name,
                  version=ORDER_VERSION, at_once=1 << 14):
    """The inverse of window_starts(): yield (end, draws) until end is num_draws, draws (m,) int64,
    ascending: those between the last end and this one whose windows hold any of the tokens first ..
    stop - 1.

    An order by epochs is inverted, at a cost of the windows found; in a random one all draws are
    looked at.
    """
    order = num_tokens, block_size, seed, name, version
    num_windows = windows_per_epoch(method, num_tokens, block_size)
    most = (stop - first) // block_size + 2  # windows of one epoch that can hold such a token
    if method == "random" or most > at_once:
        for begin in range(0, num_draws, at_once):
            draws = np.arange(begin, min(begin + at_once, num_draws), dtype=np.int64)
            starts = window_starts(method, draws, *order)
            yield int(draws[-1]) + 1, draws[(starts >= first - block_size) & (starts < stop)]
        return
    step = at_once // most
    for epoch in range(0, -(-num_draws // num_windows), step):
        epochs = np.arange(epoch, min(epoch + step, -(-num_draws // num_windows)), dtype=np.int64)
        keys, phases = None, np.zeros_like(epochs)
        if method == "without_replacement":
            keys, phases = _grids(epochs, num_windows, *order)
        # the windows low .. low + count - 1 of each epoch's grid hold one of the tokens
        low = np.maximum(0, -((phases + block_size - first) // block_size))
        high = np.minimum(num_windows - 1, (stop - 1 - phases) // block_size)
        counts = np.maximum(0, high - low + 1)
        which = np.repeat(np.arange(len(epochs)), counts)
        index = np.arange(len(which)) + (low - np.cumsum(counts) + counts)[which]
        if keys is not None:
            index = permute(index, num_windows, keys[which], inverse=True)
        draws = np.sort(epochs[which] * num_windows + index)
        yield min(int(epochs[-1] + 1) * num_windows, num_draws), draws[draws < num_draws]


def _grids(epochs, num_windows, num_tokens, block_size, seed, name, version):
    """(keys, phases) of epochs of without_replacement, (n,) uint64 and (n,) int64: the grid of
    windows of an epoch begins at its phase, and its key permutes them."""
    # each epoch has a key of its own
    keys = np.array([_key(seed, name, "epoch", e) for e in epochs.tolist()], dtype=np.uint64)
    # the grid of windows may begin at 0 or anywhere up to where its last target is the last token
    num_phases = num_tokens - num_windows * block_size
    if version == 1:  # kept for runs that were begun with it
        num_phases = min(block_size, num_phases)
    # numbers 0 .. ROUNDS - 1 of the key's sequence serve the permutation, the next one the phase
    return keys, (_random(keys, ROUNDS) % np.uint64(num_phases)).astype(np.int64)


def permute(index, n, keys, inverse=False):
    """Where a keyed permutation of range(n) sends each index: (m,) int64, with no table in memory.
    inverse: which index it sends there.

    keys: (m,) uint64, one for each index. A Feistel network permutes the numbers below a*a, a =
    ceil(sqrt(n)), as pairs of digits in base a. A result of n or more is sent through again until
    it is below n, which the first pass gives for all but at most 2 / sqrt(n) of the indices (Black
    and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
    """
    a = np.uint64(isqrt(n - 1) + 1)
    out, todo = np.asarray(index).astype(np.uint64), slice(None)
    while True:  # all indices go through once, then those that have landed at n or beyond
        left, right = np.divmod(out[todo], a)
        for r in reversed(range(ROUNDS)) if inverse else range(ROUNDS):
            if inverse:
                left, right = right, left
            # a round adds a hash of one digit to the other, which can be undone, so no two collide
            hashed = _scrambled(right + _random(keys[todo], r)) >> np.uint64(32)
            # scaling the high 32 bits gives 0 .. a - 1, without the slow division of %
            hashed = (hashed * a) >> np.uint64(32)
            left = left + (a - hashed if inverse else hashed)
            left -= a * (left >= a)  # both digits are below a, so this is the sum modulo a
            if not inverse:
                left, right = right, left
        out[todo] = left * a + right
        todo = np.flatnonzero(out >= n)
        if not todo.size:
            return out.astype(np.int64)


def mixture_draws(draws, batch_size, fractions_at, seed, before):
    """(member, own), (n,) int64 each: the member that each draw goes to, and the number of the draw
    among that member's own draws.

    draws: (n,) int64, in any order. A batch is batch_size consecutive draws.
    fractions_at: (m,) batch numbers -> (m, D) fractions of the D members there, rows of sum 1.
    before: (D,) mixture_counts() of all batches before that of the first draw.

    Each batch is within one row of its fractions, and the total stays within five rows, or, while
    the fractions move, within about the square root of the number of batches. A member's draws are
    numbered in the order of the rows, so its windows are those of a run on that member alone.
    """
    batches, rows = np.divmod(np.asarray(draws, dtype=np.int64), batch_size)
    first = int(batches.min())
    every = np.arange(first, int(batches.max()) + 1, dtype=np.int64)
    fractions = fractions_at(every)
    # all rows of these batches are computed, even if few are asked for, to number them in order
    member = _mixed_rows(every, batch_size, fractions, seed)
    own = np.empty_like(member)
    for d in range(fractions.shape[1]):
        mine = member == d
        own[mine] = before[d] + np.arange(mine.sum())
    return member[batches - first, rows], own[batches - first, rows]


def draws_of_member(member, own, num_batches, batch_size, fractions_at, seed, at_once=1 << 17):
    """The inverse of mixture_draws(): yield (end, draws) until end is num_batches, draws (m,) int64
    ascending: those of the run, in the batches between the last end and this one, that are the
    draws `own`, (n,) ascending, of a member. Numbers beyond those batches are left out."""
    own, before, step = np.asarray(own, dtype=np.int64), 0, max(1, at_once // batch_size)
    for first in range(0, num_batches, step):
        batches = np.arange(first, min(first + step, num_batches), dtype=np.int64)
        fractions = fractions_at(batches)
        sizes = np.diff(_cuts(batches, batch_size, fractions, seed), axis=1)[:, member]
        ends = before + np.cumsum(sizes)  # of the member's draws in each batch
        mine = own[slice(*np.searchsorted(own, (before, ends[-1])))]
        before = ends[-1]
        at = np.searchsorted(ends, mine, side="right")  # an end is the next batch's first draw
        distinct, which = np.unique(at, return_inverse=True)
        rows = _mixed_rows(batches[distinct], batch_size, fractions[distinct], seed)
        # the rows of the member come first, in their order
        rows = np.argsort(rows != member, axis=1, kind="stable")[which, mine - ends[at] + sizes[at]]
        yield int(batches[-1]) + 1, batches[at] * batch_size + rows


def mixture_counts(first_batch, end_batch, batch_size, fractions_at, seed, at_once=1 << 16):
    """(D,) int64: the draws of each of the D members in batches first_batch .. end_batch - 1."""
    counts = np.zeros(fractions_at(np.zeros(1)).shape[1], dtype=np.int64)
    # the cuts tell how many rows a member has in a batch, without mixing them
    for first in range(first_batch, end_batch, at_once):
        batches = np.arange(first, min(first + at_once, end_batch), dtype=np.int64)
        counts += np.diff(_cuts(batches, batch_size, fractions_at(batches), seed), axis=1).sum(0)
    return counts


def moved_fractions(start, end, method, progress):
    """(n, D) fractions, each row of sum 1, on the way from start to end.

    start, end: (D,) weights above 0. progress: (n,), 0 at the start, 1 at the end. Raises
    ValueError for an unknown method.
    """
    t = np.clip(np.asarray(progress, dtype=np.float64), 0, 1)[:, None]
    start, end = np.asarray(start) / np.sum(start), np.asarray(end) / np.sum(end)
    if method == "cosine":
        t = (1 - np.cos(np.pi * t)) / 2
    if method == "exponential":  # each fraction changes by a constant factor
        fractions = start ** (1 - t) * end**t
    elif method in ("linear", "cosine"):
        fractions = (1 - t) * start + t * end
    else:
        raise ValueError(f"unknown transition {method!r}; known: {', '.join(TRANSITIONS)}")
    return fractions / fractions.sum(1, keepdims=True)


def _cuts(batches, batch_size, fractions, seed):
    """(n, D + 1) int64: before its rows are mixed, member d of a batch has rows cut d to cut d + 1.

    Member d ends at row ceil(batch_size * c_d - u), c_d the sum of the fractions up to d. The
    offset u of batch b is frac(u_0 + b * golden ratio): such offsets spread evenly over 0 .. 1, so
    the errors of rounding cancel out over the batches.
    """
    step = (np.asarray(batches).astype(np.uint64) + np.uint64(1)) * GOLDEN
    step += np.uint64(_key(seed, "mixture"))
    u = (step >> np.uint64(11)) * 2.0**-53  # a float holds 53 bits exactly, so u stays below 1
    cuts = np.ceil(batch_size * np.cumsum(fractions, axis=1) - u[:, None]).astype(np.int64)
    cuts[:, -1] = batch_size  # the sum may have been rounded
    return np.pad(np.clip(cuts, 0, batch_size), ((0, 0), (1, 0)))


def _mixed_rows(batches, batch_size, fractions, seed):
    """(n, batch_size) int64: the member of each row, mixed so that every rank sees all members."""
    cuts = _cuts(batches, batch_size, fractions, seed)
    keys = np.repeat(_random(_key(seed, "mixture rows"), batches), batch_size)
    # slot i of a batch moves to a random row, so a member's rows don't stand together
    rows = permute(np.tile(np.arange(batch_size), len(cuts)), batch_size, keys)
    # the member is the number of inner cuts at or below the slot
    return (rows.reshape(-1, batch_size, 1) >= cuts[:, None, 1:-1]).sum(2)


def eval_starts(num_tokens, block_size, max_windows):
    """(starts, tail) of an evaluation: the same windows each time, spread over the split.

    They begin at (k * W // K) * T for k < K = min(max_windows, W), W = windows in the split. With
    K = W the evaluation covers all of the split, and tail is the number of targets after the last
    window; otherwise tail is 0.
    """
    num_windows = windows_per_epoch("sequential", num_tokens, block_size)
    k = min(max_windows, num_windows)
    tail = num_tokens - 1 - num_windows * block_size if k == num_windows else 0
    return np.arange(k, dtype=np.int64) * num_windows // k * block_size, tail


def seed_of(*parts):
    """A 63-bit hash of the parts. A sum would take seed 0, epoch 2 for seed 1, epoch 1."""
    return _key(*parts) >> 1  # torch takes signed seeds


def _key(*parts):
    # repr() tells (0, 2) from ("0", 2), and Python's own hash() differs from run to run
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _random(key, i):
    """uint64 number i of the SplitMix64 sequence of a key (Steele, Lea and Flood, 2014)."""
    steps = (np.atleast_1d(i).astype(np.uint64) + np.uint64(1)) * GOLDEN
    return _scrambled(np.asarray(key, dtype=np.uint64) + steps)


def _scrambled(x):
    """SplitMix64's output function, (n,) uint64: each bit of x changes every bit of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
