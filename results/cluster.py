"""Training by several processes, on TensorFlow's own distributed runtime.

    python train.py ... --ps_hosts=h0:2222 --worker_hosts=h1:2222,h2:2222 \\
        --job_name=worker --task_index=0

Parameter servers hold the variables. Every worker computes gradients of its part of a
batch; worker 0, the chief, starts the variables, has them updated with the mean of all
gradients (tf.train.SyncReplicasOptimizer), and keeps log and checkpoints.

The workers agree on where they are by variables on the first parameter server:

    turn     counts updates and never goes back, so that gradients of an earlier turn
             are known as such and dropped
    offset   turn + offset is the training step, which goes back to a checkpoint
    open     whether there is a chief
"""

import collections
import contextlib
import os
import re
import socket
import sys
import threading
import time
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

import model
from results import arithmetic
from results import runs

# Flags that another start of the run may change, but not one task alone.
SHARED_FLAGS = ('ps_hosts', 'worker_hosts', 'async_replicas')
PAUSE = 0.01  # seconds between looks at whether the others are done
# What TensorFlow says where a parameter server is gone, or is back and empty.
LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
    tf.errors.UnavailableError,
    RuntimeError,
)


class Cluster(NamedTuple):
    """Which tasks there are, and which is this one."""

    ps: list  # addresses host:port of the parameter servers
    workers: list  # and of the workers
    job: str  # 'ps' or 'worker'
    task: int  # from 0, within the job
    asynchronous: bool
    timeout: float  # seconds
    bfloat16: bool = False  # of arithmetic.config


# -- flags -----------------------------------------------------------------------------


def of_flags(flags):
    """The Cluster of a run's flags, None where they name none.

    Raises:
      ValueError: names the flag that is missing or wrong.
    """
    ps, workers = flags['ps_hosts'], flags['worker_hosts']
    job, task = flags['job_name'], flags['task_index']
    if not workers:
        for name, value in (('ps_hosts', ps), ('job_name', job), ('task_index', task)):
            if value not in (None, []):
                raise ValueError(f'--{name} needs --worker_hosts=HOST:PORT,...')
        if flags['async_replicas']:
            raise ValueError('--async_replicas needs --worker_hosts=HOST:PORT,...')
        return None
    if not ps and flags['stage'] != 'features':
        raise ValueError('--worker_hosts needs --ps_hosts=HOST:PORT,...')
    check_addresses(ps, workers)
    if job is None:
        raise ValueError('--job_name is needed with --worker_hosts: ps or worker')
    hosts = ps if job == 'ps' else workers
    if task is None or not 0 <= task < len(hosts):
        raise ValueError(
            f'--task_index={task}: --{job}_hosts has {len(hosts)}, counted from 0'
        )
    if not flags['timeout'] > 0:
        raise ValueError(f'--timeout={flags["timeout"]}: must be above 0')
    other = (flags[name] for name in ('async_replicas', 'timeout', 'bfloat16'))
    return Cluster(ps, workers, job, task, *other)


def check_addresses(ps, workers):
    """Raises ValueError where an address is not HOST:PORT, or is there twice."""
    for name, addresses in (('ps_hosts', ps), ('worker_hosts', workers)):
        for address in addresses:
            port = re.fullmatch(r'[^\s:/]+:(\d{1,5})', address)
            if not port or not 0 < int(port[1]) < 65536:
                raise ValueError(f'--{name}: {address} is not HOST:PORT')
    address, count = collections.Counter(ps + workers).most_common(1)[0]
    if count > 1:
        raise ValueError(f'{address} is {count} times in --ps_hosts and --worker_hosts')


# -- the tasks -------------------------------------------------------------------------


def parts_of(cluster):
    """(part, parts): which part of each batch this worker takes."""
    if cluster is None or cluster.asynchronous:
        return 0, 1
    return cluster.task, len(cluster.workers)


def device(cluster):
    """Where ops go: variables to the parameter servers, the rest to this worker."""
    if cluster is None:
        return contextlib.nullcontext()
    spec = tf.train.ClusterSpec({'ps': cluster.ps, 'worker': cluster.workers})
    own = f'/job:worker/task:{cluster.task}'
    return tf.device(tf.train.replica_device_setter(worker_device=own, cluster=spec))


def config(cluster):
    """tf.ConfigProto of this task: no other worker is waited for, and each worker of a
    machine has a GPU of its own."""
    own = f'/job:{cluster.job}/task:{cluster.task}'
    found = arithmetic.config(cluster.bfloat16)
    found.device_filters[:] = ['/job:ps', own]
    if cluster.job == 'ps':
        found.device_filters[:] = [own]
        found.device_count['GPU'] = 0
        return found
    found.gpu_options.allow_growth = True
    gpus = len(tf.config.list_physical_devices('GPU'))  # those that this process sees
    host = host_and_port(cluster.workers[cluster.task])[0]
    hosts = [host_and_port(other)[0] for other in cluster.workers[: cluster.task]]
    if gpus:
        found.gpu_options.visible_device_list = str(hosts.count(host) % gpus)
    return found


def host_and_port(address):
    """'HOST:PORT' as (str, int)."""
    host, port = address.rsplit(':', 1)
    return host, int(port)


def start_server(cluster):
    """The tf.train.Server of this task; ValueError where a host is unknown, or the port
    is taken."""
    deadline = time.monotonic() + cluster.timeout
    for address in cluster.ps + cluster.workers:
        while True:  # the name of a machine that starts may not be known yet
            try:
                socket.getaddrinfo(*host_and_port(address))
                break
            except (OSError, UnicodeError) as error:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f'{address} of --ps_hosts and --worker_hosts: the host is not '
                        f'known here ({error}); check its name'
                    ) from error
                time.sleep(0.2)
    addresses = {'ps': cluster.ps, 'worker': cluster.workers}
    own = addresses[cluster.job][cluster.task]
    try:
        spec = tf.train.ClusterSpec(addresses)
        return tf.train.Server(spec, cluster.job, cluster.task, config=config(cluster))
    except tf.errors.OpError as error:
        raise ValueError(
            f'{own} of --{cluster.job}_hosts cannot be opened: is the port in use, by '
            'an earlier start perhaps?'
        ) from error


def serve(cluster):
    """A parameter server: holds variables until every worker has said it has ended."""
    server = start_server(cluster)
    print(f'parameter server {cluster.task} at {cluster.ps[cluster.task]}', flush=True)
    with tf.Graph().as_default():
        ended = ended_workers(cluster, cluster.task)
        with tf.Session(server.target, config=config(cluster)) as session:
            session.run(ended.initializer)
            while not session.run(ended).all():
                time.sleep(0.5)
    return 0


def ended_workers(cluster, ps_task):
    """The variable of a parameter server that says which workers have ended."""
    with tf.device(f'/job:ps/task:{ps_task}'):
        zeros = tf.zeros([len(cluster.workers)], tf.bool)
        return tf.get_variable(f'ended_{ps_task}', initializer=zeros, trainable=False)


def say_ended(cluster, target):
    """Lets the parameter servers end, once every worker has said so."""
    with tf.Graph().as_default():
        updates = [
            tf.scatter_update(ended_workers(cluster, ps), [cluster.task], [True])
            for ps in range(len(cluster.ps))
        ]
        with tf.Session(target, config=config(cluster)) as session:
            session.run(updates)


@contextlib.contextmanager
def watching(cluster):
    """Ends the program in one line where a parameter server is gone for --timeout.

    TensorFlow waits for one that is gone in calls that cannot be interrupted, so
    another thread looks, and ends the process.
    """
    pause, ended = min(1, cluster.timeout / 10), threading.Event()

    def look():
        seen = dict.fromkeys(cluster.ps, time.monotonic())
        while not ended.wait(pause):
            for address in cluster.ps:
                with contextlib.suppress(OSError):
                    place = host_and_port(address)
                    socket.create_connection(place, timeout=4 * pause).close()
                    seen[address] = time.monotonic()
                if time.monotonic() - seen[address] < cluster.timeout - 5 * pause:
                    continue
                name = os.path.basename(sys.argv[0])
                print(f'{name}: {lost(cluster, address)}', file=sys.stderr, flush=True)
                os._exit(1)

    threading.Thread(target=look, daemon=True).start()
    try:
        yield
    except LOST as error:
        # what tf.train.MonitoredTrainingSession says of one that is back and empty
        empty = re.search('ready|closed', str(error))
        if isinstance(error, RuntimeError) and not empty:
            raise
        raise ValueError(lost(cluster, ', '.join(cluster.ps))) from error
    finally:
        ended.set()


def lost(cluster, address):
    """What is said where a parameter server is gone."""
    return (
        f'the parameter server {address} of --ps_hosts is gone, or was for a while '
        f'(--timeout={cluster.timeout:g} s): start all tasks again, and the same '
        'commands continue from the last checkpoint'
    )


# -- the run of the chief --------------------------------------------------------------


def wait_for_run(cluster, train_dir, mine):
    """Waits for the run.json of the chief, and checks that this worker does the same.

    An earlier one may be there until the chief has written its own, so what differs is
    refused only after --timeout.

    Args:
      cluster: Cluster.
      train_dir: the run's folder.
      mine: the run as this worker would describe it.

    Returns:
      The run of the chief, with its CNNs.

    Raises:
      ValueError: names what differs, or the folder.
    """
    deadline = time.monotonic() + cluster.timeout
    path = os.path.join(train_dir, 'run.json')
    while True:
        try:
            if not os.path.exists(path):
                raise ValueError(
                    f'--train_dir={train_dir}: worker 0 has written no run.json there: '
                    'does it run, and do all tasks see this folder?'
                )
            run = runs.read(train_dir)
            check_same(run, mine)
            if run['cnns']:  # until then worker 0 computes features
                return run
        except ValueError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def check_same(run, mine):
    """Raises ValueError where a worker has other flags, lists or clips than the chief,
    whose run is given first."""
    for name, value in mine['flags'].items():
        theirs = run['flags'].get(name)
        free = name in runs.FREE_FLAGS and name not in SHARED_FLAGS
        if not free and theirs != value:
            raise ValueError(
                f'--{name}={value} here, and {theirs} at worker 0: give all tasks the '
                'same flags, but for --job_name and --task_index'
            )
    for name, value in mine['list_hashes'].items():
        if run['list_hashes'].get(name) != value:
            raise ValueError(
                f'--split_dir: {name} is not the list that worker 0 has: give all '
                'tasks the same lists'
            )
    for name in (*runs.FIXED, 'sampling'):
        if run[name] != mine[name]:
            raise ValueError(
                f'the {name.replace("_", " ")} here are not those of worker 0: do all '
                'tasks see the same --data_dir and --split_dir?'
            )


# -- the graph -------------------------------------------------------------------------


class Shared(NamedTuple):
    """Variables on the first parameter server (see the top of the file)."""

    turn: tf.Variable
    offset: tf.Variable
    open: tf.Variable
    is_open: tf.Tensor  # whether `open` has a value, the last of all to get one
    logged: tf.Variable  # mean of what the workers log, in the order of its names


def shared_variables(names):
    """Makes them, in no collection: they are neither saved nor started with the rest.

    Args:
      names: of what is logged.
    """
    first = {
        'turn': tf.constant(0, tf.int64),
        'offset': tf.constant(0, tf.int64),
        'open': tf.constant(False),
        'logged': tf.zeros([len(names)]),
    }
    with tf.device('/job:ps/task:0'):
        made = {
            name: tf.get_variable(
                f'cluster/{name}', initializer=value, trainable=False, collections=[]
            )
            for name, value in first.items()
        }
        return Shared(is_open=tf.is_variable_initialized(made['open']), **made)


class Training(NamedTuple):
    """How one worker's graph takes part."""

    shared: Shared
    sync: tf.train.SyncReplicasOptimizer  # None where the workers are asynchronous
    leftovers: list  # ops that drop what the accumulators of gradients hold


def training(cluster, shared, scalars, variables, update):
    """The op of a worker's step.

    Args:
      cluster: Cluster.
      shared: Shared.
      scalars: dict of model.logged_scalars.
      variables: what is trained.
      update: model.Update.

    Returns:
      (train op, Training).
    """
    if cluster.asynchronous:
        train_op = model.training(scalars, variables, update, shared.turn)
        return train_op, Training(shared, None, [])
    sync = tf.train.SyncReplicasOptimizer(update, len(cluster.workers))
    values = tf.stack([tf.cast(value, tf.float32) for value in scalars.values()])
    logged = [(values, shared.logged)]
    train_op = model.training(scalars, variables, sync, shared.turn, logged)
    leftovers = [leftover(variable) for variable in (*variables, shared.logged)]
    # as it is, but it does not close the queue of tokens, which the next chief needs
    runner = sync.get_chief_queue_runner()
    runner = tf.train.QueueRunner(
        *(runner.queue, runner.enqueue_ops, tf.no_op(), tf.no_op()),
        queue_closed_exception_types=(tf.errors.CancelledError,),
    )
    sync.get_chief_queue_runner = lambda: runner
    return train_op, Training(shared, sync, leftovers)


def leftover(variable):
    """The op that empties the accumulator that SyncReplicasOptimizer has of a
    variable's gradients."""
    with tf.device(variable.device):
        accumulator = tf.ConditionalAccumulator(
            tf.float32, variable.shape, shared_name=f'{variable.name}/grad_accum'
        )

        def taken():
            with tf.control_dependencies([accumulator.take_grad(1)]):
                return tf.constant(True)

        return tf.cond(accumulator.num_accumulated() > 0, taken, lambda: False)


def monitored(cluster, target, worker):
    """The tf.train.MonitoredTrainingSession of a worker.

    SyncReplicasOptimizer's hook gives out a token for each worker before the first
    step, so that none waits inside TensorFlow, where no signal would reach it and a
    killed worker's token could be another's. That everybody is done with a turn is seen
    by its number instead.
    """
    chief = cluster.task == 0
    last = worker.shared.turn if chief else worker.shared.open  # to get a value
    ready = tf.report_uninitialized_variables([last])
    hooks = [worker.sync.make_session_run_hook(chief)] if worker.sync else []
    return tf.train.MonitoredTrainingSession(
        target,
        is_chief=chief,
        scaffold=tf.train.Scaffold(init_op=tf.no_op(), ready_op=ready),
        hooks=hooks,
        config=config(cluster),
        stop_grace_period_secs=1,  # the thread that updates waits for gradients
        save_checkpoint_steps=None,
        save_checkpoint_secs=None,
        save_summaries_steps=None,
        save_summaries_secs=None,
        log_step_count_steps=None,
    )


# -- steps -----------------------------------------------------------------------------


def close(session, shared):
    """Lets the workers wait: the chief, or another one, fills the variables."""
    if session.run(shared.is_open):
        shared.open.load(False, session)


@contextlib.contextmanager
def as_chief(cluster, target, graph, session, first, stop):
    """The chief's training, with what `train.train` calls for each step.

    Args:
      cluster: Cluster.
      target: of the tf.train.Server.
      graph: train.Graph.
      session: plain session of it, in which the variables were filled.
      first: the training step they are at.
      stop: list of the signals that asked to stop; at the second one the step is not
        waited for, as another worker may be gone.

    Yields:
      Function (feed, step) -> (values of graph.scalars by name, steps that are done).
    """
    shared, sync, leftovers = graph.worker
    again = session.run(shared.is_open)
    turn = int(session.run(shared.turn)) + 1 if again else 0
    session.run([leftovers, shared.logged.initializer])
    # in this order, so that nobody takes the sum for the end
    shared.offset.load(first - turn, session)
    shared.turn.load(turn, session)

    def step_of_all(feed, step):
        before = workers.run(shared.turn)
        if sync:
            workers.run(sync.local_step_init_op)
        values, _ = workers.run([graph.scalars, graph.train_op], feed)
        while (now := workers.run(shared.turn)) == before:
            if len(stop) > 1:
                raise KeyboardInterrupt
            time.sleep(PAUSE)
        done = int(now) + first - turn
        if sync:
            if done != step + 1:
                raise ValueError(
                    f'step {step + 1} was done without worker 0, as others were '
                    'started again twice: the same command continues from the last '
                    'checkpoint'
                )
            means = workers.run(shared.logged)
            values = {  # a count of units is the same at every worker
                name: np.rint(mean).astype(own.dtype) if own.dtype.kind == 'i' else mean
                for (name, own), mean in zip(values.items(), means, strict=True)
            }
        return values, done

    with monitored(cluster, target, graph.worker) as workers:
        shared.open.load(True, session)
        try:
            yield step_of_all
        except LOST:
            raise
        except BaseException:
            close(session, shared)
            raise
        close(session, shared)


def as_worker(cluster, target, graph, read, feed_of, total, stop):
    """A worker that is not the chief: takes its part of each step until all are done.

    Args:
      cluster: Cluster.
      target: of the tf.train.Server.
      graph: train.Graph.
      read: function range of steps -> iterator of their batches.
      feed_of: function batch -> feed.
      total: steps to do.
      stop: list of the signals that asked to stop. The chief cannot save without the
        others' parts of the step it is at, so that the first one waits for it.

    Returns:
      0; or 128 + the number of a signal.
    """
    shared, sync, _ = graph.worker
    with tf.Session(target, config=config(cluster)) as session:
        print('waiting for worker 0', flush=True)
        while not session.run(shared.is_open):
            if stop:
                return 128 + stop[0]
            time.sleep(0.2)
    with monitored(cluster, target, graph.worker) as session:
        last_turn, next_step, batches = None, None, None
        while True:
            turn, offset, is_open = session.run(shared[:3])
            step = int(turn + offset)
            if step >= total:
                return 0
            if stop and (not is_open or not sync or len(stop) > 1):
                return 128 + stop[0]
            if not is_open or (sync and turn == last_turn):
                time.sleep(PAUSE)
                continue
            if sync:
                session.run(sync.local_step_init_op)
            # the first one, or the chief began again
            if batches is None or (sync and step != next_step):
                batches = read(own_steps(cluster, step, total))
            session.run(graph.train_op, feed_of(next(batches)))
            last_turn, next_step = turn, step + 1


def own_steps(cluster, first, total):
    """The steps whose batches a worker takes, from the step `first` on: all of them,
    and where workers are asynchronous every N-th, as long as it is asked."""
    if not cluster.asynchronous:
        return range(first, total)
    return range(first + cluster.task, sys.maxsize, len(cluster.workers))
