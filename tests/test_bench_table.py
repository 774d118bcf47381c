"""Rows of `make bench`'s table, from made-up seconds."""

import pytest

from tests.bench import table


def test_medians_ratios_and_share_of_the_limit(tmp_path, monkeypatch):
    kept = tmp_path / 'bench.md'
    monkeypatch.setenv('BENCH_TABLE', str(kept))
    line = table.row('a step', [2, 1, 4], 'theirs', [3, 6, 4], 'flow', [1, 1, 9])
    assert line == '| a step | 2 s | theirs, 4 s | 2.00 (1.00 to 6.00) | 50% of flow |'
    other = table.row('another', [0.5], 'theirs', [0.25])
    assert other == '| another | 0.5 s | theirs, 0.25 s | 0.50 (0.50 to 0.50) |  |'
    absent = table.missing('a third', 'no such library')
    assert absent == '| a third | no such library | | | |'
    assert kept.read_text() == f'{line}\n{other}\n{absent}\n'
    lines = (*table.HEAD.splitlines(), line, other, absent)
    columns = {text.count('|') for text in lines}
    assert columns == {6}


def test_rounds_that_are_not_in_pairs_are_refused():
    with pytest.raises(ValueError, match='shorter'):
        table.row('a step', [1, 2], 'theirs', [1])


def test_calls_take_turns_and_the_first_round_is_not_counted():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in 'ab'}
    times = table.take_turns(calls, 2)
    assert ''.join(order) == 'ababab'
    assert {name: len(found) for name, found in times.items()} == {'a': 2, 'b': 2}
