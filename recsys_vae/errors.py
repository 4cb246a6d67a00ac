"""The one exception that means: the user can mend this."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave: one line that names the argument, what was expected and what came.

    The command line prints the message on stderr and exits with code 2, without a traceback. Code that is
    called from Python can catch it as a ``ValueError``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the closest valid name, or the list of all, where they are few.

    >>> nearest("ndgc", ["ndcg", "recall"])
    "did you mean 'ndcg'?"
    """
    options = sorted(valid)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    if len(options) > 40:
        return "nothing that is valid looks like it"
    return f"expected one of {', '.join(options)}"
