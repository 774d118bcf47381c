"""The probabilities of clips: what is averaged, what a branch adds, what is refused."""

import types

import narrow
import numpy as np
import pytest
import tiny

from data import augmentation
from data import clips
from data import splits
from results import runs
from results import scoring
from weights import checkpoints


@pytest.fixture(scope='module', autouse=True)
def narrow_networks(tiny_runs):
    """Narrow networks for the whole file; the runs are made before, so as not twice."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        narrow.patch(monkeypatch)
        yield


@pytest.fixture(scope='module')
def score(tiny_runs):
    """Scores the first test clips of a tiny run: stage, count -> dict of arrays."""

    def run_score(stage='hybrid', count=None, batch_size=16, **protocol):
        run = runs.read(tiny_runs / stage)
        index = clips.read_index(tiny_runs / 'data')
        split = splits.load(index, run['flags']['split_dir'])
        checkpoint, _ = checkpoints.latest(tiny_runs / stage)
        data_dir = str(tiny_runs / 'data')
        protocol = scoring.Protocol(**{'test_segments': 5, **protocol})
        given = (split.test[:count], index, protocol, batch_size)
        return scoring.score(run, checkpoint, data_dir, *given, workers=2)

    return run_score


@pytest.fixture(scope='module')
def scores(score):
    """The hybrid's probabilities by name."""
    return score()


def test_branches_are_parts_of_the_sum(scores):
    # logits = part + rest, so p ~ softmax(part) softmax(rest)
    for branch in ('spatial_lstm', 'motion_lstm', 'fusion'):
        product = scores[branch].astype(float) * scores[f'without_{branch}']
        product /= product.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(product, scores['video'], atol=1e-5)


def test_all_are_probabilities_of_every_clip(scores):
    assert list(scores)[:2] == ['video', 'one_sample'] and len(scores) == 8
    for name, found in scores.items():
        assert found.shape == (12, len(tiny.CLASSES)), name
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert np.abs(scores['video'] - scores['one_sample']).max() > 1e-3


def test_batches_do_not_matter(score, scores):
    alone = score(count=3, batch_size=1)
    for name, expected in scores.items():
        np.testing.assert_allclose(alone[name], expected[:3], atol=1e-5)


def test_one_sample_of_a_cnn_is_its_middle_one(score):
    many, one = score('motion', 4), score('motion', 4, test_segments=1)
    np.testing.assert_allclose(one['video'], one['one_sample'], atol=1e-6)
    assert np.abs(many['video'] - many['one_sample']).max() > 1e-4


def test_ten_crops_are_five_and_their_mirrors():
    found = list(scoring.crop_inputs(2, 10))
    drawn = {(c['place'][1].item(), c['mirrored'][1].item()) for c in found}
    assert drawn == {(place, mirror) for place in range(5) for mirror in (False, True)}
    assert all((crop['crop_scale'] == 0.875).all() for crop in found)
    assert len(list(scoring.crop_inputs(2, 5))) == 5
    (whole,) = scoring.crop_inputs(2, 1)
    for name, expected in augmentation.whole_images(2).items():
        np.testing.assert_array_equal(whole[name], expected)


@pytest.mark.parametrize('crops', [1, 5, 10])
def test_a_clip_is_the_mean_of_its_samples_and_crops(graph, crops):
    """A network whose answer says what it was fed, in numpy."""
    names = ('images', 'keep_prob', 'dropout_seed', *augmentation.whole_images(1))
    inputs = {name: name for name in names}

    def answer(_, feed):
        assert feed['keep_prob'] == 1
        place = 10 * feed['mirrored'] + feed['place']
        return np.stack([feed['images'][:, 0], place, feed['crop_scale']], axis=1)

    session = types.SimpleNamespace(run=answer)
    images = np.float32([[3], [5], [13]])  # [T, 1]
    network = (inputs, np.zeros([1, 3], np.float32), {})
    (found,) = scoring.score_cnn(session, network, [images], crops)
    expected = {1: [7, 0, 1], 5: [7, 2, 0.875], 10: [7, 7, 0.875]}[crops]
    np.testing.assert_allclose(found['video'], expected)
    np.testing.assert_allclose(found['one_sample'], [5, 0, 1])


def test_every_clip_has_a_finite_score():
    examples = [splits.Example('A/a', 0, '1'), splits.Example('A/b', 0, '1')]
    score = {'video': np.array([0.5, 0.5])}
    scoring.check_scores([score, score], examples)
    with pytest.raises(ValueError, match='1 clips were scored, the split has 2'):
        scoring.check_scores([score], examples)
    nan = {'video': np.array([np.nan, 0.5])}
    with pytest.raises(ValueError, match='A/b: .* no finite probability'):
        scoring.check_scores([score, nan], examples)
