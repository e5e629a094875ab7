"""The checks of one run: each looks at what the run logged, and says ok, look, bad, or what is not recorded."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from mmpref.report.drift import Drift, measure_drift
from mmpref.report.evaluation import number
from mmpref.report.health.pair_values import (
    by_pair,
    correlation,
    first_evaluation,
    last_evaluation,
    length_difference,
    named,
)
from mmpref.report.health.verdicts import (
    BALANCE,
    CHOSEN_FALL,
    FEWEST_PAIRS,
    KL_PER_TOKEN,
    LARGE_MARGIN,
    LEFT_OUT,
    LENGTH_CORRELATION,
    LOSS_BACK,
    LOST_SHARE,
    NORM_PEAK,
    SAMPLE_GROWTH,
    SWALLOWED,
    Status,
    Verdict,
    above,
    unknown,
)
from mmpref.report.runs import Row, Run
from mmpref.statistics import Difference, Interval, mean_difference, mean_with_interval

_DUMP = re.compile(r"nonfinite-step-(\d+)")


def checks(run: Run) -> dict[str, Verdict]:
    """Check -> what it says, with the names and in the order of ``RULES``."""
    drift = measure_drift(run)
    return {
        "chosen answers": _chosen(drift),
        "KL to the reference": _kl(run, drift),
        "reward accuracy": _accuracy(run),
        "reward margin": _margin(run),
        "held-out loss": _held_out_loss(run),
        "gradient norm": _gradient_norm(run),
        "gradient balance": _balance(run),
        "length bias": _length_bias(run),
        "alarms": _alarms(run),
        "updates left out": _left_out(run),
        "quarantine": _quarantine(run.manifest),
        "cut answers": _cut(run.manifest),
        "rounded away": _rounded(run.manifest),
        "end": _end(run),
    }


def _chosen(drift: Drift | None) -> Verdict:
    if drift is None:
        return unknown("no log-probs were logged")
    chosen, rejected = drift.changes["chosen"], drift.changes.get("rejected")
    said = f"{chosen.value:+.2f} nats an answer"
    if rejected is not None:
        said += f" (rejected {rejected.value:+.2f})"
        if chosen.value < 0 and rejected.value < 0:
            said += ", both fall"
    if drift.chosen_per_token is None:  # token counts of old logs
        start = abs(drift.chosen_start or 0.0)
        share = -chosen.value / start if start else 0.0
        return Verdict(above(share, (0.1, 0.5)), f"{said}, {100 * -share:+.0f} % of where they began")
    return Verdict(above(-drift.chosen_per_token, CHOSEN_FALL), f"{said}, {drift.chosen_per_token:+.3f} a token")


def _kl(run: Run, drift: Drift | None) -> Verdict:
    lines = [line for line in run.log if number(line.get("samples/kl_k3")) is not None]
    if not lines:
        why = "no answers were sampled (train.samples)"
        if any(number(line.get("samples/n")) is not None for line in run.log):
            why = (
                "no KL of the sampled answers was measured: train.samples.kl is 0, or no reference model was kept "
                "(then train.log says what to write)"
            )
        return unknown(why + _changes(drift))
    last = lines[-1]
    k3, k1 = number(last["samples/kl_k3"]) or 0.0, number(last.get("samples/kl_k1"))
    length, count = number(last.get("samples/len")), number(last.get("samples/n"))
    said = f"{k3:.2f} nats an answer by k3"
    said += "" if k1 is None else f", {k1:.2f} by k1"
    said += "" if count is None else f", on {count:.0f} sampled answers"
    if not length:
        return Verdict("look", f"{said}; their lengths were not logged")
    return Verdict(above(k3 / length, KL_PER_TOKEN), f"{said} ({k3 / length:.3f} a token) at step {last['step']}")


def _changes(drift: Drift | None) -> str:
    if drift is None:
        return ""
    said = ", ".join(f"{side} {change.value:+.2f}" for side, change in drift.changes.items())
    return f"; change of log-prob on the answers of the pairs, which is not the KL: {said} nats"


def _compares_answers(run: Run) -> bool:
    loss = run.manifest.get("loss")
    return not (isinstance(loss, Mapping) and loss.get("base") == "sft")


_ONE_SIDE = "plain SFT compares no answers: its rewards say nothing of what it was asked to learn"


def _accuracy(run: Run) -> Verdict:
    if not _compares_answers(run):
        return unknown(_ONE_SIDE)
    found = _mean(run, "rewards/accuracies")
    if found is None:
        return unknown("no rewards were logged")
    mean, interval, where = found
    said = f"{100 * mean:.1f} %"
    if interval is None:
        return Verdict("bad" if mean < 0.5 else "ok" if mean >= 0.6 else "look", f"{said} {where}")
    low, high = interval
    return Verdict(_side(low - 0.5, high - 0.5), f"{said} [{100 * low:.1f}, {100 * high:.1f}] {where}")


def _margin(run: Run) -> Verdict:
    if not _compares_answers(run):
        return unknown(_ONE_SIDE)
    found = _mean(run, "rewards/margins")
    if found is None:
        return unknown("no rewards were logged")
    mean, interval, where = found
    said = f"{mean:.3g}" + ("" if interval is None else f" [{interval[0]:.3g}, {interval[1]:.3g}]")
    if mean >= LARGE_MARGIN:
        return Verdict("bad", f"{said} {where}: learned by heart")
    low, high = interval or (mean, mean)
    return Verdict(_side(low, high), f"{said} {where}")


def _side(low: float, high: float) -> Status:
    return "bad" if high < 0 else "ok" if low > 0 else "look"


def _mean(run: Run, name: str) -> tuple[float, Interval | None, str] | None:
    """Of the held-out pairs one by one, of their mean, or of the last quarter of the training lines."""
    if (found := last_evaluation(run)) is not None:
        step, rows = found
        if values := by_pair(rows, named(name)):
            mean, interval = mean_with_interval([values[pair] for pair in sorted(values)])
            return mean, interval, f"of {len(values):,} held-out pairs at step {step}"
    held_out = _numbers(run.eval_lines(), f"eval_{name}")
    if held_out:
        return held_out[-1], None, "of the held-out pairs"
    if quarter := _last_quarter(run, name):
        return sum(quarter) / len(quarter), None, "of the training pairs, last quarter"
    return None


def _numbers(lines: Sequence[Row], name: str) -> list[float]:
    return [value for line in lines if (value := number(line.get(name))) is not None]


def _last_quarter(run: Run, name: str) -> list[float]:
    lines = run.training_lines()
    return _numbers(lines[-max(1, len(lines) // 4) :], name)


def _rise_of_loss(run: Run) -> Difference | None:
    """The held-out loss of the last evaluation less that of the first, over pairs; None where it was not logged."""
    ends = [found(run) for found in (first_evaluation, last_evaluation)]
    first, last = (by_pair(end[1], named("loss")) if end else {} for end in ends)
    return mean_difference(first, last) if first.keys() & last.keys() else None


def _held_out_loss(run: Run) -> Verdict:
    lines = [line for line in run.eval_lines() if number(line.get("eval_loss")) is not None]
    losses = _numbers(lines, "eval_loss")
    if len(losses) < 2:
        return unknown("held-out pairs were not evaluated twice")
    first, last, best = losses[0], losses[-1], min(losses)
    said = f"{first:.4g} → {last:.4g}"
    if last > first:
        rise = _rise_of_loss(run)
        if rise is not None and not rise.clear:
            return Verdict("look", f"{said}: not lower than before training; the rise is within the noise of the pairs")
        return Verdict("bad", f"{said}: higher than before training")
    if first > best and (last - best) / (first - best) > LOSS_BACK:
        step = lines[losses.index(best)]["step"]
        return Verdict("look", f"{said}, lowest {best:.4g} at step {step}: it rose again")
    return Verdict("ok", said)


def _gradient_norm(run: Run) -> Verdict:
    logged = [line for line in run.training_lines() if "grad_norm" in line]
    norms = _numbers(logged, "grad_norm")
    if not norms:
        return unknown("no gradient norm was logged")
    middle, largest = median(norms), max(norms)
    limit = number(run.recipe_value("train.max_grad_norm"))
    said = f"median {middle:.3g}, largest {largest:.3g}"
    if limit:
        said += (
            f"; {100 * sum(norm > limit for norm in norms) / len(norms):.0f} % of the lines above the clip at {limit:g}"
        )
    if len(norms) < len(logged):
        return Verdict("bad", f"{len(logged) - len(norms)} of {len(logged)} logged norms are not finite; {said}")
    return Verdict("look" if middle and largest / middle >= NORM_PEAK else "ok", said)


def _balance(run: Run) -> Verdict:
    for name, against in (("grad/ratio_to_ref", " of the reference's"), ("grad/ratio", "")):
        values = [value for value in _last_quarter(run, name) if value > 0]
        if values:
            mean = sum(values) / len(values)
            return Verdict(above(max(mean, 1 / mean), BALANCE), f"chosen / rejected {mean:.3g}{against}")
    return unknown("gradient ratios were not logged")


def _length_bias(run: Run) -> Verdict:
    growth = _sample_growth(run)
    found = last_evaluation(run)
    rows = {} if found is None else found[1]
    margins, lengths = by_pair(rows, named("rewards/margins")), by_pair(rows, length_difference)
    shared = sorted(margins.keys() & lengths.keys())
    rho = correlation([margins[name] for name in shared], [lengths[name] for name in shared])
    if len(shared) < FEWEST_PAIRS or rho is None:
        why = f"{len(shared)} held-out pairs have margin and length, {FEWEST_PAIRS} are needed"
        if rho is None and len(shared) >= FEWEST_PAIRS:
            why = "lengths or margins of the held-out pairs do not differ"
        return unknown(why) if growth is None else Verdict(growth[0], f"{growth[1]}; {why}")
    status = above(abs(rho), LENGTH_CORRELATION)
    said = f"correlation {rho:+.2f} over {len(shared):,} held-out pairs"
    if growth is not None:
        status = growth[0] if status == "ok" else status
        said += f"; {growth[1]}"
    return Verdict(status, said)


def _sample_growth(run: Run) -> tuple[Status, str] | None:
    lengths = _numbers(run.log, "samples/len")
    if len(lengths) < 2 or lengths[0] <= 0:
        return None
    growth = lengths[-1] / lengths[0] - 1
    said = f"sampled answers {lengths[0]:.1f} → {lengths[-1]:.1f} tokens"
    return ("look" if abs(growth) >= SAMPLE_GROWTH else "ok"), said


def _alarms(run: Run) -> Verdict:
    if not run.log:
        return unknown("metrics.jsonl has no lines")
    found = [f"{str(line['event']).removeprefix('alarm/')} (step {line['step']})" for line in alarms_of(run)]
    return Verdict("look", ", ".join(found)) if found else Verdict("ok", "none")


def alarms_of(run: Run) -> list[Row]:
    """The lines of alarms."""
    return [line for line in run.log if str(line.get("event", "")).startswith("alarm/")]


def _left_out(run: Run) -> Verdict:
    listed = run.manifest.get("skipped_steps")
    dumps = run.path.glob("faults/nonfinite-step-*.json")  # those of the parts before a resume as well
    dumped = {int(match[1]) for dump in dumps if (match := _DUMP.match(dump.name))}
    known = {int(step) for step in map(number, listed) if step is not None} if isinstance(listed, list) else set()
    steps = [str(step) for step in sorted(dumped | known)]
    if not steps:
        return Verdict("ok", "none")
    shown = ", ".join(steps[:5]) + (", ..." if len(steps) > 5 else "")
    share = len(steps) / max(run.last_step, 1)
    status: Status = "bad" if share >= LEFT_OUT else "look"
    return Verdict(status, f"{len(steps)} were not finite (step {shown}); the dumps are in faults/")


def _quarantine(manifest: Row) -> Verdict:
    bad, used = number(manifest.get("quarantined")), number(manifest.get("pairs"))
    if bad is None:
        return unknown("the manifest names it when the run is complete")
    if not bad:
        return Verdict("ok", "no row")
    share = bad / (bad + (used or 0))
    said = f"{bad:,.0f} rows ({100 * share:.2g} %); the reasons are in quarantine.jsonl"
    return Verdict("bad" if share >= LOST_SHARE else "look", said)


def _cut(manifest: Row) -> Verdict:
    fit = manifest.get("fit")
    cut = fit.get("answers_cut") if isinstance(fit, Mapping) else None
    count = number(cut.get("pairs")) if isinstance(cut, Mapping) else None
    if count is None:
        return unknown("the manifest names it when the run is complete")
    if not count:
        return Verdict("ok", "none")
    share = count / max(number(manifest.get("pairs")) or count, 1)
    status: Status = "bad" if share >= LOST_SHARE else "look"
    return Verdict(status, f"{count:,.0f} pairs ({100 * share:.2g} %); raise processing.max_length where memory allows")


def _rounded(manifest: Row) -> Verdict:
    if "updates_swallowed" not in manifest:
        return unknown("the manifest names it when the run is complete")
    share = number(manifest["updates_swallowed"])
    if share is None:
        return Verdict("ok", "nothing to measure: no weights train in half precision without a float32 copy")
    return Verdict("bad" if share >= SWALLOWED else "ok", f"{100 * share:.1f} % of the updates")


def _end(run: Run) -> Verdict:
    state = run.state
    if state == "complete":
        return Verdict("ok", f"complete after {run.planned_steps or run.last_step:,} steps")
    at = f"at step {run.last_step:,}" + (f" of {run.planned_steps:,}" if run.planned_steps else "")
    says: Mapping[str | None, Callable[[], Verdict]] = {
        "running": lambda: Verdict("look", f"still running, {at}"),
        "stopped": lambda: Verdict("look", f"stopped {at}; go on with: {_resume(run)}"),
        "failed": lambda: Verdict("bad", f"failed {at}: {run.manifest.get('error', 'no reason recorded')}"),
    }
    return says[state]() if state in says else unknown("the manifest has no state")


def _resume(run: Run) -> str:
    return shlex.join(["mmpref", "train", f"{run.path}/recipe.yaml", "--resume"])
