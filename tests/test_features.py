"""The feature cache: nothing stale, nothing half-written, nothing not finite."""

import os

import numpy as np
import pytest

from data import features

ROWS = {'A/x': 3, 'A/y y': 1, 'B/z.w': 4}  # clip -> frames


@pytest.fixture
def stored(tmp_path):
    """(data_dir, source): three stored clips whose bytes say what is in them."""
    for value, clip in enumerate(ROWS):
        path = tmp_path / 'resized' / f'{clip}.avi'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([value + 1]))
    return tmp_path, lambda clip: tmp_path / 'resized' / f'{clip}.avi'


def fill(stored, read=None, extract=None, names=None):
    """Fills the cache with each clip's one byte, T times; how many were computed."""
    data_dir, source = stored

    def read_byte(clip):
        return np.full([ROWS[clip], 2], source(clip).read_bytes()[0], np.uint8)

    folder = features.directory(data_dir, 'spatial', {'weights': 'w'})
    count = features.fill(
        folder,
        names or list(ROWS),
        source,
        read or read_byte,
        extract or (lambda pictures: pictures.astype(np.float32) / 4),
        workers=2,
    )
    return folder, count


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


def test_only_the_clip_that_was_written_again_is_computed_again(stored):
    folder, _ = fill(stored)
    path = stored[1]('A/x')
    path.write_bytes(bytes([200]))
    assert fill(stored)[1] == 1
    np.testing.assert_array_equal(features.read(folder, 'A/x'), np.full([3, 2], 50))
    # another file of the same size and time is another file too
    stat = os.stat(path)
    path.write_bytes(bytes([100]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fill(stored)[1] == 1
    np.testing.assert_array_equal(features.read(folder, 'A/x'), np.full([3, 2], 25))
    # a data set that was copied somewhere else, with new times, is the same one
    os.utime(path, ns=(10**18, 10**18))
    assert fill(stored)[1] == 0


def test_stamp_tells_size_and_end_of_a_file(tmp_path):
    path, stamps = tmp_path / 'x.avi', set()
    for content in (b'', b'a', b'a' * 99999, b'a' * 99998 + b'b', b'a' * 100000):
        path.write_bytes(content)
        stamps.add(features.stamp(path))
    assert len(stamps) == 5 and {len(stamp) for stamp in stamps} == {16}


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
    source = stored[1]

    def overtaken(clip):
        old = source(clip).read_bytes()[0]
        source(clip).write_bytes(bytes([200]))
        return np.full([ROWS[clip], 2], old, np.uint8)

    folder, _ = fill(stored, read=overtaken, names=['A/x'])
    assert fill(stored, names=['A/x'])[1] == 1
    np.testing.assert_array_equal(features.read(folder, 'A/x'), np.full([3, 2], 50))


def test_a_failure_keeps_what_is_done_and_leaves_no_part(stored, monkeypatch):
    def full(file, array):
        file.write(b'half a file')
        raise OSError('no space left on device')

    folder, _ = fill(stored, names=['A/x'])
    with monkeypatch.context() as patched:
        patched.setattr(features.np, 'save', full)
        with pytest.raises(OSError, match='no space'):
            fill(stored)
    left = sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*.*'))
    assert left == ['A/x.npy']
    assert fill(stored)[1] == 2


def test_a_clip_that_cannot_be_read_is_listed_and_the_others_are_done(stored, capsys):
    def broken(clip):
        if clip == 'A/x':
            raise ValueError('the file ends at 2 of 3 pictures')
        return np.zeros([ROWS[clip], 2], np.uint8)

    with pytest.raises(ValueError, match='1 of 3 clips cannot be read'):
        fill(stored, read=broken)
    assert 'A/x  the file ends at 2 of 3 pictures' in capsys.readouterr().out
    assert fill(stored)[1] == 1


def test_interrupted_fill_goes_on(stored):
    extracted = []

    def interrupted(pictures):
        extracted.append(pictures)
        if len(extracted) == 3:
            raise KeyboardInterrupt
        return pictures.astype(np.float32)

    with pytest.raises(KeyboardInterrupt):
        fill(stored, extract=interrupted)
    assert fill(stored)[1] == 1


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf, 70000.0])
def test_features_that_are_not_finite_are_refused(stored, value):
    def broken(pictures):
        out = pictures.astype(np.float32)
        out[-1, -1] = value
        return out

    with pytest.raises(ValueError, match='not finite') as error:
        fill(stored, extract=broken)
    assert 'resized' in str(error.value) and '\n' not in str(error.value)
    folder = features.directory(stored[0], 'spatial', {'weights': 'w'})
    assert not list(folder.rglob('*.npy')) and not list(folder.rglob('*.tmp'))


def test_folder_follows_from_all_that_features_depend_on(tmp_path):
    base = {'weights': 'abc', 'layer': 'fc6', 'num_steps': 25, 'stack_length': 10}
    folder = features.directory(tmp_path, 'motion', base)
    turned = dict(reversed(base.items()))
    assert features.directory(tmp_path, 'motion', turned) == folder
    assert folder.parent == tmp_path / 'features'
    for name, value in (
        ('weights', 'abd'),
        ('layer', 'fc7'),
        ('num_steps', 24),
        ('stack_length', 9),
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


def test_sequences_are_padded_in_the_order_of_the_rows(stored):
    folder, _ = fill(stored)
    settings = {'stage': 'hybrid', 'data_dir': str(stored[0])}
    rows = [{'clip': clip} for clip in ('B/z.w', 'A/y y')]
    cnns = {'spatial': {'features': folder.name}}
    batch = features.sequences(settings, cnns, rows)
    assert batch['lengths'].tolist() == [4, 1]
    assert batch['spatial'].shape == (2, 4, 2)
    np.testing.assert_array_equal(batch['spatial'][0], np.full([4, 2], 0.75))
    np.testing.assert_array_equal(batch['spatial'][1, :1], [[0.5, 0.5]])
    assert not batch['spatial'][1, 1:].any()
