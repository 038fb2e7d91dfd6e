"""A base that forbids commercial use is not used until the job's sender says that they know."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.worker import perform
from app.worker.codes import CODES, LicenceNotAccepted, code_of
from app.worker.tasks import PLAN, StageTask
from distillery.models.config import forbids_commercial_use
from distillery.progress import ignore_progress
from generator.pipeline import JOB_FILE
from generator.plan import make_plan

PUBLISHED = "facebook/DiT-XL-2-256"
REQUEST = {"preset": "smoke", "num_threads": 1, "base": {"reference": "pixel"}}


@pytest.fixture
def plans_a_limited_base(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every plan come out with a licence that forbids commercial use."""

    def planned(request: Any, **options: Any) -> Any:
        return replace(make_plan(request, **options), licence="cc-by-nc-4.0")

    monkeypatch.setattr(perform, "make_plan", planned)


def plan(folder: Path, **request: Any) -> dict[str, Any]:
    task = StageTask(
        job_id="job_1", folder=folder / "job", cache=folder / "cache", stage=PLAN,
        request=REQUEST | request,
    )  # fmt: skip
    task.folder.mkdir(exist_ok=True)
    return perform.perform(task, ignore_progress, lambda _: None, lambda _: None)


@pytest.mark.usefixtures("plans_a_limited_base")
def test_a_plan_with_such_a_base_fails_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(LicenceNotAccepted, match="cc-by-nc-4.0, forbids commercial use") as found:
        plan(tmp_path)
    assert code_of(found.value) == "license_not_accepted"
    entry = CODES["license_not_accepted"]
    assert "acknowledge_licence true" in entry.hint and not entry.is_retryable
    assert not (tmp_path / "job" / JOB_FILE).exists()


@pytest.mark.usefixtures("plans_a_limited_base")
def test_whoever_knows_the_licence_gets_the_job(tmp_path: Path) -> None:
    facts = plan(tmp_path, acknowledge_licence=True)
    assert facts["config"]["base"]["reference"] == "pixel"
    assert plan(tmp_path, acknowledge_licence=True)["config"] == facts["config"]  # taken up again


@pytest.mark.parametrize(
    ("reference", "licence", "is_limited"),
    [(PUBLISHED, None, True), ("o/m", "cc-by-nc-4.0", True), ("o/m", "CC-BY-NC-SA", True),
     ("o/m", "Non-Commercial research", True), ("o/m", "apache-2.0", False),
     ("o/m", "ncsa", False), ("pixel", None, False)],
)  # fmt: skip
def test_licences_are_judged_by_their_names(
    reference: str, licence: str | None, is_limited: bool
) -> None:
    assert forbids_commercial_use(reference, licence) is is_limited
