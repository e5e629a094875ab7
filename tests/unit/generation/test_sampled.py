"""Sampled answers: drawn right, the same whatever stands beside them, and with the prompt run once for all of them."""

import functools
import math
from collections import Counter

import pytest

torch = pytest.importorskip("torch")

from transformers import DynamicCache  # noqa: E402

from mmpref.demo.tiny_models import build_tiny_llava  # noqa: E402
from mmpref.errors import ConfigError, NonFiniteError  # noqa: E402
from mmpref.generation import (  # noqa: E402
    AnswerSettings,
    ModelSource,
    ProcessesAnswerer,
    SampleSettings,
    SamplingAnswerer,
    TransformersAnswerer,
    continuations,
)
from mmpref.generation.drawing import draw, probabilities, uniforms  # noqa: E402
from mmpref.models.load import LoadSettings, load  # noqa: E402
from mmpref.processing import PairEncoder  # noqa: E402
from mmpref.records import EvalSample, ImageRef, user_turn  # noqa: E402
from tests.tiny_vlms import TINY, build  # noqa: E402
from tests.tiny_vlms import draw as draw_image  # noqa: E402

QUESTIONS = (
    ("what is in the image ?", "28x28-1"),
    ("describe it , please . there is no dog , there is one cat .", "28x56-2"),
    ("is it red ?", "56x56-3"),
)


def build_model(folder, name="llava"):
    """In float64, so that rounding turns no token; end tokens are likely, so that rows end at different places."""
    loaded = load(build(name, folder), LoadSettings(dtype="float32"))
    loaded.model.double()
    head = loaded.model.get_output_embeddings()
    ends = torch.tensor(loaded.model.generation_config.eos_token_id).reshape(-1)
    bias = torch.zeros(head.out_features, dtype=torch.float64)
    bias[ends] = 3.5
    head.bias = torch.nn.Parameter(bias)
    return loaded


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return build_model(tmp_path_factory.mktemp("sampled") / "model")


def asked(*seeds, questions=QUESTIONS, has_images=True, **meta):
    return [
        EvalSample(
            id=f"{image}/{seed}",
            images=(ImageRef(path=image),) * has_images,
            prompt=user_turn(question, num_images=int(has_images)),
            meta={"seed": seed, **meta},
        )
        for question, image in questions
        for seed in seeds
    ]


def answerer(model, *, sampling=None, is_shared=True, **more):
    settings = AnswerSettings(**{"batch_size": 64, "max_new_tokens": 10, **more})
    return SamplingAnswerer(model, settings, sampling=sampling, load_image=draw_image, shares_prompts=is_shared)


def texts_of(answers):
    found = {}
    for answer in answers:
        assert answer.id not in found
        found[answer.id] = (answer.text, answer.cut)
    return found


def chi_square(counts, expected):
    """How far counts are off, in standard deviations of the statistic; bins that expect under 5 are one bin."""
    few = [name for name, number in expected.items() if number < 5]
    bins = [(counts[name], number) for name, number in expected.items() if number >= 5]
    bins.append((sum(counts[name] for name in few), sum(expected[name] for name in few)))
    bins = [(seen, number) for seen, number in bins if number > 0]
    assert len(bins) > 5
    statistic = sum((seen - number) ** 2 / number for seen, number in bins)
    freedom = len(bins) - 1
    return (statistic - freedom) / math.sqrt(2 * freedom)


# ---- drawing -------------------------------------------------------------------------------------------------------


def by_definition(logits, temperature, top_p):
    """Probabilities of tokens one after the other: softmax, then the fewest that reach ``top_p``, which are scaled."""
    weights = [math.exp(value / temperature) for value in logits]
    probs = [weight / sum(weights) for weight in weights]
    kept, so_far = set(), 0.0
    for token in sorted(range(len(probs)), key=lambda token: -probs[token]):
        if so_far < top_p:
            kept.add(token)
        so_far += probs[token]
    total = sum(probs[token] for token in kept)
    return {token: probs[token] / total if token in kept else 0.0 for token in range(len(probs))}


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.7, 0.8), (1.0, 0.5)])
def test_tokens_are_drawn_with_the_probabilities_of_temperature_and_top_p(temperature, top_p):
    logits = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 1.5
    want = by_definition(logits.tolist(), temperature, top_p)
    settings = SampleSettings(temperature=temperature, top_p=top_p)
    probs = probabilities(logits[None], settings)[0]
    assert torch.allclose(probs / probs.sum(), torch.tensor(list(want.values())), atol=1e-6)
    count = 20_000
    numbers = torch.tensor([uniforms(b"prompt", seed, 1)[0] for seed in range(count)], dtype=torch.float64)
    drawn = Counter(draw(logits.expand(count, -1), numbers, settings).tolist())
    assert set(drawn) <= {token for token, prob in want.items() if prob > 0}
    assert abs(chi_square(drawn, {token: prob * count for token, prob in want.items()})) < 4


def test_the_ends_of_the_interval_fall_on_tokens_that_can_be_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]])
    for number, want in ((0.0, 1), (0.4999, 1), (0.5001, 2), (math.nextafter(1, 0), 2)):
        assert draw(logits, torch.tensor([number], dtype=torch.float64), SampleSettings()).tolist() == [want]


def test_a_low_temperature_is_the_most_probable_token_and_no_overflow():
    logits = torch.tensor([[1e4, 2e4, -torch.inf, 1.9e4]])
    numbers = torch.tensor([0.999], dtype=torch.float64)
    assert draw(logits, numbers, SampleSettings(temperature=1e-30)).tolist() == [1]


def test_numbers_are_of_the_prompt_and_the_seed_and_fewer_are_the_first_of_more():
    assert uniforms(b"one", 7, 5) == uniforms(b"one", 7, 50)[:5]
    firsts = {uniforms(prompt, seed, 1)[0] for prompt in (b"one", b"two") for seed in (-1, 0, 1, 2**70)}
    assert len(firsts) == 8
    assert all(0 <= number < 1 for number in firsts)


# ---- answers -------------------------------------------------------------------------------------------------------


def test_answers_come_as_often_as_the_model_finds_them_probable(loaded):
    question = QUESTIONS[:1]
    sampling = SampleSettings(temperature=2.0, top_p=0.9)
    count = 1500
    found = texts_of(
        answerer(loaded, sampling=sampling, batch_size=500, max_new_tokens=1).answer(
            asked(*range(count), questions=question)
        )
    )
    encoder = PairEncoder(loaded.processor, loaded.family)
    sample = asked(0, questions=question)[0]
    prompt = encoder.encode_prompt("p", sample.prompt, sample.images, draw_image)
    with torch.inference_mode():
        logits = loaded.model(input_ids=prompt.input_ids[None], **prompt.vision).logits[0, -1]
    probs = by_definition(logits.tolist(), 2.0, 0.9)
    expected = Counter()
    for token, prob in probs.items():
        ends = token == loaded.tokenizer.eos_token_id
        text = "" if ends else loaded.tokenizer.decode([token], skip_special_tokens=True).strip()
        expected[text, not ends] += prob * count
    assert abs(chi_square(Counter(found.values()), expected)) < 4


def test_an_answer_depends_on_nothing_beside_it(loaded):
    samples = asked(*range(6))
    want = texts_of(answerer(loaded).answer(samples))
    assert len(set(want.values())) > 12  # the test would be empty if all said the same
    assert {cut for _, cut in want.values()} == {True, False}
    assert texts_of(answerer(loaded).answer(samples[::-1])) == want
    for size in (1, 4, 7):
        assert texts_of(answerer(loaded, batch_size=size).answer(samples)) == want
    rest = [samples[at] for at in (1, 2, 5, 9, 17)]  # what a kill left: other numbers of answers a prompt
    assert texts_of(answerer(loaded).answer(rest)) == {sample.id: want[sample.id] for sample in rest}
    longer = texts_of(answerer(loaded, max_new_tokens=14).answer(samples))
    assert all(longer[name] == answer for name, answer in want.items() if not answer[1])


@pytest.mark.parametrize(
    "name", [name if name in ("qwen2_5_vl", "gemma3") else pytest.param(name, marks=pytest.mark.slow) for name in TINY]
)
def test_a_prompt_that_is_run_once_gives_the_answers_of_one_that_each_answer_reads(name, tmp_path):
    model = build_model(tmp_path / "model", name)
    samples = asked(*range(5), has_images=name != "text")
    shared = answerer(model)
    found = texts_of(shared.answer(samples))
    assert shared.facts == {"shares_prompts": True}
    assert len(set(found.values())) > 5
    assert found == texts_of(answerer(model, is_shared=False).answer(samples))


def test_a_prompt_and_its_image_are_run_once_for_all_its_answers_and_ended_rows_leave(loaded):
    rows, images = [], []
    found = answerer(loaded)
    found._shares(found_rows(found, asked(0, 1)))  # the trial
    language, tower = loaded.model.model.language_model, loaded.model.model.vision_tower
    hooks = [
        language.register_forward_pre_hook(
            lambda _, args, kwargs: rows.append(tuple(kwargs["inputs_embeds"].shape[:2])), with_kwargs=True
        ),
        tower.register_forward_pre_hook(
            lambda _, args, kwargs: images.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
        ),
    ]
    answers = texts_of(found.answer(asked(*range(8))))
    for hook in hooks:
        hook.remove()
    assert images == [3]
    assert rows[0][0] == 3
    counts = [count for count, length in rows[1:]]
    assert all(length == 1 for _, length in rows[1:])
    assert counts[0] <= 24
    assert counts == sorted(counts, reverse=True)
    ended = sum(not cut for _, cut in answers.values())
    assert ended > 5
    assert counts[-1] <= 24 - ended + 3


def found_rows(made, samples):
    """The rows that an answerer makes of samples."""
    kept = []
    work = made._sample_batch
    made._sample_batch = lambda rows: kept.extend(rows) or work(rows)
    list(made.answer(samples))
    made._sample_batch = work
    return kept


def test_a_cache_that_is_repeated_wrongly_is_seen_and_not_used(loaded, monkeypatch):
    samples = asked(*range(4))
    want = texts_of(answerer(loaded).answer(samples))
    reorder = DynamicCache.reorder_cache
    monkeypatch.setattr(DynamicCache, "reorder_cache", lambda self, rows: reorder(self, rows.flip(0)))
    found = answerer(loaded)
    assert texts_of(found.answer(samples)) == want
    assert found.facts["shares_prompts"] is False
    assert "moved log-probs" in found.facts["prompts_not_shared"]


def test_what_a_model_keeps_without_rows_makes_each_answer_read_its_prompt(loaded, monkeypatch):
    samples = asked(*range(3))
    want = texts_of(answerer(loaded).answer(samples))
    update = type(loaded.model)._update_model_kwargs_for_generation
    monkeypatch.setattr(
        type(loaded.model),
        "_update_model_kwargs_for_generation",
        lambda self, outputs, kept, **more: {**update(self, outputs, kept, **more), "past_key_values": Kept(kept)},
    )
    found = answerer(loaded)
    assert texts_of(found.answer(samples)) == want
    assert "'past_key_values' is a Kept" in found.facts["prompts_not_shared"]


class Kept:
    """A cache whose rows cannot be selected, and which is in all else the one that it stands for."""

    def __init__(self, kept):
        cache = kept["past_key_values"]
        self._cache: DynamicCache = cache._cache if isinstance(cache, Kept) else cache

    def __getattr__(self, name):
        if name == "reorder_cache":
            raise AttributeError(name)
        return getattr(self._cache, name)


def test_temperature_zero_is_greedy_whatever_the_seed_and_asks_once(loaded):
    greedy = SampleSettings(temperature=0)
    found = answerer(loaded, sampling=greedy)
    samples = asked(0, 1, 2)
    assert len(found_rows(found, samples)) == len(QUESTIONS)
    settings = AnswerSettings(batch_size=4, max_new_tokens=10)
    plain = TransformersAnswerer(loaded, settings, load_image=draw_image)
    assert texts_of(found.answer(samples)) == texts_of(plain.answer(samples))
    no_seed = [EvalSample(id="q", images=samples[0].images, prompt=samples[0].prompt)]
    assert texts_of(found.answer(no_seed)) == {"q": texts_of(plain.answer(samples))[samples[0].id]}


def test_samples_with_one_seed_are_one_answer(loaded):
    once = asked(3, 4)
    again = [EvalSample(id=f"again/{s.id}", images=s.images, prompt=s.prompt, meta=s.meta) for s in once]
    found = answerer(loaded)
    assert len(found_rows(found, [*once, *again])) == len(once)
    answers = texts_of(found.answer([*once, *again]))
    assert all(answers[f"again/{sample.id}"] == answers[sample.id] for sample in once)


def test_an_answer_continues_its_prefix_and_leaves_it_out(loaded):
    plain, prefixed = asked(*range(6)), asked(*range(6), response_prefix="a red square")
    renamed = [EvalSample(id=f"p/{s.id}", images=s.images, prompt=s.prompt, meta=s.meta) for s in prefixed]
    both = texts_of(answerer(loaded).answer([*plain, *renamed]))
    alone = texts_of(answerer(loaded).answer(renamed))
    assert {name: both[name] for name in alone} == alone
    assert [both[s.id] for s in plain] != [both[s.id] for s in renamed]
    prompts = {len(row.prompt) for row in found_rows(answerer(loaded), [*plain[:1], *renamed[:1]])}
    assert len(prompts) == 2


def test_the_blank_between_a_given_beginning_and_the_answer_is_kept(loaded):
    [token] = loaded.tokenizer(" red", add_special_tokens=False)["input_ids"][:1]
    word = loaded.tokenizer.decode([token])
    assert word.startswith(" ")
    head = loaded.model.get_output_embeddings()
    before = head.bias.detach().clone()
    head.bias.data[token] = 1e4
    try:
        begun = answerer(loaded, max_new_tokens=2).answer(
            asked(0, questions=QUESTIONS[:1], response_prefix="the image shows")
        )
        alone = answerer(loaded, max_new_tokens=2).answer(asked(0, questions=QUESTIONS[:1]))
        assert [found.text for found in begun] == [2 * word]
        assert [found.text for found in alone] == [(2 * word).strip()]
    finally:
        head.bias.data.copy_(before)


# ---- what goes wrong -----------------------------------------------------------------------------------------------


def test_a_prompt_that_cannot_be_encoded_has_no_answer_and_a_reason(loaded):
    samples = asked(0, 1)
    bad = [EvalSample(id=f"bad/{n}", images=(), prompt=samples[0].prompt, meta={"seed": n}) for n in range(2)]
    found = answerer(loaded)
    answers = texts_of(found.answer([*bad, *samples]))
    assert sorted(answers) == sorted(sample.id for sample in samples)
    assert sorted(found.failures) == ["bad/0", "bad/1"]
    assert "image" in found.failures["bad/0"]
    assert found.failure_codes == dict.fromkeys(found.failures, "placeholder_count")


def test_a_sample_without_a_seed_and_beams_are_refused(loaded):
    [sample] = asked(0, questions=QUESTIONS[:1])
    without = EvalSample(id="q", images=sample.images, prompt=sample.prompt)
    with pytest.raises(ConfigError, match="'q' has no seed"):
        list(answerer(loaded).answer([sample, without]))
    with pytest.raises(ConfigError, match="num_beams must be 1, got 2"):
        answerer(loaded, num_beams=2)


def test_log_probs_that_are_no_numbers_name_the_question(loaded):
    head = loaded.model.get_output_embeddings()
    before = head.bias.detach().clone()
    head.bias.data[5] = torch.nan
    try:
        with pytest.raises(NonFiniteError, match=r"question '28x28-1/0' log-probs that are no numbers \(token 1 of"):
            list(answerer(loaded).answer(asked(0, questions=QUESTIONS[:1])))
    finally:
        head.bias.data.copy_(before)


def test_a_batch_that_does_not_fit_is_halved_and_one_answer_that_does_not_is_left_out(loaded, monkeypatch):
    samples = asked(*range(6))
    want = texts_of(answerer(loaded).answer(samples))
    go_on, sizes = continuations.continue_prompts, []

    def small_memory(model, inputs, pick, *, parents, **more):
        rows = len(parents or inputs["input_ids"])
        sizes.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("no memory")
        return go_on(model, inputs, pick, parents=parents, **more)

    monkeypatch.setattr(continuations, "continue_prompts", small_memory)
    most = 5
    assert texts_of(answerer(loaded).answer(samples)) == want
    assert max(sizes) == 18
    most = 0
    found = answerer(loaded)
    assert not list(found.answer(samples[:2]))
    assert found.failure_codes == {sample.id: "out_of_memory" for sample in samples[:2]}
    assert "no memory to answer question '28x28-1/0' alone" in found.failures["28x28-1/0"]


def test_a_prompt_that_never_fits_makes_no_small_batches_of_the_others(loaded, monkeypatch):
    samples = asked(*range(6))
    want = texts_of(answerer(loaded).answer(samples))
    go_on, sizes = continuations.continue_prompts, []
    longest = max(found_rows(answerer(loaded), samples), key=lambda row: len(row.prompt)).prompt

    def small_memory(model, inputs, pick, **more):
        if inputs["input_ids"].shape[1] == len(longest):
            raise torch.OutOfMemoryError("no memory")
        sizes.append(len(more["parents"] or inputs["input_ids"]))
        return go_on(model, inputs, pick, **more)

    monkeypatch.setattr(continuations, "continue_prompts", small_memory)
    found = answerer(loaded)
    answers = texts_of(found.answer(samples))
    assert found.failure_codes == {f"28x56-2/{seed}": "out_of_memory" for seed in range(6)}
    assert answers == {name: text for name, text in want.items() if name not in found.failures}
    assert max(sizes) == 12


@pytest.mark.slow
def test_two_processes_give_the_answers_of_one_and_say_what_has_none(tmp_path):
    from PIL import Image

    build_tiny_llava(tmp_path / "model", seed=0)
    for colour in ("red", "green"):
        Image.new("RGB", (70, 50), colour).save(tmp_path / f"{colour}.png")
    samples = asked(0, 1, 2, questions=[("what is it ?", f"{name}.png") for name in ("red", "green", "missing")])
    sampling = SampleSettings(temperature=1.5)
    settings = AnswerSettings(max_new_tokens=6, cpu_threads=1)
    alone = SamplingAnswerer(str(tmp_path / "model"), settings, sampling=sampling, images_root=tmp_path)
    want = texts_of(alone.answer(samples))
    both = ProcessesAnswerer(
        source=ModelSource(path=str(tmp_path / "model")),
        num=2,
        images_root=tmp_path,
        settings=settings,
        kind=functools.partial(SamplingAnswerer, sampling=sampling),
    )
    assert texts_of(both.answer(samples)) == want
    assert len(want) == 6
    assert both.failures == alone.failures
    assert both.failure_codes == alone.failure_codes
    assert sorted(both.failures) == [f"missing.png/{seed}" for seed in range(3)]
