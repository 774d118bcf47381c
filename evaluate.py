"""Measures a run of train.py on the test split, or classifies a user's own videos.

    python evaluate.py --train_dir=runs/hybrid
    python evaluate.py --train_dir=runs/hybrid --compare=runs/spatial,runs/motion
    python evaluate.py --train_dir=runs/hybrid --video=holiday.mp4
    python evaluate.py --train_dir=runs/hybrid --export=saved/hybrid

Writes into the run's folder evaluation.json, predictions.csv, confusion.png and
report.html. run.json says what the run was trained with; other lists, classes or
preprocessing are refused, and so are clips or groups it was trained on.

One CNN alone is scored on `--test_segments` evenly spaced frames or stacks, their
softmax outputs averaged over these and over crops (two-stream 2014, section 5), beside
the accuracy on one sample, which most training logs show and which is lower.
"""

import os
import time

import cv2
import numpy as np

# The reasons why a video is damaged are in our words.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')
from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import model
from data import clips
from data import features
from data import splits
from results import calibration
from results import figures
from results import inference
from results import lineage
from results import measures
from results import predict
from results import report
from results import runs
from results import scoring
from results import tables
from weights import checkpoints


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    run_flags()
    protocol_flags()
    video_flags()


def run_flags():
    """Which run, and where it finds what it reads."""
    flags = tf.app.flags
    flags.DEFINE_string('train_dir', None, 'Folder of the run.')
    flags.DEFINE_enum(
        'checkpoint',
        'last',
        ['last', 'best', 'searched'],
        'The last, the best in validation, or with searched weights of late fusion.',
    )
    flags.DEFINE_string('data_dir', None, "Preprocessed clips, if not the run's.")
    flags.DEFINE_string('split_dir', None, "List files, if not in the run's place.")
    for stream in model.STREAMS:
        flags.DEFINE_string(
            f'{stream}_weights', None, "The CNN's dump, if not in the run's place."
        )
    flags.DEFINE_string('export', None, 'Write the run there as a SavedModel.')
    flags.DEFINE_integer('batch_size', 16, 'Clips scored at a time.', 1)
    flags.DEFINE_integer('workers', os.cpu_count(), 'Threads that read clips.', 1)


def protocol_flags():
    """What is measured, and how."""
    flags = tf.app.flags
    flags.DEFINE_enum('subset', 'test', ['test', 'train'], 'Subset of the split.')
    flags.DEFINE_bool(
        'allow_overlap', False, 'Score clips or groups that were trained on.'
    )
    flags.DEFINE_bool('allow_missing', False, 'Continue without listed clips.')
    flags.DEFINE_integer(
        'test_segments',
        None,
        f'Samples of a clip (default: {scoring.SEGMENTS} for a CNN alone, else those '
        'of the run).',
        1,
    )
    flags.DEFINE_enum('test_crops', '1', ['1', '5', '10'], 'Crops of each sample.')
    flags.DEFINE_enum(
        'test_views',
        'whole',
        ['whole', 'mirror'],
        'Whole images, or the mean over these and their mirror images.',
    )
    flags.DEFINE_float(
        'unknown_below',
        None,
        'Answer "none of these" where the best class is less probable.',
        0,
        1,
    )
    flags.DEFINE_list(
        'compare', [], 'Runs, already evaluated, to compare with on the same clips.'
    )


def video_flags():
    """A user's own videos."""
    flags = tf.app.flags
    usual = predict.Options()
    flags.DEFINE_multi_string(
        'video', [], 'Classify this file, folder or camera number; repeatable.'
    )
    flags.DEFINE_float(
        'window_seconds', usual.window_seconds, 'Length of a window of a video.', 0.1
    )
    flags.DEFINE_float(
        'window_stride', None, 'Seconds between windows (default: their length).', 0.1
    )
    flags.DEFINE_bool('keep_truncated', False, 'Take what decodes of a cut-off video.')
    flags.DEFINE_string('out_dir', None, 'For --video (default: TRAIN_DIR/videos).')
    flags.DEFINE_string('overlay', None, 'Write --video with class and flow drawn in.')
    flags.DEFINE_bool('explain', False, 'Draw where the CNNs see the class.')


# -- what is checked ------------------------------------------------------------------


def check_cached(data_dir, cnns, names):
    """Raises ValueError where a clip's features are missing or out of date."""
    for folder, *_ in features.folders(data_dir, cnns).values():
        missing = features.missing(folder, data_dir, names)
        if missing:
            raise ValueError(
                f'{folder}: features of {len(missing)} clips are missing or out of '
                f'date, such as {missing[0]}; run the same train.py command again'
            )


def check_held_out(run, examples, class_names, allow_overlap):
    """Whether a clip or its group was trained on; ValueError unless that is allowed."""
    seen = splits.first_seen(examples, class_names, run)
    if seen and not allow_overlap:
        raise ValueError(
            f'{seen.clip} or its group was trained on; --allow_overlap scores it all '
            'the same, which measures memory, not recognition'
        )
    return seen is not None


def check_sampling(stage, num_segments, protocol):
    """Raises ValueError where cached features cannot give the samples asked for."""
    if protocol.test_views == 'mirror' and protocol.test_crops != 1:
        raise ValueError(
            f'--test_views=mirror with --test_crops={protocol.test_crops}: give one of '
            'both; 10 crops have their mirror images'
        )
    if stage != 'hybrid':
        return
    if protocol.test_segments not in (None, num_segments):
        raise ValueError(
            f'--test_segments={protocol.test_segments}: the run reads cached features '
            f'of {num_segments} samples a clip; train with another --num_segments'
        )
    if protocol.test_crops != 1:
        raise ValueError(
            f'--test_crops={protocol.test_crops}: the run reads cached features of '
            'whole images; crops are for the stages spatial, motion and joint'
        )


# -- the program ----------------------------------------------------------------------


def find_run(train_dir, checkpoint='last', moved=None):
    """The run that --train_dir names.

    Args:
      train_dir: its folder.
      checkpoint: 'last', 'best' or 'searched'.
      moved: dict stream -> where its CNN is now, a dump or a --train_dir.

    Returns:
      (the content of run.json, path of the checkpoint, its step).

    Raises:
      ValueError: there is none, or nothing was trained in it.
    """
    if not train_dir:
        raise ValueError('--train_dir is needed: the folder of a run of train.py')
    run = runs.read(train_dir)
    stage = run['flags']['stage']
    if stage == 'features':
        raise ValueError(
            f'--train_dir={train_dir} is of stage features, which trains nothing; name '
            'a run of another stage'
        )
    for stream, folder in (moved or {}).items():
        if stream not in run['cnns']:
            raise ValueError(f'--{stream}_weights: the run does not use this CNN')
        run['cnns'][stream]['weights'] = lineage.find_weights(folder, stream, train_dir)
    folder = os.path.join(train_dir, '' if checkpoint == 'last' else checkpoint)
    path, step = checkpoints.latest(folder)
    if not path:
        made_by = {
            'last': f'run train.py --stage={stage} to its first one',
            'best': 'train.py keeps one there with --validation_groups',
            'searched': 'train.py writes it at its end with --search_combination',
        }
        raise ValueError(
            f'--checkpoint={checkpoint}: no checkpoint in {folder}; '
            f'{made_by[checkpoint]}'
        )
    runs.check_streams(f'--train_dir={train_dir}', run)
    return run, path, step


def read_subset(run, train_dir, data_dir, split_dir, protocol):
    """The clips to measure, which must be those of the run.

    Args:
      run: the content of run.json.
      train_dir, data_dir, split_dir, protocol: as in `evaluate`.

    Returns:
      (splits.Split, list of splits.Example, dict clip -> row of clips.csv).

    Raises:
      ValueError: lists, classes or preprocessing are not the run's.
    """
    flags, index = run['flags'], clips.read_index(data_dir, ok_only=False)
    split = splits.load(
        [clip for clip, row in index.items() if row['status'] == 'ok'],
        flags['split_dir'] if split_dir is None else split_dir,
        flags['split'],
        flags['group_regex'],
        flags['allow_missing'] or protocol.allow_missing,
        failed=[clip for clip, row in index.items() if row['status'] != 'ok'],
    )
    for note in split.notes:
        print(note)
    examples = split.test if protocol.subset == 'test' else split.train
    rows = {example.clip: index[example.clip] for example in examples}
    now = {
        'class_names': split.class_names,
        'list_hashes': split.hashes,
        'preprocessing': clips.preprocessing_of(rows.values()),
    }
    runs.check_same(train_dir, run, now)
    return split, examples, rows


def evaluate(
    train_dir,
    checkpoint='last',
    protocol=None,
    data_dir=None,
    split_dir=None,
    moved=None,
    batch_size=16,
    workers=1,
):
    """Measures a run and writes what was found into its folder.

    Args:
      train_dir: folder of the run.
      checkpoint: 'last', 'best' or 'searched'.
      protocol: scoring.Protocol.
      data_dir, split_dir: folders to read from, where they are not the run's.
      moved: dict stream -> where its CNN is now, a dump or a --train_dir.
      batch_size: clips scored at a time.
      workers: threads that read clips.

    Returns:
      What evaluation.json holds.

    Raises:
      ValueError: the run, its data or what it is compared with is not as it was.
    """
    run, checkpoint, step = find_run(train_dir, checkpoint, moved)
    runs.check_sampling(train_dir, run)
    flags, protocol = run['flags'], protocol or scoring.Protocol()
    data_dir = data_dir or flags['data_dir']
    check_sampling(flags['stage'], flags['num_segments'], protocol)
    segments = protocol.test_segments or scoring.default_segments(flags)
    protocol = protocol._replace(test_segments=segments)
    split, examples, rows = read_subset(run, train_dir, data_dir, split_dir, protocol)
    names = split.class_names
    trained_on = check_held_out(run, examples, names, protocol.allow_overlap)
    if flags['stage'] == 'hybrid':
        check_cached(data_dir, run['cnns'], list(rows))
    others = {
        other: report.read_other(other, examples, names) for other in protocol.compare
    }

    begun = time.perf_counter()
    probabilities = scoring.score(
        run, checkpoint, data_dir, examples, rows, protocol, batch_size, workers
    )
    seconds = time.perf_counter() - begun
    temperature = calibration.read(checkpoint)
    result = {
        'stage': flags['stage'],
        'step': step,
        'subset': protocol.subset,
        'split': flags['split'],
        'trained_on': trained_on,
        'partial_split': any(split.missing.values()),
        'missing': split.missing,
        'test_segments': protocol.test_segments,
        'test_crops': protocol.test_crops,
        'test_views': protocol.test_views,
        'clips_per_second': len(rows) / seconds,
        'class_names': names,
        **measured(probabilities, examples, names, others, temperature, protocol),
    }
    write(train_dir, run, data_dir, rows, examples, result, probabilities)
    tables.print_result(result)
    ending = tables.ending(result)
    print(
        f'\n{len(examples):,} clips, {result["clips_per_second"]:.1f} a second\n'
        f'{os.path.join(train_dir, "")}report{ending}.html, evaluation{ending}.json, '
        f'predictions{ending}.csv, confusion{ending}.png'
    )
    return result


def measured(probabilities, examples, class_names, others, temperature, protocol):
    """The figures of a result, for each way to predict and against other runs.

    `probabilities['video']` is replaced by what it is at the run's temperature.

    Args:
      probabilities: dict name -> float [N, C]; 'video' is the prediction.
      examples: list of N splits.Example.
      class_names: list of C.
      others: dict run -> what `report.read_other` returned.
      temperature: of calibration.read.
      protocol: scoring.Protocol.
    """
    labels = np.array([example.label for example in examples])
    calibrated = calibration.measure(probabilities['video'], labels, temperature)
    if temperature:
        video = calibration.tempered(probabilities['video'], temperature)
        probabilities['video'] = video
    unknown = None
    if protocol.unknown_below is not None:
        unknown = calibration.unknown_shares(
            probabilities['video'], labels, protocol.unknown_below
        )
    groups = [f'{example.label}/{example.group}' for example in examples]
    predictions = probabilities['video'].argmax(axis=1)
    matrix = measures.confusion_matrix(predictions, labels, len(class_names))
    return {
        'figures': {
            name: measures.measure(of_clips, labels, groups, class_names)
            for name, of_clips in probabilities.items()
        },
        'confusion': matrix.tolist(),
        'calibration': calibrated,
        'unknown': unknown,
        'compared': {
            other: {
                'other': kind,
                'other_top1': float(other_right.mean()),
                **measures.compare(predictions == labels, other_right, groups),
            }
            for other, (kind, other_right) in others.items()
        },
    }


def write(train_dir, run, data_dir, rows, examples, result, probabilities):
    """Writes evaluation.json, predictions.csv, confusion.png and report.html."""
    ending = tables.ending(result)
    out = os.path.join(train_dir, '')
    names = result['class_names']
    runs.write_json(f'{out}evaluation{ending}.json', result)
    tables.write_predictions(
        f'{out}predictions{ending}.csv', examples, names, probabilities
    )
    title = (
        f'{result["stage"]}, {len(examples):,} {result["subset"]} clips: '
        f'{result["figures"]["video"]["top1"]:.1%}{tables.marks(result)}'
    )
    confusion = f'{out}confusion{ending}.png'
    figures.draw_confusion(confusion, result['confusion'], names, title)
    predictions = probabilities['video'].argmax(axis=1)
    pairs = report.confused_examples(data_dir, rows, examples, predictions, result)
    report.write(f'{out}report{ending}.html', result, run, confusion, pairs)


def main(values):
    """Exports, classifies videos or measures; returns the exit code."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    train_dir, moved = values.train_dir, {}
    for stream in model.STREAMS:
        if values[f'{stream}_weights'].value:
            moved[stream] = values[f'{stream}_weights'].value
    if not values.export and not values.video:
        protocol = scoring.Protocol(
            values.subset,
            values.test_segments,
            int(values.test_crops),
            values.test_views,
            values.unknown_below,
            values.allow_overlap,
            values.allow_missing,
            values.compare,
        )
        evaluate(
            train_dir,
            values.checkpoint,
            protocol,
            values.data_dir,
            values.split_dir,
            moved,
            values.batch_size,
            values.workers,
        )
        return 0
    run, checkpoint, _ = find_run(train_dir, values.checkpoint, moved)
    if values.export:
        difference = inference.export(values.export, run, checkpoint)
        print(f'{values.export}: differs from the run by at most {difference:.1g}')
    if not values.video:
        return 0
    runs.check_sampling(train_dir, run)
    options = predict.Options(
        values.window_seconds,
        values.window_stride,
        values.keep_truncated,
        values.overlay,
        values.explain,
        values.unknown_below,
    )
    out_dir = values.out_dir or os.path.join(train_dir, 'videos')
    segments = values.test_segments or scoring.default_segments(run['flags'])
    return predict.predict_videos(
        run, checkpoint, values.video, out_dir, segments, options
    )


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
