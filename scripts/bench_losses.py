"""What the loss core and the tiled head cost, in one run.

    OMP_NUM_THREADS=1 python scripts/bench_losses.py [--tokens 310] [--hidden 512] [--rounds 3]

Loss core: forward and backward of every preset on 4,096 pairs, checks included. Head: log-probs of the targets and the
gradient, for 32,000 and 152,064 words, against full logits with log_softmax and, where TRL is installed, its fused
head (the torch tiles it uses on a CPU; on a GPU it has a kernel of its own). Each head runs in a process of its own,
and its memory is the peak above what stood before its first call. Times are medians; ratios of one run mean more.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from mmpref.losses import Objective, PairLogps, SuspiciousLossWarning, build_objective, fused_logps, selected_logps

NUM_PAIRS = 4096
VOCABULARIES = (32_000, 152_064)
PRESETS = ("dpo", "simpo", "ipo", "hinge", "robust", "rdpo", "cpo", "orpo", "sft", "uni_dpo", "adadpo", "adadpo_split",
           "uni_adadpo", "mdpo", "chip", "ddpo", "ddpo_masked", "hsa", "mpo", "kto")  # fmt: skip


def core_steps(device: str = "cpu") -> dict[str, Callable[[], None]]:
    """Forward and backward of every preset over the same pairs, their log-probs on the device."""
    g = torch.Generator().manual_seed(0)
    length = torch.randint(1, 300, (2, NUM_PAIRS), generator=g)
    sums = -torch.rand(2, NUM_PAIRS, generator=g) * length
    ref = sums + 0.1 * torch.randn(2, NUM_PAIRS, generator=g)
    score = 10 * torch.rand(2, NUM_PAIRS, generator=g)
    unlike = sums[0] - 0.2 * torch.rand(NUM_PAIRS, generator=g) * length[0]  # under another image
    good = (torch.rand(NUM_PAIRS, generator=g) < 0.5).float()
    length, sums, ref, score, unlike, good = (tensor.to(device) for tensor in (length, sums, ref, score, unlike, good))
    shift, kl = torch.full_like(unlike, 0.01), torch.full_like(unlike, 0.1)

    def step(objective: Objective) -> None:
        chosen, rejected = sums[0].clone().requires_grad_(), sums[1].clone().requires_grad_()
        if objective.needs_labels:
            x = PairLogps(
                chosen=chosen, chosen_len=length[0], rejected=None, rejected_len=None, ref_chosen=ref[0],
                desirable=good, kl=kl,
            )  # fmt: skip
            objective(x).per_pair.mean().backward()
            return
        needs_other = objective.needs_other
        x = PairLogps(
            chosen=chosen,
            rejected=rejected,
            chosen_len=length[0],
            rejected_len=length[1],
            ref_chosen=ref[0],
            ref_rejected=ref[1],
            chosen_score=score[0],
            rejected_score=score[1],
            other=unlike.clone().requires_grad_() if needs_other else None,
            ref_other=ref[0] if needs_other else None,
            anchor_shift=shift if objective.needs_shift else None,
        )
        objective(x).per_pair.mean().backward()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SuspiciousLossWarning)
        return {name: partial(step, build_objective({"name": name})) for name in PRESETS}


def core(rounds: int) -> None:
    print(f"\nloss core, {NUM_PAIRS} pairs, forward + backward, ms (best, median)")
    for name, step in core_steps().items():
        times = []
        for _ in range(10 * rounds):
            start = time.perf_counter()
            step()
            times.append(1000 * (time.perf_counter() - start))
        print(f"  {name:<11} {min(times):6.2f} {statistics.median(times):6.2f}")


def full_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return (hidden @ weight.T).log_softmax(-1, dtype=torch.float32).gather(1, targets[:, None])[:, 0]


def full_then_selected(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return selected_logps(hidden @ weight.T, targets)


def trl_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    found: Tensor = ChunkedLogProbFunction.apply(
        hidden, weight, None, targets, 1.0, _CHUNKED_LOGPROB_CHUNK_SIZE, None, 1.0, ()
    )[0]
    return found


Head = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden [N, H], weight [V, H], targets [N]) -> log-probs [N]."""
HEADS: dict[str, Head] = {
    "full logits": full_logits,
    "full, selected_logps": full_then_selected,
    "tiled": fused_logps,
    "TRL fused": trl_head,
}


@dataclass(frozen=True, kw_only=True)
class HeadInputs:
    """What a head is measured with: N tokens, V words, hidden size H.

    Attributes:
        hidden: [N, H].
        weight: [V, H]; logits have a standard deviation of 3, so that some words are much likelier than others.
        targets: [N].
        upstream: [N], gradient of the log-probs.
    """

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    upstream: Tensor

    @property
    def leaves(self) -> list[Tensor]:
        """What wants a gradient: hidden, and the weight where the head trains."""
        return [self.hidden, self.weight] if self.weight.requires_grad else [self.hidden]

    def step(self, head: Head) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(log-probs [N], gradients of the leaves)."""
        logps = head(self.hidden, self.weight, self.targets)
        return logps.detach(), torch.autograd.grad(logps, self.leaves, self.upstream)


def head_inputs(
    vocabulary: int,
    hidden_size: int,
    tokens: int,
    *,
    trains: bool,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HeadInputs:
    """Random ones, the same for the same sizes and device; made where they stay."""
    g = torch.Generator(device).manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype) -> Tensor:
        return torch.randn(*shape, generator=g, device=device, dtype=dtype)

    return HeadInputs(
        hidden=draw(tokens, hidden_size, dtype=dtype).requires_grad_(),
        weight=draw(vocabulary, hidden_size, dtype=dtype).mul_(3 / hidden_size**0.5).requires_grad_(trains),
        targets=torch.randint(0, vocabulary, (tokens,), generator=g, device=device),
        upstream=draw(tokens, dtype=torch.float32),
    )


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


class Peak:
    """Highest resident memory while it is open, above where it began."""

    def __enter__(self) -> Peak:
        self.before = self.top = resident_mib()
        self.open = True
        self.watch = threading.Thread(target=self._look)
        self.watch.start()
        return self

    def _look(self) -> None:
        while self.open:
            self.top = max(self.top, resident_mib())
            time.sleep(0.001)

    def __exit__(self, *_: object) -> None:
        self.open = False
        self.watch.join()

    @property
    def mib(self) -> float:
        return self.top - self.before


def one_head(name: str, vocabulary: int, tokens: int, hidden_size: int, trains: bool, rounds: int) -> None:
    """Runs in a process of its own and prints one line of JSON."""
    made = head_inputs(vocabulary, hidden_size, tokens, trains=trains)
    # imports and first-call work
    HEADS[name](made.hidden[:2].detach(), made.weight.detach()[:1000], made.targets[:2] % 1000)
    with Peak() as peak:
        made.step(HEADS[name])
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        made.step(HEADS[name])
        times.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(times), "mib": peak.mib}))


def heads(args: argparse.Namespace) -> None:
    for trains in (False, True):
        for vocabulary in VOCABULARIES:
            state = "trained" if trains else "frozen"
            print(f"\nhead {state}, V = {vocabulary}, H = {args.hidden}, {args.tokens} tokens, forward + backward")
            tiled: dict[str, float] | None = None
            for name in ("tiled", "full logits", "full, selected_logps", "TRL fused"):
                command = [sys.executable, __file__, "--one", name, "--vocabulary", str(vocabulary), "--rounds",
                           str(args.rounds), "--tokens", str(args.tokens), "--hidden", str(args.hidden)]  # fmt: skip
                done = subprocess.run(command + ["--trains"] * trains, capture_output=True, text=True, check=False)
                if done.returncode:
                    print(f"  {name:<21} not measured ({done.stderr.strip().splitlines()[-1]})")
                    continue
                found = json.loads(done.stdout.splitlines()[-1])
                tiled = tiled or found
                print(
                    f"  {name:<21} {found['seconds']:6.2f} s  +{found['mib']:5.0f} MiB"
                    f"   time x{found['seconds'] / tiled['seconds']:.2f}  memory x{found['mib'] / tiled['mib']:.2f}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=310)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=HEADS, help=argparse.SUPPRESS)
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--trains", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        one_head(args.one, args.vocabulary, args.tokens, args.hidden, args.trains, args.rounds)
        return
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {platform.processor() or platform.machine()}"
    )
    core(args.rounds)
    heads(args)


if __name__ == "__main__":
    main()
