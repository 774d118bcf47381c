"""Converts a published weight file, or a trained checkpoint, to a dump.

    python -m weights.convert --source=vgg19.npy --network=vgg19 --out=weights/vgg19

weights/README.md lists the files. The format is recognized by content; no file executes
code; nothing is written unless every array is there, of the right shape and finite.
"""

import os
import pathlib

import numpy as np
from absl import flags

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf
import cnnm
import vgg
from weights import dump
from weights import readers

CLASSES = 1000  # of a network whose file has no fc8


def build(network, layers, frame_size):
    """Builds the network that the layers are for, on one image.

    Args:
      network: 'vgg19' or 'cnnm'.
      layers: {layer: (weights, biases)}; conv1 gives the channels, fc8 the classes.
      frame_size: height and width of the input in pixels.

    Returns:
      (images placeholder uint8 [1, H, W, channels], logits, scope).
    """
    first = layers.get('conv1_1' if network == 'vgg19' else 'conv1')
    channels = first[0].shape[2] if first and first[0].ndim == 4 else 3
    classes = layers['fc8'][1].size if 'fc8' in layers else CLASSES
    images = tf.placeholder(tf.uint8, [1, frame_size, frame_size, channels], 'images')
    function = vgg.vgg_19 if network == 'vgg19' else cnnm.cnn_m_2048
    logits, _ = function(images, classes, scope=network)
    return images, logits, network


def check_layers(source, network, layers, variables):
    """Refuses layers that are not those of the network.

    Args:
      source: file, for the message.
      network: 'vgg19' or 'cnnm'.
      layers: {layer: (weights, biases)}.
      variables: {name: variable} of the network.

    Returns:
      Names of the layers that a file without the top lacks, fc6 .. fc8 or none.

    Raises:
      ValueError: a layer is missing, unknown, or of another shape.
    """
    expected = {os.path.dirname(name) for name in variables} - {''}
    unknown = sorted(set(layers) - expected)
    missing = sorted(expected - set(layers))
    if unknown or (missing and missing != readers.FC):
        differs = [f'no {name}' for name in missing] + unknown
        raise ValueError(
            f'{source} is not {network}: it has {", ".join(differs[:5])}'
            f'{" ..." if len(differs) > 5 else ""}'
        )
    for layer, pair in layers.items():
        for kind, array in zip(('weights', 'biases'), pair, strict=True):
            name = f'{layer}/{kind}'
            dump.check_shape(source, name, array.shape, tuple(variables[name].shape))
    return missing


def arrays_by_variable(contents, mean):
    """Yields (variable name, float32 array) of everything a dump holds.

    Args:
      contents: readers.Contents.
      mean: [channels], used where the file has none.
    """
    yield 'mean', np.asarray(mean if contents.mean is None else contents.mean)
    yield 'scale', np.array(contents.scale, np.float32)
    for layer, (weights, biases) in contents.layers.items():
        yield f'{layer}/weights', weights
        yield f'{layer}/biases', biases


def convert(source, network, out, frame_size):
    """Converts a file to a dump, prints what was read, and tries the result.

    Args:
      source: file, or 'keras' to fetch VGG-19 through tf.keras.applications.
      network: 'vgg19' or 'cnnm'.
      out: folder of the dump; a dump that is there is replaced.
      frame_size: height and width in pixels that fc6 is for.

    Raises:
      ValueError: as readers.read, check_layers and dump.write do.
    """
    if source == 'keras':
        contents = readers.fetch_keras()
    else:
        contents = readers.read(source, network)
    with tf.Graph().as_default() as graph, tf.Session() as session:
        images, logits, scope = build(network, contents.layers, frame_size)
        variables = dump.variables(graph, scope)
        missing = check_layers(source, network, contents.layers, variables)
        session.run([variables['mean'].initializer, variables['scale'].initializer])
        arrays = dict(arrays_by_variable(contents, session.run(variables['mean'])))
        print_table(arrays)
        for remark in contents.remarks:
            print(f'note: {remark}')
        if missing:
            print('note: the file ends before fc6; fc6, fc7, fc8 will start at random')
        origin = f'{pathlib.Path(source).name} ({contents.format})'
        dump.write(out, network, origin, arrays.items())
        session.run([variables[n].initializer for n in variables if n not in arrays])
        dump.load(session, out, scope, network)
        noise = np.random.RandomState(0).randint(0, 256, images.shape)
        scores = session.run(logits, {images: noise})[0]
    print(
        f'logits of one image of noise: mean {scores.mean():.4g}, '
        f'standard deviation {scores.std():.4g}, from {scores.min():.4g} '
        f'to {scores.max():.4g}, largest at {scores.argmax()}'
    )
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
    flags.DEFINE_enum('network', None, ['vgg19', 'cnnm'], 'what the file is for')
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
