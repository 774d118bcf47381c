"""Published formats, written here as others write them, read back exactly."""

import types

import h5py
import narrow
import numpy as np
import pytest
import scipy.io
import tensorflow.compat.v1 as tf

import cnnm
import vgg
from weights import convert
from weights import dump
from weights import readers


@pytest.fixture
def narrowed(monkeypatch):
    """Both networks at a fraction of their width until the test ends."""
    narrow.patch(monkeypatch)


@pytest.fixture
def layers(narrowed):
    """A random narrow VGG-19."""
    return narrow.random_network(vgg.vgg_19)


# Keras -------------------------------------------------------------------------------


def keras_paths(layout):
    """{our layer: (path of weights, path of biases)} in one of Keras's layouts."""
    paths = {}
    for i, layer in enumerate(readers.VGG_19 + readers.FC):
        if i < 16:
            keras = f'block{layer[4]}_{layer[:4]}{layer[6:]}'
        else:
            keras = ('fc1', 'fc2', 'predictions')[i - 16]
        if layout == 'old':
            paths[layer] = f'{keras}/{keras}_W_1:0', f'{keras}/{keras}_b_1:0'
        elif layout == 'legacy':
            paths[layer] = f'{keras}/{keras}/kernel', f'{keras}/{keras}/bias'
        elif layout == 'tf2':
            whole = f'model_weights/{keras}/{keras}'
            paths[layer] = f'{whole}/kernel:0', f'{whole}/bias:0'
        else:
            number = i if i < 16 else i - 16
            kind = 'conv2d' if i < 16 else 'dense'
            stem = f'layers/{kind}_{number}' if number else f'layers/{kind}'
            paths[layer] = f'{stem}/vars/0', f'{stem}/vars/1'
    return paths


@pytest.mark.parametrize('layout', ['old', 'legacy', 'tf2', 'numbered'])
@pytest.mark.parametrize('top', [True, False])
def test_keras_files_of_every_layout(layers, tmp_path, layout, top, capsys):
    if not top:
        layers = {name: layers[name] for name in readers.VGG_19}
    with h5py.File(tmp_path / 'k.h5', 'w') as file:
        for layer, names in keras_paths(layout).items():
            if layer in layers:
                for name, array in zip(names, layers[layer], strict=True):
                    file[name] = array
        file['block1_pool/nothing'] = np.zeros(0)
        file['optimizer_weights/block1_conv1/kernel_m'] = np.ones((3, 3, 3, 2))
    narrow.check(narrow.converted(tmp_path / 'k.h5', 'vgg19', tmp_path), layers)
    assert ('fc6, fc7, fc8 will start at random' in capsys.readouterr().out) != top


def test_truncated_and_foreign_h5(layers, tmp_path):
    path = tmp_path / 'k.h5'
    with h5py.File(path, 'w') as file:
        file['block1_conv1/kernel'] = layers['conv1_1'][0]
    narrow.refused(path, tmp_path, "lacks 'biases'")
    path.write_bytes(path.read_bytes()[:-100])
    narrow.refused(path, tmp_path, 'Keras .h5: .*truncated')
    with h5py.File(path, 'w') as file:
        file['something'] = np.zeros(3)
    narrow.refused(path, tmp_path, 'is not vgg19: it has no conv1_1')


def test_keras_fetch(tmp_path, monkeypatch, layers):
    class Model:
        layers = [types.SimpleNamespace(name='block1_pool', get_weights=list)]

    keras = {path[0].split('/')[0]: n for n, path in keras_paths('legacy').items()}
    for name, ours in keras.items():
        get_weights = layers[ours].__iter__
        Model.layers.append(
            types.SimpleNamespace(name=name, get_weights=lambda g=get_weights: [*g()])
        )
    monkeypatch.setattr(tf.keras.applications, 'VGG19', lambda weights: Model)
    narrow.check(narrow.converted('keras', 'vgg19', tmp_path), layers)

    def offline(weights):
        raise Exception('URL fetch failure on https://x: None -- [Errno -2]')

    monkeypatch.setattr(tf.keras.applications, 'VGG19', offline)
    with pytest.raises(ValueError, match='could not fetch .*URL fetch .*name the file'):
        convert.convert('keras', 'vgg19', tmp_path / 'other', narrow.SIZE)
    assert not (tmp_path / 'other').exists()


# MatConvNet --------------------------------------------------------------------------


def write_mat(path, layers, average, old, **options):
    """Writes a network as MatConvNet's old or new releases did."""
    cells = np.empty(2 * len(layers) + 1, object)
    for at, (name, (weights, biases)) in enumerate(layers.items()):
        cell = {'name': name, 'type': 'conv', 'stride': 1.0, 'pad': np.zeros(4)}
        if old:
            cell |= {'filters': weights, 'biases': biases[np.newaxis]}
        else:
            pair = np.empty((1, 2), object)
            pair[0, 0], pair[0, 1] = weights, biases[:, np.newaxis]
            cell = {'weights': pair, **cell}
        cells[2 * at] = cell
        cells[2 * at + 1] = {'type': 'relu', 'name': f'relu_{name}'}
        if at % 2 and not old:
            cells[2 * at + 1]['weights'] = np.empty((0, 0), object)
    cells[-1] = {'type': 'softmax', 'name': 'prob'}
    normalization = {'averageImage': average, 'imageSize': [224.0, 224.0, 3.0]}
    about = {'meta': {'normalization': normalization, 'classes': {'name': ['a', 'b']}}}
    if old:
        about = {'normalization': normalization, 'classes': {'name': ['a', 'b']}}
    scipy.io.savemat(path, {'layers': cells, **about}, **options)


@pytest.mark.parametrize('old', [True, False])
def test_matconvnet_vgg_19(layers, tmp_path, old):
    rgb = np.array([123.68, 116.779, 103.939], np.float32).reshape(1, 1, 3)
    rows = narrow.as_convolutions(narrow.flipped(layers))
    write_mat(tmp_path / 'v.mat', rows, rgb, old, do_compression=old)
    narrow.check(narrow.converted(tmp_path / 'v.mat', 'vgg19', tmp_path), layers)


@pytest.mark.parametrize('old', [True, False])
def test_matconvnet_vgg_m_2048(narrowed, tmp_path, old, capsys):
    layers = narrow.random_network(cnnm.cnn_m_2048)
    image = np.random.RandomState(1).rand(9, 9, 3) * 255  # R, G, B
    rows = narrow.as_convolutions(narrow.flipped(layers, 'conv1'), (1, 1))
    write_mat(tmp_path / 'm.mat', rows, image, old)
    arrays = narrow.converted(tmp_path / 'm.mat', 'cnnm', tmp_path)
    narrow.check(arrays, layers, [image[..., c].mean() for c in (2, 1, 0)])
    out = capsys.readouterr().out
    assert 'note: the 9x9x3 mean image is reduced to its channel means' in out


def test_broken_mat_files_are_refused(layers, tmp_path):
    path = tmp_path / 'v.mat'
    rows = narrow.as_convolutions(layers)
    for compressed in (True, False):
        write_mat(path, rows, narrow.MEAN, False, do_compression=compressed)
        whole = path.read_bytes()
        for length in (150, len(whole) // 2, len(whole) - 60):
            path.write_bytes(whole[:length])
            narrow.refused(path, tmp_path, 'MatConvNet .mat')
    scipy.io.savemat(path, {'something': np.zeros(3)})
    narrow.refused(path, tmp_path, "lacks 'layers'")


# Caffe -------------------------------------------------------------------------------


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
    for length in (9, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        narrow.refused(path, tmp_path, 'caffemodel|is not vgg19')
    turned = narrow.output_first(layers)
    del turned['conv3_4']
    path.write_bytes(caffemodel(turned, 2))
    narrow.refused(path, tmp_path, 'not vgg19: it has no conv3_4')


# TensorFlow checkpoints --------------------------------------------------------------


@pytest.mark.parametrize('version', ['V1', 'V2'])
def test_slim_checkpoint(layers, tmp_path, version):
    rows = narrow.as_convolutions(narrow.flipped(layers))
    with tf.Graph().as_default(), tf.Session() as session:
        for name, pair in rows.items():
            scope = f'{name[:5]}/{name}' if name.startswith('conv') else name
            for kind, array in zip(('weights', 'biases'), pair, strict=True):
                tf.get_variable(f'vgg_19/{scope}/{kind}', initializer=array)
                slot = f'vgg_19/{scope}/{kind}/Momentum'
                tf.get_variable(slot, initializer=0 * array)
        tf.train.get_or_create_global_step()
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(write_version=getattr(tf.train.SaverDef, version))
        saver.save(session, str(tmp_path / 'vgg_19.ckpt'), write_meta_graph=False)
    arrays = narrow.converted(tmp_path / 'vgg_19.ckpt', 'vgg19', tmp_path)
    narrow.check(arrays, layers, [103.94, 116.78, 123.68])


def test_a_train_dir_becomes_dumps_of_both_networks(narrowed, tmp_path):
    train_dir = tmp_path / 'train'
    train_dir.mkdir()
    with tf.Graph().as_default() as graph, tf.Session() as session:
        frames = tf.placeholder(tf.uint8, [None, narrow.SIZE, narrow.SIZE, 3])
        stacks = tf.placeholder(tf.uint8, [None, narrow.SIZE, narrow.SIZE, 20])
        with tf.variable_scope('spatial'):
            spatial, _ = vgg.vgg_19(frames, 4)
        with tf.variable_scope('motion'):
            motion, _ = cnnm.cnn_m_2048(stacks, 4)
        loss = tf.reduce_mean(spatial + motion)
        tf.train.MomentumOptimizer(0.1, 0.9).minimize(loss)
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(train_dir / 'model.ckpt'))
        trained = {
            'vgg19': session.run(dump.variables(graph, 'spatial/vgg_19')),
            'cnnm': session.run(dump.variables(graph, 'motion/cnn_m_2048')),
        }
    for network, variables in trained.items():
        arrays = narrow.converted(train_dir, network, tmp_path)
        assert set(arrays) == set(variables)
        for name, array in variables.items():
            np.testing.assert_array_equal(arrays[name], array)


def test_broken_checkpoints_are_refused(layers, tmp_path):
    narrow.refused(tmp_path, tmp_path, 'the folder holds no checkpoint')
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable('vgg_19/conv1/conv1_1/weights', [3, 3, 3, 64])
        session.run(tf.global_variables_initializer())
        prefix = tmp_path / 'vgg_19.ckpt'
        tf.train.Saver().save(session, str(prefix), write_meta_graph=False)
    narrow.refused(prefix, tmp_path, 'biases.* not found')
    narrow.refused(prefix, tmp_path, '0 networks with a layer conv1', network='cnnm')
    (data,) = tmp_path.glob('*.data*')
    data.write_bytes(data.read_bytes()[:-100])
    narrow.refused(prefix, tmp_path, 'TensorFlow checkpoint')
