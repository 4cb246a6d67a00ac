"""Read delimited text (CSV, TSV, MovieLens ``::``, RecBole atomic files) block by block with Arrow."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv

from recsys_vae.errors import UserError
from recsys_vae.interactions.columns import Block, ColumnPicker
from recsys_vae.interactions.compression import OpenTable
from recsys_vae.interactions.text_blocks import LONGEST_LINE_BYTES, TextBlock, check_encoding, read_blocks

_BY_SUFFIX = {
    ".csv": (",", ";", "\t", "|"),
    ".tsv": ("\t", ",", ";", "|"),
    ".inter": ("\t",),
    ".item": ("\t",),
}
_OTHERWISE = ("::", "\t", ",", ";", "|", " ")
_UNQUOTED_SUFFIXES = (".inter", ".item")
# Long delimiters are replaced by one of these, whichever a block does not hold.
_STAND_INS = [bytes([code]) for code in (*range(0x1F, 0x0D, -1), *range(0x08, 0x00, -1))]
_REPEATING_ROLES = ("user", "item", "title", "genres")


def read_delimited(
    table: OpenTable,
    *,
    pick: ColumnPicker,
    delimiter: str | None,
    encoding: str,
    names: Sequence[str] | None,
) -> Iterator[Block]:
    """Yield the picked columns as Arrow arrays: dictionaries of strings for ids and titles, else strings.

    ``delimiter=None`` is decided by the suffix, then by the first line. ``names`` are the columns of a file
    without a header.

    Raises:
        UserError: what :func:`read_blocks` refuses, an empty file, a bad header, a row with too few or too
            many fields.
    """
    check_encoding(encoding)
    quoting = table.suffix not in _UNQUOTED_SUFFIXES and (delimiter is None or len(delimiter.encode()) == 1)
    if delimiter is not None:
        delimiter = _checked_delimiter(delimiter)
    blocks = read_blocks(table.stream, name=table.name, encoding=encoding, quoting=quoting)
    positions: dict[str, int] | None = None
    held = TextBlock(b"", 1)  # a record of which a quoted field goes on in the next block
    for block in blocks:
        if positions is None:
            skipped = len(block.text) - len(block.text.lstrip(b"\n"))
            block = TextBlock(block.text[skipped:], block.first_line + skipped)
            if not block.text.strip():
                continue
            line = block.text[: block.text.index(b"\n")]
            if delimiter is None:
                delimiter = _sniffed(line.decode(), table.suffix)
                quoting = quoting and len(delimiter) == 1
            if names is None:
                names = _header(line.decode(), delimiter, quoting, table.name)
                block = TextBlock(block.text[len(line) + 1 :], block.first_line + 1)
            positions = dict(pick(names))
        assert delimiter is not None
        assert names is not None
        if held.text:
            block = TextBlock(held.text + block.text, held.first_line)
        held = TextBlock(b"", 1)
        if block.text.strip(b"\n"):
            parsed, held = _parsed(block, table.name, delimiter, quoting, names, positions)
            if parsed is not None:
                yield parsed
        if len(held.text) > LONGEST_LINE_BYTES:
            break
    if positions is None:
        raise UserError(f"{table.name} is empty")
    if held.text:
        raise UserError(f"{table.name}, line {held.first_line}: a quoted field opens here and never closes")


def _checked_delimiter(delimiter: str) -> str:
    delimiter = delimiter.replace("\\t", "\t")
    if not delimiter or any(mark in delimiter for mark in '\r\n\0"'):
        raise UserError(
            f"dataset.delimiter={delimiter!r}: expected one or more characters, such as ',' or '::'"
        )
    return delimiter


def _sniffed(line: str, suffix: str) -> str:
    candidates = _BY_SUFFIX.get(suffix, _OTHERWISE)
    return next((candidate for candidate in candidates if candidate in line), candidates[0])


def _header(line: str, delimiter: str, quoting: bool, source: str) -> list[str]:
    if not quoting:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error as error:
        raise UserError(f"{source}: the header cannot be read ({error})") from None


def _parsed(
    block: TextBlock,
    source: str,
    delimiter: str,
    quoting: bool,
    names: Sequence[str],
    positions: dict[str, int],
) -> tuple[Block | None, TextBlock]:
    """The whole records of ``block``, and what is left of it: nothing, or a record that goes on."""
    nothing = TextBlock(b"", 1)
    quoting = quoting and b'"' in block.text  # it takes Arrow longer, and without quotes it changes nothing
    text, separator = block.text, delimiter.encode()
    if len(separator) > 1:
        stand_in = next((mark for mark in _STAND_INS if mark not in text), None)
        if stand_in is None:
            raise UserError(f"{source}: holds every control character there is; expected text")
        text, separator = text.replace(separator, stand_in), stand_in
    wrong: list[Any] = []
    strings, repeating = pa.string(), pa.dictionary(pa.int32(), pa.string())
    types = {str(at): repeating if role in _REPEATING_ROLES else strings for role, at in positions.items()}
    try:
        parsed = pa_csv.read_csv(
            pa.BufferReader(text),
            # One thread numbers the rows, and is as quick: the time goes into the dictionaries.
            read_options=pa_csv.ReadOptions(
                column_names=[str(at) for at in range(len(names))],
                block_size=len(text) + 1,
                use_threads=False,
            ),
            parse_options=pa_csv.ParseOptions(
                delimiter=separator.decode("ascii"),
                quote_char='"' if quoting else False,
                newlines_in_values=quoting,
                invalid_row_handler=partial(_keep, wrong),
            ),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(types), column_types=types, check_utf8=False, null_values=[]
            ),
        )
    except pa.ArrowException as error:
        if quoting:
            whole = block.check_quotes(separator, source)
            if whole < len(text):
                return _parsed_before(block, whole, source, delimiter, names, positions)
        if not wrong:
            raise UserError(f"{source}, after line {block.first_line}: {error}") from None
        row = wrong[0]
        line = block.line_of_row(row.number - 1, quoting=quoting)
        listed = ", ".join(name.strip() for name in names[:10]) + (", ..." if len(names) > 10 else "")
        message = f"expected {row.expected_columns} fields ({listed}), found {row.actual_columns}"
        raise UserError(f"{source}, line {line}: {message}") from None

    # As many records as lines: no field spans lines, and the exact look at every quote can be spared.
    broken = quoting and parsed.num_rows != block.count_records_without_breaks()
    if broken or (quoting and block.ends_inside_quotes(separator)):
        whole = block.check_quotes(separator, source)
        if whole < len(text):
            return _parsed_before(block, whole, source, delimiter, names, positions)

    arrays = {role: _whole(parsed.column(str(at))) for role, at in positions.items()}
    return Block(arrays, partial(_place, source, block, broken)), nothing


def _keep(rows: list[Any], row: Any) -> str:
    """Arrow's handler of a row with too few or too many fields."""
    rows.append(row)
    return "error"


def _place(source: str, block: TextBlock, quoting: bool, row: int) -> str:
    return f"{source}, line {block.line_of_row(row, quoting=quoting)}"


def _parsed_before(
    block: TextBlock,
    whole: int,
    source: str,
    delimiter: str,
    names: Sequence[str],
    positions: dict[str, int],
) -> tuple[Block | None, TextBlock]:
    rest = TextBlock(block.text[whole:], block.line_at(whole))
    before = TextBlock(block.text[:whole], block.first_line)
    if not before.text.strip(b"\n"):
        return None, rest
    return _parsed(before, source, delimiter, True, names, positions)[0], rest


def _whole(column: Any) -> Any:
    """One array of a column that Arrow may have handed over in none or several chunks."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.array([], column.type) if column.num_chunks == 0 else column.combine_chunks()
