"""The interchange format of the standard Bayesian networks, ``.bif`` (Cozman 1996), read and written.

In a ``table`` entry the numbers run with the last of the names fastest, the child standing first: for each state of
the child, all configurations of the parents. A row in parentheses names the states of the parents, in their order,
and lists the child's probabilities; ``default`` fills the rows that are not named. ``property`` lines are passed over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from recsys_vae.atomic import atomic_path
from recsys_vae.errors import UserError
from recsys_vae.graphical.conditionals import SUM_TOLERANCE, Table
from recsys_vae.graphical.directed import ancestors, topological_order
from recsys_vae.graphical.variables import States

if TYPE_CHECKING:
    from recsys_vae.graphical.bayesian_network import BayesianNetwork

_SPECIAL = "{}()[];,|"
_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)
      | (?P<text>"[^"\n]*")
      | (?P<special>[{}()\[\];,|])
      | (?P<word>[^\s{}()\[\];,|"]+)""",
    re.VERBOSE | re.DOTALL,
)


class _Token(NamedTuple):
    text: str
    line: int
    kind: str | None  # text, special, word or end; a text stood in quotes: it is a name, whatever it says


def read_bif(path: str | Path) -> tuple[dict[str, list[str]], list[Table]]:
    """Variables with their states, and the law of each: what :class:`BayesianNetwork` is made of.

    Raises :class:`UserError` naming the file, the line and what was expected there.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"path: expected a .bif file, {file} cannot be read: {error}") from error
    return _Reader(file, text).network()


class _Reader:
    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._tokens = list(self._scan(text))
        self._at = 0
        self.states: dict[str, list[str]] = {}
        self.tables: list[Table] = []
        self._declared: dict[str, _Token] = {}
        self._parents: dict[str, list[str]] = {}  # of the laws read so far

    def _scan(self, text: str) -> Iterator[_Token]:
        line, place = 1, 0
        while place < len(text):
            match = _TOKEN.match(text, place)
            if match is None:
                raise UserError(f"path: {self._path}, line {line}: expected the end of a text in quotes")
            kind = match.lastgroup
            if kind != "skip":
                found = match.group()
                yield _Token(found[1:-1] if kind == "text" else found, line, kind)
            line += match.group().count("\n")
            place = match.end()
        yield _Token("", line, "end")

    def _fail(self, expected: str, token: _Token) -> UserError:
        came = "the end of the file" if token.kind == "end" else repr(token.text)
        return self._error(token, f"expected {expected}, came {came}")

    def _error(self, at: _Token, what: str) -> UserError:
        return UserError(f"path: {self._path}, line {at.line}: {what}")

    def _next(self) -> _Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _peek(self, text: str) -> bool:
        return _is(self._tokens[self._at], text)

    def _take(self, text: str) -> None:
        token = self._next()
        if not _is(token, text):
            raise self._fail(repr(text), token)

    def _word(self, expected: str) -> _Token:
        token = self._next()
        if token.kind in ("special", "end"):
            raise self._fail(expected, token)
        return token

    def _number(self) -> float:
        token = self._word("a number")
        try:
            value = float(token.text)
        except ValueError:
            raise self._fail("a number", token) from None
        if not 0.0 <= value < math.inf:
            raise self._fail("a probability", token)
        return value

    def network(self) -> tuple[dict[str, list[str]], list[Table]]:
        """The whole file; a law may come before a variable that it names."""
        laws = []
        while self._tokens[self._at].kind != "end":
            token = self._next()
            if _is(token, "network"):
                self._word("the network's name")
                self._skip_block()
            elif _is(token, "variable"):
                self._variable()
            elif _is(token, "probability"):
                laws.append(self._at)
                while not self._peek("{") and self._tokens[self._at].kind != "end":
                    self._next()
                self._skip_block()
            else:
                raise self._fail("network, variable or probability", token)
        for place in laws:
            self._at = place
            self._law()
        for name, token in self._declared.items():
            if name not in self._parents:
                raise self._error(token, f"expected a probability block for {name!r}, came none")
        return self.states, self.tables

    def _skip_block(self) -> None:
        self._take("{")
        while not self._peek("}"):
            token = self._next()
            if token.kind == "end":
                raise self._fail("'}'", token)
        self._next()

    def _skip_property(self) -> bool:
        if not self._peek("property"):
            return False
        while not self._peek(";"):
            token = self._next()
            if token.kind == "end":
                raise self._fail("';'", token)
        self._next()
        return True

    def _variable(self) -> None:
        name = self._word("a variable's name")
        if not name.text:
            raise self._fail("a variable's name", name)
        if name.text in self.states:
            raise self._fail("a new variable", name)
        self._take("{")
        states: list[str] | None = None
        while not self._peek("}"):
            if self._skip_property():
                continue
            self._take("type")
            self._take("discrete")
            self._take("[")
            count = self._word("the number of states")
            self._take("]")
            self._take("{")
            states = self._names("}")
            self._take("}")
            self._take(";")
            if str(len(states)) != count.text:
                raise self._fail(f"{len(states)}, as many as states follow", count)
        if states is None:
            raise self._fail("a type", self._tokens[self._at])
        self._take("}")
        self.states[name.text] = states
        self._declared[name.text] = name

    def _names(self, end: str) -> list[str]:
        names = [self._word("a name").text]
        while not self._peek(end):
            self._take(",")
            name = self._word("a name")
            if name.text in names:
                raise self._fail("another state", name)
            names.append(name.text)
        return names

    def _known(self) -> str:
        token = self._word("a variable")
        if token.text not in self.states:
            raise self._fail("a variable of the file", token)
        return token.text

    def _law(self) -> None:
        self._take("(")
        start = self._tokens[self._at]
        child = self._known()
        if child in self._parents:
            raise self._fail("a variable without a probability block before", start)
        parents: list[str] = []
        while self._peek("," if parents else "|"):
            self._next()
            token = self._tokens[self._at]
            parent = self._known()
            if parent in (child, *parents):
                raise self._fail(f"each variable once in the law of {child!r}", token)
            parents.append(parent)
        self._take(")")
        self._take("{")
        self._parents[child] = parents
        self._refuse_cycle(start)
        table = torch.full(
            [len(self.states[name]) for name in (*parents, child)], torch.nan, dtype=torch.float64
        )
        default: list[float] | None = None
        while not self._peek("}"):
            if self._skip_property():
                continue
            token = self._next()
            if _is(token, "table"):
                if not bool(table.isnan().all()):
                    raise self._error(token, f"expected the law of {child!r} once, came a table after it")
                numbers = self._numbers(table.numel(), token)
                # The child stands first in the file, last in a table here.
                turned = torch.tensor(numbers, dtype=torch.float64)
                sizes = [len(self.states[name]) for name in (child, *parents)]
                table = turned.reshape(sizes).movedim(0, -1).contiguous()
                self._check_sums(table, child, token)
            elif _is(token, "default"):
                if default is not None:
                    raise self._error(token, f"expected one default for {child!r}, came another")
                default = self._numbers(table.shape[-1], token)
                self._check_sums(torch.tensor(default, dtype=torch.float64), child, token)
            elif _is(token, "("):
                place = []
                for number, parent in enumerate(parents):
                    if number:
                        self._take(",")
                    state = self._word(f"a state of {parent!r}")
                    if state.text not in self.states[parent]:
                        raise self._fail(f"a state of {parent!r}", state)
                    place.append(self.states[parent].index(state.text))
                self._take(")")
                if not bool(table[tuple(place)].isnan().all()):
                    raise self._error(token, f"expected each row of {child!r} once, came one again")
                row = torch.tensor(self._numbers(table.shape[-1], token), dtype=torch.float64)
                self._check_sums(row, child, token)
                table[tuple(place)] = row
            else:
                raise self._fail("table, default or a row in parentheses", token)
        if default is not None:
            row = torch.tensor(default, dtype=torch.float64)
            table = torch.where(table.isnan().all(dim=-1, keepdim=True), row, table)
        if bool(table.isnan().any()):
            raise self._fail(f"a row for every state of the parents of {child!r}", self._tokens[self._at])
        self._take("}")
        self.tables.append(Table(child, parents, table))

    def _check_sums(self, rows: Tensor, child: str, at: _Token) -> None:
        total = rows.sum(dim=-1)
        off = (total - 1.0).abs() > SUM_TOLERANCE
        if bool(off.any()):
            came = float(total[off].reshape(-1)[0])
            raise self._error(at, f"expected probabilities of {child!r} that sum to 1, came {came:.9g}")

    def _refuse_cycle(self, at: _Token) -> None:
        """Where the law that was read last closes one."""
        child = at.text
        if child not in ancestors({name: self._parents.get(name, []) for name in self.states}, [child]):
            return
        try:
            topological_order({name: self._parents.get(name, []) for name in self.states})
        except UserError as error:
            raise self._error(at, str(error).removeprefix("parents: ")) from None

    def _numbers(self, count: int, at: _Token) -> list[float]:
        numbers = [self._number()]
        while not self._peek(";"):
            if self._peek(","):  # some files leave the commas out
                self._next()
            numbers.append(self._number())
        self._next()
        if len(numbers) != count:
            raise self._error(at, f"expected {count} probabilities, came {len(numbers)}")
        return numbers


def _is(token: _Token, text: str) -> bool:
    """Whether it is this word or sign of the format; what stands in quotes never is."""
    return token.kind != "text" and token.text == text


def write_bif(network: BayesianNetwork, path: str | Path, name: str = "unknown") -> None:
    """Write a network, row by row, with as many digits as it takes to read the same numbers again.

    Raises :class:`UserError` for a name or state that the format cannot hold.
    """
    lines = [f"network {_quoted(name)} {{", "}"]
    for variable, states in network.states.items():
        if len({str(state) for state in states}) < len(states):
            raise UserError(
                f"network: expected states of {variable!r} that are written differently, came {states}"
            )
        listed = ", ".join(_quoted(str(state)) for state in states)
        lines += [
            f"variable {_quoted(variable)} {{",
            f"  type discrete [ {len(states)} ] {{ {listed} }};",
            "}",
        ]
    for variable in network.states:
        lines += _law_lines(
            variable, network.parents[variable], network.log_potential(variable).table, network.states
        )
    with atomic_path(Path(path)) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _law_lines(child: str, parents: tuple[str, ...], log_table: Tensor, states: States) -> list[str]:
    given = f" | {', '.join(map(_quoted, parents))}" if parents else ""
    lines = [f"probability ( {_quoted(child)}{given} ) {{"]
    rows = log_table.exp().reshape(-1, log_table.shape[-1]).tolist()
    places = torch.cartesian_prod(*(torch.arange(len(states[name])) for name in parents)) if parents else None
    for number, row in enumerate(rows):
        numbers = ", ".join(repr(value) for value in row)
        if places is None:
            lines.append(f"  table {numbers};")
            continue
        place = places[number].reshape(-1).tolist()
        named = ", ".join(_quoted(str(states[name][i])) for name, i in zip(parents, place, strict=True))
        lines.append(f"  ({named}) {numbers};")
    return [*lines, "}"]


def _quoted(name: str) -> str:
    if re.search(r'["\n\r]', name):
        raise UserError(f"network: expected names without quotes or line breaks, came {name!r}")
    plain = re.fullmatch(rf"[^\s{re.escape(_SPECIAL)}]+", name) and not name.startswith(("//", "/*"))
    return name if plain else f'"{name}"'
