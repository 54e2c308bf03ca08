"""A machine's file: what it may hold, what is refused and how, and what the agent is told because of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from rayward.errors import RaywardError
from rayward.plain import check, machine
from rayward.plain.command import WORKER_RECONNECT_S, Launch, Machine, build
from rayward.plain.read import load, parse
from rayward.plain.schema import Config
from rayward.plan.settings import ReconnectSettings

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "plain"
MACHINE = Machine(host_name="here", address="10.0.0.7", ray="/opt/ray")
HEAD = """
role: head
cluster: prod
heads: [10.0.0.1, 10.0.0.2:9000]
redis: {address: "redis://10.0.0.5:6379"}
"""


ONE_MACHINE = "role: head\ncluster: prod\nheads: [127.0.0.1]\n"
TLS = ONE_MACHINE + "redis: {{address: 'rediss://127.0.0.1:1', {}}}\n"


def config(text: str) -> Config:
    return parse(text, "rayward.yaml")


def problems(text: str) -> list[str]:
    return [str(problem) for problem in check.problems(config(text))]


def launch(text: str, found: Machine = MACHINE) -> Launch:
    read = config(text)
    assert check.problems(read) == []
    return build(read, found)


def test_a_head_is_told_its_cluster_its_heads_and_its_store() -> None:
    told = launch(HEAD + "name: head-1\nray: {start: [--num-cpus=0, --dashboard-host=0.0.0.0], port: 6380}\n")
    assert told.argv == (
        "head", "--", "/opt/ray", "start", "--head", "--node-ip-address=10.0.0.7", "--port=6380",
        "--num-cpus=0", "--dashboard-host=0.0.0.0",
    )  # fmt: skip
    assert told.settings == {
        "RAYWARD_CLUSTER": "prod",
        "RAYWARD_POD": "head-1",
        "RAYWARD_HEADS": "10.0.0.1:8008,10.0.0.2:9000",
        "RAYWARD_AGENT_PORT": "8008",
        "RAYWARD_STATE_DIR": "/var/lib/rayward",
        "RAY_REDIS_ADDRESS": "redis://10.0.0.5:6379",
        "RAY_external_storage_namespace": "prod",
    }


def test_every_setting_of_the_store_reaches_the_agent_under_the_name_that_it_reads() -> None:
    told = launch(
        "role: head\ncluster: prod\nheads: ['[fd00::1]:8010', h2]\nname: a\nstateDir: /s\n"
        "agent: {port: 8010, host: 10.0.0.7, token: t0ken}\nlease: {ttl: 5}\n"
        "redis: {address: 'rediss://r:1', username: u, passwordFile: /p, caFile: /ca, certFile: /c,"
        " keyFile: /k, namespace: other}\n"
    )
    assert told.settings == {
        "RAYWARD_CLUSTER": "prod",
        "RAYWARD_POD": "a",
        "RAYWARD_HEADS": "[fd00::1]:8010,h2:8008",
        "RAYWARD_AGENT_PORT": "8010",
        "RAYWARD_AGENT_HOST": "10.0.0.7",
        "RAYWARD_AGENT_TOKEN": "t0ken",
        "RAYWARD_STATE_DIR": "/s",
        "RAYWARD_LEASE_TTL": "5",
        "RAY_REDIS_ADDRESS": "rediss://r:1",
        "REDIS_USERNAME": "u",
        "RAYWARD_REDIS_PASSWORD_FILE": "/p",
        "RAY_REDIS_CA_CERT": "/ca",
        "RAY_REDIS_CLIENT_CERT": "/c",
        "RAY_REDIS_CLIENT_KEY": "/k",
        "RAY_external_storage_namespace": "other",
    }


def test_a_worker_connects_to_its_own_forwarder_and_hears_nothing_of_redis() -> None:
    told = launch("role: worker\ncluster: prod\nheads: [h1, h2]\nredis: {address: r, password: p}\n")
    assert told.argv == (
        "worker", "--", "/opt/ray", "start", "--address=10.0.0.7:6379", "--node-ip-address=10.0.0.7",
    )  # fmt: skip
    assert told.settings["RAYWARD_FORWARD"] == "on"
    assert told.defaults["RAY_gcs_rpc_server_reconnect_timeout_s"] == WORKER_RECONNECT_S
    assert not [name for name in told.environment({}) if "REDIS" in name or "storage" in name]


@pytest.mark.parametrize("role", ["head", "worker"])
def test_ray_gets_the_reconnect_settings_unless_the_environment_has_its_own(role: str) -> None:
    told = launch(f"role: {role}\ncluster: prod\nheads: [h]\n")
    for name, value in ReconnectSettings().environment().items():
        assert told.environment({})[name] == value
        assert told.environment({name: "7"})[name] == "7"
    assert ("RAY_gcs_rpc_server_reconnect_timeout_s" in told.environment({})) == (role == "worker")


def test_the_file_wins_over_the_environment_and_a_password_is_given_in_one_way_only() -> None:
    by_file = launch(HEAD.replace('6379"}', '6379", passwordFile: /p}'))
    environ = {"REDIS_PASSWORD": "old", "RAYWARD_CLUSTER": "other", "LANG": "C"}
    found = by_file.environment(environ)
    assert "REDIS_PASSWORD" not in found
    assert (found["RAYWARD_CLUSTER"], found["LANG"]) == ("prod", "C")
    by_value = launch(HEAD.replace('6379"}', '6379", password: p}'))
    found = by_value.environment({"RAYWARD_REDIS_PASSWORD_FILE": "/old"})
    assert "RAYWARD_REDIS_PASSWORD_FILE" not in found
    assert found["REDIS_PASSWORD"] == "p"


def test_what_is_printed_holds_no_secret() -> None:
    told = launch(
        "role: head\ncluster: prod\nheads: [h]\nagent: {token: t0psecret}\n"
        "redis: {address: 'redis://user:s3cret@r:1', password: hunter2}\n"
    )
    shown = str(told.shown()) + repr(told)
    assert "***" in told.shown()["REDIS_PASSWORD"]
    assert not [secret for secret in ("t0psecret", "s3cret", "hunter2") if secret in shown]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "rayward.yaml: holds nothing"),
        ("- role: head\n", "expected fields such as `role: head`, got a list"),
        ("role: head\ncluster: prod\n", "heads: is missing"),
        ("rol: head\ncluster: prod\nheads: [h]\n", "unknown field `rol`; did you mean `role`?"),
        (
            HEAD + "ray: {nodeIpAdress: 1.2.3.4}\n",
            "ray: unknown field `nodeIpAdress`; did you mean `nodeIpAddress`?",
        ),
        (HEAD + "agent: {prot: 1}\n", "agent: unknown field `prot`; did you mean `port`?"),
        (HEAD + "lease: {ttl: 3s}\n", 'lease.ttl: expected a number, got "3s"'),
        (HEAD.replace("prod", "2024"), "cluster: must be a string; write it in quotes"),
        (HEAD.replace("role: head", "role: haed"), 'role: must be one of head, worker; got "haed"'),
        (HEAD + "ray: {start: --num-cpus=0}\n", "ray.start: expected a list"),
        (HEAD + "role: worker\n", "the key `role` is given twice"),
        ("role: head\nheads: [10.0.0.1, 10.", "line 2"),
        ("role: head\nheads: [10.0.0.1, 10.", "is the file whole?"),
        ("role: head\nclus", "is the file whole?"),
        ("role: head\x00", "is not YAML"),
    ],
)
def test_a_file_of_the_wrong_shape_is_refused_with_the_place(text: str, message: str) -> None:
    with pytest.raises(RaywardError) as caught:
        config(text)
    assert message in str(caught.value)
    assert "rayward.yaml" in str(caught.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(RaywardError) as caught:
        config("role: boss\ncluster: prod\nheads: h\nredis: {}\nlease: {tll: 1}\n")
    assert str(caught.value).count("\n") >= 4


def test_an_error_of_yaml_does_not_show_the_line_which_may_hold_the_password() -> None:
    with pytest.raises(RaywardError) as caught:
        config('redis: {password: "hunter2\n')
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "name: a b\n", "name: must be letters, digits"),
        (HEAD.replace("prod", "p/x"), "cluster: must be letters, digits"),
        (HEAD.replace("10.0.0.1,", "'10.0.0.1:x',"), "heads[0]: the port of '10.0.0.1:x' is not a number"),
        (HEAD.replace("10.0.0.2:9000", "10.0.0.1:8008"), "heads[1]: 10.0.0.1:8008 is in the list twice"),
        (HEAD.replace("[10.0.0.1, 10.0.0.2:9000]", "[]"), "heads: is empty"),
        ("role: head\ncluster: p\nheads: [a, b]\n", "redis: is missing: more than one head needs a store"),
        (HEAD.replace("redis://", "http://"), "redis.address: 'http://10.0.0.5:6379' is not a Redis address"),
        (HEAD.replace("redis://10.0.0.5:6379", "redis+sentinel://10.0.0.5:26379"), "redis.address: "),
        (HEAD.replace("redis://10.0.0.5:6379", "redis+sentinel://10.0.0.5:26379"), "name of the primary"),
        (HEAD.replace("6379\"", "6379\", password: a, passwordFile: /b"), "redis.passwordFile: and"),
        (HEAD.replace("6379\"", "6379\", caFile: /ca"), "redis.caFile: is for TLS"),
        (HEAD.replace("redis://10.0.0.5:6379\"", "redis+sentinel://s/m\", caFile: /ca"), "rediss+sentinel://"),
        (TLS.format("keyFile: /k"), "redis.keyFile: needs redis.certFile"),
        (HEAD.replace("6379\"", "6379\", namespace: 'a*'"), "redis.namespace: holds `*`, which Redis takes"),
        (HEAD.replace("6379\"", "6379\", namespace: 'a[b]'"), "redis.namespace: holds `[`"),
        (HEAD.replace("6379\"", "6379\", namespace: a@b"), "redis.namespace: holds `@`, which Ray keeps"),
        (HEAD.replace("6379\"", "6379\", namespace: 'a b'"), "redis.namespace: holds a space"),
        (HEAD.replace("prod", "'pro?'"), "cluster: holds `?`"),
        (HEAD + "ray: {start: [--num-cpus=0, --port=1]}\n", "ray.start[1]: --port is decided by `ray.port`"),
        (HEAD + "ray: {start: [--head]}\n", "ray.start[0]: --head is decided by `role`"),
        (HEAD + "ray: {start: ['num-cpus=1']}\n", "ray.start: expected options"),
        (HEAD + "ray: {nodeIpAddress: head-1}\n", "ray.nodeIpAddress: must be one IP address"),
        (HEAD + "ray: {nodeIpAddress: 0.0.0.0}\n", "ray.nodeIpAddress: must be one IP address"),
        (HEAD + "ray: {port: 70000}\n", "ray.port: must be a port"),
        (HEAD + "agent: {port: 6379}\n", "agent.port: and ray.port are both 6379"),
        (HEAD + "agent: {token: a, tokenFile: /b}\n", "agent.tokenFile: and agent.token"),
        (HEAD + "stateDir: state\n", "stateDir: must be an absolute path"),
        (HEAD + "lease: {ttl: 1}\n", "lease.ttl: lease ttl 1 s is too short"),
        (HEAD + "lease: {ttl: 0}\n", "lease.ttl: must be seconds"),
        (HEAD + "lease: {ttl: .nan}\n", "lease.ttl: must be seconds"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_by_the_name_of_its_setting(text: str, message: str) -> None:
    found = problems(text)
    assert any(message in problem for problem in found), found


def test_good_files_have_no_problems() -> None:
    assert problems(HEAD) == []
    assert problems("role: worker\ncluster: prod\nheads: [h1]\n") == []
    assert problems(HEAD.replace("redis://10.0.0.5:6379", "rediss+sentinel://u:p@a,b:26380/main")) == []
    assert problems(HEAD + "lease: {ttl: 10}\n") == []


def test_warnings_name_what_does_not_do_what_its_writer_may_think() -> None:
    worker = config(
        "role: worker\ncluster: p\nheads: [h]\nredis: {address: r, password: x}\nlease: {ttl: 9}\n"
    )
    assert [text.partition(":")[0] for text in check.warnings(worker)] == ["redis", "lease.ttl"]
    assert "leave its password off the workers" in check.warnings(worker)[0]
    assert "memory" in check.warnings(config("role: head\ncluster: p\nheads: [h]\n"))[0]
    assert check.warnings(config(HEAD)) == ()


@pytest.mark.parametrize(("mode", "secret", "warned"), [
    (0o644, "password: hunter2", True), (0o640, "password: hunter2", False), (0o644, "username: u", False),
])  # fmt: skip
def test_a_password_that_every_user_can_read_is_warned_of(
    tmp_path: Path, mode: int, secret: str, warned: bool
) -> None:
    path = tmp_path / "rayward.yaml"
    path.write_text(HEAD.replace('6379"}', f'6379", {secret}}}'))
    path.chmod(mode)
    _, warnings = load(path)
    assert [f"chmod o-r {path}" in text and "redis.password" in text for text in warnings] == [True] * warned
    assert "hunter2" not in str(warnings)


def test_a_file_without_its_last_line_end_is_doubted(tmp_path: Path) -> None:
    path = tmp_path / "rayward.yaml"
    path.write_text(HEAD.rstrip())
    assert "is it whole?" in load(path)[1][0]


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(RaywardError, match=f"{tmp_path}/none.yaml: cannot be read: no such file"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RaywardError, match="is not UTF-8 text"):
        load(tmp_path / "bytes.yaml")


def written(folder: Path, text: str) -> Path:
    path = folder / "rayward.yaml"
    path.write_text(f"{text}stateDir: {folder}/state\n")
    path.chmod(0o600)
    return path


def test_a_whole_file_is_prepared_for_this_machine(tmp_path: Path) -> None:
    path = written(tmp_path, ONE_MACHINE + "agent: {tokenFile: " + str(tmp_path / "token") + "}\n")
    (tmp_path / "token").write_text("t0ken\n")
    found, told, warnings = machine.prepare(path)
    assert found.role == "head"
    assert told.settings["RAYWARD_AGENT_TOKEN"] == "t0ken"
    assert "--node-ip-address=127.0.0.1" in told.argv
    assert Path(told.argv[2]).name == "ray"
    assert any("other machines cannot reach it" in warning for warning in warnings)
    assert (tmp_path / "state").is_dir()


def certificate(folder: Path) -> tuple[Path, Path]:
    key, crt = folder / "key.pem", folder / "crt.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x",
         "-keyout", key, "-out", crt],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return key, crt


def test_certificates_that_can_be_used_are_accepted(tmp_path: Path) -> None:
    key, crt = certificate(tmp_path)
    machine.prepare(written(tmp_path, TLS.format(f"caFile: {crt}, certFile: {crt}, keyFile: {key}")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TLS.format("caFile: /nowhere/ca.pem"), "redis.caFile: /nowhere/ca.pem: no such file"),
        (TLS.format("caFile: {folder}/garbage"), "redis.caFile: {folder}/garbage holds no certificate"),
        (TLS.format("caFile: {folder}/empty"), "redis.caFile: {folder}/empty: is empty"),
        (TLS.format("certFile: {folder}/crt.pem, keyFile: {folder}/garbage"), "redis.certFile: "),
        (TLS.format("passwordFile: /nowhere/pw"), "redis.passwordFile: /nowhere/pw: no such file"),
        (ONE_MACHINE + "agent: {{tokenFile: {folder}/empty}}\n", "agent.tokenFile: {folder}/empty: is empty"),
        (ONE_MACHINE + "ray: {{nodeIpAddress: 192.0.2.77}}\n", "ray.nodeIpAddress: this machine has no"),
        (ONE_MACHINE.replace("127.0.0.1", "nobody.invalid"), "heads: no address of this machine"),
    ],
)  # fmt: skip
def test_files_and_addresses_that_are_not_there_are_named_with_their_setting(
    tmp_path: Path, text: str, message: str
) -> None:
    certificate(tmp_path)
    (tmp_path / "garbage").write_text("not a certificate")
    (tmp_path / "empty").write_text("")
    text = text.replace("{{", "{").replace("}}", "}").replace("{folder}", str(tmp_path))
    with pytest.raises(RaywardError) as caught:
        machine.prepare(written(tmp_path, text))
    assert message.replace("{folder}", str(tmp_path)) in str(caught.value)


def test_a_head_that_is_not_in_the_list_of_heads_is_refused(tmp_path: Path) -> None:
    # 192.0.2.0/24 is for documents: no machine has it, and a way to it is the way out.
    path = written(
        tmp_path, "role: head\ncluster: prod\nheads: [192.0.2.201]\nray: {nodeIpAddress: 127.0.0.1}\n"
    )
    with pytest.raises(RaywardError, match=r"heads: this head has the address 127\.0\.0\.1, and none of 192"):
        machine.prepare(path)


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(RaywardError, match="stateDir: "):
        machine.prepare(written(tmp_path, ONE_MACHINE))


def test_a_missing_ray_program_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(RaywardError, match="there is no `ray` program"):
        machine.find_ray({"PATH": str(tmp_path)})
    program = tmp_path / "bin" / "ray"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert machine.find_ray({"PATH": str(program.parent)}) == str(program)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_are_good(path: Path) -> None:
    found = parse(path.read_text(), str(path))
    assert check.problems(found) == []
    assert check.warnings(found) == ()
    assert path.name == f"rayward.{found.role}.yaml"
