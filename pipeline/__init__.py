"""From a text to a batch.

    errors.py      a user's mistake becomes one line       files.py      all-or-nothing files, locks
    encodings.py   bytes -> text, strictly                 threads.py    cores, quota, how to wait
    chats.py       layouts of conversations
    tokenizers/    text <-> ids, one module for each family
    get/           download and verify: addresses, the Hugging Face hub, models, the package index
    prepare/       inputs -> units -> ids -> a committed dataset folder; a prepare.py imports this
    read/          a folder -> a mixture -> the sampler's order -> batches
    pages/         pages for a browser, each one file: their frame, style and scripts

Imports run one way: prepare -> read, get and tokenizers; read -> tokenizers. read never imports
prepare or get. A tokenizer that is asked for by name and has no table is the only one that uses
get, to download its BPE merge file.

A batch takes four files of read/, in the order of the data: folder.py opens a dataset, mixture.py
decides which datasets a run reads, sampler.py which windows in which order, and batches.py reads
them as tensors. train.py is the fifth, and computes the loss. meta.py checks what meta.pkl holds;
history.py has the shares of a mixture's members, documents.py where documents begin; audit.py goes
the same way backwards, from a token to the iterations that read it.

One word, one meaning:

    dataset              a folder of train.bin, val.bin, meta.pkl
    mixture, member      several datasets sampled by weights; one of them
    weights, fraction    what a member counts for; its part of the whole, 0 to 1
    aligned stream       one of K token sequences that are read side by side
    window               block_size + 1 tokens, which make one row of a batch
    context length       block_size: the tokens a prediction may look back on
    draw                 the number of a row in the order of the run
    batch                batch_size consecutive draws, and the tensors of their windows
    micro-batch          the rows of one forward pass; iteration: one step of the optimizer
    chunk                a run of bytes, tokens or windows that is handled at once
    unit                 a piece of text that is encoded as one job
    rank                 a process of torchrun
    BPE merge file       the table of byte pairs that an encoding merges, in order
    provenance           where a text came from
    turn                 what one role says in a chat; a layout says what stands around it
    marker               a special token that no text becomes
    document, index      a text that stands for itself; where each one of a split begins
    mask                 of a split: which of its tokens are learned
    learned              of a token: predicted, so that it counts in the loss
    generated tokens     what a model writes
    block                a layer of the model
"""
import sys

from pipeline import errors

# every script imports from here before numpy or torch, which a Python without them cannot find
sys.excepthook = errors.tell_in_one_line(sys.excepthook)
if sys.version_info < (3, 11):  # noqa: UP036  told here, since older ones fail anywhere
    raise errors.UserError(
        f"Python 3.11 to 3.13 is needed, and this is {sys.version.split()[0]} ({sys.executable}). "
        f"Make an environment with one of those, such as: python3.12 -m venv .venv")
