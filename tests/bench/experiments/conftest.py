"""What tests of experiments share."""

from collections.abc import Callable
from typing import Any

import pytest

from bench.suite.document import Key
from bench.suite.experiment import Checked, Setting


@pytest.fixture(scope="session")
def problems_of() -> Callable[..., dict[Key, str]]:
    """The messages of parameters' problems by key, without those of unused parameters."""

    def found(parameters: Checked, *setting: Any) -> dict[Key, str]:
        problems = list(parameters.problems(Setting(*setting or ("in-process", "digits"))))
        return {one.key: one.message for one in problems if not one.unused}

    return found
