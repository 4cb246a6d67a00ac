"""Cut a stream of text into blocks of whole lines, in UTF-8, and know the number of every line."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys_vae.errors import UserError

BLOCK_BYTES = 16 << 20
LONGEST_LINE_BYTES = 64 << 20
_NEWLINE, _QUOTE = 10, 34


@dataclass(frozen=True)
class TextBlock:
    """Whole lines of UTF-8 text that end in ``\\n``; ``first_line`` is the 1-based number of the first."""

    text: bytes
    first_line: int

    def line_of_row(self, row: int, *, quoting: bool) -> int:
        """1-based line on which the ``row``-th (0-based) record starts; blank lines are no records."""
        data = np.frombuffer(self.text, np.uint8)
        newlines = np.flatnonzero(data == _NEWLINE)
        starts = np.concatenate([[0], _outside_quotes(data, newlines) + 1 if quoting else newlines + 1])
        starts = starts[starts < data.size]
        starts = starts[data[starts] != _NEWLINE]
        if row >= starts.size:  # a stray quote: count plain lines
            return self.line_of_row(row, quoting=False) if quoting else self.first_line
        return self.first_line + int(np.searchsorted(newlines, starts[row]))

    def line_at(self, position: int) -> int:
        """1-based line of a byte of the text."""
        return self.first_line + self.text.count(b"\n", 0, position)

    def count_records_without_breaks(self) -> int:
        """How many records there are if every line that is not blank is one."""
        ends = np.frombuffer(self.text, np.uint8) == _NEWLINE
        blank = np.count_nonzero(ends[1:] & ends[:-1]) + int(ends[:1].sum())
        return int(np.count_nonzero(ends)) - int(blank)

    def ends_inside_quotes(self, delimiter: bytes) -> bool:
        """Whether a field that opens in the last line that is not blank, taken alone, never closes."""
        last = self.text.rstrip(b"\n")
        start = last.rfind(b"\n") + 1
        return any(not field[1] for field in _quoted_fields(delimiter).finditer(self.text, start))

    def check_quotes(self, delimiter: bytes, name: str) -> int:
        """Length of the records that are whole: all of the text, or what goes before a field that never closes.

        A quoted field may span lines where its quotes are beyond doubt: the one that closes it must end the
        field. After a lost closing quote the next title's opening quote would close, and letters follow that.

        Raises:
            UserError: a quoted field spans lines and something follows its closing quote.
        """
        text = self.text
        for field in _quoted_fields(delimiter).finditer(text):
            if not field[1]:
                return text.rfind(b"\n", 0, field.start()) + 1
            if text[field.end()] not in (_NEWLINE, delimiter[0]) and text.find(b"\n", *field.span()) >= 0:
                first, last = self.line_at(field.start()), self.line_at(field.end())
                raise UserError(
                    f"{name}, line {first}: the quoted field that opens here is not closed on its line, and more "
                    f"than a delimiter follows the next quote (line {last}); a closing quote seems to be missing"
                )
        return len(text)


def read_blocks(stream: io.BufferedIOBase, *, name: str, encoding: str, quoting: bool) -> Iterator[TextBlock]:
    """Yield ``stream`` as blocks of about ``BLOCK_BYTES`` that never cut a line, nor a quoted field.

    Line ends become ``\\n`` and a byte-order mark is dropped.

    Raises:
        UserError: a byte is not in ``encoding``, or is NUL, or a line has no end.
    """
    first_line, pending = 1, bytearray()
    chunks = _normalised_newlines(_utf8_chunks(stream, name, encoding))
    for chunk in chunks:
        pending += chunk
        if len(pending) < BLOCK_BYTES:
            continue
        cut = _last_line_end(pending, quoting)
        if cut == 0:
            if len(pending) > LONGEST_LINE_BYTES:
                raise UserError(f"{name}, line {first_line} is longer than {LONGEST_LINE_BYTES >> 20} MiB")
            continue
        block = TextBlock(bytes(pending[:cut]), first_line)
        del pending[:cut]
        yield _checked(block, name)
        first_line += block.text.count(b"\n")
    if pending:
        if not pending.endswith(b"\n"):
            pending += b"\n"
        yield _checked(TextBlock(bytes(pending), first_line), name)


def check_encoding(encoding: str) -> None:
    """Raise ``UserError`` unless ``encoding`` names a text encoding."""
    try:
        b"".decode(encoding)
        "".encode(encoding)
    except (LookupError, ValueError, TypeError):
        message = f"dataset.encoding={encoding!r}: expected a text encoding such as utf-8, latin-1 or cp1252"
        raise UserError(message) from None


def _utf8_chunks(stream: io.BufferedIOBase, name: str, encoding: str) -> Iterator[bytes]:
    if codecs.lookup(encoding).name in {"utf-8", "utf-8-sig"}:
        chunk = stream.read(BLOCK_BYTES)
        if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(_not_in_encoding(name, 1, chunk[0], "utf-8", "utf-16"))
        yield chunk.removeprefix(codecs.BOM_UTF8)
        while chunk := stream.read(BLOCK_BYTES):
            yield chunk
        return
    decoder = codecs.getincrementaldecoder(encoding)()
    lines = 1
    while True:
        chunk = stream.read(BLOCK_BYTES)
        try:
            text = decoder.decode(chunk, final=not chunk)
            encoded = text.encode()
        except UnicodeDecodeError as error:
            lines += error.object[: error.start].decode(encoding, "ignore").count("\n")
            byte = error.object[error.start]
            raise UserError(_not_in_encoding(name, lines, byte, encoding, "utf-8")) from None
        except UnicodeError as error:
            raise UserError(f"{name}, line {lines}: not {encoding} ({error})") from None
        lines += text.count("\n")
        yield encoded.removeprefix(codecs.BOM_UTF8)
        if not chunk:
            return


def _normalised_newlines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    held = b""  # a carriage return at the end of a chunk may be half a line end
    for chunk in chunks:
        text = held + chunk if held else chunk
        held = b"\r" if text.endswith(b"\r") else b""
        if b"\r" in text:
            text = text[: len(text) - len(held)].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield text
    if held:
        yield b"\n"


def _last_line_end(text: bytearray, quoting: bool) -> int:
    """Length of the longest prefix of whole records, 0 where there is no line end."""
    last = text.rfind(b"\n") + 1
    if last == 0 or not quoting or b'"' not in text:
        return last
    data = np.frombuffer(bytes(text), np.uint8)
    ends = _outside_quotes(data, np.flatnonzero(data == _NEWLINE))
    if ends.size:
        return int(ends[-1]) + 1
    # No line end outside quotes in so many bytes means a stray quote, not a field of that length.
    return last if len(text) > LONGEST_LINE_BYTES else 0


def _quoted_fields(delimiter: bytes) -> re.Pattern[bytes]:
    """Matches each quoted field; group 1 is its closing quote, or empty. Quotes amid a field mean nothing."""
    return re.compile(rb'(?<![^\n%b])"[^"]*+(?:""[^"]*+)*+("|\Z)' % re.escape(delimiter))


def _outside_quotes(data: np.ndarray, newlines: np.ndarray) -> np.ndarray:
    """Those of the newlines that an even number of quotes goes before: line ends, not parts of a field."""
    quotes = np.flatnonzero(data == _QUOTE)
    outside: np.ndarray = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return outside


def _checked(block: TextBlock, name: str) -> TextBlock:
    text = block.text
    nul = text.find(b"\0")
    if nul >= 0:
        line = block.first_line + text.count(b"\n", 0, nul)
        raise UserError(f"{name}, line {line}: a NUL byte; expected text")
    if not text.isascii():
        try:
            text.decode()
        except UnicodeDecodeError as error:
            line = block.first_line + text.count(b"\n", 0, error.start)
            raise UserError(_not_in_encoding(name, line, text[error.start], "utf-8", "latin-1")) from None
    return block


def _not_in_encoding(name: str, line: int, byte: int, encoding: str, other: str) -> str:
    return f"{name}, line {line}: byte 0x{byte:02x} is not {encoding}; try dataset.encoding={other}"
