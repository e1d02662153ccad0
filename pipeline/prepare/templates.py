"""A row of a table -> its text: by a column, a template such as "Q: {question}", or a function."""
import json
import math
import re
import string

from pipeline.errors import UserError
from pipeline.prepare.rows import BadRow


class Template:
    """text_of(row, format) is the text of a row. columns: those that it reads, None for all."""

    def __init__(self, template, column):
        """template: a format string or a function of the row; None for the text in `column`.

        Raises UserError for a format string that cannot be read or names no column.
        """
        self.columns, formatter = [column], _StrictFormatter()
        if callable(template):
            self.function, self.columns = template, None
            return
        if not template:
            self.function = lambda row: row[column]
            return
        try:
            fields = [field for _, field, _, _ in formatter.parse(template) if field is not None]
        except ValueError as error:
            raise UserError(f"text_template {template!r} cannot be read: {error}. A brace that is "
                            f"text is written {{{{ or }}}}") from None
        if not fields or not all(fields):
            raise UserError(f"text_template {template!r} names no column; write one as {{column}}")
        heads = [re.match(r"[^.\[]*", field)[0] for field in fields]  # a of {a.b} and {a[0]}
        self.columns = [name for pair in zip(heads, fields) for name in pair]
        self.function = lambda row: formatter.vformat(template, (), row)

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
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            return BadRow(f"{error} in the text template")
        if text is None and self.columns is None:
            return None
        if not isinstance(text, str):
            return BadRow(f"its text is {json.dumps(text, default=str)[:40]}, not a string")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return BadRow("it holds half a character (a lone surrogate)")
        return text


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
