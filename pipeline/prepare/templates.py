"""A row of a table -> its text: by a column, a template such as "Q: {question}", a function, or
the layout of a chat. Where only some of the text is to be learned, the text is a list of parts."""
import json
import math
import re
import string

from pipeline.chats import BadChat, layout_named, messages_of
from pipeline.errors import UserError
from pipeline.prepare.rows import BadRow
from pipeline.tokenizers import plain_text

# of a format string: a doubled brace, a field, or a brace that belongs to neither
BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Template:
    """text_of(row, format) is the text of a row. columns: those that it reads, None for all."""

    def __init__(self, template, column, learn=None, chat_layout=None, learn_all=False,
                 missing=None):
        """The arguments are those of read_documents(). Raises UserError for a format string that
        cannot be read or names no column, and for columns to learn that it does not name."""
        self.columns, self.learn_all, self.missing = [column], learn_all, missing
        self.unseen = set()  # fields of which no row has had the column so far
        # a list in a column is no text, even where it looks like parts
        self.gives_parts = bool(chat_layout or learn or callable(template))
        flags = dict(chat_layout=chat_layout, learn=learn, text_template=template, missing=missing)
        # the one that asks for rows
        self.flag = next((flag for flag, given in flags.items() if given is not None), None)
        if missing is not None and (callable(template) or not template):
            raise UserError("--missing is for the columns of --text_template: give one, or leave "
                            "--missing out")
        if chat_layout:
            if template or learn:
                raise UserError("leave out --text_template and --learn: --chat_layout already "
                                "decides them")
            layout = layout_named(chat_layout)
            self.function, self.columns = lambda row: layout.parts(messages_of(row)), None
            return
        if callable(template):
            if learn:
                raise UserError("learn is for a format string. A function returns a list of parts, "
                                "each (text, True) or (text, False)")
            self.function, self.columns = template, None
            return
        if not template:
            _refuse_unnamed(learn, [column], f"{{{column}}}")
            self.function = lambda row: row[column]
            return
        pieces = list(_pieces_of(template))
        fields = [field for _, field in pieces if field is not None]
        if not fields or not all(fields):
            raise UserError(f"text_template {template!r} names no column; write one as {{column}}")
        self.unseen = {*fields}
        self.columns = [name for field in fields for name in (_head(field), field)]
        _refuse_unnamed(learn, self.columns, template)
        if learn:
            self.function = lambda row: [
                (text if field is None else self._value(field, row), field is not None
                 and (field in learn or _head(field) in learn)) for text, field in pieces]
        else:
            self.function = lambda row: "".join([
                text if field is None else self._value(field, row) for text, field in pieces])

    def _value(self, field, row):
        """The text of a field in a row. Raises KeyError, or what str.format() raises."""
        if field in row or _head(field) in row:
            self.unseen.discard(field)
        elif self.missing is None:
            raise KeyError(field)
        else:
            return self.missing
        try:
            # the name of a column may be "a.b", or "text:en"
            return FORMAT.format_field(row[field], "") if field in row else FORMAT.vformat(
                f"{{{field}}}", (), row)
        except _Missing:
            if self.missing is None:
                raise
            return self.missing
        except _NoText as error:
            is_list = isinstance(error.value, list)
            shown = json.dumps(error.value, default=str)
            what = "a list" if is_list else "an object" if isinstance(error.value, dict) else ""
            at = "[0]" if is_list else "[key]"
            inside = f" ({{{field}{at}}} reaches into it)" if what else ""
            raise ValueError(f"{{{field}}} is {what if len(shown) > 40 else shown}, and not a "
                             f"text{inside}") from None

    def text_of(self, row, format):
        """The text of a row; None if a function leaves the row out; a BadRow with what is wrong."""
        if isinstance(row, str):  # a list of strings, each of which is the text of its row
            row = {"text": row}
        if not isinstance(row, dict):
            return BadRow(f"a row must be an object, this is {json.dumps(row)[:40]}")
        try:
            text = self.function(row)
        except KeyError as error:
            columns = " ".join(", ".join(map(str, row))[:200].splitlines())
            how = _where_text_is(row, format, str(error.args[0]))
            return BadRow(f"it has no column {error} (its columns: {columns}){how}")
        except BadChat as error:
            return BadRow(str(error))
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            return BadRow(f"{error} in the text template{_if_a_chat(row)}")
        if text is None and self.columns is None:
            return None
        if not (isinstance(text, str) or self.gives_parts and _are_parts(text)):
            wanted = "a string" + " or a list of parts (text, True or False)" * self.gives_parts
            return BadRow(f"its text is {json.dumps(text, default=str)[:40]}, not {wanted}"
                          + _if_a_chat(row))
        try:
            plain_text(text).encode("utf-8")
        except UnicodeEncodeError:
            return BadRow("it holds half a character (a lone surrogate)")
        if self.learn_all and not isinstance(text, str):
            return [(part, True) for part, _ in text]
        return text


def _pieces_of(template):
    """(text, None) and ("", field) of a format string, in order. Raises UserError."""
    end, text = 0, ""
    for found in BRACES.finditer(template):
        text, end = text + template[end : found.start()], found.end()
        if found[0] in ("{{", "}}"):
            text += found[0][0]
        elif found[1] is None:
            raise UserError(f"text_template {template!r} cannot be read: its {found[0]} at "
                            f"position {found.start():,} has no partner. A brace that is text is "
                            f"written {{{{ or }}}}")
        else:
            yield text, None
            yield "", found[1]
            text = ""
    yield text + template[end:], None


def _head(field):
    """The column of a field: a of {a.b}, {a[0]}, {a:>5} and {a!r}."""
    return re.match(r"[^.\[:!]*", field)[0]


def _refuse_unnamed(learn, columns, template):
    if missing := [name for name in learn or () if name not in columns]:
        raise UserError(f"--learn {missing[0]}: the text template {template!r} has no "
                        f"{{{missing[0]}}}. It has {', '.join(dict.fromkeys(columns))}")


def _are_parts(text):
    return isinstance(text, list) and all(
        isinstance(part, (tuple, list)) and len(part) == 2
        and isinstance(part[0], str) and isinstance(part[1], bool) for part in text)


class _Missing(ValueError):
    """None, or NaN, which tables have in the place of a value."""


class _NoText(ValueError):
    """A value that is no text, and no number that could be one."""

    def __init__(self, value):
        super().__init__(f"{json.dumps(value, default=str)[:40]} stands for a text")
        self.value = value


class _StrictFormatter(string.Formatter):
    """str.format for strings and numbers; None and NaN are errors and do not become words."""

    def format_field(self, value, spec):
        if value is None or isinstance(value, float) and math.isnan(value):
            raise _Missing(f"{json.dumps(value)} stands for a text")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not isinstance(value, str) and not (is_number and math.isfinite(value)):
            raise _NoText(value)
        return super().format_field(value, spec)


FORMAT = _StrictFormatter()


def _if_a_chat(row):
    """The flag that helps a user whose rows hold conversations."""
    is_chat = any(isinstance(row.get(name), list) for name in ("messages", "conversations"))
    return (". For conversations use --chat_layout plain (or chatml, with --method bpe or "
            "tiktoken), and no template") * is_chat


def _where_text_is(row, format, column):
    """The flags that help a user whose rows lack a column. They name the column that differs from
    it only in blanks and capitals; if there is none, the column with the longest text."""
    texts = {k: v for k, v in row.items() if k and isinstance(k, str) and isinstance(v, str)}
    tables = [k for k, v in row.items() if isinstance(v, list) and v and isinstance(v[0], dict)]
    if chat := _if_a_chat(row):
        return chat
    if format == "json" and tables:
        return f". If the rows are in {tables[0]!r}: --rows_in {tables[0]}"
    if not texts:
        return ""
    alike = [name for name in texts if name.strip().lower() == column.strip().lower()]
    best = alike[0] if alike else max(texts, key=lambda name: len(texts[name]))
    how = ""
    if best.isprintable() and not set(best) & set('{}"$`\\!'):  # as it is typed in a shell
        how = f'. Say which holds the text: --text_template "{{{best}}}"'
    if format in ("csv", "tsv") and not alike:
        as_row = f'--no_header --text_template "{{{list(row).index(best) + 1}}}"'
        # a number or a sentence is no name of a column
        if any(re.search(r"^[\d.,+-]*$|[.!?]$|^.{41}", str(name)) for name in row):
            return f". Its first line seems to be a row: {as_row}"
        how += f". If its first line is a row: {as_row}"
    return how
