"""A text/event-stream as the JSON of its events, put together from the bytes as they arrive.

It owns lines, blank lines and the word that ends the streams of OpenAI's API; what an event means it does not know. The
openai adapter reads through it: the SDK's own reader takes a fifth of the time of a short answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

_END = b"[DONE]"


class EventReader:
    """Takes bytes and gives events; ``is_done`` once the stream has said that nothing follows."""

    def __init__(self) -> None:
        self.is_done = False
        self._rest: list[bytes] = []
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[object]:
        """The JSON of every event that ends in ``chunk``; comments and other fields than data say nothing.

        Raises:
            ValueError: an event is no JSON, or no UTF-8.
        """
        if self.is_done or b"\n" not in chunk:
            self._rest.append(chunk)
            return
        *lines, rest = b"".join((*self._rest, chunk)).split(b"\n")
        self._rest = [rest]
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif self._data and line in (b"", b"\r"):
                data, self._data = b"\n".join(self._data).strip(), []
                if data.startswith(_END):
                    self.is_done = True
                    return
                if data:
                    yield json.loads(data)
