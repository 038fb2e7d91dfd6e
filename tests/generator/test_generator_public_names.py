"""Names that may leave the machine."""

from pathlib import Path

import pytest

from generator.config import BaseConfig, DistillConfig, to_dict
from generator.public_names import public_config, public_name


@pytest.mark.parametrize(
    ("reference", "public"),
    [
        ("digits", "digits"),
        ("facebook/DiT-XL-2-256", "facebook/DiT-XL-2-256"),
        ("/home/ann/secret/photos", "photos"),
        ("~/photos", "photos"),
        ("~ann/secret/photos.zip", "photos.zip"),
        ("./photos", "photos"),
        ("../ann/photos", "photos"),
        ("clients/acme/photos/", "photos"),
        ("/photos", "photos"),
        ("photos/", "photos"),
        ("acme/photos of Ann", "photos of Ann"),
        ("acme/photos", "acme/photos"),
        ("org/name@refs/pr/1", "org/name@refs/pr/1"),
    ],
)
def test_the_folders_that_lead_there_are_left_out(reference: str, public: str) -> None:
    assert public_name(reference) == public


def test_a_path_of_two_parts_that_is_there_is_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "photos").touch()
    assert public_name("acme/photos") == "photos"


def test_a_config_keeps_everything_but_the_way_there() -> None:
    values = to_dict(DistillConfig(base=BaseConfig(reference="/home/ann/bases/mine")))
    values["data"]["dataset"] = "/home/ann/photos"
    public = public_config(values)
    assert public["data"]["dataset"] == "photos" and public["base"]["reference"] == "mine"
    assert values["data"]["dataset"] == "/home/ann/photos"  # the caller's is left alone
    public["data"]["dataset"] = "/home/ann/photos"
    public["base"]["reference"] = "/home/ann/bases/mine"
    assert public == values
