"""Probabilities that mean something: the temperature, and how far off they are.

    temperature = calibration.fitted_temperature(probabilities, labels)
    probabilities = calibration.tempered(probabilities, temperature)

Source: Guo et al., 'On calibration of modern neural networks', ICML 2017. Networks are
more confident than they are accurate. One number, fitted on clips that were not trained
on, corrects most of it and changes no predicted class.

A folder of checkpoints keeps its temperature in temperature.json, with the name of the
checkpoint that it was fitted for.
"""

import json
import os

import numpy as np
import scipy.optimize

from results import runs

BINS = 15  # of confidence, as in the source
LEAST, MOST = 0.05, 20.0  # temperatures that are tried


def tempered(probabilities, temperature):
    """p^(1/T) / sum p^(1/T), which for p = softmax(x) is softmax(x / T).

    Args:
      probabilities: float [..., C].
      temperature: T above 0; above 1 makes them less certain.

    Returns:
      float64 [..., C].
    """
    # a probability that float32 rounded to 0 would stay 0 at every temperature
    log_p = np.log(np.maximum(np.asarray(probabilities, np.float64), 1e-30))
    scaled = log_p / temperature
    exponents = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return exponents / exponents.sum(axis=-1, keepdims=True)


def fitted_temperature(probabilities, labels):
    """The temperature with the least cross entropy.

    Args:
      probabilities: float [N, C] of clips that were not trained on.
      labels: int [N].
    """
    clips = np.arange(len(labels))

    def cross_entropy(log_temperature):
        p = tempered(probabilities, np.exp(log_temperature))[clips, labels]
        return -np.log(np.maximum(p, 1e-300)).mean()

    bounds = np.log([LEAST, MOST])
    found = scipy.optimize.minimize_scalar(
        cross_entropy, bounds=bounds, method='bounded'
    )
    return float(np.exp(found.x))


def reliability(probabilities, labels):
    """Accuracy and mean confidence of the clips in each bin of confidence.

    Confidence is the probability of the predicted class.

    Args:
      probabilities: float [N, C].
      labels: int [N].

    Returns:
      list of dict, one for each bin that has clips: 'from', 'to', 'clips',
      'confidence', 'accuracy'.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, BINS + 1)
    place = np.digitize(confidence, edges[1:-1], right=True)  # of (from, to]
    return [
        {
            'from': float(edges[n]),
            'to': float(edges[n + 1]),
            'clips': int((place == n).sum()),
            'confidence': float(confidence[place == n].mean()),
            'accuracy': float(right[place == n].mean()),
        }
        for n in np.unique(place)
    ]


def expected_calibration_error(bins):
    """sum_b n_b / N |accuracy_b - confidence_b| over the bins of `reliability`."""
    clips = sum(row['clips'] for row in bins)
    gaps = [row['clips'] * abs(row['accuracy'] - row['confidence']) for row in bins]
    return sum(gaps) / clips


def measure(probabilities, labels, temperature):
    """What evaluation.json says of calibration.

    Args:
      probabilities: float [N, C], before the temperature.
      labels: int [N].
      temperature: T, or None where none was fitted.

    Returns:
      dict: `temperature`, `ece_before`, `ece` and `bins`, the last two with the
      temperature.
    """
    before = reliability(probabilities, labels)
    bins = reliability(tempered(probabilities, temperature or 1.0), labels)
    return {
        'temperature': temperature,
        'ece_before': expected_calibration_error(before),
        'ece': expected_calibration_error(bins),
        'bins': bins,
    }


def unknown_shares(probabilities, labels, below):
    """What share of right and of wrong answers "none of these" takes the place of.

    Args:
      probabilities: float [N, C].
      labels: int [N].
      below: the probability below which the predicted class is not named.

    Returns:
      dict: `below`, and `right` and `wrong`, shares of the clips that were predicted
      right and wrong; None where there are none.
    """
    right = probabilities.argmax(axis=1) == labels
    unnamed = probabilities.max(axis=1) < below
    return {
        'below': below,
        'right': float(unnamed[right].mean()) if right.any() else None,
        'wrong': float(unnamed[~right].mean()) if not right.all() else None,
    }


# -- on disk ---------------------------------------------------------------------------


def path_of(checkpoint):
    """temperature.json in the folder of a checkpoint."""
    return os.path.join(os.path.dirname(checkpoint), 'temperature.json')


def write(checkpoint, temperature):
    """Keeps the temperature that was fitted for a checkpoint."""
    kept = {'checkpoint': os.path.basename(checkpoint), 'temperature': temperature}
    runs.write_json(path_of(checkpoint), kept)


def read(checkpoint):
    """The temperature of a checkpoint, None where none was fitted for it.

    Raises:
      ValueError: temperature.json is damaged.
    """
    path = path_of(checkpoint)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding='utf-8') as file:
            kept = json.load(file)
        temperature = float(kept['temperature'])
        if not LEAST <= temperature <= MOST:
            raise ValueError(f'{temperature} is no temperature')
        fitted_for = kept['checkpoint'] == os.path.basename(checkpoint)
        return temperature if fitted_for else None
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'{path} is damaged ({error}): delete it; the same train.py command fits '
            'it again'
        ) from error
