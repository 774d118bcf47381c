"""Readers of published weight files, one a format, all giving the same layout.

    contents = readers.read('vgg19_weights.h5')
    contents.layers['conv1_1']      # weights [3, 3, 3, 64], biases [64]

The layout is this project's: convolutions [H, W, in, out], matrices [in, out], fc6
flattened in H, W, C order, input channels B, G, R. Equations between the layouts stand
at the end. Formats are told apart by their first bytes, not by file names.
"""

import mmap
import pathlib
import pickle
import re
import struct
import typing
import zipfile
import zlib

import h5py
import numpy as np
import scipy.io
import tensorflow.compat.v1 as tf

from weights import pickles

VGG_19 = [
    f'conv{block}_{layer}'
    for block, layers in enumerate((2, 2, 4, 4, 4), start=1)
    for layer in range(1, layers + 1)
]
FC = ['fc6', 'fc7', 'fc8']
KERAS_FC = {'fc1': 'fc6', 'fc2': 'fc7', 'predictions': 'fc8'}
TORCH_FEATURES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
TORCH_LAYERS = [f'features.{number}' for number in TORCH_FEATURES]
TORCH_LAYERS += [f'classifier.{number}' for number in (0, 3, 6)]
TORCH_MEAN = (0.485, 0.456, 0.406)  # R, G, B in 0..1
TORCH_STD = (0.229, 0.224, 0.225)
SLIM_MEAN = (123.68, 116.78, 103.94)  # R, G, B
CHECKPOINT = 'TensorFlow checkpoint'
TORCH_START = pickle.dumps(pickles.TORCH_MAGIC, protocol=2)
TABLE_MAGIC = b'\x57\xfb\x80\x8b\x24\x75\x47\xdb'  # ends a TensorFlow checkpoint
BROKEN = (  # what the libraries raise on a file that is cut off or not what it seems
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    scipy.io.matlab.MatReadError,
    struct.error,
    tf.errors.OpError,
    zipfile.BadZipFile,
    zlib.error,
)


class Contents(typing.NamedTuple):
    """What a file holds, in this project's layout."""

    format: str
    layers: dict  # {layer: (weights, biases)}, float32
    mean: typing.Any = None  # float32 [channels], None where the file has none
    scale: float = 1.0  # factor of the input after the mean is subtracted
    remarks: tuple = ()  # what a user should know, in words


def read(source, network):
    """Reads a weight file of any known format.

    Args:
      source: a file, or for a TensorFlow checkpoint its prefix or folder.
      network: 'vgg19' or 'cnnm'.

    Returns:
      Contents.

    Raises:
      ValueError: no such file, a format that is not known, or a broken or hostile file.
    """
    kind, reader = recognized(source)
    try:
        # of all files, only a checkpoint may hold both networks
        contents = reader(source, network) if kind == CHECKPOINT else reader(source)
        layers = {}
        for layer, (weights, biases) in contents.layers.items():
            biases = np.asarray(biases, np.float32).ravel()
            layers[layer] = np.asarray(weights, np.float32), biases
    except BROKEN as error:
        what = ' '.join(str(error).split()) or type(error).__name__
        what = f'it lacks {what}' if isinstance(error, KeyError) else what
        raise ValueError(f'{source}, by its first bytes a {kind}: {what}') from error
    return contents._replace(layers=layers)


def recognized(source):
    """What a file is by its first bytes, and the function that reads it.

    Raises:
      ValueError: no such file, or none of the formats.
    """
    path = pathlib.Path(source)
    if path.is_dir() or pathlib.Path(f'{source}.index').exists():
        return CHECKPOINT, read_checkpoint
    if not path.exists():
        raise ValueError(f'--source={source} does not exist')
    with open(path, 'rb') as file:
        head = file.read(512)
        file.seek(max(0, path.stat().st_size - len(TABLE_MAGIC)))
        tail = file.read()
    for start, kind, reader in (
        (b'\x89HDF', 'Keras .h5', read_keras),
        (b'MATLAB 5.0', 'MatConvNet .mat', read_matconvnet),
        (b'PK\x03\x04', 'torch .pth', read_torchvision),
        (TORCH_START, 'torch .pth', read_torchvision),
        (b'\x93NUMPY', 'pickled .npy', read_pickled),
        (b'\x80', 'pickle', read_pickled),
    ):
        if head.startswith(start):
            return kind, reader
    if tail == TABLE_MAGIC:
        return CHECKPOINT, read_checkpoint
    # protocol buffers have no magic number: the first field is a name or a layer
    if head[:1] in (b'\x0a', b'\x12') or head[:2] == b'\xa2\x06':
        return '.caffemodel', read_caffe
    raise ValueError(
        f'{source} is none of the known formats: pickled .npy, Keras .h5, torchvision '
        f'.pth, MatConvNet .mat, .caffemodel, TensorFlow checkpoint'
    )


def read_pickled(source):
    """Reads a pickled {layer: [weights, biases]} or {layer_weights: array, ...}."""
    stored = pickles.read_numpy(source)
    if not isinstance(stored, dict):
        raise ValueError(f'it holds a {type(stored).__name__}, not a dict of layers')
    layers = {}
    for name, value in stored.items():
        if isinstance(value, list):
            layers[name] = tuple(value)
        elif name.endswith('_weights'):
            layer = name.removesuffix('_weights')
            layers[layer] = value, stored[f'{layer}_biases']
    return Contents('pickled dict', layers)


def read_keras(source):
    """Reads a Keras .h5 of any layout: every dataset's path names its layer."""
    found = {}

    def visit(path, node):
        layer = keras_layer(path)
        if layer and isinstance(node, h5py.Dataset):
            kind = 'biases' if node.ndim == 1 else 'weights'
            found.setdefault(layer, {})[kind] = node[()]

    with h5py.File(source, 'r') as file:
        file.visititems(visit)
    layers = {name: (pair['weights'], pair['biases']) for name, pair in found.items()}
    return Contents('Keras', layers)


def keras_layer(path):
    """Our name of the layer in an HDF5 path; None where the path names none."""
    parts = path.split('/')
    if parts[0].startswith('optimizer'):
        return None
    for part in parts:
        if block := re.fullmatch(r'block(\d)_conv(\d)', part):
            return f'conv{block[1]}_{block[2]}'
        if part in KERAS_FC:
            return KERAS_FC[part]
        # layers/conv2d_3/vars/0: counted in the order of the network, from no number
        if count := re.fullmatch(r'(conv2d|dense)(?:_(\d+))?', part):
            names = VGG_19 if count[1] == 'conv2d' else FC
            return names[int(count[2] or 0)]
    return None


def fetch_keras():
    """Fetches VGG-19 as tf.keras.applications distributes it, with its hash check.

    Returns:
      Contents.

    Raises:
      ValueError: it could not be fetched.
    """
    try:
        model = tf.keras.applications.VGG19(weights='imagenet')
    # get_file raises a bare Exception where there is no network
    except Exception as error:
        raise ValueError(
            f'--source=keras could not fetch the weights ({error}); download '
            f'vgg19_weights_tf_dim_ordering_tf_kernels.h5 elsewhere and name the file'
        ) from error
    named = {keras_layer(layer.name): layer.get_weights() for layer in model.layers}
    named.pop(None)
    return Contents('tf.keras.applications', named)


def read_torchvision(source):
    """Reads a torch state dict, of torchvision's VGG-19."""
    stored = pickles.read_torch(source)
    names = dict(zip(TORCH_LAYERS, VGG_19 + FC, strict=True))
    layers = {}
    for name in {key.rpartition('.')[0]: None for key in stored}:
        pair = stored[f'{name}.weight'], stored[f'{name}.bias']
        layers[names.get(name, name)] = pair
    layers = from_output_first(layers)
    # (x / 255 - mean) / std = (x - 255 mean) * (1 / 255) / std; the division by std
    # differs by channel, so the filters of conv1_1 take it over
    weights, biases = layers['conv1_1']
    weights = weights / np.array(TORCH_STD, np.float32)[:, np.newaxis]
    layers['conv1_1'] = reverse_channels(weights), biases
    return Contents(
        'torchvision',
        layers,
        mean=255 * np.array(TORCH_MEAN[::-1], np.float32),
        scale=1 / 255,
        remarks=('another training run than the one for BGR 0..255',),
    )


def read_matconvnet(source):
    """Reads a MatConvNet .mat, with the fields of old releases or of new ones."""
    stored = scipy.io.loadmat(source, struct_as_record=False, squeeze_me=True)
    layers = {}
    for layer in stored['layers']:
        if hasattr(layer, 'filters'):
            layers[layer.name] = layer.filters, np.atleast_1d(layer.biases)
        elif np.size(getattr(layer, 'weights', ())):
            layers[layer.name] = layer.weights[0], np.atleast_1d(layer.weights[1])
    layers = flat_fc(layers)
    first = next(iter(layers))
    layers[first] = reverse_channels(layers[first][0]), layers[first][1]
    about = stored['meta'] if 'meta' in stored else stored.get('normalization')
    about = getattr(about, 'normalization', about)
    if not hasattr(about, 'averageImage'):
        raise ValueError(
            f'{source} has no normalization.averageImage, so the mean it was trained '
            'with is not known: take the file as published'
        )
    average = np.asarray(about.averageImage, np.float64)
    remarks = ()
    if average.ndim == 3:
        size = 'x'.join(map(str, average.shape))
        remarks = (f'the {size} mean image is reduced to its channel means',)
        average = average.mean(axis=(0, 1))
    mean = average[::-1].astype(np.float32)
    return Contents('MatConvNet', layers, mean, remarks=remarks)


def read_caffe(source):
    """Reads a .caffemodel, of the first or the second layer format."""
    layers = {}
    with open(source, 'rb') as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    for field, value in message(data):
        if field not in (2, 100):
            continue
        # V1LayerParameter: name 4, blobs 6; LayerParameter: name 1, blobs 7
        name_field, blobs_field = (4, 6) if field == 2 else (1, 7)
        parts = list(message(value))
        blobs = [blob(part) for field, part in parts if field == blobs_field]
        if blobs:
            name = next(bytes(part).decode() for f, part in parts if f == name_field)
            if len(blobs) != 2:
                raise ValueError(f'layer {name} has {len(blobs)} arrays, not 2')
            layers[name] = blobs
    remarks = ('the file holds no mean: the published one is used',)
    return Contents('Caffe', from_output_first(layers), remarks=remarks)


def message(data):
    """Yields (field number, value) of a protocol buffer message.

    Values are ints for varints and memoryviews otherwise (encoding: Protocol Buffers
    documentation, 'Encoding', wire types 0, 1, 2 and 5).
    """
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        else:
            raise ValueError('it is not a protocol buffer')
        if at + length > len(data):
            raise ValueError('the file is cut off')
        yield key >> 3, data[at : at + length]
        at += length


def varint(data, at):
    """The integer at a position, seven bits a byte, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError('it is not a protocol buffer')


def blob(data):
    """A BlobProto as an array: n, c, h, w = 1..4, data = 5, shape = 7 {dim = 1}."""
    old, shape, parts = {}, [], []
    for field, value in message(data):
        if field <= 4:
            old[field] = value
        elif field == 5:
            parts.append(value)  # all at once if packed, else one by one
        elif field == 7:
            for _, dims in message(value):
                at = 0
                while not isinstance(dims, int) and at < len(dims):
                    length, at = varint(dims, at)
                    shape.append(length)
                if isinstance(dims, int):
                    shape.append(dims)
    shape = shape or [old.get(field, 1) for field in (1, 2, 3, 4)]
    return np.frombuffer(b''.join(parts), '<f4').reshape(shape)


def read_checkpoint(source, network):
    """Reads a TensorFlow checkpoint: slim's, or one that this project trained."""
    prefix = str(source).removesuffix('.index')
    if pathlib.Path(source).is_dir():
        prefix = tf.train.latest_checkpoint(source)
        if prefix is None:
            raise ValueError('the folder holds no checkpoint')
    reader = tf.train.load_checkpoint(prefix)
    names = list(reader.get_variable_to_shape_map())
    first = 'conv1_1' if network == 'vgg19' else 'conv1'
    scopes = [
        name.removesuffix(f'{first}/weights')
        for name in sorted(names)
        if f'/{name}'.endswith(f'/{first}/weights')
    ]
    if len(scopes) != 1:
        raise ValueError(
            f'it has {len(scopes)} networks with a layer {first}; a --train_dir of '
            'train.py that left layers as they were has all of them in weights/'
        )
    # slim keeps conv1_1 below conv1, and fully connected layers beside that
    ours = not scopes[0].endswith('conv1/')
    scope = scopes[0].removesuffix('conv1/')
    if ours and f'{scope}mean' not in names:
        raise ValueError(
            f'it does not say which mean {scope} subtracts: convert the file that it '
            'was made from'
        )
    layers = {}
    for name in names:
        # optimizer slots end differently
        if name.startswith(scope) and name.endswith('/weights'):
            stem = name.removesuffix('/weights')
            pair = reader.get_tensor(name), reader.get_tensor(f'{stem}/biases')
            layers[stem.rpartition('/')[2]] = pair
    if ours:
        mean = reader.get_tensor(f'{scope}mean')
        scale = float(reader.get_tensor(f'{scope}scale'))
        return Contents(f'checkpoint, {scope}', layers, mean, scale)
    layers = flat_fc(layers)
    layers[first] = reverse_channels(layers[first][0]), layers[first][1]
    return Contents('slim checkpoint', layers, np.array(SLIM_MEAN[::-1], np.float32))


def reverse_channels(weights):
    """First-layer filters [H, W, 3, out] for B, G, R from those for R, G, B."""
    return weights[:, :, ::-1]


def flat_fc(layers):
    """Fully connected layers stored as convolutions [H, W, in, out], as matrices."""
    return {
        name: (w.reshape(-1, np.size(b)) if name in FC else w, b)
        for name, (w, b) in layers.items()
    }


def from_output_first(layers):
    """Layers stored [out, in, H, W] and [out, in], the first matrix flattened C, H, W.

    Args:
      layers: {layer: (weights, biases)} in the order of the network.

    Returns:
      The same in this project's layout.
    """
    turned = {}
    channels = 0
    for name, (weights, biases) in layers.items():
        outputs = np.size(biases)
        if name == 'fc6':
            size = round((np.size(weights) / outputs / channels) ** 0.5)
            weights = weights.reshape(outputs, channels, size, size)
            weights = weights.transpose(2, 3, 1, 0).reshape(-1, outputs)
        elif name in FC:
            weights = weights.reshape(outputs, -1).T
        elif np.ndim(weights) == 4:
            weights = weights.transpose(2, 3, 1, 0)
            channels = outputs
        turned[name] = weights, biases
    return turned
