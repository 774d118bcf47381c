"""`python -m data.splits`: from folders as people have them to lists, and its check."""

import pathlib
import re

import listed
import pytest
import tiny
from absl import flags

from data import split_commands
from data import splits
from data.preprocessing import videos

ROOT = pathlib.Path(__file__).resolve().parent.parent
# how the names of well-known data sets are made: paths, flags, group of a clip
UCF11 = {'basketball': 'v_shooting', 'g_swing': 'v_golf', 'walk_dog': 'v_walk_dog'}
FOLDERS = {
    'UCF11': (
        [
            f'{name}/{stem}_{group:02}/{stem}_{group:02}_{clip:02}.mpg'
            for name, stem in UCF11.items()
            for group in range(1, 26)
            for clip in range(1, 5)
        ],
        ['--group_folder'],
        lambda clip: clip.split('/')[1].rpartition('_')[0],
    ),
    'HMDB51': (
        [
            f'{name}/{film}_{name}_{part}_nm_np1_{view}_med_{clip}.avi'
            for name in ('brush_hair', 'ride_bike', 'wave')
            for film in (
                '#20_Rhythm',
                'April_09',
                'Jumper(2008)',
                'Pirates & Co',
                'Ex[1]!',
            )
            for part, view in (('f', 'fr'), ('u', 'ba'))
            for clip in range(2)
        ],
        [r'--group_regex=^(.+)_[fhlu]_[cn]m_np\d_'],
        lambda clip: re.split('_[fu]_nm', clip.split('/')[1])[0],
    ),
    'Weizmann': (
        [
            f'{name}/{actor}_{name}.avi'
            for name in ('bend', 'jack', 'wave1')
            for actor in ('daria', 'denis', 'eli', 'ido', 'ira', 'lena')
        ],
        ['--group_regex=^([a-z]+)_'],
        lambda clip: clip.split('/')[1].split('_')[0],
    ),
    'UT-Interaction': (
        [
            f'{name}/{name}_seq{number:02}_set{1 + number // 11}_{3 * number}.avi'
            for name in ('handshake', 'hug', 'punch')
            for number in range(1, 21)
        ],
        [r'--group_regex=_(seq\d\d)_'],
        lambda clip: re.search('seq[0-9]+', clip)[0],
    ),
}


@pytest.fixture
def command(capsys):
    """Runs the program in this process; returns what it printed and what was wrong."""
    others = set(flags.FLAGS)
    split_commands.define_flags()

    def run(*words, code=0):
        flags.FLAGS.unparse_flags()
        flags.FLAGS(['splits.py', *words])
        try:
            ended, error = split_commands.main(flags.FLAGS), ''
        except ValueError as refusal:
            ended, error = 1, str(refusal)
        assert ended == code and '\n' not in error
        return capsys.readouterr().out + error

    yield run
    for name in set(flags.FLAGS) - others:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()


@pytest.mark.parametrize('name', FOLDERS)
def test_folders_as_people_have_them_become_lists(tmp_path, command, name):
    paths, options, group = FOLDERS[name]
    folder, out = listed.make_files(tmp_path / 'videos', paths), tmp_path / 'lists'
    said = command(f'--video_dir={folder}', f'--out={out}', *options)
    assert 'no group' not in said
    stored, tested = videos.find_videos(str(folder)), []
    assert len(stored) == len(paths)
    for number in (1, 2, 3):
        split = splits.load(stored, out, number)  # as train.py does, with no other flag
        assert not any(split.missing.values()) and not split.notes
        assert len(split.train) + len(split.test) == len(paths)
        # a recording is on one side, whichever class its clips are of
        sides = [{group(e.clip) for e in side} for side in (split.train, split.test)]
        assert sides[0] and sides[1] and not sides[0] & sides[1]
        assert {e.group for e in split.test} == sides[1]
        for example in split.train + split.test:
            assert split.class_names[example.label] == example.clip.split('/')[0]
        assert {e.label for e in split.test} == set(range(len(split.class_names)))
        assert (
            f'split {number}: {len(split.train)} train clips, {len(split.test)}' in said
        )
        tested += [e.clip for e in split.test]
    assert sorted(tested) == sorted(stored)
    assert 'nothing is wrong' in command(
        '--check', f'--video_dir={folder}', f'--split_dir={out}'
    )


@pytest.mark.parametrize(
    'name, group_regex, groups, clips',
    [('weizmann', '^([a-z]+)_', 9, 90), ('ut-interaction', r'_(seq\d\d)_', 20, 120)],
)
def test_real_folders_become_lists(
    tmp_path, command, real_clips, name, group_regex, groups, clips
):
    folder, out = real_clips / name / 'videos', tmp_path / 'lists'
    said = command(
        f'--video_dir={folder}', f'--out={out}', f'--group_regex={group_regex}'
    )
    total = re.search(
        r'^\d+ classes +(\d+) +(\d+) +([\d.]+) s +([\d.]+) s$', said, re.M
    )
    assert (int(total[1]), int(total[2])) == (groups, clips)
    assert 1 < float(total[3]) < float(total[4]) < 10
    stored = videos.find_videos(str(folder))
    for number in (1, 2, 3):
        split = splits.load(stored, out, number)
        assert len(split.train) + len(split.test) == clips
        assert abs(len(split.test) - clips / 3) <= clips / groups
    assert 'nothing is wrong' in command(
        '--check', f'--video_dir={folder}', f'--split_dir={out}'
    )


def test_the_readme_has_these_flags():
    rows = (ROOT / 'data/README.md').read_text('utf-8').splitlines()
    for name, (_, (flag,), _) in FOLDERS.items():
        row = next(row for row in rows if row.startswith(f'| {name} |'))
        assert flag in row.replace("'", '')


def test_the_program(tmp_path, run_script):
    """As a user calls it: lists from a folder, its check, exit codes."""
    paths, options, _ = FOLDERS['UCF11']
    folder, out = listed.make_files(tmp_path / 'videos', paths), tmp_path / 'lists'
    words = ['-m', 'data.splits', f'--video_dir={folder}']
    assert '75 ' in run_script(*words, f'--out={out}', *options).stdout
    check = [*words, '--check', f'--split_dir={out}']
    assert 'nothing is wrong' in run_script(*check).stdout
    (folder / paths[0]).unlink()
    assert 'wrong: split 1: 1 of ' in run_script(*check, code=1).stdout
    done = run_script(*words, f'--out={tmp_path}', code=1)
    assert done.stderr == (
        f'splits.py: --out={tmp_path} exists and holds other files: name a new folder\n'
    )


@pytest.fixture
def folder(tmp_path):
    """Three classes of ten clips, two of each of five people."""
    return listed.make_files(
        tmp_path / 'videos',
        [
            f'{name}/{person}_{clip}.mp4'
            for name in ('Run', 'Sit', 'Two Words')
            for person in ('ann', 'bob', 'cy', 'dee', 'eve')
            for clip in (1, 2)
        ],
    )


PEOPLE = '--group_regex=^([a-z]+)_'


def names(out, name):
    return (out / name).read_text().splitlines()


def test_lengths_are_printed(tmp_path, command):
    folder = tmp_path / 'videos'
    for place, (name, frames) in enumerate(
        [('A', 25), ('A', 50), ('B', 40), ('B', 10)]
    ):
        tiny.draw_video(folder / name / f'{place}.avi', frames, seed=place)
    listed.make_files(folder, ['B/not_a_video.avi'], b'text')
    said = command(f'--video_dir={folder}', f'--out={tmp_path / "lists"}', '--folds=2')
    lines = [line.split() for line in said.splitlines()]
    assert ['A', '2', '2', '1.0', 's', '2.0', 's'] in lines
    assert ['B', '3', '3', '0.4', 's', '1.6', 's'] in lines
    assert ['2', 'classes', '5', '5', '0.4', 's', '2.0', 's'] in lines
    assert '1 files cannot be opened as videos, such as B/not_a_video.avi' in said


def test_names_without_groups_are_told(folder, command, tmp_path):
    said = command(f'--video_dir={folder}', f'--out={tmp_path / "a"}')
    assert 'clips of one recording may be on both sides' in said
    listed.make_files(folder, ['Run/7.mp4'])
    said = command(f'--video_dir={folder}', f'--out={tmp_path / "b"}', PEOPLE)
    assert '1 of 31 clips have no group, such as Run/7: each is its own' in said
    said = command(f'--video_dir={folder}', f'--out={tmp_path / "c"}', '--group_folder')
    assert 'clips of one recording may be on both sides' in said


def test_chosen_groups_are_tested(folder, command, tmp_path):
    out = tmp_path / 'lists'
    command(f'--video_dir={folder}', f'--out={out}', PEOPLE, '--test_groups=ann,eve')
    assert sorted(path.name for path in out.iterdir()) == [
        'classInd.txt',
        'groups.txt',
        'testlist01.txt',
        'trainlist01.txt',
    ]
    tested = names(out, 'testlist01.txt')
    assert len(tested) == 12
    assert {re.split('[/_]', line)[1] for line in tested} == {'ann', 'eve'}
    assert len(names(out, 'trainlist01.txt')) == 18
    assert 'Two Words/bob_1.mp4 3' in names(out, 'trainlist01.txt')


def test_classes_limit_and_seed(folder, command, tmp_path):
    out = [tmp_path / str(n) for n in range(4)]
    for place, more in enumerate(
        [
            ['--classes=Run,Two Words', '--limit_per_class=5'],
            ['--classes=Run,Two Words', '--limit_per_class=5'],
            ['--classes=Run,Two Words', '--limit_per_class=5', '--seed=1'],
            ['--folds=5'],
        ]
    ):
        command(f'--video_dir={folder}', f'--out={out[place]}', PEOPLE, *more)
    assert names(out[0], 'classInd.txt') == ['1 Run', '2 Two Words']
    groups = names(out[0], 'groups.txt')
    assert [line.split('\t')[1] for line in groups] == 2 * [
        'ann',
        'bob',
        'cy',
        'dee',
        'eve',
    ]
    for path in out[0].iterdir():
        assert path.read_bytes() == (out[1] / path.name).read_bytes()
    assert groups != names(out[2], 'groups.txt')
    assert len(list(out[3].glob('testlist0?.txt'))) == 5
    for path in out[3].glob('testlist0?.txt'):
        assert len(path.read_text().splitlines()) == 6


@pytest.mark.parametrize(
    'options, says',
    [
        (['--out=o'], '--video_dir is needed'),
        (['--video_dir=V'], '--out is needed'),
        (['--video_dir=V', '--check'], '--split_dir is needed'),
        (['--video_dir=V', '--out=o', '--split_dir=x'], '--split_dir is for --check'),
        (['--video_dir=V', '--out=o', '--classes=Run,Fly'], 'there is no class Fly'),
        (['--video_dir=V', '--out=o', '--classes=Run'], 'Run is the only class'),
        (['--video_dir=V', '--out=o', PEOPLE, '--folds=6'], 'there are 5 groups'),
        (
            ['--video_dir=V', '--out=o', PEOPLE, '--test_groups=zoe'],
            'no group zoe, but ann',
        ),
        (
            ['--video_dir=V', '--out=o', PEOPLE, '--test_groups=ann,bob,cy,dee,eve'],
            'none is left to train on',
        ),
        (
            ['--video_dir=V', '--out=o', PEOPLE, '--test_groups=ann', '--folds=2'],
            '--folds and --test_groups: give one of them',
        ),
        (
            ['--video_dir=V', '--out=o', PEOPLE, '--group_folder'],
            '--group_folder and --group_regex: give one of them',
        ),
        (['--video_dir=V', '--out=o', '--group_regex=x'], 'put the part that names'),
        (['--video_dir=V/Run', '--out=o'], 'class'),
        (['--video_dir=V', '--out=V'], 'exists and holds other files'),
    ],
)
def test_flags_that_make_no_lists_end_in_one_line(
    folder, command, tmp_path, options, says
):
    before = sorted(tmp_path.rglob('*'))
    words = [re.sub('=V', f'={folder}', word) for word in options]
    words = [re.sub('=o$', f'={tmp_path}/o', word) for word in words]
    said = command(*words, code=1)
    assert says in said.splitlines()[-1]
    assert sorted(tmp_path.rglob('*')) == before


def test_a_class_with_too_few_groups_is_told(folder, command, tmp_path):
    listed.make_files(folder, ['Wave/ann_1.mp4', 'Wave/ann_2.mp4'])
    said = command(f'--video_dir={folder}', f'--out={tmp_path / "lists"}', PEOPLE)
    assert len(re.findall('has no test clip of 1 classes, such as Wave', said)) == 2
    assert len(re.findall('has no train clip of 1 classes, such as Wave', said)) == 1


# -- --check --------------------------------------------------------------------------


@pytest.fixture
def checked(folder, command, tmp_path):
    """Checks the lists of `folder` after `edit` of (name, old, new); returns what is
    said and asserts the exit code."""
    out = tmp_path / 'lists'
    command(f'--video_dir={folder}', f'--out={out}', PEOPLE, '--folds=2')

    def check(*edits, code=1):
        for name, old, new in edits:
            text = (out / name).read_text()
            assert re.search(old, text)
            (out / name).write_text(re.sub(old, new, text, count=1))
        return command(
            '--check', f'--video_dir={folder}', f'--split_dir={out}', code=code
        )

    return check


def test_check_of_good_lists_prints_a_table(checked):
    lines = [line.split() for line in checked(code=0).splitlines()]
    assert ['1', 'train', '12', '0', '3', '2'] in lines
    assert ['1', 'test', '18', '0', '3', '3'] in lines
    assert ['Run', '4/6', '6/4'] in lines and ['Two', 'Words', '4/6', '6/4'] in lines
    assert lines[-1] == ['nothing', 'is', 'wrong']


def test_check_names_each_thing_that_is_wrong(checked, folder):
    (folder / 'Sit/ann_1.mp4').unlink()
    (folder / 'Sit/bob_1.mp4').rename(folder / 'Sit/BOB_1.mp4')
    listed.make_files(folder, ['Sit/new_1.mp4'])
    said = checked(
        ('trainlist01.txt', r'(Run/.*\n)', r'\1\1'),
        ('testlist01.txt', r'Run/.*\n', ''),
        ('trainlist02.txt', r'(Run/.*) 1\n', r'\1 2\n'),
    )
    wrong = [line for line in said.splitlines() if line.startswith('wrong: ')]
    assert len(wrong) == 3
    assert '1 clips are in the train list more than once, such as Run/' in wrong[0]
    assert re.search(
        '1 of [0-9]+ (train|test) clips have no video, such as Sit/ann_1', wrong[1]
    )
    assert re.search(
        r'split 2: .*trainlist02.txt, line [0-9]+: .*has label 2', wrong[2]
    )
    assert '1 listed names differ from the stored ones in case alone' in said
    assert '1 listed names differ' in said and 'Sit/bob_1 from Sit/BOB_1' in said
    assert '2 videos are in no list, such as Run/' in said
    assert 'nothing is wrong' not in said


def test_check_finds_a_group_on_both_sides(checked):
    said = checked(
        ('groups.txt', r'(Run/cy_1.mp4)\tcy', r'\1\tann'),
        ('groups.txt', r'(Run/dee_1.mp4)\tdee', r'\1\tann'),
        ('groups.txt', r'(Run/bob_1.mp4)\tbob', r'\1\tann'),
        ('groups.txt', r'(Run/eve_1.mp4)\teve', r'\1\tann'),
    )
    assert (
        said.count(
            '1 groups are in the train and in the test list, such as group "ann"'
        )
        == 2
    )


def test_check_of_a_folder_without_lists(folder, command, tmp_path):
    (tmp_path / 'lists').mkdir()
    for name in ('lists', 'absent'):
        said = command(
            '--check',
            f'--video_dir={folder}',
            f'--split_dir={tmp_path / name}',
            code=1,
        )
        assert f'--split_dir={tmp_path / name}: ' in said
