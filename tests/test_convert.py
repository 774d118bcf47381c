"""Conversion: what it refuses, whatever the format, and how the command ends."""

import ast
import pathlib

import narrow
import numpy as np
import pytest

import vgg
from weights import convert
from weights import dump


@pytest.fixture
def narrowed(monkeypatch):
    """Both networks at a fraction of their width until the test ends."""
    narrow.patch(monkeypatch)


@pytest.fixture
def layers(narrowed):
    """A random narrow VGG-19."""
    return narrow.random_network(vgg.vgg_19)


def test_values_that_are_not_finite_are_refused(layers, tmp_path):
    layers['fc8'][0][1, 2] = np.nan
    pairs = {name: list(pair) for name, pair in layers.items()}
    np.save(tmp_path / 'v.npy', pairs, allow_pickle=True)
    match = 'v.npy .*fc8/weights holds .* not finite'
    narrow.refused(tmp_path / 'v.npy', tmp_path, match)


def test_a_file_of_another_network_is_refused(layers, tmp_path):
    path = tmp_path / 'v.npy'
    np.save(path, {n: list(p) for n, p in layers.items()}, allow_pickle=True)
    said = (
        r'holds conv1_1 \[3, 3, 3, 2\], .* and 14 more; CNN-M-2048 begins with conv1 '
    )
    narrow.refused(path, tmp_path, said, 'cnnm')
    layers['conv5_1'] = layers['conv1_2']
    wrong = {name: list(pair) for name, pair in layers.items()}
    np.save(path, wrong, allow_pickle=True)
    said = r'has conv5_1 of weights \[3, 3, 2, 2\] .*, where VGG-19 has \[3, 3, 9, 9\]'
    narrow.refused(path, tmp_path, said)


def test_another_frame_size_is_refused_by_its_flag(layers, tmp_path):
    path = tmp_path / 'v.npy'
    np.save(path, {n: list(p) for n, p in layers.items()}, allow_pickle=True)
    for size, said in (
        (96, r'has fc6 \[36, 64\] where --frame_size=96 gives \[81, 64\]: name the'),
        (31, 'cannot be of --frame_size=31: VGG-19 needs more'),
    ):
        with pytest.raises(ValueError, match=said):
            convert.convert(path, 'vgg19', tmp_path / 'out', size)
    assert not (tmp_path / 'out').exists()
    convert.convert(path, 'vgg19', tmp_path / 'out', 95)  # 2x2 positions as for 64


def test_a_dump_is_kept_when_its_successor_is_refused(layers, tmp_path):
    path = tmp_path / 'v.npy'
    np.save(path, {n: list(p) for n, p in layers.items()}, allow_pickle=True)
    narrow.converted(path, 'vgg19', tmp_path)
    before = dump.fingerprint(tmp_path / 'converted')
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match='is cut off or damaged'):
        convert.convert(path, 'vgg19', tmp_path / 'converted', narrow.SIZE)
    assert dump.fingerprint(tmp_path / 'converted') == before
    dump.verify(tmp_path / 'converted')


def test_weights_import_nothing_from_above():
    for path in pathlib.Path(convert.__file__).parent.glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, 'names', [])]
            if isinstance(node, ast.ImportFrom):
                names = [node.module]
            elif not isinstance(node, ast.Import):
                continue
            assert not {'vgg', 'cnnm', 'model', 'train', 'evaluate'} & set(names), path


def test_the_command_ends_in_one_line(tmp_path, run_script):
    marker = tmp_path / 'marker'
    content = b'cos\nsystem\n(S"touch %s"\ntR.' % str(marker).encode()
    (tmp_path / 'v.npy').write_bytes(b'\x80\x02' + content)
    words = f'--source={tmp_path}/v.npy --network=vgg19 --out={tmp_path}/out'
    done = run_script('-m', 'weights.convert', *words.split(), code=1)
    assert 'Traceback' not in done.stderr
    assert 'which no file of weights needs' in done.stderr.splitlines()[-1]
    assert not marker.exists() and not (tmp_path / 'out').exists()
