"""The page says what the records say, loads nothing, and lets no name become markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from edgedeploy.errors import StoreError
from edgedeploy.records import Device, Energy, LayerSensitivity, Verdict
from edgedeploy.report import render, write_report
from edgedeploy.report.page import _plotly
from tests.report.synthetic import (
    KITCHEN,
    NO_SENSOR,
    STRAYED,
    THROTTLED,
    Page,
    choice_on_kitchen,
    measured,
    on_orin,
    two_boards,
    variants,
)

HOSTILE = """</script></title><img src=x onerror=alert(1)>"'&{{ 7*7 }}"""
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Reader(HTMLParser):
    """Tags with their attributes, the text outside scripts, and whether every tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.json: list[Any] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            if self.tags[-1][1].get("type") == "application/json":
                self.json.append(json.loads(data))
        elif self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def with_tag(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(page: Page) -> Reader:
    return Reader(render(**page.arguments()))


@pytest.fixture(scope="module")
def reader() -> Reader:
    return read(two_boards())


def test_nothing_is_loaded_from_anywhere(reader: Reader) -> None:
    loading = {"link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "source", "use", "image"}
    assert not loading & {tag for tag, _ in reader.tags}
    for tag, attributes in reader.tags:
        for name in ("src", "href", "srcset", "action", "xlink:href", "style"):
            value = attributes.get(name)
            assert value is None or (tag == "a" and value.startswith("#")), (tag, name, value)
        assert not [name for name in attributes if name.startswith("on")]
    style = (Path(__file__).parents[2] / "edgedeploy/report/templates/style.css").read_text("utf-8")
    assert "url(" not in style
    assert "@import" not in style


def test_the_browser_is_told_to_refuse_the_network(reader: Reader) -> None:
    [policy] = [m["content"] for m in reader.with_tag("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_plotly_is_inlined_once_and_only_where_there_is_a_picture() -> None:
    library = _plotly()
    assert render(**two_boards().arguments()).count(library) == 1
    assert library not in render(**Page().arguments())


def test_the_winner_and_why_stand_first(reader: Reader) -> None:
    assert "Winner pruned-tflite-int8 Least latency of the 3 variants" in reader.text
    assert "Ahead of plain-tflite-int8 with a probability of 97.4 %" in reader.text
    assert f"suspect {THROTTLED}" in reader.text


def test_the_table_holds_the_figures_with_units_and_bounds(reader: Reader) -> None:
    row = reader.text[reader.text.index("2 plain-tflite-int8 tflite int8") :]
    row = row[: row.index("3 plain-onnx-fp32")]
    for told in (
        "0.971 (0.961 to 0.981)",
        "drop 0.0110 (0.0010 to 0.0210)",
        "168 kB",
        "83.9 kB packed",
        "133 k parameters",
        "p50 1.31 ms (1.30 to 1.32)",
        "p90 1.32 ms",
        "init 5.00 ms",
        "first inference 2.00 ms",
        "10.0 MB",
        "50.0 MB in all",
        "ok suspect " + THROTTLED,
        "p50_ms 1.31 against 0.84 of pruned-tflite-int8",
    ):
        assert told in row
    assert "5.33 mJ 1.20 mJ above idle module, ina3221" in reader.text


def test_what_was_not_measured_says_so_and_why(reader: Reader) -> None:
    assert f"Energy not measured: {NO_SENSOR}" in reader.text
    assert "not measured: the process ended by signal 11" in reader.text
    assert "not measured: this device has not run it" in reader.text
    assert " 0 mJ" not in reader.text
    assert "0.00 mJ" not in reader.text


def test_each_row_gives_its_own_reason_where_reasons_differ() -> None:
    [first, second, third] = variants()[:3]
    wall = measured(second, KITCHEN, 2.0)
    wall = replace(wall, metrics=replace(wall.metrics, absent={"energy": "the meter was unplugged"}))
    page = Page(variants=(first, second, third), reports=(measured(first, KITCHEN, 1.0), wall, on_orin(third)))
    text = read(page).text
    assert f"not measured: {NO_SENSOR}" in text
    assert "not measured: the meter was unplugged" in text


def test_failures_mismatches_and_losers_have_their_reasons(reader: Reader) -> None:
    assert "clustered-onnx-int8 no ONNX operator for aten::_foo; leave out the pass `cluster`" in reader.text
    assert f"mismatch invalid {STRAYED}" in reader.text
    assert "crashed invalid signal 11" in reader.text
    assert "no runtime of the profile jetson-orin-nano runs tflite-int8" in reader.text


def test_none_qualifies_is_a_headline_with_what_came_nearest(reader: Reader) -> None:
    told = reader.text[reader.text.index("No variant qualifies") :]
    assert "least energy first: pruned-onnx-int8 : accuracy 0.9600 is under the goal's min_quality" in told
    assert told.index("pruned-onnx-int8") < told.index("plain-onnx-int8") < told.index("pruned-onnx-fp32")


def test_nothing_is_near_when_nothing_ran() -> None:
    page = two_boards()
    text = read(replace(page, reports=())).text
    assert "No measurement on this device can be ranked." in text


def test_rehearsal_is_headed_so() -> None:
    page = two_boards()
    assert "REHEARSAL" not in read(page).text
    rehearsed = read(replace(page, choices=(replace(page.choices[0], rehearsal=True),))).text
    assert rehearsed.count("REHEARSAL") == 1
    assert "Winner of the rehearsal" in rehearsed
    emulated = read(replace(page, choices=(), devices=(replace(KITCHEN, emulated=True),))).text
    assert emulated.count("REHEARSAL") == 1


def test_conditions_are_there(reader: Reader) -> None:
    for told in ("Mode quick", "Kernel 6.1", "48.3 → 53.7 °C (cpu-thermal)", "performance", "0.310 → 0.940", "3.10 GB"):
        assert told in reader.text
    assert "onnxruntime 1.31.1" in reader.text
    labels = [attributes.get("aria-label") for attributes in reader.with_tag("svg") if attributes.get("role") == "img"]
    assert any(label and "Histogram of 384 samples" in label for label in labels)


def test_tables_and_pictures_can_be_read_aloud(reader: Reader) -> None:
    heads = reader.with_tag("th")
    assert {head.get("scope") for head in heads} == {"col", "row"}
    assert len(reader.with_tag("caption")) == len(reader.with_tag("table")) == 4
    pictures = [a for a in reader.with_tag("div") if a.get("class") == "picture"]
    assert len(pictures) == 2
    assert all("Scatter plot of" in (picture["aria-label"] or "") for picture in pictures)
    assert "Winner: pruned-tflite-int8." in (pictures[0]["aria-label"] or "")
    assert len(reader.json) == 2


def test_layers_that_stay_in_float_are_named_with_what_they_buy() -> None:
    [variant] = variants()[:1]
    held = replace(variant, kept_float=("head",), sensitivity=(LayerSensitivity("head", 0.0133, 0.21, 3.14),))
    text = read(Page(variants=(held,))).text
    assert "Kept in float head : given back by the accuracy guard" in text
    assert "Layer head in float recovers 0.0133 of the metric and 0.210 of the outputs' error, for 3.14 µs" in text
    assert "Kept in float" not in read(Page(variants=(variant,))).text


def hostile_page() -> Page:
    [variant] = variants()[:1]
    variant = replace(
        variant,
        name=HOSTILE,
        recipe=HOSTILE,
        notes=(HOSTILE,),
        quality=replace(variant.quality, metric=HOSTILE),
        kept_float=(HOSTILE,),
        sensitivity=(LayerSensitivity(HOSTILE, 0.0, 0.0, 0.0),),
    )
    device = Device(HOSTILE, HOSTILE, "local:")
    report = measured(variant, device, 1.0, verdict=Verdict.SUSPECT, reasons=(HOSTILE,), detail=HOSTILE)
    report = replace(report, runtime=HOSTILE, metrics=replace(report.metrics, absent={"energy": HOSTILE}))
    choice = replace(
        choice_on_kitchen(variants()),
        device=HOSTILE,
        winner=HOSTILE,
        ranking=(HOSTILE,),
        reasons=(HOSTILE,),
        objective=HOSTILE,
    )
    return Page(HOSTILE, (variant,), (report,), (choice,), ((HOSTILE, HOSTILE),), (device,))


def test_a_hostile_name_stays_text() -> None:
    page = render(**hostile_page().arguments())
    reader = Reader(page)
    assert not reader.with_tag("img")
    assert "onerror=alert(1)>" not in page.replace(_plotly(), "")
    assert re.sub(r"\s+", " ", HOSTILE) in reader.text
    assert "{{ 7*7 }}" in reader.text
    [figure] = reader.json
    [markers] = [trace for trace in figure["data"] if trace.get("hovertext")]
    # Plotly reads a little HTML in its own texts, so these are escaped once more for it.
    assert "<img" not in markers["hovertext"][0]
    assert "&lt;img" in markers["hovertext"][0]
    assert "<img" not in json.dumps(figure["layout"])


def test_empty_lists_give_a_page_that_says_so() -> None:
    text = read(Page("nothing yet")).text
    assert "0 variants, 0 devices" in text
    assert "No device yet" in text
    assert "No variant was built." in text


def test_a_device_without_reports_and_reports_without_a_variant_are_shown() -> None:
    gone = measured(variants()[0], KITCHEN, 1.0)
    text = read(Page(reports=(gone,), devices=(Device("spare", "pi5", "local:"),))).text
    assert "spare pi5 No choice Nothing was measured yet" in text
    assert "kitchen pi4 No choice Nothing was chosen yet" in text
    assert "plain-onnx-fp32 no record no record p50 1.00 ms" in text


def test_the_newest_report_counts() -> None:
    [variant] = variants()[:1]
    old = replace(measured(variant, KITCHEN, 9.0), measured_at="2026-01-01T00:00:00.000+00:00")
    new = replace(measured(variant, KITCHEN, 3.0), measured_at="2026-01-02T00:00:00.000+00:00")
    text = read(Page(variants=(variant,), reports=(new, old))).text
    assert "p50 3.00 ms" in text
    assert "p50 9.00 ms" not in text


def test_what_a_board_computed_on_is_told_where_it_is_not_the_cpu(reader: Reader) -> None:
    made = variants()
    report = measured(made[0], KITCHEN, 1.0)
    ran = {"accelerator": "tensorrt", "accelerator_used": "tensorrt", "placement": {"tensorrt": 37, "cpu": 3}}
    report = replace(report, conditions=replace(report.conditions, **ran, build_ms=95_000.0))  # type: ignore[arg-type]
    choice = replace(choice_on_kitchen(made), accelerator="tensorrt")
    text = read(Page(variants=made, reports=(report,), choices=(choice,), devices=(KITCHEN,))).text
    for told in ("kitchen pi4, on tensorrt", "Accelerator tensorrt", "37 on tensorrt, 3 on cpu"):
        assert told in text
    assert "first load, with all that tensorrt keeps to be built: 95,000 ms" in text
    assert "kitchen pi4, on" not in reader.text


def test_gappy_energy_is_told() -> None:
    [variant] = variants()[:1]
    report = measured(variant, KITCHEN, 1.0)
    energy = Energy(3.0, 1.0, 5.0, 2.0, "ina3221", "module", 90.0, 0.8)
    report = replace(report, metrics=replace(report.metrics, energy=energy))
    assert "only 80.0 % of the samples" in read(Page(variants=(variant,), reports=(report,))).text


def test_the_file_is_written_whole_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    write_report(path, **two_boards().arguments())
    assert path.read_text("utf-8").rstrip().endswith("</html>")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_a_failed_write_leaves_the_old_page_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("the old page")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(StoreError, match=r"report\.html: the report cannot be written \(No space left on device\)"):
        write_report(path, **Page().arguments())
    assert path.read_text() == "the old page"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_a_path_that_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="name a file that you may write"):
        write_report(tmp_path / "file" / "report.html", **Page().arguments())
    with pytest.raises(StoreError, match="name a file that you may write"):
        write_report(tmp_path, **Page().arguments())
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
