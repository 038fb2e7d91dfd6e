"""Form, commands, curves, charts and pictures: what the templates are handed."""

import io
import json
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from page_helpers import make_dataset, make_report
from PIL import Image

from app.page import commands, curves, pictures
from app.page.form import FIELDS, form_of, values_of_job, values_of_query
from app.page.result_view import result_view
from distillery.bundle.write import write_bundle


def test_a_job_fills_the_form_that_asks_for_it_again() -> None:
    request = {
        "data": {"dataset": "owner/pets", "revision": "abc", "allow_download": True},
        "images_per_class": 20, "preset": "smoke", "seed": 3,
        "finetune": {"preset": "reference", "enabled": False}, "refine": {"num_steps": 40},
    }  # fmt: skip
    form = form_of(values_of_job(request, "mine"), ["digits"])
    assert (form.dataset, form.is_other, form.ipc) == ("owner/pets@abc", True, 20)
    assert (form.preset, form.name, form.has_more) == ("smoke", "mine", True)
    values = {field.path: field.value for field in form.fields if field.value}
    assert values == {"seed": "3", "finetune.preset": "reference", "finetune.enabled": "false"}
    assert form.others == "refine.num_steps=40"


def test_an_address_fills_the_form() -> None:
    query = [("dataset", "digits"), ("ipc", "5"), ("set", "refine.num_steps=9"), ("set", "x"),
             ("from", "job_1"), ("seed", "")]  # fmt: skip
    form = form_of(values_of_query(query), ["digits"])
    assert (form.ipc, form.is_other, form.others) == (5, False, "refine.num_steps=9")


@pytest.mark.parametrize("ipc", ["ten", "-3", "1e9", "１２", None])
def test_numbers_that_are_none_become_the_default(ipc: Any) -> None:
    assert form_of({"ipc": ipc}, ["digits"]).ipc == 10


def test_commands_cannot_be_broken_out_of() -> None:
    name = "a'; rm -rf ~ #\" $(id)"
    texts = commands.same_texts("http://h", {"dataset": name, "ipc": 10}, is_auth_on=True)
    words = shlex.split(texts["curl"].replace("\\\n", ""))
    assert json.loads(words[words.index("--json") + 1]) == {"dataset": name, "ipc": 10}
    assert shlex.split(texts["cli"]) == ["distillery", "run", f"path/to/{name}", "--ipc", "10"]
    compile(texts["python"], "python", "exec")


@pytest.mark.parametrize(
    ("name", "word"),
    [("digits", "digits"), ("owner/name@main", "owner/name@main"), ("pets", "path/to/pets")],
)
def test_the_command_line_gets_a_path_for_what_only_the_service_knows(name: str, word: str) -> None:
    body = {"dataset": name, "ipc": 10}
    expected = ["distillery", "run", word, "--ipc", "10"]
    assert shlex.split(commands.same_texts("http://h", body, is_auth_on=True)["cli"]) == expected
    node = shutil.which("node") or pytest.skip("needs node for the script's own words")
    source = Path(commands.__file__).parent / "static" / "commands.js"
    script = (
        f"import(process.argv[1]).then(m => console.log(m.commandsOf({json.dumps(body)}, 'h')[2]))"
    )
    module = f"data:text/javascript,{quote(source.read_text())}"
    done = subprocess.run([node, "-e", script, module], capture_output=True, text=True, check=True)
    assert shlex.split(done.stdout) == expected


def test_the_form_offers_only_what_the_api_takes() -> None:
    base = next(field for field in FIELDS if field.path == "base.reference")
    assert "folder" not in base.help


def test_the_printed_request_asks_for_the_key_only_where_it_is_needed() -> None:
    assert "Authorization" in commands.curl_text("http://h", {}, is_auth_on=True)
    assert "Authorization" not in commands.curl_text("http://h", {}, is_auth_on=False)


def metrics(values: list[float], name: str = "loss") -> list[dict[str, Any]]:
    return [{"phase": "base", "step": i, "values": {name: v}} for i, v in enumerate(values)]


def test_each_class_group_has_its_own_curve() -> None:
    told = [
        {"phase": "finetune", "step": step, "values": {"loss": 1.0 + group}, "group": group}
        for step in range(3)
        for group in (0, 1)
    ]
    drawn = curves.draw(told + metrics([3.0, 2.0]))
    assert [(c.phase, c.group, c.value) for c in drawn] == [
        ("finetune", 0, "1"), ("finetune", 1, "2"), ("base", None, "2")
    ]  # fmt: skip
    assert all((c.first, c.last) == ("0", "2") for c in drawn[:2])


def test_curves_stay_inside_their_drawing() -> None:
    (curve,) = curves.draw(metrics([3.0, 1.0, 2.0, 1e-9]))
    points = [tuple(map(float, point.split(","))) for point in curve.path.split()]
    assert points[0][0] == curves.LEFT
    assert points[-1][0] == curves.WIDTH - curves.RIGHT
    heights = [y for _, y in points]
    assert min(heights) == curves.TOP
    assert max(heights) == curves.HEIGHT - curves.BOTTOM
    assert (curve.first, curve.last, curve.value) == ("0", "3", "1e-09")


def test_a_flat_curve_is_a_line_and_one_of_zeros_is_none() -> None:
    (curve,) = curves.draw(metrics([2.0, 2.0]))
    assert len({point.split(",")[1] for point in curve.path.split()}) == 1
    assert curves.draw(metrics([0.0, 0.0, 0.0])) == []
    assert curves.draw(metrics([1.0])) == []


def test_a_long_curve_keeps_its_spike() -> None:
    values = [1.0] * 5000
    values[1234] = 99.0
    (curve,) = curves.draw(metrics(values))
    assert len(curve.path.split()) <= curves.MAX_POINTS
    assert any(float(point.split(",")[1]) == curves.TOP for point in curve.path.split())


def test_charts_put_ours_first_and_stay_on_the_axis() -> None:
    view = result_view(make_report())
    chart = view["hard"]
    assert chart.rows[0].is_ours
    assert chart.rows[1].label.startswith("herding")
    assert chart.rows[-1].label.startswith("full_data")
    assert chart.columns == ("worst group", "noise")
    for row in (*chart.rows, *view["groups"].rows, *view["classes"].rows):
        places = [row.at, row.low, row.high, row.reference, *row.runs]
        assert all(0 <= place <= 100 for place in places if place is not None)
    assert len({round(row.at, 1) for row in chart.rows}) == len(chart.rows)


def test_hard_and_soft_labels_are_never_in_one_chart() -> None:
    view = result_view(make_report())
    assert [len(view[kind].rows) for kind in ("hard", "soft")] == [4, 1]


def test_groups_without_a_figure_come_last_and_say_so() -> None:
    last = result_view(make_report())["groups"].rows[-1]
    assert (last.at, last.text) == (None, "not enough data")


def test_a_job_without_evaluation_claims_nothing() -> None:
    view = result_view({"dataset": {}, "results": {"hard": [], "soft": []}})
    assert (view["head"], view["hard"], view["groups"]) == (None, None, None)


def test_pictures_are_the_pixels_of_the_bundle(tmp_path: Path) -> None:
    dataset = make_dataset()
    write_bundle(tmp_path / "distilled.safetensors", dataset)
    bundle = pictures.open_bundle(tmp_path)
    assert bundle is not None
    picture = np.asarray(Image.open(io.BytesIO(pictures.image_png(bundle, 5))))
    assert np.array_equal(picture, dataset.images[5].transpose(1, 2, 0))
    strip = Image.open(io.BytesIO(pictures.strip_png(bundle)))
    assert strip.size == (3 * 48 + 2 * 8, 48)
    assert dict(pictures.image_facts(bundle, 0))["stands for"] == "no cluster"
    assert dict(pictures.image_facts(bundle, 1))["teacher sees"].startswith("10 (58 %)")


@pytest.mark.parametrize("index", [-1, 12])
def test_images_that_are_not_there(tmp_path: Path, index: int) -> None:
    write_bundle(tmp_path / "distilled.safetensors", make_dataset())
    bundle = pictures.open_bundle(tmp_path)
    assert bundle is not None
    with pytest.raises(IndexError, match="0 to 11"):
        pictures.image_png(bundle, index)


def test_large_images_are_reduced(tmp_path: Path) -> None:
    dataset = make_dataset(("a", "b"), 1)
    large = np.repeat(np.repeat(dataset.images, 64, axis=2), 64, axis=3)
    fields = {name: getattr(dataset, name) for name in dataset.__slots__ if name != "images"}
    write_bundle(tmp_path / "distilled.safetensors", type(dataset)(images=large, **fields))
    bundle = pictures.open_bundle(tmp_path)
    assert bundle is not None
    assert Image.open(io.BytesIO(pictures.image_png(bundle, 0))).size == (256, 256)
