"""One question of a client on its way through the gateway."""

from __future__ import annotations

import enum
from typing import Sequence

from rayward.store.gateway_commands import Kind

# What a question takes beside its bytes, about.
ENTRY_BYTES = 200


class Special(enum.IntEnum):
    """Questions whose answer is not simply handed on."""

    NO = 0
    OWN_PROBE = 1  # nobody's but the gateway's
    SESSION_NAME = 2  # the one that a standby may ask
    TWOFOLD = 3  # a repeated HSETNX with an HGET behind it


class Entry:
    """One question. ``reply``: the answer where the gateway itself gives it; of a twofold question, the
    answer to its first half once that has come. ``term``: that of the gateway when it was sent last.
    """

    __slots__ = ("frame", "key", "kind", "name", "reply", "sent_at", "special", "term", "tried")

    def __init__(self, frame: bytes, kind: Kind, words: Sequence[bytes]) -> None:
        self.frame = frame
        self.kind = kind
        self.name, self.key = words[0], words[1]
        self.reply = b""
        self.special = Special.NO
        self.sent_at = 0.0
        self.term = 0
        self.tried = False
