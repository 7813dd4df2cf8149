"""The notebooks as a person meets them: `make lab`, JupyterLab, a browser. Skipped where there is no Chromium."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import nbformat
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from test_pipeline import JUDGED, SMALL, Study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("the browser test needs Chromium: `apt-get install chromium`", allow_module_level=True)

NOTEBOOKS = sorted(path.stem for path in (Path(__file__).parents[1] / "notebooks").glob("[0-9]*.ipynb"))
SECONDS = 300  # that a busy machine may take; nothing waits longer than it has to
expect.set_options(timeout=1000 * SECONDS)

FEW = {name: 50 for name in ("examples", "strong", "fgsm", "noise", "square", "curves", "transfer")}
SETTINGS = {  # no question and no request about news, and every cell in the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A copy of the repository in which the digits have been studied, in seconds."""
    study = Study(tmp_path_factory.mktemp("lab"))
    study.params(**SMALL | {"arms": [*SMALL["arms"], "gradmatch-50"], "evaluate": JUDGED | FEW})
    study.repro()
    study.repro("fidelity-digits")
    study.repro("--single-item", "claims")
    return study


def status(study: Study) -> dict[str, Any]:
    done = study.run("dvc", "status", "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def before(study: Study) -> dict[str, Any]:
    """What DVC says before anybody opens a notebook: other protocols have not run, the digits are as they should be."""
    answer = status(study)
    kept = re.compile(r"check|claims|[a-z]+-digits(@.*)?")  # not those of `digits-all`, another protocol
    assert not list(filter(kept.fullmatch, answer))
    return answer


class Lab:
    """A running JupyterLab: `address` with a slash at the end, and its token."""

    def __init__(self, server: dict[str, Any]) -> None:
        self.address, self.token, self.port = server["url"], server["token"], server["port"]

    def ask(self, path: str, *, token: str, method: str = "GET") -> Any:
        request = Request(f"{self.address}api/{path}", method=method, headers={"Authorization": f"token {token}"})
        with urlopen(request, timeout=SECONDS) as answer:
            return json.loads(answer.read() or "null")


@pytest.fixture(scope="module")
def lab(study: Study, before: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """What `make lab` starts, with settings and files of its own, and without opening a browser."""
    own = tmp_path_factory.mktemp("jupyter")
    for name, content in SETTINGS.items():
        path = own / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    folders = {"CONFIG_DIR": "config", "DATA_DIR": "data", "RUNTIME_DIR": "runtime"}
    env = {**os.environ, **{f"JUPYTER_{name}": str(own / folder) for name, folder in folders.items()}}
    env |= {f"JUPYTERLAB_{name.upper()}_DIR": str(own / name) for name in ("settings", "workspaces")}
    env |= {"IPYTHONDIR": str(own / "ipython"), "PYTHONPATH": str(study.folder), "OMP_NUM_THREADS": "1"}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    for name in ("JUPYTER_TOKEN", "MAKEFLAGS", "MAKELEVEL", "PYTEST_CURRENT_TEST"):
        env.pop(name, None)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        options = f"--no-browser --ServerApp.port={free.getsockname()[1]}{' --allow-root' * (os.geteuid() == 0)}"
    command = ["make", "--old-file=.venv/.ready", "lab", f"LAB={options}"]  # --old-file: no environment is made
    with (own / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=study.folder, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        yield Lab(json.loads(_appears(own / "runtime", "jpserver-*.json", process, own / "log").read_text()))
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # the kernels end with it
        process.wait(timeout=SECONDS)


def _appears(folder: Path, pattern: str, process: "subprocess.Popen[bytes]", log: Path) -> Path:
    """The file that a started server writes."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        for path in folder.glob(pattern):
            if path.read_text().endswith("}"):
                return path
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()[-3000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # which root cannot have
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, lab: Lab) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1500, "height": 1100})
    page.set_default_timeout(1000 * SECONDS)
    yield page
    page.close()
    for session in lab.ask("sessions", token=lab.token):  # one kernel at a time
        lab.ask(f"sessions/{session['id']}", token=lab.token, method="DELETE")


def run_all(page: Page, lab: Lab, file: Path) -> None:
    """Open a notebook, run all its cells, wait until they are done, and save it."""
    # A workspace of its own: in the common one the former notebook would come back beside it.
    page.goto(f"{lab.address}lab/workspaces/{file.stem}/tree/{file.name}?token={lab.token}")
    cells = sum(cell.cell_type == "code" for cell in nbformat.read(file, as_version=4).cells)
    expect(page.locator(".jp-CodeCell")).to_have_count(cells)
    page.get_by_text(re.compile(r"\| Idle$")).wait_for()  # or JupyterLab would ask which kernel to run the cells on
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt")
    expect(prompts.filter(has_text=re.compile(r"\[\d+\]"))).to_have_count(cells)
    page.keyboard.press("Control+s")
    wait(page, lambda: is_saved(file), f"{file.name} with all its cells run")


def wait(page: Page, true: Callable[[], bool], what: str) -> None:
    """For what Playwright has no words for."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        page.wait_for_timeout(100)


def is_saved(file: Path) -> bool:
    """Whether the notebook on the disk has all its cells run; not while it is being written."""
    try:
        return all(cell.execution_count for cell in code_cells(file))
    except nbformat.reader.NotJSONError:
        return False


def code_cells(file: Path) -> list[Any]:
    """A notebook's code cells as they are on the disk."""
    return [cell for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]


def errors(file: Path) -> list[str]:
    """What went wrong in a saved notebook."""
    outputs = [output for cell in code_cells(file) for output in cell.outputs]
    return [f"{output.ename}: {output.evalue}" for output in outputs if output.output_type == "error"]


def test_only_this_machine_and_only_with_the_token(lab: Lab) -> None:
    assert len(lab.token) > 30
    assert [item["path"] for item in lab.ask("contents", token=lab.token)["content"] if item["name"] == "explore.ipynb"]
    with pytest.raises(HTTPError, match="403"):
        lab.ask("contents", token="guessed")
    with pytest.raises(ConnectionRefusedError):  # also this machine, but not what `localhost` means
        socket.create_connection(("127.0.0.2", lab.port), timeout=SECONDS)


def test_explore_follows_its_widgets(study: Study, before: dict[str, Any], lab: Lab, page: Page) -> None:
    file = study.folder / "notebooks/explore.ipynb"
    run_all(page, lab, file)
    assert errors(file) == []
    expect(page.locator("img[alt]:not([alt=''])")).to_have_count(4)
    expect(page.locator("[role=alert]")).to_have_count(0)

    section = page.locator(".jp-CodeCell", has_text="explore_plots.step(")
    picture = section.locator("img")
    expect(picture).to_have_attribute("alt", re.compile("step 0 of 2:"))
    move(section.locator(".widget-slider", has_text="step").locator("[role=slider]"), picture)
    expect(picture).to_have_attribute("alt", re.compile("step 1 of 2:"))
    move(section.locator(".widget-slider", has_text="image").locator("[role=slider]"), picture)
    move(section.locator(".widget-slider", has_text="ε").locator("[role=slider]"), picture)

    chosen = page.locator(".jp-CodeCell", has_text="explore_plots.batch(").locator("img")
    expect(chosen).to_have_attribute("alt", re.compile("^margin-50 attacks 32 of 64 "))
    section.locator(".widget-dropdown", has_text="arm").locator("select").select_option("full, seed 0")
    expect(chosen).to_have_attribute("alt", re.compile("^full attacks 64 of 64 "))

    page.keyboard.press("Control+s")
    assert status(study) == before


def move(slider: Locator, picture: Locator) -> None:
    """One step to the right, and another picture."""
    seen = picture.get_attribute("src")
    slider.press("ArrowRight")
    wait(picture.page, lambda: picture.get_attribute("src") != seen, f"another picture after {slider}")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_is_saved(study: Study, lab: Lab, page: Page, name: str) -> None:
    file = study.folder / "notebooks" / f"{name}.ipynb"
    run_all(page, lab, file)
    assert errors(file) == []
    assert any(cell.outputs for cell in code_cells(file))


def test_nothing_of_the_study_has_become_stale(study: Study, before: dict[str, Any]) -> None:
    assert set(status(study)) - set(before) <= {"check"}  # which sees that the saved files are others,
    study.repro("check")  # and in a second finds the same code in them
    assert status(study) == before
