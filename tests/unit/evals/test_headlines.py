"""What a benchmark says of its own metrics: which of them a paper prints, and which way each gets better."""

import pytest

from mmpref.evals.benchmarks import BENCHMARKS

DESCRIBED = {"type": "generative", "sections": ()}
ASKED = {"type": "discriminative-attribute-state", "sections": ("attribute",)}
ITEMS = {"amber": (DESCRIBED, ASKED), "repope": ({"pope_label": "yes"},)}
"""Items of a benchmark whose metrics depend on what was asked."""


@pytest.mark.parametrize("name", sorted(BENCHMARKS))
def test_a_benchmark_names_only_metrics_that_it_has(name):
    benchmark = BENCHMARKS[name]
    protocol = next(iter(benchmark.protocols.values()))
    metrics = benchmark.metrics(protocol, "", ITEMS.get(name, ()))
    assert benchmark.headline, "a table would show every metric: name those that its paper prints"
    for given in (benchmark.headline, benchmark.together, benchmark.lower_is_better, benchmark.undirected):
        assert set(given) <= set(metrics)
        assert len(set(given)) == len(given)
    assert not set(benchmark.lower_is_better) & set(benchmark.undirected)


def test_no_rate_of_hallucination_stands_without_what_it_can_be_bought_with():
    for name, bought in {
        "chair": ("recall", "mean_length"),
        "amber": ("cover",),
        "object_halbench": ("recall",),
    }.items():
        benchmark = BENCHMARKS[name]
        assert set(benchmark.together) >= {*bought, *benchmark.lower_is_better}
        assert set(benchmark.headline) >= set(bought)


def test_what_says_yes_is_in_the_headline_wherever_yes_or_no_is_asked():
    for benchmark in BENCHMARKS.values():
        protocol = next(iter(benchmark.protocols.values()))
        if "yes_ratio" in benchmark.metrics(protocol, "", ITEMS.get(benchmark.name, ())):
            assert "yes_ratio" in benchmark.headline
            assert "yes_ratio" in benchmark.undirected
