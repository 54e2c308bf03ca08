"""What changes in a container that runs on the host's own network and file system. Pure.

Without namespaces a mountPath is not where the manifest says, a Service's name leads nowhere, and two servers
would want one port. All of that is settled here, on words, before anything starts. Must not start anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_WORD = r"A-Za-z0-9_\-"


@dataclass(frozen=True)
class HostFacts:
    """Where a Pod lives on the host's network: a loopback address, ports, and more words for `ray start`.

    ``ports`` maps a purpose ("redis", "agent") or a port number of the manifest, as text, to the port to use.
    """

    address: str = "127.0.0.1"
    ray_start_args: tuple[str, ...] = ()
    ports: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> HostFacts:
        """Read the `host` part of a pod.json."""
        return cls(
            address=str(data.get("address", "127.0.0.1")),
            ray_start_args=tuple(data.get("ray_start_args") or ()),
            ports={str(key): int(value) for key, value in (data.get("ports") or {}).items()},
        )

    def port(self, number: int) -> int:
        """The port that stands in for port ``number`` of the manifest."""
        return self.ports.get(str(number), number)


def substitute(text: str, replacements: Mapping[str, str]) -> str:
    """Replace whole tokens of ``text``, the longest first, each place once.

    A token that starts with "/" is a path: it matches as such and as the beginning of a longer path, so
    "/data" is found in "--dir=/data/db" but neither in "/database" nor in "/var/data". Any other token
    matches where no letter, digit, "_" or "-" goes on at either end, nor a dot that
    leads on to more of a name.
    """
    if not replacements:
        return text
    patterns = []
    for token in sorted(replacements, key=len, reverse=True):
        literal = re.escape(token)
        if token.startswith("/"):
            patterns.append(rf"(?<![{_WORD}./]){literal}(?![{_WORD}.])")
        else:
            patterns.append(rf"(?<![{_WORD}.]){literal}(?![{_WORD}]|\.[{_WORD}])")
    return re.sub("|".join(patterns), lambda match: replacements[match.group(0)], text)


def substitute_all(words: Iterable[str], replacements: Mapping[str, str]) -> list[str]:
    """``substitute`` for each word."""
    return [substitute(word, replacements) for word in words]


def substitute_environment(variables: Mapping[str, str], replacements: Mapping[str, str]) -> dict[str, str]:
    """``substitute`` for each value, except PATH's, whose folders are the machine's own."""
    return {
        name: value if name == "PATH" else substitute(value, replacements)
        for name, value in variables.items()
    }


def redis_arguments(facts: HostFacts, data_folder: str) -> tuple[str, ...]:
    """What a redis-server needs so that it clashes with no other here; options win over a file's lines."""
    port = facts.ports.get("redis", facts.ports.get("6379", 6379))
    return ("--port", str(port), "--bind", facts.address, "--dir", data_folder)


def adapt_argv(argv: Sequence[str], facts: HostFacts, data_folder: str) -> tuple[str, ...]:
    """The words of a container, with redis-server's adapted, called directly or in a shell's text."""
    extra = redis_arguments(facts, data_folder)
    if argv and argv[0].rpartition("/")[2] == "redis-server":
        return (*argv, *extra)
    if len(argv) >= 3 and argv[0].rpartition("/")[2] in ("sh", "bash") and "c" in argv[1].lstrip("-"):
        return tuple(_adapt_script(word, extra) if index > 1 else word for index, word in enumerate(argv))
    return tuple(argv)


def _adapt_script(script: str, extra: Sequence[str]) -> str:
    """Append the options to each plain call of redis-server in a shell's text."""
    words = " ".join(extra)
    return re.sub(
        r"(?m)((?:^|[;&|(]|\bexec)\s*(?:\S*/)?redis-server\b[^;&|)#\n]*?)(\s*(?:$|[;&|)#]))",
        rf"\1 {words}\2",
        script,
    )


def adapt_client(argv: Sequence[str], facts: HostFacts) -> tuple[str, ...]:
    """The words of a command that runs in a container of redis, with redis-cli told where that redis is."""
    for place, word in enumerate(argv):
        if word.rpartition("/")[2] == "redis-cli" and not {"-h", "-p", "-u", "-s"} & set(argv[place:]):
            port = facts.ports.get("redis", facts.ports.get("6379", 6379))
            return (*argv[: place + 1], "-h", facts.address, "-p", str(port), *argv[place + 1 :])
    return tuple(argv)


def ray_environment(facts: HostFacts) -> dict[str, str]:
    """What tells rayward's agent which ports and addresses its Ray has to use here."""
    variables = {
        "RAYWARD_AGENT_HOST": facts.address,
        "RAYWARD_RAY_START_ARGS": json.dumps(list(facts.ray_start_args)),
    }
    if "agent" in facts.ports:
        variables["RAYWARD_AGENT_PORT"] = str(facts.ports["agent"])
    return variables
