"""Wrong use of train.py ends in one line that says what is wrong and writes nothing."""

import pytest
import training

import train
from data import clips

GIVEN = ['--data_dir=DATA', '--train_dir=NEW', *training.RANDOM]
LATE = ['--head=late', '--validation_groups=1']


@pytest.fixture
def refused(run_narrow, undisturbed, data_dir, tmp_path):
    """Runs train.py with words in which DATA, NEW, EMPTY and RUN are folders; the line
    in which it ends, with those names for the folders."""
    (tmp_path / 'empty').mkdir()
    clips.write_index(tmp_path / 'empty/clips.csv', [])
    places = {
        'DATA': data_dir,
        'NEW': tmp_path / 'new',
        'EMPTY': tmp_path / 'empty',
        'RUN': undisturbed[0],
    }

    def run(*words):
        for name, path in places.items():
            words = [word.replace(f'={name}', f'={path}') for word in words]
        before = (undisturbed[0] / 'run.json').read_bytes()
        _, err = run_narrow('train.py', *words, code=1)
        (line,) = err.splitlines()  # not one of TensorFlow's beside it
        assert not (tmp_path / 'new').exists()  # nothing is left to stand in the way
        assert (undisturbed[0] / 'run.json').read_bytes() == before
        for name, path in places.items():
            line = line.replace(str(path), name)
        return line

    return run


@pytest.mark.parametrize(
    'words, expected',
    [
        (['--train_dir=NEW', *training.RANDOM], '--data_dir is needed'),
        (['--data_dir=DATA', *training.RANDOM], '--train_dir is needed'),
        (
            ['--data_dir=NEW', '--train_dir=NEW', *training.RANDOM],
            'NEW/clips.csv is missing',
        ),
        (
            ['--data_dir=EMPTY', '--train_dir=NEW', *training.RANDOM],
            'split 1 of the data folder has no stored train clip: check --data_dir',
        ),
        (
            [*GIVEN, '--split=3'],
            'split 3 of the data folder has no stored test clip: check --data_dir',
        ),
        ([*GIVEN, '--split_dir=NEW'], 'NEW/classInd.txt'),
        (['--data_dir=DATA', '--train_dir=NEW'], '--spatial_weights is needed: a dump'),
        (
            [*GIVEN, '--motion_weights=NEW'],
            '--motion_weights=NEW: neither a dump nor a --train_dir',
        ),
        (
            ['--data_dir=DATA', '--train_dir=RUN', *training.MOTION],
            '--train_dir=RUN holds a run of stage hybrid, not motion',
        ),
        (
            ['--data_dir=DATA', '--train_dir=RUN', *training.RANDOM]
            + [*training.HYBRID, '--max_steps=60', '--seed=3'],
            '--train_dir=RUN was started with --seed=0, not 3',
        ),
    ],
)
def test_data_and_folders(words, expected, refused):
    assert f'train.py: {expected}' in refused(*words)


@pytest.mark.parametrize(
    'words, expected',
    [
        ('--lerning_rate=1', "Unknown command line flag 'lerning_rate'"),
        ('stray', 'unexpected argument stray'),
        ('--stage=fusion', '--stage=fusion: value should be one of'),
        ('--group_regex=(', '--group_regex=('),
        ('--branches=lstm', '--branches=lstm: choose some, each once, from'),
        ('--branches=fusion,fusion', '--branches=fusion,fusion: choose some, each'),
        ('--lstm_units=a', '--lstm_units=a: give whole numbers'),
        ('--lstm_units=', '--lstm_units: give at least one number'),
        ('--lstm_units=4,0', '--lstm_units: give at least one number, none below 1'),
        ('--decay_steps=x', '--decay_steps=x: give whole numbers'),
        ('--decay_steps=-3', '--decay_steps: give steps, none below 0'),
        ('--batch_size=0', '--batch_size=0: '),
        ('--checkpoint_every=0', '--checkpoint_every=0: '),
        ('--workers=0', '--workers=0: '),
        ('--read_ahead=-1', '--read_ahead=-1: '),
        ('--max_steps=0', '--max_steps=0: '),
        ('--num_segments=0', '--num_segments=0: '),
        ('--seed=-1', '--seed=-1: '),
        ('--learning_rate=0', '--learning_rate=0.0: must be above 0'),
        ('--learning_rate=nan', '--learning_rate=nan: must be above 0'),
        ('--keep_prob=0', '--keep_prob=0.0: must be above 0'),
        ('--keep_prob=2', '--keep_prob=2: 2.0 is not number <= 1'),
        ('--fusion_l1=-1', '--fusion_l1=-1: -1.0 is not a non-negative'),
        ('--validation_groups=-1', '--validation_groups=-1: '),
        # a hybrid trains none of a CNN
        ('--train_layers=fc', '--train_layers=fc: stage hybrid trains all'),
        ('--shard=0/4', '--shard is for --stage=features alone'),
        ('--hybrid_weights=NEW', '--hybrid_weights is for --stage=joint alone'),
        ('--cross_modality', '--cross_modality needs --motion_weights of a dump'),
        ('--search_combination', '--search_combination needs --head=late and --valid'),
        ('--combination=0.4,0.4,0.2', '--combination=0.4,0.4,0.2 needs --head=late'),
    ],
)
def test_flags(words, expected, refused):
    line = refused(*GIVEN, words)
    assert line.startswith(f'train.py: {expected}') or f'flag {expected}' in line, line


@pytest.mark.parametrize(
    'words, expected',
    [
        (['--combination=x'], '--combination=x: give numbers'),
        (['--combination=1,2'], '--combination=1.0,2.0: give one weight for each of'),
        (['--combination=1,-1,2'], '--combination=1.0,-1.0,2.0: give one weight'),
        (['--combination=0,0,0'], '--combination=0.0,0.0,0.0: give one weight'),
        (['--combination=1,nan,1'], '--combination=1.0,nan,1.0: give one weight'),
        (
            ['--combination=1,1,1', '--search_combination'],
            '--combination=1.0,1.0,1.0 needs --head=late without --search_combination',
        ),
        (
            ['--combination=1,1,1', '--stage=motion'],
            '--combination is for --stage=hybrid or joint alone',
        ),
        (
            ['--search_combination', '--stage=spatial'],
            '--search_combination is for --stage=hybrid or joint alone',
        ),
        (
            ['--cross_modality', '--stage=spatial'],
            '--cross_modality is for --stage=motion or features or hybrid or joint',
        ),
        (
            ['--train_layers=conv6', '--stage=motion'],
            '--train_layers=conv6: stage motion trains all, fc, conv1',
        ),
        (
            ['--bfloat16', '--stage=features'],
            '--bfloat16 is for --stage=spatial or motion or hybrid or joint alone',
        ),
        (
            ['--search_combination', '--validation_groups=0'],
            '--search_combination needs --head=late and --validation_groups=N',
        ),
    ],
)
def test_flags_that_depend_on_others(words, expected, refused):
    assert refused(*GIVEN, *LATE, *words).startswith(f'train.py: {expected}')


def test_bfloat16_is_not_ignored_in_silence(run_narrow, data_dir, tmp_path):
    words = [*training.RANDOM, f'--data_dir={data_dir}', f'--train_dir={tmp_path}/new']
    words.append('--bfloat16')
    _, err = run_narrow('train.py', *words, code=1, TF_ENABLE_ONEDNN_OPTS='0')
    assert err.startswith('train.py: --bfloat16 needs oneDNN: take TF_ENABLE_ONEDNN')
    assert not (tmp_path / 'new').exists()


def test_a_run_is_continued_with_its_own_cnns(refused, run_narrow, data_dir, tmp_path):
    """The weights' flags may name another folder, but no other CNN."""
    words = ['--stage=features', '--branches=motion_lstm', '--num_segments=2']
    words += [f'--data_dir={data_dir}', '--motion_weights=random', '--seed=5']
    run_narrow('train.py', *words, f'--train_dir={tmp_path}/other')
    words = [*training.HYBRID, '--max_steps=60', '--spatial_weights=random']
    line = refused(
        '--data_dir=DATA',
        '--train_dir=RUN',
        *words,
        f'--motion_weights={tmp_path}/other',
    )
    assert 'is not the CNN that RUN was started with, which is RUN/weights/mot' in line


def test_what_was_trained_on_the_other_side_is_refused(run_narrow, data_dir, tmp_path):
    """A CNN that has seen the clips a hybrid is measured on would measure memory."""
    cnn, hybrid = tmp_path / 'cnn', tmp_path / 'hybrid'
    data, to = f'--data_dir={data_dir}', '--train_dir='
    run_narrow('train.py', data, f'{to}{cnn}', *training.MOTION, '--max_steps=1')
    words = [data, f'{to}{hybrid}', *training.HYBRID, '--branches=motion_lstm']
    words += ['--max_steps=1', f'--motion_weights={cnn}']
    for more, way_out in (
        (['--split=2'], 'train it with the same --split_dir and --split'),
        (training.HOLD_OUT, 'train it with the same --validation_groups'),
    ):
        _, err = run_narrow('train.py', *words, *more, code=1)
        (line,) = err.splitlines()
        assert f'--motion_weights={cnn} was trained on Discs' in line
        assert way_out in line
    assert not hybrid.exists()
    run_narrow('train.py', *words)


@pytest.mark.parametrize(
    'stage, num_clips, max_steps, keep_prob',
    [
        ('motion', 50, 1650, 0.9),
        ('motion', 999, 2599, 0.9),
        ('motion', 1000, 2600, 0.5),
        ('motion', 9537, 10000, 0.5),  # UCF101, split 1
        ('hybrid', 50, 450, 0.5),
        ('hybrid', 9537, 2000, 0.5),
        ('spatial', 50, 2000, 0.5),
        ('joint', 50, 2000, 0.5),
    ],
)
def test_defaults_follow_from_the_number_of_clips(
    stage, num_clips, max_steps, keep_prob
):
    given = dict.fromkeys([*train.DEFAULTS, 'decay_steps'])
    flags = {**given, 'stage': stage}
    train.fill_defaults(flags, num_clips)
    assert (flags['max_steps'], flags['keep_prob']) == (max_steps, keep_prob)
    assert flags['decay_steps'] == [int(0.7 * max_steps)]
    assert None not in flags.values()
    flags = {**given, 'stage': stage, 'max_steps': 7, 'keep_prob': 0.3}
    flags |= {'decay_steps': []}
    train.fill_defaults(flags, num_clips)
    assert (flags['max_steps'], flags['keep_prob']) == (7, 0.3)
    assert flags['decay_steps'] == []
