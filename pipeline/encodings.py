"""Bytes of a file -> the same text in UTF-8; or one line that says what they are instead.

    utf8_blocks(blocks, path)                       UTF-8, and UTF-16 or UTF-32 with a byte order mark
    utf8_blocks(blocks, path, encoding="cp1252")    what the user says it is, taken as it is

Text without an `encoding` must be UTF-8 and free of the control characters that no text holds: NUL tells of UTF-16
without a mark, of an archive, of numbers. Nothing is guessed in silence: a guess goes into the error message.
"""
import codecs
import itertools
import re
import shlex
import unicodedata

import numpy as np

from pipeline.errors import UserError

MARKS = {  # byte order marks; those of UTF-32 first, as that of UTF-16 begins one of them
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SCRIPTS = (1, 3, 4, 5, 6, 9, 14, 16, 17, 48)  # first byte in UTF-16: Latin, Greek, Cyrillic, ..., kana
SAMPLE = 1 << 15  # bytes that a guess goes by
COMMON = ("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "iso8859_2",
          "iso8859_5", "iso8859_7", "koi8_r", "koi8_u", "cp874", "cp932", "euc_jp", "gb18030", "big5", "cp949",
          "cp437", "cp850", "cp866", "mac_roman", "mac_cyrillic", "cp037")
SIGNS = {  # in a text that is decoded: what tells that it was decoded wrongly, or is no text
    "NUL": "\0", "control characters": "[\x01-\x08\x0e-\x1f\x7f]", "C1 control characters (Windows-1252 read as "
    "Latin-1)": "[\x80-\x84\x86-\x9f]", "replacement characters": "\ufffd", "byte order marks": "[\ufeff\ufffe]",
    "pairs such as Ã© and â€™ (UTF-8 read as Windows-1252)": "[ÂÃ][\xa0-\xbf]|â€[™œ\x9d“”˜¦]"}
UNLIKE_TEXT = re.compile(rb"[\0-\x08\x0e-\x1f]")


def encoding_of_mark(head):
    """The encoding that a byte order mark at the start of a file tells, but for UTF-8's; else None."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), None)


def check_encoding(name):
    """Raises UserError unless Python can decode text by that name."""
    try:
        "".encode(name)
    except (LookupError, UnicodeError, ValueError):
        raise UserError(f"--encoding {name!r} is unknown here. Examples: utf-8, utf-16, cp1252, "
                        f"latin-1, shift_jis, gb18030, big5, koi8-r") from None


def utf8_blocks(blocks, path, encoding=None, flag="--encoding"):
    """Blocks of a file's bytes -> its text, as UTF-8 in blocks of whole characters, without a byte order mark.

    Raises UserError for what is not text in that encoding, with the offset of the first such byte. path is for
    messages; flag is how the user can state an encoding, or None where there is no way but to convert the file.
    """
    blocks = iter(blocks)
    first = next(blocks, b"")
    blocks = itertools.chain([first], blocks)
    encoding = encoding or encoding_of_mark(first)
    if encoding and codecs.lookup(encoding).name != "utf-8":
        yield from _decoded(blocks, path, encoding)
        return
    rest, offset, before = b"", 0, b""
    for block in itertools.chain(blocks, [b""]):
        raw = rest + block
        if not encoding and not offset and (guess := _in_ascii(raw[:SAMPLE])):
            raise UserError(f"{path} seems to be {guess}. {_remedy(guess, path, flag)}" + (
                f"; or {flag} utf-8 if it is not" if flag else ""))
        if not encoding and (at := _unlike_text(raw)) is not None:
            raise UserError(_not_text(raw, at, offset, path, flag))
        try:  # a character that goes on in the next block waits
            _, end = codecs.utf_8_decode(raw, "strict", not block)
        except UnicodeDecodeError as error:
            raise UserError(_not_utf8(before + raw, len(before) + error.start, offset - len(before), path, flag)) from None
        yield raw[:end] if offset else raw[:end].removeprefix(codecs.BOM_UTF8)
        rest, offset, before = raw[end:], offset + end, raw[:end][-SAMPLE:]  # before: for a guess


def _decoded(blocks, path, encoding):
    """utf8_blocks() of another encoding than UTF-8, by Python's own decoder."""
    decoder, offset = codecs.getincrementaldecoder(encoding)(), 0
    for number, block in enumerate(itertools.chain(blocks, [b""])):
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
            raw = (text.removeprefix("\ufeff") if number == 0 else text).encode("utf-8")
        except UnicodeError as error:
            at = offset - waiting + error.start if isinstance(error, UnicodeDecodeError) else offset
            raise UserError(f"{path} is not {encoding} at offset {at:,}. Add another --encoding, or get "
                            f"the file again") from None
        offset += len(block)
        yield raw


def signs_of_another_encoding(text):
    """{what: how many} of the SIGNS that are in a text."""
    found = {what: len(re.findall(pattern, text)) for what, pattern in SIGNS.items()}
    return {what: number for what, number in found.items() if number}


def _unlike_text(raw):
    """Where the first byte stands that no text holds, or None. Two fast looks come before the slow one."""
    values = np.frombuffer(raw, np.uint8)
    if raw and (values.min() < 9 or (values - np.uint8(14) < 18).any()):  # 14 to 31: those below wrap around
        return UNLIKE_TEXT.search(raw).start()
    return None


def _in_ascii(raw):
    """"utf-7" or "hz" for text that says in ASCII, by their rules and throughout, what is not ASCII; else None."""
    for guess, mark in (("utf-7", b"+"), ("hz", b"~{")):
        if mark in raw and raw.isascii() and sum(c > "\x7f" and c.isalnum() for c in _try(raw, guess) or "") > 2:
            return guess
    return None


def _not_text(raw, at, offset, path, flag):
    """What to say of UTF-8 that holds control characters."""
    if not offset and (guess := _wide(raw)):
        return f"{path} is {guess} without a byte order mark. {_remedy(guess, path, flag)}"
    if b"\x1b$" in raw or b"\x1b(" in raw:
        for guess in ("iso2022_jp_2", "iso2022_kr"):
            if (text := _try(raw[:SAMPLE], guess)) is not None and not text.isascii():
                return f"{path} seems to be {guess}. {_remedy(guess, path, flag)}"
    if _try(raw, "utf-8") is None:
        return (f"{path} is not text: it holds the byte 0x{raw[at]:02x} at offset {offset + at:,}, and others that are "
                f"not UTF-8. Convert it to text first")
    how = f". To take it for text as it is, add {flag} utf-8" if flag else ""
    return (f"{path} holds the control character 0x{raw[at]:02x} at offset {offset + at:,}, which stands in no "
            f"text{how}")


def _not_utf8(raw, at, offset, path, flag):
    """What to say of bytes that are not UTF-8."""
    said = f"{path}: byte 0x{raw[at]:02x} at offset {offset + at:,} is not UTF-8"
    guesses = [_wide(raw)] if not offset and _wide(raw) else _guesses(raw, at)
    if _is_mixed(raw, at):
        return (f"{said}: the file is damaged, or it mixes encodings. To leave out what is not UTF-8: "
                f"iconv -c -f UTF-8 -t UTF-8 {shlex.quote(str(path))} > utf8.txt")
    if not guesses:
        how = f" in {flag}" if flag else ": convert the file to UTF-8"
        return f"{said}, and what it is could not be told. If it is text, name its encoding{how}"
    readings = "; or ".join(f"{guess}{_reading(raw, at, guess)}" for guess in guesses)
    which = "that" if len(guesses) == 1 else "the first"
    return f"{said}. It may be {readings}. If {which} is right: {_remedy(guesses[0], path, flag)}"


def _is_mixed(raw, at):
    """Whether some lines around raw[at] are UTF-8, beyond ASCII; or half a character begins there (CESU-8)."""
    lines = [line for line in raw[max(0, at - SAMPLE) : at + SAMPLE].split(b"\n")[:-1] if not line.isascii()]
    is_utf8 = [_try(line, "utf-8") is not None for line in lines]
    return sum(is_utf8) > len(lines) / 4 or re.match(rb"\xed[\xa0-\xbf][\x80-\xbf]", raw[at : at + 3]) is not None


def _remedy(guess, path, flag):
    if flag:
        return f"Add {flag} {guess}"
    name = re.sub("-(le|be)$", r"\1", guess).replace("_", "-")  # as iconv spells it
    return f"Convert it by: iconv -f {name} -t UTF-8 {path} > utf8.txt"


def _try(raw, encoding):
    try:
        return codecs.getincrementaldecoder(encoding)().decode(raw)  # the last character may be cut
    except UnicodeError:
        return None


def _wide(raw):
    """"utf-16-le", ... for the start of a file in such an encoding without a mark; None for anything else."""
    best, found = 2, None  # one or two may stand there by chance
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        text = _try(raw[:SAMPLE], encoding) or ""
        script = max(SCRIPTS, key=lambda high: sum(ord(c) >> 8 == high for c in text))
        common = sum(map(text.count, " \n\r\t,.\u3000\u3002\u3001"))  # wrongly read, these are other characters
        common += sum(c.isalnum() for c in text if c.isascii())
        common += sum(c > "\x7f" and ord(c) >> 8 == script for c in text)
        if common > best and not any(unicodedata.category(c) in ("Cn", "Co") or
                                     c < " " and c not in "\t\n\v\f\r" for c in text):
            best, found = common, encoding
    return found


def _guesses(raw, at):
    """The likeliest encodings of text that is not UTF-8 at raw[at], two at most, the best first."""
    start = raw.rfind(b"\n", 0, at) + 1
    sample = raw[start : start + SAMPLE]
    sample = sample[: sample.rfind(b"\n") + 1] or sample
    if len(UNLIKE_TEXT.findall(sample)) > len(sample) / 100:  # numbers, pictures, packed bytes
        return []
    if _is_western(sample):  # Turkish has its own letters where cp1252 has Icelandic ones
        is_turkish = re.search(b"[\xd0\xdd\xde\xf0\xfd\xfe]", sample) and not re.search(b"[\xe1\xe6\xed\xfa]", sample)
        return ["cp1254", "cp1252"] if is_turkish else ["cp1252"]
    if sum(byte > 127 for byte in sample) < 8:  # too few to tell
        return []
    from charset_normalizer import from_bytes  # comes with requests
    tried, found = list(COMMON), []
    while len(found) < 2 and (best := from_bytes(sample, cp_isolation=tried).best()):
        text = _try(sample, best.encoding)
        if not _reads_badly(text) and text not in [_try(sample, other) for other in found]:
            found.append(best.encoding)
        tried.remove(best.encoding)
        if not tried:
            break
    return found


def _reads_badly(text):
    """Whether it holds characters that nobody writes, or much half-width katakana, which any bytes are in Shift JIS."""
    if text is None or any(unicodedata.category(c) in ("Cn", "Co") or "\x7f" < c < "\xa0" for c in text):
        return True
    signs = "[\xa1-\xa9\xab-\xb4\xb6\xb8\xb9\xbb-\xbf\xd7\xf7]"
    if len(re.findall(rf"(?<=[^\W\d_]){signs}(?=[^\W\d_])", text)) > len(text) / 100:  # within words
        return True
    half_width = sum("\uff61" <= c <= "\uff9f" for c in text)
    return half_width > sum(not c.isascii() for c in text) / 4


def _is_western(sample):
    """Whether it reads well as Windows-1252 (or Latin-1): mostly ASCII, and no sign or capital inside a word."""
    try:
        text = sample.decode("cp1252")
    except UnicodeDecodeError:
        return False
    beyond = len(re.findall(r"[^\0-\x7f]", text))
    letters = len(re.findall("[A-Za-z]", text))
    odd = re.findall(r"(?<=[a-zà-ÿ])[À-ÖØ-ÞŠŽŸ]|(?<=[^\W\d_])[^\0-\x7f\w’‘´·](?=[^\W\d_])", text)
    return letters > beyond and len(odd) <= beyond / 10


def _reading(raw, at, guess):
    """: "..." reads so, for a person to judge the guess by."""
    start = raw.rfind(b"\n", 0, at) + 1
    text = _try(raw[max(start, at - 20) : at + 30], guess) or ""
    text = "".join(c for c in text.partition("\n")[0] if c.isprintable())
    return f", and then reads {text!r} there" if text else ""
