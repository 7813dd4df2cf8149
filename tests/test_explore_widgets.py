"""The explore notebook's pictures and the controls that they follow."""

import shutil
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from seladv import explore, explore_networks, explore_plots
from seladv.explore_networks import Subject
from seladv.explore_widgets import Panel, html


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A study with two short networks of the digits, and the folder of one of MNIST whose data are not there."""
    folder = tmp_path_factory.mktemp("study")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(root / name, folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explore_networks, "SHORT_EPOCHS", 1)
        explore_networks.ensure(folder, "digits")
    strange = folder / "models/mnist/full-0"
    shutil.copytree(folder / "runs/lab/explore/digits/full-0", strange)
    return folder


@pytest.fixture
def panel(study: Path) -> Panel:
    return Panel(study, explore_networks.ensure(study, "digits"), arm="margin-50", seed=0)


@pytest.fixture
def subject(panel: Panel) -> Subject:
    return panel.subject()


def marked(figure: Figure) -> list[bool]:
    """Whether each shown image has the thick frame that marks."""
    shown = [axis for axis in figure.axes if axis.images]
    return [axis.spines["top"].get_edgecolor()[:3] == explore_plots.MARK for axis in shown]


@pytest.mark.parametrize("by_score", [False, True])
def test_the_chosen_are_framed_and_dotted(subject: Subject, by_score: bool) -> None:
    choice = explore.choose(subject, explore.batches(subject)[0])
    figure = explore_plots.batch(choice, subject.names, arm="margin-50", by_score=by_score)
    dotted = [axis.get_title().startswith("●") for axis in figure.axes if axis.images]
    assert len(dotted) == 64
    assert dotted == marked(figure)
    expected = choice.chosen.tolist()
    assert dotted == ([True] * 32 + [False] * 32 if by_score else expected)
    assert figure.get_suptitle().startswith("margin-50 attacks 32 of 64")


def test_a_step_is_titled_with_its_margin_and_prediction(panel: Panel) -> None:
    trajectory = panel.trajectory(0)
    figure = explore_plots.step(trajectory, 3, panel.subject().names, eps=0.15)
    title = figure.get_suptitle()
    assert "step 3 of 10" in title
    assert f"{trajectory.margins[3]:+.2f}" in title
    assert title.endswith(f"says {trajectory.predictions[3]}")


def test_two_arms_are_compared_from_the_same_start(panel: Panel) -> None:
    (other,) = [run for _, run in panel.run.options if run.arm == "full"]
    one, two = panel.trajectory(5), panel.trajectory(5, other)
    assert torch.equal(one.images[0], two.images[0])
    assert not torch.equal(one.images[-1], two.images[-1])
    figure = explore_plots.comparison({"one": one, "two": two}, panel.subject().names, eps=0.15)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["one", "two"]


def test_habits_name_what_is_recomputed_and_what_recorded(subject: Subject) -> None:
    times = explore.times_chosen(subject, images=100, epochs=3)
    title = explore_plots.habits(times, subject, epochs=3).get_suptitle()
    assert f"of 100 images {int((times == 3).sum())} are chosen every time, {int((times == 0).sum())} never" in title
    assert f"Recorded in training: {100 * subject.record['history'][-1]['never_selected']:.1f} %" in title


def test_a_picture_has_a_text_for_those_who_do_not_see_it() -> None:
    figure = Figure()
    figure.suptitle("3 < 4")
    assert html(figure).startswith('<img alt="3 &lt; 4" src="data:image/png;base64,iVBOR')


def test_what_is_asked_for_is_picked_first_and_its_eps_is_the_protocols(panel: Panel) -> None:
    run, eps = panel.picked
    assert (run.arm, run.seed, eps) == ("margin-50", 0, 0.15)
    assert panel.attack() == {"eps": 0.15, "step_size": pytest.approx(0.03), "steps": 10}
    panel.eps.value = 0.3
    assert panel.attack() == {"eps": 0.3, "step_size": pytest.approx(0.06), "steps": 10}


def test_pictures_follow_every_control(panel: Panel) -> None:
    step = panel.slider("step", lambda subject: subject.study.steps)
    assert step.max == 10

    def draw() -> Figure:
        return explore_plots.step(panel.trajectory(1), step.value, panel.subject().names, eps=panel.picked[1])

    shown = panel.picture(draw, step).children[-1]
    seen = {shown.value}
    for control, value in ((step, 4), (panel.eps, 0.06), (panel.run, panel.run.options[0][1])):
        control.value = value
        seen.add(shown.value)
    assert len(seen) == 4


def test_what_is_missing_is_said_in_the_pictures_place(panel: Panel) -> None:
    shown = panel.picture(lambda: explore_plots.habits(torch.zeros(9).long(), panel.subject(), epochs=1)).children[-1]
    panel.protocol.value = "mnist"
    assert shown.value.startswith('<p role="alert">')
    assert "digits-cnn" in shown.value  # the folder holds another network
    assert panel.picked[1] == 0.3
    panel.protocol.value = "digits"
    assert shown.value.startswith("<img")


def test_one_action_draws_once(panel: Panel) -> None:
    drawn = []
    panel.picture(lambda: drawn.append(panel.picked) or Figure())
    panel.protocol.value = "mnist"
    assert len(drawn) == 2  # at first, and now
    assert drawn[1] == (panel.runs["mnist"][0], 0.3)


def test_the_second_arm_is_another_of_the_protocols(panel: Panel) -> None:
    other = panel.other("beside", prefer="full")
    assert other.value.arm == "full"
    panel.protocol.value = "mnist"
    assert [run.protocol for _, run in other.options] == ["mnist"]
