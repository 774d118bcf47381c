"""Narrow networks for tests: the same code, layers and names, less width.

And what the tests of published formats share: other layouts of a network's layers, and
the conversion of a file that must succeed or be refused.
"""

import os

import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from weights import convert
from weights import dump
from weights import layers
from weights import published

DIVISOR = 64
SIZE = 64  # of frames: fc6 sees 2x2 positions of VGG-19, one of CNN-M-2048
MEAN = np.array([103.939, 116.779, 123.68], np.float32)  # B, G, R


def patch(monkeypatch):
    """Makes both networks, and the tables of what was published, 1/64 as wide until
    the test ends."""
    conv, fc = layers.conv, layers.fc

    def narrow_fc(x, units, scope):
        return fc(x, units if scope == 'fc8' else width(units, scope), scope)

    def narrow_conv(x, filters, scope, *rest):
        return conv(x, width(filters, scope), scope, *rest)

    monkeypatch.setattr(layers, 'conv', narrow_conv)
    monkeypatch.setattr(layers, 'fc', narrow_fc)
    for network, shapes in published.SHAPES.items():
        narrowed, inputs = {}, 3
        for layer, (height, columns, _, outputs) in shapes.items():
            outputs = outputs if layer == 'fc8' else width(outputs, layer)
            narrowed[layer] = height, columns, inputs, outputs
            inputs = outputs
        monkeypatch.setitem(published.SHAPES, network, narrowed)


def width(outputs, layer):
    """Outputs of a narrow layer; VGG-19's conv1_1 would have one, which can be dead."""
    return -(-outputs // DIVISOR) + ('_' in layer)


def random_layers(graph, scope, seed=0):
    """{layer: (weights, biases)}, random, in the shapes of the network in a graph."""
    random = np.random.RandomState(seed)
    pairs = {}
    for variable in graph.get_collection('trainable_variables'):
        layer, kind = variable.op.name.removeprefix(f'{scope}/').split('/')
        fan_in = np.prod(variable.shape[:-1]) if kind == 'weights' else 100
        values = random.standard_normal(variable.shape) * np.sqrt(2 / fan_in)
        pairs.setdefault(layer, []).append(values.astype(np.float32))
    return {layer: tuple(pair) for layer, pair in pairs.items()}


def random_network(function, classes=6, channels=3):
    """{layer: (weights, biases)} of a random narrow network in our layout."""
    with tf.Graph().as_default() as graph:
        images = tf.placeholder(tf.uint8, [None, SIZE, SIZE, channels])
        function(images, classes, scope='net')
        return random_layers(graph, 'net')


def flipped(pairs, first='conv1_1'):
    """The network for R, G, B from that for B, G, R, or back."""
    weights, biases = pairs[first]
    return {**pairs, first: (np.flip(weights, 2), biases)}


def output_first(pairs, positions=(2, 2)):
    """[out, in, H, W] and [out, in], fc6 flattened C, H, W: torch's and Caffe's."""
    turned = {}
    for name, (weights, biases) in pairs.items():
        if name == 'fc6':
            weights = weights.reshape(*positions, -1, weights.shape[-1])
            weights = np.einsum('hwco->ochw', weights).reshape(biases.size, -1)
        elif name.startswith('fc'):
            weights = np.einsum('io->oi', weights)
        else:
            weights = np.einsum('hwio->oihw', weights)
        turned[name] = np.ascontiguousarray(weights), biases
    return turned


def as_convolutions(pairs, positions=(2, 2)):
    """Fully connected layers as [H, W, in, out]: MatConvNet's and slim's."""
    turned = dict(pairs)
    for name in ('fc6', 'fc7', 'fc8'):
        weights, biases = pairs[name]
        size = positions if name == 'fc6' else (1, 1)
        turned[name] = weights.reshape(*size, -1, biases.size), biases
    return turned


def converted(source, network, tmp_path):
    """Converts; {variable name: array} of the dump."""
    out = tmp_path / 'converted'
    convert.convert(source, network, out, SIZE)
    dump.verify(out)
    paths = sorted(out.rglob('*.npy'))
    return {str(p.relative_to(out))[:-4]: np.load(p) for p in paths}


def check(arrays, pairs, mean=MEAN, scale=1.0, skip=()):
    """The dump holds the layers to the last bit, and mean and scale."""
    names = {f'{layer}/{kind}' for layer in pairs for kind in ('weights', 'biases')}
    assert set(arrays) == names | {'mean', 'scale'}
    for layer, (weights, biases) in pairs.items():
        if layer not in skip:
            np.testing.assert_array_equal(arrays[f'{layer}/weights'], weights, layer)
        np.testing.assert_array_equal(arrays[f'{layer}/biases'], biases, layer)
    np.testing.assert_allclose(arrays['mean'], mean, rtol=1e-6)
    np.testing.assert_allclose(arrays['scale'], scale, rtol=1e-6)


# Words of Python's and its libraries' own, which tell a user nothing about the file.
OBSCURE = ('to unpack', 'cannot unpack', 'it lacks', 'out of range', 'has no attribute')


def refused(source, tmp_path, match, network='vgg19'):
    """One line that says `match`, and nothing written."""
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=match) as error:
        convert.convert(source, network, tmp_path / 'refused', SIZE)
    assert '\n' not in str(error.value)
    assert not [words for words in OBSCURE if words in str(error.value)]
    assert str(source) in str(error.value) or source.name in str(error.value)
    assert sorted(os.listdir(tmp_path)) == before
