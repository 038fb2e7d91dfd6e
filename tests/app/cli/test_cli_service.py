"""jobs, download, keys: what they send, what they print where, and their exit codes."""

import base64
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from service_double import Answer, Asked, ServiceDouble, problem, reply

from app.cli import remote
from app.cli.jobs import job_body
from app.settings import read_settings
from distillery.client import jobs as client_jobs
from distillery.client import transport
from distillery.errors import ConfigError

Command = Callable[..., tuple[int, str, str]]
JOB: dict[str, Any] = {
    "id": "job_1", "status": "running", "phase": "finetune", "dataset": "digits",
    "images_per_class": 10, "created_at": "2026-01-05T10:00:00.000Z", "name": "evil \x1b[31m",
    "progress": {"value": 0.42, "message": "step 3", "eta_seconds": 90}, "error": None,
    "queue_position": None, "urls": {"page": "/ui/jobs/job_1"},
}  # fmt: skip


def job(**fields: Any) -> Answer:
    return reply(JOB | fields)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceDouble]:
    double = ServiceDouble()
    monkeypatch.setenv("DISTILLERY_URL", double.url)
    monkeypatch.setenv("DISTILLERY_API_KEY", "dst_key")
    monkeypatch.setattr(transport, "FIRST_DELAY_S", 0.0)
    yield double
    double.close()


def test_a_job_is_created_with_the_options_of_run(
    distillery: Command, service: ServiceDouble
) -> None:
    service.script = [job(status="queued")]
    code, out, err = distillery(
        "jobs", "create", "digits", "--ipc", "1", "--no-refine", "--download", "--set",
        "data.split_seed=3", "--name", "mine", "--priority", "2", "--accept-licence",
    )  # fmt: skip
    assert (code, out) == (0, "job_1\n") and "/ui/jobs/job_1" in err
    assert json.loads(service.asked[0].body) == {
        "dataset": "digits", "ipc": 1, "refine": {"enabled": False}, "name": "mine",
        "base": {"allow_download": True}, "data": {"split_seed": 3}, "priority": 2,
        "acknowledge_licence": True,
    }  # fmt: skip
    assert service.asked[0].headers["authorization"] == "Bearer dst_key"


def test_the_body_of_a_bare_request_is_the_smallest_one() -> None:
    assert job_body({}) == {"dataset": "digits"}


def test_ps_shows_what_waits_or_runs(distillery: Command, service: ServiceDouble) -> None:
    def page(asked: Asked) -> Answer:
        is_running = "status=running" in asked.path
        return reply({"data": [JOB] if is_running else [], "has_more": False, "next": None})

    service.handler = page
    code, out, err = distillery("jobs", "ps")
    assert code == 0 and not err
    assert "job_1" in out and "42 %" in out and "finetune" in out and "\x1b" not in out
    states = [asked.path.split("status=")[1] for asked in service.asked]
    assert states == ["queued", "running", "canceling"]
    assert distillery("jobs", "ps", "-q")[1] == "job_1\n"
    assert json.loads(distillery("jobs", "ps", "--status", "running", "--json")[1]) == [JOB]
    distillery("jobs", "ps", "--all", "--dataset", "digits")
    assert "status" not in service.asked[-1].path and "dataset=digits" in service.asked[-1].path


def test_inspect_is_json(distillery: Command, service: ServiceDouble) -> None:
    service.handler = lambda _: job()
    assert json.loads(distillery("jobs", "inspect", "job_1")[1]) == JOB
    assert len(json.loads(distillery("jobs", "inspect", "job_1", "job_2")[1])) == 2


def test_logs_come_without_what_steers_a_terminal(
    distillery: Command, service: ServiceDouble
) -> None:
    service.script = [Answer(200, b"one\n\x1b[2Jtwo\n", {"Content-Type": "text/plain"})]
    assert distillery("jobs", "logs", "--tail", "2", "job_1")[1] == "one\n�[2Jtwo\n"
    assert service.asked[0].path == "/jobs/job_1/logs?tail=2"
    assert distillery("jobs", "logs", "-f", "--tail", "2", "job_1")[0] == 2


def test_followed_logs_end_with_the_job(distillery: Command, service: ServiceDouble) -> None:
    rows = [
        ("snapshot", {}), ("log", {"level": "warn", "message": "odd"}), ("progress", {}),
        ("stage", {"name": "base", "status": "succeeded", "seconds": 3, "summary": "fine"}),
        ("status", {"status": "failed"}), ("done", {}),
    ]  # fmt: skip
    frames = [
        f"id: {n}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
        for n, (kind, data) in enumerate(rows, 1)
    ]
    service.script = [Answer(200, "".join(frames).encode(), {"Content-Type": "text/event-stream"})]
    assert distillery("jobs", "logs", "-f", "job_1")[1].splitlines() == [
        "warn: odd", "base: succeeded after 3.0 s; fine", "status: failed",
    ]  # fmt: skip


@pytest.mark.parametrize(("status", "code"), [("succeeded", 0), ("failed", 1), ("canceled", 1)])
def test_wait_is_well_only_if_all_are(
    distillery: Command, service: ServiceDouble, status: str, code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(client_jobs, "SHORT_POLL_S", 0)
    held = job()
    held.headers["Preference-Applied"] = "wait=3"
    error = {"message": "out of luck", "hint": "try again"}
    service.script = [held, job(status=status, error=error), job(id="job_2", status="succeeded")]
    got, out, err = distillery("jobs", "wait", "job_1", "job_2", "--timeout", "1h")
    assert got == code and out == f"job_1 {status}\njob_2 succeeded\n"
    assert "job_1: running, finetune, 42 % of the job, step 3, about 1 min 30 s left" in err
    assert ("out of luck; try again" in err) == (status == "failed")


def test_wait_gives_up_when_the_time_is_up(distillery: Command, service: ServiceDouble) -> None:
    service.handler = lambda _: job(status="queued", queue_position=3)
    code, out, err = distillery("jobs", "wait", "job_1", "--timeout", "0s")
    assert (code, out) == (6, "") and "still queued" in err and "place 3 in the queue" in err
    assert "wait again" in distillery("jobs", "wait", "-q", "job_1", "--timeout", "0")[2]


def test_ctrl_c_leaves_the_job_alone(
    distillery: Command, service: ServiceDouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(client_jobs.Jobs, "wait", interrupted)
    code, out, err = distillery("jobs", "wait", "job_1")
    assert (code, out) == (130, "") and "the job goes on" in err and not service.asked


def test_cancel_retry_and_rm(distillery: Command, service: ServiceDouble) -> None:
    def answer(asked: Asked) -> Answer:
        return Answer(204) if asked.method == "DELETE" else job(status="canceled")

    service.handler = answer
    assert distillery("jobs", "cancel", "--wait", "job_1") == (0, "job_1 canceled\n", "")
    assert distillery("jobs", "retry", "a", "b")[1] == "job_1 canceled\njob_1 canceled\n"
    assert distillery("jobs", "rm", "-f", "job_1") == (0, "job_1\n", "")
    assert [f"{asked.method} {asked.path}" for asked in service.asked] == [
        "POST /jobs/job_1/cancel", "GET /jobs/job_1", "POST /jobs/a/retry", "POST /jobs/b/retry",
        "POST /jobs/job_1/cancel", "GET /jobs/job_1", "DELETE /jobs/job_1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (problem(401, "unauthorized", "no key"), 3),
        (problem(403, "forbidden", "not yours"), 3),
        (problem(404, "not_found", "no such job"), 4),
        (problem(409, "job_not_terminal", "it runs"), 2),
        (problem(422, "validation_failed", "wrong"), 2),
        (problem(429, "queue_full", "full", title="x"), 5),
        (problem(507, "storage_full", "full"), 5),
    ],
)
def test_exit_codes_tell_refusals_apart(
    distillery: Command, service: ServiceDouble, answer: Answer, code: int
) -> None:
    service.handler = lambda _: answer
    got, out, err = distillery("jobs", "cancel", "job_1")
    assert got == code and not out and err.startswith("error: ") and err.count("\n") == 1


def test_nobody_there_is_5(distillery: Command, service: ServiceDouble) -> None:
    service.close()
    code, _, err = distillery("jobs", "ps")
    assert code == 5 and "no service answers" in err and "distillery serve" in err


@pytest.mark.parametrize("text", ["", "soon", "2 weeks", "-1h", "1h30"])
def test_durations_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="90s, 30m or 2h"):
        remote.seconds_of(text)


def test_durations() -> None:
    texts = ("90", "90s", "1.5m", "2h", "1d", "3min")
    assert [remote.seconds_of(text) for text in texts] == [90, 90, 90, 7200, 86400, 180]


def file_answers(files: dict[str, bytes], **fields: Any) -> Callable[[Asked], Answer]:
    def answer(asked: Asked) -> Answer:
        if asked.path == "/jobs/job_1":
            return job(**({"status": "succeeded"} | fields))
        if asked.path == "/jobs/job_1/files":
            data = [{"path": name, "size_bytes": len(text)} for name, text in files.items()]
            return reply({"data": data})
        name = asked.path.removeprefix("/jobs/job_1/").removeprefix("files/")
        content = files["distilled.safetensors" if name == "bundle" else name]
        digest = hashlib.sha256(content).digest()
        promised = f"sha-256=:{base64.b64encode(digest).decode()}:"
        return Answer(200, content, {"ETag": f'"{digest.hex()}"', "Repr-Digest": promised})

    return answer


def test_download_brings_a_verified_bundle(
    distillery: Command, service: ServiceDouble, write_bundle: Callable[[Path], Path],
    tmp_path: Path,
) -> None:  # fmt: skip
    bundle = write_bundle(tmp_path / "bundle")
    from distillery.bundle.folder import verify_folder

    named = {path: path.relative_to(bundle) for path in bundle.rglob("*") if path.is_file()}
    files = {str(name): path.read_bytes() for path, name in named.items()}
    service.handler = file_answers(files | {"job.log": b"log", "previews/a.png": b"png"})
    code, out, err = distillery("download", "job_1", "out")
    assert (code, out) == (0, "out/distilled.safetensors\n") and "verified" in err
    assert [path.name for path in Path("out").iterdir()] == ["distilled.safetensors"]
    told = json.loads(distillery("download", "job_1", "--json")[1])
    assert told["path"] == "job_1/distilled.safetensors" and len(told["content_digest"]) == 64
    distillery("download", "job_1", "whole", "--all")
    names = {str(path.relative_to("whole")) for path in Path("whole").rglob("*") if path.is_file()}
    assert names == {str(name) for name in named.values()}
    assert verify_folder(Path("whole")) == verify_folder(bundle)


def test_download_of_a_job_without_a_bundle(distillery: Command, service: ServiceDouble) -> None:
    service.script = [job(status="failed", error={"message": "m", "hint": "h"}), job()]
    code, out, err = distillery("download", "job_1")
    assert (code, out) == (1, "") and "it failed: m; h" in err
    code, _, err = distillery("download", "job_1")
    assert code == 1 and "it is running: wait for it" in err


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/../../x", "a\\..\\b", "."])
def test_download_takes_no_names_that_lead_elsewhere(
    distillery: Command, service: ServiceDouble, name: str
) -> None:
    service.handler = file_answers({name: b"x"})
    code, _, err = distillery("download", "job_1", "out", "--all")
    assert code == 5 and "no name of a file" in err and not Path("out").exists()


def test_the_service_of_this_machine_is_found(
    distillery: Command, service: ServiceDouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DISTILLERY_URL")
    monkeypatch.delenv("DISTILLERY_API_KEY")
    monkeypatch.setenv("DISTILLERY_DATA", str(tmp_path))
    settings = read_settings()
    assert remote.connect(settings).url == "http://127.0.0.1:8000"
    os.umask(os.umask(0o022))
    remote.write_local_service(tmp_path, service.url, "dst_local")
    mode = stat.S_IMODE((tmp_path / remote.CLIENT_FILE).stat().st_mode)
    assert mode == 0o600
    service.script = [job()]
    assert distillery("jobs", "inspect", "job_1")[0] == 0
    assert service.asked[0].headers["authorization"] == "Bearer dst_local"
    monkeypatch.setenv("DISTILLERY_URL", service.url)  # another place: its key is asked for there
    service.script = [job()]
    distillery("jobs", "inspect", "job_1")
    assert "authorization" not in service.asked[1].headers


def test_keys_are_shown_once(
    distillery: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLERY_DATA", str(tmp_path / "data"))
    code, secret, err = distillery("keys", "create", "laptop")
    assert code == 0 and secret.startswith("dst_") and "not shown again" in err
    rows = json.loads(distillery("keys", "ls", "--json")[1])
    assert [row["name"] for row in rows] == ["laptop"] and secret.strip() not in str(rows)
    assert distillery("keys", "revoke", rows[0]["id"]) == (0, f"{rows[0]['id']}\n", "")
    assert distillery("keys", "revoke", rows[0]["id"])[0] == 4
    assert "revoked" in distillery("keys", "ls")[1]
    assert distillery("keys", "create", "two\nlines")[0] == 2
    stored = (tmp_path / "data" / "queue.sqlite").read_bytes()
    assert secret.strip().encode() not in stored
    assert distillery("migrate") == (0, "", "The tables are up to date.\n")
    code, link, _ = distillery("keys", "link", "--url", "http://host:1/")
    assert code == 0 and link.startswith("http://host:1/login?token=")
    assert distillery("healthcheck", "worker")[0] == 5


def test_compare_tells_settings_and_figures(distillery: Command, service: ServiceDouble) -> None:
    def answer(asked: Asked) -> Answer:
        number = 1 if "job_1" in asked.path else 2
        if asked.path.endswith("/report"):
            assert asked.headers["accept"] == "application/json"
            figure = {"mean": 0.8 + number / 10, "std": 0.01, "runs": [0.9, 0.9]}
            row = {"name": "ours", "is_ours": True, "accuracy": figure, "cluster_min": figure}
            return reply({"results": {"hard": [row]}})
        config = {"base": {"steps": number, "note": "evil \x1b[31m"}}
        urls = {"report": f"/jobs/job_{number}/report"}
        return job(id=f"job_{number}", status="succeeded", config=config, urls=urls)

    service.handler = answer
    code, out, _ = distillery("jobs", "compare", "job_1", "job_2")
    assert code == 0 and "\x1b[31m" not in out
    assert "accuracy, hard labels" in out and "+10.0" in out and "90.0 ± 1.0" in out
    assert "base.steps" in out and "base.note" not in out
    code, out, _ = distillery("jobs", "compare", "job_1", "job_2", "--json")
    told = json.loads(out)
    assert told["jobs"] == ["job_1", "job_2"] and told["notes"] == []
    assert told["config"] == [{"key": "base.steps", "a": 1, "b": 2}]
    assert told["report"][0]["difference"] == pytest.approx(0.1)


def test_compare_needs_no_results(distillery: Command, service: ServiceDouble) -> None:
    service.handler = lambda _: job(status="queued", config=None)
    code, out, _ = distillery("jobs", "compare", "job_1", "job_2")
    assert code == 0 and "No setting differs" in out and "no report" in out
    service.handler = lambda _: problem(404, "not_found", "there is no job")
    assert distillery("jobs", "compare", "job_1", "job_3")[0] == 4
