"""Stormdrain's load generator: the original test script grown up. Start: `python -m loadtest run --help`.

The map, in reading order:

    __main__   which subcommand, which exit code
    run        health check, submit, follow, report: the whole run on one page
    submit     N requests from CLIENTS processes, each answer counted
    follow     every accepted job to its end, or to the list of what is LOST
    report     percentiles, the tally, the text and the JSON file
    client     one client process and its keep-alive session: one submit, one look-up
    answer     what one answer means: accepted, refused or unknown; in which state a job is
    pool       the client processes: how they start, how they end
    progress   a bar on a terminal, a quiet line in a log
    stages     the race of the teaching servers and the product, on one page
    contestant who takes part: how each is started, killed, counted
    race       the figures of a race, and its table
    picture    the same as a PNG and a page
    chaos      the audit on one page: a load, kills at random, an account of every accepted job
    target     the stack that is hit: native or Compose, and what is left when it has stopped
    victim     its processes: what each is, and which producers go down with it
    killer     whom to hit next, with what: by a seed
    ledger     what was sent, what was answered, who was hit: on disk before it counts
    judge      which hit explains a line in a job's history, and what no hit explains
    findings   what an audit found: figures, text, verdict
    settings   one frozen dataclass and its options: flag, environment variable, default, sentence
    exits      the exit codes by name, and the error that ends a run with a sentence

A new subcommand is one module with HELP, OPTIONS and main, and one line in `__main__.COMMANDS`.
"""
