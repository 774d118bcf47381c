"""Crops and mirrors against plain numpy."""

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from data import augmentation

COLOURS, FLOW = 3, 4  # channels


def cropped(images, scale, place, mirrored, flow=False):
    """crop_and_mirror of uint8 [N, H, W, channels] with one draw each."""
    with tf.Graph().as_default(), tf.Session() as session:
        placeholder = tf.placeholder(tf.uint8, [None, *images.shape[1:]])
        out = augmentation.crop_and_mirror(
            placeholder,
            flow,
            tf.constant(scale, tf.float32),
            tf.constant(place, tf.int32),
            tf.constant(mirrored, tf.bool),
        )
        assert out.shape.as_list()[1:] == list(images.shape[1:])
        return session.run(out, {placeholder: images})


def random_images(count, size, channels=COLOURS):
    shape = [count, size, size, channels]
    return np.random.RandomState(0).randint(1, 256, shape).astype(np.uint8)


def resized(image, size):
    """Bilinear, corner on corner: image [h, w, c] to [size, size, c]."""
    for axis in (0, 1):
        there = np.linspace(0, image.shape[axis] - 1, size)
        low = np.minimum(there.astype(int), image.shape[axis] - 2)
        share = (there - low).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        first, second = np.take(image, low, axis), np.take(image, low + 1, axis)
        image = first * (1 - share) + second * share
    return image


@pytest.mark.parametrize('size', [48, 97, 224])
@pytest.mark.parametrize('place', range(5))
def test_whole_image_is_exactly_itself(size, place):
    images = random_images(2, size)
    out = cropped(images, [1.0, 1.0], [place] * 2, [False] * 2)
    np.testing.assert_array_equal(out, images)


@pytest.mark.parametrize('mirrored', [False, True])
@pytest.mark.parametrize('size', [48, 56, 224])
@pytest.mark.parametrize('scale', [0.875, 0.75])
def test_corner_and_centre_crops_equal_numpy(size, scale, mirrored):
    images = random_images(5, size)
    side = int(size * scale)
    room = size - side
    corners = [(room // 2, room // 2), (0, 0), (0, room), (room, 0), (room, room)]
    out = cropped(images, [scale] * 5, [0, 1, 2, 3, 4], [mirrored] * 5)
    out = out[:, :, ::-1] if mirrored else out
    for image, (top, left), got in zip(images, corners, out, strict=True):
        crop = image[top : top + side, left : left + side].astype(np.float64)
        # 1/4000 pixel off, which is how far crops are moved off the frame's edge
        np.testing.assert_allclose(got, resized(crop, size), atol=0.13)


@pytest.mark.parametrize('size', [41, 64, 97, 112, 224, 232, 256, 331])
def test_no_crop_has_a_black_edge(size):
    white = np.full([20, size, size, 3], 255, np.uint8)
    scales = [0.875] * 10 + [0.75] * 10
    out = cropped(white, scales, [0, 1, 2, 3, 4] * 4, [*[False] * 5, *[True] * 5] * 2)
    np.testing.assert_allclose(out, 255, atol=1e-3)


def test_mirror_of_colours_flips_only():
    images = random_images(2, 48)
    out = cropped(images, [1.0] * 2, [0, 0], [True, False])
    np.testing.assert_array_equal(out[0], images[0, :, ::-1])
    np.testing.assert_array_equal(out[1], images[1])


@pytest.mark.parametrize('channels', [FLOW, 6])
def test_mirror_of_what_is_no_flow_flips_only(channels):
    images = random_images(1, 48, channels)
    np.testing.assert_array_equal(
        cropped(images, [1.0], [0], [True]), images[:, :, ::-1]
    )


def test_mirror_of_flow_negates_x_only():
    images = random_images(1, 48, FLOW)
    (out,) = cropped(images, [1.0], [0], [True], flow=True)
    v = images[0].astype(int) - 128
    expected = v[:, ::-1] * [-1, 1, -1, 1]
    np.testing.assert_array_equal(out - 128, expected)
    zero = np.full([1, 48, 48, FLOW], 128, np.uint8)
    np.testing.assert_array_equal(cropped(zero, [0.75], [4], [True], flow=True), zero)


@pytest.mark.parametrize('flow', [True, False])
def test_mirror_of_a_crop_is_the_crop_of_the_mirror(flow):
    images = random_images(5, 48, 20)
    flipped = images[:, :, ::-1].copy()
    if flow:
        flipped[..., ::2] = 256 - flipped[..., ::2].astype(int)
    left_is_right = [0, 2, 1, 4, 3]  # places, seen in a mirror
    out = cropped(images, [0.75] * 5, [0, 1, 2, 3, 4], [True] * 5, flow)
    expected = cropped(flipped, [0.75] * 5, left_is_right, [False] * 5)
    np.testing.assert_allclose(out, expected, atol=0.02)


def test_draws_follow_the_recipe():
    drawn = [augmentation.random_crops(100, 0, step) for step in range(30)]
    scales = np.concatenate([draw['crop_scale'] for draw in drawn])
    places = np.concatenate([draw['place'] for draw in drawn])
    mirrored = np.concatenate([draw['mirrored'] for draw in drawn])
    values, counts = np.unique(scales, return_counts=True)
    assert values.tolist() == [0.75, 0.875, 1.0] and counts.min() > 880
    assert np.bincount(places).min() > 500 and set(places) == {0, 1, 2, 3, 4}
    assert abs(mirrored.mean() - 0.5) < 0.04
    assert scales.dtype == np.float32 and places.dtype == np.int32
    assert abs(np.corrcoef(scales, mirrored)[0, 1]) < 0.08


def test_draws_follow_from_seed_and_step():
    first, again = (
        augmentation.random_crops(9, 1, 5),
        augmentation.random_crops(9, 1, 5),
    )
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])
    for other in (
        augmentation.random_crops(9, 1, 6),
        augmentation.random_crops(9, 2, 5),
    ):
        assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_whole_images_have_the_same_form():
    drawn, whole = augmentation.random_crops(3, 0, 0), augmentation.whole_images(3)
    assert set(drawn) == set(whole)
    for name, value in whole.items():
        assert value.dtype == drawn[name].dtype and value.shape == (3,)
    assert (whole['crop_scale'] == 1).all() and not whole['mirrored'].any()
