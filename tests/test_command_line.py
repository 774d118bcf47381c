"""How programs end: one line for an error, the exit code, silence while importing."""

import os
import pathlib
import pty
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
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
    'words, defined',
    [
        (['-m', 'data.splits'], 'data/split_commands.py'),
        (['-m', 'data.synthetic.draw'], 'data/synthetic/draw.py'),
        (['-m', 'weights.convert'], 'weights/convert.py'),
        (['optical_flow.py'], 'optical_flow.py'),
        (['train.py'], 'train.py'),
        (['evaluate.py'], 'evaluate.py'),
    ],
)
def test_help_has_every_flag_of_the_program(words, defined, run_script):
    source = (ROOT / defined).read_text(encoding='utf-8')
    names = re.findall(r"flags\.DEFINE_\w+\(\s*'(\w+)'", source)
    text = run_script(*words, '--help', code=1).stdout
    shown = re.findall(r'^  --(?:\[no\])?(\w+)', text, re.M)
    assert names and set(names) <= set(shown)


@pytest.mark.parametrize(
    'body, words, expected',
    [
        ('pass', ['--numbr=7'], "Unknown command line flag 'numbr'"),
        ('pass', ['--number=x'], 'flag --number=x: '),
        ('pass', ['stray'], 'unexpected argument stray'),
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


def test_onednn_is_on_unless_the_user_says_otherwise(program, monkeypatch):
    monkeypatch.delenv('TF_ENABLE_ONEDNN_OPTS')
    body = """with command_line.tensorflow_in_silence():
        from tensorflow.python.framework import test_util
    print(test_util.IsMklEnabled())"""
    assert program(body)[0] == 'True\n'
    assert program(body, TF_ENABLE_ONEDNN_OPTS='0')[0] == 'False\n'


# -- printing ends no program ----------------------------------------------------------

# 200 kB are more than a pipe holds; what is done after them shows that it goes on
PRINTS = """for _ in range(10_000):
        print('\\u8df3\\u8dc3 jumping')
    sys.stdout.flush()
    with open('done', 'w') as file:
        file.write(str(sys.stdout.line_buffering))"""


@pytest.fixture
def printing(tmp_path):
    """Starts a program that prints a lot, from a folder in which it makes `done`."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    in_folder = PROGRAM.replace("'.'", repr(root))

    def start(*before, body=PRINTS, **given):
        (tmp_path / 'program.py').write_text(in_folder.format(body=body))
        words = [*before, sys.executable, 'program.py']
        return subprocess.Popen(words, cwd=tmp_path, **given)

    return start


@pytest.mark.parametrize(
    'environment',
    [
        {'PYTHONIOENCODING': 'latin-1'},
        {'LC_ALL': 'POSIX', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
    ],
)
def test_what_the_terminal_cannot_show_is_escaped(program, environment):
    body = r"print('jump \u8df3 \udc80'); raise ValueError('\u8df3.avi')"
    out, err = program(body, code=1, **environment)
    assert (out, err) == ('jump \\u8df3 \\udc80\n', 'program.py: \\u8df3.avi\n')


def test_a_pipe_that_ends_early(printing, tmp_path):
    process = printing(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline().decode() == '\u8df3\u8dc3 jumping\n'
    process.stdout.close()
    assert (process.stderr.read(), process.wait(timeout=60)) == (b'', 0)
    assert (tmp_path / 'done').exists()


def test_a_terminal_that_is_gone(printing, tmp_path):
    terminal, side = pty.openpty()
    process = printing(stdout=side, stderr=side)
    os.close(side)
    os.read(terminal, 1)
    os.close(terminal)
    assert process.wait(timeout=60) == 0 and (tmp_path / 'done').exists()


@pytest.mark.parametrize('closed', ['>&-', '2>&-', '>&- 2>&- <&-'])
def test_streams_that_are_closed(printing, tmp_path, closed):
    """The next file that is opened would take their number, and what libraries say."""
    body = """with command_line.tensorflow_in_silence(), open('done', 'w') as file:
        for number in (1, 2):
            __import__('os').write(number, b'a note of a library\\n')
        print('jumping')
        print('jumping', file=sys.stderr)
        file.write('done')"""
    words = ('sh', '-c', f'exec "$@" {closed}', 'sh')
    process = printing(*words, body=body, stdout=subprocess.DEVNULL)
    assert process.wait(timeout=60) == 0
    assert (tmp_path / 'done').read_text() == 'done'


def test_a_full_disk_under_stdout_is_told_once(printing, tmp_path):
    with open('/dev/full', 'w') as full:
        process = printing(stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and not (tmp_path / 'done').exists()
    assert err.decode() == 'program.py: [Errno 28] No space left on device\n'


def test_python_u_shows_each_line_at_once(printing, tmp_path):
    for value, expected in (('', 'False'), ('1', 'True')):
        environment = {**os.environ, 'PYTHONUNBUFFERED': value}
        process = printing(stdout=subprocess.DEVNULL, env=environment)
        assert process.wait(timeout=60) == 0
        assert (tmp_path / 'done').read_text() == expected
