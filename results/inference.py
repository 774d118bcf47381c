"""A finished run as one graph from pixels to probabilities; its maps, its export.

    net = inference.network(session, stored, checkpoint)
    python evaluate.py --train_dir=runs/hybrid --export=saved/hybrid

Used by evaluate.py and predict.py; apart from model.py because training needs none of
it: the hybrid stage trains and is measured on cached features, without its CNNs.

The SavedModel's signature `serving_default`: `spatial` uint8 [B, T, H, W, 3] (BGR
frames as stored), `motion` uint8 [B, T, H, W, 2L] (flow stacks as stored), `lengths`
int32 [B] (valid steps) in; `probabilities` float32 [B, C] and `class_names` string [C]
out. A run that looks at one stream has that input alone.
"""

import os
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

import model
from weights import checkpoints
from weights import dump

LAST_MAPS = {'spatial': 'conv5_4', 'motion': 'conv5'}  # last layers with a place
TOLERANCE = 1e-5  # between the session and what was exported, in probability
STEPS = 3  # of the random clips that an export is tried on


def pixel_classifier(settings, num_classes, size):
    """A finished run's whole graph from stored pixels, without dropout and crops.

    Args:
      settings: the run's flags: stage, stack_length, branches, head, lstm_units.
      num_classes: C.
      size: side of the stored pictures in pixels.

    Returns:
      (inputs, probabilities [B, C], end_points). inputs: each stream's pixels uint8
      [B, T, H, W, 3 or 2L] by its name, and `lengths` int32 [B]. end_points: `scores`
      [B, C] before the softmax, and each stream's last maps [B*T, h, w, D] by its name.
    """
    streams, stage = model.streams_of_run(settings), settings['stage']
    inputs, features, end_points = {}, {}, {}
    with tf.name_scope('inputs'):
        inputs['lengths'] = lengths = tf.placeholder(tf.int32, [None], 'lengths')
        for stream in streams:
            shape = model.picture_shape(stream, size, settings['stack_length'])
            inputs[stream] = tf.placeholder(tf.uint8, [None, None, *shape], stream)
    for stream in streams:
        images = tf.reshape(inputs[stream], [-1, *inputs[stream].shape[2:]])
        form = model.motion_form(settings)
        cnn_logits, cnn_points = model.cnn(stream, images, num_classes, **form)
        end_points[stream] = cnn_points[LAST_MAPS[stream]]
        output = cnn_logits if stage in model.STREAMS else cnn_points['fc6']
        if stage == 'hybrid':  # trained on features stored as float16
            output = tf.cast(tf.cast(output, tf.float16), tf.float32)
        clips_and_steps = tf.shape(inputs[stream])[:2]
        features[stream] = model.over_time(output, clips_and_steps)  # [B, T, C or D]

    if stage in model.STREAMS:
        softmax = tf.nn.softmax(features[stage])
        probabilities = model.mean_over_time(softmax, lengths)
        end_points['scores'] = model.mean_over_time(features[stage], lengths)
    else:
        form = [settings[name] for name in ('branches', 'head', 'lstm_units')]
        logits, _ = model.hybrid(features, lengths, num_classes, *form)
        probabilities, end_points['scores'] = tf.nn.softmax(logits), logits
    return inputs, probabilities, end_points


def restore(session, checkpoint, settings, cnns):
    """Fills a graph's variables from a run; none may be left as it would start.

    Args:
      session: of the graph.
      checkpoint: the run's.
      settings: the run's flags; stage `hybrid` for a graph on cached features alone.
      cnns: the CNNs as run.json keeps them; a CNN that the checkpoint does not hold
        whole, because training left some of it alone, is loaded from its dump.

    Raises:
      ValueError: a dump is not the run's, or a variable is in neither.
    """
    stored = checkpoints.variables_in(checkpoint)
    lacking = {v.op.name for v in tf.global_variables()} - set(stored)
    needed = {}
    for stream, cnn in cnns.items():
        scope = model.CNN_SCOPE[stream]
        if cnn['weights'] and any(name.startswith(f'{scope}/') for name in lacking):
            if dump.fingerprint(cnn['weights']) != cnn['fingerprint']:
                raise ValueError(
                    f'{cnn["weights"]}: the dump is not the one the run was trained '
                    'with; put that one back, or train again'
                )
            needed[stream] = cnn
    loaded = model.initialize(session, settings, needed)
    loaded.update(checkpoints.restore(session, checkpoint))
    lacking -= loaded
    if settings['stage'] not in model.STREAMS:  # takes fc6; fc8 may be of other classes
        lacking = {name for name in lacking if '/fc8/' not in name}
    if lacking:
        raise ValueError(
            f'{checkpoint} lacks {len(lacking)} variables, such as {min(lacking)}; '
            'was it written by another version of train.py?'
        )


def class_activation_maps(score, maps):
    """Which places speak for a class: Grad-CAM (Selvaraju et al., ICCV 2017, eq. 1-2).

        a_d = mean over places of d score / d A_d,  map = relu(sum_d a_d A_d)

    Args:
      score: float32 [], the class's score before the softmax.
      maps: float32 [N, h, w, D], the A_d of a convolutional layer.

    Returns:
      float32 [N, h, w].
    """
    (gradient,) = tf.gradients(score, maps)
    strength = tf.reduce_mean(gradient, axis=[1, 2], keepdims=True)  # [N, 1, 1, D]
    return tf.nn.relu(tf.reduce_sum(strength * maps, axis=3))


class Network(NamedTuple):
    """A restored run: its session, what it is fed and what it gives."""

    session: tf.Session
    inputs: dict
    probabilities: tf.Tensor
    label: tf.Tensor
    maps: dict


def network(session, stored, checkpoint, explained=False):
    """Builds and restores a run's whole graph from pixels, in the default graph.

    Args:
      session: of the default graph.
      stored: the run as run.json keeps it.
      checkpoint: the run's.
      explained: adds the class activation maps of the first clip for `label`.

    Raises:
      ValueError: the checkpoint or a CNN's dump is not whole or not the run's.
    """
    settings, size = stored['settings'], stored['preprocessing']['size']
    num_classes = len(stored['class_names'])
    inputs, probabilities, end_points = pixel_classifier(settings, num_classes, size)
    label, maps = tf.placeholder(tf.int32, [], 'label'), {}
    if explained:  # before the session runs: gradients change the loops of the LSTMs
        score = end_points['scores'][0, label]
        maps = {
            stream: class_activation_maps(score, end_points[stream])
            for stream in model.streams_of_run(settings)
        }
    # a hybrid checkpoint leaves the CNNs to their dumps, which `joint` loads
    stage = 'joint' if settings['stage'] == 'hybrid' else settings['stage']
    restore(session, checkpoint, {**settings, 'stage': stage}, stored['cnns'])
    return Network(session, inputs, probabilities, label, maps)


def feed_of(net, pixels):
    """The feed of one window's or clip's pixels, dict stream -> uint8 [T, ...]."""
    feed = {net.inputs[stream]: value[None] for stream, value in pixels.items()}
    feed[net.inputs['lengths']] = [len(next(iter(pixels.values())))]
    return feed


# -- export ----------------------------------------------------------------------------


def trial_pixels(inputs, seed=0):
    """Random pixels for two clips of different lengths: dict name -> array."""
    random = np.random.default_rng(seed)
    feed = {'lengths': np.array([STEPS, STEPS - 1], np.int32)}
    for name in inputs.keys() - {'lengths'}:
        shape = [2, STEPS, *inputs[name].shape[2:].as_list()]
        feed[name] = random.integers(0, 256, shape).astype(np.uint8)
    return feed


def reloaded(directory, feed):
    """What the SavedModel in a folder gives for a feed: dict name -> array."""
    with tf.Graph().as_default(), tf.Session() as session:
        tags = [tf.saved_model.tag_constants.SERVING]
        loaded = tf.saved_model.load(session, tags, directory)
        signature = loaded.signature_def['serving_default']
        return session.run(
            {name: info.name for name, info in signature.outputs.items()},
            {signature.inputs[name].name: value for name, value in feed.items()},
        )


def export(directory, stored, checkpoint):
    """Writes the SavedModel and tries it against the session it came from.

    Args:
      directory: folder to make.
      stored: the run as run.json keeps it.
      checkpoint: the run's.

    Returns:
      The largest difference in probability.

    Raises:
      ValueError: the folder is there already, or the difference exceeds TOLERANCE.
    """
    if os.path.exists(directory):
        raise ValueError(f'--export={directory} is there already: name a new folder')
    with tf.Graph().as_default(), tf.Session() as session:
        net = network(session, stored, checkpoint)
        outputs = {
            'probabilities': net.probabilities,
            'class_names': tf.constant(stored['class_names']),
        }
        tf.saved_model.simple_save(session, directory, net.inputs, outputs)
        pixels = trial_pixels(net.inputs)
        feed = {net.inputs[name]: value for name, value in pixels.items()}
        expected = session.run(net.probabilities, feed)
    found = reloaded(directory, pixels)['probabilities']
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f'--export={directory}: what was written differs from the run by '
            f'{difference:.1g} in probability, more than {TOLERANCE}; do not use it'
        )
    return difference
