"""Fills the feature cache: fc6 of a frozen CNN for the segments of every clip.

    cnn = extraction.cache_features(flags, 'motion', rows, size, {0: list(rows)})

Used by the stages features and hybrid of train.py, and by evaluate.py for mirrored
views.
"""

import os

import numpy as np
import tensorflow.compat.v1 as tf

import model
from data import augmentation
from data import features
from data import sampling
from results import lineage
from weights import dump


def cache_features(flags, stream, rows, size, wanted):
    """Fills the feature cache of one stream.

    Args:
      flags: the run's flags.
      stream: name of the stream.
      rows: dict clip -> row of clips.csv.
      size: height and width of the stored frames in pixels.
      wanted: dict view -> the clips to compute (`sampling.view_starts`).

    Returns:
      The CNN as run.json keeps it: {'weights', 'fingerprint', 'features', 'width'},
      where 'features' are the folders of the views.
    """
    of_stream, data_dir = model.STREAMS[stream], flags['data_dir']
    options = {name: flags[name] for name in of_stream.options}
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(flags['seed'])
        inputs, crops = model.cropped_images(stream, size, flags['stack_length'])
        _, end_points = model.cnn(stream, crops, 1000, options=options)
        weights = load_frozen_cnn(
            session,
            stream,
            flags[f'{stream}_weights'],
            flags['train_dir'],
            flags['cross_modality'],
        )
        fingerprint = dump.fingerprint(weights)
        folders = {
            view: features.directory(
                data_dir, stream, depends_on(flags, of_stream, fingerprint, view)
            )
            for view in wanted
        }

        def extract(clip, view, images):
            crop = augmentation.view_crop(view, clip, flags['view_seed'])
            crop = {name: np.repeat(value, len(images)) for name, value in crop.items()}
            feed = {inputs[name]: x for name, x in {'images': images, **crop}.items()}
            return session.run(end_points['fc6'], feed)

        features.fill(
            folders,
            data_dir,
            wanted,
            view_reader(flags, of_stream, rows),
            extract,
            flags['workers'],
        )
    return {
        'weights': weights,
        'fingerprint': fingerprint,
        'features': [folder.name for folder in folders.values()],
        'width': int(end_points['fc6'].shape[-1]),
    }


def depends_on(flags, of_stream, fingerprint, view):
    """All that the features of a view depend on but the clip, JSON-able."""
    num_segments, seed = flags['num_segments'], flags['view_seed']
    found = {
        'weights': fingerprint,
        'layer': 'fc6',
        'num_segments': num_segments,
        'span': of_stream.span(flags['stack_length']),
        'sampling': sampling.rule(num_segments, view, seed),
        **{name: flags[name] for name in of_stream.options},
    }
    if of_stream.from_colour:
        found['cross_modality'] = flags['cross_modality']
    if view:
        crops = [augmentation.view_crop(view, clip, seed) for clip in 'abcdefgh']
        found['crops'] = [
            {name: value.tolist() for name, value in crop.items()} for crop in crops
        ]
    return found


def view_reader(flags, of_stream, rows):
    """Reads the inputs of several views of a clip in one pass over its file.

    Args:
      flags: the run's flags.
      of_stream: model.Stream.
      rows: dict clip -> row of clips.csv.

    Returns:
      Function (clip, list of views) -> list of uint8 [T, H, W, channels], one a view.
    """
    length = flags['stack_length']
    span, num_segments = of_stream.span(length), flags['num_segments']

    def read(clip, views):
        frames, seed = rows[clip]['frames'], flags['view_seed']
        starts = [
            sampling.view_starts(frames, span, num_segments, view, clip, seed)
            for view in views
        ]
        stored = sampling.stored_clip(flags['data_dir'], rows[clip])
        images = of_stream.read(stored, np.concatenate(starts), length)
        return np.split(images, len(views))

    return read


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
