"""decoding.py: every frame in its place and at its time, whatever the container.

Frames show their number, so that a frame that is wrong, repeated or left over from
another video is seen. OpenCV is the second decoder where it has the codec and the
container is a plain one; elsewhere what was drawn is the truth.
"""

import contextlib
import fractions
import os
import re
import struct
import types

import av
import cv2
import drawings
import numpy as np
import pytest

from data.preprocessing import decoding


def decoded(path):
    """(list of seconds, list of frames, how the video breaks off)."""
    with contextlib.closing(decoding.open_video(str(path))) as video:
        pairs = list(video.frames())
        return [s for s, _ in pairs], [frame for _, frame in pairs], video.truncation()


def numbers_of(path):
    """The numbers that a video's frames show; asserts that it is whole."""
    _, frames, reason = decoded(path)
    assert reason == ''
    return [drawings.number_of(frame) for frame in frames]


def assert_drawn(frames, numbers, decibels=28):
    """The frames are those that were drawn, up to what the codec loses."""
    assert len(frames) == len(numbers)
    for frame, n in zip(frames, numbers, strict=True):
        assert drawings.number_of(frame) == n
        assert cv2.PSNR(frame, drawings.numbered(n, *frame.shape[:2])) > decibels, n


def replace(path, tag, offset, value):
    """Writes the bytes `value` over those `offset` after the first `tag`."""
    content = bytearray(path.read_bytes())
    start = content.index(tag) + offset
    content[start : start + len(value)] = value
    path.write_bytes(content)


def cut(path, part):
    os.truncate(path, int(part * path.stat().st_size))


# -- the same frames as a second decoder -----------------------------------------------

CONTAINERS = {
    'x.avi': 'mpeg4',
    'x.mp4': 'libx264',
    'x.m4v': 'mpeg4',
    'x.mov': 'libx264',
    'x.3gp': 'h263',
    'x.mkv': 'libx264',
    'vp8.webm': 'libvpx',
    'vp9.webm': 'libvpx-vp9',
    'x.flv': 'flv',
    'x.wmv': 'wmv2',
    'x.mpg': 'mpeg1video',
    'x.mpeg': 'mpeg2video',
    'x.ts': 'libx264',
    'x.mts': 'libx264',
    'x.m2ts': 'libx264',
    'x.ogv': 'libvpx',
}


@pytest.mark.parametrize('name', CONTAINERS)
def test_every_container(name, tmp_path):
    path = drawings.encode(tmp_path / name, CONTAINERS[name])
    seconds, frames, reason = decoded(path)
    assert reason == ''
    assert_drawn(frames, range(30))
    np.testing.assert_allclose(seconds, np.arange(30) / 25, atol=0.001)
    np.testing.assert_array_equal(frames, drawings.by_opencv(path))


def test_gif_and_a_name_like_a_pattern(tmp_path):
    """a%02d.gif is that file, not the series a00.gif, a01.gif, ..."""
    path = drawings.encode(tmp_path / 'a%02d.gif', 'gif', pix_fmt='rgb8')
    drawings.encode(tmp_path / 'a00.gif', 'gif', range(90, 95), pix_fmt='rgb8')
    assert numbers_of(path) == list(range(30))


def test_names_like_protocols_and_tags_in_other_encodings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tagged = {'container': {'movflags': 'faststart'}}
    path = drawings.encode(tmp_path / 'my:vid/x.mp4', **tagged)
    replace(path, b'Lavf', 0, b'\xff\xfe\xfd')
    assert numbers_of('my:vid/x.mp4') == list(range(30))


@pytest.mark.parametrize('codec', ['libx264', 'libx265'])
def test_ten_bits(codec, tmp_path):
    path = tmp_path / 'x.mkv'
    drawings.encode(path, codec, pix_fmt='yuv420p10le', encoder={'x265-params': QUIET})
    _, frames, _ = decoded(path)
    assert_drawn(frames, range(30))
    # they differ in how chroma is interpolated, which grey frames do not have
    assert (
        np.abs(np.subtract(frames, drawings.by_opencv(path), dtype=np.int64)).max() <= 2
    )


QUIET = 'log-level=none'


def test_av1(tmp_path, monkeypatch):
    """OpenCV's wheel has no decoder for it."""
    monkeypatch.setenv('SVT_LOG', '0')
    path = drawings.encode(tmp_path / 'x.mp4', 'libsvtav1')
    seconds, frames, reason = decoded(path)
    assert reason == '' and seconds[-1] == pytest.approx(1.16)
    assert_drawn(frames, range(30))


def test_a_codec_without_a_decoder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv('SVT_LOG', '0')
    path = drawings.encode(tmp_path / 'x.mp4', 'libsvtav1', range(5))
    content = path.read_bytes()
    for tag, name in ((b'evc1', 'evc'), (b'abcd', 'abcd')):
        path.write_bytes(content.replace(b'av01', tag))
        with pytest.raises(ValueError, match=f'no decoder for its codec, {name}$'):
            decoding.open_video(str(path))


@pytest.mark.parametrize('interlaced', [0, 1])
def test_colours_are_those_of_the_matrix_that_the_file_names(interlaced, tmp_path):
    """High-definition video has BT.709; read as BT.601 its green would be off by 20."""
    drawn = np.empty((64, 64, 3), np.uint8)
    drawn[:] = (40, 180, 90)
    path = tmp_path / 'x.mp4'
    with av.open(str(path), 'w') as out:
        options = {'qp': '1', 'x264-params': f'interlaced={interlaced}'}
        stream = out.add_stream('libx264', rate=25, options=options)
        stream.width = stream.height = 64
        stream.pix_fmt = 'yuv420p'
        stream.codec_context.colorspace = 1  # BT.709
        frame = av.VideoFrame.from_ndarray(drawn, 'bgr24')
        frame = frame.reformat(format='yuv420p', dst_colorspace='ITU709')
        for n in range(3):
            frame.pts, frame.time_base = n, fractions.Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    _, frames, _ = decoded(path)
    np.testing.assert_allclose(frames[1].mean((0, 1)), (40, 180, 90), atol=3)


def test_grey_video_has_three_channels(tmp_path):
    path = str(tmp_path / 'grey.avi')
    code = cv2.VideoWriter_fourcc(*'FFV1')
    writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, code, 25, (64, 32), False)
    writer.write(np.full((32, 64), 77, np.uint8))
    writer.release()
    _, (frame,), _ = decoded(path)
    assert frame.shape == (32, 64, 3) and (frame == 77).all()


def test_frames_may_change_their_size(tmp_path):
    """As in what a browser records; here two transport streams in one file."""
    one = drawings.encode(tmp_path / 'one.ts', numbers=range(10))
    size = {'size': (256, 192), 'stamps': range(10, 20)}
    two = drawings.encode(tmp_path / 'two.ts', numbers=range(10, 20), **size)
    both = tmp_path / 'both.ts'
    both.write_bytes(one.read_bytes() + two.read_bytes())
    seconds, frames, _ = decoded(both)
    assert [drawings.number_of(frame) for frame in frames] == list(range(20))
    assert {frame.shape for frame in frames} == {(96, 128, 3), (192, 256, 3)}
    assert (np.diff(seconds) > 0).all()


# -- interlaced ------------------------------------------------------------------------

INTERLACED = {'encoder': {'flags': '+ildct+ilme'}}


def interlaced(path):
    with av.open(str(path)) as container:
        return [frame.interlaced_frame for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    'name, codec, options',
    [
        ('x.mpg', 'mpeg2video', INTERLACED),
        ('x.mts', 'libx264', {'encoder': {'x264-params': 'interlaced=1'}}),
        ('x.avi', 'dvvideo', {'size': (720, 576)}),
    ],
)
def test_interlaced_frames_are_their_own(name, codec, options, tmp_path):
    """Each frame is the drawn one; OpenCV gives what its memory held before."""
    path = drawings.encode(tmp_path / name, codec, range(100, 120), **options)
    assert all(interlaced(path))
    seconds, frames, reason = decoded(path)
    assert reason == ''
    np.testing.assert_allclose(seconds, np.arange(20) / 25, atol=0.001)
    # still parts come out as drawn; elsewhere lines are interpolated
    assert_drawn(frames, range(100, 120), 23)


def test_interlaced_frames_among_whole_ones(tmp_path):
    """As progfirst.mpg: whole frames are not touched, interlaced ones come in place."""
    parts = []
    for n, options in enumerate(({}, INTERLACED, {})):
        numbers = range(15 * n, 15 * n + 15)
        options = {'format': 'mpeg2video', **options}
        part = drawings.encode(tmp_path / f'{n}', 'mpeg2video', numbers, **options)
        parts.append(part.read_bytes())
    path = tmp_path / 'x.mpg'
    path.write_bytes(b''.join(parts))
    assert interlaced(path) == [False] * 15 + [True] * 15 + [False] * 15
    _, frames, _ = decoded(path)
    assert_drawn(frames, range(45), 23)
    plain = tmp_path / 'plain.mpg'
    plain.write_bytes(parts[0])
    np.testing.assert_array_equal(frames[:15], drawings.by_opencv(plain))


def test_two_moments_in_one_frame_become_one(tmp_path):
    """A bar that moves between the fields: a comb in the file, an edge afterwards."""
    path = tmp_path / 'x.mpg'
    with av.open(str(path), 'w') as out:
        options = {'flags': '+ildct+ilme', 'qscale': '2'}
        stream = out.add_stream('mpeg2video', rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 128, 96, 'yuv420p'
        for n in range(6):
            woven = np.full((96, 128, 3), 30, np.uint8)
            for field in range(2):  # the lower lines are half a frame later
                left = 8 * n + 4 * field
                woven[field::2, left : left + 30] = 220
            frame = av.VideoFrame.from_ndarray(woven, 'bgr24')
            frame.pts, frame.time_base = n, fractions.Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())

    def comb(frame):  # how much neighbouring lines differ
        return np.abs(np.diff(frame[..., 0].astype(int), axis=0)).mean()

    with av.open(str(path)) as container:
        woven = [f.to_ndarray(format='bgr24') for f in container.decode(video=0)]
    _, frames, _ = decoded(path)
    assert len(frames) == 6
    assert comb(woven[3]) > 5 * comb(frames[3]) and comb(woven[3]) > 5


# -- upright ---------------------------------------------------------------------------

ONE = 0x10000
MATRICES = [
    (a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    for a, b, c, d in (
        *((1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)),
        *((0, 1, 1, 0), (0, -1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0)),
    )
]


@pytest.mark.parametrize('matrix', MATRICES)
def test_display_matrices(matrix, tmp_path):
    """Each pixel goes where ISO 14496-12, 6.2.2 says: (x, y) to (ax + cy, bx + dy)."""
    lossless = {'pix_fmt': 'yuv444p', 'encoder': {'qp': '0'}, 'numbers': range(3)}
    plain = drawings.encode(tmp_path / 'plain.mp4', **lossless)
    path = drawings.encode(tmp_path / 'x.mp4', matrix=matrix, **lossless)
    frame = decoded(plain)[1][2]
    a, b, _, c, d, *_ = (np.array(matrix) // ONE).tolist()
    y, x = np.mgrid[:96, :128]
    right, down = a * x + c * y, b * x + d * y
    right, down = right - right.min(), down - down.min()
    expected = np.zeros((down.max() + 1, right.max() + 1, 3), np.uint8)
    expected[down, right] = frame
    np.testing.assert_array_equal(decoded(path)[1][2], expected)
    if (a * d - b * c) > 0:  # a rotation, which OpenCV turns as well
        np.testing.assert_array_equal(drawings.by_opencv(path)[2], expected)


def test_a_matrix_of_zeros_turns_nothing(tmp_path):
    plain = drawings.encode(tmp_path / 'plain.mp4', numbers=range(2))
    path = drawings.encode(tmp_path / 'x.mp4', numbers=range(2), matrix=9 * [0])
    np.testing.assert_array_equal(decoded(path)[1], decoded(plain)[1])


# -- the right track -------------------------------------------------------------------


def tracks(path, *each):
    """Writes a file of several tracks: (codec, numbers, options)."""
    with av.open(str(path), 'w') as out:
        streams = [drawings.new_track(out, codec, **given) for codec, _, given in each]
        for stream, (_, numbers, given) in zip(streams, each, strict=True):
            drawings.fill_track(out, stream, numbers, **given)
    return path


JPEG = {'pix_fmt': 'yuvj420p', 'size': (640, 480)}
COVER = {**JPEG, 'disposition': av.stream.Disposition.attached_pic}
DEFAULT = {'disposition': av.stream.Disposition.default}
OTHER = {'disposition': av.stream.Disposition(0)}


@pytest.mark.parametrize(
    'name, each, first',
    [
        ('cover.mp4', [('mjpeg', [9], COVER), ('libx264', range(30), {})], 0),
        ('still.mkv', [('mjpeg', [9], JPEG), ('libx264', range(30), {})], 0),
        ('still.mov', [('mjpeg', [9], JPEG), ('mpeg4', range(30), OTHER)], 0),
        (
            'larger.mkv',
            [
                ('libx264', range(40, 70), DEFAULT),
                ('libx264', range(30), {**DEFAULT, 'size': (256, 192)}),
            ],
            0,
        ),
        (
            'default.mkv',
            [
                ('libx264', range(40, 70), {**OTHER, 'size': (256, 192)}),
                ('libx264', range(30), DEFAULT),
            ],
            0,
        ),
    ],
)
def test_the_right_track(name, each, first, tmp_path):
    path = tracks(tmp_path / name, *each)
    assert numbers_of(path) == list(range(30))


def test_a_cover_alone_is_no_video(tmp_path):
    path = tmp_path / 'x.mp4'
    with av.open(str(path), 'w') as out:
        cover = drawings.new_track(out, 'mjpeg', **COVER)
        sound = out.add_stream('aac', rate=8000)
        drawings.fill_track(out, cover, [9], **COVER)
        drawings.silence(out, sound, 1)
    with pytest.raises(ValueError, match='no video track, only sound or a cover'):
        decoding.open_video(str(path))


# -- times -----------------------------------------------------------------------------


def test_times_of_a_variable_rate(tmp_path):
    """A browser's file: time stamps in milliseconds, and the header's rate is 1000."""
    stamps = (40.1 * np.arange(60) + 9 * np.sin(np.arange(60))).astype(int)
    path = tmp_path / 'x.webm'
    drawings.encode(path, 'libvpx', range(60), stamps=stamps.tolist(), rate=1000)
    seconds, frames, reason = decoded(path)
    assert reason == ''
    assert_drawn(frames, range(60), 24)
    np.testing.assert_allclose(seconds, stamps / 1000, atol=0.0006)
    with contextlib.closing(decoding.open_video(str(path))) as video:
        assert video.rate == 1000 and video.expected_frames() == pytest.approx(60, 1)


def test_times_of_a_time_lapse(tmp_path):
    path = tmp_path / 'x.mkv'
    drawings.encode(path, 'mpeg4', stamps=range(0, 300, 10), rate=1)
    seconds, frames, reason = decoded(path)
    assert reason == '' and len(frames) == 30
    np.testing.assert_allclose(seconds, 10 * np.arange(30))


def test_times_always_grow():
    clock = decoding._Clock(50)
    assert [clock.seconds(t) for t in (None, None, None)] == pytest.approx(
        [0, 0.02, 0.04]
    )
    clock = decoding._Clock(1000)  # no rate that a video has: 25 are assumed
    stamps = [7, None, 7.5, 7.5, 3, 10, 0, 0.5]
    expected = [0, 0.04, 0.5, 0.96, 1.42, 3, 4.58, 6.16]
    assert [clock.seconds(t) for t in stamps] == pytest.approx(expected)


def test_a_gap_of_two_minutes_is_no_end(tmp_path):
    """OpenCV gives up after 4,096 packets of sound."""
    path = tmp_path / 'x.mp4'
    stamps = [*range(30), *range(3250, 3280)]
    with av.open(str(path), 'w') as out:
        stream = drawings.new_track(out, 'libx264')
        sound = out.add_stream('aac', rate=48000)
        drawings.fill_track(out, stream, range(60), stamps=stamps)
        drawings.silence(out, sound, 132)
    seconds, frames, reason = decoded(path)
    assert reason == '' and [drawings.number_of(f) for f in frames] == list(range(60))
    np.testing.assert_allclose(seconds, np.array(stamps) / 25)


# -- whole or not ----------------------------------------------------------------------


def test_up_to_five_percent_may_be_missing():
    for missing, total, expected in ((5, 100, False), (6, 100, True), (2, 10, False)):
        assert decoding.too_many(missing, total) == expected
    assert decoding.too_many(3, 10) and not decoding.too_many(-5, 0)


FRAGMENTED = {'movflags': 'frag_keyframe+empty_moov'}


def test_fragments_have_no_count(tmp_path):
    options = {'container': FRAGMENTED, 'encoder': {'g': '10', 'bf': '0'}}
    path = drawings.encode(tmp_path / 'x.mp4', **options)
    with contextlib.closing(decoding.open_video(str(path))) as video:
        assert video.counted == 0
    assert numbers_of(path) == list(range(30))
    content = path.read_bytes()
    third = content.rindex(b'moof') - 4
    path.write_bytes(content[:third])  # nobody can know that there were more
    assert numbers_of(path) == list(range(20))
    path.write_bytes(content[: third - 200])
    _, frames, reason = decoded(path)
    assert [drawings.number_of(f) for f in frames] == list(range(len(frames)))
    assert 10 <= len(frames) < 20 and 'of 20 frames decode' in reason


def test_empty_chunks_are_not_missing(tmp_path):
    """'As before' in AVI: a chunk of no bytes for each frame that is not there."""
    path = drawings.encode(tmp_path / 'x.avi', 'mpeg4', stamps=range(0, 60, 2))
    with contextlib.closing(decoding.open_video(str(path))) as video:
        assert video.counted == 59
    seconds, frames, reason = decoded(path)
    assert reason == '' and [drawings.number_of(f) for f in frames] == list(range(30))
    np.testing.assert_allclose(seconds, np.arange(30) / 12.5)
    # and a header that counts some at the end which are not there at all
    content = path.read_bytes()
    for tag, offset in ((b'avih', 24), (b'strh', 40)):
        replace(path, tag, offset, struct.pack('<I', 80))
    with contextlib.closing(decoding.open_video(str(path))) as video:
        assert video.counted == 80
    assert decoded(path)[2] == ''
    path.write_bytes(content)
    cut(path, 0.8)
    _, frames, reason = decoded(path)
    assert len(frames) == 19 and '19 of 40 frames decode' in reason


def test_what_an_edit_list_hides_is_not_missing(tmp_path):
    """A phone trims a video by an edit list; its header still counts all frames."""
    path = drawings.encode(tmp_path / 'x.mp4', 'mpeg4', range(60))
    replace(path, b'elst', 12, (1200).to_bytes(4, 'big'))
    with contextlib.closing(decoding.open_video(str(path))) as video:
        assert video.counted == 60
    numbers = numbers_of(path)
    assert numbers == list(range(len(numbers))) and 28 < len(numbers) < 35
    end = path.read_bytes().index(b'moov') - 4  # the frames are before it
    replace(path, b'ftyp', end // 4, bytes(end // 4))
    assert 'frames decode' in decoded(path)[2]


@pytest.mark.parametrize('name, codec', [('x.mp4', 'libx264'), ('x.avi', 'mpeg4')])
def test_no_frame_that_rests_on_damaged_data(name, codec, tmp_path):
    """A hole, as of a download: frames are left out up to the next key frame."""
    encoder = {'g': '20', 'bf': '0'}
    path = drawings.encode(tmp_path / name, codec, range(60), encoder=encoder)
    _, whole, _ = decoded(path)
    with av.open(str(path)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
    begin, end = packets[27].pos, packets[28].pos + packets[28].size
    replace(path, path.read_bytes()[:8], begin, bytes(end - begin))
    _, frames, reason = decoded(path)
    numbers = [drawings.number_of(frame) for frame in frames]
    assert numbers == [*range(27), *range(40, 60)]
    # of an AVI chunk the length is gone as well, so that the reader skips some
    assert re.search(r'47 of [56]\d frames decode \(codec ', reason)
    for frame, n in zip(frames, numbers, strict=True):
        np.testing.assert_array_equal(frame, whole[n])


@pytest.mark.parametrize('codec', ['libx264', 'mjpeg'])
@pytest.mark.parametrize('part', [0.3, 0.6, 0.9])
def test_a_cut_mp4_breaks_off(codec, part, tmp_path):
    """The last frame is cut in its middle: it is not stored half grey."""
    options = {'container': {'movflags': 'faststart'}}
    if codec == 'mjpeg':
        options.update(pix_fmt='yuvj420p', encoder={'qscale': '2'})
    else:
        options.update(encoder={'bf': '0'})
    path = drawings.encode(tmp_path / 'x.mp4', codec, range(60), **options)
    cut(path, part)
    _, frames, reason = decoded(path)
    assert f'{len(frames)} of 60 frames decode (codec ' in reason
    assert_drawn(frames, range(len(frames)))


@pytest.mark.parametrize(
    'name, codec', [('x.mkv', 'libx264'), ('x.webm', 'libvpx'), ('x.flv', 'flv')]
)
def test_a_cut_file_that_counts_nothing_breaks_off(name, codec, tmp_path):
    encoder = {'g': '5'}
    path = drawings.encode(tmp_path / name, codec, range(120), encoder=encoder)
    assert decoded(path)[2] == ''
    cut(path, 0.5)
    seconds, frames, reason = decoded(path)
    assert 20 < len(frames) < 100
    assert f'breaks off after {seconds[-1]:.0f}.' in reason and 'of 4.8 s' in reason


def test_sound_may_outlast_the_frames(tmp_path):
    path = tmp_path / 'x.mkv'
    with av.open(str(path), 'w') as out:
        stream = drawings.new_track(out, 'mpeg4')
        sound = out.add_stream('pcm_s16le', rate=8000)
        drawings.fill_track(out, stream, range(30))
        drawings.silence(out, sound, 9)
    assert numbers_of(path) == list(range(30))


def test_the_header_may_last_a_second_longer(tmp_path):
    path = drawings.encode(tmp_path / 'x.mkv', 'mpeg4', range(60))
    for seconds, whole in ((2.72, True), (3.32, True), (3.6, False)):
        replace(path, b'\x44\x89\x88', 3, struct.pack('>d', seconds * 1000))
        assert (decoded(path)[2] == '') == whole


def test_time_need_not_begin_at_zero(tmp_path):
    stamps = range(90_000, 90_060)
    path = drawings.encode(tmp_path / 'x.mkv', 'mpeg4', range(60), stamps=stamps)
    seconds, _, reason = decoded(path)
    assert reason == '' and seconds[0] == 0 and seconds[-1] == pytest.approx(59 / 25)
    # a duration that counts from where time begins, then from zero; then cut
    for lasts in (2.4, 3602.4):
        replace(path, b'\x44\x89\x88', 3, struct.pack('>d', lasts * 1000))
        assert decoded(path)[2] == ''
    cut(path, 0.4)
    assert 'of 2.4 seconds' in decoded(path)[2]


def test_reading_errors_have_their_reason(tmp_path, monkeypatch):
    path = str(drawings.encode(tmp_path / 'x.mkv', 'mpeg4', range(5)))
    for error, expected in (
        (av.error.InvalidDataError(1, 'garbage'), 'reading stops after 0 frames: garb'),
        (av.error.OSError(5, 'Input/output error'), None),
    ):
        video = decoding.open_video(path)

        def demux(*_, error=error):
            raise error

        name = video._container.format
        video._container = types.SimpleNamespace(
            format=name, demux=demux, duration=None
        )
        if expected:
            assert not list(video.frames()) and expected in video.truncation()
        else:
            with pytest.raises(OSError, match='Input/output') as caught:
                list(video.frames())
            assert caught.value.filename == path


def test_a_frame_that_cannot_be_converted_is_an_error(tmp_path):
    """Never the frame before: so no clip can be one stale frame."""
    path = str(drawings.encode(tmp_path / 'x.mp4', 'mpeg4', range(5)))

    def reformat(*_, **__):
        raise av.error.ArgumentError(22, 'Invalid argument')

    video = decoding.open_video(path)
    video._reformatter = types.SimpleNamespace(reformat=reformat)
    with pytest.raises(ValueError, match='FFmpeg: Invalid argument'):
        list(video.frames())
    frames = [frame for _, frame in decoding.open_video(path).frames()]
    assert not any(
        np.shares_memory(a, b) for a, b in zip(frames, frames[1:], strict=False)
    )


def test_reasons_why_a_video_does_not_open(tmp_path):
    (tmp_path / 'loop.avi').symlink_to('loop.avi')
    (tmp_path / 'empty.avi').touch()
    (tmp_path / 'text.avi').write_text('RIFF? no, this is text\n' * 99)
    (tmp_path / os.fsdecode(b'\xff.avi')).write_text('x')
    for name, reason in (
        ('loop.avi', 'Too many levels'),  # the system's reason, such as no permission
        ('absent.avi', 'no such file'),
        ('empty.avi', 'the file is empty'),
        ('text.avi', 'cannot be opened as a video'),
        ('', 'folder or device'),
        ('\udcff.avi', 'not UTF-8: rename it'),
    ):
        with pytest.raises((ValueError, OSError), match=reason):
            decoding.open_video(os.path.join(tmp_path, name))


# -- cameras ---------------------------------------------------------------------------


def test_cameras(monkeypatch):
    with pytest.raises(ValueError, match='there is no such camera'):
        decoding.camera_frames(97)
    drawn = [drawings.numbered(n) for n in range(3)]

    class Camera:
        def __init__(self, number):
            self.left, self.released = list(drawn), False

        def isOpened(self):
            return True

        def read(self):
            return (True, self.left.pop(0)) if self.left else (False, None)

        def release(self):
            self.released = True

    times = iter((100.0, 100.5, 100.75))
    monkeypatch.setattr(cv2, 'VideoCapture', Camera)
    monkeypatch.setattr(decoding.time, 'monotonic', lambda: next(times))
    pairs = list(decoding.camera_frames(0))
    assert [seconds for seconds, _ in pairs] == [0, 0.5, 0.75]
    assert [drawings.number_of(frame) for _, frame in pairs] == [0, 1, 2]


# -- the odd files ---------------------------------------------------------------------

ODD = {
    'av1/av1_mp4.mp4': range(20),
    'cover/covr_first_mp4.mp4': range(30),
    'fragmented/cut_at_fragment.mp4': range(32),
    'gap/gap_mp4.mp4': range(60),
    'interlaced/mpeg2.mpg': range(30),
    'interlaced/progfirst.mpg': range(15, 60),
    'nullframes/drops_avi.avi': range(0, 60, 2),
    'rate/browser.webm': [n % 256 for n in range(1000)],
}


@pytest.mark.parametrize('name', ODD)
def test_odd_files(real_clips, name):
    assert numbers_of(real_clips / 'odd' / name) == list(ODD[name])


def test_odd_files_mirrored(real_clips):
    """Frames are mirrored in the file and by the matrix again, or the reverse."""
    for name, turn in (
        ('hflip_mp4.mp4', lambda frame: frame[:, ::-1]),
        ('transpose_mp4.mp4', lambda frame: frame.transpose(1, 0, 2)),
    ):
        path = real_clips / 'odd/mirror' / name
        _, frames, reason = decoded(path)
        assert reason == ''
        found = [drawings.number_of(turn(frame)) for frame in frames]
        assert found == list(range(30))


def test_real_videos_equal_the_second_decoder(real_clips):
    paths = sorted(real_clips.glob('ucf101-sample/videos/*/*.avi'))[::20]
    paths += sorted(real_clips.glob('ut-interaction/videos/*/*.avi'))[::40]
    paths += [real_clips / 'odd/fragmented/sample_fragmented_seekable.mp4']
    for path in paths:
        _, frames, reason = decoded(path)
        assert reason == ''
        np.testing.assert_array_equal(frames, drawings.by_opencv(path))
