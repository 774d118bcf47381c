"""Figures: what they show is where it belongs, and they open."""

import cv2
import numpy as np
import pytest
import scored

from results import figures


@pytest.mark.parametrize('classes', [8, 101])
def test_confusion_figure(tmp_path, classes):
    names = [f'ClassWithAName{n}' for n in range(classes)]
    path = tmp_path / 'confusion.png'
    figures.draw_confusion(path, np.eye(classes, dtype=int), names, 'title')
    image = cv2.imread(str(path))
    # each class name needs its line: 7 points at 110 dots an inch are 11 pixels
    assert image.shape[0] > 14 * classes
    blue = (image[..., 0] > image[..., 2].astype(int) + 60).mean()
    assert blue > 0.4 / classes


def test_rows_of_the_confusion_are_true_classes(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures.pyplot, 'close', drawn.append)
    matrix = [[3, 1], [0, 5]]  # one clip of class a is predicted as b
    figures.draw_confusion(tmp_path / 'c.png', matrix, ['a', 'b'], '8 clips')
    monkeypatch.undo()
    (figure,) = drawn
    axes = figure.axes[0]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ('true class', 'predicted class')
    np.testing.assert_allclose(axes.images[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert [text.get_text() for text in axes.texts] == ['3', '1', '5']
    figures.pyplot.close(figure)


def test_confusion_shows_shares_of_rows(tmp_path):
    # 1 of 1 is as dark as 50 of 50, and darker than 25 of 50
    matrix = np.array([[1, 0, 0], [0, 50, 0], [0, 25, 25]])
    with open(tmp_path / 'c.png', 'wb') as file:
        figures.draw_confusion(file, matrix, list('abc'), '')
    image = cv2.imread(str(tmp_path / 'c.png')).astype(int)
    dark = (image[..., 0] - image[..., 2] > 20) & (image[..., 2] < 40)
    half = (image[..., 0] - image[..., 2] > 60) & (image[..., 2] > 80)
    cell = half.sum() / 2
    assert dark.sum() > 1.5 * cell


def test_overlay_bar_is_the_probability():
    frame = np.full((120, 200, 3), 100, np.uint8)
    field = np.full((10, 10, 2), 128, np.uint8)
    field[..., 0] = 255
    figures.draw_overlay(frame, 'Walk', 0.75, field, 20.0)
    bar = (frame[:14] == (90, 220, 90)).all(axis=2).any(axis=0)
    assert bar[:150].all() and not bar[150:].any()
    assert (frame[20:80] == 100).all()
    inset = frame[95:, 155:]
    np.testing.assert_array_equal(inset, np.broadcast_to([0, 0, 255], inset.shape))


def test_inputs_are_shown_as_what_they_are():
    random = np.random.default_rng(0)
    values = random.integers(0, 256, [8, 9, 6], np.uint8)
    np.testing.assert_array_equal(
        figures.as_image(values[..., :3], False), values[..., :3]
    )
    np.testing.assert_array_equal(figures.as_image(values, False), values[..., :3])
    flow = np.full([8, 9, 6], 128, np.uint8)
    assert (figures.as_image(flow, True) == 255).all()  # zero flow is white
    flow[..., 0] = 255
    right = figures.as_image(flow, True)
    np.testing.assert_array_equal(right, np.broadcast_to([0, 0, 255], right.shape))
    flow[..., 0], flow[..., 2] = 128, 255  # the second field
    assert (figures.as_image(flow, True) == 255).all()


def test_heat_is_where_the_map_is():
    place_map = np.zeros((4, 4), np.float32)
    place_map[0, 3] = 2
    warm = figures.heat(np.full((64, 64, 3), 128, np.uint8), place_map, 2)
    red = warm[..., 2].astype(int) - warm[..., 0]
    y, x = np.unravel_index(red.argmax(), red.shape)
    assert y < 16 and x >= 48
    assert red[32:, :32].max() < 0


def test_timeline_opens(tmp_path):
    timeline = [
        {'from_seconds': n, 'to_seconds': n + 1, 'best': [[name, 0.6], ['Sit', 0.1]]}
        for n, name in enumerate(scored.NAMES[:4])
    ]
    figures.draw_timeline(tmp_path / 't.png', {'timeline': timeline})
    assert cv2.imread(str(tmp_path / 't.png')).shape[1] > 500
