"""What a step is fed belongs together: pixels or features, labels, crops, seeds."""

import numpy as np
import pytest
import tiny

from data import augmentation
from data import batches
from data import clips
from data import features
from data import feeds
from data import splits
from weights import checkpoints

B = 4


@pytest.fixture
def data(tiny_runs):
    """(settings, train examples, rows by clip) of the tiny data set."""
    settings = {
        **tiny.SETTINGS,
        'data_dir': str(tiny_runs / 'data'),
        'batch_size': B,
        'keep_prob': 0.25,
        'balanced': False,
    }
    index = clips.read_index(settings['data_dir'])
    return settings, splits.load(index, str(tiny_runs / 'lists')).train, index


def is_of(settings, picture, row):
    """Whether a frame, or a stack, is one of the clip's."""
    data_dir, length = settings['data_dir'], settings['stack_length']
    if picture.shape[-1] == 3:
        stored = clips.read_frames(data_dir, row['clip'])
    else:
        starts = range(row['frames'] - length)
        stored = clips.read_stacks(data_dir, row['clip'], starts, length)
    return (stored == picture).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize('stage', ['spatial', 'motion'])
def test_pictures_labels_crops_and_seeds_are_those_of_the_step(data, stage):
    settings, examples, index = data
    settings['stage'] = stage
    read = feeds.training_reader(settings, examples, index, {})
    for step in range(2 * len(examples) // B):
        feed = read(step)
        places = batches.positions(step, B, len(examples), settings['seed'])
        chosen = [examples[place] for place in places]
        assert feed['labels'].tolist() == [example.label for example in chosen]
        for example, picture in zip(chosen, feed['images'], strict=True):
            assert is_of(settings, picture, index[example.clip]), example.clip
        assert feed['dropout_seed'] == [settings['seed'], step]
        assert feed['keep_prob'] == 0.25
        for name, values in augmentation.random_crops(
            B, settings['seed'], step
        ).items():
            np.testing.assert_array_equal(feed[name], values)
    again = feeds.training_reader(settings, examples, index, {})(step)
    assert again.keys() == feed.keys()
    for name, values in feed.items():
        np.testing.assert_array_equal(again[name], values)


def test_balanced_batches_draw_classes_evenly(data):
    settings, examples, index = data
    few = [e for e in examples if e.label == 0][:1]
    examples = few + [e for e in examples if e.label == 1]  # 1 against 6 clips
    settings.update(stage='spatial', batch_size=300, balanced=True)
    labels = feeds.training_reader(settings, examples, index, {})(0)['labels']
    assert 110 < (labels == 0).sum() < 190  # 150 expected, 43 without


def test_a_hybrid_is_fed_the_cached_features_of_its_clips(data, tiny_runs):
    settings, examples, index = data
    settings['stage'] = 'hybrid'
    cnns = checkpoints.read(tiny_runs / 'hybrid')['cnns']
    feed = feeds.training_reader(settings, examples, index, cnns)(1)
    assert 'images' not in feed and 'mirrored' not in feed
    places = batches.positions(1, B, len(examples), settings['seed'])
    for row, place in enumerate(places):
        assert feed['labels'][row] == examples[place].label
        for stream, cnn in cnns.items():
            folder = features.folder_of(settings, cnn)
            stored = features.read(folder, examples[place].clip)
            length = feed['lengths'][row]
            np.testing.assert_array_equal(feed[stream][row, :length], stored)


def test_joint_is_fed_the_same_steps_of_both_streams(data):
    settings, examples, index = data
    settings['stage'] = 'joint'
    cnns = {'spatial': {}, 'motion': {}}
    feed = feeds.training_reader(settings, examples, index, cnns)(0)
    for row, place in enumerate(batches.positions(0, B, len(examples), 3)):
        for stream in ('spatial', 'motion'):
            expected = batches.sampled_clip(
                settings['data_dir'],
                stream,
                index[examples[place].clip],
                settings['num_steps'],
                settings['stack_length'],
            )
            np.testing.assert_array_equal(feed[stream][row], expected)
    assert feed['mirrored'].shape == (B,)


def test_held_out_clips_are_all_read_whole_and_without_dropout(data):
    settings, examples, index = data
    settings['stage'] = 'motion'
    examples = examples[:7]
    read = feeds.held_out_reader(settings, examples, index, {})
    found = [read(first) for first in range(0, 7, B)]
    pictures = np.concatenate([feed['images'] for feed in found])
    assert len(pictures) == 7
    for example, picture in zip(examples, pictures, strict=True):
        assert is_of(settings, picture, index[example.clip])
    for feed in found:
        assert feed['keep_prob'] == 1
        assert (feed['crop_scale'] == 1).all() and not feed['mirrored'].any()
