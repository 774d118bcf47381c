"""Trains the two-stream hybrid of arXiv:1504.01561, one stage at a time.

    python train.py --stage=spatial --data_dir=data/ucf101 --train_dir=runs/spatial \\
        --spatial_weights=weights/vgg19
    python train.py --stage=motion --data_dir=data/ucf101 --train_dir=runs/motion \\
        --motion_weights=random
    python train.py --stage=hybrid --data_dir=data/ucf101 --train_dir=runs/hybrid \\
        --spatial_weights=runs/spatial --motion_weights=runs/motion

`spatial` and `motion` train one CNN with its own softmax on random frames or stacks;
`features` fills the feature cache; `hybrid` trains LSTMs, fusion and softmax on cached
features (and fills what is missing of them); `joint` trains everything from pixels.

The same command continues a run that was stopped. On the CPU, with the same number of
threads, it ends with the same bits as a run that was not.
"""

import contextlib
import functools
import json
import os
import re
import signal
import sys
import time

import numpy as np

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf
import tqdm

import model
from data import batches
from data import clips
from data import features
from data import feeds
from data import splits
from data.preprocessing import videos
from results import measures
from results import summaries
from weights import checkpoints
from weights import dump
from weights import lineage

STAGES = ('spatial', 'motion', 'features', 'hybrid', 'joint')
# What a flag is where it is not given, in the stages spatial, motion, hybrid, joint.
TRAINING = ('spatial', 'motion', 'hybrid', 'joint')
DEFAULTS = {
    'optimizer': ('momentum', 'momentum', 'adam', 'momentum'),
    'learning_rate': (1e-3, 5e-3, 3e-4, 1e-4),
    'steps': (2000, 10000, 2000, 2000),
    'batch_size': (32, 32, 32, 2),
    'keep_prob': (0.5, 0.5, 0.5, 0.5),
    'weight_decay': (5e-4, 5e-4, 3e-5, 3e-5),
}
# Signals that asked to stop; the loop looks here after every step.
STOP = []


def by_stage(name):
    """The defaults of a flag as its help shows them."""
    pairs = zip(TRAINING, DEFAULTS[name], strict=True)
    return f'(default: {", ".join(f"{stage} {value}" for stage, value in pairs)})'


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags = tf.app.flags
    flags.DEFINE_enum('stage', 'hybrid', STAGES, 'What to train.')
    flags.DEFINE_string('data_dir', None, 'Folder that optical_flow.py wrote.')
    flags.DEFINE_string('train_dir', None, 'Folder of this run: checkpoints and logs.')
    flags.DEFINE_string(
        'split_dir', '', "List files; '' splits UCF101 names by the group rule."
    )
    flags.DEFINE_integer('split', 1, 'Which split of the lists.', 1)
    flags.DEFINE_string(
        'group_regex',
        splits.UCF101_GROUP,
        "Finds a clip's group in its file name. Clips of one recording are alike, so a "
        'group may stand on one side only.',
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
        'cross_modality',
        False,
        'Start the motion CNN from a dump for colour frames: early filters serve both, '
        'and there is far less flow to learn them from.',
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
    flags.DEFINE_integer(
        'num_steps',
        25,
        'Evenly spaced steps that stand for a clip, 25 as two-stream 2014 tests on; '
        'the joint stage needs memory for each of them.',
        1,
    )
    flags.DEFINE_integer(
        'stack_length', 10, 'Flow fields in a stack, L; 10 is the best of 2014.', 1
    )
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
        'train_layers',
        'all',
        'CNN layers to train: all, fc, or from this layer up. On few clips the lower '
        'layers of a CNN that has seen ImageNet are better left alone.',
    )
    flags.DEFINE_integer(
        'steps',
        None,
        f'Training steps {by_stage("steps")}; a motion CNN starts from nothing, so it '
        'takes the most.',
        1,
    )
    flags.DEFINE_integer(
        'batch_size',
        None,
        f'Clips in a step {by_stage("batch_size")}; two-stream 2014 takes 256, which a '
        'laptop does not hold, and joint sees --num_steps pictures of each clip.',
        1,
    )
    flags.DEFINE_enum(
        'optimizer',
        None,
        ['momentum', 'adam'],
        f'Optimizer {by_stage("optimizer")}; momentum is .9, as in two-stream 2014; '
        'LSTMs on fixed features are easier for Adam.',
    )
    flags.DEFINE_float(
        'learning_rate',
        None,
        f'First rate {by_stage("learning_rate")}; two-stream 2014 starts at 1e-2 for '
        'batches of 256, and what is trained already moves in smaller steps.',
    )
    flags.DEFINE_list(
        'decay_steps', None, 'Steps at which the rate falls by ten (default: at 70 %).'
    )
    flags.DEFINE_float(
        'keep_prob',
        None,
        f'Share of units that dropout keeps {by_stage("keep_prob")}; two-stream 2014 '
        'keeps .1 for flow, which starves small data.',
        upper_bound=1,
    )
    flags.DEFINE_float(
        'weight_decay',
        None,
        f'lambda1 of 1/2 sum ||W||^2 {by_stage("weight_decay")}: the CNNs take that of '
        'their papers, the rest what is reported of this one.',
        0,
    )
    flags.DEFINE_float(
        'clip_norm',
        10.0,
        'Largest global norm of the gradients, which LSTMs can make explode; 0 for no '
        'limit.',
        0,
    )
    # every lambda near 3e-5 is what notes on the paper report; the rate is ours
    flags.DEFINE_float('fusion_rate', 1e-2, 'First rate of the proximal step.', 0)
    flags.DEFINE_float(
        'fusion_l21', 3e-5, 'lambda2 of ||W_E||_2,1, which switches units off.', 0
    )
    flags.DEFINE_float(
        'fusion_l1', 3e-5, 'lambda3 of ||W_E||_1, which switches weights off.', 0
    )
    flags.DEFINE_float('fusion_l2', 3e-5, 'lambda1 of 1/2 ||W_E||^2.', 0)
    flags.DEFINE_bool('balanced', False, 'Draw classes evenly, however many clips.')
    flags.DEFINE_integer(
        'validation_groups',
        0,
        'Groups of the train side held out: accuracy on them at each checkpoint, and '
        'the best checkpoint kept in best/. The same for all stages of one hybrid.',
        0,
    )
    flags.DEFINE_integer('seed', 0, 'Fixes everything random.', 0, 2**31 - 1)
    flags.DEFINE_integer('log_every', 10, 'Steps between lines of log.jsonl.', 1)
    flags.DEFINE_integer('checkpoint_every', 500, 'Steps between checkpoints.', 1)
    flags.DEFINE_string('shard', '0/1', 'features: part i/n of the clips, from 0.')
    flags.DEFINE_integer('workers', os.cpu_count(), 'Threads that read ahead.', 1)
    flags.DEFINE_bool(
        'histograms', False, 'Histograms of the trained weights in TensorBoard.'
    )


# -- what the run is ------------------------------------------------------------------


def settings_of_stage(values):
    """All flags that shape the run, with the stage's defaults, as a plain dict.

    Raises:
      ValueError: a flag has a value that cannot work.
    """
    own = values.flags_by_module_dict()[sys.argv[0]]
    settings = {flag.name: flag.value for flag in own}
    if settings['stage'] in TRAINING:
        column = TRAINING.index(settings['stage'])
        for name, defaults in DEFAULTS.items():
            if settings[name] is None:
                settings[name] = defaults[column]
        if settings['decay_steps'] is None:
            settings['decay_steps'] = [int(0.7 * settings['steps'])]
    for name in ('lstm_units', 'decay_steps'):
        try:
            settings[name] = [int(number) for number in settings[name] or []]
        except ValueError as error:
            given = ','.join(settings[name])
            raise ValueError(f'--{name}={given}: give whole numbers') from error
    check_flags(settings)
    return settings


def check_flags(settings):
    """Raises ValueError, naming the flag, where a value cannot work, or where what it
    asks for is not in the stage."""
    stage = settings['stage']
    for name in ('data_dir', 'train_dir'):
        if not settings[name]:
            raise ValueError(f'--{name} is needed')
    branches = settings['branches']
    if not branches or set(branches) - set(model.BRANCHES):
        raise ValueError(
            f'--branches={",".join(branches)}: choose from {",".join(model.BRANCHES)}'
        )
    layers = ['all', *(['fc', *model.LAYERS[stage]] if stage in model.STREAMS else [])]
    if settings['train_layers'] not in layers:
        raise ValueError(
            f'--train_layers={settings["train_layers"]}: stage {stage} trains '
            f'{", ".join(layers)}'
        )
    searched = settings['head'] == 'late' and settings['validation_groups']
    if settings['search_combination'] and not searched:
        raise ValueError(
            '--search_combination needs --head=late and --validation_groups=N'
        )
    for name, value, stages in (
        ('hybrid_weights', None, ['joint']),
        ('shard', '0/1', ['features']),
        ('search_combination', False, ['hybrid', 'joint']),
        ('cross_modality', False, ['motion', 'features', 'hybrid', 'joint']),
    ):
        if settings[name] != value and stage not in stages:
            raise ValueError(f'--{name} is for --stage={" or ".join(stages)} alone')
    if settings['cross_modality'] and settings['motion_weights'] == 'random':
        raise ValueError('--cross_modality needs --motion_weights of a dump for colour')
    if not settings['lstm_units'] or min(settings['lstm_units']) < 1:
        raise ValueError('--lstm_units: give at least one number, none below 1')
    if min(settings['decay_steps'], default=0) < 0:
        raise ValueError('--decay_steps: give steps, none below 0')
    for name in ('learning_rate', 'keep_prob'):
        if settings[name] is not None and not settings[name] > 0:
            raise ValueError(f'--{name}={settings[name]}: must be above 0')


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
    given = settings[f'{stream}_weights']
    weights = lineage.find_weights(given, stream, train_dir)

    with tf.Graph().as_default(), tf.Session() as session:
        tf.set_random_seed(settings['seed'])
        images = tf.placeholder(tf.uint8, [None, *shape], 'images')
        _, end_points = model.cnn(stream, images, **model.motion_form(settings))
        if weights:
            loaded = model.load_cnn(
                session, stream, weights, settings['cross_modality']
            )
            if f'{model.CNN_SCOPE[stream]}/fc6/weights' not in loaded:
                raise ValueError(
                    f'--{stream}_weights={given}: the dump has no fc6, the layer that '
                    f'is cached; train --stage={stream} first'
                )
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
            source=functools.partial(features.source_path, data_dir, stream),
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


def validation_outputs(settings, logits, end_points):
    """What validation reads of the graph: {'logits': [B, C]}; or each branch's softmax
    by its name, where their combination is searched."""
    if not settings['search_combination']:
        return {'logits': logits}
    return {
        branch: tf.nn.softmax(end_points[f'{branch}/logits'])
        for branch in model.BRANCHES
        if branch in settings['branches']
    }


def validate(session, inputs, outputs, read, labels, settings):
    """Scores the held-out clips, and searches the combination of softmaxes on them.

    Args:
      session, inputs: the graph's.
      outputs: of `validation_outputs`.
      read: of `feeds.held_out_reader`.
      labels: int [N] of the held-out clips.
      settings: the run's flags.

    Returns:
      (predictions int [N], searched weights of the branches float [K] or None).
    """
    found = []
    starts = range(0, len(labels), settings['batch_size'])
    for batch in batches.read_ahead(read, starts, settings['workers']):
        feed = {inputs[name]: value for name, value in batch.items()}
        found.append(session.run(list(outputs.values()), feed))
    values = [np.concatenate(parts) for parts in zip(*found, strict=True)]
    if not settings['search_combination']:
        return values[0].argmax(axis=1), None
    weights = measures.searched_combination(values, labels)
    return np.tensordot(weights, values, 1).argmax(axis=1), weights


def save(saver, session, directory, step, weights=None):
    """Saves a checkpoint, with the searched weights of the softmaxes where there are
    any; training itself goes on with even ones, which starve no branch. Returns whether
    it was written."""
    if weights is None:
        return checkpoints.save(saver, session, directory, step)
    scores = np.log(np.maximum(weights, 1e-6))
    model.set_variable(session, model.COMBINATION, scores)
    written = checkpoints.save(saver, session, directory, step)
    model.set_variable(session, model.COMBINATION, np.zeros_like(scores))
    return written


def learning_rate(settings, step):
    """The first rate, divided by ten at each of --decay_steps."""
    return settings['learning_rate'] * 0.1 ** sum(
        step >= decay for decay in settings['decay_steps']
    )


def trained_variables(settings):
    """The trainable variables that --train_layers names, all outside CNN stages.

    The joint stage reads fc6, so what lies above it in the CNNs stays as it is. Weights
    of softmaxes that are searched are not learned.
    """
    variables = tf.trainable_variables()
    if settings['search_combination']:
        variables = [v for v in variables if v.op.name != model.COMBINATION]
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
      0; 1 where the last checkpoint could not be written; or 128 + the number of the
      signal that stopped it.

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
            finite = [tf.reduce_all(tf.math.is_finite(v)) for v in variables]
            finite = tf.reduce_all(finite)
        # what is logged is read before the update
        read_first = tf.control_dependencies(list(parts.values()))
        with tf.name_scope('train'), read_first:
            rate = tf.placeholder(tf.float32, [], 'learning_rate')
            train_op = model.training(parts['loss'], variables, rate, settings)

        loaded = model.initialize(session, settings, cnns)
        # what a frozen CNN holds stands in its dump and is not written again and again;
        # its mean and scale are small and tell what the pixels of a checkpoint are
        frozen = loaded - {variable.op.name for variable in variables}
        frozen = {name for name in frozen if not name.endswith(('/mean', '/scale'))}
        saved = [v for v in tf.global_variables() if v.op.name not in frozen]
        with tf.name_scope('train/'):
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
            loaded |= start_joint(session, settings, inputs, end_points, read)
        if not checkpoint:
            random = [v.op.name for v in variables if v.op.name not in loaded]
            scopes = ', '.join(sorted({name.split('/')[0] for name in random}))
            print(f'{len(random)} variables start at random: {scopes or "none"}')

        with tf.name_scope('validation'):
            outputs = validation_outputs(settings, logits, end_points)
        histograms = summaries.histograms(variables) if settings['histograms'] else None
        log_path = checkpoints.cut_log(train_dir, first)
        best = checkpoints.best_validation(log_path)
        graph.finalize()
        steps = range(first, total)
        ahead = batches.read_ahead(read, steps, settings['workers'])
        progress = tqdm.tqdm(
            steps, settings['stage'], total, initial=first, unit='step', disable=None
        )
        waited, since = 0.0, time.perf_counter()
        with (
            open(log_path, 'a', encoding='utf-8') as log,
            contextlib.closing(tf.summary.FileWriter(train_dir, graph)) as writer,
        ):
            # TensorBoard forgets what a killed run logged after its last checkpoint
            started = tf.SessionLog(status=tf.SessionLog.START)
            writer.add_session_log(started, first + 1)
            for step in progress:
                begun = time.perf_counter()
                batch = next(ahead)
                waited += time.perf_counter() - begun
                feed = {inputs[name]: value for name, value in batch.items()}
                feed[rate] = learning_rate(settings, step)
                values, _ = session.run([parts, train_op], feed)
                values = {name: value.item() for name, value in values.items()}
                done = step + 1
                due = done == total or done % settings['checkpoint_every'] == 0
                saving = due or bool(STOP)
                wrong = '' if np.isfinite(values['loss']) else f'the loss ({values})'
                if saving and not session.run(finite):  # the loss is of before the step
                    wrong = wrong or 'a weight'
                if wrong:
                    raise ValueError(
                        f'step {done}: {wrong} is not finite; give a lower '
                        '--learning_rate, --fusion_rate or --clip_norm, and another '
                        f'--train_dir than {train_dir} if it has a checkpoint'
                    )

                if step == first:
                    summaries.samples(writer, batch, step)
                if done % settings['log_every'] == 0:
                    seconds = time.perf_counter() - since
                    line = {'step': done, **values, 'learning_rate': feed[rate]}
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
                if not saving:
                    continue
                # validation goes first: what is logged before a checkpoint is logged
                # again by a run that is continued from the one before. A signal adds
                # no line, so that the log is an undisturbed run's.
                paused = time.perf_counter()
                weights = None
                if held_out and due:
                    predictions, weights = validate(
                        session,
                        inputs,
                        outputs,
                        read_held_out,
                        held_out_labels,
                        settings,
                    )
                    accuracy = float(np.mean(predictions == held_out_labels))
                    line = {'step': done, 'validation_accuracy': accuracy}
                    log.write(json.dumps(line) + '\n')
                    log.flush()
                    summaries.scalars(writer, line, done)
                    summaries.confusion(
                        writer, predictions, held_out_labels, class_names, done
                    )
                    best_dir = os.path.join(train_dir, 'best')
                    if accuracy > best and save(
                        best_saver, session, best_dir, done, weights
                    ):
                        best = accuracy
                # before the end, the last checkpoint is what training goes on from
                ended = weights if done == total else None
                written = save(saver, session, train_dir, done, ended)
                if STOP and written:
                    print(f'stopped at step {done:,}; the same command continues')
                if STOP:
                    return 128 + STOP[0]
                if done == total and not written:
                    return 1
                since += time.perf_counter() - paused  # rates are of training alone
        if settings['search_combination'] and first < total:
            found = dict(zip(outputs, weights.round(3).tolist(), strict=True))
            print(f'weights of the branches, searched on held-out groups: {found}')
        if settings['stage'] != 'hybrid':
            for stream in cnns:
                folder = os.path.join(train_dir, 'weights', stream)
                model.save_cnn(session, stream, folder, f'trained in {train_dir}')
                print(f'{stream} CNN saved as {folder}')
    return 0


def start_joint(session, settings, inputs, end_points, read):
    """Starts LSTMs, fusion and softmax of the joint stage: from --hybrid_weights, or
    at random with the scale of the first batch's features. Returns the names loaded."""
    if settings['hybrid_weights']:
        checkpoint, _ = checkpoints.latest(settings['hybrid_weights'])
        names = checkpoints.restore(session, checkpoint, without_slots=True)
        print(f'loaded from {checkpoint}: {", ".join(names)}')
        earlier = checkpoints.read(settings['hybrid_weights'])['settings']
        if earlier['search_combination'] or settings['search_combination']:
            count = len(settings['branches'])  # searched weights may be next to 0
            model.set_variable(session, model.COMBINATION, np.zeros(count, np.float32))
        return set(names)
    batch = read(0)
    feed = {inputs[name]: value for name, value in batch.items()}
    streams = model.streams_of_run(settings)
    fc6 = session.run({s: end_points[f'{s}/fc6'] for s in streams}, feed)
    steps, lengths = batch[streams[0]].shape[1], np.asarray(batch['lengths'])
    there = np.arange(steps) < lengths[:, np.newaxis]  # [B, T], False in the padding
    scales = {s: float(values[there.ravel()].std()) for s, values in fc6.items()}
    features.check_scales(scales)
    model.set_scales(session, scales)
    return set()


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
    splits.print_sides(split, held_out)
    rows = {e.clip: index[e.clip] for e in split.train + split.test}
    preprocessing = clips.preprocessing_of(rows.values())
    described = checkpoints.describe(settings, split, train_examples, preprocessing)
    streams, form = model.streams_of_run(settings), model.motion_form(settings)
    # before anything is written
    lineage.check(settings, streams, form, split, held_out, preprocessing)
    if settings['stage'] != 'features':  # whose shards may share a folder
        checkpoints.lock(settings['train_dir'])
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


def prepare_cnns(settings, rows, size):
    """Each stream's CNN as run.json keeps it; fills the feature cache where needed."""
    if settings['stage'] in ('features', 'hybrid'):
        return {
            stream: cache_features(settings, stream, rows, size)
            for stream in model.streams_of_run(settings)
        }
    cnns = {}
    for stream in model.streams_of_run(settings):
        given = settings[f'{stream}_weights']
        # a CNN that is trained from scratch starts from (seed, variable name)
        weights = None
        if given != 'random':
            weights = lineage.find_weights(given, stream, settings['train_dir'])
        fingerprint = dump.fingerprint(weights) if weights else 'random'
        cnns[stream] = {'weights': weights, 'fingerprint': fingerprint}
    return cnns


if __name__ == '__main__':
    define_flags()
    command_line.run(main, 'stopped; the same command goes on from here')
