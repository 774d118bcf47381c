"""List files in every form that people have them in, and what each refusal says."""

import listed
import pytest

from data import lists

CLASSES = ['HammerThrow', 'Hammering', 'Two Words']
CLIPS = [
    ('HammerThrow/v_HammerThrow_g08_c01', 0),
    ('Hammering/v_Hammering_g08_c01', 1),
    ('Two Words/my clip 3', 2),
]
PATHS = [f'{clip}.avi' for clip, _ in CLIPS]


@pytest.fixture
def read(tmp_path):
    """Reads lines as a train list of CLASSES; returns (listed, notes)."""

    def read_lines(lines, ends='\n', encoding='utf-8', class_names=CLASSES):
        path = tmp_path / 'trainlist01.txt'
        path.write_bytes(ends.join([*lines, '']).encode(encoding))
        return lists.read_list(path, class_names)

    return read_lines


def refused(read, lines, *words, **options):
    """The list is refused in one line that names the file and holds `words`."""
    with pytest.raises(ValueError) as error:
        read(lines, **options)
    message = str(error.value)
    assert '\n' not in message
    for word in ('trainlist01.txt', *words):
        assert word in message, message


@pytest.mark.parametrize('separator', [' ', '   ', '\t', ',', ', ', ';'])
@pytest.mark.parametrize('frames', ['', '121'])
@pytest.mark.parametrize('form', ['1', '0', 'word', 'none'])
def test_labels_in_every_form(read, separator, frames, form):
    lines = []
    for path, (_, label) in zip(PATHS, CLIPS, strict=True):
        given = {'1': str(label + 1), '0': str(label), 'word': CLASSES[label]}
        columns = [path, frames, given.get(form, '')]
        lines.append(separator.join(column for column in columns if column))
    if frames and form == 'none':
        # a number alone is a label, so a count without one cannot be right
        return refused(read, lines, 'line 1', '121')
    found, notes = read(lines)
    assert found == CLIPS
    assert notes == (['trainlist01.txt: labels count from 0'] if form == '0' else [])


@pytest.mark.parametrize(
    'lines',
    [
        [f'./{path}' for path in PATHS],
        [f'UCF/videos/{path}' for path in PATHS],
        [path.replace('/', '/take 1/', 1) for path in PATHS],
        [path.replace('/', '\\') for path in PATHS],
        ['UCF\\' + path.replace('/', '\\') for path in PATHS],
        [path.replace('.avi', '.AVI') for path in PATHS],
        ['# train', '', PATHS[0], '   ', PATHS[1] + '  # the second', '\t' + PATHS[2]],
        [path.replace('.avi', '.mp4') for path in PATHS],
    ],
)
@pytest.mark.parametrize('ends', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig'])
def test_paths_in_every_form(read, lines, ends, encoding):
    assert read(lines, ends, encoding)[0] == CLIPS


def test_folders_of_frames_have_no_ending(read):
    lines = ['HammerThrow/v_HammerThrow_g08_c01 121 0', 'Hammering/a.b 97 1']
    assert read(lines)[0] == [CLIPS[0], ('Hammering/a.b', 1)]
    assert read(['Two Words/my clip Two Words'])[0] == [('Two Words/my clip', 2)]


def test_a_folder_above_the_classes_is_told(read):
    _, notes = read([f'UCF/videos/{path}' for path in PATHS])
    assert notes == ['trainlist01.txt: paths are read from below "UCF/videos/"']
    # a class that all lines share is no such folder
    assert read(['Hammering/Two Words/x.avi'])[0] == [('Hammering/x', 1)]
    # nor is one that is not above all of them
    refused(read, ['UCF/' + PATHS[0], PATHS[1]], 'line 1', 'class "UCF"')


def test_names_without_a_folder_get_the_class_of_their_label(read):
    clips = [('HammerThrow/a', 0), ('Two Words/b', 2)]
    assert read(['a.avi 1', 'b.avi 3'])[0] == clips
    assert read(['a.avi 0', 'b.avi 2'])[0] == clips
    assert read(['a.avi HammerThrow', 'b.avi,Two Words'])[0] == clips
    # 1 and 2 of three classes may be the first two or the last two
    refused(read, ['a.avi 1', 'b.avi 2'], 'from 0 or from 1', 'Class/name.avi')
    # a line whose folder tells decides for the others
    assert read(['a.avi 1', PATHS[1] + ' 2'])[0][0] == clips[0]
    assert read(['a.avi 0', 'b.avi 3'][:1])[0] == clips[:1]
    refused(read, ['a.avi 0', 'b.avi 3'], 'line 2', 'numbers 3 classes from 0')
    refused(read, ['a.avi'], 'line 1', 'a path without a class')


def test_names_like_ucf101_carry_their_class(read):
    name = 'v_Hammering_g08_c01.avi'
    assert read([name])[0] == read([f'{name} 2'])[0] == [CLIPS[1]]
    refused(read, [f'{name} 3'], 'line 1', 'has label 3', 'Hammering is number 2')


def test_class_folders_in_another_case_are_found(read):
    assert read(['HAMMERING/x.avi 2'])[0] == [('HAMMERING/x', 1)]
    # but not where two classes differ in nothing else
    both = ['run', 'Run']
    assert read(['run/x.avi', 'Run/x.avi'], class_names=both)[0] == [
        ('run/x', 0),
        ('Run/x', 1),
    ]
    refused(read, ['RUN/x.avi'], 'class "RUN"', class_names=both)


@pytest.mark.parametrize(
    'label, says',
    [
        (' 3', '3'),
        ('\t3', '3'),
        (',3', '3'),
        (' 121 3', '3'),
        (' Two Words', 'Two Words'),
    ],
)
def test_label_that_disagrees_with_its_folder_is_refused(read, label, says):
    lines = [PATHS[0] + ' 1', PATHS[1] + label, PATHS[2] + ' 3']
    wanted = f'has label {says}, but its class Hammering is number 2'
    refused(read, lines, 'line 2', wanted)


def test_label_that_counts_otherwise_than_the_others_is_refused(read):
    lines = [PATHS[0] + ' 0', PATHS[1] + ' 2', PATHS[2] + ' 2']
    refused(read, lines, 'line 2', 'Hammering is number 1', 'counted from 0')


@pytest.mark.parametrize(
    'line',
    [
        'HammerThrow/x.avi 1 2 3',
        'HammerThrow/x.avi -1',
        'HammerThrow/x.avi 1.0',
        'HammerThrow/x.avi Sawing',
        'HammerThrow/x.avi Hammering/y.avi',
        'HammerThrow/x.avi 99999999999999999999',
    ],
)
def test_malformed_line_is_named_by_its_number(read, line):
    refused(read, ['# a', '', PATHS[0], line], 'line 4', 'expected "path"', line[12:])


@pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
def test_utf16_is_named(read, encoding):
    if encoding == 'utf-16':  # hardly a NUL byte, but a mark
        refused(read, ['视频' * 20], 'is UTF-16', encoding=encoding)
    refused(read, PATHS, 'is UTF-16', 'save it as UTF-8', encoding=encoding)


HOSTILE = [
    '../../x.avi',
    'Hammering/../../etc/x.avi',
    '../Hammering/x.avi',
    '..\\Hammering\\x.avi',
    'Hammering\\..\\..\\x.avi',
    'Hammering/..',
    '/etc/x.avi',
    '/Hammering/x.avi',
    'C:\\Hammering\\x.avi',
    'C:/Hammering/x.avi',
    '\\\\host\\Hammering\\x.avi',
    'Hammering//x.avi',
    '.',
    '~/Hammering/x.avi',
]


@pytest.mark.parametrize('line', HOSTILE)
def test_paths_that_lead_out_are_refused(read, line):
    refused(read, [PATHS[0], line], 'line 2')
    if not line.startswith('~'):
        refused(read, [line], 'line 1', 'names no path below a folder')


def test_a_nul_byte_is_refused(read):
    refused(read, [*PATHS, 'Hammering/a\0b.avi'], 'line 4', 'NUL')


@pytest.mark.parametrize(
    'stem',
    ['x' * 300, '-rf', '--video_dir=x', '$(ls)', 'a;b', '*', 'café', '视频', '%s'],
)
def test_odd_names_are_only_names(read, stem):
    assert read([f'Hammering/{stem}.avi 2'])[0] == [(f'Hammering/{stem}', 1)]


def test_bytes_that_are_not_utf8_are_kept(tmp_path):
    path = tmp_path / 'trainlist01.txt'
    path.write_bytes(b'Hammering/caf\xe9.avi 2\n')
    (clip, _), *_ = lists.read_list(path, CLASSES)[0]
    assert clip.encode('utf-8', 'surrogateescape') == b'Hammering/caf\xe9'


def test_hidden_files_are_left_out_and_told(read):
    found, notes = read(['Hammering/._x.avi 2', *PATHS, '.DS_Store', '._y.avi 1'])
    assert found == CLIPS
    assert notes == ['trainlist01.txt: 3 hidden files are left out']


def test_a_class_that_begins_like_a_comment(read):
    assert read(['#tag/x.avi 1', '#y.avi'], class_names=['#tag'])[0] == [('#tag/x', 0)]


# -- classInd.txt ---------------------------------------------------------------------


@pytest.mark.parametrize(
    'text',
    [
        '1 Run\n2 Two Words\n',
        '0 Run\n1 Two Words\n',
        '2\tTwo Words\r\n1\tRun\r\n',
        '\ufeff1,Run\n\n# more\n2, Two Words \n',
    ],
)
def test_class_names(tmp_path, text):
    path = tmp_path / 'classInd.txt'
    path.write_bytes(text.encode())
    assert lists.read_class_names(path) == ['Run', 'Two Words']


@pytest.mark.parametrize(
    'text, says',
    [
        ('', 'must be 1..C'),
        ('1 A\n1 B\n', 'must be 1..C'),
        ('1 A\n3 B\n', 'must be 1..C'),
        ('2 A\n3 B\n', 'start at 2'),
        ('A\nB\n', 'line 1: expected "number name"'),
        ('1 A\n2\n', 'line 2: expected "number name"'),
        ('1 A\n2 ..\n', 'line 2: expected "number name"'),
        ('1 A\n2 B/C\n', 'line 2: expected "number name"'),
        ('1 A\n2 A\n3 B\n', 'named twice'),
    ],
)
def test_class_ind_must_number_each_class_once(tmp_path, text, says):
    path = tmp_path / 'classInd.txt'
    path.write_text(text)
    with pytest.raises(ValueError, match='classInd.txt') as error:
        lists.read_class_names(path)
    assert says in str(error.value)


# -- HMDB51 ---------------------------------------------------------------------------


def write_hmdb51(folder, **texts):
    for name, text in texts.items():
        (folder / f'{name}_test_split1.txt').write_text(text)


def test_hmdb51_lists(tmp_path):
    write_hmdb51(
        tmp_path,
        wave='a.avi 1 \n#20_Rhythm_wave_np1_0.avi 2 \nc.avi 0 \n._a.avi 1 \n# end\n',
        cartwheel='d.avi 2 \r\ne f.avi 1 \r\n',
    )
    (tmp_path / '._wave_test_split1.txt').write_bytes(b'\0\5\x16\7')
    (tmp_path / 'wave_test_split2.txt').write_text('a.avi 2 \n')
    names, sides, paths, notes = lists.read_split(tmp_path, 1)
    assert names == ['cartwheel', 'wave']
    assert sides['train'] == [('cartwheel/e f', 0), ('wave/a', 1)]
    assert sides['test'] == [('cartwheel/d', 0), ('wave/#20_Rhythm_wave_np1_0', 1)]
    assert [path.name for path in paths] == [f'{n}_test_split1.txt' for n in names]
    assert notes == ['wave_test_split1.txt: 1 hidden files are left out']
    assert lists.list_numbers(tmp_path) == [1, 2]


@pytest.mark.parametrize('line', ['c.avi 3', 'c.avi', 'run/c.avi 1', '../c.avi 1'])
def test_malformed_hmdb51_line_is_refused(tmp_path, line):
    write_hmdb51(tmp_path, wave=f'a.avi 1\nb.avi 2\n{line}\n')
    with pytest.raises(ValueError, match='wave_test_split1.txt, line 3: '):
        lists.read_split(tmp_path, 1)


# -- which lists there are, groups ----------------------------------------------------


def test_numbers_of_lists(tmp_path):
    for name in (
        'trainlist01.txt',
        'testlist02.txt',
        'trainlist10.txt',
        '._trainlist03.txt',
    ):
        (tmp_path / name).write_text('')
    assert lists.list_numbers(tmp_path) == [1, 10]
    with pytest.raises(ValueError, match='--split_dir=.*absent: No such file'):
        lists.list_numbers(tmp_path / 'absent')


@pytest.mark.parametrize(
    'number, name', [(1, 'testlist01.txt'), (2, 'trainlist02.txt')]
)
def test_absent_list_is_named(tmp_path, number, name):
    listed.write_lists(tmp_path, ['1 A'], [], [])
    (tmp_path / 'testlist01.txt').unlink()
    with pytest.raises(ValueError, match=f'{name} not found: check --split_dir'):
        lists.read_split(tmp_path, number)


def test_groups(tmp_path):
    path = tmp_path / 'groups.txt'
    path.write_text('Hammering/take 1/a b.mpg\ttake 1\nv_Hammering_g01_c01.avi\t01\n')
    assert lists.read_groups(path, CLASSES) == {
        'Hammering/a b': 'take 1',
        'Hammering/v_Hammering_g01_c01': '01',
    }


@pytest.mark.parametrize(
    'line, says',
    [
        ('Hammering/a.avi', 'expected "path<TAB>group"'),
        ('# note', 'expected "path<TAB>group"'),
        ('../a.avi\t1', 'names no path below a folder'),
        ('Hammering/x.avi\t2', 'Hammering/x already has group "1"'),
    ],
)
def test_groups_that_are_malformed_are_named(tmp_path, line, says):
    path = tmp_path / 'groups.txt'
    path.write_text(f'Hammering/x.avi\t1\n{line}\n')
    with pytest.raises(ValueError, match='groups.txt, line 2: ') as error:
        lists.read_groups(path, CLASSES)
    assert says in str(error.value)
