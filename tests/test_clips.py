"""The stored format: what goes in comes out, and damage does not go unnoticed."""

import concurrent.futures
import os
import tracemalloc
import zipfile

import cv2
import numpy as np
import pytest

from data import archive
from data import clips

SIZE = 48
CLIP = 'Class/a clip, "quoted" é'
# what the two files of a clip hold, written here once more
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 93]
PNG = [cv2.IMWRITE_PNG_COMPRESSION, 2, cv2.IMWRITE_PNG_FILTER, 32]


def drawn(count, size=SIZE, seed=3):
    """(frames, flow) of a clip of `count` frames, no two alike."""
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (count, size // 8, size // 8, 3), np.uint8)
    frames = frames.repeat(8, 1).repeat(8, 2)
    return frames, random.integers(1, 256, (count - 1, size, size, 2), np.uint8)


def store(data_dir, clip, frames, flow):
    """Writes both files of a clip; returns their paths."""
    paths = clips.frames_path(data_dir, clip), clips.flow_path(data_dir, clip)
    writers = clips.frames_writer, clips.flow_writer
    for path, writer, items in zip(paths, writers, (frames, flow), strict=True):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with writer(path) as file:
            for item in items:
                file.append(item)
    return paths


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
    """(data_dir, flow uint8 [89, SIZE, SIZE, 2]) of one clip of 90 frames."""
    data_dir = str(tmp_path_factory.mktemp('data'))
    frames, flow = drawn(90)
    store(data_dir, CLIP, frames, flow)
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


@pytest.mark.parametrize('count', [2, 3, 11, 1000])
def test_every_place_holds_what_was_stored(tmp_path, count):
    """Frames are what the encoder made of them, flow is itself, byte for byte."""
    frames, flow = drawn(count, 16)
    paths = store(tmp_path, 'A/a', frames, flow)
    encoded = [cv2.imencode('.jpg', frame, JPEG)[1] for frame in frames]
    expected = np.stack([cv2.imdecode(data, cv2.IMREAD_COLOR) for data in encoded])
    with zipfile.ZipFile(paths[0]) as other:
        names = [f'{n:08}.jpg' for n in range(count)]
        assert other.namelist() == names and other.testzip() is None
        for name, data in zip(names, encoded, strict=True):
            assert other.read(name) == data.tobytes()
    for place in range(count):
        found = clips.read_frames(tmp_path, 'A/a', [place])
        np.testing.assert_array_equal(found, expected[place : place + 1])
    for place in range(count - 1):
        found = clips.read_flow(tmp_path, 'A/a', [place])
        np.testing.assert_array_equal(found, flow[place : place + 1])
        stack = clips.read_stacks(tmp_path, 'A/a', [place], 2)
        after = flow[min(place + 1, count - 2)]
        np.testing.assert_array_equal(stack[0], np.dstack([flow[place], after]))
    np.testing.assert_array_equal(clips.read_frames(tmp_path, 'A/a'), expected)
    np.testing.assert_array_equal(clips.read_flow(tmp_path, 'A/a'), flow)
    np.testing.assert_array_equal(clips.as_stored(list(frames)), expected)
    assert clips.verify_frames(tmp_path, 'A/a') == count
    assert clips.verify_flow(tmp_path, 'A/a') == count - 1


def test_flow_is_a_grey_image_of_x_and_y(stored):
    data_dir, flow = stored
    with zipfile.ZipFile(clips.flow_path(data_dir, CLIP)) as other:
        data = other.read('00000007.png')
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image.shape == (SIZE, 2 * SIZE)
    np.testing.assert_array_equal(image[:, :SIZE], flow[7, :, :, 0])
    np.testing.assert_array_equal(image[:, SIZE:], flow[7, :, :, 1])
    assert data == cv2.imencode('.png', image, PNG)[1].tobytes()


@pytest.mark.parametrize('steps', [[0], [88, 0], [70, 3, 3, 70, 0], range(5, 80, 3)])
def test_images_come_in_the_order_asked_for(stored, steps):
    data_dir, flow = stored
    frames = clips.read_frames(data_dir, CLIP)
    for places in (steps, np.array(steps), np.array(steps, np.int32)):
        found = clips.read_flow(data_dir, CLIP, places)
        np.testing.assert_array_equal(found, flow[list(steps)])
        found = clips.read_frames(data_dir, CLIP, places)
        np.testing.assert_array_equal(found, frames[list(steps)])


def test_none_asked_for_is_none(stored):
    assert clips.read_frames(stored[0], CLIP, []).shape == (0, SIZE, SIZE, 3)
    assert clips.read_flow(stored[0], CLIP, []).shape == (0, SIZE, SIZE, 2)
    assert clips.read_stacks(stored[0], CLIP, [], 3).shape == (0, SIZE, SIZE, 6)


@pytest.mark.parametrize('steps', [[-1], [90], [0, 200]])
def test_frames_that_are_not_there_are_refused(stored, steps):
    reason = f'é.zip holds 90 images: index {steps[-1]} is out of range'
    with pytest.raises(ValueError, match=reason):
        clips.read_frames(stored[0], CLIP, steps)


def test_odd_sizes_lose_nothing(tmp_path):
    flow = np.random.default_rng(0).integers(1, 256, (3, 33, 35, 2), np.uint8)
    store(tmp_path, 'A/a', np.zeros((4, 33, 35, 3), np.uint8), flow)
    np.testing.assert_array_equal(clips.read_flow(tmp_path, 'A/a'), flow)
    assert clips.read_frames(tmp_path, 'A/a').shape == (4, 33, 35, 3)


def test_colour_of_frames_is_bgr(tmp_path):
    frames = np.full((2, SIZE, SIZE, 3), (250, 120, 10), np.uint8)
    store(tmp_path, 'A/a', frames, np.zeros((1, SIZE, SIZE, 2), np.uint8))
    mean = clips.read_frames(tmp_path, 'A/a').mean((0, 1, 2))
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


def test_a_field_is_decoded_once(stored, monkeypatch):
    read, original = [], archive.Reader.read

    def spy(reader, place):
        read.append(place)
        return original(reader, place)

    monkeypatch.setattr(archive.Reader, 'read', spy)
    stacks = clips.read_stacks(stored[0], CLIP, [4, 6, 4, 87], 5)
    np.testing.assert_array_equal(
        stacks, clips.flow_stacks(stored[1], [4, 6, 4, 87], 5)
    )
    assert read == [4, 5, 6, 7, 8, 9, 10, 87, 88]
    read.clear()
    clips.read_frames(stored[0], CLIP, [5, 2, 5])
    assert read == [5, 2]


def test_reading_holds_no_more_than_a_few_fields(stored):
    starts = np.linspace(0, 84, 25).astype(int)
    tracemalloc.start()
    stacks = clips.read_stacks(stored[0], CLIP, starts, 5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    field = SIZE * SIZE * 2
    # the stack being filled, what the next ones share with it, an image and its bytes
    assert stacks.nbytes < peak < stacks.nbytes + 20 * field


def test_threads_read_the_same(stored):
    data_dir, flow = stored

    def read(start):
        return clips.read_stacks(data_dir, CLIP, [start], 5)

    starts = list(range(80)) * 3
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = np.concatenate(list(pool.map(read, starts)))
    np.testing.assert_array_equal(found, clips.flow_stacks(flow, starts, 5))


def test_a_stack_cannot_start_before_the_clip(stored):
    with pytest.raises(ValueError, match='-1'):
        clips.flow_stacks(stored[1], [-1], 3)


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


# frames and flow: where they are stored, what reads them, what verifies them
STREAMS = [
    (clips.frames_path, clips.read_frames, clips.verify_frames),
    (clips.flow_path, clips.read_flow, clips.verify_flow),
]


def tiny_clip(data_dir, path_of, read):
    """(path, its bytes, images) of one stream of a clip of 3 frames, 8 pixels wide."""
    store(data_dir, 'A/a', *drawn(3, 8))
    path = path_of(data_dir, 'A/a')
    with open(path, 'rb') as file:
        return path, file.read(), read(data_dir, 'A/a')


def refusal(call, *arguments):
    """The words of a refusal, one line that names the clip's file; '' without one."""
    try:
        call(*arguments)
    except ValueError as error:
        words = str(error)
        assert os.path.join('A', 'a.zip') in words and '\n' not in words
        assert 'run optical_flow.py' in words
        return words
    return ''


@pytest.mark.parametrize('path_of, read, verify', STREAMS)
def test_a_file_cut_anywhere_is_refused(tmp_path, path_of, read, verify):
    path, content, _ = tiny_clip(tmp_path, path_of, read)
    for length in range(len(content)):
        os.truncate(path, 0)
        with open(path, 'wb') as file:
            file.write(content[:length])
        assert refusal(verify, tmp_path, 'A/a'), length
        assert refusal(read, tmp_path, 'A/a', [0]), length
    for more in (b'\0', content):
        with open(path, 'wb') as file:
            file.write(content + more)
        assert refusal(read, tmp_path, 'A/a', [0])


@pytest.mark.parametrize('path_of, read, verify', STREAMS)
def test_a_byte_flipped_anywhere_is_found(tmp_path, path_of, read, verify):
    """Verifying finds each; reading finds it or gives what was stored."""
    path, content, images = tiny_clip(tmp_path, path_of, read)
    found = 0
    with open(path, 'r+b', buffering=0) as file:
        for place, byte in enumerate(content):
            for flip in (0x01, 0x80, 0xFF):
                os.pwrite(file.fileno(), bytes([byte ^ flip]), place)
                assert refusal(verify, tmp_path, 'A/a'), (place, flip)
                if refusal(read, tmp_path, 'A/a'):
                    found += 1
                else:
                    np.testing.assert_array_equal(read(tmp_path, 'A/a'), images)
            os.pwrite(file.fileno(), bytes([byte]), place)
    assert found == 3 * len(content) and not refusal(verify, tmp_path, 'A/a')


@pytest.mark.parametrize('path_of, read, verify', STREAMS)
def test_a_file_that_holds_something_else_is_refused(tmp_path, path_of, read, verify):
    path, content, _ = tiny_clip(tmp_path, path_of, read)
    with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as other:
        other.writestr('00000000.jpg', b'not by this program')
    riff = b'RIFF\x24\0\0\0AVI LIST\x18\0\0\0hdrlavih' + bytes(200)
    for wrong in (b'', riff, (tmp_path / 'other.zip').read_bytes(), bytes(9999)):
        with open(path, 'wb') as file:
            file.write(wrong)
        assert 'damaged or of another program' in refusal(read, tmp_path, 'A/a', [0])
        assert 'damaged or of another program' in refusal(verify, tmp_path, 'A/a')
    # whole, but what it holds is no image
    ending = '.jpg' if read is clips.read_frames else '.png'
    with archive.Writer(path, ending, bytes) as writer:
        writer.append(b'text')
    assert 'image 0 cannot be decoded' in refusal(read, tmp_path, 'A/a', [0])
    os.remove(path)
    assert 'is missing' in refusal(read, tmp_path, 'A/a', [0])


def test_an_image_of_odd_width_is_no_flow(tmp_path):
    store(tmp_path, 'A/a', *drawn(3))
    with archive.Writer(clips.flow_path(tmp_path, 'A/a'), '.png', bytes) as writer:
        writer.append(cv2.imencode('.png', np.zeros((8, 9), np.uint8))[1])
    with pytest.raises(ValueError, match=r'a\.zip is damaged.*cannot be decoded'):
        clips.read_stacks(tmp_path, 'A/a', [0], 2)


def test_images_of_several_sizes_are_refused(tmp_path):
    frames, flow = drawn(3)
    store(tmp_path, 'A/a', [*frames, frames[0][:1, :1]], [*flow, flow[0][:1, :1]])
    for call, *words in (
        (clips.read_frames,),
        (clips.read_flow, [0, 2]),
        (clips.read_stacks, [0], 3),
    ):
        with pytest.raises(ValueError, match=r'a\.zip holds images of several sizes'):
            call(tmp_path, 'A/a', *words)


def test_clips_of_the_old_format_say_how_to_make_them_again(tmp_path):
    for path_of, read, verify in STREAMS:
        path = path_of(tmp_path, 'A/a.b')
        os.makedirs(os.path.dirname(path))
        old = path.replace('.zip', '.avi')
        with open(old, 'wb') as file:
            file.write(b'RIFF')
        for call in (read, verify):
            with pytest.raises(ValueError, match='no longer read.*--overwrite') as said:
                call(tmp_path, 'A/a.b')
            assert old in str(said.value) and '\n' not in str(said.value)


def test_an_encoder_that_fails_is_not_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(cv2, 'imencode', lambda *_: (False, None))
    frames, flow = drawn(2)
    for writer, item in ((clips.frames_writer, frames), (clips.flow_writer, flow)):
        with pytest.raises(ValueError, match='OpenCV cannot encode uint8'):
            with writer(tmp_path / 'x.zip') as file:
                file.append(item[0])


def test_a_writer_that_cannot_open_says_so(tmp_path):
    for opener in (clips.frames_writer, clips.flow_writer):
        with pytest.raises(FileNotFoundError, match='absent'):
            opener(tmp_path / 'absent' / 'x.zip')


def test_chroma_and_luma_are_near_the_frame(tmp_path):
    y, x = np.mgrid[0:224, 0:224]
    frame = np.stack([x, y, 255 - x], -1).astype(np.uint8)
    (stored,) = clips.as_stored([frame])
    assert cv2.PSNR(stored, frame) > 40
