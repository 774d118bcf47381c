"""What holds for all of the source: imports do nothing, one place for each thing."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = [
    path.relative_to(ROOT)
    for folder in ('.', 'data', 'results', 'weights')
    for path in sorted((ROOT / folder).glob('*.py' if folder == '.' else '**/*.py'))
]
MODULES = [
    '.'.join(path.with_suffix('').parts) for path in SOURCES if path.stem != '__init__'
]


def functions_of(path):
    """(name, node) of each function in a source file, those inside others too."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding='utf-8'))):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node


def parameters_of(function):
    arguments = function.args
    return [
        argument.arg
        for argument in arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    ]


def test_importing_does_no_work(tmp_path):
    code = f"""
import importlib, os, sys
sys.path.insert(0, {str(ROOT)!r})
from absl import flags
import tensorflow.compat.v1 as tf
before = set(flags.FLAGS)
os.chdir({str(tmp_path)!r})
for name in {MODULES!r}:
    importlib.import_module(name)
assert set(flags.FLAGS) == before, set(flags.FLAGS) - before
assert not tf.get_default_graph().get_operations()
assert not os.listdir('.')
"""
    assert {'train', 'data.sampling', 'results.runs', 'weights.dump'} <= set(MODULES)
    subprocess.run([sys.executable, '-c', code], check=True, timeout=120)


def test_three_functions_know_of_softmax():
    """Another link from scores to classes is a change of these and nothing else."""
    calls = [
        (str(path), name)
        for path in SOURCES
        for name, function in functions_of(path)
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and 'softmax' in node.attr
        if not isinstance(node.value, ast.Name)  # tf.nn.softmax, scipy.special.softmax
    ]
    assert sorted(calls) == [
        ('model.py', 'classification_loss'),
        ('model.py', 'log_probabilities'),
        ('model.py', 'probabilities'),
    ]


@pytest.mark.parametrize(
    'path', [p for p in SOURCES if p.parts[0] in ('model.py', 'data')], ids=str
)
def test_the_model_and_the_data_take_what_they_use(path):
    """The dict of a run's flags ends in the programs and in what describes a run."""
    # `settings` is a column of clips.csv, which preprocessing fills
    wrong = {'flags'} if 'preprocessing' in path.parts else {'flags', 'settings'}
    for name, function in functions_of(path):
        assert not wrong & set(parameters_of(function)), name


@pytest.mark.parametrize('path', SOURCES, ids=str)
def test_functions_are_short_and_take_few_arguments(path):
    for name, function in functions_of(path):
        body = function.body
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
            lines = function.end_lineno - first.end_lineno  # the docstring aside
        else:
            lines = function.end_lineno - function.lineno
        assert lines <= 60, (name, lines)
        assert len(parameters_of(function)) <= 8, name


def test_no_test_file_imports_another():
    tests = sorted(pathlib.Path(__file__).parent.glob('test_*.py'))
    names = {path.stem for path in tests}
    for path in tests:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                assert not names & {alias.name for alias in node.names}, path.name
            elif isinstance(node, ast.ImportFrom):
                assert node.module not in names, path.name
