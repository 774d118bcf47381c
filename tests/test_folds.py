"""Splits of one's own: shares of classes, whole groups, files that appear whole."""

import errno
import os
import pathlib
import re

import cv2
import numpy as np
import pytest

from data import folds
from data import splits


def shares(labels, fold, number):
    """[folds, C]: which part of each class a fold tests."""
    counts = np.zeros((number, max(labels) + 1))
    np.add.at(counts, (fold, labels), 1)
    return counts / counts.sum(axis=0)


def test_groups_that_are_alike_are_shared_out_evenly():
    # nine actors, each of whom does all of ten actions once
    labels, groups = np.divmod(np.arange(90), 9)
    fold = folds.stratified(labels, [f'actor {g}' for g in groups], 3, seed=0)
    assert np.array_equal(shares(labels, fold, 3), np.full((3, 10), 1 / 3))
    for group in range(9):
        assert len(set(fold[groups == group])) == 1


@pytest.mark.parametrize('number', [2, 3, 5])
def test_classes_of_other_sizes_are_shared_out_up_to_one_group(number):
    random = np.random.default_rng(number)
    labels, groups = [], []
    for label in range(12):
        for group in range(random.integers(number, 25)):
            size = random.integers(1, 8)
            labels += [label] * size
            groups += [f'{label}-{group}'] * size
    fold = folds.stratified(labels, groups, number, seed=0)
    tested = shares(labels, fold, number)
    for label in range(12):
        sizes = [
            groups.count(name) for name in set(groups) if name.startswith(f'{label}-')
        ]
        # no fold is ahead of another by more than the largest group
        assert np.ptp(tested[:, label]) <= max(sizes) / sum(sizes) + 1e-9
    assert len({(name, f) for name, f in zip(groups, fold, strict=True)}) == len(
        set(groups)
    )


def test_a_small_class_counts_as_much_as_a_large_one():
    sizes, labels, groups = [51, 38, 31, 16, 19, 3, 5, 1, 11], [], []
    for group, size in enumerate(sizes):
        rare = group in (0, 3, 6)
        labels += [0] * size + [1] * rare
        groups += [str(group)] * (size + rare)
    for seed in range(4):
        fold = folds.stratified(labels, groups, 3, seed)
        assert np.allclose(shares(labels, fold, 3)[:, 1], 1 / 3)


def test_the_largest_group_comes_first():
    groups = ['large'] * 9 + [f'small {n}' for n in range(9)]
    for seed in range(8):
        assert sum(folds.stratified([0] * 18, groups, 2, seed)) == 9


def test_no_fold_stays_empty_and_the_seed_decides():
    labels, groups = [0, 0, 0, 0, 0, 1, 2], list('aaabbcd')
    for seed in range(20):
        assert set(folds.stratified(labels, groups, 4, seed)) == {0, 1, 2, 3}
    labels, groups = np.zeros(40, int), [str(n) for n in range(40)]
    first, again, other = (
        folds.stratified(labels, groups, 3, seed) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_limit_takes_clips_of_as_many_groups_as_there_are():
    clips = [f'{c}/g{g}_{n}' for c in 'AB' for g in range(4) for n in range(5)]
    groups = {clip: clip[2:4] for clip in clips}
    chosen = folds.limited(clips, groups, 6, seed=0)
    for name in 'AB':
        found = [groups[clip] for clip in chosen if clip[0] == name]
        assert sorted(map(found.count, set(found))) == [1, 1, 2, 2]
    assert folds.limited(clips[::-1], groups, 6, seed=0) == chosen
    assert folds.limited(clips, groups, 6, seed=1) != chosen
    assert folds.limited(clips[::-1], groups, None, seed=0) == clips
    assert folds.limited(clips, groups, 100, seed=0) == clips


def test_length_is_read_from_the_header(tmp_path):
    path = tmp_path / 'two:seconds.avi'
    fourcc = cv2.VideoWriter_fourcc(*'MJPG')
    writer = cv2.VideoWriter(str(path), cv2.CAP_OPENCV_MJPEG, fourcc, 12, (32, 32))
    for value in range(24):
        writer.write(np.full((32, 32, 3), value, np.uint8))
    writer.release()
    assert folds.seconds_of(str(path)) == pytest.approx(2)
    (tmp_path / 'empty.avi').write_bytes(b'')
    os.mkfifo(tmp_path / 'pipe.avi')
    (tmp_path / 'folder.avi').mkdir()
    for name in ('empty.avi', 'pipe.avi', 'folder.avi', 'absent.avi'):
        assert folds.seconds_of(str(tmp_path / name)) is None


# -- the files ------------------------------------------------------------------------


def contents(paths, tested):
    """The files of one split that tests `tested`; groups are stems up to a space."""
    found = {os.path.splitext(path)[0]: path for path in paths}
    sides = {
        'train': [clip for clip in found if clip not in tested],
        'test': [clip for clip in found if clip in tested],
    }
    groups = {clip: re.split('[ \r\n]', clip.split('/')[1])[0] for clip in found}
    names = sorted({clip.split('/')[0] for clip in found})
    return folds.contents(names, found, [sides], groups)


def test_files_are_in_the_format_of_ucf101():
    files = contents(['B/x.avi', 'A/y z.mp4', 'A/w.avi', 'B/v.avi'], {'B/x', 'A/w'})
    assert files == {
        'classInd.txt': b'1 A\n2 B\n',
        'trainlist01.txt': b'A/y z.mp4 1\nB/v.avi 2\n',
        'testlist01.txt': b'B/x.avi\nA/w.avi\n',
        'groups.txt': b'A/w.avi\tw\nA/y z.mp4\ty\nB/v.avi\tv\nB/x.avi\tx\n',
    }


@pytest.mark.parametrize(
    'stem',
    [
        '-rf',
        '#1',
        'a.avi.b',
        '12',
        'x 12',
        'a,b',
        "it's",
        'a\\b',
        '视频',
        'x' * 250,
        'B',
    ],
)
def test_what_is_written_is_read_back(tmp_path, stem):
    paths = [f'{c}/{s}.avi' for c in ('A', '#B 2', '7') for s in (stem, 'other')]
    folds.write(
        tmp_path / 'lists', contents(paths, {f'{c}/other' for c in ('A', '#B 2', '7')})
    )
    stored = [path[:-4] for path in paths]
    split = splits.load(stored, tmp_path / 'lists')
    assert split.class_names == ['#B 2', '7', 'A']
    assert {e.clip for e in split.train} == {f'{c}/{stem}' for c in split.class_names}
    for example in split.train + split.test:
        assert example.clip.split('/')[0] == split.class_names[example.label]
        assert example.group == example.clip.split('/')[1].split(' ')[0]


@pytest.mark.parametrize(
    'path',
    ['A/a\nb.avi', 'A/a\rb.avi', 'A/a.avi b.avi', ' A/x.avi', 'A /x.avi', 'A/x\t1.avi'],
)
def test_names_that_no_list_can_hold_are_refused(path):
    with pytest.raises(ValueError, match='name or group of 1 videos') as error:
        contents([path, 'B/y.avi', 'A/z.avi'], {'A/z'})
    assert '\n' not in str(error.value) and 'rename' in str(error.value)


def test_lists_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    files = contents(['A/x.avi', 'A/y.avi'], {'A/x'})
    out, original = tmp_path / 'lists', pathlib.Path.write_bytes

    def full(path, text):
        if path.name == 'groups.txt':
            raise OSError(errno.ENOSPC, 'No space left on device', str(path))
        return original(path, text)

    with monkeypatch.context() as patched:
        patched.setattr(pathlib.Path, 'write_bytes', full)
        with pytest.raises(OSError, match='No space left'):
            folds.write(out, files)
    assert not list(tmp_path.iterdir())
    out.mkdir()
    folds.write(out, files)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files
    folds.write(out, files)  # the same command again
    for other in ({**files, 'groups.txt': b''}, {'classInd.txt': b''}):
        with pytest.raises(ValueError, match='exists and holds other files'):
            folds.write(out, other)
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match='exists and holds other files'):
        folds.write(tmp_path / 'file', files)
    assert {path.name for path in tmp_path.iterdir()} == {'lists', 'file'}
