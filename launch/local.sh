#!/usr/bin/env bash
# One run in several processes on this machine, over loopback: to try what a cluster does, or a process for each GPU.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: launch/local.sh --processes=N [OPTION...] -- --config=CONFIG [--workdir=DIR] [--config.key=value...]

Starts `python -m maskdiff_jax.main` N times with what follows --, as one run. Process 0 writes here, the others into
files. Ctrl-C and SIGTERM reach all of them as SIGTERM, on which they save the same step and end; a second one kills.
When one fails, the others are ended too, and its exit status is that of this command.

  --processes=N             number of processes
  --devices-per-process=K   devices of each [all GPUs in equal shares; without GPUs, 1 virtual CPU device]
  --port=PORT               port of process 0 on 127.0.0.1 [a free one]
  --logs=DIR                folder of process_1.log, process_2.log, ... [a new one in $TMPDIR]
  --dry-run                 print the commands, run nothing
  --help                    this text

GPUs are those of CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists; none with JAX_PLATFORMS=cpu.
PYTHON names the interpreter [python].
EOF
}

fail() {
    echo "error: $1" >&2
    exit 2
}

show() { # show WORD...: as a command that can be pasted
    local word words=()
    for word; do
        [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
        words+=("$word")
    done
    echo "${words[*]}"
}

whole() { # whole NAME VALUE: a whole number of at least 1
    [[ $2 =~ ^[1-9][0-9]{0,4}$ ]] || fail "$1=$2: must be a whole number of at least 1"
}

python=${PYTHON:-python} processes='' devices='' port='' logs='' dry=''
while (($#)); do
    case $1 in
    --processes=*) processes=${1#*=} ;;
    --devices-per-process=*) devices=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    --logs=*) logs=${1#*=} ;;
    --dry-run) dry=1 ;;
    --help)
        usage
        exit
        ;;
    --) break ;;
    *) fail "unknown option $1: see launch/local.sh --help; options of the trainer come after --" ;;
    esac
    shift
done
[[ $processes ]] || fail "--processes=N is missing: see launch/local.sh --help"
whole --processes "$processes"
[[ ! $devices ]] || whole --devices-per-process "$devices"
(($# > 1)) || fail "nothing to run: give the trainer's options after --, as in -- --config=configs/digits_sparse.py"
shift

gpus=()
if [[ ${JAX_PLATFORMS:-} != cpu ]]; then
    listed=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)}
    read -ra gpus <<<"${listed//[,$'\n']/ }"
fi
share=${devices:-1}
if ((${#gpus[@]})); then
    share=${devices:-$((${#gpus[@]} / processes))}
    ((share > 0 && share * processes <= ${#gpus[@]})) ||
        fail "${#gpus[@]} GPUs do not suffice for $processes processes${devices:+ with $devices each}"
fi

if [[ $port ]]; then
    whole --port "$port"
else # below the range from which the system gives out ports by itself
    port=$((20000 + RANDOM % 12000))
    while (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((20000 + RANDOM % 12000)); done
fi

if [[ ! $dry ]]; then
    logs=${logs:-$(mktemp -d "${TMPDIR:-/tmp}/maskdiff.XXXXXX")}
    mkdir -p "$logs"
    ((processes == 1)) || echo "process 0 of $processes writes here, the others into $logs/process_*.log"
fi

set -m # each process in a group of its own: the terminal's Ctrl-C comes here alone
running=() status=0 signals=0

end() { # end SIGNAL: to all that still run, and for KILL to what they have started
    local pid
    for pid in "${running[@]}"; do
        [[ $1 != KILL ]] || pid=-$pid
        kill "-$1" -- "$pid" 2>/dev/null || true
    done
}
trap 'if ((signals++)); then end KILL; else end TERM; fi' INT TERM HUP

for ((i = 0; i < processes; i++)); do
    command=(env "JAX_COORDINATOR_ADDRESS=127.0.0.1:$port" "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$i")
    if ((${#gpus[@]})); then
        own=$(IFS=, && echo "${gpus[*]:i*share:share}")
        command+=("CUDA_VISIBLE_DEVICES=$own")
    else
        command+=("JAX_NUM_CPU_DEVICES=$share")
    fi
    command+=("$python" -m maskdiff_jax.main "$@")
    log=${logs:-LOGS}/process_$i.log
    if [[ $dry ]]; then
        echo "$(show "${command[@]}")$( ((i == 0)) || echo " >$log 2>&1")"
    elif ((i == 0)); then
        "${command[@]}" </dev/null &
        running+=($!)
    else
        "${command[@]}" </dev/null >"$log" 2>&1 &
        running+=($!)
    fi
done
((!signals)) || end TERM # one that came before all had started

deadline=''
while ((${#running[@]})); do
    sleep 0.2 &
    wait $! || true # which a signal interrupts
    left=()
    for pid in "${running[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then
            left+=("$pid")
            continue
        fi
        ended=0
        wait "$pid" 2>/dev/null || ended=$?
        if ((ended && !status)); then
            status=$ended deadline=$((SECONDS + 30))
            ((signals)) || echo "error: a process ended with status $ended, so the others are ended; logs in $logs" >&2
            end TERM
        fi
    done
    running=("${left[@]}")
    [[ ! $deadline ]] || ((SECONDS < deadline)) || end KILL
done
exit "$status"
