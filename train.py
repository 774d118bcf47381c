"""Trains the two-stream hybrid of arXiv:1504.01561, one stage at a time.

    python train.py --stage=spatial  --data_dir=data/ucf101 --train_dir=runs/spatial
    python train.py --stage=motion   --data_dir=data/ucf101 --train_dir=runs/motion
    python train.py --stage=hybrid   --data_dir=data/ucf101 --train_dir=runs/hybrid \\
        --spatial_weights=runs/spatial --motion_weights=runs/motion

`spatial` and `motion` train one CNN with its own softmax on random frames or stacks;
`features` fills the feature cache; `hybrid` trains LSTMs, fusion and softmax on cached
features (and fills what is missing of them); `joint` trains everything from pixels.

The same command continues a run that was stopped. On the CPU, with the same number of
threads, it ends with the same bits as a run that was not.
"""

import datetime
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import scipy.optimize
import scipy.special

# TensorFlow's start-up notes would bury the one line that says what is wrong
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
import tensorflow.compat.v1 as tf
import tqdm

import model
from data import batches
from data import clips
from data import command_line
from data import features
from data import feeds
from data import splits
from data import videos
from results import summaries
from weights import checkpoints
from weights import dump

STAGES = ('spatial', 'motion', 'features', 'hybrid', 'joint')
# What a stage takes where a flag is not given. The CNNs follow the two-stream recipe:
# momentum .9, batches of random samples, rate down by ten late in training. It drops .9
# of the fc units for flow; on small data that is too much, so half of them are kept.
DEFAULTS = {
    'spatial': {
        'optimizer': 'momentum',
        'learning_rate': 1e-3,
        'steps': 2000,
        'batch_size': 32,
        'keep_prob': 0.5,
        'weight_decay': 5e-4,
    },
    'motion': {
        'optimizer': 'momentum',
        'learning_rate': 5e-3,
        'steps': 10000,
        'batch_size': 32,
        'keep_prob': 0.5,
        'weight_decay': 5e-4,
    },
    'features': {},
    'hybrid': {
        'optimizer': 'adam',
        'learning_rate': 3e-4,
        'steps': 2000,
        'batch_size': 32,
        'keep_prob': 0.5,
        'weight_decay': 3e-5,
    },
    'joint': {
        'optimizer': 'momentum',
        'learning_rate': 1e-4,
        'steps': 2000,
        'batch_size': 2,
        'keep_prob': 0.5,
        'weight_decay': 3e-5,
    },
}
# Signals that asked to stop; the loop looks here after every step.
STOP = []


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags = tf.app.flags
    flags.DEFINE_enum('stage', 'hybrid', STAGES, 'What to train.')
    flags.DEFINE_string('data_dir', None, 'Folder that optical_flow.py wrote.')
    flags.DEFINE_string('train_dir', None, 'Folder of this run: checkpoints and logs.')
    flags.DEFINE_string(
        'split_dir', '', "List files; '' splits UCF101 names by the group rule."
    )
    flags.DEFINE_integer('split', 1, 'Which split of the lists.')
    flags.DEFINE_string(
        'group_regex', splits.UCF101_GROUP, "Finds a clip's group in its file name."
    )
    flags.DEFINE_bool('allow_missing', False, 'Go on when listed clips are not stored.')
    for stream in model.STREAMS:
        flags.DEFINE_string(
            f'{stream}_weights',
            None,
            f'{stream.capitalize()} CNN to start from: a dump, a --train_dir of an '
            'earlier stage, or the word random.',
        )
    flags.DEFINE_bool(
        'cross_modality', False, 'Start the motion CNN from a dump for colour frames.'
    )
    flags.DEFINE_bool(
        'norm2', True, 'Second normalization of CNN-M; two-stream 2014 leaves it out.'
    )
    flags.DEFINE_bool(
        'subtract_mean_flow',
        False,
        "Take each field's mean vector away, the camera's share of the motion.",
    )
    flags.DEFINE_string(
        'hybrid_weights', None, 'joint: --train_dir of a hybrid run to start from.'
    )
    flags.DEFINE_integer('num_steps', 25, 'Evenly spaced steps that stand for a clip.')
    flags.DEFINE_integer('stack_length', 10, 'Flow fields in a stack, L.')
    flags.DEFINE_list('branches', list(model.BRANCHES), 'Branches of the hybrid.')
    flags.DEFINE_enum(
        'head',
        'concat',
        ['concat', 'late'],
        'One softmax over all features, or one a branch, linearly combined.',
    )
    flags.DEFINE_bool(
        'search_combination',
        False,
        '--head=late: search the weights of the softmaxes on --validation_groups '
        'instead of learning them by backpropagation.',
    )
    flags.DEFINE_list('lstm_units', list(model.LSTM_UNITS), 'Units of each LSTM layer.')
    flags.DEFINE_string(
        'train_layers', 'all', 'CNN layers to train: all, fc, or from this layer up.'
    )
    flags.DEFINE_integer('steps', None, 'Training steps (default: by stage).')
    flags.DEFINE_integer('batch_size', None, 'Clips in a step (default: by stage).')
    flags.DEFINE_enum(
        'optimizer', None, ['momentum', 'adam'], 'Optimizer (default: by stage).'
    )
    flags.DEFINE_float('learning_rate', None, 'First rate (default: by stage).')
    flags.DEFINE_list(
        'decay_steps', None, 'Steps at which the rate falls by ten (default: at 70 %).'
    )
    flags.DEFINE_float('keep_prob', None, 'Share of units that dropout keeps.')
    flags.DEFINE_float('weight_decay', None, 'lambda1 of 1/2 sum ||W||^2.')
    flags.DEFINE_float(
        'clip_norm', 10.0, 'Largest global norm of the gradients; 0 for no limit.'
    )
    # every lambda near 3e-5 is what notes on the paper report; the rate is ours
    flags.DEFINE_float('fusion_rate', 1e-2, 'First rate of the proximal step.')
    flags.DEFINE_float('fusion_l21', 3e-5, 'lambda2 of ||W_E||_2,1.')
    flags.DEFINE_float('fusion_l1', 3e-5, 'lambda3 of ||W_E||_1.')
    flags.DEFINE_float('fusion_l2', 3e-5, 'lambda1 of 1/2 ||W_E||^2.')
    flags.DEFINE_bool('balanced', False, 'Draw classes evenly, however many clips.')
    flags.DEFINE_integer(
        'validation_groups',
        0,
        'Groups of the train side held out: accuracy on them at each checkpoint, and '
        'the best checkpoint kept in best/.',
    )
    flags.DEFINE_integer('seed', 0, 'Fixes everything random.', 0, 2**31 - 1)
    flags.DEFINE_integer('log_every', 10, 'Steps between lines of log.jsonl.')
    flags.DEFINE_integer('checkpoint_every', 500, 'Steps between checkpoints.')
    flags.DEFINE_string('shard', '0/1', 'features: part i/n of the clips, from 0.')
    flags.DEFINE_integer('workers', os.cpu_count(), 'Threads that read ahead.')
    flags.DEFINE_bool('histograms', False, 'Histograms of all weights in TensorBoard.')


# -- what the run is ------------------------------------------------------------------


def settings_of_stage(values):
    """All flags that shape the run, with the stage's defaults, as a plain dict."""
    own = values.flags_by_module_dict()[sys.argv[0]]
    settings = {flag.name: flag.value for flag in own}
    stage = settings['stage']
    for name in DEFAULTS['hybrid']:
        if settings[name] is None:
            settings[name] = DEFAULTS[stage].get(name)
    if settings['decay_steps'] is None and settings['steps']:
        settings['decay_steps'] = [int(0.7 * settings['steps'])]
    for name in ('lstm_units', 'decay_steps'):
        try:
            settings[name] = [int(number) for number in settings[name] or []]
        except ValueError as error:
            given = ','.join(settings[name])
            raise ValueError(f'--{name}={given}: give whole numbers') from error
    for name in ('data_dir', 'train_dir'):
        if not settings[name]:
            raise ValueError(f'--{name} is needed')
    unknown = set(settings['branches']) - set(model.BRANCHES)
    if unknown or not settings['branches']:
        raise ValueError(
            f'--branches={",".join(settings["branches"])}: '
            f'choose from {",".join(model.BRANCHES)}'
        )
    layers = ['all', 'fc', *model.LAYERS.get(stage, [])]
    if settings['train_layers'] not in layers:
        raise ValueError(
            f'--train_layers={settings["train_layers"]}: choose from '
            f'{", ".join(layers)}'
        )
    if settings['search_combination'] and not (
        settings['head'] == 'late' and settings['validation_groups']
    ):
        raise ValueError(
            '--search_combination needs --head=late and --validation_groups=N'
        )
    counts = ('num_steps', 'stack_length', 'steps', 'batch_size', 'log_every')
    for name in (*counts, 'checkpoint_every', 'workers'):
        if settings[name] is not None and settings[name] < 1:
            raise ValueError(f'--{name}={settings[name]}: must be at least 1')
    for name in ('learning_rate', 'keep_prob'):
        if settings[name] is not None and settings[name] <= 0:
            raise ValueError(f'--{name}={settings[name]}: must be above 0')
    return settings


def streams_of_stage(settings):
    """The streams whose CNN the stage reads, trains or caches."""
    if settings['stage'] in model.STREAMS:
        return [settings['stage']]
    return model.streams_of(settings['branches'])


def describe(settings, split, preprocessing):
    """All that is stored with the run, as run.json holds it."""
    return {
        'settings': settings,
        'class_names': split.class_names,
        'list_hashes': split.hashes,
        'missing': split.missing,
        'preprocessing': preprocessing,
        'train_clips': [example.clip for example in split.train],
        'train_groups': sorted(
            {f'{split.class_names[e.label]}/{e.group}' for e in split.train}
        ),
        'versions': {'python': sys.version.split()[0], 'tensorflow': tf.__version__},
        'revision': git_revision(),
        'started': datetime.datetime.now().isoformat(timespec='seconds'),
        'cnns': {},
    }


def git_revision():
    """The checkout's commit, '' outside one."""
    try:
        done = subprocess.run(
            ['git', 'describe', '--always', '--dirty'],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return ''
    return done.stdout.strip()


# -- features -------------------------------------------------------------------------


def cache_features(settings, stream, rows, size):
    """Fills the feature cache of one stream with the clips of `rows`.

    Args:
      settings: the run's flags.
      stream: 'spatial' or 'motion'.
      rows: dict clip -> row of clips.csv.
      size: side of the stored pictures in pixels.

    Returns:
      The CNN as run.json keeps it: {'weights', 'fingerprint', 'features', 'width'}.
    """
    data_dir, train_dir = settings['data_dir'], settings['train_dir']
    steps, length = settings['num_steps'], settings['stack_length']
    shape = model.picture_shape(stream, size, length)
    path = {'spatial': clips.frames_path, 'motion': clips.flow_path}[stream]
    weights = checkpoints.find_weights(
        settings[f'{stream}_weights'], stream, train_dir
    )

    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(settings['seed'])
        images = tf.placeholder(tf.uint8, [None, *shape], 'images')
        _, end_points = model.cnn(stream, images, **model.motion_form(settings))
        if weights:
            model.load_cnn(session, stream, weights, settings['cross_modality'])
        else:
            weights = os.path.join(train_dir, 'weights', stream)
            session.run(tf.global_variables_initializer())
            model.save_cnn(session, stream, weights, 'random')
            print(f'{stream} CNN: untrained, saved as {weights}')
        fingerprint = dump.fingerprint(weights)
        sampling = {'weights': fingerprint, 'layer': 'fc6', 'num_steps': steps}
        if stream == 'motion':
            sampling['stack_length'] = length
            sampling['cross_modality'] = settings['cross_modality']
            sampling.update(model.motion_form(settings))
        folder = features.directory(data_dir, stream, sampling)
        features.fill(
            folder,
            list(rows),
            source=lambda clip: path(data_dir, clip),
            read=lambda clip: batches.sampled_clip(
                data_dir, stream, rows[clip], steps, length
            ),
            extract=lambda pictures: session.run(end_points['fc6'], {images: pictures}),
            workers=settings['workers'],
        )
    return {
        'weights': weights,
        'fingerprint': fingerprint,
        'features': folder.name,
        'width': int(end_points['fc6'].shape[-1]),
    }


# -- training -------------------------------------------------------------------------


def held_out_values(session, inputs, tensor, read, count, settings):
    """Values [count, ...] of a tensor on the held-out clips that `read` gives."""
    values = []
    starts = range(0, count, settings['batch_size'])
    for batch in batches.read_ahead(read, starts, settings['workers']):
        feed = {inputs[name]: value for name, value in batch.items()}
        values.append(session.run(tensor, feed))
    return np.concatenate(values)


def searched_combination(logits, labels):
    """The linear combination of softmaxes with the least cross entropy.

    Args:
      logits: list of K float [N, C], one a branch.
      labels: int [N].

    Returns:
      float [K], scores; the weights are their softmax.
    """
    right = np.arange(len(labels)), labels
    p = np.stack([scipy.special.softmax(x, axis=1)[right] for x in logits])  # [K, N]
    even = np.full(len(logits), 1 / len(logits))
    # convex in the weights, on the simplex
    found = scipy.optimize.minimize(
        lambda a: -np.log(a @ p + 1e-12).mean(),
        even,
        method='SLSQP',
        bounds=[(0, 1)] * len(logits),
        constraints={'type': 'eq', 'fun': lambda a: a.sum() - 1},
        options={'ftol': 1e-9},
    )
    return np.log(np.maximum(found.x, 1e-6))


def learning_rate(settings, step):
    """The first rate, divided by ten at each of --decay_steps."""
    return settings['learning_rate'] * 0.1 ** sum(
        step >= decay for decay in settings['decay_steps']
    )


def trained_variables(settings):
    """The trainable variables that --train_layers names, all outside CNN stages.

    The joint stage reads fc6, so what lies above it in the CNNs stays as it is.
    """
    variables = tf.trainable_variables()
    if settings['stage'] == 'joint':
        return [v for v in variables if not re.search(r'/fc[78]/', v.name)]
    layer = {'all': '', 'fc': 'fc6'}.get(
        settings['train_layers'], settings['train_layers']
    )
    if settings['stage'] not in model.STREAMS or not layer:
        return variables
    names = [variable.op.name for variable in variables]
    first = next(n for n, name in enumerate(names) if f'/{layer}/' in name)
    return variables[first:]


def train(settings, class_names, examples, held_out, index, cnns):
    """Builds the stage's graph and runs the loop.

    Args:
      settings: the run's flags.
      class_names: list of C.
      examples, held_out: lists of splits.Example; `held_out` may be empty.
      index: rows of clips.csv by clip.
      cnns: what run.json says of the streams' CNNs.

    Returns:
      0, or 128 + the number of the signal that stopped it.

    Raises:
      ValueError: the loss is not finite, or the run cannot be continued.
    """
    train_dir, total = settings['train_dir'], settings['steps']
    size = clips.preprocessing_of(index.values())['size']
    widths = {stream: cnn.get('width') for stream, cnn in cnns.items()}
    read = feeds.training_reader(settings, examples, index, cnns)
    read_held_out = feeds.held_out_reader(settings, held_out, index, cnns)
    held_out_labels = np.array([example.label for example in held_out])
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.set_random_seed(settings['seed'])
        inputs, logits, end_points = model.classifier(
            settings, len(class_names), size, widths
        )
        variables = trained_variables(settings)
        with tf.name_scope('loss'):
            decay = settings['weight_decay']
            parts = model.loss_parts(logits, inputs['labels'], variables, decay)
        # what is logged is read before the update
        read_first = tf.control_dependencies(list(parts.values()))
        with tf.name_scope('train'), read_first:
            rate = tf.placeholder(tf.float32, [], 'learning_rate')
            train_op = model.training(parts['loss'], variables, rate, settings)

        loaded = model.initialize(session, settings, cnns)
        # what a frozen CNN holds stands in its dump and is not written again and again
        frozen = loaded - {variable.op.name for variable in variables}
        saved = [v for v in tf.global_variables() if v.op.name not in frozen]
        saver = tf.train.Saver(saved, max_to_keep=2)
        best_saver = tf.train.Saver(saved, max_to_keep=1)
        checkpoints.take_over(saver, train_dir)
        checkpoints.take_over(best_saver, os.path.join(train_dir, 'best'))
        checkpoint, first = checkpoints.latest(train_dir)
        if checkpoint:
            checkpoints.restore(session, checkpoint)
            print(f'continuing at step {first:,} from {checkpoint}')
        elif settings['stage'] == 'hybrid':
            names = [example.clip for example in examples]
            model.set_scales(session, features.scales(settings, cnns, names))
        elif settings['stage'] == 'joint':
            start_joint(session, settings, inputs, end_points, read)

        histograms = summaries.histograms(variables) if settings['histograms'] else None
        log_path = checkpoints.cut_log(train_dir, first)
        best = checkpoints.best_validation(log_path)
        graph.finalize()
        writer = tf.summary.FileWriter(train_dir, graph)
        steps = range(first, total)
        ahead = batches.read_ahead(read, steps, settings['workers'])
        progress = tqdm.tqdm(
            steps, settings['stage'], total, initial=first, unit='step', disable=None
        )
        waited, since = 0.0, time.perf_counter()
        with open(log_path, 'a', encoding='utf-8') as log:
            for step in progress:
                begun = time.perf_counter()
                batch = next(ahead)
                waited += time.perf_counter() - begun
                feed = {inputs[name]: value for name, value in batch.items()}
                feed[rate] = learning_rate(settings, step)
                values, _ = session.run([parts, train_op], feed)
                if not np.isfinite(values['loss']):
                    raise ValueError(
                        f'step {step + 1}: the loss is not finite ({values}); give a '
                        'lower --learning_rate, or a smaller --clip_norm'
                    )

                done = step + 1
                if step == first:
                    summaries.samples(writer, batch, step)
                if done % settings['log_every'] == 0:
                    seconds = time.perf_counter() - since
                    line = {name: value.item() for name, value in values.items()}
                    line = {'step': done, **line, 'learning_rate': feed[rate]}
                    log.write(json.dumps(line) + '\n')
                    log.flush()
                    speed = settings['batch_size'] * settings['log_every'] / seconds
                    timing = {'clips_per_second': speed, 'waiting': waited / seconds}
                    summaries.scalars(writer, {**line, **timing}, done)
                    if histograms is not None:
                        writer.add_summary(session.run(histograms), done)
                    progress.set_postfix_str(
                        f'loss {line["loss"]:.3f}, accuracy {line["accuracy"]:.2f}, '
                        f'{speed:.1f} clips/s, waiting {timing["waiting"]:.0%}'
                    )
                    waited, since = 0.0, time.perf_counter()
                due = done == total or done % settings['checkpoint_every'] == 0
                if not due and not STOP:
                    continue
                # validation goes first: what is logged before a checkpoint is logged
                # again by a run that is continued from the one before. A signal adds
                # no line, so that the log is an undisturbed run's.
                if held_out and due:
                    predictions = held_out_values(
                        session, inputs, logits, read_held_out, len(held_out), settings
                    ).argmax(axis=1)
                    accuracy = float(np.mean(predictions == held_out_labels))
                    line = {'step': done, 'validation_accuracy': accuracy}
                    log.write(json.dumps(line) + '\n')
                    log.flush()
                    summaries.scalars(writer, line, done)
                    summaries.confusion(
                        writer, predictions, held_out_labels, class_names, done
                    )
                    if accuracy > best:
                        best = accuracy
                        best_dir = os.path.join(train_dir, 'best')
                        checkpoints.save(best_saver, session, best_dir, done)
                checkpoints.save(saver, session, train_dir, done)
                if STOP:
                    print(f'stopped at step {done:,}; the same command continues')
                    return 128 + STOP[0]
        writer.close()
        if settings['search_combination']:
            parts = [
                held_out_values(
                    session,
                    inputs,
                    end_points[f'{branch}/logits'],
                    read_held_out,
                    len(held_out),
                    settings,
                )
                for branch in model.BRANCHES
                if branch in settings['branches']
            ]
            scores = searched_combination(parts, held_out_labels)
            model.set_variable(session, 'softmax/combination/scores', scores)
            checkpoints.save(saver, session, train_dir, total)
            weights = scipy.special.softmax(scores).round(3)
            print(f'weights of the branches, searched on held-out groups: {weights}')
        if settings['stage'] != 'hybrid':
            for stream in cnns:
                folder = os.path.join(train_dir, 'weights', stream)
                model.save_cnn(session, stream, folder, f'trained in {train_dir}')
                print(f'{stream} CNN saved as {folder}')
    return 0


def start_joint(session, settings, inputs, end_points, read):
    """Starts LSTMs, fusion and softmax of the joint stage: from --hybrid_weights, or
    at random with the scale of the first batch's features."""
    if settings['hybrid_weights']:
        checkpoint, _ = checkpoints.latest(settings['hybrid_weights'])
        if not checkpoint:
            raise ValueError(
                f'--hybrid_weights={settings["hybrid_weights"]}: no checkpoint there'
            )
        names = checkpoints.restore(session, checkpoint, without_slots=True)
        print(f'loaded from {checkpoint}: {", ".join(names)}')
        return
    feed = {inputs[name]: value for name, value in read(0).items()}
    fc6 = {stream: end_points[f'{stream}/fc6'] for stream in streams_of_stage(settings)}
    values = session.run(fc6, feed)
    model.set_scales(session, {stream: x.std() for stream, x in values.items()})


def main(values):
    """Reads the data, checks that the run is the one in --train_dir, trains."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    settings = settings_of_stage(values)
    index = clips.read_index(settings['data_dir'])
    split = splits.load(
        index,
        settings['split_dir'],
        settings['split'],
        settings['group_regex'],
        settings['allow_missing'],
    )
    train_examples, held_out = splits.hold_out(
        split.train, settings['validation_groups'], settings['seed']
    )
    report_split(split, held_out)
    rows = {e.clip: index[e.clip] for e in split.train + split.test}
    preprocessing = clips.preprocessing_of(rows.values())
    described = describe(settings, split, preprocessing)
    for stream in streams_of_stage(settings):  # said before anything is written
        given = settings[f'{stream}_weights']
        checkpoints.find_weights(given, stream, settings['train_dir'])
    stored = checkpoints.start(settings['train_dir'], described)
    if settings['stage'] == 'features':
        part, parts = videos.parse_shard(settings['shard'])
        rows = {c: row for c, row in rows.items() if videos.in_shard(c, part, parts)}
    cnns = prepare_cnns(settings, rows, preprocessing['size'])
    checkpoints.keep_cnns(settings['train_dir'], stored, cnns)
    if settings['stage'] == 'features':
        return 0
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: STOP.append(number))
    return train(settings, split.class_names, train_examples, held_out, rows, cnns)


def report_split(split, held_out):
    """Says what is trained on, and what of the lists is missing."""
    print(
        f'{len(split.class_names)} classes, {len(split.train):,} train clips, '
        f'{len(split.test):,} test clips'
    )
    alone = sum(e.group == e.clip.split('/')[1] for e in split.train + split.test)
    if alone:
        print(f'{alone:,} clips have no group in their names: each is its own group')
    if held_out:
        names = sorted({example.group for example in held_out})
        print(f'{len(held_out):,} train clips of groups {", ".join(names)} validate')
    if any(split.missing.values()):
        print(
            f'partial split: {split.missing["train"]:,} train and '
            f'{split.missing["test"]:,} test clips of the lists are not stored'
        )


def prepare_cnns(settings, rows, size):
    """Each stream's CNN as run.json keeps it; fills the feature cache where needed."""
    if settings['stage'] in ('features', 'hybrid'):
        return {
            stream: cache_features(settings, stream, rows, size)
            for stream in streams_of_stage(settings)
        }
    cnns = {}
    for stream in streams_of_stage(settings):
        given = settings[f'{stream}_weights']
        # a CNN that is trained from scratch starts from (seed, variable name)
        weights = None
        if given != 'random':
            weights = checkpoints.find_weights(given, stream, settings['train_dir'])
        fingerprint = dump.fingerprint(weights) if weights else 'random'
        cnns[stream] = {'weights': weights, 'fingerprint': fingerprint}
    return cnns


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
