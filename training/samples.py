"""Samples of a model, printed: one text, or aligned streams one above another."""
import sys
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from model import draw
from pipeline.errors import UserError
from pipeline.files import read_text
from pipeline.read.streams import STREAMS, StreamMap
from pipeline.tokenizers import (
    CharTokenizer,
    TableTokenizer,
    tokenizer_from_meta,
)

LINE = 79  # characters


@dataclass
class SampleArgs:
    """What sample.py is asked for, with its defaults; its --help says what each is."""
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


VISIBLE = str.maketrans("\n\t\r", "\u21b5\u21e5\u2190")


def first_token(starts, name, meta, tokenizer):
    """The id that a sample starts from without a prompt: that of starts, {dataset: id}, which
    train.py has found in the data. A checkpoint from before that has none: then the end of a
    document if there were several, a newline, or else id 0."""
    start = starts.get(name) if isinstance(starts, dict) else None
    if type(start) is int and 0 <= start < meta["vocab_size"]:
        return start
    documents = meta.get("splits", {}).get("train", {}).get("documents")
    if tokenizer.eot_token is not None and documents not in (0, 1):
        return tokenizer.eot_token
    try:
        return int(tokenizer.encode("\n")[0])
    except (UserError, IndexError):
        return 0


def encode_prompt(tokenizer, text, start, flag="--start"):
    """The prompt's ids, a list of one or more; <|endoftext|> becomes the token where the tokenizer
    has one. start: the id to start from where there is no text."""
    if not text:
        return [start]
    parts = text.split("<|endoftext|>") if tokenizer.eot_token is not None else [text]
    ids = []
    try:
        for i, part in enumerate(parts):
            ids += [tokenizer.eot_token] if i else []
            ids += tokenizer.encode(part).tolist()
    except UserError as error:
        raise UserError(f"{flag}: {error}. The model knows no more than its dataset held") from None
    return ids


def speak(model, metas, starts, training_mode, args, device):
    """Print the samples that args ask for. metas: {dataset: its meta.pkl}, one for each vocabulary
    of the model; starts: see first_token()."""
    sizes = model.config.vocab_sizes or (model.config.vocab_size,)
    vocabularies = {name: (sum(sizes[:i]), size) for i, (name, size) in enumerate(zip(metas, sizes))}
    generator = torch.Generator(device).manual_seed(args.seed)
    choose = partial(draw_of, temperature=args.temperature, top_k=args.top_k or None, top_p=args.top_p, generator=generator)
    if training_mode == "multicontext":
        wrong = [flag for flag in ("start", "stop", "dataset") if getattr(args, flag)]
        if wrong:
            raise UserError(f"--{wrong[0]} is for one stream, and this run has {len(metas)}: {', '.join(metas)}. Give their "
                            f"prompts by --multicontext_start")
        tokenizers = {name: tokenizer_from_meta(meta) for name, meta in metas.items()}
        starts = {name: first_token(starts, name, metas[name], tokenizers[name]) for name in metas}
        speak_streams(model, metas, tokenizers, starts, vocabularies, choose, args, device)
        return
    if args.multicontext_start or args.draw_all_streams:
        raise UserError("--multicontext_start and --draw_all_streams are for runs of --training_mode multicontext; give the "
                        "prompt by --start")
    if args.dataset and (len(metas) == 1 or args.dataset not in metas):
        raise UserError(f"--dataset chooses among the vocabularies of a run with --multidataset_wte; this one has: "
                        f"{', '.join(metas)}")
    name = args.dataset or next(iter(metas))
    if len(metas) > 1 and not args.dataset:
        print(f"note: this samples {name}; the others by --dataset: {', '.join(metas)}", file=sys.stderr)
    tokenizer, vocabulary = tokenizer_from_meta(metas[name]), vocabularies[name]
    text = read_text(args.start[5:]) if (args.start or "").startswith("FILE:") else args.start
    if text and isinstance(tokenizer, TableTokenizer):
        print("note: the dataset has a tokenizer of its own; the prompt is encoded by longest match in its tokens",
              file=sys.stderr)
    ids = encode_prompt(tokenizer, text, first_token(starts, name, metas[name], tokenizer))
    note_if_long(ids, model.config.block_size)
    speak_text(model, tokenizer, ids, vocabulary, choose, args, device)


def note_if_long(ids, block_size):
    if len(ids) > block_size:
        print(f"note: the prompt has {len(ids):,} tokens, the model's context {block_size:,}: only the end of the prompt is "
              f"read", file=sys.stderr)


def draw_of(logits, vocabulary, **choice):
    """draw() from the tokens of one vocabulary, (first id, size), of those that lie in the model's table: (B, 1)."""
    first, size = vocabulary
    return draw(logits[:, first : first + size], **choice) + first


def speak_text(model, tokenizer, ids, vocabulary, choose, args, device):
    """Print the samples: a single one as it comes, several when all have ended."""
    rows, texts = [list(ids) for _ in range(args.num_samples)], [None] * args.num_samples  # a text once it has ended
    prompt = len(tokenizer.decode(ids))  # characters
    shown = 0 if args.start else prompt  # what a sample starts from without a prompt is no part of the text
    first = vocabulary[0]
    for new in model.generate_tokens(torch.tensor(rows, device=device) + first, args.max_new_tokens,
                            partial(choose, vocabulary=vocabulary)):
        for i, token in enumerate((new[:, 0] - first).tolist()):
            if texts[i] is not None:
                continue
            if token == tokenizer.eot_token:
                texts[i] = tokenizer.decode(rows[i])
                continue
            rows[i].append(token)
            if args.stop or args.num_samples == 1:
                text = tokenizer.decode(rows[i])
                if args.stop and (end := text.find(args.stop, prompt)) >= 0:
                    texts[i] = text[:end]
                elif args.num_samples == 1:  # but for what may yet become the stop text, or half a character
                    ready = max(shown, len(text.rstrip("\ufffd")) - len(args.stop or " ") + 1)
                    print(text[shown:ready], end="", flush=True)
                    shown = ready
        if None not in texts:
            break
    texts = [text if text is not None else tokenizer.decode(row) for text, row in zip(texts, rows)]
    texts = [text[shown:] for text in texts]
    print("\n---------------\n".join(texts))


def speak_streams(model, metas, tokenizers, starts, vocabularies, choose, args, device):
    """Print samples of streams trained together, one above another, symbol under symbol.

    A stream that is a function of another of them (meta.pkl names the map) is computed from that one's text, so that they
    agree; the rest are drawn from their heads, each on its own.
    """
    names = list(metas)
    mapped = {name: meta["stream"] for name, meta in metas.items()
              if meta.get("stream", {}).get("map") in STREAMS}
    made_of = {name: stream.get("text") for name, stream in mapped.items()
               if isinstance(tokenizers.get(stream.get("text")), CharTokenizer) and
               getattr(tokenizers[name], "chars", None) == sorted(STREAMS[stream["map"]][0])}
    made_of = {name: of for name, of in made_of.items() if of not in made_of}  # a stream of a stream is drawn
    maps = {name: StreamMap(metas[name]["stream"]["map"], tokenizers[of].chars) for name, of in made_of.items()}
    computed = {} if args.draw_all_streams else made_of
    rows, positions = prompts(names, tokenizers, starts, computed, maps, args.multicontext_start)
    note_if_long(rows[names[0]], model.config.block_size)
    first_ids = torch.tensor([first for first, _ in vocabularies.values()], device=device)
    start = torch.tensor([rows[name] for name in names], device=device).T + first_ids  # (t, K)
    positions = {name: np.full(args.num_samples, position) for name, position in positions.items()}

    def choose_all(logits):
        new = {name: (choose(logits, vocabulary=vocabularies[name])[:, 0] - vocabularies[name][0]).cpu().numpy()
               for name in names if name not in computed}
        for name, of in computed.items():
            new[name], positions[name] = maps[name].step(new[of], positions[name])
        return torch.from_numpy(np.stack([new[name] for name in names], -1)).to(device)[:, None].long() + first_ids

    ids = model.generate(start.expand(args.num_samples, -1, -1), args.max_new_tokens, choose=choose_all) - first_ids
    # the token to start from is no part of the text
    shown = 0 if any(args.multicontext_start or ()) else len(start)
    print("\n---------------\n".join(aligned({name: [tokenizers[name].decode([i]) for i in stream] for name, stream in
                                               zip(names, sample[shown:].T.tolist())}) for sample in ids))
    for name, of in made_of.items() if args.draw_all_streams else ():
        pairs = [(sample[:, names.index(name)], maps[name](sample[:, names.index(of)])[0]) for sample in ids.cpu().numpy()]
        agree = np.concatenate([drawn == wanted for drawn, wanted in pairs])
        print(f"note: {name}, drawn on its own, agrees with {of} on {agree.mean():.1%} of {agree.size:,} characters",
              file=sys.stderr)


def prompts(names, tokenizers, starts, computed, maps, texts):
    """({stream: ids}, equally many, {computed stream: its position after them}), from the texts of --multicontext_start
    (None: from starts, {stream: id})."""
    drawn = [name for name in names if name not in computed]
    if texts and len(texts) not in (len(drawn), len(names)):
        need = f"{len(drawn)} ({', '.join(drawn)})" + (f" or {len(names)} (with {', '.join(computed)})" if computed else "")
        raise UserError(f"--multicontext_start has {len(texts)} prompts; this run needs {need}")
    given = dict(zip(drawn if texts and len(texts) == len(drawn) else names, texts or ()))
    ids = {name: encode_prompt(tokenizers[name], given.get(name), starts[name],
                               f"--multicontext_start of {name}") for name in drawn}
    length, positions = len(ids[drawn[0]]), {}
    for name in drawn:
        if len(ids[name]) != length:
            raise UserError(f"--multicontext_start: {name} has {len(ids[name])} tokens, {drawn[0]} {length}; they must be equal")
    for name, of in computed.items():
        of_it, positions[name] = maps[name](ids[of])
        must = tokenizers[name].decode(of_it)
        if given.get(name, must) != must:
            raise UserError(f"--multicontext_start of {name} is {given[name]!r}, but its function of {of} gives {must!r}. "
                            f"Leave it out, or give that")
        ids[name] = of_it.tolist()
    return ids, positions


def aligned(streams):
    """{name: symbols} -> lines of symbols, a stream under the other, each symbol as wide as the widest there."""
    streams = {name: [symbol.translate(VISIBLE) for symbol in symbols] for name, symbols in streams.items()}
    widths = [max(map(len, column)) for column in zip(*streams.values())]
    label = max(map(len, streams))
    per_line = max(20, LINE - 2 - label) // max(widths, default=1) or 1
    blocks = []
    for first in range(0, len(widths), per_line):
        part = slice(first, first + per_line)
        blocks.append("\n".join(f"{name:>{label}}  " + "".join(s.ljust(w) for s, w in zip(symbols[part], widths[part]))
                                for name, symbols in streams.items()))
    return "\n\n".join(blocks)
