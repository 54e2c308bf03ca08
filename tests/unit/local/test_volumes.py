"""Volumes become folders and files, mounts become binds."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from rayward.errors import RaywardError
from rayward.local.environment import NotYet, PodFacts
from rayward.local.volumes import Mount, ObjectFolder, mounts_for, prepare

OBJECTS: dict[tuple[str, str], dict[str, Any]] = {
    ("ConfigMap", "files"): {"data": {"a": "A", "b": "B"}, "binaryData": {"c": "AAE="}},
    ("Secret", "login"): {"data": {"word": "czNzYW1l"}},
}
FACTS = PodFacts(
    pod={"metadata": {"name": "web", "labels": {"k": "v"}}, "spec": {}},
    address="10.0.0.1",
    lookup=lambda kind, name: OBJECTS.get((kind, name)),
)


def no_memory(folder: Path, limit: int | None) -> None:
    raise AssertionError("no tmpfs was asked for")


def made(volume: dict[str, Any], tmp_path: Path, claims: Path | None = None) -> Path:
    return prepare({"name": "v", **volume}, tmp_path / "v", claims, FACTS, no_memory)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and not p.is_symlink()
    }


def test_config_map(tmp_path: Path) -> None:
    assert contents(made({"configMap": {"name": "files"}}, tmp_path)) == {"a": b"A", "b": b"B", "c": b"\0\1"}


def test_items_choose_and_place_and_set_modes(tmp_path: Path) -> None:
    items = [{"key": "a", "path": "x/y"}, {"key": "b", "path": "z", "mode": 0o755}]
    folder = made({"configMap": {"name": "files", "items": items, "defaultMode": 0o600}}, tmp_path)
    assert contents(folder) == {"x/y": b"A", "z": b"B"}
    assert stat.S_IMODE((folder / "x/y").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "z").stat().st_mode) == 0o755


def test_secret(tmp_path: Path) -> None:
    folder = made({"secret": {"secretName": "login", "defaultMode": 0o400}}, tmp_path)
    assert contents(folder) == {"word": b"s3same"}
    assert stat.S_IMODE((folder / "word").stat().st_mode) == 0o400


def test_projected_sources_share_a_folder(tmp_path: Path) -> None:
    sources = [
        {"configMap": {"name": "files", "items": [{"key": "a", "path": "a"}]}},
        {"secret": {"name": "login"}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]
    assert contents(made({"projected": {"sources": sources}}, tmp_path)) == {
        "a": b"A",
        "word": b"s3same",
        "labels": b'k="v"\n',
    }


def test_memory_is_asked_for_with_its_limit(tmp_path: Path) -> None:
    asked: list[tuple[Path, int | None]] = []
    volume = {"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}
    folder = prepare(volume, tmp_path / "v", None, FACTS, lambda path, limit: asked.append((path, limit)))
    assert asked == [(folder, 2**20)]


def test_claim_and_host_path_are_folders_that_stay(tmp_path: Path) -> None:
    (tmp_path / "claims" / "data").mkdir(parents=True)
    claim = {"persistentVolumeClaim": {"claimName": "data"}}
    assert made(claim, tmp_path, tmp_path / "claims") == tmp_path / "claims" / "data"
    host_path = {"hostPath": {"path": str(tmp_path / "new"), "type": "DirectoryOrCreate"}}
    assert made(host_path, tmp_path) == tmp_path / "new"
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        ({"configMap": {"name": "gone"}}, 'ConfigMap "gone" is not there'),
        (
            {"secret": {"secretName": "login", "items": [{"key": "k", "path": "k"}]}},
            'Secret "login" has no key "k"',
        ),
        ({"persistentVolumeClaim": {"claimName": "gone"}}, 'PersistentVolumeClaim "gone" is not there'),
        ({"persistentVolumeClaim": {"claimName": ".."}}, 'PersistentVolumeClaim ".." is not there'),
        ({"hostPath": {"path": "/no/such/path"}}, "hostPath /no/such/path is not on this machine"),
    ],
)
def test_what_is_missing_is_waited_for(volume: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "claims").mkdir()
    if volume.get("persistentVolumeClaim", {}).get("claimName") == "..":
        volume = {"persistentVolumeClaim": {"claimName": "../claims"}}
        said = 'PersistentVolumeClaim "../claims" is not there'
    with pytest.raises(NotYet) as caught:
        made(volume, tmp_path, tmp_path / "claims")
    assert said in str(caught.value)
    assert "Pod web, volume v" in str(caught.value)


def test_optional_objects_leave_an_empty_folder(tmp_path: Path) -> None:
    assert contents(made({"configMap": {"name": "gone", "optional": True}}, tmp_path)) == {}


@pytest.mark.parametrize(
    ("volume", "said"),
    [
        (
            {"configMap": {"name": "files", "items": [{"key": "a", "path": "../a"}]}},
            "leads out of the volume",
        ),
        ({"nfs": {"server": "x"}}, "volume kind nfs is not known here"),
        ({"projected": {"sources": [{"serviceAccountToken": {}}]}}, "projected source serviceAccountToken"),
    ],
)
def test_what_cannot_be_is_refused(volume: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(RaywardError, match=said):
        made(volume, tmp_path)


def mounts(container: dict[str, Any], sources: dict[str, Path]) -> list[Mount]:
    return mounts_for({"name": "main", **container}, sources, {"POD": "web-0"}, "web")


def test_mounts_are_sorted_outer_first_with_sub_paths_made(tmp_path: Path) -> None:
    entries = [
        {"name": "v", "mountPath": "/a/b/c", "subPath": "p/q"},
        {"name": "v", "mountPath": "/a", "readOnly": True},
        {"name": "v", "mountPath": "/a/b", "subPathExpr": "logs-$(POD)"},
    ]
    assert mounts({"volumeMounts": entries}, {"v": tmp_path}) == [
        Mount(str(tmp_path), "/a", True),
        Mount(str(tmp_path / "logs-web-0"), "/a/b"),
        Mount(str(tmp_path / "p/q"), "/a/b/c"),
    ]
    assert (tmp_path / "p/q").is_dir()


@pytest.mark.parametrize("below", ["../x", "/etc", "out"])
def test_a_sub_path_stays_in_its_volume(below: str, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc")
    with pytest.raises(RaywardError, match="leads out of the volume"):
        mounts({"volumeMounts": [{"name": "v", "mountPath": "/a", "subPath": below}]}, {"v": tmp_path})


def test_a_mount_without_volume_is_refused() -> None:
    with pytest.raises(RaywardError, match="volumeMount v: the Pod has no volume of this name"):
        mounts({"volumeMounts": [{"name": "v", "mountPath": "/a"}]}, {})


def test_objects_are_read_from_their_folder(tmp_path: Path) -> None:
    (tmp_path / "Secret").mkdir()
    (tmp_path / "Secret" / "s.json").write_text('{"data": {}}')
    folder = ObjectFolder(tmp_path)
    assert folder("Secret", "s") == {"data": {}}
    assert folder("Secret", "none") is None
    assert folder("Secret", "../Secret/s") is None
