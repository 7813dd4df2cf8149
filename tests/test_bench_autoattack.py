"""AutoAttack on the seeds that the evaluation spared: only what is missing is measured, and only once."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from seladv.data.images import Images
from seladv.evaluation.autoattack import autoattack
from seladv.evaluation.outcomes import pack, unpack
from seladv.study import places
from seladv.study.places import StudyError
from seladv.training import checkpoint
from seladv.training.monitor import percent

sys.path.append(str(Path(__file__).parents[1]))  # the benchmark is no part of the installed package

from benchmarks.autoattack import main

KNOWN = [True, False, True, True, True, True, True, True]  # of seed 0: more images than are asked for below
EXAMPLES = 6


@pytest.fixture
def study(
    tmp_path: Path, root: Path, digits: dict[str, Images], trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A checkout with two seeds of `full`: AutoAttack has met the first, and only the second one's network is there."""
    asked = yaml.safe_load((root / "params.yaml").read_text())
    asked = {"mirror": None, "digits": asked["digits"] | {"arms": ["full"], "seeds": [0, 1], "headline": "best"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(asked))
    (tmp_path / "dvc.yaml").touch()
    parts = {f"{part}_{kind}": getattr(images, kind) for part, images in digits.items() for kind in images._fields}
    (tmp_path / "data").mkdir()
    save_file(parts, tmp_path / "data" / "digits.safetensors")
    model = {"model": "digits-cnn", "classes": 10}
    checkpoint.write(tmp_path / "models" / "digits" / "full-1" / "best.safetensors", trained.state_dict(), model)
    entry = {"examples": len(KNOWN), "outcomes": pack(torch.tensor(KNOWN))}
    for seed, attacks in enumerate(({"autoattack": entry}, {})):
        places.write_json(tmp_path / "results" / "metrics" / "digits" / f"full-{seed}.json", {"attacks": attacks})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def measured(folder: Path) -> dict[str, Any]:
    main("digits", EXAMPLES, folder)
    found: dict[str, Any] = json.loads((folder / "autoattack-digits.json").read_text())
    return found


def test_only_what_is_missing_is_attacked_and_only_once(
    study: Path, digits: dict[str, Images], trained: nn.Module
) -> None:
    found = measured(study)
    first = Images(*(part[:EXAMPLES] for part in digits["test"]))
    expected = [torch.tensor(KNOWN[:EXAMPLES]), autoattack(trained, first, eps=0.15, seed=1).hits]
    assert [run["measured"] for run in found["runs"]] == ["evaluation", "here"]
    assert [unpack(run["outcomes"], EXAMPLES).tolist() for run in found["runs"]] == [hits.tolist() for hits in expected]
    assert [run["robust"] for run in found["runs"]] == [percent(hits) for hits in expected]
    assert found["mean over seeds"] == {"full": round(sum(map(percent, expected)) / 2, 2)}
    shutil.rmtree(study / "models")
    assert measured(study)["runs"] == found["runs"]
    with pytest.raises(SystemExit, match=f"autoattack-digits.json is of {EXAMPLES} images: remove it"):
        main("digits", EXAMPLES + 1, study)


def test_a_network_that_is_not_there_is_named(study: Path) -> None:
    shutil.rmtree(study / "models")
    with pytest.raises(StudyError, match="run `dvc repro train-digits@full-1` first"):
        main("digits", EXAMPLES, study)
    assert [run["seed"] for run in json.loads((study / "autoattack-digits.json").read_text())["runs"]] == [0]
