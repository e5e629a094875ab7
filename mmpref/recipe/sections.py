"""The typed sections of a recipe: every key with its type, its default and what it means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from mmpref.recipe.sample_section import BenchmarkSection, SampleSection
from mmpref.recipe.unused_keys import refuse_left_over
from mmpref.recipe.value_types import (
    COUNTED,
    OF_SECTIONS,
    RESEARCH,
    SWITCH,
    FiniteNumber,
    FlagOrAuto,
    MaxSteps,
    NumberOrRunning,
    PathLike,
    PathText,
    ScoreOrQuantile,
    Settings,
)

TunedPart = Literal["freeze", "full", "lora"]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are not coerced, and nothing changes after reading."""

    model_config = OF_SECTIONS


class ModelSection(Section):
    """Which model is trained, and how it is loaded."""

    path: PathText
    """A local folder or a hub id of an image-text-to-text (or text-only causal) model."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; half precision rounds small updates away. auto: float32 where whole parts train, or as saved."""
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the whole model that is written at the end; auto: what it was trained in, so that nothing is rounded."""
    attn_implementation: str | None = None
    """Passed to transformers; null lets it choose."""
    attention: Literal["auto", "shared_prefix", "plain"] = "auto"
    """Whether both answers of a pair read one copy of their prompt; auto does that where the model can."""
    router_aux_loss_coef: float = Field(default=0.0, ge=0)
    """Mixture of experts: weight of the load-balancing loss over each pair's tokens (arXiv 2101.03961, as transformers
    has it). 0, the default, adds none: a config's own value is meant for pre-training, and would act on every run."""
    parts: dict[str, Literal["vision", "projector", "language", "other"]] = {}
    """Which part a module belongs to, by its path, where the model's own code does not tell; ``other`` never trains."""


class SourceSection(Section):
    """One source of pairs, where its path alone does not say enough."""

    path: PathText
    """A file (JSONL, JSON, parquet, arrow), a folder of them, a saved data set, or a hub id."""
    format: str = "auto"
    """The shape of its rows; auto tells it from their keys."""
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How often each pair appears in an epoch: 2 is twice, 0.25 takes a seeded quarter; 1 in data.eval, always."""
    root: PathLike | None = None
    """Image paths of this source are relative to this folder; null means data.root."""
    split: str | None = None
    """Which split to read, where the source has several."""
    card: str | None = None
    """The data card that says how rows are read and what their scores mean."""


def _source_tag(value: Any) -> str:
    return "path" if isinstance(value, str) else "section"


Source = Annotated[
    Annotated[PathText, Tag("path")] | Annotated[SourceSection, Tag("section")], Discriminator(_source_tag)
]
Sources = Annotated[
    list[Source], BeforeValidator(lambda value: value if value is None or isinstance(value, list) else [value])
]


class DataSection(Section):
    """Where the pairs are."""

    train: Sources = Field(min_length=1)
    """Files of pairs, or sections that say more about each; one may be written without the list."""
    eval: Sources = []
    """Held-out pairs: accuracy and margin are measured on them at the end of training."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Without eval: this share of the training pairs is held out, by image, so that no image is on both sides."""
    root: PathLike | None = None
    """Image paths are relative to this folder; null means the folder that all files lie in."""
    manifest: PathLike | None = None
    """The folder that mmpref data check wrote (data_check): the rows that the check quarantined are left out, whatever
    their number, and the run is refused when the data is not what was checked."""
    verify: Literal["quick", "full"] = "quick"
    """How images are compared with the manifest: quick by name, size and time of change (and by their bytes where only
    times differ), full always by their bytes."""
    check_images: Literal["decode", "header"] = "decode"
    """How images are looked at before the first step, where no manifest says that they are whole: decode reads every
    pixel once, on all cores; header only sizes, so that a damaged image ends the run when its row comes."""
    max_bad_fraction: float = Field(default=0.001, ge=0, le=1)
    """More bad rows than this share stop the run; fewer go to quarantine.jsonl."""
    other_image: Literal["column", "made", "random_row"] | None = None
    """The other image that a loss with an image term shows the chosen answer under: the row's other_images (column),
    one made of the row's own (processing.other_image), or that of another row of the same source (random_row)."""

    @property
    def train_paths(self) -> list[str]:
        """The paths of ``train``, whichever way they are written."""
        return [entry if isinstance(entry, str) else entry.path for entry in self.train]

    @property
    def eval_paths(self) -> list[str]:
        """The paths of ``eval``, whichever way they are written."""
        return [entry if isinstance(entry, str) else entry.path for entry in self.eval]


Range = Annotated[list[FiniteNumber], Field(min_length=2, max_length=2)]


class OtherImageSection(Section):
    """The other image of a pair, where data.other_image asks for one. It is made before the model's processor, at the
    size of the first one, so that it becomes as many tokens."""

    kind: Literal["crop", "noise", "mask", "blur", "blank"] = "crop"
    """made: a part as large as the whole (crop), noise as of a diffusion model, blocks covered (mask), blur, or one
    colour (blank)."""
    scale: Range = [0.01, 0.2]
    """crop: least and largest share of the area."""
    ratio: Range = [0.75, 1.333]
    """crop: least and largest width by height."""
    step: int = Field(default=500, ge=0, le=999)
    """noise: the step of 1000; at 500 0.745 of the image's variance is left (CHiP), at 999 0.081."""
    share: float = Field(default=0.3, gt=0, le=1)
    """mask: share of the blocks that are covered."""
    block: int = Field(default=14, ge=1)
    """mask: pixels of a block's side; 1 covers single pixels."""
    sigma: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    """blur: of the Gaussian, in pixels."""
    fill: Literal["mean", "black"] = "mean"
    """mask, blank: the mean colour of the image, or black."""
    per: Literal["pair", "epoch"] = "pair"
    """crop, noise, mask: one image for each pair, or a new one in every epoch."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of what is drawn; not the run's seed, so that runs of several seeds see the same images and share a cache of
    the reference."""
    resize: bool = False
    """column: bring an image of another size to that of the first one; without it such a row is refused."""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name, most in (("scale", 1.0), ("ratio", None)):
            low, high = getattr(self, name)
            if not 0 < low <= high or (most is not None and high > most):
                at_most = "" if most is None else f", at most {most:g}"
                raise ValueError(f"{name} is a least and a largest number, above 0 and in this order{at_most}")
        return self


class ProcessingSection(Section):
    """How prompts, answers and images become tensors."""

    max_length: int | None = Field(default=None, gt=0)
    """Tokens in prompt + answer, image tokens counted. Answers are cut to fit; images, videos and prompts never are."""
    min_pixels: int | None = Field(default=None, gt=0)
    """Smaller images are enlarged to so many pixels, by processors that have such a bound (Qwen-VL)."""
    max_pixels: int | None = Field(default=None, gt=0)
    """Resolution budget of one image, for processors that resize to one (Qwen-VL)."""
    shrink_images: bool = False
    """Images and frames of a pair too long for max_length shrink, down to min_pixels, before answers are cut
    (Qwen-VL); those of all pairs of its prompt shrink alike."""
    row_tokens: int | None = Field(default=None, gt=0)
    """The most tokens the model runs over at once: a batch with more is run in parts, with the same update."""
    pixel_cache_mib: int = Field(default=0, ge=0)
    """Keep processed images in memory up to this size: worth it when a small set is read for several epochs."""
    feature_cache: PathLike | None = None
    """Folder in which the image features of a frozen vision tower are kept: computed once, read in later epochs and
    runs."""
    video_max_pixels: int | None = Field(default=None, gt=0)
    """The most pixels of one frame of a video; null: as the model's own video settings have it (Qwen-VL)."""
    video_fps: float = Field(default=2.0, ge=0.00001, le=120)
    """Frames for each second of a video, evenly spaced, an even number of them and at least four where it has four."""
    video_max_frames: int = Field(default=16, ge=2, le=768)
    """The most frames of one video. 16 are some 2,000 tokens of a small video, 3,136 for LLaVA-OneVision: what one
    consumer GPU trains on."""
    template_kwargs: Settings = {}
    """What the model's chat template reads beside the conversation: {enable_thinking: false}, tools, a date."""
    other_image: OtherImageSection = OtherImageSection()


class UniSection(Section):
    """Uni-DPO's weights (arXiv 2506.10054). Keys not given take the preset's value; see docs/losses.md."""

    eta: float | None = None
    """Slope of the quality weight s(eta (score_chosen - score_rejected)); null leaves that weight out."""
    tau_ref: float | None = None
    """Margin at which the performance weight is (1/2)^gamma: pairs well beyond it count little."""
    gamma: float | None = None
    """Exponent of the performance weight; 0 makes it 1."""
    nll_lambda: float | None = None
    """Weight of the calibrated NLL on chosen answers; 0 leaves it out."""
    tau_good: ScoreOrQuantile = None
    """A number on the scale of the data's scores; median or qNN takes that quantile of the training scores."""
    perf_mode: Annotated[Literal["stabilized", "focal", "none"] | None, RESEARCH] = None
    """Margin that the performance weight looks at: stabilized (the policy alone), focal (the pair itself), or none."""
    perf_detach: Annotated[bool | None, RESEARCH] = None
    """Whether no gradient flows through the performance weight."""
    nll_margin: float | None = None
    """Nats per token by which the policy must be below the reference before the calibrated NLL acts."""
    on_missing_score: Literal["error", "neutral"] | None = None
    """What a pair without scores is: an error, or neutral (quality weight 1, no calibrated NLL)."""


class AdaSection(Section):
    """AdaDPO's coefficients (arXiv 2605.28440). Keys not given take the preset's value; see docs/losses.md."""

    share: Annotated[float | None, RESEARCH] = None
    """How much of the balance R the chosen answer carries, 0 to 1; 1 is the method as published."""
    form: Annotated[str | None, RESEARCH] = None
    """power or sum; the loss core says what became of the forms there were before."""
    granularity: Annotated[Literal["token", "sequence", "geomean", "power"] | None, RESEARCH] = None
    """R's variable: token (mean log-prob), sequence (the whole answer), geomean, or power (length_power)."""
    length_power: Annotated[float | None, RESEARCH] = None
    """granularity power only: log-probs are divided by length to this power; 0 is sequence, 1 is token."""
    alpha_w: Annotated[float | None, RESEARCH] = None
    """Exponent of the chosen answer's probability in R; the balance is exact with both at 1."""
    alpha_l: Annotated[float | None, RESEARCH] = None
    """Exponent of the rejected answer's probability in R."""
    target_ratio: Annotated[float | None, RESEARCH] = None
    """Pull on the chosen answer over pull on the rejected one; 1 is balance."""
    use_reference: Annotated[FlagOrAuto, RESEARCH] = None
    """Whether R is made of ratios to the reference; auto: where the base has one."""
    clip: float | None = None
    """Bound of R, at least 1; null for none."""
    clip_mode: Annotated[Literal["ceiling", "both"] | None, RESEARCH] = None
    """ceiling bounds R above only, both also below."""
    value_mode: Annotated[Literal["auto", "scaled", "value_preserving"] | None, RESEARCH] = None
    """scaled multiplies scores, value_preserving only their gradients; auto: scaled where there is a reference."""
    balance_perf: Annotated[bool | None, RESEARCH] = None
    """Whether the performance weight's gradient goes through the balance too; by default wherever uni is on."""


class ImageTermSection(Section):
    """The image pair: the chosen answer under its own image against the same under another one; see docs/losses.md."""

    weight: float | None = None
    """Of the term; 0 runs the other image for the statistics only."""
    beta: float | None = None
    """Of the term, on any base; null takes loss.beta."""
    combine: Literal["own", "joint"] | None = None
    """own: a link of its own; joint: one link over both differences, weight being the image's share in it."""
    detach: bool | None = None
    """Whether no gradient reaches the answer under the other image."""
    uni: Literal["none", "own"] | None = None
    """own: weighted by Uni-DPO's performance weight of the image pair."""


class AnchorSection(Section):
    """Terms that hold one answer's reward above (chosen) or below (rejected, other) delta; bases with a reference."""

    chosen: float | None = None
    """Weight of the anchor on the chosen answer's reward."""
    rejected: float | None = None
    """Weight of the anchor on the rejected answer's reward."""
    other: float | None = None
    """Weight of the anchor on the chosen answer's reward under the other image."""
    beta: float | None = None
    """Scale of the rewards in these terms; null takes loss.beta."""
    delta: NumberOrRunning = None
    """The reward that they are held above or below; running is the mean of all rewards so far."""


class KtoSection(Section):
    """Weights of single answers by their label, for base kto."""

    desirable_weight: float | None = None
    """Of desirable answers."""
    undesirable_weight: float | None = None
    """Of all others."""


class TokenWeightsSection(Section):
    """How much each token of an answer counts in the sums of log-probs, of policy and reference alike."""

    rule: Literal["none", "diff", "column"] | None = None
    """diff: tokens that the two answers do not share count ``changed``; column: the weights of the rows."""
    changed: float | None = None
    """diff: what a token counts that the other answer does not have in this place."""
    same: float | None = None
    """diff: what all other tokens count."""
    min_match: int | None = None
    """diff: fewer equal tokens in a row than this count as changed."""
    insertions: bool | None = None
    """diff: whether tokens count as changed where the other answer has none in this place at all."""
    eos: Literal["same", "rule"] | None = None
    """diff: whether the token that ends an answer always counts ``same``, or what the rule says."""
    autojunk: bool | None = None
    """diff: frequent tokens of answers of 200 tokens and more are not compared, as in the published codes."""


class LossSection(Section):
    """The objective: a preset by ``name``, changed key by key. The rules about values live with the loss core."""

    name: str | None = None
    """A preset that fills what is not given. Given later, it replaces the section but for keys given with it."""
    base: str | None = None
    """The loss of a pair that weights and balance work on; a preset brings its own."""
    beta: float | None = None
    """Scale of the log-prob ratios; for orpo the weight of its odds term."""
    length_normalize: bool | None = None
    """Mean log-probs of an answer (true) or their sum (false)."""
    label_smoothing: float | None = None
    """Share of labels taken for wrong, below 0.5 (dpo, robust, rdpo, simpo, cpo)."""
    gamma_beta_ratio: float | None = None
    """SimPO's target margin, as a share of beta."""
    length_weight: float | None = None
    """R-DPO's alpha: the penalty per token of length difference."""
    nll_weight: float | None = None
    """Weight of the NLL of chosen answers, a mean over each answer's tokens; 1 for cpo, 0 for all others."""
    pair_weight: float | None = None
    """Weight of the term that compares the two answers; 1 where nothing is said."""
    uni: Annotated[UniSection | None, SWITCH] = None
    """A mapping or true switches it on, null or false off; not given leaves it to the preset."""
    ada: Annotated[AdaSection | None, SWITCH] = None
    """AdaDPO's balance; a mapping or true switches it on, null or false off."""
    image: Annotated[ImageTermSection | None, SWITCH] = None
    """The term of the image pair; a mapping or true switches it on, null or false off."""
    anchor: Annotated[AnchorSection | None, SWITCH] = None
    """Anchors of single rewards; a mapping switches them on, null or false off."""
    kto: Annotated[KtoSection | None, SWITCH] = None
    """Of base kto only: the weights of its two kinds of answers."""
    token_weights: Annotated[TokenWeightsSection | None, SWITCH] = None
    """Weights of answer tokens; a mapping with a rule switches them on, null or false off."""

    def as_mapping(self) -> dict[str, Any]:
        """Only the keys that were given: what ``mmpref.losses.build_objective`` takes."""
        return self.model_dump(exclude_unset=True)


class AdapterSection(Section):
    """LoRA or QLoRA. ``kind: none`` trains the parts named in ``tune`` themselves."""

    kind: Literal["none", "lora", "qlora"] = "none"
    """``qlora`` is LoRA on a language model in 4 bits."""
    path: PathLike | None = None
    """Train this LoRA adapter further (its folder, or a run): rank, alpha, dropout and tune are its own."""
    rank: int = Field(default=16, gt=0)
    """Rank of the two matrices that LoRA adds to a layer."""
    alpha: FiniteNumber = Field(default=32, gt=0)
    """Scale: the addition is multiplied by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on LoRA's input."""
    use_rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead (arXiv 2312.03732)."""
    use_dora: bool = False
    """Train the length of each weight beside its direction (DoRA, arXiv 2402.09353)."""
    init: str = Field(default="zero", pattern=r"^(zero|pissa|pissa_niter_[1-9][0-9]*)$")
    """zero, or pissa (pissa_niter_N for large layers): start from the weights' principal directions (2404.02948)."""
    experts: bool = False
    """Mixture of experts: LoRA of this rank on each expert's matrices too, which are no linear layers. Off, they stay
    as they are."""
    quantization: Literal["nf4", "fp4", "int8"] | None = None
    """How the language model is stored under LoRA; qlora means nf4 where this is null."""
    double_quant: bool = True
    """4 bits only: the blocks' scales are quantised as well."""
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """4 bits only: what the layers compute in; auto takes model.dtype."""

    @model_validator(mode="before")
    @classmethod
    def _path_means_lora(cls, given: Any) -> Any:
        is_start = isinstance(given, Mapping) and given.get("path") is not None
        return {"kind": "lora", **given} if is_start else given

    @property
    def stored_as(self) -> Literal["nf4", "fp4", "int8"] | None:
        """The quantisation, with what ``qlora`` means filled in."""
        return self.quantization or ("nf4" if self.kind == "qlora" else None)


class TuneSection(Section):
    """What is trained, per part: ``freeze``, ``full`` (the weights) or ``lora`` (an adapter on them)."""

    vision: TunedPart = "freeze"
    """The vision tower."""
    projector: TunedPart = "freeze"
    """What lies between vision tower and language model."""
    language: TunedPart = "full"
    """The language model, embeddings and head included when it is full."""


class LearningRates(Section):
    """Learning rates of parts that have one of their own; null takes ``train.learning_rate``."""

    vision: float | None = Field(default=None, gt=0)
    """Of the vision tower."""
    projector: float | None = Field(default=None, gt=0)
    """Of the projector."""
    language: float | None = Field(default=None, gt=0)
    """Of the language model."""


class ReferenceSection(Section):
    """Where the reference log-probs come from, for losses that need them."""

    kind: Literal["auto", "adapter_off", "copied_adapter", "frozen_copy", "cache"] = "auto"
    """cache computes them once and keeps them on disk: no second model, and nothing to compute from the second epoch on
    or in a second run over the same pairs."""
    cache: PathLike | None = None
    """Folder of the cache; null means beside the run folder, with .reference added to its name."""


class SamplesSection(Section):
    """Answers of the model to the same prompts in the course of a training, for samples.jsonl and the report."""

    count: int = Field(default=8, gt=0)
    """Prompts: of held-out pairs, or of training pairs where there are none; the same in every run over them."""
    steps: int | None = Field(default=None, gt=0)
    """Steps between two times; null answers at every evaluation. Always before the first step and after the last."""
    max_new_tokens: int = Field(default=64, gt=0)
    """The longest answer in tokens."""
    kl: int = Field(default=4, ge=0)
    """Answers of each prompt that are drawn at temperature 1, for the KL to the reference; 0 draws none."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of the choice of prompts and of what is drawn; not the run's seed, so that runs of several seeds are asked the
    same."""


class TrainSection(Section):
    """Optimisation. Names and meanings are those of ``transformers.TrainingArguments``."""

    learning_rate: float = Field(gt=0)
    """The largest learning rate of the schedule."""
    learning_rates: LearningRates = LearningRates()
    """Learning rates of parts that have one of their own."""
    per_device_train_batch_size: int = Field(default=1, gt=0)
    """Pairs, not rows."""
    per_device_eval_batch_size: int = Field(default=8, gt=0)
    """Pairs, not rows, of an evaluation."""
    gradient_accumulation_steps: int = Field(default=1, gt=0)
    """Batches that make one update."""
    group_pairs: Literal["off", "prompt"] = "off"
    """prompt: pairs of the same images and prompt travel in the same update, where prompt and equal answers are run
    once. As many pairs make an update as with off, which draws every pair by itself."""
    num_train_epochs: float = Field(default=1.0, gt=0)
    """Times that every pair is trained on; max_steps goes before it."""
    max_steps: MaxSteps = -1
    """Optimizer steps; -1 trains for num_train_epochs."""
    lr_scheduler_type: str = "cosine"
    """Any schedule that transformers knows by name."""
    lr_scheduler_kwargs: Settings = {}
    """Settings of the schedule, where it has some."""
    warmup_steps: float = Field(default=0, ge=0)
    """A number of steps, or a share of all steps when below 1."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Of the optimizer."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of Adam's mean of gradients."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of Adam's mean of squared gradients."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Gradients are scaled down to this norm; 0 leaves them."""
    optim: str = "adamw_torch"
    """Any name that transformers knows; adamw_8bit and paged_adamw_8bit need bitsandbytes."""
    bf16: bool | None = None
    """Autocast to bfloat16. null: on a GPU that has it, unless weights are float16; never on a CPU."""
    fp16: bool = False
    """Compute in float16 (autocast, with loss scaling)."""
    gradient_checkpointing: bool = False
    """Compute activations a second time in the backward pass instead of keeping them."""
    torch_compile: bool = False
    """Compile the model."""
    dataloader_num_workers: int = Field(default=0, ge=0)
    """Processes that read pairs and images ahead; 0 reads in the training process."""
    logging_steps: int = Field(default=10, gt=0)
    """Steps between two lines of metrics.jsonl."""
    save_steps: int | None = Field(default=None, gt=0)
    """Steps between checkpoints; null saves none, except when a signal stops the run."""
    eval_steps: int | None = Field(default=None, gt=0)
    """Steps between evaluations on the held-out pairs; null evaluates before the first step and after the last."""
    eval_image_lift: Literal["blank", "noise", "crop", "mask", "blur"] | None = None
    """At every evaluation, run both answers of held-out pairs under another image too: eval_lift/chosen and rejected
    are what their own image is worth (nats a token), for any loss. Kinds as in processing.other_image; null: do not."""
    pair_log: float = Field(default=1.0, ge=0, le=1)
    """Share of the training pairs in pairs.parquet, the same ones in every epoch and run (by a hash of the id); 0 keeps
    none. Held-out pairs are always kept, and the means of metrics.jsonl are over all pairs."""
    save_total_limit: int | None = Field(default=2, gt=0)
    """Older checkpoints are deleted; null keeps all."""
    report_to: list[str] = []
    """Trackers by the names transformers has for them: tensorboard, wandb, mlflow, ..."""
    samples: Annotated[SamplesSection | None, COUNTED] = None
    """Answer fixed prompts in the course of training, and measure the KL to the reference on answers that are drawn; a
    number of prompts or a mapping switches it on."""
    skip_nonfinite_steps: int = Field(default=0, ge=0)
    """So many updates whose loss or gradient is not finite are left out before the run stops."""
    use_cpu: bool = False
    """Train on the CPU although there is a GPU."""
    extra: Settings = {}
    """Other names of TrainingArguments, as far as this trainer reads them; the rest is refused with the reason."""


class Recipe(Section):
    """One training run, whole."""

    output: PathLike
    """The run folder; it must not hold a run already."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of everything that is drawn: order of pairs, fresh adapters, dropout."""
    cpu_threads: int | None = Field(default=None, gt=0)
    """Threads torch may use on the CPU; null leaves torch's own choice. Sums change in the last digit with it."""
    model: ModelSection
    data: DataSection
    processing: ProcessingSection = ProcessingSection()
    loss: LossSection
    tune: TuneSection = TuneSection()
    adapter: AdapterSection = AdapterSection()
    reference: ReferenceSection = ReferenceSection()
    train: TrainSection
    preflight: bool = True
    """Check on the first pairs that the model sees its images and that both ways of running a pair agree."""
    evals: list[BenchmarkSection] = []
    """Benchmarks that mmpref sweep asks the model of every cell, and mmpref sample round those of the rounds where
    sample.evals is empty; mmpref train does not read them."""
    sample: SampleSection | None = None
    """How mmpref sample round makes pairs with the model itself, and evaluates it; mmpref train does not read it."""

    @property
    def samples_name_reference(self) -> bool:
        """Whether a reference model is asked for that answers of ``train.samples`` are compared with, even if the loss
        compares with none."""
        samples = self.train.samples
        return samples is not None and samples.kl > 0 and self.reference.kind not in ("auto", "cache")

    @model_validator(mode="after")
    def _nothing_left_over(self, info: ValidationInfo) -> Self:
        context = info.context or {}
        if not context.get("unchecked"):
            refuse_left_over(self, later=context.get("later"), after=context.get("after"))
        return self
