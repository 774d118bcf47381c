"""Which videos there are, what their clips are called, and when one breaks off."""

import collections
import os
import shutil
import struct

import cv2
import drawings
import numpy as np
import pytest

from data import clips
from data.preprocessing import videos


def draw(path, frames=60, fourcc='MJPG'):
    code = cv2.VideoWriter_fourcc(*fourcc)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 25.0, (64, 48))
    assert writer.isOpened()
    for t in range(frames):
        writer.write(np.full((48, 64, 3), 4 * t % 256, np.uint8))
    writer.release()
    return path


def replace(path, tag, offset, value):
    """Writes the bytes `value` over those `offset` after the first `tag`."""
    content = bytearray(path.read_bytes())
    start = content.index(tag) + offset
    content[start : start + len(value)] = value
    path.write_bytes(content)


def judged(path):
    """(frames that decode, what the header says, how the video breaks off)."""
    capture = videos.open_video(str(path))
    header = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    frames = sum(1 for _ in videos.frames_of(capture))
    return frames, header, videos.truncation(str(path), frames, header)


# -- whole or not ----------------------------------------------------------------------


def test_up_to_five_percent_may_be_missing():
    for frames, header, lacks in ((95, 100, False), (94, 100, True), (8, 10, False)):
        assert videos._lacks(frames, header) == lacks
    assert videos._lacks(7, 10) and not videos._lacks(7, 10, tolerated=3)
    assert not videos._lacks(60, 0)


def test_sound_may_outlast_the_pictures(tmp_path):
    path = draw(tmp_path / 'x.MKV')
    for seconds, whole in ((2.72, True), (3.32, True), (3.6, False)):
        replace(path, b'\x44\x89\x88', 3, struct.pack('>d', seconds * 1000))
        frames, header, reason = judged(path)
        assert (frames, header) == (60, round(25 * seconds))
        assert (reason == '') == whole


def test_time_need_not_begin_at_zero(tmp_path, monkeypatch):
    path = str(draw(tmp_path / 'x.mkv', 3))
    for places, header, whole in (
        (range(90_000, 90_200), 90_200, True),
        (range(90_000, 90_100), 90_200, False),
        (range(90_000, 90_200), 200, True),  # a duration that begins where time does
    ):
        monkeypatch.setattr(videos, '_places', lambda _, places=places: iter(places))
        reason = videos.truncation(path, len(places), header)
        assert reason == '' if whole else '100 of 200 frames decode' in reason


@pytest.mark.parametrize('name', ['x.mkv', 'x.mp4'])
def test_nothing_may_come_at_the_second_look(tmp_path, monkeypatch, name):
    path = str(draw(tmp_path / name, 3, 'mp4v'))
    monkeypatch.setattr(videos, '_places', lambda _: iter(()))
    assert '3 of 100 frames decode' in videos.truncation(path, 3, 100)


def test_what_an_edit_list_hides_is_not_missing(tmp_path):
    """A phone trims a video by an edit list; its header goes on counting all frames."""
    path = draw(tmp_path / 'x.mp4', fourcc='mp4v')
    duration = (1200).to_bytes(4, 'big')
    replace(path, b'elst', 12, duration)
    frames, header, reason = judged(path)
    assert frames < 35 and (header, reason) == (60, '')
    assert 'OPENCV_FFMPEG_CAPTURE_OPTIONS' not in os.environ
    end = path.read_bytes().index(b'moov') - 4  # the pictures stand before it
    replace(path, b'ftyp', end // 2, bytes(end // 2 - 4))
    assert 'of 60 frames decode' in judged(path)[2]


def test_a_cut_file_breaks_off(tmp_path):
    path = draw(tmp_path / 'x.mkv')
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, header, reason = judged(path)
    assert reason.startswith(f'{frames} of 60 frames decode') and header == 60


def test_reasons_why_a_video_does_not_open(tmp_path):
    (tmp_path / 'loop.avi').symlink_to('loop.avi')
    (tmp_path / 'empty.avi').touch()
    (tmp_path / os.fsdecode(b'\xff.avi')).write_text('x')
    for name, reason in (
        ('loop.avi', 'Too many levels'),  # the system's reason, such as no permission
        ('absent.avi', 'no such file'),
        ('empty.avi', 'the file is empty'),
        ('', 'folder or device'),
        ('\udcff.avi', 'not UTF-8: rename it'),
    ):
        with pytest.raises((ValueError, OSError), match=reason):
            videos.open_video(os.path.join(tmp_path, name))


def test_printable():
    text = 'größe a\r\n\x1b[31m\udcff'
    assert videos.printable(text) == r'größe a\r\n\x1b[31m\udcff'


# -- which there are -------------------------------------------------------------------


def touched(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_links_that_lead_back_are_not_followed(tmp_path):
    touched(tmp_path, 'V/A/x.avi', 'W/A/x.avi', 'W/B/y.avi', 'far/z.avi')
    (tmp_path / 'V/A/up').symlink_to('..')
    (tmp_path / 'V/C').symlink_to('../far')
    assert list(videos.find_videos(str(tmp_path / 'V'))) == ['A/x', 'C/z']
    (tmp_path / 'W/A/across').symlink_to('../B')
    (tmp_path / 'W/B/back').symlink_to('../A')
    found = videos.find_videos(str(tmp_path / 'W'))
    assert list(found) == ['A/y', 'A/x', 'B/x', 'B/y']


def test_folders_that_cannot_be_read_are_told(tmp_path, monkeypatch):
    touched(tmp_path, 'A/x.avi', 'B/y.avi', 'C.avi/z.avi')
    (tmp_path / 'D.avi').mkdir()
    scandir = os.scandir

    def refused(folder):
        if os.path.basename(folder) == 'B':
            raise PermissionError(13, 'Permission denied', folder)
        return scandir(folder)

    monkeypatch.setattr(os, 'scandir', refused)
    told = {}

    def onerror(error):
        told[os.path.basename(error.filename)] = error.strerror

    found = videos.find_videos(str(tmp_path), onerror=onerror)
    assert list(found) == ['A/x', 'C.avi/z']
    assert told['B'] == 'Permission denied' and 'without videos' in told['D.avi']
    with pytest.raises(ValueError, match='B: Permission denied'):
        videos.find_videos(str(tmp_path))


def test_list_below_a_linked_folder(tmp_path):
    touched(tmp_path, 'V/A/x.avi', 'V/A/y.avi')
    (tmp_path / 'link').symlink_to('V')
    (tmp_path / 'list').write_text(f'{tmp_path}/V/A/x.avi 1\n{tmp_path}/link/A/y.avi')
    for folder in ('V', 'link'):
        found = videos.find_videos(str(tmp_path / folder), str(tmp_path / 'list'))
        assert found == {'A/x': 'A/x.avi', 'A/y': 'A/y.avi'}


@pytest.mark.parametrize(
    'content, expected',
    [
        (b'A/x.avi\n../x.avi', r', line 2: \.\./x\.avi lies outside --video_dir'),
        (b'\n/etc/passwd', r', line 2: .* lies outside --video_dir'),
        (b'x.avi', r', line 1: x\.avi is in no class folder .* move it'),
        (b'\n \n', ' names no video: write a path'),
        (b'A/x.avi\n\0', ' is not UTF-8 text: save it as UTF-8'),
        ('A/x.avi'.encode('utf-16'), ' is not UTF-8 text: save it as UTF-8'),
    ],
)
def test_a_wrong_list_says_where_and_the_way_out(tmp_path, content, expected):
    touched(tmp_path, 'A/x.avi', 'x.avi')
    (tmp_path / 'list').write_bytes(content)
    with pytest.raises(ValueError, match=rf'--list=\S*{expected}'):
        videos.find_videos(str(tmp_path), str(tmp_path / 'list'))


def test_shards_are_disjoint_and_stable():
    names = [f'A/{n}' for n in range(400)]
    parts = [{name for name in names if videos.in_shard(name, n, 4)} for n in range(4)]
    assert sum(map(len, parts)) == 400 and set().union(*parts) == set(names)
    assert min(map(len, parts)) > 60
    # the parts of a published run: they must not move with a version of this program
    assert [videos.in_shard('Archery/v_Archery_g01_c01', n, 4) for n in range(4)] == [
        False,
        False,
        True,
        False,
    ]
    for text in ('4/4', '1', '-1/4', '0/0', 'a/b'):
        with pytest.raises(ValueError, match='--shard'):
            videos.parse_shard(text)


def test_names_become_clips():
    assert videos.clip_name('Any thing/x.y.avi') == 'Any thing/x.y'
    assert videos.clip_name('v_Archery_g01_c02.avi') == 'Archery/v_Archery_g01_c02'
    assert videos.clip_name('v_HandStandPushups_g01_c02.avi') == (
        'HandstandPushups/v_HandStandPushups_g01_c02'
    )
    assert videos.clip_name('shoot/v_s_01/v_s_01_01.mpg') == 'shoot/v_s_01_01'
    with pytest.raises(ValueError, match='no class folder'):
        videos.clip_name('holiday.avi')


def test_all_videos_of_one_name_are_listed_at_once(tmp_path):
    touched(tmp_path, 'A/x.avi', 'A/x.MP4', 'A/y.avi', 'B/x.mov', 'B/z.ts', 'B/z.mkv')
    touched(tmp_path, 'B/deep/z.gif')
    with pytest.raises(ValueError, match='rename one of each') as caught:
        videos.find_videos(str(tmp_path))
    pairs = 'A/x.MP4 and A/x.avi; B/deep/z.gif and B/z.mkv and B/z.ts'
    assert f'would become one clip: {pairs}: rename' in str(caught.value)


def test_every_ending_and_what_is_passed_over(tmp_path):
    for n, ending in enumerate(videos.VIDEO_EXTENSIONS):
        touched(tmp_path, f'A/{n}{ending}', f'B/{n}{ending.upper()}')
    touched(tmp_path, 'README.txt', 'A/a.txt', 'A/deep/b.TXT', 'B/noending', 'A/c.jpg')
    touched(tmp_path, 'A/._0.avi', 'A/.DS_Store', '.hidden/x.avi', 'B/.x/y.avi')
    others = collections.Counter()
    found = videos.find_videos(str(tmp_path), others=others)
    assert len(found) == 2 * len(videos.VIDEO_EXTENSIONS) == 32
    assert others == {'.txt': 2, 'no ending': 1, '.jpg': 1}


@pytest.mark.parametrize(
    'names, parts',
    [
        (('train/A/x.avi', 'val/A/y.avi'), 'train, val'),
        (('Train/A/x.avi', 'Test_1/A/y.avi', 'extra/x.avi'), 'Test_1, Train'),
        (('test/A/x.avi', 'test/B/y.avi'), 'test'),
    ],
)
def test_parts_of_a_data_set_are_no_classes(tmp_path, names, parts):
    touched(tmp_path, *names)
    top = parts.split(',')[0]
    with pytest.raises(ValueError) as caught:
        videos.find_videos(str(tmp_path))
    assert f'one further down, in {parts}: give --video_dir={tmp_path}/{top}, and' in (
        str(caught.value)
    )
    (tmp_path / 'list').write_text('\n'.join(names))
    with pytest.raises(ValueError, match='one further down'):
        videos.find_videos(str(tmp_path), str(tmp_path / 'list'))
    assert videos.find_videos(str(tmp_path / top))  # the way out


def test_a_class_may_be_called_train(tmp_path):
    touched(tmp_path, 'train/stem_01/x.avi', 'bus/stem_01/y.avi', 'test/z.avi')
    assert set(videos.find_videos(str(tmp_path))) == {'train/x', 'bus/y', 'test/z'}


def test_list_chooses_videos(tmp_path):
    for name in ('A/x y 1.avi', 'A/z.avi', 'A/other.avi'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for label in (b' 12', b'\t12', b',12', b' 250 12'):
        lines = b'A/x y 1.avi\r\nA/z.avi' + label + b'\r\n\r\nA/no.avi\r\n'
        (tmp_path / 'list.txt').write_bytes(lines)
        found = videos.find_videos(str(tmp_path), str(tmp_path / 'list.txt'))
        assert found == {'A/x y 1': 'A/x y 1.avi', 'A/z': 'A/z.avi', 'A/no': 'A/no.avi'}
    (tmp_path / 'list.txt').write_text('../elsewhere/x.avi\n')
    with pytest.raises(ValueError, match='line 1: .* lies outside'):
        videos.find_videos(str(tmp_path), str(tmp_path / 'list.txt'))


def rotated(path, degrees):
    """Rewrites the display matrix of an mp4 file, as a phone held upright does."""
    matrix = {
        90: (0, 0x10000, 0, -0x10000, 0, 0),
        180: (-0x10000, 0, 0, 0, -0x10000, 0),
    }[degrees]
    content = bytearray(path.read_bytes())
    start = content.index(b'tkhd') + 4 + 40
    one = (0x10000).to_bytes(4, 'big')
    assert content[start : start + 4] == one
    values = [*matrix[:2], 0, *matrix[3:5], 0]
    for n, value in enumerate(values):
        place = start + 4 * n
        content[place : place + 4] = value.to_bytes(4, 'big', signed=True)
    path.write_bytes(content)


def test_phone_video_comes_upright(tmp_path):
    plain = drawings.draw(tmp_path / 'plain.mp4', fourcc='mp4v', shift=(0, 0), frames=2)
    straight = next(videos.frames_of(videos.open_video(str(plain))))
    for degrees, code in ((90, cv2.ROTATE_90_CLOCKWISE), (180, cv2.ROTATE_180)):
        phone = shutil.copy(plain, tmp_path / f'{degrees}.mp4')
        rotated(phone, degrees)
        upright = next(videos.frames_of(videos.open_video(str(phone))))
        np.testing.assert_array_equal(upright, cv2.rotate(straight, code))


def test_grey_video_has_three_channels(tmp_path):
    path = str(tmp_path / 'grey.avi')
    writer = clips.open_flow_writer(path, 32, 25)
    writer.write(np.full((32, 64), 77, np.uint8))
    writer.release()
    (frame,) = videos.frames_of(videos.open_video(path))
    assert frame.shape == (32, 64, 3) and (frame == 77).all()
