"""The page that shows a text with the loss of each token: evaluate.py --html.

    write_text_page(path, title, runs, documents, ...)      runs: of each model a RunOnText
"""
import codecs
import math
from dataclasses import dataclass

import numpy as np

from pipeline.pages import packed, write_page
from pipeline.tokenizers import as_bytes, token_text

MOST_TOKENS = 200_000  # on a page; with more, a browser would take long to open it
LIKELIEST = 5  # tokens that are named for each position


@dataclass
class RunOnText:
    """What one model predicted of a text of N tokens."""
    name: str
    meta: dict  # of its tokenizer, as meta.pkl has it
    ids: np.ndarray  # (N,)
    losses: np.ndarray  # (N,), nats; NaN where a token was not predicted
    ranks: np.ndarray  # (N,): 1 where the model found no token likelier
    likeliest: np.ndarray  # (N, 5) ids
    chances: np.ndarray  # (N, 5), 0 to 1: their probabilities
    starts: np.ndarray  # (D,): the token at which each document begins


def write_text_page(path, title, runs, documents, heads, rows, note=""):
    """Write the page of some runs on one text.

    documents: their names, in the order of RunOnText.starts. heads, rows: the table of results at
    the top, as table() of page.js takes it. note: a line below it.
    """
    write_page(path, title, "text.js", {
        "title": title, "note": note, "summary": {"heads": heads, "rows": rows}, "unit": "token",
        # the loss of a guess that finds all tokens equally likely
        "top_loss": max(math.log(max(2, run.meta["vocab_size"])) for run in runs),
        "documents": documents, "runs": [_as_data(run) for run in runs]})


def _as_data(run):
    texts = {}
    shown = [texts.setdefault(text, len(texts)) for text in shown_texts(run.meta, run.ids)]
    named, places = np.unique(np.concatenate([run.ids[:, None], run.likeliest], axis=1),
                              return_inverse=True)
    places = places.reshape(len(run.ids), -1)
    eot = run.meta.get("eot_token")
    end = np.flatnonzero(named == eot) if eot is not None else ()
    return {
        "name": run.name, "labels": [token_text(run.meta, i) for i in named.tolist()],
        "texts": list(texts), "shown": packed(np.array(shown, np.int64)),
        "ids": packed(places[:, 0]), "likeliest": packed(places[:, 1:]),
        "losses": packed(np.asarray(run.losses, np.float32)), "ranks": packed(run.ranks),
        "chances": packed(np.rint(np.asarray(run.chances) * 65535).astype(np.int64)),
        "starts": packed(run.starts), "end_token": int(end[0]) if len(end) else None}


def shown_texts(meta, ids):
    """The part of the text that each of ids (N,) adds, N strings; joined, they are the text.

    Where several tokens share a character, as the bytes of one do, the last of them adds it, and
    the ones before add nothing. What is no UTF-8 becomes U+FFFD.
    """
    decoder, itos = codecs.getincrementaldecoder("utf-8")("replace"), meta["itos"]
    texts = [decoder.decode(as_bytes(itos.get(i, "\ufffd"))) for i in np.asarray(ids).tolist()]
    if texts:
        texts[-1] += decoder.decode(b"", final=True)
    return texts
