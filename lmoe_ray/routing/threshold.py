"""The confidence below which a router abstains: a number of the settings, or what a wanted precision asks for.

A precision is turned into a number on held-out samples of the very index in use, or comes from a file that
``lmoe calibrate`` wrote, on prompts labelled by the user for instance. Such a file names its index by digest: beside
another one its number means nothing, and is refused.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from lmoe_ray.errors import SettingsError, StaleCalibration
from lmoe_ray.routing.fitted_index import FittedIndex
from lmoe_ray.settings import RouterSettings

logger = logging.getLogger(__name__)

#: Above every confidence, which may be 1: nothing on the held-out samples was as precise as wanted.
NEVER = 1.0 + 2.0**-52


@dataclass(frozen=True, slots=True)
class CalibrationFile:
    """What ``lmoe calibrate`` writes.

    Attributes:
        digest: of the index.
        precision: wanted among the prompts that are answered.
        threshold: confidence that gives it.
        coverage: share of the judged prompts that is answered.
        num_judged: held-out samples, or labelled prompts.
    """

    digest: str
    precision: float
    threshold: float
    coverage: float
    num_judged: int

    def write(self, file: Path) -> None:
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_calibration(file: Path) -> CalibrationFile:
    """
    Raises:
        SettingsError: the file cannot be read, or is of another kind.
    """
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        found = CalibrationFile(
            str(data["digest"]),
            float(data["precision"]),
            float(data["threshold"]),
            float(data["coverage"]),
            int(data["num_judged"]),
        )
        if not (0 < found.precision < 1 and 0 <= found.threshold <= NEVER):
            raise ValueError(f"precision={found.precision} and threshold={found.threshold} must lie between 0 and 1")
        return found
    except (OSError, ValueError, KeyError, TypeError) as exc:
        problem = f"{file} is no file of `lmoe calibrate`: {exc!r}; write it again"
        raise SettingsError("router.calibration", problem) from exc


class Threshold:
    """The number in use, ``value``.

    Raises:
        SettingsError: the calibration file cannot be read.
    """

    def __init__(self, settings: RouterSettings) -> None:
        path = settings.calibration_path
        self._file = None if path is None else read_calibration(path)
        self._precision = settings.precision if self._file is None else self._file.precision
        self.value = settings.threshold

    def settle(self, fitted: FittedIndex) -> None:
        """Find the number for the index of a start.

        Raises:
            StaleCalibration: the file belongs to another index.
            SettingsError: a precision is wanted, and the index has no samples to measure it on.
        """
        if self._file is None:
            self._measure(fitted)
        elif self._file.digest != fitted.digest:
            raise StaleCalibration(self._file.digest, fitted.digest)
        else:
            self.value = self._file.threshold

    def follow(self, fitted: FittedIndex) -> None:
        """Find it again for an index that changed while serving: from held-out samples, whatever it came from before.

        Where that is not possible, the number stays, and the log says so.
        """
        try:
            self._measure(fitted)
        except SettingsError as exc:
            logger.warning("threshold stays as it was value=%.3f: %s", self.value, exc)

    def _measure(self, fitted: FittedIndex) -> None:
        if self._precision is None:
            return
        if fitted.calibration is None or not len(fitted.calibration.is_right):
            raise SettingsError(
                "router.precision",
                "the package has too few routing samples to measure it on; set router.threshold instead, or calibrate "
                "on prompts of your own with `lmoe calibrate --labelled`",
            )
        found = fitted.calibration.threshold_for(self._precision)
        if found is None:
            logger.warning(
                "no threshold gives the wanted precision, so the fallback answers precision=%s", self._precision
            )
        self.value = NEVER if found is None else found
        logger.info("routing threshold precision=%s threshold=%.3f", self._precision, self.value)
