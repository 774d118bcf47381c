"""Batches: every example once an epoch, by (seed, step) alone, read ahead in order."""

import threading
import time

import numpy as np
import pytest

from data import batches
from data import clips


def test_every_example_once_an_epoch_across_batches():
    count, size = 13, 5  # five epochs are thirteen batches, most epochs end within one
    places = [batches.positions(step, size, count, seed=3) for step in range(13)]
    epochs = np.concatenate(places).reshape(5, count)
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    assert len({tuple(epoch) for epoch in epochs}) == 5
    assert not any(np.array_equal(epoch, np.arange(count)) for epoch in epochs)


def test_batch_larger_than_the_list():
    places = batches.positions(0, 11, 4, seed=0)
    assert sorted(places[:4]) == sorted(places[4:8]) == [0, 1, 2, 3]


def test_batch_follows_from_seed_and_step_alone():
    late = batches.positions(1000, 8, 77, seed=1)
    for step in range(3):
        batches.positions(step, 8, 77, seed=2)
    np.testing.assert_array_equal(late, batches.positions(1000, 8, 77, seed=1))
    assert not np.array_equal(late, batches.positions(1000, 8, 77, seed=2))
    assert late.dtype == np.int64


def test_balanced_batches_draw_classes_evenly():
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    places = np.concatenate(
        [batches.balanced_positions(step, 30, labels, 0) for step in range(100)]
    )
    shares = np.bincount(labels[places]) / 3000
    np.testing.assert_allclose(shares, 1 / 3, atol=0.035)  # four standard errors
    assert set(places) == set(range(100))
    np.testing.assert_array_equal(
        batches.balanced_positions(7, 30, labels, 0), places[210:240]
    )


def test_random_starts_reach_every_place_and_no_other():
    starts = np.array(
        [batches.random_starts([14, 10, 3], 10, 0, step) for step in range(200)]
    )
    assert set(starts[:, 0]) == {0, 1, 2, 3, 4}
    assert set(starts[:, 1]) == set(starts[:, 2]) == {0}
    np.testing.assert_array_equal(
        starts[17], batches.random_starts([14, 10, 3], 10, 0, 17)
    )


def test_random_pictures_are_what_is_stored(monkeypatch):
    """Frames are drawn from all T, stacks from all T - 1 fields."""
    asked = {'frames': set(), 'stacks': set()}

    def frames(data_dir, clip, steps):
        asked['frames'] |= set(steps)
        return np.zeros([1, 4, 4, 3], np.uint8)

    def stacks(data_dir, clip, starts, length):
        assert length == 10
        asked['stacks'] |= set(starts)
        return np.zeros([1, 4, 4, 20], np.uint8)

    monkeypatch.setattr(clips, 'read_frames', frames)
    monkeypatch.setattr(clips, 'read_stacks', stacks)
    rows = [{'clip': 'A/x', 'frames': 14}] * 3
    for step in range(100):
        frame = batches.random_pictures('D', 'spatial', rows, 10, 0, step)
        stack = batches.random_pictures('D', 'motion', rows, 10, 0, step)
        assert frame.shape == (3, 4, 4, 3) and stack.shape == (3, 4, 4, 20)
    assert asked['frames'] == set(range(14))
    assert asked['stacks'] == {0, 1, 2, 3}  # 13 fields hold four stacks of ten


def test_sampled_steps_are_as_many_in_both_streams(monkeypatch):
    monkeypatch.setattr(clips, 'read_frames', lambda data_dir, clip, steps: steps)
    monkeypatch.setattr(clips, 'read_stacks', lambda data_dir, clip, s, length: s)
    for frames in (2, 11, 24, 25, 26, 300):
        row = {'clip': 'A/x', 'frames': frames}
        seen = batches.sampled_clip('D', 'spatial', row, 25, 10)
        moved = batches.sampled_clip('D', 'motion', row, 25, 10)
        assert len(seen) == len(moved) == min(frames, 25)
        assert seen[0] == moved[0] == 0
        assert seen[-1] == frames - 1
        assert moved[-1] == max(0, frames - 1 - 10)


def test_pad_keeps_values_and_type():
    sequences = [np.full([t, 2], t, np.float16) for t in (3, 1, 4)]
    padded, lengths = batches.pad(sequences)
    assert padded.shape == (3, 4, 2) and padded.dtype == np.float16
    assert lengths.tolist() == [3, 1, 4] and lengths.dtype == np.int32
    for row, sequence in zip(padded, sequences, strict=True):
        np.testing.assert_array_equal(row[: len(sequence)], sequence)
        assert not row[len(sequence) :].any()


@pytest.mark.parametrize('workers', [1, 2, 3])
def test_read_ahead_keeps_order(workers):
    def read(item):
        time.sleep(0.01 * (item % 3 == 0))  # later ones are ready first
        return item * 10

    assert list(batches.read_ahead(read, range(17), workers)) == list(range(0, 170, 10))
    assert list(batches.read_ahead(read, [], workers)) == []


def test_read_ahead_is_bounded():
    lock, begun = threading.Lock(), []

    def read(item):
        with lock:
            begun.append(item)
        return item

    ahead = batches.read_ahead(read, range(100), workers=2)
    for taken in range(1, 30):
        next(ahead)
        time.sleep(0.002)
        with lock:
            assert len(begun) <= taken + 4
    with lock:
        assert len(begun) > 30  # it did read ahead
    ahead.close()
    time.sleep(0.02)
    assert len(begun) <= 34


def test_read_ahead_passes_an_error_on_at_its_place():
    def read(item):
        if item == 5:
            raise ValueError('clip 5 is broken')
        return item

    got = []
    with pytest.raises(ValueError, match='clip 5 is broken'):
        for item in batches.read_ahead(read, range(10), workers=2):
            got.append(item)
    assert got == [0, 1, 2, 3, 4]
