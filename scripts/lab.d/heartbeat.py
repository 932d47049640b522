"""One byte on standard output for each time that this process slept and woke on a processor, of all in turn.

The machine takes a silence for a stall of the host. First in line, so that load delays it little, and a single process:
what it forked would come before everything that is measured on the host.
"""

import itertools
import os
import time

os.setpriority(os.PRIO_PROCESS, 0, -20)
for processor in itertools.cycle(sorted(os.sched_getaffinity(0))):
    os.sched_setaffinity(0, [processor])
    time.sleep(0.5)
    os.write(1, b".")
