"""Lines out of chunks, in bounded memory."""

from __future__ import annotations


class Lines:
    """A line of more than `longest` bytes comes out as None; it is never held whole. The newline is not part of it."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = bytearray()
        self._too_long = False

    def feed(self, chunk: bytes) -> list[bytes | None]:
        """The lines that end in this chunk."""
        first, *others = chunk.split(b"\n")
        self._add(first)
        if not others:
            return []
        *whole, rest = others
        lines = [self._take(), *(line if len(line) <= self._longest else None for line in whole)]
        self._add(rest)
        return lines

    def end(self) -> list[bytes | None]:
        """The last line, where no newline follows it."""
        return [self._take()] if self._rest or self._too_long else []

    def _add(self, piece: bytes) -> None:
        if self._too_long or len(self._rest) + len(piece) > self._longest:
            self._too_long = True
            self._rest.clear()
        else:
            self._rest += piece

    def _take(self) -> bytes | None:
        line = None if self._too_long else bytes(self._rest)
        self._rest.clear()
        self._too_long = False
        return line
