"""How a worker is known to be alive: a sign in Redis that it renews and that expires without it.

RQ's own register of workers does not serve: a worker that was killed stays in it for minutes while it had a job, and
one that lives is gone from it for good when Redis starts again empty.
"""

from __future__ import annotations

WORKER_SIGN = "pillarbox:worker-alive"
"""One for all workers: mail goes out as long as there is any."""
RENEWED_EVERY_S = 1.0
EXPIRES_MS = 3_000
