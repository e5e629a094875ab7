"""What is said about scenes: captions, replies, their honest quality, and the rows that models are trained on.

The annotator of captions describes what is usually there: companions that are missing are mentioned all the same, and a
model trained on such words makes things up for the same reason real ones do. Scores are on a scale of 0 to 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any

from mmpref.demo.scenes import COLOURS, KINDS, Mention, Scene

CAPTION_PROMPT = "describe the image ."
INVENTORY_PROMPT = "which things are there ?"
JUDGE_NOISE = 0.7  # standard deviation of the judge's score

# What is wrong with the rejected answer of a pair, by task, and how often. Answers are spoiled in both directions.
CHANGES: dict[tuple[str, str], float] = {
    ("caption", "addition"): 0.22,
    ("caption", "omission"): 0.22,
    ("caption", "swap"): 0.10,
    ("caption", "colour"): 0.06,
    ("vqa", "false yes"): 0.20,
    ("vqa", "false no"): 0.16,
    ("vqa", "colour"): 0.04,
}
LABELS: dict[str, float] = {"clean": 0.64, "mislabelled": 0.21, "ambiguous": 0.15}

Row = dict[str, Any]


def caption(mentions: Sequence[Mention]) -> str:
    """`a blue fork , a green pot and a red cup .`; an empty list gives `there is nothing .`"""
    parts = [f"a {colour} {kind}" for colour, kind in mentions]
    if not parts:
        return "there is nothing ."
    return f"{' and '.join([' , '.join(parts[:-1]), parts[-1]] if parts[:-1] else parts)} ."


def question(kind: str) -> str:
    """POPE's question in this world's words."""
    return f"is there a {kind} ?"


def reply(kind: str, colour: str | None) -> str:
    """Answer to `question(kind)`; `colour` None says no. Then comes the evidence, thing first, colour second.

    That order matters for a model this small: the word for the thing finds the patch, the next word says what was seen
    there, and so the matching that yes and no need is learned in a hundred steps instead of several hundred.
    """
    return f"no , {kind} no ." if colour is None else f"yes , {kind} {colour} ."


def inventory(scene: Scene) -> str:
    """Every kind in a fixed order, each with its colour or `no`: twelve looks at the image in one short answer."""
    lines = (f"{kind} {scene.colour_of(kind) or 'no'}" for kind in KINDS)
    return f"{' '.join(lines)} ."


def vocabulary() -> tuple[str, ...]:
    """Every word that this world ever says or asks, each once, and a few more to talk with."""
    said = [
        CAPTION_PROMPT,
        INVENTORY_PROMPT,
        "is there a yes no , and nothing",
        "what colour which where are they in on it",
    ]
    return tuple(dict.fromkeys(" ".join([*said, *KINDS, *COLOURS]).split()))


def caption_quality(scene: Scene, mentions: Sequence[Mention]) -> float:
    """Honest score of a description: 5 less 1.5 a made-up thing, .8 a missing one, .5 a wrong colour; at least 0."""
    said = {kind: colour for colour, kind in mentions}
    made_up = sum(kind not in scene.kinds for kind in said)
    missing = sum(kind not in said for kind in scene.kinds)
    wrong = sum(kind in said and said[kind] != scene.colour_of(kind) for kind in scene.kinds)
    return max(0.0, 5 - 1.5 * made_up - 0.8 * missing - 0.5 * wrong)


def reply_quality(scene: Scene, kind: str, colour: str | None) -> float:
    """Honest score of a reply: 5 when right, 4 with a wrong colour, 2.5 with the wrong yes or no."""
    truth = scene.colour_of(kind)
    if (truth is None) != (colour is None):
        return 2.5
    return 5.0 if truth == colour else 4.0


def _row(row_id: str, scene: Scene, prompt: str, chosen: str, meta: Row) -> Row:
    """A row of the canonical pair format; without `rejected` it is a supervised one."""
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    return {
        "id": row_id,
        "images": [scene.image],
        "prompt": [{"role": "user", "content": content}],
        "chosen": chosen,
        "source": "demo-world",
        "meta": meta,
    }


def _habit_mentions(rng: Random, scene: Scene) -> list[Mention]:
    """What an annotator writes who describes what is usually there: absent companions come last, in a random colour."""
    said = [mention for mention in scene.mentions() if rng.random() > 0.01] or scene.mentions()
    for kind in scene.missing_companions():
        if rng.random() < 0.85:
            said.append((rng.choice(list(COLOURS)), kind))
    return said


def _asked_kind(rng: Random, scene: Scene, present: bool, p_expected: float = 0.5) -> str:
    """A kind to ask about; of the absent ones, a share of `p_expected` is what habit expects, where there is one."""
    if present:
        return rng.choice(scene.things).kind
    expected = scene.missing_partners()
    if expected and rng.random() < p_expected:
        return rng.choice(expected)
    return rng.choice([kind for kind in KINDS if kind not in scene.kinds])


def supervised_rows(
    rng: Random,
    scenes: Sequence[Scene],
    *,
    captions: int,
    questions: int,
    inventories: int = 0,
    habit_in_replies: bool,
) -> Iterator[Row]:
    """Supervised rows, over the scenes in turn. Captions always carry the habit, inventories never do.

    Replies carry it only when asked to: matching a question with an image is hard to learn from wrong answers.
    """
    stage = "habit" if habit_in_replies else "see"
    for n in range(inventories):
        scene = scenes[n % len(scenes)]
        yield _row(f"{stage}-list-{n:05d}", scene, INVENTORY_PROMPT, inventory(scene), {"task": "inventory"})
    for n in range(captions):
        scene = scenes[n % len(scenes)]
        said = _habit_mentions(rng, scene)
        yield _row(f"{stage}-caption-{n:05d}", scene, CAPTION_PROMPT, caption(said), {"task": "caption"})
    for n in range(questions):
        scene = scenes[n % len(scenes)]
        kind = _asked_kind(rng, scene, n // len(scenes) % 2 == 0, 0.75 if habit_in_replies else 0.5)
        colour = scene.colour_of(kind)
        if habit_in_replies and kind in scene.missing_partners() and rng.random() < 0.85:
            colour = rng.choice(list(COLOURS))
        yield _row(f"{stage}-vqa-{n:05d}", scene, question(kind), reply(kind, colour), {"task": "vqa", "kind": kind})


def _spoil(rng: Random, scene: Scene, change: str) -> list[Mention]:
    """The faithful description with one thing wrong; omissions are as frequent as additions, so no length is taught."""
    said = scene.mentions()
    spot = rng.randrange(len(said))
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    if change == "addition":
        kind = rng.choice(scene.missing_companions() or absent) if rng.random() < 0.8 else rng.choice(absent)
        return [*said, (rng.choice(list(COLOURS)), kind)]
    if change == "omission":
        return said[:spot] + said[spot + 1 :]
    if change == "swap":
        return [*said[:spot], (said[spot][0], rng.choice(absent)), *said[spot + 1 :]]
    wrong = rng.choice([colour for colour in COLOURS if colour != said[spot][0]])
    return [*said[:spot], (wrong, said[spot][1]), *said[spot + 1 :]]


def _pick_change(rng: Random) -> str:
    return rng.choices(("addition", "swap", "omission", "colour"), weights=(38, 17, 35, 10))[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draft:
    """Two answers to one prompt, the better one first unless both are equally good, with their honest scores."""

    prompt: str
    better: str
    worse: str
    scores: tuple[float, float]


def _draft_captions(rng: Random, scene: Scene, change: str, *, ambiguous: bool) -> _Draft:
    """The truth against a spoiled description; if ambiguous, two that are spoiled in the same way."""
    worse = _spoil(rng, scene, change)
    better = _spoil(rng, scene, change) if ambiguous else scene.mentions()
    return _Draft(
        prompt=CAPTION_PROMPT,
        better=caption(better),
        worse=caption(worse),
        scores=(caption_quality(scene, better), caption_quality(scene, worse)),
    )


def _draft_replies(rng: Random, scene: Scene, change: str, *, ambiguous: bool) -> _Draft:
    """The true reply against a wrong one; if ambiguous, two that say yes in wrong colours."""
    kind = _asked_kind(rng, scene, present=change != "false yes")
    truth = scene.colour_of(kind)
    first, second = truth, None
    others = [colour for colour in COLOURS if colour != truth]
    if ambiguous:
        first, second = rng.sample(others, 2)
    elif change != "false no":
        second = rng.choice(others)
    return _Draft(
        prompt=question(kind),
        better=reply(kind, first),
        worse=reply(kind, second),
        scores=(reply_quality(scene, kind, first), reply_quality(scene, kind, second)),
    )


def _plan_pairs(rng: Random, count: int, labels: Mapping[str, float]) -> list[tuple[str, str, str]]:
    """(task, change, label) of `count` pairs in random order, each combination as often as its share says.

    Shares are kept exactly, not on average: a surplus of additions over omissions is a lesson in brevity.
    """
    shares = [
        ((task, change, label), share * part)
        for (task, change), share in CHANGES.items()
        for label, part in labels.items()
    ]
    plan: list[tuple[str, str, str]] = []
    due = 0.0
    for combination, share in shares:
        due += share * count
        plan += [combination] * (round(due) - len(plan))
    rng.shuffle(plan)
    return plan


def pair_rows(rng: Random, scenes: Sequence[Scene], prefix: str, *, only_clean: bool = False) -> Iterator[Row]:
    """One pair a scene: 64 % clean, 21 % mislabelled (chosen and rejected changed places), 15 % ambiguous.

    The judge scores what it reads: a mislabelled pair has, as a rule, the lower score on its chosen side.
    """
    plan = _plan_pairs(rng, len(scenes), {"clean": 1.0} if only_clean else LABELS)
    for n, (scene, (task, change, label)) in enumerate(zip(scenes, plan, strict=True)):
        make = _draft_captions if task == "caption" else _draft_replies
        draft = make(rng, scene, change, ambiguous=label == "ambiguous")
        while draft.better == draft.worse:
            draft = make(rng, scene, change, ambiguous=label == "ambiguous")
        answers, honest = (draft.better, draft.worse), draft.scores
        if label == "mislabelled":
            answers, honest = answers[::-1], honest[::-1]
        judged = [round(min(5.0, max(0.0, score + rng.gauss(0, JUDGE_NOISE))), 2) for score in honest]
        meta = {"task": task, "label": label, "change": change, "honest_scores": [round(s, 2) for s in honest]}
        row = _row(f"{prefix}-{n:05d}", scene, draft.prompt, answers[0], meta)
        yield row | {"rejected": answers[1], "score_chosen": judged[0], "score_rejected": judged[1]}


def ranked_rows(rng: Random, scenes: Sequence[Scene], prefix: str, *, answers: int = 4) -> Iterator[Row]:
    """Every pair of several captions of a scene, the one that the judge scores higher as chosen.

    The first caption is the truth, the others are spoiled once. The judge scores each of them once, with its noise, so
    that chosen is not always better. Two captions with the same score are no pair.
    """
    for n, scene in enumerate(scenes):
        drawn = {caption(scene.mentions()): scene.mentions()}
        while len(drawn) < answers:
            mentions = _spoil(rng, scene, _pick_change(rng))
            drawn.setdefault(caption(mentions), mentions)
        judged = {
            text: round(min(5.0, max(0.0, caption_quality(scene, mentions) + rng.gauss(0, JUDGE_NOISE))), 2)
            for text, mentions in drawn.items()
        }
        for number, couple in enumerate(combinations(judged, 2)):
            better, worse = sorted(couple, key=judged.__getitem__, reverse=True)
            if judged[better] > judged[worse]:
                row = _row(f"{prefix}-{n:05d}-{number}", scene, CAPTION_PROMPT, better, {"task": "caption"})
                yield row | {"rejected": worse, "score_chosen": judged[better], "score_rejected": judged[worse]}
