"""Fixtures of the reporting tests."""

from pathlib import Path

import pytest
from synthetic_run import write_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """The results folder of a finished run; do not write to it."""
    return write_run(tmp_path_factory.mktemp("results"))
