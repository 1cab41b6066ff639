"""Says in words which limit a variant breaks, so that nobody has to guess why it lost."""

from __future__ import annotations

from collections.abc import Iterator

from edgedeploy.records import CPU, DeviceProfile, Limits, Metrics, Outcome, Report, Variant, Verdict


def unfit(
    variant: Variant, report: Report | None, profile: DeviceProfile, device: str, accelerator: str = CPU
) -> str | None:
    """Why a variant cannot be ranked at all on this device, or None where it can."""
    if why := profile.why_not(variant.target) or profile.unfit(variant.target, accelerator):
        return why
    if report is None:
        on = "" if accelerator == CPU else f" --accelerator {accelerator}"
        return f"not measured on {device}: run `edgedeploy profile --device {device}{on}`"
    if report.outcome is not Outcome.OK:
        return f"{report.outcome}: {report.detail}" if report.detail else str(report.outcome)
    if report.verdict is Verdict.INVALID:
        return "its measurement is invalid: " + "; ".join(report.reasons)
    return None


def broken_limits(variant: Variant, metrics: Metrics, limits: Limits, whose: str) -> Iterator[str]:
    """Each limit of `limits` that the variant breaks or that nothing measured can show it to keep.

    `whose` names the owner of the limits ("goal", "profile pi4"). Latency in ms, energy in mJ, sizes in bytes.
    """
    latency, memory, energy = metrics.latency, metrics.memory, metrics.energy
    measured = (
        ("max_file_bytes", "file", variant.artifact.size_bytes, limits.max_file_bytes, "B"),
        ("max_p50_ms", "p50", latency.p50_ms if latency else None, limits.max_p50_ms, "ms"),
        ("max_p90_ms", "p90", latency.p90_ms if latency else None, limits.max_p90_ms, "ms"),
        ("max_peak_rss_bytes", "peak RSS", memory.peak_rss_bytes if memory else None, limits.max_peak_rss_bytes, "B"),
        ("max_energy_mj", "energy", energy.total_mj if energy else None, limits.max_energy_mj, "mJ"),
        ("max_drop", f"{variant.quality.metric} drop", variant.drop.value, limits.max_drop, ""),
    )
    for key, what, value, limit, unit in measured:
        if limit is None:
            continue
        if value is None:
            family = {"max_energy_mj": "energy", "max_peak_rss_bytes": "memory"}.get(key, "latency")
            why = metrics.absent.get(family) or metrics.absent.get(what, "too few runs")
            yield f"{whose} asks {key} = {limit:g}, and {what} was not measured ({why})"
        elif value > limit:
            yield f"{what} {value:.4g} {unit}".rstrip() + f" is over the {whose}'s {key} = {limit:g}"
    if limits.min_quality is not None and variant.quality.value < limits.min_quality:
        value, metric = variant.quality.value, variant.quality.metric
        yield f"{metric} {value:.4f} is under the {whose}'s min_quality = {limits.min_quality:g}"
