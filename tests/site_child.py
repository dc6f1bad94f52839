"""A device of `site_release` that lives in a process of its own, to be killed.

`python -m tests.site_child FOLDER CLOCK` takes rows for ever; a line for each: rows, state, limits.
"""

import asyncio
import sys
from pathlib import Path

from tests import site_release as plant

from aimass_edge.config import BoardSettings, CapacitySettings, HistorySettings
from aimass_edge.history import History
from aimass_edge.predict import Predictor, SiteMonitors

WANTED = 400


async def main(folder: Path, clock: int) -> None:
    release, kept = plant.found(folder / "r1"), HistorySettings()
    async with History(folder / "h.db", plant.SENSORS, plant.STEP_MS, settings=kept) as history:
        sites = SiteMonitors(WANTED, folder, history)
        async with Predictor(BoardSettings(), CapacitySettings(), sites=sites) as predictor:
            await predictor.activate(*release)
            device = plant.Device(predictor, history, clock)
            for number, row in enumerate(plant.QUIET.rows(5000, 1)[clock:]):
                status = device.status
                sys.stdout.write(f"{number} {status.state} {status.limits}\n")
                sys.stdout.flush()
                await device.see(row[None])


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
