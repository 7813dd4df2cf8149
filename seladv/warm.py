"""`python -P warm.py SOCKET SECONDS`: imports the slow packages once, and forks a child for every stage.

Never imports seladv, so that a child runs the code as it is now; never runs a torch operation, so that no thread and no
GPU context exists before the fork. Ends when its last stage has been over for SECONDS. Linux only.
"""

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

PACKAGES = ("torch", "torchvision", "papermill", "IPython", "matplotlib_inline", "seaborn", "scipy.stats", "pydantic",
            "yaml", "safetensors.torch", "sklearn.datasets")  # fmt: skip
PATIENCE = 5.0  # seconds for a client to say what it wants
PR_SET_PDEATHSIG = 1


def serve(listener: socket.socket, seconds: float) -> tuple[dict[str, Any], list[int]] | None:
    """Fork for every client. Returns its request and its three files in the child, None in the server at its end.

    A client's byte is its Ctrl-C; its end, however it came, is the end of its child.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a first stage in the background would have it ignored
    signal.signal(signal.SIGCHLD, lambda *_: None)
    ended, ending = socket.socketpair()
    ending.setblocking(False)
    signal.set_wakeup_fd(ending.fileno())
    selector, clients = selectors.DefaultSelector(), dict[int, socket.socket]()  # clients by their child
    selector.register(listener, selectors.EVENT_READ)
    selector.register(ended, selectors.EVENT_READ)
    while ready := selector.select(None if clients else seconds):
        for key, _ in ready:
            if key.fileobj is listener:
                client, _ = listener.accept()
                with contextlib.suppress(OSError, ValueError):
                    wanted, files = receive(client)
                    if not (child := os.fork()):
                        signal.set_wakeup_fd(-1)
                        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                        for fd in (listener, ended, ending, client, *clients.values()):
                            fd.close()
                        selector.close()
                        return wanted, files
                    for file in files:
                        os.close(file)
                    with contextlib.suppress(OSError):
                        os.setpgid(child, child)
                    clients[child] = client
                    selector.register(client, selectors.EVENT_READ, child)
            elif key.fileobj is ended:
                ended.recv(4096)
            elif key.data in clients:
                listen(clients[key.data], key.data, selector)
        reap(clients, selector)
    return None


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A client's request, and its stdin, stdout and stderr."""
    client.settimeout(PATIENCE)
    size, files, _, _ = socket.recv_fds(client, 8, 3)
    body = b""
    while len(body) < int(size):
        if not (part := client.recv(int(size) - len(body))):
            raise ConnectionResetError
        body += part
    return json.loads(body), files


def listen(client: socket.socket, child: int, selector: selectors.BaseSelector) -> None:
    """Pass on what a client sent: Ctrl-C, or its own death."""
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


def become(wanted: dict[str, Any], files: list[int], server: int) -> None:
    """Stand where the client stands: its files, folder, environment and arguments."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it ended before the line above: nobody would end this process
        os._exit(1)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(wanted["environ"])
    os.chdir(wanted["folder"])
    sys.path[:] = wanted["path"]
    sys.argv = ["seladv.stage", *wanted["arguments"]]
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    importlib.invalidate_caches()
    sys.modules["numpy"].random.seed()  # else every child would draw the same numbers


def main(path: Path, seconds: float) -> int:
    """The server; and, in a child, the stage."""
    server, listener = os.getpid(), socket.socket(fileno=os.dup(0))
    os.chdir("/")
    for package in PACKAGES:
        importlib.import_module(package)
    gc.collect()
    gc.freeze()  # the collector of a child would copy every page that it looks at
    inode = path.stat().st_ino
    if stage := serve(listener, seconds):
        become(*stage, server)
        from seladv import engine

        return engine.run(sys.argv[1:])
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
