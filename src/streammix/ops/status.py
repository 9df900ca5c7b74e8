"""What a backend says of itself."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Status:
    """Whether a backend can run here; `reason` says how, or why it cannot."""

    available: bool
    reason: str
