"""Renders the chart with Helm's own engine: the ``helm`` on PATH, or the one inside PyPI's helm-python-sdk.

Nothing here imitates Helm: where there is no engine, the tests that need one skip.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).resolve().parents[2] / "deploy" / "helm" / "rayward"
_HELM = shutil.which("helm")
_SDK = importlib.util.find_spec("helm_python") is not None

needs_helm = pytest.mark.skipif(
    not (_HELM or _SDK), reason="no Helm: put helm on PATH, or pip install helm-python-sdk"
)


class RenderError(Exception):
    """Helm refused the values or a template; the text is its own."""


def render(
    values: Mapping[str, Any] | None = None, namespace: str = "rayward-system"
) -> list[dict[str, Any]]:
    """The objects of a release named ``rayward``, without its CRDs. Raises ``RenderError``."""
    text = _by_binary(values or {}, namespace) if _HELM else _by_sdk(values or {}, namespace)
    return [found for found in yaml.safe_load_all(text) if found]


def _by_binary(values: Mapping[str, Any], namespace: str) -> str:
    command = [str(_HELM), "template", "rayward", str(CHART), "--namespace", namespace, "--values", "-"]
    done = subprocess.run(
        command, input=json.dumps(values), capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise RenderError(done.stderr)
    return done.stdout


def _by_sdk(values: Mapping[str, Any], namespace: str) -> str:
    import helm_python  # noqa: PLC0415 - loads 85 MB, for those who render

    try:
        with helm_python.Chart.load(CHART) as chart:
            files = chart.render(dict(values), name="rayward", namespace=namespace)
    except helm_python.HelmError as error:
        raise RenderError(str(error)) from error
    return "\n---\n".join(text for name, text in files.items() if not name.endswith("NOTES.txt"))
