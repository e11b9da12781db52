"""The ladder: seven servers, each one idea better than the last. Start: `python -m service stage blocking --port 8001`.

They take the same request (`GET /` with `{"job_id": 7}`), run the same job, and differ in how they run it, so that the
diff between neighbours is the lesson. `service` itself is the last one made whole, and never imports this package.

    hello              answers, and does nothing
    blocking           the job runs in the handler: one at a time
    forked             the same in one process per core: as many at a time as there are cores
    coroutine          a job that waits gives the loop away; one that computes keeps it
    thread_executor    blocking jobs wait in twenty threads; computing ones still take turns
    process_executor   twenty processes: computing leaves the server
    producer_consumer  answers first, runs the job afterwards

    forked_consumer    an experiment: the last one under `start(0)`, and how it breaks
    shared             what all of them share: the job, and how a request is read
"""

STAGES = (
    "hello",
    "blocking",
    "forked",
    "coroutine",
    "thread_executor",
    "process_executor",
    "producer_consumer",
)
EXPERIMENTS = ("forked_consumer",)
