"""Conversion: what it refuses, whatever the format, and how the command ends."""

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
    narrow.refused(path, tmp_path, 'not cnnm: it has no conv1, no conv2', 'cnnm')
    layers['conv5_1'] = layers['conv1_2']
    wrong = {name: list(pair) for name, pair in layers.items()}
    np.save(path, wrong, allow_pickle=True)
    narrow.refused(path, tmp_path, 'conv5_1/weights.* is .*the variable is')


def test_unknown_files_are_refused(tmp_path):
    narrow.refused(tmp_path / 'none.npy', tmp_path, 'does not exist')
    path = tmp_path / 'readme'
    for content in (b'', b'hello', b'\x00' * 1000):
        path.write_bytes(content)
        narrow.refused(path, tmp_path, 'none of the known formats')


def test_a_dump_is_kept_when_its_successor_is_refused(layers, tmp_path):
    path = tmp_path / 'v.npy'
    np.save(path, {n: list(p) for n, p in layers.items()}, allow_pickle=True)
    narrow.converted(path, 'vgg19', tmp_path)
    before = dump.fingerprint(tmp_path / 'converted')
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError):
        convert.convert(path, 'vgg19', tmp_path / 'converted', narrow.SIZE)
    assert dump.fingerprint(tmp_path / 'converted') == before
    dump.verify(tmp_path / 'converted')


def test_the_command_ends_in_one_line(tmp_path, run_script):
    marker = tmp_path / 'marker'
    content = b'cos\nsystem\n(S"touch %s"\ntR.' % str(marker).encode()
    (tmp_path / 'v.npy').write_bytes(b'\x80\x02' + content)
    words = f'--source={tmp_path}/v.npy --network=vgg19 --out={tmp_path}/out'
    done = run_script('-m', 'weights.convert', *words.split(), code=1)
    assert 'Traceback' not in done.stderr
    assert 'which no file of weights needs' in done.stderr.splitlines()[-1]
    assert not marker.exists() and not (tmp_path / 'out').exists()
