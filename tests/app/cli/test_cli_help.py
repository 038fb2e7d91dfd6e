"""Help is fast, complete, and the page in docs/ is what it says today."""

import subprocess
import sys
from pathlib import Path

from app.cli.main import verbs

ROOT = Path(__file__).parents[3]


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from app.cli.main import run_command\n"
        "assert run_command(['--help']) == 0 and run_command(['run', '--help']) == 0\n"
        "heavy = [n for n in ('torch', 'diffusers', 'sklearn', 'pandas') if n in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "Example:" in done.stdout


def test_the_page_of_the_command_line_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.help"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    page = (ROOT / "docs" / "cli.md").read_text()
    assert page == done.stdout, "run: python -m app.cli.help > docs/cli.md"
    for verb in verbs():
        section = page.split(f"## distillery {verb}\n")[1].split("\n## ")[0]
        assert f"Example: distillery {verb}" in section
