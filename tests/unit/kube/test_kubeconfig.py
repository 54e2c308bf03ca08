"""Kubeconfig files, one or several, as kubectl reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rayward.kube import kubeconfig


def test_the_first_word_on_a_name_wins_and_paths_are_their_files(tmp_path: Path) -> None:
    one, two = tmp_path / "a" / "config", tmp_path / "b" / "config"
    for path in (one, two):
        path.parent.mkdir()
    one.write_text(
        yaml.safe_dump(
            {
                "clusters": [
                    {"name": "c", "cluster": {"server": "https://one", "certificate-authority": "ca.pem"}}
                ],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            }
        )
    )
    two.write_text(
        yaml.safe_dump(
            {
                "clusters": [{"name": "c", "cluster": {"server": "https://two"}}],
                "users": [{"name": "u", "user": {"client-certificate": "/abs.pem", "client-key": "key.pem"}}],
                "current-context": "x",
            }
        )
    )
    found = kubeconfig.read([tmp_path / "none", one, two])
    assert found["current-context"] == "x"
    assert found["clusters"] == [
        {"name": "c", "cluster": {"server": "https://one", "certificate-authority": f"{one.parent}/ca.pem"}}
    ]
    assert found["users"] == [
        {"name": "u", "user": {"client-certificate": "/abs.pem", "client-key": f"{two.parent}/key.pem"}}
    ]


def test_no_file_at_all_is_an_error_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"one or .*two"):
        kubeconfig.read([tmp_path / "one", tmp_path / "two"])


def test_a_file_that_is_no_mapping_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("- 1\n")
    with pytest.raises(TypeError, match="config is not a kubeconfig"):
        kubeconfig.read([tmp_path / "config"])
    (tmp_path / "config").write_text("")
    assert kubeconfig.read([tmp_path / "config"]) == {"clusters": [], "users": [], "contexts": []}
