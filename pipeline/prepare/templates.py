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


class Template:
    """text_of(row, format) is the text of a row. columns: those that it reads, None for all."""

    def __init__(self, template, column, learn=None, chat_layout=None, learn_all=False):
        """The arguments are those of read_documents(). Raises UserError for a format string that
        cannot be read or names no column, and for columns to learn that it does not name."""
        self.columns, self.learn_all, formatter = [column], learn_all, _StrictFormatter()
        # a list in a column is no text, even where it looks like parts
        self.gives_parts = bool(chat_layout or learn or callable(template))
        flags = dict(chat_layout=chat_layout, learn=learn, text_template=template)
        self.flag = next((flag for flag, given in flags.items() if given), None)  # that asks for it
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
        try:
            pieces = list(formatter.parse(template))
        except ValueError as error:
            raise UserError(f"text_template {template!r} cannot be read: {error}. A brace that is "
                            f"text is written {{{{ or }}}}") from None
        fields = [field for _, field, _, _ in pieces if field is not None]
        if not fields or not all(fields):
            raise UserError(f"text_template {template!r} names no column; write one as {{column}}")
        self.columns = [name for field in fields for name in (_head(field), field)]
        _refuse_unnamed(learn, self.columns, template)
        self.function = lambda row: formatter.vformat(template, (), row)
        if learn:
            parts = list(_parts_of(pieces, learn))
            self.function = lambda row: [(formatter.vformat(part, (), row), learned)
                                         for part, learned in parts]

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
            how = _where_text_is(row, format, error.args[0])
            return BadRow(f"it has no column {error} (its columns: {columns}){how}")
        except BadChat as error:
            return BadRow(str(error))
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            return BadRow(f"{error} in the text template")
        if text is None and self.columns is None:
            return None
        if not (isinstance(text, str) or self.gives_parts and _are_parts(text)):
            wanted = "a string" + " or a list of parts (text, True or False)" * self.gives_parts
            return BadRow(f"its text is {json.dumps(text, default=str)[:40]}, not {wanted}")
        try:
            plain_text(text).encode("utf-8")
        except UnicodeEncodeError:
            return BadRow("it holds half a character (a lone surrogate)")
        if self.learn_all and not isinstance(text, str):
            return [(part, True) for part, _ in text]
        return text


def _head(field):
    """a of {a.b} and {a[0]}."""
    return re.match(r"[^.\[]*", field)[0]


def _refuse_unnamed(learn, columns, template):
    if missing := [name for name in learn or () if name not in columns]:
        raise UserError(f"--learn {missing[0]}: the text template {template!r} has no "
                        f"{{{missing[0]}}}. It has {', '.join(dict.fromkeys(columns))}")


def _parts_of(pieces, learn):
    """What a format string consists of, as (format string, learned), from what parse() gives."""
    for text, field, spec, conversion in pieces:
        if text:
            yield text.replace("{", "{{").replace("}", "}}"), False
        if field is not None:
            conversion = f"!{conversion}" if conversion else ""
            spec = f":{spec}" if spec else ""
            yield f"{{{field}{conversion}{spec}}}", field in learn or _head(field) in learn


def _are_parts(text):
    return isinstance(text, list) and all(
        isinstance(part, (tuple, list)) and len(part) == 2
        and isinstance(part[0], str) and isinstance(part[1], bool) for part in text)


class _StrictFormatter(string.Formatter):
    """str.format for strings and numbers; None and NaN are errors and do not become words."""

    def get_field(self, name, args, row):  # the name of a column may be "a.b"
        return (row[name], name) if name in row else super().get_field(name, args, row)

    def format_field(self, value, spec):
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not isinstance(value, str) and not (is_number and math.isfinite(value)):
            raise ValueError(f"{json.dumps(value, default=str)[:40]} stands for a text")
        return super().format_field(value, spec)


def _where_text_is(row, format, column):
    """The flags that help a user whose rows lack a column. They name the column that differs from
    it only in blanks and capitals; if there is none, the column with the longest text."""
    texts = {k: v for k, v in row.items() if k and isinstance(k, str) and isinstance(v, str)}
    if not texts:
        return ""
    alike = [name for name in texts if name.strip().lower() == column.strip().lower()]
    best = alike[0] if alike else max(texts, key=lambda name: len(texts[name]))
    how = ""
    if re.fullmatch(r"[\w -]+", best):
        how = f'. Say which holds the text: --text_template "{{{best}}}"'
    if format in ("csv", "tsv") and not alike:
        names = ",".join("text" if name == best else f"c{i}" for i, name in enumerate(row, 1))
        how += f". If its first line is a row, name the columns: --columns {names}"
    return how
