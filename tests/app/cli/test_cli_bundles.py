"""verify, show and export work on files alone, and survive what is in them."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from app.cli.show import grid_lines, small

Command = Callable[..., tuple[int, str, str]]
Write = Callable[[Path], Path]


@pytest.fixture
def bundle(write_bundle: Write, tmp_path: Path) -> Path:
    folder = write_bundle(tmp_path / "bundle")
    (folder / "report.json").unlink()  # it was added after the checksums
    return folder


def test_a_whole_bundle_is_ok(distillery: Command, bundle: Path) -> None:
    code, out, err = distillery("verify", bundle)
    assert code == 0 and out.startswith("ok: ") and "content digest" in out and not err
    code, out, _ = distillery("verify", bundle / "distilled.safetensors", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["ok"] and facts["images"] == 6 and facts["findings"] == []


def test_a_changed_bundle_is_named_file_by_file(distillery: Command, bundle: Path) -> None:
    (bundle / "preview.png").write_bytes(b"other")
    (bundle / "report.html").unlink()
    code, out, err = distillery("verify", bundle)
    assert code == 2 and not out
    assert "preview.png was changed" in err and "report.html is missing" in err
    assert err.splitlines()[-1].startswith("error: ") and "2 finding(s)" in err
    code, out, _ = distillery("verify", bundle, "--json")
    assert code == 2 and not json.loads(out)["ok"] and len(json.loads(out)["findings"]) == 2


@pytest.mark.parametrize("verb", ["verify", "show"])
def test_what_is_no_bundle_is_refused_in_one_sentence(
    distillery: Command, tmp_path: Path, verb: str
) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path / "notes.txt", tmp_path / "absent", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        code, out, err = distillery(verb, path)
        assert code == 2 and not out
        assert err.splitlines()[-1].startswith("error: ") and "Traceback" not in err


def test_a_broken_file_is_a_finding_of_the_json_too(
    distillery: Command, bundle: Path, tmp_path: Path
) -> None:
    file = bundle / "distilled.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    for path in (file, tmp_path / "absent"):
        code, out, err = distillery("verify", path, "--json")
        facts = json.loads(out)
        assert (code, facts["event"], facts["ok"], facts["path"]) == (2, "verify", False, str(path))
        assert err == f"error: {facts['findings'][0]}\n" and len(facts["findings"]) == 1


def test_the_folder_of_a_job_stands_for_its_bundle(
    distillery: Command, write_bundle: Write, tmp_path: Path
) -> None:
    (write_bundle(tmp_path / "job" / "bundle") / "report.json").unlink()
    code, out, _ = distillery("verify", tmp_path / "job")
    assert code == 0 and out.startswith(f"ok: {tmp_path / 'job' / 'bundle'}\n")
    assert "6: 3 classes x 2" in distillery("show", tmp_path / "job")[1]
    export = ("export", tmp_path / "job", "--to", "imagefolder", tmp_path / "png")
    assert "6 images" in distillery(*export)[1]


def test_show_prints_classes_and_no_control_characters(distillery: Command, bundle: Path) -> None:
    code, out, _ = distillery("show", bundle)
    assert code == 0
    assert "6: 3 classes x 2, 7 x 7 gray" in out and "金魚" in out and "margin" in out
    assert "photos" in out
    assert "\x1b" not in out and "evil �[31mname" in out
    code, out, _ = distillery("show", bundle, "--classes", "1")
    assert "2 more classes" in out and "金魚" not in out


def test_show_as_json_has_everything(distillery: Command, bundle: Path) -> None:
    code, out, _ = distillery("show", bundle, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["shape"] == [1, 7, 7] and facts["images_per_class"] == 2
    assert facts["metadata"]["source_dataset"] == "photos" and not facts["soft_labels"]


def test_two_pixels_a_character() -> None:
    image = np.zeros((1, 3, 3), np.uint8)
    image[0, 0, 0], image[0, 1, 0] = 255, 128
    lines = grid_lines([small(image, 3), small(image, 3)])
    assert [line.plain for line in lines] == ["▀▀▀ ▀▀▀ "] * 2  # 3 rows, padded to 4
    assert str(lines[0].spans[0].style) == "rgb(255,255,255) on rgb(128,128,128)"
    large = np.full((3, 32, 32), 9, np.uint8)
    assert small(large, 16).shape == (16, 16, 3) and (small(large, 16) == 9).all()


def test_export_writes_a_new_folder_only(distillery: Command, bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "png"
    code, out, _ = distillery("export", bundle, "--to", "imagefolder", target)
    assert code == 0 and "6 images" in out
    assert len(list(target.glob("*/*.png"))) == 6
    code, _, err = distillery("export", bundle, "--to", "parquet", target)
    assert code == 2 and "exists already" in err
    code, _, err = distillery("export", bundle, "--to", "parquet", tmp_path / "pq")
    assert code == 0 and list((tmp_path / "pq").rglob("*.parquet"))
    code, _, err = distillery("export", bundle, "--to", "zip", tmp_path / "z")
    assert code == 2 and "imagefolder" in err


def test_a_target_below_a_file_is_named_in_one_sentence(
    distillery: Command, bundle: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes.txt"
    notes.touch()
    code, _, err = distillery("export", bundle, "--to", "parquet", notes / "new")
    assert (code, err) == (
        2, f"error: a file or folder of that name is in the way ({notes}): name another folder\n",
    )  # fmt: skip
    code, _, err = distillery("export", bundle, "--to", "parquet", notes / "new" / "er")
    assert code == 2 and "a folder was expected, a file came" in err


def test_reading_bundles_needs_no_torch_stack(bundle: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'sklearn', 'filelock', 'psutil', 'pyarrow', 'safetensors'):\n"
        "    sys.modules[name] = None\n"
        "from app.cli.main import run_command\n"
        f"path = {str(bundle)!r}\n"
        "codes = [run_command(['verify', path]), run_command(['show', path]),\n"
        "         run_command(['export', path, '--to', 'imagefolder', path + '-png']),\n"
        "         run_command(['run', '--preset', 'smoke'])]\n"
        "sys.exit(codes != [0, 0, 0, 2])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pip install 'distillery[local]'" in done.stderr
