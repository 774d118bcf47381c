"""Figures against scikit-learn, closed forms and cases worked by hand."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics

from results import measures


@pytest.fixture
def predictions():
    """(probabilities [N, C], labels [N]) of random scores, ties among them."""
    random = np.random.default_rng(1)
    labels = np.concatenate([np.arange(7), random.integers(0, 7, 93)])
    scores = random.normal(size=(100, 7)) + 1.5 * np.eye(7)[labels]
    # one decimal, so that many clips tie in each class
    probabilities = np.round(np.exp(scores) / np.exp(scores).sum(1, keepdims=True), 1)
    return probabilities, labels


@pytest.mark.parametrize('k', [1, 3, 5])
def test_top_k(predictions, k):
    probabilities, labels = predictions
    untied = probabilities + 1e-6 * np.random.default_rng(2).random((100, 7))
    expected = sklearn.metrics.top_k_accuracy_score(labels, untied, k=k)
    assert measures.top_k_accuracy(untied, labels, k) == pytest.approx(expected)


def test_top_5_of_three_classes_is_everything():
    assert measures.top_k_accuracy(np.eye(3), np.array([1, 2, 0]), 5) == 1


def test_confusion_and_class_accuracy(predictions):
    probabilities, labels = predictions
    found = probabilities.argmax(axis=1)
    matrix = measures.confusion_matrix(found, labels, 7)
    expected = sklearn.metrics.confusion_matrix(labels, found, labels=range(7))
    np.testing.assert_array_equal(matrix, expected)
    np.testing.assert_allclose(
        np.mean(measures.class_accuracies(matrix)),
        sklearn.metrics.balanced_accuracy_score(labels, found),
    )


def test_average_precision_with_ties(predictions):
    probabilities, labels = predictions
    expected = sklearn.metrics.average_precision_score(
        np.eye(7)[labels], probabilities, average=None
    )
    found = measures.average_precisions(probabilities, labels)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_average_precision_by_hand():
    # falling scores of class 0: right, wrong, right, wrong, right
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    probabilities = np.stack([scores, 1 - scores], axis=1)
    labels = np.array([0, 1, 0, 1, 0])
    # class 1, falling: wrong, right, wrong, right, wrong
    expected = [(1 / 1 + 2 / 3 + 3 / 5) / 3, (1 / 2 + 2 / 4) / 2]
    found = measures.average_precisions(probabilities, labels)
    np.testing.assert_allclose(found, expected)


def test_a_class_without_clips_counts_nowhere():
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]])
    figures = measures.measure(probabilities, np.array([0, 0]), ['a', 'b'], list('xyz'))
    assert figures['mean_class_accuracy'] == 0.5
    assert figures['mean_average_precision'] == 1.0
    assert figures['per_class']['y'] == {
        'clips': 0,
        'accuracy': None,
        'average_precision': None,
    }


@pytest.mark.parametrize('right, count', [(0, 30), (26, 30), (30, 30), (3000, 3783)])
def test_wilson(right, count):
    # the roots of (p - x)^2 = z^2 x (1 - x) / n
    z, p = scipy.stats.norm.ppf(0.975), right / count
    middle = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(p * (1 - p) / count + z * z / (4 * count**2))
    half /= 1 + z * z / count
    found = measures.wilson_interval(right, count)
    np.testing.assert_allclose(found, [middle - half, middle + half], atol=1e-12)


def test_group_interval_of_single_clips_is_the_ordinary_bootstrap():
    right = np.random.default_rng(3).random(200) < 0.7
    found = measures.group_interval(right, [str(n) for n in range(200)])
    expected = scipy.stats.bootstrap(
        (right.astype(float),), np.mean, method='percentile', rng=4
    ).confidence_interval
    np.testing.assert_allclose(found, expected, atol=0.012)


def test_group_interval_knows_that_groups_are_alike():
    # 50 groups of 8 clips, all right or all wrong: 50 facts, not 400
    of_group = np.random.default_rng(5).random(50) < 0.6
    right, groups = np.repeat(of_group, 8), np.repeat(np.arange(50), 8)
    low, high = measures.group_interval(right, groups)
    clip_low, clip_high = measures.wilson_interval(int(right.sum()), 400)
    assert (high - low) / (clip_high - clip_low) == pytest.approx(math.sqrt(8), rel=0.1)


def test_compare_by_hand():
    # 8 clips only this run has right, 2 only the other, 5 both, 5 neither
    right = np.repeat([True, False, True, False], [8, 2, 5, 5])
    other = np.repeat([False, True, True, False], [8, 2, 5, 5])
    found = measures.compare(right, other, list(range(20)))
    assert found['only_this_right'] == 8 and found['only_other_right'] == 2
    assert found['difference'] == pytest.approx(6 / 20)
    # two-sided: 2 (C(10, 0) + C(10, 1) + C(10, 2)) / 2^10
    assert found['mcnemar_p'] == pytest.approx(2 * (1 + 10 + 45) / 1024)
    low, high = found['difference_group_bootstrap_95']
    assert low < 0.3 < high


def test_compare_is_paired():
    # both runs vary much from clip to clip, but together: the difference is sure
    other = np.random.default_rng(6).random(400) < 0.5
    right = other.copy()
    right[np.flatnonzero(~other)[:20]] = True
    low, high = measures.compare(right, other, range(400))[
        'difference_group_bootstrap_95'
    ]
    assert low > 0.02 and high < 0.08


def test_equal_runs_do_not_differ():
    right = np.array([True, False, True])
    found = measures.compare(right, right, list('abc'))
    assert found['mcnemar_p'] == 1 and found['difference'] == 0
    assert found['difference_group_bootstrap_95'] == [0, 0]


def test_confused_pairs():
    matrix = np.array([[9, 2, 0], [5, 9, 1], [0, 0, 9]])
    assert measures.confused_pairs(matrix, 2) == [(1, 0, 5), (0, 1, 2)]
    assert measures.confused_pairs(matrix, 9) == [(1, 0, 5), (0, 1, 2), (1, 2, 1)]
    assert matrix[0, 0] == 9


def test_searched_combination_is_the_best_of_a_grid():
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 60)
    good, noise = 1.5 * np.eye(3)[labels], random.normal(size=(2, 60, 3))
    logits = np.stack([good + noise[0], good + 1.5 * noise[1]])
    p = scipy.special.softmax(logits, axis=2)

    def cross_entropy(share):
        mixed = share * p[0] + (1 - share) * p[1]
        return -np.log(mixed[np.arange(60), labels]).mean()

    share, rest = measures.searched_combination(p, labels)
    assert abs(share + rest - 1) < 1e-9
    grid = np.linspace(0.001, 0.999, 999)
    best = grid[np.argmin([cross_entropy(s) for s in grid])]
    assert 0.5 < best < 0.999  # else the grid's edge would be compared
    assert abs(share - best) < 2e-3
