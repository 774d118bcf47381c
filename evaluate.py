"""Measures a run of train.py on the test split: accuracies, predictions, pictures.

    python evaluate.py --train_dir=runs/hybrid

Writes into the run's folder evaluation.json, predictions.csv and confusion.png. What
the run was trained with stands in its run.json; other lists, classes or preprocessing
are refused, and so are clips or groups it was trained on.

One CNN alone is scored on `--test_segments` evenly spaced frames or stacks, their
softmax outputs averaged over these and over crops (two-stream 2014, section 5), beside
the accuracy on one sample, which most training logs show and which is lower.
"""

import csv
import os
import sys

import matplotlib

matplotlib.use('Agg')
import numpy as np
import scipy.stats
from matplotlib import pyplot

# TensorFlow's start-up notes would bury the one line that says what is wrong
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
import tensorflow.compat.v1 as tf
import tqdm

import model
from data import augment
from data import batches
from data import clips
from data import features
from data import splits
from weights import checkpoints

FLAGS = tf.app.flags.FLAGS

RESAMPLES = 1000  # bootstrap samples of the interval over groups


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags = tf.app.flags
    flags.DEFINE_string('train_dir', None, 'Folder of the run to measure.')
    flags.DEFINE_string('data_dir', None, "Preprocessed clips, if not the run's.")
    flags.DEFINE_string('split_dir', None, "List files, if not in the run's place.")
    flags.DEFINE_enum('side', 'test', ['test', 'train'], 'Side of the split to score.')
    flags.DEFINE_bool(
        'allow_overlap', False, 'Score clips or groups that were trained on.'
    )
    flags.DEFINE_integer('test_segments', 25, 'Samples of a clip, for a CNN alone.')
    flags.DEFINE_enum('test_crops', '1', ['1', '5', '10'], 'Crops of each sample.')
    flags.DEFINE_integer('batch_size', 16, 'Clips scored at a time.')
    flags.DEFINE_integer('workers', os.cpu_count(), 'Threads that read ahead.')


# -- measures -------------------------------------------------------------------------


def top_k_accuracy(probabilities, labels, k):
    """Share of clips whose label is among the k most probable classes.

    Args:
      probabilities: float [N, C].
      labels: int [N].
      k: int; more than C counts as C.
    """
    best = np.argsort(-probabilities, axis=1, kind='stable')[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def confusion_matrix(predictions, labels, num_classes):
    """int [C, C]: row = class shown, column = class predicted."""
    matrix = np.zeros([num_classes, num_classes], int)
    np.add.at(matrix, (labels, predictions), 1)
    return matrix


def class_accuracies(matrix):
    """float [C], NaN where a class has no clip."""
    totals = matrix.sum(axis=1)
    safe = np.maximum(totals, 1)
    return np.where(totals > 0, np.diag(matrix) / safe, np.nan)


def average_precisions(probabilities, labels):
    """Average precision of each class, float [C], NaN where it has no clip.

    AP = sum_n (R_n - R_{n-1}) P_n over the distinct scores in falling order: ties are
    one threshold, and nothing is interpolated.
    """
    found = np.full(probabilities.shape[1], np.nan)
    for label in np.unique(labels):
        scores, right = probabilities[:, label], labels == label
        order = np.argsort(-scores, kind='stable')
        hits = np.cumsum(right[order])
        last = np.append(np.diff(scores[order]) != 0, True)  # ends of runs of ties
        precision = (hits / np.arange(1, len(hits) + 1))[last]
        recall = (hits / hits[-1])[last]
        found[label] = np.sum(np.diff(recall, prepend=0) * precision)
    return found


def wilson_interval(right, count):
    """95 % Wilson interval of a share (Wilson 1927), as if clips were independent."""
    interval = scipy.stats.binomtest(right, count).proportion_ci(method='wilson')
    return [float(interval.low), float(interval.high)]


def group_interval(right, groups, seed=0):
    """95 % bootstrap interval of accuracy that draws whole groups.

    Clips of one group come from one recording and are right or wrong together, so an
    interval over clips is too narrow.

    Args:
      right: bool [N].
      groups: list of N group names.
      seed: int.
    """
    _, group = np.unique(groups, return_inverse=True)
    clips_of = np.bincount(group)
    right_of = np.bincount(group, weights=right)
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(clips_of), [RESAMPLES, len(clips_of)])
    shares = right_of[drawn].sum(axis=1) / clips_of[drawn].sum(axis=1)
    return [float(x) for x in np.percentile(shares, [2.5, 97.5])]


def measure(probabilities, labels, groups, class_names):
    """All figures of one set of predictions, JSON-able.

    Args:
      probabilities: float [N, C].
      labels: int [N].
      groups: list of N names that are one for clips of one recording.
      class_names: list of C.
    """
    predictions = probabilities.argmax(axis=1)
    right = predictions == labels
    matrix = confusion_matrix(predictions, labels, len(class_names))
    by_class = class_accuracies(matrix)
    precisions = average_precisions(probabilities, labels)
    return {
        'clips': len(labels),
        'groups': len(set(groups)),
        'top1': float(right.mean()),
        'top1_wilson_95': wilson_interval(int(right.sum()), len(right)),
        'top1_group_bootstrap_95': group_interval(right, groups),
        'top5': top_k_accuracy(probabilities, labels, 5),
        'mean_class_accuracy': float(np.nanmean(by_class)),
        'mean_average_precision': float(np.nanmean(precisions)),
        'per_class': {
            name: {
                'clips': int(matrix[label].sum()),
                'accuracy': None if np.isnan(by_class[label]) else by_class[label],
                'average_precision': (
                    None if np.isnan(precisions[label]) else precisions[label]
                ),
            }
            for label, name in enumerate(class_names)
        },
        'confusion': matrix.tolist(),
    }


# -- scores ---------------------------------------------------------------------------


def crop_inputs(count, crops):
    """The crops of test time for `count` pictures: the whole; or corners and centre at
    .875, without or with their mirrors. Yields feeds by name."""
    if crops == 1:
        yield augment.whole_pictures(count)
        return
    for mirrored in (False, True)[: crops // 5]:
        for place in range(5):
            yield {
                'crop_scale': np.full(count, 0.875, np.float32),
                'place': np.full(count, place, np.int32),
                'mirrored': np.full(count, mirrored),
            }


def score_cnn(session, graph, settings, rows, segments, crops):
    """Scores clips by one CNN.

    Args:
      session, graph: the session and what model.classifier returned.
      settings: the run's flags.
      rows: the clips' rows of clips.csv.
      segments: samples of a clip.
      crops: 1, 5 or 10.

    Yields:
      dict of float [C] per clip: 'video', the mean over samples and crops, and 'clip',
      the middle sample as a whole picture.
    """
    inputs, logits, _ = graph
    softmax = tf.nn.softmax(logits)

    def read(row):
        return batches.sampled_clip(
            settings['data_dir'],
            settings['stage'],
            row,
            segments,
            settings['stack_length'],
        )

    for pictures in batches.read_ahead(read, rows, settings['workers']):
        total, middle = 0, None
        for crop in crop_inputs(len(pictures), crops):
            feed = {inputs[name]: value for name, value in crop.items()}
            feed[inputs['images']] = pictures
            feed.update({inputs['keep_prob']: 1.0, inputs['dropout_seed']: [0, 0]})
            output = session.run(softmax, feed)  # [segments, C]
            total = total + output.mean(axis=0)
            if middle is None:
                middle = output[len(output) // 2]
        if crops > 1:
            whole = augment.whole_pictures(1)
            feed = {inputs[name]: value for name, value in whole.items()}
            feed[inputs['images']] = pictures[len(pictures) // 2][None]
            feed.update({inputs['keep_prob']: 1.0, inputs['dropout_seed']: [0, 0]})
            middle = session.run(softmax, feed)[0]
        yield {'video': total / crops, 'clip': middle}


def score_hybrid(session, graph, settings, cnns, rows, batch_size):
    """Scores clips by the hybrid or joint graph.

    Args:
      session, graph: the session and what model.classifier returned.
      settings: the run's flags.
      cnns: the CNNs as run.json keeps them.
      rows: the clips' rows of clips.csv.
      batch_size: clips at a time.

    Yields:
      dict of float [C] per clip: 'video', and each branch's softmax of its own part of
      the logits by its name.
    """
    inputs, logits, end_points = graph
    outputs = {'video': tf.nn.softmax(logits)}
    for branch in settings['branches']:
        outputs[branch] = tf.nn.softmax(end_points[f'{branch}/logits'])

    def read(start):
        chosen = rows[start : start + batch_size]
        batch = features.sequences(settings, cnns, chosen)
        if settings['stage'] == 'joint':
            batch.update(augment.whole_pictures(len(chosen)))
        return batch

    starts = range(0, len(rows), batch_size)
    for batch in batches.read_ahead(read, starts, settings['workers']):
        feed = {inputs[name]: value for name, value in batch.items()}
        feed.update({inputs['keep_prob']: 1.0, inputs['dropout_seed']: [0, 0]})
        values = session.run(outputs, feed)
        for place in range(len(batch['lengths'])):
            yield {name: value[place] for name, value in values.items()}


def score(stored, settings, rows, values):
    """Restores the run and scores clips.

    Args:
      stored: the run as run.json keeps it.
      settings: its flags, with the folders to read from now.
      rows: the clips' rows of clips.csv.
      values: the program's own flags.

    Returns:
      (dict name -> float [N, C] probabilities, step of the checkpoint).

    Raises:
      ValueError: the run has no checkpoint, or a CNN's dump has changed.
    """
    checkpoint, step = checkpoints.latest(values.train_dir)
    if not checkpoint:
        raise ValueError(
            f'--train_dir={values.train_dir}: no checkpoint yet; run train.py '
            f'--stage={settings["stage"]} to its first one'
        )
    size, cnns = stored['preprocessing']['size'], stored['cnns']
    widths = {stream: cnn.get('width') for stream, cnn in cnns.items()}
    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(settings['seed'])
        graph = model.classifier(settings, len(stored['class_names']), size, widths)
        model.initialize(session, settings, cnns)
        checkpoints.restore(session, checkpoint)
        if settings['stage'] in model.STREAMS:
            crops = int(values.test_crops)
            scored = score_cnn(
                session, graph, settings, rows, values.test_segments, crops
            )
        else:
            scored = score_hybrid(
                session, graph, settings, cnns, rows, values.batch_size
            )
        progress = tqdm.tqdm(scored, 'scoring', len(rows), unit='clip', disable=None)
        found = list(progress)
    return {name: np.stack([row[name] for row in found]) for name in found[0]}, step


# -- what is checked ------------------------------------------------------------------


def check_cached(settings, cnns, names):
    """Raises ValueError where a clip's features are missing or out of date."""
    path = {'spatial': clips.frames_path, 'motion': clips.flow_path}
    for stream, cnn in cnns.items():
        folder = features.pathlib.Path(
            settings['data_dir'], 'features', cnn['features']
        )
        lacking = [
            name
            for name in names
            if not features.is_fresh(
                folder / f'{name}.npy', path[stream](settings['data_dir'], name)
            )
        ]
        if lacking:
            raise ValueError(
                f'{folder}: features of {len(lacking)} clips are missing or out of '
                f'date, such as {lacking[0]}; run the same train.py command again'
            )


def check_held_out(stored, examples, class_names):
    """Raises ValueError where a clip or its group was trained on."""
    trained, groups = set(stored['train_clips']), set(stored['train_groups'])
    for example in examples:
        group = f'{class_names[example.label]}/{example.group}'
        if example.clip in trained or group in groups:
            raise ValueError(
                f'{example.clip} or its group was trained on; --allow_overlap scores '
                'it all the same, which measures memory, not recognition'
            )


# -- what is written ------------------------------------------------------------------


def write_predictions(path, examples, class_names, probabilities):
    """predictions.csv: clip, label, the five best with probability, branches' choices.

    Args:
      path: file to write.
      examples: the clips.
      class_names: list of C.
      probabilities: dict name -> float [N, C]; 'video' is the prediction, every other
        one gets a column with its choice.
    """
    best = min(5, len(class_names))
    header = ['clip', 'label', 'prediction', 'probability']
    for rank in range(2, best + 1):
        header += [f'prediction_{rank}', f'probability_{rank}']
    others = [name for name in probabilities if name != 'video']
    temporary = f'{path}.{os.getpid()}'
    with open(temporary, 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(header + others)
        for place, example in enumerate(examples):
            row = probabilities['video'][place]
            line = [example.clip, class_names[example.label]]
            for label in np.argsort(-row, kind='stable')[:best]:
                line += [class_names[label], f'{row[label]:.6f}']
            for name in others:
                line.append(class_names[probabilities[name][place].argmax()])
            writer.writerow(line)
    os.replace(temporary, path)


def draw_confusion(path, matrix, class_names, title):
    """Draws the confusion matrix as shares of each row; readable at 10 and 101 classes.

    Args:
      path: .png to write.
      matrix: int [C, C], rows = classes shown.
      class_names: list of C.
      title: text above.
    """
    matrix = np.asarray(matrix)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(5.0, 0.2 * len(class_names) + 2)
    figure, axes = pyplot.subplots(figsize=(side, side), layout='constrained')
    picture = axes.imshow(shares, cmap='Blues', vmin=0, vmax=1)
    ticks = np.arange(len(class_names))
    small = 9 if len(class_names) <= 20 else 7
    axes.set_xticks(ticks, class_names, rotation=90, fontsize=small)
    axes.set_yticks(ticks, class_names, fontsize=small)
    axes.set(xlabel='predicted', ylabel='shown', title=title)
    if len(class_names) <= 20:
        for (row, column), count in np.ndenumerate(matrix):
            if count:
                dark = shares[row, column] > 0.5
                axes.text(
                    column,
                    row,
                    str(count),
                    ha='center',
                    va='center',
                    fontsize=8,
                    color='white' if dark else 'black',
                )
    figure.colorbar(picture, shrink=0.7, label='share of the class shown')
    figure.savefig(path, dpi=120, format='png')
    pyplot.close(figure)


def print_table(result, class_names):
    """The figures as people read them."""
    marks = [mark for mark in ('partial split', 'trained on') if result[mark]]
    note = f' ({", ".join(marks)})' if marks else ''
    for name, figures in result['figures'].items():
        low, high = figures['top1_wilson_95']
        print(
            f'{name:>14}{note}: top-1 {figures["top1"]:6.1%} [{low:.1%}, {high:.1%}]  '
            f'top-5 {figures["top5"]:6.1%}  '
            f'mean class {figures["mean_class_accuracy"]:6.1%}  '
            f'mAP {figures["mean_average_precision"]:6.1%}'
        )
    print(f'\n{"class":<28}{"clips":>6}{"accuracy":>10}{note}')
    for name in class_names:
        row = result['figures']['video']['per_class'][name]
        share = '-' if row['accuracy'] is None else f'{row["accuracy"]:.1%}'
        print(f'{name:<28}{row["clips"]:>6}{share:>10}')


def evaluate(values):
    """Measures the run that the flags name; returns what evaluation.json holds."""
    if not values.train_dir:
        raise ValueError('--train_dir is needed: the folder of a run of train.py')
    stored = checkpoints.read(values.train_dir)
    settings = dict(stored['settings'], workers=values.workers)
    if settings['stage'] == 'features':
        raise ValueError(
            f'--train_dir={values.train_dir} is of stage features, which trains '
            'nothing; name a run of another stage'
        )
    for name in ('data_dir', 'split_dir'):
        if values[name].value is not None:
            settings[name] = values[name].value
    index = clips.read_index(settings['data_dir'])
    split = splits.load(
        index,
        settings['split_dir'],
        settings['split'],
        settings['group_regex'],
        settings['allow_missing'],
    )
    examples = split.test if values.side == 'test' else split.train
    rows = [index[example.clip] for example in examples]
    now = {
        'class_names': split.class_names,
        'list_hashes': split.hashes,
        'preprocessing': clips.preprocessing_of(rows),
    }
    checkpoints.check_same(values.train_dir, stored, now)
    if not values.allow_overlap:
        check_held_out(stored, examples, split.class_names)
    if settings['stage'] == 'hybrid':
        check_cached(settings, stored['cnns'], [example.clip for example in examples])

    probabilities, step = score(stored, settings, rows, values)
    if len(probabilities['video']) != len(examples):
        raise RuntimeError('the number of clips scored is not the split\'s')
    labels = np.array([example.label for example in examples])
    groups = [f'{example.label}/{example.group}' for example in examples]
    result = {
        'stage': settings['stage'],
        'step': step,
        'side': values.side,
        'split': settings['split'],
        'trained on': values.side == 'train',
        'partial split': any(split.missing.values()),
        'missing': split.missing,
        'test_segments': (
            values.test_segments
            if settings['stage'] in model.STREAMS
            else settings['num_steps']
        ),
        'test_crops': (
            int(values.test_crops) if settings['stage'] in model.STREAMS else 1
        ),
        'class_names': split.class_names,
        'figures': {
            name: measure(rows_of, labels, groups, split.class_names)
            for name, rows_of in probabilities.items()
        },
    }
    ending = '' if values.side == 'test' else '_train'
    out = os.path.join(values.train_dir, '')
    checkpoints.write_json(f'{out}evaluation{ending}.json', result)
    write_predictions(
        f'{out}predictions{ending}.csv', examples, split.class_names, probabilities
    )
    figures = result['figures']['video']
    draw_confusion(
        f'{out}confusion{ending}.png',
        figures['confusion'],
        split.class_names,
        f'{settings["stage"]}, {len(examples)} {values.side} clips: '
        f'{figures["top1"]:.1%}',
    )
    print_table(result, split.class_names)
    print(f'\n{out}evaluation{ending}.json, predictions{ending}.csv, '
          f'confusion{ending}.png')
    return result


def main(_):
    """Runs `evaluate`; a user error ends in one line."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    try:
        evaluate(FLAGS)
    except ValueError as error:
        sys.exit(f'evaluate.py: {error}')


if __name__ == '__main__':
    define_flags()
    tf.app.run(main)
