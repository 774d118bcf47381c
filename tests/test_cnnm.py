"""CNN-M-2048 against numpy, its names and counts, sizes and start from colour."""

import math

import narrow
import numpy as np
import pytest
import scipy.io
import tensorflow.compat.v1 as tf

import cnnm
from weights import convert
from weights import dump
from weights import layers
from weights import published

SHAPES = {  # H, W, in, out of a network for colour frames of 224x224
    'conv1': (7, 7, 3, 96),
    'conv2': (5, 5, 96, 256),
    'conv3': (3, 3, 256, 512),
    'conv4': (3, 3, 512, 512),
    'conv5': (3, 3, 512, 512),
    'fc6': (6, 6, 512, 4096),
    'fc7': (1, 1, 4096, 2048),
    'fc8': (1, 1, 2048, 1000),
}


def relu_conv(x, weights, biases, stride=1, pad=0):
    """[H, W, in] by [h, w, in, out], by the windows themselves."""
    x = np.pad(x, [(pad, pad), (pad, pad), (0, 0)])
    size = weights.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=(0, 1))
    windows = windows[::stride, ::stride]  # [h', w', in, h, w]
    y = np.tensordot(windows, weights, axes=[(2, 3, 4), (2, 0, 1)])
    return np.maximum(y + biases, 0)


def caffe_pool(x):
    """3x3 at stride 2; the number of windows rounded up, those at the end cut off."""
    rows, columns = (math.ceil((n - 3) / 2) + 1 for n in x.shape[:2])
    y = np.empty((rows, columns, x.shape[2]), x.dtype)
    for i in range(rows):
        for j in range(columns):
            y[i, j] = x[2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(0, 1))
    return y


def normalized(x):
    """Local response normalization over 5 channels, alpha 5e-4 divided by 5, k 2."""
    channels = x.shape[-1]
    y = np.empty_like(x)
    for c in range(channels):
        around = x[..., max(0, c - 2) : c + 3]
        y[..., c] = x[..., c] / (2 + 5e-4 / 5 * (around**2).sum(axis=-1)) ** 0.75
    return y


def reference(x, network, norm2=True):
    """{layer: values} of CNN-M-2048 on one input [H, W, C] after mean and scale."""
    out = {}
    x = out['conv1'] = relu_conv(x, *network['conv1'], stride=2)
    x = out['pool1'] = caffe_pool(normalized(x))
    x = relu_conv(x, *network['conv2'], stride=2, pad=1)
    x = out['pool2'] = caffe_pool(normalized(x) if norm2 else x)
    for name in ('conv3', 'conv4', 'conv5'):
        x = relu_conv(x, *network[name], pad=1)
    x = out['pool5'] = caffe_pool(x)
    for name in ('fc6', 'fc7', 'fc8'):
        weights, biases = network[name]
        # as a convolution that covers its input, which is how it is published
        weights = weights.reshape(*x.shape, -1)
        x = np.einsum('hwc,hwco->o', x, weights)[np.newaxis, np.newaxis] + biases
        x = out[name] = x if name == 'fc8' else np.maximum(x, 0)
    return {name: value.squeeze() for name, value in out.items()}


def check(end_points, expected):
    """Max relative difference 1e-4 in every layer, on values worth comparing."""
    for name, values in expected.items():
        assert values.std() > 1e-3, name
        difference = np.abs(end_points[name].squeeze() - values).max()
        assert difference <= 1e-4 * np.abs(values).max(), name


def test_names_counts_and_shapes_are_the_published_ones(graph):
    images = tf.placeholder(tf.uint8, [None, 224, 224, 3])
    with tf.variable_scope('motion'):
        logits, end_points = cnnm.cnn_m_2048(images)
    trainable = {v.op.name: tuple(v.shape) for v in tf.trainable_variables()}
    expected = {}
    for layer, shape in SHAPES.items():
        matrix = layer.startswith('fc')
        scope = f'motion/cnn_m_2048/{layer}'
        expected[f'{scope}/biases'] = shape[-1:]
        expected[f'{scope}/weights'] = (
            (math.prod(shape[:-1]), shape[-1]) if matrix else shape
        )
    assert trainable == expected
    assert sum(map(math.prod, trainable.values())) == 92_469_864
    sizes = {n: end_points[n].shape[1] for n in ('conv1', 'pool1', 'conv2', 'pool2')}
    assert sizes == {'conv1': 109, 'pool1': 54, 'conv2': 26, 'pool2': 13}
    assert end_points['pool5'].shape[1:] == (6, 6, 512)
    assert (
        list(end_points)
        == (
            'conv1 norm1 pool1 conv2 norm2 pool2 conv3 conv4 conv5 pool5 fc6 fc7 fc8'
        ).split()
    )
    assert logits.shape.as_list() == [None, 1000]
    assert published.SHAPES['cnnm'] == SHAPES and cnnm.LAYERS == list(SHAPES)
    held = {op.name for op in graph.get_operations() if op.type == 'Placeholder'}
    everything = {v.op.name for v in tf.global_variables()}
    held.discard('Placeholder')  # the images
    assert held == {f'{name}/load/value' for name in everything}


@pytest.mark.parametrize('size', [41, 42, 43, 44, 56, 57, 58, 112, 223])
def test_fc6_has_the_published_shape_at_every_size(graph, monkeypatch, size):
    narrow.patch(monkeypatch)
    cnnm.cnn_m_2048(tf.placeholder(tf.uint8, [None, size, size, 6]), 7)
    expected = published.shapes('cnnm', 6, 7, size)
    found = {v.op.name: v.shape for v in tf.trainable_variables()}
    for layer, shape in expected.items():
        assert found[f'cnn_m_2048/{layer}/weights'] == shape
        assert found[f'cnn_m_2048/{layer}/biases'] == shape[-1:]


def test_counts_on_flow(graph):
    _, end_points = cnnm.cnn_m_2048(
        tf.placeholder(tf.uint8, [None, 224, 224, 20]), norm2=False
    )
    assert sum(math.prod(v.shape) for v in tf.trainable_variables()) == 92_549_832
    assert 'norm2' not in end_points
    names = {v.op.name for v in tf.global_variables()}
    names -= {v.op.name for v in tf.trainable_variables()}
    assert names == {'cnn_m_2048/mean', 'cnn_m_2048/scale'}


def equals_reference(tmp_path, size, positions):
    """Random weights through a .mat as MatConvNet writes it, every layer compared."""
    random = np.random.RandomState(3)
    network = {}
    for name, shape in SHAPES.items():
        shape = (*positions, *shape[2:]) if name == 'fc6' else shape
        scale = np.float32(math.sqrt(2 / math.prod(shape[:-1])))
        weights = random.standard_normal(shape).astype(np.float32) * scale
        network[name] = weights, random.rand(shape[-1]).astype(np.float32)
    cells = np.empty(2 * len(network), object)
    for at, (name, (weights, biases)) in enumerate(network.items()):
        pair = np.empty((1, 2), object)
        pair[0, 0], pair[0, 1] = weights, biases[:, np.newaxis]
        cells[2 * at] = {'name': name, 'type': 'conv', 'weights': pair}
        cells[2 * at + 1] = {'name': f'relu_{name}', 'type': 'relu'}
    average = random.rand(size, size, 3) * 100 + [120, 110, 100]  # R, G, B
    meta = {'normalization': {'averageImage': average.astype(np.float32)}}
    scipy.io.savemat(tmp_path / 'm.mat', {'layers': cells, 'meta': meta})

    convert.convert(tmp_path / 'm.mat', 'cnnm', tmp_path / 'd', size)
    frames = random.randint(0, 256, [1, size, size, 3]).astype(np.uint8)
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.uint8, [None, size, size, 3])
        _, end_points = cnnm.cnn_m_2048(images)
        cnnm.load_weights(session, tmp_path / 'd', 'cnn_m_2048')
        got = session.run(end_points, {images: frames})
    rgb = frames[0, ..., ::-1] - average.mean(axis=(0, 1))
    check(got, reference(rgb.astype(np.float32), network))


def test_equal_to_numpy_through_a_mat_file(tmp_path):
    equals_reference(tmp_path, 96, (2, 2))


@pytest.mark.slow
def test_equal_to_numpy_at_full_size(tmp_path):
    equals_reference(tmp_path, 224, (6, 6))


@pytest.mark.parametrize(
    'height, width, channels, norm2', [(41, 58, 6, True), (75, 60, 5, False)]
)
def test_equal_to_numpy_at_odd_sizes(
    graph, monkeypatch, height, width, channels, norm2
):
    narrow.patch(monkeypatch)
    images = tf.placeholder(tf.uint8, [None, height, width, channels])
    _, end_points = cnnm.cnn_m_2048(images, 5, norm2=norm2)
    network = narrow.random_layers(graph, 'cnn_m_2048')
    # large values, so that the normalization has something to do
    network['conv1'] = 200 * network['conv1'][0], network['conv1'][1]
    stack = np.random.RandomState(1).randint(0, 256, [1, *images.shape[1:]])
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        for layer, pair in network.items():
            names = (f'cnn_m_2048/{layer}/{kind}' for kind in ('weights', 'biases'))
            layers.assign(session, dict(zip(names, pair, strict=True)))
        got = session.run(end_points, {images: stack})
    # zero flow is 128, and a stored step is scaled by a twentieth
    check(got, reference((stack[0] - 128.0) / 20, network, norm2))


@pytest.mark.parametrize('channels', [2, 3, 96])
def test_normalization_and_its_gradient_are_tensorflows(graph, channels):
    random = np.random.RandomState(2)
    # large values and zeros, as after a ReLU, so that the bracket is between 2 and 200
    values = np.maximum(random.standard_normal([3, 4, 5, channels]) * 500, 0)
    x = tf.constant(values.astype(np.float32))
    g = tf.constant(random.standard_normal(values.shape).astype(np.float32))
    theirs = tf.nn.lrn(x, depth_radius=2, bias=2, alpha=1e-4, beta=0.75)
    ours = cnnm.local_response_norm(x)
    pairs = [(y, tf.gradients(y, x, g)[0]) for y in (ours, theirs)]
    with tf.Session() as session:
        got, expected = session.run(pairs)
    for one, other in zip(got, expected, strict=True):
        assert other.std() > 1e-2
        np.testing.assert_allclose(one, other, atol=1e-6 * np.abs(other).max())


def test_sizes_that_do_not_fit_are_refused(graph, monkeypatch):
    narrow.patch(monkeypatch)
    _, end_points = cnnm.cnn_m_2048(tf.placeholder(tf.uint8, [None, 41, 41, 4]))
    assert end_points['pool5'].shape[1:3] == (1, 1)
    with pytest.raises(ValueError, match='41x41 pixels or more, not 40x64'):
        cnnm.cnn_m_2048(tf.placeholder(tf.uint8, [None, 40, 64, 4]), scope='other')


def test_dropout_leaves_the_features_alone(graph, monkeypatch):
    narrow.patch(monkeypatch)
    images = tf.placeholder(tf.uint8, [None, 48, 48, 4])
    keep_prob = tf.placeholder(tf.float32, [])
    logits, end_points = cnnm.cnn_m_2048(images, 5, keep_prob, tf.constant([1, 2]))
    stack = np.random.RandomState(1).randint(0, 256, [2, 48, 48, 4])
    with tf.Session() as session:
        session.run(tf.global_variables_initializer())
        fetched = [
            session.run([logits, end_points['fc6']], {images: stack, keep_prob: keep})
            for keep in (0.1, 1)
        ]
    assert (fetched[0][0] != fetched[1][0]).any()
    np.testing.assert_array_equal(fetched[0][1], fetched[1][1])


def test_mean_flow_is_each_fields_own(graph):
    stacks = np.random.RandomState(1).randint(100, 160, [2, 5, 7, 6]).astype(np.uint8)
    with tf.Session() as session:
        got = session.run(cnnm.subtract_mean_flow(tf.constant(stacks)))
    expected = np.empty(stacks.shape)
    for n in range(2):
        for c in range(6):
            field = stacks[n, :, :, c].astype(float)
            expected[n, :, :, c] = field - field.mean() + 128
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_cross_modality_keeps_the_response_to_grey():
    weights = np.random.RandomState(1).rand(7, 7, 3, 96).astype(np.float32)
    turned = cnnm.cross_modality(weights, 20)
    assert turned.shape == (7, 7, 20, 96) and turned.dtype == np.float32
    for c in (0, 7, 19):
        np.testing.assert_allclose(turned[:, :, c], weights.sum(axis=2) / 3, rtol=1e-6)
    with pytest.raises(ValueError, match='--cross_modality needs'):
        cnnm.cross_modality(turned, 20)


def test_a_flow_network_starts_from_colour(tmp_path, monkeypatch):
    narrow.patch(monkeypatch)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        cnnm.cnn_m_2048(tf.placeholder(tf.uint8, [None, 41, 41, 3]), 9)
        session.run(tf.global_variables_initializer())
        colour = session.run(dump.variables(graph, 'cnn_m_2048'))
        cnnm.save_weights(session, tmp_path / 'd', 'cnn_m_2048')
    with tf.Graph().as_default() as graph, tf.Session() as session:
        with tf.variable_scope('motion'):
            cnnm.cnn_m_2048(tf.placeholder(tf.uint8, [None, 41, 41, 8]), 9)
        session.run(tf.global_variables_initializer())
        with pytest.raises(ValueError, match='--cross_modality'):
            cnnm.load_weights(session, tmp_path / 'd', 'motion/cnn_m_2048')
        cnnm.load_weights(session, tmp_path / 'd', 'motion/cnn_m_2048', True)
        flow = session.run(dump.variables(graph, 'motion/cnn_m_2048'))
    np.testing.assert_array_equal(flow['mean'], [128] * 8)
    assert flow['scale'] == 1  # what the colour filters are used to
    np.testing.assert_array_equal(
        flow['conv1/weights'], cnnm.cross_modality(colour['conv1/weights'], 8)
    )
    np.testing.assert_array_equal(flow['conv2/weights'], colour['conv2/weights'])
    np.testing.assert_array_equal(flow['fc8/weights'], colour['fc8/weights'])
