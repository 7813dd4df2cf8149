"""The controls of `notebooks/explore.ipynb`: what is picked on top, sliders that fit it, pictures that follow both."""

import io
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from matplotlib.figure import Figure
from traitlets import HasTraits, Tuple

from seladv import explore, explore_networks, params
from seladv.explore import Trajectory
from seladv.explore_networks import Found, Subject
from seladv.seeds import stream

STYLE: dict[str, Any] = {"layout": widgets.Layout(width="340px"), "style": {"description_width": "80px"}}


class Panel(HasTraits):
    """Menus for protocol and run, and a slider for ε. `picked` holds (run, ε), and changes once for one action.

    Args:
        root: the study's root.
        runs: what `explore_networks.ensure` found.
        arm, seed: what is picked at first, where it is there.
    """

    picked = Tuple()

    def __init__(self, root: Path, runs: dict[str, list[Found]], *, arm: str, seed: int) -> None:
        super().__init__()
        self.root, self.runs = root, runs
        self.protocol = widgets.Dropdown(options=list(runs), description="protocol", **STYLE)
        self.run = widgets.Dropdown(description="arm", **STYLE)
        self.eps = widgets.FloatSlider(description="ε", readout_format=".3f", continuous_update=False, **STYLE)
        self.controls = widgets.HBox([self.protocol, self.run, self.eps], layout=widgets.Layout(flex_flow="row wrap"))
        self._held = False
        self._fit(lambda run: (run.arm, run.seed) == (arm, seed))
        self.protocol.observe(lambda _: self._fit(), "value")
        self.run.observe(lambda _: self._pick(), "value")
        self.eps.observe(lambda _: self._pick(), "value")

    def subject(self, run: Found | None = None) -> Subject:
        """The picked run, or `run`, with its network and images; raises as `explore_networks.load` does."""
        return explore_networks.load(self.root, run or self.picked[0])

    def attack(self) -> dict[str, Any]:
        """The protocol's PGD at the ε that is picked: its steps are scaled with it, and so reach as far."""
        study, eps = self.subject().study, self.picked[1]
        return {"eps": eps, "step_size": study.step_size * eps / study.eps, "steps": study.steps}

    def trajectory(self, image: int, run: Found | None = None) -> Trajectory:
        """A test image under `attack` on the picked network or that of `run`, from the same random start."""
        subject = self.subject(run)
        test = subject.data["test"]
        x, y = test.batch(test.labels.new_tensor([image]))
        return explore.trajectory(subject.model, x, y, **self.attack(), generator=stream(image, "explore", x.device))

    def slider(self, name: str, last: Callable[[Subject], int], **settings: Any) -> widgets.IntSlider:
        """A slider from 0 to `last` of what is picked."""
        made = widgets.IntSlider(description=name, **{**STYLE, **settings})

        def fit() -> None:
            made.max = last(self.subject())

        self._follow(fit)
        return made

    def other(self, name: str, *, prefer: str) -> widgets.Dropdown:
        """A second menu of the protocol's runs, on the first of an arm that begins with `prefer` if there is one."""
        made = widgets.Dropdown(description=name, **STYLE)

        def fit() -> None:
            if made.options != self.run.options:
                made.options = self.run.options
                made.value = next((run for _, run in made.options if run.arm.startswith(prefer)), made.value)

        self._follow(fit)
        return made

    def picture(self, draw: Callable[[], Figure], *controls: Any) -> widgets.VBox:
        """The panel and `controls` above the picture that `draw` makes, made again whenever one of them changes.

        A picture's title is also its alternative text. What a person can put right shows as one line in its place.
        """
        shown = widgets.HTML()

        def redraw(_: Any = None) -> None:
            try:
                shown.value = html(draw())
            except (ValueError, OSError) as problem:
                shown.value = f'<p role="alert">{escape(str(problem))}</p>'

        self.observe(redraw, "picked")
        for control in controls:
            control.observe(redraw, "value")
        redraw()
        return widgets.VBox([self.controls, *controls, shown])

    def _fit(self, wanted: Callable[[Found], bool] = lambda run: True) -> None:
        """The protocol's runs, and an ε from 0 to twice its own."""
        runs = self.runs[self.protocol.value]
        self._held = True  # or every step of this would draw every picture
        self.run.options = [(run.label, run) for run in runs]
        self.run.value = next(filter(wanted, runs), runs[0])
        eps = params.load(self.root / "params.yaml", self.protocol.value).eps
        self.eps.max, self.eps.step, self.eps.value = min(1.0, 2 * eps), eps / 20, eps
        self._held = False
        self._pick()

    def _pick(self) -> None:
        if not self._held:
            self.picked = (self.run.value, self.eps.value)

    def _follow(self, fit: Callable[[], None]) -> None:
        """Call `fit` now and at every pick: before the pictures, which are made later, follow it."""

        def follow(_: Any = None) -> None:
            with suppress(ValueError, OSError):  # the pictures say what is missing
                fit()

        self.observe(follow, "picked")
        follow()


def html(figure: Figure) -> str:
    """`figure` as an HTML image that is as wide as there is room, described by its title."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    code = b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(figure.get_suptitle())}" src="data:image/png;base64,{code}" style="max-width: 100%">'
