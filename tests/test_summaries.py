"""What is told of a training: log.jsonl, and TensorBoard read back from its file."""

import json
import resource

import cv2
import numpy as np
import pytest
import rgb_difference
import tensorflow.compat.v1 as tf
from tensorboard.backend.event_processing import event_accumulator

import model
from results import summaries


@pytest.fixture
def writer(tmp_path):
    opened = summaries.Events(tmp_path)
    yield opened
    opened.close()


def values_of(writer, tmp_path):
    """{(tag, step): summary value} of all that was written."""
    writer.close()
    (path,) = tmp_path.glob('events.*')
    return {
        (value.tag, event.step): value
        for event in tf.train.summary_iterator(str(path))
        for value in event.summary.value
    }


def image_of(value):
    encoded = np.frombuffer(value.image.encoded_image_string, np.uint8)
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)


def test_scalars_have_their_names_and_step(writer, tmp_path):
    summaries.scalars(writer, {'step': 7, 'loss': 1.5, 'accuracy': 0.25}, 7)
    found = values_of(writer, tmp_path)
    assert {key: value.simple_value for key, value in found.items()} == {
        ('loss', 7): 1.5,
        ('accuracy', 7): 0.25,
    }


def test_samples_are_frames_as_stored_and_flow_in_colour(writer, tmp_path):
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, [6, 5, 8, 9, 3], np.uint8)  # B, T, H, W, BGR
    stacks = np.full([2, 8, 9, 6], 128, np.uint8)
    stacks[0, :, :, 0] = 138  # the first field moves to the right
    batch = {'spatial': frames, 'images': stacks, 'labels': np.arange(6)}
    summaries.samples(writer, batch, 'motion', 3)
    found = values_of(writer, tmp_path)
    expected = {(f'spatial/{n}', 3) for n in range(summaries.SHOWN)}
    assert found.keys() == expected | {('images/0', 3), ('images/1', 3)}
    for n in range(summaries.SHOWN):
        shown = image_of(found[f'spatial/{n}', 3])
        np.testing.assert_array_equal(shown, frames[n, 2])  # the middle step
    blue, green, red = image_of(found['images/0', 3])[4, 4].astype(int)
    assert red > blue + 50 and red > green + 50  # right is red on the wheel
    assert (image_of(found['images/1', 3]) == 255).all()  # zero flow is white


def test_samples_that_are_no_flow_are_shown_as_stored(writer, tmp_path, monkeypatch):
    monkeypatch.setitem(model.STREAMS, rgb_difference.NAME, rgb_difference.ENTRY)
    images = np.random.default_rng(0).integers(0, 256, [1, 8, 9, 6], np.uint8)
    summaries.samples(writer, {'images': images}, rgb_difference.NAME, 0)
    shown = image_of(values_of(writer, tmp_path)['images/0', 0])
    np.testing.assert_array_equal(shown, images[0, :, :, :3])


def test_confusion_is_an_image_of_the_matrix(writer, tmp_path):
    labels, right = np.array([0, 0, 1, 2]), np.array([0, 0, 1, 2])
    summaries.confusion(writer, right, labels, ['a', 'b', 'c'], 1)
    summaries.confusion(writer, right[::-1], labels, ['a', 'b', 'c'], 2)
    found = values_of(writer, tmp_path)
    shown = [image_of(found['confusion', step]) for step in (1, 2)]
    assert shown[0].shape == shown[1].shape and (shown[0] != shown[1]).mean() > 0.01


def test_histograms_are_of_the_variables(graph, writer, tmp_path):
    variable = tf.get_variable('fc6/weights', initializer=tf.constant([1.0, 3.0, 8.0]))
    op = summaries.histograms([variable])
    with tf.Session() as session:
        session.run(variable.initializer)
        writer.add_summary(session.run(op), 5)
    histogram = values_of(writer, tmp_path)['fc6/weights/values', 5].histo
    assert (histogram.min, histogram.max, histogram.num) == (1, 8, 3)


# -- the log ---------------------------------------------------------------------------


@pytest.fixture
def open_log(tmp_path):
    """Function (first step, steps) -> summaries.Log in the run's folder."""
    opened = []

    def call(first, total):
        with tf.Graph().as_default() as graph:
            opened.append(summaries.Log(tmp_path, graph, range(first, total), 'hybrid'))
        return opened[-1]

    yield call
    for log in opened:
        log.close()


def lines_of(tmp_path):
    return [json.loads(line) for line in (tmp_path / 'log.jsonl').open()]


def test_log_keeps_what_follows_from_the_seed_and_times_go_to_tensorboard(
    open_log, tmp_path
):
    log = open_log(0, 3)
    assert log.path == tmp_path / 'log.jsonl'
    values = {'loss': 1.5, 'accuracy': 0.25, 'learning_rate': 0.1}
    for step in log.progress:
        log.step({'step': step + 1, **values}, clips=8)
    log.line({'step': 3, 'validation_accuracy': 0.5})
    expected = [{'step': step, **values} for step in (1, 2, 3)]
    assert lines_of(tmp_path) == [*expected, {'step': 3, 'validation_accuracy': 0.5}]
    found = values_of(log.writer, tmp_path)
    assert {tag for tag, step in found if step == 2} == {
        'loss',
        'accuracy',
        'learning_rate',
        'clips_per_second',
        'waiting',
    }
    assert found['clips_per_second', 1].simple_value > 0
    assert found['validation_accuracy', 3].simple_value == 0.5


def test_log_of_a_run_that_continues_is_cut_and_appended_to(open_log, tmp_path):
    log = open_log(0, 4)
    for step in (1, 2, 3):
        log.line({'step': step})
    log.close()
    log = open_log(2, 4)
    assert list(log.progress) == [2, 3]
    log.line({'step': 3, 'again': True})
    assert lines_of(tmp_path) == [{'step': 1}, {'step': 2}, {'step': 3, 'again': True}]


def test_waiting_and_pauses_are_told_apart(open_log, tmp_path, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(summaries.time, 'perf_counter', lambda: clock[0])

    def spend(seconds):
        clock[0] += seconds

    log = open_log(0, 2)
    values = {'loss': 1.0, 'accuracy': 0.5}
    with log.waiting():
        spend(1)
    spend(3)
    log.step({'step': 1, **values}, clips=8)
    with log.paused():  # validation
        spend(50)
    with log.waiting():
        spend(1)
    spend(1)
    log.step({'step': 2, **values}, clips=8)
    found = values_of(log.writer, tmp_path)
    of_steps = {
        name: [found[name, step].simple_value for step in (1, 2)]
        for name in ('clips_per_second', 'waiting')
    }
    assert of_steps == {'clips_per_second': [2, 4], 'waiting': [0.25, 0.5]}


def test_tensorboard_reads_what_is_written(open_log, tmp_path):
    """By its own reader, while the run goes on."""
    log = open_log(0, 3)
    log.line({'step': 1, 'loss': 1.5})
    summaries.confusion(log.writer, np.arange(2), np.arange(2), ['a', 'b'], 1)
    reader = event_accumulator.EventAccumulator(str(tmp_path))
    reader.Reload()
    tags = reader.Tags()
    assert tags['scalars'] == ['loss'] and tags['images'] == ['confusion']
    assert tags['graph'] and reader.FirstEventTimestamp() > 1e9
    (loss,) = reader.Scalars('loss')
    assert (loss.step, loss.value) == (1, 1.5)


def test_what_cannot_be_written_ends_the_log_in_one_line(open_log, tmp_path, refused):
    """The limit on the size of a file stands in for a full disk."""
    log = open_log(0, 9)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        for call in (
            lambda: log.line({'step': 1, 'long': 'x' * 200}),
            lambda: log.writer.add(1, file_version='x' * 200),
        ):
            refused(call, f'the log was not written to {tmp_path}: ', 'File too large')
        log.close()  # what it could not write has been told
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
