"""Caffe models, written here as Caffe writes them, read back exactly."""

import narrow
import numpy as np
import pytest

import cnnm
import vgg


@pytest.fixture
def narrowed(monkeypatch):
    """Both networks at a fraction of their width until the test ends."""
    narrow.patch(monkeypatch)


@pytest.fixture
def layers(narrowed):
    """A random narrow VGG-19."""
    return narrow.random_network(vgg.vgg_19)


def varint(number):
    """Seven bits a byte, the highest bit set on all but the last."""
    content = b''
    while number > 127:
        content += bytes([number & 127 | 128])
        number >>= 7
    return content + bytes([number])


def field(number, content):
    """One field of a protocol buffer: bytes, or an int as a varint."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def caffemodel(layers, version, packed=True):
    """A NetParameter in the first or the second layer format."""
    content = field(1, b'VGG') + field(3, b'data')
    layer_field, name_field, blobs_field = (2, 4, 6) if version == 1 else (100, 1, 7)
    for name, pair in layers.items():
        body = field(name_field, name.encode())
        body += field(5, 4) if version == 1 else field(2, b'Convolution')
        for array in pair:
            shape = (1,) * (4 - array.ndim) + array.shape
            if version == 1:
                blob = b''.join(field(1 + i, n) for i, n in enumerate(shape))
            else:
                dims = b''.join(map(varint, array.shape))
                blob = field(7, field(1, dims))
            if packed:
                blob += field(5, array.tobytes())
            else:
                tag = varint(5 << 3 | 5)
                blob += b''.join(tag + value.tobytes() for value in array.ravel())
            body += field(blobs_field, blob)
        # a fixed32 field, as in a parameter the reader does not know
        content += field(layer_field, body + varint(60 << 3 | 5) + b'\0' * 4)
        relu = field(name_field, b'relu') + field(2, b'x')
        content += field(layer_field, relu)
    return content


@pytest.mark.parametrize('version', [1, 2])
def test_caffe_vgg_19(layers, tmp_path, version):
    path = tmp_path / 'vgg.caffemodel'
    path.write_bytes(caffemodel(narrow.output_first(layers), version))
    narrow.check(narrow.converted(path, 'vgg19', tmp_path), layers)


@pytest.mark.parametrize('channels, mean', [(3, narrow.MEAN), (20, [128] * 20)])
def test_caffe_cnn_m(narrowed, tmp_path, channels, mean, capsys):
    layers = narrow.random_network(cnnm.cnn_m_2048, channels=channels)
    path = tmp_path / 'cnnm.caffemodel'
    path.write_bytes(caffemodel(narrow.output_first(layers, (1, 1)), 1, packed=False))
    narrow.check(narrow.converted(path, 'cnnm', tmp_path), layers, mean)
    assert 'note: the file holds no mean' in capsys.readouterr().out


def test_broken_caffe_files_are_refused(layers, tmp_path):
    path = tmp_path / 'vgg.caffemodel'
    whole = caffemodel(narrow.output_first(layers), 1)
    for length in (200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        narrow.refused(path, tmp_path, 'a .caffemodel, is cut off or damaged: download')
    path.write_bytes(whole[:5])  # nothing but the network's name
    narrow.refused(path, tmp_path, 'a .caffemodel, .*holds no layers; VGG-19 begins')
    path.write_bytes(b'\n\xff' * 40)
    narrow.refused(path, tmp_path, 'a .caffemodel, is cut off or damaged: download')


def test_layers_of_one_array_are_skipped_with_a_word(layers, tmp_path, capsys):
    path = tmp_path / 'prelu.caffemodel'
    turned = {}
    for name, pair in narrow.output_first(layers).items():
        turned[name] = pair
        if name.startswith('conv'):
            turned[name.replace('conv', 'prelu')] = (pair[1],)
    path.write_bytes(caffemodel(turned, 2))
    narrow.check(narrow.converted(path, 'vgg19', tmp_path), layers)
    out = capsys.readouterr().out
    assert 'note: skipped, not weights and biases: prelu1_1, prelu1_2, prelu2_1' in out


def test_a_layer_of_the_network_without_biases_is_not_skipped(layers, tmp_path):
    path = tmp_path / 'vgg.caffemodel'
    turned = narrow.output_first(layers)
    turned['fc7'] = turned['fc7'][:1]
    path.write_bytes(caffemodel(turned, 2))
    narrow.refused(path, tmp_path, 'has 1 array for fc7, where VGG-19 has weights and')


def test_caffe_files_of_other_networks_are_refused(layers, tmp_path):
    path = tmp_path / 'p.caffemodel'
    random = np.random.RandomState(0)
    other = {}
    for name, shape in (('conv1', (10, 3, 3, 3)), ('conv2', (16, 10, 3, 3))):
        other[name] = random.rand(*shape).astype('f'), np.zeros(shape[0], 'f')
        other[f'prelu_{name}'] = (np.zeros(shape[0], 'f'),)
    path.write_bytes(caffemodel(other, 2))
    said = (
        r'holds conv1 \[3, 3, 3, 10\], prelu_conv1 \[10\], conv2 .*VGG-19 begins with'
    )
    narrow.refused(path, tmp_path, said)
    said = (
        r'has conv1 of weights \[3, 3, 3, 10\] and biases \[10\], where CNN-M-2048 has'
    )
    narrow.refused(path, tmp_path, said, 'cnnm')
    turned = narrow.output_first(layers)
    path.write_bytes(caffemodel({**turned, 'conv6': turned['conv2_1']}, 1))
    narrow.refused(path, tmp_path, 'holds conv1_1 to fc8 of VGG-19 and conv6 .*alone')
    batch_norm = (turned['fc8'][1],) * 3
    path.write_bytes(caffemodel({**turned, 'bn1': batch_norm}, 2))
    narrow.refused(path, tmp_path, 'to fc8 of VGG-19 and bn1 of 3 arrays, which')
