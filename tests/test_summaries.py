"""What TensorBoard is given, read back from the event file."""

import cv2
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from results import summaries


@pytest.fixture
def writer(tmp_path):
    with tf.Graph().as_default():  # a FileWriter looks at the default graph
        opened = tf.summary.FileWriter(str(tmp_path))
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


def picture(value):
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
    summaries.samples(writer, batch, 3)
    found = values_of(writer, tmp_path)
    expected = {(f'spatial/{n}', 3) for n in range(summaries.SHOWN)}
    assert found.keys() == expected | {('images/0', 3), ('images/1', 3)}
    for n in range(summaries.SHOWN):
        shown = picture(found[f'spatial/{n}', 3])
        np.testing.assert_array_equal(shown, frames[n, 2])  # the middle step
    blue, green, red = picture(found['images/0', 3])[4, 4].astype(int)
    assert red > blue + 50 and red > green + 50  # right is red on the wheel
    assert (picture(found['images/1', 3]) == 255).all()  # what stands still is white


def test_confusion_is_a_picture_of_the_matrix(writer, tmp_path):
    labels, right = np.array([0, 0, 1, 2]), np.array([0, 0, 1, 2])
    summaries.confusion(writer, right, labels, ['a', 'b', 'c'], 1)
    summaries.confusion(writer, right[::-1], labels, ['a', 'b', 'c'], 2)
    found = values_of(writer, tmp_path)
    shown = [picture(found['confusion', step]) for step in (1, 2)]
    assert shown[0].shape == shown[1].shape and (shown[0] != shown[1]).mean() > 0.01


def test_histograms_are_of_the_variables(graph, writer, tmp_path):
    variable = tf.get_variable('fc6/weights', initializer=tf.constant([1.0, 3.0, 8.0]))
    op = summaries.histograms([variable])
    with tf.Session() as session:
        session.run(variable.initializer)
        writer.add_summary(session.run(op), 5)
    histogram = values_of(writer, tmp_path)['fc6/weights/values', 5].histo
    assert (histogram.min, histogram.max, histogram.num) == (1, 8, 3)
