"""Samples of a model, printed: one text, or aligned streams one above another.

    speak(model, metas, starts, training_mode, SampleArgs(...), device)
"""
import contextlib
import sys
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from model import sample_token
from pipeline.errors import UserError
from pipeline.files import read_text
from pipeline.read.streams import STREAMS, StreamMap
from pipeline.tokenizers import CharTokenizer, TableTokenizer, tokenizer_from_meta

BETWEEN = "\n---------------\n"  # printed between two samples
LINE = 79  # characters
VISIBLE = str.maketrans("\n\t\r", "\u21b5\u21e5\u2190")  # one symbol for each, where columns align


@dataclass
class SampleArgs:
    """The flags of sample.py that determine a sample, with their defaults; --help explains them."""
    start: str | None = None
    stop: str | None = None
    dataset: str | None = None
    multicontext_start: list | None = None
    draw_all_streams: bool = False
    num_samples: int = 1
    max_new_tokens: int = 500
    temperature: float = 0.8
    top_k: int = 200
    top_p: float = 1.0
    seed: int = 1337


class Vocabulary:
    """The tokens of one dataset: in the model's table they have the ids first to first + size - 1.

    start: the token that a sample without a prompt starts from, as an id of the dataset.
    """

    def __init__(self, name, meta, first, size, starts):
        self.name, self.meta, self.first, self.size, self._starts = name, meta, first, size, starts

    @cached_property
    def tokenizer(self):
        return tokenizer_from_meta(self.meta)

    @cached_property
    def start(self):
        start = self._starts.get(self.name) if isinstance(self._starts, dict) else None
        if type(start) is int and 0 <= start < self.meta["vocab_size"]:
            return start  # train.py found it in the data
        # an older checkpoint has none: take the end of a document, else a newline, else id 0
        documents = self.meta.get("splits", {}).get("train", {}).get("documents")
        if self.tokenizer.eot_token is not None and documents not in (0, 1):
            return self.tokenizer.eot_token
        try:
            return int(self.tokenizer.encode("\n")[0])
        except (UserError, IndexError):
            return 0

    def encode_prompt(self, text, flag="--start"):
        """A list of one or more ids; <|endoftext|> is the token, if the tokenizer has it."""
        if not text:
            return [self.start]
        eot = self.tokenizer.eot_token
        # the tokenizer of a published model reads the names of its special tokens itself
        of_own = ("<|endoftext|>" in getattr(self.tokenizer, "special_tokens", ())
                  and not self.tokenizer.names_are_text)
        parts = text.split("<|endoftext|>") if eot is not None and not of_own else [text]
        try:
            first, *others = (self.tokenizer.encode(part).tolist() for part in parts)
        except UserError as error:
            raise UserError(f"{flag}: {error}. The model knows only what its dataset "
                            f"contained") from None
        return first + [token for ids in others for token in (eot, *ids)]

    def sample(self, logits, options):
        """One token for each row of logits (B, ids of the table) -> (B,), as ids of the dataset."""
        size = min(self.size, self.tokenizer.vocab_size)  # a published table has rows without ids
        return sample_token(logits[:, self.first : self.first + size], **options)[:, 0]


def vocabularies_of(config, metas, starts):
    """The Vocabulary of each of metas, as speak() takes them, in the order of the model's table."""
    sizes = config.vocab_sizes or (config.vocab_size,)
    return [Vocabulary(name, meta, sum(sizes[:i]), size, starts)
            for i, ((name, meta), size) in enumerate(zip(metas.items(), sizes))]


def choose_vocabulary(vocabularies, dataset, what):
    """The Vocabulary that --dataset names, or the first one, which a note then names: `what` it is
    of. Raises UserError."""
    names = [v.name for v in vocabularies]
    if dataset and (len(names) == 1 or dataset not in names):
        raise UserError(f"--dataset {dataset} names no vocabulary of this run, which has "
                        f"{', '.join(names)}. Leave --dataset out" if len(names) > 1 else
                        f"--dataset is for runs with --multidataset_wte, and this run has one "
                        f"vocabulary, that of {', '.join(names)}. Leave --dataset out")
    vocabulary = vocabularies[names.index(dataset) if dataset else 0]
    if len(names) > 1 and not dataset:
        note(f"{what} {vocabulary.name}; --dataset chooses another of: {', '.join(names)}")
    return vocabulary


class GrowingText:
    """The text of a list of ids that grows: str() costs the same however long it has become.

    Only the last ids are decoded again, with some before them: several tokens may spell a
    character, and a published tokenizer drops the space that its first token begins with.
    """
    AGAIN, BEFORE = 64, 8  # ids

    def __init__(self, tokenizer, ids=()):
        self._tokenizer, self._ids = tokenizer, list(ids)
        self._settled, self._skip = "", 0  # the text of ids that are left out; how much of ids' is

    def add(self, token):
        self._ids.append(token)

    def __str__(self):
        last = self._tokenizer.decode(self._ids)
        text = self._settled + last[self._skip :]
        if len(self._ids) > self.AGAIN:
            self._settle(last)
        return text

    def _settle(self, last):
        """Leave out all but the last ids, if that changes no character; else wait for more."""
        cut = len(self._ids) - self.AGAIN // 2
        later = self._ids[cut - self.BEFORE :]
        before, again = self._tokenizer.decode(self._ids[:cut]), self._tokenizer.decode(later)
        after = last[len(before) :]
        if last.startswith(before) and again.endswith(after):
            self._settled += before[self._skip :]
            self._ids, self._skip = later, len(again) - len(after)


@contextlib.contextmanager
def without_cudnn_attention():
    """cuDNN's attention prepares itself anew for each number of keys, which each new token
    changes."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@without_cudnn_attention()
def speak(model, metas, starts, training_mode, args, device):
    """Print the samples that args, a SampleArgs or the flags of sample.py, ask for.

    metas: {dataset: its meta.pkl}, one for each vocabulary of the model. starts: {dataset: the id
    that its samples start from}, or None.
    """
    vocabularies = vocabularies_of(model.config, metas, starts)
    options = dict(temperature=args.temperature, top_k=args.top_k or None, top_p=args.top_p,
                   generator=torch.Generator(device).manual_seed(args.seed))
    if training_mode == "multicontext":
        for flag in ("start", "stop", "dataset"):
            if getattr(args, flag):
                raise UserError(f"--{flag} is for a single stream, and this run has {len(metas)}: "
                                f"{', '.join(metas)}. Give their prompts by --multicontext_start")
        return speak_streams(model, vocabularies, options, args, device)
    if args.multicontext_start or args.draw_all_streams:
        raise UserError("--multicontext_start and --draw_all_streams are for runs of "
                        "--training_mode multicontext. Give the prompt by --start")
    vocabulary = choose_vocabulary(vocabularies, args.dataset, "this is a sample of")
    text = read_text(args.start[5:]) if (args.start or "").startswith("FILE:") else args.start
    if text and isinstance(vocabulary.tokenizer, TableTokenizer):
        note("the dataset has a custom tokenizer; the prompt is encoded by longest match in its "
             "tokens")
    prompt = vocabulary.encode_prompt(text)
    note_if_long(prompt, model.config.block_size)
    speak_text(model, vocabulary, prompt, options, args, device)


def note(text):
    print(f"note: {text}", file=sys.stderr)


def note_if_long(prompt, block_size):
    if len(prompt) > block_size:
        note(f"the prompt has {len(prompt):,} tokens, and the model's context {block_size:,}: it "
             f"reads only the end of the prompt")


def speak_text(model, vocabulary, prompt, options, args, device):
    """Print samples that continue prompt, a list of ids. A single one is printed as it comes."""
    tokenizer, alone = vocabulary.tokenizer, args.num_samples == 1
    growing = [GrowingText(tokenizer, prompt) for _ in range(args.num_samples)]
    texts = [None] * len(growing)  # each once its sample has ended
    prompt_length = len(str(growing[0]))  # characters
    shown = 0 if args.start else prompt_length  # without a prompt, the first token is not shown
    idx = torch.tensor([prompt] * args.num_samples, device=device) + vocabulary.first

    def choose(logits):
        return vocabulary.sample(logits, options)[:, None] + vocabulary.first

    for new in model.generate_tokens(idx, args.max_new_tokens, choose):
        for i, token in enumerate((new[:, 0] - vocabulary.first).tolist()):
            if texts[i] is not None:
                continue
            if token == tokenizer.eot_token:
                texts[i] = str(growing[i])
                continue
            growing[i].add(token)
            if not args.stop and not alone:
                continue
            text = str(growing[i])
            if args.stop and (end := text.find(args.stop, prompt_length)) >= 0:
                texts[i] = text[:end]
            elif alone:  # hold back half a character, and what may yet become the stop text
                ready = max(shown, len(text.rstrip("\ufffd")) - len(args.stop or " ") + 1)
                print(text[shown:ready], end="", flush=True)
                shown = ready
        if None not in texts:
            break
    texts = [str(grown) if text is None else text for grown, text in zip(growing, texts)]
    print(BETWEEN.join(text[shown:] for text in texts))


def speak_streams(model, vocabularies, options, args, device):
    """Print samples of aligned streams, one above another, symbol under symbol.

    A stream that is a function of another one (meta.pkl names the function) is computed from that
    one's sample, so that the two agree. The others are sampled, each from its own head.
    """
    names = [v.name for v in vocabularies]
    functions = stream_functions(vocabularies)
    computed = {} if args.draw_all_streams else functions
    rows, positions = prompts(vocabularies, computed, args.multicontext_start)
    note_if_long(rows[0], model.config.block_size)
    first_ids = torch.tensor([v.first for v in vocabularies], device=device)
    idx = torch.tensor(rows, device=device).T + first_ids  # (t, K)
    positions = {name: np.full(args.num_samples, position) for name, position in positions.items()}

    def choose(logits):
        new = {v.name: v.sample(logits, options).cpu().numpy() for v in vocabularies
               if v.name not in computed}
        for name, (of, stream_map) in computed.items():
            new[name], positions[name] = stream_map.step(new[of], positions[name])
        columns = np.stack([new[name] for name in names], -1)  # (B, K)
        return torch.from_numpy(columns).to(device)[:, None].long() + first_ids

    ids = model.generate(idx.expand(args.num_samples, -1, -1), args.max_new_tokens, choose=choose)
    ids = (ids - first_ids).cpu().numpy()  # (B, t + max_new_tokens, K)
    shown = 0 if any(args.multicontext_start or ()) else len(idx)  # as in speak_text()

    def symbols(sample):  # (t, K)
        return {v.name: [v.tokenizer.decode([token]) for token in stream]
                for v, stream in zip(vocabularies, sample[shown:].T.tolist())}
    print(BETWEEN.join(aligned(symbols(sample)) for sample in ids))
    for name, (of, stream_map) in functions.items() if args.draw_all_streams else ():
        drawn, read = ids[:, :, names.index(name)], ids[:, :, names.index(of)]
        agree = drawn == [stream_map(row)[0] for row in read]
        note(f"{name}, sampled from its own head, agrees with {of} on {agree.mean():.1%} of "
             f"{agree.size:,} characters")


def stream_functions(vocabularies):
    """{stream: (the stream that it is a function of, the function)}, where meta.pkl names them."""
    by_name, functions = {v.name: v for v in vocabularies}, {}
    for v in vocabularies:
        stated = v.meta.get("stream", {})
        of, which = by_name.get(stated.get("text")), stated.get("map")
        if (of and which in STREAMS and isinstance(of.tokenizer, CharTokenizer)
                and getattr(v.tokenizer, "chars", None) == sorted(STREAMS[which][0])):
            functions[v.name] = of.name, StreamMap(which, of.tokenizer.chars)
    # a function of a stream that is computed itself would need an order: it is sampled instead
    return {name: (of, f) for name, (of, f) in functions.items() if of not in functions}


def prompts(vocabularies, computed, texts):
    """The prompts of --multicontext_start as ids, and the positions of the computed streams.

    Returns a list of ids for each stream, equally many, and {computed stream: its position after
    them}. Without texts, each stream starts from its own start.
    """
    sampled = [v for v in vocabularies if v.name not in computed]
    if texts and len(texts) not in (len(sampled), len(vocabularies)):
        need = f"{len(sampled)} ({', '.join(v.name for v in sampled)})"
        need += f" or {len(vocabularies)} (with {', '.join(computed)})" if computed else ""
        raise UserError(f"--multicontext_start has {len(texts)} prompts, and this run needs {need}")
    prompted = sampled if texts and len(texts) == len(sampled) else vocabularies
    given = {v.name: text for v, text in zip(prompted, texts or ())}
    ids = {v.name: v.encode_prompt(given.get(v.name), f"--multicontext_start of {v.name}")
           for v in sampled}
    if len({len(stream) for stream in ids.values()}) > 1:
        counts = ", ".join(f"{name} has {len(stream)} tokens" for name, stream in ids.items())
        raise UserError(f"--multicontext_start: {counts}; all need the same number")
    by_name, positions = {v.name: v for v in vocabularies}, {}
    for name, (of, stream_map) in computed.items():
        stream, positions[name] = stream_map(ids[of])
        must = by_name[name].tokenizer.decode(stream)
        if given.get(name, must) != must:
            raise UserError(f"--multicontext_start of {name} is {given[name]!r}, but it is "
                            f"computed from {of}, so it must be {must!r}. Write that, or leave "
                            f"that prompt out")
        ids[name] = stream.tolist()
    return [ids[v.name] for v in vocabularies], positions


def aligned(streams):
    """{name: symbols} -> lines of text, one stream under another, symbols padded to columns."""
    rows = [[symbol.translate(VISIBLE) for symbol in symbols] for symbols in streams.values()]
    widths = [max(map(len, column)) for column in zip(*rows)]
    rows = [[symbol.ljust(width) for symbol, width in zip(row, widths)] for row in rows]
    label = max(map(len, streams))
    per_line = max(20, LINE - 2 - label) // max(widths, default=1) or 1
    return "\n\n".join(
        "\n".join(f"{name:>{label}}  {''.join(row[first : first + per_line])}"
                  for name, row in zip(streams, rows))
        for first in range(0, len(widths), per_line))
