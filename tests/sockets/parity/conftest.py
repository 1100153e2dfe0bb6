"""One runner for all scenarios of a session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sockets.parity.runner import Runner


@pytest.fixture(scope="session")
def runner(request: pytest.FixtureRequest) -> Iterator[Runner]:
    made = Runner(request.session.items)
    yield made
    made.close()
