"""How large a message may be, as upstream says it and as it was seen."""

from proxy.upstream.sizes import Sizes


def test_what_was_too_large_is_not_sent_again_for_a_while() -> None:
    """Nor anything as large."""
    sizes = Sizes()
    sizes.too_large(1000, now=10, off_seconds=300)
    assert not sizes.may_be_taken(1000, 309)
    assert sizes.may_be_taken(999, 309)
    assert sizes.may_be_taken(1000, 310)


def test_the_smallest_that_was_too_large_counts() -> None:
    """For as long as the last one is believed; afterwards it is the last one alone."""
    sizes = Sizes()
    sizes.too_large(1000, now=0, off_seconds=300)
    sizes.too_large(2000, now=100, off_seconds=300)
    assert not sizes.may_be_taken(1000, 399)
    sizes.too_large(2000, now=400, off_seconds=300)
    assert sizes.may_be_taken(1000, 401)
    assert not sizes.may_be_taken(2000, 401)


def test_what_upstream_took_before_is_found_too_large_twice() -> None:
    """Whatever it meant the first time, it was not the size."""
    sizes = Sizes()
    sizes.taken(1000)
    sizes.taken(10)
    sizes.too_large(1000, now=0, off_seconds=300)
    assert sizes.may_be_taken(1000, 0)
    sizes.too_large(1000, now=1, off_seconds=300)
    assert not sizes.may_be_taken(1000, 1)
