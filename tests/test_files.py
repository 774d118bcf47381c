"""Weight files: told apart by content, and refused by what they are."""

import gzip
import pathlib
import zipfile

import h5py
import narrow
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import vgg
from weights import convert
from weights import dump


@pytest.fixture(scope='module')
def real_weights(real_clips):
    """Folder of published weight files beside the real clips; skips without it."""
    folder = real_clips.parent / 'weights'
    if not folder.is_dir():
        pytest.skip('no folder weights beside that of REAL_CLIPS')
    return folder


def test_files_of_no_known_format_are_refused(tmp_path):
    narrow.refused(tmp_path / 'none.npy', tmp_path, 'does not exist')
    path = tmp_path / 'readme'
    for content in (b'hello', b'\x00' * 1000):
        path.write_bytes(content)
        narrow.refused(path, tmp_path, 'is of no known format: pickled .npy, Ker')


PAGE = b'<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n'
POINTER = b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 574671192\n'


@pytest.mark.parametrize(
    'content, said',
    [
        (b'', 'is empty: download it again'),
        (PAGE, 'is a web page, not weights: the address'),
        (b'\xef\xbb\xbf\n\n  <html lang="en">', 'is a web page, not weights'),
        (b'<?xml version="1.0"?><Error>AccessDenied</Error>', 'is a web page, not we'),
        (POINTER, 'is a Git LFS pointer, not the file itself: .* git lfs pull'),
        (gzip.compress(b'vgg_19.ckpt', mtime=0), 'is compressed with gzip: unpack it'),
        (b'MATLAB 7.3 MAT-file, Platform: GLNXA64' + b' ' * 600, "with '-v7'"),
        (b'PK\x03\x04' + b'\x00' * 1000, 'is a zip archive that is cut off or damaged'),
    ],
)  # fmt: skip
def test_what_was_fetched_in_place_of_weights_is_named(tmp_path, content, said):
    path = tmp_path / 'vgg19.h5'
    path.write_bytes(content)
    narrow.refused(path, tmp_path, said)


def test_a_real_file_of_matlab_7_3_begins_so(tmp_path):
    """HDF5 behind a block of 512 bytes that MATLAB writes, by HDF5's own means."""
    path = tmp_path / 'vgg19.mat'
    with h5py.File(path, 'w', userblock_size=512) as file:
        file['layers'] = np.zeros(3)
    with open(path, 'r+b') as file:
        file.write(
            b'MATLAB 7.3 MAT-file, Platform: GLNXA64, Created on: Mon'.ljust(124)
        )
    narrow.refused(path, tmp_path, 'is a MATLAB 7.3 file, which is not read: save it')


def test_archives_are_named(tmp_path):
    path = tmp_path / 'vgg19.pth'
    np.savez(path.with_suffix('.npz'), conv1_1_W=np.zeros(2), conv1_1_b=np.zeros(2))
    said = r"is a NumPy archive \(.npz\) of 2 arrays, 'conv1_1_W.npy', .* with np.save"
    narrow.refused(path.with_suffix('.npz'), tmp_path, said)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('weights/vgg19.npy', b'')
        archive.writestr('readme\n.txt', b'')
    said = r"is a zip archive of 2 files, 'weights/vgg19.npy', 'readme\\n.txt': unpack"
    narrow.refused(path, tmp_path, said)


def test_a_keras_archive_is_named_and_its_weights_are_read(tmp_path):
    path = tmp_path / 'vgg19.keras'
    tf.keras.utils.set_random_seed(1)
    model = tf.keras.applications.VGG19(
        weights=None, input_shape=(32, 32, 3), include_top=False
    )
    model.save(path)
    narrow.refused(path, tmp_path, 'is a Keras archive .* name its model.weights.h5')
    with zipfile.ZipFile(path) as archive:
        archive.extract('model.weights.h5', tmp_path)
    source = tmp_path / 'model.weights.h5'
    convert.convert(source, 'vgg19', tmp_path / 'converted', 32)
    for layer in ('block1_conv1', 'block3_conv4', 'block5_conv4'):
        name = layer[5:6] + '_' + layer[-1]
        ours = np.load(tmp_path / f'converted/conv{name}/weights.npy')
        np.testing.assert_array_equal(ours, model.get_layer(layer).get_weights()[0])


REAL = [
    ('DCFNet-net-7-125-2.mat', 'vgg19',
     r'a MATLAB file, holds conv1 \[3, 3, 3, 32\], conv2 .*; VGG-19 begins with'),
    ('DCFNet-net-7-125-2.mat', 'cnnm',
     r'has conv1 of weights \[3, 3, 3, 32\] .*, where CNN-M-2048 has \[7, 7, 3, 96\]'),
    ('PNet-18', 'vgg19',
     r'a TensorFlow checkpoint, holds Variable .* 0 of them are conv1_1/weights'),
    ('PNet-18.index', 'cnnm',
     r'holds conv1 \[3, 3, 3, 10\], .* but no variable mean, which train.py saves'),
    ('det1.caffemodel', 'vgg19',
     r'a .caffemodel, holds conv1 \[3, 3, 3, 10\], prelu1 \[10\], .*; VGG-19 begins'),
    ('det1.caffemodel', 'cnnm',
     r'has conv1 of weights \[3, 3, 3, 10\] .*, where CNN-M-2048 has \[7, 7, 3, 96\]'),
    ('mtcnn_weights.npy', 'vgg19',
     r'a pickled .npy, holds pnet of 13 arrays, rnet of 16 .*; VGG-19 begins with'),
    ('squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5', 'vgg19',
     r'an HDF5 file, holds conv1 \[3, 3, 3, 64\], fire2/expand1x1 .* and 20 more; VGG'),
    ('squeezenet_weights_tf_dim_ordering_tf_kernels_notop.h5', 'cnnm',
     r'has conv1 of weights \[3, 3, 3, 64\] .*, where CNN-M-2048 has \[7, 7, 3, 96\]'),
    ('vgg19_conv1_1-conv3_4_keras.h5', 'cnnm',
     r'holds conv1_1 \[3, 3, 3, 64\], .* and 3 more; CNN-M-2048 begins with conv1 '),
    ('vgg_normalised_conv3_1.pth', 'vgg19',
     r"holds 0 \[3, 3, 1, 1\], .*none of torchvision's .* filters are rescaled"),
]  # fmt: skip


@pytest.mark.parametrize('name, network, said', REAL)
def test_real_files_of_other_networks_are_refused(
    real_weights, tmp_path, name, network, said
):
    narrow.refused(real_weights / name, tmp_path, said, network)


@pytest.mark.parametrize('frame_size', [224, 112])
def test_the_real_first_layers_of_vgg_19_are_loaded(
    real_weights, tmp_path, frame_size, capsys
):
    source = real_weights / 'vgg19_conv1_1-conv3_4_keras.h5'
    expected = {}
    with h5py.File(source) as file:
        for name in ('1_1', '1_2', '2_1', '2_2', '3_1', '3_2', '3_3', '3_4'):
            layer = f'block{name[0]}_conv{name[2]}'
            expected[f'conv{name}/weights'] = file[f'{layer}/{layer}_W_1:0'][()]
            expected[f'conv{name}/biases'] = file[f'{layer}/{layer}_b_1:0'][()]
    assert sum(array.size for array in expected.values()) == 2_325_568
    convert.convert(source, 'vgg19', tmp_path / 'd', frame_size)
    said = (
        'note: the file holds conv1_1 to conv3_4, 8 of 19 layers; conv4_1 to fc8 will'
    )
    assert said in capsys.readouterr().out
    assert len(dump.description(tmp_path / 'd')['missing_layers']) == 11
    with tf.Graph().as_default() as graph, tf.Session() as session:
        vgg.vgg_19(tf.placeholder(tf.uint8, [None, frame_size, frame_size, 3]), 6)
        report = vgg.load_weights(session, tmp_path / 'd', 'vgg_19')
        assert sorted(report.loaded) == sorted([*expected, 'mean', 'scale'])
        made = dump.variables(graph, 'vgg_19')
        loaded = session.run({name: made[name] for name in report.loaded})
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded[name], array)
    assert 'conv4_1 to fc8 start at random' in capsys.readouterr().out


def test_every_real_file_is_in_these_tests(real_weights):
    names = {pathlib.Path(name).stem for name, _, _ in REAL} | {'README'}
    assert {path.stem for path in real_weights.iterdir()} == names
