"""The rows of a table that is stored by columns, in bounded memory, by the package pyarrow.

    parquet_rows(file, ...)   (Place, row) pairs, as rows.py gives them, of a Parquet file
    arrow_rows(file, ...)     of an Arrow file, such as those that datasets' save_to_disk() writes
"""
import re

from pipeline.errors import UserError, optional
from pipeline.prepare.rows import BadRow, Place

# what pyarrow raises for a value that Python cannot hold, beside its own exceptions
UNREADABLE = (ValueError, OverflowError, KeyError, TypeError, ImportError)


def parquet_rows(file, path, columns=None, progress=lambda fraction: None):
    """Yield (Place, row) for each row. columns: the only ones read, as others may hold anything.

    A row has None in columns that are not read, so that it has all names. A value that Python
    cannot hold (a date beyond the year 9999, text that is not UTF-8) makes a BadRow of its row if
    its column was asked for, and is left out of the row otherwise.
    """
    pyarrow, parquet = optional("pyarrow", path), optional("pyarrow.parquet", path)
    unreadable = (*UNREADABLE, pyarrow.ArrowException)
    try:
        metadata = parquet.ParquetFile(file).metadata
        schema = metadata.schema.to_arrow_schema()
        read = _columns_to_read(schema, columns, path)
        at_once, large = _sizes(parquet, file, metadata, read)
        table = parquet.ParquetFile(file, read_dictionary=large, buffer_size=1 << 20)
        batches = table.iter_batches(batch_size=at_once, columns=read)
        for number, row in _rows_of_batches(batches, schema, columns, large, unreadable):
            if number % at_once == 0 or number == metadata.num_rows:
                progress(number / metadata.num_rows)
            yield Place("row", number), row
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:  # an error of the disk; pyarrow's have none
            raise
        raise UserError(f"{path} is not a Parquet file, or is damaged "
                        f"({str(error).splitlines()[0][:100]})") from None


def arrow_rows(file, path, columns=None):
    """parquet_rows() of an Arrow file, of either kind (with a table of contents, or a stream)."""
    pyarrow, ipc = optional("pyarrow", path), optional("pyarrow.ipc", path)
    unreadable = (*UNREADABLE, pyarrow.ArrowException)
    try:
        has_contents = file.read(6) == b"ARROW1"
        file.seek(0)
        reader = (ipc.open_file if has_contents else ipc.open_stream)(file)
        batches = (map(reader.get_batch, range(reader.num_record_batches)) if has_contents
                   else reader)
        read = _columns_to_read(reader.schema, columns, path)
        # slices, because a writer may have put the whole table into one batch
        parts = (batch.select(read).slice(start, 256) for batch in batches
                 for start in range(0, batch.num_rows, 256))
        for number, row in _rows_of_batches(parts, reader.schema, columns, (), unreadable):
            yield Place("row", number), row
    except (pyarrow.ArrowException, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise UserError(f"{path} is not an Arrow file, or is damaged "
                        f"({str(error).splitlines()[0][:100]})") from None


def _rows_of_batches(batches, schema, columns, large, unreadable):
    """Yield (number, row) of record batches; parquet_rows() explains the rest."""
    rest, number = dict.fromkeys(schema.names) if columns else {}, 0
    for batch in batches:
        names = batch.schema.names
        pairs = zip(names, batch.columns)
        values = [_values(column, name, name in large, unreadable) for name, column in pairs]
        for row in zip(*values):
            number += 1
            bad = next((value for value in row if isinstance(value, BadRow)), None)
            row = {**rest, **dict(zip(names, row))}
            if bad and not columns:  # a function may not need the columns that are bad
                row = {k: value for k, value in row.items() if not isinstance(value, BadRow)}
            yield number, bad if bad and columns else row


def _columns_to_read(schema, columns, path):
    """The names of the columns to read, all of them where columns is None. Raises UserError."""
    read = [name for name in schema.names if columns is None or name in columns]
    if twice := [name for name in read if schema.names.count(name) > 1]:
        raise UserError(f"{path} has the column {twice[0]!r} twice. Rename one of them")
    if not read:
        names = " ".join(", ".join(schema.names)[:200].splitlines())  # a name may hold a newline
        told = f"{path} has no column {columns[0]} (there are: {names})"
        for field in schema:
            if str(field.type).endswith("string") and not re.search(r"[{}\n]", field.name):
                told += f'. Say which holds the text: --text_template "{{{field.name}}}"'
                break
        raise UserError(told)
    return read


def _values(column, name, one_by_one, unreadable):
    """The values of a column of a batch, with a BadRow for each that Python cannot hold."""
    if not one_by_one:
        try:
            return column.to_pylist()
        except unreadable:
            pass

    def value(i):
        try:
            return column[i].as_py()
        except unreadable as error:
            return BadRow(f"its {name} cannot be read ({str(error).splitlines()[0][:80]})")
    return map(value, range(len(column)))


def _sizes(parquet, file, metadata, read, limit=1 << 25):
    """(rows to read at once, columns to read as dictionaries), so that the rows take `limit` bytes.

    A column that stores its values in a dictionary may stand for many times its size: there the
    longest value of the dictionary counts.
    """
    compute = optional("pyarrow.compute", "a Parquet file", install="pyarrow")
    at_once, large = 256, set()
    leaves = map(metadata.schema.column, range(metadata.num_columns))
    flat = {column.path for column in leaves} & {*read}
    table = parquet.ParquetFile(file, read_dictionary=sorted(flat))
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            path, size = column.path_in_schema, column.total_uncompressed_size
            is_read = path in read or path.split(".")[0] in read
            if not is_read or size <= limit / 256 or not group.num_rows:
                continue
            at_once = max(1, min(at_once, limit * group.num_rows // size))
            if path in flat and column.has_dictionary_page and column.physical_type == "BYTE_ARRAY":
                batch = next(table.iter_batches(1, row_groups=[number], columns=[path]))
                values = getattr(batch.columns[0], "dictionary", batch.columns[0])
                longest = compute.max(compute.binary_length(values)).as_py()
                if (longest or 0) > limit / 256:
                    large.add(path)
    return at_once, sorted(large)
