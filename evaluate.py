"""Measures a run of train.py on the test split, or classifies a user's own videos.

    python evaluate.py --train_dir=runs/hybrid
    python evaluate.py --train_dir=runs/hybrid --compare=runs/spatial,runs/motion
    python evaluate.py --train_dir=runs/hybrid --video=holiday.mp4
    python evaluate.py --train_dir=runs/hybrid --export=saved/hybrid

Writes into the run's folder evaluation.json, predictions.csv, confusion.png and
report.html. What the run was trained with stands in its run.json; other lists, classes
or preprocessing are refused, and so are clips or groups it was trained on.

One CNN alone is scored on `--test_segments` evenly spaced frames or stacks, their
softmax outputs averaged over these and over crops (two-stream 2014, section 5), beside
the accuracy on one sample, which most training logs show and which is lower.
"""

import functools
import os
import time

import cv2
import numpy as np

# The reasons why a video is damaged are in our words.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf
import tqdm

import model
from data import augmentation
from data import batches
from data import clips
from data import features
from data import splits
from results import figures
from results import inference
from results import measures
from results import predict
from results import report
from results import tables
from weights import checkpoints

SEGMENTS = 25  # samples of a clip, for a CNN alone


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags = tf.app.flags
    flags.DEFINE_string('train_dir', None, 'Folder of the run.')
    flags.DEFINE_bool('best', False, 'Its best checkpoint in validation, not the last.')
    flags.DEFINE_string('data_dir', None, "Preprocessed clips, if not the run's.")
    flags.DEFINE_string('split_dir', None, "List files, if not in the run's place.")
    flags.DEFINE_enum('side', 'test', ['test', 'train'], 'Side of the split to score.')
    flags.DEFINE_bool(
        'allow_overlap', False, 'Score clips or groups that were trained on.'
    )
    flags.DEFINE_bool('allow_missing', False, 'Go on when listed clips are not stored.')
    flags.DEFINE_integer(
        'test_segments',
        None,
        f"Samples of a clip (default: {SEGMENTS} for a CNN alone, else the run's).",
        1,
    )
    flags.DEFINE_enum('test_crops', '1', ['1', '5', '10'], 'Crops of each sample.')
    flags.DEFINE_list(
        'compare', [], 'Runs, already evaluated, to compare with on the same clips.'
    )
    flags.DEFINE_integer('batch_size', 16, 'Clips scored at a time.', 1)
    flags.DEFINE_integer('workers', os.cpu_count(), 'Threads that read ahead.', 1)
    flags.DEFINE_multi_string(
        'video', [], 'Classify this file, folder or camera number; repeatable.'
    )
    flags.DEFINE_float('window_seconds', 10.0, 'Length of a window of a video.', 0.1)
    flags.DEFINE_float(
        'window_stride', None, 'Seconds between windows (default: their length).', 0.1
    )
    flags.DEFINE_bool('keep_truncated', False, 'Take what decodes of a cut-off video.')
    flags.DEFINE_string('out_dir', None, 'For --video (default: TRAIN_DIR/videos).')
    flags.DEFINE_string('overlay', None, 'Write --video with class and flow drawn in.')
    flags.DEFINE_bool('explain', False, 'Draw where the CNNs see the class.')
    flags.DEFINE_string('export', None, 'Write the run there as a SavedModel.')


# -- scores ---------------------------------------------------------------------------


def crop_inputs(count, crops):
    """The crops of test time for `count` pictures: the whole; or corners and centre at
    .875, without or with their mirrors. Yields feeds by name."""
    if crops == 1:
        yield augmentation.whole_pictures(count)
        return
    for mirrored in (False, True)[: crops // 5]:
        for place in range(5):
            yield {
                'crop_scale': np.full(count, 0.875, np.float32),
                'place': np.full(count, place, np.int32),
                'mirrored': np.full(count, mirrored),
            }


def score_cnn(session, graph, settings, rows, crops):
    """Scores clips by one CNN.

    Args:
      session, graph: the session and what model.classifier returned.
      settings: the run's flags; num_steps samples of each clip are scored.
      rows: the clips' rows of clips.csv.
      crops: 1, 5 or 10.

    Yields:
      dict of float [C] per clip: 'video', the mean over samples and crops, and
      'one_sample', the middle sample as a whole picture.
    """
    inputs, logits, _ = graph
    softmax = tf.nn.softmax(logits)

    def read(row):
        return batches.sampled_clip(
            settings['data_dir'],
            settings['stage'],
            row,
            settings['num_steps'],
            settings['stack_length'],
        )

    def run(images, crop):
        feed = {'images': images, 'keep_prob': 1.0, 'dropout_seed': [0, 0], **crop}
        return session.run(softmax, {inputs[name]: x for name, x in feed.items()})

    for images in batches.read_ahead(read, rows, settings['workers']):
        middle = images[len(images) // 2][None]
        crops_of_clip = crop_inputs(len(images), crops)
        yield {
            'video': np.mean([run(images, crop) for crop in crops_of_clip], (0, 1)),
            'one_sample': run(middle, augmentation.whole_pictures(1))[0],
        }


def score_hybrid(session, graph, settings, cnns, rows, batch_size, crops):
    """Scores clips by the hybrid or joint graph.

    Args:
      session, graph: the session and what model.classifier returned.
      settings: the run's flags.
      cnns: the CNNs as run.json keeps them.
      rows: the clips' rows of clips.csv.
      batch_size: clips at a time.
      crops: 1; or 5 or 10 for stage joint.

    Yields:
      dict of float [C] per clip: 'video'; 'one_sample', of the middle step alone; each
      branch's softmax of its own part of the logits by its name; and, where one softmax
      stands on several branches, what is left without a branch as `without_<branch>`.
    """
    inputs, logits, end_points = graph
    outputs = {'video': tf.nn.softmax(logits)}
    branches = [name for name in model.BRANCHES if name in settings['branches']]
    for branch in branches:
        part = end_points[f'{branch}/logits']
        outputs[branch] = tf.nn.softmax(part)
        if settings['head'] == 'concat' and len(branches) > 1:
            outputs[f'without_{branch}'] = tf.nn.softmax(logits - part)

    def read(start):
        return features.sequences(settings, cnns, rows[start : start + batch_size])

    def run(batch, crop, wanted):
        if settings['stage'] == 'joint':
            batch = {**batch, **crop}
        feed = {inputs[name]: value for name, value in batch.items()}
        feed.update({inputs['keep_prob']: 1.0, inputs['dropout_seed']: [0, 0]})
        return session.run(wanted, feed)

    starts = range(0, len(rows), batch_size)
    for batch in batches.read_ahead(read, starts, settings['workers']):
        lengths = batch['lengths']
        count = np.arange(len(lengths))
        found = [run(batch, crop, outputs) for crop in crop_inputs(len(count), crops)]
        video = {name: np.mean([each[name] for each in found], 0) for name in outputs}
        middle = {s: batch[s][count, lengths // 2][:, None] for s in cnns}
        middle['lengths'] = np.ones_like(lengths)
        whole = augmentation.whole_pictures(len(count))
        one_sample = run(middle, whole, outputs['video'])
        values = {'video': video.pop('video'), 'one_sample': one_sample, **video}
        for place in count:
            yield {name: value[place] for name, value in values.items()}


def score(stored, settings, rows, checkpoint, values):
    """Restores the run and scores clips.

    Args:
      stored: the run as run.json keeps it.
      settings: its flags, with the folders to read from now.
      rows: the clips' rows of clips.csv.
      checkpoint: of the run.
      values: the program's own flags.

    Returns:
      dict name -> float [N, C] probabilities, N the number of rows.

    Raises:
      ValueError: the checkpoint or a CNN's dump is not whole or not the run's.
    """
    size, cnns = stored['preprocessing']['size'], stored['cnns']
    widths = {stream: cnn.get('width') for stream, cnn in cnns.items()}
    crops = int(values.test_crops)
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(settings['seed'])
        graph = model.classifier(settings, len(stored['class_names']), size, widths)
        inference.restore(session, checkpoint, settings, cnns)
        if settings['stage'] in model.STREAMS:
            scored = score_cnn(session, graph, settings, rows, crops)
        else:
            scored = score_hybrid(
                session, graph, settings, cnns, rows, values.batch_size, crops
            )
        progress = tqdm.tqdm(scored, 'scoring', len(rows), unit='clip', disable=None)
        found = list(progress)
    check_scores(found, rows)
    return {name: np.stack([row[name] for row in found]) for name in found[0]}


# -- what is checked ------------------------------------------------------------------


def check_cached(settings, cnns, names):
    """Raises ValueError where a clip's features are missing or out of date."""
    for stream, cnn in cnns.items():
        folder = features.folder_of(settings, cnn)
        source = functools.partial(features.source_path, settings['data_dir'], stream)
        lacking = features.missing(folder, names, source)
        if lacking:
            raise ValueError(
                f'{folder}: features of {len(lacking)} clips are missing or out of '
                f'date, such as {lacking[0]}; run the same train.py command again'
            )


def check_held_out(stored, examples, class_names, allow_overlap):
    """Whether a clip or its group was trained on; ValueError unless that is allowed."""
    seen = splits.first_seen(examples, class_names, stored)
    if seen and not allow_overlap:
        raise ValueError(
            f'{seen.clip} or its group was trained on; --allow_overlap scores it all '
            'the same, which measures memory, not recognition'
        )
    return seen is not None


def check_scores(found, rows):
    """Raises ValueError unless there is one finite score for each clip."""
    if len(found) != len(rows):
        raise ValueError(
            f'{len(found)} clips were scored, the split has {len(rows)}: run '
            'optical_flow.py --check on --data_dir'
        )
    for scores, row in zip(found, rows, strict=True):
        if not all(np.isfinite(values).all() for values in scores.values()):
            raise ValueError(
                f'{row["clip"]}: the network gives no finite probability; the '
                'checkpoint is damaged, or training had diverged'
            )


def check_sampling(settings, values):
    """Raises ValueError where cached features cannot give the samples asked for."""
    if settings['stage'] != 'hybrid':
        return
    if values.test_segments not in (None, settings['num_steps']):
        raise ValueError(
            f'--test_segments={values.test_segments}: the run reads cached features of '
            f'{settings["num_steps"]} samples a clip; train with another --num_steps'
        )
    if values.test_crops != '1':
        raise ValueError(
            f'--test_crops={values.test_crops}: the run reads cached features of whole '
            'pictures; crops are for the stages spatial, motion and joint'
        )


# -- the program ----------------------------------------------------------------------


def find_run(values):
    """The run that --train_dir names: (run.json's content, checkpoint, its step).

    Raises:
      ValueError: there is none, or nothing was trained in it.
    """
    if not values.train_dir:
        raise ValueError('--train_dir is needed: the folder of a run of train.py')
    stored = checkpoints.read(values.train_dir)
    stage = stored['settings']['stage']
    if stage == 'features':
        raise ValueError(
            f'--train_dir={values.train_dir} is of stage features, which trains '
            'nothing; name a run of another stage'
        )
    folder = os.path.join(values.train_dir, 'best' if values.best else '')
    checkpoint, step = checkpoints.latest(folder)
    if not checkpoint and values.best:
        raise ValueError(
            f'--best: no checkpoint in {folder}; train.py keeps one there with '
            '--validation_groups'
        )
    if not checkpoint:
        raise ValueError(
            f'--train_dir={values.train_dir}: no checkpoint yet; run train.py '
            f'--stage={stage} to its first one'
        )
    return stored, checkpoint, step


def samples_of(settings, values):
    """Samples of a clip that are scored."""
    alone = settings['stage'] in model.STREAMS
    return values.test_segments or (SEGMENTS if alone else settings['num_steps'])


def evaluate(values):
    """Measures the run that the flags name; returns what evaluation.json holds."""
    stored, checkpoint, step = find_run(values)
    settings = dict(stored['settings'], workers=values.workers)
    check_sampling(settings, values)
    settings['num_steps'] = samples_of(settings, values)
    for name in ('data_dir', 'split_dir'):
        if getattr(values, name) is not None:
            settings[name] = getattr(values, name)
    index = clips.read_index(settings['data_dir'])
    split = splits.load(
        index,
        settings['split_dir'],
        settings['split'],
        settings['group_regex'],
        settings['allow_missing'] or values.allow_missing,
    )
    examples = split.test if values.side == 'test' else split.train
    rows = [index[example.clip] for example in examples]
    now = {
        'class_names': split.class_names,
        'list_hashes': split.hashes,
        'preprocessing': clips.preprocessing_of(rows),
    }
    checkpoints.check_same(values.train_dir, stored, now)
    names = split.class_names
    trained_on = check_held_out(stored, examples, names, values.allow_overlap)
    if settings['stage'] == 'hybrid':
        check_cached(settings, stored['cnns'], [example.clip for example in examples])

    others = {o: report.read_other(o, examples, names) for o in values.compare}
    begun = time.perf_counter()
    probabilities = score(stored, settings, rows, checkpoint, values)
    seconds = time.perf_counter() - begun
    labels = np.array([example.label for example in examples])
    groups = [f'{example.label}/{example.group}' for example in examples]
    predictions = probabilities['video'].argmax(axis=1)
    matrix = measures.confusion_matrix(predictions, labels, len(names))
    result = {
        'stage': settings['stage'],
        'step': step,
        'side': values.side,
        'split': settings['split'],
        'trained on': trained_on,
        'partial split': any(split.missing.values()),
        'missing': split.missing,
        'test_segments': settings['num_steps'],
        'test_crops': int(values.test_crops),
        'clips_per_second': len(rows) / seconds,
        'class_names': names,
        'figures': {
            name: measures.measure(rows_of, labels, groups, names)
            for name, rows_of in probabilities.items()
        },
        'confusion': matrix.tolist(),
        'compared': {
            other: {
                'other': kind,
                'other_top1': float(other_right.mean()),
                **measures.compare(predictions == labels, other_right, groups),
            }
            for other, (kind, other_right) in others.items()
        },
    }
    tables.print_result(result)
    write(values, stored, settings['data_dir'], rows, examples, result, probabilities)
    return result


def write(values, stored, data_dir, rows, examples, result, probabilities):
    """Writes evaluation.json, predictions.csv, confusion.png and report.html."""
    ending = '' if values.side == 'test' else '_train'
    out = os.path.join(values.train_dir, '')
    names = result['class_names']
    checkpoints.write_json(f'{out}evaluation{ending}.json', result)
    tables.write_predictions(
        f'{out}predictions{ending}.csv', examples, names, probabilities
    )
    title = (
        f'{result["stage"]}, {len(examples):,} {values.side} clips: '
        f'{result["figures"]["video"]["top1"]:.1%}{tables.marks(result)}'
    )
    picture = f'{out}confusion{ending}.png'
    figures.draw_confusion(picture, result['confusion'], names, title)
    predictions = probabilities['video'].argmax(axis=1)
    pairs = report.pairs_with_pictures(data_dir, rows, examples, predictions, result)
    report.write(f'{out}report{ending}.html', result, stored, picture, pairs)
    print(
        f'\n{len(examples):,} clips, {result["clips_per_second"]:.1f} a second\n'
        f'{out}report{ending}.html, evaluation{ending}.json, predictions{ending}.csv, '
        f'confusion{ending}.png'
    )


def main(values):
    """Exports, classifies videos or measures; returns the exit code."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if not values.export and not values.video:
        evaluate(values)
        return 0
    stored, checkpoint, _ = find_run(values)
    if values.export:
        difference = inference.export(values.export, stored, checkpoint)
        print(f'{values.export}: differs from the run by at most {difference:.1g}')
    if not values.video:
        return 0
    steps = samples_of(stored['settings'], values)
    return predict.predict_videos(values, stored, checkpoint, steps)


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
