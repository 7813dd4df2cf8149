"""`python -P warm.py SOCKET SECONDS`: imports the slow packages once, and forks a child for every stage.

Never imports seladv, so that a child runs the code as it is now; never runs a torch operation, so that no thread and no
GPU context exists before the fork. Ends when its last stage has been over for SECONDS. Linux only.
"""

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "papermill", "IPython", "seaborn", "scipy.stats",
            "pydantic.main", "yaml", "safetensors.torch", "sklearn.datasets")  # fmt: skip
PATIENCE = 5.0  # seconds for a client to say what it wants
PR_SET_PDEATHSIG = 1


Stage = tuple[dict[str, Any], list[int]]  # what a client asks for, and its stdin, stdout and stderr


def serve(listener: socket.socket, seconds: float) -> Stage | None:
    """Fork for every client. Returns its stage in the child, and None in the server at its end.

    A client's byte is its Ctrl-C; its end, however it came, is the end of its child.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a first stage in the background has it ignored
    signal.signal(signal.SIGCHLD, lambda *_: None)
    ended, ending = socket.socketpair()
    ending.setblocking(False)
    signal.set_wakeup_fd(ending.fileno())
    selector, clients = selectors.DefaultSelector(), dict[int, socket.socket]()  # clients by their child
    selector.register(listener, selectors.EVENT_READ)
    selector.register(ended, selectors.EVENT_READ)
    while ready := selector.select(None if clients else seconds):
        for key, _ in ready:
            if key.fileobj is ended:
                ended.recv(4096)
            elif key.data in clients:
                listen(clients[key.data], key.data, selector)
            elif key.fileobj is listener and (accepted := accept(listener)):
                client, stage = accepted
                if not (child := os.fork()):
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    selector.close()
                    for inherited in (listener, ended, ending, client, *clients.values()):
                        inherited.close()
                    return stage
                for file in stage[1]:
                    os.close(file)
                with contextlib.suppress(OSError):
                    os.setpgid(child, child)  # here and in the child: whoever comes first
                clients[child] = client
                selector.register(client, selectors.EVENT_READ, child)
        reap(clients, selector)
    return None


def accept(listener: socket.socket) -> tuple[socket.socket, Stage] | None:
    """The next client and its stage; None, and the client is turned away, where it does not say what it wants."""
    client, _ = listener.accept()
    client.settimeout(PATIENCE)
    files: list[int] = []
    try:
        size, files, _, _ = socket.recv_fds(client, 8, 3)
        body = b""
        while len(body) < int(size):
            if not (part := client.recv(int(size) - len(body))):
                raise ConnectionResetError
            body += part
        return client, (json.loads(body), files)
    except (OSError, ValueError):
        client.close()
        for file in files:
            os.close(file)
        return None


def listen(client: socket.socket, child: int, selector: selectors.BaseSelector) -> None:
    """Pass on what a client sent: Ctrl-C, or its own end."""
    try:
        alive = bool(client.recv(1))
    except OSError:
        alive = False
    if not alive:
        selector.unregister(client)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGINT if alive else signal.SIGKILL)


def reap(clients: dict[int, socket.socket], selector: selectors.BaseSelector) -> None:
    """Tell the clients whose child has ended how it ended."""
    while clients:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        client = clients.pop(child)
        with contextlib.suppress(KeyError):
            selector.unregister(client)
        with contextlib.suppress(OSError), client:
            client.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def run(stage: Stage, server: int) -> None:
    """In the child: stand where the client stands, with its files, folder, environment and arguments; run; exit."""
    wanted, files = stage
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it ended before the line above, so nobody would end this process
        os._exit(1)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(wanted["environ"])
    os.chdir(wanted["folder"])
    sys.path[:] = wanted["path"]
    sys.argv = ["seladv.stage", *wanted["arguments"]]
    importlib.invalidate_caches()
    sys.modules["numpy"].random.seed()  # else all children would draw the same numbers, as no fresh processes do
    sys.modules["torch"].default_generator.seed()
    from seladv import execute

    code = execute.run(wanted["arguments"])
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # the interpreter's own end would copy every page to free what is in it: 0.3 s


def main(path: Path, seconds: float) -> None:
    """The server; and, in a child, the stage."""
    server, listener = os.getpid(), socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)
    os.chdir("/")
    for package in PACKAGES:
        importlib.import_module(package)
    gc.collect()
    gc.freeze()  # else a child's collector would copy every page that it looks at
    if stage := serve(listener, seconds):
        run(stage, server)
    listener.close()
    with socket.socket(socket.AF_UNIX) as another:
        if another.connect_ex(str(path)):  # nobody listens there: it was this server's own
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
