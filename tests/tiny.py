"""A tiny data set and runs of every stage on it: narrow networks, nothing trained.

Evaluation and prediction do the same with random weights as with trained ones, so the
runs are made as train.py would start them and saved at once.
"""

import types

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

import model
import optical_flow
import train
from data import augmentation
from data import batches
from data import clips
from data import features
from data import splits
from weights import checkpoints

SIZE = 64
CLASSES = ('Walk', 'Jump', 'Run')  # classInd's order is not the alphabet's
GROUPS = {'test': (1, 2), 'train': (8, 9, 10)}
SHORTEST = 9  # frames
STEP = 7  # of the checkpoints
SETTINGS = {
    'split': 1,
    'group_regex': splits.UCF101_GROUP,
    'allow_missing': False,
    'spatial_weights': 'random',
    'motion_weights': 'random',
    'cross_modality': False,
    'num_steps': 5,
    'stack_length': 3,
    'branches': list(model.BRANCHES),
    'head': 'concat',
    'lstm_units': [6, 4],
    'seed': 3,
    'workers': 1,
}
# the flags of evaluate.py as they stand where nothing is given
FLAGS = {
    'best': False,
    'data_dir': None,
    'split_dir': None,
    'side': 'test',
    'allow_overlap': False,
    'allow_missing': False,
    'test_segments': None,
    'test_crops': '1',
    'compare': [],
    'batch_size': 5,
    'workers': 2,
    'video': [],
    'window_seconds': 10.0,
    'window_stride': None,
    'keep_truncated': False,
    'out_dir': None,
    'overlay': None,
    'explain': False,
    'export': None,
}


def flags(train_dir, **given):
    """What evaluate.py reads its flags from."""
    assert given.keys() <= FLAGS.keys()
    return types.SimpleNamespace(**{**FLAGS, 'train_dir': str(train_dir), **given})


def draw_video(path, frames, seed, size=(80, 72), rate=25):
    """Writes a video of blobs that move on noise; every frame differs."""
    random = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, fourcc, rate, size)
    noise = random.integers(0, 90, (size[1] // 4, size[0] // 4, 3), np.uint8)
    ground = cv2.resize(noise, size)
    place, speed = random.uniform(10, 60, 2), random.uniform(-4, 4, 2)
    color = random.integers(120, 256, 3).tolist()
    for step in range(frames):
        frame = np.roll(ground, step, axis=1)
        x, y = np.int64((place + step * speed) % size[::-1])
        cv2.circle(frame, (int(x), int(y)), 11, color, -1)
        writer.write(frame)
    writer.release()


def make_data(folder):
    """Draws and preprocesses the clips, writes list files; returns nothing."""
    videos, data = folder / 'videos', folder / 'data'
    (folder / 'lists').mkdir(parents=True)
    settings = {'flow': 'dis-ultrafast', 'bound': 20.0, 'size': SIZE}
    listed, rows, seed = {'train': [], 'test': []}, [], 0
    data.mkdir()
    for name in CLASSES:
        for side, groups in GROUPS.items():
            for group in groups:
                for number in (1, 2):
                    seed += 1
                    stem = f'v_{name}_g{group:02}_c{number:02}'
                    path = f'{name}/{stem}.avi'
                    draw_video(videos / path, SHORTEST + seed % 7, seed)
                    task = (f'{name}/{stem}', path)
                    row = optical_flow.convert(
                        str(videos), str(data), str(data), settings, False, task
                    )
                    assert row['status'] == 'ok', row
                    rows.append(row)
                    label = f' {CLASSES.index(name) + 1}' if side == 'train' else ''
                    listed[side].append(path + label)
    clips.write_index(data / 'clips.csv', rows)
    numbered = [f'{n} {name}' for n, name in enumerate(CLASSES, start=1)]
    for file, lines in (('classInd', numbered), *listed.items()):
        file = f'{file}list01' if file in listed else file
        (folder / 'lists' / f'{file}.txt').write_text('\r\n'.join(lines) + '\r\n')


def make_run(folder, stage, name=None, **given):
    """A run of a stage on the data in `folder`, saved at STEP; returns its folder."""
    train_dir = folder / (name or stage)
    settings = {
        **SETTINGS,
        'stage': stage,
        'data_dir': str(folder / 'data'),
        'train_dir': str(train_dir),
        'split_dir': str(folder / 'lists'),
        **given,
    }
    index = clips.read_index(settings['data_dir'])
    split = splits.load(index, settings['split_dir'])
    rows = {e.clip: index[e.clip] for e in split.train + split.test}
    preprocessing = clips.preprocessing_of(rows.values())
    run = checkpoints.describe(settings, split, split.train, preprocessing)
    stored = checkpoints.start(train_dir, run)
    cnns = train.prepare_cnns(settings, rows, SIZE)
    checkpoints.keep_cnns(train_dir, stored, cnns)
    if stage == 'features':
        return train_dir
    widths = {stream: cnn.get('width') for stream, cnn in cnns.items()}
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(settings['seed'])
        inputs, logits, _ = model.classifier(settings, len(CLASSES), SIZE, widths)
        model.initialize(session, settings, cnns)
        tested = [rows[example.clip] for example in split.test]
        feed = {inputs[n]: x for n, x in feed_of(settings, cnns, tested).items()}
        spread(session, session.run(logits, feed))
        checkpoints.save(tf.train.Saver(), session, str(train_dir), STEP)
    return train_dir


def feed_of(settings, cnns, rows):
    """The test clips as a graph's inputs by name; a CNN gets one picture of each."""
    feed = {'keep_prob': 1.0, 'dropout_seed': [0, 0]}
    if settings['stage'] != 'hybrid':
        feed.update(augmentation.whole_pictures(len(rows)))
    if settings['stage'] in model.STREAMS:
        stream, length = settings['stage'], settings['stack_length']
        place = [settings['data_dir'], stream, rows, length]
        return {**feed, 'images': batches.middle_pictures(*place)}
    return {**feed, **features.sequences(settings, cnns, rows)}


def spread(session, logits):
    """Scales the last layer so that clips get different classes: the scores of an
    untrained network hardly differ between clips."""
    mean = logits.mean(axis=0)
    scale = 2 / (logits - mean).std()
    for variable in tf.trainable_variables():
        if variable.op.name.startswith('softmax/') or '/fc8/' in variable.op.name:
            value = scale * session.run(variable)
            if 'bias' in variable.op.name:
                value -= scale * mean
            session.run(variable.initializer, {variable.initializer.inputs[1]: value})


def make_all(folder, stages=('features', 'motion', 'hybrid')):
    """The data set and a run of each stage; call it while narrow.patch holds."""
    make_data(folder)
    for stage in stages:
        make_run(folder, stage)
