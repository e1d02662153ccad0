"""Pickles of plain values, from anywhere: meta.pkl, and what a checkpoint holds beside tensors.

    load_plain(raw, path)      the dict of a meta.pkl, its keys checked
    check_opcodes(raw, ...)    a pickle's instructions, looked through before any is carried out
    check_meta(meta, path)     the keys that a reader goes by, one table: META

A pickle is a program. Six bytes of it can ask for gigabytes, 80 can double a value 40 times, and a
class in it runs code. So its instructions are looked through first: they may only make dict, list,
str, bytes, int, float, bool and None, name no length beyond the file's end, and be no more than a
large vocabulary takes. Then the unpickler in C does the work.
"""

import collections
import io
import pickle
import pickletools
import re

from pipeline.errors import UserError, printable
from pipeline.tokenizers import table_hash

MAX_BYTES = 1 << 26  # of a pickle, and of what it holds, where that is written out
MAX_VALUES = 3 << 20  # instructions; a vocabulary takes five a token
MAX_CONTAINERS = 1 << 16  # lists, dicts, tuples
MAX_DEPTH = 16  # of lists and dicts in one another
PLAIN = ("only plain values (dict, list, str, bytes, int, float, bool, None) are read, and nothing "
         "of it was run")


def _steps(*more):
    """For each instruction its bytes; minus those of its length where data follows; or None."""
    steps = dict.fromkeys(range(256))
    for names, size in (
        ("(N.aesu\x88\x89\x94", 1),
        ("Khq\x80", 2),
        ("M", 3),
        ("Jj", 5),
        ("G", 9),
        ("\x8cC\x8aU", -1),
        ("XBT", -4),
        ("\x8d\x8e", -8),
        *more,
    ):
        steps |= dict.fromkeys(map(ord, names), size)
    return [steps[op] for op in range(256)]


STEPS = _steps()
# a storage of the checkpoint; a call; the state of an OrderedDict
STEPS_OF_TENSORS = _steps(("QRb", 1))
NAMES_OF_TENSORS = re.compile(
    r"collections\.OrderedDict|_codecs\.encode|"
    r"torch\._utils\._rebuild_tensor_v2|torch\.[A-Z]\w*Storage"
)


def check_opcodes(raw, steps=STEPS, times=1):
    """Raises ValueError unless a pickle makes plain values, no more than MAX_VALUES `times` over;
    and UserError for what is refused by name. steps: STEPS_OF_TENSORS allows what torch.save()
writes. 
    It ends early at the name of a class or function, as the unpickler does, which says it.
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
                raise ValueError(
                    f"more than {MAX_VALUES:,} values, or {MAX_CONTAINERS:,} lists and dicts"
                )
    except IndexError:
        raise ValueError(f"it ends within a value, after {len(raw):,} bytes") from None


def _size(raw, at, op, count, steps):
    """The bytes of a rarer instruction. Raises ValueError or UserError for one that is refused."""
    name, number = chr(op), int.from_bytes(raw[at + 1 : at + 9], "little")
    if name in "}]dl" or name in ")t\x85\x86\x87" and steps is STEPS_OF_TENSORS:
        return 1
    if (
        name == "r" and number % 2**32 <= count
    ):  # a place to remember a value at: one for each at most
        return 5
    if name == "\x95" and number <= len(raw) - at - 9:  # a frame, which lies within the file
        return 9
    if name in "ILFVSpg":  # protocol 0: a line
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
    known = pickletools.code2op.get(name)
    if name in "\x82\x83\x84":
        raise UserError(f"it refers to extension {raw[at + 1]}; {PLAIN}")
    raise ValueError(
        f"{known.name if known else f'byte 0x{op:02x}'} at byte {at:,}, which "
        f"makes no plain value or names a size beyond the file's"
    )


def check_tree(tree, times=1):
    """Raises ValueError where lists and dicts are nested deep or hold themselves, or hold one value
    so often that written out it would fill the memory; or for text that is no Unicode."""
    left, waiting = times * MAX_BYTES, [(tree, 0)]
    while waiting:
        value, depth = waiting.pop()
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        kinds = set(map(type, parts))
        texts = [part for part in parts if type(part) is str] if str in kinds else []
        left -= len(parts) + sum(map(len, texts))
        left -= sum(len(part) for part in parts if type(part) is bytes) if bytes in kinds else 0
        if left < 0 or depth > MAX_DEPTH:
            raise ValueError(
                f"lists and dicts more than {MAX_DEPTH} deep, or more than {MAX_BYTES:,} bytes "
                f"when written out"
            )
        "".join(texts).encode()  # a lone surrogate is no UTF-8
        if kinds & CONTAINERS:
            waiting += [
                (part, depth + 1) for part in parts if isinstance(part, (dict, list, tuple))
            ]


CONTAINERS = {dict, list, tuple, collections.OrderedDict}


class _Unpickler(pickle.Unpickler):
    """Refuses a class or a function before anything of it runs."""

    def find_class(self, module, name):
        raise UserError(f"it refers to {printable(f'{module}.{name}')}; {PLAIN}")


def load_plain(raw, path):
    """The dict in a meta.pkl. Raises UserError, naming path, for what is no pickle of plain values,
    or whose keys do not hold what they should."""
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
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {printable(str(error))}). Prepare the "
            f"dataset again"
        ) from None
    return check_meta(meta, path)


# ---- what the keys hold


def whole(low, high):
    """Whether a value is a whole number from low to high."""
    return lambda value: type(value) is int and low <= value <= high


def word(value):
    """Text of a line, which can be printed as it is."""
    return type(value) is str and len(value) <= 200 and value.isprintable()


def text(value):
    return type(value) is str


def digest(value):
    return type(value) is str and bool(re.fullmatch("[0-9a-f]{64}", value))


def or_none(holds):
    return lambda value: value is None or holds(value)


def dict_of(key, value, also=lambda _: True):
    """Whether it is a dict whose keys and values are of these types, and also holds."""
    return lambda given: (
        type(given) is dict
        and {*map(type, given)} <= key
        and {*map(type, given.values())} <= value
        and also(given)
    )


def _ids(given):
    return not given or 0 <= min(given) and max(given) < 2**32


def _itos(given):
    """id -> token; other programs have a list, or numbers for tokens."""
    return (
        dict_of({int}, TOKEN, _ids)(given) or type(given) is list and {*map(type, given)} <= TOKEN
    )


def _splits(given):
    return type(given) is dict and all(
        type(given.get(split)) is dict and not wrong_keys(given[split], SPLIT, ("tokens",))
        for split in ("train", "val")
    )


TOKEN = {str, bytes, int}
SPECIAL = dict_of({str}, {int}, lambda given: _ids(given.values()) and "" not in given)
OF_SPLITS = dict_of({str}, {str})
SPLIT = {
    "tokens": (whole(0, 2**63 - 1), ""),
    "bytes": (or_none(whole(0, 2**63 - 1)), ""),
    "documents": (or_none(whole(0, 2**63 - 1)), ""),
    "sha256": (digest, ""),
}
STREAM = {
    "text": (word, ""),
    "text_sha256": (OF_SPLITS, ""),
    "map": (word, ""),
    "annotation": (word, ""),
}
META = {  # key of meta.pkl: (whether a value will do, what it must be)
    "vocab_size": (whole(1, 2**32), "a whole number from 1 to 2**32"),
    "max_id": (whole(0, 2**63 - 1), "a whole number"),
    "dtype": (("uint16", "uint32").__contains__, "uint16 or uint32"),
    "eot_token": (or_none(whole(0, 2**32 - 1)), "an id or None"),
    "splits": (_splits, "counts (tokens, bytes, documents) and a sha256 for train and val"),
    "itos": (or_none(_itos), "a dict of ids and tokens (str or bytes)"),
    "stoi": (or_none(dict_of(TOKEN, {int})), "a dict of tokens (str or bytes) and ids"),
    "table_sha256": (digest, "a sha256"),
    "tokenizer": (or_none(word), "a short name"),
    "tiktoken_encoding": (or_none(word), "a short name"),
    "backend": (or_none(word), "a short name"),
    "pat_str": (text, "text"),
    "special_tokens": (or_none(SPECIAL), "a dict of tokens (str) and ids"),
    "additional_tokens": (or_none(SPECIAL), "a dict of tokens (str) and ids"),
    "sentencepiece_model": (lambda value: type(value) is bytes, "the bytes of a model"),
    "source": (or_none(text), "text"),
    "source_sha256": (or_none(text), "text"),
    "split_rule": (or_none(word), "a short name"),
    "percentage_train": (or_none(lambda value: type(value) in (int, float)), "a number or None"),
    "members": (
        lambda value: type(value) is list and {*map(type, value)} <= {dict},
        "a list of dicts",
    ),
    "stream": (
        lambda value: type(value) is dict and not wrong_keys(value, STREAM),
        "a dict that names its text",
    ),
}


def wrong_keys(held, table, needed=()):
    """The keys of `held` whose values will not do by `table`, and those needed that it lacks."""
    return [
        key
        for key, (holds, _) in table.items()
        if not (holds(held[key]) if key in held else key not in needed)
    ]


def check_meta(meta, path, again="Prepare the dataset again"):
    """meta, the dict of a meta.pkl, if the keys that a reader goes by hold what they should.

    Raises UserError otherwise.

    again: what to do then.
    """
    if not isinstance(meta, dict) or wrong_keys(meta, META, ("vocab_size",))[:1] == ["vocab_size"]:
        raise UserError(f"{path} holds no vocab_size from 1 to 2**32. {again}")
    if wrong := wrong_keys(meta, META):
        given = meta[wrong[0]]
        given = given[:100] if isinstance(given, (str, bytes)) else given
        shown = type(given).__name__ if isinstance(given, (dict, list)) else printable(repr(given))
        raise UserError(f"{path} says {wrong[0]} {shown}; it must be {META[wrong[0]][1]}. {again}")
    itos, size = meta.get("itos") or {}, meta["vocab_size"]
    top = max(itos) + 1 if isinstance(itos, dict) and itos else len(itos)
    ours = "source_sha256" in meta  # write_dataset() wrote it
    ranks = meta.get("tokenizer") == "tiktoken" and "pat_str" not in meta
    # other programs count tiktoken's ranks, which leaves out <|endoftext|>
    if ours and top != size or top > size and not ranks or (meta.get("eot_token") or 0) >= size:
        raise UserError(
            f"{path} says vocab_size {size:,}, and its ids go up to "
            f"{max(top - 1, meta.get('eot_token') or 0):,} "
            f"in itos and eot_token. {again}"
        )
    if "table_sha256" in meta and not (
        dict_of({int}, {str, bytes})(itos) and table_hash(itos) == meta["table_sha256"]
    ):
        raise UserError(
            f"{path} holds another table of tokens than was written: the sha256 of itos is not the "
            f"table_sha256 "
            f"{meta['table_sha256']} that it states. {again}"
        )
    return meta
