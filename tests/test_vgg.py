"""VGG-19 against tf.keras.applications, its names, counts, dropout and frame sizes."""

import math

import h5py
import narrow
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import vgg
from weights import convert
from weights import published

LAYERS = [
    ('conv1_1', 64), ('conv1_2', 64), ('conv2_1', 128), ('conv2_2', 128),
    ('conv3_1', 256), ('conv3_2', 256), ('conv3_3', 256), ('conv3_4', 256),
    ('conv4_1', 512), ('conv4_2', 512), ('conv4_3', 512), ('conv4_4', 512),
    ('conv5_1', 512), ('conv5_2', 512), ('conv5_3', 512), ('conv5_4', 512),
    ('fc6', 4096), ('fc7', 4096), ('fc8', 1000),
]  # fmt: skip


def placeholder(*shape):
    """Frames [N, H, W, 3]."""
    return tf.placeholder(tf.uint8, shape)


def random_frames(*shape):
    """uint8 frames of noise."""
    return np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)


def test_names_counts_and_shapes_are_the_published_ones(graph):
    with tf.variable_scope('spatial'):
        logits, end_points = vgg.vgg_19(placeholder(None, 224, 224, 3))
    trainable = {v.op.name: v.shape for v in tf.trainable_variables()}
    assert set(trainable) == {
        f'spatial/vgg_19/{layer}/{kind}'
        for layer, _ in LAYERS
        for kind in ('weights', 'biases')
    }
    assert sum(math.prod(shape) for shape in trainable.values()) == 143_667_240
    fixed = {v.op.name: v.shape for v in tf.global_variables()}.items() - (
        trainable.items()
    )
    assert dict(fixed) == {'spatial/vgg_19/mean': (3,), 'spatial/vgg_19/scale': ()}
    assert trainable['spatial/vgg_19/fc6/weights'] == (25088, 4096)
    for layer, units in LAYERS:
        assert end_points[layer].shape[-1] == units
    assert end_points['pool5'].shape[1:] == (7, 7, 512)
    assert len(end_points) == len(LAYERS) + 5
    assert logits is end_points['fc8'] and logits.shape.as_list() == [None, 1000]
    expected = published.shapes('vgg19')
    assert [n for n in end_points if 'pool' not in n] == vgg.LAYERS == list(expected)
    for layer, shape in expected.items():
        assert trainable[f'spatial/vgg_19/{layer}/weights'] == shape
        assert trainable[f'spatial/vgg_19/{layer}/biases'] == shape[-1:]
    held = {op.name for op in graph.get_operations() if op.type == 'Placeholder'}
    everything = {v.op.name for v in tf.global_variables()}
    assert len(everything) == 40
    held.discard('spatial/Placeholder')  # the frames
    assert held == {f'{name}/load/value' for name in everything}


def equals_keras(tmp_path, size, classes):
    """Random weights of Keras through its .h5 into ours: fc7 must be the same."""
    tf.keras.utils.set_random_seed(1)
    model = tf.keras.applications.VGG19(
        weights=None, input_shape=(size, size, 3), classes=classes
    )
    for layer in model.layers:
        if values := layer.get_weights():
            # Keras starts biases at zero, where a wrong one could hide
            layer.set_weights([values[0], np.random.rand(*values[1].shape)])
    model.save_weights(tmp_path / 'keras.weights.h5')
    frames = random_frames(2, size, size, 3)
    rgb = frames[..., ::-1].astype(np.float32)
    features = tf.keras.Model(
        model.inputs, [model.get_layer(name).output for name in ('fc1', 'fc2')]
    )
    expected = features(tf.keras.applications.vgg19.preprocess_input(rgb))
    expected = [values.numpy() for values in expected]
    convert.convert(tmp_path / 'keras.weights.h5', 'vgg19', tmp_path / 'd', size)
    with tf.Graph().as_default(), tf.Session() as session:
        images = placeholder(None, size, size, 3)
        _, end_points = vgg.vgg_19(images, num_classes=classes)
        vgg.load_weights(session, tmp_path / 'd', 'vgg_19')
        fc6, fc7 = session.run([end_points['fc6'], end_points['fc7']], {images: frames})
    for ours, theirs in zip((fc6, fc7), expected, strict=True):
        assert theirs.std() > 1e-3 and np.ptp(theirs, axis=0).max() > 1e-3
        assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


def test_equal_to_keras_with_the_same_weights(tmp_path):
    equals_keras(tmp_path, 33, 3)


@pytest.mark.slow
def test_equal_to_keras_at_full_size(tmp_path):
    equals_keras(tmp_path, 224, 1000)


def test_pixels_are_subtracted_and_scaled_in_the_graph(graph, monkeypatch):
    narrow.patch(monkeypatch)
    frames = placeholder(1, 32, 32, 3)
    _, end_points = vgg.vgg_19(frames)
    weights, biases, mean, scale = (
        graph.get_tensor_by_name(f'vgg_19/{name}/Read/ReadVariableOp:0')
        for name in ('conv1_1/weights', 'conv1_1/biases', 'mean', 'scale')
    )
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        pixels = random_frames(1, 32, 32, 3)
        got = session.run(end_points['conv1_1'], {frames: pixels})[0, 8, 9]
        weights, biases, mean, scale = session.run([weights, biases, mean, scale])
    np.testing.assert_allclose(mean, [103.939, 116.779, 123.68])
    assert scale == 1
    patch = pixels[0, 7:10, 8:11].astype(float) - mean
    expected = np.einsum('hwc,hwco->o', patch, weights) + biases
    np.testing.assert_allclose(got, np.maximum(expected, 0), rtol=1e-3, atol=1e-3)


def test_dropout_is_exact_at_one_and_never_in_the_features(graph, monkeypatch):
    narrow.patch(monkeypatch)
    frames = placeholder(None, 32, 32, 3)
    seed = tf.placeholder(tf.int32, [2])
    keep_prob = tf.placeholder(tf.float32, [])
    logits, end_points = vgg.vgg_19(frames, 5, keep_prob, seed)
    with tf.variable_scope(tf.get_variable_scope(), reuse=True):
        plain, _ = vgg.vgg_19(frames, 5)
    pixels = random_frames(3, 32, 32, 3)
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())

        def run(keep, step, what=logits):
            feed = {frames: pixels, keep_prob: keep, seed: [4, step]}
            return session.run(what, feed)

        np.testing.assert_array_equal(run(1, 0), session.run(plain, {frames: pixels}))
        np.testing.assert_array_equal(run(0.5, 7), run(0.5, 7))
        assert (run(0.5, 7) != run(0.5, 8)).any()
        assert (run(0.5, 7) != run(1, 7)).any()
        np.testing.assert_array_equal(
            run(0.5, 7, end_points['fc6']), run(1, 7, end_points['fc6'])
        )


def test_no_dropout_op_is_built_for_the_number_one(graph, monkeypatch):
    narrow.patch(monkeypatch)
    vgg.vgg_19(placeholder(None, 32, 32, 3))
    assert not [o.name for o in graph.get_operations() if 'dropout' in o.name]


def test_frames_that_do_not_fit_are_refused(graph):
    with pytest.raises(ValueError, match='32x32 pixels or more, not 32x31'):
        vgg.vgg_19(placeholder(None, 32, 31, 3))
    with pytest.raises(ValueError, match='3 channels, not 20'):
        vgg.vgg_19(placeholder(None, 64, 64, 20))


def test_other_frame_sizes_follow_the_arithmetic(graph):
    _, end_points = vgg.vgg_19(placeholder(2, 127, 65, 3))
    assert end_points['pool5'].shape == (2, 3, 2, 512)


@pytest.mark.parametrize('size', [32, 63, 64, 112, 113])
def test_fc6_has_the_published_shape_at_every_size(graph, monkeypatch, size):
    narrow.patch(monkeypatch)
    vgg.vgg_19(placeholder(None, size, size, 3), 7)
    expected = published.shapes('vgg19', classes=7, frame_size=size)
    found = {v.op.name: v.shape for v in tf.trainable_variables()}
    for layer, shape in expected.items():
        assert found[f'vgg_19/{layer}/weights'] == shape


def test_save_and_load_by_full_prefix(tmp_path, monkeypatch):
    narrow.patch(monkeypatch)
    pixels = random_frames(2, 40, 32, 3)
    scores = []
    for seed, prefix in ((1, 'spatial'), (2, 'other')):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(seed)
            frames = placeholder(None, 40, 32, 3)
            with tf.variable_scope(prefix):
                logits, _ = vgg.vgg_19(frames, 6)
            session.run(tf.global_variables_initializer())
            if prefix == 'spatial':
                vgg.save_weights(session, tmp_path / 'd', 'spatial/vgg_19')
            else:
                report = vgg.load_weights(session, tmp_path / 'd', 'other/vgg_19')
                assert len(report.loaded) == 40 and not report.missing
            scores.append(session.run(logits, {frames: pixels}))
    np.testing.assert_array_equal(*scores)


def test_keras_file_is_what_the_parity_test_thinks(tmp_path):
    """Keras's .weights.h5 counts its layers; the reader must count numerically."""
    model = tf.keras.applications.VGG19(
        weights=None, input_shape=(32, 32, 3), include_top=False
    )
    model.save_weights(tmp_path / 'k.weights.h5')
    with h5py.File(tmp_path / 'k.weights.h5') as file:
        assert file['layers/conv2d_15/vars/0'].shape == (3, 3, 512, 512)
        assert file['layers/conv2d_2/vars/0'].shape == (3, 3, 64, 128)
