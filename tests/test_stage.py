"""Stages as the command line runs them, in a fork of the server and without it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from seladv import stage
from seladv.execute import value

PACKAGE = Path(stage.__file__).parent
WHO = "import os\nprint(os.getpid(), os.getppid(), flush=True)"


def listening() -> None:
    """Hear Ctrl-C, which a shell's background job is born deaf to."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Bench:
    """A copy of the package to edit, and a folder for sockets that nothing else uses."""

    def __init__(self, folder: Path, sockets: str) -> None:
        self.folder = folder
        shutil.copytree(PACKAGE, folder / "seladv", ignore=shutil.ignore_patterns("__pycache__"))
        own = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "XDG_RUNTIME_DIR": sockets, "SELADV_WARM": "3"}
        self.env = os.environ | own
        del self.env["PYTEST_CURRENT_TEST"]

    def start(
        self, *cells: str, output: str = "out/x.ipynb", warm: bool = True, settings: tuple[str, ...] = ()
    ) -> "Run":
        made = [nbformat.v4.new_code_cell("number = 1", metadata={"tags": ["parameters"]})]
        made += [nbformat.v4.new_code_cell(cell) for cell in cells]
        kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
        notebook = nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel})
        path = self.folder / f"{time.monotonic_ns()}.ipynb"
        nbformat.write(notebook, path)
        env = self.env if warm else self.env | {"SELADV_WARM": "0"}
        return Run([sys.executable, "-m", "seladv.stage", str(path), output, *settings], env, self.folder, output)

    def run(self, *cells: str, warm: bool = True, settings: tuple[str, ...] = ()) -> "Run":
        run = self.start(*cells, warm=warm, settings=settings)
        run.finish()
        return run


class Run:
    """A stage's client process, and what it left."""

    def __init__(self, command: list[str], env: dict[str, str], folder: Path, output: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True, preexec_fn=listening
        )
        self.path = folder / output

    def who(self) -> tuple[int, int]:
        """The process that runs the cells, and its parent, as soon as `WHO` has printed them."""
        assert self.process.stdout
        child, parent = self.process.stdout.readline().split()
        return int(child), int(parent)

    def finish(self) -> None:
        self.out, self.err = self.process.communicate(timeout=120)
        self.code = self.process.returncode

    def cells(self) -> list[nbformat.NotebookNode]:
        """The cells that were given, as they were executed."""
        cells = [c for c in nbformat.read(self.path, as_version=4).cells if c.cell_type == "code"]
        return [
            cell for cell in cells if not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
        ]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="seladv-") as sockets:  # short: a socket's path has at most 107 bytes
        yield Bench(tmp_path_factory.mktemp("stage"), sockets)


def ended(process: int, seconds: float = 10) -> bool:
    """Whether a process is gone, or is within `seconds`; one that only waits to be collected by its parent is."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


def check_that_what_a_cell_shows_is_in_the_notebook_and_its_prints_on_stdout(bench: Bench, warm: bool) -> None:
    figure = "from matplotlib.figure import Figure\nfrom seladv import plots\nf = Figure()\nf.subplots()\nf"
    pyplot = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    run = bench.run(f"{WHO}\nnumber + 1", figure, pyplot, "%%bash\necho shell", settings=("number=41",), warm=warm)
    assert (run.code, run.err) == (0, "")
    first, second, third, fourth = run.cells()
    assert first.outputs[0].text + fourth.outputs[0].text == run.out
    assert first.outputs[1].data["text/plain"] == "42"
    for cell in (second, third):
        (output,) = cell.outputs
        assert output.data["image/png"].startswith("iVBOR")
    assert first.execution_count + 3 == fourth.execution_count
    assert (int(run.out.split()[0]) != run.process.pid) == warm


def check_that_a_failure_is_one_line_and_its_traceback_is_in_the_notebook(bench: Bench, warm: bool) -> None:
    run = bench.run("print('before')", "raise ValueError('x = 3:\\n too large')", "print('after')", warm=warm)
    assert (run.code, run.out) == (1, "before\n")
    assert run.err == "x = 3: too large (ValueError; traceback in out/x.ipynb)\n"
    _, failed, after = run.cells()
    assert any("too large" in line for line in failed.outputs[0].traceback)
    assert after.outputs == []


CHECKS = [
    check_that_what_a_cell_shows_is_in_the_notebook_and_its_prints_on_stdout,
    check_that_a_failure_is_one_line_and_its_traceback_is_in_the_notebook,
]


@pytest.mark.parametrize("check", CHECKS)
def test_warm(bench: Bench, check: Callable[[Bench, bool], None]) -> None:
    check(bench, True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [(("numbr=2",), "no parameter 'numbr'; it has: number"), (("number",), "usage: python -m seladv.stage")],
)
def test_a_wrong_command_is_one_line(bench: Bench, settings: tuple[str, ...], said: str) -> None:
    run = bench.run("print('ran')", settings=settings)
    assert (run.code, run.out, run.err.count("\n")) == (1, "", 1)
    assert said in run.err


def test_a_parameter_is_a_number_where_it_is_one() -> None:
    assert [value(text) for text in ("0", "margin-50", "results/metrics", "None")] == [
        0,
        "margin-50",
        "results/metrics",
        None,
    ]


def test_what_is_not_seeded_differs_in_every_stage(bench: Bench) -> None:
    draw = "import random, numpy, torch\nprint(random.random(), numpy.random.rand(), torch.rand(1).item())"
    one, other = (bench.run(draw).out.split() for _ in range(2))
    assert len({*one, *other}) == 6


def test_edited_code_is_what_the_next_stage_runs(bench: Bench) -> None:
    cells = (WHO, "from seladv import stats\nprint(getattr(stats, 'NEW', None))")
    before = bench.run(*cells)
    with (bench.folder / "seladv/stats.py").open("a") as file:
        file.write("\nNEW = 5\n")
    after = bench.run(*cells)
    assert (before.out.splitlines()[1], after.out.splitlines()[1]) == ("None", "5")
    assert before.out.split()[1] == after.out.split()[1]  # one server


def test_killing_a_stage_kills_what_it_runs(bench: Bench) -> None:
    run = bench.start(f"{WHO}\nos.system('sleep 60')")
    child, _ = run.who()
    run.process.kill()
    run.process.wait()
    assert ended(child)


def test_ctrl_c_ends_a_stage_and_is_told(bench: Bench) -> None:
    run = bench.start(f"{WHO}\nimport time\ntry:\n    time.sleep(60)\nfinally:\n    print('clean end')")
    run.who()
    run.process.send_signal(signal.SIGINT)
    run.finish()
    assert (run.code, run.out) == (130, "clean end\n")
    assert "KeyboardInterrupt" in run.err
    assert "Traceback" not in run.err


def test_two_at_once(bench: Bench) -> None:
    here = "import time\nfrom pathlib import Path\nPath(f'met-{number}').touch()"
    both = "while not Path(f'met-{3 - number}').exists():\n    time.sleep(0.01)"
    runs = [bench.start(WHO, here, both, output=f"out/{n}.ipynb", settings=(f"number={n}",)) for n in (1, 2)]
    (one, server), (other, same) = (run.who() for run in runs)
    for run in runs:
        run.finish()
    assert [run.code for run in runs] == [0, 0]
    assert one != other
    assert server == same


def test_the_server_ends_when_idle_and_leaves_nothing(bench: Bench) -> None:
    server = int(bench.run(WHO).out.split()[1])
    assert not ended(server, 0.1)
    assert ended(server)
    assert list(Path(bench.env["XDG_RUNTIME_DIR"]).glob("*/*")) == []


TRAIN = """
import hashlib, torch
from pathlib import Path
from seladv import data, sources
from seladv.data import Images
from seladv.train import train
parts = data.split(sources.raw("digits", root=Path(), mirror=None), holdout=100)
parts = {name: Images(parts[f"{name}_images"][:200], parts[f"{name}_labels"][:200]) for name in ("train", "heldout")}
settings = {"model": "digits-cnn", "eps": 0.15, "step_size": 0.03, "steps": 2, "epochs": 1, "batch_size": 32}
settings |= {"lr": 0.001, "precision": "auto", "augment": {"crop": 0, "flip": False}, "optimizer": "adam"}
settings |= {"weight_decay": 0, "schedule": "constant", "ema": 0, "warmup_epochs": 0}
run = train(settings, arm="margin-50", seed=0, data=parts, device=torch.device("cpu"), report=lambda line: None)
print(hashlib.sha256(b"".join(w.numpy().tobytes() for w in run.model.state_dict().values())).hexdigest())
print(torch.get_num_threads())
"""


def test_warm_and_cold_train_the_same_bytes(bench: Bench) -> None:
    warm, cold = bench.start(TRAIN), bench.start(TRAIN, output="out/cold.ipynb", warm=False)
    warm.finish()
    cold.finish()
    assert (warm.code, cold.code) == (0, 0), warm.err + cold.err
    assert warm.out == cold.out


def test_a_stage_whose_server_dies_runs_in_its_own_process(bench: Bench) -> None:
    die = "if not Path('died').exists():\n    Path('died').touch()\n    os.kill(os.getppid(), 9)\n    time.sleep(60)"
    run = bench.run(WHO, f"import time\nfrom pathlib import Path\n{die}\nprint('done')")
    assert run.code == 0
    first, second, done = run.out.splitlines()
    assert done == "done"
    assert int(second.split()[0]) == run.process.pid
    assert ended(int(first.split()[0]))


@pytest.mark.parametrize("check", CHECKS)
def test_cold(bench: Bench, check: Callable[[Bench, bool], None]) -> None:
    check(bench, False)


def test_only_what_a_stage_is_born_with_decides_which_server(monkeypatch: pytest.MonkeyPatch) -> None:
    here = stage.surroundings()
    monkeypatch.setenv("DVC_STAGE", "train-digits@full-0")
    assert stage.surroundings() == here
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert stage.surroundings() != here


def test_a_folder_that_others_can_enter_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    own = stage.folder()
    assert own.stat().st_mode & 0o777 == 0o700
    own.chmod(0o755)
    with pytest.raises(PermissionError):
        stage.folder()
    own.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").chmod(0o700)
    own.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        stage.folder()


def test_a_stages_own_process_imports_nothing_slow() -> None:
    command = (
        "import seladv.stage, sys; print([m for m in ('torch', 'papermill', 'IPython', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
