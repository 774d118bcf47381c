"""Weight files of others: recognized, read, and compared with what was published.

    contents = files.read('vgg19_weights.h5', 'vgg19', frame_size=224)
    contents.layers['conv1_1']      # weights [3, 3, 3, 64], biases [64]

Formats are told apart by their first bytes, not by file names.
"""

import pathlib
import pickle
import zipfile
import zlib

import numpy as np
import scipy.io
import tensorflow.compat.v1 as tf

from weights import pickles
from weights import published
from weights import readers

TORCH_START = pickle.dumps(pickles.TORCH_MAGIC, protocol=2)
TABLE_MAGIC = b'\x57\xfb\x80\x8b\x24\x75\x47\xdb'  # ends a TensorFlow checkpoint
# Errors of the libraries whose text tells a user what is wrong with the file.
TELLING = (
    EOFError,
    OSError,
    pickle.UnpicklingError,
    scipy.io.matlab.MatReadError,
    tf.errors.OpError,
    zipfile.BadZipFile,
    zlib.error,
)


def read(source, network, frame_size):
    """Reads a weight file of any known format.

    Args:
      source: a file, for a TensorFlow checkpoint its prefix or folder, or 'keras'.
      network: 'vgg19' or 'cnnm'.
      frame_size: height and width in pixels that fc6 is for.

    Returns:
      readers.Contents, whose layers are (weights, biases), float32, in the order of
      the network: all of them, or its first ones.

    Raises:
      ValueError: no such file, a format that is not known, a file that is damaged or
        hostile or of another network.
    """
    kind, reader = recognized(source)
    try:
        # of all files, only a checkpoint may hold both networks
        about = (network,) if reader is readers.read_checkpoint else ()
        contents = reader(source, *about)
        stored = {name: as_float32(name, a) for name, a in contents.layers.items()}
        layers = published.fitting(stored, network, frame_size)
        check_mean(contents.mean, next(iter(layers.values())))
    except published.Mismatch as error:
        raise ValueError(f'{source}, {kind}, {error}') from error
    # on a file that is damaged the libraries raise errors of almost any type
    except Exception as error:
        if isinstance(error, OSError) and error.errno:
            raise  # no permission, for one
        what = ' '.join(str(error).split())[:200]
        what = f' ({what})' if what and isinstance(error, TELLING) else ''
        raise ValueError(
            f'{source}, by its first bytes {kind}, is cut off or damaged{what}: '
            'download or copy it again'
        ) from error
    skipped = [name for name in stored if name not in layers]
    remarks = contents.remarks
    if skipped:
        remarks += (f'skipped, not weights and biases: {", ".join(skipped)}',)
    return contents._replace(layers=layers, remarks=remarks)


def as_float32(name, arrays):
    """A layer's arrays as float32; of two the second, its biases, becomes flat."""
    try:
        arrays = [np.asarray(array, np.float32) for array in arrays]
    except (TypeError, ValueError) as error:
        raise published.Mismatch(
            f'holds something else than arrays of numbers in {name}'
        ) from error
    return (arrays[0], arrays[1].ravel()) if len(arrays) == 2 else tuple(arrays)


def check_mean(mean, first_layer):
    """Refuses a mean that is not one number for each channel of the input."""
    channels = first_layer[0].shape[2]
    if mean is not None and np.shape(mean) != (channels,):
        raise published.Mismatch(
            f'has a mean of shape {list(np.shape(mean))} for {channels} channels'
        )


def recognized(source):
    """What a file is by its first bytes, in words, and the function that reads it.

    Raises:
      ValueError: no such file, or none of the formats; says what it is where known.
    """
    if source == 'keras':
        return 'VGG-19 of tf.keras.applications', readers.fetch_keras
    path = pathlib.Path(source)
    index = pathlib.Path(f'{readers.checkpoint_prefix(source)}.index')
    if path.is_dir() or index.exists():
        return 'a TensorFlow checkpoint', readers.read_checkpoint
    if not path.exists():
        raise ValueError(f'--source={source} does not exist')
    with open(path, 'rb') as file:
        head = file.read(512)
        file.seek(max(0, path.stat().st_size - len(TABLE_MAGIC)))
        tail = file.read()
    check_download(source, head)
    for start, kind, reader in (
        (b'\x89HDF', 'an HDF5 file', readers.read_keras),
        (b'MATLAB 5.0', 'a MATLAB file', readers.read_matconvnet),
        (b'PK\x03\x04', 'a torch file', readers.read_torchvision),
        (TORCH_START, 'a torch file', readers.read_torchvision),
        (b'\x93NUMPY', 'a pickled .npy', readers.read_pickled),
        (b'\x80', 'a pickle', readers.read_pickled),
    ):
        if head.startswith(start):
            return kind, reader
    if tail == TABLE_MAGIC:
        return 'a TensorFlow checkpoint', readers.read_checkpoint
    # protocol buffers have no magic number: the first field is a name or a layer
    if head[:1] in (b'\x0a', b'\x12') or head[:2] == b'\xa2\x06':
        return 'a .caffemodel', readers.read_caffe
    raise ValueError(
        f'{source} is of no known format: pickled .npy, Keras .h5, torchvision .pth, '
        'MatConvNet .mat, .caffemodel, TensorFlow checkpoint'
    )


def check_download(source, head):
    """Refuses what was fetched in place of the weights, and archives around them.

    Args:
      source: file.
      head: its first bytes.

    Raises:
      ValueError: says what the file is and how its weights are to be had.
    """
    text = head.lstrip(b'\xef\xbb\xbf \t\r\n').lower()
    what = ''
    if not head:
        what = 'empty: download it again'
    elif text.startswith((b'<!doctype', b'<html', b'<head', b'<?xml')):
        what = (
            'a web page, not weights: the address answers a browser only, or wants a '
            'login; download the file with a browser'
        )
    elif head.startswith(b'version https://git-lfs'):
        what = 'a Git LFS pointer, not the file itself: fetch that with git lfs pull'
    elif head.startswith(b'MATLAB 7.3'):
        what = "a MATLAB 7.3 file, which is not read: save it again with '-v7'"
    elif head.startswith(b'\x1f\x8b'):
        what = 'compressed with gzip: unpack it, and name the file inside'
    elif head.startswith(b'PK'):
        what = archive_in_words(source)
    if what:
        raise ValueError(f'{source} is {what}')


def archive_in_words(source):
    """What a zip archive is that torch did not write, '' where torch did."""
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return 'a zip archive that is cut off or damaged: download it again'
    if any(name.endswith('/data.pkl') for name in names):
        return ''
    if 'model.weights.h5' in names:
        return 'a Keras archive (.keras): unzip it and name its model.weights.h5'
    listed = ', '.join(map(repr, names[:3]))
    if names and all(name.endswith('.npy') for name in names):
        return (
            f'a NumPy archive (.npz) of {len(names)} arrays, {listed}, which does not '
            'say what they are: save {layer: [weights, biases]} with np.save'
        )
    return f'a zip archive of {len(names)} files, {listed}: unpack the weights'
