"""The environment is read once, and a given one is enough to test everything."""

from pathlib import Path

import pytest

from app.jobs.database import with_driver
from app.settings import read_settings
from distillery.errors import ConfigError


def test_cache_is_the_users_own_unless_named() -> None:
    assert read_settings({"HOME": "/home/ada"}).cache == Path("/home/ada/.cache/distillery")
    xdg = {"HOME": "/home/ada", "XDG_CACHE_HOME": "/big/cache"}
    assert read_settings(xdg).cache == Path("/big/cache/distillery")
    assert read_settings(xdg | {"DISTILLERY_CACHE": "/fast"}).cache == Path("/fast")


def test_folders_are_the_same_for_processes_that_work_elsewhere() -> None:
    names = ("DISTILLERY_CACHE", "DISTILLERY_DATA", "DISTILLERY_DATASETS", "DISTILLERY_MODELS")
    settings = read_settings({"HOME": "/h"} | dict.fromkeys(names, "here"))
    assert settings.cache == settings.data == Path.cwd() / "here"
    assert settings.datasets == settings.models == Path.cwd() / "here"
    assert read_settings({"HOME": "/h"}).models is None


def test_hub_variables_mean_what_the_hub_client_takes_them_for(tmp_path: Path) -> None:
    settings = read_settings({"HOME": str(tmp_path)})
    assert settings.hub_cache == tmp_path / ".cache/huggingface/hub"
    assert not settings.is_offline and not settings.has_hub_token
    token = tmp_path / ".cache/huggingface/token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_x")
    assert read_settings({"HOME": str(tmp_path)}).has_hub_token
    settings = read_settings({"HOME": "/h", "HF_HOME": "/hf", "HF_HUB_OFFLINE": "1"})
    assert settings.hub_cache == Path("/hf/hub") and settings.is_offline
    assert not read_settings({"HOME": "/h", "HF_HUB_OFFLINE": "0"}).is_offline


def test_no_color_counts_whatever_its_value_unless_empty() -> None:
    assert not read_settings({"HOME": "/h", "NO_COLOR": "0"}).use_color
    assert read_settings({"HOME": "/h", "NO_COLOR": ""}).use_color


def test_allocator_settings_of_the_user_are_seen() -> None:
    settings = read_settings({"HOME": "/h", "MALLOC_ARENA_MAX": "2", "PATH": "/bin"})
    assert settings.allocator == "MALLOC_ARENA_MAX=2"
    assert read_settings({"HOME": "/h"}).allocator is None


def test_the_service_keeps_everything_in_one_folder_unless_told() -> None:
    settings = read_settings({"HOME": "/home/ada"})
    assert settings.data == Path("/home/ada/.local/share/distillery")
    assert settings.database_url == f"sqlite:///{settings.data}/queue.sqlite"
    assert settings.is_auth_on and settings.retention_days is None and settings.dead_after_s == 120
    other = read_settings(
        {"HOME": "/h", "DISTILLERY_DATA": "/d", "DISTILLERY_RETENTION_DAYS": "7",
         "DISTILLERY_DATABASE_URL": "postgresql://h/d", "DISTILLERY_AUTH": "off"}
    )  # fmt: skip
    assert (other.data, other.database_url) == (Path("/d"), "postgresql://h/d")
    assert other.retention_days == 7 and not other.is_auth_on


@pytest.mark.parametrize("value", ["many", "-1", "nan", "inf"])
def test_numbers_that_are_none_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="DISTILLERY_MAX_QUEUED must be a number"):
        read_settings({"HOME": "/h", "DISTILLERY_MAX_QUEUED": value})


@pytest.mark.parametrize("password", ["plain", "p@ss:w/rd#?%40&=", "ä b'\""])
def test_a_database_password_may_hold_any_character(password: str) -> None:
    env = {"HOME": "/h", "DISTILLERY_DATABASE_PASSWORD": password,
           "DISTILLERY_DATABASE_URL": "postgresql://ada@db:5432/jobs?sslmode=require"}  # fmt: skip
    url = with_driver(read_settings(env).database_url)
    assert (url.username, url.password, url.host, url.port) == ("ada", password, "db", 5432)
    assert (url.database, url.query["sslmode"]) == ("jobs", "require")


@pytest.mark.parametrize("url", ["", "sqlite:///x", "postgresql://db/x", "postgresql://a:b@db/x"])
def test_a_database_password_needs_a_url_with_a_place_for_it(url: str) -> None:
    env = {"HOME": "/h", "DISTILLERY_DATABASE_URL": url, "DISTILLERY_DATABASE_PASSWORD": "x"}
    with pytest.raises(ConfigError, match="a user and no password") as found:
        read_settings(env)
    assert "a:b" not in str(found.value)
