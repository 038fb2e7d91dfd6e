import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from app.api.problems import TITLES
from app.api.reference import END, START, reference
from app.settings import read_settings
from tests.app.api.conftest import Place

PAGE = (Path(__file__).parents[3] / "docs" / "api.md").read_text()


def test_the_reference_is_of_this_version(place: Place) -> None:
    document = place.client.get("/openapi.json").json()
    written = PAGE[PAGE.index(START) : PAGE.index(END) + len(END)]
    assert written == reference(document), "run python -m app.api.reference docs/api.md"


def test_the_document_is_openapi_31_with_every_refusal(place: Place) -> None:
    document = place.client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = set(operation["responses"])
            assert {"400", "401", "403", "429", "500", "503"} <= statuses, (method, path)
            assert "HTTPValidationError" not in json.dumps(operation), (method, path)
            for status, response in operation["responses"].items():
                if status >= "400":
                    assert list(response["content"]) == ["application/problem+json"]
    body = document["components"]["schemas"]["JobBody"]
    assert body["additionalProperties"] is False and "required" not in body


def test_every_code_and_setting_is_told() -> None:
    for code in TITLES:
        assert f"`{code}`" in PAGE
    for name in set(re.findall(r"DISTILLERY_[A-Z_]+", PAGE)):
        source = Path(read_settings.__code__.co_filename).read_text()
        assert name in source, name


def test_docs_page_uses_nothing_from_elsewhere(place: Place) -> None:
    answer = place.client.get("/docs")
    assert "POST /jobs" in answer.text
    assert "http://" not in answer.text and "https://" not in answer.text
    assert "<script" not in answer.text
    assert 'rel="icon" href="/static/mark.svg"' in answer.text


@pytest.mark.parametrize("line", [each for each in PAGE.splitlines() if each.startswith("curl ")])
def test_curl_takes_the_options_of_the_examples(tmp_path: Path, line: str) -> None:
    """Nobody listens there: exit code 7. Options that do not go together would be 2."""
    curl = shutil.which("curl") or pytest.skip("needs curl")
    address = line.replace("$U", "http://127.0.0.1:1").replace("$(uuidgen)", "x")
    words = [
        curl,
        "-s",
        *shlex.split(address.replace("$JOB", "job_x").replace("$KEY", "dst_x"))[1:],
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 7, (done.returncode, done.stderr)
