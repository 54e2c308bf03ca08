"""What stands in for an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayward.errors import RaywardError
from rayward.local import images
from rayward.local.images import ImageProfile, container_argv, notes_for, profile_for, split_image


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("redis", ("redis", "latest")),
        ("redis:7.4", ("redis", "7.4")),
        ("docker.io/library/redis:7", ("redis", "7")),
        ("library/redis", ("redis", "latest")),
        ("localhost:5000/redis", ("redis", "latest")),
        ("rayproject/ray:2.9.0-py310", ("rayproject/ray", "2.9.0-py310")),
        ("redis:7@sha256:abc", ("redis", "7")),
        ("bitnami/redis:7", ("bitnami/redis", "7")),
    ],
)
def test_image_names(image: str, expected: tuple[str, str]) -> None:
    assert split_image(image) == expected


def test_redis_has_a_server_on_its_path_and_starts_it() -> None:
    profile = profile_for("docker.io/library/redis:7.4", None)
    assert (Path(profile.path_entries[0]) / "redis-server").is_file()
    assert profile.cwd == "/data"
    assert container_argv(profile, (), ()) == ("redis-server",)
    assert container_argv(profile, (), ("--port", "1")) == ("redis-server", "--port", "1")
    assert container_argv(profile, (), ("/etc/r.conf",)) == ("redis-server", "/etc/r.conf")
    assert container_argv(profile, (), ("redis-cli", "ping")) == ("redis-cli", "ping")
    assert container_argv(profile, ("sh",), ("-c", "x")) == ("sh", "-c", "x")


def test_ray_has_its_home_and_a_fresh_folder() -> None:
    profile = profile_for(f"rayproject/ray:{images.installed_ray()}-py311-cpu", ["/bin/bash", "-c", "--"])
    assert profile.env["HOME"] == "/home/ray"
    assert profile.fresh_directories == ("/tmp/ray",)
    assert (Path(profile.path_entries[0]) / "ray").exists()
    assert profile.notes == ()


def test_another_ray_than_the_installed_one_is_told() -> None:
    (note,) = notes_for("rayproject/ray:2.9.0")
    assert "asks for Ray 2.9.0" in note
    assert f"installed Ray {images.installed_ray()}" in note
    assert notes_for("rayproject/ray:nightly") == ()
    assert notes_for("acme") == ()


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "installed_ray", lambda: None)
    with pytest.raises(RaywardError, match="pip install 'ray"):
        profile_for("rayproject/ray:2.9.0", None)


def test_any_other_image_needs_its_command_on_the_machine() -> None:
    assert "sh" in container_argv(profile_for("busybox", ["sh"]), ["sh"], [])
    assert isinstance(profile_for("acme", ["/in/a/volume"]), ImageProfile)
    with pytest.raises(RaywardError, match=r"image acme: .*'acme-tool' is not on this machine"):
        profile_for("acme", ["acme-tool"])
    with pytest.raises(RaywardError, match=r"image acme: .*no command of its own"):
        profile_for("acme", None)
