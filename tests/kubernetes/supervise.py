"""Runs one command that must not outlive the test: it is killed when standard input ends.

    python supervise.py COMMAND...

Standard input is a pipe that only the test process holds open. (The kernel's signal at a parent's death alone
would not do: it comes when the *thread* that started the command ends.) The first line of standard output is
the command's pid; what the command prints goes to standard error. SIGTERM is handed on.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading

PR_SET_PDEATHSIG = 1


def main() -> int:
    libc = ctypes.CDLL(None)
    supervisor = os.getpid()

    def die_with_supervisor() -> None:
        libc.prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != supervisor:
            os._exit(1)

    child = subprocess.Popen(
        sys.argv[1:],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr.fileno(),
        preexec_fn=die_with_supervisor,  # noqa: PLW1509 - there are no threads yet
    )
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    print(child.pid, flush=True)

    def end_with_input() -> None:
        while os.read(0, 4096):
            pass
        child.kill()

    threading.Thread(target=end_with_input, daemon=True).start()
    return child.wait() % 256


if __name__ == "__main__":
    sys.exit(main())
