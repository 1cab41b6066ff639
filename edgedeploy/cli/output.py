"""Prints what the verbs return: a table for people, or the records as JSON."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from edgedeploy.cli.account import print_account
from edgedeploy.cli.bars import Bars, Lines
from edgedeploy.cli.console import out, print_json
from edgedeploy.cli.layers import print_layers
from edgedeploy.cli.provision import print_provisioned, provisioned_record
from edgedeploy.cli.visits import print_errors, visit_record
from edgedeploy.cli.words import (
    accuracy,
    bytes_text,
    milliseconds,
    on_text,
    operator_text,
    or_absent,
    passes_text,
    plural,
    sensitivity_text,
    signed,
    tensors_text,
)
from edgedeploy.lab import worst_exit_code
from edgedeploy.records import CPU, Choice, Outcome, Report, Variant, gain_of_passes

if TYPE_CHECKING:
    from edgedeploy.board import BoardFacts
    from edgedeploy.build import Built
    from edgedeploy.export.layer_errors import LayerErrors
    from edgedeploy.lab import Visited
    from edgedeploy.lab.visit import Visit
    from edgedeploy.pipeline import Run, Shown
    from edgedeploy.plan import Fleet
    from edgedeploy.progress import Progress
    from edgedeploy.project import Project

# Below this probability of being ahead, two variants have not been told apart.
TOLD_APART = 0.95


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """What the library is at, on stderr: bars on a terminal, a line a step elsewhere."""
    if sys.stderr.isatty():
        with Bars() as bars:
            yield bars
    else:
        yield Lines()


# -- one function a verb -------------------------------------------------------------------------------------


def initialised(folder: Path, files: Sequence[Path], *, as_json: bool) -> None:
    """What `init` wrote."""
    if as_json:
        print_json([{"file": path} for path in files])
        return
    out.print(f"Wrote {', '.join(path.name for path in files)} to {folder}.")
    there = "" if folder.resolve() == Path.cwd() else f" --project {folder}"
    out.print(f"Next: edgedeploy run{there}", soft_wrap=True)


def trained(project: Project, now: bool, *, as_json: bool) -> None:
    """What `train` did."""
    if as_json:
        print_json([{"weights": project.plan.weights, "trained": now}])
        return
    out.print(f"{project.plan.weights}: " + ("written." if now else "already there; --afresh trains again."))


def built(result: Built, *, as_json: bool) -> None:
    """The variants of the plan, and those that could not be built."""
    if as_json:
        print_json(
            {"variants": result.variants, "made": result.made, "failures": result.failures, "no_board": result.no_board}
        )
        return
    print_built(result)


def print_built(result: Built) -> None:
    """A table of the variants before any board has seen them."""
    out.print(_variant_table(result.variants, set(result.made)))
    for variant in result.variants:
        for note in variant.notes:
            out.print(f"  [yellow]{variant.name}[/]: {escape(note)}", soft_wrap=True)
    for failure in result.failures:
        out.print(f"[red]not built[/] {failure.variant}: {escape(failure.reason)}", soft_wrap=True)
    for name, reason in result.no_board:
        out.print(f"[yellow]no board of the fleet runs[/] {name}: {escape(reason)}", soft_wrap=True)
    found = len(result.variants) - len(result.made)
    out.print(f"{len(result.made)} built, {found} found, {len(result.failures)} failed.")


def pushed(visits: Sequence[Visited[Visit]], *, dry_run: bool, as_json: bool) -> int:
    """What went to each board; returns the exit code."""
    if as_json:
        print_json([_push_record(visited) for visited in visits])
        return worst_exit_code(visits)
    for visited in visits:
        if visited.value is not None:
            result = visited.value.push
            will = "would send" if dry_run else "sent"
            rate = (
                f" at {bytes_text(result.bytes_sent / result.seconds)}/s" if result.bytes_sent and not dry_run else ""
            )
            out.print(
                f"{visited.device}: {len(visited.value.variants)} {plural(visited.value.variants, 'variant')}; {will} "
                f"{len(result.sent)} {plural(result.sent, 'object')} ({bytes_text(result.bytes_sent)}{rate}), "
                f"{len(result.present)} already there.",
                soft_wrap=True,
            )
    return print_errors(visits)


def _push_record(visited: Visited[Visit]) -> dict[str, Any]:
    visit = visited.value
    record = visit_record(visited)
    if visit is not None:
        record |= {"variants": visit.variants, "left_out": dict(visit.left_out), **asdict(visit.push)}
    return record


def profiled(visits: Sequence[Visited[Visit]], *, as_json: bool) -> int:
    """What each board said; returns the exit code."""
    if as_json:
        print_json([report for visited in visits if visited.value for report in visited.value.reports])
        for visited in visits:
            for name, why in visited.value.left_out if visited.value else ():
                print(f"edgedeploy: {visited.device}: left out {name}: {why}", file=sys.stderr)
        return print_errors(visits)
    for visited in visits:
        if visited.value is not None:
            measured, all_reports = visited.value.measured, visited.value.reports
            found = len(all_reports) - len(measured)
            title = f"{visited.device}{on_text(all_reports)}: {len(measured)} measured now, {found} found"
            out.print(_report_table(title, all_reports))
            _print_reasons(all_reports)
            _print_left_out(visited.value)
    return print_errors(visits)


def selected(choices: Sequence[Choice], *, as_json: bool) -> None:
    """The choice for each device."""
    if as_json:
        print_json(list(choices))
        return
    for choice in choices:
        print_choice(choice)


def print_choice(choice: Choice) -> None:
    """One device's winner, and why each other lost."""
    on = "" if choice.accelerator == CPU else f" on {choice.accelerator}"
    heading = f"[bold]{choice.device}[/] ({choice.profile}){on}, least {choice.objective}: "
    if choice.rehearsal:
        heading = "[yellow]REHEARSAL[/] " + heading
    if choice.winner is None:
        out.print(heading + "[red]nothing qualifies[/]")
    else:
        out.print(f"{heading}[green]{choice.winner}[/]{_lead(choice)} ({choice.verdict})", soft_wrap=True)
        for reason in choice.reasons:
            out.print(f"  [yellow]suspect[/] {escape(reason)}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("variant", no_wrap=True)
    table.add_column("why it is not the one")
    for rejection in choice.rejected:
        place = choice.ranking.index(rejection.variant) + 1 if rejection.variant in choice.ranking else None
        table.add_row(
            f"  {rejection.variant}", (f"{place}. in the ranking: " if place else "") + escape(rejection.reason)
        )
    if choice.rejected:
        out.print(table)


def _lead(choice: Choice) -> str:
    if choice.confidence is None:
        return ""
    told_apart = "ahead of the next" if choice.confidence >= TOLD_APART else "inside the noise of the next, ahead"
    return f", {told_apart} with probability {choice.confidence:.2f}"


def ran(run: Run, *, as_json: bool) -> None:
    """Everything a run did."""
    if as_json:
        print_json(
            {
                "variants": run.built.variants,
                "made": run.built.made,
                "failures": run.built.failures,
                "provisioned": [provisioned_record(visited) for visited in run.provisioned],
                "pushes": [_push_record(visited) for visited in run.visits],
                "choices": run.choices,
                "report": run.report,
            }
        )
        return
    print_built(run.built)
    if run.provisioned:
        print_provisioned(run.provisioned, as_json=False)
    by_name = {variant.name: variant for variant in run.built.variants}
    for visited in run.visits:
        if visited.value is not None:
            visit = visited.value
            sent = f"{len(visit.push.sent)} objects sent ({bytes_text(visit.push.bytes_sent)})"
            title = f"{visit.device}{on_text(visit.reports)}: {sent}, {len(visit.measured)} measured"
            out.print(_report_table(title, visit.reports, by_name))
            _print_reasons(visit.reports)
            _print_left_out(visit)
    for choice in run.choices:
        print_choice(choice)
    print_errors(run.visits)
    out.print(f"Report: {run.report}", soft_wrap=True)


def listed(fleet: Fleet, probed: Sequence[Visited[BoardFacts]], *, as_json: bool) -> int:
    """The boards of the fleet, with what they said of themselves where they were asked."""
    said = {visited.device: visited for visited in probed}
    if as_json:
        print_json(
            [
                {
                    **asdict(device),
                    "facts": said[device.name].value if device.name in said else None,
                    "error": str(said[device.name].error) if device.name in said and said[device.name].error else None,
                }
                for device in fleet.devices
            ]
        )
        return worst_exit_code(probed)
    table = Table("device", "profile", "kind", "address", "answers" if probed else "tags", box=None, pad_edge=False)
    for device in fleet.devices:
        last = ", ".join(device.tags)
        if device.name in said:
            facts = said[device.name].value
            python = f"Python {facts.python_version}" if facts and facts.python_version else "no Python"
            last = "no" if facts is None else f"{facts.machine}, {python}, {facts.kernel}"
        kind = fleet.profile(device).title
        table.add_row(device.name, device.profile, kind, device.address, last)
    out.print(table)
    return print_errors(probed)


def shown(all_known: Shown, errors: LayerErrors | None = None, *, as_json: bool) -> None:
    """All that is known about one variant, and how far each of its layers strays where that was asked for."""
    if as_json:
        buy = gain_of_passes(all_known.variant.steps)
        print_json(asdict(all_known) | {"passes_buy": buy} | ({"layers": errors} if errors else {}))
        return
    from edgedeploy.report.conditions import nodes

    variant, contract = all_known.variant, all_known.contract
    quality, drop, parity = variant.quality, variant.drop, variant.parity
    rows = {
        "variant": f"{variant.name}  {variant.id[:12]}",
        "recipe": f"{variant.recipe}: {passes_text(variant)}",
        "file": f"{variant.target}, {bytes_text(variant.artifact.size_bytes)}",
        "packed": bytes_text(variant.packed.size_bytes),
        "sha256": variant.artifact.sha256,
        "inputs": tensors_text(contract["inputs"]),
        "outputs": tensors_text(contract["outputs"]),
        "parameters": f"{variant.parameters:,}",
        quality.metric: f"{accuracy(quality)} on {quality.examples} {quality.split} examples",
        "drop": f"{signed(drop.value)} [{signed(drop.low)}, {signed(drop.high)}] on {drop.examples} selection examples",
        "parity": f"relative RMS error {parity.relative_rms_error:.2g} (at most {parity.tolerance:g}), "
        f"largest {parity.max_abs_error:.2g}, {parity.examples} examples",
        "tools": ", ".join(f"{name} {version}" for name, version in variant.tools.items()),
    }
    table = Table(show_header=False, box=None, pad_edge=False)
    for key, value in rows.items():
        table.add_row(f"[bold]{key}[/]", escape(value))
    for use in variant.operators:
        table.add_row("[bold]operator[/]", escape(operator_text(use)))
    for note in variant.notes:
        table.add_row("[bold]note[/]", escape(note))
    for device, why in all_known.storage_only.items():
        table.add_row("[bold]storage only[/]", escape(f"on {device}: {why}"))
    if variant.kept_float:
        table.add_row("[bold]in float[/]", escape(f"{', '.join(variant.kept_float)}, given back by the accuracy guard"))
    for layer in variant.sensitivity:
        table.add_row("[bold]layer[/]", escape(sensitivity_text(layer)))
    out.print(table)
    print_account(variant, all_known.reports)
    for report in all_known.reports:
        out.print(_report_table(report.device + on_text([report]), [report]))
        out.print(f"  nodes: {nodes(report) or 'not told'}")
        _print_reasons([report])
    if errors is not None:
        print_layers(errors, variant.name)


def reported(path: Path, *, as_json: bool) -> None:
    """Where the report lies."""
    if as_json:
        print_json([{"report": path}])
    else:
        out.print(f"Report: {path}", soft_wrap=True)


# -- tables --------------------------------------------------------------------------------------------------


def _variant_table(variants: Sequence[Variant], made: set[str]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    for heading in ("file", "packed", "parameters", "metric [95 %]", "drop", "parity error"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for variant in variants:
        table.add_row(
            variant.name,
            bytes_text(variant.artifact.size_bytes),
            bytes_text(variant.packed.size_bytes),
            f"{variant.parameters:,}",
            accuracy(variant.quality),
            signed(variant.drop.value),
            f"{variant.parity.relative_rms_error:.1e}",
            "built" if variant.name in made else "found",
        )
    return table


def _report_table(title: str, reports: Sequence[Report], variants: Mapping[str, Variant] | None = None) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    # Memory is the peak RSS over that of the runtime alone; the words are short for terminals of 80 columns.
    columns = ("p50 ms", "p90 ms", "init ms", "first ms", "memory", "mJ")
    headings = (*(("metric",) if variants else ()), *columns)
    for heading in headings:
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for report in sorted(reports, key=_by_latency):
        latency, energy = report.metrics.latency, report.metrics.energy
        over = report.metrics.rss_over_runtime_bytes
        cells = [
            milliseconds(latency.p50_ms if latency else None),
            milliseconds(latency.p90_ms if latency else None),
            milliseconds(latency.init_ms if latency else None),
            milliseconds(latency.first_inference_ms if latency else None),
            or_absent(None if over is None else bytes_text(over)),
            or_absent(f"{energy.total_mj:.3g}" if energy else None),
        ]
        if variants:
            known = variants.get(report.variant_name)
            cells.insert(0, or_absent(f"{known.quality.value:.4f}" if known else None))
        ended = report.verdict if report.outcome is Outcome.OK else report.outcome
        table.add_row(report.variant_name, *cells, str(ended))
    return table


def _by_latency(report: Report) -> float:
    return report.metrics.latency.p50_ms if report.metrics.latency else float("inf")


def _print_reasons(reports: Sequence[Report]) -> None:
    """Each doubt once, with the variants it concerns; what was not measured, once a reason."""
    concerned: dict[str, list[str]] = {}
    for report in reports:
        failed = report.outcome is not Outcome.OK
        for reason in (report.detail,) if failed and report.detail else report.reasons:
            concerned.setdefault(f"{report.outcome if failed else report.verdict}: {reason}", []).append(
                report.variant_name
            )
        for family, why in report.metrics.absent.items():
            concerned.setdefault(f"{family} not measured: {why}", []).append(report.variant_name)
    for reason, names in concerned.items():
        whom = "" if len(names) == len(reports) else f" ({', '.join(names)})"
        out.print(f"  [yellow]{escape(reason)}[/]{whom}", soft_wrap=True)


def _print_left_out(visit: Visit) -> None:
    """What was not measured for want of an accelerator that takes it, once a reason."""
    by_reason: dict[str, list[str]] = {}
    for name, why in visit.left_out:
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        out.print(f"  [yellow]left out: {escape(why)}[/] ({', '.join(names)})", soft_wrap=True)
