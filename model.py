"""The hybrid of arXiv:1504.01561 as graph functions: streams, LSTMs, fusion, softmax.

    frames -> VGG-19 -> fc6 --LSTM 1024 -> 512, last valid step--> [B, 512]
    stacks -> CNN-M  -> fc6 --LSTM 1024 -> 512, last valid step--> [B, 512]
    mean over time of both fc6 -> 200 per stream -> regularized fusion 200
    [512 | 512 | 200] -> one softmax (or three softmaxes, linearly combined)

No session is made and no flag is read here: `train.py` and `evaluate.py` own those, and
the section `parameters` fills the variables of their graphs.

Letters used in every shape:
    B clips   T steps   L flow fields in a stack   H, W height and width
    D feature width   U LSTM units   F fusion units   C classes
"""

from typing import Callable
from typing import NamedTuple

import tensorflow.compat.v1 as tf

import cnnm
import vgg
from data import augmentation
from weights import layers

CNN_OPTIONS = ('norm2', 'subtract_mean_flow')  # flags that change how a CNN is built
LSTM_UNITS = (1024, 512)
FUSION_UNITS = 200
# A name that ends in / opens the scope again, where `inputs` would make an inputs_1.
INPUTS_SCOPE = 'inputs/'
FUSION_WEIGHTS = 'regularized_fusion_network/fusion/weights'
COMBINATION = 'softmax/combination/scores'


# -- streams --------------------------------------------------------------------------


class Stream(NamedTuple):
    """What graphs and readers need of a stream; another one is an entry of STREAMS."""

    cnn: Callable  # images, C, keep_prob, dropout_seed, **options -> logits, end_points
    network: object  # module with load_weights and save_weights
    scope: str  # of the CNN's variables
    layers: list  # from the pixels up
    last_maps: str  # the last layer whose units have a place in the image
    channels: Callable  # L -> channels of an input
    span: Callable  # L -> frames that an input covers
    read: Callable  # sampling.Clip, starts int [n], L -> uint8 [n, H, W, channels]
    flow: bool = False  # reads flow, channels x1, y1, .. xL, yL
    from_colour: bool = False  # --cross_modality: may start from a dump for colour
    options: tuple = ()  # those of CNN_OPTIONS that `cnn` takes


def motion_cnn(
    images, num_classes, keep_prob, dropout_seed, norm2=True, subtract_mean_flow=False
):
    """CNN-M-2048 on flow stacks [N, H, W, 2L], without the camera's motion if asked."""
    if subtract_mean_flow:
        images = cnnm.subtract_mean_flow(images)
    return cnnm.cnn_m_2048(images, num_classes, keep_prob, dropout_seed, norm2)


STREAMS = {
    'spatial': Stream(
        cnn=vgg.vgg_19,
        network=vgg,
        scope='spatial/vgg_19',
        layers=vgg.LAYERS,
        last_maps='conv5_4',
        channels=lambda stack_length: 3,
        span=lambda stack_length: 1,
        read=lambda clip, starts, stack_length: clip.read_frames(starts),
    ),
    'motion': Stream(
        cnn=motion_cnn,
        network=cnnm,
        scope='motion/cnn_m_2048',
        layers=cnnm.LAYERS,
        last_maps='conv5',
        channels=lambda stack_length: 2 * stack_length,
        span=lambda stack_length: stack_length + 1,
        read=lambda clip, starts, stack_length: clip.read_stacks(starts, stack_length),
        flow=True,
        from_colour=True,
        options=CNN_OPTIONS,
    ),
}


def all_branches():
    """Names of the hybrid's branches: an LSTM for each stream, and the fusion."""
    return [*(f'{stream}_lstm' for stream in STREAMS), 'fusion']


def streams_of(branches):
    """The streams that the branches need, in the order of STREAMS."""
    return [s for s in STREAMS if f'{s}_lstm' in branches or 'fusion' in branches]


def cnn(stream, images, num_classes, keep_prob=1.0, dropout_seed=None, options=None):
    """The stream's CNN under its scope.

    Args:
      stream: name of the stream.
      images: uint8 or float [N, H, W, channels].
      num_classes, keep_prob, dropout_seed: as in vgg.vgg_19.
      options: dict of CNN_OPTIONS; those that the stream's CNN does not take are left.

    Returns:
      (logits [N, C], end_points).
    """
    of_stream = STREAMS[stream]
    taken = {n: v for n, v in (options or {}).items() if n in of_stream.options}
    with tf.variable_scope(stream):
        return of_stream.cnn(images, num_classes, keep_prob, dropout_seed, **taken)


def scaled(features, stream):
    """Divides features by the stream's scale, a variable that training sets once.

    fc6 of different networks differ in size by orders of magnitude, and LSTM gates
    saturate on large inputs.
    """
    variables = tf.variable_scope('inputs', auxiliary_name_scope=False)
    with variables, tf.name_scope(INPUTS_SCOPE):
        return features / layers.constant(f'{stream}_scale', 1.0)


# -- LSTM -----------------------------------------------------------------------------


def lstm(inputs, lengths, units):
    """One LSTM layer (Hochreiter & Schmidhuber 1997, forget gate of Gers et al. 2000).

        i, j, f, o = x_t W + h_{t-1} R + b
        c_t = sigmoid(f + 1) c_{t-1} + sigmoid(i) tanh(j)
        h_t = sigmoid(o) tanh(c_t)

    x W of all steps is one matrix product before the loop: a product of B*T rows uses
    the machine far better than T products of B rows.

    Args:
      inputs: float32 [B, T, D].
      lengths: int32 [B], valid steps of each clip, at least 1. Past them the state
        does not change.
      units: U.

    Returns:
      (outputs [B, T, U], last [B, U]): h at each step, and at the last valid step.
    """
    assert inputs.shape.rank == 3, 'inputs are [B, T, D]'
    depth = int(inputs.shape[-1])
    kernel = layers.variable('kernel', [depth, 4 * units], depth**-0.5)
    recurrent = layers.variable('recurrent_kernel', [units, 4 * units], units**-0.5)
    bias = layers.variable('bias', [4 * units], 0)

    batch, steps = tf.shape(inputs)[0], tf.shape(inputs)[1]
    flat = tf.reshape(tf.transpose(inputs, [1, 0, 2]), [-1, depth])  # [T*B, D]
    projected = tf.reshape(flat @ kernel + bias, [steps, batch, 4 * units])
    xs = tf.TensorArray(tf.float32, steps).unstack(projected)

    def step(t, c, h, hs):
        i, j, f, o = tf.split(xs.read(t) + h @ recurrent, 4, axis=1)  # [B, U] each
        new_c = tf.sigmoid(f + 1) * c + tf.sigmoid(i) * tf.tanh(j)
        new_h = tf.sigmoid(o) * tf.tanh(new_c)
        valid = (t < lengths)[:, None]
        c, h = tf.where_v2(valid, new_c, c), tf.where_v2(valid, new_h, h)
        return t + 1, c, h, hs.write(t, h)

    zero = tf.zeros([batch, units])
    hs = tf.TensorArray(tf.float32, steps, element_shape=[None, units])
    start = (0, zero, zero, hs)
    _, _, last, hs = tf.while_loop(lambda t, *_: t < steps, step, start)
    outputs = tf.transpose(hs.stack(), [1, 0, 2])  # [B, T, U]
    last.set_shape([None, units])
    return outputs, last


def lstm_stack(features, lengths, units, keep_prob, dropout_seed):
    """LSTM layers on one stream's features; the last valid step represents the clip.

    Args:
      features: float32 [B, T, D].
      lengths: int32 [B].
      units: units of each layer.
      keep_prob: dropout between layers (never inside the recurrence).
      dropout_seed: int32 [2], (seed, step).

    Returns:
      float32 [B, units[-1]].
    """
    outputs = features
    for layer, layer_units in enumerate(units):
        name = f'layer_{layer + 1}'
        if layer:
            outputs = layers.dropout(outputs, keep_prob, dropout_seed, name)
        with tf.variable_scope(name):
            outputs, last = lstm(outputs, lengths, layer_units)
    return last


# -- regularized fusion ---------------------------------------------------------------


def mean_over_time(features, lengths):
    """Mean of the valid steps, [B, T, D] -> [B, D]: the video-level feature."""
    valid = tf.sequence_mask(lengths, tf.shape(features)[1], tf.float32)  # [B, T]
    total = tf.reduce_sum(features * valid[:, :, None], axis=1)
    return total / tf.cast(lengths, tf.float32)[:, None]


def regularized_fusion_network(means, units=FUSION_UNITS):
    """h = relu([relu(mean_s W_s + b_s), relu(mean_m W_m + b_m)] W_E + b_E).

    Args:
      means: dict stream -> float32 [B, D].
      units: F.

    Returns:
      float32 [B, F].
    """
    hidden = []
    for stream, mean in means.items():
        with tf.variable_scope(stream):
            weights, biases = layers.weights_and_biases([int(mean.shape[-1]), units])
        hidden.append(tf.nn.relu(mean @ weights + biases))  # [B, F]
    with tf.variable_scope('fusion'):
        weights, biases = layers.weights_and_biases([len(hidden) * units, units])
    return tf.nn.relu(tf.concat(hidden, axis=1) @ weights + biases)


def group_norms(fusion_weights):
    """Norms of W_E's columns [F]: a column is all that enters one fusion unit, from
    all streams, so switching it off switches off a unit of all."""
    return tf.sqrt(tf.reduce_sum(tf.square(fusion_weights), axis=0))


def proximal_step(weights, gradient, rate, l1, l21, l2):
    """Proximal gradient step on l1 |W|_1 + l21 |W|_{2,1} + l2/2 |W|_F^2.

    Soft thresholding of entries, then shrinking of columns, then of the whole: in this
    order, and no other, it is the proximal operator of the sum.

    Args:
      weights: float32 [2F, F].
      gradient: of the loss without these three terms.
      rate: learning rate.
      l1, l21, l2: strengths.

    Returns:
      The new weights.
    """
    v = weights - rate * gradient
    v = tf.sign(v) * tf.maximum(tf.abs(v) - rate * l1, 0)
    norms = group_norms(v)
    v *= tf.math.divide_no_nan(tf.maximum(norms - rate * l21, 0), norms)
    return v / (1 + rate * l2)


# -- the hybrid -----------------------------------------------------------------------


def hybrid(
    features,
    lengths,
    num_classes,
    branches=None,
    head='concat',
    lstm_units=LSTM_UNITS,
    keep_prob=1.0,
    dropout_seed=None,
):
    """LSTMs on the streams and the fusion network beside them, then the softmax.

    Args:
      features: dict stream -> float32 [B, T, D]; needs the streams of `branches`.
      lengths: int32 [B], valid steps.
      num_classes: C.
      branches: some of `all_branches`; None for all.
      head: 'concat', one softmax over all branches' features side by side, or 'late',
        a softmax for each branch, linearly combined with learned weights.
      lstm_units: units of each LSTM layer.
      keep_prob: dropout between LSTM layers and before the softmax.
      dropout_seed: int32 [2], (seed, step).

    Returns:
      (logits [B, C], end_points): end_points has each branch's features [B, U] under
      its name and its part of the logits [B, C] under `<branch>/logits`. For 'late'
      the logits are log probabilities.
    """
    branches = branches or all_branches()
    inputs = {s: scaled(features[s], s) for s in streams_of(branches)}
    end_points = {}
    for stream in STREAMS:
        if f'{stream}_lstm' in branches:
            with tf.variable_scope(f'{stream}_lstm'):
                end_points[f'{stream}_lstm'] = lstm_stack(
                    inputs[stream], lengths, lstm_units, keep_prob, dropout_seed
                )
    if 'fusion' in branches:
        with tf.variable_scope('regularized_fusion_network'):
            means = {s: mean_over_time(x, lengths) for s, x in inputs.items()}
            end_points['fusion'] = regularized_fusion_network(means)

    head_function = {'concat': one_softmax, 'late': combined_softmaxes}[head]
    with tf.variable_scope('softmax'):
        parts = {
            name: layers.dropout(end_points[name], keep_prob, dropout_seed, name)
            for name in all_branches()
            if name in branches
        }
        logits, part_logits = head_function(parts, num_classes)
    for name, value in part_logits.items():
        end_points[f'{name}/logits'] = value
    return logits, end_points


def probabilities(logits):
    """softmax: float32 [..., C] -> [..., C].

    Late fusion, calibration and export rely on probabilities(log p) being p.
    """
    return tf.nn.softmax(logits)


def log_probabilities(logits):
    """log softmax: float32 [..., C] -> [..., C]."""
    return tf.nn.log_softmax(logits)


def classification_loss(logits, labels):
    """Mean cross entropy; labels int32 [B], from 0 to C - 1."""
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=labels, logits=logits
    )
    return tf.reduce_mean(losses)


def one_softmax(parts, num_classes):
    """One softmax over the concatenation, 512 + 512 + 200 = 1224 wide.

    Its logits are the sum of one block for each branch (and the biases).
    """
    widths = [int(part.shape[-1]) for part in parts.values()]
    width = sum(widths)
    weights = layers.variable('weights', [width, num_classes], width**-0.5)
    biases = layers.variable('biases', [num_classes], 0)
    blocks = dict(zip(parts, tf.split(weights, widths), strict=True))
    logits = tf.concat(list(parts.values()), axis=1) @ weights + biases
    return logits, {name: part @ blocks[name] for name, part in parts.items()}


def combined_softmaxes(parts, num_classes):
    """log of sum_k a_k softmax(logits_k), a = exp(scores) / sum exp(scores).

    The form of figure 1: every branch has its own softmax, and these are combined
    linearly. The weights a start equal, and their scores are learned by
    backpropagation.
    """
    part_logits = {}
    for name, part in parts.items():
        with tf.variable_scope(name):
            own_logits, _ = one_softmax({name: part}, num_classes)
        part_logits[name] = own_logits
    with tf.variable_scope('combination'):
        scores = layers.variable('scores', [len(parts)], 0)
    log_a = scores - tf.reduce_logsumexp(scores)  # [K]
    log_p = tf.stack([log_probabilities(x) for x in part_logits.values()], axis=1)
    return tf.reduce_logsumexp(log_p + log_a[None, :, None], axis=1), part_logits


# -- whole graphs, from placeholders --------------------------------------------------


def placeholder_inputs(**shapes_and_types):
    """Placeholders in the scope `inputs`: name=(dtype, shape); returns them by name.

    Every graph has labels int32 [B], keep_prob float32 [] and dropout_seed int32 [2].
    """
    common = {
        'labels': (tf.int32, [None]),
        'keep_prob': (tf.float32, []),
        'dropout_seed': (tf.int32, [2]),
    }
    with tf.name_scope(INPUTS_SCOPE):
        return {
            name: tf.placeholder(dtype, shape, name)
            for name, (dtype, shape) in {**shapes_and_types, **common}.items()
        }


CROP_INPUTS = {
    'crop_scale': (tf.float32, [None]),
    'place': (tf.int32, [None]),
    'mirrored': (tf.bool, [None]),
}


class Architecture(NamedTuple):
    """What determines a graph, beside its stage."""

    num_classes: int  # C
    size: int  # height and width of the stored frames in pixels
    stack_length: int  # L
    branches: list  # some of `all_branches`
    head: str  # 'concat' or 'late'
    lstm_units: list  # units of each LSTM layer
    cnn_options: dict  # values of CNN_OPTIONS by name


def input_shape(stream, size, stack_length):
    """[H, W, channels] of one input of the stream."""
    return [size, size, STREAMS[stream].channels(stack_length)]


def over_time(values, clips_and_steps):
    """[B*T, D] -> [B, T, D]; clips_and_steps is int32 [2] = (B, T)."""
    width = int(values.shape[-1])
    values = tf.reshape(values, tf.concat([clips_and_steps, [width]], axis=0))
    values.set_shape([None, None, width])
    return values


def cropped_images(stream, size, stack_length):
    """Stored pixels of one stream, cropped and mirrored.

    Returns:
      (inputs, crops): placeholders, of which `images` is uint8 [N, H, W, channels], and
      float32 of the same shape.
    """
    shape = input_shape(stream, size, stack_length)
    inputs = placeholder_inputs(images=(tf.uint8, [None, *shape]), **CROP_INPUTS)
    draws = [inputs[name] for name in CROP_INPUTS]
    with tf.name_scope(INPUTS_SCOPE):
        flow = STREAMS[stream].flow
        return inputs, augmentation.crop_and_mirror(inputs['images'], flow, *draws)


def cnn_classifier(stream, architecture):
    """One stream's CNN with its own softmax, from stored pixels.

    Returns:
      (inputs, logits [B, C], end_points); `images` is uint8 [B, H, W, channels].
    """
    inputs, crops = cropped_images(stream, architecture.size, architecture.stack_length)
    dropout = (inputs['keep_prob'], inputs['dropout_seed'])
    options = architecture.cnn_options
    logits, end_points = cnn(stream, crops, architecture.num_classes, *dropout, options)
    return inputs, logits, end_points


def hybrid_classifier(widths, architecture):
    """The hybrid on cached features.

    Args:
      widths: dict stream -> D of its features.
      architecture: Architecture.

    Returns:
      (inputs, logits [B, C], end_points); inputs has each stream float16 [B, T, D] by
      its name and `lengths` int32 [B].
    """
    inputs = placeholder_inputs(
        lengths=(tf.int32, [None]),
        **{s: (tf.float16, [None, None, width]) for s, width in widths.items()},
    )
    with tf.name_scope(INPUTS_SCOPE):
        features = {s: tf.cast(inputs[s], tf.float32) for s in widths}
    logits, end_points = hybrid(
        features,
        inputs['lengths'],
        architecture.num_classes,
        architecture.branches,
        architecture.head,
        architecture.lstm_units,
        inputs['keep_prob'],
        inputs['dropout_seed'],
    )
    return inputs, logits, end_points


def joint_classifier(architecture):
    """Everything in one graph, from stored pixels: CNNs, LSTMs, fusion, softmax.

    Returns:
      (inputs, logits [B, C], end_points); inputs has each stream uint8
      [B, T, H, W, channels] by its name, `lengths` and one crop and mirror a clip.
    """
    num_classes, size, stack_length, branches, head, lstm_units, options = architecture
    streams = streams_of(branches)
    shapes = {s: input_shape(s, size, stack_length) for s in streams}
    inputs = placeholder_inputs(
        lengths=(tf.int32, [None]),
        **{s: (tf.uint8, [None, None, *shape]) for s, shape in shapes.items()},
        **CROP_INPUTS,
    )
    dropout = (inputs['keep_prob'], inputs['dropout_seed'])
    features, fc6 = {}, {}
    for stream in streams:
        with tf.name_scope(INPUTS_SCOPE):
            clips_and_steps = tf.shape(inputs[stream])[:2]
            images = tf.reshape(inputs[stream], [-1, *shapes[stream]])  # [B*T, H, W, .]
            draws = [
                tf.repeat(inputs[name], clips_and_steps[1]) for name in CROP_INPUTS
            ]
            images = augmentation.crop_and_mirror(images, STREAMS[stream].flow, *draws)
        _, cnn_points = cnn(stream, images, num_classes, *dropout, options)
        fc6[f'{stream}/fc6'] = cnn_points['fc6']  # [B*T, D]
        with tf.name_scope(INPUTS_SCOPE):
            features[stream] = over_time(cnn_points['fc6'], clips_and_steps)
    hybrid_form = (num_classes, branches, head, lstm_units)
    logits, end_points = hybrid(features, inputs['lengths'], *hybrid_form, *dropout)
    return inputs, logits, {**end_points, **fc6}


def classifier(stage, architecture, widths=None):
    """The graph that a stage trains and evaluation runs, from placeholders to logits.

    Args:
      stage: name of a stream, 'hybrid' or 'joint'.
      architecture: Architecture.
      widths: hybrid: dict stream -> D of its cached features.

    Returns:
      (inputs, logits [B, C], end_points), as the function of the stage says.
    """
    if stage in STREAMS:
        return cnn_classifier(stage, architecture)
    if stage == 'hybrid':
        return hybrid_classifier(widths, architecture)
    return joint_classifier(architecture)


# -- parameters ------------------------------------------------------------------------


def load_cnn(session, stream, directory, cross_modality=False):
    """Loads a stream's dump; returns the full names of the variables loaded."""
    network, scope = STREAMS[stream].network, STREAMS[stream].scope
    from_colour = cross_modality and STREAMS[stream].from_colour
    changes = {'cross_modality': True} if from_colour else {}
    report = network.load_weights(session, directory, scope, **changes)
    return {f'{scope}/{name}' for name in report.loaded}


def save_cnn(session, stream, directory, origin):
    """Saves a stream's CNN as a dump."""
    of_stream = STREAMS[stream]
    of_stream.network.save_weights(session, directory, of_stream.scope, origin)


def initialize(session, dumps, cross_modality=False):
    """Loads the CNNs of the graph that have a dump and starts everything else.

    Args:
      session: of the graph that `classifier` built.
      dumps: dict stream -> folder of a dump, for the CNNs to load.
      cross_modality: start a CNN on flow from a dump for colour frames.

    Returns:
      Names of the variables that came from dumps.
    """
    loaded = set()
    for stream, directory in dumps.items():
        loaded |= load_cnn(session, stream, directory, cross_modality)
    rest = [v for v in tf.global_variables() if v.op.name not in loaded]
    session.run([variable.initializer for variable in rest])
    return loaded


def set_variable(session, name, value):
    """Gives one variable another value."""
    layers.assign(session, {name: value})


def set_scales(session, scales):
    """Sets the scale of each stream's features, dict stream -> float."""
    for stream, scale in scales.items():
        set_variable(session, f'inputs/{stream}_scale', scale)


# -- loss and updates -----------------------------------------------------------------


def weight_decay(variables):
    """1/2 sum ||W||_F^2 over the matrices and filters among the variables."""
    matrices = [v for v in variables if v.shape.rank > 1]
    # not tf.add_n: of three or more tensors it adds first what comes with a buffer to
    # spare, so that the last bit may be another in another run
    return tf.reduce_sum([tf.nn.l2_loss(v) for v in matrices])


def clipped(gradients, clip_norm):
    """Gradients, scaled down together where their global norm exceeds clip_norm."""
    if clip_norm <= 0:
        return gradients
    norm = tf.linalg.global_norm(gradients)
    # it multiplies by 1 as well, which for a CNN is 6 % of a step
    return tf.cond(
        norm <= clip_norm,
        lambda: [tf.identity(gradient) for gradient in gradients],
        lambda: tf.clip_by_global_norm(gradients, clip_norm, norm)[0],
    )


def logged_scalars(logits, labels, variables, decay):
    """What is minimized and what is logged.

    Args:
      logits: float32 [B, C].
      labels: int32 [B].
      variables: what is trained.
      decay: lambda1, strength of the weight decay. W_E is decayed by its own step.

    Returns:
      dict of scalars by the name they have in the log; `loss` is what is minimized.
    """
    others = [v for v in variables if v.op.name != FUSION_WEIGHTS]
    scalars = {
        'cross_entropy': classification_loss(logits, labels),
        'weight_decay': decay * weight_decay(others),
    }
    scalars['loss'] = tf.reduce_sum(list(scalars.values()))
    right = tf.equal(tf.argmax(logits, 1, output_type=tf.int32), labels)
    scalars['accuracy'] = tf.reduce_mean(tf.cast(right, tf.float32))
    for weights in variables:
        if weights.op.name == FUSION_WEIGHTS:
            off = tf.equal(group_norms(weights), 0)
            scalars['fusion_units_off'] = tf.reduce_sum(tf.cast(off, tf.int32))
    return scalars


class Proximal(NamedTuple):
    """The proximal step of W_E: its learning rate, and lambda3, lambda2 and lambda1."""

    rate: tf.Tensor
    l1: float
    l21: float
    l2: float


class Update(tf.train.Optimizer):
    """One update of every variable, all from the same gradients, clipped together: the
    proximal step for the fusion weights W_E, an optimizer for the rest.

    It is an optimizer so that tf.train.SyncReplicasOptimizer can give it the mean of
    several workers' gradients: clipping and the proximal step are not linear, so they
    must see the mean. A variable that is not trained is assigned its "gradient": this
    is how the mean of what the workers log is obtained.
    """

    def __init__(self, optimizer, clip_norm, proximal):
        """Makes the update.

        Args:
          optimizer: tf.train.Optimizer.
          clip_norm: largest global norm of the gradients, 0 for no limit.
          proximal: Proximal.
        """
        super().__init__(use_locking=False, name='update')
        self._optimizer, self._clip_norm = optimizer, clip_norm
        self._proximal = proximal
        # the optimizer's own variables are named by the scope, and whoever calls
        # apply_gradients may be in another one
        scope = tf.get_default_graph().get_name_scope()
        self._scope = f'{scope}/' if scope else ''

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """The op that updates the variables, and then counts global_step if given."""
        pairs = list(grads_and_vars)
        trained = [(g, v) for g, v in pairs if v.trainable]
        # W_E last: the order of a sum is part of its last bit
        trained.sort(key=lambda pair: pair[1].op.name == FUSION_WEIGHTS)
        gradients, variables = zip(*trained, strict=True)
        trained = list(zip(clipped(gradients, self._clip_norm), variables, strict=True))
        others = [(g, v) for g, v in trained if v.op.name != FUSION_WEIGHTS]
        with tf.name_scope(self._scope):
            updates = [self._optimizer.apply_gradients(others)]
        assigned = [(v, g) for g, v in pairs if not v.trainable]
        for gradient, weights in trained[len(others) :]:
            with tf.device(weights.device):  # which may be a parameter server
                stepped = proximal_step(weights, gradient, *self._proximal)
            assigned.append((weights, stepped))
        for variable, value in assigned:
            with tf.device(variable.device):
                updates.append(variable.assign(value))
        if global_step is None:
            return tf.group(*updates)
        with tf.control_dependencies(updates), tf.device(global_step.device):
            return global_step.assign_add(1).op


def training(scalars, variables, update, global_step=None, logged=()):
    """The op of a training step.

    Args:
      scalars: dict of logged_scalars; all of it is computed before the update.
      variables: what is trained.
      update: Update, or an optimizer around one.
      global_step: variable that counts the updates, where something needs it.
      logged: pairs (value, variable not trained), averaged over the workers as the
        gradients are.

    Returns:
      The train op.
    """
    gradients = tf.gradients(scalars['loss'], variables)
    # the gradients wait for the rest, not the update, which may be another process's
    with tf.control_dependencies(list(scalars.values())):
        gradients = [g if g is None else tf.identity(g) for g in gradients]
    pairs = [*zip(gradients, variables, strict=True), *logged]
    return update.apply_gradients(pairs, global_step)
