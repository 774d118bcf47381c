"""Training steps and features against the same networks in PyTorch.

    pip install torch --index-url https://download.pytorch.org/whl/cpu
    python -m tests.bench.bench_torch [--quick]

1. An LSTM training step: B 32, T 25, D 4096, U 1024, mean square of the last output.
2. A CNN-M-2048 training step: 16 stacks of ten flow fields at 224 pixels, cross
   entropy, weight decay, gradients clipped, momentum. Ours reads, crops and mirrors
   its stacks from stored clips; PyTorch's has one batch of floats, given once.
3. fc7 of VGG-19 for 8 frames of 224 pixels.

PyTorch's networks get our initial weights, and the first outputs must agree. The runs
take turns, so whatever else the machine does meets both. Wanted: the LSTM and VGG-19 no
slower than PyTorch's, CNN-M 1.5 times as fast. Where PyTorch is not
installed there is one line that says so.

--quick measures smaller sizes, to see that it runs.
"""

import functools
import itertools
import os
import tempfile

import numpy as np
from absl import flags

from results import command_line

with command_line.tensorflow_in_silence():
    import tensorflow.compat.v1 as tf

import model
import train
import vgg
from data import feeds
from data import splits
from tests.bench import bench_training
from tests.bench import bench_vgg
from tests.bench import table

try:
    import torch
except ModuleNotFoundError:
    torch = None

RATE, MOMENTUM, DECAY, CLIP_NORM = 1e-3, 0.9, 5e-4, 10.0


def define_flags():
    """Defines the flags; called under __main__ alone, so importing adds none."""
    flags.DEFINE_bool('quick', False, 'Smaller sizes, to see that it runs.')
    flags.DEFINE_integer('rounds', 5, 'Measurements of each.', 1)


def filters(array):
    """Convolution weights [h, w, in, out] as PyTorch has them, [out, in, h, w]."""
    return torch.tensor(array.transpose(3, 2, 0, 1))


def matrix(array, maps=None):
    """Weights [in, out] of a layer as [out, in]; maps [h, w, d] is the shape that its
    input was flattened from, which is [d, h, w] in PyTorch."""
    if maps:
        array = array.reshape(*maps, -1).transpose(2, 0, 1, 3)
    return torch.tensor(array.reshape(-1, array.shape[-1]).T.copy())


def set_layer(layer, weights, biases):
    """Gives a PyTorch layer its weights."""
    with torch.no_grad():
        layer.weight.copy_(weights)
        layer.bias.copy_(torch.tensor(biases))


# -- LSTM -----------------------------------------------------------------------------


def lstm_steps(batch, steps, depth, units):
    """(our training step, PyTorch's, functions without arguments; multiply-adds)."""
    features = np.random.RandomState(0).rand(batch, steps, depth).astype(np.float32)
    inputs = tf.placeholder(tf.float32, [None, None, depth])
    _, last = model.lstm(inputs, tf.fill([tf.shape(inputs)[0]], steps), units)
    loss = tf.reduce_mean(tf.square(last))
    train_op = tf.train.GradientDescentOptimizer(RATE).minimize(loss)
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    values = session.run({v.op.name: v for v in tf.trainable_variables()})

    network = torch.nn.LSTM(depth, units, batch_first=True)
    optimizer = torch.optim.SGD(network.parameters(), RATE)
    # gates are i, j, f, o here and i, f, j, o there; the forget gate's 1 is a bias
    order = np.r_[0:1, 2:3, 1:2, 3:4]
    blocks = (order[:, np.newaxis] * units + np.arange(units)).ravel()
    bias = values['bias'][blocks]
    bias[units : 2 * units] += 1
    with torch.no_grad():
        network.weight_ih_l0.copy_(torch.tensor(values['kernel'][:, blocks].T))
        network.weight_hh_l0.copy_(
            torch.tensor(values['recurrent_kernel'][:, blocks].T)
        )
        network.bias_ih_l0.copy_(torch.tensor(bias))
        network.bias_hh_l0.zero_()
    given = torch.tensor(features)
    first = network(given)[0][:, -1].detach().numpy()
    np.testing.assert_allclose(session.run(last, {inputs: features}), first, atol=1e-5)

    def theirs():
        optimizer.zero_grad()
        network(given)[0][:, -1].square().mean().backward()
        optimizer.step()

    used = bench_training.lstm_multiply_adds(batch, steps, depth, units)
    return lambda: session.run(train_op, {inputs: features}), theirs, used


# -- CNN-M ----------------------------------------------------------------------------


def torch_cnn_m(values, channels, size):
    """CNN-M-2048 with our weights; its input is [N, channels, size, size]."""
    nn = torch.nn
    norm = [nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2)]
    pool = [nn.MaxPool2d(3, 2, ceil_mode=True)]
    form = {  # filters, size, stride, padding, what follows
        'conv1': (96, 7, 2, 0, norm + pool),
        'conv2': (256, 5, 2, 1, norm + pool),
        'conv3': (512, 3, 1, 1, []),
        'conv4': (512, 3, 1, 1, []),
        'conv5': (512, 3, 1, 1, pool),
    }
    parts, depth = [], channels
    for name, (count, side, stride, padding, after) in form.items():
        layer = nn.Conv2d(depth, count, side, stride, padding)
        weights, biases = (values[f'{name}/{kind}'] for kind in ('weights', 'biases'))
        set_layer(layer, filters(weights), biases)
        parts += [layer, nn.ReLU(), *after]
        depth = count
    maps = nn.Sequential(*parts)(torch.zeros(1, channels, size, size)).shape[1:]
    shape = [maps[1], maps[2], maps[0]]
    parts.append(nn.Flatten())
    for name in ('fc6', 'fc7', 'fc8'):
        weights, biases = (values[f'{name}/{kind}'] for kind in ('weights', 'biases'))
        layer = nn.Linear(*weights.shape)
        set_layer(layer, matrix(weights, shape if name == 'fc6' else None), biases)
        parts.append(layer)
        if name != 'fc8':
            parts += [nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(*parts)


def cnn_m_steps(data_dir, batch, size):
    """(our training step with reading, PyTorch's from one batch, multiply-adds)."""
    stream, classes = model.STREAMS['motion'], bench_training.CLASSES
    rows = bench_training.store_clips(data_dir, 2 * batch, 40, size)
    examples = [
        splits.Example(row['clip'], n % classes, row['clip'])
        for n, row in enumerate(rows)
    ]
    by_clip = {row['clip']: row for row in rows}
    length = bench_training.LENGTH
    form = model.Architecture(classes, size, length, [], 'concat', [], {})
    update = {**bench_training.FLAGS_OF_UPDATE, 'weight_decay': DECAY}
    graph = train.build({'stage': 'motion', **update}, form, {})
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    values = session.run(
        {v.op.name.removeprefix(f'{stream.scope}/'): v for v in graph.variables}
    )
    requests = feeds.training_requests(
        examples, by_clip, batch, 0, 0.5, span=stream.span(length)
    )
    read = feeds.image_reader(data_dir, stream, length)
    found = feeds.read(map(requests, itertools.count()), read, bench_training.WORKERS)

    whole = {**next(found), **feeds.deterministic_feed(batch)}
    stacks = (whole['images'].astype(np.float32) - 128) / 20
    given = torch.tensor(stacks.transpose(0, 3, 1, 2).copy())
    labels = torch.tensor(whole['labels'], dtype=torch.int64)
    network = torch_cnn_m(values, stacks.shape[-1], size)
    optimizer = torch.optim.SGD(
        network.parameters(), RATE, MOMENTUM, weight_decay=DECAY
    )
    network.eval()
    np.testing.assert_allclose(
        session.run(graph.logits, train.feed_of(graph, whole)),
        network(given).detach().numpy(),
        rtol=1e-3,
        atol=1e-3,
    )
    network.train()

    def ours():
        feed = {**train.feed_of(graph, next(found)), graph.rate: RATE}
        session.run([graph.scalars, graph.train_op], feed)

    def theirs():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(given), labels).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()

    count = functools.partial(
        bench_vgg.multiply_adds, graph.variables, graph.end_points
    )  # forward and both gradients; nobody needs that of the stacks
    used = batch * (3 * count(stream.layers) - count(['conv1']))
    return ours, theirs, used


# -- VGG-19 ---------------------------------------------------------------------------


def vgg_features(batch, size):
    """(our fc7 of a batch of frames, PyTorch's, multiply-adds)."""
    random = np.random.RandomState(0)
    frames = random.randint(0, 256, [batch, size, size, 3]).astype(np.uint8)
    images = tf.placeholder(tf.uint8, frames.shape)
    _, end_points = vgg.vgg_19(images)
    session = tf.Session()
    session.run(tf.global_variables_initializer())
    values = session.run({v.op.name: v for v in tf.global_variables()})
    values = {name.removeprefix('vgg_19/'): value for name, value in values.items()}
    parts, depth = [], 3
    for name in vgg.LAYERS[:-1]:
        weights, biases = (values[f'{name}/{kind}'] for kind in ('weights', 'biases'))
        if name.startswith('conv'):
            layer = torch.nn.Conv2d(depth, len(biases), 3, padding=1)
            set_layer(layer, filters(weights), biases)
            depth = len(biases)
            block = [n for n in vgg.LAYERS if n.startswith(name[:6])]
            parts += [layer, torch.nn.ReLU()]
            parts += [torch.nn.MaxPool2d(2, ceil_mode=True)] * (name == block[-1])
        else:
            maps = [int(n) for n in end_points['pool5'].shape[1:]]
            layer = torch.nn.Linear(*weights.shape)
            set_layer(layer, matrix(weights, maps if name == 'fc6' else None), biases)
            parts += [torch.nn.Flatten()] * (name == 'fc6') + [layer, torch.nn.ReLU()]
    network = torch.nn.Sequential(*parts).eval()

    @torch.no_grad()
    def theirs():
        x = torch.tensor(frames.astype(np.float32) - values['mean'])
        return network(x.permute(0, 3, 1, 2).contiguous()).numpy()

    def ours():
        return session.run(end_points['fc7'], {images: frames})

    # random weights give outputs in the hundreds, and rounding grows with the largest
    expected = theirs()
    largest = np.abs(expected).max()
    np.testing.assert_allclose(ours(), expected, rtol=0, atol=2e-5 * largest)
    variables = tf.trainable_variables()
    used = batch * bench_vgg.multiply_adds(variables, end_points, vgg.LAYERS[:-1])
    return ours, theirs, used


# -- all ------------------------------------------------------------------------------


def compare(what, ours, theirs, used, rounds):
    """Prints a row of the table."""
    print(bench_vgg.compare(what, ours, 'PyTorch', theirs, used, rounds)[0])


def main(values):
    """Prints the table."""
    if torch is None:
        what = 'LSTM and CNN-M-2048 training steps, VGG-19 fc7, against PyTorch'
        print(table.HEAD, table.missing(what, 'PyTorch is not installed'), sep='\n')
        return
    quick, rounds = values.quick, values.rounds
    print(f'{os.cpu_count()} cores, TensorFlow {tf.__version__}, PyTorch ', end='')
    print(torch.__version__, table.HEAD, sep='\n\n')
    torch.manual_seed(0)
    with tf.Graph().as_default():
        shape = (4, 5, 64, 32) if quick else (32, 25, 4096, 1024)
        what = 'LSTM training step, B {} T {} D {} U {}'.format(*shape)
        compare(what, *lstm_steps(*shape), rounds)
    with tf.Graph().as_default(), tempfile.TemporaryDirectory() as data_dir:
        batch, size = (2, 64) if quick else (16, 224)
        what = f'CNN-M-2048 training step with reading, B {batch}, {size} pixels'
        compare(what, *cnn_m_steps(data_dir, batch, size), rounds)
    with tf.Graph().as_default():
        batch, size = (2, 64) if quick else (8, 224)
        what = f'VGG-19 fc7 of {batch} frames, {size} pixels'
        compare(what, *vgg_features(batch, size), rounds)


if __name__ == '__main__':
    define_flags()
    command_line.run(main)
