"""The stored format: what goes in comes out, and damage does not go unnoticed."""

import os

import cv2
import numpy as np
import pytest

from data import clips

SIZE = 48
CLIP = 'Class/a clip, "quoted" é'


def numbered_frame(number):
    """A frame that says its number in eight black or white squares."""
    bits = [255 * (number >> bit & 1) for bit in range(8)]
    row = np.repeat(np.array(bits, np.uint8), SIZE // 8)
    return np.repeat(np.tile(row, (SIZE, 1))[:, :, np.newaxis], 3, axis=2)


def number_of(frame):
    squares = frame[SIZE // 2, SIZE // 16 :: SIZE // 8, 1]
    return sum(int(square > 127) << bit for bit, square in enumerate(squares))


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
    """(data_dir, flow uint8 [89, SIZE, SIZE, 2]) of one clip of 90 frames."""
    data_dir = str(tmp_path_factory.mktemp('data'))
    flow = np.random.default_rng(3).integers(1, 256, (89, SIZE, SIZE, 2), np.uint8)
    for path in (clips.frames_path(data_dir, CLIP), clips.flow_path(data_dir, CLIP)):
        os.makedirs(os.path.dirname(path))
    path = clips.frames_path(data_dir, CLIP)
    frames_writer = clips.open_frames_writer(path, SIZE, 25)
    for number in range(90):
        frames_writer.write(numbered_frame(number))
    frames_writer.release()
    flow_writer = clips.open_flow_writer(clips.flow_path(data_dir, CLIP), SIZE, 25)
    for field in flow:
        flow_writer.write(clips.flow_picture(field))
    flow_writer.release()
    return data_dir, flow


def test_quantized_flow_is_the_formula():
    flow = np.array([[[0, 0], [20, -20], [1, -1], [90, -90], [0.07, 0.09]]], np.float32)
    expected = [[[128, 128], [255, 1], [134, 122], [255, 1], [128, 129]]]
    assert clips.quantize_flow(flow).dtype == np.uint8
    np.testing.assert_array_equal(clips.quantize_flow(flow), expected)
    np.testing.assert_array_equal(clips.quantize_flow(flow / 2, 10), expected)


def test_mirrored_flow_is_256_minus_x():
    flow = np.random.default_rng(0).normal(0, 9, (7, 5, 2)).astype(np.float32)
    left, right = clips.quantize_flow(flow), clips.quantize_flow(-flow)
    np.testing.assert_array_equal(left.astype(int), 256 - right.astype(int))


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_flow_that_is_not_finite_is_refused(value):
    with pytest.raises(ValueError, match='not finite'):
        clips.quantize_flow(np.full((4, 4, 2), value, np.float32))


def test_flow_comes_back_bit_for_bit(stored):
    data_dir, flow = stored
    np.testing.assert_array_equal(clips.read_flow(data_dir, CLIP), flow)
    # both ways through the file: onwards, and over gaps wide enough for a seek
    for steps in ([0], [88], [70, 3, 3, 70, 0], range(5, 80, 3), [1, 60, 62]):
        np.testing.assert_array_equal(
            clips.read_flow(data_dir, CLIP, steps), flow[list(steps)]
        )


def test_frames_come_back_by_number(stored):
    data_dir, _ = stored
    assert [number_of(f) for f in clips.read_frames(data_dir, CLIP)] == list(range(90))
    for steps in ([0], [89], [70, 3, 3, 70, 0], list(range(0, 90, 17)), [1, 60, 62]):
        frames = clips.read_frames(data_dir, CLIP, steps)
        assert [number_of(frame) for frame in frames] == steps
    assert clips.read_frames(data_dir, CLIP, []).shape == (0, SIZE, SIZE, 3)


@pytest.mark.parametrize('steps', [[-1], [90], [0, 200]])
def test_frames_that_are_not_there_are_refused(stored, steps):
    with pytest.raises(ValueError, match='there is no number'):
        clips.read_frames(stored[0], CLIP, steps)


def test_colour_of_frames_is_bgr(tmp_path):
    path = clips.frames_path(str(tmp_path), 'A/a')
    os.makedirs(os.path.dirname(path))
    writer = clips.open_frames_writer(path, SIZE, 25)
    writer.write(np.full((SIZE, SIZE, 3), (250, 120, 10), np.uint8))
    writer.release()
    mean = clips.read_frames(str(tmp_path), 'A/a').mean((0, 1, 2))
    np.testing.assert_allclose(mean, (250, 120, 10), atol=3)


def test_stacks_are_a_plain_loop(stored):
    data_dir, flow = stored
    starts, length = [0, 80, 85, 3, 3, 88], 10
    stacks = clips.flow_stacks(flow, starts, length)
    assert stacks.shape == (6, SIZE, SIZE, 20)
    for n, start in enumerate(starts):
        for k in range(length):
            field = flow[min(start + k, 88)]
            np.testing.assert_array_equal(stacks[n, :, :, 2 * k], field[:, :, 0])
            np.testing.assert_array_equal(stacks[n, :, :, 2 * k + 1], field[:, :, 1])
    np.testing.assert_array_equal(
        clips.read_stacks(data_dir, CLIP, starts, length), stacks
    )


def test_a_field_is_read_once(stored, monkeypatch):
    read = []
    original = clips.read_flow

    def spy(data_dir, clip, steps=None):
        read.extend(steps)
        return original(data_dir, clip, steps)

    monkeypatch.setattr(clips, 'read_flow', spy)
    clips.read_stacks(stored[0], CLIP, [4, 6, 4], 5)
    assert read == [4, 5, 6, 7, 8, 9, 10]


def test_a_stack_cannot_start_before_the_clip(stored):
    with pytest.raises(ValueError, match='-1'):
        clips.flow_stacks(stored[1], [-1], 3)


def test_evenly_spaced_has_both_ends():
    np.testing.assert_array_equal(clips.evenly_spaced(100, 5), [0, 25, 50, 74, 99])
    np.testing.assert_array_equal(clips.evenly_spaced(2, 4), [0, 0, 1, 1])
    assert clips.evenly_spaced(9, 3).dtype == np.int64


def test_stack_starts_stay_within_the_clip():
    # 30 frames, 29 fields: the last stack of 10 is fields 19 .. 28
    np.testing.assert_array_equal(clips.stack_starts(30, 3, 10), [0, 10, 19])
    np.testing.assert_array_equal(clips.stack_starts(11, 3, 10), [0, 0, 0])
    np.testing.assert_array_equal(clips.stack_starts(4, 3, 10), [0, 0, 0])


@pytest.mark.parametrize(
    'clip', ['a', '../a', 'A/..', '/a', 'A/', 'A/b/c', './a', '/etc/passwd', 'A/\0']
)
def test_names_that_leave_the_folder_are_refused(clip):
    for path in (clips.frames_path, clips.flow_path):
        with pytest.raises(ValueError, match='not a name'):
            path('data', clip)


def row_of(clip, status='ok'):
    row = dict.fromkeys(clips.COLUMNS, '')
    numbers = {'frames': 3, 'fps': 29.97, 'bound': 20.0, 'size': 224}
    return {**row, **numbers, 'settings': 'f00', 'clip': clip, 'status': status}


def test_index_round_trip(tmp_path):
    names = ['B/two', 'A/a, "b" \n é', 'A/\udcff', 'A/\r', 'A/\r\n']
    rows = [row_of(name) for name in names] + [row_of('C/bad', 'truncated')]
    clips.write_index(tmp_path / 'clips.csv', rows)
    index = clips.read_index(str(tmp_path))
    assert list(index) == sorted(names)
    assert index['B/two']['frames'] == 3 and index['B/two']['fps'] == 29.97
    assert index['B/two']['width'] is None
    assert 'C/bad' in clips.read_index(str(tmp_path), ok_only=False)
    clips.write_index(tmp_path / 'clips.csv', [row_of('B/two'), row_of('A/a')])
    written = (tmp_path / 'clips.csv').read_bytes()
    # as an older version and as a spreadsheet write it
    for content in (written.replace(b'\r\n', b'\n'), b'\xef\xbb\xbf' + written):
        (tmp_path / 'clips.csv').write_bytes(content)
        assert list(clips.read_index(str(tmp_path))) == ['A/a', 'B/two']


def test_missing_or_damaged_index_says_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r'clips\.csv is missing.*optical_flow\.py'):
        clips.read_index(str(tmp_path))
    (tmp_path / 'clips.csv').write_text('clip,label\nA/a,1\n')
    with pytest.raises(ValueError, match=r'clips\.csv does not have the columns'):
        clips.read_index(str(tmp_path))
    clips.write_index(tmp_path / 'clips.csv', [row_of('A/a')])
    whole = (tmp_path / 'clips.csv').read_text()
    for old, new in (
        (',3,', ',x,'),
        (',3,', ',,'),
        ('ok,', 'ok,,'),
        (',ok,', ''),
        ('A/a', '"A/a' + 200_000 * 'x'),
    ):
        (tmp_path / 'clips.csv').write_text(whole.replace(old, new))
        with pytest.raises(ValueError, match=r'clips\.csv: a row is damaged.* delete'):
            clips.read_index(str(tmp_path))


def test_lost_bytes_are_noticed(stored, tmp_path):
    for path, count in (
        (clips.frames_path(stored[0], CLIP), 90),
        (clips.flow_path(stored[0], CLIP), 89),
    ):
        assert clips.whole_pictures(path) == count
        with open(path, 'rb') as file:
            content = file.read()
        middle = len(content) // 2
        for damaged in (
            b'',
            content[:100],
            content[:middle],
            content[:-1],
            content[: content.rindex(b'idx1')],  # cut between two chunks
            content[:middle] + content[middle + 512 :],
            content + b'\0',
        ):
            (tmp_path / 'damaged.avi').write_bytes(damaged)
            with pytest.raises(ValueError, match=r'damaged\.avi'):
                clips.whole_pictures(tmp_path / 'damaged.avi')


def test_reading_a_damaged_file_names_it(stored, tmp_path):
    for kind, reader in (
        (clips.frames_path, clips.read_frames),
        (clips.flow_path, clips.read_flow),
    ):
        path = kind(str(tmp_path), 'A/a')
        os.makedirs(os.path.dirname(path))
        with pytest.raises(ValueError, match=r'A/a\.avi cannot be read.*delete it'):
            reader(str(tmp_path), 'A/a')
        with open(kind(stored[0], CLIP), 'rb') as file:
            content = file.read()
        with open(path, 'wb') as file:
            file.write(content[: len(content) // 2])
        with pytest.raises(ValueError, match=r'A/a\.avi'):
            reader(str(tmp_path), 'A/a', range(80))


@pytest.mark.parametrize('fps', [0.0, 90000.0, float('nan'), 23.976])
def test_any_rate_keeps_every_picture(tmp_path, fps):
    for writer, color in (
        (clips.open_frames_writer(str(tmp_path / '3.avi'), SIZE, fps), 3),
        (clips.open_flow_writer(str(tmp_path / '1.avi'), SIZE, fps), 1),
    ):
        picture = np.zeros((SIZE, SIZE * (2 if color == 1 else 1)), np.uint8)
        for _ in range(9):
            writer.write(cv2.merge([picture] * color))
        writer.release()
        assert clips.whole_pictures(tmp_path / f'{color}.avi') == 9


def test_writer_that_cannot_open_says_so(tmp_path):
    for opener in (clips.open_frames_writer, clips.open_flow_writer):
        with pytest.raises(ValueError, match='cannot be opened for writing'):
            opener(str(tmp_path / 'absent' / 'x.avi'), SIZE, 25)


def test_chroma_and_luma_are_near_the_picture(tmp_path):
    y, x = np.mgrid[0:224, 0:224]
    picture = np.stack([x, y, 255 - x], -1).astype(np.uint8)
    path = clips.frames_path(str(tmp_path), 'A/a')
    os.makedirs(os.path.dirname(path))
    writer = clips.open_frames_writer(path, 224, 25)
    writer.write(picture)
    writer.release()
    assert cv2.PSNR(clips.read_frames(str(tmp_path), 'A/a')[0], picture) > 40
