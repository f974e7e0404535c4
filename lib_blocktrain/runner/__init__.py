"""The runs of a host, trained one after the other on the model in memory, in a thread of their own.

The tab and the HTTP API ask the same runner, so that all of them see the same; a page that is closed ends nothing.

    runner = Runner(host)
    run = runner.add(config)        a new run, at the end of the queue; it begins when its turn comes
    runner.status(run)              a Status: its state, step, loss, seconds left, why it failed
    runner.pause()                  save the run, put the model back, release the host's queue; the others wait too
    runner.begin()                  go on with what waits; a paused run ends as if there had been no pause
    runner.stop(run, save=True)     end one run, or take it out of the queue; the next one begins
    runner.resume(run)              put a stopped, failed or broken-off run at the end of the queue
    runner.set_weights(run, w)      change the block weights of the run that is being trained
    runner.find(name), runner.runs(), runner.queue()

The queue is a file and survives a restart; after one it waits for `begin()`, since nobody asked for the GPU yet.
`worker` trains, `status` says how a run stands, `on_host` draws samples and puts the result among the LoRAs.
What cannot be done raises ValueError with the reason. Everything may be called from any thread.
"""

from lib_blocktrain.runner.on_host import publish_result, sampler
from lib_blocktrain.runner.status import describe_error
from lib_blocktrain.runner.worker import Runner
from lib_blocktrain.training.status import ACTIVE_STATES, RESUMABLE_STATES, Status

__all__ = ["ACTIVE_STATES", "RESUMABLE_STATES", "Runner", "Status", "describe_error", "publish_result", "sampler"]
