"""`python -m app.cli.help`: the help of every verb as Markdown, which is `docs/cli.md`."""

import contextlib
import io
import os

WIDTH = 80


def help_page() -> str:
    """Return the page; the same on every terminal."""
    os.environ["COLUMNS"] = str(WIDTH)
    from app.cli.main import run_command, verbs

    parts = [
        "# The command line\n",
        "What `--help` says; `python -m app.cli.help > docs/cli.md` writes this page.\n",
        "Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 the work failed,\n"
        "2 the request or its input is wrong, 130 interrupted. Of a service: 3 it wants a key,\n"
        "4 it knows nothing of that name, 5 it is out of reach or failed, 6 the time is up.\n",
    ]
    for name in ("", *verbs()):
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            run_command([*name.split(), "--help"])
        title = f"distillery {name}".strip()
        body = "\n".join(line.rstrip() for line in text.getvalue().strip().splitlines())
        parts.append(f"## {title}\n\n```text\n{body}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(help_page(), end="")  # noqa: T201
