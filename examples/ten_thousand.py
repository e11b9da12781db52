"""Ten thousand jobs, and each result as soon as it is there: `python examples/ten_thousand.py [HOW_MANY]`."""

import sys

from service.client import Client, Submission

how_many = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000

with Client() as client:  # http://127.0.0.1:8080, or STORMDRAIN_URL
    receipts = client.submit_many(Submission("primes", {"limit": limit}) for limit in range(how_many))
    for job in client.results(receipts):
        print(f"up to {job.args['limit']} there are {job.value()} primes", flush=True)
