"""The tiny task of `child.py`, which processes of their own also train."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

CHILD = Path(__file__).with_name("child.py")


@pytest.fixture(scope="session")
def child() -> ModuleType:
    """The module `child.py`; as a script it is what tests start and kill."""
    spec = importlib.util.spec_from_file_location("training_child", CHILD)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and msgspec look there
    spec.loader.exec_module(module)
    return module
