# shellcheck shell=bash
# Progress on stderr for the scripts of this repository: `step` runs a quiet command under a title,
# shows how long it has been running, and shows the end of its log when it fails.
# Source it; it sets nothing but the functions below.

if [[ -t 2 && ${TERM:-dumb} != dumb ]]; then UI_TTY=1; else UI_TTY=; fi

say() { printf '%s\n' "$*" >&2; }
die() { printf '%s\n' "$*" >&2; exit 1; }

# as_root COMMAND…: through sudo unless we already are root.
as_root() {
  if [[ $(id -u) == 0 ]]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "This step needs root: '$*'. Run it as root, or install sudo."
  fi
}

# step TITLE COMMAND…: runs COMMAND with its output in a log file. One line per step; its time at the end.
step() {
  local title=$1; shift
  local log_folder=${OSTLER_LOGS:-${TMPDIR:-/tmp}/ostler-logs-$(id -u)} log start=$SECONDS pid status=0 next
  mkdir -p "$log_folder"
  log=$log_folder/$(tr -cs 'a-zA-Z0-9' '-' <<<"$title" | sed 's/-*$//').$$.log
  "$@" >"$log" 2>&1 </dev/null &
  pid=$!
  next=30
  [[ $UI_TTY ]] || printf '%s …\n' "$title" >&2
  while kill -0 "$pid" 2>/dev/null; do
    if [[ $UI_TTY ]]; then
      printf '\r\033[K%s … %ds' "$title" $((SECONDS - start)) >&2
    elif ((SECONDS - start >= next)); then
      printf '%s … %ds so far\n' "$title" $((SECONDS - start)) >&2
      next=$((next + 30))
    fi
    sleep 0.2
  done
  wait "$pid" || status=$?
  [[ $UI_TTY ]] && printf '\r\033[K' >&2
  if ((status)); then
    say "$title: failed with status $status after $((SECONDS - start))s; the end of $log:"
    tail -n 40 "$log" | sed 's/^/  | /' >&2
    return "$status"
  fi
  say "$title: done in $((SECONDS - start))s"
  rm -f "$log"
}
