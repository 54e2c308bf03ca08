"""Takes apart what the API server sends: objects, pages of lists, the lines of a watch as they come in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from rayward.kube.api_error import from_status

Object = dict[str, Any]
Content = bytes | msgspec.Raw
Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class ListPage:
    """One page: objects (without `kind` and `apiVersion`), the list's version, the mark of the next page.

    Going through the page decodes one object at a time, which takes half the time and memory of ``items``.
    """

    parts: tuple[msgspec.Raw, ...]
    resource_version: str
    continue_: str

    def __iter__(self) -> Iterator[Object]:
        return (read(part) for part in self.parts)

    @property
    def items(self) -> tuple[Object, ...]:
        """All objects at once, decoded at each call."""
        return tuple(self)


class WatchEvent(msgspec.Struct, frozen=True):
    """One line of a watch: ``type`` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    type: str
    object: Object


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[msgspec.Raw] | None = None


_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_decode_list = msgspec.json.Decoder(_List).decode
_decode_event = msgspec.json.Decoder(WatchEvent).decode


def read(content: Content) -> Object:
    """One object. Raises ConnectionError for what is none: a proxy's page, half an answer."""
    return _decoded(content, _decode_object)


def page_of(content: bytes) -> ListPage:
    """One page of a list. Raises ConnectionError for what is none."""
    found = _decoded(content, _decode_list)
    return ListPage(tuple(found.items or ()), found.metadata.resource_version, found.metadata.continue_)


class WatchLines:
    """The part of a line that has no end yet is put together only once, however long it gets."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def events(self, chunk: bytes) -> Iterator[WatchEvent]:
        """The events that are whole with this chunk. Raises ApiError for what the server says in the stream
        (410: list again), ConnectionError for what is no event."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line = b"".join((*self._parts, end))
            self._parts.clear()
            if line.strip():
                event = _decoded(line, _decode_event)
                if event.type == "ERROR":
                    raise from_status(event.object)
                yield event
        if rest:
            self._parts.append(rest)

    def end(self) -> None:
        """Nothing more comes. Raises ConnectionError when that is in the middle of an event."""
        if b"".join(self._parts).strip():
            raise ConnectionError("the watch ended in the middle of an event")


def _decoded(content: Content, decode: Callable[[Content], Decoded]) -> Decoded:
    try:
        return decode(content)
    except msgspec.DecodeError as problem:
        raise ConnectionError(f"the API server's answer is not what was asked for: {problem}") from problem
