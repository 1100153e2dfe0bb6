"""What the machine does not allow, said in one line: the cause, and what mends it."""

from __future__ import annotations


class PreflightError(Exception):
    """This machine, or this user, cannot run what was asked for."""

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(f"{cause}: {remedy}")
        self.cause = cause
        self.remedy = remedy
