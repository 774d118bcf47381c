"""Fills the feature cache: fc6 of a frozen CNN for the segments of every clip.

    cnn = extraction.cache_features(flags, 'motion', rows, size, {0: list(rows)})

Used by the stages features and hybrid of train.py, and by evaluate.py for mirrored
views.
"""

import contextlib
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

    Where all is there no network is built, which takes longer than looking.

    Args:
      flags: the run's flags.
      stream: name of the stream.
      rows: dict clip -> row of clips.csv.
      size: height and width of the stored frames in pixels.
      wanted: dict view -> the clips to compute (`sampling.view_starts`).

    Returns:
      The CNN as run.json keeps it: {'weights', 'fingerprint', 'features', 'width'},
      where 'features' are the folders of the views.

    Raises:
      ValueError: the dump is none, or has no fc6; or as of `features.fill`.
    """
    of_stream, data_dir = model.STREAMS[stream], flags['data_dir']
    given, train_dir = flags[f'{stream}_weights'], flags['train_dir']
    weights = lineage.find_weights(given, stream, train_dir)
    if not weights:
        weights = save_untrained(flags, stream, size)
    biases = dump.description(weights)['arrays'].get('fc6/biases')
    if not biases:
        raise ValueError(
            f'--{stream}_weights={given}: the dump has no fc6, the layer that is '
            f'cached; train --stage={stream} first'
        )
    fingerprint = dump.fingerprint(weights)
    folders = {
        view: features.directory(
            data_dir, stream, depends_on(flags, of_stream, fingerprint, view)
        )
        for view in wanted
    }
    todo = features.missing_views(folders, data_dir, wanted)
    if todo:
        reading = view_reader(flags, of_stream, rows), flags['workers']
        with frozen_cnn(flags, stream, size, weights) as extract:
            features.fill(folders, data_dir, todo, extract, *reading)
    return {
        'weights': weights,
        'fingerprint': fingerprint,
        'features': [folder.name for folder in folders.values()],
        'width': biases['shape'][0],
    }


def cnn_of(flags, stream, size):
    """The graph of a stream's CNN: (placeholders of its input, its end points)."""
    options = {name: flags[name] for name in model.STREAMS[stream].options}
    inputs, crops = model.cropped_images(stream, size, flags['stack_length'])
    _, end_points = model.cnn(stream, crops, 1000, options=options)
    return inputs, end_points


def save_untrained(flags, stream, size):
    """Saves a stream's CNN with random weights; returns the folder of its dump."""
    weights = os.path.join(flags['train_dir'], 'weights', stream)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(flags['seed'])
        cnn_of(flags, stream, size)
        session.run(tf.global_variables_initializer())
        model.save_cnn(session, stream, weights, 'random')
    print(f'{stream} CNN: untrained, saved as {weights}')
    return weights


@contextlib.contextmanager
def frozen_cnn(flags, stream, size, weights):
    """A stream's CNN, loaded from a dump.

    Yields:
      Function (clip, view, images uint8 [T, H, W, channels]) -> fc6 float32 [T, D] of
      the view's crop.
    """
    with tf.Graph().as_default(), tf.Session() as session:
        inputs, end_points = cnn_of(flags, stream, size)
        model.load_cnn(session, stream, weights, flags['cross_modality'])

        def extract(clip, view, images):
            crop = augmentation.view_crop(view, clip, flags['view_seed'])
            crop = {name: np.repeat(value, len(images)) for name, value in crop.items()}
            feed = {inputs[name]: x for name, x in {'images': images, **crop}.items()}
            return session.run(end_points['fc6'], feed)

        yield extract


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

