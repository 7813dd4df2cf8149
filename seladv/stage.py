"""`python -m seladv.stage NOTEBOOK OUTPUT [NAME=VALUE ...]`: run a notebook as a stage, without waiting for imports.

The first stage starts a server that imports the slow packages once (`warm.py`) and forks a child for every stage; this
module needs the standard library alone. With `SELADV_WARM=0`, and wherever anything about the server fails, the
notebook runs in this process instead, with the same results.
"""

import hashlib
import json
import os
import resource
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("warm.py")
OWN = ("_", "PWD", "OLDPWD", "SHLVL")  # variables that differ between stages and matter to none, as DVC_* do


def surroundings() -> str:
    """A hash of all that a process is born with: only where it is the same does another one's child equal it."""
    shell = {name: value for name, value in os.environ.items() if name not in OWN and not name.startswith("DVC_")}
    packages = (path for path in sys.path if path.endswith("-packages") and os.path.isdir(path))
    installed = [(path, os.stat(path).st_mtime_ns) for path in packages]
    limits = [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]
    (umask,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask"))
    container = [os.readlink(f"/proc/self/ns/{space}") for space in ("mnt", "net", "pid")]
    everything = (
        *(sys.executable, sys.version, sys.path, installed, shell, SERVER.read_text(), container),
        *(Path("/proc/self/cgroup").read_text(), sorted(os.sched_getaffinity(0)), os.nice(0), limits, umask),
    )
    return hashlib.sha256(repr(everything).encode()).hexdigest()[:24]


def folder() -> Path:
    """A folder that only this user can enter.

    Raises:
        PermissionError: somebody else made it.
    """
    path = Path(os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("TMPDIR") or "/tmp") / f"seladv-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise PermissionError(f"{path} is not this user's own")
    return path


def connect(seconds: float) -> socket.socket:
    """A connection to the server, which is started where there is none."""
    path = folder() / surroundings()
    client = socket.socket(socket.AF_UNIX)
    try:
        client.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        start(path, seconds)
        client.connect(str(path))  # waits in the queue while the server imports
    return client


def start(path: Path, seconds: float) -> None:
    """Start the server on `path`, to outlive its last stage by `seconds`. It holds no file of this process."""
    with socket.socket(socket.AF_UNIX) as listener:
        mine = path.with_name(f"{path.name}.{os.getpid()}")
        listener.bind(str(mine))
        listener.listen(64)
        mine.rename(path)  # two first stages at a time: the later server is found, the earlier one soon ends
        nothing = subprocess.DEVNULL
        command = [sys.executable, "-P", str(SERVER), str(path), str(seconds)]  # -P: imports nothing from beside it
        server = subprocess.Popen(
            command, stdin=listener.fileno(), stdout=nothing, stderr=nothing, start_new_session=True
        )
        server.returncode = 0  # not to be waited for


def request(arguments: list[str]) -> bytes:
    """What a child needs to stand where this process stands."""
    here: dict[str, Any] = {"arguments": arguments, "folder": os.getcwd(), "path": sys.path, "environ": {**os.environ}}
    return json.dumps(here).encode()


def warm(arguments: list[str], seconds: float) -> int | None:
    """The exit code of the stage in a child of the server; None where that could not be had."""
    try:
        client, body = connect(seconds), request(arguments)
        socket.send_fds(client, [f"{len(body):8}".encode()], [0, 1, 2])
        client.sendall(body)
        while True:
            try:
                code = client.recv(8)
                break
            except KeyboardInterrupt:
                client.send(b"i")
    except (OSError, ValueError):
        return None
    if code.startswith(b"-"):
        print(f"the stage was killed by signal {-int(code)}", file=sys.stderr)
        return 128 - int(code)
    return int(code) if code else None


def main() -> int:
    """Run the stage that the command line names."""
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a kernel does
    asked = os.environ.get("SELADV_WARM", "30")
    try:
        seconds = float(asked)
    except ValueError:
        print(f"SELADV_WARM = {asked!r}: a number of seconds is needed, 0 for no server", file=sys.stderr)
        return 1
    code = warm(sys.argv[1:], seconds) if seconds > 0 and sys.platform == "linux" else None
    if code is None:
        from seladv import execute

        code = execute.run(sys.argv[1:])
    return code


if __name__ == "__main__":
    sys.exit(main())
