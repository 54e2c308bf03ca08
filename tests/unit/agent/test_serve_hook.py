"""What the agent puts into Ray Serve's proxies: answers that end their connections while the node leaves.

The proxy is played by Uvicorn, which Serve itself runs its proxies on.
"""

from __future__ import annotations

import ast
import contextlib
import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_node import free_ports, listens, until

from rayward.agent import serve_hook, serve_middleware
from rayward.errors import RaywardError

SERVER = """
import sys, uvicorn
from ray.serve._private.utils import call_function_from_import_path
from ray.serve._private.http_util import validate_http_proxy_callback_return

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})

import os
for one in validate_http_proxy_callback_return(call_function_from_import_path(os.environ[CALLBACK])):
    app = one.cls(app, *one.args, **one.kwargs)
uvicorn.run(app, port=int(sys.argv[1]), lifespan="off", log_level="warning")
""".replace("CALLBACK", repr(serve_hook.CALLBACK))


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"TMPDIR": str(tmp_path)}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / f"rayward-serve-{os.getuid()}-8008"


@contextlib.contextmanager
def serving(environ: dict[str, str]) -> Iterator[int]:
    (port,) = free_ports(1)
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], env={**os.environ, **environ})
    try:
        until(lambda: listens(port) or process.poll() is not None, 60, "the server listens")
        assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait(10)


def get(connection: http.client.HTTPConnection) -> tuple[bytes, str | None]:
    connection.request("GET", "/")
    answer = connection.getresponse()
    return answer.read(), answer.headers["Connection"]


def test_a_leaving_node_ends_each_connection_with_an_answer(environ: dict[str, str], place: Path) -> None:
    variables = serve_hook.install({**environ, "PYTHONPATH": "/mine"})
    assert variables["PYTHONPATH"] == f"/mine:{place}"
    with serving({**variables, "PYTHONPATH": os.pathsep.join([*sys.path, str(place)])}) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        assert [get(connection) for _ in range(3)] == [(b"ok", None)] * 3
        own = connection.sock
        serve_hook.say_leaving(environ)
        assert serve_hook.is_leaving(variables)
        assert connection.sock is own, "nothing happens to a connection until its next answer"
        assert get(connection) == (b"ok", "close")
        assert own is not None
        assert own.fileno() == -1, "the client has let go of it"
        assert get(connection) == (b"ok", "close"), "the node still serves whoever comes again"
        assert serve_hook.install(environ) == {**variables, "PYTHONPATH": str(place)}, (
            "the agent starts afresh"
        )
        assert get(connection) == (b"ok", None)
        connection.close()


def test_a_users_own_callback_stays(environ: dict[str, str], place: Path) -> None:
    assert serve_hook.install({**environ, serve_hook.CALLBACK: "mine:callback"}) == {}
    assert serve_hook.install({**environ, serve_hook.CALLBACK: ""}) == {}
    assert not place.exists()


def test_each_agent_has_a_folder_of_its_own(environ: dict[str, str], place: Path) -> None:
    assert serve_hook.folder({**environ, "RAYWARD_AGENT_PORT": ""}) == str(place)
    assert serve_hook.folder({**environ, "RAYWARD_AGENT_PORT": "9"}) == str(
        place.with_name(f"{place.name[:-4]}9")
    )


def test_the_module_is_renewed_when_it_is_gone_or_another(environ: dict[str, str], place: Path) -> None:
    serve_hook.install(environ)
    (module,) = place.glob("*.py")
    assert module.read_bytes() == Path(serve_middleware.__file__).read_bytes()
    inode = module.stat().st_ino
    serve_hook.write(str(place))
    assert module.stat().st_ino == inode, "nothing to do"
    module.write_text("an older one")
    serve_hook.write(str(place))
    assert module.read_bytes() == Path(serve_middleware.__file__).read_bytes()
    module.unlink()
    serve_hook.write(str(place))
    assert [path.name for path in place.iterdir()] == [module.name]


def test_nothing_is_left_behind(environ: dict[str, str], place: Path) -> None:
    serve_hook.install(environ)
    serve_hook.say_leaving(environ)
    serve_hook.remove(environ)
    serve_hook.remove(environ)
    assert list(place.parent.iterdir()) == []


@pytest.mark.parametrize("wrong", ["writable", "link", "file"])
def test_a_folder_that_others_could_write_to_is_not_used(
    environ: dict[str, str], place: Path, wrong: str
) -> None:
    if wrong == "writable":
        place.mkdir()
        place.chmod(0o777)
    elif wrong == "link":
        place.symlink_to(place.parent)
    else:
        place.write_text("")
    with pytest.raises(RaywardError, match=f"^{place}: cannot write Serve's middleware: ") as caught:
        serve_hook.install(environ)
    assert "TMPDIR" in str(caught.value)
    assert not list(place.parent.glob("*.py"))


def test_leaving_without_a_folder_is_no_error(environ: dict[str, str], place: Path) -> None:
    serve_hook.say_leaving(environ)
    assert not serve_hook.is_leaving(environ)
    assert not place.exists()


def test_the_middleware_needs_nothing_of_raywards() -> None:
    tree = ast.parse(Path(serve_middleware.__file__).read_text())
    names = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names == {"__future__", "typing", "starlette.middleware"}


def test_without_a_leaving_agent_it_adds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_middleware, "LEAVING", "")
    assert serve_middleware.middlewares() == []
