"""Pickled weights: exact in every form, and never run."""

import io
import os
import pickle
import struct
import zipfile

import narrow
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

import vgg
from weights import dump
from weights import pickles
from weights import published
from weights import readers


@pytest.fixture
def narrowed(monkeypatch):
    """Both networks at a fraction of their width until the test ends."""
    narrow.patch(monkeypatch)


@pytest.fixture
def layers(narrowed):
    """A random narrow VGG-19."""
    return narrow.random_network(vgg.vgg_19)


def test_tensorflow_vgg_npy(layers, tmp_path, capsys):
    pairs = {name: list(pair) for name, pair in layers.items()}
    np.save(tmp_path / 'vgg19.npy', pairs, allow_pickle=True)
    narrow.check(narrow.converted(tmp_path / 'vgg19.npy', 'vgg19', tmp_path), layers)
    out = capsys.readouterr().out
    assert 'conv5_4/weights' in out
    assert f'fingerprint {dump.fingerprint(tmp_path / "converted")}' in out


def test_a_pickled_dict_of_dicts(layers, tmp_path):
    stored = {n: {'biases': b, 'weights': w} for n, (w, b) in layers.items()}
    np.save(tmp_path / 'vgg19.npy', stored, allow_pickle=True)
    narrow.check(narrow.converted(tmp_path / 'vgg19.npy', 'vgg19', tmp_path), layers)


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_flat_pickled_dict_of_every_protocol(layers, tmp_path, protocol):
    flat = {}
    for name, (weights, biases) in layers.items():
        # Fortran order, which a pickle keeps
        flat[f'{name}_weights'] = np.asfortranarray(weights)
        flat[f'{name}_biases'] = biases
    (tmp_path / 'flat').write_bytes(pickle.dumps(flat, protocol))
    narrow.check(narrow.converted(tmp_path / 'flat', 'vgg19', tmp_path), layers)


def python_2_array(array):
    """The opcodes by which Python 2 pickled an array: its bytes are a `str`."""
    data = array.tobytes()
    return b''.join(
        [
            b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntU\x01btR(I1\n(',
            *(b'I%d\n' % n for n in array.shape),
            b'tcnumpy\ndtype\n(U\x02f4I0\nI1\ntR(I3\nU\x01<NNNI-1\nI-1\nI0\ntbI00\n',
            b'T' + struct.pack('<i', len(data)) + data + b'tb',
        ]
    )


def test_pickles_of_python_2(layers, tmp_path):
    content = [b'\x80\x02(']
    for name, pair in layers.items():
        content += [b'U%c' % len(name) + name.encode(), b'(']
        content += [python_2_array(array) for array in pair] + [b'l']
    content += [b'd.']
    (tmp_path / 'vgg19.npy').write_bytes(b''.join(content))
    narrow.check(narrow.converted(tmp_path / 'vgg19.npy', 'vgg19', tmp_path), layers)


class Command:
    """Pickles as a call of os.system."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def hostile(kind, path, marker):
    """Writes a file of weights whose reading would run a command."""
    if kind == 'npy':
        np.save(path, {'conv1_1': [Command(marker), 0]}, allow_pickle=True)
    elif kind == 'pickle':
        path.write_bytes(pickle.dumps({'conv1_1': Command(marker)}, 2))
    elif kind == 'torch zip':
        with zipfile.ZipFile(path, 'w') as archive:
            archive.writestr('vgg/data.pkl', pickle.dumps(Command(marker), 2))
    else:
        start = [pickles.TORCH_MAGIC, 1001, {'little_endian': True}, Command(marker)]
        path.write_bytes(b''.join(pickle.dumps(part, 2) for part in start))


@pytest.mark.parametrize('kind', ['npy', 'pickle', 'torch zip', 'torch row'])
def test_a_pickle_that_would_run_a_command_does_not(tmp_path, kind):
    path, marker = tmp_path / 'file.npy', tmp_path / 'marker'
    hostile(kind, path, marker)
    narrow.refused(path, tmp_path, 'system, which no file of weights needs')
    assert not marker.exists()
    # the command is a real one: an ordinary unpickler runs it
    if kind == 'pickle':
        pickle.loads(path.read_bytes())
        assert marker.exists()


@pytest.mark.parametrize(
    'content',
    [
        b'cbuiltins\neval\n(S"1"\ntR.',
        b'cnumpy.core.multiarray\nfromfile\n.',
        b'cnumpy\nload\n.',
        b'ctorch\nload\n.',
        b'ccollections\nnamedtuple\n.',
        b'c_codecs\ndecode\n.',
        b'cnumpy.core.multiarray\n_reconstruct.__globals__\n.',
        b'Pid\n.',
        b'(ios\nsystem\n.',
        b'\x8c\x02os\x8c\x06system\x93.',
    ],
)
def test_only_the_named_constructors_are_admitted(content):
    for names, storages in ((pickles.NUMPY_NAMES, None), (pickles.TORCH_NAMES, {})):
        if content == b'Pid\n.' and storages is not None:
            continue
        with pytest.raises(published.Mismatch, match='^asks for |^refers to data'):
            pickles.Unpickler(io.BytesIO(b'\x80\x04' + content), names, storages).load()


def test_broken_pickles_are_refused(layers, tmp_path):
    path = tmp_path / 'vgg19.npy'
    np.save(path, {n: list(p) for n, p in layers.items()}, allow_pickle=True)
    whole = path.read_bytes()
    for length in (100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        narrow.refused(path, tmp_path, 'a pickled .npy, is cut off or damaged')


def test_pickles_of_something_else_are_refused(layers, tmp_path):
    path = tmp_path / 'other.npy'
    for stored, said in (
        ([1, 2, 3], 'a pickle, holds a list, where a dict of layers'),
        ({'conv1_1': [1, 2, 3]}, 'a pickle, has 3 arrays for conv1_1, where VGG-19'),
        (
            {'conv1_1': 'W'},
            'a pickle, holds something else than arrays of numbers in co',
        ),
        ({'conv1_1': ['W', [1, [2]]]}, 'a pickle, holds something else than arrays'),
        ({'conv1_1_weights': np.ones(3)}, 'a pickle, has 1 array for conv1_1, where'),
        ({}, 'a pickle, holds no layers; VGG-19 begins with'),
        ({'a\nb': [np.ones(3)] * 2}, r"a pickle, holds 'a\\nb' \[3\]; VGG-19 begins"),
        (np.array(['x'], object), 'a pickle, holds a list, where a dict of layers'),
    ):
        path.write_bytes(pickle.dumps(stored))
        narrow.refused(path, tmp_path, said)
    np.save(path, np.zeros(3))
    said = r'a pickled .npy, holds one array \[3\] of float64, where a dict of layers'
    narrow.refused(path, tmp_path, said)
    np.save(path, np.array([], object), allow_pickle=True)
    narrow.refused(path, tmp_path, 'a pickled .npy, holds a list, where a dict')
    nested = {'pnet': [np.ones(n + 1) for n in range(13)], 'rnet': [np.ones(2)] * 16}
    np.save(path, nested, allow_pickle=True)
    narrow.refused(path, tmp_path, 'holds pnet of 13 arrays, rnet of 16 arrays; VGG-19')
    del layers['fc7']
    np.save(path, {n: list(p) for n, p in layers.items()}, allow_pickle=True)
    narrow.refused(path, tmp_path, 'holds fc8 of VGG-19 but not fc7 before it')


# torch -------------------------------------------------------------------------------


def torch_pickle(state, archive, wrap=''):
    """The opcodes by which torch.save pickles a state dict, and its storages.

    With archive, as the zip archive's data.pkl; else as the row of pickles has it,
    with the older function and a sixth item in each storage's identity. With wrap,
    below that name in a dict, as training scripts save it.
    """

    def text(words):
        return b'X' + struct.pack('<I', len(words)) + words.encode()

    def integers(numbers):
        return b''.join(b'J' + struct.pack('<i', number) for number in numbers)

    ordered = b'ccollections\nOrderedDict\n)R'
    function = b'_rebuild_tensor_v2' if archive else b'_rebuild_tensor'
    content = [ordered, b'(']
    storages = {}
    for number, (name, array) in enumerate(state.items()):
        key = str(number) if archive else str(94_000_000 + number)
        storages[key] = array
        identity = text('storage') + b'ctorch\nFloatStorage\n'
        identity += text(key) + text('cpu')
        identity += integers([array.size]) + (b'' if archive else b'N')
        strides = [step // 4 for step in array.strides]
        content += [text(name), b'ctorch._utils\n', function, b'\n((', identity, b'tQ']
        content += [integers([0]), b'(', integers(array.shape), b't(']
        content += [integers(strides), b't', (b'\x89' + ordered) * archive, b'tR']
    content += [b'u}', text('_metadata'), ordered, b'sb']
    if wrap:
        content = [b'}(', text('epoch'), integers([9]), text(wrap), *content, b'u']
    return b''.join([b'\x80\x02', *content, b'.']), storages


def write_torch(path, state, archive, wrap=''):
    """Writes a state dict in one of torch's two serializations."""
    content, storages = torch_pickle(state, archive, wrap)
    if archive:
        with zipfile.ZipFile(path, 'w') as file:
            file.writestr('vgg19/data.pkl', content)
            file.writestr('vgg19/byteorder', 'little')
            for key, array in storages.items():
                file.writestr(f'vgg19/data/{key}', array.tobytes())
            file.writestr('vgg19/version', '3\n')
        return
    system = {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {}}
    parts = [pickle.dumps(part, 2) for part in (pickles.TORCH_MAGIC, 1001, system)]
    parts += [content, pickle.dumps(sorted(storages), 2)]
    for key in sorted(storages):
        parts += [struct.pack('<q', storages[key].size), storages[key].tobytes()]
    path.write_bytes(b''.join(parts))


def torch_state(layers):
    """torchvision's state dict of a network in our layout."""
    numbers = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34]
    names = [f'features.{n}' for n in numbers] + [f'classifier.{n}' for n in (0, 3, 6)]
    state = {}
    turned = narrow.output_first(layers)
    for name, layer in zip(names, readers.VGG_19, strict=True):
        state[f'{name}.weight'], state[f'{name}.bias'] = turned[layer]
    return state


def torch_forward(state, frame):
    """Logits of torchvision's VGG-19, C, H, W throughout, on R, G, B in 0..255."""
    mean = np.array([0.485, 0.456, 0.406])[:, None, None]
    std = np.array([0.229, 0.224, 0.225])[:, None, None]
    x = (frame.transpose(2, 0, 1) / 255 - mean) / std
    for number in range(37):
        weights = state.get(f'features.{number}.weight')
        if weights is not None:
            x = np.pad(x, [(0, 0), (1, 1), (1, 1)])
            x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
            x = np.einsum('chwij,ocij->ohw', x, weights, optimize=True)
            x = np.maximum(x + state[f'features.{number}.bias'][:, None, None], 0)
        elif number in (4, 9, 18, 27, 36):
            channels, height, width = x.shape
            x = x.reshape(channels, height // 2, 2, width // 2, 2).max(axis=(2, 4))
    x = x.ravel()
    for number in (0, 3, 6):
        x = state[f'classifier.{number}.weight'] @ x
        x = x + state[f'classifier.{number}.bias']
        x = x if number == 6 else np.maximum(x, 0)
    return x


@pytest.mark.parametrize('archive', [True, False])
def test_torchvision_in_both_serializations(layers, tmp_path, archive):
    path = tmp_path / 'vgg19.pth'
    state = torch_state(narrow.flipped(layers))
    write_torch(path, state, archive)
    arrays = narrow.converted(path, 'vgg19', tmp_path)
    bgr = 255 * np.array([0.406, 0.456, 0.485])
    narrow.check(arrays, layers, bgr, 1 / 255, skip=['conv1_1'])
    np.testing.assert_allclose(
        arrays['conv1_1/weights'],
        layers['conv1_1'][0] / np.array([0.225, 0.224, 0.229])[:, None],
        rtol=1e-6,
    )
    frame = np.random.RandomState(4).randint(0, 256, [1, narrow.SIZE, narrow.SIZE, 3])
    with tf.Graph().as_default(), tf.Session() as session:
        images = tf.placeholder(tf.uint8, frame.shape)
        logits, _ = vgg.vgg_19(images, 6)
        vgg.load_weights(session, tmp_path / 'converted', 'vgg_19')
        got = session.run(logits, {images: frame})[0]
    expected = torch_forward(state, frame[0, ..., ::-1])
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_torch_itself_writes_what_is_written_here(layers, tmp_path):
    torch = pytest.importorskip('torch')
    state = {n: torch.tensor(a) for n, a in torch_state(narrow.flipped(layers)).items()}
    for archive in (True, False):
        path = tmp_path / 'vgg19.pth'
        torch.save(state, path, _use_new_zipfile_serialization=archive)
        read = pickles.read_torch(path)
        for name, tensor in state.items():
            np.testing.assert_array_equal(read[name], tensor.numpy())


@pytest.mark.parametrize('wrap', ['state_dict', 'model', ''])
@pytest.mark.parametrize('prefix', ['module.', 'features.module.', ''])
def test_torch_checkpoints_of_a_training_script(layers, tmp_path, wrap, prefix):
    state = {}
    for name, array in torch_state(narrow.flipped(layers)).items():
        if prefix == 'features.module.':
            name = name.replace('features.', prefix)
        else:
            name = prefix + name
        state[name] = array
    write_torch(tmp_path / 'checkpoint.pth.tar', state, True, wrap)
    arrays = narrow.converted(tmp_path / 'checkpoint.pth.tar', 'vgg19', tmp_path)
    np.testing.assert_array_equal(arrays['conv5_4/weights'], layers['conv5_4'][0])
    np.testing.assert_array_equal(arrays['fc6/weights'], layers['fc6'][0])
    assert len(arrays) == 40


def test_torch_objects_that_are_no_state_dict_are_refused(tmp_path):
    path = tmp_path / 'vgg19.pth'
    for content, said in (
        (pickle.dumps([1, 2], 2), r'holds a list: save model.state_dict\(\) instead'),
        (pickle.dumps({'epoch': 3}, 2), "no layers, and none of torchvision's layers"),
        (
            b'\x80\x02ctorchvision.models.vgg\nVGG\n.',
            r'asks for torchvision.models.vgg.VGG, which .*: save model.state_dict\(\)',
        ),
    ):
        with zipfile.ZipFile(path, 'w') as file:
            file.writestr('vgg19/data.pkl', content)
        narrow.refused(path, tmp_path, said)


@pytest.mark.parametrize('archive', [True, False])
def test_broken_torch_files_are_refused(layers, tmp_path, archive):
    path = tmp_path / 'vgg19.pth'
    state = torch_state(layers)
    write_torch(path, state, archive)
    whole = path.read_bytes()
    for length in (600, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        what = 'a zip archive that' if archive else 'by its first bytes a torch file,'
        narrow.refused(path, tmp_path, f'{what} is cut off or damaged')


@pytest.mark.parametrize(
    'offset, size, stride',
    [(0, (7,), (1,)), (1, (6,), (1,)), (0, (2, 2), (5, 1)), (-1, (2,), (1,)),
     (3, (2,), (-1,)), (0, (-1,), (1,)), (2**40, (1,), (1,)), (0, (2,), (2**61,))],
)  # fmt: skip
def test_a_tensor_beyond_its_storage_is_refused(offset, size, stride):
    storage = pickles.Storage('<f4', 6)
    storage.data = np.arange(6, dtype=np.float32).tobytes()
    whole = pickles.Tensor(storage, 1, (2, 2), (3, 1)).value()
    np.testing.assert_array_equal(whole, [[1, 2], [4, 5]])
    with pytest.raises(pickle.UnpicklingError, match='beyond its storage'):
        pickles.Tensor(storage, offset, size, stride).value()


def test_torch_files_of_other_networks_are_refused(layers, tmp_path):
    path = tmp_path / 'vgg19.pth'
    state = torch_state(layers)
    state['features.1.weight'] = state['features.1.bias'] = np.zeros(2, np.float32)
    write_torch(path, state, True)
    said = r'conv1_1 to fc8 of VGG-19 and features.1 \[2\], which VGG-19 does not have'
    narrow.refused(path, tmp_path, said)
    del state['features.1.weight'], state['features.1.bias']
    del state['features.0.weight']
    write_torch(path, state, True)
    narrow.refused(path, tmp_path, 'has 1 array for conv1_1, where VGG-19 has')
    del state['features.0.bias']
    write_torch(path, state, True)
    narrow.refused(
        path, tmp_path, r'holds conv1_2 \[3, 3, .*; VGG-19 begins with conv1_1'
    )


def test_a_vgg_19_of_style_transfer_is_refused(tmp_path):
    state = {}
    for name, shape in (
        ('0', (3, 3, 1, 1)),
        ('2', (64, 3, 3, 3)),
        ('5', (64, 64, 3, 3)),
    ):
        state[f'{name}.weight'] = np.ones(shape, np.float32)
        state[f'{name}.bias'] = np.ones(shape[0], np.float32)
    path = tmp_path / 'vgg_normalised.pth'
    write_torch(path, state, False)
    said = r"holds 0 \[3, 3, 1, 1\], .*none of torchvision's.* filters are rescaled"
    narrow.refused(path, tmp_path, said)
    del state['0.weight'], state['0.bias']
    write_torch(path, state, False)
    said = r"holds 2 \[64, .*none of torchvision's layers features.0, .*, ...: convert"
    narrow.refused(path, tmp_path, said)
