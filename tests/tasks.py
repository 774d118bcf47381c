"""One parameter server and two workers on this machine, for tests to disturb."""

import socket
import subprocess

import training


def free_ports(count):
    """Ports that nobody listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for opened in sockets:
        opened.bind(('localhost', 0))
    ports = [opened.getsockname()[1] for opened in sockets]
    for opened in sockets:
        opened.close()
    return ports


class Tasks:
    """The three processes of a run, and the flags that they share.

    Attributes:
      train_dir: the run's folder.
      running: dict (job, task) -> Popen.
    """

    def __init__(self, data_dir, train_dir, *words):
        """Starts all three; `words` are flags of train.py."""
        ps, *workers = (f'localhost:{port}' for port in free_ports(3))
        hosts = [f'--ps_hosts={ps}', f'--worker_hosts={",".join(workers)}']
        self._data_dir, self.train_dir = data_dir, train_dir
        self._words = [*words, *hosts, '--timeout=20']
        self.running = {}
        for job, task in (('ps', 0), ('worker', 0), ('worker', 1)):
            self.start(job, task)

    def start(self, job, task, *more):
        """Starts one of them, with more flags than the others have."""
        own = [f'--job_name={job}', f'--task_index={task}', *more]
        process = training.start(self._data_dir, self.train_dir, *self._words, *own)
        self.running[job, task] = process
        return process

    def kill(self, job, task):
        """Ends one of them as `kill -9` does."""
        process = self.running[job, task]
        process.kill()
        process.communicate()

    def wait_for_step(self, step):
        """Until the chief has logged a step."""
        training.wait_for_step(self.train_dir, step, self.running['worker', 0])

    def ended(self, job, task, code=0, seconds=180):
        """Waits for one to end; (stdout, stderr)."""
        process = self.running[job, task]
        out, err = process.communicate(timeout=seconds)
        assert process.returncode == code, f'{job} {task}: {process.returncode}\n{err}'
        return out, err

    def all_ended(self):
        """Waits for all to end well."""
        for job, task in (('worker', 0), ('worker', 1), ('ps', 0)):
            self.ended(job, task)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
                try:
                    process.communicate(timeout=20)
                except subprocess.TimeoutExpired:  # its pipe may be another's too
                    pass
