"""Bytes of a file -> the same text in UTF-8; or one line that says what they are instead.

    utf8_chunks(chunks, path)                       UTF-8; UTF-16 or UTF-32 with a byte order mark
    utf8_chunks(chunks, path, encoding="cp1252")    what the user says it is

Without an `encoding`, text must be UTF-8 and free of the control characters that no text holds. A
NUL is a sign of UTF-16 without a mark, of an archive, or of numbers. A guess at the encoding goes
into the error message, and is never acted upon.
"""
import codecs
import itertools
import re
import shlex
import unicodedata

import numpy as np

from pipeline.errors import UserError

# byte order marks; those of UTF-32 come first, because one of UTF-16 is the beginning of one
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
         codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SCRIPTS = (1, 3, 4, 5, 6, 9, 14, 16, 17, 48)  # high bytes in UTF-16: Latin, Greek, ..., kana
SAMPLE = 1 << 15  # bytes that a guess is based on
COMMON = ("cp1252 cp1250 cp1251 cp1253 cp1254 cp1255 cp1256 cp1257 cp1258 iso8859_2 iso8859_5 "
          "iso8859_7 koi8_r koi8_u cp874 cp932 euc_jp gb18030 big5 cp949 cp437 cp850 cp866 "
          "mac_roman mac_cyrillic cp037").split()
SIGNS = {  # what decoded text holds if it was decoded wrongly, or is not text
    "NUL": "\0",
    "control characters": "[\x01-\x08\x0e-\x1f\x7f]",
    "C1 control characters (Windows-1252 read as Latin-1)": "[\x80-\x84\x86-\x9f]",
    "replacement characters": "\ufffd",
    "byte order marks": "[\ufeff\ufffe]",
    "pairs such as Ã© and â€™ (UTF-8 read as Windows-1252)": "[ÂÃ][\xa0-\xbf]|â€[™œ\x9d“”˜¦]"}
UNLIKE_TEXT = re.compile(rb"[\0-\x08\x0e-\x1f]")


def encoding_of_mark(head):
    """The encoding of a byte order mark at the start of a file, except that of UTF-8; else None."""
    return next((name for mark, name in MARKS.items() if head.startswith(mark)), None)


def check_encoding(name):
    """Raise UserError unless Python can decode text by that name."""
    try:
        "".encode(name)
    except (LookupError, UnicodeError, ValueError):
        raise UserError(f"--encoding {name!r} is unknown. Examples: utf-8, utf-16, cp1252, "
                        f"latin-1, shift_jis, gb18030, big5, koi8-r") from None


def utf8_chunks(chunks, path, encoding=None, flag="--encoding"):
    """Chunks of a file's bytes -> chunks of whole characters in UTF-8, without a byte order mark.

    path: for messages. flag: how the user can state an encoding; None where the file must be
    converted instead. Raises UserError, with the offset of the first byte that is not text in that
    encoding.
    """
    chunks = iter(chunks)
    first = next(chunks, b"")
    chunks = itertools.chain([first], chunks, [b""])  # the empty one ends the file
    encoding = encoding or encoding_of_mark(first)
    if encoding and codecs.lookup(encoding).name != "utf-8":
        yield from _decoded(chunks, path, encoding)
        return
    rest, offset, before = b"", 0, b""
    for chunk in chunks:
        raw = rest + chunk
        if not encoding and not offset and (guess := _in_ascii(raw[:SAMPLE])):
            raise UserError(f"{path} seems to be {guess}. {_remedy(guess, path, flag)}"
                            + (f"; or {flag} utf-8 if it is not" if flag else ""))
        if not encoding and (at := _unlike_text(raw)) is not None:
            raise UserError(_not_text(raw, at, offset, path, flag))
        try:  # the beginning of a character waits for the next chunk
            _, end = codecs.utf_8_decode(raw, "strict", not chunk)
        except UnicodeDecodeError as error:
            seen, at = before + raw, len(before) + error.start
            raise UserError(_not_utf8(seen, at, offset - len(before), path, flag)) from None
        yield raw[:end] if offset else raw[:end].removeprefix(codecs.BOM_UTF8)
        # a guess also looks at what came before
        rest, offset, before = raw[end:], offset + end, raw[:end][-SAMPLE:]


def _decoded(chunks, path, encoding):
    """utf8_chunks() of an encoding other than UTF-8, by Python's own decoder."""
    decoder, offset = codecs.getincrementaldecoder(encoding)(), 0
    for number, chunk in enumerate(chunks):
        waiting = len(decoder.getstate()[0])
        try:
            text = decoder.decode(chunk, final=not chunk)
            raw = (text.removeprefix("\ufeff") if number == 0 else text).encode("utf-8")
        except UnicodeError as error:
            at = offset
            if isinstance(error, UnicodeDecodeError):
                at += error.start - waiting
            raise UserError(f"{path} is not {encoding} at offset {at:,}. Add another --encoding, "
                            f"or get the file again") from None
        offset += len(chunk)
        yield raw


def signs_of_another_encoding(text):
    """{sign: how often} of the SIGNS that a text holds."""
    found = {what: len(re.findall(pattern, text)) for what, pattern in SIGNS.items()}
    return {what: number for what, number in found.items() if number}


def _unlike_text(raw):
    """The position of the first byte that no text holds, or None. Two fast tests come before the
    slow search."""
    values = np.frombuffer(raw, np.uint8)
    # 14 to 31 in one comparison, because smaller bytes wrap around to large numbers
    if raw and (values.min() < 9 or (values - np.uint8(14) < 18).any()):
        return UNLIKE_TEXT.search(raw).start()
    return None


def _in_ascii(raw):
    """"utf-7" or "hz", which write all characters in ASCII, if raw is in one; else None."""
    for guess, mark in (("utf-7", b"+"), ("hz", b"~{")):
        if mark in raw and raw.isascii():
            text = _try(raw, guess) or ""
            if sum(c > "\x7f" and c.isalnum() for c in text) > 2:
                return guess
    return None


def _not_text(raw, at, offset, path, flag):
    """The message for UTF-8 that holds control characters."""
    if not offset and (guess := _wide(raw)):
        return f"{path} is {guess} without a byte order mark. {_remedy(guess, path, flag)}"
    if b"\x1b$" in raw or b"\x1b(" in raw:
        for guess in ("iso2022_jp_2", "iso2022_kr"):
            if (text := _try(raw[:SAMPLE], guess)) is not None and not text.isascii():
                return f"{path} seems to be {guess}. {_remedy(guess, path, flag)}"
    byte = f"0x{raw[at]:02x} at offset {offset + at:,}"
    if _try(raw, "utf-8") is None:
        return (f"{path} is not text: it holds the byte {byte}, and others that are not UTF-8. "
                f"Convert it to text first")
    how = f". To read it as text anyway, add {flag} utf-8" if flag else ""
    return f"{path} holds the control character {byte}, which is never part of a text{how}"


def _not_utf8(raw, at, offset, path, flag):
    """The message for bytes that are not UTF-8."""
    said = f"{path}: byte 0x{raw[at]:02x} at offset {offset + at:,} is not UTF-8"
    guesses = [_wide(raw)] if not offset and _wide(raw) else _guesses(raw, at)
    if _is_mixed(raw, at):
        return (f"{said}: the file is damaged, or it mixes encodings. To leave out what is not "
                f"UTF-8: iconv -c -f UTF-8 -t UTF-8 {shlex.quote(str(path))} > utf8.txt")
    if not guesses:
        how = f"name its encoding in {flag}" if flag else "convert the file to UTF-8"
        return f"{said}, and its encoding could not be guessed. If it is text, {how}"
    readings = "; or ".join(f"{guess}{_reading(raw, at, guess)}" for guess in guesses)
    which = "that" if len(guesses) == 1 else "the first"
    return (f"{said}. It may be {readings}. If {which} is right: "
            f"{_remedy(guesses[0], path, flag)}")


def _is_mixed(raw, at):
    """Whether some lines around raw[at] are UTF-8 beyond ASCII, or half a character, as CESU-8
    writes it, begins there."""
    lines = raw[max(0, at - SAMPLE) : at + SAMPLE].split(b"\n")[:-1]
    is_utf8 = [_try(line, "utf-8") is not None for line in lines if not line.isascii()]
    half = re.match(rb"\xed[\xa0-\xbf][\x80-\xbf]", raw[at : at + 3])
    return sum(is_utf8) > len(is_utf8) / 4 or half is not None


def _remedy(guess, path, flag):
    if flag:
        return f"Add {flag} {guess}"
    name = re.sub("-(le|be)$", r"\1", guess).replace("_", "-")  # as iconv spells it
    return f"Convert it by: iconv -f {name} -t UTF-8 {shlex.quote(str(path))} > utf8.txt"


def _try(raw, encoding):
    """The text, perhaps without its last character; None where raw is not in that encoding."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(raw)
    except UnicodeError:
        return None


def _wide(raw):
    """The encoding of the start of a file in UTF-16 or UTF-32 without a mark; None for others."""
    most, found = 2, None  # one or two common characters may occur by chance
    for encoding in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
        text = _try(raw[:SAMPLE], encoding) or ""
        script = max(SCRIPTS, key=lambda high: sum(ord(c) >> 8 == high for c in text))
        # read in the wrong byte order, these would be other characters
        common = sum(map(text.count, " \n\r\t,.\u3000\u3002\u3001"))
        common += sum(c.isalnum() for c in text if c.isascii())
        common += sum(c > "\x7f" and ord(c) >> 8 == script for c in text)
        unlike_text = re.search("[\0-\x08\x0e-\x1f]", text) or _has_unassigned(text)
        if common > most and not unlike_text:
            most, found = common, encoding
    return found


def _has_unassigned(text):
    return any(unicodedata.category(c) in ("Cn", "Co") for c in text)


def _guesses(raw, at):
    """The likeliest encodings of text that is not UTF-8 at raw[at]: two at most, the best first."""
    start = raw.rfind(b"\n", 0, at) + 1
    sample = raw[start : start + SAMPLE]
    sample = sample[: sample.rfind(b"\n") + 1] or sample
    if len(UNLIKE_TEXT.findall(sample)) > len(sample) / 100:  # numbers, pictures, packed bytes
        return []
    if _is_western(sample):
        # Turkish letters have the codes of Icelandic ones
        is_turkish = re.search(b"[\xd0\xdd\xde\xf0\xfd\xfe]", sample) and not re.search(
            b"[\xe1\xe6\xed\xfa]", sample)
        return ["cp1254", "cp1252"] if is_turkish else ["cp1252"]
    if sum(byte > 127 for byte in sample) < 8:  # too few for a guess
        return []
    from charset_normalizer import from_bytes  # installed with requests
    candidates, found = list(COMMON), []
    while candidates and len(found) < 2:
        if not (best := from_bytes(sample, cp_isolation=candidates).best()):
            break
        text = _try(sample, best.encoding)
        if not _reads_badly(text) and text not in [_try(sample, other) for other in found]:
            found.append(best.encoding)
        candidates.remove(best.encoding)
    return found


def _reads_badly(text):
    """Whether it holds characters that nobody writes, signs within words, or much half-width
    katakana, which is what any bytes give in Shift JIS."""
    if text is None or _has_unassigned(text) or re.search("[\x80-\x9f]", text):
        return True
    signs = "[\xa1-\xa9\xab-\xb4\xb6\xb8\xb9\xbb-\xbf\xd7\xf7]"
    if len(re.findall(rf"(?<=[^\W\d_]){signs}(?=[^\W\d_])", text)) > len(text) / 100:
        return True
    half_width = sum("\uff61" <= c <= "\uff9f" for c in text)
    return half_width > sum(not c.isascii() for c in text) / 4


def _is_western(sample):
    """Whether it reads well as Windows-1252 (or Latin-1): mostly ASCII, and hardly a sign or
    capital inside a word."""
    if (text := _try(sample, "cp1252")) is None:
        return False
    beyond = len(re.findall(r"[^\0-\x7f]", text))
    letters = len(re.findall("[A-Za-z]", text))
    odd = re.findall(r"(?<=[a-zà-ÿ])[À-ÖØ-ÞŠŽŸ]|(?<=[^\W\d_])[^\0-\x7f\w’‘´·](?=[^\W\d_])", text)
    return letters > beyond and len(odd) <= beyond / 10


def _reading(raw, at, guess):
    """How the place reads in that encoding, by which a person can judge the guess."""
    start = raw.rfind(b"\n", 0, at) + 1
    text = _try(raw[max(start, at - 20) : at + 30], guess) or ""
    text = "".join(c for c in text.partition("\n")[0] if c.isprintable())
    return f", which would make it {text!r}" if text else ""
