"""The published tables, and which layers of a file fit them.

That vgg.py and cnnm.py build what the tables say is tested beside those.
"""

import math

import numpy as np
import pytest

from weights import published


def layers_of(network, names=None, frame_size=32):
    """Zeros, of one byte each, in the shapes of a network or of some of its layers."""
    found = {}
    for name, shape in published.shapes(
        network, classes=7, frame_size=frame_size
    ).items():
        if names is None or name in names:
            found[name] = np.zeros(shape, 'b'), np.zeros(shape[-1:], 'b')
    return found


@pytest.mark.parametrize(
    'network, channels, count',
    [('vgg19', 3, 143_667_240), ('cnnm', 3, 92_469_864), ('cnnm', 20, 92_549_832)],
)
def test_the_number_of_parameters_is_the_published_one(network, channels, count):
    shapes = published.shapes(network, channels).values()
    assert sum(math.prod(shape) + shape[-1] for shape in shapes) == count


@pytest.mark.parametrize('network, size', [('vgg19', 32), ('cnnm', 41)])
def test_a_whole_network_fits_in_any_order(network, size):
    layers = layers_of(network, frame_size=size)
    turned = dict(reversed(layers.items()))
    fitting = published.fitting(turned, network, size)
    assert list(fitting) == list(published.SHAPES[network])
    assert all(fitting[name] is layers[name] for name in layers)
    with pytest.raises(published.Mismatch, match='cannot be of --frame_size=.* more'):
        published.fitting(layers, network, size - 1)


@pytest.mark.parametrize('count', [1, 5, 8, 16, 18])
def test_the_first_layers_fit(count):
    names = list(published.SHAPES['vgg19'])[:count]
    layers = layers_of('vgg19', names)
    slopes = {'prelu1': (np.zeros(64),), 'empty': ()}
    assert list(published.fitting({**layers, **slopes}, 'vgg19', 32)) == names


REFUSED = [
    (['conv1_2'], r'^holds conv1_2 \[3, 3, 64, 64\]; VGG-19 begins with conv1_1 \[3'),
    (['conv1_1', 'conv2_1'], 'holds conv2_1 of VGG-19 but not conv1_2 before it$'),
    (['conv1_1', 'conv2_2', 'fc6'],
     'holds fc6 of VGG-19 but not conv1_2, conv2_1, conv3_1, .*, conv5_4 before it$'),
    ([], '^holds no layers; VGG-19 begins with'),
]  # fmt: skip


@pytest.mark.parametrize('names, said', REFUSED)
def test_layers_that_are_not_the_first_are_refused(names, said):
    with pytest.raises(published.Mismatch, match=said):
        published.fitting(layers_of('vgg19', names), 'vgg19', 32)


def test_vgg_16_is_named():
    names = set(published.SHAPES['vgg19']) - {'conv3_4', 'conv4_4', 'conv5_4'}
    with pytest.raises(published.Mismatch, match='before it .VGG-16 has no such layer'):
        published.fitting(layers_of('vgg19', names), 'vgg19', 32)


def test_layers_of_other_shapes_are_refused():
    layers = layers_of('cnnm', frame_size=56)
    assert layers['fc6'][0].shape == (512, 4096)
    with pytest.raises(
        published.Mismatch, match=r'--frame_size=90 gives \[2048, 4096\]'
    ):
        published.fitting(layers, 'cnnm', 90)
    weights, biases = layers['conv2']
    for pair, said in (
        (
            (weights[1:], biases),
            r'conv2 of weights \[4, 5, 96, 256\] .* another network',
        ),
        ((weights, biases[1:]), r'conv2 of weights .* and biases \[255\], where CNN-M'),
        ((weights,), 'has 1 array for conv2, where CNN-M-2048 has weights and biases'),
        ((weights, biases, biases), 'has 3 arrays for conv2, where CNN-M-2048 has'),
    ):
        with pytest.raises(published.Mismatch, match=said):
            published.fitting({**layers, 'conv2': pair}, 'cnnm', 56)


def test_layers_that_the_network_does_not_have_are_refused():
    layers = layers_of('vgg19', ['conv1_1', 'conv1_2'])
    layers['head'] = np.zeros([4, 2]), np.zeros(2)
    said = (
        r'holds conv1_1 to conv1_2 of VGG-19 and head \[4, 2\], which VGG-19 does not'
    )
    with pytest.raises(published.Mismatch, match=said):
        published.fitting(layers, 'vgg19', 32)


def test_a_listing_is_one_short_line():
    layers = {f'layer\n{n}' + 'x' * 1000: [np.zeros(2)] * 3 for n in range(4000)}
    words = published.listing(layers)
    assert '\n' not in words and len(words) < 500
    assert words.startswith(r"'layer\n0xxx") and words.endswith(' and 3995 more')
    assert (
        published.listing({'a': [np.zeros([2, 3])], 'b': ()})
        == 'a [2, 3], b of 0 arrays'
    )
