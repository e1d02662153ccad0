"""Pickles of plain values from anywhere: meta.pkl, and what a checkpoint holds beside its tensors.

    load_plain(raw, path)      the dict of a meta.pkl, its keys checked
    check_opcodes(raw, ...)    looks through a pickle's instructions before any is carried out
    check_meta(meta, path)     checks the keys that a reader relies on, by one table: META

A pickle is a program. Six bytes of it can ask for gigabytes, 80 bytes can double a value 40 times,
and a class in it runs code. So its instructions are looked through first: they may only make dict,
list, str, bytes, int, float, bool and None, may name no length beyond the end of the file, and may
be no more than a large vocabulary takes. Then Python's unpickler in C does the work.
"""
import collections
import io
import pickle
import pickletools
import re

from pipeline.errors import UserError, printable
from pipeline.tokenizers import table_hash

MAX_BYTES = 1 << 26  # of a pickle, and of what it holds when every repetition is written out
MAX_VALUES = 3 << 20  # instructions; a vocabulary takes five for each token
MAX_CONTAINERS = 1 << 16  # lists, dicts, tuples
MAX_DEPTH = 16  # of lists and dicts inside one another
CONTAINERS = {dict, list, tuple, collections.OrderedDict}
PLAIN = ("only plain values (dict, list, str, bytes, int, float, bool, None) are read, and nothing "
         "of it was run")


def _steps(*more):
    """[the bytes of each instruction; minus those of its length where data follow; or None]."""
    table = (("(N.aesu\x88\x89\x94", 1), ("Khq\x80", 2), ("M", 3), ("Jj", 5), ("G", 9),
             ("\x8cC\x8aU", -1), ("XBT", -4), ("\x8d\x8e", -8), *more)
    steps = {ord(name): size for names, size in table for name in names}
    return [steps.get(op) for op in range(256)]


STEPS = _steps()
# torch.save() also writes: a storage of the checkpoint; a call; the state of an OrderedDict
STEPS_OF_TENSORS = _steps(("QRb", 1))
NAMES_OF_TENSORS = re.compile(
    r"collections\.OrderedDict|_codecs\.encode|"
    r"torch\._utils\._rebuild_tensor_v2|torch\.[A-Z]\w*Storage")


def check_opcodes(raw, steps=STEPS, times=1):
    """Raise ValueError unless a pickle makes plain values, at most `times` MAX_VALUES, and
    UserError where it refers to something by name that is refused.

    steps: STEPS_OF_TENSORS also allows what torch.save() writes. With STEPS this returns early at
    the name of a class or function, which the unpickler then refuses.
    """
    at = count = containers = 0
    try:
        while (op := raw[at]) != 46:  # STOP
            step = steps[op]
            count += 1
            if step is None:
                if op in b"c\x93i" and steps is STEPS:
                    return
                containers += op in b"}]dl)t\x85\x86\x87"
                at += _size(raw, at, op, count, steps)
            elif step > 0:
                at += step
            else:
                at += 1 - step + int.from_bytes(raw[at + 1 : at + 1 - step], "little")
            if count > times * MAX_VALUES or containers > MAX_CONTAINERS:
                raise ValueError(f"more than {MAX_VALUES:,} values, or {MAX_CONTAINERS:,} lists "
                                 f"and dicts")
    except IndexError:
        raise ValueError(f"it ends within a value, after {len(raw):,} bytes") from None


def _size(raw, at, op, count, steps):
    """The bytes of a rarer instruction. Raises ValueError or UserError for one that is refused."""
    name, number = chr(op), int.from_bytes(raw[at + 1 : at + 9], "little")
    if name in "}]dl" or name in ")t\x85\x86\x87" and steps is STEPS_OF_TENSORS:
        return 1
    if name == "r" and number % 2**32 <= count:  # a place to remember a value: at most one for each
        return 5
    if name == "\x95" and number <= len(raw) - at - 9:  # a frame, which lies within the file
        return 9
    if name in "ILFVSpg":  # protocol 0: a line of text
        end = raw.index(b"\n", at)
        if end - at > 100 and name not in "VS" or name == "p" and int(raw[at + 1 : end]) > count:
            raise ValueError(f"a number of {end - at:,} digits at byte {at:,}")
        return end + 1 - at
    if name == "c" and steps is STEPS_OF_TENSORS:
        end = raw.index(b"\n", raw.index(b"\n", at) + 1)
        full = raw[at + 1 : end].decode().replace("\n", ".")
        if not NAMES_OF_TENSORS.fullmatch(full):
            raise UserError(f"it refers to {printable(full)}")
        return end + 1 - at
    if name in "\x82\x83\x84":
        raise UserError(f"it refers to extension {raw[at + 1]}; {PLAIN}")
    known = pickletools.code2op.get(name)
    raise ValueError(f"{known.name if known else f'byte 0x{op:02x}'} at byte {at:,} makes no plain "
                     f"value, or names a size beyond the end of the file")


def check_tree(tree, times=1):
    """Raise ValueError where lists and dicts are nested deep or contain themselves, where written
    out they would fill the memory, or where a text is not valid Unicode."""
    left, waiting = times * MAX_BYTES, [(tree, 0)]
    while waiting:
        value, depth = waiting.pop()
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        kinds = set(map(type, parts))
        texts = [part for part in parts if type(part) is str] if str in kinds else []
        left -= len(parts) + sum(map(len, texts))
        left -= sum(len(part) for part in parts if type(part) is bytes) if bytes in kinds else 0
        if left < 0 or depth > MAX_DEPTH:
            raise ValueError(f"lists and dicts more than {MAX_DEPTH} deep, or more than "
                             f"{MAX_BYTES:,} bytes when written out")
        "".join(texts).encode()  # a lone surrogate cannot be encoded
        if kinds & CONTAINERS:
            waiting += [(part, depth + 1) for part in parts
                        if isinstance(part, (dict, list, tuple))]


class _Unpickler(pickle.Unpickler):
    """Refuses every class and function before any of its code runs."""

    def find_class(self, module, name):
        raise UserError(f"it refers to {printable(f'{module}.{name}')}; {PLAIN}")


def load_plain(raw, path):
    """The dict in a meta.pkl. Raises UserError, naming path, where raw is not a pickle of plain
    values, or where a key holds something else than it should."""
    try:
        if len(raw) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        check_opcodes(raw)
        meta = _Unpickler(io.BytesIO(raw)).load()
        if isinstance(meta, dict):
            check_tree(meta)
    except UserError as error:
        raise UserError(f"{path} is not a plain meta.pkl: {error}") from None
    except Exception as error:  # a damaged pickle can raise almost anything
        raise UserError(f"{path} cannot be read ({type(error).__name__}: {printable(str(error))}). "
                        f"Prepare the dataset again") from None
    return check_meta(meta, path)


# ---- what the keys hold: each function tells whether a value will do, or returns one that does


def whole(low, high):
    return lambda value: type(value) is int and low <= value <= high


def word(value):
    """A line of text that can be printed as it is."""
    return type(value) is str and len(value) <= 200 and value.isprintable()


def of(*kinds):
    return lambda value: type(value) in kinds


def digest(value):
    return type(value) is str and bool(re.fullmatch("[0-9a-f]{64}", value))


def or_none(holds):
    return lambda value: value is None or holds(value)


def dict_of(key, value, also=lambda _: True):
    """A dict whose keys and values are of these types, and for which also(dict) holds."""
    return lambda given: (type(given) is dict and {*map(type, given)} <= key
                          and {*map(type, given.values())} <= value and also(given))


def dict_where(key, value=lambda _: True):
    """A dict in which each key and each value will do. Slower than dict_of()."""
    return lambda given: isinstance(given, dict) and all(
        key(k) and value(v) for k, v in given.items())


def _ids(given):
    return not given or 0 <= min(given) and max(given) < 2**32


def dict_with(table, needed=()):
    """A dict that has the `needed` keys, and whose values will do for those that `table` names."""
    return lambda given: type(given) is dict and given.keys() >= set(needed) and all(
        holds(given[key]) for key, holds in table.items() if key in given)


def list_of(kinds):
    return lambda given: type(given) is list and {*map(type, given)} <= kinds


def _itos(given):
    """id -> token. Other programs write a list, or numbers for tokens."""
    return dict_of({int}, TOKEN, _ids)(given) or list_of(TOKEN)(given)


TOKEN = {str, bytes, int}
SPECIAL = dict_of({str}, {int}, lambda given: _ids(given.values()) and "" not in given)
OF_SPLITS = dict_of({str}, {str})
COUNT = whole(0, 2**63 - 1)
MASK = dict_with({"sha256": digest, "learned": COUNT}, needed=["sha256", "learned"])
INDEX = dict_with({"sha256": digest, "count": COUNT}, needed=["sha256", "count"])
SPLIT = dict_with({"tokens": COUNT, "bytes": or_none(COUNT), "documents": or_none(COUNT),
                   "sha256": digest, "mask": MASK, "docs": INDEX}, needed=["tokens"])
DOCS = dict_with({"width": (16, 24).__contains__, "files_sha256": digest, "ended": of(bool)},
                 needed=["width", "files_sha256", "ended"])


def _splits(given):
    """Counts of train and val, both of which have a mask or neither, and so for an index."""
    return SPLITS(given) and all((part in given["train"]) == (part in given["val"])
                                 for part in ("mask", "docs"))


SPLITS = dict_with({"train": SPLIT, "val": SPLIT}, needed=["train", "val"])
STREAM = dict_with({"text": word, "text_sha256": OF_SPLITS, "map": word, "annotation": word})
META = {  # key of meta.pkl: (whether a value will do, what it must be)
    "vocab_size": (whole(1, 2**32), "a whole number from 1 to 2**32"),
    "max_id": (COUNT, "a whole number"),
    "dtype": (("uint16", "uint32").__contains__, "uint16 or uint32"),
    "eot_token": (or_none(whole(0, 2**32 - 1)), "an id or None"),
    "splits": (_splits, "counts (tokens, bytes, documents) and hashes for train and val"),
    "docs": (DOCS, "the width of a document's record, a sha256, and True or False"),
    "chat_layout": (word, "a short name"),
    "itos": (or_none(_itos), "a dict of ids and tokens (str or bytes)"),
    "stoi": (or_none(dict_of(TOKEN, {int})), "a dict of tokens (str or bytes) and ids"),
    "table_sha256": (digest, "a sha256"),
    "tokenizer": (or_none(word), "a short name"),
    "tiktoken_encoding": (or_none(word), "a short name"),
    "backend": (or_none(word), "a short name"),
    "pat_str": (of(str), "text"),
    "special_tokens": (or_none(SPECIAL), "a dict of tokens (str) and ids"),
    "additional_tokens": (or_none(SPECIAL), "a dict of tokens (str) and ids"),
    "sentencepiece_model": (of(bytes), "the bytes of a model"),
    "tokenizer_json": (of(str), "the text of a tokenizer.json"),
    "names_are_text": (of(bool), "true or false"),
    "source": (or_none(of(str)), "text"),
    "source_sha256": (or_none(of(str)), "text"),
    "split_rule": (or_none(word), "a short name"),
    "percentage_train": (or_none(of(int, float)), "a number or None"),
    "members": (list_of({dict}), "a list of dicts"),
    "stream": (STREAM, "a dict that names its text"),
}


def wrong_keys(held, table):
    """The keys of `held` whose values are wrong by `table`."""
    return [key for key, (holds, _) in table.items() if key in held and not holds(held[key])]


def check_meta(meta, path, again="Prepare the dataset again"):
    """Return meta, the dict of a meta.pkl, if the keys that a reader relies on hold what they
    should; otherwise raise UserError. again: what the message tells the user to do."""
    if not isinstance(meta, dict) or not META["vocab_size"][0](meta.get("vocab_size")):
        raise UserError(f"{path} holds no vocab_size from 1 to 2**32. {again}")
    if wrong := wrong_keys(meta, META):
        given = meta[wrong[0]]
        given = given[:100] if isinstance(given, (str, bytes)) else given
        shown = type(given).__name__ if isinstance(given, (dict, list)) else printable(repr(given))
        raise UserError(f"{path} says {wrong[0]} {shown}; it must be {META[wrong[0]][1]}. {again}")
    itos, size = meta.get("itos") or {}, meta["vocab_size"]
    num_ids = max(itos) + 1 if isinstance(itos, dict) and itos else len(itos)
    largest = max(num_ids - 1, meta.get("eot_token") or 0)
    differs = num_ids != size if "source_sha256" in meta else num_ids > size
    # other programs count tiktoken's merges, which leaves out <|endoftext|>
    if meta.get("tokenizer") == "tiktoken" and not {"pat_str", "source_sha256"} & meta.keys():
        differs = False
    if differs or (meta.get("eot_token") or 0) >= size:
        raise UserError(f"{path} says vocab_size {size:,}, and the ids in its itos and eot_token "
                        f"go up to {largest:,}. {again}")
    counts_documents = "docs" in meta.get("splits", {}).get("train", {})
    if ("docs" in meta) != counts_documents:
        lacking = "their width, docs" if counts_documents else "their number in splits"
        raise UserError(f"{path} is about an index of documents, and lacks {lacking}. {again}")
    if "table_sha256" in meta and not (
            dict_of({int}, {str, bytes})(itos) and table_hash(itos) == meta["table_sha256"]):
        raise UserError(f"{path} holds another table of tokens than was written: the sha256 of its "
                        f"itos differs from the table_sha256 {meta['table_sha256']} that it "
                        f"states. {again}")
    return meta
