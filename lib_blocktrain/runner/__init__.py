"""The queue of runs of a host, trained one after the other in a thread of their own.

The page and the HTTP API share one runner. Closing the page does not end a run.

    runner = Runner(host)
    run = runner.add(config)        append a new run to the queue, and start the queue
    runner.status(run)              a Status: its state, step, loss, seconds left, why it failed
    runner.pause()                  save the active run, release the model and the host's lock, and hold the queue
    runner.begin()                  start the queue; a paused run gives the same result as without the pause
    runner.stop(run, save=True)     end a run, or remove it from the queue; the next one starts
    runner.resume(run)              append a stopped, failed or interrupted run to the queue
    runner.set_weights(run, w)      change the block weights of the active run
    runner.move(run, place)         put a waiting run at another place of the queue
    runner.set_about(run, title=t, notes=n), runner.delete(run)
    runner.find(name), runner.runs(), runner.queue()
    runner.damaged()                why runs cannot be read, by name

The queue is a file. After a restart it waits for `begin()`, so that training never starts unasked.
Impossible requests raise ValueError with the reason. All methods may be called from any thread.
"""

from lib_blocktrain.runner.on_host import publish_result, published_copy, sampler
from lib_blocktrain.runner.status import describe_error
from lib_blocktrain.runner.worker import Runner
from lib_blocktrain.training.status import ACTIVE_STATES, RESUMABLE_STATES, Status

__all__ = [
    "ACTIVE_STATES",
    "RESUMABLE_STATES",
    "Runner",
    "Status",
    "describe_error",
    "publish_result",
    "published_copy",
    "sampler",
]
