"""The hybrid at sizes where each axis has another length, for tests against numpy."""

import numpy as np
import tensorflow.compat.v1 as tf

import model

# odd and all different, so that swapped axes cannot pass
B, T, D, U1, U2, C = 5, 7, 6, 3, 2, 4
UNITS = (U1, U2)
LENGTHS = np.array([7, 1, 4, 6, 2], np.int32)
SIZE, STACK = 48, 2  # of what comes from pixels: H and W, L


def architecture(branches=None, head='concat', units=UNITS):
    branches = branches or model.all_branches()
    return model.Architecture(C, SIZE, STACK, branches, head, units, {})


def start(session, seed=0):
    """Random values for every trainable variable, biases too; {name: array}."""
    random = np.random.RandomState(seed)
    session.run(tf.global_variables_initializer())
    variables = tf.trainable_variables()
    arrays = [random.normal(0, 0.5, v.shape).astype('f') for v in variables]
    changes = [v.assign(a) for v, a in zip(variables, arrays, strict=True)]
    session.run(changes)  # one run: each costs time
    return {v.op.name: a for v, a in zip(variables, arrays, strict=True)}


def values_of(session):
    return session.run({v.op.name: v for v in tf.global_variables()})


def some_features(seed=1):
    random = np.random.RandomState(seed)
    return {s: random.normal(0, 1, [B, T, D]).astype('f') for s in model.STREAMS}


class Hybrid:
    """The hybrid on cached features of width D, in the default graph."""

    def __init__(self, branches=None, head='concat', units=UNITS):
        form = architecture(branches, head, units)
        widths = dict.fromkeys(model.streams_of(form.branches), D)
        self.inputs, self.logits, self.end_points = model.hybrid_classifier(
            widths, form
        )

    def feed(self, features, **changes):
        named = {
            'lengths': LENGTHS,
            'labels': np.array([0, 3, 1, 2, 0]),
            'keep_prob': 1.0,
            'dropout_seed': [0, 0],
            **features,
            **changes,
        }
        return {self.inputs[n]: v for n, v in named.items() if n in self.inputs}


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))
