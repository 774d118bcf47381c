"""The table of `make bench`: ours against a baseline, and as a share of its limit.

A benchmark adds a row for each comparison; the file that BENCH_TABLE names collects the
rows of all of them. The limit of a row is what the same machine takes, in the same run,
for the part of the work that nobody can avoid: the bare flow calls, decoding from
memory, a matrix product with as many operations.
"""

import os
import statistics
import time

HEAD = (
    '| what | ours | against | times as fast | share of the limit |\n'
    '|---|---|---|---|---|'
)


def row(what, ours, name, other, limit_name='', limit=()):
    """A line of the table, also added to the file that BENCH_TABLE names.

    Args:
      what: the work, with its size.
      ours, other: seconds of the same work, one for each round.
      name: what it is compared with.
      limit_name, limit: what it cannot be faster than, and its seconds.

    Returns:
      The line: medians, and the smallest and largest ratio of the rounds.
    """
    ratios = [theirs / own for own, theirs in zip(ours, other, strict=True)]
    mine, theirs = statistics.median(ours), statistics.median(other)
    share = ''
    if limit_name:
        share = f'{statistics.median(limit) / mine:.0%} of {limit_name}'
    line = (
        f'| {what} | {mine:.3g} s | {name}, {theirs:.3g} s | {theirs / mine:.2f} '
        f'({min(ratios):.2f} to {max(ratios):.2f}) | {share} |'
    )
    return kept(line)


def missing(what, why):
    """A line for what could not be measured, kept as those of `row`."""
    return kept(f'| {what} | {why} | | | |')


def kept(line):
    """Adds a line to the file that BENCH_TABLE names; returns it."""
    if os.environ.get('BENCH_TABLE'):
        with open(os.environ['BENCH_TABLE'], 'a', encoding='utf-8') as file:
            file.write(f'{line}\n')
    return line


def take_turns(calls, rounds):
    """Seconds of each call in each round, so that what else runs meets all of them.

    Args:
      calls: dict name -> function without arguments.
      rounds: int; one more, the first, is not counted.

    Returns:
      dict name -> list of seconds.
    """
    times = {name: [] for name in calls}
    for _ in range(1 + rounds):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begun)
    return {name: found[1:] for name, found in times.items()}
