"""Stormdrain: takes a flood of job requests, puts each on disk, runs your functions at the machine's pace.

Read the modules in the order a request meets them:

    master      binds the port, forks the producers, keeps them alive, passes on the stop signal
    producer    one forked process: serves HTTP and owns one consumer; start reading here
    front       what is no HTTP is refused as all else is
    handlers    HTTP in, one backlog call, HTTP out; a plain `POST /jobs` by its `door`
    backlog/    where jobs wait: the contract in `base`, the engines beside it, `aio` for the event loop
    consumer    claims as many jobs as the free slots take, settles each
    pace        which jobs are so short that several run in one slot one after the other
    executor    slots, as many as there may be: started on demand, kept, ended when idle
    slots       a process or a thread that runs jobs: an outcome comes out, never an exception
    course      jobs that run one after the other in one process, each with its own limit, outcome and blame
    runner      what runs inside a slot's process, around your function; `replies` is what it says of it
    output      what a slot prints: the last of it, per attempt
    motion      whether jobs move here, for /readyz
    retry       pure: what follows this outcome of attempt n?

and what all of them share:

    job         Job, State with its diagram, outcomes
    registry    @job(...): your functions by name; only what is registered can run
    config      every setting, its default and its sentence
    errors      what can be refused, each with its HTTP status
    keys        who may do what: `keyfile` creates and revokes, this reads
    metrics     what only a producer can count; `publisher` adds it to the sums in the store
    census      what the store itself says of jobs and slots, for /metrics
    backup      an online copy of the backlog, and the way back
    exits, log  how a process ends, and what it says
    linux       what only the kernel can do for us; `forkserver`, `slotprocess` and `scratch` are for slots
    jobs/       the functions this deployment runs

On the other side of HTTP, importing nothing of the above:

    client/     `from service.client import Client`
    cli/        `stormdrain submit | status | wait | list | cancel | retry`, on top of it

Beside it stand the teaching servers, `stages/`, that nothing here imports; `docs/ladder.md` is their tour.
"""

__version__ = "0.1.0"
