from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.udp.both import KernelHost, OurHost


@pytest.fixture(params=[OurHost, pytest.param(KernelHost, marks=pytest.mark.kernel)])
def host(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A stack of ours, then a kernel."""
    made = request.param()
    yield made
    made.close()
