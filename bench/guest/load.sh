#!/bin/bash
# Mixed load inside the Debian guest, started by bench/mixed_load.py:  load.sh FOLDER HOST PORT
# Each worker loops until FOLDER/stop exists, counts its rounds in FOLDER/NAME, and writes what is wrong to
# FOLDER/errors.
folder=$1 host=$2 port=$3
mkdir -p "$folder"
cd "$folder" || exit 1

wrong() { echo "$(cut -d' ' -f1 /proc/uptime) $*" >>errors; }

worker() { # worker NAME FUNCTION ARGUMENT…
  local name=$1 rounds=0
  shift
  while [[ ! -e stop ]]; do
    "$@" || wrong "$name: round $rounds failed"
    rounds=$((rounds + 1))
    echo "$rounds" >"$name.new" && mv "$name.new" "$name"
  done
}

# The same computation must give the same result every time.
processor() {
  local sum
  sum=$(seq 1 30000 | sha256sum)
  [[ $sum == "$(<expected.processor)" ]] || { wrong "processor: $sum"; return 1; }
}

disk() { # a file of its own per worker; dropping caches makes the second pass read the disk
  local file=data.$1 sum
  sum=$(head -c 8M /dev/urandom | tee "$file" | sha256sum) || return 1
  sync "$file" || return 1
  echo 3 >/proc/sys/vm/drop_caches
  [[ $(sha256sum <"$file") == "$sum" ]] || { wrong "disk: the file reads back differently"; return 1; }
}

network() { # the server sends 1 MiB that ends in its own checksum, then takes the data back and says whether it agrees
  local answer
  exec 3<>"/dev/tcp/$host/$port" || { wrong "network: cannot connect"; return 1; }
  head -c 1048576 <&3 >net.data
  cat net.data >&3
  read -r -t 120 answer <&3
  exec 3>&-
  [[ $answer == same ]] || { wrong "network: the host answered '$answer'"; return 1; }
}

timers() { # twenty short sleeps: never early, and none that gets stuck
  local before after
  before=$(date +%s%N)
  for _ in {1..20}; do sleep 0.05; done
  after=$(date +%s%N)
  ((after - before >= 1000000000)) || { wrong "timers: 20 sleeps of 50 ms took $(((after - before) / 1000000)) ms"; return 1; }
  ((after - before < 60000000000)) || { wrong "timers: 20 sleeps of 50 ms took $(((after - before) / 1000000)) ms"; return 1; }
}

seq 1 30000 | sha256sum >expected.processor
worker processor-1 processor &
worker processor-2 processor &
worker disk-1 disk 1 &
worker network-1 network &
worker timers-1 timers &
wait
