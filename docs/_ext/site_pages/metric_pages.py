"""Every number that a training run logs, by name."""

from __future__ import annotations

from mmpref.evals.benchmarks import BENCHMARKS
from site_pages import benchmark_pages
from site_pages.markdown import code, page, prose, table

_OF_PAIRS = "Mean over the pairs since the last line"
TRAINING: dict[str, dict[str, str]] = {
    "Loss and rewards": {
        "loss": "The whole loss of a pair, every term with its weight. Scales differ between losses.",
        "loss/pair": "The preference term of the pair, where the loss has several terms.",
        "loss/image": "The image term, its weight included.",
        "loss/anchor": "The anchors, their weights included.",
        "loss/nll": "The negative log-likelihood of the chosen answer, its weight included.",
        "rewards/chosen": "beta times the base's own score of the chosen answer, against the reference where there "
        "is one.",
        "rewards/rejected": "The same of the rejected answer.",
        "rewards/margins": "Chosen minus rejected reward.",
        "rewards/accuracies": "Share of pairs whose chosen answer has the larger reward; a tie counts 0.",
        "rewards/desirable": "KTO: reward of the answers labelled desirable.",
        "rewards/undesirable": "KTO: reward of the others.",
        "rewards/other": "Reward of the chosen answer under the other image.",
    },
    "Answers": {
        "logps/chosen": "Log-prob of the chosen answer under the policy: sum over its tokens, in nats.",
        "logps/rejected": "The same of the rejected answer.",
        "logps/other": "The same of the chosen answer under the other image.",
        "ref_logps/chosen": "Log-prob of the chosen answer under the reference, in nats.",
        "ref_logps/rejected": "The same of the rejected answer.",
        "ref_logps/other": "The same of the chosen answer under the other image.",
        "len/chosen": "Counted tokens of the chosen answer.",
        "len/rejected": "Counted tokens of the rejected answer.",
        "weights/changed_share": "Share of tokens in which the two answers differ, by the rule of "
        "`loss.token_weights`.",
        "weights/effective_len": "What the tokens of the chosen answer count together under `loss.token_weights`.",
    },
    "Gradients": {
        "grad/chosen": "Size of the pair term's gradient on the chosen answer's probability.",
        "grad/rejected": "The same on the rejected answer's.",
        "grad/ratio": "The first over the second: how hard the chosen side is pulled beside the rejected one.",
        "grad/ratio_to_ref": "The same by probability over the reference's: 1 when training begins.",
        "grad_norm": "Norm of the whole gradient before clipping, of one update.",
        "learning_rate": "The learning rate of the update.",
    },
    "Uni-DPO": {
        "uni/w_qual": "Quality weight: from the scores of the two answers.",
        "uni/w_perf": "Performance weight: from how well the pair is fitted already.",
        "uni/nll_active": "Share of pairs that have the calibrated likelihood term (`uni.tau_good`).",
    },
    "AdaDPO": {
        "ada/coef_chosen": "Coefficient of the chosen side.",
        "ada/coef_rejected": "Coefficient of the rejected side.",
        "ada/log_ratio": "Logarithm of the ratio R that the coefficients balance.",
        "ada/clipped": "Share of pairs whose ratio was clipped (`ada.clip`).",
        "ada/margin": "The margin that the loss saw, coefficients included.",
        "ada/image_coef_chosen": "Image term: coefficient of the answer under its own image.",
        "ada/image_coef_other": "Image term: coefficient of the answer under the other image.",
        "ada/image_log_ratio": "Image term: logarithm of the ratio.",
        "ada/image_clipped": "Image term: share of pairs whose ratio was clipped.",
    },
    "Image terms and anchors": {
        "image/margin": "Reward of the chosen answer under its image minus under the other one.",
        "image/accuracies": "Share of pairs in which that margin is above 0.",
        "image/helps": "Share of pairs whose chosen answer is likelier under its own image.",
        "image/lift": "What the image is worth: mean log-prob a token under it minus under the other one, in nats.",
        "ref_image/helps": "The same share under the reference.",
        "ref_image/lift": "The same worth under the reference.",
        "anchor/below": "Share of pairs whose chosen reward is below the anchor's shift.",
        "anchor/shift": "The anchor's shift in this update, where it follows the rewards (`loss.anchor.delta: "
        "running`).",
    },
    "Single answers": {
        "kto/kl": "Estimate of the drift from the reference on mismatched answers, at least 0, in nats.",
        "kto/share_desirable": "Share of answers labelled desirable.",
    },
    "Answers that the policy samples (`train.samples`)": {
        "samples/kl_k1": "KL to the reference, mean log-ratio of the sampled answers: unbiased, and may be below 0; "
        "nats an answer.",
        "samples/kl_k1_se": "Its standard error over prompts.",
        "samples/kl_k3": "The same of r - 1 - log r for the ratio r of each token: never below 0.",
        "samples/kl_k3_se": "Its standard error over prompts.",
        "samples/len": "Tokens of a sampled answer.",
        "samples/cut": "Share of sampled answers that the length limit cut.",
        "samples/n": "How many answers that is.",
    },
    "Held-out pairs": {
        "eval_NAME": "Any of the above over the held-out pairs of an evaluation: `eval_loss`, "
        "`eval_rewards/accuracies` ...",
        "eval_lift/chosen": "What its own image is worth to the chosen answer, in nats a token "
        "(`train.eval_image_lift`).",
        "eval_lift/rejected": "The same of the rejected answer.",
        "eval_lift/helps": "Share of pairs whose chosen answer is likelier under its own image.",
        "eval_source/NAME/loss": "Loss, `rewards/margins` and `rewards/accuracies` of the pairs of one source.",
        "eval_gap/low/loss": "The same of the third of pairs with the smallest difference of scores; also `mid` and "
        "`high`.",
        "eval_gap/low_to": "Where that third ends, in scores; also `mid_to`.",
    },
    "Mixture of experts": {"router/aux_loss": "The loss that balances the experts, as the model computes it."},
}
"""Heading -> name -> meaning."""


def pages() -> dict[str, str]:
    """File below ``docs/`` -> its text."""
    return {"reference/metrics.md": metrics()}


def metrics() -> str:
    """The page of training metrics and of benchmark metrics by name."""
    parts = [
        "`metrics.jsonl` in a run folder has one JSON object a line; these are its names, and those of the columns of "
        "`pairs.parquet`, where they are of one pair ([what a run writes down](../analyses.md)). What is meant by "
        f"reward, ratio and weight: [losses](../losses.md). {_OF_PAIRS}, unless it says otherwise; a name is there "
        f"where the "
        "loss has that part.",
    ]
    for heading, names in TRAINING.items():
        rows = [[code(name), prose(meaning)] for name, meaning in names.items()]
        parts += [f"## {heading}\n", table(["name", "meaning"], rows)]
    return page("Metrics", *parts, "## Of benchmarks\n", _BENCHMARKS, table(["name", "benchmarks"], _of_benchmarks()))


_BENCHMARKS = (
    "In `results.json`, by the name of the metric, with a part before it where the questions have parts "
    "(`random/accuracy`). ↑ more is better, ↓ less is better, · neither."
)


def _of_benchmarks() -> list[list[str]]:
    found: dict[str, list[str]] = {}
    for benchmark in BENCHMARKS.values():
        for name in benchmark_pages.metrics(benchmark):
            link = f"[{benchmark.name}](benchmark_table.md#{benchmark_pages.anchor(benchmark.name)})"
            found.setdefault(name, []).append(f"{link} {benchmark_pages.arrow(benchmark, name)}")
    return [[code(name), ", ".join(links)] for name, links in sorted(found.items())]
