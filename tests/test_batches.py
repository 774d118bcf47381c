"""Batches: every example once an epoch, by (seed, step) alone, read ahead in order."""

import threading
import time

import numpy as np
import pytest

from data import batches


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


def test_pad_keeps_values_and_type():
    sequences = [np.full([t, 2], t, np.float16) for t in (3, 1, 4)]
    padded, lengths = batches.pad(sequences)
    assert padded.shape == (3, 4, 2) and padded.dtype == np.float16
    assert lengths.tolist() == [3, 1, 4] and lengths.dtype == np.int32
    for row, sequence in zip(padded, sequences, strict=True):
        np.testing.assert_array_equal(row[: len(sequence)], sequence)
        assert not row[len(sequence) :].any()


@pytest.mark.parametrize('workers, ahead', [(1, 2), (3, 2), (3, 0)])
def test_read_ahead_keeps_order(workers, ahead):
    def read(item):
        time.sleep(0.01 * (item % 3 == 0))  # later ones are ready first
        return item * 10

    asked = [[0, 1, 2], [3], [4, 5, 6, 7], [8, 9]]
    found = list(batches.read_ahead(asked, read, workers, ahead))
    assert found == [[10 * item for item in batch] for batch in asked]
    assert list(batches.read_ahead([], read, workers, ahead)) == []


@pytest.mark.parametrize('ahead', [0, 1, 3])
def test_read_ahead_is_bounded(ahead):
    lock, begun, size = threading.Lock(), [], 3

    def read(item):
        with lock:
            begun.append(item)
        return item

    asked = (range(size * n, size * (n + 1)) for n in range(100))
    reading = batches.read_ahead(asked, read, 2, ahead)
    for taken in range(1, 20):
        next(reading)
        limit = size * (taken + ahead)
        deadline = time.monotonic() + 5
        while len(begun) < limit and time.monotonic() < deadline:
            time.sleep(0.001)  # it does read as far as it may
        time.sleep(0.002)
        with lock:
            assert len(begun) == limit
    reading.close()
    time.sleep(0.02)
    assert len(begun) == limit


def test_the_clips_of_a_batch_are_read_at_the_same_time():
    together = threading.Barrier(4, timeout=10)  # broken unless all four wait at once

    def read(item):
        together.wait()
        return item

    assert list(batches.read_ahead([range(4)], read, 4)) == [[0, 1, 2, 3]]


def test_the_first_batch_does_not_wait_for_later_ones():
    released = threading.Event()

    def read(item):
        assert item < 2 or released.wait(10)
        return item

    reading = batches.read_ahead([[0, 1], [2, 3], [4, 5]], read, workers=2)
    try:
        assert next(reading) == [0, 1]
        assert not released.is_set()
    finally:
        released.set()
    assert list(reading) == [[2, 3], [4, 5]]


def test_read_ahead_raises_an_error_at_its_batch():
    def read(item):
        if item == 5:
            raise ValueError('clip 5 is broken')
        return item

    got = []
    asked = [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(ValueError, match='clip 5 is broken'):
        for batch in batches.read_ahead(asked, read, workers=2, ahead=3):
            got.append(batch)
    assert got == [[0, 1], [2, 3]]


def test_the_next_item_is_made_while_one_is_used():
    made, wanted = [], threading.Semaphore(0)

    def items():
        for n in range(4):
            made.append(n)
            wanted.release()
            yield n

    found = batches.made_ahead(items())
    assert made == []
    for n in range(4):
        assert next(found) == n
        if n < 3:
            assert wanted.acquire(timeout=60) and wanted.acquire(timeout=60)
            assert made == list(range(n + 2))  # the next one, and no more
            wanted.release()
    assert next(found, None) is None


def test_an_item_that_cannot_be_made_is_said_in_its_place():
    def items():
        yield 0
        yield 1
        raise ValueError('third')

    found = batches.made_ahead(items())
    assert [next(found), next(found)] == [0, 1]
    with pytest.raises(ValueError, match='third'):
        next(found)


def test_what_makes_items_ahead_is_closed_with_its_reader():
    closed = []

    def items():
        try:
            yield from range(100)
        finally:
            closed.append(True)

    found = batches.made_ahead(items())
    assert next(found) == 0
    found.close()
    assert closed == [True]
