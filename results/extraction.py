"""Fills the feature cache: fc6 of a frozen CNN for the segments of every clip.

    cnn = extraction.cache_features(flags, 'motion', rows, size)

Used by the stages features and hybrid of train.py.
"""

import os

import tensorflow.compat.v1 as tf

import model
from data import features
from data import feeds
from data import sampling
from results import lineage
from weights import dump


def cache_features(flags, stream, rows, size):
    """Fills the feature cache of one stream.

    Args:
      flags: the run's flags.
      stream: name of the stream.
      rows: dict clip -> row of clips.csv, of the clips to compute.
      size: height and width of the stored frames in pixels.

    Returns:
      The CNN as run.json keeps it: {'weights', 'fingerprint', 'features', 'width'}.
    """
    of_stream, data_dir = model.STREAMS[stream], flags['data_dir']
    stack_length, num_segments = flags['stack_length'], flags['num_segments']
    options = {name: flags[name] for name in of_stream.options}
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(flags['seed'])
        shape = model.input_shape(stream, size, stack_length)
        images = tf.placeholder(tf.uint8, [None, *shape], 'images')
        _, end_points = model.cnn(stream, images, 1000, options=options)
        weights = load_frozen_cnn(
            session,
            stream,
            flags[f'{stream}_weights'],
            flags['train_dir'],
            flags['cross_modality'],
        )
        fingerprint = dump.fingerprint(weights)
        depends_on = {
            'weights': fingerprint,
            'layer': 'fc6',
            'num_segments': num_segments,
            'span': of_stream.span(stack_length),
            'sampling': sampling.rule(num_segments),
            **options,
        }
        if of_stream.from_colour:
            depends_on['cross_modality'] = flags['cross_modality']
        folder = features.directory(data_dir, stream, depends_on)
        read = feeds.segment_reader(
            data_dir, {stream: of_stream}, num_segments, stack_length
        )
        features.fill(
            folder,
            data_dir,
            list(rows),
            read=lambda clip: read(rows[clip])[stream],
            extract=lambda inputs: session.run(end_points['fc6'], {images: inputs}),
            workers=flags['workers'],
        )
    return {
        'weights': weights,
        'fingerprint': fingerprint,
        'features': folder.name,
        'width': int(end_points['fc6'].shape[-1]),
    }


def load_frozen_cnn(session, stream, given, train_dir, cross_modality):
    """Loads the CNN that --<stream>_weights names; returns the folder of its dump.

    Raises:
      ValueError: there is none, or it has no fc6.
    """
    weights = lineage.find_weights(given, stream, train_dir)
    if not weights:
        weights = os.path.join(train_dir, 'weights', stream)
        session.run(tf.global_variables_initializer())
        model.save_cnn(session, stream, weights, 'random')
        print(f'{stream} CNN: untrained, saved as {weights}')
        return weights
    loaded = model.load_cnn(session, stream, weights, cross_modality)
    if f'{model.STREAMS[stream].scope}/fc6/weights' not in loaded:
        raise ValueError(
            f'--{stream}_weights={given}: the dump has no fc6, the layer that is '
            f'cached; train --stage={stream} first'
        )
    return weights
