"""Readers of published weight files, one a format, all giving the same layout.

    contents = readers.read_keras('vgg19_weights.h5')
    contents.layers['conv1_1']      # [weights [3, 3, 3, 64], biases [64]]

The layout is this project's: convolutions [H, W, in, out], matrices [in, out], fc6
flattened in H, W, C order, input channels B, G, R. The equations between the layouts
are at the end. files.py finds the reader for a file and checks what it gives.
"""

import pathlib
import re
import typing

import h5py
import numpy as np
import scipy.io
import tensorflow.compat.v1 as tf

from weights import caffe
from weights import pickles
from weights import published

VGG_19 = list(published.SHAPES['vgg19'])
KERAS_FC = {'fc1': 'fc6', 'fc2': 'fc7', 'predictions': 'fc8'}
TORCH_FEATURES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
TORCH_LAYERS = [f'features.{number}' for number in TORCH_FEATURES]
TORCH_LAYERS += [f'classifier.{number}' for number in (0, 3, 6)]
TORCH_MEAN = (0.485, 0.456, 0.406)  # R, G, B in 0..1
TORCH_STD = (0.229, 0.224, 0.225)
SLIM_MEAN = (123.68, 116.78, 103.94)  # R, G, B


class Contents(typing.NamedTuple):
    """What a file holds, in this project's layout."""

    format: str
    layers: dict  # {layer: [weights, biases]}, or more or fewer arrays
    mean: typing.Any = None  # float32 [channels], None where the file has none
    scale: float = 1.0  # factor of the input after the mean is subtracted
    remarks: tuple = ()  # what a user should know, in words


def read_pickled(source):
    """Reads a pickled {layer: [weights, biases]} or {layer_weights: array, ...}."""
    stored = pickles.read_numpy(source)
    if not isinstance(stored, dict):
        raise published.Mismatch(
            f'holds a {type(stored).__name__}, where a dict of layers was expected'
        )
    layers = {}
    for name, value in stored.items():
        name = str(name)
        if isinstance(value, list):
            layers[name] = value
        elif isinstance(value, dict):
            layers[name] = weights_first(value.values())
        else:
            layer = re.sub('_(weights|biases)$', '', name)
            layers[layer] = weights_first([*layers.get(layer, ()), value])
    return Contents('pickled dict', layers)


def weights_first(arrays):
    """A layer's arrays, those of most dimensions first."""
    return sorted(arrays, key=lambda array: -np.ndim(array))


def read_keras(source):
    """Reads a Keras .h5 of any layout: every dataset's path names its layer."""
    found, groups = {}, []

    def visit(path, node):
        if 'weight_names' in node.attrs:
            groups.append(path)  # what older versions of Keras write for a layer
        if path.startswith('optimizer') or not isinstance(node, h5py.Dataset):
            return
        if node.size and node.dtype.kind == 'f':
            above = [group for group in groups if path.startswith(f'{group}/')]
            above += [path.rpartition('/')[0] or path]
            found.setdefault(keras_layer(path) or above[0], []).append(node[()])

    with h5py.File(source, 'r') as file:
        file.visititems(visit)
    layers = {name: weights_first(arrays) for name, arrays in found.items()}
    return Contents('Keras', layers)


def keras_layer(path):
    """Our name of the layer in an HDF5 path; None where the path names none."""
    for part in path.split('/'):
        if block := re.fullmatch(r'block(\d)_conv(\d)', part):
            return f'conv{block[1]}_{block[2]}'
        if part in KERAS_FC:
            return KERAS_FC[part]
        # layers/conv2d_3/vars/0: counted in the order of the network, from no number
        if count := re.fullmatch(r'(conv2d|dense)(?:_(\d+))?', part):
            names = VGG_19[:16] if count[1] == 'conv2d' else VGG_19[16:]
            number = int(count[2] or 0)
            return names[number] if number < len(names) else part
    return None


def fetch_keras(source):
    """Fetches VGG-19 as tf.keras.applications distributes it, with its hash check."""
    try:
        model = tf.keras.applications.VGG19(weights='imagenet')
    # get_file raises a bare Exception where there is no network
    except Exception as error:
        raise published.Mismatch(
            f'could not be fetched ({error}): download '
            'vgg19_weights_tf_dim_ordering_tf_kernels.h5 elsewhere and name the file'
        ) from error
    named = {keras_layer(layer.name): layer.get_weights() for layer in model.layers}
    named.pop(None)
    return Contents('tf.keras.applications', named)


def read_torchvision(source):
    """Reads a torch state dict, of torchvision's VGG-19."""
    stored = pickles.read_torch(source)
    for name in ('state_dict', 'model_state_dict', 'model'):
        if isinstance(stored, dict) and isinstance(stored.get(name), dict):
            stored = stored[name]
    if not isinstance(stored, dict):
        raise published.Mismatch(
            f'holds a {type(stored).__name__}: save model.state_dict() instead'
        )
    found = {}
    for key, value in stored.items():
        if isinstance(value, np.ndarray):
            # DataParallel puts `module.` before all, or after `features.`
            key = re.sub(r'(^|\.)module\.', r'\1', str(key))
            layer = key.rpartition('.')[0] or key
            found.setdefault(layer, []).append(value)
    check_torchvision(found)
    names = dict(zip(TORCH_LAYERS, VGG_19, strict=True))
    layers = from_output_first(
        {names.get(name, name): weights_first(a) for name, a in found.items()}
    )
    # (x / 255 - mean) / std = (x - 255 mean) * (1 / 255) / std; the division by std
    # differs by channel, so the filters of conv1_1 take it over
    weights, *biases = layers.get('conv1_1', [np.zeros(0)])
    if weights.shape[2:3] == (3,):
        weights = weights / np.array(TORCH_STD, np.float32)[:, np.newaxis]
        layers['conv1_1'] = reverse_channels(weights), *biases
    return Contents(
        'torchvision',
        layers,
        mean=255 * np.array(TORCH_MEAN[::-1], np.float32),
        scale=1 / 255,
        remarks=('another training run than the one for BGR 0..255',),
    )


def check_torchvision(found):
    """Refuses a state dict that has none of torchvision's names.

    Other names may belong to another input, whose mean and scale the file cannot say.
    """
    if set(found) & set(TORCH_LAYERS):
        return
    hint = "convert torchvision's own file"
    if np.shape(found.get('0', [()])[0])[2:] == (1, 1):
        hint = (
            'its 1x1 filters are those of a VGG-19 normalised for style transfer, in '
            f'which the filters are rescaled; {hint}'
        )
    raise published.Mismatch(
        f"holds {published.listing(found)}, and none of torchvision's layers "
        f'{TORCH_LAYERS[0]}, {TORCH_LAYERS[1]}, ...: {hint}'
    )


def read_matconvnet(source):
    """Reads a MatConvNet .mat, with the fields of old releases or of new ones."""
    stored = scipy.io.loadmat(source, struct_as_record=False, squeeze_me=True)
    network = matconvnet_network(stored)
    if network is None:
        names = [name for name in stored if not name.startswith('__')]
        raise published.Mismatch(
            f'holds {", ".join(names[:5]) or "nothing"}, where a struct with the field '
            'layers was expected, as MatConvNet saves a network'
        )
    if 'params' in network:
        raise published.Mismatch(
            'holds a DagNN network, whose arrays are in params: only networks whose '
            'layers have weights, as published for VGG-19 and CNN-M, are read'
        )
    layers = {}
    for at, layer in enumerate(np.atleast_1d(network['layers'])):
        if hasattr(layer, 'filters'):
            arrays = [layer.filters, np.atleast_1d(getattr(layer, 'biases', ()))]
        else:
            arrays = getattr(layer, 'weights', ())
            # a cell of one array has been squeezed to the array
            arrays = list(arrays) if np.asarray(arrays).dtype == object else [arrays]
        arrays = [np.atleast_1d(array) for array in arrays if np.size(array)]
        if arrays:
            layers[str(getattr(layer, 'name', f'layer {at + 1}'))] = arrays
    layers = from_rgb(flat_fc(layers))
    about = network.get('normalization')
    about = getattr(network.get('meta'), 'normalization', about)
    if not hasattr(about, 'averageImage'):
        raise published.Mismatch(
            f'holds {published.listing(layers)} but no normalization.averageImage, so '
            'the mean it was trained with is not known: take the file as published'
        )
    average = np.asarray(about.averageImage, np.float64)
    remarks = ()
    if average.ndim == 3:
        size = 'x'.join(map(str, average.shape))
        remarks = (f'the {size} mean image is reduced to its channel means',)
        average = average.mean(axis=(0, 1))
    mean = average[::-1].astype(np.float32)
    return Contents('MatConvNet', layers, mean, remarks=remarks)


def matconvnet_network(stored):
    """Finds the fields of the struct that has `layers`, at any depth; None without."""
    if 'layers' in stored:
        return stored
    for value in stored.values():
        if hasattr(value, '_fieldnames'):
            fields = {name: getattr(value, name) for name in value._fieldnames}
            found = matconvnet_network(fields)
            if found:
                return found
    return None


def read_caffe(source):
    """Reads a .caffemodel, which holds no mean."""
    remarks = ('the file holds no mean: the published one is used',)
    return Contents('Caffe', from_output_first(caffe.read(source)), remarks=remarks)


def checkpoint_prefix(source):
    """The path that names all files of a checkpoint, from that of any of them."""
    return re.sub(r'\.(index|meta|data-\d+-of-\d+)$', '', str(source))


def read_checkpoint(source, network):
    """Reads a TensorFlow checkpoint: slim's, or one that this project trained."""
    prefix = checkpoint_prefix(source)
    if pathlib.Path(source).is_dir():
        prefix = tf.train.latest_checkpoint(source)
        if prefix is None:
            raise published.Mismatch('is a folder without one')
    reader = tf.train.load_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
    first = next(iter(published.SHAPES[network]))
    scopes = [
        name.removesuffix(f'{first}/weights')
        for name in sorted(shapes)
        if f'/{name}'.endswith(f'/{first}/weights')
    ]
    if len(scopes) != 1:
        # an optimizer's variables are named below the one they belong to
        own = [name for name in sorted(shapes) if name.rpartition('/')[0] not in shapes]
        variables = published.listing({name: [shapes[name]] for name in own})
        raise published.Mismatch(
            f'holds {variables}: {len(scopes)} of them are {first}/weights, where one '
            'was expected (a --train_dir that trained part of a network has all of it '
            'in weights/<stream>)'
        )
    # slim keeps conv1_1 below conv1, and fully connected layers beside that
    slim = scopes[0].endswith('conv1/')
    scope = scopes[0].removesuffix('conv1/')
    layers = {}
    for name in sorted(shapes):
        # optimizer slots end differently
        if name.startswith(scope) and name.endswith('/weights'):
            stem = name.removesuffix('/weights')
            kinds = [k for k in ('weights', 'biases') if f'{stem}/{k}' in shapes]
            arrays = [reader.get_tensor(f'{stem}/{kind}') for kind in kinds]
            layers[stem.rpartition('/')[2]] = arrays
    if slim:
        mean = np.array(SLIM_MEAN[::-1], np.float32)
        return Contents('slim checkpoint', from_rgb(flat_fc(layers)), mean)
    if f'{scope}mean' not in shapes:
        raise published.Mismatch(
            f'holds {published.listing(layers)} but no variable {scope}mean, which '
            'train.py saves with each network: convert the file it was made from'
        )
    mean = reader.get_tensor(f'{scope}mean')
    scale = float(reader.get_tensor(f'{scope}scale'))
    return Contents(f'checkpoint, {scope}', layers, mean, scale)


def reverse_channels(weights):
    """First-layer filters [H, W, 3, out] for B, G, R from those for R, G, B."""
    return weights[:, :, ::-1]


def from_rgb(layers):
    """The layers with the first one's filters for B, G, R."""
    turned = dict(layers)
    for name in ('conv1_1', 'conv1'):
        if name in turned and np.ndim(turned[name][0]) == 4:
            turned[name] = [reverse_channels(turned[name][0]), *turned[name][1:]]
    return turned


def flat_fc(layers):
    """Fully connected layers stored as convolutions [H, W, in, out], as matrices."""
    return {
        name: [w.reshape(-1, w.shape[-1]) if name in published.FC else w, *rest]
        for name, (w, *rest) in layers.items()
    }


def from_output_first(layers):
    """Layers stored [out, in, H, W] and [out, in], the first matrix flattened C, H, W.

    Args:
      layers: dict from layer to its arrays, in the order of the network.

    Returns:
      The same with weights in this project's layout.
    """
    turned = {}
    channels = 0
    for name, (weights, *biases) in layers.items():
        outputs = np.size(biases[0]) if biases else 0
        if name in published.FC and outputs and np.size(weights) % outputs == 0:
            weights = weights.reshape(outputs, -1)
            size = round((weights.shape[1] / max(channels, 1)) ** 0.5)
            if name == 'fc6' and channels * size**2 == weights.shape[1]:
                weights = weights.reshape(outputs, channels, size, size)
                weights = weights.transpose(2, 3, 1, 0)
            else:
                weights = weights.T
            weights = weights.reshape(-1, outputs)
        elif np.ndim(weights) == 4:
            channels = weights.shape[0]
            weights = weights.transpose(2, 3, 1, 0)
        turned[name] = [weights, *biases]
    return turned
