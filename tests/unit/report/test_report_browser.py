"""The HTML report in a real browser, where there is one: Chromium, or what PARITY_BROWSER names."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from record_files import window_event
from report_samples import CLIP, MADE, of, record, rung, verdict

from harness.record.evidence import Record
from harness.report.html import render

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = os.environ.get("PARITY_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium: PARITY_BROWSER names one")

PROBE = """
<script>
addEventListener("error", (e) => document.body.dataset.error = e.message);
async function probe() {
  while (!document.body.dataset.drawn) await new Promise((r) => setTimeout(r, 50));
  const charts = [...document.querySelectorAll(".chart")];
  const range = (chart) => chart._fullLayout.xaxis.range.map((x) => Math.round(x * 1e6) / 1e6);
  const [loss, difference] = charts;
  const found = {
    drawn: charts.map((c) => c.data.map((t) => ({name: t.name, y: t.y, dash: t.line?.dash}))),
    before: loss._fullLayout.yaxis.type,
    wide: document.documentElement.scrollWidth,
    width: innerWidth,
  };
  await Plotly.relayout(loss, {"xaxis.range[0]": 0.5, "xaxis.range[1]": 1.5});
  await new Promise((r) => setTimeout(r, 300));
  found.linked = [range(loss), range(difference)];
  document.querySelector("button[data-log]").click();
  await new Promise((r) => setTimeout(r, 300));
  found.after = loss._fullLayout.yaxis.type;
  found.pressed = document.querySelector("button[data-log]").getAttribute("aria-pressed");
  document.body.innerHTML = "<pre id=found></pre>";
  document.getElementById("found").textContent = JSON.stringify(found);
}
probe();
</script>
"""


def browse(page: Path, width: int) -> tuple[dict[str, object], str]:
    """What the page came to in a window of that width, and what its console said."""
    done = subprocess.run(
        [
            str(BROWSER), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},900",
            "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom",
            f"file://{page}",
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)
    assert found is not None, done.stdout[-2000:]
    assert "data-error" not in done.stdout
    text = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    result: dict[str, object] = json.loads(text)
    return result, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Record, Record]:
    windows = [window_event(0, 1, 18.0, compilations=1), window_event(2, 2, 0.5)]
    return (
        record(tmp_path / "a", "hf", (6.5, 6.4, 6.3), events=windows),
        record(tmp_path / "b", "torchprime", (6.5, 6.4, 6.3000005), events=windows),
    )


@pytest.mark.parametrize("width", [500, 1280])
def test_what_the_browser_draws_is_what_the_records_hold(
    tmp_path: Path, runs: tuple[Record, Record], width: int
) -> None:
    a, b = runs
    shown = verdict(of(a, b, CLIP, rung("loss_curve", limit=1e-6)), of(a, b))
    text = render(shown, {str(r.directory): r for r in runs}, MADE)
    page = tmp_path / "report.html"
    page.write_text(text.replace("</body>", f"{PROBE}</body>"))
    found, console = browse(page, width)
    assert console == ""
    drawn = found["drawn"]
    assert isinstance(drawn, list)
    assert len(drawn) == 12
    for run, trace in zip(runs, drawn[0], strict=True):
        assert trace["name"] == run.label
        assert trace["y"] == [step.loss for step in run.steps]
    assert drawn[0][0]["dash"] != drawn[0][1]["dash"]
    assert found["linked"] == [[0.5, 1.5], [0.5, 1.5]]
    assert (found["before"], found["after"], found["pressed"]) == ("linear", "log", "true")
    assert found["wide"] == found["width"], "the page is wider than its window"
