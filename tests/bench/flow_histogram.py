"""The floor of the tables of real.py: histograms of optical flow, ridge regression.

    features = flow_histogram.describe_clips(data_dir, names)
    labels, strength = flow_histogram.classify(features, split)

A clip is cut into thirds and each field of flow into 4 x 4 cells. A cell counts the
directions of its flow in 8 bins, weighted by magnitude (as histograms of oriented
flow, Dalal, Triggs and Schmid, ECCV 2006); the mean over each third and the square
root make 3 * 4 * 4 * 8 = 384 numbers a clip. A network that is not better than a linear
classifier on these is not worth its training.
"""

import numpy as np
import scipy.linalg
import tqdm

from data import clips

THIRDS = 3  # parts of a clip
CELLS = 4  # along each side of a field
DIRECTIONS = 8  # bins, the first centred on motion to the right, the third on down
STRENGTHS = 10.0 ** np.arange(-2, 6)  # of the penalty, on standardized features
PARTS = 20  # at most, in which the train groups are held out


def histogram(field):
    """Directions of one field in each cell, weighted by magnitude.

    Args:
      field: uint8 [H, W, 2], flow as stored.

    Returns:
      float [CELLS, CELLS, DIRECTIONS] (row, column, direction): the magnitude, in
      stored levels, summed over the cell and divided by the pixels of a mean cell.
    """
    height, width, _ = field.shape
    flow = field.astype(np.float32) - clips.FLOW_ZERO
    turns = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi)
    direction = np.rint(turns * DIRECTIONS).astype(int) % DIRECTIONS
    row = np.arange(height)[:, np.newaxis] * CELLS // height
    column = np.arange(width) * CELLS // width
    place = (row * CELLS + column) * DIRECTIONS + direction
    magnitude = np.hypot(flow[..., 0], flow[..., 1])
    sums = np.bincount(place.ravel(), magnitude.ravel(), CELLS * CELLS * DIRECTIONS)
    shape = CELLS, CELLS, DIRECTIONS
    return sums.reshape(shape) * (CELLS * CELLS / (height * width))


def describe(flow):
    """The features of one clip.

    Args:
      flow: uint8 [T - 1, H, W, 2], at least one field.

    Returns:
      float [THIRDS, CELLS, CELLS, DIRECTIONS]: the square root of the mean histogram
      of each third; a third of a very short clip is the field nearest to it.
    """
    fields = np.stack([histogram(field) for field in flow])
    starts = np.arange(THIRDS + 1) * len(fields) // THIRDS
    ends = np.maximum(starts[1:], starts[:-1] + 1)
    means = [fields[a:b].mean(axis=0) for a, b in zip(starts, ends, strict=False)]
    return np.sqrt(means)


def describe_clips(data_dir, names):
    """The features of stored clips, float [N, THIRDS, CELLS, CELLS, DIRECTIONS]."""
    progress = tqdm.tqdm(names, 'flow histograms', unit='clip', disable=None)
    return np.stack([describe(clips.read_flow(data_dir, name)) for name in progress])


def mirror(features):
    """Features of the mirrored clips: columns exchanged, x negated.

    Args:
      features: float [N, THIRDS, CELLS, CELLS, DIRECTIONS].
    """
    # a direction at angle a is seen at half a turn minus a
    direction = (DIRECTIONS // 2 - np.arange(DIRECTIONS)) % DIRECTIONS
    return features[:, :, :, ::-1][..., direction]


def fit(inputs, labels, num_classes, strengths):
    """Ridge regression of one-of-C targets on standardized inputs, with intercept.

    min_W ||Z W - (Y - mean Y)||^2 + strength ||W||^2, Z = (inputs - mean) / deviation,
    has the solution W = (Z'Z + strength I)^-1 Z'(Y - mean Y); one eigenvalue
    decomposition of Z'Z serves every strength.

    Args:
      inputs: float [N, D].
      labels: int [N].
      num_classes: int C.
      strengths: list of K positive numbers.

    Returns:
      List of K pairs (weights float [D, C], intercept float [C]) for inputs as given:
      scores = inputs @ weights + intercept.
    """
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0)
    deviation = np.where(deviation > 0, deviation, 1)  # a constant says nothing
    standard = (inputs - mean) / deviation
    targets = np.eye(num_classes)[labels]
    prior = targets.mean(axis=0)
    values, vectors = scipy.linalg.eigh(standard.T @ standard)
    projected = vectors.T @ (standard.T @ (targets - prior))
    fits = []
    for strength in strengths:
        weights = vectors @ (projected / (values + strength)[:, np.newaxis])
        weights /= deviation[:, np.newaxis]
        fits.append((weights, prior - mean @ weights))
    return fits


def fit_mirrored(features, labels, num_classes, strengths):
    """`fit` on the clips and their mirror images, as the networks are trained."""
    both = np.concatenate([features, mirror(features)])
    inputs = both.reshape(len(both), -1)
    return fit(inputs, np.concatenate([labels, labels]), num_classes, strengths)


def predict(features, weights, intercept):
    """int [N], the class with the highest score."""
    scores = features.reshape(len(features), -1) @ weights + intercept
    return scores.argmax(axis=1)


def choose_strength(features, labels, groups, num_classes):
    """The strength that has most clips of held-out groups right.

    Each group is held out once, in at most PARTS rounds; of equal strengths the
    greatest is taken.

    Args:
      features: float [N, THIRDS, CELLS, CELLS, DIRECTIONS].
      labels: int [N].
      groups: list of N group names.
      num_classes: int.

    Raises:
      ValueError: there is one group alone.
    """
    names, number = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f'all train clips are of group "{names[0]}", so none can be held out to '
            'choose the strength of the ridge regression: check --group_regex'
        )
    right = np.zeros(len(STRENGTHS), int)
    for part in range(min(PARTS, len(names))):
        held_out = number % PARTS == part
        fits = fit_mirrored(
            features[~held_out], labels[~held_out], num_classes, STRENGTHS
        )
        for place, found in enumerate(fits):
            predicted = predict(features[held_out], *found)
            right[place] += (predicted == labels[held_out]).sum()
    return float(STRENGTHS[np.flatnonzero(right == right.max())[-1]])


def classify(features, split):
    """Fits the train side and predicts the test side.

    Args:
      features: dict clip -> float [THIRDS, CELLS, CELLS, DIRECTIONS].
      split: splits.Split.

    Returns:
      (predicted labels int [N] of split.test, strength that was chosen).
    """
    inputs = np.stack([features[example.clip] for example in split.train])
    labels = np.array([example.label for example in split.train])
    groups = [example.group for example in split.train]
    count = len(split.class_names)
    strength = choose_strength(inputs, labels, groups, count)
    (found,) = fit_mirrored(inputs, labels, count, [strength])
    tested = np.stack([features[example.clip] for example in split.test])
    return predict(tested, *found), strength
