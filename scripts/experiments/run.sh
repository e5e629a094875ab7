#!/usr/bin/env bash
# Every training behind docs/experiments.md and the README's first figure, then their tables and figures anew:
#
#   bash scripts/experiments/run.sh [FOLDER]        # FOLDER: experiments
#
# Some 410 small trainings and evaluations, each about 20 seconds of one CPU core. Stopped at any time, the same command
# goes on where it was; what is complete is not run again.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-$here/../../.venv/bin/python}
mmpref() { "$python" -m mmpref "$@"; }
sweep() { mmpref sweep scripts/experiments/demo.yaml "$@"; }

mkdir -p "${1:-experiments}/scripts"
cd "${1:-experiments}"
[ -e scripts/experiments ] || ln -s "$here" scripts/experiments
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

# the worlds and the start models of three seeds, and the same pairs with other shares of swapped labels
for seed in 0 1 2; do
  [ -f demos/seed_$seed/report.html ] || mmpref demo --seed $seed --out demos/seed_$seed  # it would begin anew
  "$python" scripts/experiments/noisy_pairs.py --demo demos/seed_$seed --noise 0 20 40
done

# on-policy pairs of each start model: four captions a prompt, scored by known objects, as long on both sides
for seed in 0 1 2; do
  world=demos/seed_$seed/world pairs=on_policy_pairs/seed_$seed
  [ -f $pairs/pairs/step.json ] && continue
  mmpref sample generate --model demos/seed_$seed/runs/habit/model --prompts $world/prompts.jsonl --image-root $world \
    --n 4 --max-new-tokens 48 --batch-size 64 --cpu-threads 1 --seed $((seed * 1000)) --out $pairs/candidates
  mmpref sample score $pairs/candidates --scorer objects objects.truth=$world/prompts_objects.json \
    objects.synonyms=$world/synonyms.txt --out $pairs/scored
  mmpref sample pair $pairs/scored --out $pairs/pairs --balance-length
done

SFT='SFT on chosen: loss.name=sft'
DPO='DPO: loss.name=dpo loss.beta=0.1'
UNI='Uni-DPO: loss.name=uni_dpo loss.uni.tau_good=2.5'
ADA='AdaDPO: loss.name=adadpo loss.beta=0.1'
SPLIT='AdaDPO split: loss.name=adadpo_split loss.beta=0.1'

# label noise
sweep 'data.train=demos/seed_{seed}/world/pairs_noise_{noise}.jsonl' --grid noise=0,20,40 --grid seed=0,1,2 \
  --arm "$SFT" --arm "$DPO" --arm "$UNI" --arm "$ADA" --out noise

# on-policy pairs; tau_good is the median of the chosen answers' scores there
sweep 'data.train=on_policy_pairs/seed_{seed}/pairs/pairs.jsonl' --grid seed=0,1,2 \
  --arm "$SFT" --arm "$DPO" --arm 'Uni-DPO: loss.name=uni_dpo loss.uni.tau_good=median' --arm "$ADA" --out on_policy

# learning rates
sweep --grid train.learning_rate=6e-5,2e-4,6e-4 --grid seed=0,1,2 \
  --arm "$SFT" --arm "$DPO" --arm "$UNI" --arm "$ADA" --arm "$SPLIT" --out learning_rate

# what is asked in the sweeps below: captions only
captions='evals=[{benchmark: chair, questions: demos/seed_{seed}/world/chair_objects.json, max_new_tokens: 48, batch_size: 64, options: {synonyms: demos/seed_{seed}/world/synonyms.txt, prompts: demos/seed_{seed}/world/chair_prompts.jsonl}}]'

# Uni-DPO without its parts, at 40 % swapped labels
sweep 'data.train=demos/seed_{seed}/world/pairs_noise_{noise}.jsonl' --grid noise=40 --grid seed=0,1,2 \
  --arm 'without w_qual: loss.name=uni_dpo loss.uni.tau_good=2.5 loss.uni.eta=null' \
  --arm 'without w_perf: loss.name=uni_dpo loss.uni.tau_good=2.5 loss.uni.perf_mode=none' \
  --arm 'without c-NLL: loss.name=uni_dpo loss.uni.nll_lambda=0' --out uni_dpo_parts

# AdaDPO's ceiling and exponents, at a rate at which its coefficient moves, and at the demo's
for rate in 2e-4 6e-5; do
  sweep "$captions" --grid train.learning_rate=$rate --grid seed=0,1,2 \
    --arm 'ceiling 1.5: loss.name=adadpo loss.beta=0.1 loss.ada.clip=1.5' \
    --arm 'ceiling 3: loss.name=adadpo loss.beta=0.1 loss.ada.clip=3' \
    --arm 'ceiling 5: loss.name=adadpo loss.beta=0.1 loss.ada.clip=5' \
    --arm 'ceiling 10: loss.name=adadpo loss.beta=0.1 loss.ada.clip=10' \
    --arm 'alpha_w 0.5, alpha_l 1: loss.name=adadpo loss.beta=0.1 loss.ada.alpha_w=0.5' \
    --arm 'alpha_w 1, alpha_l 0.5: loss.name=adadpo loss.beta=0.1 loss.ada.alpha_l=0.5' \
    --arm 'alpha_w 2, alpha_l 1: loss.name=adadpo loss.beta=0.1 loss.ada.alpha_w=2' \
    --arm 'alpha_w 1, alpha_l 2: loss.name=adadpo loss.beta=0.1 loss.ada.alpha_l=2' \
    --arm 'alpha_w 0.5, alpha_l 0.5: loss.name=adadpo loss.beta=0.1 loss.ada.alpha_w=0.5 loss.ada.alpha_l=0.5 loss.ada.share=1' \
    --arm 'alpha_w 2, alpha_l 2: loss.name=adadpo loss.beta=0.1 loss.ada.alpha_w=2 loss.ada.alpha_l=2' \
    --out adadpo_parts_$rate
done

# beta against the learning rate; Uni-DPO's beta is ten times as large, as its log-probs are means over tokens
sweep "$captions" --grid beta=0.03,0.1,0.3,1 --grid train.learning_rate=3e-5,6e-5,1.2e-4,2.4e-4 --grid seed=0,1,2 \
  --arm 'DPO: loss.name=dpo loss.beta={beta}' --arm 'AdaDPO: loss.name=adadpo loss.beta={beta}' \
  --arm 'Uni-DPO: loss.name=uni_dpo loss.uni.tau_good=2.5 loss.beta={beta}e1' \
  --arm 'AdaDPO split: loss.name=adadpo_split loss.beta={beta}' --out grid

# another architecture, and answers nearly twice as long: worlds and start models of their own, in folders of their own
variant() { # NAME, options of mmpref demo
  name=$1
  shift
  mkdir -p variants/$name/scripts
  [ -e variants/$name/scripts/experiments ] || ln -s "$here" variants/$name/scripts/experiments
  for seed in 0 1 2; do
    [ -d variants/$name/demos/seed_$seed/runs/habit/model ] ||
      mmpref demo --seed $seed --until start "$@" --out variants/$name/demos/seed_$seed
  done
  (cd variants/$name && sweep --grid train.learning_rate=6e-5,2e-4 --grid seed=0,1,2 \
    --arm "$SFT" --arm "$DPO" --arm "$UNI" --arm "$ADA" --arm "$SPLIT" --out ../../$name)
}
variant qwen2_vl --model qwen2_vl
variant two_themes --themes 2

cd - > /dev/null
"$python" "$here/collect.py" --work "${1:-experiments}"
"$python" "$here/draw.py"
