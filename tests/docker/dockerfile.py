"""Reads a Dockerfile, and carries out its steps on this machine without a container engine.

Each stage is a copy-on-write view (overlayfs) of this machine's own root, so that absolute paths
are those of the image and nothing outside the test's folder is written. Needs a mount namespace of
its own, see `build_images`.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"


@dataclass
class Stage:
    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def read_stages(text: str) -> tuple[dict[str, str], list[Stage]]:
    """Return the arguments before the first stage, and the stages with their instructions."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.M)).splitlines()
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(str.strip, lines):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(name.strip(), base.strip()))
        elif not stages:
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            stages[-1].steps.append((word, rest.strip()))
    return arguments, stages


def fill(text: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{?(\w+)\}?", lambda m: values.get(m[1], ""), text)


class Builder:
    """Carries out stages; `roots` holds the root folder of each."""

    def __init__(self, text: str, context: Path, work: Path, given: dict[str, str]) -> None:
        self.arguments, stages = read_stages(text)
        self.stages = {stage.name: stage for stage in stages}
        self.context, self.work, self.given = context, work, given
        self.roots: dict[str, Path] = {}
        self.layers: dict[str, list[Path]] = {}
        self.environments: dict[str, dict[str, str]] = {}
        self.commands: dict[str, list[str]] = {}
        self.users: dict[str, str] = {}
        self.folders: dict[str, str] = {}

    def build(self, name: str) -> Path:
        if name in self.roots:
            return self.roots[name]
        stage = self.stages[name]
        parent = stage.base if stage.base in self.stages else None
        if parent:
            self.build(parent)
        self._mount(name, parent)
        for word, rest in stage.steps:
            sys.stderr.write(f"[{name}] {word} {rest[:150]}\n")
            getattr(self, f"_{word.lower()}", self._unknown)(name, rest)
        return self.roots[name]

    def _mount(self, name: str, parent: str | None) -> None:
        folder = self.work / name
        upper, inner, root = folder / "upper", folder / "inner", folder / "root"
        for each in (upper, inner, root):
            each.mkdir(parents=True)
        below = self.layers[parent] if parent else []
        lower = ":".join([*map(str, below), "/"])
        options = f"lowerdir={lower},upperdir={upper},workdir={inner}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, root], check=True)
        for system in ("proc", "dev"):
            subprocess.run(["mount", "--rbind", f"/{system}", root / system], check=True)
        self.roots[name], self.layers[name] = root, [upper, *below]
        self.environments[name] = dict(self.environments.get(parent or "", {"PATH": "/usr/bin"}))
        self.folders[name] = self.folders.get(parent or "", "/")

    def _env(self, name: str, rest: str) -> None:
        self.environments[name] |= dict(word.split("=", 1) for word in shlex.split(rest))

    def _arg(self, name: str, rest: str) -> None:
        key, _, value = rest.partition("=")
        self.environments[name].setdefault(key, self.given.get(key, value))

    def _workdir(self, name: str, rest: str) -> None:
        self.folders[name] = rest
        (self.roots[name] / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)

    def _copy(self, name: str, rest: str) -> None:
        words = rest.split()
        source = self.context
        if words[0].startswith("--from="):
            source = self.build(words.pop(0).removeprefix("--from="))
        *paths, target = words
        place = self.roots[name] / self.folders[name].lstrip("/") / target.lstrip("/")
        if target.startswith("/"):
            place = self.roots[name] / target.lstrip("/")
        for path in paths:
            origin = source / path.lstrip("/")
            goal = place / origin.name if target.endswith("/") else place
            goal.parent.mkdir(parents=True, exist_ok=True)
            is_folder = origin.is_dir()
            command = ["cp", "-a", f"{origin}/." if is_folder else str(origin), str(goal)]
            if is_folder:
                goal.mkdir(parents=True, exist_ok=True)
            subprocess.run(command, check=True)

    def _run(self, name: str, rest: str) -> None:
        pip = {key: value for key, value in os.environ.items() if key.startswith("PIP_")}
        values = {**pip, **self.environments[name]}
        script = f"cd {self.folders[name]} && {fill(rest, values)}"
        command = [CHROOT, str(self.roots[name]), "/bin/sh", "-ec", script]
        subprocess.run(command, check=True, env=values, stdout=sys.stderr)

    def _user(self, name: str, rest: str) -> None:
        self.users[name] = rest

    def _cmd(self, name: str, rest: str) -> None:
        self.commands[name] = json.loads(rest)

    def _expose(self, name: str, rest: str) -> None:
        assert rest.isdigit()

    def _stopsignal(self, name: str, rest: str) -> None:
        assert rest.startswith("SIG")

    def _unknown(self, name: str, rest: str) -> None:
        raise ValueError(f"an instruction that this reader does not know, in {name}: {rest}")

    def close_root(self, name: str, data: Path) -> None:
        """Make a root read-only but for /data and /tmp, as compose does."""
        root = self.roots[name]
        subprocess.run(["mount", "--bind", data, root / "data"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "t", root / "tmp"], check=True)
        subprocess.run(["mount", "-o", "remount,ro", root], check=True)

    def start(self, name: str, command: list[str], **options: object) -> "subprocess.Popen[str]":
        """Start a command in a stage as its user, in its folder, with its environment."""
        inside = f"cd {self.folders[name]} && exec {shlex.join(command)}"
        user = f"--userspec={self.users.get(name, '0:0')}"
        words = [CHROOT, user, "--groups=", str(self.roots[name]), "/bin/sh", "-c", inside]
        return subprocess.Popen(words, env=self.environments[name], text=True, **options)  # type: ignore[call-overload,no-any-return]
