"""What the graph of a stage is fed: pixels or cached features, labels, crops, seeds.

read = feeds.training_reader(settings, examples, index, cnns)
feed = {inputs[name]: value for name, value in read(step).items()}
"""

import numpy as np

from data import augmentation
from data import batches
from data import clips
from data import features


def training_reader(settings, examples, index, cnns):
    """How the batch of a training step is read.

    Args:
      settings: the run's flags.
      examples: list of splits.Example.
      index: rows of clips.csv by clip.
      cnns: what run.json says of the streams' CNNs.

    Returns:
      Function step -> dict of the graph's inputs by name, the same for (seed, step).
    """
    data_dir, stage = settings['data_dir'], settings['stage']
    length, seed = settings['stack_length'], settings['seed']
    count = settings['batch_size']
    labels = np.array([example.label for example in examples])

    def read(step):
        if settings['balanced']:
            places = batches.balanced_positions(step, count, labels, seed)
        else:
            places = batches.positions(step, count, len(examples), seed)
        rows = [index[examples[place].clip] for place in places]
        feed = {
            'labels': labels[places],
            'keep_prob': settings['keep_prob'],
            'dropout_seed': [seed, step],
        }
        if stage != 'hybrid':
            feed.update(augmentation.random_crops(count, seed, step))
        if stage in clips.STREAMS:
            feed['images'] = batches.random_pictures(
                data_dir, stage, rows, length, seed, step
            )
        else:
            feed.update(features.sequences(settings, cnns, rows))
        return feed

    return read


def held_out_reader(settings, examples, index, cnns):
    """How held-out clips are read, without crops and dropout.

    Args:
      settings, examples, index, cnns: as in `training_reader`.

    Returns:
      Function of a first place -> inputs by name for a batch of clips from there on. A
      CNN alone sees the middle of each clip.
    """

    def read(first):
        chosen = examples[first : first + settings['batch_size']]
        rows = [index[example.clip] for example in chosen]
        feed = {
            'keep_prob': 1.0,
            'dropout_seed': [0, 0],
        }
        if settings['stage'] != 'hybrid':
            feed.update(augmentation.whole_pictures(len(chosen)))
        if settings['stage'] in clips.STREAMS:
            feed['images'] = batches.middle_pictures(
                settings['data_dir'], settings['stage'], rows, settings['stack_length']
            )
        else:
            feed.update(features.sequences(settings, cnns, rows))
        return feed

    return read
