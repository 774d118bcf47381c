"""Several processes train as one does; what is refused, and what a kill costs."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tasks
import tensorflow.compat.v1 as tf
import training

import model
from results import arithmetic
from results import cluster as clusters

FLAGS = {
    'stage': 'hybrid',
    'ps_hosts': ['h0:2222'],
    'worker_hosts': ['h1:2222', 'h2:2222'],
    'job_name': 'worker',
    'task_index': 1,
    'async_replicas': False,
    'timeout': 60.0,
    'bfloat16': False,
}

# -- flags -----------------------------------------------------------------------------


def test_without_the_flags_there_is_no_cluster():
    nothing = {'ps_hosts': [], 'worker_hosts': [], 'job_name': None, 'task_index': None}
    assert clusters.of_flags({**FLAGS, **nothing}) is None
    assert clusters.parts_of(None) == (0, 1)


def test_a_worker_takes_its_part_and_an_asynchronous_one_a_whole_batch():
    assert clusters.parts_of(clusters.of_flags(FLAGS)) == (1, 2)
    cluster = clusters.of_flags({**FLAGS, 'async_replicas': True})
    assert clusters.parts_of(cluster) == (0, 1)
    assert [*clusters.own_steps(cluster, 4, 9)[:3]] == [5, 7, 9]


@pytest.mark.parametrize(
    'changes, expected',
    [
        ({'job_name': None}, '--job_name is needed with --worker_hosts: ps or worker'),
        ({'task_index': None}, '--task_index=None: --worker_hosts has 2, counted from'),
        ({'task_index': 2}, '--task_index=2: --worker_hosts has 2, counted from 0'),
        ({'task_index': -1}, '--task_index=-1: --worker_hosts has 2'),
        ({'job_name': 'ps'}, '--task_index=1: --ps_hosts has 1, counted from 0'),
        ({'ps_hosts': []}, '--worker_hosts needs --ps_hosts=HOST:PORT'),
        ({'worker_hosts': []}, '--ps_hosts needs --worker_hosts=HOST:PORT'),
        (
            {'worker_hosts': [], 'ps_hosts': []},
            '--job_name needs --worker_hosts=HOST:PORT',
        ),
        ({'ps_hosts': ['h0']}, '--ps_hosts: h0 is not HOST:PORT'),
        ({'ps_hosts': ['h0:0']}, '--ps_hosts: h0:0 is not HOST:PORT'),
        ({'ps_hosts': ['h0:x']}, '--ps_hosts: h0:x is not HOST:PORT'),
        ({'worker_hosts': ['h1:70000', 'h2:1']}, '--worker_hosts: h1:70000 is not'),
        ({'worker_hosts': ['', 'h2:1']}, '--worker_hosts:  is not HOST:PORT'),
        ({'ps_hosts': ['h2:2222']}, 'h2:2222 is 2 times in --ps_hosts and --worker_h'),
        ({'timeout': 0.0}, '--timeout=0.0: must be above 0'),
        ({'timeout': float('nan')}, '--timeout=nan: must be above 0'),
    ],
)
def test_flags_that_cannot_work(changes, expected, refused):
    refused(lambda: clusters.of_flags({**FLAGS, **changes}), expected)


def test_asynchronous_needs_workers(refused):
    alone = dict.fromkeys(('job_name', 'task_index'))
    flags = {**FLAGS, **alone, 'ps_hosts': [], 'worker_hosts': []}
    flags['async_replicas'] = True
    refused(lambda: clusters.of_flags(flags), '--async_replicas needs --worker_hosts=')


def test_a_port_in_use_is_said(refused):
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        own = f'localhost:{taken.getsockname()[1]}'
        cluster = clusters.Cluster([own], ['localhost:1'], 'ps', 0, False, 1.0)
        refused(
            lambda: clusters.start_server(cluster),
            f'{own} of --ps_hosts cannot be opened: is the port in use',
        )


def test_an_unknown_host_is_said(refused):
    unknown = 'no-such-host.invalid:22'
    cluster = clusters.Cluster(['localhost:1'], [unknown], 'ps', 0, False, 0.1)
    refused(
        lambda: clusters.start_server(cluster),
        f'{unknown} of --ps_hosts and --worker_hosts: the host is not known here',
    )


@pytest.mark.parametrize(
    'gpus, expected',
    [(0, ['', '', '', '']), (1, ['0', '0', '0', '0']), (2, ['0', '1', '0', '0'])],
)
def test_workers_of_a_machine_take_its_gpus_in_turn(gpus, expected, monkeypatch):
    found = [None] * gpus
    monkeypatch.setattr(tf.config, 'list_physical_devices', lambda kind: found)
    workers = ['h1:2222', 'h1:2223', 'h2:2222', 'h1:2224']
    configs = [
        clusters.config(clusters.Cluster(['h0:1'], workers, 'worker', task, False, 1.0))
        for task in range(len(workers))
    ]
    assert [c.gpu_options.visible_device_list for c in configs] == expected
    assert all(c.gpu_options.allow_growth for c in configs)
    server = clusters.Cluster(['h1:1'], workers, 'ps', 0, False, 1.0)
    assert clusters.config(server).device_count == {'GPU': 0}


@pytest.mark.parametrize('bfloat16', [False, True])
def test_every_worker_calculates_as_one_process_would(bfloat16):
    own = clusters.config(clusters.of_flags({**FLAGS, 'bfloat16': bfloat16}))
    alone = arithmetic.config(bfloat16)
    assert own.graph_options == alone.graph_options
    rewrites = alone.graph_options.rewrite_options
    turned_on = rewrites.auto_mixed_precision_onednn_bfloat16 == rewrites.ON
    assert turned_on == bfloat16


# -- README ----------------------------------------------------------------------------


def block_after(words):
    """The indented lines that follow the paragraph with these words in README.md."""
    text = (training.ROOT / 'README.md').read_text(encoding='utf-8')
    lines = text.partition(words)[2].splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith('    '))
    lines = lines[first:]
    last = next(n for n, line in enumerate(lines) if line and line[0] != ' ')
    return textwrap.dedent('\n'.join(lines[:last]))


def slurm_task(task, folder):
    """The script under `srun`, as one of its three tasks, on hosts n0, n1, n2."""
    (folder / 'job').write_text(block_after('**Slurm.**'))
    return ['bash', folder / 'job'], {'SLURM_PROCID': str(task)}


def kubernetes_task(task, folder):
    """The container's command at an index of the job."""
    text = block_after('**Kubernetes.**').partition('- |\n')[2]
    lines = text.splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    own = itertools.takewhile(lambda line: line.startswith(' ' * indent), lines)
    (folder / 'job').write_text('\n'.join(line[indent:] for line in own))
    return ['bash', folder / 'job'], {'JOB_COMPLETION_INDEX': str(task)}


@pytest.mark.parametrize(
    'task_of, ps, workers',
    [
        (slurm_task, 'n0:2222', 'n1:2222,n2:2222'),
        (
            kubernetes_task,
            'train-0.train:2222',
            'train-1.train:2222,train-2.train:2222',
        ),
    ],
)
def test_the_commands_give_each_task_its_place(task_of, ps, workers, tmp_path):
    """With programs in the place of Slurm's and of train.py that show their words."""
    for name, does in (
        ('scontrol', 'printf "n%s\\n" 0 1 2'),
        ('srun', 'shift; exec "$@"'),
        ('python', 'printf "%s\\n" "$@"'),
    ):
        (tmp_path / name).write_text(f'#!/bin/bash\n{does}\n')
        (tmp_path / name).chmod(0o755)
    path = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_NODELIST': 'n[0-2]'}
    places = ([0, 'ps', 0], [1, 'worker', 0], [2, 'worker', 1])
    for number, job, task in places:
        command, environment = task_of(number, tmp_path)
        found = subprocess.run(
            command, env={**path, **environment}, capture_output=True, text=True
        )
        assert found.returncode == 0, found.stderr
        words = found.stdout.split()
        assert words[0] == 'train.py' and '--stage=motion' in words
        assert words[-4:] == [
            f'--ps_hosts={ps}',
            f'--worker_hosts={workers}',
            f'--job_name={job}',
            f'--task_index={task}',
        ]


# -- the run of the chief --------------------------------------------------------------


def changed(run, name, value):
    return {**run, name: value}


@pytest.mark.parametrize(
    'change, expected',
    [
        (
            lambda run: changed(run, 'flags', {**run['flags'], 'seed': 7}),
            '--seed=7 here, and 0 at worker 0: give all tasks the same flags',
        ),
        (
            lambda run: changed(run, 'flags', {**run['flags'], 'ps_hosts': ['h:1']}),
            "--ps_hosts=['h:1'] here, and [] at worker 0",
        ),
        (
            lambda run: changed(run, 'list_hashes', {'trainlist01.txt': 'other'}),
            '--split_dir: trainlist01.txt is not the list that worker 0 has',
        ),
        (
            lambda run: changed(
                run, 'preprocessing', {**run['preprocessing'], 'settings': 'other'}
            ),
            'the preprocessing here are not those of worker 0: do all tasks see',
        ),
        (
            lambda run: changed(run, 'train_clips', run['train_clips'][:-1]),
            'the train clips here are not those of worker 0',
        ),
    ],
)
def test_a_worker_that_differs_is_refused_by_name(
    change, expected, refused, undisturbed
):
    train_dir = str(undisturbed[0])
    cluster = clusters.of_flags({**FLAGS, 'timeout': 0.3})
    run = training.read_json(train_dir)
    assert clusters.wait_for_run(cluster, train_dir, run)['cnns']
    other = {'workers': 99, 'task_index': 5}  # which may differ
    run = changed(run, 'flags', {**run['flags'], **other})
    clusters.wait_for_run(cluster, train_dir, run)
    begun = time.monotonic()
    refused(lambda: clusters.wait_for_run(cluster, train_dir, change(run)), expected)
    assert time.monotonic() - begun > 0.3  # the chief might have written another one


def test_a_folder_that_the_chief_does_not_write_to_is_said(refused, tmp_path):
    cluster = clusters.of_flags({**FLAGS, 'timeout': 0.1})
    refused(
        lambda: clusters.wait_for_run(cluster, str(tmp_path), {}),
        f'--train_dir={tmp_path}: worker 0 has written no run.json there',
        'do all tasks see this folder',
    )


def test_no_parameter_server(data_dir, tmp_path, run_narrow):
    """Nobody listens at its address: said within --timeout, in one line."""
    ps, *workers = (f'localhost:{port}' for port in tasks.free_ports(3))
    words = [f'--data_dir={data_dir}', f'--train_dir={tmp_path / "run"}']
    words += [*training.MOTION, f'--ps_hosts={ps}', '--timeout=3', '--job_name=worker']
    words += [f'--worker_hosts={",".join(workers)}', '--task_index=0']
    begun = time.monotonic()
    _, err = run_narrow('train.py', *words, code=1)
    assert time.monotonic() - begun < 3 + 10  # and the program starts
    (line,) = err.splitlines()
    assert line.startswith(f'train.py: the parameter server {ps} of --ps_hosts is gone')


# -- two workers -----------------------------------------------------------------------

STAGES = {
    'hybrid': ('--num_segments=6', '--lstm_units=7,5'),
    'motion': ('--stage=motion',),
    'spatial': ('--stage=spatial',),
    'joint': ('--stage=joint', '--num_segments=3', '--lstm_units=7,5'),
}


def words_of(stage, batch, *more):
    words = [*STAGES[stage], *training.RANDOM, f'--batch_size={batch}']
    return [*words, '--log_every=1', *more]


def assert_close(run, other, loss, weights):
    """The logs and the last checkpoints of two runs are alike."""
    logs = training.log_of(run), training.log_of(other)
    assert [line['step'] for line in logs[0]] == [line['step'] for line in logs[1]]
    for line, other_line in zip(*logs, strict=True):
        assert line.keys() == other_line.keys()
        for name, value in line.items():
            np.testing.assert_allclose(value, other_line[name], atol=loss, rtol=0)
    (step, arrays), (other_step, others) = map(training.arrays_of, (run, other))
    assert step == other_step and arrays.keys() == others.keys()
    for name, array in arrays.items():
        size = max(1, np.abs(array).max())  # momentum and Adam's squares may be large
        np.testing.assert_allclose(
            array, others[name], atol=weights * size, rtol=0, err_msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    'stage, more',
    [
        ('hybrid', ['--keep_prob=1']),
        ('hybrid', ['--head=late', '--clip_norm=0.1']),  # with dropout
        ('motion', ['--keep_prob=1', '--balanced']),
        ('spatial', ['--train_layers=fc']),
        ('joint', []),
        (
            # From dumps and a checkpoint: only the start differs from the case above.
            # Sooner or later a unit is so near its kink that rounding decides which
            # gradient it gets: on two machines at step 9 of seed 0 and 18 of seed 1.
            'joint',
            ['--seed=1', '--max_steps=10']
            + [f'--{start}_weights=HYBRID' for start in (*model.STREAMS, 'hybrid')],
        ),
    ],
)
def test_two_workers_are_one_process_with_their_batch(
    stage, more, data_dir, undisturbed, run_narrow, tmp_path
):
    more = [word.replace('=HYBRID', f'={undisturbed[0]}') for word in more]
    more = ['--max_steps=20', '--checkpoint_every=10', *more]
    one, two = tmp_path / 'one', tmp_path / 'two'
    places = [f'--data_dir={data_dir}', f'--train_dir={one}']
    run_narrow('train.py', *places, *words_of(stage, 4, *more))
    with tasks.Tasks(data_dir, two, *words_of(stage, 2, *more)) as running:
        running.all_ended()
    assert_close(one, two, 1e-4, 1e-5)
    started, ended = (training.read_json(run)['flags'] for run in (one, two))
    assert started['batch_size'] == ended['batch_size'] == 4


@pytest.mark.slow
def test_a_run_of_two_workers_is_continued_by_one_process(
    data_dir, run_narrow, tmp_path
):
    one, two = tmp_path / 'one', tmp_path / 'two'
    words = ['--max_steps=20', '--checkpoint_every=5', *training.HOLD_OUT]
    places = [f'--data_dir={data_dir}', '--keep_prob=1']
    alone = words_of('hybrid', 4, *words)
    run_narrow('train.py', *places, f'--train_dir={one}', *alone)
    with tasks.Tasks(
        data_dir, two, '--keep_prob=1', *words_of('hybrid', 2, *words)
    ) as running:
        running.wait_for_step(7)
        for task in (0, 1):
            running.running['worker', task].send_signal(signal.SIGTERM)
        out, _ = running.ended('worker', 0, 128 + signal.SIGTERM)
        running.ended('worker', 1, 128 + signal.SIGTERM)
        assert 'stopped at step' in out
    out, _ = run_narrow('train.py', *places, f'--train_dir={two}', *alone)
    assert 'continuing at step' in out and 'temperature of best' in out
    assert_close(one, two, 1e-4, 1e-5)


@pytest.mark.slow
def test_kills_of_a_worker_and_of_the_chief(data_dir, run_narrow, tmp_path):
    """And in the end it is the run that nobody disturbed."""
    more = ['--max_steps=120', '--checkpoint_every=9', '--optimizer=momentum']
    one, two = tmp_path / 'one', tmp_path / 'two'
    places = [f'--data_dir={data_dir}', f'--train_dir={one}']
    run_narrow('train.py', *places, *words_of('hybrid', 4, *more))
    with tasks.Tasks(data_dir, two, *words_of('hybrid', 2, *more)) as running:
        running.wait_for_step(12)
        running.kill('worker', 1)
        logged = len(training.log_of(two))
        time.sleep(1)
        assert len(training.log_of(two)) <= logged + 1  # a step needs both
        running.start('worker', 1)
        running.wait_for_step(40)
        running.kill('worker', 0)
        chief = running.start('worker', 0)
        running.wait_for_step(60)
        assert chief.poll() is None
        running.running['worker', 0].send_signal(signal.SIGTERM)
        out, _ = running.ended('worker', 0, 128 + signal.SIGTERM)
        assert 'continuing at step' in out and 'stopped at step' in out
        running.start('worker', 0)
        running.all_ended()
    # at the kill of a worker one step may count its part twice
    assert_close(one, two, 5e-2, 1e-2)
    assert training.arrays_of(two)[0] == 120


@pytest.mark.slow
def test_a_parameter_server_that_is_killed_is_said(data_dir, tmp_path):
    words = words_of('hybrid', 2, '--max_steps=100000', '--checkpoint_every=9')
    with tasks.Tasks(data_dir, tmp_path / 'run', *words) as running:
        running.wait_for_step(12)
        running.kill('ps', 0)
        begun = time.monotonic()
        for task in (0, 1):
            _, err = running.ended('worker', task, 1)
            said = [line for line in err.splitlines() if not from_tensorflow(line)]
            (line,) = said
            assert line.startswith('train.py: the parameter server localhost:')
            assert 'the same commands continue from the last checkpoint' in line
        assert time.monotonic() - begun < 20
    assert training.arrays_of(tmp_path / 'run')[0] >= 9


def from_tensorflow(line):
    """What it prints when it is imported, whatever the level of its log."""
    return line.startswith(('WARNING: All log messages before absl', 'I0000'))


@pytest.mark.slow
def test_a_worker_with_another_flag_is_refused_while_the_others_train(
    data_dir, tmp_path
):
    words = words_of('hybrid', 2, '--max_steps=30')
    with tasks.Tasks(data_dir, tmp_path / 'run', *words) as running:
        running.wait_for_step(3)
        running.kill('worker', 1)
        running.start('worker', 1, '--seed=5', '--timeout=4')
        _, err = running.ended('worker', 1, 1)
        assert 'train.py: --seed=5 here, and 0 at worker 0' in err
        running.start('worker', 1)
        running.all_ended()


@pytest.mark.slow
def test_a_second_signal_ends_a_chief_that_waits_for_a_worker(data_dir, tmp_path):
    words = words_of('hybrid', 2, '--max_steps=1000', '--checkpoint_every=2')
    with tasks.Tasks(data_dir, tmp_path / 'run', *words) as running:
        running.wait_for_step(3)
        running.kill('worker', 1)
        chief = running.running['worker', 0]
        chief.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            chief.wait(2)
        chief.send_signal(signal.SIGTERM)
        _, err = running.ended('worker', 0, 130, seconds=30)
        assert 'stopped; the same command continues' in err
        chief = running.start('worker', 0)
        running.start('worker', 1)
        time.sleep(1)
        running.wait_for_step(training.arrays_of(tmp_path / 'run')[0] + 4)


@pytest.mark.slow
def test_asynchronous_workers_do_all_steps(data_dir, tmp_path):
    words = words_of('motion', 2, '--max_steps=20', '--async_replicas')
    with tasks.Tasks(data_dir, tmp_path / 'run', *words) as running:
        running.all_ended()
    assert training.arrays_of(tmp_path / 'run')[0] >= 20
    steps = [line['step'] for line in training.log_of(tmp_path / 'run')]
    assert steps == sorted(set(steps)) and steps[-1] >= 20
    assert training.read_json(tmp_path / 'run')['flags']['batch_size'] == 2


@pytest.mark.slow
def test_the_script_that_starts_a_cluster(data_dir, tmp_path):
    program = tmp_path / 'narrow_train.py'
    program.write_text(training.PROGRAM)
    script = training.ROOT / 'tests/start_cluster.sh'
    words = [*training.MOTION, '--max_steps=3', f'--data_dir={data_dir}']
    done = subprocess.run(
        [script, *words, f'--train_dir={tmp_path / "run"}'],
        env={
            **os.environ,
            'TRAIN': f'{sys.executable} {program} train.py',
            'PORT': str(max(tasks.free_ports(1)[0] - 3, 1024)),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert training.arrays_of(tmp_path / 'run')[0] == 3
