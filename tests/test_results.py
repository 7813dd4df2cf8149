"""The table: made of the runs that params.yaml asks for, paired by seed."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from seladv import params, report, results
from seladv.outcomes import pack, unpack
from seladv.stats import mean_and_half_width

ROOT = Path(__file__).parent.parent
ROBUST = {"clean": [10.0, 12.0], "full": [80.0, 90.0], "margin-50": [82.0, 91.0]}
PASSES = {"clean": 0, "full": 1000, "margin-50": 500}


def protocol(**changes: Any) -> params.Protocol:
    asked = params.load(ROOT / "params.yaml", "digits").model_dump()
    asked |= {"arms": list(ROBUST), "seeds": [3, 5], "paper": {"full": {"clean": 96.2, "robust": 84.5}}}
    return params.Protocol.model_validate({**asked, **changes})


def metrics(arm: str, seed: int, robust: float) -> dict[str, Any]:
    cost = {"attack_passes": PASSES[arm], "total_passes": PASSES[arm] + 300}
    epochs = [{"epoch_seconds": (1 + PASSES[arm] / 1000) * seconds} for seconds in (1.0, 60.0, 1.0)]
    made = {"device": "a CPU", "threads": 2, "precision": "fp32", "torch": "2"}
    return {
        "arm": arm,
        "seed": seed,
        "clean": 97.0,
        "robust": robust,
        "evaluation": {"seconds": 180.0},
        "training": {"cost": cost, "history": epochs, **made},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two arms' metrics, two seeds each, and one file that nobody asks for any more."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for arm, values in ROBUST.items():
        for seed, robust in zip((3, 5), values, strict=True):
            (folder / f"{arm}-{seed}.json").write_text(json.dumps(metrics(arm, seed, robust)))
    (folder / "margin-25-3.json").write_text("{}")
    return folder


def table(folder: Path, asked: params.Protocol) -> pd.DataFrame:
    return results.table(results.load(folder, asked), asked).set_index("arm")


def test_rows_are_the_arms_asked_for_in_their_order(folder: Path) -> None:
    assert table(folder, protocol()).index.tolist() == ["clean", "full", "margin-50"]
    assert table(folder, protocol(arms=["margin-50", "full"])).index.tolist() == ["margin-50", "full"]


def test_the_difference_to_full_is_paired_by_seed(folder: Path) -> None:
    row = table(folder, protocol()).loc["margin-50"]
    mean, half = mean_and_half_width([2.0, 1.0])
    assert row["robust_minus_full"] == mean == 1.5
    assert row["robust_minus_full_ci"] == half
    assert half is not None
    assert half < row["robust_ci"]  # pairing takes out what the seeds have in common


def test_costs_are_ratios_to_full_and_one_slow_epoch_does_not_count(folder: Path) -> None:
    rows = table(folder, protocol())
    assert rows["attack_cost"].tolist() == [0.0, 1.0, 0.5]
    assert rows["total_cost"].tolist() == [300 / 1300, 1.0, 800 / 1300]
    assert rows["epoch_time"].tolist() == [0.5, 1.0, 0.75]


def test_epochs_timed_in_turns_go_before_those_of_the_runs(folder: Path) -> None:
    seconds = {"full": [10.0, 20.0, 10.0], "margin-50": [6.0, 10.0, 99.0], "random-50": [1.0, 1.0, 1.0]}
    timing = {"machine": {}, "epoch_seconds": seconds}
    rows = results.table(results.load(folder, protocol()), protocol(), timing).set_index("arm")
    assert rows["epoch_time"].tolist() == [0.5, 1.0, 0.6]  # clean was not timed: its runs' ratio
    alone = protocol(arms=["margin-50"])
    assert results.table(results.load(folder, alone), alone, timing)["epoch_time"].isna().all()


def test_without_full_the_comparison_is_empty_and_the_rest_stands(folder: Path) -> None:
    row = table(folder, protocol(arms=["margin-50"])).loc["margin-50"]
    assert row["robust"] == 86.5
    assert row[["robust_minus_full", "attack_cost", "total_cost", "epoch_time", "paper_robust"]].isna().all()


def test_one_seed_has_no_interval(folder: Path) -> None:
    asked = protocol(seeds=[5])
    rows = table(folder, asked)
    assert rows[["clean_ci", "robust_ci", "robust_minus_full_ci"]].isna().all(axis=None)
    assert "no interval" in report.to_markdown(rows.reset_index(), results.load(folder, asked), asked, name="digits")


def test_the_csv_reads_back_and_leaves_empty_what_is_not_there(folder: Path) -> None:
    text = report.to_csv(table(folder, protocol()).reset_index())
    back = pd.read_csv(io.StringIO(text)).set_index("arm")
    assert math.isnan(back.loc["margin-50", "paper_clean"])
    assert back.loc["full", "paper_robust"] == 84.5
    assert back.loc["clean", "robust_minus_full"] == -74.0


def test_the_page_lists_every_seed_and_what_made_it(folder: Path) -> None:
    asked = protocol()
    page = report.to_markdown(table(folder, asked).reset_index(), results.load(folder, asked), asked, name="digits")
    for arm, values in ROBUST.items():
        for seed, robust in zip((3, 5), values, strict=True):
            assert f"| {arm} | {seed} | 97.00 | {robust:.2f} |" in page
    assert "- a CPU, 2 threads, fp32, torch 2" in page


def test_the_page_adds_up_the_hours_of_every_seed_and_of_all(folder: Path) -> None:
    def hours(asked: params.Protocol) -> list[str]:
        page = report.to_markdown(table(folder, asked).reset_index(), results.load(folder, asked), asked, name="digits")
        return page.split("evaluation, hours |\n")[1].splitlines()[1:]

    training = 62 * (1 + 2 + 1.5) / 3600  # clean, full and margin-50, each an epoch of a minute and two of a second
    one = f"| {training:.2f} | 0.15 |"
    assert hours(protocol()) == [f"| 3 | 3 {one}", f"| 5 | 3 {one}", f"| all | 6 | {2 * training:.2f} | 0.30 |"]
    assert hours(protocol(seeds=[3])) == [f"| 3 | 3 {one}"]


def page_of(runs: results.Metrics) -> str:
    asked = protocol()
    return report.to_markdown(results.table(runs, asked), runs, asked, name="digits")


def test_stronger_attacks_have_columns_where_they_ran(folder: Path) -> None:
    runs = results.load(folder, protocol())
    assert "AutoAttack" not in page_of(runs)
    assert "worst case" not in page_of(runs)
    for seed, robust in enumerate((41.0, 43.0)):
        runs["full"][seed]["worst_case"] = {"robust": robust}
    runs["full"][0]["attacks"] = {"autoattack": {"robust": 44.0}, "pgd": {"robust": 80.0}}
    page = page_of(runs)
    assert "| epoch time | AutoAttack, % | worst case, % | paper clean |" in page
    half = mean_and_half_width([41.0, 43.0])[1]
    assert f"| 1.00 | 44.0 | 42.0 ± {half:.1f} | 96.2 | 84.5 |" in page
    (other,) = (line for line in page.splitlines() if line.startswith("| margin-50 | 97.0 ±"))
    assert other.endswith("| 0.75 | – | – | – | – |")
    assert "for some seeds only" in page


def test_the_worst_case_is_over_the_attacks_that_all_seeds_faced(folder: Path) -> None:
    """Seed 3 alone faced AutoAttack, and seed 3's worst case is over fewer images for it."""
    survived = {"pgd": [1, 1, 1, 0], "square": [1, 0], "autoattack": [0, 1, 1]}
    entries = {
        name: {"robust": 0.0, "examples": len(bits), "outcomes": pack(torch.tensor(bits, dtype=torch.bool))}
        for name, bits in survived.items()
    }
    for path in folder.iterdir():
        attacks = [name for name in entries if name != "autoattack" or "-3" in path.name]
        worst = {"robust": 5.0, "examples": 3 if "-3" in path.name else 4, "outcomes": "00", "attacks": attacks}
        run = json.loads(path.read_text()) | {"attacks": {name: entries[name] for name in attacks}, "worst_case": worst}
        path.write_text(json.dumps(run))
    for run in (run for runs in results.load(folder, protocol()).values() for run in runs):
        assert run["worst_case"]["attacks"] == ["pgd", "square"]
        assert run["worst_case"]["robust"] == 50.0  # the first image and the third: Square saw no third
        assert unpack(run["worst_case"]["outcomes"], run["worst_case"]["examples"]).tolist() == [1, 0, 1, 0]
    alone = results.load(folder, protocol(seeds=[3]))["full"][0]["worst_case"]
    assert alone["attacks"] == ["pgd", "square", "autoattack"]
    assert alone["robust"] == pytest.approx(100 / 3)


def test_the_network_that_is_shown_and_both_that_are_evaluated_are_named(folder: Path) -> None:
    runs = results.load(folder, protocol())
    assert "the network of the last epoch" in page_of(runs)
    best = protocol(headline="best")
    for record in (run for records in runs.values() for run in records):
        record["checkpoints"] = {"last": {"clean": 1.0, "robust": 61.5}, "best": {"clean": 1.0, "robust": 62.5}}
    page = report.to_markdown(results.table(runs, best), runs, best, name="digits")
    assert "the network of the best epoch" in page
    assert "| epoch time | robust, last, % | robust, best, % | paper clean |" in page
    assert "| 1.00 | 61.5 ± 0.0 | 62.5 ± 0.0 | 96.2 | 84.5 |" in page


def test_of_an_arm_without_attacks_the_last_network_is_told_beside_its_best(folder: Path) -> None:
    runs, best = results.load(folder, protocol()), protocol(headline="best")
    for record, clean in zip(runs["clean"], (90.0, 91.0), strict=True):
        record["checkpoints"] = {"last": {"clean": clean, "robust": 0.5}, "best": {"clean": 30.0, "robust": 9.0}}
    runs["full"][0]["checkpoints"] = runs["clean"][0]["checkpoints"]
    page = report.to_markdown(results.table(runs, best), runs, best, name="digits")
    assert "`clean` attacks nothing" in page
    assert "is right on 90.5 % clean and 0.5 % attacked" in page
    assert "`full` attacks nothing" not in page
    assert "attacks nothing" not in page_of(runs)


def test_the_table_marks_what_is_doubtful_and_the_csv_keeps_its_columns(folder: Path) -> None:
    runs = results.load(folder, protocol())
    assert "masked" not in page_of(runs)
    for records in runs.values():
        records[0]["masked_gradients"] = False
    runs["margin-50"][1]["masked_gradients"] = True
    for arm, fgsm, robust in (("full", 60.0, 0.0), ("margin-50", 60.0, 50.0), ("clean", 60.0, 0.0)):
        lines = ({"epoch": 1, "heldout_fgsm": 52.0, "heldout_robust": 50.0},
                 {"epoch": 2, "heldout_fgsm": fgsm, "heldout_robust": robust})  # fmt: skip
        history = runs[arm][0]["training"]["history"]
        runs[arm][0]["training"]["history"] = [history[-1] | line for line in lines]
    page = page_of(runs)
    assert "| margin-50 (masked gradients? seed 5) | 97.0" in page
    assert "| full (catastrophic overfitting seed 3) | 97.0" in page
    assert "| clean | 97.0" in page  # nothing was attacked, so nothing was learnt of one attack only
    assert report.to_csv(results.table(runs, protocol())) == report.to_csv(table(folder, protocol()).reset_index())


def test_the_settings_are_those_of_params_yaml() -> None:
    shown = report.settings(protocol(eps="8/255"))
    for line in ("| eps | 8/255 |", "| arms | clean, full, margin-50 |", "| seeds | 3, 5 |", "| evaluate.steps | 40 |"):
        assert line in shown


def test_a_timing_is_read_whole_or_refused_and_need_not_be_there(tmp_path: Path) -> None:
    path = tmp_path / "digits.json"
    assert results.timing(path) is None
    content = {"machine": {"device": "a CPU"}, "epoch_seconds": {"full": [1.0]}}
    path.write_text(json.dumps(content))
    assert results.timing(path) == content
    for broken, found in (('{"machine": ', "not whole"), ('{"full": [1.0]}', "no timing"), ("[]", "no timing")):
        path.write_text(broken)
        with pytest.raises(results.ResultsError, match=found) as refused:
            results.timing(path)
        assert str(path) in str(refused.value)


def test_radii_are_written_as_the_field_writes_them(folder: Path) -> None:
    asked = protocol(eps="8/255")
    page = report.to_markdown(table(folder, asked).reset_index(), results.load(folder, asked), asked, name="digits")
    assert "ε = 8/255, step 0.03" in page


@pytest.mark.parametrize(("content", "found"), [(None, "missing"), ('{"clean": 9', "not whole"), ("{}", "no run's")])
def test_a_missing_or_broken_file_is_named_in_one_line(folder: Path, content: str | None, found: str) -> None:
    path = folder / "full-5.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(results.ResultsError, match=found) as refused:
        results.load(folder, protocol())
    assert "full-5.json" in str(refused.value)
    assert "dvc repro evaluate-digits@full-5" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_half_width_is_students() -> None:
    mean, half = mean_and_half_width([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert half == pytest.approx(4.302653 / 3**0.5)  # t(0.975, 2) from a printed table, standard deviation 1
    assert mean_and_half_width([7.0]) == (7.0, None)
    with pytest.raises(ValueError, match="no values"):
        mean_and_half_width([])


def test_what_the_readme_shows_is_in_the_files_it_names() -> None:
    blocks = re.findall(r"<!-- (results/\S+) -->\n(.+?)<!-- end -->", (ROOT / "README.md").read_text(), re.DOTALL)
    bench = "results/bench/cpu-intel-r-xeon-r-processor.md"
    assert [name for name, _ in blocks] == ["results/mnist.md", "results/cifar10-8.md", bench]
    for name, shown in blocks:
        page = (ROOT / name).read_text().splitlines()
        assert not [line for line in shown.strip().splitlines() if line not in page], f"README is behind {name}"


def test_every_decimal_of_the_readmes_results_is_in_a_file_that_its_paragraph_links() -> None:
    page = (ROOT / "README.md").read_text()
    said = page.split("\n## Results\n")[1].split("\n## ")[0]
    said = re.sub(r"<!-- .+? -->.+?<!-- end -->", "", said, flags=re.DOTALL)
    rows = [line for line in page.split("\n## The study on real data\n")[1].splitlines() if line.startswith("| `")]
    number = r"(?<![\w.])\d+\.\d+(?!\d)"
    figures = {}
    for paragraph in [*re.split(r"\n\n|\n(?=- )", said), *rows]:
        linked = re.findall(r"\]\((results/[^)]+\.(?:md|csv|json))\)", paragraph)
        found = {figure for name in linked for figure in re.findall(number, (ROOT / name).read_text())}
        figures[paragraph] = {*re.findall(number, paragraph)}
        assert not figures[paragraph] - found, paragraph
    assert sum(map(len, figures.values())) > 5  # it has looked at the right section
    assert any(figures[row] for row in rows)
