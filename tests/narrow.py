"""Narrow networks for tests: the same code, layers and names, less width."""

import numpy as np

import cnnm
import vgg

DIVISOR = 64


def patch(monkeypatch):
    """Makes both networks build 1/64 of their widths until the test ends."""
    conv, fc = cnnm.conv, vgg.fc

    def narrow_fc(x, units, scope):
        return fc(x, units if scope == 'fc8' else units // DIVISOR, scope)

    def narrow_conv(x, filters, *rest):
        return conv(x, -(-filters // DIVISOR), *rest)

    blocks = tuple((filters // DIVISOR + 1, n) for filters, n in vgg.BLOCKS)
    monkeypatch.setattr(vgg, 'BLOCKS', blocks)
    monkeypatch.setattr(vgg, 'fc', narrow_fc)
    monkeypatch.setattr(cnnm, 'conv', narrow_conv)


def random_layers(graph, scope, seed=0):
    """{layer: (weights, biases)}, random, in the shapes of the network in a graph."""
    random = np.random.RandomState(seed)
    layers = {}
    for variable in graph.get_collection('trainable_variables'):
        layer, kind = variable.op.name.removeprefix(f'{scope}/').split('/')
        fan_in = np.prod(variable.shape[:-1]) if kind == 'weights' else 100
        values = random.standard_normal(variable.shape) * np.sqrt(2 / fan_in)
        layers.setdefault(layer, []).append(values.astype(np.float32))
    return {layer: tuple(pair) for layer, pair in layers.items()}
