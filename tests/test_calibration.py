"""Temperature and calibration error against their definitions, and on disk."""

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from results import calibration


def drawn(count, classes, temperature, seed=0):
    """Probabilities of clips whose classes were drawn at a temperature."""
    random = np.random.default_rng(seed)
    scores = 2 * random.normal(size=[count, classes])
    truth = scipy.special.softmax(scores / temperature, axis=1)
    labels = np.array([random.choice(classes, p=p) for p in truth])
    return scores, labels


@pytest.mark.parametrize('temperature', [0.3, 1, 2.5])
def test_tempered_is_the_softmax_of_scores_over_t(temperature):
    scores, _ = drawn(50, 7, 1)
    found = calibration.tempered(scipy.special.softmax(scores, axis=1), temperature)
    expected = scipy.special.softmax(scores / temperature, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_temperature_changes_no_predicted_class_and_zeros_do_no_harm():
    p = np.float32([[0, 1, 0], [0.2, 0.5, 0.3]])
    found = calibration.tempered(p, 3.0)
    assert np.isfinite(found).all() and found.argmax(axis=1).tolist() == [1, 1]
    np.testing.assert_allclose(found.sum(axis=1), 1)


@pytest.mark.parametrize('temperature', [0.5, 1, 3])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature):
    scores, labels = drawn(20000, 5, temperature)
    p = scipy.special.softmax(scores, axis=1)
    assert calibration.fitted_temperature(p, labels) == pytest.approx(
        temperature, rel=0.05
    )


def test_the_temperature_is_where_the_slope_of_cross_entropy_is_zero():
    scores, labels = drawn(300, 4, 1.7, seed=5)
    p = scipy.special.softmax(scores, axis=1)
    found = calibration.fitted_temperature(p, labels)

    def slope(b):  # of mean(logsumexp(b x) - b x_label), with b = 1 / T
        p = scipy.special.softmax(b * scores, axis=1)
        return ((p * scores).sum(axis=1) - scores[np.arange(300), labels]).mean()

    expected = 1 / scipy.optimize.brentq(slope, 0.06, 19)
    assert found == pytest.approx(expected, rel=1e-4)


def test_labels_that_are_all_right_or_all_wrong_stay_within_bounds():
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    for labels in ([0, 1], [1, 0]):
        found = calibration.fitted_temperature(p, np.array(labels))
        assert calibration.LEAST <= found <= calibration.MOST


def test_calibration_error_of_a_worked_example():
    # confidences .55 (right, wrong), .95 (right, right, wrong)
    p = np.array([[0.55, 0.45], [0.45, 0.55], [0.95, 0.05], [0.05, 0.95], [0.95, 0.05]])
    labels = np.array([0, 0, 0, 1, 1])
    bins = calibration.reliability(p, labels)
    assert [row['clips'] for row in bins] == [2, 3]
    assert [row['accuracy'] for row in bins] == pytest.approx([0.5, 2 / 3])
    assert [row['confidence'] for row in bins] == pytest.approx([0.55, 0.95])
    assert all(row['from'] < row['confidence'] <= row['to'] for row in bins)
    expected = 2 / 5 * 0.05 + 3 / 5 * (0.95 - 2 / 3)
    assert calibration.expected_calibration_error(bins) == pytest.approx(expected)


def test_confidence_of_one_and_of_an_edge_are_in_a_bin():
    p = np.array([[1.0, 0.0], [0.6, 0.4]])
    bins = calibration.reliability(p, np.array([0, 0]))
    assert [row['to'] for row in bins] == pytest.approx([0.6, 1])


def test_clips_drawn_at_their_probabilities_have_hardly_an_error():
    scores, labels = drawn(20000, 5, 1)
    p = scipy.special.softmax(scores, axis=1)
    measured = calibration.measure(p, labels, None)
    assert measured['temperature'] is None
    assert measured['ece'] == measured['ece_before'] < 0.02
    # twice as certain as they should be; the temperature mends it
    certain = scipy.special.softmax(2 * scores, axis=1)
    measured = calibration.measure(certain, labels, 2.0)
    assert measured['ece_before'] > 0.1 and measured['ece'] < 0.02


def test_unknown_shares_are_counted():
    p = np.array([[0.9, 0.1], [0.55, 0.45], [0.6, 0.4], [0.3, 0.7]])
    labels = np.array([0, 0, 1, 0])
    found = calibration.unknown_shares(p, labels, 0.65)
    assert found == {'below': 0.65, 'right': 0.5, 'wrong': 0.5}
    found = calibration.unknown_shares(p[:2], labels[:2], 0.65)
    assert found == {'below': 0.65, 'right': 0.5, 'wrong': None}
    assert calibration.unknown_shares(p, labels, 0.0)['right'] == 0


def test_a_temperature_is_of_one_checkpoint(tmp_path, refused):
    checkpoint = str(tmp_path / 'model.ckpt-20')
    assert calibration.read(checkpoint) is None
    calibration.write(checkpoint, 1.5)
    assert calibration.read(checkpoint) == 1.5
    assert calibration.read(str(tmp_path / 'model.ckpt-30')) is None
    for text in ('{', '{}', '{"checkpoint": "model.ckpt-20", "temperature": 0}'):
        (tmp_path / 'temperature.json').write_text(text)
        refused(
            lambda: calibration.read(checkpoint),
            f'{tmp_path}/temperature.json is damaged',
            'delete it',
        )
