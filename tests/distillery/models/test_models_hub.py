"""Models by id, from a cache folder laid out as the Hub client does; and converting pickles."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch

from distillery.errors import ModelError
from distillery.models import hub
from distillery.models.base import load_base
from distillery.models.convert import convert_folder, convert_weights, main
from distillery.models.hub import commit_of, fetch_base, fetch_model, is_repo_id

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "someone/tiny-dit"


@pytest.fixture
def cache(pipeline_folder: Path, tmp_path: Path) -> Path:
    repo = tmp_path / "cache" / "models--someone--tiny-dit"
    shutil.copytree(pipeline_folder, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return tmp_path / "cache"


def to_bin(folder: Path) -> None:
    """Turn the weights of a folder into the pickles that older repositories hold."""
    from safetensors.torch import load_file

    for path in folder.rglob("*.safetensors"):
        torch.save(load_file(path), path.with_suffix(".bin"))
        path.unlink()


def test_cached_model_is_found_without_the_network(cache: Path) -> None:
    folder = fetch_base(REPO, allow_download=False, cache=cache)
    assert commit_of(folder) == COMMIT
    assert load_base(folder, reference=REPO, revision=commit_of(folder)).revision == COMMIT
    assert fetch_base(REPO, COMMIT, allow_download=False, cache=cache) == folder


def test_cached_pickles_are_converted_once(cache: Path, pipeline_folder: Path) -> None:
    snapshot = cache / "models--someone--tiny-dit" / "snapshots" / COMMIT
    to_bin(snapshot)
    folder = fetch_base(REPO, allow_download=False, cache=cache)
    assert commit_of(folder) == COMMIT and not list(folder.rglob("*.bin"))
    assert load_base(folder).digest == load_base(pipeline_folder).digest
    for path in snapshot.rglob("*.bin"):
        path.write_bytes(b"")  # a second conversion would fail
    assert fetch_base(REPO, allow_download=False, cache=cache) == folder


def test_absent_model_says_what_to_do(tmp_path: Path, cache: Path) -> None:
    said = r"no folder 'someone/else' here, .* --download \(base.allow_download\)"
    with pytest.raises(ModelError, match=said):
        fetch_base("someone/else", allow_download=False, cache=tmp_path)
    with pytest.raises(ModelError, match="at revision v2 is not in the local cache"):
        fetch_model(REPO, "v2", allow_download=False, cache=cache)
    with pytest.raises(ModelError, match="org/name"):
        fetch_model("../../etc/passwd", allow_download=False, cache=tmp_path)


@pytest.mark.parametrize("allow_download", [False, True])
def test_the_hub_is_asked_for_data_only_and_only_where_allowed(
    allow_download: bool, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def record(repo_id: str, **arguments: object) -> str:
        asked.update(arguments)
        raise OSError("no route to host\nand more")

    monkeypatch.setattr(hub, "snapshot_download", record)
    message = "no route to host$" if allow_download else "not in the local cache"
    with pytest.raises(ModelError, match=message):
        fetch_base(REPO, "main", allow_download=allow_download, cache=cache)
    assert asked["local_files_only"] is not allow_download
    assert asked["revision"] == "main" and asked["cache_dir"] == cache
    for name in ("modeling.py", "pytorch_model.bin", "model.pkl", "model.pt"):
        assert not any(fnmatch(name, pattern) for pattern in asked["allow_patterns"])


def test_ids_and_folders_are_told_apart() -> None:
    assert is_repo_id("facebook/DiT-XL-2-256")
    assert not any(is_repo_id(text) for text in ("digits", "./models/x", "/a/b", "a/b/c", "../b"))
    assert commit_of(Path("/models/tiny-dit")) is None


def test_folder_is_converted_in_place_by_the_command(
    pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = Path(shutil.copytree(pipeline_folder, tmp_path / "copy"))
    to_bin(folder)
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out.count(".safetensors") == 2
    assert load_base(folder).digest == load_base(pipeline_folder).digest
    assert convert_folder(folder) == []  # nothing left to do
    assert main([str(tmp_path / "nowhere")]) == 1
    assert "no model folder" in capsys.readouterr().err


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "it ran",))

    torch.save({"weight": Trap()}, tmp_path / "model.bin")
    with pytest.raises(ModelError, match="tensors only"):
        convert_weights(tmp_path / "model.bin")
    assert [path.name for path in tmp_path.iterdir()] == ["model.bin"]


def test_other_content_is_refused(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / "model.bin")
    with pytest.raises(ModelError, match="named tensors"):
        convert_weights(tmp_path / "model.bin")
    with pytest.raises(ModelError, match="cannot read"):
        convert_weights(tmp_path / "absent.bin")
    torch.save({"a": torch.ones(1)}, tmp_path / "model.bin")
    assert convert_weights(tmp_path / "model.bin") == tmp_path / "model.safetensors"
    with pytest.raises(ModelError, match="exists already"):
        convert_weights(tmp_path / "model.bin")
