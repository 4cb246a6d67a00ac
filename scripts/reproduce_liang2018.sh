#!/usr/bin/env bash
# Train every main model on the MovieLens-20M of Liang et al. (2018) and print one table.
#
#     scripts/reproduce_liang2018.sh FOLDER [KEY=VALUE ...]
#     scripts/reproduce_liang2018.sh runs/liang2018 dataset.source=ml-20m.zip threads=16
#
# FOLDER receives a run directory for each model; those that are there already are kept, and an interrupted one is
# carried on. The overrides go to every `recsys-vae train`. MODELS chooses among the models, PYTHON the interpreter.
# The VAEs of the paper train with its code's settings: batches of 500, 200 epochs, Adam at 1e-3, the KL weight
# up to 0.2 at step 40,000 (171 epochs); the paper gives NDCG@100 0.426 for Mult-VAE and 0.419 for Mult-DAE.
set -euo pipefail

if [ $# -lt 1 ] || [[ $1 == -* ]] || [[ $1 == *=* ]]; then
    echo "usage: $0 FOLDER [KEY=VALUE ...]" >&2
    exit 2
fi
folder=$1
shift
python=${PYTHON:-python}
models=${MODELS:-ease edlae rdlae mult_vae mult_dae rec_vae hybrid}
mkdir -p "$folder"

runs=()
for model in $models; do
    run=$folder/$model
    runs+=("$run")
    if [ -d "$run" ]; then
        continue
    fi
    settings=()
    case $model in
        mult_vae | mult_dae)
            settings+=(trainer.batch_size=500 trainer.max_epochs=200 trainer.patience=200)
            settings+=(trainer.optimiser.lr=1e-3 trainer.learning_rate_schedule.final_factor=1.0)
            ;;
    esac
    if [ "$model" = mult_vae ]; then
        settings+=(trainer.kl_schedule.epochs=171)
    fi
    # What the caller sets comes in place of these.
    kept=()
    for setting in ${settings[@]+"${settings[@]}"}; do
        [[ " $* " == *" ${setting%%=*}="* ]] || kept+=("$setting")
    done
    if [ -d "$run.partial" ]; then
        kept+=(resume=true)
    fi
    "$python" -m recsys_vae train experiment=ml20m_liang2018 "model=$model" "run=$run" \
        ${kept[@]+"${kept[@]}"} "$@"
done
"$python" "$(dirname "$0")/runs_table.py" "${runs[@]}"
