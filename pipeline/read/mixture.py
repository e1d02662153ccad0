"""What a run reads, and in which order: one dataset, a mixture of several, or several aligned ones.

    open_mixture(args) -> Mixture    by --training_mode, checked
    mixture.places(draws)           whose window each draw is, and where it begins: a pure function of seed and draw
    mixture.counts(blocks)          how many draws each member has had after that many blocks

A mixture has members, which draws are shared out to, and each member has streams, whose tokens stand side by side:

    single        one member of one stream
    multidataset  a member of one stream for each of --dataset_list
    multicontext  one member of K streams: one order, the same windows in each

All vocabularies lie in one table, one behind the other, and ids are handed out by that table: an id is the dataset's own
plus its offset.
"""
import numpy as np

from pipeline.errors import UserError
from pipeline.read.folder import SPLITS, open_dataset, token_dtype
from pipeline.read.sampler import (
    ORDER_VERSION,
    mixture_counts,
    mixture_draws,
    moved_fractions,
    window_starts,
    windows_per_epoch,
)
from pipeline.tokenizers import hash_of_table, tokenizer_from_meta

LOOKED_AT = 1 << 20  # tokens that the start of a sample is chosen by


class Mixture:
    """members: lists of Datasets. weights: one for each dataset, for the mean of their losses (default: equal).

    fractions_at: (m,) numbers of blocks, a block being batch_size draws, -> (m, D) shares of the members, rows of sum 1.
    own_vocabularies: each member has its own part of the table; else they share one, as one tokenizer made them all.
    order_version: of sampler.py, the one that the run began with.
    """

    def __init__(self, members, *, block_size, batch_size, sampling_method="random", seed=0, fractions_at=None, weights=None,
                 own_vocabularies=True, order_version=ORDER_VERSION):
        self.members, self.datasets = members, [dataset for member in members for dataset in member]
        self.names = [dataset.name for dataset in self.datasets]
        self.block_size, self.batch_size = block_size, batch_size
        self.sampling_method, self.seed, self.fractions_at = sampling_method, seed, fractions_at
        self.order_version = order_version
        self.weights = np.ones(len(self.datasets)) if weights is None else np.asarray(weights, dtype=np.float64)
        self.weights = self.weights / self.weights.sum()
        for dataset in self.datasets:
            for split in SPLITS:
                check_split(dataset, split, block_size)
        vocabularies = self.datasets if own_vocabularies else self.datasets[:1]
        self.metas = {dataset.name: dataset.meta for dataset in vocabularies}
        self.vocab_sizes = [dataset.vocab_size for dataset in self.datasets]
        if not own_vocabularies:
            self.vocab_sizes = [max(self.vocab_sizes)]
        offsets = np.cumsum([0, *self.vocab_sizes]).tolist() if own_vocabularies else [0] * len(self.datasets)
        self.offsets = dict(zip(self.names, offsets))
        self.dtype = token_dtype(sum(self.vocab_sizes))  # of ids by the table
        self._counted = 0, np.zeros(len(members), dtype=np.int64)  # the last answer of counts(), to count on from

    @property
    def num_streams(self):
        return len(self.members[0])

    def places(self, draws):
        """(member, start), (n,) int64 each: whose window each of draws (n,) is, and where in its train split it begins."""
        member, own = np.zeros_like(draws), draws
        if len(self.members) > 1:
            before = self.counts(int(draws.min()) // self.batch_size)
            member, own = mixture_draws(draws, self.batch_size, self.fractions_at, self.seed, before)
        starts = np.empty_like(draws)
        for d, (dataset, *_) in enumerate(self.members):
            mine = member == d
            starts[mine] = window_starts(self.sampling_method, own[mine], dataset.num_tokens["train"], self.block_size,
                                         self.seed, dataset.name, self.order_version)
        return member, starts

    def counts(self, blocks):
        """(D,) int64: the draws of each member in the first `blocks` blocks of the order."""
        if len(self.members) == 1:
            return np.array([blocks * self.batch_size])
        known, counts = self._counted  # read once: the thread that reads ahead asks too
        if known > blocks:
            known, counts = 0, 0
        counts = counts + mixture_counts(known, blocks, self.batch_size, self.fractions_at, self.seed)
        self._counted = blocks, counts
        return counts

    def epochs(self, counts):
        """(D,) float64: how often each member has been gone through after that many draws (D,) of it."""
        return counts / [windows_per_epoch(self.sampling_method, member[0].num_tokens["train"], self.block_size)
                         for member in self.members]

    def consumed(self, blocks):
        """{name of each dataset: (tokens, epochs)} that the first `blocks` blocks of the order hold."""
        counts = self.counts(blocks)
        return {dataset.name: (int(count) * self.block_size, float(epochs)) for member, count, epochs in
                zip(self.members, counts, self.epochs(counts)) for dataset in member}

    def fingerprint(self):
        """What a checkpoint keeps to know its data again."""
        return {dataset.name: dataset.fingerprint() for dataset in self.datasets}

    def bits_per_byte(self, losses, split):
        """losses (L,) in nats a token -> bits a byte of text (the whole split's), NaN where meta.pkl has no byte counts."""
        counts = [dataset.meta.get("splits", {}).get(split, {}) for dataset in self.datasets]
        tokens_per_byte = np.array([c["tokens"] / c["bytes"] if c.get("bytes") else np.nan for c in counts])
        return np.asarray(losses) * tokens_per_byte / np.log(2)


def sample_ids(dataset, most, num_pieces=16):
    """Arrays of ids of train, whole or in pieces from all over it, `most` of them together; the
    last piece is its end."""
    num_tokens = dataset.num_tokens["train"]
    size = num_tokens if num_tokens <= most else most // num_pieces
    for start in np.unique(np.linspace(0, num_tokens - size, num_pieces).astype(np.int64)):
        yield dataset.read("train", start[None], size)[0]


def start_tokens(mixture):
    """{dataset of each vocabulary: id}: what a sample without a prompt starts from, each an input
    that training has.

    The token that ends documents, if train has it, else a newline, else the most frequent token; of
    further streams, what stands most often beside that of the first. By LOOKED_AT tokens a
    vocabulary.
    """
    starts, shared = {}, len(mixture.metas) < len(mixture.datasets)

    def ids_of(dataset, most):  # without the last token, which is a target alone
        return np.concatenate(list(sample_ids(dataset, most)))[:-1]

    def counts(ids, dataset):  # a batch that meets an id beyond the vocabulary refuses it
        return np.bincount(ids[ids < dataset.vocab_size], minlength=1)

    for group in [mixture.members] if shared else [[member] for member in mixture.members]:
        firsts = [ids_of(member[0], LOOKED_AT // len(group)) for member in group]
        first, *beside = group[0]
        start = starts[first.name] = _start_of(first.meta, counts(np.concatenate(firsts), first))
        for stream in beside:
            ids = ids_of(stream, LOOKED_AT)[firsts[0] == start]
            starts[stream.name] = int(counts(ids, stream).argmax())
    return starts


def _start_of(meta, counts):
    """The id to start from, by how often each id occurs."""
    stoi = meta.get("stoi")
    if not stoi and meta.get("tokenizer") == "tiktoken":  # another program names the encoding alone
        stoi = tokenizer_from_meta(meta).to_meta()["stoi"]
    stoi = stoi or {}
    for i in (meta.get("eot_token"), *map(stoi.get, ("<|endoftext|>", "\n", b"\n", "<0x0A>"))):
        if i is not None and i < len(counts) and counts[i]:
            return i
    return int(counts.argmax())


def check_split(dataset, split, block_size):
    """Raises UserError when the split is shorter than one window."""
    if dataset.num_tokens[split] < block_size + 1:
        num_tokens = dataset.num_tokens[split]
        lower = f"--block_size {num_tokens - 1} would do; or " if num_tokens > 1 else ""
        remedy = "give it more text" if split == "train" else "give val more text (-p or -v of prepare.py)"
        raise UserError(f"{dataset.path(split)} has {num_tokens:,} tokens; block_size {block_size} needs {block_size + 1}. "
                        f"{lower}{remedy}")


def dataset_names(args):
    """The datasets that the arguments name, in their order."""
    return {"single": [args.dataset], "multidataset": args.dataset_list,
            "multicontext": args.multicontext_datasets}[args.training_mode]


def open_mixture(args, order_version=ORDER_VERSION):
    """The Mixture that the arguments of train.py name. Raises UserError or FileNotFoundError for what cannot be read so."""
    datasets = [open_dataset(name) for name in dataset_names(args)]
    for i, dataset in enumerate(datasets):
        if dataset.name in [other.name for other in datasets[:i]]:
            raise UserError(f"two of the datasets are called {dataset.name}; each is logged by its name, so they must differ. "
                            f"Rename a folder")
    order = dict(block_size=args.block_size, batch_size=args.batch_size, sampling_method=args.sampling_method,
                 seed=args.seed, order_version=order_version)
    if args.training_mode == "single":
        return Mixture([datasets], **order)
    if args.training_mode == "multicontext":
        refuse_unaligned(datasets)
        return Mixture([datasets], weights=args.multicontext_loss_weights, **order)
    if not args.multidataset_wte:
        refuse_other_tokenizers(datasets)
    fractions_at, final = fractions_of(args, datasets)
    mixture = Mixture([[dataset] for dataset in datasets], fractions_at=fractions_at, weights=final,
                    own_vocabularies=args.multidataset_wte, **order)
    if args.max_epochs_per_dataset:
        refuse_more_epochs(mixture, args)
    return mixture


def fractions_of(args, datasets):
    """(fractions_at, final weights (D,)) of a mixture, by its flags."""
    if args.dataset_sampling_alpha is None:
        weights = np.array(args.dataset_sampling_probs or [1.0] * len(datasets))
        weights = weights / weights.max()
    else:
        sizes = np.array([dataset.num_tokens["train"] for dataset in datasets], dtype=np.float64)
        weights = (sizes / sizes.max()) ** args.dataset_sampling_alpha
    if not args.dataset_sampling_probs_final:
        shares = weights / weights.sum()
        return lambda blocks: np.broadcast_to(shares, (len(blocks), len(shares))), shares
    final, method = np.array(args.dataset_sampling_probs_final), args.dataset_sampling_probs_transition_method
    final = final / final.max()
    last = args.dataset_sampling_probs_transition_iters * args.gradient_accumulation_steps  # blocks
    return lambda blocks: moved_fractions(weights, final, method, blocks / last), final


def refuse_unaligned(streams):
    """Raises UserError unless the streams have as many tokens as the first, in both splits, and those that were made of
    another of them were made of it as it is here."""
    texts = {stream.name: stream for stream in streams}
    for stream in streams:
        made_of = stream.meta.get("stream", {})
        text = texts.get(made_of.get("text"))
        if text and made_of.get("text_sha256") != text.fingerprint():
            raise UserError(f"{stream.folder} was made of another {text.name} than the one that is here now. Run: python "
                            f"{stream.folder}/prepare.py")
    for split in SPLITS:
        first = streams[0].num_tokens[split]
        for other in streams[1:]:
            if difference := other.num_tokens[split] - first:
                raise UserError(f"{other.path(split)} has {abs(difference):,} tokens {'more' if difference > 0 else 'fewer'} "
                                f"than {streams[0].path(split)} ({first:,}); the streams of multicontext must have one "
                                f"token for each of the first's. Prepare it from the same text")


def refuse_other_tokenizers(datasets):
    """Raises UserError unless all datasets were made by one tokenizer: ids must mean the same."""
    for other in datasets[1:]:
        if hash_of_table(other.meta) != hash_of_table(datasets[0].meta):
            raise UserError(f"{datasets[0].name} and {other.name} have different tokenizers ({datasets[0].vocab_size:,} and "
                            f"{other.vocab_size:,} tokens), so an id means one thing here, another there. Prepare both "
                            f"with one (prepare.py --method, or --reuse_vocab_of), or give each a vocabulary of its own: "
                            f"--multidataset_wte")


def refuse_more_epochs(mixture, args):
    """Raises UserError when a member would be gone through more than --max_epochs_per_dataset times."""
    def too_often(iters):
        epochs = mixture.epochs(mixture.counts(iters * args.gradient_accumulation_steps))
        return np.flatnonzero(epochs > args.max_epochs_per_dataset)

    if not (over := too_often(args.max_iters)).size:
        return
    low, high = 0, args.max_iters  # the run of `low` iterations fits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if too_often(middle).size else (middle, high)
    fits = f"--max_iters {low} would fit; or" if low else "Not one iteration fits:"
    names = ", ".join(mixture.names[d] for d in over)
    first = mixture.names[too_often(high)[0]]
    raise UserError(f"{names} would be gone through more than {args.max_epochs_per_dataset:g} times, {first} first. "
                    f"{fits} change the weights, or raise --max_epochs_per_dataset")
