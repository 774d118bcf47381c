"""Tables of what a run predicts and is worth: what is in them, and their marks."""

import csv

import numpy as np
import pytest
import scored

from results import tables


def test_predictions_round_trip(tmp_path):
    scores, examples = scored.scores(), scored.EXAMPLES
    path = tmp_path / 'predictions.csv'
    tables.write_predictions(path, examples, scored.NAMES, scores)
    with open(path, newline='', encoding='utf-8') as file:
        header, *rows = csv.reader(file)
    assert header[:3] == ['clip', 'label', 'prediction']
    assert header[-2:] == ['one_sample', 'fusion'] and len(set(header)) == len(header)
    assert len(rows) == 40
    for row, values, example in zip(rows, scores['video'], examples, strict=True):
        assert row[1] == scored.NAMES[example.label]
        order = np.argsort(-values)[:5]
        assert row[2:12:2] == [scored.NAMES[label] for label in order]
        np.testing.assert_allclose(np.float64(row[3:12:2]), values[order], atol=1e-6)
    read = tables.read_predictions(path)
    assert read[examples[5].clip] == (rows[5][1], rows[5][2])


def test_predictions_that_are_missing_or_damaged(tmp_path):
    with pytest.raises(ValueError, match='evaluate that run first'):
        tables.read_predictions(tmp_path / 'predictions.csv')
    (tmp_path / 'x.csv').write_text('a,b\n1,2\n')
    with pytest.raises(ValueError, match='x.csv has no column'):
        tables.read_predictions(tmp_path / 'x.csv')


def test_every_table_is_marked(capsys):
    result = scored.result()
    tables.print_result(result)
    assert 'partial' not in capsys.readouterr().out
    result.update({'partial_split': True, 'missing': {'train': 5, 'test': 3}})
    tables.print_result(result)
    printed = capsys.readouterr().out
    # figures, classes and comparison
    assert printed.count('partial split, 3 clips missing') == 3
    result['trained_on'] = True
    assert tables.marks(result) == ' (partial split, 3 clips missing; trained on)'


def test_difference_says_by_how_much():
    result = scored.result()
    for name, share in (('video', 0.875), ('one_sample', 0.75)):
        result['figures'][name]['top1'] = share
    assert '-12.5 points' in tables.difference(result)


def test_train_clips_never_replace_the_figures_of_test_clips():
    result = scored.result()
    assert tables.ending(result) == ''
    assert tables.ending({**result, 'subset': 'train'}) == '_train'
