"""Trains the two-stream hybrid of arXiv:1504.01561, one stage at a time.

    python train.py --stage=spatial --data_dir=data/ucf101 --train_dir=runs/spatial \\
        --spatial_weights=weights/vgg19
    python train.py --stage=motion --data_dir=data/ucf101 --train_dir=runs/motion \\
        --motion_weights=random
    python train.py --stage=hybrid --data_dir=data/ucf101 --train_dir=runs/hybrid \\
        --spatial_weights=runs/spatial --motion_weights=runs/motion

`spatial` and `motion` train one CNN with its own softmax on random frames or stacks;
`features` fills the feature cache; `hybrid` trains LSTMs, fusion and softmax on cached
features (and computes those that are missing); `joint` trains everything from pixels.

The same command continues a run that was stopped. On a CPU of the same kind, with as
many threads and the same TF_ENABLE_ONEDNN_OPTS, it ends with the same bits as a run
that was not.
"""

import contextlib
import functools
import os
import re
import signal
import sys
from typing import Callable
from typing import NamedTuple

import numpy as np

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import model
from data import clips
from data import features
from data import feeds
from data import splits
from data.preprocessing import videos
from results import arithmetic
from results import calibration
from results import cluster as clusters
from results import extraction
from results import lineage
from results import measures
from results import runs
from results import scoring
from results import summaries
from weights import checkpoints
from weights import dump
from weights import layers

# What a flag is where it is not given, by stage; a further stream trains as motion.
DEFAULTS = {
    'optimizer': {'motion': 'momentum', 'hybrid': 'adam'},
    'learning_rate': {'spatial': 1e-3, 'motion': 5e-3, 'hybrid': 3e-4, 'joint': 1e-4},
    'max_steps': {'spatial': 2000, 'motion': 10000, 'hybrid': 2000, 'joint': 2000},
    'batch_size': {'motion': 32, 'joint': 2},
    'keep_prob': {'motion': 0.5},
    'weight_decay': {'motion': 5e-4, 'hybrid': 3e-5, 'joint': 3e-5},
}
# Fewer steps for few clips: min(max_steps, BASE_STEPS + number of train clips). On 50
# clips of Weizmann a motion CNN had 85.0 % on held-out actors after 400 steps and
# 95.0 % after 1500, a hybrid 95.8 % after 400 (tests/bench/README.md).
BASE_STEPS = {'spatial': 2000, 'motion': 1600, 'hybrid': 400, 'joint': 2000}
# With fewer clips than this a motion CNN keeps more units: 88.3 % against 76.7 % after
# 400 steps, and not worse after 1500.
FEW_CLIPS = 1000
KEEP_PROB_OF_FEW = {'spatial': 0.5, 'motion': 0.9, 'hybrid': 0.5, 'joint': 0.5}
# Signals that asked to stop; the loop looks here after every step.
STOP = []


# -- flags ----------------------------------------------------------------------------


def of_stage(values, stage):
    """What a dict by stage has for one; a further stream is as motion."""
    return values.get(stage, values['motion'])


def by_stage(name):
    """The defaults of a flag as its help shows them."""
    values = []
    for stage in (*model.STREAMS, 'hybrid', 'joint'):
        value = of_stage(DEFAULTS[name], stage)
        base, few = of_stage(BASE_STEPS, stage), of_stage(KEEP_PROB_OF_FEW, stage)
        if name == 'max_steps' and base < value:
            value = f'{base} + number of train clips, at most {value}'
        if name == 'keep_prob' and few != value:
            value = f'{value}, {few} with fewer than {FEW_CLIPS:,} train clips'
        values.append(f'{stage} {value}')
    return f'(default: {"; ".join(values)})'


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    stages = [*model.STREAMS, 'features', 'hybrid', 'joint']
    tf.app.flags.DEFINE_enum('stage', 'hybrid', stages, 'What to train.')
    data_flags()
    model_flags()
    optimizer_flags()
    progress_flags()
    cluster_flags()


def data_flags():
    """What is trained on."""
    flags = tf.app.flags
    flags.DEFINE_string('data_dir', None, 'Folder that optical_flow.py wrote.')
    flags.DEFINE_string(
        'split_dir', '', "List files; '' splits UCF101 names by the group rule."
    )
    flags.DEFINE_integer('split', 1, 'Which split of the lists.', 1)
    # clips of one recording are alike, so a group may be in one subset only
    flags.DEFINE_string(
        'group_regex', splits.UCF101_GROUP, "Finds a clip's group in its file name."
    )
    flags.DEFINE_bool('allow_missing', False, 'Continue without listed clips.')
    flags.DEFINE_integer(
        'validation_groups', 0, 'Groups of the train subset held out to validate.', 0
    )
    # 25 is what two-stream 2014 tests on; joint needs memory for each of them
    flags.DEFINE_integer('num_segments', 25, 'Evenly spaced samples of a clip.', 1)
    # so that LSTMs see more than one version of each clip; not of --seed, so that runs
    # with other seeds find the same ones in the cache
    flags.DEFINE_integer(
        'feature_views', 1, 'Versions of each train clip in the feature cache.', 1
    )
    flags.DEFINE_integer('view_seed', 0, 'Fixes their crops and samples.', 0, 2**31 - 1)
    # 10 is the best of two-stream 2014
    flags.DEFINE_integer('stack_length', 10, 'Flow fields in a stack, L.', 1)
    flags.DEFINE_integer(
        'batch_size', None, f'Clips in a step {by_stage("batch_size")}.', 1
    )
    flags.DEFINE_bool('balanced', False, 'Draw classes evenly, however many clips.')


def model_flags():
    """What is trained, and what it starts from."""
    flags = tf.app.flags
    for stream in model.STREAMS:
        flags.DEFINE_string(
            f'{stream}_weights', None, 'A dump, a --train_dir, or the word random.'
        )
    # early filters serve both, and there is far less flow to learn them from
    flags.DEFINE_bool(
        'cross_modality', False, 'Start CNNs on motion from dumps for colour frames.'
    )
    flags.DEFINE_bool(
        'norm2', True, 'Second normalization of CNN-M; two-stream 2014 has none.'
    )
    flags.DEFINE_bool(
        'subtract_mean_flow',
        False,
        'Subtract the mean flow (camera motion compensation).',
    )
    flags.DEFINE_string(
        'hybrid_weights', None, 'joint: --train_dir of a hybrid run to start from.'
    )
    flags.DEFINE_list('branches', model.all_branches(), 'Branches of the hybrid.')
    flags.DEFINE_enum(
        'head',
        'concat',
        ['concat', 'late'],
        'One softmax over all features, or one for each branch, linearly combined.',
    )
    flags.DEFINE_list(
        'combination', None, 'late: weights of the branches, instead of learned ones.'
    )
    flags.DEFINE_bool(
        'search_combination', False, 'late: search them on --validation_groups.'
    )
    flags.DEFINE_list('lstm_units', list(model.LSTM_UNITS), 'Units of each LSTM layer.')
    # on few clips the lower layers of a CNN trained on ImageNet are better left alone
    flags.DEFINE_string(
        'train_layers', 'all', 'CNN layers to train: all, fc, or from this layer up.'
    )


def optimizer_flags():
    """How it is trained."""
    flags = tf.app.flags
    # momentum is .9, as in two-stream 2014; LSTMs on fixed features suit Adam
    flags.DEFINE_enum(
        'optimizer',
        None,
        ['momentum', 'adam'],
        f'Optimizer {by_stage("optimizer")}.',
    )
    # a motion CNN starts from random weights, so it takes the most steps
    flags.DEFINE_integer(
        'max_steps', None, f'Training steps {by_stage("max_steps")}.', 1
    )
    # two-stream 2014 starts at 1e-2 for batches of 256
    flags.DEFINE_float(
        'learning_rate', None, f'Initial learning rate {by_stage("learning_rate")}.'
    )
    flags.DEFINE_list(
        'decay_steps', None, 'Steps at which the rate falls by ten (default: at 70 %).'
    )
    # two-stream 2014 keeps .1 for flow, too few for small data sets
    flags.DEFINE_float(
        'keep_prob',
        None,
        f'Dropout keep probability {by_stage("keep_prob")}.',
        upper_bound=1,
    )
    # the CNNs take that of their papers, the rest what is reported of the hybrid's
    flags.DEFINE_float(
        'weight_decay',
        None,
        f'lambda1 of 1/2 sum ||W||^2 {by_stage("weight_decay")}.',
        0,
    )
    # LSTMs can make gradients explode
    flags.DEFINE_float(
        'clip_norm', 10.0, 'Largest global norm of the gradients; 0 for no limit.', 0
    )
    # every lambda near 3e-5 is what notes on the paper report; the rate is ours
    flags.DEFINE_float(
        'fusion_rate', 1e-2, 'Initial learning rate of the proximal step.', 0
    )
    flags.DEFINE_float(
        'fusion_l21', 3e-5, 'lambda2 of ||W_E||_2,1, which switches units off.', 0
    )
    flags.DEFINE_float(
        'fusion_l1', 3e-5, 'lambda3 of ||W_E||_1, which switches weights off.', 0
    )
    flags.DEFINE_float('fusion_l2', 3e-5, 'lambda1 of 1/2 ||W_E||^2.', 0)
    flags.DEFINE_bool(
        'bfloat16', False, 'Products of bfloat16 numbers: on some CPUs twice as fast.'
    )
    flags.DEFINE_integer('seed', 0, 'Fixes everything random.', 0, 2**31 - 1)


def progress_flags():
    """Where the run is kept, and how it is read and logged."""
    flags = tf.app.flags
    flags.DEFINE_string('train_dir', None, 'Folder of this run: checkpoints and logs.')
    flags.DEFINE_integer('log_every', 10, 'Steps between lines of log.jsonl.', 1)
    flags.DEFINE_integer(
        'checkpoint_every', 500, 'Steps between checkpoints, and validations.', 1
    )
    flags.DEFINE_string('shard', '0/1', 'features: part i/n of the clips, from 0.')
    flags.DEFINE_integer('workers', os.cpu_count(), 'Threads that read clips.', 1)
    flags.DEFINE_integer('read_ahead', 2, 'Batches read ahead of the step.', 0)
    flags.DEFINE_bool(
        'histograms', False, 'Histograms of the trained weights in TensorBoard.'
    )


def cluster_flags():
    """Where the tasks are, on several machines or GPUs (README)."""
    flags = tf.app.flags
    flags.DEFINE_list('ps_hosts', [], 'HOST:PORT of each parameter server.')
    flags.DEFINE_list('worker_hosts', [], 'HOST:PORT of each worker.')
    flags.DEFINE_enum('job_name', None, ['ps', 'worker'], 'What this task is.')
    flags.DEFINE_integer('task_index', None, 'Which of its job it is, from 0.')
    flags.DEFINE_bool(
        'async_replicas', False, 'Each worker updates the weights by itself.'
    )
    flags.DEFINE_float(
        'timeout', 60, 'Seconds after which a task that does not answer is given up.'
    )


def flags_of_run(values):
    """All flags as a plain dict; those of `fill_defaults` are None where not given.

    Args:
      values: absl's FLAGS.

    Raises:
      ValueError: a flag has a value that cannot work.
    """
    own = values.flags_by_module_dict()[sys.argv[0]]
    flags = {flag.name: flag.value for flag in own}
    if flags['stage'] == 'features':
        flags['decay_steps'] = flags['decay_steps'] or []
    for name, number, kind in (
        ('lstm_units', int, 'whole numbers'),
        ('decay_steps', int, 'whole numbers'),
        ('combination', float, 'numbers'),
    ):
        if name == 'decay_steps' and flags[name] is None:
            continue
        try:
            flags[name] = [number(text) for text in flags[name] or []]
        except ValueError as error:
            given = ','.join(flags[name])
            raise ValueError(f'--{name}={given}: give {kind}') from error
    check_flags(flags)
    check_combination(flags)
    return flags


def fill_defaults(flags, num_clips):
    """Sets the flags that were not given, by the stage and the clips to train on.

    Args:
      flags: of `flags_of_run`.
      num_clips: how many clips are trained on.
    """
    stage = flags['stage']
    defaults = {name: of_stage(values, stage) for name, values in DEFAULTS.items()}
    steps = of_stage(BASE_STEPS, stage) + num_clips
    defaults['max_steps'] = min(defaults['max_steps'], steps)
    if num_clips < FEW_CLIPS:
        defaults['keep_prob'] = of_stage(KEEP_PROB_OF_FEW, stage)
    for name, default in defaults.items():
        if flags[name] is None:
            flags[name] = default
    if flags['decay_steps'] is None:
        flags['decay_steps'] = [int(0.7 * flags['max_steps'])]


def check_flags(flags):
    """Raises ValueError, naming the flag, where a value cannot work, or where what it
    asks for is not in the stage."""
    stage = flags['stage']
    for name in ('data_dir', 'train_dir'):
        if not flags[name]:
            raise ValueError(f'--{name} is needed')
    branches = flags['branches']
    unknown = set(branches) - set(model.all_branches())
    if not branches or unknown or len(set(branches)) < len(branches):
        raise ValueError(
            f'--branches={",".join(branches)}: choose some, each once, from '
            f'{",".join(model.all_branches())}'
        )
    cnn_layers = ['fc', *model.STREAMS[stage].layers] if stage in model.STREAMS else []
    if flags['train_layers'] not in ['all', *cnn_layers]:
        raise ValueError(
            f'--train_layers={flags["train_layers"]}: stage {stage} trains '
            f'{", ".join(["all", *cnn_layers])}'
        )
    from_colour = [s for s, stream in model.STREAMS.items() if stream.from_colour]
    for name, value, stages in (
        ('hybrid_weights', None, ['joint']),
        ('shard', '0/1', ['features']),
        ('feature_views', 1, ['features', 'hybrid']),
        ('search_combination', False, ['hybrid', 'joint']),
        ('combination', [], ['hybrid', 'joint']),
        ('cross_modality', False, [*from_colour, 'features', 'hybrid', 'joint']),
        ('bfloat16', False, [*model.STREAMS, 'hybrid', 'joint']),
    ):
        if flags[name] != value and stage not in stages:
            raise ValueError(f'--{name} is for --stage={" or ".join(stages)} alone')
    used = runs.streams(stage, branches)
    given = [flags[f'{stream}_weights'] for stream in from_colour if stream in used]
    if flags['cross_modality'] and set(given) <= {'random'}:
        needed = ' or '.join(f'--{stream}_weights' for stream in from_colour)
        raise ValueError(f'--cross_modality needs {needed} of a dump for colour')
    if not flags['lstm_units'] or min(flags['lstm_units']) < 1:
        raise ValueError('--lstm_units: give at least one number, none below 1')
    if min(flags['decay_steps'] or [], default=0) < 0:
        raise ValueError('--decay_steps: give steps, none below 0')
    for name in ('learning_rate', 'keep_prob'):
        if flags[name] is not None and not flags[name] > 0:
            raise ValueError(f'--{name}={flags[name]}: must be above 0')
    if flags['bfloat16'] and (lack := arithmetic.lack_of_bfloat16()):
        raise ValueError(f'--bfloat16 needs {lack}')


def check_combination(flags):
    """Raises ValueError where the weights of late fusion cannot be had as asked."""
    given, branches = flags['combination'], flags['branches']
    searched = flags['search_combination']
    if searched and not (flags['head'] == 'late' and flags['validation_groups']):
        raise ValueError(
            '--search_combination needs --head=late and --validation_groups=N'
        )
    if not given:
        return
    text = f'--combination={",".join(map(str, given))}'
    if flags['head'] != 'late' or searched:
        raise ValueError(f'{text} needs --head=late without --search_combination')
    if len(given) != len(branches) or not min(given) >= 0 or not sum(given) > 0:
        raise ValueError(
            f'{text}: give one weight for each of {",".join(branches)}, none below 0 '
            'and not all 0'
        )


# -- data and CNNs ---------------------------------------------------------------------


class Data(NamedTuple):
    """What a run is trained and measured on."""

    split: splits.Split
    train: list  # of splits.Example, without the held-out groups
    held_out: list  # of splits.Example
    rows: dict  # clip -> row of clips.csv
    preprocessing: dict  # of clips.preprocessing_of


def read_data(flags):
    """Reads clips.csv and the lists, and says what is trained on."""
    index = clips.read_index(flags['data_dir'], ok_only=False)
    split = splits.load(
        [clip for clip, row in index.items() if row['status'] == 'ok'],
        flags['split_dir'],
        flags['split'],
        flags['group_regex'],
        flags['allow_missing'],
        failed=[clip for clip, row in index.items() if row['status'] != 'ok'],
    )
    train_examples, held_out = splits.hold_out(split.train, flags['validation_groups'])
    splits.print_sides(split, held_out)
    rows = {e.clip: index[e.clip] for e in split.train + split.test}
    preprocessing = clips.preprocessing_of(rows.values())
    return Data(split, train_examples, held_out, rows, preprocessing)


def find_cnns(flags, data):
    """The CNNs that a stage reads, trains or caches, as run.json keeps them.

    Args:
      flags: the run's flags.
      data: Data.

    Returns:
      dict stream -> what `find_cnn` or `extraction.cache_features` returns.
    """
    streams = runs.streams(flags['stage'], flags['branches'])
    if flags['stage'] not in ('features', 'hybrid'):
        return {stream: find_cnn(flags, stream) for stream in streams}
    part, parts = 0, 1
    if flags['stage'] == 'features':
        part, parts = videos.shard_of_task(
            flags['shard'], flags['worker_hosts'], flags['task_index']
        )
    rows = {c: r for c, r in data.rows.items() if videos.in_shard(c, part, parts)}
    trained_on = [example.clip for example in data.train if example.clip in rows]
    wanted = {view: trained_on for view in range(flags['feature_views'])}
    wanted[0] = list(rows)  # what is measured is measured on view 0
    size = data.preprocessing['size']
    return {
        stream: extraction.cache_features(flags, stream, rows, size, wanted)
        for stream in streams
    }


def find_cnn(flags, stream):
    """The CNN that a stage trains.

    Args:
      flags: the run's flags.
      stream: name of the stream.

    Returns:
      {'weights': folder of its dump or None, 'fingerprint'}.
    """
    given = flags[f'{stream}_weights']
    if given == 'random':  # follows from (seed, variable name)
        return {'weights': None, 'fingerprint': 'random'}
    weights = lineage.find_weights(given, stream, flags['train_dir'])
    return {'weights': weights, 'fingerprint': dump.fingerprint(weights)}


# -- the graph -------------------------------------------------------------------------


class Graph(NamedTuple):
    """The ends of the graph that is trained."""

    inputs: dict  # placeholders by name
    logits: tf.Tensor  # [B, C]
    end_points: dict
    variables: list  # those that are trained
    scalars: dict  # scalars that are logged; `loss` is what is minimized
    rate: tf.Tensor  # placeholder of the learning rate
    train_op: tf.Operation
    finite: tf.Tensor  # whether every trained variable is
    branch_probabilities: dict  # with --search_combination, [B, C] of each branch
    histograms: tf.Tensor  # with --histograms
    worker: clusters.Training  # what a worker of a cluster needs


def build(flags, architecture, widths, cluster=None):
    """Builds the stage's graph in the default graph.

    Args:
      flags: the run's flags.
      architecture: model.Architecture.
      widths: dict stream -> D of cached features, for the hybrid.
      cluster: cluster.Cluster of which this is a worker, or None.

    Returns:
      Graph.
    """
    if cluster:
        tf.add_to_collection(layers.PART, clusters.parts_of(cluster))
    inputs, logits, end_points = model.classifier(flags['stage'], architecture, widths)
    learned = not (flags['search_combination'] or flags['combination'])
    variables = trained_variables(flags['stage'], flags['train_layers'], learned)
    with tf.name_scope('loss'):
        scalars = model.logged_scalars(
            logits, inputs['labels'], variables, flags['weight_decay']
        )
        finite = [tf.reduce_all(tf.math.is_finite(v)) for v in variables]
        finite = tf.reduce_all(finite)
    with tf.name_scope('train'):
        shared = clusters.shared_variables(scalars) if cluster else None
        rate = rate_of(flags, shared)
        optimizer = {
            'momentum': lambda: tf.train.MomentumOptimizer(rate, 0.9),
            'adam': lambda: tf.train.AdamOptimizer(rate),
        }[flags['optimizer']]()
        proximal = model.Proximal(
            rate * (flags['fusion_rate'] / flags['learning_rate']),
            flags['fusion_l1'],
            flags['fusion_l21'],
            flags['fusion_l2'],
        )
        update = model.Update(optimizer, flags['clip_norm'], proximal)
        if cluster:
            train_op, worker = clusters.training(
                cluster, shared, scalars, variables, update
            )
        else:
            train_op, worker = model.training(scalars, variables, update), None
    branch_probabilities = {}
    if flags['search_combination']:
        with tf.name_scope('validation'):
            branch_probabilities = {
                name: model.probabilities(end_points[f'{name}/logits'])
                for name in flags['branches']
            }
    histograms = summaries.histograms(variables) if flags['histograms'] else None
    ends = (inputs, logits, end_points, variables, scalars, rate, train_op)
    return Graph(*ends, finite, branch_probabilities, histograms, worker)


def rate_of(flags, shared):
    """The learning rate: fed at each step; without that, as in the thread that updates
    the variables of a cluster, it follows from the step (cluster.Shared)."""
    if shared is None:
        return tf.placeholder(tf.float32, [], 'learning_rate')
    schedule = flags['learning_rate'], flags['decay_steps']
    rates = [learning_rate(*schedule, step) for step in range(flags['max_steps'])]
    step = tf.minimum(shared.turn + shared.offset, flags['max_steps'] - 1)
    return tf.gather(tf.constant(rates, tf.float32), step)


def trained_variables(stage, train_layers, combination_is_learned):
    """The trainable variables that --train_layers names, all outside CNN stages.

    The joint stage reads fc6, so what is above it in the CNNs stays as it is. Weights
    of late fusion that are searched or given are not learned.
    """
    variables = tf.trainable_variables()
    if not combination_is_learned:
        variables = [v for v in variables if v.op.name != model.COMBINATION]
    if stage == 'joint':
        return [v for v in variables if not re.search(r'/fc[78]/', v.name)]
    layer = {'all': '', 'fc': 'fc6'}.get(train_layers, train_layers)
    if stage not in model.STREAMS or not layer:
        return variables
    names = [variable.op.name for variable in variables]
    first = next(n for n, name in enumerate(names) if f'/{layer}/' in name)
    return variables[first:]


# -- start or continue -----------------------------------------------------------------


class Savers(NamedTuple):
    """Writers of checkpoints."""

    last: tf.train.Saver
    best: tf.train.Saver
    searched: tf.train.Saver


def start(session, flags, cnns, graph, examples, first_batches):
    """Fills the graph's variables: from the run's last checkpoint, or for a first step.

    Args:
      session: of the graph.
      flags: the run's flags.
      cnns: the CNNs as run.json keeps them.
      graph: Graph.
      examples: what is trained on.
      first_batches: function that reads the batch of the first step, in parts.

    Returns:
      (Savers, step to continue at).
    """
    train_dir, stage = flags['train_dir'], flags['stage']
    dumps = {s: c['weights'] for s, c in cnns.items() if c['weights']}
    loaded = model.initialize(
        session, {} if stage == 'hybrid' else dumps, flags['cross_modality']
    )
    savers = make_savers(train_dir, loaded - {v.op.name for v in graph.variables})
    checkpoint, first = checkpoints.latest(train_dir)
    if checkpoint:
        checkpoints.restore(session, checkpoint)
        print(f'continuing at step {first:,} from {checkpoint}')
        return savers, first
    if stage == 'hybrid':
        folders = features.folders(flags['data_dir'], cnns)
        scales = features.scales(folders, [example.clip for example in examples])
        model.set_scales(session, scales)
    elif flags['hybrid_weights']:
        loaded |= load_hybrid(session, flags['hybrid_weights'])
    elif stage == 'joint':
        model.set_scales(session, first_scales(session, graph, first_batches()))
    elif dumps:
        normalize_first_random(session, stage, graph, loaded, first_batches)
    if flags['combination']:
        given = dict(zip(flags['branches'], flags['combination'], strict=True))
        set_combination(session, given)
    random = [v.op.name for v in graph.variables if v.op.name not in loaded]
    scopes = ', '.join(sorted({name.split('/')[0] for name in random}))
    print(f'{len(random)} variables start at random: {scopes or "none"}')
    return savers, 0


def make_savers(train_dir, frozen):
    """Savers that leave out what a frozen CNN keeps in its dump.

    Its mean and scale are small and tell what the pixels of a checkpoint are, so they
    are saved.
    """
    frozen = {name for name in frozen if not name.endswith(('/mean', '/scale'))}
    saved = [v for v in tf.global_variables() if v.op.name not in frozen]
    with tf.name_scope('train/'):
        savers = Savers(*(tf.train.Saver(saved, max_to_keep=n) for n in (2, 1, 1)))
    checkpoints.take_over(savers.last, train_dir)
    checkpoints.take_over(savers.best, os.path.join(train_dir, 'best'))
    return savers


def load_hybrid(session, train_dir):
    """Loads LSTMs, fusion and softmax of a hybrid run; returns the names loaded."""
    checkpoint, _ = checkpoints.latest(train_dir)
    names = checkpoints.restore(session, checkpoint, without_slots=True)
    print(f'loaded from {checkpoint}: {", ".join(names)}')
    return set(names)


def normalize_first_random(session, stage, graph, loaded, first_batches):
    """Scales the first layer of a CNN that is not in its dump so that the mean square
    of its outputs on the first batch is 1, as Mishkin and Matas do (ICLR 2016).

    Layers that start at random expect inputs of that size, and those of a published
    network are in the hundreds: without it the first losses are as large.
    """
    variables = {variable.op.name: variable for variable in tf.global_variables()}
    for layer in model.STREAMS[stage].layers[:-1]:  # fc8 is new for any new classes
        name = f'{model.STREAMS[stage].scope}/{layer}/weights'
        if name in loaded:
            continue
        (outputs,) = run_all(session, graph, first_batches(), [graph.end_points[layer]])
        weights = session.run(variables[name])
        size = np.sqrt(np.square(outputs, dtype=np.float64).mean())
        model.set_variable(session, name, np.float32(weights / max(size, 1e-6)))
        return


def first_scales(session, graph, batches):
    """Each stream's standard deviation of fc6 over the first batch, given in parts."""
    streams = [stream for stream in model.STREAMS if stream in graph.inputs]
    found = {stream: [] for stream in streams}
    for batch in batches:
        fc6 = session.run(
            {s: graph.end_points[f'{s}/fc6'] for s in streams}, feed_of(graph, batch)
        )
        steps, lengths = batch[streams[0]].shape[1], np.asarray(batch['lengths'])
        valid = np.arange(steps) < lengths[:, np.newaxis]  # [B, T], False in padding
        for stream, values in fc6.items():
            found[stream].append(values[valid.ravel()])
    scales = {s: float(np.concatenate(parts).std()) for s, parts in found.items()}
    features.check_scales(scales)
    return scales


def set_combination(session, by_branch):
    """Sets the weights of late fusion, dict branch -> at least 0, in any unit."""
    weights = [by_branch[name] for name in model.all_branches() if name in by_branch]
    weights = np.maximum(np.float32(weights) / np.sum(weights), 1e-6)
    model.set_variable(session, model.COMBINATION, np.log(weights))


# -- the loop --------------------------------------------------------------------------


def feed_of(graph, batch):
    """A batch as session.run takes it; a graph may not have every input."""
    return {graph.inputs[n]: value for n, value in batch.items() if n in graph.inputs}


def learning_rate(initial, decay_steps, step):
    """The learning rate of a step: the initial one, a tenth after each decay step."""
    return initial * 0.1 ** sum(step >= decay for decay in decay_steps)


def train(session, flags, graph, savers, steps, batches, validation, run_step):
    """The training loop.

    Args:
      session: of the graph, whose variables are filled.
      flags: the run's flags.
      graph: Graph.
      savers: Savers.
      steps: range of the steps to do.
      batches: iterator of their batches.
      validation: Validation, or None without held-out groups.
      run_step: function (feed, step) -> (values of graph.scalars, steps that are done):
        one more, or with asynchronous workers some.

    Returns:
      0; or 128 + the number of the signal that stopped it.

    Raises:
      ValueError: the loss is not finite, or a file cannot be written.
    """
    train_dir, step = flags['train_dir'], steps.start
    initial_rate, decay_steps = flags['learning_rate'], flags['decay_steps']
    log = summaries.Log(train_dir, session.graph, steps, flags['stage'])
    session.graph.finalize()
    with contextlib.closing(log):
        while step < steps.stop:
            with log.waiting():
                batch = next(batches)
            rate = learning_rate(initial_rate, decay_steps, step)
            feed = {**feed_of(graph, batch), graph.rate: rate}
            values, done = run_step(feed, step)
            values = {name: value.item() for name, value in values.items()}

            begun, due = step == steps.start, done >= steps.stop
            due = due or passes(step, done, flags['checkpoint_every'])
            saving = due or bool(STOP)
            check_finite(session, graph, done, values, saving)
            if begun:
                summaries.samples(log.writer, batch, flags['stage'], step)
            if passes(step, done, flags['log_every']):
                clips_done = flags['log_every'] * flags['batch_size']
                log.step({'step': done, **values, 'learning_rate': rate}, clips_done)
                if graph.histograms is not None:
                    log.writer.add_summary(session.run(graph.histograms), done)
            log.progress.update(done - step)
            step = done
            if not saving:
                continue
            # Validation comes first: what is logged before a checkpoint is logged again
            # by a run that continues from the one before. A signal adds no line, so
            # that the log is an undisturbed run's.
            with log.paused():
                if (
                    validation
                    and due
                    and validate(session, graph, validation, log, done)
                ):
                    checkpoints.save(savers.best, session, train_dir, done, 'best')
                checkpoints.save(savers.last, session, train_dir, done)
            if STOP:
                print(f'stopped at step {done:,}; the same command continues')
                return 128 + STOP[0]
    return 0


def passes(step, done, every):
    """Whether a multiple of `every` is in (step, done]."""
    return done // every > step // every


def one_process(session, graph):
    """What `train` calls for each step where this process is all there is."""

    def run_step(feed, step):
        values, _ = session.run([graph.scalars, graph.train_op], feed)
        return values, step + 1

    return run_step


def check_finite(session, graph, done, values, saving):
    """Raises ValueError where the loss, or before a checkpoint a weight, is not finite:
    the loss is that of before the step."""
    wrong = '' if np.isfinite(values['loss']) else f'the loss ({values})'
    if saving and not session.run(graph.finite):
        wrong = wrong or 'a weight'
    if wrong:
        raise ValueError(
            f'step {done}: {wrong} is not finite; give a lower --learning_rate, '
            '--fusion_rate or --clip_norm, and another --train_dir if this one has a '
            'checkpoint'
        )


# -- validation ------------------------------------------------------------------------


class Validation(NamedTuple):
    """Held-out clips and how they are read."""

    labels: np.ndarray  # int [N]
    batches: Callable  # -> iterator of batches that goes through them once
    class_names: list


def validate(session, graph, validation, log, done):
    """Measures the held-out clips and logs their accuracy.

    Returns:
      Whether it is the best of the run so far.
    """
    (logits,) = run_all(session, graph, validation.batches(), [graph.logits])
    predictions = logits.argmax(axis=1)
    accuracy = float(np.mean(predictions == validation.labels))
    best = accuracy > runs.best_validation(log.path)
    log.line({'step': done, 'validation_accuracy': accuracy})
    summaries.confusion(
        log.writer, predictions, validation.labels, validation.class_names, done
    )
    return best


def run_all(session, graph, batches, outputs):
    """The outputs for all clips of the batches: list of arrays [N, ...]."""
    found = [session.run(outputs, feed_of(graph, batch)) for batch in batches]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def search_combination(session, graph, validation):
    """Sets the weights of late fusion to the best on the held-out clips."""
    outputs = list(graph.branch_probabilities.values())
    probabilities = run_all(session, graph, validation.batches(), outputs)
    weights = measures.searched_combination(probabilities, validation.labels)
    found = dict(zip(graph.branch_probabilities, weights, strict=True))
    set_combination(session, found)
    shown = {name: round(float(weight), 3) for name, weight in found.items()}
    print(f'weights of the branches, searched on held-out groups: {shown}')


# -- the program -----------------------------------------------------------------------


def inputs_of_stage(flags, cnns, data, part=0, parts=1):
    """What the stage is fed.

    Args:
      flags: the run's flags.
      cnns: the CNNs as run.json keeps them.
      data: Data.
      part, parts: which part of each batch this process takes.

    Returns:
      (function range of steps -> iterator of this process's part of their batches, and
      with a second argument of another part; Validation or None).
    """
    stage, data_dir, length = flags['stage'], flags['data_dir'], flags['stack_length']
    batch_size, span = flags['batch_size'], None
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
    request_of = feeds.training_requests(
        data.train,
        data.rows,
        batch_size,
        flags['seed'],
        flags['keep_prob'],
        flags['balanced'],
        span,
        flags['feature_views'] if stage == 'hybrid' else 1,
    )

    def batches(steps, part=part):
        return read(feeds.part_of(request_of(step), part, parts) for step in steps)

    def read(requests):
        return feeds.read(requests, read_clip, flags['workers'], flags['read_ahead'])

    validation = None
    if data.held_out:
        own = batch_size // parts  # what this process has memory for
        whole = feeds.evaluation_requests(data.held_out, data.rows, own, span)
        labels = np.array([example.label for example in data.held_out])
        names = data.split.class_names
        validation = Validation(labels, functools.partial(read, whole), names)
    return batches, validation


def main(values):
    """Reads the data, checks that the run is the one in --train_dir, trains."""
    tf.logging.set_verbosity(tf.logging.ERROR)
    flags = flags_of_run(values)
    stage, cluster = flags['stage'], clusters.of_flags(flags)
    if cluster:  # where the others are gone it says more than the error that it raises
        tf.logging.set_verbosity(tf.logging.FATAL)
    if cluster and cluster.job == 'ps':
        return 0 if stage == 'features' else clusters.serve(cluster)
    data = read_data(flags)
    if stage != 'features':
        fill_defaults(flags, len(data.train))
        # the batch of all workers is what makes the run
        flags['batch_size'] *= clusters.parts_of(cluster)[1]
    # before anything is written
    lineage.check(flags, data.split, data.held_out, data.preprocessing)
    run = runs.describe(flags, data.split, data.train, data.preprocessing)
    if stage == 'features':
        return cache(flags, data, run)
    if cluster:
        with clusters.watching(cluster):
            return train_as_worker(flags, data, run, cluster)
    return train_as_chief(flags, data, run)


def cache(flags, data, run):
    """Fills the feature cache; shards of the stage may share a folder."""
    run = runs.start(flags['train_dir'], run)
    lineage.check_continued(run, flags)
    runs.keep_cnns(flags['train_dir'], run, find_cnns(flags, data))
    return 0


def train_as_chief(flags, data, run, cluster=None, target=''):
    """Trains, as the only process or as worker 0 of a cluster.

    Args:
      flags: the run's flags.
      data: Data.
      run: of runs.describe.
      cluster, target: cluster.Cluster, and the address of its own server.

    Returns:
      The exit code.
    """
    train_dir, total = flags['train_dir'], flags['max_steps']
    with runs.lock(train_dir):
        run = runs.start(train_dir, run)
        lineage.check_continued(run, flags)
        run['flags'] |= {name: flags[name] for name in clusters.SHARED_FLAGS}
        cnns = find_cnns(flags, data)
        runs.keep_cnns(train_dir, run, cnns)
        note_signals()
        part = clusters.parts_of(cluster)
        batches, validation = inputs_of_stage(flags, cnns, data, *part)
        with tf.Graph().as_default(), contextlib.ExitStack() as stack:
            stack.enter_context(clusters.device(cluster))
            alone = arithmetic.config(flags['bfloat16'])
            config = clusters.config(cluster) if cluster else alone
            session = stack.enter_context(tf.Session(target, config=config))
            graph = build_seeded(flags, run, cnns, cluster)
            if cluster:
                clusters.close(session, graph.worker.shared)
            savers, first = start(
                *(session, flags, cnns, graph, data.train),
                lambda: [next(batches([0], n)) for n in range(part[1])],
            )
            run_step = one_process(session, graph)
            steps = range(first, total)
            own_steps = steps
            if cluster:
                run_step = stack.enter_context(
                    clusters.as_chief(cluster, target, graph, session, first, STOP)
                )
                own_steps = clusters.own_steps(cluster, first, total)
            code = train(
                *(session, flags, graph, savers, steps),
                *(batches(own_steps), validation, run_step),
            )
            if code:
                return code
            finish(session, flags, cnns, graph, savers, validation)
        if data.held_out:
            fit_temperatures(train_dir, flags, data, flags['batch_size'] // part[1])
    return 0


def build_seeded(flags, run, cnns, cluster):
    """The graph of a run, whose initial values follow from --seed."""
    tf.set_random_seed(flags['seed'])
    widths = {stream: cnn.get('width') for stream, cnn in cnns.items()}
    return build(flags, runs.architecture(run), widths, cluster)


def finish(session, flags, cnns, graph, savers, validation):
    """Saves what is there when all steps are done."""
    train_dir = flags['train_dir']
    if flags['stage'] != 'hybrid':
        save_cnns(session, cnns, train_dir)
    searched = checkpoints.latest(os.path.join(train_dir, 'searched'))[0]
    if flags['search_combination'] and not searched:
        search_combination(session, graph, validation)
        checkpoints.save(
            savers.searched, session, train_dir, flags['max_steps'], 'searched'
        )


def train_as_worker(flags, data, run, cluster):
    """Trains as one of the workers of a cluster; returns the exit code."""
    server = clusters.start_server(cluster)
    if cluster.task == 0:
        code = train_as_chief(flags, data, run, cluster, server.target)
    else:
        run = clusters.wait_for_run(cluster, flags['train_dir'], run)
        note_signals()
        part = clusters.parts_of(cluster)
        batches, _ = inputs_of_stage(flags, run['cnns'], data, *part)
        with tf.Graph().as_default(), clusters.device(cluster):
            graph = build_seeded(flags, run, run['cnns'], cluster)
            code = clusters.as_worker(
                *(cluster, server.target, graph, batches),
                *(functools.partial(feed_of, graph), flags['max_steps'], STOP),
            )
    if code == 0:
        clusters.say_ended(cluster, server.target)
    return code


def fit_temperatures(train_dir, flags, data, batch_size):
    """Fits the temperature of each checkpoint on the held-out groups, as they would be
    evaluated."""
    run = runs.read(train_dir)
    protocol = scoring.Protocol(test_segments=scoring.default_segments(flags))
    reading = batch_size, flags['workers']
    labels = np.array([example.label for example in data.held_out])
    for folder in ('', 'best', 'searched'):
        checkpoint, _ = checkpoints.latest(os.path.join(train_dir, folder))
        if not checkpoint or calibration.read(checkpoint):
            continue
        clips_of = flags['data_dir'], data.held_out, data.rows
        found = scoring.score(run, checkpoint, *clips_of, protocol, *reading)['video']
        temperature = calibration.fitted_temperature(found, labels)
        with checkpoints.writing(train_dir, 'the temperature'):
            calibration.write(checkpoint, temperature)
        print(f'temperature of {folder or "last"}: {temperature:.2f}')


def note_signals():
    """Lets the step end at a signal that asks to stop; the loop saves and stops."""
    for name in ('SIGTERM', 'SIGINT', 'SIGHUP'):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        # nohup starts a program with SIGHUP ignored
        if number and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda received, _: STOP.append(received))


def save_cnns(session, cnns, train_dir):
    """Saves the CNNs that the stage trained as dumps in the run's folder."""
    for stream in cnns:
        folder = os.path.join(train_dir, 'weights', stream)
        with checkpoints.writing(train_dir, f'the {stream} CNN'):
            model.save_cnn(session, stream, folder, f'trained in {train_dir}')
        print(f'{stream} CNN saved as {folder}')


if __name__ == '__main__':
    define_flags()
    command_line.run(main, 'stopped; the same command continues')
