"""The demo's verdict on made-up figures, and its table from made-up runs."""

import json
import math

import pytest

from data.synthetic import accuracies


@pytest.mark.parametrize(
    'name, share, expected',
    [
        ('full', 0.95, ''),
        ('full', 1.0, ''),
        ('full', 0.949, 'below 95%'),
        ('no_lstm', 0.5, ''),
        ('no_lstm', 0.62, ''),
        ('no_lstm', 0.66, 'a clue leaks'),
        ('no_lstm', 0.2, ''),
        ('no_motion', 0.25, ''),
        ('no_motion', 0.38, 'a clue leaks'),
        ('no_motion', 0.12, 'below'),
        ('no_spatial', 0.5, ''),
        ('no_spatial', 0.66, 'a clue leaks'),
        ('no_spatial', 0.34, 'below'),
    ],
)
def test_verdict(name, share, expected):
    said = accuracies.verdict(name, share, 112)
    assert (expected in said) if expected else said == ''


@pytest.mark.parametrize('name', ['no_lstm', 'no_motion', 'no_spatial'])
def test_band_is_three_standard_errors(name):
    expected, _ = accuracies.EXPECTED[name]
    band = 3 * math.sqrt(expected * (1 - expected) / 400)
    assert accuracies.verdict(name, expected + band - 1e-6, 400) == ''
    assert accuracies.verdict(name, expected + band + 1e-6, 400)


def predictions(folder, right, count):
    folder.mkdir(parents=True)
    rows = [f'A/x{n},A,{"A" if n < right else "B"},0.5' for n in range(count)]
    (folder / 'predictions.csv').write_text(
        '\n'.join(['clip,label,prediction,score', *rows]) + '\n'
    )


FIGURES = {'full': 110, 'no_lstm': 50, 'no_motion': 28, 'no_spatial': 60}


def test_figures_are_counted_again(tmp_path, run_script):
    for name, right in FIGURES.items():
        predictions(tmp_path / name, right, 112)
    (tmp_path / 'full/confusion.png').write_bytes(b'')
    words = [
        '-m',
        'data.synthetic.accuracies',
        f'--runs={tmp_path}',
        f'--data={tmp_path}/no',
    ]
    done = run_script(*words)
    assert 'confusion.png' in done.stdout and '98.2%' in done.stdout
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results == {name: right / 112 for name, right in FIGURES.items()}


def test_a_leak_ends_with_a_code_and_one_line(tmp_path, run_script):
    for name, right in {**FIGURES, 'no_motion': 60}.items():
        predictions(tmp_path / name, right, 112)
    words = [
        '-m',
        'data.synthetic.accuracies',
        f'--runs={tmp_path}',
        f'--data={tmp_path}/no',
    ]
    done = run_script(*words, code=1)
    assert len(done.stderr.splitlines()) == 1
    assert 'no_motion 53.6% is above' in done.stderr and 'full' not in done.stderr
    # what was found is kept, and nothing half-written beside it
    assert json.loads((tmp_path / 'results.json').read_text())['no_motion'] == 60 / 112
    assert not list(tmp_path.glob('.results*'))


@pytest.mark.parametrize(
    'text, expected',
    [
        (None, 'is missing: make demo writes it'),
        ('', 'has no prediction'),
        ('clip,label,prediction\n', 'has no prediction'),
    ],
)
def test_absent_predictions_are_named(tmp_path, text, expected):
    path = tmp_path / 'predictions.csv'
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=f'{path} {expected}'):
        accuracies.accuracy(str(path))
