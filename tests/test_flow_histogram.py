"""Flow histograms on fields made by hand, ridge regression against least squares."""

import numpy as np
import pytest

import optical_flow
from data import clips
from data import splits
from tests.bench import flow_histogram

# x and y of one step in each direction, from right by way of down
STEPS = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]


def still(fields=1, height=20, width=36):
    return np.full((fields, height, width, 2), clips.FLOW_ZERO, np.uint8)


def moved(direction, levels=10, **shape):
    """Fields in which everything moves in one of the eight directions."""
    flow = still(**shape).astype(int) + levels * np.array(STEPS[direction])
    return flow.astype(np.uint8)


def random_flow(fields=4):
    return np.random.default_rng(0).integers(1, 256, (fields, 20, 36, 2), np.uint8)


@pytest.mark.parametrize('direction', range(8))
def test_a_direction_has_its_bin(direction):
    found = flow_histogram.histogram(moved(direction)[0])
    length = 10 * np.hypot(*STEPS[direction])
    expected = np.zeros(8)
    expected[direction] = length  # in each cell, the mean over its pixels
    np.testing.assert_allclose(found, np.broadcast_to(expected, (4, 4, 8)), rtol=1e-6)


def test_a_moving_cell_is_the_only_one():
    field = still()[0]
    field[5:10, 27:36, 1] += 30  # row 1, column 3 of cells of 5 x 9
    found = flow_histogram.histogram(field)
    assert found[1, 3, 2] == pytest.approx(30)
    found[1, 3, 2] = 0
    assert not found.any()


def test_translation_of_a_drawn_patch():
    random = np.random.default_rng(1)
    ground = np.full((112, 112), 90, np.uint8)
    patch = np.repeat(
        np.repeat(random.integers(0, 256, (10, 10), np.uint8), 2, 0), 2, 1
    )
    frames = []
    for step in (0, 3):
        frame = ground.copy()
        frame[60 : 60 + 20, 4 + step : 24 + step] = patch  # row 2, column 0
        frames.append(frame)
    flow = optical_flow.flow_function('farneback')(*frames)
    found = flow_histogram.histogram(clips.quantize_flow(flow))
    assert np.unravel_index(found.argmax(), found.shape) == (2, 0, 0)
    assert found[2, 0, 0] > 0.9 * found[2, 0].sum()
    assert found[2, 0].sum() > 5 * found[:, 3].sum()


def test_thirds_of_a_clip():
    flow = np.concatenate([moved(0, fields=2), moved(2, fields=2), moved(4, fields=2)])
    found = flow_histogram.describe(flow)
    assert found.shape == (3, 4, 4, 8)
    expected = np.zeros((3, 8))
    expected[[0, 1, 2], [0, 2, 4]] = np.sqrt(10)
    np.testing.assert_allclose(found[:, 2, 1], expected, rtol=1e-6)


def test_a_third_is_a_mean_before_the_root():
    flow = np.concatenate([moved(0, levels=n) for n in (4, 8, 20, 20, 20, 20)])
    assert flow_histogram.describe(flow)[0, 0, 0, 0] == pytest.approx(np.sqrt(6))


@pytest.mark.parametrize('fields', [1, 2, 4])
def test_clips_of_few_fields(fields):
    found = flow_histogram.describe(moved(6, fields=fields))
    np.testing.assert_allclose(found[..., 6], np.sqrt(10), rtol=1e-6)
    assert np.isfinite(found).all()


def test_mirror_is_that_of_mirrored_flow():
    flow = random_flow()
    mirrored = flow[:, :, ::-1].copy()
    mirrored[..., 0] = 256 - mirrored[..., 0].astype(int)  # the opposite motion
    features = flow_histogram.describe(flow)
    expected = flow_histogram.describe(mirrored)
    np.testing.assert_allclose(flow_histogram.mirror(features[None])[0], expected)
    assert not np.allclose(features, expected)


@pytest.mark.parametrize('count, width', [(40, 7), (12, 30)])
@pytest.mark.parametrize('strength', [0.01, 3.0, 1000.0])
def test_ridge_is_least_squares_with_a_penalty(count, width, strength):
    random = np.random.default_rng(2)
    inputs = random.normal(3, 5, (count, width)) * random.uniform(0.1, 9, width)
    labels = random.integers(0, 3, count)
    standard = (inputs - inputs.mean(0)) / inputs.std(0)
    # the penalty as further rows; none for the last column, the intercept
    rows = np.block([[standard, np.ones((count, 1))], [np.eye(width, width + 1)]])
    rows[count:] *= np.sqrt(strength)
    targets = np.concatenate([np.eye(3)[labels], np.zeros((width, 3))])
    solution = np.linalg.lstsq(rows, targets, rcond=None)[0]
    expected = standard @ solution[:-1] + solution[-1]

    ((weights, intercept),) = flow_histogram.fit(inputs, labels, 3, [strength])
    np.testing.assert_allclose(inputs @ weights + intercept, expected, atol=1e-8)


def test_a_constant_input_says_nothing():
    inputs = np.array([[1.0, 7.0], [2.0, 7.0], [8.0, 7.0], [9.0, 7.0]])
    labels = np.array([0, 0, 1, 1])
    ((weights, intercept),) = flow_histogram.fit(inputs, labels, 2, [1.0])
    assert not weights[1].any()
    found = flow_histogram.predict(inputs, weights, intercept)
    assert found.tolist() == [0, 0, 1, 1]


def features_of(values):
    """Features [N, 3, 4, 4, 8], told apart by one number alone."""
    features = np.zeros((len(values), 3, 4, 4, 8))
    features[:, 0, 0, 0, 2] = values
    return features


def test_strength_is_chosen_on_whole_groups(monkeypatch):
    groups = ['b', 'a', 'b', 'c', 'a', 'c']
    values = np.array([ord(group) for group in groups], float)
    rounds = []

    def fit(features, labels, num_classes, strengths):
        rounds.append([set(features[:, 0, 0, 0, 2])])
        return [(strength,) for strength in strengths]

    def predict(features, strength):
        if strength == flow_histogram.STRENGTHS[0]:
            rounds[-1].append(set(features[:, 0, 0, 0, 2]))
        # the third and fourth are right
        return np.full(len(features), int(strength in flow_histogram.STRENGTHS[2:4]))

    monkeypatch.setattr(flow_histogram, 'fit_mirrored', fit)
    monkeypatch.setattr(flow_histogram, 'predict', predict)
    labels = np.ones(6, int)
    found = flow_histogram.choose_strength(features_of(values), labels, groups, 2)
    assert found == flow_histogram.STRENGTHS[3]
    assert [held_out for _, held_out in rounds] == [{97.0}, {98.0}, {99.0}]
    assert all(trained == {97, 98, 99} - held_out for trained, held_out in rounds)


def test_one_group_cannot_choose():
    with pytest.raises(ValueError, match='all train clips are of group "x"'):
        labels = np.array([0, 1])
        flow_histogram.choose_strength(features_of([1, 2]), labels, ['x', 'x'], 2)


def test_classify_knows_mirror_images():
    # trained on motion to the right, tested on motion to the left; or no motion
    features, sides = {}, {'train': [], 'test': []}
    for side, direction in (('train', 0), ('test', 4)):
        for group in 'abc':
            flows = [moved(direction, ord(group) - 90), still()]
            for label, flow in enumerate(flows):
                clip = f'{label}/{side}{group}'
                features[clip] = flow_histogram.describe(flow)
                sides[side].append(splits.Example(clip, label, side + group))
    split = splits.Split(['across', 'still'], sides['train'], sides['test'], {}, {})
    found, strength = flow_histogram.classify(features, split)
    assert found.tolist() == [0, 1] * 3
    assert strength in flow_histogram.STRENGTHS


@pytest.mark.slow
def test_floor_on_real_interactions(real_clips, tmp_path, run_script):
    folder = real_clips / 'ut-interaction'
    if not folder.is_dir():
        pytest.skip('REAL_CLIPS has no ut-interaction/')
    regex, data_dir = r'_(seq\d\d)_', tmp_path / 'data'
    run_script(
        'optical_flow.py',
        f'--video_dir={folder / "videos"}',
        f'--data_dir={data_dir}',
        '--frame_size=112',
    )
    index = clips.read_index(data_dir)
    described = flow_histogram.describe_clips(data_dir, list(index))
    features = dict(zip(index, described, strict=True))
    right = 0
    for fold in range(1, 6):
        split = splits.load(index, folder / 'splits', fold, regex)
        found, _ = flow_histogram.classify(features, split)
        right += sum(found == [example.label for example in split.test])
    assert right >= 0.8 * len(index)
