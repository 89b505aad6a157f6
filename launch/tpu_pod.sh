#!/usr/bin/env bash
# A run on a Cloud TPU slice: creates the slice, installs the committed code on all its hosts, trains, and does so again
# after a preemption, until the run is finished.
set -euo pipefail

usage() {
    cat <<'EOF'
Usage: launch/tpu_pod.sh --name=NAME --zone=ZONE --accelerator-type=TYPE --version=VERSION [OPTION...]
           -- --config=CONFIG --workdir=/DIR [--config.key=value...]

Creates the Cloud TPU slice NAME unless it is there, sends it what is committed here (git archive of HEAD), installs
that with '.[tpu]', starts `python -m maskdiff_jax.main` with what follows -- on every host and shows its output. A slice
that is preempted is deleted and created again, and the run goes on, until WORKDIR/report.json is there.

WORKDIR must be one directory for all hosts that outlives the slice: NFS (Filestore), or a bucket mounted with gcsfuse;
gs:// paths are not supported. Mount it with --setup, which runs on every host before each start.

Ctrl-C ends the watching, not the run: the same command watches it again. SIGTERM on the hosts saves and ends it:
  gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command='pkill -TERM -f [m]askdiff_jax.main'

  --accelerator-type=TYPE   as v5litepod-16, v5p-32, v6e-16, v4-32
  --version=VERSION         runtime: v2-alpha-tpuv5-lite (v5e), v2-alpha-tpuv5 (v5p), v2-alpha-tpuv6e (v6e),
                            tpu-ubuntu2204-base (v4 and older). TPU7x is for GKE: see launch/gke_jobset.yaml
  --project=PROJECT         [gcloud's own]
  --spot                    preemptible capacity
  --create=ARGUMENT         one more argument of gcloud's create, as --create=--subnetwork=NAME; may be repeated
  --setup=COMMAND           as 'mountpoint -q /runs || sudo mount 10.0.0.2:/runs /runs'
  --restarts=N              give up after so many restarts [20]
  --dry-run                 print the commands, run nothing
  --help                    this text

The slice stays until you delete it. gcloud reaches several hosts through ssh-agent: ssh-add ~/.ssh/google_compute_engine
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

name='' zone='' type='' version='' common=() create=() setup='' restarts=20 dry=''
while (($#)); do
    case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --accelerator-type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) common+=("$1") ;;
    --spot) create+=("$1") ;;
    --create=*) create+=("${1#*=}") ;;
    --setup=*) setup=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    --dry-run) dry=1 ;;
    --help)
        usage
        exit
        ;;
    --) break ;;
    *) fail "unknown option $1: see launch/tpu_pod.sh --help; options of the trainer come after --" ;;
    esac
    shift
done
[[ $name ]] || fail "--name=NAME of the slice is missing"
[[ $zone ]] || fail "--zone=ZONE is missing"
[[ $type ]] || fail "--accelerator-type=TYPE is missing, as v5litepod-16"
[[ $version ]] || fail "--version=VERSION of the runtime is missing, as v2-alpha-tpuv5-lite"
[[ $restarts =~ ^[0-9]+$ ]] || fail "--restarts=$restarts: must be a whole number"
(($# > 1)) || fail "nothing to run: give the trainer's options after --"
shift

workdir='' mode=train
for argument; do
    case $argument in
    --workdir=*) workdir=${argument#*=} ;;
    --mode=*) mode=${argument#*=} ;;
    esac
done
[[ $workdir ]] || fail "--workdir=/DIR is missing among the trainer's options"
[[ $workdir == /* ]] || fail "--workdir=$workdir: must be an absolute path of a directory that all hosts mount; gs:// is not supported"
common+=("--zone=$zone")

run() { if [[ $dry ]]; then show "$@"; else "$@"; fi; }
tpu() { run gcloud compute tpus tpu-vm "$1" "$name" "${common[@]}" "${@:2}"; }
state() { gcloud compute tpus tpu-vm describe "$name" "${common[@]}" --format='value(state)' 2>/dev/null || echo ABSENT; }

# What the hosts run. Ubuntu 22.04 of the TPU images has Python 3.10, so uv brings a newer one. A host that is training
# is left alone: gcloud repeats a command whose connection was lost, and must then find the run, not start another.
busy='flock -n 9 || exit 0'
install="mkdir -p maskdiff && cd maskdiff && exec 9>lock && { $busy; } && rm -rf code && mkdir code"
install+=' && tar -xzf ../maskdiff.tar.gz -C code && python3 -m pip install --user --quiet --upgrade uv'
install+=' && ~/.local/bin/uv venv --quiet --clear --seed --python=3.12 venv && venv/bin/pip install --quiet "./code[tpu]"'
trainer="nohup ../venv/bin/python -m maskdiff_jax.main --coordinator=auto ${*@Q}"
train="cd maskdiff && ( $busy; echo 255 >status; : >log; (cd code; $trainer; echo \$? >../status) >log 2>&1 </dev/null & ) 9>lock"
train+="; tail -n +1 -f log & flock lock true; sleep 1; kill \$!; exit \$(cat status)"

provide() { # wait for the slice, making it where it is not there
    while :; do
        now=$(state)
        case $now in
        READY) return ;;
        ABSENT)
            tpu create --accelerator-type="$type" --version="$version" "${create[@]}" || {
                ((started)) || exit 1 # gcloud has said why
                sleep 60              # the capacity that was taken away is not yet back
            }
            ;;
        PREEMPTED | TERMINATED) tpu delete --quiet ;;
        STOPPED | UNKNOWN) fail "the slice $name is $now: delete it, or start it" ;;
        *) sleep 30 ;;
        esac
    done
}

prepare() {
    run gcloud compute tpus tpu-vm scp "$archive" "$name:maskdiff.tar.gz" "${common[@]}" --worker=all
    tpu ssh --worker=all --command="$install"
    [[ ! $setup ]] || tpu ssh --worker=all --command="$setup"
}

finished() { tpu ssh --worker=0 --command="test -s ${workdir@Q}/report.json"; }

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [[ $dry ]]; then
    archive=maskdiff.tar.gz
    show git archive --format=tar.gz --output="$archive" HEAD
    tpu create --accelerator-type="$type" --version="$version" "${create[@]}"
    prepare
    tpu ssh --worker=all --command="$train"
    finished
    exit
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
archive=$folder/maskdiff.tar.gz
git archive --format=tar.gz --output="$archive" HEAD
git diff --quiet HEAD || echo "note: changes that are not committed are not sent" >&2

for ((started = 0; started <= restarts; started++)); do
    provide
    status=0
    { prepare && tpu ssh --worker=all --command="$train"; } || status=$?
    [[ $mode == train ]] || exit "$status"
    ((!status)) || sleep 60 # a preemption is known only after its connections are lost
    if [[ $(state) == READY ]]; then
        if ((status)); then
            echo "error: the run failed with exit status $status" >&2
            exit "$status"
        fi
        if finished; then
            echo "finished: $workdir/report.json; the slice $name is still there"
            exit
        fi
    fi
    echo "the run was interrupted: restart $((started + 1)) of $restarts" >&2
done
echo "error: interrupted more than $restarts times" >&2
exit 1
