"""The compose files: valid by the specification, and as careful as they say."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile import read_stages
from typer.testing import CliRunner

ROOT = Path(__file__).parents[2]
FILES = (
    "docker-compose.yml", "docker-compose.cpu.yml", "docker-compose.cdi.yml",
    "docker-compose.gpus.yml",
)  # fmt: skip
DIGEST = re.compile(r"^[\w./:-]+@sha256:[0-9a-f]{64}$")


class Loader(yaml.SafeLoader):
    """YAML with compose's tags, which take a setting of an earlier file away or replace it."""


Loader.add_constructor("!reset", lambda *_: None)
Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node, True))


def read(name: str) -> dict[str, Any]:
    return yaml.load((ROOT / name).read_text(), Loader)


def dockerfile() -> str:
    return (ROOT / "docker" / "Dockerfile").read_text()


SERVICES = read(FILES[0])["services"]


@pytest.mark.parametrize("name", FILES)
def test_files_keep_to_the_specification(name: str) -> None:
    """The schema is that of compose-spec, as `check-jsonschema` carries it."""
    check = pytest.importorskip("check_jsonschema", reason="the dev extra brings the schema")
    folder = Path(check.__file__).parent / "builtin_schemas" / "vendor"
    schema = json.loads((folder / "compose-spec.json").read_text())
    import jsonschema_rs

    validator = jsonschema_rs.validator_for(schema)
    assert [str(error) for error in validator.iter_errors(read(name))] == []
    broken = read(FILES[0])
    broken["services"]["api"]["read_only"] = ["yes"]
    assert not validator.is_valid(broken)  # the schema says something


@pytest.mark.parametrize("name", SERVICES)
def test_no_container_may_more_than_it_must(name: str) -> None:
    service = SERVICES[name]
    assert service["user"].split(":")[0] not in ("0", "root")
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "network_mode", "pid", "ipc", "cap_add"} & service.keys()
    assert not any("docker.sock" in str(volume) for volume in service["volumes"])
    assert name == "migrate" or service["healthcheck"]["test"][0] == "CMD"


def test_only_the_api_is_published_and_only_to_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": ["${DISTILLERY_BIND:-127.0.0.1}:${DISTILLERY_PORT:-8000}:8000"]}
    networks = read(FILES[0])["networks"]
    assert networks["database"] == {"internal": True}
    assert SERVICES["postgres"]["networks"] == ["database"]


def test_tables_are_made_once_before_anything_needs_them() -> None:
    assert SERVICES["migrate"]["command"] == ["distillery", "migrate"]
    assert SERVICES["migrate"]["restart"] == "no"
    assert SERVICES["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    for name in ("api", "worker"):
        after = SERVICES[name]["depends_on"]
        assert after == {"migrate": {"condition": "service_completed_successfully"}}
        assert "--no-migrate" in SERVICES[name]["command"]


def test_only_the_worker_has_a_gpu_and_the_overlays_take_it_away() -> None:
    devices = SERVICES["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    for name in FILES[1:3]:
        worker = read(name)["services"]["worker"]
        assert list(read(name)["services"]) == ["worker"] and worker["deploy"] is None
        assert "deploy: !reset null" in (ROOT / name).read_text()
    assert read(FILES[1])["services"]["worker"]["command"][-2:] == ["--device", "cpu"]
    assert read(FILES[2])["services"]["worker"]["devices"] == ["nvidia.com/gpu=0"]


def test_each_of_several_workers_has_a_gpu_of_its_own() -> None:
    """`count: 1` is the first GPU in every container: replicas would share it."""
    workers = read(FILES[3])["services"]
    assert len(workers) == 2 and workers["worker-1"].pop("extends") == {
        "file": FILES[0], "service": "worker"
    }  # fmt: skip
    for number, name in enumerate(["worker", "worker-1"]):
        devices = workers[name]["deploy"]["resources"]["reservations"]["devices"]
        assert devices == [
            {"driver": "nvidia", "device_ids": [str(number)], "capabilities": ["gpu"]}
        ]
        assert list(workers[name]) == ["deploy"]
    assert (ROOT / FILES[3]).read_text().count("devices: !override") == 2  # else lists are joined
    for name in ("README.md", *FILES):
        assert not re.search(r"--scale worker|gpu=all", (ROOT / name).read_text()), name


def commands() -> list[list[str]]:
    found = [
        service.get("command") for name in FILES for service in read(name)["services"].values()
    ]
    found += [service.get("healthcheck", {}).get("test", [])[1:] for service in SERVICES.values()]
    found += [json.loads(text) for text in re.findall(r"^CMD (.*)$", dockerfile(), re.M)]
    return [command for command in found if command and command[0] == "distillery"]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_commands_are_verbs_with_options_that_exist(command: list[str]) -> None:
    from app.cli.main import build_app

    result = CliRunner().invoke(build_app(), [*command[1:], "--help"])
    assert result.exit_code == 0, result.output
    assert CliRunner().invoke(build_app(), [*command[1:], "--no-such", "--help"]).exit_code == 2


def test_a_password_is_not_pasted_into_an_address() -> None:
    environment = SERVICES["api"]["environment"]
    assert environment["DISTILLERY_DATABASE_PASSWORD"] == "${POSTGRES_PASSWORD:-distillery}"
    assert "PASSWORD" not in environment["DISTILLERY_DATABASE_URL"]


def test_variables_are_those_that_the_settings_read() -> None:
    settings = (ROOT / "app" / "settings.py").read_text()
    environment = set(SERVICES["api"]["environment"]) | set(
        re.findall(r"^\s+(DISTILLERY_\w+)=", dockerfile(), re.M)
    )
    assert len(environment) >= 6
    for name in environment:
        assert f'"{name}"' in settings, name


def test_bases_are_pinned_by_digest() -> None:
    arguments, stages = read_stages(dockerfile())
    outside = {stage.base for stage in stages} - {stage.name for stage in stages}
    assert outside == {"${PYTHON}"} and DIGEST.match(arguments["PYTHON"])
    assert DIGEST.match(SERVICES["postgres"]["image"])
    assert "syntax=" not in dockerfile()  # that would be one more image, of whatever version


def test_printed_links_have_the_port_that_is_published() -> None:
    url = SERVICES["api"]["environment"]["DISTILLERY_PUBLIC_URL"]
    assert url == "${DISTILLERY_PUBLIC_URL:-http://localhost:${DISTILLERY_PORT:-8000}}"


def test_both_images_run_without_root_and_the_api_image_copies_no_torch() -> None:
    stages = {stage.name: stage for stage in read_stages(dockerfile())[1]}
    for name in ("api", "worker"):
        words = [word for word, _ in stages[name].steps]
        assert ("USER", "10001:0") in stages[name].steps and words[-1] == "CMD"
        assert SERVICES[name]["build"]["target"] == name
        assert SERVICES[name]["user"] == "10001:0"
    installs = " ".join(rest for word, rest in stages["api-build"].steps if word == "RUN")
    assert "torch" not in installs and "local" not in installs
    assert ("COPY", "--from=api-build /opt/distillery /opt/distillery") in stages["api"].steps


def test_what_is_copied_is_sent_to_the_builder_and_holds_every_package() -> None:
    import tomllib

    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = {
        path
        for stage in read_stages(dockerfile())[1]
        for word, rest in stage.steps
        if word == "COPY" and "--from" not in rest
        for path in rest.split()[:-1]
    }
    assert copied == kept and all((ROOT / path).exists() for path in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert {name.split(".")[0] for name in packages["packages"]} <= copied
