"""videos.py: which videos there are, what their clips are called, their shards."""

import collections
import os

import pytest

from data.preprocessing import videos


def test_printable():
    text = 'größe a\r\n\x1b[31m\udcff'
    assert videos.printable(text) == r'größe a\r\n\x1b[31m\udcff'


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


def test_a_task_of_a_job_is_a_shard():
    hosts = ['a:1', 'b:1', 'c:1']
    assert videos.shard_of_task('1/4', [], None) == (1, 4)
    assert videos.shard_of_task('0/1', hosts, 2) == (2, 3)
    for text, workers, task, match in (
        ('1/4', hosts, 2, '--shard=1/4: --task_index says which part'),
        ('0/1', hosts, 3, '--task_index=3: --worker_hosts has 3, counted from 0'),
        ('0/1', hosts, None, '--task_index=None: --worker_hosts has 3'),
        ('0/1', [], 0, '--task_index=0: --worker_hosts has 0'),
    ):
        with pytest.raises(ValueError, match=match):
            videos.shard_of_task(text, workers, task)


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
