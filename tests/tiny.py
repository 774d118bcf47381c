"""A tiny data set and runs of every stage on it: narrow networks, nothing trained.

Evaluation and prediction do the same with random weights as with trained ones, so the
runs are made as train.py would start them and saved at once.
"""

import cv2
import numpy as np
import tensorflow.compat.v1 as tf

import model
import optical_flow
import train
from data import clips
from data import features
from data import feeds
from data import splits
from results import runs
from weights import checkpoints

SIZE = 64
CLASSES = ('Walk', 'Jump', 'Run')  # classInd's order is not the alphabet's
GROUPS = {'test': (1, 2), 'train': (8, 9, 10)}
SHORTEST = 9  # frames
STEP = 7  # of the checkpoints
FLAGS = {  # of a run
    'split': 1,
    'group_regex': splits.UCF101_GROUP,
    'allow_missing': False,
    'validation_groups': 0,
    'spatial_weights': 'random',
    'motion_weights': 'random',
    'hybrid_weights': None,
    'cross_modality': False,
    'norm2': True,
    'subtract_mean_flow': False,
    'num_segments': 5,
    'stack_length': 3,
    'branches': model.all_branches(),
    'head': 'concat',
    'lstm_units': [6, 4],
    'feature_views': 1,
    'view_seed': 0,
    'shard': '0/1',
    'worker_hosts': [],
    'task_index': None,
    'histograms': False,
    'seed': 3,
    'workers': 1,
}


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
    preprocessing = {'flow': 'dis-ultrafast', 'bound': 20.0, 'size': SIZE}
    preprocessing['settings'], _ = optical_flow.settings_of(*preprocessing.values())
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
                        str(videos), str(data), str(data), preprocessing, False, task
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
    flags = {
        **FLAGS,
        'stage': stage,
        'data_dir': str(folder / 'data'),
        'train_dir': str(train_dir),
        'split_dir': str(folder / 'lists'),
        **given,
    }
    index = clips.read_index(flags['data_dir'])
    split = splits.load(index, flags['split_dir'])
    rows = {e.clip: index[e.clip] for e in split.train + split.test}
    preprocessing = clips.preprocessing_of(rows.values())
    run = runs.describe(flags, split, split.train, preprocessing)
    run = runs.start(train_dir, run)
    data = train.Data(split, split.train, [], rows, preprocessing)
    cnns = train.find_cnns(flags, data)
    runs.keep_cnns(train_dir, run, cnns)
    if stage == 'features':
        return train_dir
    widths = {stream: cnn.get('width') for stream, cnn in cnns.items()}
    dumps = {s: cnn['weights'] for s, cnn in cnns.items() if cnn['weights']}
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(flags['seed'])
        inputs, logits, _ = model.classifier(stage, runs.architecture(run), widths)
        model.initialize(session, {} if stage == 'hybrid' else dumps)
        feed = feed_of(flags, cnns, split.test, rows)
        feed = {inputs[n]: x for n, x in feed.items() if n in inputs}
        spread(session, session.run(logits, feed))
        checkpoints.save(tf.train.Saver(), session, str(train_dir), STEP)
    return train_dir


def feed_of(flags, cnns, examples, rows):
    """Clips as a graph's inputs by name; a CNN gets the middle image of each."""
    stage, data_dir, length = flags['stage'], flags['data_dir'], flags['stack_length']
    span = None
    if stage in model.STREAMS:
        span = model.STREAMS[stage].span(length)
        read_clip = feeds.image_reader(data_dir, model.STREAMS[stage], length)
    elif stage == 'hybrid':
        read_clip = features.reader(features.folders(data_dir, cnns))
    else:
        streams = {stream: model.STREAMS[stream] for stream in cnns}
        read_clip = feeds.segment_reader(
            data_dir, streams, flags['num_segments'], length
        )
    requests = feeds.evaluation_requests(examples, rows, len(examples), span)
    return next(feeds.read(requests, read_clip, workers=1))


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
            model.set_variable(session, variable.op.name, value)


def make_all(folder, stages=('features', 'motion', 'hybrid')):
    """The data set and a run of each stage; call it while narrow.patch holds."""
    make_data(folder)
    for stage in stages:
        make_run(folder, stage)
