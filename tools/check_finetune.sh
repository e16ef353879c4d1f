#!/usr/bin/env bash
# How lora finetune ends: what is refused before it begins, output that is lost, signals.
#   check_finetune.sh LORA FOLDER      from the repository's root; FOLDER is made anew
set -uo pipefail
program=$1 folder=$2
rm -rf "$folder"
mkdir -p "$folder"
fault() { echo "check_finetune: $*" >&2; exit 1; }

# run CODE OUTPUT [OPTION...]: finetune with that output, expecting that exit code.
run() {
  local expected=$1 output=$2 code=0
  shift 2
  "$program" finetune --config examples/data/finetune.json --output "$output" --samples 0 --quiet "$@" \
    > "$folder/out" 2> "$folder/err" || code=$?
  [ "$code" = "$expected" ] || fault "$*: exit status $code, expected $expected: $(cat "$folder/err")"
}
said() { grep -qF -- "$1" "$folder/${2:-err}" || fault "expected '$1', got: $(cat "$folder/${2:-err}")"; }

bad=$folder/$'\xff\xfe'
run 2 "$bad"
said "output is "
said "which is not UTF-8"
[ ! -e "$bad" ] || fault "the refused folder was made"

run 2 "$folder/threads" --threads 100000
said "threads is 100000, expected 0 to 1024"
[ ! -e "$folder/threads" ] || fault "a folder was made for a run that was refused"

# A file of data may have any name.
cp examples/data/instructions.json "$folder/"$'\xe4.json'
run 0 "$folder/data" --data "$folder/"$'\xe4.json' --max-steps 1 --eval-strategy no --validation-share 0

# A run in which every loss is not a number does not end as a success.
run 2 "$folder/infinite" --r 1 --lora-alpha 3e38 --max-steps 2 --eval-strategy no --validation-share 0
said "nothing was learned: loss or gradient was not finite in every step"
[ -e "$folder/infinite/adapter_model.safetensors" ] || fault "the adapter of a run without a step is missing"

if [ -e /dev/full ]; then
  code=0
  "$program" finetune --config examples/data/finetune.json --output "$folder/full" --samples 0 --quiet \
    --max-steps 1 > /dev/full 2> "$folder/err" || code=$?
  [ "$code" = 2 ] || fault "lost output: exit status $code, expected 2"
  said "standard output: could not be written completely"
  [ -e "$folder/full/adapter_model.safetensors" ] || fault "lost output lost the adapter too"
fi

# begin OUTPUT [COMMAND...]: a long run in the background, begun by that command, in its first steps.
begin() {
  local output=$1
  shift
  rm -f "$folder/err"  # the lines of the run before
  "$@" "$program" finetune --config examples/data/finetune.json --output "$output" --samples 0 --max-steps 100000 \
    --logging-steps 1 > "$folder/out" 2> "$folder/err" &
  process=$!
  until_step 1
}
# Waits for that many lines of steps, or for the end of the run.
until_step() {
  local tries
  for ((tries = 0; tries < 600; tries++)); do
    [ "$(grep -cs "^step " "$folder/err")" -ge "$1" ] 2> /dev/null && break
    kill -0 $process 2> /dev/null || break
    sleep 0.1
  done
}

# A signal ends the run after the step, with a checkpoint and 128 + its number. Without job control
# bash starts what is in the background with SIGINT ignored, and whoever started this script may have
# had it ignored as well.
default=(env --default-signal=INT,TERM,HUP)
"${default[@]}" true 2> /dev/null || { default=(env) && set -m; }
for signal in INT TERM HUP; do
  output=$folder/$signal code=0
  begin "$output" "${default[@]}"
  kill -s $signal $process || fault "SIG$signal: the run had ended: $(cat "$folder/err")"
  wait $process || code=$?
  [ "$code" = $((128 + $(kill -l $signal))) ] || fault "SIG$signal: exit status $code: $(cat "$folder/err")"
  said "stopped by signal $(kill -l $signal) after step " out
  compgen -G "$output/checkpoints/checkpoint-*/trainer_state.json" > /dev/null ||
    fault "SIG$signal: no checkpoint"
  [ -e "$output/adapter_model.safetensors" ] || fault "SIG$signal: no adapter"
  [ ! -e "$output/merged" ] || fault "SIG$signal: a half-trained model was merged"
done

# A signal that was ignored at the beginning, as nohup does it, ends nothing.
ignoring() { trap '' INT HUP && exec "$@"; }
code=0
begin "$folder/ignored" ignoring
kill -s HUP $process && kill -s INT $process || fault "ignored signals: the run had ended: $(cat "$folder/err")"
until_step $(($(grep -c "^step " "$folder/err") + 3))
kill -s TERM $process || fault "ignored signals: they ended the run: $(cat "$folder/err")"
wait $process || code=$?
[ "$code" = 143 ] || fault "ignored signals: exit status $code, expected 143: $(cat "$folder/err")"
said "stopped by signal 15 after step " out

step=$(sed -n 's/.*"global_step": \([0-9]*\).*/\1/p' "$folder"/TERM/checkpoints/checkpoint-*/trainer_state.json | head -1)
run 0 "$folder/TERM" --max-steps $((step + 1)) --resume-from-checkpoint last
echo "finetune ends as it should"
