"""The feature cache: nothing stale, nothing half-written, nothing not finite."""

import os
import pathlib

import numpy as np
import pytest

from data import archive
from data import clips
from data import features
from data import feeds

ROWS = {'A/x': 3, 'A/y y': 1, 'B/z.w': 4}  # clip -> frames


@pytest.fixture
def stored(tmp_path):
    """data_dir of three stored clips whose bytes say what is in them."""
    for value, clip in enumerate(ROWS):
        for path in (clips.frames_path, clips.flow_path):
            path = pathlib.Path(path(tmp_path, clip))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes([value + 1]))
    return tmp_path


def frames_of(data_dir, clip):
    return pathlib.Path(clips.frames_path(data_dir, clip))


def fill(data_dir, read=None, extract=None, names=None):
    """Fills the cache with each clip's one byte, T times; how many were computed."""

    def read_byte(clip):
        byte = frames_of(data_dir, clip).read_bytes()[0]
        return np.full([ROWS[clip], 2], byte, np.uint8)

    read = read or read_byte
    extract = extract or (lambda images: images.astype(np.float32) / 4)
    folder = features.directory(data_dir, 'spatial', {'weights': 'w'})
    todo = features.missing_views({0: folder}, data_dir, {0: names or list(ROWS)})
    features.fill(
        {0: folder},
        data_dir,
        todo,
        lambda clip, view, images: extract(images),
        lambda clip, views: [read(clip)],
        workers=2,
    )
    return folder, len(todo)


def test_features_are_stored_once_and_mapped(stored):
    folder, count = fill(stored)
    assert count == 3
    for value, (clip, frames) in enumerate(ROWS.items()):
        read = features.read(folder, clip)
        assert isinstance(read, np.memmap) and read.dtype == np.float16
        np.testing.assert_array_equal(read, np.full([frames, 2], (value + 1) / 4))

    def never(clip):
        raise AssertionError(f'{clip} is read though it is cached')

    assert fill(stored, read=never)[1] == 0


@pytest.mark.parametrize('path_of', [clips.frames_path, clips.flow_path])
def test_only_the_clip_that_was_written_again_is_computed_again(stored, path_of):
    folder, _ = fill(stored)
    path = pathlib.Path(path_of(stored, 'A/x'))

    def both(clip):
        bytes_of = [p(stored, clip) for p in (clips.frames_path, clips.flow_path)]
        total = sum(pathlib.Path(p).read_bytes()[0] for p in bytes_of)
        return np.full([ROWS[clip], 2], total, np.uint8)

    path.write_bytes(bytes([199]))
    assert fill(stored, read=both)[1] == 1
    np.testing.assert_array_equal(features.read(folder, 'A/x'), np.full([3, 2], 50))
    # another file of the same size and time is another file too
    stat = os.stat(path)
    path.write_bytes(bytes([99]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fill(stored, read=both)[1] == 1
    np.testing.assert_array_equal(features.read(folder, 'A/x'), np.full([3, 2], 25))
    # a data set that was copied somewhere else, with new times, is the same one
    os.utime(path, ns=(10**18, 10**18))
    assert fill(stored)[1] == 0


def test_stamp_tells_size_and_end_of_both_files(tmp_path):
    paths = [pathlib.Path(clips.frames_path(tmp_path, 'A/x'))]
    paths.append(pathlib.Path(clips.flow_path(tmp_path, 'A/x')))
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(b'whole')
    stamps = {features.stamp(tmp_path, 'A/x')}
    for path in paths:
        for content in (b'', b'a', b'a' * 99999, b'a' * 99998 + b'b', b'a' * 100000):
            path.write_bytes(content)
            stamps.add(features.stamp(tmp_path, 'A/x'))
        path.write_bytes(b'whole')
    assert len(stamps) == 11 and {len(stamp) for stamp in stamps} == {16}


def test_stamp_tells_each_image_of_a_long_clip(tmp_path):
    """Of files of one size, whose index alone tells that an image differs."""
    paths = clips.frames_path(tmp_path, 'A/x'), clips.flow_path(tmp_path, 'A/x')
    stamps = set()
    for different in (None, 0, 450, 899):
        for path in paths:
            pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
            with archive.Writer(path, '.jpg', bytes) as writer:
                for place in range(900):
                    writer.append([place == different])
        stamps.add(features.stamp(tmp_path, 'A/x'))
    assert len(stamps) == 4


@pytest.mark.parametrize('left', [0, 10, -16, -1])
def test_features_that_were_cut_are_computed_again(stored, left):
    folder, _ = fill(stored)
    path = folder / 'A/x.npy'
    path.write_bytes(path.read_bytes()[:left])
    assert fill(stored)[1] == 1
    np.testing.assert_array_equal(features.read(folder, 'A/x'), np.full([3, 2], 0.25))


def test_other_users_may_read_what_was_cached(stored):
    before = os.umask(0o022)
    try:
        folder, _ = fill(stored)
    finally:
        os.umask(before)
    assert os.stat(folder / 'A/x.npy').st_mode & 0o777 == 0o644


def test_clip_written_again_while_it_is_read_counts_as_changed(stored):
    path = frames_of(stored, 'A/x')

    def overtaken(clip):
        old = path.read_bytes()[0]
        path.write_bytes(bytes([200]))
        return np.full([ROWS[clip], 2], old, np.uint8)

    folder, _ = fill(stored, read=overtaken, names=['A/x'])
    assert fill(stored, names=['A/x'])[1] == 1
    np.testing.assert_array_equal(features.read(folder, 'A/x'), np.full([3, 2], 50))


def test_a_failure_keeps_what_is_done_and_leaves_no_part(stored, monkeypatch):
    def full(file, array):
        file.write(b'half a file')
        raise OSError('1960 requested and 992 written')  # as numpy has it

    folder, _ = fill(stored, names=['A/x'])
    with monkeypatch.context() as patched:
        patched.setattr(features.np, 'save', full)
        with pytest.raises(ValueError, match='npy cannot be written .is the disk full'):
            fill(stored)
    left = sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*.*'))
    assert left == ['A/x.npy']
    assert fill(stored)[1] == 2


def test_a_clip_that_cannot_be_read_is_listed_and_the_others_are_done(stored, capsys):
    def broken(clip):
        if clip == 'A/x':
            raise ValueError('the file ends at 2 of 3 frames')
        return np.zeros([ROWS[clip], 2], np.uint8)

    with pytest.raises(ValueError, match='1 of 3 clips cannot be read'):
        fill(stored, read=broken)
    assert 'A/x  the file ends at 2 of 3 frames' in capsys.readouterr().out
    assert fill(stored)[1] == 1


def test_a_clip_whose_file_is_gone_is_listed_and_the_others_are_done(stored, capsys):
    frames_of(stored, 'A/x').unlink()
    with pytest.raises(ValueError, match='1 of 3 clips cannot be read'):
        fill(stored)
    assert 'A/x  ' in capsys.readouterr().out
    folder = features.directory(stored, 'spatial', {'weights': 'w'})
    assert features.missing(folder, stored, list(ROWS)) == ['A/x']


def test_interrupted_fill_continues(stored):
    extracted = []

    def interrupted(images):
        extracted.append(images)
        if len(extracted) == 3:
            raise KeyboardInterrupt
        return images.astype(np.float32)

    with pytest.raises(KeyboardInterrupt):
        fill(stored, extract=interrupted)
    assert fill(stored)[1] == 1


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 70000.0])
def test_features_that_are_not_finite_are_refused(stored, value):
    def broken(images):
        out = images.astype(np.float32)
        out[-1, -1] = value
        return out

    with pytest.raises(ValueError, match='not finite') as error:
        fill(stored, extract=broken)
    assert str(error.value).startswith('A/x: ') and '\n' not in str(error.value)
    folder = features.directory(stored, 'spatial', {'weights': 'w'})
    assert not list(folder.rglob('*.npy')) and not list(folder.rglob('*.tmp'))


def test_folder_follows_from_all_that_features_depend_on(tmp_path):
    base = {'weights': 'abc', 'layer': 'fc6', 'num_segments': 25, 'span': 11}
    folder = features.directory(tmp_path, 'motion', base)
    turned = dict(reversed(base.items()))
    assert features.directory(tmp_path, 'motion', turned) == folder
    assert folder.parent == tmp_path / 'features'
    for name, value in (
        ('weights', 'abd'),
        ('layer', 'fc7'),
        ('num_segments', 24),
        ('span', 10),
    ):
        other = features.directory(tmp_path, 'motion', {**base, name: value})
        assert other != folder, name
    assert features.directory(tmp_path, 'spatial', base) != folder


def test_standard_deviation_is_numpys_over_everything(tmp_path):
    random = np.random.RandomState(0)
    arrays = [random.normal(500, 0.5, [t, 7]).astype(np.float16) for t in (3, 1, 9)]
    for name, array in enumerate(arrays):
        np.save(tmp_path / f'{name}.npy', array)
    found = features.standard_deviation(tmp_path, ['0', '1', '2'])
    wide = np.concatenate(arrays).astype(np.float64)
    np.testing.assert_allclose(found, wide.std(), rtol=1e-6)


def test_scales_are_of_each_stream_and_a_dead_cnn_is_refused(tmp_path):
    folders = {'spatial': [tmp_path / 's'], 'motion': [tmp_path / 'm']}
    for (folder,), step in ((folders['spatial'], 1), (folders['motion'], 4)):
        for name in 'ab':
            values = step * np.arange(6, dtype=np.float16).reshape(3, 2)
            (folder / 'A').mkdir(parents=True, exist_ok=True)
            np.save(folder / f'A/{name}.npy', values)
    found = features.scales(folders, ['A/a', 'A/b'])
    assert found == pytest.approx({'spatial': np.std(range(6)), 'motion': 6.8313005})
    np.save(folders['motion'][0] / 'A/b.npy', np.zeros([3, 2], np.float16))
    with pytest.raises(ValueError, match='all motion features are equal'):
        features.scales(folders, ['A/b'])


def test_cached_features_are_read_in_the_order_of_the_rows(stored):
    folder, _ = fill(stored)
    folders = features.folders(stored, {'spatial': {'features': [folder.name]}})
    assert folders == {'spatial': [folder]}
    rows = [({'clip': clip}, None) for clip in ('B/z.w', 'A/y y')]
    reader = features.reader(folders)
    (batch,) = feeds.read([feeds.Request(rows, {})], reader, workers=2)
    assert batch['lengths'].tolist() == [4, 1]
    assert batch['spatial'].shape == (2, 4, 2)
    np.testing.assert_array_equal(batch['spatial'][0], np.full([4, 2], 0.75))
    np.testing.assert_array_equal(batch['spatial'][1, :1], [[0.5, 0.5]])
    assert not batch['spatial'][1, 1:].any()
