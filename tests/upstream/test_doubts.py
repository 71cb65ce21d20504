"""What fares better over HTTP is known for a while, and by what HTTP did."""

from proxy.core.delta import Mismatch
from proxy.upstream.doubts import Doubt, Doubts
from proxy.upstream.newest import MOST

NULLS = Doubt(Mismatch.UNSUPPORTED_FIELD)


def conversation(name: str) -> Doubt:
    """Return the doubt about a whole conversation."""
    return Doubt(Mismatch.WEBSOCKET_REFUSED, session=name)


def test_what_was_refused_goes_over_http_for_a_while() -> None:
    """And nothing else does."""
    doubts = Doubts()
    doubts.refused(NULLS, 10, 300)
    assert doubts.goes_over_http(NULLS, 309)
    assert not doubts.goes_over_http(NULLS, 310)
    assert not doubts.goes_over_http(conversation("a"), 10)


def test_one_refusal_says_nothing_where_the_like_was_taken_lately() -> None:
    """The fault was in that one request; what was taken long ago speaks for nothing."""
    doubts = Doubts()
    doubts.accepted(NULLS, 10)
    doubts.refused(NULLS, 309, 300)
    assert not doubts.goes_over_http(NULLS, 309)
    doubts.refused(NULLS, 310, 300)
    assert doubts.goes_over_http(NULLS, 310)


def test_http_is_asked_once_in_a_while() -> None:
    """Unless it fared better: it is then asked as soon as the same fails again."""
    doubts, one = Doubts(), conversation("a")
    assert doubts.is_to_be_asked(one, 0, 300)
    assert not doubts.is_to_be_asked(one, 299, 300)
    assert doubts.is_to_be_asked(one, 300, 300)
    doubts.fared_better(one, 700, enough=2)
    assert not doubts.goes_over_http(one, 301)
    assert doubts.is_to_be_asked(one, 301, 300)
    doubts.fared_better(one, 700, enough=2)
    assert doubts.goes_over_http(one, 699)


def test_the_newest_doubts_are_known() -> None:
    """An agent may begin any number of conversations."""
    doubts = Doubts()
    for number in range(MOST + 1):
        doubts.fared_better(conversation(str(number)), 300, enough=1)
    assert not doubts.goes_over_http(conversation("0"), 0)
    assert doubts.goes_over_http(conversation("1"), 0)
    doubts.fared_better(conversation("1"), 300, enough=1)
    doubts.fared_better(conversation("next"), 300, enough=1)
    assert doubts.goes_over_http(conversation("1"), 0)
    assert not doubts.goes_over_http(conversation("2"), 0)
