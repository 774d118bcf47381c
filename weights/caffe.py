"""Layers of a .caffemodel, read without Caffe.

    caffe.read('VGG_CNN_M_2048.caffemodel')   # {'conv1': [weights, biases], ...}

The file is a protocol buffer (Protocol Buffers documentation, 'Encoding'); the numbers
of its fields are those of caffe.proto.
"""

import mmap

import numpy as np


def read(path):
    """Reads every layer that has arrays, of the first or the second layer format.

    Args:
      path: file.

    Returns:
      dict from layer to the list of its float32 arrays, [out, in, H, W] as stored.

    Raises:
      ValueError, LookupError: the file is cut off, or no protocol buffer.
    """
    with open(path, 'rb') as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    layers = {}
    for field, value in message(data):
        if field not in (2, 100):
            continue
        # V1LayerParameter: name 4, blobs 6; LayerParameter: name 1, blobs 7
        name_field, blobs_field = (4, 6) if field == 2 else (1, 7)
        parts = list(message(value))
        blobs = [blob(part) for field, part in parts if field == blobs_field]
        names = [bytes(part).decode() for f, part in parts if f == name_field]
        if blobs:
            layers[names[0]] = blobs
    return layers


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
