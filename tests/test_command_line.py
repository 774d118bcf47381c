"""How programs end: one line for an error, the exit code, silence while importing."""

import os

import pytest

PROGRAM = """
import sys
sys.path.insert(0, '.')
from absl import flags
from results import command_line
flags.DEFINE_integer('number', 1, 'A number.')
flags.DEFINE_string('data_dir', None, 'A folder.')
flags.DEFINE_string('name', None, 'No path.')
flags.DEFINE_list('video', [], 'Paths.')
def main(values):
    {body}
command_line.run(main, 'stopped; go on')
"""


@pytest.fixture
def program(tmp_path, run_script):
    """Runs a main of that body with words; (stdout, stderr)."""

    def run(body, *words, code=0, **environment):
        path = tmp_path / 'program.py'
        path.write_text(PROGRAM.format(body=body))
        done = run_script(path, *words, code=code, **environment)
        return done.stdout, done.stderr

    return run


def test_the_result_is_the_exit_code(program):
    assert program('print(values.number)', '--number=7') == ('7\n', '')
    assert program('return 3', code=3) == ('', '')


@pytest.mark.parametrize(
    'body, words, expected',
    [
        ('pass', ['--numbr=7'], 'numbr'),
        ('pass', ['--number=x'], '--number=x'),
        ('pass', ['stray'], 'stray is no flag'),
        ('raise ValueError("x.avi is\\n  broken")', [], 'x.avi is broken'),
        ('open("nowhere/x")', [], 'nowhere/x'),
    ],
)
def test_an_error_ends_in_one_line_and_exit_code_1(program, body, words, expected):
    out, err = program(body, *words, code=1)
    assert err.startswith('program.py: ') and expected in err
    assert err.count('\n') == 1 and not out


def test_home_and_variables_are_expanded_in_paths(program, tmp_path):
    """As in --data_dir=~/x, where the shell leaves the ~."""
    body = 'print(values.data_dir, values.video, values.name)'
    words = ['--data_dir=~/x', '--video=$DATA/a,${DATA}/b.avi', '--name=~/$DATA']
    out, _ = program(body, *words, HOME='/home/me', DATA='/d')
    assert out == "/home/me/x ['/d/a', '/d/b.avi'] ~/$DATA\n"
    for path in ('$NOWHERE/x', '~nobody-of-this-name/x'):
        _, err = program(body, f'--data_dir={path}', code=1, HOME='/home/me')
        known = path.split('/')[0]
        assert f'--data_dir={path}: {known} is not known here: write the' in err
    (tmp_path / '$odd').mkdir()
    out, _ = program(body, f'--data_dir={tmp_path}/$odd')
    assert out == f'{tmp_path}/$odd [] None\n'


def test_ctrl_c_says_what_is_true_of_the_program(program):
    assert program('raise KeyboardInterrupt', code=130) == ('', '\nstopped; go on\n')


LIBRARY = """with command_line.tensorflow_in_silence():
        __import__('os').write(2, b'a note\\n')
    __import__('os').write(2, b'an error\\n')"""


def test_notes_of_an_import_are_kept_off_the_screen(program, monkeypatch):
    monkeypatch.delenv('TF_CPP_MIN_LOG_LEVEL', raising=False)
    assert program(LIBRARY) == ('', 'an error\n')
    assert 'TF_CPP_MIN_LOG_LEVEL' not in os.environ
    shown = program(LIBRARY, TF_CPP_MIN_LOG_LEVEL='0')
    assert shown == ('', 'a note\nan error\n')
