"""Standard output and error that may be gone or full: the work goes on, and its exit code still says how it ended."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO, cast

from unbatch.errors import printable

__all__ = ["Guarded", "guarded"]

_OURS = "\x1b\r"


class Guarded:
    """Hands on what is written to a stream until that fails; from then on keeps the reason and drops the rest.

    Attributes:
        stream: where to, or None where there is none.
        failure: what ended it, or None.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        """Everything else is the stream's."""
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write, with escapes in the place of characters that the stream does not know.

        The second line of defense against text of strangers: what writes colors and progress may use ESC and CR, nobody needs the rest.
        """
        text = "".join(part if part in _OURS else printable(part) for part in re.split(f"([{_OURS}])", text))
        if self.failure is None:
            try:
                try:
                    return self.stream.write(text)
                except UnicodeEncodeError:
                    known = self.stream.encoding or "ascii"
                    return self.stream.write(text.encode(known, "backslashreplace").decode(known))
            except OSError as error:
                self._end(error)
        return len(text)

    def flush(self) -> None:
        """Flush, unless it failed."""
        if self.failure is None:
            try:
                self.stream.flush()
            except OSError as error:
                self._end(error)

    @property
    def closed_by_reader(self) -> bool:
        """Whether whoever read it had enough, as ``head`` does."""
        return self.failure is not None and self.failure.errno == errno.EPIPE

    def _end(self, error: OSError) -> None:
        self.failure = error
        # What the stream still holds would be written once more when Python ends, and fail once more.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


@contextmanager
def guarded() -> Iterator[Guarded | None]:
    """Guard both streams while the block runs; gives standard output, or None where there is none."""
    before = sys.stdout, sys.stderr
    out, err = (None if stream is None else Guarded(stream) for stream in before)
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        for stream in (out, err):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = before
