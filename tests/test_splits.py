"""Splits: UCF101's and HMDB51's lists as distributed, the group rule, refusals."""

import hashlib
import unicodedata

import listed
import numpy as np
import pytest

from data import splits

UCF101_SIZES = {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}


@pytest.fixture
def lists(tmp_path):
    """Two classes whose order is not ASCII's, three groups."""
    return listed.write_lists(
        tmp_path,
        ['1 HammerThrow', '2 Hammering'],
        [
            'HammerThrow/v_HammerThrow_g08_c01.avi 1',
            'Hammering/v_Hammering_g08_c01.avi 2',
            'Hammering/v_Hammering_g09_c01.avi 2',
        ],
        ['HammerThrow/v_HammerThrow_g01_c01.avi', 'Hammering/v_Hammering_g01_c01.avi'],
    )


STORED = [
    'HammerThrow/v_HammerThrow_g01_c01',
    'HammerThrow/v_HammerThrow_g08_c01',
    'Hammering/v_Hammering_g01_c01',
    'Hammering/v_Hammering_g08_c01',
    'Hammering/v_Hammering_g09_c01',
]


@pytest.mark.parametrize('ends', ['\n', '\r\n'])
def test_lists_with_either_line_end(lists, ends):
    for path in lists.iterdir():
        path.write_bytes(ends.join(path.read_text().split('\n')).encode())
    split = splits.load(STORED, lists)
    assert split.class_names == ['HammerThrow', 'Hammering']
    # not in ASCII's order, and from 0
    assert [(e.clip, e.label, e.group) for e in split.train] == [
        ('HammerThrow/v_HammerThrow_g08_c01', 0, '08'),
        ('Hammering/v_Hammering_g08_c01', 1, '08'),
        ('Hammering/v_Hammering_g09_c01', 1, '09'),
    ]
    assert [(e.clip, e.label) for e in split.test] == [
        ('HammerThrow/v_HammerThrow_g01_c01', 0),
        ('Hammering/v_Hammering_g01_c01', 1),
    ]
    assert split.missing == {'train': 0, 'test': 0}
    assert split.hashes == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in lists.iterdir()
    }


def refused(lists, *names, stored=STORED, **options):
    """load() raises a ValueError of one line that holds each of `names`."""
    with pytest.raises(ValueError) as error:
        splits.load(stored, lists, **options)
    message = str(error.value)
    assert '\n' not in message
    for name in names:
        assert name in message, message


def edit(lists, name, old, new):
    text = (lists / name).read_text()
    assert old in text
    (lists / name).write_text(text.replace(old, new))


def test_label_that_disagrees_with_class_ind_is_refused(lists):
    edit(lists, 'trainlist01.txt', 'g09_c01.avi 2', 'g09_c01.avi 1')
    refused(lists, 'trainlist01.txt, line 3', 'g09_c01', 'Hammering is number 2')


def test_unknown_class_is_refused(lists):
    edit(lists, 'testlist01.txt', 'Hammering/', 'Sawing/')
    refused(lists, 'testlist01.txt', 'Sawing', 'classInd.txt')


def test_clip_listed_twice_is_refused(lists):
    path = lists / 'trainlist01.txt'
    path.write_text(path.read_text() * 2)
    refused(lists, '3 clips are in the train list more than once', 'v_HammerThrow_g08')


def test_group_on_both_sides_is_refused(lists):
    path = lists / 'testlist01.txt'
    path.write_text(path.read_text() + 'Hammering/v_Hammering_g09_c02.avi\n')
    stored = [*STORED, 'Hammering/v_Hammering_g09_c02']
    refused(lists, '"09"', 'v_Hammering_g09_c02', '--group_regex', stored=stored)


def test_same_clip_on_both_sides_is_refused_without_groups(lists):
    path = lists / 'testlist01.txt'
    path.write_text(path.read_text() + 'Hammering/v_Hammering_g09_c01.avi\n')
    refused(lists, 'v_Hammering_g09_c01', group_regex='^(nothing)')


def test_same_group_number_of_another_class_is_another_group(lists):
    edit(lists, 'testlist01.txt', 'Throw_g01', 'Throw_g09')
    stored = [*STORED, 'HammerThrow/v_HammerThrow_g09_c01']
    assert len(splits.load(stored, lists).test) == 2


def test_group_on_both_sides_is_refused_before_its_clips_are_stored(lists):
    path = lists / 'testlist01.txt'
    path.write_text(path.read_text() + 'Hammering/v_Hammering_g09_c02.avi\n')
    refused(lists, 'group "09"', allow_missing=True)


def test_missing_clips_are_counted_and_refused_until_allowed(lists):
    some = [clip for clip in STORED if clip != 'Hammering/v_Hammering_g09_c01']
    refused(lists, '1 of 3 train', '0 of 2 test', '--allow_missing', stored=some)
    split = splits.load(some, lists, allow_missing=True)
    assert split.missing == {'train': 1, 'test': 0}
    assert len(split.train) == 2 and len(split.test) == 2


def test_failed_clips_are_missing_without_lists_as_with_them(capsys):
    """Of 56 test clips 12 failed: 44 must not pass for the whole test side."""
    stored = [
        f'{c}/v_{c}_g{g:02d}_c{n:02d}'
        for c in 'ABCD'
        for g in range(1, 26)
        for n in (1, 2)
    ]
    tested = [clip for clip in stored if int(clip[-6:-4]) <= 7]
    assert len(tested) == 56
    failed = tested[::5]
    ok = set(stored) - set(failed)
    refused(
        '',
        '0 of 144 train and 12 of 56 test clips',
        '(12 failed in preprocessing)',
        '--allow_missing',
        stored=ok,
        failed=failed,
    )
    split = splits.load(ok, allow_missing=True, failed=failed)
    assert split.missing == {'train': 0, 'test': 12}
    assert len(split.test) == 44 and len(split.train) == 144
    splits.print_sides(split, [])
    assert 'partial split: 0 train and 12 test clips' in capsys.readouterr().out
    # a class of which nothing is left keeps its place among the labels
    left = {clip for clip in ok if clip[0] != 'B'}
    gone = splits.load(left, allow_missing=True, failed=set(stored) - left)
    assert gone.class_names == list('ABCD')
    assert {e.label for e in gone.train} == {0, 2, 3}
    # what was made again in the meantime is not missing
    assert not any(splits.load(stored, failed=failed).missing.values())


def test_failed_clips_of_lists_are_said_to_have_failed(lists):
    failed = ['Hammering/v_Hammering_g09_c01', 'Other/x']
    some = [clip for clip in STORED if clip not in failed]
    # of which those that were made again are not
    failed.append(STORED[0])
    refused(
        lists, '1 of 3 train', '(1 failed in preprocessing)', stored=some, failed=failed
    )


def test_one_class_only_is_refused(lists):
    one = [clip for clip in STORED if clip.startswith('Hammering/')]
    only = 'Hammering is the only class with clips to train on'
    refused('', only, stored=one)
    refused(lists, only, stored=one, allow_missing=True)


def test_empty_side_is_refused_even_when_missing_is_allowed(lists):
    trained = [clip for clip in STORED if '_g01_' not in clip]
    refused(lists, 'no stored test clip', stored=trained, allow_missing=True)
    refused('', 'no stored', stored=[])
    refused('', 'no stored test clip', stored=trained)


def test_stored_clips_that_no_list_names_are_left_out(lists):
    split = splits.load([*STORED, 'Hammering/v_Hammering_g20_c01', 'Other/x'], lists)
    assert len(split.train) == 3 and len(split.test) == 2


@pytest.mark.parametrize(
    'line', ['Hammering/../../etc/passwd.avi', '/etc/passwd.avi', '../x.avi', 'x.avi']
)
def test_paths_are_no_names(lists, line):
    path = lists / 'testlist01.txt'
    path.write_text(path.read_text() + line + '\n')
    refused(lists, 'testlist01.txt, line 3', allow_missing=True)


def test_names_with_spaces_dots_and_digits(tmp_path):
    lists = listed.write_lists(
        tmp_path,
        ['1 Two Words', '2 B'],
        ['Two Words/my clip 3.avi 1', 'B/a.b.c.avi 2'],
        ['Two Words/other clip 4.avi', 'B/7.avi'],
    )
    stored = ['Two Words/my clip 3', 'Two Words/other clip 4', 'B/a.b.c', 'B/7']
    split = splits.load(stored, lists)
    assert [e.clip for e in split.train] == ['Two Words/my clip 3', 'B/a.b.c']
    assert [e.clip for e in split.test] == ['Two Words/other clip 4', 'B/7']


def test_names_stored_in_another_case_are_found(tmp_path, capsys):
    """As HandstandPushups/v_HandStandPushups_* in copies of UCF101, and accents as
    a Mac stores them."""
    lists = listed.write_lists(
        tmp_path,
        ['1 HandstandPushups', '2 Café'],
        ['HandstandPushups/v_HandStandPushups_g08_c01.avi 1', 'Café/v_g08_c01.avi 2'],
        ['HandstandPushups/v_HandStandPushups_g01_c01.avi', 'Café/v_g01_c01.avi'],
    )
    stored = [
        'HandStandPushups/v_HandstandPushups_g08_c01',
        'HandstandPushups/v_HandStandPushups_g01_c01',
        unicodedata.normalize('NFD', 'Café/v_g08_c01'),
        'Café/v_g01_c01',
    ]
    split = splits.load(stored, lists)
    assert [e.clip for e in split.train + split.test] == [
        stored[0],
        stored[2],
        stored[1],
        stored[3],
    ]
    assert [e.label for e in split.train] == [0, 1]
    splits.print_sides(split, [])
    said = '2 listed names differ from the stored ones in case alone'
    assert said in capsys.readouterr().out
    # not where it would be a guess, or the name belongs to another listed clip
    refused(lists, '1 of 2 train', stored=[*stored, stored[0].lower()])
    path = lists / 'trainlist01.txt'
    path.write_text(
        path.read_text() + 'HandstandPushups/v_HANDstandPushups_g08_c01.avi\n'
    )
    refused(
        lists,
        '1 of 3 train',
        stored=['HandstandPushups/v_HandStandPushups_g08_c01', *stored[1:]],
    )


def test_groups_file_takes_the_place_of_the_regex(lists):
    lines = [f'{clip}.avi\t{n}' for n, clip in enumerate(STORED)]
    path = lists / 'groups.txt'
    path.write_text('\n'.join(lines))
    split = splits.load(STORED, lists)
    assert [e.group for e in split.train] == ['1', '3', '4']
    assert split.hashes['groups.txt'] == hashlib.sha256(path.read_bytes()).hexdigest()
    refused(lists, 'groups.txt already gives the groups', group_regex='_(g01)')
    path.write_text('\n'.join([*lines[:4], lines[4].replace('\t4', '\t2')]))
    refused(lists, 'group "2" of Hammering/v_Hammering_g01_c01')
    path.write_text('\n'.join(lines[:4]))
    refused(lists, 'groups.txt has no line for Hammering/v_Hammering_g09_c01')


def test_what_the_lists_leave_open_is_said(lists, capsys):
    path = lists / 'trainlist01.txt'
    path.write_text(
        path.read_text().replace('avi 1', 'avi 0').replace('avi 2', 'avi 1')
    )
    splits.print_sides(splits.load(STORED, lists), [])
    assert 'trainlist01.txt: labels count from 0\n' in capsys.readouterr().out


@pytest.mark.parametrize(
    'folder, number, name', [('absent', 1, 'classInd.txt'), ('', 2, 'trainlist02.txt')]
)
def test_absent_lists_are_named(lists, folder, number, name):
    refused(lists / folder, name, '--split_dir', number=number)


@pytest.mark.parametrize('group_regex', ['(', 'g[0-9]+', '_g(\\d+', ''])
def test_group_regex_that_finds_no_group_is_named(lists, group_regex):
    refused(lists, '--group_regex', group_regex=group_regex)


def test_names_without_a_group_are_their_own():
    assert splits.group_of('A/v_A_g07_c02') == '07'
    assert splits.group_of('A/holiday') == 'holiday'
    assert splits.group_of('bend/daria_bend', '^([a-z]+)_') == 'daria'
    # a group that need not occur in the name
    assert splits.group_of('A/holiday', '(x)?') == 'holiday'
    # the folder is not part of the file name
    assert splits.group_of('v_A_g03_c01/x') == 'x'


def test_rule_needs_ucf101_names_and_a_split_it_knows():
    refused('', 'A/holiday', '--split_dir', stored=['A/holiday', 'A/v_A_g01_c01'])
    stored = ['A/v_A_g01_c01', 'A/v_A_g09_c01']
    refused('', '--split=4', stored=stored, number=4)


def test_rule_sorts_classes_and_counts_labels_from_zero():
    stored = [f'{c}/v_{c}_g{g:02d}_c01' for c in 'CAB' for g in (1, 7, 8, 25)]
    split = splits.load(stored)
    assert split.class_names == ['A', 'B', 'C']
    assert {(e.clip[0], e.label) for e in split.train + split.test} == {
        ('A', 0),
        ('B', 1),
        ('C', 2),
    }
    assert {e.group for e in split.test} == {'01', '07'}
    assert {e.group for e in split.train} == {'08', '25'}


def test_hmdb51_lists(tmp_path):
    (tmp_path / 'wave_test_split1.txt').write_text('a.avi 1 \nb.avi 2 \nc.avi 0 \n')
    (tmp_path / 'cartwheel_test_split1.txt').write_text('d.avi 2 \r\ne f.avi 1 \r\n')
    (tmp_path / 'wave_test_split2.txt').write_text('a.avi 2 \n')
    stored = ['wave/a', 'wave/b', 'wave/c', 'cartwheel/d', 'cartwheel/e f']
    split = splits.load(stored, tmp_path, 1, '^(nothing)')
    assert split.class_names == ['cartwheel', 'wave']
    assert [e[:2] for e in split.train] == [('cartwheel/e f', 0), ('wave/a', 1)]
    assert [e[:2] for e in split.test] == [('cartwheel/d', 0), ('wave/b', 1)]
    assert len(split.hashes) == 2


# -- groups held out of the train side ------------------------------------------------


def test_hold_out_takes_whole_groups_and_follows_the_seed():
    examples = [
        splits.Example(f'{c}/v_{c}_g{g:02d}_c{n:02d}', label, f'{g:02d}')
        for label, c in enumerate('AB')
        for g in range(8, 26)
        for n in (1, 2)
    ]
    kept, held = splits.hold_out(examples, 4)
    assert sorted(kept + held) == sorted(examples)
    assert len({e.group for e in held}) == 4
    assert {e.group for e in held}.isdisjoint({e.group for e in kept})
    assert splits.hold_out(examples, 4) == (kept, held)
    assert splits.hold_out(examples, 0) == (examples, [])
    for count in (18, 19):
        with pytest.raises(ValueError, match='--validation_groups'):
            splits.hold_out(examples, count)


# -- the official lists ---------------------------------------------------------------


@pytest.fixture(scope='module')
def official(real_clips):
    folder = real_clips / 'ucfTrainTestlist'
    if not folder.is_dir():
        pytest.skip(f'{folder} does not hold the official lists')
    return folder


def all_names(folder):
    """The 13,320 clips of UCF101, from the raw lines."""
    names = set()
    for side in ('train', 'test'):
        for line in (folder / f'{side}list01.txt').read_text().splitlines():
            names.add(line.split(' ')[0].removesuffix('.avi'))
    assert len(names) == 13320
    return names


def test_official_sizes(official):
    clips = all_names(official)
    for number, sizes in UCF101_SIZES.items():
        split = splits.load(clips, official, number)
        assert (len(split.train), len(split.test)) == sizes
        assert len(split.class_names) == 101
        assert np.unique([e.label for e in split.train]).tolist() == list(range(101))
        assert len({(e.label, e.group) for e in split.test}) == 707
        names = split.class_names
        assert names.index('HammerThrow') > names.index('Hammering')
        for example in split.train + split.test:
            assert names[example.label] == example.clip.split('/')[0]


def test_hand_stand_pushups_is_one_class(official):
    split = splits.load(all_names(official), official)
    found = [e for e in split.train + split.test if 'v_HandStandPushups' in e.clip]
    assert len(found) > 100
    assert {split.class_names[e.label] for e in found} == {'HandstandPushups'}


def test_group_rule_equals_the_official_lists(official):
    clips = all_names(official)
    for number in UCF101_SIZES:
        by_rule, by_lists = (
            splits.load(clips, '', number),
            splits.load(clips, official, number),
        )
        for side in ('train', 'test'):
            ruled, listed = getattr(by_rule, side), getattr(by_lists, side)
            assert {(e.clip, e.group) for e in ruled} == {
                (e.clip, e.group) for e in listed
            }


def test_weizmann_actors_are_groups(real_clips):
    folder = real_clips / 'weizmann'
    clips = {
        f'{path.parent.name}/{path.stem}' for path in folder.glob('videos/*/*.avi')
    }
    assert len(clips) == 90
    tested = []
    for number in (1, 2, 3):
        split = splits.load(clips, folder / 'splits', number, '^([a-z]+)_')
        assert (len(split.train), len(split.test)) == (60, 30)
        actors = {e.group for e in split.test}
        assert len(actors) == 3 and not actors & {e.group for e in split.train}
        tested += [e.clip for e in split.test]
    assert sorted(tested) == sorted(clips)


def test_classes_without_a_clip_to_train_on_are_told(capsys):
    one, two, three = (splits.Example(f'{c}/x', n, c) for n, c in enumerate('ABC'))
    split = splits.Split(['A', 'B', 'C'], [one, two, three], [one], {}, {})
    splits.print_sides(split, [])
    assert 'no clip to train on' not in capsys.readouterr().out
    splits.print_sides(split, [two])
    assert 'no clip to train on: 1 classes, such as B' in capsys.readouterr().out
