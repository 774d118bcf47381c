"""Pickled weights, read without running what is pickled.

    pickles.read_numpy('vgg19.npy')     # {layer: [weights, biases]}
    pickles.read_torch('vgg19.pth')     # {'features.0.weight': array, ...}

A pickle is a program that may call whatever it names. Here the names it may use are
those of two tables, and each means a function of this file that keeps bytes and shapes;
anything else ends the reading. Both of torch's serializations are read: the zip archive
of today and the row of pickles before it (torch/serialization.py describes them in
`_save` and `_legacy_save`).
"""

import collections
import pickle
import zipfile

import numpy as np

from weights import published

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
TORCH_PROTOCOL = 1001


class Array:
    """In place of numpy.ndarray: what its pickle says of it."""

    def __init__(self, *_):
        self.data, self.dtype, self.shape, self.order = [], None, (), 'C'

    def __setstate__(self, state):
        _, self.shape, self.dtype, fortran, self.data = state
        self.order = 'F' if fortran else 'C'

    def value(self):
        """The array, or for an array of objects the list of them."""
        if isinstance(self.data, list):
            return self.data
        # Python 2 wrote bytes as text
        text = isinstance(self.data, str)
        data = self.data.encode('latin1') if text else self.data
        array = np.frombuffer(data, self.dtype.value())
        return array.reshape(self.shape, order=self.order)


class Type:
    """In place of numpy.dtype."""

    def __init__(self, name, *_):
        self.name, self.order = name, '='

    def __setstate__(self, state):
        self.order = state[1]

    def value(self):
        """A numpy dtype of numbers."""
        if self.name not in ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1'):
            raise published.Mismatch(f'holds arrays of type {self.name}, not numbers')
        return np.dtype(self.name).newbyteorder(self.order)


class Storage:
    """In place of a torch storage, whose bytes are elsewhere in the file."""

    def __init__(self, dtype, numel):
        self.dtype, self.numel, self.data = np.dtype(dtype), numel, b''

    def value(self):
        """One-dimensional array of the storage."""
        return np.frombuffer(self.data, self.dtype, count=self.numel)


class Tensor:
    """In place of a torch tensor: a strided view of a storage."""

    def __init__(self, storage, offset, size, stride, *_):
        self.storage, self.offset = storage, offset
        self.size, self.stride = size, stride

    def value(self):
        """The array; a view that leaves its storage is refused."""
        data = self.storage.value()
        last = self.offset + sum(
            (length - 1) * step
            for length, step in zip(self.size, self.stride, strict=True)
        )
        signs = (self.offset, *self.stride, *(length - 1 for length in self.size))
        if min(signs) < 0 or last >= len(data):
            raise pickle.UnpicklingError('a tensor reaches beyond its storage')
        strides = [step * data.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(data[self.offset :], self.size, strides)


def array_from_buffer(data, dtype, shape, order):
    """In place of numpy's function of pickle protocol 5."""
    array = Array()
    array.data, array.dtype, array.shape, array.order = data, dtype, shape, order
    return array


def encoded(text, encoding):
    """In place of _codecs.encode, by which Python 3 writes bytes for Python 2."""
    return text.encode('latin1')


NUMPY_NAMES = {
    ('numpy', 'ndarray'): Array,
    ('numpy', 'dtype'): Type,
    ('numpy.core.multiarray', '_reconstruct'): Array,
    ('numpy._core.multiarray', '_reconstruct'): Array,
    ('numpy.core.numeric', '_frombuffer'): array_from_buffer,
    ('numpy._core.numeric', '_frombuffer'): array_from_buffer,
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('_codecs', 'encode'): encoded,
}
TORCH_NAMES = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor'): Tensor,
    ('torch._utils', '_rebuild_tensor_v2'): Tensor,
    ('torch._utils', '_rebuild_parameter'): lambda tensor, *_: tensor,
    ('torch', 'FloatStorage'): '<f4',
    ('torch', 'DoubleStorage'): '<f8',
    ('torch', 'HalfStorage'): '<f2',
    ('torch', 'LongStorage'): '<i8',
}


class Unpickler(pickle.Unpickler):
    """Reads one pickle in which only the names of a table mean anything."""

    def __init__(self, file, names, storages=None):
        super().__init__(file, encoding='latin1')  # as Python 2's arrays need
        self.names, self.storages = names, storages

    def find_class(self, module, name):
        """Looks a name up in the table, never in a module."""
        if (module, name) not in self.names:
            hint = '' if self.storages is None else ': save model.state_dict() instead'
            raise published.Mismatch(
                f'asks for {module}.{name}, which no file of weights needs{hint}'
            )
        return self.names[module, name]

    def persistent_load(self, identity):
        """Finds or makes the storage that a torch pickle refers to."""
        if self.storages is None:
            raise published.Mismatch('refers to data outside of the file')
        _, dtype, key, _, numel = identity[:5]
        return self.storages.setdefault(key, Storage(dtype, numel))


def plain(value):
    """Arrays in place of the classes above, within dicts, lists and tuples."""
    if isinstance(value, (Array, Tensor)):
        return plain(value.value())
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def read_numpy(path):
    """Reads a pickled object, alone or as np.save wraps it.

    Args:
      path: file.

    Returns:
      The object, of dicts, lists and arrays; what np.save wrapped, unwrapped.

    Raises:
      published.Mismatch: a name that is not admitted, or no pickle.
      others, by what is broken in the file.
    """
    with open(path, 'rb') as file:
        wrapped = file.read(6) == b'\x93NUMPY'
        file.seek(0)
        if wrapped:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if not dtype.hasobject:
                raise published.Mismatch(
                    f'holds one array {list(shape)} of {dtype}, where a dict of layers '
                    'was expected'
                )
        value = plain(Unpickler(file, NUMPY_NAMES).load())
    return value[0] if wrapped and len(value) == 1 else value


def read_torch(path):
    """Reads what torch.save wrote, in either serialization.

    Args:
      path: file.

    Returns:
      What was saved, usually a dict from name to array; arrays are views into what
      was read.

    Raises:
      published.Mismatch: a name that is not admitted.
      others, by what is broken in the file.
    """
    storages = {}
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            (index,) = [n for n in archive.namelist() if n.endswith('/data.pkl')]
            with archive.open(index) as file:
                value = Unpickler(file, TORCH_NAMES, storages).load()
            for key, storage in storages.items():
                storage.data = archive.read(index.removesuffix('.pkl') + f'/{key}')
        return plain(value)
    with open(path, 'rb') as file:
        read = [Unpickler(file, {}).load() for _ in range(3)]
        if read[:2] != [TORCH_MAGIC, TORCH_PROTOCOL] or not read[2]['little_endian']:
            raise pickle.UnpicklingError('its header is not the one torch writes')
        value = Unpickler(file, TORCH_NAMES, storages).load()
        for key in Unpickler(file, {}).load():
            file.seek(8, 1)  # the length once more
            storages[key].data = file.read(
                storages[key].numel * storages[key].dtype.itemsize
            )
    return plain(value)
