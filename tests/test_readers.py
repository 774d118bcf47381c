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
    for i, layer in enumerate(readers.VGG_19):
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
        layers = {name: layers[name] for name in readers.VGG_19[:16]}
    with h5py.File(tmp_path / 'k.h5', 'w') as file:
        for layer, names in keras_paths(layout).items():
            if layer in layers:
                for name, array in zip(names, layers[layer], strict=True):
                    file[name] = array
        file['block1_pool/nothing'] = np.zeros(0)
        file['optimizer_weights/block1_conv1/kernel_m'] = np.ones((3, 3, 3, 2))
    narrow.check(narrow.converted(tmp_path / 'k.h5', 'vgg19', tmp_path), layers)
    assert ('fc6 to fc8 will start at random' in capsys.readouterr().out) != top


@pytest.mark.parametrize('count', [1, 8, 17, 18])
def test_the_first_layers_alone_are_a_start(layers, tmp_path, count, capsys):
    some = {name: layers[name] for name in readers.VGG_19[:count]}
    with h5py.File(tmp_path / 'k.h5', 'w') as file:
        for layer, names in keras_paths('old').items():
            for name, array in zip(names, some.get(layer, ()), strict=False):
                file[name] = array
    narrow.check(narrow.converted(tmp_path / 'k.h5', 'vgg19', tmp_path), some)
    rest = readers.VGG_19[count:]
    described = dump.description(tmp_path / 'converted')
    assert described['missing_layers'] == rest
    held = 'conv1_1' if count == 1 else f'conv1_1 to {[*some][-1]}'
    random = 'fc8' if count == 18 else f'{rest[0]} to fc8'
    note = f'note: the file holds {held}, {count} of 19 layers; {random} will start at'
    assert note in capsys.readouterr().out
    with tf.Graph().as_default() as graph, tf.Session() as session:
        vgg.vgg_19(tf.placeholder(tf.uint8, [None, narrow.SIZE, narrow.SIZE, 3]), 6)
        session.run(tf.global_variables_initializer())
        before = session.run(dump.variables(graph, 'vgg_19'))
        vgg.load_weights(session, tmp_path / 'converted', 'vgg_19')
        after = session.run(dump.variables(graph, 'vgg_19'))
    for name in rest:  # at random, as it was
        np.testing.assert_array_equal(
            before[f'{name}/weights'], after[f'{name}/weights']
        )
        assert after[f'{name}/weights'].std() > 0
    for name in some:
        np.testing.assert_array_equal(after[f'{name}/weights'], layers[name][0])
    assert (
        f'{random} start at random: the dump holds the first' in capsys.readouterr().out
    )


def test_truncated_and_foreign_h5(layers, tmp_path):
    path = tmp_path / 'k.h5'
    with h5py.File(path, 'w') as file:
        file['block1_conv1/kernel'] = layers['conv1_1'][0]
    narrow.refused(path, tmp_path, 'has 1 array for conv1_1, where VGG-19 has weights')
    path.write_bytes(path.read_bytes()[:-100])
    narrow.refused(path, tmp_path, 'HDF5 file, is cut off or damaged .*truncated file')
    with h5py.File(path, 'w') as file:
        file['something'] = np.zeros(3)
    narrow.refused(path, tmp_path, r'holds something \[3\]; VGG-19 begins with conv1_1')
    with h5py.File(path, 'w') as file:
        pass
    narrow.refused(path, tmp_path, 'an HDF5 file, holds no layers; VGG-19 begins with')


def test_keras_files_of_other_networks_are_refused(layers, tmp_path):
    path = tmp_path / 'k.h5'
    with h5py.File(path, 'w') as file:
        for layer, names in keras_paths('old').items():
            if layer not in ('conv3_4', 'conv4_4', 'conv5_4'):
                for name, array in zip(names, layers[layer], strict=True):
                    file[name] = array
    said = 'holds fc8 of VGG-19 but not conv3_4, conv4_4, conv5_4 before .VGG-16 has no'
    narrow.refused(path, tmp_path, said.replace('before ', 'before it '))
    with h5py.File(path, 'w') as file:
        for name in ('conv1', 'fire2/expand1x1'):
            group = file.create_group(name)
            group.attrs['weight_names'] = [b'uniform1', name.encode() + b'_b']
            group['uniform1'] = np.ones((3, 3, 3, 64), 'f')
            group[f'{name}_b'] = np.ones(64, 'f')
    said = (
        r'holds conv1 \[3, 3, 3, 64\], fire2/expand1x1 \[3, 3, 3, 64\]; VGG-19 begins'
    )
    narrow.refused(path, tmp_path, said)
    narrow.refused(path, tmp_path, r'has conv1 of weights \[3, 3, 3, 64\]', 'cnnm')
    with h5py.File(path, 'w') as file:
        for number in range(18):  # more convolutions than VGG-19 has
            name = f'layers/conv2d_{number}' if number else 'layers/conv2d'
            weights, biases = layers[readers.VGG_19[min(number, 15)]]
            file[f'{name}/vars/0'], file[f'{name}/vars/1'] = weights, biases
    narrow.refused(path, tmp_path, r'conv5_4 of VGG-19 and conv2d_16 \[.*conv2d_17')


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
    with pytest.raises(ValueError, match='could not be fetched .URL fetch .*name the'):
        convert.convert('keras', 'vgg19', tmp_path / 'other', narrow.SIZE)
    assert not (tmp_path / 'other').exists()


# MatConvNet --------------------------------------------------------------------------


def write_mat(path, layers, average, old, below=(), **options):
    """Writes a network as MatConvNet's old or new releases did, below structs."""
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
    content = {'layers': cells, **about}
    for name in below:
        content = {'epoch': 3.0, name: content}
    scipy.io.savemat(path, content, **options)


@pytest.mark.parametrize('old', [True, False])
def test_matconvnet_vgg_19(layers, tmp_path, old):
    rgb = np.array([123.68, 116.779, 103.939], np.float32).reshape(1, 1, 3)
    rows = narrow.as_convolutions(narrow.flipped(layers))
    write_mat(tmp_path / 'v.mat', rows, rgb, old, do_compression=old)
    narrow.check(narrow.converted(tmp_path / 'v.mat', 'vgg19', tmp_path), layers)


@pytest.mark.parametrize('below', [['net'], ['net', 'state', 'best']])
def test_a_matconvnet_network_is_found_below_structs(layers, tmp_path, below):
    rgb = np.array([123.68, 116.779, 103.939], np.float32).reshape(1, 1, 3)
    rows = narrow.as_convolutions(narrow.flipped(layers))
    write_mat(tmp_path / 'v.mat', rows, rgb, False, below)
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
            narrow.refused(path, tmp_path, 'a MATLAB file, is cut off or damaged')


def test_mat_files_of_something_else_are_refused(layers, tmp_path):
    path = tmp_path / 'v.mat'
    scipy.io.savemat(path, {'something': np.zeros(3), 'more': 'text'})
    narrow.refused(
        path, tmp_path, 'holds something, more, where a struct with .* layers'
    )
    scipy.io.savemat(path, {'net': {'layers': [{'name': 'a'}], 'params': [1]}})
    narrow.refused(path, tmp_path, 'a DagNN network, whose arrays are in params')
    scipy.io.savemat(path, {'layers': np.arange(3)})
    narrow.refused(path, tmp_path, 'holds no layers but no normalization.averageImage')
    rows = narrow.as_convolutions(narrow.flipped(layers))
    write_mat(path, rows, np.ones((1, 1, 4)), False)
    narrow.refused(path, tmp_path, r'has a mean of shape \[4\] for 3 channels')
    write_mat(path, {**rows, 'bn': (np.ones((4, 2)), np.ones(4))}, np.ones(3), False)
    narrow.refused(path, tmp_path, r'to fc8 of VGG-19 and bn \[4, 2\], which VGG-19')
    other = {name: rows['conv1_1'] for name in ('conv1', 'conv2')}
    write_mat(path, other, np.ones(3), False, ['net'])
    narrow.refused(path, tmp_path, 'MATLAB file, holds conv1 .*, conv2 .*VGG-19 begins')


def test_a_matlab_layer_of_one_array_is_skipped(layers, tmp_path, capsys):
    rows = narrow.as_convolutions(narrow.flipped(layers))
    cells = np.empty(len(rows) + 1, object)
    for at, (name, (weights, biases)) in enumerate(rows.items()):
        pair = np.empty((1, 2), object)
        pair[0, 0], pair[0, 1] = weights, biases
        cells[at] = {'name': name, 'weights': pair}
    alone = np.empty((1, 1), object)
    alone[0, 0] = np.ones((5, 1))
    cells[-1] = {'name': 'slope', 'weights': alone}
    about = {'normalization': {'averageImage': narrow.MEAN[::-1]}}
    scipy.io.savemat(tmp_path / 'v.mat', {'layers': cells, 'meta': about})
    narrow.check(narrow.converted(tmp_path / 'v.mat', 'vgg19', tmp_path), layers)
    assert 'note: skipped, not weights and biases: slope' in capsys.readouterr().out


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
    narrow.refused(
        tmp_path, tmp_path, 'a TensorFlow checkpoint, is a folder without one'
    )
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable('vgg_19/conv1/conv1_1/weights', [3, 3, 3, 64])
        session.run(tf.global_variables_initializer())
        prefix = tmp_path / 'vgg_19.ckpt'
        tf.train.Saver().save(session, str(prefix), write_meta_graph=False)
    narrow.refused(
        prefix, tmp_path, 'has 1 array for conv1_1, where VGG-19 has weights'
    )
    said = 'vgg_19/conv1/conv1_1/weights .*: 0 of them are conv1/weights, where one'
    narrow.refused(prefix, tmp_path, said, network='cnnm')
    (data,) = tmp_path.glob('*.data*')
    data.write_bytes(data.read_bytes()[:-100])
    narrow.refused(prefix, tmp_path, 'a TensorFlow checkpoint, is cut off or damaged')


def test_checkpoints_of_other_networks_are_refused(tmp_path):
    prefix = tmp_path / 'PNet-18'
    with tf.Graph().as_default(), tf.Session() as session:
        for name, shape in (('conv1', [3, 3, 3, 10]), ('conv4_1', [1, 1, 10, 2])):
            for variable in (f'{name}/weights', f'{name}/weights/Momentum'):
                tf.get_variable(variable, shape)
            tf.get_variable(f'{name}/biases', shape[-1:])
            tf.get_variable(f'{name}/alphas', shape[-1:])
        session.run(tf.global_variables_initializer())
        tf.train.Saver().save(session, str(prefix))
    said = r'holds conv1/alphas \[10\], conv1/biases \[10\], conv1/weights .* 0 of them'
    narrow.refused(prefix, tmp_path, said)
    (data,) = tmp_path.glob('*.data*')
    for part in (prefix, f'{prefix}.index', f'{prefix}.meta', data):
        narrow.refused(part, tmp_path, 'but no variable mean, which train.py', 'cnnm')
