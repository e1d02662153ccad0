"""What a run reads, and in which order: one dataset, a mixture of several, or aligned streams.

    open_mixture(args) -> Mixture    the datasets of --training_mode, opened and checked
    mixture.places(draws)            which member each draw reads, and from which token on
    mixture.counts(num_batches)      the draws of each member in the first batches of the order

Draws are distributed over the members of a mixture. A member is a list of datasets: one, or K
aligned streams, whose tokens stand side by side and are read together.

    single        one member, which is one dataset
    multidataset  one member for each dataset of --dataset_list
    multicontext  one member of K aligned streams: one order, the same windows of each

Datasets with vocabularies of their own share one embedding table, in which the vocabularies lie one
after the other. The id that a model sees is the dataset's own id plus that dataset's offset.
"""
import bisect
import collections
import dataclasses
import itertools
from dataclasses import dataclass, field

import numpy as np

from pipeline.errors import UserError
from pipeline.read import sampler
from pipeline.read.documents import require_index
from pipeline.read.folder import SPLITS, open_dataset, token_dtype
from pipeline.read.history import columns_of, fractions_over, segment_of, with_change
from pipeline.read.sampler import ORDER_VERSION, windows_per_epoch
from pipeline.tokenizers import hash_of_table, tokenizer_from_meta

LOOKED_AT = 1 << 20  # tokens of a vocabulary that start_tokens() counts


class Mixture:
    """Members, and the order in which their windows are read.

    members: lists of Datasets. columns: the names of all that are members or have been.
    fractions_at: (m,) batch numbers -> (m, columns) their fractions there, each row of sum 1; a
    batch is batch_size draws. history: see history.py. weights: one for each dataset, for the mean
    of their losses (default: equal). own_vocabularies: whether each dataset has a part of the
    embedding table to itself; otherwise one tokenizer made them all, and they share one part.
    order_version: the version of the sampler's order that the run began with. documents: whether a
    window's documents are told apart. steps: batches an iteration. earlier: the fingerprints of the
    datasets that the run has read before. is_masked: whether some targets are not learned.
    """

    def __init__(self, members, *, block_size, batch_size, sampling_method="random", seed=0,
                 fractions_at=None, columns=None, history=(), weights=None, own_vocabularies=True,
                 order_version=ORDER_VERSION, documents=False, steps=1, earlier=None):
        self.members, self.datasets = members, [dataset for member in members for dataset in member]
        self.names = [dataset.name for dataset in self.datasets]
        self.block_size, self.batch_size, self.steps = block_size, batch_size, steps
        self.sampling_method, self.seed, self.fractions_at = sampling_method, seed, fractions_at
        self.order_version, self.documents, self.history = order_version, documents, list(history)
        firsts = [member[0] for member in members]  # of aligned streams the first one's marks count
        names = [first.name for first in firsts]
        self.columns = columns or names
        self._column_of = [self.columns.index(name) for name in names]
        self._member_of = np.array([names.index(name) if name in names else -1
                                    for name in self.columns])
        self.earlier, self.own_vocabularies = earlier or {}, own_vocabularies
        self.is_masked = any(first.has_mask for first in firsts)
        weights = np.ones(len(self.datasets)) if weights is None else np.asarray(weights, float)
        self.weights = weights / weights.sum()
        # a split that is too short is reported before the model is built
        refuse_short(self.datasets, block_size)
        for first in firsts if documents else ():
            self.is_masked |= not knows_documents(first)
        # the metas of the vocabularies go into the checkpoint, so that sample.py can decode
        vocabularies = self.datasets if own_vocabularies else self.datasets[:1]
        self.metas = {dataset.name: dataset.meta for dataset in vocabularies}
        if not own_vocabularies:  # and so that it can talk, if any of them are chats
            chats = [d.meta for d in self.datasets if "chat_layout" in d.meta]
            if len({meta["chat_layout"] for meta in chats}) == 1:
                # and reads names of special tokens, and ends documents, as in them
                keys = "chat_layout", "eot_token", "names_are_text"
                of_chats = {key: chats[0][key] for key in keys if key in chats[0]}
                self.metas = {name: {**meta, **of_chats} for name, meta in self.metas.items()}
        self.vocab_sizes = [dataset.vocab_size for dataset in self.datasets]
        # each vocabulary begins where the one before it ends
        offsets = np.cumsum([0, *self.vocab_sizes]).tolist()
        if not own_vocabularies:
            self.vocab_sizes, offsets = [max(self.vocab_sizes)], [0] * len(self.datasets)
        self.offsets = dict(zip(self.names, offsets))
        self.dtype = token_dtype(sum(self.vocab_sizes))  # wide enough for an id plus any offset
        # the last answer of counts(): (number of batches, counts); the next one continues from it
        self._counted = 0, np.zeros(len(self.columns), dtype=np.int64)

    @property
    def num_streams(self):
        return len(self.members[0])

    def places(self, draws):
        """(member, start), (n,) int64 each: the member that each of draws (n,) reads, and the token
        of its train split at which the window begins."""
        member, own = self.own_draws(draws)
        return member, self.starts(member, own)

    def own_draws(self, draws):
        """(member, own), (n,) int64 each: the member that each of draws (n,) reads, and the number
        of the draw among that member's own."""
        if len(self.columns) == 1:
            return np.zeros_like(draws), draws
        # how many draws each member has had decides which of its windows comes next
        before = self._counts(int(draws.min()) // self.batch_size)
        column, own = sampler.mixture_draws(
            draws, self.batch_size, self.fractions_at, self.seed, before)
        return self._member_of[column], own

    def starts(self, member, own):
        """(n,) int64: the token of its train split at which the window of each draw begins."""
        starts = np.empty_like(own)
        for d, (dataset, *_) in enumerate(self.members):
            mine = member == d
            # aligned streams are equally long, so the order of the first is that of all
            starts[mine] = sampler.window_starts(
                self.sampling_method, own[mine], dataset.num_tokens["train"], self.block_size,
                self.seed, dataset.name, self.order_version)
        return starts

    def draws_holding(self, member, first, stop, num_batches, progress=lambda done: None):
        """(n,) int64, ascending: the draws in the first num_batches batches whose windows hold any
        of the tokens first .. stop - 1 of a member's train split. progress is told the fraction of
        the draws that are done, 0 to 1."""
        # not every draw of a mixture is the member's, but to look at all is quicker than to count
        num_draws, (dataset, *_) = num_batches * self.batch_size, self.members[member]
        several, own, found = len(self.columns) > 1, [], []
        for end, draws in sampler.draws_holding(
                self.sampling_method, first, stop, num_draws, dataset.num_tokens["train"],
                self.block_size, self.seed, dataset.name, self.order_version):
            own.append(draws)
            progress(end / num_draws / (1 + several))
        if not several:
            return np.concatenate(own)
        for end, draws in sampler.draws_of_member(
                self._column_of[member], np.concatenate(own), num_batches, self.batch_size,
                self.fractions_at, self.seed):
            found.append(draws)
            progress((1 + end / num_batches) / 2)
        return np.concatenate(found)

    def counts(self, num_batches):
        """(D,) int64: the draws of each member in the first num_batches batches of the order."""
        return self._counts(num_batches)[self._column_of]

    def _counts(self, num_batches):
        """The same for each column."""
        if len(self.columns) == 1:
            return np.array([num_batches * self.batch_size])
        known, counts = self._counted  # read once, because the thread that reads ahead asks too
        if known > num_batches:  # an earlier place is asked for: count from the beginning
            known, counts = 0, 0
        counts = counts + sampler.mixture_counts(
            known, num_batches, self.batch_size, self.fractions_at, self.seed)
        self._counted = num_batches, counts
        return counts

    def epochs(self, counts):
        """(D,) float64: the epochs that so many draws (D,) are of each member's train split."""
        return counts / [windows_per_epoch(self.sampling_method, member[0].num_tokens["train"],
                                           self.block_size) for member in self.members]

    def consumed(self, num_batches):
        """{name of a dataset: (tokens, epochs)} read in the first num_batches batches."""
        counts = self.counts(num_batches)
        return {dataset.name: (int(count) * self.block_size, float(epochs))
                for member, count, epochs in zip(self.members, counts, self.epochs(counts))
                for dataset in member}

    def fingerprint(self):
        """{name: Dataset.fingerprint()}, by which a resumed run recognises its data."""
        return self.earlier | {dataset.name: dataset.fingerprint(self.documents)
                               for dataset in self.datasets}

    def bits_per_byte(self, losses, split):
        """losses (L,) of the datasets, in nats a token -> bits a byte of text, by the counts of the
        whole split; NaN where meta.pkl has no count of bytes, or only some tokens count."""
        if self.is_masked:  # nobody has counted the bytes that the learned tokens stand for
            return np.full(len(losses), np.nan)
        counts = [dataset.meta.get("splits", {}).get(split, {}) for dataset in self.datasets]
        tokens_per_byte = [c["tokens"] / c["bytes"] if c.get("bytes") else np.nan for c in counts]
        return np.multiply(losses, tokens_per_byte) / np.log(2)  # nats divided by ln 2 are bits


def sample_places(dataset, most, num_pieces=16):
    """Yield (start, size) of pieces of train, `most` tokens together: all of it, or pieces spread
    over it, the last of which is its end."""
    num_tokens = dataset.num_tokens["train"]
    size = num_tokens if num_tokens <= most else most // num_pieces
    # a small split gives the same start 16 times, of which one is kept
    for start in np.unique(np.linspace(0, num_tokens - size, num_pieces).astype(np.int64)):
        yield start, size


def sample_ids(dataset, most):
    """Yield the ids of sample_places(), as arrays."""
    for start, size in sample_places(dataset, most):
        yield dataset.read("train", start[None], size)[0]


def start_tokens(mixture):
    """{dataset of each vocabulary: id}: the token from which a sample without a prompt starts.

    The model has been trained on each of them as an input: the token that ends documents if train
    has it, else a newline, else the most frequent token. For a further stream it is the token that
    stands most often beside the start token of the first. LOOKED_AT tokens a vocabulary decide.
    """
    starts, shared = {}, len(mixture.metas) < len(mixture.datasets)

    def ids_of(dataset, most):
        # the last token of a split is a target, and never an input
        return np.concatenate(list(sample_ids(dataset, most)))[:-1]

    def counts(ids, dataset):
        # ids beyond the vocabulary are left to the check of each batch
        return np.bincount(ids[ids < dataset.vocab_size], minlength=1)

    # members that share a vocabulary are counted together, others each on its own
    for group in [mixture.members] if shared else [[member] for member in mixture.members]:
        firsts = [ids_of(member[0], LOOKED_AT // len(group)) for member in group]
        first, *others = group[0]
        start = starts[first.name] = _start_of(mixture.metas[first.name],
                                               counts(np.concatenate(firsts), first))
        # a further stream starts with what stands beside the first one's start token
        for stream in others:
            ids = ids_of(stream, LOOKED_AT)[firsts[0] == start]
            starts[stream.name] = int(counts(ids, stream).argmax())
    return starts


def _start_of(meta, counts):
    """The id to start from. counts: how often each id occurs."""
    stoi = meta.get("stoi")
    if not stoi and meta.get("tokenizer") == "tiktoken":  # other programs store only its name
        stoi = tokenizer_from_meta(meta).to_meta()["stoi"]
    # by preference: the end of a document, a newline as text, as bytes, as SentencePiece writes it
    ends = ("<|endoftext|>", "\n", b"\n", "<0x0A>")
    for i in (meta.get("eot_token"), *map((stoi or {}).get, ends)):
        if i is not None and i < len(counts) and counts[i]:
            return i
    return int(counts.argmax())  # the most frequent token has certainly been an input


def refuse_short(datasets, block_size):
    """Raise UserError when a split is shorter than one window, or has nothing to learn. The
    shortest of all is named, so that the block_size which fits it fits the others, too."""
    parts = list(itertools.product(datasets, SPLITS))
    dataset, split = min(parts, key=lambda part: part[0].num_tokens[part[1]])
    num_tokens = dataset.num_tokens[split]
    if num_tokens <= block_size:
        fits = num_tokens - 1
        at_most = f" (at most {fits:,}; the default model has 64)" if fits > 1024 else ""
        lower = f"Use --block_size {min(fits, 1024)}{at_most}, or give" if fits > 0 else "Give"
        more = "it more text" if split == "train" else "val more text (-p or -v of prepare.py)"
        raise UserError(f"{dataset.path(split)} has {num_tokens:,} tokens; block_size "
                        f"{block_size} needs {block_size + 1}. {lower} {more}")
    for dataset, split in parts:
        if dataset.has_mask and not dataset.meta["splits"][split]["mask"]["learned"]:
            raise UserError(f"{dataset.path(f'{split}.mask')} marks no token of {split} as one to "
                            f"learn. Look at the rows that prepare.py reads, and at its --learn")


def knows_documents(dataset):
    """Whether each of its documents has an end, which precedes and so predicts the next one's first
    token. Raises UserError where nothing tells documents apart."""
    if dataset.has_index:
        return dataset.meta["docs"]["ended"]
    require_index(dataset)
    if dataset.meta.get("eot_token") is None:
        raise UserError(f"--documents: {dataset.name} is one text, and nothing in it tells where a "
                        f"document ends. Leave out --documents, or prepare a dataset of documents "
                        f"(data/README.md: rows of a table, several files, or a text with "
                        f"--document_separator)")
    return True


def dataset_names(args):
    """The datasets that the arguments name, in their order."""
    return {"single": [args.dataset], "multidataset": args.dataset_list,
            "multicontext": args.multicontext_datasets}[args.training_mode]


@dataclass
class Past:
    """What a resumed run keeps of its data, so that its order goes on."""
    history: list | None = None  # the shares of members so far, if it has any
    change_at: int | None = None  # the iteration at which the flags given now change them
    batch: tuple | None = None  # (rows of a batch, batches an iteration) that the order counts in
    data: dict = field(default_factory=dict)  # fingerprints, by the names that the order goes by
    dropped: list = field(default_factory=list)  # places of former members, to be opened too


def open_mixture(args, order_version=ORDER_VERSION, past=None):
    """The Mixture that the arguments of train.py name. past: the Past of a resumed run.

    Raises UserError or FileNotFoundError where a dataset cannot be read, or they don't go together.
    """
    past = past or Past()
    places = [*dataset_names(args), *past.dropped]
    datasets = by_their_names([open_dataset(name) for name in places], past.data, args.documents)
    for name, times in collections.Counter(dataset.name for dataset in datasets).items():
        if times > 1:
            raise UserError(f"two of the datasets are called {name}. The log names each dataset "
                            f"by its folder, so the names must differ: rename a folder")
    # what every mode's Mixture is given
    batch_size, steps = past.batch or (args.batch_size, args.gradient_accumulation_steps)
    order = dict(block_size=args.block_size, batch_size=batch_size, steps=steps, seed=args.seed,
                 sampling_method=args.sampling_method, order_version=order_version,
                 documents=args.documents, earlier=past.data)
    if args.training_mode == "single":  # one member of one dataset
        return Mixture([datasets], **order)
    if args.training_mode == "multicontext":
        refuse_unaligned(datasets)  # one member of K streams
        return Mixture([datasets], weights=args.multicontext_loss_weights, **order)
    if not args.multidataset_wte:
        # ids mean the same only under one tokenizer
        refuse_other_tokenizers(datasets, is_new=past.change_at is None)
    history = past.history or [segment_of(args, datasets)]
    if past.change_at is not None:
        history = with_change(history, args, datasets, past.change_at, steps)
    weights = np.array(history[-1]["weights"])
    shares = dict(zip(history[-1]["members"], history[-1]["final"] or weights / weights.sum()))
    mixture = Mixture([[dataset] for dataset in datasets], columns=columns_of(history),
                      fractions_at=fractions_over(history, steps), history=history,
                      weights=[shares.get(dataset.name, 0.0) for dataset in datasets],
                      own_vocabularies=args.multidataset_wte, **order)
    if args.max_epochs_per_dataset:
        refuse_more_epochs(mixture, args)
    return mixture


def by_their_names(datasets, data, documents):
    """The datasets, of which one that was moved or renamed since the run began has the name that it
    had then: a run's order, its log and its checkpoints go by the names. data: fingerprints."""
    found, names = [], {dataset.name for dataset in datasets}
    for dataset in datasets:
        own = dataset.fingerprint(documents)
        is_proved = all(" " not in held for held in own.values())  # hashes, no counts of tokens
        before = [name for name, held in data.items() if held == own and name not in names]
        if before and is_proved and dataset.name not in data:
            dataset = dataclasses.replace(dataset, name=before[0])
        found.append(dataset)
    return found


def refuse_unaligned(streams):
    """Raise UserError unless all streams are as long as the first in both splits, and each that was
    made from another of them was made from the bins that are there now."""
    # a stream that was made from a text that has changed since would be shifted against it
    texts = {stream.name: stream for stream in streams}
    for stream in streams:
        made_of = stream.meta.get("stream", {})
        text = texts.get(made_of.get("text"))
        if text and not text.has_fingerprint(made_of.get("text_sha256", {})):
            raise UserError(
                f"{stream.folder} was made from another version of {text.name} than the one that "
                f"is there now. Run: python {stream.folder}/prepare.py")
    for split, other in itertools.product(SPLITS, streams[1:]):
        first = streams[0].num_tokens[split]
        if other.num_tokens[split] != first:
            raise UserError(
                f"{other.path(split)} has {other.num_tokens[split]:,} tokens, and "
                f"{streams[0].path(split)} has {first:,}. Aligned streams must have equally "
                f"many tokens: prepare both from the same text")


def refuse_other_tokenizers(datasets, is_new=True):
    """Raise UserError unless one tokenizer made all datasets, so that an id means one thing.
    is_new: whether the run begins, and may still give each a vocabulary of its own."""
    apart = ", or give each its own vocabulary: --multidataset_wte" if is_new else ""
    first = datasets[0]
    for other in datasets[1:]:
        if hash_of_table(other.meta) != hash_of_table(first.meta):
            raise UserError(
                f"{first.name} and {other.name} have different tokenizers ({first.vocab_size:,} "
                f"and {other.vocab_size:,} tokens), so one id means different things in them. "
                f"Prepare both with the same tokenizer (prepare.py --method, or --reuse_vocab_of "
                f"{first.name}){apart}")


def refuse_more_epochs(mixture, args):
    """Raise UserError when a member would be read more than --max_epochs_per_dataset times."""
    def too_often(iters):  # (D,) bool
        counts = mixture.counts(iters * mixture.steps)
        return mixture.epochs(counts) > args.max_epochs_per_dataset

    if not too_often(args.max_iters).any():
        return
    # the epochs only grow with the iterations, so the longest run that fits is found by bisection
    first_too_long = bisect.bisect_left(range(args.max_iters), True,
                                        key=lambda iters: too_often(iters).any())
    fits = f"Lower --max_iters to {first_too_long - 1},"
    if first_too_long <= 1:
        fits = "Not even one iteration fits:"
    names = ", ".join(np.array(mixture.names)[too_often(args.max_iters)])
    first = mixture.names[too_often(first_too_long).argmax()]
    raise UserError(f"{names} would be read more than {args.max_epochs_per_dataset:g} times "
                    f"({first} is the first). {fits} change the weights, or raise "
                    f"--max_epochs_per_dataset")
