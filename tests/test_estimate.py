"""estimate.py: disk and hours in proportion to what the first frames took."""

import collections
import shutil

import pytest

from data.preprocessing import estimate


def test_a_sample_is_spread_over_the_sizes():
    tasks = [(f'A/{n}', f'A/{n}.avi') for n in range(100)]
    sizes = {clip: (7 * n) % 100 for n, (clip, _) in enumerate(tasks)}
    chosen = estimate.sample(tasks, sizes)
    assert [sizes[clip] for clip, _ in chosen] == [12, 37, 62, 87]
    assert len(estimate.sample(tasks[:24], sizes)) == 1
    assert len(estimate.sample(tasks[:1], sizes)) == 1
    assert estimate.sample([], sizes) == []


@pytest.fixture
def free(monkeypatch):
    """Makes the disk have so many bytes free."""
    usage = collections.namedtuple('usage', 'free')
    return lambda count: monkeypatch.setattr(
        shutil, 'disk_usage', lambda _: usage(count)
    )


def test_everything_in_proportion(free):
    """Two videos of 100 and 300 kB have 50 and 150 frames; all have 40 MB."""
    trials = [
        estimate.Trial(100_000, 50, 10, 0.2, 90_000),
        estimate.Trial(300_000, 150, 20, 0.4, 210_000),
        None,  # one that could not be opened
        estimate.Trial(100_000, 0, 25, 9.9, 1),  # of whose length nothing is known
    ]
    free(10**12)
    assert estimate.lines(trials, 40_000_000, 4, 'D') == [
        'about 20,000 frames, which will take 200.0 MB of disk and 2 minutes '
        '(4 processes)'
    ]
    free(150_000_000)
    _, warning = estimate.lines(trials, 40_000_000, 4, 'D')
    assert warning.startswith('the disk of D has 150.0 MB free, which is too little:')
    (line,) = estimate.lines(trials, 4_000, 1, 'D')
    assert 'about 2 frames, which will take 0.0 MB of disk and 0 seconds' in line
    free(0)
    assert '10.0 hours' in estimate.lines(trials, 3_600_000_000, 1, 'D')[0]


@pytest.mark.parametrize('trials', [[], [None], [estimate.Trial(9, 0, 5, 1.0, 9)]])
def test_nothing_known_nothing_said(trials):
    assert estimate.lines(trials, 1000, 2, 'D') == []
