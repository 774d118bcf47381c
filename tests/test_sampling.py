"""sampling.py: windows of a stream by time."""

import itertools

import numpy as np
import pytest

from data import sampling


def numbered(count, rate=1):
    return ((n / rate, n) for n in range(count))


@pytest.mark.parametrize('count', range(1, 30))
@pytest.mark.parametrize('length, stride', [(7, 7), (7, 3), (2, 1), (5, 4)])
@pytest.mark.parametrize('rate', [1, 25, 29.97])
def test_sliding_windows(count, length, stride, rate):
    """At a constant rate they are windows of so many frames."""
    stream = numbered(count, rate)
    found = list(sampling.sliding_windows(stream, length / rate, stride / rate))
    for first, begin, end, window in found:
        assert window == list(range(first, first + len(window)))
        assert len(window) == min(length, count)
        assert begin == pytest.approx(first / rate)
        if count > 1:
            assert end == pytest.approx((first + len(window)) / rate)
    starts = [window.first for window in found]
    regular = list(range(0, max(1, count - length + 1), stride))
    assert starts[: len(regular)] == regular and len(starts) - len(regular) <= 1
    assert {item for window in found for item in window.items} == set(range(count))
    assert len(set(starts)) == len(starts)


def test_sliding_windows_hold_one_window():
    class Item:
        alive = 0

        def __init__(self):
            Item.alive += 1

        def __del__(self):
            Item.alive -= 1

    most = 0
    items = ((n, Item()) for n in range(500))
    for window in sampling.sliding_windows(items, 10, 5):
        most = max(most, Item.alive)
        del window
    assert most <= 13


def test_nothing_has_no_window():
    assert list(sampling.sliding_windows(iter([]), 5, 5)) == []


def test_a_pause_has_no_windows():
    """Thirty frames, 130 seconds of nothing, thirty frames; then a year of nothing."""
    times = [*np.arange(30) / 25, *130 + np.arange(30) / 25, *3e7 + np.arange(30) / 25]
    stream = zip(times, itertools.count(), strict=False)
    found = list(sampling.sliding_windows(stream, 10, 10))
    assert [window.items for window in found] == [
        list(range(30)),
        list(range(30, 60)),
        list(range(60, 90)),
    ]
    assert [window.from_seconds for window in found] == [0, 130, 3e7]
    np.testing.assert_allclose(
        [window.to_seconds for window in found], [10, 140, 3e7 + 1.2]
    )


def test_slow_streams_have_two_items_in_a_window():
    """A time-lapse of one frame in 20 seconds, in windows of 10."""
    found = list(sampling.sliding_windows(numbered(4, 1 / 20), 10, 10))
    assert [window.items for window in found] == [[0, 1], [1, 2], [2, 3]]
    assert [window[1:3] for window in found] == [(0, 20), (20, 40), (40, 60)]
    (alone,) = sampling.sliding_windows(numbered(1), 10, 10)
    assert alone.items == [0]


def test_windows_follow_times_not_counts():
    """25 frames a second, then 5."""
    times = [*np.arange(50) / 25, *2 + np.arange(10) / 5]
    stream = zip(times, itertools.count(), strict=False)
    found = list(sampling.sliding_windows(stream, 2, 1))
    assert [window.items for window in found] == [
        list(range(50)),
        list(range(25, 55)),
        list(range(50, 60)),
    ]
