"""Which frames and stacks represent a clip: by hand, and no place left out."""

import itertools

import numpy as np
import pytest

from data import clips
from data import sampling


def test_starts_that_fit_into_a_clip():
    assert sampling.num_starts(14, 1) == 14
    assert sampling.num_starts(14, 11) == 4  # 13 fields hold four stacks of ten
    assert sampling.num_starts(11, 11) == 1
    assert sampling.num_starts(3, 11) == 1  # the last field repeats


def test_evenly_spaced_has_both_ends():
    np.testing.assert_array_equal(sampling.evenly_spaced(100, 5), [0, 25, 50, 74, 99])
    np.testing.assert_array_equal(sampling.evenly_spaced(2, 4), [0, 0, 1, 1])
    assert sampling.evenly_spaced(9, 3).dtype == np.int64


@pytest.mark.parametrize(
    'num_frames, span, num_segments, expected',
    [
        (30, 1, 4, [0, 10, 19, 29]),
        (30, 11, 3, [0, 10, 19]),  # the last stack is fields 19 .. 28 of 29
        (30, 3, 3, [0, 14, 27]),
        (11, 11, 3, [0, 0, 0]),
        (4, 11, 3, [0, 0, 0]),
        (2, 1, 25, [0, 1]),  # one for each frame of a short clip
        (2, 11, 25, [0, 0]),
        (9, 1, 1, [0]),
    ],
)
def test_segments_stay_within_the_clip(num_frames, span, num_segments, expected):
    found = sampling.segment_starts(num_frames, span, num_segments)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int64


@pytest.mark.parametrize('num_frames', [2, 11, 24, 25, 26, 300])
def test_segments_are_as_many_in_every_stream(num_frames):
    frames = sampling.segment_starts(num_frames, 1, 25)
    stacks = sampling.segment_starts(num_frames, 11, 25)
    assert len(frames) == len(stacks) == min(num_frames, 25)
    assert frames[0] == stacks[0] == 0
    assert frames[-1] == num_frames - 1
    assert stacks[-1] == max(0, num_frames - 1 - 10)


def test_random_starts_reach_every_place_and_no_other():
    def starts(seed, step):
        return sampling.random_starts([14, 11, 3, 5], 10, seed, step)

    found = np.array([starts(0, step) for step in range(200)])
    assert set(found[:, 0]) == {0, 1, 2, 3, 4} and set(found[:, 1]) == {0, 1}
    assert set(found[:, 2]) == set(found[:, 3]) == {0}
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found[17], starts(0, 17))
    assert any((found[step] != starts(1, step)).any() for step in range(5))
    frames = [sampling.random_starts([14], 1, 0, step).item() for step in range(200)]
    assert set(frames) == set(range(14))


@pytest.mark.parametrize(
    'num_frames, span, expected',
    [(14, 1, 7), (15, 1, 7), (14, 11, 2), (11, 11, 0), (1, 1, 0), (3, 11, 0)],
)
def test_middle_start(num_frames, span, expected):
    assert sampling.middle_start(num_frames, span) == expected


@pytest.mark.parametrize('num_frames, span', [(1, 1), (3, 11), (40, 1), (300, 11)])
def test_a_view_has_a_start_in_each_of_equal_segments(num_frames, span):
    count = min(num_frames, 12)
    places = sampling.num_starts(num_frames, span)
    seen = []
    for view in range(1, 200):
        starts = sampling.view_starts(num_frames, span, 12, view, 'A/x', 7)
        assert starts.dtype == np.int64 and len(starts) == count
        segments = np.arange(count) * places / count
        assert (starts >= np.floor(segments)).all()
        assert (starts <= np.ceil(segments + places / count)).all()
        assert starts.max() < places
        seen.append(starts)
    # every place of every segment is drawn
    assert set(np.concatenate(seen)) == set(range(places))


def test_a_view_follows_from_seed_clip_and_view():
    def starts(view, clip, seed):
        return sampling.view_starts(300, 1, 12, view, clip, seed).tolist()

    assert starts(1, 'A/x', 7) == starts(1, 'A/x', 7)
    others = [starts(2, 'A/x', 7), starts(1, 'A/y', 7), starts(1, 'A/x', 8)]
    assert starts(1, 'A/x', 7) not in others
    even = sampling.segment_starts(300, 1, 12).tolist()
    assert starts(0, 'A/x', 7) == starts(sampling.MIRROR, 'A/x', 7) == even
    # the same moments in every stream, to the frames that a stack takes more
    frames, stacks = (sampling.view_starts(300, n, 12, 1, 'A/x', 7) for n in (1, 11))
    assert (abs(frames - stacks) <= 11).all()


def test_views_of_a_step_are_drawn_evenly():
    drawn = [sampling.random_views(50, 4, 3, step) for step in range(100)]
    np.testing.assert_array_equal(drawn[7], sampling.random_views(50, 4, 3, 7))
    assert not np.array_equal(drawn[7], drawn[8])
    counts = np.bincount(np.concatenate(drawn))
    assert len(counts) == 4 and counts.min() > 1150
    assert not sampling.random_views(50, 1, 3, 7).any()


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


def test_a_stored_clip_reads_itself(monkeypatch):
    monkeypatch.setattr(clips, 'read_frames', lambda *asked: ('frames', *asked))
    monkeypatch.setattr(clips, 'read_stacks', lambda *asked: ('stacks', *asked))
    clip = sampling.stored_clip('D', {'clip': 'A/x', 'frames': 14})
    assert clip.num_frames == 14
    assert clip.read_frames([3, 5]) == ('frames', 'D', 'A/x', [3, 5])
    assert clip.read_stacks([3, 5], 10) == ('stacks', 'D', 'A/x', [3, 5], 10)


def test_the_rule_is_known_by_what_it_gives(monkeypatch):
    rule = sampling.rule(25)
    assert rule == sampling.rule(25) != sampling.rule(24)
    even = sampling.evenly_spaced
    # the same numbers, written in another way
    monkeypatch.setattr(sampling, 'evenly_spaced', lambda count, n: even(count, n) + 0)
    assert sampling.rule(25) == rule

    def from_segment_middles(count, n):
        return ((np.arange(n) + 0.5) * count / n).astype(np.int64)

    monkeypatch.setattr(sampling, 'evenly_spaced', from_segment_middles)
    assert sampling.rule(25) != rule
    monkeypatch.setattr(sampling, 'evenly_spaced', even)
    longer = sampling.num_starts
    monkeypatch.setattr(
        sampling, 'num_starts', lambda frames, span: longer(frames, span + (span > 1))
    )
    assert sampling.rule(25) != rule
