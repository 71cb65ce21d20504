"""What may be sent again after a loss."""

import pytest

from proxy.core.replay import LOSSES_ON_WEBSOCKETS, UNSENT_ON_WEBSOCKETS, Remedy, Replays

AGAIN, HTTP, FAILED = Remedy.AGAIN, Remedy.OVER_HTTP, Remedy.NONE


@pytest.mark.parametrize(
    ("allowed", "losses", "remedies"),
    [
        (2, "aaa", [AGAIN, HTTP, FAILED]),
        (1, "aa", [AGAIN, FAILED]),
        (0, "a", [FAILED]),
        (9, "aaa", [AGAIN, HTTP, HTTP]),
        (2, "uuuu", [AGAIN, AGAIN, AGAIN, HTTP]),
        (0, "uuuua", [AGAIN, AGAIN, AGAIN, HTTP, FAILED]),
        (2, "uaua", [AGAIN, AGAIN, AGAIN, HTTP]),
        (2, "uaa", [AGAIN, AGAIN, HTTP]),
        (1, "aua", [AGAIN, AGAIN, FAILED]),
    ],
)
def test_a_turn_that_was_not_shown(allowed: int, losses: str, remedies: list[Remedy]) -> None:
    """What was never sent (u) is safe; what may have arrived (a) is sent again as often as is allowed."""
    replays = Replays(allowed)
    assert [replays.after_loss(sent=loss == "a", shown=False) for loss in losses] == remedies
    assert replays.ambiguous <= allowed


@pytest.mark.parametrize("sent", [True, False])
def test_a_turn_that_was_shown(sent: bool) -> None:  # noqa: FBT001
    """Two answers are never spliced, and none of it counts as sent again."""
    replays = Replays(9)
    assert replays.after_loss(sent=sent, shown=True) is FAILED
    assert (replays.unsent, replays.ambiguous) == (0, 0)


def test_no_turn_is_sent_without_end() -> None:
    """Whatever kind of losses, a WebSocket is left in time."""
    for number in range(2**6):
        replays = Replays(9)
        losses = [bool(number >> bit & 1) for bit in range(6)]
        remedies = [replays.after_loss(sent=sent, shown=False) for sent in losses]
        assert remedies.index(HTTP) < max(LOSSES_ON_WEBSOCKETS, UNSENT_ON_WEBSOCKETS)
