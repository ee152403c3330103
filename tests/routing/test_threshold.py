"""Where the confidence below which a router abstains comes from, and what becomes of it when samples change."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from lmoe_ray.errors import SettingsError, StaleCalibration
from lmoe_ray.routing.calibration import Calibration
from lmoe_ray.routing.familiarity import Familiarity
from lmoe_ray.routing.fitted_index import FittedIndex
from lmoe_ray.routing.threshold import NEVER, CalibrationFile, Threshold, read_calibration
from lmoe_ray.settings import RouterSettings
from tests.routing.experts import index_of

USUAL = Familiarity(np.ones(2, np.float32), np.ones(2, np.float32))
FILE = CalibrationFile(digest="c0ffee", precision=0.9, threshold=0.625, coverage=0.75, num_judged=64)


def fitted(*is_right: bool, digest: str = "c0ffee") -> FittedIndex:
    """Held-out samples of confidence .9, .8, .7 and so on."""
    confidences = np.linspace(0.9, 0.9 - 0.1 * (len(is_right) - 1), len(is_right), dtype=np.float32)
    calibration = Calibration(1.0, 0.0, confidences, np.array(is_right, np.bool_))
    return FittedIndex(index_of(code=np.eye(2)), digest, USUAL, calibration=calibration)


def settings(**fields: object) -> RouterSettings:
    return RouterSettings.model_validate(fields)


def settled(found: FittedIndex, **fields: object) -> Threshold:
    threshold = Threshold(settings(**fields))
    threshold.settle(found)
    return threshold


def written(folder: Path, file: CalibrationFile = FILE) -> str:
    file.write(folder / "calibration.json")
    return str(folder / "calibration.json")


def test_a_number_of_the_settings_is_the_number_whatever_the_samples_say() -> None:
    threshold = settled(fitted(True, False), threshold=0.25)
    threshold.follow(fitted(digest="other"))

    assert threshold.value == 0.25
    assert settled(fitted(True, False)).value == 0.0


def test_a_precision_becomes_the_least_confidence_that_gives_it() -> None:
    assert settled(fitted(True, True, False, True), precision=0.75).value == pytest.approx(0.6)


def test_a_precision_out_of_reach_leaves_everything_to_the_fallback_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        threshold = settled(fitted(False, True), precision=0.75)

    assert threshold.value == NEVER > 1.0
    assert "so the fallback answers precision=0.75" in caplog.text


@pytest.mark.parametrize("found", [fitted(), dataclasses.replace(fitted(), calibration=None)], ids=["few", "one"])
def test_a_precision_that_cannot_be_measured_stops_the_start(found: FittedIndex) -> None:
    with pytest.raises(SettingsError, match=r"router\.precision: the package has too few routing samples"):
        settled(found, precision=0.75)


def test_a_calibration_file_gives_the_number_for_its_own_index(tmp_path: Path) -> None:
    assert settled(fitted(), calibration=written(tmp_path)).value == 0.625


def test_a_calibration_file_of_another_index_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(StaleCalibration, match="measured on the routing index c0ffee") as refused:
        settled(fitted(True, digest="decaf"), calibration=written(tmp_path))

    assert (refused.value.calibrated, refused.value.in_use) == ("c0ffee", "decaf")


def test_while_serving_a_changed_index_is_measured_for_the_precision_of_the_file(tmp_path: Path) -> None:
    threshold = settled(fitted(), calibration=written(tmp_path))

    threshold.follow(fitted(True, True, False, digest="decaf"))

    assert threshold.value == pytest.approx(0.8)


def test_while_serving_a_precision_is_measured_again() -> None:
    threshold = settled(fitted(True, True, False), precision=0.75)

    threshold.follow(fitted(True, False, False, digest="decaf"))

    assert threshold.value == pytest.approx(0.9)


def test_while_serving_what_cannot_be_measured_leaves_the_number_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    threshold = settled(fitted(True, True, False), precision=0.75)

    with caplog.at_level(logging.WARNING):
        threshold.follow(fitted())

    assert threshold.value == pytest.approx(0.8)
    assert "threshold stays as it was value=0.800" in caplog.text


def test_a_calibration_that_was_written_is_read_again(tmp_path: Path) -> None:
    assert read_calibration(Path(written(tmp_path))) == FILE


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "null",
        '"text"',
        json.dumps({"digest": "c0ffee", "precision": 0.9}),
        json.dumps({**dataclasses.asdict(FILE), "threshold": "high"}),
        json.dumps({**dataclasses.asdict(FILE), "num_judged": None}),
        json.dumps({**dataclasses.asdict(FILE), "threshold": 62.5}),
        json.dumps({**dataclasses.asdict(FILE), "threshold": float("nan")}),
        json.dumps({**dataclasses.asdict(FILE), "precision": 1.0}),
        "\udcff",
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, content: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))

    with pytest.raises(SettingsError, match=r"router\.calibration: .*calibration\.json is no file of `lmoe calibrate`"):
        Threshold(settings(calibration=str(file)))


def test_a_missing_file_is_refused_before_anything_is_embedded(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing\.json is no file of"):
        Threshold(settings(calibration=str(tmp_path / "missing.json")))


def test_a_threshold_out_of_reach_survives_its_file(tmp_path: Path) -> None:
    file = dataclasses.replace(FILE, threshold=NEVER)

    assert read_calibration(Path(written(tmp_path, file))).threshold == NEVER
