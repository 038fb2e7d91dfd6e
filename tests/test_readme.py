"""The README says what is true: its numbers come from result files, its commands parse."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.readme_table import PAGE, headline, table, with_text

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_tables_are_those_of_the_result_files() -> None:
    assert with_text(README, headline()) == README, "run python -m benchmarks.readme_table"
    page = PAGE.read_text()
    assert with_text(page, table()) == page, "run python -m benchmarks.readme_table"


@pytest.mark.parametrize("command", [c for c in commands() if "distillery " in c])
def test_distillery_commands_name_verbs_and_options_that_exist(command: str) -> None:
    from app.cli.main import build_app

    words = shlex.split(command)
    verb, options = words[1], [word for word in words[2:] if word.startswith("--")]
    help_text = CliRunner().invoke(build_app(), [verb, "--help"])
    assert help_text.exit_code == 0, f"no verb {verb}"
    for option in options:
        assert option in help_text.output


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_files_and_benchmarks_that_the_readme_names_exist() -> None:
    for link in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / link).exists(), link
    for module in re.findall(r"python -m benchmarks\.(\w+)", README):
        assert (ROOT / "benchmarks" / f"{module}.py").exists(), module
