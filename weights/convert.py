"""Converts a published weight file, or a trained checkpoint, to a dump.

    python -m weights.convert --source=vgg19.npy --network=vgg19 --out=weights/vgg19

weights/README.md lists the files. The format is recognized by content; no file executes
code; nothing is written unless every array has the published shape and is finite. A
file of the first layers only gives a dump of these.
"""

import pathlib

import numpy as np
from absl import flags

from results import command_line

with command_line.tensorflow_in_silence():
    from weights import dump
from data import clips
from weights import files
from weights import published


def arrays_by_variable(contents):
    """Yields (variable name, float32 array) of everything a dump holds.

    Args:
      contents: readers.Contents.
    """
    mean = contents.mean
    if mean is None:
        first, _ = next(iter(contents.layers.values()))
        channels = first.shape[2]
        mean = published.MEAN if channels == 3 else [clips.FLOW_ZERO] * channels
    yield 'mean', np.asarray(mean, np.float32)
    yield 'scale', np.array(contents.scale, np.float32)
    for layer, (weights, biases) in contents.layers.items():
        yield f'{layer}/weights', weights
        yield f'{layer}/biases', biases


def convert(source, network, out, frame_size):
    """Converts a file to a dump, and prints what was read.

    Args:
      source: file, or 'keras' to fetch VGG-19 through tf.keras.applications.
      network: 'vgg19' or 'cnnm'.
      out: folder of the dump; a dump that is there is replaced.
      frame_size: height and width in pixels that fc6 is for.

    Raises:
      ValueError: as files.read and dump.write do.
    """
    contents = files.read(source, network, frame_size)
    arrays = dict(arrays_by_variable(contents))
    print_table(arrays)
    for remark in contents.remarks:
        print(f'note: {remark}')
    names = list(published.SHAPES[network])
    missing = names[len(contents.layers) :]
    if missing:
        print(
            f'note: the file holds {published.span(list(contents.layers))}, '
            f'{len(contents.layers)} of {len(names)} layers; '
            f'{published.span(missing)} will start at random'
        )
    origin = f'{pathlib.Path(source).name} ({contents.format})'
    dump.write(out, network, origin, arrays.items(), missing)
    print(f'{out}: {contents.format}, fingerprint {dump.fingerprint(out)}')


def print_table(arrays):
    """Prints name, shape, mean and standard deviation of every array."""
    print(f'{"variable":18}{"shape":>22}{"mean":>12}{"std":>12}')
    for name, array in arrays.items():
        shape = 'x'.join(map(str, array.shape))
        print(f'{name:18}{shape:>22}{array.mean():12.4g}{array.std():12.4g}')


def define_flags():
    """Defines the flags of `python -m weights.convert`."""
    flags.DEFINE_string(
        'source', None, 'weight file, checkpoint or train_dir; keras fetches VGG-19'
    )
    flags.DEFINE_enum('network', None, ['vgg19', 'cnnm'], 'network that the file holds')
    flags.DEFINE_string('out', None, 'folder of the dump')
    flags.DEFINE_integer('frame_size', 224, 'pixels that fc6 is for', lower_bound=32)
    flags.mark_flags_as_required(['source', 'network', 'out'])


def main(values):
    """Converts; ValueError with the reason where that cannot be."""
    if values.source == 'keras' and values.network != 'vgg19':
        raise ValueError('--source=keras has VGG-19 only: use --network=vgg19')
    convert(values.source, values.network, values.out, values.frame_size)


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
