"""What a step is fed belongs together: pixels or features, labels, crops, seeds."""

import threading
import time

import numpy as np
import pytest
import tiny

import model
from data import augmentation
from data import batches
from data import clips
from data import features
from data import feeds
from data import sampling
from data import splits
from results import runs

B, SEED, LENGTH = 4, 3, tiny.FLAGS['stack_length']


@pytest.fixture(scope='module')
def data(tiny_runs):
    """(data_dir, train examples, rows by clip) of the tiny data set."""
    data_dir = str(tiny_runs / 'data')
    index = clips.read_index(data_dir)
    return data_dir, splits.load(index, str(tiny_runs / 'lists')).train, index


def stored(data_dir, stream, clip, starts):
    """Frames or stacks of a clip, read as they are on disk."""
    if stream == 'spatial':
        return clips.read_frames(data_dir, clip, starts)
    return clips.read_stacks(data_dir, clip, starts, LENGTH)


# -- training --------------------------------------------------------------------------


@pytest.mark.parametrize('stream, span', [('spatial', 1), ('motion', LENGTH + 1)])
def test_images_labels_crops_and_seeds_are_those_of_the_step(data, stream, span):
    data_dir, examples, index = data
    assert model.STREAMS[stream].span(LENGTH) == span

    def read(steps):
        request = feeds.training_requests(
            examples, index, B, SEED, keep_prob=0.25, span=span
        )
        reader = feeds.image_reader(data_dir, model.STREAMS[stream], LENGTH)
        return list(feeds.read(map(request, steps), reader, workers=2))

    steps = range(2 * len(examples) // B)
    for step, feed in enumerate(read(steps)):
        places = batches.positions(step, B, len(examples), SEED)
        chosen = [examples[place] for place in places]
        assert feed['labels'].tolist() == [example.label for example in chosen]
        frames = [index[example.clip]['frames'] for example in chosen]
        starts = sampling.random_starts(frames, span, SEED, step)
        for example, start, image in zip(chosen, starts, feed['images'], strict=True):
            (expected,) = stored(data_dir, stream, example.clip, [start])
            np.testing.assert_array_equal(image, expected, example.clip)
        assert feed['dropout_seed'] == [SEED, step]
        assert feed['keep_prob'] == 0.25 and 'lengths' not in feed
        for name, values in augmentation.random_crops(B, SEED, step).items():
            np.testing.assert_array_equal(feed[name], values)
    (again,) = read([step])
    assert again.keys() == feed.keys()
    for name, values in feed.items():
        np.testing.assert_array_equal(again[name], values)


def test_the_parts_of_a_batch_are_the_batch(data):
    _, examples, index = data
    request = feeds.training_requests(examples, index, 6, SEED, 0.25, span=1)(4)
    parts = [feeds.part_of(request, n, 3) for n in range(3)]
    assert [item for part in parts for item in part.clips] == request.clips
    per_clip = {'labels', *augmentation.whole_images(1)}
    for name, value in request.feed.items():
        found = [part.feed[name] for part in parts]
        if name in per_clip:
            assert {len(values) for values in found} == {2}
            np.testing.assert_array_equal(np.concatenate(found), value)
        else:  # dropout: a worker takes its rows of the mask
            assert found == 3 * [value]


def test_balanced_batches_draw_classes_evenly(data):
    _, examples, index = data
    few = [e for e in examples if e.label == 0][:1]
    examples = few + [e for e in examples if e.label == 1]  # 1 against 6 clips
    request = feeds.training_requests(examples, index, 300, SEED, balanced=True)(0)
    labels = request.feed['labels']
    assert 110 < (labels == 0).sum() < 190  # 150 expected, 43 without
    names = [row['clip'] for row, _ in request.clips]
    assert [name == few[0].clip for name in names] == (labels == 0).tolist()


def test_a_hybrid_is_fed_the_cached_features_of_its_clips(data, tiny_runs):
    data_dir, examples, index = data
    cnns = runs.read(tiny_runs / 'hybrid')['cnns']
    folders = features.folders(data_dir, cnns)
    request = feeds.training_requests(examples, index, B, SEED)
    (feed,) = feeds.read([request(1)], features.reader(folders), workers=2)
    assert 'images' not in feed
    places = batches.positions(1, B, len(examples), SEED)
    for row, place in enumerate(places):
        assert feed['labels'][row] == examples[place].label
        for stream, (folder,) in folders.items():
            cached = features.read(folder, examples[place].clip)
            length = feed['lengths'][row]
            np.testing.assert_array_equal(feed[stream][row, :length], cached)
            assert not feed[stream][row, length:].any()


def test_joint_is_fed_the_same_segments_of_both_streams(data):
    data_dir, examples, index = data
    request = feeds.training_requests(examples, index, B, SEED)
    reader = feeds.segment_reader(data_dir, model.STREAMS, 5, LENGTH)
    (feed,) = feeds.read([request(0)], reader, workers=2)
    for row, place in enumerate(batches.positions(0, B, len(examples), SEED)):
        clip = examples[place].clip
        frames = index[clip]['frames']  # from 9 to 15
        for stream, last in (('spatial', frames - 1), ('motion', frames - 1 - LENGTH)):
            starts = np.rint(np.linspace(0, last, 5)).astype(int)
            expected = stored(data_dir, stream, clip, starts)
            np.testing.assert_array_equal(feed[stream][row], expected)
    assert feed['lengths'].tolist() == [5] * B
    assert feed['mirrored'].shape == (B,)


# -- held-out clips --------------------------------------------------------------------


@pytest.mark.parametrize('stream', ['spatial', 'motion'])
def test_held_out_clips_are_read_in_the_middle_without_chance(data, stream):
    data_dir, examples, index = data
    examples = examples[:7]
    span = model.STREAMS[stream].span(LENGTH)
    requests = feeds.evaluation_requests(examples, index, B, span)
    reader = feeds.image_reader(data_dir, model.STREAMS[stream], LENGTH)
    found = list(feeds.read(requests, reader, workers=2))
    images = np.concatenate([feed['images'] for feed in found])
    assert [len(feed['images']) for feed in found] == [4, 3]
    for example, image in zip(examples, images, strict=True):
        frames = index[example.clip]['frames']
        middle = frames // 2 if stream == 'spatial' else (frames - LENGTH) // 2
        (expected,) = stored(data_dir, stream, example.clip, [middle])
        np.testing.assert_array_equal(image, expected)
    for feed in found:
        assert feed['keep_prob'] == 1 and feed['dropout_seed'] == [0, 0]
        assert (feed['crop_scale'] == 1).all() and not feed['mirrored'].any()


def test_requests_can_be_read_again_and_keep_no_pixels(data):
    data_dir, examples, index = data
    requests = feeds.evaluation_requests(examples[:3], index, 2)
    reader = feeds.segment_reader(data_dir, model.STREAMS, 2, LENGTH)
    first, second = (list(feeds.read(requests, reader, workers=1)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one['motion'], other['motion'])
    for request in requests:
        assert not {'spatial', 'motion', 'lengths'} & set(request.feed)


# -- reading ahead ---------------------------------------------------------------------


def requests_of(*sizes):
    """Requests whose clips are numbered through; each says its own number."""
    numbers = iter(range(sum(sizes)))
    return [
        feeds.Request([(next(numbers), None) for _ in range(size)], {'request': n})
        for n, size in enumerate(sizes)
    ]


def test_batches_come_in_order_with_their_own_feed():
    def read(number, _):
        time.sleep(0.01 * (number % 3 == 0))
        return {'images': np.full([2, 2, 3], number)}

    found = list(feeds.read(requests_of(2, 1, 3), read, workers=3))
    assert [batch['request'] for batch in found] == [0, 1, 2]
    numbers = [batch['images'][:, 0, 0, 0].tolist() for batch in found]
    assert numbers == [[0, 1], [2], [3, 4, 5]]


def test_sequences_are_padded_and_images_are_not():
    def read(number, _):
        steps = number + 1
        return {
            'spatial': np.full([steps, 2], 7, np.float16),
            'motion': np.full([steps, 3], 9, np.uint8),
        }

    first, second = feeds.read(requests_of(2, 1), read, workers=2)
    assert first['lengths'].tolist() == [1, 2] and second['lengths'].tolist() == [3]
    assert first['spatial'].dtype == np.float16 and first['motion'].dtype == np.uint8
    np.testing.assert_array_equal(first['spatial'][:, :, 0], [[7, 0], [7, 7]])
    np.testing.assert_array_equal(first['motion'][:, :, 2], [[9, 0], [9, 9]])


def test_an_error_comes_up_at_its_batch():
    def read(number, _):
        if number == 4:
            raise ValueError('A/x ends early')
        return {'images': np.zeros([2, 2, 3])}

    got = []
    with pytest.raises(ValueError, match='A/x ends early'):
        for batch in feeds.read(requests_of(2, 2, 2, 2), read, workers=2):
            got.append(batch['request'])
    assert got == [0, 1]


@pytest.mark.parametrize('ahead', [0, 1, 2])
def test_clips_in_flight_are_bounded(ahead):
    lock, begun = threading.Lock(), []

    def read(number, _):
        with lock:
            begun.append(number)
        return {'images': np.zeros([2, 2, 3])}

    reading = feeds.read(requests_of(*[3] * 20), read, workers=2, ahead=ahead)
    for taken in range(1, 20 - ahead):
        next(reading)
        time.sleep(0.005)
        with lock:
            assert 3 * taken <= len(begun) <= 3 * (taken + ahead)
    reading.close()


def test_the_first_batch_does_not_wait_for_later_ones():
    released = threading.Event()

    def read(number, _):
        assert number < 2 or released.wait(10)
        return {'images': np.full([2, 2, 3], number)}

    reading = feeds.read(requests_of(2, 2, 2), read, workers=2)
    try:
        assert next(reading)['images'][:, 0, 0, 0].tolist() == [0, 1]
        assert not released.is_set()
    finally:
        released.set()
    assert [batch['request'] for batch in reading] == [1, 2]
