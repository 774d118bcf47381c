"""The drawn videos: what the three factors promise, and nothing beside them."""

import itertools

import cv2
import numpy as np
import pytest

from data import splits
from data.synthetic import draw


def drawn(tmp_path, **options):
    """{path below the folder: bytes} of a small set."""
    options = {'groups': 1, 'clips': 1, 'seed': 0, **options}
    count = draw.make(tmp_path, **options)
    files = {
        p.relative_to(tmp_path).as_posix(): p.read_bytes()
        for p in tmp_path.rglob('*')
        if p.is_file()
    }
    assert len(files) == count
    return files


def test_videos_are_the_same_at_every_drawing(tmp_path):
    first = drawn(tmp_path / 'a')
    assert first == drawn(tmp_path / 'b')
    assert len(set(first.values())) == 8
    other = drawn(tmp_path / 'c', seed=1)
    assert set(other) == set(first)
    assert not set(other.values()) & set(first.values())


def test_names_are_split_by_the_group_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(draw, 'write_clip', lambda path, frames: path.touch())
    names = drawn(tmp_path, groups=9)
    clips = [name.removesuffix('.avi') for name in names]
    split = splits.load(clips)
    assert split.class_names == sorted(draw.CLASSES)
    assert len(split.test) == 7 * 8 and len(split.train) == 2 * 8


def test_video_decodes_as_it_was_drawn(tmp_path):
    look = draw.group_look(np.random.default_rng(0))
    drawing = ('Squares', 'Vertical', 'PlusMinus', look)
    draw.write_clip(tmp_path / 'x.avi', draw.draw(np.random.default_rng(0), *drawing))
    assert [path.name for path in tmp_path.iterdir()] == ['x.avi']
    video = cv2.VideoCapture(str(tmp_path / 'x.avi'))
    frames = list(draw.draw(np.random.default_rng(0), *drawing))
    for frame in frames:
        whole, decoded = video.read()
        assert whole and decoded.shape == (draw.HEIGHT, draw.WIDTH, 3)
        assert np.abs(decoded.astype(int) - frame).mean() < 8
    assert not video.read()[0]


def test_classes_are_the_product_of_the_three_factors():
    assert len(set(draw.CLASSES)) == 8
    for parts in itertools.product(draw.WHAT, draw.HOW, draw.ORDER):
        assert ''.join(parts) in draw.CLASSES


@pytest.mark.parametrize('order, sign', [('PlusMinus', 1), ('MinusPlus', -1)])
def test_pauses_are_longer_than_a_stack_and_drifts_take_turns(order, sign):
    for seed in range(50):
        speeds = draw.velocities(np.random.default_rng(seed), order, 2.5)
        runs = [(v, len(list(same))) for v, same in itertools.groupby(speeds)]
        assert [v for v, _ in runs] == [0, sign * 2.5, 0, -sign * 2.5, 0]
        # no stack of L fields, so L + 1 frames, reaches over a pause
        assert min(length for _, length in runs) > draw.STACK_LENGTH + 1


def test_order_is_the_only_difference_and_no_stack_tells_it():
    """Windows of speeds a stack can see are the same set in both orders."""
    length = draw.STACK_LENGTH
    seen = {}
    for order in draw.ORDER:
        windows = set()
        for seed in range(200):
            speeds = draw.velocities(np.random.default_rng(seed), order, 1.0)
            windows |= {
                tuple(speeds[t : t + length]) for t in range(len(speeds) - length + 1)
            }
        assert not any(1 in window and -1 in window for window in windows)
        seen[order] = windows
    assert seen['PlusMinus'] == seen['MinusPlus']


def test_speeds_of_the_two_orders_have_the_same_lengths():
    """Else the share of still frames would give the order away."""
    for seed in range(20):
        plus, minus = (
            draw.velocities(np.random.default_rng(seed), order, 1.0)
            for order in draw.ORDER
        )
        np.testing.assert_array_equal(plus, -minus)


def area(what, radius, offset):
    """Weight of one white dot's pixels, 1 for a full one."""
    frame = np.zeros((draw.HEIGHT, draw.WIDTH, 3), np.uint8)
    x, y = 50 + offset[0], 40 + offset[1]
    draw.draw_dot(frame, what, x, y, radius, [255, 255, 255])
    return frame[:, :, 0].sum() / 255


def test_discs_and_squares_have_the_same_area():
    """Within 3 % of each other on average over places and sizes."""
    random = np.random.default_rng(0)
    places = random.random((40, 2))
    ratios = [
        area('Squares', radius, offset) / area('Discs', radius, offset)
        for offset, radius in zip(places, random.uniform(3.5, 5.5, 40), strict=True)
    ]
    assert abs(np.mean(ratios) - 1) < 0.03, np.mean(ratios)


def test_discs_and_squares_have_the_same_grey_value():
    for brightness in (0.7, 0.85, 1.0):
        pixels = [
            [[int(c * brightness) for c in draw.COLOUR[what]]] for what in draw.WHAT
        ]
        grey = cv2.cvtColor(np.array(pixels, np.uint8), cv2.COLOR_BGR2GRAY).ravel()
        assert abs(int(grey[0]) - int(grey[1])) <= 1
        colours = np.array(pixels).reshape(2, 3)
        assert np.abs(colours[0] - colours[1]).max() > 100  # a network can tell


def test_a_group_looks_alike_and_groups_differ():
    looks = [draw.group_look(np.random.default_rng([0, g])) for g in range(5)]
    assert looks[0] == draw.group_look(np.random.default_rng([0, 0]))
    for name in looks[0]:
        assert len({look[name] for look in looks}) > 1, name


def test_dots_live_shorter_than_a_stack():
    """Frames further apart than a dot's life share none, so places show no motion."""
    assert draw.DOT_LIFE < draw.STACK_LENGTH
    look = {
        'dots': 5,
        'radius': 4.0,
        'speed': 0.0,
        'brightness': 1.0,
        'background': 0,
    }
    random = np.random.default_rng(0)
    frames = list(draw.draw(random, 'Discs', 'Vertical', 'PlusMinus', look))
    bright = [frame.max(axis=2) > 100 for frame in frames[: 3 * draw.DOT_LIFE]]
    shared = [
        (bright[t] & bright[t + draw.DOT_LIFE]).sum() / bright[t].sum()
        for t in range(len(bright) - draw.DOT_LIFE)
    ]
    assert np.mean(shared) < 0.2  # by chance alone
    assert (bright[0] & bright[1]).sum() / bright[0].sum() > 0.5


def test_unwritable_folder_is_one_line(tmp_path, run_script):
    (tmp_path / 'file').write_text('')
    done = run_script(
        '-m', 'data.synthetic.draw', f'--out={tmp_path}/file/videos', code=1
    )
    assert len(done.stderr.splitlines()) == 1 and 'file/videos' in done.stderr
