"""How long to wait before trying again."""

from itertools import islice

from proxy.upstream.backoff import pauses


def test_pauses_double_up_to_the_longest() -> None:
    """Without jitter they are the bounds."""
    assert list(islice(pauses(lambda: 0.0, first=10, most=60), 5)) == [10, 20, 40, 60, 60]


def test_jitter_shortens_each_by_up_to_its_half() -> None:
    """Each pause asks for a number of its own."""
    numbers = iter([0.0, 0.5, 1.0])
    assert list(islice(pauses(lambda: next(numbers), first=8, most=100), 3)) == [8, 12, 16]


def test_the_longest_is_the_first_where_it_is_shorter() -> None:
    """A setting below the first pause counts."""
    assert list(islice(pauses(lambda: 0.0, first=10, most=2), 2)) == [2, 2]


def test_pauses_may_grow_more_slowly() -> None:
    """Without jitter each is as long as it says."""
    assert list(islice(pauses(first=2, most=4, growth=1.5), 4)) == [2, 3, 4, 4]
