"""What a set of predictions is worth: accuracies, precision, intervals, paired tests.

    figures = measures.measure(probabilities, labels, groups, class_names)

Used by evaluate.py, and by train.py in validation. Plain numpy and scipy: nothing here
knows of networks or files.
"""

import numpy as np
import scipy.optimize
import scipy.stats

RESAMPLES = 1000  # bootstrap samples of an interval over groups


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
    """int [C, C]: row = true class, column = predicted class."""
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


def group_interval(values, groups, seed=0):
    """95 % bootstrap interval of a mean that draws whole groups.

    Clips of one group come from one recording and are right or wrong together, so an
    interval over clips is too narrow.

    Args:
      values: float or bool [N]: right or not; or the difference of two runs.
      groups: list of N group names.
      seed: int.
    """
    _, group = np.unique(groups, return_inverse=True)
    clips_of = np.bincount(group)
    total_of = np.bincount(group, weights=values)
    random = np.random.default_rng(seed)
    drawn = random.integers(0, len(clips_of), [RESAMPLES, len(clips_of)])
    means = total_of[drawn].sum(axis=1) / clips_of[drawn].sum(axis=1)
    return [float(x) for x in np.percentile(means, [2.5, 97.5])]


def compare(right, other, groups):
    """Two runs on the same clips: difference in accuracy, its interval, McNemar's test.

    The exact test (McNemar 1947, by the binomial) asks whether, of the clips that only
    one run has right, more belong to one run than chance would give it. It takes clips
    as independent; the interval draws whole groups and does not.

    Args:
      right, other: bool [N], whether each run has a clip right.
      groups: list of N group names.

    Returns:
      dict: `difference` of this run's accuracy and the other's, its
      `difference_group_bootstrap_95`, `only_this_right` and `only_other_right` counts,
      and `mcnemar_p`.
    """
    right, other = np.asarray(right), np.asarray(other)
    only_this = int((right & ~other).sum())
    only_other = int((other & ~right).sum())
    differ = only_this + only_other
    test = scipy.stats.binomtest(only_this, differ) if differ else None
    difference = right.astype(float) - other
    return {
        'difference': float(difference.mean()),
        'difference_group_bootstrap_95': group_interval(difference, groups),
        'only_this_right': only_this,
        'only_other_right': only_other,
        'mcnemar_p': float(test.pvalue) if test else 1.0,
    }


def searched_combination(probabilities, labels):
    """The linear combination of softmaxes with the least cross entropy.

    Args:
      probabilities: float [K, N, C], or a list of K [N, C], one a branch.
      labels: int [N].

    Returns:
      Weights float [K], at least 0, of sum 1.
    """
    clips = np.arange(len(labels))
    p = np.stack([branch[clips, labels] for branch in probabilities])  # [K, N]
    # convex in the weights, on the simplex
    found = scipy.optimize.minimize(
        lambda a: -np.log(a @ p + 1e-12).mean(),
        np.full(len(p), 1 / len(p)),
        method='SLSQP',
        bounds=[(0, 1)] * len(p),
        constraints={'type': 'eq', 'fun': lambda a: a.sum() - 1},
        options={'ftol': 1e-9},
    )
    return found.x


def confused_pairs(matrix, count):
    """The `count` most frequent confusions: list of (true, predicted, clips)."""
    wrong = np.array(matrix)
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind='stable')[:count]
    pairs = zip(*np.unravel_index(order, wrong.shape), strict=True)
    return [(int(r), int(c), int(wrong[r, c])) for r, c in pairs if wrong[r, c]]


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
    }
