"""A finished run as one graph from pixels to probabilities; its maps, its export.

    net = inference.network(session, run, checkpoint)
    python evaluate.py --train_dir=runs/hybrid --export=saved/hybrid

Training needs none of it: the hybrid stage trains and is measured on cached features,
without its CNNs.

The SavedModel's signature `serving_default`: `spatial` uint8 [B, T, H, W, 3] (BGR
frames as stored), `motion` uint8 [B, T, H, W, 2L] (flow stacks as stored), `lengths`
int32 [B] (valid steps) in; `probabilities` float32 [B, C] and `class_names` string [C]
out. A run on one stream has that input alone.
"""

import os
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

import model
from results import calibration
from results import runs
from weights import checkpoints
from weights import dump

TOLERANCE = 1e-5  # between the session and what was exported, in probability
STEPS = 3  # of the random clips that an export is tried on


def pixel_classifier(stage, architecture, temperature=None):
    """A finished run's whole graph from stored pixels, without dropout and crops.

    Args:
      stage: name of a stream, 'hybrid' or 'joint'.
      architecture: model.Architecture.
      temperature: of calibration.read.

    Returns:
      (inputs, probabilities [B, C], end_points). inputs: each stream's pixels uint8
      [B, T, H, W, channels] by its name, and `lengths` int32 [B]. end_points: `scores`
      [B, C] before the softmax, and each stream's last maps [B*T, h, w, D] by its name.
    """
    num_classes, size, stack_length, branches, head, lstm_units, options = architecture
    inputs, features, end_points = {}, {}, {}
    with tf.name_scope('inputs'):
        inputs['lengths'] = lengths = tf.placeholder(tf.int32, [None], 'lengths')
        for stream in runs.streams(stage, branches):
            shape = model.input_shape(stream, size, stack_length)
            inputs[stream] = tf.placeholder(tf.uint8, [None, None, *shape], stream)
    for stream in runs.streams(stage, branches):
        images = tf.reshape(inputs[stream], [-1, *inputs[stream].shape[2:]])
        cnn_logits, cnn_points = model.cnn(stream, images, num_classes, options=options)
        end_points[stream] = cnn_points[model.STREAMS[stream].last_maps]
        output = cnn_logits if stage in model.STREAMS else cnn_points['fc6']
        if stage == 'hybrid':  # trained on features stored as float16
            output = tf.cast(tf.cast(output, tf.float16), tf.float32)
        clips_and_steps = tf.shape(inputs[stream])[:2]
        features[stream] = model.over_time(output, clips_and_steps)  # [B, T, C or D]

    if stage in model.STREAMS:
        of_steps = model.probabilities(features[stage])
        probabilities = model.mean_over_time(of_steps, lengths)
        end_points['scores'] = model.mean_over_time(features[stage], lengths)
    else:
        form = (num_classes, branches, head, lstm_units)
        logits, _ = model.hybrid(features, lengths, *form)
        probabilities, end_points['scores'] = model.probabilities(logits), logits
    if temperature:  # as calibration.tempered
        log_p = tf.log(tf.maximum(probabilities, 1e-30))
        probabilities = model.probabilities(log_p / temperature)
    return inputs, probabilities, end_points


def restore(session, checkpoint, run):
    """Fills a graph's variables from a run; none may be left at its initial value.

    Args:
      session: of the graph.
      checkpoint: the run's.
      run: the content of run.json. A CNN that the checkpoint does not hold whole,
        because training left some of it alone, is loaded from its dump.

    Raises:
      ValueError: a dump is not the run's, or a variable is in neither.
    """
    stored = checkpoints.variables_in(checkpoint)
    missing = {v.op.name for v in tf.global_variables()} - set(stored)
    dumps = {}
    for stream, cnn in run['cnns'].items():
        scope = model.STREAMS[stream].scope
        if cnn['weights'] and any(name.startswith(f'{scope}/') for name in missing):
            if not os.path.isdir(cnn['weights']):
                raise ValueError(
                    f'{cnn["weights"]} is not there any more: name its new place by '
                    f'--{stream}_weights'
                )
            if dump.fingerprint(cnn['weights']) != cnn['fingerprint']:
                raise ValueError(
                    f'{cnn["weights"]}: the dump is not the one the run was trained '
                    f'with; name that one by --{stream}_weights, or train again'
                )
            dumps[stream] = cnn['weights']
    loaded = model.initialize(session, dumps, run['flags']['cross_modality'])
    loaded.update(checkpoints.restore(session, checkpoint))
    missing -= loaded
    if run['flags']['stage'] not in model.STREAMS:
        # reads fc6; fc8 may be of other classes
        missing = {name for name in missing if '/fc8/' not in name}
    if missing:
        raise ValueError(
            f'{checkpoint}: {len(missing)} variables are missing, such as '
            f'{min(missing)}; was it written by another version of train.py?'
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


def network(session, run, checkpoint, explained=False):
    """Builds and restores a run's whole graph from pixels, in the default graph.

    Args:
      session: of the default graph.
      run: the content of run.json.
      checkpoint: the run's.
      explained: adds the class activation maps of the first clip for `label`.

    Raises:
      ValueError: the checkpoint or a CNN's dump is not whole or not the run's.
    """
    temperature = calibration.read(checkpoint)
    inputs, probabilities, end_points = pixel_classifier(
        run['flags']['stage'], runs.architecture(run), temperature
    )
    label, maps = tf.placeholder(tf.int32, [], 'label'), {}
    if explained:  # before the session runs: gradients change the loops of the LSTMs
        score = end_points['scores'][0, label]
        maps = {
            stream: class_activation_maps(score, end_points[stream])
            for stream in inputs
            if stream in model.STREAMS
        }
    restore(session, checkpoint, run)
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


def export(directory, run, checkpoint):
    """Writes the SavedModel and tries it against the session it came from.

    Args:
      directory: folder to make.
      run: the content of run.json.
      checkpoint: the run's.

    Returns:
      The largest difference in probability.

    Raises:
      ValueError: the folder is there already, or the difference exceeds TOLERANCE.
    """
    if os.path.exists(directory):
        raise ValueError(f'--export={directory} is there already: name a new folder')
    with tf.Graph().as_default(), tf.Session() as session:
        net = network(session, run, checkpoint)
        outputs = {
            'probabilities': net.probabilities,
            'class_names': tf.constant(run['class_names']),
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
