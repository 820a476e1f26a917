"""A Dockerfile's instructions, and what its build stage does, done in a folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "Dockerfile"


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction: ``RUN``, and all that is behind it on one line."""

    stage: str
    name: str
    text: str


def instructions() -> list[Instruction]:
    """All of the file, each with the name of its stage."""
    lines = [line for line in FILE.read_text("utf-8").splitlines() if not line.startswith("#")]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    stage, found = "", []
    for line in filter(None, text.splitlines()):
        name, _, rest = line.partition(" ")
        if name == "FROM":
            stage = rest.split(" AS ")[1]
        found.append(Instruction(stage=stage, name=name, text=rest.strip()))
    return found


def of(stage: str, name: str) -> list[str]:
    """What all instructions of a kind in a stage say."""
    return [one.text for one in instructions() if (one.stage, one.name) == (stage, name)]


def context(folder: Path) -> None:
    """Copy what ``.dockerignore`` lets into a build."""
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*", "nothing but what is named goes in"
    refused = [rule.removeprefix("**/") for rule in rules[1:] if not rule.startswith("!")]
    for rule in rules:
        if not rule.startswith("!"):
            continue
        source, target = ROOT / rule[1:], folder / rule[1:]
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns(*refused))
        else:
            shutil.copy(source, target)


class Build:
    """The stage "build", its absolute paths below a folder; ``base`` stands for the image."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self._context = folder / "context"
        self._base = folder / "base"
        self._where = self.root
        self._environ = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }

    def run(self) -> None:
        """Do it all. ``AssertionError`` with what a step said that failed."""
        self._context.mkdir(parents=True)
        (self.root / "tmp").mkdir(parents=True)
        context(self._context)
        subprocess.run([sys.executable, "-m", "venv", str(self._base)], check=True)
        self._environ["PATH"] = f"{self._base / 'bin'}{os.pathsep}{os.environ['PATH']}"
        for one in instructions():
            if one.stage == "build":
                getattr(self, f"_{one.name.lower()}")(one.text)

    def path(self, text: str) -> str:
        """A path of the image, in the folder."""
        return re.sub(r"(?<![\w./])/(?=(opt|src|tmp)\b)", f"{self.root}/", text)

    def _from(self, _: str) -> None:
        """The image: a Python and its pip."""

    def _env(self, text: str) -> None:
        self._environ |= dict(pair.split("=", 1) for pair in shlex.split(text))
        # Its cache is what makes a second run cheap, here but not in an image.
        self._environ.pop("PIP_NO_CACHE_DIR", None)

    def _workdir(self, text: str) -> None:
        self._where = Path(self.path(text))
        self._where.mkdir(parents=True, exist_ok=True)

    def _copy(self, text: str) -> None:
        *sources, target = text.split()
        for source in sources:
            found = self._context / source
            assert found.exists(), f".dockerignore keeps {source} out"
            if found.is_dir():
                shutil.copytree(found, self._where / target)
            else:
                shutil.copy(found, self._where / target)

    def _run(self, text: str) -> None:
        done = subprocess.run(
            ["sh", "-c", self.path(text)],
            cwd=self._where,
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"RUN {text}\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
