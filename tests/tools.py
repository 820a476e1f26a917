"""What tests need from the machine, and what they say when it is missing."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from types import ModuleType

import pytest


def missing(what: str) -> None:
    """Skip the test, or fail it where the environment promises everything."""
    message = f"{what} is not installed"
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(message)
    pytest.skip(message)


def require_tool(*names: str) -> str:
    """Return the path of the first of these programs that is there."""
    # Programs installed beside this interpreter count, on the path or not.
    search = os.pathsep.join((os.path.dirname(sys.executable), os.environ.get("PATH", "")))
    for name in names:
        if path := shutil.which(name, path=search):
            return path
    missing(" or ".join(names))
    raise AssertionError


def require_module(name: str) -> ModuleType:
    """Import a module, or skip the test."""
    try:
        return importlib.import_module(name)
    except ImportError:
        missing(f"the Python package {name}")
        raise
